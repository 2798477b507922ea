// One op through the seam, as a list of one step. Who includes it: op_support.h, so every test and
// benchmark of single ops.
#ifndef CTOK_TEST_ONE_STEP_H
#define CTOK_TEST_ONE_STEP_H

#include "../../csrc/backends/backend.h"

static inline ctok_status run_steps(backend *b, step *steps, int32_t num_steps) {
    step_list list = {.steps = steps, .num_steps = num_steps};
    step_run run = {0};
    ctok_error error = {.struct_size = sizeof error};
    ctok_status status = b->run(b, &list, &run, &error);
    b->forget(b, &list);
    return status;
}

static inline ctok_status op_load(backend *b, void *out, const void *external, void *workspace,
                                  const transfer_params *p) {
    return run_steps(b,
                     &(step){.kind = OP_LOAD,
                             .layer = "",
                             .params.transfer = *p,
                             .out = out,
                             .external = (void *)external,
                             .workspace = workspace},
                     1);
}

static inline ctok_status op_store(backend *b, void *external, const void *in, void *workspace,
                                   const transfer_params *p) {
    return run_steps(b,
                     &(step){.kind = OP_STORE,
                             .layer = "",
                             .params.transfer = *p,
                             .in = in,
                             .external = external,
                             .workspace = workspace},
                     1);
}

static inline ctok_status op_haar(backend *b, void *out, const void *in, const haar_params *p) {
    return run_steps(
        b, &(step){.kind = OP_HAAR, .layer = "", .params.haar = *p, .out = out, .in = in}, 1);
}

static inline ctok_status op_unhaar(backend *b, void *out, const void *in, const haar_params *p) {
    return run_steps(
        b, &(step){.kind = OP_UNHAAR, .layer = "", .params.haar = *p, .out = out, .in = in}, 1);
}

static inline step conv_step(void *out, const void *in, const void *past, const void *residual,
                             conv_weights w, void *workspace, const conv_params *p) {
    return (step){.kind = OP_CONV,
                  .layer = "",
                  .params.conv = *p,
                  .out = out,
                  .in = in,
                  .past = past,
                  .residual = residual,
                  .weights = w,
                  .workspace = workspace};
}

static inline ctok_status op_conv(backend *b, void *out, const void *in, const void *past,
                                  const void *residual, conv_weights w, void *workspace,
                                  const conv_params *p) {
    step s = conv_step(out, in, past, residual, w, workspace, p);
    return run_steps(b, &s, 1);
}

static inline step pool_step(void *out, const void *in, const pool_params *p) {
    return (step){.kind = OP_POOL, .layer = "", .params.pool = *p, .out = out, .in = in};
}

static inline ctok_status op_pool(backend *b, void *out, const void *in, const pool_params *p) {
    step s = pool_step(out, in, p);
    return run_steps(b, &s, 1);
}

static inline step norm_step(void *out, const void *in, const float *scale, const float *offset,
                             const norm_params *p) {
    return (step){.kind = OP_NORM,
                  .layer = "",
                  .params.norm = *p,
                  .out = out,
                  .in = in,
                  .scale = scale,
                  .offset = offset};
}

static inline ctok_status op_norm(backend *b, void *out, const void *in, const float *scale,
                                  const float *offset, const norm_params *p) {
    step s = norm_step(out, in, scale, offset, p);
    return run_steps(b, &s, 1);
}

static inline step attention_step(void *out, const void *q, const void *k, const void *v,
                                  void *workspace, const attention_params *p) {
    return (step){.kind = OP_ATTENTION,
                  .layer = "",
                  .params.attention = *p,
                  .out = out,
                  .in = q,
                  .k = k,
                  .v = v,
                  .workspace = workspace};
}

static inline ctok_status op_attention(backend *b, void *out, const void *q, const void *k,
                                       const void *v, void *workspace, const attention_params *p) {
    step s = attention_step(out, q, k, v, workspace, p);
    return run_steps(b, &s, 1);
}

static inline ctok_status op_quantize(backend *b, int32_t *indices, void *codes, const void *in,
                                      const float *codebook, void *workspace,
                                      const quantizer_params *p) {
    return run_steps(b,
                     &(step){.kind = OP_QUANTIZE,
                             .layer = "",
                             .params.quantizer = *p,
                             .out = codes,
                             .in = in,
                             .external = indices,
                             .codebook = codebook,
                             .workspace = workspace},
                     1);
}

static inline ctok_status op_dequantize(backend *b, void *codes, const int32_t *indices,
                                        const float *codebook, void *workspace,
                                        const quantizer_params *p) {
    return run_steps(b,
                     &(step){.kind = OP_DEQUANTIZE,
                             .layer = "",
                             .params.quantizer = *p,
                             .out = codes,
                             .external = (void *)indices,
                             .codebook = codebook,
                             .workspace = workspace},
                     1);
}

static inline ctok_status op_copy(backend *b, void *out, const void *in, size_t num_bytes) {
    return run_steps(
        b,
        &(step){.kind = OP_COPY, .layer = "", .params.copy_bytes = num_bytes, .out = out, .in = in},
        1);
}

#endif
