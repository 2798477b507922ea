// An open tokenizer: its description and the packed weights of its parts, which other models may
// share. Immutable once open but for `programs`, so jobs share it freely; counted like every
// object, and freed when the id is closed and the last job has ended. Who calls it: runtime/job
// (open, convert).
#ifndef CTOK_RUNTIME_MODEL_H
#define CTOK_RUNTIME_MODEL_H

#include "ids.h"
#include "../network/family.h"
#include "program.h"
#include "weights.h"

// The parts of a model, in the order of its layers. Encoder and decoder share the codebook.
enum { MODEL_ENCODER, MODEL_DECODER, MODEL_CODEBOOK, MODEL_PARTS };

typedef struct model {
    object base;
    backend *backend;  // the engine's, which outlives the model; or its own, limited to num_threads
                       // of the options
    ctok_dtype dtype;  // precision: of activations and weights between the ends, CTOK_F32 or
                       // CTOK_BF16
    description description;
    ctok_model_info info;
    weights_list *shared;         // the engine's
    weights *parts[MODEL_PARTS];  // held; NULL where absent
    layer_weights *layers;        // of all parts, in graph order
    int32_t first_decoder_layer, num_layers;
    const float *codebook;      // of a quantizer that looks codes up; or NULL
    size_t weight_bytes;        // of all parts
    uint64_t max_memory_bytes;  // of a job with the weights; 0: no limit but the device's
    program_cache programs;     // of the requests made of it
    atomic_bool is_closed;
} model;

// Opens and checks the checkpoint at `path`, and packs the halves that `shared` (and its backend)
// does not hold yet. *steps_done / *num_steps count layers; *cancel is looked at all the while. On
// the engine's thread. On success *out has one reference and no id yet. Errors: see
// ctok_model_open.
ctok_status model_open(model **out, object *owner, weights_list *shared, const char *path,
                       const ctok_model_options *options, atomic_uint *steps_done,
                       atomic_uint *num_steps, const atomic_bool *cancel, ctok_error *error);

// Checks the checkpoint just so, and writes its parameters as safetensors; the steps are tensors.
// Cancelled, it writes nothing.
ctok_status model_convert(const char *out_path, const char *path, const ctok_model_options *options,
                          atomic_uint *steps_done, atomic_uint *num_steps,
                          const atomic_bool *cancel, ctok_error *error);

#endif
