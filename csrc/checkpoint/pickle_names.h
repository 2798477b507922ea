// The names that the pickle machine knows, and what each stands for. Names of storages say a type.
// All others are opaque. Ref: torch/_utils.py; torch/csrc/jit/serialization/pickler.cpp. Included
// by pickle.c alone.
#ifndef CTOK_CHECKPOINT_PICKLE_NAMES_H
#define CTOK_CHECKPOINT_PICKLE_NAMES_H

#include "../base/tensor.h"

// ROLE_FIRST_ARGUMENT: a name whose call gives its first argument. ROLE_CLASS: a class of a
// TorchScript module (__torch__.*), which is in no table.
enum {
    ROLE_NONE,
    ROLE_TENSOR,
    ROLE_PARAMETER,
    ROLE_STORAGE,
    ROLE_DICT,
    ROLE_FIRST_ARGUMENT,
    ROLE_CLASS
};

static const struct {
    const char *module, *name;
    uint16_t role;
    ctok_dtype dtype;
} pickle_names[] = {
    {"torch._utils", "_rebuild_tensor_v2", ROLE_TENSOR, 0},
    {"torch._utils", "_rebuild_parameter", ROLE_PARAMETER, 0},
    {"torch", "FloatStorage", ROLE_STORAGE, CTOK_F32},
    {"torch", "HalfStorage", ROLE_STORAGE, CTOK_F16},
    {"torch", "BFloat16Storage", ROLE_STORAGE, CTOK_BF16},
    {"torch", "DoubleStorage", ROLE_STORAGE, CTOK_F64},
    {"torch", "LongStorage", ROLE_STORAGE, CTOK_I64},
    {"torch", "IntStorage", ROLE_STORAGE, CTOK_I32},
    {"torch", "ShortStorage", ROLE_STORAGE, CTOK_I16},
    {"torch", "CharStorage", ROLE_STORAGE, CTOK_I8},
    {"torch", "ByteStorage", ROLE_STORAGE, CTOK_U8},
    {"torch", "BoolStorage", ROLE_STORAGE, CTOK_BOOL},
    {"collections", "OrderedDict", ROLE_DICT, 0},
    {"torch.jit._pickle", "build_intlist", ROLE_FIRST_ARGUMENT, 0},
    {"torch.jit._pickle", "build_doublelist", ROLE_FIRST_ARGUMENT, 0},
    {"torch.jit._pickle", "build_boollist", ROLE_FIRST_ARGUMENT, 0},
    {"torch.jit._pickle", "build_tensorlist", ROLE_FIRST_ARGUMENT, 0},
    {"torch.jit._pickle", "restore_type_tag", ROLE_FIRST_ARGUMENT, 0},
    {"torch", "device", ROLE_FIRST_ARGUMENT, 0},
};

#endif
