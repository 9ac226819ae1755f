/* Everything that a driver must not do, one `case=NAME` at a time, or `case=all`.
 *
 * After each the test says whether the device asked for a reset (2.1.2), resets it, and
 * uses it normally: whatever was done to it, the machine and the device after a reset
 * must work. With `dev2=N`, another device is used in between, before that reset. */
#include "hostile.h"

VirtioDevice *dev;
Virtq q;
uint8_t data[4096] __attribute__((aligned(4096)));
uint64_t beyond_ram; /* no RAM, no device */

/* ---- An ordinary use of a device of any type ---- */

uint16_t work_queue(VirtioDevice *d)
{
    return d->type == VIRTIO_NET || d->type == VIRTIO_CONSOLE ? 1 : 0;
}

unsigned harmless_request(VirtioDevice *d, Buffer *ret)
{
    static uint64_t blk_header[2];
    static uint8_t blk_status;

    if (d->type == VIRTIO_BLK) {
        memset(blk_header, 0, sizeof(blk_header));
        ret[0] = (Buffer){blk_header, 16, false};
        ret[1] = (Buffer){data, 512, true};
        ret[2] = (Buffer){&blk_status, 1, true};
        return 3;
    }
    ret[0] = (Buffer){data, 64, d->type == VIRTIO_RNG};
    return 1;
}

static void use_normally(VirtioDevice *d, Virtq *queue, uint64_t mode)
{
    Buffer buffers[3];

    virtio_start(d, mode);
    virtq_init(queue, d, work_queue(d), 0);
    virtio_driver_ok(d);
    memset(data, 0, sizeof(data));
    virtq_do(queue, buffers, harmless_request(d, buffers));
}

/* ---- Rings, written by hand ---- */

void ring_start(uint64_t mode)
{
    virtio_start(dev, mode);
    virtq_init(&q, dev, work_queue(dev), 0);
    virtio_driver_ok(dev);
}

void ring_put(unsigned i, uint64_t address, uint32_t size, unsigned flags, unsigned next)
{
    q.desc[i] = (SplitDesc){address, size, (uint16_t)flags, (uint16_t)next};
}

void ring_offer(unsigned head)
{
    q.avail[2 + q.next_avail % q.size] = (uint16_t)head;
    compiler_barrier();
    q.avail[1] = ++q.next_avail;
    full_barrier();
    dev->ops->notify(dev, q.index);
}

uint64_t address_of(const volatile void *p)
{
    return (uintptr_t)p;
}

/* Long enough for an I/O thread to have seen the ring; no answer need come. */
static bool settle(void)
{
    uint64_t begin = ticks();

    while (!virtio_needs_reset(dev) && ticks() - begin < PATIENCE / 100)
        pause();
    return virtio_needs_reset(dev);
}

static void run_case(const Case *c)
{
    static Virtq other_queue;
    static VirtioDevice *other;
    uint64_t offered = dev->ops->get_features(dev);

    if ((offered & c->needs) != c->needs || (c->pci && dev->ops != &virtio_pci)) {
        print("hostile %s skipped\n", c->name);
        return;
    }
    c->run();
    print("hostile %s needs_reset=%u\n", c->name, settle());
    if (arg_text("dev2", NULL)) {
        if (!other)
            other = virtio_find(0, (unsigned)arg_number("dev2", 0));
        use_normally(other, &other_queue, 0);
    }
    use_normally(dev, &q, 0);
}

/* type=N and dev=N choose the device, both 0 by default: the first of any type. */
static void test_hostile(void)
{
    static const Case *const groups[] = {cases_rings, cases_device};
    const char *name = arg_text("case", "all");
    unsigned run = 0;

    dev = virtio_find((unsigned)arg_number("type", 0), (unsigned)arg_number("dev", 0));
    beyond_ram = (ram_end() > 1ull << 32 ? ram_end() : 1ull << 32) + (64ull << 30);
    use_normally(dev, &q, 0);
    for (unsigned i = 0; i < ARRAY_SIZE(groups); i++) {
        for (const Case *c = groups[i]; c->name; c++) {
            if (!text_equal(name, "all") && !text_equal(name, c->name))
                continue;
            run_case(c);
            run++;
        }
    }
    CHECK(run, "no such case");
}

const Test tests_hostile[] = {
    {"hostile", test_hostile},
    {NULL, NULL},
};
