/* A plugin for qemu's user emulation: counts the guest's instructions, per thread, between marker system calls.
 *
 * The guest calls syscall(MARKER, n), which the kernel would refuse and which does nothing here but write a line
 * "n THREADS COUNT": how many threads have run instructions so far and how many instructions they have run together.
 * Built against qemu-plugin.h of the qemu that loads it. Arguments: out=FILE.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <qemu-plugin.h>

#define MARKER 0x6e5
#define THREADS 64

QEMU_PLUGIN_EXPORT int qemu_plugin_version = QEMU_PLUGIN_VERSION;

static uint64_t counts[THREADS];
static int out = -1;

static void executed(unsigned int thread, void *instructions)
{
    counts[thread % THREADS] += (uintptr_t)instructions;
}

/* A block is a straight run of instructions: once entered, all of it is executed. */
static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *block)
{
    void *instructions = (void *)(uintptr_t)qemu_plugin_tb_n_insns(block);
    qemu_plugin_register_vcpu_tb_exec_cb(block, executed, QEMU_PLUGIN_CB_NO_REGS, instructions);
}

static void called(qemu_plugin_id_t id, unsigned int thread, int64_t number, uint64_t mark, uint64_t a2, uint64_t a3,
                   uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8)
{
    if (number != MARKER) {
        return;
    }
    uint64_t total = 0;
    int threads = 0;
    for (int i = 0; i < THREADS; i++) {
        total += counts[i];
        threads += counts[i] != 0;
    }
    dprintf(out, "%llu %d %llu\n", (unsigned long long)mark, threads, (unsigned long long)total);
}

QEMU_PLUGIN_EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv)
{
    for (int i = 0; i < argc; i++) {
        if (strncmp(argv[i], "out=", 4) == 0) {
            out = open(argv[i] + 4, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
        }
    }
    if (out < 0) {
        return -1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    return 0;
}
