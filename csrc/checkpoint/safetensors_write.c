// Writes the safetensors form: names in order, and the file in place whole or not at all.
// Ref: https://github.com/huggingface/safetensors, README "Format". Called by core/model.c.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "reader.h"
#include "safetensors.h"

static void print_string(FILE *out, const char *s) {
    fputc('"', out);
    for (; *s; s++) {
        if ((unsigned char)*s < 0x20) fprintf(out, "\\u%04x", *s);
        else if (*s == '"' || *s == '\\') fprintf(out, "\\%c", *s);
        else fputc(*s, out);
    }
    fputc('"', out);
}

static void print_tensor(FILE *out, const checkpoint_tensor *t, uint64_t begin) {
    const char *name = "";
    for (int i = 0; i < NUM_DTYPES; i++)
        if (safetensors_dtypes[i].dtype == t->dtype) name = safetensors_dtypes[i].name;
    print_string(out, t->name);
    fprintf(out, ":{\"dtype\":\"%s\",\"shape\":[", name);
    for (int32_t i = 0; i < t->rank; i++) fprintf(out, "%s%lld", i ? "," : "", (long long)t->shape[i]);
    fprintf(out, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)begin, (unsigned long long)(begin + tensor_bytes(t)));
}

// The whole header with its length, in memory from malloc. Any failure of the stream is one of memory.
static char *make_header(size_t *num_bytes, const checkpoint_tensor *const *tensors, int32_t num_tensors,
                         const checkpoint_metadata *metadata, int32_t num_metadata) {
    char *header = NULL;
    FILE *out = open_memstream(&header, num_bytes);
    if (!out) return NULL;
    fwrite("\0\0\0\0\0\0\0", 1, 8, out);
    fputc('{', out);
    if (num_metadata > 0) fputs("\"__metadata__\":{", out);
    for (int32_t i = 0; i < num_metadata; i++) {
        if (i > 0) fputc(',', out);
        print_string(out, metadata[i].key);
        fputc(':', out);
        print_string(out, metadata[i].value);
    }
    if (num_metadata > 0) fputs(num_tensors > 0 ? "}," : "}", out);
    uint64_t begin = 0;
    for (int32_t i = 0; i < num_tensors; i++) {
        if (i > 0) fputc(',', out);
        print_tensor(out, tensors[i], begin);
        begin += tensor_bytes(tensors[i]);
    }
    fputc('}', out);
    for (long used = ftell(out); used > 0 && used % 8 != 0; used++) fputc(' ', out);
    bool has_failed = ferror(out) != 0;
    if (fclose(out) != 0 || has_failed) {
        free(header);
        return NULL;
    }
    uint64_t length = *num_bytes - 8;
    memcpy(header, &length, sizeof length);
    return header;
}

static ctok_status fail_write(ctok_error *error, const char *path, const char *what) {
    int code = errno;
    return ctok_fail(error, CTOK_E_FILE_IO, code, "%.600s: %s: %s", path, what, strerror(code));
}

static bool write_all(int descriptor, const void *bytes, size_t num_bytes) {
    for (const uint8_t *p = bytes; num_bytes > 0;) {
        ssize_t n = write(descriptor, p, num_bytes < 1 << 30 ? num_bytes : 1 << 30);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return false;
        p += n;
        num_bytes -= (size_t)n;
    }
    return true;
}

static ctok_status write_tensor(int descriptor, const char *path, const checkpoint_tensor *t, ctok_error *error) {
    size_t num_bytes = tensor_bytes(t);
    uint8_t *copy = malloc(num_bytes + 1);
    if (!copy) return ctok_fail(error, CTOK_E_MEMORY, (int64_t)num_bytes, "no memory to write tensor %s", string_shown(t->name).s);
    ctok_status status = tensor_copy(t, copy) ? CTOK_OK : checkpoint_fail_read(t, error);
    if (status == CTOK_OK && !write_all(descriptor, copy, num_bytes)) status = fail_write(error, path, "cannot be written");
    free(copy);
    return status;
}

static ctok_status write_file(int descriptor, const char *path, const checkpoint_tensor *const *tensors, int32_t num_tensors,
                              const checkpoint_metadata *metadata, int32_t num_metadata, ctok_error *error) {
    size_t num_bytes = 0;
    char *header = make_header(&num_bytes, tensors, num_tensors, metadata, num_metadata);
    if (!header) return ctok_fail(error, CTOK_E_MEMORY, 0, "no memory for the header of %d tensors", num_tensors);
    ctok_status status = write_all(descriptor, header, num_bytes) ? CTOK_OK : fail_write(error, path, "cannot be written");
    free(header);
    for (int32_t i = 0; status == CTOK_OK && i < num_tensors; i++) status = write_tensor(descriptor, path, tensors[i], error);
    if (status == CTOK_OK && fsync(descriptor) != 0) status = fail_write(error, path, "cannot be flushed");
    return status;
}

// Names beside `path` for a file that is being written: .ctok-HASH-N.tmp, of the name and a number. From malloc, or NULL.
enum { MOST_NAMES = 100 };
static char *temporary_name(const char *path, int number) {
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    uint64_t hash = 14695981039346656037u;  // FNV-1a: the name itself may be as long as a name can be
    for (const char *c = name; *c; c++) hash = (hash ^ (uint8_t)*c) * 1099511628211u;
    char *temporary = NULL;
    if (asprintf(&temporary, "%.*s.ctok-%016llx-%d.tmp", (int)(name - path), path, (unsigned long long)hash, number) < 0) return NULL;
    return temporary;
}

// A new file under the first of these names that is free; *temporary is from malloc.
static int open_temporary(char **temporary, int *number, const char *path) {
    for (*number = 0; *number < MOST_NAMES; ++*number) {
        *temporary = temporary_name(path, *number);
        if (!*temporary) return -1;
        int descriptor = open(*temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (descriptor >= 0 || errno != EEXIST) return descriptor;
        free(*temporary);
        *temporary = NULL;
    }
    return -1;
}

// Removes what earlier writers of `path`, which were killed, have left under the names before `number`.
static void remove_abandoned(const char *path, int number) {
    while (number-- > 0) {
        char *temporary = temporary_name(path, number);
        if (temporary) unlink(temporary);
        free(temporary);
    }
}

static int compare_names(const void *a, const void *b) {
    return strcmp((*(const checkpoint_tensor *const *)a)->name, (*(const checkpoint_tensor *const *)b)->name);
}

ctok_status safetensors_write(const char *path, const checkpoint_tensor *tensors, int32_t num_tensors,
                              const checkpoint_metadata *metadata, int32_t num_metadata, ctok_error *error) {
    const checkpoint_tensor **sorted = malloc(((size_t)num_tensors + 1) * sizeof *sorted);
    if (!sorted) return ctok_fail(error, CTOK_E_MEMORY, num_tensors, "no memory for %d tensors", num_tensors);
    for (int32_t i = 0; i < num_tensors; i++) sorted[i] = &tensors[i];
    qsort(sorted, (size_t)num_tensors, sizeof *sorted, compare_names);

    char *temporary = NULL;
    ctok_status status = CTOK_OK;
    int number, descriptor = open_temporary(&temporary, &number, path);
    if (descriptor < 0) {
        status = fail_write(error, path, "expected a folder where a file can be made, found");
    } else {
        status = write_file(descriptor, path, sorted, num_tensors, metadata, num_metadata, error);
        if (close(descriptor) != 0 && status == CTOK_OK) status = fail_write(error, path, "cannot be closed");
        if (status == CTOK_OK && rename(temporary, path) != 0) status = fail_write(error, path, "cannot be put in place");
        if (status == CTOK_OK) remove_abandoned(path, number);
        else unlink(temporary);
    }
    free(temporary);
    free(sorted);
    return status;
}
