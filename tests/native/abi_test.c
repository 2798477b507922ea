// The C interface as a C program meets it: every wrong argument has its status, ids go stale,
// results are taken, jobs are submitted and cancelled in a queue. What several threads do at once
// is storm_test.c, every status by its number status_test.c. Needs models/nano (run from the root).
// TAP on stdout.
// wrapped: ids_add
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../csrc/runtime/ids.h"
#include "tap.h"

static ctok_error last;

static ctok_error *fresh(void) {
    last = (ctok_error){.struct_size = sizeof last};
    return &last;
}

// A failure must give that status, in the return value and in the error, with a message.
static void expect(ctok_status wanted, ctok_status found, const char *name) {
    bool is_ok =
        found == wanted && (wanted == CTOK_OK || (last.status == wanted && last.message[0]));
    report(is_ok, "%s%s%s", name, is_ok ? "" : ": ", is_ok ? "" : last.message);
}

// num_threads 0: all of the engine's.
static uint32_t open_model(uint32_t engine, uint32_t num_threads) {
    uint32_t job = 0;
    ctok_model_options options = {.struct_size = sizeof options, .num_threads = num_threads};
    ctok_job_info info = {.struct_size = sizeof info};
    if (ctok_model_open(engine, "models/nano/DI8x8.safetensors", &options, &job, NULL) != CTOK_OK)
        return 0;
    if (ctok_job_wait(job, 60000000, NULL) != CTOK_OK ||
        ctok_job_query(job, &info, NULL) != CTOK_OK)
        return 0;
    ctok_job_release(job, NULL);
    return info.model;
}

static ctok_request encode_request(int64_t side) {
    return (ctok_request){.struct_size = sizeof(ctok_request),
                          .task = CTOK_TASK_ENCODE,
                          .input = CTOK_PIXELS_U8,
                          .height = side,
                          .width = side};
}

// ---------------------------------------------------------------- wrong arguments
static void test_arguments(void) {
    uint32_t engine = 0, id = 0;
    ctok_engine_options options = {.struct_size = sizeof options, .num_threads = 2};
    expect(CTOK_E_ARGUMENT, ctok_engine_open(&options, NULL, NULL, fresh()),
           "engine_open without a place for the id");
    options.struct_size = 4;
    expect(CTOK_E_STRUCT_SIZE, ctok_engine_open(&options, NULL, &engine, fresh()),
           "engine_open with another struct");
    options = (ctok_engine_options){.struct_size = sizeof options, .kernels = 77};
    expect(CTOK_E_ARGUMENT, ctok_engine_open(&options, NULL, &engine, fresh()),
           "engine_open with unknown kernels");
    options = (ctok_engine_options){.struct_size = sizeof options, .num_threads = 1000};
    expect(CTOK_E_ARGUMENT, ctok_engine_open(&options, NULL, &engine, fresh()),
           "engine_open with too many threads");
    expect(CTOK_OK, ctok_engine_open(NULL, NULL, &engine, fresh()), "engine_open with defaults");
    expect(CTOK_E_HANDLE, ctok_model_close(engine, fresh()), "an engine's id is no model's");
    expect(CTOK_E_HANDLE, ctok_engine_close(engine + 1000, fresh()), "an id that was never given");
    expect(CTOK_E_HANDLE, ctok_job_wait(0, 0, fresh()), "id 0");
    expect(CTOK_E_ARGUMENT, ctok_model_open(engine, NULL, NULL, &id, fresh()),
           "model_open without a path");
    ctok_model_options bad = {.struct_size = sizeof bad, .temporal_factor = 3};
    expect(CTOK_E_ARGUMENT, ctok_model_open(engine, "x", &bad, &id, fresh()),
           "model_open with a factor that is no power of 2");
    memset(bad.name, 'x', sizeof bad.name);
    bad.temporal_factor = 0;
    expect(CTOK_E_ARGUMENT, ctok_model_open(engine, "x", &bad, &id, fresh()),
           "model_open with a name without an end");
    bad = (ctok_model_options){.struct_size = sizeof bad, .num_threads = 257};
    expect(CTOK_E_ARGUMENT, ctok_model_open(engine, "x", &bad, &id, fresh()),
           "model_open with too many threads");
    expect(CTOK_OK, ctok_model_open(engine, "no/such/file", NULL, &id, fresh()),
           "model_open of a missing file is submitted");
    expect(CTOK_E_FILE_MISSING, ctok_job_wait(id, 10000000, fresh()), "and its job says so");
    char byte;
    expect(CTOK_E_FILE_MISSING, ctok_job_take(id, &byte, 1, 0, fresh()),
           "a failed job has nothing to take, and says why");
    expect(CTOK_OK, ctok_job_release(id, fresh()), "it is released");
    expect(CTOK_E_HANDLE, ctok_job_release(id, fresh()), "once");
    ctok_error small = {.struct_size = 8, .status = 12345};
    report(ctok_job_release(id, &small) == CTOK_E_HANDLE && small.status == 12345,
           "an error struct of another size is left alone");
    expect(CTOK_OK, ctok_engine_close(engine, fresh()), "engine_close");
    expect(CTOK_E_HANDLE, ctok_engine_close(engine, fresh()), "twice");
    report(strcmp(ctok_status_name(CTOK_E_VALUE), "CTOK_E_VALUE") == 0 &&
               strcmp(ctok_status_name(7), "?") == 0,
           "status names");
}

// ---------------------------------------------------------------- one request
static void test_request(void) {
    uint32_t engine, job = 0, ids[4], count = 9;
    uint8_t pixels[48 * 48 * 3] = {0};
    static int32_t indices[36];
    ctok_engine_open(NULL, NULL, &engine, fresh());
    uint32_t model = open_model(engine, 0);
    report(model != 0, "the embedded model opens");
    ctok_request request = encode_request(48);
    ctok_plan plan = {.struct_size = sizeof plan};
    expect(CTOK_OK, ctok_plan_query(model, &plan, &request, fresh()), "plan");
    report(plan.num_outputs == 2 && plan.outputs[0].kind == CTOK_INDICES &&
               plan.outputs[0].bytes == sizeof indices && plan.input_bytes == sizeof pixels,
           "the plan's sizes");
    expect(CTOK_E_SHAPE, ctok_job_submit(model, pixels, sizeof pixels - 1, &request, &job, fresh()),
           "input_bytes that do not fit");
    request.input = CTOK_LATENT;
    expect(CTOK_E_UNSUPPORTED,
           ctok_job_submit(model, pixels, sizeof pixels, &request, &job, fresh()),
           "an input that the task does not take");
    request = encode_request(48);
    request.task = 9;
    expect(CTOK_E_ARGUMENT, ctok_plan_query(model, &plan, &request, fresh()), "an unknown task");
    request = encode_request(48);
    request.frames = 2;
    expect(CTOK_E_UNSUPPORTED, ctok_plan_query(model, &plan, &request, fresh()),
           "frames for an image tokenizer");
    request = encode_request(48);
    expect(CTOK_OK, ctok_job_submit(model, pixels, sizeof pixels, &request, &job, fresh()),
           "submit");
    while (count == 9 || count == 0) ctok_engine_wait(engine, ids, 4, &count, 1000000, NULL);
    report(count == 1 && ids[0] == job, "engine_wait names the job");
    expect(CTOK_E_CAPACITY, ctok_job_take(job, indices, 5, 0, fresh()),
           "take into too little room");
    report(last.detail == (int64_t)sizeof indices, "which says how much is needed");
    expect(CTOK_OK, ctok_job_take(job, indices, sizeof indices, 0, fresh()), "take");
    expect(CTOK_E_ARGUMENT, ctok_job_take(job, indices, sizeof indices, 2, fresh()),
           "take an output that is not there");
    ctok_request decode = {.struct_size = sizeof decode,
                           .task = CTOK_TASK_DECODE,
                           .input = CTOK_INDICES,
                           .height = 6,
                           .width = 6,
                           .crop_height = 49,
                           .crop_width = 1};
    expect(CTOK_E_SHAPE, ctok_plan_query(model, &plan, &decode, fresh()),
           "a crop outside the picture");
    ctok_stream_options stream = {.struct_size = sizeof stream, .task = CTOK_TASK_ENCODE};
    expect(CTOK_E_UNSUPPORTED, ctok_stream_open(model, &stream, &count, fresh()),
           "a stream of an image tokenizer");
    static float codes[6 * sizeof indices / sizeof *indices], again[sizeof codes / sizeof *codes];
    ctok_job_take(job, codes, sizeof codes, 1, NULL);
    ctok_job_release(job, NULL);
    decode = (ctok_request){.struct_size = sizeof decode,
                            .task = CTOK_TASK_DECODE,
                            .input = CTOK_INDICES,
                            .outputs = CTOK_CODES,
                            .height = 6,
                            .width = 6};
    expect(CTOK_OK, ctok_job_submit(model, indices, sizeof indices, &decode, &job, fresh()),
           "a decode to codes alone");
    ctok_job_wait(job, 60000000, NULL);
    expect(CTOK_OK, ctok_job_take(job, again, sizeof again, 0, fresh()), "take its codes");
    int num_equal = 0;
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
        num_equal += codes[i] == again[i];  // 0 may have a sign there
    report(num_equal == sizeof codes / sizeof *codes, "which are the encoder's");
    ctok_plan_query(model, &plan, &decode, NULL);
    report(plan.num_steps == 2, "no network runs for them");
    ctok_job_release(job, NULL);
    expect(CTOK_OK, ctok_model_close(model, fresh()), "model_close");
    expect(CTOK_E_HANDLE, ctok_job_submit(model, pixels, sizeof pixels, &request, &job, fresh()),
           "a closed model");
    ctok_engine_close(engine, NULL);
}

// ---------------------------------------------------------------- a queue
static void test_queue(void) {
    uint32_t engine = 0, jobs[3];
    ctok_engine_open(NULL, NULL, &engine, fresh());
    uint32_t model = open_model(engine, 0);
    static uint8_t pixels[512 * 512 * 3];
    ctok_request request = encode_request(512);
    for (int i = 0; i < 3; i++)
        ctok_job_submit(model, pixels, sizeof pixels, &request, &jobs[i], NULL);
    expect(CTOK_E_NOT_READY, ctok_job_wait(jobs[2], 0, fresh()),
           "a job behind two others has not ended at once");
    ctok_engine_close(engine, NULL);
    int num_closed = 0;
    for (int i = 0; i < 3; i++) num_closed += ctok_job_wait(jobs[i], 0, NULL) == CTOK_E_CLOSED;
    report(num_closed >= 2, "closing the engine ends its queued jobs");
    for (int i = 0; i < 3; i++) ctok_job_release(jobs[i], NULL);
    expect(CTOK_E_HANDLE,
           ctok_model_query(model, &(ctok_model_info){.struct_size = sizeof(ctok_model_info)},
                            fresh()),
           "and closes its models");
}

// ---------------------------------------------------------------- released at the worst moment
static atomic_uint released_with_its_model;  // a job to release when a model gets its id; 0: none

ctok_status __real_ids_add(object *o, ctok_error *error);
ctok_status __wrap_ids_add(object *o, ctok_error *error);
ctok_status __wrap_ids_add(object *o, ctok_error *error) {
    ctok_status status = __real_ids_add(o, error);
    if (o->kind == OBJECT_MODEL && atomic_load(&released_with_its_model))
        ctok_job_release(atomic_exchange(&released_with_its_model, 0), NULL);
    return status;
}

static void test_release(void) {
    uint32_t engine = 0, blocker = 0, job = 0;
    static uint8_t pixels[256 * 256 * 3];
    ctok_engine_info info = {.struct_size = sizeof info};
    ctok_engine_open(NULL, NULL, &engine, fresh());
    uint32_t model = open_model(engine, 0);
    ctok_request request = encode_request(256);
    ctok_job_submit(model, pixels, sizeof pixels, &request, &blocker,
                    NULL);  // so that `job` is known before it runs
    ctok_model_open(engine, "models/nano/DI8x8.safetensors", NULL, &job, NULL);
    atomic_store(&released_with_its_model, job);
    for (int i = 0; i < 1000 && atomic_load(&released_with_its_model); i++)
        ctok_job_wait(job, 10000, NULL);
    ctok_job_wait(open_model(engine, 0), 0, NULL);  // the jobs before this one are gone
    ctok_engine_query(engine, &info, fresh());
    report(job && info.num_models == 2,
           "a job that is released while its model gets an id leaves no model open");
    ctok_engine_close(engine, NULL);
}

int main(void) {
    test_arguments();
    test_request();
    test_queue();
    test_release();
    return report_end();
}
