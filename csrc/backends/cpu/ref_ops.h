// The ops that have one implementation for every instruction set (ref_pixels.c: they move memory or touch few values); the
// fast tables take them from here. The remaining reference ops are reached through the table ref_ops (cpu.h).
#ifndef CTOK_CPU_REF_OPS_H
#define CTOK_CPU_REF_OPS_H

#include "../backend.h"

size_t ref_external_workspace_bytes(const backend *b, size_t external_bytes);
ctok_status ref_load(backend *b, float *out, const void *external, void *workspace, const transfer_params *p);
ctok_status ref_store(backend *b, void *external, const float *in, void *workspace, const transfer_params *p);
ctok_status ref_haar(backend *b, float *out, const float *in, const haar_params *p);
ctok_status ref_unhaar(backend *b, float *out, const float *in, const haar_params *p);
ctok_status ref_pool(backend *b, void *out, const void *in, const pool_params *p);
ctok_status ref_quantize(backend *b, int32_t *indices, float *codes, const float *in, const float *codebook, void *workspace, const quantizer_params *p);
ctok_status ref_dequantize(backend *b, float *codes, const int32_t *indices, const float *codebook, void *workspace, const quantizer_params *p);

#endif
