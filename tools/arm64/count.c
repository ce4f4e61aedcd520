/* A plugin for qemu's user emulation: counts the guest's instructions by kind, and the misses of two caches that are
 * simulated, between marker system calls.
 *
 * The guest calls syscall(MARKER, n), which the kernel would refuse and which does nothing here but write a line
 * "n THREADS" and the counters of all threads together, in the order of `enum counter`. With `clocks` in its arguments
 * each question for the time is a mark, too, of number CLOCK_MARK: repeatable.c answers it with the instructions so far.
 * Built against qemu-plugin.h of the qemu that loads it. Arguments: out=FILE, clocks=on, l1=SETS:WAYS, l2=SETS:WAYS
 * (none: caches are not simulated, which is several times as fast).
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <qemu-plugin.h>

#include "decode.h"

#define MARKER 0x6e5
#define CLOCK_GETTIME 113
#define CLOCK_MARK (-1LL)
#define THREADS 64
#define LINE_SHIFT 6 /* bytes of a line of every cache here: 64 */

enum counter { L1_MISSES = KINDS, L2_MISSES, COUNTERS };

struct cache {
    unsigned sets, ways;
    uint64_t *lines; /* [sets][ways], the one that was used last first; 0: empty */
};

QEMU_PLUGIN_EXPORT int qemu_plugin_version = QEMU_PLUGIN_VERSION;

static uint64_t counts[THREADS][COUNTERS];
static struct cache caches[2];
static int out = -1, clocks;
static __thread uint64_t own; /* of this thread, all kinds */

/* What repeatable.c tells as the time. */
uint64_t instructions_of_thread(void) { return own; }

struct block {
    uint32_t whole, of[KINDS];
};

static void executed(unsigned int thread, void *run)
{
    const struct block *block = run;
    uint64_t *mine = counts[thread % THREADS];
    for (int kind = 0; kind < KINDS; kind++) {
        mine[kind] += block->of[kind];
    }
    own += block->whole;
}

/* Whether a line was there; it is afterwards, in place of the one that was not used for longest. */
static int hit(struct cache *cache, uint64_t line)
{
    uint64_t *set = cache->lines + (line % cache->sets) * cache->ways, moved = line + 1;
    for (unsigned way = 0; way < cache->ways; way++) {
        uint64_t here = set[way];
        set[way] = moved;
        if (here == line + 1) {
            return 1;
        }
        moved = here;
    }
    return 0;
}

static void accessed(unsigned int thread, qemu_plugin_meminfo_t info, uint64_t address, void *unused)
{
    uint64_t last = (address + (1u << qemu_plugin_mem_size_shift(info)) - 1) >> LINE_SHIFT;
    for (uint64_t line = address >> LINE_SHIFT; line <= last; line++) {
        if (!hit(&caches[0], line)) {
            counts[thread % THREADS][L1_MISSES]++;
            counts[thread % THREADS][L2_MISSES] += !hit(&caches[1], line);
        }
    }
}

/* A block is a straight run of instructions: once entered, all of it is executed. It is kept for as long as qemu may
 * run it, which nobody tells. */
static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
    struct block *block = calloc(1, sizeof *block);
    block->whole = qemu_plugin_tb_n_insns(tb);
    for (size_t i = 0; i < block->whole; i++) {
        struct qemu_plugin_insn *instruction = qemu_plugin_tb_get_insn(tb, i);
        uint32_t word;
        memcpy(&word, qemu_plugin_insn_data(instruction), sizeof word);
        block->of[kind_of(word)]++;
        if (caches[0].lines) {
            qemu_plugin_register_vcpu_mem_cb(instruction, accessed, QEMU_PLUGIN_CB_NO_REGS, QEMU_PLUGIN_MEM_RW, NULL);
        }
    }
    qemu_plugin_register_vcpu_tb_exec_cb(tb, executed, QEMU_PLUGIN_CB_NO_REGS, block);
}

static void called(qemu_plugin_id_t id, unsigned int thread, int64_t number, uint64_t mark, uint64_t a2, uint64_t a3,
                   uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8)
{
    if (number != MARKER && !(clocks && number == CLOCK_GETTIME)) {
        return;
    }
    uint64_t total[COUNTERS] = {0};
    int threads = 0;
    for (int i = 0; i < THREADS; i++) {
        threads += counts[i][BRANCH] != 0;
        for (int counter = 0; counter < COUNTERS; counter++) {
            total[counter] += counts[i][counter];
        }
    }
    char line[32 + 21 * COUNTERS];
    int length = sprintf(line, "%lld %d", number == MARKER ? (long long)mark : CLOCK_MARK, threads);
    for (int counter = 0; counter < COUNTERS; counter++) {
        length += sprintf(line + length, " %llu", (unsigned long long)total[counter]);
    }
    line[length++] = '\n';
    if (write(out, line, length) != length) {
        abort();
    }
}

/* 0 for a text that is no "SETS:WAYS". */
static int make_cache(struct cache *cache, const char *text)
{
    if (sscanf(text, "%u:%u", &cache->sets, &cache->ways) != 2 || !cache->sets || !cache->ways) {
        return 0;
    }
    cache->lines = calloc((size_t)cache->sets * cache->ways, sizeof *cache->lines);
    return cache->lines != NULL;
}

QEMU_PLUGIN_EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv)
{
    for (int i = 0; i < argc; i++) {
        if (strncmp(argv[i], "out=", 4) == 0) {
            out = open(argv[i] + 4, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
        } else if (strcmp(argv[i], "clocks=on") == 0) {
            clocks = 1;
        } else if (argv[i][0] != 'l' || (argv[i][1] != '1' && argv[i][1] != '2') || argv[i][2] != '=' ||
                   !make_cache(&caches[argv[i][1] - '1'], argv[i] + 3)) {
            return -1;
        }
    }
    if (out < 0 || !caches[0].lines != !caches[1].lines) {
        return -1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    return 0;
}
