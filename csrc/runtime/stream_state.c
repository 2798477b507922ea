// See stream_state.h: allocates, grows and frees the memory of a stream's state, which is the
// backend's.
#include "stream_state.h"

#include <stdlib.h>

int64_t stream_capacity(int64_t num_frames) {
    int64_t step = 1;
    while (step * 64 <= num_frames) step *= 2;
    return (num_frames + step - 1) / step * step;
}

static void count(stream_state *s, size_t taken_bytes, size_t freed_bytes) {
    if (s->held_bytes) *s->held_bytes += taken_bytes - freed_bytes;
}

bool stream_prepare(stream_state *s, int32_t num_slots) {
    if (s->slots) return true;
    s->slots = calloc((size_t)num_slots + 1, sizeof *s->slots);
    s->num_slots = s->slots ? num_slots : 0;
    return s->slots != NULL;
}

static size_t bytes_of_frame(ctok_shape shape, ctok_dtype dtype) {
    return (size_t)(shape.h * shape.w * shape.c) * dtype_bytes(dtype);
}

bool stream_reserve_past(stream_state *s, stream_slot *slot, ctok_shape shape, ctok_dtype dtype) {
    if (slot->past) return true;
    slot->frame_bytes = bytes_of_frame(shape, dtype);
    slot->past = s->backend->alloc(s->backend, 2 * slot->frame_bytes);
    if (slot->past) count(s, 2 * slot->frame_bytes, 0);
    return slot->past != NULL;
}

// Room for `wanted` frames, contents kept. Limit: a GPU holds the old and the new one for a moment.
static bool grow(stream_state *s, stream_slot *slot, int64_t wanted) {
    if (wanted <= slot->capacity) return true;
    int64_t capacity = stream_capacity(wanted);
    backend *b = s->backend;
    size_t old_bytes = (size_t)slot->capacity * slot->frame_bytes,
           bytes = (size_t)capacity * slot->frame_bytes;
    uint8_t *keys = b->grow(b, slot->keys, old_bytes, bytes);
    if (!keys) return false;
    slot->keys = keys;
    uint8_t *values = b->grow(b, slot->values, old_bytes, bytes);
    if (!values) {
        uint8_t *shrunk = old_bytes ? b->grow(b, keys, bytes, old_bytes)
                                    : NULL;  // so that its size is known when it is freed
        if (!shrunk) b->free(b, keys, bytes), count(s, 0, old_bytes);
        slot->keys = shrunk;
        return false;
    }
    slot->values = values;
    slot->capacity = capacity;
    count(s, 2 * bytes, 2 * old_bytes);
    return true;
}

bool stream_reserve(stream_state *s, stream_slot *slot, ctok_shape shape, ctok_dtype dtype) {
    slot->frame_bytes = bytes_of_frame(shape, dtype);
    return grow(s, slot, slot->num_frames + shape.t);
}

int64_t stream_kept(const stream_state *s, int64_t num_frames) {
    return s->attention_frames && s->attention_frames - 1 < num_frames ? s->attention_frames - 1
                                                                       : num_frames;
}

void stream_state_free(stream_state *s) {
    backend *b = s->backend;
    for (int32_t i = 0; i < s->num_slots; i++) {
        stream_slot *slot = &s->slots[i];
        size_t past_bytes = 2 * slot->frame_bytes,
               kept_bytes = (size_t)slot->capacity * slot->frame_bytes;
        if (slot->past) b->free(b, slot->past, past_bytes), count(s, 0, past_bytes);
        if (slot->keys) b->free(b, slot->keys, kept_bytes), count(s, 0, kept_bytes);
        if (slot->values) b->free(b, slot->values, kept_bytes), count(s, 0, kept_bytes);
    }
    free(s->slots);
    s->slots = NULL;
    s->num_slots = 0;
}
