// Growing arrays of nodes, values and layers. Running out of memory is remembered and reported
// once, by the graph's reader.
#include "graph.h"

#include <stdio.h>
#include <stdlib.h>

// Room for one more in an array; false, and the graph marked, when there is none.
static bool reserve(graph *g, void *array, int32_t count, int32_t *capacity, size_t element_bytes) {
    if (count < *capacity) return true;
    int32_t wanted = *capacity ? *capacity * 2 : 64;
    void *grown = realloc(*(void **)array, (size_t)wanted * element_bytes);
    if (!grown) {
        g->is_out_of_memory = true;
        return false;
    }
    *(void **)array = grown;
    *capacity = wanted;
    return true;
}

int32_t graph_add_value(graph *g, ctok_shape shape, ctok_dtype dtype) {
    if (!reserve(g, &g->values, g->num_values, &g->value_capacity, sizeof *g->values)) return 0;
    g->values[g->num_values] = (graph_value){shape, dtype};
    return g->num_values++;
}

graph_node *graph_add_node(graph *g, op_kind kind, int32_t input, int32_t output) {
    graph_node *node = &g->spare;
    if (reserve(g, &g->nodes, g->num_nodes, &g->node_capacity, sizeof *g->nodes))
        node = &g->nodes[g->num_nodes++];
    *node = (graph_node){.kind = kind,
                         .inputs = {input, GRAPH_NONE, GRAPH_NONE},
                         .output = output,
                         .external = GRAPH_NONE,
                         .layer = GRAPH_NONE,
                         .slot = GRAPH_NONE};
    return node;
}

int32_t graph_add_layer(graph *g, graph_layer layer, const char *name) {
    if (!reserve(g, &g->layers, g->num_layers, &g->layer_capacity, sizeof *g->layers)) return 0;
    snprintf(layer.name, sizeof layer.name, "%s", name);
    g->layers[g->num_layers] = layer;
    return g->num_layers++;
}

void graph_free(graph *g) {
    free(g->nodes);
    free(g->values);
    free(g->layers);
    *g = (graph){0};
}
