// The blocked ops for arm64 with BF16 (ARMv8.6, optional from 8.2): as neon_ops.c, and bfloat16
// activations besides float32, whose products are taken by bfmmla. Called through neonbf16_ops,
// which cpu_backend.c picks only where the processor and the system have it.
#define VECTOR_BYTES 16
#define TILE_PIXELS 12
#define PIXELS_AT_ONCE 4
#define HAS_BF16 1
#define BF16_PAIRS "neonbf16_pairs.inc"
#define OPS_TABLE neonbf16_ops
#define OPS_NAME "neon_bf16"
#include "blocked_ops.inc"
