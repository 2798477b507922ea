// LlamaGen's VQ tokenizers, layer by layer: the blocks of an image tokenizer without patches,
// attention after every block of the coarsest level, and a learned codebook of unit vectors. Pixels
// are RGB in -1 .. 1; a model's factor is 2^(levels - 1).
// Ref: reference/llamagen_reference.py. Who calls it: families.c.
#include "llamagen.h"

#include <stdio.h>
#include <string.h>

#include "blocks.h"

static const llamagen_shape *shape_of(const description *d) {
    return (const llamagen_shape *)d->own;
}

// ---------------------------------------------------------------- graphs
static int32_t level(builder *b, int32_t x, int64_t width, int32_t blocks, bool attends,
                     const char *name) {
    char part[GRAPH_NAME_BYTES], block[32];
    for (int32_t i = 0; i < blocks; i++) {
        snprintf(block, sizeof block, "res.%d", i);
        x = block_res(b, x, width, block_join(part, name, block));
        snprintf(block, sizeof block, "attn.%d", i);
        if (attends) x = block_attention(b, x, false, block_join(part, name, block));
    }
    return x;
}

static int32_t middle(builder *b, int32_t x, const char *name) {
    char part[GRAPH_NAME_BYTES];
    int64_t c = step_shape(b, x).c;
    x = block_res(b, x, c, block_join(part, name, "mid.0"));
    x = block_attention(b, x, false, block_join(part, name, "mid.1"));
    return block_res(b, x, c, block_join(part, name, "mid.2"));
}

static int32_t encode(graph *g, const description *d, network_frame frame, external_format pixels,
                      network_outputs outputs) {
    builder *b = &(builder){.g = g, .is_first = true};
    const llamagen_half *e = &shape_of(d)->encoder;
    char name[GRAPH_NAME_BYTES];
    int32_t last = e->num_levels - 1,
            x = block_conv_3x3(b, step_load(b, frame, 3, pixels), e->base_channels, GRAPH_NONE,
                               "encoder.conv_in");
    for (int32_t i = 0; i <= last; i++) {
        snprintf(name, sizeof name, "encoder.conv_blocks.%d", i);
        x = level(b, x, e->widths[i], e->blocks, i == last, name);
        if (i < last)
            x = step_conv(b, x, e->widths[i], CONV_HALVE, GRAPH_NONE, "%s.downsample.conv", name);
    }
    x = block_norm(b, middle(b, x, "encoder"), true, "encoder", "norm_out");
    b->is_end = true;
    x = block_conv_3x3(b, x, e->z_channels, GRAPH_NONE, "encoder.conv_out");
    x = block_conv_1x1(b, x, d->latent_channels, GRAPH_NONE, "quant_conv");
    return step_tokens(b, x, &d->quantizer, outputs);
}

static void decode(graph *g, const description *d, int32_t latent, network_frame frame,
                   external_format pixels, network_outputs outputs) {
    builder *b = &(builder){.g = g, .is_first = true, .is_end = true};
    const llamagen_half *h = &shape_of(d)->decoder;
    char name[GRAPH_NAME_BYTES];
    int32_t last = h->num_levels - 1,
            x = block_conv_1x1(b, latent, h->z_channels, GRAPH_NONE, "post_quant_conv");
    b->is_end = false;
    x = block_conv_3x3(b, x, h->widths[last], GRAPH_NONE, "decoder.conv_in");
    x = middle(b, x, "decoder");
    for (int32_t i = last; i >= 0; i--) {
        snprintf(name, sizeof name, "decoder.conv_blocks.%d", last - i);
        x = level(b, x, h->widths[i], h->blocks, i == last, name);
        if (i > 0)
            x = step_conv(b, x, h->widths[i], CONV_DOUBLE, GRAPH_NONE, "%s.upsample.conv", name);
    }
    x = block_norm(b, x, true, "decoder", "norm_out");
    b->is_end = true;
    step_store(b, block_conv_3x3(b, x, 3, GRAPH_NONE, "decoder.conv_out"), outputs.pixels, pixels,
               frame);
}

// ---------------------------------------------------------------- description
static ctok_status find_weight(const checkpoint_tensor **out, const checkpoint *c, const char *name,
                               int32_t rank, ctok_error *error) {
    const checkpoint_tensor *t = checkpoint_find(c, name);
    if (!t) return ctok_fail(error, CTOK_E_FILE_TENSOR, 0, "missing tensor %s", name);
    if (t->rank != rank)
        return ctok_fail(error, CTOK_E_FILE_TENSOR, t->rank,
                         "tensor %s: expected rank %d, found %d", name, rank, t->rank);
    for (int32_t i = 0; i < rank; i++) {
        if (t->shape[i] >= 1 && t->shape[i] <= 1 << 20) continue;
        return ctok_fail(error, CTOK_E_FILE_TENSOR, t->shape[i],
                         "tensor %s: expected sizes from 1 to %d, found %lld", name, 1 << 20,
                         (long long)t->shape[i]);
    }
    *out = t;
    return CTOK_OK;
}

static ctok_status find_half(llamagen_half *h, const checkpoint *c, bool is_encoder,
                             ctok_error *error) {
    const char *name = is_encoder ? "encoder" : "decoder";
    char key[GRAPH_NAME_BYTES];
    const checkpoint_tensor *t;
    snprintf(key, sizeof key, "%s.%s.weight", name, is_encoder ? "conv_out" : "conv_in");
    CTOK_TRY(find_weight(&t, c, key, 4, error));
    h->z_channels = (int32_t)t->shape[is_encoder ? 0 : 1];
    int64_t widths[LLAMAGEN_MAX_LEVELS] = {0};
    for (;; h->num_levels++) {
        snprintf(key, sizeof key, "%s.conv_blocks.%d.res.0.conv1.weight", name, h->num_levels);
        if (h->num_levels > 0 && !checkpoint_find(c, key)) break;
        if (h->num_levels == LLAMAGEN_MAX_LEVELS) {
            return ctok_fail(error, CTOK_E_FILE_NETWORK, h->num_levels,
                             "%s.conv_blocks: expected at most %d levels", name, h->num_levels);
        }
        CTOK_TRY(find_weight(&t, c, key, 4, error));
        widths[h->num_levels] = t->shape[0];
    }
    for (int32_t i = 0; i < h->num_levels; i++)
        h->widths[is_encoder ? i : h->num_levels - 1 - i] = (int32_t)widths[i];
    do snprintf(key, sizeof key, "%s.conv_blocks.0.res.%d.conv1.weight", name, ++h->blocks);
    while (checkpoint_find(c, key));  // Note: another number in another level shows later, as a
                                      // missing or an unexpected tensor
    if (!is_encoder) return CTOK_OK;
    CTOK_TRY(find_weight(&t, c, "encoder.conv_in.weight", 4, error));
    h->base_channels = (int32_t)t->shape[0];
    return CTOK_OK;
}

void llamagen_set_shape(description *d, const llamagen_shape *s) {
    _Static_assert(sizeof *s <= FAMILY_OWN_BYTES, "a shape is kept in a description");
    memcpy(d->own, s, sizeof *s);
    d->spatial_factor = d->spatial_align =
        1 << ((d->has_encoder ? &s->encoder : &s->decoder)->num_levels - 1);
    d->temporal_factor = d->temporal_align = 1;
    d->latent_channels = s->code_channels;
    d->quantizer = (quantizer_spec){.kind = QUANTIZER_LOOKUP,
                                    .size = (uint32_t)s->codebook_size,
                                    .codebook = "quantize.embedding"};
}

// Checks that the caller's options agree with what the checkpoint's tensors say.
static ctok_status check_options(const description *d, const ctok_model_options *options,
                                 ctok_error *error) {
    if (!options) return CTOK_OK;
    if (options->num_fsq_levels) {
        return ctok_fail(error, CTOK_E_ARGUMENT, options->num_fsq_levels,
                         "%s: expected no FSQ levels, as it has a codebook, found %u", d->name,
                         options->num_fsq_levels);
    }
    const int32_t factors[] = {d->spatial_factor, d->temporal_factor};
    const uint32_t told[] = {options->spatial_factor, options->temporal_factor};
    for (int i = 0; i < 2; i++) {
        if (!told[i] || (int32_t)told[i] == factors[i]) continue;
        return ctok_fail(error, CTOK_E_FILE_NETWORK, told[i],
                         "%s: expected factor %d in %s, as its keys say, found %u", d->name,
                         factors[i], i ? "time" : "space", told[i]);
    }
    return CTOK_OK;
}

static ctok_status describe(description *d, const checkpoint *c, const char *path,
                            const ctok_model_options *options, ctok_error *error) {
    llamagen_shape s = {0};
    const checkpoint_tensor *codebook = NULL;
    family_name(d->name, c, path, options);
    CTOK_TRY(family_find_halves(d, family_has_prefix(c, "encoder."),
                                family_has_prefix(c, "decoder."), options, error));
    if (d->has_encoder) CTOK_TRY(find_half(&s.encoder, c, true, error));
    if (d->has_decoder) CTOK_TRY(find_half(&s.decoder, c, false, error));
    if (d->has_encoder && d->has_decoder && s.encoder.num_levels != s.decoder.num_levels) {
        return ctok_fail(error, CTOK_E_FILE_NETWORK, s.decoder.num_levels,
                         "%s: expected as many levels in both halves, found %d and %d", d->name,
                         s.encoder.num_levels, s.decoder.num_levels);
    }
    CTOK_TRY(find_weight(&codebook, c, "quantize.embedding.weight", 2, error));
    if (codebook->shape[1] > LLAMAGEN_MAX_CHANNELS) {
        return ctok_fail(error, CTOK_E_FILE_NETWORK, codebook->shape[1],
                         "%s: expected codes of at most %d channels, found %lld", d->name,
                         LLAMAGEN_MAX_CHANNELS, (long long)codebook->shape[1]);
    }
    s.codebook_size = (int32_t)codebook->shape[0], s.code_channels = (int32_t)codebook->shape[1];
    llamagen_set_shape(d, &s);
    CTOK_TRY(check_options(d, options, error));
    family_add_fact(d, "kind", CTOK_FROM_KEYS, "discrete");
    family_add_fact(d, "codebook", CTOK_FROM_KEYS, "unit vectors of %d channels", s.code_channels);
    family_add_fact(d, "pixels a token", CTOK_FROM_KEYS, "%dx%d", d->spatial_factor,
                    d->spatial_factor);
    const llamagen_half *e = &s.encoder, *h = &s.decoder;
    if (d->has_encoder)
        family_add_half(d, "encoder", e->widths, e->num_levels, e->blocks, e->z_channels);
    if (d->has_decoder)
        family_add_half(d, "decoder", h->widths, h->num_levels, h->blocks, h->z_channels);
    return CTOK_OK;
}

// ---------------------------------------------------------------- keys
static bool recognises(const checkpoint *c) {
    return family_has_prefix(c, "encoder.conv_blocks.") ||
           family_has_prefix(c, "decoder.conv_blocks.");
}

// Training counted in this buffer which codes are used; the network does not need it.
static bool is_buffer(const char *tensor) { return strcmp(tensor, "quantize.codebook_used") == 0; }

static ctok_status check_buffer(const description *d, const checkpoint_tensor *t,
                                ctok_error *error) {
    (void)d;
    if (is_buffer(t->name))
        return t->rank == 1 ? CTOK_OK : family_wrong_buffer(t, "a row of numbers", error);
    return family_unexpected_tensor(t, error);
}

const network_family llamagen_family = {
    .name = "llamagen",
    .keys = "encoder.conv_blocks.* or decoder.conv_blocks.*",
    .recognises = recognises,
    .describe = describe,
    .half_of = family_half_of,
    .is_buffer = is_buffer,
    .check_buffer = check_buffer,
    .encode = encode,
    .decode = decode,
};
