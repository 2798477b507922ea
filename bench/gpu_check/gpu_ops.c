// Times every different op of a network at one size, through the seam, each alone and repeated. One
// JSON object a line:
//     gpu_ops MODEL HEIGHT WIDTH [options]
//     {"half", "op", "shape", "count": of such steps in the half, "us": of one, "tflops" or
//         "gb_per_s", "tiles_us": with --tiles, of a convolution in bf16 in each tile that takes
//         it}
//     options: --frames N --precision bf16|f32 --device cuda|cpu --small: few channels
//         --tiles: each convolution in each tile too, beside the one that heuristics.c picks
//         --largest conv|norm|attention: only the op of that kind that has most to do
//         --launches N: each op as often, untimed ("us" is 0), for a profiler
// FLOPs count products of the direct form, twice each; bytes, what must be read and written once.
// Values are small random ones; steps of one half are timed in order of appearance. Left out: load,
// store, quantize, dequantize, which wait for the bus. Who calls it: gpucheck/parts/profile.py and
// counters.py; by hand.
#include <stdlib.h>
#include <time.h>

#include "../../csrc/backends/cuda/op.h"
#include "../../csrc/network/graph.h"
#include "../../tests/native/op_support.h"
#include "../../tests/native/spec.h"

enum { MAX_OPS = 512, MAX_RUNS = 4096 };
static const double LEAST_MS = 20;  // that the runs of an op take together
static const unsigned ALONE = OP_GRAPHS | OP_MOMENTS | OP_TOGETHER;  // left out: each op is started
                                                                     // by itself

static int64_t num_frames = 1;
static bool is_f32, is_cpu, is_small, has_tiles;
static int32_t num_launches;
static int largest = -1;  // op_kind, or all

typedef struct {
    const graph_node *node;
    int count;
} op_case;

static double now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static bool is_same_shape(ctok_shape a, ctok_shape b) {
    return a.n == b.n && a.t == b.t && a.h == b.h && a.w == b.w && a.c == b.c;
}

static bool is_same_op(const graph_node *a, const graph_node *b) {
    if (a->kind != b->kind) return false;
    switch (a->kind) {
        case OP_CONV: {
            const conv_params *p = &a->params.conv, *q = &b->params.conv;
            return is_same_shape(p->in, q->in) && is_same_shape(p->out, q->out) &&
                   p->kernel == q->kernel && p->kernel_t == q->kernel_t && p->stride == q->stride &&
                   p->stride_t == q->stride_t && p->upsample == q->upsample &&
                   p->upsample_t == q->upsample_t && p->in_dtype == q->in_dtype &&
                   p->out_dtype == q->out_dtype &&
                   (a->inputs[1] == GRAPH_NONE) == (b->inputs[1] == GRAPH_NONE);
        }
        case OP_NORM:
            return is_same_shape(a->params.norm.shape, b->params.norm.shape) &&
                   a->params.norm.has_silu == b->params.norm.has_silu &&
                   a->params.norm.groups == b->params.norm.groups;
        case OP_ATTENTION:
            return is_same_shape(a->params.attention.shape, b->params.attention.shape) &&
                   a->params.attention.is_temporal == b->params.attention.is_temporal;
        case OP_POOL:
            return is_same_shape(a->params.pool.in, b->params.pool.in) &&
                   a->params.pool.is_temporal == b->params.pool.is_temporal;
        case OP_HAAR:
        case OP_UNHAAR: return is_same_shape(a->params.haar.in, b->params.haar.in);
        default: return false;
    }
}

// Memory for a value, filled with small numbers of its type.
static void *new_value(backend *b, graph_value value) {
    size_t num_bytes = graph_value_bytes(value),
           piece = num_bytes < (1 << 22) ? num_bytes : 1 << 22;
    uint8_t *memory = b->alloc(b, num_bytes), *host = new_bytes(piece);
    if (!memory) {
        fprintf(stderr, "gpu_ops: no memory for %zu bytes on %s\n", num_bytes, b->device);
        exit(1);
    }
    for (size_t i = 0; i < piece / dtype_bytes(value.dtype); i++) {
        float x = random_value() * 0.5f;
        if (value.dtype == CTOK_BF16) ((uint16_t *)host)[i] = bf16_round(x);
        else ((float *)host)[i] = x;
    }
    for (size_t at = 0; at < num_bytes; at += piece)
        b->upload(b, memory + at, host, num_bytes - at < piece ? num_bytes - at : piece);
    free(host);
    return memory;
}

typedef struct {
    void *out, *in[3], *workspace, *packed;
    float *bias;
} operands;

static step step_of(const graph_node *n, const operands *o) {
    step s = {.kind = n->kind,
              .params = n->params,
              .layer = "",
              .out = o->out,
              .in = o->in[0],
              .workspace = o->workspace};
    if (n->kind == OP_CONV) s.residual = o->in[1], s.weights = (conv_weights){o->packed, o->bias};
    if (n->kind == OP_NORM) s.scale = s.offset = o->bias;
    if (n->kind == OP_ATTENTION) s.k = o->in[1], s.v = o->in[2];
    return s;
}

// A list of the same step many times over; -1 where the device refuses it.
static double time_op(backend *b, const graph_node *n, const operands *o, ctok_error *error) {
    static step steps[MAX_RUNS];
    for (int32_t runs = num_launches ? num_launches : 1;; runs *= 2) {
        step_list list = {.steps = steps, .num_steps = runs};
        step_run run = {0};
        for (int32_t i = 0; i < runs; i++) steps[i] = step_of(n, o);
        double from = now_ms();
        ctok_status status = b->run(b, &list, &run, error);
        double ms = now_ms() - from;
        b->forget(b, &list);
        if (status != CTOK_OK) return -1;
        if (num_launches) return 0;
        if (runs > 1 && (ms >= LEAST_MS || runs >= MAX_RUNS)) return ms * 1e3 / (double)runs;
        if (runs == 1 && ms >= 4 * LEAST_MS) return ms * 1e3;  // slow, and warm enough
    }
}

static void print_tiles(backend *b, const graph_node *n, const operands *o) {
    const char *before = "";
    printf(", \"tiles_us\": {");
    for (conv_tile tile = 0; tile < NUM_CONV_TILES; tile++) {
        ctok_error error = {.struct_size = sizeof error};
        conv_tile_shape s = conv_tile_shape_of(tile);
        if (!conv_tile_takes(tile, &n->params.conv)) continue;
        atomic_store(&op_left_out, ALONE | OP_ONLY_TILE * (1 + tile));
        double us = time_op(b, n, o, &error);
        atomic_store(&op_left_out, ALONE);
        if (us < 0) continue;  // more shared memory than the device has
        printf("%s\"%dx%dx%d\": %.1f", before, s.m, s.n, s.k, us);
        before = ", ";
    }
    printf("}");
}

static void time_step(backend *b, const graph *g, op_case s, const char *half) {
    const graph_node *n = s.node;
    operands o = {0};
    graph_value out = g->values[n->output];
    double bytes = (double)graph_value_bytes(out), flops = 0;
    o.out = new_value(b, out);
    for (int i = 0; i < 3; i++) {
        if (n->inputs[i] == GRAPH_NONE) continue;
        o.in[i] = new_value(b, g->values[n->inputs[i]]);
        bytes += (double)graph_value_bytes(g->values[n->inputs[i]]);
    }
    static const char *const names[] = {
        [OP_HAAR] = "haar", [OP_UNHAAR] = "unhaar", [OP_CONV] = "conv",
        [OP_NORM] = "norm", [OP_POOL] = "pool",     [OP_ATTENTION] = "attention"};
    char shape[160];
    int64_t c = out.shape.c;
    snprintf(shape, sizeof shape, "%lldx%lldx%lldx%lld", (long long)out.shape.t,
             (long long)out.shape.h, (long long)out.shape.w, (long long)c);
    size_t workspace = 0;
    float *ones = new_random(c, 0.1f, 1);
    o.bias = b->alloc(b, (size_t)c * sizeof(float));
    b->upload(b, o.bias, ones, (size_t)c * sizeof(float));
    free(ones);
    if (n->kind == OP_CONV) {
        const conv_params *p = &n->params.conv;
        int64_t taps = p->kernel * p->kernel * p->kernel_t;
        float *weight = new_random(p->out.c * p->in.c * taps, 0.05f, 0);
        o.packed = b->alloc(b, b->kernels->conv_weight_bytes(b, p));
        b->kernels->conv_weight_pack(b, o.packed, weight, p);
        free(weight);
        workspace = b->kernels->conv_workspace_bytes(b, p);
        flops = 2.0 * (double)shape_elements(p->out) * (double)p->in.c * (double)taps;
        snprintf(shape + strlen(shape), sizeof shape - strlen(shape),
                 " from %lld, %dx%dx%d%s%s%s%s", (long long)p->in.c, p->kernel_t, p->kernel,
                 p->kernel, p->stride * p->stride_t > 1 ? ", halving" : "",
                 p->upsample * p->upsample_t > 1 ? ", doubling" : "", o.in[1] ? ", residual" : "",
                 p->in_dtype == CTOK_F32 ? ", f32" : "");
    } else if (n->kind == OP_ATTENTION) {
        const attention_params *p = &n->params.attention;
        workspace = b->kernels->attention_workspace_bytes(b, p);
        double keys =
            p->is_temporal ? (double)(p->shape.t + 1) / 2 : (double)(p->shape.h * p->shape.w);
        flops = 4.0 * (double)shape_elements(p->shape) * keys;
        if (p->is_temporal)
            snprintf(shape + strlen(shape), sizeof shape - strlen(shape), ", over time");
    }
    o.workspace = b->alloc(b, workspace);
    ctok_error error = {.struct_size = sizeof error};
    double us = time_op(b, n, &o, &error), rate = us > 0 ? 1 / us : 0;
    if (us < 0) {
        printf("{\"half\": \"%s\", \"op\": \"%s\", \"shape\": \"%s\", \"error\": \"%s\"}\n", half,
               names[n->kind], shape, error.message);
        exit(1);
    }
    printf(
        "{\"half\": \"%s\", \"op\": \"%s\", \"shape\": \"%s\", \"count\": %d, \"us\": %.1f, "
        "\"tflops\": %.2f, \"gb_per_s\": %.1f",
        half, names[n->kind], shape, s.count, us, flops * rate * 1e-6, bytes * rate * 1e-3);
    if (has_tiles && n->kind == OP_CONV && n->params.conv.in_dtype == CTOK_BF16)
        print_tiles(b, n, &o);
    printf("}\n");
    fflush(stdout);
    for (int i = 0; i < 3; i++)
        b->free(b, o.in[i], o.in[i] ? graph_value_bytes(g->values[n->inputs[i]]) : 0);
    b->free(b, o.out, graph_value_bytes(out)), b->free(b, o.bias, (size_t)c * sizeof(float)),
        b->free(b, o.workspace, workspace);
    if (o.packed) b->free(b, o.packed, b->kernels->conv_weight_bytes(b, &n->params.conv));
}

// What an op of kind `largest` has to do; 0 for others.
static double work_of(const graph *g, const graph_node *n) {
    step s = {.kind = n->kind, .params = n->params};
    if ((int)n->kind != largest || (n->kind == OP_ATTENTION && n->params.attention.is_temporal))
        return 0;
    return n->kind == OP_NORM ? (double)shape_elements(g->values[n->output].shape)
                              : (double)step_products(&s);
}

static const graph_node *largest_node(const graph *g) {
    const graph_node *most = NULL;
    for (int32_t i = 0; i < g->num_nodes; i++)
        if (work_of(g, &g->nodes[i]) > (most ? work_of(g, most) : 0)) most = &g->nodes[i];
    return most;
}

static void time_half(backend *b, const graph *g, const char *half) {
    op_case cases[MAX_OPS];
    int num_found = 0;
    for (int32_t i = 0; i < g->num_nodes; i++) {
        const graph_node *n = &g->nodes[i];
        if (n->kind == OP_LOAD || n->kind == OP_STORE || n->kind == OP_QUANTIZE ||
            n->kind == OP_DEQUANTIZE)
            continue;
        int k = 0;
        while (k < num_found && !is_same_op(cases[k].node, n)) k++;
        if (k == num_found && num_found < MAX_OPS) cases[num_found++] = (op_case){n, 0};
        if (k < num_found) cases[k].count++;
    }
    for (int k = 0; k < num_found; k++) time_step(b, g, cases[k], half);
}

static int usage(void) {
    fprintf(stderr,
            "usage: gpu_ops MODEL HEIGHT WIDTH [--frames N --precision bf16|f32 --device cuda|cpu "
            "--small --tiles --largest conv|norm|attention --launches N]\n");
    return 2;
}

// How many arguments the option takes with its value; 0 where either is not known.
static int read_option(const char *name, const char *value) {
    bool is_kind = strcmp(name, "--largest") == 0;
    if (strcmp(name, "--small") == 0) return is_small = true, 1;
    if (strcmp(name, "--tiles") == 0) return has_tiles = true, 1;
    if (strcmp(name, "--frames") == 0) return (num_frames = atoll(value)) > 0 ? 2 : 0;
    if (strcmp(name, "--launches") == 0) {
        num_launches = atoi(value);
        return num_launches > 0 && num_launches <= MAX_RUNS ? 2 : 0;
    }
    if (strcmp(name, "--precision") == 0)
        return (is_f32 = strcmp(value, "f32") == 0) || strcmp(value, "bf16") == 0 ? 2 : 0;
    if (strcmp(name, "--device") == 0)
        return (is_cpu = strcmp(value, "cpu") == 0) || strcmp(value, "cuda") == 0 ? 2 : 0;
    if (is_kind && strcmp(value, "conv") == 0) return largest = OP_CONV, 2;
    if (is_kind && strcmp(value, "norm") == 0) return largest = OP_NORM, 2;
    if (is_kind && strcmp(value, "attention") == 0) return largest = OP_ATTENTION, 2;
    return 0;
}

static backend *open_backend(void) {
    backend *b = NULL;
    ctok_error error = {.struct_size = sizeof error};
    ctok_status status = is_cpu ? cpu_backend_open(&b, 0, CTOK_KERNELS_AUTO, &error)
                                : cuda_backend_open(&b, 0, &error);
    if (status == CTOK_OK && !is_f32 && !b->kernels->has_bf16) {
        status = ctok_fail(&error, CTOK_E_DEVICE, 0, "bf16: expected %s, found kernels %s",
                           b->bf16_needs, b->kernels->name);
    }
    if (status == CTOK_OK) return b;
    printf("{\"error\": \"%s\"}\n", error.message);
    exit(1);
}

static void time_largest(backend *b, const graph *encoder, const graph *decoder) {
    const graph_node *first = largest_node(encoder), *second = largest_node(decoder);
    bool is_first = first && (!second || work_of(encoder, first) >= work_of(decoder, second));
    if (is_first) time_step(b, encoder, (op_case){first, 1}, "encode");
    else if (second) time_step(b, decoder, (op_case){second, 1}, "decode");
}

int main(int argc, char **argv) {
    for (int i = 4, taken; i < argc; i += taken) {
        taken = read_option(argv[i], i + 1 < argc ? argv[i + 1] : "");
        if (!taken) return usage();
    }
    description d;
    if (argc < 4 || !find_spec(&d, argv[1], is_small)) return usage();
    backend *b = open_backend();
    atomic_store(&op_left_out, ALONE);
    random_seed(1);
    ctok_dtype dtype = is_f32 ? CTOK_F32 : CTOK_BF16;
    graph encoder = {.dtype = dtype}, decoder = {.dtype = dtype};
    spec_graphs(&encoder, &decoder, &d, d.is_video ? num_frames : 1, atoll(argv[2]),
                atoll(argv[3]));
    if (largest >= 0) time_largest(b, &encoder, &decoder);
    else time_half(b, &encoder, "encode"), time_half(b, &decoder, "decode");
    graph_free(&encoder), graph_free(&decoder);
    b->close(b);
    return 0;
}
