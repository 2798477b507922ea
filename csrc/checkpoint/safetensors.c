// Reads the safetensors form: u64 header length, JSON header, data. Strict: every byte of the data
// belongs to exactly one tensor, and the JSON is only what the form needs (no numbers but counts,
// no other nesting). What it leaves out: F8, F6, F4, complex and U32/U64 types.
// Ref: https://github.com/huggingface/safetensors, README "Format". Called by open.c.
#include <stdlib.h>

#include "reader.h"
#include "safetensors.h"

enum {
    MAX_HEADER_BYTES = 32 << 20
};  // a third of what the form allows, and 500 bytes for each of CHECKPOINT_MAX_ENTRIES

/* ---------------------------------------------------------------- JSON */
typedef struct {
    const char *bytes;
    size_t num_bytes, at;
    checkpoint *into;
    const uint8_t *data;  // what follows the header
    uint64_t data_bytes;
    int descriptor;
    ctok_error *error;
} json;

#define FAIL(j, ...) ctok_fail((j)->error, CTOK_E_FILE_FORMAT, (int64_t)(j)->at + 8, __VA_ARGS__)

static ctok_status fail_expected(json *j, const char *expected) {
    if (j->at >= j->num_bytes)
        return FAIL(j, "safetensors header: expected %s, found its end", expected);
    text left = {j->bytes + j->at, j->num_bytes - j->at};
    if (left.num_bytes > 16) left.num_bytes = 16;
    return FAIL(j, "safetensors header, byte %zu: expected %s, found %s", j->at, expected,
                text_shown(left).s);
}

static void skip_space(json *j) {
    while (j->at < j->num_bytes && j->bytes[j->at] != 0 && strchr(" \t\r\n", j->bytes[j->at]))
        j->at++;
}

static bool accept(json *j, char wanted) {
    skip_space(j);
    if (j->at >= j->num_bytes || j->bytes[j->at] != wanted) return false;
    j->at++;
    return true;
}

static bool read_hex4(json *j, uint32_t *unit) {
    if (j->num_bytes - j->at < 4) return false;
    *unit = 0;
    for (int i = 0; i < 4; i++) {
        char c = j->bytes[j->at++];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0) return false;
        *unit = *unit << 4 | (uint32_t)digit;
    }
    return true;
}

// What follows "\u"; a pair of surrogates is one character. 0, alone or not, is refused: names end
// with NUL.
static bool read_unicode_escape(json *j, char **out) {
    uint32_t c, low;
    if (!read_hex4(j, &c) || c == 0 || (c >= 0xDC00 && c < 0xE000)) return false;
    if (c >= 0xD800 && c < 0xDC00) {
        if (j->num_bytes - j->at < 2 || memcmp(j->bytes + j->at, "\\u", 2) != 0) return false;
        j->at += 2;
        if (!read_hex4(j, &low) || low < 0xDC00 || low >= 0xE000) return false;
        c = 0x10000 + ((c - 0xD800) << 10) + (low - 0xDC00);
    }
    char *p = *out;
    if (c < 0x80) *p++ = (char)c;
    else if (c < 0x800) *p++ = (char)(0xC0 | c >> 6);
    else if (c < 0x10000) *p++ = (char)(0xE0 | c >> 12);
    else *p++ = (char)(0xF0 | c >> 18);
    if (c >= 0x10000) *p++ = (char)(0x80 | (c >> 12 & 63));
    if (c >= 0x800) *p++ = (char)(0x80 | (c >> 6 & 63));
    if (c >= 0x80) *p++ = (char)(0x80 | (c & 63));
    *out = p;
    return true;
}

static ctok_status read_string(json *j, const char **out) {
    if (!accept(j, '"')) return fail_expected(j, "a string");
    size_t length = 0;  // of the text as written, which is never shorter than what it says
    while (j->at + length < j->num_bytes && j->bytes[j->at + length] != '"')
        length += j->bytes[j->at + length] == '\\' ? 2 : 1;
    if (j->at + length >= j->num_bytes) return fail_expected(j, "a string that ends");
    char *start = arena_take(&j->into->strings, length + 1), *p = start;
    if (!start)
        return ctok_fail(j->error, CTOK_E_MEMORY, (int64_t)length,
                         "no memory for a name of the header");
    static const char escapes[] = "\"\"\\\\//b\bf\fn\nr\rt\t";
    for (size_t end = j->at + length; j->at < end;) {
        char c = j->bytes[j->at];
        if (c == '\\') {
            char escape = j->bytes[j->at + 1];
            j->at += 2;
            size_t k = 0;
            while (k < sizeof escapes - 1 && escapes[k] != escape) k += 2;
            if (k < sizeof escapes - 1) *p++ = escapes[k + 1];
            else if (escape != 'u' || !read_unicode_escape(j, &p))
                return fail_expected(j, "a known escape");
            continue;
        }
        size_t n = text_character((text){j->bytes + j->at, end - j->at});
        if (n == 0 || (unsigned char)c < 0x20)
            return fail_expected(j, "UTF-8 without control characters");
        memcpy(p, j->bytes + j->at, n);
        p += n;
        j->at += n;
    }
    j->at++;
    *out = start;
    return CTOK_OK;
}

// Reads a JSON object, {"key": value, ...}; `member` reads each value.
static ctok_status read_object(json *j,
                               ctok_status (*member)(json *, const char *key, void *context),
                               void *context) {
    if (!accept(j, '{')) return fail_expected(j, "{");
    if (accept(j, '}')) return CTOK_OK;
    do {
        const char *key = NULL;
        CTOK_TRY(read_string(j, &key));
        if (!accept(j, ':')) return fail_expected(j, ":");
        CTOK_TRY(member(j, key, context));
    } while (accept(j, ','));
    return accept(j, '}') ? CTOK_OK : fail_expected(j, ", or }");
}

// [0, 1, ...], at most `capacity`; the values in `out`, how many in *count.
static ctok_status read_counts(json *j, int64_t *out, int32_t capacity, int32_t *count) {
    *count = 0;
    if (!accept(j, '[')) return fail_expected(j, "[");
    if (accept(j, ']')) return CTOK_OK;
    do {
        int64_t value = 0;
        if (*count == capacity)
            return FAIL(j, "safetensors header, byte %zu: more than %d numbers", j->at, capacity);
        skip_space(j);
        size_t start = j->at;
        for (; j->at < j->num_bytes && j->bytes[j->at] >= '0' && j->bytes[j->at] <= '9'; j->at++)
            if (__builtin_mul_overflow(value, 10, &value) ||
                __builtin_add_overflow(value, j->bytes[j->at] - '0', &value))
                return fail_expected(j, "a number below 2^63");
        if (j->at == start || (j->bytes[start] == '0' && j->at > start + 1))
            return fail_expected(j, "a whole number, 0 or more");
        out[(*count)++] = value;
    } while (accept(j, ','));
    return accept(j, ']') ? CTOK_OK : fail_expected(j, ", or ]");
}

/* ---------------------------------------------------------------- the header */
typedef struct {
    checkpoint_tensor tensor;
    int64_t offsets[2];
    int32_t num_offsets;
    bool has_dtype, has_shape, has_offsets;
} entry;

static ctok_status read_dtype(json *j, entry *e) {
    const char *name = NULL;
    CTOK_TRY(read_string(j, &name));
    for (int i = 0; i < NUM_DTYPES; i++)
        if (strcmp(name, safetensors_dtypes[i].name) == 0)
            e->tensor.dtype = safetensors_dtypes[i].dtype;
    if (e->tensor.dtype != 0) return CTOK_OK;
    return FAIL(j,
                "tensor %s: dtype %s is not supported (BOOL, U8, I8, U16, I16, I32, I64, F16, "
                "BF16, F32 and F64 are)",
                string_shown(e->tensor.name).s, string_shown(name).s);
}

static ctok_status read_entry_member(json *j, const char *key, void *context) {
    entry *e = context;
    bool *seen = strcmp(key, "dtype") == 0   ? &e->has_dtype
                 : strcmp(key, "shape") == 0 ? &e->has_shape
                                             : NULL;
    if (strcmp(key, "data_offsets") == 0) seen = &e->has_offsets;
    if (!seen || *seen)
        return FAIL(j, "tensor %s: %s key %s, expected dtype, shape and data_offsets",
                    string_shown(e->tensor.name).s, seen ? "a second" : "an unknown",
                    string_shown(key).s);
    *seen = true;
    if (seen == &e->has_dtype) return read_dtype(j, e);
    if (seen == &e->has_shape)
        return read_counts(j, e->tensor.shape, CHECKPOINT_MAX_RANK, &e->tensor.rank);
    return read_counts(j, e->offsets, 2, &e->num_offsets);
}

static ctok_status read_metadata_member(json *j, const char *key, void *context) {
    (void)context;
    const char *value = NULL;
    CTOK_TRY(read_string(j, &value));
    return checkpoint_add_metadata(j->into, key, value, j->error);
}

static ctok_status read_header_member(json *j, const char *key, void *context) {
    if (strcmp(key, "__metadata__") == 0) {
        bool *has_metadata = context;
        if (*has_metadata) return FAIL(j, "safetensors header: a second __metadata__");
        *has_metadata = true;
        return read_object(j, read_metadata_member, NULL);
    }
    entry e = {.tensor.name = key};
    CTOK_TRY(read_object(j, read_entry_member, &e));
    checkpoint_tensor *t = &e.tensor;
    shown name = string_shown(key);
    if (!e.has_dtype || !e.has_shape || e.num_offsets != 2)
        return FAIL(j, "tensor %s: expected dtype, shape and two data_offsets", name.s);
    if (e.offsets[0] > e.offsets[1] || (uint64_t)e.offsets[1] > j->data_bytes)
        return FAIL(j,
                    "tensor %s: data_offsets %lld to %lld, expected them in order and at most %llu",
                    name.s, (long long)e.offsets[0], (long long)e.offsets[1],
                    (unsigned long long)j->data_bytes);
    int64_t num_elements, num_bytes = e.offsets[1] - e.offsets[0],
                          element_bytes = (int64_t)dtype_bytes(t->dtype);
    if (!tensor_count(&num_elements, t) || num_elements * element_bytes != num_bytes)
        return FAIL(j, "tensor %s: shape and dtype do not make the %lld bytes of its data_offsets",
                    name.s, (long long)num_bytes);
    int64_t stride = 1;
    for (int32_t i = t->rank - 1; i >= 0; i--) {
        t->stride[i] = stride;
        stride *= t->shape[i] > 0 && num_elements > 0 ? t->shape[i] : 1;
    }
    t->data = j->data + e.offsets[0];
    t->descriptor = j->descriptor;
    t->offset = 8 + j->num_bytes + (uint64_t)e.offsets[0];
    return checkpoint_add_tensor(j->into, t, j->error);
}

static int compare_places(const void *a, const void *b) {
    const checkpoint_tensor *x = a, *y = b;
    if (x->data != y->data) return x->data < y->data ? -1 : 1;
    return (tensor_bytes(x) > tensor_bytes(y)) - (tensor_bytes(x) < tensor_bytes(y));
}

// Checks that the tensors from number `first` on cover the file's data without gap or overlap.
// Leaves them in the order of their data; open.c sorts them by name.
static ctok_status check_coverage(const json *j, int32_t first) {
    int32_t num_tensors = j->into->num_tensors - first;
    checkpoint_tensor *tensors = num_tensors > 0 ? j->into->tensors + first : NULL;  // there may be
                                                                                     // none at all
    const uint8_t *expected = j->data;
    if (num_tensors > 0) qsort(tensors, (size_t)num_tensors, sizeof *tensors, compare_places);
    for (int32_t i = 0; i < num_tensors; i++) {
        const checkpoint_tensor *t = &tensors[i];
        if (t->data < expected)
            return FAIL(j, "tensors %s and %s overlap", string_shown(tensors[i - 1].name).s,
                        string_shown(t->name).s);
        if (t->data > expected)
            return FAIL(j, "a hole of %lld bytes before tensor %s", (long long)(t->data - expected),
                        string_shown(t->name).s);
        expected = t->data + tensor_bytes(t);
    }
    long long num_left = j->data + j->data_bytes - expected;
    return num_left == 0 ? CTOK_OK
                         : FAIL(j, "%lld bytes after the last tensor belong to none", num_left);
}

ctok_status safetensors_read(checkpoint *into, checkpoint_map map, ctok_error *error) {
    json j = {.into = into, .descriptor = map.descriptor, .error = error};
    if (map.num_bytes < 8) return FAIL(&j, "expected at least 8 bytes, found %zu", map.num_bytes);
    uint64_t header_bytes = load_u64(map.bytes), left = map.num_bytes - 8;
    if (header_bytes > MAX_HEADER_BYTES || header_bytes > left)
        return FAIL(
            &j,
            "a safetensors header of %llu bytes: expected at most %d, and the file has %llu more",
            (unsigned long long)header_bytes, MAX_HEADER_BYTES, (unsigned long long)left);
    CTOK_TRY(map_fetch(map, 8, header_bytes, error));
    j.bytes = (const char *)map.bytes + 8;
    j.num_bytes = header_bytes;
    j.data = map.bytes + 8 + header_bytes;
    j.data_bytes = left - header_bytes;
    int32_t first = into->num_tensors;
    bool has_metadata = false;
    CTOK_TRY(read_object(&j, read_header_member, &has_metadata));
    skip_space(&j);
    if (j.at != j.num_bytes) return fail_expected(&j, "nothing but space");
    return check_coverage(&j, first);
}
