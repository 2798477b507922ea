// Holds every op of a device with memory of its own to the reference, through the seam alone:
// alloc, upload, ops, and store to read a result back. The same cases on a GPU (gpu_test.c) and on
// the emulator (cuda_emulator/backend_test.c), in float32 and in bf16 where the device has it;
// inputs and weights are rounded to what the op reads first, so that the reference, in float32, has
// the exact answer. Budgets, as relative L2: float32 as in op_test.c, and as conv_sums_budget says
// of bf16; a bf16 result is within 2^-9 = 2.0e-3 of its value when rounded once; a doubling may
// have rounded sums of weights too; attention also rounds its weights to bf16, which their sum
// evens out. Who includes it: gpu_test.c, cuda_emulator/backend_test.c.
#ifndef CTOK_TEST_GPU_OPS_H
#define CTOK_TEST_GPU_OPS_H

#include "op_support.h"

static const double GPU_F32_BUDGET = 2e-6, GPU_NORM_BUDGET = 1e-6, GPU_BF16_BUDGET = 2.5e-3,
                    GPU_BF16_DOUBLING_BUDGET = 3.5e-3, GPU_BF16_ATTENTION_BUDGET = 4e-3;
static int64_t most_products = INT64_MAX;  // of a conv or attention; larger cases are left out (the
                                           // emulator is slow)

typedef struct {
    backend *gpu, *reference;
    int num_left_out;
} gpu_tests;

// ---------------------------------------------------------------- to the device and back
static inline void *put_bytes(backend *b, const void *host, size_t num_bytes) {
    void *memory = b->alloc(b, num_bytes);
    if (host) b->upload(b, memory, host, num_bytes);
    return memory;
}

// Rounds the values themselves to what `dtype` holds.
static inline void *put(backend *b, float *values, int64_t count, ctok_dtype dtype) {
    if (!values) return NULL;
    if (dtype == CTOK_F32) return put_bytes(b, values, (size_t)count * sizeof(float));
    uint16_t *halves = new_bytes((size_t)count * sizeof(uint16_t));
    for (int64_t i = 0; i < count; i++)
        halves[i] = bf16_round(values[i]), values[i] = bf16_value(halves[i]);
    void *memory = put_bytes(b, halves, (size_t)count * sizeof(uint16_t));
    free(halves);
    return memory;
}

// Whole words, by the op that stores a row of one channel.
static inline ctok_status get_words(backend *b, void *host, const void *memory, int64_t count) {
    transfer_params p = {EXTERNAL_F32_NCTHW, {1, 1, 1, count, 1}, 1, 1, count, 0, 0, 0};
    size_t num_bytes = b->kernels->external_workspace_bytes(b, (size_t)count * 4);
    void *workspace = b->alloc(b, num_bytes);
    ctok_status status = op_store(b, host, memory, workspace, &p);
    ctok_error error = {.struct_size = sizeof error};
    if (b->finish(b, &error) != CTOK_OK) status = error.status, printf("# %s\n", error.message);
    b->free(b, workspace, num_bytes);
    return status;
}

static inline float *get(backend *b, ctok_status *status, void *memory, int64_t count,
                         ctok_dtype dtype) {
    float *values = new_floats(count + 1);
    if (dtype == CTOK_F32) {
        ctok_status got = get_words(b, values, memory, count);
        if (*status == CTOK_OK) *status = got;
        return values;
    }
    int64_t words = (count + 1) / 2;  // an activation in bf16 has an even number of elements
    uint16_t *halves = new_bytes((size_t)words * 4);
    ctok_status got = get_words(b, halves, memory, words);
    if (*status == CTOK_OK) *status = got;
    for (int64_t i = 0; i < count; i++) values[i] = bf16_value(halves[i]);
    free(halves);
    return values;
}

static inline void drop(backend *b, void *memory) { b->free(b, memory, 0); }

// ---------------------------------------------------------------- convolutions
static inline void test_gpu_conv_params(gpu_tests *t, conv_params p, residual_kind kind,
                                        bool has_past, uint64_t seed, const char *name) {
    backend *b = t->gpu;
    int64_t taps = p.kernel * p.kernel * p.kernel_t, count = shape_elements(p.out),
            in_count = shape_elements(p.in), past_count = in_count / p.in.t * 2;
    if (count * p.in.c * taps > most_products) {
        t->num_left_out++;
        return;
    }
    random_seed(seed);
    int64_t residual_count = kind == UPSAMPLED ? in_count : count,
            weight_count = p.out.c * p.in.c * taps;
    float *in_values = new_random(in_count, 1, 0.1f), *bias_values = new_random(p.out.c, 1, 0),
          *weight = new_random(weight_count, 1, 0);
    float *past_values = has_past ? new_random(past_count, 1, 0.1f) : NULL,
          *residual_values = kind ? new_random(residual_count, 4, 0) : NULL;
    float *want = new_floats(count);
    void *in = put(b, in_values, in_count, p.in_dtype),
         *past = put(b, past_values, past_count, p.in_dtype);
    void *residual = put(b, residual_values, residual_count, p.out_dtype),
         *bias = put(b, bias_values, p.out.c, CTOK_F32);
    // A float32 input of a bf16 network may be given to its weights in bf16.
    bool is_half = p.in_dtype == CTOK_BF16 || p.out_dtype == CTOK_BF16;
    for (int64_t i = 0; i < weight_count && is_half; i++)
        weight[i] = bf16_value(bf16_round(weight[i]));
    size_t weight_bytes = b->kernels->conv_weight_bytes(b, &p);
    void *packed = b->alloc(b, weight_bytes),
         *workspace = b->alloc(b, b->kernels->conv_workspace_bytes(b, &p));
    b->kernels->conv_weight_pack(b, packed, weight, &p);
    void *out = kind == PLAIN
                    ? residual
                    : b->alloc(b, (size_t)count * dtype_bytes(p.out_dtype));  // out == residual is
                                                                              // allowed

    ctok_status status =
        op_conv(b, out, in, past, residual, (conv_weights){packed, bias}, workspace, &p);
    float *got = get(b, &status, out, count, p.out_dtype);
    conv_params exact = p;
    exact.in_dtype = exact.out_dtype = CTOK_F32;
    run_conv_past(t->reference, want, in_values, past_values, residual_values, weight, bias_values,
                  &exact);
    bool is_doubling = p.upsample * p.upsample_t == 2;
    double budget = p.out_dtype == CTOK_F32                  ? conv_sums_budget(&p)
                    : is_doubling && p.in_dtype == CTOK_BF16 ? GPU_BF16_DOUBLING_BUDGET
                                                             : GPU_BF16_BUDGET;
    report_difference(compare(got, want, count, budget), status, p.out, b->kernels->name, name);
    if (out != residual) drop(b, out);
    drop(b, in), drop(b, past), drop(b, residual), drop(b, bias), drop(b, packed),
        drop(b, workspace);
    free(in_values), free(bias_values), free(weight), free(past_values), free(residual_values),
        free(want), free(got);
}

// float32 in and out; float32 to bf16, as at a network's start; bf16 in, to bf16 where the channels
// allow and else float32.
static inline void test_gpu_conv_dtypes(gpu_tests *t, conv_params p, residual_kind kind,
                                        bool has_past, uint64_t seed, const char *shape_name) {
    static const ctok_dtype dtypes[][2] = {
        {CTOK_F32, CTOK_F32}, {CTOK_F32, CTOK_BF16}, {CTOK_BF16, CTOK_BF16}, {CTOK_BF16, CTOK_F32}};
    for (int i = 0; i < 4; i++) {
        p.in_dtype = dtypes[i][0], p.out_dtype = dtypes[i][1];
        bool has_bf16 = p.in_dtype == CTOK_BF16 || p.out_dtype == CTOK_BF16;
        if (has_bf16 && !t->gpu->kernels->has_bf16) continue;
        if (p.in_dtype == CTOK_BF16 && p.in.c % BF16_CHANNELS) continue;
        if (p.out_dtype == CTOK_BF16 && p.out.c % BF16_CHANNELS) continue;
        if (i == 1 && seed % 2) continue;
        if (i == 3 && p.out.c % BF16_CHANNELS == 0) continue;
        char name[192];
        snprintf(name, sizeof name, "%s %s to %s", shape_name,
                 p.in_dtype == CTOK_BF16 ? "bf16" : "f32",
                 p.out_dtype == CTOK_BF16 ? "bf16" : "f32");
        test_gpu_conv_params(t, p, kind, has_past, seed, name);
    }
}

static inline void test_gpu_conv(gpu_tests *t) {
    const struct {
        const conv_shape *shapes;
        int count;
    } lists[] = {{conv_shapes, NUM_SHAPES(conv_shapes)},
                 {winograd_shapes, NUM_SHAPES(winograd_shapes)}};
    for (int list = 0; list < 2; list++)
        for (int s = 0; s < lists[list].count; s++) {
            conv_shape shape = lists[list].shapes[s];
            test_gpu_conv_dtypes(t, conv_params_of(shape), shape.residual, false, (uint64_t)s + 10,
                                 conv_name(shape).text);
        }
    for (int s = 0; s < NUM_SHAPES(conv_time_shapes); s++) {
        conv_time_shape shape = conv_time_shapes[s];
        test_gpu_conv_dtypes(t, conv_time_params_of(shape), shape.residual, shape.has_past,
                             (uint64_t)s + 50, conv_time_name(shape).text);
    }
}

// ---------------------------------------------------------------- norm, attention
static inline void test_gpu_norm(gpu_tests *t) {
    backend *b = t->gpu;
    for (int s = 0; s < 2 * NUM_SHAPES(norm_shapes); s++) {
        norm_shape shape = norm_shapes[s / 2];
        norm_params p = norm_params_of(shape), exact = p;
        if (s % 2 && (!b->kernels->has_bf16 || shape.c % BF16_CHANNELS)) continue;
        p.dtype = s % 2 ? CTOK_BF16 : CTOK_F32;
        int64_t count = shape_elements(p.shape);
        random_seed((uint64_t)s / 2 + 100);
        float *values = new_random(count, 1.7320508f, shape.mean),
              *scale_values = new_random(shape.c, 1, 1), *offset_values = new_random(shape.c, 1, 0);
        float *want = new_floats(count);
        size_t num_bytes = (size_t)count * dtype_bytes(p.dtype);
        void *in = put(b, values, count, p.dtype), *out = b->alloc(b, num_bytes);
        void *scale = put(b, scale_values, shape.c, CTOK_F32),
             *offset = put(b, offset_values, shape.c, CTOK_F32);
        ctok_status status = op_norm(b, out, in, scale, offset, &p);
        float *got = get(b, &status, out, count, p.dtype);
        if (status == CTOK_OK) status = op_norm(b, in, in, scale, offset, &p);
        float *in_place = get(b, &status, in, count, p.dtype);
        op_norm(t->reference, want, values, scale_values, offset_values, &exact);
        char name[128];
        snprintf(name, sizeof name, "norm %dx%dx%dx%d groups %d mean %g%s %s", shape.n, shape.h,
                 shape.w, shape.c, shape.groups, (double)shape.mean, shape.has_silu ? " +silu" : "",
                 s % 2 ? "bf16" : "f32");
        report_difference(compare(got, want, count, s % 2 ? GPU_BF16_BUDGET : GPU_NORM_BUDGET),
                          status, p.shape, b->kernels->name, name);
        report(is_same(got, in_place, count), "%s %s: in place the same bits", b->kernels->name,
               name);
        drop(b, in), drop(b, out), drop(b, scale), drop(b, offset);
        free(values), free(scale_values), free(offset_values), free(want), free(got),
            free(in_place);
    }
}

static inline void test_gpu_attention_params(gpu_tests *t, attention_params p, float spread,
                                             uint64_t seed, const char *name) {
    backend *b = t->gpu;
    int64_t count = shape_elements(p.shape),
            key_count = p.is_temporal ? count / p.shape.t * (p.shape.t + p.num_past) : count;
    int64_t keys = p.is_temporal ? p.num_past + p.shape.t : p.shape.h * p.shape.w;
    if (count * keys > most_products) {
        t->num_left_out++;
        return;
    }
    random_seed(seed);
    float *q_values = new_random(count, spread, 0),
          *k_values = new_random(key_count, 1.7320508f, 0), *v_values = new_random(key_count, 1, 0);
    float *want = new_floats(count);
    void *q = put(b, q_values, count, p.dtype), *k = put(b, k_values, key_count, p.dtype),
         *v = put(b, v_values, key_count, p.dtype);
    void *out = b->alloc(b, (size_t)count * dtype_bytes(p.dtype)),
         *workspace = b->alloc(b, b->kernels->attention_workspace_bytes(b, &p));
    ctok_status status = op_attention(b, out, q, k, v, workspace, &p);
    float *got = get(b, &status, out, count, p.dtype);
    attention_params exact = p;
    exact.dtype = CTOK_F32;
    run_attention(t->reference, want, q_values, k_values, v_values, &exact);
    report_difference(compare(got, want, count,
                              p.dtype == CTOK_BF16 ? GPU_BF16_ATTENTION_BUDGET : GPU_F32_BUDGET),
                      status, p.shape, b->kernels->name, name);
    drop(b, q), drop(b, k), drop(b, v), drop(b, out), drop(b, workspace);
    free(q_values), free(k_values), free(v_values), free(want), free(got);
}

static inline void test_gpu_attention(gpu_tests *t) {
    char name[128];
    for (int is_half = 0; is_half < 2; is_half++) {
        ctok_dtype dtype = is_half ? CTOK_BF16 : CTOK_F32;
        if (is_half && !t->gpu->kernels->has_bf16) break;
        for (int s = 0; s < NUM_SHAPES(attention_shapes); s++) {
            attention_shape shape = attention_shapes[s];
            if (is_half && shape.c % BF16_CHANNELS) continue;
            snprintf(name, sizeof name, "attention %dx%dx%dx%d spread %g %s", shape.n, shape.h,
                     shape.w, shape.c, (double)shape.spread, is_half ? "bf16" : "f32");
            test_gpu_attention_params(
                t,
                (attention_params){.shape = {shape.n, 1, shape.h, shape.w, shape.c},
                                   .dtype = dtype},
                shape.spread, (uint64_t)s + 200, name);
        }
        for (int s = 0; s < NUM_SHAPES(attention_time_shapes); s++) {
            attention_time_shape shape = attention_time_shapes[s];
            if (is_half && shape.c % BF16_CHANNELS) continue;
            snprintf(name, sizeof name, "attention over time %dx%dx%dx%dx%d past %d window %d %s",
                     shape.n, shape.t, shape.h, shape.w, shape.c, shape.num_past, shape.window,
                     is_half ? "bf16" : "f32");
            test_gpu_attention_params(
                t,
                (attention_params){{shape.n, shape.t, shape.h, shape.w, shape.c},
                                   true,
                                   shape.num_past,
                                   shape.window,
                                   dtype},
                shape.spread, (uint64_t)s + 250, name);
        }
    }
}

// ---------------------------------------------------------------- the ops that move or halve
// values: the reference's very bits
static inline void test_gpu_haar(gpu_tests *t) {
    backend *b = t->gpu;
    for (int s = 0; s < NUM_SHAPES(haar_shapes); s++) {
        haar_shape shape = haar_shapes[s];
        int64_t blocks = (shape.t + (shape.is_first ? shape.patch_t - 1 : 0)) / shape.patch_t;
        haar_params p = {.in = {shape.n, shape.t, shape.h, shape.w, shape.c},
                         .patch = shape.patch,
                         .patch_t = shape.patch_t,
                         .is_first = shape.is_first};
        p.out = (ctok_shape){shape.n, blocks, shape.h / shape.patch, shape.w / shape.patch,
                             (int64_t)shape.c * shape.patch * shape.patch * shape.patch_t};
        haar_params inverse = p;
        inverse.in = p.out, inverse.out = p.in;
        int64_t pixels = shape_elements(p.in), bands = shape_elements(p.out);
        random_seed((uint64_t)s + 300);
        float *values = new_random(pixels, 1, 0), *want = new_floats(bands),
              *want_back = new_floats(pixels);
        void *in = put(b, values, pixels, CTOK_F32), *out = b->alloc(b, (size_t)bands * 4),
             *back = b->alloc(b, (size_t)pixels * 4);
        ctok_status status = op_haar(b, out, in, &p);
        if (status == CTOK_OK) status = op_unhaar(b, back, out, &inverse);
        float *got = get(b, &status, out, bands, CTOK_F32),
              *got_back = get(b, &status, back, pixels, CTOK_F32);
        op_haar(t->reference, want, values, &p);
        op_unhaar(t->reference, want_back, want, &inverse);
        report(
            status == CTOK_OK && is_same(got, want, bands) && is_same(got_back, want_back, pixels),
            "%s haar and unhaar %dx%dx%dx%dx%d patch %dx%d%s", b->kernels->name, shape.n, shape.t,
            shape.h, shape.w, shape.c, shape.patch_t, shape.patch, shape.is_first ? " first" : "");
        drop(b, in), drop(b, out), drop(b, back);
        free(values), free(want), free(want_back), free(got), free(got_back);
    }
}

static inline void test_gpu_pool(gpu_tests *t) {
    backend *b = t->gpu;
    for (int s = 0; s < 2 * NUM_SHAPES(pool_shapes); s++) {
        pool_shape shape = pool_shapes[s / 2];
        ctok_dtype dtype = s % 2 ? CTOK_BF16 : CTOK_F32;
        if (s % 2 && !b->kernels->has_bf16) continue;
        if (s % 2) shape.c = 32;  // as a bf16 activation has
        pool_params p = pool_params_of(shape, CTOK_F32), typed = pool_params_of(shape, dtype);
        int64_t in_count = shape_elements(p.in), count = shape_elements(p.out);
        random_seed((uint64_t)s + 400);
        float *values = new_random(in_count, 1, 0), *want = new_floats(count);
        void *in = put(b, values, in_count, dtype), *out = b->alloc(b, (size_t)count * 4);
        ctok_status status = op_pool(b, out, in, &typed);
        float *got = get(b, &status, out, count, dtype);
        op_pool(t->reference, want, values, &p);
        report_difference(compare(got, want, count, s % 2 ? GPU_BF16_BUDGET : 0), status, p.out,
                          b->kernels->name,
                          s % 2 ? shape.is_temporal ? "pool in time bf16" : "pool bf16"
                          : shape.is_temporal ? "pool in time f32"
                                              : "pool f32");
        drop(b, in), drop(b, out);
        free(values), free(want), free(got);
    }
}

static inline void test_gpu_transfer(gpu_tests *t) {
    backend *b = t->gpu, *r = t->reference;
    for (int s = 0; s < 2 * NUM_SHAPES(transfer_shapes); s++) {
        transfer_shape shape = transfer_shapes[s / 2];
        bool is_float = s % 2;
        if (!is_float && shape.c != 3) continue;
        transfer_params p = transfer_params_of(shape, is_float);
        int64_t inside_count = shape_elements(p.shape),
                count = (int64_t)shape.n * shape.c * shape.frames * shape.height * shape.width;
        size_t num_bytes = (size_t)count * (is_float ? 4 : 1);
        random_seed((uint64_t)s + 500);
        float *external = new_random(count, 1, 0), *want = new_floats(inside_count),
              *values = new_random(inside_count, 1.2f, 0);
        for (int64_t i = 0; i < count && !is_float; i++)
            ((uint8_t *)external)[i] = (uint8_t)(i * 37 % 256);
        const float special[] = {NAN, INFINITY, -INFINITY, 2.0f, -1.5f, 1.0f, -1.0f, 0.0f};
        for (int64_t i = 0; i < inside_count && i < 8; i++)
            values[inside_count - 1 - i] = special[i];
        uint8_t *stored = new_bytes(num_bytes), *want_stored = new_bytes(num_bytes);
        void *inside = b->alloc(b, (size_t)inside_count * 4),
             *from = put(b, values, inside_count, CTOK_F32);
        void *workspace = b->alloc(b, b->kernels->external_workspace_bytes(b, num_bytes));
        ctok_status status = op_load(b, inside, external, workspace, &p);
        float *got = get(b, &status, inside, inside_count, CTOK_F32);
        if (status == CTOK_OK) status = op_store(b, stored, from, workspace, &p);
        if (status == CTOK_OK) status = b->finish(b, NULL);
        op_load(r, want, external, NULL, &p), op_store(r, want_stored, values, NULL, &p);
        report(status == CTOK_OK && is_same(got, want, inside_count) &&
                   memcmp(stored, want_stored, num_bytes) == 0,
               "%s load and store %s %dx%dx%dx%dx%d in %dx%dx%d", b->kernels->name,
               is_float ? "f32" : "u8", shape.n, shape.frames, shape.height, shape.width, shape.c,
               shape.t, shape.h, shape.w);
        drop(b, inside), drop(b, from), drop(b, workspace);
        free(external), free(want), free(values), free(stored), free(want_stored), free(got);
    }
}

// Takes z_values and codebook (NULL where the kind has none).
static inline void test_gpu_quantizer(gpu_tests *t, quantizer_params p, float *z_values,
                                      float *codebook, const char *kind) {
    backend *b = t->gpu, *r = t->reference;
    int64_t d = p.shape.c, positions = shape_positions(p.shape), count = positions * d;
    float *want = new_floats(count), *want_codes = new_floats(count);
    size_t index_bytes = (size_t)positions * sizeof(int32_t);
    int32_t *indices = new_bytes(index_bytes), *want_indices = new_bytes(index_bytes);
    void *z = put(b, z_values, count, CTOK_F32), *rows = put(b, codebook, p.size * d, CTOK_F32);
    void *codes = b->alloc(b, (size_t)count * 4), *again = b->alloc(b, (size_t)count * 4);
    void *workspace = b->alloc(b, b->kernels->external_workspace_bytes(b, index_bytes));
    ctok_status status = op_quantize(b, indices, codes, z, rows, workspace, &p);
    if (status == CTOK_OK) status = b->finish(b, NULL);
    float *got = get(b, &status, codes, count, CTOK_F32);
    op_quantize(r, want_indices, want, z_values, codebook, NULL, &p);
    if (status == CTOK_OK) status = op_quantize(b, NULL, again, z, rows, workspace, &p);
    float *got_alone = get(b, &status, again, count, CTOK_F32);
    if (status == CTOK_OK) status = op_dequantize(b, again, want_indices, rows, workspace, &p);
    float *got_codes = get(b, &status, again, count, CTOK_F32);
    op_dequantize(r, want_codes, want_indices, codebook, NULL, &p);
    int64_t wrong = count_different(got, want, count) + count_different(got_alone, want, count);
    wrong += count_different(got_codes, want_codes, count);
    report(status == CTOK_OK && wrong == 0 && memcmp(indices, want_indices, index_bytes) == 0,
           "%s quantize and dequantize, %s of %d codes of %d channels: %lld wrong",
           b->kernels->name, kind, p.size, (int)d, (long long)wrong);
    drop(b, z), drop(b, codes), drop(b, again), drop(b, workspace);
    if (rows) drop(b, rows);
    free(z_values), free(codebook), free(want), free(want_codes), free(indices), free(want_indices);
    free(got), free(got_alone), free(got_codes);
}

static inline void test_gpu_quantizers(gpu_tests *t) {
    for (int s = 0; s < NUM_SHAPES(fsq_shapes); s++) {
        quantizer_params p = fsq_params_of(fsq_shapes[s]);
        int64_t count = shape_elements(p.shape);
        random_seed((uint64_t)s + 600);
        float *z = new_random(count, 3, 0);
        if (count > 3) z[0] = NAN, z[1] = INFINITY, z[2] = -INFINITY;
        test_gpu_quantizer(t, p, z, NULL, "FSQ");
    }
    for (int s = 0; s < NUM_SHAPES(lookup_shapes); s++) {
        quantizer_params p = lookup_params_of(lookup_shapes[s]);
        random_seed((uint64_t)s + 700);
        float *codebook = new_codebook(&p);
        test_gpu_quantizer(t, p, new_lookup_vectors(&p, codebook), codebook, "lookup");
    }
    for (int s = 0; s < NUM_SHAPES(sign_shapes); s++) {
        quantizer_params p = sign_params_of(sign_shapes[s]);
        random_seed((uint64_t)s + 800);
        test_gpu_quantizer(t, p, new_random(shape_elements(p.shape), 1, 0), NULL, "sign");
    }
}

// ---------------------------------------------------------------- memory
// More than the buffers through which it passes, odd, and moved onto itself.
static inline void test_gpu_memory(gpu_tests *t) {
    backend *b = t->gpu;
    const int64_t words = (9 << 18) + 3;  // 9 MiB and a bit
    size_t num_bytes = (size_t)words * 4, shift = 1000003 * 4;
    uint32_t *host = new_bytes(num_bytes), *back = new_bytes(num_bytes);
    for (int64_t i = 0; i < words; i++) host[i] = (uint32_t)i * 2654435761u >> 1 & 0x3FFFFFFF;
    uint8_t *memory = put_bytes(b, host, num_bytes);
    memset(back, 0, num_bytes);
    ctok_status status = get_words(b, back, memory, words);
    report(status == CTOK_OK && memcmp(host, back, num_bytes) == 0, "%s upload of 9 MiB and back",
           b->kernels->name);

    memory = b->grow(b, memory, num_bytes, num_bytes + 4096);
    status = op_copy(b, memory, memory + shift, num_bytes - shift);
    if (status == CTOK_OK) status = get_words(b, back, memory, words - (int64_t)shift / 4);
    report(status == CTOK_OK && memcmp((uint8_t *)host + shift, back, num_bytes - shift) == 0,
           "%s grow, then copy onto itself", b->kernels->name);

    atomic_bool is_cancelled = true;
    b->cancel = &is_cancelled;
    pool_params p = {{1, 1, 2, 2, 1}, {1, 1, 1, 1, 1}, false, true, CTOK_F32};
    report(op_pool(b, memory, memory + 4096, &p) == CTOK_E_CANCELLED,
           "%s an op of a cancelled job does nothing", b->kernels->name);
    b->cancel = NULL;
    drop(b, memory);
    free(host), free(back);
}

// ---------------------------------------------------------------- the same ops again A short
// network: conv, norm in place, conv with residual, pool, q, k, v, attention, and a store. Its
// memory stays where it is.
enum { REPLAYED_STEPS = 8, REPLAYED_CHANNELS = 32 };
typedef struct {
    backend *gpu;
    ctok_dtype dtype;
    conv_params conv, linear;
    norm_params norm;
    pool_params pool;
    attention_params attention;
    int64_t in_bytes, out_words;
    void *in[2], *packed, *part[3], *vector, *a, *c, *half, *qkv[3], *out, *workspace;
    uint16_t *contents[2];
    step steps[REPLAYED_STEPS + 1];
    step_list list;
    step_run run;
    int bound;  // which place, number of steps and step left out the list was last written for
} replayed;

static inline replayed replayed_make(backend *b) {
    replayed r = {.gpu = b, .dtype = b->kernels->has_bf16 ? CTOK_BF16 : CTOK_F32};
    ctok_shape whole = {1, 1, 8, 16, REPLAYED_CHANNELS}, halved = {1, 1, 4, 8, REPLAYED_CHANNELS};
    r.conv = conv_of(whole, whole, 3, 1, 1, 1);
    r.conv.in_dtype = r.conv.out_dtype = r.dtype;
    r.linear = r.conv;
    r.linear.in = r.linear.out = halved, r.linear.kernel = 1, r.linear.pad_before = 0;
    r.norm = (norm_params){
        .shape = whole, .groups = 4, .epsilon = 1e-6f, .has_silu = true, .dtype = r.dtype};
    r.pool = (pool_params){.in = whole, .out = halved, .dtype = r.dtype};
    r.attention = (attention_params){.shape = halved, .dtype = r.dtype};
    r.in_bytes = shape_elements(whole) * (int64_t)dtype_bytes(r.dtype),
    r.out_words = shape_elements(halved) * (int64_t)dtype_bytes(r.dtype) / 4;
    random_seed(700);
    int64_t weights = REPLAYED_CHANNELS * REPLAYED_CHANNELS * 9;
    float *weight = new_random(weights, 0.1f, 0), *vector = new_random(REPLAYED_CHANNELS, 1, 0);
    r.packed = b->alloc(b, b->kernels->conv_weight_bytes(b, &r.conv));
    b->kernels->conv_weight_pack(b, r.packed, weight, &r.conv);
    for (int i = 0; i < 3; i++) {
        r.part[i] = b->alloc(b, b->kernels->conv_weight_bytes(b, &r.linear)),
        r.qkv[i] = b->alloc(b, (size_t)r.in_bytes);
        b->kernels->conv_weight_pack(b, r.part[i], weight + i * 1024, &r.linear);
    }
    r.vector = put(b, vector, REPLAYED_CHANNELS, CTOK_F32);
    for (int i = 0; i < 2; i++) {
        float *values = new_random(shape_elements(whole), 1, 0);
        r.contents[i] = new_bytes((size_t)r.in_bytes);
        for (int64_t k = 0; k < shape_elements(whole); k++) {
            if (r.dtype == CTOK_BF16) r.contents[i][k] = bf16_round(values[k]);
            else ((float *)r.contents[i])[k] = values[k];
        }
        r.in[i] = b->alloc(b, (size_t)r.in_bytes);
        free(values);
    }
    r.a = b->alloc(b, (size_t)r.in_bytes), r.c = b->alloc(b, (size_t)r.in_bytes),
    r.half = b->alloc(b, (size_t)r.in_bytes);
    r.out = b->alloc(b, (size_t)r.in_bytes), r.workspace = b->alloc(b, (size_t)r.in_bytes);
    free(weight), free(vector);
    return r;
}

// The first num_steps but for `left_out`, on memory number `place`: another list than before is
// another version.
static inline void replayed_bind(replayed *r, int place, int num_steps, int left_out) {
    const void *in = r->in[place];
    conv_weights w = {r->packed, r->vector};
    step all[REPLAYED_STEPS] = {
        conv_step(r->a, in, NULL, NULL, w, NULL, &r->conv),
        norm_step(r->a, r->a, r->vector, r->vector, &r->norm),
        conv_step(r->c, r->a, NULL, in, w, NULL, &r->conv),
        pool_step(r->half, r->c, &r->pool),
    };
    for (int i = 0; i < 3; i++)
        all[4 + i] = conv_step(r->qkv[i], r->half, NULL, NULL,
                               (conv_weights){r->part[i], r->vector}, NULL, &r->linear);
    all[7] = attention_step(r->out, r->qkv[0], r->qkv[1], r->qkv[2], NULL, &r->attention);
    r->list.steps = r->steps, r->list.num_steps = 0;
    for (int i = 0; i < num_steps; i++)
        if (i != left_out) r->steps[r->list.num_steps++] = all[i];
    transfer_params p = {
        EXTERNAL_F32_NCTHW, {1, 1, 1, r->out_words, 1}, 1, 1, r->out_words, 0, 0, 0};
    r->steps[r->list.num_steps++] = (step){.kind = OP_STORE,
                                           .layer = "",
                                           .params.transfer = p,
                                           .in = r->out,
                                           .workspace = r->workspace};
    int bound = (place * 100 + num_steps) * 100 + left_out + 1;
    if (r->bound != bound) r->bound = bound, r->list.version++;
}

// On content number `content`; the bits of the result, to be freed. left_out -1: none.
static inline uint32_t *replayed_run(replayed *r, int place, int content, int num_steps,
                                     int left_out, ctok_status *status, ctok_error *error) {
    backend *b = r->gpu;
    uint32_t *words = new_bytes((size_t)r->out_words * 4);
    memset(words, 0, (size_t)r->out_words * 4);
    b->upload(b, r->in[place], r->contents[content], (size_t)r->in_bytes);
    replayed_bind(r, place, num_steps, left_out);
    r->steps[r->list.num_steps - 1].external = words;
    *status = b->run(b, &r->list, &r->run, error);
    return words;
}

static inline void replayed_free(replayed *r) {
    void *all[] = {r->in[0],   r->in[1],   r->packed, r->vector,    r->a,
                   r->c,       r->half,    r->out,    r->workspace, r->part[0],
                   r->part[1], r->part[2], r->qkv[0], r->qkv[1],    r->qkv[2]};
    r->gpu->forget(r->gpu, &r->list);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) drop(r->gpu, all[i]);
    free(r->contents[0]), free(r->contents[1]);
}

// Runs that a device may start all at once have the bits of the first, which it did not know.
static inline void test_gpu_replay(gpu_tests *t) {
    replayed r = replayed_make(t->gpu);
    static const struct {
        int place, content, num_steps, left_out;
        const char *name;
    } runs[] = {{0, 0, REPLAYED_STEPS, -1, "the first run"},
                {0, 1, REPLAYED_STEPS, -1, "other content"},
                {0, 0, REPLAYED_STEPS, -1, "again"},
                {0, 1, REPLAYED_STEPS, -1, "again, other content"},
                {1, 1, REPLAYED_STEPS, -1, "other memory"},
                {1, 0, REPLAYED_STEPS, -1, "other memory again"},
                {0, 1, REPLAYED_STEPS - 1, -1, "one step less"},
                {0, 0, REPLAYED_STEPS, -1, "and whole once more"},
                {0, 0, REPLAYED_STEPS, 5, "without k, which is there from the run before"}};
    uint32_t *wanted[2] = {NULL, NULL};
    for (int i = 0; i < NUM_SHAPES(runs); i++) {
        ctok_status status;
        uint32_t *got = replayed_run(&r, runs[i].place, runs[i].content, runs[i].num_steps,
                                     runs[i].left_out, &status, NULL),
                 **want = &wanted[runs[i].content];
        bool is_whole = runs[i].num_steps == REPLAYED_STEPS;
        report(status == CTOK_OK && (!is_whole || !*want || is_same(got, *want, r.out_words)),
               "%s replay: %s: the same bits", t->gpu->kernels->name, runs[i].name);
        if (!*want) *want = got;
        else free(got);
    }
    report(!is_same(wanted[0], wanted[1], r.out_words),
           "%s replay: other content gives another result", t->gpu->kernels->name);
    free(wanted[0]), free(wanted[1]);
    replayed_free(&r);
}

static inline void test_gpu_ops(gpu_tests *t) {
    test_gpu_memory(t), test_gpu_replay(t);
    test_gpu_transfer(t), test_gpu_haar(t), test_gpu_pool(t), test_gpu_quantizers(t);
    test_gpu_norm(t), test_gpu_attention(t), test_gpu_conv(t);
}

#endif
