/* What the tests of both transports share: RAM, an inline echo device, a bus that may
 * catch kicks as the kernel does, and one request by hand. */
#pragma once

#include "../devices/bench.h"
#include "echo.h"
#include "state_edit.h"
#include "util/fd.h"
#include "virtio/transport.h"

enum { TB_DESC = 0x1000, TB_DRIVER = 0x2000, TB_DEVICE = 0x3000, TB_QUEUE = 0x10000 };
enum { TB_MAX_KICKS = 64, TB_RAM = 0x100000, TB_SIZE = 8 };

typedef struct TbKick {
    uint64_t addr, value;
    unsigned size;
    bool match;
    int fd;
} TbKick;

typedef struct TransportBench {
    Bench bench;
    GuestMem gm;
    VirtioEnv env;
    VirtioOps ops;
    VirtioDevice *v;
    TbKick kick[TB_MAX_KICKS];
    unsigned n_kicks;
    bool catches_kicks;
} TransportBench;

static bool tb_assign(void *opaque, bool pio, uint64_t addr, unsigned size, bool match,
                      uint64_t value, int fd, bool on)
{
    TransportBench *t = opaque;
    TbKick kick = {addr, value, size, match, fd};

    if (!t->catches_kicks)
        return false;
    if (on) {
        g_assert_cmpuint(t->n_kicks, <, TB_MAX_KICKS);
        t->kick[t->n_kicks++] = kick;
        return true;
    }
    for (unsigned i = 0; i < t->n_kicks; i++) {
        if (t->kick[i].addr == addr && t->kick[i].value == value && t->kick[i].fd == fd) {
            t->kick[i] = t->kick[--t->n_kicks];
            return true;
        }
    }
    return false;
}

static const BusKickOps tb_kick_ops = {tb_assign};

/* A write by the guest: the kernel's to catch, then ours. */
static inline void tb_write(TransportBench *t, uint64_t addr, unsigned size,
                            uint64_t value)
{
    for (unsigned i = 0; i < t->n_kicks; i++) {
        const TbKick *k = &t->kick[i];

        if (k->addr == addr && (!k->size || k->size == size) &&
            (!k->match || k->value == value)) {
            fd_event_signal(k->fd);
            return;
        }
    }
    bus_write(t->bench.mmio, addr, size, value);
}

static inline uint64_t tb_read(TransportBench *t, uint64_t addr, unsigned size)
{
    uint64_t value;

    bus_read(t->bench.mmio, addr, size, &value);
    return value;
}

/* Also in the place of one that its transport has freed. */
static inline void tb_new_device(TransportBench *t)
{
    GError *error = NULL;

    t->v = virtio_new(&t->ops, NULL, NULL, &t->env, &error);
    g_assert_no_error(error);
}

static inline void tb_init(TransportBench *t, bool catches_kicks)
{
    GuestMemOptions o = {.size = TB_RAM};
    GError *error = NULL;

    memset(t, 0, sizeof(*t));
    bench_init(&t->bench);
    t->catches_kicks = catches_kicks;
    bus_set_kick_ops(t->bench.mmio, &tb_kick_ops, t);
    g_assert_true(gm_init(&t->gm, &o, &error));
    g_assert_true(gm_add(&t->gm, 0, TB_RAM, &error));
    t->env = (VirtioEnv){.gm = &t->gm, .main = ioloop_new(&error), .n_cpus = 1};
    g_assert_no_error(error);
    t->env.shared_io = t->env.main;
    t->ops = virtio_echo_ops;
    t->ops.own_thread = false;
    tb_new_device(t);
}

/* After the transport has freed the device. */
static inline void tb_finish(TransportBench *t)
{
    g_assert_cmpuint(t->n_kicks, ==, 0);
    ioloop_free(t->env.main);
    gm_finish(&t->gm);
    bench_finish(&t->bench);
}

static inline void tb_quit(void *opaque)
{
    ioloop_quit(opaque);
}

static inline void tb_run(TransportBench *t)
{
    for (int i = 0; i < 4; i++) {
        IoTimer timer = {0};

        ioloop_timer(t->env.main, &timer, 0, tb_quit, t->env.main);
        ioloop_run(t->env.main);
        ioloop_timer_cancel(&timer);
    }
}

/* Puts one request of 4 bytes into a split ring of TB_SIZE whose areas are at the given
 * addresses plus TB_QUEUE * queue; and how many came back. */
static inline void tb_offer(TransportBench *t, unsigned queue)
{
    uint8_t *base = (uint8_t *)gm_at(&t->gm, (uint64_t)queue * TB_QUEUE, TB_QUEUE);
    uint8_t *avail = base + TB_DRIVER;
    uint16_t idx = load_le16(avail + 2);

    store_le64(base + TB_DESC, 0x80000);
    store_le32(base + TB_DESC + 8, 4);
    store_le32(base + TB_DESC + 12, 0);
    store_le16(avail + 4 + 2 * (idx % TB_SIZE), 0);
    store_le16(avail + 2, idx + 1);
}

static inline unsigned tb_used(TransportBench *t, unsigned queue)
{
    return load_le16(gm_at(&t->gm, (uint64_t)queue * TB_QUEUE + TB_DEVICE + 2, 2));
}
