// The blocked ops for AVX2 with FMA: 256-bit vectors, 6 x 2 sums of 16 registers.
// Called through avx2_ops, which cpu_backend.c picks only where the processor has both.
#define VECTOR_BYTES 32
#define TILE_PIXELS 6
#define PIXELS_AT_ONCE 1
#define HAS_BF16 0
#define OPS_TABLE avx2_ops
#define OPS_NAME "avx2"
#include "blocked_ops.inc"
