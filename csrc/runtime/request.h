// A request made concrete: the graph and plan for one image or clip, and the sizes of input and outputs. ctok_plan_query reports it,
// a job runs it. Images of a batch run one after the other, so that memory does not grow with the batch.
// Who calls it: runtime/job, abi.c. Errors are those of ctok_plan_query in ctok.h.
#ifndef CTOK_RUNTIME_REQUEST_H
#define CTOK_RUNTIME_REQUEST_H

#include "model.h"
#include "plan.h"
#include "stream_state.h"

typedef struct {
    graph graph;
    plan plan;
    ctok_request request;  // with defaults filled in
    network_frame frame;
    int32_t first_layer;   // of the model's layers: 0, or the decoder's first
    size_t input_image_bytes;
    int32_t num_outputs;
    ctok_output outputs[4];
    uint64_t state_bytes, state_bytes_per_frame;  // of the stream, with room for request.state_frames; for each of those
    uint64_t external_bytes;                      // input and results, request.num_held times
    uint64_t total_bytes;                         // with the arena and the model's weights
} program;

// The caller owns the program: request_free. `held_arena_bytes`: what earlier chunks of its stream have needed and the engine
// still holds; limits look at that where it is more than this one's.
ctok_status request_make(program *out, const model *m, const ctok_request *request, size_t held_arena_bytes, ctok_error *error);
void request_free(program *p);

#endif
