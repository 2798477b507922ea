// Writes a full-size (or small) tokenizer whose weights anyone can recompute from the parameters' names, so that networks
// are tested and timed with nothing downloaded:   make_weights OUT.safetensors DI8x8 [--small]
//     r = splitmix64(fnv1a64(name) + i * 0x9E3779B97F4A7C15), v = 2 * (r >> 40) * 2^-24 - 1, scaled by kind; bfloat16
// Ref: reference/synthetic_weights.py (values), reference/cosmos_reference.py spec() (sizes).
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../csrc/core/network.h"

static uint64_t fnv1a64(const char *text) {
    uint64_t h = 14695981039346656037u;
    for (; *text; text++) h = (h ^ (uint8_t)*text) * 1099511628211u;
    return h;
}

static uint64_t splitmix64(uint64_t z) {
    z ^= z >> 30;
    z *= 0xBF58476D1CE4E5B9u;
    z ^= z >> 27;
    z *= 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

// float64 to float32 to bfloat16, each to nearest, ties to even.
static uint16_t bfloat16(double value) {
    float f = (float)value;
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

static bool starts_with(const char *text, const char *prefix) { return strncmp(text, prefix, strlen(prefix)) == 0; }

static void fill(uint16_t *out, const checkpoint_tensor *t) {
    int64_t n = checkpoint_elements(t), fan_in = t->rank > 1 ? n / t->shape[0] : 1;
    bool is_bias = strcmp(t->name + strlen(t->name) - 5, ".bias") == 0;
    double scale = starts_with(t->name, "quant_conv") ? 1.5 : starts_with(t->name, "decoder.conv_out") ? 0.3 : 1.0;
    uint64_t seed = fnv1a64(t->name);
    for (int64_t i = 0; i < n; i++) {
        double v = 2.0 * ((double)(splitmix64(seed + (uint64_t)i * 0x9E3779B97F4A7C15u) >> 40) * 0x1p-24) - 1.0;
        out[i] = bfloat16(is_bias ? 0.1 * v : t->rank == 1 ? 1 + 0.2 * v : v * sqrt(3.0 / (double)fan_in) * scale);
    }
}

// Ref: reference/cosmos_reference.py, spec(): CI8x8, DI16x16-360p, CV4x8x8, DV8x16x16, ...
static bool find_spec(variant *v, const char *name, bool is_small) {
    char kind[3] = "";
    int factors[3] = {0}, numbers = sscanf(name, "%2[CDIV]%dx%dx%d", kind, &factors[0], &factors[1], &factors[2]) - 1;
    bool is_discrete = kind[0] == 'D', is_video = kind[1] == 'V', is_360p = strstr(name, "-360p") != NULL;
    if (numbers != (is_video ? 3 : 2)) return false;
    int temporal = is_video ? factors[0] : 1, spatial = factors[1], patch = is_360p ? 2 : 4;
    bool is_cv4 = strcmp(name, "CV4x8x8") == 0;
    int levels = is_cv4 ? 2 : 3;
    variant_half half = {.is_present = true, .patch = patch, .num_levels = levels, .blocks = 2, .base_channels = is_small ? 32 : 128,
                         .z_channels = is_discrete && (!is_video || is_360p) ? 256 : 16, .latent_channels = is_discrete ? 6 : 16,
                         .spatial_factor = spatial, .temporal_factor = temporal};
    static const int small_mult[] = {1, 2, 2}, full_mult[] = {2, 4, 4};
    *v = (variant){.encoder = half, .decoder = half, .is_discrete = is_discrete, .is_video = is_video, .spatial_factor = spatial,
                   .temporal_factor = temporal, .latent_channels = half.latent_channels, .patch = patch};
    v->decoder.blocks = 3;
    int space = 0, time = 0;
    for (int f = patch; f < spatial; f *= 2) space++;
    for (int f = patch; f < temporal; f *= 2) time++;
    for (int i = 0; i < levels; i++) {
        int r = levels - 1 - i;
        v->encoder.widths[i] = v->decoder.widths[i] = half.base_channels * (is_small ? small_mult : full_mult)[i];
        v->encoder.in_space[i] = i < space && (!is_video || r > 0);
        v->encoder.in_time[i] = i < time && r > 0;
        v->decoder.in_time[i] = i > 0 && r > 0 && r < time + 1;
        v->decoder.in_space[i] = is_video ? i > 0 && (v->decoder.in_time[i] || (r < space && space > time)) : i >= levels - space;
    }
    v->encoder.has_unused_convs = v->decoder.has_unused_convs = is_cv4 || strcmp(name, "CV8x8x8") == 0;
    return true;
}

static int by_name(const void *a, const void *b) { return strcmp(((const checkpoint_tensor *)a)->name, ((const checkpoint_tensor *)b)->name); }

static int32_t add_tensors(checkpoint_tensor *tensors, int32_t count, const graph *g) {
    for (int32_t i = 0; i < g->num_layers; i++) {
        const graph_layer *l = &g->layers[i];
        for (int is_bias = 0; is_bias < 2; is_bias++) {
            char name[GRAPH_NAME_BYTES + 8];
            snprintf(name, sizeof name, "%s.%s", l->name, is_bias ? "bias" : "weight");
            checkpoint_tensor t = {.name = strdup(name), .dtype = CTOK_BF16, .rank = is_bias || l->kind == OP_NORM ? 1 : l->is_video ? 5 : 4,
                                   .shape = {l->c_out, l->c_in, l->kernel, l->kernel}};
            if (l->is_video) t.shape[2] = l->kernel_t, t.shape[4] = l->kernel;
            int64_t stride = 1;
            for (int d = t.rank - 1; d >= 0; stride *= t.shape[d--]) t.stride[d] = stride;
            uint16_t *data = malloc((size_t)stride * sizeof *data);
            if (!data || !t.name) exit(1);
            fill(data, &t);
            t.data = (const uint8_t *)data;
            tensors[count++] = t;
        }
    }
    return count;
}

int main(int argc, char **argv) {
    variant v;
    if (argc < 3 || !find_spec(&v, argv[2], argc > 3 && strcmp(argv[3], "--small") == 0)) {
        fprintf(stderr, "usage: make_weights OUT.safetensors CI8x8|DI16x16-360p|CV4x8x8|DV8x16x16|... [--small]\n");
        return 2;
    }
    graph encoder = {0}, decoder = {0};
    network_outputs none = {GRAPH_NONE, GRAPH_NONE, GRAPH_NONE, GRAPH_NONE, GRAPH_NONE};
    int64_t side = v.spatial_factor;
    network_frame frame = {.padded_frames = 1, .padded_height = side, .padded_width = side, .frames = 1, .height = side, .width = side, .is_first = true};
    network_encode(&encoder, &v, frame, EXTERNAL_F32_NCTHW, none);
    network_decode(&decoder, &v, network_load_latent(&decoder, &v, 1, 1, 1), frame, EXTERNAL_F32_NCTHW, none);
    checkpoint_tensor *tensors = calloc((size_t)(encoder.num_layers + decoder.num_layers) * 2, sizeof *tensors);
    if (!tensors) return 1;
    int32_t count = add_tensors(tensors, add_tensors(tensors, 0, &encoder), &decoder);
    qsort(tensors, (size_t)count, sizeof *tensors, by_name);
    ctok_error error = {.struct_size = sizeof error};
    if (safetensors_write(argv[1], tensors, count, NULL, 0, &error) != CTOK_OK) {
        fprintf(stderr, "make_weights: %s\n", error.message);
        return 1;
    }
    return 0;
}
