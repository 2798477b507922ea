// Which tile a problem gets, and whether a convolution gathers what the norm after it needs: pure
// functions of its sizes and of the device's limits, so that they are tested without a device.
// Who calls it: op.c before sm80_conv and sm80_attention; tests/native/cuda_emulator/cuda_test.c.
#ifndef CTOK_CUDA_HEURISTICS_H
#define CTOK_CUDA_HEURISTICS_H

#include "../../base/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int32_t num_sms;
    int32_t shared_bytes;  // that a block may ask for: 166912 on 8.0, 101376 on 8.6 and 8.9, 232448
                           // on 9.0
} device_limits;

// The tile of one block: output pixels x output channels x depth of a reduction step (input
// channels). The kernel is compiled for each.
typedef enum {
    CONV_TILE_128x256x64,
    CONV_TILE_128x128x32,
    CONV_TILE_128x64x32,
    CONV_TILE_64x64x32,
    NUM_CONV_TILES
} conv_tile;

typedef struct {
    int32_t m, n, k;
    int32_t num_stages, num_threads;
    int32_t blocks_per_sm;  // that registers and the shared memory of 8.0 admit
} conv_tile_shape;

conv_tile_shape conv_tile_shape_of(conv_tile tile);
int32_t conv_tile_shared_bytes(conv_tile tile);

// Whether the kernel can do this convolution, in bf16, in this tile.
bool conv_tile_takes(conv_tile tile, const conv_params *p);

// In: bf16, so in.c is a multiple of BF16_CHANNELS. num_targets such convolutions start together.
// There is always a tile.
conv_tile conv_tile_choose(const conv_params *p, int32_t num_targets, device_limits device);

enum { NORM_MOMENTS = 1 << 16 };  // that a norm has room for

// The parts of which moments are gathered: slabs of pixels of one frame by tiles of channels,
// [frame][slab][tile][group]. 0: none was gathered.
typedef struct {
    int32_t slab_positions, tile_channels;
    int32_t phases;  // 4: a slab is of every second pixel of every second row (conv_phases)
} norm_parts;

// The parts in which sm80_conv with this tile gathers the moments of a norm of its output; 0 where
// it cannot.
norm_parts conv_parts(const conv_params *p, conv_tile tile, const norm_params *norm);

// Whether sm80_conv with this tile gathers in these parts, and there is room for all of them.
bool conv_gathers(const conv_params *p, conv_tile tile, norm_parts parts, int32_t groups);

typedef enum {
    ATTENTION_TILE_64x2x4,  // 64 queries, 128 keys a step, and a ring of 4 stages of 2 panels (64
                            // keys x 64 channels) each
    ATTENTION_TILE_64x1x3,  // 64 keys a step, 3 stages of 1 panel: fits 99 KB
    NUM_ATTENTION_TILES
} attention_tile;

// Whether the tile's kernel can do c channels, at most 512.
bool attention_tile_takes(attention_tile tile, int64_t c);

// Bytes of shared memory that the kernel is launched with. c: channels, at most 512.
int32_t attention_tile_shared_bytes(attention_tile tile, int64_t c);

attention_tile attention_tile_choose(const attention_params *p, device_limits device);

#ifdef __cplusplus
}
#endif

#endif
