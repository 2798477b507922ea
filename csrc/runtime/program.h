// A request made concrete: the graph and plan for the images or clips of one pass, the sizes of
// input and outputs, and the list of steps that a backend runs. A batch is one pass, or several
// about equal ones where its activations would be too many (runtime/request chooses). Requests of
// the same shapes share a program, with all that the backend has prepared for it: a model keeps
// those asked for last.
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

typedef struct program {
    atomic_int references;
    ctok_request request;  // with defaults filled in; of limits and of what a caller or stream
                           // holds it knows nothing, unless it is a batch, whose passes they decide
    graph graph;
    plan plan;
    network_frame frame;   // frame.images: of a pass, at most the batch
    struct program *rest;  // of the last pass, where it has fewer images; held. Or NULL
    int32_t first_layer;   // of the model's layers: 0, or the decoder's first
    int32_t num_steps;     // of the list, which is as long for any number of images
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
int64_t program_num_passes(const program *p);
size_t program_arena_bytes(const program *p);         // of the largest pass
void program_keep(program_cache *cache, program *p);  // holds it too; the oldest goes
void program_release(program *p);                     // NULL is fine
void program_cache_free(program_cache *cache);

#endif
