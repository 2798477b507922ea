// A checkpoint is a directory of named tensors over files: one .safetensors, one archive of PyTorch
// (torch.jit.save or torch.save), or the two halves of a model (encoder.jit + decoder.jit). Opening
// parses names, types, shapes and offsets, and checks that every tensor lies inside its file; no
// weight is read, but where both files name one. Nothing in a file is executed.
// Who calls it: runtime/model (to open and to convert), runtime/weights and runtime/digest (to
// read).
// What it leaves out: any meaning of the names; network/ has that.
#ifndef CTOK_CHECKPOINT_H
#define CTOK_CHECKPOINT_H

#include <stdatomic.h>

#include "../base/status.h"
#include "../base/tensor.h"

enum {
    CHECKPOINT_MAX_RANK = 6,
    CHECKPOINT_MAX_ENTRIES = 1 << 16  // tensors, and metadata; the largest public checkpoint has
                                      // 300 tensors
};

// Row-major logical shape; strides count elements and may be anything that stays inside the storage
// (0 included).
typedef struct {
    const char *name;  // owned by the checkpoint, UTF-8, NUL-terminated
    ctok_dtype dtype;
    int32_t rank;  // 0 to CHECKPOINT_MAX_RANK
    int64_t shape[CHECKPOINT_MAX_RANK];
    int64_t stride[CHECKPOINT_MAX_RANK];
    const uint8_t *data;  // first element: its place in the map, and its value too where nothing
                          // has to be read
    int descriptor;  // of the file that holds it, open until checkpoint_close; 0: the values are at
                     // `data`
    uint64_t offset;  // in that file, of the first element
} checkpoint_tensor;

typedef struct {
    const char *key, *value;  // safetensors __metadata__; owned by the checkpoint
} checkpoint_metadata;

// A file as memory. With a descriptor the bytes are there once map_fetch (reader.h) has read them,
// into pages of our own: a file mapped as such would end the process with SIGBUS where somebody
// cuts it, and could change under a check.
typedef struct {
    const uint8_t *bytes;
    size_t num_bytes;
    int descriptor;  // 0: all bytes are there
} checkpoint_map;

// What tells a file, as it was when it was opened, from any other and from itself once written
// again. The time of the last change is beside that of the last write because writers may set the
// latter (cp -p, rsync).
// Limit: two writes within one tick of the file system's clock (4 ms and less on Linux) look alike.
typedef struct {
    uint64_t device, inode, num_bytes;
    int64_t written_ns, changed_ns;  // since 1970
} checkpoint_file;

typedef struct {
    checkpoint_tensor *tensors;  // sorted by name (strcmp), names unique
    int32_t num_tensors;
    checkpoint_metadata *metadata;
    int32_t num_metadata;
    checkpoint_map maps[2];    // owned; unmapped by checkpoint_close
    checkpoint_file files[2];  // that the maps are of
    int32_t num_maps;
    const atomic_bool *cancel;  // of whoever opened it, for as long as that runs; NULL: never
    struct checkpoint_strings *strings;  // owned text
} checkpoint;

// `path`: a file (by its content: safetensors or a zip archive), or a folder holding, first match
// wins,
//   encoder.jit and/or decoder.jit; autoencoder.jit;
//   encoder.safetensors and/or decoder.safetensors; autoencoder.safetensors;
//   exactly one other *.safetensors; no *.safetensors and exactly one *.pt, *.pth or *.ckpt.
// Which dict of a torch.save archive holds the weights: state_dict.c. The same name in both files
// of a folder is an error unless both tensors are equal in type, shape and bytes. Of a metadata key
// in both files, the first file's value is kept. What wraps all names of a file alike
// ("module.encoder.conv_in.weight", "_orig_mod.decoder...") is taken off. encoder.* must hold names
// of an encoder, decoder.* those of a decoder. cancel: looked at while it is opened, and by who
// works with it then (checkpoint_is_cancelled); NULL: never. On success *out is owned by the
// caller: checkpoint_close. On failure *out is untouched.
// Errors: CTOK_E_FILE_MISSING, CTOK_E_FILE_IO, CTOK_E_FILE_FORMAT, CTOK_E_FILE_NETWORK,
// CTOK_E_MEMORY, CTOK_E_CANCELLED.
ctok_status checkpoint_open(checkpoint **out, const char *path, const atomic_bool *cancel,
                            ctok_error *error);
void checkpoint_close(checkpoint *checkpoint);  // NULL is fine

ctok_status checkpoint_check_cancel(const checkpoint *c, ctok_error *error);  // CTOK_E_CANCELLED,
                                                                              // or CTOK_OK
static inline bool checkpoint_is_cancelled(const checkpoint *c) {
    return c->cancel && atomic_load_explicit(c->cancel, memory_order_relaxed);
}

// The tensor of that name, or NULL where there is none.
const checkpoint_tensor *checkpoint_find(const checkpoint *checkpoint, const char *name);
const char *checkpoint_metadata_find(const checkpoint *checkpoint, const char *key);

static inline int64_t checkpoint_elements(const checkpoint_tensor *tensor) {
    int64_t n = 1;
    for (int32_t i = 0; i < tensor->rank; i++) n *= tensor->shape[i];
    return n;
}

// Writes the tensor, row-major and contiguous. _f32 takes F32, F16, BF16 and F64 (rounded to
// nearest even) and returns how many values are not finite; _i64 takes the integer types; _copy
// keeps any type as it is stored. `out` has room for checkpoint_elements(tensor). The file is read
// here, on the calling thread: -1 (_i64, _copy: false) where it has become shorter, or the system
// refuses, or there is no memory; `out` is then undefined.
// Note: the caller has checked the dtype (dtype_is_float / not).
int64_t checkpoint_read_f32(const checkpoint_tensor *tensor, float *out);
bool checkpoint_read_i64(const checkpoint_tensor *tensor, int64_t *out);
bool checkpoint_copy(const checkpoint_tensor *tensor, uint8_t *out);
// Gives the bytes of a tensor to `take`, a piece at a time, in the calling thread's own memory.
// False where one cannot be read, or `take` returns false.
bool checkpoint_pieces(const checkpoint_tensor *tensor,
                       bool (*take)(void *context, const uint8_t *bytes, size_t num_bytes),
                       void *context);
ctok_status checkpoint_fail_read(const checkpoint_tensor *tensor,
                                 ctok_error *error);  // CTOK_E_FILE_IO for those, naming it
bool checkpoint_is_contiguous(const checkpoint_tensor *tensor);
// What reading a tensor takes: work, as bytes of one long read (its own at least), and memory
// beside the caller's (bytes; 0 unless its axes lie in the file in another order). checkpoint_open
// has refused files whose tensors come to much work.
uint64_t checkpoint_read_cost(const checkpoint_tensor *tensor);
uint64_t checkpoint_read_memory(const checkpoint_tensor *tensor);
checkpoint_tensor checkpoint_flat(const checkpoint_tensor *tensor);  // a contiguous one, as one row

// A part of a tensor: `count` entries of its first axis, from number `first` on. The tensor has
// rank 1 or more.
static inline checkpoint_tensor checkpoint_rows(const checkpoint_tensor *tensor, int64_t first,
                                                int64_t count) {
    checkpoint_tensor rows = *tensor;
    int64_t skipped = first * tensor->stride[0] * (int64_t)dtype_bytes(tensor->dtype);
    rows.data += skipped;
    rows.offset += (uint64_t)skipped;
    rows.shape[0] = count;
    return rows;
}

const char *checkpoint_dtype_name(ctok_dtype dtype);  // as safetensors writes it: "BF16"
static inline bool dtype_is_float(ctok_dtype d) {
    return d == CTOK_F32 || d == CTOK_F16 || d == CTOK_BF16 || d == CTOK_F64;
}

// What a long task shares with the thread that waits for it: a flag that cancels it, and its
// progress.
typedef struct {
    const atomic_bool *cancel;
    atomic_uint *steps_done;
} checkpoint_watch;

// Writes `tensors` (names sorted; strided tensors made contiguous; dtypes kept) and metadata as one
// safetensors file, whole or not at all (output.h). watch: its steps are tensors, and until the
// file has its name, cancel means that it gets none; or NULL.
// Errors: CTOK_E_FILE_IO, CTOK_E_MEMORY, CTOK_E_CANCELLED.
ctok_status safetensors_write(const char *path, const checkpoint_tensor *tensors,
                              int32_t num_tensors, const checkpoint_metadata *metadata,
                              int32_t num_metadata, const checkpoint_watch *watch,
                              ctok_error *error);

#endif
