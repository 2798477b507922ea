// See job.h: what each kind of job does on the engine's thread, and what its owner may ask about
// it.
#include "job.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bind.h"

static engine *engine_of(const job *j) { return (engine *)j->base.base.owner; }

// Closes the model that a job opened when the job was released before it ended: nobody knows its
// id.
static void close_unseen(const job *j) {
    object *m;
    if (!j->base.is_unseen || !j->opened_model ||
        ids_get(&m, OBJECT_MODEL, j->opened_model, NULL) != CTOK_OK)
        return;
    if (ids_remove(m)) object_release(m);
    object_release(m);
}

static void destroy(object *self) {
    job *j = (job *)self;
    close_unseen(j);
    free(j->path);
    free(j->out_path);
    free(j->input);
    for (int i = 0; i < 4; i++) free(j->outputs[i]);
    trace_free(&j->trace);
    free(j->devices);
    program_release(j->program);
    object_release(j->base.subject);
    if (j->stream) object_release(&j->stream->base);
    free(j);
}

static ctok_status make(job **out, engine *e, ctok_status (*run)(engine_job *, ctok_error *),
                        ctok_error *error) {
    job *j = calloc(1, sizeof *j);
    if (!j) return ctok_fail(error, CTOK_E_MEMORY, sizeof *j, "no memory for a job");
    object_init(&j->base.base, OBJECT_JOB, &e->base, destroy);
    j->base.error.struct_size = sizeof j->base.error;
    j->base.run = run;
    *out = j;
    return CTOK_OK;
}

// Gives the job its id and queues it; the caller's reference is used up.
static ctok_status submit(uint32_t *id, job *j, ctok_error *error) {
    ctok_status status = ids_add(&j->base.base, error);
    uint32_t given = j->base.base.id;  // the job may be gone once it is queued and the id known
    if (status == CTOK_OK) {
        status = engine_submit(engine_of(j), &j->base, error);
        if (status == CTOK_OK) *id = given;
        else if (ids_remove(&j->base.base)) object_release(&j->base.base);
    }
    object_release(&j->base.base);
    return status;
}

// ---------------------------------------------------------------- open and convert
static ctok_status run_open(engine_job *base, ctok_error *error) {
    job *j = (job *)base;
    engine *e = engine_of(j);
    model *m = NULL;
    CTOK_TRY(model_open(&m, &e->base, &e->weights, j->path, &j->options, &base->steps_done,
                        &base->num_steps, &base->is_cancelled, error));
    ctok_status status = atomic_load(&base->is_cancelled)
                             ? ctok_fail(error, CTOK_E_CANCELLED, 0, "cancelled while opening")
                             : ids_add(&m->base, error);
    if (status == CTOK_OK) j->opened_model = m->base.id;
    object_release(&m->base);
    return status;
}

static ctok_status run_convert(engine_job *base, ctok_error *error) {
    job *j = (job *)base;
    return model_convert(j->out_path, j->path, &j->options, &base->steps_done, &base->num_steps,
                         &base->is_cancelled, error);
}

static ctok_status submit_file_job(uint32_t *id, engine *e,
                                   ctok_status (*run)(engine_job *, ctok_error *),
                                   const char *out_path, const char *path,
                                   const ctok_model_options *options, ctok_error *error) {
    job *j = NULL;
    CTOK_TRY(make(&j, e, run, error));
    if (options) j->options = *options;
    j->path = strdup(path);
    j->out_path = out_path ? strdup(out_path) : NULL;
    if (!j->path || (out_path && !j->out_path)) {
        object_release(&j->base.base);
        return ctok_fail(error, CTOK_E_MEMORY, 0, "no memory for a path");
    }
    return submit(id, j, error);
}

ctok_status job_submit_open(uint32_t *id, engine *e, const char *path,
                            const ctok_model_options *options, ctok_error *error) {
    return submit_file_job(id, e, run_open, NULL, path, options, error);
}

ctok_status job_submit_convert(uint32_t *id, engine *e, const char *out_path, const char *path,
                               const ctok_model_options *options, ctok_error *error) {
    return submit_file_job(id, e, run_convert, out_path, path, options, error);
}

// ---------------------------------------------------------------- devices
static ctok_status run_devices(engine_job *base, ctok_error *error) {
    job *j = (job *)base;
    ctok_device_info found;
    cpu_describe(&found);
    for (bool is_there = true; is_there;
         is_there = cuda_describe(&found, j->num_devices - 1)) {  // the CPU is number 0
        size_t num_bytes = (j->num_devices + 1) * sizeof found;
        ctok_device_info *more = realloc(j->devices, num_bytes);
        if (!more)
            return ctok_fail(error, CTOK_E_MEMORY, (int64_t)num_bytes,
                             "no memory for a list of devices");
        j->devices = more;
        j->devices[j->num_devices++] = found;
    }
    return CTOK_OK;
}

ctok_status job_submit_devices(uint32_t *id, engine *e, ctok_error *error) {
    job *j = NULL;
    CTOK_TRY(make(&j, e, run_devices, error));
    return submit(id, j, error);
}

// ---------------------------------------------------------------- run
static ctok_status fail_arena(backend *b, size_t num_bytes, ctok_error *error) {
    CTOK_TRY(b->finish(b, error));  // a lost device has none to give
    uint64_t total, available;
    b->memory_bytes(b, &total, &available);
    char found[64] = "";
    if (available)
        snprintf(found, sizeof found, ": %llu MiB of %llu are free",
                 (unsigned long long)(available >> 20), (unsigned long long)(total >> 20));
    return ctok_fail(error, CTOK_E_MEMORY, (int64_t)num_bytes,
                     "no memory for %zu bytes of activations on %s%s", num_bytes, b->device, found);
}

// Gives the job what it runs; the reference is the job's from now on.
static ctok_status set_program(job *j, program *p, ctok_error *error) {
    engine *e = engine_of(j);
    program_release(j->program);
    j->program = p;
    int64_t passes = program_num_passes(p);
    atomic_store(&j->base.num_steps, (unsigned)(p->num_steps * passes));
    if (!e->options.keeps_steps) return CTOK_OK;
    trace_free(&j->trace);
    return trace_open(&j->trace, p->num_steps, passes, e->opened_ns)
               ? CTOK_OK
               : ctok_fail(error, CTOK_E_MEMORY, p->num_steps,
                           "no memory for the times of %d steps", p->num_steps);
}

// Takes memory for activations. A batch for which there is not enough, as others use the device
// too, goes on with one image a pass.
static ctok_status take_arena(uint8_t **arena, job *j, const model *m, ctok_error *error) {
    *arena = engine_arena(engine_of(j), program_arena_bytes(j->program));
    if (!*arena && j->program->frame.images > 1) {
        program *p = NULL;
        CTOK_TRY(request_make_one_by_one(&p, j->program, m, error));
        CTOK_TRY(set_program(j, p, error));
        *arena = engine_arena(engine_of(j), program_arena_bytes(p));
    }
    return *arena ? CTOK_OK : fail_arena(m->backend, program_arena_bytes(j->program), error);
}

static ctok_status run_request(engine_job *base, ctok_error *error) {
    job *j = (job *)base;
    model *m = (model *)base->subject;
    if (j->stream && j->stream->num_run != j->chunk) {
        return ctok_fail(error, CTOK_E_CLOSED, j->stream->num_run,
                         "the stream ended when chunk %lld failed or was cancelled",
                         (long long)j->stream->num_run);
    }
    // Before the arena is this job's: what is left of a larger one can make room for the state.
    if (j->stream && !bind_stream(&j->stream->state, &j->program->graph))
        return ctok_fail(error, CTOK_E_MEMORY, 0, "no memory for the stream's state");
    uint8_t *arena;
    CTOK_TRY(take_arena(&arena, j, m, error));
    program *p = j->program;
    for (int32_t i = 0; i < p->num_outputs; i++) {
        j->outputs[i] = malloc(p->outputs[i].bytes);
        if (!j->outputs[i])
            return ctok_fail(error, CTOK_E_MEMORY, (int64_t)p->outputs[i].bytes,
                             "no memory for %llu bytes of results",
                             (unsigned long long)p->outputs[i].bytes);
    }
    m->backend->cancel = &base->is_cancelled;
    ctok_status status = execute_program(p, m, j->stream ? &j->stream->state : NULL, arena,
                                         j->input, j->outputs, &base->steps_done, &j->trace, error);
    m->backend->cancel = NULL;
    if (j->stream && status == CTOK_OK) j->stream->num_run++;
    free(j->input);
    j->input = NULL;
    // The job was cancelled because its model was closed: that is the reason to report.
    if (status == CTOK_E_CANCELLED && atomic_load(&m->is_closed)) {
        status = ctok_fail(error, CTOK_E_CLOSED, 0,
                           "the model or engine was closed before the job had ended");
    }
    return status;
}

static ctok_status submit_run(uint32_t *id, engine *e, model *m, stream *s, const void *input,
                              uint64_t input_bytes, const ctok_request *request,
                              ctok_error *error) {
    job *j = NULL;
    CTOK_TRY(make(&j, e, run_request, error));
    if (s) {
        object_retain(&s->base);
        j->stream = s;
        j->chunk = s->num_submitted;
    }
    request_memory memory;
    program *p = NULL;
    ctok_status status = request_make(&p, &memory, m, request, s ? s->most_arena_bytes : 0, error);
    uint64_t wanted = status == CTOK_OK ? p->input_image_bytes * (uint64_t)p->request.batch : 0;
    if (status == CTOK_OK) status = set_program(j, p, error);
    if (status == CTOK_OK && input_bytes != wanted) {
        const ctok_request *r = &j->program->request;
        status =
            ctok_fail(error, CTOK_E_SHAPE, (int64_t)wanted,
                      "input: expected %llu bytes for %lld x %lld x %lld x %lld, found %llu",
                      (unsigned long long)wanted, (long long)r->batch, (long long)r->frames,
                      (long long)r->height, (long long)r->width, (unsigned long long)input_bytes);
    }
    if (status == CTOK_OK) {
        j->input = malloc(wanted);
        if (j->input) memcpy(j->input, input, wanted);
        else
            status = ctok_fail(error, CTOK_E_MEMORY, (int64_t)wanted,
                               "no memory for %llu bytes of input", (unsigned long long)wanted);
    }
    if (status != CTOK_OK) {
        object_release(&j->base.base);
        return status;
    }
    if (s && j->program->plan.arena_bytes > s->most_arena_bytes)
        s->most_arena_bytes = j->program->plan.arena_bytes;
    j->base.subject = object_retain(&m->base);
    return submit(id, j, error);
}

ctok_status job_submit_run(uint32_t *id, engine *e, model *m, const void *input,
                           uint64_t input_bytes, const ctok_request *request, ctok_error *error) {
    if (request->chunk == CTOK_CHUNK_NONE)
        return submit_run(id, e, m, NULL, input, input_bytes, request, error);
    return ctok_fail(error, CTOK_E_ARGUMENT, request->chunk,
                     "request.chunk: expected 0 (chunks go through ctok_stream_submit), found %u",
                     request->chunk);
}

ctok_status job_submit_chunk(uint32_t *id, stream *s, const void *input, uint64_t input_bytes,
                             const ctok_request *request, ctok_error *error) {
    ctok_request chunk = *request;
    pthread_mutex_lock(&s->lock);
    ctok_status status = stream_describe(s, &chunk, error);
    if (status == CTOK_OK)
        status = submit_run(id, (engine *)s->model->base.owner, s->model, s, input, input_bytes,
                            &chunk, error);
    if (status == CTOK_OK) stream_advance(s, &chunk);
    pthread_mutex_unlock(&s->lock);
    return status;
}

// ---------------------------------------------------------------- life
void job_query(job *j, ctok_job_info *info) {
    engine *e = engine_of(j);
    pthread_mutex_lock(&e->lock);
    info->state = j->base.state;
    info->status = j->base.status;
    info->run_us = j->base.run_us;
    pthread_mutex_unlock(&e->lock);
    info->steps_done = atomic_load(&j->base.steps_done);
    info->num_steps = atomic_load(&j->base.num_steps);
    if (info->state == CTOK_JOB_ENDED && info->status == CTOK_OK) {
        info->model = j->opened_model;
        if (!j->program) return;
        const network_frame *f = &j->program->frame;
        info->pad_before = f->before, info->pad_top = f->top, info->pad_left = f->left;
        info->num_outputs = (uint32_t)j->program->num_outputs;
        memcpy(info->outputs, j->program->outputs, sizeof info->outputs);
    }
}

ctok_status job_wait(job *j, uint32_t timeout_us, ctok_error *error) {
    if (!engine_wait_for(engine_of(j), &j->base, timeout_us)) {
        return ctok_fail(error, CTOK_E_NOT_READY, timeout_us, "the job has not ended within %u us",
                         timeout_us);
    }
    if (j->base.status != CTOK_OK && error) *error = j->base.error;
    return j->base.status;
}

ctok_status job_take(job *j, void *out, uint64_t out_bytes, uint32_t index, ctok_error *error) {
    CTOK_TRY(job_wait(j, 0, error));
    int32_t num_outputs = j->program ? j->program->num_outputs : 0;
    if (index >= (uint32_t)num_outputs)
        return ctok_fail(error, CTOK_E_ARGUMENT, index, "output: expected 0 to %d, found %u",
                         num_outputs - 1, index);
    uint64_t bytes = j->program->outputs[index].bytes;
    if (out_bytes < bytes) {
        return ctok_fail(error, CTOK_E_CAPACITY, (int64_t)bytes,
                         "output %u: expected room for %llu bytes, found %llu", index,
                         (unsigned long long)bytes, (unsigned long long)out_bytes);
    }
    memcpy(out, j->outputs[index], bytes);
    return CTOK_OK;
}

ctok_status job_steps(job *j, ctok_step *steps, uint32_t capacity, uint32_t *num_steps,
                      ctok_error *error) {
    CTOK_TRY(job_wait(j, 0, error));
    uint32_t count = j->trace.num_steps;
    *num_steps = count;
    if (capacity < count) count = capacity;
    if (count) memcpy(steps, j->trace.steps, count * sizeof *steps);
    return CTOK_OK;
}

ctok_status job_devices(job *j, ctok_device_info *devices, uint32_t capacity, uint32_t *num_devices,
                        ctok_error *error) {
    CTOK_TRY(job_wait(j, 0, error));
    uint32_t count = *num_devices = j->num_devices;
    if (capacity < count) count = capacity;
    if (count) memcpy(devices, j->devices, count * sizeof *devices);
    return CTOK_OK;
}

// Takes a job from its engine and gives up the reference that the table of ids held.
static void forget(job *j) {
    engine_forget(engine_of(j), &j->base);
    engine_cancel(engine_of(j), &j->base);
    object_release(&j->base.base);
}

void job_release(job *j) {
    if (ids_remove(&j->base.base)) forget(j);
}

void job_release_all(const object *owner) {
    for (object *j; (j = ids_remove_first(OBJECT_JOB, owner));) forget((job *)j);
}
