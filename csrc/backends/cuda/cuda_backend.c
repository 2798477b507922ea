// A GPU behind backend.h: opens device N, gives its memory, and runs lists of steps on one stream,
// at most MAX_AHEAD starts ahead of what is done, so that a job can be cancelled and its progress
// told; or a part at once, where it has run before (replay.h). External tensors pass through two
// pinned buffers, copied while the other travels. A lost device gives CTOK_E_DEVICE from then on;
// the process, and other devices, go on. A build without nvcc has none of it and says so. Linked:
// the static CUDA runtime, which finds the driver itself; there is no dependency where there is no
// GPU.
// Note: over 400 lines: one device's life from the question whether there is one to its loss, a
// section a part.
#include "../backend.h"

#ifndef CTOK_HAS_CUDA
ctok_status cuda_backend_open(backend **out, uint32_t index, ctok_error *error) {
    (void)out;
    return ctok_fail(error, CTOK_E_DEVICE, index,
                     "cuda:%u: expected a GPU, found a build without CUDA (nvcc was not there when "
                     "it was built)",
                     index);
}
#else

#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conv_pack.h"
#include "replay.h"

enum {
    LEAST_CAPABILITY = 75,  // of the float32 kernels
    BF16_CAPABILITY = 80,   // mma.sync in bf16, cp.async
    MAX_AHEAD = 8,          // starts that are not done
    NUM_STAGING = 2,
    STAGING_BYTES = 4 << 20  // copied in 0.4 ms at 10 GB/s; a bus moves it in half of that
};
// Of activations that are in memory together: some 40 images of 1024 x 1024 in bf16, which fill
// every device several times over in each layer. More would take memory that others may want.
static const size_t PASS_BYTES = (size_t)4 << 30;

typedef struct {
    backend base;           // first, so that a backend * is a cuda_backend *
    int index, capability;  // 90: compute capability 9.0
    op_device own;          // limits, stream, workspace
    size_t total_bytes;
    char device[16], device_name[64];
    cudaEvent_t started[MAX_AHEAD];   // behind the last start in its place
    int32_t started_step[MAX_AHEAD];  // its first step
    uint32_t num_started;             // in the list that runs
    uint64_t start_ns;                // of that list, where its steps are timed
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

// Every start of a kernel has the form   CTOK_TRY(begin(c)); return end(c, first step, kernel(..,
// c->own.stream));
static ctok_status begin(cuda_backend *c) {
    if (is_cancelled(c)) return CTOK_E_CANCELLED;
    if (c->failure != cudaSuccess) return status_of(c);
    return has_failed(c, cudaEventSynchronize(c->started[c->num_started % MAX_AHEAD]))
               ? status_of(c)
               : CTOK_OK;
}

static ctok_status end(cuda_backend *c, int32_t first_step, int error) {
    if (has_failed(c, (cudaError_t)error)) return status_of(c);
    c->started_step[c->num_started % MAX_AHEAD] = first_step;
    return has_failed(c, cudaEventRecord(c->started[c->num_started++ % MAX_AHEAD], c->own.stream))
               ? status_of(c)
               : CTOK_OK;
}

static ctok_status cuda_finish(backend *b, ctok_error *error) {
    cuda_backend *c = cuda_of(b);
    cudaSetDevice(c->index);
    has_failed(c, cudaEventRecord(c->started[0], c->own.stream));
    if (!has_failed(c, cudaEventSynchronize(c->started[0])))
        return CTOK_OK;  // waits asleep, where a stream would be polled
    cudaStreamSynchronize(c->own.stream);
    cudaGetLastError();
    cudaError_t failure = c->failure;
    if (!c->is_lost) c->failure = cudaSuccess;
    return ctok_fail(
        error, failure == cudaErrorMemoryAllocation ? CTOK_E_MEMORY : CTOK_E_DEVICE, failure,
        "%s (%s): expected it to compute, found %s: %s%s", c->device, c->device_name,
        cudaGetErrorName(failure), cudaGetErrorString(failure),
        c->is_lost ? "; the device is lost to this process, others and the CPU go on" : "");
}

// ---------------------------------------------------------------- memory
// Called on any thread: leaves that thread's device as it was.
static int enter_device(const cuda_backend *c) {
    int before = c->index;
    cudaGetDevice(&before);
    if (before != c->index) cudaSetDevice(c->index);
    return before;
}

static void leave_device(const cuda_backend *c, int before) {
    if (before != c->index) cudaSetDevice(before);
}

// Note: cudaMalloc aligns to 256 bytes. A lack of memory is no failure of the device: the caller
// reports it, with what it wanted.
static void *cuda_alloc(backend *b, size_t num_bytes) {
    cuda_backend *c = cuda_of(b);
    void *memory = NULL;
    int before = enter_device(c);
    cudaError_t error = c->is_lost ? cudaSuccess : cudaMalloc(&memory, num_bytes ? num_bytes : 1);
    cudaGetLastError();
    if (error != cudaSuccess) memory = NULL;
    if (error != cudaErrorMemoryAllocation) has_failed(c, error);
    leave_device(c, before);
    return memory;
}

// Frees memory of the device, after waiting until no kernel uses it.
static void cuda_free(backend *b, void *memory, size_t num_bytes) {
    (void)num_bytes;
    if (!memory) return;
    int before = enter_device(cuda_of(b));
    cudaFree(memory);
    cudaGetLastError();
    leave_device(cuda_of(b), before);
}

// Moves bytes within the device's memory. Where source and target overlap, it copies in pieces that
// do not; the pieces follow each other on the stream.
static void copy_within(cuda_backend *c, void *to, const void *from, size_t num_bytes) {
    size_t gap = (size_t)((const uint8_t *)from - (uint8_t *)to),
           piece = (uint8_t *)to < (const uint8_t *)from && gap < num_bytes ? gap : num_bytes;
    cudaSetDevice(c->index);
    for (size_t at = 0; at < num_bytes && !c->is_lost; at += piece) {
        size_t count = num_bytes - at < piece ? num_bytes - at : piece;
        has_failed(c, cudaMemcpyAsync((uint8_t *)to + at, (const uint8_t *)from + at, count,
                                      cudaMemcpyDeviceToDevice, c->own.stream));
    }
}

static void *cuda_grow(backend *b, void *memory, size_t num_bytes, size_t new_bytes) {
    void *grown = cuda_alloc(b, new_bytes);
    if (grown && memory) {
        copy_within(cuda_of(b), grown, memory, num_bytes < new_bytes ? num_bytes : new_bytes);
        cuda_free(b, memory, num_bytes);
    }
    return grown;
}

// Copies from the host's memory to the device's. Returns when the host's memory is free again; the
// copy may still be under way.
static bool copy_in(cuda_backend *c, void *to, const void *host, size_t num_bytes) {
    cudaSetDevice(c->index);
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
        for (; asked < num_bytes && c->num_staged < first + n + NUM_STAGING;
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
    int before = enter_device(c);
    *total = c->total_bytes;
    *available = cudaMemGetInfo(&now, &all) == cudaSuccess ? now : 0;
    cudaGetLastError();
    leave_device(c, before);
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
static ctok_status run_copy(cuda_backend *c, const step *s, int32_t i) {
    const op_params *p = &s->params;
    switch (s->kind) {
        case OP_LOAD:
            if (!copy_in(c, s->workspace, s->external, transfer_bytes(&p->transfer)))
                return status_of(c);
            return end(c, i, smxx_load(s->out, s->workspace, &p->transfer, c->own.stream));
        case OP_STORE:
            CTOK_TRY(end(c, i, smxx_store(s->workspace, s->in, &p->transfer, c->own.stream)));
            return copy_out(c, s->external, s->workspace, transfer_bytes(&p->transfer))
                       ? CTOK_OK
                       : status_of(c);
        case OP_DEQUANTIZE:
            if (!copy_in(c, s->workspace, s->external, index_bytes(&p->quantizer)))
                return status_of(c);
            return end(
                c, i,
                smxx_dequantize(s->out, s->workspace, s->codebook, &p->quantizer, c->own.stream));
        case OP_COPY:
            copy_within(c, s->out, s->in, p->copy_bytes);
            return c->failure == cudaSuccess ? CTOK_OK : status_of(c);
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
    if (!run->times && replay_launch(r, part, steps, &c->own, &error)) {
        CTOK_TRY(end(c, first, error));
        count(run, num_steps);
        return fetch_indices(c, &steps[first + num_steps - 1]);
    }
    for (int32_t i = part->first; i < part->end; i++) {
        const op_start *start = &r->starts[i];
        const step *s = &steps[start->first];
        CTOK_TRY(begin_steps(c, run, start->first, start->count));
        CTOK_TRY(replay_is_copy(s) ? run_copy(c, s, start->first)
                                   : end(c, start->first, op_run(steps, start, &c->own)));
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
// events in `started` have not passed.
static ctok_status cuda_run(backend *b, step_list *list, step_run *run, ctok_error *error) {
    cuda_backend *c = cuda_of(b);
    run->first = run->last = -1;
    c->num_started = 0, c->start_ns = run->times ? step_now() : 0;
    if (c->failure != cudaSuccess) return cuda_finish(b, error);  // from before
    cudaSetDevice(c->index);
    replay *r = replay_prepare(list, &c->own);
    if (!r)
        return ctok_fail(error, CTOK_E_MEMORY, list->num_steps, "no memory to prepare %d steps",
                         list->num_steps);
    ctok_status status = run_parts(c, list->steps, r, run),
                finished = cuda_finish(b, error);  // whatever happened: nothing is under way
    bool is_late = finished != CTOK_OK && (c->is_lost || status == CTOK_OK);
    if (is_late)
        run->first = c->num_started > MAX_AHEAD ? c->started_step[c->num_started % MAX_AHEAD] : 0;
    return finished != CTOK_OK ? finished : status;
}

static void cuda_forget(backend *b, step_list *list) {
    int before = enter_device(cuda_of(b));
    replay_free(list);
    leave_device(cuda_of(b), before);
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
    int before = enter_device(c);
    if (c->own.stream) cudaStreamSynchronize(c->own.stream);
    for (int i = 0; i < NUM_STAGING; i++) {
        if (c->staging[i].is_free) cudaEventDestroy(c->staging[i].is_free);
        if (c->staging[i].host) cudaFreeHost(c->staging[i].host);
    }
    for (int i = 0; i < MAX_AHEAD; i++)
        if (c->started[i]) cudaEventDestroy(c->started[i]);
    if (c->own.norm_workspace) cudaFree(c->own.norm_workspace);
    if (c->own.stream) cudaStreamDestroy(c->own.stream);
    cudaGetLastError();
    leave_device(c, before);
    free(c);
}

// Note: without a driver the runtime says "insufficient driver", as with one that is too old; its
// version tells them apart.
static ctok_status check_driver(uint32_t index, ctok_error *error) {
    int num_devices = 0, driver = 0;
    cudaError_t failure = cudaGetDeviceCount(&num_devices);
    cudaDriverGetVersion(&driver);
    cudaGetLastError();
    if (driver == 0)
        return ctok_fail(error, CTOK_E_DEVICE, failure,
                         "cuda:%u: expected an NVIDIA driver, found none", index);
    if (failure == cudaErrorInsufficientDriver) {
        return ctok_fail(
            error, CTOK_E_DEVICE, failure,
            "cuda:%u: expected a driver for CUDA %d or later, found one for CUDA %d.%d", index,
            CUDART_VERSION / 1000, driver / 1000, driver % 1000 / 10);
    }
    if (failure != cudaSuccess && failure != cudaErrorNoDevice) {
        return ctok_fail(error, CTOK_E_DEVICE, failure,
                         "cuda:%u: expected the driver to list its GPUs, found %s", index,
                         cudaGetErrorString(failure));
    }
    if (index < (uint32_t)num_devices) return CTOK_OK;
    return ctok_fail(error, CTOK_E_DEVICE, num_devices,
                     "cuda:%u: expected a GPU of that number, found %d (counted from 0)", index,
                     num_devices);
}

static cudaError_t read_attribute(int *out, enum cudaDeviceAttr attribute, int index) {
    return cudaDeviceGetAttribute(out, attribute, index);
}

// What the device is; also the first that starts its context.
static cudaError_t describe(cuda_backend *c) {
    int major = 0, minor = 0, num_sms = 0, shared_bytes = 0;
    size_t available = 0;
    struct cudaDeviceProp properties;
    cudaError_t error = cudaSetDevice(c->index);
    if (!error) error = cudaMemGetInfo(&available, &c->total_bytes);
    if (!error) error = read_attribute(&major, cudaDevAttrComputeCapabilityMajor, c->index);
    if (!error) error = read_attribute(&minor, cudaDevAttrComputeCapabilityMinor, c->index);
    if (!error) error = read_attribute(&num_sms, cudaDevAttrMultiProcessorCount, c->index);
    if (!error)
        error = read_attribute(&shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, c->index);
    if (!error) error = cudaGetDeviceProperties(&properties, c->index);
    if (error) return error;
    c->capability = major * 10 + minor;
    c->own.limits = (device_limits){.num_sms = num_sms, .shared_bytes = shared_bytes};
    snprintf(c->device_name, sizeof c->device_name, "%.63s", properties.name);
    return cudaSuccess;
}

static cudaError_t prepare(cuda_backend *c) {
    cudaError_t error = cudaStreamCreateWithFlags(&c->own.stream, cudaStreamNonBlocking);
    if (!error) error = cudaMalloc(&c->own.norm_workspace, NORM_WORKSPACE_BYTES);
    for (int i = 0; i < MAX_AHEAD && !error; i++)
        error = cudaEventCreateWithFlags(&c->started[i],
                                         cudaEventBlockingSync | cudaEventDisableTiming);
    for (int i = 0; i < NUM_STAGING && !error; i++) {
        error = cudaMallocHost(&c->staging[i].host, STAGING_BYTES);
        if (!error)
            error = cudaEventCreateWithFlags(&c->staging[i].is_free,
                                             cudaEventBlockingSync | cudaEventDisableTiming);
    }
    return error;
}

ctok_status cuda_backend_open(backend **out, uint32_t index, ctok_error *error) {
    CTOK_TRY(check_driver(index, error));
    cuda_backend *c = calloc(1, sizeof *c);
    if (!c)
        return ctok_fail(error, CTOK_E_MEMORY, sizeof *c,
                         "no memory for the CUDA backend (%zu bytes)", sizeof *c);
    c->index = (int)index;
    snprintf(c->device, sizeof c->device, "cuda:%u", index);
    int before = 0;
    cudaGetDevice(&before);
    cudaError_t failure = describe(c);
    if (!failure && c->capability >= LEAST_CAPABILITY) failure = prepare(c);
    ctok_status status = CTOK_OK;
    if (failure) {
        status =
            ctok_fail(error, failure == cudaErrorMemoryAllocation ? CTOK_E_MEMORY : CTOK_E_DEVICE,
                      failure, "%s: expected it to start, found %s: %s", c->device,
                      cudaGetErrorName(failure), cudaGetErrorString(failure));
    } else if (c->capability < LEAST_CAPABILITY) {
        status = ctok_fail(
            error, CTOK_E_DEVICE, c->capability,
            "%s (%s): expected compute capability 7.5 or more (8.0 for bf16), found %d.%d",
            c->device, c->device_name, c->capability / 10, c->capability % 10);
    }
    cudaGetLastError();
    cudaSetDevice(before);
    if (status != CTOK_OK) {
        cuda_close(&c->base);
        return status;
    }
    c->base = (backend){.kernels = c->capability >= BF16_CAPABILITY ? &sm80_kernels : &smxx_kernels,
                        .device = c->device,
                        .device_name = c->device_name,
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
                        .pass_bytes = PASS_BYTES,
                        .close = cuda_close};
    *out = &c->base;
    return CTOK_OK;
}
#endif
