// Attention over the positions of a frame, one head of width C (32 .. 512, a multiple of 32), bf16:
// softmax(q k^T C^-0.5) v with a running maximum and sum, so that no N x N matrix is stored; N to
// 2^31. Both products on mma.sync, float32 sums. A block makes 64 queries with 8 warps, a step of
// 64 or 128 keys at a time: warp (r, g) has rows 32 r .. 32 r + 31; it scores the g-th quarter of
// the step's keys, and of every 64 channels of the output it keeps those of 16 g, in registers. k
// and v stream through one ring of stages, each of one or two panels: 64 positions x 64 channels in
// 128-byte rows whose 16-byte chunks are permuted by row. p passes in shared memory.
//     shared: q [panels] | ring [STAGES][HALVES panels] | p [HALVES panels]
//             | row maxima of each g [64][4] float
// Who calls it: op.c, with the tile of attention_tile_choose.
#include "device.cuh"
#include "kernels.h"
#include "ptx/convert.cuh"
#include "ptx/cp_async.cuh"
#include "ptx/ldmatrix.cuh"
#include "ptx/mma.cuh"

enum {
    ROWS = 64,            // queries of a block, positions and channels of a panel
    PANEL = ROWS * ROWS,  // elements
    ATTENTION_THREADS = 256,
    LOAD_ROWS = ATTENTION_THREADS / 8  // that one round of copies fills: 8 chunks a row
};
static const float LOWEST = -1e30f;  // below every score, and finite: -inf - -inf is NaN

// PANELS of 64 channels; a step of HALVES x 64 keys; a ring of STAGES. The step's stages, in the
// order in which they are loaded and used: k, all keys of one panel of channels in each; then v,
// HALVES panels in each, all channels of the first 64 keys before those of the next.
template <int PANELS_, int HALVES_, int STAGES_>
struct attention_shape_of {
    static constexpr int PANELS = PANELS_, HALVES = HALVES_, STAGES = STAGES_;
    static constexpr int KEYS = HALVES * ROWS;  // of a step
    static constexpr int WARP_KEYS = KEYS / 4;  // that a warp scores
    static constexpr int STEP_STAGES = 2 * PANELS;
    static constexpr int STAGE = HALVES * PANEL;   // elements
    static constexpr bool IS_WHOLE = HALVES == 2;  // width == 64 PANELS; else beyond half of it
};

struct attention_call {
    bf16 *out;
    const bf16 *q, *k, *v;
    int64_t num_positions;  // of a frame
    int width;
    float scale;  // C^-0.5 * log2(e)
};

// Rows a multiple of 8 apart are permuted alike: their chunks lie that many times ROWS apart.
DEVICE int panel_at(int row, int chunk) { return row * ROWS + ((chunk ^ (row & 7)) << 3); }

// ---------------------------------------------------------------- loading
// Channels 64 panel .. of the block's 64 queries; zeros beyond the last position and channel.
DEVICE void attention_load_queries(const attention_call &call, shared<bf16> to, const bf16 *frame,
                                   int first, int panel) {
    int chunk = (int)threadIdx.x % 8, c = panel * ROWS + chunk * 8;
#pragma unroll
    for (int round = 0; round < ROWS / LOAD_ROWS; round++) {
        int row = (int)threadIdx.x / 8 + round * LOAD_ROWS;
        bool is_inside = first + row < call.num_positions && c < call.width;
        cp_async_16(to + panel_at(row, chunk),
                    frame + (is_inside ? (int64_t)(first + row) * call.width + c : 0),
                    is_inside ? 16 : 0);
    }
}

// Where a thread reads its chunk of the rows of a step, in k or in v: row i is LOAD_ROWS i further.
// Keys beyond the last read the last: their weights are zero.
template <typename S>
struct attention_rows {
    const bf16 *at[S::KEYS / LOAD_ROWS];
};

template <typename S>
DEVICE void attention_set_rows(const attention_call &call, attention_rows<S> &rows, const bf16 *of,
                               int64_t frame, int64_t key) {
    int c = (int)threadIdx.x % 8 * 8;
    if (S::PANELS == 1 && !S::IS_WHOLE && c >= call.width) c = 0;
    int64_t row = key + (int)threadIdx.x / 8, last = call.num_positions - 1;
#pragma unroll
    for (int i = 0; i < S::KEYS / LOAD_ROWS; i++, row += LOAD_ROWS)
        rows.at[i] = of + (frame + (row < last ? row : last)) * call.width + c;
}

// One panel of a stage: 64 of the step's keys, from 64 half; zeros beyond the last channel.
template <typename S>
DEVICE void attention_load_panel(const attention_call &call, const attention_rows<S> &rows,
                                 shared<bf16> to, int half, int panel) {
    constexpr int ROUNDS = ROWS / LOAD_ROWS;
    int chunk = (int)threadIdx.x % 8;
    bool is_inside = S::IS_WHOLE || panel < S::PANELS / 2 || panel * ROWS + chunk * 8 < call.width;
#pragma unroll
    for (int i = 0; i < ROUNDS; i++)
        cp_async_16(to + panel_at((int)threadIdx.x / 8, chunk) + i * LOAD_ROWS * ROWS,
                    rows.at[half * ROUNDS + i] + (is_inside ? panel * ROWS : 0),
                    is_inside ? 16 : 0);
}

// Issues the copies of stage `stage` of the step that begins with `key`.
template <typename S>
DEVICE void attention_load_stage(const attention_call &call, attention_rows<S> &rows,
                                 shared<bf16> to, int64_t frame, int64_t key, int stage) {
    bool is_k = stage < S::PANELS;
    if (stage % S::PANELS == 0) attention_set_rows(call, rows, is_k ? call.k : call.v, frame, key);
#pragma unroll
    for (int i = 0; i < S::HALVES; i++) {
        int piece = (stage - S::PANELS) * S::HALVES + i;  // of v
        attention_load_panel(call, rows, to + i * PANEL, is_k ? i : piece / S::PANELS,
                             is_k ? stage : piece % S::PANELS);
    }
}

// ---------------------------------------------------------------- products
// What one step of 16 channels multiplies: 32 rows of q, and of k the warp's keys.
template <typename S>
struct attention_fragments {
    uint32_t q[2][4], k[S::HALVES][4];
};

// q_at and k_at: where the lane reads of the first step. Chunks two further lie at exclusive or 2,
// as they are permuted by one.
template <typename S>
DEVICE void attention_load_fragments(attention_fragments<S> &f, shared<bf16> q, shared<bf16> k,
                                     int q_at, int k_at, int step) {
#pragma unroll
    for (int j = 0; j < S::HALVES; j++)
        ldmatrix_x4(f.k[j], k + (k_at ^ 2 * step << 3) + 16 * j * ROWS);
#pragma unroll
    for (int i = 0; i < 2; i++) ldmatrix_x4(f.q[i], q + (q_at ^ 2 * step << 3) + 16 * i * ROWS);
}

// scores[i][j] of rows 16 i and keys 8 j.
template <typename S>
DEVICE void attention_score(float (&scores)[2][2 * S::HALVES][4], const attention_fragments<S> &f) {
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 2 * S::HALVES; j++)
            mma_m16n8k16(scores[i][j], f.q[i], f.k[j / 2][j % 2 * 2], f.k[j / 2][j % 2 * 2 + 1]);
}

// Of 16 keys of a panel of v, 16 channels from `column`.
DEVICE void attention_load_values(uint32_t (&values)[4], shared<bf16> v, int column, int step) {
    int lane = lane_id();
    ldmatrix_x4_transposed(values,
                           v + panel_at(lane & 15, column / 8 + (lane >> 4)) + 16 * step * ROWS);
}

// sums[i][j] of rows 16 i and channels 8 j.
DEVICE void attention_weigh(float (&sums)[2][2][4], const uint32_t (&p)[2][4],
                            const uint32_t (&values)[4]) {
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 2; j++)
            mma_m16n8k16(sums[i][j], p[i], values[2 * j], values[2 * j + 1]);
}

// ---------------------------------------------------------------- softmax
// The largest of a row's scores, over the four lanes that share the row.
template <int TILES>
DEVICE float attention_row_max(const float (&scores)[2][TILES][4], int i, int h) {
    float largest = fmaxf(scores[i][0][2 * h], scores[i][0][2 * h + 1]);
#pragma unroll
    for (int j = 1; j < TILES; j++)
        largest = fmaxf(largest, fmaxf(scores[i][j][2 * h], scores[i][j][2 * h + 1]));
    largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, 1));
    return fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, 2));
}

template <int TILES>
DEVICE void attention_mask(float (&scores)[2][TILES][4], int num_keys) {  // of this warp's
    int q = lane_id() % 4;
#pragma unroll
    for (int j = 0; j < TILES; j++)
#pragma unroll
        for (int e = 0; e < 2; e++)
            if (8 * j + 2 * q + e >= num_keys)
#pragma unroll
                for (int i = 0; i < 2; i++) scores[i][j][e] = scores[i][j][2 + e] = -INFINITY;
}

// ---------------------------------------------------------------- kernel
template <typename S>
__global__ void __launch_bounds__(ATTENTION_THREADS, 1) sm80_attention_kernel(attention_call call) {
    shared<bf16> q = shared_at<bf16>(0), ring = q + S::PANELS * PANEL,
                 p = ring + S::STAGES * S::STAGE;
    shared<float> exchange = shared_as<float>(p + S::STAGE);  // [64 rows][4 groups]
    unsigned tiles = (unsigned)((call.num_positions + ROWS - 1) / ROWS);
    int first = (int)(blockIdx.x % tiles) * ROWS;             // of the frame's positions
    int64_t frame = blockIdx.x / tiles * call.num_positions;  // its first position
    int row = warp_id() / 4 * 32, group = warp_id() % 4, g = lane_id() / 4, lane_q = lane_id() % 4,
        warp_key = S::WARP_KEYS * group;
    int q_at = panel_at(row + lane_id() % 16, lane_id() / 16),
        k_at = warp_key / ROWS * PANEL +
               panel_at(warp_key % ROWS + lane_id() % 8 + lane_id() / 16 * 8, lane_id() / 8 % 2),
        exchange_at = (row + g) * 4;  // of row g of the warp's

    float sums[S::PANELS][2][2][4] = {};
    float largest[2][2], total[2][2] = {};  // of rows row + 16 i + 8 h + g; the total of this
                                            // thread's keys alone
#pragma unroll
    for (int i = 0; i < 4; i++) largest[i / 2][i % 2] = LOWEST;

    // ---- fill the ring
    for (int panel = 0; panel < S::PANELS; panel++)
        attention_load_queries(call, q + panel * PANEL, call.q + frame * call.width, first, panel);
    attention_rows<S> rows;
#pragma unroll
    for (int s = 0; s < S::STAGES; s++) {
        int step = s / S::STEP_STAGES;
        if (step == 0 || step * S::KEYS < call.num_positions)
            attention_load_stage(call, rows, ring + s * S::STAGE, frame, step * S::KEYS,
                                 s % S::STEP_STAGES);
        cp_async_commit();  // also when empty: wait counts groups
    }
    cp_async_wait<S::STAGES - 1>();
    __syncthreads();

    int slot = 0;  // of the stage that is used
    for (int64_t key = 0; key < call.num_positions; key += S::KEYS) {
        if (S::STEP_STAGES % S::STAGES == 0) slot = 0;  // as it is; addresses are constants then
        auto stage_at = [&](int piece) { return ring + slot * S::STAGE + piece * PANEL; };
        // The next stage has landed for all, and all have read `stage`: its place is filled.
        auto next_stage = [&](int stage) {
            cp_async_wait<S::STAGES - 2>();
            __syncthreads();
            int ahead = stage + S::STAGES, step = ahead / S::STEP_STAGES;
            if (step == 0 || key + step * S::KEYS < call.num_positions)
                attention_load_stage(call, rows, stage_at(0), frame, key + step * S::KEYS,
                                     ahead % S::STEP_STAGES);
            cp_async_commit();
            slot = slot + 1 == S::STAGES ? 0 : slot + 1;
        };

        // ---- scores; fragments of the next 16 channels are read while those before multiply
        float scores[2][2 * S::HALVES][4] = {};
        attention_fragments<S> fragments[2];
        attention_load_fragments(fragments[0], q, stage_at(0), q_at, k_at, 0);
#pragma unroll
        for (int step = 0; step < 4 * S::PANELS; step++) {
            if (step % 4 == 3 && step / 4 + 1 < S::PANELS) next_stage(step / 4);
            if (step + 1 < 4 * S::PANELS)
                attention_load_fragments(fragments[(step + 1) & 1], q + (step + 1) / 4 * PANEL,
                                         stage_at(0), q_at, k_at, (step + 1) % 4);
            attention_score(scores, fragments[step & 1]);
        }
        if (key + S::KEYS > call.num_positions)
            attention_mask(scores, (int)(call.num_positions - key) - warp_key);

            // ---- the largest of each row over the four warps
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float warp_largest = attention_row_max(scores, i, h);
                if (lane_q == 0)
                    exchange[exchange_at + (16 * i + 8 * h) * 4 + group] = warp_largest;
            }
        next_stage(S::PANELS - 1);  // its barrier is also that of the exchange

        // ---- where a maximum moved, earlier sums are rescaled to it
        float before[2][2];
        bool has_moved = false;
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float4 of = shared_as<float4>(exchange + exchange_at + (16 * i + 8 * h) * 4)[0];
                before[i][h] = largest[i][h];
                largest[i][h] = fmaxf(largest[i][h], fmaxf(fmaxf(of.x, of.y), fmaxf(of.z, of.w)));
                has_moved = has_moved || largest[i][h] != before[i][h];
            }
        if (__any_sync(ALL_LANES, has_moved)) {
#pragma unroll
            for (int i = 0; i < 2; i++)
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    float shrink = exp2_approx((before[i][h] - largest[i][h]) * call.scale);
                    total[i][h] *= shrink;
#pragma unroll
                    for (int panel = 0; panel < S::PANELS; panel++)
#pragma unroll
                        for (int j = 0; j < 2; j++)
                            sums[panel][i][j][2 * h] *= shrink,
                                sums[panel][i][j][2 * h + 1] *= shrink;
                }
        }

        // ---- weights
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float offset = -largest[i][h] * call.scale, sum = 0;
#pragma unroll
                for (int j = 0; j < 2 * S::HALVES; j++) {
                    float a = exp2_approx(fmaf(scores[i][j][2 * h], call.scale, offset)),
                          b = exp2_approx(fmaf(scores[i][j][2 * h + 1], call.scale, offset));
                    sum += a + b;
                    shared<bf16> to = p + warp_key / ROWS * PANEL +
                                      panel_at(row + g, warp_key % ROWS / 8 + j) +
                                      (16 * i + 8 * h) * ROWS;
                    shared_as<uint32_t>(to)[lane_q] = pack_bf16(a, b);
                }
                total[i][h] += sum;
            }
        __syncthreads();

        // ---- weighted values, in pieces of 64 keys and 64 channels
        uint32_t weights[4][2][4], values[2][4];
        attention_load_values(values[0], stage_at(0), 16 * group, 0);
#pragma unroll
        for (int piece = 0; piece < S::HALVES * S::PANELS; piece++) {
            if (piece % S::PANELS == 0)
#pragma unroll
                for (int step = 0; step < 4; step++)
#pragma unroll
                    for (int i = 0; i < 2; i++)
                        ldmatrix_x4(weights[step][i], p + piece / S::PANELS * PANEL +
                                                          (q_at ^ 2 * step << 3) + 16 * i * ROWS);
#pragma unroll
            for (int step = 0; step < 4; step++) {
                int next = piece + (step + 1) / 4;
                if (next != piece && next % S::HALVES == 0)
                    next_stage(S::PANELS + piece / S::HALVES);
                if (next < S::HALVES * S::PANELS)
                    attention_load_values(values[(step + 1) & 1], stage_at(next % S::HALVES),
                                          16 * group, (step + 1) % 4);
                attention_weigh(sums[piece % S::PANELS], weights[step], values[step & 1]);
            }
        }
    }
    cp_async_wait<0>();

    // ---- totals over the lanes of a row and the four warps, in fixed order
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float sum = total[i][h];
            sum += __shfl_xor_sync(ALL_LANES, sum, 1);
            sum += __shfl_xor_sync(ALL_LANES, sum, 2);
            if (lane_q == 0) exchange[exchange_at + (16 * i + 8 * h) * 4 + group] = sum;
        }
    __syncthreads();

    // ---- the result overwrites q in shared memory, and is stored in rows of 16 bytes
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int at = row + 16 * i + 8 * h + g;
            float4 of = shared_as<float4>(exchange + at * 4)[0];
            float scale = 1.0f / ((of.x + of.y) + (of.z + of.w));
#pragma unroll
            for (int panel = 0; panel < S::PANELS; panel++)
#pragma unroll
                for (int j = 0; j < 2; j++)
                    shared_as<uint32_t>(q + panel * PANEL + panel_at(at, 2 * group + j))[lane_q] =
                        pack_bf16(sums[panel][i][j][2 * h] * scale,
                                  sums[panel][i][j][2 * h + 1] * scale);
        }
    __syncthreads();
    int chunks = call.width / 8;
    for (int i = (int)threadIdx.x; i < ROWS * chunks; i += ATTENTION_THREADS) {
        int at = i / chunks, chunk = i % chunks;
        uint4 values = shared_as<uint4>(q + chunk / 8 * PANEL + panel_at(at, chunk % 8))[0];
        if (first + at < call.num_positions)
            *(uint4 *)(call.out + (frame + first + at) * call.width + chunk * 8) = values;
    }
}

template <int PANELS>
static int sm80_attention_launch(const attention_call &call, int64_t blocks, attention_tile tile,
                                 cudaStream_t stream) {
    dim3 grid((unsigned)blocks), block(ATTENTION_THREADS);
    size_t shared_bytes = (size_t)attention_tile_shared_bytes(tile, call.width);
    if (tile == ATTENTION_TILE_64x2x4)
        return LAUNCH((sm80_attention_kernel<attention_shape_of<PANELS, 2, 4>>), grid, block,
                      shared_bytes, stream, call);
    return LAUNCH((sm80_attention_kernel<attention_shape_of<PANELS, 1, 3>>), grid, block,
                  shared_bytes, stream, call);
}

extern "C" int sm80_attention(void *out, const void *q, const void *k, const void *v,
                              const attention_params *p, attention_tile tile, cudaStream_t stream) {
    int width = (int)p->shape.c;
    int64_t positions = p->shape.h * p->shape.w,
            blocks = p->shape.n * p->shape.t * ((positions + ROWS - 1) / ROWS);
    float scale = (float)(1.4426950408889634 / sqrt((double)width));
    attention_call call = {
        (bf16 *)out, (const bf16 *)q, (const bf16 *)k, (const bf16 *)v, positions, width, scale};
    if (!attention_tile_takes(tile, width)) return 1;  // cudaErrorInvalidValue
    if (width <= 64) return sm80_attention_launch<1>(call, blocks, tile, stream);
    if (width <= 128) return sm80_attention_launch<2>(call, blocks, tile, stream);
    if (width <= 256) return sm80_attention_launch<4>(call, blocks, tile, stream);
    if (width <= 512) return sm80_attention_launch<8>(call, blocks, tile, stream);
    return 1;  // Limit: the output of 64 queries must fit the registers. cudaErrorInvalidValue
}
