// copy: bytes within the device's memory. `out` may overlap `in` if it begins before it, by a gap
// of bytes: a thread then moves the elements that lie whole gaps apart, in order, and no other
// thread touches those. Without an overlap a thread moves single elements.
#include "device.cuh"
#include "kernels.h"

enum { THREADS = 256 };
static const int64_t MAX_BLOCKS = 1 << 20;

template <typename T>
__global__ void copy_columns(T *out, const T *in, int64_t count, int64_t gap) {
    int64_t width = (int64_t)gridDim.x * THREADS;
    for (int64_t x = (int64_t)blockIdx.x * THREADS + threadIdx.x; x < gap; x += width)
        for (int64_t i = x; i < count; i += gap) out[i] = in[i];
}

template <typename T>
static int copy(void *out, const void *in, size_t num_bytes, size_t gap_bytes,
                cudaStream_t stream) {
    int64_t count = (int64_t)(num_bytes / sizeof(T)), gap = (int64_t)(gap_bytes / sizeof(T)),
            wanted = (gap + THREADS - 1) / THREADS;
    dim3 blocks((unsigned)(wanted < MAX_BLOCKS ? wanted : MAX_BLOCKS)), block(THREADS);
    return LAUNCH((copy_columns<T>), blocks, block, 0, stream, (T *)out, (const T *)in, count, gap);
}

extern "C" int smxx_copy(void *out, const void *in, size_t num_bytes, cudaStream_t stream) {
    if (num_bytes == 0 || out == in) return 0;
    uintptr_t to = (uintptr_t)out, from = (uintptr_t)in;
    size_t gap = to < from && from - to < num_bytes ? from - to : num_bytes;
    uintptr_t all = to | from | num_bytes | gap;
    if (all % sizeof(uint4) == 0) return copy<uint4>(out, in, num_bytes, gap, stream);
    if (all % sizeof(uint32_t) == 0) return copy<uint32_t>(out, in, num_bytes, gap, stream);
    return copy<uint8_t>(out, in, num_bytes, gap, stream);
}
