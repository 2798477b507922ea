// Attention over the positions of a frame in float32, one head of any width up to 512: softmax(q
// k^T C^-0.5) v with a running maximum and sum. Plain FMAs, made for exactness: bf16 goes to
// sm80_attention. A block makes 32 queries; eight threads share one, each with every eighth of 32
// keys and of the output's channels (in registers). q, k and v pass through shared memory in pieces
// of 32 channels. Who calls it: op.c.
#include "device.cuh"
#include "kernels.h"

enum {
    TILE = 32,          // queries of a block, keys of a step, channels of a piece
    STRIDE = TILE + 1,  // of a row in shared memory: the eight threads of a row then read different
                        // banks
    SHARERS = 8,
    EACH = TILE / SHARERS,
    ATTENTION_THREADS = TILE * SHARERS,
    PIECE_BYTES = TILE * STRIDE * 4
};
static const float LOWEST = -1e30f;  // below every score, and finite: -inf - -inf is NaN

struct plain_attention_call {
    float *out;
    const float *q, *k, *v;
    int64_t num_positions;  // of a frame
    int width;
};

// Copies channels c0 .. c0 + 31 of 32 positions to shared memory; zeros beyond the last.
DEVICE void attention_load(const plain_attention_call &call, shared<float> to, const float *frame,
                           int64_t first, int c0) {
    for (int i = (int)threadIdx.x; i < TILE * TILE; i += ATTENTION_THREADS) {
        int row = i / TILE, c = i % TILE;
        bool is_inside = first + row < call.num_positions && c0 + c < call.width;
        to[row * STRIDE + c] = is_inside ? frame[(first + row) * call.width + c0 + c] : 0.0f;
    }
}

template <int MAX_WIDTH>
__global__ void __launch_bounds__(ATTENTION_THREADS)
    smxx_attention_kernel(plain_attention_call call) {
    shared<float> left = shared_at<float>(0), right = shared_at<float>(PIECE_BYTES),
                  p = shared_at<float>(2 * PIECE_BYTES);
    int64_t tiles = (call.num_positions + TILE - 1) / TILE, frame = blockIdx.x / tiles,
            first = (blockIdx.x - frame * tiles) * TILE;
    int64_t start = frame * call.num_positions * call.width;
    int row = (int)threadIdx.x / SHARERS, part = (int)threadIdx.x % SHARERS;  // keys and channels
                                                                              // part, part + 8, ...
    float scale = 1.0f / sqrtf((float)call.width), largest = LOWEST, total = 0,
          sums[MAX_WIDTH / SHARERS] = {};

    for (int64_t key = 0; key < call.num_positions; key += TILE) {
        float scores[EACH] = {};
        for (int c0 = 0; c0 < call.width; c0 += TILE) {
            attention_load(call, left, call.q + start, first, c0);
            attention_load(call, right, call.k + start, key, c0);
            __syncthreads();
            float piece[EACH] = {};  // added apart: a sum of sums of 32 rounds less than one of 512
            for (int c = 0; c < TILE; c++) {
                float q = left[row * STRIDE + c];
#pragma unroll
                for (int i = 0; i < EACH; i++)
                    piece[i] = fmaf(q, right[(part + SHARERS * i) * STRIDE + c], piece[i]);
            }
#pragma unroll
            for (int i = 0; i < EACH; i++) scores[i] += piece[i];
            __syncthreads();  // all have read before the next piece
        }

        float now = largest;
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            scores[i] =
                key + part + SHARERS * i < call.num_positions ? scores[i] * scale : -INFINITY;
            now = fmaxf(now, scores[i]);
        }
        for (int step = 1; step < SHARERS; step *= 2)
            now = fmaxf(now, __shfl_xor_sync(ALL_LANES, now, step));
        float shrink = expf(largest - now);
        largest = now, total *= shrink;
#pragma unroll
        for (int i = 0; i < MAX_WIDTH / SHARERS; i++) sums[i] *= shrink;
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            float weight = expf(scores[i] - now);
            total += weight, p[row * STRIDE + part + SHARERS * i] = weight;
        }

#pragma unroll
        for (int c0 = 0; c0 < MAX_WIDTH; c0 += TILE) {
            if (c0 >= call.width) break;  // the same in all threads
            attention_load(call, right, call.v + start, key, c0);
            __syncthreads();  // also makes p whole
            for (int j = 0; j < TILE; j++) {
                float weight = p[row * STRIDE + j];
#pragma unroll
                for (int i = 0; i < EACH; i++)
                    sums[c0 / SHARERS + i] = fmaf(weight, right[j * STRIDE + part + SHARERS * i],
                                                  sums[c0 / SHARERS + i]);
            }
            __syncthreads();
        }
    }
    for (int step = 1; step < SHARERS; step *= 2) total += __shfl_xor_sync(ALL_LANES, total, step);
    if (first + row >= call.num_positions) return;
#pragma unroll
    for (int i = 0; i < MAX_WIDTH / SHARERS; i++) {
        int c = part + SHARERS * i;
        if (c < call.width) call.out[start + (first + row) * call.width + c] = sums[i] / total;
    }
}

extern "C" int smxx_attention(void *out, const void *q, const void *k, const void *v,
                              const attention_params *p, cudaStream_t stream) {
    int64_t positions = p->shape.h * p->shape.w,
            blocks = p->shape.n * p->shape.t * ((positions + TILE - 1) / TILE);
    plain_attention_call call = {(float *)out,     (const float *)q, (const float *)k,
                                 (const float *)v, positions,        (int)p->shape.c};
    dim3 grid((unsigned)blocks), block(ATTENTION_THREADS);
    if (p->shape.c <= 128)
        return LAUNCH(smxx_attention_kernel<128>, grid, block, 3 * PIECE_BYTES, stream, call);
    if (p->shape.c <= 512)
        return LAUNCH(smxx_attention_kernel<512>, grid, block, 3 * PIECE_BYTES, stream, call);
    return 1;  // Limit: a query's output must fit the registers of its threads.
               // cudaErrorInvalidValue
}
