"""Hosts on a network that are network namespaces of this machine: a real stack behind a tap, whose
frames go through a port of a switch (frames.py).  Needs root and /dev/net/tun; a Host raises
hutch.Skip without them.  Nothing of the machine's own network is touched.

    with netns.Host(switch.vm("web", 7, ip=[]), "02:00:00:00:00:07") as web:
        web.run("ping", "-c1", "10.5.0.1")
"""
import ctypes
import fcntl
import os
import select
import struct
import subprocess
import threading
import time

from hutch import PATIENCE, Skip

SECONDS = 20 * PATIENCE
CLONE_NEWNET = 0x40000000
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 2, 0x1000
INTERFACE = "eth0"


def _open_tap(path, ret):
    """In a thread of its own, which only is in the namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(path, os.O_RDONLY)
    try:
        if libc.setns(fd, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
        tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", INTERFACE.encode(), IFF_TAP | IFF_NO_PI))
        ret.append(tap)
    finally:
        os.close(fd)


class Host:
    """port: of frames.py, which the host closes; it may be exchanged for another by plug()."""

    def __init__(self, port, mac, dad=False, mtu=1500):
        if os.geteuid() or not os.path.exists("/dev/net/tun"):
            raise Skip("a network namespace needs root, and its tap /dev/net/tun")
        own = os.readlink("/proc/self/ns/net")
        self.holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        self.path = f"/proc/{self.holder.pid}/ns/net"
        self.port = self.thread = None
        self.until(lambda: os.readlink(self.path) != own)
        taps = []
        thread = threading.Thread(target=_open_tap, args=(self.path, taps))
        thread.start()
        thread.join()
        self.tap, = taps
        self.wake_read, self.wake_write = os.pipe()
        if not dad:
            self.run("sysctl", "-qw", f"net.ipv6.conf.{INTERFACE}.accept_dad=0")
        self.run("ip", "link", "set", "lo", "up")
        self.run("ip", "link", "set", INTERFACE, "address", mac, "mtu", str(mtu))
        self.plug(port)
        self.run("ip", "link", "set", INTERFACE, "up")

    # ---- its cable

    def plug(self, port):
        self.unplug()
        self.port = port
        self.thread = threading.Thread(target=self._relay, daemon=True)
        self.thread.start()

    def unplug(self):
        if self.thread:
            os.write(self.wake_write, b"x")
            self.thread.join()
            os.read(self.wake_read, 1)
            self.port.close()
        self.port = self.thread = None

    def _relay(self):
        port = self.port
        while True:
            try:
                self._from_port(port)
                ready, _, _ = select.select([self.tap, port, self.wake_read], [], [])
            except (EOFError, OSError):
                ready, _, _ = select.select([self.wake_read], [], [])
            if self.wake_read in ready:
                return
            try:
                if self.tap in ready:
                    port.send(os.read(self.tap, 65536))
            except OSError:
                pass

    def _from_port(self, port):
        while (frame := port.receive(0)) is not None:
            try:
                os.write(self.tap, frame.raw)
            except OSError:  # the interface is down
                pass

    # ---- its programs

    def command(self, *arguments):
        return ["nsenter", f"--net={self.path}", *arguments]

    def run(self, *arguments, status=0, env=None):
        """Standard output of a program; status None: whatever it is."""
        done = subprocess.run(self.command(*arguments), capture_output=True, text=True, check=False,
                              timeout=60 * PATIENCE, env={**os.environ, **(env or {})})
        if status is not None and done.returncode != status:
            raise AssertionError(f"{' '.join(arguments)}: status {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def pings(self, address, *arguments):
        """Waits until one is answered."""
        return self._ping(address, int(SECONDS), *arguments)

    def pings_in_vain(self, address, *arguments):
        """Whether none of a second is answered."""
        return not self._ping(address, 1, *arguments)

    def _ping(self, address, seconds, *arguments):
        return " bytes from " in self.run("ping", "-n", "-c", "1", "-i", "0.2", "-w", str(seconds), *arguments,
                                          address, status=None)

    def addresses(self, family=4):
        """Those that are global and usable."""
        lines = self.run("ip", f"-{family}", "-o", "addr", "show", "dev", INTERFACE, "scope", "global").splitlines()
        return [line.split()[3].split("/")[0] for line in lines if "tentative" not in line]

    @staticmethod
    def until(condition):
        deadline = time.monotonic() + SECONDS
        while not (found := condition()):
            if time.monotonic() > deadline:
                raise AssertionError("what was waited for did not happen")
            time.sleep(0.02)
        return found

    def close(self):
        """May be called twice."""
        if self.holder.returncode is not None:
            return
        self.unplug()
        for fd in (self.tap, self.wake_read, self.wake_write):
            os.close(fd)
        self.holder.kill()
        self.holder.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
