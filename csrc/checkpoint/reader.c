// Text, memory and entries for the checkpoint readers: UTF-8 checks, text for error messages, the
// arena that owns names and pickle values, and the lists of the checkpoint that is being built.
// What it leaves out: any knowledge of a file form.
// Called by the .c files of this folder.
#include "reader.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

/* ---------------------------------------------------------------- bytes of the file */
bool read_at(int descriptor, void *out, size_t num_bytes, uint64_t offset) {
    for (uint8_t *p = out; num_bytes > 0;) {
        ssize_t n = pread(descriptor, p, num_bytes < 1 << 30 ? num_bytes : 1 << 30, (off_t)offset);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return false;
        p += n;
        offset += (uint64_t)n;
        num_bytes -= (size_t)n;
    }
    return true;
}

ctok_status map_fetch(checkpoint_map map, uint64_t offset, uint64_t num_bytes, ctok_error *error) {
    if (!map.descriptor ||
        read_at(map.descriptor, (uint8_t *)map.bytes + offset, num_bytes, offset))
        return CTOK_OK;
    return ctok_fail(
        error, CTOK_E_FILE_IO, (int64_t)offset,
        "expected %llu bytes at %llu, found a file that has become shorter or cannot be read",
        (unsigned long long)num_bytes, (unsigned long long)offset);
}

/* ---------------------------------------------------------------- text */

// Ref: The Unicode Standard, table 3-7 (well-formed UTF-8 byte sequences).
size_t text_character(text t) {
    const uint8_t *p = (const uint8_t *)t.bytes;
    if (t.num_bytes == 0) return 0;
    if (p[0] < 0x80) return 1;
    if (p[0] < 0xC2 || p[0] > 0xF4) return 0;
    size_t n = p[0] < 0xE0 ? 2 : p[0] < 0xF0 ? 3 : 4;
    if (n > t.num_bytes) return 0;
    uint8_t lowest = p[0] == 0xE0 ? 0xA0 : p[0] == 0xF0 ? 0x90 : 0x80;
    uint8_t highest = p[0] == 0xED ? 0x9F : p[0] == 0xF4 ? 0x8F : 0xBF;
    if (p[1] < lowest || p[1] > highest) return 0;
    for (size_t i = 2; i < n; i++)
        if ((p[i] & 0xC0) != 0x80) return 0;
    return n;
}

bool text_is_name(text t) {
    for (size_t n; t.num_bytes > 0; t.bytes += n, t.num_bytes -= n) {
        n = text_character(t);
        if (n == 0 || t.bytes[0] == 0) return false;
    }
    return true;
}

shown text_shown(text t) {
    shown out;
    size_t used = 0;
    while (t.num_bytes > 0) {
        size_t n = text_character(t);
        bool is_c1 = n == 2 && (uint8_t)t.bytes[0] == 0xC2 &&
                     (uint8_t)t.bytes[1] < 0xA0;  // control characters too: U+0080 to U+009F
        bool is_shown = n == 1 ? t.bytes[0] >= 0x20 && t.bytes[0] != 0x7F : n > 1 && !is_c1;
        if (n == 0) n = 1;
        if (used + n > sizeof out.s - 4) {
            memcpy(out.s + used, "...", 3);
            used += 3;
            break;
        }
        size_t shown_bytes = is_shown ? n : 1;
        memcpy(out.s + used, is_shown ? t.bytes : "?", shown_bytes);
        used += shown_bytes;
        t.bytes += n;
        t.num_bytes -= n;
    }
    out.s[used] = 0;
    return out;
}

struct checkpoint_strings {
    struct checkpoint_strings *next;
    size_t used, capacity;
    _Alignas(8) uint8_t bytes[];
};

void *arena_take(struct checkpoint_strings **arena, size_t num_bytes) {
    enum { BLOCK_BYTES = 64 * 1024 };
    if (num_bytes > PTRDIFF_MAX / 2) return NULL;
    num_bytes = (num_bytes + 7) & ~(size_t)7;
    struct checkpoint_strings *block = *arena;
    if (!block || block->capacity - block->used < num_bytes) {
        size_t capacity = num_bytes > BLOCK_BYTES ? num_bytes : BLOCK_BYTES;
        block = calloc(1, sizeof *block + capacity);
        if (!block) return NULL;
        block->capacity = capacity;
        block->next = *arena;
        *arena = block;
    }
    void *taken = block->bytes + block->used;
    block->used += num_bytes;
    return taken;
}

const char *arena_copy(struct checkpoint_strings **arena, text t) {
    char *copy = arena_take(arena, t.num_bytes + 1);
    if (copy) memcpy(copy, t.bytes, t.num_bytes);
    return copy;
}

void arena_free(struct checkpoint_strings *arena) {
    while (arena) {
        struct checkpoint_strings *next = arena->next;
        free(arena);
        arena = next;
    }
}

/* ---------------------------------------------------------------- entries of the checkpoint that
 * is being built */
// Makes room for one more element. The capacity is always the next power of two, at least 64, and
// so known from `count` alone.
static ctok_status grow(void **items, int32_t count, size_t item_bytes, const char *what,
                        ctok_error *error) {
    if (count == CHECKPOINT_MAX_ENTRIES)
        return ctok_fail(error, CTOK_E_FILE_FORMAT, count, "more than %d %s",
                         CHECKPOINT_MAX_ENTRIES, what);
    bool is_full = count == 0 || (count >= 64 && (count & (count - 1)) == 0);
    if (!is_full) return CTOK_OK;
    size_t capacity = count == 0 ? 64 : 2 * (size_t)count;
    void *grown = capacity <= INT32_MAX ? realloc(*items, capacity * item_bytes) : NULL;
    if (!grown)
        return ctok_fail(error, CTOK_E_MEMORY, (int64_t)(capacity * item_bytes),
                         "no memory for %zu entries", capacity);
    *items = grown;
    return CTOK_OK;
}

ctok_status checkpoint_add_tensor(checkpoint *into, const checkpoint_tensor *tensor,
                                  ctok_error *error) {
    CTOK_TRY(checkpoint_check_cancel(into, error));
    void *items = into->tensors;
    CTOK_TRY(grow(&items, into->num_tensors, sizeof *tensor, "tensors", error));
    into->tensors = items;
    into->tensors[into->num_tensors++] = *tensor;
    return CTOK_OK;
}

ctok_status checkpoint_add_metadata(checkpoint *into, const char *key, const char *value,
                                    ctok_error *error) {
    void *items = into->metadata;
    CTOK_TRY(grow(&items, into->num_metadata, sizeof *into->metadata, "metadata entries", error));
    into->metadata = items;
    into->metadata[into->num_metadata++] = (checkpoint_metadata){key, value};
    return CTOK_OK;
}
