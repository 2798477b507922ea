// See steps.h: appends ops to a network's graph.
#include "steps.h"

#include <stdarg.h>
#include <stdio.h>

#include "quantizer.h"

graph_value step_value(const builder *b, int32_t value) {
    return b->g->is_out_of_memory ? (graph_value){{1, 1, 1, 1, 1}, CTOK_F32} : b->g->values[value];
}

ctok_shape step_shape(const builder *b, int32_t value) { return step_value(b, value).shape; }

// ---------------------------------------------------------------- layers
static conv_params params_of_conv(const builder *b, graph_value in, graph_value out,
                                  conv_form form) {
    return (conv_params){
        .in = in.shape,
        .out = out.shape,
        .in_dtype = in.dtype,
        .out_dtype = out.dtype,
        .kernel = form.kernel,
        .stride = form.stride,
        .upsample = form.upsample,
        .kernel_t = form.kernel_t,
        .stride_t = form.stride_t,
        .upsample_t = form.upsample_t,
        .pad_before = form.kernel == 3 && form.stride == 1,  // a halving pads only after: F.pad(x,
                                                             // (0, 1, 0, 1))
        .pad_t = form.kernel_t == 1                   ? 0
                 : form.stride_t == 2 && !b->is_first ? 1
                                                      : 2,
        .offset_t = form.upsample_t == 2 && b->is_first,
    };
}

static graph_layer conv_layer(const builder *b, const conv_params *p) {
    graph_layer layer = {.kind = OP_CONV,
                         .c_out = p->out.c,
                         .c_in = p->in.c,
                         .conv = *p,
                         .is_video = b->is_video,
                         .has_bias = true};
    layer.conv.in = (ctok_shape){.c = p->in.c}, layer.conv.out = (ctok_shape){.c = p->out.c};
    return layer;
}

int32_t step_conv(builder *b, int32_t x, int64_t c_out, conv_form form, int32_t residual,
                  const char *format, ...) {
    char name[GRAPH_NAME_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(name, sizeof name, format, arguments);
    va_end(arguments);

    ctok_shape in = step_shape(b, x), out = in;
    out.h = in.h * form.upsample / form.stride;
    out.w = in.w * form.upsample / form.stride;
    out.t = in.t * form.upsample_t;
    if (form.upsample_t == 2 && b->is_first) out.t -= 1;  // the first frame is never doubled
    if (form.stride_t == 2) out.t = (in.t + b->is_first) / 2;
    out.c = c_out;
    ctok_dtype dtype =
        b->g->dtype == CTOK_BF16 && !b->is_end && c_out % BF16_CHANNELS == 0 ? CTOK_BF16 : CTOK_F32;
    conv_params p = params_of_conv(b, step_value(b, x), (graph_value){out, dtype}, form);
    graph_node *node = graph_add_node(b->g, OP_CONV, x, graph_add_value(b->g, out, dtype));
    node->inputs[1] = residual;
    node->layer = graph_add_layer(b->g, conv_layer(b, &p), name);
    if (form.kernel_t > 1) node->slot = b->g->num_slots++;
    node->params.conv = p;
    node->params.conv.has_upsampled_residual =
        residual == x && (form.upsample == 2 || form.upsample_t == 2);
    return node->output;
}

void step_unused_conv(builder *b, int64_t channels, conv_form form, const char *format, ...) {
    char name[GRAPH_NAME_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(name, sizeof name, format, arguments);
    va_end(arguments);
    graph_value value = {{.c = channels}, CTOK_F32};
    conv_params p = params_of_conv(b, value, value, form);
    graph_layer layer = conv_layer(b, &p);
    layer.is_unused = true;
    graph_add_layer(b->g, layer, name);
}

int32_t step_norm(builder *b, int32_t x, int32_t groups, bool has_silu, const char *name) {
    graph_value in = step_value(b, x);
    graph_node *node = graph_add_node(b->g, OP_NORM, x, graph_add_value(b->g, in.shape, in.dtype));
    graph_layer layer = {.kind = OP_NORM, .c_out = in.shape.c, .groups = groups, .has_bias = true};
    node->layer = graph_add_layer(b->g, layer, name);
    node->params.norm = (norm_params){.shape = in.shape,
                                      .groups = groups,
                                      .epsilon = 1e-6f,
                                      .has_silu = has_silu,
                                      .dtype = in.dtype};
    return node->output;
}

int32_t step_attention(builder *b, int32_t q, int32_t k, int32_t v, bool is_temporal,
                       const char *name) {
    graph_value in = step_value(b, q);
    graph_node *node =
        graph_add_node(b->g, OP_ATTENTION, q, graph_add_value(b->g, in.shape, in.dtype));
    node->inputs[1] = k;
    node->inputs[2] = v;
    node->params.attention =
        (attention_params){.shape = in.shape, .is_temporal = is_temporal, .dtype = in.dtype};
    if (is_temporal) node->slot = b->g->num_slots++;
    snprintf(node->name, sizeof node->name, "%s", name);
    return node->output;
}

int32_t step_pool(builder *b, int32_t x, bool is_temporal) {
    graph_value value = step_value(b, x);
    ctok_shape in = value.shape, out = in;
    if (is_temporal) out.t = (in.t + b->is_first) / 2;
    else out.h /= 2, out.w /= 2;
    graph_node *node = graph_add_node(b->g, OP_POOL, x, graph_add_value(b->g, out, value.dtype));
    node->params.pool = (pool_params){.in = in,
                                      .out = out,
                                      .is_temporal = is_temporal,
                                      .is_first = b->is_first,
                                      .dtype = value.dtype};
    return node->output;
}

// ---------------------------------------------------------------- patches
int32_t step_haar(builder *b, int32_t x, int32_t patch) {
    int64_t p = patch, p_t = b->is_video ? p : 1, extra = b->is_first ? p_t - 1 : 0;
    ctok_shape in = step_shape(b, x),
               out = {in.n, (in.t + extra) / p_t, in.h / p, in.w / p, in.c * p * p * p_t};
    graph_node *node = graph_add_node(b->g, OP_HAAR, x, graph_add_value(b->g, out, CTOK_F32));
    node->params.haar = (haar_params){in, out, patch, (int32_t)p_t, b->is_first};
    return node->output;
}

int32_t step_unhaar(builder *b, int32_t x, int32_t patch) {
    int64_t p = patch, p_t = b->is_video ? p : 1, extra = b->is_first ? p_t - 1 : 0;
    ctok_shape in = step_shape(b, x),
               out = {in.n, in.t * p_t - extra, in.h * p, in.w * p, in.c / (p * p * p_t)};
    graph_node *node = graph_add_node(b->g, OP_UNHAAR, x, graph_add_value(b->g, out, CTOK_F32));
    node->params.haar = (haar_params){in, out, patch, (int32_t)p_t, b->is_first};
    return node->output;
}

// ---------------------------------------------------------------- ends
int32_t step_load(builder *b, network_frame f, int64_t channels, external_format format) {
    ctok_shape shape = {f.images, f.padded_frames, f.padded_height, f.padded_width, channels};
    graph_node *node =
        graph_add_node(b->g, OP_LOAD, GRAPH_NONE, graph_add_value(b->g, shape, CTOK_F32));
    node->params.transfer =
        (transfer_params){format, shape, f.frames, f.height, f.width, f.before, f.top, f.left};
    return node->output;
}

void step_store(builder *b, int32_t x, int32_t external, external_format format, network_frame f) {
    if (external == GRAPH_NONE) return;
    graph_node *node = graph_add_node(b->g, OP_STORE, x, GRAPH_NONE);
    node->external = external;
    node->params.transfer = (transfer_params){format,  step_shape(b, x), f.frames, f.height,
                                              f.width, f.before,         f.top,    f.left};
}

void step_store_latent(builder *b, int32_t x, int32_t external) {
    ctok_shape s = step_shape(b, x);
    network_frame whole = {.images = s.n,
                           .padded_frames = s.t,
                           .padded_height = s.h,
                           .padded_width = s.w,
                           .frames = s.t,
                           .height = s.h,
                           .width = s.w};
    step_store(b, x, external, EXTERNAL_F32_NCTHW, whole);
}

static quantizer_params params_of(const quantizer_spec *q, ctok_shape shape) {
    quantizer_params p = {.shape = shape, .kind = q->kind, .size = (int32_t)q->size};
    if (q->kind == QUANTIZER_FSQ) quantizer_set_levels(&p, q->levels, (int32_t)q->num_levels);
    return p;
}

int32_t step_tokens(builder *b, int32_t x, const quantizer_spec *q, network_outputs outputs) {
    bool is_continuous = q->kind == QUANTIZER_NONE;
    step_store_latent(b, x, is_continuous ? outputs.latent : outputs.pre_quant);
    if (is_continuous) return x;
    ctok_shape shape = step_shape(b, x);
    graph_node *node = graph_add_node(b->g, OP_QUANTIZE, x, graph_add_value(b->g, shape, CTOK_F32));
    node->external = outputs.indices;
    node->params.quantizer = params_of(q, shape);
    int32_t codes = node->output;
    step_store_latent(b, codes, outputs.codes);
    return codes;
}

int32_t step_dequantize(builder *b, const quantizer_spec *q, ctok_shape shape) {
    graph_node *node =
        graph_add_node(b->g, OP_DEQUANTIZE, GRAPH_NONE, graph_add_value(b->g, shape, CTOK_F32));
    node->params.quantizer = params_of(q, shape);
    return node->output;
}
