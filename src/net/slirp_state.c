/* User networking in a saved state.
 *
 * What libslirp saves by itself (slirp_state_save) is its IP identification and the
 * leases of its DHCP server, and connections only to guestfwd services, which we offer
 * none of. It is 131 bytes that its loader would take at their word, lengths of buffers
 * included. So the loader never sees bytes of a file: they are taken apart here into
 * fields, and put together again from fields that were checked, as its version 4 has
 * them.
 *
 * A connection's host side is a socket of the process that ends: it is not saved.  The
 * guest's side is noted (slirp_flows.c), so that a restored guest is told at once. */
#include <string.h>

#include "backend/state_tables.h"
#include "src/net/netdev_private.h"
#include "src/net/slirp_private.h"
#include "util/bits.h"

enum {
    FORMAT = 4, /* slirp_state_version(); newer ones take it, too */
    NO_SOCKETS_AT = 0,
    IP_ID_AT = 1,
    LEASES_AT = 3,
    LEASE_SIZE = 8, /* 16 bits: taken or not; the MAC */
    BLOB_SIZE = LEASES_AT + SLIRP_LEASES * LEASE_SIZE,
};

typedef struct Blob {
    uint8_t data[BLOB_SIZE];
    size_t at; /* may pass the end: what is beyond is not kept */
} Blob;

static ssize_t on_write(const void *buf, size_t len, void *opaque)
{
    Blob *b = opaque;

    if (range_within(b->at, len, sizeof(b->data)))
        memcpy(b->data + b->at, buf, len);
    b->at += len;
    return (ssize_t)len;
}

static ssize_t on_read(void *buf, size_t len, void *opaque)
{
    Blob *b = opaque;
    size_t n = MIN(len, sizeof(b->data) - b->at);

    memset(buf, 0, len);
    memcpy(buf, b->data + b->at, n);
    b->at += n;
    return (ssize_t)len;
}

/* Of a libslirp that writes something else we keep nothing: DHCP then hands out its
 * addresses anew, in the same order. */
void slirp_state_get(Slirp *slirp, UserState *ret)
{
    Blob b = {.at = 0};

    slirp_state_save(slirp, on_write, &b);
    if (b.at != sizeof(b.data) || b.data[NO_SOCKETS_AT])
        return;
    ret->ip_id = (uint16_t)(b.data[IP_ID_AT] << 8 | b.data[IP_ID_AT + 1]);
    for (unsigned i = 0; i < SLIRP_LEASES; i++) {
        const uint8_t *lease = b.data + LEASES_AT + i * LEASE_SIZE;

        ret->lease[i].taken = lease[0] || lease[1];
        memcpy(ret->lease[i].mac, lease + 2, sizeof(ret->lease[i].mac));
    }
}

void slirp_state_put(Slirp *slirp, const UserState *s)
{
    Blob b = {.data = {[IP_ID_AT] = s->ip_id >> 8, [IP_ID_AT + 1] = s->ip_id & 0xff}};

    for (unsigned i = 0; i < SLIRP_LEASES; i++) {
        uint8_t *lease = b.data + LEASES_AT + i * LEASE_SIZE;

        lease[1] = s->lease[i].taken;
        memcpy(lease + 2, s->lease[i].mac, sizeof(s->lease[i].mac));
    }
    slirp_state_load(slirp, FORMAT, on_read, &b);
}

/* ---- the section --------------------------------------------------------------- */

static const StateField lease_fields[] = {
    STATE_RAW(SlirpLease, mac, 1),
    STATE_FIELD(SlirpLease, taken, 2, BOOL),
    {},
};

static const StateTable lease_table = {
    .name = "dhcp-lease",
    .version = 1,
    .size = sizeof(SlirpLease),
    .fields = lease_fields,
};

static const StateField flow_fields[] = {
    STATE_RAW(SlirpFlow, guest, 1, .help = "address; IPv4: the first four bytes"),
    STATE_RAW(SlirpFlow, peer, 2),
    STATE_FIELD(SlirpFlow, seq, 3, U32, .help = "the guest's next byte"),
    STATE_FIELD(SlirpFlow, ack, 4, U32, .help = "the next that it awaits"),
    STATE_FIELD(SlirpFlow, guest_port, 5, U16),
    STATE_FIELD(SlirpFlow, peer_port, 6, U16),
    STATE_FIELD(SlirpFlow, used, 7, BOOL),
    STATE_FIELD(SlirpFlow, ipv6, 8, BOOL),
    STATE_FIELD(SlirpFlow, guest_fin, 9, BOOL),
    STATE_FIELD(SlirpFlow, peer_fin, 10, BOOL),
    {},
};

static const StateTable flow_table = {
    .name = "tcp-connection",
    .version = 1,
    .size = sizeof(SlirpFlow),
    .fields = flow_fields,
};

static const StateField fields[] = {
    STATE_FIELD(UserState, ip_id, 1, U16, .help = "of the next IPv4 packet"),
    STATE_ARRAY(UserState, lease, 2, &lease_table, .help = "from 10.0.2.15 on"),
    STATE_RAW(UserState, guest_mac, 3, .help = "as the guest's frames have it"),
    STATE_LIST(UserState, flow, n_flows, 4, &flow_table,
               .help = "that the guest has, and that a restore resets"),
    {},
};

const StateTable netdev_user_state_table = {
    .name = "user-net",
    .version = 1,
    .size = sizeof(UserState),
    .fields = fields,
};
