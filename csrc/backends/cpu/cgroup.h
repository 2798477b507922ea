// What the control groups of this process allow it: memory, and processors by their quota of time.
// A container's limits are these; sysconf and the affinity know nothing of them. Linux alone,
// versions 1 and 2 and both at once; elsewhere no limit. Left out: swap, memory.high, cpusets (the
// affinity has them), weights. Who calls it: cpu_backend.c, once for each engine.
#ifndef CTOK_CPU_CGROUP_H
#define CTOK_CPU_CGROUP_H

#include <stdint.h>

typedef struct {
    uint64_t memory_bytes;   // UINT64_MAX: no limit
    int32_t num_processors;  // of the quota, rounded up; INT32_MAX: no limit
} cgroup_limits;

// The smallest limits on the way from the process's own group up to the outermost that it sees.
// root: "", or in a test the folder that stands for "/" and holds proc/self/cgroup,
// proc/self/mountinfo and the mounted files.
cgroup_limits cgroup_read(const char *root);

#endif
