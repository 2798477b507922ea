// Attention over the positions of a frame, one head of width C (32 .. 512, a multiple of 32), bf16:
// softmax(q k^T C^-0.5) v with a running maximum and sum, so that no N x N matrix is stored; N to
// 2^31. Both products on mma.sync, float32 sums. A block makes 64 queries with 8 warps: warp (r, g)
// has rows 32 r .. 32 r + 31; of 64 keys it scores those of 16 g, and of every 64 channels of the
// output it keeps those of 16 g (in registers). k and v stream through one ring of panels, 64 keys
// x 64 channels of 128-byte rows whose 16-byte chunks are permuted by row; p passes between the
// warps in shared memory.
//     shared: q [panels] | ring [STAGES][PER_STAGE panels] | p [1 panel]
//             | row maxima of each g [4][64] float
// Who calls it: op.c, with the tile of attention_tile_choose.
#include "device.cuh"
#include "kernels.h"
#include "ptx/convert.cuh"
#include "ptx/cp_async.cuh"
#include "ptx/ldmatrix.cuh"
#include "ptx/mma.cuh"

enum {
    ROWS = 64,            // queries of a block, keys of a step, channels of a panel
    PANEL = ROWS * ROWS,  // elements
    ATTENTION_THREADS = 256,
    LOAD_ROWS = ATTENTION_THREADS / 8  // that one round of copies fills: 8 chunks a row
};
static const float LOWEST = -1e30f;  // below every score, and finite: -inf - -inf is NaN

struct attention_call {
    bf16 *out;
    const bf16 *q, *k, *v;
    int64_t num_positions;  // of a frame
    int width;
    float scale;  // C^-0.5 * log2(e)
};

DEVICE int panel_at(int row, int chunk) { return row * ROWS + ((chunk ^ (row & 7)) << 3); }

// ---------------------------------------------------------------- loading
// Channels 64 panel .. of 64 positions; zeros beyond the last position and the last channel.
DEVICE void attention_load_panel(const attention_call &call, shared<bf16> to, const bf16 *frame,
                                 int64_t first, int panel) {
    int chunk = (int)threadIdx.x % 8, c = panel * ROWS + chunk * 8;
#pragma unroll
    for (int round = 0; round < ROWS / LOAD_ROWS; round++) {
        int row = (int)threadIdx.x / 8 + round * LOAD_ROWS;
        bool is_inside = first + row < call.num_positions && c < call.width;
        cp_async_16(to + panel_at(row, chunk),
                    frame + (is_inside ? (first + row) * call.width + c : 0), is_inside ? 16 : 0);
    }
}

// What is loaded next: group `group` (of PER_STAGE panels) of k, or with is_v of v, for the keys
// from `first`.
struct attention_loader {
    const bf16 *k, *v;  // of this frame
    int64_t first;
    int group, slot;
    bool is_v;
};

template <int PANELS, int PER_STAGE, int STAGES>
DEVICE void attention_load_stage(const attention_call &call, attention_loader &l,
                                 shared<bf16> ring) {
    if (l.first < call.num_positions) {
#pragma unroll
        for (int i = 0; i < PER_STAGE; i++)
            attention_load_panel(call, ring + (l.slot * PER_STAGE + i) * PANEL, l.is_v ? l.v : l.k,
                                 l.first, l.group * PER_STAGE + i);
    }
    cp_async_commit();  // also when empty: wait counts groups
    l.slot = l.slot + 1 == STAGES ? 0 : l.slot + 1;
    if (++l.group < PANELS / PER_STAGE) return;
    l.group = 0;
    if (l.is_v) l.first += ROWS;
    l.is_v = !l.is_v;
}

// ---------------------------------------------------------------- products
// scores[i][j] of rows 16 i and keys 8 j += q k^T over the 64 channels of a panel.
DEVICE void attention_score(float (&scores)[2][2][4], shared<bf16> q, shared<bf16> k, int row,
                            int key) {
    int lane = lane_id();
#pragma unroll
    for (int step = 0; step < 4; step++) {
        uint32_t a[2][4], b[4];
        ldmatrix_x4(b,
                    k + panel_at(key + (lane & 7) + 8 * (lane >> 4), 2 * step + (lane >> 3 & 1)));
#pragma unroll
        for (int i = 0; i < 2; i++)
            ldmatrix_x4(a[i], q + panel_at(row + 16 * i + (lane & 15), 2 * step + (lane >> 4)));
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int j = 0; j < 2; j++) mma_m16n8k16(scores[i][j], a[i], b[2 * j], b[2 * j + 1]);
    }
}

// Adds p v over 64 keys to the sums: sums[i][j] has rows 16 i and channels 8 j. columns: the warp's
// first channel within the panel.
DEVICE void attention_weigh(float (&sums)[2][2][4], const uint32_t (&p)[4][2][4], shared<bf16> v,
                            int column) {
    int lane = lane_id();
#pragma unroll
    for (int step = 0; step < 4; step++) {
        uint32_t b[4];
        ldmatrix_x4_transposed(b, v + panel_at(16 * step + (lane & 15), column / 8 + (lane >> 4)));
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int j = 0; j < 2; j++)
                mma_m16n8k16(sums[i][j], p[step][i], b[2 * j], b[2 * j + 1]);
    }
}

// ---------------------------------------------------------------- softmax
// The largest of a row's scores, over the four lanes that share the row.
DEVICE float attention_row_max(const float (&scores)[2][2][4], int i, int h) {
    float largest = fmaxf(fmaxf(scores[i][0][2 * h], scores[i][0][2 * h + 1]),
                          fmaxf(scores[i][1][2 * h], scores[i][1][2 * h + 1]));
    largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, 1));
    return fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, 2));
}

DEVICE void attention_mask(float (&scores)[2][2][4], int num_keys) {  // of this warp's 16
    int q = lane_id() % 4;
#pragma unroll
    for (int j = 0; j < 2; j++)
#pragma unroll
        for (int e = 0; e < 2; e++)
            if (8 * j + 2 * q + e >= num_keys)
#pragma unroll
                for (int i = 0; i < 2; i++) scores[i][j][e] = scores[i][j][2 + e] = -INFINITY;
}

// ---------------------------------------------------------------- kernel
template <int PANELS, int PER_STAGE, int STAGES>
__global__ void __launch_bounds__(ATTENTION_THREADS, 1) sm80_attention_kernel(attention_call call) {
    shared<bf16> q = shared_at<bf16>(0), ring = q + PANELS * PANEL,
                 p = ring + STAGES * PER_STAGE * PANEL;
    shared<float> exchange = shared_as<float>(p + PANEL);
    int64_t tiles = (call.num_positions + ROWS - 1) / ROWS, frame = blockIdx.x / tiles,
            first = (blockIdx.x - frame * tiles) * ROWS;
    int64_t start = frame * call.num_positions * call.width;
    int row = warp_id() / 4 * 32, group = warp_id() % 4, g = lane_id() / 4, lane_q = lane_id() % 4;

    float sums[PANELS][2][2][4] = {};
    float largest[2][2], total[2][2] = {};  // of rows row + 16 i + 8 h + g; the total of this
                                            // thread's keys alone
#pragma unroll
    for (int i = 0; i < 4; i++) largest[i / 2][i % 2] = LOWEST;

    // ---- fill the ring
    attention_loader loader = {call.k + start, call.v + start, 0, 0, 0, false};
    for (int panel = 0; panel < PANELS; panel++)
        attention_load_panel(call, q + panel * PANEL, call.q + start, first, panel);
    for (int s = 0; s < STAGES - 1; s++)
        attention_load_stage<PANELS, PER_STAGE, STAGES>(call, loader, ring);
    int slot = 0;
    auto next_stage = [&]() {
        cp_async_wait<STAGES - 2>();
        __syncthreads();  // the stage has landed for all, and all have read the one that is filled
                          // next
        attention_load_stage<PANELS, PER_STAGE, STAGES>(call, loader, ring);
        shared<bf16> stage = ring + slot * PER_STAGE * PANEL;
        slot = slot + 1 == STAGES ? 0 : slot + 1;
        return stage;
    };

    for (int64_t key = 0; key < call.num_positions; key += ROWS) {
        // ---- scores
        float scores[2][2][4] = {};
        for (int panel = 0; panel < PANELS; panel += PER_STAGE) {
            shared<bf16> stage = next_stage();
#pragma unroll
            for (int i = 0; i < PER_STAGE; i++)
                attention_score(scores, q + (panel + i) * PANEL, stage + i * PANEL, row,
                                16 * group);
        }
        if (key + ROWS > call.num_positions)
            attention_mask(scores, (int)(call.num_positions - key) - 16 * group);

            // ---- the largest of each row over the four warps
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float warp_largest = attention_row_max(scores, i, h);
                if (lane_q == 0) exchange[group * ROWS + row + 16 * i + 8 * h + g] = warp_largest;
            }
        __syncthreads();

        // ---- weights; earlier sums are rescaled to the new maximum
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                int at = row + 16 * i + 8 * h + g;
                float now = largest[i][h];
#pragma unroll
                for (int other = 0; other < 4; other++)
                    now = fmaxf(now, exchange[other * ROWS + at]);
                float shrink = exp2_approx((largest[i][h] - now) * call.scale),
                      offset = -now * call.scale, sum = 0;
                largest[i][h] = now;
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    float a = exp2_approx(fmaf(scores[i][j][2 * h], call.scale, offset)),
                          b = exp2_approx(fmaf(scores[i][j][2 * h + 1], call.scale, offset));
                    sum += a + b;
                    shared_as<uint32_t>(p + panel_at(at, 2 * group + j))[lane_q] = pack_bf16(a, b);
                }
                total[i][h] = total[i][h] * shrink + sum;
#pragma unroll
                for (int panel = 0; panel < PANELS; panel++)
#pragma unroll
                    for (int j = 0; j < 2; j++)
                        sums[panel][i][j][2 * h] *= shrink, sums[panel][i][j][2 * h + 1] *= shrink;
            }

        // ---- weighted values
        uint32_t weights[4][2][4];
#pragma unroll
        for (int panel = 0; panel < PANELS; panel += PER_STAGE) {
            shared<bf16> stage = next_stage();
            if (panel == 0) {  // its barrier also made p whole
#pragma unroll
                for (int step = 0; step < 4; step++)
#pragma unroll
                    for (int i = 0; i < 2; i++)
                        ldmatrix_x4(weights[step][i], p + panel_at(row + 16 * i + (lane_id() & 15),
                                                                   2 * step + (lane_id() >> 4)));
            }
#pragma unroll
            for (int i = 0; i < PER_STAGE; i++)
                attention_weigh(sums[panel + i], weights, stage + i * PANEL, 16 * group);
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
            if (lane_q == 0) exchange[group * ROWS + row + 16 * i + 8 * h + g] = sum;
        }
    __syncthreads();

    // ---- the result overwrites q in shared memory, and is stored in rows of 16 bytes
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int at = row + 16 * i + 8 * h + g;
            float scale = 1.0f / ((exchange[at] + exchange[ROWS + at]) +
                                  (exchange[2 * ROWS + at] + exchange[3 * ROWS + at]));
#pragma unroll
            for (int panel = 0; panel < PANELS; panel++)
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
            *(uint4 *)(call.out + start + (first + at) * call.width + chunk * 8) = values;
    }
}

template <int PANELS>
static int sm80_attention_launch(const attention_call &call, int64_t blocks, attention_tile tile,
                                 int width, cudaStream_t stream) {
    constexpr int PER_STAGE = PANELS > 1 ? 2 : 1;
    dim3 grid((unsigned)blocks), block(ATTENTION_THREADS);
    size_t shared_bytes = (size_t)attention_tile_shared_bytes(tile, width);
    if (tile == ATTENTION_TILE_64x2x4)
        return LAUNCH((sm80_attention_kernel<PANELS, PER_STAGE, 4>), grid, block, shared_bytes,
                      stream, call);
    return LAUNCH((sm80_attention_kernel<PANELS, 1, 3>), grid, block, shared_bytes, stream, call);
}

extern "C" int sm80_attention(void *out, const void *q, const void *k, const void *v,
                              const attention_params *p, attention_tile tile, cudaStream_t stream) {
    int width = (int)p->shape.c;
    int64_t positions = p->shape.h * p->shape.w,
            blocks = p->shape.n * p->shape.t * ((positions + ROWS - 1) / ROWS);
    float scale = (float)(1.4426950408889634 / sqrt((double)width));
    attention_call call = {
        (bf16 *)out, (const bf16 *)q, (const bf16 *)k, (const bf16 *)v, positions, width, scale};
    if (width <= 64) return sm80_attention_launch<1>(call, blocks, tile, width, stream);
    if (width <= 128) return sm80_attention_launch<2>(call, blocks, tile, width, stream);
    if (width <= 256) return sm80_attention_launch<4>(call, blocks, tile, width, stream);
    if (width <= 512) return sm80_attention_launch<8>(call, blocks, tile, width, stream);
    return 1;  // Limit: the output of 64 queries must fit the registers. cudaErrorInvalidValue
}
