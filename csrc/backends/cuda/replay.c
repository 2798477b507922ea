// See replay.h.
#ifdef CTOK_HAS_CUDA
#include "replay.h"

#include <stdlib.h>

bool replay_is_transfer(const step *s) {
    return s->kind == OP_LOAD || s->kind == OP_STORE || s->kind == OP_DEQUANTIZE;
}

static bool is_alone(const step *s) { return replay_is_transfer(s) || s->is_changing; }

// Whether a CUDA graph has to end after this start: the host must copy or wait, or one of the two
// steps is not the same every time.
static bool ends_part(const step *steps, int32_t num_steps, const op_start *start) {
    int32_t next = start->first + start->count;
    const step *s = &steps[start->first];
    return next >= num_steps || is_alone(s) || is_alone(&steps[next]) ||
           (s->kind == OP_QUANTIZE && s->external);
}

static void prepare(replay *r, const step_list *l, const op_device *device) {
    int64_t products = 0;
    int32_t num_steps = 0;
    replay_part part = {0};
    for (int32_t i = 0; i < l->num_steps;) {
        op_start start = op_prepare(l->steps, i, l->num_steps, device);
        r->starts[r->num_starts++] = start;
        for (int32_t end = i + start.count; i < end; i++, num_steps++)
            products += step_products(&l->steps[i]);
        if (!ends_part(l->steps, l->num_steps, &start)) continue;
        bool is_worth_it = num_steps >= REPLAY_LEAST_STEPS && num_steps <= REPLAY_MOST_STEPS &&
                           products <= REPLAY_MOST_PRODUCTS;
        part.end = r->num_starts, part.is_graph = is_worth_it && !(r->left_out & OP_GRAPHS);
        r->parts[r->num_parts++] = part;
        part = (replay_part){.first = r->num_starts};
        products = 0, num_steps = 0;
    }
}

replay *replay_prepare(step_list *l, const op_device *device) {
    replay *r = l->prepared;
    unsigned left_out = atomic_load(&op_left_out);
    if (r && r->version == l->version && r->left_out == left_out) return r;
    replay_free(l);
    r = calloc(1, sizeof *r);
    if (!r) return NULL;
    *r = (replay){.version = l->version,
                  .left_out = left_out,
                  .starts = calloc((size_t)l->num_steps + 1, sizeof *r->starts),
                  .parts = calloc((size_t)l->num_steps + 1, sizeof *r->parts)};
    l->prepared = r;
    if (!r->starts || !r->parts) {
        replay_free(l);
        return NULL;
    }
    prepare(r, l, device);
    return r;
}

// Captures the part's kernels as a CUDA graph. A failure is counted and otherwise ignored: the
// kernels are then launched one by one, and each launch reports its own error.
static void capture(replay *r, replay_part *part, const step *steps, const op_device *device,
                    backend_counts *counts) {
    cudaGraph_t graph = NULL;
    int failed = cudaStreamBeginCapture(
        device->stream, cudaStreamCaptureModeThreadLocal);  // other threads may allocate meanwhile
    if (!failed) {
        for (int32_t i = part->first; i < part->end && !failed; i++)
            failed = op_run(steps, &r->starts[i], device);
        int ended = cudaStreamEndCapture(device->stream, &graph);  // whatever happened: the stream
                                                                   // computes again
        if (!failed) failed = ended;
    }
    // Note: of the two names this one has the same arguments in CUDA 11.4 to 13.
    if (!failed) failed = cudaGraphInstantiateWithFlags(&part->graph, graph, 0);
    if (failed) part->graph = NULL, part->is_graph = false, counts->num_refused++;
    else counts->num_captures++;
    if (graph) cudaGraphDestroy(graph);
    cudaGetLastError();
}

bool replay_launch(replay *r, replay_part *part, const step *steps, const op_device *device,
                   backend_counts *counts, cudaError_t *error) {
    if (part->is_graph && part->has_run && !part->graph) capture(r, part, steps, device, counts);
    if (!part->graph) return false;
    *error = cudaGraphLaunch(part->graph, device->stream);
    return true;
}

void replay_free(step_list *l) {
    replay *r = l->prepared;
    l->prepared = NULL;
    if (!r) return;
    for (int32_t i = 0; i < r->num_parts; i++)
        if (r->parts[i].graph) cudaGraphExecDestroy(r->parts[i].graph);
    cudaGetLastError();
    free(r->starts), free(r->parts), free(r);
}
#endif
