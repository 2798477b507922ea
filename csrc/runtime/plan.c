// See plan.h. It finds when each buffer is live, then its offset: the largest buffers are placed
// first, each at the lowest offset that is free for its whole life.
#include "plan.h"

#include <stdlib.h>

typedef struct {
    size_t bytes, offset;
    int32_t first, last;  // nodes
    bool is_placed;
} buffer;

// Bytes of the caller's buffer that a node reads or writes, for the images of one pass.
static size_t external_bytes(const graph_node *node) {
    const transfer_params *t = &node->params.transfer;
    switch (node->kind) {
        case OP_LOAD:
        case OP_STORE:
            return (size_t)(t->shape.n * t->frames * t->height * t->width * t->shape.c) *
                   (t->format == EXTERNAL_PIXELS_U8 ? 1 : sizeof(float));
        case OP_QUANTIZE:
            return node->external == GRAPH_NONE
                       ? 0
                       : (size_t)shape_positions(node->params.quantizer.shape) * sizeof(int32_t);
        case OP_DEQUANTIZE:
            return (size_t)shape_positions(node->params.quantizer.shape) * sizeof(int32_t);
        default: return 0;
    }
}

static size_t workspace_bytes(const graph_node *node, const backend *b) {
    if (node->kind == OP_CONV) return b->kernels->conv_workspace_bytes(b, &node->params.conv);
    if (node->kind == OP_ATTENTION)
        return b->kernels->attention_workspace_bytes(b, &node->params.attention);
    size_t external = external_bytes(node);
    return external ? b->kernels->external_workspace_bytes(b, external) : 0;
}

// The input whose memory the node's output may reuse, or GRAPH_NONE.
static int32_t in_place_input(const graph_node *node) {
    if (node->kind == OP_NORM) return node->inputs[0];
    if (node->kind == OP_CONV && !node->params.conv.has_upsampled_residual &&
        node->inputs[1] != node->inputs[0])
        return node->inputs[1];
    return GRAPH_NONE;
}

// Lowest offset where `wanted` overlaps no placed buffer that lives at the same time.
static size_t lowest_offset(const buffer *buffers, int32_t count, const buffer *wanted) {
    size_t offset = 0;
    for (bool is_moved = true; is_moved;) {
        is_moved = false;
        for (int32_t i = 0; i < count; i++) {
            const buffer *other = &buffers[i];
            bool is_same_time = other->first <= wanted->last && wanted->first <= other->last;
            bool is_same_place =
                other->offset < offset + wanted->bytes && offset < other->offset + other->bytes;
            if (other->is_placed && is_same_time && is_same_place)
                offset = other->offset + other->bytes, is_moved = true;
        }
    }
    return offset;
}

static void place(buffer *buffers, int32_t count, size_t *arena_bytes) {
    for (int32_t n = 0; n < count; n++) {
        buffer *largest = NULL;
        for (int32_t i = 0; i < count; i++) {
            buffer *candidate = &buffers[i];
            if (!candidate->is_placed && (!largest || candidate->bytes > largest->bytes))
                largest = candidate;
        }
        if (largest->bytes) largest->offset = lowest_offset(buffers, count, largest);
        largest->is_placed = true;
        if (largest->offset + largest->bytes > *arena_bytes)
            *arena_bytes = largest->offset + largest->bytes;
    }
}

ctok_status plan_make(plan *out, const graph *g, const backend *b, ctok_error *error) {
    // Buffers to place: one for each node's workspace, then one for each value that does not reuse
    // another's memory.
    int32_t count = g->num_nodes;
    plan p = {0};
    p.value_offsets = calloc((size_t)g->num_values + 1, sizeof *p.value_offsets);
    p.workspace_offsets = calloc((size_t)g->num_nodes + 1, sizeof *p.workspace_offsets);
    buffer *buffers = calloc((size_t)g->num_nodes + (size_t)g->num_values + 1, sizeof *buffers);
    int32_t *buffer_of = calloc((size_t)g->num_values + 1, sizeof *buffer_of);
    int32_t *last_use = calloc((size_t)g->num_values + 1, sizeof *last_use);
    if (g->is_out_of_memory || !p.value_offsets || !p.workspace_offsets || !buffers || !buffer_of ||
        !last_use) {
        plan_free(&p);
        free(buffers), free(buffer_of), free(last_use);
        return ctok_fail(error, CTOK_E_MEMORY, g->num_nodes, "no memory to plan %d steps",
                         g->num_nodes);
    }

    for (int32_t n = 0; n < g->num_nodes; n++) {
        const graph_node *node = &g->nodes[n];
        if (node->output != GRAPH_NONE) last_use[node->output] = n;
        for (int i = 0; i < 3; i++) {
            if (node->inputs[i] != GRAPH_NONE) last_use[node->inputs[i]] = n;
        }
    }
    for (int32_t n = 0; n < g->num_nodes; n++) {
        const graph_node *node = &g->nodes[n];
        buffers[n] =
            (buffer){.bytes = backend_align(workspace_bytes(node, b)), .first = n, .last = n};
        if (node->output == GRAPH_NONE) continue;
        int32_t source = in_place_input(node), last = last_use[node->output];
        if (source != GRAPH_NONE && last_use[source] == n) {
            buffer_of[node->output] = buffer_of[source];
            buffers[buffer_of[source]].last = last;
        } else {
            buffer_of[node->output] = count;
            buffers[count++] =
                (buffer){.bytes = backend_align(graph_value_bytes(g->values[node->output])),
                         .first = n,
                         .last = last};
        }
    }
    place(buffers, count, &p.arena_bytes);
    for (int32_t i = 0; i < g->num_values; i++) p.value_offsets[i] = buffers[buffer_of[i]].offset;
    for (int32_t n = 0; n < g->num_nodes; n++) p.workspace_offsets[n] = buffers[n].offset;
    free(buffers), free(buffer_of), free(last_use);
    *out = p;
    return CTOK_OK;
}

void plan_free(plan *p) {
    free(p->value_offsets);
    free(p->workspace_offsets);
    *p = (plan){0};
}
