// Convolution of float32 by implicit GEMM on plain FMAs, any number of channels; out in float32 or
// bf16. What float32 precision runs on (never TF32), what devices before sm_80 have, and the ends
// of the bf16 networks, what leaves them being float32. A block makes 64 pixels x 64 channels, a
// thread 4 x 4; operands go through shared memory in steps of 16 channels of one tap. The next step
// waits in registers while this one multiplies. Who calls it: op.c.
#include "conv.cuh"
#include "kernels.h"

enum {
    CONV_BM = 64,
    CONV_BN = SMXX_CONV_PADDING,
    CONV_BK = 16,
    CONV_THREADS = 256,
    CONV_STRIDE = CONV_BM + 4,  // of a row of A: keeps float4 aligned, spreads the 16 rows that a
                                // store touches over banks
    CONV_SHARED_BYTES = CONV_BK * (CONV_STRIDE + CONV_BN) * 4
};

// One thread's part of a step: it loads 4 channels of one pixel, and 4 output channels of one input
// channel.
struct conv_step {
    float a[4];
    float4 b;
};

DEVICE conv_step conv_load_step(const conv_call<float> &call, const conv_target &target,
                                conv_row row, int tap, int c0, int n0) {
    conv_step step = {{0, 0, 0, 0}, make_float4(0, 0, 0, 0)};
    int c_in = (int)call.p.in.c, c = c0 + (int)threadIdx.x % 4 * 4, k = c0 + (int)threadIdx.x / 16;
    bool is_inside;
    const float *from = conv_source(call, row, tap, is_inside);
    for (int i = 0; i < 4; i++)
        if (is_inside && c + i < c_in) step.a[i] = from[c + i];
    const float *weights =
        (const float *)target.packed + tap * call.tap_weights + k * (call.tap_weights / c_in) + n0;
    if (k < c_in) step.b = *(const float4 *)(weights + threadIdx.x % 16 * 4);
    return step;
}

DEVICE void conv_keep_step(shared<float> a, shared<float> b, conv_step step) {
    int row = (int)threadIdx.x / 4, c = (int)threadIdx.x % 4 * 4;
    for (int i = 0; i < 4; i++) a[(c + i) * CONV_STRIDE + row] = step.a[i];
    shared_as<float4>(b)[threadIdx.x] = step.b;
}

// A row after the other: four residuals at a time would take registers of a fourth block on the SM.
template <typename TOut>
DEVICE void conv_store_sums(const conv_call<float> &call, const conv_phase &phase,
                            const conv_target &target, int64_t first, int row, int c,
                            const float (&sums)[4][4]) {
    bool is_whole = call.p.out.c % 4 == 0 && c < call.p.out.c;
    float4 bias = is_whole ? *(const float4 *)(target.bias + c) : make_float4(0, 0, 0, 0);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float4 sum[1] = {make_float4(sums[i][0], sums[i][1], sums[i][2], sums[i][3])};
        if (is_whole) conv_finish4<TOut>(call, phase, target, first, row + i, 1, c, bias, sum);
        else conv_finish_each<TOut>(call, phase, target, first, row + i, c, sum[0]);
    }
}

__global__ void __launch_bounds__(CONV_THREADS) smxx_conv_kernel(conv_call<float> call) {
    const conv_params &p = call.p;
    const conv_target target = call.targets[blockIdx.y];
    int c_in = (int)p.in.c, num_taps = p.kernel * p.kernel * p.kernel_t;
    conv_phase phase = conv_phase_of(p, 1, 0);
    int tiles_n = (int)((p.out.c + CONV_BN - 1) / CONV_BN),
        n0 = (int)(blockIdx.x % (unsigned)tiles_n) * CONV_BN;
    int64_t first = (int64_t)(blockIdx.x / (unsigned)tiles_n) * CONV_BM;

    int loaded = (int)threadIdx.x / 4, m = (int)threadIdx.x / 16 * 4, n = (int)threadIdx.x % 16 * 4;
    conv_row row = conv_row_of(
        p, conv_position_of(
               p, phase, first,
               first + loaded < phase.positions ? loaded : (int)(phase.positions - 1 - first)));
    shared<float> a = shared_at<float>(0), b = shared_at<float>(CONV_BK * CONV_STRIDE * 4);

    float sums[4][4] = {};
    conv_step next = conv_load_step(call, target, row, 0, 0, n0);
    for (int tap = 0, c0 = 0; tap < num_taps;) {
        conv_keep_step(a, b, next);
        __syncthreads();
        c0 += CONV_BK;
        if (c0 >= c_in) c0 = 0, tap++;
        if (tap < num_taps) next = conv_load_step(call, target, row, tap, c0, n0);
#pragma unroll
        for (int k = 0; k < CONV_BK; k++) {
            float4 left = shared_as<float4>(a + k * CONV_STRIDE + m)[0],
                   right = shared_as<float4>(b + k * CONV_BN + n)[0];
            const float rows[4] = {left.x, left.y, left.z, left.w},
                        columns[4] = {right.x, right.y, right.z, right.w};
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) sums[i][j] += rows[i] * columns[j];
        }
        __syncthreads();  // all have read before the next step is kept
    }
    if (p.out_dtype == CTOK_F32)
        conv_store_sums<float>(call, phase, target, first, m, n0 + n, sums);
    else conv_store_sums<bf16>(call, phase, target, first, m, n0 + n, sums);
}

extern "C" int smxx_conv(const conv_target *targets, int32_t num_targets, const void *in,
                         const void *past, const void *residual, const conv_params *p,
                         cudaStream_t stream) {
    int64_t tap_weights = conv_padded(p->out.c, SMXX_CONV_PADDING) * p->in.c;
    conv_call<float> call =
        conv_call_of<float>(targets, num_targets, in, past, residual, p, tap_weights, NULL, 0, 1);
    int64_t tiles_n = (p->out.c + CONV_BN - 1) / CONV_BN,
            tiles_m = (shape_positions(p->out) + CONV_BM - 1) / CONV_BM;
    return LAUNCH(smxx_conv_kernel, dim3((unsigned)(tiles_m * tiles_n), (unsigned)num_targets),
                  dim3(CONV_THREADS), CONV_SHARED_BYTES, stream, call);
}
