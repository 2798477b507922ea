// The GPUs as the driver tells of them, none of which is started by asking; and whose context a
// thread has. Who calls it: cuda_backend.c.
#ifndef CTOK_CUDA_GPU_H
#define CTOK_CUDA_GPU_H

#include "../backend.h"
#include "heuristics.h"

typedef struct {
    int index, capability;  // 90: compute capability 9.0
    device_limits limits;
    uint64_t total_bytes;
    int driver, runtime;        // CUDA versions: 12080 is 12.8
    char device[16], name[64];  // "cuda:0", "NVIDIA H100 80GB HBM3"
} gpu;

// What GPU number `index` is. CTOK_E_DEVICE where there is none that can be used, with why: no
// driver, one too old for this build, no such GPU, or one that is too old; *out then has as much as
// is known.
ctok_status gpu_find(gpu *out, uint32_t index, ctok_error *error);

// As many as the driver lists; 0 where there is none that serves this build.
uint32_t gpu_count(void);

// How much of its memory is free, as NVIDIA's management library tells without starting the GPU; 0
// where it is not known. Limit: of a part of a GPU (MIG) it is the whole's.
uint64_t gpu_free_bytes(const gpu *g);

bool gpu_has_bf16(const gpu *g);  // mma.sync in bf16, cp.async

// The context of a GPU. A thread's first call of the CUDA runtime starts one on GPU 0, also
// cudaSetDevice(0) "as it was before"; so on threads of others nothing is called before `enter`,
// and `leave` gives the thread what it had, which may be no context.
typedef struct {
    int index;  // of the GPU
    void *own;  // NULL: not known, as the driver does not tell; a thread then keeps this GPU
    int (*get)(void **), (*set)(void *);  // cuCtxGetCurrent, cuCtxSetCurrent
} gpu_context;

// That of GPU `index`, which is the calling thread's.
gpu_context gpu_context_here(int index);
void *gpu_enter(const gpu_context *c);  // what the thread had, for gpu_leave
void gpu_leave(const gpu_context *c, void *before);

#endif
