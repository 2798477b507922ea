// Splits float32 activations in two bf16 for the tensor cores: [positions][c] becomes
// [positions][channels] with the values rounded to bf16, then what the rounding left, also rounded,
// then zeros. Their sum has 16 bits of the value. A thread does four channels of a position, c
// being a multiple of 8. Who calls it: op.c, before the first convolution of a bf16 network
// (conv_is_split).
#include "device.cuh"
#include "kernels.h"
#include "ptx/convert.cuh"

enum { SPLIT_THREADS = 256 };

__global__ void sm80_split_kernel(bf16 *out, const float *in, int64_t count, int c, int channels) {
    int lanes = (channels - c) / 4;  // of a position: for c values, and for the zeros
    int64_t thread = (int64_t)blockIdx.x * SPLIT_THREADS + threadIdx.x;
    if (thread >= count * lanes) return;
    int64_t position = thread / lanes;
    int at = (int)(thread - position * lanes) * 4;
    bf16 *to = out + position * channels + at;
    if (at >= c) {
        *(uint2 *)(to + c) = make_uint2(0, 0);
        return;
    }
    float4 x = *(const float4 *)(in + position * c + at);
    uint2 high = make_uint2(pack_bf16(x.x, x.y), pack_bf16(x.z, x.w));
    *(uint2 *)to = high;
    *(uint2 *)(to + c) = make_uint2(pack_bf16(x.x - low_float(high.x), x.y - high_float(high.x)),
                                    pack_bf16(x.z - low_float(high.y), x.w - high_float(high.y)));
}

extern "C" int sm80_split(void *out, const float *in, const conv_params *p, cudaStream_t stream) {
    int64_t count = shape_positions(p->in), channels = sm80_conv_form_of(p).channels,
            threads = count * ((channels - p->in.c) / 4);
    return LAUNCH(
        sm80_split_kernel, dim3((unsigned)((threads + SPLIT_THREADS - 1) / SPLIT_THREADS)),
        dim3(SPLIT_THREADS), 0, stream, (bf16 *)out, in, count, (int)p->in.c, (int)channels);
}
