// The blocked ops for AVX-512 (F, BW, DQ, VL): 512-bit vectors, 14 x 2 sums of 32 registers. Called
// through avx512_ops, which cpu_backend.c picks only where the processor and the system have it.
#define VECTOR_BYTES 64
#define TILE_PIXELS 14
#define PIXELS_AT_ONCE 1
#define HAS_BF16 0
#define OPS_TABLE avx512_ops
#define OPS_NAME "avx512"
#include "blocked_ops.inc"
