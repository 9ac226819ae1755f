/* Hostile descriptors: what a ring that lies properly in RAM can say wrong. */
#include "hostile.h"

/* One descriptor, as a device of this type likes it, but for its address and size. */
static void offer_one(uint64_t address, uint32_t size)
{
    ring_start(0);
    ring_put(0, address, size, dev->type == VIRTIO_RNG ? DESC_WRITE : 0, 0);
    ring_offer(0);
}

static void outside_ram(void)
{
    offer_one(beyond_ram, 512);
}

static void across_end_of_ram(void)
{
    offer_one(ram_end() - 256, 512);
}

static void wrapped(void)
{
    offer_one(~0ull - 8, 64);
}

static void zero_length(void)
{
    offer_one(address_of(data), 0);
}

static void huge_length(void)
{
    offer_one(address_of(data), 0xffffffff);
}

static void device_memory(void)
{
    offer_one(LAPIC, 512);
}

static void own_registers(void)
{
    offer_one(address_of(dev->registers), 64);
}

static void loop(void)
{
    ring_start(0);
    ring_put(0, address_of(data), 16, DESC_NEXT, 1);
    ring_put(1, address_of(data), 16, DESC_NEXT, 0);
    ring_offer(0);
}

static void loop_to_itself(void)
{
    ring_start(0);
    ring_put(0, address_of(data), 16, DESC_NEXT, 0);
    ring_offer(0);
}

static void next_out_of_range(void)
{
    ring_start(0);
    ring_put(0, address_of(data), 16, DESC_NEXT, q.size);
    ring_offer(0);
}

static void head_out_of_range(void)
{
    ring_start(0);
    ring_offer(q.size + 5u);
}

static void head_maximal(void)
{
    ring_start(0);
    ring_offer(0xffff);
}

static void avail_jump(void)
{
    ring_start(0);
    ring_put(0, address_of(data), 16, 0, 0);
    q.next_avail = (uint16_t)(q.size + 1);
    ring_offer(0);
}

static void avail_backwards(void)
{
    ring_start(0);
    ring_put(0, address_of(data), 16, 0, 0);
    q.next_avail = 0xfffe;
    ring_offer(0);
}

static void write_before_read(void)
{
    ring_start(0);
    ring_put(0, address_of(data), 16, DESC_NEXT | DESC_WRITE, 1);
    ring_put(1, address_of(data) + 512, 16, DESC_NEXT, 2);
    ring_put(2, address_of(data) + 1024, 16, DESC_WRITE, 0);
    ring_offer(0);
}

/* The same head twice: both may be answered, neither may break anything. */
static void head_twice(void)
{
    ring_start(0);
    ring_put(0, address_of(data), 64, dev->type == VIRTIO_RNG ? DESC_WRITE : 0, 0);
    ring_offer(0);
    ring_offer(0);
}

static void longest_chain(void)
{
    ring_start(0);
    for (unsigned i = 0; i < q.size; i++)
        ring_put(i, address_of(data), 16, i + 1 < q.size ? DESC_NEXT : 0, i + 1);
    ring_offer(0);
}

static void every_flag(void)
{
    ring_start(0);
    ring_put(0, address_of(data), 16, 0xffff, 0xffff);
    ring_offer(0);
}

/* ---- Indirect ---- */

static SplitDesc table[16] __attribute__((aligned(16)));

static void offer_indirect(uint64_t address, uint32_t size, unsigned flags)
{
    ring_start(F_INDIRECT);
    for (unsigned i = 0; i < ARRAY_SIZE(table); i++)
        table[i] = (SplitDesc){address_of(data), 16, 0, 0};
    ring_put(0, address, size, DESC_INDIRECT | flags, 1);
    ring_put(1, address_of(data), 16, 0, 0);
}

static void indirect_not_negotiated(void)
{
    ring_start(0);
    table[0] = (SplitDesc){address_of(data), 16, 0, 0};
    ring_put(0, address_of(table), 16, DESC_INDIRECT, 0);
    ring_offer(0);
}

static void indirect_in_indirect(void)
{
    offer_indirect(address_of(table), 16, 0);
    table[0].flags = DESC_INDIRECT;
    table[0].address = address_of(table);
    ring_offer(0);
}

static void indirect_odd_length(void)
{
    offer_indirect(address_of(table), 17, 0);
    ring_offer(0);
}

static void indirect_empty(void)
{
    offer_indirect(address_of(table), 0, 0);
    ring_offer(0);
}

static void indirect_and_next(void)
{
    offer_indirect(address_of(table), 32, DESC_NEXT);
    ring_offer(0);
}

static void indirect_next_out_of_range(void)
{
    offer_indirect(address_of(table), 32, 0);
    table[0].flags = DESC_NEXT;
    table[0].next = 2;
    ring_offer(0);
}

static void indirect_loop(void)
{
    offer_indirect(address_of(table), 32, 0);
    table[0].flags = table[1].flags = DESC_NEXT;
    table[0].next = 1;
    table[1].next = 0;
    ring_offer(0);
}

static void indirect_outside_ram(void)
{
    offer_indirect(beyond_ram, 256, 0);
    ring_offer(0);
}

static void indirect_huge(void)
{
    offer_indirect(address_of(table), 0xfffffff0, 0);
    ring_offer(0);
}

/* ---- Packed ---- */

static void put_packed(unsigned i, uint64_t address, uint32_t size, unsigned flags)
{
    q.ring[i].address = address;
    q.ring[i].size = size;
    q.ring[i].id = (uint16_t)i;
    compiler_barrier();
    q.ring[i].flags = (uint16_t)flags;
}

static void kick(void)
{
    full_barrier();
    dev->ops->notify(dev, q.index);
}

static void packed_outside_ram(void)
{
    ring_start(F_PACKED);
    put_packed(0, beyond_ram, 512, DESC_AVAIL);
    kick();
}

/* Available and used at once, and in the wrong turn: simply not available yet. */
static void packed_wrong_wrap(void)
{
    ring_start(F_PACKED);
    put_packed(0, address_of(data), 16, DESC_AVAIL | DESC_USED);
    kick();
    put_packed(0, address_of(data), 16, DESC_USED);
    kick();
}

static void packed_endless_chain(void)
{
    ring_start(F_PACKED);
    for (unsigned i = 0; i < q.size; i++)
        put_packed(i, address_of(data), 16, DESC_AVAIL | DESC_NEXT);
    kick();
}

/* The chain goes on in a descriptor that is not available. */
static void packed_broken_chain(void)
{
    ring_start(F_PACKED);
    put_packed(0, address_of(data), 16, DESC_AVAIL | DESC_NEXT);
    kick();
}

static void packed_foreign_id(void)
{
    ring_start(F_PACKED);
    put_packed(0, address_of(data), 16,
               DESC_AVAIL | (dev->type == VIRTIO_RNG ? DESC_WRITE : 0));
    q.ring[0].id = 0xfff0;
    kick();
}

static void packed_indirect_odd_length(void)
{
    ring_start(F_PACKED | F_INDIRECT);
    put_packed(0, address_of(table), 17, DESC_AVAIL | DESC_INDIRECT);
    kick();
}

static void packed_indirect_in_indirect(void)
{
    ring_start(F_PACKED | F_INDIRECT);
    table[0] = (SplitDesc){address_of(table), 16, 0, DESC_INDIRECT};
    put_packed(0, address_of(table), 16, DESC_AVAIL | DESC_INDIRECT);
    kick();
}

static void packed_event_garbage(void)
{
    ring_start(F_PACKED | F_EVENT_IDX);
    q.driver_event[0] = 0xffff;
    q.driver_event[1] = 0xffff;
    put_packed(0, address_of(data), 64,
               DESC_AVAIL | (dev->type == VIRTIO_RNG ? DESC_WRITE : 0));
    kick();
}

const Case cases_rings[] = {
    {"outside-ram", outside_ram, 0, false},
    {"across-end-of-ram", across_end_of_ram, 0, false},
    {"wrapped", wrapped, 0, false},
    {"zero-length", zero_length, 0, false},
    {"huge-length", huge_length, 0, false},
    {"device-memory", device_memory, 0, false},
    {"own-registers", own_registers, 0, false},
    {"loop", loop, 0, false},
    {"loop-to-itself", loop_to_itself, 0, false},
    {"next-out-of-range", next_out_of_range, 0, false},
    {"head-out-of-range", head_out_of_range, 0, false},
    {"head-maximal", head_maximal, 0, false},
    {"avail-jump", avail_jump, 0, false},
    {"avail-backwards", avail_backwards, 0, false},
    {"write-before-read", write_before_read, 0, false},
    {"head-twice", head_twice, 0, false},
    {"longest-chain", longest_chain, 0, false},
    {"every-flag", every_flag, 0, false},
    {"indirect-not-negotiated", indirect_not_negotiated, 0, false},
    {"indirect-in-indirect", indirect_in_indirect, F_INDIRECT, false},
    {"indirect-odd-length", indirect_odd_length, F_INDIRECT, false},
    {"indirect-empty", indirect_empty, F_INDIRECT, false},
    {"indirect-and-next", indirect_and_next, F_INDIRECT, false},
    {"indirect-next-out-of-range", indirect_next_out_of_range, F_INDIRECT, false},
    {"indirect-loop", indirect_loop, F_INDIRECT, false},
    {"indirect-outside-ram", indirect_outside_ram, F_INDIRECT, false},
    {"indirect-huge", indirect_huge, F_INDIRECT, false},
    {"packed-outside-ram", packed_outside_ram, F_PACKED, false},
    {"packed-wrong-wrap", packed_wrong_wrap, F_PACKED, false},
    {"packed-endless-chain", packed_endless_chain, F_PACKED, false},
    {"packed-broken-chain", packed_broken_chain, F_PACKED, false},
    {"packed-foreign-id", packed_foreign_id, F_PACKED, false},
    {"packed-indirect-odd-length", packed_indirect_odd_length, F_PACKED, false},
    {"packed-indirect-in-indirect", packed_indirect_in_indirect, F_PACKED, false},
    {"packed-event-garbage", packed_event_garbage, F_PACKED, false},
    {0},
};
