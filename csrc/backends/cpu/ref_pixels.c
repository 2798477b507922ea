// The ops that move or halve values and touch each once or twice: load, store, haar, unhaar, pool.
// One implementation serves every table: plain loops over rows that the compiler turns into
// vectors, at the speed of memory. They follow the float32 steps of the Python reference; a mean of
// neighbours is taken in float64.
// Ref: reference/cosmos_reference.py (haar, avg_pool3d), reference/pipeline_reference.py (pixels).
#include <math.h>
#include <string.h>

#include "cpu.h"
#include "ref_ops.h"

// The operands and parameters of one op, for the function that does one task of it.
typedef struct {
    void *out;
    const void *in, *params;
} pixel_call;

// ---------------------------------------------------------------- load, store
// A task is one row of a frame.
static void fill_black(float *out, int64_t count) {
    for (int64_t i = 0; i < count; i++) out[i] = -1.0f;
}

static void load_row(void *context, int64_t task, int32_t thread) {
    (void)thread;
    const pixel_call *call = context;
    const transfer_params *p = call->params;
    int64_t T = p->shape.t, H = p->shape.h, W = p->shape.w, C = p->shape.c;
    int64_t n = task / H / T, t = task / H % T - p->before, y = task % H - p->top;
    float *out = (float *)call->out + task * W * C;
    if (y < 0 || y >= p->height) {
        fill_black(out, W * C);
        return;
    }
    if (t < 0) t = 0;
    if (t >= p->frames) t = p->frames - 1;
    fill_black(out, p->left * C);
    fill_black(out + (p->left + p->width) * C, (W - p->left - p->width) * C);
    out += p->left * C;
    if (p->format == EXTERNAL_PIXELS_U8) {
        const uint8_t *bytes =
            (const uint8_t *)call->in + ((n * p->frames + t) * p->height + y) * p->width * C;
        for (int64_t i = 0; i < p->width * C; i++) out[i] = (float)bytes[i] / 255.0f * 2.0f - 1.0f;
    } else {
        for (int64_t c = 0; c < C; c++) {
            const float *plane = (const float *)call->in +
                                 (((n * C + c) * p->frames + t) * p->height + y) * p->width;
            for (int64_t x = 0; x < p->width; x++) out[x * C + c] = plane[x];
        }
    }
}

size_t ref_external_workspace_bytes(const backend *b, size_t external_bytes) {
    (void)b, (void)external_bytes;
    return 0;
}

ctok_status ref_load(backend *b, float *out, const void *external, void *workspace,
                     const transfer_params *p) {
    (void)workspace;
    pixel_call call = {.out = out, .in = external, .params = p};
    return cpu_run(b, p->shape.n * p->shape.t * p->shape.h, load_row, &call);
}

// Note: clamped as an integer: bits order positive floats, and gcc 12 makes no vectors of a loop
// with float comparisons, which may trap.
static void store_bytes(uint8_t *restrict out, const float *restrict in, int64_t count) {
    const int32_t one = 0x3f800000, infinity = 0x7f800000;  // above which only NaN lies
    for (int64_t i = 0; i < count; i++) {
        float unit = (in[i] + 1.0f) / 2.0f;
        int32_t bits;
        memcpy(&bits, &unit, sizeof bits);
        bits &= ~(bits >> 31);                  // below 0: 0
        bits &= (bits - (infinity + 1)) >> 31;  // NaN: 0
        bits = bits < one ? bits : one;
        memcpy(&unit, &bits, sizeof bits);
        out[i] = (uint8_t)(int32_t)(unit * 255.0f + 0.5f);
    }
}

static void store_row(void *context, int64_t task, int32_t thread) {
    (void)thread;
    const pixel_call *call = context;
    const transfer_params *p = call->params;
    int64_t C = p->shape.c, n = task / p->height / p->frames, t = task / p->height % p->frames,
            y = task % p->height;
    const float *in =
        (const float *)call->in +
        (((n * p->shape.t + t + p->before) * p->shape.h + y + p->top) * p->shape.w + p->left) * C;
    if (p->format == EXTERNAL_PIXELS_U8) {
        store_bytes((uint8_t *)call->out + task * p->width * C, in, p->width * C);
    } else {
        for (int64_t c = 0; c < C; c++) {
            float *plane =
                (float *)call->out + (((n * C + c) * p->frames + t) * p->height + y) * p->width;
            for (int64_t x = 0; x < p->width; x++) plane[x] = in[x * C + c];
        }
    }
}

ctok_status ref_store(backend *b, void *external, const float *in, void *workspace,
                      const transfer_params *p) {
    (void)workspace;
    pixel_call call = {.out = external, .in = in, .params = p};
    return cpu_run(b, p->shape.n * p->frames * p->height, store_row, &call);
}

// ---------------------------------------------------------------- haar
// A task is one row of patches. Some of its patches at a time are spread over lanes[place][patch,
// channel], where a place is a pixel's number in its patch, (t * p + y) * p + x. So every split
// adds and subtracts whole lanes: those whose places differ in one bit. The number of a band holds
// the same bits in the order of the splits, those of later steps on top.
enum {
    HAAR_MAX_SPLITS = 6,  // 2 steps over T, H and W: patch 4
    HAAR_MAX_PLACES = 1 << HAAR_MAX_SPLITS,
    HAAR_LANE = 192  // floats of a lane: 48 KB of lanes, so that they and their pixels stay in a
                     // second-level cache
};

typedef struct {
    int32_t num_splits, num_places;
    int32_t place_bit[HAAR_MAX_SPLITS];  // of each split, in the order of the forward transform
    int32_t band_of[HAAR_MAX_PLACES];    // the band in which the value at a place ends
} haar_plan;

static haar_plan haar_make_plan(const haar_params *p) {
    enum { X, Y, T };
    static const int32_t image_dims[] = {X, Y}, video_dims[] = {T, Y, X};
    int32_t steps = p->patch == 4 ? 2 : 1, num_dims = p->patch_t > 1 ? 3 : 2;
    const int32_t *dims = p->patch_t > 1 ? video_dims : image_dims;
    haar_plan plan = {.num_splits = steps * num_dims, .num_places = 1 << (steps * num_dims)};
    for (int32_t step = 0; step < steps; step++)
        for (int32_t d = 0; d < num_dims; d++) {
            int32_t bit = dims[d] * steps + step, band_bit = step * num_dims + num_dims - 1 - d;
            plan.place_bit[step * num_dims + d] = 1 << bit;
            for (int32_t i = 0; i < plan.num_places; i++)
                plan.band_of[i] |= (i >> bit & 1) << band_bit;
        }
    return plan;
}

// to[i][channels] = from[i][channels], each with its own distance.
static inline void copy_each(float *restrict to, int64_t to_step, const float *restrict from,
                             int64_t from_step, int64_t count, int64_t channels) {
    for (int64_t i = 0; i < count; i++)
        for (int64_t c = 0; c < channels; c++) to[i * to_step + c] = from[i * from_step + c];
}

static void copy_strided(float *to, int64_t to_step, const float *from, int64_t from_step,
                         int64_t count, int64_t channels) {
    if (channels == 3) copy_each(to, to_step, from, from_step, count, 3);
    else copy_each(to, to_step, from, from_step, count, channels);
}

// (a, b) -> ((a + b) * scale, (a - b) * scale): a split with 1/2, and its inverse with 1.
static void butterfly(float *restrict a, float *restrict b, int64_t length, float scale) {
    for (int64_t i = 0; i < length; i++) {
        float sum = (a[i] + b[i]) * scale, gap = (a[i] - b[i]) * scale;
        a[i] = sum, b[i] = gap;
    }
}

static void haar_split(float lanes[][HAAR_LANE], int32_t num_places, int64_t length, int32_t bit,
                       float scale) {
    for (int32_t i = 0; i < num_places; i++)
        if (!(i & bit)) butterfly(lanes[i], lanes[i | bit], length, scale);
}

// One row of patches: `bands` [W / p][places, C] at the row's start; `pixels` the whole video,
// shaped `shape`. The transform writes bands and only reads pixels, the inverse the other way
// round.
static void haar_run_row(float *bands, float *pixels, ctok_shape shape, const haar_params *p,
                         int64_t task, bool is_inverse) {
    haar_plan plan = haar_make_plan(p);
    int64_t W = shape.w / p->patch, rows = shape.h / p->patch, C = shape.c,
            extra = p->is_first ? p->patch_t - 1 : 0;
    int64_t blocks = (shape.t + extra) / p->patch_t, n = task / rows / blocks,
            t = task / rows % blocks, y = task % rows;
    int64_t band_step = C * plan.num_places;
    float lanes[HAAR_MAX_PLACES][HAAR_LANE];
    for (int64_t first = 0; first < C; first += HAAR_LANE) {
        int64_t channels = C - first < HAAR_LANE ? C - first : HAAR_LANE,
                most = HAAR_LANE / channels;
        for (int64_t x = 0; x < W; x += most) {
            int64_t count = W - x < most ? W - x : most, length = count * channels;
            float *run = bands + x * band_step + first;
            if (is_inverse) {
                for (int32_t i = 0; i < plan.num_places; i++)
                    copy_strided(lanes[i], channels, run + plan.band_of[i] * C, band_step, count,
                                 channels);
                for (int32_t s = plan.num_splits - 1; s >= 0; s--)
                    haar_split(lanes, plan.num_places, length, plan.place_bit[s], 1.0f);
            }
            for (int32_t i = 0; i < plan.num_places; i++) {
                int64_t frame = t * p->patch_t + i / p->patch / p->patch - extra,
                        line = y * p->patch + i / p->patch % p->patch;
                if (frame < 0 && is_inverse) continue;
                if (frame < 0) frame = 0;
                float *at = pixels +
                            (((n * shape.t + frame) * shape.h + line) * shape.w + x * p->patch +
                             i % p->patch) *
                                C +
                            first;
                if (is_inverse) copy_strided(at, C * p->patch, lanes[i], channels, count, channels);
                else copy_strided(lanes[i], channels, at, C * p->patch, count, channels);
            }
            if (is_inverse) continue;
            for (int32_t s = 0; s < plan.num_splits; s++)
                haar_split(lanes, plan.num_places, length, plan.place_bit[s], 0.5f);
            for (int32_t i = 0; i < plan.num_places; i++)
                copy_strided(run + plan.band_of[i] * C, band_step, lanes[i], channels, count,
                             channels);
        }
    }
}

static void haar_row(void *context, int64_t task, int32_t thread) {
    (void)thread;
    const pixel_call *call = context;
    const haar_params *p = call->params;
    haar_run_row((float *)call->out + task * p->out.w * p->out.c, (float *)call->in, p->in, p, task,
                 false);
}

static void unhaar_row(void *context, int64_t task, int32_t thread) {
    (void)thread;
    const pixel_call *call = context;
    const haar_params *p = call->params;
    haar_run_row((float *)call->in + task * p->in.w * p->in.c, call->out, p->out, p, task, true);
}

ctok_status ref_haar(backend *b, float *out, const float *in, const haar_params *p) {
    pixel_call call = {.out = out, .in = in, .params = p};
    return cpu_run(b, p->out.n * p->out.t * p->out.h, haar_row, &call);
}

ctok_status ref_unhaar(backend *b, float *out, const float *in, const haar_params *p) {
    pixel_call call = {.out = out, .in = in, .params = p};
    return cpu_run(b, p->in.n * p->in.t * p->in.h, unhaar_row, &call);
}

// ---------------------------------------------------------------- pool
// A task is one row of the output.
static void mean_of_two_bf16(uint16_t *restrict out, const uint16_t *a, const uint16_t *b,
                             int64_t count) {
    for (int64_t i = 0; i < count; i++)
        out[i] = bf16_round((bf16_value(a[i]) + bf16_value(b[i])) / 2);
}

static void mean_of_four_bf16(uint16_t *restrict out, const uint16_t *a, const uint16_t *b,
                              const uint16_t *c, const uint16_t *d, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        out[i] = bf16_round(
            ((bf16_value(a[i]) + bf16_value(b[i])) + (bf16_value(c[i]) + bf16_value(d[i]))) / 4);
}

static void mean_of_two(float *restrict out, const float *a, const float *b, int64_t count) {
    for (int64_t i = 0; i < count; i++) out[i] = (float)(((double)a[i] + b[i]) / 2);
}

static void mean_of_four(float *restrict out, const float *a, const float *b, const float *c,
                         const float *d, int64_t count) {
    for (int64_t i = 0; i < count; i++) out[i] = (float)(((double)a[i] + b[i] + c[i] + d[i]) / 4);
}

static void pool_row(void *context, int64_t task, int32_t thread) {
    (void)thread;
    const pixel_call *call = context;
    const pool_params *p = call->params;
    int64_t n = task / p->out.h / p->out.t, t = task / p->out.h % p->out.t, y = task % p->out.h;
    int64_t C = p->in.c, row = p->in.w * C, frame = p->in.h * row;
    int64_t to = task * p->out.w * C, first = n * p->in.t * frame;
    bool is_bf16 = p->dtype == CTOK_BF16;
    if (p->is_temporal) {
        int64_t second = 2 * t + !p->is_first,
                a = first + (second > 0 ? second - 1 : 0) * frame + y * row,
                b = first + second * frame + y * row;
        if (is_bf16)
            mean_of_two_bf16((uint16_t *)call->out + to, (const uint16_t *)call->in + a,
                             (const uint16_t *)call->in + b, row);
        else
            mean_of_two((float *)call->out + to, (const float *)call->in + a,
                        (const float *)call->in + b, row);
        return;
    }
    first += t * frame + 2 * y * row;
    for (int64_t x = 0; x < p->out.w; x++, to += C, first += 2 * C) {
        const uint16_t *half = (const uint16_t *)call->in + first;
        const float *in = (const float *)call->in + first;
        if (is_bf16)
            mean_of_four_bf16((uint16_t *)call->out + to, half, half + C, half + row,
                              half + row + C, C);
        else mean_of_four((float *)call->out + to, in, in + C, in + row, in + row + C, C);
    }
}

ctok_status ref_pool(backend *b, void *out, const void *in, const pool_params *p) {
    pixel_call call = {.out = out, .in = in, .params = p};
    return cpu_run(b, p->out.n * p->out.t * p->out.h, pool_row, &call);
}
