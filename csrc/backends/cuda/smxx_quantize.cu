// quantize and dequantize, of every kind (base/ops.h). FSQ and SIGN take a thread a position; a
// warp looks up TOGETHER of them at a time: first the least float32 distance to any code, then the
// float64 distance of those codes that could be nearer than it tells, which decides. tanh, lengths
// and those distances are in float64 and no step is fused, as in ref_quantize.c: a value next to a
// boundary must fall on the same side everywhere.
#include "device.cuh"
#include "kernels.h"

enum { THREADS = 128, WARPS = THREADS / WARP, TOGETHER = 4 };

// ---------------------------------------------------------------- FSQ, SIGN
__global__ void fsq_positions(int32_t *indices, float *codes, const float *in, int64_t positions,
                              quantizer_params p) {
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
        // A NaN stays a NaN as a code, and its index has the lowest digit.
        if (digit == digit) index += ((int32_t)digit + width) * p.basis[c];
    }
    if (indices) indices[at] = index;
}

__global__ void sign_positions(int32_t *indices, float *codes, const float *in, int64_t positions,
                               int32_t d) {
    int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (at >= positions) return;
    uint32_t index = 0;
    for (int32_t c = 0; c < d; c++) {
        float z = in[at * d + c];
        codes[at * d + c] = z > 0 ? 1.0f : z == z ? -1.0f : z;
        index |= (uint32_t)(z > 0) << c;
    }
    if (indices) indices[at] = (int32_t)index;
}

// ---------------------------------------------------------------- LOOKUP
struct lookup_call {
    int32_t *indices;  // or NULL
    float *codes;
    const float *in, *codebook;
    int64_t positions;
    int32_t d, size;
};

// Squared distances of one code from the unit vectors of a warp, [d][TOGETHER].
DEVICE void square_distances(float *sums, shared<float> unit, const float *code, int32_t d) {
    for (int i = 0; i < TOGETHER; i++) sums[i] = 0;
    for (int32_t c = 0; c < d; c++) {
        float4 u = *(shared_as<float4>(unit) + c);
        float e = code[c], gaps[TOGETHER] = {u.x - e, u.y - e, u.z - e, u.w - e};
#pragma unroll
        for (int i = 0; i < TOGETHER; i++) sums[i] = fmaf(gaps[i], gaps[i], sums[i]);
    }
}

DEVICE double exact_distance(shared<float> unit, int i, const float *code, int32_t d) {
    double sum = 0;
    for (int32_t c = 0; c < d; c++) {
        double gap = __dadd_rn((double)(float)unit[c * TOGETHER + i], -(double)code[c]);
        sum = __dadd_rn(sum, __dmul_rn(gap, gap));
    }
    return sum;
}

DEVICE void put_unit_vector(shared<float> unit, const float *z, int32_t d) {
    double square = 0;
    for (int32_t c = 0; c < d; c++)
        square = __dadd_rn(square, __dmul_rn((double)z[c], (double)z[c]));
    double length = fmax(sqrt(square), 1e-12);
    for (int32_t c = 0; c < d; c++) unit[c * TOGETHER] = (float)((double)z[c] / length);
}

__global__ void __launch_bounds__(THREADS) lookup_positions(lookup_call call) {
    int32_t d = call.d, lane = lane_id();
    int64_t first = ((int64_t)blockIdx.x * WARPS + warp_id()) * TOGETHER;
    if (first >= call.positions) return;  // a whole warp: nothing here meets the others
    int count = call.positions - first < TOGETHER ? (int)(call.positions - first) : TOGETHER;
    shared<float> unit =
        shared_at<float>((uint32_t)(warp_id() * d * TOGETHER) * (uint32_t)sizeof(float));
    // Where fewer than TOGETHER positions are left, the last one is looked up several times.
    int64_t own = first + (lane < count ? lane : count - 1);
    if (lane < TOGETHER) put_unit_vector(unit + lane, call.in + own * d, d);
    __syncwarp();

    float sums[TOGETHER], limits[TOGETHER];
    for (int i = 0; i < TOGETHER; i++) limits[i] = INFINITY;
    for (int32_t k = lane; k < call.size; k += WARP) {
        square_distances(sums, unit, call.codebook + (int64_t)k * d, d);
        for (int i = 0; i < TOGETHER; i++)
            limits[i] = fminf(limits[i], sums[i]);  // NaN is never the least
    }
    // A sum of squares is within (d + 2) 2^-24 of itself: four times that for either of two
    // distances, and what the smallest numbers lose.
    float factor = 1 + (float)(d + 4) * 0x1p-21f, smallest = (float)d * 1e-37f;
    for (int i = 0; i < TOGETHER; i++) limits[i] = -warp_max(-limits[i]) * factor + smallest;

    double least[TOGETHER];
    int nearest[TOGETHER];
    for (int i = 0; i < TOGETHER; i++) least[i] = INFINITY, nearest[i] = 0;
    for (int32_t k = lane; k < call.size; k += WARP) {
        const float *code = call.codebook + (int64_t)k * d;
        square_distances(sums, unit, code, d);
#pragma unroll
        for (int i = 0; i < TOGETHER; i++) {
            if (!(sums[i] <= limits[i])) continue;
            double distance = exact_distance(unit, i, code, d);
            if (distance < least[i]) least[i] = distance, nearest[i] = k;
        }
    }
#pragma unroll
    for (int i = 0; i < TOGETHER; i++) {
        for (int step = WARP / 2; step > 0; step /= 2) {
            double distance = __shfl_xor_sync(ALL_LANES, least[i], step);
            int k = __shfl_xor_sync(ALL_LANES, nearest[i], step);
            bool is_nearer = distance < least[i] || (distance == least[i] && k < nearest[i]);
            if (is_nearer) least[i] = distance, nearest[i] = k;
        }
        if (i >= count) continue;
        if (call.indices && lane == 0) call.indices[first + i] = nearest[i];
        const float *code = call.codebook + (int64_t)nearest[i] * d;
        bool is_found = least[i] < INFINITY;  // NaN and infinity are near nothing
        for (int32_t c = lane; c < d; c += WARP)
            call.codes[(first + i) * d + c] = is_found ? code[c] : NAN;
    }
}

// ---------------------------------------------------------------- codes of indices
__global__ void dequantize_positions(float *codes, const int32_t *indices, const float *codebook,
                                     int64_t positions, quantizer_params p) {
    int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (at >= positions) return;
    int32_t d = (int32_t)p.shape.c, index = indices[at];
    for (int32_t c = 0; c < d; c++) {
        float code = 0;
        if (p.kind == QUANTIZER_FSQ) {
            int32_t width = p.levels[c] / 2, digit = index / p.basis[c] % p.levels[c];
            code = (float)(digit - width) / (float)width;
        } else if (p.kind == QUANTIZER_LOOKUP) {
            code = codebook[(int64_t)index * d + c];
        } else {
            code = (uint32_t)index >> c & 1 ? 1.0f : -1.0f;
        }
        codes[at * d + c] = code;
    }
}

static dim3 blocks_of(int64_t positions, int64_t block) {
    return dim3((unsigned)((positions + block - 1) / block));
}

extern "C" int smxx_quantize(int32_t *indices, float *codes, const float *in, const float *codebook,
                             const quantizer_params *p, cudaStream_t stream) {
    int64_t positions = shape_positions(p->shape);
    int32_t d = (int32_t)p->shape.c;
    dim3 blocks = blocks_of(positions, THREADS), block(THREADS);
    switch (p->kind) {
        case QUANTIZER_FSQ:
            return LAUNCH(fsq_positions, blocks, block, 0, stream, indices, codes, in, positions,
                          *p);
        case QUANTIZER_SIGN:
            return LAUNCH(sign_positions, blocks, block, 0, stream, indices, codes, in, positions,
                          d);
        case QUANTIZER_LOOKUP: {
            lookup_call call = {indices, codes, in, codebook, positions, d, p->size};
            // Limit: codes of 1024 channels, whose unit vectors fill the 64 KB that a block has on
            // devices of 7.5.
            size_t unit_bytes = (size_t)d * WARPS * TOGETHER * sizeof(float);
            blocks = blocks_of(positions, WARPS * TOGETHER);
            return LAUNCH(lookup_positions, blocks, block, unit_bytes, stream, call);
        }
        case QUANTIZER_NONE: break;
    }
    return 1;  // cudaErrorInvalidValue
}

extern "C" int smxx_dequantize(float *codes, const int32_t *indices, const float *codebook,
                               const quantizer_params *p, cudaStream_t stream) {
    int64_t positions = shape_positions(p->shape);
    dim3 blocks = blocks_of(positions, THREADS);
    dim3 block(THREADS);
    return LAUNCH(dequantize_positions, blocks, block, 0, stream, codes, indices, codebook,
                  positions, *p);
}
