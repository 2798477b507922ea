// Reads the module that a TorchScript archive pickles. A tensor's name is the path of attributes
// that leads to it, "encoder.down.0.block.0.conv1.weight"; a module shared by two attributes gives
// both names. What it leaves out: attributes that are neither modules nor tensors. Called by
// torch.c.
#include "torch.h"

enum { MAX_DEPTH = 64 };

// Note: objects may be shared, or contain themselves. A limit of the depth, and one of the names
// passed, which grows with the pickle's size, end the walk.
static ctok_status walk(torch_archive *r, const pickle_value *object, size_t name_bytes,
                        int depth) {
    if (depth > MAX_DEPTH)
        return TORCH_FAIL(r, "modules nest deeper than %d: %s", MAX_DEPTH, string_shown(r->name).s);
    if (!object->state || object->state->kind != PICKLE_DICT)
        return CTOK_OK;  // packed parameters and other natives
    for (const pickle_item *item = object->state->first; item; item = item->next) {
        if (item->key->kind != PICKLE_STRING || !text_is_name(item->key->text))
            return TORCH_FAIL(r, "an attribute's name must be a string of UTF-8, found %s",
                              pickle_kind_name(item->key->kind));
        text key = item->key->text;
        size_t longer = name_bytes + (depth > 0) + key.num_bytes;
        bool is_tensor = item->value->kind == PICKLE_TENSOR;
        size_t cost = 1 + key.num_bytes + (is_tensor ? longer : 0);
        if (cost > r->budget)
            return TORCH_FAIL(
                r,
                "the modules share each other so often that their names pass 16 times their bytes");
        r->budget -= cost;
        if (!is_tensor && item->value->kind != PICKLE_OBJECT) continue;
        if (longer > TORCH_NAME_BYTES)
            return TORCH_FAIL(r, "an attribute's path has %zu bytes: expected at most %d", longer,
                              TORCH_NAME_BYTES);
        if (depth > 0) r->name[name_bytes] = '.';
        memcpy(r->name + longer - key.num_bytes, key.bytes, key.num_bytes);
        r->name[longer] = 0;
        CTOK_TRY(is_tensor ? torch_add_tensor(r, item->value)
                           : walk(r, item->value, longer, depth + 1));
    }
    return CTOK_OK;
}

// torch.jit.freeze (and optimize_for_inference) turns parameters into constants, as constants/N.
// Which is which is said by the code alone, which is never read.
static ctok_status refuse_without_tensors(torch_archive *r) {
    size_t num_constants = 0;
    for (size_t i = 0; i < r->zip.num_entries; i++) {
        text name = r->zip.entries[i].name, folder = TEXT("/constants/");
        if (name.num_bytes <= r->root.num_bytes + folder.num_bytes) continue;
        num_constants +=
            text_equal((text){name.bytes + r->root.num_bytes, folder.num_bytes}, folder);
    }
    return TORCH_FAIL(r,
                      "an archive whose module has no parameters, and %zu constants: expected one "
                      "that was not frozen "
                      "(save the module without torch.jit.freeze)",
                      num_constants);
}

ctok_status torchscript_read(torch_archive *r, const pickle_document *document) {
    if (document->unknown) return torch_fail_unknown(r, document->unknown);
    int32_t num_before = r->into->num_tensors;
    CTOK_TRY(walk(r, document->top, 0, 0));
    return r->into->num_tensors > num_before ? CTOK_OK : refuse_without_tensors(r);
}
