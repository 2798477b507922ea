// Reads the dict that torch.save wrote: a state dict (name to tensor), or a trainer's dict that
// holds one under "ema", "model" or "state_dict". Where several are there the first of these is
// taken: averaged weights come before the trained ones, as LlamaGen's loader has it. All else in a
// trainer's dict (optimizer, args, callbacks, ...) is passed over: its tensors are not looked at,
// and a name in it that ctok does not know is no error. In the state dict itself everything must be
// a tensor.
// Ref: LlamaGen's loaders of the tokenizer (the order of the three keys). Called by torch.c.
#include "torch.h"

// Sets *out to the only value under `key`, or to NULL where there is none.
static ctok_status find_key(torch_archive *r, const pickle_value **out, const pickle_value *dict,
                            text key) {
    *out = NULL;
    for (const pickle_item *item = dict->first; item; item = item->next) {
        if (item->key->kind != PICKLE_STRING || !text_equal(item->key->text, key)) continue;
        if (*out) return TORCH_FAIL(r, "the key %s is there twice", text_shown(key).s);
        *out = item->value;
    }
    return CTOK_OK;
}

// *weights stays where `top` holds no other dict of weights. A key that holds None (a trainer
// without an average) counts as not there.
static ctok_status find_weights(torch_archive *r, const pickle_value **weights,
                                const pickle_value *top) {
    static const char *const keys[] = {"ema", "model", "state_dict"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const pickle_value *value;
        CTOK_TRY(find_key(r, &value, top, (text){keys[i], strlen(keys[i])}));
        if (!value || value->kind == PICKLE_NONE) continue;
        if (value->kind == PICKLE_OPAQUE) return torch_fail_unknown(r, value);
        if (value->kind != PICKLE_DICT)
            return TORCH_FAIL(r, "%s: expected a state dict, found %s", keys[i],
                              pickle_kind_name(value->kind));
        *weights = value;
        return CTOK_OK;
    }
    return CTOK_OK;
}

static ctok_status read_entry(torch_archive *r, const pickle_value *key,
                              const pickle_value *value) {
    if (key->kind != PICKLE_STRING || !text_is_name(key->text))
        return TORCH_FAIL(r, "a tensor's name must be a string of UTF-8, found %s",
                          pickle_kind_name(key->kind));
    size_t num_bytes = key->text.num_bytes, cost = 1 + 2 * num_bytes;
    if (num_bytes > TORCH_NAME_BYTES)
        return TORCH_FAIL(r, "a tensor's name has %zu bytes: expected at most %d", num_bytes,
                          TORCH_NAME_BYTES);
    if (cost > r->budget)
        return TORCH_FAIL(r, "the names of the tensors pass 16 times the bytes of the pickle");
    r->budget -= cost;
    if (value->kind == PICKLE_OPAQUE) return torch_fail_unknown(r, value);
    if (value->kind != PICKLE_TENSOR)
        return TORCH_FAIL(
            r,
            "%s: expected a tensor, found %s (is this a state dict, or does it hold one under "
            "ema, model or state_dict?)",
            text_shown(key->text).s, pickle_kind_name(value->kind));
    memcpy(r->name, key->text.bytes, num_bytes);
    r->name[num_bytes] = 0;
    return torch_add_tensor(r, value);
}

ctok_status state_dict_read(torch_archive *r, const pickle_value *top) {
    const pickle_value *weights = top;
    CTOK_TRY(find_weights(r, &weights, top));
    if (!weights->first) return TORCH_FAIL(r, "a state dict without a tensor");
    for (const pickle_item *item = weights->first; item; item = item->next)
        CTOK_TRY(read_entry(r, item->key, item->value));
    return CTOK_OK;
}
