/* The bytes of DHCPv4 (dhcp_message.h): RFC 2131, 2 and 4.1; RFC 2132; search lists RFC
 * 3397; routes RFC 3442; the client's identifier in answers RFC 6842. */
#include "src/switch/dhcp_message.h"

#include "src/switch/leases.h"
#include "src/switch/outside.h"
#include "util/bits.h"

enum {
    BOOT_REQUEST = 1,
    ETHERNET = 1,
    AT_XID = 4,
    AT_FLAGS = 10,
    AT_CIADDR = 12,
    AT_GIADDR = 24,
    AT_CHADDR = 28,
    AT_SNAME = 44,
    SNAME_LEN = 64,
    AT_FILE = 108,
    FILE_LEN = 128,
    AT_COOKIE = 236,
    AT_OPTIONS = 240,
    OVERLOAD_FILE = 1,
    OVERLOAD_SNAME = 2,
    MAX_ROUTES = 27, /* of nine bytes each, with the default's five */
    MIN_SIZE = 576,  /* every client takes so much: RFC 2132, 9.10 */
};

typedef enum {
    OPT_PAD = 0,
    OPT_MASK = 1,
    OPT_ROUTER = 3,
    OPT_DNS = 6,
    OPT_HOST_NAME = 12,
    OPT_DOMAIN = 15,
    OPT_MTU = 26,
    OPT_BROADCAST = 28,
    OPT_REQUESTED = 50,
    OPT_LEASE_TIME = 51,
    OPT_OVERLOAD = 52,
    OPT_TYPE = 53,
    OPT_SERVER = 54,
    OPT_WANTED = 55,
    OPT_MAX_SIZE = 57,
    OPT_RENEW = 58,
    OPT_REBIND = 59,
    OPT_CLIENT_ID = 61,
    OPT_SEARCH = 119,
    OPT_ROUTES = 121,
    OPT_END = 255,
} Option;

/* ---- reading --------------------------------------------------------------------------
 */

static void note_option(DhcpMessage *m, uint8_t code, const uint8_t *at, size_t len,
                        uint8_t *overload)
{
    if (code == OPT_TYPE && len == 1)
        m->type = at[0];
    else if (code == OPT_SERVER && len == 4)
        m->server = ip_from_v4_bytes(at);
    else if (code == OPT_REQUESTED && len == 4)
        m->requested = ip_from_v4_bytes(at);
    else if (code == OPT_OVERLOAD && len == 1)
        *overload = at[0];
    else if (code == OPT_MAX_SIZE && len == 2)
        m->max_size = MAX(load_be16(at), MIN_SIZE);
    else if (code == OPT_WANTED) {
        m->wanted = at;
        m->n_wanted = len;
    } else if (code == OPT_CLIENT_ID && len >= 2) {
        m->client_id = at;
        m->client_id_len = len;
    }
}

/* False: an option is longer than what is there. */
static bool parse_options(DhcpMessage *m, const uint8_t *at, size_t len,
                          uint8_t *overload)
{
    while (len && at[0] != OPT_END) {
        size_t size = 1;

        if (at[0] != OPT_PAD) {
            if (len < 2 || (size = at[1] + 2u) > len)
                return false;
            note_option(m, at[0], at + 2, at[1], overload);
        }
        at += size;
        len -= size;
    }
    return true;
}

bool dhcp_parse(const uint8_t *bytes, size_t len, DhcpMessage *ret)
{
    static const uint8_t cookie[] = {99, 130, 83, 99}, direct[4];
    DhcpMessage m = {.max_size = MIN_SIZE};
    uint8_t overload = 0, ignored;

    if (len < AT_OPTIONS || bytes[0] != BOOT_REQUEST || bytes[1] != ETHERNET ||
        bytes[2] != sizeof(m.chaddr.b) ||
        memcmp(bytes + AT_COOKIE, cookie, sizeof(cookie)) ||
        memcmp(bytes + AT_GIADDR, direct, sizeof(direct)))
        return false;
    m.xid = bytes + AT_XID;
    m.flags = load_be16(bytes + AT_FLAGS);
    m.ciaddr = ip_from_v4_bytes(bytes + AT_CIADDR);
    memcpy(m.chaddr.b, bytes + AT_CHADDR, sizeof(m.chaddr.b));
    if (mac_is_group(&m.chaddr) || mac_is_zero(&m.chaddr) ||
        !parse_options(&m, bytes + AT_OPTIONS, len - AT_OPTIONS, &overload) ||
        ((overload & OVERLOAD_FILE) &&
         !parse_options(&m, bytes + AT_FILE, FILE_LEN, &ignored)) ||
        ((overload & OVERLOAD_SNAME) &&
         !parse_options(&m, bytes + AT_SNAME, SNAME_LEN, &ignored)) ||
        !m.type)
        return false;
    *ret = m;
    return true;
}

/* ---- writing --------------------------------------------------------------------------
 */

/* What an option's value is made of. */
typedef struct Answer {
    const Gateway *gw;
    const NetworkConfig *config;
    const Port *port;
    const DhcpMessage *m;
    uint8_t type;
} Answer;

static void put_mask(const Answer *a, Builder *v)
{
    build_u32(v, ~0u << (128 - a->gw->subnets.v4.bits));
}

static void put_gateway(const Answer *a, Builder *v)
{
    build_u32(v, ip_to_v4(&a->gw->subnets.gateway4));
}

static void put_router(const Answer *a, Builder *v)
{
    if (a->config->mode != NETWORK_ISOLATED)
        put_gateway(a, v);
}

static void put_route(const Answer *a, Builder *v, const IpPrefix *to, unsigned bits)
{
    uint32_t ip = ip_to_v4(&to->ip);

    build_u8(v, (uint8_t)bits);
    for (unsigned at = 0; at < bits; at += 8)
        build_u8(v, (uint8_t)(ip >> (24 - at)));
    put_gateway(a, v);
}

/* Networks that routes lead to: who is on several networks knows whose gateway leads
 * there.  Clients that take this option take no notice of OPT_ROUTER, so that the default
 * route is here, too; what finds no room goes that way. */
static void put_routes(const Answer *a, Builder *v)
{
    IpPrefix to[MAX_ROUTES], all = {.bits = 0};
    unsigned n = outside_routes(a->gw, false, to, MAX_ROUTES);

    if (!n)
        return;
    for (unsigned i = 0; i < n; i++)
        put_route(a, v, &to[i], to[i].bits - 96u);
    put_route(a, v, &all, 0);
}

static void put_dns(const Answer *a, Builder *v)
{
    if (a->config->dns)
        put_gateway(a, v);
}

/* A VM's name may be none of a host (RFC 1123, 2.1). */
static void put_host_name(const Answer *a, Builder *v)
{
    const char *vm = a->port->vm;

    if (vm && strlen(vm) <= 63 && g_ascii_isalnum(vm[0]) &&
        !vm[strspn(vm,
                   "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-")])
        build_bytes(v, vm, strlen(vm));
}

static void put_domain(const Answer *a, Builder *v)
{
    g_autofree char *domain = network_domain(a->gw->sw->name, a->config);

    build_bytes(v, domain, strlen(domain));
}

static void put_search(const Answer *a, Builder *v)
{
    build_domain_labels(v, a->gw);
}

static void put_mtu(const Answer *a, Builder *v)
{
    build_u16(v, (uint16_t)a->config->mtu);
}

static void put_broadcast(const Answer *a, Builder *v)
{
    Ip last = ip_prefix_last(&a->gw->subnets.v4);

    build_u32(v, ip_to_v4(&last));
}

/* Of a lease's time; an answer to INFORM has none (RFC 2131, 3.4). */
static void put_time(const Answer *a, Builder *v, uint32_t seconds)
{
    if (a->m->type != DHCP_INFORM)
        build_u32(v, seconds);
}

static void put_lease_time(const Answer *a, Builder *v)
{
    put_time(a, v, LEASE_S);
}

static void put_renew(const Answer *a, Builder *v)
{
    put_time(a, v, LEASE_S / 2);
}

static void put_rebind(const Answer *a, Builder *v)
{
    put_time(a, v, LEASE_S / 8 * 7);
}

static void put_client_id(const Answer *a, Builder *v)
{
    build_bytes(v, a->m->client_id, a->m->client_id_len);
}

/* An option of which nothing was put is left out. */
static const struct {
    uint8_t code;
    bool always; /* whether it was asked for or not */
    void (*put)(const Answer *a, Builder *value);
} options[] = {
    {OPT_LEASE_TIME, true, put_lease_time},
    {OPT_CLIENT_ID, true, put_client_id},
    {OPT_MASK, true, put_mask},
    {OPT_RENEW, true, put_renew},
    {OPT_REBIND, true, put_rebind},
    {OPT_ROUTER, true, put_router},
    {OPT_DNS, true, put_dns},
    {OPT_MTU, true, put_mtu},
    {OPT_DOMAIN, true, put_domain},
    {OPT_HOST_NAME, false, put_host_name},
    {OPT_BROADCAST, false, put_broadcast},
    {OPT_SEARCH, false, put_search},
    {OPT_ROUTES, false, put_routes},
};

/* Not if it would be longer than what the client, or the network, takes. */
static void put_option(const Answer *a, unsigned i, Builder *b)
{
    size_t max = MIN(a->m->max_size, a->config->mtu);
    Builder value;

    value.len = 0;
    value.full = false;
    options[i].put(a, &value);
    if (!value.len || value.len > UINT8_MAX ||
        b->len - ETH_HEADER + 2 + value.len + 1 > max)
        return;
    build_u8(b, options[i].code);
    build_u8(b, (uint8_t)value.len);
    build_bytes(b, value.data, value.len);
}

static int option_by_code(uint8_t code)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(options); i++)
        if (options[i].code == code)
            return (int)i;
    return -1;
}

void dhcp_options(const Gateway *gw, const Port *port, const DhcpMessage *m, uint8_t type,
                  Builder *b)
{
    Answer a = {gw, gw->sw->config, port, m, type};
    bool done[G_N_ELEMENTS(options)] = {false};

    build_u8(b, OPT_TYPE);
    build_u8(b, 1);
    build_u8(b, type);
    build_u8(b, OPT_SERVER);
    build_u8(b, 4);
    put_gateway(&a, b);
    if (type == DHCP_NAK) {
        put_option(&a, (unsigned)option_by_code(OPT_CLIENT_ID), b);
        build_u8(b, OPT_END);
        return;
    }
    for (size_t n = 0; n < m->n_wanted; n++) {
        int i = option_by_code(m->wanted[n]);

        if (i >= 0 && !done[i]) {
            done[i] = true;
            put_option(&a, (unsigned)i, b);
        }
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(options); i++)
        if (options[i].always && !done[i])
            put_option(&a, i, b);
    build_u8(b, OPT_END);
}
