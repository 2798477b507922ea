// A step in words: for errors and traces. Who calls it: runtime/execute, runtime/trace.
#ifndef CTOK_RUNTIME_DESCRIBE_H
#define CTOK_RUNTIME_DESCRIBE_H

#include "../backends/backend.h"

const char *describe_kind(op_kind kind);  // "conv"; static storage

// Shape of the step's output, or of its input where the output is not in the backend's memory. A
// copy's number of bytes is given as c.
ctok_shape describe_shape(const step *s);

// Describes a step for messages: "conv encoder.down.1.block.0.conv1, [1, 1, 128, 128, 256]".
void describe_step(char *out, size_t out_bytes, const step *s);

#endif
