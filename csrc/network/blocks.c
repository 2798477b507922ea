// See blocks.h: residual blocks and attention, for images and for videos.
#include "blocks.h"

#include <stdio.h>

const char *block_join(char out[GRAPH_NAME_BYTES], const char *block, const char *part) {
    snprintf(out, GRAPH_NAME_BYTES, "%.64s.%.24s", block, part);  // far longer than any name
    return out;
}

int32_t block_conv_3x3(builder *b, int32_t x, int64_t c_out, int32_t residual, const char *name) {
    if (!b->is_video) return step_conv(b, x, c_out, CONV_3X3, residual, "%s", name);
    bool is_end = b->is_end;
    b->is_end = false;  // of the two, only the second gives what leaves the network
    x = step_conv(b, x, c_out, CONV_3X3, GRAPH_NONE, "%s.0.conv3d", name);
    b->is_end = is_end;
    return step_conv(b, x, c_out, CONV_TIME, residual, "%s.1.conv3d", name);
}

int32_t block_conv_1x1(builder *b, int32_t x, int64_t c_out, int32_t residual, const char *name) {
    return step_conv(b, x, c_out, CONV_1X1, residual, "%s%s", name, b->is_video ? ".conv3d" : "");
}

int32_t block_norm(builder *b, int32_t x, bool has_silu, const char *block, const char *part) {
    char name[GRAPH_NAME_BYTES];
    snprintf(name, sizeof name, "%.64s.%.16s%s", block, part, b->is_video ? ".norm" : "");
    return step_norm(b, x, b->is_video ? 1 : 32, has_silu, name);
}

int32_t block_res(builder *b, int32_t x, int64_t c_out, const char *name) {
    char part[GRAPH_NAME_BYTES];
    bool has_shortcut = step_shape(b, x).c != c_out;
    int32_t h = block_conv_3x3(b, block_norm(b, x, true, name, "norm1"), c_out, GRAPH_NONE,
                               block_join(part, name, "conv1"));
    h = block_norm(b, h, true, name, "norm2");
    int32_t skip = has_shortcut ? block_conv_1x1(b, x, c_out, GRAPH_NONE,
                                                 block_join(part, name, "nin_shortcut"))
                                : x;
    return block_conv_3x3(b, h, c_out, skip, block_join(part, name, "conv2"));
}

int32_t block_attention(builder *b, int32_t x, bool is_temporal, const char *name) {
    char part[GRAPH_NAME_BYTES];
    int64_t c = step_shape(b, x).c;
    int32_t h = block_norm(b, x, false, name, "norm");
    int32_t q = block_conv_1x1(b, h, c, GRAPH_NONE, block_join(part, name, "q"));
    int32_t k = block_conv_1x1(b, h, c, GRAPH_NONE, block_join(part, name, "k"));
    int32_t v = block_conv_1x1(b, h, c, GRAPH_NONE, block_join(part, name, "v"));
    return block_conv_1x1(b, step_attention(b, q, k, v, is_temporal, name), c, x,
                          block_join(part, name, "proj_out"));
}
