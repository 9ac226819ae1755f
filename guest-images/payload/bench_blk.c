/* blk-bench: a fixed number of requests between two lines, from which the host tells the
 * time that each takes (tests/bench).  Words:
 *
 *     count=N qd=N bs=BYTES    requests in all; in flight on each queue; of each
 *     queues=N                 driven from the one CPU, by polling
 *     write=0|1 random=0|1     sequential: each queue in a part of the disk of its own
 *     span=BYTES               of the disk, from its start */
#include "blk.h"

enum { IN_FLIGHT_MAX = 512 };

static Disk disk;

typedef struct Stream { /* of one queue */
    uint64_t base, next;
    bool sent; /* since the last kick */
} Stream;

static uint64_t next_random(void)
{
    static uint64_t x = 88172645463325252ull;

    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return x;
}

static void test_blk_bench(void)
{
    static Request requests[IN_FLIGHT_MAX];
    static Stream streams[QUEUES_MAX];
    VirtioDevice *d = virtio_find(VIRTIO_BLK, (unsigned)arg_number("dev", 0));
    uint64_t count = arg_number("count", 100000), sent = 0, done = 0;
    uint32_t bs = (uint32_t)arg_number("bs", 4096), used;
    uint32_t type = arg_number("write", 0) ? REQ_OUT : REQ_IN;
    unsigned qd = (unsigned)arg_number("qd", 32);
    bool random = arg_number("random", 1);
    uint64_t mode = best_ring_mode(d);

    disk_start(&disk, d, mode, F_RO | F_FLUSH | F_MQ, (unsigned)arg_number("queues", 1));
    uint64_t span = arg_number("span", disk.sectors * SECTOR);
    uint64_t blocks = span / bs, part = blocks / disk.n_queues;
    CHECK(span <= disk.sectors * SECTOR && part, "the disk is too small");
    CHECK(qd && disk.n_queues * qd <= IN_FLIGHT_MAX && qd <= QUEUE_MAX / 4, "qd");
    uint8_t *data = alloc((size_t)disk.n_queues * qd * bs, 4096);

    print("blk-bench start count=%lu qd=%u bs=%u queues=%u ring=%s\n", count, qd, bs,
          disk.n_queues, ring_mode_name(mode));
    uint64_t before = ticks();
    for (unsigned i = 0; i < disk.n_queues; i++)
        streams[i].base = i * part;
    for (unsigned i = 0; i < disk.n_queues * qd && sent < count; i++, sent++) {
        Stream *s = &streams[i / qd];
        uint64_t block = random ? next_random() % blocks : s->base + s->next++ % part;

        disk_submit(&disk.queues[i / qd], &requests[i], type, block * (bs / SECTOR),
                    data + (size_t)i * bs, bs);
        s->sent = true;
    }
    while (done < count) {
        bool any = false;

        for (unsigned i = 0; i < disk.n_queues; i++) {
            Virtq *q = &disk.queues[i];
            Stream *s = &streams[i];
            Request *r;

            while ((r = virtq_pop(q, &used))) {
                CHECK(r->status == STATUS_OK, "status %u", r->status);
                any = true;
                done++;
                if (sent == count)
                    continue;
                uint64_t block = random ? next_random() % blocks
                                        : s->base + s->next++ % part;
                disk_submit(q, r, type, block * (bs / SECTOR),
                            data + (size_t)(r - requests) * bs, bs);
                s->sent = true;
                sent++;
            }
            if (s->sent)
                virtq_kick(q);
            s->sent = false;
        }
        if (!any)
            pause();
    }
    print("blk-bench done count=%lu ticks=%lu\n", done, ticks() - before);
}

const Test tests_blk_bench[] = {
    {"blk-bench", test_blk_bench},
    {NULL, NULL},
};
