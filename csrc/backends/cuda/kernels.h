// The kernels as the backend calls them: one function for each kernel file, named after it. They
// take device pointers, the op's parameters and a stream, start the kernel and return 0 or the CUDA
// error of the start (a cudaError_t); nothing waits. Which of two a shape gets is decided in
// heuristics.c. Who calls them: op.c, cuda_backend.c (load, store, dequantize),
// tests/native/cuda_emulator/cuda_test.c.
#ifndef CTOK_CUDA_KERNELS_H
#define CTOK_CUDA_KERNELS_H

#include "../../base/ops.h"
#include "conv_pack.h"
#include "heuristics.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct CUstream_st *cudaStream_t;  // as cuda_runtime_api.h has it

// Mean and sum of (x - mean)^2 over a part of a group. A norm gathers these moments first, unless
// the convolution before it did so while storing.
typedef struct {
    double mean, deviations;
} norm_moment;

// What a convolution makes of its input, `packed` as conv_pack of the same kernel laid it out
// (conv_pack.h).
typedef struct {
    void *out;
    const void *packed;
    const float *bias;
} conv_target;

// conv: to one target, or to several at once that differ in weights alone, as q, k and v do. past
// and residual may be NULL. moments: NULL, or where to gather the moments of the one target's
// output for a norm of `groups` groups, in the parts of conv_parts (which must not be 0).
enum { CONV_MOST_TARGETS = 3 };
int sm80_conv(const conv_target *targets, int32_t num_targets, const void *in, const void *past,
              const void *residual, const conv_params *p, conv_tile tile, norm_moment *moments,
              int32_t groups, cudaStream_t stream);
int smxx_conv(const conv_target *targets, int32_t num_targets, const void *in, const void *past,
              const void *residual, const conv_params *p, cudaStream_t stream);

// The input of a convolution for which conv_is_split, as sm80_conv reads it: sm80_split_bytes.
int sm80_split(void *out, const float *in, const conv_params *p, cudaStream_t stream);

// attention: bf16 in space; float32 in space; either, over time.
int sm80_attention(void *out, const void *q, const void *k, const void *v,
                   const attention_params *p, attention_tile tile, cudaStream_t stream);
int smxx_attention(void *out, const void *q, const void *k, const void *v,
                   const attention_params *p, cudaStream_t stream);
int smxx_attention_time(void *out, const void *q, const void *k, const void *v,
                        const attention_params *p, cudaStream_t stream);

// norm: float32 or bf16. workspace: NORM_WORKSPACE_BYTES, of one stream; it begins with the moments
// in these parts, where they are gathered. Parts of a tile that are not are gathered of what is
// stored, by sm80_moments. parts 0: it gathers them in parts of its own.
enum { NORM_WORKSPACE_BYTES = 32 * NORM_MOMENTS };  // moments, and as many statistics
int smxx_norm(void *out, const void *in, const float *scale, const float *offset, void *workspace,
              norm_parts parts, bool are_gathered, const norm_params *p, cudaStream_t stream);

// The bits that sm80_conv with the tile of these parts gathers as it stores so many frames.
int sm80_moments(norm_moment *moments, void *stored, int64_t frames, norm_parts parts,
                 const norm_params *p, cudaStream_t stream);

// The ops that move or halve values. External tensors and indices are in device memory here. copy:
// of any bytes; out may overlap in if it begins before it.
int smxx_load(float *out, const void *external, const transfer_params *p, cudaStream_t stream);
int smxx_store(void *external, const float *in, const transfer_params *p, cudaStream_t stream);
int smxx_haar(float *out, const float *in, const haar_params *p, cudaStream_t stream);
int smxx_unhaar(float *out, const float *in, const haar_params *p, cudaStream_t stream);
int smxx_pool(void *out, const void *in, const pool_params *p, cudaStream_t stream);
int smxx_copy(void *out, const void *in, size_t num_bytes, cudaStream_t stream);

// codebook: device memory too, or NULL where the kind has none.
int smxx_quantize(int32_t *indices /* or NULL */, float *codes, const float *in,
                  const float *codebook, const quantizer_params *p, cudaStream_t stream);
int smxx_dequantize(float *codes, const int32_t *indices, const float *codebook,
                    const quantizer_params *p, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
