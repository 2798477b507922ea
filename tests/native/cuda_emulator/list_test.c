// Lists of steps as whole networks have them, on the CPU and on the emulated GPU, through ctok.h: a
// step that fails is told with its number, kind, layer and shape, whichever it is; requests of the
// same shapes share a list, and with it its graphs, which stay right when the arena moves, when
// other lists come between and when a model is closed and opened again; a batch as one pass of as
// many launches as an image takes; steps that are timed. TAP.
// Note: over 400 lines: lists and graphs through one life of an engine, a section a part.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../../csrc/backends/cpu/cpu.h"
#include "../../../csrc/backends/cuda/op.h"
#include "../../../csrc/runtime/engine.h"
#include "../../../csrc/runtime/model.h"
#include "../tap.h"
#include "cuda_runtime_api.h"

enum { SIDE = 16, MOST_SIDE = 48, BATCH = 4, LATENTS = MOST_SIDE / 8 * (MOST_SIDE / 8) * 16 };
static const char *checkpoint_path = "tests/fixtures/Cosmos-Tokenizer-CI8x8";  // of the next life

// ---------------------------------------------------------------- a life
typedef struct {
    uint32_t engine, model;
    ctok_error error;
} life;

static ctok_status end_job(life *l, uint32_t job, float *out, size_t out_bytes) {
    ctok_status status;
    while ((status = ctok_job_wait(job, 1000000, &l->error)) == CTOK_E_NOT_READY) {}
    if (status == CTOK_OK && out) status = ctok_job_take(job, out, out_bytes, 0, &l->error);
    ctok_job_release(job, NULL);
    return status;
}

static bool open_model(life *l) {
    ctok_job_info info = {.struct_size = sizeof info};
    ctok_model_options options = {.struct_size = sizeof options};
    uint32_t job;
    if (ctok_model_open(l->engine, checkpoint_path, &options, &job, &l->error) != CTOK_OK)
        return false;
    bool is_open = ctok_job_wait(job, 60000000, &l->error) == CTOK_OK &&
                   ctok_job_query(job, &info, &l->error) == CTOK_OK;
    l->model = info.model;
    ctok_job_release(job, NULL);
    return is_open;
}

static uint32_t keeps_steps;  // of the engines that begin

static bool begin(life *l, uint32_t device) {
    *l = (life){.error.struct_size = sizeof l->error};
    ctok_engine_options options = {.struct_size = sizeof options,
                                   .device = device,
                                   .num_threads = 1,
                                   .keeps_steps = keeps_steps};
    return ctok_engine_open(&options, NULL, &l->engine, &l->error) == CTOK_OK && open_model(l);
}

// `first`: the number of the batch's first image.
static ctok_status encode_from(life *l, int64_t first, int64_t batch, int64_t height, int64_t width,
                               float *out, size_t out_bytes) {
    static uint8_t pixels[BATCH * MOST_SIDE * MOST_SIDE * 3];
    for (size_t i = 0; i < sizeof pixels; i++) pixels[i] = (uint8_t)(i * 37 % 251);
    ctok_request request = {.struct_size = sizeof request,
                            .task = CTOK_TASK_ENCODE,
                            .input = CTOK_PIXELS_U8,
                            .batch = batch,
                            .height = height,
                            .width = width};
    uint32_t job;
    uint64_t image_bytes = (uint64_t)(height * width) * 3;
    ctok_status status = ctok_job_submit(l->model, pixels + (uint64_t)first * image_bytes,
                                         (uint64_t)batch * image_bytes, &request, &job, &l->error);
    return status == CTOK_OK ? end_job(l, job, out, out_bytes) : status;
}

static ctok_status encode(life *l, int64_t batch, int64_t height, int64_t width, float *out,
                          size_t out_bytes) {
    return encode_from(l, 0, batch, height, width, out, out_bytes);
}

// What ids stand for. The tables' references keep them while the engine is open.
static engine *engine_of(const life *l) {
    object *o = NULL;
    if (ids_get(&o, OBJECT_ENGINE, l->engine, NULL) != CTOK_OK) exit(1);
    object_release(o);
    return (engine *)o;
}

static const step_list *last_list(const life *l) {
    object *o = NULL;
    if (ids_get(&o, OBJECT_MODEL, l->model, NULL) != CTOK_OK) exit(1);
    object_release(o);
    return &((model *)o)->programs.kept[0]->bound->list;
}

// ---------------------------------------------------------------- failures
static const char *const kinds[] = {"load", "store",     "haar",     "unhaar",     "conv", "norm",
                                    "pool", "attention", "quantize", "dequantize", "copy"};

// Whether the text names step `i` of the list: "step 41 of 96 (conv encoder.down.1.block.0.conv1,
// [1, 1, 128, 128, 256]) failed: ..."
static bool names_step(const char *text, const step_list *list, int32_t i, const char *reason) {
    const step *s = &list->steps[i];
    char want[256];
    snprintf(want, sizeof want, "step %d of %d (%s%s%s, [1, 1, ", i + 1, list->num_steps,
             kinds[s->kind], *s->layer ? " " : "", s->layer);
    const char *rest = strstr(text, ") failed: ");
    bool has_layer = s->kind == OP_CONV || s->kind == OP_NORM || s->kind == OP_ATTENTION;
    return (*s->layer || !has_layer) && strncmp(text, want, strlen(want)) == 0 && rest &&
           strstr(rest, reason);
}

// The CPU's ops, of which the one at `countdown` fails.
static const cpu_ops *sound;
static int countdown;
#define FAIL_OR(call) (--countdown == 0 ? CTOK_E_INTERNAL : sound->call)
static ctok_status load(backend *b, float *out, const void *e, void *w, const transfer_params *p) {
    return FAIL_OR(load(b, out, e, w, p));
}
static ctok_status store(backend *b, void *e, const float *in, void *w, const transfer_params *p) {
    return FAIL_OR(store(b, e, in, w, p));
}
static ctok_status haar(backend *b, float *out, const float *in, const haar_params *p) {
    return FAIL_OR(haar(b, out, in, p));
}
static ctok_status pool_op(backend *b, void *out, const void *in, const pool_params *p) {
    return FAIL_OR(pool(b, out, in, p));
}
static ctok_status conv(backend *b, void *out, const void *in, const void *past, const void *r,
                        conv_weights w, void *s, const conv_params *p) {
    return FAIL_OR(conv(b, out, in, past, r, w, s, p));
}
static ctok_status norm(backend *b, void *out, const void *in, const float *scale,
                        const float *offset, const norm_params *p) {
    return FAIL_OR(norm(b, out, in, scale, offset, p));
}
static ctok_status attention(backend *b, void *out, const void *q, const void *k, const void *v,
                             void *w, const attention_params *p) {
    return FAIL_OR(attention(b, out, q, k, v, w, p));
}

static void test_cpu_failures(void) {
    life l;
    if (!report(begin(&l, CTOK_DEVICE_CPU), "an engine on the CPU")) return;
    float latent[LATENTS], again[LATENTS];
    bool is_right = encode(&l, 1, SIDE, SIDE, latent, sizeof latent) == CTOK_OK;
    backend *b = engine_of(&l)->backend;
    const step_list *list = last_list(&l);
    sound = (const cpu_ops *)b->kernels;
    cpu_ops broken = *sound;
    broken.load = load, broken.store = store, broken.haar = haar, broken.pool = pool_op,
    broken.conv = conv, broken.norm = norm, broken.attention = attention;
    b->kernels = &broken.kernels;
    int num_wrong = 0;
    for (int32_t i = 0; i < list->num_steps; i++) {
        countdown = i + 1;
        is_right = encode(&l, 1, SIDE, SIDE, NULL, 0) == CTOK_E_INTERNAL && last_list(&l) == list &&
                   names_step(l.error.message, list, i, "found status 501");
        if (!is_right) printf("# step %d: %s\n", i, l.error.message), num_wrong++;
    }
    report(num_wrong == 0 && list->num_steps > 40,
           "each of %d steps that fails on the CPU is told; the last: %s", list->num_steps,
           l.error.message);
    b->kernels = &sound->kernels;
    is_right = encode(&l, 1, SIDE, SIDE, again, sizeof again) == CTOK_OK &&
               memcmp(latent, again, SIDE / 8 * SIDE / 8 * 16 * sizeof(float)) == 0;
    report(is_right, "then it goes on");
    ctok_engine_close(l.engine, NULL);
}

// Every 9th launch of an encode is refused, first where starts are made one by one. The number of
// launches of a list stays the same.
static void test_gpu_failures(void) {
    life l;
    if (!report(begin(&l, CTOK_DEVICE_CUDA), "an engine on the emulated GPU")) return;
    emulator_num_launches = 0;
    bool is_right = encode(&l, 1, SIDE, SIDE, NULL, 0) == CTOK_OK;
    int num_launches = emulator_num_launches, num_wrong = 0, num_told = 0;
    step_list *list = (step_list *)last_list(&l);
    int before = 0;
    for (int n = 1; n <= num_launches && is_right; n += 9, num_told++) {
        int number = 0;
        list->version++;  // no graph
        emulator_fail_in = n;
        ctok_status status = encode(&l, 1, SIDE, SIDE, NULL, 0);
        bool is_one = sscanf(l.error.message, "step %d of", &number) == 1,
             is_some = sscanf(l.error.message, "one of the steps %d to", &number) == 1;
        bool is_told = status == CTOK_E_DEVICE && number > before &&
                       (is_some || (is_one && names_step(l.error.message, list, number - 1,
                                                         "cuda:0 (Emulated GPU)")));
        if (!is_told) printf("# launch %d: %s\n", n, l.error.message), num_wrong++;
        before = number;
    }
    report(is_right && num_wrong == 0 && num_told > 5,
           "%d of %d launches that are refused are told; the last: %s", num_told, num_launches,
           l.error.message);
    ctok_engine_close(l.engine, NULL);
}

// ---------------------------------------------------------------- graphs
static void expect(life *l, int64_t batch, int64_t side, const float *want, const char *what) {
    float got[2 * LATENTS];
    size_t bytes = (size_t)(side / 8 * side / 8) * 16 * sizeof(float);
    bool is_same =
        encode(l, batch, side, side, got, sizeof got) == CTOK_OK && memcmp(got, want, bytes) == 0;
    report(is_same, "%s: the same bits (%d graphs, %d captures, %d launches)", what,
           emulated_device.num_graphs, emulated_device.num_captures,
           emulated_device.num_graph_launches);
}

static void test_graphs(void) {
    life l;
    float small[LATENTS], large[LATENTS];
    bool is_right =
        begin(&l, CTOK_DEVICE_CUDA) && encode(&l, 1, SIDE, SIDE, small, sizeof small) == CTOK_OK;
    if (!report(is_right && emulated_device.num_captures == 0,
                "a first encode makes its starts one by one"))
        return;
    expect(&l, 1, SIDE, small, "the second");
    int captures = emulated_device.num_captures;
    expect(&l, 1, SIDE, small, "the third");
    is_right = captures > 0 && emulated_device.num_captures == captures &&
               emulated_device.num_graph_launches == 2 * captures;
    report(is_right, "the second is captured, the third launched alone");

    is_right = encode(&l, 1, 2 * SIDE, 2 * SIDE, large, sizeof large) ==
               CTOK_OK;  // a larger arena, elsewhere
    for (int i = 0; i < 2; i++) expect(&l, 1, SIDE, small, "after the arena moved");
    report(is_right && emulated_device.num_captures == 2 * captures,
           "which is another graph, once");
    for (int i = 0; i < 3; i++) expect(&l, 2, SIDE, small, "as the first of a batch");
    is_right = emulated_device.num_captures == 3 * captures;
    report(is_right, "which is captured when it comes again");
    for (int i = 0; i < 2; i++) expect(&l, 1, 2 * SIDE, large, "the larger one");
    report(emulated_device.num_captures == 4 * captures, "is captured when it comes again");

    is_right = true;
    for (int i = 0; i < PROGRAMS_KEPT + 2; i++)  // of other sizes, which give way to each other
        for (int k = 0; k < 2; k++)
            is_right = is_right && encode(&l, 1, SIDE, SIDE - 15 + i, NULL, 0) == CTOK_OK;
    report(is_right && emulated_device.num_graphs == PROGRAMS_KEPT * captures,
           "of %d sizes %d have graphs", PROGRAMS_KEPT + 2, emulated_device.num_graphs / captures);
    expect(&l, 1, SIDE, small, "after them");

    // Longer than a CPU keeps its arena: on a GPU the graphs in it go on.
    ctok_engine_info info = {.struct_size = sizeof info};
    for (int i = 0; i < 2; i++) expect(&l, 1, SIDE, small, "again");
    captures = emulated_device.num_captures;
    nanosleep(&(struct timespec){.tv_sec = 1, .tv_nsec = 200000000}, NULL);
    expect(&l, 1, SIDE, small, "after an idle second");
    is_right = ctok_engine_query(l.engine, &info, NULL) == CTOK_OK && info.arena_bytes > 0;
    report(is_right && emulated_device.num_captures == captures,
           "the arena and its graphs are kept: %llu bytes", (unsigned long long)info.arena_bytes);

    const struct emulated_device whole = emulated_device;
    backend *b = engine_of(&l)->backend;
    emulated_device.total_bytes = emulated_device.used_bytes + 64;
    void *memory = b->alloc(b, info.arena_bytes);
    is_right = memory && ctok_engine_query(l.engine, &info, NULL) == CTOK_OK;
    report(is_right && info.arena_bytes == 0, "it is given back where its memory is needed");
    b->free(b, memory, 0);
    emulated_device.total_bytes = whole.total_bytes;
    expect(&l, 1, SIDE, small, "in another arena");

    is_right = ctok_model_close(l.model, NULL) == CTOK_OK && open_model(&l);
    report(is_right && emulated_device.num_graphs == 0,
           "a model that is closed takes its graphs along: %d are left",
           emulated_device.num_graphs);
    for (int i = 0; i < 3; i++) expect(&l, 1, SIDE, small, "opened again");
    ctok_engine_close(l.engine, NULL);
    report(emulated_device.num_graphs == 0 && emulated_device.num_allocations == 0,
           "nothing is left: %d graphs, %d allocations", emulated_device.num_graphs,
           emulated_device.num_allocations);
}

// ---------------------------------------------------------------- a batch
// Four images take as many launches as one, and give the bits of each alone. Where a limit leaves
// room for two at a time, twice as many.
static void test_batch(int64_t side) {
    life l;
    static float one[BATCH][LATENTS], all[BATCH * LATENTS];
    size_t bytes = (size_t)(side / 8 * side / 8) * 16 * sizeof(float);
    int launches = 0;
    bool is_right = begin(&l, CTOK_DEVICE_CUDA), is_same = true;
    for (int64_t n = 0; n < BATCH && is_right; n++) {
        emulator_num_launches = 0;
        is_right = encode_from(&l, n, 1, side, side, one[n], sizeof one[n]) == CTOK_OK;
        if (n == 0) launches = emulator_num_launches;
    }
    emulator_num_launches = 0;
    is_right = is_right && encode(&l, BATCH, side, side, all, sizeof all) == CTOK_OK;
    int together = emulator_num_launches;
    for (int64_t n = 0; n < BATCH; n++)
        is_same = is_same && memcmp((uint8_t *)all + (size_t)n * bytes, one[n], bytes) == 0;
    const step_list *list = last_list(&l);
    report(is_right && together == launches && launches >= list->num_steps,
           "%d images of %d x %d: %d launches for %d steps, as many as for one (%d)", BATCH,
           (int)side, (int)side, together, list->num_steps, launches);
    report(is_right && is_same && memcmp(one[0], one[1], bytes) != 0,
           "%d images of %d x %d: the bits of each alone", BATCH, (int)side, (int)side);
    ctok_engine_close(l.engine, NULL);
}

// ---------------------------------------------------------------- streams
enum { CHUNKS = 5, CHUNK_FRAMES = 4, CODES = SIDE / 8 * SIDE / 8 };

typedef struct {
    uint32_t id;
    int num_chunks;
    int32_t codes[CHUNKS][CODES];
} clip;

// Encodes the next frames of a clip; the first chunk has one.
static bool encode_chunk(life *l, clip *c) {
    static uint8_t pixels[CHUNK_FRAMES * SIDE * SIDE * 3];
    int n = c->num_chunks, frames = n ? CHUNK_FRAMES : 1;
    for (size_t i = 0; i < sizeof pixels; i++)
        pixels[i] = (uint8_t)((i + 1000 * (size_t)n) * 37 % 251);
    ctok_request request = {.struct_size = sizeof request,
                            .input = CTOK_PIXELS_U8,
                            .outputs = CTOK_INDICES,
                            .frames = frames,
                            .height = SIDE,
                            .width = SIDE};
    uint32_t job;
    if (ctok_stream_submit(c->id, pixels, (uint64_t)frames * SIDE * SIDE * 3, &request, &job,
                           &l->error) != CTOK_OK)
        return false;
    c->num_chunks++;
    return end_job(l, job, (float *)c->codes[n], sizeof c->codes[n]) == CTOK_OK;
}

static bool open_clip(life *l, clip *c, uint32_t attention_frames) {
    *c = (clip){0};
    ctok_stream_options options = {.struct_size = sizeof options,
                                   .task = CTOK_TASK_ENCODE,
                                   .attention_frames = attention_frames};
    return ctok_stream_open(l->model, &options, &c->id, &l->error) == CTOK_OK;
}

// The chunks after the second of their size are started as graphs, all but the attention over time
// and what moves its keys and values, whose place and number change; also where streams come in
// turn, and whether or not the attention looks back on everything.
static void test_streams(void) {
    life l;
    checkpoint_path = "models/nano/DV4x8x8.safetensors";
    if (!report(begin(&l, CTOK_DEVICE_CUDA), "a video model on the emulated GPU")) return;
    const backend_counts *counts = engine_of(&l)->backend->counts;
    for (int num_clips = 1; num_clips <= 2; num_clips++) {
        uint32_t window = num_clips == 1 ? 0 : 3;
        clip want, got[2];
        atomic_store(&op_left_out, OP_GRAPHS);
        bool is_right = open_clip(&l, &want, window);
        for (int i = 0; i < CHUNKS; i++) is_right = is_right && encode_chunk(&l, &want);
        ctok_stream_close(want.id, NULL);
        atomic_store(&op_left_out, 0);

        uint64_t starts = 0, launches = 0, captures = 0;
        for (int k = 0; k < num_clips; k++) is_right = is_right && open_clip(&l, &got[k], window);
        for (int i = 0; i < CHUNKS; i++) {
            starts = counts->num_starts, launches = counts->num_graph_launches;
            captures = counts->num_captures;
            for (int k = 0; k < num_clips; k++) is_right = is_right && encode_chunk(&l, &got[k]);
        }
        int num_steps = last_list(&l)->num_steps, num_starts = (int)(counts->num_starts - starts),
            num_launches = (int)(counts->num_graph_launches - launches);
        for (int k = 0; k < num_clips; k++) {
            is_right = is_right && memcmp(got[k].codes, want.codes, sizeof want.codes) == 0;
            ctok_stream_close(got[k].id, NULL);
        }
        report(is_right, "%d streams in turn, attention_frames %u: the codes of one without graphs",
               num_clips, window);
        report(counts->num_captures == captures && num_launches == 2 * num_clips &&
                   num_starts == 6 * num_clips,
               "the last chunks: of %d steps %d are started alone, the others by %d graphs",
               num_clips * num_steps, num_starts, num_launches);
    }
    ctok_engine_close(l.engine, NULL);
    report(emulated_device.num_graphs == 0 && emulated_device.num_allocations == 0,
           "nothing is left of streams: %d graphs, %d allocations", emulated_device.num_graphs,
           emulated_device.num_allocations);
}

// ---------------------------------------------------------------- times Of a batch of two on an
// engine that keeps steps: the bits of one that does not, and a time for each step, from the end of
// the one before.
static void test_times(uint32_t device, const char *name) {
    life plain, timed;
    float want[2 * LATENTS], got[2 * LATENTS];
    size_t bytes = (size_t)(2 * SIDE / 8 * SIDE / 8) * 16 * sizeof(float);
    keeps_steps = 0;
    bool is_right =
        begin(&plain, device) && encode(&plain, 2, SIDE, SIDE, want, sizeof want) == CTOK_OK;
    keeps_steps = 1;
    if (!report(is_right && begin(&timed, device), "%s: two engines", name)) return;
    keeps_steps = 0;
    static const uint8_t pixels[2 * SIDE * SIDE * 3];
    static ctok_step steps[256];
    ctok_request request = {.struct_size = sizeof request,
                            .task = CTOK_TASK_ENCODE,
                            .input = CTOK_PIXELS_U8,
                            .batch = 2,
                            .height = SIDE,
                            .width = SIDE};
    for (int i = 0; i < 2; i++)
        is_right = is_right && encode(&timed, 2, SIDE, SIDE, got, sizeof got) == CTOK_OK &&
                   memcmp(want, got, bytes) == 0;
    report(is_right, "%s: timed, the same bits", name);

    uint32_t job, count = 9, none = 9;
    ctok_job_info info = {.struct_size = sizeof info};
    const step_list *list = last_list(&timed);
    ctok_job_submit(timed.model, pixels, sizeof pixels, &request, &job, NULL);
    is_right = ctok_job_wait(job, 60000000, NULL) == CTOK_OK &&
               ctok_job_query(job, &info, NULL) == CTOK_OK;
    is_right = is_right && ctok_job_steps(job, steps, 256, &count, NULL) == CTOK_OK &&
               count == info.num_steps && count == (uint32_t)list->num_steps;
    uint64_t sum = 0;
    for (uint32_t i = 0; i < count && is_right; i++) {
        const step *s = &list->steps[i];
        bool follows =
            i == 0 || steps[i].start_ns == steps[i - 1].start_ns + steps[i - 1].duration_ns;
        is_right = follows && strcmp(steps[i].kind, kinds[s->kind]) == 0 &&
                   strcmp(steps[i].layer, s->layer) == 0 && steps[i].shape[0] == 2;
        is_right = is_right &&
                   (s->kind == OP_CONV) <= (steps[i].flops == 2 * (uint64_t)step_products(s)) &&
                   (i == 0 || steps[i].start_ns >= steps[i - 1].start_ns);
        sum += steps[i].duration_ns;
    }
    report(is_right && sum > 0 && sum / 1000 <= info.run_us + 1,
           "%s: %u steps took %llu of %llu us", name, count, (unsigned long long)(sum / 1000),
           (unsigned long long)info.run_us);
    is_right = ctok_job_steps(job, NULL, 0, &none, NULL) == CTOK_OK && none == count &&
               ctok_job_steps(job, NULL, 1, &none, NULL) == CTOK_E_ARGUMENT;
    report(is_right && ctok_job_release(job, NULL) == CTOK_OK &&
               ctok_job_steps(job, NULL, 0, &none, NULL) == CTOK_E_HANDLE,
           "%s: or how many alone", name);
    ctok_job_submit(plain.model, pixels, sizeof pixels, &request, &job, NULL);
    is_right = ctok_job_wait(job, 60000000, NULL) == CTOK_OK &&
               ctok_job_steps(job, steps, 256, &none, NULL) == CTOK_OK && none == 0;
    report(is_right, "%s: an engine that keeps none tells of none", name);
    ctok_job_release(job, NULL);
    ctok_engine_close(plain.engine, NULL), ctok_engine_close(timed.engine, NULL);
}

int main(void) {
    emulator_settings.is_stream_late = true;
    test_times(CTOK_DEVICE_CPU, "cpu"), test_times(CTOK_DEVICE_CUDA, "cuda");
    test_cpu_failures();
    test_gpu_failures();
    emulated_device.num_captures = emulated_device.num_graph_launches = 0;
    test_graphs();
    test_batch(SIDE), test_batch(2 * SIDE);
    test_streams();
    report(emulator_num_failures == 0, "the emulator found nothing. %s", emulator_failure());
    return report_end();
}
