// See describe.h.
#include "describe.h"

#include <stdio.h>

const char *describe_kind(op_kind kind) {
    switch (kind) {
        case OP_LOAD: return "load";
        case OP_STORE: return "store";
        case OP_HAAR: return "haar";
        case OP_UNHAAR: return "unhaar";
        case OP_CONV: return "conv";
        case OP_NORM: return "norm";
        case OP_POOL: return "pool";
        case OP_ATTENTION: return "attention";
        case OP_QUANTIZE: return "quantize";
        case OP_DEQUANTIZE: return "dequantize";
        case OP_COPY: return "copy";
    }
    return "";
}

ctok_shape describe_shape(const step *s) {
    const op_params *p = &s->params;
    switch (s->kind) {
        case OP_LOAD:
        case OP_STORE: return p->transfer.shape;
        case OP_HAAR:
        case OP_UNHAAR: return p->haar.out;
        case OP_CONV: return p->conv.out;
        case OP_NORM: return p->norm.shape;
        case OP_POOL: return p->pool.out;
        case OP_ATTENTION: return p->attention.shape;
        case OP_QUANTIZE:
        case OP_DEQUANTIZE: return p->quantizer.shape;
        case OP_COPY: break;
    }
    return (ctok_shape){1, 1, 1, 1, (int64_t)p->copy_bytes};
}

void describe_step(char *out, size_t out_bytes, const step *s) {
    ctok_shape shape = describe_shape(s);
    snprintf(out, out_bytes, "%s%s%s, [%lld, %lld, %lld, %lld, %lld]", describe_kind(s->kind),
             *s->layer ? " " : "", s->layer, (long long)shape.n, (long long)shape.t,
             (long long)shape.h, (long long)shape.w, (long long)shape.c);
}
