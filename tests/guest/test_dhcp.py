#!/usr/bin/env python3
"""A network's addresses as real clients get them: dhclient and udhcpc, IPv6 by the kernel's own
autoconfiguration, pings between hosts; and what a host may not say of itself.  The hosts are network
namespaces whose taps are ports of a switch (netns.py)."""
import contextlib
import ipaddress
import os
import pathlib
import signal
import tempfile

import frames
import hutch
import netns
from hutch import check, equal

SWITCH = os.path.join(os.path.dirname(hutch.HUTCH), "hutch-switch")
NETWORK4, NETWORK6 = ipaddress.ip_network("10.5.0.0/24"), ipaddress.ip_network("fd00:5::/64")

# What a client learned, in a file for each reason, and its address on the interface.  The
# machine's own resolv.conf stays as it is.
SCRIPT = """#!/bin/sh
env > "$OUT/${reason:-$1}"
address=${new_ip_address:-$ip}
[ -z "$address" ] || ip address replace "$address/24" dev "$interface"
gateway=${new_routers:-$router}
[ -z "$gateway" ] || ip route replace default via "$gateway"
[ -z "$new_ip6_address" ] || ip -6 address replace "$new_ip6_address/128" dev "$interface"
exit 0
"""


@contextlib.contextmanager
def network(**config):
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        config = {"mode": "nat", "subnet6": "fd00:5::/64", **config}
        with frames.Switch(SWITCH, folder, **config) as switch:
            script = pathlib.Path(folder) / "script"
            script.write_text(SCRIPT)
            script.chmod(0o755)
            yield switch


def mac(number):
    return f"02:00:00:00:00:{number:02x}"


def port(switch, name, number):
    return frames.VmPort(switch.folder, vm=name, mac=mac(number))


def host(switch, name, number, **more):
    return netns.Host(port(switch, name, number), mac(number), **more)


def folder_of(switch, name):
    out = switch.root / name
    out.mkdir(exist_ok=True)
    return out


def learned(out, *reasons):
    """The environment of the script."""
    for reason in reasons:
        if (out / reason).exists():
            return dict(line.split("=", 1) for line in (out / reason).read_text().splitlines() if "=" in line)
    raise AssertionError(f"none of {reasons}: {os.listdir(out)}")


def dhclient(switch, one, name, *more):
    out = folder_of(switch, name)
    conf = out / "conf"
    conf.write_text("request subnet-mask, routers, domain-name-servers, host-name, domain-name, interface-mtu,\n"
                    " domain-search, dhcp6.name-servers, dhcp6.domain-search;\ntimeout 60;\n")
    one.run("dhclient", "-1", "-cf", str(conf), "-sf", str(switch.root / "script"), "-lf", str(out / "leases"),
            "-pf", str(out / "pid"), "-e", f"OUT={out}", *more, netns.INTERFACE)
    return out


def end_dhclient(out):
    """The one that went to the background keeps its process id in a file."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        # It has nothing to put in order, and would take a second for it.
        os.kill(int((out / "pid").read_text()), signal.SIGKILL)


def lease_of(switch, vm, version=4):
    found = [lease for lease in switch.call("query-leases")
             if lease.get("vm") == vm and ipaddress.ip_address(lease["address"]).version == version]
    return found[0] if found else None


# ---- IPv4 ------------------------------------------------------------------------------------------


def test_dhclient_gets_a_lease_and_reaches_the_gateway():
    with network(mtu=1400, domain="example.org") as switch, host(switch, "web", 7) as web:
        out = dhclient(switch, web, "web", "-4")
        try:
            got = learned(out, "BOUND")
            address, = web.addresses()
            equal(got["new_ip_address"], address, "the client's address")
            check(ipaddress.ip_address(address) in NETWORK4, f"{address} is of the network")
            equal(got["new_subnet_mask"], "255.255.255.0", "mask")
            equal(got["new_routers"], "10.5.0.1", "router")
            equal(got["new_domain_name_servers"], "10.5.0.1", "DNS")
            equal(got["new_domain_name"], "example.org", "domain")
            equal(got["new_domain_search"].rstrip("."), "example.org", "search list")
            equal(got["new_host_name"], "web", "host name")
            equal(got["new_interface_mtu"], "1400", "MTU")
            equal(lease_of(switch, "web")["address"], address, "query-leases")
            check(web.pings("10.5.0.1"), "the gateway answers")
        finally:
            end_dhclient(out)


def test_a_host_that_gave_its_lease_back_is_not_heard_and_gets_it_again():
    with network() as switch, host(switch, "web", 7) as web:
        out = dhclient(switch, web, "web", "-4")
        address, = web.addresses()
        web.run("dhclient", "-r", "-cf", str(out / "conf"), "-sf", str(switch.root / "script"), "-lf",
                str(out / "leases"), "-pf", str(out / "pid"), "-e", f"OUT={out}", netns.INTERFACE)
        web.until(lambda: "expires" not in lease_of(switch, "web"))
        check(web.pings_in_vain("10.5.0.1"), f"{address} was released")
        (out / "leases").unlink()
        dhclient(switch, web, "web", "-4")
        equal(learned(out, "BOUND")["new_ip_address"], address, "the address of before")
        check(web.pings("10.5.0.1"), "the gateway answers")
        end_dhclient(out)


def test_udhcpc_on_a_foreign_port_gets_a_lease_by_its_mac():
    with network() as switch:
        got = []
        for number in (9, 10, 9):
            out = folder_of(switch, f"out{number}")
            with netns.Host(switch.stream(), mac(number)) as one:
                one.run("busybox", "udhcpc", "-f", "-q", "-n", "-t", "10", "-T", "1", "-i", netns.INTERFACE, "-s",
                        str(switch.root / "script"), env={"OUT": str(out)})
                equal(learned(out, "bound")["router"], "10.5.0.1", "router")
                got += one.addresses()
                check(one.pings("10.5.0.1"), "the gateway answers")
        equal(got[0], got[2], "the same MAC has the same address")
        check(got[0] != got[1], f"another has another: {got}")


def test_hosts_reach_each_other_and_go_on_after_the_switch_was_killed():
    with network() as switch, host(switch, "web", 7) as web, host(switch, "db", 8) as db:
        outs = [dhclient(switch, one, name, "-4") for one, name in ((web, "web"), (db, "db"))]
        try:
            (address,), (own,) = db.addresses(), web.addresses()
            check(web.pings(address), "web reaches db")
            switch.kill()
            switch.start()
            # Nobody asks for an address again: they have it as it was written down.
            web.plug(port(switch, "web", 7))
            db.plug(port(switch, "db", 8))
            check(web.pings(address), "web reaches db after the switch was killed")
            check(db.pings("10.5.0.1"), "and its gateway")
            equal(lease_of(switch, "web")["address"], own, "its lease")
        finally:
            for out in outs:
                end_dhclient(out)


# ---- IPv6 ------------------------------------------------------------------------------------------


def test_the_kernel_configures_ipv6_by_itself():
    with network() as switch, host(switch, "web", 7, dad=True) as web, host(switch, "db", 8) as db:
        address, = web.until(lambda: web.addresses(6))
        equal(address, "fd00:5::ff:fe00:7", "an address of the prefix, formed of its MAC")
        route = web.run("ip", "-6", "route", "show", "default")
        check("proto ra" in route and "via fe80::" in route, f"a default route: {route}")
        check(web.pings("fd00:5::1"), "the gateway answers")
        other, = db.until(lambda: db.addresses(6))
        check(web.pings(other), "web reaches db")


def test_an_isolated_network_has_addresses_and_no_way_out():
    with network(mode="isolated") as switch, host(switch, "web", 7) as web:
        web.until(lambda: web.addresses(6))
        equal(web.run("ip", "-6", "route", "show", "default"), "", "default routes")
        out = dhclient(switch, web, "web", "-4")
        check("new_routers" not in learned(out, "BOUND"), "no router")
        check(web.pings("10.5.0.1"), "the gateway answers, as it serves the network")
        end_dhclient(out)


def test_dhclient_gets_an_address_of_ipv6_and_names():
    with network(domain="example.org") as switch, host(switch, "web", 7) as web:
        web.until(lambda: web.addresses(6))
        out = dhclient(switch, web, "web", "-6")
        try:
            got = learned(out, "BOUND6")
            address = got["new_ip6_address"]
            check(ipaddress.ip_address(address) in NETWORK6, f"{address} is of the network")
            equal(got["new_dhcp6_name_servers"], "fd00:5::1", "DNS")
            equal(got["new_dhcp6_domain_search"].rstrip("."), "example.org", "search list")
            equal(lease_of(switch, "web", 6)["address"], address, "query-leases")
            check(web.pings("fd00:5::1", "-I", address), "the gateway answers to that address")
        finally:
            end_dhclient(out)


# ---- what does not pass ----------------------------------------------------------------------------


def test_a_host_cannot_use_an_address_that_it_was_not_given():
    with network() as switch, host(switch, "web", 7) as web, host(switch, "db", 8) as db:
        outs = [dhclient(switch, one, name, "-4") for one, name in ((web, "web"), (db, "db"))]
        try:
            (own,), (victim,) = web.addresses(), db.addresses()
            for address in (victim, "10.5.0.200", "10.5.0.1"):
                web.run("ip", "address", "add", f"{address}/24", "dev", netns.INTERFACE)
                check(web.pings_in_vain("10.5.0.1" if address != "10.5.0.1" else victim, "-I", address),
                      f"no answer to {address}")
                web.run("ip", "address", "del", f"{address}/24", "dev", netns.INTERFACE)
            check(web.pings(victim, "-I", own), "its own works")
            web.run("ip", "link", "set", netns.INTERFACE, "address", mac(99))
            check(web.pings_in_vain("10.5.0.1"), "another station's frames are dropped")
            check(switch.ports()["web"]["out"]["spoofed"] > 3, "they are counted")
        finally:
            for out in outs:
                end_dhclient(out)


def test_spoofed_frames_reach_nobody():
    gateway, victim_mac, own = "10.5.0.1", mac(8), mac(7)
    advertisement = b"\x03\x04\x40\xc0" + b"\xff" * 8 + bytes(4) + frames.ip_bytes("fd00:bad::")
    link = b"\x02\x01" + frames.mac_bytes(own)
    spoofed = {
        "another's station": frames.udp(victim_mac, victim_mac, "10.5.0.7", "10.5.0.8", 1, 2),
        "another's address": frames.udp(own, victim_mac, "10.5.0.8", "10.5.0.8", 1, 2),
        "the gateway's address": frames.udp(own, victim_mac, gateway, "10.5.0.8", 1, 2),
        "nobody's address": frames.udp(own, victim_mac, "10.5.0.77", "10.5.0.8", 1, 2),
        "ARP for the gateway": frames.arp_reply(own, gateway, victim_mac, "10.5.0.8"),
        "ARP of another station": frames.arp(own, victim_mac, 2, mac(9), "10.5.0.7", victim_mac, "10.5.0.8"),
        "gratuitous ARP for another": frames.arp_request(own, "10.5.0.8", "10.5.0.8"),
        "a DHCP offer": frames.udp(own, victim_mac, "10.5.0.7", "10.5.0.8", 67, 68, bytes(300)),
        "a DHCPv6 reply": frames.udp(own, victim_mac, "fe80::7", "fe80::8", 547, 546, bytes(30)),
        "a router advertisement": frames.icmp(own, "33:33:00:00:00:01", "fe80::7", "ff02::1", 134,
                                              rest=b"\x40\x00\x23\x28", data=bytes(8) + advertisement, ttl=255),
        "an advertised gateway": frames.icmp(own, victim_mac, "fe80::7", "fe80::8", 136, rest=b"\x60\0\0\0",
                                             data=frames.ip_bytes("fd00:5::1") + link, ttl=255),
        "a redirect": frames.icmp(own, victim_mac, "10.5.0.7", "10.5.0.8", 5, 1, frames.ip_bytes("10.5.0.7"),
                                  bytes(28)),
        "VRRP": frames.ip(own, "01:00:5e:00:00:12", "10.5.0.7", "224.0.0.18", 112, bytes(20)),
        "an inner tag": frames.ethernet(own, victim_mac, 0x88A8, b"\0\1\x08\0" + bytes(46)),
    }
    with network() as switch, switch.vm("web", 7) as web, switch.vm("db", 8) as db:
        for what, frame in spoofed.items():
            web.send(frame)
            web.send(frames.udp(own, victim_mac, "10.5.0.7", "10.5.0.8", 1000, 2000, what.encode()))
            came = db.expect(lambda f: f.arp is None)
            check(came.udp and came.udp.data == what.encode(), f"{what}: {came}")
        equal(switch.ports()["web"]["out"]["spoofed"], len(spoofed), "they are counted")


def test_a_trusted_port_may_say_what_others_may_not():
    with network() as switch, switch.vm("router", 7, trust=True) as router, switch.vm("db", 8) as db:
        router.send(frames.udp(mac(7), mac(8), "192.0.2.1", "10.5.0.8", 67, 68, b"a server"))
        came = db.expect(lambda f: f.udp)
        equal(came.udp.data, b"a server", "from another server")


if __name__ == "__main__":
    hutch.main()
