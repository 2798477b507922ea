// The engine's thread, queue and list of ended jobs. One lock guards them all; it is never held
// while a job runs, while anything is freed, or while the caller's wake function is called.
#include "engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../base/thread.h"

static const int64_t ARENA_IDLE_US = 1000000;

// ---------------------------------------------------------------- arena
// On the engine's thread, without the lock: a GPU waits until nothing runs.
static void drop_arena(engine *e) {
    if (e->arena) e->backend->free(e->backend, e->arena, e->arena_bytes);
    e->arena = NULL;
    e->arena_bytes = 0;
}

uint8_t *engine_arena(engine *e, size_t num_bytes) {
    if (!e->arena || e->arena_bytes < num_bytes) {
        drop_arena(e);
        e->arena = e->backend->alloc(e->backend, num_bytes ? num_bytes : 1);
        e->arena_bytes = e->arena ? num_bytes : 0;
    }
    e->is_arena_used = e->arena != NULL;
    return e->arena;
}

// What the backend asks for where it has no memory left.
static bool give_arena_back(void *self) {
    engine *e = self;
    if (!e->arena || e->is_arena_used) return false;
    drop_arena(e);
    return true;
}

// ---------------------------------------------------------------- ending jobs
// Marks and lists it. The lock is held.
static void end_job(engine *e, engine_job *job, ctok_status status) {
    job->status = status;
    job->state = CTOK_JOB_ENDED;
    job->is_unseen = job->is_forgotten;
    if (!job->is_forgotten) {
        job->next_ended = NULL;
        if (e->ended_tail) e->ended_tail->next_ended = job;
        else e->ended_head = job;
        e->ended_tail = job;
    }
    pthread_cond_broadcast(&e->has_ended);
}

// Takes a queued job out, whose reference is then the caller's. The lock is held.
static void unqueue(engine *e, engine_job *job) {
    if (job->previous) job->previous->next = job->next;
    else e->queue_head = job->next;
    if (job->next) job->next->previous = job->previous;
    else e->queue_tail = job->previous;
    job->next = job->previous = NULL;
}

// Gives up the references to jobs that came out of the queue. Called without the lock.
static void let_go(engine_job *jobs) {
    while (jobs) {
        engine_job *next = jobs->next;
        object_release(jobs->subject);
        jobs->subject = NULL;
        object_release(&jobs->base);
        jobs = next;
    }
}

static ctok_status fail_closed(engine_job *job) {
    return ctok_fail(&job->error, CTOK_E_CLOSED, 0,
                     "the model or engine was closed before the job had ended");
}

// Cancels the running job of `subject` (NULL: of anything) and ends its queued ones.
static void close_jobs(engine *e, const object *subject) {
    engine_job *closed = NULL;
    pthread_mutex_lock(&e->lock);
    if (e->running && (!subject || e->running->subject == subject))
        atomic_store(&e->running->is_cancelled, true);
    for (engine_job *job = e->queue_head, *next; job; job = next) {
        next = job->next;
        if (subject && job->subject != subject) continue;
        unqueue(e, job);
        end_job(e, job, fail_closed(job));
        job->next = closed;
        closed = job;
    }
    pthread_mutex_unlock(&e->lock);
    let_go(closed);
}

// ---------------------------------------------------------------- the thread
static engine_job *next_job(engine *e) {
    int64_t deadline = thread_now_us() + ARENA_IDLE_US;
    while (!e->queue_head && !e->is_stopping) {
        if (!e->arena) {
            pthread_cond_wait(&e->has_work, &e->lock);
        } else if (!thread_wait_until(&e->has_work, &e->lock, deadline)) {
            pthread_mutex_unlock(&e->lock);
            if (!e->backend->keeps_arena || !weights_are_held(&e->weights)) drop_arena(e);
            deadline = thread_now_us() + ARENA_IDLE_US;
            pthread_mutex_lock(&e->lock);
        }
    }
    if (e->is_stopping) return NULL;
    engine_job *job = e->queue_head;
    unqueue(e, job);
    job->state = CTOK_JOB_RUNNING;
    e->running = job;
    return job;
}

static _Thread_local bool is_engine_thread;
bool engine_is_this_thread(void) { return is_engine_thread; }

// "auto" takes the CPU where there is no GPU to be used, and keeps why.
static ctok_status open_backend(engine *e) {
    ctok_engine_options *o = &e->options;
    if (o->device == CTOK_DEVICE_CUDA)
        return cuda_backend_open(&e->backend, o->device_index, &e->open_error);
    if (o->device == CTOK_DEVICE_AUTO && o->kernels == CTOK_KERNELS_AUTO) {
        ctok_error why = {.struct_size = sizeof why};
        if (cuda_backend_open(&e->backend, o->device_index, &why) == CTOK_OK) return CTOK_OK;
        snprintf(e->why_cpu, sizeof e->why_cpu, "%.255s", why.message);
    }
    return cpu_backend_open(&e->backend, o->num_threads, o->kernels, &e->open_error);
}

// Here and not on the caller's thread, as the driver of a GPU may take seconds to start.
static void open_device(engine *e) {
    e->open_error.struct_size = sizeof e->open_error;
    ctok_status status = open_backend(e);
    if (status == CTOK_OK)
        e->backend->give_back = give_arena_back, e->backend->giver = e,
        e->weights.backend = e->backend;
    pthread_mutex_lock(&e->lock);
    e->open_status = status, e->has_opened = true;
    pthread_cond_broadcast(&e->has_ended);
    pthread_mutex_unlock(&e->lock);
}

// How opening the device ended, once it has.
static ctok_status opening_of(const engine *e, ctok_error *error) {
    if (e->open_status == CTOK_OK) return CTOK_OK;
    return ctok_fail(error, e->open_status, e->open_error.detail, "%s", e->open_error.message);
}

static ctok_status run_job(engine *e, engine_job *job) {
    if (atomic_load(&job->is_cancelled))
        return ctok_fail(&job->error, CTOK_E_CANCELLED, 0, "cancelled before it ran");
    CTOK_TRY(opening_of(e, &job->error));
    return job->run(job, &job->error);
}

static void *engine_thread(void *argument) {
    engine *e = argument;
    is_engine_thread = true;
    thread_set_name("ctok-engine");
    open_device(e);
    pthread_mutex_lock(&e->lock);
    for (engine_job *job; (job = next_job(e));) {
        pthread_mutex_unlock(&e->lock);
        int64_t start = thread_now_us();
        ctok_status status = run_job(e, job);
        e->is_arena_used = false;
        pthread_mutex_lock(&e->lock);
        if (status == CTOK_E_CANCELLED && e->is_stopping) status = fail_closed(job);
        e->running = NULL;
        job->run_us = (uint64_t)(thread_now_us() - start);
        bool was_empty = e->ended_head == NULL;
        end_job(e, job, status);
        bool must_wake = was_empty && e->ended_head && e->wake;
        pthread_mutex_unlock(&e->lock);
        let_go(job);
        if (must_wake) e->wake();
        pthread_mutex_lock(&e->lock);
    }
    pthread_mutex_unlock(&e->lock);
    drop_arena(e);
    return NULL;
}

// ---------------------------------------------------------------- opening and closing
// deadline: of thread_now_us.
static ctok_status wait_open(engine *e, int64_t deadline, ctok_error *error) {
    pthread_mutex_lock(&e->lock);
    while (!e->has_opened && thread_wait_until(&e->has_ended, &e->lock, deadline)) {}
    bool has_opened = e->has_opened;
    pthread_mutex_unlock(&e->lock);
    if (!has_opened)
        return ctok_fail(error, CTOK_E_NOT_READY, 0, "the engine's device is not open yet");
    return opening_of(e, error);
}

ctok_status engine_ready(engine *e, uint32_t timeout_us, ctok_error *error) {
    return wait_open(e, thread_now_us() + timeout_us, error);
}

static void destroy(object *self) {
    engine *e = (engine *)self;
    weights_list_destroy(&e->weights);  // empty: every model held the engine
    if (e->backend) e->backend->close(e->backend);
    pthread_cond_destroy(&e->has_work);
    pthread_cond_destroy(&e->has_ended);
    pthread_mutex_destroy(&e->lock);
    free(e);
}

ctok_status engine_open(uint32_t *id, const ctok_engine_options *options, object *owner,
                        ctok_wake wake, ctok_error *error) {
    engine *e = calloc(1, sizeof *e);
    if (!e) return ctok_fail(error, CTOK_E_MEMORY, sizeof *e, "no memory for an engine");
    object_init(&e->base, OBJECT_ENGINE, owner, destroy);
    weights_list_init(&e->weights, NULL);
    if (options) e->options = *options;
    e->wake = wake;
    e->opened_ns = step_now();
    pthread_mutex_init(&e->lock, NULL);
    thread_condition_init(&e->has_work);
    thread_condition_init(&e->has_ended);
    int failure = pthread_create(&e->thread, NULL, engine_thread, e);
    if (failure) {
        object_release(&e->base);
        return ctok_fail(error, CTOK_E_THREAD, failure,
                         "the system refused the engine's thread: %s", strerror(failure));
    }
    ctok_status status = CTOK_OK;
    if (!e->options.opens_in_background) status = wait_open(e, INT64_MAX, error);
    if (status == CTOK_OK) status = ids_add(&e->base, error);
    if (status == CTOK_OK) *id = e->base.id;
    else engine_close(e);
    object_release(&e->base);
    return status;
}

void engine_close(engine *e) {
    pthread_mutex_lock(&e->lock);
    bool is_first = !e->is_stopping;
    e->is_stopping = true;
    pthread_cond_broadcast(&e->has_work);
    pthread_cond_broadcast(&e->has_ended);
    pthread_mutex_unlock(&e->lock);
    close_jobs(e, NULL);
    if (is_first) pthread_join(e->thread, NULL);
}

void engine_close_subject(engine *e, const object *subject) { close_jobs(e, subject); }

ctok_status engine_query(engine *e, ctok_engine_info *info, ctok_error *error) {
    CTOK_TRY(engine_ready(e, 0, error));
    pthread_mutex_lock(&e->lock);
    info->num_threads = (uint32_t)e->backend->num_threads;
    info->arena_bytes = e->arena_bytes;
    info->state_bytes = e->state_bytes;
    info->num_jobs = e->num_jobs;
    pthread_mutex_unlock(&e->lock);
    uint64_t available;
    e->backend->memory_bytes(e->backend, &info->device_bytes, &available);
    strncpy(info->kernels, e->backend->kernels->name, sizeof info->kernels - 1);
    strncpy(info->device, e->backend->device, sizeof info->device - 1);
    strncpy(info->device_name, e->backend->device_name, sizeof info->device_name - 1);
    memcpy(info->why_cpu, e->why_cpu, sizeof info->why_cpu);
    const backend_counts *counts = e->backend->counts;
    if (!counts) return CTOK_OK;
    info->num_starts = counts->num_starts, info->num_graph_launches = counts->num_graph_launches;
    info->num_captures = counts->num_captures, info->num_refused_captures = counts->num_refused;
    info->num_waits = counts->num_waits;
    return CTOK_OK;
}

// ---------------------------------------------------------------- jobs
ctok_status engine_submit(engine *e, engine_job *job, ctok_error *error) {
    pthread_mutex_lock(&e->lock);
    bool is_open = !e->is_stopping;
    if (is_open) {
        object_retain(&job->base);
        job->state = CTOK_JOB_QUEUED;
        job->previous = e->queue_tail;
        if (e->queue_tail) e->queue_tail->next = job;
        else e->queue_head = job;
        e->queue_tail = job;
        e->num_jobs++;
        pthread_cond_signal(&e->has_work);
    }
    pthread_mutex_unlock(&e->lock);
    return is_open ? CTOK_OK : ctok_fail(error, CTOK_E_CLOSED, 0, "the engine is closed");
}

// A job that has not started ends at once; a running one soon.
void engine_cancel(engine *e, engine_job *job) {
    atomic_store(&job->is_cancelled, true);
    pthread_mutex_lock(&e->lock);
    bool is_queued = job->state == CTOK_JOB_QUEUED;
    if (is_queued) {
        unqueue(e, job);
        end_job(e, job, ctok_fail(&job->error, CTOK_E_CANCELLED, 0, "cancelled before it ran"));
    }
    pthread_mutex_unlock(&e->lock);
    if (is_queued) let_go(job);
}

uint32_t engine_wait(engine *e, uint32_t *jobs, uint32_t capacity, uint32_t timeout_us) {
    int64_t deadline = thread_now_us() + timeout_us;
    uint32_t count = 0;
    pthread_mutex_lock(&e->lock);
    while (!e->ended_head && timeout_us && !e->is_stopping &&
           thread_wait_until(&e->has_ended, &e->lock, deadline)) {}
    for (; e->ended_head && count < capacity; count++) {
        jobs[count] = e->ended_head->base.id;
        e->ended_head = e->ended_head->next_ended;
    }
    if (!e->ended_head) e->ended_tail = NULL;
    pthread_mutex_unlock(&e->lock);
    return count;
}

bool engine_wait_for(engine *e, engine_job *job, uint32_t timeout_us) {
    int64_t deadline = thread_now_us() + timeout_us;
    pthread_mutex_lock(&e->lock);
    while (job->state != CTOK_JOB_ENDED && timeout_us &&
           thread_wait_until(&e->has_ended, &e->lock, deadline)) {}
    bool has_ended = job->state == CTOK_JOB_ENDED;
    pthread_mutex_unlock(&e->lock);
    return has_ended;
}

void engine_forget(engine *e, engine_job *job) {
    pthread_mutex_lock(&e->lock);
    job->is_forgotten = true;
    e->num_jobs--;
    engine_job **link = &e->ended_head, *before = NULL;
    while (*link && *link != job) before = *link, link = &before->next_ended;
    if (*link) {
        *link = job->next_ended;
        if (e->ended_tail == job) e->ended_tail = before;
    }
    pthread_mutex_unlock(&e->lock);
}
