// How many images of a batch are best computed together on the CPU: a batch in passes of 1, 2, 4,
// ... images, in rounds in turn, as the processor time an image (medians) and the bytes of
// activations. What cpu_backend.c chooses by (PASS_BYTES) follows from it. One line a pass of a
// Markdown table. Results are held to those of single images, bit for bit.
//     build/bench/batch MODEL TASK FRAMES SIDE BATCH ROUNDS [bf16 or f32] [threads]
// TASK 1: encode, 2: decode. BATCH: a power of two.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../csrc/runtime/model.h"

enum { MOST_PASSES = 12, MOST_ROUNDS = 100 };

typedef struct {
    int64_t images;  // of a pass
    ctok_request request;
    uint64_t arena_bytes;
    double ms[MOST_ROUNDS];
} pass_size;

static ctok_error error = {.struct_size = sizeof error};

static void check(ctok_status status) {
    if (status == CTOK_OK) return;
    fprintf(stderr, "%s\n", error.message);
    exit(1);
}

static void wait_for(uint32_t job) {
    ctok_status status;
    while ((status = ctok_job_wait(job, 1000000, &error)) == CTOK_E_NOT_READY) {}
    check(status);
}

static double processor_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static int by_value(const void *a, const void *b) {
    return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b);
}

static uint32_t open_model(const char *path, uint32_t precision, uint32_t num_threads) {
    ctok_engine_options options = {
        .struct_size = sizeof options, .num_threads = num_threads, .device = CTOK_DEVICE_CPU};
    ctok_model_options of_model = {.struct_size = sizeof of_model, .precision = precision};
    ctok_job_info info = {.struct_size = sizeof info};
    uint32_t engine, job;
    check(ctok_engine_open(&options, NULL, &engine, &error));
    check(ctok_model_open(engine, path, &of_model, &job, &error));
    wait_for(job);
    check(ctok_job_query(job, &info, &error));
    check(ctok_job_release(job, &error));
    object *o = NULL;
    check(ids_get(&o, OBJECT_MODEL, info.model, &error));
    ((model *)o)->backend->pass_bytes = INT64_MAX;  // the limits below alone decide
    return info.model;
}

// Finds the memory limit that leaves passes of so many images.
static void plan_pass(pass_size *p, uint32_t model, ctok_request request, int64_t images) {
    ctok_plan one = {.struct_size = sizeof one}, plan = one;
    request.batch = 1;
    check(ctok_plan_query(model, &one, &request, &error));
    *p = (pass_size){.images = images, .request = request};
    p->request.batch = request.num_held;  // the batch
    p->request.num_held = 0;
    uint32_t wanted = one.num_steps * (uint32_t)(p->request.batch / images);
    check(ctok_plan_query(model, &plan, &p->request, &error));
    while (plan.num_steps < wanted) {
        p->request.max_memory_bytes = plan.total_bytes - 1;
        check(ctok_plan_query(model, &plan, &p->request, &error));
    }
    p->arena_bytes = plan.arena_bytes;
}

// Runs the batch and gives its first output, the caller's to free.
static uint8_t *run(uint32_t model, const pass_size *p, const uint8_t *input, uint64_t input_bytes,
                    uint64_t *out_bytes) {
    uint32_t job;
    ctok_job_info info = {.struct_size = sizeof info};
    check(ctok_job_submit(model, input, input_bytes, &p->request, &job, &error));
    wait_for(job);
    check(ctok_job_query(job, &info, &error));
    *out_bytes = info.outputs[0].bytes;
    uint8_t *out = malloc(*out_bytes);
    check(ctok_job_take(job, out, *out_bytes, 0, &error));
    check(ctok_job_release(job, &error));
    return out;
}

int main(int argc, char **argv) {
    if (argc < 7) {
        fprintf(stderr, "usage: batch MODEL TASK FRAMES SIDE BATCH ROUNDS [bf16] [threads]\n");
        return 2;
    }
    int64_t frames = atoll(argv[3]), side = atoll(argv[4]), batch = atoll(argv[5]);
    int rounds = atoi(argv[6]), num_sizes = 0;
    bool is_bf16 = argc > 7 && strcmp(argv[7], "bf16") == 0, is_decode = atoi(argv[2]) == 2;
    if (rounds < 1 || rounds > MOST_ROUNDS) return 2;
    uint32_t model = open_model(argv[1], is_bf16 ? CTOK_PRECISION_BF16 : CTOK_PRECISION_F32,
                                argc > 8 ? (uint32_t)atoi(argv[8]) : 2);
    ctok_model_info about = {.struct_size = sizeof about};
    check(ctok_model_query(model, &about, &error));
    uint32_t tokens = about.quantizer ? CTOK_INDICES : CTOK_LATENT;
    int64_t factor = is_decode ? about.spatial_factor : 1;
    ctok_request request = {.struct_size = sizeof request,
                            .task = is_decode ? CTOK_TASK_DECODE : CTOK_TASK_ENCODE,
                            .input = is_decode ? tokens : CTOK_PIXELS_U8,
                            .frames = is_decode ? (frames - 1) / about.temporal_factor + 1 : frames,
                            .height = side / factor,
                            .width = side / factor};
    request.num_held = (uint32_t)batch;  // for plan_pass
    static pass_size sizes[MOST_PASSES];
    for (int64_t images = 1; images <= batch && num_sizes < MOST_PASSES; images *= 2)
        plan_pass(&sizes[num_sizes++], model, request, images);

    ctok_plan plan = {.struct_size = sizeof plan};
    check(ctok_plan_query(model, &plan, &sizes[0].request, &error));
    uint8_t *input = malloc(plan.input_bytes), *want = NULL;
    for (uint64_t i = 0; i < plan.input_bytes; i++) input[i] = (uint8_t)(i * 2654435761u >> 13);
    for (uint64_t i = 0; i < plan.input_bytes / 4 && is_decode; i++)
        ((int32_t *)input)[i] = (int32_t)(i * 7919 % 60000);
    for (int round = -1; round < rounds; round++)  // the first warms up
        for (int i = 0; i < num_sizes; i++) {
            uint64_t out_bytes;
            double start = processor_ms();
            uint8_t *out = run(model, &sizes[i], input, plan.input_bytes, &out_bytes);
            if (round >= 0) sizes[i].ms[round] = (processor_ms() - start) / (double)batch;
            if (!want) want = out;
            if (memcmp(out, want, out_bytes) != 0) {
                fprintf(stderr, "passes of %d: other bits\n", (int)sizes[i].images);
                return 1;
            }
            if (out != want) free(out);
        }
    for (int i = 0; i < num_sizes; i++) {
        qsort(sizes[i].ms, (size_t)rounds, sizeof(double), by_value);
        printf("| %s %s, %s, %d x %d | %d | %.1f | %.2f |\n", about.name, is_bf16 ? "bf16" : "f32",
               is_decode ? "decode" : "encode", (int)side, (int)side, (int)sizes[i].images,
               (double)sizes[i].arena_bytes / 1e6, sizes[i].ms[rounds / 2]);
    }
    free(input), free(want);
    return 0;
}
