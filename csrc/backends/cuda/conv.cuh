// What the convolution kernels share: where a tap of an output pixel reads its input, and what is
// done at the end of a tile (bias, residual, rounding, store). A position is a flat index of a
// pixel in [N, T, H, W] of the output. Who includes it: sm80_conv.cu, smxx_conv.cu.
#ifndef CTOK_CUDA_CONV_CUH
#define CTOK_CUDA_CONV_CUH

#include "device.cuh"
#include "kernels.h"

// The arguments of one convolution, as the kernel gets them.
template <typename TIn>
struct conv_call {
    conv_target targets[CONV_MOST_TARGETS];  // blockIdx.y says which
    const TIn *in, *past;                    // past: NULL where frame 0 stands for what came before
    const void *residual;                    // NULL: none
    conv_params p;
    int64_t tap_weights;   // elements of packed for one tap
    norm_moment *moments;  // NULL: none are wanted
    int32_t groups;
    int32_t phases;  // of sm80_conv_form_of
};

// The outputs of one phase (conv_phases): how many there are, and where they lie in the output.
struct conv_phase {
    int64_t positions;
    int frames, width, pixels;  // of an image, of a row, of a frame
    int step, y, x;             // in space: pixel (step * row + y, step * column + x)
    int step_t, t;              // in time: frame step_t * t' + t
};

DEVICE conv_phase conv_phase_of(const conv_params &p, int phases, int phase) {
    conv_phase of = {0, (int)p.out.t, (int)p.out.w, (int)(p.out.h * p.out.w), 1, 0, 0, 1, 0};
    if (phases == 4) of.width /= 2, of.pixels /= 4, of.step = 2, of.y = phase / 2, of.x = phase % 2;
    if (phases == 2) {
        of.step_t = 2, of.t = (phase + 1 + p.offset_t) & 1;
        of.frames = (of.frames - of.t + 1) / 2;
    }
    of.positions = p.out.n * of.frames * of.pixels;
    return of;
}

// Where an output pixel finds its taps. In space: `at` is its frame in `in`, and (y, x) the pixel
// that tap 0 reads, before upsampling. In time: `at` is the pixel within a frame, y the frame that
// tap 0 reads, x the image.
struct conv_row {
    int at, y, x;
};

struct conv_position {
    int64_t frame;  // n * T + t of the output
    int y, x;
};

// Output first + row of a phase, which must lie within it. Limit: a frame holds at most 2^31 - 257
// pixels.
DEVICE conv_position conv_position_of(const conv_params &p, const conv_phase &phase, int64_t first,
                                      int row) {
    int64_t frame = first / phase.pixels;  // the same in all threads
    int pixel = (int)(first - frame * phase.pixels) + row;
    frame += pixel / phase.pixels, pixel %= phase.pixels;
    if (phase.step_t == 2) {
        int64_t n = frame / phase.frames;
        frame = n * p.out.t + (frame - n * phase.frames) * 2 + phase.t;
    }
    return {frame, pixel / phase.width * phase.step + phase.y,
            pixel % phase.width * phase.step + phase.x};
}

DEVICE conv_row conv_row_of(const conv_params &p, conv_position at) {
    if (p.kernel_t == 1)
        return {(int)at.frame, at.y * p.stride - p.pad_before, at.x * p.stride - p.pad_before};
    int n = (int)(at.frame / p.out.t), j = (int)(at.frame - n * p.out.t);
    return {at.y * (int)p.in.w + at.x, j * p.stride_t + p.offset_t - p.pad_t, n};
}

// The first channel that a tap reads; is_inside false: zeros (the address is then valid, and not to
// be used). The two taps of a phase, in a row, column or time, read what 0 and 2 of the three read.
template <typename TIn>
DEVICE const TIn *conv_source(const conv_call<TIn> &call, conv_row row, int tap, bool &is_inside) {
    const conv_params &p = call.p;
    if (call.phases == 4) tap = tap / 2 * 6 + tap % 2 * 2;
    if (call.phases == 2) tap *= 2;
    int pixels = (int)(p.in.h * p.in.w);
    if (p.kernel_t == 1) {
        int ky = tap / 3, y = row.y + ky, x = row.x + tap - 3 * ky,
            shift = p.upsample - 1;  // a single tap is tap 0
        is_inside = (unsigned)y < (unsigned)p.in.h << shift && (unsigned)x < (unsigned)p.in.w
                                                                                 << shift;
        int pixel = is_inside ? (y >> shift) * (int)p.in.w + (x >> shift) : 0;
        return call.in + ((int64_t)row.at * pixels + pixel) * p.in.c;
    }
    int step = row.y + tap, s = step >> (p.upsample_t - 1);
    bool is_past = s < 0 && call.past;
    int frame = is_past ? 2 * row.x + 2 + s : row.x * (int)p.in.t + (s < 0 ? 0 : s);
    is_inside = true;
    return (is_past ? call.past : call.in) + ((int64_t)frame * pixels + row.at) * p.in.c;
}

// ---------------------------------------------------------------- end of a tile
// Element (n, t, y, x, 0) of the output.
DEVICE int64_t conv_output_at(const conv_params &p, conv_position at) {
    return ((at.frame * p.out.h + at.y) * p.out.w + at.x) * p.out.c;
}

// Element (n, t, y, x, 0) of a residual that has the shape of `in`.
DEVICE int64_t conv_upsampled_residual_at(const conv_params &p, conv_position at) {
    int64_t n = at.frame / p.out.t, t = (at.frame - n * p.out.t + p.offset_t) >> (p.upsample_t - 1);
    return (((n * p.in.t + t) * p.in.h + (at.y >> (p.upsample - 1))) * p.in.w +
            (at.x >> (p.upsample - 1))) *
           p.out.c;
}

template <typename TOut>
DEVICE float4 conv_load4(const TOut *from);
template <>
DEVICE float4 conv_load4(const float *from) {
    return *(const float4 *)from;
}
template <>
DEVICE float4 conv_load4(const bf16 *from) {
    uint2 pairs = *(const uint2 *)from;
    return make_float4(low_float(pairs.x), high_float(pairs.x), low_float(pairs.y),
                       high_float(pairs.y));
}

DEVICE void conv_store4(float *to, float4 v) { *(float4 *)to = v; }
DEVICE void conv_store4(bf16 *to, float4 v) {
    uint32_t low = from_float<bf16>(v.x).bits | (uint32_t)from_float<bf16>(v.y).bits << 16;
    *(uint2 *)to =
        make_uint2(low, from_float<bf16>(v.z).bits | (uint32_t)from_float<bf16>(v.w).bits << 16);
}

template <typename T>
DEVICE float4 conv_rounded4(float4 v) {
    return make_float4(to_float(from_float<T>(v.x)), to_float(from_float<T>(v.y)),
                       to_float(from_float<T>(v.z)), to_float(from_float<T>(v.w)));
}

// Adds bias and residual to the sums of channels c .. c + 3 of the RUN pixels first + row, first +
// row + step, and so on, of a phase, and writes them to the output; pixels and channels beyond its
// end are left out. C is a multiple of 4; bias is that of the four channels. Afterwards sums has
// what was stored, before its rounding. Note: out may be the residual. This thread alone touches
// these elements, and all of the run's are read before any is written, or each would wait for the
// one before.
template <typename TOut, int RUN, typename TIn>
DEVICE void conv_finish4(const conv_call<TIn> &call, const conv_phase &phase,
                         const conv_target &target, int64_t first, int row, int step, int c,
                         float4 bias, float4 (&sums)[RUN]) {
    const conv_params &p = call.p;
    if (c >= p.out.c) return;
    int64_t left = phase.positions - first - row, at[RUN];
    const TOut *residual = (const TOut *)call.residual;
    float4 more[RUN];
#pragma unroll
    for (int i = 0; i < RUN; i++)
        more[i] = make_float4(0, 0, 0, 0), at[i] = (first + row + i * step) * p.out.c + c;
    if (call.phases > 1 || p.has_upsampled_residual) {
#pragma unroll
        for (int i = 0; i < RUN; i++) {
            if (i * step >= left) continue;
            conv_position position = conv_position_of(p, phase, first, row + i * step);
            at[i] = conv_output_at(p, position) + c;
            if (residual && p.has_upsampled_residual)
                more[i] = conv_load4(residual + conv_upsampled_residual_at(p, position) + c);
        }
    }
    if (residual && !p.has_upsampled_residual) {
#pragma unroll
        for (int i = 0; i < RUN; i++)
            if (i * step < left) more[i] = conv_load4(residual + at[i]);
    }
#pragma unroll
    for (int i = 0; i < RUN; i++) {
        sums[i] = make_float4(sums[i].x + bias.x + more[i].x, sums[i].y + bias.y + more[i].y,
                              sums[i].z + bias.z + more[i].z, sums[i].w + bias.w + more[i].w);
        if (i * step < left) conv_store4((TOut *)target.out + at[i], sums[i]);
    }
}

// The same for one pixel where C is no multiple of 4, a channel at a time.
template <typename TOut, typename TIn>
DEVICE void conv_finish_each(const conv_call<TIn> &call, const conv_phase &phase,
                             const conv_target &target, int64_t first, int row, int c, float4 sum) {
    const conv_params &p = call.p;
    if (first + row >= phase.positions) return;
    conv_position position = conv_position_of(p, phase, first, row);
    int64_t at = conv_output_at(p, position) + c, from = at;
    if (p.has_upsampled_residual) from = conv_upsampled_residual_at(p, position) + c;
    const TOut *residual = (const TOut *)call.residual;
    const float sums[4] = {sum.x, sum.y, sum.z, sum.w};
#pragma unroll
    for (int i = 0; i < 4; i++)
        if (c + i < p.out.c)
            ((TOut *)target.out)[at + i] = from_float<TOut>(
                sums[i] + target.bias[c + i] + (residual ? to_float(residual[from + i]) : 0.0f));
}

// ---------------------------------------------------------------- host
template <typename TIn>
static conv_call<TIn> conv_call_of(const conv_target *targets, int32_t num_targets, const void *in,
                                   const void *past, const void *residual, const conv_params *p,
                                   int64_t tap_weights, norm_moment *moments, int32_t groups,
                                   int32_t phases) {
    conv_call<TIn> call = {
        {}, (const TIn *)in, (const TIn *)past, residual, *p, tap_weights, moments, groups, phases};
    for (int32_t i = 0; i < num_targets; i++) call.targets[i] = targets[i];
    return call;
}

#endif
