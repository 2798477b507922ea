// What the fuzz targets share: a property that stops the fuzzer where it fails, numbers drawn from
// the input, memory as a file's map. A target is named after the property that it guards; the
// sanitizers guard the rest. Built and run by tests/long.ts with libFuzzer; seeds are in
// corpus/<target>. With CTOK_FUZZ_REPLAY a target is a program that tries the files that it is
// given, for valgrind.
#ifndef CTOK_FUZZ_H
#define CTOK_FUZZ_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../csrc/checkpoint/reader.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t num_bytes);

#define PROPERTY(is_true)                                                                  \
    do {                                                                                   \
        if (!(is_true))                                                                    \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #is_true), abort(); \
    } while (0)

// A failure must have a pinned code of the file or of memory, in the error as well, and say
// something.
static inline void expect_file_error(ctok_status status, const ctok_error *error) {
    PROPERTY(status == CTOK_E_FILE_FORMAT || status == CTOK_E_MEMORY);
    PROPERTY(error->status == status && error->message[0] &&
             memchr(error->message, 0, sizeof error->message));
}

// Every value, so that one that lies outside shows under the sanitizer.
static inline void read_all(const checkpoint *c) {
    for (int32_t i = 0; i < c->num_tensors; i++) {
        const checkpoint_tensor *t = &c->tensors[i];
        int64_t num_elements = checkpoint_elements(t);
        PROPERTY(num_elements >= 0 && num_elements <= (int64_t)1 << 21);  // no tensor of a small
                                                                          // file is large
        void *values = malloc((size_t)num_elements * 8 + 1);
        PROPERTY(values);
        if (dtype_is_float(t->dtype)) checkpoint_read_f32(t, values);
        else checkpoint_read_i64(t, values);
        free(values);
    }
}

#ifdef CTOK_FUZZ_REPLAY
int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        FILE *file = fopen(argv[i], "rb");
        PROPERTY(file && fseek(file, 0, SEEK_END) == 0);
        size_t num_bytes = (size_t)ftell(file);
        uint8_t *bytes = malloc(num_bytes);  // exactly so many, so that a read beyond them shows
        rewind(file);
        PROPERTY(num_bytes == 0 || (bytes && fread(bytes, 1, num_bytes, file) == num_bytes));
        LLVMFuzzerTestOneInput(bytes, num_bytes);
        free(bytes);
        fclose(file);
    }
    return 0;
}
#endif

#endif
