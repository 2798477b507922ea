// cp.async: 16 bytes from global to shared memory without a register, the first num_bytes (0 .. 16)
// read and the rest written as zeros; `from` must be a valid address even for 0. Groups belong to
// the thread: commit closes what it issued (also nothing), wait<N> until at most N groups are under
// way. Note: only the issuing thread sees the data then; a barrier must follow.
// Ref: PTX ISA 9.7.9.25.3.
#ifndef CTOK_PTX_CP_ASYNC_CUH
#define CTOK_PTX_CP_ASYNC_CUH

#include "../device.cuh"

#ifdef CTOK_CUDA_EMULATOR
#include <emulated_ptx.h>
#else
template <typename T>
DEVICE void cp_async_16(shared<T> to, const void *from, int num_bytes) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(
                     (uint32_t)__cvta_generic_to_shared(to)),
                 "l"(__cvta_generic_to_global(from)), "r"(num_bytes)
                 : "memory");
}

DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int N>
DEVICE void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}
#endif

#endif
