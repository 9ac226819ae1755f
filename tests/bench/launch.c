/* Times one program from its exec.
 *
 *     bench_launch SHIM|- COMMAND [ARGUMENT]...
 *
 * SHIM is the path of first_run.c's module, `-` runs the program as it is.  Prints, in
 * microseconds: from exec to the guest's first exit (with SHIM), from exec to the end of
 * the process, and its CPU time. */
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "launch.h"

static volatile int64_t exec_us; /* the child, which shares our memory, sets it */

static int64_t in_us(struct timespec t)
{
    return t.tv_sec * 1000000ll + t.tv_nsec / 1000;
}

static int64_t now_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return in_us(t);
}

static int use_shim(const char *shim)
{
    int fd = memfd_create("first-run", 0);
    char number[16];

    if (fd < 0) {
        perror("bench_launch: memfd_create");
        exit(2);
    }
    snprintf(number, sizeof(number), "%d", fd);
    setenv(FIRST_RUN_FD, number, 1);
    setenv("LD_PRELOAD", shim, 1);
    return fd;
}

/* Where it is permitted, the program runs ahead of whatever else the machine does, or
 * that would be most of what is measured: it wakes threads of its own several times. */
static int run(char **argv, struct rusage *ret)
{
    const struct sched_param lowest = {.sched_priority = 1};
    int status;
    pid_t pid;

    sched_setscheduler(0, SCHED_RR, &lowest);
    pid = vfork();
    if (pid == 0) {
        exec_us = now_us();
        execv(argv[0], argv);
        _exit(127);
    }
    if (pid < 0 || wait4(pid, &status, 0, ret) < 0) {
        perror("bench_launch");
        exit(2);
    }
    return status;
}

int main(int argc, char **argv)
{
    struct timespec first;
    struct rusage usage;
    int64_t end_us;
    int fd = -1, status;

    if (argc < 3) {
        fprintf(stderr, "usage: bench_launch SHIM|- COMMAND [ARGUMENT]...\n");
        return 2;
    }
    if (strcmp(argv[1], "-") != 0)
        fd = use_shim(argv[1]);
    status = run(argv + 2, &usage);
    end_us = now_us();
    if (WIFSIGNALED(status) || WEXITSTATUS(status) > 123) {
        fprintf(stderr, "bench_launch: %s ended with wait status %#x\n", argv[2], status);
        return 1;
    }
    if (fd >= 0 && pread(fd, &first, sizeof(first), 0) != sizeof(first)) {
        fprintf(stderr, "bench_launch: %s ran no guest\n", argv[2]);
        return 1;
    }
    printf("first_us=%lld whole_us=%lld cpu_us=%lld\n",
           fd >= 0 ? (long long)(in_us(first) - exec_us) : -1ll,
           (long long)(end_us - exec_us),
           (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000ll +
               usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
    return 0;
}
