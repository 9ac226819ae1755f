"""Ethernet frames, made and read, and ports of a network's switch to send them by: as a foreign port
(stream.sock) and as a monitor's (port.sock, with rings in shared memory).  Nothing but the standard
library.

    web = frames.VmPort(folder, vm="web", mac="02:00:00:00:00:01")   # folder: the switch's run folder
    web.send(frames.udp("02:..:01", "02:..:02", "10.5.0.2", "10.5.0.3", 1000, 2000, b"hello"))
    frame = web.expect(lambda f: f.udp and f.udp.to_port == 2000)

Every wait has a limit: SECONDS, times hutch.PATIENCE where that is set."""
import ipaddress
import json
import mmap
import os
import pathlib
import select
import socket
import struct
import time

SECONDS = 10 * float(os.environ.get("HUTCH_TEST_PATIENCE", "1"))
BROADCAST = "ff:ff:ff:ff:ff:ff"
ETHER_IPV4, ETHER_ARP, ETHER_VLAN, ETHER_IPV6, ETHER_RARP = 0x0800, 0x0806, 0x8100, 0x86DD, 0x8035
ICMP, TCP, UDP, ICMP6 = 1, 6, 17, 58
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16


# ---- frames that are made ------------------------------------------------------------------------

def mac_bytes(mac):
    return bytes(int(part, 16) for part in mac.split(":"))


def mac_text(raw):
    return ":".join(f"{byte:02x}" for byte in raw)


def ip_bytes(ip):
    return ipaddress.ip_address(ip).packed


def checksum(data):
    """RFC 1071, in host order: to be packed as ">H"."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ethernet(src, dst, ether_type, payload, vlan=None, priority=0, pad=True):
    tag = b"" if vlan is None else struct.pack(">HH", ETHER_VLAN, priority << 13 | vlan)
    frame = mac_bytes(dst) + mac_bytes(src) + tag + struct.pack(">H", ether_type) + payload
    return frame.ljust(60, b"\0") if pad else frame


def arp(src, dst, op, from_mac, from_ip, to_mac, to_ip, **kw):
    body = struct.pack(">HHBBH", 1, ETHER_IPV4, 6, 4, op) + mac_bytes(from_mac) + ip_bytes(from_ip) \
        + mac_bytes(to_mac) + ip_bytes(to_ip)
    return ethernet(src, dst, ETHER_ARP, body, **kw)


def arp_request(mac, ip, target, **kw):
    return arp(mac, BROADCAST, 1, mac, ip, "00:00:00:00:00:00", target, **kw)


def arp_reply(mac, ip, to_mac, to_ip, **kw):
    return arp(mac, to_mac, 2, mac, ip, to_mac, to_ip, **kw)


def ip_packet(src, dst, proto, payload, ttl=64, ident=0, flags=0, offset=0):
    """offset: of a fragment, in bytes; flags: 1 more fragments, 2 don't fragment (IPv4)."""
    if ":" in src:
        extra = b""
        if flags & 1 or offset:
            extra = struct.pack(">BBHI", proto, 0, offset | (flags & 1), ident)
            proto = 44
        head = struct.pack(">IHBB", 6 << 28, len(extra) + len(payload), proto, ttl)
        return head + ip_bytes(src) + ip_bytes(dst) + extra + payload
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), ident, flags << 13 | offset // 8, ttl, proto, 0) \
        + ip_bytes(src) + ip_bytes(dst)
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + payload


def ip(src_mac, dst_mac, src, dst, proto, payload, ttl=64, ident=0, flags=0, offset=0, **kw):
    ether_type = ETHER_IPV6 if ":" in src else ETHER_IPV4
    return ethernet(src_mac, dst_mac, ether_type,
                    ip_packet(src, dst, proto, payload, ttl, ident, flags, offset), **kw)


def with_checksum(src, dst, proto, segment, at):
    """A transport segment whose checksum, at that offset, is filled in with the pseudo header's."""
    pseudo = ip_bytes(src) + ip_bytes(dst) + struct.pack(">II", len(segment), proto)
    if proto == ICMP:
        pseudo = b""
    value = checksum(pseudo + segment)
    if proto == UDP and value == 0:
        value = 0xFFFF
    return segment[:at] + struct.pack(">H", value) + segment[at + 2:]


def udp_segment(src, dst, from_port, to_port, data):
    segment = struct.pack(">HHHH", from_port, to_port, 8 + len(data), 0) + data
    return with_checksum(src, dst, UDP, segment, 6)


def udp(src_mac, dst_mac, src, dst, from_port, to_port, data=b"", **kw):
    return ip(src_mac, dst_mac, src, dst, UDP, udp_segment(src, dst, from_port, to_port, data), **kw)


def tcp_segment(src, dst, from_port, to_port, flags, seq=0, ack=0, data=b"", window=65535, options=b""):
    words = 5 + len(options) // 4
    segment = struct.pack(">HHIIBBHHH", from_port, to_port, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, words << 4, flags,
                          window, 0, 0) + options + data
    return with_checksum(src, dst, TCP, segment, 16)


def tcp(src_mac, dst_mac, src, dst, from_port, to_port, flags, seq=0, ack=0, data=b"", options=b"", **kw):
    return ip(src_mac, dst_mac, src, dst, TCP,
              tcp_segment(src, dst, from_port, to_port, flags, seq, ack, data, options=options), **kw)


def icmp(src_mac, dst_mac, src, dst, kind, code=0, rest=b"\0\0\0\0", data=b"", **kw):
    """ICMP or ICMPv6, by the family of the addresses; rest: the four bytes behind the checksum."""
    proto = ICMP6 if ":" in src else ICMP
    segment = with_checksum(src, dst, proto, struct.pack(">BBH", kind, code, 0) + rest + data, 2)
    return ip(src_mac, dst_mac, src, dst, proto, segment, **kw)


def ping(src_mac, dst_mac, src, dst, ident=1, number=1, data=b"ping", reply=False, **kw):
    kinds = (128, 129) if ":" in src else (8, 0)
    return icmp(src_mac, dst_mac, src, dst, kinds[reply], rest=struct.pack(">HH", ident, number), data=data, **kw)


# ---- frames that are read ------------------------------------------------------------------------

class Layer:
    """Some named values."""

    def __init__(self, **values):
        self.__dict__.update(values)

    def __repr__(self):
        return "(" + ", ".join(f"{key}={value!r}" for key, value in self.__dict__.items()) + ")"


class Frame:
    """A frame that came.  vlan: None without a tag; arp, ip, udp, tcp, icmp: None if it is none."""

    def __init__(self, raw, header=None):
        self.raw, self.header = raw, header
        self.dst, self.src = mac_text(raw[:6]), mac_text(raw[6:12])
        self.ether_type, = struct.unpack(">H", raw[12:14])
        self.vlan = None
        at = 14
        if self.ether_type == ETHER_VLAN:
            tag, self.ether_type = struct.unpack(">HH", raw[14:18])
            self.vlan = tag & 0xFFF
            at = 18
        self.payload = raw[at:]
        self.arp = self.ip = self.udp = self.tcp = self.icmp = None
        try:
            self._read()
        except (struct.error, IndexError, ValueError):
            pass

    def _read(self):
        if self.ether_type == ETHER_ARP:
            p = self.payload
            self.arp = Layer(op=struct.unpack(">H", p[6:8])[0], from_mac=mac_text(p[8:14]),
                             from_ip=str(ipaddress.ip_address(p[14:18])), to_mac=mac_text(p[18:24]),
                             to_ip=str(ipaddress.ip_address(p[24:28])))
        elif self.ether_type == ETHER_IPV4:
            self._read_ipv4()
        elif self.ether_type == ETHER_IPV6:
            self._read_ipv6()

    def _read_ipv4(self):
        p = self.payload
        head = (p[0] & 15) * 4
        length, ident, offset = struct.unpack(">HHH", p[2:8])
        self.ip = Layer(src=str(ipaddress.ip_address(p[12:16])), dst=str(ipaddress.ip_address(p[16:20])), proto=p[9],
                        ttl=p[8], ident=ident, more=bool(offset & 0x2000), offset=(offset & 0x1FFF) * 8,
                        good=checksum(p[:head]) == 0, payload=p[head:length])
        self._read_transport()

    def _read_ipv6(self):
        p = self.payload
        length, = struct.unpack(">H", p[4:6])
        proto, at, more, offset, ident = p[6], 40, False, 0, 0
        while proto in (0, 43, 44, 60):
            if proto == 44:
                word, ident = struct.unpack(">HI", p[at + 2:at + 8])
                more, offset = bool(word & 1), word & 0xFFF8
            size = 8 if proto == 44 else 8 + p[at + 1] * 8
            proto, at = p[at], at + size
        self.ip = Layer(src=str(ipaddress.ip_address(p[8:24])), dst=str(ipaddress.ip_address(p[24:40])), proto=proto,
                        ttl=p[7], ident=ident, more=more, offset=offset, good=True, payload=p[at:40 + length])
        self._read_transport()

    def _read_transport(self):
        p, proto = self.ip.payload, self.ip.proto
        if self.ip.offset:
            return
        pseudo = b"" if proto == ICMP else \
            ip_bytes(self.ip.src) + ip_bytes(self.ip.dst) + struct.pack(">II", len(p), proto)
        good = checksum(pseudo + p) == 0
        if proto == UDP:
            from_port, to_port, length, total = struct.unpack(">HHHH", p[:8])
            self.udp = Layer(from_port=from_port, to_port=to_port, good=good or not total, data=p[8:length])
        elif proto == TCP:
            from_port, to_port, seq, ack, words, flags, window = struct.unpack(">HHIIBBH", p[:16])
            self.tcp = Layer(from_port=from_port, to_port=to_port, seq=seq, ack=ack, flags=flags & 0x3F,
                             window=window, good=good, data=p[(words >> 4) * 4:])
        elif proto in (ICMP, ICMP6):
            self.icmp = Layer(kind=p[0], code=p[1], rest=p[4:8], data=p[8:], good=good)

    def __repr__(self):
        parts = [f"{self.src} > {self.dst} {self.ether_type:#06x}"]
        parts += [f"{name}{getattr(self, name)!r}" for name in ("vlan", "arp", "udp", "tcp", "icmp")
                  if getattr(self, name) is not None]
        if self.ip:
            parts.append(f"{self.ip.src} > {self.ip.dst} proto {self.ip.proto}")
        return "<" + " ".join(parts) + ">"


# ---- ports ---------------------------------------------------------------------------------------

def readable(fd, seconds):
    """Whether it is, waiting for so long; select() knows only the first 1,024 descriptors."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(seconds and max(1, seconds * 1000)))


class Port:
    """What both kinds of ports can do: they have fileno(), _send(frame) and _receive()."""

    def send(self, *frames):
        for frame in frames:
            self._send(frame)

    def receive(self, seconds=None):
        """The next frame; None: none came within so long (SECONDS if it is not given)."""
        deadline = time.monotonic() + (SECONDS if seconds is None else seconds)
        while True:
            raw = self._receive()
            if raw is not None:
                return Frame(*raw)
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            readable(self.fileno(), left)

    def expect(self, wanted, seconds=None):
        """The next frame for which wanted(frame) is true; those before are thrown away."""
        deadline = time.monotonic() + (SECONDS if seconds is None else seconds)
        others = []
        while True:
            frame = self.receive(max(0, deadline - time.monotonic()))
            if frame is None:
                raise AssertionError(f"the frame did not come; others that did: {others[-10:]}")
            if wanted(frame):
                return frame
            others.append(frame)

    def drain(self):
        """All that is there now, without waiting."""
        frames = []
        while (frame := self.receive(0)) is not None:
            frames.append(frame)
        return frames

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class StreamPort(Port):
    """A foreign port: frames behind a length of four bytes, big-endian.  where: a run folder, a path,
    or a connected socket."""

    def __init__(self, where):
        if isinstance(where, socket.socket):
            self.sock = where
        else:
            path = pathlib.Path(where)
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.connect(str(path / "stream.sock" if path.is_dir() else path))
        self.sock.settimeout(SECONDS)
        self.buffer = bytearray()

    def fileno(self):
        return self.sock.fileno()

    def _send(self, frame):
        self.sock.sendall(struct.pack(">I", len(frame)) + frame)

    def _receive(self):
        while not self._whole():
            # A socket with a time-out waits for as long, whatever recv()'s flags say.
            if not readable(self.sock, 0):
                return None
            piece = self.sock.recv(1 << 18)
            if not piece:
                raise EOFError("the switch hung up")
            self.buffer += piece
        length, = struct.unpack_from(">I", self.buffer)
        frame = bytes(self.buffer[4:4 + length])
        del self.buffer[:4 + length]
        return frame, None

    def _whole(self):
        return len(self.buffer) >= 4 and len(self.buffer) >= 4 + struct.unpack_from(">I", self.buffer)[0]

    def close(self):
        self.sock.close()


class Refused(Exception):
    """The switch did not want the port; the text is its sentence."""


RING_BYTES, RING_SKIP, SHARED_BYTES = 512 * 1024, 0xFFFFFFFF, 128
HEAD, RESTART, STARVED, TAIL, ASLEEP = 0, 4, 8, 64, 68
HEADER = struct.Struct("<BBHHHHH")  # struct virtio_net_hdr: flags, gso type, hdr_len, gso_size, csum start, offset, n
PLAIN = HEADER.pack(0, 0, 0, 0, 0, 0, 1)


class Ring:
    """One end of include/network/ring.h."""

    def __init__(self, memory, queues, queue, to_switch):
        which = 2 * queue + (not to_switch)
        self.memory = memory
        self.shared = which * SHARED_BYTES
        self.data = (2 * queues * SHARED_BYTES + 4095) // 4096 * 4096 + which * RING_BYTES
        self.count = 0  # ours: head of a producer, tail of a consumer

    def get(self, field):
        return struct.unpack_from("<I", self.memory, self.shared + field)[0]

    def set(self, field, value):
        """In one store: struct.pack_into() writes zeroes first, which the other side could see."""
        with memoryview(self.memory) as memory, memory.cast("I") as words:
            words[(self.shared + field) // 4] = value & 0xFFFFFFFF

    def put(self, record):
        """False: no room."""
        size = (4 + len(record) + 7) // 8 * 8
        at = self.count % RING_BYTES
        skip = RING_BYTES - at if at + size > RING_BYTES else 0
        if (self.count - self.get(TAIL)) % 2**32 + skip + size > RING_BYTES:
            self.set(STARVED, 1)
            return False
        if skip:
            struct.pack_into("<I", self.memory, self.data + at, RING_SKIP)
            at = 0
        struct.pack_into("<I", self.memory, self.data + at, len(record))
        self.memory[self.data + at + 4:self.data + at + 4 + len(record)] = record
        self.count = (self.count + skip + size) % 2**32
        self.set(HEAD, self.count)
        return True

    def take(self):
        """None: nothing is there."""
        while self.count != self.get(HEAD):
            at = self.count % RING_BYTES
            length, = struct.unpack_from("<I", self.memory, self.data + at)
            if at and (self.get(RESTART) == self.count + 1 or length == RING_SKIP):
                self.count = (self.count + RING_BYTES - at) % 2**32
                continue
            record = bytes(self.memory[self.data + at + 4:self.data + at + 4 + length])
            self.count = (self.count + (4 + length + 7) // 8 * 8) % 2**32
            self.set(TAIL, self.count)
            return record
        return None


class VmPort(Port):
    """A monitor's port.  Refused is raised with the switch's sentence; `reply` is what it answered."""

    def __init__(self, folder, vm=None, nic="net0", mac="02:00:00:00:00:01", instance=None, queues=1, **more):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(SECONDS)
        self.sock.connect(str(pathlib.Path(folder) / "port.sock"))
        hello = {"hutch-port": 1, "nic": nic, "instance": instance or f"{vm}-{os.getpid()}", "mac": mac,
                 "queues": queues, **more}
        if vm is not None:
            hello["vm"] = vm
        self.fds, self.memory, self.mac, self.lines = [], None, mac, b""
        self.sock.sendall(json.dumps(hello).encode() + b"\n")
        self._welcome(queues)

    def _welcome(self, queues):
        line = b""
        while not line.endswith(b"\n"):
            piece, fds, _, _ = socket.recv_fds(self.sock, 65536, 64)
            self.fds += fds
            if not piece:
                raise Refused("the switch hung up")
            line += piece
        answer = json.loads(line)
        if "error" in answer:
            self.close()
            raise Refused(answer["error"]["desc"])
        self.reply = answer["return"]
        self.memory = mmap.mmap(self.fds[0], 0)
        self.kick, self.call = self.fds[1::2], self.fds[2::2]
        self.out = [Ring(self.memory, queues, i, True) for i in range(queues)]
        self.come = [Ring(self.memory, queues, i, False) for i in range(queues)]
        self.queue = 0  # where frames are sent
        for fd in self.call:
            os.set_blocking(fd, False)
        self.poll = select.epoll()
        for fd in self.call:
            self.poll.register(fd, select.EPOLLIN)

    def fileno(self):
        return self.poll.fileno()

    def _send(self, frame):
        self.send_record(PLAIN + frame)

    def send_big(self, frame, flags, gso_type, hdr_len, gso_size, csum_start, csum_offset):
        """With a virtio header that leaves work to be done."""
        self.send_record(HEADER.pack(flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, 1) + frame)

    def send_record(self, record):
        ring = self.out[self.queue]
        deadline = time.monotonic() + SECONDS
        while not ring.put(record):
            if time.monotonic() > deadline:
                raise AssertionError("the switch takes no frames from the ring")
            self._wait_for_room(0.01)
        self.wake()

    def wake(self):
        if self.out[self.queue].get(ASLEEP):
            os.write(self.kick[self.queue], struct.pack("<Q", 1))

    def _wait_for_room(self, seconds):
        readable(self.call[self.queue], seconds)

    def _receive(self):
        for _ in range(2):
            for i, ring in enumerate(self.come):
                record = ring.take()
                if record is not None:
                    self._room(i, ring)
                    self.came_by = i
                    return record[12:], HEADER.unpack(record[:12])
            for i, ring in enumerate(self.come):
                try:
                    os.read(self.call[i], 8)
                except BlockingIOError:
                    pass
                ring.set(ASLEEP, 1)
        return None

    def _room(self, i, ring):
        if ring.get(STARVED) and (ring.get(HEAD) - ring.count) % 2**32 <= RING_BYTES // 2:
            ring.set(STARVED, 0)
            os.write(self.kick[i], struct.pack("<Q", 1))

    def memory_held(self):
        """Bytes that the host has given to its rings."""
        return os.fstat(self.fds[0]).st_blocks * 512

    def tell(self, **message):
        self.sock.sendall(json.dumps(message).encode() + b"\n")

    def hear(self):
        """The next line of the switch."""
        while b"\n" not in self.lines:
            piece = self.sock.recv(65536)
            if not piece:
                raise EOFError("the switch hung up")
            self.lines += piece
        line, self.lines = self.lines.split(b"\n", 1)
        return json.loads(line)

    def close(self):
        if self.memory:
            self.memory.close()
            self.poll.close()
            self.memory = None
        for fd in self.fds:
            os.close(fd)
        self.fds = []
        self.sock.close()


# ---- a switch ------------------------------------------------------------------------------------

class Failed(Exception):
    """A command's error; the text is its sentence."""


class Switch:
    """A network of its own in a folder of its own, whose switch is run as hutch would run it.
    config: what is in config.json; environment: for programs that are to find the network."""

    def __init__(self, program, root, name="n1", rules=None, **config):
        import subprocess
        self.name, self.root = name, pathlib.Path(root)
        networks, runtime = self.root / "networks", self.root / "run"
        self.network, self.folder = networks / name, runtime / "hutch-net" / name
        self.network.mkdir(parents=True, exist_ok=True)
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (runtime / "hutch-net").chmod(0o700)
        self.configure(**config)
        if rules is not None:
            (self.network / "firewall.rules").write_text(rules)
        self.environment = dict(os.environ, XDG_RUNTIME_DIR=str(runtime), HUTCH_NETWORKS=str(networks))
        self.program, self.popen, self.process = program, subprocess.Popen, None
        self.sock = None
        self.start()

    def configure(self, **config):
        """What is None is left out."""
        defaults = {"mode": "isolated", "subnet": "10.5.0.0/24"}
        options = {key: value for key, value in {**defaults, **config}.items() if value is not None}
        (self.network / "config.json").write_text(json.dumps(options))

    def start(self):
        with open(self.folder / "errors", "ab") as errors:
            self.process = self.popen([self.program, self.name], stdin=-3, stdout=-1, stderr=errors,
                                      env=self.environment)
        word = self.process.stdout.readline().decode().strip()
        if word != "ready":
            self.process.wait()
            raise Failed(word)
        self.sock = None

    def call(self, command, **arguments):
        """What a command returns; arguments' names have '_' for '-'."""
        if self.sock is None:
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(SECONDS)
            self.sock.connect(str(self.folder / "control.sock"))
            self.reader = self.sock.makefile("rb")
        message = {"execute": command, "arguments": {k.replace("_", "-"): v for k, v in arguments.items()}}
        self.sock.sendall(json.dumps(message).encode() + b"\n")
        answer = json.loads(self.reader.readline())
        if "error" in answer:
            raise Failed(answer["error"]["desc"])
        return answer["return"]

    def vm(self, name, number, **more):
        """A VM's port with a MAC and, for `number`, the address 10.5.0.<number>."""
        mac = f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}"
        port = VmPort(self.folder, vm=name, mac=mac, **{"ip": [f"10.5.0.{number}"], **more})
        port.ip = f"10.5.0.{number}"
        return port

    def stream(self):
        return StreamPort(self.folder)

    def ports(self):
        return {port.get("vm", port["port"]): port for port in self.call("query-ports")}

    def close_control(self):
        if self.sock:
            self.reader.close()
            self.sock.close()
            self.sock = None

    def kill(self):
        self.close_control()
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def end(self):
        """By SIGTERM; returns its exit status."""
        self.close_control()
        if self.process.poll() is None:
            self.process.terminate()
        status = self.process.wait(SECONDS)
        self.process.stdout.close()
        return status

    def errors(self):
        return (self.folder / "errors").read_text()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()
