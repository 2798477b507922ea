// The tensors that public checkpoints carry beside their parameters. Each says something about the
// network and must say what the parameters say; it is dropped then. Whoever hashes a checkpoint
// leaves them out by their names (digest.h).
#include <math.h>

#include "cosmos_variant.h"

ctok_status variant_read_numbers(int64_t out[VARIANT_MOST_NUMBERS], const checkpoint_tensor *t,
                                 int64_t least, int64_t most, const char *wanted,
                                 ctok_error *error) {
    int64_t count = checkpoint_elements(t);
    float floats[VARIANT_MOST_NUMBERS];
    if (t->rank > 1 || count < least || count > most) return family_wrong_buffer(t, wanted, error);
    if (!dtype_is_float(t->dtype))
        return checkpoint_read_i64(t, out) ? CTOK_OK : checkpoint_fail_read(t, error);
    if (checkpoint_read_f32(t, floats) < 0) return checkpoint_fail_read(t, error);
    for (int64_t i = 0; i < count; i++) {
        if (!(fabsf(floats[i]) < 0x1p24f) || floats[i] != rintf(floats[i]))
            return family_wrong_buffer(t, wanted, error);
        out[i] = (int64_t)floats[i];
    }
    return CTOK_OK;
}

// ---------------------------------------------------------------- each kind
static ctok_status check_wavelets(const variant *v, const checkpoint_tensor *t, ctok_error *error) {
    (void)v;
    float taps[2];
    if (!dtype_is_float(t->dtype) || checkpoint_elements(t) != 2)
        return family_wrong_buffer(t, "two floats", error);
    if (checkpoint_read_f32(t, taps) < 0) return checkpoint_fail_read(t, error);
    for (int i = 0; i < 2; i++) {  // Haar's 1/sqrt(2), twice
        if (!(fabsf(taps[i] - 0.70710678f) < 0.004f))
            return family_wrong_buffer(t, "the Haar wavelet (0.7071, 0.7071)", error);
    }
    return CTOK_OK;
}

static ctok_status check_patch_size(const variant *v, const checkpoint_tensor *t,
                                    ctok_error *error) {
    int64_t patch[VARIANT_MOST_NUMBERS];
    CTOK_TRY(variant_read_numbers(patch, t, 1, 1, "one whole number", error));
    return patch[0] == v->patch ? CTOK_OK
                                : family_wrong_buffer(t, "the side of the Haar patch", error);
}

static ctok_status check_arange(const variant *v, const checkpoint_tensor *t, ctok_error *error) {
    (void)v;
    int64_t numbers[VARIANT_MOST_NUMBERS];
    if (t->rank != 1) return family_wrong_buffer(t, "a row of whole numbers", error);
    CTOK_TRY(
        variant_read_numbers(numbers, t, 1, VARIANT_MOST_NUMBERS, "a row of whole numbers", error));
    for (int64_t i = 0; i < t->shape[0]; i++) {
        if (numbers[i] != i) return family_wrong_buffer(t, "0, 1, 2 and so on", error);
    }
    return CTOK_OK;
}

static ctok_status check_levels(const variant *v, const checkpoint_tensor *t, ctok_error *error) {
    (void)v, (void)t, (void)error;  // read by levels_from_buffers
    return CTOK_OK;
}

static ctok_status check_basis(const variant *v, const checkpoint_tensor *t, ctok_error *error) {
    int64_t basis[VARIANT_MOST_NUMBERS], product = 1, count = v->num_fsq_levels;
    CTOK_TRY(
        variant_read_numbers(basis, t, count, count, "one whole number for each FSQ level", error));
    for (int64_t i = 0; i < count; product *= v->fsq_levels[i++]) {
        if (basis[i] != product)
            return family_wrong_buffer(t, "the running product of the FSQ levels", error);
    }
    return CTOK_OK;
}

static ctok_status check_codebook(const variant *v, const checkpoint_tensor *t, ctok_error *error) {
    bool fits = t->rank == 2 && t->shape[0] == (int64_t)v->codebook_size &&
                t->shape[1] == (int64_t)v->num_fsq_levels;
    return fits ? CTOK_OK : family_wrong_buffer(t, "[codebook size, FSQ levels]", error);
}

// By which a diffusion model normalises latents, a number for each channel, or for each channel and
// each of some frames: its business, as our latents are the network's. [C * t], [C, t] or the same
// with axes of 1 around.
// Ref: diffusers, AutoencoderKLCosmos (latents_mean, latents_std); ComfyUI's Cosmos VAE
// (latent_mean, latent_std).
static ctok_status check_statistics(const variant *v, const checkpoint_tensor *t,
                                    ctok_error *error) {
    int32_t axis = 0;
    while (axis < t->rank && t->shape[axis] == 1) axis++;
    bool fits = !v->is_discrete && dtype_is_float(t->dtype) && axis < t->rank &&
                t->shape[axis] > 0 && t->shape[axis] % v->latent_channels == 0;
    return fits ? CTOK_OK
                : family_wrong_buffer(t, "floats for each channel of a continuous latent", error);
}

// ---------------------------------------------------------------- all of them
static const struct {
    const char *end;  // of the name
    ctok_status (*check)(const variant *v, const checkpoint_tensor *t, ctok_error *error);
} buffers[] = {
    {".wavelets", check_wavelets},
    {".patch_size_buffer", check_patch_size},
    {"patcher._arange", check_arange},
    {"patcher3d._arange", check_arange},
    {"quantizer._levels", check_levels},
    {"quantizer._basis", check_basis},
    {"quantizer.implicit_codebook", check_codebook},
    {"latent_mean", check_statistics},
    {"latent_std", check_statistics},
    {"latents_mean", check_statistics},
    {"latents_std", check_statistics},
};
enum { NUM_BUFFERS = sizeof buffers / sizeof *buffers };

static int32_t find_buffer(const char *name) {
    int32_t i = 0;
    while (i < NUM_BUFFERS && !family_ends_with(name, buffers[i].end)) i++;
    return i;
}

bool variant_is_buffer(const char *name) { return find_buffer(name) < NUM_BUFFERS; }

ctok_status variant_check_buffer(const variant *v, const checkpoint_tensor *t, ctok_error *error) {
    int32_t i = find_buffer(t->name);
    if (i < NUM_BUFFERS) return buffers[i].check(v, t, error);
    return family_unexpected_tensor(t, error);
}
