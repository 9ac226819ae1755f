/* virtio-blk: virtio 1.2, 5.2.  `blk` writes and reads patterns in every ring layout and
 * asks for what must be refused; `blk-bench` is a fixed number of random reads. */
#include "virtio.h"

#define F_RO           BIT64(5)
#define F_FLUSH        BIT64(9)
#define F_MQ           BIT64(12)
#define F_DISCARD      BIT64(13)
#define F_WRITE_ZEROES BIT64(14)

#define CONFIG_CAPACITY   0x00
#define CONFIG_NUM_QUEUES 0x22

enum {
    REQ_IN = 0,
    REQ_OUT = 1,
    REQ_FLUSH = 4,
    REQ_GET_ID = 8,
    REQ_DISCARD = 11,
    REQ_WRITE_ZEROES = 13,
    REQ_UNKNOWN = 0x7777
};
enum { STATUS_OK = 0, STATUS_IOERR = 1, STATUS_UNSUPP = 2, STATUS_NONE = 0xee };

#define SECTOR     512
#define BURST      16
#define QUEUES_MAX 16

typedef struct Request {
    uint32_t type, reserved;
    uint64_t sector;
    uint8_t status;
} Request;

typedef struct Segment { /* of discard and write zeroes: 5.2.6 */
    uint64_t sector;
    uint32_t n_sectors, flags;
} Segment;

static Virtq queues[QUEUES_MAX];
static const char *mode_name;

/* Appends a request's header, data and status to the queue without a kick. */
static bool submit(Virtq *q, Request *r, uint32_t type, uint64_t sector, void *data,
                   uint32_t size)
{
    Buffer buffers[3] = {{r, 16, false}};
    unsigned n = 1;

    r->type = type;
    r->reserved = 0;
    r->sector = sector;
    r->status = STATUS_NONE;
    if (size)
        buffers[n++] = (Buffer){data, size, type == REQ_IN || type == REQ_GET_ID};
    buffers[n++] = (Buffer){&r->status, 1, true};
    return virtq_add(q, buffers, n, r);
}

static uint8_t request(Virtq *q, uint32_t type, uint64_t sector, void *data,
                       uint32_t size)
{
    static Request r;
    uint32_t used;

    CHECK(submit(q, &r, type, sector, data, size), "%s: ring full", mode_name);
    virtq_kick(q);
    CHECK(virtq_wait(q, &used), "%s: request %u at %lu: no answer", mode_name, type,
          sector);
    return r.status;
}

static void expect(Virtq *q, uint8_t want, uint32_t type, uint64_t sector, void *data,
                   uint32_t size)
{
    uint8_t status = request(q, type, sector, data, size);

    CHECK(status == want, "%s: request %u at %lu: status %u, not %u", mode_name, type,
          sector, status, want);
}

static void fill(uint64_t *data, uint32_t size, uint64_t seed)
{
    for (uint32_t i = 0; i < size / 8; i++)
        data[i] = (seed + i) * 0x9e3779b97f4a7c15;
}

/* BURST requests in flight at once, each of another size, at sectors of their own. */
static void burst(Virtq *q, uint32_t type, uint64_t base, uint8_t (*data)[16384])
{
    static Request requests[BURST];
    unsigned sent = 0, done = 0;
    uint32_t used;

    while (done < BURST) {
        while (sent < BURST && submit(q, &requests[sent], type, base + sent * 32ull,
                                      data[sent], (sent % 8 + 1) * 2048))
            sent++;
        virtq_kick(q);
        Request *r = virtq_wait(q, &used);
        CHECK(r, "%s: %u of %u requests answered", mode_name, done, BURST);
        CHECK(r->status == STATUS_OK, "%s: status %u", mode_name, r->status);
        done++;
    }
}

static void write_and_verify(Virtq *q, uint64_t base, uint64_t seed)
{
    static uint8_t out[BURST][16384], in[BURST][16384];

    for (unsigned i = 0; i < BURST; i++)
        fill((uint64_t *)out[i], sizeof(out[i]), seed + i);
    burst(q, REQ_OUT, base, out);
    burst(q, REQ_IN, base, in);
    for (unsigned i = 0; i < BURST; i++)
        CHECK(!memcmp(in[i], out[i], (i % 8 + 1) * 2048), "%s: queue %u: data differ",
              mode_name, q->index);
}

static void check_discard_and_zeroes(VirtioDevice *d, Virtq *q)
{
    static uint8_t data[4096];
    static Segment segment;

    segment = (Segment){8, 8, 0};
    if (d->features & F_DISCARD)
        expect(q, STATUS_OK, REQ_DISCARD, 0, &segment, sizeof(segment));
    if (!(d->features & F_WRITE_ZEROES))
        return;
    fill((uint64_t *)data, sizeof(data), 1);
    expect(q, STATUS_OK, REQ_OUT, 8, data, sizeof(data));
    expect(q, STATUS_OK, REQ_WRITE_ZEROES, 0, &segment, sizeof(segment));
    expect(q, STATUS_OK, REQ_IN, 8, data, sizeof(data));
    for (unsigned i = 0; i < sizeof(data); i++)
        CHECK(data[i] == 0, "%s: byte %u is not zero", mode_name, i);
    segment.sector = config_read64(d, CONFIG_CAPACITY);
    expect(q, STATUS_IOERR, REQ_WRITE_ZEROES, 0, &segment, sizeof(segment));
}

static void check_refusals(VirtioDevice *d, Virtq *q)
{
    static uint8_t data[4096];
    uint64_t capacity = config_read64(d, CONFIG_CAPACITY);

    expect(q, STATUS_OK, REQ_IN, capacity - 1, data, SECTOR);
    expect(q, STATUS_IOERR, REQ_IN, capacity, data, SECTOR);
    expect(q, STATUS_IOERR, REQ_IN, capacity - 1, data, 2 * SECTOR);
    expect(q, STATUS_IOERR, REQ_IN, ~0ull, data, SECTOR);
    expect(q, STATUS_UNSUPP, REQ_UNKNOWN, 0, data, SECTOR);
    if (d->features & F_RO)
        expect(q, STATUS_IOERR, REQ_OUT, 0, data, SECTOR);
}

static unsigned start(VirtioDevice *d, uint64_t mode)
{
    static const uint64_t wanted = F_RO | F_FLUSH | F_MQ | F_DISCARD | F_WRITE_ZEROES;
    unsigned n = 1;

    virtio_start(d, mode | wanted);
    if (d->features & F_MQ)
        n = config_read16(d, CONFIG_NUM_QUEUES);
    n = n > QUEUES_MAX ? QUEUES_MAX : n;
    for (unsigned i = 0; i < n; i++) {
        queues[i].interrupts = i < IRQ_VECTORS && arg_number("irq", 0);
        virtq_init(&queues[i], d, (uint16_t)i, (uint16_t)arg_number("size", 0));
    }
    virtio_driver_ok(d);
    return n;
}

static void exercise(VirtioDevice *d, uint64_t mode)
{
    static char id[21];

    mode_name = ring_mode_name(mode);
    unsigned n_queues = start(d, mode);
    CHECK(config_read64(d, CONFIG_CAPACITY) >= 1024ull * n_queues,
          "the disk is too small");

    for (unsigned i = 0; i < n_queues; i++) {
        uint32_t interrupts = irq_count[i % IRQ_VECTORS];

        if (!(d->features & F_RO))
            write_and_verify(&queues[i], i * 512ull, mode + i);
        if (d->features & F_FLUSH)
            expect(&queues[i], STATUS_OK, REQ_FLUSH, 0, NULL, 0);
        expect(&queues[i], STATUS_OK, REQ_GET_ID, 0, id, 20);
        check_refusals(d, &queues[i]);
        if (queues[i].interrupts)
            CHECK(WAIT_UNTIL(irq_count[i] != interrupts), "%s: queue %u: no interrupt",
                  mode_name, i);
    }
    if (!(d->features & F_RO))
        check_discard_and_zeroes(d, &queues[0]);
    print("blk %s queues=%u size=%u capacity=%lu id=%s interrupts=%u\n", mode_name,
          n_queues, queues[0].size, config_read64(d, CONFIG_CAPACITY), id, irq_count[0]);
}

static void test_blk(void)
{
    in_every_ring_mode(virtio_find(VIRTIO_BLK, (unsigned)arg_number("dev", 0)), exercise);
}

/* ---- blk-bench count=N qd=N bs=BYTES write=0|1 random=0|1 ---- */

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
    static Request requests[QUEUE_MAX];
    VirtioDevice *d = virtio_find(VIRTIO_BLK, (unsigned)arg_number("dev", 0));
    uint64_t count = arg_number("count", 100000), sent = 0, done = 0, turn = 0;
    unsigned qd = (unsigned)arg_number("qd", 32);
    uint32_t bs = (uint32_t)arg_number("bs", 4096), used;
    uint32_t type = arg_number("write", 0) ? REQ_OUT : REQ_IN;
    bool random = arg_number("random", 1);
    uint64_t mode = best_ring_mode(d);

    CHECK(qd <= ARRAY_SIZE(requests) / 4, "qd is too large");
    start(d, mode);
    uint64_t blocks = config_read64(d, CONFIG_CAPACITY) / (bs / SECTOR);
    uint8_t *data = alloc((size_t)qd * bs, 4096);
    Virtq *q = &queues[0];

    print("blk-bench start count=%lu qd=%u bs=%u ring=%s\n", count, qd, bs,
          ring_mode_name(mode));
    uint64_t before = ticks();
    for (; sent < qd && sent < count; sent++)
        submit(q, &requests[sent], type, next_random() % blocks * (bs / SECTOR),
               data + sent * bs, bs);
    virtq_kick(q);
    while (done < count) {
        Request *r = virtq_pop(q, &used);

        if (!r) {
            virtq_kick(q);
            pause();
            continue;
        }
        CHECK(r->status == STATUS_OK, "status %u", r->status);
        done++;
        if (sent < count) {
            uint64_t block = (random ? next_random() : turn++) % blocks;
            submit(q, r, type, block * (bs / SECTOR), data + (r - requests) * bs, bs);
            sent++;
        }
    }
    print("blk-bench done count=%lu ticks=%lu\n", done, ticks() - before);
}

const Test tests_blk[] = {
    {"blk", test_blk},
    {"blk-bench", test_blk_bench},
    {NULL, NULL},
};
