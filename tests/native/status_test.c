// Every status of ctok.h, by a call that gives it: the table below. A status that ctok_status_name
// knows and no row gives is a failure, so a new one needs a row. Prints the table as TAP, which
// tests/faults/codes.test.ts reads. Needs models/nano.
// wrapped: pthread_create
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../csrc/runtime/ids.h"
#include "tap.h"

static const char nano[] = "models/nano/DI8x8.safetensors";
static char folder[] = "/tmp/ctok-status-XXXXXX";
static uint32_t engine, model;
static uint8_t pixels[512 * 512 * 3];
static ctok_error error;

static bool has_threads = true;
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
                          void *argument);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
                          void *argument);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
                          void *argument) {
    return has_threads ? __real_pthread_create(thread, attributes, run, argument) : EAGAIN;
}

static ctok_error *fresh(void) {
    error = (ctok_error){.struct_size = sizeof error};
    return &error;
}

// How the job ended; its id stays stale.
static ctok_status end_of(ctok_status submitted, const uint32_t *job) {
    if (submitted != CTOK_OK) return submitted;
    ctok_status status = ctok_job_wait(*job, 60000000, fresh());
    ctok_job_release(*job, NULL);
    return status;
}

static ctok_status open_end(uint32_t on, const char *path, const ctok_model_options *options) {
    uint32_t job = 0;
    return end_of(ctok_model_open(on, path, options, &job, fresh()), &job);
}

static ctok_request encode(int64_t side) {
    return (ctok_request){.struct_size = sizeof(ctok_request),
                          .task = CTOK_TASK_ENCODE,
                          .input = CTOK_PIXELS_U8,
                          .height = side,
                          .width = side};
}

static ctok_status submit(uint32_t *job, int64_t side) {
    ctok_request request = encode(side);
    return ctok_job_submit(model, pixels, (uint64_t)(side * side * 3), &request, job, fresh());
}

// A file of the folder with these bytes.
static const char *file_of(const void *bytes, size_t num_bytes) {
    static char path[64];
    snprintf(path, sizeof path, "%s/DI8x8.safetensors", folder);
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(bytes, 1, num_bytes, file) != num_bytes || fclose(file) != 0) exit(2);
    return path;
}

// ---------------------------------------------------------------- one for each status
static ctok_status good(void) { return open_end(engine, nano, NULL); }
static ctok_status null(void) {
    return ctok_model_open(engine, NULL, NULL, &(uint32_t){0}, fresh());
}
static ctok_status other_struct(void) {
    return ctok_engine_query(engine, &(ctok_engine_info){.struct_size = 4}, fresh());
}
static ctok_status stale(void) { return ctok_job_release(4000000000u, fresh()); }
static ctok_status wrong_bytes(void) {
    ctok_request request = encode(16);
    return ctok_job_submit(model, pixels, 5, &request, &(uint32_t){0}, fresh());
}
static ctok_status outside_codebook(void) {
    int32_t index = 64000;
    uint32_t job = 0;
    ctok_request request = {.struct_size = sizeof request,
                            .task = CTOK_TASK_DECODE,
                            .input = CTOK_INDICES,
                            .height = 1,
                            .width = 1};
    return end_of(ctok_job_submit(model, &index, sizeof index, &request, &job, fresh()), &job);
}
static ctok_status too_little_room(void) {
    uint32_t job = 0;
    if (submit(&job, 16) != CTOK_OK || ctok_job_wait(job, 60000000, fresh()) != CTOK_OK)
        return CTOK_OK;
    ctok_status status = ctok_job_take(job, pixels, 1, 0, fresh());
    ctok_job_release(job, NULL);
    return status;
}
static ctok_status image_stream(void) {
    ctok_stream_options options = {.struct_size = sizeof options, .task = CTOK_TASK_ENCODE};
    return ctok_stream_open(model, &options, &(uint32_t){0}, fresh());
}
static ctok_status absent(void) { return open_end(engine, "no/such/file", NULL); }
static ctok_status full_disk(void) {  // as far as a program without rights can have one: no folder
                                      // to write to
    uint32_t job = 0;
    return end_of(ctok_model_convert(engine, "/dev/null/model", nano, NULL, &job, fresh()), &job);
}
static ctok_status junk(void) { return open_end(engine, file_of("no checkpoint", 13), NULL); }
// Both change the header of the embedded model in place.
static ctok_status changed(const char *from, const char *to) {
    FILE *file = fopen(nano, "rb");
    static char bytes[16 << 20];
    size_t num_bytes = file ? fread(bytes, 1, sizeof bytes, file) : 0;
    char *at = memmem(bytes, num_bytes, from, strlen(from));
    if (!at || fclose(file) != 0) exit(2);
    memcpy(at, to, strlen(to));
    return open_end(engine, file_of(bytes, num_bytes), NULL);
}
static ctok_status renamed_tensor(void) {
    return changed("encoder.conv_in.bias", "encoder.conv_in.bios");
}
static ctok_status other_network(void) {
    ctok_model_options options = {.struct_size = sizeof options, .name = "DI16x16"};
    return open_end(engine, nano, &options);
}
static ctok_status over_limit(void) {
    ctok_model_options options = {.struct_size = sizeof options, .max_memory_bytes = 1000};
    return open_end(engine, nano, &options);
}
static ctok_status bf16_without(void) {
    uint32_t other = 0;
    ctok_engine_options options = {
        .struct_size = sizeof options, .num_threads = 1, .kernels = CTOK_KERNELS_GENERIC};
    ctok_model_options bf16 = {.struct_size = sizeof bf16, .precision = CTOK_PRECISION_BF16};
    if (ctok_engine_open(&options, NULL, &other, fresh()) != CTOK_OK) return error.status;
    ctok_status status = open_end(other, nano, &bf16);
    ctok_engine_close(other, NULL);
    return status;
}
static ctok_status refused_thread(void) {
    ctok_engine_options options = {
        .struct_size = sizeof options, .num_threads = 1, .device = CTOK_DEVICE_CPU};
    has_threads = false;
    ctok_status status = ctok_engine_open(&options, NULL, &(uint32_t){0}, fresh());
    has_threads = true;
    return status;
}
static ctok_status cancelled(void) {
    uint32_t first = 0, second = 0;
    submit(&first, 512);
    ctok_status status = submit(&second, 16);
    ctok_job_cancel(second, NULL);
    status = end_of(status, &second);
    ctok_job_release(first, NULL);
    return status;
}
static ctok_status not_ready(void) {
    uint32_t job = 0;
    submit(&job, 512);
    ctok_status status = ctok_job_wait(job, 0, fresh());
    ctok_job_release(job, NULL);
    return status;
}
static ctok_status all_ids_used(void) {
    uint32_t before = ids_last;
    ids_last = UINT32_MAX;
    ctok_status status = ctok_model_open(engine, nano, NULL, &(uint32_t){0}, fresh());
    ids_last = before;
    return status;
}
static ctok_status closed(void) {  // the last row: it closes the engine
    uint32_t jobs[2] = {0};
    for (int i = 0; i < 2; i++) submit(&jobs[i], 512);
    ctok_engine_close(engine, NULL);
    return end_of(CTOK_OK, &jobs[1]);
}

static const struct {
    ctok_status status;
    ctok_status (*call)(void);
    const char *about;
} rows[] = {
    {CTOK_OK, good, "the embedded model opens"},
    {CTOK_E_ARGUMENT, null, "ctok_model_open without a path"},
    {CTOK_E_STRUCT_SIZE, other_struct, "ctok_engine_query with another struct"},
    {CTOK_E_HANDLE, stale, "ctok_job_release of an id that was never given"},
    {CTOK_E_SHAPE, wrong_bytes, "ctok_job_submit of 5 bytes for 16 x 16 pixels"},
    {CTOK_E_VALUE, outside_codebook, "decoding index 64000"},
    {CTOK_E_CAPACITY, too_little_room, "ctok_job_take into one byte"},
    {CTOK_E_UNSUPPORTED, image_stream, "a stream of an image tokenizer"},
    {CTOK_E_FILE_MISSING, absent, "opening a file that is not there"},
    {CTOK_E_FILE_IO, full_disk, "converting into a device"},
    {CTOK_E_FILE_FORMAT, junk, "opening a text"},
    {CTOK_E_FILE_TENSOR, renamed_tensor, "opening a checkpoint with a renamed tensor"},
    {CTOK_E_FILE_NETWORK, other_network, "opening DI8x8 by the name of DI16x16"},
    {CTOK_E_MEMORY, over_limit, "opening a model over max_memory_bytes"},
    {CTOK_E_DEVICE, bf16_without, "bf16 on kernels that have none"},
    {CTOK_E_THREAD, refused_thread, "an engine that the system refuses a thread"},
    {CTOK_E_CANCELLED, cancelled, "ctok_job_cancel of a queued job"},
    {CTOK_E_NOT_READY, not_ready, "ctok_job_wait for no time"},
    {CTOK_E_INTERNAL, all_ids_used, "an id after the last one"},
    {CTOK_E_CLOSED, closed, "a job whose engine is closed"},
};
enum { NUM_ROWS = sizeof rows / sizeof *rows };

int main(void) {
    int num_known = 0;
    uint32_t job = 0;
    ctok_job_info info = {.struct_size = sizeof info};
    if (!mkdtemp(folder) || ctok_engine_open(NULL, NULL, &engine, fresh()) != CTOK_OK) return 2;
    if (ctok_model_open(engine, nano, NULL, &job, fresh()) != CTOK_OK ||
        ctok_job_wait(job, 60000000, fresh()) != CTOK_OK)
        return 2;
    ctok_job_query(job, &info, NULL);
    ctok_job_release(job, NULL);
    model = info.model;
    for (int i = 0; i < NUM_ROWS; i++) {
        fresh();
        ctok_status status = rows[i].call();
        bool is_right = status == rows[i].status &&
                        (status == CTOK_OK || (error.status == status && error.message[0]));
        report(is_right, "%s by %s%s%s", ctok_status_name(rows[i].status), rows[i].about,
               status == CTOK_OK ? "" : ": ", status == CTOK_OK ? "" : error.message);
    }
    for (ctok_status status = 0; status < 1000; status++)
        num_known += ctok_status_name(status)[0] != '?';
    report(num_known == NUM_ROWS, "%d statuses have a name and %d a row", num_known, NUM_ROWS);
    remove(file_of("", 0));
    rmdir(folder);
    return report_end();
}
