/* See core/bus.h.
 *
 * The map is an array sorted by base, rewritten in place by the one writer (under the
 * map lock) between two bumps of `seq`.  A reader that sees an odd or changed `seq` looks
 * again; what it read meanwhile were whole, if stale, words, because every field is an
 * atomic word, and indices stay inside the fixed array. */
#include "core/bus.h"

#include "util/bits.h"

typedef struct Entry {
    uint64_t base, size; /* atomic */
    BusRegion *region;   /* atomic */
} Entry;

struct Bus {
    bool pio;
    Lock lock; /* guards writers */
    unsigned seq, n;
    Entry map[BUS_MAX_REGIONS];
    const BusKickOps *kick;
    void *kick_opaque;
};

Bus *bus_new(bool pio)
{
    Bus *bus = g_new0(Bus, 1);

    bus->pio = pio;
    lock_init(&bus->lock);
    return bus;
}

void bus_free(Bus *bus)
{
    if (!bus)
        return;
    lock_finish(&bus->lock);
    g_free(bus);
}

void bus_set_kick_ops(Bus *bus, const BusKickOps *ops, void *opaque)
{
    bus->kick = ops;
    bus->kick_opaque = opaque;
}

#define GET(field)        __atomic_load_n(&(field), __ATOMIC_RELAXED)
#define SET(field, value) __atomic_store_n(&(field), value, __ATOMIC_RELAXED)

static void copy_entry(Entry *to, const Entry *from)
{
    SET(to->base, from->base);
    SET(to->size, from->size);
    SET(to->region, from->region);
}

/* The odd value is visible before any entry changes, the even one after all have. */
static void write_begin_locked(Bus *bus)
{
    SET(bus->seq, bus->seq + 1);
    __atomic_thread_fence(__ATOMIC_RELEASE);
}

static void write_end_locked(Bus *bus)
{
    __atomic_store_n(&bus->seq, bus->seq + 1, __ATOMIC_RELEASE);
}

static bool overlaps_locked(const Bus *bus, uint64_t base, uint64_t size)
{
    for (unsigned i = 0; i < bus->n; i++)
        if (base < bus->map[i].base + bus->map[i].size && bus->map[i].base < base + size)
            return true;
    return false;
}

bool bus_map(Bus *bus, BusRegion *region, uint64_t base)
{
    uint64_t limit = bus->pio ? 0x10000 : BIT64(52); /* what any guest can address */
    Entry entry = {base, region->size, region};
    unsigned i;

    LOCK_GUARD(&bus->lock);
    if (region->mapped || !region->size || !range_within(base, region->size, limit) ||
        bus->n == BUS_MAX_REGIONS || overlaps_locked(bus, base, region->size))
        return false;
    write_begin_locked(bus);
    for (i = bus->n; i > 0 && bus->map[i - 1].base > base; i--)
        copy_entry(&bus->map[i], &bus->map[i - 1]);
    copy_entry(&bus->map[i], &entry);
    SET(bus->n, bus->n + 1);
    write_end_locked(bus);
    region->base = base;
    region->mapped = true;
    return true;
}

void bus_unmap(Bus *bus, BusRegion *region)
{
    unsigned i = 0;

    LOCK_GUARD(&bus->lock);
    if (!region->mapped)
        return;
    while (bus->map[i].region != region)
        i++;
    write_begin_locked(bus);
    for (; i + 1 < bus->n; i++)
        copy_entry(&bus->map[i], &bus->map[i + 1]);
    SET(bus->n, bus->n - 1);
    write_end_locked(bus);
    region->mapped = false;
}

/* The last entry that begins at or before addr, if it reaches that far. */
static BusRegion *search(const Bus *bus, uint64_t addr, uint64_t *offset)
{
    unsigned low = 0, high = GET(bus->n);
    const Entry *e;

    while (low < high) {
        unsigned mid = (low + high) / 2;

        if (GET(bus->map[mid].base) <= addr)
            low = mid + 1;
        else
            high = mid;
    }
    if (!low)
        return NULL;
    e = &bus->map[low - 1];
    *offset = addr - GET(e->base);
    return *offset < GET(e->size) ? GET(e->region) : NULL;
}

static BusRegion *find(const Bus *bus, uint64_t addr, uint64_t *offset)
{
    BusRegion *region;
    unsigned before;

    do {
        before = __atomic_load_n(&bus->seq, __ATOMIC_ACQUIRE);
        region = search(bus, addr, offset);
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
    } while ((before & 1) || GET(bus->seq) != before);
    return region;
}

bool bus_read(Bus *bus, uint64_t addr, unsigned size, uint64_t *value)
{
    uint64_t offset;
    BusRegion *r = find(bus, addr, &offset);

    *value = ones(size);
    if (!r)
        return false;
    LOCK_GUARD(&r->dev->lock);
    *value &= r->ops->read(r->dev, offset, size);
    return true;
}

bool bus_write(Bus *bus, uint64_t addr, unsigned size, uint64_t value)
{
    uint64_t offset;
    BusRegion *r = find(bus, addr, &offset);

    if (!r)
        return false;
    LOCK_GUARD(&r->dev->lock);
    r->ops->write(r->dev, offset, size, value & ones(size));
    return true;
}

bool bus_kick_assign(Bus *bus, uint64_t addr, unsigned size, bool match, uint64_t value,
                     int fd, bool on)
{
    return bus->kick && bus->kick->assign(bus->kick_opaque, bus->pio, addr, size, match,
                                          value, fd, on);
}
