// A whole network against answers computed in float64: the small DI8x8 (synthetic weights, from
// build/tests/make_weights), encoded and decoded by every kernel set that this processor has but
// the scalar one, in float32 and, where the set has it, bfloat16. What tests/golden/ does for all
// networks and sizes, this does for one where no JavaScript runtime is: on arm64 under QEMU. Run
// from the root. TAP on stdout.
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "../../csrc/checkpoint/checkpoint.h"
#include "tap.h"

static const char *const golden_path = "tests/fixtures/DI8x8-small.safetensors";

// float32: relative L2 error, and every index equal. bfloat16: 0.9 of PyTorch's errors on this
// case, and at least its share of equal indices (tests/fixtures/pytorch_errors.json).
enum { A_MINUTE = 60000000 };
static const double F32_LIMIT = 2e-5, BF16_PRE_QUANT = 0.9 * 0.01888,
                    BF16_RECONSTRUCTION = 0.9 * 0.01703, BF16_AGREEMENT = 0.879;

typedef struct {
    const checkpoint_tensor *pixels, *indices, *pre_quant, *reconstruction;
} golden;

static void *new_bytes(uint64_t num_bytes) {
    void *bytes = malloc(num_bytes);
    if (!bytes) abort();
    return bytes;
}

static float *read_floats(const checkpoint_tensor *t) {
    float *values = new_bytes((uint64_t)checkpoint_elements(t) * sizeof *values);
    if (checkpoint_read_f32(t, values) < 0) abort();
    return values;
}

static uint8_t *read_bytes(const checkpoint_tensor *t) {
    uint8_t *bytes = new_bytes((uint64_t)checkpoint_elements(t) * dtype_bytes(t->dtype));
    if (!checkpoint_copy(t, bytes)) abort();
    return bytes;
}

// |got - want| / |want|; NaN where sizes differ, so that every comparison fails.
static double relative_error(const float *got, uint64_t got_bytes, const checkpoint_tensor *t) {
    int64_t count = checkpoint_elements(t);
    if (got_bytes != (uint64_t)count * sizeof *got) return NAN;
    float *want = read_floats(t);
    double error = 0, norm = 0;
    for (int64_t i = 0; i < count; i++) {
        double gap = (double)got[i] - want[i];
        error += gap * gap, norm += (double)want[i] * want[i];
    }
    free(want);
    return sqrt(error / norm);
}

// The part of the indices that is equal.
static double agreement(const int32_t *got, uint64_t got_bytes, const checkpoint_tensor *t) {
    int64_t count = checkpoint_elements(t), equal = 0;
    if (got_bytes != (uint64_t)count * sizeof *got) return NAN;
    int32_t *want = (int32_t *)read_bytes(t);
    for (int64_t i = 0; i < count; i++) equal += got[i] == want[i];
    free(want);
    return (double)equal / (double)count;
}

// Runs a request on the golden input of its kind; outputs[i], of sizes[i] bytes, are the caller's
// to free.
static bool run(uint32_t model, ctok_request request, const checkpoint_tensor *input,
                void *outputs[2], uint64_t sizes[2]) {
    request.struct_size = sizeof request;
    request.batch = input->shape[0], request.frames = 1, request.height = input->shape[1],
    request.width = input->shape[2];
    uint8_t *bytes = read_bytes(input);
    uint32_t job = 0;
    ctok_job_info info = {.struct_size = sizeof info};
    uint64_t num_bytes = (uint64_t)checkpoint_elements(input) * dtype_bytes(input->dtype);
    bool is_well = ctok_job_submit(model, bytes, num_bytes, &request, &job, NULL) == CTOK_OK &&
                   ctok_job_wait(job, A_MINUTE, NULL) == CTOK_OK &&
                   ctok_job_query(job, &info, NULL) == CTOK_OK;
    for (uint32_t i = 0; i < 2; i++) {
        outputs[i] = NULL, sizes[i] = 0;
        if (!is_well || i >= info.num_outputs) continue;
        outputs[i] = new_bytes(sizes[i] = info.outputs[i].bytes);
        is_well = ctok_job_take(job, outputs[i], sizes[i], i, NULL) == CTOK_OK;
    }
    ctok_job_release(job, NULL);
    free(bytes);
    return is_well;
}

static void test_precision(uint32_t engine, const char *kernels, const char *path, const golden *g,
                           uint32_t precision) {
    bool is_f32 = precision == CTOK_PRECISION_F32;
    uint32_t job = 0;
    ctok_model_options options = {.struct_size = sizeof options, .precision = precision};
    ctok_job_info info = {.struct_size = sizeof info};
    bool is_open = ctok_model_open(engine, path, &options, &job, NULL) == CTOK_OK &&
                   ctok_job_wait(job, A_MINUTE, NULL) == CTOK_OK &&
                   ctok_job_query(job, &info, NULL) == CTOK_OK;
    ctok_job_release(job, NULL);
    void *outputs[2] = {NULL}, *pixels[2] = {NULL};
    uint64_t sizes[2] = {0}, pixel_bytes[2] = {0};
    ctok_request encode = {.task = CTOK_TASK_ENCODE,
                           .input = CTOK_PIXELS_U8,
                           .outputs = CTOK_INDICES | CTOK_PRE_QUANT};
    ctok_request decode = {
        .task = CTOK_TASK_DECODE, .input = CTOK_INDICES, .outputs = CTOK_PIXELS_F32};
    bool is_well = is_open && run(info.model, encode, g->pixels, outputs, sizes);
    if (report(is_well, "%s %s: encodes", kernels, is_f32 ? "f32" : "bf16")) {
        double equal = agreement(outputs[0], sizes[0], g->indices),
               error = relative_error(outputs[1], sizes[1], g->pre_quant);
        report(equal >= (is_f32 ? 1 : BF16_AGREEMENT) &&
                   error <= (is_f32 ? F32_LIMIT : BF16_PRE_QUANT),
               "%s %s: before the quantizer %.2e off, %.2f %% of the indices equal", kernels,
               is_f32 ? "f32" : "bf16", error, 100 * equal);
        free(outputs[0]), free(outputs[1]);
    }
    is_well = is_open && run(info.model, decode, g->indices, pixels, pixel_bytes);
    if (report(is_well, "%s %s: decodes", kernels, is_f32 ? "f32" : "bf16")) {
        double error = relative_error(pixels[0], pixel_bytes[0], g->reconstruction);
        report(error <= (is_f32 ? F32_LIMIT : BF16_RECONSTRUCTION),
               "%s %s: the reconstruction %.2e off", kernels, is_f32 ? "f32" : "bf16", error);
        free(pixels[0]);
    }
    if (is_open) ctok_model_close(info.model, NULL);
}

static void test_set(uint32_t engine, const char *path, const golden *g) {
    ctok_engine_info info = {.struct_size = sizeof info};
    ctok_engine_query(engine, &info, NULL);
    test_precision(engine, info.kernels, path, g, CTOK_PRECISION_F32);
    if (strstr(info.kernels, "bf16"))
        test_precision(engine, info.kernels, path, g, CTOK_PRECISION_BF16);
}

int main(void) {
    char path[64], command[128];
    snprintf(path, sizeof path, "/tmp/ctok-golden-%d-DI8x8.safetensors", (int)getpid());
    snprintf(command, sizeof command, "build/tests/make_weights %s DI8x8 --small", path);
    checkpoint *c = NULL;
    if (system(command) != 0 || checkpoint_open(&c, golden_path, NULL, NULL) != CTOK_OK) {
        printf("Bail out! no weights, or no %s\n", golden_path);
        return 1;
    }
    golden g = {checkpoint_find(c, "pixels"), checkpoint_find(c, "indices"),
                checkpoint_find(c, "pre_quant"), checkpoint_find(c, "reconstruction")};
    for (uint32_t kernels = CTOK_KERNELS_GENERIC;; kernels++) {
        uint32_t engine = 0;
        ctok_engine_options options = {.struct_size = sizeof options,
                                       .num_threads = 2,
                                       .kernels = kernels,
                                       .device = CTOK_DEVICE_CPU};
        ctok_status status = ctok_engine_open(&options, NULL, &engine, NULL);
        if (status == CTOK_E_ARGUMENT) break;  // past the last
        if (status == CTOK_E_DEVICE) continue;
        if (!report(status == CTOK_OK, "kernels %u open", kernels)) continue;
        test_set(engine, path, &g);
        ctok_engine_close(engine, NULL);
    }
    checkpoint_close(c);
    unlink(path);
    return report_end();
}
