// The ops whose answers are exact, from kernels that g++ compiled with leave to join a product and
// a sum into one rounding, as nvcc has: pixels, haar, pool and the quantizers must say what the
// reference says, to the bit. Their values lie where a joined step would show: around every
// boundary of a byte and of a digit, and between the codes of a codebook. Prints TAP. Who builds
// it: tools/emulator.ts, with contracted.cpp, which shows that the flags join.
#include "../../../csrc/backends/cuda/kernels.h"
#include "../op_support.h"
#include "emulator.h"

float contracted(float a, float b, float c);

static void *to_device(const void *from, int64_t num_bytes) {
    if (!from) return NULL;
    return memcpy(emulator_allocate((size_t)num_bytes), from, (size_t)num_bytes);
}

// `count` floats around the value, each the next one.
static void put_around(float *to, float value, int count) {
    for (int i = 0; i < count / 2; i++) value = nextafterf(value, -INFINITY);
    for (int i = 0; i < count; i++, value = nextafterf(value, INFINITY)) to[i] = value;
}

static void report_exact(const char *name, int error, int64_t wrong, int64_t count) {
    const char *failure = emulator_failure();
    report(!error && !wrong && !*failure, "%s: %lld of %lld values unlike the reference %s", name,
           (long long)wrong, (long long)count, failure);
}

// ---------------------------------------------------------------- pixels
static void test_bytes(backend *reference) {
    enum { BYTES = 255, AROUND = 200 };
    transfer_params p = {.shape = {1, 1, BYTES, AROUND, 1},
                         .frames = 1,
                         .height = BYTES,
                         .width = AROUND,
                         .format = EXTERNAL_PIXELS_U8};
    int64_t count = BYTES * AROUND;
    float *in = new_floats(count), *want_in = new_floats(count);
    uint8_t *want = new_bytes((size_t)count);
    for (int k = 0; k < BYTES; k++)
        put_around(in + k * AROUND, (float)((k + 0.5) / 255 * 2 - 1), AROUND);
    op_store(reference, want, in, NULL, &p);
    uint8_t *got = emulator_allocate((size_t)count);
    void *device = to_device(in, count * 4);
    int error = smxx_store(got, device, &p, NULL);
    int64_t wrong = 0;
    for (int64_t i = 0; i < count; i++) wrong += got[i] != want[i];
    report_exact("store, around the boundaries of bytes", error, wrong, count);
    for (int64_t i = 0; i < count; i++) want[i] = (uint8_t)i;
    memcpy(got, want, (size_t)count);
    op_load(reference, want_in, want, NULL, &p);
    error = smxx_load(device, got, &p, NULL);
    report_exact("load, every byte", error, count_different(device, want_in, count), count);
    free(in), free(want_in), free(want), emulator_free(got), emulator_free(device);
}

static void test_haar(backend *reference) {
    for (int is_video = 0; is_video < 2; is_video++) {
        ctok_shape pixels = {1, is_video ? 5 : 1, 16, 24, 3}, bands = pixels;
        bands.t = is_video ? 2 : 1, bands.h /= 4, bands.w /= 4, bands.c *= is_video ? 64 : 16;
        haar_params p = {pixels, bands, 4, is_video ? 4 : 1, true}, back = p;
        back.in = bands, back.out = pixels;
        int64_t count = shape_elements(pixels), num_bands = shape_elements(bands);
        random_seed(7);
        float *in = new_random(count, 1, 0.3f), *want = new_floats(num_bands),
              *want_back = new_floats(count);
        op_haar(reference, want, in, &p), op_unhaar(reference, want_back, want, &back);
        float *from = to_device(in, count * 4), *out = emulator_allocate((size_t)num_bands * 4);
        int error = smxx_haar(out, from, &p, NULL);
        report_exact("haar", error, count_different(out, want, num_bands), num_bands);
        error = smxx_unhaar(from, out, &back, NULL);
        report_exact("unhaar", error, count_different(from, want_back, count), count);
        free(in), free(want), free(want_back), emulator_free(from), emulator_free(out);
    }
}

static void test_pool(backend *reference) {
    for (int is_temporal = 0; is_temporal < 2; is_temporal++) {
        pool_params p =
            pool_params_of((pool_shape){1, 4, 12, 16, 32, is_temporal, false}, CTOK_F32);
        int64_t count = shape_elements(p.out);
        random_seed(8);
        float *values = new_random(shape_elements(p.in), 1, 0.3f), *want = new_floats(count);
        op_pool(reference, want, values, &p);
        float *from = to_device(values, shape_elements(p.in) * 4),
              *got = emulator_allocate((size_t)count * 4);
        int error = smxx_pool(got, from, &p, NULL);
        report_exact("pool", error, count_different(got, want, count), count);
        free(values), free(want), emulator_free(from), emulator_free(got);
    }
}

// ---------------------------------------------------------------- quantizers
// Takes z, [positions, d].
static void test_quantizer(backend *reference, const quantizer_params *p, float *z,
                           const float *codebook, const char *name) {
    int64_t positions = shape_positions(p->shape), count = shape_elements(p->shape);
    float *want = new_floats(count), *got = emulator_allocate((size_t)count * 4);
    int32_t *want_indices = new_bytes((size_t)positions * 4),
            *indices = emulator_allocate((size_t)positions * 4);
    op_quantize(reference, want_indices, want, z, codebook, NULL, p);
    float *device = to_device(z, count * 4),
          *rows = to_device(codebook, codebook ? p->size * p->shape.c * 4 : 0);
    int error = smxx_quantize(indices, got, device, rows, p, NULL);
    int64_t wrong = count_different(got, want, count);
    for (int64_t i = 0; i < positions; i++) wrong += indices[i] != want_indices[i];
    report_exact(name, error, wrong, positions + count);
    free(z), free(want), free(want_indices);
    emulator_free(got), emulator_free(indices), emulator_free(device), emulator_free(rows);
}

// Around every place where the digit of one channel changes.
static void test_fsq(backend *reference, uint32_t level) {
    enum { AROUND = 400 };
    quantizer_params p = {.shape = {1, 1, level - 1, AROUND, 1}};
    quantizer_set_levels(&p, &level, 1);
    float *z = new_floats((int64_t)(level - 1) * AROUND);
    for (int k = 0; k < (int)level - 1; k++) {
        double bounded = k - (int)level / 2 + 0.5 + (double)p.offset[0];
        put_around(z + k * AROUND,
                   (float)(atanh(bounded / (double)p.half_width[0]) - (double)p.shift[0]), AROUND);
    }
    char name[64];
    snprintf(name, sizeof name, "fsq of %u levels, around the boundaries of digits", level);
    test_quantizer(reference, &p, z, NULL, name);
}

// Codes that are one vector in another order, and a z of equal parts, are equally near but for the
// rounding of each step; small ones, whose gaps to z have squares that float64 must round.
static void test_equally_near(backend *reference) {
    enum { D = 8, SIZE = 100, POSITIONS = 4 };
    for (uint64_t seed = 0; seed < 20; seed++) {
        quantizer_params p = {
            .shape = {1, 1, 1, POSITIONS, D}, .kind = QUANTIZER_LOOKUP, .size = SIZE};
        random_seed(seed + 900);
        float *codes = new_random(SIZE * D, 0.01f, 0), *z = new_floats(POSITIONS * D);
        for (int k = 1; k < SIZE; k++) {
            memcpy(codes + k * D, codes + (k - 1) * D, D * sizeof(float));
            for (int c = 0; c < D; c++) {  // swaps with another
                int other = (int)((random_value() + 1) / 2 * D) % D;
                float kept = codes[k * D + c];
                codes[k * D + c] = codes[k * D + other], codes[k * D + other] = kept;
            }
        }
        for (int i = 0; i < POSITIONS * D; i++) z[i] = (float)(1 + i / D);
        test_quantizer(reference, &p, z, codes, "lookup of codes that are equally near");
        free(codes);
    }
}

int main(void) {
#ifdef __x86_64__
    if (!__builtin_cpu_supports("fma")) {
        report_skip("exact ops whose sums may be joined with products", "no FMA here");
        return report_end();
    }
#endif
    backend *reference = NULL;
    if (cpu_backend_open(&reference, 0, CTOK_KERNELS_REFERENCE, NULL) != CTOK_OK) {
        printf("Bail out! no reference backend\n");
        return 1;
    }
    float x = 1 + 0x1p-12f, square = x * x;  // 1 + 2^-11, and 2^-24 that rounding takes
    report(contracted(x, x, -square) == 0x1p-24f, "these flags join a product and a sum");
    test_bytes(reference);
    test_haar(reference);
    test_pool(reference);
    static const uint32_t levels[] = {2, 3, 4, 5, 7, 8, 16, 255};
    for (int i = 0; i < NUM_SHAPES(levels); i++) test_fsq(reference, levels[i]);
    for (int s = 0; s < NUM_SHAPES(lookup_shapes); s++) {
        quantizer_params p = lookup_params_of(lookup_shapes[s]);
        random_seed((uint64_t)s + 700);
        float *codebook = new_codebook(&p);
        test_quantizer(reference, &p, new_lookup_vectors(&p, codebook), codebook, "lookup");
        free(codebook);
    }
    test_equally_near(reference);
    reference->close(reference);
    return report_end();
}
