// The emulator: how a block runs, and what is checked.
//   scheduler   takes a random ready fiber, runs it until it waits, again until all have returned;
//               nobody ready: deadlock
//   fiber       one CUDA thread on a stack of its own; waits in sync_threads (all of the block) or
//               warp_meet (its 32 lanes)
//   shadow      a cell for each 2 bytes of shared memory: who wrote and read it last, and when.
//               Time is the number of block barriers passed, and within a warp the number of
//               __syncwarp: two accesses are ordered when one lies between.
//   copies      cp.async of each thread, oldest first; a cell is "under way" from the issue until
//               its thread has waited
//   guards      global allocations lie between pages that fault; the signal ends the launch with a
//               report
// To add TMA, mbarrier and WGMMA: their copies are async_copy with another owner than a thread,
// mbarriers a second kind of waiting (and is_ordered then needs a clock for each warp), WGMMA a
// meeting of four warps. The first failure ends the launch: the fibers are dropped where they stand
// (kernels own nothing that must be destroyed).
#include <sys/mman.h>
#include <ucontext.h>

#include <csetjmp>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <set>
#include <vector>

#include "cuda_runtime.h"
#include "emulator.h"

dim3 threadIdx, blockIdx, blockDim, gridDim;
emulator_options emulator_settings;
int emulator_num_launches;
int emulator_fail_in;

// A kernel with its arguments, as it was started.
struct kept_launch {
    const char *name;
    dim3 grid, block;
    size_t shared_bytes;
    std::function<void()> body;
};
struct emulator_graph {
    std::vector<kept_launch> launches;
};
static emulator_graph *captured;  // NULL: launches run

namespace emulator {
namespace {
constexpr size_t STACK_BYTES = 64 * 1024, SHARED_MOST = 232448, PAGE = 4096;
constexpr int MAX_THREADS = 1024;
constexpr int CAPTURE_UNSUPPORTED = 900;                // cudaErrorStreamCaptureUnsupported
constexpr int FAILED_LAUNCH = 719, INVALID_LAUNCH = 1;  // cudaErrorLaunchFailure,
                                                        // cudaErrorInvalidValue

struct copy {
    int64_t offset;
    const void *from;
    size_t num_bytes, num_written;
    int64_t group;
};

enum fiber_state { READY, IN_BARRIER, IN_WARP, RETURNED };
const char *const state_names[] = {"runs", "waits at __syncthreads", "waits in a warp operation",
                                   "has returned"};

struct fiber {
    dim3 index;
    fiber_state state;
    bool is_started;
    ucontext_t start;
    jmp_buf resume;
    std::vector<copy> copies;  // not yet waited for
    int64_t group;             // the open one
};

struct warp {
    warp_op op;
    void *operands[NUM_LANES];
    int num_arrived;
    uint32_t epoch;  // __syncwarps passed
};

enum cell_state : uint8_t { UNWRITTEN, UNDER_WAY, WRITTEN };

struct cell {
    uint32_t write_epoch, write_warp_epoch, read_epoch, read_warp_epoch;
    int16_t writer, reader;  // threads
    cell_state state;
    bool is_read_by_lanes, is_read_by_warps;  // by more than one since the last barrier
};

char failure_text[512];
jmp_buf scheduler, launch_end;
bool is_running;
uint32_t random_state;

fiber fibers[MAX_THREADS];
warp warps[MAX_THREADS / NUM_LANES];
int num_threads, current, num_in_barrier, ready[MAX_THREADS], num_ready;
uint32_t block_epoch;
char *stacks;

size_t shared_bytes;
alignas(1024) unsigned char shared_memory[SHARED_MOST];
cell shadow[SHARED_MOST / 2];

const std::function<void()> *kernel_body;
const char *kernel_name;

uint32_t random_below(uint32_t count) {
    random_state = random_state * 1664525u + 1013904223u;
    return (uint32_t)((uint64_t)random_state * count >> 32);
}

// ---------------------------------------------------------------- fibers
void make_ready(int thread) {
    fibers[thread].state = READY;
    ready[num_ready++] = thread;
}

void wait_in(fiber_state state) {
    fibers[current].state = state;
    if (_setjmp(fibers[current].resume) == 0) _longjmp(scheduler, 1);
}

void fiber_main() {
    (*kernel_body)();
    fibers[current].state = RETURNED;
    _longjmp(scheduler, 1);
}

void resume(int thread) {
    fiber &f = fibers[thread];
    current = thread, threadIdx = f.index;
    if (_setjmp(scheduler) != 0) return;
    if (f.is_started) _longjmp(f.resume, 1);
    f.is_started = true;
    setcontext(&f.start);
}

void start_block() {
    num_ready = 0, num_in_barrier = 0, block_epoch = 1;
    memset(shared_memory, 0xFF, shared_bytes);
    memset(shadow, 0, (shared_bytes + 1) / 2 * sizeof(cell));
    for (int i = 0; i < num_threads; i++) {
        fiber &f = fibers[i];
        unsigned x = (unsigned)i % blockDim.x, y = (unsigned)i / blockDim.x % blockDim.y;
        f.index = dim3(x, y, (unsigned)i / blockDim.x / blockDim.y), f.is_started = false,
        f.group = 0;
        f.copies.clear();
        getcontext(&f.start);
        f.start.uc_stack.ss_sp = stacks + (size_t)i * STACK_BYTES,
        f.start.uc_stack.ss_size = STACK_BYTES, f.start.uc_link = nullptr;
        makecontext(&f.start, fiber_main, 0);
        make_ready(i);
    }
    memset(warps, 0, sizeof warps);
}

[[noreturn]] void report_deadlock() {
    int waiting = 0, other = 0;
    while (fibers[waiting].state == RETURNED) waiting++;
    while (other < num_threads - 1 && fibers[other].state == fibers[waiting].state) other++;
    current = waiting;
    if (fibers[waiting].state == IN_WARP)
        fail("not reached by all lanes: thread %d %s, thread %d %s", waiting, state_names[IN_WARP],
             other, state_names[fibers[other].state]);
    fail("barrier not reached by all: thread %d %s, thread %d %s", waiting,
         state_names[fibers[waiting].state], other, state_names[fibers[other].state]);
}

void run_block() {
    start_block();
    for (int num_returned = 0; num_returned < num_threads;) {
        if (num_ready == 0) report_deadlock();
        uint32_t pick = random_below((uint32_t)num_ready);
        int thread = ready[pick];
        ready[pick] = ready[--num_ready];
        resume(thread);
        num_returned += fibers[thread].state == RETURNED;
    }
}

// ---------------------------------------------------------------- shadow Whether an access at
// (epoch, warp_epoch) by `thread` came before what the current thread does now.
bool is_ordered(int thread, uint32_t epoch, uint32_t warp_epoch) {
    if (thread == current || epoch != block_epoch) return true;
    return thread / NUM_LANES == current / NUM_LANES &&
           warp_epoch != warps[current / NUM_LANES].epoch;
}

void check_read(cell &c, int64_t offset) {
    if (c.state == UNWRITTEN)
        fail("shared byte %lld is read, and nothing wrote it", (long long)offset);
    if (c.state == UNDER_WAY)
        fail("shared byte %lld is read before the copy to it has completed (thread %d issued it)",
             (long long)offset, c.writer);
    if (!is_ordered(c.writer, c.write_epoch, c.write_warp_epoch))
        fail("race: shared byte %lld is read without a barrier after thread %d wrote it",
             (long long)offset, c.writer);
    uint32_t warp_epoch = warps[current / NUM_LANES].epoch;
    bool is_same_warp = c.reader / NUM_LANES == current / NUM_LANES;
    if (c.read_epoch != block_epoch) c.is_read_by_lanes = c.is_read_by_warps = false;
    else if (!is_same_warp) c.is_read_by_warps = true;
    else if (c.read_warp_epoch != warp_epoch) c.is_read_by_lanes = false;
    else if (c.reader != current) c.is_read_by_lanes = true;
    c.reader = (int16_t)current, c.read_epoch = block_epoch, c.read_warp_epoch = warp_epoch;
}

bool is_read_unordered(const cell &c) {
    if (c.read_epoch != block_epoch) return false;
    if (c.is_read_by_warps || c.reader / NUM_LANES != current / NUM_LANES) return true;
    return c.read_warp_epoch == warps[current / NUM_LANES].epoch &&
           (c.is_read_by_lanes || c.reader != current);
}

void check_write(cell &c, int64_t offset, cell_state next) {
    if (c.state == UNDER_WAY)
        fail("shared byte %lld is written while a copy to it is under way (thread %d issued it)",
             (long long)offset, c.writer);
    if (c.state == WRITTEN && !is_ordered(c.writer, c.write_epoch, c.write_warp_epoch))
        fail("race: shared byte %lld is written without a barrier after thread %d wrote it",
             (long long)offset, c.writer);
    if (is_read_unordered(c))
        fail("race: shared byte %lld is written without a barrier after thread %d read it",
             (long long)offset, c.reader);
    c.state = next, c.writer = (int16_t)current, c.write_epoch = block_epoch,
    c.write_warp_epoch = warps[current / NUM_LANES].epoch;
}

void check_range(int64_t offset, size_t num_bytes, size_t alignment) {
    if (offset < 0 || (size_t)offset + num_bytes > shared_bytes)
        fail("out of bounds: shared bytes %lld to %lld of %zu", (long long)offset,
             (long long)offset + (long long)num_bytes - 1, shared_bytes);
    if (offset % (int64_t)alignment)
        fail("misaligned: shared byte %lld, not a multiple of %zu", (long long)offset, alignment);
}

void land(const copy &c) {
    memcpy(shared_memory + c.offset, c.from, c.num_bytes);
    memset(shared_memory + c.offset + c.num_bytes, 0, c.num_written - c.num_bytes);
}
}  // namespace

void fail(const char *format, ...) {
    char text[400];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    snprintf(failure_text, sizeof failure_text, "%s, block (%u,%u,%u), thread %d: %s", kernel_name,
             blockIdx.x, blockIdx.y, blockIdx.z, current, text);
    _longjmp(launch_end, 1);
}

void *shared_access(int64_t offset, size_t num_bytes, size_t alignment, copy_kind kind) {
    check_range(offset, num_bytes, alignment);
    for (int64_t at = offset; at < offset + (int64_t)num_bytes; at += 2) {
        if (kind == READ) check_read(shadow[at / 2], at);
        else check_write(shadow[at / 2], at, WRITTEN);
    }
    return shared_memory + offset;
}

// ---------------------------------------------------------------- cp.async
void async_copy(int64_t offset, const void *from, size_t num_bytes, size_t num_written) {
    check_range(offset, num_written, num_written);
    if ((uintptr_t)from % num_written)
        fail("misaligned: a copy of %zu bytes from %p", num_written, from);
    if (num_bytes > num_written) fail("a copy of %zu bytes reads %zu", num_written, num_bytes);
    (void)*(const volatile char *)from;  // valid even where nothing is read
    for (int64_t at = offset; at < offset + (int64_t)num_written; at += 2)
        check_write(shadow[at / 2], at, UNDER_WAY);
    copy c = {offset, from, num_bytes, num_written, fibers[current].group};
    if (!emulator_settings.is_late) land(c);
    fibers[current].copies.push_back(c);
}

void async_commit() { fibers[current].group++; }

void async_wait(int num_pending) {
    fiber &f = fibers[current];
    size_t num_done = 0;
    for (; num_done < f.copies.size() && f.copies[num_done].group < f.group - num_pending;
         num_done++) {
        const copy &c = f.copies[num_done];
        if (emulator_settings.is_late) land(c);
        for (int64_t at = c.offset; at < c.offset + (int64_t)c.num_written; at += 2) {
            cell &s = shadow[at / 2];
            s.state = WRITTEN, s.write_epoch = block_epoch,
            s.write_warp_epoch = warps[current / NUM_LANES].epoch;
        }
    }
    f.copies.erase(f.copies.begin(), f.copies.begin() + (ptrdiff_t)num_done);
}

// ---------------------------------------------------------------- meetings
void sync_threads() {
    if (++num_in_barrier < num_threads) return wait_in(IN_BARRIER);
    num_in_barrier = 0, block_epoch++;
    for (int i = 0; i < num_threads; i++) make_ready(i);  // also this thread: the order is new
    wait_in(READY);
}

void warp_meet(warp_op op, void *operand, unsigned mask) {
    warp &w = warps[current / NUM_LANES];
    if (mask != 0xFFFFFFFFu)
        fail("a warp operation with mask %08x: only whole warps are emulated", mask);
    if (w.num_arrived && w.op != op) fail("the lanes of a warp are in different operations");
    w.op = op, w.operands[current % NUM_LANES] = operand;
    if (++w.num_arrived < NUM_LANES) return wait_in(IN_WARP);
    w.num_arrived = 0;
    op(w.operands);
    for (int i = current / NUM_LANES * NUM_LANES, end = i + NUM_LANES; i < end; i++)
        if (i != current) make_ready(i);
}

static void advance_warp(void *const *) { warps[current / NUM_LANES].epoch++; }

void sync_warp(unsigned mask) { warp_meet(advance_warp, nullptr, mask); }

// ---------------------------------------------------------------- global memory
namespace {
constexpr unsigned char MARGIN = 0xA5;

struct allocation {
    char *map, *data;  // map: guard page, pages with the data, guard page
    size_t map_bytes, num_bytes;
    bool is_sparse;
};
std::vector<allocation> allocations;

void *allocate(size_t num_bytes, bool is_sparse) {
    size_t inner = (num_bytes + PAGE) / PAGE * PAGE;  // at least one byte of margin
    if (num_bytes % PAGE == 0 && num_bytes) inner = num_bytes;
    char *map = (char *)mmap(nullptr, inner + 2 * PAGE, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) return nullptr;
    mprotect(map, PAGE, PROT_NONE), mprotect(map + PAGE + inner, PAGE, PROT_NONE);
    size_t shift = emulator_settings.is_end_guarded ? (inner - num_bytes) / 16 * 16 : 0;
    char *data = map + PAGE + shift;
    if (!is_sparse) memset(map + PAGE, MARGIN, inner), memset(data, 0xFF, num_bytes);
    allocations.push_back({map, data, inner + 2 * PAGE, num_bytes, is_sparse});
    return data;
}

// Names a margin that a kernel wrote to.
void check_margins() {
    for (const allocation &a : allocations) {
        if (a.is_sparse) continue;
        for (const char *at = a.map + PAGE; at < a.map + a.map_bytes - PAGE; at++) {
            if (at == a.data) at += a.num_bytes;
            if (at < a.map + a.map_bytes - PAGE && (unsigned char)*at != MARGIN)
                fail(
                    "out of bounds: something was written %lld bytes from the start of an "
                    "allocation of %zu",
                    (long long)(at - a.data), a.num_bytes);
        }
    }
}

void on_signal(int signal, siginfo_t *info, void *) {
    if (!is_running) {
        std::signal(signal, SIG_DFL);
        return;
    }
    if (signal == SIGILL) fail("undefined behaviour: a misaligned address or an integer overflow");
    if (signal == SIGFPE) fail("division by zero");
    const char *at = (const char *)info->si_addr;
    for (const allocation &a : allocations)
        if (at >= a.map && at < a.map + a.map_bytes)
            fail("out of bounds: byte %lld of a global allocation of %zu", (long long)(at - a.data),
                 a.num_bytes);
    fail("out of bounds: address %p is in no allocation", (const void *)at);
}

void prepare() {
    static bool is_prepared;
    if (is_prepared) return;
    is_prepared = true;
    stacks = (char *)mmap(nullptr, MAX_THREADS * STACK_BYTES, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    static char signal_stack[64 * 1024];
    stack_t alternative = {};
    alternative.ss_sp = signal_stack, alternative.ss_size = sizeof signal_stack;
    sigaltstack(&alternative, nullptr);
    struct sigaction action = {};
    action.sa_sigaction = on_signal,
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;  // left by longjmp: never block
    for (int signal : {SIGSEGV, SIGBUS, SIGILL, SIGFPE}) sigaction(signal, &action, nullptr);
}
}  // namespace

// ---------------------------------------------------------------- launch
static std::set<const void *> loaded;

int load(const void *kernel) {
    bool is_first = !loaded.count(kernel);
    if (is_first && captured && emulator_settings.is_capture_strict) return CAPTURE_UNSUPPORTED;
    if (is_first) loaded.insert(kernel);
    return 0;
}

int launch(const char *name, dim3 grid, dim3 block, size_t bytes,
           const std::function<void()> &body) {
    prepare();
    failure_text[0] = 0;
    if (captured) {
        captured->launches.push_back({name, grid, block, bytes, body});
        return 0;
    }
    if (emulator_fail_in && --emulator_fail_in == 0) return INVALID_LAUNCH;
    size_t limit = emulator_settings.shared_limit ? emulator_settings.shared_limit : SHARED_MOST,
           threads = (size_t)block.x * block.y * block.z;
    int64_t num_blocks = (int64_t)grid.x * grid.y * grid.z;
    if (bytes > limit || threads > MAX_THREADS || threads % NUM_LANES || threads == 0 ||
        num_blocks == 0 || grid.x > 0x7FFFFFFFu || grid.y > 65535 || grid.z > 65535) {
        snprintf(
            failure_text, sizeof failure_text,
            "%s: %zu threads, %zu bytes of shared memory or grid (%u,%u,%u) cannot be launched",
            name, threads, bytes, grid.x, grid.y, grid.z);
        return INVALID_LAUNCH;
    }
    kernel_name = name, kernel_body = &body, shared_bytes = bytes;
    gridDim = grid, blockDim = block, num_threads = (int)threads,
    random_state = emulator_settings.seed * 2654435761u;
    is_running = true, emulator_num_launches++;
    if (_setjmp(launch_end) == 0) {
        const emulator_options &o = emulator_settings;
        int64_t first = o.num_blocks ? o.first_block : 0,
                count = o.num_blocks ? o.num_blocks : num_blocks;
        for (int64_t i = 0; i < count; i++) {
            int64_t b = first + (o.is_late ? count - 1 - i : i);  // late: the last block first
            blockIdx = dim3((unsigned)(b % grid.x), (unsigned)(b / grid.x % grid.y),
                            (unsigned)(b / grid.x / grid.y));
            run_block();
        }
        check_margins();
    }
    is_running = false;
    return failure_text[0] ? FAILED_LAUNCH : 0;
}
}  // namespace emulator

// ---------------------------------------------------------------- the test's side
void *emulator_allocate(size_t num_bytes) { return emulator::allocate(num_bytes, false); }
void *emulator_allocate_sparse(size_t num_bytes) { return emulator::allocate(num_bytes, true); }

void emulator_free(void *memory) {
    for (size_t i = 0; i < emulator::allocations.size(); i++)
        if (emulator::allocations[i].data == memory) {
            munmap(emulator::allocations[i].map, emulator::allocations[i].map_bytes);
            emulator::allocations.erase(emulator::allocations.begin() + (ptrdiff_t)i);
            return;
        }
}

bool emulator_has_unwritten(const void *memory, size_t num_bytes) {
    const uint16_t *words = (const uint16_t *)memory;
    for (size_t i = 0; i < num_bytes / 2; i++)
        if (words[i] == 0xFFFF) return true;
    return false;
}

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

int emulator_graph_run(const emulator_graph *graph) {
    for (const kept_launch &l : graph->launches)
        if (int error = emulator::launch(l.name, l.grid, l.block, l.shared_bytes, l.body))
            return error;
    return 0;
}

const char *emulator_failure(void) { return emulator::failure_text; }
