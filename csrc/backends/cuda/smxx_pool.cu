// pool: the mean of 2 x 2 pixels, or of two frames, float32 (summed in float64, as ref_pixels.c) or
// bf16 (in float32). A block takes rows of the output, a thread an element at a time; a network
// pools once or twice, next to dozens of convolutions.
#include "device.cuh"
#include "kernels.h"

enum { THREADS = 256 };
static const int64_t MAX_BLOCKS = 1 << 20;

DEVICE float mean(const float *a, const float *b) { return (float)(((double)*a + *b) / 2); }
DEVICE bf16 mean(const bf16 *a, const bf16 *b) {
    return from_float<bf16>((to_float(*a) + to_float(*b)) / 2);
}
DEVICE float mean(const float *a, const float *b, const float *c, const float *d) {
    return (float)(((double)*a + *b + *c + *d) / 4);
}
DEVICE bf16 mean(const bf16 *a, const bf16 *b, const bf16 *c, const bf16 *d) {
    return from_float<bf16>(((to_float(*a) + to_float(*b)) + (to_float(*c) + to_float(*d))) / 4);
}

template <typename T>
__global__ void pool_rows(T *out, const T *in, int64_t rows, pool_params p) {
    int32_t C = (int32_t)p.in.c, length = (int32_t)p.out.w * C;
    int64_t in_row = p.in.w * C, frame = p.in.h * in_row;
    for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
        int64_t n = row / p.out.h / p.out.t, t = row / p.out.h % p.out.t, y = row % p.out.h;
        const T *clip = in + n * p.in.t * frame;
        T *to = out + row * length;
        if (p.is_temporal) {
            int64_t second = 2 * t + !p.is_first, first = second > 0 ? second - 1 : 0;
            const T *a = clip + first * frame + y * in_row, *b = clip + second * frame + y * in_row;
            for (int32_t i = (int32_t)threadIdx.x; i < length; i += THREADS)
                to[i] = mean(a + i, b + i);
        } else {
            const T *from = clip + t * frame + 2 * y * in_row;
            for (int32_t i = (int32_t)threadIdx.x; i < length; i += THREADS) {
                const T *a = from + i / C * 2 * C + i % C;
                to[i] = mean(a, a + C, a + in_row, a + in_row + C);
            }
        }
    }
}

extern "C" int smxx_pool(void *out, const void *in, const pool_params *p, cudaStream_t stream) {
    int64_t rows = p->out.n * p->out.t * p->out.h;
    dim3 blocks((unsigned)(rows < MAX_BLOCKS ? rows : MAX_BLOCKS)), block(THREADS);
    if (p->dtype == CTOK_BF16)
        return LAUNCH((pool_rows<bf16>), blocks, block, 0, stream, (bf16 *)out, (const bf16 *)in,
                      rows, *p);
    return LAUNCH((pool_rows<float>), blocks, block, 0, stream, (float *)out, (const float *)in,
                  rows, *p);
}
