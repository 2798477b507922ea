// What the checkpoint readers share: the arena that owns a checkpoint's text, little-endian loads,
// and text from a file made fit for an error message. The readers' messages do not name the file:
// open.c puts the path before them, once. Who includes it: the .c files of this folder.
#ifndef CTOK_CHECKPOINT_READER_H
#define CTOK_CHECKPOINT_READER_H

#include <string.h>

#include "checkpoint.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "checkpoints are little-endian and are used where they lie");

static inline uint16_t load_u16(const uint8_t *p) {
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline uint32_t load_u32(const uint8_t *p) {
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline uint64_t load_u64(const uint8_t *p) {
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

// A piece of text inside a mapped file: not checked, and not NUL-terminated.
typedef struct {
    const char *bytes;
    size_t num_bytes;
} text;

#define TEXT(literal) ((text){literal, sizeof literal - 1})
static inline bool text_equal(text a, text b) {
    return a.num_bytes == b.num_bytes && memcmp(a.bytes, b.bytes, a.num_bytes) == 0;
}

// How many bytes the UTF-8 character at the start of `t` has; 0 where they are no UTF-8, as
// overlong forms and surrogates.
size_t text_character(text t);
bool text_is_name(text t);  // well-formed UTF-8 without NUL

// Cut to its capacity, with control characters and what is not UTF-8 as '?': "expected a tuple,
// found %s", text_shown(t).s
typedef struct {
    char s[160];
} shown;
shown text_shown(text t);
static inline shown string_shown(const char *s) { return text_shown((text){s, strlen(s)}); }

// The arena: blocks in a list, freed together. arena_take gives zeroed, 8-byte aligned memory, or
// NULL when there is none.
void *arena_take(struct checkpoint_strings **arena, size_t num_bytes);
const char *arena_copy(struct checkpoint_strings **arena, text t);  // with a NUL at its end
void arena_free(struct checkpoint_strings *arena);

// Appends a copy to the checkpoint that is being built. The reader has checked the tensor; names
// are checked afterwards. CTOK_E_CANCELLED once the caller of checkpoint_open wants no more.
ctok_status checkpoint_add_tensor(checkpoint *into, const checkpoint_tensor *tensor,
                                  ctok_error *error);
ctok_status checkpoint_add_metadata(checkpoint *into, const char *key, const char *value,
                                    ctok_error *error);

// Each of these appends the tensors of a mapped file to `into`. After a failure some may be there:
// the caller closes the checkpoint.
ctok_status safetensors_read(checkpoint *into, checkpoint_map map, ctok_error *error);
ctok_status torch_read(checkpoint *into, checkpoint_map map, ctok_error *error);

// Multiplies the shape. False where the product, leaving zeros out, passes 2^63 / 8: the bytes of
// any dtype fit in int64_t.
bool tensor_count(int64_t *num_elements, const checkpoint_tensor *tensor);

// Reads exactly so many bytes: false where the file ends before, or the system refuses.
bool read_at(int descriptor, void *out, size_t num_bytes, uint64_t offset);
// Brings bytes of the map into memory. CTOK_E_FILE_IO where the file has become shorter since it
// was opened. The range lies inside the map. Note: fetched again, bytes are those that the file has
// by then.
ctok_status map_fetch(checkpoint_map map, uint64_t offset, uint64_t num_bytes, ctok_error *error);

#endif
