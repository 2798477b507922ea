// The emulator's memory. Device memory lies in one range of addresses, of which none is given out
// twice: an allocation's pages stand between pages that fault, and those of a freed one fault from
// then on. Kernels are compiled with -fsanitize=thread, so that each of their accesses calls one of
// the __tsan_ functions here (no other part of that sanitizer is there). Beside every 4 bytes of
// the device's memory lies a cell: which of them were written last, by which block of which launch.
// So is seen what two blocks write, what a block reads that another of the same launch wrote, a
// step beyond an allocation, and memory that is the host's.
// Limits: a block that reads what a later one writes is seen where blocks run the other way round
// (is_late); where blocks share the 4 bytes of a cell, none may read or write again what it wrote.
// Who calls it: emulator.cpp, emulated_stream.cpp, the kernels, tests through emulator.h.
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "emulator_parts.h"

extern char __start_emulated_indices[], __stop_emulated_indices[];  // threadIdx and the others
extern char __executable_start[], __data_start[];                   // constants lie between

namespace emulator {
char *own_memory;

namespace {
constexpr size_t PAGE = 4096, DEVICE_BYTES = (size_t)1 << 40;
constexpr unsigned char MARGIN = 0xA5;
constexpr uint64_t BEYOND = ~(uint64_t)0, SEVERAL = (uint64_t)0xFFFFFFFF << 4;

char *device;     // all that is given out, has been or will be
char *free_from;  // the next allocation's

// The low 4 bits: which of the 4 bytes; then 32 for the block, or SEVERAL, and the launch's number.
// 0: none. BEYOND: no bytes of the allocation.
uint64_t *cells, now;

struct allocation {
    char *map, *data;  // map: guard page, pages with the data, guard page
    size_t map_bytes, num_bytes;
    bool is_sparse;
};
std::vector<allocation> allocations, freed;  // in the order of their addresses
std::vector<std::pair<char *, size_t>> pinned;

void *reserve(size_t num_bytes, int protection) {
    void *memory =
        mmap(nullptr, num_bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory != MAP_FAILED) return memory;
    fprintf(stderr, "the emulator needs %zu bytes of addresses, most of which stay empty\n",
            num_bytes);
    abort();
}

uint64_t *cell_of(const char *at) { return cells + (size_t)(at - device) / 4; }

const allocation *find_allocation(const std::vector<allocation> &list, const char *at) {
    auto next = std::upper_bound(list.begin(), list.end(), at,
                                 [](const char *a, const allocation &b) { return a < b.map; });
    if (next == list.begin()) return nullptr;
    const allocation &a = *--next;
    return at < a.map + a.map_bytes ? &a : nullptr;
}

void *allocate(size_t num_bytes, bool is_sparse) {
    std::lock_guard<std::recursive_mutex> guard(lock);
    prepare_memory();
    size_t inner = (num_bytes + PAGE) / PAGE * PAGE;  // at least one byte of margin
    if (num_bytes % PAGE == 0 && num_bytes) inner = num_bytes;
    char *map = free_from;
    if (inner + 2 * PAGE > (size_t)(device + DEVICE_BYTES - map) ||
        mprotect(map + PAGE, inner, PROT_READ | PROT_WRITE) != 0)
        return nullptr;
    free_from += inner + 2 * PAGE;
    size_t shift = emulator_settings.is_end_guarded ? (inner - num_bytes) / 16 * 16 : 0;
    char *data = map + PAGE + shift, *end = map + PAGE + inner;
    if (!is_sparse) memset(map + PAGE, MARGIN, inner), memset(data, 0xFF, num_bytes);
    std::fill(cell_of(map + PAGE), cell_of(data), BEYOND);
    std::fill(cell_of(data + (num_bytes + 3) / 4 * 4), cell_of(end), BEYOND);
    allocations.push_back({map, data, inner + 2 * PAGE, num_bytes, is_sparse});
    return data;
}

// ---------------------------------------------------------------- accesses of kernels
[[noreturn]] __attribute__((noinline)) void fail_host(const char *at) {
    fail("host memory: %p is read or written, which is neither the device's nor the kernel's",
         (const void *)at);
}

[[noreturn]] __attribute__((noinline)) void fail_cell(const char *at, uint64_t cell,
                                                      const char *what) {
    if (cell == BEYOND) fail_at(at);
    const allocation *a = find_allocation(allocations, at);
    char who[32] = "others";
    if ((cell & SEVERAL) != SEVERAL)
        snprintf(who, sizeof who, "block %u", (unsigned)((cell & SEVERAL) >> 4));
    fail(
        "race between blocks: byte %lld of a global allocation of %zu is %s by this block and was "
        "written by %s of the same launch",
        a ? (long long)(at - a->data) : -1, a ? a->num_bytes : 0, what, who);
}

// Whether bytes `mask` of a cell belong to another block of this launch, or to no allocation.
bool is_others(uint64_t cell, uint64_t mask) {
    return ((cell ^ now) >> 36 == 0 && cell >> 4 != now >> 4 && cell & mask) || cell == BEYOND;
}

__attribute__((always_inline)) inline void see_cell(const char *at, uint64_t mask, bool is_write) {
    uint64_t &cell = *cell_of(at);
    if (__builtin_expect(is_others(cell, mask), 0))
        fail_cell(at, cell, is_write ? "written" : "read");
    if (!is_write) return;
    if (cell >> 36 != now >> 36) cell = now;
    cell |= (cell ^ now) >> 4 == 0 ? mask : SEVERAL | mask;
}

__attribute__((noinline)) void see_elsewhere(const char *at, bool is_write) {
    if (!is_running) return;  // the host's own code in a kernel's file
    if (at >= __start_emulated_indices && at < __stop_emulated_indices) return;
    if (at >= __executable_start && at < __data_start && !is_write) return;
    fail_host(at);
}

__attribute__((always_inline)) inline void see(const void *address, size_t size, bool is_write) {
    const char *at = (const char *)address;
    if (__builtin_expect((size_t)(at - own_memory) < OWN_BYTES, 1)) return;
    if ((size_t)(at - device) >= DEVICE_BYTES) return see_elsewhere(at, is_write);
    if (!is_running) return;
    if (size >= 4 && (uintptr_t)at % 4 == 0 && size % 4 == 0) {
        for (size_t i = 0; i < size; i += 4) see_cell(at + i, 15, is_write);
    } else {
        for (size_t i = 0; i < size; i++)
            see_cell(at + i, (uint64_t)1 << ((uintptr_t)(at + i) & 3), is_write);
    }
}
}  // namespace

void see_read(const void *from, size_t num_bytes) { see(from, num_bytes, false); }

void begin_launch() { now = ((now >> 36) + 1) << 36; }
void begin_block(uint32_t block) { now = now >> 36 << 36 | (uint64_t)block << 4; }

void prepare_memory() {
    if (own_memory) return;
    device = free_from = (char *)reserve(DEVICE_BYTES, PROT_NONE);
    cells = (uint64_t *)reserve(2 * DEVICE_BYTES, PROT_READ | PROT_WRITE);
    own_memory = (char *)reserve(OWN_BYTES, PROT_READ | PROT_WRITE);
}

// Bytes that no kernel wrote through an access that is seen.
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

void fail_at(const void *address) {
    const char *at = (const char *)address;
    if (const allocation *a = find_allocation(allocations, at))
        fail("out of bounds: byte %lld of a global allocation of %zu", (long long)(at - a->data),
             a->num_bytes);
    if (const allocation *a = find_allocation(freed, at))
        fail("out of bounds: byte %lld of a global allocation of %zu that was freed",
             (long long)(at - a->data), a->num_bytes);
    fail("out of bounds: address %p is in no allocation", address);
}

const char *wrong_device(const void *memory, size_t num_bytes) {
    const char *at = (const char *)memory;
    const allocation *a = find_allocation(allocations, at);
    if (a && at >= a->data && at + num_bytes <= a->data + a->num_bytes) return nullptr;
    return a                            ? "beyond an allocation"
           : find_allocation(freed, at) ? "in memory that was freed"
                                        : "host memory, or none";
}

const char *wrong_pinned(const void *memory, size_t num_bytes) {
    const char *at = (const char *)memory;
    for (auto &[first, length] : pinned)
        if (at >= first && at + num_bytes <= first + length) return nullptr;
    return "not in pinned memory, or in some that was freed";
}
}  // namespace emulator

// ---------------------------------------------------------------- what the compiler puts before
// each access
#define SEE(size)                                                                  \
    void __tsan_read##size(void *at) { emulator::see(at, size, false); }           \
    void __tsan_write##size(void *at) { emulator::see(at, size, true); }           \
    void __tsan_unaligned_read##size(void *at) { emulator::see(at, size, false); } \
    void __tsan_unaligned_write##size(void *at) { emulator::see(at, size, true); }
extern "C" {
SEE(1) SEE(2) SEE(4) SEE(8) SEE(16) void __tsan_read_range(void *at, size_t size) {
    emulator::see(at, size, false);
}
void __tsan_write_range(void *at, size_t size) { emulator::see(at, size, true); }
void __tsan_init() {}
}

// ---------------------------------------------------------------- the test's side
void *emulator_allocate(size_t num_bytes) { return emulator::allocate(num_bytes, false); }
void *emulator_allocate_sparse(size_t num_bytes) { return emulator::allocate(num_bytes, true); }

void emulator_free(void *memory) {
    std::lock_guard<std::recursive_mutex> guard(emulator::lock);
    for (size_t i = 0; i < emulator::allocations.size(); i++) {
        emulator::allocation a = emulator::allocations[i];
        if (a.data != memory) continue;
        mmap(a.map, a.map_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED,
             -1, 0);
        madvise(emulator::cell_of(a.map), 2 * a.map_bytes, MADV_DONTNEED);
        emulator::allocations.erase(emulator::allocations.begin() + (ptrdiff_t)i);
        auto &freed = emulator::freed;
        freed.insert(std::upper_bound(freed.begin(), freed.end(), a,
                                      [](auto &b, auto &c) { return b.map < c.map; }),
                     a);
        return;
    }
}

void *emulator_allocate_pinned(size_t num_bytes) {
    std::lock_guard<std::recursive_mutex> guard(emulator::lock);
    char *memory = (char *)malloc(num_bytes);
    if (memory) emulator::pinned.push_back({memory, num_bytes});
    return memory;
}

void emulator_free_pinned(void *memory) {
    std::lock_guard<std::recursive_mutex> guard(emulator::lock);
    auto &pinned = emulator::pinned;
    pinned.erase(
        std::remove_if(pinned.begin(), pinned.end(), [&](auto &p) { return p.first == memory; }),
        pinned.end());
    free(memory);
}

bool emulator_has_unwritten(const void *memory, size_t num_bytes) {
    const uint16_t *words = (const uint16_t *)memory;
    for (size_t i = 0; i < num_bytes / 2; i++)
        if (words[i] == 0xFFFF) return true;
    return false;
}
