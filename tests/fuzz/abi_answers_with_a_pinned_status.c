// abi_answers_with_a_pinned_status: whatever stands in option structs, requests and ids, every
// function of ctok.h returns a status that the header names, says why where it failed, and what it
// admits runs to its end; plan and submit agree. The input is a row of calls: one byte which, one
// byte how the struct is made (fresh, with a few fields changed, or all of it), then the bytes.
// Needs models/nano (run from the root).
#include "../../csrc/include/ctok.h"
#include "fuzz.h"

static uint32_t engine, model;
static const uint8_t *at, *end;

static void take(void *out, size_t num_bytes) {
    size_t left = (size_t)(end - at), n = left < num_bytes ? left : num_bytes;
    memcpy(out, at, n);
    at += n;
}
static uint8_t take_byte(void) { return at < end ? *at++ : 0; }

// A struct that was good, changed: a few 32-bit words, each to a small, a large or any number; or,
// seldom, all of it.
static void change(void *base, size_t num_bytes) {
    uint8_t how = take_byte();
    if (how >= 250) return take(base, num_bytes);
    for (int i = 0; i < how % 4; i++) {
        size_t word = take_byte() % (num_bytes / 4);
        uint32_t value = take_byte();
        if (value >= 240) take(&value, sizeof value);
        memcpy((uint8_t *)base + 4 * word, &value, sizeof value);
    }
}

static void expect(ctok_status status, const ctok_error *error) {
    PROPERTY(ctok_status_name(status)[0] != '?' && status != CTOK_E_INTERNAL);
    if (status != CTOK_OK && error)
        PROPERTY(error->status == status && error->message[0] &&
                 memchr(error->message, 0, sizeof error->message));
}

static ctok_error *fresh(void) {
    static ctok_error error;
    error = (ctok_error){.struct_size = sizeof error};
    return &error;
}

static uint32_t finish(uint32_t job) {
    ctok_job_info info = {.struct_size = sizeof info};
    ctok_error *error = fresh();
    ctok_status status = ctok_job_wait(job, 100000000, error);
    PROPERTY(status != CTOK_E_NOT_READY);
    expect(status, error);
    PROPERTY(ctok_job_query(job, &info, NULL) == CTOK_OK && info.status == status);
    for (uint32_t i = 0; i < info.num_outputs; i++) {
        uint8_t *out = malloc(info.outputs[i].bytes);
        PROPERTY(out && ctok_job_take(job, out, info.outputs[i].bytes, i, NULL) == CTOK_OK);
        free(out);
    }
    PROPERTY(ctok_job_release(job, NULL) == CTOK_OK);
    return info.model;
}

static void try_open(void) {
    ctok_model_options options = {.struct_size = sizeof options};
    change(&options, sizeof options);
    uint32_t job = 0;
    ctok_error *error = fresh();
    ctok_status status =
        ctok_model_open(engine, "models/nano/DI8x8.safetensors", &options, &job, error);
    expect(status, error);
    if (status != CTOK_OK) return;
    uint32_t opened = finish(job);
    if (opened) PROPERTY(ctok_model_close(opened, NULL) == CTOK_OK);
}

static void try_request(void) {
    ctok_request request = {.struct_size = sizeof request,
                            .task = 1 + take_byte() % 3,
                            .input = CTOK_PIXELS_U8,
                            .height = 16,
                            .width = 16};
    if (request.task == CTOK_TASK_DECODE)
        request.input = CTOK_INDICES, request.height = request.width = 2;
    change(&request, sizeof request);
    ctok_plan plan = {.struct_size = sizeof plan};
    ctok_error *error = fresh();
    ctok_status planned = ctok_plan_query(model, &plan, &request, error);
    expect(planned, error);
    const uint64_t most = 1 << 16;  // of pixels and tokens, so that a run stays short; larger ones
                                    // are planned only
    uint64_t input_bytes = planned == CTOK_OK ? plan.input_bytes : 64;
    if (input_bytes > most || (planned == CTOK_OK && plan.result_bytes > 4 * most)) return;
    uint8_t *input = calloc(1, input_bytes + 1);
    PROPERTY(input);
    take(input, input_bytes);
    uint32_t job = 0;
    ctok_status status =
        ctok_job_submit(model, input, input_bytes, &request, &job, error = fresh());
    free(input);
    expect(status, error);
    PROPERTY((status == CTOK_OK) == (planned == CTOK_OK && request.chunk == 0) ||
             status == CTOK_E_ARGUMENT);
    if (status == CTOK_OK) finish(job);
}

static void try_ids(void) {
    uint32_t id = take_byte(), word;
    if (id >= 128) take(&id, sizeof id);
    if (id == engine || id == model) return;
    ctok_job_info info = {.struct_size = sizeof info};
    ctok_model_info about = {.struct_size = sizeof about};
    ctok_engine_info engine_about = {.struct_size = sizeof engine_about};
    change(&info, sizeof info);
    const ctok_status found[] = {ctok_job_query(id, &info, fresh()),
                                 ctok_job_cancel(id, NULL),
                                 ctok_job_release(id, NULL),
                                 ctok_model_close(id, NULL),
                                 ctok_stream_close(id, NULL),
                                 ctok_engine_close(id, NULL),
                                 ctok_model_query(id, &about, NULL),
                                 ctok_engine_query(id, &engine_about, NULL),
                                 ctok_job_take(id, &word, 4, 0, NULL),
                                 ctok_job_wait(id, 0, NULL),
                                 ctok_engine_ready(id, 0, NULL),
                                 ctok_device_list(id, &word, NULL),
                                 ctok_job_devices(id, NULL, 0, &word, NULL)};
    for (size_t i = 0; i < sizeof found / sizeof *found; i++)
        PROPERTY(found[i] == CTOK_E_HANDLE || found[i] == CTOK_E_STRUCT_SIZE);
}

static void try_engine(void) {
    ctok_engine_options options = {.struct_size = sizeof options, .num_threads = 1};
    change(&options, sizeof options);
    if (options.num_threads == 0 || options.num_threads > 4)
        options.num_threads = options.num_threads > 256 ? options.num_threads : 1;
    uint32_t other = 0;
    ctok_error *error = fresh();
    ctok_status status = ctok_engine_open(&options, NULL, &other, error);
    expect(status, error);
    if (status == CTOK_OK) PROPERTY(ctok_engine_close(other, NULL) == CTOK_OK);
}

static void try_stream(void) {
    ctok_stream_options options = {.struct_size = sizeof options, .task = CTOK_TASK_ENCODE};
    change(&options, sizeof options);
    uint32_t stream = 0;
    ctok_error *error = fresh();
    ctok_status status = ctok_stream_open(model, &options, &stream, error);
    expect(status, error);
    PROPERTY(status != CTOK_OK);  // an image tokenizer has none
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t num_bytes) {
    if (!engine) {
        uint32_t job = 0;
        ctok_engine_options options = {.struct_size = sizeof options, .num_threads = 1};
        PROPERTY(ctok_engine_open(&options, NULL, &engine, NULL) == CTOK_OK);
        PROPERTY(ctok_model_open(engine, "models/nano/DI8x8.safetensors", NULL, &job, NULL) ==
                 CTOK_OK);
        PROPERTY((model = finish(job)) != 0);
    }
    at = bytes, end = bytes + num_bytes;
    static void (*const calls[])(void) = {try_request, try_request, try_request, try_ids,
                                          try_stream,  try_engine,  try_open,    try_request};
    for (int i = 0; i < 4 && at < end; i++) calls[take_byte() % 8]();
    return 0;
}
