// Packs the layers of a half one by one into one block, each part at 64 bytes, and finds blocks
// that were packed before:
//     | packed conv 0 | bias 0 | scale 1 | offset 1 | packed conv 2 | ...
#include "weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../network/quantizer.h"

enum {
    TASK_ELEMENTS = 32 << 10  // that a thread reads at once: they stay in its second-level cache
                              // while they are looked through
};

// ---------------------------------------------------------------- the list
void weights_list_init(weights_list *list, backend *b) {
    list->backend = b;
    list->first = NULL;
    pthread_mutex_init(&list->lock, NULL);
}

void weights_list_destroy(weights_list *list) { pthread_mutex_destroy(&list->lock); }

static void destroy(weights *w) {
    if (w->block) w->list->backend->free(w->list->backend, w->block, w->num_bytes);
    free(w->described);
    free(w->layers);
    free(w);
}

// The count and the list change together under the lock, so a block that is found there is never
// one that is being freed.
void weights_release(weights *w) {
    if (!w) return;
    weights_list *list = w->list;
    pthread_mutex_lock(&list->lock);
    bool is_last = --w->num_models == 0;
    weights **link = &list->first;
    while (is_last && *link && *link != w) link = &(*link)->next;
    if (is_last && *link) *link = w->next;
    pthread_mutex_unlock(&list->lock);
    if (is_last) destroy(w);
}

bool weights_are_held(weights_list *list) {
    pthread_mutex_lock(&list->lock);
    bool are_held = list->first != NULL;
    pthread_mutex_unlock(&list->lock);
    return are_held;
}

// What the packing of weights depends on, beside the channels.
static bool is_same_conv(const conv_params *a, const conv_params *b) {
    return a->kernel_t == b->kernel_t && a->kernel == b->kernel && a->stride_t == b->stride_t &&
           a->stride == b->stride && a->upsample_t == b->upsample_t && a->upsample == b->upsample &&
           a->in_dtype == b->in_dtype && a->out_dtype == b->out_dtype;
}

static bool is_same_layer(const graph_layer *a, const graph_layer *b) {
    return a->kind == b->kind && a->c_out == b->c_out && a->c_in == b->c_in &&
           is_same_conv(&a->conv, &b->conv) && a->has_bias == b->has_bias &&
           a->is_video == b->is_video && a->is_unused == b->is_unused &&
           strcmp(a->name, b->name) == 0;
}

static bool is_of_files(const weights *w, const checkpoint *c) {
    return w->num_files == c->num_maps &&
           memcmp(w->files, c->files, (size_t)w->num_files * sizeof *w->files) == 0;  // no padding
                                                                                      // in them
}

static bool is_packed_from(const weights *w, const weights_source *s) {
    if (w->num_layers != s->num_layers || !is_of_files(w, s->checkpoint)) return false;
    for (int32_t n = 0; n < w->num_layers; n++)
        if (!is_same_layer(&w->described[n], &s->layers[n])) return false;
    return true;
}

static weights *find(weights_list *list, const weights_source *source) {
    pthread_mutex_lock(&list->lock);
    weights *w = list->first;
    while (w && !is_packed_from(w, source)) w = w->next;
    if (w) w->num_models++;
    pthread_mutex_unlock(&list->lock);
    return w;
}

bool weights_find_sha256(char out[DIGEST_TEXT_BYTES], weights_list *list, const checkpoint *c) {
    pthread_mutex_lock(&list->lock);
    const weights *w = list->first;
    while (w && !(w->sha256[0] && is_of_files(w, c))) w = w->next;
    if (w) memcpy(out, w->sha256, sizeof w->sha256);
    pthread_mutex_unlock(&list->lock);
    return w != NULL;
}

static void add(weights_list *list, weights *w) {
    pthread_mutex_lock(&list->lock);
    w->next = list->first;
    list->first = w;
    pthread_mutex_unlock(&list->lock);
}

// ---------------------------------------------------------------- packing
static size_t main_bytes(const backend *b, const graph_layer *l) {
    size_t vector_bytes = (size_t)l->c_out * sizeof(float);
    if (l->kind == OP_QUANTIZE) return backend_align(vector_bytes * (size_t)l->c_in);
    return backend_align(l->kind == OP_CONV ? b->kernels->conv_weight_bytes(b, &l->conv)
                                            : vector_bytes);
}

// Bytes of a layer's bias. A convolution without one gets a bias of zeros.
static size_t bias_bytes(const graph_layer *l) {
    return l->kind == OP_QUANTIZE ? 0 : backend_align((size_t)l->c_out * sizeof(float));
}

typedef struct {
    const checkpoint_tensor *tensor;
    float *out;
    int64_t task_rows, row_elements;
    _Atomic int64_t num_nonfinite;
} convert_call;

static void convert_rows(void *context, int64_t task, int32_t thread) {
    (void)thread;
    convert_call *call = context;
    int64_t first = task * call->task_rows, left = call->tensor->shape[0] - first;
    checkpoint_tensor rows =
        checkpoint_rows(call->tensor, first, left < call->task_rows ? left : call->task_rows);
    int64_t num_nonfinite = checkpoint_read_f32(&rows, call->out + first * call->row_elements);
    if (num_nonfinite) atomic_fetch_add(&call->num_nonfinite, num_nonfinite);
}

// Converts a checkpoint's tensor to float32; the backend's threads share its rows.
static void convert_tensor(weights *w, backend *b, float *out, const checkpoint_tensor *t) {
    if (checkpoint_elements(t) == 0) return;
    int64_t row_elements = checkpoint_elements(t) / t->shape[0],
            task_rows = row_elements < TASK_ELEMENTS ? TASK_ELEMENTS / row_elements : 1;
    convert_call call = {
        .tensor = t, .out = out, .task_rows = task_rows, .row_elements = row_elements};
    b->for_all(b, (t->shape[0] + task_rows - 1) / task_rows, convert_rows, &call);
    if (call.num_nonfinite && w->num_nonfinite_tensors++ == 0)
        snprintf(w->first_nonfinite, sizeof w->first_nonfinite, "%.159s", t->name);
    w->num_nonfinite += call.num_nonfinite;
}

// Packs `unpacked` into the layer's place in the backend's memory.
static void place_tensor(weights *w, backend *b, int32_t n, bool is_bias, uint8_t *at,
                         float *unpacked) {
    const graph_layer *l = &w->described[n];
    float *second = (float *)(at + main_bytes(b, l));
    size_t vector_bytes = (size_t)l->c_out * sizeof(float);
    if (is_bias) {
        b->upload(b, second, unpacked, vector_bytes);
        return;
    }
    switch (l->kind) {
        case OP_CONV:
            b->kernels->conv_weight_pack(b, at, unpacked, &l->conv);
            w->layers[n].conv = (conv_weights){at, second};
            break;
        case OP_QUANTIZE:
            quantizer_normalise(unpacked, l->c_out, l->c_in);
            b->upload(b, at, unpacked, vector_bytes * (size_t)l->c_in);
            w->layers[n].codebook = (float *)at;
            break;
        default:
            b->upload(b, at, unpacked, vector_bytes);
            w->layers[n].scale = (float *)at, w->layers[n].offset = second;
    }
}

uint64_t weights_bytes(const backend *b, const weights_source *source) {
    uint64_t sum = 0;
    for (int32_t n = 0; n < source->num_layers; n++)
        if (!source->layers[n].is_unused)
            sum += main_bytes(b, &source->layers[n]) + bias_bytes(&source->layers[n]);
    return sum;
}

// Scratch memory for packing: which tensors to read, those that are read at once, and one of them
// as float32.
typedef struct {
    const checkpoint_tensor **tensors;
    checkpoint_tensor *in_memory;  // what is read of them at once
    float *unpacked;               // one tensor in float32
} packing;

// Weight and bias of layer 0, of layer 1 and so on, as many as are read at once; those of unused
// layers are read for their hash.
static ctok_status pack_layers(weights *w, backend *b, const weights_source *source, digest *d,
                               packing *p, atomic_uint *steps_done, ctok_error *error) {
    uint8_t *at = w->block;
    int32_t num_tensors = 0, n = 0;
    for (int32_t i = 0; i < source->num_layers * 2; i++)
        if (source->tensors[i]) p->tensors[num_tensors++] = source->tensors[i];
    for (int32_t first = 0, count; first < num_tensors; first += count) {
        CTOK_TRY(digest_read(d, b, p->in_memory, &count, p->tensors + first, num_tensors - first,
                             error));
        for (int32_t i = 0; i < count; i++) {
            const graph_layer *l = &source->layers[n];
            bool is_bias = p->tensors[first + i] == source->tensors[n * 2 + 1],
                 is_last = is_bias || !l->has_bias;
            CTOK_TRY(checkpoint_check_cancel(d->checkpoint, error));
            if (!l->is_unused) {
                convert_tensor(w, b, p->unpacked, &p->in_memory[i]);
                place_tensor(w, b, n, is_bias, at, p->unpacked);
            }
            if (!is_last) continue;
            if (!l->is_unused && !l->has_bias && l->kind != OP_QUANTIZE) {
                memset(p->unpacked, 0, (size_t)l->c_out * sizeof(float));
                place_tensor(w, b, n, true, at, p->unpacked);
            }
            if (!l->is_unused) at += main_bytes(b, l) + bias_bytes(l);
            atomic_fetch_add(steps_done, 1);
            n++;
        }
    }
    return CTOK_OK;
}

static ctok_status pack(weights *w, backend *b, const weights_source *source, digest *d,
                        atomic_uint *steps_done, ctok_error *error) {
    int64_t largest = 1;
    for (int32_t n = 0; n < source->num_layers; n++) {
        const graph_layer *l = &source->layers[n];
        int64_t elements = checkpoint_elements(source->tensors[n * 2]);
        w->num_parameters +=
            elements + (l->has_bias ? checkpoint_elements(source->tensors[n * 2 + 1]) : 0);
        if (l->is_unused) continue;
        w->num_bytes += main_bytes(b, l) + bias_bytes(l);
        if (elements > largest) largest = elements;
        if (l->c_out > largest) largest = l->c_out;  // its bias
    }
    packing p = {.tensors = malloc((size_t)source->num_layers * 2 * sizeof *p.tensors),
                 .in_memory = malloc((size_t)source->num_layers * 2 * sizeof *p.in_memory),
                 .unpacked = malloc((size_t)largest * sizeof *p.unpacked)};
    w->block = w->list->backend->alloc(w->list->backend, w->num_bytes);
    ctok_status status = CTOK_OK;
    if (p.tensors && p.in_memory && p.unpacked && w->block) {
        status = pack_layers(w, b, source, d, &p, steps_done, error);
        ctok_status finished = b->finish(b, status == CTOK_OK ? error : NULL);
        if (status == CTOK_OK) status = finished;
    } else {
        status = b->finish(b, error);  // a lost device has none to give
        if (status == CTOK_OK)
            status = ctok_fail(error, CTOK_E_MEMORY, (int64_t)w->num_bytes,
                               "no memory for %zu bytes of weights on %s", w->num_bytes, b->device);
    }
    free(p.tensors);
    free(p.in_memory);
    free(p.unpacked);
    return status;
}

// Makes an empty block of weights with room for every layer. NULL without memory.
static weights *make(weights_list *list, const weights_source *source) {
    weights *w = calloc(1, sizeof *w);
    if (!w) return NULL;
    w->list = list;
    w->num_models = 1;
    w->num_layers = source->num_layers;
    w->num_files = source->checkpoint->num_maps;
    memcpy(w->files, source->checkpoint->files, sizeof w->files);
    w->described = calloc((size_t)source->num_layers, sizeof *w->described);
    w->layers = calloc((size_t)source->num_layers, sizeof *w->layers);
    if (w->described && w->layers) {
        memcpy(w->described, source->layers, (size_t)source->num_layers * sizeof *w->described);
        return w;
    }
    destroy(w);
    return NULL;
}

ctok_status weights_get(weights **out, weights_list *list, backend *b, const weights_source *source,
                        digest *d, atomic_uint *steps_done, ctok_error *error) {
    weights *w = find(list, source);
    if (w) {
        atomic_fetch_add(steps_done, (unsigned)source->num_layers);
        *out = w;
        return CTOK_OK;
    }
    w = make(list, source);
    if (!w)
        return ctok_fail(error, CTOK_E_MEMORY, source->num_layers, "no memory for %d layers",
                         source->num_layers);
    ctok_status status = pack(w, b, source, d, steps_done, error);
    if (status != CTOK_OK) {
        destroy(w);
        return status;
    }
    add(list, w);
    *out = w;
    return CTOK_OK;
}
