// The CUDA backend itself, on the emulator: what it says when there is no driver, no GPU, an old
// one, no memory or a lost one; that it gives back what it took, and leaves other threads and GPUs
// as they were; which steps it starts as graphs, and what happens where that fails; which step is
// told to have failed; how often it waits; that a batch has the bits of its images; and every op
// through the seam, in the cases of gpu_ops.h that the emulator can do in seconds (cuda_test.c has
// all shapes and tiles). Prints TAP; the exit code is 1 when a test failed.
// Note: over 400 lines: one device over one emulator, a section a part of its life.
#include <pthread.h>

#include "../../../csrc/backends/cuda/op.h"
#include "../gpu_ops.h"
#include "cuda_runtime_api.h"

static const struct emulated_device whole = {.num_devices = 1,
                                             .driver = 13000,
                                             .major = 9,
                                             .shared_bytes = 232448,
                                             .total_bytes = (size_t)1 << 32};

static bool is_stream_late;  // of the tests that follow

static void expect_refusal(struct emulated_device device, uint32_t index, ctok_status status,
                           const char *text) {
    emulated_device = device;
    emulated_current = EMULATED_NONE;
    backend *b = NULL;
    ctok_error error = {.struct_size = sizeof error};
    ctok_status got = cuda_backend_open(&b, index, &error);
    report(got == status && strstr(error.message, text), "opening is refused: %s", error.message);
    report(emulated_device.num_allocations == 0, "and nothing is kept");
}

static void test_opening(void) {
    struct emulated_device device = whole;
    device.driver = 0, device.num_devices = 0;
    expect_refusal(device, 0, CTOK_E_DEVICE, "expected an NVIDIA driver, found none");
    device.driver = 12020;
    expect_refusal(device, 0, CTOK_E_DEVICE,
                   "for CUDA 13 or later (580 and up), found one for CUDA 12.2");
    device = whole, device.num_devices = 0;
    expect_refusal(device, 0, CTOK_E_DEVICE, "cuda:0: expected a GPU of that number, found 0");
    expect_refusal(whole, 1, CTOK_E_DEVICE, "cuda:1: expected a GPU of that number, found 1");
    device = whole, device.major = 7, device.minor = 0;
    expect_refusal(
        device, 0, CTOK_E_DEVICE,
        "(Emulated GPU): expected compute capability 7.5 or more (8.0 for bf16), found 7.0");
    report(emulated_device.num_contexts[0] == 0, "and it was not started");
    device = whole, device.used_bytes = device.total_bytes;
    expect_refusal(device, 0, CTOK_E_MEMORY, "out of memory");
    device = whole, device.is_lost = true;
    expect_refusal(device, 0, CTOK_E_DEVICE, "illegal memory access");
}

static void test_failures(void) {
    emulated_device = whole;
    backend *b = NULL;
    ctok_error error = {.struct_size = sizeof error};
    if (cuda_backend_open(&b, 0, &error) != CTOK_OK) {
        report(false, "opens: %s", error.message);
        return;
    }
    uint64_t total, available;
    b->memory_bytes(b, &total, &available);
    report(total == whole.total_bytes && available < total, "memory: %llu of %llu are free",
           (unsigned long long)available, (unsigned long long)total);
    report(b->alloc(b, whole.total_bytes) == NULL && b->finish(b, NULL) == CTOK_OK,
           "no memory is NULL, and nothing has failed");

    float values[4] = {1, 2, 3, 6}, mean = 0;
    void *in = put_bytes(b, values, sizeof values), *out = b->alloc(b, sizeof mean);
    pool_params p = {{1, 1, 2, 2, 1}, {1, 1, 1, 1, 1}, false, true, CTOK_F32};
    emulated_device.fail_in = 1;
    b->upload(b, in, values, sizeof values);
    step pool = pool_step(out, in, &p);
    step_list list = {.steps = &pool, .num_steps = 1};
    step_run run = {0};
    bool is_right = b->run(b, &list, &run, &error) == CTOK_E_MEMORY && run.first == -1 &&
                    strstr(error.message, "cuda:0 (Emulated GPU)");
    report(is_right,
           "after a copy without memory a list says so, and that none of its steps failed: %s",
           error.message);
    report(b->finish(b, NULL) == CTOK_OK, "which is told once");
    b->upload(b, in, values, sizeof values);
    report(
        op_pool(b, out, in, &p) == CTOK_OK && get_words(b, &mean, out, 1) == CTOK_OK && mean == 3,
        "then it goes on: %g", (double)mean);

    emulated_device.is_lost = true;
    is_right = b->run(b, &list, &run, &error) == CTOK_E_DEVICE && run.first == 0 &&
               strstr(error.message, "its context is lost to the whole process");
    report(is_right, "a lost device: the step fails: %s", error.message);
    report(op_pool(b, out, in, &p) == CTOK_E_DEVICE && b->finish(b, NULL) == CTOK_E_DEVICE &&
               !b->alloc(b, 64),
           "and so does every later one");
    drop(b, in), drop(b, out);
    b->close(b);
    report(emulated_device.num_allocations == 0, "all memory was given back: %d kept",
           emulated_device.num_allocations);
}

// ---------------------------------------------------------------- whose GPU
static void give_back(backend *b, void *memory) { b->free(b, memory, 64); }
static void ask_memory(backend *b, void *memory) {
    (void)memory;
    uint64_t total, available;
    b->memory_bytes(b, &total, &available);
}
static void forget_list(backend *b, void *list) { b->forget(b, list); }
static void close_all(backend *b, void *memory) {
    (void)memory;
    b->close(b);
}
// The bug that this is for: the thread's device "as it was before" is GPU 0 where it had none.
static void restore_device(backend *b, void *memory) {
    (void)b, (void)memory;
    int before;
    cudaGetDevice(&before);
    cudaSetDevice(1);
    cudaSetDevice(before);
}

// A thread that has the context `had`, and what it does with a backend of another.
typedef struct {
    void (*visit)(backend *, void *);
    backend *b;
    void *argument;
    int had, has;
} visitor;

static void *visit(void *argument) {
    visitor *v = argument;
    emulated_take(v->had);
    v->visit(v->b, v->argument);
    v->has = emulated_current;
    return NULL;
}

// Whether the thread has afterwards what it had, and no other GPU than these was started.
static bool is_left_alone(visitor v) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, visit, &v) || pthread_join(thread, NULL)) return false;
    return v.has == v.had && emulated_device.num_contexts[0] == 0 &&
           emulated_device.num_strangers == 0;
}

static void test_second_gpu(void) {
    struct emulated_device device = whole;
    device.num_devices = 3;
    emulated_device = device;
    emulated_current = EMULATED_NONE;
    backend *b = NULL;
    ctok_error error = {.struct_size = sizeof error};
    if (cuda_backend_open(&b, 1, &error) != CTOK_OK) {
        report(false, "cuda:1 opens: %s", error.message);
        return;
    }
    report(emulated_current == 1 && emulated_device.num_contexts[1] == 1 &&
               emulated_device.num_contexts[0] == 0,
           "%s is opened and no other", b->device);
    replayed r = replayed_make(b);
    for (int i = 0; i < 3; i++) {
        ctok_status status;
        free(replayed_run(&r, 0, 0, REPLAYED_STEPS, -1, &status, NULL));
    }
    report(emulated_device.num_graphs == 1 && emulated_device.num_contexts[0] == 0,
           "cuda:1 runs, also as a graph");
    static const int had[] = {EMULATED_NONE, 1, 2};
    for (int i = 0; i < 3; i++) {
        const char *name = (const char *[]){"without a GPU", "on it", "on another GPU"}[i];
        report(is_left_alone((visitor){give_back, b, b->alloc(b, 64), had[i], 0}),
               "memory of cuda:1 is given back on a thread %s", name);
        report(is_left_alone((visitor){ask_memory, b, NULL, had[i], 0}),
               "memory of cuda:1 is asked for on a thread %s", name);
    }
    report(is_left_alone((visitor){forget_list, b, &r.list, EMULATED_NONE, 0}) &&
               emulated_device.num_graphs == 0,
           "a list of cuda:1 is forgotten on a thread without a GPU");
    replayed_free(&r);
    report(is_left_alone((visitor){close_all, b, NULL, EMULATED_NONE, 0}) &&
               emulated_device.num_allocations == 0,
           "cuda:1 is closed on a thread without a GPU");
    emulated_device.lose_in = 6;
    bool is_refused = cuda_backend_open(&b, 1, &error) != CTOK_OK;
    emulated_device.is_lost = false, emulated_device.lose_in = 0;
    report(is_refused && emulated_device.num_contexts[0] == 0,
           "cuda:1 that fails to start leaves GPU 0 alone: %s", error.message);
    emulated_current = EMULATED_NONE;
    report(!is_left_alone((visitor){restore_device, NULL, NULL, EMULATED_NONE, 0}) &&
               emulated_device.num_contexts[0] == 1,
           "a planted bug, the device of before restored: GPU 0 is found to be started");
    emulated_current = EMULATED_NONE;
}

// ---------------------------------------------------------------- graphs
static uint32_t *run_whole(replayed *r, int content, ctok_status want, const char *name) {
    ctok_status status;
    uint32_t *words = replayed_run(r, 0, content, REPLAYED_STEPS, -1, &status, NULL);
    report(status == want, "graphs: %s: status %d", name, (int)status);
    return words;
}

static void expect_same(uint32_t *got, const uint32_t *want, const replayed *r, const char *name) {
    report(is_same(got, want, r->out_words), "graphs: %s: the same bits", name);
    free(got);
}

// Kernels since the last time: one a step and one for the store, a norm two (its convolution
// gathers the moments) or three.
static void expect_kernels(int count, const char *name) {
    report(emulator_num_launches == count, "graphs: %s: %d of %d kernels", name,
           emulator_num_launches, count);
    emulator_num_launches = 0;
}

static void expect_counts(int captures, int launches, const char *name) {
    report(
        emulated_device.num_captures == captures && emulated_device.num_graph_launches == launches,
        "graphs: %s: %d of %d captures, %d of %d launches", name, emulated_device.num_captures,
        captures, emulated_device.num_graph_launches, launches);
}

// When a graph is captured and launched, and that whatever fails there costs no result.
static void test_graphs(void) {
    emulated_device = whole;
    emulator_settings = (emulator_options){.is_stream_late = is_stream_late};
    backend *b = NULL;
    if (cuda_backend_open(&b, 0, NULL) != CTOK_OK) {
        report(false, "graphs: opens");
        return;
    }
    replayed r = replayed_make(b);
    emulator_num_launches = 0;
    uint32_t *want = run_whole(&r, 0, CTOK_OK, "the first run");
    expect_kernels(8, "the first run, in which q, k and v are started together");
    expect_counts(0, 0, "the first run makes every start");
    expect_same(run_whole(&r, 0, CTOK_OK, "the second run"), want, &r, "the second run");
    expect_counts(1, 1, "the second run is captured");
    expect_kernels(8, "the second run");
    expect_same(run_whole(&r, 0, CTOK_OK, "the third run"), want, &r, "the third run");
    expect_counts(1, 2, "the third is launched alone");

    atomic_bool is_cancelled = true;
    b->cancel = &is_cancelled;
    free(run_whole(&r, 0, CTOK_E_CANCELLED, "a run is cancelled"));
    b->cancel = NULL;
    expect_counts(1, 2, "nothing of it is started");
    expect_same(run_whole(&r, 0, CTOK_OK, "after it"), want, &r, "after it");
    expect_counts(1, 3, "the next run has its graph");

    emulated_device.fail_graphs = 4;
    free(run_whole(&r, 0, CTOK_E_MEMORY, "a graph that cannot be launched"));
    report(r.run.first == 0 && r.run.last == REPLAYED_STEPS - 1,
           "graphs: one of its steps failed: %d to %d", r.run.first, r.run.last);
    emulated_device.fail_graphs = 0;
    expect_same(run_whole(&r, 0, CTOK_OK, "after a failed launch"), want, &r,
                "after a failed launch");
    expect_counts(1, 4, "its graph is still there");

    drop(b, b->alloc(b, 64));
    expect_same(run_whole(&r, 0, CTOK_OK, "memory of others was given back"), want, &r,
                "memory of others was given back");
    expect_counts(1, 5, "its graph is still there");

    atomic_store(&op_left_out, OP_GRAPHS);
    emulator_num_launches = 0;
    for (int i = 0; i < 2; i++)
        expect_same(run_whole(&r, 0, CTOK_OK, "without graphs"), want, &r, "without graphs");
    expect_counts(1, 5, "none is used where they are off");
    expect_kernels(16, "without graphs");
    atomic_store(&op_left_out, OP_GRAPHS | OP_MOMENTS);
    free(run_whole(&r, 0, CTOK_OK, "without moments"));
    expect_kernels(9, "without moments");
    atomic_store(&op_left_out, OP_GRAPHS | OP_TOGETHER);
    expect_same(run_whole(&r, 0, CTOK_OK, "q, k and v apart"), want, &r, "q, k and v apart");
    expect_kernels(10, "q, k and v apart");
    atomic_store(&op_left_out, 0);
    report(emulated_device.num_graphs == 0, "graphs: the one of before is not kept");

    for (int way = 1; way <= 3; way++) {
        static const char *const names[] = {"capturing cannot begin", "a capture is broken",
                                            "no memory for a graph"};
        r.list.version++;
        emulated_device.fail_graphs = way;
        int before = emulated_device.num_captures;
        for (int i = 0; i < 3; i++)
            expect_same(run_whole(&r, 0, CTOK_OK, names[way - 1]), want, &r, names[way - 1]);
        expect_counts(before + 1, 5, "tried once, and then each start is made");
        report(emulated_device.num_graphs == 0, "graphs: %s: %d are kept", names[way - 1],
               emulated_device.num_graphs);
    }
    emulated_device.fail_graphs = 0;
    r.list.version++;
    for (int i = 0; i < 2; i++)
        expect_same(run_whole(&r, 0, CTOK_OK, "at last"), want, &r, "at last");
    report(emulated_device.num_graphs == 1, "graphs: one is kept");

    // The first run loads each kernel that the capture has.
    emulator_settings.is_capture_strict = true;
    for (int is_planted = 0; is_planted < 2; is_planted++) {
        uint64_t num_captures = b->counts->num_captures, num_refused = b->counts->num_refused;
        r.list.version++;
        emulator_unload();
        for (int i = 0; i < 3; i++) {
            expect_same(run_whole(&r, 0, CTOK_OK, "a strict capture"), want, &r,
                        "a strict capture");
            if (is_planted && i == 0) emulator_unload();
        }
        num_captures = b->counts->num_captures - num_captures,
        num_refused = b->counts->num_refused - num_refused;
        report(num_captures == !is_planted && num_refused == (uint64_t)is_planted,
               "graphs: %s: %d captured, %d refused",
               is_planted ? "a planted bug, kernels that the first run had not loaded"
                          : "kernels are loaded before they are captured",
               (int)num_captures, (int)num_refused);
    }
    emulator_settings.is_capture_strict = false;
    r.list.version++;
    free(run_whole(&r, 0, CTOK_OK, "after them"));
    report(b->counts->num_refused == 4, "graphs: %d captures were refused in all",
           (int)b->counts->num_refused);

    ctok_status status;
    for (int i = 0; i < 3; i++)
        expect_same(replayed_run(&r, 1, 0, REPLAYED_STEPS, -1, &status, NULL), want, &r,
                    "other memory");
    report(status == CTOK_OK && emulated_device.num_graphs == 1,
           "graphs: other memory has another graph, instead of the one before");

    // A start that is refused is one step, whichever it is; three of a device that is lost are not
    // known to be done.
    static const int first_kernels[REPLAYED_STEPS + 1] = {1, 2, 4, 5, 6, 6, 6, 7, 8};
    for (int i = 0; i <= REPLAYED_STEPS; i++) {
        r.list.version++;
        emulator_fail_in = first_kernels[i];
        free(replayed_run(&r, 0, 0, REPLAYED_STEPS, -1, &status, NULL));
        bool is_right = r.run.first <= i && i <= r.run.last &&
                        (r.run.first == r.run.last || (r.run.first == 4 && r.run.last == 6));
        report(status == CTOK_E_DEVICE && emulator_fail_in == 0 && is_right,
               "step %d is refused: found to be %d to %d", i, r.run.first, r.run.last);
    }
    expect_same(run_whole(&r, 0, CTOK_OK, "after refusals"), want, &r, "after refusals");

    emulated_device.lose_in = 6;
    ctok_error error = {.struct_size = sizeof error};
    r.list.version++;
    free(replayed_run(&r, 0, 0, REPLAYED_STEPS, -1, &status, &error));
    report(status == CTOK_E_DEVICE &&
               strstr(error.message, "its context is lost to the whole process"),
           "graphs: the device is lost between steps %d and %d: %s", r.run.first, r.run.last,
           error.message);
    free(replayed_run(&r, 0, 0, REPLAYED_STEPS, -1, &status, &error));
    report(status == CTOK_E_DEVICE && r.run.first == -1,
           "graphs: and is no step's failure from then on");
    free(want);
    replayed_free(&r), b->close(b);
    report(emulated_device.num_graphs == 0 && emulated_device.num_allocations == 0,
           "graphs: none is left when the device is closed");
}

// ---------------------------------------------------------------- waits and copies
// How often the host waits while a list runs: once a few small starts or one large one, and for the
// results.
static void expect_waits(backend *b, step *steps, int32_t num_steps, int most, const char *name) {
    step_list list = {.steps = steps, .num_steps = num_steps};
    step_run run = {0};
    uint64_t before = b->counts->num_waits;
    emulated_device.num_waits = 0;
    ctok_status status = b->run(b, &list, &run, NULL);
    b->forget(b, &list);
    int own = (int)(b->counts->num_waits - before);
    report(status == CTOK_OK && emulated_device.num_waits == most && own + 1 == most,
           "waits: %d %s: %d of %d waits", (int)num_steps, name, emulated_device.num_waits, most);
}

enum { MANY_STEPS = 80 };

static void test_waits(void) {
    emulated_device = whole;
    backend *b = NULL;
    if (cuda_backend_open(&b, 0, NULL) != CTOK_OK) {
        report(false, "waits: opens");
        return;
    }
    atomic_store(&op_left_out, OP_GRAPHS | OP_TOGETHER);
    step steps[MANY_STEPS];
    pool_params small = {{1, 1, 2, 2, 1}, {1, 1, 1, 1, 1}, false, true, CTOK_F32};
    void *in = b->alloc(b, 16), *out = b->alloc(b, 4);
    for (int i = 0; i < MANY_STEPS; i++) steps[i] = pool_step(out, in, &small);
    expect_waits(b, steps, 32, 1, "small steps");
    expect_waits(b, steps, MANY_STEPS, 7, "small steps");

    // Of each large one the emulator runs a block alone.
    ctok_shape shape = {1, 1, 172, 172, 512};
    conv_params large = conv_of(shape, shape, 3, 1, 1, 1);
    large.in_dtype = large.out_dtype = CTOK_BF16;
    size_t num_bytes = (size_t)shape_elements(shape) * 2;
    void *from = b->alloc(b, num_bytes), *to = b->alloc(b, num_bytes),
         *packed = b->alloc(b, b->kernels->conv_weight_bytes(b, &large)),
         *bias = b->alloc(b, 512 * sizeof(float));
    step conv = conv_step(to, from, NULL, NULL, (conv_weights){packed, bias}, NULL, &large);
    for (int i = 0; i < 10; i++) steps[i] = conv;
    emulator_settings.num_blocks = 1;
    expect_waits(b, steps, 10, 7, "large steps");
    emulator_settings.num_blocks = 0;
    atomic_store(&op_left_out, 0);
    drop(b, in), drop(b, out), drop(b, from), drop(b, to), drop(b, packed), drop(b, bias);
    b->close(b);
}

// Bytes moved onto themselves and elsewhere, at every alignment, against memmove.
static void test_copies(void) {
    emulated_device = whole;
    backend *b = NULL;
    if (cuda_backend_open(&b, 0, NULL) != CTOK_OK) {
        report(false, "copies: opens");
        return;
    }
    static const struct {
        size_t out, in, num_bytes;
    } copies[] = {{0, 16, 4096}, {0, 4096, 4096}, {0, 64, 16 * 301}, {4, 24, 4 * 301},
                  {1, 4, 301},   {3, 8192, 301},  {4096, 0, 4096},   {0, 5, 0}};
    enum { BYTES = 16384 };
    uint8_t host[BYTES], want[BYTES], got[BYTES];
    for (int i = 0; i < BYTES; i++) host[i] = (uint8_t)(i * 31 % 127);
    uint8_t *memory = b->alloc(b, BYTES);
    for (int i = 0; i < NUM_SHAPES(copies); i++) {
        b->upload(b, memory, host, BYTES);
        memcpy(want, host, BYTES);
        memmove(want + copies[i].out, want + copies[i].in, copies[i].num_bytes);
        ctok_status status =
            op_copy(b, memory + copies[i].out, memory + copies[i].in, copies[i].num_bytes);
        if (status == CTOK_OK) status = get_words(b, got, memory, BYTES / 4);
        report(status == CTOK_OK && memcmp(got, want, BYTES) == 0,
               "copies: %zu bytes from %zu to %zu", copies[i].num_bytes, copies[i].in,
               copies[i].out);
    }
    drop(b, memory);
    b->close(b);
}

static int num_devices_tested;  // each in other modes of the emulator

static void test_device(int major, int minor, int shared_bytes) {
    emulated_device = whole;
    num_devices_tested++;
    emulator_settings = (emulator_options){.seed = (uint32_t)num_devices_tested,
                                           .is_late = num_devices_tested & 1,
                                           .is_end_guarded = num_devices_tested & 1,
                                           .adds_16_products = num_devices_tested & 1,
                                           .is_stream_late = is_stream_late};
    emulated_device.major = major, emulated_device.minor = minor,
    emulated_device.shared_bytes = shared_bytes;
    gpu_tests t = {0};
    if (cuda_backend_open(&t.gpu, 0, NULL) != CTOK_OK ||
        cpu_backend_open(&t.reference, 0, CTOK_KERNELS_REFERENCE, NULL) != CTOK_OK) {
        report(false, "opens with compute capability %d.%d", major, minor);
        return;
    }
    test_gpu_ops(&t);
    report(emulated_device.num_captures >= 2 && emulated_device.num_graph_launches >= 4,
           "capability %d.%d: %d graphs, launched %d times", major, minor,
           emulated_device.num_captures, emulated_device.num_graph_launches);
    t.gpu->close(t.gpu), t.reference->close(t.reference);
    report(emulated_device.num_allocations == 0 && emulated_device.used_bytes == 0,
           "capability %d.%d: all memory was given back, %d cases left out", major, minor,
           t.num_left_out);
}

// ---------------------------------------------------------------- a batch
// A convolution and its norm of four images at once, which get a larger tile than one: the bits of
// each image alone. The norm's moments are gathered in the parts of one image's tile.
static void test_batch(void) {
    enum { BATCH = 4, C_IN = 64, C = 128, H = 8, W = 16 };
    emulated_device = whole;
    emulator_settings = (emulator_options){0};
    backend *b = NULL;
    if (cuda_backend_open(&b, 0, NULL) != CTOK_OK) {
        report(false, "a batch: opens");
        return;
    }
    conv_params conv =
        conv_of((ctok_shape){BATCH, 1, H, W, C_IN}, (ctok_shape){BATCH, 1, H, W, C}, 3, 1, 1, 1);
    conv.in_dtype = conv.out_dtype = CTOK_BF16;
    conv_params one = conv;
    one.in.n = one.out.n = 1;
    step two[2] = {conv_step(NULL, NULL, NULL, NULL, (conv_weights){0}, NULL, &conv)},
         alone_two[2] = {conv_step(NULL, NULL, NULL, NULL, (conv_weights){0}, NULL, &one)};
    norm_params all_norm = {.shape = conv.out, .groups = 32, .dtype = CTOK_BF16},
                one_norm = all_norm;
    one_norm.shape = one.out;
    two[1] = norm_step(NULL, NULL, NULL, NULL, &all_norm);
    alone_two[1] = norm_step(NULL, NULL, NULL, NULL, &one_norm);
    const op_device device = {.limits = {.num_sms = 4, .shared_bytes = whole.shared_bytes}};
    bool is_right = true;
    for (int32_t i = 0; i < 2; i++) {
        op_start batch = op_prepare(two, i, 2, &device),
                 image = op_prepare(alone_two, i, 2, &device);
        is_right = is_right && (i == 1 || batch.tile != image.tile) && !batch.are_gathered &&
                   image.are_gathered && image.moments.slab_positions > 0 &&
                   batch.moments.slab_positions == image.moments.slab_positions &&
                   batch.moments.tile_channels == image.moments.tile_channels;
    }
    report(is_right, "a batch gets another tile than an image, and gathers in the image's parts");
    int64_t in_count = shape_elements(one.in), out_words = shape_elements(one.out) / 2;
    random_seed(900);
    float *weight = new_random(C * C_IN * 9, 0.1f, 0), *vector = new_random(C, 1, 0);
    uint16_t *values = new_bytes((size_t)(BATCH * in_count) * sizeof *values);
    for (int64_t i = 0; i < BATCH * in_count; i++) values[i] = bf16_round(random_value());
    void *packed = b->alloc(b, b->kernels->conv_weight_bytes(b, &conv)),
         *scale = put(b, vector, C, CTOK_F32),
         *in = put_bytes(b, values, (size_t)(BATCH * in_count) * 2),
         *out = b->alloc(b, (size_t)(BATCH * out_words) * 4);
    b->kernels->conv_weight_pack(b, packed, weight, &conv);
    uint32_t *all = new_bytes((size_t)(BATCH * out_words) * 4),
             *alone = new_bytes((size_t)out_words * 4);
    for (int64_t n = -1; n < BATCH && is_right; n++) {  // -1: all at once
        const conv_params *p = n < 0 ? &conv : &one;
        norm_params norm = {
            .shape = p->out, .groups = 32, .epsilon = 1e-6f, .has_silu = true, .dtype = CTOK_BF16};
        const uint16_t *from = (const uint16_t *)in + (n < 0 ? 0 : n) * in_count;
        step steps[] = {conv_step(out, from, NULL, NULL, (conv_weights){packed, scale}, NULL, p),
                        norm_step(out, out, scale, scale, &norm)};
        is_right =
            run_steps(b, steps, 2) == CTOK_OK &&
            get_words(b, n < 0 ? all : alone, out, (n < 0 ? BATCH : 1) * out_words) == CTOK_OK;
        if (n >= 0) is_right = is_right && is_same(all + n * out_words, alone, out_words);
    }
    report(is_right, "a batch of another tile has the bits of each image alone");
    free(weight), free(vector), free(values), free(all), free(alone);
    drop(b, packed), drop(b, scale), drop(b, in), drop(b, out);
    b->close(b);
}

int main(void) {
    test_opening();
    for (int is_late = 0; is_late < 2; is_late++) {
        emulator_settings.is_stream_late = is_stream_late = is_late;
        test_failures(), test_graphs();
    }
    test_second_gpu(), test_waits(), test_copies(), test_batch();
    most_products = 1 << 21;
    test_device(8, 6, 101376);
    most_products = 1 << 16;
    test_device(7, 5, 65536);
    report(emulator_num_failures == 0, "the emulator found nothing. %s", emulator_failure());
    return report_end();
}
