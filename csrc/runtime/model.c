// From a checkpoint to an open model. The layers that the graph of each half names are looked up
// one by one: each must be there with its shape, and what is left over must be a known buffer.
// Weights are then packed, or shared, half by half.
#include "model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---------------------------------------------------------------- which tensors
typedef struct {
    graph parts[MODEL_PARTS];           // for their layers only
    int32_t first[MODEL_PARTS + 1];     // layer of each part, and how many there are
    const checkpoint_tensor **tensors;  // weight and bias of each layer; NULL where it has no bias
    int32_t num_layers, num_tensors;    // num_tensors: leaving out the NULLs
} inventory;

static void inventory_free(inventory *i) {
    for (int p = 0; p < MODEL_PARTS; p++) graph_free(&i->parts[p]);
    free(i->tensors);
}

static const graph_layer *layer_at(const inventory *i, int32_t n) {
    int p = 0;
    while (n >= i->first[p + 1]) p++;
    return &i->parts[p].layers[n - i->first[p]];
}

// Sets the shape that a layer's tensor must have; returns its rank.
static int32_t shape_of(int64_t out[5], const graph_layer *layer, bool is_bias) {
    out[0] = layer->c_out, out[1] = layer->c_in;
    if (is_bias || layer->kind == OP_NORM) return 1;
    if (layer->kind != OP_CONV) return 2;
    int32_t rank = 2;
    if (layer->is_video) out[rank++] = layer->conv.kernel_t;
    out[rank++] = layer->conv.kernel, out[rank++] = layer->conv.kernel;
    return rank;
}

static ctok_status find_parameter(const checkpoint_tensor **out, const checkpoint *c,
                                  const graph_layer *layer, bool is_bias, ctok_error *error) {
    char name[GRAPH_NAME_BYTES + 8];
    snprintf(name, sizeof name, "%s.%s", layer->name, is_bias ? "bias" : "weight");
    const checkpoint_tensor *t = checkpoint_find(c, name);
    if (!t) return ctok_fail(error, CTOK_E_FILE_TENSOR, 0, "missing tensor %s", name);
    int64_t wanted[5];
    int32_t rank = shape_of(wanted, layer, is_bias);
    bool fits = t->rank == rank;
    for (int32_t i = 0; fits && i < rank; i++) fits = t->shape[i] == wanted[i];
    if (!fits) {
        char shapes[2][96] = {"", ""};
        for (int32_t i = 0; i < rank; i++)
            snprintf(shapes[0] + strlen(shapes[0]), 24, "%s%lld", i ? ", " : "",
                     (long long)wanted[i]);
        for (int32_t i = 0; i < t->rank && i < 5; i++)
            snprintf(shapes[1] + strlen(shapes[1]), 24, "%s%lld", i ? ", " : "",
                     (long long)t->shape[i]);
        return ctok_fail(error, CTOK_E_FILE_TENSOR, t->rank,
                         "tensor %s: expected shape [%s], found [%s%s]", name, shapes[0], shapes[1],
                         t->rank > 5 ? ", ..." : "");
    }
    if (!dtype_is_float(t->dtype))
        return ctok_fail(error, CTOK_E_FILE_TENSOR, t->dtype,
                         "tensor %s: expected floats, found dtype %d", name, t->dtype);
    *out = t;
    return CTOK_OK;
}

// Names of a half that was not asked for are passed over, if they are such as a name can be:
// digest.h writes them into lines.
static bool belongs_to_absent_half(const description *d, const char *name) {
    for (const char *c = name; *c; c++)
        if ((unsigned char)*c <= ' ') return false;
    uint32_t halves = d->family->half_of(name), present = (d->has_encoder ? CTOK_HALF_ENCODER : 0) |
                                                          (d->has_decoder ? CTOK_HALF_DECODER : 0);
    return halves && !(halves & present);
}

static int by_name(const void *a, const void *b) {
    return strcmp((*(const checkpoint_tensor *const *)a)->name,
                  (*(const checkpoint_tensor *const *)b)->name);
}

// The tensors of all layers in the order of their names, NULL without memory: free.
static const checkpoint_tensor **sorted_tensors(const inventory *i) {
    const checkpoint_tensor **sorted = malloc(((size_t)i->num_tensors + 1) * sizeof *sorted);
    int32_t count = 0;
    for (int32_t n = 0; sorted && n < i->num_layers * 2; n++)
        if (i->tensors[n]) sorted[count++] = i->tensors[n];
    if (sorted) qsort(sorted, (size_t)count, sizeof *sorted, by_name);
    return sorted;
}

static ctok_status refuse_extra_tensors(const inventory *i, const description *d,
                                        const checkpoint *c, ctok_error *error) {
    const checkpoint_tensor **known = sorted_tensors(i);
    if (!known) return ctok_fail(error, CTOK_E_MEMORY, 0, "no memory for %d names", i->num_tensors);
    ctok_status status = CTOK_OK;
    for (int32_t n = 0; n < c->num_tensors && status == CTOK_OK; n++) {
        const checkpoint_tensor *t = &c->tensors[n];
        if (bsearch(&t, known, (size_t)i->num_tensors, sizeof *known, by_name) ||
            belongs_to_absent_half(d, t->name))
            continue;
        status = checkpoint_check_cancel(c, error);
        if (status == CTOK_OK) status = d->family->check_buffer(d, t, error);
    }
    free(known);
    return status;
}

static ctok_status take_inventory(inventory *out, const description *d, ctok_dtype dtype,
                                  const checkpoint *c, ctok_error *error) {
    inventory i = {0};
    graph *encoder = &i.parts[MODEL_ENCODER], *decoder = &i.parts[MODEL_DECODER];
    network_outputs none = {GRAPH_NONE, GRAPH_NONE, GRAPH_NONE, GRAPH_NONE, GRAPH_NONE};
    int64_t side = d->spatial_factor;  // any size gives the same layers
    network_frame frame = {.images = 1,
                           .padded_frames = 1,
                           .padded_height = side,
                           .padded_width = side,
                           .frames = 1,
                           .height = side,
                           .width = side,
                           .is_first = true};
    encoder->dtype = decoder->dtype = dtype;
    if (d->has_encoder) d->family->encode(encoder, d, frame, EXTERNAL_F32_NCTHW, none);
    if (d->has_decoder)
        d->family->decode(decoder, d, family_load_latent(decoder, d, 1, 1, 1, 1), frame,
                          EXTERNAL_F32_NCTHW, none);
    family_add_codebook(&i.parts[MODEL_CODEBOOK], d);
    ctok_status status = CTOK_OK;
    for (int p = 0; p < MODEL_PARTS; p++) {
        i.first[p + 1] = i.num_layers += i.parts[p].num_layers;
        if (i.parts[p].is_out_of_memory) status = CTOK_E_MEMORY;
    }
    i.tensors = calloc((size_t)i.num_layers * 2 + 1, sizeof *i.tensors);
    if (!i.tensors || status != CTOK_OK)
        status = ctok_fail(error, CTOK_E_MEMORY, 0, "no memory for the graph");
    for (int32_t n = 0; n < i.num_layers && status == CTOK_OK; n++) {
        const graph_layer *layer = layer_at(&i, n);
        if (layer->kind == OP_NORM && layer->c_out % layer->groups != 0) {
            status = ctok_fail(error, CTOK_E_FILE_NETWORK, layer->c_out,
                               "%s: expected channels in multiples of %d (norm groups), found %lld",
                               layer->name, layer->groups, (long long)layer->c_out);
        }
        for (int is_bias = 0; is_bias <= layer->has_bias && status == CTOK_OK;
             is_bias++, i.num_tensors++) {
            status = find_parameter(&i.tensors[n * 2 + is_bias], c, layer, is_bias, error);
        }
    }
    if (status == CTOK_OK) status = refuse_extra_tensors(&i, d, c, error);
    if (status != CTOK_OK) inventory_free(&i);
    else *out = i;
    return status;
}

// ---------------------------------------------------------------- weights
// What comes with the weights of a part: how many, how large, and which are not finite.
static void add_part(model *m, const weights *w, int64_t *parameters) {
    *parameters = w->num_parameters;
    m->weight_bytes += w->num_bytes;
    if (w->num_nonfinite_tensors && !m->info.num_nonfinite_tensors)
        memcpy(m->info.first_nonfinite, w->first_nonfinite, sizeof w->first_nonfinite);
    m->info.num_nonfinite_tensors += w->num_nonfinite_tensors;
    m->info.num_nonfinite += w->num_nonfinite;
}

// Refuses weights that need more than the memory limit, before any memory is taken: tensors of a
// small file may share one storage.
static ctok_status limit_memory(const model *m, uint64_t needed, const char *what,
                                ctok_error *error) {
    uint64_t limit, available;
    m->backend->memory_bytes(m->backend, &limit, &available);
    if (m->max_memory_bytes && m->max_memory_bytes < limit) limit = m->max_memory_bytes;
    if (needed <= limit) return CTOK_OK;
    return ctok_fail(error, CTOK_E_MEMORY, (int64_t)needed,
                     "max_memory_bytes: %s %llu bytes, the limit is %llu", what,
                     (unsigned long long)needed, (unsigned long long)limit);
}

static ctok_status take_part(model *m, const inventory *inv, int part, digest *d,
                             atomic_uint *steps_done, ctok_error *error) {
    const graph *g = &inv->parts[part];
    int32_t first = inv->first[part];
    int64_t *const parameters[MODEL_PARTS] = {
        &m->info.encoder_parameters, &m->info.decoder_parameters, &m->info.codebook_parameters};
    weights **held = &m->parts[part];
    if (g->num_layers == 0) return CTOK_OK;
    weights_source source = {.checkpoint = d->checkpoint,
                             .layers = g->layers,
                             .tensors = inv->tensors + first * 2,
                             .num_layers = g->num_layers};
    CTOK_TRY(limit_memory(m, m->weight_bytes + weights_bytes(m->backend, &source),
                          "the weights take", error));
    CTOK_TRY(weights_get(held, m->shared, m->backend, &source, d, steps_done, error));
    memcpy(m->layers + first, (*held)->layers, (size_t)g->num_layers * sizeof *m->layers);
    add_part(m, *held, parameters[part]);
    return CTOK_OK;
}

// Also computes the hash of the whole checkpoint, unless a model of the same files is open, which
// has it.
static ctok_status take_weights(model *m, const inventory *inv, const checkpoint *c,
                                atomic_uint *steps_done, ctok_error *error) {
    m->first_decoder_layer = inv->first[MODEL_DECODER], m->num_layers = inv->num_layers;
    m->layers = calloc((size_t)inv->num_layers, sizeof *m->layers);
    if (!m->layers)
        return ctok_fail(error, CTOK_E_MEMORY, inv->num_layers, "no memory for %d layers",
                         inv->num_layers);
    uint64_t most = 0;
    for (int32_t i = 0; i < c->num_tensors; i++) {
        uint64_t needed = checkpoint_read_memory(&c->tensors[i]);
        if (needed > most) most = needed;
    }
    CTOK_TRY(limit_memory(m, most, "reading a tensor takes", error));
    digest d = {0};
    bool is_known = weights_find_sha256(m->info.sha256, m->shared, c);
    ctok_status status = digest_start(&d, c, m->description.family->is_buffer, !is_known, error);
    for (int p = 0; p < MODEL_PARTS && status == CTOK_OK; p++)
        status = take_part(m, inv, p, &d, steps_done, error);
    if (status == CTOK_OK && !is_known) status = digest_end(&d, m->backend, m->info.sha256, error);
    digest_free(&d);
    for (int p = 0; p < MODEL_PARTS && status == CTOK_OK; p++)
        if (m->parts[p]) memcpy(m->parts[p]->sha256, m->info.sha256, sizeof m->parts[p]->sha256);
    if (m->parts[MODEL_CODEBOOK]) m->codebook = m->layers[inv->first[MODEL_CODEBOOK]].codebook;
    return status;
}

// ---------------------------------------------------------------- opening
static void destroy(object *self) {
    model *m = (model *)self;
    program_cache_free(&m->programs);
    for (int p = 0; p < MODEL_PARTS; p++) weights_release(m->parts[p]);
    free(m->layers);
    if (m->backend && m->backend != m->shared->backend) m->backend->close(m->backend);
    free(m);
}

static ctok_status limit_threads(model *m, const ctok_model_options *options, ctok_error *error) {
    backend *whole = m->shared->backend;
    int32_t num_threads = options ? (int32_t)options->num_threads : 0;
    m->backend = num_threads == 0 || num_threads >= whole->num_threads
                     ? whole
                     : whole->limit(whole, num_threads);
    return m->backend ? CTOK_OK
                      : ctok_fail(error, CTOK_E_MEMORY, num_threads,
                                  "no memory for a limit of %d threads", num_threads);
}

static void fill_info(ctok_model_info *info, const model *m, ctok_dtype stored) {
    const description *d = &m->description;
    info->struct_size = sizeof *info;
    info->halves =
        (d->has_encoder ? CTOK_HALF_ENCODER : 0) | (d->has_decoder ? CTOK_HALF_DECODER : 0);
    info->is_video = d->is_video, info->spatial_factor = (uint32_t)d->spatial_factor,
    info->temporal_factor = (uint32_t)d->temporal_factor;
    info->latent_channels = (uint32_t)d->latent_channels;
    info->quantizer = (uint32_t)d->quantizer.kind, info->codebook_size = d->quantizer.size;
    info->num_levels = d->quantizer.num_levels;
    memcpy(info->levels, d->quantizer.levels, sizeof info->levels);
    info->precision = m->dtype == CTOK_BF16 ? CTOK_PRECISION_BF16 : CTOK_PRECISION_F32;
    info->stored_dtype = stored, info->weight_bytes = m->weight_bytes;
    info->num_threads = (uint32_t)m->backend->num_threads;
    info->num_facts = (uint32_t)d->num_facts;
    memcpy(info->facts, d->facts, sizeof info->facts);
    memcpy(info->name, d->name, sizeof info->name);
    snprintf(info->family, sizeof info->family, "%s", d->family->name);
}

static ctok_status choose_precision(ctok_dtype *dtype, const backend *b,
                                    const ctok_model_options *options, ctok_error *error) {
    uint32_t precision = options ? options->precision : CTOK_PRECISION_AUTO;
    bool is_bf16 = precision == CTOK_PRECISION_BF16 ||
                   (precision == CTOK_PRECISION_AUTO && b->kernels->is_bf16_faster);
    *dtype = is_bf16 ? CTOK_BF16 : CTOK_F32;
    if (!is_bf16 || b->kernels->has_bf16) return CTOK_OK;
    return ctok_fail(error, CTOK_E_DEVICE, precision,
                     "precision bf16: expected %s, found %s, which compute in f32", b->bf16_needs,
                     b->kernels->name);
}

ctok_status model_open(model **out, object *owner, weights_list *shared, const char *path,
                       const ctok_model_options *options, atomic_uint *steps_done,
                       atomic_uint *num_steps, const atomic_bool *cancel, ctok_error *error) {
    model *m = calloc(1, sizeof *m);
    if (!m) return ctok_fail(error, CTOK_E_MEMORY, sizeof *m, "no memory for a model");
    object_init(&m->base, OBJECT_MODEL, owner, destroy);
    m->shared = shared;
    pthread_mutex_init(&m->programs.lock, NULL);
    m->max_memory_bytes = options ? options->max_memory_bytes : 0;

    checkpoint *c = NULL;
    inventory inv = {0};
    ctok_status status = limit_threads(m, options, error);
    if (status == CTOK_OK) status = choose_precision(&m->dtype, m->backend, options, error);
    if (status == CTOK_OK) status = checkpoint_open(&c, path, cancel, error);
    if (status == CTOK_OK) status = family_describe(&m->description, c, path, options, error);
    if (status == CTOK_OK) status = take_inventory(&inv, &m->description, m->dtype, c, error);
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
// Writes the tensors of the inventory, with what their keys cannot tell in the metadata.
static ctok_status write_tensors(const char *out_path, const inventory *inv, const description *d,
                                 const checkpoint_watch *watch, ctok_error *error) {
    int32_t count = inv->num_tensors;
    const checkpoint_tensor **sorted = sorted_tensors(inv);
    checkpoint_tensor *tensors = malloc((size_t)count * sizeof *tensors);
    ctok_status status = CTOK_OK;
    if (sorted && tensors) {
        for (int32_t i = 0; i < count; i++) tensors[i] = *sorted[i];
        char levels[96] = "", spatial[16], temporal[16];
        for (uint32_t i = 0; i < d->quantizer.num_levels; i++)
            snprintf(levels + strlen(levels), 12, "%s%u", i ? "," : "", d->quantizer.levels[i]);
        snprintf(spatial, sizeof spatial, "%d", d->spatial_factor);
        snprintf(temporal, sizeof temporal, "%d", d->temporal_factor);
        checkpoint_metadata metadata[] = {{"ctok.fsq_levels", levels},
                                          {"ctok.name", d->name},
                                          {"ctok.spatial_factor", spatial},
                                          {"ctok.temporal_factor", temporal}};
        status = safetensors_write(out_path, tensors, count, metadata, 4, watch, error);
    } else {
        status = ctok_fail(error, CTOK_E_MEMORY, count, "no memory for %d tensors", count);
    }
    free(tensors);
    free(sorted);
    return status;
}

ctok_status model_convert(const char *out_path, const char *path, const ctok_model_options *options,
                          atomic_uint *steps_done, atomic_uint *num_steps,
                          const atomic_bool *cancel, ctok_error *error) {
    checkpoint *c = NULL;
    description d;
    inventory inv = {0};
    CTOK_TRY(checkpoint_open(&c, path, cancel, error));
    ctok_status status = family_describe(&d, c, path, options, error);
    if (status == CTOK_OK) status = take_inventory(&inv, &d, CTOK_F32, c, error);
    if (status == CTOK_OK) {
        atomic_store(num_steps, (unsigned)inv.num_tensors);
        status = write_tensors(out_path, &inv, &d, &(checkpoint_watch){cancel, steps_done}, error);
    }
    inventory_free(&inv);
    checkpoint_close(c);
    return status;
}
