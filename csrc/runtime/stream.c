// Opens streams and keeps the order of their chunks.
#include <stdlib.h>

#include "engine.h"
#include "stream.h"

static void destroy(object *self) {
    stream *s = (stream *)self;
    stream_state_free(&s->state);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

ctok_status stream_open(uint32_t *id, model *m, const ctok_stream_options *options,
                        ctok_error *error) {
    if (!m->description.is_video)
        return ctok_fail(error, CTOK_E_UNSUPPORTED, 0,
                         "%s is an image tokenizer: expected a video tokenizer for a stream",
                         m->description.name);
    stream *s = calloc(1, sizeof *s);
    if (!s) return ctok_fail(error, CTOK_E_MEMORY, sizeof *s, "no memory for a stream");
    object_init(&s->base, OBJECT_STREAM, &m->base, destroy);
    pthread_mutex_init(&s->lock, NULL);
    s->model = m;
    s->task = options->task;
    s->state = (stream_state){.backend = m->backend,
                              .attention_frames = options->attention_frames,
                              .held_bytes = &((engine *)m->base.owner)->state_bytes};
    ctok_status status = ids_add(&s->base, error);
    if (status == CTOK_OK) *id = s->base.id;
    object_release(&s->base);
    return status;
}

// Frames of tokens in the chunk; 0 for counts that are refused later.
static int64_t token_frames(const stream *s, const ctok_request *request) {
    int64_t frames = request->frames ? request->frames : 1,
            alone = request->chunk == CTOK_CHUNK_FIRST;
    if (frames < 0 || frames > UINT32_MAX) return 0;
    return s->task == CTOK_TASK_DECODE
               ? frames
               : (frames - alone) / s->model->description.temporal_factor + alone;
}

ctok_status stream_describe(stream *s, ctok_request *request, ctok_error *error) {
    bool is_first = s->num_submitted == 0;
    if (is_first) s->height = request->height, s->width = request->width;
    request->task = s->task;
    request->chunk = is_first ? CTOK_CHUNK_FIRST : CTOK_CHUNK_LATER;
    int64_t held = s->num_kept + token_frames(s, request);
    request->state_frames = held > s->most_kept ? held : s->most_kept;
    if (request->height == s->height && request->width == s->width) return CTOK_OK;
    return ctok_fail(error, CTOK_E_SHAPE, 0,
                     "expected chunks of %lld x %lld as the first, found %lld x %lld",
                     (long long)s->height, (long long)s->width, (long long)request->height,
                     (long long)request->width);
}

void stream_advance(stream *s, const ctok_request *request) {
    int64_t held = s->num_kept + token_frames(s, request), kept = s->state.attention_frames - 1;
    s->num_submitted++;
    s->num_kept = kept >= 0 && held > kept ? kept : held;
    s->most_kept = request->state_frames;
}
