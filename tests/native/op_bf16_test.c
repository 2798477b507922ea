// Holds the bfloat16 ops to the truth: every kernel set that takes bfloat16 against the reference
// ops on the same rounded values, on those shapes of op_shapes.h whose channels come in 32s. Prints
// TAP; the exit code is 1 when a test failed. Budgets, as relative L2. To float32 a conv has
// nothing to round but its sums, as in op_test.c; Winograd's larger form, taken here only, rounds
// more (measured: at most 3.3e-6, single errors up to 4.8e-5 of the results' deviation, where 10
// budgets are let pass). To bfloat16 both sides round once, and differ where a sum lies next to a
// tie: by a unit of 2^-8, in few places (measured: at most 1e-4). Attention rounds its
// exponentials, to 2^-9 each (measured: at most 2.6e-3). The largest single error may be one unit
// of a value of 5 deviations.
#include "op_support.h"

static const double CONV_BUDGET = 1e-6, WINOGRAD_BUDGET = 6e-6, ROUNDED_BUDGET = 3e-4,
                    ATTENTION_BUDGET = 4e-3, LARGEST = 0.04;

// ---------------------------------------------------------------- data of either dtype
static void *new_activation(const float *values, int64_t count, ctok_dtype dtype) {
    if (!values) return NULL;
    if (dtype == CTOK_F32) return new_copy(values, count);
    uint16_t *rounded = new_bytes((size_t)count * 2);
    for (int64_t i = 0; i < count; i++) rounded[i] = bf16_round(values[i]);
    return rounded;
}

static void *new_result(int64_t count, ctok_dtype dtype) {
    return new_bytes((size_t)count * dtype_bytes(dtype));
}

static float *to_floats(const void *values, int64_t count, ctok_dtype dtype) {
    float *floats = new_floats(count);
    for (int64_t i = 0; i < count; i++)
        floats[i] = dtype == CTOK_BF16 ? bf16_value(((const uint16_t *)values)[i])
                                       : ((const float *)values)[i];
    return floats;
}

static difference compare_results(const void *got, const void *want, int64_t count,
                                  ctok_dtype dtype, double budget) {
    float *a = to_floats(got, count, dtype), *b = to_floats(want, count, dtype);
    difference d = compare(a, b, count, budget);
    if (dtype == CTOK_BF16) {
        double norm = 0;
        for (int64_t i = 0; i < count; i++) norm += (double)b[i] * b[i];
        d.passed = d.relative <= budget && d.largest <= LARGEST * sqrt(norm / (double)count) + 1e-6;
    }
    free(a), free(b);
    return d;
}

// ---------------------------------------------------------------- conv, in space and in time
static const char *const format_names[] = {"bf16 to bf16", "bf16 to f32", "f32 to bf16"};
static const ctok_dtype in_dtypes[] = {CTOK_BF16, CTOK_BF16, CTOK_F32},
                        out_dtypes[] = {CTOK_BF16, CTOK_F32, CTOK_BF16};

static void test_conv_formats(backend *reference, backend *b, conv_params p, bool has_past,
                              residual_kind kind, double budget, const char *name) {
    if (is_too_long(&p, name)) return;
    int64_t count = shape_elements(p.out), in_count = shape_elements(p.in),
            past_count = p.in.n * 2 * in_count / p.in.n / p.in.t;
    int64_t residual_count = kind == UPSAMPLED ? in_count : count;
    float *in = new_random(in_count, 1, 0.1f), *bias = new_random(p.out.c, 1, 0),
          *past = has_past ? new_random(past_count, 1, 0.1f) : NULL;
    float *weight = new_random(p.out.c * p.in.c * p.kernel_t * p.kernel * p.kernel, 1, 0);
    float *residual = kind ? new_random(residual_count, 4, 0) : NULL;
    for (int f = 0; f < 3; f++) {
        p.in_dtype = in_dtypes[f], p.out_dtype = out_dtypes[f];
        if (p.in_dtype == CTOK_BF16 && p.in.c % BF16_CHANNELS) continue;
        if (p.out_dtype == CTOK_BF16 && p.out.c % BF16_CHANNELS) continue;
        void *x = new_activation(in, in_count, p.in_dtype),
             *before = new_activation(past, past_count, p.in_dtype);
        void *add = new_activation(residual, residual_count, p.out_dtype);
        void *want = new_result(count, p.out_dtype), *got = new_result(count, p.out_dtype);
        run_conv_past(reference, want, x, before, add, weight, bias, &p);
        ctok_status status = run_conv_past(b, got, x, before, add, weight, bias, &p);
        char text[160];
        snprintf(text, sizeof text, "%s, %s", name, format_names[f]);
        double limit = p.out_dtype == CTOK_BF16 ? ROUNDED_BUDGET : budget;
        report_difference(compare_results(got, want, count, p.out_dtype, limit), status, p.out,
                          b->kernels->name, text);
        free(x), free(before), free(add), free(want), free(got);
    }
    free(in), free(bias), free(past), free(weight), free(residual);
}

static void test_conv(backend *reference, backend *b, const conv_shape *shapes, int num_shapes,
                      double budget) {
    for (int s = 0; s < num_shapes; s++) {
        conv_shape shape = shapes[s];
        random_seed((uint64_t)s + 10);
        test_conv_formats(reference, b, conv_params_of(shape), false, shape.residual, budget,
                          conv_name(shape).text);
    }
}

static void test_conv_time(backend *reference, backend *b) {
    for (int s = 0; s < NUM_SHAPES(conv_time_shapes); s++) {
        conv_time_shape shape = conv_time_shapes[s];
        random_seed((uint64_t)s + 50);
        test_conv_formats(reference, b, conv_time_params_of(shape), shape.has_past, shape.residual,
                          CONV_BUDGET, conv_time_name(shape).text);
    }
}

// Winograd spreads NaN and infinity over the tiles of 6 x 6 outputs that read them: rows and
// columns 6 .. 17 of those at 11 and 12 (whose neighbours are 10 .. 13), and no further.
static void test_special_values(backend *b) {
    conv_shape shape = {1, SPECIAL_H, SPECIAL_W, SPECIAL_C, SPECIAL_C, 3, 1, 1, 1, NONE};
    conv_params p = conv_params_of(shape);
    p.in_dtype = CTOK_BF16;
    int64_t count = shape_elements(p.out);
    random_seed(310);
    float *values = new_random(count, 1, 0), *weight = new_random(64 * 64 * 9, 1, 0),
          *got = new_floats(count);
    put_specials(values);
    void *in = new_activation(values, count, CTOK_BF16);
    ctok_status status = run_conv(b, got, in, NULL, weight, weight, &p);
    report(status == CTOK_OK && specials_stay(got, 6, 17),
           "%s wide conv: NaN and inf stay in the tiles that read them", b->kernels->name);
    free(values), free(weight), free(got), free(in);
}

// ---------------------------------------------------------------- norm, pool, attention
static void test_norm(backend *reference, backend *b) {
    for (int s = 0; s < NUM_SHAPES(norm_shapes); s++) {
        norm_shape shape = norm_shapes[s];
        if (shape.c % BF16_CHANNELS) continue;
        norm_params p = norm_params_of(shape);
        p.dtype = CTOK_BF16;
        int64_t count = shape_elements(p.shape);
        random_seed((uint64_t)s + 100);
        float *values = new_random(count, 1.7320508f, shape.mean),
              *scale = new_random(shape.c, 1, 1), *offset = new_random(shape.c, 1, 0);
        void *in = new_activation(values, count, CTOK_BF16), *want = new_result(count, CTOK_BF16),
             *got = new_result(count, CTOK_BF16);
        op_norm(reference, want, in, scale, offset, &p);
        ctok_status status = op_norm(b, got, in, scale, offset, &p);
        char name[128];
        snprintf(name, sizeof name, "norm %dx%dx%dx%d groups %d mean %g%s", shape.n, shape.h,
                 shape.w, shape.c, shape.groups, (double)shape.mean,
                 shape.has_silu ? " +silu" : "");
        report_difference(compare_results(got, want, count, CTOK_BF16, ROUNDED_BUDGET), status,
                          p.shape, b->kernels->name, name);
        op_norm(b, in, in, scale, offset, &p);
        report(memcmp(in, got, (size_t)count * 2) == 0, "%s %s: in place the same",
               b->kernels->name, name);
        free(values), free(scale), free(offset), free(in), free(want), free(got);
    }
}

// Against means taken here: one pool serves every table.
static void test_pool(backend *b) {
    for (int s = 0; s < NUM_SHAPES(pool_shapes); s++) {
        pool_shape shape = pool_shapes[s];
        shape.c = 32;
        pool_params p = pool_params_of(shape, CTOK_BF16), exact = p;
        ctok_shape from = p.in, to = p.out;
        exact.dtype = CTOK_F32;
        random_seed((uint64_t)s + 150);
        float *values = new_random(shape_elements(from), 1, 0),
              *want = new_floats(shape_elements(to));
        uint16_t *in = new_activation(values, shape_elements(from), CTOK_BF16),
                 *got = new_result(shape_elements(to), CTOK_BF16);
        for (int64_t i = 0; i < shape_elements(from); i++) values[i] = bf16_value(in[i]);
        ctok_status status = op_pool(b, got, in, &p);
        op_pool(b, want, values, &exact);
        int64_t wrong = 0;
        for (int64_t i = 0; i < shape_elements(to); i++) wrong += got[i] != bf16_round(want[i]);
        report(status == CTOK_OK && wrong == 0, "%s pool %s%s %dx%dx%dx%dx32: %lld wrong",
               b->kernels->name, shape.is_temporal ? "in time" : "in space",
               shape.is_first ? "" : ", later", shape.n, shape.t, shape.h, shape.w,
               (long long)wrong);
        free(values), free(want), free(in), free(got);
    }
}

static void test_attention_of(backend *reference, backend *b, attention_params p, float spread,
                              const char *name) {
    int64_t count = shape_elements(p.shape),
            num_keys = p.is_temporal ? count / p.shape.t * (p.shape.t + p.num_past) : count;
    p.dtype = CTOK_BF16;
    float *q = new_random(count, spread, 0), *k = new_random(num_keys, 1.7320508f, 0),
          *v = new_random(num_keys, 1, 0);
    void *bq = new_activation(q, count, CTOK_BF16), *bk = new_activation(k, num_keys, CTOK_BF16),
         *bv = new_activation(v, num_keys, CTOK_BF16);
    void *want = new_result(count, CTOK_BF16), *got = new_result(count, CTOK_BF16);
    run_attention(reference, want, bq, bk, bv, &p);
    ctok_status status = run_attention(b, got, bq, bk, bv, &p);
    report_difference(compare_results(got, want, count, CTOK_BF16, ATTENTION_BUDGET), status,
                      p.shape, b->kernels->name, name);
    free(q), free(k), free(v), free(bq), free(bk), free(bv), free(want), free(got);
}

static void test_attention(backend *reference, backend *b) {
    char name[128];
    for (int s = 0; s < NUM_SHAPES(attention_shapes); s++) {
        attention_shape shape = attention_shapes[s];
        if (shape.c % BF16_CHANNELS) continue;
        random_seed((uint64_t)s + 200);
        snprintf(name, sizeof name, "attention %dx%dx%dx%d spread %g", shape.n, shape.h, shape.w,
                 shape.c, (double)shape.spread);
        test_attention_of(reference, b,
                          (attention_params){.shape = {shape.n, 1, shape.h, shape.w, shape.c}},
                          shape.spread, name);
    }
    for (int s = 0; s < NUM_SHAPES(attention_time_shapes); s++) {
        attention_time_shape shape = attention_time_shapes[s];
        if (shape.c % BF16_CHANNELS) continue;
        random_seed((uint64_t)s + 250);
        snprintf(name, sizeof name,
                 "attention over time %dx%dx%dx%dx%d past %d window %d spread %g", shape.n, shape.t,
                 shape.h, shape.w, shape.c, shape.num_past, shape.window, (double)shape.spread);
        attention_params p = {{shape.n, shape.t, shape.h, shape.w, shape.c},
                              true,
                              shape.num_past,
                              shape.window,
                              CTOK_BF16};
        test_attention_of(reference, b, p, shape.spread, name);
    }
}

// ---------------------------------------------------------------- rounding
static void test_rounding(void) {
    const struct {
        float value;
        uint16_t bits;
    } known[] = {{1.0f, 0x3F80},    {1.00390625f, 0x3F80}, {1.01171875f, 0x3F82}, {-0.0f, 0x8000},
                 {3.4e38f, 0x7F80}, {INFINITY, 0x7F80},    {1e-40f, 0x0001}};
    bool is_right = true;  // ties to even: 1 + 2^-8 down, 1 + 3 * 2^-8 up
    for (int i = 0; i < NUM_SHAPES(known); i++)
        is_right &= bf16_round(known[i].value) == known[i].bits;
    float nan = bf16_value(bf16_round(NAN));
    report(is_right && nan != nan,
           "rounding to bfloat16: to nearest, ties to even, NaN and infinity kept");
}

static void test_set(backend *reference, backend *b) {
    test_conv(reference, b, conv_shapes, NUM_SHAPES(conv_shapes), CONV_BUDGET);
    test_conv(reference, b, winograd_shapes, NUM_SHAPES(winograd_shapes), WINOGRAD_BUDGET);
    test_conv_time(reference, b);
    test_special_values(b);
    test_norm(reference, b);
    test_attention(reference, b);
}

int main(void) {
    backend *reference = NULL;
    if (cpu_backend_open(&reference, 0, CTOK_KERNELS_REFERENCE, NULL) != CTOK_OK) {
        printf("Bail out! no reference backend\n");
        return 1;
    }
    test_rounding();
    test_pool(reference);
    int num_sets = 0;
    for (uint32_t kernels = CTOK_KERNELS_GENERIC;; kernels++) {
        backend *b = NULL;
        ctok_status status = cpu_backend_open(&b, 0, kernels, NULL);
        if (status == CTOK_E_ARGUMENT) break;  // past the last
        if (status == CTOK_E_DEVICE) continue;
        if (!report(status == CTOK_OK, "kernels %u open", kernels)) continue;
        if (b->kernels->has_bf16) test_set(reference, b), num_sets++;
        b->close(b);
    }
    if (num_sets == 0)
        report_skip("bfloat16 ops", "this processor has no kernels for it but the reference");
    reference->close(reference);
    return report_end();
}
