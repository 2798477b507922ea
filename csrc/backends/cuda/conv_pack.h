// Weights of a convolution as the kernels read them. In: [c_out, c_in, taps] float32 (OIHW, or O I
// T). sm80: bf16 [taps][c_out rounded up to 128][c_in]: the reduction is contiguous, and every tile
// reads whole rows (zeros). smxx: float32 [taps][c_in][c_out rounded up to 64]; with is_bf16 the
// values are rounded to bfloat16.
// Who calls it: cuda_backend.c on host memory, before the copy to the device.
#ifndef CTOK_CUDA_CONV_PACK_H
#define CTOK_CUDA_CONV_PACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SM80_CONV_PADDING = 128, SMXX_CONV_PADDING = 64 };

static inline int64_t conv_padded(int64_t c_out, int64_t padding) {
    return (c_out + padding - 1) / padding * padding;
}

#ifdef __cplusplus
extern "C" {
#endif

size_t sm80_conv_weight_bytes(int64_t c_out, int64_t c_in, int64_t taps);
void sm80_conv_pack(uint16_t *packed, const float *weight, int64_t c_out, int64_t c_in,
                    int64_t taps);
size_t smxx_conv_weight_bytes(int64_t c_out, int64_t c_in, int64_t taps);
void smxx_conv_pack(float *packed, const float *weight, int64_t c_out, int64_t c_in, int64_t taps,
                    bool is_bf16);

#ifdef __cplusplus
}
#endif

#endif
