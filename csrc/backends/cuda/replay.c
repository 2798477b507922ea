// See replay.h.
#ifdef CTOK_HAS_CUDA
#include "replay.h"

#include <stdlib.h>
#include <string.h>

static void list_free(replay_list *l) {
    if (l->graph) cudaGraphExecDestroy(l->graph);
    free(l->ops);
    *l = (replay_list){0};
}

void replay_close(replay *r) {
    for (int i = 0; i < REPLAY_LISTS; i++) list_free(&r->kept[i]);
}

void replay_forget(replay *r) { atomic_store(&r->is_stale, true); }

// A kept list that begins with `now`, or with is_whole is it; NULL when there is none.
static replay_list *find(replay *r, bool is_whole) {
    for (int i = 0; i < REPLAY_LISTS; i++) {
        replay_list *l = &r->kept[i];
        int32_t same = 0;
        if (is_whole ? l->num_ops != r->num_now : l->num_ops < r->num_now) continue;
        while (same < r->num_now && op_is_same(&l->ops[same], &r->now[same])) same++;
        if (same == r->num_now) return l;
    }
    return NULL;
}

replay_ops replay_add(replay *r, const op *next) {
    bool is_first = r->num_now == 0;
    if (is_first) {
        if (atomic_exchange(&r->is_stale, false)) replay_close(r);
        r->is_too_large = atomic_load(&op_left_out) & OP_GRAPHS, r->products = 0;
    } else if (r->is_too_large && r->num_now > 2) {  // the last two are enough: one started, and one that is not
        memmove(r->now, &r->now[r->num_now - 2], 2 * sizeof(op));
        r->num_now = 2, r->num_started = 1;
    }
    bool was_held = r->num_started == 0;
    r->now[r->num_now++] = *next;
    r->products += op_products(next);
    r->is_too_large |= r->num_now > REPLAY_MOST_OPS || r->products > REPLAY_MOST_PRODUCTS;
    if (r->is_too_large || !was_held) r->follows = NULL;
    else if (!r->follows || r->follows->num_ops < r->num_now || !op_is_same(&r->follows->ops[r->num_now - 1], next)) r->follows = find(r, false);
    replay_ops ready = {r->now, r->num_started, r->num_now - 1, r->num_now};
    if (r->follows) return (replay_ops){0};
    r->num_started = ready.end;
    return ready;
}

// ---------------------------------------------------------------- the end of a list
static void keep(replay *r) {
    if (r->num_now < REPLAY_LEAST_OPS) return;
    replay_list *oldest = &r->kept[0];
    for (int i = 1; i < REPLAY_LISTS; i++)
        if (r->kept[i].last_use < oldest->last_use) oldest = &r->kept[i];
    list_free(oldest);
    oldest->ops = malloc((size_t)r->num_now * sizeof(op));
    if (!oldest->ops) return;
    memcpy(oldest->ops, r->now, (size_t)r->num_now * sizeof(op));
    oldest->num_ops = r->num_now, oldest->last_use = ++r->num_lists;
}

// Whatever fails here is not told: the ops are then started one by one, and tell for themselves.
static bool capture(replay_list *l, const op_device *device) {
    cudaGraph_t graph = NULL;
    int failed = cudaStreamBeginCapture(device->stream, cudaStreamCaptureModeThreadLocal);  // other threads may allocate meanwhile
    if (!failed) {
        for (int32_t i = 0; i < l->num_ops && !failed;) failed = op_start(l->ops, &i, l->num_ops, l->num_ops, device);
        int ended = cudaStreamEndCapture(device->stream, &graph);  // whatever happened: the stream computes again
        if (!failed) failed = ended;
    }
    if (!failed) failed = cudaGraphInstantiate(&l->graph, graph, 0);
    if (failed) l->graph = NULL;
    if (graph) cudaGraphDestroy(graph);
    cudaGetLastError();
    l->is_refused = failed != 0;
    return !failed;
}

bool replay_end(replay *r, const op_device *device, replay_ops *rest, cudaError_t *error) {
    *rest = (replay_ops){r->now, r->num_started, r->num_now, r->num_now};
    replay_list *l = r->follows ? find(r, true) : NULL;
    if (!l && !r->is_too_large) keep(r);
    replay_drop(r);
    if (!l) return false;
    l->last_use = ++r->num_lists;
    if (l->is_refused || (!l->graph && !capture(l, device))) return false;
    *error = cudaGraphLaunch(l->graph, device->stream);
    return true;
}

void replay_drop(replay *r) { r->num_now = r->num_started = 0, r->follows = NULL; }
#endif
