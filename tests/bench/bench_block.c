/* What the block layer can do, without a VM: random 4 KiB reads of a file.
 *
 *     bench_block FILE [ENGINE [DEPTH [SECONDS]]]
 *
 * Prints one line: operations per second and the CPU time of each. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "backend/block.h"

enum { LEN = 4096 };

typedef struct Job {
    BlockReq req;
    struct iovec iov;
} Job;

static BlockQueue *queue;
static IoLoop *loop;
static uint64_t n_done, n_blocks, seed = 88172645463325252u;
static int64_t deadline;
static unsigned in_flight;

static uint64_t next_random(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

static void on_done(BlockReq *req, int err)
{
    if (err) {
        fprintf(stderr, "bench_block: %s\n", g_strerror(err));
        exit(1);
    }
    n_done++;
    if ((n_done & 255) == 0 && clock_ns() > deadline)
        deadline = 0;
    if (!deadline) {
        if (--in_flight == 0)
            ioloop_quit(loop);
        return;
    }
    req->offset = next_random() % n_blocks * LEN;
    block_submit(queue, req);
}

static double cpu_seconds(void)
{
    struct rusage u;

    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static int engine_by_name(const char *name)
{
    for (int i = 0; block_aio_names[i]; i++)
        if (!strcmp(block_aio_names[i], name))
            return i;
    fprintf(stderr, "bench_block: no engine '%s'\n", name);
    exit(2);
}

int main(int argc, char **argv)
{
    g_autoptr(GError) error = NULL;
    BlockOptions options = {.readonly = true};
    unsigned depth = argc > 3 ? (unsigned)atoi(argv[3]) : 32;
    double seconds = argc > 4 ? atof(argv[4]) : 2, cpu;
    g_autofree Job *jobs = NULL;
    BlockDev *dev;
    int64_t start;

    if (argc < 2 || !depth) {
        fprintf(stderr, "usage: bench_block FILE [ENGINE [DEPTH [SECONDS]]]\n");
        return 2;
    }
    options.path = argv[1];
    options.aio = argc > 2 ? engine_by_name(argv[2]) : BLOCK_AIO_AUTO;
    dev = block_open(&options, &error);
    loop = ioloop_new(error ? NULL : &error);
    if (!error)
        queue = block_queue_new(dev, loop, depth, &error);
    if (error) {
        fprintf(stderr, "bench_block: %s\n", error->message);
        return 1;
    }
    n_blocks = block_size(dev) / LEN;
    jobs = g_new0(Job, depth);
    start = clock_ns();
    cpu = cpu_seconds();
    deadline = start + (int64_t)(seconds * 1e9);
    for (unsigned i = 0; i < depth; i++, in_flight++) {
        jobs[i].iov = (struct iovec){aligned_alloc(LEN, LEN), LEN};
        jobs[i].req = (BlockReq){.op = BLOCK_READ,
                                 .offset = next_random() % n_blocks * LEN,
                                 .len = LEN,
                                 .iov = &jobs[i].iov,
                                 .n_iov = 1,
                                 .done = on_done};
        block_submit(queue, &jobs[i].req);
    }
    block_commit(queue);
    ioloop_run(loop);
    seconds = (double)(clock_ns() - start) / 1e9;
    cpu = cpu_seconds() - cpu;
    printf("%s: depth %u: %.0f reads/s, %.2f us of CPU each\n", block_engine_name(dev),
           depth, (double)n_done / seconds, cpu * 1e6 / (double)n_done);
    for (unsigned i = 0; i < depth; i++)
        free(jobs[i].iov.iov_base);
    block_queue_free(queue);
    ioloop_free(loop);
    block_close(dev);
    return 0;
}
