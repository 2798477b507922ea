// See conv_pack.h.
#include "conv_pack.h"

#include <string.h>

size_t sm80_conv_weight_bytes(const conv_params *p) {
    sm80_conv_form form = sm80_conv_form_of(p);
    return (size_t)(form.phases * form.taps * conv_padded(p->out.c, SM80_CONV_PADDING) *
                    form.channels) *
           sizeof(uint16_t);
}

void sm80_conv_pack(uint16_t *packed, const float *weight, const conv_params *p) {
    sm80_conv_form form = sm80_conv_form_of(p);
    int64_t rows = conv_padded(p->out.c, SM80_CONV_PADDING);
    memset(packed, 0, sm80_conv_weight_bytes(p));
    for (int64_t co = 0; co < p->out.c; co++)
        for (int64_t c = 0; c < p->in.c; c++)
            for (int32_t tap = 0; tap < form.taps; tap++) {
                uint16_t *to = packed + (tap * rows + co) * form.channels + c;
                *to = bf16_round(weight[(co * p->in.c + c) * form.taps + tap]);
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
