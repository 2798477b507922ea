// The thread that opened engines is an object which owns them, found by a key of the thread whose
// destructor runs when it ends. The main thread's runs only if it ends before the process does:
// exit() leaves all to the system.
#include "lifetime.h"

#include <stdlib.h>
#include <string.h>

#include "job.h"

// ---------------------------------------------------------------- closing
static void release_model(object *m) {
    for (object *s; (s = ids_remove_first(OBJECT_STREAM, m));) object_release(s);
    object_release(m);
}

void lifetime_close_model(model *m) {
    if (!ids_remove(&m->base)) return;
    atomic_store(&m->is_closed, true);
    engine_close_subject((engine *)m->base.owner, &m->base);
    release_model(&m->base);
}

// Closes an engine and its models, and gives up the reference that the table of ids held.
static void end(engine *e) {
    engine_close(e);
    for (object *m; (m = ids_remove_first(OBJECT_MODEL, &e->base));) release_model(m);
    object_release(&e->base);
}

void lifetime_close(engine *e) {
    if (ids_remove(&e->base)) end(e);
}

// ---------------------------------------------------------------- threads
static pthread_key_t key;
static int key_failure;

// Nobody is left to release the jobs, also those of engines that were closed before.
static void thread_ended(void *thread) {
    for (object *e; (e = ids_remove_first(OBJECT_ENGINE, thread));) end((engine *)e);
    job_release_all(thread);
    object_release(thread);
}

static void make_key(void) { key_failure = pthread_key_create(&key, thread_ended); }

static void destroy(object *thread) { free(thread); }

// The object that stands for this thread and owns its engines; the thread keeps it until it ends.
static ctok_status this_thread(object **out, ctok_error *error) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_key);
    object *thread = key_failure ? NULL : pthread_getspecific(key);
    if (!thread && !key_failure) {
        thread = malloc(sizeof *thread);
        if (!thread)
            return ctok_fail(error, CTOK_E_MEMORY, sizeof *thread, "no memory for a thread");
        object_init(thread, OBJECT_THREAD, NULL, destroy);
        int failure = pthread_setspecific(key, thread);
        if (failure) {
            object_release(thread);
            return ctok_fail(error, CTOK_E_THREAD, failure,
                             "the end of this thread cannot be seen: %s", strerror(failure));
        }
    }
    if (!thread)
        return ctok_fail(error, CTOK_E_THREAD, key_failure,
                         "the ends of threads cannot be seen: %s", strerror(key_failure));
    *out = thread;
    return CTOK_OK;
}

ctok_status lifetime_open(uint32_t *id, const ctok_engine_options *options, ctok_wake wake,
                          ctok_error *error) {
    object *thread = NULL;
    if (options && options->ends_with_thread) CTOK_TRY(this_thread(&thread, error));
    return engine_open(id, options, thread, wake, error);
}
