// Streams and graphs of the emulator: launches and copies in order. A stream does its work when it
// is given, or, with emulator_settings.is_stream_late, when something waits for it: the other end
// of what a device may do. A copy from the host that was given and then changed, or whose memory
// was freed, is found; what a copy to the host will overwrite is no value until then. After a
// finding the rest of a stream's work is dropped. Who calls it: cuda_runtime_api.h, emulator.cpp.
#include <cstdlib>
#include <deque>
#include <set>
#include <vector>

#include "emulator_parts.h"

using emulator::kept_launch;

struct emulator_graph {
    std::vector<kept_launch> launches;
};
static emulator_graph *captured;  // NULL: launches run

namespace emulator {
namespace {
struct work {
    bool is_copy;
    kept_launch launch;
    void *to;
    const void *from;
    size_t num_bytes;
    emulator_direction direction;
    uint64_t content;  // of `from`, where it is the host's
};
}  // namespace
}  // namespace emulator

struct emulator_queue {
    std::deque<emulator::work> waiting;
    int error;  // the first since the last wait
};
static std::vector<cudaStream_t> streams;

namespace emulator {
namespace {
uint64_t hash(const void *memory, size_t num_bytes) {
    uint64_t sum = num_bytes;
    for (size_t i = 0; i < num_bytes; i++)
        sum = (sum ^ ((const uint8_t *)memory)[i]) * 0x100000001B3u;
    return sum;
}

int check_copy(const work &w, const char *when) {
    const bool is_to_host = w.direction == EMULATOR_TO_HOST,
               is_from_host = w.direction == EMULATOR_FROM_HOST;
    const char *to = is_to_host ? wrong_pinned(w.to, w.num_bytes) : wrong_device(w.to, w.num_bytes),
               *from = is_from_host ? wrong_pinned(w.from, w.num_bytes)
                                    : wrong_device(w.from, w.num_bytes);
    if (to) return find("a copy of %zu bytes, %s: its target is %s", w.num_bytes, when, to);
    if (from) return find("a copy of %zu bytes, %s: its source is %s", w.num_bytes, when, from);
    return 0;
}

int do_work(const work &w) {
    if (!w.is_copy) return run_launch(w.launch);
    if (int error = check_copy(w, "when it is made")) return error;
    if (w.direction == EMULATOR_FROM_HOST && emulator_settings.is_stream_late &&
        hash(w.from, w.num_bytes) != w.content)
        return find("a copy of %zu bytes: the host's memory was changed before it was made",
                    w.num_bytes);
    memcpy(w.to, w.from, w.num_bytes);
    return 0;
}

int give(cudaStream_t stream, work w) {
    stream->num_given++;
    if (!emulator_settings.is_stream_late && stream->queue->waiting.empty()) {
        stream->num_done++;
        return do_work(w);
    }
    stream->queue->waiting.push_back(std::move(w));
    return 0;
}

// All that was given up to `position`.
void catch_up(cudaStream_t stream, uint64_t position) {
    emulator_queue *q = stream->queue;
    while (stream->num_done < position && !q->waiting.empty()) {
        work w = std::move(q->waiting.front());
        q->waiting.pop_front(), stream->num_done++;
        if ((q->error = do_work(w)) == 0) continue;
        stream->num_done = stream->num_given, q->waiting.clear();
    }
}
}  // namespace

static std::set<const void *> loaded;

int load(const void *kernel) {
    std::lock_guard<std::recursive_mutex> guard(lock);
    if (loaded.count(kernel)) return 0;
    if (captured && emulator_settings.is_capture_strict) return CAPTURE_UNSUPPORTED;
    loaded.insert(kernel);
    return 0;
}

bool keep_in_capture(const kept_launch &l) {
    if (captured) captured->launches.push_back(l);
    return captured;
}

int stream_launch(cudaStream_t stream, const kept_launch &l) {
    return give(stream, {false, l, nullptr, nullptr, 0, EMULATOR_WITHIN, 0});
}
}  // namespace emulator

// ---------------------------------------------------------------- the runtime's side
typedef std::lock_guard<std::recursive_mutex> locked;

cudaStream_t emulator_stream_make(const void *mark) {
    locked guard(emulator::lock);
    cudaStream_t stream = new CUstream_st{mark, 0, 0, new emulator_queue()};
    streams.push_back(stream);
    return stream;
}

void emulator_stream_free(cudaStream_t stream) {
    locked guard(emulator::lock);
    for (size_t i = 0; i < streams.size(); i++)
        if (streams[i] == stream) streams.erase(streams.begin() + (ptrdiff_t)i);
    delete stream->queue;
    delete stream;
}

int emulator_stream_wait(cudaStream_t stream, uint64_t position) {
    locked guard(emulator::lock);
    emulator::catch_up(stream, position);
    int error = stream->queue->error;
    stream->queue->error = 0;
    return error;
}

void emulator_wait_all(void) {
    locked guard(emulator::lock);
    for (cudaStream_t stream : streams) emulator::catch_up(stream, stream->num_given);
}

void emulator_drop_all(void) {
    locked guard(emulator::lock);
    for (cudaStream_t stream : streams)
        stream->queue->waiting.clear(), stream->num_done = stream->num_given;
}

int emulator_copy(cudaStream_t stream, void *to, const void *from, size_t num_bytes,
                  emulator_direction direction) {
    locked guard(emulator::lock);
    emulator::work w = {true, {}, to, from, num_bytes, direction, 0};
    if (int error = emulator::check_copy(w, "when it is asked for")) return error;
    if (emulator_settings.is_stream_late && direction == EMULATOR_FROM_HOST)
        w.content = emulator::hash(from, num_bytes);
    bool is_source = false;  // of a copy before, which this one follows
    for (const emulator::work &other : stream->queue->waiting)
        is_source |= (const char *)other.from < (char *)to + num_bytes &&
                     (char *)to < (const char *)other.from + other.num_bytes;
    if (emulator_settings.is_stream_late && direction == EMULATOR_TO_HOST && !is_source)
        memset(to, 0xA5, num_bytes);
    return emulator::give(stream, std::move(w));
}

// ---------------------------------------------------------------- graphs
void emulator_unload(void) { emulator::loaded.clear(); }
void emulator_capture_begin(void) { captured = new emulator_graph(); }
emulator_graph *emulator_capture_end(void) {
    emulator_graph *graph = captured;
    captured = nullptr;
    return graph;
}
emulator_graph *emulator_graph_copy(const emulator_graph *graph) {
    return new emulator_graph(*graph);
}
void emulator_graph_free(emulator_graph *graph) { delete graph; }

int emulator_graph_run(const emulator_graph *graph, cudaStream_t stream) {
    for (const kept_launch &l : graph->launches)
        if (int error = emulator::launch(l, stream)) return error;
    return 0;
}
