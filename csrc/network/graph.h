// A network as a list of nodes in running order over numbered values. A value is one activation
// (NTHWC), written by one node. Parametrised nodes name their layer; layers are numbered in order
// of appearance, whatever the image's size, so that weights found once serve every graph of the
// same half. Who calls it: network/cosmos builds; runtime/plan, runtime/bind read.
#ifndef CTOK_NETWORK_GRAPH_H
#define CTOK_NETWORK_GRAPH_H

#include "../backends/backend.h"

enum { GRAPH_NONE = -1, GRAPH_NAME_BYTES = 96 };

typedef struct {
    op_kind kind;
    int32_t inputs[3];  // values; GRAPH_NONE where unused. conv: input, residual. attention: q, k,
                        // v
    int32_t output;     // value, or GRAPH_NONE (store)
    int32_t external;  // number of the external output that store or quantize writes, or GRAPH_NONE
    int32_t layer;     // of conv and norm, or GRAPH_NONE
    int32_t slot;      // of the stream's state, where the node looks back in time, or GRAPH_NONE
    char name[GRAPH_NAME_BYTES];  // of attention, which has no layer: its block's; else ""
    op_params params;
} graph_node;

typedef struct {
    op_kind kind;  // OP_CONV: weight [c_out, c_in, (k_t,) k, k]; OP_NORM: weight [c_out]; both with
                   // bias [c_out]; OP_QUANTIZE: a codebook, weight [c_out codes, c_in channels]
    char name[GRAPH_NAME_BYTES];  // "encoder.down.0.block.1.conv2"
    int64_t c_out, c_in;
    conv_params conv;  // of OP_CONV: as in its nodes, but of the shapes the channels alone
    int32_t groups;    // of OP_NORM
    bool has_bias;
    bool is_video;   // the weight has a time dimension
    bool is_unused;  // the checkpoint carries it and the network does nothing with it
} graph_layer;

typedef struct {
    ctok_shape shape;
    ctok_dtype dtype;  // CTOK_F32 or CTOK_BF16
} graph_value;

typedef struct {
    graph_node *nodes;
    graph_value *values;
    graph_layer *layers;
    int32_t num_nodes, num_values, num_layers, num_slots;
    int32_t node_capacity, value_capacity, layer_capacity;
    ctok_dtype dtype;       // of activations between the ends, set before building: CTOK_BF16; else
                            // float32
    bool is_out_of_memory;  // sticky: checked once, when the graph is complete
    graph_node spare;       // what graph_add_node gives when there is no memory for another
} graph;

static inline size_t graph_value_bytes(graph_value v) {
    return (size_t)shape_elements(v.shape) * dtype_bytes(v.dtype);
}

int32_t graph_add_value(graph *g, ctok_shape shape, ctok_dtype dtype);
graph_node *graph_add_node(graph *g, op_kind kind, int32_t input,
                           int32_t output);  // never NULL; a spare one without memory
int32_t graph_add_layer(graph *g, graph_layer layer, const char *name);
void graph_free(graph *g);

#endif
