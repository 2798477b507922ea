// A stream as an object with an id: its model, its state, and what its first chunk fixed. Chunks
// are jobs; the engine runs them in order, one at a time, so the state needs no lock. Who calls it:
// runtime/job, abi.c.
#ifndef CTOK_RUNTIME_STREAM_H
#define CTOK_RUNTIME_STREAM_H

#include <pthread.h>

#include "model.h"
#include "stream_state.h"

typedef struct stream {
    object base;  // the owner is the model
    model *model;
    uint32_t task;       // CTOK_TASK_ENCODE or CTOK_TASK_DECODE
    stream_state state;  // the engine's thread alone, like the next
    int64_t num_run;  // chunks that ran well; a later one with another number follows a failed or
                      // cancelled one
    pthread_mutex_t lock;  // held while a chunk is submitted; guards the rest
    int64_t num_submitted, height, width;
    int64_t num_kept, most_kept;  // frames of tokens in the attention's past once all submitted
                                  // chunks have run; the most ever
    size_t most_arena_bytes;      // of its chunks
} stream;

ctok_status stream_open(uint32_t *id, model *m, const ctok_stream_options *options,
                        ctok_error *error);

// Fills in what the stream knows of the next chunk (task, chunk, state_frames) and refuses sizes
// other than the first chunk's. Lock held.
ctok_status stream_describe(stream *s, ctok_request *request, ctok_error *error);

// Records that the chunk last described was submitted. The caller holds the lock.
void stream_advance(stream *s, const ctok_request *request);

#endif
