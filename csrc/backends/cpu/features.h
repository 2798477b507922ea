// What the processor can run, asked once when the backend opens. Called by cpu_backend.c.
#ifndef CTOK_CPU_FEATURES_H
#define CTOK_CPU_FEATURES_H

#include <stdbool.h>
#include <stdint.h>

typedef struct {
    bool has_avx2;         // AVX2 and FMA
    bool has_avx512;       // AVX-512 F, BW, DQ and VL, and an operating system that keeps their
                           // registers
    bool has_avx512_bf16;  // and AVX-512 BF16
    bool has_neon;         // every arm64
    bool has_neon_bf16;    // and BF16: bfmmla, bfcvtn
} cpu_features;

cpu_features features_detect(void);
int32_t features_num_processors(void);  // of this process's affinity; at least 1

#endif
