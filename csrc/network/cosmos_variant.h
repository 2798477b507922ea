// The hyper-parameters of a tokenizer, found from the names and shapes of its tensors: nothing is
// configured by hand. Encoder and decoder are found each on their own. What names and shapes cannot
// tell (discrete or continuous, FSQ levels) comes, first match wins, from the options, the
// checkpoint's buffers, its metadata, the model's name, the public default; where two of them speak
// they must agree. A video's factors come from its keys, unless these hold convolutions at every
// level, of which some may be unused: then from options, metadata or name. Who calls it: cosmos.c.
// Ref: reference/cosmos_reference.py, Spec.
#ifndef CTOK_NETWORK_COSMOS_VARIANT_H
#define CTOK_NETWORK_COSMOS_VARIANT_H

#include "family.h"

enum { VARIANT_MAX_LEVELS = 8 };

typedef struct {
    bool is_present;
    int32_t patch;  // 2 or 4, side of a Haar patch
    int32_t num_levels;
    int32_t blocks;         // residual blocks a level (the decoder has one more than the encoder)
    int32_t base_channels;  // encoder: out of conv_in; decoder: into conv_out
    int32_t widths[VARIANT_MAX_LEVELS];
    bool in_space[VARIANT_MAX_LEVELS];  // level i ends with a halving (encoder) or doubling
                                        // (decoder) of H and W
    bool in_time[VARIANT_MAX_LEVELS];   // and of T
    bool is_ambiguous;      // video: every level has all convolutions of resampling, so keys cannot
                            // tell which are used
    bool has_unused_convs;  // video: levels that do not resample carry the convolutions of
                            // resampling all the same
    int32_t z_channels;     // out of the encoder's conv_out, into the decoder's conv_in
    int32_t latent_channels;
    int32_t spatial_factor, temporal_factor;  // temporal: 1 for an image
} variant_half;

typedef struct {
    variant_half encoder, decoder;
    bool is_video, is_discrete;
    uint32_t num_fsq_levels, fsq_levels[8], codebook_size;
    uint32_t is_discrete_from, fsq_levels_from, factors_from;  // CTOK_FROM_*
    int32_t spatial_factor, temporal_factor, latent_channels, patch;
} variant;

// The halves and the name are those of the description. options may be NULL.
// Errors: CTOK_E_FILE_TENSOR, CTOK_E_FILE_NETWORK, CTOK_E_ARGUMENT (options).
ctok_status variant_find(variant *out, const description *d, const checkpoint *c,
                         const ctok_model_options *options, ctok_error *error);

// The parts of it, in variant_half.c: one half from its keys; and, where they are ambiguous, its
// levels from the factors.
ctok_status variant_find_half(variant_half *half, const checkpoint *c, bool is_encoder,
                              bool is_video, ctok_error *error);
ctok_status variant_resolve_half(variant_half *half, bool is_encoder, int32_t spatial,
                                 int32_t temporal, const char *name, ctok_error *error);

// Reads a row of `least` to `most` whole numbers, stored as integers or, where a whole checkpoint
// was cast, as floats. `wanted` is what the message says was expected. Errors: CTOK_E_FILE_TENSOR,
// CTOK_E_FILE_IO. This and what follows is in cosmos_buffers.c.
enum { VARIANT_MOST_NUMBERS = 16 };
ctok_status variant_read_numbers(int64_t out[VARIANT_MOST_NUMBERS], const checkpoint_tensor *t,
                                 int64_t least, int64_t most, const char *wanted,
                                 ctok_error *error);

// Checks a tensor that is no parameter. CTOK_OK if it is a buffer that public checkpoints carry and
// its values fit this network, also as floats; else CTOK_E_FILE_TENSOR: an unexpected tensor, or a
// buffer of another network.
ctok_status variant_check_buffer(const variant *v, const checkpoint_tensor *tensor,
                                 ctok_error *error);
bool variant_is_buffer(const char *name);  // a known one, by its name alone

#endif
