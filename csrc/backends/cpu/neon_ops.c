// The blocked ops for arm64, every processor of which has NEON: 128-bit vectors, 12 x 2 sums of 32
// registers beside 2 weights and 12 pixels in 3 vectors, whose lanes the fused multiply-add takes.
// Called through neon_ops, where there is no BF16.
#define VECTOR_BYTES 16
#define TILE_PIXELS 12
#define PIXELS_AT_ONCE 4
#define HAS_BF16 0
#define OPS_TABLE neon_ops
#define OPS_NAME "neon"
#include "blocked_ops.inc"
