// On x86-64 cpuid, through the compiler's own table, which also checks that the system saves ymm
// and zmm registers; on arm64 what Linux or macOS says of the processor. Elsewhere nothing is found
// and the generic kernels serve.
#include "features.h"

#include <sched.h>
#include <unistd.h>
#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

cpu_features features_detect(void) {
    cpu_features found = {0};
#if defined(__x86_64__)
    __builtin_cpu_init();
    found.has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    found.has_avx512 = found.has_avx2 && __builtin_cpu_supports("avx512f") &&
                       __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                       __builtin_cpu_supports("avx512vl");
    found.has_avx512_bf16 = found.has_avx512 && __builtin_cpu_supports("avx512bf16");
#elif defined(__aarch64__)
    found.has_neon = true;
#if defined(__linux__)
    found.has_neon_bf16 = (getauxval(AT_HWCAP2) & HWCAP2_BF16) != 0;
#elif defined(__APPLE__)
    int has_bf16 = 0;
    size_t num_bytes = sizeof has_bf16;
    found.has_neon_bf16 =
        sysctlbyname("hw.optional.arm.FEAT_BF16", &has_bf16, &num_bytes, NULL, 0) == 0 && has_bf16;
#endif
#endif
    return found;
}

int32_t features_num_processors(void) {
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        return CPU_COUNT(&set) > 0 ? CPU_COUNT(&set) : 1;
#endif
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (int32_t)online : 1;
}
