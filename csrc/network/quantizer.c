// See quantizer.h: scales codes to unit length, and computes the tables of FSQ, rounded where
// PyTorch rounds: each float32 operation of FSQ.bound is one here.
// Ref: FSQ in reference/cosmos_reference.py (bound, eps = 1e-3; level 0 is the least significant
// digit).
#include "quantizer.h"

#include <math.h>

void quantizer_set_levels(quantizer_params *p, const uint32_t *levels, int32_t num_levels) {
    int32_t basis = 1;
    p->kind = QUANTIZER_FSQ;
    for (int32_t i = 0; i < num_levels; i++) {
        p->levels[i] = (int32_t)levels[i];
        p->basis[i] = basis;
        // (levels - 1) * (1 + eps) / 2: the integer tensor meets a Python float, so the factor is
        // float32 too.
        p->half_width[i] = (float)(levels[i] - 1) * (float)1.001 / 2.0f;
        p->offset[i] = levels[i] % 2 == 0 ? 0.5f : 0.0f;
        // Computed in double and rounded once; PyTorch's atanh is within 1 ulp of this.
        p->shift[i] = (float)atanh((double)(p->offset[i] / p->half_width[i]));
        basis *= (int32_t)levels[i];
    }
    p->size = basis;
}

void quantizer_normalise(float *rows, int64_t size, int64_t channels) {
    for (int64_t k = 0; k < size; k++, rows += channels) {
        double square = 0;
        for (int64_t c = 0; c < channels; c++) square += (double)rows[c] * rows[c];
        double length = fmax(sqrt(square), 1e-12);
        for (int64_t c = 0; c < channels; c++) rows[c] = (float)(rows[c] / length);
    }
}
