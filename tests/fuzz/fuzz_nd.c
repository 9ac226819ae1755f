/* ARP, neighbour discovery, router solicitations and echoes by hostile guests, through
 * the guard; packets that wait for who is asked for.  Checked is that answers go to who
 * asked, that nobody has another's address or the gateway's, and that nobody but a
 * trusted port moves an address of the gateway's table away from who has it; see
 * fuzz_gateway.h.
 *
 * Kinds: 0 ARP's body; 1 and 2 ICMPv6 from an own address, and from none; 3 ICMP; 4 a
 * frame as it is, but for its source; 5 a packet for a host; 6 a corrupt frame of 4, as
 * an impaired wire makes; 7 time goes by. */
#include "tests/fuzz/fuzz_gateway.h"

#include "src/switch/gateway_private.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void ip_packet(Port *port, unsigned kind, const uint8_t *bytes, size_t len)
{
    Ip from = kind == 2 ? (Ip){{0}} : ip_link_local_of(&port->mac), to = {{0xfe, 0x80}};
    Builder b;

    if (len < 4)
        return;
    if (kind == 3) {
        from = net_ip("10.5.0.2");
        to = ip_from_v4_bytes(bytes);
    } else {
        memcpy(to.b,
               (bytes[0] & 1 ? net_ip("ff02::1:ff00:1") : net.sw.subnets.gateway6).b, 16);
    }
    build_ip(&b, bytes[1] & 1 ? &net_broadcast : gateway_mac(net.sw.gateway), &port->mac,
             &from, &to, kind == 3 ? IPPROTO_ICMP : IPPROTO_ICMPV6,
             bytes[1] & 2 ? 64 : 255);
    build_bytes(&b, bytes + 4, len - 4);
    if (len - 4 >= 8)
        net_input(port, &b);
}

static void frame(Port *port, bool own, const uint8_t *bytes, size_t len)
{
    Builder b;

    if (len < ETH_HEADER)
        return;
    build_eth(&b, (const Mac *)bytes, own ? &port->mac : (const Mac *)(bytes + 6),
              (uint16_t)(bytes[12] << 8 | bytes[13]));
    build_bytes(&b, bytes + ETH_HEADER, len - ETH_HEADER);
    net_input(port, &b);
}

static void arp(Port *port, const uint8_t *bytes, size_t len)
{
    Builder b;

    build_eth(&b, &net_broadcast, &port->mac, ETHER_ARP);
    build_bytes(&b, bytes, len);
    net_input(port, &b);
}

static void to_host(const uint8_t *bytes, size_t len)
{
    uint8_t room[FRAME_ROOM + ETH_HEADER + FUZZ_BYTES] = {0};
    Frame f = {.data = room + FRAME_ROOM, .len = ETH_HEADER + len};

    if (len < 20)
        return;
    memcpy(f.data + ETH_HEADER, bytes, len);
    f.data[12] = bytes[0] >> 4 == 6 ? 0x86 : 8;
    f.data[13] = bytes[0] >> 4 == 6 ? 0xdd : 0;
    if (packet_parse(f.data, f.len, &f.p) && !f.p.malformed)
        gateway_to_host(net.sw.gateway, &f);
}

/* By hand db's alone: the trusted port may say that it is elsewhere, others may not. */
static void check_table(bool trusted_spoke)
{
    Ip ip = net_ip("10.5.0.2");
    Mac mac;

    if (!trusted_spoke && neighbour_find(net.sw.gateway, &ip, &mac))
        fuzz_check(mac_equal(&mac, &fuzz_port[1]->mac));
    fuzz_check(!neighbour_find(net.sw.gateway, &net.sw.subnets.gateway4, &mac));
    fuzz_check(!neighbour_find(net.sw.gateway, &net.sw.subnets.gateway6, &mac));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    bool trusted_spoke = false;
    unsigned port, kind;
    const uint8_t *bytes;
    size_t len;

    fuzz_begin("isolated,subnet=10.5.0.0/24,subnet6=fd00:5::/64,dhcp=off");
    while (fuzz_next(&data, &size, &port, &kind, &bytes, &len)) {
        trusted_spoke |= fuzz_port[port]->trusted;
        if (kind == 0)
            arp(fuzz_port[port], bytes, len);
        else if (kind <= 3)
            ip_packet(fuzz_port[port], kind, bytes, len);
        else if (kind == 4 || kind == 6)
            frame(fuzz_port[port], kind == 4, bytes, len);
        else if (kind == 5)
            to_host(bytes, len);
        else
            net.sw.now_ns += 1000000000ll << (len % 16);
        fuzz_check_sent(fuzz_port[port]);
        fuzz_check_addresses();
        check_table(trusted_spoke);
    }
    return 0;
}
