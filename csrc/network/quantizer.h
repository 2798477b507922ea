// What quantizers compute with: the constants of FSQ, the unit vectors of a codebook, for the
// quantize and dequantize ops of backends/backend.h.
// Called by the families when they add a quantizing step, and by the op tests.
#ifndef CTOK_NETWORK_QUANTIZER_H
#define CTOK_NETWORK_QUANTIZER_H

#include "../backends/backend.h"

// Fills in what follows from the FSQ levels (1 to 8 of them, each at least 2): kind, size, levels,
// basis, shift, half_width and offset. The shape is left as it is.
void quantizer_set_levels(quantizer_params *p, const uint32_t *levels, int32_t num_levels);

// Each of `size` rows of `channels` values made as long as 1, in place: x / max(|x|, 1e-12), summed
// in float64 and rounded once.
void quantizer_normalise(float *rows, int64_t size, int64_t channels);

#endif
