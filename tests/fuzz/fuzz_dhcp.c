/* DHCP for both families, asked by hostile guests: messages in any order, of any bytes.
 * Checked is that answers go to who asked, that no port has what another has, and that
 * the table of leases keeps its bounds; see fuzz_gateway.h.
 *
 * Kinds: 0 to 2 an IPv4 client's message, from 0.0.0.0, to all from ciaddr, to the server
 * from ciaddr; 3 and 4 an IPv6 client's; 5 the port is unplugged and comes again; 6 the
 * switch is restarted; 7 time goes by. */
#include "tests/fuzz/fuzz_gateway.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void dhcp4(Port *port, unsigned kind, const uint8_t *bytes, size_t len)
{
    Ip from = ip_from_v4(0), to = kind == 2 ? net.sw.subnets.gateway4 : ip_from_v4(~0u);
    Builder b;

    if (kind && len >= 16)
        from = ip_from_v4_bytes(bytes + 12);
    build_ip(&b, kind == 2 ? gateway_mac(net.sw.gateway) : &net_broadcast, &port->mac,
             &from, &to, IPPROTO_UDP, 0);
    build_udp(&b, 68, 67);
    build_bytes(&b, bytes, len);
    net_input(port, &b);
    for (unsigned i = 0; i < MIN(net.n_sent, NET_SENT_MAX); i++)
        fuzz_check(net.sent[i].p.to_port == 68 &&
                   net.sent[i].p.end - net.sent[i].p.payload >= 300);
}

static void dhcp6(Port *port, const uint8_t *bytes, size_t len)
{
    static const Mac servers = {{0x33, 0x33, 0, 1, 0, 2}};
    Ip from = ip_link_local_of(&port->mac), to = net_ip("ff02::1:2");
    Builder b;

    build_ip(&b, &servers, &port->mac, &from, &to, IPPROTO_UDP, 1);
    build_udp(&b, 546, 547);
    build_bytes(&b, bytes, len);
    net_input(port, &b);
    for (unsigned i = 0; i < MIN(net.n_sent, NET_SENT_MAX); i++)
        fuzz_check(net.sent[i].p.to_port == 546);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    unsigned port, kind;
    const uint8_t *bytes;
    size_t len;

    fuzz_begin("isolated,subnet=10.5.0.0/29,subnet6=fd00:5::/64,lease=db=fd00:5::77");
    while (fuzz_next(&data, &size, &port, &kind, &bytes, &len)) {
        if (kind <= 2)
            dhcp4(fuzz_port[port], kind, bytes, len);
        else if (kind <= 4)
            dhcp6(fuzz_port[port], bytes, len);
        else if (kind == 5)
            fuzz_plug(port);
        else if (kind == 7)
            net.sw.now_ns += 1000000000ll << (len % 16);
        if (kind == 6) {
            net_restart();
            memset(fuzz_port, 0, sizeof(fuzz_port));
            for (unsigned i = 0; i < FUZZ_PORTS; i++)
                fuzz_plug(i);
        }
        fuzz_check_sent(fuzz_port[port]);
        fuzz_check_addresses();
    }
    return 0;
}
