// Starts the kernels of steps: which kernel, in which tile, what is started together and what a
// convolution gathers for the norm behind it. Decided once for a list, by looking ahead. Who calls
// it: replay.c prepares, replay.c and cuda_backend.c start.
#ifndef CTOK_CUDA_OP_H
#define CTOK_CUDA_OP_H

#include "../backend.h"
#include "kernels.h"

// For bench/gpu_check, which times what each brings: of OP_GRAPHS (replay.h), OP_MOMENTS (of a
// norm, in the convolution before), OP_TOGETHER (convolutions of one input). Lists prepared from
// then on go by it. OP_ONLY_TILE times (1 + a conv_tile): every convolution in bf16 gets that tile,
// of those that conv_tile_takes; what the device has no shared memory for is refused by the launch.
enum { OP_GRAPHS = 1, OP_MOMENTS = 2, OP_TOGETHER = 4, OP_ONLY_TILE = 8 };
extern atomic_uint op_left_out;

// What kernels need to know of the device that they run on.
typedef struct {
    device_limits limits;
    void *norm_workspace;
    cudaStream_t stream;
} op_device;

// One launch of a kernel: for one step, or for several convolutions of one input that differ in
// weights alone, as q, k and v do.
typedef struct {
    int32_t first, count;  // of the list's steps
    conv_tile tile;        // of convolutions in bf16
    norm_parts moments;    // a convolution: the parts in which it gathers the moments of the norm
                           // behind it; that norm: those gathered for it. 0: none are
} op_start;

// Looks ahead from step `first`: how many steps are launched together, and with what. The result
// has the same bits as if each step were launched alone.
op_start op_prepare(const step *steps, int32_t first, int32_t num_steps, const op_device *device);

// Starts the kernels of a step; returns 0, or the CUDA error. Steps that read or write the host's
// memory (load, store, dequantize) are not for it: cuda_backend.c runs them, and fetches the
// indices that quantize leaves in its workspace.
int op_run(const step *steps, const op_start *start, const op_device *device);

#endif
