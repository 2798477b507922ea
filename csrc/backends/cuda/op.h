// An op as data: what it is, its pointers and its parameters, so that a list of them can be compared with an earlier one and
// started again. Who calls it: cuda_backend.c, replay.c.
#ifndef CTOK_CUDA_OP_H
#define CTOK_CUDA_OP_H

#include <stdatomic.h>

#include "kernels.h"

// For bench/gpu_check, which times what each brings: of OP_GRAPHS (replay.h), OP_MOMENTS (of a norm, in the convolution before),
// OP_TOGETHER (convolutions of one input).
enum { OP_GRAPHS = 1, OP_MOMENTS = 2, OP_TOGETHER = 4 };
extern atomic_uint op_left_out;

typedef enum { CUDA_HAAR, CUDA_UNHAAR, CUDA_CONV, CUDA_POOL, CUDA_NORM, CUDA_ATTENTION, CUDA_QUANTIZE } cuda_op_kind;

typedef struct {
    cuda_op_kind kind;
    const void *pointers[6];  // in the order of the kernel's arguments; NULL where it has fewer
    union {
        haar_params haar;
        conv_params conv;
        pool_params pool;
        norm_params norm;
        attention_params attention;
        quantizer_params quantizer;
    };
} op;

// What kernels need of the device they run on.
typedef struct {
    device_limits limits;
    void *norm_workspace;
    cudaStream_t stream;
} op_device;

// Starts ops[*i] of a list in which nothing but its ops is done between them, and moves on. 0, or the CUDA error of the start.
// A convolution gathers the moments of the norm that follows it, so the one after must be known, or it be the last. `end`: up to
// there, convolutions of one input are started together; the bits are the same.
int op_start(const op *ops, int32_t *i, int32_t end, int32_t num_ops, const op_device *device);

// Whether both start the same kernels on the same memory.
bool op_is_same(const op *a, const op *b);

// Multiplications of one channel by another: what large ops take their time for.
int64_t op_products(const op *o);

#endif
