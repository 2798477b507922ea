// What <cuda_runtime.h> supplies to kernels, for g++: keywords, thread indices, vector types,
// intrinsics, shared memory behind a checking proxy, launches. Only what kernels use; more is added
// when a kernel needs it. Found by -I of this folder.
#ifndef CTOK_EMULATED_CUDA_RUNTIME_H
#define CTOK_EMULATED_CUDA_RUNTIME_H

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __grid_constant__
// The emulator's own code among a kernel's: what it reads and writes is not the kernel's
// (emulated_memory.cpp).
#define EMULATED_UNSEEN __attribute__((no_sanitize("thread")))

typedef struct CUstream_st *cudaStream_t;  // NULL: at once

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
extern dim3 threadIdx, blockIdx, blockDim, gridDim;

#define EMULATED_VECTORS(type, name)                                        \
    struct alignas(2 * sizeof(type)) name##2 {                              \
        type x, y;                                                          \
    };                                                                      \
    struct alignas(4 * sizeof(type) > 16 ? 16 : 4 * sizeof(type)) name##4 { \
        type x, y, z, w;                                                    \
    };                                                                      \
    inline name##2 make_##name##2(type x, type y) { return {x, y}; }        \
    inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
EMULATED_VECTORS(float, float)
EMULATED_VECTORS(double, double)
EMULATED_VECTORS(int, int)
EMULATED_VECTORS(unsigned, uint)
EMULATED_VECTORS(unsigned short, ushort)
EMULATED_VECTORS(unsigned char, uchar)

// ---------------------------------------------------------------- the emulator's side
// (emulator.cpp)
namespace emulator {
constexpr int NUM_LANES = 32;
enum copy_kind { READ, WRITE };

[[noreturn]] __attribute__((format(printf, 1, 2))) void fail(const char *format, ...);
void *shared_access(int64_t offset, size_t num_bytes, size_t alignment,
                    copy_kind kind);  // checked; where the bytes lie
void async_copy(int64_t offset, const void *from, size_t num_bytes,
                size_t num_written);  // zeros after num_bytes
void async_commit();
void async_wait(int num_pending);
void sync_threads();
// Waits for the other lanes; the last to come runs op on what each lane brought, in lane order. All
// must bring the same op.
typedef void (*warp_op)(void *const *operands);
void warp_meet(warp_op op, void *operand, unsigned mask = 0xFFFFFFFFu);
void sync_warp(unsigned mask);
// A kernel with its arguments, as it was started.
struct kept_launch {
    const char *name;
    dim3 grid, block;
    size_t shared_bytes;
    std::vector<unsigned char> parameters;
    void (*run)(const void *parameters);
};
int load(const void *kernel);  // 0, or the error of a capture that may not load it
int launch(const kept_launch &l, cudaStream_t stream);  // 0, or the error of the start
}  // namespace emulator

// ---------------------------------------------------------------- shared memory
// An element of shared memory: read by conversion, written by assignment, whole.
template <typename T>
struct shared_element {
    int64_t offset;
    operator T() const {
        T value;
        std::memcpy(&value, emulator::shared_access(offset, sizeof(T), alignof(T), emulator::READ),
                    sizeof(T));
        return value;
    }
    const shared_element &operator=(T value) const {
        std::memcpy(emulator::shared_access(offset, sizeof(T), alignof(T), emulator::WRITE), &value,
                    sizeof(T));
        return *this;
    }
    const shared_element &operator=(const shared_element &other) const { return *this = (T)other; }
    const shared_element &operator+=(T value) const { return *this = (T) * this + value; }
};

template <typename T>
struct shared {
    static_assert(sizeof(T) >= 2, "accesses are tracked by 2 bytes");
    int64_t offset;
    shared_element<T> operator[](int64_t i) const { return {offset + i * (int64_t)sizeof(T)}; }
    shared_element<T> operator*() const { return {offset}; }
    shared operator+(int64_t i) const { return {offset + i * (int64_t)sizeof(T)}; }
    shared operator-(int64_t i) const { return {offset - i * (int64_t)sizeof(T)}; }
    shared &operator+=(int64_t i) { return *this = *this + i; }
};

template <typename T>
inline shared<T> shared_at(uint32_t byte_offset) {
    return {(int64_t)byte_offset};
}

template <typename U, typename T>
inline shared<U> shared_as(shared<T> pointer) {
    return {pointer.offset};
}

// ---------------------------------------------------------------- launches
template <typename... P, typename... A>
static int emulated_launch(const char *name, void (*kernel)(P...), dim3 grid, dim3 block,
                           size_t shared_bytes, cudaStream_t stream, A... arguments) {
    if (int error = emulator::load((const void *)kernel)) return error;
    auto body = [=] { kernel(static_cast<P>(arguments)...); };
    static_assert(std::is_trivially_copyable_v<decltype(body)>, "parameters are copied as bytes");
    const unsigned char *bytes = (const unsigned char *)&body;
    return emulator::launch({name,
                             grid,
                             block,
                             shared_bytes,
                             {bytes, bytes + sizeof body},
                             [](const void *b) { (*(const decltype(body) *)b)(); }},
                            stream);
}
#define LAUNCH(kernel, ...) emulated_launch(#kernel, kernel, __VA_ARGS__)

// ---------------------------------------------------------------- barriers, shuffles, votes
inline void __syncthreads() { emulator::sync_threads(); }
inline void __syncwarp(unsigned mask = 0xFFFFFFFFu) { emulator::sync_warp(mask); }

struct emulated_shuffle {
    uint64_t value, result;
    int source;  // lane
};

EMULATED_UNSEEN inline void emulated_shuffle_op(void *const *operands) {
    for (int lane = 0; lane < emulator::NUM_LANES; lane++) {
        emulated_shuffle *mine = (emulated_shuffle *)operands[lane];
        mine->result = ((emulated_shuffle *)operands[mine->source])->value;
    }
}

template <typename T>
inline T emulated_shuffle_from(unsigned mask, T value, int source) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 4 or 8 bytes");
    emulated_shuffle operand = {0, 0, source};
    std::memcpy(&operand.value, &value, sizeof(T));
    emulator::warp_meet(emulated_shuffle_op, &operand, mask);
    std::memcpy(&value, &operand.result, sizeof(T));
    return value;
}

inline int emulated_lane() {
    return (int)((threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) %
                 emulator::NUM_LANES);
}

template <typename T>
inline T __shfl_sync(unsigned mask, T value, int source) {
    return emulated_shuffle_from(mask, value, source % emulator::NUM_LANES);
}
template <typename T>
inline T __shfl_xor_sync(unsigned mask, T value, int bits) {
    return emulated_shuffle_from(mask, value, emulated_lane() ^ bits);
}
template <typename T>
inline T __shfl_down_sync(unsigned mask, T value, int by) {
    int lane = emulated_lane();
    return emulated_shuffle_from(mask, value, lane + by < emulator::NUM_LANES ? lane + by : lane);
}
template <typename T>
inline T __shfl_up_sync(unsigned mask, T value, int by) {
    int lane = emulated_lane();
    return emulated_shuffle_from(mask, value, lane >= by ? lane - by : lane);
}

struct emulated_vote {
    bool is_set;
    unsigned ballot;
};

EMULATED_UNSEEN inline void emulated_vote_op(void *const *operands) {
    unsigned ballot = 0;
    for (int lane = 0; lane < emulator::NUM_LANES; lane++)
        ballot |= (unsigned)((emulated_vote *)operands[lane])->is_set << lane;
    for (int lane = 0; lane < emulator::NUM_LANES; lane++)
        ((emulated_vote *)operands[lane])->ballot = ballot;
}

inline unsigned __ballot_sync(unsigned mask, bool is_set) {
    emulated_vote operand = {is_set, 0};
    emulator::warp_meet(emulated_vote_op, &operand, mask);
    return operand.ballot;
}
inline bool __any_sync(unsigned mask, bool is_set) { return __ballot_sync(mask, is_set) != 0; }
inline bool __all_sync(unsigned mask, bool is_set) {
    return __ballot_sync(mask, is_set) == 0xFFFFFFFFu;
}

// Of global memory. Fibers do not interrupt each other, so plain code is atomic.
template <typename T>
EMULATED_UNSEEN inline T atomicAdd(T *to, T value) {
    T before = *to;
    *to = before + value;
    return before;
}

// ---------------------------------------------------------------- bits and arithmetic
inline unsigned __float_as_uint(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}
inline float __uint_as_float(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}
inline int __float_as_int(float value) { return (int)__float_as_uint(value); }
inline float __int_as_float(int bits) { return __uint_as_float((unsigned)bits); }
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline int __clz(int bits) { return bits ? __builtin_clz((unsigned)bits) : 32; }

// Rounded alone, also where the compiler may join a product and a sum (contract_test): it cannot
// see that what comes out is what went in.
template <typename T>
inline T rounded_alone(T value) {
    asm("" : "+g"(value));
    return value;
}
inline float __fadd_rn(float a, float b) { return rounded_alone(a + b); }
inline double __dadd_rn(double a, double b) { return rounded_alone(a + b); }
inline double __dmul_rn(double a, double b) { return rounded_alone(a * b); }
inline float __fsub_rn(float a, float b) { return rounded_alone(a - b); }
inline float __fmul_rn(float a, float b) { return rounded_alone(a * b); }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __expf(float x) { return std::exp(x); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
template <typename T>
inline T __ldg(const T *from) {
    return *from;
}

template <typename A, typename B, typename R = std::common_type_t<A, B>>
inline R min(A a, B b) {
    return (R)b < (R)a ? (R)b : (R)a;
}
template <typename A, typename B, typename R = std::common_type_t<A, B>>
inline R max(A a, B b) {
    return (R)a < (R)b ? (R)b : (R)a;
}

#endif
