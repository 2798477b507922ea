// Ids for what crosses the C interface. An id is a uint32_t that grows with each use and is never
// used twice; looking up a stale one gives NULL. Every object starts with an `object` header and is
// counted: the table holds one reference, each lookup another. A child of fork() has none of the
// threads that serve its parent's objects: its table starts empty.
// Who calls it: abi.c, and here engine, job, lifetime, model and stream.
#ifndef CTOK_RUNTIME_IDS_H
#define CTOK_RUNTIME_IDS_H

#include <stdatomic.h>
#include <stdbool.h>

#include "../base/status.h"

typedef enum {
    OBJECT_ENGINE = 1,
    OBJECT_MODEL,
    OBJECT_STREAM,
    OBJECT_JOB,
    OBJECT_THREAD
} object_kind;

typedef struct object {
    atomic_int references;
    object_kind kind;
    uint32_t id;           // 0 until ids_add
    struct object *owner;  // retained: a model's or job's engine; an engine's thread, or NULL
    void (*destroy)(struct object *self);
} object;

// Starts an object with one reference, the caller's. `destroy` frees the object's own memory; its
// owner is released after it.
void object_init(object *o, object_kind kind, object *owner, void (*destroy)(object *self));
object *object_retain(object *o);  // returns o
void object_release(object *o);    // NULL is fine; the last one destroys

extern uint32_t ids_last;  // the last id that was given: here for the test of what comes after 2^32
                           // - 1

// Gives the object an id and keeps a reference. CTOK_E_MEMORY, or CTOK_E_INTERNAL after 2^32 - 1
// ids.
ctok_status ids_add(object *o, ctok_error *error);

// The live object of that id and kind with a reference for the caller (object_release), or
// CTOK_E_HANDLE.
ctok_status ids_get(object **out, object_kind kind, uint32_t id, ctok_error *error);

// Takes the id out of the table and hands the table's reference to the caller. False when the id is
// stale by now.
bool ids_remove(object *o);

// The live objects of a kind that belong to `owner`, or to what belongs to it: how many, and the
// first of them taken out (NULL when there is none).
uint32_t ids_count(object_kind kind, const object *owner);
object *ids_remove_first(object_kind kind, const object *owner);

#endif
