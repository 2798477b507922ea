// See digest.h. Each tensor is a task of the backend's threads, which read it in pieces that stay
// in the first cache levels and hash them there.
#include "digest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    STAGE_BYTES = 16 << 20
};  // a few large tensors, or one: enough for the threads, little beside the weights

ctok_status digest_start(digest *d, const checkpoint *c, bool (*is_buffer)(const char *tensor),
                         bool is_wanted, ctok_error *error) {
    size_t count = (size_t)c->num_tensors + 1;
    *d = (digest){.checkpoint = c,
                  .is_buffer = is_buffer,
                  .is_wanted = is_wanted,
                  .hashes = malloc(count * sizeof *d->hashes),
                  .is_known = calloc(count, sizeof *d->is_known)};
    return d->hashes && d->is_known ? CTOK_OK
                                    : ctok_fail(error, CTOK_E_MEMORY, c->num_tensors,
                                                "no memory for %d hashes", c->num_tensors);
}

void digest_free(digest *d) {
    free(d->hashes);
    free(d->is_known);
    free(d->stage);
}

// ---------------------------------------------------------------- one tensor
typedef struct {
    sha256 hash;
    bool is_hashed;
    uint8_t *out;  // or NULL
    const checkpoint *checkpoint;
} sink;

static bool take(void *context, const uint8_t *bytes, size_t num_bytes) {
    sink *s = context;
    if (s->out) {
        memcpy(s->out, bytes, num_bytes);
        s->out += num_bytes;
    }
    enum { STEP_BYTES = 1 << 20 };  // a strided tensor comes as one piece
    for (size_t at = 0; s->is_hashed && at < num_bytes && !checkpoint_is_cancelled(s->checkpoint);
         at += STEP_BYTES)
        sha256_add(&s->hash, bytes + at, num_bytes - at < STEP_BYTES ? num_bytes - at : STEP_BYTES);
    return !checkpoint_is_cancelled(s->checkpoint);
}

static size_t bytes_of(const checkpoint_tensor *t) {
    return (size_t)checkpoint_elements(t) * dtype_bytes(t->dtype);
}

typedef struct {
    digest *digest;
    const checkpoint_tensor *const *tensors;
    checkpoint_tensor *in_memory;  // or NULL: hashed alone
    _Atomic(const checkpoint_tensor *) failed;
} read_call;

static void read_one(void *context, int64_t task, int32_t thread) {
    (void)thread;
    read_call *call = context;
    digest *d = call->digest;
    const checkpoint_tensor *t = call->tensors[task];
    int64_t number = t - d->checkpoint->tensors;
    sink s = {.is_hashed = d->is_wanted,
              .out = call->in_memory ? (uint8_t *)call->in_memory[task].data : NULL,
              .checkpoint = d->checkpoint};
    if (checkpoint_is_cancelled(d->checkpoint)) return;
    sha256_start(&s.hash, sha256_best());
    if (!checkpoint_pieces(t, take, &s)) {
        atomic_store(&call->failed, t);
    } else if (d->is_wanted) {
        sha256_end(&s.hash, d->hashes[number]);
        d->is_known[number] = true;
    }
}

static ctok_status read_all(read_call *call, backend *b, int32_t count, ctok_error *error) {
    b->for_all(b, count, read_one, call);
    CTOK_TRY(checkpoint_check_cancel(call->digest->checkpoint, error));
    const checkpoint_tensor *failed = atomic_load(&call->failed);
    return failed ? checkpoint_fail_read(failed, error) : CTOK_OK;
}

// ---------------------------------------------------------------- a stage of them
static ctok_status reserve(digest *d, size_t num_bytes, ctok_error *error) {
    if (num_bytes <= d->stage_bytes) return CTOK_OK;
    if (num_bytes < STAGE_BYTES)
        num_bytes = STAGE_BYTES;  // at once: what is not touched takes no memory
    free(d->stage);
    d->stage = malloc(num_bytes);
    d->stage_bytes = d->stage ? num_bytes : 0;
    return d->stage ? CTOK_OK
                    : ctok_fail(error, CTOK_E_MEMORY, (int64_t)num_bytes,
                                "no memory to read %zu bytes of weights", num_bytes);
}

ctok_status digest_read(digest *d, backend *b, checkpoint_tensor *in_memory, int32_t *num_read,
                        const checkpoint_tensor *const *tensors, int32_t num_tensors,
                        ctok_error *error) {
    size_t num_bytes = 0;
    int32_t count = 0;
    while (count < num_tensors &&
           (count == 0 || num_bytes + backend_align(bytes_of(tensors[count])) <= STAGE_BYTES))
        num_bytes += backend_align(bytes_of(tensors[count++]));
    CTOK_TRY(reserve(d, num_bytes, error));
    uint8_t *at = d->stage;
    for (int32_t i = 0; i < count; i++) {
        checkpoint_tensor *t = &in_memory[i];
        *t = *tensors[i];
        t->data = at;
        t->descriptor = 0;
        int64_t stride = 1;
        for (int32_t k = t->rank - 1; k >= 0; stride *= t->shape[k--]) t->stride[k] = stride;
        at += backend_align(bytes_of(t));
    }
    read_call call = {.digest = d, .tensors = tensors, .in_memory = in_memory};
    *num_read = count;
    return read_all(&call, b, count, error);
}

// ---------------------------------------------------------------- all of them
static void add_line(sha256 *whole, const checkpoint_tensor *t, const uint8_t hash[SHA256_BYTES]) {
    char hex[DIGEST_TEXT_BYTES], text[32];
    sha256_hex(hex, hash);
    sha256_add(whole, t->name, strlen(t->name));
    snprintf(text, sizeof text, " %s ", checkpoint_dtype_name(t->dtype));
    sha256_add(whole, text, strlen(text));
    for (int32_t i = 0; i < t->rank; i++) {
        snprintf(text, sizeof text, "%s%lld", i ? "," : "", (long long)t->shape[i]);
        sha256_add(whole, text, strlen(text));
    }
    sha256_add(whole, " ", 1);
    sha256_add(whole, hex, strlen(hex));
    sha256_add(whole, "\n", 1);
}

ctok_status digest_end(digest *d, backend *b, char out[DIGEST_TEXT_BYTES], ctok_error *error) {
    const checkpoint *c = d->checkpoint;
    const checkpoint_tensor **left = malloc(((size_t)c->num_tensors + 1) * sizeof *left);
    if (!left)
        return ctok_fail(error, CTOK_E_MEMORY, c->num_tensors, "no memory for %d names",
                         c->num_tensors);
    int32_t count = 0;
    for (int32_t i = 0; i < c->num_tensors; i++)
        if (!d->is_known[i] && !d->is_buffer(c->tensors[i].name)) left[count++] = &c->tensors[i];
    read_call call = {.digest = d, .tensors = left};
    ctok_status status = read_all(&call, b, count, error);
    free(left);
    if (status != CTOK_OK) return status;

    sha256 whole;
    uint8_t hash[SHA256_BYTES];
    sha256_start(&whole, sha256_best());
    for (int32_t i = 0; i < c->num_tensors; i++)  // sorted by name
        if (!d->is_buffer(c->tensors[i].name)) add_line(&whole, &c->tensors[i], d->hashes[i]);
    sha256_end(&whole, hash);
    sha256_hex(out, hash);
    return CTOK_OK;
}
