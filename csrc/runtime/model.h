// An open tokenizer: its variant and the packed weights of its halves, which other models may share. Immutable once open, so jobs share it freely; counted like every
// object, and freed when the id is closed and the last job has ended. Who calls it: runtime/job (open, convert), runtime/program.
#ifndef CTOK_RUNTIME_MODEL_H
#define CTOK_RUNTIME_MODEL_H

#include "ids.h"
#include "../network/network.h"
#include "../network/cosmos_variant.h"
#include "weights.h"

typedef struct model {
    object base;
    backend *backend;            // the engine's, which outlives the model; or its own, limited to num_threads of the options
    bool is_bf16;                // precision: activations and weights between the ends are bfloat16
    variant variant;
    ctok_model_info info;
    weights_list *shared;        // the engine's
    weights *encoder, *decoder;  // held; NULL where absent
    layer_weights *layers;       // the encoder's, then the decoder's, in graph order
    int32_t num_encoder_layers, num_layers;
    size_t weight_bytes;         // of both halves
    uint64_t max_memory_bytes;   // of a job with the weights; 0: no limit but the device's
    atomic_bool is_closed;
} model;

// Opens and checks the checkpoint at `path`, and packs the halves that `shared` (and its backend) does not hold yet. *steps_done / *num_steps
// count layers; *cancel is looked at all the while. On the engine's thread.
// On success *out has one reference and no id yet. Errors: see ctok_model_open.
ctok_status model_open(model **out, object *owner, weights_list *shared, const char *path, const ctok_model_options *options,
                       atomic_uint *steps_done, atomic_uint *num_steps, const atomic_bool *cancel, ctok_error *error);

// Checks the checkpoint just so, and writes its parameters as safetensors; the steps are tensors. Cancelled, it writes nothing.
ctok_status model_convert(const char *out_path, const char *path, const ctok_model_options *options, atomic_uint *steps_done,
                          atomic_uint *num_steps, const atomic_bool *cancel, ctok_error *error);

#endif
