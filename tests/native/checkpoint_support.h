// What the tests of checkpoint readers share: TAP lines, files of this run, what is expected of
// opening them, and zip archives and pickles made byte by byte. Included once by each test program.
#ifndef CTOK_TEST_CHECKPOINT_SUPPORT_H
#define CTOK_TEST_CHECKPOINT_SUPPORT_H

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../csrc/checkpoint/checkpoint.h"
#include "tap.h"

#pragma GCC diagnostic ignored "-Wunused-function"  // a program may do without some of these

static char folder[64];  // this run's own, under /tmp

static void stop(const char *what) {
    printf("Bail out! %s: %s\n", what, strerror(errno));
    exit(2);
}

/* ---------------------------------------------------------------- bytes */
typedef struct {
    uint8_t *bytes;
    size_t n;
} buffer;

static void put(buffer *b, const void *bytes, size_t n) {
    b->bytes = realloc(b->bytes, b->n + n + 1);
    if (!b->bytes) stop("realloc");
    if (n > 0) memcpy(b->bytes + b->n, bytes, n);
    b->n += n;
}
static void put_integer(buffer *b, uint64_t value, size_t n) { put(b, &value, n); }
static void put_zeros(buffer *b, size_t n) { put(b, (uint8_t[16]){0}, n); }
static void put_text(buffer *b, const char *text) { put(b, text, strlen(text)); }
static void release(buffer *b) {
    free(b->bytes);
    *b = (buffer){0};
}

static const char *path_of(const char *name) {
    static char paths[4][512];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

static void save(const char *name, const void *bytes, size_t n) {
    FILE *file = fopen(path_of(name), "wb");
    if (!file || fwrite(bytes, 1, n, file) != n || fclose(file) != 0) stop(name);
}

static void clear_folder(void) {
    DIR *listing = opendir(folder);
    if (!listing) stop(folder);
    for (struct dirent *entry; (entry = readdir(listing));)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            remove(path_of(entry->d_name));
    closedir(listing);
}

static int count_files(void) {
    int n = 0;
    DIR *listing = opendir(folder);
    if (!listing) stop(folder);
    for (struct dirent *entry; (entry = readdir(listing));)
        n += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    closedir(listing);
    return n;
}

/* ---------------------------------------------------------------- expectations */
static checkpoint *expect_open(const char *path, const char *what) {
    checkpoint *c = NULL;
    ctok_error error = {0};
    ctok_status status = checkpoint_open(&c, path, NULL, &error);
    report(status == CTOK_OK, "%s%s%s", what, status == CTOK_OK ? "" : ": ",
           status == CTOK_OK ? "" : error.message);
    return c;
}

static void expect_failure(const char *path, ctok_status wanted, const char *part,
                           const char *what) {
    checkpoint *c = NULL;
    ctok_error error = {0};
    ctok_status status = checkpoint_open(&c, path, NULL, &error);
    bool is_ok = status == wanted && error.status == wanted && strstr(error.message, part) && !c;
    report(is_ok, "%s", what);
    if (!is_ok)
        printf("# expected status %d and \"%s\", found %d and \"%s\"\n", wanted, part, status,
               error.message);
    checkpoint_close(c);
}

static void expect_bytes(const buffer *b, const char *name, const char *part, const char *what) {
    save(name, b->bytes, b->n);
    expect_failure(path_of(name), CTOK_E_FILE_FORMAT, part, what);
    remove(path_of(name));
}

// Reads every value, so that a wrong place in the file shows under a sanitizer.
static void read_all(const checkpoint *c) {
    for (int32_t i = 0; i < c->num_tensors; i++) {
        const checkpoint_tensor *t = &c->tensors[i];
        void *values = malloc((size_t)checkpoint_elements(t) * 8 + 1);
        if (!values) stop("malloc");
        if (dtype_is_float(t->dtype)) checkpoint_read_f32(t, values);
        else checkpoint_read_i64(t, values);
        free(values);
    }
}

// Opens what may be damaged: it must end well or with an error that says something.
static bool open_any(const char *path, bool *is_open) {
    checkpoint *c = NULL;
    ctok_error error = {0};
    ctok_status status = checkpoint_open(&c, path, NULL, &error);
    *is_open = status == CTOK_OK;
    if (*is_open) read_all(c);
    checkpoint_close(c);
    return *is_open || (status == CTOK_E_FILE_FORMAT && strlen(error.message) > strlen(path) + 3);
}

// Every shorter length must fail; every changed byte must end well or fail cleanly.
static void expect_robust(const buffer *b, const char *name, const char *what) {
    bool are_all_refused = true, are_all_clean = true, is_open;
    const char *path = path_of(name);
    for (size_t n = 0; n < b->n; n++) {
        save(name, b->bytes, n);
        are_all_clean &= open_any(path, &is_open);
        are_all_refused &= !is_open;
    }
    report(are_all_refused && are_all_clean, "%s: cut at each of %zu bytes, refused", what, b->n);
    are_all_clean = true;
    static const uint8_t changes[] = {0x01, 0x20, 0x80, 0xFF};
    for (size_t i = 0; i < b->n * sizeof changes; i++) {
        b->bytes[i / sizeof changes] ^= changes[i % sizeof changes];
        save(name, b->bytes, b->n);
        are_all_clean &= open_any(path, &is_open);
        b->bytes[i / sizeof changes] ^= changes[i % sizeof changes];
    }
    report(are_all_clean, "%s: each byte changed in %zu ways, no crash", what, sizeof changes);
    remove(path);
}

/* ---------------------------------------------------------------- zip */
typedef struct {
    const char *name;
    const void *bytes;
    size_t n;
    int method, extra_bytes;  // of the local header
} record;

enum { ZIP_PLAIN = 0, ZIP_64 = 1, ZIP_COMMENT = 2 };

static buffer zip_bytes(const record *records, size_t count, int form) {
    buffer b = {0}, directory = {0};
    const uint32_t all_ones = UINT32_MAX;
    for (size_t i = 0; i < count; i++) {
        const record *r = &records[i];
        uint64_t at = b.n, is_64 = form & ZIP_64;
        put_integer(&b, 0x04034b50, 4);
        put_zeros(&b, 4);
        put_integer(&b, (uint64_t)r->method, 2);
        put_zeros(&b, 8);
        put_integer(&b, r->n, 4);
        put_integer(&b, r->n, 4);
        put_integer(&b, strlen(r->name), 2);
        put_integer(&b, (uint64_t)r->extra_bytes, 2);
        put_text(&b, r->name);
        for (int k = 0; k < r->extra_bytes; k++) put_integer(&b, 'Z', 1);
        put(&b, r->bytes, r->n);
        put_integer(&directory, 0x02014b50, 4);
        put_zeros(&directory, 6);
        put_integer(&directory, (uint64_t)r->method, 2);
        put_zeros(&directory, 8);
        put_integer(&directory, is_64 ? all_ones : r->n, 4);
        put_integer(&directory, is_64 ? all_ones : r->n, 4);
        put_integer(&directory, strlen(r->name), 2);
        put_integer(&directory, is_64 ? 5 + 28 : 0, 2);
        put_zeros(&directory, 10);
        put_integer(&directory, is_64 ? all_ones : at, 4);
        put_text(&directory, r->name);
        if (!is_64) continue;
        put(&directory, "\x42\x46\x01\x00Z", 5);  // another field comes first
        put_integer(&directory, 1, 2);
        put_integer(&directory, 24, 2);
        put_integer(&directory, r->n, 8);
        put_integer(&directory, r->n, 8);
        put_integer(&directory, at, 8);
    }
    uint64_t at = b.n, end64 = at + directory.n;
    put(&b, directory.bytes, directory.n);
    if (form & ZIP_64) {
        put_integer(&b, 0x06064b50, 4);
        put_integer(&b, 44, 8);
        put_zeros(&b, 12);
        put_integer(&b, count, 8);
        put_integer(&b, count, 8);
        put_integer(&b, directory.n, 8);
        put_integer(&b, at, 8);
        put_integer(&b, 0x07064b50, 4);
        put_zeros(&b, 4);
        put_integer(&b, end64, 8);
        put_integer(&b, 1, 4);
    }
    bool is_64 = form & ZIP_64;
    put_integer(&b, 0x06054b50, 4);
    put_zeros(&b, 4);
    put_integer(&b, is_64 ? UINT16_MAX : count, 2);
    put_integer(&b, is_64 ? UINT16_MAX : count, 2);
    put_integer(&b, is_64 ? all_ones : directory.n, 4);
    put_integer(&b, is_64 ? all_ones : at, 4);
    put_integer(&b, form & ZIP_COMMENT ? 30 : 0, 2);
    if (form & ZIP_COMMENT) put(&b, "PK\x05\x06 is not the end of this one", 30);
    release(&directory);
    return b;
}

/* ---------------------------------------------------------------- pickle */
static void pickle_string(buffer *b, const char *text) {
    put_text(b, "X");
    put_integer(b, strlen(text), 4);
    put_text(b, text);
}

static void pickle_int(buffer *b, int64_t value) {
    put(b, "\x8A\x08", 2);
    put(b, &value, 8);
}

static void pickle_ints(buffer *b, const int64_t *values, int n) {
    put_text(b, "(");
    for (int i = 0; i < n; i++) pickle_int(b, values[i]);
    put_text(b, "t");
}

static void pickle_tensor(buffer *b, const char *type, const char *key, int64_t num_stored,
                          int64_t offset, int rank, const int64_t *shape, const int64_t *stride) {
    put_text(b, "ctorch._utils\n_rebuild_tensor_v2\n((");
    pickle_string(b, "storage");
    put_text(b, "ctorch\n");
    put_text(b, type);
    put_text(b, "\n");
    pickle_string(b, key);
    pickle_string(b, "cuda:0");
    pickle_int(b, num_stored);
    put_text(b, "tQ");
    pickle_int(b, offset);
    pickle_ints(b, shape, rank);
    pickle_ints(b, stride, rank);
    put_text(b,
             "\x89"
             "ccollections\nOrderedDict\n)RtR");
}

static const int64_t shape_23[] = {2, 3}, stride_31[] = {3, 1}, shape_2[] = {2}, stride_1[] = {1};
static const float six[] = {0, 1, 2, 3, 4, 5};

#endif
