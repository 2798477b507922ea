// Checks a request against a model and makes its program, or finds the one that the model has kept.
// ctok_plan_query reports it, a job runs it. Who calls it: runtime/job, abi.c. Errors are those of
// ctok_plan_query in ctok.h.
#ifndef CTOK_RUNTIME_REQUEST_H
#define CTOK_RUNTIME_REQUEST_H

#include "model.h"
#include "stream_state.h"

// Memory that a request takes besides its arena, in bytes.
typedef struct {
    uint64_t state_bytes;     // of the stream, with room for request.state_frames
    uint64_t external_bytes;  // input and results, request.num_held times
    uint64_t total_bytes;     // with the arena and the model's weights
} request_memory;

// Makes the program of a request, which the caller must give up by program_release.
// `held_arena_bytes`: the arena that earlier chunks of its stream needed and the engine still
// holds; memory limits count it where it is larger than this request's.
ctok_status request_make(program **out, request_memory *memory, model *m,
                         const ctok_request *request, size_t held_arena_bytes, ctok_error *error);

// The same batch with one image a pass, for which no memory is asked again.
ctok_status request_make_one_by_one(program **out, const program *batch, const model *m,
                                    ctok_error *error);

#endif
