#!/usr/bin/env python3
"""Cards whose queues another process serves (vhost-user): Debian 13's passt, which
guest-images/passt brings here, and liars at a socket.  The host is a network namespace, as in test_hostnet.py."""
import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time

from hutch import HUTCH, PATIENCE, Vm, check, equal, image, main, refused
from qmp import Qmp, QmpError
from test_hostnet import (child_of, ends, host_with_passt, is_gone, killed, payload,
                          reaches_the_host, station)


@contextlib.contextmanager
def new_passt():
    """A host where passt is the new one."""
    folder = os.path.dirname(image("passt", "passt"))
    before = os.environ["PATH"]
    with host_with_passt() as it:
        os.environ["PATH"] = folder + ":" + before
        try:
            yield it
        finally:
            os.environ["PATH"] = before


@contextlib.contextmanager
def station_with_control(it, net, words="dhcp=1", more=(), memory="64M"):
    with tempfile.TemporaryDirectory(prefix="hutch-vhost-", dir="/var/tmp") as folder:
        path = os.path.join(folder, "control")
        net = ["--net", net] if net else []
        arguments = payload("test=station " + words, *net, "--control", path, *more)
        arguments[arguments.index("64M")] = memory
        with Vm(*arguments, wrap=it.enter) as vm:
            vm.expect("station (mac=|waits)")
            qmp = Qmp(path, vm.process)
            yield vm, qmp, folder
            qmp.close()


def serves_queues(pid):
    with open(f"/proc/{pid}/cmdline", encoding="utf-8") as file:
        return "--vhost-user" in file.read().split("\0")


def serving(vm):
    """Its passt that is not merely asked what it can."""
    end = time.monotonic() + 20 * PATIENCE
    while time.monotonic() < end:
        child = child_of(vm)
        with contextlib.suppress(OSError), open(f"/proc/{child}/cmdline", encoding="utf-8") as file:
            if "--fd" in file.read().split("\0"):
                return child
        time.sleep(0.01)
    raise AssertionError("no passt serves")


def works_in_guest_memory(pid):
    with open(f"/proc/{pid}/maps", encoding="utf-8") as file:
        return "guest-ram" in file.read()


def test_passt_serves_a_cards_queues_by_itself_where_it_can():
    with new_passt() as it:
        for net, shared, elsewhere in (("passt", False, False), ("passt", True, True),
                                       ("passt,mode=auto", True, True),
                                       ("passt,mode=vhost-user", False, True),
                                       ("passt,mode=stream", True, False),
                                       ("passt,queues=2", True, False)):
            with station(it, net, "dhcp=1", "64M,shared" if shared else "64M") as vm:
                vm.expect("address 10.8.0.5")
                reaches_the_host(vm)
                child = child_of(vm)
                equal((serves_queues(child), works_in_guest_memory(child)), (elsewhere, elsewhere),
                      (net, shared))
                ends(vm)
            check(is_gone(child), "passt ends with its VM")


def switches(pid, thread=None):
    """How often it has slept."""
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/status", encoding="utf-8") as file:
            status = dict(line.partition(":\t")[::2] for line in file)
        if thread in (None, status["Name"].strip()):
            return int(status["voluntary_ctxt_switches"])
    raise AssertionError(f"no thread {thread}")


def test_no_frame_and_no_interrupt_passes_by_the_monitor():
    with new_passt() as it:
        it.sh("echo 0 2147483647 >/proc/sys/net/ipv4/ping_group_range")
        words = "test=net-speed role=ping host=10.8.0.1 ip=10.8.0.5 count=40000 wait=irq"
        with Vm(*payload(words, "--net", "passt,mode=vhost-user"), wrap=it.enter) as vm:
            child = serving(vm)
            for round_trips in (50, 400):  # the first ones: it has begun
                before, mine = switches(child), switches(vm.process.pid, "io-net0")
                end = time.monotonic() + 30 * PATIENCE
                while switches(child) < before + round_trips:
                    check(time.monotonic() < end, "passt is asked nothing")
                    time.sleep(0.01)
            mine = switches(vm.process.pid, "io-net0") - mine
            check(mine < 10, f"the monitor's thread woke {mine} times for 400 frames")
            killed(vm)


def test_an_old_passt_is_joined_by_frames_and_says_so_when_queues_are_wanted():
    with host_with_passt() as it, tempfile.TemporaryDirectory() as folder:
        old = os.path.join(folder, "passt")
        with open(old, "w", encoding="utf-8") as file:
            file.write("#!/bin/sh\necho 'Usage: an old one' >&2\n")
        os.chmod(old, 0o755)
        refused(*payload("test=net", "--net", "passt,mode=vhost-user"),
                wrap=[*it.enter, "env", f"PATH={folder}:{os.environ['PATH']}"],
                words=["net0", "does not know vhost-user", "mode=stream"])
        refused(*payload("test=net", "--net", "passt,mode=fast"), wrap=it.enter,
                words=["mode=fast", "mode=vhost-user", "mode=auto"])


def test_a_passt_that_dies_is_started_again_and_the_rings_go_on():
    with new_passt() as it:
        with station(it, "passt,mode=vhost-user", "dhcp=1") as vm:
            vm.expect("address 10.8.0.5")
            child = 0
            for _ in range(3):
                child, last = child_of(vm, but=child), child
                check(child != last and serves_queues(child), "another one")
                reaches_the_host(vm)
                vm.send("echo 10.8.0.1 0 1000\n")  # without end
                os.kill(child, signal.SIGKILL)
                child_of(vm, but=child)
                vm.send("stop\n")
                vm.expect("echo done")
                reaches_the_host(vm)
            killed(vm)
        check(is_gone(child), "passt ends with its VM, however that ends")


def test_a_card_is_plugged_in_and_out_and_has_the_memory_only_where_it_is_shared():
    with new_passt() as it:
        for shared in (True, False):
            memory = "64M,shared" if shared else "64M"
            with station_with_control(it, None, "wait=1 dhcp=1", memory=memory) as (vm, qmp, _):
                if not shared:
                    try:
                        qmp("x-hutch-device-add", option="net",
                            value={"type": "passt", "mode": "vhost-user", "id": "must"})
                        raise AssertionError("a card got memory that is not shared")
                    except QmpError as why:
                        check("--memory SIZE,shared" in str(why), str(why))
                qmp("x-hutch-device-add", option="net", value={"type": "passt", "id": "hot"})
                child = serving(vm)
                equal(serves_queues(child), shared)
                vm.send("look\n")
                vm.expect("address 10.8.0.5")
                reaches_the_host(vm)
                vm.send("eject\n")
                qmp("device_del", id="hot")
                vm.expect("eject done")
                check(is_gone(child), "passt ends with its card")
                killed(vm)


@contextlib.contextmanager
def passt_at(it, path):
    """One that somebody else has started, which listens at the socket."""
    with subprocess.Popen([*it.enter, "passt", "--foreground", "--quiet", "--vhost-user",
                           "--runas", "0", "--socket", path], stderr=subprocess.DEVNULL) as process:
        try:
            end = time.monotonic() + 30 * PATIENCE
            while not os.path.exists(path):
                check(time.monotonic() < end and process.poll() is None, "passt does not start")
                time.sleep(0.005)
            yield
        finally:
            process.kill()
            process.wait()
            os.unlink(path)


def test_a_back_end_at_a_socket_may_leave_and_come_and_the_guest_sees_its_link():
    with new_passt() as it, tempfile.TemporaryDirectory(prefix="hutch-vhost-", dir="/var/tmp") as \
            folder:
        path = os.path.join(folder, "socket")
        refused(*payload("test=net", "--net", f"vhost-user,path={path}"), wrap=it.enter,
                words=["net0", path, "No such file"])
        refused(*payload("test=net", "--net", "vhost-user"), words=["path=SOCKET"])
        with passt_at(it, path):
            refused(*payload("test=net", "--net", f"vhost-user,path={path},queues=2"),
                    wrap=it.enter, words=["serves 1 pairs", "queues=2"])
            vm = station(it, f"vhost-user,path={path}", "dhcp=1")
            vm.expect("address 10.8.0.5")
            reaches_the_host(vm)
        with vm:
            vm.expect("link down")
            with passt_at(it, path):
                vm.expect("link up")
                reaches_the_host(vm)
                ends(vm)


def test_a_passt_that_hangs_holds_neither_the_control_socket_nor_the_end():
    with new_passt() as it:
        with station_with_control(it, "passt,mode=vhost-user") as (vm, qmp, _):
            vm.expect("address 10.8.0.5")
            child = child_of(vm)
            os.kill(child, signal.SIGSTOP)
            equal(qmp("query-status")["running"], True)
            begin = time.monotonic()
            qmp("stop")
            qmp("cont")
            check(time.monotonic() - begin < 10 * PATIENCE, "a pause waits for its limit only")
            check(child_of(vm, but=child) != child, "it was given up, and replaced")
            reaches_the_host(vm)
            second = child_of(vm, but=child)
            os.kill(second, signal.SIGSTOP)
            begin = time.monotonic()
            vm.signal(signal.SIGTERM)
            vm.wait()
            check(time.monotonic() - begin < 10 * PATIENCE, "nor does the end")
        check(is_gone(child) and is_gone(second), "both are gone")


def test_a_pause_a_cable_and_a_reset_leave_the_card_working():
    with new_passt() as it:
        with station_with_control(it, "passt,mode=vhost-user,id=n") as (vm, qmp, _):
            vm.expect("address 10.8.0.5")
            for _ in range(5):
                qmp("stop")
                qmp("cont")
                reaches_the_host(vm)
            qmp("set_link", name="n", up=False)
            vm.expect("link down")
            vm.send("ping 10.8.0.1 1\n")
            qmp("set_link", name="n", up=True)
            vm.expect("link up")
            vm.expect("ping (done|gave up)")
            reaches_the_host(vm)
            qmp("system_reset")
            vm.expect("station mac=")
            vm.expect("address 10.8.0.5")
            reaches_the_host(vm)
            ends(vm)


def hutch(it, *arguments, status=0):
    done = subprocess.run([*it.enter, HUTCH, *arguments], text=True, capture_output=True, check=False)
    equal(done.returncode, status, f"{arguments}: {done.stdout}{done.stderr}")
    return done.stdout


def test_what_passt_writes_while_a_guest_is_saved_is_in_the_snapshot():
    with new_passt() as it:
        with station_with_control(it, "passt,mode=vhost-user,id=n",
                                  more=["--name", "vhost-saved"]) as (vm, qmp, folder):
            live, diff, full = (os.path.join(folder, name) for name in ("live", "diff", "full"))
            vm.expect("address 10.8.0.5")
            vm.send("echo 10.8.0.1 0 1400\n")  # without end
            hutch(it, "snapshot", "create", "vhost-saved", live)
            vm.send("stop\n")
            vm.expect("echo done")
            vm.send("echo 10.8.0.1 300 1400\n")
            vm.expect("echo done count=300")
            qmp("stop")
            hutch(it, "snapshot", "create", "vhost-saved", diff, "--diff")  # by the log
            hutch(it, "snapshot", "create", "vhost-saved", full)            # all there is
            compared = json.loads(hutch(it, "snapshot", "diff", diff, full, "--json", status=1))
            equal(compared["memory"]["pages"], 0, "pages that the log did not tell of")
            killed(vm)
            for saved, net in ((live, []), (diff, []), (full, ["--net", "n=passt,mode=stream"])):
                with Vm("--restore", saved, *net, wrap=it.enter) as again:
                    again.expect("announce")
                    equal(serves_queues(child_of(again)), not net, f"{saved} {net}")
                    if saved == live:
                        again.send("stop\n")
                        again.expect("echo done")
                    reaches_the_host(again)
                    ends(again)


if __name__ == "__main__":
    main()
