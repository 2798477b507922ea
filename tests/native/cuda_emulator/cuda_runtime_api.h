// The part of the CUDA runtime that cuda_backend.c calls, for the emulator: device memory is
// emulator_allocate, streams and events are nothing (a kernel has run when it was started, or the
// graph that it was captured into), and one struct says what the device is and what goes wrong
// next. Who includes it: cuda_backend.c as compiled for the emulator, backend_test.c, and
// emulated_device.c, which owns the struct.
#ifndef CTOK_EMULATED_CUDA_RUNTIME_API_H
#define CTOK_EMULATED_CUDA_RUNTIME_API_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "emulator.h"

#define CUDART_VERSION 13000

typedef enum {
    cudaSuccess = 0,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInsufficientDriver = 35,
    cudaErrorNoDevice = 100,
    cudaErrorInvalidDevice = 101,
    cudaErrorInvalidResourceHandle = 400,
    cudaErrorIllegalAddress = 700,
    cudaErrorNotReady = 600,
    cudaErrorLaunchFailure = 719,
    cudaErrorStreamCaptureUnsupported = 900,
    cudaErrorStreamCaptureInvalidated = 901
} cudaError_t;

enum { EMULATED_GPUS = 4, EMULATED_NONE = EMULATED_GPUS };
struct emulated_device {
    int num_devices, driver, major, minor;
    int shared_bytes;  // that a block may ask for
    size_t total_bytes, used_bytes;
    bool is_lost;   // everything fails with an illegal address from now on
    int fail_in;    // copies until one fails with out of memory; 0: never
    int refuse_in;  // allocations until one is refused
    int lose_in;    // calls of any kind until the device is lost
    cudaError_t last;
    int num_allocations;  // that live
    bool is_capturing, is_capture_invalid;
    int fail_graphs;  // 1: none can be begun, 2: none captured, 3: none instantiated, 4: none
                      // launched
    int num_graphs, num_captures, num_graph_launches;  // that live; begun; done
    bool has_nvml;                                     // the library that tells of memory
    int num_waits;                                     // for an event
    int num_contexts[EMULATED_GPUS];                   // of each GPU: started
    void (*on_start)(void);                            // called as one is started; or NULL
    int num_strangers;  // uses of a stream, event or memory where another GPU was current
};
extern struct emulated_device emulated_device;

// ---------------------------------------------------------------- whose GPU
// A thread has the context of one GPU, or none: a call that needs one then starts that of GPU 0, as
// CUDA does. Streams, events and memory belong to the GPU that was current when they were made.
extern _Thread_local int emulated_current;      // GPU, or EMULATED_NONE
extern char emulated_marks[EMULATED_GPUS + 1];  // their addresses stand for the GPUs' contexts

static inline void emulated_take(int gpu) {
    emulated_current = gpu;
    if (gpu == EMULATED_NONE || emulated_device.num_contexts[gpu]) return;
    emulated_device.num_contexts[gpu] = 1;
    if (emulated_device.on_start) emulated_device.on_start();
}
static inline bool emulated_is_stranger(const void *mark) {
    bool is_other = mark != &emulated_marks[emulated_current];
    emulated_device.num_strangers += is_other;
    return is_other;
}
static inline int emulated_context_get(void **context) {
    *context = emulated_current == EMULATED_NONE ? NULL : &emulated_marks[emulated_current];
    return 0;
}
static inline int emulated_context_set(void *context) {
    emulated_take(context ? (int)((char *)context - emulated_marks) : EMULATED_NONE);
    return 0;
}

typedef struct CUstream_st *cudaStream_t;
typedef struct CUevent_st *cudaEvent_t;
struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem;
};
enum cudaDeviceAttr {
    cudaDevAttrComputeCapabilityMajor,
    cudaDevAttrComputeCapabilityMinor,
    cudaDevAttrMultiProcessorCount,
    cudaDevAttrMaxSharedMemoryPerBlockOptin
};
enum { cudaStreamNonBlocking = 1, cudaEventBlockingSync = 1, cudaEventDisableTiming = 2 };
enum cudaMemcpyKind {
    cudaMemcpyHostToDevice = 1,
    cudaMemcpyDeviceToHost,
    cudaMemcpyDeviceToDevice
};

// A call that needs no context.
static inline cudaError_t emulated_ask(void) {
    if (emulated_device.lose_in && --emulated_device.lose_in == 0) emulated_device.is_lost = true;
    emulated_device.is_capture_invalid |= emulated_device.is_capturing;
    return emulated_device.last = emulated_device.is_lost        ? cudaErrorIllegalAddress
                                  : emulated_device.is_capturing ? cudaErrorStreamCaptureUnsupported
                                                                 : cudaSuccess;
}
// One that needs it. Note: more is refused during a capture than on a device: whatever is no
// launch.
static inline cudaError_t emulated_call(void) {
    if (emulated_current == EMULATED_NONE) emulated_take(0);
    return emulated_ask();
}
// One about a stream or event: of the GPU that is current, or refused.
static inline cudaError_t emulated_call_of(const void *handle) {
    if (emulated_current == EMULATED_NONE) emulated_take(0);
    if (emulated_is_stranger(handle)) return emulated_device.last = cudaErrorInvalidResourceHandle;
    return emulated_ask();
}

static inline cudaError_t cudaGetLastError(void) {
    cudaError_t last = emulated_device.last;
    if (!emulated_device.is_lost) emulated_device.last = cudaSuccess;
    return last;
}
static inline const char *cudaGetErrorName(cudaError_t e) {
    return e == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation"
           : e == cudaErrorIllegalAddress ? "cudaErrorIllegalAddress"
                                          : "cudaError";
}
static inline const char *cudaGetErrorString(cudaError_t e) {
    return e == cudaErrorMemoryAllocation ? "out of memory"
                                          : "an illegal memory access was encountered";
}

static inline cudaError_t cudaDriverGetVersion(int *version) {
    *version = emulated_device.driver;
    return cudaSuccess;
}
static inline cudaError_t cudaGetDeviceCount(int *count) {
    *count = emulated_device.num_devices;
    return emulated_device.last = emulated_device.driver < CUDART_VERSION
                                      ? cudaErrorInsufficientDriver
                                  : *count ? cudaSuccess
                                           : cudaErrorNoDevice;
}
static inline cudaError_t cudaSetDevice(int device) {
    if (device < 0 || device >= emulated_device.num_devices)
        return emulated_device.last = cudaErrorInvalidDevice;
    emulated_take(device);
    return emulated_call();
}
// Note: it answers 0 where there is no context, as CUDA does.
static inline cudaError_t cudaGetDevice(int *device) {
    *device = emulated_current == EMULATED_NONE ? 0 : emulated_current;
    return emulated_ask();
}
enum { cudaEnableDefault = 0 };
enum cudaDriverEntryPointQueryResult { cudaDriverEntryPointSuccess = 0 };
static inline cudaError_t cudaGetDriverEntryPointByVersion(
    const char *name, void **function, unsigned version, unsigned long long flags,
    enum cudaDriverEntryPointQueryResult *result) {
    (void)version, (void)flags;
    bool is_get = strcmp(name, "cuCtxGetCurrent") == 0;
    *function = is_get ? (void *)emulated_context_get : (void *)emulated_context_set;
    *result = cudaDriverEntryPointSuccess;
    return emulated_ask();
}
static inline cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute,
                                                 int device) {
    (void)device;
    const int values[] = {emulated_device.major, emulated_device.minor, 4,
                          emulated_device.shared_bytes};
    *value = values[attribute];
    return emulated_ask();
}
static inline cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device) {
    (void)device;
    strcpy(properties->name, "Emulated GPU");
    properties->totalGlobalMem = emulated_device.total_bytes;
    return emulated_ask();
}
static inline cudaError_t cudaDeviceGetPCIBusId(char *id, int num_bytes, int device) {
    snprintf(id, (size_t)num_bytes, "0000:0%d:00.0", device);
    return emulated_ask();
}
static inline cudaError_t cudaMemGetInfo(size_t *available, size_t *total) {
    *total = emulated_device.total_bytes;
    *available = emulated_device.total_bytes - emulated_device.used_bytes;
    return emulated_call();
}

// Sizes are kept 64 bytes before what is given out, on the host's heap beside it, so that
// used_bytes is known.
enum { EMULATED_MOST = 4096 };
typedef struct {
    void *memory;
    size_t num_bytes;
    int gpu;
} emulated_allocation;
extern emulated_allocation emulated_allocations[EMULATED_MOST];

static inline cudaError_t cudaMalloc(void **memory, size_t num_bytes) {
    if (emulated_call() != cudaSuccess) return emulated_device.last;
    bool is_refused = emulated_device.refuse_in && --emulated_device.refuse_in == 0;
    if (is_refused || num_bytes > emulated_device.total_bytes - emulated_device.used_bytes)
        return emulated_device.last = cudaErrorMemoryAllocation;
    int i = 0;
    while (emulated_allocations[i].memory) i++;
    emulated_allocations[i] =
        (emulated_allocation){ *memory = emulator_allocate(num_bytes), num_bytes, emulated_current};
    emulated_device.used_bytes += num_bytes, emulated_device.num_allocations++;
    return cudaSuccess;
}
static inline cudaError_t cudaFree(void *memory) {
    int i = 0;
    while (memory && emulated_allocations[i].memory != memory) i++;
    if (memory) {
        emulated_is_stranger(&emulated_marks[emulated_allocations[i].gpu]);
        emulated_device.used_bytes -= emulated_allocations[i].num_bytes,
            emulated_device.num_allocations--;
        emulated_allocations[i].memory = NULL;
        emulator_free(memory);
    }
    return emulated_call();
}
static inline cudaError_t cudaMallocHost(void **memory, size_t num_bytes) {
    *memory = NULL;
    if (emulated_call() != cudaSuccess) return emulated_device.last;
    *memory = malloc(num_bytes);
    return *memory ? cudaSuccess : cudaErrorMemoryAllocation;
}
static inline cudaError_t cudaFreeHost(void *memory) {
    free(memory);
    return emulated_call();
}
// Note: a copy onto itself is undefined on a device; here it ends the test.
static inline cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t num_bytes,
                                          enum cudaMemcpyKind kind, cudaStream_t stream) {
    (void)kind;
    if (emulated_device.fail_in && --emulated_device.fail_in == 0)
        return emulated_device.last = cudaErrorMemoryAllocation;
    if ((uint8_t *)to < (const uint8_t *)from + num_bytes &&
        (const uint8_t *)from < (uint8_t *)to + num_bytes)
        abort();
    if (emulated_call_of(stream) == cudaSuccess) memcpy(to, from, num_bytes);
    return emulated_device.last;
}
static inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) {
    (void)flags;
    emulated_call();
    *stream = (cudaStream_t)&emulated_marks[emulated_current];
    return emulated_device.last;
}
#define EMULATED_NOTHING(name, type) \
    static inline cudaError_t name(type argument) { return emulated_call_of(argument); }
EMULATED_NOTHING(cudaStreamDestroy, cudaStream_t)
EMULATED_NOTHING(cudaStreamSynchronize, cudaStream_t)
EMULATED_NOTHING(cudaStreamQuery, cudaStream_t)
EMULATED_NOTHING(cudaEventDestroy, cudaEvent_t)
static inline cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    emulated_device.num_waits++;
    return emulated_call_of(event);
}

typedef struct emulator_graph *cudaGraph_t, *cudaGraphExec_t;
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 };
static inline cudaError_t cudaStreamBeginCapture(cudaStream_t stream,
                                                 enum cudaStreamCaptureMode mode) {
    (void)mode;
    emulated_device.num_captures++;
    if (emulated_call_of(stream) != cudaSuccess || emulated_device.fail_graphs == 1)
        return emulated_device.last = cudaErrorStreamCaptureUnsupported;
    emulator_capture_begin();
    emulated_device.is_capturing = true,
    emulated_device.is_capture_invalid = emulated_device.fail_graphs == 2;
    return cudaSuccess;
}
static inline cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
    (void)stream;
    *graph = emulator_capture_end();
    emulated_device.is_capturing = false;
    if (emulated_device.is_capture_invalid) {
        emulator_graph_free(*graph), *graph = NULL;
        return emulated_device.last = cudaErrorStreamCaptureInvalidated;
    }
    emulated_device.num_graphs++;
    return emulated_call();
}
static inline cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *instance,
                                                        cudaGraph_t graph,
                                                        unsigned long long flags) {
    (void)flags;
    if (emulated_call() != cudaSuccess) return emulated_device.last;
    if (emulated_device.fail_graphs == 3) return emulated_device.last = cudaErrorMemoryAllocation;
    *instance = emulator_graph_copy(graph);
    emulated_device.num_graphs++;
    return cudaSuccess;
}
static inline cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    emulator_graph_free(graph);
    emulated_device.num_graphs--;
    return emulated_call();
}
static inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t instance) {
    return cudaGraphDestroy(instance);
}
static inline cudaError_t cudaGraphLaunch(cudaGraphExec_t instance, cudaStream_t stream) {
    if (emulated_call_of(stream) != cudaSuccess) return emulated_device.last;
    if (emulated_device.fail_graphs == 4) return emulated_device.last = cudaErrorMemoryAllocation;
    emulated_device.num_graph_launches++;
    return emulated_device.last = (cudaError_t)emulator_graph_run(instance);
}
static inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) {
    (void)flags;
    emulated_call();
    *event = (cudaEvent_t)&emulated_marks[emulated_current];
    return emulated_device.last;
}
static inline cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    if (emulated_call_of(event) != cudaSuccess) return emulated_device.last;
    return emulated_is_stranger(stream) ? cudaErrorInvalidResourceHandle : cudaSuccess;
}

#endif
