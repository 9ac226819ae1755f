/* The register bus. */
#include "core/bus.h"

#include <pthread.h>

typedef struct Probe {
    Device dev;
    uint64_t offset, value;
    unsigned size, reads, writes;
} Probe;

static uint64_t probe_read(Device *d, uint64_t offset, unsigned size)
{
    Probe *p = (Probe *)d;

    p->reads++;
    p->offset = offset;
    return 0x1122334455667788;
}

static void probe_write(Device *d, uint64_t offset, unsigned size, uint64_t value)
{
    Probe *p = (Probe *)d;

    p->writes++;
    p->offset = offset;
    p->size = size;
    p->value = value;
}

static const BusOps probe_ops = {probe_read, probe_write};
static const DeviceOps device_ops = {.name = "probe"};

static void probe_init(Probe *p, BusRegion *r, uint64_t size)
{
    *p = (Probe){0};
    device_init(&p->dev, &device_ops, "probe0");
    *r = (BusRegion){.dev = &p->dev, .ops = &probe_ops, .size = size};
}

static void an_access_reaches_the_region_with_its_offset_and_size(void)
{
    Bus *bus = bus_new(true);
    BusRegion r;
    Probe p;
    uint64_t v;

    probe_init(&p, &r, 8);
    g_assert_true(bus_map(bus, &r, 0x3f8));
    g_assert_true(bus_read(bus, 0x3fd, 1, &v));
    g_assert_cmphex(v, ==, 0x88);
    g_assert_cmpuint(p.offset, ==, 5);
    g_assert_true(bus_write(bus, 0x3f8, 2, 0xffff1234));
    g_assert_cmphex(p.value, ==, 0x1234);
    bus_free(bus);
}

static void a_read_of_nothing_is_all_ones(void)
{
    Bus *bus = bus_new(false);
    BusRegion r;
    Probe p;
    uint64_t v = 0;

    probe_init(&p, &r, 0x1000);
    g_assert_true(bus_map(bus, &r, 0x10000));
    g_assert_false(bus_read(bus, 0xffff, 4, &v));
    g_assert_cmphex(v, ==, 0xffffffff);
    g_assert_false(bus_read(bus, 0x11000, 8, &v));
    g_assert_cmphex(v, ==, UINT64_MAX);
    g_assert_false(bus_write(bus, 0, 1, 0));
    bus_unmap(bus, &r);
    g_assert_false(bus_read(bus, 0x10000, 1, &v));
    bus_unmap(bus, &r);
    bus_free(bus);
}

static void regions_that_overlap_wrap_or_are_empty_are_not_mapped(void)
{
    static const struct {
        uint64_t base, size;
    } bad[] = {{0x10fff, 0x10},        {0xfff1, 0x10},  {0x10800, 4}, {0xf000, 0x3000},
               {UINT64_MAX - 1, 0x10}, {UINT64_MAX, 1}, {0, 0},       {0, UINT64_MAX}};
    Bus *bus = bus_new(false);
    BusRegion first, r;
    Probe p;

    probe_init(&p, &first, 0x1000);
    g_assert_true(bus_map(bus, &first, 0x10000));
    g_assert_false(bus_map(bus, &first, 0x50000));
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        probe_init(&p, &r, bad[i].size);
        g_assert_false(bus_map(bus, &r, bad[i].base));
    }
    bus_free(bus);
}

static void a_full_map_takes_no_more_and_keeps_working(void)
{
    static BusRegion r[BUS_MAX_REGIONS + 1];
    Bus *bus = bus_new(true);
    uint64_t v;
    Probe p;

    for (unsigned i = 0; i <= BUS_MAX_REGIONS; i++) {
        probe_init(&p, &r[i], 4);
        /* from both ends, so that entries are inserted before others too */
        g_assert_cmpint(bus_map(bus, &r[i], (i % 2 ? 0x8000 - i * 4 : 0x8000 + i * 4)),
                        ==, i < BUS_MAX_REGIONS);
    }
    for (unsigned i = 0; i < BUS_MAX_REGIONS; i++)
        g_assert_true(bus_read(bus, r[i].base + 3, 1, &v));
    bus_free(bus);
}

typedef struct Mover {
    Bus *bus;
    BusRegion *region;
} Mover;

static void *move_to_and_fro(void *opaque)
{
    Mover *m = opaque;

    for (unsigned i = 0; i < 20000; i++) {
        bus_unmap(m->bus, m->region);
        g_assert_true(bus_map(m->bus, m->region, i % 2 ? 0x1000 : 0x9000));
    }
    return NULL;
}

static void a_region_is_found_while_another_moves(void)
{
    Bus *bus = bus_new(false);
    BusRegion still, moving;
    Probe p, q;
    pthread_t t;
    uint64_t v;

    probe_init(&p, &still, 0x100);
    probe_init(&q, &moving, 0x100);
    g_assert_true(bus_map(bus, &still, 0x5000));
    g_assert_true(bus_map(bus, &moving, 0x1000));
    pthread_create(&t, NULL, move_to_and_fro, &(Mover){bus, &moving});
    for (unsigned i = 0; i < 20000; i++)
        g_assert_true(bus_read(bus, 0x5080, 4, &v));
    pthread_join(t, NULL);
    bus_free(bus);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define TEST(name) g_test_add_func("/bus/" #name, name)
    TEST(an_access_reaches_the_region_with_its_offset_and_size);
    TEST(a_read_of_nothing_is_all_ones);
    TEST(regions_that_overlap_wrap_or_are_empty_are_not_mapped);
    TEST(a_full_map_takes_no_more_and_keeps_working);
    TEST(a_region_is_found_while_another_moves);
    return g_test_run();
}
