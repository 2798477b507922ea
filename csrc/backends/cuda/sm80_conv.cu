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
// Note: over 400 lines: one kernel from its loads to its moments, in the order in which it runs.
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
    static constexpr int PARTS = BK / 16 - 1;     // in which a stage's copies are issued
    static constexpr int STAGE = (BM + BN) * BK;  // elements
    static constexpr int SHARED_BYTES = STAGE * STAGES * 2;
    static_assert(BM * BN * 4 <= SHARED_BYTES, "the float32 tile reuses the ring");
    static_assert(SM80_CONV_PADDING % BN == 0 || BN % SM80_CONV_PADDING == 0, "");
};

// Offset, in elements, of a 16-byte chunk in a shared-memory tile of BK columns. Rows a multiple of
// 8 apart are permuted alike, and chunks 2 n further lie at exclusive or 16 n.
template <int BK>
DEVICE int conv_chunk_at(int row, int chunk) {
    return row * BK + ((chunk ^ (BK == 64 ? row & 7 : row >> 1 & 3)) << 3);
}

// ---------------------------------------------------------------- loading
// One thread's part of the copies: a chunk of A_ROUNDS pixels and of B_ROUNDS weight rows.
template <typename S>
struct conv_loader {
    conv_row rows[S::A_ROUNDS];
    const bf16 *from[S::A_ROUNDS];  // of the next stage
    unsigned inside;                // bit i: rows[i] reads, otherwise zeros
    const bf16 *weights;            // of the next stage
    int tap, c;                     // of the next stage
};

template <typename S>
DEVICE void conv_loader_set_tap(conv_loader<S> &l, const conv_call<bf16> &call, int chunk) {
    l.inside = 0;
    int tap = conv_tap_of(call, l.tap);
    auto set = [&](int i) {
        bool is_inside;
        hide_origin(l.rows[i].at), hide_origin(l.rows[i].y), hide_origin(l.rows[i].x);
        l.from[i] = conv_source(call, l.rows[i], tap, is_inside) + chunk * 8;
        l.inside |= (unsigned)is_inside << i;
    };
    if (call.p.kernel_t == 1) {  // asked once here, and not for each row
#pragma unroll
        for (int i = 0; i < S::A_ROUNDS; i++) set(i);
    } else {
#pragma unroll
        for (int i = 0; i < S::A_ROUNDS; i++) set(i);
    }
}

// Issues a part of the asynchronous copies of the next stage.
template <typename S>
DEVICE void conv_loader_issue(const conv_loader<S> &l, const conv_call<bf16> &call,
                              shared<bf16> stage, int part) {
    constexpr int PER_PART = (S::A_ROUNDS + S::B_ROUNDS + S::PARTS - 1) / S::PARTS;
    static_assert(S::LOAD_ROWS % 8 == 0, "");
    shared<bf16> to =
        stage + conv_chunk_at<S::BK>((int)threadIdx.x / S::CHUNKS, (int)threadIdx.x % S::CHUNKS);
#pragma unroll
    for (int i = 0; i < S::A_ROUNDS; i++)
        if (i / PER_PART == part)
            cp_async_16(to + i * S::LOAD_ROWS * S::BK, l.from[i], l.inside >> i & 1 ? 16 : 0);
#pragma unroll
    for (int i = 0; i < S::B_ROUNDS; i++)
        if ((S::A_ROUNDS + i) / PER_PART == part)
            cp_async_16(to + (S::BM + i * S::LOAD_ROWS) * S::BK,
                        l.weights + i * (S::LOAD_ROWS * call.p.in.c), 16);
}

// On to the stage after it.
template <typename S>
DEVICE void conv_loader_advance(conv_loader<S> &l, const conv_call<bf16> &call, int num_taps) {
#pragma unroll
    for (int i = 0; i < S::A_ROUNDS; i++) l.from[i] += S::BK;
    l.weights += S::BK, l.c += S::BK;
    if (l.c < (int)call.p.in.c) return;
    l.weights += call.tap_weights - l.c, l.c = 0, l.tap++;
    if (l.tap < num_taps) conv_loader_set_tap(l, call, (int)threadIdx.x % S::CHUNKS);
}

// ---------------------------------------------------------------- products of 16 channels
// a_at and b_at: where the lane reads of the first 16.
template <typename S>
DEVICE void conv_load_fragments(uint32_t (&a)[S::TILES_M][4], uint32_t (&b)[S::TILES_N / 2][4],
                                shared<bf16> stage, int a_at, int b_at, int step) {
#pragma unroll
    for (int i = 0; i < S::TILES_M; i++)
        ldmatrix_x4(a[i], stage + (a_at ^ 16 * step) + 16 * i * S::BK);
#pragma unroll
    for (int j = 0; j < S::TILES_N / 2; j++)
        ldmatrix_x4(b[j], stage + (b_at ^ 16 * step) + (S::BM + 16 * j) * S::BK);
}

template <typename S>
DEVICE void conv_multiply(float (&sums)[S::TILES_M][S::TILES_N][4],
                          const uint32_t (&a)[S::TILES_M][4],
                          const uint32_t (&b)[S::TILES_N / 2][4]) {
#pragma unroll
    for (int i = 0; i < S::TILES_M; i++)
#pragma unroll
        for (int j = 0; j < S::TILES_N; j++)
            mma_m16n8k16(sums[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
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

enum { CONV_RUN = 4 };  // pixels that a thread finishes at a time

// How the threads of a block lie on a tile: four channels each, every ROWS-th row.
template <typename S>
struct conv_store_grid {
    static constexpr int LANES = S::BN / 4, ROWS = S::THREADS / LANES;
    static_assert(S::BM % (CONV_RUN * ROWS) == 0 && CONV_RUN * ROWS % 8 == 0,
                  "");  // 8: of conv_staged_at
};

// A thread's statistics of its four channels, in float32 over 16 values (as differences from the
// first) and in float64 from there.
struct conv_sums {
    float shift;
    double sum, square;
};

template <typename TOut>
DEVICE void conv_sums_add(conv_sums &all, const float4 (&values)[CONV_RUN], bool is_first) {
    if (is_first) all.shift = conv_rounded4<TOut>(values[0]).x;
    float shift = all.shift, run = 0, run_square = 0;
#pragma unroll
    for (int i = 0; i < CONV_RUN; i++) {
        float4 v = conv_rounded4<TOut>(values[i]);
        v = make_float4(v.x - shift, v.y - shift, v.z - shift, v.w - shift);
        run += (v.x + v.y) + (v.z + v.w),
            run_square += (v.x * v.x + v.y * v.y) + (v.z * v.z + v.w * v.w);
    }
    all.sum += run, all.square += run_square;
}

// Makes moments of the threads' sums over a tile: one warp for each group, in a fixed order. No
// pixel of such a tile lies beyond the last, and neither do any four channels.
template <typename S>
DEVICE void conv_gather(norm_moment *moments, const conv_sums &all, int channels, int groups,
                        int n0) {
    constexpr int LANES = conv_store_grid<S>::LANES, ROWS = conv_store_grid<S>::ROWS;
    const double count = 4 * S::BM / ROWS;
    shared<norm_moment> cells = shared_at<norm_moment>(0);  // [ROWS][LANES]
    __syncthreads();                                        // all have read what was there
    cells[threadIdx.x] =
        norm_moment{all.shift + all.sum / count, all.square - all.sum * all.sum / count};
    __syncthreads();
    int width = channels / groups, end = n0 + S::BN < channels ? n0 + S::BN : channels;
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
            moments[(int64_t)blockIdx.x * groups + group] =
                norm_moment{mean, deviations > 0 || deviations != deviations ? deviations : 0.0};
    }
}

// Stores the tile, and with call.moments gathers its statistics.
template <typename S, typename TOut>
DEVICE void conv_store_tile(const conv_call<bf16> &call, const conv_phase &phase,
                            const conv_target &target, int64_t first, int n0) {
    shared<float> staged = shared_at<float>(0);
    constexpr int LANES = conv_store_grid<S>::LANES, ROWS = conv_store_grid<S>::ROWS;
    int c = (int)threadIdx.x % LANES * 4, row = (int)threadIdx.x / LANES;
    if (call.p.out.c % 4 != 0) {
        for (; row < S::BM; row += ROWS)
            conv_finish_each<TOut>(call, phase, target, first, row, n0 + c,
                                   shared_as<float4>(staged + conv_staged_at<S>(row, c))[0]);
        return;
    }
    float4 bias =
        n0 + c < call.p.out.c ? *(const float4 *)(target.bias + n0 + c) : make_float4(0, 0, 0, 0);
    conv_sums all = {};
    for (int n = 0; n < S::BM; n += CONV_RUN * ROWS) {
        float4 values[CONV_RUN];
#pragma unroll
        for (int i = 0; i < CONV_RUN; i++)
            values[i] =
                shared_as<float4>(staged + n * S::BN + conv_staged_at<S>(row + i * ROWS, c))[0];
        conv_finish4<TOut>(call, phase, target, first, n + row, ROWS, n0 + c, bias, values);
        if (call.moments) conv_sums_add<TOut>(all, values, n == 0);
    }
    if (call.moments) conv_gather<S>(call.moments, all, (int)call.p.out.c, call.groups, n0);
}

// ---------------------------------------------------------------- kernel
// Which tile a block makes: outputs from `first` of the phase, channels from n0.
struct conv_place {
    conv_phase phase;
    int number, n0;  // number: of the phase
    int64_t first;
};

// Tiles of the same pixels are neighbours, and so are phases: they read the same activations.
template <typename S>
DEVICE conv_place conv_place_of(const conv_call<bf16> &call, int block) {
    unsigned tiles_n = (unsigned)((call.p.out.c + S::BN - 1) / S::BN),
             tile = (unsigned)block / tiles_n, phases = (unsigned)call.phases;
    int number = (int)(tile % phases);
    return {conv_phase_of(call.p, call.phases, number), number,
            (int)((unsigned)block % tiles_n) * S::BN, (int64_t)(tile / phases) * S::BM};
}

// The statistics that sm80_conv gathers, to the last bit, of what is stored already in the target.
template <typename S>
__global__ void __launch_bounds__(S::THREADS) sm80_moments_kernel(conv_call<bf16> call) {
    constexpr int LANES = conv_store_grid<S>::LANES, ROWS = conv_store_grid<S>::ROWS;
    conv_place place = conv_place_of<S>(call, (int)blockIdx.x);
    const bf16 *stored = (const bf16 *)call.targets[0].out;
    int c = place.n0 + (int)threadIdx.x % LANES * 4, row = (int)threadIdx.x / LANES;
    conv_sums all = {};
    for (int n = 0; n < S::BM; n += CONV_RUN * ROWS) {
        float4 values[CONV_RUN];
#pragma unroll
        for (int i = 0; i < CONV_RUN; i++) {
            conv_position at =
                conv_position_of(call.p, place.phase, place.first, n + row + i * ROWS);
            values[i] = c < call.p.out.c ? conv_load4(stored + conv_output_at(call.p, at) + c)
                                         : make_float4(0, 0, 0, 0);
        }
        conv_sums_add<bf16>(all, values, n == 0);
    }
    conv_gather<S>(call.moments, all, (int)call.p.out.c, call.groups, place.n0);
}

template <typename S>
__global__ void __launch_bounds__(S::THREADS, S::BLOCKS_PER_SM)
    sm80_conv_kernel(conv_call<bf16> call) {
    const conv_params &p = call.p;
    const conv_target target = call.targets[blockIdx.y];
    int c_in = (int)p.in.c,
        num_taps = call.phases > 1 ? call.phases : p.kernel * p.kernel * p.kernel_t,
        num_steps = num_taps * (c_in / S::BK);

    int block = (int)blockIdx.x;
    conv_place place = conv_place_of<S>(call, block);
    int64_t left = place.phase.positions - place.first;
    if (left <= 0) return;  // in time the other phase may have a frame more

    int row = (int)threadIdx.x / S::CHUNKS, chunk = (int)threadIdx.x % S::CHUNKS;
    conv_loader<S> loader;
#pragma unroll
    for (int i = 0; i < S::A_ROUNDS; i++) {  // pixels beyond the last read what the last reads,
                                             // and are not stored
        int at = row + i * S::LOAD_ROWS;
        loader.rows[i] = conv_row_of(
            p, conv_position_of(p, place.phase, place.first, at < left ? at : (int)left - 1));
    }
    loader.tap = 0, loader.c = 0;
    loader.weights = (const bf16 *)target.packed + place.number * num_taps * call.tap_weights +
                     (int64_t)(place.n0 + row) * c_in + chunk * 8;
    conv_loader_set_tap(loader, call, chunk);

    int m = warp_id() % S::WARPS_M * S::TILES_M * 16, n = warp_id() / S::WARPS_M * S::TILES_N * 8;
    int a_at = conv_chunk_at<S::BK>(m + lane_id() % 16, lane_id() / 16),
        b_at = conv_chunk_at<S::BK>(n + lane_id() % 8 + lane_id() / 16 * 8, lane_id() / 8 % 2);
    float sums[S::TILES_M][S::TILES_N][4] = {};
    shared<bf16> ring = shared_at<bf16>(0);

    // Before the last products of a stage the next one is waited for, and its first fragments are
    // read; between the others the copies are issued that take the place of the stage before.
    for (int k = 0; k < S::STAGES - 1; k++) {
        if (k < num_steps) {
#pragma unroll
            for (int part = 0; part < S::PARTS; part++)
                conv_loader_issue(loader, call, ring + k * S::STAGE, part);
            conv_loader_advance(loader, call, num_taps);
        }
        cp_async_commit();  // also when empty: wait counts groups
    }
    cp_async_wait<S::STAGES - 2>();
    __syncthreads();
    uint32_t a[2][S::TILES_M][4], b[2][S::TILES_N / 2][4];
    conv_load_fragments<S>(a[0], b[0], ring, a_at, b_at, 0);
    int reading = 0, filling = S::STAGES - 1;
    for (int k = 0; k < num_steps; k++) {
#pragma unroll
        for (int step = 0; step < S::BK / 16; step++) {
            int now = step & 1;
            if (step < S::PARTS) {
                conv_load_fragments<S>(a[now ^ 1], b[now ^ 1], ring + reading * S::STAGE, a_at,
                                       b_at, step + 1);
                if (k + S::STAGES - 1 < num_steps)
                    conv_loader_issue(loader, call, ring + filling * S::STAGE, step);
            } else {
                cp_async_commit();
                cp_async_wait<S::STAGES - 2>();
                __syncthreads();  // stage k + 1 has landed for all, and all have read stage k
                reading = reading + 1 == S::STAGES ? 0 : reading + 1,
                filling = filling + 1 == S::STAGES ? 0 : filling + 1;
                if (k + 1 < num_steps)
                    conv_load_fragments<S>(a[now ^ 1], b[now ^ 1], ring + reading * S::STAGE, a_at,
                                           b_at, 0);
            }
            conv_multiply<S>(sums, a[now], b[now]);
        }
        if (k + S::STAGES - 1 < num_steps) conv_loader_advance(loader, call, num_taps);
    }
    cp_async_wait<0>();
    __syncthreads();
    conv_stage_sums<S>(sums, m, n);
    __syncthreads();
    hide_origin(block);  // the place is made again
    place = conv_place_of<S>(call, block);
    if (p.out_dtype == CTOK_F32)
        conv_store_tile<S, float>(call, place.phase, target, place.first, place.n0);
    else conv_store_tile<S, bf16>(call, place.phase, target, place.first, place.n0);
}

typedef conv_shape_of<128, 256, 64, 2, 4, 3, 1> conv_shape_256;
typedef conv_shape_of<128, 128, 32, 2, 2, 4, 2> conv_shape_128;
typedef conv_shape_of<128, 64, 32, 2, 2, 4, 3> conv_shape_64;
typedef conv_shape_of<64, 64, 32, 2, 2, 4, 4> conv_shape_small;

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
            return sm80_conv_launch<conv_shape_256>(call, num_targets, stream);
        case CONV_TILE_128x128x32:
            return sm80_conv_launch<conv_shape_128>(call, num_targets, stream);
        case CONV_TILE_128x64x32: return sm80_conv_launch<conv_shape_64>(call, num_targets, stream);
        default: return sm80_conv_launch<conv_shape_small>(call, num_targets, stream);
    }
}

template <typename S>
static int sm80_moments_launch(const conv_call<bf16> &call, cudaStream_t stream) {
    int64_t tiles_n = (call.p.out.c + S::BN - 1) / S::BN,
            blocks = shape_positions(call.p.out) / S::BM * tiles_n;
    return LAUNCH(sm80_moments_kernel<S>, dim3((unsigned)blocks), dim3(S::THREADS),
                  S::THREADS * sizeof(norm_moment), stream, call);
}

extern "C" int sm80_moments(norm_moment *moments, void *stored, int64_t frames, norm_parts parts,
                            const norm_params *p, cudaStream_t stream) {
    conv_params of = {};
    of.out = p->shape, of.out.n = frames, of.out.t = 1;
    conv_target target = {stored, NULL, NULL};
    conv_call<bf16> call =
        conv_call_of<bf16>(&target, 1, NULL, NULL, NULL, &of, 0, moments, p->groups, parts.phases);
    if (parts.tile_channels == 256) return sm80_moments_launch<conv_shape_256>(call, stream);
    if (parts.tile_channels == 128) return sm80_moments_launch<conv_shape_128>(call, stream);
    if (parts.slab_positions == 128) return sm80_moments_launch<conv_shape_64>(call, stream);
    return sm80_moments_launch<conv_shape_small>(call, stream);
}
