// cpuid through the compiler's own table, which also checks that the system saves ymm and zmm registers. Off x86-64
// nothing is found and the generic kernels serve.
#include "features.h"

#include <sched.h>
#include <unistd.h>

cpu_features features_detect(void) {
    cpu_features found = {false, false, false};
#if defined(__x86_64__)
    __builtin_cpu_init();
    found.has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    found.has_avx512 = found.has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                       __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    found.has_avx512_bf16 = found.has_avx512 && __builtin_cpu_supports("avx512bf16");
#endif
    return found;
}

int32_t features_num_processors(void) {
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set) > 0 ? CPU_COUNT(&set) : 1;
#endif
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (int32_t)online : 1;
}
