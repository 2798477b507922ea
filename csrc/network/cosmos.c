// The Cosmos tokenizer, layer by layer, in the order of the published figure: Haar patch, residual
// levels with halvings, a middle with attention, a 1x1 quantiser convolution; the decoder mirrors
// it. Images: 2-D convolutions, GroupNorm(32). Videos: each 3x3 convolution is one in space and one
// causal in time, norms see a frame at a time, attention is in space and then causal in time, and
// every look back in time has a slot of the stream's state. The only statement of the topology:
// which parameters a checkpoint must hold follows from the graph's layers. Ref:
// reference/cosmos_reference.py, Encoder, Decoder, Tokenizer.
#include "cosmos.h"

#include <stdio.h>

#include "blocks.h"

static const variant *variant_of(const description *d) { return (const variant *)d->own; }

static int32_t middle(builder *b, int32_t x, const char *half) {
    char name[GRAPH_NAME_BYTES];
    int64_t c = step_shape(b, x).c;
    x = block_res(b, x, c, block_join(name, half, "mid.block_1"));
    if (b->is_video) {
        x = block_attention(b, x, false, block_join(name, half, "mid.attn_1.0"));
        x = block_attention(b, x, true, block_join(name, half, "mid.attn_1.1"));
    } else {
        x = block_attention(b, x, false, block_join(name, half, "mid.attn_1"));
    }
    return block_res(b, x, c, block_join(name, half, "mid.block_2"));
}

// ---------------------------------------------------------------- between levels
// Halves a video in space and/or time: strided convolution plus mean, then a 1x1 convolution.
static int32_t video_down(builder *b, int32_t x, bool in_space, bool in_time, bool has_unused,
                          const char *name) {
    int64_t c = step_shape(b, x).c;
    if (in_space)
        x = step_conv(b, x, c, CONV_HALVE, step_pool(b, x, false), "%s.conv1.conv3d", name);
    else if (has_unused) step_unused_conv(b, c, CONV_HALVE, "%s.conv1.conv3d", name);
    if (in_time)
        x = step_conv(b, x, c, CONV_HALVE_TIME, step_pool(b, x, true), "%s.conv2.conv3d", name);
    else if (has_unused) step_unused_conv(b, c, CONV_HALVE_TIME, "%s.conv2.conv3d", name);
    if (in_space || in_time) x = step_conv(b, x, c, CONV_1X1, GRAPH_NONE, "%s.conv3.conv3d", name);
    else if (has_unused) step_unused_conv(b, c, CONV_1X1, "%s.conv3.conv3d", name);
    return x;
}

// Doubles a video in time and/or space: x repeated, plus its convolution, then a 1x1 convolution.
static int32_t video_up(builder *b, int32_t x, bool in_space, bool in_time, bool has_unused,
                        const char *name) {
    int64_t c = step_shape(b, x).c;
    if (in_time) x = step_conv(b, x, c, CONV_DOUBLE_TIME, x, "%s.conv1.conv3d", name);
    else if (has_unused) step_unused_conv(b, c, CONV_TIME, "%s.conv1.conv3d", name);
    if (in_space) x = step_conv(b, x, c, CONV_DOUBLE, x, "%s.conv2.conv3d", name);
    else if (has_unused) step_unused_conv(b, c, CONV_3X3, "%s.conv2.conv3d", name);
    if (in_space || in_time) x = step_conv(b, x, c, CONV_1X1, GRAPH_NONE, "%s.conv3.conv3d", name);
    else if (has_unused) step_unused_conv(b, c, CONV_1X1, "%s.conv3.conv3d", name);
    return x;
}

// ---------------------------------------------------------------- the two halves
static int32_t encode(graph *g, const description *d, network_frame frame, external_format pixels,
                      network_outputs outputs) {
    builder *b = &(builder){.g = g, .is_video = d->is_video, .is_first = frame.is_first};
    const variant *v = variant_of(d);
    const variant_half *e = &v->encoder;
    char name[GRAPH_NAME_BYTES];
    int32_t x = step_haar(b, step_load(b, frame, 3, pixels), v->patch);
    x = block_conv_3x3(b, x, e->base_channels, GRAPH_NONE, "encoder.conv_in");
    for (int32_t i = 0; i < e->num_levels; i++) {
        for (int32_t j = 0; j < e->blocks; j++) {
            snprintf(name, sizeof name, "encoder.down.%d.block.%d", i, j);
            x = block_res(b, x, e->widths[i], name);
        }
        snprintf(name, sizeof name, "encoder.down.%d.downsample", i);
        if (!b->is_video && e->in_space[i])
            x = step_conv(b, x, e->widths[i], CONV_HALVE, GRAPH_NONE, "%s.conv", name);
        if (b->is_video && i != e->num_levels - 1)
            x = video_down(b, x, e->in_space[i], e->in_time[i], e->has_unused_convs, name);
    }
    x = block_norm(b, middle(b, x, "encoder"), true, "encoder", "norm_out");
    b->is_end = true;
    x = block_conv_3x3(b, x, e->z_channels, GRAPH_NONE, "encoder.conv_out");
    x = block_conv_1x1(b, x, e->latent_channels, GRAPH_NONE, "quant_conv");
    return step_tokens(b, x, &d->quantizer, outputs);
}

static void decode(graph *g, const description *of, int32_t latent, network_frame frame,
                   external_format pixels, network_outputs outputs) {
    builder *b =
        &(builder){.g = g, .is_video = of->is_video, .is_first = frame.is_first, .is_end = true};
    const variant *v = variant_of(of);
    const variant_half *d = &v->decoder;
    char name[GRAPH_NAME_BYTES];
    int32_t x = block_conv_1x1(b, latent, d->z_channels, GRAPH_NONE, "post_quant_conv");
    b->is_end = false;
    x = block_conv_3x3(b, x, d->widths[d->num_levels - 1], GRAPH_NONE, "decoder.conv_in");
    x = middle(b, x, "decoder");
    for (int32_t i = d->num_levels - 1; i >= 0; i--) {
        for (int32_t j = 0; j < d->blocks; j++) {
            snprintf(name, sizeof name, "decoder.up.%d.block.%d", i, j);
            x = block_res(b, x, d->widths[i], name);
        }
        snprintf(name, sizeof name, "decoder.up.%d.upsample", i);
        if (!b->is_video && d->in_space[i])
            x = step_conv(b, x, d->widths[i], CONV_DOUBLE, GRAPH_NONE, "%s.conv", name);
        if (b->is_video && i != 0)
            x = video_up(b, x, d->in_space[i], d->in_time[i], d->has_unused_convs, name);
    }
    x = block_norm(b, x, true, "decoder", "norm_out");
    int64_t p = v->patch;
    b->is_end = true;
    x = block_conv_3x3(b, x, 3 * p * p * (b->is_video ? p : 1), GRAPH_NONE, "decoder.conv_out");
    step_store(b, step_unhaar(b, x, v->patch), outputs.pixels, pixels, frame);
}

// ---------------------------------------------------------------- the family
enum { SPATIAL_ALIGN = 16, TEMPORAL_ALIGN = 8 };  // Ref: reference/pipeline_reference.py

static int32_t greater(int32_t a, int32_t b) { return a > b ? a : b; }

void cosmos_set_variant(description *d, const variant *v) {
    _Static_assert(sizeof(variant) <= FAMILY_OWN_BYTES, "a variant is kept in a description");
    memcpy(d->own, v, sizeof *v);
    d->has_encoder = v->encoder.is_present, d->has_decoder = v->decoder.is_present;
    d->is_video = v->is_video;
    d->spatial_factor = v->spatial_factor, d->temporal_factor = v->temporal_factor;
    d->spatial_align = greater(v->spatial_factor, SPATIAL_ALIGN);  // all are powers of 2
    d->temporal_align = v->is_video ? greater(v->temporal_factor, TEMPORAL_ALIGN) : 1;
    d->latent_channels = v->latent_channels;
    d->quantizer = (quantizer_spec){.kind = v->is_discrete ? QUANTIZER_FSQ : QUANTIZER_NONE,
                                    .size = v->codebook_size,
                                    .num_levels = v->num_fsq_levels};
    memcpy(d->quantizer.levels, v->fsq_levels, sizeof v->fsq_levels);
}

static ctok_status describe(description *d, const checkpoint *c, const char *path,
                            const ctok_model_options *options, ctok_error *error) {
    variant v;
    family_name(d->name, c, path, options);
    CTOK_TRY(family_find_halves(d, family_has_prefix(c, "encoder."),
                                family_has_prefix(c, "decoder."), options, error));
    CTOK_TRY(variant_find(&v, d, c, options, error));
    cosmos_set_variant(d, &v);
    family_add_fact(d, "kind", v.is_discrete_from, "%s", v.is_discrete ? "discrete" : "continuous");
    if (v.is_discrete) {
        char levels[64] = "";
        for (uint32_t i = 0; i < v.num_fsq_levels; i++)
            snprintf(levels + strlen(levels), 8, "%s%u", i ? " " : "", v.fsq_levels[i]);
        family_add_fact(d, "FSQ levels", v.fsq_levels_from, "%s", levels);
    }
    family_add_fact(d, "pixels a token", v.factors_from, "%dx%d", v.spatial_factor,
                    v.spatial_factor);
    if (v.is_video)
        family_add_fact(d, "frames a token", v.factors_from, "%d, the first frame alone",
                        v.temporal_factor);
    family_add_fact(d, "Haar patch", CTOK_FROM_KEYS, "%d", v.patch);
    const variant_half *halves[] = {&v.encoder, &v.decoder};
    for (int i = 0; i < 2; i++) {
        const variant_half *h = halves[i];
        if (h->is_present)
            family_add_half(d, i ? "decoder" : "encoder", h->widths, h->num_levels, h->blocks,
                            h->z_channels);
    }
    return CTOK_OK;
}

static bool recognises(const checkpoint *c) {
    return family_has_prefix(c, "encoder.") || family_has_prefix(c, "decoder.");
}

static ctok_status check_buffer(const description *d, const checkpoint_tensor *tensor,
                                ctok_error *error) {
    return variant_check_buffer(variant_of(d), tensor, error);
}

const network_family cosmos_family = {
    .name = "cosmos",
    .keys = "tensors named encoder.* or decoder.*",
    .recognises = recognises,
    .describe = describe,
    .half_of = family_half_of,
    .is_buffer = variant_is_buffer,
    .check_buffer = check_buffer,
    .encode = encode,
    .decode = decode,
};
