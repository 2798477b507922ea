// How engines end beside being closed: with the thread that opened them, whatever runs then; not at
// all inside wake; and in the child of a fork() their ids are stale at once, while an engine of the
// child's own works. Needs models/nano (run from the root). TAP on stdout.
#include <dirent.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../csrc/include/ctok.h"
#include "tap.h"

enum { SIDE = 512, EMULATED_SIDE = 128, A_MINUTE = 60000000, NUM_JOBS = 3 };

// ThreadSanitizer takes a fork for the end of what it can follow, unless told otherwise.
const char *__tsan_default_options(void);
const char *__tsan_default_options(void) { return "die_after_fork=0"; }

static int num_threads_of_process(void) {
    DIR *tasks = opendir("/proc/self/task");
    int count = 0;
    for (struct dirent *entry; tasks && (entry = readdir(tasks));) count += entry->d_name[0] != '.';
    if (tasks) closedir(tasks);
    return count;
}

static const char *const image_path = "models/nano/DI8x8.safetensors",
                         *const video_path = "models/nano/DV4x8x8.safetensors";

static uint32_t open_model(uint32_t engine, const char *path) {
    uint32_t job = 0;
    ctok_job_info info = {.struct_size = sizeof info};
    if (ctok_model_open(engine, path, NULL, &job, NULL) || ctok_job_wait(job, A_MINUTE, NULL) ||
        ctok_job_query(job, &info, NULL))
        return 0;
    ctok_job_release(job, NULL);
    return info.model;
}

static uint32_t submit(uint32_t model, int64_t side) {
    static const uint8_t pixels[SIDE * SIDE * 3];
    uint32_t job = 0;
    ctok_request request = {.struct_size = sizeof request,
                            .task = CTOK_TASK_ENCODE,
                            .input = CTOK_PIXELS_U8,
                            .height = side,
                            .width = side};
    ctok_job_submit(model, pixels, (uint64_t)(side * side * 3), &request, &job, NULL);
    return job;
}

// ---------------------------------------------------------------- what a thread opened
typedef struct {
    uint32_t ends_with_thread;
    uint32_t engine, model, video, stream, jobs[NUM_JOBS + 1];
    bool was_at_work;  // when the thread ended
    pthread_barrier_t *opened;
} opened;

// Jobs of every kind: ended and not released, running, queued, opening.
static void *open_and_leave(void *argument) {
    opened *o = argument;
    ctok_engine_options options = {
        .struct_size = sizeof options, .num_threads = 2, .ends_with_thread = o->ends_with_thread};
    ctok_stream_options encode = {.struct_size = sizeof encode, .task = CTOK_TASK_ENCODE};
    ctok_engine_open(&options, NULL, &o->engine, NULL);
    o->model = open_model(o->engine, image_path), o->video = open_model(o->engine, video_path);
    ctok_stream_open(o->video, &encode, &o->stream, NULL);
    o->jobs[0] = submit(o->model, 16);
    bool has_ended = ctok_job_wait(o->jobs[0], A_MINUTE, NULL) == CTOK_OK;
    if (o->opened) pthread_barrier_wait(o->opened);
    for (int i = 1; i < NUM_JOBS; i++)
        o->jobs[i] = submit(o->model, is_emulated() ? EMULATED_SIDE : SIDE);
    ctok_model_open(o->engine, image_path, NULL, &o->jobs[NUM_JOBS], NULL);
    o->was_at_work = has_ended && ctok_job_wait(o->jobs[NUM_JOBS], 0, NULL) == CTOK_E_NOT_READY;
    return NULL;
}

static bool is_gone(const opened *o) {
    bool is_gone =
        ctok_engine_query(o->engine, &(ctok_engine_info){.struct_size = sizeof(ctok_engine_info)},
                          NULL) == CTOK_E_HANDLE &&
        ctok_model_query(o->model, &(ctok_model_info){.struct_size = sizeof(ctok_model_info)},
                         NULL) == CTOK_E_HANDLE &&
        ctok_stream_close(o->stream, NULL) == CTOK_E_HANDLE;
    for (int i = 0; i <= NUM_JOBS; i++)
        is_gone = is_gone && ctok_job_wait(o->jobs[i], 0, NULL) == CTOK_E_HANDLE;
    return is_gone;
}

static opened run_thread(uint32_t ends_with_thread) {
    opened o = {.ends_with_thread = ends_with_thread};
    pthread_t thread;
    if (pthread_create(&thread, NULL, open_and_leave, &o)) exit(1);
    pthread_join(thread, NULL);
    return o;
}

static void test_thread_ends(void) {
    opened o = run_thread(1);
    report(o.engine && o.stream && o.was_at_work && is_gone(&o),
           "an engine at work ends with its thread: no id of it is left");
    int before = num_threads_of_process();
    for (int i = 0; i < 20; i++) o = run_thread(1);
    bool is_as_before = false;  // a thread that was joined is listed a moment longer
    for (int i = 0; i < 60000 && !is_as_before; i++)
        is_as_before = num_threads_of_process() <= before || usleep(1000);
    report(is_gone(&o) && is_as_before, "twenty more leave no thread");

    o = run_thread(0);
    bool has_ended = o.was_at_work;
    for (int i = 0; i <= NUM_JOBS; i++)
        has_ended = has_ended && ctok_job_wait(o.jobs[i], A_MINUTE, NULL) == CTOK_OK &&
                    ctok_job_release(o.jobs[i], NULL) == CTOK_OK;
    report(has_ended && ctok_engine_close(o.engine, NULL) == CTOK_OK,
           "without ends_with_thread it works on");
}

// Opens two engines, closes one, without releasing its job, and ends.
static uint32_t left_job;
static void *open_two(void *argument) {
    uint32_t *engines = argument;
    ctok_engine_options options = {
        .struct_size = sizeof options, .num_threads = 1, .ends_with_thread = 1};
    for (int i = 0; i < 2; i++) ctok_engine_open(&options, NULL, &engines[i], NULL);
    ctok_model_open(engines[0], image_path, NULL, &left_job, NULL);
    ctok_engine_close(engines[0], NULL);
    if (ctok_job_wait(left_job, 0, NULL) == CTOK_E_HANDLE) left_job = 0;
    return NULL;
}

// Somebody else waits for the engine while its thread ends.
static void *wait_for_it(void *argument) {
    opened *o = argument;
    uint32_t job, count = 0;
    pthread_barrier_wait(o->opened);
    ctok_status status = CTOK_OK;
    while (status == CTOK_OK) status = ctok_engine_wait(o->engine, &job, 0, &count, A_MINUTE, NULL);
    return status == CTOK_E_HANDLE ? o : NULL;
}

static void test_others(void) {
    pthread_t thread, waiter;
    uint32_t engines[2] = {0};
    if (pthread_create(&thread, NULL, open_two, engines)) exit(1);
    pthread_join(thread, NULL);
    ctok_engine_info info = {.struct_size = sizeof info};
    report(engines[1] && ctok_engine_query(engines[0], &info, NULL) == CTOK_E_HANDLE &&
               ctok_engine_query(engines[1], &info, NULL) == CTOK_E_HANDLE,
           "of two engines, one closed before, the other ends with the thread");
    report(left_job && ctok_job_wait(left_job, 0, NULL) == CTOK_E_HANDLE,
           "and a job of the closed one, which it left");

    pthread_barrier_t barrier;
    pthread_barrier_init(&barrier, NULL, 2);
    opened o = {.ends_with_thread = 1, .opened = &barrier};
    void *answer = NULL;
    if (pthread_create(&thread, NULL, open_and_leave, &o) ||
        pthread_create(&waiter, NULL, wait_for_it, &o))
        exit(1);
    pthread_join(thread, NULL);
    pthread_join(waiter, &answer);
    report(answer == &o, "whoever waits for it on another thread is answered");
    pthread_barrier_destroy(&barrier);
}

// ---------------------------------------------------------------- inside wake
static uint32_t woken_engine;
static atomic_uint woken_job;  // 0: not known yet
static atomic_int num_refused, num_allowed;
static atomic_bool has_returned;

// The job is released before the engine is closed, so that closing, were it allowed, would free the
// engine under its thread.
static void call_back(void) {
    ctok_error error = {.struct_size = sizeof error};
    uint32_t ids[4], count = 0, job;
    while (!(job = atomic_load(&woken_job))) usleep(100);
    num_refused +=
        ctok_job_wait(job, 1000, &error) == CTOK_E_ARGUMENT && strstr(error.message, "wake");
    num_refused += ctok_engine_wait(woken_engine, ids, 4, &count, 1000, &error) == CTOK_E_ARGUMENT;
    num_allowed += ctok_job_wait(job, 0, NULL) == CTOK_OK;
    num_allowed += ctok_engine_wait(woken_engine, ids, 4, &count, 0, NULL) == CTOK_OK &&
                   count == 1 && ids[0] == job;
    num_allowed += ctok_job_release(job, NULL) == CTOK_OK;
    num_refused +=
        ctok_engine_close(woken_engine, &error) == CTOK_E_ARGUMENT && strstr(error.message, "wake");
    atomic_store(&has_returned, true);
}

static void test_wake(void) {
    uint32_t job = 0;
    ctok_engine_open(NULL, call_back, &woken_engine, NULL);
    ctok_model_open(woken_engine, image_path, NULL, &job, NULL);
    atomic_store(&woken_job, job);
    for (int i = 0; i < 600000 && !atomic_load(&has_returned); i++) usleep(100);
    report(atomic_load(&has_returned) && num_refused == 3,
           "inside wake, closing the engine and waiting with a timeout are CTOK_E_ARGUMENT");
    report(num_allowed == 3, "looking and releasing are not");
    report(ctok_engine_close(woken_engine, NULL) == CTOK_OK, "and the engine closes afterwards");
}

// ---------------------------------------------------------------- fork
// Runs `child` in a child process, which is killed after a minute; whether it answered true.
static bool holds_in_child(bool (*child)(const opened *o), const opened *o) {
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        alarm(60);
        _exit(child(o) ? 0 : 1);
    }
    int state = 0;
    return waitpid(pid, &state, 0) == pid && WIFEXITED(state) && WEXITSTATUS(state) == 0;
}

static bool has_no_ids(const opened *o) {
    ctok_error error = {.struct_size = sizeof error};
    uint32_t id = 0, count;
    return is_gone(o) && ctok_engine_close(o->engine, &error) == CTOK_E_HANDLE &&
           strstr(error.message, "fork()") &&
           ctok_engine_wait(o->engine, &id, 1, &count, A_MINUTE, NULL) == CTOK_E_HANDLE &&
           ctok_job_wait(o->jobs[0], A_MINUTE, NULL) == CTOK_E_HANDLE &&
           ctok_model_open(o->engine, image_path, NULL, &id, NULL) == CTOK_E_HANDLE &&
           submit(o->model, 16) == 0 && ctok_model_close(o->model, NULL) == CTOK_E_HANDLE;
}

static bool works_on_its_own(const opened *o) {
    uint32_t engine = 0;
    ctok_engine_options options = {.struct_size = sizeof options,
                                   .num_threads = 2,
                                   .ends_with_thread = 1,
                                   .device = CTOK_DEVICE_CPU};
    if (ctok_engine_open(&options, NULL, &engine, NULL) || engine <= o->jobs[NUM_JOBS])
        return false;
    uint32_t job = submit(open_model(engine, image_path), 64);
    return ctok_job_wait(job, A_MINUTE, NULL) == CTOK_OK &&
           ctok_job_release(job, NULL) == CTOK_OK && ctok_engine_close(engine, NULL) == CTOK_OK;
}

static atomic_bool is_over;
static void *keep_asking(void *argument) {
    const opened *o = argument;
    while (!atomic_load(&is_over))
        ctok_model_query(o->model, &(ctok_model_info){.struct_size = sizeof(ctok_model_info)},
                         NULL);
    return NULL;
}

static void test_fork(void) {
    opened o = {.ends_with_thread = 0};
    open_and_leave(&o);
    report(o.was_at_work && holds_in_child(has_no_ids, &o),
           "in a child of fork() every id of the parent is stale, and says why");
    if (is_emulated())
        report_skip("and an engine of its own works", "QEMU cannot start threads in such a child");
    else report(holds_in_child(works_on_its_own, &o), "and an engine of its own works");
    pthread_t thread;
    bool holds = true;
    if (pthread_create(&thread, NULL, keep_asking, &o)) exit(1);
    for (int i = 0; i < 50 && holds; i++) holds = holds_in_child(has_no_ids, &o);
    atomic_store(&is_over, true);
    pthread_join(thread, NULL);
    report(holds, "also when another thread is inside the library at that moment");
    bool has_ended = true;
    for (int i = 0; i <= NUM_JOBS; i++)
        has_ended = has_ended && ctok_job_wait(o.jobs[i], A_MINUTE, NULL) == CTOK_OK &&
                    ctok_job_release(o.jobs[i], NULL) == CTOK_OK;
    report(has_ended && ctok_engine_close(o.engine, NULL) == CTOK_OK, "the parent notices nothing");
}

int main(void) {
    test_thread_ends();
    test_others();
    test_wake();
    test_fork();
    return report_end();
}
