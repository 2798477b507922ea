// cvt.rn.bf16x2 and ex2.approx: two floats rounded to a pair of bf16 (low: the lower half), and 2^x
// within 2 ulp.
// Ref: PTX ISA 9.7.9.21 (its first operand is the upper half), 9.7.3.21.
#ifndef CTOK_PTX_CONVERT_CUH
#define CTOK_PTX_CONVERT_CUH

#include "../device.cuh"

#ifdef CTOK_CUDA_EMULATOR
#include <emulated_ptx.h>
#else
DEVICE uint32_t pack_bf16(float low, float high) {
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

DEVICE float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
#endif

#endif
