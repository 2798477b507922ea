// The ptx/ wrappers on the CPU: the same functions, computed lane by lane as the PTX ISA lays the
// registers out. The maps were compared with CuTe's layouts for every register (CUDA.md, section
// 1). Who includes it: csrc/backends/cuda/ptx/*.cuh, where CTOK_CUDA_EMULATOR is defined.
#ifndef CTOK_EMULATED_PTX_H
#define CTOK_EMULATED_PTX_H

// ---------------------------------------------------------------- mma.m16n8k16
struct emulated_mma {
    float *d;
    const uint32_t *a;
    uint32_t b[2];
};

inline void emulated_mma_op(void *const *operands) {
    float a[16][16], b[16][8], d[16][8];
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
    for (int row = 0; row < 16; row++)
        for (int k = 0; k < 16; k++)
            for (int column = 0; column < 8; column++) d[row][column] += a[row][k] * b[k][column];
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

inline void emulated_ldmatrix_op(void *const *operands) {
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 4; i++) {
            const uint16_t *row = ((const emulated_ldmatrix *)operands[8 * i + lane / 4])->row;
            ((emulated_ldmatrix *)operands[lane])->r[i] =
                row[2 * (lane % 4)] | (uint32_t)row[2 * (lane % 4) + 1] << 16;
        }
}

inline void emulated_ldmatrix_transposed_op(void *const *operands) {
    auto element = [&](int i, int row, int column) {
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
