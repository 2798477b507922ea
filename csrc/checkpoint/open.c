// Note: over 400 lines: the one way from a path to tensors, in the order in which it is gone.
// Opens a checkpoint: finds the files that a path stands for, gives each a range of memory that is
// filled piece by piece as its reader asks, has the reader append the tensors, and sorts the names.
// Of a tensor's name it knows the first word alone, which says whether encoder or decoder has it.
// What it leaves out: the file forms (safetensors.c, torch.c) and the values (values.c). Called by
// runtime/ and network/.
#include "checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "reader.h"

/* ---------------------------------------------------------------- the sorted directory */
static int compare_tensors(const void *a, const void *b) {
    return strcmp(((const checkpoint_tensor *)a)->name, ((const checkpoint_tensor *)b)->name);
}

static int compare_metadata(const void *a, const void *b) {
    return strcmp(((const checkpoint_metadata *)a)->key, ((const checkpoint_metadata *)b)->key);
}

const checkpoint_tensor *checkpoint_find(const checkpoint *c, const char *name) {
    checkpoint_tensor key = {.name = name};
    return c->num_tensors
               ? bsearch(&key, c->tensors, (size_t)c->num_tensors, sizeof key, compare_tensors)
               : NULL;
}

const char *checkpoint_metadata_find(const checkpoint *c, const char *key) {
    checkpoint_metadata wanted = {.key = key}, *entry = NULL;
    if (c->num_metadata)
        entry =
            bsearch(&wanted, c->metadata, (size_t)c->num_metadata, sizeof wanted, compare_metadata);
    return entry ? entry->value : NULL;
}

ctok_status checkpoint_check_cancel(const checkpoint *c, ctok_error *error) {
    return checkpoint_is_cancelled(c)
               ? ctok_fail(error, CTOK_E_CANCELLED, 0, "cancelled while opening")
               : CTOK_OK;
}

// Sorts the entries that one file has added, from number `first` on; a name that stands there twice
// is an error.
static ctok_status sort_added(checkpoint *c, int32_t first_tensor, int32_t first_metadata,
                              ctok_error *error) {
    int32_t num_tensors = c->num_tensors - first_tensor,
            num_metadata = c->num_metadata - first_metadata;
    checkpoint_tensor *t = num_tensors ? c->tensors + first_tensor : NULL;
    checkpoint_metadata *m = num_metadata ? c->metadata + first_metadata : NULL;
    if (t) qsort(t, (size_t)num_tensors, sizeof *t, compare_tensors);
    if (m) qsort(m, (size_t)num_metadata, sizeof *m, compare_metadata);
    for (int32_t i = 1; i < num_tensors; i++)
        if (compare_tensors(&t[i - 1], &t[i]) == 0)
            return ctok_fail(error, CTOK_E_FILE_FORMAT, 0, "two tensors have the name %s",
                             string_shown(t[i].name).s);
    for (int32_t i = 1; i < num_metadata; i++)
        if (compare_metadata(&m[i - 1], &m[i]) == 0)
            return ctok_fail(error, CTOK_E_FILE_FORMAT, 0, "two metadata entries have the key %s",
                             string_shown(m[i].key).s);
    return CTOK_OK;
}

/* ---------------------------------------------------------------- what a file may hold */
// Limit: tensors may share a storage, but a small file must not ask for endless reading.
static ctok_status limit_reading(const checkpoint *c, int32_t first, ctok_error *error) {
    enum { MOST_TIMES = 4, FREE_BYTES = 16 << 20 };
    uint64_t file_bytes = c->files[c->num_maps - 1].num_bytes,
             most = MOST_TIMES * file_bytes + FREE_BYTES, cost = 0;
    for (int32_t i = first; i < c->num_tensors; i++) {
        cost += checkpoint_read_cost(&c->tensors[i]);
        if (cost > most)
            return ctok_fail(
                error, CTOK_E_FILE_FORMAT, (int64_t)cost,
                "its tensors share their storages so often that reading each once takes %llu bytes "
                "and more: expected at most %d times the file's %llu and %d",
                (unsigned long long)cost, MOST_TIMES, (unsigned long long)file_bytes, FREE_BYTES);
    }
    return CTOK_OK;
}

static bool begins_with(const char *text, const char *start) {
    return strncmp(text, start, strlen(start)) == 0;
}

static bool begins_with_module(const char *name) {
    static const char *const modules[] = {"encoder.", "decoder.", "quant_conv.",
                                          "post_quant_conv."};
    bool is_one = false;
    for (size_t i = 0; i < sizeof modules / sizeof *modules; i++)
        is_one |= begins_with(name, modules[i]);
    return is_one;
}

// Length of the prefix before the first module of the network in a name: that of "model." in
// "model.encoder.conv_in.weight"; 0 where the name has no such module.
static size_t wrapper_bytes(const char *name) {
    for (const char *p = name; p; p = strchr(p, '.') ? strchr(p, '.') + 1 : NULL)
        if (begins_with_module(p)) return (size_t)(p - name);
    return 0;
}

// Removes the prefix that a module around the whole tokenizer (DataParallel, torch.compile, a
// trainer) puts before every name. The order of the names stays the same.
static void unwrap(checkpoint *c, int32_t first) {
    size_t num_bytes = 0;
    const char *wrapped = "";
    for (int32_t i = first; i < c->num_tensors && num_bytes == 0; i++)
        num_bytes = wrapper_bytes(wrapped = c->tensors[i].name);
    for (int32_t i = first; i < c->num_tensors; i++)
        if (strncmp(c->tensors[i].name, wrapped, num_bytes) != 0) return;
    for (int32_t i = first; i < c->num_tensors; i++) c->tensors[i].name += num_bytes;
}

// Refuses a file that is named after one half (encoder.*) and has no tensor of it. Were it skipped,
// the other half would open alone, without an error.
static ctok_status expect_half(const checkpoint *c, int32_t first, const char *half,
                               ctok_error *error) {
    for (int32_t i = first; i < c->num_tensors; i++)
        if (begins_with(c->tensors[i].name, half)) return CTOK_OK;
    int32_t count = c->num_tensors - first;
    return ctok_fail(
        error, CTOK_E_FILE_NETWORK, count, "expected tensors named %s*, found %d others%s%s", half,
        count, count ? ", such as " : "", count ? string_shown(c->tensors[first].name).s : "");
}

/* ---------------------------------------------------------------- two files, one directory */
static const checkpoint_file *file_of(const checkpoint *c, const checkpoint_tensor *t) {
    return &c->files[c->num_maps > 1 && t->descriptor == c->maps[1].descriptor];
}

// Whether two tensors are the same bytes of the same file, which may be open under two names: then
// there is nothing to compare.
static bool are_one(const checkpoint *c, const checkpoint_tensor *a, const checkpoint_tensor *b) {
    return a->offset == b->offset &&
           memcmp(a->stride, b->stride, (size_t)a->rank * sizeof *a->stride) == 0 &&
           memcmp(file_of(c, a), file_of(c, b), sizeof(checkpoint_file)) == 0;  // no padding in
                                                                                // them
}

// Compares two tensors' values: contiguous ones a piece at a time, strided ones whole.
static ctok_status compare_values(bool *are_equal, const checkpoint *c, const checkpoint_tensor *a,
                                  const checkpoint_tensor *b, ctok_error *error) {
    enum { PIECE_ELEMENTS = 1 << 17 };
    *are_equal = a->dtype == b->dtype && a->rank == b->rank &&
                 memcmp(a->shape, b->shape, (size_t)a->rank * sizeof *a->shape) == 0;
    if (!*are_equal || are_one(c, a, b)) return CTOK_OK;
    bool are_flat = checkpoint_is_contiguous(a) && checkpoint_is_contiguous(b);
    int64_t count = checkpoint_elements(a),
            most = are_flat && count > PIECE_ELEMENTS ? PIECE_ELEMENTS : count;
    size_t num_bytes = (size_t)most * dtype_bytes(a->dtype);
    uint8_t *copies = num_bytes < SIZE_MAX / 4 ? malloc(2 * num_bytes + 1) : NULL;
    if (!copies)
        return ctok_fail(error, CTOK_E_MEMORY, (int64_t)num_bytes, "no memory to compare tensor %s",
                         string_shown(a->name).s);
    ctok_status status = CTOK_OK;
    for (int64_t at = 0, n; status == CTOK_OK && *are_equal && at < count; at += n) {
        n = count - at < most ? count - at : most;
        checkpoint_tensor x = *a, y = *b;
        if (are_flat)
            x = checkpoint_flat(a), y = checkpoint_flat(b), x = checkpoint_rows(&x, at, n),
            y = checkpoint_rows(&y, at, n);
        bool is_read = checkpoint_copy(&x, copies) && checkpoint_copy(&y, copies + num_bytes);
        status = is_read ? checkpoint_check_cancel(c, error) : checkpoint_fail_read(a, error);
        *are_equal = memcmp(copies, copies + num_bytes, (size_t)n * dtype_bytes(a->dtype)) == 0;
    }
    free(copies);
    return status;
}

// Merges the sorted entries of two files. Neither has duplicates; of two equal tensors, or metadata
// with one key, those of the first file are kept.
static ctok_status merge(checkpoint *c, int32_t first_tensor, int32_t first_metadata,
                         ctok_error *error) {
    checkpoint first = {.tensors = c->tensors,
                        .num_tensors = first_tensor,
                        .metadata = c->metadata,
                        .num_metadata = first_metadata};
    int32_t kept = first_tensor;
    for (int32_t i = first_tensor; i < c->num_tensors; i++) {
        const checkpoint_tensor *other = checkpoint_find(&first, c->tensors[i].name);
        bool are_equal = false;
        if (other) CTOK_TRY(compare_values(&are_equal, c, other, &c->tensors[i], error));
        if (other && !are_equal)
            return ctok_fail(error, CTOK_E_FILE_FORMAT, 0,
                             "tensor %s is also in the other file of the folder, and differs",
                             string_shown(other->name).s);
        if (!other) c->tensors[kept++] = c->tensors[i];
    }
    c->num_tensors = kept;
    kept = first_metadata;
    for (int32_t i = first_metadata; i < c->num_metadata; i++)
        if (!checkpoint_metadata_find(&first, c->metadata[i].key))
            c->metadata[kept++] = c->metadata[i];
    c->num_metadata = kept;
    return sort_added(c, 0, 0, error);
}

/* ---------------------------------------------------------------- one file */
static ctok_status fail_io(ctok_error *error, const char *what) {
    int code = errno;
    return ctok_fail(error,
                     code == ENOENT || code == ENOTDIR ? CTOK_E_FILE_MISSING : CTOK_E_FILE_IO, code,
                     "%s: %s", what, strerror(code));
}

#if defined(__APPLE__)
#define st_mtim st_mtimespec
#define st_ctim st_ctimespec
#endif

static int64_t nanoseconds(struct timespec t) { return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec; }

static ctok_status map_descriptor(checkpoint_map *out, checkpoint_file *file, int descriptor,
                                  ctok_error *error) {
    struct stat info;
    if (fstat(descriptor, &info) != 0) return fail_io(error, "cannot be examined");
    if (!S_ISREG(info.st_mode))
        return ctok_fail(error, CTOK_E_FILE_FORMAT, 0, "expected a file or a folder");
    if (info.st_size == 0) return ctok_fail(error, CTOK_E_FILE_FORMAT, 0, "the file is empty");
    // Reserves addresses for a file; only the parts that are fetched into them take memory.
    void *bytes = mmap(NULL, (size_t)info.st_size, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (bytes == MAP_FAILED)
        return ctok_fail(error, CTOK_E_MEMORY, (int64_t)info.st_size, "no addresses for %lld bytes",
                         (long long)info.st_size);
    *out = (checkpoint_map){bytes, (size_t)info.st_size, descriptor};
    *file = (checkpoint_file){info.st_dev, info.st_ino, (uint64_t)info.st_size,
                              nanoseconds(info.st_mtim), nanoseconds(info.st_ctim)};
    return CTOK_OK;
}

// A bare pickle (PyTorch 0.1.10 to 1.5) or a tar of pickles (before). A header of safetensors may
// begin with the bytes of a pickle too, by its length, but has '{' as its 9th byte.
static bool is_old_torch(checkpoint_map map) {
    enum { TAR_MAGIC_AT = 257, LAST_PROTOCOL = 5 };
    bool is_pickle = map.num_bytes > 8 && map.bytes[0] == 0x80 && map.bytes[1] <= LAST_PROTOCOL;
    return (is_pickle && map.bytes[8] != '{') ||
           (map.num_bytes >= 512 && memcmp(map.bytes + TAR_MAGIC_AT, "ustar", 5) == 0);
}

static ctok_status read_file(checkpoint *c, const char *path, ctok_error *error) {
    int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // nonblocking: a pipe's open
                                                                     // would wait for a writer
    if (descriptor < 0) return fail_io(error, "cannot be opened");
    checkpoint_map map = {0};
    if (descriptor == 0) {  // 0 stands for none here, and a program may have closed its input
        descriptor = fcntl(0, F_DUPFD_CLOEXEC, 3);
        close(0);
        if (descriptor < 0) return fail_io(error, "cannot be opened");
    }
    ctok_status status = map_descriptor(&map, &c->files[c->num_maps], descriptor, error);
    if (status != CTOK_OK) {
        close(descriptor);
        return status;
    }
    c->maps[c->num_maps++] = map;
    CTOK_TRY(map_fetch(map, 0, map.num_bytes < 512 ? map.num_bytes : 512, error));

    static const char lfs[] = "version https://git-lfs";
    if (map.num_bytes > sizeof lfs && memcmp(map.bytes, lfs, sizeof lfs - 1) == 0)
        return ctok_fail(error, CTOK_E_FILE_FORMAT, 0,
                         "a git-lfs pointer, not the checkpoint itself (git lfs pull fetches it)");
    if (map.num_bytes > 2 && memcmp(map.bytes, "PK", 2) == 0) return torch_read(c, map, error);
    if (is_old_torch(map))
        return ctok_fail(
            error, CTOK_E_FILE_FORMAT, 0,
            "torch.save's form before PyTorch 1.6 or another pickle: expected its zip form "
            "(torch.save(torch.load(old, weights_only=True), new) of a later PyTorch writes it)");
    if (map.num_bytes > 8 && map.bytes[8] != '{')
        return ctok_fail(
            error, CTOK_E_FILE_FORMAT, 0,
            "neither an archive of PyTorch nor safetensors: begins with %02x %02x %02x %02x",
            map.bytes[0], map.bytes[1], map.bytes[2], map.bytes[3]);
    return safetensors_read(c, map, error);
}

// Puts the path before the message of an error; of a long path, the end.
static void name_file(ctok_error *error, const char *path) {
    if (!error) return;
    char message[sizeof error->message];
    memcpy(message, error->message, sizeof message);
    size_t num_bytes = strlen(path), most = 300;
    bool is_cut = num_bytes > most;
    ctok_fail(error, error->status, error->detail, "%s%s: %.650s", is_cut ? "..." : "",
              is_cut ? path + num_bytes - most : path, message);
}

// half: "encoder." or "decoder.", which the file must hold some of; or NULL.
static ctok_status add_file(checkpoint *c, const char *path, const char *half, ctok_error *error) {
    int32_t first_tensor = c->num_tensors, first_metadata = c->num_metadata;
    ctok_status status = read_file(c, path, error);
    if (status == CTOK_OK) status = sort_added(c, first_tensor, first_metadata, error);
    if (status == CTOK_OK) status = limit_reading(c, first_tensor, error);
    if (status == CTOK_OK) unwrap(c, first_tensor);
    if (status == CTOK_OK && half) status = expect_half(c, first_tensor, half, error);
    if (status == CTOK_OK && c->num_maps > 1)
        status = merge(c, first_tensor, first_metadata, error);
    if (status != CTOK_OK) name_file(error, path);
    return status;
}

/* ---------------------------------------------------------------- a folder */
static const char *const file_sets[][2] = {
    {"encoder.jit", "decoder.jit"},
    {"autoencoder.jit"},
    {"encoder.safetensors", "decoder.safetensors"},
    {"autoencoder.safetensors"},
};

static bool holds(struct dirent **entries, int num_entries, const char *name) {
    for (int i = 0; i < num_entries; i++)
        if (strcmp(entries[i]->d_name, name) == 0) return true;
    return false;
}

// The files of a folder, for a message: ": a.txt, b.bin, c.md and 4 more".
static shown list_names(struct dirent **entries, int num_entries) {
    shown list;
    int num_listed = 0;
    size_t used = 0;
    list.s[0] = 0;
    for (; num_listed < num_entries && num_listed < 6; num_listed++) {
        const char *name = entries[num_listed]->d_name;
        size_t name_bytes = strlen(name);
        if (used + 2 + name_bytes + sizeof " and 2147483647 more" > sizeof list.s) break;
        memcpy(list.s + used, num_listed ? ", " : ": ", 2);
        memcpy(list.s + used + 2, name, name_bytes + 1);
        used += 2 + name_bytes;
    }
    if (num_listed < num_entries)
        snprintf(list.s + used, sizeof list.s - used, " and %d more", num_entries - num_listed);
    return list;
}

static int is_visible(const struct dirent *entry) { return entry->d_name[0] != '.'; }

static bool ends_with(const char *name, const char *suffix) {
    size_t num_bytes = strlen(name), suffix_bytes = strlen(suffix);
    return num_bytes > suffix_bytes && strcmp(name + num_bytes - suffix_bytes, suffix) == 0;
}

// Counts the entries of a folder that end with one of the suffixes (a list that ends with NULL);
// *name is the last one.
static int count_ending(const char **name, struct dirent **entries, int num_entries,
                        const char *const *suffixes) {
    int count = 0;
    for (int i = 0; i < num_entries; i++) {
        bool is_one = false;
        for (const char *const *suffix = suffixes; *suffix; suffix++)
            is_one |= ends_with(entries[i]->d_name, *suffix);
        if (!is_one) continue;
        *name = entries[i]->d_name;
        count++;
    }
    return count;
}

// Puts the names of the files to open, one or two, into `names`; they live as long as `entries`.
static ctok_status choose_files(const char *names[2], const char *path, struct dirent **entries,
                                int num_entries, ctok_error *error) {
    for (size_t set = 0; set < sizeof file_sets / sizeof *file_sets; set++) {
        int count = 0;
        for (int i = 0; i < 2; i++)
            if (file_sets[set][i] && holds(entries, num_entries, file_sets[set][i]))
                names[count++] = file_sets[set][i];
        if (count > 0) return CTOK_OK;
    }
    static const char *const safetensors[] = {".safetensors", NULL};
    static const char *const torch[] = {".pt", ".pth", ".ckpt", NULL};
    int num_safetensors = count_ending(&names[0], entries, num_entries, safetensors);
    if (num_safetensors == 1) return CTOK_OK;
    int num_torch = count_ending(&names[0], entries, num_entries, torch);
    if (num_safetensors == 0 && num_torch == 1) return CTOK_OK;
    names[0] = NULL;
    ctok_fail(error, CTOK_E_FILE_MISSING, num_safetensors,
              "no checkpoint in this folder: looked for encoder.jit, decoder.jit, autoencoder.jit, "
              "the same names "
              "with .safetensors, one other .safetensors (there are %d), or one .pt, .pth or .ckpt "
              "where there is "
              "no .safetensors (%d); the folder holds %d files%s",
              num_safetensors, num_torch, num_entries, list_names(entries, num_entries).s);
    name_file(error, path);
    return CTOK_E_FILE_MISSING;
}

static ctok_status add_folder(checkpoint *c, const char *path, ctok_error *error) {
    struct dirent **entries;
    int num_entries = scandir(path, &entries, is_visible, alphasort);
    if (num_entries < 0) {
        ctok_status failed = fail_io(error, "the folder cannot be listed");
        name_file(error, path);
        return failed;
    }
    const char *names[2] = {0};
    ctok_status status = choose_files(names, path, entries, num_entries, error);
    for (int i = 0; status == CTOK_OK && i < 2 && names[i]; i++) {
        char *file = NULL;
        if (asprintf(&file, "%s/%s", path, names[i]) < 0)
            status = ctok_fail(error, CTOK_E_MEMORY, (int64_t)strlen(path), "no memory for a path");
        else
            status = add_file(c, file,
                              begins_with(names[i], "encoder.")   ? "encoder."
                              : begins_with(names[i], "decoder.") ? "decoder."
                                                                  : NULL,
                              error);
        free(file);
    }
    for (int i = 0; i < num_entries; i++) free(entries[i]);
    free(entries);
    return status;
}

/* ---------------------------------------------------------------- open and close */
ctok_status checkpoint_open(checkpoint **out, const char *path, const atomic_bool *cancel,
                            ctok_error *error) {
    checkpoint *c = calloc(1, sizeof *c);
    if (!c) return ctok_fail(error, CTOK_E_MEMORY, sizeof *c, "no memory for a checkpoint");
    c->cancel = cancel;
    struct stat info;
    bool is_folder = stat(path, &info) == 0 && S_ISDIR(info.st_mode);
    ctok_status status = is_folder ? add_folder(c, path, error) : add_file(c, path, NULL, error);
    if (status == CTOK_OK) *out = c;
    else checkpoint_close(c);
    return status;
}

void checkpoint_close(checkpoint *c) {
    if (!c) return;
    for (int32_t i = 0; i < c->num_maps; i++) {
        munmap((void *)c->maps[i].bytes, c->maps[i].num_bytes);
        close(c->maps[i].descriptor);
    }
    arena_free(c->strings);
    free(c->tensors);
    free(c->metadata);
    free(c);
}
