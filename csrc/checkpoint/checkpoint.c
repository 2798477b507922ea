// Opens a checkpoint: finds the files that a path stands for, gives each a range of memory that is filled piece by piece as
// its reader asks, has the reader append the tensors, and sorts the names. What it leaves out: the file forms (safetensors.c,
// torchscript.c) and the values (values.c). Called by core.
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
    return c->num_tensors ? bsearch(&key, c->tensors, (size_t)c->num_tensors, sizeof key, compare_tensors) : NULL;
}

const char *checkpoint_metadata_find(const checkpoint *c, const char *key) {
    checkpoint_metadata wanted = {.key = key}, *entry = NULL;
    if (c->num_metadata) entry = bsearch(&wanted, c->metadata, (size_t)c->num_metadata, sizeof wanted, compare_metadata);
    return entry ? entry->value : NULL;
}

// Room for one more: the capacity is the next power of two, at least 64, so it is known from `count` alone.
static ctok_status grow(void **items, int32_t count, size_t item_bytes, const char *what, ctok_error *error) {
    if (count == CHECKPOINT_MAX_ENTRIES) return ctok_fail(error, CTOK_E_FILE_FORMAT, count, "more than %d %s", CHECKPOINT_MAX_ENTRIES, what);
    bool is_full = count == 0 || (count >= 64 && (count & (count - 1)) == 0);
    if (!is_full) return CTOK_OK;
    size_t capacity = count == 0 ? 64 : 2 * (size_t)count;
    void *grown = capacity <= INT32_MAX ? realloc(*items, capacity * item_bytes) : NULL;
    if (!grown) return ctok_fail(error, CTOK_E_MEMORY, (int64_t)(capacity * item_bytes), "no memory for %zu entries", capacity);
    *items = grown;
    return CTOK_OK;
}

ctok_status checkpoint_add_tensor(checkpoint *into, const checkpoint_tensor *tensor, ctok_error *error) {
    void *items = into->tensors;
    CTOK_TRY(grow(&items, into->num_tensors, sizeof *tensor, "tensors", error));
    into->tensors = items;
    into->tensors[into->num_tensors++] = *tensor;
    return CTOK_OK;
}

ctok_status checkpoint_add_metadata(checkpoint *into, const char *key, const char *value, ctok_error *error) {
    void *items = into->metadata;
    CTOK_TRY(grow(&items, into->num_metadata, sizeof *into->metadata, "metadata entries", error));
    into->metadata = items;
    into->metadata[into->num_metadata++] = (checkpoint_metadata){key, value};
    return CTOK_OK;
}

// Sorts the entries that one file has added, from number `first` on; a name that stands there twice is an error.
static ctok_status sort_added(checkpoint *c, int32_t first_tensor, int32_t first_metadata, ctok_error *error) {
    int32_t num_tensors = c->num_tensors - first_tensor, num_metadata = c->num_metadata - first_metadata;
    checkpoint_tensor *t = num_tensors ? c->tensors + first_tensor : NULL;
    checkpoint_metadata *m = num_metadata ? c->metadata + first_metadata : NULL;
    if (t) qsort(t, (size_t)num_tensors, sizeof *t, compare_tensors);
    if (m) qsort(m, (size_t)num_metadata, sizeof *m, compare_metadata);
    for (int32_t i = 1; i < num_tensors; i++)
        if (compare_tensors(&t[i - 1], &t[i]) == 0)
            return ctok_fail(error, CTOK_E_FILE_FORMAT, 0, "two tensors have the name %s", string_shown(t[i].name).s);
    for (int32_t i = 1; i < num_metadata; i++)
        if (compare_metadata(&m[i - 1], &m[i]) == 0)
            return ctok_fail(error, CTOK_E_FILE_FORMAT, 0, "two metadata entries have the key %s", string_shown(m[i].key).s);
    return CTOK_OK;
}

/* ---------------------------------------------------------------- two files, one directory */
static ctok_status compare_values(bool *are_equal, const checkpoint_tensor *a, const checkpoint_tensor *b, ctok_error *error) {
    *are_equal = a->dtype == b->dtype && a->rank == b->rank;
    for (int32_t i = 0; *are_equal && i < a->rank; i++) *are_equal = a->shape[i] == b->shape[i];
    if (!*are_equal) return CTOK_OK;
    size_t num_bytes = (size_t)checkpoint_elements(a) * dtype_bytes(a->dtype);
    uint8_t *copies = num_bytes < SIZE_MAX / 4 ? malloc(2 * num_bytes + 1) : NULL;
    if (!copies) return ctok_fail(error, CTOK_E_MEMORY, (int64_t)num_bytes, "no memory to compare tensor %s", string_shown(a->name).s);
    bool is_read = tensor_copy(a, copies) && tensor_copy(b, copies + num_bytes);
    *are_equal = is_read && memcmp(copies, copies + num_bytes, num_bytes) == 0;
    free(copies);
    return is_read ? CTOK_OK : checkpoint_fail_read(a, error);
}

// Both parts are sorted and free of duplicates; of two equal tensors the first file's stays, and so with metadata keys.
static ctok_status merge(checkpoint *c, int32_t first_tensor, int32_t first_metadata, ctok_error *error) {
    checkpoint first = {.tensors = c->tensors, .num_tensors = first_tensor, .metadata = c->metadata, .num_metadata = first_metadata};
    int32_t kept = first_tensor;
    for (int32_t i = first_tensor; i < c->num_tensors; i++) {
        const checkpoint_tensor *other = checkpoint_find(&first, c->tensors[i].name);
        bool are_equal = false;
        if (other) CTOK_TRY(compare_values(&are_equal, other, &c->tensors[i], error));
        if (other && !are_equal)
            return ctok_fail(error, CTOK_E_FILE_FORMAT, 0, "tensor %s is also in the other file of the folder, and differs",
                             string_shown(other->name).s);
        if (!other) c->tensors[kept++] = c->tensors[i];
    }
    c->num_tensors = kept;
    kept = first_metadata;
    for (int32_t i = first_metadata; i < c->num_metadata; i++)
        if (!checkpoint_metadata_find(&first, c->metadata[i].key)) c->metadata[kept++] = c->metadata[i];
    c->num_metadata = kept;
    return sort_added(c, 0, 0, error);
}

/* ---------------------------------------------------------------- one file */
static ctok_status fail_io(ctok_error *error, const char *what) {
    int code = errno;
    return ctok_fail(error, code == ENOENT || code == ENOTDIR ? CTOK_E_FILE_MISSING : CTOK_E_FILE_IO, code, "%s: %s", what, strerror(code));
}

static int64_t nanoseconds(struct timespec t) { return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec; }

static ctok_status map_descriptor(checkpoint_map *out, checkpoint_file *file, int descriptor, ctok_error *error) {
    struct stat info;
    if (fstat(descriptor, &info) != 0) return fail_io(error, "cannot be examined");
    if (!S_ISREG(info.st_mode)) return ctok_fail(error, CTOK_E_FILE_FORMAT, 0, "expected a file or a folder");
    if (info.st_size == 0) return ctok_fail(error, CTOK_E_FILE_FORMAT, 0, "the file is empty");
    // Addresses alone: only what is fetched into them takes memory.
    void *bytes = mmap(NULL, (size_t)info.st_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (bytes == MAP_FAILED) return ctok_fail(error, CTOK_E_MEMORY, (int64_t)info.st_size, "no addresses for %lld bytes", (long long)info.st_size);
    *out = (checkpoint_map){bytes, (size_t)info.st_size, descriptor};
    *file = (checkpoint_file){info.st_dev, info.st_ino, (uint64_t)info.st_size, nanoseconds(info.st_mtim), nanoseconds(info.st_ctim)};
    return CTOK_OK;
}

static ctok_status read_file(checkpoint *c, const char *path, ctok_error *error) {
    int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // nonblocking: a pipe's open would wait for a writer
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
    CTOK_TRY(map_fetch(map, 0, map.num_bytes < 64 ? map.num_bytes : 64, error));

    static const char lfs[] = "version https://git-lfs";
    if (map.num_bytes > sizeof lfs && memcmp(map.bytes, lfs, sizeof lfs - 1) == 0)
        return ctok_fail(error, CTOK_E_FILE_FORMAT, 0, "a git-lfs pointer, not the checkpoint itself (git lfs pull fetches it)");
    if (map.num_bytes > 2 && memcmp(map.bytes, "PK", 2) == 0) return torchscript_read(c, map, error);
    if (map.num_bytes > 8 && map.bytes[8] != '{')
        return ctok_fail(error, CTOK_E_FILE_FORMAT, 0, "neither a TorchScript archive nor safetensors: begins with %02x %02x %02x %02x",
                         map.bytes[0], map.bytes[1], map.bytes[2], map.bytes[3]);
    return safetensors_read(c, map, error);
}

// Puts the path, or its end where it is long, before the message.
static void name_file(ctok_error *error, const char *path) {
    if (!error) return;
    char message[sizeof error->message];
    memcpy(message, error->message, sizeof message);
    size_t num_bytes = strlen(path), most = 300;
    bool is_cut = num_bytes > most;
    ctok_fail(error, error->status, error->detail, "%s%s: %.650s", is_cut ? "..." : "", is_cut ? path + num_bytes - most : path, message);
}

static ctok_status add_file(checkpoint *c, const char *path, ctok_error *error) {
    int32_t first_tensor = c->num_tensors, first_metadata = c->num_metadata;
    ctok_status status = read_file(c, path, error);
    if (status == CTOK_OK) status = sort_added(c, first_tensor, first_metadata, error);
    if (status == CTOK_OK && c->num_maps > 1) status = merge(c, first_tensor, first_metadata, error);
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

// ": a.txt, b.bin, c.md and 4 more"
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
    if (num_listed < num_entries) snprintf(list.s + used, sizeof list.s - used, " and %d more", num_entries - num_listed);
    return list;
}

static int is_visible(const struct dirent *entry) { return entry->d_name[0] != '.'; }

static bool is_safetensors(const char *name) {
    static const char suffix[] = ".safetensors";
    size_t num_bytes = strlen(name), suffix_bytes = sizeof suffix - 1;
    return num_bytes > suffix_bytes && strcmp(name + num_bytes - suffix_bytes, suffix) == 0;
}

// Puts the names of the files to open, one or two, into `names`; they live as long as `entries`.
static ctok_status choose_files(const char *names[2], const char *path, struct dirent **entries, int num_entries, ctok_error *error) {
    for (size_t set = 0; set < sizeof file_sets / sizeof *file_sets; set++) {
        int count = 0;
        for (int i = 0; i < 2; i++)
            if (file_sets[set][i] && holds(entries, num_entries, file_sets[set][i])) names[count++] = file_sets[set][i];
        if (count > 0) return CTOK_OK;
    }
    int num_safetensors = 0;
    for (int i = 0; i < num_entries; i++) {
        if (!is_safetensors(entries[i]->d_name)) continue;
        names[0] = entries[i]->d_name;
        num_safetensors++;
    }
    if (num_safetensors == 1) return CTOK_OK;
    names[0] = NULL;
    ctok_fail(error, CTOK_E_FILE_MISSING, num_safetensors,
              "no checkpoint in this folder: looked for encoder.jit, decoder.jit, autoencoder.jit, the same names with .safetensors, "
              "or one other .safetensors (there are %d); the folder holds %d files%s",
              num_safetensors, num_entries, list_names(entries, num_entries).s);
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
            status = add_file(c, file, error);
        free(file);
    }
    for (int i = 0; i < num_entries; i++) free(entries[i]);
    free(entries);
    return status;
}

/* ---------------------------------------------------------------- open and close */
ctok_status checkpoint_open(checkpoint **out, const char *path, ctok_error *error) {
    checkpoint *c = calloc(1, sizeof *c);
    if (!c) return ctok_fail(error, CTOK_E_MEMORY, sizeof *c, "no memory for a checkpoint");
    struct stat info;
    bool is_folder = stat(path, &info) == 0 && S_ISDIR(info.st_mode);
    ctok_status status = is_folder ? add_folder(c, path, error) : add_file(c, path, error);
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
