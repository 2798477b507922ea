// Plain scalar truth for every op: no blocking, no vectors, threads only over whole rows. conv, norm and attention
// accumulate in float64 and round once, so that a faster kernel is judged against the answer and not against another
// rounding. load, store, haar and quantize follow the float32 steps of the Python reference and serve all tables.
// Ref: reference/cosmos_reference.py (haar, conv, norm, Attention, FSQ), reference/pipeline_reference.py (pixels).
#include "ref_ops.h"

#include <math.h>
#include <string.h>

#include "cpu.h"

// The arguments of one op, for its task function.
typedef struct {
    void *out;
    const void *in, *second, *third;
    int32_t *indices;
    conv_weights weights;
    double *rows;  // attention: one row of scores a thread
    const void *params;
} ref_call;

// ---------------------------------------------------------------- load, store: a task is a row of an image
static void load_row(void *context, int64_t task, int32_t thread) {
    (void)thread;
    const ref_call *call = context;
    const transfer_params *p = call->params;
    int64_t H = p->shape.h, W = p->shape.w, C = p->shape.c, n = task / H, y = task % H - p->top;
    float *out = (float *)call->out + task * W * C;
    if (y < 0 || y >= p->height) {
        for (int64_t i = 0; i < W * C; i++) out[i] = -1.0f;
        return;
    }
    const uint8_t *bytes = (const uint8_t *)call->in + (n * p->height + y) * p->width * C;             // [W, C]
    const float *planes = (const float *)call->in + (n * C * p->height + y) * p->width;                // [C, (H), W]
    for (int64_t x = -p->left; x < W - p->left; x++)
        for (int64_t c = 0; c < C; c++, out++) {
            if (x < 0 || x >= p->width) *out = -1.0f;
            else if (p->format == EXTERNAL_PIXELS_U8) *out = (float)bytes[x * C + c] / 255.0f * 2.0f - 1.0f;
            else *out = planes[c * p->height * p->width + x];
        }
}

ctok_status ref_load(backend *b, float *out, const void *external, const transfer_params *p) {
    ref_call call = {.out = out, .in = external, .params = p};
    return cpu_run(b, p->shape.n * p->shape.h, load_row, &call);
}

static uint8_t to_u8(float v) {
    float unit = (v + 1.0f) / 2.0f;
    if (!(unit > 0.0f)) unit = 0.0f;  // NaN too
    if (unit > 1.0f) unit = 1.0f;
    return (uint8_t)(unit * 255.0f + 0.5f);
}

static void store_row(void *context, int64_t task, int32_t thread) {
    (void)thread;
    const ref_call *call = context;
    const transfer_params *p = call->params;
    int64_t W = p->shape.w, C = p->shape.c, n = task / p->height, y = task % p->height;
    const float *in = (const float *)call->in + ((n * p->shape.h + y + p->top) * W + p->left) * C;
    uint8_t *bytes = (uint8_t *)call->out + task * p->width * C;
    float *planes = (float *)call->out + (n * C * p->height + y) * p->width;
    if (p->format == EXTERNAL_PIXELS_U8) {
        for (int64_t i = 0; i < p->width * C; i++) bytes[i] = to_u8(in[i]);
    } else {
        for (int64_t c = 0; c < C; c++)
            for (int64_t x = 0; x < p->width; x++) planes[c * p->height * p->width + x] = in[x * C + c];
    }
}

ctok_status ref_store(backend *b, void *external, const float *in, const transfer_params *p) {
    ref_call call = {.out = external, .in = in, .params = p};
    return cpu_run(b, p->shape.n * p->height, store_row, &call);
}

// ---------------------------------------------------------------- haar: a task is a row of patches
// in[size][size] -> out[band][size / 2][size / 2]; band = 2 * (high along W) + (high along H).
static void haar_step(float *out, const float *in, int32_t size) {
    int32_t half = size / 2, plane = half * half;
    for (int32_t y = 0; y < half; y++)
        for (int32_t x = 0; x < half; x++) {
            const float *top = in + 2 * y * size + 2 * x, *bottom = top + size;
            float low_top = (top[0] + top[1]) * 0.5f, high_top = (top[0] - top[1]) * 0.5f;
            float low_bottom = (bottom[0] + bottom[1]) * 0.5f, high_bottom = (bottom[0] - bottom[1]) * 0.5f;
            float *to = out + y * half + x;
            to[0 * plane] = (low_top + low_bottom) * 0.5f;
            to[1 * plane] = (low_top - low_bottom) * 0.5f;
            to[2 * plane] = (high_top + high_bottom) * 0.5f;
            to[3 * plane] = (high_top - high_bottom) * 0.5f;
        }
}

static void unhaar_step(float *out, const float *in, int32_t size) {
    int32_t half = size / 2, plane = half * half;
    for (int32_t y = 0; y < half; y++)
        for (int32_t x = 0; x < half; x++) {
            const float *from = in + y * half + x;
            float low_top = from[0 * plane] + from[1 * plane], low_bottom = from[0 * plane] - from[1 * plane];
            float high_top = from[2 * plane] + from[3 * plane], high_bottom = from[2 * plane] - from[3 * plane];
            float *top = out + 2 * y * size + 2 * x, *bottom = top + size;
            top[0] = low_top + high_top, top[1] = low_top - high_top;
            bottom[0] = low_bottom + high_bottom, bottom[1] = low_bottom - high_bottom;
        }
}

// One patch of one channel: pixels[patch][patch] <-> bands[patch * patch]. The bands of the second step are outermost.
static void haar_patch(float *bands, const float *pixels, int32_t patch) {
    if (patch == 2) {
        haar_step(bands, pixels, 2);
        return;
    }
    float first[16], second[4];
    haar_step(first, pixels, 4);
    for (int32_t band = 0; band < 4; band++) {
        haar_step(second, first + band * 4, 2);
        for (int32_t outer = 0; outer < 4; outer++) bands[outer * 4 + band] = second[outer];
    }
}

static void unhaar_patch(float *pixels, const float *bands, int32_t patch) {
    if (patch == 2) {
        unhaar_step(pixels, bands, 2);
        return;
    }
    float first[16], second[4];
    for (int32_t band = 0; band < 4; band++) {
        for (int32_t outer = 0; outer < 4; outer++) second[outer] = bands[outer * 4 + band];
        unhaar_step(first + band * 4, second, 2);
    }
    unhaar_step(pixels, first, 4);
}

static void haar_row(void *context, int64_t task, int32_t thread) {
    (void)thread;
    const ref_call *call = context;
    const haar_params *p = call->params;
    int32_t patch = p->patch;
    int64_t W = p->in.w, C = p->in.c;
    const float *in = (const float *)call->in + task * patch * W * C;  // rows of patches follow each other, also across images
    float *out = (float *)call->out + task * p->out.w * p->out.c;
    float pixels[16], bands[16];
    for (int64_t x = 0; x < p->out.w; x++, out += p->out.c)
        for (int64_t c = 0; c < C; c++) {
            for (int32_t i = 0; i < patch; i++)
                for (int32_t j = 0; j < patch; j++) pixels[i * patch + j] = in[(i * W + x * patch + j) * C + c];
            haar_patch(bands, pixels, patch);
            for (int32_t i = 0; i < patch * patch; i++) out[i * C + c] = bands[i];
        }
}

static void unhaar_row(void *context, int64_t task, int32_t thread) {
    (void)thread;
    const ref_call *call = context;
    const haar_params *p = call->params;
    int32_t patch = p->patch;
    int64_t W = p->out.w, C = p->out.c;
    const float *in = (const float *)call->in + task * p->in.w * p->in.c;
    float *out = (float *)call->out + task * patch * W * C;
    float pixels[16], bands[16];
    for (int64_t x = 0; x < p->in.w; x++, in += p->in.c)
        for (int64_t c = 0; c < C; c++) {
            for (int32_t i = 0; i < patch * patch; i++) bands[i] = in[i * C + c];
            unhaar_patch(pixels, bands, patch);
            for (int32_t i = 0; i < patch; i++)
                for (int32_t j = 0; j < patch; j++) out[(i * W + x * patch + j) * C + c] = pixels[i * patch + j];
        }
}

ctok_status ref_haar(backend *b, float *out, const float *in, const haar_params *p) {
    ref_call call = {.out = out, .in = in, .params = p};
    return cpu_run(b, p->out.n * p->out.h, haar_row, &call);
}

ctok_status ref_unhaar(backend *b, float *out, const float *in, const haar_params *p) {
    ref_call call = {.out = out, .in = in, .params = p};
    return cpu_run(b, p->in.n * p->in.h, unhaar_row, &call);
}

// ---------------------------------------------------------------- conv: a task is a row of the output
static size_t ref_conv_weight_bytes(const backend *b, int64_t c_out, int64_t c_in, int32_t kernel) {
    (void)b;
    return (size_t)(c_out * c_in * kernel * kernel) * sizeof(float);
}

static void ref_conv_weight_pack(backend *b, void *packed, const float *weight, int64_t c_out, int64_t c_in, int32_t kernel) {
    memcpy(packed, weight, ref_conv_weight_bytes(b, c_out, c_in, kernel));
}

static size_t ref_conv_workspace_bytes(const backend *b, const conv_params *p) {
    (void)b, (void)p;
    return 0;
}

static double conv_point(const ref_call *call, int64_t n, int64_t oy, int64_t ox, int64_t co) {
    const conv_params *p = call->params;
    int64_t C = p->in.c, K = p->kernel;
    const float *weight = (const float *)call->weights.packed + co * C * K * K;  // [C, ky, kx]
    double sum = call->weights.bias[co];
    for (int64_t ky = 0; ky < K; ky++)
        for (int64_t kx = 0; kx < K; kx++) {
            int64_t y = oy * p->stride + ky - p->pad_before, x = ox * p->stride + kx - p->pad_before;
            if (y < 0 || x < 0 || y >= p->in.h * p->upsample || x >= p->in.w * p->upsample) continue;
            const float *in = (const float *)call->in + ((n * p->in.h + y / p->upsample) * p->in.w + x / p->upsample) * C;
            for (int64_t c = 0; c < C; c++) sum += (double)in[c] * weight[(c * K + ky) * K + kx];
        }
    return sum;
}

static void conv_row(void *context, int64_t task, int32_t thread) {
    (void)thread;
    const ref_call *call = context;
    const conv_params *p = call->params;
    int64_t n = task / p->out.h, oy = task % p->out.h;
    int64_t at = task * p->out.w * p->out.c;
    const float *residual = call->second;
    for (int64_t ox = 0; ox < p->out.w; ox++)
        for (int64_t co = 0; co < p->out.c; co++, at++)
            ((float *)call->out)[at] = (float)(conv_point(call, n, oy, ox, co) + (residual ? residual[at] : 0.0));
}

static ctok_status ref_conv(backend *b, float *out, const float *in, const float *residual, conv_weights w, void *workspace,
                            const conv_params *p) {
    (void)workspace;
    ref_call call = {.out = out, .in = in, .second = residual, .weights = w, .params = p};
    return cpu_run(b, p->out.n * p->out.h, conv_row, &call);
}

// ---------------------------------------------------------------- norm: a task is one group of one image
static void norm_group(void *context, int64_t task, int32_t thread) {
    (void)thread;
    const ref_call *call = context;
    const norm_params *p = call->params;
    int64_t C = p->shape.c, width = C / p->groups, n = task / p->groups, first = task % p->groups * width;
    int64_t positions = shape_positions(p->shape) / p->shape.n;
    const float *in = (const float *)call->in + n * positions * C, *scale = call->second, *offset = call->third;
    float *out = (float *)call->out + n * positions * C;

    double count = (double)(positions * width), mean = 0, variance = 0;
    for (int64_t i = 0; i < positions; i++)
        for (int64_t c = first; c < first + width; c++) mean += in[i * C + c];
    mean /= count;
    for (int64_t i = 0; i < positions; i++)
        for (int64_t c = first; c < first + width; c++) variance += (in[i * C + c] - mean) * (in[i * C + c] - mean);
    double inverse = 1.0 / sqrt(variance / count + (double)p->epsilon);
    for (int64_t i = 0; i < positions; i++)
        for (int64_t c = first; c < first + width; c++) {
            double y = (in[i * C + c] - mean) * inverse * scale[c] + offset[c];
            out[i * C + c] = (float)(p->has_silu ? y / (1.0 + exp(-y)) : y);
        }
}

static ctok_status ref_norm(backend *b, float *out, const float *in, const float *scale, const float *offset, const norm_params *p) {
    ref_call call = {.out = out, .in = in, .second = scale, .third = offset, .params = p};
    return cpu_run(b, p->shape.n * p->groups, norm_group, &call);
}

// ---------------------------------------------------------------- attention: a task is one query
static size_t ref_attention_workspace_bytes(const backend *b, const attention_params *p) {
    return (size_t)(b->num_threads * p->shape.h * p->shape.w) * sizeof(double);
}

static void attention_query(void *context, int64_t task, int32_t thread) {
    const ref_call *call = context;
    const attention_params *p = call->params;
    int64_t C = p->shape.c, positions = p->shape.h * p->shape.w, first = task / positions * positions * C;
    const float *q = (const float *)call->in + task * C;
    const float *k = (const float *)call->second + first, *v = (const float *)call->third + first;
    float *out = (float *)call->out + task * C;
    double *row = call->rows + thread * positions, largest = -INFINITY, total = 0;
    for (int64_t j = 0; j < positions; j++) {
        row[j] = 0;
        for (int64_t c = 0; c < C; c++) row[j] += (double)q[c] * k[j * C + c];
        row[j] /= sqrt((double)C);
        if (row[j] > largest) largest = row[j];
    }
    for (int64_t j = 0; j < positions; j++) total += row[j] = exp(row[j] - largest);
    for (int64_t c = 0; c < C; c++) {
        double sum = 0;
        for (int64_t j = 0; j < positions; j++) sum += row[j] * v[j * C + c];
        out[c] = (float)(sum / total);
    }
}

static ctok_status ref_attention(backend *b, float *out, const float *q, const float *k, const float *v, void *workspace,
                                 const attention_params *p) {
    ref_call call = {.out = out, .in = q, .second = k, .third = v, .rows = workspace, .params = p};
    return cpu_run(b, shape_positions(p->shape), attention_query, &call);
}

// ---------------------------------------------------------------- FSQ: a task is FSQ_POSITIONS positions
enum { FSQ_POSITIONS = 1024 };

static void quantize_block(void *context, int64_t task, int32_t thread) {
    (void)thread;
    const ref_call *call = context;
    const fsq_params *p = call->params;
    int64_t d = p->shape.c, end = shape_positions(p->shape);
    if (end > (task + 1) * FSQ_POSITIONS) end = (task + 1) * FSQ_POSITIONS;
    for (int64_t i = task * FSQ_POSITIONS; i < end; i++) {
        int32_t index = 0;
        for (int64_t c = 0; c < d; c++) {
            float z = ((const float *)call->in)[i * d + c];
            int32_t width = p->levels[c] / 2;
            float lowest = (float)-width, highest = (float)(p->levels[c] - 1 - width);
            // tanh in double, rounded once: a value next to a rounding boundary must fall on PyTorch's side of it.
            float bounded = (float)tanh((double)(z + p->shift[c])) * p->half_width[c] - p->offset[c];
            float digit = rintf(bounded);
            // Only levels above 1000 reach past their last digit (bounded spans levels * 1.001); an index must not.
            if (digit < lowest) digit = lowest;
            if (digit > highest) digit = highest;
            ((float *)call->out)[i * d + c] = digit / (float)width;
            if (digit == digit) index += ((int32_t)digit + width) * p->basis[c];  // NaN: a NaN code, lowest digit in the index
        }
        if (call->indices) call->indices[i] = index;
    }
}

static void dequantize_block(void *context, int64_t task, int32_t thread) {
    (void)thread;
    const ref_call *call = context;
    const fsq_params *p = call->params;
    int64_t d = p->shape.c, end = shape_positions(p->shape);
    if (end > (task + 1) * FSQ_POSITIONS) end = (task + 1) * FSQ_POSITIONS;
    for (int64_t i = task * FSQ_POSITIONS; i < end; i++)
        for (int64_t c = 0; c < d; c++) {
            int32_t width = p->levels[c] / 2, digit = ((const int32_t *)call->in)[i] / p->basis[c] % p->levels[c];
            ((float *)call->out)[i * d + c] = (float)(digit - width) / (float)width;
        }
}

static int64_t fsq_blocks(const fsq_params *p) { return (shape_positions(p->shape) + FSQ_POSITIONS - 1) / FSQ_POSITIONS; }

ctok_status ref_quantize(backend *b, int32_t *indices, float *codes, const float *in, const fsq_params *p) {
    ref_call call = {.out = codes, .in = in, .indices = indices, .params = p};
    return cpu_run(b, fsq_blocks(p), quantize_block, &call);
}

ctok_status ref_dequantize(backend *b, float *codes, const int32_t *indices, const fsq_params *p) {
    ref_call call = {.out = codes, .in = indices, .params = p};
    return cpu_run(b, fsq_blocks(p), dequantize_block, &call);
}

const backend_ops ref_ops = {
    .name = "reference",
    .conv_weight_bytes = ref_conv_weight_bytes,
    .conv_weight_pack = ref_conv_weight_pack,
    .conv_workspace_bytes = ref_conv_workspace_bytes,
    .attention_workspace_bytes = ref_attention_workspace_bytes,
    .load = ref_load,
    .store = ref_store,
    .haar = ref_haar,
    .unhaar = ref_unhaar,
    .conv = ref_conv,
    .norm = ref_norm,
    .attention = ref_attention,
    .quantize = ref_quantize,
    .dequantize = ref_dequantize,
};
