// NVIDIA's management library as gpu.c finds it, for the emulator: it tells the memory of the one
// emulated GPU. Who includes it: csrc/backends/cuda/gpu.c as compiled for the emulator.
#ifndef CTOK_EMULATED_DLFCN_H
#define CTOK_EMULATED_DLFCN_H

#include "cuda_runtime_api.h"

enum { RTLD_NOW = 2, RTLD_LOCAL = 0 };

static inline int emulated_nvml_nothing(void) { return 0; }
static inline int emulated_nvml_find(const char *pci, void **device) {
    *device = &emulated_device;
    return strcmp(pci, "0000:00:00.0") ? 6 : 0;  // NVML_ERROR_NOT_FOUND
}
static inline int emulated_nvml_ask(void *device, unsigned long long memory[3]) {
    struct emulated_device *d = (struct emulated_device *)device;
    memory[0] = d->total_bytes, memory[1] = d->total_bytes - d->used_bytes;
    memory[2] = d->used_bytes;
    return 0;
}

static inline void *dlopen(const char *name, int flags) {
    (void)flags;
    return emulated_device.has_nvml && strcmp(name, "libnvidia-ml.so.1") == 0 ? &emulated_device
                                                                              : NULL;
}
static inline void *dlsym(void *library, const char *name) {
    (void)library;
    if (strcmp(name, "nvmlInit_v2") == 0 || strcmp(name, "nvmlShutdown") == 0)
        return (void *)emulated_nvml_nothing;
    if (strcmp(name, "nvmlDeviceGetHandleByPciBusId_v2") == 0) return (void *)emulated_nvml_find;
    return strcmp(name, "nvmlDeviceGetMemoryInfo") == 0 ? (void *)emulated_nvml_ask : NULL;
}
static inline int dlclose(void *library) {
    (void)library;
    return 0;
}

#endif
