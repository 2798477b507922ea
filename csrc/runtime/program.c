// Checks a request against a model, sizes everything, builds graph and plan; and runs the result, node by node.
#include "program.h"

#include <stdio.h>
#include <string.h>

enum { SPATIAL_ALIGN = 16, TEMPORAL_ALIGN = 8 };  // Ref: reference/pipeline_reference.py
static const int64_t MAX_SIDE = 1 << 20, MAX_FRAMES = 1 << 20, MAX_BATCH = 1 << 20, MAX_STATE_FRAMES = 1 << 24;
static const int64_t MAX_PIXELS = (int64_t)1 << 32;  // of one padded image or clip: keeps every byte count far from overflow

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
    if (!r->frames) r->frames = 1;
    if (r->batch < 1 || r->batch > MAX_BATCH || r->frames < 1 || r->frames > MAX_FRAMES || r->height < 1 || r->height > MAX_SIDE ||
        r->width < 1 || r->width > MAX_SIDE) {
        return ctok_fail(error, CTOK_E_SHAPE, 0, "expected batch, frames, height and width from 1 to %lld, found %lld x %lld x %lld x %lld",
                         (long long)MAX_SIDE, (long long)r->batch, (long long)r->frames, (long long)r->height, (long long)r->width);
    }
    if (!v->is_video && (r->frames != 1 || r->chunk != CTOK_CHUNK_NONE)) {
        return ctok_fail(error, CTOK_E_UNSUPPORTED, r->frames, "%s is an image tokenizer: expected one frame, found %s%lld", v->name,
                         r->chunk ? "a stream, or " : "", (long long)r->frames);
    }
    if (r->chunk > CTOK_CHUNK_LATER || (r->chunk && (r->batch != 1 || r->task == CTOK_TASK_AUTOENCODE))) {
        return ctok_fail(error, CTOK_E_ARGUMENT, r->chunk, "request.chunk: expected 0 to 2, and a batch of one to encode or decode, found %u", r->chunk);
    }
    if (r->state_frames < 0 || r->state_frames > MAX_STATE_FRAMES) {
        return ctok_fail(error, CTOK_E_SHAPE, r->state_frames, "request.state_frames: expected 0 to %lld, found %lld", (long long)MAX_STATE_FRAMES,
                         (long long)r->state_frames);
    }
    return CTOK_OK;
}

static int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// Where the caller's pixels lie in the decoded ones: all of them, or the crop.
static ctok_status find_crop(network_frame *f, const ctok_request *r, ctok_error *error) {
    bool is_whole = !r->crop_frames && !r->crop_height && !r->crop_width && !r->crop_before && !r->crop_top && !r->crop_left;
    f->before = r->crop_before, f->top = r->crop_top, f->left = r->crop_left;
    f->frames = is_whole || !r->crop_frames ? f->padded_frames - f->before : r->crop_frames;
    f->height = is_whole ? f->padded_height : r->crop_height;
    f->width = is_whole ? f->padded_width : r->crop_width;
    const int64_t parts[3][3] = {{f->before, f->frames, f->padded_frames}, {f->top, f->height, f->padded_height}, {f->left, f->width, f->padded_width}};
    for (int i = 0; i < 3; i++) {
        if (parts[i][0] >= 0 && parts[i][1] >= 1 && parts[i][1] <= parts[i][2] && parts[i][0] <= parts[i][2] - parts[i][1]) continue;
        return ctok_fail(error, CTOK_E_SHAPE, 0, "crop: expected a part of %lld frames of %lld x %lld pixels, found %lld of %lld x %lld at frame %lld, "
                         "row %lld, column %lld", (long long)f->padded_frames, (long long)f->padded_height, (long long)f->padded_width,
                         (long long)f->frames, (long long)f->height, (long long)f->width, (long long)f->before, (long long)f->top, (long long)f->left);
    }
    return CTOK_OK;
}

// Frames of a whole clip are padded to 8k + 1 at both ends; a chunk must come in whole units.
static ctok_status find_frames(network_frame *f, const variant *v, const ctok_request *r, ctok_error *error) {
    int64_t unit = v->temporal_factor;
    f->frames = f->padded_frames = r->frames;
    if (r->chunk != CTOK_CHUNK_NONE) {
        int64_t alone = r->chunk == CTOK_CHUNK_FIRST;
        if ((r->frames - alone) % unit == 0) return CTOK_OK;
        return ctok_fail(error, CTOK_E_SHAPE, r->frames, "a %s chunk: expected %sa multiple of %lld frames, found %lld", alone ? "first" : "later",
                         alone ? "1 and " : "", (long long)unit, (long long)r->frames);
    }
    if (unit < TEMPORAL_ALIGN) unit = TEMPORAL_ALIGN;  // both are powers of 2
    if (v->is_video) f->padded_frames = round_up(r->frames - 1, unit) + 1;
    f->before = (f->padded_frames - r->frames) / 2;
    return CTOK_OK;
}

static ctok_status find_frame(network_frame *f, const variant *v, const ctok_request *r, ctok_error *error) {
    f->is_first = r->chunk != CTOK_CHUNK_LATER;
    if (r->task == CTOK_TASK_DECODE) {
        f->padded_frames = f->is_first ? (r->frames - 1) * v->temporal_factor + 1 : r->frames * v->temporal_factor;
        f->padded_height = r->height * v->spatial_factor;
        f->padded_width = r->width * v->spatial_factor;
        CTOK_TRY(find_crop(f, r, error));
    } else {
        int64_t unit = v->spatial_factor > SPATIAL_ALIGN ? v->spatial_factor : SPATIAL_ALIGN;  // both are powers of 2
        f->height = r->height, f->width = r->width;
        f->padded_height = round_up(r->height, unit), f->padded_width = round_up(r->width, unit);
        f->top = (f->padded_height - r->height) / 2, f->left = (f->padded_width - r->width) / 2;
        CTOK_TRY(find_frames(f, v, r, error));
    }
    if (f->padded_height > MAX_PIXELS / f->padded_width || f->padded_frames > MAX_PIXELS / (f->padded_height * f->padded_width)) {
        return ctok_fail(error, CTOK_E_SHAPE, 0, "expected at most %lld pixels an image or clip, found %lld x %lld x %lld", (long long)MAX_PIXELS,
                         (long long)f->padded_frames, (long long)f->padded_height, (long long)f->padded_width);
    }
    return CTOK_OK;
}

// Describes the next output and gives its number; GRAPH_NONE when the request does not want it.
// `sizes` of one image or clip, of which the one at `time_at` is left out for images.
static int32_t add_output(program *p, const variant *v, uint32_t kind, ctok_dtype dtype, const int64_t *sizes, int count, int time_at) {
    if (!(p->request.outputs & kind)) return GRAPH_NONE;
    ctok_output o = {.kind = kind, .dtype = dtype, .rank = 1, .shape = {p->request.batch}, .bytes = (uint64_t)p->request.batch * dtype_bytes(dtype)};
    for (int i = 0; i < count; i++) {
        o.bytes *= (uint64_t)sizes[i];
        if (v->is_video || i != time_at) o.shape[o.rank++] = sizes[i];
    }
    p->outputs[p->num_outputs] = o;
    return p->num_outputs++;
}

static network_outputs add_outputs(program *p, const variant *v) {
    const network_frame *f = &p->frame;
    int64_t h = f->padded_height / v->spatial_factor, w = f->padded_width / v->spatial_factor, c = v->latent_channels;
    int64_t t = f->is_first ? (f->padded_frames - 1) / v->temporal_factor + 1 : f->padded_frames / v->temporal_factor;
    const int64_t bytes[] = {f->frames, f->height, f->width, 3}, floats[] = {3, f->frames, f->height, f->width}, grid[] = {t, h, w}, latent[] = {c, t, h, w};
    network_outputs o;
    int32_t u8 = add_output(p, v, CTOK_PIXELS_U8, CTOK_U8, bytes, 4, 0);
    int32_t f32 = add_output(p, v, CTOK_PIXELS_F32, CTOK_F32, floats, 4, 1);
    o.pixels = u8 != GRAPH_NONE ? u8 : f32;
    o.indices = add_output(p, v, CTOK_INDICES, CTOK_I32, grid, 3, 0);
    o.codes = add_output(p, v, CTOK_CODES, CTOK_F32, latent, 4, 1);
    o.latent = add_output(p, v, CTOK_LATENT, CTOK_F32, latent, 4, 1);
    o.pre_quant = add_output(p, v, CTOK_PRE_QUANT, CTOK_F32, latent, 4, 1);
    return o;
}

// Of a stream's state: two past frames for each temporal convolution, keys and values for each temporal attention.
static void count_state(program *p) {
    for (int32_t n = 0; n < p->graph.num_nodes && p->request.chunk; n++) {
        const graph_node *node = &p->graph.nodes[n];
        if (node->slot == GRAPH_NONE) continue;
        ctok_shape s = node->kind == OP_CONV ? node->conv.in : node->attention.shape;
        ctok_dtype dtype = node->kind == OP_CONV ? node->conv.in_dtype : node->attention.dtype;
        uint64_t two_frames = 2 * (uint64_t)(s.h * s.w * s.c) * dtype_bytes(dtype);
        *(node->kind == OP_CONV ? &p->state_bytes : &p->state_bytes_per_frame) += two_frames;
    }
    p->state_bytes += p->state_bytes_per_frame * (uint64_t)stream_capacity(p->request.state_frames);
}

// Refuses, before any work, what the limits or the device's memory cannot hold.
// Limit: input and results of a device with memory of its own are not held against the host's.
static ctok_status check_memory(program *p, const model *m, size_t held_arena_bytes, ctok_error *error) {
    const ctok_request *r = &p->request;
    count_state(p);
    p->external_bytes = p->input_image_bytes * (uint64_t)r->batch;
    for (int32_t i = 0; i < p->num_outputs; i++) p->external_bytes += p->outputs[i].bytes;
    if (r->num_held && __builtin_mul_overflow(p->external_bytes, (uint64_t)r->num_held, &p->external_bytes)) p->external_bytes = INT64_MAX;
    if (p->external_bytes > INT64_MAX) p->external_bytes = INT64_MAX;
    uint64_t arena = p->plan.arena_bytes > held_arena_bytes ? p->plan.arena_bytes : held_arena_bytes;
    uint64_t on_device = arena + m->weight_bytes + p->state_bytes, limit = m->max_memory_bytes, memory, available;
    p->total_bytes = on_device + p->external_bytes;
    if (!limit || (r->max_memory_bytes && r->max_memory_bytes < limit)) limit = r->max_memory_bytes;
    m->backend->memory_bytes(m->backend, &memory, &available);
    bool is_limited = limit && p->total_bytes > limit;
    uint64_t needed = is_limited || m->backend->is_host_memory ? p->total_bytes : on_device;
    if (!is_limited && needed <= memory) return CTOK_OK;
    char found[80];
    if (is_limited) snprintf(found, sizeof found, "the limit (max_memory_bytes) is %llu", (unsigned long long)limit);
    else snprintf(found, sizeof found, "%s has %llu", m->backend->is_host_memory ? "this machine" : m->backend->device, (unsigned long long)memory);
    return ctok_fail(error, CTOK_E_MEMORY, (int64_t)needed,
                     "%lld x %lld x %lld pixels need %llu bytes (activations %llu, weights %llu, state %llu, inputs and results %llu), and %s",
                     (long long)p->frame.padded_frames, (long long)p->frame.padded_height, (long long)p->frame.padded_width, (unsigned long long)needed,
                     (unsigned long long)arena, (unsigned long long)m->weight_bytes, (unsigned long long)p->state_bytes,
                     (unsigned long long)p->external_bytes, found);
}

static size_t input_image_bytes(const program *p, const variant *v) {
    size_t area = (size_t)p->request.frames * (size_t)p->request.height * (size_t)p->request.width;
    switch (p->request.input) {
        case CTOK_PIXELS_U8: return area * 3;
        case CTOK_PIXELS_F32: return area * 3 * sizeof(float);
        case CTOK_INDICES: return area * sizeof(int32_t);
        default: return area * (size_t)v->latent_channels * sizeof(float);
    }
}

ctok_status program_make(program *out, const model *m, const ctok_request *request, size_t held_arena_bytes, ctok_error *error) {
    program p = {.request = *request, .graph.is_bf16 = m->is_bf16};
    const variant *v = &m->variant;
    CTOK_TRY(check_request(m, &p.request, error));
    CTOK_TRY(find_frame(&p.frame, v, &p.request, error));
    const ctok_request *r = &p.request;
    p.input_image_bytes = input_image_bytes(&p, v);
    network_outputs outputs = add_outputs(&p, v);
    external_format pixels_in = r->input == CTOK_PIXELS_U8 ? EXTERNAL_PIXELS_U8 : EXTERNAL_F32_NCTHW;
    external_format pixels_out = r->outputs & CTOK_PIXELS_U8 ? EXTERNAL_PIXELS_U8 : EXTERNAL_F32_NCTHW;

    int32_t latent;
    if (r->task != CTOK_TASK_DECODE) {
        latent = network_encode(&p.graph, v, p.frame, pixels_in, outputs);
    } else {
        p.first_layer = m->num_encoder_layers;
        latent = r->input == CTOK_INDICES ? network_load_indices(&p.graph, v, r->frames, r->height, r->width)
                                          : network_load_latent(&p.graph, v, r->frames, r->height, r->width);
    }
    if (r->task != CTOK_TASK_ENCODE) network_decode(&p.graph, v, latent, p.frame, pixels_out, outputs);

    ctok_status status = plan_make(&p.plan, &p.graph, m->backend, error);
    if (status == CTOK_OK) status = check_memory(&p, m, held_arena_bytes, error);
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
    stream_state *stream;  // or NULL
    uint8_t *arena;
    const uint8_t *input;  // of this image
    uint8_t *outputs[4];
} execution;

static void *value(const execution *e, int32_t id) {
    return id == GRAPH_NONE ? NULL : e->arena + e->program->plan.value_offsets[id];
}

// Attention over time: this chunk's keys and values behind those of the past.
static ctok_status run_temporal_attention(const execution *e, const graph_node *node, void *workspace) {
    const void *k = value(e, node->inputs[1]), *v = value(e, node->inputs[2]);
    attention_params p = node->attention;
    if (e->stream) {
        stream_slot *slot = &e->stream->slots[node->slot];
        p.window = e->stream->attention_frames;
        p.num_past = slot->num_frames;
        if (!stream_append(e->stream, slot, k, v, p.shape, p.dtype)) return CTOK_E_MEMORY;
        k = slot->keys, v = slot->values;
    }
    ctok_status status = e->backend->ops->attention(e->backend, value(e, node->output), value(e, node->inputs[0]), k, v, workspace, &p);
    if (e->stream && status == CTOK_OK) stream_forget(e->stream, &e->stream->slots[node->slot]);
    return status;
}

// A convolution that looks back in time sees the past of its slot, and leaves its own last frames there.
static ctok_status run_conv(const execution *e, const graph_node *node, void *workspace) {
    const layer_weights *w = &e->model->layers[e->program->first_layer + node->layer];
    const void *in = value(e, node->inputs[0]);
    stream_slot *slot = e->stream && node->slot != GRAPH_NONE ? &e->stream->slots[node->slot] : NULL;
    CTOK_TRY(e->backend->ops->conv(e->backend, value(e, node->output), in, slot ? slot->past : NULL, value(e, node->inputs[1]), w->conv, workspace,
                                   &node->conv));
    return !slot || stream_remember(e->stream, slot, in, node->conv.in, node->conv.in_dtype) ? CTOK_OK : CTOK_E_MEMORY;
}

static ctok_status run_node(const execution *e, int32_t n) {
    const graph_node *node = &e->program->graph.nodes[n];
    const backend_ops *ops = e->backend->ops;
    backend *b = e->backend;
    void *out = value(e, node->output), *in = value(e, node->inputs[0]);
    void *workspace = e->arena + e->program->plan.workspace_offsets[n];
    void *external = node->external == GRAPH_NONE ? NULL : e->outputs[node->external];
    switch (node->kind) {
        case OP_LOAD: return ops->load(b, out, e->input, workspace, &node->transfer);
        case OP_STORE: return ops->store(b, external, in, workspace, &node->transfer);
        case OP_HAAR: return ops->haar(b, out, in, &node->haar);
        case OP_UNHAAR: return ops->unhaar(b, out, in, &node->haar);
        case OP_CONV: return run_conv(e, node, workspace);
        case OP_POOL: return ops->pool(b, out, in, &node->pool);
        case OP_NORM: {
            const layer_weights *w = &e->model->layers[e->program->first_layer + node->layer];
            return ops->norm(b, out, in, w->scale, w->offset, &node->norm);
        }
        case OP_ATTENTION:
            if (node->attention.is_temporal) return run_temporal_attention(e, node, workspace);
            return ops->attention(b, out, in, value(e, node->inputs[1]), value(e, node->inputs[2]), workspace, &node->attention);
        case OP_QUANTIZE: return ops->quantize(b, external, out, in, NULL, workspace, &node->quantizer);
        case OP_DEQUANTIZE: return ops->dequantize(b, out, (const int32_t *)e->input, NULL, workspace, &node->quantizer);
    }
    return CTOK_E_INTERNAL;
}

// Indices come from the caller; out of range ones would read a wrong code.
static ctok_status check_indices(const program *p, const model *m, const uint8_t *input, ctok_error *error) {
    const ctok_request *r = &p->request;
    if (r->input != CTOK_INDICES) return CTOK_OK;
    const int32_t *indices = (const int32_t *)input;
    for (int64_t i = 0; i < r->batch * r->frames * r->height * r->width; i++) {
        if (indices[i] >= 0 && (uint32_t)indices[i] < m->variant.codebook_size) continue;
        int64_t x = i % r->width, y = i / r->width % r->height, t = i / r->width / r->height % r->frames, n = i / r->width / r->height / r->frames;
        char frame[24] = "";
        if (m->variant.is_video) snprintf(frame, sizeof frame, "%lld, ", (long long)t);
        return ctok_fail(error, CTOK_E_VALUE, i, "indices[%lld, %s%lld, %lld]: expected 0 to %u, found %d", (long long)n, frame, (long long)y,
                         (long long)x, m->variant.codebook_size - 1, indices[i]);
    }
    return CTOK_OK;
}

static ctok_status run_image(const execution *e, atomic_uint *steps_done, ctok_error *error) {
    int32_t num_nodes = e->program->graph.num_nodes;
    for (int32_t n = 0; n < num_nodes; n++) {
        ctok_status status = e->backend->cancel && atomic_load(e->backend->cancel) ? CTOK_E_CANCELLED : run_node(e, n);
        if (status == CTOK_E_CANCELLED) return ctok_fail(error, status, n, "cancelled at step %d of %d", n, num_nodes);
        if (status == CTOK_E_MEMORY) return ctok_fail(error, status, n, "no memory for the stream's state at step %d of %d", n, num_nodes);
        if (status != CTOK_OK) return ctok_fail(error, status, n, "step %d of %d failed", n, num_nodes);
        atomic_fetch_add(steps_done, 1);
    }
    return CTOK_OK;
}

ctok_status program_run(const program *p, const model *m, backend *b, stream_state *stream, uint8_t *arena, const uint8_t *input,
                        uint8_t *const outputs[4], atomic_uint *steps_done, ctok_error *error) {
    CTOK_TRY(check_indices(p, m, input, error));
    execution e = {.program = p, .model = m, .backend = b, .stream = stream, .arena = arena, .input = input};
    if (stream && !stream_prepare(stream, p->graph.num_slots)) return ctok_fail(error, CTOK_E_MEMORY, 0, "no memory for the stream's state");
    for (int i = 0; i < p->num_outputs; i++) e.outputs[i] = outputs[i];
    for (int64_t image = 0; image < p->request.batch; image++) {
        ctok_status status = run_image(&e, steps_done, error);
        CTOK_TRY(b->finish(b, error));  // whatever happened: arena, input and outputs are not to be touched any more
        if (status != CTOK_OK) return status;
        e.input += p->input_image_bytes;
        for (int i = 0; i < p->num_outputs; i++) e.outputs[i] += p->outputs[i].bytes / (uint64_t)p->request.batch;
    }
    return CTOK_OK;
}
