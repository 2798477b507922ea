// What the CPU ops share: the backend struct behind the seam, a shorthand for a threaded loop, and
// the op tables, one for each instruction set. Included by every file of this folder that
// implements ops.
#ifndef CTOK_CPU_H
#define CTOK_CPU_H

#include "../backend.h"
#include "pool.h"

enum {
    NORM_MAX_SLABS = 64,  // parts of a frame whose statistics are gathered apart; fixed, so threads
                          // never change a result
    NORM_MAX_GROUPS = 64  // Limit: of norm_params.groups (the networks use 1 and 32)
};

// The ops of an instruction set, which cpu_backend.c calls for each step. CTOK_OK, or
// CTOK_E_CANCELLED when b->cancel turned true. Operands as in `step`; past, residual, indices and
// codebook may be NULL.
typedef struct {
    backend_kernels kernels;  // first, so that a backend's kernels are these ops
    ctok_status (*load)(backend *b, float *out, const void *external, void *workspace,
                        const transfer_params *p);
    ctok_status (*store)(backend *b, void *external, const float *in, void *workspace,
                         const transfer_params *p);
    ctok_status (*haar)(backend *b, float *out, const float *in, const haar_params *p);
    ctok_status (*unhaar)(backend *b, float *out, const float *in, const haar_params *p);
    ctok_status (*conv)(backend *b, void *out, const void *in, const void *past,
                        const void *residual, conv_weights w, void *workspace,
                        const conv_params *p);
    ctok_status (*pool)(backend *b, void *out, const void *in, const pool_params *p);
    ctok_status (*norm)(backend *b, void *out, const void *in, const float *scale,
                        const float *offset, const norm_params *p);
    ctok_status (*attention)(backend *b, void *out, const void *q, const void *k, const void *v,
                             void *workspace, const attention_params *p);
    ctok_status (*quantize)(backend *b, int32_t *indices, float *codes, const float *in,
                            const float *codebook, void *workspace, const quantizer_params *p);
    ctok_status (*dequantize)(backend *b, float *codes, const int32_t *indices,
                              const float *codebook, void *workspace, const quantizer_params *p);
} cpu_ops;

// Mean and sum of squared deviations over one part of a group of channels (GroupNorm).
typedef struct {
    double mean, deviations, count;
} norm_moments;

typedef struct {
    backend base;  // first, so that a backend * is a cpu_backend *
    pool *pool;
    uint64_t memory_bytes;  // of the machine, or of the control group where that is less
    norm_moments moments[NORM_MAX_SLABS][NORM_MAX_GROUPS];  // of the norm now running
} cpu_backend;

static inline ctok_status cpu_run(backend *b, int64_t num_tasks, pool_task task, void *context) {
    return pool_run(((cpu_backend *)b)->pool, num_tasks, task, context, b->cancel);
}

extern const cpu_ops ref_ops, generic_ops;
#if defined(__x86_64__)
extern const cpu_ops avx2_ops, avx512_ops, avx512bf16_ops;
#elif defined(__aarch64__)
extern const cpu_ops neon_ops, neonbf16_ops;
#endif

#endif
