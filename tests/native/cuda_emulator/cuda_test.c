// Holds the CUDA kernels, run on the emulator, to the reference ops on the shapes of op_shapes.h:
// every tile they are compiled for, copies that land early and late, allocations that end and that
// begin at a guard page, tensor cores that add 8 and 16 products, NaN in every output. An emulator
// finding (a race, a step beyond an allocation, ...) fails the case that made it. Then the choice
// of tiles. Prints TAP. Budgets, as relative L2: results in bf16 are within 2^-9 = 2.0e-3 of their
// value when rounded once, and float32 sums of bf16 products as conv_sums_budget says; a doubling
// by phases rounds sums of weights too; attention also rounds its weights to bf16, which their sum
// evens out. Over 400 lines because it is one list of independent tests over shared helpers, a
// section an op.
#include "../../../csrc/backends/cuda/conv_pack.h"
#include "../../../csrc/backends/cuda/heuristics.h"
#include "../../../csrc/backends/cuda/kernels.h"
#include "emulator.h"
#include "../op_support.h"

static const double BF16_BUDGET = 2.5e-3, BF16_PHASES_BUDGET = 3.5e-3, BF16_ATTENTION_BUDGET = 4e-3,
                    F32_ATTENTION_BUDGET = 2e-6,
                    SPLIT_CONV_BUDGET = 1.5e-5;  // 16 bits are kept, 7.6e-6 at most is lost

// ---------------------------------------------------------------- device memory and modes
static uint32_t num_runs;

static void next_mode(void) {
    num_runs++;
    emulator_settings =
        (emulator_options){.seed = num_runs,
                           .is_late = num_runs & 1,
                           .is_end_guarded = num_runs >> 1 & 1,
                           .adds_16_products = (num_runs ^ num_runs >> 1 ^ num_runs >> 2) & 1};
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
    for (int64_t i = 0; i < count; i++)
        values[i] = is_half(dtype) ? bf16_value(((const uint16_t *)activation)[i])
                                   : ((const float *)activation)[i];
    return values;
}

static void report_run(difference d, int error, ctok_shape s, const char *kernel,
                       const char *name) {
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

static conv_case conv_case_of(backend *reference, conv_params p, residual_kind residual,
                              bool has_past, uint64_t seed) {
    conv_case c = {.p = p};
    int64_t taps = p.kernel * p.kernel * p.kernel_t, frame = shape_elements(p.in) / p.in.t;
    c.in_count = shape_elements(p.in), c.past_count = frame * 2,
    c.weight_count = p.out.c * p.in.c * taps;
    c.residual_count = residual == UPSAMPLED ? c.in_count : shape_elements(p.out);
    random_seed(seed);
    c.in = new_activation(c.in_count, 1, 0.1f, p.in_dtype), c.bias = new_random(p.out.c, 1, 0),
    c.weight = new_random(c.weight_count, 1, 0);
    c.past = has_past ? new_activation(c.past_count, 1, 0.1f, p.in_dtype) : NULL;
    c.residual = residual ? new_activation(c.residual_count, 4, 0, p.out_dtype) : NULL;
    c.want = new_floats(shape_elements(p.out));
    // The reference reads a residual of the output's dtype, and the answer wanted is the one before
    // rounding.
    conv_params exact = p;
    exact.out_dtype = CTOK_F32;
    float *residual_values = c.residual ? widen(c.residual, c.residual_count, p.out_dtype) : NULL;
    run_conv_past(reference, c.want, c.in, c.past, residual_values, c.weight, c.bias, &exact);
    free(residual_values);
    return c;
}

static void conv_case_free(conv_case c) {
    free(c.in), free(c.past), free(c.residual), free(c.weight), free(c.bias), free(c.want);
}

enum { SMXX = -1 };  // in the place of a tile: the plain kernel

static void run_conv_case(const conv_case *c, int tile, residual_kind kind, const char *name) {
    next_mode();
    const conv_params *p = &c->p;
    int64_t count = shape_elements(p->out);
    size_t in_bytes = dtype_bytes(p->in_dtype), out_bytes = dtype_bytes(p->out_dtype);
    size_t weight_bytes = tile == SMXX ? smxx_conv_weight_bytes(p) : sm80_conv_weight_bytes(p);
    void *in = to_device(c->in, c->in_count * (int64_t)in_bytes),
         *past = to_device(c->past, c->past_count * (int64_t)in_bytes);
    void *residual = to_device(c->residual, c->residual_count * (int64_t)out_bytes),
         *bias = to_device(c->bias, p->out.c * 4);
    void *packed = emulator_allocate(weight_bytes),
         *out = kind == PLAIN ? residual : emulator_allocate((size_t)count * out_bytes);
    if (tile == SMXX) smxx_conv_pack(packed, c->weight, p);
    else sm80_conv_pack(packed, c->weight, p);

    conv_target target = {out, packed, bias};
    int error = tile == SMXX
                    ? smxx_conv(&target, 1, in, past, residual, p, NULL)
                    : sm80_conv(&target, 1, in, past, residual, p, (conv_tile)tile, NULL, 0, NULL);
    float *got = widen(out, count, p->out_dtype);
    char kernel[64];
    if (tile == SMXX) snprintf(kernel, sizeof kernel, "smxx");
    else
        snprintf(kernel, sizeof kernel, "sm80 %dx%dx%d", conv_tile_shape_of((conv_tile)tile).m,
                 conv_tile_shape_of((conv_tile)tile).n, conv_tile_shape_of((conv_tile)tile).k);
    double budget = tile != SMXX && conv_phases(p) > 1 ? BF16_PHASES_BUDGET
                    : is_half(p->out_dtype)            ? BF16_BUDGET
                                                       : conv_sums_budget(p);
    report_run(compare(got, c->want, count, budget), error, p->out, kernel, name);
    free(got), emulator_free(in), emulator_free(past), emulator_free(bias), emulator_free(packed),
        emulator_free(out);
    if (out != residual) emulator_free(residual);
}

// float32 by the plain kernel; bf16 in by every tile that takes it, out in bf16 where the channels
// allow.
static void test_conv_params(backend *reference, conv_params p, residual_kind kind, bool has_past,
                             uint64_t seed, const char *shape_name) {
    char name[160];
    for (int half = 0; half < 2; half++) {
        if (half && p.in.c % BF16_CHANNELS) continue;
        p.in_dtype = half ? CTOK_BF16 : CTOK_F32;
        p.out_dtype = p.out.c % BF16_CHANNELS == 0 && (half || seed % 2) ? CTOK_BF16 : CTOK_F32;
        snprintf(name, sizeof name, "%s %s to %s", shape_name, half ? "bf16" : "f32",
                 is_half(p.out_dtype) ? "bf16" : "f32");
        conv_case c = conv_case_of(reference, p, kind, has_past, seed);
        if (!half) run_conv_case(&c, SMXX, kind, name);
        for (conv_tile tile = 0; half && tile < NUM_CONV_TILES; tile++)
            if (conv_tile_takes(tile, &p)) run_conv_case(&c, (int)tile, kind, name);
        conv_case_free(c);
    }
}

// A float32 input split in two bf16, as the first convolution of a bf16 network reads it; float32
// out, which shows how much of the input is kept. To sm80_conv it is an input like any other, so
// one tile stands for all.
static void test_conv_split(backend *reference, conv_shape shape, uint64_t seed) {
    conv_params p = conv_params_of(shape);
    p.in_dtype = CTOK_F32, p.out_dtype = CTOK_BF16;
    if (!conv_is_split(&p) || shape.residual != NONE) return;
    next_mode();
    conv_params exact = p, half = p;
    half.in.c = sm80_conv_form_of(&p).channels, half.in_dtype = CTOK_BF16;
    half.out_dtype = exact.out_dtype = CTOK_F32;
    conv_case c = conv_case_of(reference, exact, NONE, false, seed);
    for (int64_t i = 0; i < c.weight_count; i++) c.weight[i] = bf16_value(bf16_round(c.weight[i]));
    run_conv(reference, c.want, c.in, NULL, c.weight, c.bias, &exact);
    int64_t count = shape_elements(p.out);
    void *in = to_device(c.in, c.in_count * 4), *bias = to_device(c.bias, p.out.c * 4),
         *split = emulator_allocate(sm80_split_bytes(&p)),
         *packed = emulator_allocate(sm80_conv_weight_bytes(&p)),
         *out = emulator_allocate((size_t)count * 4);
    sm80_conv_pack(packed, c.weight, &p);
    int error = sm80_split(split, in, &p, NULL);
    if (!error)
        error = sm80_conv(&(conv_target){out, packed, bias}, 1, split, NULL, NULL, &half,
                          CONV_TILE_64x64x32, NULL, 0, NULL);
    char name[160];
    snprintf(name, sizeof name, "%s f32 in two bf16", conv_name(shape).text);
    report_run(compare(out, c.want, count, SPLIT_CONV_BUDGET), error, p.out, "sm80", name);
    void *all[] = {in, bias, split, packed, out};
    for (int i = 0; i < NUM_SHAPES(all); i++) emulator_free(all[i]);
    conv_case_free(c);
}

// A doubling by phases has the reference's bits where nothing is rounded: small whole numbers,
// whose sums bf16 holds. In space and in time, by every tile.
static void test_conv_phases(backend *reference) {
    for (int s = 0; s < NUM_SHAPES(conv_shapes) + NUM_SHAPES(conv_time_shapes); s++) {
        bool in_space = s < NUM_SHAPES(conv_shapes);
        conv_shape space = conv_shapes[in_space ? s : 0];
        conv_time_shape time = conv_time_shapes[in_space ? 0 : s - NUM_SHAPES(conv_shapes)];
        conv_params p = in_space ? conv_params_of(space) : conv_time_params_of(time);
        p.in_dtype = p.out_dtype = CTOK_BF16;
        if (conv_phases(&p) == 1 || p.in.c % BF16_CHANNELS || p.out.c % BF16_CHANNELS) continue;
        conv_case c = conv_case_of(reference, p, in_space ? space.residual : time.residual,
                                   !in_space && time.has_past, (uint64_t)s + 400);
        void *halves[] = {c.in, c.past, c.residual};
        const int64_t counts[] = {c.in_count, c.past_count, c.residual_count};
        for (int k = 0; k < 3; k++)
            for (int64_t i = 0; halves[k] && i < counts[k]; i++)
                ((uint16_t *)halves[k])[i] = bf16_round((float)(i * 7 % 5 - 2));
        for (int64_t i = 0; i < c.weight_count; i++) c.weight[i] = (float)(i * 5 % 7 - 3);
        for (int64_t i = 0; i < p.out.c; i++) c.bias[i] = (float)(i % 9);
        int64_t count = shape_elements(p.out);
        uint16_t *want = new_bytes((size_t)count * 2);
        run_conv_past(reference, want, c.in, c.past, c.residual, c.weight, c.bias, &p);
        for (conv_tile tile = 0; tile < NUM_CONV_TILES; tile++) {
            if (!conv_tile_takes(tile, &p)) continue;
            next_mode();
            void *in = to_device(c.in, c.in_count * 2), *past = to_device(c.past, c.past_count * 2),
                 *residual = to_device(c.residual, c.residual_count * 2),
                 *bias = to_device(c.bias, p.out.c * 4),
                 *packed = emulator_allocate(sm80_conv_weight_bytes(&p)),
                 *out = emulator_allocate((size_t)count * 2);
            sm80_conv_pack(packed, c.weight, &p);
            int error = sm80_conv(&(conv_target){out, packed, bias}, 1, in, past, residual, &p,
                                  tile, NULL, 0, NULL);
            report(!error && memcmp(out, want, (size_t)count * 2) == 0,
                   "%s in %d phases, tile %d: the reference's bits. %s",
                   in_space ? conv_name(space).text : conv_time_name(time).text, conv_phases(&p),
                   tile, emulator_failure());
            void *all[] = {in, past, residual, bias, packed, out};
            for (int i = 0; i < NUM_SHAPES(all); i++)
                if (all[i]) emulator_free(all[i]);
        }
        free(want), conv_case_free(c);
    }
}

static void test_conv(backend *reference) {
    for (int s = 0; s < NUM_SHAPES(conv_shapes); s++) {
        conv_shape shape = conv_shapes[s];
        test_conv_split(reference, shape, (uint64_t)s + 10);
        test_conv_params(reference, conv_params_of(shape), shape.residual, false, (uint64_t)s + 10,
                         conv_name(shape).text);
    }
    for (int s = 0; s < NUM_SHAPES(conv_time_shapes); s++) {
        conv_time_shape shape = conv_time_shapes[s];
        test_conv_params(reference, conv_time_params_of(shape), shape.residual, shape.has_past,
                         (uint64_t)s + 50, conv_time_name(shape).text);
    }
}

// ---------------------------------------------------------------- attention
static void run_attention_case(backend *reference, attention_params p, int tile, float spread,
                               uint64_t seed, const char *name) {
    next_mode();
    int64_t count = shape_elements(p.shape),
            others = p.is_temporal ? count / p.shape.t * (p.num_past + p.shape.t) : count;
    int64_t size = (int64_t)dtype_bytes(p.dtype);
    random_seed(seed);
    void *q = new_activation(count, spread, 0, p.dtype), *k = new_activation(others, 1, 0, p.dtype),
         *v = new_activation(others, 1, 0, p.dtype);
    float *wide_q = widen(q, count, p.dtype), *wide_k = widen(k, others, p.dtype),
          *wide_v = widen(v, others, p.dtype), *want = new_floats(count);
    attention_params exact = p;
    exact.dtype = CTOK_F32;
    run_attention(reference, want, wide_q, wide_k, wide_v, &exact);
    void *dq = to_device(q, count * size), *dk = to_device(k, others * size),
         *dv = to_device(v, others * size), *out = emulator_allocate((size_t)(count * size));
    int error;
    char kernel[64] = "smxx";
    if (p.is_temporal) error = smxx_attention_time(out, dq, dk, dv, &p, NULL);
    else if (tile == SMXX) error = smxx_attention(out, dq, dk, dv, &p, NULL);
    else
        error = sm80_attention(out, dq, dk, dv, &p, (attention_tile)tile, NULL),
        snprintf(kernel, sizeof kernel, "sm80 tile %d", tile);
    float *got = widen(out, count, p.dtype);
    report_run(
        compare(got, want, count, is_half(p.dtype) ? BF16_ATTENTION_BUDGET : F32_ATTENTION_BUDGET),
        error, p.shape, kernel, name);
    free(q), free(k), free(v), free(wide_q), free(wide_k), free(wide_v), free(want), free(got);
    emulator_free(dq), emulator_free(dk), emulator_free(dv), emulator_free(out);
}

static void test_attention(backend *reference) {
    char name[128];
    for (int s = 0; s < NUM_SHAPES(attention_shapes); s++) {
        attention_shape shape = attention_shapes[s];
        attention_params p = {.shape = {shape.n, 1, shape.h, shape.w, shape.c}, .dtype = CTOK_F32};
        snprintf(name, sizeof name, "attention %dx%dx%dx%d spread %g f32", shape.n, shape.h,
                 shape.w, shape.c, (double)shape.spread);
        run_attention_case(reference, p, SMXX, shape.spread, (uint64_t)s + 200, name);
        if (shape.c % BF16_CHANNELS) continue;
        p.dtype = CTOK_BF16;
        snprintf(name, sizeof name, "attention %dx%dx%dx%d spread %g bf16", shape.n, shape.h,
                 shape.w, shape.c, (double)shape.spread);
        for (int tile = 0; tile < NUM_ATTENTION_TILES; tile++)
            if (attention_tile_takes((attention_tile)tile, shape.c))
                run_attention_case(reference, p, tile, shape.spread, (uint64_t)s + 200, name);
    }
    for (int s = 0; s < NUM_SHAPES(attention_time_shapes); s++) {
        attention_time_shape shape = attention_time_shapes[s];
        attention_params p = {{shape.n, shape.t, shape.h, shape.w, shape.c},
                              true,
                              shape.num_past,
                              shape.window,
                              CTOK_F32};
        for (int half = 0; half < (shape.c % BF16_CHANNELS ? 1 : 2); half++) {
            p.dtype = half ? CTOK_BF16 : CTOK_F32;
            snprintf(name, sizeof name, "attention in time %dx%dx%dx%dx%d past %d window %d %s",
                     shape.n, shape.t, shape.h, shape.w, shape.c, shape.num_past, shape.window,
                     half ? "bf16" : "f32");
            run_attention_case(reference, p, SMXX, shape.spread, (uint64_t)s + 300, name);
        }
    }
}

// ---------------------------------------------------------------- norm and the ops that move or
// halve values
static const double NORM_BUDGET = 1e-6;

static void test_norm(backend *reference) {
    for (int s = 0; s < NUM_SHAPES(norm_shapes); s++)
        for (int half = 0; half < 2; half++) {
            norm_shape shape = norm_shapes[s];
            if (half && shape.c % BF16_CHANNELS) continue;
            next_mode();
            norm_params p = norm_params_of(shape), exact = p;
            p.dtype = half ? CTOK_BF16 : CTOK_F32;
            int64_t count = shape_elements(p.shape),
                    num_bytes = count * (int64_t)dtype_bytes(p.dtype);
            random_seed((uint64_t)s + 100);
            void *in = new_activation(count, 1.7320508f, shape.mean, p.dtype);
            float *scale = new_random(shape.c, 1, 1), *offset = new_random(shape.c, 1, 0),
                  *want = new_floats(count), *wide = widen(in, count, p.dtype);
            op_norm(reference, want, wide, scale, offset, &exact);
            void *din = to_device(in, num_bytes), *dscale = to_device(scale, shape.c * 4),
                 *doffset = to_device(offset, shape.c * 4);
            void *out = s % 2 ? din : emulator_allocate((size_t)num_bytes),
                 *workspace = emulator_allocate(NORM_WORKSPACE_BYTES);  // may run in place
            int error = smxx_norm(out, din, dscale, doffset, workspace, (norm_parts){0, 0, 0},
                                  false, &p, NULL);
            float *got = widen(out, count, p.dtype);
            char name[128];
            snprintf(name, sizeof name, "norm %dx%dx%dx%d groups %d mean %g%s %s", shape.n, shape.h,
                     shape.w, shape.c, shape.groups, (double)shape.mean,
                     shape.has_silu ? " +silu" : "", half ? "bf16" : "f32");
            report_run(compare(got, want, count, half ? BF16_BUDGET : NORM_BUDGET), error, p.shape,
                       "smxx", name);
            free(in), free(scale), free(offset), free(want), free(wide), free(got);
            emulator_free(din), emulator_free(dscale), emulator_free(doffset),
                emulator_free(workspace);
            if (out != din) emulator_free(out);
        }
}

// A norm of more frames than a launch takes, over sparse memory; only the first block of each
// launch runs.
static void test_norm_frames(void) {
    norm_params p = {.shape = {1, 70000, 1, 1, 32}, .groups = 1, .dtype = CTOK_F32};
    size_t num_bytes = (size_t)shape_elements(p.shape) * sizeof(float);
    next_mode();
    float ones[32];
    for (int i = 0; i < 32; i++) ones[i] = 1;
    void *in = emulator_allocate_sparse(num_bytes), *scale = to_device(ones, sizeof ones),
         *workspace = emulator_allocate(NORM_WORKSPACE_BYTES);
    emulator_settings.num_blocks = 1, emulator_num_launches = 0;
    int error = smxx_norm(in, in, scale, scale, workspace, (norm_parts){0, 0, 0}, false, &p, NULL);
    report(!error && emulator_num_launches == 6, "norm of 70000 frames: %d launches. %s",
           emulator_num_launches, emulator_failure());
    emulator_free(in), emulator_free(scale), emulator_free(workspace);
}

// Statistics of what a convolution stored, as it gathered them itself, then as the norm does,
// against float64: of the mean as a part of the deviation, and of 1 / deviation. Groups that lie in
// a tile, that are wider, and that begin in one and end in the next.
static void test_conv_moments(void) {
    static const struct {
        int32_t n, h, w, c_out, groups;
        float mean;
        int32_t upsample;
    } shapes[] = {{1, 16, 8, 64, 16, 0, 1},   {2, 16, 8, 256, 32, 30, 1},
                  {1, 16, 16, 192, 2, -3, 1}, {1, 8, 32, 96, 6, 1000, 1},
                  {1, 16, 8, 256, 2, 1, 1},   {2, 32, 16, 256, 32, 5, 2}};
    for (int i = 0; i < NUM_SHAPES(shapes); i++)
        for (conv_tile tile = 0; tile < NUM_CONV_TILES; tile++) {
            int32_t upsample = shapes[i].upsample, kernel = upsample == 2 ? 3 : 1;
            ctok_shape out = {shapes[i].n, 1, shapes[i].h, shapes[i].w, shapes[i].c_out}, in = out;
            in.h /= upsample, in.w /= upsample, in.c = 64;
            conv_params p = conv_of(in, out, kernel, 1, kernel / 2, upsample);
            p.in_dtype = p.out_dtype = CTOK_BF16;
            norm_params norm = {
                .shape = out, .groups = shapes[i].groups, .epsilon = 1e-6f, .dtype = CTOK_BF16};
            norm_parts parts = conv_parts(&p, tile, &norm);
            if (!conv_tile_takes(tile, &p)) continue;
            next_mode();
            int64_t c = out.c, count = shape_elements(out), frame = out.h * out.w,
                    width = c / norm.groups;
            random_seed((uint64_t)i + 800);
            void *values = new_activation(shape_elements(in), 1, 0, CTOK_BF16);
            float *weight = new_random(c * 64 * kernel * kernel, 0.2f, 0),
                  *bias = new_random(c, 1, shapes[i].mean), *ones = new_random(c, 0, 1);
            void *din = to_device(values, shape_elements(in) * 2), *dbias = to_device(bias, c * 4),
                 *dones = to_device(ones, c * 4);
            void *packed = emulator_allocate(sm80_conv_weight_bytes(&p)),
                 *stored = emulator_allocate((size_t)count * 2),
                 *normed = emulator_allocate((size_t)count * 2);
            norm_moment *moments = emulator_allocate(NORM_WORKSPACE_BYTES);
            memset(moments, 0, NORM_WORKSPACE_BYTES);
            sm80_conv_pack(packed, weight, &p);
            int error = sm80_conv(&(conv_target){stored, packed, dbias}, 1, din, NULL, NULL, &p,
                                  tile, moments, norm.groups, NULL);
            // The same bits of what is stored, and so by a convolution of another tile.
            int64_t tiles = out.n * frame / parts.slab_positions *
                            ((c + parts.tile_channels - 1) / parts.tile_channels);
            norm_moment *again = emulator_allocate((size_t)(tiles * norm.groups) * sizeof *again);
            memset(again, 0, (size_t)(tiles * norm.groups) * sizeof *again);
            if (!error) error = sm80_moments(again, stored, out.n, parts, &norm, NULL);
            report(!error &&
                       memcmp(again, moments, (size_t)(tiles * norm.groups) * sizeof *again) == 0,
                   "statistics of conv %dx%dx%dx%d, tile %d: the same bits of what is stored %s",
                   (int)out.n, (int)out.h, (int)out.w, (int)c, tile, emulator_failure());
            emulator_free(again);
            float *got = widen(stored, count, CTOK_BF16);
            double worst[2][2] = {{0, 0}, {0, 0}};  // of the mean and of 1 / deviation; gathered by
                                                    // the convolution, by the norm
            for (int by = 0; by < 2 && !error; by++) {
                error = smxx_norm(normed, stored, dones, dones, moments,
                                  by ? (norm_parts){0, 0, 0} : parts, !by, &norm, NULL);
                const float *stats = (const float *)(moments + NORM_MOMENTS);
                for (int64_t group = 0; group < out.n * norm.groups; group++) {
                    const float *first =
                        got + group / norm.groups * frame * c + group % norm.groups * width;
                    double sum = 0, square = 0;
                    for (int64_t k = 0; k < frame * width; k++)
                        sum += (double)first[k / width * c + k % width];
                    double mean = sum / (double)(frame * width);
                    for (int64_t k = 0; k < frame * width; k++)
                        square += pow((double)first[k / width * c + k % width] - mean, 2);
                    double deviation =
                        sqrt(square / (double)(frame * width) + (double)norm.epsilon);
                    worst[by][0] = fmax(worst[by][0], fabs((double)stats[4 * group] +
                                                           (double)stats[4 * group + 1] - mean) /
                                                          deviation);
                    worst[by][1] =
                        fmax(worst[by][1], fabs((double)stats[4 * group + 2] * deviation - 1));
                }
            }
            bool is_right = parts.slab_positions == conv_tile_shape_of(tile).m &&
                            worst[0][0] <= 1e-7 && worst[0][1] <= 1e-7;
            report(!error && is_right,
                   "statistics of conv %dx%dx%dx%d groups %d mean %g, tile %d: %.1e of the mean, "
                   "%.1e of the deviation; by the norm %.1e, %.1e %s",
                   (int)out.n, (int)out.h, (int)out.w, (int)c, norm.groups, (double)shapes[i].mean,
                   tile, worst[0][0], worst[0][1], worst[1][0], worst[1][1], emulator_failure());
            free(values), free(weight), free(bias), free(ones), free(got);
            void *all[] = {din, dbias, dones, packed, stored, normed, moments};
            for (int k = 0; k < NUM_SHAPES(all); k++) emulator_free(all[k]);
        }
    conv_params p =
        conv_of((ctok_shape){1, 1, 16, 16, 64}, (ctok_shape){1, 1, 16, 16, 128}, 3, 1, 1, 1);
    p.out_dtype = CTOK_BF16;
    norm_params whole = {.shape = p.out, .groups = 32, .dtype = CTOK_BF16}, one = whole,
                narrow = whole, other = whole;
    one.groups = 1, narrow.groups = 64, other.shape.h = 8;
    report(conv_parts(&p, CONV_TILE_128x128x32, &whole).slab_positions == 128 &&
               !conv_parts(&p, CONV_TILE_128x128x32, &one).slab_positions &&
               !conv_parts(&p, CONV_TILE_128x128x32, &narrow).slab_positions &&
               !conv_parts(&p, CONV_TILE_128x128x32, &other).slab_positions,
           "a convolution gathers statistics for norms of images alone, of four channels or more, "
           "of its own output");
}

// q, k and v in one start have the bits that they have alone, by every tile.
static void test_conv_targets(void) {
    enum { C = 128, POSITIONS = 150 };
    ctok_shape shape = {1, 1, 10, 15, C};
    for (int tile = SMXX; tile < NUM_CONV_TILES; tile++) {
        conv_params p = conv_of(shape, shape, 1, 1, 0, 1);
        p.in_dtype = p.out_dtype = tile == SMXX ? CTOK_F32 : CTOK_BF16;
        if (tile != SMXX && !conv_tile_takes((conv_tile)tile, &p)) continue;
        next_mode();
        random_seed(900);
        size_t out_bytes = POSITIONS * C * dtype_bytes(p.out_dtype);
        void *values = new_activation(POSITIONS * C, 1, 0, p.in_dtype),
             *in = to_device(values, (int64_t)out_bytes);
        conv_target together[3], alone[3];
        int error = 0;
        for (int i = 0; i < 3; i++) {
            float *weight = new_random(C * C, 0.1f, 0), *bias = new_random(C, 1, 0);
            void *packed = emulator_allocate(tile == SMXX ? smxx_conv_weight_bytes(&p)
                                                          : sm80_conv_weight_bytes(&p));
            if (tile == SMXX) smxx_conv_pack(packed, weight, &p);
            else sm80_conv_pack(packed, weight, &p);
            together[i] =
                (conv_target){emulator_allocate(out_bytes), packed, to_device(bias, C * 4)},
            alone[i] = together[i];
            alone[i].out = emulator_allocate(out_bytes);
            if (!error)
                error = tile == SMXX ? smxx_conv(&alone[i], 1, in, NULL, NULL, &p, NULL)
                                     : sm80_conv(&alone[i], 1, in, NULL, NULL, &p, (conv_tile)tile,
                                                 NULL, 0, NULL);
            free(weight), free(bias);
        }
        if (!error)
            error = tile == SMXX ? smxx_conv(together, 3, in, NULL, NULL, &p, NULL)
                                 : sm80_conv(together, 3, in, NULL, NULL, &p, (conv_tile)tile, NULL,
                                             0, NULL);
        bool is_right = !error;
        for (int i = 0; i < 3; i++) {
            is_right = is_right && memcmp(together[i].out, alone[i].out, out_bytes) == 0 &&
                       !emulator_has_unwritten(together[i].out, out_bytes);
            emulator_free(together[i].out), emulator_free(alone[i].out),
                emulator_free((void *)together[i].packed), emulator_free((void *)together[i].bias);
        }
        report(is_right, "three convolutions of one input, tile %d: the bits of each alone. %s",
               tile, emulator_failure());
        free(values), emulator_free(in);
    }
}

// The same bits as the reference's.
static void report_exact(const void *got, const void *want, size_t num_bytes, int error,
                         const char *name) {
    const char *failure = emulator_failure();
    report(!error && !*failure && memcmp(got, want, num_bytes) == 0, "smxx %s: %s", name,
           error || *failure ? failure : "exact");
}

static void test_haar(backend *reference) {
    for (int s = 0; s < NUM_SHAPES(haar_shapes); s++) {
        haar_shape shape = haar_shapes[s];
        next_mode();
        int32_t places = shape.patch * shape.patch * shape.patch_t,
                extra = shape.is_first ? shape.patch_t - 1 : 0;
        ctok_shape pixels = {shape.n, shape.t, shape.h, shape.w, shape.c};
        ctok_shape bands = {shape.n, (shape.t + extra) / shape.patch_t, shape.h / shape.patch,
                            shape.w / shape.patch, shape.c * places};
        haar_params forward = {pixels, bands, shape.patch, shape.patch_t, shape.is_first},
                    backward = forward;
        backward.in = bands, backward.out = pixels;
        int64_t count = shape_elements(pixels), num_bands = shape_elements(bands);
        random_seed((uint64_t)s);
        float *in = new_random(count, 1, 0), *want = new_floats(num_bands),
              *want_back = new_floats(count);
        op_haar(reference, want, in, &forward);
        op_unhaar(reference, want_back, want, &backward);
        void *din = to_device(in, count * 4), *out = emulator_allocate((size_t)num_bands * 4),
             *back = emulator_allocate((size_t)count * 4);
        char name[128];
        snprintf(name, sizeof name, "haar %dx%d %dx%dx%dx%dx%d%s", shape.patch_t, shape.patch,
                 shape.n, shape.t, shape.h, shape.w, shape.c, shape.is_first ? " first" : "");
        int error = smxx_haar(out, din, &forward, NULL);
        report_exact(out, want, (size_t)num_bands * 4, error, name);
        error = smxx_unhaar(back, out, &backward, NULL);
        strcat(name, " and back");
        report_exact(back, want_back, (size_t)count * 4, error, name);
        free(in), free(want), free(want_back), emulator_free(din), emulator_free(out),
            emulator_free(back);
    }
}

static void test_pool(backend *reference) {
    for (int s = 0; s < NUM_SHAPES(pool_shapes); s++)
        for (int half = 0; half < 2; half++) {
            pool_shape shape = pool_shapes[s];
            next_mode();
            if (half) shape.c = BF16_CHANNELS;
            pool_params p = pool_params_of(shape, half ? CTOK_BF16 : CTOK_F32);
            ctok_shape from = p.in, to = p.out;
            int64_t size = (int64_t)dtype_bytes(p.dtype);
            random_seed((uint64_t)s);
            void *in = new_activation(shape_elements(from), 1, 0, p.dtype),
                 *want = new_bytes((size_t)(shape_elements(to) * size));
            op_pool(reference, want, in, &p);
            void *din = to_device(in, shape_elements(from) * size),
                 *out = emulator_allocate((size_t)(shape_elements(to) * size));
            int error = smxx_pool(out, din, &p, NULL);
            char name[128];
            snprintf(name, sizeof name, "pool %dx%dx%dx%dx%d%s %s", shape.n, shape.t, shape.h,
                     shape.w, (int)from.c, shape.is_temporal ? " in time" : "",
                     half ? "bf16" : "f32");
            report_exact(out, want, (size_t)(shape_elements(to) * size), error, name);
            free(in), free(want), emulator_free(din), emulator_free(out);
        }
}

static void test_transfer(backend *reference) {
    for (int s = 0; s < NUM_SHAPES(transfer_shapes); s++)
        for (int f = 0; f < 2; f++) {
            transfer_shape shape = transfer_shapes[s];
            next_mode();
            transfer_params p = transfer_params_of(shape, f);
            int64_t count = (int64_t)shape.n * shape.c * shape.frames * shape.height * shape.width,
                    inside = shape_elements(p.shape);
            size_t num_bytes = (size_t)count * (f ? 4 : 1);
            random_seed(2);
            float *values = new_random(inside, 1.2f, 0), *want = new_floats(inside);
            uint8_t *external = new_bytes(num_bytes), *want_back = new_bytes(num_bytes);
            for (size_t i = 0; i < num_bytes; i++) external[i] = (uint8_t)(i * 37 % 251);
            if (f)
                memcpy(external, values,
                       num_bytes < (size_t)inside * 4 ? num_bytes : (size_t)inside * 4);
            op_load(reference, want, external, NULL, &p);
            op_store(reference, want_back, values, NULL, &p);
            void *dexternal = to_device(external, (int64_t)num_bytes),
                 *dvalues = to_device(values, inside * 4);
            void *out = emulator_allocate((size_t)inside * 4), *back = emulator_allocate(num_bytes);
            char name[128];
            snprintf(name, sizeof name, "load %s %dx%dx%dx%dx%d in %dx%dx%d", f ? "f32" : "u8",
                     shape.n, shape.frames, shape.height, shape.width, shape.c, shape.t, shape.h,
                     shape.w);
            int error = smxx_load(out, dexternal, &p, NULL);
            report_exact(out, want, (size_t)inside * 4, error, name);
            memcpy(name, "stor", 4);
            error = smxx_store(back, dvalues, &p, NULL);
            report_exact(back, want_back, num_bytes, error, name);
            free(values), free(want), free(external), free(want_back);
            emulator_free(dexternal), emulator_free(dvalues), emulator_free(out),
                emulator_free(back);
        }
}

// Takes z and codebook (NULL where the kind has none).
static void test_quantizer(backend *reference, quantizer_params p, float *z, float *codebook,
                           const char *kind) {
    int64_t positions = shape_positions(p.shape), count = shape_elements(p.shape);
    size_t index_bytes = (size_t)positions * sizeof(int32_t);
    float *codes = new_floats(count);
    int32_t *indices = new_bytes(index_bytes);
    next_mode();
    op_quantize(reference, indices, codes, z, codebook, NULL, &p);
    void *dz = to_device(z, count * 4), *out = emulator_allocate((size_t)count * 4);
    void *found = emulator_allocate(index_bytes),
         *dcodebook = to_device(codebook, p.size * p.shape.c * 4);
    char name[96];
    snprintf(name, sizeof name, "%s of %d codes of %d channels, %lld positions", kind, p.size,
             (int)p.shape.c, (long long)positions);
    int error = smxx_quantize(found, out, dz, dcodebook, &p, NULL);
    int64_t wrong = count_different(out, codes, count);
    report_exact(found, indices, index_bytes, error, name);
    report(wrong == 0, "smxx %s, codes as the reference's: %lld wrong", name, (long long)wrong);
    error = smxx_quantize(NULL, out, dz, dcodebook, &p, NULL);
    wrong = count_different(out, codes, count);
    report(!error && !*emulator_failure() && wrong == 0, "smxx %s, codes alone", name);
    error = smxx_dequantize(out, found, dcodebook, &p, NULL);
    op_dequantize(reference, codes, indices, codebook, NULL, &p);
    strcat(name, ", codes of indices");
    report_exact(out, codes, (size_t)count * 4, error, name);
    free(z), free(codes), free(codebook), free(indices);
    emulator_free(dz), emulator_free(out), emulator_free(found), emulator_free(dcodebook);
}

static void test_quantizers(backend *reference) {
    for (int s = 0; s < NUM_SHAPES(fsq_shapes); s++) {
        quantizer_params p = fsq_params_of(fsq_shapes[s]);
        random_seed((uint64_t)s);
        test_quantizer(reference, p, new_random(shape_elements(p.shape), 3, 0), NULL, "fsq");
    }
    for (int s = 0; s < NUM_SHAPES(lookup_shapes); s++) {
        quantizer_params p = lookup_params_of(lookup_shapes[s]);
        random_seed((uint64_t)s + 700);
        float *codebook = new_codebook(&p);
        test_quantizer(reference, p, new_lookup_vectors(&p, codebook), codebook, "lookup");
    }
    for (int s = 0; s < NUM_SHAPES(sign_shapes); s++) {
        quantizer_params p = sign_params_of(sign_shapes[s]);
        random_seed((uint64_t)s + 800);
        float *z = new_random(shape_elements(p.shape), 1, 0);
        z[0] = NAN;
        test_quantizer(reference, p, z, NULL, "sign");
    }
}

// ---------------------------------------------------------------- more than 2^31 elements A 1x1
// convolution that copies, over sparse memory; only the last block runs, and only its positions
// hold values.
static void test_large(void) {
    enum { C = 32, LAST = 50 };
    for (int tile = SMXX; tile < NUM_CONV_TILES; tile++) {
        ctok_shape shape = {1, 2, 8192, 4097, C};
        conv_params p = conv_of(shape, shape, 1, 1, 0, 1);
        p.in_dtype = p.out_dtype = tile == SMXX ? CTOK_F32 : CTOK_BF16;
        if (tile != SMXX && !conv_tile_takes((conv_tile)tile, &p)) continue;
        int32_t m = tile == SMXX ? 64 : conv_tile_shape_of((conv_tile)tile).m;
        int64_t size = (int64_t)dtype_bytes(p.in_dtype), count = shape_elements(shape),
                tail = LAST * C;
        next_mode();
        float identity[C * C] = {0}, zero[C] = {0};
        for (int i = 0; i < C; i++) identity[i * C + i] = 1;
        char *in = emulator_allocate_sparse((size_t)(count * size)),
             *out = emulator_allocate_sparse((size_t)(count * size));
        void *packed = emulator_allocate(tile == SMXX ? smxx_conv_weight_bytes(&p)
                                                      : sm80_conv_weight_bytes(&p));
        void *bias = to_device(zero, sizeof zero), *values = new_activation(tail, 1, 0, p.in_dtype);
        if (tile == SMXX) smxx_conv_pack(packed, identity, &p);
        else sm80_conv_pack(packed, identity, &p);
        int error = -1;
        bool is_copy = false;
        if (in && out) {
            memcpy(in + (count - tail) * size, values, (size_t)(tail * size));
            emulator_settings.first_block = (count / C + m - 1) / m - 1,
            emulator_settings.num_blocks = 1;
            conv_target target = {out, packed, bias};
            error = tile == SMXX
                        ? smxx_conv(&target, 1, in, NULL, NULL, &p, NULL)
                        : sm80_conv(&target, 1, in, NULL, NULL, &p, (conv_tile)tile, NULL, 0, NULL);
            int64_t written = (count / C - 1) % m + 1 < LAST ? ((count / C - 1) % m + 1) * C
                                                             : tail;  // of the last block
            is_copy =
                memcmp(out + (count - written) * size, (char *)values + (tail - written) * size,
                       (size_t)(written * size)) == 0;
        }
        report(!error && is_copy, "conv of 2.1e9 elements, %s, tile %d: the last positions. %s",
               tile == SMXX ? "f32" : "bf16", tile, emulator_failure());
        free(values), emulator_free(in), emulator_free(out), emulator_free(packed),
            emulator_free(bias);
    }
}

// ---------------------------------------------------------------- tiles
static void test_heuristics(void) {
    const device_limits devices[] = {{108, 166912}, {84, 101376}, {132, 232448}, {1, 101376}};
    const int32_t widths[] = {3, 16, 48, 128, 192, 256, 512}, channels[] = {32, 96, 128, 256, 512},
                  sizes[] = {1, 8, 33, 256, 1024};
    int num_wrong = 0, num_cases = 0;
    for (int d = 0; d < NUM_SHAPES(devices); d++)
        for (int o = 0; o < NUM_SHAPES(widths); o++)
            for (int c = 0; c < NUM_SHAPES(channels); c++)
                for (int k = 0; k < NUM_SHAPES(sizes); k++) {
                    conv_params p =
                        conv_of((ctok_shape){1, 1, sizes[k], sizes[k], channels[c]},
                                (ctok_shape){1, 1, sizes[k], sizes[k], widths[o]}, 3, 1, 1, 1);
                    conv_tile tile = conv_tile_choose(&p, 1, devices[d]);
                    num_cases++;
                    num_wrong += !conv_tile_takes(tile, &p) ||
                                 conv_tile_shared_bytes(tile) > devices[d].shared_bytes;
                }
    report(num_wrong == 0, "tiles: %d of %d choices cannot run", num_wrong, num_cases);

    const struct {
        int32_t size, c_in, c_out;
        device_limits device;
        conv_tile want;
        const char *why;
    } cases[] = {
        {1024, 256, 256, {108, 166912}, CONV_TILE_128x256x64, "large and wide"},
        {1024, 256, 256, {84, 101376}, CONV_TILE_128x128x32, "the widest needs 147 KB"},
        {1024, 96, 256, {108, 166912}, CONV_TILE_128x128x32, "96 channels are no steps of 64"},
        {512, 128, 128, {132, 232448}, CONV_TILE_128x128x32, "128 outputs"},
        {512,
         128,
         48,
         {132, 232448},
         CONV_TILE_128x64x32,
         "48 outputs would waste more than half of 128"},
        {32,
         512,
         512,
         {108, 166912},
         CONV_TILE_128x64x32,
         "1024 positions: larger tiles leave most SMs idle"},
        {16, 512, 512, {132, 232448}, CONV_TILE_64x64x32, "256 positions: the smallest"},
    };
    for (int i = 0; i < NUM_SHAPES(cases); i++) {
        ctok_shape in = {1, 1, cases[i].size, cases[i].size, cases[i].c_in}, out = in;
        out.c = cases[i].c_out;
        conv_params p = conv_of(in, out, 3, 1, 1, 1);
        conv_tile_shape got = conv_tile_shape_of(conv_tile_choose(&p, 1, cases[i].device));
        report(conv_tile_choose(&p, 1, cases[i].device) == cases[i].want,
               "tile of %d^2 %d->%d on %d SMs is %dx%dx%d: %s", cases[i].size, cases[i].c_in,
               cases[i].c_out, cases[i].device.num_sms, got.m, got.n, got.k, cases[i].why);
    }
    conv_params small =
        conv_of((ctok_shape){1, 1, 32, 32, 512}, (ctok_shape){1, 1, 32, 32, 512}, 1, 1, 0, 1);
    report(conv_tile_choose(&small, 3, devices[0]) == CONV_TILE_128x128x32,
           "three convolutions of 1024 positions together fill the SMs with a larger tile");
    attention_params wide = {.shape = {1, 1, 256, 256, 512}},
                     narrow = {.shape = {1, 1, 256, 256, 128}},
                     partial = {.shape = {1, 1, 256, 256, 96}};
    report(attention_tile_choose(&wide, devices[0]) == ATTENTION_TILE_64x2x4 &&
               attention_tile_choose(&wide, devices[1]) == ATTENTION_TILE_64x1x3 &&
               attention_tile_choose(&narrow, devices[1]) == ATTENTION_TILE_64x2x4 &&
               attention_tile_choose(&partial, devices[0]) == ATTENTION_TILE_64x1x3 &&
               attention_tile_shared_bytes(ATTENTION_TILE_64x1x3, 512) <= 101376,
           "tiles of attention fit 163 and 99 KB, and the width");
}

int main(void) {
    backend *reference = NULL;
    if (cpu_backend_open(&reference, 0, CTOK_KERNELS_REFERENCE, NULL) != CTOK_OK) {
        printf("Bail out! no reference backend\n");
        return 1;
    }
    test_heuristics();
    test_transfer(reference);
    test_haar(reference);
    test_pool(reference);
    test_quantizers(reference);
    test_norm(reference);
    test_norm_frames();
    test_conv_moments();
    test_conv_targets();
    test_attention(reference);
    test_large();
    test_conv(reference);
    test_conv_phases(reference);
    reference->close(reference);
    return report_end();
}
