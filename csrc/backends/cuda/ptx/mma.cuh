// mma.sync: d += a b for a 16 x 16 of A, 16 x 8 of B, by a warp; bf16 in, float32 sums. With g =
// lane / 4, q = lane % 4 and pairs (even index in the low half): a = (g, 2q) (g + 8, 2q) (g, 2q +
// 8) (g + 8, 2q + 8) as (row, k); b = (2q, g) (2q + 8, g) as (k, column); d = (g, 2q) (g, 2q + 1)
// (g + 8, 2q) (g + 8, 2q + 1) as (row, column).
// Ref: PTX ISA 9.7.14.5.8.
#ifndef CTOK_PTX_MMA_CUH
#define CTOK_PTX_MMA_CUH

#include "../device.cuh"

#ifdef CTOK_CUDA_EMULATOR
#include <emulated_ptx.h>
#else
DEVICE void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
#endif

#endif
