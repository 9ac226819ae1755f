#!/usr/bin/env python3
"""VMs whose memory comes while they run: compressed, when it is wanted, from a server.  The
guest checks all of its memory by itself (guest-images/payload/test_count.c), and what cannot be
read stops it, until it is there again."""
import os
import signal
import socket
import subprocess
import threading
import time
from contextlib import contextmanager

import hutch
from hutch import Vm, check, equal, image
from test_snapshot import (count_of, counting, create, ends_well, hutch_verb, restore, session,
                           store)

SOME = 400 * 1024  # bytes of memory: more than it takes to begin, and not all


@contextmanager
def saved(*options, memory="64M", pages=1024):
    """A snapshot "one" of a guest that counts, which has ended; the store's folder."""
    with store() as folder:
        with counting(memory=memory, pages=pages, slow=2000) as vm:
            count_of(vm)
            create("vm", "one", *options)
            ends_well(vm)
        yield folder


@contextmanager
def serving(address):
    """A server of "one", and where it listens."""
    with subprocess.Popen([hutch.HUTCH, "snapshot", "serve", "one", "--listen", address],
                          stdout=subprocess.PIPE, text=True) as server:
        try:
            yield server.stdout.readline().strip()
        finally:
            server.terminate()
    equal(server.returncode, 0, "status of the server")


class Cable:
    """What is between a client and its server, and breaks after so many bytes of memory."""

    def __init__(self, path, server, most):
        self.server, self.left, self.links, self.n = server, most, [], 0
        self.lock = threading.Lock()  # guards left and links
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(16)
        self.address = "unix:" + path
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self.n += 1
            far = socket.socket(socket.AF_UNIX)
            far.connect(self.server.removeprefix("unix:"))
            with self.lock:
                self.links += [client, far]
                broken = self.left <= 0
            if broken:
                self.cut(client, far)
                continue
            counted = self.n > 1  # the first one is for the files
            for pair in ((client, far, False), (far, client, counted)):
                threading.Thread(target=self.carry, args=pair, daemon=True).start()

    def carry(self, source, to, counted):
        try:
            while data := source.recv(65536):
                with self.lock:
                    self.left -= len(data) if counted else 0
                    broken = counted and self.left <= 0
                if broken:
                    break
                to.sendall(data)
        except OSError:
            pass
        self.cut(source, to)

    @staticmethod
    def cut(*ends):
        """Those alone: by now there may be others, that were made since it was mended."""
        for end in ends:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def mend(self):
        with self.lock:
            self.left = 1 << 40

    def close(self):
        self.listener.close()
        self.cut(*self.links)


def stops_for_memory(qmp, why):
    event = qmp.event("X_HUTCH_MEMORY_ERROR", limit=60)
    check(why in event["data"]["reason"], event)
    qmp.event("STOP", limit=60)
    equal(qmp("query-status")["status"], "io-error")


# ---- it is right -------------------------------------------------------------------------


def test_a_compressed_snapshot_is_run_from():
    with saved("--compress", "zstd") as folder:
        check(os.path.exists(os.path.join(folder, "one.snap/memory.zst")), "it is compressed")
        for how in ("private", "lazy", "copy"):
            with restore("one", "--memory-from", how) as copy:
                count_of(copy)
                ends_well(copy)


def test_memory_that_could_be_mapped_may_come_lazily_too():
    with saved():
        with restore("one", "--memory-from", "lazy") as copy:
            count_of(copy)
            ends_well(copy)


def test_a_vm_whose_memory_is_still_coming_can_be_saved():
    """And what is saved is whole, whenever that was."""
    with saved("--compress", "zstd"):
        with restore("one", "--memory-from", "lazy", "--paused") as copy:
            qmp = session("copy", copy)
            qmp("cont")
            create("copy", "two")
            create("copy", "three", "--diff")
            qmp.close()
            ends_well(copy)
        for name in ("two", "three"):
            with restore(name) as copy:
                count_of(copy)
                ends_well(copy)


def test_a_served_snapshot_is_run_from_and_not_needed_after_a_while():
    with saved(memory="128M") as folder:
        for listen in (f"unix:{folder}/s.sock", "tcp:127.0.0.1:0"):
            with serving(listen) as address:
                check(not address.endswith(":0"), "the port is told")
                vm = restore(address)
                with vm as copy:
                    count_of(copy)  # looks at every page
                    again = restore(address, as_name="second")
                    with again as second:
                        count_of(second)
                        ends_well(second)
                    ends_well(copy)


def test_a_server_that_is_not_there_is_told_and_nothing_is_started():
    with saved() as folder:
        said = hutch_verb("run", "--restore", f"unix:{folder}/none.sock", "--name", "copy",
                          status=125)
        check("none.sock" in said, said)


# ---- what cannot be read ------------------------------------------------------------------


def test_a_server_that_is_lost_stops_the_vm_until_it_is_back():
    with saved() as folder, serving(f"unix:{folder}/s.sock") as address:
        cable = Cable(f"{folder}/cable.sock", address, SOME)
        with restore(cable.address, "--paused") as copy:
            qmp = session("copy", copy)
            qmp("cont")
            stops_for_memory(qmp, "cable.sock")
            hutch_verb("snapshot", "create", "copy", "two", status=125)  # not now
            qmp.events.clear()
            qmp("cont")  # too early
            stops_for_memory(qmp, "cable.sock")
            cable.mend()
            qmp("cont")
            count_of(copy)
            qmp.close()
            ends_well(copy)
        cable.close()


def test_a_vm_that_waits_for_memory_can_be_ended():
    with saved() as folder, serving(f"unix:{folder}/s.sock") as address:
        cable = Cable(f"{folder}/cable.sock", address, SOME)
        with restore(cable.address, "--paused") as copy:
            qmp = session("copy", copy)
            qmp("cont")
            stops_for_memory(qmp, "cable.sock")
            qmp("quit")
            equal(copy.wait(), 128 + signal.SIGTERM, "status")
        cable.close()


def test_a_vm_can_be_ended_while_a_save_of_it_waits_for_memory():
    with saved() as folder, serving(f"unix:{folder}/s.sock") as address:
        cable = Cable(f"{folder}/cable.sock", address, SOME)
        with restore(cable.address, "--paused") as copy:
            qmp = session("copy", copy)
            saving = subprocess.Popen([hutch.HUTCH, "snapshot", "create", "copy", "two"],
                                      stderr=subprocess.DEVNULL)
            event = qmp.event("X_HUTCH_MEMORY_ERROR", limit=60)
            check("cable.sock" in event["data"]["reason"], event)
            qmp("quit")
            equal(copy.wait(), 128 + signal.SIGTERM, "status")
            equal(saving.wait(60 * hutch.PATIENCE), 125, "status of create")
        cable.close()


def test_a_mapped_file_that_is_cut_off_stops_the_vm_until_it_is_whole():
    with saved() as folder:
        path = os.path.join(folder, "one.snap/memory")
        size = os.stat(path).st_size
        with restore("one", "--paused") as copy:
            with open(path, "rb") as file:
                data = file.read()
            qmp = session("copy", copy)
            os.truncate(path, 4 << 20)
            qmp("cont")
            stops_for_memory(qmp, "")
            with open(path, "r+b") as file:
                file.write(data)
            equal(os.stat(path).st_size, size)
            qmp("cont")
            count_of(copy)
            qmp.close()
            ends_well(copy)


TOUCHED = 16384  # pages: 64 MiB


@contextmanager
def touching(*options, words=""):
    """A snapshot "one" of a guest that touches all of its memory when it is asked to, and has
    ended; the file of its memory."""
    with store() as folder:
        with Vm("--kernel", image("payload", "payload.elf"), "--cmdline",
                f"test=touch pages={TOUCHED} of={TOUCHED} {words}", "--memory", "96M", "--name",
                "vm", *options) as vm:
            vm.expect("touch ready", limit=120)
            create("vm", "one")
        yield os.path.join(folder, "one.snap/memory")


def is_filling(vm):
    task = f"/proc/{vm.process.pid}/task"
    for tid in os.listdir(task):
        try:
            with open(f"{task}/{tid}/comm", encoding="ascii") as comm:
                if comm.read() == "fill\n":
                    return True
        except OSError:  # it has ended
            pass
    return False


def cut_while_it_comes(vm, path):
    """Whether the guest misses what was cut off: all may have come before."""
    end = time.monotonic() + 60 * hutch.PATIENCE
    while not is_filling(vm):
        check(time.monotonic() < end and vm.process.poll() is None, f"nothing comes: {vm.tail()}")
    os.truncate(path, 8 << 20)
    qmp = session("copy", vm)
    vm.send("x")
    while b"touched" not in vm.output:
        check(time.monotonic() < end, f"the guest stands still: {vm.tail()}")
        if qmp("query-status")["status"] == "io-error":
            return qmp
        vm.read(0.01)
    qmp.close()
    return None


def test_a_file_that_is_cut_off_while_memory_comes_stops_the_vm_until_it_is_whole():
    with touching() as path:
        with open(path, "rb") as file:
            data = file.read()
        for _ in range(20):
            with restore("one", "--memory-from", "lazy") as copy:
                qmp = cut_while_it_comes(copy, path)
                with open(path, "r+b") as file:
                    file.write(data)
                if not qmp:
                    continue
                qmp("cont")
                copy.expect("touched")  # and all of it was right
                equal(qmp("query-status")["status"], "running")
                qmp.close()
                return
        raise AssertionError("memory was there before its file was cut off, 20 times")


def test_a_device_ejected_while_memory_is_lost_goes_when_it_is_back():
    """Taking it away parks the vCPU, which waits for an I/O thread, which sleeps for memory."""
    with touching("--rng", "--rng", words="slot=2") as path:
        with open(path, "rb") as file:
            data = file.read()
        for _ in range(5):
            with restore("one", "--working-set", "off") as copy:
                qmp = session("copy", copy)
                copy.send("?")
                copy.expect("here")
                os.truncate(path, 8 << 20)
                copy.send("e")
                stops_for_memory(qmp, "")
                with open(path, "r+b") as file:
                    file.write(data)
                qmp("cont")
                copy.expect("touched")
                event = qmp.event("DEVICE_DELETED", limit=60)
                equal(event["data"]["device"], "rng1")
                qmp.close()


if __name__ == "__main__":
    hutch.main()
