// The parameters of the ops: shapes, sizes and types, filled by runtime/ and network/ (and checked
// there), read by every backend. Apart from backend.h because the CUDA kernels, which are C++17,
// read them too: nothing here but plain structs. Who includes it: backend.h, backends/cuda.
#ifndef CTOK_BASE_OPS_H
#define CTOK_BASE_OPS_H

#include "tensor.h"

// How the caller's inputs and outputs are laid out in the host's memory; see "requests" in ctok.h.
typedef enum {
    EXTERNAL_PIXELS_U8,  // [N, T, H, W, 3] u8: value / 255 * 2 - 1
    EXTERNAL_F32_NCTHW   // [N, C, T, H, W] f32
} external_format;

// load: out[n, t, y, x, c] = external[clamp(t - before, 0, frames - 1)][y - top][x - left], and
// -1.0 (black) outside H x W. store: external[t][y][x] = in[n, t + before, y + top, x + left, c];
// to u8: clamp((v + 1) / 2, 0, 1) * 255 + 0.5, cut to an integer, each operation rounded in float32
// as reference/pipeline_reference.py does; NaN gives 0.
typedef struct {
    external_format format;
    ctok_shape shape;               // of the activation
    int64_t frames, height, width;  // of the external tensor
    int64_t before, top, left;      // where it lies in the activation
} transfer_params;

// haar: log2(patch) steps, each halving; low = (even + odd) / 2, high = (even - odd) / 2; bands
// outermost in the channels. Image (patch_t 1): W then H, the band of W slowest: [N,1,H,W,C] ->
// [N,1,H/p,W/p,C*p*p]. Video (patch_t p): T then H then W, the band of T slowest: [N,T,H,W,C] ->
// [N,T/p,H/p,W/p,C*p*p*p]. With is_first the first frame is read p times (T + p - 1 frames then):
// it stands alone. unhaar is the inverse, and with is_first drops the first p - 1 frames. Ref:
// haar(x, dims=(3, 2)) and haar(x, dims=(2, 3, 4)), Patch, Unpatch in
// reference/cosmos_reference.py.
typedef struct {
    ctok_shape in, out;
    int32_t patch, patch_t;
    bool is_first;
} haar_params;

// out = conv(in) + bias (+ residual), in space (kernel 1 or 3, kernel_t 1; each frame on its own)
// or in time (kernel 1, kernel_t 3; stride, upsample 1 and pad_before 0). In space the input is
// read through a nearest upsampling (in[y / upsample][x / upsample]); rows and columns outside are
// zero, `pad_before` of them above and left, and as many below and right as out.h, out.w need:
//     out[oy][ox] takes in[oy * stride + ky - pad_before][ox * stride + kx - pad_before].
// In time, out frame j and tap k take source frame s = (j * stride_t + k - pad_t + offset_t) >>
// (upsample_t - 1) (arithmetic shift). Where s < 0: frame 2 + s of `past`, the two source frames
// before `in` ([2, H, W, C] each image), if there is one; otherwise frame 0.
// Note: a backend may spread NaN and infinity (as NaN) to outputs of the same frame up to 6 pixels
// away.
typedef struct {
    ctok_shape in, out;  // in: before upsampling
    int32_t kernel;      // 1 or 3
    int32_t stride;      // 1 or 2
    int32_t pad_before;  // 0 or 1
    int32_t upsample;    // 1 or 2
    int32_t kernel_t;    // 1 or 3
    int32_t stride_t;    // 1 or 2
    int32_t pad_t;       // 0; in time 2, or 1 where a stride goes on from an earlier chunk
    int32_t upsample_t;  // 1 or 2
    int32_t offset_t;    // 1 where an upsampling in time starts: the first frame is never doubled.
                         // Otherwise 0
    ctok_dtype in_dtype, out_dtype;  // CTOK_F32 or CTOK_BF16; past is of in's, the residual of
                                     // out's
    bool has_upsampled_residual;  // the residual has the shape of `in` and is read through the same
                                  // upsampling, without taps: frame (j + offset_t) >> (upsample_t -
                                  // 1), pixel [y / upsample][x / upsample]
} conv_params;

// Mean of neighbours. In space: [H, W] -> [H / 2, W / 2], 2 x 2. In time (is_temporal): frames 2j +
// s - 1 and 2j + s, with s = 0 where is_first (a frame -1 is frame 0) and 1 where not.
typedef struct {
    ctok_shape in, out;
    bool is_temporal, is_first;
    ctok_dtype dtype;  // of in and out
} pool_params;

// Weights as packed by the same backend for inputs of one dtype, with the bias (float32[C_out])
// beside them.
typedef struct {
    const void *packed;
    const float *bias;
} conv_weights;

// GroupNorm over (H, W, C / groups) of each frame, then scale[c], offset[c], then SiLU if asked: x
// * sigmoid(x). Statistics are gathered in float64 (or as exactly). May run in place (out == in).
typedef struct {
    ctok_shape shape;
    int32_t groups;
    float epsilon;
    bool has_silu;
    ctok_dtype dtype;  // of in and out
} norm_params;

// Single-head attention, width C, scale C^-0.5: softmax(q k^T * scale) v, over the H * W positions
// of each frame. The (H*W) x (H*W) matrix is never stored: blocks with a running maximum and sum.
// is_temporal: over time at each position, causally: frame t of q sees the frames of k and v up to
// its own. k and v then hold num_past + T frames of each image, of which a frame of q sees the last
// `window` (0: all).
typedef struct {
    ctok_shape shape;  // of q and out
    bool is_temporal;
    int64_t num_past, window;
    ctok_dtype dtype;  // of q, k, v and out
} attention_params;

// How vectors become codes. in and codes: [N,T,H,W,d], indices: one a position.
//   FSQ     finite scalar quantisation: bounded = tanh(z + shift) * half_width - offset;
//           digit = rint(bounded) (ties to even); code = digit / (level / 2);
//           index = sum((digit + level / 2) * basis). All in float32; network/quantizer.h has the
//           tables.
//   LOOKUP  the nearest of `size` unit vectors e, [size, d] float32 rows (quantizer_normalise):
//           u = z / max(|z|, 1e-12), index = the first k of the least |u - e_k|^2, code = e_index.
//           u is rounded to float32, the rest is float64.
//           Where z has NaN or infinity: index 0, NaN codes.
//           Ref: Codebook in reference/llamagen_reference.py.
//   SIGN    code = z > 0 ? 1 : -1; bit c of the index is set where that is 1; d is 30 at most.
//           NaN: a NaN code, the bit not set. Ref: reference/families.md.
typedef enum {
    QUANTIZER_NONE = CTOK_QUANTIZER_NONE,
    QUANTIZER_FSQ = CTOK_QUANTIZER_FSQ,
    QUANTIZER_LOOKUP = CTOK_QUANTIZER_LOOKUP,
    QUANTIZER_SIGN = CTOK_QUANTIZER_SIGN
} quantizer_kind;
typedef struct {
    ctok_shape shape;  // c = d, the channels of a code
    quantizer_kind kind;
    int32_t size;       // number of codes
    int32_t levels[8];  // of FSQ, like the rest
    int32_t basis[8];
    float shift[8], half_width[8], offset[8];
} quantizer_params;

#endif
