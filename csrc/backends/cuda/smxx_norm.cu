// norm: GroupNorm over (H, W, C / groups) of each frame, then scale[c], offset[c], then SiLU: y =
// (x - mean) / sqrt(variance + epsilon) * scale + offset; y * sigmoid(y). float32 or bf16, any
// number of channels and groups. Three kernels, no atomics, all sums in a fixed order, so that the
// same shape gives the same bits:
//     norm_moments  (slab of pixels, frame, tile of channels) -> mean and sum of squared deviations
//                   of each group, from sums of x - shift and of its square, shift being a value of
//                   the group; in float32 over 16 pixels and in float64 from there
//     norm_merge    (group, frame) -> mean and 1 / sqrt(variance + epsilon), in float64: threads
//                   add up parts, then a block its threads
//     norm_apply    x -> y, 16 bytes a thread at a time
// Where sm80_conv has gathered the moments as it stored x, the first is left out, which saves one
// of the two reads. The mean is kept as two floats: x - high is exact where x is near the mean, so
// that a large mean costs no accuracy.
#include "device.cuh"
#include "kernels.h"
#include "ptx/convert.cuh"

enum {
    THREADS = 256,
    SLAB_ELEMENTS = 1 << 15,  // of a block of norm_moments: 16 vectors a thread
    MAX_SLABS = 512,          // of a frame
    RUN_POSITIONS = 16,       // summed in float32
    APPLY_POSITIONS = 8,      // of a thread of norm_apply
    MAX_GRID_Y = 65535        // that a device launches
};

typedef struct {
    double sum, square;
} norm_cell;

// How threads lie on a frame: `lanes` side by side over a tile of channels, `rows` over pixels.
typedef struct {
    int64_t positions, slab_positions;
    int32_t channels, groups, lanes, rows, tile_channels, tiles, slabs;
    double one_value;  // the part of a group's mean that one of its values is
    float epsilon;
    bool has_silu;
} norm_grid;

// ---------------------------------------------------------------- vectors
// Loads and stores of 16 bytes, or of one element where C is no multiple of that.
DEVICE void load_vector(float (&to)[1], const float *from) { to[0] = *from; }
DEVICE void load_vector(float (&to)[1], const bf16 *from) { to[0] = to_float(*from); }
DEVICE void load_vector(float (&to)[4], const float *from) {
    float4 v = *reinterpret_cast<const float4 *>(from);
    to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
}
DEVICE void load_vector(float (&to)[8], const bf16 *from) {
    uint4 v = *reinterpret_cast<const uint4 *>(from);
    to[0] = low_float(v.x), to[1] = high_float(v.x), to[2] = low_float(v.y),
    to[3] = high_float(v.y);
    to[4] = low_float(v.z), to[5] = high_float(v.z), to[6] = low_float(v.w),
    to[7] = high_float(v.w);
}

DEVICE uint32_t pair_of(float low, float high) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
    return (uint32_t)from_float<bf16>(low).bits | (uint32_t)from_float<bf16>(high).bits << 16;
#else
    return pack_bf16(low, high);
#endif
}

DEVICE void store_vector(float *to, const float (&from)[1]) { *to = from[0]; }
DEVICE void store_vector(bf16 *to, const float (&from)[1]) { *to = from_float<bf16>(from[0]); }
DEVICE void store_vector(float *to, const float (&from)[4]) {
    *reinterpret_cast<float4 *>(to) = make_float4(from[0], from[1], from[2], from[3]);
}
DEVICE void store_vector(bf16 *to, const float (&from)[8]) {
    *reinterpret_cast<uint4 *>(to) =
        make_uint4(pair_of(from[0], from[1]), pair_of(from[2], from[3]), pair_of(from[4], from[5]),
                   pair_of(from[6], from[7]));
}

// ---------------------------------------------------------------- norm_moments
DEVICE int32_t smaller(int32_t a, int32_t b) { return a < b ? a : b; }
DEVICE int32_t larger(int32_t a, int32_t b) { return a > b ? a : b; }

template <typename T, int V>
__global__ void norm_moments(norm_moment *moments, const T *in, norm_grid g) {
    shared<norm_cell> cells = shared_at<norm_cell>(0);  // [rows][tile_channels]
    int32_t tile_first = (int32_t)blockIdx.z * g.tile_channels,
            tile_end = smaller(tile_first + g.tile_channels, g.channels);
    int32_t width = g.channels / g.groups, lane = (int32_t)threadIdx.x % g.lanes,
            row = (int32_t)threadIdx.x / g.lanes;
    int64_t first = blockIdx.x * g.slab_positions,
            last = first + g.slab_positions < g.positions ? first + g.slab_positions : g.positions;
    const T *frame = in + (int64_t)blockIdx.y * g.positions * g.channels,
            *origin = frame + first * g.channels;

    int32_t channel = tile_first + lane * V;
    if (row < g.rows && channel < tile_end) {
        float shift[V];
        double sum[V], square[V];
        for (int i = 0; i < V; i++) {
            shift[i] = to_float(origin[larger((channel + i) / width * width, tile_first)]);
            sum[i] = 0, square[i] = 0;
        }
        for (int64_t at = first + row; at < last;) {
            float run[V], run_square[V];
            for (int i = 0; i < V; i++) run[i] = 0, run_square[i] = 0;
            for (int n = 0; n < RUN_POSITIONS && at < last; n++, at += g.rows) {
                float x[V];
                load_vector(x, frame + at * g.channels + channel);
                for (int i = 0; i < V; i++) {
                    float gap = x[i] - shift[i];
                    run[i] += gap, run_square[i] += gap * gap;
                }
            }
            for (int i = 0; i < V; i++) sum[i] += run[i], square[i] += run_square[i];
        }
        for (int i = 0; i < V; i++)
            cells[row * g.tile_channels + lane * V + i] = norm_cell{sum[i], square[i]};
    }
    __syncthreads();

    // Adds up the threads' rows of the slab, channel by channel.
    for (int32_t c = (int32_t)threadIdx.x; c < tile_end - tile_first; c += THREADS) {
        norm_cell total = cells[c];
        for (int32_t r = 1; r < g.rows; r++) {
            norm_cell other = cells[r * g.tile_channels + c];
            total.sum += other.sum, total.square += other.square;
        }
        cells[c] = total;
    }
    __syncthreads();

    // Then adds up the channels of each group; one warp does one group.
    norm_moment *out =
        moments + (((int64_t)blockIdx.y * g.slabs + blockIdx.x) * g.tiles + blockIdx.z) * g.groups;
    for (int32_t group = tile_first / width + warp_id(); group * width < tile_end;
         group += THREADS / WARP) {
        int32_t from = larger(group * width, tile_first),
                to = smaller((group + 1) * width, tile_end);
        double sum = 0, square = 0;
        for (int32_t c = from + lane_id(); c < to; c += WARP) {
            norm_cell cell = cells[c - tile_first];
            sum += cell.sum, square += cell.square;
        }
        sum = warp_sum_double(sum), square = warp_sum_double(square);
        double count = (double)(last - first) * (to - from),
               deviations = square - sum * sum / count;
        if (lane_id() == 0)
            out[group] = norm_moment{to_float(origin[from]) + sum / count,
                                     deviations > 0 || deviations != deviations ? deviations : 0.0};
    }
}

// ---------------------------------------------------------------- norm_merge
// The sum over the block, in all threads; `sums` has an element for each warp. The order is fixed.
DEVICE double block_sum(shared<double> sums, double value) {
    value = warp_sum_double(value);
    if (lane_id() == 0) sums[warp_id()] = value;
    __syncthreads();
    double total = 0;
    for (int i = 0; i < THREADS / WARP; i++) total += sums[i];
    return total;
}

// A block merges the moments of one group: the mean of the parts' means, then what they deviate
// from it, each part weighed by its values. Result x: mean, upper part; y: the rest of it; z: 1 /
// sqrt(variance + epsilon).
__global__ void norm_merge(float4 *stats, const norm_moment *moments, norm_grid g) {
    shared<double> sums = shared_at<double>(0);
    int32_t group = (int32_t)blockIdx.x, width = g.channels / g.groups, from = group * width,
            to = from + width;
    int32_t first_tile = from / g.tile_channels,
            tiles = (to - 1) / g.tile_channels + 1 - first_tile;
    const norm_moment *mine = moments + (int64_t)blockIdx.y * g.slabs * g.tiles * g.groups + group;
    double mean = 0, deviations = 0;
    for (int round = 0; round < 2; round++) {
        double sum = 0;
        for (int32_t part = (int32_t)threadIdx.x; part < g.slabs * tiles; part += THREADS) {
            int32_t slab = part / tiles, tile = first_tile + part % tiles;
            int32_t channels =
                smaller(to, (tile + 1) * g.tile_channels) - larger(from, tile * g.tile_channels);
            int64_t left = g.positions - slab * g.slab_positions;
            double n = (double)(left < g.slab_positions ? left : g.slab_positions) * channels;
            norm_moment m = mine[((int64_t)slab * g.tiles + tile) * g.groups];
            double gap = m.mean - mean;
            sum += round == 0 ? n * gap : m.deviations + n * gap * gap;
        }
        sum = block_sum(sums + round * (THREADS / WARP), sum);
        if (round == 0) mean = sum * g.one_value;
        else deviations = sum;
    }
    if (threadIdx.x == 0) {
        float high = (float)mean;
        stats[(int64_t)blockIdx.y * g.groups + group] =
            make_float4(high, (float)(mean - high),
                        (float)(1.0 / sqrt(deviations * g.one_value + (double)g.epsilon)), 0.0f);
    }
}

// ---------------------------------------------------------------- norm_apply
DEVICE float silu(float y, const float *) { return y / (1.0f + expf(-y)); }
// SiLU for results that are rounded to bfloat16's 8 bits, where errors of 2^-21 do not show.
DEVICE float silu(float y, const bf16 *) {
    return __fdividef(y, 1.0f + exp2_approx(-1.4426950408889634f * y));
}

template <typename T, int V>
__global__ void norm_apply(T *out, const T *in, const float *scale, const float *offset,
                           const float4 *stats, norm_grid g) {
    int32_t channel = (int32_t)blockIdx.z * g.tile_channels + (int32_t)threadIdx.x % g.lanes * V,
            row = (int32_t)threadIdx.x / g.lanes;
    if (row >= g.rows || channel >= g.channels) return;
    float high[V], low[V], factor[V], base[V];
    for (int i = 0; i < V; i++) {
        float4 s = stats[(int64_t)blockIdx.y * g.groups + (channel + i) / (g.channels / g.groups)];
        high[i] = s.x, low[i] = s.y, factor[i] = s.z * scale[channel + i],
        base[i] = offset[channel + i];
    }
    int64_t frame = (int64_t)blockIdx.y * g.positions,
            at = (int64_t)blockIdx.x * g.rows * APPLY_POSITIONS + row;
    for (int n = 0; n < APPLY_POSITIONS && at < g.positions; n++, at += g.rows) {
        int64_t element = (frame + at) * g.channels + channel;
        float x[V];
        load_vector(x, in + element);
        for (int i = 0; i < V; i++) {
            x[i] = ((x[i] - high[i]) - low[i]) * factor[i] + base[i];
            if (g.has_silu) x[i] = silu(x[i], in);
        }
        store_vector(out + element, x);
    }
}

// ---------------------------------------------------------------- host
static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

static norm_grid make_grid(const norm_params *p, int32_t vector) {
    norm_grid g = {};
    g.positions = p->shape.h * p->shape.w, g.channels = (int32_t)p->shape.c, g.groups = p->groups;
    g.epsilon = p->epsilon, g.has_silu = p->has_silu;
    g.one_value = 1.0 / ((double)g.positions * (g.channels / g.groups));
    int64_t vectors = g.channels / vector;
    g.lanes = (int32_t)(vectors < (int64_t)THREADS ? vectors : (int64_t)THREADS),
    g.rows = THREADS / g.lanes;
    g.tile_channels = g.lanes * vector, g.tiles = (int32_t)ceil_div(g.channels, g.tile_channels);
    int64_t slabs = ceil_div(g.positions * g.channels, SLAB_ELEMENTS),
            most = NORM_MOMENTS / ((int64_t)g.groups * g.tiles);
    if (most > MAX_SLABS) most = MAX_SLABS;
    if (slabs > most) slabs = most;
    g.slab_positions = ceil_div(g.positions, slabs),
    g.slabs = (int32_t)ceil_div(g.positions, g.slab_positions);
    return g;
}

template <typename T, int V>
static int run(T *out, const T *in, const float *scale, const float *offset, void *workspace,
               norm_parts parts, bool are_gathered, const norm_params *p, cudaStream_t stream) {
    norm_grid g = make_grid(p, V), gathered = g;
    if (parts.slab_positions) {
        gathered.slab_positions = parts.slab_positions,
        gathered.slabs = (int32_t)(g.positions / parts.slab_positions);
        gathered.tile_channels = parts.tile_channels,
        gathered.tiles = (int32_t)ceil_div(g.channels, parts.tile_channels);
    }
    norm_moment *moments = (norm_moment *)workspace;
    float4 *stats = (float4 *)(moments + NORM_MOMENTS);
    int64_t frames = p->shape.n * p->shape.t, frame = g.positions * g.channels,
            most = NORM_MOMENTS / ((int64_t)gathered.slabs * gathered.tiles * g.groups);
    if (most > MAX_GRID_Y) most = MAX_GRID_Y;
    for (int64_t first = 0; first < frames; first += most) {
        unsigned count = (unsigned)(frames - first < most ? frames - first : most),
                 tiles = (unsigned)g.tiles;
        const T *from = in + first * frame;
        int error = 0;
        if (!parts.slab_positions)
            error = LAUNCH((norm_moments<T, V>), dim3((unsigned)g.slabs, count, tiles),
                           dim3(THREADS), (size_t)g.rows * g.tile_channels * sizeof(norm_cell),
                           stream, moments, from, g);
        else if (!are_gathered)
            error = sm80_moments(moments, (void *)from, count, parts, p, stream);
        if (!error)
            error = LAUNCH(norm_merge, dim3((unsigned)g.groups, count), dim3(THREADS),
                           2 * THREADS / WARP * sizeof(double), stream, stats, moments, gathered);
        unsigned blocks = (unsigned)ceil_div(g.positions, (int64_t)g.rows * APPLY_POSITIONS);
        if (!error)
            error = LAUNCH((norm_apply<T, V>), dim3(blocks, count, tiles), dim3(THREADS), 0, stream,
                           out + first * frame, from, scale, offset, stats, g);
        if (error) return error;
    }
    return 0;
}

extern "C" int smxx_norm(void *out, const void *in, const float *scale, const float *offset,
                         void *workspace, norm_parts parts, bool are_gathered, const norm_params *p,
                         cudaStream_t stream) {
    if (p->dtype == CTOK_BF16)
        return run<bf16, 8>((bf16 *)out, (const bf16 *)in, scale, offset, workspace, parts,
                            are_gathered, p, stream);
    if (p->shape.c % 4 == 0)
        return run<float, 4>((float *)out, (const float *)in, scale, offset, workspace, parts,
                             are_gathered, p, stream);
    return run<float, 1>((float *)out, (const float *)in, scale, offset, workspace, parts,
                         are_gathered, p, stream);
}
