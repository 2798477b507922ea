// What the reader and the writer of the safetensors form share: the names of its types.
#ifndef CTOK_CHECKPOINT_SAFETENSORS_H
#define CTOK_CHECKPOINT_SAFETENSORS_H

#include "checkpoint.h"

static const struct {
    const char *name;
    ctok_dtype dtype;
} safetensors_dtypes[] = {{"BOOL", CTOK_BOOL}, {"U8", CTOK_U8},   {"I8", CTOK_I8},
                          {"U16", CTOK_U16},   {"I16", CTOK_I16}, {"I32", CTOK_I32},
                          {"I64", CTOK_I64},   {"F16", CTOK_F16}, {"BF16", CTOK_BF16},
                          {"F32", CTOK_F32},   {"F64", CTOK_F64}};
enum { NUM_DTYPES = sizeof safetensors_dtypes / sizeof *safetensors_dtypes };

static inline uint64_t tensor_bytes(const checkpoint_tensor *t) {
    return (uint64_t)checkpoint_elements(t) * dtype_bytes(t->dtype);
}

#endif
