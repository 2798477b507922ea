// Opens streams and keeps the order of their chunks.
#include <stdlib.h>

#include "stream.h"

static void destroy(object *self) {
    stream *s = (stream *)self;
    stream_state_free(&s->state);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

ctok_status stream_open(uint32_t *id, model *m, const ctok_stream_options *options, ctok_error *error) {
    if (!m->variant.is_video) return ctok_fail(error, CTOK_E_UNSUPPORTED, 0, "%s is an image tokenizer: expected a video tokenizer for a stream", m->variant.name);
    stream *s = calloc(1, sizeof *s);
    if (!s) return ctok_fail(error, CTOK_E_MEMORY, sizeof *s, "no memory for a stream");
    object_init(&s->base, OBJECT_STREAM, &m->base, destroy);
    pthread_mutex_init(&s->lock, NULL);
    s->model = m;
    s->task = options->task;
    s->state = (stream_state){.backend = m->backend, .attention_frames = options->attention_frames};
    ctok_status status = ids_add(&s->base, error);
    if (status == CTOK_OK) *id = s->base.id;
    object_release(&s->base);
    return status;
}

ctok_status stream_describe(stream *s, ctok_request *request, ctok_error *error) {
    bool is_first = s->num_submitted == 0;
    if (is_first) s->height = request->height, s->width = request->width;
    request->task = s->task;
    request->chunk = is_first ? CTOK_CHUNK_FIRST : CTOK_CHUNK_LATER;
    if (request->height == s->height && request->width == s->width) return CTOK_OK;
    return ctok_fail(error, CTOK_E_SHAPE, 0, "expected chunks of %lld x %lld as the first, found %lld x %lld", (long long)s->height,
                     (long long)s->width, (long long)request->height, (long long)request->width);
}
