// Which kernel computes a convolution, in what form, and its weights as that kernel reads them. In:
// [c_out, c_in, taps] float32 (OIHW, or O I T).
//     sm80  bf16 [phases][taps][c_out rounded up to 128][channels]: the reduction is contiguous,
//           and every tile reads whole rows (zeros)
//     smxx  float32 [taps][c_in][c_out rounded up to 64]
// Who calls it: cuda_backend.c on host memory, before the copy to the device; op.c and sm80_conv.cu
// for the form.
#ifndef CTOK_CUDA_CONV_PACK_H
#define CTOK_CUDA_CONV_PACK_H

#include "../../base/ops.h"

enum {
    SM80_CONV_PADDING = 128,
    SMXX_CONV_PADDING = 64,
    SM80_CONV_CHANNELS = 32,  // of a step of the reduction, or a multiple
    SM80_LEAST_SPLIT = 16  // channels of a float32 input; with fewer, padding is most of the work
};

static inline int64_t conv_padded(int64_t count, int64_t padding) {
    return (count + padding - 1) / padding * padding;
}

// Whether a float32 input is split in two bf16, its upper half and the rest, side by side in the
// channels: the first convolution of a bf16 network. 16 bits of it are kept; weights are rounded to
// bf16, as in all of that network.
static inline bool conv_is_split(const conv_params *p) {
    return p->in_dtype == CTOK_F32 && p->out_dtype == CTOK_BF16 && p->kernel_t == 1 &&
           p->upsample == 1 && p->in.c >= SM80_LEAST_SPLIT && p->in.c % 8 == 0;
}

// Of a 3 x 3 that reads its input doubled, an even and an odd row see two rows of the input each,
// the one with taps 0 and 1 + 2, the other with 0 + 1 and 2; columns alike. So it is done as four
// convolutions of 2 x 2, a phase each: outputs (2y + phase / 2, 2x + phase % 2). Likewise in time,
// two of 2 taps: frames j where (j + offset_t + phase) is odd. Taps are added in float32 and
// rounded to bf16 once. In bf16 alone; float32 keeps the form that rounds like the definition.
static inline int32_t conv_phases(const conv_params *p) {
    if (p->in_dtype != CTOK_BF16 || p->out_dtype != CTOK_BF16) return 1;
    if (p->kernel == 3 && p->upsample == 2 && p->stride == 1 && p->pad_before == 1) return 4;
    return p->kernel_t == 3 && p->upsample_t == 2 && p->stride_t == 1 ? 2 : 1;
}

// Outputs of its largest phase.
static inline int64_t conv_phase_positions(const conv_params *p) {
    int32_t phases = conv_phases(p);
    return phases == 2 ? p->out.n * ((p->out.t + 1) / 2) * p->out.h * p->out.w
                       : shape_positions(p->out) / phases;
}

// How sm80_conv computes a convolution.
typedef struct {
    int64_t channels;  // that a tap reads: of the input, or of its split
    int32_t taps;      // of an output
    int32_t phases;    // kinds of outputs, each with weights of its own
} sm80_conv_form;

static inline sm80_conv_form sm80_conv_form_of(const conv_params *p) {
    int32_t phases = conv_phases(p);
    return (sm80_conv_form){
        .channels = conv_is_split(p) ? conv_padded(2 * p->in.c, SM80_CONV_CHANNELS) : p->in.c,
        .taps = phases > 1 ? phases : p->kernel * p->kernel * p->kernel_t,
        .phases = phases};
}

static inline bool sm80_conv_takes(const conv_params *p) {
    return p->in_dtype == CTOK_BF16 || conv_is_split(p);
}

// Bytes of the split input; 0 where p has none.
static inline size_t sm80_split_bytes(const conv_params *p) {
    return conv_is_split(p)
               ? (size_t)(shape_positions(p->in) * sm80_conv_form_of(p).channels) * sizeof(uint16_t)
               : 0;
}

#ifdef __cplusplus
extern "C" {
#endif

size_t sm80_conv_weight_bytes(const conv_params *p);
void sm80_conv_pack(uint16_t *packed, const float *weight, const conv_params *p);
size_t smxx_conv_weight_bytes(const conv_params *p);
void smxx_conv_pack(float *packed, const float *weight, const conv_params *p);

#ifdef __cplusplus
}
#endif

#endif
