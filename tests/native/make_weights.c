// Writes a full-size (or small) tokenizer whose weights anyone can recompute from the parameters'
// names, so that networks are tested and timed with nothing downloaded: make_weights
// OUT.safetensors DI8x8 [--small]
//     r = splitmix64(fnv1a64(name) + i * 0x9E3779B97F4A7C15), v = 2 * (r >> 40) * 2^-24 - 1,
//     scaled by kind; bfloat16
// Ref: reference/synthetic_weights.py (values), reference/cosmos_reference.py and
// llamagen_reference.py (sizes).
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "spec.h"

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

static bool starts_with(const char *text, const char *prefix) {
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

static void fill(uint16_t *out, const checkpoint_tensor *t) {
    int64_t n = checkpoint_elements(t), fan_in = t->rank > 1 ? n / t->shape[0] : 1;
    bool is_bias = strcmp(t->name + strlen(t->name) - 5, ".bias") == 0;
    double scale = starts_with(t->name, "quant_conv")         ? 1.5
                   : starts_with(t->name, "decoder.conv_out") ? 0.3
                                                              : 1.0;
    uint64_t seed = fnv1a64(t->name);
    for (int64_t i = 0; i < n; i++) {
        double v =
            2.0 * ((double)(splitmix64(seed + (uint64_t)i * 0x9E3779B97F4A7C15u) >> 40) * 0x1p-24) -
            1.0;
        out[i] = bf16_round((float)(is_bias        ? 0.1 * v
                                    : t->rank == 1 ? 1 + 0.2 * v
                                                   : v * sqrt(3.0 / (double)fan_in) * scale));
    }
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const checkpoint_tensor *)a)->name, ((const checkpoint_tensor *)b)->name);
}

static int32_t add_tensors(checkpoint_tensor *tensors, int32_t count, const graph *g) {
    for (int32_t i = 0; i < g->num_layers; i++) {
        const graph_layer *l = &g->layers[i];
        for (int is_bias = 0; is_bias <= l->has_bias; is_bias++) {
            char name[GRAPH_NAME_BYTES + 8];
            snprintf(name, sizeof name, "%s.%s", l->name, is_bias ? "bias" : "weight");
            checkpoint_tensor t = {.name = strdup(name),
                                   .dtype = CTOK_BF16,
                                   .rank = is_bias || l->kind == OP_NORM ? 1
                                           : l->kind == OP_QUANTIZE      ? 2
                                           : l->is_video                 ? 5
                                                                         : 4,
                                   .shape = {l->c_out, l->c_in, l->conv.kernel, l->conv.kernel}};
            if (l->is_video) t.shape[2] = l->conv.kernel_t, t.shape[4] = l->conv.kernel;
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
    description d;
    if (argc < 3 || !find_spec(&d, argv[2], argc > 3 && strcmp(argv[3], "--small") == 0)) {
        fprintf(stderr,
                "usage: make_weights OUT.safetensors CI8x8|DI16x16-360p|CV4x8x8|DV8x16x16|VQ-8|... "
                "[--small]\n");
        return 2;
    }
    graph encoder = {0}, decoder = {0}, codebook = {0};
    spec_graphs(&encoder, &decoder, &d, 1, d.spatial_factor, d.spatial_factor);
    family_add_codebook(&codebook, &d);
    checkpoint_tensor *tensors =
        calloc((size_t)(encoder.num_layers + decoder.num_layers + codebook.num_layers) * 2,
               sizeof *tensors);
    if (!tensors) return 1;
    int32_t count = add_tensors(
        tensors, add_tensors(tensors, add_tensors(tensors, 0, &encoder), &decoder), &codebook);
    qsort(tensors, (size_t)count, sizeof *tensors, by_name);
    ctok_error error = {.struct_size = sizeof error};
    if (safetensors_write(argv[1], tensors, count, NULL, 0, NULL, &error) != CTOK_OK) {
        fprintf(stderr, "make_weights: %s\n", error.message);
        return 1;
    }
    return 0;
}
