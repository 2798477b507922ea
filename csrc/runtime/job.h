// The kinds of job (open a model, convert a checkpoint, run a request, list devices) and their
// life: submit, query, wait, take, cancel, release. A job owns a copy of its input and its results
// until it is released. Who calls it: abi.c, runtime/lifetime.
#ifndef CTOK_RUNTIME_JOB_H
#define CTOK_RUNTIME_JOB_H

#include "engine.h"
#include "execute.h"
#include "stream.h"

typedef struct job {
    engine_job base;
    char *path, *out_path;       // open, convert; owned
    ctok_model_options options;  // open, convert
    uint32_t opened_model;       // open: the id, once ended well
    program *program;            // run; held
    stream *stream;              // run: retained, or NULL
    int64_t chunk;               // run: its number in the stream
    uint8_t *input;              // run; owned, freed once ended
    uint8_t *outputs[4];         // run; owned
    trace trace;                 // run, where the engine keeps steps
    ctok_device_info *devices;   // list; owned
    uint32_t num_devices;
} job;

ctok_status job_submit_open(uint32_t *id, engine *e, const char *path,
                            const ctok_model_options *options, ctok_error *error);
ctok_status job_submit_convert(uint32_t *id, engine *e, const char *out_path, const char *path,
                               const ctok_model_options *options, ctok_error *error);
ctok_status job_submit_devices(uint32_t *id, engine *e, ctok_error *error);
ctok_status job_submit_run(uint32_t *id, engine *e, model *m, const void *input,
                           uint64_t input_bytes, const ctok_request *request, ctok_error *error);

// Submits the next chunk of a stream to the model's engine.
ctok_status job_submit_chunk(uint32_t *id, stream *s, const void *input, uint64_t input_bytes,
                             const ctok_request *request, ctok_error *error);

void job_query(job *j, ctok_job_info *info);
ctok_status job_wait(job *j, uint32_t timeout_us, ctok_error *error);
ctok_status job_take(job *j, void *out, uint64_t out_bytes, uint32_t index, ctok_error *error);
ctok_status job_steps(job *j, ctok_step *steps, uint32_t capacity, uint32_t *num_steps,
                      ctok_error *error);
ctok_status job_devices(job *j, ctok_device_info *devices, uint32_t capacity, uint32_t *num_devices,
                        ctok_error *error);
void job_release(job *j);
void job_release_all(const object *owner);  // of an engine, or of a thread's engines

#endif
