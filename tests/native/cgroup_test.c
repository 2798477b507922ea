// What control groups allow, read from trees of files as Linux shows them: version 1, version 2 and
// both, from outside and inside a container, limits of the groups above, none, and mounts under odd
// names. Real groups: tests/faults/cgroup.test.ts. Makes folders below /tmp (or TMPDIR). TAP on
// stdout.
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../csrc/backends/cpu/cgroup.h"
#include "tap.h"

static char root[256];

// A file under the root, with the folders above it.
static void put(const char *path, const char *text) {
    char whole[1024];
    int length = snprintf(whole, sizeof whole, "%s%s", root, path);
    for (char *slash = whole + strlen(root); length > 0 && (slash = strchr(slash + 1, '/'));) {
        *slash = 0;
        if (mkdir(whole, 0700) && errno != EEXIST) perror(whole), exit(1);
        *slash = '/';
    }
    FILE *file = fopen(whole, "w");
    if (!file || fputs(text, file) < 0 || fclose(file)) perror(whole), exit(1);
}

// An empty root.
static void begin(void) {
    const char *folder = getenv("TMPDIR");
    snprintf(root, sizeof root, "%s/ctok-cgroup-XXXXXX", folder ? folder : "/tmp");
    if (!mkdtemp(root)) perror(root), exit(1);
}

// num_processors 0, memory_bytes 0: no limit.
static void expect(const char *name, uint64_t memory_bytes, int32_t num_processors) {
    cgroup_limits found = cgroup_read(root);
    uint64_t memory = memory_bytes ? memory_bytes : UINT64_MAX;
    int32_t processors = num_processors ? num_processors : INT32_MAX;
    bool ok = found.memory_bytes == memory && found.num_processors == processors;
    if (!report(ok, "%s", name))
        printf("# expected %llu bytes and %d processors, found %llu and %d\n",
               (unsigned long long)memory, processors, (unsigned long long)found.memory_bytes,
               found.num_processors);
    char command[320];
    snprintf(command, sizeof command, "rm -r '%s'", root);
    if (system(command)) exit(1);
}

static const char *const v2_mount =
    "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
static const char *const v1_mounts =
    "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
    "31 23 0:28 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw shared:12 master:3 - cgroup cgroup rw,memory\n";

static void test_v2(void) {
    begin();
    put("/proc/self/cgroup", "0::/\n");
    put("/proc/self/mountinfo", v2_mount);
    put("/sys/fs/cgroup/memory.max", "314572800\n");
    put("/sys/fs/cgroup/cpu.max", "150000 100000\n");
    expect("version 2 in a container: 300 MiB, one and a half processors", 314572800, 2);

    begin();
    put("/proc/self/cgroup", "0::/a.slice/b.service\n");
    put("/proc/self/mountinfo", v2_mount);
    put("/sys/fs/cgroup/a.slice/memory.max", "1000000\n");
    put("/sys/fs/cgroup/a.slice/cpu.max", "700000 100000\n");
    put("/sys/fs/cgroup/a.slice/b.service/memory.max", "max\n");
    put("/sys/fs/cgroup/a.slice/b.service/cpu.max", "max 100000\n");
    expect("version 2: limits of the group above", 1000000, 7);

    begin();
    put("/proc/self/cgroup", "0::/a.slice\n");
    put("/proc/self/mountinfo", v2_mount);
    put("/sys/fs/cgroup/a.slice/memory.max", "2000000\n");
    put("/sys/fs/cgroup/a.slice/other/memory.max", "1000\n");
    put("/sys/fs/cgroup/a.slice/cpu.max", "1000 100000\n");
    expect("version 2: not those of a group below, and a hundredth of a processor is one", 2000000,
           1);

    begin();
    put("/proc/self/cgroup", "0::/\n");
    put("/proc/self/mountinfo", "30 23 0:26 / /a\\040mount\\134 rw - cgroup2 none rw\n");
    put("/a mount\\/memory.max", "4096\n");
    expect("a mount point with a space and a backslash", 4096, 0);
}

static void test_v1(void) {
    begin();
    put("/proc/self/cgroup", "9:name=systemd:/\n4:memory:/jobs/7\n1:cpu,cpuacct:/jobs/7\n0::/\n");
    put("/proc/self/mountinfo", v1_mounts);
    put("/sys/fs/cgroup/memory/jobs/7/memory.limit_in_bytes", "9223372036854771712\n");
    put("/sys/fs/cgroup/memory/jobs/memory.limit_in_bytes", "500000000\n");
    put("/sys/fs/cgroup/cpu,cpuacct/jobs/7/cpu.cfs_quota_us", "250000\n");
    put("/sys/fs/cgroup/cpu,cpuacct/jobs/7/cpu.cfs_period_us", "100000\n");
    put("/sys/fs/cgroup/cpu,cpuacct/jobs/cpu.cfs_quota_us", "-1\n");
    put("/sys/fs/cgroup/cpu,cpuacct/jobs/cpu.cfs_period_us", "100000\n");
    expect("version 1: the smallest on the way up", 500000000, 3);

    begin();
    put("/proc/self/cgroup", "4:memory:/docker/abc\n1:cpu,cpuacct:/docker/abc\n");
    put("/proc/self/mountinfo",
        "32 31 0:29 /docker/abc /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n"
        "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n");
    put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "314572800\n");
    put("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "400000\n");
    put("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
    expect("version 1 in a container that sees its path outside", 314572800, 4);

    begin();
    put("/proc/self/cgroup", "4:memory:/docker/abcd/inner\n");
    put("/proc/self/mountinfo",
        "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n");
    put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "1000\n");
    put("/sys/fs/cgroup/memoryd/inner/memory.limit_in_bytes", "10\n");
    expect("a mount of a group whose name only begins alike", 1000, 0);

    begin();
    put("/proc/self/cgroup", "4:memory:/\n1:cpu:/\n0::/\n");
    char both[1024];
    snprintf(both, sizeof both, "%s%s", v1_mounts,
             "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
    put("/proc/self/mountinfo", both);
    put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "800\n");
    put("/sys/fs/cgroup/unified/memory.max", "700\n");
    expect("both versions at once", 700, 0);
}

static void test_none(void) {
    begin();
    put("/proc/self/cgroup", "4:memory:/\n1:cpu,cpuacct:/\n");
    put("/proc/self/mountinfo", v1_mounts);
    put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "not a number\n");
    put("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "100000\n");
    expect("what is no number, and a quota without a period, limit nothing", 0, 0);
    begin();
    put("/proc/self/cgroup", "nonsense\n4:memory\n:\n::\n");
    put("/proc/self/mountinfo", "\n - \n30 23 0:26 / - cgroup2\n");
    expect("files that are not as Linux writes them", 0, 0);
    begin();
    expect("no such files", 0, 0);
}

int main(void) {
    test_v2();
    test_v1();
    test_none();
    return report_end();
}
