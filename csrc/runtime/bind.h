// Writes a program's list of steps for the memory in which it runs: each node with its layer's
// weights and the addresses of its values in the arena. In a stream it adds the copies that keep,
// between chunks, the last two frames that a convolution in time has read, and the keys and values
// of the attention over time. Who calls it: runtime/execute; runtime/request counts.
#ifndef CTOK_RUNTIME_BIND_H
#define CTOK_RUNTIME_BIND_H

#include "program.h"
#include "stream_state.h"
#include "weights.h"

typedef struct {
    const layer_weights *layers;  // of the model, from the program's first on
    const float *codebook;        // or NULL
    uint8_t *arena;
    stream_state *stream;  // with room for this chunk (bind_stream), or NULL
} binding;

int32_t bind_count(const graph *g, bool is_chunk);

// Makes program.bound[0] the list of steps for this arena and stream. One that was bound to them
// before is the same list; but each chunk of a stream has its own keys and values in it. False when
// there is no memory for a list.
bool bind_steps(program *p, const binding *to);

// Points the steps at the caller's memory of the images of one pass.
void bind_external(program *p, const uint8_t *input, uint8_t *const outputs[4]);

// Takes what the stream needs for a chunk of this program; false when there is no memory. And once
// it has run: counts what is kept.
bool bind_stream(stream_state *stream, const graph *g);
void bind_advance(stream_state *stream, const graph *g);

#endif
