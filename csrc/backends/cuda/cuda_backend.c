// Opens a GPU behind backend.h. A build without nvcc has none of it and says so.
#include "../backend.h"

#ifndef CTOK_HAS_CUDA
ctok_status cuda_backend_open(backend **out, uint32_t index, ctok_error *error) {
    (void)out;
    return ctok_fail(error, CTOK_E_DEVICE, index, "cuda:%u: expected a GPU, found a build without CUDA (nvcc was not there when it was built)", index);
}
#endif
