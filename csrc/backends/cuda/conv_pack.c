// See conv_pack.h.
#include "conv_pack.h"

#include <string.h>

#include "../../base/tensor.h"

size_t sm80_conv_weight_bytes(int64_t c_out, int64_t c_in, int64_t taps) {
    return (size_t)(taps * conv_padded(c_out, SM80_CONV_PADDING) * c_in) * sizeof(uint16_t);
}

void sm80_conv_pack(uint16_t *packed, const float *weight, int64_t c_out, int64_t c_in,
                    int64_t taps) {
    int64_t rows = conv_padded(c_out, SM80_CONV_PADDING);
    memset(packed, 0, sm80_conv_weight_bytes(c_out, c_in, taps));
    for (int64_t co = 0; co < c_out; co++)
        for (int64_t c = 0; c < c_in; c++)
            for (int64_t tap = 0; tap < taps; tap++)
                packed[(tap * rows + co) * c_in + c] =
                    bf16_round(weight[(co * c_in + c) * taps + tap]);
}

size_t smxx_conv_weight_bytes(int64_t c_out, int64_t c_in, int64_t taps) {
    return (size_t)(taps * c_in * conv_padded(c_out, SMXX_CONV_PADDING)) * sizeof(float);
}

void smxx_conv_pack(float *packed, const float *weight, int64_t c_out, int64_t c_in, int64_t taps,
                    bool is_bf16) {
    int64_t columns = conv_padded(c_out, SMXX_CONV_PADDING);
    memset(packed, 0, smxx_conv_weight_bytes(c_out, c_in, taps));
    for (int64_t co = 0; co < c_out; co++)
        for (int64_t c = 0; c < c_in; c++)
            for (int64_t tap = 0; tap < taps; tap++) {
                float value = weight[(co * c_in + c) * taps + tap];
                packed[(tap * c_in + c) * columns + co] =
                    is_bf16 ? bf16_value(bf16_round(value)) : value;
            }
}
