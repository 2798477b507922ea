// LlamaGen's VQ tokenizers (VQ-8, VQ-16): images, a learned codebook. Who includes it: families.c,
// and tools that build a network without a checkpoint.
#ifndef CTOK_NETWORK_LLAMAGEN_H
#define CTOK_NETWORK_LLAMAGEN_H

#include "family.h"

extern const network_family llamagen_family;

enum {
    LLAMAGEN_MAX_LEVELS = 8,
    LLAMAGEN_MAX_CHANNELS = 256
};  // of codes: kernels keep a vector of them at hand

// One half. Level 0 is the finest of both, although the decoder's keys count from the coarsest.
typedef struct {
    int32_t num_levels, blocks, z_channels;
    int32_t base_channels;  // of an encoder: out of conv_in
    int32_t widths[LLAMAGEN_MAX_LEVELS];
} llamagen_half;

typedef struct {
    llamagen_half encoder, decoder;  // whichever the description has
    int32_t codebook_size, code_channels;
} llamagen_shape;

// The description of a shape, without a name and facts; which halves it has is known.
void llamagen_set_shape(description *d, const llamagen_shape *s);

#endif
