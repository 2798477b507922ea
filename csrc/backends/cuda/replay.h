// CUDA graphs: ops that come again, the same ones on the same memory, are started all at once. A list of ops is what is called
// between two moments at which the host copies or waits.
//     the first time    each op is started when the next one has come (op_start looks at it), and the list is kept
//     again             ops are held back as long as a kept list begins with them; where it ends, it is captured as a graph
//                       (once; the first time has loaded its kernels) and the graph is launched
//     otherwise         at the first op that differs those held back are started, one by one
// What a list computes depends on its ops alone, addresses and all: other memory is another list. Kept lists give way to
// newer ones, and all of them go when memory is given back (a plan's, a model's): replay_forget.
// Left out: lists so long or with so much to compute that starting their ops takes no time of its own; and single ops.
// Who calls it: cuda_backend.c on the engine's thread, but for replay_forget.
#ifndef CTOK_CUDA_REPLAY_H
#define CTOK_CUDA_REPLAY_H

#include <cuda_runtime_api.h>

#include "op.h"

enum {
    REPLAY_LEAST_OPS = 4,
    REPLAY_MOST_OPS = 1024,
    REPLAY_LISTS = 16  // a few tasks at a few sizes
};
static const int64_t REPLAY_MOST_PRODUCTS = (int64_t)1 << 38;  // 2 ms at the matrix rate of an H100; its 200 starts take about 1

typedef struct {
    op *ops;
    int32_t num_ops;        // 0: free
    cudaGraphExec_t graph;  // NULL: seen once, or not to be captured
    bool is_refused;        // capturing it has failed: it is started op by op
    uint64_t last_use;
} replay_list;

// All zeros to begin with.
typedef struct {
    replay_list kept[REPLAY_LISTS];
    op now[REPLAY_MOST_OPS + 1];  // the list so far
    int32_t num_now, num_started;
    int64_t products;
    const replay_list *follows;  // a kept list that begins with `now`: none of it was started
    bool is_too_large;        // to be kept: `now` holds the end of the list alone
    atomic_bool is_stale;     // memory was given back
    uint64_t num_lists;
} replay;

// Ops to be started now: `first` to `end` - 1 of a list, of which num_ops are known; valid until the next call.
typedef struct {
    const op *ops;
    int32_t first, end, num_ops;
} replay_ops;

// The next op: those before it that are not started, or none as they are all held back.
replay_ops replay_add(replay *r, const op *next);

// The list has ended. Launches its graph, or gives what is still to be started. True: a graph was launched, with *error.
bool replay_end(replay *r, const op_device *device, replay_ops *rest, cudaError_t *error);

void replay_drop(replay *r);    // what is held back; nothing of it is started
void replay_forget(replay *r);  // memory was given back; on any thread
void replay_close(replay *r);

#endif
