// The table of families, and what their descriptions and graphs share.
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "cosmos.h"
#include "llamagen.h"
#include "steps.h"

// All families. The first one that recognises a checkpoint gets it, so those that recognise fewer
// come first.
const network_family *const network_families[] = {&llamagen_family, &cosmos_family, NULL};

ctok_status family_describe(description *out, const checkpoint *c, const char *path,
                            const ctok_model_options *options, ctok_error *error) {
    const network_family *const *family = network_families;
    while (*family && !(*family)->recognises(c)) family++;
    description d = {.family = *family};
    if (!*family) {
        char known[512] = "";
        for (family = network_families; *family; family++) {
            size_t used = strlen(known);
            snprintf(known + used, sizeof known - used, "%s%s (%s)", used ? "; " : "",
                     (*family)->keys, (*family)->name);
        }
        family_name(d.name, c, path, options);
        return ctok_fail(error, CTOK_E_FILE_NETWORK, c->num_tensors,
                         "%s: expected %s, found %d others, such as %s", d.name, known,
                         c->num_tensors, c->num_tensors ? c->tensors[0].name : "none");
    }
    CTOK_TRY((*family)->describe(&d, c, path, options, error));
    *out = d;
    return CTOK_OK;
}

// ---------------------------------------------------------------- graphs
static network_frame whole(int64_t images, int64_t frames, int64_t height, int64_t width) {
    return (network_frame){.images = images,
                           .padded_frames = frames,
                           .padded_height = height,
                           .padded_width = width,
                           .frames = frames,
                           .height = height,
                           .width = width};
}

int32_t family_load_latent(graph *g, const description *d, int64_t images, int64_t frames,
                           int64_t height, int64_t width) {
    return step_load(&(builder){.g = g}, whole(images, frames, height, width), d->latent_channels,
                     EXTERNAL_F32_NCTHW);
}

int32_t family_load_indices(graph *g, const description *d, int64_t images, int64_t frames,
                            int64_t height, int64_t width) {
    return step_dequantize(&(builder){.g = g}, &d->quantizer,
                           (ctok_shape){images, frames, height, width, d->latent_channels});
}

void family_store_codes(graph *g, int32_t codes, int32_t external) {
    step_store_latent(&(builder){.g = g}, codes, external);
}

void family_add_codebook(graph *g, const description *d) {
    if (d->quantizer.kind != QUANTIZER_LOOKUP) return;
    graph_add_layer(
        g,
        (graph_layer){.kind = OP_QUANTIZE, .c_out = d->quantizer.size, .c_in = d->latent_channels},
        d->quantizer.codebook);
}

// ---------------------------------------------------------------- descriptions
bool family_has_prefix(const checkpoint *c, const char *prefix) {
    for (int32_t i = 0; i < c->num_tensors; i++)
        if (strncmp(c->tensors[i].name, prefix, strlen(prefix)) == 0) return true;
    return false;
}

bool family_ends_with(const char *text, const char *end) {
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

void family_add_fact(description *d, const char *name, uint32_t from, const char *format, ...) {
    if (d->num_facts == FAMILY_MAX_FACTS) return;
    ctok_fact *fact = &d->facts[d->num_facts++];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(fact->value, sizeof fact->value, format, arguments);
    va_end(arguments);
    snprintf(fact->name, sizeof fact->name, "%s", name);
    fact->from = from;
}

// Copies a name of at most 63 bytes; a longer one is cut between two UTF-8 characters.
static void copy_name(char out[64], const char *name, size_t num_bytes) {
    size_t n = num_bytes < 63 ? num_bytes : 63;
    while (n > 0 && n < num_bytes && (name[n] & 0xC0) == 0x80) n--;
    memcpy(out, name, n);
    out[n] = 0;
}

void family_name(char out[64], const checkpoint *c, const char *path,
                 const ctok_model_options *options) {
    const char *recorded = checkpoint_metadata_find(c, "ctok.name");
    if (options && options->name[0]) recorded = options->name;
    if (recorded && recorded[0]) return copy_name(out, recorded, strlen(recorded));
    static const char *const generic[] = {"encoder.jit",         "decoder.jit",
                                          "autoencoder.jit",     "encoder.safetensors",
                                          "decoder.safetensors", "autoencoder.safetensors"};
    size_t end = strlen(path);
    for (;;) {
        while (end > 0 && path[end - 1] == '/') end--;
        size_t start = end;
        while (start > 0 && path[start - 1] != '/') start--;
        bool is_generic = false;
        for (size_t i = 0; i < sizeof generic / sizeof *generic; i++) {
            is_generic |= strlen(generic[i]) == end - start &&
                          strncmp(generic[i], path + start, end - start) == 0;
        }
        if (!is_generic || start == 0) {
            copy_name(out, path + start, end - start);
            break;
        }
        end = start;
    }
    static const char *const endings[] = {".safetensors", ".jit", ".pt", ".pth", ".ckpt"};
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        if (!family_ends_with(out, endings[i])) continue;
        out[strlen(out) - strlen(endings[i])] = 0;
        break;
    }
}

ctok_status family_find_halves(description *d, bool has_encoder, bool has_decoder,
                               const ctok_model_options *options, ctok_error *error) {
    uint32_t wanted = options ? options->halves : 0;
    if ((wanted & CTOK_HALF_ENCODER && !has_encoder) ||
        (wanted & CTOK_HALF_DECODER && !has_decoder)) {
        return ctok_fail(error, CTOK_E_FILE_TENSOR, 0,
                         "%s: expected the %s half, found only the %s", d->name,
                         has_encoder ? "decoder" : "encoder", has_encoder ? "encoder" : "decoder");
    }
    d->has_encoder = has_encoder && (!wanted || wanted & CTOK_HALF_ENCODER);
    d->has_decoder = has_decoder && (!wanted || wanted & CTOK_HALF_DECODER);
    return CTOK_OK;
}

ctok_status family_wrong_buffer(const checkpoint_tensor *t, const char *wanted, ctok_error *error) {
    return ctok_fail(error, CTOK_E_FILE_TENSOR, 0,
                     "buffer %s: expected %s; it belongs to another network", t->name, wanted);
}

ctok_status family_unexpected_tensor(const checkpoint_tensor *t, ctok_error *error) {
    return ctok_fail(error, CTOK_E_FILE_TENSOR, 0,
                     "unexpected tensor %s: neither a parameter of this network nor a known buffer",
                     t->name);
}

void family_add_half(description *d, const char *half, const int32_t *widths, int32_t num_levels,
                     int32_t blocks, int32_t z_channels) {
    char all[64] = "", fact[32];
    for (int32_t i = 0; i < num_levels; i++)
        snprintf(all + strlen(all), 8, "%s%d", i ? " " : "", widths[i]);
    snprintf(fact, sizeof fact, "%s widths", half);
    family_add_fact(d, fact, CTOK_FROM_KEYS, "%s", all);
    snprintf(fact, sizeof fact, "%s blocks a level", half);
    family_add_fact(d, fact, CTOK_FROM_KEYS, "%d", blocks);
    snprintf(fact, sizeof fact, "%s z channels", half);
    family_add_fact(d, fact, CTOK_FROM_KEYS, "%d", z_channels);
}

static bool starts_with(const char *text, const char *prefix) {
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

uint32_t family_half_of(const char *tensor) {
    if (starts_with(tensor, "encoder.") || starts_with(tensor, "quant_conv."))
        return CTOK_HALF_ENCODER;
    return starts_with(tensor, "decoder.") || starts_with(tensor, "post_quant_conv.")
               ? CTOK_HALF_DECODER
               : 0;
}
