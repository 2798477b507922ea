// values_read_as_in_memory: a tensor of any type, shape and strides that its storage holds gives
// the same bytes out of a file, whole and in pieces, as out of memory, and reading it costs no less
// than its own bytes. The input is a type, a rank, an offset, and that many sizes and strides of
// two bytes each.
#include <sys/mman.h>
#include <unistd.h>

#include "fuzz.h"

enum { STORAGE_BYTES = 300 << 10, MOST_ELEMENTS = 1 << 16 };

typedef struct {
    uint8_t *bytes;
    size_t n, capacity;
} buffer;

static bool append(void *context, const uint8_t *bytes, size_t num_bytes) {
    buffer *b = context;
    PROPERTY(num_bytes <= b->capacity - b->n);
    memcpy(b->bytes + b->n, bytes, num_bytes);
    b->n += num_bytes;
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t num_bytes) {
    static uint8_t storage[STORAGE_BYTES];
    static int file;
    if (num_bytes < 4 + 4 * CHECKPOINT_MAX_RANK) return 0;
    if (!file) {
        for (uint32_t i = 0; i < STORAGE_BYTES; i++)
            storage[i] = (uint8_t)((i * 2654435761u) >> 24);
        file = memfd_create("storage", 0);
        PROPERTY(pwrite(file, storage, STORAGE_BYTES, 0) == STORAGE_BYTES);
    }
    checkpoint_tensor t = {.name = "t",
                           .dtype = CTOK_U8 + bytes[0] % 11,
                           .rank = bytes[1] % (CHECKPOINT_MAX_RANK + 1)};
    int64_t last = load_u16(bytes + 2) % 64, count = 1,
            element_bytes = (int64_t)dtype_bytes(t.dtype);
    t.offset = (uint64_t)(last * element_bytes);
    for (int i = 0; i < t.rank; i++) {
        t.shape[i] = load_u16(bytes + 4 + 4 * i) % 300, t.stride[i] = load_u16(bytes + 6 + 4 * i);
        if (t.shape[i] > 0) last += (t.shape[i] - 1) * t.stride[i];
        count *= t.shape[i];
        if (count > MOST_ELEMENTS) return 0;
    }
    if ((last + 1) * element_bytes > STORAGE_BYTES) return 0;

    size_t wanted_bytes = (size_t)(count * element_bytes);
    uint8_t *wanted = malloc(wanted_bytes + 1), *found = malloc(wanted_bytes + 1);
    PROPERTY(wanted && found);
    t.data = storage + t.offset;
    PROPERTY(checkpoint_copy(&t, wanted));
    t.descriptor = file;
    PROPERTY(checkpoint_copy(&t, found) && memcmp(wanted, found, wanted_bytes) == 0);
    buffer pieces = {found, 0, wanted_bytes};
    memset(found, 0, wanted_bytes);
    PROPERTY(checkpoint_pieces(&t, append, &pieces) && pieces.n == wanted_bytes &&
             memcmp(wanted, found, wanted_bytes) == 0);
    PROPERTY(checkpoint_read_cost(&t) >= wanted_bytes &&
             checkpoint_read_memory(&t) <= STORAGE_BYTES + wanted_bytes);
    free(wanted);
    free(found);
    return 0;
}
