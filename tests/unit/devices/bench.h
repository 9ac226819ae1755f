/* What the tests of devices share: two buses, an interrupt controller that remembers, and
 * a guest that tries everything. */
#pragma once

#include <poll.h>
#include <stdatomic.h>

#include "core/bus.h"
#include "core/irq.h"
#include "util/bits.h"
#include "util/ioloop.h"

enum { BENCH_MAX_MSI = 256 };

typedef struct BenchMsi {
    bool used;
    int eventfd;
    uint64_t addr;
    uint32_t data;
} BenchMsi;

typedef struct Bench {
    Bus *pio, *mmio;
    IrqController ic;
    _Atomic bool gsi[IRQ_MAX_GSI];
    _Atomic unsigned edges[IRQ_MAX_GSI]; /* times each went up */
    BenchMsi msi[BENCH_MAX_MSI];
    unsigned routes; /* calls of msi_route */
    bool refuse_routes;
} Bench;

static void bench_set_gsi(void *opaque, unsigned gsi, bool level)
{
    Bench *b = opaque;

    /* Whoever waits for the level finds the edge counted. */
    b->edges[gsi] += level;
    b->gsi[gsi] = level;
}

static int bench_msi_alloc(void *opaque, GError **error)
{
    Bench *b = opaque;

    for (int i = 0; i < BENCH_MAX_MSI; i++) {
        if (!b->msi[i].used) {
            b->msi[i] = (BenchMsi){.used = true, .eventfd = -1};
            return i;
        }
    }
    return -1;
}

static void bench_msi_free(void *opaque, int handle)
{
    ((Bench *)opaque)->msi[handle].used = false;
}

static bool bench_msi_route(void *opaque, int handle, uint64_t addr, uint32_t data)
{
    Bench *b = opaque;

    b->routes++;
    b->msi[handle].addr = addr;
    b->msi[handle].data = data;
    return !b->refuse_routes;
}

static bool bench_msi_bind(void *opaque, int handle, int eventfd, bool on)
{
    ((Bench *)opaque)->msi[handle].eventfd = on ? eventfd : -1;
    return true;
}

static const IrqOps bench_irq_ops = {
    .set_gsi = bench_set_gsi,
    .msi_alloc = bench_msi_alloc,
    .msi_free = bench_msi_free,
    .msi_route = bench_msi_route,
    .msi_bind = bench_msi_bind,
};

static inline void bench_init(Bench *b)
{
    memset(b, 0, sizeof(*b));
    b->pio = bus_new(true);
    b->mmio = bus_new(false);
    irq_controller_init(&b->ic, &bench_irq_ops, b);
}

static inline void bench_finish(Bench *b)
{
    bus_free(b->pio);
    bus_free(b->mmio);
}

/* How often that message was fired since last asked; -1: no such message. */
static inline int bench_fired(Bench *b, uint32_t data)
{
    uint64_t count = 0;

    for (unsigned i = 0; i < BENCH_MAX_MSI; i++) {
        if (b->msi[i].used && b->msi[i].data == data) {
            struct pollfd p = {.fd = b->msi[i].eventfd, .events = POLLIN};
            if (poll(&p, 1, 0) == 1)
                g_assert_cmpint(read(p.fd, &count, 8), ==, 8);
            return (int)count;
        }
    }
    return -1;
}

static inline uint64_t in(Bench *b, uint16_t port, unsigned size)
{
    uint64_t value;

    bus_read(b->pio, port, size, &value);
    return value;
}

static inline void out(Bench *b, uint16_t port, unsigned size, uint64_t value)
{
    bus_write(b->pio, port, size, value);
}

/* Every offset, size and kind of access of [base, base + len), with random values. */
static inline void bench_storm(Bus *bus, uint64_t base, unsigned len, unsigned rounds)
{
    for (unsigned r = 0; r < rounds; r++) {
        for (unsigned at = 0; at < len; at++) {
            for (unsigned size = 1; size <= 8; size *= 2) {
                uint64_t v = (uint64_t)g_test_rand_int() << 32 |
                             (uint32_t)g_test_rand_int();
                if (r & 1)
                    v = r & 2 ? UINT64_MAX : v & 0xff;
                bus_write(bus, base + at, size, v);
                bus_read(bus, base + at, size, &v);
                g_assert_cmphex(v & ~ones(size), ==, 0);
            }
        }
    }
}
