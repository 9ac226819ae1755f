/* virtio-blk: virtio 1.2, 5.2.  Writes and reads patterns in every ring layout and asks
 * for what must be refused. */
#include "blk.h"

#define BURST 16

static Disk disk;
static const char *mode_name;

static uint8_t request(Virtq *q, uint32_t type, uint64_t sector, void *data,
                       uint32_t size)
{
    static Request r;
    uint32_t used;

    CHECK(disk_submit(q, &r, type, sector, data, size), "%s: ring full", mode_name);
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
        while (sent < BURST && disk_submit(q, &requests[sent], type, base + sent * 32ull,
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
    segment.sector = disk.sectors;
    expect(q, STATUS_IOERR, REQ_WRITE_ZEROES, 0, &segment, sizeof(segment));
}

static void check_refusals(VirtioDevice *d, Virtq *q)
{
    static uint8_t data[4096];
    uint64_t capacity = disk.sectors;

    expect(q, STATUS_OK, REQ_IN, capacity - 1, data, SECTOR);
    expect(q, STATUS_IOERR, REQ_IN, capacity, data, SECTOR);
    expect(q, STATUS_IOERR, REQ_IN, capacity - 1, data, 2 * SECTOR);
    expect(q, STATUS_IOERR, REQ_IN, ~0ull, data, SECTOR);
    expect(q, STATUS_UNSUPP, REQ_UNKNOWN, 0, data, SECTOR);
    if (d->features & F_RO)
        expect(q, STATUS_IOERR, REQ_OUT, 0, data, SECTOR);
}

static void exercise(VirtioDevice *d, uint64_t mode)
{
    static char id[21];

    mode_name = ring_mode_name(mode);
    disk_start(&disk, d, mode, F_RO | F_FLUSH | F_MQ | F_DISCARD | F_WRITE_ZEROES,
               QUEUES_MAX);
    CHECK(disk.sectors >= 1024ull * disk.n_queues, "the disk is too small");

    for (unsigned i = 0; i < disk.n_queues; i++) {
        uint32_t interrupts = irq_count[i % IRQ_VECTORS];

        if (!(d->features & F_RO))
            write_and_verify(&disk.queues[i], i * 512ull, mode + i);
        if (d->features & F_FLUSH)
            expect(&disk.queues[i], STATUS_OK, REQ_FLUSH, 0, NULL, 0);
        expect(&disk.queues[i], STATUS_OK, REQ_GET_ID, 0, id, 20);
        check_refusals(d, &disk.queues[i]);
        if (disk.queues[i].interrupts)
            CHECK(WAIT_UNTIL(irq_count[i] != interrupts), "%s: queue %u: no interrupt",
                  mode_name, i);
    }
    if (!(d->features & F_RO))
        check_discard_and_zeroes(d, &disk.queues[0]);
    print("blk %s queues=%u size=%u capacity=%lu id=%s interrupts=%u\n", mode_name,
          disk.n_queues, disk.queues[0].size, disk.sectors, id, irq_count[0]);
}

static void test_blk(void)
{
    in_every_ring_mode(virtio_find(VIRTIO_BLK, (unsigned)arg_number("dev", 0)), exercise);
}

const Test tests_blk[] = {
    {"blk", test_blk},
    {NULL, NULL},
};
