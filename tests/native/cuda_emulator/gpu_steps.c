// What a GPU is given to run a network at one size: each start of a kernel with its shape, its tile
// and what is started together, for a device of these limits, as op.c decides it. Nothing is
// computed: memory is planned, and its addresses are made up. One JSON object a line:
//     gpu_steps MODEL HEIGHT WIDTH NUM_SMS SHARED_BYTES
//     {"half", "op", "kernel", "tile": [m, n, k], "blocks", "steps": of a block's loop,
//         "stages_a_tap", "positions", "c_in", "c_out", "taps", "targets", "has_residual",
//         "has_moments", "flops": that are done, "bytes": read and written once}
// bfloat16, one image. Who calls it: bench/gpu_model.ts.
#include <stdlib.h>

#include "../../../csrc/backends/cuda/op.h"
#include "../../../csrc/runtime/plan.h"
#include "../spec.h"

static int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

static const char *const names[] = {[OP_LOAD] = "load",         [OP_STORE] = "store",
                                    [OP_HAAR] = "haar",         [OP_UNHAAR] = "unhaar",
                                    [OP_CONV] = "conv",         [OP_NORM] = "norm",
                                    [OP_POOL] = "pool",         [OP_ATTENTION] = "attention",
                                    [OP_QUANTIZE] = "quantize", [OP_DEQUANTIZE] = "dequantize",
                                    [OP_COPY] = "copy"};

// ---------------------------------------------------------------- steps without memory
static uint8_t *const arena = (uint8_t *)(1ULL << 40);  // never touched

static void *address_of(const plan *p, int32_t value) {
    return value == GRAPH_NONE ? NULL : arena + p->value_offsets[value];
}

static step step_of(const graph_node *n, const plan *p) {
    step s = {.kind = n->kind, .params = n->params, .layer = ""};
    s.out = address_of(p, n->output), s.in = address_of(p, n->inputs[0]);
    if (n->kind == OP_CONV) s.residual = address_of(p, n->inputs[1]);
    if (n->kind == OP_ATTENTION)
        s.k = address_of(p, n->inputs[1]), s.v = address_of(p, n->inputs[2]);
    return s;
}

// ---------------------------------------------------------------- what is told of a start
static double bytes_of(const graph *g, const graph_node *n) {
    double bytes = n->output == GRAPH_NONE ? 0 : (double)graph_value_bytes(g->values[n->output]);
    for (int i = 0; i < 3; i++)
        if (n->inputs[i] != GRAPH_NONE) bytes += (double)graph_value_bytes(g->values[n->inputs[i]]);
    return bytes;
}

static void tell_conv(const step *s, const op_start *start) {
    const conv_params *p = &s->params.conv;
    bool is_float = !sm80_conv_takes(p);
    conv_tile_shape tile = conv_tile_shape_of(start->tile);
    sm80_conv_form form = {p->in.c, p->kernel * p->kernel * p->kernel_t, 1};
    if (is_float) tile.m = 64, tile.n = 64, tile.k = 16;
    else form = sm80_conv_form_of(p);
    int64_t positions = shape_positions(p->out), stages = divide_up(form.channels, tile.k),
            tiles = divide_up(positions / form.phases, tile.m) * form.phases;
    printf(
        "\"kernel\": \"%s\", \"tile\": [%d, %d, %d], \"blocks\": %lld, \"steps\": %lld, "
        "\"stages_a_tap\": %lld, \"positions\": %lld, \"c_in\": %lld, \"c_out\": %lld, "
        "\"taps\": %d, \"targets\": %d, \"has_residual\": %s, \"has_moments\": %s, "
        "\"flops\": %.6e, ",
        is_float ? "smxx_conv" : "sm80_conv", tile.m, tile.n, tile.k,
        (long long)(tiles * divide_up(p->out.c, tile.n) * start->count),
        (long long)(form.taps * stages), (long long)stages, (long long)positions,
        (long long)form.channels, (long long)p->out.c, form.taps, start->count,
        s->residual ? "true" : "false", start->moments.slab_positions ? "true" : "false",
        2.0 * (double)shape_elements(p->out) * (double)(form.channels * form.taps) * start->count);
}

static void tell_attention(const step *s, device_limits device) {
    const attention_params *p = &s->params.attention;
    int64_t positions = p->shape.h * p->shape.w, frames = p->shape.n * p->shape.t;
    bool is_two = attention_tile_choose(p, device) == ATTENTION_TILE_64x2x4;
    printf(
        "\"kernel\": \"%s\", \"tile\": [%lld, %d, %d], \"blocks\": %lld, \"steps\": %lld, "
        "\"positions\": %lld, \"flops\": %.6e, ",
        p->is_temporal ? "smxx_attention_time" : "sm80_attention", (long long)p->shape.c / 64,
        is_two ? 2 : 1, is_two ? 4 : 3, (long long)(frames * divide_up(positions, 64)),
        (long long)divide_up(positions, 64), (long long)positions,
        4.0 * (double)shape_elements(p->shape) *
            (p->is_temporal ? (double)(p->shape.t + 1) / 2 : (double)positions));
}

static void tell_half(const graph *g, const char *half, const backend *b, device_limits device) {
    plan p = {0};
    ctok_error error = {.struct_size = sizeof error};
    step *steps = calloc((size_t)g->num_nodes, sizeof *steps);
    if (!steps || plan_make(&p, g, b, &error) != CTOK_OK) {
        fprintf(stderr, "gpu_steps: %s\n", error.message);
        exit(1);
    }
    for (int32_t n = 0; n < g->num_nodes; n++) steps[n] = step_of(&g->nodes[n], &p);
    op_device own = {.limits = device};
    for (int32_t n = 0; n < g->num_nodes;) {
        op_start start = op_prepare(steps, n, g->num_nodes, &own);
        double bytes = 0;
        if (steps[n].kind == OP_CONV && conv_is_split(&steps[n].params.conv))
            printf("{\"half\": \"%s\", \"op\": \"split\", \"bytes\": %.6e}\n", half,
                   (double)graph_value_bytes(g->values[g->nodes[n].inputs[0]]) +
                       (double)sm80_split_bytes(&steps[n].params.conv));
        for (int32_t i = 0; i < start.count; i++) bytes += bytes_of(g, &g->nodes[n + i]);
        printf("{\"half\": \"%s\", \"op\": \"%s\", ", half, names[steps[n].kind]);
        if (steps[n].kind == OP_CONV) tell_conv(&steps[n], &start);
        if (steps[n].kind == OP_ATTENTION) tell_attention(&steps[n], device);
        if (steps[n].kind == OP_NORM)
            printf("\"has_moments\": %s, ", start.moments.slab_positions ? "true" : "false");
        printf("\"bytes\": %.6e}\n", bytes);
        n += start.count;
    }
    plan_free(&p), free(steps);
}

int main(int argc, char **argv) {
    description d;
    if (argc != 6 || !find_spec(&d, argv[1], false)) {
        fprintf(stderr, "usage: gpu_steps MODEL HEIGHT WIDTH NUM_SMS SHARED_BYTES\n");
        return 2;
    }
    backend *b = NULL;
    ctok_error error = {.struct_size = sizeof error};
    if (cuda_backend_open(&b, 0, &error) != CTOK_OK) {
        fprintf(stderr, "gpu_steps: %s\n", error.message);
        return 1;
    }
    device_limits device = {.num_sms = atoi(argv[4]), .shared_bytes = atoi(argv[5])};
    graph encoder = {.dtype = CTOK_BF16}, decoder = {.dtype = CTOK_BF16};
    spec_graphs(&encoder, &decoder, &d, 1, atoll(argv[2]), atoll(argv[3]));
    tell_half(&encoder, "encode", b, device);
    tell_half(&decoder, "decode", b, device);
    graph_free(&encoder), graph_free(&decoder);
    b->close(b);
    return 0;
}
