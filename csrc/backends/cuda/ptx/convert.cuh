// cvt.rn.bf16x2 and ex2.approx: two floats rounded to a pair of bf16 (low: the lower half), and 2^x
// within 2 ulp. GPUs before 8.0 have no cvt of pairs, and round with integers; a NaN then keeps its
// bits, and is 0x7FFF else.
// Ref: PTX ISA 9.7.9.21 (its first operand is the upper half), 9.7.3.21.
#ifndef CTOK_PTX_CONVERT_CUH
#define CTOK_PTX_CONVERT_CUH

#include "../device.cuh"

#ifdef CTOK_CUDA_EMULATOR
#include <emulated_ptx.h>
#else
DEVICE uint32_t pack_bf16(float low, float high) {
#if __CUDA_ARCH__ < 800
    return from_float<bf16>(low).bits | (uint32_t)from_float<bf16>(high).bits << 16;
#else
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
#endif
}

DEVICE float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
#endif

#endif
