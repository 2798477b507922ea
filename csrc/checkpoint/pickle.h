// A closed pickle machine: builds plain values from the opcodes that PyTorch's C++ Pickler writes, and nothing else. No name
// in the stream is looked up or called; a few known ones (pickle.c lists them) stand for fixed constructions, and any other
// opcode or name is an error. What it leaves out: what the values mean. Called by torchscript.c.
#ifndef CTOK_CHECKPOINT_PICKLE_H
#define CTOK_CHECKPOINT_PICKLE_H

#include "reader.h"

typedef enum {
    PICKLE_NONE, PICKLE_BOOL, PICKLE_INT, PICKLE_FLOAT, PICKLE_STRING, PICKLE_TUPLE, PICKLE_LIST, PICKLE_DICT,
    PICKLE_GLOBAL, PICKLE_OBJECT, PICKLE_STORAGE, PICKLE_TENSOR
} pickle_kind;

typedef struct pickle_value pickle_value;

typedef struct pickle_item {
    const pickle_value *key;  // dict only
    const pickle_value *value;
    const struct pickle_item *next;
} pickle_item;

// Note: values are shared through the memo and may hold themselves; a walk needs its own limits.
struct pickle_value {
    pickle_kind kind;
    uint16_t role;     // global: which of pickle.c's table
    ctok_dtype dtype;  // storage, and the global of one
    text text;         // string; global and object: class name; storage: key
    union {
        int64_t integer;     // bool, int; storage: number of elements; tensor: offset in elements
        int64_t num_items;   // tuple, list, dict
        double number;       // float
    };
    union {
        struct { pickle_item *first, *last; };                    // tuple, list, dict
        const pickle_value *state;                                // object; NULL until its BUILD
        struct { const pickle_value *storage, *size, *stride; };  // tensor; size and stride: tuples of anything
    };
};

enum { PICKLE_MAX_BYTES = 4 * 1024 * 1024 };

// Values live in *arena and point into `bytes`. Memory and time grow at most in proportion to num_bytes.
// error->detail: the offset of the opcode that failed.
ctok_status pickle_read(const pickle_value **out, struct checkpoint_strings **arena, const uint8_t *bytes, size_t num_bytes,
                        ctok_error *error);
const char *pickle_kind_name(pickle_kind kind);  // "a tuple"

#endif
