// Every writer holds a lock (flock) on its temporary file from the moment it knows that it has made
// it, and the system releases the lock of a process that dies. So a temporary file that can be
// locked is nobody's: whoever wants its name, or has finished the same target, removes it. One that
// somebody writes is left alone.
#include "output.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "reader.h"

enum { MOST_NAMES = 100, MOST_LINKS = 40 };

static ctok_status fail(ctok_error *error, const char *path, const char *what) {
    int code = errno;
    return ctok_fail(error, CTOK_E_FILE_IO, code, "%.600s: %s: %s", path, what, strerror(code));
}

static int folder_bytes(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? (int)(slash + 1 - path) : 0;
}

// ---------------------------------------------------------------- where the bytes finally go
// Where the link at `path` leads, one step; from malloc, or NULL.
static char *follow(const char *path) {
    char to[4096], *next = NULL;
    ssize_t n = readlink(path, to, sizeof to - 1);
    if (n < 0) return NULL;
    to[n] = 0;
    if (asprintf(&next, "%.*s%s", to[0] == '/' ? 0 : folder_bytes(path), path, to) < 0) return NULL;
    return next;
}

// A symbolic link to nothing leads to a new file. Limit: the target must be a regular file, as a
// rename onto a device or pipe would replace it.
static ctok_status find_target(char **target, const char *path, ctok_error *error) {
    struct stat info;
    char *at = strdup(path);
    for (int i = 0; at && lstat(at, &info) == 0 && S_ISLNK(info.st_mode); i++) {
        char *next = i < MOST_LINKS ? follow(at) : NULL;
        if (i == MOST_LINKS) errno = ELOOP;
        if (!next) {
            free(at);
            return fail(error, path, "expected links that lead to a file, found");
        }
        free(at);
        at = next;
    }
    if (!at) return ctok_fail(error, CTOK_E_MEMORY, (int64_t)strlen(path), "no memory for a path");
    if (lstat(at, &info) == 0 && !S_ISREG(info.st_mode)) {
        free(at);
        return ctok_fail(error, CTOK_E_FILE_IO, S_ISDIR(info.st_mode) ? EISDIR : EINVAL,
                         "%.600s: expected a regular file or nothing there yet, found %s", path,
                         S_ISDIR(info.st_mode) ? "a directory" : "a device or pipe");
    }
    *target = at;
    return CTOK_OK;
}

// ---------------------------------------------------------------- the temporary file
// Path of temporary file `number` for a target, in the target's folder; from malloc, or NULL.
static char *temporary_name(const char *target, int number) {
    int num_bytes = folder_bytes(target);
    uint64_t hash = 14695981039346656037u;  // FNV-1a: the name itself may be as long as a name can
                                            // be
    for (const char *c = target + num_bytes; *c; c++) hash = (hash ^ (uint8_t)*c) * 1099511628211u;
    char *temporary = NULL;
    if (asprintf(&temporary, "%.*s.ctok-%016llx-%d.tmp", num_bytes, target,
                 (unsigned long long)hash, number) < 0)
        return NULL;
    return temporary;
}

static bool is_under(const char *name, int descriptor) {
    struct stat mine, there;
    return fstat(descriptor, &mine) == 0 && lstat(name, &there) == 0 &&
           mine.st_dev == there.st_dev && mine.st_ino == there.st_ino;
}

// Removes a temporary file that a dead process left. True where the file is gone.
static bool remove_abandoned(const char *name) {
    int descriptor = open(name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (descriptor < 0) return errno == ENOENT;
    struct stat info;
    bool is_nobodys = fstat(descriptor, &info) == 0 && S_ISREG(info.st_mode) &&
                      flock(descriptor, LOCK_EX | LOCK_NB) == 0 && is_under(name, descriptor);
    bool is_gone = is_nobodys && unlink(name) == 0;
    close(descriptor);
    return is_gone;
}

// A new file under `name`, locked; -1 where that is somebody else's (errno EEXIST) or the system
// refuses.
static int create(const char *name) {
    int descriptor = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (descriptor < 0) return -1;
    // Before the file was locked, another writer may have taken it for abandoned: then it counts as
    // somebody else's. A file system without locks refuses the lock, which is ignored.
    bool is_taken = flock(descriptor, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    if (!is_taken && is_under(name, descriptor)) return descriptor;
    close(descriptor);
    errno = EEXIST;
    return -1;
}

ctok_status output_open(output_file *out, const char *path, ctok_error *error) {
    output_file o = {.path = path, .descriptor = -1};
    CTOK_TRY(find_target(&o.target, path, error));
    for (int number = 0; number < MOST_NAMES && o.descriptor < 0; number++) {
        free(o.temporary);
        o.temporary = temporary_name(o.target, number);
        if (!o.temporary) break;
        o.descriptor = create(o.temporary);
        if (o.descriptor >= 0 || errno != EEXIST) break;
        if (remove_abandoned(o.temporary)) o.descriptor = create(o.temporary);
        errno = EEXIST;  // where all numbers are taken
    }
    if (o.descriptor >= 0) return *out = o, CTOK_OK;
    ctok_status status = fail(error, path, "expected a folder where a file can be made, found");
    free(o.temporary);
    free(o.target);
    return status;
}

ctok_status output_write(output_file *out, const void *bytes, size_t num_bytes, ctok_error *error) {
    for (const uint8_t *p = bytes; num_bytes > 0;) {
        ssize_t n = write(out->descriptor, p, num_bytes < 1 << 30 ? num_bytes : 1 << 30);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return fail(error, out->path, "cannot be written");
        p += n;
        num_bytes -= (size_t)n;
    }
    return CTOK_OK;
}

ctok_status output_flush(output_file *out, ctok_error *error) {
    return fsync(out->descriptor) == 0 ? CTOK_OK : fail(error, out->path, "cannot be flushed");
}

ctok_status output_publish(output_file *out, ctok_error *error) {
    if (!is_under(out->temporary, out->descriptor))
        return ctok_fail(error, CTOK_E_FILE_IO, 0,
                         "%.600s: expected its own temporary file, found that somebody has removed "
                         "or replaced it",
                         out->path);
    if (rename(out->temporary, out->target) != 0)
        return fail(error, out->path, "cannot be put in place");
    free(out->temporary);
    out->temporary = NULL;
    for (int number = 0; number < MOST_NAMES; number++) {
        char *other = temporary_name(out->target, number);
        if (other) remove_abandoned(other);
        free(other);
    }
    return CTOK_OK;
}

void output_close(output_file *out) {
    if (out->temporary && is_under(out->temporary, out->descriptor)) unlink(out->temporary);
    close(out->descriptor);
    free(out->temporary);
    free(out->target);
    *out = (output_file){.descriptor = -1};
}
