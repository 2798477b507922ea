// One table for all ids, sorted because ids only grow: lookup is a binary search, removal closes
// the gap.
#include "ids.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static object **table;
static size_t num_objects, capacity;
static uint32_t last_inherited;  // ids up to here are of the process that this one was forked from
uint32_t ids_last;

// ---------------------------------------------------------------- fork
// After a fork the child has the lock unlocked and the table empty. Whatever the parent's ids stood
// for stays in the child's memory unused, as the parent's threads may have been at work on any of
// it.
static void before_fork(void) { pthread_mutex_lock(&lock); }

static void after_fork(void) { pthread_mutex_unlock(&lock); }

static void in_child(void) {
    num_objects = 0;
    last_inherited = ids_last;
    pthread_mutex_unlock(&lock);
}

static int watch_failure;
static void watch_forks(void) { watch_failure = pthread_atfork(before_fork, after_fork, in_child); }

// ---------------------------------------------------------------- objects
void object_init(object *o, object_kind kind, object *owner, void (*destroy)(object *self)) {
    atomic_init(&o->references, 1);
    o->kind = kind;
    o->id = 0;
    o->owner = owner ? object_retain(owner) : NULL;
    o->destroy = destroy;
}

object *object_retain(object *o) {
    atomic_fetch_add(&o->references, 1);
    return o;
}

void object_release(object *o) {
    if (!o || atomic_fetch_sub(&o->references, 1) != 1) return;
    object *owner = o->owner;
    o->destroy(o);
    object_release(owner);
}

// ---------------------------------------------------------------- the table
ctok_status ids_add(object *o, ctok_error *error) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, watch_forks);
    if (watch_failure) return ctok_fail(error, CTOK_E_MEMORY, 0, "no memory to be told of forks");
    ctok_status status = CTOK_OK;
    pthread_mutex_lock(&lock);
    if (ids_last == UINT32_MAX) {
        status = ctok_fail(error, CTOK_E_INTERNAL, 0,
                           "all 2^32 - 1 ids are used up; start the process again");
    } else if (num_objects == capacity) {
        size_t wanted = capacity ? capacity * 2 : 64;
        object **grown = realloc(table, wanted * sizeof *table);
        if (grown) table = grown, capacity = wanted;
        else
            status = ctok_fail(error, CTOK_E_MEMORY, (int64_t)(wanted * sizeof *table),
                               "no memory for %zu ids", wanted);
    }
    if (status == CTOK_OK) {
        o->id = ++ids_last;
        table[num_objects++] = object_retain(o);
    }
    pthread_mutex_unlock(&lock);
    return status;
}

// Index of an id in the table, or num_objects where it is not there. The caller holds the lock.
static size_t position(uint32_t id) {
    size_t low = 0, high = num_objects;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (table[middle]->id < id) low = middle + 1;
        else high = middle;
    }
    return low < num_objects && table[low]->id == id ? low : num_objects;
}

ctok_status ids_get(object **out, object_kind kind, uint32_t id, ctok_error *error) {
    static const char *const names[] = {[OBJECT_ENGINE] = "engine",
                                        [OBJECT_MODEL] = "model",
                                        [OBJECT_STREAM] = "stream",
                                        [OBJECT_JOB] = "job"};
    object *found = NULL;
    pthread_mutex_lock(&lock);
    size_t at = position(id);
    if (at < num_objects && table[at]->kind == kind) found = object_retain(table[at]);
    bool is_inherited = id && id <= last_inherited;
    pthread_mutex_unlock(&lock);
    if (!found && is_inherited) {
        return ctok_fail(error, CTOK_E_HANDLE, id,
                         "expected the id of an open %s, found %u of the process before fork(); "
                         "open an engine in this one",
                         names[kind], id);
    }
    if (!found)
        return ctok_fail(error, CTOK_E_HANDLE, id, "expected the id of an open %s, found %u",
                         names[kind], id);
    *out = found;
    return CTOK_OK;
}

// Removes an entry of the table. The caller holds the lock.
static void close_gap(size_t at) {
    memmove(table + at, table + at + 1, (num_objects - at - 1) * sizeof *table);
    num_objects--;
}

bool ids_remove(object *o) {
    pthread_mutex_lock(&lock);
    size_t at = position(o->id);
    bool is_there = at < num_objects && table[at] == o;
    if (is_there) close_gap(at);
    pthread_mutex_unlock(&lock);
    return is_there;
}

// Whether the object belongs to `owner`, directly or through its owners, which live as long as it
// does.
static bool belongs_to(const object *o, const object *owner) {
    while (o->owner && o->owner != owner) o = o->owner;
    return o->owner == owner;
}

uint32_t ids_count(object_kind kind, const object *owner) {
    uint32_t count = 0;
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < num_objects; i++)
        count += table[i]->kind == kind && belongs_to(table[i], owner);
    pthread_mutex_unlock(&lock);
    return count;
}

object *ids_remove_first(object_kind kind, const object *owner) {
    object *found = NULL;
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < num_objects && !found; i++) {
        if (table[i]->kind != kind || !belongs_to(table[i], owner)) continue;
        found = table[i];
        close_gap(i);
    }
    pthread_mutex_unlock(&lock);
    return found;
}
