// An open tokenizer: its variant and its packed weights. Immutable once open, so jobs share it freely; counted like every
// object, and freed when the id is closed and the last job has ended. Who calls it: core/job (open, convert), core/program.
#ifndef CTOK_CORE_MODEL_H
#define CTOK_CORE_MODEL_H

#include "ids.h"
#include "network.h"
#include "variant.h"

typedef struct {
    conv_weights conv;           // OP_CONV
    const float *scale, *offset; // OP_NORM
} layer_weights;

typedef struct model {
    object base;
    backend *backend;            // the engine's, which outlives the model
    bool is_bf16;                // precision: activations and weights between the ends are bfloat16
    variant variant;
    ctok_model_info info;
    layer_weights *layers;       // the encoder's, then the decoder's, in graph order
    int32_t num_encoder_layers, num_layers;
    void *weights;               // one block of the backend's memory
    size_t weight_bytes;
    atomic_bool is_closed;
} model;

// Opens, checks and packs the checkpoint at `path`. *steps_done / *num_steps count layers; *cancel is polled between them.
// On success *out has one reference and no id yet. Errors: see ctok_model_open.
ctok_status model_open(model **out, object *owner, backend *b, const char *path, const ctok_model_options *options, atomic_uint *steps_done,
                       atomic_uint *num_steps, const atomic_bool *cancel, ctok_error *error);

// Checks the checkpoint just so, and writes its parameters as safetensors.
ctok_status model_convert(const char *out_path, const char *path, const ctok_model_options *options, ctok_error *error);

#endif
