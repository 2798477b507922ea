// The Cosmos tokenizer, layer by layer, in the order of the published figure: Haar patch, residual levels with halvings, a
// middle with attention, a 1x1 quantiser convolution; the decoder mirrors it. Images: 2-D convolutions, GroupNorm(32).
// Videos: each 3x3 convolution is one in space and one causal in time, norms see a frame at a time, attention is in space and
// then causal in time, and every look back in time has a slot of the stream's state.
#include "network.h"

#include <stdarg.h>
#include <stdio.h>

#include "quantizer.h"

typedef struct {
    graph *g;
    const variant *v;
    bool is_first;
    bool is_end;  // towards the pixels or the tokens, where convolutions give float32 whatever the precision
} builder;

static graph_value value_of(const builder *b, int32_t value) {
    return b->g->is_out_of_memory ? (graph_value){{1, 1, 1, 1, 1}, CTOK_F32} : b->g->values[value];
}

static ctok_shape shape_of(const builder *b, int32_t value) { return value_of(b, value).shape; }

// ---------------------------------------------------------------- layers
typedef struct {
    int32_t kernel, stride, upsample, kernel_t, stride_t, upsample_t;
} conv_form;

static const conv_form CONV_1X1 = {1, 1, 1, 1, 1, 1}, CONV_3X3 = {3, 1, 1, 1, 1, 1}, CONV_HALVE = {3, 2, 1, 1, 1, 1},
                       CONV_DOUBLE = {3, 1, 2, 1, 1, 1}, CONV_TIME = {1, 1, 1, 3, 1, 1}, CONV_HALVE_TIME = {1, 1, 1, 3, 2, 1},
                       CONV_DOUBLE_TIME = {1, 1, 1, 3, 1, 2};

static graph_layer conv_layer(const builder *b, int64_t c_out, graph_value in, conv_form form) {
    return (graph_layer){.kind = OP_CONV, .c_out = c_out, .c_in = in.shape.c, .kernel_t = form.kernel_t, .kernel = form.kernel,
                         .in_dtype = in.dtype, .is_video = b->v->is_video};
}

// conv(x) (+ residual), [T, H, W, c_in] -> [T, H, W, c_out], sizes halved or doubled by the form. A residual that is x itself
// under an upsampling form is read through the upsampling.
__attribute__((format(printf, 6, 7))) static int32_t conv(builder *b, int32_t x, int64_t c_out, conv_form form, int32_t residual,
                                                         const char *format, ...) {
    char name[GRAPH_NAME_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(name, sizeof name, format, arguments);
    va_end(arguments);

    ctok_shape in = shape_of(b, x), out = in;
    out.h = in.h * form.upsample / form.stride;
    out.w = in.w * form.upsample / form.stride;
    out.t = in.t * form.upsample_t;
    if (form.upsample_t == 2 && b->is_first) out.t -= 1;  // the first frame is never doubled
    if (form.stride_t == 2) out.t = (in.t + b->is_first) / 2;
    out.c = c_out;
    ctok_dtype dtype = b->g->is_bf16 && !b->is_end && c_out % BF16_CHANNELS == 0 ? CTOK_BF16 : CTOK_F32;
    graph_node *node = graph_add_node(b->g, OP_CONV, x, graph_add_value(b->g, out, dtype));
    node->inputs[1] = residual;
    node->layer = graph_add_layer(b->g, conv_layer(b, c_out, value_of(b, x), form), name);
    if (form.kernel_t > 1) node->slot = b->g->num_slots++;
    node->conv = (conv_params){
        .in = in, .out = out, .in_dtype = value_of(b, x).dtype, .out_dtype = dtype, .kernel = form.kernel, .stride = form.stride, .upsample = form.upsample,
        .kernel_t = form.kernel_t, .stride_t = form.stride_t, .upsample_t = form.upsample_t,
        .pad_before = form.kernel == 3 && form.stride == 1,  // a halving pads only after: F.pad(x, (0, 1, 0, 1))
        .pad_t = form.kernel_t == 1 ? 0 : form.stride_t == 2 && !b->is_first ? 1 : 2,
        .offset_t = form.upsample_t == 2 && b->is_first,
        .has_upsampled_residual = residual == x && (form.upsample == 2 || form.upsample_t == 2),
    };
    return node->output;
}

// A k x k convolution: for a video (1, k, k) and then (k, 1, 1), or one of one tap.
static int32_t conv_3x3(builder *b, int32_t x, int64_t c_out, int32_t residual, const char *name) {
    if (!b->v->is_video) return conv(b, x, c_out, CONV_3X3, residual, "%s", name);
    bool is_end = b->is_end;
    b->is_end = false;  // of the two, only the second gives what leaves the network
    x = conv(b, x, c_out, CONV_3X3, GRAPH_NONE, "%s.0.conv3d", name);
    b->is_end = is_end;
    return conv(b, x, c_out, CONV_TIME, residual, "%s.1.conv3d", name);
}

static int32_t conv_1x1(builder *b, int32_t x, int64_t c_out, int32_t residual, const char *name) {
    return conv(b, x, c_out, CONV_1X1, residual, "%s%s", name, b->v->is_video ? ".conv3d" : "");
}

static const char *join(char out[GRAPH_NAME_BYTES], const char *block, const char *part) {
    snprintf(out, GRAPH_NAME_BYTES, "%.64s.%.24s", block, part);  // far longer than any name
    return out;
}

// GroupNorm(32) of an image, GroupNorm(1) of each frame of a video, eps 1e-6, and SiLU except before attention.
static int32_t norm(builder *b, int32_t x, bool has_silu, const char *block, const char *part) {
    char name[GRAPH_NAME_BYTES];
    snprintf(name, sizeof name, "%.64s.%.16s%s", block, part, b->v->is_video ? ".norm" : "");
    graph_value in = value_of(b, x);
    graph_node *node = graph_add_node(b->g, OP_NORM, x, graph_add_value(b->g, in.shape, in.dtype));
    node->layer = graph_add_layer(b->g, (graph_layer){.kind = OP_NORM, .c_out = in.shape.c}, name);
    node->norm = (norm_params){.shape = in.shape, .groups = b->v->is_video ? 1 : 32, .epsilon = 1e-6f, .has_silu = has_silu, .dtype = in.dtype};
    return node->output;
}

static int32_t res_block(builder *b, int32_t x, int64_t c_out, const char *name) {
    char part[GRAPH_NAME_BYTES];
    bool has_shortcut = shape_of(b, x).c != c_out;
    int32_t h = conv_3x3(b, norm(b, x, true, name, "norm1"), c_out, GRAPH_NONE, join(part, name, "conv1"));
    h = norm(b, h, true, name, "norm2");
    int32_t skip = has_shortcut ? conv_1x1(b, x, c_out, GRAPH_NONE, join(part, name, "nin_shortcut")) : x;
    return conv_3x3(b, h, c_out, skip, join(part, name, "conv2"));
}

// Single-head attention of width C around a residual: over the positions of a frame, or over the past of a position.
static int32_t attention(builder *b, int32_t x, bool is_temporal, const char *name) {
    char part[GRAPH_NAME_BYTES];
    ctok_shape shape = shape_of(b, x);
    int32_t h = norm(b, x, false, name, "norm");
    int32_t q = conv_1x1(b, h, shape.c, GRAPH_NONE, join(part, name, "q"));
    int32_t k = conv_1x1(b, h, shape.c, GRAPH_NONE, join(part, name, "k"));
    int32_t v = conv_1x1(b, h, shape.c, GRAPH_NONE, join(part, name, "v"));
    graph_node *node = graph_add_node(b->g, OP_ATTENTION, q, graph_add_value(b->g, shape, value_of(b, q).dtype));
    node->inputs[1] = k;
    node->inputs[2] = v;
    node->attention = (attention_params){.shape = shape, .is_temporal = is_temporal, .dtype = value_of(b, q).dtype};
    if (is_temporal) node->slot = b->g->num_slots++;
    return conv_1x1(b, node->output, shape.c, x, join(part, name, "proj_out"));
}

static int32_t middle(builder *b, int32_t x, const char *half) {
    char name[GRAPH_NAME_BYTES];
    int64_t c = shape_of(b, x).c;
    x = res_block(b, x, c, join(name, half, "mid.block_1"));
    if (b->v->is_video) {
        x = attention(b, x, false, join(name, half, "mid.attn_1.0"));
        x = attention(b, x, true, join(name, half, "mid.attn_1.1"));
    } else {
        x = attention(b, x, false, join(name, half, "mid.attn_1"));
    }
    return res_block(b, x, c, join(name, half, "mid.block_2"));
}

// ---------------------------------------------------------------- between levels
static int32_t pool(builder *b, int32_t x, bool is_temporal) {
    ctok_shape in = shape_of(b, x), out = in;
    if (is_temporal) out.t = (in.t + b->is_first) / 2;
    else out.h /= 2, out.w /= 2;
    graph_node *node = graph_add_node(b->g, OP_POOL, x, graph_add_value(b->g, out, value_of(b, x).dtype));
    node->pool = (pool_params){.in = in, .out = out, .is_temporal = is_temporal, .is_first = b->is_first, .dtype = value_of(b, x).dtype};
    return node->output;
}

// Some checkpoints carry the convolutions of a level that does not resample: known by name, never run.
static void unused(builder *b, int64_t c, conv_form form, const char *name, const char *part) {
    char layer_name[GRAPH_NAME_BYTES];
    graph_layer layer = conv_layer(b, c, (graph_value){{.c = c}, CTOK_F32}, form);
    layer.is_unused = true;
    graph_add_layer(b->g, layer, join(layer_name, name, part));
}

// Halves a video in space and/or time: strided convolution plus mean, then a 1x1 convolution.
static int32_t video_down(builder *b, int32_t x, bool in_space, bool in_time, bool has_unused, const char *name) {
    int64_t c = shape_of(b, x).c;
    if (in_space) x = conv(b, x, c, CONV_HALVE, pool(b, x, false), "%s.conv1.conv3d", name);
    else if (has_unused) unused(b, c, CONV_HALVE, name, "conv1.conv3d");
    if (in_time) x = conv(b, x, c, CONV_HALVE_TIME, pool(b, x, true), "%s.conv2.conv3d", name);
    else if (has_unused) unused(b, c, CONV_HALVE_TIME, name, "conv2.conv3d");
    if (in_space || in_time) x = conv(b, x, c, CONV_1X1, GRAPH_NONE, "%s.conv3.conv3d", name);
    else if (has_unused) unused(b, c, CONV_1X1, name, "conv3.conv3d");
    return x;
}

// Doubles a video in time and/or space: x repeated, plus its convolution, then a 1x1 convolution.
static int32_t video_up(builder *b, int32_t x, bool in_space, bool in_time, bool has_unused, const char *name) {
    int64_t c = shape_of(b, x).c;
    if (in_time) x = conv(b, x, c, CONV_DOUBLE_TIME, x, "%s.conv1.conv3d", name);
    else if (has_unused) unused(b, c, CONV_TIME, name, "conv1.conv3d");
    if (in_space) x = conv(b, x, c, CONV_DOUBLE, x, "%s.conv2.conv3d", name);
    else if (has_unused) unused(b, c, CONV_3X3, name, "conv2.conv3d");
    if (in_space || in_time) x = conv(b, x, c, CONV_1X1, GRAPH_NONE, "%s.conv3.conv3d", name);
    else if (has_unused) unused(b, c, CONV_1X1, name, "conv3.conv3d");
    return x;
}

// ---------------------------------------------------------------- ends
static int32_t load(builder *b, network_frame f, int64_t channels, external_format format) {
    ctok_shape shape = {1, f.padded_frames, f.padded_height, f.padded_width, channels};
    graph_node *node = graph_add_node(b->g, OP_LOAD, GRAPH_NONE, graph_add_value(b->g, shape, CTOK_F32));
    node->transfer = (transfer_params){format, shape, f.frames, f.height, f.width, f.before, f.top, f.left};
    return node->output;
}

static void store(builder *b, int32_t x, int32_t external, external_format format, network_frame f) {
    if (external == GRAPH_NONE) return;
    graph_node *node = graph_add_node(b->g, OP_STORE, x, GRAPH_NONE);
    node->external = external;
    node->transfer = (transfer_params){format, shape_of(b, x), f.frames, f.height, f.width, f.before, f.top, f.left};
}

static network_frame whole(int64_t frames, int64_t height, int64_t width) {
    return (network_frame){.padded_frames = frames, .padded_height = height, .padded_width = width, .frames = frames, .height = height, .width = width};
}

// A latent-shaped value, whole, as [C, t, h, w].
static void store_latent(builder *b, int32_t x, int32_t external) {
    ctok_shape s = shape_of(b, x);
    store(b, x, external, EXTERNAL_F32_NCTHW, whole(s.t, s.h, s.w));
}

static int32_t haar(builder *b, int32_t x) {
    int64_t p = b->v->patch, p_t = b->v->is_video ? p : 1, extra = b->is_first ? p_t - 1 : 0;
    ctok_shape in = shape_of(b, x), out = {1, (in.t + extra) / p_t, in.h / p, in.w / p, in.c * p * p * p_t};
    graph_node *node = graph_add_node(b->g, OP_HAAR, x, graph_add_value(b->g, out, CTOK_F32));
    node->haar = (haar_params){in, out, (int32_t)p, (int32_t)p_t, b->is_first};
    return node->output;
}

static int32_t unhaar(builder *b, int32_t x) {
    int64_t p = b->v->patch, p_t = b->v->is_video ? p : 1, extra = b->is_first ? p_t - 1 : 0;
    ctok_shape in = shape_of(b, x), out = {1, in.t * p_t - extra, in.h * p, in.w * p, in.c / (p * p * p_t)};
    graph_node *node = graph_add_node(b->g, OP_UNHAAR, x, graph_add_value(b->g, out, CTOK_F32));
    node->haar = (haar_params){in, out, (int32_t)p, (int32_t)p_t, b->is_first};
    return node->output;
}

static quantizer_params fsq_of(const variant *v, ctok_shape shape) {
    quantizer_params p = {.shape = shape};
    quantizer_set_levels(&p, v->fsq_levels, (int32_t)v->num_fsq_levels);
    return p;
}

int32_t network_load_latent(graph *g, const variant *v, int64_t frames, int64_t height, int64_t width) {
    builder b = {g, v, true, true};
    return load(&b, whole(frames, height, width), v->latent_channels, EXTERNAL_F32_NCTHW);
}

int32_t network_load_indices(graph *g, const variant *v, int64_t frames, int64_t height, int64_t width) {
    ctok_shape shape = {1, frames, height, width, v->latent_channels};
    graph_node *node = graph_add_node(g, OP_DEQUANTIZE, GRAPH_NONE, graph_add_value(g, shape, CTOK_F32));
    node->quantizer = fsq_of(v, shape);
    return node->output;
}

// ---------------------------------------------------------------- the two halves
int32_t network_encode(graph *g, const variant *v, network_frame frame, external_format pixels, network_outputs outputs) {
    builder *b = &(builder){g, v, frame.is_first, false};
    const variant_half *e = &v->encoder;
    char name[GRAPH_NAME_BYTES];
    int32_t x = haar(b, load(b, frame, 3, pixels));
    x = conv_3x3(b, x, e->base_channels, GRAPH_NONE, "encoder.conv_in");
    for (int32_t i = 0; i < e->num_levels; i++) {
        for (int32_t j = 0; j < e->blocks; j++) {
            snprintf(name, sizeof name, "encoder.down.%d.block.%d", i, j);
            x = res_block(b, x, e->widths[i], name);
        }
        snprintf(name, sizeof name, "encoder.down.%d.downsample", i);
        if (!v->is_video && e->in_space[i]) x = conv(b, x, e->widths[i], CONV_HALVE, GRAPH_NONE, "%s.conv", name);
        if (v->is_video && i != e->num_levels - 1) x = video_down(b, x, e->in_space[i], e->in_time[i], e->has_unused_convs, name);
    }
    x = norm(b, middle(b, x, "encoder"), true, "encoder", "norm_out");
    b->is_end = true;
    x = conv_3x3(b, x, e->z_channels, GRAPH_NONE, "encoder.conv_out");
    x = conv_1x1(b, x, e->latent_channels, GRAPH_NONE, "quant_conv");
    store_latent(b, x, v->is_discrete ? outputs.pre_quant : outputs.latent);
    if (!v->is_discrete) return x;

    ctok_shape shape = shape_of(b, x);
    graph_node *node = graph_add_node(g, OP_QUANTIZE, x, graph_add_value(g, shape, CTOK_F32));
    node->external = outputs.indices;
    node->quantizer = fsq_of(v, shape);
    int32_t codes = node->output;
    store_latent(b, codes, outputs.codes);
    return codes;
}

void network_decode(graph *g, const variant *v, int32_t latent, network_frame frame, external_format pixels, network_outputs outputs) {
    builder *b = &(builder){g, v, frame.is_first, true};
    const variant_half *d = &v->decoder;
    char name[GRAPH_NAME_BYTES];
    int32_t x = conv_1x1(b, latent, d->z_channels, GRAPH_NONE, "post_quant_conv");
    b->is_end = false;
    x = conv_3x3(b, x, d->widths[d->num_levels - 1], GRAPH_NONE, "decoder.conv_in");
    x = middle(b, x, "decoder");
    for (int32_t i = d->num_levels - 1; i >= 0; i--) {
        for (int32_t j = 0; j < d->blocks; j++) {
            snprintf(name, sizeof name, "decoder.up.%d.block.%d", i, j);
            x = res_block(b, x, d->widths[i], name);
        }
        snprintf(name, sizeof name, "decoder.up.%d.upsample", i);
        if (!v->is_video && d->in_space[i]) x = conv(b, x, d->widths[i], CONV_DOUBLE, GRAPH_NONE, "%s.conv", name);
        if (v->is_video && i != 0) x = video_up(b, x, d->in_space[i], d->in_time[i], d->has_unused_convs, name);
    }
    x = norm(b, x, true, "decoder", "norm_out");
    int64_t p = v->patch;
    b->is_end = true;
    x = conv_3x3(b, x, 3 * p * p * (v->is_video ? p : 1), GRAPH_NONE, "decoder.conv_out");
    store(b, unhaar(b, x), outputs.pixels, pixels, frame);
}
