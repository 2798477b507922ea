// Runs what request.h has made of a request. Who calls it: runtime/job.
#ifndef CTOK_RUNTIME_EXECUTE_H
#define CTOK_RUNTIME_EXECUTE_H

#include "request.h"

// Runs the batch. `stream` is NULL for a whole clip or image. `outputs[i]` holds outputs[i].bytes. 
// `steps_done` counts nodes over the whole batch, for progress.
// CTOK_E_CANCELLED when the backend's cancel flag turned true.
ctok_status execute_program(const program *p, const model *m, backend *b, stream_state *stream, uint8_t *arena, const uint8_t *input,
                        uint8_t *const outputs[4], atomic_uint *steps_done, ctok_error *error);

#endif
