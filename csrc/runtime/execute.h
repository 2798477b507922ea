// Runs a program (program.h) over a batch, pass after pass. Who calls it: runtime/job.
#ifndef CTOK_RUNTIME_EXECUTE_H
#define CTOK_RUNTIME_EXECUTE_H

#include "request.h"
#include "trace.h"

// `stream` is NULL for a whole clip or image. `outputs[i]` holds outputs[i].bytes.
// `steps_done` counts steps over the whole batch, for progress.
// `trace`: open, where each step is to be timed; otherwise all zeros.
// CTOK_E_CANCELLED when the cancel flag of the model's backend turned true.
ctok_status execute_program(program *p, const model *m, stream_state *stream, uint8_t *arena,
                            const uint8_t *input, uint8_t *const outputs[4],
                            atomic_uint *steps_done, trace *trace, ctok_error *error);

#endif
