// ldmatrix: a warp reads four 8 x 8 matrices of bf16. Lanes 8i .. 8i + 7 name the eight rows (16
// bytes, 16-byte aligned) of matrix i; register i of lane l receives (l / 4, 2 (l % 4)) and its
// right neighbour, or with _transposed (2 (l % 4), l / 4) and the one below. Ref: PTX ISA
// 9.7.14.5.15.
#ifndef CTOK_PTX_LDMATRIX_CUH
#define CTOK_PTX_LDMATRIX_CUH

#include "../device.cuh"

#ifdef CTOK_CUDA_EMULATOR
#include <emulated_ptx.h>
#else
DEVICE void ldmatrix_x4(uint32_t (&r)[4], shared<bf16> row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row))
                 : "memory");
}

DEVICE void ldmatrix_x4_transposed(uint32_t (&r)[4], shared<bf16> row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row))
                 : "memory");
}
#endif

#endif
