// Writes the safetensors form: names in order. output.c puts the file in place whole or not at all.
// Ref: https://github.com/huggingface/safetensors, README "Format". Called by runtime/model.c.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "output.h"
#include "reader.h"
#include "safetensors.h"

const char *checkpoint_dtype_name(ctok_dtype dtype) {
    const char *name = "";
    for (int i = 0; i < NUM_DTYPES; i++)
        if (safetensors_dtypes[i].dtype == dtype) name = safetensors_dtypes[i].name;
    return name;
}

// Writes a text as a JSON string. Bytes that are not UTF-8, as a model's name from a path may have,
// become '?', since the reader refuses them.
static void print_string(FILE *out, const char *s) {
    fputc('"', out);
    for (size_t n; *s; s += n ? n : 1) {
        n = text_character((text){s, strlen(s)});
        if (n == 0) fputc('?', out);
        else if ((unsigned char)*s < 0x20) fprintf(out, "\\u%04x", *s);
        else if (*s == '"' || *s == '\\') fprintf(out, "\\%c", *s);
        else fwrite(s, 1, n, out);
    }
    fputc('"', out);
}

static void print_tensor(FILE *out, const checkpoint_tensor *t, uint64_t begin) {
    print_string(out, t->name);
    fprintf(out, ":{\"dtype\":\"%s\",\"shape\":[", checkpoint_dtype_name(t->dtype));
    for (int32_t i = 0; i < t->rank; i++)
        fprintf(out, "%s%lld", i ? "," : "", (long long)t->shape[i]);
    fprintf(out, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)begin,
            (unsigned long long)(begin + tensor_bytes(t)));
}

// The whole header with its length, in memory from malloc. Any failure of the stream is one of
// memory.
static char *make_header(size_t *num_bytes, const checkpoint_tensor *const *tensors,
                         int32_t num_tensors, const checkpoint_metadata *metadata,
                         int32_t num_metadata) {
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

typedef struct {
    output_file *out;
    const checkpoint_watch *watch;
    ctok_status status;  // of the writing
    ctok_error *error;
} writer;

static ctok_status fail_if_cancelled(const writer *w) {
    bool is_cancelled = w->watch && atomic_load(w->watch->cancel);
    return is_cancelled ? ctok_fail(w->error, CTOK_E_CANCELLED, 0, "cancelled while writing")
                        : CTOK_OK;
}

static bool write_piece(void *context, const uint8_t *bytes, size_t num_bytes) {
    writer *w = context;
    w->status = fail_if_cancelled(w);
    if (w->status == CTOK_OK) w->status = output_write(w->out, bytes, num_bytes, w->error);
    return w->status == CTOK_OK;
}

static ctok_status write_tensor(writer *w, const checkpoint_tensor *t) {
    if (!checkpoint_pieces(t, write_piece, w))
        return w->status != CTOK_OK ? w->status : checkpoint_fail_read(t, w->error);
    if (w->watch) atomic_fetch_add(w->watch->steps_done, 1);
    return CTOK_OK;
}

static ctok_status write_file(writer *w, const checkpoint_tensor *const *tensors,
                              int32_t num_tensors, const checkpoint_metadata *metadata,
                              int32_t num_metadata) {
    size_t num_bytes = 0;
    char *header = make_header(&num_bytes, tensors, num_tensors, metadata, num_metadata);
    if (!header)
        return ctok_fail(w->error, CTOK_E_MEMORY, 0, "no memory for the header of %d tensors",
                         num_tensors);
    ctok_status status = output_write(w->out, header, num_bytes, w->error);
    free(header);
    for (int32_t i = 0; status == CTOK_OK && i < num_tensors; i++)
        status = write_tensor(w, tensors[i]);
    if (status == CTOK_OK) status = output_flush(w->out, w->error);
    if (status == CTOK_OK) status = fail_if_cancelled(w);
    return status == CTOK_OK ? output_publish(w->out, w->error) : status;
}

static int compare_names(const void *a, const void *b) {
    return strcmp((*(const checkpoint_tensor *const *)a)->name,
                  (*(const checkpoint_tensor *const *)b)->name);
}

ctok_status safetensors_write(const char *path, const checkpoint_tensor *tensors,
                              int32_t num_tensors, const checkpoint_metadata *metadata,
                              int32_t num_metadata, const checkpoint_watch *watch,
                              ctok_error *error) {
    const checkpoint_tensor **sorted = malloc(((size_t)num_tensors + 1) * sizeof *sorted);
    if (!sorted)
        return ctok_fail(error, CTOK_E_MEMORY, num_tensors, "no memory for %d tensors",
                         num_tensors);
    for (int32_t i = 0; i < num_tensors; i++) sorted[i] = &tensors[i];
    qsort(sorted, (size_t)num_tensors, sizeof *sorted, compare_names);

    output_file out;
    ctok_status status = output_open(&out, path, error);
    if (status == CTOK_OK) {
        writer w = {&out, watch, CTOK_OK, error};
        status = write_file(&w, sorted, num_tensors, metadata, num_metadata);
        output_close(&out);
    }
    free(sorted);
    return status;
}
