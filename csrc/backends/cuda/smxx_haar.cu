// haar and unhaar: the wavelet of a patch of 2 or 4 pixels a side (and as many frames), float32. A
// thread holds one channel of one patch, 4 to 64 values, in registers and splits it as ref_pixels.c
// does: T, then H, then W (images: W, then H) in each of log2(patch) steps, (a + b) / 2 and (a - b)
// / 2, so every bit is the same. A place is a pixel's number in its patch, (t * p + y) * p + x; a
// band's number holds the same bits in the order of the splits, the later step on top.
// Ref: haar, Patch, Unpatch in reference/cosmos_reference.py.
#include "device.cuh"
#include "kernels.h"

enum { THREADS = 128 };

// Number of splits of the patch: one for each dimension in each step. PATCH is 2 or 4; DIMS is 2
// (image) or 3 (video).
template <int PATCH, int DIMS>
struct haar_plan {
    static constexpr int STEPS = PATCH == 4 ? 2 : 1, SPLITS = STEPS * DIMS, PLACES = 1 << SPLITS;
    // The bit of a pixel's number in its patch (`place`) that split s separates by.
    static __host__ __device__ constexpr int place_bit(int s) {
        return ((DIMS == 3 ? 2 - s % 3 : s % 2) * STEPS + s / DIMS);  // dimension (W 0, H 1, T 2),
                                                                      // then step
    }
    static __host__ __device__ constexpr int band_bit(int s) {
        return s / DIMS * DIMS + DIMS - 1 - s % DIMS;
    }
    static __host__ __device__ constexpr int band_of(int place) {
        int band = 0;
        for (int s = 0; s < SPLITS; s++) band |= (place >> place_bit(s) & 1) << band_bit(s);
        return band;
    }
};

template <int PLACES>
DEVICE void split(float (&values)[PLACES], int bit, float scale) {
#pragma unroll
    for (int i = 0; i < PLACES; i++) {
        if (i >> bit & 1) continue;
        float a = values[i], b = values[i | 1 << bit];
        values[i] = (a + b) * scale, values[i | 1 << bit] = (a - b) * scale;
    }
}

// bands: [N, T, H, W, places * C] of the patches, `grid` their shape but for the channels; pixels:
// as `shape`.
template <int PATCH, int DIMS, bool IS_INVERSE>
__global__ void haar_patches(float *bands, float *pixels, ctok_shape grid, ctok_shape shape,
                             int32_t extra, int64_t num_threads) {
    typedef haar_plan<PATCH, DIMS> plan;
    int64_t thread = (int64_t)blockIdx.x * THREADS + threadIdx.x, C = shape.c;
    if (thread >= num_threads) return;
    int64_t c = thread % C, patch = thread / C, x = patch % grid.w, y = patch / grid.w % grid.h;
    int64_t t = patch / grid.w / grid.h % grid.t, n = patch / grid.w / grid.h / grid.t;
    float *band = bands + patch * plan::PLACES * C + c;
    float values[plan::PLACES];
    if (IS_INVERSE) {
#pragma unroll
        for (int i = 0; i < plan::PLACES; i++) values[i] = band[plan::band_of(i) * C];
#pragma unroll
        for (int s = plan::SPLITS - 1; s >= 0; s--) split(values, plan::place_bit(s), 1.0f);
    }
    int64_t first = t * (DIMS == 3 ? PATCH : 1) - extra;  // the first frame is read, and written,
                                                          // for all before it
#pragma unroll
    for (int i = 0; i < plan::PLACES; i++) {
        int64_t frame = first + i / PATCH / PATCH, line = y * PATCH + i / PATCH % PATCH;
        if (IS_INVERSE && frame < 0) continue;
        if (frame < 0) frame = 0;
        float *pixel =
            pixels +
            (((n * shape.t + frame) * shape.h + line) * shape.w + x * PATCH + i % PATCH) * C + c;
        if (IS_INVERSE) *pixel = values[i];
        else values[i] = *pixel;
    }
    if (!IS_INVERSE) {
#pragma unroll
        for (int s = 0; s < plan::SPLITS; s++) split(values, plan::place_bit(s), 0.5f);
#pragma unroll
        for (int i = 0; i < plan::PLACES; i++) band[plan::band_of(i) * C] = values[i];
    }
}

template <bool IS_INVERSE>
static int run(float *bands, float *pixels, ctok_shape grid, ctok_shape shape, const haar_params *p,
               cudaStream_t stream) {
    int64_t threads = grid.n * grid.t * grid.h * grid.w * shape.c;
    int32_t extra = p->is_first ? p->patch_t - 1 : 0;
    dim3 blocks((unsigned)((threads + THREADS - 1) / THREADS)), block(THREADS);
    if (p->patch == 2 && p->patch_t == 1)
        return LAUNCH((haar_patches<2, 2, IS_INVERSE>), blocks, block, 0, stream, bands, pixels,
                      grid, shape, extra, threads);
    if (p->patch == 4 && p->patch_t == 1)
        return LAUNCH((haar_patches<4, 2, IS_INVERSE>), blocks, block, 0, stream, bands, pixels,
                      grid, shape, extra, threads);
    if (p->patch == 2)
        return LAUNCH((haar_patches<2, 3, IS_INVERSE>), blocks, block, 0, stream, bands, pixels,
                      grid, shape, extra, threads);
    return LAUNCH((haar_patches<4, 3, IS_INVERSE>), blocks, block, 0, stream, bands, pixels, grid,
                  shape, extra, threads);
}

extern "C" int smxx_haar(float *out, const float *in, const haar_params *p, cudaStream_t stream) {
    return run<false>(out, const_cast<float *>(in), p->out, p->in, p, stream);
}

extern "C" int smxx_unhaar(float *out, const float *in, const haar_params *p, cudaStream_t stream) {
    return run<true>(const_cast<float *>(in), out, p->in, p->out, p, stream);
}
