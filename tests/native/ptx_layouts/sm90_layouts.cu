// Prints how Hopper's asynchronous instructions lay out their operands: wgmma.m64n16k16 in bf16
// (the registers of the result; where a K-major operand's elements lie in shared memory, for each
// swizzle that a descriptor names) and where a tiled TMA copy puts 16 bytes under the same
// swizzles. No kernel uses them yet, and the emulator has neither: compiled for it, this prints
// what PTX ISA 9.7.15.5 and 5.5.7 say, which CuTe's layouts agree with. sm90.txt holds that
// (tests/golden/layouts.test.ts); bench/gpu_check compares it with what a GPU of compute capability
// 9.0 prints. Exit code 3: another GPU. Left out: MN-major operands, other widths than 16 columns,
// im2col.
#include "layouts.cuh"

enum { M = 64, N = 16, K = 16, THREADS = 128, SUMS = N / 2 };
enum { A_BYTES = M * 128, B_BYTES = N * 128, NUM_MODES = 3, TMA_ROWS = 16, ONE = 0x3F80 };
static const int row_bytes[NUM_MODES] = {128, 64, 32};  // of descriptor modes 1, 2, 3

// Byte of element (x, k) from the start of a K-major operand, x a row of A or a column of B; the
// start is 1024-byte aligned.
static int operand_at(int mode, int x, int k) {
    int at = x / 8 * 8 * row_bytes[mode] + x % 8 * row_bytes[mode] + 2 * k;
    return at ^ (at >> 7 & (row_bytes[mode] / 16 - 1)) << 4;
}

// Thread and register of element (row, column) of the result.
static int sum_at(int row, int column) {
    int thread = row / 16 * WARP + row % 8 * 4 + column % 8 / 2;
    return thread * SUMS + column / 8 * 4 + row % 16 / 8 * 2 + column % 2;
}

struct layouts {
    int rows[THREADS * SUMS], columns[THREADS * SUMS];  // of each register of the result
    int a[NUM_MODES][M][K], b[NUM_MODES][N][K];         // bytes
    int tma[NUM_MODES][TMA_ROWS * 128 / 16],
        is_whole[NUM_MODES][TMA_ROWS * 128 / 16];  // number of the element that 16 bytes begin with
};

#ifdef CTOK_CUDA_EMULATOR
static void find_layouts(layouts *l) {
    for (int row = 0; row < M; row++)
        for (int column = 0; column < N; column++)
            l->rows[sum_at(row, column)] = row, l->columns[sum_at(row, column)] = column;
    for (int mode = 0; mode < NUM_MODES; mode++) {
        for (int k = 0; k < K; k++) {
            for (int x = 0; x < M; x++) l->a[mode][x][k] = operand_at(mode, x, k);
            for (int x = 0; x < N; x++) l->b[mode][x][k] = operand_at(mode, x, k);
        }
        for (int row = 0; row < TMA_ROWS; row++)
            for (int column = 0; column < row_bytes[mode] / 2; column += 8) {
                int chunk = operand_at(mode, row, column) / 16;
                l->tma[mode][chunk] = row * row_bytes[mode] / 2 + column,
                l->is_whole[mode][chunk] = 1;
            }
    }
}
#else
#include <cuda.h>

// ---------------------------------------------------------------- wgmma
// a, b: what shared memory holds; sums: [THREADS][SUMS].
__global__ void __launch_bounds__(THREADS)
    wgmma_product(float *sums, const uint16_t *a, const uint16_t *b, int mode) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    shared<uint16_t> tile = shared_at<uint16_t>(0);
    for (int i = (int)threadIdx.x; i < A_BYTES / 2; i += THREADS) tile[i] = a[i];
    for (int i = (int)threadIdx.x; i < B_BYTES / 2; i += THREADS) tile[A_BYTES / 2 + i] = b[i];
    asm volatile("fence.proxy.async;" ::: "memory");
    __syncthreads();
    uint64_t rows = mode == 0 ? 128 : mode == 1 ? 64 : 32;
    uint64_t descriptor = (uint64_t)(mode + 1) << 62 | (8 * rows >> 4) << 32 | (uint64_t)1 << 16;
    uint64_t from_a = descriptor | ((uint32_t)__cvta_generic_to_shared(tile) & 0x3FFFF) >> 4;
    uint64_t from_b =
        descriptor | ((uint32_t)__cvta_generic_to_shared(tile + A_BYTES / 2) & 0x3FFFF) >> 4;
    float d[SUMS];
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
    asm volatile(
        "{ .reg .pred is_added; setp.ne.b32 is_added, 0, 0;"
        "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {%0,%1,%2,%3,%4,%5,%6,%7}, %8, %9, "
        "is_added, 1, 1, 0, 0; }"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3]), "=f"(d[4]), "=f"(d[5]), "=f"(d[6]),
          "=f"(d[7])
        : "l"(from_a), "l"(from_b)
        : "memory");
    asm volatile("wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]),
                   "+f"(d[6]), "+f"(d[7])::"memory");
    for (int i = 0; i < SUMS; i++) sums[threadIdx.x * SUMS + i] = d[i];
#endif
}

// The number that came out of a product with 1: numbers are the bits of different bf16 values, from
// that of 1.0 on.
static int number_of(float sum) {
    uint32_t bits;
    memcpy(&bits, &sum, 4);
    return (int)(bits >> 16) - ONE;
}

static void find_wgmma(layouts *l) {
    float *sums = (float *)new_results(sizeof(float) * THREADS * SUMS);
    uint16_t *a = (uint16_t *)new_results(A_BYTES), *b = (uint16_t *)new_results(B_BYTES);
    auto multiply = [&](int mode) {
        expect_done(LAUNCH(wgmma_product, dim3(1), dim3(THREADS), A_BYTES + B_BYTES, nullptr, sums,
                           (const uint16_t *)a, (const uint16_t *)b, mode),
                    "wgmma");
    };
    // Rows and columns of the result: column 0 of the reduction alone, numbered in one operand, 1
    // in the other.
    for (int side = 0; side < 2; side++) {
        memset(a, 0, A_BYTES), memset(b, 0, B_BYTES);
        for (int x = 0; x < M; x++)
            a[operand_at(0, x, 0) / 2] = (uint16_t)(ONE + (side == 0 ? x : 0));
        for (int x = 0; x < N; x++)
            b[operand_at(0, x, 0) / 2] = (uint16_t)(ONE + (side == 1 ? x : 0));
        multiply(0);
        for (int i = 0; i < THREADS * SUMS; i++)
            (side == 0 ? l->rows : l->columns)[i] = number_of(sums[i]);
    }
    // Where the elements of an operand lie: all of its memory numbered, and in the other one a
    // single k that is 1.
    for (int mode = 0; mode < NUM_MODES; mode++)
        for (int k = 0; k < K; k++) {
            for (int i = 0; i < A_BYTES / 2; i++) a[i] = (uint16_t)(ONE + i);
            memset(b, 0, B_BYTES);
            for (int x = 0; x < N; x++) b[operand_at(mode, x, k) / 2] = ONE;
            multiply(mode);
            for (int x = 0; x < M; x++) l->a[mode][x][k] = 2 * number_of(sums[sum_at(x, 0)]);
            for (int i = 0; i < B_BYTES / 2; i++) b[i] = (uint16_t)(ONE + i);
            memset(a, 0, A_BYTES);
            for (int x = 0; x < M; x++) a[operand_at(mode, x, k) / 2] = ONE;
            multiply(mode);
            for (int x = 0; x < N; x++) l->b[mode][x][k] = 2 * number_of(sums[sum_at(0, x)]);
        }
}

// ---------------------------------------------------------------- TMA
// out: [TMA_ROWS * columns], shared memory as the copy of a whole [TMA_ROWS][columns] left it.
__global__ void tma_box(uint16_t *out, const __grid_constant__ CUtensorMap map, int num_elements) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    shared<uint16_t> tile = shared_at<uint16_t>(0);
    uint32_t to = (uint32_t)__cvta_generic_to_shared(tile),
             barrier = (uint32_t)__cvta_generic_to_shared(shared_at<uint64_t>(TMA_ROWS * 128));
    if (threadIdx.x == 0) {
        asm volatile(
            "mbarrier.init.shared::cta.b64 [%0], 1; fence.mbarrier_init.release.cluster;" ::"r"(
                barrier)
            : "memory");
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier),
                     "r"(2 * num_elements)
                     : "memory");
        asm volatile(
            "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], "
            "[%1, {%2, %2}], [%3];" ::"r"(to),
            "l"(&map), "r"(0), "r"(barrier)
            : "memory");
    }
    __syncthreads();  // the barrier is initialised
    for (uint32_t is_done = 0; !is_done;)
        asm volatile(
            "{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], 0; selp.u32 %0, 1, "
            "0, p; }"
            : "=r"(is_done)
            : "r"(barrier)
            : "memory");
    for (int i = (int)threadIdx.x; i < num_elements; i += WARP) out[i] = tile[i];
#endif
}

static void find_tma(layouts *l) {
    void *encoder = nullptr;
    cudaDriverEntryPointQueryResult found;
    expect_done(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &encoder, 12000,
                                                 cudaEnableDefault, &found),
                "cuTensorMapEncodeTiled");
    decltype(&cuTensorMapEncodeTiled) encode = (decltype(&cuTensorMapEncodeTiled))encoder;
    const CUtensorMapSwizzle swizzles[NUM_MODES] = {
        CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_SWIZZLE_64B, CU_TENSOR_MAP_SWIZZLE_32B};
    uint16_t *out = (uint16_t *)new_results(TMA_ROWS * 128), numbers[TMA_ROWS * 64];
    void *in = nullptr;
    for (int i = 0; i < TMA_ROWS * 64; i++) numbers[i] = (uint16_t)i;
    expect_done(cudaMalloc(&in, sizeof numbers), "memory");
    expect_done(cudaMemcpy(in, numbers, sizeof numbers, cudaMemcpyHostToDevice), "memory");
    for (int mode = 0; mode < NUM_MODES; mode++) {
        int columns = row_bytes[mode] / 2, num_elements = TMA_ROWS * columns;
        CUtensorMap map;
        const cuuint64_t sizes[2] = {(cuuint64_t)columns, TMA_ROWS},
                         strides[1] = {(cuuint64_t)row_bytes[mode]};
        const cuuint32_t box[2] = {(cuuint32_t)columns, TMA_ROWS}, steps[2] = {1, 1};
        CUresult result =
            encode ? encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, in, sizes, strides, box,
                            steps, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzles[mode],
                            CU_TENSOR_MAP_L2_PROMOTION_NONE, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE)
                   : CUDA_ERROR_NOT_FOUND;
        if (result != CUDA_SUCCESS) {
            fprintf(stderr, "cuTensorMapEncodeTiled: error %d\n", (int)result);
            exit(1);
        }
        expect_done(LAUNCH(tma_box, dim3(1), dim3(WARP), TMA_ROWS * 128 + 8, nullptr, out, map,
                           num_elements),
                    "TMA");
        for (int i = 0; i < num_elements; i += 8) {
            l->tma[mode][i / 8] = out[i], l->is_whole[mode][i / 8] = 1;
            for (int k = 1; k < 8; k++) l->is_whole[mode][i / 8] &= out[i + k] == out[i] + k;
        }
    }
}

static void find_layouts(layouts *l) {
    int major = 0, minor = 0;
    expect_done(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), "device");
    expect_done(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0), "device");
    if (major != 9 || minor != 0) {
        fprintf(stderr, "expected compute capability 9.0, found %d.%d\n", major, minor);
        exit(3);
    }
    find_wgmma(l), find_tma(l);
}
#endif

int main() {
    static layouts l;
    find_layouts(&l);
    printf("wgmma.m64n16k16 bf16: a thread, and row.column of each register of its result\n");
    for (int thread = 0; thread < THREADS; thread++) {
        printf("thread %d:", thread);
        for (int i = 0; i < SUMS; i++)
            printf(" %d.%d", l.rows[thread * SUMS + i], l.columns[thread * SUMS + i]);
        printf("\n");
    }
    for (int mode = 0; mode < NUM_MODES; mode++) {
        printf(
            "wgmma, K-major, %d-byte swizzle: a row of A or a column of B, and the byte where each "
            "of its 16 elements lies\n",
            row_bytes[mode]);
        for (int x = 0; x < M + N; x++) {
            printf("%s %d:", x < M ? "row" : "column", x < M ? x : x - M);
            for (int k = 0; k < K; k++)
                printf(" %d", x < M ? l.a[mode][x][k] : l.b[mode][x - M][k]);
            printf("\n");
        }
    }
    for (int mode = 0; mode < NUM_MODES; mode++) {
        int columns = row_bytes[mode] / 2;
        printf(
            "TMA, %d-byte swizzle, a box of %d x %d: 128 bytes of shared memory, and row.column "
            "that each 16 of them begin with\n",
            row_bytes[mode], TMA_ROWS, columns);
        for (int chunk = 0; chunk < TMA_ROWS * row_bytes[mode] / 16; chunk++) {
            if (chunk % 8 == 0) printf("byte %d:", chunk * 16);
            printf(" %d.%d%s", l.tma[mode][chunk] / columns, l.tma[mode][chunk] % columns,
                   l.is_whole[mode][chunk] ? "" : "?");
            if (chunk % 8 == 7) printf("\n");
        }
    }
    return 0;
}
