// Whole networks through ctok.h, for machines without Bun or Deno. One JSON object a line:
//     gpu_run golden MODEL GOLDEN.safetensors [options]
//         encodes the golden file's pixels, decodes its tokens; relative L2
//         {"model", "device", "kernels", "precision", "pre_quant", "different", "tokens", "codes",
//          "reconstruction", "stream", "repeats"}
//         "repeats": a second run gave the same bits (a GPU starts it as graphs)
//         "stream", of a video: the same as pre_quant when the clip comes a token frame at a time,
//         from one chunk to the next
//     gpu_run time MODEL HEIGHT WIDTH [options]
//         two warm-ups of each half, then runs; milliseconds on the engine's thread, from pixels
//         (u8) or tokens in the host's memory to tokens or pixels there, and the memory that a plan
//         counts
//         {"model", "half", "median_ms", "min_ms", "max_ms", "runs", "arena_mib", ...}, and at last
//         {"starts", "graph_launches", "captures", "refused_captures", "waits"} of the GPU
//     options: --device auto|cpu|cuda --precision auto|f32|bf16 --frames N --runs N
//         --batch N: so many images or clips in one request; times are of all of them
//         --without nothing|graphs|moments|together
//             of what a GPU does for speed (csrc/backends/cuda/op.h), to time what it brings
// Exit code 1 with {"error"} when something fails. Who calls it: gpucheck/parts/*.py;
// tests/golden/emulator.test.ts; by hand.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../csrc/backends/cuda/op.h"
#include "../../csrc/checkpoint/checkpoint.h"
#include "../../csrc/include/ctok.h"

static uint32_t engine_id, model_id;
static ctok_engine_info engine_info = {.struct_size = sizeof engine_info};
static ctok_model_info model_info = {.struct_size = sizeof model_info};
static uint32_t device, precision;
static int64_t num_frames = 1, num_images = 1;
static int num_runs = 5;

static void expect(ctok_status status, const ctok_error *error) {
    if (status == CTOK_OK) return;
    printf("{\"error\": \"%s: %s\"}\n", ctok_status_name(status), error->message);
    exit(1);
}

static void *new_bytes(size_t num_bytes) {
    void *memory = malloc(num_bytes ? num_bytes : 1);
    if (!memory) exit(1);
    return memory;
}

static int number_of(const char *name, const char *value, const char *const *names, int count) {
    for (int i = 0; i < count; i++)
        if (strcmp(value, names[i]) == 0) return i;
    fprintf(stderr, "gpu_run: %s: found %s\n", name, value);
    exit(2);
}

// ---------------------------------------------------------------- jobs
static ctok_job_info wait_for(uint32_t job) {
    ctok_error error = {.struct_size = sizeof error};
    ctok_status status;
    while ((status = ctok_job_wait(job, 1000000, &error)) == CTOK_E_NOT_READY) {}
    expect(status, &error);
    ctok_job_info info = {.struct_size = sizeof info};
    expect(ctok_job_query(job, &info, &error), &error);
    return info;
}

static void open_model(const char *path) {
    ctok_error error = {.struct_size = sizeof error};
    ctok_engine_options options = {.struct_size = sizeof options, .device = device};
    ctok_model_options model_options = {.struct_size = sizeof model_options,
                                        .precision = precision};
    uint32_t job;
    expect(ctok_engine_open(&options, NULL, &engine_id, &error), &error);
    expect(ctok_engine_query(engine_id, &engine_info, &error), &error);
    expect(ctok_model_open(engine_id, path, &model_options, &job, &error), &error);
    model_id = wait_for(job).model;
    ctok_job_release(job, NULL);
    expect(ctok_model_query(model_id, &model_info, &error), &error);
}

// Waits and gives the outputs, newly allocated, in the order of their kinds.
static ctok_job_info take(uint32_t job, void *outputs[4]) {
    ctok_error error = {.struct_size = sizeof error};
    ctok_job_info info = wait_for(job);
    for (uint32_t i = 0; i < info.num_outputs; i++) {
        outputs[i] = new_bytes(info.outputs[i].bytes);
        expect(ctok_job_take(job, outputs[i], info.outputs[i].bytes, i, &error), &error);
    }
    ctok_job_release(job, NULL);
    return info;
}

static ctok_job_info run(const ctok_request *request, const void *input, void *outputs[4]) {
    ctok_error error = {.struct_size = sizeof error};
    ctok_plan plan = {.struct_size = sizeof plan};
    uint32_t job;
    expect(ctok_plan_query(model_id, &plan, request, &error), &error);
    expect(ctok_job_submit(model_id, input, plan.input_bytes, request, &job, &error), &error);
    return take(job, outputs);
}

static const void *output_of(const ctok_job_info *info, void *const outputs[4], uint32_t kind) {
    for (uint32_t i = 0; i < info->num_outputs; i++)
        if (info->outputs[i].kind == kind) return outputs[i];
    return NULL;
}

static void print_head(void) {
    printf("{\"model\": \"%s\", \"device\": \"%s\", \"kernels\": \"%s\", \"precision\": \"%s\"",
           model_info.name, engine_info.device, engine_info.kernels,
           model_info.precision == CTOK_PRECISION_BF16 ? "bf16" : "f32");
}

// ---------------------------------------------------------------- golden
// The same request again, which a GPU starts as graphs, gives the same bits.
static bool is_repeated(const ctok_request *request, const void *input, void *const outputs[4]) {
    void *again[4] = {NULL};
    ctok_job_info info = run(request, input, again);
    bool is_same = true;
    for (uint32_t i = 0; i < info.num_outputs; i++)
        is_same = is_same && memcmp(outputs[i], again[i], info.outputs[i].bytes) == 0;
    for (int i = 0; i < 4; i++) free(again[i]);
    return is_same;
}

static double relative_error(const float *got, const float *want, int64_t count) {
    double error = 0, norm = 0;
    for (int64_t i = 0; i < count; i++) {
        double gap = (double)got[i] - want[i];
        error += gap * gap, norm += (double)want[i] * want[i];
    }
    return sqrt(error / norm);
}

static const checkpoint_tensor *wanted_tensor(const checkpoint *c, const char *name) {
    const checkpoint_tensor *t = checkpoint_find(c, name);
    if (t) return t;
    printf("{\"error\": \"the golden file has no %s\"}\n", name);
    exit(1);
}

static float *floats_of(const checkpoint *c, const char *name, int64_t *count) {
    const checkpoint_tensor *t = wanted_tensor(c, name);
    *count = checkpoint_elements(t);
    float *values = new_bytes((size_t)*count * sizeof *values);
    checkpoint_read_f32(t, values);
    return values;
}

static int32_t *indices_of(const checkpoint *c, int64_t *count) {
    const checkpoint_tensor *t = wanted_tensor(c, "indices");
    *count = checkpoint_elements(t);
    int64_t *wide = new_bytes((size_t)*count * sizeof *wide);
    int32_t *values = new_bytes((size_t)*count * sizeof *values);
    checkpoint_read_i64(t, wide);
    for (int64_t i = 0; i < *count; i++) values[i] = (int32_t)wide[i];
    free(wide);
    return values;
}

// The clip again as a stream: the first frame alone, then as many as make one more frame of tokens.
// [1, C, t, h, w].
static double streamed_error(const ctok_request *whole, const uint8_t *pixels, uint32_t kind,
                             const float *want, const int64_t shape[5]) {
    ctok_error error = {.struct_size = sizeof error};
    ctok_stream_options options = {.struct_size = sizeof options, .task = CTOK_TASK_ENCODE};
    uint32_t stream, job;
    expect(ctok_stream_open(model_id, &options, &stream, &error), &error);
    int64_t channels = shape[1], tokens = shape[2], area = shape[3] * shape[4],
            frame_bytes = whole->height * whole->width * 3, at = 0;
    float *got = new_bytes((size_t)(channels * tokens * area) * sizeof *got);
    for (int64_t t = 0; t < tokens; t++) {
        ctok_request chunk = *whole;
        void *outputs[4] = {NULL};
        chunk.frames = t == 0 ? 1 : model_info.temporal_factor, chunk.outputs = kind;
        expect(ctok_stream_submit(stream, pixels + at * frame_bytes,
                                  (uint64_t)(chunk.frames * frame_bytes), &chunk, &job, &error),
               &error);
        take(job, outputs);
        for (int64_t c = 0; c < channels; c++)
            memcpy(got + (c * tokens + t) * area, (float *)outputs[0] + c * area,
                   (size_t)area * sizeof *got);
        free(outputs[0]);
        at += chunk.frames;
    }
    ctok_stream_close(stream, NULL);
    double result = relative_error(got, want, channels * tokens * area);
    free(got);
    return result;
}

static uint8_t *pixels_of(const checkpoint *c) {
    const checkpoint_tensor *t = wanted_tensor(c, "pixels");
    int64_t count = checkpoint_elements(t), *values = malloc((size_t)count * sizeof *values);
    uint8_t *pixels = malloc((size_t)count);
    if (!values || !pixels || !checkpoint_read_i64(t, values)) exit(1);
    for (int64_t i = 0; i < count; i++) pixels[i] = (uint8_t)values[i];
    free(values);
    return pixels;
}

static void golden(const char *path) {
    ctok_error error = {.struct_size = sizeof error};
    checkpoint *c = NULL;
    expect(checkpoint_open(&c, path, NULL, &error), &error);
    const checkpoint_tensor *pixels = wanted_tensor(c, "pixels");  // [B, (T,) H, W, 3]
    uint8_t *bytes = pixels_of(c);
    int is_video = pixels->rank == 5, is_discrete = model_info.quantizer != CTOK_QUANTIZER_NONE;
    ctok_request encode = {
        .struct_size = sizeof encode,
        .task = CTOK_TASK_ENCODE,
        .input = CTOK_PIXELS_U8,
        .batch = pixels->shape[0],
        .frames = is_video ? pixels->shape[1] : 1,
        .height = pixels->shape[1 + is_video],
        .width = pixels->shape[2 + is_video],
        .outputs = is_discrete ? CTOK_INDICES | CTOK_CODES | CTOK_PRE_QUANT : CTOK_LATENT};
    void *outputs[4] = {NULL}, *decoded[4] = {NULL};
    ctok_job_info info = run(&encode, bytes, outputs);

    int64_t count, num_tokens = 0, different = 0;
    bool is_same = is_repeated(&encode, bytes, outputs);
    print_head();
    float *want = floats_of(c, "pre_quant", &count);
    uint32_t kind = is_discrete ? CTOK_PRE_QUANT : CTOK_LATENT;
    printf(", \"pre_quant\": %.3e", relative_error(output_of(&info, outputs, kind), want, count));
    if (is_video && encode.batch == 1 && (encode.frames - 1) % model_info.temporal_factor == 0) {
        printf(", \"stream\": %.3e",
               streamed_error(&encode, bytes, kind, want, wanted_tensor(c, "pre_quant")->shape));
    }
    void *tokens;
    if (is_discrete) {
        tokens = indices_of(c, &num_tokens);
        const int32_t *found = output_of(&info, outputs, CTOK_INDICES);
        for (int64_t i = 0; i < num_tokens; i++) different += found[i] != ((int32_t *)tokens)[i];
        float *codes = floats_of(c, "codes", &count);
        printf(", \"different\": %lld, \"tokens\": %lld, \"codes\": %.3e", (long long)different,
               (long long)num_tokens,
               relative_error(output_of(&info, outputs, CTOK_CODES), codes, count));
        free(codes);
    } else {
        tokens = floats_of(c, "latent", &count);
    }
    const ctok_output *grid = &info.outputs[0];  // [B, (t,) h, w], or [B, C, (t,) h, w]
    int first = is_discrete ? 1 : 2;
    ctok_request decode = {.struct_size = sizeof decode,
                           .task = CTOK_TASK_DECODE,
                           .input = is_discrete ? CTOK_INDICES : CTOK_LATENT,
                           .batch = encode.batch,
                           .frames = is_video ? grid->shape[first] : 1,
                           .height = grid->shape[first + is_video],
                           .width = grid->shape[first + 1 + is_video]};
    run(&decode, tokens, decoded);
    is_same = is_repeated(&decode, tokens, decoded) && is_same;
    free(want);
    want = floats_of(c, "reconstruction", &count);
    printf(", \"reconstruction\": %.3e, \"repeats\": %s}\n",
           relative_error(decoded[0], want, count), is_same ? "true" : "false");
    free(want), free(tokens), free(bytes);
    for (int i = 0; i < 4; i++) free(outputs[i]), free(decoded[i]);
    checkpoint_close(c);
}

// ---------------------------------------------------------------- time
static int by_value(const void *a, const void *b) {
    return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b);
}

static ctok_job_info time_half(const char *half, const ctok_request *request, const void *input,
                               void *outputs[4]) {
    ctok_plan plan = {.struct_size = sizeof plan};
    ctok_error error = {.struct_size = sizeof error};
    expect(ctok_plan_query(model_id, &plan, request, &error), &error);
    ctok_job_info info = run(request, input, outputs);
    void *second[4] = {NULL};  // a GPU makes its graph in the second run
    run(request, input, second);
    for (int k = 0; k < 4; k++) free(second[k]);
    double *times = new_bytes((size_t)num_runs * sizeof *times);
    for (int i = 0; i < num_runs; i++) {
        void *again[4] = {NULL};
        times[i] = (double)run(request, input, again).run_us / 1e3;
        for (int k = 0; k < 4; k++) free(again[k]);
    }
    qsort(times, (size_t)num_runs, sizeof *times, by_value);
    print_head();
    printf(
        ", \"half\": \"%s\", \"batch\": %lld, \"median_ms\": %.3f, \"min_ms\": %.3f, \"max_ms\": "
        "%.3f, \"runs\": %d, \"arena_mib\": %.1f, \"weight_mib\": %.1f, \"steps\": %u}\n",
        half, (long long)num_images, times[num_runs / 2], times[0], times[num_runs - 1], num_runs,
        (double)plan.arena_bytes / 1048576, (double)plan.weight_bytes / 1048576, plan.num_steps);
    fflush(stdout);
    free(times);
    return info;
}

// What the GPU was asked to do in all.
static void print_counts(void) {
    ctok_error error = {.struct_size = sizeof error};
    expect(ctok_engine_query(engine_id, &engine_info, &error), &error);
    printf(
        "{\"starts\": %llu, \"graph_launches\": %llu, \"captures\": %llu, "
        "\"refused_captures\": %llu, \"waits\": %llu}\n",
        (unsigned long long)engine_info.num_starts,
        (unsigned long long)engine_info.num_graph_launches,
        (unsigned long long)engine_info.num_captures,
        (unsigned long long)engine_info.num_refused_captures,
        (unsigned long long)engine_info.num_waits);
}

static void time_model(int64_t height, int64_t width) {
    int is_video = (int)model_info.is_video,
        is_discrete = model_info.quantizer != CTOK_QUANTIZER_NONE;
    size_t count = (size_t)(num_images * num_frames * height * width * 3);
    uint8_t *pixels = new_bytes(count);
    uint64_t state = 1;
    for (size_t i = 0; i < count; i++)
        state = state * 6364136223846793005u + 1442695040888963407u,
        pixels[i] = (uint8_t)(state >> 56);
    ctok_request encode = {.struct_size = sizeof encode,
                           .task = CTOK_TASK_ENCODE,
                           .input = CTOK_PIXELS_U8,
                           .batch = num_images,
                           .frames = num_frames,
                           .height = height,
                           .width = width,
                           .outputs = is_discrete ? CTOK_INDICES : CTOK_LATENT};
    void *tokens[4] = {NULL}, *decoded[4] = {NULL};
    ctok_job_info info = time_half("encode", &encode, pixels, tokens);
    const ctok_output *grid = &info.outputs[0];
    int first = is_discrete ? 1 : 2;
    ctok_request decode = {.struct_size = sizeof decode,
                           .task = CTOK_TASK_DECODE,
                           .input = is_discrete ? CTOK_INDICES : CTOK_LATENT,
                           .outputs = CTOK_PIXELS_U8,
                           .batch = num_images,
                           .frames = is_video ? grid->shape[first] : 1,
                           .height = grid->shape[first + is_video],
                           .width = grid->shape[first + 1 + is_video]};
    time_half("decode", &decode, tokens[0], decoded);
    print_counts();
    for (int i = 0; i < 4; i++) free(tokens[i]), free(decoded[i]);
    free(pixels);
}

int main(int argc, char **argv) {
    static const char *const devices[] = {"auto", "cpu", "cuda"},
                             *const precisions[] = {"auto", "f32", "bf16"},
                             *const parts[] = {"nothing", "graphs", "moments", "", "together"};
    int num_plain = 0;
    const char *plain[5] = {NULL};
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (strncmp(argv[i], "--", 2) != 0 && num_plain < 5) {
            plain[num_plain++] = argv[i];
            continue;
        }
        if (strcmp(argv[i], "--device") == 0)
            device = (uint32_t)number_of("--device", value, devices, 3);
        else if (strcmp(argv[i], "--precision") == 0)
            precision = (uint32_t)number_of("--precision", value, precisions, 3);
        else if (strcmp(argv[i], "--without") == 0)
            atomic_store(&op_left_out, (unsigned)number_of("--without", value, parts, 5));
        else if (strcmp(argv[i], "--frames") == 0) num_frames = atoll(value);
        else if (strcmp(argv[i], "--batch") == 0) num_images = atoll(value);
        else if (strcmp(argv[i], "--runs") == 0) num_runs = atoi(value);
        i++;
    }
    bool is_golden = num_plain == 3 && strcmp(plain[0], "golden") == 0,
         is_time = num_plain == 4 && strcmp(plain[0], "time") == 0;
    if (!(is_golden || is_time) || num_runs < 1 || num_images < 1) {
        fprintf(stderr,
                "usage: gpu_run golden MODEL GOLDEN | time MODEL HEIGHT WIDTH  [--device D "
                "--precision P --frames N --batch N --runs N --without PART]\n");
        return 2;
    }
    open_model(plain[1]);
    if (is_golden) golden(plain[2]);
    else time_model(atoll(plain[2]), atoll(plain[3]));
    ctok_engine_close(engine_id, NULL);
    return 0;
}
