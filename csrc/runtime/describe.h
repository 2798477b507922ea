// A step in words: for errors and traces. Who calls it: runtime/execute, runtime/trace.
#ifndef CTOK_RUNTIME_DESCRIBE_H
#define CTOK_RUNTIME_DESCRIBE_H

#include "../backends/backend.h"

const char *describe_kind(op_kind kind);  // "conv"; static storage

// Of what the step makes, or reads where it makes nothing in the backend's memory. Of a copy: its
// bytes as c.
ctok_shape describe_shape(const step *s);

// "conv encoder.down.1.block.0.conv1, [1, 1, 128, 128, 256]"
void describe_step(char *out, size_t out_bytes, const step *s);

#endif
