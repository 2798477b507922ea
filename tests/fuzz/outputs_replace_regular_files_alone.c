// outputs_replace_regular_files_alone: whatever an output is called, in a folder with a file,
// links, a pipe and a folder of the same names, it is written whole under that name or refused;
// what is no regular file stays what it was, links stay links, and no temporary file is left. The
// input is the name; a byte before it says whether the file is published.
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../csrc/checkpoint/output.h"
#include "fuzz.h"

static char folder[] = "/tmp/ctok-fuzz-XXXXXX";

static const char *at(const char *name) {
    static char paths[4][600];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

static int remove_one(const char *path, const struct stat *info, int kind, struct FTW *where) {
    (void)info, (void)kind, (void)where;
    return remove(path);
}

static void leave(void) { nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS); }

static void make_folder(void) {
    PROPERTY(mkdtemp(folder) && atexit(leave) == 0 && mkdir(at("d"), 0777) == 0 &&
             mkfifo(at("p"), 0666) == 0);
    PROPERTY(symlink("f", at("l")) == 0 && symlink("../l", at("d/l")) == 0 &&
             symlink("p", at("q")) == 0 && symlink("o", at("o")) == 0 &&
             symlink("d", at("e")) == 0);
}

static void put_file(const char *path) {
    unlink(path);
    int file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    PROPERTY(file >= 0 && write(file, "older", 5) == 5 && close(file) == 0);
}

static mode_t kind_of(const char *path) {
    struct stat info;
    return lstat(path, &info) == 0 ? info.st_mode & S_IFMT : 0;
}

static int count_temporaries(const char *path, const struct stat *info, int kind,
                             struct FTW *where) {
    (void)info, (void)kind;
    return strncmp(path + where->base, ".ctok-", 6) == 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t num_bytes) {
    static bool has_folder;
    if (!has_folder) make_folder();
    has_folder = true;
    put_file(at("f"));
    if (num_bytes < 2 || num_bytes > 400) return 0;
    char text[512], name[600];
    memcpy(text, bytes + 1, num_bytes - 1);
    text[num_bytes - 1] = 0;
    if (strstr(text, "..") || strstr(text, ".ctok-")) return 0;  // stays in its folder
    snprintf(name, sizeof name, "%s", at(text));
    mode_t before = kind_of(name);
    output_file out;
    ctok_error error = {.struct_size = sizeof error};
    ctok_status status = output_open(&out, name, &error);
    bool is_published = false;
    if (status == CTOK_OK) {
        PROPERTY(output_write(&out, "newer ones", 10, &error) == CTOK_OK);
        if (bytes[0] % 2) {
            status = output_publish(&out, &error);
            is_published = status == CTOK_OK;
        }
        output_close(&out);
    }
    if (status != CTOK_OK)
        PROPERTY(status == CTOK_E_FILE_IO && error.status == status && error.message[0]);
    struct stat info;
    if (is_published)
        PROPERTY(stat(name, &info) == 0 && S_ISREG(info.st_mode) && info.st_size == 10);
    PROPERTY(kind_of(name) == before || (before == 0 && is_published));
    PROPERTY(kind_of(at("d")) == S_IFDIR && kind_of(at("p")) == S_IFIFO &&
             kind_of(at("l")) == S_IFLNK && kind_of(at("d/l")) == S_IFLNK &&
             kind_of(at("q")) == S_IFLNK);
    PROPERTY(stat(at("f"), &info) == 0 &&
             (info.st_size == 5 || (is_published && info.st_size == 10)));
    PROPERTY(nftw(folder, count_temporaries, 16, FTW_PHYS) == 0);
    if (is_published && before == 0) PROPERTY(remove(name) == 0);
    return 0;
}
