// The packed weights of one part of a tokenizer: a half, or a codebook. A block is packed once, is
// immutable from then on, and is shared by every model of the engine that asks for the same layers
// of the same files; it is freed with the last of them. The files are told apart as in
// checkpoint_file, so one that was written again is packed again. Who calls it: runtime/model; the
// engine owns the list.
#ifndef CTOK_RUNTIME_WEIGHTS_H
#define CTOK_RUNTIME_WEIGHTS_H

#include <pthread.h>
#include <stdatomic.h>

#include "../checkpoint/checkpoint.h"
#include "digest.h"
#include "../network/graph.h"

typedef struct {
    conv_weights conv;            // OP_CONV
    const float *scale, *offset;  // OP_NORM
    const float *codebook;        // OP_QUANTIZE: unit vectors
} layer_weights;

// What is packed: the layers of a part in graph order, and the weight and bias of each, all of
// `checkpoint`.
typedef struct {
    const checkpoint *checkpoint;
    const graph_layer *layers;
    const checkpoint_tensor *const *tensors;  // [num_layers][2]; NULL for a bias that a layer does
                                              // not have
    int32_t num_layers;
} weights_source;

typedef struct weights_list weights_list;

typedef struct weights {
    struct weights *next;  // in the list
    weights_list *list;
    int32_t num_models;        // that hold it; under the list's lock
    checkpoint_file files[2];  // what it was packed from
    int32_t num_files, num_layers;
    graph_layer *described;  // each layer as its graph described it: size, precision, name
    layer_weights *layers;   // each layer's place in the block
    void *block;             // of the list's backend
    size_t num_bytes;
    int64_t num_parameters, num_nonfinite;
    uint32_t num_nonfinite_tensors;
    char first_nonfinite[160];       // the parameter's name, or ""
    char sha256[DIGEST_TEXT_BYTES];  // of all parameters of those files; "" until the model that
                                     // packed this is open
} weights;

struct weights_list {
    backend *backend;  // whose memory the blocks are; outlives the list
    pthread_mutex_t lock;
    weights *first;
};

void weights_list_init(weights_list *list, backend *b);
void weights_list_destroy(weights_list *list);  // empty by then

// Finds the block of these layers, or packs them with b's threads; what is read goes through `d`.
// *steps_done counts layers; the checkpoint's cancel is looked at between tensors. Called on the
// engine's thread alone, so nobody packs the same layers meanwhile. The caller holds *out:
// weights_release. Errors: CTOK_E_FILE_IO, CTOK_E_MEMORY, CTOK_E_CANCELLED.
ctok_status weights_get(weights **out, weights_list *list, backend *b, const weights_source *source,
                        digest *d, atomic_uint *steps_done, ctok_error *error);
// Copies the hash of all parameters of these files to `out`, if a block of their weights is held;
// else gives false. Called on the engine's thread.
bool weights_find_sha256(char out[DIGEST_TEXT_BYTES], weights_list *list, const checkpoint *c);
bool weights_are_held(weights_list *list);  // by any model; on any thread
uint64_t weights_bytes(const backend *b, const weights_source *source);  // that they take once
                                                                         // packed
void weights_release(weights *w);  // on any thread; NULL is fine

#endif
