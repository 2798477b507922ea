// What the readers of PyTorch's archives share: the open archive, and how a tensor of its pickle
// becomes one of the checkpoint. Who includes it: torch.c, torchscript.c and state_dict.c.
#ifndef CTOK_CHECKPOINT_TORCH_H
#define CTOK_CHECKPOINT_TORCH_H

#include "pickle.h"
#include "zip.h"

enum { TORCH_NAME_BYTES = 1023 };

typedef struct {
    checkpoint *into;
    zip_archive zip;
    text root;               // "encoder" in "encoder/data.pkl"
    uint64_t pickle_offset;  // of data.pkl's bytes in the file
    size_t budget;           // bytes of names that a walk may still pass: 16 times the pickle's
    char name[TORCH_NAME_BYTES + 1];  // of the tensor or module at hand
    ctok_error *error;
} torch_archive;

#define TORCH_FAIL(r, ...) ctok_fail((r)->error, CTOK_E_FILE_FORMAT, 0, __VA_ARGS__)

// Appends the tensor of the name r->name, after checking it against the archive's record of its
// storage.
ctok_status torch_add_tensor(torch_archive *r, const pickle_value *tensor);
// Refuses a value that pickle.c passed over, by the name that made it so.
ctok_status torch_fail_unknown(torch_archive *r, const pickle_value *unknown);

ctok_status torchscript_read(torch_archive *r, const pickle_document *document);  // whose top is an
                                                                                  // object
ctok_status state_dict_read(torch_archive *r, const pickle_value *top);           // a dict

#endif
