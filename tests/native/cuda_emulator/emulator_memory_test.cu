// Holds the emulator to what it promises of global memory and of streams, as emulator_test.cu does
// of a block: one planted bug of each kind, which must be reported as what it is, beside the same
// without it, which must pass. Memory: what blocks do to each other's elements, memory of the host,
// memory that was freed. Streams, with work done late: a buffer that is used again before its copy
// is made, memory freed before it is used, a result read before it is waited for. Prints TAP; the
// exit code is 1 when a test failed.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../../csrc/backends/cuda/device.cuh"
#include "../tap.h"
#include "emulator.h"

enum { THREADS = 64, BLOCKS = 3 };

// ---------------------------------------------------------------- memory
enum memory_bug {
    SOUND,
    ONE_ELEMENT,
    ONE_BYTE,
    OTHERS_ELEMENT,
    PART_OF_ELEMENT,
    HEAP,
    STACK,
    STATIC,
    IN_STRUCT,
    MARGIN,
    FREED
};

struct places {
    float *out;
    uint8_t *bytes;
    const float *in;
};

static const float table[2] = {1, 2};

// Blocks write rows of `out`, and bytes of `bytes` that lie beside those of other blocks.
__global__ void rows(places p, const float *in, memory_bug planted) {
    int block = (int)blockIdx.x, i = (int)threadIdx.x, at = block * THREADS + i;
    float value = in[planted == MARGIN && at == BLOCKS * THREADS - 1 ? at + 1 : at] + table[at % 2];
    if (planted == IN_STRUCT) value += p.in[i];
    p.out[at] = value;
    p.bytes[at + 2] = (uint8_t)at;
    if (i != 0) return;
    if (planted == ONE_ELEMENT) p.out[0] = value;
    if (planted == ONE_BYTE) p.bytes[THREADS + 2] = 7;
    if (planted == PART_OF_ELEMENT) ((uint8_t *)p.out)[block == 0 ? THREADS * 4 + 3 : at * 4] = 7;
    if (planted == OTHERS_ELEMENT) p.out[at] += p.out[(block + 1) % BLOCKS * THREADS];
}

static void test_memory(void) {
    static float in_program[BLOCKS * THREADS];
    const struct {
        memory_bug planted;
        const char *name, *want;
    } cases[] = {
        {SOUND, "blocks write elements of their own", ""},
        {ONE_ELEMENT, "blocks write one element", "race between blocks"},
        {ONE_BYTE, "blocks write one byte", "race between blocks"},
        {PART_OF_ELEMENT, "a block writes a part of another's element", "race between blocks"},
        {OTHERS_ELEMENT, "a block reads what another of its launch wrote", "race between blocks"},
        {HEAP, "a pointer to the host's heap", "host memory"},
        {STACK, "a pointer to the host's stack", "host memory"},
        {STATIC, "a pointer to a variable of the program", "host memory"},
        {IN_STRUCT, "a pointer to the host's memory in a struct", "host memory"},
        {MARGIN, "a read just beyond an allocation", "of a global allocation"},
        {FREED, "memory that was freed", "was freed"},
    };
    for (const auto &c : cases)
        for (int is_late = 0; is_late < 2; is_late++) {
            emulator_settings = {};
            emulator_settings.is_late = is_late;
            const size_t num_bytes = BLOCKS * THREADS * sizeof(float);
            float on_stack[BLOCKS * THREADS], *on_heap = (float *)calloc(1, num_bytes);
            places p = {(float *)emulator_allocate(num_bytes),
                        (uint8_t *)emulator_allocate(BLOCKS * THREADS + 2), on_heap};
            float *in = (float *)emulator_allocate(num_bytes), *freed = in;
            for (int i = 0; i < BLOCKS * THREADS; i++) in[i] = on_stack[i] = (float)i;
            if (c.planted == FREED) emulator_free(freed);
            else if (c.planted == HEAP) in = on_heap;
            else if (c.planted == STACK) in = on_stack;
            else if (c.planted == STATIC) in = in_program;
            LAUNCH(rows, BLOCKS, THREADS, 0, nullptr, p, in, c.planted);
            bool is_seen = strstr(emulator_failure(), c.want) != nullptr;
            if (c.planted == SOUND) {
                is_seen = !*emulator_failure();
                for (int i = 0; i < BLOCKS * THREADS; i++)
                    is_seen &= p.out[i] == (float)(i + 1 + i % 2) && p.bytes[i + 2] == i;
            }
            report(is_seen, "%s, the %s block first: %s", c.name, is_late ? "last" : "first",
                   emulator_failure());
            if (c.planted != FREED) emulator_free(freed);
            emulator_free(p.out), emulator_free(p.bytes), free(on_heap);
        }
    emulator_settings = {};
}

// ---------------------------------------------------------------- streams
enum stream_bug {
    STREAM_SOUND,
    REUSED,
    READ_EARLY,
    OTHER_EVENT,
    PINNED_FREED,
    TARGET_FREED,
    DEVICE_FREED,
    NOT_PINNED,
    NOT_DEVICE
};

__global__ void add_one(float *values) { values[threadIdx.x] += 1; }

// Two rounds through one pinned buffer: in, a kernel, out. The finding, or what is wrong.
static const char *two_rounds(stream_bug planted) {
    static char mark;
    const size_t num_bytes = THREADS * sizeof(float);
    CUstream_st *stream = emulator_stream_make(&mark);
    float *host = (float *)emulator_allocate_pinned(num_bytes),
          *back = (float *)emulator_allocate_pinned(num_bytes), plain[THREADS] = {};
    float *values = (float *)emulator_allocate(num_bytes);
    const char *wrong = "";
    int error = 0, num_failures = emulator_num_failures;
    for (int round = 0; round < 2 && !error; round++) {
        uint64_t before = stream->num_given;
        for (int i = 0; i < THREADS; i++) host[i] = (float)(i + round);
        error = emulator_copy(stream, values, planted == NOT_PINNED ? plain : host, num_bytes,
                              EMULATOR_FROM_HOST);
        if (!error && planted != REUSED) error = emulator_stream_wait(stream, stream->num_given);
        if (planted == PINNED_FREED && round == 0) {
            emulator_copy(stream, values, host, num_bytes, EMULATOR_FROM_HOST);
            float *other = (float *)emulator_allocate_pinned(num_bytes);
            emulator_free_pinned(host), host = other;
        }
        if (!error) error = LAUNCH(add_one, 1, THREADS, 0, stream, values);
        if (planted == DEVICE_FREED) emulator_free(values);
        if (!error && planted == NOT_DEVICE)
            error = emulator_copy(stream, plain, values, num_bytes, EMULATOR_WITHIN);
        if (!error) error = emulator_copy(stream, back, values, num_bytes, EMULATOR_TO_HOST);
        if (planted == TARGET_FREED)
            emulator_free_pinned(back), back = (float *)emulator_allocate_pinned(2 * num_bytes);
        if (!error && planted != READ_EARLY && planted != REUSED)
            error =
                emulator_stream_wait(stream, planted == OTHER_EVENT ? before : stream->num_given);
        bool is_right = true;
        for (int i = 0; i < THREADS; i++) is_right &= back[i] == (float)(i + round + 1);
        if (planted != REUSED && planted != TARGET_FREED && !error && !is_right)
            wrong = "another result";
    }
    if (!error) error = emulator_stream_wait(stream, stream->num_given);
    if (error || emulator_num_failures > num_failures) wrong = emulator_failure();
    emulator_stream_free(stream);
    emulator_free_pinned(host), emulator_free_pinned(back);
    if (planted != DEVICE_FREED) emulator_free(values);
    return wrong;
}

static void test_streams(void) {
    const struct {
        stream_bug planted;
        const char *name, *want;
        bool is_seen_early;
    } cases[] = {
        {STREAM_SOUND, "copies and kernels that are waited for", "", true},
        {REUSED, "a buffer filled again before its copy", "was changed before", false},
        {READ_EARLY, "a result that nobody waits for", "another result", false},
        {OTHER_EVENT, "a wait for what came before", "another result", false},
        {PINNED_FREED, "a source freed before its copy", "its source is not in pinned", false},
        {TARGET_FREED, "a target freed before its copy", "its target is not in pinned", false},
        {DEVICE_FREED, "memory freed before its kernel", "was freed", true},
        {NOT_PINNED, "a copy from memory that is not pinned", "its source is not in pinned", true},
        {NOT_DEVICE, "a copy within the device to the host", "its target is host memory", true},
    };
    for (const auto &c : cases)
        for (int is_late = 0; is_late < 2; is_late++) {
            if (!is_late && !c.is_seen_early) continue;
            emulator_settings.is_stream_late = is_late;
            const char *wrong = two_rounds(c.planted);
            bool is_seen = c.planted == STREAM_SOUND ? !*wrong : strstr(wrong, c.want) != nullptr;
            report(is_seen, "%s, %s: %s", c.name, is_late ? "late" : "early", wrong);
        }
    emulator_settings = {};
}

int main() {
    test_memory();
    test_streams();
    return report_end();
}
