// A request made concrete: the graph and plan for one image or clip, the sizes of input and
// outputs, and the list of steps that a backend runs. Requests of the same shapes share one, with
// all that the backend has prepared for it: a model keeps those asked for last. Images of a batch
// run one after the other, so that memory does not grow with the batch.
// Who calls it: runtime/request makes it, runtime/execute runs it, runtime/model has the cache.
#ifndef CTOK_RUNTIME_PROGRAM_H
#define CTOK_RUNTIME_PROGRAM_H

#include <pthread.h>

#include "../network/family.h"
#include "plan.h"

enum { PROGRAMS_KEPT = 8 };  // a few tasks at a few sizes
enum { LISTS_KEPT = 4 };     // of streams whose chunks come in turn

// The steps, and what they point into.
typedef struct {
    step_list list;  // no steps: not bound yet
    const void *arena;
    const void **pasts;  // of a stream: what its slots keep for convolutions; otherwise NULL
} bound_list;

typedef struct {
    atomic_int references;
    ctok_request request;  // with defaults filled in; of limits and of what a caller or stream
                           // holds it knows nothing
    graph graph;
    plan plan;
    network_frame frame;
    int32_t first_layer;  // of the model's layers: 0, or the decoder's first
    int32_t num_steps;    // of the list, for one image or clip
    size_t input_image_bytes;
    int32_t num_outputs;
    ctok_output outputs[4];
    uint64_t past_bytes, past_bytes_per_frame;  // of a stream: of all convolutions; of all
                                                // attention, for each frame of tokens kept

    // What follows is used on the engine's thread alone.
    bound_list bound[LISTS_KEPT];  // by runtime/bind; the one bound last is first
    backend *backend;  // the engine's, which outlives the program: what lists have of it goes back
                       // there
} program;

// The programs of a model that were used last. It starts as zeros with an initialised lock.
typedef struct {
    pthread_mutex_t lock;
    program *kept[PROGRAMS_KEPT];  // the last one asked for is first
} program_cache;

// The program of a request with the same shapes, held for the caller (program_release), or NULL. On
// any thread, like the rest.
program *program_find(program_cache *cache, const ctok_request *request);
void program_keep(program_cache *cache, program *p);  // holds it too; the oldest goes
void program_release(program *p);                     // NULL is fine
void program_cache_free(program_cache *cache);

#endif
