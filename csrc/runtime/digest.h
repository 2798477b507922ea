// The SHA-256 that tells a checkpoint's parameters from any others, whatever files hold them: of
// the lines
//     NAME DTYPE SHAPE SHA256\n       "encoder.conv_in.bias BF16 128 3f5c..."
// of all its tensors but the known buffers, both halves, sorted by the bytes of their names. DTYPE
// is as safetensors writes it, SHAPE its sizes with commas between, SHA256 that of the values as
// stored, row-major and little-endian, in lower-case hex. A tensor is hashed while it is read for
// packing, and only what nobody reads (the other half, unused layers) is read for this alone. Who
// calls it: runtime/weights (digest_read), runtime/model. The same in Python:
// docs/token_formats.md.
#ifndef CTOK_RUNTIME_DIGEST_H
#define CTOK_RUNTIME_DIGEST_H

#include "../backends/backend.h"
#include "../checkpoint/checkpoint.h"
#include "../base/sha256.h"

enum { DIGEST_TEXT_BYTES = 2 * SHA256_BYTES + 1 };

typedef struct {
    const checkpoint *checkpoint;
    bool (*is_buffer)(const char *tensor);  // by its name: left out
    bool is_wanted;                         // false: digest_read reads and hashes nothing
    uint8_t (*hashes)[SHA256_BYTES];        // of each tensor of the checkpoint
    bool *is_known;
    uint8_t *stage;  // what digest_read gave last
    size_t stage_bytes;
} digest;

ctok_status digest_start(digest *d, const checkpoint *c, bool (*is_buffer)(const char *tensor),
                         bool is_wanted, ctok_error *error);
void digest_free(digest *d);  // also one of zeros

// Reads the first of `tensors` (of d's checkpoint), as many as fit a stage and at least one, on all
// threads: in_memory[i] is tensors[i], contiguous and no longer in its file, until the next call.
// *num_read says how many.
// Errors: CTOK_E_FILE_IO, CTOK_E_MEMORY, CTOK_E_CANCELLED.
ctok_status digest_read(digest *d, backend *b, checkpoint_tensor *in_memory, int32_t *num_read,
                        const checkpoint_tensor *const *tensors, int32_t num_tensors,
                        ctok_error *error);

// Hashes what was not read, and writes the whole in hex. Errors: as digest_read.
ctok_status digest_end(digest *d, backend *b, char out[DIGEST_TEXT_BYTES], ctok_error *error);

#endif
