// A storm of jobs: threads that share engines, models, streams and jobs open, submit, cancel, wait,
// take, release and close them in a random, seeded order, also under each other's hands. Held:
// every call answers with a status that its function may give there; what ends well is what it is
// when nothing else runs; at the end no model and no job is left. storm_test [SECONDS [SEED]]: 3
// seconds of seed 1 unless given; tests/long.ts runs it longer, under sanitizers. TAP.
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../../csrc/include/ctok.h"
#include "tap.h"

enum {
    NUM_THREADS = 4,
    NUM_ENGINES = 2,
    NUM_MODELS = 6,
    NUM_STREAMS = 3,
    NUM_JOBS = 48,
    NUM_KINDS = 6
};

// A job's kind: opening a model, a request whose answer is known, or a chunk of a stream.
enum { OPEN_IMAGE = NUM_KINDS, OPEN_VIDEO, OPEN_NOTHING, CHUNK };
static const char *const paths[] = {"models/nano/DI8x8.safetensors",
                                    "models/nano/DV4x8x8.safetensors", "no/such/model"};
static const struct {
    bool is_video;
    ctok_request request;
    uint64_t input_bytes;
} kinds[NUM_KINDS] = {
    {false,
     {.task = CTOK_TASK_ENCODE,
      .input = CTOK_PIXELS_U8,
      .outputs = CTOK_INDICES,
      .height = 16,
      .width = 16},
     16 * 16 * 3},
    {false,
     {.task = CTOK_TASK_ENCODE,
      .input = CTOK_PIXELS_U8,
      .outputs = CTOK_INDICES,
      .height = 48,
      .width = 33},
     48 * 33 * 3},
    {false,
     {.task = CTOK_TASK_DECODE,
      .input = CTOK_INDICES,
      .outputs = CTOK_PIXELS_U8,
      .height = 2,
      .width = 3},
     6 * 4},
    {false,
     {.task = CTOK_TASK_AUTOENCODE, .input = CTOK_PIXELS_U8, .batch = 2, .height = 16, .width = 17},
     2 * 16 * 17 * 3},
    {true,
     {.task = CTOK_TASK_ENCODE,
      .input = CTOK_PIXELS_U8,
      .outputs = CTOK_INDICES,
      .frames = 5,
      .height = 16,
      .width = 16},
     5 * 16 * 16 * 3},
    {true,
     {.task = CTOK_TASK_DECODE,
      .input = CTOK_INDICES,
      .outputs = CTOK_PIXELS_U8,
      .frames = 2,
      .height = 2,
      .width = 2},
     8 * 4},
};
static int32_t input[5 * 16 * 16 * 3];  // valid as indices, and as bytes of pixels
static uint64_t answers[NUM_KINDS];     // hashes of the first output

// Slots hold ids, 0: free. Whoever exchanges an id for 0 owns it; others may still use it until it
// is stale. A job's slot holds id << 8 | kind.
static atomic_uint engines[NUM_ENGINES], models[2][NUM_MODELS], streams[NUM_STREAMS];
static _Atomic uint64_t jobs[NUM_JOBS];
static atomic_long num_calls, num_answers;
static atomic_int num_wrong;
static atomic_bool is_over;

static int64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static uint64_t hash(const uint8_t *bytes, uint64_t num_bytes) {  // FNV-1a
    uint64_t h = 14695981039346656037u;
    for (uint64_t i = 0; i < num_bytes; i++) h = (h ^ bytes[i]) * 1099511628211u;
    return h;
}

// Whether a call went well; its status must be one of `allowed` (0 ends the list) or OK, with a
// message where it failed.
static bool went_well(ctok_status status, const ctok_error *error, const char *call,
                      const ctok_status *allowed) {
    atomic_fetch_add(&num_calls, 1);
    if (status == CTOK_OK) return true;
    bool is_allowed = error->status == status && error->message[0];
    while (is_allowed && *allowed && *allowed != status) allowed++;
    if (is_allowed && *allowed) return false;
    atomic_fetch_add(&num_wrong, 1);
    printf("# %s: found %s, \"%s\"\n", call, ctok_status_name(status), error->message);
    return false;
}
#define WENT_WELL(call, error, ...) \
    went_well(call, error, #call, (const ctok_status[]){__VA_ARGS__ __VA_OPT__(, ) 0})

static void wrong(const char *what, uint32_t kind) {
    atomic_fetch_add(&num_wrong, 1);
    printf("# %s, kind %u\n", what, kind);
}

// ---------------------------------------------------------------- what a thread does
typedef struct {
    unsigned seed;
    ctok_error error;
} hand;

static unsigned any(hand *h, unsigned n) { return (unsigned)rand_r(&h->seed) % n; }
static ctok_error *fresh(hand *h) {
    h->error = (ctok_error){.struct_size = sizeof h->error};
    return &h->error;
}

static void close_model(hand *h, uint32_t model) {
    if (model) WENT_WELL(ctok_model_close(model, fresh(h)), &h->error, CTOK_E_HANDLE);
}

// Waits for a job that is this thread's, looks at what it gave, and releases it.
static void finish(hand *h, uint64_t job_and_kind) {
    uint32_t job = (uint32_t)(job_and_kind >> 8), kind = job_and_kind & 255;
    ctok_job_info info = {.struct_size = sizeof info};
    ctok_status status = CTOK_E_NOT_READY;
    for (int i = 0; i < 600 && status == CTOK_E_NOT_READY; i++)
        status = ctok_job_wait(job, 100000, fresh(h));
    bool is_well = WENT_WELL(status, &h->error, CTOK_E_CANCELLED, CTOK_E_CLOSED,
                             kind == OPEN_NOTHING ? CTOK_E_FILE_MISSING : CTOK_E_CLOSED);
    if (is_well && WENT_WELL(ctok_job_query(job, &info, fresh(h)), &h->error)) {
        if (kind == OPEN_IMAGE || kind == OPEN_VIDEO) {
            close_model(
                h, atomic_exchange(&models[kind == OPEN_VIDEO][any(h, NUM_MODELS)], info.model));
        } else if (kind == OPEN_NOTHING) {
            wrong("a model that is not there was opened", kind);
        } else {
            uint8_t *out = malloc(info.outputs[0].bytes);
            bool is_taken =
                WENT_WELL(ctok_job_take(job, out, info.outputs[0].bytes, 0, fresh(h)), &h->error);
            if (is_taken && kind < NUM_KINDS && hash(out, info.outputs[0].bytes) != answers[kind])
                wrong("another answer", kind);
            atomic_fetch_add(&num_answers, 1);
            free(out);
        }
    }
    WENT_WELL(ctok_job_release(job, fresh(h)), &h->error);
}

static void keep(hand *h, uint32_t job, uint32_t kind) {
    uint64_t before = atomic_exchange(&jobs[any(h, NUM_JOBS)], (uint64_t)job << 8 | kind);
    if (before) finish(h, before);
}

static void open_engine(hand *h) {
    ctok_engine_options options = {
        .struct_size = sizeof options, .num_threads = 1 + any(h, 3), .device = CTOK_DEVICE_CPU};
    uint32_t engine = 0;
    if (!WENT_WELL(ctok_engine_open(&options, NULL, &engine, fresh(h)), &h->error)) return;
    uint32_t before = atomic_exchange(&engines[any(h, NUM_ENGINES)], engine);
    if (before) WENT_WELL(ctok_engine_close(before, fresh(h)), &h->error);
}

static void open_model(hand *h) {
    uint32_t which = any(h, 8), job = 0,
             kind = which == 0  ? OPEN_NOTHING
                    : which % 2 ? OPEN_IMAGE
                                : OPEN_VIDEO;
    ctok_model_options options = {.struct_size = sizeof options, .num_threads = any(h, 4)};
    ctok_status status = ctok_model_open(atomic_load(&engines[any(h, NUM_ENGINES)]),
                                         paths[kind - OPEN_IMAGE], &options, &job, fresh(h));
    if (!WENT_WELL(status, &h->error, CTOK_E_HANDLE, CTOK_E_CLOSED)) return;
    if (any(h, 6) == 0)
        WENT_WELL(ctok_job_release(job, fresh(h)), &h->error);  // nobody will know of the model
    else keep(h, job, kind);
}

static void submit(hand *h) {
    uint32_t kind = any(h, NUM_KINDS), job = 0,
             model = atomic_load(&models[kinds[kind].is_video][any(h, NUM_MODELS)]);
    ctok_request request = kinds[kind].request;
    request.struct_size = sizeof request;
    ctok_plan plan = {.struct_size = sizeof plan};
    if (any(h, 4) == 0)
        WENT_WELL(ctok_plan_query(model, &plan, &request, fresh(h)), &h->error, CTOK_E_HANDLE);
    ctok_status status =
        ctok_job_submit(model, input, kinds[kind].input_bytes, &request, &job, fresh(h));
    if (!WENT_WELL(status, &h->error, CTOK_E_HANDLE, CTOK_E_CLOSED)) return;
    if (any(h, 8) == 0) WENT_WELL(ctok_job_release(job, fresh(h)), &h->error);
    else keep(h, job, kind);
}

static void open_stream(hand *h) {
    ctok_stream_options options = {
        .struct_size = sizeof options, .task = CTOK_TASK_ENCODE, .attention_frames = any(h, 4)};
    uint32_t stream = 0, model = atomic_load(&models[1][any(h, NUM_MODELS)]);
    if (!WENT_WELL(ctok_stream_open(model, &options, &stream, fresh(h)), &h->error, CTOK_E_HANDLE))
        return;
    uint32_t before = atomic_exchange(&streams[any(h, NUM_STREAMS)], stream);
    if (before)
        WENT_WELL(ctok_stream_close(before, fresh(h)), &h->error, CTOK_E_HANDLE);  // gone with its
                                                                                   // model, perhaps
}

// Several threads feed one stream, so a chunk of 1 frame, which only the first may be, can be
// refused.
static void feed_stream(hand *h) {
    uint32_t job = 0, stream = atomic_load(&streams[any(h, NUM_STREAMS)]);
    ctok_request request = {.struct_size = sizeof request,
                            .input = CTOK_PIXELS_U8,
                            .frames = any(h, 3) ? 4 : 1,
                            .height = 16,
                            .width = 16};
    ctok_status status = ctok_stream_submit(stream, input, (uint64_t)request.frames * 16 * 16 * 3,
                                            &request, &job, fresh(h));
    if (WENT_WELL(status, &h->error, CTOK_E_HANDLE, CTOK_E_CLOSED, CTOK_E_SHAPE))
        keep(h, job, CHUNK);
}

static void ask(hand *h) {
    ctok_engine_info about = {.struct_size = sizeof about};
    ctok_model_info model = {.struct_size = sizeof model};
    ctok_job_info info = {.struct_size = sizeof info};
    uint32_t ids[8], count, engine = atomic_load(&engines[any(h, NUM_ENGINES)]),
                            job = (uint32_t)(atomic_load(&jobs[any(h, NUM_JOBS)]) >> 8);
    switch (any(h, 6)) {
        case 0:
            WENT_WELL(ctok_engine_query(engine, &about, fresh(h)), &h->error, CTOK_E_HANDLE);
            break;
        case 1:
            WENT_WELL(ctok_engine_wait(engine, ids, 8, &count, any(h, 2) * 1000, fresh(h)),
                      &h->error, CTOK_E_HANDLE);
            break;
        case 2: WENT_WELL(ctok_job_query(job, &info, fresh(h)), &h->error, CTOK_E_HANDLE); break;
        case 3:
            WENT_WELL(ctok_model_query(atomic_load(&models[any(h, 2)][0]), &model, fresh(h)),
                      &h->error, CTOK_E_HANDLE);
            break;
        case 4:
            WENT_WELL(ctok_job_wait(job, any(h, 2) * 1000, fresh(h)), &h->error, CTOK_E_HANDLE,
                      CTOK_E_NOT_READY, CTOK_E_CANCELLED, CTOK_E_CLOSED, CTOK_E_FILE_MISSING);
            break;
        default: WENT_WELL(ctok_job_cancel(job, fresh(h)), &h->error, CTOK_E_HANDLE);
    }
}

static void *blow(void *argument) {
    hand *h = argument;
    while (!atomic_load(&is_over)) {
        unsigned what = any(h, 1000);
        if (what < 5) open_engine(h);
        else if (what < 60) open_model(h);
        else if (what < 70)
            close_model(h, atomic_exchange(&models[any(h, 2)][any(h, NUM_MODELS)], 0));
        else if (what < 110) open_stream(h);
        else if (what < 230) feed_stream(h);
        else if (what < 600) ask(h);
        else if (what < 850) submit(h);
        else {
            uint64_t mine = atomic_exchange(&jobs[any(h, NUM_JOBS)], 0);
            if (mine) finish(h, mine);
        }
    }
    return NULL;
}

// ---------------------------------------------------------------- before and after
// The answers, on an engine of one thread where nothing else runs.
static bool find_answers(hand *h) {
    ctok_engine_options options = {
        .struct_size = sizeof options, .num_threads = 1, .device = CTOK_DEVICE_CPU};
    uint32_t engine = 0, job = 0, opened[2] = {0};
    ctok_job_info info = {.struct_size = sizeof info};
    for (size_t i = 0; i < sizeof input / sizeof *input; i++)
        input[i] = (int32_t)(i * 7919 % 64000);
    if (!WENT_WELL(ctok_engine_open(&options, NULL, &engine, fresh(h)), &h->error)) return false;
    for (int i = 0; i < 2; i++) {
        if (!WENT_WELL(ctok_model_open(engine, paths[i], NULL, &job, fresh(h)), &h->error))
            return false;
        if (!WENT_WELL(ctok_job_wait(job, 60000000, fresh(h)), &h->error) ||
            ctok_job_query(job, &info, NULL) != CTOK_OK)
            return false;
        opened[i] = info.model;
    }
    for (int kind = 0; kind < NUM_KINDS; kind++) {
        ctok_request request = kinds[kind].request;
        request.struct_size = sizeof request;
        ctok_status status = ctok_job_submit(opened[kinds[kind].is_video], input,
                                             kinds[kind].input_bytes, &request, &job, fresh(h));
        if (!WENT_WELL(status, &h->error) ||
            !WENT_WELL(ctok_job_wait(job, 60000000, fresh(h)), &h->error))
            return false;
        ctok_job_query(job, &info, NULL);
        uint8_t *out = malloc(info.outputs[0].bytes);
        if (ctok_job_take(job, out, info.outputs[0].bytes, 0, NULL) == CTOK_OK)
            answers[kind] = hash(out, info.outputs[0].bytes);
        free(out);
    }
    return WENT_WELL(ctok_engine_close(engine, fresh(h)), &h->error);
}

// Everything that the slots hold is let go; the engines must then hold nothing. A job that was
// released while it ran may still run.
static bool clear_up(hand *h) {
    for (int i = 0; i < NUM_JOBS; i++) {
        uint64_t job = atomic_exchange(&jobs[i], 0);
        if (job) finish(h, job);
    }
    for (int i = 0; i < 2 * NUM_MODELS; i++)
        close_model(h, atomic_exchange(&models[i / NUM_MODELS][i % NUM_MODELS], 0));
    bool is_empty = true;
    for (int i = 0; i < NUM_ENGINES; i++) {
        uint32_t engine = atomic_load(&engines[i]);
        ctok_engine_info info = {.struct_size = sizeof info};
        for (int tries = 0; tries < 6000; tries++) {
            if (!engine || !WENT_WELL(ctok_engine_query(engine, &info, fresh(h)), &h->error)) break;
            if (info.num_models == 0 && info.num_jobs == 0) break;
            nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
        }
        if (info.num_models || info.num_jobs)
            is_empty = false,
            printf("# left: %u models, %u jobs\n", info.num_models, info.num_jobs);
        if (engine) WENT_WELL(ctok_engine_close(engine, fresh(h)), &h->error);
    }
    return is_empty;
}

int main(int argc, char **argv) {
    double seconds = argc > 1 ? atof(argv[1]) : 3;
    unsigned seed = argc > 2 ? (unsigned)atoi(argv[2]) : 1;
    static hand hands[NUM_THREADS];
    pthread_t threads[NUM_THREADS];
    bool is_found = find_answers(&hands[0]);
    report(is_found, "the answers when nothing else runs");
    for (int i = 0; i < NUM_ENGINES; i++) open_engine(&hands[0]);
    int64_t end = now_ms() + (int64_t)(seconds * 1000);
    for (unsigned i = 0; i < NUM_THREADS; i++) {
        hands[i].seed = seed * NUM_THREADS + i;
        pthread_create(&threads[i], NULL, blow, &hands[i]);
    }
    while (now_ms() < end) nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    atomic_store(&is_over, true);
    for (int i = 0; i < NUM_THREADS; i++) pthread_join(threads[i], NULL);
    bool is_empty = clear_up(&hands[0]),
         is_right = atomic_load(&num_wrong) == 0 && atomic_load(&num_answers) > 0;
    report(is_right, "%d threads, seed %u: %ld calls, %ld results, %d wrong", NUM_THREADS, seed,
           atomic_load(&num_calls), atomic_load(&num_answers), atomic_load(&num_wrong));
    report(is_empty, "no model and no job is left");
    return report_end();
}
