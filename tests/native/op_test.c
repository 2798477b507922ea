// Holds every CPU op to the truth. First the reference ops against answers worked out by hand, then
// each kernel set that this machine has against the reference on the shapes of op_shapes.h, then
// what no single op shows: results that do not depend on the number of threads or on how a clip is
// cut into chunks, cancelling, special values, memory. Prints TAP; the exit code is 1 when a test
// failed. Budgets, as relative L2: float32 rounds by 2^-24 = 6e-8 at most, and sums in runs of 192
// gather about 3e-7 where the reference, in float64, has none. conv 1e-6, and 2e-6 by Winograd,
// whose transformed values are larger than the result (measured: at most 1.2e-6); norm 1e-6;
// attention 2e-6, since scores of size s shift exp by s * 6e-8. The largest single error may be ten
// budgets of the root mean square: six deviations, and room for uneven sums. Over 400 lines because
// it is one list of independent tests over shared helpers, a section an op.
#include "../../csrc/backends/cpu/pool.h"
#include "op_support.h"

static const double CONV_BUDGET = 1e-6, WINOGRAD_BUDGET = 2e-6, NORM_BUDGET = 1e-6,
                    ATTENTION_BUDGET = 2e-6;

// ---------------------------------------------------------------- answers worked out by hand
static void test_known_conv(backend *b) {
    const float counting[] = {1, 2, 3, 4, 5, 6, 7, 8, 9}, zero[] = {0}, two[] = {2},
                ones[] = {1, 1, 1, 1, 1, 1, 1, 1, 1};
    float out[9];
    conv_params p = conv_of((ctok_shape){1, 1, 3, 3, 1}, (ctok_shape){1, 1, 3, 3, 1}, 3, 1, 1, 1);
    run_conv(b, out, counting, NULL, counting, zero, &p);
    // Centre: 1 + 4 + 9 + ... + 81. First corner: 5 6 8 9 of the kernel on 1 2 4 5. Last: 1 2 4 5
    // on 5 6 8 9.
    report(out[4] == 285 && out[0] == 94 && out[8] == 94, "%s conv of 1..9 with 1..9: %g %g %g",
           b->kernels->name, out[0], out[4], out[8]);

    p = conv_of((ctok_shape){1, 1, 3, 3, 1}, (ctok_shape){1, 1, 2, 2, 1}, 3, 2, 0, 1);
    run_conv(b, out, counting, ones, ones, two, &p);
    // 45 + bias + residual; then the columns 3 6 9 with zeros right of them, the rows 7 8 9 with
    // zeros below, and 9 alone.
    report(out[0] == 48 && out[1] == 21 && out[2] == 27 && out[3] == 12,
           "%s conv stride 2, padded after, bias, residual: %g %g %g %g", b->kernels->name, out[0],
           out[1], out[2], out[3]);

    p = conv_of((ctok_shape){1, 1, 1, 2, 1}, (ctok_shape){1, 1, 2, 4, 1}, 3, 1, 1, 2);
    run_conv(b, out, counting, NULL, ones, zero, &p);
    // 1 1 2 2 over 1 1 2 2: column sums 2 2 4 4, in windows of three.
    report(out[0] == 4 && out[1] == 8 && out[2] == 10 && out[3] == 8 && is_same(out, out + 4, 4),
           "%s conv upsampled: %g %g %g %g", b->kernels->name, out[0], out[1], out[2], out[3]);
    p.has_upsampled_residual = true;
    run_conv(b, out, counting, counting, ones, zero, &p);  // the same plus 1 1 2 2
    report(out[0] == 5 && out[1] == 9 && out[2] == 12 && out[3] == 10 && is_same(out, out + 4, 4),
           "%s conv upsampled, and its residual: %g %g %g %g", b->kernels->name, out[0], out[1],
           out[2], out[3]);

    const float two_in[] = {1, 10}, weight[] = {1, 2, 3, 4},
                bias[] = {0.5f, 0.25f};  // weight[out][in]
    p = conv_of((ctok_shape){1, 1, 1, 1, 2}, (ctok_shape){1, 1, 1, 1, 2}, 1, 1, 0, 1);
    run_conv(b, out, two_in, NULL, weight, bias, &p);
    report(out[0] == 21.5f && out[1] == 43.25f,
           "%s conv 1x1, rows of the weight are outputs: %g %g", b->kernels->name, out[0], out[1]);
}

// One pixel, one channel, frames 1 2 4, taps 1 10 100: each result spells what its taps read.
static void test_known_conv_time(backend *b) {
    const float in[] = {1, 2, 4}, past[] = {7, 5}, taps[] = {1, 10, 100}, zero[] = {0};
    const struct {
        const char *name;
        conv_time_shape shape;
        int32_t num_frames;
        float want[3];
    } cases[] = {
        {"in time", {1, 3, 1, 1, 1, 1, 1, 1, true, false, NONE}, 3, {111, 211, 421}},
        {"in time, past 7 5", {1, 3, 1, 1, 1, 1, 1, 1, false, true, NONE}, 3, {157, 215, 421}},
        {"in time, past 7 5, one frame", {1, 1, 1, 1, 1, 1, 1, 1, false, true, NONE}, 1, {157}},
        {"in time, halving", {1, 3, 1, 1, 1, 1, 2, 1, true, false, NONE}, 2, {111, 421}},
        {"in time, halving, past 7 5", {1, 2, 1, 1, 1, 1, 2, 1, false, true, NONE}, 1, {215}},
        {"in time, doubling to 1 2 2",
         {1, 2, 1, 1, 1, 1, 1, 2, true, false, NONE},
         3,
         {111, 211, 221}},
        {"in time, doubling, plus 1 2 2",
         {1, 2, 1, 1, 1, 1, 1, 2, true, false, UPSAMPLED},
         3,
         {112, 213, 223}},
        {"in time, doubling to 1 1 after 5 5",
         {1, 1, 1, 1, 1, 1, 1, 2, false, true, NONE},
         2,
         {155, 115}},
        {"in time, doubling to 1 1, plus 1 1",
         {1, 1, 1, 1, 1, 1, 1, 2, false, true, UPSAMPLED},
         2,
         {156, 116}},
    };
    for (int i = 0; i < NUM_SHAPES(cases); i++) {
        float out[3] = {0};
        conv_params p = conv_time_params_of(cases[i].shape);
        run_conv_past(b, out, in, cases[i].shape.has_past ? past : NULL,
                      p.has_upsampled_residual ? in : NULL, taps, zero, &p);
        report(p.out.t == cases[i].num_frames && is_same(out, cases[i].want, p.out.t),
               "%s conv %s: %g %g %g", b->kernels->name, cases[i].name, out[0], out[1], out[2]);
    }
}

static void test_known_norm_attention(backend *b) {
    float in[] = {3, -1, 3, -1}, out[4];
    const float scale[] = {2}, offset[] = {0.5f};
    norm_params p = {{1, 1, 2, 2, 1}, 1, 0.0f, false, CTOK_F32};
    op_norm(b, out, in, scale, offset, &p);  // mean 1, deviation 2
    report(out[0] == 2.5f && out[1] == -1.5f, "%s norm of +-2 about 1: %g %g", b->kernels->name,
           out[0], out[1]);
    p.has_silu = true;
    op_norm(b, out, in, scale, offset, &p);
    report(fabsf(out[0] - 2.3103545f) <= 3e-7f && fabsf(out[1] + 0.2736383f) <= 1e-7f,
           "%s norm with SiLU: %.7f %.7f", b->kernels->name, out[0], out[1]);

    const float q[] = {0, 1}, k[] = {0, logf(3)}, v[] = {4, 8};
    attention_params a = {.shape = {1, 1, 1, 2, 1}};
    run_attention(b, out, q, k, v, &a);  // a zero query sees the mean; the other weighs 1 : 3
    report(fabsf(out[0] - 6) <= 1e-6f && fabsf(out[1] - 7) <= 1e-6f,
           "%s attention of two positions: %.7g %.7g", b->kernels->name, out[0], out[1]);

    // Over time: the first frame sees itself; the second weighs 1 : 3; a window of one hides the
    // first.
    a = (attention_params){{1, 2, 1, 1, 1}, true, 0, 0, CTOK_F32};
    const float q_time[] = {1, 1};
    run_attention(b, out, q_time, k, v, &a);
    report(out[0] == 4 && fabsf(out[1] - 7) <= 1e-6f, "%s attention over time: %g %.7g",
           b->kernels->name, out[0], out[1]);
    a = (attention_params){{1, 1, 1, 1, 1}, true, 1, 0, CTOK_F32};
    run_attention(b, out, q_time, k, v, &a);
    a.window = 1;
    run_attention(b, out + 1, q_time, k, v, &a);
    report(fabsf(out[0] - 7) <= 1e-6f && out[1] == 8,
           "%s attention over time, one frame past: %.7g, window 1: %g", b->kernels->name, out[0],
           out[1]);
}

// Multiples of 1 / 128 below 1, which 6 halvings and doublings keep exactly.
static float *new_exact(int64_t count) {
    float *values = new_floats(count);
    for (int64_t i = 0; i < count; i++) values[i] = (float)(int32_t)(random_value() * 127) / 128.0f;
    return values;
}

// Each band is a signed mean of its patch: a bit a split, odd halves negative where it is set. From
// the top: step 2, then step 1 (patch 4); in a step W, H for an image and T, H, W for a video.
static double haar_band(const haar_params *p, const float *in, int64_t task, int32_t band,
                        int64_t c) {
    int64_t x = task % p->out.w, y = task / p->out.w % p->out.h,
            t = task / p->out.w / p->out.h % p->out.t;
    int64_t n = task / p->out.w / p->out.h / p->out.t, extra = p->is_first ? p->patch_t - 1 : 0;
    int32_t places = p->patch * p->patch * p->patch_t, dims = p->patch_t > 1 ? 3 : 2,
            w_bit = dims == 3 ? 0 : 1, h_bit = 1 - w_bit;
    double sum = 0;
    for (int32_t i = 0; i < places; i++) {
        int32_t dx = i % p->patch, dy = i / p->patch % p->patch, dt = i / p->patch / p->patch,
                negative = 0;
        for (int32_t step = 0; step < (p->patch == 4 ? 2 : 1); step++) {
            int32_t bits = band >> (step * dims);
            negative ^= (bits >> w_bit & dx >> step) ^ (bits >> h_bit & dy >> step) ^
                        (dims == 3 ? bits >> 2 & dt >> step : 0);
        }
        int64_t frame = t * p->patch_t + dt - extra > 0 ? t * p->patch_t + dt - extra : 0;
        double value = in[(((n * p->in.t + frame) * p->in.h + y * p->patch + dy) * p->in.w +
                           x * p->patch + dx) *
                              p->in.c +
                          c];
        sum += negative & 1 ? -value : value;
    }
    return sum / places;
}

static void test_haar(backend *b) {
    float counting[16], bands[16];
    for (int i = 0; i < 16; i++) counting[i] = (float)i;
    haar_params p = {{1, 1, 4, 4, 1}, {1, 1, 1, 1, 16}, 4, 1, true};
    op_haar(b, bands, counting, &p);
    // Means 7.5. Along H: neighbours differ by 4 (half: 2), pairs by 8; along W by 1 and 2. The
    // second step is outermost.
    const float want[16] = {7.5f, -2, -0.5f, 0, -4, 0, 0, 0, -1};
    report(is_same(bands, want, 16), "haar of 0..15: %g %g %g | %g %g", bands[0], bands[1],
           bands[2], bands[4], bands[8]);
    p = (haar_params){{1, 2, 2, 2, 1}, {1, 1, 1, 1, 8}, 2, 2, false};
    op_haar(b, bands, counting, &p);
    // Mean 3.5; along W neighbours differ by 1, along H by 2, along T by 4: bits 1, 2 and 4 of the
    // band.
    const float want_video[8] = {3.5f, -0.5f, -1, 0, -2};
    report(is_same(bands, want_video, 8), "haar of a video 0..7: %g %g %g %g %g", bands[0],
           bands[1], bands[2], bands[3], bands[4]);

    for (int s = 0; s < NUM_SHAPES(haar_shapes); s++) {
        haar_shape shape = haar_shapes[s];
        int32_t patch = shape.patch, places = patch * patch * shape.patch_t,
                extra = shape.is_first ? shape.patch_t - 1 : 0;
        ctok_shape pixels = {shape.n, shape.t, shape.h, shape.w, shape.c};
        ctok_shape out = {shape.n, (shape.t + extra) / shape.patch_t, shape.h / patch,
                          shape.w / patch, shape.c * places};
        haar_params forward = {pixels, out, patch, shape.patch_t, shape.is_first},
                    backward = forward;
        backward.in = out, backward.out = pixels;
        int64_t count = shape_elements(pixels), num_bands = shape_elements(out);
        random_seed(1);
        float *in = new_exact(count), *got = new_floats(num_bands),
              *expected = new_floats(num_bands), *back = new_floats(count);
        op_haar(b, got, in, &forward);
        op_unhaar(b, back, got, &backward);
        for (int64_t i = 0; i < num_bands; i++)
            expected[i] = (float)haar_band(&forward, in, i / out.c, (int32_t)(i % out.c / shape.c),
                                           i % shape.c);
        difference d = compare(got, expected, num_bands, 0);
        report(d.passed && is_same(back, in, count),
               "haar %dx%d %dx%dx%dx%dx%d%s: rel %.1e, and back%s", shape.patch_t, patch, shape.n,
               shape.t, shape.h, shape.w, shape.c, shape.is_first ? " first" : "", d.relative,
               is_same(back, in, count) ? "" : " changed");
        free(in), free(got), free(expected), free(back);
    }
}

static void test_pool(backend *b) {
    const float in[] = {1, 3, 5, 9};
    float out[4];
    pool_params p = {{1, 3, 1, 1, 1}, {1, 2, 1, 1, 1}, true, true, CTOK_F32};
    op_pool(b, out, in, &p);  // 1 and 1, 3 and 5
    p = (pool_params){{1, 4, 1, 1, 1}, {1, 2, 1, 1, 1}, true, false, CTOK_F32};
    op_pool(b, out + 2, in, &p);  // 1 and 3, 5 and 9
    report(out[0] == 1 && out[1] == 4 && out[2] == 2 && out[3] == 7,
           "pool in time: %g %g, later %g %g", out[0], out[1], out[2], out[3]);

    for (int s = 0; s < NUM_SHAPES(pool_shapes); s++) {
        pool_shape shape = pool_shapes[s];
        pool_params q = pool_params_of(shape, CTOK_F32);
        ctok_shape from = q.in, to = q.out;
        random_seed(3);
        float *values = new_random(shape_elements(from), 1, 0),
              *got = new_floats(shape_elements(to));
        ctok_status status = op_pool(b, got, values, &q);
        int64_t wrong = 0;
        for (int64_t i = 0; i < shape_elements(to); i++) {
            int64_t c = i % to.c, x = i / to.c % to.w, y = i / to.c / to.w % to.h,
                    t = i / to.c / to.w / to.h % to.t;
            int64_t n = i / to.c / to.w / to.h / to.t;
            double sum = 0;
            for (int64_t k = 0; k < 4; k++) {
                int64_t frame = t, line = 2 * y + k / 2, column = 2 * x + k % 2;
                if (shape.is_temporal)
                    frame = 2 * t + !shape.is_first - k % 2, line = y, column = x;
                if (frame < 0) frame = 0;
                sum +=
                    values[(((n * from.t + frame) * from.h + line) * from.w + column) * from.c + c];
            }
            if (!(got[i] == (float)(sum / 4))) wrong++;
        }
        report(status == CTOK_OK && wrong == 0, "pool %s%s %dx%dx%dx%dx%d: %lld wrong",
               shape.is_temporal ? "in time" : "in space", shape.is_first ? "" : ", later", shape.n,
               shape.t, shape.h, shape.w, shape.c, (long long)wrong);
        free(values), free(got);
    }
}

static void test_transfer(backend *b) {
    uint8_t bytes[768], back[768];
    float values[768];
    for (int i = 0; i < 768; i++) bytes[i] = (uint8_t)(i % 256);
    transfer_params p = {EXTERNAL_PIXELS_U8, {1, 1, 16, 16, 3}, 1, 16, 16, 0, 0, 0};
    op_load(b, values, bytes, NULL, &p);
    op_store(b, back, values, NULL, &p);
    report(memcmp(bytes, back, sizeof bytes) == 0, "pixels: all 256 bytes survive");
    // 127 / 255 = 0.498039216 -> * 2 - 1 in float32; exact ends.
    report(values[0] == -1.0f && values[255] == 1.0f && fabsf(values[127] + 1.0f / 255.0f) <= 6e-8f,
           "pixels: 0, 127, 255 are %g %.8g %g", values[0], values[127], values[255]);
    const float extremes[] = {NAN, INFINITY, -INFINITY, 2, -3, 0};
    p = (transfer_params){EXTERNAL_PIXELS_U8, {1, 1, 1, 2, 3}, 1, 1, 2, 0, 0, 0};
    op_store(b, back, extremes, NULL, &p);
    const uint8_t clamped[] = {0, 255, 0, 255, 0, 128};  // 0 is 127.5, which rounds up
    report(memcmp(back, clamped, 6) == 0,
           "pixels: NaN, +-inf, out of range, the middle: %d %d %d %d %d %d", back[0], back[1],
           back[2], back[3], back[4], back[5]);

    for (int s = 0; s < NUM_SHAPES(transfer_shapes); s++)
        for (int f = 0; f < 2; f++) {
            transfer_shape shape = transfer_shapes[s];
            p = transfer_params_of(shape, f);
            int64_t count = (int64_t)shape.n * shape.c * shape.frames * shape.height * shape.width;
            size_t num_bytes = (size_t)count * (f ? 4 : 1);
            random_seed(2);
            float *external_floats = new_random(count, 1, 0),
                  *inside = new_floats(shape_elements(p.shape));
            uint8_t *external = new_bytes(num_bytes), *restored = new_bytes(num_bytes);
            for (int64_t i = 0; i < count && !f; i++) external[i] = (uint8_t)((i * 37) % 256);
            if (f) memcpy(external, external_floats, num_bytes);
            op_load(b, inside, external, NULL, &p);
            op_store(b, restored, inside, NULL, &p);
            int64_t wrong = 0;
            for (int64_t i = 0; i < shape_elements(p.shape); i++) {
                int64_t c = i % shape.c, x = i / shape.c % shape.w - shape.left,
                        y = i / shape.c / shape.w % shape.h - shape.top;
                int64_t frame = i / shape.c / shape.w / shape.h, n = frame / shape.t,
                        t = frame % shape.t - shape.before;
                t = t < 0 ? 0 : t < shape.frames ? t : shape.frames - 1;
                float want = -1.0f;
                if (x >= 0 && y >= 0 && x < shape.width && y < shape.height)
                    want =
                        f ? external_floats[(((n * shape.c + c) * shape.frames + t) * shape.height +
                                             y) *
                                                shape.width +
                                            x]
                          : (float)external[(((n * shape.frames + t) * shape.height + y) *
                                                 shape.width +
                                             x) *
                                                shape.c +
                                            c] /
                                    255 * 2 -
                                1;
                if (!(inside[i] == want)) wrong++;
            }
            report(wrong == 0 && memcmp(external, restored, num_bytes) == 0,
                   "transfer %s %dx%dx%dx%dx%d in %dx%dx%d: %lld wrong", f ? "f32" : "u8", shape.n,
                   shape.frames, shape.height, shape.width, shape.c, shape.t, shape.h, shape.w,
                   (long long)wrong);
            free(external_floats), free(inside), free(external), free(restored);
        }
}

static void test_fsq(backend *b) {
    quantizer_params p = fsq_params_of(fsq_shapes[1]);
    // (8 - 1) * 1.001 / 2, atanh(0.5 / 3.5035), (5 - 1) * 1.001 / 2.
    report(fabsf(p.half_width[0] - 3.5035f) <= 3e-7f && fabsf(p.shift[0] - 0.143695f) <= 1e-6f &&
               p.offset[0] == 0.5f && p.half_width[5] == 2.002f && p.shift[5] == 0 &&
               p.offset[5] == 0 && p.basis[5] == 12800,
           "fsq tables of 8 8 8 5 5 5: half %.8g shift %.8g basis %d", p.half_width[0], p.shift[0],
           p.basis[5]);

    for (int s = 0; s < NUM_SHAPES(fsq_shapes); s++) {
        p = fsq_params_of(fsq_shapes[s]);
        int64_t d = p.shape.c, positions = shape_positions(p.shape),
                codebook = (int64_t)p.basis[d - 1] * p.levels[d - 1], wrong = 0;
        int32_t *indices = new_bytes((size_t)positions * 4),
                *got = new_bytes((size_t)positions * 4);
        float *codes = new_floats(positions * d), *again = new_floats(positions * d),
              *z = new_floats(positions * d);
        int64_t step = codebook > positions ? codebook / positions : 1;
        for (int64_t i = 0; i < positions; i++) indices[i] = (int32_t)(i * step % codebook);
        op_dequantize(b, codes, indices, NULL, NULL, &p);
        for (int64_t i = 0; i < positions * d; i++) {  // the z that the code stands for; past the
                                                       // ends of tanh, a large one
            int64_t c = i % d;
            double t = ((double)codes[i] * (p.levels[c] / 2) + p.offset[c]) / p.half_width[c];
            z[i] = (float)(atanh(fmin(fmax(t, -0.999), 0.999)) - p.shift[c]);
            int32_t digit = indices[i / d] / p.basis[c] % p.levels[c];
            if (p.levels[c] > 1000) z[i] = digit < p.levels[c] / 2 ? -20.0f : 20.0f;
        }
        op_quantize(b, got, again, z, NULL, NULL, &p);
        for (int64_t i = 0; i < positions; i++) {
            int32_t want = 0;
            for (int64_t c = 0; c < d; c++) {
                int32_t digit = indices[i] / p.basis[c] % p.levels[c];
                if (p.levels[c] > 1000) digit = digit < p.levels[c] / 2 ? 0 : p.levels[c] - 1;
                want += digit * p.basis[c];
                if (!(again[i * d + c] ==
                      (float)(digit - p.levels[c] / 2) / (float)(p.levels[c] / 2)))
                    wrong++;
            }
            if (got[i] != want) wrong++;
        }
        report(wrong == 0, "fsq %d levels from %d: %lld positions, indices and codes: %lld wrong",
               fsq_shapes[s].num_levels, p.levels[0], (long long)positions, (long long)wrong);
        free(indices), free(got), free(codes), free(again), free(z);
    }

    // tanh(z) = 0.5 exactly, times 1, 3, 5: a tie each time, which goes to the even digit.
    quantizer_params tie = {.shape = {1, 1, 1, 1, 3},
                            .kind = QUANTIZER_FSQ,
                            .size = 729,
                            .levels = {9, 9, 9},
                            .basis = {1, 9, 81},
                            .half_width = {1, 3, 5}};
    float half = 0.5493f, codes[3];
    while ((float)tanh((double)half) < 0.5f) half = nextafterf(half, 1);
    const float z[] = {half, half, -half};
    op_quantize(b, NULL, codes, z, NULL, NULL, &tie);
    report(
        (float)tanh((double)half) == 0.5f && codes[0] == 0 && codes[1] == 0.5f && codes[2] == -0.5f,
        "fsq ties go to even: 0.5 1.5 -2.5 are %g %g %g", codes[0] * 4, codes[1] * 4, codes[2] * 4);

    int32_t index = -1;
    const float special[] = {NAN, INFINITY, -INFINITY};
    op_quantize(b, &index, codes, special, NULL, NULL, &tie);
    report(isnan(codes[0]) && codes[1] == 0.75f && codes[2] == -1 && index == (3 + 4) * 9,
           "fsq of NaN, inf, -inf: %g %g %g, index %d", codes[0], codes[1], codes[2], index);
}

// ---------------------------------------------------------------- codes looked up, and signs
static void test_known_lookup(backend *b) {
    const float codebook[] = {0, 0, 0.6f, 0.8f, 1, 0, 0, 1, 1, 0, -1, 0};
    const float z[] = {5, 0.1f, 3, 4, -1e-20f, 0, 0, 0, 1, 2, NAN, 1, 0, INFINITY, -2, 1e-9f};
    quantizer_params p = {.shape = {1, 1, 1, 8, 2}, .kind = QUANTIZER_LOOKUP, .size = 6};
    // 2 and 4 are equal; what is shorter than 1e-12, and zero, is nearest the zero row; (1, 2)
    // makes 2.2 with (0.6, 0.8) and 2 with (0, 1).
    const int32_t want[] = {2, 1, 0, 0, 1, 0, 0, 5};
    int32_t indices[8];
    float codes[16];
    op_quantize(b, indices, codes, z, codebook, NULL, &p);
    bool has_nan = true, is_code = true;
    for (int i = 0; i < 8; i++)
        for (int c = 0; c < 2; c++) {
            if (i == 5 || i == 6) has_nan &= isnan(codes[i * 2 + c]);
            else is_code &= codes[i * 2 + c] == codebook[want[i] * 2 + c];
        }
    report(is_same(indices, want, 8) && has_nan && is_code,
           "%s lookup, by hand: %d %d %d %d %d %d %d %d", b->kernels->name, indices[0], indices[1],
           indices[2], indices[3], indices[4], indices[5], indices[6], indices[7]);
    op_dequantize(b, codes, want, codebook, NULL, &p);
    for (int i = 0; i < 16; i++) is_code &= codes[i] == codebook[want[i / 2] * 2 + i % 2];
    report(is_code, "%s codes of looked-up indices", b->kernels->name);
    p.kind = QUANTIZER_NONE;
    ctok_status status = op_quantize(b, indices, codes, z, codebook, NULL, &p);
    report(status == CTOK_E_INTERNAL, "%s no quantizer is refused", b->kernels->name);
}

// The reference against distances summed here in long double, of vectors that are not rounded: no
// code is nearer than its, but by what rounding the vector to float32 may change; and none before
// it is equal. Then each set against the reference, bit for bit.
static void test_lookup(backend *reference, backend **sets, int num_sets) {
    for (int s = 0; s < NUM_SHAPES(lookup_shapes); s++) {
        quantizer_params p = lookup_params_of(lookup_shapes[s]);
        int64_t d = p.shape.c, positions = shape_positions(p.shape), count = positions * d,
                wrong = 0;
        random_seed((uint64_t)s + 700);
        float *codebook = new_codebook(&p), *z = new_lookup_vectors(&p, codebook);
        float *want = new_floats(count), *got = new_floats(count);
        int32_t *want_indices = new_bytes((size_t)positions * 4),
                *indices = new_bytes((size_t)positions * 4);
        ctok_status status = op_quantize(reference, want_indices, want, z, codebook, NULL, &p);
        for (int64_t i = 0; i < positions; i++) {
            long double square = 0, own = 0, least = INFINITY;
            for (int64_t c = 0; c < d; c++) square += (long double)z[i * d + c] * z[i * d + c];
            for (int64_t k = 0; k < p.size && isfinite((double)square); k++) {
                long double distance = 0, length = fmaxl(sqrtl(square), 1e-12L);
                for (int64_t c = 0; c < d; c++) {
                    long double gap = z[i * d + c] / length - codebook[k * d + c];
                    distance += gap * gap;
                }
                if (distance < least) least = distance;
                if (k == want_indices[i]) own = distance;
            }
            if (!(own <= least + 5e-7L)) wrong++;
            const float *code = codebook + want_indices[i] * d;
            for (const float *row = codebook; row < code; row += d) wrong += is_same(row, code, d);
        }
        report(status == CTOK_OK && wrong == 0,
               "reference lookup %lldx%lld of %d: %lld not the nearest", (long long)positions,
               (long long)d, p.size, (long long)wrong);
        for (int i = 0; i < num_sets; i++) {
            status = op_quantize(sets[i], indices, got, z, codebook, NULL, &p);
            int64_t different = count_different(got, want, count), others = 0;
            for (int64_t k = 0; k < positions; k++) others += indices[k] != want_indices[k];
            bool is_ok = status == CTOK_OK && different == 0 && others == 0;
            is_ok &= op_quantize(sets[i], NULL, got, z, codebook, NULL, &p) == CTOK_OK;
            is_ok &= count_different(got, want, count) == 0;
            report(
                is_ok,
                "%s lookup %lldx%lld of %d: %lld indices and %lld values are not the reference's",
                sets[i]->kernels->name, (long long)positions, (long long)d, p.size,
                (long long)others, (long long)different);
        }
        free(codebook), free(z), free(want), free(got), free(want_indices), free(indices);
    }
}

static void test_sign(backend *b) {
    const float z[] = {0.5f, -0.5f, 0, NAN, INFINITY, -1e-30f, 1e-30f};
    float codes[7];
    int32_t index = -1;
    quantizer_params p = {.shape = {1, 1, 1, 1, 7}, .kind = QUANTIZER_SIGN, .size = 128};
    op_quantize(b, &index, codes, z, NULL, NULL, &p);
    bool is_ok = codes[0] == 1 && codes[1] == -1 && codes[2] == -1 && isnan(codes[3]);
    is_ok &= codes[4] == 1 && codes[5] == -1 && codes[6] == 1;
    report(index == 1 + 16 + 64 && is_ok, "sign of 0.5 -0.5 0 NaN inf -1e-30 1e-30: index %d",
           index);
    for (int s = 0; s < NUM_SHAPES(sign_shapes); s++) {
        p = sign_params_of(sign_shapes[s]);
        int64_t positions = shape_positions(p.shape), d = p.shape.c, wrong = 0;
        random_seed((uint64_t)s + 800);
        float *values = new_random(positions * d, 1, 0);
        float *got = new_floats(positions * d), *again = new_floats(positions * d);
        int32_t *indices = new_bytes((size_t)positions * 4);
        ctok_status status = op_quantize(b, indices, got, values, NULL, NULL, &p);
        if (status == CTOK_OK) status = op_dequantize(b, again, indices, NULL, NULL, &p);
        for (int64_t i = 0; i < positions; i++) {
            int64_t want = 0;
            for (int64_t c = d - 1; c >= 0; c--) want = want * 2 + (values[i * d + c] > 0);
            wrong += indices[i] != want;
            for (int64_t c = 0; c < d; c++)
                wrong += got[i * d + c] != (values[i * d + c] > 0 ? 1 : -1);
        }
        report(status == CTOK_OK && wrong == 0 && is_same(got, again, positions * d),
               "sign %lldx%lld: %lld wrong", (long long)positions, (long long)d, (long long)wrong);
        free(values), free(got), free(again), free(indices);
    }
}

// ---------------------------------------------------------------- every kernel set against the
// reference

static void test_conv(backend *reference, backend **sets, int num_sets, const conv_shape *shapes,
                      int num_shapes, double budget) {
    for (int s = 0; s < num_shapes; s++) {
        conv_shape shape = shapes[s];
        conv_params p = conv_params_of(shape);
        if (is_too_long(&p, conv_name(shape).text)) continue;
        int64_t count = shape_elements(p.out);
        random_seed((uint64_t)s + 10);
        float *in = new_random(shape_elements(p.in), 1, 0.1f),
              *bias = new_random(shape.c_out, 1, 0);
        float *weight =
            new_random((int64_t)shape.c_out * shape.c_in * shape.kernel * shape.kernel, 1, 0);
        int64_t residual_count = shape.residual == UPSAMPLED ? shape_elements(p.in) : count;
        float *residual = shape.residual ? new_random(residual_count, 4, 0) : NULL,
              *want = new_floats(count);
        run_conv(reference, want, in, residual, weight, bias, &p);
        for (int i = 0; i < num_sets; i++) {
            bool is_plain = shape.residual == PLAIN;
            float *got = is_plain ? new_copy(residual, count)
                                  : new_floats(count);  // out == residual is allowed
            ctok_status status =
                run_conv(sets[i], got, in, is_plain ? got : residual, weight, bias, &p);
            report_difference(compare(got, want, count, budget), status, p.out,
                              sets[i]->kernels->name, conv_name(shape).text);
            free(got);
        }
        free(in), free(bias), free(weight), free(residual), free(want);
    }
}

static void test_conv_time(backend *reference, backend **sets, int num_sets) {
    for (int s = 0; s < NUM_SHAPES(conv_time_shapes); s++) {
        conv_time_shape shape = conv_time_shapes[s];
        conv_params p = conv_time_params_of(shape);
        int64_t count = shape_elements(p.out), frame = shape_elements(p.in) / p.in.t;
        random_seed((uint64_t)s + 50);
        float *in = new_random(frame * p.in.t, 1, 0.1f), *bias = new_random(shape.c_out, 1, 0),
              *want = new_floats(count);
        float *weight = new_random((int64_t)shape.c_out * shape.c_in * 3, 1, 0);
        float *past = shape.has_past ? new_random(frame * 2, 1, 0.1f) : NULL;
        float *residual = shape.residual
                              ? new_random(shape.residual == PLAIN ? count : frame * p.in.t, 4, 0)
                              : NULL;
        run_conv_past(reference, want, in, past, residual, weight, bias, &p);
        for (int i = 0; i < num_sets; i++) {
            bool is_plain = shape.residual == PLAIN;
            float *got = is_plain ? new_copy(residual, count) : new_floats(count);
            ctok_status status =
                run_conv_past(sets[i], got, in, past, is_plain ? got : residual, weight, bias, &p);
            report_difference(compare(got, want, count, CONV_BUDGET), status, p.out,
                              sets[i]->kernels->name, conv_time_name(shape).text);
            free(got);
        }
        free(in), free(bias), free(want), free(weight), free(past), free(residual);
    }
}

static void test_norm(backend *reference, backend **sets, int num_sets) {
    for (int s = 0; s < NUM_SHAPES(norm_shapes); s++) {
        norm_shape shape = norm_shapes[s];
        norm_params p = norm_params_of(shape);
        int64_t count = shape_elements(p.shape);
        random_seed((uint64_t)s + 100);
        float *in = new_random(count, 1.7320508f, shape.mean), *scale = new_random(shape.c, 1, 1),
              *offset = new_random(shape.c, 1, 0);
        float *want = new_floats(count);
        op_norm(reference, want, in, scale, offset, &p);
        for (int i = 0; i < num_sets; i++) {
            float *got = new_floats(count), *in_place = new_copy(in, count);
            ctok_status status = op_norm(sets[i], got, in, scale, offset, &p);
            op_norm(sets[i], in_place, in_place, scale, offset, &p);
            char name[128];
            snprintf(name, sizeof name, "norm %dx%dx%dx%d groups %d mean %g%s", shape.n, shape.h,
                     shape.w, shape.c, shape.groups, (double)shape.mean,
                     shape.has_silu ? " +silu" : "");
            difference d = compare(got, want, count, NORM_BUDGET);
            report_difference(d, status, p.shape, sets[i]->kernels->name, name);
            report(is_same(got, in_place, count), "%s %s: in place the same",
                   sets[i]->kernels->name, name);
            free(got), free(in_place);
        }
        free(in), free(scale), free(offset), free(want);
    }
}

static void test_attention(backend *reference, backend **sets, int num_sets) {
    for (int s = 0; s < NUM_SHAPES(attention_shapes); s++) {
        attention_shape shape = attention_shapes[s];
        attention_params p = {.shape = {shape.n, 1, shape.h, shape.w, shape.c}};
        int64_t count = shape_elements(p.shape);
        random_seed((uint64_t)s + 200);
        float *q = new_random(count, shape.spread, 0), *k = new_random(count, 1.7320508f, 0),
              *v = new_random(count, 1, 0);
        float *want = new_floats(count);
        run_attention(reference, want, q, k, v, &p);
        for (int i = 0; i < num_sets; i++) {
            float *got = new_floats(count);
            ctok_status status = run_attention(sets[i], got, q, k, v, &p);
            char name[128];
            snprintf(name, sizeof name, "attention %dx%dx%dx%d spread %g", shape.n, shape.h,
                     shape.w, shape.c, (double)shape.spread);
            report_difference(compare(got, want, count, ATTENTION_BUDGET), status, p.shape,
                              sets[i]->kernels->name, name);
            free(got);
        }
        free(q), free(k), free(v), free(want);
    }
}

static void test_attention_time(backend *reference, backend **sets, int num_sets) {
    for (int s = 0; s < NUM_SHAPES(attention_time_shapes); s++) {
        attention_time_shape shape = attention_time_shapes[s];
        attention_params p = {{shape.n, shape.t, shape.h, shape.w, shape.c},
                              true,
                              shape.num_past,
                              shape.window,
                              CTOK_F32};
        int64_t count = shape_elements(p.shape),
                num_keys = count / shape.t * (shape.t + shape.num_past);
        random_seed((uint64_t)s + 250);
        float *q = new_random(count, shape.spread, 0), *k = new_random(num_keys, 1.7320508f, 0),
              *v = new_random(num_keys, 1, 0);
        float *want = new_floats(count);
        run_attention(reference, want, q, k, v, &p);
        for (int i = 0; i < num_sets; i++) {
            float *got = new_floats(count);
            ctok_status status = run_attention(sets[i], got, q, k, v, &p);
            char name[128];
            snprintf(name, sizeof name,
                     "attention over time %dx%dx%dx%dx%d past %d window %d spread %g", shape.n,
                     shape.t, shape.h, shape.w, shape.c, shape.num_past, shape.window,
                     (double)shape.spread);
            report_difference(compare(got, want, count, ATTENTION_BUDGET), status, p.shape,
                              sets[i]->kernels->name, name);
            free(got);
        }
        free(q), free(k), free(v), free(want);
    }
}

// ---------------------------------------------------------------- frames and chunks
// In space every frame stands alone: 2 clips of 3 frames and 6 images are the same bits.
static void test_frames(backend *b) {
    ctok_shape clips = {2, 3, 18, 21, 64}, images = {6, 1, 18, 21, 64};  // enough for Winograd
    int64_t count = shape_elements(clips);
    random_seed(350);
    float *in = new_random(count, 1, 0), *k = new_random(count, 1, 0),
          *weight = new_random(64 * 64 * 9, 1, 0), *residual = in;
    float *got = new_floats(count), *want = new_floats(count);
    for (int32_t kernel = 1; kernel <= 3; kernel += 2) {
        conv_params conv = conv_of(clips, clips, kernel, 1, kernel / 2, 1);
        ctok_status status = run_conv(b, got, in, residual, weight, weight, &conv);
        conv.in = conv.out = images;
        run_conv(b, want, in, residual, weight, weight, &conv);
        report(status == CTOK_OK && is_same(got, want, count),
               "%s conv k%d: 2 clips of 3 frames are 6 images", b->kernels->name, kernel);
    }
    for (int32_t groups = 1; groups <= 32; groups += 31) {
        norm_params norm = {clips, groups, 1e-6f, true, CTOK_F32};
        ctok_status status = op_norm(b, got, in, weight, weight, &norm);
        norm.shape = images;
        op_norm(b, want, in, weight, weight, &norm);
        report(status == CTOK_OK && is_same(got, want, count),
               "%s norm groups %d: 2 clips of 3 frames are 6 images", b->kernels->name, groups);
    }
    attention_params attention = {.shape = clips};
    ctok_status status = run_attention(b, got, in, k, in, &attention);
    attention.shape = images;
    run_attention(b, want, in, k, in, &attention);
    report(status == CTOK_OK && is_same(got, want, count),
           "%s attention: 2 clips of 3 frames are 6 images", b->kernels->name);
    free(in), free(k), free(weight), free(got), free(want);
}

// In time every clip of a batch stands alone: 3 clips, each with a past of its own, are the same
// bits as one by one.
static void test_clips(backend *b) {
    enum { CLIPS = 3, T = 4, PAST = 2, H = 3, W = 7, C = 64, FRAME = H * W * C };
    const ctok_shape clips = {CLIPS, T, H, W, C};
    random_seed(355);
    float *in = new_random(CLIPS * T * FRAME, 1, 0), *past = new_random(CLIPS * 2 * FRAME, 1, 0),
          *keys = new_random(CLIPS * (PAST + T) * FRAME, 1, 0),
          *weight = new_random(C * C * 3, 1, 0), *got = new_floats(CLIPS * T * FRAME),
          *want = new_floats(CLIPS * T * FRAME);
    conv_params conv =
        conv_time_params_of((conv_time_shape){CLIPS, T, H, W, C, C, 1, 1, false, true, PLAIN});
    bool is_ok = run_conv_past(b, got, in, past, in, weight, weight, &conv) == CTOK_OK;
    conv.in.n = conv.out.n = 1;
    for (int64_t n = 0; n < CLIPS; n++)
        is_ok &= run_conv_past(b, want + n * T * FRAME, in + n * T * FRAME, past + n * 2 * FRAME,
                               in + n * T * FRAME, weight, weight, &conv) == CTOK_OK;
    report(is_ok && is_same(got, want, CLIPS * T * FRAME), "%s conv in time: 3 clips as one by one",
           b->kernels->name);
    for (int64_t num_past = 0; num_past <= PAST; num_past += PAST) {
        attention_params p = {clips, true, num_past, num_past ? 3 : 0, CTOK_F32};
        is_ok = run_attention(b, got, in, keys, keys, &p) == CTOK_OK;
        p.shape.n = 1;
        for (int64_t n = 0; n < CLIPS; n++) {
            const float *own = keys + n * (num_past + T) * FRAME;
            is_ok &=
                run_attention(b, want + n * T * FRAME, in + n * T * FRAME, own, own, &p) == CTOK_OK;
        }
        report(is_ok && is_same(got, want, CLIPS * T * FRAME),
               "%s attention over time, past %d: 3 clips as one by one", b->kernels->name,
               (int)num_past);
    }
    free(in), free(past), free(keys), free(weight), free(got), free(want);
}

// A clip of 9 frames in chunks of 1, 2, 4 and 2 gives the bits of the whole clip, each chunk
// knowing only what came before.
enum {
    CHUNK_H = 5,
    CHUNK_W = 7,
    CHUNK_C = 48,
    CHUNK_FRAME = CHUNK_H * CHUNK_W * CHUNK_C,
    CHUNK_T = 9
};
static const int32_t chunk_frames[] = {1, 2, 4, 2};

static void test_conv_chunks(backend *b, int32_t stride, int32_t upsample) {
    random_seed(360);
    float *in = new_random(CHUNK_T * CHUNK_FRAME, 1, 0),
          *weight = new_random(CHUNK_C * CHUNK_C * 3, 1, 0);
    float *want = new_floats(2 * CHUNK_T * CHUNK_FRAME),
          *got = new_floats(2 * CHUNK_T * CHUNK_FRAME);
    residual_kind kind = upsample == 2 ? UPSAMPLED : NONE;
    conv_time_shape whole_shape = {1,      CHUNK_T,  CHUNK_H, CHUNK_W, CHUNK_C, CHUNK_C,
                                   stride, upsample, true,    false,   kind};
    conv_params whole = conv_time_params_of(whole_shape);
    bool is_ok = run_conv(b, want, in, kind ? in : NULL, weight, weight, &whole) == CTOK_OK;
    int64_t first = 0, out_frames = 0;
    for (int i = 0; i < NUM_SHAPES(chunk_frames); first += chunk_frames[i++]) {
        conv_time_shape shape = {1,      chunk_frames[i], CHUNK_H, CHUNK_W, CHUNK_C, CHUNK_C,
                                 stride, upsample,        i == 0,  i > 0,   kind};
        conv_params p = conv_time_params_of(shape);
        float *chunk = new_copy(in + first * CHUNK_FRAME, chunk_frames[i] * CHUNK_FRAME),
              *past = new_floats(2 * CHUNK_FRAME);
        for (int64_t j = 0; j < 2; j++) {  // before the first frame there is the first frame
            int64_t frame = first - 2 + j > 0 ? first - 2 + j : 0;
            memcpy(past + j * CHUNK_FRAME, in + frame * CHUNK_FRAME, CHUNK_FRAME * sizeof(float));
        }
        float *out = got + out_frames * CHUNK_FRAME;
        is_ok &= run_conv_past(b, out, chunk, i ? past : NULL, kind ? chunk : NULL, weight, weight,
                               &p) == CTOK_OK;
        out_frames += p.out.t;
        free(chunk), free(past);
    }
    report(is_ok && out_frames == whole.out.t && is_same(got, want, out_frames * CHUNK_FRAME),
           "%s conv in time s%d up%d: chunks of 1 2 4 2 give the whole clip", b->kernels->name,
           stride, upsample);
    free(in), free(weight), free(want), free(got);
}

static void test_pool_attention_chunks(backend *b) {
    random_seed(361);
    const int64_t window = 3;
    ctok_shape clip = {1, CHUNK_T, CHUNK_H, CHUNK_W, CHUNK_C};
    int64_t count = shape_elements(clip);
    float *in = new_random(count, 1, 0), *k = new_random(count, 1, 0), *v = new_random(count, 1, 0);
    float *want[3], *got[3];  // pooled; attention; attention in a window
    for (int i = 0; i < 3; i++) want[i] = new_floats(count), got[i] = new_floats(count);
    pool_params pool = {clip, clip, true, true, CTOK_F32};
    pool.out.t = (CHUNK_T + 1) / 2;
    attention_params all = {clip, true, 0, 0, CTOK_F32}, near = {clip, true, 0, window, CTOK_F32};
    bool is_ok = op_pool(b, want[0], in, &pool) == CTOK_OK;
    is_ok &= run_attention(b, want[1], in, k, v, &all) == CTOK_OK &&
             run_attention(b, want[2], in, k, v, &near) == CTOK_OK;
    int64_t first = 0, pooled = 0;
    for (int i = 0; i < NUM_SHAPES(chunk_frames); first += chunk_frames[i++]) {
        pool.is_first = i == 0;
        pool.in.t = all.shape.t = near.shape.t = chunk_frames[i];
        pool.out.t = (chunk_frames[i] + pool.is_first) / 2;
        all.num_past = first;
        near.num_past = first < window - 1 ? first : window - 1;  // no more is kept
        int64_t at = first * CHUNK_FRAME, seen = (first - near.num_past) * CHUNK_FRAME;
        is_ok &= op_pool(b, got[0] + pooled * CHUNK_FRAME, in + at, &pool) == CTOK_OK;
        is_ok &= run_attention(b, got[1] + at, in + at, k, v, &all) == CTOK_OK;
        is_ok &= run_attention(b, got[2] + at, in + at, k + seen, v + seen, &near) == CTOK_OK;
        pooled += pool.out.t;
    }
    bool pool_same = is_same(got[0], want[0], pooled * CHUNK_FRAME),
         all_same = is_same(got[1], want[1], count);
    report(is_ok && pool_same && all_same && is_same(got[2], want[2], count),
           "%s pool%s and attention%s over time: chunks of 1 2 4 2 give the whole clip",
           b->kernels->name, pool_same ? "" : " (differs)", all_same ? "" : " (differs)");
    for (int i = 0; i < 3; i++) free(want[i]), free(got[i]);
    free(in), free(k), free(v);
}

static void test_time(backend *b) {
    test_frames(b);
    test_clips(b);
    test_conv_chunks(b, 1, 1);
    test_conv_chunks(b, 2, 1);
    test_conv_chunks(b, 1, 2);
    test_pool_attention_chunks(b);
}

// NaN and infinity must come out where the reference has them: weights of damaged checkpoints are
// told, not hidden.
static void test_special_values(backend *reference, backend **sets, int num_sets) {
    conv_params conv =
        conv_of((ctok_shape){1, 1, 9, 17, 5}, (ctok_shape){1, 1, 9, 17, 40}, 3, 1, 1, 1);
    conv_params conv_time =
        conv_time_params_of((conv_time_shape){1, 3, 3, 17, 5, 40, 1, 1, true, false, NONE});
    norm_params norm = {{2, 1, 5, 5, 64}, 32, 1e-6f, true, CTOK_F32};
    attention_params attention = {.shape = {1, 1, 5, 9, 33}},
                     attention_time = {{1, 5, 1, 9, 33}, true, 0, 0, CTOK_F32};
    int64_t count = 9 * 17 * 40, norm_count = shape_elements(norm.shape),
            attention_count = shape_elements(attention.shape);
    random_seed(300);
    float *in = new_random(9 * 17 * 5, 1, 0), *weight = new_random(40 * 5 * 9, 1, 0);
    float *bias = new_random(64, 1, 0), *scale = new_random(64, 1, 0);
    float *x = new_random(norm_count, 1, 0), *q = new_random(attention_count, 1, 0),
          *k = new_random(attention_count, 1, 0);
    float *v = new_random(attention_count, 1, 0), *want = new_floats(count),
          *got = new_floats(count);
    in[(4 * 17 + 14) * 5 + 2] = NAN, in[3] = INFINITY;
    x[3 * 64 + 7] = NAN, x[norm_count - 1] = INFINITY;
    q[12 * 33] = NAN, v[33 * 20 + 32] = INFINITY;
    for (int i = 0; i < num_sets; i++) {
        const char *name = sets[i]->kernels->name;
        run_conv(reference, want, in, NULL, weight, bias, &conv);
        ctok_status status = run_conv(sets[i], got, in, NULL, weight, bias, &conv);
        report_difference(compare(got, want, count, CONV_BUDGET), status, conv.out, name,
                          "conv with NaN and inf");
        run_conv(reference, want, in, NULL, weight, bias, &conv_time);
        status = run_conv(sets[i], got, in, NULL, weight, bias, &conv_time);
        report_difference(compare(got, want, count, CONV_BUDGET), status, conv_time.out, name,
                          "conv in time with NaN and inf");
        op_norm(reference, want, x, scale, bias, &norm);
        status = op_norm(sets[i], got, x, scale, bias, &norm);
        report_difference(compare(got, want, norm_count, NORM_BUDGET), status, norm.shape, name,
                          "norm with NaN and inf");
        run_attention(reference, want, q, k, v, &attention);
        status = run_attention(sets[i], got, q, k, v, &attention);
        report_difference(compare(got, want, attention_count, ATTENTION_BUDGET), status,
                          attention.shape, name, "attention with NaN and inf");
        run_attention(reference, want, q, k, v, &attention_time);
        status = run_attention(sets[i], got, q, k, v, &attention_time);
        report_difference(compare(got, want, attention_count, ATTENTION_BUDGET), status,
                          attention_time.shape, name, "attention over time with NaN and inf");
    }
    free(in), free(weight), free(bias), free(scale), free(x), free(q), free(k), free(v), free(want),
        free(got);
}

// Winograd spreads a NaN over the tiles of 4 x 4 outputs that read it: rows and columns 8 .. 15 of
// one at 11 or 12 (its reference: 10 .. 13), and no further.
static void test_special_values_wide(backend **sets, int num_sets) {
    ctok_shape s = {1, 1, SPECIAL_H, SPECIAL_W, SPECIAL_C};
    conv_params conv = conv_of(s, s, 3, 1, 1, 1);
    int64_t count = shape_elements(s);
    random_seed(310);
    float *in = new_random(count, 1, 0), *weight = new_random(64 * 64 * 9, 1, 0),
          *got = new_floats(count);
    put_specials(in);
    for (int i = 0; i < num_sets; i++) {
        ctok_status status = run_conv(sets[i], got, in, NULL, weight, weight, &conv);
        report(status == CTOK_OK && specials_stay(got, 8, 15),
               "%s wide conv: NaN and inf stay in the tiles that read them",
               sets[i]->kernels->name);
    }
    free(in), free(weight), free(got);
}

// ---------------------------------------------------------------- threads, cancelling, opening
// One result of each threaded op, laid end to end.
enum {
    THREAD_CONV = 19 * 23 * 48,
    THREAD_NORM = 33 * 65 * 32,
    THREAD_ATTENTION = 17 * 19 * 64,
    THREAD_TIME = 5 * 13 * 19 * 48,
    THREAD_WIDE = 33 * 65 * 32,
    WIDE_CHANNELS = 512
};

static bool run_all(backend *b, float *out) {
    conv_params conv =
        conv_of((ctok_shape){1, 1, 19, 23, 36}, (ctok_shape){1, 1, 19, 23, 48}, 3, 1, 1, 1);
    conv_params conv_time =
        conv_time_params_of((conv_time_shape){1, 5, 13, 19, 48, 48, 1, 1, true, false, NONE});
    norm_params norm = {{1, 1, 33, 65, 32}, 32, 1e-6f, true, CTOK_F32};
    attention_params attention = {.shape = {1, 1, 17, 19, 64}},
                     attention_time = {conv_time.out, true, 0, 0, CTOK_F32};
    // By Winograd, in parts for 1 thread and at once for more.
    conv_params conv_wide = conv_of((ctok_shape){1, 1, 33, 65, WIDE_CHANNELS},
                                    (ctok_shape){1, 1, 33, 65, 32}, 3, 1, 1, 1);
    random_seed(400);
    float *in = new_random(33 * 65 * WIDE_CHANNELS, 1, 0),
          *weight = new_random(32 * WIDE_CHANNELS * 9, 1, 0),
          *k = new_random(THREAD_ATTENTION, 1, 0);
    bool is_ok = run_conv(b, out, in, NULL, weight, weight, &conv) == CTOK_OK;
    is_ok &= op_norm(b, out + THREAD_CONV, in, weight, weight + 32, &norm) == CTOK_OK;
    out += THREAD_CONV;
    is_ok &= run_attention(b, out += THREAD_NORM, in, k, in, &attention) == CTOK_OK;
    is_ok &= run_conv(b, out += THREAD_ATTENTION, in, NULL, weight, weight, &conv_time) == CTOK_OK;
    is_ok &= run_attention(b, out += THREAD_TIME, in, in, in, &attention_time) == CTOK_OK;
    is_ok &= run_conv(b, out += THREAD_TIME, in, NULL, weight, weight, &conv_wide) == CTOK_OK;
    free(in), free(weight), free(k);
    return is_ok;
}

static void test_threads(uint32_t kernels) {
    enum { COUNT = THREAD_CONV + THREAD_NORM + THREAD_ATTENTION + 2 * THREAD_TIME + THREAD_WIDE };
    float *first = new_floats(COUNT), *other = new_floats(COUNT);
    const uint32_t num_threads[] = {1, 2, 3, 7};
    const char *name = "";
    bool is_same_everywhere = true;
    for (int i = 0; i < 4; i++) {
        backend *b = NULL;
        if (cpu_backend_open(&b, num_threads[i], kernels, NULL) != CTOK_OK) {
            is_same_everywhere = false;
            continue;
        }
        name = b->kernels->name;
        is_same_everywhere &=
            run_all(b, i ? other : first) && (i == 0 || is_same(first, other, COUNT));
        b->close(b);
    }
    report(is_same_everywhere, "%s: 1, 2, 3 and 7 threads give the same bits", name);
    free(first), free(other);
}

static void test_cancel(backend *b) {
    atomic_bool cancel = true;
    float values[64] = {0}, more[64] = {0};
    uint8_t bytes[64] = {0};
    int32_t indices[4] = {0};
    ctok_shape s = {1, 1, 2, 2, 3};
    conv_params conv = conv_of(s, s, 3, 1, 1, 1);
    norm_params norm = {s, 1, 1e-6f, true, CTOK_F32};
    attention_params attention = {.shape = s}, attention_time = {s, true, 0, 0, CTOK_F32};
    haar_params haar = {s, {1, 1, 1, 1, 12}, 2, 1, true},
                unhaar = {{1, 1, 1, 1, 12}, s, 2, 1, true};
    pool_params pool = {s, {1, 1, 1, 1, 3}, false, true, CTOK_F32};
    transfer_params transfer = {EXTERNAL_PIXELS_U8, s, 1, 2, 2, 0, 0, 0};
    quantizer_params fsq = {.shape = s};
    quantizer_set_levels(&fsq, (const uint32_t[]){8, 8, 8}, 3);
    quantizer_params lookup = {.shape = s, .kind = QUANTIZER_LOOKUP, .size = 8};
    float weight[81] = {0};
    ctok_shape wide = {1, 1, 20, 24, 64};  // by Winograd: two loops
    conv_params conv_wide = conv_of(wide, wide, 3, 1, 1, 1);
    float *image = new_random(shape_elements(wide), 1, 0),
          *wide_out = new_floats(shape_elements(wide));
    float *wide_weight = new_random(64 * 64 * 9, 1, 0);
    b->cancel = &cancel;
    int num_stopped =
        (run_conv(b, more, values, NULL, weight, weight, &conv) == CTOK_E_CANCELLED) +
        (run_conv(b, wide_out, image, NULL, wide_weight, wide_weight, &conv_wide) ==
         CTOK_E_CANCELLED) +
        (op_norm(b, more, values, weight, weight, &norm) == CTOK_E_CANCELLED) +
        (run_attention(b, more, values, values, values, &attention) == CTOK_E_CANCELLED) +
        (run_attention(b, more, values, values, values, &attention_time) == CTOK_E_CANCELLED) +
        (op_pool(b, more, values, &pool) == CTOK_E_CANCELLED) +
        (op_haar(b, more, values, &haar) == CTOK_E_CANCELLED) +
        (op_unhaar(b, more, values, &unhaar) == CTOK_E_CANCELLED) +
        (op_load(b, more, bytes, NULL, &transfer) == CTOK_E_CANCELLED) +
        (op_store(b, bytes, values, NULL, &transfer) == CTOK_E_CANCELLED) +
        (op_quantize(b, indices, more, values, NULL, NULL, &fsq) == CTOK_E_CANCELLED) +
        (op_dequantize(b, more, indices, NULL, NULL, &fsq) == CTOK_E_CANCELLED) +
        (op_quantize(b, indices, more, values, weight, NULL, &lookup) == CTOK_E_CANCELLED);
    cancel = false;
    bool runs_again = run_conv(b, more, values, NULL, weight, weight, &conv) == CTOK_OK;
    b->cancel = NULL;
    free(image), free(wide_out), free(wide_weight);
    report(num_stopped == 13 && runs_again,
           "%s: %d of 13 ops stop when cancelled, and run again after", b->kernels->name,
           num_stopped);
}

typedef struct {
    atomic_bool cancel;
    _Atomic int64_t num_run, sum;
    int32_t num_threads;  // that may run tasks
    atomic_bool is_another_used;
} pool_count;

static void count_task(void *context, int64_t task, int32_t thread) {
    pool_count *count = context;
    if (thread < 0 || thread >= count->num_threads) count->is_another_used = true;
    if (task >= 1000)
        count->cancel = true;  // before it counts: then no thread can begin a second such task
    count->sum += task;
    count->num_run++;
}

static void test_thread_pool(void) {
    for (int32_t num_threads = 1; num_threads <= 5; num_threads += 2) {
        pool *p = NULL;
        ctok_status status = pool_open(&p, num_threads, NULL);
        pool *parts[5] = {NULL};
        bool is_complete = status == CTOK_OK;
        for (int32_t i = 0; i < num_threads && is_complete; i++)
            is_complete = (parts[i] = pool_part(p, i + 1)) != NULL;
        for (int64_t round = 0; round < 2000 && is_complete;
             round++) {  // on the pool, and on parts of 1 to all threads, in turn
            int32_t part = (int32_t)(round % (num_threads + 1)),
                    most = part == num_threads ? num_threads : part + 1;
            pool_count count = {.num_threads = most};
            int64_t num_tasks = round % 17;
            is_complete = pool_run(part == num_threads ? p : parts[part], num_tasks, count_task,
                                   &count, NULL) == CTOK_OK &&
                          count.sum == num_tasks * (num_tasks - 1) / 2 && !count.is_another_used;
        }
        for (int32_t i = 0; i < num_threads; i++) pool_close(parts[i]);
        pool_count count = {.num_threads = num_threads};
        status = is_complete ? pool_run(p, 1 << 20, count_task, &count, &count.cancel) : status;
        report(is_complete && status == CTOK_E_CANCELLED && count.num_run <= 1000 + num_threads,
               "pool of %d and its parts: 2000 loops complete; cancelled in task 1000, %lld ran",
               num_threads, (long long)count.num_run);
        pool_close(p);
    }
}

static int64_t resident_pages(void) {
    long long total = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file) return -1;
    if (fscanf(file, "%lld %lld", &total, &resident) != 2) resident = -1;
    fclose(file);
    return resident;
}

static void test_open(void) {
    ctok_error error = {.struct_size = sizeof error};
    backend *b = NULL;
    report(cpu_backend_open(&b, 1, 99, &error) == CTOK_E_ARGUMENT, "kernels 99 are refused: %s",
           error.message);

    int64_t before = 0;
    bool is_ok = true;
    for (int i = 0; i < 1000 && is_ok; i++) {
        is_ok = cpu_backend_open(&b, 3, CTOK_KERNELS_AUTO, NULL) == CTOK_OK;
        if (!is_ok) break;
        const size_t sizes[] = {0, 1, 100000, 3000001};
        for (int s = 0; s < 4; s++) {
            uint8_t *memory = b->alloc(b, sizes[s]);
            is_ok &= memory && (uintptr_t)memory % BACKEND_ALIGNMENT == 0;
            if (memory) memset(memory, 1, sizes[s]);
            b->free(b, memory, sizes[s]);
        }
        b->close(b);
        if (i == 100) before = resident_pages();
    }
    int64_t grown = resident_pages() - before;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    grown = 0;  // a sanitizer keeps what is freed
#endif
    if (is_emulated()) grown = 0;  // it keeps something of every thread that ended
    report(is_ok && grown <= 64, "a thousand times opened, 3 MB taken and closed: %lld pages more",
           (long long)grown);
}

int main(void) {
    backend *reference = NULL, *sets[8];
    int num_sets = 0;
    if (cpu_backend_open(&reference, 0, CTOK_KERNELS_REFERENCE, NULL) != CTOK_OK) {
        printf("Bail out! no reference backend\n");
        return 1;
    }
    test_thread_pool();
    test_pool(reference);
    test_haar(reference);
    test_transfer(reference);
    test_fsq(reference);
    test_sign(reference);
    test_known_lookup(reference);
    test_known_conv(reference);
    test_known_conv_time(reference);
    test_known_norm_attention(reference);
    for (uint32_t kernels = CTOK_KERNELS_GENERIC;; kernels++) {
        ctok_error error = {.struct_size = sizeof error};
        ctok_status status = cpu_backend_open(&sets[num_sets], 0, kernels, &error);
        if (status == CTOK_E_ARGUMENT) break;  // past the last
        if (status == CTOK_E_DEVICE) {
            report(true, "kernels %u # SKIP %s", kernels, error.message);
            continue;
        }
        report(status == CTOK_OK, "kernels %u open", kernels);
        if (status != CTOK_OK) continue;
        if (sets[num_sets]->kernels->has_bf16) {  // in float32 the code of the set before it;
                                                  // op_bf16_test.c has the rest
            sets[num_sets]->close(sets[num_sets]);
            continue;
        }
        test_known_conv(sets[num_sets]);
        test_known_conv_time(sets[num_sets]);
        test_known_norm_attention(sets[num_sets]);
        test_known_lookup(sets[num_sets]);
        test_cancel(sets[num_sets]);
        test_threads(kernels);
        test_time(sets[num_sets]);
        num_sets++;
    }
    test_cancel(reference);
    test_threads(CTOK_KERNELS_REFERENCE);
    test_time(reference);
    test_conv(reference, sets, num_sets, conv_shapes, NUM_SHAPES(conv_shapes), CONV_BUDGET);
    test_conv(reference, sets, num_sets, winograd_shapes, NUM_SHAPES(winograd_shapes),
              WINOGRAD_BUDGET);
    test_conv_time(reference, sets, num_sets);
    test_norm(reference, sets, num_sets);
    test_attention(reference, sets, num_sets);
    test_attention_time(reference, sets, num_sets);
    test_lookup(reference, sets, num_sets);
    test_special_values(reference, sets, num_sets);
    test_special_values_wide(sets, num_sets);
    for (int i = 0; i < num_sets; i++) sets[i]->close(sets[i]);
    reference->close(reference);
    test_open();
    return report_end();
}
