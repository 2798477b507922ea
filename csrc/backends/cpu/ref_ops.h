// The ops that have one implementation for every instruction set (ref_pixels.c, ref_quantize.c:
// they move memory or touch few values); the fast tables take them from here. The remaining
// reference ops are reached through the table ref_ops (cpu.h).
#ifndef CTOK_CPU_REF_OPS_H
#define CTOK_CPU_REF_OPS_H

#include <math.h>

#include "../backend.h"

size_t ref_external_workspace_bytes(const backend *b, size_t external_bytes);
ctok_status ref_load(backend *b, float *out, const void *external, void *workspace,
                     const transfer_params *p);
ctok_status ref_store(backend *b, void *external, const float *in, void *workspace,
                      const transfer_params *p);
ctok_status ref_haar(backend *b, float *out, const float *in, const haar_params *p);
ctok_status ref_unhaar(backend *b, float *out, const float *in, const haar_params *p);
ctok_status ref_pool(backend *b, void *out, const void *in, const pool_params *p);
ctok_status ref_quantize(backend *b, int32_t *indices, float *codes, const float *in,
                         const float *codebook, void *workspace, const quantizer_params *p);
ctok_status ref_dequantize(backend *b, float *codes, const int32_t *indices, const float *codebook,
                           void *workspace, const quantizer_params *p);

// The steps of a LOOKUP, which decide in every kernel set. A vector with NaN or infinity is near
// nothing: index 0, a code of NaN.
typedef struct {
    double distance;  // squared
    int32_t index;
} ref_nearest;
#define REF_NOTHING_NEAR ((ref_nearest){INFINITY, 0})

// unit[d] = z / max(|z|, 1e-12), in float64 and rounded once.
void ref_unit_vector(float *unit, const float *z, int64_t d);
// Takes code k if it is nearer: asked in rising k, the first of equals stays.
void ref_try_code(ref_nearest *nearest, const float *unit, const float *codebook, int64_t k,
                  int64_t d);
void ref_put_code(int32_t *index /* or NULL */, float *code, ref_nearest nearest,
                  const float *codebook, int64_t d);

#endif
