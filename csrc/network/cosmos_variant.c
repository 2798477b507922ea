// Puts the facts about a model together: its halves (variant_half.c), its name, its compression
// factors and its FSQ levels. Each fact has one first source, and the others that speak must agree.
// variant_buffers.c checks what else it carries.
#include "cosmos_variant.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---------------------------------------------------------------- names
typedef struct {
    bool is_named, is_discrete, is_video, has_patch_2;
    int32_t spatial_factor, temporal_factor;
} named_kind;

// Finds CI8x8, DI16x16-360p, DV4x8x8 ... anywhere in the name. Ref: reference/cosmos_reference.py,
// spec().
static named_kind kind_in_name(const char *name) {
    for (const char *p = name; *p; p++) {
        if ((p > name && isalnum((unsigned char)p[-1])) || !strchr("CD", p[0]) || !p[1] ||
            !strchr("IV", p[1]))
            continue;
        int factors[3] = {0}, count = 0, used = 0;
        for (const char *q = p + 2; count < 3 && sscanf(q, "%3d%n", &factors[count], &used) == 1;
             q++) {
            q += used;
            count++;
            if (*q != 'x') {
                used = (int)(q - p);
                break;
            }
        }
        if (count != (p[1] == 'V' ? 3 : 2)) continue;
        return (named_kind){true,
                            p[0] == 'D',
                            p[1] == 'V',
                            strncmp(p + used, "-360p", 5) == 0,
                            factors[count - 1],
                            count == 3 ? factors[0] : 1};
    }
    return (named_kind){0};
}

// ---------------------------------------------------------------- discrete or continuous
static ctok_status set_levels(variant *v, const int64_t *levels, int64_t count, uint32_t from,
                              const char *source, ctok_error *error) {
    if (count < 1 || count > 8) {
        return ctok_fail(error, CTOK_E_FILE_NETWORK, count,
                         "FSQ levels from %s: expected 1 to 8 of them, found %lld", source,
                         (long long)count);
    }
    uint64_t product = 1;
    for (int64_t i = 0; i < count; i++) {
        if (levels[i] < 2 || levels[i] > 65535 || (product *= (uint64_t)levels[i]) > INT32_MAX) {
            return ctok_fail(error, CTOK_E_FILE_NETWORK, levels[i],
                             "FSQ levels from %s: expected 2 to 65535 each and a product up to "
                             "2147483647, found %lld at position %lld",
                             source, (long long)levels[i], (long long)i);
        }
    }
    if (v->num_fsq_levels) {  // an earlier source spoke
        bool is_equal = v->num_fsq_levels == count;
        for (int64_t i = 0; is_equal && i < count; i++) is_equal = v->fsq_levels[i] == levels[i];
        if (is_equal) return CTOK_OK;
        return ctok_fail(error, CTOK_E_FILE_NETWORK, 0,
                         "FSQ levels from %s differ from those already found", source);
    }
    v->is_discrete = true;
    v->num_fsq_levels = (uint32_t)count;
    v->codebook_size = (uint32_t)product;
    for (int64_t i = 0; i < count; i++) v->fsq_levels[i] = (uint32_t)levels[i];
    v->is_discrete_from = v->fsq_levels_from = from;
    return CTOK_OK;
}

static ctok_status levels_from_buffers(variant *v, const checkpoint *c, ctok_error *error) {
    for (int32_t i = 0; i < c->num_tensors; i++) {
        const checkpoint_tensor *t = &c->tensors[i];
        if (!family_ends_with(t->name, "quantizer._levels")) continue;
        int64_t levels[VARIANT_MOST_NUMBERS];
        CTOK_TRY(checkpoint_check_cancel(c, error));
        CTOK_TRY(variant_read_numbers(levels, t, 1, 8, "a row of up to 8 whole numbers", error));
        CTOK_TRY(set_levels(v, levels, checkpoint_elements(t), CTOK_FROM_BUFFERS, t->name, error));
    }
    return CTOK_OK;
}

static ctok_status levels_from_metadata(variant *v, const checkpoint *c, ctok_error *error) {
    const char *text = checkpoint_metadata_find(c, "ctok.fsq_levels");
    if (!text) return CTOK_OK;
    int64_t levels[8], count = 0;
    for (char *end; *text; text = *end ? end + 1 : end) {
        if (count == 8)
            return ctok_fail(error, CTOK_E_FILE_FORMAT, 0,
                             "metadata ctok.fsq_levels: expected at most 8 numbers");
        levels[count++] = strtoll(text, &end, 10);
        if (end == text || (*end && *end != ',')) {
            return ctok_fail(
                error, CTOK_E_FILE_FORMAT, 0,
                "metadata ctok.fsq_levels: expected numbers and commas, found \"%.40s\"", text);
        }
    }
    if (count) return set_levels(v, levels, count, CTOK_FROM_METADATA, "the metadata", error);
    if (v->is_discrete_from == CTOK_FROM_NOWHERE)
        v->is_discrete_from = CTOK_FROM_METADATA;  // "": continuous
    else if (v->is_discrete)
        return ctok_fail(error, CTOK_E_FILE_NETWORK, 0,
                         "the metadata says continuous, but FSQ levels were found");
    return CTOK_OK;
}

static ctok_status find_levels_of_fsq(variant *v, const description *d, const checkpoint *c,
                                      const ctok_model_options *options, named_kind named,
                                      ctok_error *error) {
    static const int64_t public_levels[] = {8, 8, 8, 5, 5, 5};
    if (options && options->num_fsq_levels) {
        int64_t levels[8];
        for (uint32_t i = 0; i < options->num_fsq_levels && i < 8; i++)
            levels[i] = options->fsq_levels[i];
        CTOK_TRY(
            set_levels(v, levels, options->num_fsq_levels, CTOK_FROM_OPTION, "the options", error));
    }
    CTOK_TRY(levels_from_buffers(v, c, error));
    CTOK_TRY(levels_from_metadata(v, c, error));
    bool has_spoken = v->is_discrete_from != CTOK_FROM_NOWHERE;
    if (named.is_named && has_spoken && named.is_discrete != v->is_discrete) {
        return ctok_fail(error, CTOK_E_FILE_NETWORK, 0,
                         "the name %s says %s, but the checkpoint is %s", d->name,
                         named.is_discrete ? "discrete" : "continuous",
                         v->is_discrete ? "discrete" : "continuous");
    }
    if (!has_spoken) {
        v->is_discrete = named.is_named ? named.is_discrete : v->latent_channels == 6;
        v->is_discrete_from = named.is_named ? CTOK_FROM_NAME : CTOK_FROM_DEFAULT;
        if (v->is_discrete && v->latent_channels == 6) {
            uint32_t from = v->is_discrete_from;
            CTOK_TRY(
                set_levels(v, public_levels, 6, CTOK_FROM_DEFAULT, "the public models", error));
            v->is_discrete_from = from;
        }
    }
    if (v->is_discrete && (int32_t)v->num_fsq_levels != v->latent_channels) {
        return ctok_fail(error, CTOK_E_FILE_NETWORK, v->latent_channels,
                         "%s: expected one FSQ level for each of its %d code channels, found %u "
                         "levels; the option fsqLevels sets them",
                         d->name, v->latent_channels, v->num_fsq_levels);
    }
    return CTOK_OK;
}

// ---------------------------------------------------------------- compression factors
typedef struct {
    int32_t spatial, temporal;  // 0: not told
    uint32_t from;
} told_factors;

static int32_t number_of(const char *text) { return text ? atoi(text) : 0; }

// Takes the factors from the options, else from the metadata, else from the name.
static told_factors find_told_factors(const checkpoint *c, const ctok_model_options *options,
                                      named_kind named) {
    if (options && (options->spatial_factor || options->temporal_factor)) {
        return (told_factors){(int32_t)options->spatial_factor, (int32_t)options->temporal_factor,
                              CTOK_FROM_OPTION};
    }
    int32_t spatial = number_of(checkpoint_metadata_find(c, "ctok.spatial_factor")),
            temporal = number_of(checkpoint_metadata_find(c, "ctok.temporal_factor"));
    if (spatial || temporal) return (told_factors){spatial, temporal, CTOK_FROM_METADATA};
    return (told_factors){named.spatial_factor, named.temporal_factor,
                          named.is_named ? CTOK_FROM_NAME : CTOK_FROM_NOWHERE};
}

static ctok_status find_factors(variant *v, const description *d, const checkpoint *c,
                                const ctok_model_options *options, named_kind named,
                                ctok_error *error) {
    variant_half *halves[2] = {&v->encoder, &v->decoder}, *sure = NULL;
    told_factors told = find_told_factors(c, options, named);
    for (int i = 0; i < 2; i++) {
        if (halves[i]->is_present && !halves[i]->is_ambiguous) sure = halves[i];
    }
    for (int i = 0; i < 2; i++) {
        if (!halves[i]->is_present || !halves[i]->is_ambiguous) continue;
        if (!sure && (!told.spatial || !told.temporal)) {
            return ctok_fail(error, CTOK_E_FILE_NETWORK, 0,
                             "%s: its convolutions do not tell which of them are used; expected "
                             "the options spatialFactor and temporalFactor, or a "
                             "name such as CV8x8x8",
                             d->name);
        }
        int32_t spatial = told.spatial ? told.spatial : sure->spatial_factor,
                temporal = told.temporal ? told.temporal : sure->temporal_factor;
        CTOK_TRY(variant_resolve_half(halves[i], i == 0, spatial, temporal, d->name, error));
    }
    const variant_half *one = sure ? sure : v->encoder.is_present ? &v->encoder : &v->decoder;
    v->factors_from = sure ? CTOK_FROM_KEYS : told.from;
    v->spatial_factor = one->spatial_factor;
    v->temporal_factor = one->temporal_factor;
    v->latent_channels = one->latent_channels;
    v->patch = one->patch;
    for (int i = 0; i < 2; i++) {
        const variant_half *h = halves[i];
        if (!h->is_present ||
            (h->spatial_factor == v->spatial_factor && h->temporal_factor == v->temporal_factor &&
             h->latent_channels == v->latent_channels && h->patch == v->patch))
            continue;
        return ctok_fail(error, CTOK_E_FILE_NETWORK, 0,
                         "%s: the halves do not belong together: factors %dx%d and %dx%d (time x "
                         "space), channels %d and %d, patch %d and %d",
                         d->name, v->temporal_factor, v->spatial_factor, h->temporal_factor,
                         h->spatial_factor, v->latent_channels, h->latent_channels, v->patch,
                         h->patch);
    }
    bool is_told_wrong = (told.spatial && told.spatial != v->spatial_factor) ||
                         (told.temporal && told.temporal != v->temporal_factor);
    if (is_told_wrong || (named.is_named && (named.is_video != v->is_video ||
                                             (named.has_patch_2 && v->patch != 2)))) {
        static const char *const sources[] = {"nothing",  "keys", "buffers",
                                              "metadata", "name", "options"};
        return ctok_fail(error, CTOK_E_FILE_NETWORK, v->spatial_factor,
                         "%s: the %s does not fit its tensors, which make %s tokenizer of factor "
                         "%d in space and %d in time with patch %d",
                         d->name, is_told_wrong ? sources[told.from] : "name",
                         v->is_video ? "a video" : "an image", v->spatial_factor,
                         v->temporal_factor, v->patch);
    }
    return CTOK_OK;
}

ctok_status variant_find(variant *out, const description *d, const checkpoint *c,
                         const ctok_model_options *options, ctok_error *error) {
    variant v = {.is_video = checkpoint_find(c, "encoder.conv_in.0.conv3d.weight") ||
                             checkpoint_find(c, "decoder.conv_in.0.conv3d.weight")};
    if (d->has_encoder) CTOK_TRY(variant_find_half(&v.encoder, c, true, v.is_video, error));
    if (d->has_decoder) CTOK_TRY(variant_find_half(&v.decoder, c, false, v.is_video, error));
    named_kind named = kind_in_name(d->name);
    CTOK_TRY(find_factors(&v, d, c, options, named, error));
    CTOK_TRY(find_levels_of_fsq(&v, d, c, options, named, error));
    *out = v;
    return CTOK_OK;
}
