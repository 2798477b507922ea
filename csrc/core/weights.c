// Packs the layers of a half one by one into one block, each part at 64 bytes, and finds blocks that were packed before:
//     | packed conv 0 | bias 0 | scale 1 | offset 1 | packed conv 2 | ...
#include "weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    TASK_ELEMENTS = 32 << 10  // that a thread reads at once: they stay in its second-level cache while they are looked through
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

// The count and the list change together under the lock, so a block that is found there is never one that is being freed.
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

static bool is_same_layer(const graph_layer *a, const graph_layer *b) {
    return a->kind == b->kind && a->c_out == b->c_out && a->c_in == b->c_in && a->kernel_t == b->kernel_t && a->kernel == b->kernel &&
           a->in_dtype == b->in_dtype && a->is_video == b->is_video && a->is_unused == b->is_unused && strcmp(a->name, b->name) == 0;
}

static bool is_packed_from(const weights *w, const weights_source *s) {
    if (w->num_layers != s->num_layers || w->num_files != s->checkpoint->num_maps) return false;
    if (memcmp(w->files, s->checkpoint->files, (size_t)w->num_files * sizeof *w->files) != 0) return false;  // no padding in them
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

static void add(weights_list *list, weights *w) {
    pthread_mutex_lock(&list->lock);
    w->next = list->first;
    list->first = w;
    pthread_mutex_unlock(&list->lock);
}

// ---------------------------------------------------------------- packing
static size_t main_bytes(const backend *b, const graph_layer *l) {
    return backend_align(l->kind == OP_CONV ? b->ops->conv_weight_bytes(b, l->c_out, l->c_in, l->kernel_t, l->kernel, l->in_dtype) : (size_t)l->c_out * sizeof(float));
}

static size_t bias_bytes(const graph_layer *l) { return backend_align((size_t)l->c_out * sizeof(float)); }

typedef struct {
    const checkpoint_tensor *tensor;
    float *out;
    int64_t task_rows, row_elements;
    _Atomic int64_t num_nonfinite;
    atomic_bool has_failed;
} read_call;

static void read_rows(void *context, int64_t task, int32_t thread) {
    (void)thread;
    read_call *call = context;
    int64_t first = task * call->task_rows, left = call->tensor->shape[0] - first;
    checkpoint_tensor rows = checkpoint_rows(call->tensor, first, left < call->task_rows ? left : call->task_rows);
    int64_t num_nonfinite = checkpoint_read_f32(&rows, call->out + first * call->row_elements);
    if (num_nonfinite < 0) atomic_store(&call->has_failed, true);
    else if (num_nonfinite) atomic_fetch_add(&call->num_nonfinite, num_nonfinite);
}

static ctok_status read_tensor(weights *w, backend *b, float *out, const checkpoint_tensor *t, ctok_error *error) {
    if (checkpoint_elements(t) == 0) return CTOK_OK;
    int64_t row_elements = checkpoint_elements(t) / t->shape[0], task_rows = row_elements < TASK_ELEMENTS ? TASK_ELEMENTS / row_elements : 1;
    if (!checkpoint_is_contiguous(t)) task_rows = t->shape[0];  // it is read whole, so once
    read_call call = {.tensor = t, .out = out, .task_rows = task_rows, .row_elements = row_elements};
    b->run(b, (t->shape[0] + task_rows - 1) / task_rows, read_rows, &call);
    if (atomic_load(&call.has_failed)) return checkpoint_fail_read(t, error);
    if (call.num_nonfinite && w->num_nonfinite_tensors++ == 0) snprintf(w->first_nonfinite, sizeof w->first_nonfinite, "%.159s", t->name);
    w->num_nonfinite += call.num_nonfinite;
    return CTOK_OK;
}

// Reads into `unpacked`, from where it goes to the backend's memory.
static ctok_status pack_layer(weights *w, backend *b, const weights_source *source, int32_t n, uint8_t *at, float *unpacked, ctok_error *error) {
    const graph_layer *l = &source->layers[n];
    const checkpoint_tensor *weight = source->tensors[n * 2], *bias = source->tensors[n * 2 + 1];
    float *second = (float *)(at + main_bytes(b, l));
    size_t vector_bytes = (size_t)l->c_out * sizeof(float);
    CTOK_TRY(read_tensor(w, b, unpacked, bias, error));
    b->upload(b, second, unpacked, vector_bytes);
    CTOK_TRY(read_tensor(w, b, unpacked, weight, error));
    if (l->kind == OP_CONV) {
        b->ops->conv_weight_pack(b, at, unpacked, l->c_out, l->c_in, l->kernel_t, l->kernel, l->in_dtype);
        w->layers[n].conv = (conv_weights){at, second};
    } else {
        b->upload(b, at, unpacked, vector_bytes);
        w->layers[n].scale = (float *)at, w->layers[n].offset = second;
    }
    return CTOK_OK;
}

uint64_t weights_bytes(const backend *b, const weights_source *source) {
    uint64_t sum = 0;
    for (int32_t n = 0; n < source->num_layers; n++)
        if (!source->layers[n].is_unused) sum += main_bytes(b, &source->layers[n]) + bias_bytes(&source->layers[n]);
    return sum;
}

static ctok_status pack(weights *w, backend *b, const weights_source *source, atomic_uint *steps_done, const atomic_bool *cancel, ctok_error *error) {
    int64_t largest = 1;
    for (int32_t n = 0; n < source->num_layers; n++) {
        const graph_layer *l = &source->layers[n];
        int64_t elements = checkpoint_elements(source->tensors[n * 2]);
        w->num_parameters += elements + checkpoint_elements(source->tensors[n * 2 + 1]);
        if (l->is_unused) continue;
        w->num_bytes += main_bytes(b, l) + bias_bytes(l);
        if (elements > largest) largest = elements;
    }
    float *unpacked = malloc((size_t)largest * sizeof *unpacked);
    w->block = w->list->backend->alloc(w->list->backend, w->num_bytes);
    if (!unpacked || !w->block) {
        free(unpacked);
        CTOK_TRY(b->finish(b, error));  // a lost device has none to give
        return ctok_fail(error, CTOK_E_MEMORY, (int64_t)w->num_bytes, "no memory for %zu bytes of weights on %s", w->num_bytes, b->device);
    }
    uint8_t *at = w->block;
    ctok_status status = CTOK_OK;
    for (int32_t n = 0; n < source->num_layers && status == CTOK_OK && !atomic_load(cancel); n++, atomic_fetch_add(steps_done, 1)) {
        const graph_layer *l = &source->layers[n];
        if (l->is_unused) continue;
        status = pack_layer(w, b, source, n, at, unpacked, error);
        at += main_bytes(b, l) + bias_bytes(l);
    }
    free(unpacked);
    ctok_status finished = b->finish(b, status == CTOK_OK ? error : NULL);
    if (status != CTOK_OK || finished != CTOK_OK) return status != CTOK_OK ? status : finished;
    return atomic_load(cancel) ? ctok_fail(error, CTOK_E_CANCELLED, 0, "cancelled while opening") : CTOK_OK;
}

// Empty, with room for every layer and what describes it. NULL without memory.
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

ctok_status weights_get(weights **out, weights_list *list, backend *b, const weights_source *source, atomic_uint *steps_done,
                        const atomic_bool *cancel, ctok_error *error) {
    weights *w = find(list, source);
    if (w) {
        atomic_fetch_add(steps_done, (unsigned)source->num_layers);
        *out = w;
        return CTOK_OK;
    }
    w = make(list, source);
    if (!w) return ctok_fail(error, CTOK_E_MEMORY, source->num_layers, "no memory for %d layers", source->num_layers);
    ctok_status status = pack(w, b, source, steps_done, cancel, error);
    if (status != CTOK_OK) {
        destroy(w);
        return status;
    }
    add(list, w);
    *out = w;
    return CTOK_OK;
}
