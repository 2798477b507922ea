// The steps that graphs of networks are made of: each appends one op to a graph, with its layer and
// the value that it writes. Sizes follow from the input's. Values between the ends have the graph's
// dtype; what leaves a network is float32.
// Who calls it: the families, blocks.c.
#ifndef CTOK_NETWORK_STEPS_H
#define CTOK_NETWORK_STEPS_H

#include "family.h"

typedef struct {
    graph *g;
    bool is_video;  // weights have a time dimension
    bool is_first;  // the clip's first frame is here: in time it is neither halved nor doubled
    bool is_end;  // towards the pixels or the tokens, where convolutions give float32 whatever the
                  // precision
} builder;

graph_value step_value(const builder *b, int32_t value);
ctok_shape step_shape(const builder *b, int32_t value);

typedef struct {
    int32_t kernel, stride, upsample, kernel_t, stride_t, upsample_t;
} conv_form;

static const conv_form CONV_1X1 = {1, 1, 1, 1, 1, 1}, CONV_3X3 = {3, 1, 1, 1, 1, 1},
                       CONV_HALVE = {3, 2, 1, 1, 1, 1}, CONV_DOUBLE = {3, 1, 2, 1, 1, 1},
                       CONV_TIME = {1, 1, 1, 3, 1, 1}, CONV_HALVE_TIME = {1, 1, 1, 3, 2, 1},
                       CONV_DOUBLE_TIME = {1, 1, 1, 3, 1, 2};

// conv(x) (+ residual), [T, H, W, c_in] -> [T, H, W, c_out], sizes halved or doubled by the form; a
// halving pads right and bottom. A residual that is x itself under a doubling form is read through
// the doubling.
__attribute__((format(printf, 6, 7))) int32_t step_conv(builder *b, int32_t x, int64_t c_out,
                                                        conv_form form, int32_t residual,
                                                        const char *name, ...);

// Appends the layer of a convolution that the checkpoint contains and the network does not run, so
// no node.
__attribute__((format(printf, 4, 5))) void step_unused_conv(builder *b, int64_t channels,
                                                            conv_form form, const char *name, ...);

// Appends GroupNorm over `groups` groups, eps 1e-6, with SiLU if asked.
int32_t step_norm(builder *b, int32_t x, int32_t groups, bool has_silu, const char *name);

// Appends single-head attention of width C: in space over the pixels of a frame, or in time over a
// pixel's past.
int32_t step_attention(builder *b, int32_t q, int32_t k, int32_t v, bool is_temporal,
                       const char *name);

int32_t step_pool(builder *b, int32_t x, bool is_temporal);
int32_t step_haar(builder *b, int32_t x, int32_t patch);  // [T, H, W, C] -> a patch a position; of
                                                          // a video in time too
int32_t step_unhaar(builder *b, int32_t x, int32_t patch);

// Append the steps that move data between the graph and the caller's tensors. `external` may be
// GRAPH_NONE: then nothing is stored.
int32_t step_load(builder *b, network_frame f, int64_t channels, external_format format);
void step_store(builder *b, int32_t x, int32_t external, external_format format, network_frame f);
void step_store_latent(builder *b, int32_t x, int32_t external);  // whole, as [C, t, h, w]

// The end of every encoder: the latent as it is; or, where there is a quantizer, its codes, with
// the outputs asked for on the way.
int32_t step_tokens(builder *b, int32_t x, const quantizer_spec *q, network_outputs outputs);
int32_t step_dequantize(builder *b, const quantizer_spec *q, ctok_shape shape);  // external indices
                                                                                 // -> codes

#endif
