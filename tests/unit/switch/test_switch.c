/* The way of a frame through a switch, with ports that the test plays. */
#include "fake_port.h"

#include "backend/netdev.h"
#include "packet/build.h"
#include "src/switch/rules.h"
#include "util/bits.h"

static void a_frame_goes_to_its_station_and_nobody_else(void)
{
    Switch *sw = fake_switch();
    FakePort *a = fake_port(sw, "a", 2), *b = fake_port(sw, "b", 3),
             *c = fake_port(sw, "c", 4);

    fake_say(a, 2, 3, -1);
    g_assert_cmpuint(b->n, ==, 1);
    g_assert_cmpuint(b->len[0], ==, 46);
    g_assert_cmpuint(b->data[0][5], ==, 3);
    g_assert_cmpuint(b->data[0][11], ==, 2);
    g_assert_cmpuint(b->flushes, ==, 1);
    g_assert_cmpuint(a->n + c->n, ==, 0);
    g_assert_cmpuint(b->port.count[TO_VM].frames, ==, 1);
    g_assert_cmpuint(b->port.count[TO_VM].bytes, ==, 46);
    g_assert_cmpuint(a->port.count[FROM_VM].frames, ==, 1);
    switch_free(sw);
}

static void a_broadcast_goes_to_all_but_its_sender(void)
{
    Switch *sw = fake_switch();
    FakePort *a = fake_port(sw, "a", 2), *b = fake_port(sw, "b", 3),
             *c = fake_port(sw, NULL, 0);

    fake_say(a, 2, 0, -1);
    g_assert_cmpuint(a->n, ==, 0);
    g_assert_cmpuint(b->n, ==, 1);
    g_assert_cmpuint(c->n, ==, 1);
    switch_free(sw);
}

static void what_nobody_knows_goes_where_others_may_be(void)
{
    Switch *sw = fake_switch();
    FakePort *a = fake_port(sw, "a", 2), *b = fake_port(sw, "b", 3),
             *s = fake_port(sw, NULL, 0);

    fake_say(a, 2, 9, -1);
    g_assert_cmpuint(b->n, ==, 0); /* it can only be b itself there */
    g_assert_cmpuint(s->n, ==, 1);
    s->port.trusted = true; /* stations 9 and 10 are behind it */
    fake_say(s, 9, 2, -1);
    fake_say(s, 10, 2, -1);
    g_assert_cmpuint(a->n, ==, 2);
    fake_say(a, 2, 10, -1);
    g_assert_cmpuint(s->n, ==, 2);
    fake_say(s, 9, 10, -1); /* both are on its side */
    g_assert_cmpuint(s->n, ==, 2);
    switch_free(sw);
}

static void what_is_not_heard_of_is_forgotten(void)
{
    Switch *sw = fake_switch();
    FakePort *a = fake_port(sw, "a", 2), *s = fake_port(sw, NULL, 0),
             *t = fake_port(sw, NULL, 0);

    s->port.trusted = t->port.trusted = true;
    fake_say(s, 9, 2, -1);
    fake_say(a, 2, 9, -1);
    g_assert_cmpuint(s->n, ==, 1);
    g_assert_cmpuint(t->n, ==, 0);
    g_assert_cmpuint(fdb_count(sw), ==, 2);
    sw->config->ageing_s = 0;
    sw->now_ns += 2000000000;
    g_assert_cmpuint(fdb_count(sw), ==, 1); /* a is pinned */
    g_assert_null(fdb_find(sw, &(Mac){{2, 0, 0, 0, 0, 9}}, 0));
    g_assert_true(fdb_find(sw, &(Mac){{2, 0, 0, 0, 0, 2}}, 0) == &a->port);
    switch_free(sw);
}

static void a_station_moves_but_not_one_that_is_pinned(void)
{
    Switch *sw = fake_switch();
    FakePort *a = fake_port(sw, "a", 2), *s = fake_port(sw, NULL, 0),
             *t = fake_port(sw, NULL, 0);

    s->port.trusted = t->port.trusted = true;
    fake_say(s, 9, 2, -1);
    fake_say(t, 9, 2, -1);
    fake_say(a, 2, 9, -1);
    g_assert_cmpuint(s->n, ==, 0);
    g_assert_cmpuint(t->n, ==, 1);
    fake_say(s, 2, 9, -1); /* in a's name */
    g_assert_true(fdb_find(sw, &a->port.mac, 0) == &a->port);
    port_free(&t->port);
    g_assert_null(fdb_find(sw, &(Mac){{2, 0, 0, 0, 0, 9}}, 0));
    switch_free(sw);
}

/* A flood of addresses costs the one who sends it, and nobody else. */
static void a_flood_of_addresses_drives_out_nobody(void)
{
    Switch *sw = fake_switch();
    FakePort *a = fake_port(sw, "a", 2), *s = fake_port(sw, NULL, 0),
             *t = fake_port(sw, NULL, 0);
    const Mac quiet = {{2, 0, 0, 0, 0, 9}};

    fdb_learn(sw, &t->port, &quiet, 0);
    for (unsigned i = 0; i < 50000; i++)
        fdb_learn(sw, &s->port,
                  &(Mac){{4, 0, 0, (uint8_t)(i >> 16), (uint8_t)(i >> 8), (uint8_t)i}},
                  0);
    g_assert_cmpuint(s->port.learned, ==, FDB_MAX_LEARNED);
    g_assert_true(fdb_find(sw, &quiet, 0) == &t->port);
    g_assert_true(fdb_find(sw, &a->port.mac, 0) == &a->port);
    g_assert_true(fdb_find(sw, &(Mac){{4, 0, 0, 0, 49999 >> 8, 49999 & 255}}, 0) ==
                  &s->port);
    g_assert_cmpuint(fdb_count(sw), ==, FDB_MAX_LEARNED + 2);
    for (unsigned k = 0; k < 20; k++) { /* and many of them fill the table, and no more */
        FakePort *p = fake_port(sw, NULL, 0);

        for (unsigned i = 0; i < FDB_MAX_LEARNED; i++)
            fdb_learn(sw, &p->port,
                      &(Mac){{6, 0, 0, (uint8_t)k, (uint8_t)(i >> 8), (uint8_t)i}}, 0);
    }
    g_assert_cmpuint(fdb_count(sw), ==, FDB_MAX);
    g_assert_true(fdb_find(sw, &quiet, 0) == &t->port);
    port_free(&s->port);
    g_assert_cmpuint(fdb_count(sw), ==, FDB_MAX - FDB_MAX_LEARNED);
    switch_free(sw);
}

/* ---- VLANs ------------------------------------------------------------------------- */

static void set_trunk(FakePort *p, uint16_t vlan)
{
    if (!p->port.trunk)
        p->port.trunk = g_malloc0(512);
    p->port.trunk[vlan / 8] |= (uint8_t)(1 << vlan % 8);
}

static void vlans_are_networks_apart(void)
{
    Switch *sw = fake_switch();
    FakePort *a = fake_port(sw, "a", 2), *b = fake_port(sw, "b", 3),
             *c = fake_port(sw, "c", 4), *t = fake_port(sw, "t", 5);

    port_set_vlan(&a->port, 10);
    port_set_vlan(&b->port, 10);
    port_set_vlan(&c->port, 20);
    set_trunk(t, 10);
    fake_say(a, 2, 0, -1);
    g_assert_cmpuint(b->n, ==, 1);
    g_assert_cmpuint(c->n, ==, 0);
    g_assert_cmpuint(t->n, ==, 1);
    g_assert_cmpuint(t->len[0], ==, 50);
    g_assert_cmpmem(t->data[0] + 12, 4, ((uint8_t[]){0x81, 0, 0, 10}), 4);
    g_assert_cmpuint(t->data[0][16], ==, 8);
    g_assert_cmpuint(b->len[0], ==, 46);
    fake_say(a, 2, 4, -1); /* known, but in another VLAN */
    g_assert_cmpuint(c->n, ==, 0);
    fake_say(t, 5, 3, 10);
    g_assert_cmpuint(b->n, ==, 2);
    g_assert_cmpuint(b->len[1], ==, 46);
    fake_say(t, 5, 4, 20); /* not one of its own */
    fake_say(t, 5, 0, 20);
    g_assert_cmpuint(c->n, ==, 0);
    g_assert_cmpuint(t->port.count[FROM_VM].dropped, ==, 2);
    fake_say(b, 3, 2, 10); /* an access port takes no tags */
    g_assert_cmpuint(a->n, ==, 0);
    fake_say(b, 3, 2, 0); /* but a priority is none */
    g_assert_cmpuint(a->n, ==, 1);
    g_assert_cmpuint(a->len[0], ==, 46);
    switch_free(sw);
}

/* ---- limits ------------------------------------------------------------------------ */

static void a_storm_is_cut_off_and_other_frames_are_not(void)
{
    Switch *sw = fake_switch();
    FakePort *a = fake_port(sw, "a", 2), *b = fake_port(sw, "b", 3),
             *c = fake_port(sw, "c", 4);
    const int64_t begun_ns = clock_ns();
    unsigned passed;

    sw->config->storm = 50;
    for (unsigned i = 0; i < 200; i++)
        fake_say(a, 2, 0, -1);
    passed = b->n; /* under load, some time goes by meanwhile */
    g_assert_cmpuint(passed, >=, 50);
    g_assert_cmpuint(passed, <=, 51 + (clock_ns() - begun_ns) * 50 / 1000000000);
    g_assert_cmpuint(a->port.count[FROM_VM].limited, ==, 200 - passed);
    fake_say(a, 2, 3, -1);
    fake_say(c, 4, 0, -1);
    g_assert_cmpuint(b->n, ==, passed + 2);
    a->port.storm_ns -= 100000000; /* a tenth of a second later */
    for (unsigned i = 0; i < 200; i++)
        fake_say(a, 2, 0, -1);
    passed = b->n - passed - 2;
    g_assert_cmpuint(passed, >=, 5);
    g_assert_cmpuint(passed, <=, 6 + (clock_ns() - begun_ns) * 50 / 1000000000);
    switch_free(sw);
}

static void a_wire_that_is_cut_carries_nothing(void)
{
    Switch *sw = fake_switch();
    FakePort *a = fake_port(sw, "a", 2), *b = fake_port(sw, "b", 3);

    port_set_link(&b->port, false);
    fake_say(a, 2, 3, -1);
    fake_say(b, 3, 2, -1);
    g_assert_cmpuint(a->n + b->n, ==, 0);
    port_set_link(&b->port, true);
    fake_say(a, 2, 3, -1);
    g_assert_cmpuint(b->n, ==, 1);
    port_set_plugged(&a->port, false);
    fake_say(a, 2, 3, -1);
    g_assert_cmpuint(b->n, ==, 1);
    switch_free(sw);
}

static void a_vm_that_moved_is_announced(void)
{
    Switch *sw = fake_switch();
    FakePort *a = fake_port(sw, "a", 2), *s = fake_port(sw, NULL, 0);

    switch_turn(sw);
    port_announce(&a->port);
    g_assert_cmpuint(s->n, ==, 1);
    g_assert_cmpuint(s->len[0], ==, 60);
    g_assert_cmpmem(s->data[0] + 6, 6, &a->port.mac, 6);
    g_assert_cmpmem(s->data[0] + 12, 2, ((uint8_t[]){0x80, 0x35}), 2);
    switch_free(sw);
}

/* ---- a port that is full ----------------------------------------------------------- */

static void a_full_port_holds_who_sends_to_it_for_a_moment(void)
{
    Switch *sw = fake_switch();
    FakePort *a = fake_port(sw, "a", 2), *b = fake_port(sw, "b", 3),
             *c = fake_port(sw, "c", 4);

    b->is_full = true;
    fake_say(a, 2, 3, -1);
    g_assert_true(a->port.waits_for == &b->port);
    fake_say(c, 4, 2, -1); /* others go on */
    g_assert_null(c->port.waits_for);
    fake_say(c, 4, 0, -1); /* and what is for all holds nobody */
    g_assert_null(c->port.waits_for);
    b->is_full = false;
    hold_room(&b->port);
    g_assert_null(a->port.waits_for);
    g_assert_cmpuint(a->resumed, ==, 1);
    fake_say(a, 2, 3, -1);
    g_assert_null(a->port.waits_for);
    switch_free(sw);
}

static void quit(void *opaque)
{
    ioloop_quit(((Switch *)opaque)->loop);
}

static void a_port_that_stands_still_holds_each_once(void)
{
    Switch *sw = fake_switch();
    FakePort *a = fake_port(sw, "a", 2), *b = fake_port(sw, "b", 3),
             *c = fake_port(sw, "c", 4);
    IoTimer timer = {0};
    int64_t begun_ns;

    b->refuses = true;
    fake_say(a, 2, 3, -1);
    g_assert_cmpuint(b->port.count[TO_VM].dropped, ==, 1);
    g_assert_true(a->port.waits_for == &b->port);
    begun_ns = clock_ns();
    ioloop_timer(sw->loop, &timer, begun_ns + 4 * HOLD_NS, quit, sw);
    ioloop_run(sw->loop);
    g_assert_null(a->port.waits_for);
    g_assert_cmpuint(a->resumed, ==, 1);
    fake_say(a, 2, 3, -1);
    fake_say(c, 4, 3, -1);
    g_assert_null(a->port.waits_for);
    g_assert_null(c->port.waits_for);
    b->refuses = false;
    hold_room(&b->port);
    b->is_full = true;
    b->port.count[TO_VM].bytes += HOLD_BYTES; /* it has taken some since */
    fake_say(a, 2, 3, -1);
    g_assert_true(a->port.waits_for == &b->port);
    port_free(&b->port); /* nobody waits for who is gone */
    g_assert_null(a->port.waits_for);
    g_assert_cmpuint(a->resumed, ==, 2);
    switch_free(sw);
}

/* b takes one frame whenever the others have waited for nearly as long as they do. */
static void a_port_that_takes_a_frame_at_a_time_is_soon_not_waited_for(void)
{
    Switch *sw = fake_switch();
    FakePort *a = fake_port(sw, "a", 2), *b = fake_port(sw, "b", 3);
    unsigned held = 0;

    b->is_full = true;
    for (unsigned i = 0; i < 100; i++) {
        fake_say(a, 2, 3, -1);
        held += a->port.waits_for != NULL;
        sw->now_ns += HOLD_NS * 9 / 10;
        hold_room(&b->port);
    }
    g_assert_cmpuint(held, ==, 2);
    b->port.count[TO_VM].bytes += HOLD_BYTES;
    fake_say(a, 2, 3, -1);
    g_assert_true(a->port.waits_for == &b->port);
    switch_free(sw);
}

/* ---- offloads ---------------------------------------------------------------------- */

/* A TCP segment of `len` bytes from a to b that is still to be cut and summed up, or, as
 * the header says, so many bytes of datagrams. */
static void say_big(FakePort *a, size_t len, VnetHdr hdr)
{
    g_autofree uint8_t *room = g_malloc0(FRAME_ROOM + PACKET_MAX);
    uint8_t *data = room + FRAME_ROOM, *ip = data + 14, *tcp = ip + 20;
    const bool udp = hdr.gso_type == VNET_GSO_UDP_L4;
    const size_t total = (udp ? 28 : 40) + len;
    Frame f = {.hdr = hdr, .data = data, .len = 14 + total};

    memcpy(data, (uint8_t[]){2, 0, 0, 0, 0, 3, 2, 0, 0, 0, 0, 2, 8, 0}, 14);
    memcpy(ip,
           (uint8_t[]){0x45,
                       0,
                       (uint8_t)(total >> 8),
                       (uint8_t)total,
                       0,
                       1,
                       0x40,
                       0,
                       64,
                       udp ? 17 : 6,
                       0,
                       0,
                       10,
                       5,
                       0,
                       2,
                       10,
                       5,
                       0,
                       3},
           20);
    memcpy(tcp, (uint8_t[]){0, 80, 4,    0,    0,  0, 0, 1, 0, 0,
                            0, 1,  0x50, 0x10, 16, 0, 0, 0, 0, 0},
           20);
    if (udp)
        store_be16(tcp + 4, len + 8);
    switch_turn(a->port.sw);
    switch_receive(&a->port, &f);
}

static const VnetHdr big = {.flags = VNET_NEEDS_CSUM,
                            .gso_type = VNET_GSO_TCPV4,
                            .hdr_len = 54,
                            .gso_size = 1400,
                            .csum_start = 34,
                            .csum_offset = 16};

static void who_cannot_cut_gets_frames_and_who_can_gets_the_whole(void)
{
    Switch *sw = fake_switch();
    FakePort *a = fake_port(sw, "a", 2), *b = fake_port(sw, "b", 3);

    say_big(a, 5000, big);
    g_assert_cmpuint(b->n, ==, 4);
    g_assert_cmpuint(b->len[0], ==, 54 + 1400);
    g_assert_cmpuint(b->len[3], ==, 54 + 800);
    g_assert_cmpuint(b->data[3][41], ==, (1 + 3 * 1400) & 255); /* its sequence number */
    b->port.offloads = NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4;
    say_big(a, 5000, big);
    g_assert_cmpuint(b->n, ==, 5);
    g_assert_cmpuint(b->len[4], ==, 5054);
    g_assert_cmpuint(b->hdr.gso_size, ==, 1400);
    set_trunk(b, 7); /* with a tag its offsets move */
    set_trunk(a, 7);
    switch_free(sw);
}

static const VnetHdr datagrams = {.flags = VNET_NEEDS_CSUM,
                                  .gso_type = VNET_GSO_UDP_L4,
                                  .hdr_len = 42,
                                  .gso_size = 1400,
                                  .csum_start = 34,
                                  .csum_offset = 6};

static void datagrams_are_cut_for_who_has_not_uso(void)
{
    Switch *sw = fake_switch();
    FakePort *a = fake_port(sw, "a", 2), *b = fake_port(sw, "b", 3);

    b->port.offloads = NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4 | NET_OFFLOAD_USO6;
    say_big(a, 5000, datagrams);
    g_assert_cmpuint(b->n, ==, 4);
    for (unsigned i = 0; i < 4; i++) {
        g_assert_cmpuint(b->len[i], ==, 42 + (i < 3 ? 1400 : 800));
        g_assert_cmpuint(load_be16(b->data[i] + 16), ==, b->len[i] - 14);
        g_assert_cmpuint(load_be16(b->data[i] + 38), ==, b->len[i] - 34);
    }
    b->port.offloads |= NET_OFFLOAD_USO4;
    say_big(a, 5000, datagrams);
    g_assert_cmpuint(b->n, ==, 5);
    g_assert_cmpuint(b->len[4], ==, 5042);
    g_assert_cmpuint(b->hdr.gso_type, ==, VNET_GSO_UDP_L4);
    switch_free(sw);
}

static void headers_that_lie_are_dropped(void)
{
    static const VnetHdr lies[] = {
        {.flags = VNET_NEEDS_CSUM, .csum_start = 60000, .csum_offset = 16},
        {.flags = VNET_NEEDS_CSUM, .csum_start = 34, .csum_offset = 65535},
        {.gso_type = VNET_GSO_TCPV4,
         .gso_size = 0,
         .flags = VNET_NEEDS_CSUM,
         .csum_start = 34,
         .csum_offset = 16},
        {.gso_type = VNET_GSO_TCPV6,
         .gso_size = 1400,
         .flags = VNET_NEEDS_CSUM,
         .csum_start = 34,
         .csum_offset = 16},
        {.gso_type = VNET_GSO_UDP_L4 | VNET_GSO_ECN,
         .gso_size = 1400,
         .flags = VNET_NEEDS_CSUM,
         .csum_start = 34,
         .csum_offset = 6},
        {.gso_type = 77, .gso_size = 1400},
    };
    Switch *sw = fake_switch();
    FakePort *a = fake_port(sw, "a", 2), *b = fake_port(sw, "b", 3);

    for (unsigned i = 0; i < G_N_ELEMENTS(lies); i++)
        say_big(a, 1000, lies[i]);
    say_big(a, 5000, (VnetHdr){0}); /* longer than the network's MTU, and not to be cut */
    g_assert_cmpuint(b->n, ==, 0);
    g_assert_cmpuint(a->port.count[FROM_VM].dropped, ==, G_N_ELEMENTS(lies) + 1);
    say_big(a, 1000, (VnetHdr){0});
    g_assert_cmpuint(b->n, ==, 1);
    switch_free(sw);
}

/* UDP from a to b whose header asks for a checksum over what is from `start` on, to be
 * written at `offset` from there: such that it will be `value`. */
static void say_summed(FakePort *a, uint16_t start, uint16_t offset, uint16_t value)
{
    uint8_t room[FRAME_ROOM + 46] = {0}, *data = room + FRAME_ROOM;
    VnetHdr hdr = {.flags = VNET_NEEDS_CSUM, .csum_start = start, .csum_offset = offset};
    Frame f = {.hdr = hdr, .data = data, .len = 46};
    uint32_t sum;
    uint16_t rest, wanted = (uint16_t) ~(value >> 8 | value << 8);

    memcpy(data, (uint8_t[]){2,    0, 0,  0,  0, 3, 2, 0, 0,  0,  0, 2,  8,  0,
                             0x45, 0, 0,  32, 0, 1, 0, 0, 64, 17, 0, 0,  10, 5,
                             0,    2, 10, 5,  0, 3, 0, 9, 0,  9,  0, 12, 0,  0},
           42);
    rest = (uint16_t)~checksum_end(checksum_add(0, data + start, 46 - start));
    sum = (uint32_t)wanted + (uint16_t)~rest;
    sum = (sum & 0xffff) + (sum >> 16);
    memcpy(data + 44, &(uint16_t){(uint16_t)sum}, 2);
    switch_turn(a->port.sw);
    switch_receive(&a->port, &f);
}

/* Who fills in a checksum after guard and rules have looked writes what they have not
 * seen: over the sender's address, and over a port. */
static void a_checksum_is_not_written_over_what_was_judged(void)
{
    Switch *sw = fake_switch();
    FakePort *a = fake_port(sw, "a", 2), *b = fake_port(sw, "b", 3);
    const char *rules = "default in allow\ndefault out allow\ndeny in udp port 22\n";

    sw->rules = firewall_parse(rules, "test", NULL);
    g_assert_nonnull(sw->rules);
    rules_world_changed(sw);
    say_summed(a, 14, 14, 3); /* in the name of b */
    g_assert_cmpuint(b->n, ==, 0);
    g_assert_cmpuint(a->port.count[FROM_VM].spoofed, ==, 1);
    say_summed(a, 34, 2, 22);
    g_assert_cmpuint(b->n, ==, 0);
    g_assert_cmpuint(b->port.count[TO_VM].denied, ==, 1);
    say_summed(a, 34, 2, 23); /* an odd wish, but it harms nobody */
    g_assert_cmpuint(b->n, ==, 1);
    g_assert_cmpuint(b->data[0][37], ==, 23);
    say_summed(a, 34, 6, 0x1234);
    g_assert_cmpuint(b->n, ==, 2);
    g_assert_cmpuint(b->data[1][40] << 8 | b->data[1][41], ==, 0x1234);
    b->port.offloads = NET_OFFLOAD_CSUM; /* UDP's own is left to who can do it */
    say_summed(a, 34, 6, 0x1234);
    g_assert_cmpuint(b->hdr.flags, ==, VNET_NEEDS_CSUM);
    say_summed(a, 34, 2, 23);
    g_assert_cmpuint(b->hdr.flags, ==, 0);
    switch_free(sw);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/switch/unicast", a_frame_goes_to_its_station_and_nobody_else);
    g_test_add_func("/switch/broadcast", a_broadcast_goes_to_all_but_its_sender);
    g_test_add_func("/switch/unknown", what_nobody_knows_goes_where_others_may_be);
    g_test_add_func("/switch/ageing", what_is_not_heard_of_is_forgotten);
    g_test_add_func("/switch/moves", a_station_moves_but_not_one_that_is_pinned);
    g_test_add_func("/switch/flood of addresses", a_flood_of_addresses_drives_out_nobody);
    g_test_add_func("/switch/vlans", vlans_are_networks_apart);
    g_test_add_func("/switch/storm", a_storm_is_cut_off_and_other_frames_are_not);
    g_test_add_func("/switch/link", a_wire_that_is_cut_carries_nothing);
    g_test_add_func("/switch/announce", a_vm_that_moved_is_announced);
    g_test_add_func("/switch/full", a_full_port_holds_who_sends_to_it_for_a_moment);
    g_test_add_func("/switch/stalled", a_port_that_stands_still_holds_each_once);
    g_test_add_func("/switch/slow",
                    a_port_that_takes_a_frame_at_a_time_is_soon_not_waited_for);
    g_test_add_func("/switch/offloads",
                    who_cannot_cut_gets_frames_and_who_can_gets_the_whole);
    g_test_add_func("/switch/datagrams", datagrams_are_cut_for_who_has_not_uso);
    g_test_add_func("/switch/headers", headers_that_lie_are_dropped);
    g_test_add_func("/switch/checksums", a_checksum_is_not_written_over_what_was_judged);
    return g_test_run();
}
