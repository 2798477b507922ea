// A batch goes through the network in one pass, or in several about equal ones where limits leave
// no room for more: in float32 and bfloat16, on each kernel set, the tokens and pixels have the
// bits of the images one by one, however many went together; and what the plan, the progress and
// the kept steps say of it is right. The embedded models. Run from the root. TAP on stdout.
#include <stdlib.h>
#include <string.h>

#include "../../csrc/include/ctok.h"
#include "tap.h"

enum { BATCH = 5, SIDE = 48, FRAMES = 5, MOST_STEPS = 4096 };

static ctok_error error = {.struct_size = sizeof error};

typedef struct {
    uint32_t engine, model;
    const char *kernels;
} life;

// CTOK_E_DEVICE where this machine lacks the kernels, or they the precision.
static ctok_status begin(life *l, const char *path, uint32_t kernels, uint32_t precision) {
    ctok_engine_options options = {.struct_size = sizeof options,
                                   .num_threads = 2,
                                   .kernels = kernels,
                                   .device = CTOK_DEVICE_CPU,
                                   .keeps_steps = 1};
    ctok_model_options of_model = {.struct_size = sizeof of_model, .precision = precision};
    ctok_engine_info info = {.struct_size = sizeof info};
    ctok_job_info opened = {.struct_size = sizeof opened};
    uint32_t job = 0;
    ctok_status status = ctok_engine_open(&options, NULL, &l->engine, &error);
    if (status != CTOK_OK) return status;
    ctok_engine_query(l->engine, &info, NULL);
    status = ctok_model_open(l->engine, path, &of_model, &job, &error);
    if (status == CTOK_OK) status = ctok_job_wait(job, 60000000, &error);
    ctok_job_query(job, &opened, NULL);
    ctok_job_release(job, NULL);
    l->model = opened.model;
    if (status != CTOK_OK) ctok_engine_close(l->engine, NULL);
    return status;
}

// One job's results, one behind the other in each output.
typedef struct {
    ctok_status status;
    ctok_job_info info;
    uint8_t *outputs[4];  // owned
    uint32_t num_steps;   // that were kept
    int64_t num_images;   // of all runs of the first step
} results;

static results run(const life *l, const void *input, uint64_t input_bytes,
                   const ctok_request *request) {
    static ctok_step steps[MOST_STEPS];
    results r = {.info.struct_size = sizeof r.info};
    uint32_t job = 0;
    r.status = ctok_job_submit(l->model, input, input_bytes, request, &job, &error);
    if (r.status != CTOK_OK) return r;
    r.status = ctok_job_wait(job, 60000000, &error);
    ctok_job_query(job, &r.info, NULL);
    for (uint32_t i = 0; i < r.info.num_outputs; i++) {
        r.outputs[i] = malloc(r.info.outputs[i].bytes);
        ctok_job_take(job, r.outputs[i], r.info.outputs[i].bytes, i, &error);
    }
    if (r.status == CTOK_OK) ctok_job_steps(job, steps, MOST_STEPS, &r.num_steps, NULL);
    for (uint32_t i = 0; i < r.num_steps; i++)
        if (strcmp(steps[i].kind, steps[0].kind) == 0) r.num_images += steps[i].shape[0];
    ctok_job_release(job, NULL);
    return r;
}

static void free_results(results *r) {
    for (int i = 0; i < 4; i++) free(r->outputs[i]);
}

// Whether image `n` of a batch has the bits of `one`, which ran alone.
static bool is_image(const results *all, int64_t n, const results *one) {
    bool is_same = all->status == CTOK_OK && one->status == CTOK_OK &&
                   all->info.num_outputs == one->info.num_outputs && one->info.num_outputs > 0;
    for (uint32_t i = 0; i < one->info.num_outputs && is_same; i++) {
        size_t bytes = one->info.outputs[i].bytes;
        is_same = all->info.outputs[i].bytes == BATCH * bytes &&
                  memcmp(all->outputs[i] + (size_t)n * bytes, one->outputs[i], bytes) == 0;
    }
    return is_same;
}

// The batch in passes of `images`, which limits leave: each image as alone, all steps done and
// kept.
static void test_passes(const life *l, const char *what, const void *input, uint64_t image_bytes,
                        ctok_request request, const results *alone, int64_t images) {
    ctok_plan one = {.struct_size = sizeof one}, plan = one;
    request.batch = 1, request.max_memory_bytes = 0;
    bool is_right = ctok_plan_query(l->model, &one, &request, &error) == CTOK_OK;
    request.batch = BATCH;
    uint32_t passes = (uint32_t)((BATCH + images - 1) / images);
    is_right = is_right && ctok_plan_query(l->model, &plan, &request, &error) == CTOK_OK;
    // The least limit that leaves so many passes: a byte less takes another.
    for (uint64_t limit = plan.total_bytes; is_right && plan.num_steps < passes * one.num_steps;) {
        request.max_memory_bytes = --limit;
        is_right = ctok_plan_query(l->model, &plan, &request, &error) == CTOK_OK &&
                   plan.total_bytes <= limit;
        limit = plan.total_bytes;
    }
    is_right =
        is_right && plan.num_steps == passes * one.num_steps &&
        (images == 1 ? plan.arena_bytes == one.arena_bytes : plan.arena_bytes > one.arena_bytes) &&
        plan.total_bytes ==
            plan.weight_bytes + plan.arena_bytes + plan.input_bytes + plan.result_bytes &&
        plan.input_bytes == BATCH * image_bytes;
    report(is_right, "%s: %u passes are planned, %llu bytes of activations", what, passes,
           (unsigned long long)plan.arena_bytes);

    results all = run(l, input, BATCH * image_bytes, &request);
    is_right = all.status == CTOK_OK;
    for (int64_t n = 0; n < BATCH && is_right; n++) is_right = is_image(&all, n, &alone[n]);
    report(is_right, "%s: in %u passes the bits of each image alone", what, passes);
    report(all.info.steps_done == plan.num_steps && all.info.num_steps == plan.num_steps &&
               all.num_steps == plan.num_steps && all.num_images == BATCH,
           "%s: %u of %u steps are done, and kept, of %lld images", what, all.info.steps_done,
           plan.num_steps, (long long)all.num_images);
    free_results(&all);
}

static void test_task(const life *l, const char *what, const void *input, uint64_t image_bytes,
                      ctok_request request) {
    results alone[BATCH];
    request.struct_size = sizeof request;
    for (int64_t n = 0; n < BATCH; n++)
        alone[n] =
            run(l, (const uint8_t *)input + (uint64_t)n * image_bytes, image_bytes, &request);
    report(alone[0].status == CTOK_OK && !is_image(&alone[0], 0, &alone[1]) &&
               memcmp(alone[0].outputs[0], alone[1].outputs[0], 64) != 0,
           "%s: images of their own", what);
    for (int64_t images = BATCH; images >= 1; images = images == BATCH ? 3 : images - 1)
        test_passes(l, what, input, image_bytes, request, alone, images);
    for (int n = 0; n < BATCH; n++) free_results(&alone[n]);
}

static void test_model(const char *path, bool is_video, uint32_t kernels, uint32_t precision) {
    static uint8_t pixels[BATCH * FRAMES * SIDE * SIDE * 3];
    static int32_t indices[BATCH * 2 * SIDE / 8 * SIDE / 8];
    for (size_t i = 0; i < sizeof pixels; i++) pixels[i] = (uint8_t)(i * 2654435761u >> 13);
    for (size_t i = 0; i < sizeof indices / sizeof *indices; i++)
        indices[i] = (int32_t)(i * 7919 % 64000);
    life l = {0};
    char what[96];
    ctok_status status = begin(&l, path, kernels, precision);
    snprintf(what, sizeof what, "kernels %u %s %s", kernels,
             precision == CTOK_PRECISION_BF16 ? "bf16" : "f32", is_video ? "clips" : "pictures");
    if (status == CTOK_E_DEVICE) {
        report(true, "%s # SKIP %s", what, error.message);
        return;
    }
    if (!report(status == CTOK_OK, "%s: open", what)) return;
    int64_t frames = is_video ? FRAMES : 1, tokens = is_video ? 2 : 1, side = SIDE;
    if (kernels == CTOK_KERNELS_REFERENCE) side = 16;  // its loops are plain
    ctok_request encode = {.task = CTOK_TASK_ENCODE,
                           .input = CTOK_PIXELS_U8,
                           .outputs = CTOK_INDICES | CTOK_CODES | CTOK_PRE_QUANT,
                           .frames = frames,
                           .height = side,
                           .width = side},
                 decode = {.task = CTOK_TASK_DECODE,
                           .input = CTOK_INDICES,
                           .outputs = CTOK_PIXELS_F32,
                           .frames = tokens,
                           .height = side / 8,
                           .width = side / 8};
    char name[128];
    snprintf(name, sizeof name, "%s, encode", what);
    test_task(&l, name, pixels, (uint64_t)(frames * side * side * 3), encode);
    snprintf(name, sizeof name, "%s, decode", what);
    test_task(&l, name, indices, (uint64_t)(tokens * side / 8 * side / 8) * sizeof(int32_t),
              decode);

    // The index that is wrong is told by its place in the batch; a batch that never fits is
    // refused.
    int32_t wrong[BATCH * 4] = {0};
    wrong[3 * 4 + 2] = 64000;
    decode.struct_size = sizeof decode, decode.batch = BATCH, decode.height = 2, decode.width = 2;
    decode.frames = 1;
    results refused = run(&l, wrong, sizeof wrong, &decode);
    report(
        refused.status == CTOK_E_VALUE &&
            strncmp(error.message, is_video ? "indices[3, 0, 1, 0]" : "indices[3, 1, 0]", 16) == 0,
        "%s: %s", what, error.message);
    ctok_plan plan = {.struct_size = sizeof plan};
    encode.struct_size = sizeof encode, encode.batch = BATCH, encode.max_memory_bytes = 1 << 20;
    report(ctok_plan_query(l.model, &plan, &encode, &error) == CTOK_E_MEMORY, "%s: %s", what,
           error.message);
    ctok_engine_close(l.engine, NULL);
}

int main(void) {
    for (uint32_t kernels = CTOK_KERNELS_REFERENCE;; kernels++) {
        life l;
        ctok_status status =
            begin(&l, "models/nano/DI8x8.safetensors", kernels, CTOK_PRECISION_F32);
        if (status == CTOK_E_ARGUMENT) break;  // past the last
        if (status == CTOK_OK) ctok_engine_close(l.engine, NULL);
        for (uint32_t precision = CTOK_PRECISION_F32; precision <= CTOK_PRECISION_BF16;
             precision++) {
            test_model("models/nano/DI8x8.safetensors", false, kernels, precision);
            test_model("models/nano/DV4x8x8.safetensors", true, kernels, precision);
        }
    }
    return report_end();
}
