// Attention over the positions of a frame in float32, one head of any width up to 512: softmax(q
// k^T C^-0.5) v with a running maximum and sum. Plain FMAs, made for exactness: bf16 goes to
// sm80_attention. A block makes 64 queries, a warp eight of them, and goes over the keys 128 at a
// time. Scores: a thread has its warp's queries by four keys; q and k pass through shared memory in
// pieces of 16 channels, turned so that both are read in whole vectors. Output: a thread has its
// warp's queries by four channels of each 128, in registers; v passes in pieces of 32 keys by 128
// channels. The next piece waits in registers while this one multiplies. Who calls it: op.c.
#include "device.cuh"
#include "kernels.h"

enum {
    QUERIES = 64,   // of a block
    KEYS = 128,     // of a step
    ROWS = 8,       // queries of a warp
    EACH = 4,       // keys, and channels of a panel, of a thread
    CHANNELS = 16,  // of q and k at a time
    V_KEYS = 32,    // of v at a time,
    PANEL = 128,    // and its channels
    WARPS = QUERIES / ROWS,
    ATTENTION_THREADS = WARPS * WARP,
    VECTORS = CHANNELS / 4,  // of a position of q and k
    LOAD_ROWS = ATTENTION_THREADS / VECTORS,
    Q_STRIDE = QUERIES + 4,  // of a channel of q, and of a key of p: neighbours in other banks
    K_STRIDE = KEYS + 4,
    Q_VECTORS = QUERIES / LOAD_ROWS,  // that a thread loads
    K_VECTORS = KEYS / LOAD_ROWS,
    V_VECTORS = V_KEYS / WARPS,
    K_AT = CHANNELS * Q_STRIDE * 4,  // bytes in shared memory: q, k or v, p
    P_AT = K_AT + V_KEYS * PANEL * 4,
    ATTENTION_SHARED_BYTES = P_AT + KEYS * Q_STRIDE * 4
};
static_assert(CHANNELS * K_STRIDE <= V_KEYS * PANEL, "k lies where v does");
static const float LOWEST = -1e30f;  // below every score, and finite: -inf - -inf is NaN

struct plain_attention_call {
    float *out;
    const float *q, *k, *v;
    int num_positions;  // of a frame
    int width;
};

// ---------------------------------------------------------------- pieces
// Channels c .. c + 3 of a position: zero beyond the last channel, and the last position beyond it,
// which is then given no weight.
DEVICE float4 attention_load4(const plain_attention_call &call, const float *frame, int position,
                              int c) {
    int last = call.num_positions - 1, left = call.width - c;
    const float *from = frame + (int64_t)(position < last ? position : last) * call.width + c;
    if (left <= 0) return make_float4(0, 0, 0, 0);
    if (call.width % 4 == 0) return *(const float4 *)from;
    return make_float4(from[0], left > 1 ? from[1] : 0, left > 2 ? from[2] : 0,
                       left > 3 ? from[3] : 0);
}

// Vector i of those that a thread loads of q and k: four channels of one position.
DEVICE int attention_row(int i) { return (int)threadIdx.x / VECTORS + i * LOAD_ROWS; }
DEVICE int attention_channel() { return (int)threadIdx.x % VECTORS * 4; }

// Stored channel by channel, so that a thread reads positions in whole vectors.
template <int COUNT>
DEVICE void attention_keep(shared<float> to, int stride, const float4 (&values)[COUNT]) {
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        shared<float> column = to + attention_channel() * stride + attention_row(i);
        column[0] = values[i].x, column[stride] = values[i].y;
        column[2 * stride] = values[i].z, column[3 * stride] = values[i].w;
    }
}

template <int COUNT>
DEVICE void attention_load(float4 (&values)[COUNT], const plain_attention_call &call,
                           const float *frame, int first, int c0) {
#pragma unroll
    for (int i = 0; i < COUNT; i++)
        values[i] =
            attention_load4(call, frame, first + attention_row(i), c0 + attention_channel());
}

// Of V_KEYS keys by PANEL channels of v, a warp loads every eighth key.
DEVICE void attention_load_v(float4 (&values)[V_VECTORS], const plain_attention_call &call,
                             const float *frame, int first, int c0) {
#pragma unroll
    for (int i = 0; i < V_VECTORS; i++)
        values[i] =
            attention_load4(call, frame, first + warp_id() + i * WARPS, c0 + lane_id() * EACH);
}

DEVICE void attention_keep_v(shared<float> to, const float4 (&values)[V_VECTORS]) {
#pragma unroll
    for (int i = 0; i < V_VECTORS; i++)
        shared_as<float4>(to)[(int)threadIdx.x + i * ATTENTION_THREADS] = values[i];
}

// sums += the products of ROWS values that all of the warp read, and of a thread's own EACH.
DEVICE void attention_multiply(float (&sums)[ROWS][EACH], shared<float> rows,
                               shared<float> columns) {
    float4 low = shared_as<float4>(rows)[0], high = shared_as<float4>(rows)[1],
           right = shared_as<float4>(columns)[0];
    const float left[ROWS] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w},
                each[EACH] = {right.x, right.y, right.z, right.w};
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
        for (int i = 0; i < EACH; i++) sums[r][i] = fmaf(left[r], each[i], sums[r][i]);
}

// ---------------------------------------------------------------- kernel
template <int MAX_WIDTH>
__global__ void __launch_bounds__(ATTENTION_THREADS, 1)
    smxx_attention_kernel(plain_attention_call call) {
    shared<float> q = shared_at<float>(0), k = shared_at<float>(K_AT), v = k,
                  p = shared_at<float>(P_AT);
    unsigned tiles = (unsigned)(call.num_positions + QUERIES - 1) / QUERIES;
    int first = (int)(blockIdx.x % tiles) * QUERIES;
    int64_t start = (int64_t)(blockIdx.x / tiles) * call.num_positions * call.width;
    int row = warp_id() * ROWS, column = lane_id() * EACH;  // the thread's first query; its first
                                                            // key, or channel of a panel
    // Of the warp's query r, lane r has the largest score and the sum of weights so far.
    float scale = 1.0f / sqrtf((float)call.width), largest = LOWEST, total = 0,
          sums[MAX_WIDTH / PANEL][ROWS][EACH] = {};
    for (int key = 0; key < call.num_positions; key += KEYS) {
        float scores[ROWS][EACH] = {};
        float4 next_q[Q_VECTORS], next_k[K_VECTORS];
        attention_load(next_q, call, call.q + start, first, 0);
        attention_load(next_k, call, call.k + start, key, 0);
        for (int c0 = 0; c0 < call.width; c0 += CHANNELS) {
            attention_keep(q, Q_STRIDE, next_q), attention_keep(k, K_STRIDE, next_k);
            __syncthreads();
            if (c0 + CHANNELS < call.width) {
                attention_load(next_q, call, call.q + start, first, c0 + CHANNELS);
                attention_load(next_k, call, call.k + start, key, c0 + CHANNELS);
            }
            float piece[ROWS][EACH] = {};  // added apart: a sum of sums of 16 rounds less than one
                                           // of 512
#pragma unroll 8
            for (int c = 0; c < CHANNELS; c++)
                attention_multiply(piece, q + c * Q_STRIDE + row, k + c * K_STRIDE + column);
#pragma unroll
            for (int r = 0; r < ROWS; r++)
#pragma unroll
                for (int i = 0; i < EACH; i++) scores[r][i] += piece[r][i];
            __syncthreads();  // all have read before the next piece
        }

#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            float before = __shfl_sync(ALL_LANES, largest, r), now = before, weights = 0;
#pragma unroll
            for (int i = 0; i < EACH; i++) {
                scores[r][i] =
                    key + column + i < call.num_positions ? scores[r][i] * scale : -INFINITY;
                now = fmaxf(now, scores[r][i]);
            }
            now = warp_max(now);
#pragma unroll
            for (int i = 0; i < EACH; i++)
                scores[r][i] = expf(scores[r][i] - now), weights += scores[r][i];
            weights = warp_sum(weights);
            float shrink = expf(before - now);
            if (lane_id() == r) largest = now, total = total * shrink + weights;
#pragma unroll
            for (int panel = 0; panel < MAX_WIDTH / PANEL; panel++)
#pragma unroll
                for (int i = 0; i < EACH; i++) sums[panel][r][i] *= shrink;
        }
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            shared<float4> to = shared_as<float4>(p + (column + i) * Q_STRIDE + row);
            to[0] = make_float4(scores[0][i], scores[1][i], scores[2][i], scores[3][i]);
            to[1] = make_float4(scores[4][i], scores[5][i], scores[6][i], scores[7][i]);
        }

#pragma unroll
        for (int panel = 0; panel < MAX_WIDTH / PANEL; panel++) {
            if (panel * PANEL >= call.width) break;  // the same in all threads
            float4 next[V_VECTORS];
            attention_load_v(next, call, call.v + start, key, panel * PANEL);
            for (int j0 = 0; j0 < KEYS; j0 += V_KEYS) {
                if (key + j0 >= call.num_positions) break;
                attention_keep_v(v, next);
                __syncthreads();  // also makes p whole
                if (j0 + V_KEYS < KEYS)
                    attention_load_v(next, call, call.v + start, key + j0 + V_KEYS, panel * PANEL);
#pragma unroll 8
                for (int j = 0; j < V_KEYS; j++)
                    attention_multiply(sums[panel], p + (j0 + j) * Q_STRIDE + row,
                                       v + j * PANEL + column);
                __syncthreads();
            }
        }
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        float whole = __shfl_sync(ALL_LANES, total, r);
        if (first + row + r >= call.num_positions) continue;
        float *out = call.out + start + (int64_t)(first + row + r) * call.width;
#pragma unroll
        for (int panel = 0; panel < MAX_WIDTH / PANEL; panel++)
#pragma unroll
            for (int i = 0; i < EACH; i++) {
                int c = panel * PANEL + column + i;
                if (c < call.width) out[c] = sums[panel][r][i] / whole;
            }
    }
}

extern "C" int smxx_attention(void *out, const void *q, const void *k, const void *v,
                              const attention_params *p, cudaStream_t stream) {
    int64_t positions = p->shape.h * p->shape.w,
            blocks = p->shape.n * p->shape.t * ((positions + QUERIES - 1) / QUERIES);
    plain_attention_call call = {(float *)out,     (const float *)q, (const float *)k,
                                 (const float *)v, (int)positions,   (int)p->shape.c};
    dim3 grid((unsigned)blocks), block(ATTENTION_THREADS);
    if (p->shape.c <= 128)
        return LAUNCH(smxx_attention_kernel<128>, grid, block, ATTENTION_SHARED_BYTES, stream,
                      call);
    if (p->shape.c <= 512)
        return LAUNCH(smxx_attention_kernel<512>, grid, block, ATTENTION_SHARED_BYTES, stream,
                      call);
    return 1;  // Limit: a query's output must fit the registers of its threads.
               // cudaErrorInvalidValue
}
