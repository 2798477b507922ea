// What the two programs of this folder share: memory that a kernel writes and the host reads, on a
// GPU (nvcc) or on the emulated one (g++). A layout is found by asking the instruction, not by its
// documentation: operands are marked, and the text says where the marks came out. Elements are
// written lane.register.half, half 0 being the lower 16 bits; registers of 32-bit elements,
// lane.register. Who includes it: sm80_layouts.cu, sm90_layouts.cu.
#ifndef CTOK_LAYOUTS_CUH
#define CTOK_LAYOUTS_CUH

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../../csrc/backends/cuda/device.cuh"

#ifdef CTOK_CUDA_EMULATOR
#include <emulator.h>
inline void *new_results(size_t num_bytes) { return emulator_allocate(num_bytes); }

inline void expect_done(int error, const char *kernel) {
    if (!error) return;
    fprintf(stderr, "%s: error %d: %s\n", kernel, error, emulator_failure());
    exit(1);
}
#else
inline void expect_done(int error, const char *kernel) {
    if (!error) error = (int)cudaDeviceSynchronize();
    if (!error) return;
    fprintf(stderr, "%s: %s\n", kernel, cudaGetErrorString((cudaError_t)error));
    exit(1);
}

inline void *new_results(size_t num_bytes) {
    void *memory = nullptr;
    expect_done(cudaMallocHost(&memory, num_bytes), "memory");  // the host's, which the device
                                                                // reaches by the same address
    return memory;
}
#endif

#endif
