// See op.h. Which kernel an op starts: bf16 goes through the tensor cores, float32 (also what a network's first convolution
// reads) through the plain kernels.
#include "op.h"

#ifdef CTOK_HAS_CUDA
#include <string.h>

static conv_tile tile_of(const op *conv, const op_device *d) { return conv_tile_choose(&conv->conv, d->limits); }

// The parts in which a convolution gathers the moments of the op behind it; 0: that is no norm of its output, or it cannot.
static norm_parts parts_between(const op *o, const op *next, const op_device *d) {
    if (o->kind != CUDA_CONV || o->conv.in_dtype == CTOK_F32 || next->kind != CUDA_NORM || next->pointers[1] != o->pointers[0]) return (norm_parts){0, 0};
    return conv_parts(&o->conv, tile_of(o, d), &next->norm);
}

static int start_conv(const op *o, const op *next, const op_device *d) {
    const void *const *a = o->pointers;
    if (o->conv.in_dtype == CTOK_F32) return smxx_conv((void *)a[0], a[1], a[2], a[3], a[4], a[5], &o->conv, d->stream);
    bool has_moments = next && parts_between(o, next, d).slab_positions;
    return sm80_conv((void *)a[0], a[1], a[2], a[3], a[4], a[5], &o->conv, tile_of(o, d), has_moments ? d->norm_workspace : NULL,
                     has_moments ? next->norm.groups : 0, d->stream);
}

static int start_attention(const op *o, const op_device *d) {
    const void *const *a = o->pointers;
    const attention_params *p = &o->attention;
    if (p->is_temporal) return smxx_attention_time((void *)a[0], a[1], a[2], a[3], p, d->stream);
    if (p->dtype == CTOK_F32) return smxx_attention((void *)a[0], a[1], a[2], a[3], p, d->stream);
    return sm80_attention((void *)a[0], a[1], a[2], a[3], p, attention_tile_choose(p, d->limits), d->stream);
}

int op_start(const op *ops, int32_t i, int32_t num_ops, const op_device *d) {
    const op *o = &ops[i];
    const void *const *a = o->pointers;
    void *out = (void *)a[0];
    switch (o->kind) {
        case CUDA_HAAR: return smxx_haar(out, a[1], &o->haar, d->stream);
        case CUDA_UNHAAR: return smxx_unhaar(out, a[1], &o->haar, d->stream);
        case CUDA_CONV: return start_conv(o, i + 1 < num_ops ? o + 1 : NULL, d);
        case CUDA_POOL: return smxx_pool(out, a[1], &o->pool, d->stream);
        case CUDA_NORM: {
            norm_parts parts = i > 0 ? parts_between(o - 1, o, d) : (norm_parts){0, 0};
            return smxx_norm(out, a[1], a[2], a[3], d->norm_workspace, parts, &o->norm, d->stream);
        }
        case CUDA_ATTENTION: return start_attention(o, d);
        default: return smxx_quantize(out, (void *)a[1], a[2], &o->fsq, d->stream);
    }
}

// Field by field, as the bytes between fields are nobody's; at once where there are none.
bool op_is_same(const op *a, const op *b) {
    if (a->kind != b->kind || memcmp(a->pointers, b->pointers, sizeof a->pointers) != 0) return false;
    switch (a->kind) {
        case CUDA_HAAR: case CUDA_UNHAAR:
            return memcmp(&a->haar, &b->haar, offsetof(haar_params, is_first)) == 0 && a->haar.is_first == b->haar.is_first;
        case CUDA_CONV:
            _Static_assert(offsetof(conv_params, has_upsampled_residual) == 2 * sizeof(ctok_shape) + 11 * sizeof(int32_t), "no gaps");
            return memcmp(&a->conv, &b->conv, offsetof(conv_params, has_upsampled_residual)) == 0 &&
                   a->conv.has_upsampled_residual == b->conv.has_upsampled_residual;
        case CUDA_POOL:
            return memcmp(&a->pool, &b->pool, 2 * sizeof(ctok_shape)) == 0 && a->pool.is_temporal == b->pool.is_temporal &&
                   a->pool.is_first == b->pool.is_first && a->pool.dtype == b->pool.dtype;
        case CUDA_NORM:
            return memcmp(&a->norm, &b->norm, offsetof(norm_params, has_silu)) == 0 && a->norm.has_silu == b->norm.has_silu && a->norm.dtype == b->norm.dtype;
        case CUDA_ATTENTION:
            return memcmp(&a->attention.shape, &b->attention.shape, sizeof(ctok_shape)) == 0 && a->attention.is_temporal == b->attention.is_temporal &&
                   a->attention.num_past == b->attention.num_past && a->attention.window == b->attention.window && a->attention.dtype == b->attention.dtype;
        default:
            _Static_assert(sizeof(fsq_params) == sizeof(ctok_shape) + 40 * sizeof(int32_t), "no gaps");
            return memcmp(&a->fsq, &b->fsq, sizeof a->fsq) == 0;
    }
}

int64_t op_products(const op *o) {
    if (o->kind == CUDA_CONV) return shape_elements(o->conv.out) * o->conv.in.c * o->conv.kernel * o->conv.kernel * o->conv.kernel_t;
    if (o->kind != CUDA_ATTENTION) return 0;
    const attention_params *p = &o->attention;
    return 2 * shape_elements(p->shape) * (p->is_temporal ? p->num_past + p->shape.t : p->shape.h * p->shape.w);
}
#endif
