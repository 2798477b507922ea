// A fixed set of threads that share out the tasks of one loop at a time. The caller works too, as
// thread 0, so a pool of one has no thread of its own. No globals; pool_close joins every thread.
// Used by every CPU op; one caller at a time.
#ifndef CTOK_CPU_POOL_H
#define CTOK_CPU_POOL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "../../base/status.h"

typedef struct pool pool;

// One task. thread: 0 .. num_threads - 1, the index of this thread's part of a workspace.
typedef void (*pool_task)(void *context, int64_t task, int32_t thread);

// Errors: CTOK_E_THREAD (detail: errno), CTOK_E_MEMORY. The caller owns *out: pool_close.
ctok_status pool_open(pool **out, int32_t num_threads, ctok_error *error);
void pool_close(pool *p);

// A part of `whole`: its loops wake and use num_threads (1 to the pool's own number) of the
// threads. It never runs at the same time as the pool or another part, and is closed, by
// pool_close, before the pool. NULL when there is no memory.
pool *pool_part(pool *whole, int32_t num_threads);

// Runs task 0 .. num_tasks - 1, each once, on any thread and in any order; returns when all have
// ended. CTOK_E_CANCELLED when *cancel (may be NULL) turned true: tasks not begun by then are
// dropped.
ctok_status pool_run(pool *p, int64_t num_tasks, pool_task task, void *context,
                     const atomic_bool *cancel);

#endif
