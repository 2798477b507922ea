// Tile choice: each candidate is rejected for a reason that stands beside the rejection, or priced,
// and the cheapest wins. The price is the time of the busiest SM in units of one product (position
// x channel x step), so it counts what padding wastes and what a last, partly filled round of
// blocks leaves idle. Limit: rates are estimates from the tile's traffic of shared memory; not yet
// measured (bench/gpu_check).
#include "heuristics.h"

#include "conv_pack.h"

static int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// ---------------------------------------------------------------- convolution
static const conv_tile_shape conv_tiles[NUM_CONV_TILES] = {
    [CONV_TILE_128x256x64] = {128, 256, 64, 3, 256, 1},
    [CONV_TILE_128x128x32] = {128, 128, 32, 4, 128, 2},
    [CONV_TILE_128x64x32] = {128, 64, 32, 4, 128, 3},
    [CONV_TILE_64x64x32] = {64, 64, 32, 4, 128, 4},
};

// Each tile's share of the tensor cores' peak rate on a full SM, limited by reads of shared memory.
// A warp that covers 64 x 64 outputs reads 1/16 byte for each multiply-add; one of 64 x 32, 3/32;
// one of 32 x 32, 1/8, which is all that shared memory can give: 128 bytes a clock for 1024
// multiply-adds.
static const double conv_rates[NUM_CONV_TILES] = {
    [CONV_TILE_128x256x64] = 1.0,
    [CONV_TILE_128x128x32] = 0.97,
    [CONV_TILE_128x64x32] = 0.8,
    [CONV_TILE_64x64x32] = 0.6,
};

conv_tile_shape conv_tile_shape_of(conv_tile tile) { return conv_tiles[tile]; }

int32_t conv_tile_shared_bytes(conv_tile tile) {
    conv_tile_shape s = conv_tiles[tile];
    return (s.m + s.n) * s.k * 2 * s.num_stages;
}

bool conv_tile_takes(conv_tile tile, const conv_params *p) {
    conv_tile_shape s = conv_tiles[tile];
    if (p->in.c % s.k) return false;           // a step would run into the next tap
    return s.n != 256 || p->out.c % 256 == 0;  // weights are padded to 128 channels: it would read
                                               // past their end
}

conv_tile conv_tile_choose(const conv_params *p, int32_t num_targets, device_limits device) {
    int64_t positions = conv_phase_positions(p), phases = conv_phases(p);
    conv_tile best = CONV_TILE_64x64x32;
    double best_price = -1;
    for (conv_tile tile = 0; tile < NUM_CONV_TILES; tile++) {
        conv_tile_shape s = conv_tiles[tile];
        if (conv_tile_shared_bytes(tile) > device.shared_bytes)
            continue;  // cannot be launched here
        if (!conv_tile_takes(tile, p)) continue;
        int64_t blocks =
            divide_up(positions, s.m) * divide_up(p->out.c, s.n) * phases * num_targets;
        // Blocks of one SM share its rate: with fewer than blocks_per_sm it is not slower, only its
        // latencies show.
        double price =
            (double)divide_up(blocks, device.num_sms) * (double)(s.m * s.n) / conv_rates[tile];
        if (best_price >= 0 && price >= best_price)
            continue;  // an earlier, larger tile is as fast, and loads less
        best = tile, best_price = price;
    }
    return best;
}

norm_parts conv_parts(const conv_params *p, conv_tile tile, const norm_params *norm) {
    const norm_parts none = {0, 0, 0};
    conv_tile_shape s = conv_tiles[tile];
    ctok_shape a = p->out, b = norm->shape;
    int32_t phases = conv_phases(p);
    int64_t frame = a.h * a.w / phases, tiles = shape_positions(a) / s.m * divide_up(a.c, s.n);
    if (p->out_dtype != CTOK_BF16 || norm->dtype != CTOK_BF16)
        return none;  // what is stored is what is counted
    if (a.n != b.n || a.t != b.t || a.h != b.h || a.w != b.w || a.c != b.c) return none;
    if (norm->groups == 1)
        return none;  // of a video: the tile depends on how many frames come at once, and that must
                      // not show
    if (phases == 2 || frame % s.m)
        return none;  // a tile would lie in two frames, or beyond the last, or not in their order
    if (a.c % norm->groups || a.c / norm->groups % 4)
        return none;  // a thread's four channels would be of two groups
    if (tiles * norm->groups > NORM_MOMENTS) return none;  // more than there is room for
    return (norm_parts){s.m, s.n, phases};
}

bool conv_gathers(const conv_params *p, conv_tile tile, norm_parts parts, int32_t groups) {
    conv_tile_shape s = conv_tiles[tile];
    return parts.slab_positions == s.m && parts.tile_channels == s.n &&
           shape_positions(p->out) / s.m * divide_up(p->out.c, s.n) * groups <= NORM_MOMENTS;
}

// ---------------------------------------------------------------- attention
bool attention_tile_takes(attention_tile tile, int64_t c) {
    // 64x2x4 is written for whole panels, as many as it is compiled for.
    return tile == ATTENTION_TILE_64x1x3 || c == 64 || c == 128 || c == 256 || c == 512;
}

attention_tile attention_tile_choose(const attention_params *p, device_limits device) {
    int64_t c = p->shape.c;
    // With 128 keys a step q is read half as often, and there are half as many barriers; but at
    // width 512 that takes 145 KB of shared memory, more than devices 8.6 and 8.9 have.
    if (attention_tile_takes(ATTENTION_TILE_64x2x4, c) &&
        attention_tile_shared_bytes(ATTENTION_TILE_64x2x4, c) <= device.shared_bytes)
        return ATTENTION_TILE_64x2x4;
    return ATTENTION_TILE_64x1x3;
}

// Bytes of shared memory: q, the ring, p (64 queries x 64 keys a panel of a stage, bf16), and the
// row maxima of four warps.
int32_t attention_tile_shared_bytes(attention_tile tile, int64_t c) {
    int32_t panels = c <= 64    ? 1
                     : c <= 128 ? 2
                     : c <= 256 ? 4
                                : 8;  // of 64 channels; the kernel is compiled for these
    int32_t per_stage = tile == ATTENTION_TILE_64x2x4 ? 2 : 1,
            num_stages = tile == ATTENTION_TILE_64x2x4 ? 4 : 3;
    return (panels + per_stage * (num_stages + 1)) * 64 * 64 * 2 + 4 * 64 * 4;
}
