// Every op on the first GPU, against the reference. Prints TAP; one SKIP with the reason where
// there is no GPU to be used. Run by bench/gpu_check on a machine with a GPU, also under
// compute-sanitizer (gpu_test small: cases up to 2^22 products).
#include "gpu_ops.h"

int main(int num_arguments, char **arguments) {
    gpu_tests t = {0};
    ctok_error error = {.struct_size = sizeof error};
    setvbuf(stdout, NULL, _IOLBF, 0);  // what is done is told, also by a run that is killed
    if (num_arguments > 1 && strcmp(arguments[1], "small") == 0) most_products = 1 << 22;
    if (cuda_backend_open(&t.gpu, 0, &error) != CTOK_OK) {
        report_skip("ops of a GPU", error.message);
        return report_end();
    }
    if (cpu_backend_open(&t.reference, 0, CTOK_KERNELS_REFERENCE, &error) != CTOK_OK) {
        printf("Bail out! %s\n", error.message);
        return 1;
    }
    printf("# %s: %s, kernels %s\n", t.gpu->device, t.gpu->device_name, t.gpu->kernels->name);
    test_gpu_ops(&t);
    t.gpu->close(t.gpu), t.reference->close(t.reference);
    printf("# %d cases left out\n", t.num_left_out);
    return report_end();
}
