// Prints how the tensor-core instructions of sm_80 lay their operands over the lanes of a warp:
// mma.m16n8k16 in bf16, ldmatrix plain and transposed, the zero fill of cp.async, and which half
// cvt.rn.bf16x2 puts first and how it rounds; through the wrappers in ptx/ that the kernels call.
// sm80.txt holds what the emulator prints (tests/golden/layouts.test.ts compares); bench/gpu_check
// compares it with what a GPU prints. Left out: ldmatrix .x1 and .x2, which no kernel uses; the
// rounding of sums inside mma and of ex2.approx, which are not layouts.
#include "layouts.cuh"

#include "../../../csrc/backends/cuda/ptx/convert.cuh"
#include "../../../csrc/backends/cuda/ptx/cp_async.cuh"
#include "../../../csrc/backends/cuda/ptx/ldmatrix.cuh"
#include "../../../csrc/backends/cuda/ptx/mma.cuh"

enum { SLOTS_A = WARP * 4 * 2, SLOTS_B = WARP * 2 * 2, SLOTS_D = WARP * 4 };

// ---------------------------------------------------------------- mma out: [SLOTS_A + 1][SLOTS_D].
// One element of A is 1, each of B its number + 1: D then says which of B met it, and where. Last:
// A is zero and C holds its numbers.
__global__ void mma_products(float *out) {
    uint32_t b[2];
    for (int i = 0; i < 2; i++) {
        int slot = (lane_id() * 2 + i) * 2 + 1;
        b[i] = (uint32_t)from_float<bf16>((float)slot).bits |
               (uint32_t)from_float<bf16>((float)(slot + 1)).bits << 16;
    }
    for (int slot = 0; slot <= SLOTS_A; slot++) {
        uint32_t a[4] = {};
        float d[4] = {};
        for (int i = 0; i < 4; i++) {
            if (slot / 8 == lane_id() && slot / 2 % 4 == i) a[i] = slot % 2 ? 0x3F800000u : 0x3F80u;
            if (slot == SLOTS_A) d[i] = (float)(lane_id() * 4 + i);
        }
        mma_m16n8k16(d, a, b[0], b[1]);
        for (int i = 0; i < 4; i++) out[slot * SLOTS_D + lane_id() * 4 + i] = d[i];
    }
}

static void print_mma() {
    float *d = (float *)new_results(sizeof(float) * (SLOTS_A + 1) * SLOTS_D);
    expect_done(LAUNCH(mma_products, dim3(1), dim3(WARP), 0, nullptr, d), "mma");
    printf(
        "mma.m16n8k16 bf16: an element of A, and for each element of D that it reaches the one of "
        "B that it meets there\n");
    for (int slot = 0; slot < SLOTS_A; slot++) {
        printf("a %d.%d.%d:", slot / 8, slot / 2 % 4, slot % 2);
        for (int i = 0; i < SLOTS_D; i++) {
            int b = (int)d[slot * SLOTS_D + i] - 1;
            if (b >= 0) printf(" d%d.%d=b%d.%d.%d", i / 4, i % 4, b / 4, b / 2 % 2, b % 2);
        }
        printf("\n");
    }
    printf("mma.m16n8k16 bf16: elements of C that do not come out where they went in:");
    for (int i = 0; i < SLOTS_D; i++)
        if (d[SLOTS_A * SLOTS_D + i] != (float)i) printf(" c%d.%d", i / 4, i % 4);
    printf("\n");
}

// ---------------------------------------------------------------- ldmatrix out: [2][WARP][4]. Lane
// l names a row of 16 bytes and has put 8 l .. 8 l + 7 there; the rows lie in another order than
// the lanes.
__global__ void ldmatrix_rows(uint32_t *out) {
    shared<bf16> row = shared_at<bf16>(0) + (5 * lane_id() + 3) % WARP * 8;
    for (int i = 0; i < 8; i++) row[i] = bf16{(uint16_t)(lane_id() * 8 + i)};
    __syncwarp();
    uint32_t r[4];
    for (int is_transposed = 0; is_transposed < 2; is_transposed++) {
        if (is_transposed) ldmatrix_x4_transposed(r, row);
        else ldmatrix_x4(r, row);
        for (int i = 0; i < 4; i++) out[(is_transposed * WARP + lane_id()) * 4 + i] = r[i];
    }
}

static void print_ldmatrix() {
    uint32_t *r = (uint32_t *)new_results(sizeof(uint32_t) * 2 * WARP * 4);
    expect_done(LAUNCH(ldmatrix_rows, dim3(1), dim3(WARP), WARP * 16, nullptr, r), "ldmatrix");
    for (int is_transposed = 0; is_transposed < 2; is_transposed++) {
        printf(
            "ldmatrix.x4%s: a lane, and for each half of its registers the lane that named the "
            "row, and the column\n",
            is_transposed ? ".trans" : "");
        for (int lane = 0; lane < WARP; lane++) {
            printf("lane %d:", lane);
            for (int half = 0; half < 8; half++) {
                unsigned element =
                    r[(is_transposed * WARP + lane) * 4 + half / 2] >> (half % 2 * 16) & 0xFFFF;
                printf(" %u.%u", element / 8, element % 8);
            }
            printf("\n");
        }
    }
}

// ---------------------------------------------------------------- cp.async out, from: [WARP][4].
// Lane l copies min(l, 16) bytes; a lane reads what its neighbour copied, once all have waited.
__global__ void cp_async_bytes(uint32_t *out, const uint32_t *from) {
    shared<uint32_t> to = shared_at<uint32_t>(0);
    for (int i = 0; i < 4; i++) to[lane_id() * 4 + i] = 0xEEEEEEEEu;
    __syncthreads();
    cp_async_16(to + lane_id() * 4, from + lane_id() * 4, lane_id() < 16 ? lane_id() : 16);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    int lane = lane_id() ^ 1;
    for (int i = 0; i < 4; i++) out[lane * 4 + i] = to[lane * 4 + i];
}

static void print_cp_async() {
    uint32_t *to = (uint32_t *)new_results(sizeof(uint32_t) * WARP * 4),
             *from = (uint32_t *)new_results(sizeof(uint32_t) * WARP * 4);
    for (int i = 0; i < WARP * 16; i++) ((uint8_t *)from)[i] = (uint8_t)(i % 16 + 1);
    expect_done(
        LAUNCH(cp_async_bytes, dim3(1), dim3(WARP), WARP * 16, nullptr, to, (const uint32_t *)from),
        "cp.async");
    printf("cp.async 16: bytes asked for, and what lies in shared memory then (copied: 1 to 16)\n");
    for (int lane = 0; lane <= 16; lane++) {
        printf("%d:", lane);
        for (int i = 0; i < 16; i++) printf(" %d", ((uint8_t *)to)[lane * 16 + i]);
        printf("\n");
    }
}

// ---------------------------------------------------------------- cvt
static const uint32_t floats[] = {0x3F800000, 0x3F808000, 0x3F818000, 0x3F808001,
                                  0x3F807FFF, 0xBF808000, 0x7F7FFFFF, 0x7F800000,
                                  0xFF800000, 0x80000000, 0x00018000, 0x00008000};
enum { NUM_FLOATS = sizeof floats / sizeof *floats };

__global__ void convert_pairs(uint32_t *out, const float *low, const float *high) {
    if (lane_id() < NUM_FLOATS) out[lane_id()] = pack_bf16(low[lane_id()], high[lane_id()]);
}

static void print_convert() {
    float *low = (float *)new_results(sizeof floats), *high = (float *)new_results(sizeof floats);
    uint32_t *out = (uint32_t *)new_results(sizeof floats);
    for (int i = 0; i < NUM_FLOATS; i++) memcpy(&low[i], &floats[i], 4), high[i] = 2;
    expect_done(LAUNCH(convert_pairs, dim3(1), dim3(WARP), 0, nullptr, out, (const float *)low,
                       (const float *)high),
                "cvt");
    printf("cvt.rn.bf16x2: a float for the lower half, 2 for the upper one, and the pair\n");
    for (int i = 0; i < NUM_FLOATS; i++) printf("%08x: %08x\n", floats[i], out[i]);
}

int main() {
    print_mma(), print_ldmatrix(), print_cp_async(), print_convert();
    return 0;
}
