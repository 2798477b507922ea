// quantize and dequantize, of every kind (base/ops.h), for every table; the fast tables only look
// codes up faster (blocked_lookup.inc), and leave it to the float64 steps here which of those that
// look nearest is. This file is compiled without fused steps, so a value next to a boundary falls
// on the same side in every kernel set and on a GPU. Ref: FSQ in reference/cosmos_reference.py,
// Codebook in reference/llamagen_reference.py.
#include <math.h>
#include <string.h>

#include "cpu.h"
#include "ref_ops.h"

enum {
    BLOCK_POSITIONS = 1024,  // of a task
    LOOKUP_POSITIONS = 16    // each is held to every code
};

// The operands and parameters of one op, for the function that does one task of it.
typedef struct {
    int32_t *indices;  // or NULL
    float *codes;
    const int32_t *from;
    const float *in, *codebook;
    const quantizer_params *p;
} quantize_call;

static int64_t last_of(const quantize_call *call, int64_t task, int64_t block) {
    int64_t positions = shape_positions(call->p->shape), end = (task + 1) * block;
    return end < positions ? end : positions;
}

static int64_t num_blocks(const quantizer_params *p, int64_t block) {
    return (shape_positions(p->shape) + block - 1) / block;
}

// ---------------------------------------------------------------- FSQ
static void fsq_block(void *context, int64_t task, int32_t thread) {
    (void)thread;
    const quantize_call *call = context;
    const quantizer_params *p = call->p;
    int64_t d = p->shape.c, end = last_of(call, task, BLOCK_POSITIONS);
    for (int64_t i = task * BLOCK_POSITIONS; i < end; i++) {
        int32_t index = 0;
        for (int64_t c = 0; c < d; c++) {
            float z = call->in[i * d + c];
            int32_t width = p->levels[c] / 2;
            float lowest = (float)-width, highest = (float)(p->levels[c] - 1 - width);
            // tanh in double, rounded once: a value next to a rounding boundary must fall on
            // PyTorch's side of it.
            float bounded =
                (float)tanh((double)(z + p->shift[c])) * p->half_width[c] - p->offset[c];
            float digit = rintf(bounded);
            // Only levels above 1000 reach past their last digit (bounded spans levels * 1.001); an
            // index must not.
            if (digit < lowest) digit = lowest;
            if (digit > highest) digit = highest;
            call->codes[i * d + c] = digit / (float)width;
            // A NaN stays a NaN as a code, and its index has the lowest digit.
            if (digit == digit) index += ((int32_t)digit + width) * p->basis[c];
        }
        if (call->indices) call->indices[i] = index;
    }
}

static void fsq_codes_block(void *context, int64_t task, int32_t thread) {
    (void)thread;
    const quantize_call *call = context;
    const quantizer_params *p = call->p;
    int64_t d = p->shape.c, end = last_of(call, task, BLOCK_POSITIONS);
    for (int64_t i = task * BLOCK_POSITIONS; i < end; i++)
        for (int64_t c = 0; c < d; c++) {
            int32_t width = p->levels[c] / 2, digit = call->from[i] / p->basis[c] % p->levels[c];
            call->codes[i * d + c] = (float)(digit - width) / (float)width;
        }
}

// ---------------------------------------------------------------- LOOKUP
void ref_unit_vector(float *unit, const float *z, int64_t d) {
    double square = 0;
    for (int64_t c = 0; c < d; c++) square += (double)z[c] * z[c];
    double length = fmax(sqrt(square), 1e-12);
    for (int64_t c = 0; c < d; c++) unit[c] = (float)(z[c] / length);
}

void ref_try_code(ref_nearest *nearest, const float *unit, const float *codebook, int64_t k,
                  int64_t d) {
    double distance = 0;
    for (int64_t c = 0; c < d; c++) {
        double gap = (double)unit[c] - codebook[k * d + c];
        distance += gap * gap;
    }
    if (distance < nearest->distance) *nearest = (ref_nearest){distance, (int32_t)k};
}

void ref_put_code(int32_t *index, float *code, ref_nearest nearest, const float *codebook,
                  int64_t d) {
    if (index) *index = nearest.index;
    bool is_found = nearest.distance < INFINITY;
    for (int64_t c = 0; c < d; c++) code[c] = is_found ? codebook[nearest.index * d + c] : NAN;
}

static void lookup_block(void *context, int64_t task, int32_t thread) {
    (void)thread;
    const quantize_call *call = context;
    int64_t d = call->p->shape.c, end = last_of(call, task, LOOKUP_POSITIONS);
    for (int64_t i = task * LOOKUP_POSITIONS; i < end; i++) {
        float *unit = call->codes + i * d;  // until the code takes its place
        ref_nearest nearest = REF_NOTHING_NEAR;
        ref_unit_vector(unit, call->in + i * d, d);
        for (int64_t k = 0; k < call->p->size; k++)
            ref_try_code(&nearest, unit, call->codebook, k, d);
        ref_put_code(call->indices ? call->indices + i : NULL, unit, nearest, call->codebook, d);
    }
}

static void lookup_codes_block(void *context, int64_t task, int32_t thread) {
    (void)thread;
    const quantize_call *call = context;
    int64_t d = call->p->shape.c, end = last_of(call, task, BLOCK_POSITIONS);
    for (int64_t i = task * BLOCK_POSITIONS; i < end; i++)
        memcpy(call->codes + i * d, call->codebook + call->from[i] * d, (size_t)d * sizeof(float));
}

// ---------------------------------------------------------------- SIGN
static void sign_block(void *context, int64_t task, int32_t thread) {
    (void)thread;
    const quantize_call *call = context;
    int64_t d = call->p->shape.c, end = last_of(call, task, BLOCK_POSITIONS);
    for (int64_t i = task * BLOCK_POSITIONS; i < end; i++) {
        uint32_t index = 0;
        for (int64_t c = 0; c < d; c++) {
            float z = call->in[i * d + c];
            call->codes[i * d + c] = z > 0 ? 1.0f : z == z ? -1.0f : z;
            index |= (uint32_t)(z > 0) << c;
        }
        if (call->indices) call->indices[i] = (int32_t)index;
    }
}

static void sign_codes_block(void *context, int64_t task, int32_t thread) {
    (void)thread;
    const quantize_call *call = context;
    int64_t d = call->p->shape.c, end = last_of(call, task, BLOCK_POSITIONS);
    for (int64_t i = task * BLOCK_POSITIONS; i < end; i++)
        for (int64_t c = 0; c < d; c++) {
            bool is_set = (uint32_t)call->from[i] >> c & 1;
            call->codes[i * d + c] = is_set ? 1.0f : -1.0f;
        }
}

// ---------------------------------------------------------------- the ops
ctok_status ref_quantize(backend *b, int32_t *indices, float *codes, const float *in,
                         const float *codebook, void *workspace, const quantizer_params *p) {
    (void)workspace;
    quantize_call call = {
        .indices = indices, .codes = codes, .in = in, .codebook = codebook, .p = p};
    switch (p->kind) {
        case QUANTIZER_FSQ: return cpu_run(b, num_blocks(p, BLOCK_POSITIONS), fsq_block, &call);
        case QUANTIZER_LOOKUP:
            return cpu_run(b, num_blocks(p, LOOKUP_POSITIONS), lookup_block, &call);
        case QUANTIZER_SIGN: return cpu_run(b, num_blocks(p, BLOCK_POSITIONS), sign_block, &call);
        case QUANTIZER_NONE: break;
    }
    return CTOK_E_INTERNAL;
}

ctok_status ref_dequantize(backend *b, float *codes, const int32_t *indices, const float *codebook,
                           void *workspace, const quantizer_params *p) {
    (void)workspace;
    quantize_call call = {.codes = codes, .from = indices, .codebook = codebook, .p = p};
    int64_t blocks = num_blocks(p, BLOCK_POSITIONS);
    switch (p->kind) {
        case QUANTIZER_FSQ: return cpu_run(b, blocks, fsq_codes_block, &call);
        case QUANTIZER_LOOKUP: return cpu_run(b, blocks, lookup_codes_block, &call);
        case QUANTIZER_SIGN: return cpu_run(b, blocks, sign_codes_block, &call);
        case QUANTIZER_NONE: break;
    }
    return CTOK_E_INTERNAL;
}
