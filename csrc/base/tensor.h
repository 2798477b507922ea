// Shapes and element types. Letters, everywhere: N batch, T frames, H height, W width, C channels.
// Activations have one layout, NTHWC (C fastest), in float32 or bfloat16. An image is T = 1.
#ifndef CTOK_BASE_TENSOR_H
#define CTOK_BASE_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "../include/ctok.h"

typedef struct {
    int64_t n, t, h, w, c;
} ctok_shape;

static inline int64_t shape_positions(ctok_shape s) { return s.n * s.t * s.h * s.w; }
static inline int64_t shape_elements(ctok_shape s) { return shape_positions(s) * s.c; }

// Bytes of one element of a ctok_dtype; 0 for any other value.
static inline size_t dtype_bytes(ctok_dtype dtype) {
    switch (dtype) {
        case CTOK_U8:
        case CTOK_I8:
        case CTOK_BOOL: return 1;
        case CTOK_U16:
        case CTOK_I16:
        case CTOK_F16:
        case CTOK_BF16: return 2;
        case CTOK_I32:
        case CTOK_F32: return 4;
        case CTOK_I64:
        case CTOK_F64: return 8;
        default: return 0;
    }
}

// The value of a bfloat16, whose bits are the upper half of a float32.
static inline float bf16_value(uint16_t bits) {
    uint32_t whole = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &whole, sizeof value);
    return value;
}

// Rounds a float32 to bfloat16, to nearest with ties to even; NaN stays NaN.
static inline uint16_t bf16_round(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (value != value) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

#endif
