"""Frames for corpora: one of each kind that the parser tells apart."""
import struct

MACS = bytes.fromhex("020000000002020000000001")
V4 = bytes((10, 5, 0, 8, 10, 5, 0, 9))
V6 = bytes.fromhex("fd000005000000000000000000000008fd000005000000000000000000000009")


def ipv4(proto, data, fragment=0):
    return (MACS + b"\x08\x00" + struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(data), 7, fragment, 64, proto, 0)
            + V4 + data)


def ipv6(proto, data, hops=64):
    return MACS + b"\x86\xdd" + struct.pack(">IHBB", 6 << 28, len(data), proto, hops) + V6 + data


def turned(data):
    """The same packet of IPv4 the other way round, as a reply."""
    return data[:26] + data[30:34] + data[26:30] + data[36:38] + data[34:36] + data[38:]


def tcp(flags, seq=1000, ack=2000):
    return struct.pack(">HHIIBBHHH", 4000, 80, seq, ack, 0x50, flags, 512, 0, 0)


UDP = struct.pack(">HHHH", 4000, 53, 16, 0) + b"question"
ECHO, ECHO6 = b"\x08\0\0\0\0\x07\0\1", b"\x80\0\0\0\0\x07\0\1"
ARP = MACS + b"\x08\x06" + bytes.fromhex("0001080006040001") + MACS[6:] + V4[:4] + bytes(6) + V4[4:]
FRAGMENT6 = struct.pack(">BBHI", 17, 0, 1, 7)

FRAMES = {
    "syn": ipv4(6, tcp(2)), "synack": turned(ipv4(6, tcp(18, 2000, 1001))), "ack": ipv4(6, tcp(16, 1001, 2001)),
    "fin": ipv4(6, tcp(17)), "rst": ipv4(6, tcp(4)), "udp": ipv4(17, UDP), "udp-reply": turned(ipv4(17, UDP)),
    "echo": ipv4(1, ECHO), "gre": ipv4(47, bytes(8)), "arp": ARP,
    "error": turned(ipv4(1, b"\x03\x01\0\0\0\0\0\0" + ipv4(17, UDP)[14:42])),
    "first": ipv4(17, UDP, 0x2000), "second": ipv4(17, bytes(16), 2),
    "syn6": ipv6(6, tcp(2)), "udp6": ipv6(17, UDP), "echo6": ipv6(58, ECHO6), "nd": ipv6(58, b"\x87" + bytes(23), 255),
    "error6": ipv6(58, b"\x01\x01\0\0\0\0\0\0" + ipv6(17, UDP)[14:62]),
    "options6": ipv6(0, b"\x3c\0\0\0\0\0\0\0" + b"\x11\0\0\0\0\0\0\0" + UDP),
    "first6": ipv6(44, FRAGMENT6 + UDP), "second6": ipv6(44, struct.pack(">BBHI", 17, 0, 16, 7) + bytes(16)),
    "other": MACS + b"\x88\xcc" + bytes(20),
}
