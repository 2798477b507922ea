// See bind.h. A node is a step; in a stream, copies follow it that keep what later chunks need:
//     convolution in time    the last two frames of `past` and `in`; after a first chunk of one
//                            frame, that frame twice
//     attention over time    before it runs, k and v behind those of the past; after it, what no
//                            later frame will see is moved over
#include "bind.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    program *program;
    const binding *to;
    int32_t num_steps;
} writer;

static void *value(const writer *w, int32_t id) {
    return id == GRAPH_NONE ? NULL : w->to->arena + w->program->plan.value_offsets[id];
}

static step *add(writer *w, op_kind kind, const char *layer) {
    step *s = &w->program->bound->list.steps[w->num_steps++];
    *s = (step){.kind = kind, .layer = layer};
    return s;
}

static step *add_copy(writer *w, const char *layer, void *out, const void *in, size_t num_bytes) {
    step *s = add(w, OP_COPY, layer);
    s->out = out, s->in = in, s->params.copy_bytes = num_bytes;
    return s;
}

// Of keys or values, whose place and number are others in each chunk.
static void add_moving(writer *w, const char *layer, void *out, const void *in, size_t num_bytes) {
    add_copy(w, layer, out, in, num_bytes)->is_changing = true;
}

static bool is_first_chunk(const writer *w) {
    return w->program->request.chunk == CTOK_CHUNK_FIRST;
}

// Copies the last two frames that a convolution has read, for the next chunk. Where fewer frames
// were read, the very first one stands for those before it.
static void add_past(writer *w, const graph_node *node, const char *layer) {
    const stream_slot *slot = &w->to->stream->slots[node->slot];
    const uint8_t *in = value(w, node->inputs[0]);
    size_t frame = slot->frame_bytes;
    int64_t num_frames = node->params.conv.in.t;
    if (num_frames >= 2) {
        add_copy(w, layer, slot->past, in + (size_t)(num_frames - 2) * frame, 2 * frame);
    } else {
        add_copy(w, layer, slot->past, is_first_chunk(w) ? in : slot->past + frame, frame);
        add_copy(w, layer, slot->past + frame, in, frame);
    }
}

static void add_conv(writer *w, const graph_node *node, void *workspace) {
    int32_t n = node->layer;
    const char *layer = w->program->graph.layers[n].name;
    bool looks_back = w->to->stream && node->slot != GRAPH_NONE;
    step *s = add(w, OP_CONV, layer);
    s->params = node->params, s->workspace = workspace, s->weights = w->to->layers[n].conv;
    s->out = value(w, node->output), s->in = value(w, node->inputs[0]),
    s->residual = value(w, node->inputs[1]);
    s->past = looks_back && !is_first_chunk(w) ? w->to->stream->slots[node->slot].past : NULL;
    if (looks_back) add_past(w, node, layer);
}

static void add_attention(writer *w, const graph_node *node, void *workspace) {
    stream_state *stream = node->slot == GRAPH_NONE ? NULL : w->to->stream;
    const stream_slot *slot = stream ? &stream->slots[node->slot] : NULL;
    const void *k = value(w, node->inputs[1]), *v = value(w, node->inputs[2]);
    int64_t num_frames = node->params.attention.shape.t;
    if (slot) {
        size_t at = (size_t)slot->num_frames * slot->frame_bytes,
               num_bytes = (size_t)num_frames * slot->frame_bytes;
        add_moving(w, node->name, slot->keys + at, k, num_bytes);
        add_moving(w, node->name, slot->values + at, v, num_bytes);
        k = slot->keys, v = slot->values;
    }
    step *s = add(w, OP_ATTENTION, node->name);
    s->params = node->params, s->workspace = workspace;
    s->out = value(w, node->output), s->in = value(w, node->inputs[0]), s->k = k, s->v = v;
    if (!slot) return;
    s->is_changing = true;
    s->params.attention.num_past = slot->num_frames,
    s->params.attention.window = stream->attention_frames;
    int64_t held = slot->num_frames + num_frames, kept = stream_kept(stream, held);
    size_t from = (size_t)(held - kept) * slot->frame_bytes,
           num_bytes = held > kept ? (size_t)kept * slot->frame_bytes : 0;
    add_moving(w, node->name, slot->keys, slot->keys + from, num_bytes);
    add_moving(w, node->name, slot->values, slot->values + from, num_bytes);
}

static void add_node(writer *w, const graph_node *node, void *workspace) {
    if (node->kind == OP_CONV) {
        add_conv(w, node, workspace);
        return;
    }
    if (node->kind == OP_ATTENTION) {
        add_attention(w, node, workspace);
        return;
    }
    step *s = add(w, node->kind,
                  node->layer == GRAPH_NONE ? "" : w->program->graph.layers[node->layer].name);
    s->params = node->params, s->workspace = workspace;
    s->out = value(w, node->output), s->in = value(w, node->inputs[0]);
    if (node->kind == OP_NORM)
        s->scale = w->to->layers[node->layer].scale, s->offset = w->to->layers[node->layer].offset;
    if (node->kind == OP_QUANTIZE || node->kind == OP_DEQUANTIZE) s->codebook = w->to->codebook;
}

// How many steps a graph is bound to: its nodes, and in a stream the copies of past frames, keys
// and values.
int32_t bind_count(const graph *g, bool is_chunk) {
    int32_t count = g->num_nodes;
    for (int32_t n = 0; n < g->num_nodes && is_chunk; n++) {
        const graph_node *node = &g->nodes[n];
        if (node->slot != GRAPH_NONE)
            count += node->kind == OP_ATTENTION ? 4 : node->params.conv.in.t >= 2 ? 1 : 2;
    }
    return count;
}

// ---------------------------------------------------------------- lists
static bool is_bound_to(const bound_list *l, const binding *to) {
    if (!l->list.steps || l->arena != to->arena || !l->pasts != !to->stream) return false;
    for (int32_t i = 0; l->pasts && i < to->stream->num_slots; i++)
        if (l->pasts[i] != to->stream->slots[i].past) return false;
    return true;
}

// Puts the list of this arena and stream first and returns true; or false with one to be written:
// one that is of an arena that is gone, or of none, or else the one that was bound longest ago.
static bool find_list(program *p, const binding *to) {
    int found = 0;
    while (found < LISTS_KEPT - 1 && !is_bound_to(&p->bound[found], to)) found++;
    bool is_bound = is_bound_to(&p->bound[found], to);
    for (int i = 0; i < LISTS_KEPT && !is_bound; i++) {
        bound_list *l = &p->bound[i];
        if (l->arena == to->arena && l->list.steps) continue;
        if (l->list.prepared) p->backend->forget(p->backend, &l->list);
        found = i;
    }
    bound_list first = p->bound[found];
    memmove(&p->bound[1], &p->bound[0], (size_t)found * sizeof first);
    p->bound[0] = first;
    return is_bound;
}

static bool note_pasts(bound_list *l, const stream_state *stream) {
    if (!stream) return true;
    if (!l->pasts) l->pasts = calloc((size_t)stream->num_slots + 1, sizeof *l->pasts);
    for (int32_t i = 0; l->pasts && i < stream->num_slots; i++) l->pasts[i] = stream->slots[i].past;
    return l->pasts != NULL;
}

bool bind_steps(program *p, const binding *to) {
    bool is_bound = find_list(p, to);
    bound_list *l = p->bound;
    if (is_bound && !to->stream) return true;
    if (!l->list.steps) l->list.steps = calloc((size_t)p->num_steps + 1, sizeof *l->list.steps);
    if (!l->list.steps || !note_pasts(l, to->stream)) return false;
    writer w = {.program = p, .to = to};
    for (int32_t n = 0; n < p->graph.num_nodes; n++)
        add_node(&w, &p->graph.nodes[n], to->arena + p->plan.workspace_offsets[n]);
    l->list.num_steps = w.num_steps, l->arena = to->arena;
    l->list.version += !is_bound;
    return true;
}

void bind_external(program *p, const uint8_t *input, uint8_t *const outputs[4]) {
    step *s = p->bound->list.steps;
    for (int32_t n = 0; n < p->graph.num_nodes; n++) {
        const graph_node *node = &p->graph.nodes[n];
        while (s->kind != node->kind) s++;  // copies
        bool reads = node->kind == OP_LOAD || node->kind == OP_DEQUANTIZE;
        s->external = reads                          ? (void *)input
                      : node->external == GRAPH_NONE ? NULL
                                                     : outputs[node->external];
        s++;
    }
}

// ---------------------------------------------------------------- streams
bool bind_stream(stream_state *stream, const graph *g) {
    if (!stream_prepare(stream, g->num_slots)) return false;
    for (int32_t n = 0; n < g->num_nodes; n++) {
        const graph_node *node = &g->nodes[n];
        const op_params *p = &node->params;
        if (node->slot == GRAPH_NONE) continue;
        stream_slot *slot = &stream->slots[node->slot];
        bool has_room = node->kind == OP_ATTENTION
                            ? stream_reserve(stream, slot, p->attention.shape, p->attention.dtype)
                            : stream_reserve_past(stream, slot, p->conv.in, p->conv.in_dtype);
        if (!has_room) return false;
    }
    return true;
}

void bind_advance(stream_state *stream, const graph *g) {
    for (int32_t n = 0; n < g->num_nodes; n++) {
        const graph_node *node = &g->nodes[n];
        if (node->slot == GRAPH_NONE || node->kind != OP_ATTENTION) continue;
        stream_slot *slot = &stream->slots[node->slot];
        slot->num_frames = stream_kept(stream, slot->num_frames + node->params.attention.shape.t);
    }
}
