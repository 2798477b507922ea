// Devices through ctok.h, on the emulated one: the engine's thread opens it, while the caller goes
// on or waits; why it cannot be opened is told by all that asks; "auto" takes the CPU then and
// keeps why; and the list of devices, of which none is started by being listed. TAP.
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "../../../csrc/include/ctok.h"
#include "../tap.h"
#include "cuda_runtime_api.h"

static const char *const checkpoint = "tests/fixtures/Cosmos-Tokenizer-CI8x8";
static const struct emulated_device whole = {.num_devices = 1,
                                             .driver = 13010,
                                             .major = 9,
                                             .shared_bytes = 232448,
                                             .total_bytes = (size_t)1 << 32,
                                             .has_nvml = true};
static ctok_error error;

static ctok_error *fresh(void) {
    error = (ctok_error){.struct_size = sizeof error};
    return &error;
}

static bool told(ctok_status got, ctok_status want, const char *text) {
    if (got == want && strstr(error.message, text)) return true;
    printf("# status %d: %s\n", (int)got, error.message);
    return false;
}

static ctok_status open_engine(uint32_t *engine, uint32_t device, uint32_t in_background) {
    ctok_engine_options options = {.struct_size = sizeof options,
                                   .num_threads = 1,
                                   .device = device,
                                   .opens_in_background = in_background};
    *engine = 0;
    return ctok_engine_open(&options, NULL, engine, fresh());
}

static ctok_status open_model(uint32_t engine) {
    uint32_t job;
    ctok_status status = ctok_model_open(engine, checkpoint, NULL, &job, fresh());
    if (status != CTOK_OK) return status;
    while ((status = ctok_job_wait(job, 1000000, fresh())) == CTOK_E_NOT_READY) {}
    ctok_job_release(job, NULL);
    return status;
}

// ---------------------------------------------------------------- opening
static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
static void pass_gate(void) {
    pthread_mutex_lock(&gate);
    pthread_mutex_unlock(&gate);
}

static void test_background(void) {
    emulated_device = whole;
    emulated_device.on_start = pass_gate;
    pthread_mutex_lock(&gate);
    uint32_t engine, job;
    ctok_engine_info info = {.struct_size = sizeof info};
    bool is_right = open_engine(&engine, CTOK_DEVICE_CUDA, 1) == CTOK_OK;
    report(is_right, "an engine is there while its device is being started");
    is_right = told(ctok_engine_ready(engine, 0, fresh()), CTOK_E_NOT_READY, "not open yet") &&
               told(ctok_engine_ready(engine, 1000, fresh()), CTOK_E_NOT_READY, "not open yet") &&
               told(ctok_engine_query(engine, &info, fresh()), CTOK_E_NOT_READY, "not open yet");
    report(is_right, "it is not ready, and says so: %s", error.message);
    is_right = ctok_model_open(engine, checkpoint, NULL, &job, fresh()) == CTOK_OK &&
               ctok_job_wait(job, 0, fresh()) == CTOK_E_NOT_READY;
    report(is_right, "jobs may be submitted meanwhile");
    pthread_mutex_unlock(&gate);
    is_right = ctok_engine_ready(engine, 60000000, fresh()) == CTOK_OK &&
               ctok_engine_query(engine, &info, fresh()) == CTOK_OK;
    report(is_right && strcmp(info.device, "cuda:0") == 0, "then it is ready: %s, %s", info.device,
           info.kernels);
    report(ctok_job_wait(job, 60000000, fresh()) == CTOK_OK, "and the job runs");
    ctok_job_release(job, NULL);
    ctok_engine_close(engine, NULL);
    report(emulated_current == EMULATED_NONE && emulated_device.num_contexts[0] == 1 &&
               emulated_device.num_allocations == 0,
           "the caller's thread has no context of a GPU");

    emulated_device = whole;
    emulated_device.on_start = pass_gate;
    pthread_mutex_lock(&gate);
    is_right = open_engine(&engine, CTOK_DEVICE_CUDA, 1) == CTOK_OK &&
               ctok_model_open(engine, checkpoint, NULL, &job, fresh()) == CTOK_OK;
    ctok_job_cancel(job, NULL);
    is_right = is_right && told(ctok_job_wait(job, 0, fresh()), CTOK_E_CANCELLED, "before it ran");
    pthread_mutex_unlock(&gate);
    ctok_job_release(job, NULL);
    report(is_right && ctok_engine_close(engine, fresh()) == CTOK_OK &&
               emulated_device.num_allocations == 0,
           "an engine is closed before its device is open");
}

static void test_failures(void) {
    static const char text[] =
        "expected a driver for CUDA 13 or later (580 and up), found one for "
        "CUDA 12.2";
    emulated_device = whole;
    emulated_device.driver = 12020;
    uint32_t engine;
    ctok_engine_info info = {.struct_size = sizeof info};
    report(told(open_engine(&engine, CTOK_DEVICE_CUDA, 0), CTOK_E_DEVICE, text) && engine == 0,
           "a device that cannot be opened: %s", error.message);
    bool is_right = open_engine(&engine, CTOK_DEVICE_CUDA, 1) == CTOK_OK &&
                    told(ctok_engine_ready(engine, 60000000, fresh()), CTOK_E_DEVICE, text) &&
                    told(ctok_engine_query(engine, &info, fresh()), CTOK_E_DEVICE, text) &&
                    told(open_model(engine), CTOK_E_DEVICE, text);
    report(is_right && ctok_engine_close(engine, NULL) == CTOK_OK,
           "in the background: waiting, asking and every job say the same");

    is_right = open_engine(&engine, CTOK_DEVICE_AUTO, 0) == CTOK_OK &&
               ctok_engine_query(engine, &info, fresh()) == CTOK_OK &&
               open_model(engine) == CTOK_OK;
    report(is_right && strcmp(info.device, "cpu") == 0 && strstr(info.why_cpu, text),
           "auto takes the CPU and keeps why: %s", info.why_cpu);
    ctok_engine_close(engine, NULL);
    is_right = open_engine(&engine, CTOK_DEVICE_CPU, 0) == CTOK_OK &&
               ctok_engine_query(engine, &info, fresh()) == CTOK_OK;
    report(is_right && info.why_cpu[0] == 0, "where the CPU was asked for there is no why");
    ctok_engine_close(engine, NULL);
    emulated_device = whole;
    is_right = open_engine(&engine, CTOK_DEVICE_AUTO, 0) == CTOK_OK &&
               ctok_engine_query(engine, &info, fresh()) == CTOK_OK;
    report(is_right && strcmp(info.device, "cuda:0") == 0 && info.why_cpu[0] == 0,
           "auto takes the GPU that can be used");
    ctok_engine_close(engine, NULL);
    ctok_engine_options options = {.struct_size = sizeof options, .opens_in_background = 2};
    report(told(ctok_engine_open(&options, NULL, &engine, fresh()), CTOK_E_ARGUMENT,
                "expected 0 or 1, found 2"),
           "opens_in_background: %s", error.message);
}

// ---------------------------------------------------------------- the list
enum { MOST = 8 };

static uint32_t list(const struct emulated_device *device, ctok_device_info devices[MOST]) {
    uint32_t engine, job, count = 0, none = 9;
    emulated_device = *device;
    bool is_right = open_engine(&engine, CTOK_DEVICE_CPU, 0) == CTOK_OK &&
                    ctok_device_list(engine, &job, fresh()) == CTOK_OK &&
                    ctok_job_wait(job, 60000000, fresh()) == CTOK_OK &&
                    ctok_job_devices(job, NULL, 0, &none, fresh()) == CTOK_OK &&
                    ctok_job_devices(job, devices, MOST, &count, fresh()) == CTOK_OK &&
                    count == none && ctok_job_release(job, NULL) == CTOK_OK;
    int started = 0;
    for (int i = 0; i < EMULATED_GPUS; i++) started += emulated_device.num_contexts[i];
    ctok_engine_close(engine, NULL);
    report(is_right && started == 0 && emulated_device.num_allocations == 0,
           "%u devices are listed, no GPU is started", count);
    return is_right ? count : 0;
}

static void test_list(void) {
    ctok_device_info d[MOST];
    struct emulated_device device = whole;
    device.num_devices = 3, device.used_bytes = 1 << 20;
    uint32_t count = list(&device, d);
    report(count == 4 && strcmp(d[0].device, "cpu") == 0 && d[0].is_usable && d[0].kernels[0] &&
               d[0].num_threads > 0 && d[0].total_bytes > 0 && d[0].reason[0] == 0,
           "%s: %s kernels, %u threads, %llu bytes", d[0].device, d[0].kernels, d[0].num_threads,
           (unsigned long long)d[0].total_bytes);
    report(count == 4 && strcmp(d[1].device, "cuda:0") == 0 && d[1].is_usable && d[1].has_bf16 &&
               strcmp(d[1].name, "Emulated GPU") == 0 && strcmp(d[1].kernels, "sm80") == 0 &&
               d[1].capability == 90 && d[1].driver_version == 13010 &&
               d[1].runtime_version == CUDART_VERSION && d[1].total_bytes == device.total_bytes &&
               d[1].free_bytes == device.total_bytes - device.used_bytes,
           "%s: %s, %llu bytes free", d[1].device, d[1].name, (unsigned long long)d[1].free_bytes);
    report(count == 4 && strcmp(d[3].device, "cuda:2") == 0 && d[3].free_bytes == 0,
           "%s: what is free is not known of a GPU that the library does not know", d[3].device);
    device = whole, device.has_nvml = false, device.major = 7, device.minor = 5;
    count = list(&device, d);
    report(count == 2 && d[1].is_usable && !d[1].has_bf16 && strcmp(d[1].kernels, "smxx") == 0 &&
               d[1].free_bytes == 0,
           "without that library: %s kernels", d[1].kernels);
    device.minor = 0;
    count = list(&device, d);
    report(count == 2 && !d[1].is_usable && d[1].capability == 70 && d[1].kernels[0] == 0 &&
               strstr(d[1].reason, "expected compute capability 7.5 or more"),
           "too old a GPU: %s", d[1].reason);
    device = whole, device.driver = 12020;
    count = list(&device, d);
    report(count == 2 && strcmp(d[1].device, "cuda") == 0 && !d[1].is_usable &&
               d[1].driver_version == 12020 && strstr(d[1].reason, "found one for CUDA 12.2"),
           "too old a driver: %s", d[1].reason);
    device = whole, device.driver = 0, device.num_devices = 0;
    count = list(&device, d);
    report(count == 2 && strcmp(d[1].device, "cuda") == 0 && !d[1].is_usable &&
               strstr(d[1].reason, "expected an NVIDIA driver, found none"),
           "no driver: %s", d[1].reason);

    uint32_t engine, job;
    emulated_device = whole;
    bool is_right = open_engine(&engine, CTOK_DEVICE_CPU, 0) == CTOK_OK &&
                    ctok_model_open(engine, checkpoint, NULL, &job, fresh()) == CTOK_OK &&
                    ctok_job_wait(job, 60000000, fresh()) == CTOK_OK;
    is_right = is_right && ctok_job_devices(job, NULL, 0, &count, fresh()) == CTOK_OK && count == 0;
    is_right =
        is_right &&
        told(ctok_job_devices(job, NULL, 1, &count, fresh()), CTOK_E_ARGUMENT,
             "expected a pointer") &&
        told(ctok_job_devices(job, d, MOST, NULL, fresh()), CTOK_E_ARGUMENT, "expected a pointer");
    ctok_job_release(job, NULL);
    is_right = is_right && told(ctok_job_devices(job, d, MOST, &count, fresh()), CTOK_E_HANDLE, "");
    report(is_right &&
               told(ctok_device_list(engine, NULL, fresh()), CTOK_E_ARGUMENT, "expected a pointer"),
           "another job has no devices, and wrong arguments are refused");
    ctok_engine_close(engine, NULL);
    report(told(ctok_device_list(engine, &job, fresh()), CTOK_E_HANDLE, "") &&
               told(ctok_engine_ready(engine, 0, fresh()), CTOK_E_HANDLE, ""),
           "so is an engine that is closed");
}

int main(void) {
    test_background(), test_failures(), test_list();
    return report_end();
}
