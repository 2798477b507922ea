// /proc/self/cgroup says in which group of each hierarchy the process is, /proc/self/mountinfo
// where the hierarchies can be read. A limit holds for all groups below, so the way up is walked.
// What cannot be read is no limit.
// Ref: cgroups(7), proc(5), and Linux's Documentation/admin-guide: cgroup-v2.rst,
// cgroup-v1/memory.rst.
#include "cgroup.h"

#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Reads the first line of a small file; "" where there is no file.
static void read_line(char *out, int capacity, const char *root, const char *folder,
                      const char *name) {
    char path[2 * PATH_MAX];
    int length = snprintf(path, sizeof path, "%s%s/%s", root, folder, name);
    FILE *file = length < (int)sizeof path ? fopen(path, "re") : NULL;
    if (!file || !fgets(out, capacity, file)) out[0] = 0;
    if (file) fclose(file);
}

static void lower_memory(cgroup_limits *limits, const char *text) {
    char *end;
    unsigned long long bytes = strtoull(text, &end, 10);
    if (end != text && *text != '-' && bytes < limits->memory_bytes) limits->memory_bytes = bytes;
}

static void lower_processors(cgroup_limits *limits, long long quota_us, long long period_us) {
    if (quota_us <= 0 || period_us <= 0 || quota_us / period_us >= limits->num_processors) return;
    limits->num_processors = (int32_t)((quota_us + period_us - 1) / period_us);
}

// Reads the limits of one group: version 2 writes "max" or a number, and "max 100000" or "150000
// 100000"; version 1 writes -1 for no limit.
static void look(cgroup_limits *limits, const char *root, const char *group, bool is_v2) {
    char text[64], period[64] = "";
    read_line(text, sizeof text, root, group, is_v2 ? "memory.max" : "memory.limit_in_bytes");
    lower_memory(limits, text);
    read_line(text, sizeof text, root, group, is_v2 ? "cpu.max" : "cpu.cfs_quota_us");
    if (!is_v2) read_line(period, sizeof period, root, group, "cpu.cfs_period_us");
    const char *space = strchr(text, ' ');
    lower_processors(limits, strtoll(text, NULL, 10),
                     is_v2 ? (space ? strtoll(space, NULL, 10) : 0) : strtoll(period, NULL, 10));
}

// Whether two comma-separated lists have a word in common.
static bool share_word(const char *a, const char *b) {
    char words[256], *rest = NULL;
    snprintf(words, sizeof words, "%s", a);
    for (char *word = strtok_r(words, ",", &rest); word; word = strtok_r(NULL, ",", &rest)) {
        size_t length = strlen(word);
        for (const char *at = b; (at = strstr(at, word)); at += length) {
            if ((at == b || at[-1] == ',') && (!at[length] || at[length] == ',')) return true;
        }
    }
    return false;
}

// mountinfo writes a space, a tab, a line's end and a backslash as \040 and so on.
static void unescape(char *text) {
    char *to = text;
    for (const char *from = text; *from; to++) {
        bool is_escaped = from[0] == '\\' && from[1] >= '0' && from[1] <= '3' && from[2] >= '0' &&
                          from[2] <= '7' && from[3] >= '0' && from[3] <= '7';
        *to =
            is_escaped ? (char)((from[1] - '0') * 64 + (from[2] - '0') * 8 + from[3] - '0') : *from;
        from += is_escaped ? 4 : 1;
    }
    *to = 0;
}

// From the process's group up to the mount's top. A mount that shows another part of the hierarchy
// (a container's own, seen by its path outside) has the process's group at its top.
static void walk(cgroup_limits *limits, const char *root, const char *mount_point,
                 const char *mount_root, const char *path, bool is_v2) {
    char group[2 * PATH_MAX];
    size_t shown = strcmp(mount_root, "/") ? strlen(mount_root) : 0;
    bool is_below = !strncmp(path, mount_root, shown) && (!path[shown] || path[shown] == '/');
    int length = snprintf(group, sizeof group, "%s%s", mount_point, is_below ? path + shown : "");
    size_t top = strlen(mount_point);
    if (length >= (int)sizeof group) return;
    for (;;) {
        look(limits, root, group, is_v2);
        char *slash = strrchr(group, '/');
        if (!slash || (size_t)(slash - group) < top) return;
        *slash = 0;
    }
}

// Every mount of the hierarchy in which the process is at `path`. controllers: of version 1; ""
// means version 2.
static void find_mounts(cgroup_limits *limits, const char *root, const char *controllers,
                        const char *path) {
    char name[PATH_MAX], *line = NULL;
    size_t capacity = 0;
    snprintf(name, sizeof name, "%s/proc/self/mountinfo", root);
    FILE *file = fopen(name, "re");
    while (file && getline(&line, &capacity, file) > 0) {
        char mount_root[PATH_MAX], mount_point[PATH_MAX], type[32], options[256];
        const char *rest = strstr(line, " - ");  // before it are optional fields, as many as there
                                                 // are
        if (!rest || sscanf(line, "%*s %*s %*s %4095s %4095s", mount_root, mount_point) != 2)
            continue;
        if (sscanf(rest, " - %31s %*s %255s", type, options) != 2) continue;
        if (controllers[0] ? strcmp(type, "cgroup") || !share_word(controllers, options)
                           : strcmp(type, "cgroup2"))
            continue;
        unescape(mount_root), unescape(mount_point);
        walk(limits, root, mount_point, mount_root, path, !controllers[0]);
    }
    free(line);
    if (file) fclose(file);
}

cgroup_limits cgroup_read(const char *root) {
    cgroup_limits limits = {.memory_bytes = UINT64_MAX, .num_processors = INT32_MAX};
    char name[PATH_MAX], *line = NULL;
    size_t capacity = 0;
    snprintf(name, sizeof name, "%s/proc/self/cgroup", root);
    FILE *file = fopen(name, "re");
    for (ssize_t length;
         file && (length = getline(&line, &capacity, file)) > 0;) {  // "4:cpu,cpuacct:/path",
                                                                     // "0::/path"
        if (line[length - 1] == '\n') line[length - 1] = 0;
        char *controllers = strchr(line, ':'),
             *path = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!path) continue;
        *path = 0;
        find_mounts(&limits, root, controllers + 1, path + 1);
    }
    free(line);
    if (file) fclose(file);
    return limits;
}
