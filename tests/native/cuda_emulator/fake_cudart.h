// A CUDA runtime under the kernels as nvcc built them, which runs none of them: it holds each
// launch to what a device would refuse. Registers and shared memory of a kernel are those that
// ptxas told the build. Who includes it: launch_test.c, fake_cudart.cpp.
#ifndef CTOK_FAKE_CUDART_H
#define CTOK_FAKE_CUDART_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// Reads what ptxas told of every kernel: files of this pattern (glob, with {a,b}). False: of a
// registered kernel it told nothing, or other parameters than the host passes; fake_finding says of
// which.
bool fake_read_ptxas(const char *pattern);

// From here on launches are to a device that runs the code of sm_<code>, and gives a block so much
// shared memory where a kernel asks for it; none has asked.
void fake_device(int code, int32_t shared_bytes);

// Device addresses, 64 GiB apart, never read: of memory that a kernel only reads, and of memory
// that it may write. fake_stream: what every launch must name.
void *fake_input(void);
void *fake_output(void);
extern void *const fake_stream;

// What is wrong with the launches since the last call, the first of it; "" for nothing.
const char *fake_finding(void);

int fake_num_launches(void);             // that were let through
int fake_num_kernels(void);              // that are registered
const char *fake_never_launched(void);   // a name; NULL: each was
extern bool fake_forgets_shared_memory;  // cudaFuncSetAttribute answers well, and does nothing

// For bugs to plant: the first registered kernel whose name has this part, or NULL; a launch of it,
// with sizes in x, y and z, which returns a cudaError_t; what is wrong with a kernel of this
// signature if its parameters have so many bytes, or "".
void *fake_kernel(const char *part);
int fake_launch(void *kernel, const unsigned grid[3], const unsigned block[3], void **arguments,
                size_t shared_bytes, void *stream);
const char *fake_misfit(const char *signature, int bytes);

#ifdef __cplusplus
}
#endif

#endif
