/* Questions to the gateway (dns.h), over UDP and TCP.
 *
 * Own are the network's domain, names without a dot, the addresses of its subnets, and
 * the few domains that are never to leave a host's neighbourhood (RFC 6761, 6762, 7686).
 * A VM's name has the address that the VM has now or had when it last ran.
 *
 * An answer over UDP is never much bigger than what the asker can be sent anyway: 1,232
 * bytes, cut off at what it says it takes; who wants all of it asks again over TCP.  It
 * goes to the asker's MAC, whose addresses anti-spoofing has checked, so that nobody else
 * can be flooded with it; and a port has a rate. */
#include "src/switch/dns.h"

#include "packet/build.h"
#include "src/switch/dns_forward.h"
#include "src/switch/dns_message.h"
#include "src/switch/dns_tcp.h"
#include "src/switch/emit.h"
#include "src/switch/gateway_private.h"

enum {
    OWN_TTL_S = 30,
    NOTHING_TTL_S = 5, /* of what there is not: a VM may be about to start */
    RATE_PER_S = 200,
    BURST = 400,
    UDP_HEADER = 8,
    MAX_ADDRESSES = 32, /* of one answer, for rules */
};

#define NS_PER_S 1000000000ll

typedef struct Rate {
    int64_t empty_ns; /* when the bucket will have nothing in it */
} Rate;

struct Dns {
    Switch *sw;
    Gateway *gw;
    Names *names;
    DnsForward *forward;
    DnsTcp *tcp;
    char *domain; /* in lower case */
    Rate rate[SWITCH_MAX_PORTS];
};

static void answered(void *opaque, const DnsAsker *asker, const DnsMessage *query,
                     const DnsMessage *answer);
static bool asked_by_tcp(void *opaque, const DnsAsker *asker, const uint8_t *message,
                         size_t len);

Dns *dns_new(Switch *sw, Gateway *gw, Names *names, GError **error)
{
    Dns *d = g_new0(Dns, 1);

    d->sw = sw;
    d->gw = gw;
    d->names = names;
    d->forward = dns_forward_new(sw->loop, answered, d);
    d->tcp = dns_tcp_new(sw, gw, asked_by_tcp, d);
    if (!dns_reconfigure(d, error)) {
        dns_free(d);
        return NULL;
    }
    return d;
}

void dns_free(Dns *d)
{
    if (!d)
        return;
    dns_forward_free(d->forward);
    dns_tcp_free(d->tcp);
    g_free(d->domain);
    g_free(d);
}

bool dns_reconfigure(Dns *d, GError **error)
{
    if (!dns_forward_servers(d->forward, d->sw->config->upstream, error))
        return false;
    if (d->sw->config->mode == NETWORK_ISOLATED)
        dns_forward_stop(d->forward);
    g_free(d->domain);
    d->domain = network_domain(d->sw->name, d->sw->config);
    return true;
}

/* ---- the network's own names --------------------------------------------------------
 */

/* What stands before ".SUFFIX" in a name, its length; 0: it is SUFFIX itself; -1: it is
 * not below it. */
static ssize_t before_suffix(const char *name, const char *suffix)
{
    size_t len = strlen(name), tail = strlen(suffix);

    if (strcmp(name, suffix) == 0)
        return 0;
    return len > tail + 1 && name[len - tail - 1] == '.' &&
                   strcmp(name + len - tail, suffix) == 0
               ? (ssize_t)(len - tail - 1)
               : -1;
}

/* Names are in lower case here; a VM's may not be, and then its address's owner says how
 * it is written. */
static bool vm_address(Dns *d, const char *host, bool v6, Ip *ret)
{
    const NetworkSubnets *s = &d->sw->subnets;

    if (gateway_address_of(d->gw, host, v6, ret))
        return true;
    for (unsigned i = 0; i < d->sw->n_ports; i++) {
        const Port *p = d->sw->port[i];

        if (p && p->vm && g_ascii_strcasecmp(p->vm, host) == 0)
            return gateway_address_of(d->gw, p->vm, v6, ret);
    }
    if (strcmp(host, "gateway") != 0)
        return false;
    *ret = v6 ? s->gateway6 : s->gateway4;
    return v6 ? s->v6.bits : s->v4.bits;
}

static void add_address(Dns *d, const DnsMessage *q, unsigned port, const Ip *ip,
                        DnsReply *r)
{
    dns_reply_address(r, ip, OWN_TTL_S);
    names_add(d->names, port, q->name, ip, OWN_TTL_S, d->sw->now_ns);
}

/* RFC 2308, 2: with the SOA that says for how long that holds. */
static void answer_nothing(Dns *d, const DnsMessage *q, unsigned rcode, DnsReply *r)
{
    dns_reply_begin(r, q, rcode, true);
    dns_reply_soa(r, d->domain, NOTHING_TTL_S, false);
}

static void answer_host(Dns *d, const DnsMessage *q, const char *host, unsigned port,
                        DnsReply *r)
{
    Ip v4, v6;
    bool has4 = vm_address(d, host, false, &v4), has6 = vm_address(d, host, true, &v6);
    bool want4 = q->type == DNS_A || q->type == DNS_ANY;
    bool want6 = q->type == DNS_AAAA || q->type == DNS_ANY;

    if ((has4 && want4) || (has6 && want6)) {
        dns_reply_begin(r, q, DNS_OK, true);
        if (has4 && want4)
            add_address(d, q, port, &v4, r);
        if (has6 && want6)
            add_address(d, q, port, &v6, r);
    } else {
        answer_nothing(d, q, has4 || has6 ? DNS_OK : DNS_NXDOMAIN, r);
    }
}

static void answer_domain(Dns *d, const DnsMessage *q, DnsReply *r)
{
    if (q->type == DNS_SOA || q->type == DNS_ANY) {
        dns_reply_begin(r, q, DNS_OK, true);
        dns_reply_soa(r, d->domain, NOTHING_TTL_S, true);
    } else {
        answer_nothing(d, q, DNS_OK, r);
    }
}

static void answer_reverse(Dns *d, const DnsMessage *q, const Ip *ip, DnsReply *r)
{
    const NetworkSubnets *s = &d->sw->subnets;
    const char *vm = gateway_vm_of(d->gw, ip);
    g_autofree char *name = NULL;

    if (!vm && (ip_equal(ip, &s->gateway4) || ip_equal(ip, &s->gateway6)))
        vm = "gateway";
    if (!vm || (q->type != DNS_PTR && q->type != DNS_ANY)) {
        answer_nothing(d, q, vm ? DNS_OK : DNS_NXDOMAIN, r);
        return;
    }
    name = g_strdup_printf("%s.%s", vm, d->domain);
    dns_reply_begin(r, q, DNS_OK, true);
    dns_reply_pointer(r, name, OWN_TTL_S);
}

static bool is_ours(const NetworkSubnets *s, const Ip *ip)
{
    return (s->v4.bits && ip_within(ip, &s->v4)) || (s->v6.bits && ip_within(ip, &s->v6));
}

/* Those that end here: single-label names, but the root. */
static bool is_kept(const char *name)
{
    static const char *const kept[] = {"local", "localhost", "invalid", "onion"};

    if (*name && !strchr(name, '.'))
        return true;
    for (unsigned i = 0; i < G_N_ELEMENTS(kept); i++)
        if (before_suffix(name, kept[i]) >= 0)
            return true;
    return false;
}

bool dns_answer_own(Dns *d, const DnsMessage *q, unsigned port, DnsReply *r)
{
    ssize_t host = before_suffix(q->name, d->domain);
    char name[DNS_NAME_TEXT];
    Ip ip;

    if (host == 0) {
        answer_domain(d, q, r);
    } else if (host > 0 || is_kept(q->name)) {
        strcpy(name, q->name);
        if (host > 0)
            name[host] = 0;
        answer_host(d, q, name, port, r);
    } else if (dns_reverse_name(q->name, &ip) && is_ours(&d->sw->subnets, &ip)) {
        answer_reverse(d, q, &ip, r);
    } else {
        return false;
    }
    return true;
}

/* ---- answers to VMs ------------------------------------------------------------------
 */

static void send_to(Dns *d, const DnsAsker *to, const void *message, size_t len)
{
    Builder b = {0};

    if (to->stream) {
        dns_tcp_answer(d->tcp, to, message, len);
        return;
    }
    build_ip(&b, &to->mac, gateway_mac(d->gw), &to->server, &to->ip, IPPROTO_UDP, 0);
    build_udp(&b, DNS_PORT, to->ask_port);
    build_bytes(&b, message, len);
    emit(d->sw, &b, to->vlan);
}

static void send_reply(Dns *d, const DnsAsker *to, DnsReply *r)
{
    dns_reply_end(r);
    send_to(d, to, r->bytes, r->len);
}

static void send_error(Dns *d, const DnsAsker *to, const DnsMessage *q, unsigned rcode)
{
    DnsReply r;

    dns_reply_begin(&r, q, rcode, false);
    send_reply(d, to, &r);
}

typedef struct Learn {
    Dns *d;
    const DnsMessage *query;
    unsigned port, n;
} Learn;

/* Others cannot speak for this network's addresses, nor for those of one host alone. */
static void learn_address(void *opaque, const Ip *ip, uint32_t ttl)
{
    Learn *l = opaque;

    if (l->n++ >= MAX_ADDRESSES || is_ours(&l->d->sw->subnets, ip) ||
        ip_is_unspecified(ip) || ip_is_multicast(ip) || ip_is_link_local(ip))
        return;
    names_add(l->d->names, l->port, l->query->name, ip, ttl, l->d->sw->now_ns);
}

static void answered(void *opaque, const DnsAsker *asker, const DnsMessage *query,
                     const DnsMessage *answer)
{
    Dns *d = opaque;
    Learn learn = {.d = d, .query = query, .port = asker->port};
    static uint8_t bytes[UINT16_MAX];

    d->sw->now_ns = clock_ns();
    if (!answer || (asker->stream && answer->flags & DNS_TC)) {
        send_error(d, asker, query, DNS_SERVFAIL);
    } else {
        dns_each_address(answer, learn_address, &learn);
        if (!asker->stream && answer->len > dns_size_of(query)) {
            DnsReply r;

            dns_reply_begin(&r, query, answer->flags & DNS_RCODE, false);
            r.full = true;
            send_reply(d, asker, &r);
        } else {
            memcpy(bytes, answer->bytes, answer->len);
            memcpy(bytes, query->bytes, 2); /* the asker's id */
            send_to(d, asker, bytes, answer->len);
        }
    }
    switch_flush(d->sw);
}

/* ---- questions -----------------------------------------------------------------------
 */

static bool within_rate(Dns *d, unsigned port)
{
    const int64_t each_ns = NS_PER_S / RATE_PER_S;
    Rate *r = &d->rate[MIN(port, SWITCH_MAX_PORTS - 1)];
    int64_t now_ns = d->sw->now_ns;

    if (r->empty_ns > now_ns + (BURST - 1) * each_ns)
        return false;
    r->empty_ns = MAX(r->empty_ns, now_ns) + each_ns;
    return true;
}

static void handle(Dns *d, const DnsAsker *asker, const uint8_t *message, size_t len)
{
    DnsMessage q;
    DnsReply r;
    bool whole = dns_parse(message, len, &q);

    if (len < DNS_HEADER || (q.flags & DNS_QR)) /* an answer is never answered */
        return;
    q.whole = asker->stream;
    if (q.flags & DNS_OPCODE)
        send_error(d, asker, &q, DNS_NOTIMP);
    else if (!whole)
        send_error(d, asker, &q, DNS_FORMERR);
    else if (q.edns_version)
        send_error(d, asker, &q, DNS_BADVERS);
    else if (q.class_ != DNS_CLASS_IN)
        send_error(d, asker, &q, DNS_REFUSED);
    else if (dns_answer_own(d, &q, asker->port, &r))
        send_reply(d, asker, &r);
    else if (d->sw->config->mode == NETWORK_ISOLATED)
        send_error(d, asker, &q, DNS_REFUSED);
    else if (!dns_forward_ask(d->forward, &q, asker))
        send_error(d, asker, &q, DNS_SERVFAIL);
}

static bool asked_by_tcp(void *opaque, const DnsAsker *asker, const uint8_t *message,
                         size_t len)
{
    Dns *d = opaque;

    if (!within_rate(d, asker->port))
        return false;
    handle(d, asker, message, len);
    return true;
}

bool dns_input(Dns *d, Port *from, const Frame *f)
{
    const Packet *p = &f->p;
    DnsAsker asker = {.port = from->id,
                      .mac = p->src,
                      .ip = p->from,
                      .server = p->to,
                      .ask_port = p->from_port,
                      .vlan = f->vlan};
    size_t len;

    if ((p->proto != IPPROTO_UDP && p->proto != IPPROTO_TCP) || p->to_port != DNS_PORT ||
        !p->transport || !d->sw->config->dns || !gateway_is(d->gw, &p->to))
        return false;
    if (p->proto == IPPROTO_TCP) {
        dns_tcp_input(d->tcp, from, f);
        return true;
    }
    len = (size_t)(f->data[p->transport + 4] << 8 | f->data[p->transport + 5]);
    if (p->fragment || ip_is_multicast(&p->from) || ip_is_unspecified(&p->from) ||
        len < UDP_HEADER || len > p->end - p->transport || !within_rate(d, from->id))
        return true;
    handle(d, &asker, f->data + p->payload, len - UDP_HEADER);
    return true;
}

void dns_port_removed(Dns *d, Port *port)
{
    dns_forward_port_gone(d->forward, port->id);
    dns_tcp_port_removed(d->tcp, port);
    d->rate[MIN(port->id, SWITCH_MAX_PORTS - 1)] = (Rate){0};
}
