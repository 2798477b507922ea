// See conv_pack.h.
#include "conv_pack.h"

#include <string.h>

size_t sm80_conv_weight_bytes(const conv_params *p) {
    sm80_conv_form form = sm80_conv_form_of(p);
    return (size_t)(form.phases * form.taps * conv_padded(p->out.c, SM80_CONV_PADDING) *
                    form.channels) *
           sizeof(uint16_t);
}

// Of three taps in a row, those that tap 0 or 1 of a phase (0 or 1) stands for begin at the first
// and end before the second.
static int32_t first_tap(int32_t phase, int32_t tap) { return tap ? 1 + phase : 0; }
static int32_t end_tap(int32_t phase, int32_t tap) { return tap ? 3 : 1 + phase; }

// The weight of a phase's tap, from those of all taps of one output and input channel.
static float weight_of_phase(const float *taps, const conv_params *p, int32_t phase, int32_t tap) {
    int32_t phases = conv_phases(p);
    if (phases == 1) return taps[tap];
    float sum = 0;
    if (phases == 2) {
        for (int32_t k = first_tap(phase, tap); k < end_tap(phase, tap); k++) sum += taps[k];
        return sum;
    }
    for (int32_t y = first_tap(phase / 2, tap / 2); y < end_tap(phase / 2, tap / 2); y++)
        for (int32_t x = first_tap(phase % 2, tap % 2); x < end_tap(phase % 2, tap % 2); x++)
            sum += taps[3 * y + x];
    return sum;
}

void sm80_conv_pack(uint16_t *packed, const float *weight, const conv_params *p) {
    sm80_conv_form form = sm80_conv_form_of(p);
    int64_t num_taps = p->kernel * p->kernel * p->kernel_t;  // of the definition
    int64_t rows = conv_padded(p->out.c, SM80_CONV_PADDING);
    memset(packed, 0, sm80_conv_weight_bytes(p));
    for (int64_t co = 0; co < p->out.c; co++)
        for (int64_t c = 0; c < p->in.c; c++)
            for (int32_t i = 0; i < form.phases * form.taps; i++) {
                uint16_t *to = packed + (i * rows + co) * form.channels + c;
                *to = bf16_round(weight_of_phase(weight + (co * p->in.c + c) * num_taps, p,
                                                 i / form.taps, i % form.taps));
                if (conv_is_split(p)) to[p->in.c] = *to;
            }
}

static int64_t taps_of(const conv_params *p) { return p->kernel * p->kernel * p->kernel_t; }

size_t smxx_conv_weight_bytes(const conv_params *p) {
    return (size_t)(taps_of(p) * p->in.c * conv_padded(p->out.c, SMXX_CONV_PADDING)) *
           sizeof(float);
}

void smxx_conv_pack(float *packed, const float *weight, const conv_params *p) {
    int64_t columns = conv_padded(p->out.c, SMXX_CONV_PADDING), taps = taps_of(p);
    memset(packed, 0, smxx_conv_weight_bytes(p));
    for (int64_t co = 0; co < p->out.c; co++)
        for (int64_t c = 0; c < p->in.c; c++)
            for (int64_t tap = 0; tap < taps; tap++)
                packed[(tap * p->in.c + c) * columns + co] =
                    weight[(co * p->in.c + c) * taps + tap];
}
