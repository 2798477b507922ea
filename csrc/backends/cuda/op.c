// See op.h. bf16 goes through kernels for the tensor cores, and so does what the first convolution
// of a bf16 network reads, split in two; float32 goes through the plain kernels.
#include "op.h"

atomic_uint op_left_out;

#ifdef CTOK_HAS_CUDA
#include <string.h>

// The convolution that sm80_conv does for p: of the split input, where p has one.
static conv_params in_bf16(const conv_params *p) {
    conv_params of = *p;
    of.in.c = sm80_conv_form_of(p).channels, of.in_dtype = CTOK_BF16;
    return of;
}

static conv_tile tile_of(const step *conv, int32_t count, const op_device *d) {
    conv_params p = in_bf16(&conv->params.conv);
    unsigned only = atomic_load(&op_left_out) / OP_ONLY_TILE;
    return only ? (conv_tile)(only - 1) : conv_tile_choose(&p, count, d->limits);
}

// The parts of which a convolution of one image gathers the moments for the norm behind it. 0: the
// next step is no norm of its output, or the kernel cannot gather them.
static norm_parts parts_between(const step *s, const step *next, const op_device *d) {
    const conv_params *p = &s->params.conv;
    if (s->kind != OP_CONV || !sm80_conv_takes(p) || next->kind != OP_NORM || next->in != s->out)
        return (norm_parts){0, 0, 0};
    if (atomic_load(&op_left_out) & OP_MOMENTS) return (norm_parts){0, 0, 0};
    step one = *s;
    norm_params norm = next->params.norm;
    one.params.conv.in.n = one.params.conv.out.n = 1, norm.shape.n = 1;
    return conv_parts(&one.params.conv, tile_of(&one, 1, d), &norm);
}

static void prepare_moments(op_start *start, const step *conv, const op_device *d) {
    const norm_params *norm = &conv[1].params.norm;
    start->moments = parts_between(conv, conv + 1, d);
    start->are_gathered =
        start->moments.slab_positions &&
        conv_gathers(&conv->params.conv, tile_of(conv, 1, d), start->moments, norm->groups);
}

static bool is_same_conv(const conv_params *a, const conv_params *b) {
    _Static_assert(offsetof(conv_params, has_upsampled_residual) ==
                       2 * sizeof(ctok_shape) + 11 * sizeof(int32_t),
                   "no gaps");
    return memcmp(a, b, offsetof(conv_params, has_upsampled_residual)) == 0 &&
           a->has_upsampled_residual == b->has_upsampled_residual;
}

static bool is_plain_conv(const step *s) {
    return s->kind == OP_CONV && !s->past && !s->residual && !conv_is_split(&s->params.conv);
}

// How many convolutions from s on differ in weights alone: q, k and v. None of them reads what
// another writes.
static int32_t count_together(const step *s, int32_t num_left, const op_device *d) {
    int32_t count = 1;
    if (!is_plain_conv(s) || s->out == s->in || atomic_load(&op_left_out) & OP_TOGETHER) return 1;
    for (; count < num_left && count < CONV_MOST_TARGETS; count++) {
        const step *other = s + count;
        if (!is_plain_conv(other) || other->in != s->in || other->out == s->in ||
            !is_same_conv(&s->params.conv, &other->params.conv))
            break;
        if (count + 1 < num_left && parts_between(other, other + 1, d).slab_positions)
            break;  // it is started alone, with moments
    }
    return count;
}

op_start op_prepare(const step *steps, int32_t first, int32_t num_steps, const op_device *d) {
    const step *s = &steps[first];
    op_start start = {.first = first, .count = count_together(s, num_steps - first, d)};
    if (s->kind == OP_NORM && first > 0) prepare_moments(&start, s - 1, d);
    if (s->kind != OP_CONV) return start;
    if (sm80_conv_takes(&s->params.conv)) start.tile = tile_of(s, start.count, d);
    if (start.count == 1 && first + 1 < num_steps) prepare_moments(&start, s, d);
    return start;
}

static int run_conv(const step *s, const op_start *start, const op_device *d) {
    const conv_params *p = &s->params.conv;
    conv_target targets[CONV_MOST_TARGETS];
    for (int32_t i = 0; i < start->count; i++)
        targets[i] = (conv_target){s[i].out, s[i].weights.packed, s[i].weights.bias};
    if (!sm80_conv_takes(p))
        return smxx_conv(targets, start->count, s->in, s->past, s->residual, p, d->stream);
    bool is_split = conv_is_split(p);
    int error = is_split ? sm80_split(s->workspace, s->in, p, d->stream) : 0;
    if (error) return error;
    conv_params of = in_bf16(p);
    return sm80_conv(targets, start->count, is_split ? s->workspace : s->in, s->past, s->residual,
                     &of, start->tile, start->are_gathered ? d->norm_workspace : NULL,
                     start->are_gathered ? s[1].params.norm.groups : 0, d->stream);
}

static int run_attention(const step *s, const op_device *d) {
    const attention_params *p = &s->params.attention;
    if (p->is_temporal) return smxx_attention_time(s->out, s->in, s->k, s->v, p, d->stream);
    if (p->dtype == CTOK_F32) return smxx_attention(s->out, s->in, s->k, s->v, p, d->stream);
    return sm80_attention(s->out, s->in, s->k, s->v, p, attention_tile_choose(p, d->limits),
                          d->stream);
}

int op_run(const step *steps, const op_start *start, const op_device *d) {
    const step *s = &steps[start->first];
    const op_params *p = &s->params;
    switch (s->kind) {
        case OP_HAAR: return smxx_haar(s->out, s->in, &p->haar, d->stream);
        case OP_UNHAAR: return smxx_unhaar(s->out, s->in, &p->haar, d->stream);
        case OP_CONV: return run_conv(s, start, d);
        case OP_POOL: return smxx_pool(s->out, s->in, &p->pool, d->stream);
        case OP_NORM:
            return smxx_norm(s->out, s->in, s->scale, s->offset, d->norm_workspace, start->moments,
                             start->are_gathered, &p->norm, d->stream);
        case OP_ATTENTION: return run_attention(s, d);
        case OP_QUANTIZE:
            return smxx_quantize(s->external ? s->workspace : NULL, s->out, s->in, s->codebook,
                                 &p->quantizer, d->stream);
        case OP_COPY: return smxx_copy(s->out, s->in, p->copy_bytes, d->stream);
        case OP_LOAD:
        case OP_STORE:
        case OP_DEQUANTIZE: break;
    }
    return 1;  // cudaErrorInvalidValue
}
#endif
