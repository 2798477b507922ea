// Reads a zip archive that PyTorch wrote: <root>/data.pkl pickles the values and <root>/data/N hold
// the storages. What the pickle holds says which of the two forms the archive has: a module
// (torch.jit.save, read by torchscript.c) or a dict (torch.save, read by state_dict.c). Here are
// the records and the tensors, which are the same in both. What it leaves out, and never opens:
// code/, constants.pkl, traced_inputs and the rest. Called by open.c.
// Ref: torch/csrc/jit/docs/serialization.md; torch/serialization.py (_save).
#include "torch.h"

// An archive has one root folder, of any name. Only <root>/data.pkl counts: <root>/extra/data.pkl
// is the user's own.
static ctok_status find_root(torch_archive *r) {
    static const char suffix[] = "/data.pkl";
    size_t num_found = 0, suffix_bytes = sizeof suffix - 1;
    for (size_t i = 0; i < r->zip.num_entries; i++) {
        text name = r->zip.entries[i].name;
        if (name.num_bytes <= suffix_bytes) continue;
        text root = {name.bytes, name.num_bytes - suffix_bytes};
        if (memcmp(name.bytes + root.num_bytes, suffix, suffix_bytes) != 0 ||
            memchr(root.bytes, '/', root.num_bytes))
            continue;
        r->root = root;
        num_found++;
    }
    if (num_found == 1) return CTOK_OK;
    return TORCH_FAIL(r,
                      "a zip archive with %zu records named <root>/data.pkl among %zu: expected 1 "
                      "(did torch.save or torch.jit.save write it?)",
                      num_found, r->zip.num_entries);
}

// Finds a record of the archive. *entry is NULL, and the status CTOK_OK, where there is none.
static ctok_status find_record(torch_archive *r, const zip_entry **entry, const char *folder,
                               text name) {
    char path[512];
    size_t folder_bytes = strlen(folder),
           num_bytes = r->root.num_bytes + folder_bytes + name.num_bytes;
    if (num_bytes > sizeof path)
        return TORCH_FAIL(r, "a record's path has %zu bytes: expected at most %zu", num_bytes,
                          sizeof path);
    memcpy(path, r->root.bytes, r->root.num_bytes);
    memcpy(path + r->root.num_bytes, folder, folder_bytes);
    memcpy(path + r->root.num_bytes + folder_bytes, name.bytes, name.num_bytes);
    *entry = zip_find(&r->zip, (text){path, num_bytes});
    return CTOK_OK;
}

static ctok_status check_byte_order(torch_archive *r) {
    const zip_entry *entry;
    CTOK_TRY(find_record(r, &entry, "/", TEXT("byteorder")));
    if (!entry) return CTOK_OK;
    const uint8_t *data;
    CTOK_TRY(zip_record(&data, &r->zip, entry, r->error));
    CTOK_TRY(
        map_fetch(r->zip.map, (uint64_t)(data - r->zip.map.bytes), entry->num_bytes, r->error));
    text order = {(const char *)data, entry->num_bytes};
    if (!text_equal(order, TEXT("little")))
        return TORCH_FAIL(r, "the record byteorder says %s: expected little", text_shown(order).s);
    return CTOK_OK;
}

/* ---------------------------------------------------------------- one tensor */
static ctok_status copy_integers(torch_archive *r, int64_t *out, const pickle_value *tuple,
                                 const char *what) {
    for (const pickle_item *item = tuple->first; item; item = item->next) {
        shown name = string_shown(r->name);
        int64_t n = item->value->integer;
        if (item->value->kind != PICKLE_INT)
            return TORCH_FAIL(r, "tensor %s: a %s is %s, expected an int", name.s, what,
                              pickle_kind_name(item->value->kind));
        if (n < 0)
            return TORCH_FAIL(r, "tensor %s: a negative %s (%lld)", name.s, what, (long long)n);
        *out++ = n;
    }
    return CTOK_OK;
}

// Finds the highest element, counted from the first, that shape and strides reach; -1 for an empty
// tensor. False on overflow.
static bool last_element(int64_t *last, const checkpoint_tensor *tensor) {
    *last = 0;
    for (int32_t i = 0; i < tensor->rank; i++) {
        int64_t reach;
        if (tensor->shape[i] == 0) return *last = -1, true;
        if (__builtin_mul_overflow(tensor->shape[i] - 1, tensor->stride[i], &reach)) return false;
        if (__builtin_add_overflow(*last, reach, last)) return false;
    }
    return true;
}

ctok_status torch_add_tensor(torch_archive *r, const pickle_value *value) {
    shown name = string_shown(r->name);
    const pickle_value *storage = value->storage;
    checkpoint_tensor tensor = {.dtype = storage->dtype, .rank = (int32_t)value->size->num_items};
    if (value->size->num_items != value->stride->num_items ||
        value->size->num_items > CHECKPOINT_MAX_RANK)
        return TORCH_FAIL(
            r, "tensor %s: %lld sizes and %lld strides, expected as many of both and at most %d",
            name.s, (long long)value->size->num_items, (long long)value->stride->num_items,
            CHECKPOINT_MAX_RANK);
    CTOK_TRY(copy_integers(r, tensor.shape, value->size, "size"));
    CTOK_TRY(copy_integers(r, tensor.stride, value->stride, "stride"));

    const zip_entry *record;
    const uint8_t *data;
    shown key = text_shown(storage->text);
    CTOK_TRY(find_record(r, &record, "/data/", storage->text));
    if (!record)
        return TORCH_FAIL(r, "tensor %s: the archive has no record %s/data/%s", name.s,
                          text_shown(r->root).s, key.s);
    CTOK_TRY(zip_record(&data, &r->zip, record, r->error));
    size_t element_bytes = dtype_bytes(tensor.dtype);
    int64_t num_stored = storage->integer, num_elements, last;
    if (num_stored < 0 || record->num_bytes % element_bytes != 0 ||
        record->num_bytes / element_bytes != (uint64_t)num_stored)
        return TORCH_FAIL(
            r, "tensor %s: record data/%s has %llu bytes, expected %lld elements of %zu bytes",
            name.s, key.s, (unsigned long long)record->num_bytes, (long long)num_stored,
            element_bytes);

    // Limit: values may be repeated (stride 0), but a small file must not ask for endless memory.
    const int64_t repeat_limit = 1 << 20;
    if (!tensor_count(&num_elements, &tensor) ||
        (num_elements > num_stored && num_elements > repeat_limit))
        return TORCH_FAIL(r, "tensor %s: its shape has more elements than its storage (%lld)",
                          name.s, (long long)num_stored);
    int64_t offset = value->integer;
    if (offset < 0 || offset > num_stored || !last_element(&last, &tensor) ||
        last >= num_stored - offset)
        return TORCH_FAIL(
            r, "tensor %s: offset %lld and strides reach past its storage of %lld elements", name.s,
            (long long)offset, (long long)num_stored);
    tensor.data = data + (size_t)offset * element_bytes;
    tensor.descriptor = r->zip.map.descriptor;
    tensor.offset = (uint64_t)(tensor.data - r->zip.map.bytes);

    text name_text = {r->name, strlen(r->name)};
    tensor.name = arena_copy(&r->into->strings, name_text);
    if (!tensor.name)
        return ctok_fail(r->error, CTOK_E_MEMORY, (int64_t)name_text.num_bytes,
                         "no memory for a tensor's name");
    return checkpoint_add_tensor(r->into, &tensor, r->error);
}

/* ---------------------------------------------------------------- the archive */
ctok_status torch_fail_unknown(torch_archive *r, const pickle_value *unknown) {
    shown module = text_shown(unknown->module), name = text_shown(unknown->text);
    return ctok_fail(r->error, CTOK_E_FILE_FORMAT,
                     (int64_t)(r->pickle_offset + (uint64_t)unknown->integer),
                     "data.pkl, byte %lld: the name %s %s is not one that ctok knows",
                     (long long)unknown->integer, module.s, name.s);
}

static ctok_status read_values(torch_archive *r, struct checkpoint_strings **arena) {
    CTOK_TRY(find_root(r));
    CTOK_TRY(check_byte_order(r));
    const zip_entry *entry;
    const uint8_t *data;
    CTOK_TRY(find_record(r, &entry, "/", TEXT("data.pkl")));
    if (!entry) return TORCH_FAIL(r, "no record data.pkl");
    CTOK_TRY(zip_record(&data, &r->zip, entry, r->error));

    if (entry->num_bytes <= PICKLE_MAX_BYTES)  // a longer one is refused unread
        CTOK_TRY(
            map_fetch(r->zip.map, (uint64_t)(data - r->zip.map.bytes), entry->num_bytes, r->error));
    pickle_document document;
    ctok_status status = pickle_read(&document, arena, data, entry->num_bytes, r->error);
    if (status == CTOK_E_FILE_FORMAT && r->error) r->error->detail += data - r->zip.map.bytes;
    if (status != CTOK_OK) return status;
    r->pickle_offset = (uint64_t)(data - r->zip.map.bytes);
    r->budget = 16 * entry->num_bytes;
    switch (document.top->kind) {
        case PICKLE_OBJECT: return torchscript_read(r, &document);
        case PICKLE_DICT: return state_dict_read(r, document.top);
        case PICKLE_OPAQUE: return torch_fail_unknown(r, document.top);
        default:
            return TORCH_FAIL(r, "data.pkl holds %s, expected a module or a state dict",
                              pickle_kind_name(document.top->kind));
    }
}

ctok_status torch_read(checkpoint *into, checkpoint_map map, ctok_error *error) {
    torch_archive r = {.into = into, .error = error};
    struct checkpoint_strings *values = NULL;
    CTOK_TRY(zip_open(&r.zip, map, error));
    ctok_status status = read_values(&r, &values);
    arena_free(values);
    zip_close(&r.zip);
    return status;
}
