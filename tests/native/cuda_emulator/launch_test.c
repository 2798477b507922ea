// The launches of the CUDA kernels as nvcc built them: launch() of device.cuh and nvcc's stubs,
// over a runtime that runs nothing and refuses what a device would (fake_cudart.h). Every op of
// kernels.h, on the shapes of op_shapes.h and on the largest of real networks, with every tile that
// fits, on each kind of device; then launches with a planted bug. The emulator's tests show what
// the kernels compute; this shows that a device takes them. Prints TAP; without nvcc it has nothing
// to look at, and says so.
#include "../op_support.h"

#ifndef CTOK_HAS_CUDA
int main(void) {
    report_skip("launches of the kernels as nvcc built them", "built without nvcc");
    return report_end();
}
#else
#include "../../../csrc/backends/cuda/kernels.h"
#include "fake_cudart.h"

// code: of the sm_<code> that they run.
static const struct {
    const char *name;
    int code;
    device_limits limits;
} devices[] = {{"7.5", 75, {40, 65536}},
               {"8.0", 80, {108, 166912}},
               {"8.6", 80, {84, 101376}},
               {"9.0", 90, {132, 232448}}};

static int device;  // of `devices`
static int num_launches_before, num_wrong;

static void use_device(int index) {
    device = index;
    fake_device(devices[index].code, devices[index].limits.shared_bytes);
}

static bool has_tensor_cores(void) { return devices[device].code >= 80; }

// After each op: it was let through.
static void expect_launched(int error, const char *name) {
    const char *finding = fake_finding();
    if (!error && !*finding) return;
    report(false, "%s on %s: error %d. %s", name, devices[device].name, error, finding);
    num_wrong++;
}

// After all of a kind; those that were wrong have lines of their own.
static void report_kind(const char *kind) {
    int count = fake_num_launches() - num_launches_before;
    report(!num_wrong && count > 0, "%s on %s: %d launches", kind, devices[device].name, count);
    num_launches_before += count, num_wrong = 0;
}

// ---------------------------------------------------------------- convolutions and norms
static void launch_norm(ctok_dtype dtype, norm_params p, norm_parts parts, bool are_gathered) {
    char name[128];
    snprintf(name, sizeof name, "norm %dx%dx%dx%d groups %d", (int)p.shape.n, (int)p.shape.h,
             (int)p.shape.w, (int)p.shape.c, p.groups);
    p.dtype = dtype;
    expect_launched(smxx_norm(fake_output(), fake_input(), fake_input(), fake_input(),
                              fake_output(), parts, are_gathered, &p, fake_stream),
                    name);
}

// The convolution alone, three that differ in weights, and with the moments of a norm behind it.
static void launch_conv_tile(const conv_params *p, conv_tile tile, residual_kind kind,
                             bool has_past, const char *name) {
    conv_target targets[CONV_MOST_TARGETS];
    for (int i = 0; i < CONV_MOST_TARGETS; i++)
        targets[i] = (conv_target){fake_output(), fake_input(), fake_input()};
    const void *past = has_past ? fake_input() : NULL, *residual = kind ? fake_input() : NULL;
    for (int count = 1; count <= CONV_MOST_TARGETS; count++)
        expect_launched(
            sm80_conv(targets, count, fake_input(), past, residual, p, tile, NULL, 0, fake_stream),
            name);
    norm_params norm = {.shape = p->out, .groups = 2, .epsilon = 1e-6f, .dtype = CTOK_BF16};
    norm_parts parts = conv_parts(p, tile, &norm);
    if (!parts.slab_positions) return;
    void *moments = fake_output();
    expect_launched(sm80_conv(targets, 1, fake_input(), past, residual, p, tile, moments,
                              norm.groups, fake_stream),
                    name);
    launch_norm(CTOK_BF16, norm, parts, true);
    launch_norm(CTOK_BF16, norm, parts, false);
}

// By the tile that is chosen for the device, and by every other that fits.
static void launch_conv_tiles(conv_params p, residual_kind kind, bool has_past, const char *name) {
    device_limits limits = devices[device].limits;
    launch_conv_tile(&p, conv_tile_choose(&p, 1, limits), kind, has_past, name);
    for (conv_tile tile = 0; tile < NUM_CONV_TILES; tile++)
        if (conv_tile_takes(tile, &p) && conv_tile_shared_bytes(tile) <= limits.shared_bytes)
            launch_conv_tile(&p, tile, kind, has_past, name);
}

// In float32 by the plain kernel; where there are tensor cores in bf16, and split.
static void launch_conv(conv_params p, residual_kind kind, bool has_past, const char *name) {
    conv_target target = {fake_output(), fake_input(), fake_input()};
    const void *past = has_past ? fake_input() : NULL, *residual = kind ? fake_input() : NULL;
    expect_launched(smxx_conv(&target, 1, fake_input(), past, residual, &p, fake_stream), name);
    if (!has_tensor_cores()) return;
    if (p.out.c % BF16_CHANNELS == 0) p.out_dtype = CTOK_BF16;
    conv_params half = p;
    half.in_dtype = CTOK_BF16;
    if (p.in.c % BF16_CHANNELS == 0) launch_conv_tiles(half, kind, has_past, name);
    if (!conv_is_split(&p)) return;
    expect_launched(sm80_split(fake_output(), fake_input(), &p, fake_stream), name);
    half.in.c = sm80_conv_form_of(&p).channels;
    launch_conv_tiles(half, kind, has_past, name);
}

static void launch_convs(const conv_shape *s, int count) {
    for (; count-- > 0; s++)
        launch_conv(conv_params_of(*s), s->residual, false, conv_name(*s).text);
}

static void launch_time_convs(const conv_time_shape *s, int count) {
    for (; count-- > 0; s++)
        launch_conv(conv_time_params_of(*s), s->residual, s->has_past, conv_time_name(*s).text);
}

// Sizes of DI8x8 at 1024 x 1024, once and sixteen times, and of CV4x8x8 with 17 frames of 720p.
static const conv_shape huge_conv_shapes[] = {
    {1, 256, 256, 48, 128, 3, 1, 1, 1, NONE},   {16, 256, 256, 128, 128, 3, 1, 1, 1, PLAIN},
    {1, 128, 128, 256, 512, 3, 1, 1, 1, NONE},  {16, 128, 128, 512, 512, 3, 1, 1, 1, PLAIN},
    {1, 128, 128, 512, 512, 3, 1, 1, 2, NONE},  {16, 256, 256, 256, 48, 3, 1, 1, 1, NONE},
    {16, 128, 128, 512, 512, 1, 1, 0, 1, NONE}, {5, 180, 320, 192, 256, 3, 1, 1, 1, NONE},
    {5, 180, 320, 256, 256, 3, 2, 0, 1, PLAIN}, {17, 720, 1280, 64, 64, 3, 1, 1, 1, PLAIN},
};
static const conv_time_shape huge_conv_time_shapes[] = {
    {1, 5, 180, 320, 256, 256, 1, 1, true, false, PLAIN},
    {1, 9, 180, 320, 256, 256, 2, 1, true, false, PLAIN},
    {1, 5, 90, 160, 512, 512, 1, 2, true, false, UPSAMPLED},
};

static void launch_all_convs(void) {
    launch_convs(conv_shapes, NUM_SHAPES(conv_shapes));
    launch_convs(winograd_shapes, NUM_SHAPES(winograd_shapes));
    launch_convs(large_conv_shapes, NUM_SHAPES(large_conv_shapes));
    launch_convs(huge_conv_shapes, NUM_SHAPES(huge_conv_shapes));
    launch_time_convs(conv_time_shapes, NUM_SHAPES(conv_time_shapes));
    launch_time_convs(large_conv_time_shapes, NUM_SHAPES(large_conv_time_shapes));
    launch_time_convs(huge_conv_time_shapes, NUM_SHAPES(huge_conv_time_shapes));
    report_kind("convolutions");
}

static void launch_norms(const norm_shape *shapes, int count) {
    for (int s = 0; s < count; s++)
        for (int half = 0; half < 2; half++)
            if (!half || shapes[s].c % BF16_CHANNELS == 0)
                launch_norm(half ? CTOK_BF16 : CTOK_F32, norm_params_of(shapes[s]), (norm_parts){0},
                            false);
}

// n stands for frames too; 65536 of them are more than a grid has in y.
static const norm_shape huge_norm_shapes[] = {
    {65536, 1, 1, 32, 1, true, 0},     {65536, 16, 16, 64, 32, true, 0},
    {200000, 2, 3, 33, 1, false, 0},   {16, 256, 256, 128, 32, true, 0},
    {17, 720, 1280, 256, 1, false, 0}, {1, 1024, 1024, 512, 32, true, 0},
    {1, 3, 5, 40000, 1, true, 0},
};

static void launch_all_norms(void) {
    launch_norms(norm_shapes, NUM_SHAPES(norm_shapes));
    launch_norms(large_norm_shapes, NUM_SHAPES(large_norm_shapes));
    launch_norms(huge_norm_shapes, NUM_SHAPES(huge_norm_shapes));
    report_kind("norms");
}

// ---------------------------------------------------------------- attention
static void launch_attention(const attention_shape *shapes, int count) {
    device_limits limits = devices[device].limits;
    char name[128];
    for (int s = 0; s < count; s++) {
        attention_shape shape = shapes[s];
        attention_params p = {.shape = {shape.n, 1, shape.h, shape.w, shape.c}, .dtype = CTOK_F32};
        void *out = fake_output(), *q = fake_input(), *k = fake_input(), *v = fake_input();
        snprintf(name, sizeof name, "attention %dx%dx%dx%d", shape.n, shape.h, shape.w, shape.c);
        expect_launched(smxx_attention(out, q, k, v, &p, fake_stream), name);
        if (!has_tensor_cores() || shape.c % BF16_CHANNELS) continue;
        p.dtype = CTOK_BF16;
        expect_launched(
            sm80_attention(out, q, k, v, &p, attention_tile_choose(&p, limits), fake_stream), name);
        for (attention_tile tile = 0; tile < NUM_ATTENTION_TILES; tile++)
            if (attention_tile_takes(tile, shape.c) &&
                attention_tile_shared_bytes(tile, shape.c) <= limits.shared_bytes)
                expect_launched(sm80_attention(out, q, k, v, &p, tile, fake_stream), name);
    }
}

static void launch_time_attention(const attention_time_shape *shapes, int count) {
    for (int s = 0; s < count; s++)
        for (int half = 0; half < 2; half++) {
            attention_time_shape shape = shapes[s];
            attention_params p = {{shape.n, shape.t, shape.h, shape.w, shape.c},
                                  true,
                                  shape.num_past,
                                  shape.window,
                                  half ? CTOK_BF16 : CTOK_F32};
            void *out = fake_output(), *q = fake_input(), *k = fake_input(), *v = fake_input();
            expect_launched(smxx_attention_time(out, q, k, v, &p, fake_stream),
                            "attention in time");
        }
}

static void launch_all_attention(void) {
    static const attention_shape widths[] = {{16, 128, 128, 64, 1},
                                             {16, 128, 128, 128, 1},
                                             {16, 128, 128, 256, 1},
                                             {16, 128, 128, 512, 1},
                                             {5, 180, 320, 512, 1}};
    static const attention_time_shape huge[] = {{1, 5, 180, 320, 512, 0, 0, 1},
                                                {1, 17, 720, 1280, 64, 0, 0, 1}};
    launch_attention(attention_shapes, NUM_SHAPES(attention_shapes));
    launch_attention(large_attention_shapes, NUM_SHAPES(large_attention_shapes));
    launch_attention(widths, NUM_SHAPES(widths));
    launch_time_attention(attention_time_shapes, NUM_SHAPES(attention_time_shapes));
    launch_time_attention(large_attention_time_shapes, NUM_SHAPES(large_attention_time_shapes));
    launch_time_attention(huge, NUM_SHAPES(huge));
    report_kind("attention");
}

// ---------------------------------------------------------------- ops that move, halve, quantize
static void launch_haar(haar_shape shape) {
    int32_t places = shape.patch * shape.patch * shape.patch_t,
            extra = shape.is_first ? shape.patch_t - 1 : 0;
    ctok_shape pixels = {shape.n, shape.t, shape.h, shape.w, shape.c};
    ctok_shape bands = {shape.n, (shape.t + extra) / shape.patch_t, shape.h / shape.patch,
                        shape.w / shape.patch, shape.c * places};
    haar_params p = {pixels, bands, shape.patch, shape.patch_t, shape.is_first};
    // One kernel for both ways: it takes both as memory to write.
    expect_launched(smxx_haar(fake_output(), fake_output(), &p, fake_stream), "haar");
    p.in = bands, p.out = pixels;
    expect_launched(smxx_unhaar(fake_output(), fake_output(), &p, fake_stream), "unhaar");
}

static void launch_transfer(transfer_shape s) {
    for (int f = 0; f < 2; f++) {
        transfer_params p = transfer_params_of(s, f);
        expect_launched(smxx_load(fake_output(), fake_input(), &p, fake_stream), "load");
        expect_launched(smxx_store(fake_output(), fake_input(), &p, fake_stream), "store");
    }
}

static void launch_pool(pool_shape s) {
    for (int half = 0; half < 2; half++) {
        pool_params p = pool_params_of(s, half ? CTOK_BF16 : CTOK_F32);
        expect_launched(smxx_pool(fake_output(), fake_input(), &p, fake_stream), "pool");
    }
}

static void launch_moves(void) {
    static const haar_shape huge_haar[] = {{16, 1024, 1024, 3, 4, 1, 1, true},
                                           {1, 720, 1280, 3, 4, 17, 4, true}};
    static const transfer_shape huge_transfer = {1, 3, 720, 1280, 720, 1280, 0, 0, 17, 17, 0},
                                many_rows = {64, 3, 1024, 1024, 1024, 1024, 0, 0, 17, 17, 0};
    static const pool_shape huge_pool = {1, 17, 720, 1280, 64, false, true};
    for (int s = 0; s < NUM_SHAPES(haar_shapes); s++) launch_haar(haar_shapes[s]);
    for (int s = 0; s < NUM_SHAPES(huge_haar); s++) launch_haar(huge_haar[s]);
    for (int s = 0; s < NUM_SHAPES(transfer_shapes); s++) launch_transfer(transfer_shapes[s]);
    launch_transfer(huge_transfer), launch_transfer(many_rows);
    for (int s = 0; s < NUM_SHAPES(pool_shapes); s++) launch_pool(pool_shapes[s]);
    launch_pool(huge_pool);
    for (size_t num_bytes = 1; num_bytes <= (size_t)1 << 35; num_bytes *= 2) {
        char *in = fake_output();
        expect_launched(smxx_copy(fake_output(), in, num_bytes, fake_stream), "copy");
        if (num_bytes > 64)
            expect_launched(smxx_copy(in, in + 64, num_bytes, fake_stream), "copy that overlaps");
    }
    report_kind("load, store, haar, pool, copy");
}

static void launch_quantizer(quantizer_params p) {
    const float *codebook = p.kind == QUANTIZER_LOOKUP ? fake_input() : NULL;
    int32_t *indices = fake_output();
    float *codes = fake_output(), *in = fake_input();
    expect_launched(smxx_quantize(indices, codes, in, codebook, &p, fake_stream), "quantize");
    expect_launched(smxx_quantize(NULL, codes, in, codebook, &p, fake_stream), "to codes");
    expect_launched(smxx_dequantize(codes, indices, codebook, &p, fake_stream), "dequantize");
}

static void launch_quantizers(void) {
    static const fsq_shape huge_fsq = {16, 1024, 1024, 6, {8, 8, 8, 5, 5, 5}};
    static const lookup_shape huge_lookup = {16, 1024, 1024, 8, 16384},
                              widest_lookup = {1, 4, 4, 1024, 16384};  // that fits a 7.5
    for (int s = 0; s < NUM_SHAPES(fsq_shapes); s++) launch_quantizer(fsq_params_of(fsq_shapes[s]));
    for (int s = 0; s < NUM_SHAPES(sign_shapes); s++)
        launch_quantizer(sign_params_of(sign_shapes[s]));
    for (int s = 0; s < NUM_SHAPES(lookup_shapes); s++)
        launch_quantizer(lookup_params_of(lookup_shapes[s]));
    launch_quantizer(fsq_params_of(huge_fsq));
    launch_quantizer(lookup_params_of(huge_lookup));
    launch_quantizer(lookup_params_of(widest_lookup));
    report_kind("quantizers");
}

// ---------------------------------------------------------------- planted bugs
// What the runtime answers, and part of what it says is wrong.
static void report_planted(int error, int want, const char *why, const char *name) {
    const char *finding = fake_finding();
    report(error == want && strstr(finding, why), "planted: %s: error %d. %s", name, error,
           finding);
}

// Through launch(), with 144 KiB of shared memory: its error is the runtime's.
static int launch_wide_conv(int on, void *stream) {
    ctok_shape shape = {1, 1, 64, 64, 256};
    conv_params p = conv_of(shape, shape, 3, 1, 1, 1);
    p.in_dtype = p.out_dtype = CTOK_BF16;
    conv_target target = {fake_output(), fake_input(), fake_input()};
    use_device(on);
    return sm80_conv(&target, 1, fake_input(), NULL, NULL, &p, CONV_TILE_128x256x64, NULL, 0,
                     stream);
}

static void test_planted_calls(void) {
    fake_forgets_shared_memory = true;
    report_planted(launch_wide_conv(3, fake_stream), 1, "at most 49152 bytes",
                   "shared memory that nobody asked for");
    fake_forgets_shared_memory = false;
    report_planted(launch_wide_conv(2, fake_stream), 1, "at most the device's 101376",
                   "more shared memory than an 8.6 has");
    report_planted(launch_wide_conv(0, fake_stream), 209, "code for sm_75",
                   "tensor cores of 8.0 on a 7.5");
    report_planted(launch_wide_conv(3, fake_input()), 0, "the stream", "another stream");
}

static void test_planted_launches(void) {
    int64_t count = 32;
    void *input = fake_input(), *output = fake_output(), *none = NULL;
    void *arguments[] = {&output, &input, &count, &count},  // of copy_columns
        *swapped[] = {&input, &output, &count, &count}, *moved[] = {&output, &none, &input, &count};
    void *copy = fake_kernel("copy_columns<unsigned char>"),
         *conv = fake_kernel("sm80_conv_kernel<conv_shape_of<128, 256, 64");
    use_device(1);
    const struct {
        void *kernel;
        unsigned grid[3], block[3];
        void **arguments;
        size_t shared_bytes;
        int want;
        const char *why, *name;
    } cases[] = {
        {copy, {1, 1, 1}, {1, 1, 1}, arguments, 49153, 1, "at most 49152", "48 KiB and a byte"},
        {conv, {1, 1, 1}, {288, 1, 1}, NULL, 0, 701, "65536 registers", "288 threads of 252"},
        {copy, {1, 1, 1}, {1056, 1, 1}, arguments, 0, 9, "block.x", "1056 threads"},
        {copy, {1, 1, 1}, {1024, 2, 1}, arguments, 0, 9, "1024 threads", "2048 threads"},
        {copy, {1, 1, 1}, {1, 1, 65}, arguments, 0, 9, "block.z", "65 threads in z"},
        {copy, {1, 65536, 1}, {1, 1, 1}, arguments, 0, 9, "grid.y", "65536 blocks in y"},
        {copy, {1, 1, 65536}, {1, 1, 1}, arguments, 0, 9, "grid.z", "65536 blocks in z"},
        {copy, {1u << 31, 1, 1}, {1, 1, 1}, arguments, 0, 9, "grid.x", "2^31 blocks"},
        {copy, {1, 0, 1}, {1, 1, 1}, arguments, 0, 9, "grid.y", "no block"},
        {output, {1, 1, 1}, {1, 1, 1}, arguments, 0, 98, "was registered", "an unknown kernel"},
        {copy, {1, 1, 1}, {1, 1, 1}, swapped, 0, 0, "argument 0", "an input to be written"},
        {copy, {1, 1, 1}, {1, 1, 1}, moved, 0, 0, "number as argument 2", "an address for a size"},
    };
    for (int i = 0; i < NUM_SHAPES(cases); i++)
        report_planted(fake_launch(cases[i].kernel, cases[i].grid, cases[i].block,
                                   cases[i].arguments, cases[i].shared_bytes, fake_stream),
                       cases[i].want, cases[i].why, cases[i].name);
    report(!*fake_misfit("f(int*, float const*, long, int)", 28) &&
               *fake_misfit("f(int*, float const*, long)", 28) &&
               *fake_misfit("f(int*, float const*, long, int, int)", 28) &&
               *fake_misfit("f(int*, quantizer_params)", 8 + (int)sizeof(quantizer_params) - 4) &&
               *fake_misfit("f(int*, its_own<float, 4>)", 8),
           "parameters that are not the bytes that ptxas told");
}

int main(void) {
    use_device(0);
    bool is_read = fake_read_ptxas(CTOK_PTXAS);
    report(is_read && fake_num_kernels() > 0, "%d kernels, of which ptxas told all: %s",
           fake_num_kernels(), fake_finding());
    for (int i = 0; i < NUM_SHAPES(devices); i++) {
        use_device(i);
        launch_all_convs();
        launch_all_norms();
        launch_all_attention();
        launch_moves();
        launch_quantizers();
    }
    const char *never = fake_never_launched();
    report(!never, "every kernel was launched%s%s", never ? ", but for " : "", never ? never : "");
    test_planted_calls();
    test_planted_launches();
    return report_end();
}
#endif
