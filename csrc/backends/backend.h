// The seam between the network and a device: memory, the packing of weights, and lists of steps.
// Runtime fills a list, each step with its parameters (the structs of base/ops.h; shapes are
// already checked) and its operands by name; a backend computes it. Steps run in order and see each
// other's results. Activations are NTHWC on the backend's memory; T is 1 for images. They are
// float32, or bfloat16 where a parameter struct says so: channels are then a multiple of
// BF16_CHANNELS, sums and everything between load and store are float32, and a result is rounded
// once, to nearest even. Backend memory is a device's: the host neither reads nor writes it but
// through upload, conv_weight_pack and the steps with an external tensor, which is the host's. Work
// may still be under way when `upload` returns; `run` and `finish` wait for it.
// Who calls it: runtime (execute runs lists, engine and weights take memory). Who implements it:
// backends/cpu, backends/cuda.
#ifndef CTOK_BACKEND_H
#define CTOK_BACKEND_H

#include <stdatomic.h>
#include <time.h>

#include "../base/status.h"
#include "../base/ops.h"

enum {
    BACKEND_ALIGNMENT = 64,  // bytes, of every buffer and arena offset
    BF16_CHANNELS = 32  // of a bfloat16 activation, or a multiple: whole vectors in every kernel
                        // set
};

static inline size_t backend_align(size_t bytes) {
    return (bytes + BACKEND_ALIGNMENT - 1) / BACKEND_ALIGNMENT * BACKEND_ALIGNMENT;
}

typedef struct backend backend;

// ---------------------------------------------------------------- steps
typedef enum {
    OP_LOAD,   // the host's memory -> value
    OP_STORE,  // value -> the host's memory
    OP_HAAR,
    OP_UNHAAR,
    OP_CONV,  // value (+ residual value) -> value
    OP_NORM,
    OP_POOL,
    OP_ATTENTION,   // q, k, v -> value
    OP_QUANTIZE,    // value -> codes value, and indices to the host's memory if asked
    OP_DEQUANTIZE,  // the host's memory (indices) -> codes value
    OP_COPY         // bytes within the backend, which may overlap if out < in: what a stream keeps
} op_kind;

typedef union {
    transfer_params transfer;  // load, store
    haar_params haar;          // haar, unhaar
    conv_params conv;
    norm_params norm;
    pool_params pool;
    attention_params attention;
    quantizer_params quantizer;  // quantize, dequantize
    size_t copy_bytes;           // may be 0
} op_params;

// One op of a list. Operands that its kind does not have are NULL. No output may overlap an input
// unless it says so: norm in place; conv with out == residual (not an upsampled one).
typedef struct {
    op_kind kind;
    op_params params;
    const char *layer;  // "encoder.down.0.block.1.conv2"; "" where it has none
    void *out;          // the value that it writes; not of store
    const void *in;     // the value that it reads; attention: q. Not of load, dequantize
    void *external;  // load, dequantize read it; store, quantize (or NULL) write it. Indices are in
                     // range
    const void *past, *residual;  // conv, or NULL
    conv_weights weights;         // conv
    const float *scale, *offset;  // norm
    const void *k, *v;            // attention
    const float *codebook;        // quantize, dequantize, of QUANTIZER_LOOKUP: a unit vector a row
    void *workspace;   // as many bytes as the *_workspace_bytes functions say, contents undefined
    bool is_changing;  // attention, copy: params, k, v, out and in may be others each time that the
                       // list runs, its version the same
} step;

// Multiplications of one channel by another: what large ops take their time for. 0 for ops that
// only move or scale values.
static inline int64_t step_products(const step *s) {
    const conv_params *c = &s->params.conv;
    const attention_params *a = &s->params.attention;
    if (s->kind == OP_CONV)
        return shape_elements(c->out) * c->in.c * c->kernel * c->kernel * c->kernel_t;
    if (s->kind != OP_ATTENTION) return 0;
    return 2 * shape_elements(a->shape) *
           (a->is_temporal ? a->num_past + a->shape.t : a->shape.h * a->shape.w);
}

// A list of steps in running order, with what a backend has prepared for it.
typedef struct {
    step *steps;
    int32_t num_steps;
    uint32_t version;  // another whenever something of the steps has changed, but `external` and
                       // steps that are changing: what is prepared is then made anew
    void *prepared;    // the backend's, NULL to begin with: backend.forget gives it back
} step_list;

// When a step began and ended, in nanoseconds of CLOCK_MONOTONIC.
typedef struct {
    uint64_t start_ns, end_ns;
} step_time;

static inline uint64_t step_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

// What one run of a list of steps reports while it goes on and when it fails.
typedef struct {
    atomic_uint *steps_done;  // one more for each step that is done, or on its way; or NULL
    step_time *times;  // [num_steps], to be filled, each from the end of the one before: a device
                       // then waits for each start, and steps that start together have equal parts
                       // of its time; or NULL
    int32_t first, last;  // once it has failed: the steps of which one did, as near as is known, or
                          // -1: what was before the list. Cancelled: the next step
} step_run;

// What a device has done since it was opened: read on any thread.
typedef struct {
    _Atomic uint64_t num_starts;          // launches, one by one
    _Atomic uint64_t num_graph_launches;  // of many at once
    _Atomic uint64_t num_captures;        // of such graphs, that went well
    _Atomic uint64_t num_refused;         // captures: those steps are launched one by one for good
    _Atomic uint64_t num_waits;           // for room in what is under way; not those for results
} backend_counts;

// ---------------------------------------------------------------- the device
// The kernels of one device and instruction set, chosen once when the engine starts.
typedef struct {
    const char *name;     // "avx512", "generic", "reference", ...
    bool has_bf16;        // takes bfloat16 activations
    bool is_bf16_faster;  // than float32: what precision "auto" goes by

    // Weights of a convolution: OIHW float32 in, the backend's own layout out (conv_weight_bytes,
    // 64-byte aligned). p is the convolution that will read them, but of its shapes only the
    // channels count, and pad_t and offset_t do not. With an input in bfloat16 weights are kept
    // rounded to bfloat16. Taps: kernel x kernel in space (kernel_t 1), or kernel_t in time (kernel
    // 1, weights [O, I, kernel_t]).
    size_t (*conv_weight_bytes)(const backend *b, const conv_params *p);
    void (*conv_weight_pack)(backend *b, void *packed, const float *weight, const conv_params *p);

    // Bytes of scratch memory in the arena that a step needs while it runs; 0 for the ops not
    // listed here.
    size_t (*conv_workspace_bytes)(const backend *b, const conv_params *p);
    size_t (*attention_workspace_bytes)(const backend *b, const attention_params *p);
    size_t (*external_workspace_bytes)(const backend *b,
                                       size_t external_bytes);  // load, store; quantize,
                                                                // dequantize: of the indices
} backend_kernels;

// One task of a parallel loop. thread: 0 .. num_threads - 1.
typedef void (*backend_task)(void *context, int64_t task, int32_t thread);

// Only `free`, `forget`, the *_bytes functions and `memory_bytes` may be called on any thread; the
// rest on the engine's.
struct backend {
    const backend_kernels *kernels;
    // Does every step, and returns when all is done. CTOK_E_CANCELLED, without words, when `cancel`
    // turned true; or CTOK_E_DEVICE, CTOK_E_MEMORY. What the list writes is then undefined.
    ctok_status (*run)(backend *b, step_list *list, step_run *run, ctok_error *error);
    void (*forget)(backend *b, step_list *list);  // what is prepared of a list that does not run
    void (*for_all)(backend *b, int64_t num_tasks, backend_task task,
                    void *context);    // the runtime's own loops: every task once, on all threads
    const char *device, *device_name;  // "cpu", ""; "cuda:0", "NVIDIA H100 80GB HBM3"
    const char *bf16_needs;            // what has_bf16 would take, after "expected"
    void *(*alloc)(backend *b, size_t num_bytes);  // BACKEND_ALIGNMENT-aligned, NULL when there is
                                                   // none; contents undefined
    void *(*grow)(backend *b, void *memory, size_t num_bytes,
                  size_t new_bytes);  // as realloc: NULL leaves the old as it was
    void (*free)(backend *b, void *memory, size_t num_bytes);
    void (*upload)(backend *b, void *to, const void *host,
                   size_t num_bytes);  // the host's memory is free again on return
    // Waits until the device has done all its work. Returns a failure since the last finish that no
    // other function has reported with a message: CTOK_E_DEVICE, CTOK_E_MEMORY. After that the
    // backend can be used again, unless the device is lost.
    ctok_status (*finish)(backend *b, ctok_error *error);
    // Bytes of the memory that holds weights, activations and streams' states: in all, and free now
    // (0: not known).
    void (*memory_bytes)(const backend *b, uint64_t *total, uint64_t *available);
    void (*close)(backend *b);
    // The same device and memory with fewer threads, 1 to num_threads, for one model's plans and
    // ops. It never runs at the same time as `b`, and is closed before it. NULL when there is no
    // memory.
    backend *(*limit)(backend *b, int32_t num_threads);
    const backend_counts *counts;  // of a GPU, or NULL
    bool keeps_arena;  // what is prepared of lists is lost with the memory that they run in: it is
                       // kept while nothing runs, as long as a model is open
    bool (*give_back)(void *giver);  // asked by `alloc` where there is no memory, before it gives
                                     // up: whether some was freed. Or NULL
    void *giver;
    bool is_host_memory;  // external tensors lie in the same memory
    size_t pass_bytes;    // images of a batch are computed together, in one pass over a list, while
                          // their activations take at most this: more would not be faster
    int32_t num_threads;  // that compute; 0 where that is not a number of threads. Constant:
                          // planning reads it on any thread
    const atomic_bool *cancel;  // set for each job; NULL: never. Steps stop soon after it turns
                                // true
};

// Opens the backend of the CPU. kernels: CTOK_KERNELS_*. Errors: CTOK_E_DEVICE (the processor lacks
// them), CTOK_E_THREAD, CTOK_E_MEMORY.
ctok_status cpu_backend_open(backend **out, uint32_t num_threads, uint32_t kernels,
                             ctok_error *error);

// What the CPU is, as an engine would use it with all options on auto.
void cpu_describe(ctok_device_info *out);

// What GPU number `index` is and whether it can be used; it is not started. False where there is
// none of that number, but for the first: it then says why there is none.
bool cuda_describe(ctok_device_info *out, uint32_t index);

// Opens the backend of GPU number `index`. Errors: CTOK_E_DEVICE (this build has no CUDA, there is
// no driver, no such GPU, or it is too old), CTOK_E_MEMORY. A GPU needs compute capability 8.0 for
// bfloat16, and 7.5 otherwise.
ctok_status cuda_backend_open(backend **out, uint32_t index, ctok_error *error);

#endif
