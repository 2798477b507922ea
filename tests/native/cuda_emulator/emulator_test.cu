// Holds the emulator to what it promises: kernels with one planted bug of each kind, each of which
// must be reported as what it is, beside the same kernel without the bug, which must pass. Then
// mma, ldmatrix and cp.async against plain arithmetic, and how mma rounds. Prints TAP; the exit
// code is 1 when a test failed.
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "../../../csrc/backends/cuda/ptx/convert.cuh"
#include "../../../csrc/backends/cuda/ptx/cp_async.cuh"
#include "../../../csrc/backends/cuda/ptx/ldmatrix.cuh"
#include "../../../csrc/backends/cuda/ptx/mma.cuh"
#include "../tap.h"
#include "emulator.h"

enum { THREADS = 64, NUM_RUNS = 8 };

// Every thread passes a value to its mirror image by shared memory. A bug changes one line of it.
enum bug {
    SOUND,
    BEYOND_SHARED,
    BEFORE_SHARED,
    BEYOND_GLOBAL_READ,
    BEYOND_GLOBAL_WRITE,
    BEFORE_GLOBAL_READ,
    FAR_GLOBAL,
    MISSING_BARRIER,
    DIVERGENT_BARRIER,
    EARLY_RETURN,
    UNWRITTEN_SHARED,
    MISSING_OUTPUT,
    OVERWRITE,
    DIVERGENT_WARP,
    MISALIGNED_SHARED,
    MISALIGNED_GLOBAL,
    INT_OVERFLOW,
    LANES_WITHOUT_SYNC
};

__global__ void mirror(float *out, const float *in, int count, bug planted) {
    shared<float> row = shared_at<float>(0);
    int i = (int)threadIdx.x, from = i;
    if (planted == BEYOND_GLOBAL_READ && i == count - 1) from = count;
    if (planted == BEFORE_GLOBAL_READ && i == 0) from = -1;
    if (planted == FAR_GLOBAL && i == 0) from = 1 << 30;
    if (planted == INT_OVERFLOW) from += (count << 20) * (i + 100) == 1;
    if (planted != UNWRITTEN_SHARED || i != 7) row[i] = -1.0f;
    __syncthreads();
    if (planted == EARLY_RETURN && i == 5) return;
    float value = in[from];
    if (planted == BEYOND_SHARED && i == count - 1) row[count] = value;
    else if (planted == BEFORE_SHARED && i == 3) row[-1] = value;
    else if (planted == MISALIGNED_SHARED)
        shared_as<float>(shared_as<uint16_t>(row) + 1)[0] = value;
    else if (planted != UNWRITTEN_SHARED || i != 7) row[i] = value;
    if (planted == DIVERGENT_BARRIER && i < WARP) __syncthreads();
    if (planted == LANES_WITHOUT_SYNC) value += row[i ^ 1];
    if (planted != MISSING_BARRIER) __syncthreads();
    value = row[count - 1 - i];
    if (planted == OVERWRITE) row[i] = 0.0f;
    if (planted == DIVERGENT_WARP && i == 9) return;
    value += warp_sum(0.0f);
    if (planted == MISSING_OUTPUT && i == 11) return;
    if (planted == MISALIGNED_GLOBAL) *(float4 *)(out + 1) = make_float4(0, 0, 0, 0);
    out[planted == BEYOND_GLOBAL_WRITE && i == count - 1 ? count : i] = value;
}

static void test_planted(void) {
    const struct {
        bug planted;
        const char *name, *want;
    } cases[] = {
        {SOUND, "no bug", ""},
        {BEYOND_SHARED, "a step beyond shared memory", "out of bounds: shared"},
        {BEFORE_SHARED, "a step before shared memory", "out of bounds: shared"},
        {BEYOND_GLOBAL_READ, "a read beyond an allocation", "of a global allocation"},
        {BEYOND_GLOBAL_WRITE, "a write beyond an allocation", "out of bounds"},
        {BEFORE_GLOBAL_READ, "a read before an allocation", "of a global allocation"},
        {FAR_GLOBAL, "a read far from any allocation", "in no allocation"},
        {MISSING_BARRIER, "a missing barrier", "race"},
        {OVERWRITE, "a write while others read", "race"},
        {LANES_WITHOUT_SYNC, "lanes that pass values without __syncwarp", "race"},
        {DIVERGENT_BARRIER, "a barrier that one warp reaches twice", "barrier not reached by all"},
        {EARLY_RETURN, "a thread that returns before the barrier", "not reached by all"},
        {DIVERGENT_WARP, "a lane that misses a shuffle", "not reached by all lanes"},
        {UNWRITTEN_SHARED, "a read of what nothing wrote", "nothing wrote it"},
        {MISSING_OUTPUT, "an output that is not written", "unwritten"},
        {MISALIGNED_SHARED, "a misaligned shared access", "misaligned"},
        {MISALIGNED_GLOBAL, "a misaligned global access", "undefined behaviour"},
        {INT_OVERFLOW, "an int overflow", "undefined behaviour"},
    };
    for (const auto &c : cases) {
        bool is_seen = false;
        char detail[512] = "";
        // Steps before an allocation are seen where it begins at a guard page. Which of two
        // findings comes first depends on the order.
        for (int run = 0; run < NUM_RUNS; run++) {
            emulator_settings.is_end_guarded = run % 2, emulator_settings.seed = (uint32_t)run;
            float *in = (float *)emulator_allocate(THREADS * sizeof(float)),
                  *out = (float *)emulator_allocate(THREADS * sizeof(float));
            for (int i = 0; i < THREADS; i++) in[i] = (float)i;
            LAUNCH(mirror, 1, THREADS, THREADS * sizeof(float), nullptr, out, in, THREADS,
                   c.planted);
            const char *failure = emulator_failure();
            if (!*failure && emulator_has_unwritten(out, THREADS * sizeof(float)))
                failure = "unwritten output";
            bool is_right = true;
            for (int i = 0; i < THREADS && c.planted == SOUND; i++)
                is_right &= out[i] == (float)(THREADS - 1 - i);
            if (c.planted == SOUND) is_seen = is_right && !*failure && (run == 0 || is_seen);
            else is_seen |= strstr(failure, c.want) != nullptr;
            if (*failure && (!*detail || strstr(failure, c.want)))
                snprintf(detail, sizeof detail, "%s", failure);
            emulator_free(in), emulator_free(out);
        }
        report(is_seen, "%s: %s", c.name, detail);
    }
}

// ---------------------------------------------------------------- copies
enum copy_bug { COPY_SOUND, NO_WAIT, NO_BARRIER, WAIT_FOR_TOO_FEW, REUSED_TOO_EARLY };

// A ring of two slots of 16 bytes a thread; every thread reads its neighbour's.
__global__ void ring(float *out, const float *in, int num_steps, copy_bug planted) {
    int i = (int)threadIdx.x, neighbour = (i + 1) % THREADS;
    shared<float> slots = shared_at<float>(0);
    auto issue = [&](int step) {
        if (step < num_steps)
            cp_async_16(slots + (step % 2 * THREADS + i) * 4, in + (step * THREADS + i) * 4,
                        step == 1 ? 8 : 16);
        cp_async_commit();
    };
    float sum = 0;
    for (int k = 0; k < 8; k++) slots[k * THREADS + i] = -1.0f;
    __syncthreads();
    issue(0);
    for (int step = 0; step < num_steps; step++) {
        if (planted == REUSED_TOO_EARLY) issue(step + 1);
        if (planted == REUSED_TOO_EARLY) cp_async_wait<1>();
        else if (planted == WAIT_FOR_TOO_FEW) cp_async_wait<1>();
        else if (planted != NO_WAIT) cp_async_wait<0>();
        if (planted != NO_BARRIER) __syncthreads();
        if (planted != REUSED_TOO_EARLY) issue(step + 1);
        for (int k = 0; k < 4; k++) sum += slots[(step % 2 * THREADS + neighbour) * 4 + k];
    }
    cp_async_wait<0>();
    out[i] = sum;
}

static void test_copies(void) {
    const struct {
        copy_bug planted;
        const char *name, *want;
    } cases[] = {
        {COPY_SOUND, "a ring of copies", ""},
        {NO_WAIT, "a copy that nobody waits for", "before the copy"},
        {NO_BARRIER, "a copy without a barrier after it", "race"},
        {WAIT_FOR_TOO_FEW, "a wait that leaves one copy too many", "before the copy"},
        {REUSED_TOO_EARLY, "a slot filled while others read it", "race"},
    };
    enum { STEPS = 5 };
    for (const auto &c : cases)
        for (int is_late = 0; is_late < 2; is_late++) {
            bool is_seen = c.planted == COPY_SOUND;
            char detail[512] = "", name[128];
            for (int run = 0; run < NUM_RUNS; run++) {
                emulator_settings.is_late = is_late, emulator_settings.seed = (uint32_t)run;
                float *in = (float *)emulator_allocate(STEPS * THREADS * 16),
                      *out = (float *)emulator_allocate(THREADS * sizeof(float));
                for (int i = 0; i < STEPS * THREADS * 4; i++) in[i] = (float)(i % 101);
                LAUNCH(ring, 1, THREADS, 2 * THREADS * 16, nullptr, out, in, (int)STEPS, c.planted);
                const char *failure = emulator_failure();
                for (int i = 0; i < THREADS && c.planted == COPY_SOUND; i++) {
                    float want = 0;
                    for (int k = 0; k < STEPS * 4; k++)
                        want += k / 4 == 1 && k % 4 >= 2
                                    ? 0
                                    : in[(k / 4 * THREADS + (i + 1) % THREADS) * 4 + k % 4];
                    is_seen &= out[i] == want;
                }
                if (c.planted == COPY_SOUND) is_seen &= !*failure;
                else is_seen |= strstr(failure, c.want) != nullptr;
                if (*failure && (!*detail || strstr(failure, c.want)))
                    snprintf(detail, sizeof detail, "%s", failure);
                emulator_free(in), emulator_free(out);
            }
            snprintf(name, sizeof name, "%s, %s", c.name, is_late ? "late" : "early");
            report(is_seen, "%s: %s", name, detail);
        }
    emulator_settings.is_late = false;
}

// ---------------------------------------------------------------- mma on ldmatrix
// out[16][16] = a[16][16] b, b as [n][k] (plain) or [k][n] (transposed).
__global__ void product(float *out, const bf16 *a, const bf16 *b, bool is_transposed) {
    int lane = lane_id(), g = lane / 4, q = lane % 4;
    shared<bf16> rows = shared_at<bf16>(0), others = shared_at<bf16>(512);
    for (int i = lane; i < 256; i += WARP) rows[i] = a[i], others[i] = b[i];
    __syncwarp();
    uint32_t left[4], right[4];
    ldmatrix_x4(left, rows + (lane & 15) * 16 + (lane >> 4) * 8);
    if (is_transposed) ldmatrix_x4_transposed(right, others + (lane & 15) * 16 + (lane >> 4) * 8);
    else ldmatrix_x4(right, others + ((lane & 7) + 8 * (lane >> 4)) * 16 + (lane >> 3 & 1) * 8);
    for (int n = 0; n < 2; n++) {
        float d[4] = {0, 0, 0, 0};
        mma_m16n8k16(d, left, right[2 * n], right[2 * n + 1]);
        for (int i = 0; i < 4; i++) out[(g + 8 * (i >> 1)) * 16 + n * 8 + 2 * q + (i & 1)] = d[i];
    }
}

static void test_product(void) {
    for (int is_transposed = 0; is_transposed < 2; is_transposed++) {
        bf16 *a = (bf16 *)emulator_allocate(512), *b = (bf16 *)emulator_allocate(512);
        float *out = (float *)emulator_allocate(1024);
        for (int i = 0; i < 256; i++)
            a[i] = from_float<bf16>((float)(i * 7 % 31)),
            b[i] = from_float<bf16>((float)(i * 5 % 23) - 11);
        LAUNCH(product, 1, WARP, 1024, nullptr, out, a, b, (bool)is_transposed);
        int wrong = 0;
        for (int m = 0; m < 16; m++)
            for (int n = 0; n < 16; n++) {
                float want = 0;
                for (int k = 0; k < 16; k++)
                    want += to_float(a[m * 16 + k]) *
                            to_float(b[is_transposed ? k * 16 + n : n * 16 + k]);
                wrong += out[m * 16 + n] != want;
            }
        report(wrong == 0 && !*emulator_failure(), "mma on ldmatrix%s: %s",
               is_transposed ? ".trans" : "", emulator_failure());
        emulator_free(a), emulator_free(b), emulator_free(out);
    }
    report(low_float(pack_bf16(1, 2)) == 1 && high_float(pack_bf16(1, 2)) == 2,
           "a pair of bf16 has its first element low");
}

// out = sum + the 16 values, each times one, in all of D.
__global__ void sums(float *out, float sum, const float *values) {
    int lane = lane_id(), q = lane % 4;
    uint32_t low = pack_bf16(values[2 * q], values[2 * q + 1]),
             high = pack_bf16(values[2 * q + 8], values[2 * q + 9]), one = pack_bf16(1, 1);
    uint32_t a[4] = {low, low, high, high};
    float d[4] = {sum, sum, sum, sum};
    mma_m16n8k16(d, a, one, one);
    for (int i = 0; i < 4; i++) out[lane * 4 + i] = d[i];
}

// Tensor cores cut towards zero: what lies below 2^-24 of the largest, in each product, and what a
// float does not hold, after each 8 or 16 of them.
static void test_cuts(void) {
    const float unit = ldexpf(1, -24);
    const struct {
        const char *name;
        float sum, each, first, middle;  // of the 16: all, then number 0 and number 8 instead
        float by_8, by_16;
    } cases[] = {
        {"products below the last place are lost", 1, unit / 2, 0, 0, 1, 1},
        {"so are negative ones", -1, -unit / 2, 0, 0, -1, -1},
        {"the rest of a product is cut", 1, unit * 1.5f, 0, 0, 1 + 16 * unit, 1 + 16 * unit},
        {"half a place of a float is cut after each block", 1, 0, unit, unit, 1, 1 + 2 * unit},
        {"towards zero", -1, 0, -unit, -unit, -1, -1 - 2 * unit},
        {"the largest is a product", unit, 0, 1, -1, 0, unit},
        {"whole numbers are exact", 3, 5, -7, 100, 166, 166},
        {"infinity stays", 1, 0, INFINITY, 0, INFINITY, INFINITY},
        {"and is no number with its opposite", 1, 0, INFINITY, -INFINITY, NAN, NAN},
    };
    for (const auto &c : cases) {
        float *values = (float *)emulator_allocate(64), *out = (float *)emulator_allocate(512);
        int wrong = 0;
        for (int adds_16 = 0; adds_16 < 2; adds_16++) {
            emulator_settings.adds_16_products = adds_16;
            for (int i = 0; i < 16; i++) values[i] = c.each;
            if (c.first != 0) values[0] = c.first, values[8] = c.middle;
            LAUNCH(sums, 1, WARP, 0, nullptr, out, c.sum, values);
            float want = adds_16 ? c.by_16 : c.by_8;
            for (int i = 0; i < 128; i++) wrong += isnan(want) ? !isnan(out[i]) : !(out[i] == want);
        }
        report(wrong == 0 && !*emulator_failure(), "mma: %s: %d wrong %s", c.name, wrong,
               emulator_failure());
        emulator_free(values), emulator_free(out);
    }
    emulator_settings.adds_16_products = false;
}

__global__ void nothing() {}

static void test_limits(void) {
    emulator_settings.shared_limit = 101376;
    int too_much = LAUNCH(nothing, 1, 32, 101377, nullptr),
        too_many = LAUNCH(nothing, 1, 2048, 0, nullptr),
        fits = LAUNCH(nothing, 3, 32, 101376, nullptr);
    emulator_settings.shared_limit = 0;
    report(too_much && too_many && !fits, "launches beyond a device's limits are refused");
}

int main() {
    test_planted();
    test_copies();
    test_product();
    test_cuts();
    test_limits();
    return report_end();
}
