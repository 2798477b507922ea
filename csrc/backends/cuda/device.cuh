// The words that every kernel file is written in. A kernel (.cu, C++17) includes this, ptx/*.cuh
// and plain C headers, nothing else, and compiles unchanged with nvcc and with g++
// -DCTOK_CUDA_EMULATOR, where <cuda_runtime.h> is that of tests/native/cuda_emulator: threads are
// fibers there, and shared<T> is a proxy that sees races, steps beyond the end and reads of what no
// copy has completed. Only this file and ptx/ know of the emulator. The rules that make it work:
// shared memory is dynamic and reached through shared_at; elements of it are read and written whole
// (float4 v = tile[i]; then v.x); PTX comes from ptx/; kernels are started by LAUNCH; global memory
// is plain pointers.
#ifndef CTOK_CUDA_DEVICE_CUH
#define CTOK_CUDA_DEVICE_CUH

#include <cuda_runtime.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>

#include "../../base/ops.h"

#define DEVICE __device__ __forceinline__

#ifndef CTOK_CUDA_EMULATOR
// Part of the block's dynamic shared memory; the base is 1024-byte aligned.
template <typename T>
using shared = T *;

template <typename T>
DEVICE shared<T> shared_at(uint32_t byte_offset) {
    extern __shared__ __align__(1024) unsigned char shared_memory[];
    return reinterpret_cast<T *>(shared_memory + byte_offset);
}

template <typename U, typename T>
DEVICE shared<U> shared_as(T *pointer) {
    return reinterpret_cast<U *>(pointer);
}

// 0, or the CUDA error of the start (cudaError_t); what goes wrong later shows at the next
// synchronisation.
template <typename... P, typename... A>
static int launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes,
                  cudaStream_t stream, A... arguments) {
    if (shared_bytes > 48 * 1024) {
        cudaError_t error = cudaFuncSetAttribute(
            kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes);
        if (error != cudaSuccess) return (int)cudaGetLastError();  // or the next start tells it too
    }
    kernel<<<grid, block, shared_bytes, stream>>>(static_cast<P>(arguments)...);
    return (int)cudaGetLastError();
}
#define LAUNCH(kernel, ...) \
    launch(kernel, __VA_ARGS__)  // kernel, grid, block, shared_bytes, stream, arguments...; (k<a,
                                 // b>) in brackets
#endif

enum { WARP = 32 };
static const unsigned ALL_LANES = 0xFFFFFFFFu;

// Hides where a value comes from: the compiler cannot compute ahead of a loop what follows from it,
// and keep that in registers.
DEVICE void hide_origin(int &value) { asm volatile("" : "+r"(value)); }

DEVICE int lane_id() { return (int)(threadIdx.x % WARP); }
DEVICE int warp_id() { return (int)(threadIdx.x / WARP); }

// ---------------------------------------------------------------- element types
struct bf16 {
    uint16_t bits;  // the upper half of a float
};

DEVICE float to_float(float value) { return value; }
DEVICE float to_float(bf16 value) { return __uint_as_float((uint32_t)value.bits << 16); }

template <typename T>
DEVICE T from_float(float value);

template <>
DEVICE float from_float<float>(float value) {
    return value;
}

template <>
DEVICE bf16 from_float<bf16>(float value) {  // to nearest, ties to even, as bf16_round; on every
                                             // architecture
    uint32_t bits = __float_as_uint(value);
    if (value != value) return bf16{(uint16_t)(bits >> 16 | 0x40)};
    return bf16{(uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16)};
}

// The two bf16 in a 32-bit word as floats; the low half is the element with the lower index.
DEVICE float low_float(uint32_t pair) { return __uint_as_float(pair << 16); }
DEVICE float high_float(uint32_t pair) { return __uint_as_float(pair & 0xFFFF0000u); }

// ---------------------------------------------------------------- warps
// Sums and maxima over the lanes of a warp; every lane gets the result.
DEVICE float warp_sum(float value) {
    for (int step = WARP / 2; step > 0; step /= 2) value += __shfl_xor_sync(ALL_LANES, value, step);
    return value;
}

DEVICE double warp_sum_double(double value) {
    for (int step = WARP / 2; step > 0; step /= 2) value += __shfl_xor_sync(ALL_LANES, value, step);
    return value;
}

DEVICE float warp_max(float value) {
    for (int step = WARP / 2; step > 0; step /= 2)
        value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, step));
    return value;
}

#endif
