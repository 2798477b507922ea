// Plain scalar truth for the ops that compute: conv, norm, attention. No blocking, no vectors,
// threads only over whole rows. They accumulate in float64 and round once, so that a faster kernel
// is judged against the answer and not against another rounding. The ops that only move or halve
// values are in ref_pixels.c, the quantizers in ref_quantize.c; both serve all tables.
// Ref: reference/cosmos_reference.py (CausalConv3d, conv, norm, Attention).
#include "ref_ops.h"

#include <math.h>
#include <string.h>

#include "cpu.h"

// The operands and parameters of one op, for the function that does one task of it.
typedef struct {
    void *out;
    const void *in;               // of attention the queries
    const void *residual;         // conv: added to the output, or NULL
    const void *past;             // conv: the two frames before the first, or NULL
    const void *keys, *values;    // attention
    const float *scale, *offset;  // norm: one a channel
    conv_weights weights;
    double *rows;  // attention: one row of scores a thread
    const void *params;
} ref_call;

// Reads element i of a float32 or bfloat16 activation; `set` rounds a result and writes it.
static double get(const void *activation, int64_t i, ctok_dtype dtype) {
    return (double)(dtype == CTOK_BF16 ? bf16_value(((const uint16_t *)activation)[i])
                                       : ((const float *)activation)[i]);
}

static void set(void *activation, int64_t i, double value, ctok_dtype dtype) {
    if (dtype == CTOK_BF16) ((uint16_t *)activation)[i] = bf16_round((float)value);
    else ((float *)activation)[i] = (float)value;
}

// ---------------------------------------------------------------- conv
// A task is one row of the output.
static size_t ref_conv_weight_bytes(const backend *b, const conv_params *p) {
    (void)b;
    return (size_t)(p->out.c * p->in.c * p->kernel_t * p->kernel * p->kernel) * sizeof(float);
}

static void ref_conv_weight_pack(backend *b, void *packed, const float *weight,
                                 const conv_params *p) {
    size_t num_bytes = ref_conv_weight_bytes(b, p);
    memcpy(packed, weight, num_bytes);
    float *weights = packed;
    for (size_t i = 0; i < num_bytes / sizeof(float) && p->in_dtype == CTOK_BF16; i++)
        weights[i] = bf16_value(bf16_round(weights[i]));
}

static size_t ref_conv_workspace_bytes(const backend *b, const conv_params *p) {
    (void)b, (void)p;
    return 0;
}

// The frame that tap k of output frame j reads, in the input or in the past frames: sets *at to the
// index of its first element and returns the array it is in.
static const void *conv_frame(const ref_call *call, int64_t *at, int64_t n, int64_t j, int64_t k) {
    const conv_params *p = call->params;
    int64_t frame = p->in.h * p->in.w * p->in.c,
            s = (j * p->stride_t + k - p->pad_t + p->offset_t) >> (p->upsample_t - 1);
    bool is_past = s < 0 && call->past;
    *at = (is_past ? n * 2 + 2 + s : n * p->in.t + (s < 0 ? 0 : s)) * frame;
    return is_past ? call->past : call->in;
}

static double conv_point(const ref_call *call, int64_t n, int64_t ot, int64_t oy, int64_t ox,
                         int64_t co) {
    const conv_params *p = call->params;
    int64_t C = p->in.c, K = p->kernel, taps = p->kernel_t * K * K;
    const float *weight = (const float *)call->weights.packed + co * C * taps;  // [C, kt, ky, kx]
    double sum = call->weights.bias[co];
    for (int64_t tap = 0; tap < taps; tap++) {
        int64_t y = oy * p->stride + tap / K % K - p->pad_before,
                x = ox * p->stride + tap % K - p->pad_before;
        if (y < 0 || x < 0 || y >= p->in.h * p->upsample || x >= p->in.w * p->upsample) continue;
        int64_t at;
        const void *in = conv_frame(call, &at, n, ot, tap / K / K);
        at += (y / p->upsample * p->in.w + x / p->upsample) * C;
        for (int64_t c = 0; c < C; c++)
            sum += get(in, at + c, p->in_dtype) * weight[c * taps + tap];
    }
    return sum;
}

static void conv_row(void *context, int64_t task, int32_t thread) {
    (void)thread;
    const ref_call *call = context;
    const conv_params *p = call->params;
    int64_t C = p->out.c, oy = task % p->out.h, ot = task / p->out.h % p->out.t,
            n = task / p->out.h / p->out.t;
    int64_t at = task * p->out.w * C;
    for (int64_t ox = 0; ox < p->out.w; ox++) {
        int64_t from = at;
        if (p->has_upsampled_residual) {
            int64_t t = (ot + p->offset_t) >> (p->upsample_t - 1);
            from =
                (((n * p->in.t + t) * p->in.h + oy / p->upsample) * p->in.w + ox / p->upsample) * C;
        }
        for (int64_t co = 0; co < C; co++, at++, from++)
            set(call->out, at,
                conv_point(call, n, ot, oy, ox, co) +
                    (call->residual ? get(call->residual, from, p->out_dtype) : 0.0),
                p->out_dtype);
    }
}

static ctok_status ref_conv(backend *b, void *out, const void *in, const void *past,
                            const void *residual, conv_weights w, void *workspace,
                            const conv_params *p) {
    (void)workspace;
    ref_call call = {
        .out = out, .in = in, .residual = residual, .past = past, .weights = w, .params = p};
    return cpu_run(b, p->out.n * p->out.t * p->out.h, conv_row, &call);
}

// ---------------------------------------------------------------- norm
// A task is one group of one frame.
static void norm_group(void *context, int64_t task, int32_t thread) {
    (void)thread;
    const ref_call *call = context;
    const norm_params *p = call->params;
    int64_t C = p->shape.c, width = C / p->groups, n = task / p->groups,
            first = task % p->groups * width;
    int64_t positions = p->shape.h * p->shape.w, frame = n * positions * C;
    const float *scale = call->scale, *offset = call->offset;

    double count = (double)(positions * width), mean = 0, variance = 0;
    for (int64_t i = 0; i < positions; i++)
        for (int64_t c = first; c < first + width; c++)
            mean += get(call->in, frame + i * C + c, p->dtype);
    mean /= count;
    for (int64_t i = 0; i < positions; i++)
        for (int64_t c = first; c < first + width; c++) {
            double gap = get(call->in, frame + i * C + c, p->dtype) - mean;
            variance += gap * gap;
        }
    double inverse = 1.0 / sqrt(variance / count + (double)p->epsilon);
    for (int64_t i = 0; i < positions; i++)
        for (int64_t c = first; c < first + width; c++) {
            int64_t at = frame + i * C + c;
            double y = (get(call->in, at, p->dtype) - mean) * inverse * scale[c] + offset[c];
            set(call->out, at, p->has_silu ? y / (1.0 + exp(-y)) : y, p->dtype);
        }
}

static ctok_status ref_norm(backend *b, void *out, const void *in, const float *scale,
                            const float *offset, const norm_params *p) {
    ref_call call = {.out = out, .in = in, .scale = scale, .offset = offset, .params = p};
    return cpu_run(b, p->shape.n * p->shape.t * p->groups, norm_group, &call);
}

// ---------------------------------------------------------------- attention
// A task is one query. Below: the most keys that a query has.
static int64_t attention_row_keys(const attention_params *p) {  // at most
    return p->is_temporal ? p->num_past + p->shape.t : p->shape.h * p->shape.w;
}

static size_t ref_attention_workspace_bytes(const backend *b, const attention_params *p) {
    return (size_t)(b->num_threads * attention_row_keys(p)) * sizeof(double);
}

static void attention_query(void *context, int64_t task, int32_t thread) {
    const ref_call *call = context;
    const attention_params *p = call->params;
    int64_t C = p->shape.c, positions = p->shape.h * p->shape.w, frame = task / positions;
    // In space the keys are the pixels of the query's frame; in time they are the same pixel in
    // other frames, `step` elements apart.
    int64_t num_keys = positions, step = C, first = frame * positions * C;
    if (p->is_temporal) {
        int64_t n = frame / p->shape.t, t = frame % p->shape.t;
        num_keys = p->num_past + t + 1, step = positions * C;
        first = n * (p->num_past + p->shape.t) * step + task % positions * C;
        int64_t unseen = p->window && num_keys > p->window ? num_keys - p->window : 0;
        num_keys -= unseen, first += unseen * step;
    }
    double *row = call->rows + thread * attention_row_keys(p), largest = -INFINITY, total = 0;
    for (int64_t j = 0; j < num_keys; j++) {
        row[j] = 0;
        for (int64_t c = 0; c < C; c++)
            row[j] += get(call->in, task * C + c, p->dtype) *
                      get(call->keys, first + j * step + c, p->dtype);
        row[j] /= sqrt((double)C);
        if (row[j] > largest) largest = row[j];
    }
    for (int64_t j = 0; j < num_keys; j++) total += row[j] = exp(row[j] - largest);
    for (int64_t c = 0; c < C; c++) {
        double sum = 0;
        for (int64_t j = 0; j < num_keys; j++)
            sum += row[j] * get(call->values, first + j * step + c, p->dtype);
        set(call->out, task * C + c, sum / total, p->dtype);
    }
}

static ctok_status ref_attention(backend *b, void *out, const void *q, const void *k, const void *v,
                                 void *workspace, const attention_params *p) {
    ref_call call = {.out = out, .in = q, .keys = k, .values = v, .rows = workspace, .params = p};
    return cpu_run(b, shape_positions(p->shape), attention_query, &call);
}

const cpu_ops ref_ops = {
    .kernels =
        {
            .name = "reference",
            .has_bf16 = true,
            .conv_weight_bytes = ref_conv_weight_bytes,
            .conv_weight_pack = ref_conv_weight_pack,
            .conv_workspace_bytes = ref_conv_workspace_bytes,
            .attention_workspace_bytes = ref_attention_workspace_bytes,
            .external_workspace_bytes = ref_external_workspace_bytes,
        },
    .load = ref_load,
    .store = ref_store,
    .haar = ref_haar,
    .unhaar = ref_unhaar,
    .conv = ref_conv,
    .pool = ref_pool,
    .norm = ref_norm,
    .attention = ref_attention,
    .quantize = ref_quantize,
    .dequantize = ref_dequantize,
};
