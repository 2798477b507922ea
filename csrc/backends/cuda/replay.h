// What is prepared of a list and kept with it: which kernels its steps start, in parts between
// which the host copies or waits or a step changes, and the parts as CUDA graphs, which start all
// at once.
//     the first time    each start is made by itself, which loads its kernel
//     again             the part is captured as a graph, once, and the graph is launched
// A graph holds addresses and parameters: another version of the list is prepared anew, and what is
// prepared goes with the list. Memory that was given back and taken again at the same place is the
// same to it. Left out: parts so long or with so much to compute that starting them takes no time
// of its own; and short ones.
// Who calls it: cuda_backend.c on the engine's thread, but for replay_free.
#ifndef CTOK_CUDA_REPLAY_H
#define CTOK_CUDA_REPLAY_H

#include <cuda_runtime_api.h>

#include "op.h"

enum { REPLAY_LEAST_STEPS = 4, REPLAY_MOST_STEPS = 1024 };
static const int64_t REPLAY_MOST_PRODUCTS = (int64_t)1 << 38;  // 2 ms at the matrix rate of an
                                                               // H100; its 200 starts take about 1

typedef struct {
    int32_t first, end;     // starts; one alone where the host copies (load, store, dequantize), or
                            // where the step changes from run to run
    cudaGraphExec_t graph;  // NULL: not captured yet, or not to be
    bool has_run;           // each of its starts has been made
    bool is_graph;  // to be captured: neither too short nor too large, and no capture has failed
} replay_part;

typedef struct {
    uint32_t version;   // of the list that this was made of
    unsigned left_out;  // op_left_out then
    int32_t num_starts, num_parts;
    op_start *starts;
    replay_part *parts;
} replay;

bool replay_is_transfer(const step *s);  // one that op_run does not start

// What is prepared of the list as it is now; NULL when there is no memory.
replay *replay_prepare(step_list *list, const op_device *device);

// Launches the part's graph, captured first where it is due, and sets *error. False where the part
// has no graph: the caller then launches its kernels one by one.
bool replay_launch(replay *r, replay_part *part, const step *steps, const op_device *device,
                   backend_counts *counts, cudaError_t *error);

void replay_free(step_list *list);  // on any thread whose device is the list's; nothing of it is
                                    // under way

#endif
