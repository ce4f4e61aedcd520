/* Preloaded into qemu's user emulation: random numbers and clocks that give the same in every run.
 *
 * onnxruntime and protobuf seed their hash tables with random numbers and with the processor's counter; the order of
 * what they hold then decides how the heap is laid out, and so how many instructions malloc takes. qemu asks the kernel
 * for random numbers through the C library's syscall(), and for the time through clock_gettime() and gettimeofday().
 * Each of qemu's threads has its own time: the instructions that it has run.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

#define EXPORT __attribute__((visibility("default")))
#define START 1700000000
#define STEP_NS 1000 /* an instruction takes a microsecond, which is what onnxruntime's profile tells apart */

uint64_t instructions_of_thread(void); /* count.c is the other half of this library */

static uint64_t state = 0x9e3779b97f4a7c15;

static long random_bytes(unsigned char *bytes, long count)
{
    for (long i = 0; i < count; i++) { /* xorshift64 */
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes[i] = (unsigned char)(state >> 32);
    }
    return count;
}

EXPORT int clock_gettime(clockid_t clock, struct timespec *now)
{
    uint64_t ns = instructions_of_thread() * STEP_NS;
    now->tv_sec = START + (time_t)(ns / 1000000000);
    now->tv_nsec = (long)(ns % 1000000000);
    return 0;
}

EXPORT int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

EXPORT long syscall(long number, ...)
{
    va_list rest;
    va_start(rest, number);
    long a = va_arg(rest, long), b = va_arg(rest, long), c = va_arg(rest, long);
    register long r10 __asm__("r10") = va_arg(rest, long);
    register long r8 __asm__("r8") = va_arg(rest, long);
    register long r9 __asm__("r9") = va_arg(rest, long);
    va_end(rest);
    if (number == SYS_getrandom) {
        return random_bytes((unsigned char *)a, b);
    }
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    if (result < 0 && result > -4096) {
        errno = (int)-result;
        return -1;
    }
    return result;
}
