// pickle_tensors_lie_inside: any pickle as the data.pkl of an otherwise good archive is refused, or
// gives tensors whose every element can be read. The archive is made here, so that the fuzzer
// changes opcodes and not checksums: the input is the pickle, and beside it stand storages data/0
// .. data/3 of 64 bytes.
#include "fuzz.h"

typedef struct {
    uint8_t *bytes;
    size_t n;
} buffer;

static void put(buffer *b, const void *bytes, size_t n) {
    if (n > 0) memcpy(b->bytes + b->n, bytes, n);
    b->n += n;
}
static void put_integer(buffer *b, uint64_t value, size_t n) { put(b, &value, n); }

// Ref: APPNOTE.TXT 4.3.7 and 4.3.12. version, flags, method, time, checksum: zeros, as no reader of
// ours looks.
static void put_header(buffer *b, bool is_central, const char *name, size_t num_bytes,
                       size_t offset) {
    put_integer(b, is_central ? 0x02014b50 : 0x04034b50, 4);
    for (int i = 0; i < (is_central ? 8 : 7); i++) put_integer(b, 0, 2);
    put_integer(b, num_bytes, 4);
    put_integer(b, num_bytes, 4);
    put_integer(b, strlen(name), 2);
    put_integer(b, 0, 2);
    if (is_central) put_integer(b, 0, 8), put_integer(b, 0, 2), put_integer(b, offset, 4);
    put(b, name, strlen(name));
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t num_bytes) {
    static const char *const names[] = {"m/data.pkl", "m/data/0", "m/data/1", "m/data/2",
                                        "m/data/3"};
    static const char *const of_archives[] = {"a zip", "zip", "record m/"};
    enum { NUM_RECORDS = sizeof names / sizeof *names };
    buffer b = {malloc(num_bytes + 4096), 0};
    PROPERTY(b.bytes);
    size_t offsets[NUM_RECORDS], sizes[NUM_RECORDS];
    for (int i = 0; i < NUM_RECORDS; i++) {
        offsets[i] = b.n, sizes[i] = i ? 64 : num_bytes;
        put_header(&b, false, names[i], sizes[i], 0);
        put(&b, i ? (const uint8_t[64]){1, 2, 3} : bytes, sizes[i]);
    }
    size_t directory = b.n;
    for (int i = 0; i < NUM_RECORDS; i++) put_header(&b, true, names[i], sizes[i], offsets[i]);
    put_integer(&b, 0x06054b50, 4), put_integer(&b, 0, 4), put_integer(&b, NUM_RECORDS, 2),
        put_integer(&b, NUM_RECORDS, 2);
    put_integer(&b, b.n - 12 - directory, 4), put_integer(&b, directory, 4), put_integer(&b, 0, 2);

    uint8_t *exact = malloc(b.n);  // so that one byte too far is one outside
    PROPERTY(exact);
    memcpy(exact, b.bytes, b.n);
    ctok_error error = {.struct_size = sizeof error};
    checkpoint *c = calloc(1, sizeof *c);
    PROPERTY(c);
    ctok_status status = torch_read(c, (checkpoint_map){.bytes = exact, .num_bytes = b.n}, &error);
    if (status != CTOK_OK) expect_file_error(status, &error);
    else read_all(c);
    // The archive made here is good: were it not, no pickle would be read. A message that begins so
    // all the same begins with a name of the input's.
    for (size_t i = 0; i < sizeof of_archives / sizeof *of_archives; i++) {
        size_t length = strlen(of_archives[i]);
        PROPERTY(strncmp(error.message, of_archives[i], length) != 0 ||
                 memmem(bytes, num_bytes, of_archives[i], length));
    }
    checkpoint_close(c);
    free(exact);
    free(b.bytes);
    return 0;
}
