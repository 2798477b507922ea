// What happens when memory runs out: a whole life (engine, open, encode, decode, a stream, convert)
// is run with the n-th allocation refused, for n = 1, 2, 3, ... until none is refused any more.
// Each time every call must end well or with CTOK_E_MEMORY (CTOK_E_THREAD for an engine), and the
// same life right after it must succeed. Needs models/nano. TAP.
// wrapped: malloc calloc realloc aligned_alloc strdup mmap mremap pthread_create
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../../csrc/include/ctok.h"
#include "tap.h"

static atomic_long num_allocations, refused = -1;  // the number of the one that is refused; -1:
                                                   // none

static bool is_refused(void) {
    return atomic_fetch_add(&num_allocations, 1) == atomic_load(&refused);
}

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__real_aligned_alloc(size_t alignment, size_t n);
char *__real_strdup(const char *s);
void *__real_mmap(void *at, size_t n, int protection, int flags, int descriptor, off_t offset);
void *__real_mremap(void *old, size_t old_bytes, size_t new_bytes, int flags);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_aligned_alloc(size_t alignment, size_t n);
char *__wrap_strdup(const char *s);
void *__wrap_mmap(void *at, size_t n, int protection, int flags, int descriptor, off_t offset);
void *__wrap_mremap(void *old, size_t old_bytes, size_t new_bytes, int flags);
void *__wrap_malloc(size_t n) { return is_refused() ? NULL : __real_malloc(n); }
void *__wrap_calloc(size_t n, size_t size) { return is_refused() ? NULL : __real_calloc(n, size); }
void *__wrap_realloc(void *p, size_t n) { return is_refused() ? NULL : __real_realloc(p, n); }
void *__wrap_aligned_alloc(size_t alignment, size_t n) {
    return is_refused() ? NULL : __real_aligned_alloc(alignment, n);
}
char *__wrap_strdup(const char *s) { return is_refused() ? NULL : __real_strdup(s); }
void *__wrap_mmap(void *at, size_t n, int protection, int flags, int descriptor, off_t offset) {
    return is_refused() ? MAP_FAILED : __real_mmap(at, n, protection, flags, descriptor, offset);
}
void *__wrap_mremap(void *old, size_t old_bytes, size_t new_bytes, int flags) {
    return is_refused() ? MAP_FAILED : __real_mremap(old, old_bytes, new_bytes, flags);
}

static int threads_left = -1;  // that the system gives; -1: any number
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
                          void *argument);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
                          void *argument);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
                          void *argument) {
    if (threads_left == 0) return EAGAIN;
    if (threads_left > 0) threads_left--;
    return __real_pthread_create(thread, attributes, run, argument);
}

static int num_wrong, num_refusals;

// A step of the life; false where it failed, rightly or not.
static bool went_well(ctok_status status, const char *step) {
    if (status == CTOK_OK) return true;
    if (status == CTOK_E_MEMORY && atomic_load(&refused) >= 0) num_refusals++;
    else
        num_wrong++, printf("# %s, allocation %ld refused: found %s\n", step, atomic_load(&refused),
                            ctok_status_name(status));
    return false;
}

static bool finish(uint32_t job, uint32_t *model, const char *step) {
    ctok_job_info info = {.struct_size = sizeof info};
    bool is_well = went_well(ctok_job_wait(job, 60000000, NULL), step);
    ctok_job_query(job, &info, NULL);
    if (model) *model = info.model;
    ctok_job_release(job, NULL);
    return is_well;
}

static bool run_request(uint32_t model, ctok_request request, uint64_t input_bytes) {
    static uint8_t input[16 * 16 * 3 * 9];
    uint32_t job = 0;
    request.struct_size = sizeof request;
    return went_well(ctok_job_submit(model, input, input_bytes, &request, &job, NULL), "submit") &&
           finish(job, NULL, "run");
}

static bool run_stream(uint32_t model) {
    static uint8_t input[16 * 16 * 3 * 5];
    uint32_t stream = 0, job = 0;
    ctok_stream_options options = {.struct_size = sizeof options, .task = CTOK_TASK_ENCODE};
    if (!went_well(ctok_stream_open(model, &options, &stream, NULL), "stream_open")) return false;
    bool is_well = true;
    for (int i = 0; i < 2 && is_well; i++) {
        ctok_request request = {.struct_size = sizeof request,
                                .input = CTOK_PIXELS_U8,
                                .frames = i ? 4 : 1,
                                .height = 16,
                                .width = 16};
        is_well = went_well(ctok_stream_submit(stream, input, 16 * 16 * 3 * (i ? 4 : 1), &request,
                                               &job, NULL),
                            "stream_submit") &&
                  finish(job, NULL, "chunk");
    }
    ctok_stream_close(stream, NULL);
    return is_well;
}

static bool live(const char *path, bool is_video, const char *copy) {
    uint32_t engine = 0, model = 0, job = 0;
    ctok_engine_options options = {
        .struct_size = sizeof options, .num_threads = 2, .kernels = CTOK_KERNELS_GENERIC};
    ctok_model_options halves = {.struct_size = sizeof halves, .num_threads = 1};
    if (!went_well(ctok_engine_open(&options, NULL, &engine, NULL), "engine_open")) return false;
    bool is_well = went_well(ctok_model_open(engine, path, &halves, &job, NULL), "model_open") &&
                   finish(job, &model, "open");
    if (is_well) {
        ctok_request encode = {.task = CTOK_TASK_ENCODE,
                               .input = CTOK_PIXELS_U8,
                               .frames = 1,
                               .height = 16,
                               .width = 16};
        ctok_request decode = {
            .task = CTOK_TASK_DECODE, .input = CTOK_INDICES, .frames = 1, .height = 2, .width = 2};
        is_well = run_request(model, encode, 16 * 16 * 3) && run_request(model, decode, 16) &&
                  (!is_video || run_stream(model));
        ctok_model_close(model, NULL);
    }
    if (is_well && copy)
        is_well = went_well(ctok_model_convert(engine, copy, path, NULL, &job, NULL), "convert") &&
                  finish(job, NULL, "write");
    ctok_engine_close(engine, NULL);
    return is_well;
}

// Refuses each allocation in turn; the life after it must be well. Every 8th life is a whole one:
// twice the time is enough.
static void sweep(const char *name, const char *path, bool is_video, const char *copy) {
    long n = 0;
    num_wrong = num_refusals = 0;
    for (bool is_past_end = false; !is_past_end; n++) {
        atomic_store(&num_allocations, 0);
        atomic_store(&refused, n);
        live(path, is_video, copy);
        is_past_end = atomic_load(&num_allocations) <= n;
        atomic_store(&refused, -1);
        if (n % 8 == 0 && !live(path, is_video, copy)) num_wrong++;
    }
    bool is_ok = num_wrong == 0 && n > 80 && num_refusals > 80;  // a life has 85: opening and
                                                                 // writing take a few for all
                                                                 // tensors together
    report(is_ok, "%s: each of %ld allocations refused, %d ended in CTOK_E_MEMORY, %d wrong", name,
           n - 1, num_refusals, num_wrong);
}

// An engine of 4 threads starts 3 workers and its own; the system gives 0 to 3 of these.
static void test_threads(void) {
    bool is_ok = true;
    for (int given = 0; given < 5; given++) {
        uint32_t engine = 0;
        ctok_error error = {.struct_size = sizeof error};
        ctok_engine_options options = {.struct_size = sizeof options, .num_threads = 4};
        threads_left = given;
        ctok_status status = ctok_engine_open(&options, NULL, &engine, &error);
        threads_left = -1;
        is_ok &= given == 4
                     ? status == CTOK_OK
                     : status == CTOK_E_THREAD && error.status == CTOK_E_THREAD && error.message[0];
        if (status == CTOK_OK) ctok_engine_close(engine, NULL);
    }
    report(is_ok, "an engine that the system refuses threads");
}

int main(void) {
    char copy[64];
    snprintf(copy, sizeof copy, "/tmp/ctok-memory-%d.safetensors", (int)getpid());
    sweep("an image tokenizer", "models/nano/DI8x8.safetensors", false, copy);
    sweep("a video tokenizer and a stream", "models/nano/DV4x8x8.safetensors", true, NULL);
    unlink(copy);
    test_threads();
    return report_end();
}
