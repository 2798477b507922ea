// Places every value and workspace of a graph in one arena, so that memory is shared between values
// that do not live at the same time:
//     offset 0                                                        arena_bytes
//     | value 3 (nodes 2..9)        | value 4 (nodes 3..4) | workspace (node 3) |
//     | value 3                     | value 7 (nodes 6..8)          |           |
// norm runs in place and conv writes over its residual where those are read for the last time. Who
// calls it: runtime/request.
#ifndef CTOK_RUNTIME_PLAN_H
#define CTOK_RUNTIME_PLAN_H

#include "../network/graph.h"

typedef struct {
    size_t *value_offsets;      // [num_values], bytes
    size_t *workspace_offsets;  // [num_nodes], bytes
    size_t arena_bytes;
} plan;

// CTOK_E_MEMORY when the planner itself finds none. The caller owns the plan: plan_free.
ctok_status plan_make(plan *out, const graph *g, const backend *b, ctok_error *error);
void plan_free(plan *p);

#endif
