// See trace.h.
#include "trace.h"

#include <stdio.h>
#include <stdlib.h>

#include "describe.h"

// Floating-point operations of a step. For a causal attention, only those of the scores that are
// not masked.
static uint64_t flops_of(const step *s) {
    const attention_params *a = &s->params.attention;
    uint64_t all = 2 * (uint64_t)step_products(s);
    if (s->kind != OP_ATTENTION || !a->is_temporal) return all;
    return all / (uint64_t)(2 * (a->num_past + a->shape.t)) *
           (uint64_t)(2 * a->num_past + a->shape.t + 1);
}

bool trace_open(trace *t, int32_t num_steps, int64_t num_passes, uint64_t origin_ns) {
    *t = (trace){.steps = calloc((size_t)num_steps * (size_t)num_passes + 1, sizeof *t->steps),
                 .times = calloc((size_t)num_steps + 1, sizeof *t->times),
                 .capacity = (uint32_t)(num_steps * num_passes),
                 .origin_ns = origin_ns};
    return t->steps && t->times;
}

void trace_add(trace *t, const step_list *list) {
    for (int32_t i = 0; i < list->num_steps && t->num_steps < t->capacity; i++) {
        const step *s = &list->steps[i];
        ctok_shape shape = describe_shape(s);
        ctok_step *out = &t->steps[t->num_steps++];
        *out = (ctok_step){.start_ns = t->times[i].start_ns - t->origin_ns,
                           .duration_ns = t->times[i].end_ns - t->times[i].start_ns,
                           .flops = flops_of(s),
                           .shape = {shape.n, shape.t, shape.h, shape.w, shape.c}};
        snprintf(out->kind, sizeof out->kind, "%s", describe_kind(s->kind));
        snprintf(out->layer, sizeof out->layer, "%.*s", (int)sizeof out->layer - 1, s->layer);
    }
}

void trace_free(trace *t) {
    free(t->steps);
    free(t->times);
    *t = (trace){0};
}
