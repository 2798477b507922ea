// The blocked ops for AVX-512 with BF16: as avx512_ops.c, and bfloat16 activations besides float32,
// whose products are taken in pairs (vdpbf16ps). Called through avx512bf16_ops, which cpu_backend.c
// picks only where the processor and the system have it.
#define VECTOR_BYTES 64
#define TILE_PIXELS 14
#define PIXELS_AT_ONCE 1
#define HAS_BF16 1
#define BF16_PAIRS "avx512bf16_pairs.inc"
#define OPS_TABLE avx512bf16_ops
#define OPS_NAME "avx512_bf16"
#include "blocked_ops.inc"
