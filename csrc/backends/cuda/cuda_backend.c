// A GPU behind backend.h: opens device N, gives its memory, and runs lists of steps on one stream,
// a few marks ahead of what is done, so that a job can be cancelled and its progress told; or a
// part at once, where it has run before (replay.h). External tensors pass through a few pinned
// buffers, copied while the others travel. A lost device gives CTOK_E_DEVICE from then on, and its
// context is gone for the whole process, whoever else used that GPU in it; other GPUs and the CPU
// go on. A build without nvcc has none of it and says so. Linked:
// the static CUDA runtime, which finds the driver itself; there is no dependency where there is no
// GPU.
// Note: over 400 lines: one device's life from the question whether there is one to its loss, a
// section a part.
#include "../backend.h"

#include <stdio.h>

#ifndef CTOK_HAS_CUDA
ctok_status cuda_backend_open(backend **out, uint32_t index, ctok_error *error) {
    (void)out;
    return ctok_fail(error, CTOK_E_DEVICE, index,
                     "cuda:%u: expected a GPU, found a build without CUDA (nvcc was not there, or "
                     "failed, when it was built)",
                     index);
}

bool cuda_describe(ctok_device_info *out, uint32_t index) {
    *out = (ctok_device_info){.device = "cuda"};
    ctok_error error = {.struct_size = sizeof error};
    backend *none;
    cuda_backend_open(&none, index, &error);
    snprintf(out->reason, sizeof out->reason, "%.255s", error.message);
    return index == 0;
}
#else

#include <cuda_runtime_api.h>
#include <stdlib.h>
#include <string.h>

#include "conv_pack.h"
#include "gpu.h"
#include "replay.h"

// The host waits for the device once a mark, as waking up from a wait takes longer than a small op.
// A mark is behind a few small starts or one large one, so that at most NUM_MARKS large ones, or 32
// small, run on after a job is cancelled.
enum { NUM_MARKS = 4, MARK_STARTS = 8 };
static const int64_t MARK_PRODUCTS = (int64_t)1 << 36;  // 0.3 ms at the matrix rate of an H100

// A picture of 1024 x 1024 is six pieces: while one is copied by the host, those before it travel.
enum { NUM_STAGING = 4, STAGING_BYTES = 512 << 10 };

// Of activations that are in memory together: some 40 images of 1024 x 1024 in bf16, which fill
// every device several times over in each layer. More would take memory that others may want.
static const size_t PASS_BYTES = (size_t)4 << 30;

typedef struct {
    backend base;  // first, so that a backend * is a cuda_backend *
    gpu gpu;
    gpu_context context;
    op_device own;  // limits, stream, workspace
    cudaEvent_t marks[NUM_MARKS];
    int32_t mark_steps[NUM_MARKS];        // the first step since the mark before
    uint32_t num_marks;                   // of the list that runs, like the next ones
    uint32_t num_waited;                  // num_marks at the last wait
    int32_t unmarked_step, num_unmarked;  // since the last mark: the first step, how many starts
    int64_t unmarked_products;
    uint64_t start_ns;  // of that list, where its steps are timed
    backend_counts counts;
    struct {
        void *host;  // pinned
        cudaEvent_t is_free;
    } staging[NUM_STAGING];
    uint32_t num_staged;
    cudaError_t failure;  // the first since the last finish
    bool is_lost;
} cuda_backend;

static cuda_backend *cuda_of(const backend *b) { return (cuda_backend *)b; }

// ---------------------------------------------------------------- failures
// Keeps the first failure, for `finish` to report. An error that every later call repeats means
// that the device's context is broken.
static bool has_failed(cuda_backend *c, cudaError_t error) {
    if (error == cudaSuccess) return c->failure != cudaSuccess;
    if (c->failure == cudaSuccess) c->failure = error;
    cudaGetLastError();
    cudaError_t after = cudaStreamQuery(c->own.stream);
    c->is_lost |= after != cudaSuccess && after != cudaErrorNotReady;
    cudaGetLastError();
    return true;
}

static ctok_status status_of(const cuda_backend *c) {
    return c->failure == cudaErrorMemoryAllocation ? CTOK_E_MEMORY : CTOK_E_DEVICE;
}

// ---------------------------------------------------------------- starting
static bool is_cancelled(const cuda_backend *c) {
    return c->base.cancel && atomic_load(c->base.cancel);
}

// Every start of a kernel has the form   CTOK_TRY(begin(c)); return end(c, first step, products,
// kernel(.., c->own.stream));
static ctok_status begin(cuda_backend *c) {
    if (is_cancelled(c)) return CTOK_E_CANCELLED;
    if (c->failure != cudaSuccess) return status_of(c);
    if (c->num_unmarked > 0 || c->num_marks < NUM_MARKS || c->num_waited == c->num_marks)
        return CTOK_OK;
    c->num_waited = c->num_marks, c->counts.num_waits++;
    return has_failed(c, cudaEventSynchronize(c->marks[c->num_marks % NUM_MARKS])) ? status_of(c)
                                                                                   : CTOK_OK;
}

static ctok_status end(cuda_backend *c, int32_t first_step, int64_t products, int error) {
    if (has_failed(c, (cudaError_t)error)) return status_of(c);
    if (c->num_unmarked++ == 0) c->unmarked_step = first_step, c->unmarked_products = 0;
    c->unmarked_products += products;
    if (c->num_unmarked < MARK_STARTS && c->unmarked_products < MARK_PRODUCTS) return CTOK_OK;
    uint32_t i = c->num_marks++ % NUM_MARKS;
    c->mark_steps[i] = c->unmarked_step, c->num_unmarked = 0;
    return has_failed(c, cudaEventRecord(c->marks[i], c->own.stream)) ? status_of(c) : CTOK_OK;
}

static ctok_status cuda_finish(backend *b, ctok_error *error) {
    cuda_backend *c = cuda_of(b);
    cudaSetDevice(c->gpu.index);
    has_failed(c, cudaEventRecord(c->marks[0], c->own.stream));
    if (!has_failed(c, cudaEventSynchronize(c->marks[0])))
        return CTOK_OK;  // waits asleep, where a stream would be polled
    cudaStreamSynchronize(c->own.stream);
    cudaGetLastError();
    cudaError_t failure = c->failure;
    if (!c->is_lost) c->failure = cudaSuccess;
    return ctok_fail(
        error, failure == cudaErrorMemoryAllocation ? CTOK_E_MEMORY : CTOK_E_DEVICE, failure,
        "%s (%s): expected it to compute, found %s: %s%s", c->gpu.device, c->gpu.name,
        cudaGetErrorName(failure), cudaGetErrorString(failure),
        c->is_lost ? "; its context is lost to the whole process, other GPUs and the CPU go on"
                   : "");
}

// ---------------------------------------------------------------- memory
// Note: cudaMalloc aligns to 256 bytes. A lack of memory is no failure of the device: the caller
// reports it, with what it wanted.
static void *cuda_alloc(backend *b, size_t num_bytes) {
    cuda_backend *c = cuda_of(b);
    void *memory = NULL;
    cudaSetDevice(c->gpu.index);
    cudaError_t error = c->is_lost ? cudaSuccess : cudaMalloc(&memory, num_bytes ? num_bytes : 1);
    if (error == cudaErrorMemoryAllocation && b->give_back && b->give_back(b->giver))
        error = cudaMalloc(&memory, num_bytes ? num_bytes : 1);
    cudaGetLastError();
    if (error != cudaSuccess) memory = NULL;
    if (error != cudaErrorMemoryAllocation) has_failed(c, error);
    return memory;
}

// Frees memory of the device, after waiting until no kernel uses it.
static void cuda_free(backend *b, void *memory, size_t num_bytes) {
    (void)num_bytes;
    if (!memory) return;
    const gpu_context *context = &cuda_of(b)->context;
    void *before = gpu_enter(context);
    cudaFree(memory);
    cudaGetLastError();
    gpu_leave(context, before);
}

static void *cuda_grow(backend *b, void *memory, size_t num_bytes, size_t new_bytes) {
    void *grown = cuda_alloc(b, new_bytes);
    if (grown && memory) {
        cuda_backend *c = cuda_of(b);
        has_failed(
            c, (cudaError_t)smxx_copy(grown, memory, num_bytes < new_bytes ? num_bytes : new_bytes,
                                      c->own.stream));
        cuda_free(b, memory, num_bytes);
    }
    return grown;
}

// Copies from the host's memory to the device's. Returns when the host's memory is free again; the
// copy may still be under way.
static bool copy_in(cuda_backend *c, void *to, const void *host, size_t num_bytes) {
    cudaSetDevice(c->gpu.index);
    for (size_t at = 0; at < num_bytes && !c->is_lost; at += STAGING_BYTES) {
        size_t count = num_bytes - at < STAGING_BYTES ? num_bytes - at : STAGING_BYTES;
        uint32_t i = c->num_staged++ % NUM_STAGING;
        if (has_failed(c, cudaEventSynchronize(c->staging[i].is_free))) return false;
        memcpy(c->staging[i].host, (const uint8_t *)host + at, count);
        if (has_failed(c, cudaMemcpyAsync((uint8_t *)to + at, c->staging[i].host, count,
                                          cudaMemcpyHostToDevice, c->own.stream)))
            return false;
        if (has_failed(c, cudaEventRecord(c->staging[i].is_free, c->own.stream))) return false;
    }
    return !c->is_lost;
}

// Copies from the device's memory to the host's; the copy is complete on return.
static bool copy_out(cuda_backend *c, void *host, const void *from, size_t num_bytes) {
    size_t asked = 0;
    uint32_t first = c->num_staged;
    for (size_t at = 0, n = 0; at < num_bytes; at += STAGING_BYTES, n++) {
        for (; asked < num_bytes && c->num_staged - first < (uint32_t)n + NUM_STAGING;
             asked += STAGING_BYTES) {
            uint32_t i = c->num_staged++ % NUM_STAGING;
            size_t count = num_bytes - asked < STAGING_BYTES ? num_bytes - asked : STAGING_BYTES;
            if (has_failed(c, cudaMemcpyAsync(c->staging[i].host, (const uint8_t *)from + asked,
                                              count, cudaMemcpyDeviceToHost, c->own.stream)))
                return false;
            if (has_failed(c, cudaEventRecord(c->staging[i].is_free, c->own.stream))) return false;
        }
        uint32_t i = (uint32_t)(first + n) % NUM_STAGING;
        if (has_failed(c, cudaEventSynchronize(c->staging[i].is_free))) return false;
        memcpy((uint8_t *)host + at, c->staging[i].host,
               num_bytes - at < STAGING_BYTES ? num_bytes - at : STAGING_BYTES);
    }
    return true;
}

static void cuda_upload(backend *b, void *to, const void *host, size_t num_bytes) {
    copy_in(cuda_of(b), to, host, num_bytes);
}

static void cuda_memory_bytes(const backend *b, uint64_t *total, uint64_t *available) {
    const cuda_backend *c = cuda_of(b);
    size_t now = 0, all = 0;
    void *before = gpu_enter(&c->context);
    *total = c->gpu.total_bytes;
    *available = cudaMemGetInfo(&now, &all) == cudaSuccess ? now : 0;
    cudaGetLastError();
    gpu_leave(&c->context, before);
}

// ---------------------------------------------------------------- weights and scratch
static size_t cuda_external_workspace_bytes(const backend *b, size_t num_bytes) {
    (void)b;
    return num_bytes;
}

static size_t cuda_conv_weight_bytes(const backend *b, const conv_params *p) {
    (void)b;
    return sm80_conv_takes(p) ? sm80_conv_weight_bytes(p) : smxx_conv_weight_bytes(p);
}

static void cuda_conv_weight_pack(backend *b, void *packed, const float *weight,
                                  const conv_params *p) {
    cuda_backend *c = cuda_of(b);
    size_t num_bytes = cuda_conv_weight_bytes(b, p);
    void *host = malloc(num_bytes);
    if (!host) {
        if (c->failure == cudaSuccess) c->failure = cudaErrorMemoryAllocation;
        return;
    }
    if (sm80_conv_takes(p)) sm80_conv_pack(host, weight, p);
    else smxx_conv_pack(host, weight, p);
    copy_in(c, packed, host, num_bytes);
    free(host);
}

static size_t cuda_conv_workspace_bytes(const backend *b, const conv_params *p) {
    (void)b;
    return sm80_split_bytes(p);
}

static size_t cuda_attention_workspace_bytes(const backend *b, const attention_params *p) {
    (void)b, (void)p;
    return 0;
}

#define CUDA_KERNELS(kernels, bf16)                                                             \
    {                                                                                           \
        .name = kernels, .has_bf16 = bf16, .is_bf16_faster = bf16,                              \
        .conv_weight_bytes = cuda_conv_weight_bytes, .conv_weight_pack = cuda_conv_weight_pack, \
        .conv_workspace_bytes = cuda_conv_workspace_bytes,                                      \
        .attention_workspace_bytes = cuda_attention_workspace_bytes,                            \
        .external_workspace_bytes = cuda_external_workspace_bytes,                              \
    }
static const backend_kernels smxx_kernels = CUDA_KERNELS("smxx", false),
                             sm80_kernels = CUDA_KERNELS("sm80", true);

// ---------------------------------------------------------------- steps
static size_t transfer_bytes(const transfer_params *p) {
    return (size_t)(p->shape.n * p->frames * p->height * p->width * p->shape.c) *
           (p->format == EXTERNAL_PIXELS_U8 ? 1 : sizeof(float));
}

static size_t index_bytes(const quantizer_params *p) {
    return (size_t)shape_positions(p->shape) * sizeof(int32_t);
}

// Runs a step that copies between the host's memory and the device's.
static ctok_status run_transfer(cuda_backend *c, const step *s, int32_t i) {
    const op_params *p = &s->params;
    switch (s->kind) {
        case OP_LOAD:
            if (!copy_in(c, s->workspace, s->external, transfer_bytes(&p->transfer)))
                return status_of(c);
            return end(c, i, 0, smxx_load(s->out, s->workspace, &p->transfer, c->own.stream));
        case OP_STORE:
            CTOK_TRY(end(c, i, 0, smxx_store(s->workspace, s->in, &p->transfer, c->own.stream)));
            return copy_out(c, s->external, s->workspace, transfer_bytes(&p->transfer))
                       ? CTOK_OK
                       : status_of(c);
        case OP_DEQUANTIZE:
            if (!copy_in(c, s->workspace, s->external, index_bytes(&p->quantizer)))
                return status_of(c);
            return end(
                c, i, 0,
                smxx_dequantize(s->out, s->workspace, s->codebook, &p->quantizer, c->own.stream));
        case OP_COPY:
        case OP_HAAR:
        case OP_UNHAAR:
        case OP_CONV:
        case OP_NORM:
        case OP_POOL:
        case OP_ATTENTION:
        case OP_QUANTIZE: break;
    }
    return CTOK_E_INTERNAL;
}

// Copies the indices of a quantize step from its workspace to the caller, if the caller wants them.
static ctok_status fetch_indices(cuda_backend *c, const step *s) {
    if (s->kind != OP_QUANTIZE || !s->external) return CTOK_OK;
    return copy_out(c, s->external, s->workspace, index_bytes(&s->params.quantizer)) ? CTOK_OK
                                                                                     : status_of(c);
}

static void count(step_run *run, int32_t num_steps) {
    if (run->steps_done) atomic_fetch_add(run->steps_done, (unsigned)num_steps);
}

// Where steps are timed, waits for these steps, so that their time is not counted for the next
// ones.
static ctok_status time_steps(cuda_backend *c, step_run *run, int32_t first, int32_t count) {
    if (!run->times) return CTOK_OK;
    uint64_t start = first ? run->times[first - 1].end_ns : c->start_ns;
    if (has_failed(c, cudaStreamSynchronize(c->own.stream))) return status_of(c);
    uint64_t all = step_now() - start;
    for (int32_t i = 0; i < count; i++)
        run->times[first + i] = (step_time){start + all * (uint64_t)i / (uint64_t)count,
                                            start + all * (uint64_t)(i + 1) / (uint64_t)count};
    return CTOK_OK;
}

// Records which steps are started next, so that a failure can name them.
static ctok_status begin_steps(cuda_backend *c, step_run *run, int32_t first, int32_t count) {
    run->first = first, run->last = first + count - 1;
    return begin(c);
}

static ctok_status run_part(cuda_backend *c, const step *steps, replay *r, replay_part *part,
                            step_run *run) {
    int32_t first = r->starts[part->first].first,
            num_steps = r->starts[part->end - 1].first + r->starts[part->end - 1].count - first;
    cudaError_t error;
    CTOK_TRY(begin_steps(c, run, first, num_steps));
    if (!run->times && replay_launch(r, part, steps, &c->own, &c->counts, &error)) {
        c->counts.num_graph_launches++;
        CTOK_TRY(end(c, first, MARK_PRODUCTS, error));
        count(run, num_steps);
        return fetch_indices(c, &steps[first + num_steps - 1]);
    }
    for (int32_t i = part->first; i < part->end; i++) {
        const op_start *start = &r->starts[i];
        const step *s = &steps[start->first];
        CTOK_TRY(begin_steps(c, run, start->first, start->count));
        c->counts.num_starts++;
        CTOK_TRY(replay_is_transfer(s) ? run_transfer(c, s, start->first)
                                       : end(c, start->first, step_products(s) * start->count,
                                             op_run(steps, start, &c->own)));
        CTOK_TRY(fetch_indices(c, s));
        CTOK_TRY(time_steps(c, run, start->first, start->count));
        count(run, start->count);
    }
    part->has_run = true;
    return CTOK_OK;
}

static ctok_status run_parts(cuda_backend *c, const step *steps, replay *r, step_run *run) {
    for (int32_t i = 0; i < r->num_parts; i++) CTOK_TRY(run_part(c, steps, r, &r->parts[i], run));
    return CTOK_OK;
}

// When the device is lost, the step that did it is among those not known to be done: those whose
// marks have not passed.
static ctok_status cuda_run(backend *b, step_list *list, step_run *run, ctok_error *error) {
    cuda_backend *c = cuda_of(b);
    run->first = run->last = -1;
    c->num_marks = c->num_waited = 0, c->num_unmarked = 0,
    c->start_ns = run->times ? step_now() : 0;
    if (c->failure != cudaSuccess) return cuda_finish(b, error);  // from before
    cudaSetDevice(c->gpu.index);
    replay *r = replay_prepare(list, &c->own);
    if (!r)
        return ctok_fail(error, CTOK_E_MEMORY, list->num_steps, "no memory to prepare %d steps",
                         list->num_steps);
    ctok_status status = run_parts(c, list->steps, r, run),
                finished = cuda_finish(b, error);  // whatever happened: nothing is under way
    bool is_late = finished != CTOK_OK && (c->is_lost || status == CTOK_OK);
    if (is_late)
        run->first = c->num_marks > NUM_MARKS ? c->mark_steps[c->num_marks % NUM_MARKS] : 0;
    return finished != CTOK_OK ? finished : status;
}

static void cuda_forget(backend *b, step_list *list) {
    const gpu_context *context = &cuda_of(b)->context;
    void *before = gpu_enter(context);
    replay_free(list);
    gpu_leave(context, before);
}

// ---------------------------------------------------------------- the runtime's own loops
// On the calling thread: they read checkpoints, which the disk and the bus bound here.
static void cuda_for_all(backend *b, int64_t num_tasks, backend_task task, void *context) {
    (void)b;
    for (int64_t i = 0; i < num_tasks; i++) task(context, i, 0);
}

// ---------------------------------------------------------------- opening
static void cuda_close(backend *b) {
    if (!b) return;
    cuda_backend *c = cuda_of(b);
    void *before = gpu_enter(&c->context);
    if (c->own.stream) cudaStreamSynchronize(c->own.stream);
    for (int i = 0; i < NUM_STAGING; i++) {
        if (c->staging[i].is_free) cudaEventDestroy(c->staging[i].is_free);
        if (c->staging[i].host) cudaFreeHost(c->staging[i].host);
    }
    for (int i = 0; i < NUM_MARKS; i++)
        if (c->marks[i]) cudaEventDestroy(c->marks[i]);
    if (c->own.norm_workspace) cudaFree(c->own.norm_workspace);
    if (c->own.stream) cudaStreamDestroy(c->own.stream);
    cudaGetLastError();
    gpu_leave(&c->context, before);
    free(c);
}

static const backend_kernels *kernels_for(const gpu *g) {
    return gpu_has_bf16(g) ? &sm80_kernels : &smxx_kernels;
}

bool cuda_describe(ctok_device_info *out, uint32_t index) {
    uint32_t count = gpu_count();
    if (index > 0 && index >= count) return false;
    gpu g;
    ctok_error error = {.struct_size = sizeof error};
    *out = (ctok_device_info){.is_usable = gpu_find(&g, index, &error) == CTOK_OK};
    snprintf(out->device, sizeof out->device, "%s", count ? g.device : "cuda");
    snprintf(out->name, sizeof out->name, "%s", g.name);
    snprintf(out->reason, sizeof out->reason, "%.255s", error.message);
    out->capability = (uint32_t)g.capability;
    out->driver_version = (uint32_t)g.driver, out->runtime_version = (uint32_t)g.runtime;
    out->total_bytes = g.total_bytes, out->free_bytes = count ? gpu_free_bytes(&g) : 0;
    if (!out->is_usable) return true;
    snprintf(out->kernels, sizeof out->kernels, "%s", kernels_for(&g)->name);
    out->has_bf16 = kernels_for(&g)->has_bf16;
    return true;
}

// Starts the GPU's context on this thread, and takes what every list needs.
static cudaError_t start(cuda_backend *c) {
    size_t available = 0, total = 0;
    cudaError_t error = cudaSetDevice(c->gpu.index);
    if (!error) error = cudaMemGetInfo(&available, &total);
    if (error) return error;
    c->gpu.total_bytes = total;
    c->context = gpu_context_here(c->gpu.index);
    error = cudaStreamCreateWithFlags(&c->own.stream, cudaStreamNonBlocking);
    if (!error) error = cudaMalloc(&c->own.norm_workspace, NORM_WORKSPACE_BYTES);
    for (int i = 0; i < NUM_MARKS && !error; i++)
        error =
            cudaEventCreateWithFlags(&c->marks[i], cudaEventBlockingSync | cudaEventDisableTiming);
    for (int i = 0; i < NUM_STAGING && !error; i++) {
        error = cudaMallocHost(&c->staging[i].host, STAGING_BYTES);
        if (!error)
            error = cudaEventCreateWithFlags(&c->staging[i].is_free,
                                             cudaEventBlockingSync | cudaEventDisableTiming);
    }
    return error;
}

ctok_status cuda_backend_open(backend **out, uint32_t index, ctok_error *error) {
    gpu found;
    CTOK_TRY(gpu_find(&found, index, error));
    cuda_backend *c = calloc(1, sizeof *c);
    if (!c)
        return ctok_fail(error, CTOK_E_MEMORY, sizeof *c,
                         "no memory for the CUDA backend (%zu bytes)", sizeof *c);
    c->gpu = found, c->context.index = (int)index;
    c->own.limits = found.limits;
    cudaError_t failure = start(c);
    if (failure) {
        cudaGetLastError();
        cuda_close(&c->base);
        return ctok_fail(error,
                         failure == cudaErrorMemoryAllocation ? CTOK_E_MEMORY : CTOK_E_DEVICE,
                         failure, "%s: expected it to start, found %s: %s", found.device,
                         cudaGetErrorName(failure), cudaGetErrorString(failure));
    }
    c->base = (backend){.kernels = kernels_for(&c->gpu),
                        .device = c->gpu.device,
                        .device_name = c->gpu.name,
                        .bf16_needs = "a GPU of compute capability 8.0 or more",
                        .run = cuda_run,
                        .forget = cuda_forget,
                        .for_all = cuda_for_all,
                        .alloc = cuda_alloc,
                        .grow = cuda_grow,
                        .free = cuda_free,
                        .upload = cuda_upload,
                        .finish = cuda_finish,
                        .memory_bytes = cuda_memory_bytes,
                        .counts = &c->counts,
                        .keeps_arena = true,
                        .pass_bytes = PASS_BYTES,
                        .close = cuda_close};
    *out = &c->base;
    return CTOK_OK;
}
#endif
