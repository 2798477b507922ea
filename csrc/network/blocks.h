// The blocks of the VQGAN lineage, which several families share: residual blocks and attention
// around norms. Of a video (builder's is_video) a 3 x 3 convolution is one in space and then one
// causal in time, NAME.0.conv3d and NAME.1.conv3d, a norm is NAME.norm and sees a frame at a time;
// of an image a norm has 32 groups. Ref: ResBlock, Attention in reference/cosmos_reference.py.
// Who calls it: the families.
#ifndef CTOK_NETWORK_BLOCKS_H
#define CTOK_NETWORK_BLOCKS_H

#include "steps.h"

const char *block_join(char out[GRAPH_NAME_BYTES], const char *block,
                       const char *part);  // "BLOCK.PART"; gives out

int32_t block_conv_3x3(builder *b, int32_t x, int64_t c_out, int32_t residual, const char *name);
int32_t block_conv_1x1(builder *b, int32_t x, int64_t c_out, int32_t residual, const char *name);
int32_t block_norm(builder *b, int32_t x, bool has_silu, const char *block, const char *part);

// x + conv2(norm2(conv1(norm1(x)))), x through nin_shortcut where the channels change.
int32_t block_res(builder *b, int32_t x, int64_t c_out, const char *name);
// Appends an attention block: x + proj_out(attention(q, k, v of norm(x))).
int32_t block_attention(builder *b, int32_t x, bool is_temporal, const char *name);

#endif
