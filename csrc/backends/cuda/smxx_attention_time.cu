// Causal attention over time at each position, one head of any width up to 512, float32 or bf16:
// frame t of q sees the frames of k and v up to num_past + t, of which the last `window` (0: all).
// A warp makes one query, a lane has every 32nd channel, and the sequences are short (frames of a
// clip), so keys pass one by one under a running maximum and sum, in float32.
// Who calls it: op.c.
#include "device.cuh"
#include "kernels.h"

enum { WARPS = 4 };
static const float LOWEST = -1e30f;  // below every score, and finite: -inf - -inf is NaN

template <typename T>
struct attention_time_call {
    T *out;
    const T *q, *k, *v;
    int64_t num_positions, num_queries;    // of a frame; of all frames and images
    int64_t num_frames, num_past, window;  // num_frames: of q, an image
    int width;
};

// Neighbouring warps have neighbouring positions: what they read lies together.
template <typename T, int MAX_WIDTH>
__global__ void __launch_bounds__(WARPS *WARP)
    smxx_attention_time_kernel(attention_time_call<T> call) {
    int64_t query = (int64_t)blockIdx.x * WARPS + warp_id();
    if (query >= call.num_queries) return;  // a whole warp: nothing here meets the others
    int64_t frame = query / call.num_positions, position = query - frame * call.num_positions;
    int64_t n = frame / call.num_frames, t = frame - n * call.num_frames;
    int64_t end = call.num_past + t + 1,
            first = call.window && end > call.window ? end - call.window : 0;
    int64_t step = call.num_positions * call.width,
            image = n * (call.num_past + call.num_frames) * step + position * call.width;
    float q[MAX_WIDTH / WARP], sums[MAX_WIDTH / WARP] = {}, scale = 1.0f / sqrtf((float)call.width),
                                                largest = LOWEST, total = 0;
#pragma unroll
    for (int i = 0; i < MAX_WIDTH / WARP; i++) {
        int c = lane_id() + WARP * i;
        q[i] = c < call.width ? to_float(call.q[query * call.width + c]) : 0.0f;
    }
    for (int64_t key = first; key < end; key++) {
        const T *k = call.k + image + key * step, *v = call.v + image + key * step;
        float score = 0;
#pragma unroll
        for (int i = 0; i < MAX_WIDTH / WARP; i++) {
            int c = lane_id() + WARP * i;
            if (c < call.width) score = fmaf(q[i], to_float(k[c]), score);
        }
        score = warp_sum(score) * scale;
        float now = fmaxf(largest, score), shrink = expf(largest - now), weight = expf(score - now);
        largest = now, total = total * shrink + weight;
#pragma unroll
        for (int i = 0; i < MAX_WIDTH / WARP; i++) {
            int c = lane_id() + WARP * i;
            if (c < call.width) sums[i] = fmaf(weight, to_float(v[c]), sums[i] * shrink);
        }
    }
#pragma unroll
    for (int i = 0; i < MAX_WIDTH / WARP; i++) {
        int c = lane_id() + WARP * i;
        if (c < call.width) call.out[query * call.width + c] = from_float<T>(sums[i] / total);
    }
}

template <typename T>
static int attention_time_launch(void *out, const void *q, const void *k, const void *v,
                                 const attention_params *p, cudaStream_t stream) {
    int64_t positions = p->shape.h * p->shape.w, queries = shape_positions(p->shape);
    attention_time_call<T> call = {(T *)out,  (const T *)q,   (const T *)k, (const T *)v,
                                   positions, queries,        p->shape.t,   p->num_past,
                                   p->window, (int)p->shape.c};
    dim3 grid((unsigned)((queries + WARPS - 1) / WARPS)), block(WARPS * WARP);
    if (p->shape.c <= 128)
        return LAUNCH((smxx_attention_time_kernel<T, 128>), grid, block, 0, stream, call);
    if (p->shape.c <= 512)
        return LAUNCH((smxx_attention_time_kernel<T, 512>), grid, block, 0, stream, call);
    return 1;  // Limit: a query must fit the registers of its warp. cudaErrorInvalidValue
}

extern "C" int smxx_attention_time(void *out, const void *q, const void *k, const void *v,
                                   const attention_params *p, cudaStream_t stream) {
    if (p->dtype == CTOK_BF16) return attention_time_launch<bf16>(out, q, k, v, p, stream);
    return attention_time_launch<float>(out, q, k, v, p, stream);
}
