// The thread pool: a loop is published by raising the `generation` of each worker that is to join,
// so that the others sleep on; tasks are drawn from one atomic counter, and the last worker to
// leave wakes the caller. Waiting threads spin briefly (the ops of a network follow each other
// within microseconds), then sleep on a condition variable, so that an idle pool costs nothing.
#include "pool.h"

#include <pthread.h>
#include <stdlib.h>

#include "../../base/thread.h"

enum { SPIN_ROUNDS = 2000 };  // about 20 to 50 us

typedef struct {
    pool *owner;
    int32_t index;
    pthread_t thread;
    pthread_cond_t wake;
    _Atomic uint32_t generation;  // raised under the mutex for each loop that it is to join, and to
                                  // stop
} pool_worker;

struct pool {
    pool *whole;  // itself, or the pool whose threads a part uses: all below num_workers is that
                  // one's
    int32_t num_workers;  // besides the caller: the first ones of the whole
    pthread_mutex_t mutex;
    pthread_cond_t done;
    _Atomic int32_t num_busy;  // workers that have not left the current loop
    bool is_stopping;          // written before a generation is raised, read after

    // The current loop; written by the caller while every worker is out of it.
    pool_task task;
    void *context;
    const atomic_bool *cancel;
    int64_t num_tasks;
    _Atomic int64_t next_task;

    pool_worker workers[];
};

static void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

static bool is_cancelled(const pool *p) {
    return p->cancel && atomic_load_explicit(p->cancel, memory_order_relaxed);
}

static void draw_tasks(pool *p, int32_t thread) {
    while (!is_cancelled(p)) {
        int64_t task = atomic_fetch_add_explicit(&p->next_task, 1, memory_order_relaxed);
        if (task >= p->num_tasks) return;
        p->task(p->context, task, thread);
    }
}

static void *worker_main(void *argument) {
    pool_worker *worker = argument;
    pool *p = worker->owner;
    thread_set_name("ctok-pool");
    for (uint32_t seen = 0;; seen++) {
        for (int i = 0; i < SPIN_ROUNDS && atomic_load(&worker->generation) == seen; i++) relax();
        if (atomic_load(&worker->generation) == seen) {
            pthread_mutex_lock(&p->mutex);
            while (atomic_load(&worker->generation) == seen)
                pthread_cond_wait(&worker->wake, &p->mutex);
            pthread_mutex_unlock(&p->mutex);
        }
        if (p->is_stopping) return NULL;
        draw_tasks(p, worker->index);
        if (atomic_fetch_sub(&p->num_busy, 1) == 1) {
            pthread_mutex_lock(&p->mutex);
            pthread_cond_signal(&p->done);
            pthread_mutex_unlock(&p->mutex);
        }
    }
}

static void wake_workers(pool *p, int32_t num_workers) {
    pthread_mutex_lock(&p->mutex);
    for (int32_t i = 0; i < num_workers; i++) {
        atomic_fetch_add(&p->workers[i].generation, 1);
        pthread_cond_signal(&p->workers[i].wake);
    }
    pthread_mutex_unlock(&p->mutex);
}

ctok_status pool_open(pool **out, int32_t num_threads, ctok_error *error) {
    int32_t num_workers = num_threads - 1;
    size_t num_bytes = sizeof(pool) + (size_t)num_workers * sizeof(pool_worker);
    pool *p = calloc(1, num_bytes);
    if (!p)
        return ctok_fail(error, CTOK_E_MEMORY, (int64_t)num_bytes,
                         "no memory for a pool of %d threads", num_threads);
    p->whole = p;
    pthread_mutex_init(&p->mutex, NULL);
    pthread_cond_init(&p->done, NULL);
    for (; p->num_workers < num_workers; p->num_workers++) {
        pool_worker *worker = &p->workers[p->num_workers];
        worker->owner = p;
        worker->index = p->num_workers + 1;
        pthread_cond_init(&worker->wake, NULL);
        int failure = pthread_create(&worker->thread, NULL, worker_main, worker);
        if (failure) {
            pthread_cond_destroy(&worker->wake);
            int32_t num_started = p->num_workers;
            pool_close(p);
            return ctok_fail(error, CTOK_E_THREAD, failure,
                             "expected to start %d threads, the system gave %d", num_workers,
                             num_started);
        }
    }
    *out = p;
    return CTOK_OK;
}

pool *pool_part(pool *whole, int32_t num_threads) {
    pool *p = calloc(1, sizeof *p);
    if (p) p->whole = whole, p->num_workers = num_threads - 1;
    return p;
}

static void stop_workers(pool *p) {
    p->is_stopping = true;
    wake_workers(p, p->num_workers);
    for (int32_t i = 0; i < p->num_workers; i++) {
        pthread_join(p->workers[i].thread, NULL);
        pthread_cond_destroy(&p->workers[i].wake);
    }
    pthread_cond_destroy(&p->done);
    pthread_mutex_destroy(&p->mutex);
}

void pool_close(pool *p) {
    if (p && p->whole == p) stop_workers(p);
    free(p);
}

ctok_status pool_run(pool *part, int64_t num_tasks, pool_task task, void *context,
                     const atomic_bool *cancel) {
    pool *p = part->whole;
    p->task = task;
    p->context = context;
    p->cancel = cancel;
    p->num_tasks = num_tasks;
    atomic_store_explicit(&p->next_task, 0, memory_order_relaxed);
    bool is_shared = num_tasks > 1 && part->num_workers > 0;
    if (is_shared) {
        atomic_store(&p->num_busy, part->num_workers);
        wake_workers(p, part->num_workers);
    }
    draw_tasks(p, 0);
    if (is_shared) {
        for (int i = 0; i < SPIN_ROUNDS && atomic_load(&p->num_busy) > 0; i++) relax();
        pthread_mutex_lock(&p->mutex);
        while (atomic_load(&p->num_busy) > 0) pthread_cond_wait(&p->done, &p->mutex);
        pthread_mutex_unlock(&p->mutex);
    }
    return is_cancelled(p) ? CTOK_E_CANCELLED : CTOK_OK;
}
