// What a user of ctok.h meets when a GPU fails midway: a whole life on the emulated one (engine,
// model, three encodes, so that the last ones are graphs), with the device lost at the n-th call of
// the CUDA runtime, or its n-th allocation or copy refused memory, for n = 1, 2, 4, 7, ... until
// the life is over. Every call must end well or with CTOK_E_DEVICE (CTOK_E_MEMORY) and a text that
// says so; what comes after a loss too; all memory is given back; and an engine on the CPU beside
// it goes on. TAP.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../../csrc/include/ctok.h"
#include "../tap.h"
#include "cuda_runtime_api.h"

enum { SIDE = 16, LATENTS = SIDE / 8 * (SIDE / 8) * 16, NUM_JOBS = 3 };
static const char *const checkpoint = "tests/fixtures/Cosmos-Tokenizer-CI8x8";
static int num_wrong;
static ctok_error first;  // of the last life

typedef struct {
    uint32_t engine, model;
    ctok_status wanted;  // of what fails
    const char *text;    // in the first failure
    bool has_failed;
} life;

static bool went_well(life *l, ctok_status status, const ctok_error *error, const char *step) {
    if (status == CTOK_OK) return true;
    bool is_right = status == l->wanted && (l->has_failed || strstr(error->message, l->text));
    if (!is_right) printf("# %s: status %d, %s\n", step, (int)status, error->message);
    if (!l->has_failed) first = *error;
    num_wrong += !is_right, l->has_failed = true;
    return false;
}

static bool wait_for(life *l, uint32_t job, ctok_job_info *info, const char *step) {
    ctok_error error = {.struct_size = sizeof error};
    ctok_status status;
    while ((status = ctok_job_wait(job, 1000000, &error)) == CTOK_E_NOT_READY) {}
    *info = (ctok_job_info){.struct_size = sizeof *info};
    ctok_job_query(job, info, NULL);
    return went_well(l, status, &error, step);
}

static bool encode(life *l, float *latent, size_t capacity) {
    static uint8_t pixels[SIDE * SIDE * 3];
    for (size_t i = 0; i < sizeof pixels; i++) pixels[i] = (uint8_t)(i * 37);
    ctok_request request = {.struct_size = sizeof request,
                            .task = CTOK_TASK_ENCODE,
                            .input = CTOK_PIXELS_U8,
                            .height = SIDE,
                            .width = SIDE,
                            .outputs = CTOK_LATENT};
    ctok_error error = {.struct_size = sizeof error};
    ctok_job_info info;
    uint32_t job;
    if (!went_well(l, ctok_job_submit(l->model, pixels, sizeof pixels, &request, &job, &error),
                   &error, "submit"))
        return false;
    bool is_done = wait_for(l, job, &info, "encode");
    if (is_done)
        is_done = went_well(l, ctok_job_take(job, latent, capacity, 0, &error), &error, "take");
    ctok_job_release(job, NULL);
    return is_done;
}

static bool begin(life *l, uint32_t device) {
    ctok_error error = {.struct_size = sizeof error};
    ctok_engine_options options = {
        .struct_size = sizeof options, .device = device, .num_threads = 1};
    ctok_model_options model = {.struct_size = sizeof model, .precision = CTOK_PRECISION_BF16};
    ctok_job_info info;
    uint32_t job;
    if (!went_well(l, ctok_engine_open(&options, NULL, &l->engine, &error), &error, "engine"))
        return false;
    if (!went_well(l, ctok_model_open(l->engine, checkpoint, &model, &job, &error), &error,
                   "model"))
        return false;
    bool is_open = wait_for(l, job, &info, "model");
    l->model = info.model;
    ctok_job_release(job, NULL);
    return is_open;
}

// One life on the GPU with `after` calls to the failure in *countdown; true when the failure came.
static bool live(int *countdown, int after, ctok_status wanted, const char *text) {
    float latent[LATENTS];
    life l = {.wanted = wanted, .text = text};
    *countdown = after;
    if (begin(&l, CTOK_DEVICE_CUDA))
        for (int i = 0; i < NUM_JOBS; i++)
            encode(&l, latent, sizeof latent);  // also after a failure
    bool has_come = *countdown == 0;
    if (l.engine) ctok_engine_close(l.engine, NULL);
    *countdown = 0;
    if (emulated_device.num_allocations || emulated_device.num_graphs) {
        printf("# failure %d: %d allocations and %d graphs are kept\n", after,
               emulated_device.num_allocations, emulated_device.num_graphs);
        num_wrong++;
    }
    return has_come;
}

int main(void) {
    emulator_settings.is_stream_late = true;
    const struct emulated_device whole = emulated_device;
    float before[LATENTS], after[LATENTS];
    life cpu = {.wanted = CTOK_OK, .text = ""};
    bool is_right = begin(&cpu, CTOK_DEVICE_CPU) && encode(&cpu, before, sizeof before);
    report(is_right, "an engine on the CPU beside it");
    const struct {
        int *countdown;
        ctok_status status;
        const char *text, *name;
    } failures[] = {
        {&emulated_device.lose_in, CTOK_E_DEVICE, "cuda:0", "the device is lost"},
        {&emulated_device.refuse_in, CTOK_E_MEMORY, "memory", "an allocation is refused"},
        {&emulated_device.fail_in, CTOK_E_MEMORY, "out of memory", "a copy is refused memory"}};
    for (int f = 0; f < 3; f++) {
        int num_lives = 0, n = 1;
        num_wrong = 0;
        for (bool has_come = true; has_come; n += f == 1 ? 1 : 1 + n / 2, num_lives++) {
            emulated_device = whole;
            has_come = live(failures[f].countdown, n, failures[f].status, failures[f].text);
        }
        report(num_wrong == 0 && num_lives > 3, "%s in %d lives: %d wrong; at last: %s",
               failures[f].name, num_lives, num_wrong, first.message);
        is_right = encode(&cpu, after, sizeof after) && memcmp(before, after, sizeof after) == 0;
        report(is_right, "the CPU goes on");
    }
    ctok_engine_close(cpu.engine, NULL);
    report(emulator_num_failures == 0, "the emulator found nothing. %s", emulator_failure());
    return report_end();
}
