// When each step of a job ran, kept on request until the job is released. Who calls it:
// runtime/job, runtime/execute.
#ifndef CTOK_RUNTIME_TRACE_H
#define CTOK_RUNTIME_TRACE_H

#include "../backends/backend.h"

// When each step of a job ran. It is all zeros, and costs nothing, unless the engine keeps steps.
typedef struct {
    ctok_step *steps;  // of the whole batch; owned
    step_time *times;  // of one pass; owned
    uint32_t num_steps, capacity;
    uint64_t origin_ns;
} trace;

bool trace_open(trace *t, int32_t num_steps, int64_t num_passes,
                uint64_t origin_ns);              // false when there is no memory
void trace_add(trace *t, const step_list *list);  // a pass is done, its times are there
void trace_free(trace *t);

#endif
