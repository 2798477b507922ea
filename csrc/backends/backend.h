// The seam between the network and a device: memory, weight packing and the ops that the networks are made of. Core fills
// the parameter structs (shapes are already checked); a backend computes. Ops run in the order called and see each
// other's results. Activations are NTHWC on the backend's memory; T is 1 for images. They are float32, or bfloat16 where a
// parameter struct says so: channels are then a multiple of BF16_CHANNELS, sums and everything between load and store are
// float32, and a result is rounded once, to nearest even.
// Backend memory is a device's: the host neither reads nor writes it but through upload, copy, conv_weight_pack and the ops
// with an external tensor, which is the host's. Work may still be under way when a function returns; `finish` waits for it.
// Who calls it: core/program (ops), core/engine and core/model (memory, weights). Who implements it: backends/cpu, backends/cuda.
#ifndef CTOK_BACKEND_H
#define CTOK_BACKEND_H

#include <stdatomic.h>

#include "../core/status.h"
#include "../core/tensor.h"

enum {
    BACKEND_ALIGNMENT = 64,  // bytes, of every buffer and arena offset
    BF16_CHANNELS = 32       // of a bfloat16 activation, or a multiple: whole vectors in every kernel set
};

static inline size_t backend_align(size_t bytes) { return (bytes + BACKEND_ALIGNMENT - 1) / BACKEND_ALIGNMENT * BACKEND_ALIGNMENT; }

// External tensors (the caller's side of a job) and their meaning; see "requests" in ctok.h.
typedef enum {
    EXTERNAL_PIXELS_U8,  // [N, T, H, W, 3] u8: value / 255 * 2 - 1
    EXTERNAL_F32_NCTHW   // [N, C, T, H, W] f32
} external_format;

// load: out[n, t, y, x, c] = external[clamp(t - before, 0, frames - 1)][y - top][x - left], and -1.0 (black) outside H x W.
// store: external[t][y][x] = in[n, t + before, y + top, x + left, c]; to u8: clamp((v + 1) / 2, 0, 1) * 255 + 0.5, cut to an
// integer, each operation rounded in float32 as reference/pipeline_reference.py does; NaN gives 0.
typedef struct {
    external_format format;
    ctok_shape shape;                // of the activation
    int64_t frames, height, width;   // of the external tensor
    int64_t before, top, left;       // where it lies in the activation
} transfer_params;

// haar: log2(patch) steps, each halving; low = (even + odd) / 2, high = (even - odd) / 2; bands outermost in the channels.
// Image (patch_t 1): W then H, the band of W slowest: [N,1,H,W,C] -> [N,1,H/p,W/p,C*p*p].
// Video (patch_t p): T then H then W, the band of T slowest: [N,T,H,W,C] -> [N,T/p,H/p,W/p,C*p*p*p]. With is_first the first
// frame is read p times (T + p - 1 frames then): it stands alone. unhaar is the inverse, and with is_first drops the first
// p - 1 frames. Ref: haar(x, dims=(3, 2)) and haar(x, dims=(2, 3, 4)), Patch, Unpatch in reference/cosmos_reference.py.
typedef struct {
    ctok_shape in, out;
    int32_t patch, patch_t;
    bool is_first;
} haar_params;

// out = conv(in) + bias (+ residual), in space (kernel 1 or 3, kernel_t 1; each frame on its own) or in time (kernel 1,
// kernel_t 3; stride, upsample 1 and pad_before 0).
// In space the input is read through a nearest upsampling (in[y / upsample][x / upsample]); rows and columns outside are
// zero, `pad_before` of them above and left, and as many below and right as out.h, out.w need:
//     out[oy][ox] takes in[oy * stride + ky - pad_before][ox * stride + kx - pad_before].
// In time, out frame j and tap k take source frame s = (j * stride_t + k - pad_t + offset_t) >> (upsample_t - 1) (arithmetic
// shift). Where s < 0: frame 2 + s of `past`, the two source frames before `in` ([2, H, W, C] each image), if there is one;
// otherwise frame 0.
// Note: a backend may spread NaN and infinity (as NaN) to outputs of the same frame up to 4 pixels away.
typedef struct {
    ctok_shape in, out;   // in: before upsampling
    int32_t kernel;       // 1 or 3
    int32_t stride;       // 1 or 2
    int32_t pad_before;   // 0 or 1
    int32_t upsample;     // 1 or 2
    int32_t kernel_t;     // 1 or 3
    int32_t stride_t;     // 1 or 2
    int32_t pad_t;        // 0; in time 2, or 1 where a stride goes on from an earlier chunk
    int32_t upsample_t;   // 1 or 2
    int32_t offset_t;     // 1 where an upsampling in time starts: the first frame is never doubled. Otherwise 0
    ctok_dtype in_dtype, out_dtype;  // CTOK_F32 or CTOK_BF16; past is of in's, the residual of out's
    bool has_upsampled_residual;  // the residual has the shape of `in` and is read through the same upsampling, without taps:
                                  // frame (j + offset_t) >> (upsample_t - 1), pixel [y / upsample][x / upsample]
} conv_params;

// Mean of neighbours. In space: [H, W] -> [H / 2, W / 2], 2 x 2. In time (is_temporal): frames 2j + s - 1 and 2j + s, with
// s = 0 where is_first (a frame -1 is frame 0) and 1 where not.
typedef struct {
    ctok_shape in, out;
    bool is_temporal, is_first;
    ctok_dtype dtype;     // of in and out
} pool_params;

// Weights as packed by the same backend for inputs of one dtype, with the bias (float32[C_out]) beside them.
typedef struct {
    const void *packed;
    const float *bias;
} conv_weights;

// GroupNorm over (H, W, C / groups) of each frame, then scale[c], offset[c], then SiLU if asked: x * sigmoid(x).
// Statistics are gathered in float64 (or as exactly). May run in place (out == in).
typedef struct {
    ctok_shape shape;
    int32_t groups;
    float epsilon;
    bool has_silu;
    ctok_dtype dtype;     // of in and out
} norm_params;

// Single-head attention, width C, scale C^-0.5: softmax(q k^T * scale) v, over the H * W positions of each frame. The
// (H*W) x (H*W) matrix is never stored: blocks with a running maximum and sum.
// is_temporal: over time at each position, causally: frame t of q sees the frames of k and v up to its own. k and v then hold
// num_past + T frames (N is 1), of which a frame of q sees the last `window` (0: all).
typedef struct {
    ctok_shape shape;     // of q and out
    bool is_temporal;
    int64_t num_past, window;
    ctok_dtype dtype;     // of q, k, v and out
} attention_params;

// FSQ. in: [N,T,H,W,d]. bounded = tanh(z + shift) * half_width - offset; digit = rint(bounded) (ties to even);
// code = digit / (level / 2); index = sum((digit + level / 2) * basis). All in float32; see core/fsq.h for the tables.
typedef struct {
    ctok_shape shape;     // c = number of levels
    int32_t levels[8];
    int32_t basis[8];
    float shift[8], half_width[8], offset[8];
} fsq_params;

typedef struct backend backend;

// One table for each device and instruction set, chosen once when the engine starts.
typedef struct {
    const char *name;     // "avx512", "generic", "reference", ...
    bool has_bf16;        // takes bfloat16 activations
    bool is_bf16_faster;  // than float32: what precision "auto" goes by

    // Weights of a convolution: OIHW float32 in, the backend's own layout out (conv_weight_bytes, 64-byte aligned). in_dtype is
    // that of the input which the convolution will see; with CTOK_BF16 weights are kept rounded to bfloat16.
    // Taps: kernel x kernel in space (kernel_t 1), or kernel_t in time (kernel 1, weights [O, I, kernel_t]).
    size_t (*conv_weight_bytes)(const backend *b, int64_t c_out, int64_t c_in, int32_t kernel_t, int32_t kernel, ctok_dtype in_dtype);
    void (*conv_weight_pack)(backend *b, void *packed, const float *weight, int64_t c_out, int64_t c_in, int32_t kernel_t, int32_t kernel,
                             ctok_dtype in_dtype);

    // Scratch that the op needs while it runs (0 for the ops not listed); it lies in the arena, contents undefined.
    size_t (*conv_workspace_bytes)(const backend *b, const conv_params *p);
    size_t (*attention_workspace_bytes)(const backend *b, const attention_params *p);
    size_t (*external_workspace_bytes)(const backend *b, size_t external_bytes);  // load, store; quantize, dequantize: of the indices

    // Ops. CTOK_OK; CTOK_E_CANCELLED when b->cancel turned true (the output is then undefined); or what `finish` then explains.
    // No output may overlap an input unless it says so: norm in place; conv with out == residual (not an upsampled one).
    // An external tensor is the host's memory: read when load or dequantize returns, written when the next finish returns.
    ctok_status (*load)(backend *b, float *out, const void *external, void *workspace, const transfer_params *p);
    ctok_status (*store)(backend *b, void *external, const float *in, void *workspace, const transfer_params *p);
    ctok_status (*haar)(backend *b, float *out, const float *in, const haar_params *p);
    ctok_status (*unhaar)(backend *b, float *out, const float *in, const haar_params *p);
    ctok_status (*conv)(backend *b, void *out, const void *in, const void *past /* or NULL */, const void *residual /* or NULL */,
                        conv_weights w, void *workspace, const conv_params *p);
    ctok_status (*pool)(backend *b, void *out, const void *in, const pool_params *p);
    ctok_status (*norm)(backend *b, void *out, const void *in, const float *scale, const float *offset, const norm_params *p);
    ctok_status (*attention)(backend *b, void *out, const void *q, const void *k, const void *v, void *workspace,
                             const attention_params *p);
    ctok_status (*quantize)(backend *b, int32_t *indices /* or NULL */, float *codes, const float *in, void *workspace, const fsq_params *p);
    ctok_status (*dequantize)(backend *b, float *codes, const int32_t *indices /* in range */, void *workspace, const fsq_params *p);
} backend_ops;

// Only `free`, the *_bytes functions and `memory_bytes` may be called on any thread; the rest on the engine's.
struct backend {
    const backend_ops *ops;
    const char *device, *device_name;  // "cpu", ""; "cuda:0", "NVIDIA H100 80GB HBM3"
    const char *bf16_needs;            // what has_bf16 would take, after "expected"
    void *(*alloc)(backend *b, size_t num_bytes);  // BACKEND_ALIGNMENT-aligned, NULL when there is none; contents undefined
    void *(*grow)(backend *b, void *memory, size_t num_bytes, size_t new_bytes);  // as realloc: NULL leaves the old as it was
    void (*free)(backend *b, void *memory, size_t num_bytes);
    void (*upload)(backend *b, void *to, const void *host, size_t num_bytes);  // the host's memory is free again on return
    void (*copy)(backend *b, void *to, const void *from, size_t num_bytes);    // within the backend; may overlap if to < from
    // Waits until all is done. A failure since the last finish that its function could not tell, or only by a status, is this
    // one's: CTOK_E_DEVICE, CTOK_E_MEMORY. It then starts afresh, unless the device is lost.
    ctok_status (*finish)(backend *b, ctok_error *error);
    // Of weights, activations and the state of streams: all there is, and what is free now (0: not known).
    void (*memory_bytes)(const backend *b, uint64_t *total, uint64_t *available);
    void (*close)(backend *b);
    bool is_host_memory;        // external tensors lie in the same memory
    int32_t num_threads;        // that compute; 0 where that is not a number of threads
    const atomic_bool *cancel;  // set by the engine for each job; NULL: never. Ops stop soon after it turns true
};

// kernels: CTOK_KERNELS_*. Errors: CTOK_E_DEVICE (the processor lacks them), CTOK_E_THREAD, CTOK_E_MEMORY.
ctok_status cpu_backend_open(backend **out, uint32_t num_threads, uint32_t kernels, ctok_error *error);

// GPU number `index`. Errors: CTOK_E_DEVICE (this build has no CUDA, there is no driver, no such GPU, or it is too old),
// CTOK_E_MEMORY. In bfloat16 a GPU needs compute capability 8.0, otherwise 7.5.
ctok_status cuda_backend_open(backend **out, uint32_t index, ctok_error *error);

#endif
