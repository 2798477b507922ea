// Times every different op of a network at one size, through the seam, each alone and repeated. One
// JSON object a line:
//     gpu_ops MODEL HEIGHT WIDTH [FRAMES] [bf16|f32] [cuda|cpu]
//     {"half", "op", "shape", "count": of such steps in the half, "us": of one, "tflops" or
//         "gb_per_s"}
// FLOPs count products of the direct form, twice each; bytes, what must be read and written once.
// Values are small random ones; steps of one half are timed in order of appearance. Left out: load,
// store, quantize, dequantize, which wait for the bus.
#include <stdlib.h>
#include <time.h>

#include "../../csrc/backends/cuda/op.h"
#include "../../csrc/network/graph.h"
#include "../../tests/native/op_support.h"
#include "../../tests/native/spec.h"

enum { MAX_OPS = 512, MAX_RUNS = 4096 };
static const double LEAST_MS = 20;  // that the runs of an op take together

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

// A list of the same step many times over.
static double time_op(backend *b, const graph_node *n, const operands *o) {
    static step steps[MAX_RUNS];
    ctok_error error = {.struct_size = sizeof error};
    for (int32_t runs = 1;; runs *= 2) {
        step_list list = {.steps = steps, .num_steps = runs};
        step_run run = {0};
        for (int32_t i = 0; i < runs; i++) steps[i] = step_of(n, o);
        double from = now_ms();
        ctok_status status = b->run(b, &list, &run, &error);
        double ms = now_ms() - from;
        b->forget(b, &list);
        if (status != CTOK_OK) {
            fprintf(stderr, "gpu_ops: %s\n", error.message);
            exit(1);
        }
        if (runs > 1 && (ms >= LEAST_MS || runs >= MAX_RUNS)) return ms * 1e3 / (double)runs;
        if (runs == 1 && ms >= 4 * LEAST_MS) return ms * 1e3;  // slow, and warm enough
    }
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
    double us = time_op(b, n, &o);
    printf(
        "{\"half\": \"%s\", \"op\": \"%s\", \"shape\": \"%s\", \"count\": %d, \"us\": %.1f, "
        "\"tflops\": %.2f, \"gb_per_s\": %.1f}\n",
        half, names[n->kind], shape, s.count, us, flops / us * 1e-6, bytes / us * 1e-3);
    fflush(stdout);
    for (int i = 0; i < 3; i++)
        b->free(b, o.in[i], o.in[i] ? graph_value_bytes(g->values[n->inputs[i]]) : 0);
    b->free(b, o.out, graph_value_bytes(out)), b->free(b, o.bias, (size_t)c * sizeof(float)),
        b->free(b, o.workspace, workspace);
    if (o.packed) b->free(b, o.packed, b->kernels->conv_weight_bytes(b, &n->params.conv));
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

int main(int argc, char **argv) {
    description d;
    if (argc < 4 || !find_spec(&d, argv[1], false)) {
        fprintf(stderr, "usage: gpu_ops MODEL HEIGHT WIDTH [FRAMES] [bf16|f32] [cuda|cpu]\n");
        return 2;
    }
    int64_t frames = argc > 4 && d.is_video ? atoll(argv[4]) : 1;
    bool is_half = argc <= 5 || strcmp(argv[5], "f32") != 0,
         is_cpu = argc > 6 && strcmp(argv[6], "cpu") == 0;
    backend *b = NULL;
    ctok_error error = {.struct_size = sizeof error};
    ctok_status status = is_cpu ? cpu_backend_open(&b, 0, CTOK_KERNELS_AUTO, &error)
                                : cuda_backend_open(&b, 0, &error);
    if (status == CTOK_OK && is_half && !b->kernels->has_bf16) {
        status = ctok_fail(&error, CTOK_E_DEVICE, 0, "bf16: expected %s, found kernels %s",
                           b->bf16_needs, b->kernels->name);
    }
    if (status != CTOK_OK) {
        printf("{\"error\": \"%s\"}\n", error.message);
        return 1;
    }
    atomic_store(&op_left_out, OP_GRAPHS | OP_MOMENTS | OP_TOGETHER);  // each op is started alone
    random_seed(1);
    ctok_dtype dtype = is_half ? CTOK_BF16 : CTOK_F32;
    graph encoder = {.dtype = dtype}, decoder = {.dtype = dtype};
    spec_graphs(&encoder, &decoder, &d, frames, atoll(argv[2]), atoll(argv[3]));
    time_half(b, &encoder, "encode");
    time_half(b, &decoder, "decode");
    graph_free(&encoder), graph_free(&decoder);
    b->close(b);
    return 0;
}
