// The device that the emulated CUDA runtime tells of, as it is unless a test changes it: an 8.6,
// with 99 KB of shared memory a block, so that the smaller tiles are used too. Linked into
// backend_test and emulated_run.
#include "cuda_runtime_api.h"

struct emulated_device emulated_device = {.num_devices = 1,
                                          .driver = 13000,
                                          .major = 8,
                                          .minor = 6,
                                          .shared_bytes = 101376,
                                          .total_bytes = (size_t)1 << 32};
emulated_allocation emulated_allocations[EMULATED_MOST];
_Thread_local int emulated_current = EMULATED_NONE;
char emulated_marks[EMULATED_GPUS + 1];
