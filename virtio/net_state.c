/* A network card's saved state (main thread, in a pause; see virtio/virtio.h).
 *
 * The address is configuration.  One that was given now is the card's; one that was made
 * up gives way to the one of the state, which the guest knows it by: it may be made of a
 * VM's name that is another now.
 *
 * Which flows were sent from which queue is not saved: they are sent again. */
#include <string.h>

#include "state_private.h"
#include "util/bits.h"
#include "virtio/devices.h"
#include "virtio/net_private.h"
#include "virtio/state.h"

typedef struct NetState {
    uint64_t mac, own_mac;
    uint32_t offloads;
    uint32_t hash_types, table_len, key_len;
    uint16_t status, pairs, unclassified;
    uint16_t table[NET_TABLE_MAX];
    uint8_t key[NET_KEY_MAX];
} NetState;

static const StateField state_fields[] = {
    STATE_FIELD(NetState, mac, 1, U64, .max = BIT64(48) - 1,
                .help = "address in use, first byte lowest"),
    STATE_FIELD(NetState, own_mac, 2, U64, .max = BIT64(48) - 1,
                .help = "address after a reset"),
    STATE_FIELD(NetState, offloads, 3, U32, .max = NET_OFFLOADS,
                .help = "what the driver takes"),
    STATE_FIELD(NetState, status, 4, U16, .max = NET_S_LINK_UP | NET_S_ANNOUNCE),
    STATE_FIELD(NetState, pairs, 5, U16, .max = NET_MAX_PAIRS, .since = 2,
                .help = "of queues, in use without RSS; 0: one"),
    STATE_FIELD(NetState, hash_types, 6, U32, .max = NET_HASHES, .since = 2),
    STATE_FIELD(NetState, unclassified, 7, U16, .max = NET_MAX_PAIRS - 1, .since = 2,
                .help = "pair of frames without a hash"),
    STATE_INTS(NetState, table, 8, U16, .max = NET_MAX_PAIRS - 1, .since = 2,
               .used = STATE_USED_AT(NetState, table_len), .help = "pairs, by hash"),
    STATE_INTS(NetState, key, 9, U8, .since = 2, .used = STATE_USED_AT(NetState, key_len),
               .help = "of the hash"),
    STATE_HOLE_AT_END(NetState, key),
    {},
};

const StateTable virtio_net_state_table = {
    .name = "net",
    .version = 2,
    .size = sizeof(NetState),
    .fields = state_fields,
};

static void save_on_loop(VirtioDevice *v, StateWriter *w)
{
    char name[64];

    netdev_save(net_of(v)->nd, virtio_section(v, "user", name), w);
}

static bool load_on_loop(VirtioDevice *v, StateReader *r, GError **error)
{
    Net *n = net_of(v);
    uint8_t mac[6];
    char name[64];

    store_le(mac, n->own_mac, sizeof(mac));
    if (n->wire_mac != n->own_mac && !netdev_readdress(n->nd, mac, error))
        return false;
    n->wire_mac = n->own_mac;
    return netdev_load(n->nd, virtio_section(v, "user", name), r, error);
}

void net_save(VirtioDevice *v, StateWriter *w)
{
    Net *n = net_of(v);
    const NetSteering *steering = &n->steering;
    NetState s = {
        .mac = __atomic_load_n(&n->mac, __ATOMIC_RELAXED),
        .own_mac = n->own_mac,
        .offloads = n->offloads,
        .status = net_status_to_save(n),
        .pairs = steering->pairs,
        .hash_types = steering->hash_types,
        .unclassified = steering->unclassified,
        .table_len = steering->table_len,
        .key_len = steering->key_len,
    };
    char name[64];

    memcpy(s.table, steering->table, steering->table_len * sizeof(s.table[0]));
    memcpy(s.key, steering->key, steering->key_len);
    state_put(w, virtio_section(v, "net", name), &virtio_net_state_table, &s);
    virtio_save_on_loop(v, save_on_loop, w);
}

/* A driver that has begun uses the address that it knows, and frames for that one have to
 * come through until it is told (agent/identity.h), or is reset: a clone's card, which
 * was given another, has it from then on. */
static void load_mac(Net *n, const NetState *s)
{
    if (!n->mac_given)
        n->own_mac = s->own_mac;
    __atomic_store_n(&n->mac, s->mac, __ATOMIC_RELAXED);
}

/* One that was saved before there were several pairs, or before its driver began, tells
 * nothing. */
static bool load_steering(Net *n, const NetState *s, const char *section, GError **error)
{
    NetSteering steering = {
        .pairs = s->pairs,
        .hash_types = s->hash_types,
        .unclassified = s->unclassified,
        .table_len = (uint16_t)s->table_len,
        .key_len = (uint8_t)s->key_len,
    };

    if (!n->v.live || !s->pairs) {
        if (n->v.live)
            net_steering_reset(n);
        return true;
    }
    memcpy(steering.table, s->table, s->table_len * sizeof(s->table[0]));
    memcpy(steering.key, s->key, s->key_len);
    if (!net_steering_valid(n, &steering))
        return fail(error, VM_ERROR_CORRUPT,
                    "state, section '%s': frames are steered to queues as the driver "
                    "cannot have asked for",
                    section);
    net_steering_set(n, &steering);
    return true;
}

bool net_load(VirtioDevice *v, StateReader *r, GError **error)
{
    Net *n = net_of(v);
    NetState s;
    char name[64];

    if (!state_get(r, virtio_section(v, "net", name), &virtio_net_state_table, &s,
                   error) ||
        !load_steering(n, &s, name, error) || (n->is_remote && !net_vhost_load(n, error)))
        return false;
    load_mac(n, &s);
    n->offloads = s.offloads;
    net_status_load(n, s.status);
    net_rx_start(n);
    return virtio_load_on_loop(v, load_on_loop, r, error);
}
