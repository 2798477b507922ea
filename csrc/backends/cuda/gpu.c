// See gpu.h.
#ifdef CTOK_HAS_CUDA
#include "gpu.h"

#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <stdio.h>

enum {
    LEAST_CAPABILITY = 75,  // of the float32 kernels
    BF16_CAPABILITY = 80
};

// The first driver that serves this build. Ref: "CUDA Toolkit and Minimum Required Driver Version
// for CUDA Minor Version Compatibility" in NVIDIA's release notes.
static const int least_driver = CUDART_VERSION >= 13000 ? 580 : CUDART_VERSION >= 12000 ? 525 : 450;

// Note: without a driver the runtime says "insufficient driver", as with one that is too old; its
// version tells them apart.
static ctok_status check_driver(uint32_t index, int driver, ctok_error *error) {
    int num_devices = 0;
    cudaError_t failure = cudaGetDeviceCount(&num_devices);
    cudaGetLastError();
    if (driver == 0)
        return ctok_fail(error, CTOK_E_DEVICE, failure,
                         "cuda:%u: expected an NVIDIA driver, found none", index);
    if (failure == cudaErrorInsufficientDriver) {
        return ctok_fail(error, CTOK_E_DEVICE, failure,
                         "cuda:%u: expected a driver for CUDA %d or later (%d and up), found one "
                         "for CUDA %d.%d",
                         index, CUDART_VERSION / 1000, least_driver, driver / 1000,
                         driver % 1000 / 10);
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

static cudaError_t describe(gpu *g) {
    int major = 0, minor = 0;
    struct cudaDeviceProp properties = {0};
    cudaError_t error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, g->index);
    if (!error) error = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, g->index);
    if (!error)
        error =
            cudaDeviceGetAttribute(&g->limits.num_sms, cudaDevAttrMultiProcessorCount, g->index);
    if (!error)
        error = cudaDeviceGetAttribute(&g->limits.shared_bytes,
                                       cudaDevAttrMaxSharedMemoryPerBlockOptin, g->index);
    if (!error) error = cudaGetDeviceProperties(&properties, g->index);
    cudaGetLastError();
    g->capability = major * 10 + minor;
    g->total_bytes = properties.totalGlobalMem;
    snprintf(g->name, sizeof g->name, "%.63s", properties.name);
    return error;
}

ctok_status gpu_find(gpu *out, uint32_t index, ctok_error *error) {
    *out = (gpu){.index = (int)index, .runtime = CUDART_VERSION};
    snprintf(out->device, sizeof out->device, "cuda:%u", index);
    cudaDriverGetVersion(&out->driver);
    CTOK_TRY(check_driver(index, out->driver, error));
    cudaError_t failure = describe(out);
    if (failure)
        return ctok_fail(error, CTOK_E_DEVICE, failure,
                         "%s: expected the driver to tell what it is, found %s: %s", out->device,
                         cudaGetErrorName(failure), cudaGetErrorString(failure));
    if (out->capability >= LEAST_CAPABILITY) return CTOK_OK;
    return ctok_fail(error, CTOK_E_DEVICE, out->capability,
                     "%s (%s): expected compute capability 7.5 or more (8.0 for bf16), found %d.%d",
                     out->device, out->name, out->capability / 10, out->capability % 10);
}

uint32_t gpu_count(void) {
    int count = 0;
    cudaError_t failure = cudaGetDeviceCount(&count);
    cudaGetLastError();
    return failure ? 0 : (uint32_t)count;
}

// ---------------------------------------------------------------- free memory
// Ref: nvml.h of NVIDIA's management library, which comes with the driver.
typedef struct {
    unsigned long long total, free, used;
} nvml_memory;
typedef int nvml_start(void);
typedef int nvml_find(const char *pci, void **device);
typedef int nvml_ask(void *device, nvml_memory *out);

static uint64_t ask_nvml(void *library, const char *pci) {
    nvml_start *start, *stop;
    nvml_find *find;
    nvml_ask *ask;
    *(void **)&start = dlsym(library, "nvmlInit_v2");
    *(void **)&stop = dlsym(library, "nvmlShutdown");
    *(void **)&find = dlsym(library, "nvmlDeviceGetHandleByPciBusId_v2");
    *(void **)&ask = dlsym(library, "nvmlDeviceGetMemoryInfo");
    void *device = NULL;
    nvml_memory memory = {0};
    if (!start || !stop || !find || !ask || start()) return 0;
    if (find(pci, &device) || ask(device, &memory)) memory.free = 0;
    stop();
    return memory.free;
}

uint64_t gpu_free_bytes(const gpu *g) {
    char pci[32] = "";
    cudaError_t failure = cudaDeviceGetPCIBusId(pci, sizeof pci, g->index);
    cudaGetLastError();
    void *library = failure ? NULL : dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library) return 0;
    uint64_t free_bytes = ask_nvml(library, pci);
    dlclose(library);
    return free_bytes;
}

// ---------------------------------------------------------------- kernels
bool gpu_has_bf16(const gpu *g) { return g->capability >= BF16_CAPABILITY; }

// ---------------------------------------------------------------- contexts
// A function of the driver, which the runtime has loaded; NULL where it has none of that name.
static void *driver_function(const char *name) {
    void *function = NULL;
#if CUDART_VERSION >= 12050
    enum cudaDriverEntryPointQueryResult result;
    cudaGetDriverEntryPointByVersion(name, &function, 4000, cudaEnableDefault, &result);
#elif CUDART_VERSION >= 12000
    enum cudaDriverEntryPointQueryResult result;
    cudaGetDriverEntryPoint(name, &function, cudaEnableDefault, &result);
#else
    cudaGetDriverEntryPoint(name, &function, cudaEnableDefault);
#endif
    cudaGetLastError();
    return function;
}

gpu_context gpu_context_here(int index) {
    gpu_context c = {.index = index};
    *(void **)&c.get = driver_function("cuCtxGetCurrent");
    *(void **)&c.set = driver_function("cuCtxSetCurrent");
    if (!c.get || !c.set || c.get(&c.own)) c.own = NULL;
    return c;
}

void *gpu_enter(const gpu_context *c) {
    void *before = NULL;
    if (!c->own) cudaSetDevice(c->index);
    else if (!c->get(&before) && before != c->own) c->set(c->own);
    return before;
}

void gpu_leave(const gpu_context *c, void *before) {
    if (c->own && before != c->own) c->set(before);
}
#endif
