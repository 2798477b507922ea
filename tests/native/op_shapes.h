// The one list of op shapes, for correctness (op_test.c) and for speed. What they are chosen to
// hit: a single pixel, H != W, odd sizes, one more than a tile (6 and 14 pixels; 8, 16 and 32
// channels), one more than a block, batches, widths that no vector divides, and the sizes of the
// real networks; in time, one frame, few and many, first chunks and later ones. Kept small enough
// for a scalar reference in float64.
#ifndef CTOK_TEST_OP_SHAPES_H
#define CTOK_TEST_OP_SHAPES_H

#pragma GCC diagnostic ignored "-Wunused-const-variable"  // a program may do without some of these

#include <stdbool.h>
#include <stdint.h>

typedef enum { NONE, PLAIN, UPSAMPLED } residual_kind;
static const char *const residual_names[] = {"", " +residual", " +upsampled residual"};

typedef struct {
    int32_t n, h, w, c_in, c_out;
    int32_t kernel, stride, pad_before, upsample;
    residual_kind residual;
} conv_shape;  // out.h = ceil(h * upsample / stride), likewise out.w

static const conv_shape conv_shapes[] = {
    {1, 1, 1, 1, 1, 1, 1, 0, 1, NONE},
    {1, 1, 1, 3, 3, 3, 1, 1, 1, PLAIN},
    {1, 1, 1, 512, 512, 3, 1, 1, 1, NONE},
    {2, 17, 33, 48, 128, 3, 1, 1, 1, NONE},  // first layer of the small and public encoders
    {1, 3, 9, 192, 64, 3, 1, 1, 1, NONE},    // of the video encoders
    {1, 7, 5, 16, 96, 3, 1, 1, 1, NONE},     // of the continuous decoders
    {1, 5, 13, 24, 32, 3, 1, 1, 1, NONE},    // of encoders of small patches
    {1, 15, 15, 32, 33, 3, 1, 1, 1, PLAIN},  // one more than a tile, in pixels and in channels
    {1, 5, 7, 6, 8, 3, 1, 1, 1, NONE},
    {1, 4, 29, 64, 48, 3, 1, 1, 1, NONE},    // last layer of a decoder
    {1, 1, 300, 256, 16, 3, 1, 1, 1, NONE},  // rows too wide for one task
    {1, 40, 3, 7, 9, 3, 1, 1, 1, PLAIN},
    {1, 9, 13, 512, 40, 3, 1, 1, 1, PLAIN},  // the longest reduction: 4608 products
    {3, 6, 6, 96, 65, 3, 1, 1, 1, PLAIN},
    {1, 8, 10, 256, 256, 3, 1, 1, 1, PLAIN},
    {1, 18, 32, 32, 64, 3, 2, 0, 1, NONE},  // the encoders' downsampling
    {2, 33, 17, 20, 31, 3, 2, 0, 1, PLAIN},
    {1, 7, 57, 13, 16, 3, 2, 1, 1, NONE},
    {2, 33, 17, 64, 32, 3, 2, 0, 1, PLAIN},
    {1, 1, 1, 128, 32, 3, 2, 0, 1, NONE},
    {2, 5, 11, 17, 35, 3, 1, 1, 2, PLAIN},  // the decoders' upsampling
    {1, 6, 5, 8, 8, 3, 2, 0, 2, NONE},
    {2, 9, 11, 16, 6, 1, 1, 0, 1, NONE},  // quant_conv and its inverse
    {1, 13, 31, 6, 16, 1, 1, 0, 1, NONE},
    {1, 1, 1, 256, 256, 1, 1, 0, 1, PLAIN},
    {2, 12, 19, 128, 128, 1, 1, 0, 1, PLAIN},  // q, k, v and proj_out
    {1, 7, 9, 385, 36, 1, 1, 0, 1, NONE},      // one more than a run of additions
    {1, 11, 6, 24, 20, 1, 2, 0, 1, NONE},
    {1, 5, 9, 24, 20, 1, 1, 0, 2, PLAIN},
    {2, 5, 11, 33, 33, 3, 1, 1, 2, UPSAMPLED},
    {1, 4, 15, 64, 64, 3, 1, 1, 2, UPSAMPLED},
    {3, 1, 6, 96, 64, 3, 1, 1, 2, PLAIN},
    {1, 1, 3, 64, 256, 3, 1, 1, 2, NONE},
};

// Wide and large enough for Winograd (blocked_winograd.inc).
static const conv_shape winograd_shapes[] = {
    {1, 5, 8, 32, 32, 3, 1, 1, 1, PLAIN},  // four tiles, the least
    {1, 7, 9, 32, 96, 3, 1, 1, 1, NONE},
    {1, 20, 24, 64, 64, 3, 1, 1, 1, PLAIN},  // whole tiles of 4 x 4
    {2, 21, 19, 64, 96, 3, 1, 1, 1, NONE},  // one row more than a tile, one column less; two images
    {3, 17, 22, 96, 64, 3, 1, 1, 1, PLAIN},
    {1, 3, 97, 64, 128, 3, 1, 1, 1, NONE},
    {1, 24, 16, 256, 256, 3, 1, 1, 1, PLAIN},
    {1, 19, 21, 512, 64, 3, 1, 1, 1, NONE},
    {1, 33, 65, 64, 64, 3, 1, 1, 1, NONE},   // several tasks
    {1, 49, 65, 512, 32, 3, 1, 1, 1, NONE},  // more than is transformed at a time, for one or two
                                             // threads
    {1, 18, 22, 128, 64, 3, 1, 0, 1, NONE},
    {1, 9, 8, 64, 64, 3, 1, 1, 2, NONE},
    {1, 12, 13, 64, 64, 3, 1, 1, 2, UPSAMPLED},
    {2, 9, 17, 128, 64, 3, 1, 1, 2, PLAIN},
};

typedef struct {
    int32_t n, t, h, w, c_in, c_out;  // t: of the input
    int32_t stride, upsample;         // in time, kernel 3
    bool is_first, has_past;          // of the chunks of a clip; which padding follows is in
                                      // conv_time_params_of
    residual_kind residual;
} conv_time_shape;

static const conv_time_shape conv_time_shapes[] = {
    {1, 1, 1, 1, 1, 1, 1, 1, true, false, NONE},
    {1, 1, 5, 7, 32, 33, 1, 1, true, false, PLAIN},
    {1, 1, 5, 7, 33, 32, 1, 1, false, true, NONE},
    {2, 2, 3, 5, 6, 8, 1, 1, false, true, PLAIN},
    {1, 3, 9, 13, 64, 48, 1, 1, true, false, NONE},
    {1, 5, 8, 10, 256, 256, 1, 1, true, false, PLAIN},
    {2, 5, 4, 11, 17, 35, 1, 1, false, true, PLAIN},
    {1, 9, 1, 29, 40, 65, 1, 1, false, false, NONE},
    {1, 9, 3, 5, 512, 40, 1, 1, true, false, PLAIN},
    {1, 17, 2, 8, 16, 16, 1, 1, false, true, NONE},
    {1, 100, 1, 3, 24, 9, 1, 1, true, false, NONE},  // more frames than a task holds
    {1, 1, 4, 4, 16, 32, 2, 1, true, false, PLAIN},  // the encoders' halving
    {1, 2, 3, 7, 48, 31, 2, 1, true, false, NONE},
    {1, 3, 6, 6, 96, 65, 2, 1, true, false, PLAIN},
    {1, 9, 7, 9, 32, 32, 2, 1, true, false, NONE},
    {2, 2, 5, 3, 20, 33, 2, 1, false, true, NONE},
    {1, 8, 5, 13, 64, 64, 2, 1, false, true, PLAIN},
    {1, 3, 2, 9, 7, 9, 2, 1, false, true, NONE},
    {1, 1, 4, 4, 32, 32, 1, 2, true, false, UPSAMPLED},  // the decoders' doubling
    {1, 2, 3, 7, 33, 33, 1, 2, true, false, UPSAMPLED},
    {2, 3, 5, 6, 48, 48, 1, 2, true, false, UPSAMPLED},
    {2, 3, 5, 7, 64, 64, 1, 2, true, false, UPSAMPLED},
    {1, 2, 5, 7, 96, 32, 1, 1, false, true, PLAIN},
    {1, 3, 3, 9, 32, 64, 2, 1, false, true, NONE},
    {1, 5, 8, 10, 128, 128, 1, 2, true, false, NONE},
    {1, 1, 5, 5, 16, 40, 1, 2, false, true, PLAIN},
    {2, 2, 3, 11, 65, 65, 1, 2, false, true, UPSAMPLED},
    {1, 9, 4, 6, 24, 24, 1, 2, false, true, UPSAMPLED},
    {1, 3, 4, 6, 512, 24, 1, 2, false, false, NONE},
    {3, 3, 3, 5, 32, 64, 1, 1, true, false, PLAIN},
    {3, 3, 4, 3, 64, 32, 2, 1, true, false, NONE},
    {3, 2, 3, 4, 32, 32, 1, 2, true, false, UPSAMPLED},
    {2, 3, 5, 7, 64, 96, 1, 2, false, true, PLAIN},  // by phases on a GPU
    {1, 4, 3, 9, 96, 96, 1, 2, false, true, UPSAMPLED},
    {2, 1, 3, 5, 64, 256, 1, 2, true, false, NONE},
};

typedef struct {
    int32_t n, h, w, c, groups;
    bool has_silu;
    float mean;  // of the values, whose deviation is 1: a large one shows cancellation
} norm_shape;

static const norm_shape norm_shapes[] = {
    {1, 1, 1, 32, 32, false, 0.0f},  // every group is one value: the result is the offset
    {1, 1, 1, 64, 1, true, 0.0f},
    {2, 5, 7, 32, 32, true, 0.0f},
    {1, 33, 65, 32, 32, true, 1.0f},
    {2, 64, 65, 64, 32, true, -3.0f},  // several slabs, the last one shorter
    {1, 17, 31, 512, 32, true, 10.0f},
    {1, 40, 41, 128, 1, false, 100.0f},
    {2, 9, 9, 96, 32, false, 0.0f},  // three channels a group
    {1, 3, 5, 33, 1, true, 0.0f},
    {3, 7, 4, 17, 17, true, 1.0f},
    {1, 13, 19, 576, 32, true, 0.5f},  // more channels than a task holds at once
    {1, 5, 3, 1057, 1, false, 0.5f},
};

typedef struct {
    int32_t n, h, w, c;
    float spread;  // of q: 1 gives a nearly flat softmax at C = 128, 16 one that a few keys rule
} attention_shape;

static const attention_shape attention_shapes[] = {
    {1, 1, 1, 1, 1.0f},
    {1, 1, 1, 128, 1.0f},
    {2, 3, 5, 7, 4.0f},
    {1, 2, 16, 32, 1.0f},
    {2, 9, 11, 33, 8.0f},
    {1, 16, 16, 128, 1.0f},
    {1, 13, 20, 128, 16.0f},  // one block of 252
                              // keys and a bit
    {1, 29, 31, 64, 4.0f},
    {1, 17, 20, 512, 16.0f},
    {1, 1, 515, 96, 1.0f},
    {1, 1, 33, 300, 4.0f},
    {1, 3, 5, 32, 4.0f},  // an odd number of keys
    {3, 7, 5, 64, 4.0f},
};

typedef struct {
    int32_t n, t, h, w, c, num_past, window;
    float spread;
} attention_time_shape;

static const attention_time_shape attention_time_shapes[] = {
    {1, 1, 1, 1, 1, 0, 0, 1.0f},     {1, 1, 3, 5, 33, 0, 0, 1.0f},
    {1, 4, 5, 7, 64, 0, 0, 4.0f},    {1, 4, 3, 6, 128, 0, 3, 1.0f},
    {1, 1, 5, 5, 96, 5, 0, 4.0f},    {1, 1, 4, 9, 512, 5, 3, 16.0f},
    {1, 4, 4, 5, 300, 5, 0, 16.0f},  {1, 4, 17, 1, 31, 5, 3, 8.0f},
    {1, 2, 3, 3, 40, 1, 1, 1.0f},    {1, 37, 2, 3, 128, 0, 0, 4.0f},
    {1, 9, 2, 3, 128, 30, 16, 4.0f}, {2, 3, 5, 7, 64, 0, 0, 4.0f},  // a batch of clips
    {3, 1, 3, 3, 33, 0, 0, 1.0f},    {3, 4, 3, 6, 96, 5, 3, 8.0f},
};

typedef struct {
    int32_t n, t, h, w, c;
    bool is_temporal, is_first;
} pool_shape;

static const pool_shape pool_shapes[] = {
    {1, 1, 2, 2, 1, false, true},  {2, 3, 6, 10, 33, false, true}, {1, 1, 3, 5, 7, true, true},
    {1, 2, 3, 5, 7, true, true},   {2, 5, 4, 3, 16, true, true},   {1, 2, 3, 5, 7, true, false},
    {2, 8, 4, 3, 16, true, false}, {1, 3, 2, 2, 5, true, false},   {3, 3, 4, 6, 32, true, true},
    {3, 2, 6, 4, 32, false, true},
};

typedef struct {
    int32_t n, h, w, c, patch;  // of the pixels
    int32_t t, patch_t;
    bool is_first;  // then t = 1 + a multiple of patch_t
} haar_shape;

static const haar_shape haar_shapes[] = {
    {1, 2, 2, 1, 2, 1, 1, true},   {2, 6, 10, 3, 2, 1, 1, true},  {1, 4, 4, 1, 4, 1, 1, true},
    {2, 12, 20, 3, 4, 1, 1, true}, {1, 4, 36, 5, 4, 1, 1, true},  {1, 4, 280, 3, 4, 1, 1, true},
    {1, 2, 6, 200, 2, 1, 1, true}, {1, 2, 2, 1, 2, 1, 2, true},   {1, 4, 4, 1, 4, 1, 4, true},
    {2, 6, 10, 3, 2, 5, 2, true},  {1, 8, 280, 3, 4, 9, 4, true}, {2, 4, 12, 5, 4, 5, 4, true},
    {1, 6, 10, 3, 2, 2, 2, false}, {2, 4, 6, 3, 2, 4, 2, false},  {1, 8, 12, 3, 4, 8, 4, false},
    {2, 4, 4, 2, 4, 4, 4, false},  {3, 4, 8, 3, 2, 5, 2, true},   {3, 8, 4, 3, 4, 1, 1, true},
};

typedef struct {
    int32_t n, c, height, width;  // of the external tensor
    int32_t h, w, top, left;      // of the activation around it
    int32_t frames, t, before;
} transfer_shape;

static const transfer_shape transfer_shapes[] = {
    {1, 3, 1, 1, 1, 1, 0, 0, 1, 1, 0},    {2, 3, 15, 17, 16, 32, 0, 7, 1, 1, 0},
    {1, 3, 30, 5, 32, 16, 1, 5, 1, 1, 0}, {2, 6, 4, 9, 4, 9, 0, 0, 1, 1, 0},
    {2, 3, 5, 7, 8, 8, 2, 1, 3, 3, 0},    {1, 3, 5, 7, 6, 9, 0, 1, 3, 9, 0},
    {1, 3, 5, 7, 6, 9, 0, 1, 3, 9, 4},    {2, 16, 3, 4, 3, 4, 0, 0, 5, 9, 4},
    {1, 3, 4, 4, 4, 4, 0, 0, 1, 4, 2},    {3, 3, 5, 6, 8, 8, 1, 2, 5, 9, 2},
};

typedef struct {
    int32_t n, h, w, num_levels;
    uint32_t levels[8];
} fsq_shape;

static const fsq_shape fsq_shapes[] = {
    {1, 1, 1, 1, {2}},
    {1, 250, 256, 6, {8, 8, 8, 5, 5, 5}},  // every code of the public models
    {2, 5, 7, 4, {3, 4, 7, 16}},
    {3, 3, 5, 4, {3, 4, 7, 16}},
    {1, 41, 25, 2, {1025, 4096}},  // past the last digit unless held back
};

typedef struct {
    int32_t n, h, w, c, size;
} lookup_shape;

static const lookup_shape lookup_shapes[] = {
    {1, 1, 1, 1, 1},      {1, 3, 7, 1, 5},    {2, 5, 7, 8, 1000},
    {1, 4, 4, 8, 3},      {1, 9, 13, 13, 77}, {1, 16, 17, 8, 257},
    {3, 1, 11, 256, 130}, {1, 2, 9, 300, 50}, {1, 1, 33, 4, 2049},
};

typedef struct {
    int32_t n, h, w, c;
} sign_shape;

static const sign_shape sign_shapes[] = {
    {1, 1, 1, 1}, {2, 33, 17, 18}, {1, 3, 5, 30}, {3, 2, 3, 18}};

// The sizes of the real networks, for bench/ops.c, which holds their results to the reference too.
static const conv_shape large_conv_shapes[] = {
    {1, 64, 64, 256, 256, 3, 1, 1, 1, PLAIN},  // residual blocks, wide enough for Winograd
    {1, 32, 32, 512, 512, 3, 1, 1, 1, PLAIN},
    {1, 64, 64, 48, 128, 3, 1, 1, 1, NONE},  // an encoder's first layer, a decoder's last
    {1, 64, 64, 256, 48, 3, 1, 1, 1, NONE},
    {1, 64, 64, 256, 256, 3, 2, 0, 1, NONE},  // halving and doubling
    {1, 32, 32, 256, 256, 3, 1, 1, 2, NONE},
    {1, 64, 64, 512, 512, 1, 1, 0, 1, NONE},  // q, k, v and proj_out
    {1, 64, 64, 128, 256, 1, 1, 0, 1, NONE},
};

static const conv_time_shape large_conv_time_shapes[] = {
    {1, 5, 32, 64, 256, 256, 1, 1, true, false, PLAIN},
    {1, 5, 32, 64, 256, 256, 2, 1, true, false, PLAIN},
    {1, 3, 32, 64, 256, 256, 1, 2, true, false, UPSAMPLED},
};

static const norm_shape large_norm_shapes[] = {{1, 64, 64, 512, 32, true, 0.5f},
                                               {1, 64, 64, 256, 1, true, 0.5f}};
static const attention_shape large_attention_shapes[] = {{1, 32, 32, 512, 4.0f},
                                                         {1, 32, 64, 512, 4.0f}};
static const attention_time_shape large_attention_time_shapes[] = {{1, 5, 32, 32, 512, 0, 0, 4.0f}};
static const lookup_shape large_lookup_shapes[] = {{1, 32, 32, 8, 16384}};  // LlamaGen VQ-8 at 256
                                                                            // x 256

#define NUM_SHAPES(list) ((int)(sizeof(list) / sizeof(list)[0]))

#endif
