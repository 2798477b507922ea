// A plugin for QEMU's user mode on arm64: counts the instructions that a program executes between
// two hints, and writes their number to stdout. hint #100 begins, hint #101 ends; processors take
// both for nothing. bench/ops.c has them in its "count" mode. Counted by blocks: a few instructions
// around a hint may fall on its other side. Limit: of one thread at a time. build.ts compiles it
// for the host: qemu-aarch64 -plugin build/aarch64/bench/insns_plugin.so build/aarch64/bench/ops
// count
// Ref: docs/devel/tcg-plugins.rst of QEMU; its header is in no package of Debian 12, hence the
// declarations here.
#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum { ADD_U64 = 0, NO_REGISTERS = 0 };
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id,
                                           void (*call)(qemu_plugin_id_t id,
                                                        struct qemu_plugin_tb *block));
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *block, int op, void *at,
                                              uint64_t value);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *insn,
                                            void (*call)(unsigned vcpu, void *data), int flags,
                                            void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *block, size_t index);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *insn);

#define EXPORTED __attribute__((visibility("default")))
EXPORTED extern int qemu_plugin_version;
EXPORTED int qemu_plugin_version = 1;
EXPORTED int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc, char **argv);

static uint64_t num_insns, num_before;

static void begin(unsigned vcpu, void *data) {
    (void)vcpu, (void)data;
    num_before = num_insns;
}

static void end(unsigned vcpu, void *data) {
    (void)vcpu, (void)data;
    printf("%llu", (unsigned long long)(num_insns - num_before));
    fflush(stdout);
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *block) {
    (void)id;
    size_t count = qemu_plugin_tb_n_insns(block);
    qemu_plugin_register_vcpu_tb_exec_inline(block, ADD_U64, &num_insns, count);
    for (size_t i = 0; i < count; i++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(block, i);
        uint32_t bits;
        memcpy(&bits, qemu_plugin_insn_data(insn), sizeof bits);
        const uint32_t hint = 0xD503201F;
        if (bits == (hint | 100 << 5))
            qemu_plugin_register_vcpu_insn_exec_cb(insn, begin, NO_REGISTERS, NULL);
        if (bits == (hint | 101 << 5))
            qemu_plugin_register_vcpu_insn_exec_cb(insn, end, NO_REGISTERS, NULL);
    }
}

int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc, char **argv) {
    (void)info, (void)argc, (void)argv;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    return 0;
}
