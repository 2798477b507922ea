// histories_of_two_threads_leave_nothing: two threads make any calls on engines, models, streams
// and jobs that they share, in any order: what one closes the other still uses. Every call returns
// a status that such a race can have, an engine that ends with its thread is gone with it, and in
// the end no job is left and one model. The input is two rows of bytes, a row a thread, two bytes a
// call: which, and on what. Needs models/nano (run from the root).
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "../../csrc/include/ctok.h"
#include "fuzz.h"

enum { NUM_SLOTS = 4, MAX_CALLS = 24 };
static uint32_t engine, model;
static _Atomic uint32_t jobs[NUM_SLOTS], models[NUM_SLOTS], streams[NUM_SLOTS];
static uint8_t pixels[9 * 16 * 16 * 3];

typedef struct {
    const uint8_t *bytes;
    size_t num_bytes;
    uint32_t own_engine;  // ends with the thread, where it opened one
} history;

static uint32_t finish(uint32_t job) {
    ctok_job_info info = {.struct_size = sizeof info};
    PROPERTY(ctok_job_wait(job, 100000000, NULL) == CTOK_OK &&
             ctok_job_query(job, &info, NULL) == CTOK_OK);
    PROPERTY(ctok_job_release(job, NULL) == CTOK_OK);
    return info.model;
}

static void open_once(void) {
    uint32_t job = 0;
    ctok_engine_options options = {.struct_size = sizeof options, .num_threads = 1};
    PROPERTY(ctok_engine_open(&options, NULL, &engine, NULL) == CTOK_OK);
    PROPERTY(ctok_model_open(engine, "models/nano/DV4x8x8.safetensors", NULL, &job, NULL) ==
             CTOK_OK);
    PROPERTY((model = finish(job)) != 0);
}

// What a call on a handle that another thread may have closed can answer: done, gone, ended, or not
// ended yet.
static ctok_status expect(ctok_status status, const ctok_error *error) {
    PROPERTY(status == CTOK_OK || status == CTOK_E_HANDLE || status == CTOK_E_CANCELLED ||
             status == CTOK_E_CLOSED || status == CTOK_E_NOT_READY);
    if (status != CTOK_OK && error) PROPERTY(error->status == status && error->message[0]);
    return status;
}

static void release(uint32_t job) {
    if (job) expect(ctok_job_release(job, NULL), NULL);
}

// The job takes the slot; the one that was there is let go, whatever it was at.
static void keep(uint32_t slot, uint32_t job) { release(atomic_exchange(&jobs[slot], job)); }

static void encode(uint32_t of, uint32_t slot) {
    ctok_request request = {.struct_size = sizeof request,
                            .task = CTOK_TASK_ENCODE,
                            .input = CTOK_PIXELS_U8,
                            .frames = 5,
                            .height = 16,
                            .width = 16};
    ctok_error error = {.struct_size = sizeof error};
    uint32_t job = 0;
    if (expect(ctok_job_submit(of, pixels, 5 * 16 * 16 * 3, &request, &job, &error), &error) ==
        CTOK_OK)
        keep(slot, job);
}

static void submit_chunk(uint32_t stream, uint32_t slot) {
    // A first chunk has a frame alone before its whole units: one that is a later chunk by now is
    // refused by its shape.
    ctok_request request = {.struct_size = sizeof request,
                            .input = CTOK_PIXELS_U8,
                            .frames = slot % 2 ? 4 : 5,
                            .height = 16,
                            .width = 16};
    ctok_error error = {.struct_size = sizeof error};
    uint32_t job = 0;
    ctok_status status = ctok_stream_submit(stream, pixels, (uint64_t)request.frames * 16 * 16 * 3,
                                            &request, &job, &error);
    if (status == CTOK_E_SHAPE || status == CTOK_E_ARGUMENT) return;
    if (expect(status, &error) == CTOK_OK) keep(slot, job);
}

static void take(uint32_t job) {
    ctok_job_info info = {.struct_size = sizeof info};
    if (expect(ctok_job_query(job, &info, NULL), NULL) != CTOK_OK || info.num_outputs == 0) return;
    uint8_t *out = malloc(info.outputs[0].bytes);
    PROPERTY(out);
    expect(ctok_job_take(job, out, info.outputs[0].bytes, 0, NULL), NULL);
    free(out);
}

static void open_own(history *h) {
    if (h->own_engine) return;
    ctok_engine_options options = {.struct_size = sizeof options,
                                   .num_threads = 1,
                                   .device = CTOK_DEVICE_CPU,
                                   .ends_with_thread = 1};
    uint32_t job = 0;
    PROPERTY(ctok_engine_open(&options, NULL, &h->own_engine, NULL) == CTOK_OK);
    PROPERTY(ctok_model_open(h->own_engine, "models/nano/DV4x8x8.safetensors", NULL, &job, NULL) ==
             CTOK_OK);  // left as it is
}

static void *live(void *argument) {
    history *h = argument;
    for (size_t i = 0; i + 1 < h->num_bytes && i < 2 * MAX_CALLS; i += 2) {
        uint32_t slot = h->bytes[i + 1] % NUM_SLOTS, job = atomic_load(&jobs[slot]), count = 0,
                 ended[8], opened = 0;
        ctok_model_options options = {.struct_size = sizeof options, .halves = CTOK_HALF_ENCODER};
        ctok_stream_options stream_options = {.struct_size = sizeof stream_options,
                                              .task = CTOK_TASK_ENCODE};
        ctok_job_info info = {.struct_size = sizeof info};
        switch (h->bytes[i] % 14) {
            case 0: encode(model, slot); break;
            case 1: encode(atomic_load(&models[slot]), slot); break;
            case 2: submit_chunk(atomic_load(&streams[slot]), slot); break;
            case 3: expect(ctok_job_cancel(job, NULL), NULL); break;
            case 4: take(job); break;
            case 5: keep(slot, 0); break;
            case 6: expect(ctok_job_wait(job, (h->bytes[i + 1] >> 2) * 1000u, NULL), NULL); break;
            case 7: expect(ctok_engine_wait(engine, ended, 8, &count, 0, NULL), NULL); break;
            case 8:  // a model, when it has been opened by then: else it is let go with its job
                PROPERTY(ctok_model_open(engine, "models/nano/DV4x8x8.safetensors", &options, &job,
                                         NULL) == CTOK_OK);
                expect(ctok_job_wait(job, 100000000, NULL), NULL);
                PROPERTY(ctok_job_query(job, &info, NULL) == CTOK_OK);
                release(job);
                opened = atomic_exchange(&models[slot], info.model);
                if (opened) expect(ctok_model_close(opened, NULL), NULL);
                break;
            case 9: expect(ctok_model_close(atomic_exchange(&models[slot], 0), NULL), NULL); break;
            case 10:
                opened = 0;
                if (expect(ctok_stream_open(slot % 2 ? model : atomic_load(&models[slot]),
                                            &stream_options, &opened, NULL),
                           NULL) != CTOK_OK)
                    break;
                opened = atomic_exchange(&streams[slot], opened);
                if (opened) expect(ctok_stream_close(opened, NULL), NULL);
                break;
            case 11:
                expect(ctok_stream_close(atomic_exchange(&streams[slot], 0), NULL), NULL);
                break;
            case 12: open_own(h); break;
            case 13:
                if (h->own_engine) expect(ctok_engine_close(h->own_engine, NULL), NULL);
                break;
        }
    }
    return NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t num_bytes) {
    if (!engine) open_once();
    size_t half = num_bytes / 2;
    history both[2] = {{.bytes = bytes, .num_bytes = half},
                       {.bytes = bytes + half, .num_bytes = num_bytes - half}};
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) PROPERTY(pthread_create(&threads[i], NULL, live, &both[i]) == 0);
    for (int i = 0; i < 2; i++) PROPERTY(pthread_join(threads[i], NULL) == 0);
    for (int i = 0; i < NUM_SLOTS; i++) {
        keep((uint32_t)i, 0);
        expect(ctok_stream_close(atomic_exchange(&streams[i], 0), NULL), NULL);
        expect(ctok_model_close(atomic_exchange(&models[i], 0), NULL), NULL);
    }
    ctok_engine_info info = {.struct_size = sizeof info};
    for (int i = 0; i < 2; i++)
        PROPERTY(!both[i].own_engine ||
                 ctok_engine_query(both[i].own_engine, &info, NULL) == CTOK_E_HANDLE);
    for (int tries = 0; tries < 60000; tries++) {  // the engine's thread lets go of the last job
                                                   // after its end
        PROPERTY(ctok_engine_query(engine, &info, NULL) == CTOK_OK);
        if (info.num_jobs == 0 && info.num_models == 1) return 0;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    PROPERTY(info.num_jobs == 0 && info.num_models == 1);
    return 0;
}
