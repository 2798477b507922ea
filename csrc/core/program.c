// Checks a request against a model, sizes everything, builds graph and plan; and runs the result, node by node.
#include "program.h"

#include <string.h>
#include <unistd.h>

enum { SPATIAL_ALIGN = 16 };                // Ref: reference/pipeline_reference.py
static const int64_t MAX_SIDE = 1 << 20, MAX_BATCH = 1 << 20;
static const int64_t MAX_PIXELS = (int64_t)1 << 32;  // of one padded image: keeps every byte count far from overflow

static ctok_status check_request(const model *m, ctok_request *r, ctok_error *error) {
    const variant *v = &m->variant;
    const uint32_t pixels = CTOK_PIXELS_U8 | CTOK_PIXELS_F32, tokens = v->is_discrete ? CTOK_INDICES | CTOK_CODES : CTOK_LATENT;
    uint32_t inputs, outputs, default_outputs;
    switch (r->task) {
        case CTOK_TASK_ENCODE: inputs = pixels, outputs = tokens | CTOK_PRE_QUANT, default_outputs = tokens; break;
        case CTOK_TASK_DECODE: inputs = tokens, outputs = pixels, default_outputs = CTOK_PIXELS_F32; break;
        case CTOK_TASK_AUTOENCODE: inputs = pixels, outputs = pixels, default_outputs = CTOK_PIXELS_U8; break;
        default: return ctok_fail(error, CTOK_E_ARGUMENT, r->task, "request.task: expected 1 (encode), 2 (decode) or 3 (autoencode), found %u", r->task);
    }
    if (!v->is_discrete) outputs &= ~(uint32_t)CTOK_PRE_QUANT;  // the latent is all there is before decoding
    if (!r->outputs) r->outputs = default_outputs;
    if (!r->batch) r->batch = 1;

    bool needs_encoder = r->task != CTOK_TASK_DECODE, needs_decoder = r->task != CTOK_TASK_ENCODE;
    if ((needs_encoder && !v->encoder.is_present) || (needs_decoder && !v->decoder.is_present)) {
        return ctok_fail(error, CTOK_E_UNSUPPORTED, 0, "%s was opened with only its %s, and this needs the %s", v->name,
                         v->encoder.is_present ? "encoder" : "decoder", v->encoder.is_present ? "decoder" : "encoder");
    }
    if (!(r->input & inputs) || (r->input & (r->input - 1))) {
        return ctok_fail(error, CTOK_E_UNSUPPORTED, r->input, "request.input: %s (%s) takes one of the kinds in mask %u here, found %u", v->name,
                         v->is_discrete ? "discrete" : "continuous", inputs, r->input);
    }
    bool is_two_pixels = (r->outputs & pixels) == pixels;
    if ((r->outputs & ~outputs) || is_two_pixels) {
        return ctok_fail(error, CTOK_E_UNSUPPORTED, r->outputs, "request.outputs: %s (%s) gives kinds in mask %u here%s, found %u", v->name,
                         v->is_discrete ? "discrete" : "continuous", outputs, is_two_pixels ? ", pixels in one type" : "", r->outputs);
    }
    if (r->batch < 1 || r->batch > MAX_BATCH || r->height < 1 || r->height > MAX_SIDE || r->width < 1 || r->width > MAX_SIDE) {
        return ctok_fail(error, CTOK_E_SHAPE, 0, "expected batch, height and width from 1 to %lld, found %lld x %lld x %lld", (long long)MAX_SIDE,
                         (long long)r->batch, (long long)r->height, (long long)r->width);
    }
    return CTOK_OK;
}

static int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

static ctok_status find_frame(network_frame *f, const variant *v, const ctok_request *r, ctok_error *error) {
    if (r->task == CTOK_TASK_DECODE) {
        f->padded_height = r->height * v->spatial_factor;
        f->padded_width = r->width * v->spatial_factor;
        bool is_whole = r->crop_height == 0 && r->crop_width == 0 && r->crop_top == 0 && r->crop_left == 0;
        f->top = r->crop_top, f->left = r->crop_left;
        f->height = is_whole ? f->padded_height : r->crop_height;
        f->width = is_whole ? f->padded_width : r->crop_width;
        if (f->top < 0 || f->left < 0 || f->height < 1 || f->width < 1 || f->height > f->padded_height || f->width > f->padded_width ||
            f->top > f->padded_height - f->height || f->left > f->padded_width - f->width) {
            return ctok_fail(error, CTOK_E_SHAPE, 0, "crop: expected a part of %lld x %lld pixels, found %lld x %lld at row %lld, column %lld",
                             (long long)f->padded_height, (long long)f->padded_width, (long long)f->height, (long long)f->width, (long long)f->top,
                             (long long)f->left);
        }
    } else {
        int64_t unit = v->spatial_factor > SPATIAL_ALIGN ? v->spatial_factor : SPATIAL_ALIGN;  // both are powers of 2
        f->height = r->height, f->width = r->width;
        f->padded_height = round_up(r->height, unit), f->padded_width = round_up(r->width, unit);
        f->top = (f->padded_height - r->height) / 2, f->left = (f->padded_width - r->width) / 2;
    }
    if (f->padded_height > MAX_PIXELS / f->padded_width) {
        return ctok_fail(error, CTOK_E_SHAPE, 0, "expected at most %lld pixels an image, found %lld x %lld", (long long)MAX_PIXELS,
                         (long long)f->padded_height, (long long)f->padded_width);
    }
    return CTOK_OK;
}

// Describes the next output and gives its number; GRAPH_NONE when the request does not want it.
static int32_t add_output(program *p, uint32_t kind, ctok_dtype dtype, uint32_t rank, int64_t a, int64_t b, int64_t c) {
    if (!(p->request.outputs & kind)) return GRAPH_NONE;
    int64_t elements = p->request.batch * a * b * (rank == 4 ? c : 1);
    p->outputs[p->num_outputs] = (ctok_output){kind, dtype, rank, 0, {p->request.batch, a, b, rank == 4 ? c : 0, 0}, (uint64_t)elements * dtype_bytes(dtype)};
    return p->num_outputs++;
}

static network_outputs add_outputs(program *p, const variant *v) {
    const network_frame *f = &p->frame;
    int64_t h = f->padded_height / v->spatial_factor, w = f->padded_width / v->spatial_factor, c = v->latent_channels;
    network_outputs o;
    int32_t u8 = add_output(p, CTOK_PIXELS_U8, CTOK_U8, 4, f->height, f->width, 3);
    int32_t f32 = add_output(p, CTOK_PIXELS_F32, CTOK_F32, 4, 3, f->height, f->width);
    o.pixels = u8 != GRAPH_NONE ? u8 : f32;
    o.indices = add_output(p, CTOK_INDICES, CTOK_I32, 3, h, w, 1);
    o.codes = add_output(p, CTOK_CODES, CTOK_F32, 4, c, h, w);
    o.latent = add_output(p, CTOK_LATENT, CTOK_F32, 4, c, h, w);
    o.pre_quant = add_output(p, CTOK_PRE_QUANT, CTOK_F32, 4, c, h, w);
    return o;
}

// Refuses, before any work, what this machine's memory cannot hold.
static ctok_status check_memory(const program *p, const model *m, ctok_error *error) {
    long pages = sysconf(_SC_PHYS_PAGES), page_bytes = sysconf(_SC_PAGESIZE);
    uint64_t memory = pages > 0 && page_bytes > 0 ? (uint64_t)pages * (uint64_t)page_bytes : UINT64_MAX;
    uint64_t results = 0, input = p->input_image_bytes * (uint64_t)p->request.batch;
    for (int32_t i = 0; i < p->num_outputs; i++) results += p->outputs[i].bytes;
    uint64_t needed = p->plan.arena_bytes + m->weight_bytes + results + input;
    if (needed <= memory) return CTOK_OK;
    return ctok_fail(error, CTOK_E_MEMORY, (int64_t)needed,
                     "%lld x %lld pixels need %llu MiB (activations %llu, weights %llu, input and results %llu), and this machine has %llu MiB",
                     (long long)p->frame.padded_height, (long long)p->frame.padded_width, (unsigned long long)(needed >> 20),
                     (unsigned long long)(p->plan.arena_bytes >> 20), (unsigned long long)(m->weight_bytes >> 20),
                     (unsigned long long)((results + input) >> 20), (unsigned long long)(memory >> 20));
}

static size_t input_image_bytes(const program *p, const variant *v) {
    size_t area = (size_t)p->request.height * (size_t)p->request.width;
    switch (p->request.input) {
        case CTOK_PIXELS_U8: return area * 3;
        case CTOK_PIXELS_F32: return area * 3 * sizeof(float);
        case CTOK_INDICES: return area * sizeof(int32_t);
        default: return area * (size_t)v->latent_channels * sizeof(float);
    }
}

ctok_status program_make(program *out, const model *m, const ctok_request *request, ctok_error *error) {
    program p = {.request = *request};
    const variant *v = &m->variant;
    CTOK_TRY(check_request(m, &p.request, error));
    CTOK_TRY(find_frame(&p.frame, v, &p.request, error));
    const ctok_request *r = &p.request;
    p.input_image_bytes = input_image_bytes(&p, v);
    network_outputs outputs = add_outputs(&p, v);
    external_format pixels_in = r->input == CTOK_PIXELS_U8 ? EXTERNAL_PIXELS_U8 : EXTERNAL_F32_NCHW;
    external_format pixels_out = r->outputs & CTOK_PIXELS_U8 ? EXTERNAL_PIXELS_U8 : EXTERNAL_F32_NCHW;

    int32_t latent;
    if (r->task != CTOK_TASK_DECODE) {
        latent = network_encode(&p.graph, v, p.frame, pixels_in, outputs);
    } else {
        p.first_layer = m->num_encoder_layers;
        latent = r->input == CTOK_INDICES ? network_load_indices(&p.graph, v, r->height, r->width)
                                          : network_load_latent(&p.graph, v, r->height, r->width);
    }
    if (r->task != CTOK_TASK_ENCODE) network_decode(&p.graph, v, latent, p.frame, pixels_out, outputs);

    ctok_status status = plan_make(&p.plan, &p.graph, m->backend, error);
    if (status == CTOK_OK) status = check_memory(&p, m, error);
    if (status != CTOK_OK) {
        program_free(&p);
        return status;
    }
    *out = p;
    return CTOK_OK;
}

void program_free(program *p) {
    graph_free(&p->graph);
    plan_free(&p->plan);
}

// ---------------------------------------------------------------- running
typedef struct {
    const program *program;
    const model *model;
    backend *backend;
    uint8_t *arena;
    const uint8_t *input;  // of this image
    uint8_t *outputs[4];
} execution;

static float *value(const execution *e, int32_t id) {
    return id == GRAPH_NONE ? NULL : (float *)(e->arena + e->program->plan.value_offsets[id]);
}

static ctok_status run_node(const execution *e, int32_t n) {
    const graph_node *node = &e->program->graph.nodes[n];
    const backend_ops *ops = e->backend->ops;
    backend *b = e->backend;
    float *out = value(e, node->output);
    const float *in = value(e, node->inputs[0]);
    void *workspace = e->arena + e->program->plan.workspace_offsets[n];
    const layer_weights *w = node->layer == GRAPH_NONE ? NULL : &e->model->layers[e->program->first_layer + node->layer];
    void *external = node->external == GRAPH_NONE ? NULL : e->outputs[node->external];
    switch (node->kind) {
        case OP_LOAD: return ops->load(b, out, e->input, &node->transfer);
        case OP_STORE: return ops->store(b, external, in, &node->transfer);
        case OP_HAAR: return ops->haar(b, out, in, &node->haar);
        case OP_UNHAAR: return ops->unhaar(b, out, in, &node->haar);
        case OP_CONV: return ops->conv(b, out, in, value(e, node->inputs[1]), w->conv, workspace, &node->conv);
        case OP_NORM: return ops->norm(b, out, in, w->scale, w->offset, &node->norm);
        case OP_ATTENTION: return ops->attention(b, out, in, value(e, node->inputs[1]), value(e, node->inputs[2]), workspace, &node->attention);
        case OP_QUANTIZE: return ops->quantize(b, external, out, in, &node->fsq);
        case OP_DEQUANTIZE: return ops->dequantize(b, out, (const int32_t *)e->input, &node->fsq);
    }
    return CTOK_E_INTERNAL;
}

// Indices come from the caller; out of range ones would read a wrong code.
static ctok_status check_indices(const program *p, const model *m, const uint8_t *input, ctok_error *error) {
    const ctok_request *r = &p->request;
    if (r->input != CTOK_INDICES) return CTOK_OK;
    const int32_t *indices = (const int32_t *)input;
    for (int64_t i = 0; i < r->batch * r->height * r->width; i++) {
        if (indices[i] >= 0 && (uint32_t)indices[i] < m->variant.codebook_size) continue;
        int64_t position = i % (r->height * r->width);
        return ctok_fail(error, CTOK_E_VALUE, i, "indices[%lld, %lld, %lld]: expected 0 to %u, found %d", (long long)(i / (r->height * r->width)),
                         (long long)(position / r->width), (long long)(position % r->width), m->variant.codebook_size - 1, indices[i]);
    }
    return CTOK_OK;
}

ctok_status program_run(const program *p, const model *m, backend *b, uint8_t *arena, const uint8_t *input, uint8_t *const outputs[4],
                        atomic_uint *steps_done, ctok_error *error) {
    CTOK_TRY(check_indices(p, m, input, error));
    execution e = {.program = p, .model = m, .backend = b, .arena = arena, .input = input};
    for (int i = 0; i < p->num_outputs; i++) e.outputs[i] = outputs[i];
    for (int64_t image = 0; image < p->request.batch; image++) {
        for (int32_t n = 0; n < p->graph.num_nodes; n++) {
            ctok_status status = b->cancel && atomic_load(b->cancel) ? CTOK_E_CANCELLED : run_node(&e, n);
            if (status == CTOK_E_CANCELLED) return ctok_fail(error, status, n, "cancelled at step %d of %d", n, p->graph.num_nodes);
            if (status != CTOK_OK) return ctok_fail(error, status, n, "step %d of %d failed", n, p->graph.num_nodes);
            atomic_fetch_add(steps_done, 1);
        }
        e.input += p->input_image_bytes;
        for (int i = 0; i < p->num_outputs; i++) e.outputs[i] += p->outputs[i].bytes / (uint64_t)p->request.batch;
    }
    return CTOK_OK;
}
