// The public models by name, and the graphs of their halves, for tools that need no checkpoint.
#ifndef CTOK_TEST_SPEC_H
#define CTOK_TEST_SPEC_H

#include <stdio.h>
#include <string.h>

#include "../../csrc/network/cosmos.h"
#include "../../csrc/network/llamagen.h"

// Ref: reference/llamagen_reference.py, Tokenizer: VQ-8, VQ-16.
static bool find_vq_spec(description *d, const char *name, bool is_small) {
    int factor = 0;
    if (sscanf(name, "VQ-%d", &factor) != 1 || (factor != 8 && factor != 16)) return false;
    static const int mults[2][5] = {{1, 2, 2, 4}, {1, 1, 2, 2, 4}};
    llamagen_half half = {.num_levels = factor == 8 ? 4 : 5,
                          .blocks = is_small ? 1 : 2,
                          .base_channels = is_small ? 32 : 128,
                          .z_channels = is_small ? 16 : 256};
    for (int i = 0; i < half.num_levels; i++)
        half.widths[i] = half.base_channels * (is_small ? 1 : mults[factor == 16][i]);
    llamagen_shape shape = {
        .encoder = half, .decoder = half, .codebook_size = 16384, .code_channels = 8};
    shape.decoder.blocks++;
    *d = (description){.family = &llamagen_family, .has_encoder = true, .has_decoder = true};
    llamagen_set_shape(d, &shape);
    return true;
}

// Ref: reference/cosmos_reference.py, spec(): CI8x8, DI16x16-360p, CV4x8x8, DV8x16x16, ...
static bool find_spec(description *d, const char *name, bool is_small) {
    if (find_vq_spec(d, name, is_small)) return true;
    char kind[3] = "";
    int factors[3] = {0},
        numbers = sscanf(name, "%2[CDIV]%dx%dx%d", kind, &factors[0], &factors[1], &factors[2]) - 1;
    bool is_discrete = kind[0] == 'D', is_video = kind[1] == 'V',
         is_360p = strstr(name, "-360p") != NULL;
    if (numbers != (is_video ? 3 : 2)) return false;
    int temporal = is_video ? factors[0] : 1, spatial = factors[1], patch = is_360p ? 2 : 4;
    bool is_cv4 = strcmp(name, "CV4x8x8") == 0;
    int levels = is_cv4 ? 2 : 3;
    variant_half half = {.is_present = true,
                         .patch = patch,
                         .num_levels = levels,
                         .blocks = 2,
                         .base_channels = is_small ? 32 : 128,
                         .z_channels = is_discrete && (!is_video || is_360p) ? 256 : 16,
                         .latent_channels = is_discrete ? 6 : 16,
                         .spatial_factor = spatial,
                         .temporal_factor = temporal};
    static const int small_mult[] = {1, 2, 2}, full_mult[] = {2, 4, 4};
    variant *v = &(variant){.encoder = half,
                            .decoder = half,
                            .is_discrete = is_discrete,
                            .is_video = is_video,
                            .spatial_factor = spatial,
                            .temporal_factor = temporal,
                            .latent_channels = half.latent_channels,
                            .patch = patch};
    v->decoder.blocks = 3;
    int space = 0, time = 0;
    for (int f = patch; f < spatial; f *= 2) space++;
    for (int f = patch; f < temporal; f *= 2) time++;
    for (int i = 0; i < levels; i++) {
        int r = levels - 1 - i;
        v->encoder.widths[i] = v->decoder.widths[i] =
            half.base_channels * (is_small ? small_mult : full_mult)[i];
        v->encoder.in_space[i] = i < space && (!is_video || r > 0);
        v->encoder.in_time[i] = i < time && r > 0;
        v->decoder.in_time[i] = i > 0 && r > 0 && r < time + 1;
        v->decoder.in_space[i] =
            is_video ? i > 0 && (v->decoder.in_time[i] || (r < space && space > time))
                     : i >= levels - space;
    }
    v->encoder.has_unused_convs = v->decoder.has_unused_convs =
        is_cv4 || strcmp(name, "CV8x8x8") == 0;
    *d = (description){.family = &cosmos_family};
    cosmos_set_variant(d, v);
    return true;
}

// Both halves of a clip (image: frames 1) whose sizes need no padding.
static void spec_graphs(graph *encoder, graph *decoder, const description *d, int64_t frames,
                        int64_t height, int64_t width) {
    network_outputs none = {GRAPH_NONE, GRAPH_NONE, GRAPH_NONE, GRAPH_NONE, GRAPH_NONE};
    network_frame frame = {.images = 1,
                           .padded_frames = frames,
                           .padded_height = height,
                           .padded_width = width,
                           .frames = frames,
                           .height = height,
                           .width = width,
                           .is_first = true};
    int64_t tokens = (frames - 1) / d->temporal_factor + 1;
    d->family->encode(encoder, d, frame, EXTERNAL_F32_NCTHW, none);
    int32_t latent = family_load_latent(decoder, d, 1, tokens, height / d->spatial_factor,
                                        width / d->spatial_factor);
    d->family->decode(decoder, d, latent, frame, EXTERNAL_F32_NCTHW, none);
}

#endif
