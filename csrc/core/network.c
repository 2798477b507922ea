// The Cosmos image tokenizer, layer by layer, in the order of the published figure: Haar patch, residual levels with
// halvings, a middle with attention, a 1x1 quantiser convolution; the decoder mirrors it. GroupNorm has 32 groups.
#include "network.h"

#include <stdarg.h>
#include <stdio.h>

#include "fsq.h"

static ctok_shape shape_of(const graph *g, int32_t value) {
    return g->is_out_of_memory ? (ctok_shape){1, 1, 1, 1, 1} : g->values[value];
}

// ---------------------------------------------------------------- layers
typedef struct {
    int32_t kernel, stride, upsample;
} conv_form;

static const conv_form CONV_1X1 = {1, 1, 1}, CONV_3X3 = {3, 1, 1}, CONV_HALVE = {3, 2, 1}, CONV_DOUBLE = {3, 1, 2};

// conv(x) (+ residual), [H, W, c_in] -> [H, W, c_out], H and W halved or doubled by the form.
__attribute__((format(printf, 6, 7))) static int32_t conv(graph *g, int32_t x, int64_t c_out, conv_form form, int32_t residual,
                                                         const char *format, ...) {
    char name[GRAPH_NAME_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(name, sizeof name, format, arguments);
    va_end(arguments);

    ctok_shape in = shape_of(g, x), out = in;
    out.h = in.h * form.upsample / form.stride;
    out.w = in.w * form.upsample / form.stride;
    out.c = c_out;
    graph_node *node = graph_add_node(g, OP_CONV, x, graph_add_value(g, out));
    node->inputs[1] = residual;
    node->layer = graph_add_layer(g, OP_CONV, name, c_out, in.c, form.kernel);
    node->conv = (conv_params){.in = in, .out = out, .kernel = form.kernel, .stride = form.stride, .upsample = form.upsample};
    node->conv.pad_before = form.kernel == 3 && form.stride == 1;  // a halving pads only after: F.pad(x, (0, 1, 0, 1))
    return node->output;
}

// GroupNorm(32), eps 1e-6, and SiLU except before attention.
static int32_t norm(graph *g, int32_t x, bool has_silu, const char *block, const char *part) {
    char name[GRAPH_NAME_BYTES];
    snprintf(name, sizeof name, "%s.%s", block, part);
    ctok_shape shape = shape_of(g, x);
    graph_node *node = graph_add_node(g, OP_NORM, x, graph_add_value(g, shape));
    node->layer = graph_add_layer(g, OP_NORM, name, shape.c, 0, 0);
    node->norm = (norm_params){.shape = shape, .groups = 32, .epsilon = 1e-6f, .has_silu = has_silu};
    return node->output;
}

static int32_t res_block(graph *g, int32_t x, int64_t c_out, const char *name) {
    bool has_shortcut = shape_of(g, x).c != c_out;
    int32_t h = conv(g, norm(g, x, true, name, "norm1"), c_out, CONV_3X3, GRAPH_NONE, "%s.conv1", name);
    h = norm(g, h, true, name, "norm2");
    int32_t skip = has_shortcut ? conv(g, x, c_out, CONV_1X1, GRAPH_NONE, "%s.nin_shortcut", name) : x;
    return conv(g, h, c_out, CONV_3X3, skip, "%s.conv2", name);
}

// Single-head attention over all positions, width C, around a residual.
static int32_t attention(graph *g, int32_t x, const char *name) {
    ctok_shape shape = shape_of(g, x);
    int32_t h = norm(g, x, false, name, "norm");
    int32_t q = conv(g, h, shape.c, CONV_1X1, GRAPH_NONE, "%s.q", name);
    int32_t k = conv(g, h, shape.c, CONV_1X1, GRAPH_NONE, "%s.k", name);
    int32_t v = conv(g, h, shape.c, CONV_1X1, GRAPH_NONE, "%s.v", name);
    graph_node *node = graph_add_node(g, OP_ATTENTION, q, graph_add_value(g, shape));
    node->inputs[1] = k;
    node->inputs[2] = v;
    node->attention = (attention_params){.shape = shape};
    return conv(g, node->output, shape.c, CONV_1X1, x, "%s.proj_out", name);
}

static int32_t middle(graph *g, int32_t x, const char *half) {
    char name[GRAPH_NAME_BYTES];
    int64_t c = shape_of(g, x).c;
    snprintf(name, sizeof name, "%s.mid.block_1", half);
    x = res_block(g, x, c, name);
    snprintf(name, sizeof name, "%s.mid.attn_1", half);
    x = attention(g, x, name);
    snprintf(name, sizeof name, "%s.mid.block_2", half);
    return res_block(g, x, c, name);
}

// ---------------------------------------------------------------- ends
static int32_t load_pixels(graph *g, network_frame frame, external_format pixels) {
    ctok_shape shape = {1, 1, frame.padded_height, frame.padded_width, 3};
    graph_node *node = graph_add_node(g, OP_LOAD, GRAPH_NONE, graph_add_value(g, shape));
    node->transfer = (transfer_params){pixels, shape, frame.height, frame.width, frame.top, frame.left};
    return node->output;
}

static void store(graph *g, int32_t x, int32_t external, external_format format, network_frame frame) {
    if (external == GRAPH_NONE) return;
    graph_node *node = graph_add_node(g, OP_STORE, x, GRAPH_NONE);
    node->external = external;
    node->transfer = (transfer_params){format, shape_of(g, x), frame.height, frame.width, frame.top, frame.left};
}

// A latent-shaped value, whole, as [C, h, w].
static void store_latent(graph *g, int32_t x, int32_t external) {
    ctok_shape s = shape_of(g, x);
    store(g, x, external, EXTERNAL_F32_NCHW, (network_frame){s.h, s.w, 0, 0, s.h, s.w});
}

static int32_t haar(graph *g, int32_t x, const variant *v) {
    int64_t p = v->patch;
    ctok_shape in = shape_of(g, x), out = {1, 1, in.h / p, in.w / p, in.c * p * p};
    graph_node *node = graph_add_node(g, OP_HAAR, x, graph_add_value(g, out));
    node->haar = (haar_params){in, out, (int32_t)p};
    return node->output;
}

static int32_t unhaar(graph *g, int32_t x, const variant *v) {
    int64_t p = v->patch;
    ctok_shape in = shape_of(g, x), out = {1, 1, in.h * p, in.w * p, in.c / (p * p)};
    graph_node *node = graph_add_node(g, OP_UNHAAR, x, graph_add_value(g, out));
    node->haar = (haar_params){in, out, (int32_t)p};
    return node->output;
}

static fsq_params fsq_of(const variant *v, ctok_shape shape) {
    fsq_params p = {.shape = shape};
    fsq_tables(&p, v->fsq_levels, (int32_t)v->num_fsq_levels);
    return p;
}

int32_t network_load_latent(graph *g, const variant *v, int64_t height, int64_t width) {
    ctok_shape shape = {1, 1, height, width, v->latent_channels};
    graph_node *node = graph_add_node(g, OP_LOAD, GRAPH_NONE, graph_add_value(g, shape));
    node->transfer = (transfer_params){EXTERNAL_F32_NCHW, shape, height, width, 0, 0};
    return node->output;
}

int32_t network_load_indices(graph *g, const variant *v, int64_t height, int64_t width) {
    ctok_shape shape = {1, 1, height, width, v->latent_channels};
    graph_node *node = graph_add_node(g, OP_DEQUANTIZE, GRAPH_NONE, graph_add_value(g, shape));
    node->fsq = fsq_of(v, shape);
    return node->output;
}

// ---------------------------------------------------------------- the two halves
int32_t network_encode(graph *g, const variant *v, network_frame frame, external_format pixels, network_outputs outputs) {
    const variant_half *e = &v->encoder;
    char name[GRAPH_NAME_BYTES];
    int32_t x = haar(g, load_pixels(g, frame, pixels), v);
    x = conv(g, x, e->base_channels, CONV_3X3, GRAPH_NONE, "encoder.conv_in");
    for (int32_t i = 0; i < e->num_levels; i++) {
        for (int32_t j = 0; j < e->blocks; j++) {
            snprintf(name, sizeof name, "encoder.down.%d.block.%d", i, j);
            x = res_block(g, x, e->widths[i], name);
        }
        if (e->resamples[i]) x = conv(g, x, e->widths[i], CONV_HALVE, GRAPH_NONE, "encoder.down.%d.downsample.conv", i);
    }
    x = norm(g, middle(g, x, "encoder"), true, "encoder", "norm_out");
    x = conv(g, x, e->z_channels, CONV_3X3, GRAPH_NONE, "encoder.conv_out");
    x = conv(g, x, e->latent_channels, CONV_1X1, GRAPH_NONE, "quant_conv");
    store_latent(g, x, v->is_discrete ? outputs.pre_quant : outputs.latent);
    if (!v->is_discrete) return x;

    ctok_shape shape = shape_of(g, x);
    graph_node *node = graph_add_node(g, OP_QUANTIZE, x, graph_add_value(g, shape));
    node->external = outputs.indices;
    node->fsq = fsq_of(v, shape);
    int32_t codes = node->output;
    store_latent(g, codes, outputs.codes);
    return codes;
}

void network_decode(graph *g, const variant *v, int32_t latent, network_frame frame, external_format pixels, network_outputs outputs) {
    const variant_half *d = &v->decoder;
    char name[GRAPH_NAME_BYTES];
    int32_t x = conv(g, latent, d->z_channels, CONV_1X1, GRAPH_NONE, "post_quant_conv");
    x = conv(g, x, d->widths[d->num_levels - 1], CONV_3X3, GRAPH_NONE, "decoder.conv_in");
    x = middle(g, x, "decoder");
    for (int32_t i = d->num_levels - 1; i >= 0; i--) {
        for (int32_t j = 0; j < d->blocks; j++) {
            snprintf(name, sizeof name, "decoder.up.%d.block.%d", i, j);
            x = res_block(g, x, d->widths[i], name);
        }
        if (d->resamples[i]) x = conv(g, x, d->widths[i], CONV_DOUBLE, GRAPH_NONE, "decoder.up.%d.upsample.conv", i);
    }
    x = norm(g, x, true, "decoder", "norm_out");
    x = conv(g, x, 3 * v->patch * v->patch, CONV_3X3, GRAPH_NONE, "decoder.conv_out");
    store(g, unhaar(g, x, v), outputs.pixels, pixels, frame);
}
