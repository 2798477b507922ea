// The C interface: checks arguments, resolves ids, calls runtime/. Nothing is computed here. See
// include/ctok.h. Note: over 400 lines: each function of the header is here.
#include "include/ctok.h"

#include <string.h>

#include "runtime/job.h"
#include "runtime/lifetime.h"

#define EXPECT_STRUCT(pointer, error)                                                            \
    do {                                                                                         \
        if (!(pointer))                                                                          \
            return ctok_fail(error, CTOK_E_ARGUMENT, 0,                                          \
                             #pointer ": expected a struct, found NULL");                        \
        if ((pointer)->struct_size != sizeof *(pointer)) {                                       \
            return ctok_fail(error, CTOK_E_STRUCT_SIZE, sizeof *(pointer),                       \
                             #pointer ".struct_size: expected %zu, found %u", sizeof *(pointer), \
                             (pointer)->struct_size);                                            \
        }                                                                                        \
    } while (0)

#define EXPECT_POINTER(pointer, error)                                     \
    do {                                                                   \
        if (!(pointer))                                                    \
            return ctok_fail(error, CTOK_E_ARGUMENT, 0,                    \
                             #pointer ": expected a pointer, found NULL"); \
    } while (0)

// The caller's error struct, or NULL when its size is not ours: nothing is then written into it.
static ctok_error *checked(ctok_error *error) {
    return error && error->struct_size == sizeof *error ? error : NULL;
}

// Objects begin with their header, so a pointer to one is a pointer to the other. The caller has a
// reference to release.
#define DEFINE_GET(type, kind)                                                  \
    static ctok_status get_##type(type **out, uint32_t id, ctok_error *error) { \
        object *found = NULL;                                                   \
        ctok_status status = ids_get(&found, kind, id, error);                  \
        *out = (type *)found;                                                   \
        return status;                                                          \
    }
DEFINE_GET(engine, OBJECT_ENGINE)
DEFINE_GET(model, OBJECT_MODEL)
DEFINE_GET(stream, OBJECT_STREAM)
DEFINE_GET(job, OBJECT_JOB)

// Refuses a call that waits for a job or a thread when an engine's own thread makes it, as it would
// wait for itself, or for an engine that waits for it.
#define EXPECT_NO_ENGINE(error)                                             \
    do {                                                                    \
        if (engine_is_this_thread())                                        \
            return ctok_fail(error, CTOK_E_ARGUMENT, 0,                     \
                             "expected no closing or waiting inside wake"); \
    } while (0)

const char *ctok_version(void) { return "0.1.0"; }

uint32_t ctok_abi_version(void) { return CTOK_ABI_VERSION; }

const char *ctok_status_name(ctok_status status) {
    switch (status) {
#define NAME(code) \
    case code: return #code
        NAME(CTOK_OK);
        NAME(CTOK_E_ARGUMENT);
        NAME(CTOK_E_STRUCT_SIZE);
        NAME(CTOK_E_HANDLE);
        NAME(CTOK_E_SHAPE);
        NAME(CTOK_E_VALUE);
        NAME(CTOK_E_CAPACITY);
        NAME(CTOK_E_UNSUPPORTED);
        NAME(CTOK_E_FILE_MISSING);
        NAME(CTOK_E_FILE_IO);
        NAME(CTOK_E_FILE_FORMAT);
        NAME(CTOK_E_FILE_TENSOR);
        NAME(CTOK_E_FILE_NETWORK);
        NAME(CTOK_E_MEMORY);
        NAME(CTOK_E_DEVICE);
        NAME(CTOK_E_THREAD);
        NAME(CTOK_E_CANCELLED);
        NAME(CTOK_E_CLOSED);
        NAME(CTOK_E_NOT_READY);
        NAME(CTOK_E_INTERNAL);
#undef NAME
        default: return "?";
    }
}

// ---------------------------------------------------------------- engine
ctok_status ctok_engine_open(const ctok_engine_options *options, ctok_wake wake,
                             uint32_t *engine_id, ctok_error *error) {
    error = checked(error);
    EXPECT_POINTER(engine_id, error);
    if (options) {
        EXPECT_STRUCT(options, error);
        if (options->num_threads > 256) {
            return ctok_fail(error, CTOK_E_ARGUMENT, options->num_threads,
                             "num_threads: expected 0 to 256, found %u", options->num_threads);
        }
        if (options->device > CTOK_DEVICE_CUDA) {
            return ctok_fail(error, CTOK_E_ARGUMENT, options->device,
                             "device: expected 0 (auto), 1 (cpu) or 2 (cuda), found %u",
                             options->device);
        }
        if (options->ends_with_thread > 1) {
            return ctok_fail(error, CTOK_E_ARGUMENT, options->ends_with_thread,
                             "ends_with_thread: expected 0 or 1, found %u",
                             options->ends_with_thread);
        }
        if (options->keeps_steps > 1) {
            return ctok_fail(error, CTOK_E_ARGUMENT, options->keeps_steps,
                             "keeps_steps: expected 0 or 1, found %u", options->keeps_steps);
        }
        if (options->opens_in_background > 1) {
            return ctok_fail(error, CTOK_E_ARGUMENT, options->opens_in_background,
                             "opens_in_background: expected 0 or 1, found %u",
                             options->opens_in_background);
        }
        if (options->device == CTOK_DEVICE_CUDA && options->kernels != CTOK_KERNELS_AUTO) {
            return ctok_fail(error, CTOK_E_ARGUMENT, options->kernels,
                             "kernels: expected 0 (auto) with a GPU, found %u, which is of the CPU",
                             options->kernels);
        }
    }
    return lifetime_open(engine_id, options, wake, error);
}

ctok_status ctok_engine_ready(uint32_t id, uint32_t timeout_us, ctok_error *error) {
    error = checked(error);
    if (timeout_us) EXPECT_NO_ENGINE(error);
    engine *e;
    CTOK_TRY(get_engine(&e, id, error));
    ctok_status status = engine_ready(e, timeout_us, error);
    object_release(&e->base);
    return status;
}

ctok_status ctok_engine_query(uint32_t id, ctok_engine_info *info, ctok_error *error) {
    error = checked(error);
    EXPECT_STRUCT(info, error);
    engine *e;
    CTOK_TRY(get_engine(&e, id, error));
    *info = (ctok_engine_info){.struct_size = sizeof *info,
                               .num_models = ids_count(OBJECT_MODEL, &e->base)};
    ctok_status status = engine_query(e, info, error);
    object_release(&e->base);
    return status;
}

ctok_status ctok_engine_wait(uint32_t id, uint32_t *jobs, uint32_t capacity, uint32_t *num_jobs,
                             uint32_t timeout_us, ctok_error *error) {
    error = checked(error);
    EXPECT_POINTER(jobs, error);
    EXPECT_POINTER(num_jobs, error);
    if (timeout_us) EXPECT_NO_ENGINE(error);
    engine *e;
    CTOK_TRY(get_engine(&e, id, error));
    *num_jobs = engine_wait(e, jobs, capacity, timeout_us);
    object_release(&e->base);
    return CTOK_OK;
}

ctok_status ctok_engine_close(uint32_t id, ctok_error *error) {
    error = checked(error);
    EXPECT_NO_ENGINE(error);
    engine *e;
    CTOK_TRY(get_engine(&e, id, error));
    lifetime_close(e);
    object_release(&e->base);
    return CTOK_OK;
}

// ---------------------------------------------------------------- devices
ctok_status ctok_device_list(uint32_t id, uint32_t *job_id, ctok_error *error) {
    error = checked(error);
    EXPECT_POINTER(job_id, error);
    engine *e;
    CTOK_TRY(get_engine(&e, id, error));
    ctok_status status = job_submit_devices(job_id, e, error);
    object_release(&e->base);
    return status;
}

ctok_status ctok_job_devices(uint32_t id, ctok_device_info *devices, uint32_t capacity,
                             uint32_t *num_devices, ctok_error *error) {
    error = checked(error);
    EXPECT_POINTER(num_devices, error);
    if (capacity) EXPECT_POINTER(devices, error);
    job *j;
    CTOK_TRY(get_job(&j, id, error));
    ctok_status status = job_devices(j, devices, capacity, num_devices, error);
    object_release(&j->base.base);
    return status;
}

// ---------------------------------------------------------------- model
static ctok_status check_model_options(const ctok_model_options *options, ctok_error *error) {
    if (!options) return CTOK_OK;
    EXPECT_STRUCT(options, error);
    if (options->precision > CTOK_PRECISION_BF16) {
        return ctok_fail(error, CTOK_E_ARGUMENT, options->precision,
                         "precision: expected 0 (auto), 1 (f32) or 2 (bf16), found %u",
                         options->precision);
    }
    if (options->halves > (CTOK_HALF_ENCODER | CTOK_HALF_DECODER)) {
        return ctok_fail(error, CTOK_E_ARGUMENT, options->halves,
                         "halves: expected bits 1 (encoder) and 2 (decoder), found %u",
                         options->halves);
    }
    if (options->num_threads > 256) {
        return ctok_fail(error, CTOK_E_ARGUMENT, options->num_threads,
                         "num_threads: expected 0 to 256, found %u", options->num_threads);
    }
    if (options->num_fsq_levels > 8) {
        return ctok_fail(error, CTOK_E_ARGUMENT, options->num_fsq_levels,
                         "num_fsq_levels: expected 0 to 8, found %u", options->num_fsq_levels);
    }
    const uint32_t factors[] = {options->spatial_factor, options->temporal_factor};
    for (int i = 0; i < 2; i++) {
        if (!factors[i] || (factors[i] <= 256 && !(factors[i] & (factors[i] - 1)))) continue;
        return ctok_fail(error, CTOK_E_ARGUMENT, factors[i],
                         "%s_factor: expected 0 or a power of 2 up to 256, found %u",
                         i ? "temporal" : "spatial", factors[i]);
    }
    if (!memchr(options->name, 0, sizeof options->name))
        return ctok_fail(error, CTOK_E_ARGUMENT, 0, "name: expected up to 63 bytes and a NUL");
    return CTOK_OK;
}

ctok_status ctok_model_open(uint32_t id, const char *path, const ctok_model_options *options,
                            uint32_t *job, ctok_error *error) {
    error = checked(error);
    EXPECT_POINTER(path, error);
    EXPECT_POINTER(job, error);
    CTOK_TRY(check_model_options(options, error));
    engine *e;
    CTOK_TRY(get_engine(&e, id, error));
    ctok_status status = job_submit_open(job, e, path, options, error);
    object_release(&e->base);
    return status;
}

ctok_status ctok_model_convert(uint32_t id, const char *out_path, const char *path,
                               const ctok_model_options *options, uint32_t *job,
                               ctok_error *error) {
    error = checked(error);
    EXPECT_POINTER(out_path, error);
    EXPECT_POINTER(path, error);
    EXPECT_POINTER(job, error);
    CTOK_TRY(check_model_options(options, error));
    engine *e;
    CTOK_TRY(get_engine(&e, id, error));
    ctok_status status = job_submit_convert(job, e, out_path, path, options, error);
    object_release(&e->base);
    return status;
}

ctok_status ctok_model_query(uint32_t id, ctok_model_info *info, ctok_error *error) {
    error = checked(error);
    EXPECT_STRUCT(info, error);
    model *m;
    CTOK_TRY(get_model(&m, id, error));
    *info = m->info;
    object_release(&m->base);
    return CTOK_OK;
}

ctok_status ctok_model_close(uint32_t id, ctok_error *error) {
    error = checked(error);
    model *m;
    CTOK_TRY(get_model(&m, id, error));
    lifetime_close_model(m);
    object_release(&m->base);
    return CTOK_OK;
}

ctok_status ctok_plan_query(uint32_t id, ctok_plan *plan, const ctok_request *request,
                            ctok_error *error) {
    error = checked(error);
    EXPECT_STRUCT(plan, error);
    EXPECT_STRUCT(request, error);
    model *m;
    CTOK_TRY(get_model(&m, id, error));
    program *p;
    request_memory memory;
    ctok_status status = request_make(&p, &memory, m, request, 0, error);
    if (status == CTOK_OK) {
        *plan = (ctok_plan){.struct_size = sizeof *plan,
                            .num_outputs = (uint32_t)p->num_outputs,
                            .arena_bytes = program_arena_bytes(p),
                            .weight_bytes = m->weight_bytes,
                            .num_steps = (uint32_t)(p->num_steps * program_num_passes(p)),
                            .input_bytes = p->input_image_bytes * (uint64_t)p->request.batch,
                            .padded_frames = p->frame.padded_frames,
                            .padded_height = p->frame.padded_height,
                            .padded_width = p->frame.padded_width,
                            .pad_before = p->frame.before,
                            .pad_top = p->frame.top,
                            .pad_left = p->frame.left,
                            .state_bytes = memory.state_bytes,
                            .state_bytes_per_frame = p->past_bytes_per_frame,
                            .total_bytes = memory.total_bytes};
        memcpy(plan->outputs, p->outputs, sizeof plan->outputs);
        for (int32_t i = 0; i < p->num_outputs; i++) plan->result_bytes += p->outputs[i].bytes;
        program_release(p);
    }
    object_release(&m->base);
    return status;
}

// ---------------------------------------------------------------- jobs
ctok_status ctok_job_submit(uint32_t id, const void *input, uint64_t input_bytes,
                            const ctok_request *request, uint32_t *job, ctok_error *error) {
    error = checked(error);
    EXPECT_POINTER(input, error);
    EXPECT_STRUCT(request, error);
    EXPECT_POINTER(job, error);
    model *m;
    CTOK_TRY(get_model(&m, id, error));
    ctok_status status =
        job_submit_run(job, (engine *)m->base.owner, m, input, input_bytes, request, error);
    object_release(&m->base);
    return status;
}

// ---------------------------------------------------------------- streams
ctok_status ctok_stream_open(uint32_t id, const ctok_stream_options *options, uint32_t *stream_id,
                             ctok_error *error) {
    error = checked(error);
    EXPECT_STRUCT(options, error);
    EXPECT_POINTER(stream_id, error);
    if (options->task != CTOK_TASK_ENCODE && options->task != CTOK_TASK_DECODE) {
        return ctok_fail(error, CTOK_E_ARGUMENT, options->task,
                         "task: expected 1 (encode) or 2 (decode), found %u", options->task);
    }
    model *m;
    CTOK_TRY(get_model(&m, id, error));
    ctok_status status = stream_open(stream_id, m, options, error);
    object_release(&m->base);
    return status;
}

ctok_status ctok_stream_submit(uint32_t id, const void *input, uint64_t input_bytes,
                               const ctok_request *request, uint32_t *job, ctok_error *error) {
    error = checked(error);
    EXPECT_POINTER(input, error);
    EXPECT_STRUCT(request, error);
    EXPECT_POINTER(job, error);
    stream *s;
    CTOK_TRY(get_stream(&s, id, error));
    ctok_status status = job_submit_chunk(job, s, input, input_bytes, request, error);
    object_release(&s->base);
    return status;
}

ctok_status ctok_stream_close(uint32_t id, ctok_error *error) {
    error = checked(error);
    stream *s;
    CTOK_TRY(get_stream(&s, id, error));
    if (ids_remove(&s->base)) object_release(&s->base);
    object_release(&s->base);
    return CTOK_OK;
}

// ---------------------------------------------------------------- the life of a job
ctok_status ctok_job_query(uint32_t id, ctok_job_info *info, ctok_error *error) {
    error = checked(error);
    EXPECT_STRUCT(info, error);
    job *j;
    CTOK_TRY(get_job(&j, id, error));
    *info = (ctok_job_info){.struct_size = sizeof *info};
    job_query(j, info);
    object_release(&j->base.base);
    return CTOK_OK;
}

ctok_status ctok_job_wait(uint32_t id, uint32_t timeout_us, ctok_error *error) {
    error = checked(error);
    if (timeout_us) EXPECT_NO_ENGINE(error);
    job *j;
    CTOK_TRY(get_job(&j, id, error));
    ctok_status status = job_wait(j, timeout_us, error);
    object_release(&j->base.base);
    return status;
}

ctok_status ctok_job_take(uint32_t id, void *out, uint64_t out_bytes, uint32_t index,
                          ctok_error *error) {
    error = checked(error);
    EXPECT_POINTER(out, error);
    job *j;
    CTOK_TRY(get_job(&j, id, error));
    ctok_status status = job_take(j, out, out_bytes, index, error);
    object_release(&j->base.base);
    return status;
}

ctok_status ctok_job_steps(uint32_t id, ctok_step *steps, uint32_t capacity, uint32_t *num_steps,
                           ctok_error *error) {
    error = checked(error);
    if (capacity) EXPECT_POINTER(steps, error);
    EXPECT_POINTER(num_steps, error);
    job *j;
    CTOK_TRY(get_job(&j, id, error));
    ctok_status status = job_steps(j, steps, capacity, num_steps, error);
    object_release(&j->base.base);
    return status;
}

ctok_status ctok_job_cancel(uint32_t id, ctok_error *error) {
    error = checked(error);
    job *j;
    CTOK_TRY(get_job(&j, id, error));
    engine_cancel((engine *)j->base.base.owner, &j->base);
    object_release(&j->base.base);
    return CTOK_OK;
}

ctok_status ctok_job_release(uint32_t id, ctok_error *error) {
    error = checked(error);
    job *j;
    CTOK_TRY(get_job(&j, id, error));
    job_release(j);
    object_release(&j->base.base);
    return CTOK_OK;
}
