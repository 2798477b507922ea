// Builds the graph of a Cosmos tokenizer, image or video. The only statement of its topology: which parameters a checkpoint must hold
// follows from the graph's layers. Other tokenizer families would be further builders beside this one.
// Ref: reference/cosmos_reference.py, Encoder, Decoder, Tokenizer. Who calls it: runtime/model.
#ifndef CTOK_NETWORK_NETWORK_H
#define CTOK_NETWORK_NETWORK_H

#include "graph.h"
#include "cosmos_variant.h"

// Pixels of the caller inside the network's padded ones. An image is one frame.
typedef struct {
    int64_t padded_frames, padded_height, padded_width;
    int64_t before, top, left, frames, height, width;
    bool is_first;  // a whole clip, or the first chunk of a stream: its first frame stands alone
} network_frame;

// Numbers of the external outputs, GRAPH_NONE where not asked for.
typedef struct {
    int32_t pixels, indices, codes, latent, pre_quant;
} network_outputs;

// Each appends to g, for one image or clip. `pixels` is the external format of the pixels read or written.
// encode: pixels -> tokens. Returns the latent's (or codes') value.
int32_t network_encode(graph *g, const variant *v, network_frame frame, external_format pixels, network_outputs outputs);
// decode from a value of the same graph, or from the external input: indices, or codes/latent [C, t, h, w].
void network_decode(graph *g, const variant *v, int32_t latent, network_frame frame, external_format pixels, network_outputs outputs);
int32_t network_load_latent(graph *g, const variant *v, int64_t frames, int64_t height, int64_t width);
int32_t network_load_indices(graph *g, const variant *v, int64_t frames, int64_t height, int64_t width);

#endif
