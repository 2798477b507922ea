// The blocked ops for any processor: 128-bit vectors (SSE2 on x86-64, NEON without its fused steps
// on arm64), 6 x 2 sums of 16 registers. Serves where no other set does. Called through
// generic_ops.
#define VECTOR_BYTES 16
#define TILE_PIXELS 6
#define PIXELS_AT_ONCE 1
#define HAS_BF16 0
#define OPS_TABLE generic_ops
#define OPS_NAME "generic"
#include "blocked_ops.inc"
