// Reads one half's hyper-parameters off the names and shapes of its tensors. Public names: 2-D
// convolutions "NAME.weight" for images; for videos "NAME.0.conv3d.weight" and
// "NAME.1.conv3d.weight" (space, then time), or "NAME.conv3d.weight" for one tap.
#include <stdarg.h>
#include <stdio.h>

#include "cosmos_variant.h"

__attribute__((format(printf, 2, 3))) static const checkpoint_tensor *find(const checkpoint *c,
                                                                           const char *format,
                                                                           ...) {
    char name[160];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(name, sizeof name, format, arguments);
    va_end(arguments);
    return checkpoint_find(c, name);
}

// Finds a convolution's weight, which must be there, of shape [c_out, c_in, k, k] or [c_out, c_in,
// k_t, k, k].
__attribute__((format(printf, 5, 6))) static ctok_status conv_weight(const checkpoint_tensor **out,
                                                                     const checkpoint *c,
                                                                     bool is_video,
                                                                     ctok_error *error,
                                                                     const char *format, ...) {
    char name[160];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(name, sizeof name, format, arguments);
    va_end(arguments);
    const checkpoint_tensor *t = checkpoint_find(c, name);
    if (!t) return ctok_fail(error, CTOK_E_FILE_TENSOR, 0, "missing tensor %s", name);
    int32_t rank = is_video ? 5 : 4;
    if (t->rank != rank) {
        return ctok_fail(error, CTOK_E_FILE_TENSOR, t->rank,
                         "tensor %s: expected rank %d [out, in, %sk, k], found rank %d", name, rank,
                         is_video ? "k_t, " : "", t->rank);
    }
    for (int32_t i = 0; i < t->rank; i++) {
        if (t->shape[i] >= 1 && t->shape[i] <= 65536) continue;
        return ctok_fail(error, CTOK_E_FILE_TENSOR, t->shape[i],
                         "tensor %s: expected sizes from 1 to 65536, found %lld", name,
                         (long long)t->shape[i]);
    }
    *out = t;
    return CTOK_OK;
}

static ctok_status find_patch(variant_half *half, const checkpoint_tensor *t, int64_t channels,
                              bool is_video, ctok_error *error) {
    for (int32_t patch = 2; patch <= 4; patch *= 2) {
        if (channels == 3 * patch * patch * (is_video ? patch : 1)) half->patch = patch;
    }
    if (half->patch) return CTOK_OK;
    return ctok_fail(error, CTOK_E_FILE_NETWORK, channels,
                     "tensor %s: expected %s channels (3 colours, Haar patch 2 or 4), found %lld",
                     t->name, is_video ? "24 or 192" : "12 or 48", (long long)channels);
}

// What level i does at its end, and whether a video's level has all three convolutions of doing so.
static bool find_resampling(variant_half *half, const checkpoint *c, int32_t i, bool is_encoder,
                            bool is_video) {
    const char *level = is_encoder ? "encoder.down" : "decoder.up",
               *part = is_encoder ? "downsample" : "upsample";
    if (!is_video) {
        half->in_space[i] = find(c, "%s.%d.%s.conv.weight", level, i, part) != NULL;
        return false;
    }
    bool has[4];
    for (int n = 1; n <= 3; n++)
        has[n] = find(c, "%s.%d.%s.conv%d.conv3d.weight", level, i, part, n) != NULL;
    half->in_space[i] = is_encoder ? has[1] : has[2];
    half->in_time[i] = is_encoder ? has[2] : has[1];
    return has[1] && has[2] && has[3];
}

static void count_factors(variant_half *half) {
    half->spatial_factor = half->temporal_factor = 1;
    for (int32_t i = 0; i < half->num_levels; i++) {
        if (half->in_space[i]) half->spatial_factor *= 2;
        if (half->in_time[i]) half->temporal_factor *= 2;
    }
    half->spatial_factor *= half->patch;
}

ctok_status variant_find_half(variant_half *half, const checkpoint *c, bool is_encoder,
                              bool is_video, ctok_error *error) {
    const char *name = is_encoder ? "encoder" : "decoder",
               *levels = is_encoder ? "encoder.down" : "decoder.up";
    const char *space = is_video ? ".0.conv3d" : "", *point = is_video ? ".conv3d" : "";
    const checkpoint_tensor *conv_in, *conv_out, *quant, *first;
    CTOK_TRY(conv_weight(&conv_in, c, is_video, error, "%s.conv_in%s.weight", name, space));
    CTOK_TRY(conv_weight(&conv_out, c, is_video, error, "%s.conv_out%s.weight", name, space));
    CTOK_TRY(conv_weight(&quant, c, is_video, error, "%squant_conv%s.weight",
                         is_encoder ? "" : "post_", point));
    half->is_present = true;
    half->base_channels = (int32_t)(is_encoder ? conv_in->shape[0] : conv_out->shape[1]);
    half->z_channels = (int32_t)(is_encoder ? conv_out->shape[0] : conv_in->shape[1]);
    half->latent_channels = (int32_t)quant->shape[is_encoder ? 0 : 1];
    CTOK_TRY(find_patch(half, is_encoder ? conv_in : conv_out,
                        is_encoder ? conv_in->shape[1] : conv_out->shape[0], is_video, error));

    int32_t num_complete = 0;  // levels with all three convolutions
    for (int32_t i = 0; i == 0 || find(c, "%s.%d.block.0.conv1%s.weight", levels, i, space); i++) {
        int32_t blocks = 1;
        if (i == VARIANT_MAX_LEVELS)
            return ctok_fail(error, CTOK_E_FILE_NETWORK, i, "%s: expected at most %d levels",
                             levels, i);
        CTOK_TRY(conv_weight(&first, c, is_video, error, "%s.%d.block.0.conv1%s.weight", levels, i,
                             space));
        while (find(c, "%s.%d.block.%d.conv1%s.weight", levels, i, blocks, space)) blocks++;
        // Note: a gap in the numbering of blocks is found later, as an unexpected tensor.
        if (i > 0 && blocks != half->blocks) {
            return ctok_fail(error, CTOK_E_FILE_TENSOR, blocks,
                             "%s.%d: expected %d blocks as in level 0, found %d", levels, i,
                             half->blocks, blocks);
        }
        half->blocks = blocks;
        half->widths[i] = (int32_t)first->shape[0];
        num_complete += find_resampling(half, c, i, is_encoder, is_video);
        half->num_levels++;
    }
    half->is_ambiguous = half->num_levels > 1 && num_complete == half->num_levels - 1;
    count_factors(half);
    if (is_video) half->temporal_factor *= half->patch;
    return CTOK_OK;
}

// How often `unit` must be doubled to reach `factor`: the least n with unit << n >= factor.
static int32_t halvings(int32_t factor, int32_t unit) {
    int32_t n = 0;
    while (unit << n < factor && n < VARIANT_MAX_LEVELS) n++;
    return n;
}

// Sets which levels resample, given the compression factors.
// Ref: reference/cosmos_reference.py, Encoder and Decoder.
ctok_status variant_resolve_half(variant_half *half, bool is_encoder, int32_t spatial,
                                 int32_t temporal, const char *name, ctok_error *error) {
    int32_t space = halvings(spatial, half->patch), time = halvings(temporal, half->patch),
            levels = half->num_levels;
    half->has_unused_convs = true;
    for (int32_t i = 0; i < levels; i++) {
        int32_t r = levels - 1 - i;
        bool is_inner = is_encoder ? r > 0 : i > 0;
        half->in_time[i] = is_inner && (is_encoder ? i < time : r > 0 && r < time + 1);
        half->in_space[i] =
            is_inner && (is_encoder ? i < space : half->in_time[i] || (r < space && space > time));
    }
    count_factors(half);
    half->temporal_factor *= half->patch;
    if (half->spatial_factor == spatial && half->temporal_factor == temporal) return CTOK_OK;
    return ctok_fail(
        error, CTOK_E_FILE_NETWORK, 0,
        "%s: factor %d in space and %d in time cannot be had from %d levels with patch %d", name,
        spatial, temporal, levels, half->patch);
}
