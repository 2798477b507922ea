// Runs CUDA kernels on the CPU, for tests: the kernels' own source, compiled by g++ against this
// folder's <cuda_runtime.h>. A block's threads are fibers of one OS thread, run in random order;
// blocks run one after another. What it sees: steps beyond shared memory (every access checked) and
// beyond global memory (guard pages, filled margins, every access), races between threads without a
// barrier (last writer and readers of each 2 bytes), between blocks (last writer of each byte of
// global memory), reads of shared memory that nothing wrote or whose copy has not completed,
// pointers to the host's memory and to memory that was freed, barriers and warp operations not
// reached by all, misaligned accesses, int overflow (by UBSan); with work done late, buffers used
// again or freed before their copy. Tensor cores cut where they add, as Ampere's and Hopper's do.
// Limit: it cannot see memory ordering weaker than a barrier's. Who uses it: the tests of this
// folder. How the pieces lie together is at the heads of emulator.cpp, emulated_memory.cpp and
// emulated_stream.cpp.
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
    bool adds_16_products;   // at once in mma, as Hopper's tensor cores; otherwise 8, as Ampere's
    bool is_capture_strict;  // a kernel's first launch, which loads it, is refused in a capture, as
                             // by drivers before 12.3
    bool is_stream_late;     // a stream's work is done when something waits for it; otherwise when
                             // it is given
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

// Memory of the host that copies may come from and go to.
void *emulator_allocate_pinned(size_t num_bytes);
void emulator_free_pinned(void *memory);

// Launches and copies, in order; `mark` is the caller's. wait: all that was given up to that
// position is done; 0, or the error of what failed since the last wait. Event: a position.
struct CUstream_st {
    const void *mark;
    uint64_t num_given, num_done;
    struct emulator_queue *queue;
};
struct CUevent_st {
    const void *mark;
    struct CUstream_st *stream;  // NULL: not recorded
    uint64_t position;
};
struct CUstream_st *emulator_stream_make(const void *mark);
void emulator_stream_free(struct CUstream_st *stream);
int emulator_stream_wait(struct CUstream_st *stream, uint64_t position);
void emulator_wait_all(void);  // their errors wait for who waits
void emulator_drop_all(void);  // as when a device is lost

typedef enum { EMULATOR_WITHIN, EMULATOR_FROM_HOST, EMULATOR_TO_HOST } emulator_direction;
int emulator_copy(struct CUstream_st *stream, void *to, const void *from, size_t num_bytes,
                  emulator_direction direction);

// Between these two, launches are kept instead of run. The caller owns the graph; it may be run any
// number of times, and gives 0 or the error of the first kernel that failed.
typedef struct emulator_graph emulator_graph;
void emulator_capture_begin(void);
emulator_graph *emulator_capture_end(void);
emulator_graph *emulator_graph_copy(const emulator_graph *graph);
int emulator_graph_run(const emulator_graph *graph, struct CUstream_st *stream);
void emulator_graph_free(emulator_graph *graph);

void emulator_unload(void);  // as if no kernel had been launched yet

extern int emulator_num_launches;  // of kernels, as they were started
extern int emulator_num_failures;  // that emulator_failure had to tell
extern int emulator_fail_in;       // launches until one is refused; 0: never

// What the last kernel did wrong, or "".
const char *emulator_failure(void);

#ifdef __cplusplus
}
#endif

#endif
