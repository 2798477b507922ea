// What ctok_plan_query counts is what a run takes: for every family and size, in float32 and
// bfloat16, the growth of peak resident memory over encode, decode and autoencode of images and
// clips, and over streams, lies within 5 % of the plan's arena, state, inputs and results (and
// SLACK_BYTES, for the heap and thread stacks). Small synthetic weights from
// build/tests/make_weights, and the embedded models. One thread: the scratch of one that gets no
// task is planned, and never touched. Run from the root. TAP on stdout.
#include <malloc.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../csrc/include/ctok.h"
#include "tap.h"

enum { SLACK_BYTES = 384 << 10, SIDE = 128, FRAMES = 17, CHUNK_TOKENS = 2, NUM_CHUNKS = 6 };

static uint8_t *input;  // zeros, in memory before anything is measured
static const size_t INPUT_BYTES = (size_t)FRAMES * SIDE * SIDE * 3;
static char found[200];

// VmRSS or VmHWM of this process.
static long long status_bytes(const char *field) {
    char line[128];
    long long kib = -1;
    FILE *file = fopen("/proc/self/status", "r");
    while (file && fgets(line, sizeof line, file))
        if (strncmp(line, field, strlen(field)) == 0) sscanf(line + strlen(field), ": %lld", &kib);
    if (file) fclose(file);
    return kib * 1024;
}

static void forget_peak(void) {
    FILE *file = fopen("/proc/self/clear_refs", "w");
    if (file) fputs("5", file), fclose(file);
}

static bool is_near(double measured, double planned) {
    double difference = measured > planned ? measured - planned : planned - measured;
    snprintf(found, sizeof found, "%.2f MB, planned %.2f MB", measured / 1e6, planned / 1e6);
    return difference <= 0.05 * planned + SLACK_BYTES;
}

static uint32_t open_engine(void) {
    uint32_t engine = 0;
    ctok_engine_options options = {
        .struct_size = sizeof options, .num_threads = 1, .device = CTOK_DEVICE_CPU};
    ctok_engine_open(&options, NULL, &engine, NULL);
    return engine;
}

static ctok_status open_model(uint32_t *model, uint32_t engine, const char *path,
                              uint32_t precision) {
    uint32_t job = 0;
    ctok_model_options options = {.struct_size = sizeof options, .precision = precision};
    ctok_job_info info = {.struct_size = sizeof info};
    ctok_status status = ctok_model_open(engine, path, &options, &job, NULL);
    if (status == CTOK_OK) status = ctok_job_wait(job, 60000000, NULL);
    ctok_job_query(job, &info, NULL);
    ctok_job_release(job, NULL);
    *model = info.model;
    return status;
}

static bool finish(uint32_t job) {
    bool is_well = ctok_job_wait(job, 60000000, NULL) == CTOK_OK;
    ctok_job_release(job, NULL);
    return is_well;
}

// An engine of its own for each case: none has an arena yet.
static void test_request(const char *path, const char *name, uint32_t precision,
                         ctok_request request, const char *what) {
    uint32_t engine = open_engine(), model = 0, job = 0;
    ctok_status opened = open_model(&model, engine, path, precision);
    const char *bits = precision == CTOK_PRECISION_BF16 ? "bf16" : "f32";
    if (opened == CTOK_E_DEVICE) {
        report(true, "%s %s, %s # SKIP no bfloat16 here", name, bits, what);
    } else {
        ctok_plan plan = {.struct_size = sizeof plan};
        request.struct_size = sizeof request;
        bool is_well = opened == CTOK_OK &&
                       ctok_plan_query(model, &plan, &request, NULL) == CTOK_OK &&
                       plan.input_bytes <= INPUT_BYTES;
        forget_peak();
        long long before = status_bytes("VmRSS");
        is_well =
            is_well &&
            ctok_job_submit(model, input, plan.input_bytes, &request, &job, NULL) == CTOK_OK &&
            finish(job);
        long long grown = status_bytes("VmHWM") - before;
        ctok_engine_info info = {.struct_size = sizeof info};
        ctok_engine_query(engine, &info, NULL);
        is_well = is_near((double)grown, (double)(plan.total_bytes - plan.weight_bytes)) &&
                  is_well && info.arena_bytes == plan.arena_bytes;
        report(is_well, "%s %s, %s: %s", name, bits, what, found);
    }
    ctok_engine_close(engine, NULL);
}

// `attention_frames` 0: all of the past.
static void test_stream(const char *path, const char *name, uint32_t precision, uint32_t task,
                        uint32_t attention_frames) {
    uint32_t engine = open_engine(), model = 0, stream = 0, job = 0;
    ctok_model_info info = {.struct_size = sizeof info};
    const char *bits = precision == CTOK_PRECISION_BF16 ? "bf16" : "f32";
    char what[64];
    snprintf(what, sizeof what, "%s stream, attention %u",
             task == CTOK_TASK_ENCODE ? "encode" : "decode", attention_frames);
    if (open_model(&model, engine, path, precision) == CTOK_E_DEVICE) {
        report(true, "%s %s, %s # SKIP no bfloat16 here", name, bits, what);
        ctok_engine_close(engine, NULL);
        return;
    }
    ctok_model_query(model, &info, NULL);
    bool is_encode = task == CTOK_TASK_ENCODE;
    ctok_stream_options options = {
        .struct_size = sizeof options, .task = task, .attention_frames = attention_frames};
    int64_t unit = is_encode ? info.temporal_factor : 1,
            side = is_encode ? SIDE : SIDE / info.spatial_factor, past = NUM_CHUNKS * CHUNK_TOKENS;
    uint32_t tokens = info.quantizer ? CTOK_INDICES : CTOK_LATENT;
    ctok_request request = {.struct_size = sizeof request,
                            .task = task,
                            .input = is_encode ? CTOK_PIXELS_U8 : tokens,
                            .outputs = is_encode ? 0 : CTOK_PIXELS_U8,
                            .frames = CHUNK_TOKENS * unit,
                            .height = side,
                            .width = side};
    if (attention_frames) past = attention_frames - 1 + CHUNK_TOKENS;
    ctok_plan plan = {.struct_size = sizeof plan};
    bool is_well = ctok_stream_open(model, &options, &stream, NULL) == CTOK_OK;
    if (!is_encode) {  // codes alone would run no layer, and leave a stream without the past of its
                       // layers
        ctok_request codes = request;
        codes.outputs = CTOK_CODES;
        is_well = is_well &&
                  ctok_stream_submit(stream, input, 1, &codes, &job, NULL) == CTOK_E_UNSUPPORTED;
    }
    forget_peak();
    long long before = status_bytes("VmRSS");
    for (int i = 0; i < NUM_CHUNKS && is_well; i++) {
        ctok_request planned = request, chunk = request;
        planned.chunk = i ? CTOK_CHUNK_LATER : CTOK_CHUNK_FIRST;
        planned.state_frames = past;
        if (i == 0 && is_encode) planned.frames = chunk.frames = 1 + (CHUNK_TOKENS - 1) * unit;
        is_well =
            ctok_plan_query(model, &plan, &planned, NULL) == CTOK_OK &&
            plan.input_bytes <= INPUT_BYTES &&
            ctok_stream_submit(stream, input, plan.input_bytes, &chunk, &job, NULL) == CTOK_OK &&
            finish(job);
    }
    long long grown = status_bytes("VmHWM") - before;
    ctok_engine_info engine_info = {.struct_size = sizeof engine_info};
    ctok_engine_query(engine, &engine_info, NULL);
    is_well = is_near((double)grown, (double)(plan.total_bytes - plan.weight_bytes)) && is_well &&
              engine_info.state_bytes == plan.state_bytes;
    if (engine_info.state_bytes != plan.state_bytes)
        snprintf(found, sizeof found, "state %llu, planned %llu",
                 (unsigned long long)engine_info.state_bytes, (unsigned long long)plan.state_bytes);
    report(is_well, "%s %s, %s: %s", name, bits, what, found);
    ctok_stream_close(stream, NULL);
    for (int i = 0; i < 60000 && engine_info.state_bytes != 0;
         i++) {  // the engine's thread lets go of the last job after its end
        usleep(1000);
        ctok_engine_query(engine, &engine_info, NULL);
    }
    if (engine_info.state_bytes != 0) {
        report(false, "%s %s, %s: %llu bytes of state", name, bits, what,
               (unsigned long long)engine_info.state_bytes);
    }
    ctok_engine_close(engine, NULL);
}

static void test_model(const char *path, const char *name, bool is_video, bool is_discrete,
                       int spatial, int temporal, uint32_t precision) {
    uint32_t tokens = is_discrete ? CTOK_INDICES : CTOK_LATENT;
    static const int64_t images[][4] = {{1, 1, 512, 512}, {1, 1, 192, 320}, {5, 1, 96, 160}},
                         clips[][4] = {
                             {1, 1, 256, 256}, {1, 9, 96, 160}, {1, 17, 128, 128}, {3, 9, 64, 96}};
    for (int i = 0; i < (is_video ? 4 : 3); i++) {
        const int64_t *size = is_video ? clips[i] : images[i], batch = size[0], frames = size[1],
                      height = size[2], width = size[3];
        char what[96];
        for (uint32_t task = CTOK_TASK_ENCODE; task <= CTOK_TASK_AUTOENCODE; task++) {
            static const char *const names[] = {"", "encode", "decode", "autoencode"};
            bool is_decode = task == CTOK_TASK_DECODE;
            ctok_request request = {.task = task,
                                    .input = is_decode ? tokens : CTOK_PIXELS_U8,
                                    .batch = batch,
                                    .frames = frames,
                                    .height = height,
                                    .width = width};
            if (is_decode)
                request.frames = (frames - 1) / temporal + 1, request.height /= spatial,
                request.width /= spatial;
            snprintf(what, sizeof what, "%s %lld x %lld x %lld x %lld", names[task],
                     (long long)batch, (long long)frames, (long long)height, (long long)width);
            test_request(path, name, precision, request, what);
        }
    }
    for (uint32_t task = CTOK_TASK_ENCODE; is_video && task <= CTOK_TASK_DECODE; task++) {
        test_stream(path, name, precision, task, 0);
        test_stream(path, name, precision, task, 3);
    }
}

int main(void) {
    if (is_emulated()) {
        report_skip("plans against resident memory", "the emulator's is counted with it");
        return report_end();
    }
    static const char *const names[] = {"CI8x8",      "CI16x16", "DI8x8",    "DI16x16",
                                        "DI8x8-360p", "CV4x8x8", "CV8x8x8",  "CV8x16x16",
                                        "DV4x8x8",    "DV8x8x8", "DV8x16x16"};
    mallopt(M_MMAP_THRESHOLD, 64 << 10);  // and no more: what was freed is given back, and does not
                                          // hide what is taken next
    input = calloc(1, INPUT_BYTES);
    if (!input) return 1;
    for (size_t i = 0; i < INPUT_BYTES; i += 4096) ((volatile uint8_t *)input)[i] = 0;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[64], command[160];
        int factors[3] = {0},
            count = sscanf(names[i] + 2, "%dx%dx%d", &factors[0], &factors[1], &factors[2]);
        snprintf(path, sizeof path, "/tmp/ctok-plan-%d-%s.safetensors", (int)getpid(), names[i]);
        snprintf(command, sizeof command, "build/tests/make_weights %s %s --small", path, names[i]);
        if (system(command) != 0) return 1;
        for (uint32_t precision = CTOK_PRECISION_F32; precision <= CTOK_PRECISION_BF16; precision++)
            test_model(path, names[i], count == 3, names[i][0] == 'D', factors[1],
                       count == 3 ? factors[0] : 1, precision);
        unlink(path);
    }
    for (uint32_t precision = CTOK_PRECISION_F32; precision <= CTOK_PRECISION_BF16; precision++) {
        test_model("models/nano/DI8x8.safetensors", "nano-DI8x8", false, true, 8, 1, precision);
        test_model("models/nano/DV4x8x8.safetensors", "nano-DV4x8x8", true, true, 8, 4, precision);
    }
    free(input);
    return report_end();
}
