/* DNS between guests and upstream servers, both hostile.  Checked is that what is
 * answered is a message that its asker could have been meant to get, of no more than it
 * takes, and that names for rules come from answers to questions that were asked.
 *
 * Input: records of a byte that says whose turn it is, a length of two bytes, and what is
 * said: 0 a guest's datagram, 1 an upstream server's answer over UDP, 2 a message on its
 * own, 3 a guest's segment of TCP: its port, flags, and how far its numbers are off, two
 * bytes each, then data.  An answer's id and question are made right where the byte has
 * its upper bit. */
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "packet/build.h"
#include "src/switch/dns.h"
#include "src/switch/dns_forward.h"
#include "src/switch/dns_message.h"
#include "src/switch/gateway_private.h"
#include "util/fd.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static Switch sw;
static NetworkConfig config = {.mode = NETWORK_NAT, .dns = true};
static Port port = {.sw = &sw, .id = 1};
static Gateway gateway = {.sw = &sw, .mac = {{2, 0, 0, 0, 0, 1}}};
static const Mac vm_mac = {{2, 0, 0, 0, 0, 7}};
static Names *names;
static Dns *dns;
static int upstream_fd;
static size_t limit; /* of the next answer to the guest */
static bool turning;
static uint32_t peer_seq, peer_ack; /* the guest's numbers, as TCP would have them next */

static void check(bool promise)
{
    if (!promise)
        abort();
}

const Mac *gateway_mac(const Gateway *gw)
{
    return &gw->mac;
}

bool gateway_is(const Gateway *gw, const Ip *ip)
{
    return ip_equal(ip, &sw.subnets.gateway4);
}

const char *gateway_vm_of(Gateway *gw, const Ip *ip)
{
    return ip->b[15] & 1 ? "web" : NULL;
}

bool gateway_address_of(Gateway *gw, const char *vm, bool v6, Ip *ret)
{
    *ret = v6 ? sw.subnets.gateway6 : sw.subnets.gateway4;
    return !strcmp(vm, "web");
}

void switch_send(Switch *s, Frame *f)
{
    DnsMessage m;
    Packet p;

    check(packet_parse(f->data, f->len, &p));
    check(mac_equal(&p.dst, &vm_mac) && p.from_port == DNS_PORT);
    if (p.proto == IPPROTO_TCP) {
        check(packet_tcp_sum_ok(&p, f->data));
        peer_seq = p.tcp_ack;
        peer_ack = p.tcp_seq + (p.end - p.payload) +
                   !!(p.tcp_flags & (PACKET_TCP_SYN | PACKET_TCP_FIN));
        return;
    }
    check(p.proto == IPPROTO_UDP);
    check(p.end - p.payload <= DNS_MAX_UDP && p.end - p.payload >= DNS_HEADER);
    check(!limit || p.end - p.payload <= limit);
    dns_parse(f->data + p.payload, p.end - p.payload, &m);
    check(m.flags & DNS_QR);
}

void switch_flush(Switch *s)
{
}

/* ---- turns
 * ----------------------------------------------------------------------------- */

static bool quit_when_idle(void *opaque)
{
    if (!turning)
        ioloop_quit(sw.loop);
    turning = false;
    return true;
}

/* What is there to be done is done. */
static void turn(void)
{
    IoPoller poller = {.fn = quit_when_idle};

    turning = true;
    ioloop_poller_add(sw.loop, &poller);
    ioloop_run(sw.loop);
    ioloop_poller_remove(sw.loop, &poller);
}

static void guest_says(const uint8_t *data, size_t size)
{
    Builder b = {0};
    Ip from = ip_from_v4(0x0a050007);
    Frame f = {0};
    DnsMessage q;

    build_ip(&b, &gateway.mac, &vm_mac, &from, &sw.subnets.gateway4, IPPROTO_UDP, 0);
    build_udp(&b, 4242, DNS_PORT);
    build_bytes(&b, data, size);
    if (!build_end(&b))
        return;
    f.data = b.data;
    f.len = b.len;
    check(packet_parse(f.data, f.len, &f.p));
    sw.now_ns = clock_ns();
    dns_port_removed(dns, &port); /* it has a rate, which is not the point here */
    limit = dns_parse(data, size, &q) ? dns_size_of(&q) : DNS_MAX_UDP;
    check(dns_input(dns, &port, &f));
    limit = 0;
}

static void guest_sends_segment(const uint8_t *data, size_t size)
{
    Builder b = {0};
    Ip from = ip_from_v4(0x0a050007);
    Frame f = {0};

    if (size < 6)
        return;
    build_ip(&b, &gateway.mac, &vm_mac, &from, &sw.subnets.gateway4, IPPROTO_TCP, 0);
    build_tcp(&b, (uint16_t)(4000 + data[0] % 3), DNS_PORT,
              peer_seq + (uint32_t)(int16_t)(data[2] << 8 | data[3]),
              peer_ack + (uint32_t)(int16_t)(data[4] << 8 | data[5]), data[1] & 0x1f,
              (uint16_t)(data[0] << 6), (uint16_t)(data[0] >> 4));
    build_bytes(&b, data + 6, size - 6);
    if (!build_end(&b))
        return;
    f.data = b.data;
    f.len = b.len;
    check(packet_parse(f.data, f.len, &f.p));
    sw.now_ns = clock_ns();
    check(dns_input(dns, &port, &f));
}

static void upstream_says(uint8_t *data, size_t size, bool right)
{
    struct sockaddr_in who;
    socklen_t n = sizeof(who);
    uint8_t query[1500];
    ssize_t len = recvfrom(upstream_fd, query, sizeof(query), MSG_DONTWAIT,
                           (struct sockaddr *)&who, &n);

    if (len < 0)
        return;
    check((size_t)len <= DNS_MAX_QUERY);
    if (right && size > DNS_HEADER) {
        uint8_t *whole = g_malloc((size_t)len + size);
        DnsMessage q;

        check(dns_parse(query, (size_t)len, &q));
        memcpy(whole, data, DNS_HEADER);
        memcpy(whole, query, 2);
        whole[2] |= 0x80;
        whole[2] &= 0x87;
        whole[4] = 0;
        whole[5] = 1;
        memcpy(whole + DNS_HEADER, query + DNS_HEADER, q.question_end - DNS_HEADER);
        memcpy(whole + q.question_end, data + DNS_HEADER, size - DNS_HEADER);
        sendto(upstream_fd, whole, q.question_end + size - DNS_HEADER, 0,
               (struct sockaddr *)&who, n);
        g_free(whole);
    } else {
        sendto(upstream_fd, data, size, 0, (struct sockaddr *)&who, n);
    }
    turn();
}

static void count_address(void *opaque, const Ip *ip, uint32_t ttl)
{
    check(ttl <= INT32_MAX);
    (*(unsigned *)opaque)++;
}

/* In memory of its own, whose end is guarded. */
static void message_alone(const uint8_t *data, size_t size)
{
    uint8_t *copy = g_memdup2(data, size);
    uint8_t made[DNS_MAX_QUERY];
    unsigned n = 0;
    DnsMessage m, again;
    DnsReply r;

    if (dns_parse(copy, size, &m)) {
        check(strlen(m.name) < DNS_NAME_TEXT);
        dns_each_address(&m, count_address, &n);
        check(n <= DNS_MAX_RECORDS);
        check(dns_make_query(&m, 7, made) <= sizeof(made));
        check(dns_parse(made, dns_make_query(&m, 7, made), &again));
        check(!strcmp(m.name, again.name) && m.type == again.type);
        dns_reply_begin(&r, &m, DNS_OK, true);
        dns_reply_address(&r, &sw.subnets.gateway4, 1);
        dns_reply_pointer(&r, m.name, 1);
        dns_reply_soa(&r, "lan.internal", 1, false);
        dns_reply_end(&r);
        check(r.len <= dns_size_of(&m) && dns_parse(r.bytes, r.len, &again));
    }
    g_free(copy);
}

/* ---- the fuzzer
 * ------------------------------------------------------------------------- */

static void prepare(void)
{
    static char *servers[] = {NULL, NULL};
    struct sockaddr_in sa = {.sin_family = AF_INET};
    socklen_t n = sizeof(sa);

    sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    upstream_fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    check(bind(upstream_fd, (struct sockaddr *)&sa, sizeof(sa)) == 0);
    check(getsockname(upstream_fd, (struct sockaddr *)&sa, &n) == 0);
    servers[0] = g_strdup_printf("127.0.0.1:%u", ntohs(sa.sin_port));
    config.upstream = servers;
    sw.name = "lan";
    sw.config = &config;
    sw.loop = ioloop_new(NULL);
    ip_prefix_parse("10.5.0.0/24", &sw.subnets.v4, NULL);
    ip_parse("10.5.0.1", &sw.subnets.gateway4, NULL);
    ip_prefix_parse("fd00:5::/64", &sw.subnets.v6, NULL);
    ip_parse("fd00:5::1", &sw.subnets.gateway6, NULL);
    sw.port[1] = &port;
    sw.n_ports = 2;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t rest[1500];

    if (!sw.loop)
        prepare();
    peer_seq = peer_ack = 0;
    names = names_new();
    dns = dns_new(&sw, &gateway, names, NULL);
    check(dns);
    while (size >= 3) {
        size_t len = MIN((size_t)(data[1] << 8 | data[2]), size - 3);
        g_autofree uint8_t *said = g_memdup2(data + 3, len);

        switch (data[0] % 4) {
        case 0:
            guest_says(said, len);
            break;
        case 1:
            upstream_says(said, len, data[0] & 0x80);
            break;
        case 3:
            guest_sends_segment(said, len);
            break;
        default:
            message_alone(said, len);
            break;
        }
        data += 3 + len;
        size -= 3 + len;
    }
    json_decref(names_json(names, clock_ns()));
    dns_free(dns);
    names_free(names);
    while (recv(upstream_fd, rest, sizeof(rest), MSG_DONTWAIT) >= 0)
        ;
    return 0;
}
