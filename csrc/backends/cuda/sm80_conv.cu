// Convolution of bf16 by implicit GEMM on mma.sync: out[m][n] = sum over taps and channels of
// in[source(m, tap)][c] * weight[tap][n][c], m an output pixel, n an output channel, float32
// sums, one rounding. Covers all that conv_params can say: strides, nearest upsampling (in phases
// of fewer taps, conv_phases) and zero padding in space; replicated or cached frames in time. in.c
// is a multiple of 32. A block makes BM pixels x BN channels. Both operands stream through a ring
// of shared-memory stages of BK channels, filled by cp.async (whose zero fill is the padding);
// warps read them with ldmatrix, 16-byte chunks permuted so that 8 rows of a chunk lie in different
// banks. At the end the ring holds the float32 tile once, so that rows leave in whole lines, and
// the moments of a norm that follows are gathered on the way. Who calls it: op.c, with the tile of
// conv_tile_choose.
#include "conv.cuh"
#include "kernels.h"
#include "ptx/cp_async.cuh"
#include "ptx/ldmatrix.cuh"
#include "ptx/mma.cuh"

// Sizes of a block's tile, BM pixels x BN channels x BK reduction channels, by WARPS_M x WARPS_N
// warps.
template <int BM_, int BN_, int BK_, int WARPS_M_, int WARPS_N_, int STAGES_, int BLOCKS_PER_SM_>
struct conv_shape_of {
    static constexpr int BM = BM_, BN = BN_, BK = BK_, STAGES = STAGES_, WARPS_M = WARPS_M_,
                         BLOCKS_PER_SM = BLOCKS_PER_SM_;
    static constexpr int THREADS = WARPS_M_ * WARPS_N_ * WARP;
    static constexpr int TILES_M = BM / WARPS_M_ / 16, TILES_N = BN / WARPS_N_ / 8;  // of 16 x 8, a
                                                                                     // warp
    static constexpr int CHUNKS = BK / 8;               // of 16 bytes, a row
    static constexpr int LOAD_ROWS = THREADS / CHUNKS;  // that one round of copies fills
    static constexpr int A_ROUNDS = BM / LOAD_ROWS, B_ROUNDS = BN / LOAD_ROWS;
    static constexpr int STAGE = (BM + BN) * BK;  // elements
    static constexpr int SHARED_BYTES = STAGE * STAGES * 2;
    static_assert(BM * BN * 4 <= SHARED_BYTES, "the float32 tile reuses the ring");
    static_assert(SM80_CONV_PADDING % BN == 0 || BN % SM80_CONV_PADDING == 0, "");
};

// Offset, in elements, of a 16-byte chunk in a shared-memory tile of BK columns.
template <int BK>
DEVICE int conv_chunk_at(int row, int chunk) {
    return row * BK + ((chunk ^ (BK == 64 ? row & 7 : row >> 1 & 3)) << 3);
}

// ---------------------------------------------------------------- loading
// One thread's part of the copies: a chunk of A_ROUNDS pixels and of B_ROUNDS weight rows.
template <typename S>
struct conv_loader {
    conv_row rows[S::A_ROUNDS];
    const bf16 *from[S::A_ROUNDS];  // of the current tap
    unsigned inside;                // bit i: rows[i] reads, otherwise zeros
    const bf16 *weights;            // of the current tap
    int tap, c;                     // of the next stage
};

template <typename S>
DEVICE void conv_loader_set_tap(conv_loader<S> &l, const conv_call<bf16> &call, int chunk) {
    l.inside = 0;
#pragma unroll
    for (int i = 0; i < S::A_ROUNDS; i++) {
        bool is_inside;
        l.from[i] = conv_source(call, l.rows[i], l.tap, is_inside) + chunk * 8;
        l.inside |= (unsigned)is_inside << i;
    }
}

// Issues the asynchronous copies of the next stage and advances to the one after it.
template <typename S>
DEVICE void conv_loader_issue(conv_loader<S> &l, const conv_call<bf16> &call, shared<bf16> stage,
                              int num_taps) {
    int row = (int)threadIdx.x / S::CHUNKS, chunk = (int)threadIdx.x % S::CHUNKS,
        c_in = (int)call.p.in.c;
    shared<bf16> a = stage, b = stage + S::BM * S::BK;
#pragma unroll
    for (int i = 0; i < S::A_ROUNDS; i++)
        cp_async_16(a + conv_chunk_at<S::BK>(row + i * S::LOAD_ROWS, chunk), l.from[i] + l.c,
                    l.inside >> i & 1 ? 16 : 0);
#pragma unroll
    for (int i = 0; i < S::B_ROUNDS; i++)
        cp_async_16(b + conv_chunk_at<S::BK>(row + i * S::LOAD_ROWS, chunk),
                    l.weights + (int64_t)i * S::LOAD_ROWS * c_in + l.c, 16);
    l.c += S::BK;
    if (l.c < c_in) return;
    l.c = 0, l.tap++, l.weights += call.tap_weights;
    if (l.tap < num_taps) conv_loader_set_tap(l, call, chunk);
}

// ---------------------------------------------------------------- one stage of products
template <typename S>
DEVICE void conv_load_fragments(uint32_t (&a)[S::TILES_M][4], uint32_t (&b)[S::TILES_N / 2][4],
                                shared<bf16> stage, int m, int n, int step) {
    int lane = lane_id();
#pragma unroll
    for (int i = 0; i < S::TILES_M; i++)
        ldmatrix_x4(a[i],
                    stage + conv_chunk_at<S::BK>(m + 16 * i + (lane & 15), 2 * step + (lane >> 4)));
#pragma unroll
    for (int j = 0; j < S::TILES_N / 2; j++)
        ldmatrix_x4(b[j], stage + S::BM * S::BK +
                              conv_chunk_at<S::BK>(n + 16 * j + (lane & 7) + 8 * (lane >> 4),
                                                   2 * step + (lane >> 3 & 1)));
}

// Fragments of the next 16 channels are read while those before multiply.
template <typename S>
DEVICE void conv_multiply(float (&sums)[S::TILES_M][S::TILES_N][4], shared<bf16> stage, int m,
                          int n) {
    uint32_t a[2][S::TILES_M][4], b[2][S::TILES_N / 2][4];
    conv_load_fragments<S>(a[0], b[0], stage, m, n, 0);
#pragma unroll
    for (int step = 0; step < S::BK / 16; step++) {
        int now = step & 1;
        if (step + 1 < S::BK / 16)
            conv_load_fragments<S>(a[now ^ 1], b[now ^ 1], stage, m, n, step + 1);
#pragma unroll
        for (int i = 0; i < S::TILES_M; i++)
#pragma unroll
            for (int j = 0; j < S::TILES_N; j++)
                mma_m16n8k16(sums[i][j], a[now][i], b[now][j / 2][j % 2 * 2],
                             b[now][j / 2][j % 2 * 2 + 1]);
    }
}

// ---------------------------------------------------------------- the tile's end
// Index of float (row, c) in the staged tile: units of 8 floats, permuted by row so that neither
// writing nor reading has bank conflicts.
template <typename S>
DEVICE int conv_staged_at(int row, int c) {
    return row * S::BN + (((c >> 3) ^ (row & 7)) << 3) + (c & 7);
}

template <typename S>
DEVICE void conv_stage_sums(const float (&sums)[S::TILES_M][S::TILES_N][4], int m, int n) {
    shared<float> staged = shared_at<float>(0);
    int g = lane_id() / 4, q = lane_id() % 4;
#pragma unroll
    for (int i = 0; i < S::TILES_M; i++)
#pragma unroll
        for (int j = 0; j < S::TILES_N; j++)
#pragma unroll
            for (int h = 0; h < 2; h++)
                shared_as<float2>(staged +
                                  conv_staged_at<S>(m + 16 * i + g + 8 * h, n + 8 * j + 2 * q))[0] =
                    make_float2(sums[i][j][2 * h], sums[i][j][2 * h + 1]);
}

// Stores the tile, and with call.moments gathers its statistics: each thread those of its four
// channels, in float32 over 16 values (as differences from the first) and in float64 from there;
// then one warp for each group, in a fixed order. No pixel of such a tile lies beyond the last, and
// neither do any four channels.
template <typename S, typename TOut>
DEVICE void conv_store_tile(const conv_call<bf16> &call, const conv_phase &phase,
                            const conv_target &target, int64_t first, int n0) {
    shared<float> staged = shared_at<float>(0);
    constexpr int LANES = S::BN / 4, ROWS = S::THREADS / LANES, RUN = 4;
    static_assert(S::BM % (RUN * ROWS) == 0 && RUN * ROWS % 8 == 0, "");  // 8: of conv_staged_at
    int c = (int)threadIdx.x % LANES * 4, row = (int)threadIdx.x / LANES;
    if (call.p.out.c % 4 != 0) {
        for (; row < S::BM; row += ROWS)
            conv_finish_each<TOut>(call, phase, target, first, row, n0 + c,
                                   shared_as<float4>(staged + conv_staged_at<S>(row, c))[0]);
        return;
    }
    float4 bias =
        n0 + c < call.p.out.c ? *(const float4 *)(target.bias + n0 + c) : make_float4(0, 0, 0, 0);
    float shift = 0;
    double sum = 0, square = 0;
    for (int n = 0; n < S::BM; n += RUN * ROWS) {
        float4 values[RUN];
#pragma unroll
        for (int i = 0; i < RUN; i++)
            values[i] =
                shared_as<float4>(staged + n * S::BN + conv_staged_at<S>(row + i * ROWS, c))[0];
        conv_finish4<TOut>(call, phase, target, first, n + row, ROWS, n0 + c, bias, values);
        if (!call.moments) continue;
        if (n == 0) shift = conv_rounded4<TOut>(values[0]).x;
        float run = 0, run_square = 0;
#pragma unroll
        for (int i = 0; i < RUN; i++) {
            float4 v = conv_rounded4<TOut>(values[i]);
            v = make_float4(v.x - shift, v.y - shift, v.z - shift, v.w - shift);
            run += (v.x + v.y) + (v.z + v.w),
                run_square += (v.x * v.x + v.y * v.y) + (v.z * v.z + v.w * v.w);
        }
        sum += run, square += run_square;
    }
    if (!call.moments) return;
    const double count = 4 * S::BM / ROWS;
    shared<norm_moment> cells = shared_at<norm_moment>(0);  // [ROWS][LANES]
    __syncthreads();                                        // all have read the tile
    cells[threadIdx.x] = norm_moment{shift + sum / count, square - sum * sum / count};
    __syncthreads();
    int channels = (int)call.p.out.c, width = channels / call.groups,
        end = n0 + S::BN < channels ? n0 + S::BN : channels;
    for (int group = n0 / width + warp_id(); group * width < end; group += S::THREADS / WARP) {
        int from = group * width > n0 ? group * width : n0,
            to = (group + 1) * width < end ? (group + 1) * width : end;
        int lanes = (to - from) / 4, num_cells = lanes * ROWS;
        shared<norm_moment> mine = cells + (from - n0) / 4;
        double mean = 0, deviations = 0;
        for (int i = lane_id(); i < num_cells; i += WARP)
            mean += ((norm_moment)mine[i / lanes * LANES + i % lanes]).mean;
        mean = warp_sum_double(mean) / num_cells;
        for (int i = lane_id(); i < num_cells; i += WARP) {
            norm_moment cell = mine[i / lanes * LANES + i % lanes];
            deviations += cell.deviations + count * (cell.mean - mean) * (cell.mean - mean);
        }
        deviations = warp_sum_double(deviations);
        if (lane_id() == 0)
            call.moments[(int64_t)blockIdx.x * call.groups + group] =
                norm_moment{mean, deviations > 0 || deviations != deviations ? deviations : 0.0};
    }
}

// ---------------------------------------------------------------- kernel
template <typename S>
__global__ void __launch_bounds__(S::THREADS, S::BLOCKS_PER_SM)
    sm80_conv_kernel(conv_call<bf16> call) {
    const conv_params &p = call.p;
    const conv_target target = call.targets[blockIdx.y];
    int c_in = (int)p.in.c,
        num_taps = call.phases > 1 ? call.phases : p.kernel * p.kernel * p.kernel_t,
        num_steps = num_taps * (c_in / S::BK);

    // Tiles of the same pixels are neighbours, and so are phases: they read the same activations.
    unsigned tiles_n = (unsigned)((p.out.c + S::BN - 1) / S::BN), tile = blockIdx.x / tiles_n,
             phases = (unsigned)call.phases;
    int n0 = (int)(blockIdx.x % tiles_n) * S::BN, number = (int)(tile % phases);
    int64_t first = (int64_t)(tile / phases) * S::BM;
    conv_phase phase = conv_phase_of(p, call.phases, number);
    if (first >= phase.positions) return;  // in time the other phase may have a frame more

    int row = (int)threadIdx.x / S::CHUNKS, chunk = (int)threadIdx.x % S::CHUNKS;
    conv_loader<S> loader;
#pragma unroll
    for (int i = 0; i < S::A_ROUNDS; i++) {  // pixels beyond the last read what the last reads,
                                             // and are not stored
        int at = row + i * S::LOAD_ROWS;
        int last = (int)(phase.positions - 1 - first);
        loader.rows[i] = conv_row_of(
            p, conv_position_of(p, phase, first, first + at < phase.positions ? at : last));
    }
    loader.tap = 0, loader.c = 0;
    loader.weights = (const bf16 *)target.packed + number * num_taps * call.tap_weights +
                     (int64_t)(n0 + row) * c_in + chunk * 8;
    conv_loader_set_tap(loader, call, chunk);

    int m = warp_id() % S::WARPS_M * S::TILES_M * 16, n = warp_id() / S::WARPS_M * S::TILES_N * 8;
    float sums[S::TILES_M][S::TILES_N][4] = {};
    shared<bf16> ring = shared_at<bf16>(0);

    for (int k = 0; k < S::STAGES - 1; k++) {
        if (k < num_steps) conv_loader_issue(loader, call, ring + k * S::STAGE, num_taps);
        cp_async_commit();
    }
    int reading = 0, filling = S::STAGES - 1;
    for (int k = 0; k < num_steps; k++) {
        cp_async_wait<S::STAGES - 2>();
        __syncthreads();  // stage k has landed for all, and all have read the one that is filled
                          // next
        if (k + S::STAGES - 1 < num_steps)
            conv_loader_issue(loader, call, ring + filling * S::STAGE, num_taps);
        cp_async_commit();  // also when empty: wait counts groups
        conv_multiply<S>(sums, ring + reading * S::STAGE, m, n);
        reading = reading + 1 == S::STAGES ? 0 : reading + 1,
        filling = filling + 1 == S::STAGES ? 0 : filling + 1;
    }
    cp_async_wait<0>();
    __syncthreads();
    conv_stage_sums<S>(sums, m, n);
    __syncthreads();
    if (p.out_dtype == CTOK_F32) conv_store_tile<S, float>(call, phase, target, first, n0);
    else conv_store_tile<S, bf16>(call, phase, target, first, n0);
}

template <typename S>
static int sm80_conv_launch(const conv_call<bf16> &call, int32_t num_targets, cudaStream_t stream) {
    int64_t tiles_n = (call.p.out.c + S::BN - 1) / S::BN,
            tiles_m = (conv_phase_positions(&call.p) + S::BM - 1) / S::BM * call.phases;
    return LAUNCH(sm80_conv_kernel<S>, dim3((unsigned)(tiles_m * tiles_n), (unsigned)num_targets),
                  dim3(S::THREADS), S::SHARED_BYTES, stream, call);
}

extern "C" int sm80_conv(const conv_target *targets, int32_t num_targets, const void *in,
                         const void *past, const void *residual, const conv_params *p,
                         conv_tile tile, norm_moment *moments, int32_t groups,
                         cudaStream_t stream) {
    int64_t tap_weights = conv_padded(p->out.c, SM80_CONV_PADDING) * p->in.c;
    conv_call<bf16> call = conv_call_of<bf16>(targets, num_targets, in, past, residual, p,
                                              tap_weights, moments, groups, conv_phases(p));
    switch (tile) {
        case CONV_TILE_128x256x64:
            return sm80_conv_launch<conv_shape_of<128, 256, 64, 2, 4, 3, 1>>(call, num_targets,
                                                                             stream);
        case CONV_TILE_128x128x32:
            return sm80_conv_launch<conv_shape_of<128, 128, 32, 2, 2, 4, 2>>(call, num_targets,
                                                                             stream);
        case CONV_TILE_128x64x32:
            return sm80_conv_launch<conv_shape_of<128, 64, 32, 2, 2, 4, 3>>(call, num_targets,
                                                                            stream);
        default:
            return sm80_conv_launch<conv_shape_of<64, 64, 32, 2, 2, 4, 4>>(call, num_targets,
                                                                           stream);
    }
}
