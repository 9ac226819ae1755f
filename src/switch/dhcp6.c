/* The DHCPv6 server of a network: RFC 8415, addresses (IA_NA) and what else hosts want to
 * know; DNS RFC 3646.  A port has one address, that of its lease; what more it asks for
 * it does not get.  Relays are not served, nor who sends to one server only (18.4). */
#include "src/switch/leases.h"

#include "util/bits.h"

enum {
    CLIENT_PORT = 546,
    SERVER_PORT = 547,
    SOLICIT = 1,
    ADVERTISE = 2,
    REQUEST = 3,
    CONFIRM = 4,
    RENEW = 5,
    REBIND = 6,
    REPLY = 7,
    RELEASE = 8,
    DECLINE = 9,
    INFORMATION = 11,
    OPT_CLIENT_ID = 1,
    OPT_SERVER_ID = 2,
    OPT_IA_NA = 3,
    OPT_IAADDR = 5,
    OPT_WANTED = 6,
    OPT_STATUS = 13,
    OPT_RAPID = 14,
    OPT_DNS = 23,
    OPT_SEARCH = 24,
    STATUS_OK = 0,
    STATUS_NO_ADDRESS = 2,
    STATUS_NO_BINDING = 3,
    STATUS_NOT_ON_LINK = 4,
    MESSAGE_HEADER = 4,
    OPTION_HEADER = 4,
    IA_HEADER = 12,
    IAADDR_MIN = 24,
    DUID_MAX = 130,
    DUID_LL = 3,
    DUID_LL_LEN = 10,
    ETHERNET = 1,
    IAS_MAX = 4,
};

static const Ip servers = {{0xff, 2, [13] = 1, 0, 2}};

typedef struct Ia {
    const uint8_t *iaid; /* 4 bytes */
    bool has_address;
    Ip address; /* the first */
} Ia;

typedef struct Message {
    uint8_t type;
    const uint8_t *xid; /* 3 bytes */
    const uint8_t *client_id, *server_id, *wanted;
    size_t client_id_len, server_id_len, wanted_len;
    bool rapid;
    unsigned n_ia;
    Ia ia[IAS_MAX];
} Message;

/* What a message may and must have (RFC 8415, 16). */
static const struct {
    bool known, client_id, server_id, no_server_id;
} rules[] = {
    [SOLICIT] = {true, true, .no_server_id = true},
    [REQUEST] = {true, true, true},
    [CONFIRM] = {true, true, .no_server_id = true},
    [RENEW] = {true, true, true},
    [REBIND] = {true, true, .no_server_id = true},
    [RELEASE] = {true, true, true},
    [DECLINE] = {true, true, true},
    [INFORMATION] = {true},
};

/* ---- reading --------------------------------------------------------------------------
 */

typedef bool (*OptionFn)(Message *m, uint16_t code, const uint8_t *at, size_t len);

static bool each_option(Message *m, const uint8_t *at, size_t len, OptionFn fn)
{
    while (len) {
        size_t size = len >= OPTION_HEADER ? load_be16(at + 2) + (size_t)OPTION_HEADER
                                           : 0;

        if (!size || size > len ||
            !fn(m, load_be16(at), at + OPTION_HEADER, size - OPTION_HEADER))
            return false;
        at += size;
        len -= size;
    }
    return true;
}

static bool ia_option(Message *m, uint16_t code, const uint8_t *at, size_t len)
{
    Ia *ia = &m->ia[m->n_ia - 1];

    if (code != OPT_IAADDR || ia->has_address)
        return true;
    if (len < IAADDR_MIN)
        return false;
    memcpy(ia->address.b, at, sizeof(ia->address.b));
    ia->has_address = true;
    return !ip_is_v4(&ia->address);
}

static bool option(Message *m, uint16_t code, const uint8_t *at, size_t len)
{
    switch (code) {
    case OPT_CLIENT_ID:
        m->client_id = at;
        m->client_id_len = len;
        return len > 2 && len <= DUID_MAX;
    case OPT_SERVER_ID:
        m->server_id = at;
        m->server_id_len = len;
        return true;
    case OPT_WANTED:
        m->wanted = at;
        m->wanted_len = len;
        return true;
    case OPT_RAPID:
        m->rapid = true;
        return true;
    case OPT_IA_NA:
        if (len < IA_HEADER)
            return false;
        if (m->n_ia == IAS_MAX)
            return true;
        m->ia[m->n_ia++] = (Ia){.iaid = at};
        return each_option(m, at + IA_HEADER, len - IA_HEADER, ia_option);
    default:
        return true;
    }
}

static void server_id(const Gateway *gw, uint8_t ret[DUID_LL_LEN])
{
    const uint8_t type[] = {0, DUID_LL, 0, ETHERNET};

    memcpy(ret, type, sizeof(type));
    memcpy(ret + sizeof(type), gw->mac.b, sizeof(gw->mac.b));
}

static bool parse(const Gateway *gw, const uint8_t *bytes, size_t len, Message *m)
{
    uint8_t ours[DUID_LL_LEN];

    *m = (Message){0};
    if (len < MESSAGE_HEADER || bytes[0] >= G_N_ELEMENTS(rules) || !rules[bytes[0]].known)
        return false;
    m->type = bytes[0];
    m->xid = bytes + 1;
    if (!each_option(m, bytes + MESSAGE_HEADER, len - MESSAGE_HEADER, option) ||
        (rules[m->type].client_id && !m->client_id) ||
        (rules[m->type].server_id && !m->server_id) ||
        (rules[m->type].no_server_id && m->server_id))
        return false;
    server_id(gw, ours);
    return !m->server_id || (m->server_id_len == sizeof(ours) &&
                             memcmp(m->server_id, ours, sizeof(ours)) == 0);
}

/* ---- writing --------------------------------------------------------------------------
 */

/* Returns where its value begins, for option_end(). */
static size_t option_begin(Builder *b, uint16_t code)
{
    build_u16(b, code);
    build_u16(b, 0);
    return b->len;
}

static void option_end(Builder *b, size_t at)
{
    size_t len = b->len - at;

    if (b->full)
        return;
    store_be16(b->data + at - 2, (uint16_t)len);
}

static void put_status(Builder *b, uint16_t status)
{
    size_t at = option_begin(b, OPT_STATUS);

    build_u16(b, status);
    option_end(b, at);
}

static void put_address(Builder *b, const Ip *ip, uint32_t seconds)
{
    size_t at = option_begin(b, OPT_IAADDR);

    build_bytes(b, ip->b, sizeof(ip->b));
    build_u32(b, seconds); /* preferred */
    build_u32(b, seconds); /* valid */
    option_end(b, at);
}

/* One IA of an answer: an address, that the one it has is over, or a status. */
static void put_ia(Builder *b, const Ia *ia, const Ip *ip, uint16_t status)
{
    size_t at = option_begin(b, OPT_IA_NA);

    build_bytes(b, ia->iaid, 4);
    build_u32(b, ip ? LEASE_S / 2 : 0);
    build_u32(b, ip ? LEASE_S / 5 * 4 : 0);
    if (ip && ia->has_address && !ip_equal(ip, &ia->address))
        put_address(b, &ia->address, 0);
    if (ip)
        put_address(b, ip, LEASE_S);
    else
        put_status(b, status);
    option_end(b, at);
}

static bool wants(const Message *m, uint16_t code)
{
    for (size_t i = 0; i + 2 <= m->wanted_len; i += 2)
        if (load_be16(m->wanted + i) == code)
            return true;
    return false;
}

static void put_what_is_wanted(const Gateway *gw, const Message *m, Builder *b)
{
    size_t at;

    if (gw->sw->config->dns && wants(m, OPT_DNS)) {
        at = option_begin(b, OPT_DNS);
        build_bytes(b, gw->subnets.gateway6.b, sizeof(gw->subnets.gateway6.b));
        option_end(b, at);
    }
    if (wants(m, OPT_SEARCH)) {
        at = option_begin(b, OPT_SEARCH);
        build_domain_labels(b, gw);
        option_end(b, at);
    }
}

static void begin(const Gateway *gw, const Frame *f, const Message *m, uint8_t type,
                  Builder *b)
{
    uint8_t id[DUID_LL_LEN];
    size_t at;

    build_ip(b, &f->p.src, &gw->mac, &gw->link_local, &f->p.from, IPPROTO_UDP, 0);
    build_udp(b, SERVER_PORT, CLIENT_PORT);
    build_u8(b, type);
    build_bytes(b, m->xid, 3);
    if (m->client_id) {
        at = option_begin(b, OPT_CLIENT_ID);
        build_bytes(b, m->client_id, m->client_id_len);
        option_end(b, at);
    }
    server_id(gw, id);
    at = option_begin(b, OPT_SERVER_ID);
    build_bytes(b, id, sizeof(id));
    option_end(b, at);
}

/* ---- what is asked --------------------------------------------------------------------
 */

/* The first IA has the port's address; `bind`: from now on. */
static void assign(Gateway *gw, Port *port, const Frame *f, const Message *m, bool bind,
                   Builder *b)
{
    for (unsigned i = 0; i < m->n_ia; i++) {
        const Ia *ia = &m->ia[i];
        bool ok;
        Ip ip;

        ok = i == 0 &&
             leases_offer(gw, port, &f->p.src, true,
                          ia->has_address ? &ia->address : NULL, &ip) &&
             (!bind || leases_bind(gw, port, &f->p.src, &ip));
        put_ia(b, ia, ok ? &ip : NULL, STATUS_NO_ADDRESS);
    }
}

static void solicit(Gateway *gw, Port *port, const Frame *f, const Message *m, Builder *b)
{
    begin(gw, f, m, m->rapid ? REPLY : ADVERTISE, b);
    if (m->rapid)
        option_end(b, option_begin(b, OPT_RAPID));
    assign(gw, port, f, m, m->rapid, b);
    put_what_is_wanted(gw, m, b);
}

/* Of what it has: it is to be forgotten, or is in use elsewhere. */
static void give_up(Gateway *gw, Port *port, const Frame *f, const Message *m, Builder *b)
{
    begin(gw, f, m, REPLY, b);
    put_status(b, STATUS_OK);
    for (unsigned i = 0; i < m->n_ia; i++) {
        const Ia *ia = &m->ia[i];

        if (!ia->has_address)
            continue;
        if (m->type == RELEASE)
            leases_release(gw, port, &f->p.src, &ia->address);
        else
            leases_decline(gw, port, &f->p.src, &ia->address);
        if (i > 0)
            put_ia(b, ia, NULL, STATUS_NO_BINDING);
    }
}

/* Whether its addresses are of this link (18.3.3); false: it has none to ask about. */
static bool confirm(Gateway *gw, const Frame *f, const Message *m, Builder *b)
{
    bool on_link = true, any = false;

    for (unsigned i = 0; i < m->n_ia; i++)
        if (m->ia[i].has_address) {
            any = true;
            on_link = on_link && ip_within(&m->ia[i].address, &gw->subnets.v6);
        }
    begin(gw, f, m, REPLY, b);
    put_status(b, on_link ? STATUS_OK : STATUS_NOT_ON_LINK);
    return any;
}

static bool answer(Gateway *gw, Port *port, const Frame *f, const Message *m, Builder *b)
{
    switch (m->type) {
    case SOLICIT:
        solicit(gw, port, f, m, b);
        return true;
    case CONFIRM:
        return confirm(gw, f, m, b);
    case RELEASE:
    case DECLINE:
        give_up(gw, port, f, m, b);
        return true;
    case INFORMATION:
        begin(gw, f, m, REPLY, b);
        put_what_is_wanted(gw, m, b);
        return m->n_ia == 0;
    default:
        begin(gw, f, m, REPLY, b);
        assign(gw, port, f, m, true, b);
        put_what_is_wanted(gw, m, b);
        return true;
    }
}

static bool input(Gateway *gw, Port *port, Frame *f)
{
    const Packet *p = &f->p;
    Message m;
    Builder b;

    if (!gw->sw->config->dhcp || !gw->subnets.v6.bits || p->kind != PACKET_IPV6 ||
        p->proto != IPPROTO_UDP || !p->transport || p->fragment ||
        p->to_port != SERVER_PORT || p->from_port != CLIENT_PORT ||
        !ip_equal(&p->to, &servers))
        return false;
    if (ip_is_link_local(&p->from) &&
        parse(gw, f->data + p->payload, p->end - p->payload, &m) &&
        answer(gw, port, f, &m, &b))
        gateway_send_to(gw, port, &b);
    return true;
}

const GatewayPart gateway_dhcp6 = {.name = "dhcp6", .input = input};
