/* A switch in a test: ports that keep what they are given. */
#pragma once

#include <unistd.h>

#include "src/switch/fdb.h"
#include "src/switch/guard.h"
#include "src/switch/hold.h"
#include "src/switch/switch.h"

enum { FAKE_KEPT = 64, FAKE_LEN = 2048 };

typedef struct FakePort {
    Port port;
    unsigned n, flushes, resumed; /* frames; the last FAKE_KEPT are kept */
    uint8_t data[FAKE_KEPT][FAKE_LEN];
    size_t len[FAKE_KEPT];
    VnetHdr hdr;  /* of the last one */
    bool is_full; /* takes frames, and says that it has little room */
    bool refuses; /* takes none */
    bool plugged;
} FakePort;

static inline bool fake_keep(void *port, const uint8_t *frame, size_t len)
{
    FakePort *p = port;

    memcpy(p->data[p->n % FAKE_KEPT], frame, MIN(len, FAKE_LEN));
    p->len[p->n++ % FAKE_KEPT] = len;
    return true;
}

static inline bool fake_send(Port *port, const Frame *f)
{
    FakePort *p = (FakePort *)port;

    if (p->is_full || p->refuses)
        hold_full(port);
    if (p->refuses)
        return false;
    p->hdr = f->hdr;
    if (port_takes(port, &f->hdr))
        return fake_keep(port, f->data, f->len);
    port_offload(port, f, fake_keep);
    return true;
}

static inline void fake_flush(Port *port)
{
    ((FakePort *)port)->flushes++;
}

static inline void fake_resume(Port *port)
{
    ((FakePort *)port)->resumed++;
}

static inline void fake_free(Port *port)
{
    g_free(port);
}

static const PortOps fake_ops = {.kind = "fake",
                                 .send = fake_send,
                                 .flush = fake_flush,
                                 .resume = fake_resume,
                                 .free = fake_free};

static char *fake_root; /* $HUTCH_NETWORKS */

static inline void fake_remove(void)
{
    g_autofree char *lock = g_build_filename(fake_root, ".lock", NULL);

    network_remove("test", NULL);
    unlink(lock);
    rmdir(fake_root);
    g_free(fake_root);
}

/* Files of its own, until the program ends; the config is that of `hutch net create` with
 * nothing given but the subnet, and no DHCP, so that any address may be used. */
static inline Switch *fake_switch(void)
{
    NetworkConfig *config = param_new(&network_params);
    g_autoptr(GError) error = NULL;
    g_autofree char *folder = NULL, *file = NULL;
    Switch *sw;

    if (!fake_root) {
        fake_root = g_dir_make_tmp("hutch-XXXXXX", NULL);
        atexit(fake_remove);
        g_setenv("HUTCH_NETWORKS", fake_root, TRUE);
        folder = g_build_filename(fake_root, "test", NULL);
        file = g_build_filename(folder, "config.json", NULL);
        g_mkdir_with_parents(folder, 0700);
        g_assert_true(g_file_set_contents(file, "{}", -1, NULL));
    }
    config->subnet = g_strdup("10.5.0.0/24");
    config->dhcp = false;
    sw = switch_new("test", config, &error);
    g_assert_no_error(error);
    return sw;
}

/* MAC 02:00:00:00:00:N and address 10.5.0.N. */
static inline FakePort *fake_port(Switch *sw, const char *vm, uint8_t n)
{
    Port *port = port_new(sw, &fake_ops, sizeof(FakePort), NULL);
    Ip ip = ip_from_v4(0x0a050000u + n);

    g_assert_nonnull(port);
    port->vm = g_strdup(vm);
    port->nic = g_strdup("net0");
    port->instance = g_strdup(vm ? "test" : NULL);
    if (vm) {
        port->mac = (Mac){{2, 0, 0, 0, 0, n}};
        g_assert_true(guard_add(port->guard, &ip, NULL));
    }
    g_assert_true(port_begin(port, NULL));
    return (FakePort *)port;
}

/* An IPv4 frame of UDP without a checksum from station `from` to station `to` (0: all),
 * sent at a port. */
static inline void fake_say(FakePort *at, uint8_t from, uint8_t to, int vlan)
{
    uint8_t room[FRAME_ROOM + 64] = {0};
    uint8_t *data = room + FRAME_ROOM, *ip;
    Frame f = {.data = data, .len = vlan < 0 ? 46 : 50};

    memcpy(data,
           to ? (uint8_t[]){2, 0, 0, 0, 0, to}
              : (uint8_t[]){255, 255, 255, 255, 255, 255},
           6);
    memcpy(data + 6, (uint8_t[]){2, 0, 0, 0, 0, from}, 6);
    if (vlan >= 0) {
        memcpy(data + 12,
               (uint8_t[]){0x81, 0, (uint8_t)(vlan >> 8 | 0x60), (uint8_t)vlan}, 4);
        data += 4;
    }
    data[12] = 8;
    ip = data + 14;
    memcpy(ip, (uint8_t[]){0x45, 0, 0,  32, 0, 1,    0,  0, 64, 17,
                           0,    0, 10, 5,  0, from, 10, 5, 0,  to ? to : 255},
           20);
    memcpy(ip + 20, (uint8_t[]){0, 9, 0, 9, 0, 12, 0, 0, 'h', 'i', from, to}, 12);
    switch_turn(at->port.sw);
    switch_receive(&at->port, &f);
    switch_flush(at->port.sw);
}
