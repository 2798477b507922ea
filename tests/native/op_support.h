// What the tests of ops share: random data, comparison, and running an op of any backend with its
// own packing and workspace on the shapes of op_shapes.h. Included once by each test program.
#ifndef CTOK_TEST_OP_SUPPORT_H
#define CTOK_TEST_OP_SUPPORT_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../csrc/network/quantizer.h"
#include "one_step.h"
#include "op_shapes.h"
#include "tap.h"

#pragma GCC diagnostic ignored "-Wunused-function"  // a program may do without some of these

// ---------------------------------------------------------------- data
static uint64_t random_state;

static void random_seed(uint64_t seed) { random_state = seed * 2 + 1; }

static float random_value(void) {  // -1 .. 1, mean 0
    random_state ^= random_state << 13, random_state ^= random_state >> 7,
        random_state ^= random_state << 17;
    return (float)((int64_t)(random_state >> 40) - (1 << 23)) / (float)(1 << 23);
}

// From the heap and exactly as long as asked for, so that a sanitizer sees a step beyond.
// Not inlined: gcc 12 then takes the pointer for one to a local variable (-Wdangling-pointer).
__attribute__((noinline)) static void *new_bytes(size_t num_bytes) {
    void *memory = NULL;
    if (posix_memalign(&memory, BACKEND_ALIGNMENT, num_bytes ? num_bytes : 1)) abort();
    return memory;
}

static float *new_floats(int64_t count) { return new_bytes((size_t)count * sizeof(float)); }

static float *new_random(int64_t count, float scale, float mean) {
    float *values = new_floats(count);
    for (int64_t i = 0; i < count; i++) values[i] = random_value() * scale + mean;
    return values;
}

static float *new_copy(const float *from, int64_t count) {
    return memcpy(new_floats(count), from, (size_t)count * sizeof(float));
}

static bool is_same(const void *a, const void *b, int64_t count) {
    return memcmp(a, b, (size_t)count * sizeof(float)) == 0;
}

// ---------------------------------------------------------------- comparison
typedef struct {
    double relative, largest;  // relative L2 error; largest absolute error, at element `at`
    int64_t at;
    bool passed;
} difference;

static difference compare(const float *got, const float *want, int64_t count, double budget) {
    difference d = {0, 0, 0, true};
    double error = 0, norm = 0;
    for (int64_t i = 0; i < count; i++) {
        if (!isfinite(want[i])) {
            if (isnan(want[i]) ? isnan(got[i]) : got[i] == want[i]) continue;
            return (difference){INFINITY, INFINITY, i, false};
        }
        double gap = fabs((double)got[i] - want[i]);
        if (!(gap <= d.largest)) d.largest = gap, d.at = i;
        error += gap * gap, norm += (double)want[i] * want[i];
    }
    d.relative = norm > 0 ? sqrt(error / norm) : sqrt(error);
    d.passed = d.relative <= budget &&
               d.largest <= 10 * budget * (norm > 0 ? sqrt(norm / (double)count) : 1);
    return d;
}

// name of the op, then "rel .. max .. at (n,t,y,x,c)".
static void report_difference(difference d, ctok_status status, ctok_shape s, const char *kernels,
                              const char *name) {
    int64_t c = d.at % s.c, x = d.at / s.c % s.w, y = d.at / s.c / s.w % s.h,
            frame = d.at / s.c / s.w / s.h;
    report(status == CTOK_OK && d.passed,
           "%s %s: rel %.1e max %.1e at (%lld,%lld,%lld,%lld,%lld)%s", kernels, name, d.relative,
           d.largest, (long long)(frame / s.t), (long long)(frame % s.t), (long long)y,
           (long long)x, (long long)c, status == CTOK_OK ? "" : ", failed status");
}

// ---------------------------------------------------------------- NaN and infinity in a wide conv
// An image of 22 x 23 with a NaN at (11, 12) and an infinity at (12, 11).
enum { SPECIAL_H = 22, SPECIAL_W = 23, SPECIAL_C = 64 };
static void put_specials(float *image) {
    image[(11 * SPECIAL_W + 12) * SPECIAL_C + 7] = NAN,
                                              image[(12 * SPECIAL_W + 11) * SPECIAL_C + 40] =
                                                  INFINITY;
}

// Whether they reach all outputs that read them, in rows and columns 10 .. 13, and none outside
// `first` .. `last`.
static bool specials_stay(const float *out, int64_t first, int64_t last) {
    bool is_ok = true;
    for (int64_t k = 0; k < SPECIAL_H * SPECIAL_W * SPECIAL_C; k++) {
        int64_t x = k / SPECIAL_C % SPECIAL_W, y = k / SPECIAL_C / SPECIAL_W;
        bool must = y >= 10 && y <= 13 && x >= 10 && x <= 13 &&
                    !(y + x == 20 || y + x == 26);  // by one or the other
        bool may = y >= first && y <= last && x >= first && x <= last;
        is_ok &= isfinite(out[k]) ? !must : may;
    }
    return is_ok;
}

// ---------------------------------------------------------------- running an op with the backend's
// own packing and workspace
static ctok_status run_conv_past(backend *b, void *out, const void *in, const void *past,
                                 const void *residual, const float *weight, const float *bias,
                                 const conv_params *p) {
    void *packed = new_bytes(b->kernels->conv_weight_bytes(b, p));
    void *workspace = new_bytes(b->kernels->conv_workspace_bytes(b, p));
    b->kernels->conv_weight_pack(b, packed, weight, p);
    ctok_status status =
        op_conv(b, out, in, past, residual, (conv_weights){packed, bias}, workspace, p);
    free(packed), free(workspace);
    return status;
}

static ctok_status run_conv(backend *b, void *out, const void *in, const void *residual,
                            const float *weight, const float *bias, const conv_params *p) {
    return run_conv_past(b, out, in, NULL, residual, weight, bias, p);
}

static ctok_status run_attention(backend *b, void *out, const void *q, const void *k, const void *v,
                                 const attention_params *p) {
    void *workspace = new_bytes(b->kernels->attention_workspace_bytes(b, p));
    ctok_status status = op_attention(b, out, q, k, v, workspace, p);
    free(workspace);
    return status;
}

// Relative L2 of a convolution on a GPU whose result is float32. Tensor cores cut towards zero
// where they add 8 or 16 products of bf16, so that the error grows with the K products of an
// output: to 4.8e-6 at 4608 with the rule of emulated_ptx.h; a simulation with 1 to 3 guard bits
// says 1.6e-6 to 3.3e-6 at 2304. float32 is added by plain fma, rounded to nearest.
static double conv_sums_budget(const conv_params *p) {
    int64_t num_products = p->in.c * p->kernel * p->kernel * p->kernel_t;
    return p->in_dtype == CTOK_BF16 ? 2e-6 + 2e-9 * (double)num_products : 2e-6;
}

// In space.
static conv_params conv_of(ctok_shape in, ctok_shape out, int32_t kernel, int32_t stride,
                           int32_t pad_before, int32_t upsample) {
    return (conv_params){.in = in,
                         .out = out,
                         .kernel = kernel,
                         .stride = stride,
                         .pad_before = pad_before,
                         .upsample = upsample,
                         .kernel_t = 1,
                         .stride_t = 1,
                         .upsample_t = 1,
                         .in_dtype = CTOK_F32,
                         .out_dtype = CTOK_F32};
}

static conv_params conv_params_of(conv_shape s) {
    conv_params p = conv_of((ctok_shape){s.n, 1, s.h, s.w, s.c_in},
                            (ctok_shape){s.n, 1, (s.h * s.upsample + s.stride - 1) / s.stride,
                                         (s.w * s.upsample + s.stride - 1) / s.stride, s.c_out},
                            s.kernel, s.stride, s.pad_before, s.upsample);
    p.has_upsampled_residual = s.residual == UPSAMPLED;
    return p;
}

// In time, as a network uses it: a first chunk is padded by its first frame, is halved to (T + 1) /
// 2 frames and doubled to 2 T - 1; a later one to T / 2 and 2 T.
static conv_params conv_time_params_of(conv_time_shape s) {
    int32_t t = s.stride == 2     ? (s.t + s.is_first) / 2
                : s.upsample == 2 ? 2 * s.t - s.is_first
                                  : s.t;
    conv_params p = conv_of((ctok_shape){s.n, s.t, s.h, s.w, s.c_in},
                            (ctok_shape){s.n, t, s.h, s.w, s.c_out}, 1, 1, 0, 1);
    p.kernel_t = 3, p.stride_t = s.stride, p.upsample_t = s.upsample;
    p.pad_t = s.stride == 2 && !s.is_first ? 1 : 2;
    p.offset_t = s.upsample == 2 && s.is_first;
    p.has_upsampled_residual = s.residual == UPSAMPLED;
    return p;
}

// How the lines of a test name a shape.
typedef struct {
    char text[128];
} shape_name;

static shape_name conv_name(conv_shape s) {
    shape_name name;
    snprintf(name.text, sizeof name.text, "conv %dx%dx%dx%d->%d k%d s%d%s%s", s.n, s.h, s.w, s.c_in,
             s.c_out, s.kernel, s.stride, s.upsample == 2 ? " up2" : "",
             residual_names[s.residual]);
    return name;
}

static shape_name conv_time_name(conv_time_shape s) {
    shape_name name;
    snprintf(name.text, sizeof name.text, "conv in time %dx%dx%dx%dx%d->%d s%d%s%s%s%s", s.n, s.t,
             s.h, s.w, s.c_in, s.c_out, s.stride, s.upsample == 2 ? " up2" : "",
             s.is_first ? " first" : "", s.has_past ? " +past" : "", residual_names[s.residual]);
    return name;
}

// Under an emulator the reference takes a second for some 10 million products: the largest are left
// to the machine itself.
static bool is_too_long(const conv_params *p, const char *name) {
    const int64_t most_products = 60000000;
    if (!is_emulated() ||
        shape_elements(p->out) * p->in.c * p->kernel * p->kernel * p->kernel_t <= most_products)
        return false;
    report_skip(name, "too long under QEMU");
    return true;
}

static norm_params norm_params_of(norm_shape s) {
    return (norm_params){{s.n, 1, s.h, s.w, s.c}, s.groups, 1e-6f, s.has_silu, CTOK_F32};
}

static pool_params pool_params_of(pool_shape s, ctok_dtype dtype) {
    ctok_shape in = {s.n, s.t, s.h, s.w, s.c}, out = in;
    if (s.is_temporal) out.t = (in.t + s.is_first) / 2;
    else out.h /= 2, out.w /= 2;
    return (pool_params){in, out, s.is_temporal, s.is_first, dtype};
}

static transfer_params transfer_params_of(transfer_shape s, bool is_float) {
    return (transfer_params){.format = is_float ? EXTERNAL_F32_NCTHW : EXTERNAL_PIXELS_U8,
                             .shape = {s.n, s.t, s.h, s.w, s.c},
                             .frames = s.frames,
                             .height = s.height,
                             .width = s.width,
                             .before = s.before,
                             .top = s.top,
                             .left = s.left};
}

static quantizer_params fsq_params_of(fsq_shape s) {
    quantizer_params p = {.shape = {s.n, 1, s.h, s.w, s.num_levels}};
    quantizer_set_levels(&p, s.levels, s.num_levels);
    return p;
}

static quantizer_params sign_params_of(sign_shape s) {
    return (quantizer_params){
        .shape = {s.n, 1, s.h, s.w, s.c}, .kind = QUANTIZER_SIGN, .size = 1 << s.c};
}

static quantizer_params lookup_params_of(lookup_shape s) {
    return (quantizer_params){
        .shape = {s.n, 1, s.h, s.w, s.c}, .kind = QUANTIZER_LOOKUP, .size = s.size};
}

// Unit rows, some of them equal to an earlier one, some the next float in one channel, the last of
// many zero.
static float *new_codebook(const quantizer_params *p) {
    int64_t d = p->shape.c, size = p->size;
    float *rows = new_random(size * d, 1, 0);
    quantizer_normalise(rows, size, d);
    for (int64_t k = 3; k < size; k++) {
        if (k % 7 == 3 || k % 7 == 5)
            memcpy(rows + k * d, rows + k / 2 * d, (size_t)d * sizeof(float));
        if (k % 7 == 5) rows[k * d + k % d] = nextafterf(rows[k * d + k % d], k % 2 ? 1.0f : -1.0f);
    }
    if (size > 100) memset(rows + (size - 1) * d, 0, (size_t)d * sizeof(float));
    return rows;
}

// Random vectors, codes of another length, points halfway between two codes; among many a zero, a
// NaN and an infinity.
static float *new_lookup_vectors(const quantizer_params *p, const float *codebook) {
    int64_t d = p->shape.c, positions = shape_positions(p->shape);
    float *z = new_random(positions * d, 3, 0);
    for (int64_t i = 0; i < positions; i++) {
        const float *a = codebook + i * 31 % p->size * d, *b = codebook + i * 17 % p->size * d;
        for (int64_t c = 0; c < d && i % 3 > 0; c++)
            z[i * d + c] = i % 3 == 1 ? a[c] * 0.3f : a[c] + b[c];
    }
    if (positions < 16) return z;
    memset(z + 6 * d, 0, (size_t)d * sizeof(float));
    z[9 * d + d / 2] = NAN, z[13 * d] = -INFINITY;
    return z;
}

// Bit for bit but for NaN, of which only the place counts.
static int64_t count_different(const float *got, const float *want, int64_t count) {
    int64_t wrong = 0;
    for (int64_t i = 0; i < count; i++)
        wrong += isnan(want[i]) ? !isnan(got[i]) : !is_same(got + i, want + i, 1);
    return wrong;
}

#endif
