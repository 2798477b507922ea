// The socket for tokenizer families. A family recognises its checkpoints by their keys, describes
// them, and builds the graphs of their halves; everything else (runtime/, the ABI, TypeScript)
// works from the description and knows no family. A new family is one file here and one row in
// families.c. Who calls it: runtime/.
#ifndef CTOK_NETWORK_FAMILY_H
#define CTOK_NETWORK_FAMILY_H

#include "../checkpoint/checkpoint.h"
#include "graph.h"

enum { FAMILY_OWN_BYTES = 512, FAMILY_MAX_FACTS = 16 };

// How latent vectors become codes. `levels` are those of FSQ, level 0 the least significant digit
// of an index. `codebook` names the layer that holds the codes of QUANTIZER_LOOKUP: tensor
// CODEBOOK.weight, [size, channels].
typedef struct {
    quantizer_kind kind;
    uint32_t size, num_levels, levels[8];
    const char *codebook;
} quantizer_spec;

typedef struct network_family network_family;

// All that the runtime knows of a model, whatever its family.
typedef struct {
    const network_family *family;
    char name[64];
    bool has_encoder, has_decoder;  // the halves that were asked for and found
    bool is_video;
    int32_t spatial_factor;   // pixels of one token, each way
    int32_t temporal_factor;  // frames of one token; of a video the first frame stands alone. 1 for
                              // images
    int32_t spatial_align, temporal_align;  // what is encoded is padded to a multiple of these
                                            // pixels, with black, half on each side; a clip to 1 +
                                            // a multiple of these frames, its first and last
                                            // repeated, half at each end
    int32_t latent_channels;                // of the latent, or of the codes
    quantizer_spec quantizer;
    int32_t num_facts;
    ctok_fact facts[FAMILY_MAX_FACTS];  // for people: how the network is built, and what told it
    _Alignas(16) unsigned char own[FAMILY_OWN_BYTES];  // the family's alone
} description;

// Where the caller's pixels lie inside the network's padded ones. An image is one frame.
typedef struct {
    int64_t images;  // or clips, which pass through the graph together
    int64_t padded_frames, padded_height, padded_width;
    int64_t before, top, left, frames, height, width;
    bool is_first;  // a whole clip, or the first chunk of a stream: its first frame stands alone
} network_frame;

// Numbers of the graph's external outputs; GRAPH_NONE for those that were not asked for.
typedef struct {
    int32_t pixels, indices, codes, latent, pre_quant;
} network_outputs;

struct network_family {
    const char *name;                         // "cosmos": what ctok_model_info calls it
    const char *keys;                         // for people: names by which it is recognised
    bool (*recognises)(const checkpoint *c);  // by its keys alone

    // Fills everything but `family`; *out holds zeros. `path` names the model where options (which
    // may be NULL) do not.
    // Errors: CTOK_E_FILE_TENSOR, CTOK_E_FILE_NETWORK, CTOK_E_FILE_FORMAT, CTOK_E_ARGUMENT
    // (options).
    ctok_status (*describe)(description *out, const checkpoint *c, const char *path,
                            const ctok_model_options *options, ctok_error *error);
    uint32_t (*half_of)(const char *tensor);  // bits of CTOK_HALF_* that a parameter of this name
                                              // is for; 0: it is none

    // Buffers: tensors that are no parameters. Known by name, they are left out of a checkpoint's
    // hash; check_buffer says whether one fits this network. CTOK_E_FILE_TENSOR: an unexpected
    // tensor, or a buffer of another network.
    bool (*is_buffer)(const char *tensor);
    ctok_status (*check_buffer)(const description *d, const checkpoint_tensor *tensor,
                                ctok_error *error);

    // Each appends to g, for frame.images images or clips; `pixels` is the external format of the
    // pixels read or written. encode: pixels to tokens; gives the latent's (or codes') value.
    // decode: from such a value, or one that family_load_* gave.
    int32_t (*encode)(graph *g, const description *d, network_frame frame, external_format pixels,
                      network_outputs outputs);
    void (*decode)(graph *g, const description *d, int32_t latent, network_frame frame,
                   external_format pixels, network_outputs outputs);
};

extern const network_family *const network_families[];  // NULL at the end

// Finds the family that recognises a checkpoint and has it describe the model. Errors: as
// `describe`; CTOK_E_FILE_NETWORK where none does.
ctok_status family_describe(description *out, const checkpoint *c, const char *path,
                            const ctok_model_options *options, ctok_error *error);

// The external input of a decoder as a value: latents or codes [C, t, h, w], or indices [t, h, w].
// store_codes writes a value of codes to an external output.
int32_t family_load_latent(graph *g, const description *d, int64_t images, int64_t frames,
                           int64_t height, int64_t width);
int32_t family_load_indices(graph *g, const description *d, int64_t images, int64_t frames,
                            int64_t height, int64_t width);
void family_store_codes(graph *g, int32_t codes, int32_t external);
void family_add_codebook(graph *g, const description *d);  // the layer that a quantizer looks codes
                                                           // up in, if it has one

// ---------------------------------------------------------------- what families share
// Sets the model's name: from the option; else from the metadata; else from the part of the path
// that tells most (encoder.jit takes its folder's).
void family_name(char out[64], const checkpoint *c, const char *path,
                 const ctok_model_options *options);
bool family_has_prefix(const checkpoint *c, const char *prefix);  // whether any tensor's name
                                                                  // starts with it
bool family_ends_with(const char *text, const char *end);
__attribute__((format(printf, 4, 5))) void family_add_fact(description *d, const char *name,
                                                           uint32_t from, const char *format, ...);

// Finds which halves to read: those that the options ask for, or else all that the checkpoint has.
// CTOK_E_FILE_TENSOR where one that is asked for is missing.
ctok_status family_find_halves(description *d, bool has_encoder, bool has_decoder,
                               const ctok_model_options *options, ctok_error *error);
ctok_status family_wrong_buffer(const checkpoint_tensor *t, const char *wanted, ctok_error *error);
ctok_status family_unexpected_tensor(const checkpoint_tensor *t, ctok_error *error);
// Adds to the description what the checkpoint's keys say of one half, "encoder" or "decoder": the
// channels of each level, the finest first, the blocks of a level, and the channels of z.
void family_add_half(description *d, const char *half, const int32_t *widths, int32_t num_levels,
                     int32_t blocks, int32_t z_channels);
// half_of for names that begin with encoder., quant_conv., decoder. and post_quant_conv.
uint32_t family_half_of(const char *tensor);

#endif
