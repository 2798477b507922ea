// What the files of the emulator know of each other: emulator.cpp runs blocks and has shared
// memory, emulated_memory.cpp has the device's and the host's memory and sees what kernels do to
// it, emulated_stream.cpp keeps work until it is waited for. None of it is thread-safe but what
// takes `lock`.
#ifndef CTOK_EMULATOR_PARTS_H
#define CTOK_EMULATOR_PARTS_H

#include <mutex>

#include "cuda_runtime.h"
#include "emulator.h"

namespace emulator {
constexpr int CAPTURE_UNSUPPORTED = 900;                // cudaErrorStreamCaptureUnsupported
constexpr int FAILED_LAUNCH = 719, INVALID_LAUNCH = 1;  // cudaErrorLaunchFailure,
                                                        // cudaErrorInvalidValue
extern std::recursive_mutex lock;
extern thread_local bool is_running;  // a kernel, on this thread

// Outside of kernels: keeps what went wrong for emulator_failure and returns FAILED_LAUNCH.
__attribute__((format(printf, 1, 2))) int find(const char *format, ...);

// A kernel's own memory: its parameters, shared memory and stacks, one after another.
constexpr size_t PARAMETER_BYTES = 4096, SHARED_MOST = 232448, STACK_BYTES = 64 * 1024;
constexpr int MAX_THREADS = 1024;
constexpr size_t SHARED_AT = 4096, STACKS_AT = SHARED_AT + (SHARED_MOST + 4095) / 4096 * 4096,
                 OWN_BYTES = STACKS_AT + MAX_THREADS * STACK_BYTES;
extern char *own_memory;
void prepare_memory();

// emulated_memory.cpp: what the accesses that follow belong to.
void begin_launch();
void begin_block(uint32_t block);
void check_margins();  // names one that a kernel wrote to
void see_read(const void *from, size_t num_bytes);
[[noreturn]] void fail_at(const void *address);  // by a signal

// NULL, or what these bytes are instead of one allocation's (of one of pinned memory).
const char *wrong_device(const void *memory, size_t num_bytes);
const char *wrong_pinned(const void *memory, size_t num_bytes);

int run_launch(const kept_launch &l);  // at once
// emulated_stream.cpp: for a graph that is being captured, or when the stream comes to it.
bool keep_in_capture(const kept_launch &l);
int stream_launch(cudaStream_t stream, const kept_launch &l);
}  // namespace emulator

#endif
