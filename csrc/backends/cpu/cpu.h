// What the CPU ops share: the backend struct behind the seam, a shorthand for a threaded loop, and the op tables, one for
// each instruction set. Included by every file of this folder that implements ops.
#ifndef CTOK_CPU_H
#define CTOK_CPU_H

#include "../backend.h"
#include "pool.h"

enum {
    NORM_MAX_SLABS = 64,   // parts of a frame whose statistics are gathered apart; fixed, so threads never change a result
    NORM_MAX_GROUPS = 64   // Limit: of norm_params.groups (the networks use 1 and 32)
};

// Mean and sum of squared deviations of a part of a group.
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

extern const backend_ops ref_ops, generic_ops;
#if defined(__x86_64__)
extern const backend_ops avx2_ops, avx512_ops, avx512bf16_ops;
#elif defined(__aarch64__)
extern const backend_ops neon_ops, neonbf16_ops;
#endif

#endif
