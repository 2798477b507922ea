// Times every op of every kernel set on the large shapes of tests/native/op_shapes.h, in float32
// and bfloat16, beside the scalar reference, to whose result each is held. One JSON object a line:
//     {"op", "shape", "kernels", "dtype", "median_ms", "min_ms", "runs", "gflops", "roof_percent",
//      "over_scalar", "error"}
//     build/bench/ops [threads] [runs]
//     build/bench/ops roof: {"f32", "bf16"} in GFLOP/s, two threads, the best set
//     build/aarch64/bench/ops count: instructions instead of times, on small shapes, under QEMU
//     with arm64/insns_plugin.c, which writes the numbers:
//     {"op", "shape", "kernels", "dtype", "instructions"}
// gflops counts the products of the direct form: Winograd may pass 100 % of the roof, which is
// measured here first: chains of multiply-adds in registers, in the set's own vectors.
#include <time.h>

#include "../tests/native/op_support.h"
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif
#include "../csrc/backends/cpu/pool.h"

enum { MAX_RUNS = 100 };
static int num_threads = 2, num_runs = 9;
static bool is_counting;
static backend *reference;

static double now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static int by_value(const void *a, const void *b) {
    return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b);
}

// ---------------------------------------------------------------- the roof Chains: as many as the
// multiply-adds that a core has under way, 8 to 10 on x86-64, 16 on arm64's widest.
#if defined(__aarch64__)
enum { CHAINS = 24, CHAIN_STEPS = 4000000 };
#define VECTOR_REGISTER "+w"
#else
enum { CHAINS = 12, CHAIN_STEPS = 4000000 };
#define VECTOR_REGISTER "+v"
#endif
typedef float vec4_of_roof __attribute__((vector_size(16)));
typedef float vec8 __attribute__((vector_size(32)));
typedef float vec16 __attribute__((vector_size(64)));
static volatile float sink;

#define ROOF_TASK(name, isa, vec, step)                                                          \
    __attribute__((target(isa))) static void name(void *context, int64_t task, int32_t thread) { \
        (void)context, (void)task, (void)thread;                                                 \
        vec sum[CHAINS], a = (vec){0} + 1e-9f, b = (vec){0} + 1.0f;                              \
        for (int i = 0; i < CHAINS; i++) sum[i] = (vec){0} + (float)i;                           \
        for (int64_t k = 0; k < CHAIN_STEPS; k++) {                                              \
            _Pragma("GCC unroll 24") for (int i = 0; i < CHAINS; i++) step;                      \
            __asm__ volatile("" : VECTOR_REGISTER(a));                                           \
        }                                                                                        \
        float total = 0;                                                                         \
        for (int i = 0; i < CHAINS; i++) total += sum[i][0];                                     \
        sink = total;                                                                            \
    }
#if defined(__x86_64__)
ROOF_TASK(roof_avx2, "avx2,fma", vec8,
          sum[i] = (vec8)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)sum[i]))
ROOF_TASK(roof_avx512, "avx512f", vec16,
          sum[i] = (vec16)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)sum[i]))
ROOF_TASK(roof_bf16, "avx512f,avx512bf16", vec16,
          sum[i] = (vec16)_mm512_dpbf16_ps((__m512)sum[i], (__m512bh)a, (__m512bh)b))
#elif defined(__aarch64__)
ROOF_TASK(roof_neon, "arch=armv8-a", vec4_of_roof,
          sum[i] = (vec4_of_roof)vfmaq_f32((float32x4_t)sum[i], (float32x4_t)a, (float32x4_t)b))
ROOF_TASK(roof_neon_bf16, "arch=armv8.2-a+bf16", vec4_of_roof,
          sum[i] = (vec4_of_roof)vbfmmlaq_f32((float32x4_t)sum[i], (bfloat16x8_t)a,
                                              (bfloat16x8_t)b))
#endif

static double roof_gflops(pool_task task, double flops_a_step) {
    pool *p = NULL;
    if (pool_open(&p, num_threads, NULL) != CTOK_OK) exit(1);
    double best = INFINITY;
    for (int run = 0; run < 5; run++) {
        double start = now_ms();
        pool_run(p, num_threads, task, NULL, NULL);
        best = fmin(best, now_ms() - start);
    }
    pool_close(p);
    return (double)num_threads * CHAIN_STEPS * CHAINS * flops_a_step / best * 1e-6;
}

static double roof_of(const char *kernels, bool is_bf16) {
#if defined(__x86_64__)
    static double avx2, avx512, bf16;
    if (strcmp(kernels, "avx2") == 0) return avx2 ? avx2 : (avx2 = roof_gflops(roof_avx2, 16));
    if (strncmp(kernels, "avx512", 6) == 0 && !is_bf16)
        return avx512 ? avx512 : (avx512 = roof_gflops(roof_avx512, 32));
    if (strncmp(kernels, "avx512", 6) == 0)
        return bf16 ? bf16 : (bf16 = roof_gflops(roof_bf16, 64));
#elif defined(__aarch64__)
    static double neon, neon_bf16;
    if (strncmp(kernels, "neon", 4) == 0 && !is_bf16)
        return neon ? neon : (neon = roof_gflops(roof_neon, 8));
    if (strncmp(kernels, "neon", 4) == 0)
        return neon_bf16 ? neon_bf16 : (neon_bf16 = roof_gflops(roof_neon_bf16, 32));
#endif
    return (void)kernels, (void)is_bf16, 0;
}

// ---------------------------------------------------------------- one op on one shape
typedef struct bench_case bench_case;
struct bench_case {
    char op[32], shape[96];
    double flops;                                        // 0: of those that only move memory
    int64_t num_inputs, num_second, num_third, num_out;  // elements
    ctok_dtype dtype;
    ctok_status (*run)(backend *b, bench_case *c);
    conv_params conv;
    norm_params norm;
    attention_params attention;
    quantizer_params lookup;
    // Filled in by measure().
    void *in, *second, *third, *out, *packed, *workspace;
    float *weight, *bias;
};

static ctok_status run_conv_case(backend *b, bench_case *c) {
    return op_conv(b, c->out, c->in, NULL, c->second, (conv_weights){c->packed, c->bias},
                   c->workspace, &c->conv);
}
static ctok_status run_norm_case(backend *b, bench_case *c) {
    return op_norm(b, c->out, c->in, c->bias, c->bias, &c->norm);
}
static ctok_status run_attention_case(backend *b, bench_case *c) {
    return op_attention(b, c->out, c->in, c->second, c->third, c->workspace, &c->attention);
}

// The codebook is in `second`.
static ctok_status run_lookup_case(backend *b, bench_case *c) {
    return op_quantize(b, NULL, c->out, c->in, c->second, NULL, &c->lookup);
}

static void *new_values(int64_t count, ctok_dtype dtype, float scale, float mean) {
    if (!count) return NULL;
    float *values = new_random(count, scale, mean);
    if (dtype == CTOK_F32) return values;
    uint16_t *rounded = new_bytes((size_t)count * 2);
    for (int64_t i = 0; i < count; i++) rounded[i] = bf16_round(values[i]);
    free(values);
    return rounded;
}

static void prepare(backend *b, bench_case *c) {
    c->conv.in_dtype = c->conv.out_dtype = c->norm.dtype = c->attention.dtype = c->dtype;
    if (c->run == run_conv_case) {
        c->packed = new_bytes(b->kernels->conv_weight_bytes(b, &c->conv));
        c->workspace = new_bytes(b->kernels->conv_workspace_bytes(b, &c->conv));
        b->kernels->conv_weight_pack(b, c->packed, c->weight, &c->conv);
    } else if (c->run == run_attention_case) {
        c->workspace = new_bytes(b->kernels->attention_workspace_bytes(b, &c->attention));
    }
}

static double relative_error(const void *got, const void *want, int64_t count, ctok_dtype dtype) {
    double error = 0, norm = 0;
    for (int64_t i = 0; i < count; i++) {
        bool is_half = dtype == CTOK_BF16;
        double a = is_half ? bf16_value(((const uint16_t *)got)[i]) : ((const float *)got)[i];
        double e = is_half ? bf16_value(((const uint16_t *)want)[i]) : ((const float *)want)[i];
        error += (a - e) * (a - e), norm += e * e;
    }
    return sqrt(error / norm);
}

// Between two hints, which the plugin counts by; both are nothing to a processor.
static bool run_counted(backend *b, bench_case *c) {
    printf("{\"op\":\"%s\",\"shape\":\"%s\",\"kernels\":\"%s\",\"dtype\":\"%s\",\"instructions\":",
           c->op, c->shape, b->kernels->name, c->dtype == CTOK_BF16 ? "bf16" : "f32");
    fflush(stdout);
#if defined(__aarch64__)
    __asm__ volatile("hint #100" ::: "memory");
#endif
    bool is_ok = c->run(b, c) == CTOK_OK;
#if defined(__aarch64__)
    __asm__ volatile("hint #101" ::: "memory");
#endif
    printf("}\n");
    return is_ok;
}

// The reference once, for its answer and time; then each of the sets.
static void measure(bench_case *c, backend **sets, int num_sets) {
    size_t element = dtype_bytes(c->dtype);
    random_seed(1);
    c->in = new_values(c->num_inputs, c->dtype, 1, 0.1f);
    c->second = new_values(c->num_second, c->dtype, 1, 0),
    c->third = new_values(c->num_third, c->dtype, 1, 0);
    c->out = new_bytes((size_t)c->num_out * element);
    int64_t taps = (int64_t)c->conv.kernel_t * c->conv.kernel * c->conv.kernel;
    c->weight = new_random(c->run == run_conv_case ? c->conv.out.c * c->conv.in.c * taps : 1, 1, 0),
    c->bias = new_random(4096, 1, 0);
    void *want = new_bytes((size_t)c->num_out * element);
    double scalar_ms = 0;
    for (int i = -1; i < num_sets; i++) {
        backend *b = i < 0 ? reference : sets[i];
        if (c->dtype == CTOK_BF16 && !b->kernels->has_bf16) continue;
        prepare(b, c);
        double times[MAX_RUNS];
        int runs = is_counting ? 0 : i < 0 ? 1 : num_runs;
        bool is_ok = is_counting ? run_counted(b, c) : i < 0 || c->run(b, c) == CTOK_OK;  // a
                                                                                          // warm-up
        for (int run = 0; run < runs; run++) {
            double start = now_ms();
            is_ok &= c->run(b, c) == CTOK_OK;
            times[run] = now_ms() - start;
        }
        qsort(times, (size_t)runs, sizeof *times, by_value);
        free(c->packed), free(c->workspace);
        c->packed = c->workspace = NULL;
        if (!is_ok) exit(1);
        if (is_counting) continue;
        if (i < 0) {
            scalar_ms = times[0];
            memcpy(want, c->out, (size_t)c->num_out * element);
            continue;
        }
        double median = times[runs / 2], gflops = c->flops / median * 1e-6,
               roof = roof_of(b->kernels->name, c->dtype == CTOK_BF16);
        printf(
            "{\"op\":\"%s\",\"shape\":\"%s\",\"kernels\":\"%s\",\"dtype\":\"%s\",\"threads\":%d,"
            "\"median_ms\":%.3f,\"min_ms\":%.3f,\"runs\":%d,"
            "\"gflops\":%.0f,\"roof_percent\":%.0f,\"over_scalar\":%.0f,\"error\":%.1e}\n",
            c->op, c->shape, b->kernels->name, c->dtype == CTOK_BF16 ? "bf16" : "f32", num_threads,
            median, times[0], runs, gflops, roof > 0 && c->flops > 0 ? 100 * gflops / roof : 0,
            scalar_ms / median, relative_error(c->out, want, c->num_out, c->dtype));
        fflush(stdout);
    }
    free(c->in), free(c->second), free(c->third), free(c->out), free(c->weight), free(c->bias),
        free(want);
}

static void measure_both(bench_case c, backend **sets, int num_sets) {
    for (int is_bf16 = 0; is_bf16 < 2; is_bf16++) {
        bool fits = c.run != run_conv_case ||
                    (c.conv.in.c % BF16_CHANNELS == 0 && c.conv.out.c % BF16_CHANNELS == 0);
        if (is_bf16 && !fits) continue;
        c.dtype = is_bf16 ? CTOK_BF16 : CTOK_F32;
        measure(&c, sets, num_sets);
    }
}

static bench_case conv_case(conv_params p, residual_kind kind, const char *op) {
    int64_t taps = (int64_t)p.kernel_t * p.kernel * p.kernel;
    bench_case c = {.flops = 2.0 * (double)taps * (double)p.in.c * (double)shape_elements(p.out),
                    .num_inputs = shape_elements(p.in),
                    .num_second = kind == NONE        ? 0
                                  : kind == UPSAMPLED ? shape_elements(p.in)
                                                      : shape_elements(p.out),
                    .num_out = shape_elements(p.out),
                    .run = run_conv_case,
                    .conv = p};
    snprintf(c.op, sizeof c.op, "%s", op);
    snprintf(c.shape, sizeof c.shape, "%lldx%lldx%lldx%lld -> %lld%s%s%s", (long long)p.in.t,
             (long long)p.in.h, (long long)p.in.w, (long long)p.in.c, (long long)p.out.c,
             p.stride * p.stride_t > 1 ? ", halving" : "",
             p.upsample * p.upsample_t > 1 ? ", doubling" : "", residual_names[kind]);
    return c;
}

static void measure_convs(const conv_shape *shapes, int num_shapes, backend **sets, int num_sets) {
    for (int i = 0; i < num_shapes; i++)
        measure_both(conv_case(conv_params_of(shapes[i]), shapes[i].residual,
                               shapes[i].kernel == 1 ? "conv 1x1" : "conv 3x3"),
                     sets, num_sets);
}

static void measure_convs_time(const conv_time_shape *shapes, int num_shapes, backend **sets,
                               int num_sets) {
    for (int i = 0; i < num_shapes; i++)
        measure_both(conv_case(conv_time_params_of(shapes[i]), shapes[i].residual, "conv in time"),
                     sets, num_sets);
}

static void measure_norms(const norm_shape *shapes, int num_shapes, backend **sets, int num_sets) {
    for (int i = 0; i < num_shapes; i++) {
        norm_params p = norm_params_of(shapes[i]);
        bench_case c = {.op = "norm + SiLU",
                        .num_inputs = shape_elements(p.shape),
                        .num_out = shape_elements(p.shape),
                        .run = run_norm_case,
                        .norm = p};
        snprintf(c.shape, sizeof c.shape, "%lldx%lldx%lld, %d groups", (long long)p.shape.h,
                 (long long)p.shape.w, (long long)p.shape.c, p.groups);
        measure_both(c, sets, num_sets);
    }
}

static void measure_attention(attention_params p, backend **sets, int num_sets) {
    int64_t count = shape_elements(p.shape),
            keys = p.is_temporal ? (p.shape.t + 1) / 2 : p.shape.h * p.shape.w;
    bench_case c = {.flops = 4.0 * (double)count * (double)keys,
                    .num_inputs = count,
                    .num_second = count,
                    .num_third = count,
                    .num_out = count,
                    .run = run_attention_case,
                    .attention = p};
    snprintf(c.op, sizeof c.op, "attention%s", p.is_temporal ? " over time" : "");
    snprintf(c.shape, sizeof c.shape, "%lldx%lldx%lldx%lld", (long long)p.shape.t,
             (long long)p.shape.h, (long long)p.shape.w, (long long)p.shape.c);
    measure_both(c, sets, num_sets);
}

static void measure_lookup(lookup_shape shape, backend **sets, int num_sets) {
    quantizer_params p = lookup_params_of(shape);
    int64_t count = shape_elements(p.shape);
    bench_case c = {.op = "lookup",
                    .flops = 3.0 * (double)count * p.size,
                    .num_inputs = count,
                    .num_second = p.size * p.shape.c,
                    .num_out = count,
                    .dtype = CTOK_F32,
                    .run = run_lookup_case,
                    .lookup = p};
    snprintf(c.shape, sizeof c.shape, "%lldx%lldx%lld in %d codes", (long long)p.shape.h,
             (long long)p.shape.w, (long long)p.shape.c, p.size);
    measure(&c, sets, num_sets);
}

static void time_all(backend **sets, int num_sets) {
    measure_convs(large_conv_shapes, NUM_SHAPES(large_conv_shapes), sets, num_sets);
    measure_convs_time(large_conv_time_shapes, NUM_SHAPES(large_conv_time_shapes), sets, num_sets);
    measure_norms(large_norm_shapes, NUM_SHAPES(large_norm_shapes), sets, num_sets);
    for (int i = 0; i < NUM_SHAPES(large_attention_shapes); i++) {
        attention_shape s = large_attention_shapes[i];
        measure_attention((attention_params){.shape = {1, 1, s.h, s.w, s.c}}, sets, num_sets);
    }
    for (int i = 0; i < NUM_SHAPES(large_attention_time_shapes); i++) {
        attention_time_shape s = large_attention_time_shapes[i];
        measure_attention((attention_params){.shape = {1, s.t, s.h, s.w, s.c}, .is_temporal = true},
                          sets, num_sets);
    }
    for (int i = 0; i < NUM_SHAPES(large_lookup_shapes); i++)
        measure_lookup(large_lookup_shapes[i], sets, num_sets);
}

// One shape an op, small enough for the scalar reference under an emulator.
static void count_all(backend **sets, int num_sets) {
    static const conv_shape convs[] = {{1, 32, 32, 64, 64, 3, 1, 1, 1, PLAIN},  // by Winograd
                                       {1, 32, 32, 64, 64, 3, 2, 0, 1, NONE},
                                       {1, 32, 32, 64, 64, 1, 1, 0, 1, NONE}};
    static const conv_time_shape convs_time[] = {{1, 3, 16, 16, 64, 64, 1, 1, true, false, PLAIN}};
    static const norm_shape norms[] = {{1, 32, 32, 64, 32, true, 0.5f}};
    measure_convs(convs, NUM_SHAPES(convs), sets, num_sets);
    measure_convs_time(convs_time, NUM_SHAPES(convs_time), sets, num_sets);
    measure_norms(norms, NUM_SHAPES(norms), sets, num_sets);
    measure_attention((attention_params){.shape = {1, 1, 16, 16, 64}}, sets, num_sets);
    measure_attention((attention_params){.shape = {1, 5, 16, 16, 64}, .is_temporal = true}, sets,
                      num_sets);
    measure_lookup((lookup_shape){1, 8, 8, 8, 1024}, sets, num_sets);
}

// Sets with bfloat16 have in float32 the code of the set before them, whose name theirs begins
// with.
static int open_sets(backend **sets) {
    int num_sets = 0;
    for (uint32_t kernels = CTOK_KERNELS_GENERIC;; kernels++) {
        backend *b = NULL;
        ctok_status status = cpu_backend_open(&b, (uint32_t)num_threads, kernels, NULL);
        if (status == CTOK_E_ARGUMENT) return num_sets;  // past the last
        if (status != CTOK_OK) continue;
        const char *before = num_sets ? sets[num_sets - 1]->kernels->name : NULL;
        if (before && strncmp(b->kernels->name, before, strlen(before)) == 0)
            num_sets--, sets[num_sets]->close(sets[num_sets]);
        sets[num_sets++] = b;
    }
}

int main(int argc, char **argv) {
    bool is_roof = argc > 1 && strcmp(argv[1], "roof") == 0;
    is_counting = argc > 1 && strcmp(argv[1], "count") == 0;
    if (is_counting) num_threads = 1;
    else if (argc > 1 && !is_roof) num_threads = atoi(argv[1]);
    if (argc > 2) num_runs = atoi(argv[2]);
    if (num_threads < 1 || num_threads > 256 || num_runs < 1 || num_runs > MAX_RUNS) {
        fprintf(stderr, "usage: ops [threads 1..256] [runs 1..%d], ops roof, ops count\n",
                MAX_RUNS);
        return 2;
    }
    backend *sets[8];
    if (cpu_backend_open(&reference, (uint32_t)num_threads, CTOK_KERNELS_REFERENCE, NULL) !=
        CTOK_OK)
        return 1;
    int num_sets = open_sets(sets);
    const char *best = sets[num_sets - 1]->kernels->name;
    if (is_roof)
        printf("{\"f32\": %.1f, \"bf16\": %.1f}\n", roof_of(best, false),
               sets[num_sets - 1]->kernels->has_bf16 ? roof_of(best, true) : 0);
    else if (is_counting) count_all(sets, num_sets);
    else time_all(sets, num_sets);
    for (int i = 0; i < num_sets; i++) sets[i]->close(sets[i]);
    reference->close(reference);
    return 0;
}
