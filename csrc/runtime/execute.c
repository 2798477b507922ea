// Runs a program node by node.
#include "execute.h"

#include <stdio.h>

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
        case OP_QUANTIZE: return ops->quantize(b, external, out, in, e->model->codebook, workspace, &node->quantizer);
        case OP_DEQUANTIZE: return ops->dequantize(b, out, (const int32_t *)e->input, e->model->codebook, workspace, &node->quantizer);
    }
    return CTOK_E_INTERNAL;
}

// Indices come from the caller; out of range ones would read a wrong code.
static ctok_status check_indices(const program *p, const model *m, const uint8_t *input, ctok_error *error) {
    const ctok_request *r = &p->request;
    if (r->input != CTOK_INDICES) return CTOK_OK;
    const int32_t *indices = (const int32_t *)input;
    for (int64_t i = 0; i < r->batch * r->frames * r->height * r->width; i++) {
        if (indices[i] >= 0 && (uint32_t)indices[i] < m->description.quantizer.size) continue;
        int64_t x = i % r->width, y = i / r->width % r->height, t = i / r->width / r->height % r->frames, n = i / r->width / r->height / r->frames;
        char frame[24] = "";
        if (m->description.is_video) snprintf(frame, sizeof frame, "%lld, ", (long long)t);
        return ctok_fail(error, CTOK_E_VALUE, i, "indices[%lld, %s%lld, %lld]: expected 0 to %u, found %d", (long long)n, frame, (long long)y,
                         (long long)x, m->description.quantizer.size - 1, indices[i]);
    }
    return CTOK_OK;
}

// An op gives a status without words: the layer tells which it was.
static ctok_status fail_step(const program *p, int32_t n, ctok_status status, ctok_error *error) {
    const graph_node *node = &p->graph.nodes[n];
    const char *layer = node->layer == GRAPH_NONE ? "" : p->graph.layers[node->layer].name;
    return ctok_fail(error, status, n, "step %d of %d%s%s failed", n, p->graph.num_nodes, *layer ? ", " : "", layer);
}

static ctok_status run_image(const execution *e, atomic_uint *steps_done, ctok_error *error) {
    int32_t num_nodes = e->program->graph.num_nodes;
    for (int32_t n = 0; n < num_nodes; n++) {
        ctok_status status = e->backend->cancel && atomic_load(e->backend->cancel) ? CTOK_E_CANCELLED : run_node(e, n);
        if (status == CTOK_E_CANCELLED) return ctok_fail(error, status, n, "cancelled at step %d of %d", n, num_nodes);
        if (status == CTOK_E_MEMORY) return ctok_fail(error, status, n, "no memory for the stream's state at step %d of %d", n, num_nodes);
        if (status != CTOK_OK) return fail_step(e->program, n, status, error);
        atomic_fetch_add(steps_done, 1);
    }
    return CTOK_OK;
}

ctok_status execute_program(const program *p, const model *m, backend *b, stream_state *stream, uint8_t *arena, const uint8_t *input,
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
