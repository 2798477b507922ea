// See fake_cudart.h. The functions that nvcc's stubs call, of CUDA 12 (cudaLaunchKernel) and 13
// (__cudaGetKernel, __cudaLaunchKernel), and the checks of a launch.
// Limit: ptxas does not tell __launch_bounds__, so too many threads show by their registers alone;
// nor does it tell of sm_90 how many bytes the parameters have: they are sm_80's.
#include "fake_cudart.h"

#include <cuda_runtime_api.h>
#include <cxxabi.h>
#include <glob.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <map>
#include <string>
#include <vector>

#include "../../../csrc/base/ops.h"

namespace {

// ---------------------------------------------------------------- kernels
// One kernel's code for one generation, as ptxas tells of it.
struct code_of {
    int registers, static_shared;  // of a thread; bytes of a block
};

struct parameter {
    std::string type;
    int bytes;
};

struct kernel {
    const void *host;             // the stub's address, by which the host names it
    std::string symbol, written;  // mangled, and as it is written
    std::map<int, code_of> codes;
    std::vector<parameter> parameters;
    int parameter_bytes = 0, allowed_shared = 0, num_launches = 0;
};

// Note: stubs register before any constructor of this file need have run.
std::vector<kernel *> &kernels() {
    static std::vector<kernel *> all;
    return all;
}

struct {
    int code;
    int32_t shared_bytes;
} device;
std::string found, told;  // told: what fake_finding last answered
int num_launches, num_inputs, num_outputs;
cudaError_t last_error;
struct {
    dim3 grid, block;
    size_t shared_bytes;
    void *stream;
} configuration;

__attribute__((format(printf, 1, 2))) void find(const char *format, ...) {
    if (!found.empty()) return;
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    found = text;
}

cudaError_t refuse(cudaError_t error) { return last_error = error; }

// ---------------------------------------------------------------- parameters
// The types in "name(int*, conv_call<bf16>)".
std::vector<std::string> types_of(const std::string &written) {
    std::vector<std::string> types(1);
    int depth = 0;
    for (size_t i = written.rfind('(') + 1; i < written.size() - 1; i++) {
        char c = written[i];
        depth += (c == '<') - (c == '>');
        if (c == ',' && depth == 0) types.emplace_back();
        else if (c != ' ' || !types.back().empty()) types.back() += c;
    }
    return types;
}

// What the host passes for a type; 0: a struct of the kernel's own file.
int bytes_of(const std::string &type) {
    static const std::map<std::string, size_t> sizes = {
        {"int", 4},
        {"unsigned int", 4},
        {"float", 4},
        {"bool", 1},
        {"long", 8},
        {"unsigned long", 8},
        {"ctok_shape", sizeof(ctok_shape)},
        {"transfer_params", sizeof(transfer_params)},
        {"pool_params", sizeof(pool_params)},
        {"quantizer_params", sizeof(quantizer_params)},
    };
    if (type.back() == '*') return 8;
    auto size = sizes.find(type);
    return size == sizes.end() ? 0 : (int)size->second;
}

bool is_writable(const std::string &type) { return type.find("const") == std::string::npos; }

// Gives each parameter its bytes, of which the device's code has so many in all; the one struct of
// the kernel's own gets what is left. Returns what does not fit, or "".
std::string fit(std::vector<parameter> &parameters, const std::string &written, int bytes) {
    int used = 0, num_own = 0;
    auto place = [&](int size) {
        int align = size >= 8 ? 8 : size;
        used = (used + align - 1) / align * align + size;
    };
    for (const std::string &type : types_of(written)) {
        int size = bytes_of(type);
        parameters.push_back({type, size});
        if (size) place(size);
        else num_own++, used = (used + 7) / 8 * 8;
    }
    int left = bytes - used;
    std::string wrong;
    if (num_own > 1) wrong = "more than one struct of its own";
    else if (num_own ? left <= 0 || left % 8 : left != 0) wrong = std::to_string(used) + " bytes";
    else if (bytes > 4096) wrong = "more than 4096 bytes";
    for (parameter &one : parameters)
        if (!one.bytes) one.bytes = left;
    return wrong.empty() ? ""
                         : written + ": expected parameters of " + std::to_string(bytes) +
                               " bytes in all, as ptxas told, found " + wrong;
}

// ---------------------------------------------------------------- addresses
const uint64_t INPUTS = UINT64_C(1) << 44, OUTPUTS = UINT64_C(1) << 45, APART = UINT64_C(1) << 36;
bool is_input(uint64_t a) { return a >= INPUTS && a < INPUTS + (uint64_t)num_inputs * APART; }
bool is_output(uint64_t a) { return a >= OUTPUTS && a < OUTPUTS + (uint64_t)num_outputs * APART; }

// Reads all that a launch would copy, and looks at what are addresses.
void check_arguments(const kernel &k, void **arguments) {
    for (size_t i = 0; i < k.parameters.size(); i++) {
        const parameter &p = k.parameters[i];
        std::vector<uint64_t> words((size_t)p.bytes / 8 + 1, 0);
        memcpy(words.data(), arguments[i], (size_t)p.bytes);
        uint64_t word = words[0];
        if (p.type.back() == '*') {
            if (word && !is_output(word) && (is_writable(p.type) || !is_input(word)))
                find("%s: expected memory for %s as argument %zu, found %#llx", k.written.c_str(),
                     p.type.c_str(), i, (unsigned long long)word);
        } else if (bytes_of(p.type) == 8 && (is_input(word) || is_output(word))) {
            find("%s: expected a number as argument %zu, found an address", k.written.c_str(), i);
        }
    }
}

// ---------------------------------------------------------------- launches
bool check_grid(const char *name, const unsigned grid[3], const unsigned block[3]) {
    const unsigned most[6] = {2147483647u, 65535, 65535, 1024, 1024, 64};
    for (int i = 0; i < 6; i++) {
        unsigned size = i < 3 ? grid[i] : block[i - 3];
        if (size > 0 && size <= most[i]) continue;
        find("%s: expected %s.%c of 1 to %u, found %u", name, i < 3 ? "grid" : "block",
             "xyz"[i % 3], most[i], size);
        return false;
    }
    return true;
}

const code_of *code_here(const kernel &k) {
    auto code = k.codes.find(device.code);
    if (code != k.codes.end()) return &code->second;
    find("%s: expected code for sm_%d, found none", k.written.c_str(), device.code);
    return nullptr;
}

cudaError_t check_launch(kernel &k, const unsigned grid[3], const unsigned block[3],
                         void **arguments, size_t shared_bytes, void *stream) {
    const char *name = k.written.c_str();
    const code_of *code = code_here(k);
    if (!code) return cudaErrorNoKernelImageForDevice;
    if (!check_grid(name, grid, block)) return cudaErrorInvalidConfiguration;
    // A warp gets its registers in pieces of 256.
    int threads = (int)(block[0] * block[1] * block[2]), warps = (threads + 31) / 32,
        registers = (code->registers * 32 + 255) / 256 * 256 * warps;
    if (threads > 1024) {
        find("%s: expected at most 1024 threads, found %d", name, threads);
        return cudaErrorInvalidConfiguration;
    }
    if (registers > 65536) {
        find("%s: expected at most 65536 registers a block, found %d threads of %d", name, threads,
             code->registers);
        return cudaErrorLaunchOutOfResources;
    }
    int fixed = code->static_shared, usual = 48 * 1024,
        allowed = k.allowed_shared ? k.allowed_shared + fixed : usual;
    if (allowed < usual) allowed = usual;
    if (shared_bytes + (size_t)fixed > (size_t)allowed) {
        find("%s: expected at most %d bytes of shared memory, found %zu", name, allowed,
             shared_bytes + (size_t)fixed);
        return cudaErrorInvalidValue;
    }
    check_arguments(k, arguments);
    if (stream != fake_stream) find("%s: expected the stream of its call, found another", name);
    k.num_launches++, num_launches++;
    return cudaSuccess;
}

kernel *kernel_of_host(const void *host) {
    for (kernel *k : kernels())
        if (k->host == host) return k;
    find("expected a kernel that was registered, found %p", host);
    return nullptr;
}

// ---------------------------------------------------------------- what ptxas told
// "Compiling entry function '<symbol>' for 'sm_80'", then "Used 40 registers, used 1 barriers, 1024
// bytes smem, 376 bytes cmem[0]". cmem[0] of sm_75 and sm_80 is 352 bytes of the launch, then its
// parameters (EIATTR_PARAM_CBANK of a cubin: 0x160); nvcc 13 tells none for sm_90.
enum { LAUNCH_CMEM = 352 };

int number_before(const char *line, const char *words) {
    const char *at = strstr(line, words);
    if (!at) return 0;
    while (at > line && (at[-1] == ' ' || (at[-1] >= '0' && at[-1] <= '9'))) at--;
    return atoi(at);
}

void read_ptxas(const char *path) {
    FILE *file = fopen(path, "r");
    if (!file) return;
    char line[4096], symbol[2048] = "";
    int code = 0;
    while (fgets(line, sizeof line, file)) {
        const char *at = strstr(line, "Compiling entry function '");
        if (at) sscanf(at, "Compiling entry function '%2047[^']' for 'sm_%d", symbol, &code);
        if (!strstr(line, ": Used ")) continue;
        for (kernel *k : kernels()) {
            if (k->symbol != symbol) continue;
            k->codes[code] = {number_before(line, " registers"),
                              number_before(line, " bytes smem")};
            if (code < 90) k->parameter_bytes = number_before(line, " bytes cmem[0]") - LAUNCH_CMEM;
        }
    }
    fclose(file);
}

}  // namespace

// ---------------------------------------------------------------- for the test
extern "C" {
void *const fake_stream = (void *)0x5712EA;
bool fake_forgets_shared_memory;

bool fake_read_ptxas(const char *pattern) {
    glob_t files = {};
    glob(pattern, GLOB_BRACE, nullptr, &files);
    for (size_t i = 0; i < files.gl_pathc; i++) read_ptxas(files.gl_pathv[i]);
    globfree(&files);
    for (kernel *k : kernels()) {
        if (k->codes.empty()) find("%s: ptxas told nothing in %s", k->symbol.c_str(), pattern);
        std::string wrong = fit(k->parameters, k->written, k->parameter_bytes);
        if (!wrong.empty()) find("%s", wrong.c_str());
    }
    return found.empty();
}

void fake_device(int code, int32_t shared_bytes) {
    device = {code, shared_bytes};
    for (kernel *k : kernels()) k->allowed_shared = 0;
}

void *fake_input(void) { return (void *)(INPUTS + (uint64_t)num_inputs++ % 256 * APART); }
void *fake_output(void) { return (void *)(OUTPUTS + (uint64_t)num_outputs++ % 256 * APART); }

const char *fake_finding(void) {
    told.swap(found), found.clear();
    return told.c_str();
}

int fake_num_launches(void) { return num_launches; }
int fake_num_kernels(void) { return (int)kernels().size(); }

const char *fake_never_launched(void) {
    for (kernel *k : kernels())
        if (!k->num_launches) return k->written.c_str();
    return nullptr;
}

void *fake_kernel(const char *part) {
    for (kernel *k : kernels())
        if (k->written.find(part) != std::string::npos) return k;
    return nullptr;
}

int fake_launch(void *handle, const unsigned grid[3], const unsigned block[3], void **arguments,
                size_t shared_bytes, void *stream) {
    for (kernel *k : kernels())
        if (k == handle) {
            cudaError_t error = check_launch(*k, grid, block, arguments, shared_bytes, stream);
            return error ? refuse(error) : cudaSuccess;
        }
    find("expected a kernel that was registered, found %p", handle);
    return refuse(cudaErrorInvalidDeviceFunction);
}

const char *fake_misfit(const char *signature, int bytes) {
    std::vector<parameter> parameters;
    told = fit(parameters, signature, bytes);
    return told.c_str();
}

// ---------------------------------------------------------------- what the stubs call
void **__cudaRegisterFatBinary(void *binary) { return (void **)binary; }
void __cudaRegisterFatBinaryEnd(void **) {}
void __cudaUnregisterFatBinary(void **) {}

void __cudaRegisterFunction(void **, const char *host, char *, const char *symbol, int, uint3 *,
                            uint3 *, dim3 *, dim3 *, int *) {
    char *written = abi::__cxa_demangle(symbol, nullptr, nullptr, nullptr);
    kernel *k = new kernel;
    k->host = host, k->symbol = symbol, k->written = written ? written : symbol;
    free(written);
    if (k->written.compare(0, 5, "void ") == 0) k->written.erase(0, 5);
    kernels().push_back(k);
}

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared_bytes, void *stream) {
    configuration = {grid, block, shared_bytes, stream};
    return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared_bytes,
                                       void *stream) {
    *grid = configuration.grid, *block = configuration.block;
    *shared_bytes = configuration.shared_bytes, *(void **)stream = configuration.stream;
    return cudaSuccess;
}

cudaError_t __cudaGetKernel(cudaKernel_t *handle, const void *host) {
    *handle = (cudaKernel_t)kernel_of_host(host);
    return *handle ? cudaSuccess : cudaErrorInvalidDeviceFunction;
}

cudaError_t __cudaLaunchKernel(cudaKernel_t handle, dim3 grid, dim3 block, void **arguments,
                               size_t shared_bytes, cudaStream_t stream) {
    const unsigned grids[3] = {grid.x, grid.y, grid.z}, blocks[3] = {block.x, block.y, block.z};
    return (cudaError_t)fake_launch(handle, grids, blocks, arguments, shared_bytes, stream);
}

cudaError_t cudaLaunchKernel(const void *host, dim3 grid, dim3 block, void **arguments,
                             size_t shared_bytes, cudaStream_t stream) {
    return __cudaLaunchKernel((cudaKernel_t)kernel_of_host(host), grid, block, arguments,
                              shared_bytes, stream);
}

cudaError_t cudaFuncSetAttribute(const void *host, cudaFuncAttribute attribute, int value) {
    kernel *k = kernel_of_host(host);
    if (!k) return refuse(cudaErrorInvalidDeviceFunction);
    if (fake_forgets_shared_memory || attribute != cudaFuncAttributeMaxDynamicSharedMemorySize)
        return cudaSuccess;
    const code_of *code = code_here(*k);
    if (!code) return refuse(cudaErrorNoKernelImageForDevice);
    if (value < 0 || value + code->static_shared > device.shared_bytes) {
        find("%s: expected at most the device's %d bytes of shared memory, found %d",
             k->written.c_str(), device.shared_bytes, value);
        return refuse(cudaErrorInvalidValue);
    }
    k->allowed_shared = value;
    return cudaSuccess;
}

cudaError_t cudaGetLastError(void) {
    cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}
}
