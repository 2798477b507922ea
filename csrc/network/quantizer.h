// The constants of finite scalar quantisation, for the quantize and dequantize ops of backends/backend.h.
// Called by network/cosmos when it adds an FSQ step, and by the op tests.
#ifndef CTOK_NETWORK_QUANTIZER_H
#define CTOK_NETWORK_QUANTIZER_H

#include "../backends/backend.h"

// Fills levels, basis, shift, half_width and offset for num_levels <= 8 levels of at least 2 each; leaves the shape alone.
void fsq_tables(fsq_params *p, const uint32_t *levels, int32_t num_levels);

#endif
