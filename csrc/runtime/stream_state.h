// What a stream keeps between its chunks: for each temporal convolution the last two frames that it
// read, for each temporal attention the keys and values of the past. Memory comes from the backend;
// what moves in it are steps of the chunks. Who calls it: runtime/bind, runtime/stream.
#ifndef CTOK_RUNTIME_STREAM_STATE_H
#define CTOK_RUNTIME_STREAM_STATE_H

#include "../backends/backend.h"

typedef struct {
    uint8_t *past;           // convolution: [2, H, W, C]
    uint8_t *keys, *values;  // attention: [num_frames, H, W, C] with room for `capacity` frames
    int64_t num_frames, capacity;
    size_t frame_bytes;
} stream_slot;

typedef struct {
    backend *backend;
    stream_slot *slots;
    int32_t num_slots;
    int64_t attention_frames;      // that a frame sees, itself included; 0: all
    _Atomic uint64_t *held_bytes;  // the engine's count of what all streams hold; or NULL
} stream_state;

// Capacity, in frames, of a key/value cache that holds `num_frames`: rounded up by at most a 32nd,
// so that the cache grows rarely. A plan counts with the same number, so its memory is what a
// stream really takes.
int64_t stream_capacity(int64_t num_frames);

// These return false when there is no memory.
bool stream_prepare(stream_state *s, int32_t num_slots);
bool stream_reserve_past(stream_state *s, stream_slot *slot, ctok_shape shape,
                         ctok_dtype dtype);  // for two frames
bool stream_reserve(stream_state *s, stream_slot *slot, ctok_shape shape,
                    ctok_dtype dtype);  // for shape.t more frames, contents kept

// How many of the last `num_frames` frames of keys and values a later frame will still attend to.
int64_t stream_kept(const stream_state *s, int64_t num_frames);
void stream_state_free(stream_state *s);

#endif
