// Holds the CUDA kernels, run on the emulator, to the reference ops on the shapes of op_shapes.h: every tile they are compiled
// for, copies that land early and late, allocations that end and that begin at a guard page, NaN in every output. An emulator
// finding (a race, a step beyond an allocation, ...) fails the case that made it. Then the choice of tiles. Prints TAP.
// Budgets, as relative L2: results in bf16 are within 2^-9 = 2.0e-3 of their value when rounded once, and float32 sums of
// bf16 products gather about 1e-6; attention also rounds its weights to bf16, which their sum evens out.
// Limit: tensor cores round sums differently than the emulator; bench/gpu_check runs these cases on a device.
#include "../../../csrc/backends/cuda/conv_pack.h"
#include "../../../csrc/backends/cuda/heuristics.h"
#include "../../../csrc/backends/cuda/kernels.h"
#include "emulator.h"
#include "../op_support.h"

static const double BF16_BUDGET = 2.5e-3, BF16_ATTENTION_BUDGET = 4e-3, F32_CONV_BUDGET = 2e-6, F32_ATTENTION_BUDGET = 2e-6;

// ---------------------------------------------------------------- device memory and modes
static uint32_t num_runs;

static void next_mode(void) {
    num_runs++;
    emulator_settings = (emulator_options){.seed = num_runs, .is_late = num_runs & 1, .is_end_guarded = num_runs >> 1 & 1};
}

static void *to_device(const void *from, int64_t num_bytes) {
    if (!from) return NULL;
    return memcpy(emulator_allocate((size_t)num_bytes), from, (size_t)num_bytes);
}

static bool is_half(ctok_dtype dtype) { return dtype == CTOK_BF16; }

// Random values as the dtype holds them.
static void *new_activation(int64_t count, float scale, float mean, ctok_dtype dtype) {
    float *values = new_random(count, scale, mean);
    if (!is_half(dtype)) return values;
    uint16_t *halves = new_bytes((size_t)count * sizeof(uint16_t));
    for (int64_t i = 0; i < count; i++) halves[i] = bf16_round(values[i]);
    free(values);
    return halves;
}

static float *widen(const void *activation, int64_t count, ctok_dtype dtype) {
    float *values = new_floats(count);
    for (int64_t i = 0; i < count; i++) values[i] = is_half(dtype) ? bf16_value(((const uint16_t *)activation)[i]) : ((const float *)activation)[i];
    return values;
}

static void report_run(difference d, int error, ctok_shape s, const char *kernel, const char *name) {
    const char *failure = emulator_failure();
    if (error || *failure) report(false, "%s %s: error %d: %s", kernel, name, error, failure);
    else report_difference(d, CTOK_OK, s, kernel, name);
}

// ---------------------------------------------------------------- convolutions
// A convolution with its data and the reference's answer in float32.
typedef struct {
    conv_params p;
    void *in, *past, *residual;
    float *weight, *bias, *want;
    int64_t in_count, past_count, residual_count, weight_count;
} conv_case;

static conv_case conv_case_of(backend *reference, conv_params p, residual_kind residual, bool has_past, uint64_t seed) {
    conv_case c = {.p = p};
    int64_t taps = p.kernel * p.kernel * p.kernel_t, frame = shape_elements(p.in) / p.in.t;
    c.in_count = shape_elements(p.in), c.past_count = frame * 2, c.weight_count = p.out.c * p.in.c * taps;
    c.residual_count = residual == UPSAMPLED ? c.in_count : shape_elements(p.out);
    random_seed(seed);
    c.in = new_activation(c.in_count, 1, 0.1f, p.in_dtype), c.bias = new_random(p.out.c, 1, 0), c.weight = new_random(c.weight_count, 1, 0);
    c.past = has_past ? new_activation(c.past_count, 1, 0.1f, p.in_dtype) : NULL;
    c.residual = residual ? new_activation(c.residual_count, 4, 0, p.out_dtype) : NULL;
    c.want = new_floats(shape_elements(p.out));
    // The reference reads a residual of the output's dtype, and the answer wanted is the one before rounding.
    conv_params exact = p;
    exact.out_dtype = CTOK_F32;
    float *residual_values = c.residual ? widen(c.residual, c.residual_count, p.out_dtype) : NULL;
    run_conv_past(reference, c.want, c.in, c.past, residual_values, c.weight, c.bias, &exact);
    free(residual_values);
    return c;
}

static void conv_case_free(conv_case c) { free(c.in), free(c.past), free(c.residual), free(c.weight), free(c.bias), free(c.want); }

enum { SMXX = -1 };  // in the place of a tile: the plain kernel

static void run_conv_case(const conv_case *c, int tile, residual_kind kind, const char *name) {
    next_mode();
    const conv_params *p = &c->p;
    int64_t taps = p->kernel * p->kernel * p->kernel_t, count = shape_elements(p->out);
    size_t in_bytes = dtype_bytes(p->in_dtype), out_bytes = dtype_bytes(p->out_dtype);
    size_t weight_bytes = tile == SMXX ? smxx_conv_weight_bytes(p->out.c, p->in.c, taps) : sm80_conv_weight_bytes(p->out.c, p->in.c, taps);
    void *in = to_device(c->in, c->in_count * (int64_t)in_bytes), *past = to_device(c->past, c->past_count * (int64_t)in_bytes);
    void *residual = to_device(c->residual, c->residual_count * (int64_t)out_bytes), *bias = to_device(c->bias, p->out.c * 4);
    void *packed = emulator_allocate(weight_bytes), *out = kind == PLAIN ? residual : emulator_allocate((size_t)count * out_bytes);
    if (tile == SMXX) smxx_conv_pack(packed, c->weight, p->out.c, p->in.c, taps, is_half(p->in_dtype));
    else sm80_conv_pack(packed, c->weight, p->out.c, p->in.c, taps);

    int error = tile == SMXX ? smxx_conv(out, in, past, residual, packed, bias, p, NULL)
                             : sm80_conv(out, in, past, residual, packed, bias, p, (conv_tile)tile, NULL);
    float *got = widen(out, count, p->out_dtype);
    char kernel[64];
    if (tile == SMXX) snprintf(kernel, sizeof kernel, "smxx");
    else snprintf(kernel, sizeof kernel, "sm80 %dx%dx%d", conv_tile_shape_of((conv_tile)tile).m, conv_tile_shape_of((conv_tile)tile).n, conv_tile_shape_of((conv_tile)tile).k);
    report_run(compare(got, c->want, count, is_half(p->out_dtype) ? BF16_BUDGET : F32_CONV_BUDGET), error, p->out, kernel, name);
    free(got), emulator_free(in), emulator_free(past), emulator_free(bias), emulator_free(packed), emulator_free(out);
    if (out != residual) emulator_free(residual);
}

static bool conv_tile_takes(conv_tile tile, const conv_params *p) {
    conv_tile_shape s = conv_tile_shape_of(tile);
    return p->in.c % s.k == 0 && (s.n < 256 || p->out.c % 256 == 0);
}

// float32 by the plain kernel; bf16 in by every tile that takes it, out in bf16 where the channels allow.
static void test_conv_params(backend *reference, conv_params p, residual_kind kind, bool has_past, uint64_t seed, const char *shape_name) {
    char name[160];
    for (int half = 0; half < 2; half++) {
        if (half && p.in.c % BF16_CHANNELS) continue;
        p.in_dtype = half ? CTOK_BF16 : CTOK_F32;
        p.out_dtype = p.out.c % BF16_CHANNELS == 0 && (half || seed % 2) ? CTOK_BF16 : CTOK_F32;
        snprintf(name, sizeof name, "%s %s to %s", shape_name, half ? "bf16" : "f32", is_half(p.out_dtype) ? "bf16" : "f32");
        conv_case c = conv_case_of(reference, p, kind, has_past, seed);
        if (!half) run_conv_case(&c, SMXX, kind, name);
        for (conv_tile tile = 0; half && tile < NUM_CONV_TILES; tile++)
            if (conv_tile_takes(tile, &p)) run_conv_case(&c, (int)tile, kind, name);
        conv_case_free(c);
    }
}

static void test_conv(backend *reference) {
    for (int s = 0; s < NUM_SHAPES(conv_shapes); s++) {
        conv_shape shape = conv_shapes[s];
        char name[128];
        snprintf(name, sizeof name, "conv %dx%dx%dx%d->%d k%d s%d%s%s", shape.n, shape.h, shape.w, shape.c_in, shape.c_out, shape.kernel,
                 shape.stride, shape.upsample == 2 ? " up2" : "", residual_names[shape.residual]);
        test_conv_params(reference, conv_params_of(shape), shape.residual, false, (uint64_t)s + 10, name);
    }
    for (int s = 0; s < NUM_SHAPES(conv_time_shapes); s++) {
        conv_time_shape shape = conv_time_shapes[s];
        char name[128];
        snprintf(name, sizeof name, "conv in time %dx%dx%dx%dx%d->%d s%d%s%s%s%s", shape.n, shape.t, shape.h, shape.w, shape.c_in, shape.c_out,
                 shape.stride, shape.upsample == 2 ? " up2" : "", shape.is_first ? " first" : "", shape.has_past ? " +past" : "",
                 residual_names[shape.residual]);
        test_conv_params(reference, conv_time_params_of(shape), shape.residual, shape.has_past, (uint64_t)s + 50, name);
    }
}

// ---------------------------------------------------------------- attention
static void run_attention_case(backend *reference, attention_params p, int tile, float spread, uint64_t seed, const char *name) {
    next_mode();
    int64_t count = shape_elements(p.shape), others = p.is_temporal ? count / p.shape.t * (p.num_past + p.shape.t) : count;
    int64_t size = (int64_t)dtype_bytes(p.dtype);
    random_seed(seed);
    void *q = new_activation(count, spread, 0, p.dtype), *k = new_activation(others, 1, 0, p.dtype), *v = new_activation(others, 1, 0, p.dtype);
    float *wide_q = widen(q, count, p.dtype), *wide_k = widen(k, others, p.dtype), *wide_v = widen(v, others, p.dtype), *want = new_floats(count);
    attention_params exact = p;
    exact.dtype = CTOK_F32;
    run_attention(reference, want, wide_q, wide_k, wide_v, &exact);
    void *dq = to_device(q, count * size), *dk = to_device(k, others * size), *dv = to_device(v, others * size), *out = emulator_allocate((size_t)(count * size));
    int error;
    char kernel[64] = "smxx";
    if (p.is_temporal) error = smxx_attention_time(out, dq, dk, dv, &p, NULL);
    else if (tile == SMXX) error = smxx_attention(out, dq, dk, dv, &p, NULL);
    else error = sm80_attention(out, dq, dk, dv, &p, (attention_tile)tile, NULL), snprintf(kernel, sizeof kernel, "sm80 tile %d", tile);
    float *got = widen(out, count, p.dtype);
    report_run(compare(got, want, count, is_half(p.dtype) ? BF16_ATTENTION_BUDGET : F32_ATTENTION_BUDGET), error, p.shape, kernel, name);
    free(q), free(k), free(v), free(wide_q), free(wide_k), free(wide_v), free(want), free(got);
    emulator_free(dq), emulator_free(dk), emulator_free(dv), emulator_free(out);
}

static void test_attention(backend *reference) {
    char name[128];
    for (int s = 0; s < NUM_SHAPES(attention_shapes); s++) {
        attention_shape shape = attention_shapes[s];
        attention_params p = {.shape = {shape.n, 1, shape.h, shape.w, shape.c}, .dtype = CTOK_F32};
        snprintf(name, sizeof name, "attention %dx%dx%dx%d spread %g f32", shape.n, shape.h, shape.w, shape.c, (double)shape.spread);
        run_attention_case(reference, p, SMXX, shape.spread, (uint64_t)s + 200, name);
        if (shape.c % BF16_CHANNELS) continue;
        p.dtype = CTOK_BF16;
        snprintf(name, sizeof name, "attention %dx%dx%dx%d spread %g bf16", shape.n, shape.h, shape.w, shape.c, (double)shape.spread);
        for (int tile = 0; tile < NUM_ATTENTION_TILES; tile++) run_attention_case(reference, p, tile, shape.spread, (uint64_t)s + 200, name);
    }
    for (int s = 0; s < NUM_SHAPES(attention_time_shapes); s++) {
        attention_time_shape shape = attention_time_shapes[s];
        attention_params p = {{1, shape.t, shape.h, shape.w, shape.c}, true, shape.num_past, shape.window, CTOK_F32};
        for (int half = 0; half < (shape.c % BF16_CHANNELS ? 1 : 2); half++) {
            p.dtype = half ? CTOK_BF16 : CTOK_F32;
            snprintf(name, sizeof name, "attention in time %dx%dx%dx%d past %d window %d %s", shape.t, shape.h, shape.w, shape.c, shape.num_past,
                     shape.window, half ? "bf16" : "f32");
            run_attention_case(reference, p, SMXX, shape.spread, (uint64_t)s + 300, name);
        }
    }
}

int main(void) {
    backend *reference = NULL;
    if (cpu_backend_open(&reference, 0, CTOK_KERNELS_REFERENCE, NULL) != CTOK_OK) {
        printf("Bail out! no reference backend\n");
        return 1;
    }
    test_attention(reference);
    test_conv(reference);
    reference->close(reference);
    printf("1..%d\n", num_tests);
    return num_failed ? 1 : 0;
}
