// A closed pickle machine: builds plain values from the opcodes that torch.jit.save and torch.save
// write, and nothing else. No name in the stream is looked up or called. A few known names
// (pickle_names.h) stand for fixed constructions. Any other name, and whatever the stream makes
// with it, is one opaque value that says the name alone: a trainer's file may hold such beside its
// weights, and who reads the values refuses it where it matters. Any other opcode is an error.
// What it leaves out: what the values mean. Called by torch.c.
#ifndef CTOK_CHECKPOINT_PICKLE_H
#define CTOK_CHECKPOINT_PICKLE_H

#include "reader.h"

typedef enum {
    PICKLE_NONE,
    PICKLE_BOOL,
    PICKLE_INT,
    PICKLE_FLOAT,
    PICKLE_STRING,
    PICKLE_TUPLE,
    PICKLE_LIST,
    PICKLE_DICT,
    PICKLE_GLOBAL,
    PICKLE_OBJECT,
    PICKLE_STORAGE,
    PICKLE_TENSOR,
    PICKLE_OPAQUE
} pickle_kind;

typedef struct pickle_value pickle_value;

typedef struct pickle_item {
    const pickle_value *key;  // dict only
    const pickle_value *value;
    const struct pickle_item *next;
} pickle_item;

// Note: values are shared through the memo and may contain themselves, so whoever walks them needs
// a limit.
struct pickle_value {
    pickle_kind kind;
    uint16_t role;  // global: its role in pickle_names.h; dict: that of OrderedDict where that made
                    // it
    ctok_dtype dtype;  // storage, and the global of one
    text text;  // string; global and object: class name; storage: key; opaque: the unknown name
    union {
        int64_t integer;    // bool, int; storage: number of elements; tensor: offset in elements;
                            // opaque: where its name stands in the pickle
        int64_t num_items;  // tuple, list, dict
        double number;      // float
    };
    union {
        struct {
            pickle_item *first, *last;
        };                          // tuple, list, dict
        const pickle_value *state;  // object; NULL until its BUILD
        struct {
            const pickle_value *storage, *size, *stride;
        };            // tensor; size and stride: tuples of anything
        text module;  // opaque: of the unknown name
    };
};

enum { PICKLE_MAX_BYTES = 4 * 1024 * 1024 };

typedef struct {
    const pickle_value *top;
    const pickle_value *unknown;  // the first opaque value, wherever it stands; NULL where all
                                  // names are known
} pickle_document;

// Parses a pickle. The values live in *arena and point into `bytes`. Memory and time grow at most
// in proportion to num_bytes. error->detail: the offset of the opcode that failed.
ctok_status pickle_read(pickle_document *out, struct checkpoint_strings **arena,
                        const uint8_t *bytes, size_t num_bytes, ctok_error *error);
const char *pickle_kind_name(pickle_kind kind);  // "a tuple"

#endif
