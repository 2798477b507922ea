// See execute.h. The message of a failed step names its layer.
#include "execute.h"

#include <stdio.h>

#include "bind.h"
#include "describe.h"

// Checks the indices, which come from the caller: one out of range would read a wrong code.
static ctok_status check_indices(const program *p, const model *m, const uint8_t *input,
                                 ctok_error *error) {
    const ctok_request *r = &p->request;
    if (r->input != CTOK_INDICES) return CTOK_OK;
    const int32_t *indices = (const int32_t *)input;
    for (int64_t i = 0; i < r->batch * r->frames * r->height * r->width; i++) {
        if (indices[i] >= 0 && (uint32_t)indices[i] < m->description.quantizer.size) continue;
        int64_t x = i % r->width, y = i / r->width % r->height,
                t = i / r->width / r->height % r->frames, n = i / r->width / r->height / r->frames;
        char frame[24] = "";
        if (m->description.is_video) snprintf(frame, sizeof frame, "%lld, ", (long long)t);
        return ctok_fail(error, CTOK_E_VALUE, i,
                         "indices[%lld, %s%lld, %lld]: expected 0 to %u, found %d", (long long)n,
                         frame, (long long)y, (long long)x, m->description.quantizer.size - 1,
                         indices[i]);
    }
    return CTOK_OK;
}

// The steps are counted from 1.
static ctok_status fail_step(const step_list *l, const step_run *run, ctok_status status,
                             const ctok_error *reason, ctok_error *error) {
    char first[192], last[192];
    if (run->first < 0)
        return ctok_fail(error, status, reason->detail, "%s", reason->message);  // before any step
    if (status == CTOK_E_CANCELLED)
        return ctok_fail(error, status, run->first, "cancelled at step %d of %d", run->first + 1,
                         l->num_steps);
    describe_step(first, sizeof first, &l->steps[run->first]);
    describe_step(last, sizeof last, &l->steps[run->last]);
    if (run->first == run->last) {
        return ctok_fail(error, status, reason->detail, "step %d of %d (%s) failed: %s",
                         run->first + 1, l->num_steps, first, reason->message);
    }
    return ctok_fail(error, status, reason->detail,
                     "one of the steps %d to %d of %d (%s, to %s) failed: %s", run->first + 1,
                     run->last + 1, l->num_steps, first, last, reason->message);
}

// Runs the images of a batch from number `image` on that `pass` has.
static ctok_status run_pass(program *pass, const model *m, const binding *to, int64_t image,
                            const uint8_t *input, uint8_t *const outputs[4],
                            atomic_uint *steps_done, trace *trace, ctok_error *error) {
    if (!bind_steps(pass, to))
        return ctok_fail(error, CTOK_E_MEMORY, pass->num_steps, "no memory for a list of %d steps",
                         pass->num_steps);
    uint8_t *parts[4];
    for (int i = 0; i < pass->num_outputs; i++)
        parts[i] =
            outputs[i] + pass->outputs[i].bytes / (uint64_t)pass->request.batch * (uint64_t)image;
    step_run run = {.steps_done = steps_done, .times = trace->times};
    ctok_error reason = {.struct_size = sizeof reason};
    bind_external(pass, input + pass->input_image_bytes * (size_t)image, parts);
    ctok_status status = m->backend->run(m->backend, &pass->bound->list, &run, &reason);
    if (status != CTOK_OK) return fail_step(&pass->bound->list, &run, status, &reason, error);
    if (trace->times) trace_add(trace, &pass->bound->list);
    return CTOK_OK;
}

ctok_status execute_program(program *p, const model *m, stream_state *stream, uint8_t *arena,
                            const uint8_t *input, uint8_t *const outputs[4],
                            atomic_uint *steps_done, trace *trace, ctok_error *error) {
    CTOK_TRY(check_indices(p, m, input, error));
    binding to = {.layers = m->layers + p->first_layer,
                  .codebook = m->codebook,
                  .arena = arena,
                  .stream = stream};
    for (int64_t image = 0; image < p->request.batch; image += p->frame.images) {
        bool is_whole = p->request.batch - image >= p->frame.images;
        CTOK_TRY(run_pass(is_whole ? p : p->rest, m, &to, image, input, outputs, steps_done, trace,
                          error));
    }
    if (stream) bind_advance(stream, &p->graph);
    return CTOK_OK;
}
