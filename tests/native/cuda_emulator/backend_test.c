// The CUDA backend itself, on the emulator: what it says when there is no driver, no GPU, an old one, no memory or a lost one;
// that it gives back what it took; and every op through the seam, in the cases of gpu_ops.h that the emulator can do in
// seconds (cuda_test.c has all shapes and tiles). Prints TAP; the exit code is 1 when a test failed.
#include "../gpu_ops.h"
#include "cuda_runtime_api.h"

struct emulated_device emulated_device;
emulated_allocation emulated_allocations[EMULATED_MOST];

static const struct emulated_device whole = {.num_devices = 1, .driver = 13000, .major = 9, .shared_bytes = 232448, .total_bytes = (size_t)1 << 32};

static void expect_refusal(struct emulated_device device, uint32_t index, ctok_status status, const char *text) {
    emulated_device = device;
    backend *b = NULL;
    ctok_error error = {.struct_size = sizeof error};
    ctok_status got = cuda_backend_open(&b, index, &error);
    report(got == status && strstr(error.message, text), "opening is refused: %s", error.message);
    report(emulated_device.num_allocations == 0, "and nothing is kept");
}

static void test_opening(void) {
    struct emulated_device device = whole;
    device.driver = 0, device.num_devices = 0;
    expect_refusal(device, 0, CTOK_E_DEVICE, "expected an NVIDIA driver, found none");
    device.driver = 12020;
    expect_refusal(device, 0, CTOK_E_DEVICE, "for CUDA 13 or later, found one for CUDA 12.2");
    device = whole, device.num_devices = 0;
    expect_refusal(device, 0, CTOK_E_DEVICE, "cuda:0: expected a GPU of that number, found 0");
    expect_refusal(whole, 1, CTOK_E_DEVICE, "cuda:1: expected a GPU of that number, found 1");
    device = whole, device.major = 7, device.minor = 0;
    expect_refusal(device, 0, CTOK_E_DEVICE, "(Emulated GPU): expected compute capability 7.5 or more (8.0 for bf16), found 7.0");
    device = whole, device.used_bytes = device.total_bytes;
    expect_refusal(device, 0, CTOK_E_MEMORY, "out of memory");
    device = whole, device.is_lost = true;
    expect_refusal(device, 0, CTOK_E_DEVICE, "illegal memory access");
}

static void test_failures(void) {
    emulated_device = whole;
    backend *b = NULL;
    ctok_error error = {.struct_size = sizeof error};
    if (cuda_backend_open(&b, 0, &error) != CTOK_OK) {
        report(false, "opens: %s", error.message);
        return;
    }
    uint64_t total, available;
    b->memory_bytes(b, &total, &available);
    report(total == whole.total_bytes && available < total, "memory: %llu of %llu are free", (unsigned long long)available, (unsigned long long)total);
    report(b->alloc(b, whole.total_bytes) == NULL && b->finish(b, NULL) == CTOK_OK, "no memory is NULL, and nothing has failed");

    float values[4] = {1, 2, 3, 6}, mean = 0;
    void *in = put_bytes(b, values, sizeof values), *out = b->alloc(b, sizeof mean);
    pool_params p = {{1, 1, 2, 2, 1}, {1, 1, 1, 1, 1}, false, true, CTOK_F32};
    emulated_device.fail_in = 1;
    b->upload(b, in, values, sizeof values);
    report(b->ops->pool(b, out, in, &p) == CTOK_E_MEMORY, "after a copy without memory, ops say so");
    report(b->finish(b, &error) == CTOK_E_MEMORY && strstr(error.message, "cuda:0 (Emulated GPU)"), "and finish tells: %s", error.message);
    b->upload(b, in, values, sizeof values);
    report(b->ops->pool(b, out, in, &p) == CTOK_OK && get_words(b, &mean, out, 1) == CTOK_OK && mean == 3, "then it goes on: %g", (double)mean);

    emulated_device.is_lost = true;
    report(b->ops->pool(b, out, in, &p) == CTOK_E_DEVICE, "a lost device: the op fails");
    report(b->finish(b, &error) == CTOK_E_DEVICE && strstr(error.message, "is lost to this process"), "finish tells: %s", error.message);
    report(b->ops->pool(b, out, in, &p) == CTOK_E_DEVICE && b->finish(b, NULL) == CTOK_E_DEVICE && !b->alloc(b, 64), "and so does every later one");
    drop(b, in), drop(b, out);
    b->close(b);
    report(emulated_device.num_allocations == 0, "all memory was given back: %d kept", emulated_device.num_allocations);
}

static int num_devices_tested;  // each in other modes of the emulator

static void test_device(int major, int minor, int shared_bytes) {
    emulated_device = whole;
    num_devices_tested++;
    emulator_settings = (emulator_options){.seed = (uint32_t)num_devices_tested, .is_late = num_devices_tested & 1, .is_end_guarded = num_devices_tested & 1};
    emulated_device.major = major, emulated_device.minor = minor, emulated_device.shared_bytes = shared_bytes;
    gpu_tests t = {0};
    if (cuda_backend_open(&t.gpu, 0, NULL) != CTOK_OK || cpu_backend_open(&t.reference, 0, CTOK_KERNELS_REFERENCE, NULL) != CTOK_OK) {
        report(false, "opens with compute capability %d.%d", major, minor);
        return;
    }
    test_gpu_ops(&t);
    t.gpu->close(t.gpu), t.reference->close(t.reference);
    report(emulated_device.num_allocations == 0 && emulated_device.used_bytes == 0, "capability %d.%d: all memory was given back, %d cases left out",
           major, minor, t.num_left_out);
}

int main(void) {
    test_opening();
    test_failures();
    most_products = 1 << 21;
    test_device(8, 6, 101376);
    most_products = 1 << 16;
    test_device(7, 5, 65536);
    printf("1..%d\n", num_tests);
    return num_failed ? 1 : 0;
}
