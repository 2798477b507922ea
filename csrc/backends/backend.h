// The seam between the network and a device: memory, weight packing and the ops that the networks are made of. Core fills
// the parameter structs (shapes are already checked); a backend computes. Ops run in the order called and see each
// other's results. All activations are float32 NTHWC on the backend's memory; T is 1 for images.
// Who calls it: core/execute (ops), core/engine (memory, weights). Who implements it: backends/cpu.
#ifndef CTOK_BACKEND_H
#define CTOK_BACKEND_H

#include <stdatomic.h>

#include "../core/status.h"
#include "../core/tensor.h"

enum { BACKEND_ALIGNMENT = 64 };  // bytes, of every buffer and arena offset

// External tensors (the caller's side of a job) and their meaning; see "requests" in ctok.h.
typedef enum {
    EXTERNAL_PIXELS_U8,  // [N, H, W, 3] u8: value / 255 * 2 - 1
    EXTERNAL_F32_NCHW    // [N, C, H, W] f32
} external_format;

// load: out[n, y, x, c] = external[y - top][x - left], and -1.0 (black) outside the external H x W.
// store: external[y][x] = in[n, y + top, x + left, c]; to u8: clamp((v + 1) / 2, 0, 1) * 255 + 0.5, cut to an integer, each
// operation rounded in float32 as reference/pipeline_reference.py does; NaN gives 0.
typedef struct {
    external_format format;
    ctok_shape shape;            // of the activation
    int64_t height, width;       // of the external tensor (with top, left inside the activation)
    int64_t top, left;
} transfer_params;

// haar: one or two steps over (W, then H): [N,1,H,W,C] -> [N,1,H/p,W/p,C*p*p], p = patch (2 or 4).
// Each step halves W then H; low = (even + odd) / 2, high = (even - odd) / 2; channel order: bands outermost,
// the band of W slowest, as haar(x, dims=(3, 2)) in reference/cosmos_reference.py. unhaar is its inverse.
typedef struct {
    ctok_shape in, out;
    int32_t patch;
} haar_params;

// out = conv(in) + bias (+ residual). Square kernel in space. The input is first read through a nearest upsampling
// (in[y / upsample][x / upsample]); rows and columns outside it are zero, so `pad_before` rows above and left, and as many
// below and right as out.h, out.w need. out[oy][ox] takes in[oy * stride + ky - pad_before][ox * stride + kx - pad_before].
typedef struct {
    ctok_shape in, out;   // in: before upsampling
    int32_t kernel;       // 1 or 3
    int32_t stride;       // 1 or 2
    int32_t pad_before;   // 0 or 1
    int32_t upsample;     // 1 or 2
} conv_params;

// Weights as packed by the same backend, with the bias (float32[C_out]) beside them.
typedef struct {
    const void *packed;
    const float *bias;
} conv_weights;

// GroupNorm over (H, W, C / groups) of each image, then scale[c], offset[c], then SiLU if asked: x * sigmoid(x).
// Statistics are gathered in float64 (or as exactly). May run in place (out == in).
typedef struct {
    ctok_shape shape;
    int32_t groups;
    float epsilon;
    bool has_silu;
} norm_params;

// Single-head attention over the H * W positions of each image, width C, scale C^-0.5: softmax(q k^T * scale) v.
// The (H*W) x (H*W) matrix is never stored: blocks with a running maximum and sum.
typedef struct {
    ctok_shape shape;
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
    const char *name;  // "avx512", "generic", "reference", ...

    // Weights of a convolution: OIHW float32 in, the backend's own layout out (conv_weight_bytes, 64-byte aligned).
    size_t (*conv_weight_bytes)(const backend *b, int64_t c_out, int64_t c_in, int32_t kernel);
    void (*conv_weight_pack)(backend *b, void *packed, const float *weight, int64_t c_out, int64_t c_in, int32_t kernel);

    // Scratch that the op needs while it runs (0 for the ops not listed); it lies in the arena, contents undefined.
    size_t (*conv_workspace_bytes)(const backend *b, const conv_params *p);
    size_t (*attention_workspace_bytes)(const backend *b, const attention_params *p);

    // Ops. CTOK_OK, or CTOK_E_CANCELLED when b->cancel turned true (the output is then undefined).
    // No output may overlap an input unless it says so: norm in place; conv with out == residual.
    ctok_status (*load)(backend *b, float *out, const void *external, const transfer_params *p);
    ctok_status (*store)(backend *b, void *external, const float *in, const transfer_params *p);
    ctok_status (*haar)(backend *b, float *out, const float *in, const haar_params *p);
    ctok_status (*unhaar)(backend *b, float *out, const float *in, const haar_params *p);
    ctok_status (*conv)(backend *b, float *out, const float *in, const float *residual /* or NULL */, conv_weights w,
                        void *workspace, const conv_params *p);
    ctok_status (*norm)(backend *b, float *out, const float *in, const float *scale, const float *offset, const norm_params *p);
    ctok_status (*attention)(backend *b, float *out, const float *q, const float *k, const float *v, void *workspace,
                             const attention_params *p);
    ctok_status (*quantize)(backend *b, int32_t *indices /* or NULL */, float *codes, const float *in, const fsq_params *p);
    ctok_status (*dequantize)(backend *b, float *codes, const int32_t *indices /* in range */, const fsq_params *p);
} backend_ops;

struct backend {
    const backend_ops *ops;
    void *(*alloc)(backend *b, size_t num_bytes);  // BACKEND_ALIGNMENT-aligned, NULL when there is none; contents undefined
    void (*free)(backend *b, void *memory, size_t num_bytes);
    void (*close)(backend *b);
    int32_t num_threads;
    const atomic_bool *cancel;  // set by the engine for each job; NULL: never. Ops stop soon after it turns true
};

// kernels: CTOK_KERNELS_*. Errors: CTOK_E_DEVICE (the processor lacks them), CTOK_E_THREAD, CTOK_E_MEMORY.
ctok_status cpu_backend_open(backend **out, uint32_t num_threads, uint32_t kernels, ctok_error *error);

#endif
