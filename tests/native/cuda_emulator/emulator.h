// Runs CUDA kernels on the CPU, for tests: the kernels' own source, compiled by g++ against this
// folder's <cuda_runtime.h>. A block's threads are fibers of one OS thread, run in random order;
// blocks run one after another. What it sees: steps beyond shared memory (every access checked) and
// beyond global memory (guard pages and filled margins), races between threads without a barrier
// (last writer and readers of each 2 bytes), reads of shared memory that nothing wrote or whose
// copy has not completed, barriers and warp operations not reached by all, misaligned accesses, int
// overflow (by UBSan).
// Limit: it cannot see memory ordering weaker than a barrier's, time, nor the rounding of tensor
// cores. Who uses it: cuda_test.c, emulator_test.cu. How the pieces lie together is at the head of
// emulator.cpp.
#ifndef CTOK_EMULATOR_H
#define CTOK_EMULATOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    uint32_t seed;  // of the order of threads
    bool is_late;   // asynchronous copies land when they are waited for; otherwise when issued
    bool is_end_guarded;     // allocations end at a guard page (steps beyond are seen to the byte);
                             // otherwise they begin at one
    bool is_capture_strict;  // a kernel's first launch, which loads it, is refused in a capture, as
                             // by drivers before 12.3
    size_t shared_limit;     // bytes a block may have; 0: 232448, as on sm_90
    int64_t first_block, num_blocks;  // only these blocks run; num_blocks 0: all
} emulator_options;

extern emulator_options emulator_settings;

// Global memory, 64-byte aligned where it begins at a guard page and 16-byte aligned else; filled
// with NaN (0xFF bytes). Sparse memory reads as zeros until written and may be larger than the
// machine's.
void *emulator_allocate(size_t num_bytes);
void *emulator_allocate_sparse(size_t num_bytes);
void emulator_free(void *memory);

// Whether some 2 bytes are as emulator_allocate left them: an output that no thread wrote. Note: so
// is the NaN 0xFFFF.
bool emulator_has_unwritten(const void *memory, size_t num_bytes);

// Between these two, launches are kept instead of run. The caller owns the graph; it may be run any
// number of times, and gives 0 or the error of the first kernel that failed.
typedef struct emulator_graph emulator_graph;
void emulator_capture_begin(void);
emulator_graph *emulator_capture_end(void);
emulator_graph *emulator_graph_copy(const emulator_graph *graph);
int emulator_graph_run(const emulator_graph *graph);
void emulator_graph_free(emulator_graph *graph);

void emulator_unload(void);  // as if no kernel had been launched yet

extern int emulator_num_launches;  // of kernels, as they ran
extern int emulator_fail_in;       // launches until one is refused; 0: never

// What the last kernel did wrong, or "".
const char *emulator_failure(void);

#ifdef __cplusplus
}
#endif

#endif
