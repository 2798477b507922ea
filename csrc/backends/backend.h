// The seam between the network and a device: memory, weight packing and the ops that the networks are made of. Core fills
// the structs of base/ops.h (shapes are already checked); a backend computes. Ops run in the order called and see each
// other's results. Activations are NTHWC on the backend's memory; T is 1 for images. They are float32, or bfloat16 where a
// parameter struct says so: channels are then a multiple of BF16_CHANNELS, sums and everything between load and store are
// float32, and a result is rounded once, to nearest even.
// Backend memory is a device's: the host neither reads nor writes it but through upload, copy, conv_weight_pack and the ops
// with an external tensor, which is the host's. Work may still be under way when a function returns; `finish` waits for it.
// Who calls it: runtime (program the ops, engine and weights the memory). Who implements it: backends/cpu,
// backends/cuda.
#ifndef CTOK_BACKEND_H
#define CTOK_BACKEND_H

#include <stdatomic.h>

#include "../base/status.h"
#include "../base/ops.h"

enum {
    BACKEND_ALIGNMENT = 64,  // bytes, of every buffer and arena offset
    BF16_CHANNELS = 32       // of a bfloat16 activation, or a multiple: whole vectors in every kernel set
};

static inline size_t backend_align(size_t bytes) { return (bytes + BACKEND_ALIGNMENT - 1) / BACKEND_ALIGNMENT * BACKEND_ALIGNMENT; }

typedef struct backend backend;

// One table for each device and instruction set, chosen once when the engine starts.
typedef struct {
    const char *name;     // "avx512", "generic", "reference", ...
    bool has_bf16;        // takes bfloat16 activations
    bool is_bf16_faster;  // than float32: what precision "auto" goes by

    // Weights of a convolution: OIHW float32 in, the backend's own layout out (conv_weight_bytes, 64-byte aligned). in_dtype is
    // that of the input which the convolution will see; with CTOK_BF16 weights are kept rounded to bfloat16.
    // Taps: kernel x kernel in space (kernel_t 1), or kernel_t in time (kernel 1, weights [O, I, kernel_t]).
    size_t (*conv_weight_bytes)(const backend *b, int64_t c_out, int64_t c_in, int32_t kernel_t, int32_t kernel, ctok_dtype in_dtype);
    void (*conv_weight_pack)(backend *b, void *packed, const float *weight, int64_t c_out, int64_t c_in, int32_t kernel_t, int32_t kernel,
                             ctok_dtype in_dtype);

    // Scratch that the op needs while it runs (0 for the ops not listed); it lies in the arena, contents undefined.
    size_t (*conv_workspace_bytes)(const backend *b, const conv_params *p);
    size_t (*attention_workspace_bytes)(const backend *b, const attention_params *p);
    size_t (*external_workspace_bytes)(const backend *b, size_t external_bytes);  // load, store; quantize, dequantize: of the indices

    // Ops. CTOK_OK; CTOK_E_CANCELLED when b->cancel turned true (the output is then undefined); or what `finish` then explains.
    // codebook: of QUANTIZER_LOOKUP, a unit vector a row, in the backend's memory; else NULL.
    // No output may overlap an input unless it says so: norm in place; conv with out == residual (not an upsampled one).
    // An external tensor is the host's memory: read when load or dequantize returns, written when the next finish returns.
    ctok_status (*load)(backend *b, float *out, const void *external, void *workspace, const transfer_params *p);
    ctok_status (*store)(backend *b, void *external, const float *in, void *workspace, const transfer_params *p);
    ctok_status (*haar)(backend *b, float *out, const float *in, const haar_params *p);
    ctok_status (*unhaar)(backend *b, float *out, const float *in, const haar_params *p);
    ctok_status (*conv)(backend *b, void *out, const void *in, const void *past /* or NULL */, const void *residual /* or NULL */,
                        conv_weights w, void *workspace, const conv_params *p);
    ctok_status (*pool)(backend *b, void *out, const void *in, const pool_params *p);
    ctok_status (*norm)(backend *b, void *out, const void *in, const float *scale, const float *offset, const norm_params *p);
    ctok_status (*attention)(backend *b, void *out, const void *q, const void *k, const void *v, void *workspace,
                             const attention_params *p);
    ctok_status (*quantize)(backend *b, int32_t *indices /* or NULL */, float *codes, const float *in, const float *codebook, void *workspace, const quantizer_params *p);
    ctok_status (*dequantize)(backend *b, float *codes, const int32_t *indices /* in range */, const float *codebook, void *workspace, const quantizer_params *p);
} backend_ops;

// One part of a loop. thread: 0 .. num_threads - 1.
typedef void (*backend_task)(void *context, int64_t task, int32_t thread);

// Only `free`, the *_bytes functions and `memory_bytes` may be called on any thread; the rest on the engine's.
struct backend {
    const backend_ops *ops;
    void (*run)(backend *b, int64_t num_tasks, backend_task task, void *context);  // the runtime's own loops: every task once, on all threads
    const char *device, *device_name;  // "cpu", ""; "cuda:0", "NVIDIA H100 80GB HBM3"
    const char *bf16_needs;            // what has_bf16 would take, after "expected"
    void *(*alloc)(backend *b, size_t num_bytes);  // BACKEND_ALIGNMENT-aligned, NULL when there is none; contents undefined
    void *(*grow)(backend *b, void *memory, size_t num_bytes, size_t new_bytes);  // as realloc: NULL leaves the old as it was
    void (*free)(backend *b, void *memory, size_t num_bytes);
    void (*upload)(backend *b, void *to, const void *host, size_t num_bytes);  // the host's memory is free again on return
    void (*copy)(backend *b, void *to, const void *from, size_t num_bytes);    // within the backend; may overlap if to < from
    // Waits until all is done. A failure since the last finish that its function could not tell, or only by a status, is this
    // one's: CTOK_E_DEVICE, CTOK_E_MEMORY. It then starts afresh, unless the device is lost.
    ctok_status (*finish)(backend *b, ctok_error *error);
    // Of weights, activations and the state of streams: all there is, and what is free now (0: not known).
    void (*memory_bytes)(const backend *b, uint64_t *total, uint64_t *available);
    void (*close)(backend *b);
    // The same device and memory with fewer threads, 1 to num_threads, for one model's plans and ops. It never runs at the same
    // time as `b`, and is closed before it. NULL when there is no memory.
    backend *(*limit)(backend *b, int32_t num_threads);
    bool is_host_memory;        // external tensors lie in the same memory
    int32_t num_threads;        // that compute; 0 where that is not a number of threads. Constant: planning reads it on any thread
    const atomic_bool *cancel;  // set for each job; NULL: never. Ops stop soon after it turns true
};

// kernels: CTOK_KERNELS_*. Errors: CTOK_E_DEVICE (the processor lacks them), CTOK_E_THREAD, CTOK_E_MEMORY.
ctok_status cpu_backend_open(backend **out, uint32_t num_threads, uint32_t kernels, ctok_error *error);

// GPU number `index`. Errors: CTOK_E_DEVICE (this build has no CUDA, there is no driver, no such GPU, or it is too old),
// CTOK_E_MEMORY. In bfloat16 a GPU needs compute capability 8.0, otherwise 7.5.
ctok_status cuda_backend_open(backend **out, uint32_t index, ctok_error *error);

#endif
