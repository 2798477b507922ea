// See program.h.
#include "program.h"

#include <stdlib.h>
#include <string.h>

// Whether two requests give the same program: they agree in everything that steps and sizes depend
// on. The number of images of a pass depends on what memory a batch may take.
static bool is_same(const ctok_request *a, const ctok_request *b) {
    ctok_request shapes[2] = {*a, *b};
    for (int i = 0; i < 2 && a->batch == 1; i++)
        shapes[i].num_held = 0, shapes[i].state_frames = 0, shapes[i].max_memory_bytes = 0;
    _Static_assert(sizeof(ctok_request) == 6 * sizeof(uint32_t) + 12 * sizeof(int64_t), "no gaps");
    return memcmp(&shapes[0], &shapes[1], sizeof shapes[0]) == 0;
}

int64_t program_num_passes(const program *p) {
    return (p->request.batch + p->frame.images - 1) / p->frame.images;
}

size_t program_arena_bytes(const program *p) {
    size_t whole = p->plan.arena_bytes, rest = p->rest ? p->rest->plan.arena_bytes : 0;
    return whole > rest ? whole : rest;
}

static void put_first(program_cache *cache, int from, program *p) {
    memmove(&cache->kept[1], &cache->kept[0], (size_t)from * sizeof(program *));
    cache->kept[0] = p;
}

program *program_find(program_cache *cache, const ctok_request *request) {
    program *found = NULL;
    pthread_mutex_lock(&cache->lock);
    for (int i = 0; i < PROGRAMS_KEPT && cache->kept[i] && !found; i++) {
        if (!is_same(&cache->kept[i]->request, request)) continue;
        found = cache->kept[i];
        put_first(cache, i, found);
        atomic_fetch_add(&found->references, 1);
    }
    pthread_mutex_unlock(&cache->lock);
    return found;
}

void program_keep(program_cache *cache, program *p) {
    atomic_fetch_add(&p->references, 1);
    pthread_mutex_lock(&cache->lock);
    program *oldest = cache->kept[PROGRAMS_KEPT - 1];
    put_first(cache, PROGRAMS_KEPT - 1, p);
    pthread_mutex_unlock(&cache->lock);
    program_release(oldest);
}

void program_release(program *p) {
    if (!p || atomic_fetch_sub(&p->references, 1) != 1) return;
    for (int i = 0; i < LISTS_KEPT; i++) {
        bound_list *l = &p->bound[i];
        if (l->list.prepared) p->backend->forget(p->backend, &l->list);
        free(l->list.steps), free(l->pasts);
    }
    program_release(p->rest);
    graph_free(&p->graph);
    plan_free(&p->plan);
    free(p);
}

void program_cache_free(program_cache *cache) {
    for (int i = 0; i < PROGRAMS_KEPT; i++) program_release(cache->kept[i]);
    pthread_mutex_destroy(&cache->lock);
}
