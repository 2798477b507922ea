// The ptx/ wrappers on the CPU: the same functions, computed lane by lane as the PTX ISA lays the
// registers out. The maps were compared with CuTe's layouts for every register (CUDA.md, section
// 1). Who includes it: csrc/backends/cuda/ptx/*.cuh, where CTOK_CUDA_EMULATOR is defined.
#ifndef CTOK_EMULATED_PTX_H
#define CTOK_EMULATED_PTX_H

#include "emulator.h"

// This function also with the vectors of AVX2, where the processor has them.
#ifdef __x86_64__
#define EMULATED_WIDE __attribute__((target_clones("avx2", "default")))
#else
#define EMULATED_WIDE
#endif

// ---------------------------------------------------------------- mma.m16n8k16
struct emulated_mma {
    float *d;
    const uint32_t *a;
    uint32_t b[2];
};

// Eight columns of a row at a time.
typedef float emulated_floats __attribute__((vector_size(32)));
typedef int32_t emulated_ints __attribute__((vector_size(32)));
typedef uint32_t emulated_words __attribute__((vector_size(32)));

EMULATED_UNSEEN __attribute__((always_inline)) inline void emulated_add_cut(
    emulated_words &total, const emulated_floats &values) {
    total += (emulated_words) __builtin_convertvector(values, emulated_ints);
}

// sum += the products, as tensor cores add them: exact products and the sum are cut to multiples of
// 2^-24 of the largest's power of two, added, and the result is cut to a float; all cuts are
// towards zero. Where something is not finite, plain additions tell what comes out.
// Ref: Fasi, Higham, Mikaitis and Pranesh, Numerical behavior of NVIDIA tensor cores (2021).
EMULATED_UNSEEN __attribute__((always_inline)) inline void emulated_mma_add(
    emulated_floats &sum, const emulated_floats *products, int count) {
    const emulated_ints magnitude = emulated_ints{} + 0x7FFFFFFF, exponent = emulated_ints{} + 0xFF;
    emulated_ints largest = (emulated_ints)sum & magnitude;
    for (int k = 0; k < count; k++) {
        emulated_ints other = (emulated_ints)products[k] & magnitude;
        largest = other > largest ? other : largest;
    }
    // Limit: below 2^-102 the cuts stay where they are there.
    emulated_ints power = largest >> 23 & exponent;
    power = power > 25 ? power : emulated_ints{} + 25;
    emulated_floats unit = (emulated_floats)((power - 24) << 23),
                    per_unit = (emulated_floats)((278 - power) << 23);
    emulated_words total = {};
    emulated_add_cut(total, sum * per_unit);
    for (int k = 0; k < count; k++) emulated_add_cut(total, products[k] * per_unit);
    emulated_ints sign = (emulated_ints)total >> 31;
    emulated_ints left = (emulated_ints)((total ^ (emulated_words)sign) - (emulated_words)sign);
    emulated_floats nearest = __builtin_convertvector(left, emulated_floats);
    emulated_ints bits = (emulated_ints)nearest,  // less one, where it was rounded up
        is_above = __builtin_convertvector(nearest, emulated_ints) > left;
    emulated_floats cut = (emulated_floats)((bits + is_above) | (sign & ~magnitude)) * unit,
                    plain = sum;
    emulated_ints is_finite = power < exponent;
    int num_finite = 0;
    for (int i = 0; i < 8; i++) num_finite -= is_finite[i];
    for (int k = 0; k < count && num_finite < 8; k++) plain += products[k];
    sum = is_finite ? cut : plain;
}

EMULATED_UNSEEN EMULATED_WIDE static void emulated_mma_op(void *const *operands) {
    float a[16][16];
    emulated_floats b[16], d[16];
    for (int lane = 0; lane < 32; lane++) {
        const emulated_mma *mine = (const emulated_mma *)operands[lane];
        int g = lane / 4, q = lane % 4;
        for (int i = 0; i < 4; i++) {
            int row = g + 8 * (i & 1), k = 2 * q + 8 * (i >> 1);
            a[row][k] = low_float(mine->a[i]), a[row][k + 1] = high_float(mine->a[i]);
            d[g + 8 * (i >> 1)][2 * q + (i & 1)] = mine->d[i];
        }
        for (int i = 0; i < 2; i++)
            b[2 * q + 8 * i][g] = low_float(mine->b[i]),
                          b[2 * q + 8 * i + 1][g] = high_float(mine->b[i]);
    }
    int count = emulator_settings.adds_16_products ? 16 : 8;
    for (int row = 0; row < 16; row++) {
        emulated_floats products[16];
        for (int k = 0; k < 16; k++) products[k] = a[row][k] * b[k];
        for (int k = 0; k < 16; k += count) emulated_mma_add(d[row], products + k, count);
    }
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 4; i++)
            ((emulated_mma *)operands[lane])->d[i] =
                d[lane / 4 + 8 * (i >> 1)][2 * (lane % 4) + (i & 1)];
}

inline void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    emulated_mma operand = {d, a, {b0, b1}};
    emulator::warp_meet(emulated_mma_op, &operand);
}

// ---------------------------------------------------------------- ldmatrix
struct emulated_ldmatrix {
    uint32_t *r;
    uint16_t row[8];  // the row that this lane names
};

EMULATED_UNSEEN inline void emulated_ldmatrix_op(void *const *operands) {
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 4; i++) {
            const uint16_t *row = ((const emulated_ldmatrix *)operands[8 * i + lane / 4])->row;
            ((emulated_ldmatrix *)operands[lane])->r[i] =
                row[2 * (lane % 4)] | (uint32_t)row[2 * (lane % 4) + 1] << 16;
        }
}

EMULATED_UNSEEN inline void emulated_ldmatrix_transposed_op(void *const *operands) {
    auto element = [&](int i, int row, int column) EMULATED_UNSEEN {
        return (uint32_t)((const emulated_ldmatrix *)operands[8 * i + row])->row[column];
    };
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 4; i++)
            ((emulated_ldmatrix *)operands[lane])->r[i] =
                element(i, 2 * (lane % 4), lane / 4) | element(i, 2 * (lane % 4) + 1, lane / 4)
                                                           << 16;
}

inline void emulated_ldmatrix_by(emulator::warp_op op, uint32_t (&r)[4], shared<bf16> row) {
    emulated_ldmatrix operand = {r, {0}};
    memcpy(operand.row, emulator::shared_access(row.offset, 16, 16, emulator::READ), 16);
    emulator::warp_meet(op, &operand);
}

inline void ldmatrix_x4(uint32_t (&r)[4], shared<bf16> row) {
    emulated_ldmatrix_by(emulated_ldmatrix_op, r, row);
}
inline void ldmatrix_x4_transposed(uint32_t (&r)[4], shared<bf16> row) {
    emulated_ldmatrix_by(emulated_ldmatrix_transposed_op, r, row);
}

// ---------------------------------------------------------------- cp.async
template <typename T>
inline void cp_async_16(shared<T> to, const void *from, int num_bytes) {
    emulator::async_copy(to.offset, from, (size_t)num_bytes, 16);
}
inline void cp_async_commit() { emulator::async_commit(); }
template <int N>
inline void cp_async_wait() {
    emulator::async_wait(N);
}

// ---------------------------------------------------------------- conversions
inline uint32_t pack_bf16(float low, float high) {
    return from_float<bf16>(low).bits | (uint32_t)from_float<bf16>(high).bits << 16;
}
inline float exp2_approx(float x) { return exp2f(x); }

#endif
