// See op.h. Which kernel an op starts: bf16 goes through the tensor cores, float32 (also what a network's first convolution
// reads) through the plain kernels.
#include "op.h"

atomic_uint op_left_out;

#ifdef CTOK_HAS_CUDA
#include <string.h>

static conv_tile tile_of(const op *conv, int32_t count, const op_device *d) { return conv_tile_choose(&conv->conv, count, d->limits); }

// The parts in which a convolution gathers the moments of the op behind it; 0: that is no norm of its output, or it cannot.
static norm_parts parts_between(const op *o, const op *next, const op_device *d) {
    if (o->kind != CUDA_CONV || o->conv.in_dtype == CTOK_F32 || next->kind != CUDA_NORM || next->pointers[1] != o->pointers[0]) return (norm_parts){0, 0};
    if (atomic_load(&op_left_out) & OP_MOMENTS) return (norm_parts){0, 0};
    return conv_parts(&o->conv, tile_of(o, 1, d), &next->norm);
}

static bool is_same_conv(const conv_params *a, const conv_params *b) {
    _Static_assert(offsetof(conv_params, has_upsampled_residual) == 2 * sizeof(ctok_shape) + 11 * sizeof(int32_t), "no gaps");
    return memcmp(a, b, offsetof(conv_params, has_upsampled_residual)) == 0 && a->has_upsampled_residual == b->has_upsampled_residual;
}

// How many convolutions from o on differ in weights alone: q, k and v. None of them reads what another writes.
static int32_t count_together(const op *o, int32_t most, int32_t num_known, const op_device *d) {
    int32_t count = 1;
    if (o->kind != CUDA_CONV || o->pointers[2] || o->pointers[3] || o->pointers[0] == o->pointers[1] || atomic_load(&op_left_out) & OP_TOGETHER) return 1;
    for (; count < most && count < CONV_MOST_TARGETS; count++) {
        const op *other = o + count;
        if (other->kind != CUDA_CONV || other->pointers[1] != o->pointers[1] || other->pointers[0] == o->pointers[1]) break;
        if (other->pointers[2] || other->pointers[3] || !is_same_conv(&o->conv, &other->conv)) break;
        if (count + 1 < num_known && parts_between(other, other + 1, d).slab_positions) break;  // it is started alone, with moments
    }
    return count;
}

static int start_conv(const op *o, int32_t count, const op *next, const op_device *d) {
    const void *const *a = o->pointers;
    conv_target targets[CONV_MOST_TARGETS];
    for (int32_t i = 0; i < count; i++) targets[i] = (conv_target){(void *)o[i].pointers[0], o[i].pointers[4], o[i].pointers[5]};
    if (o->conv.in_dtype == CTOK_F32) return smxx_conv(targets, count, a[1], a[2], a[3], &o->conv, d->stream);
    bool has_moments = count == 1 && next && parts_between(o, next, d).slab_positions;
    return sm80_conv(targets, count, a[1], a[2], a[3], &o->conv, tile_of(o, count, d), has_moments ? d->norm_workspace : NULL,
                     has_moments ? next->norm.groups : 0, d->stream);
}

static int start_attention(const op *o, const op_device *d) {
    const void *const *a = o->pointers;
    const attention_params *p = &o->attention;
    if (p->is_temporal) return smxx_attention_time((void *)a[0], a[1], a[2], a[3], p, d->stream);
    if (p->dtype == CTOK_F32) return smxx_attention((void *)a[0], a[1], a[2], a[3], p, d->stream);
    return sm80_attention((void *)a[0], a[1], a[2], a[3], p, attention_tile_choose(p, d->limits), d->stream);
}

int op_start(const op *ops, int32_t *i, int32_t end, int32_t num_ops, const op_device *d) {
    const op *o = &ops[*i], *before = *i > 0 ? o - 1 : NULL;
    int32_t count = count_together(o, end - *i, num_ops - *i, d);
    *i += count;
    const void *const *a = o->pointers;
    void *out = (void *)a[0];
    switch (o->kind) {
        case CUDA_HAAR: return smxx_haar(out, a[1], &o->haar, d->stream);
        case CUDA_UNHAAR: return smxx_unhaar(out, a[1], &o->haar, d->stream);
        case CUDA_CONV: return start_conv(o, count, *i < num_ops ? &ops[*i] : NULL, d);
        case CUDA_POOL: return smxx_pool(out, a[1], &o->pool, d->stream);
        case CUDA_NORM: {
            norm_parts parts = before ? parts_between(before, o, d) : (norm_parts){0, 0};
            return smxx_norm(out, a[1], a[2], a[3], d->norm_workspace, parts, &o->norm, d->stream);
        }
        case CUDA_ATTENTION: return start_attention(o, d);
        case CUDA_QUANTIZE: return smxx_quantize(out, (void *)a[1], a[2], a[3], &o->quantizer, d->stream);
    }
    return 1;  // cudaErrorInvalidValue
}

// Field by field, as the bytes between fields are nobody's; at once where there are none.
bool op_is_same(const op *a, const op *b) {
    if (a->kind != b->kind || memcmp(a->pointers, b->pointers, sizeof a->pointers) != 0) return false;
    switch (a->kind) {
        case CUDA_HAAR: case CUDA_UNHAAR:
            return memcmp(&a->haar, &b->haar, offsetof(haar_params, is_first)) == 0 && a->haar.is_first == b->haar.is_first;
        case CUDA_CONV: return is_same_conv(&a->conv, &b->conv);
        case CUDA_POOL:
            return memcmp(&a->pool, &b->pool, 2 * sizeof(ctok_shape)) == 0 && a->pool.is_temporal == b->pool.is_temporal &&
                   a->pool.is_first == b->pool.is_first && a->pool.dtype == b->pool.dtype;
        case CUDA_NORM:
            return memcmp(&a->norm, &b->norm, offsetof(norm_params, has_silu)) == 0 && a->norm.has_silu == b->norm.has_silu && a->norm.dtype == b->norm.dtype;
        case CUDA_ATTENTION:
            return memcmp(&a->attention.shape, &b->attention.shape, sizeof(ctok_shape)) == 0 && a->attention.is_temporal == b->attention.is_temporal &&
                   a->attention.num_past == b->attention.num_past && a->attention.window == b->attention.window && a->attention.dtype == b->attention.dtype;
        case CUDA_QUANTIZE:
            _Static_assert(sizeof(quantizer_params) == sizeof(ctok_shape) + 42 * sizeof(int32_t), "no gaps");
            return memcmp(&a->quantizer, &b->quantizer, sizeof a->quantizer) == 0;
    }
    return false;
}

int64_t op_products(const op *o) {
    if (o->kind == CUDA_CONV) return shape_elements(o->conv.out) * o->conv.in.c * o->conv.kernel * o->conv.kernel * o->conv.kernel_t;
    if (o->kind != CUDA_ATTENTION) return 0;
    const attention_params *p = &o->attention;
    return 2 * shape_elements(p->shape) * (p->is_temporal ? p->num_past + p->shape.t : p->shape.h * p->shape.w);
}
#endif
