// quantize and dequantize: FSQ in float32, a thread a position. bounded = tanh(z + shift) * half_width - offset, a digit is it
// rounded half to even; tanh in float64, rounded once, and no step fused, as ref_pixels.c: a value next to a rounding boundary
// must fall on the same side everywhere.
#include "device.cuh"
#include "kernels.h"

enum { THREADS = 128 };

__global__ void quantize_positions(int32_t *indices, float *codes, const float *in, int64_t positions, quantizer_params p) {
    int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (at >= positions) return;
    int32_t d = (int32_t)p.shape.c, index = 0;
    for (int32_t c = 0; c < d; c++) {
        int32_t width = p.levels[c] / 2;
        float lowest = (float)-width, highest = (float)(p.levels[c] - 1 - width);
        float tanh_z = (float)tanh((double)__fadd_rn(in[at * d + c], p.shift[c]));
        float digit = rintf(__fadd_rn(__fmul_rn(tanh_z, p.half_width[c]), -p.offset[c]));
        if (digit < lowest) digit = lowest;  // only levels above 1000 reach past their last digit
        if (digit > highest) digit = highest;
        codes[at * d + c] = digit / (float)width;
        if (digit == digit) index += ((int32_t)digit + width) * p.basis[c];  // NaN: a NaN code, lowest digit in the index
    }
    if (indices) indices[at] = index;
}

__global__ void dequantize_positions(float *codes, const int32_t *indices, int64_t positions, quantizer_params p) {
    int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (at >= positions) return;
    int32_t d = (int32_t)p.shape.c;
    for (int32_t c = 0; c < d; c++) {
        int32_t width = p.levels[c] / 2, digit = indices[at] / p.basis[c] % p.levels[c];
        codes[at * d + c] = (float)(digit - width) / (float)width;
    }
}

static dim3 blocks_of(int64_t positions) { return dim3((unsigned)((positions + THREADS - 1) / THREADS)); }

extern "C" int smxx_quantize(int32_t *indices, float *codes, const float *in, const quantizer_params *p, cudaStream_t stream) {
    int64_t positions = shape_positions(p->shape);
    return LAUNCH(quantize_positions, blocks_of(positions), dim3(THREADS), 0, stream, indices, codes, in, positions, *p);
}

extern "C" int smxx_dequantize(float *codes, const int32_t *indices, const quantizer_params *p, cudaStream_t stream) {
    int64_t positions = shape_positions(p->shape);
    return LAUNCH(dequantize_positions, blocks_of(positions), dim3(THREADS), 0, stream, codes, indices, positions, *p);
}
