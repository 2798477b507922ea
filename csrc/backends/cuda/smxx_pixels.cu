// load and store: pixels or a latent of the caller, already in device memory, to an activation and
// back: bytes [N, T, H, W, 3] or float32 [N, C, T, H, W] against float32 NTHWC, padded with black
// and repeated frames, or cropped. A block takes rows. The float32 steps are those of ref_pixels.c,
// none fused, so that every byte is the same.
// Ref: reference/pipeline_reference.py.
#include "device.cuh"
#include "kernels.h"

enum { THREADS = 256 };
static const int64_t MAX_BLOCKS = 1 << 20;

__global__ void load_rows(float *out, const void *external, int64_t rows, transfer_params p) {
    int32_t C = (int32_t)p.shape.c, length = (int32_t)p.shape.w * C;
    for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
        int64_t n = row / p.shape.h / p.shape.t, t = row / p.shape.h % p.shape.t - p.before,
                y = row % p.shape.h - p.top;
        t = t < 0 ? 0 : t < p.frames ? t : p.frames - 1;
        bool is_outside = y < 0 || y >= p.height;
        const uint8_t *bytes =
            (const uint8_t *)external + ((n * p.frames + t) * p.height + y) * p.width * C;
        const float *planes =
            (const float *)external + ((n * C * p.frames + t) * p.height + y) * p.width;
        int64_t plane = p.frames * p.height * p.width;
        for (int32_t i = (int32_t)threadIdx.x; i < length; i += THREADS) {
            int32_t c = i % C;
            int64_t x = i / C - p.left;
            float value = -1.0f;
            if (is_outside || x < 0 || x >= p.width) {
                // black
            } else if (p.format == EXTERNAL_PIXELS_U8) {
                value = (float)bytes[x * C + c] / 255.0f * 2.0f - 1.0f;  // doubling is exact, so a
                                                                         // fused step rounds alike
            } else {
                value = planes[c * plane + x];
            }
            out[row * length + i] = value;
        }
    }
}

DEVICE uint8_t byte_of(float value) {
    float unit = (value + 1.0f) / 2.0f;
    unit = fminf(fmaxf(unit, 0.0f), 1.0f);  // NaN: 0
    return (uint8_t)(int32_t)__fadd_rn(__fmul_rn(unit, 255.0f), 0.5f);
}

__global__ void store_rows(void *external, const float *in, int64_t rows, transfer_params p) {
    int32_t C = (int32_t)p.shape.c, length = (int32_t)p.width * C, width = (int32_t)p.width;
    int64_t plane = p.frames * p.height * p.width;
    for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
        int64_t n = row / p.height / p.frames, t = row / p.height % p.frames, y = row % p.height;
        const float *from =
            in +
            (((n * p.shape.t + t + p.before) * p.shape.h + y + p.top) * p.shape.w + p.left) * C;
        if (p.format == EXTERNAL_PIXELS_U8) {
            uint8_t *to = (uint8_t *)external + row * length;
            for (int32_t i = (int32_t)threadIdx.x; i < length; i += THREADS)
                to[i] = byte_of(from[i]);
        } else {
            float *to = (float *)external + ((n * C * p.frames + t) * p.height + y) * p.width;
            for (int32_t i = (int32_t)threadIdx.x; i < length;
                 i += THREADS) {  // planes are written in whole lines
                int32_t c = i / width, x = i % width;
                to[c * plane + x] = from[(int64_t)x * C + c];
            }
        }
    }
}

static unsigned blocks_of(int64_t rows) {
    return (unsigned)(rows < MAX_BLOCKS ? rows : MAX_BLOCKS);
}

extern "C" int smxx_load(float *out, const void *external, const transfer_params *p,
                         cudaStream_t stream) {
    int64_t rows = p->shape.n * p->shape.t * p->shape.h;
    return LAUNCH(load_rows, dim3(blocks_of(rows)), dim3(THREADS), 0, stream, out, external, rows,
                  *p);
}

extern "C" int smxx_store(void *external, const float *in, const transfer_params *p,
                          cudaStream_t stream) {
    int64_t rows = p->shape.n * p->frames * p->height;
    return LAUNCH(store_rows, dim3(blocks_of(rows)), dim3(THREADS), 0, stream, external, in, rows,
                  *p);
}
