// Opens the CPU backend: counts processors and memory, picks the op table once, starts the pool,
// gives memory, and runs lists, a step after the other. Ops are in ref_ops.c (scalar) and
// blocked_*.inc (fast; compiled by generic_ops.c and, for each instruction set, by a file of its
// own).
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cgroup.h"
#include "cpu.h"
#include "features.h"

enum {
    MAX_THREADS = 256,
    MAPPED_BYTES = 1 << 18,  // from here on memory is mapped, so that freeing gives it back to the
                             // system at once
    // Of activations that are in memory together, half of an outer cache of 32 MiB. Images of a
    // batch share what each step costs before it computes, and the transforms of its weights: all
    // 16 of 64 x 64 at once take a fourth of the processor time, of 128 x 128 8 at once 60 %, of
    // 256 x 256 2 or 3 at once 94 %; 16 of these, or 2 of 512 x 512, take 104 to 106 %
    // (docs/measurements.md).
    PASS_BYTES = 16 << 20
};

static void *cpu_alloc(backend *b, size_t num_bytes) {
    (void)b;
    if (num_bytes > SIZE_MAX - BACKEND_ALIGNMENT) return NULL;
    if (num_bytes >= MAPPED_BYTES) {
        void *memory =
            mmap(NULL, num_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) return NULL;
            // Winograd writes 36 or 64 streams at once, more than a translation cache has small
            // pages for: 3 to 6 % of DI8x8 at 512x512 (lowest of 5, two rounds in turn,
            // 2026-11-24). Best effort: the system may ignore it.
#if defined(MADV_HUGEPAGE)
        (void)madvise(memory, num_bytes, MADV_HUGEPAGE);
#endif
        return memory;
    }
    size_t rounded = (num_bytes + BACKEND_ALIGNMENT - 1) / BACKEND_ALIGNMENT * BACKEND_ALIGNMENT;
    return aligned_alloc(BACKEND_ALIGNMENT, rounded ? rounded : BACKEND_ALIGNMENT);
}

static void cpu_free(backend *b, void *memory, size_t num_bytes) {
    (void)b;
    if (!memory) return;
    if (num_bytes >= MAPPED_BYTES) munmap(memory, num_bytes);
    else free(memory);
}

// Mapped memory grows by moving its pages: nothing is copied, and pages that were never touched
// take no memory.
static void *cpu_grow(backend *b, void *memory, size_t num_bytes, size_t new_bytes) {
#if defined(__linux__)
    if (memory && num_bytes >= MAPPED_BYTES && new_bytes >= MAPPED_BYTES) {
        void *moved = mremap(memory, num_bytes, new_bytes, MREMAP_MAYMOVE);
        return moved == MAP_FAILED ? NULL : moved;
    }
#endif
    void *grown = cpu_alloc(b, new_bytes);
    if (grown && memory) {
        memcpy(grown, memory, num_bytes < new_bytes ? num_bytes : new_bytes);
        cpu_free(b, memory, num_bytes);
    }
    return grown;
}

static void cpu_for_all(backend *b, int64_t num_tasks, backend_task task, void *context) {
    pool_run(((cpu_backend *)b)->pool, num_tasks, task, context, NULL);
}

static void cpu_upload(backend *b, void *to, const void *host, size_t num_bytes) {
    (void)b;
    memcpy(to, host, num_bytes);
}

static ctok_status cpu_finish(backend *b, ctok_error *error) {
    (void)b, (void)error;
    return CTOK_OK;
}

// ---------------------------------------------------------------- steps
static ctok_status run_step(backend *b, const step *s) {
    const cpu_ops *ops = (const cpu_ops *)b->kernels;
    const op_params *p = &s->params;
    switch (s->kind) {
        case OP_LOAD: return ops->load(b, s->out, s->external, s->workspace, &p->transfer);
        case OP_STORE: return ops->store(b, s->external, s->in, s->workspace, &p->transfer);
        case OP_HAAR: return ops->haar(b, s->out, s->in, &p->haar);
        case OP_UNHAAR: return ops->unhaar(b, s->out, s->in, &p->haar);
        case OP_CONV:
            return ops->conv(b, s->out, s->in, s->past, s->residual, s->weights, s->workspace,
                             &p->conv);
        case OP_POOL: return ops->pool(b, s->out, s->in, &p->pool);
        case OP_NORM: return ops->norm(b, s->out, s->in, s->scale, s->offset, &p->norm);
        case OP_ATTENTION:
            return ops->attention(b, s->out, s->in, s->k, s->v, s->workspace, &p->attention);
        case OP_QUANTIZE:
            return ops->quantize(b, s->external, s->out, s->in, s->codebook, s->workspace,
                                 &p->quantizer);
        case OP_DEQUANTIZE:
            return ops->dequantize(b, s->out, s->external, s->codebook, s->workspace,
                                   &p->quantizer);
        case OP_COPY: memmove(s->out, s->in, p->copy_bytes); return CTOK_OK;
    }
    return CTOK_E_INTERNAL;
}

static ctok_status cpu_run_list(backend *b, step_list *list, step_run *run, ctok_error *error) {
    uint64_t now = run->times ? step_now() : 0;
    for (int32_t i = 0; i < list->num_steps; i++) {
        ctok_status status =
            b->cancel && atomic_load(b->cancel) ? CTOK_E_CANCELLED : run_step(b, &list->steps[i]);
        run->first = run->last = i;
        if (status == CTOK_E_CANCELLED) return status;
        if (status != CTOK_OK)
            return ctok_fail(error, status, i,
                             "kernels %s: expected it to compute, found status %d",
                             b->kernels->name, (int)status);
        if (run->times) run->times[i].start_ns = now, run->times[i].end_ns = now = step_now();
        if (run->steps_done) atomic_fetch_add(run->steps_done, 1);
    }
    return CTOK_OK;
}

static void cpu_forget(backend *b, step_list *list) { (void)b, (void)list; }

// ---------------------------------------------------------------- opening
static uint64_t physical_bytes(void) {
    long pages = sysconf(_SC_PHYS_PAGES), page_bytes = sysconf(_SC_PAGESIZE);
    return pages > 0 && page_bytes > 0 ? (uint64_t)pages * (uint64_t)page_bytes : UINT64_MAX;
}

static void cpu_memory_bytes(const backend *b, uint64_t *total, uint64_t *available) {
    *total = ((const cpu_backend *)b)->memory_bytes;
    *available = 0;  // what the system could give is not known before it is asked
}

static void cpu_close(backend *b) {
    if (!b) return;
    pool_close(((cpu_backend *)b)->pool);
    free(b);
}

static backend *cpu_limit(backend *b, int32_t num_threads) {
    cpu_backend *cpu = calloc(1, sizeof *cpu);
    if (!cpu) return NULL;
    cpu->base = *b;
    cpu->memory_bytes = ((cpu_backend *)b)->memory_bytes;
    cpu->base.num_threads = num_threads;
    cpu->pool = pool_part(((cpu_backend *)b)->pool, num_threads);
    if (cpu->pool) return &cpu->base;
    free(cpu);
    return NULL;
}

// A kernel set of another architecture has a name here, and no kernels.
#if defined(__x86_64__)
#define X86_OPS(table) &table
#define ARM_OPS(table) NULL
#define BF16_NEEDS "kernels avx512_bf16 (or reference)"
#elif defined(__aarch64__)
#define X86_OPS(table) NULL
#define ARM_OPS(table) &table
#define BF16_NEEDS "kernels neon_bf16 (or reference)"
#else
#define X86_OPS(table) NULL
#define ARM_OPS(table) NULL
#define BF16_NEEDS "kernels reference"
#endif

enum { NUM_SETS = CTOK_KERNELS_NEON_BF16 };  // the last number: 0 is auto, which is no set

// The one list of the sets: numbers as in ctok.h, names as there and in ffi/layout.ts.
typedef struct {
    uint32_t kernels;
    const char *name;
    const cpu_ops *ops;
    bool has;  // the processor what the set needs
} kernel_set;

static void list_sets(kernel_set sets[NUM_SETS] /* best first */) {
    cpu_features f = features_detect();
    const kernel_set all[] = {
        {CTOK_KERNELS_AVX512_BF16, "avx512_bf16", X86_OPS(avx512bf16_ops), f.has_avx512_bf16},
        {CTOK_KERNELS_AVX512, "avx512", X86_OPS(avx512_ops), f.has_avx512},
        {CTOK_KERNELS_AVX2, "avx2", X86_OPS(avx2_ops), f.has_avx2},
        {CTOK_KERNELS_NEON_BF16, "neon_bf16", ARM_OPS(neonbf16_ops), f.has_neon_bf16},
        {CTOK_KERNELS_NEON, "neon", ARM_OPS(neon_ops), f.has_neon},
        {CTOK_KERNELS_GENERIC, "generic", &generic_ops, true},
        {CTOK_KERNELS_REFERENCE, "reference", &ref_ops, true},
    };
    _Static_assert(sizeof all == NUM_SETS * sizeof all[0], "a row for each number of ctok.h");
    memcpy(sets, all, sizeof all);
}

static ctok_status select_ops(const cpu_ops **out, uint32_t kernels, ctok_error *error) {
    kernel_set sets[NUM_SETS];
    list_sets(sets);
    const char *asked = NULL;
    char had[128] = "";
    for (int i = 0; i < NUM_SETS; i++) {
        bool is_asked = kernels == CTOK_KERNELS_AUTO || kernels == sets[i].kernels;
        if (is_asked && sets[i].has) {
            *out = sets[i].ops;
            return CTOK_OK;
        }
        if (is_asked) asked = sets[i].name;
    }
    if (!asked)
        return ctok_fail(error, CTOK_E_ARGUMENT, kernels, "kernels: expected 0 to %d, found %u",
                         NUM_SETS, kernels);
    for (int i = NUM_SETS - 1; i >= 0; i--)
        if (sets[i].has)
            snprintf(had + strlen(had), sizeof had - strlen(had), "%s%s", *had ? ", " : "",
                     sets[i].name);
    return ctok_fail(error, CTOK_E_DEVICE, kernels,
                     "kernels %s were asked for; this processor has %s", asked, had);
}

// The limits of the control group, where they are below what the machine has.
typedef struct {
    int32_t num_processors;
    uint64_t memory_bytes;
} cpu_limits;

static cpu_limits limits_of_process(void) {
    cgroup_limits container = cgroup_read("");
    cpu_limits l = {features_num_processors(), physical_bytes()};
    if (l.num_processors > container.num_processors) l.num_processors = container.num_processors;
    if (l.memory_bytes > container.memory_bytes) l.memory_bytes = container.memory_bytes;
    if (l.num_processors > MAX_THREADS) l.num_processors = MAX_THREADS;
    return l;
}

void cpu_describe(ctok_device_info *out) {
    const cpu_ops *ops = NULL;
    cpu_limits l = limits_of_process();
    *out = (ctok_device_info){.device = "cpu",
                              .is_usable = 1,
                              .num_threads = (uint32_t)l.num_processors,
                              .total_bytes = l.memory_bytes};
    if (select_ops(&ops, CTOK_KERNELS_AUTO, NULL) != CTOK_OK) return;  // generic is always there
    snprintf(out->kernels, sizeof out->kernels, "%s", ops->kernels.name);
    out->has_bf16 = ops->kernels.has_bf16;
}

ctok_status cpu_backend_open(backend **out, uint32_t num_threads, uint32_t kernels,
                             ctok_error *error) {
    const cpu_ops *ops = NULL;
    CTOK_TRY(select_ops(&ops, kernels, error));
    cpu_limits limits = limits_of_process();
    if (num_threads == 0) num_threads = (uint32_t)limits.num_processors;
    if (num_threads > MAX_THREADS) num_threads = MAX_THREADS;

    cpu_backend *cpu = calloc(1, sizeof *cpu);
    if (!cpu)
        return ctok_fail(error, CTOK_E_MEMORY, sizeof *cpu,
                         "no memory for the CPU backend (%zu bytes)", sizeof *cpu);
    cpu->base = (backend){.kernels = &ops->kernels,
                          .device = "cpu",
                          .device_name = "",
                          .bf16_needs = BF16_NEEDS,
                          .run = cpu_run_list,
                          .forget = cpu_forget,
                          .for_all = cpu_for_all,
                          .alloc = cpu_alloc,
                          .grow = cpu_grow,
                          .free = cpu_free,
                          .upload = cpu_upload,
                          .finish = cpu_finish,
                          .memory_bytes = cpu_memory_bytes,
                          .close = cpu_close,
                          .limit = cpu_limit,
                          .is_host_memory = true,
                          .pass_bytes = PASS_BYTES,
                          .num_threads = (int32_t)num_threads};
    cpu->memory_bytes = limits.memory_bytes;
    ctok_status status = pool_open(&cpu->pool, (int32_t)num_threads, error);
    if (status != CTOK_OK) {
        free(cpu);
        return status;
    }
    *out = &cpu->base;
    return CTOK_OK;
}
