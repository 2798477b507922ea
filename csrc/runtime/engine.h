// One native thread that opens the device and runs jobs in the order submitted, so jobs of a model
// stay in order and one job at a time uses the whole pool. It owns the backend, the arena and the
// list of packed weights. Ended jobs wait in a list until somebody asks for their ids.
//     queued --thread--> running --> ended (listed until reported) --release--> freed
// `wake` is called on the thread alone. Who calls it: abi.c and runtime/lifetime (engine
// functions), runtime/job (submit and the life of a job).
#ifndef CTOK_RUNTIME_ENGINE_H
#define CTOK_RUNTIME_ENGINE_H

#include <pthread.h>

#include "../backends/backend.h"
#include "ids.h"
#include "weights.h"

typedef struct engine engine;
typedef struct engine_job engine_job;

// The part that every job has in common; runtime/job adds its own fields behind it.
struct engine_job {
    object base;
    object *subject;  // the model it works on (retained) or NULL
    ctok_status (*run)(engine_job *job, ctok_error *error);  // on the engine's thread
    engine_job *next, *previous;  // in the queue, which holds a reference
    engine_job *next_ended;       // in the list of ended jobs, which holds none
    bool is_forgotten;            // its id was released: it is not put in the list of ended jobs
    bool is_unseen;  // released before it ended: a model that it opened has no owner and is closed
    uint32_t state;  // CTOK_JOB_*; under the engine's lock, like the next two
    ctok_status status;
    ctok_error error;
    uint64_t run_us;
    atomic_bool is_cancelled;
    atomic_uint steps_done, num_steps;
};

struct engine {
    object base;
    ctok_engine_options options;
    backend *backend;      // opened by the thread; NULL until then, or where it cannot be
    weights_list weights;  // of all models
    ctok_wake wake;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t has_work, has_ended;  // both on CLOCK_MONOTONIC
    engine_job *queue_head, *queue_tail, *ended_head, *ended_tail, *running;
    bool is_stopping;
    bool has_opened;          // the device, or failed to
    ctok_status open_status;  // of that
    ctok_error open_error;
    char why_cpu[256];             // device auto took it: why not a GPU
    uint64_t opened_ns;            // step_now() then
    uint32_t num_jobs;             // created and not released
    _Atomic uint64_t state_bytes;  // that all streams hold
    uint8_t *arena;                // the thread's alone, but for its size
    bool is_arena_used;            // by the job that runs
    _Atomic size_t arena_bytes;
};

// Starts the thread, which opens the device; waits for that unless options say not to.
// owner: the thread with which it ends (runtime/lifetime), or NULL.
ctok_status engine_open(uint32_t *id, const ctok_engine_options *options, object *owner,
                        ctok_wake wake, ctok_error *error);
void engine_close(engine *e);
// Whether this is the thread of any engine, which would wait for itself, or for another's that
// waits for it.
bool engine_is_this_thread(void);
// How opening the device ended; CTOK_E_NOT_READY when it has not within timeout_us.
ctok_status engine_ready(engine *e, uint32_t timeout_us, ctok_error *error);
// As engine_ready where the device is not open.
ctok_status engine_query(engine *e, ctok_engine_info *info, ctok_error *error);
uint32_t engine_wait(engine *e, uint32_t *jobs, uint32_t capacity, uint32_t timeout_us);

// Queues a job (keeping a reference). CTOK_E_CLOSED when the engine is closing.
ctok_status engine_submit(engine *e, engine_job *job, ctok_error *error);
void engine_cancel(engine *e, engine_job *job);
// Ends every queued job of `subject` with CTOK_E_CLOSED and cancels the one that runs.
void engine_close_subject(engine *e, const object *subject);
// Waits until the job has ended; false when it has not within timeout_us.
bool engine_wait_for(engine *e, engine_job *job, uint32_t timeout_us);
// Takes a job whose id was released out of the list of ended jobs, or keeps it from getting there.
void engine_forget(engine *e, engine_job *job);

// On the engine's thread: memory of at least so many bytes, contents undefined, kept between jobs.
// Given back after a second without work; or where the backend keeps it, as a GPU does for its
// graphs, when no model is open, or something else needs the memory. NULL when there is none.
uint8_t *engine_arena(engine *e, size_t num_bytes);

#endif
