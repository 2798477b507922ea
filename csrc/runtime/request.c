// See request.h: sizes everything, builds graph and plan.
// Note: over 400 lines: one request from its check to its passes, in the order of the steps.
#include "request.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bind.h"

static const int64_t MAX_SIDE = 1 << 20, MAX_FRAMES = 1 << 20, MAX_BATCH = 1 << 20,
                     MAX_STATE_FRAMES = 1 << 24;
static const int64_t MAX_PIXELS = (int64_t)1 << 32;  // of one padded image or clip: keeps every
                                                     // byte count far from overflow

static bool is_discrete(const description *d) { return d->quantizer.kind != QUANTIZER_NONE; }

static ctok_status check_request(const model *m, ctok_request *r, ctok_error *error) {
    const description *d = &m->description;
    const uint32_t pixels = CTOK_PIXELS_U8 | CTOK_PIXELS_F32,
                   tokens = is_discrete(d) ? CTOK_INDICES | CTOK_CODES : CTOK_LATENT;
    uint32_t inputs, outputs, default_outputs;
    switch (r->task) {
        case CTOK_TASK_ENCODE:
            inputs = pixels, outputs = tokens | CTOK_PRE_QUANT, default_outputs = tokens;
            break;
        case CTOK_TASK_DECODE:
            inputs = tokens, outputs = pixels | (tokens & CTOK_CODES),
            default_outputs = CTOK_PIXELS_F32;
            break;
        case CTOK_TASK_AUTOENCODE:
            inputs = pixels, outputs = pixels, default_outputs = CTOK_PIXELS_U8;
            break;
        default:
            return ctok_fail(
                error, CTOK_E_ARGUMENT, r->task,
                "request.task: expected 1 (encode), 2 (decode) or 3 (autoencode), found %u",
                r->task);
    }
    // Every chunk of a stream runs the network, whose layers have their past in it.
    if (r->task == CTOK_TASK_DECODE && r->chunk) outputs &= ~(uint32_t)CTOK_CODES;
    if (!is_discrete(d))
        outputs &= ~(uint32_t)CTOK_PRE_QUANT;  // the latent is all there is before decoding
    if (!r->outputs) r->outputs = default_outputs;
    if (!r->batch) r->batch = 1;

    bool needs_encoder = r->task != CTOK_TASK_DECODE,
         needs_decoder = r->task != CTOK_TASK_ENCODE && r->outputs != CTOK_CODES;
    if ((needs_encoder && !d->has_encoder) || (needs_decoder && !d->has_decoder)) {
        return ctok_fail(error, CTOK_E_UNSUPPORTED, 0,
                         "%s was opened with only its %s, and this needs the %s", d->name,
                         d->has_encoder ? "encoder" : "decoder",
                         d->has_encoder ? "decoder" : "encoder");
    }
    if (!(r->input & inputs) || (r->input & (r->input - 1))) {
        return ctok_fail(error, CTOK_E_UNSUPPORTED, r->input,
                         "request.input: %s (%s) takes one of the kinds in mask %u here, found %u",
                         d->name, is_discrete(d) ? "discrete" : "continuous", inputs, r->input);
    }
    bool is_two_pixels = (r->outputs & pixels) == pixels;
    if ((r->outputs & ~outputs) || is_two_pixels) {
        return ctok_fail(error, CTOK_E_UNSUPPORTED, r->outputs,
                         "request.outputs: %s (%s) gives kinds in mask %u here%s, found %u",
                         d->name, is_discrete(d) ? "discrete" : "continuous", outputs,
                         is_two_pixels ? ", pixels in one type" : "", r->outputs);
    }
    if (!r->frames) r->frames = 1;
    if (!r->num_held) r->num_held = 1;
    if (r->batch < 1 || r->batch > MAX_BATCH || r->frames < 1 || r->frames > MAX_FRAMES ||
        r->height < 1 || r->height > MAX_SIDE || r->width < 1 || r->width > MAX_SIDE) {
        return ctok_fail(error, CTOK_E_SHAPE, 0,
                         "expected batch, frames, height and width from 1 to %lld, found %lld x "
                         "%lld x %lld x %lld",
                         (long long)MAX_SIDE, (long long)r->batch, (long long)r->frames,
                         (long long)r->height, (long long)r->width);
    }
    if (!d->is_video && (r->frames != 1 || r->chunk != CTOK_CHUNK_NONE)) {
        return ctok_fail(error, CTOK_E_UNSUPPORTED, r->frames,
                         "%s is an image tokenizer: expected one frame, found %s%lld", d->name,
                         r->chunk ? "a stream, or " : "", (long long)r->frames);
    }
    if (r->chunk > CTOK_CHUNK_LATER ||
        (r->chunk && (r->batch != 1 || r->task == CTOK_TASK_AUTOENCODE))) {
        return ctok_fail(
            error, CTOK_E_ARGUMENT, r->chunk,
            "request.chunk: expected 0 to 2, and a batch of one to encode or decode, found %u",
            r->chunk);
    }
    if (r->state_frames < 0 || r->state_frames > MAX_STATE_FRAMES) {
        return ctok_fail(error, CTOK_E_SHAPE, r->state_frames,
                         "request.state_frames: expected 0 to %lld, found %lld",
                         (long long)MAX_STATE_FRAMES, (long long)r->state_frames);
    }
    return CTOK_OK;
}

static int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// Sets where the caller's pixels lie in the decoded ones: all of them, or the crop that was asked
// for.
static ctok_status find_crop(network_frame *f, const ctok_request *r, ctok_error *error) {
    bool is_whole = !r->crop_frames && !r->crop_height && !r->crop_width && !r->crop_before &&
                    !r->crop_top && !r->crop_left;
    f->before = r->crop_before, f->top = r->crop_top, f->left = r->crop_left;
    f->frames = is_whole || !r->crop_frames ? f->padded_frames - f->before : r->crop_frames;
    f->height = is_whole ? f->padded_height : r->crop_height;
    f->width = is_whole ? f->padded_width : r->crop_width;
    const int64_t parts[3][3] = {{f->before, f->frames, f->padded_frames},
                                 {f->top, f->height, f->padded_height},
                                 {f->left, f->width, f->padded_width}};
    for (int i = 0; i < 3; i++) {
        if (parts[i][0] >= 0 && parts[i][1] >= 1 && parts[i][1] <= parts[i][2] &&
            parts[i][0] <= parts[i][2] - parts[i][1])
            continue;
        return ctok_fail(error, CTOK_E_SHAPE, 0,
                         "crop: expected a part of %lld frames of %lld x %lld pixels, found %lld "
                         "of %lld x %lld at frame %lld, "
                         "row %lld, column %lld",
                         (long long)f->padded_frames, (long long)f->padded_height,
                         (long long)f->padded_width, (long long)f->frames, (long long)f->height,
                         (long long)f->width, (long long)f->before, (long long)f->top,
                         (long long)f->left);
    }
    return CTOK_OK;
}

// Frames of a whole clip are padded at both ends to 1 + a multiple of the alignment; a chunk must
// come in whole units.
static ctok_status find_frames(network_frame *f, const description *d, const ctok_request *r,
                               ctok_error *error) {
    int64_t unit = d->temporal_factor;
    f->frames = f->padded_frames = r->frames;
    if (r->chunk != CTOK_CHUNK_NONE) {
        int64_t alone = r->chunk == CTOK_CHUNK_FIRST;
        if ((r->frames - alone) % unit == 0) return CTOK_OK;
        return ctok_fail(error, CTOK_E_SHAPE, r->frames,
                         "a %s chunk: expected %sa multiple of %lld frames, found %lld",
                         alone ? "first" : "later", alone ? "1 and " : "", (long long)unit,
                         (long long)r->frames);
    }
    if (d->is_video) f->padded_frames = round_up(r->frames - 1, d->temporal_align) + 1;
    f->before = (f->padded_frames - r->frames) / 2;
    return CTOK_OK;
}

static ctok_status find_frame(network_frame *f, const description *d, const ctok_request *r,
                              ctok_error *error) {
    f->is_first = r->chunk != CTOK_CHUNK_LATER;
    if (r->task == CTOK_TASK_DECODE) {
        f->padded_frames =
            f->is_first ? (r->frames - 1) * d->temporal_factor + 1 : r->frames * d->temporal_factor;
        f->padded_height = r->height * d->spatial_factor;
        f->padded_width = r->width * d->spatial_factor;
        CTOK_TRY(find_crop(f, r, error));
    } else {
        int64_t unit = d->spatial_align;
        f->height = r->height, f->width = r->width;
        f->padded_height = round_up(r->height, unit), f->padded_width = round_up(r->width, unit);
        f->top = (f->padded_height - r->height) / 2, f->left = (f->padded_width - r->width) / 2;
        CTOK_TRY(find_frames(f, d, r, error));
    }
    if (f->padded_height > MAX_PIXELS / f->padded_width ||
        f->padded_frames > MAX_PIXELS / (f->padded_height * f->padded_width)) {
        return ctok_fail(error, CTOK_E_SHAPE, 0,
                         "expected at most %lld pixels an image or clip, found %lld x %lld x %lld",
                         (long long)MAX_PIXELS, (long long)f->padded_frames,
                         (long long)f->padded_height, (long long)f->padded_width);
    }
    return CTOK_OK;
}

// Describes the next output and gives its number; GRAPH_NONE when the request does not want it.
// `sizes` of one image or clip, of which the one at `time_at` is left out for images.
static int32_t add_output(program *p, const description *d, uint32_t kind, ctok_dtype dtype,
                          const int64_t *sizes, int count, int time_at) {
    if (!(p->request.outputs & kind)) return GRAPH_NONE;
    ctok_output o = {.kind = kind,
                     .dtype = dtype,
                     .rank = 1,
                     .shape = {p->request.batch},
                     .bytes = (uint64_t)p->request.batch * dtype_bytes(dtype)};
    for (int i = 0; i < count; i++) {
        o.bytes *= (uint64_t)sizes[i];
        if (d->is_video || i != time_at) o.shape[o.rank++] = sizes[i];
    }
    p->outputs[p->num_outputs] = o;
    return p->num_outputs++;
}

static network_outputs add_outputs(program *p, const description *d) {
    const network_frame *f = &p->frame;
    int64_t h = f->padded_height / d->spatial_factor, w = f->padded_width / d->spatial_factor,
            c = d->latent_channels;
    int64_t t = f->is_first ? (f->padded_frames - 1) / d->temporal_factor + 1
                            : f->padded_frames / d->temporal_factor;
    const int64_t bytes[] = {f->frames, f->height, f->width, 3},
                  floats[] = {3, f->frames, f->height, f->width}, grid[] = {t, h, w},
                  latent[] = {c, t, h, w};
    network_outputs o;
    int32_t u8 = add_output(p, d, CTOK_PIXELS_U8, CTOK_U8, bytes, 4, 0);
    int32_t f32 = add_output(p, d, CTOK_PIXELS_F32, CTOK_F32, floats, 4, 1);
    o.pixels = u8 != GRAPH_NONE ? u8 : f32;
    o.indices = add_output(p, d, CTOK_INDICES, CTOK_I32, grid, 3, 0);
    o.codes = add_output(p, d, CTOK_CODES, CTOK_F32, latent, 4, 1);
    o.latent = add_output(p, d, CTOK_LATENT, CTOK_F32, latent, 4, 1);
    o.pre_quant = add_output(p, d, CTOK_PRE_QUANT, CTOK_F32, latent, 4, 1);
    return o;
}

// Counts the bytes of a stream's state: two past frames for each temporal convolution, keys and
// values for each temporal attention.
static void count_state(program *p) {
    for (int32_t n = 0; n < p->graph.num_nodes && p->request.chunk; n++) {
        const graph_node *node = &p->graph.nodes[n];
        if (node->slot == GRAPH_NONE) continue;
        ctok_shape s = node->kind == OP_CONV ? node->params.conv.in : node->params.attention.shape;
        ctok_dtype dtype =
            node->kind == OP_CONV ? node->params.conv.in_dtype : node->params.attention.dtype;
        uint64_t two_frames = 2 * (uint64_t)(s.h * s.w * s.c) * dtype_bytes(dtype);
        *(node->kind == OP_CONV ? &p->past_bytes : &p->past_bytes_per_frame) += two_frames;
    }
}

static uint64_t limit_of(const model *m, const ctok_request *r) {
    uint64_t own = r->max_memory_bytes, of_model = m->max_memory_bytes;
    return own && (!of_model || own < of_model) ? own : of_model;
}

// Refuses, before any work, what the limits or the device's memory cannot hold.
// Limit: input and results of a device with memory of its own are not held against the host's.
static ctok_status check_memory(request_memory *out, const program *p, const model *m,
                                const ctok_request *r, size_t held_arena_bytes, ctok_error *error) {
    request_memory needs = {.state_bytes =
                                p->past_bytes + p->past_bytes_per_frame *
                                                    (uint64_t)stream_capacity(r->state_frames)};
    needs.external_bytes = p->input_image_bytes * (uint64_t)r->batch;
    for (int32_t i = 0; i < p->num_outputs; i++) needs.external_bytes += p->outputs[i].bytes;
    if (__builtin_mul_overflow(needs.external_bytes, (uint64_t)r->num_held, &needs.external_bytes))
        needs.external_bytes = INT64_MAX;
    if (needs.external_bytes > INT64_MAX) needs.external_bytes = INT64_MAX;
    uint64_t arena = program_arena_bytes(p);
    if (arena < held_arena_bytes) arena = held_arena_bytes;
    uint64_t on_device = arena + m->weight_bytes + needs.state_bytes, limit = limit_of(m, r),
             memory, available;
    needs.total_bytes = on_device + needs.external_bytes;
    *out = needs;
    m->backend->memory_bytes(m->backend, &memory, &available);
    bool is_limited = limit && needs.total_bytes > limit;
    uint64_t needed = is_limited || m->backend->is_host_memory ? needs.total_bytes : on_device;
    if (!is_limited && needed <= memory) return CTOK_OK;
    char found[80];
    if (is_limited)
        snprintf(found, sizeof found, "the limit (max_memory_bytes) is %llu",
                 (unsigned long long)limit);
    else
        snprintf(found, sizeof found, "%s has %llu",
                 m->backend->is_host_memory ? "this machine" : m->backend->device,
                 (unsigned long long)memory);
    return ctok_fail(error, CTOK_E_MEMORY, (int64_t)needed,
                     "%lld x %lld x %lld pixels need %llu bytes (activations %llu, weights %llu, "
                     "state %llu, inputs and results %llu), and %s",
                     (long long)p->frame.padded_frames, (long long)p->frame.padded_height,
                     (long long)p->frame.padded_width, (unsigned long long)needed,
                     (unsigned long long)arena, (unsigned long long)m->weight_bytes,
                     (unsigned long long)needs.state_bytes,
                     (unsigned long long)needs.external_bytes, found);
}

static size_t input_image_bytes(const program *p, const description *d) {
    size_t area = (size_t)p->request.frames * (size_t)p->request.height * (size_t)p->request.width;
    switch (p->request.input) {
        case CTOK_PIXELS_U8: return area * 3;
        case CTOK_PIXELS_F32: return area * 3 * sizeof(float);
        case CTOK_INDICES: return area * sizeof(int32_t);
        default: return area * (size_t)d->latent_channels * sizeof(float);
    }
}

// Builds the graph of the half or halves that the request needs.
static void build_graph(program *p, const model *m) {
    const description *d = &m->description;
    const ctok_request *r = &p->request;
    network_outputs outputs = add_outputs(p, d);
    external_format pixels_in =
        r->input == CTOK_PIXELS_U8 ? EXTERNAL_PIXELS_U8 : EXTERNAL_F32_NCTHW;
    external_format pixels_out =
        r->outputs & CTOK_PIXELS_U8 ? EXTERNAL_PIXELS_U8 : EXTERNAL_F32_NCTHW;
    int32_t latent;
    if (r->task != CTOK_TASK_DECODE) {
        latent = d->family->encode(&p->graph, d, p->frame, pixels_in, outputs);
    } else {
        p->first_layer = m->first_decoder_layer;
        latent =
            r->input == CTOK_INDICES
                ? family_load_indices(&p->graph, d, p->frame.images, r->frames, r->height, r->width)
                : family_load_latent(&p->graph, d, p->frame.images, r->frames, r->height, r->width);
    }
    if (r->task == CTOK_TASK_DECODE && r->outputs & CTOK_CODES)
        family_store_codes(&p->graph, latent, outputs.codes);
    if (outputs.pixels != GRAPH_NONE)
        d->family->decode(&p->graph, d, latent, p->frame, pixels_out, outputs);
}

// The program of passes of so many images, without its last one where that has fewer.
static ctok_status make_pass(program **out, const model *m, const ctok_request *checked,
                             int64_t images, ctok_error *error) {
    program *p = calloc(1, sizeof *p);
    if (!p) return ctok_fail(error, CTOK_E_MEMORY, sizeof *p, "no memory for a program");
    atomic_init(&p->references, 1);
    p->request = *checked, p->graph.dtype = m->dtype, p->backend = m->shared->backend;
    p->frame.images = images;
    ctok_status status = find_frame(&p->frame, &m->description, &p->request, error);
    if (status == CTOK_OK) {
        p->input_image_bytes = input_image_bytes(p, &m->description);
        build_graph(p, m);
        status = plan_make(&p->plan, &p->graph, m->backend, error);
    }
    if (status != CTOK_OK) {
        program_release(p);
        return status;
    }
    p->num_steps = bind_count(&p->graph, p->request.chunk != CTOK_CHUNK_NONE);
    count_state(p);
    *out = p;
    return CTOK_OK;
}

static ctok_status make_passes(program **out, const model *m, const ctok_request *checked,
                               int64_t images, ctok_error *error) {
    program *p = NULL;
    CTOK_TRY(make_pass(&p, m, checked, images, error));
    int64_t rest = checked->batch % images;
    ctok_status status = rest ? make_pass(&p->rest, m, checked, rest, error) : CTOK_OK;
    if (status == CTOK_OK) *out = p;
    else program_release(p);
    return status;
}

// Makes the program with so many images a pass, if that is worth while on the device and fits.
static program *make_if_held(const model *m, const ctok_request *checked, int64_t images) {
    program *p = NULL;
    request_memory memory;
    if (make_passes(&p, m, checked, images, NULL) != CTOK_OK) return NULL;
    if (program_arena_bytes(p) <= m->backend->pass_bytes &&
        check_memory(&memory, p, m, checked, 0, NULL) == CTOK_OK)
        return p;
    program_release(p);
    return NULL;
}

// The most images of a pass that two plans promise: further ones add as much to the arena as the
// second, or less.
static int64_t estimate_images(const program *one, const program *two, const model *m) {
    int64_t first = (int64_t)one->plan.arena_bytes, next = (int64_t)two->plan.arena_bytes - first,
            room = (int64_t)m->backend->pass_bytes - first;
    request_memory memory;
    uint64_t limit = limit_of(m, &one->request);
    check_memory(&memory, one, m, &one->request, 0, NULL);
    int64_t left = (int64_t)limit - (int64_t)memory.total_bytes;
    if (limit && left < room) room = left;
    int64_t images = 1 + room / (next > 0 ? next : 1);
    return images < one->request.batch ? images : one->request.batch;
}

// Makes a request's program: of a batch, with as few passes as are worth while and fit, as equal as
// can be. With one image a pass it is made in any case, and what refuses that refuses the batch.
static ctok_status make(program **out, const model *m, const ctok_request *checked,
                        ctok_error *error) {
    int64_t batch = checked->batch;
    CTOK_TRY(make_passes(out, m, checked, 1, error));
    program *best = batch > 1 ? make_if_held(m, checked, 2) : NULL;
    for (int64_t most = best ? estimate_images(*out, best, m) : 1; most > 2;) {
        int64_t passes = (batch + most - 1) / most, images = (batch + passes - 1) / passes;
        program *more = images > 2 ? make_if_held(m, checked, images) : NULL;
        if (more) {
            program_release(best);
            best = more;
            break;
        }
        most = images - 1;
    }
    if (best) {
        program_release(*out);
        *out = best;
    }
    return CTOK_OK;
}

ctok_status request_make_one_by_one(program **out, const program *batch, const model *m,
                                    ctok_error *error) {
    return make_passes(out, m, &batch->request, 1, error);
}

ctok_status request_make(program **out, request_memory *memory, model *m,
                         const ctok_request *request, size_t held_arena_bytes, ctok_error *error) {
    ctok_request checked = *request;
    CTOK_TRY(check_request(m, &checked, error));
    program *p = program_find(&m->programs, &checked);
    bool is_new = !p;
    if (is_new) CTOK_TRY(make(&p, m, &checked, error));
    ctok_status status = check_memory(memory, p, m, &checked, held_arena_bytes, error);
    if (status != CTOK_OK) {
        program_release(p);
        return status;
    }
    if (is_new) program_keep(&m->programs, p);
    *out = p;
    return CTOK_OK;
}
