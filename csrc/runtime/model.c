// From a checkpoint to an open model. The layers that the graph of each half names are looked up one by one: each must be
// there with its shape, and what is left over must be a known buffer. Weights are then packed, or shared, half by half.
#include "model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---------------------------------------------------------------- which tensors
typedef struct {
    graph encoder, decoder;  // for their layers only
    const checkpoint_tensor **tensors;  // weight and bias of each layer, encoder first
    int32_t num_encoder_layers, num_layers;
} inventory;

static void inventory_free(inventory *i) {
    graph_free(&i->encoder);
    graph_free(&i->decoder);
    free(i->tensors);
}

static const graph_layer *layer_at(const inventory *i, int32_t n) {
    return n < i->num_encoder_layers ? &i->encoder.layers[n] : &i->decoder.layers[n - i->num_encoder_layers];
}

static ctok_status find_parameter(const checkpoint_tensor **out, const checkpoint *c, const graph_layer *layer, bool is_bias, ctok_error *error) {
    char name[GRAPH_NAME_BYTES + 8];
    snprintf(name, sizeof name, "%s.%s", layer->name, is_bias ? "bias" : "weight");
    const checkpoint_tensor *t = checkpoint_find(c, name);
    if (!t) return ctok_fail(error, CTOK_E_FILE_TENSOR, 0, "missing tensor %s", name);
    int64_t wanted[5] = {layer->c_out, layer->c_in, layer->kernel, layer->kernel};
    int32_t rank = is_bias || layer->kind == OP_NORM ? 1 : layer->is_video ? 5 : 4;
    if (layer->is_video) wanted[2] = layer->kernel_t, wanted[4] = layer->kernel;
    bool fits = t->rank == rank;
    for (int32_t i = 0; fits && i < rank; i++) fits = t->shape[i] == wanted[i];
    if (!fits) {
        char shapes[2][96] = {"", ""};
        for (int32_t i = 0; i < rank; i++) snprintf(shapes[0] + strlen(shapes[0]), 24, "%s%lld", i ? ", " : "", (long long)wanted[i]);
        for (int32_t i = 0; i < t->rank && i < 5; i++) snprintf(shapes[1] + strlen(shapes[1]), 24, "%s%lld", i ? ", " : "", (long long)t->shape[i]);
        return ctok_fail(error, CTOK_E_FILE_TENSOR, t->rank, "tensor %s: expected shape [%s], found [%s%s]", name, shapes[0], shapes[1],
                         t->rank > 5 ? ", ..." : "");
    }
    if (!dtype_is_float(t->dtype)) return ctok_fail(error, CTOK_E_FILE_TENSOR, t->dtype, "tensor %s: expected floats, found dtype %d", name, t->dtype);
    *out = t;
    return CTOK_OK;
}

// Names of a half that was not asked for are passed over, if they are such as a name can be: digest.h writes them into lines.
static bool belongs_to_absent_half(const variant *v, const char *name) {
    for (const char *c = name; *c; c++)
        if (*c >= 0 && *c <= ' ') return false;
    bool is_encoder = strncmp(name, "encoder.", 8) == 0 || strncmp(name, "quant_conv.", 11) == 0;
    bool is_decoder = strncmp(name, "decoder.", 8) == 0 || strncmp(name, "post_quant_conv.", 16) == 0;
    return (is_encoder && !v->encoder.is_present) || (is_decoder && !v->decoder.is_present);
}

static int by_name(const void *a, const void *b) {
    return strcmp((*(const checkpoint_tensor *const *)a)->name, (*(const checkpoint_tensor *const *)b)->name);
}

static ctok_status refuse_extra_tensors(const inventory *i, const variant *v, const checkpoint *c, ctok_error *error) {
    size_t count = (size_t)i->num_layers * 2;
    const checkpoint_tensor **known = malloc((count + 1) * sizeof *known);
    if (!known) return ctok_fail(error, CTOK_E_MEMORY, 0, "no memory for %zu names", count);
    memcpy(known, i->tensors, count * sizeof *known);
    qsort(known, count, sizeof *known, by_name);
    ctok_status status = CTOK_OK;
    for (int32_t n = 0; n < c->num_tensors && status == CTOK_OK; n++) {
        const checkpoint_tensor *t = &c->tensors[n];
        if (bsearch(&t, known, count, sizeof *known, by_name) || belongs_to_absent_half(v, t->name)) continue;
        status = checkpoint_check_cancel(c, error);
        if (status == CTOK_OK) status = variant_check_buffer(v, t, error);
    }
    free(known);
    return status;
}

static ctok_status take_inventory(inventory *out, const variant *v, bool is_bf16, const checkpoint *c, ctok_error *error) {
    inventory i = {.encoder.is_bf16 = is_bf16, .decoder.is_bf16 = is_bf16};
    network_outputs none = {GRAPH_NONE, GRAPH_NONE, GRAPH_NONE, GRAPH_NONE, GRAPH_NONE};
    int64_t side = v->spatial_factor;  // any size gives the same layers
    network_frame frame = {.padded_frames = 1, .padded_height = side, .padded_width = side, .frames = 1, .height = side, .width = side, .is_first = true};
    if (v->encoder.is_present) network_encode(&i.encoder, v, frame, EXTERNAL_F32_NCTHW, none);
    if (v->decoder.is_present) network_decode(&i.decoder, v, network_load_latent(&i.decoder, v, 1, 1, 1), frame, EXTERNAL_F32_NCTHW, none);
    i.num_encoder_layers = i.encoder.num_layers;
    i.num_layers = i.encoder.num_layers + i.decoder.num_layers;
    i.tensors = calloc((size_t)i.num_layers * 2 + 1, sizeof *i.tensors);
    ctok_status status = CTOK_OK;
    if (!i.tensors || i.encoder.is_out_of_memory || i.decoder.is_out_of_memory) status = ctok_fail(error, CTOK_E_MEMORY, 0, "no memory for the graph");
    for (int32_t n = 0; n < i.num_layers && status == CTOK_OK; n++) {
        const graph_layer *layer = layer_at(&i, n);
        if (layer->kind == OP_NORM && !v->is_video && layer->c_out % 32 != 0) {
            status = ctok_fail(error, CTOK_E_FILE_NETWORK, layer->c_out, "%s: expected channels in multiples of 32 (norm groups), found %lld",
                               layer->name, (long long)layer->c_out);
        }
        for (int is_bias = 0; is_bias < 2 && status == CTOK_OK; is_bias++) {
            status = find_parameter(&i.tensors[n * 2 + is_bias], c, layer, is_bias, error);
        }
    }
    if (status == CTOK_OK) status = refuse_extra_tensors(&i, v, c, error);
    if (status != CTOK_OK) inventory_free(&i);
    else *out = i;
    return status;
}

// ---------------------------------------------------------------- weights
// What comes with the weights of a half: how many, how large, and which are not finite.
static void add_half(model *m, const weights *w, int64_t *parameters) {
    *parameters = w->num_parameters;
    m->weight_bytes += w->num_bytes;
    if (w->num_nonfinite_tensors && !m->info.num_nonfinite_tensors) memcpy(m->info.first_nonfinite, w->first_nonfinite, sizeof w->first_nonfinite);
    m->info.num_nonfinite_tensors += w->num_nonfinite_tensors;
    m->info.num_nonfinite += w->num_nonfinite;
}

// Before anything is taken: tensors of a small file may share one storage.
static ctok_status limit_memory(const model *m, uint64_t needed, const char *what, ctok_error *error) {
    uint64_t limit, available;
    m->backend->memory_bytes(m->backend, &limit, &available);
    if (m->max_memory_bytes && m->max_memory_bytes < limit) limit = m->max_memory_bytes;
    if (needed <= limit) return CTOK_OK;
    return ctok_fail(error, CTOK_E_MEMORY, (int64_t)needed, "max_memory_bytes: %s %llu bytes, the limit is %llu", what, (unsigned long long)needed,
                     (unsigned long long)limit);
}

static ctok_status take_half(model *m, const inventory *inv, bool is_decoder, digest *d, atomic_uint *steps_done, ctok_error *error) {
    const graph *half = is_decoder ? &inv->decoder : &inv->encoder;
    int32_t first = is_decoder ? inv->num_encoder_layers : 0;
    weights **held = is_decoder ? &m->decoder : &m->encoder;
    if (half->num_layers == 0) return CTOK_OK;
    weights_source source = {.checkpoint = d->checkpoint, .layers = half->layers, .tensors = inv->tensors + first * 2, .num_layers = half->num_layers};
    CTOK_TRY(limit_memory(m, m->weight_bytes + weights_bytes(m->backend, &source), "the weights take", error));
    CTOK_TRY(weights_get(held, m->shared, m->backend, &source, d, steps_done, error));
    memcpy(m->layers + first, (*held)->layers, (size_t)half->num_layers * sizeof *m->layers);
    add_half(m, *held, is_decoder ? &m->info.decoder_parameters : &m->info.encoder_parameters);
    return CTOK_OK;
}

// And the hash of the whole checkpoint, which is known where models of the same files are open.
static ctok_status take_weights(model *m, const inventory *inv, const checkpoint *c, atomic_uint *steps_done, ctok_error *error) {
    m->num_encoder_layers = inv->num_encoder_layers, m->num_layers = inv->num_layers;
    m->layers = calloc((size_t)inv->num_layers, sizeof *m->layers);
    if (!m->layers) return ctok_fail(error, CTOK_E_MEMORY, inv->num_layers, "no memory for %d layers", inv->num_layers);
    uint64_t most = 0;
    for (int32_t i = 0; i < c->num_tensors; i++) {
        uint64_t needed = checkpoint_read_memory(&c->tensors[i]);
        if (needed > most) most = needed;
    }
    CTOK_TRY(limit_memory(m, most, "reading a tensor takes", error));
    digest d = {0};
    bool is_known = weights_find_sha256(m->info.sha256, m->shared, c);
    ctok_status status = digest_start(&d, c, !is_known, error);
    for (int is_decoder = 0; is_decoder < 2 && status == CTOK_OK; is_decoder++) status = take_half(m, inv, is_decoder, &d, steps_done, error);
    if (status == CTOK_OK && !is_known) status = digest_end(&d, m->backend, m->info.sha256, error);
    digest_free(&d);
    weights *halves[] = {m->encoder, m->decoder};
    for (int i = 0; i < 2 && status == CTOK_OK; i++)
        if (halves[i]) memcpy(halves[i]->sha256, m->info.sha256, sizeof halves[i]->sha256);
    return status;
}

// ---------------------------------------------------------------- opening
static void destroy(object *self) {
    model *m = (model *)self;
    weights_release(m->encoder);
    weights_release(m->decoder);
    free(m->layers);
    if (m->backend && m->backend != m->shared->backend) m->backend->close(m->backend);
    free(m);
}

static ctok_status limit_threads(model *m, const ctok_model_options *options, ctok_error *error) {
    backend *whole = m->shared->backend;
    int32_t num_threads = options ? (int32_t)options->num_threads : 0;
    m->backend = num_threads == 0 || num_threads >= whole->num_threads ? whole : whole->limit(whole, num_threads);
    return m->backend ? CTOK_OK : ctok_fail(error, CTOK_E_MEMORY, num_threads, "no memory for a limit of %d threads", num_threads);
}

static void fill_info(ctok_model_info *info, const model *m, ctok_dtype stored) {
    const variant *v = &m->variant;
    const variant_half *e = &v->encoder, *d = &v->decoder;
    info->struct_size = sizeof *info;
    info->halves = (e->is_present ? CTOK_HALF_ENCODER : 0) | (d->is_present ? CTOK_HALF_DECODER : 0);
    info->is_discrete = v->is_discrete, info->is_discrete_from = v->is_discrete_from;
    info->is_video = v->is_video, info->spatial_factor = (uint32_t)v->spatial_factor, info->temporal_factor = (uint32_t)v->temporal_factor;
    info->factors_from = v->factors_from;
    info->patch = (uint32_t)v->patch, info->latent_channels = (uint32_t)v->latent_channels;
    info->num_fsq_levels = v->num_fsq_levels, info->fsq_levels_from = v->fsq_levels_from, info->codebook_size = v->codebook_size;
    memcpy(info->fsq_levels, v->fsq_levels, sizeof info->fsq_levels);
    info->precision = m->is_bf16 ? CTOK_PRECISION_BF16 : CTOK_PRECISION_F32, info->stored_dtype = stored, info->weight_bytes = m->weight_bytes;
    info->num_threads = (uint32_t)m->backend->num_threads;
    info->encoder_z_channels = (uint32_t)e->z_channels, info->encoder_num_levels = (uint32_t)e->num_levels;
    info->encoder_blocks = (uint32_t)e->blocks, info->encoder_base_channels = (uint32_t)e->base_channels;
    info->decoder_z_channels = (uint32_t)d->z_channels, info->decoder_num_levels = (uint32_t)d->num_levels;
    info->decoder_blocks = (uint32_t)d->blocks, info->decoder_base_channels = (uint32_t)d->base_channels;
    for (int i = 0; i < VARIANT_MAX_LEVELS; i++) {
        info->encoder_widths[i] = (uint32_t)e->widths[i];
        info->decoder_widths[i] = (uint32_t)d->widths[i];
    }
    memcpy(info->name, v->name, sizeof info->name);
}

static ctok_status choose_precision(bool *is_bf16, const backend *b, const ctok_model_options *options, ctok_error *error) {
    uint32_t precision = options ? options->precision : CTOK_PRECISION_AUTO;
    *is_bf16 = precision == CTOK_PRECISION_BF16 || (precision == CTOK_PRECISION_AUTO && b->ops->is_bf16_faster);
    if (!*is_bf16 || b->ops->has_bf16) return CTOK_OK;
    return ctok_fail(error, CTOK_E_DEVICE, precision, "precision bf16: expected %s, found %s, which compute in f32", b->bf16_needs, b->ops->name);
}

ctok_status model_open(model **out, object *owner, weights_list *shared, const char *path, const ctok_model_options *options,
                       atomic_uint *steps_done, atomic_uint *num_steps, const atomic_bool *cancel, ctok_error *error) {
    model *m = calloc(1, sizeof *m);
    if (!m) return ctok_fail(error, CTOK_E_MEMORY, sizeof *m, "no memory for a model");
    object_init(&m->base, OBJECT_MODEL, owner, destroy);
    m->shared = shared;
    m->max_memory_bytes = options ? options->max_memory_bytes : 0;

    checkpoint *c = NULL;
    inventory inv = {0};
    ctok_status status = limit_threads(m, options, error);
    if (status == CTOK_OK) status = choose_precision(&m->is_bf16, m->backend, options, error);
    if (status == CTOK_OK) status = checkpoint_open(&c, path, cancel, error);
    if (status == CTOK_OK) status = variant_find(&m->variant, c, path, options, error);
    if (status == CTOK_OK) status = take_inventory(&inv, &m->variant, m->is_bf16, c, error);
    if (status == CTOK_OK) {
        atomic_store(num_steps, (unsigned)inv.num_layers);
        status = take_weights(m, &inv, c, steps_done, error);
    }
    if (status == CTOK_OK) fill_info(&m->info, m, inv.tensors[0]->dtype);
    inventory_free(&inv);
    checkpoint_close(c);
    if (status != CTOK_OK) object_release(&m->base);
    else *out = m;
    return status;
}

// ---------------------------------------------------------------- converting
ctok_status model_convert(const char *out_path, const char *path, const ctok_model_options *options, atomic_uint *steps_done,
                          atomic_uint *num_steps, const atomic_bool *cancel, ctok_error *error) {
    checkpoint *c = NULL;
    variant v;
    inventory inv = {0};
    CTOK_TRY(checkpoint_open(&c, path, cancel, error));
    ctok_status status = variant_find(&v, c, path, options, error);
    if (status == CTOK_OK) status = take_inventory(&inv, &v, false, c, error);
    if (status == CTOK_OK) {
        int32_t count = inv.num_layers * 2;
        checkpoint_tensor *tensors = malloc((size_t)count * sizeof *tensors);
        if (tensors) {
            qsort(inv.tensors, (size_t)count, sizeof *inv.tensors, by_name);
            for (int32_t i = 0; i < count; i++) tensors[i] = *inv.tensors[i];
            char levels[96] = "", spatial[16], temporal[16];
            for (uint32_t i = 0; i < v.num_fsq_levels; i++) snprintf(levels + strlen(levels), 12, "%s%u", i ? "," : "", v.fsq_levels[i]);
            snprintf(spatial, sizeof spatial, "%d", v.spatial_factor);
            snprintf(temporal, sizeof temporal, "%d", v.temporal_factor);
            checkpoint_metadata metadata[] = {{"ctok.fsq_levels", levels}, {"ctok.name", v.name}, {"ctok.spatial_factor", spatial},
                                              {"ctok.temporal_factor", temporal}};
            checkpoint_watch watch = {cancel, steps_done};
            atomic_store(num_steps, (unsigned)count);
            status = safetensors_write(out_path, tensors, count, metadata, 4, &watch, error);
        } else {
            status = ctok_fail(error, CTOK_E_MEMORY, count, "no memory for %d tensors", count);
        }
        free(tensors);
    }
    inventory_free(&inv);
    checkpoint_close(c);
    return status;
}
