#!/usr/bin/env python3
"""Payload guests on this machine's own KVM: the machine and its devices from ring 3."""
import os
import signal
import tempfile

import hutch
from hutch import Skip, Vm, check, equal, image, run

NAME = "payload.elf"
RING_MODES = 8  # split and packed, each with and without indirect and EVENT_IDX


def payload(test, *arguments, kernel=NAME, **options):
    """Runs one payload test to its end: (status, stdout, stderr)."""
    hutch.needs_kvm()
    return run("--kernel", image("payload", kernel), "--cmdline", test, "--debug-exit",
               *arguments, **options)


def passes(test, *arguments, **options):
    """The payload's own verdict must be PASS; what it said."""
    status, out, err = payload(test, *arguments, **options)
    check(status == 0 and f"PASS {test.split()[0].partition('=')[2]}" in out,
          f"{test}: status {status}\n{out}\n{err}")
    return out


def disk(size=16 << 20):
    """A scratch disk that is gone when it is dropped."""
    file = tempfile.NamedTemporaryFile(suffix=".raw", dir="/var/tmp")
    file.truncate(size)
    return file


# ---- how a VM ends ---------------------------------------------------------------------


def test_power_off_is_status_0():
    equal(payload("test=hello")[0], 0)


def test_the_byte_given_to_port_501_is_the_status():
    for status in (1, 42, 123):
        equal(payload(f"test=exit exit={status}")[0], status)


def test_without_debug_exit_the_port_does_nothing():
    hutch.needs_kvm()
    with Vm("--kernel", image("payload", NAME), "--cmdline", "test=exit exit=7") as vm:
        check(vm.wait() != 7, "the debug-exit port works without --debug-exit")


def test_a_triple_fault_is_status_126_and_says_where():
    status, _, err = payload("test=crash")
    equal(status, 126)
    check("triple fault" in err and "rip 0x" in err, err)


def test_an_instruction_kvm_cannot_emulate_is_shown_disassembled():
    if hutch.stock_kernels_run():
        raise Skip("this host's KVM runs every instruction")
    status, _, err = payload("test=illegal")
    equal(status, 126)
    for word in ("cmpxchg16b", "CPL 0", "rip 0x", "f0 48 0f c7", "no hardware virtualisation"):
        check(word in err, f"{word!r} is not in: {err}")


def test_pvpanic_is_status_127():
    equal(payload("test=panic")[0], 127)


def test_the_time_limit_is_status_124():
    for how in ("busy", "hlt"):
        equal(payload(f"test=spin how={how}", "--timeout", 1)[0], 124)


def test_a_reset_boots_again_and_no_reboot_ends_with_status_0():
    for how in ("keyboard", "cf9"):
        status, out, _ = payload(f"test=reset how={how}", "--no-reboot")
        equal((status, out.count("reset now")), (0, 1))
        hutch.needs_kvm()
        with Vm("--kernel", image("payload", NAME), "--cmdline", f"test=reset how={how}") as vm:
            for _ in range(20):
                vm.expect("reset now")


def test_however_often_a_guest_asks_before_it_is_gone_it_is_one_reset():
    hutch.needs_kvm()
    with Vm("--kernel", image("payload", NAME), "--cmdline", "test=reset how=insist",
            "--json") as vm:
        for _ in range(20):
            vm.expect("reset now")
        vm.signal(signal.SIGTERM)
        vm.wait()
        resets, boots = vm.result()["counters"]["resets"], vm.text().count("reset now")
        check(resets <= boots, f"{resets} resets of {boots} boots")


def test_a_signal_ends_it_as_it_ends_other_programs():
    hutch.needs_kvm()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        with Vm("--kernel", image("payload", NAME), "--cmdline", "test=spin") as vm:
            vm.expect("spin ready")
            vm.signal(number)
            equal(vm.wait(), 128 + number)


def test_json_ends_with_one_object():
    hutch.needs_kvm()
    with Vm("--kernel", image("payload", NAME), "--cmdline", "test=exit exit=9", "--debug-exit",
            "--json", "--rng") as vm:
        equal(vm.wait(), 9)
        result = vm.result()
    equal((result["status"], result["reason"]), (9, "debug-exit"))
    check(result["times"]["setup_s"] > 0 and result["counters"]["exits"]["pio"] > 0, result)


# ---- kernels and memory ------------------------------------------------------------------


def test_pvh_and_both_multiboot_kernels_start_and_see_their_module():
    with tempfile.NamedTemporaryFile() as module:
        module.write(b"module!!")
        module.flush()
        for kernel in (NAME, "payload-mb32.elf", "payload-mb64.elf"):
            status, out, err = payload("test=hello", "--initrd", module.name, kernel=kernel)
            check(status == 0 and "size 8: module!!" in out, f"{kernel}: {out}{err}")


def test_ram_below_and_above_3_gib_is_all_there():
    out = passes("test=mem step=64M", "--memory", "6G", limit=120)
    check("bytes=6442" in out, out)


def test_acpi_tables_are_found_and_sum_to_zero():
    passes("test=acpi")
    passes("test=acpi", "--cpus", 64)


def test_secondary_cpus_come_up_and_go_on_working():
    for cpus in (2, 4, 64):
        passes(f"test=smp cpus={cpus}", "--cpus", cpus, limit=120)


def test_pci_by_ports_and_by_ecam_agree():
    with disk() as d:
        passes("test=pci", "--rng", "--disk", d.name)


# ---- serial ------------------------------------------------------------------------------


def test_no_byte_of_a_fast_writer_is_lost():
    out = passes("test=serial-storm count=1500", limit=120)  # more than the ring holds
    numbers = [int(line.split()[1]) for line in out.splitlines() if line.startswith("storm")]
    equal(numbers, list(range(1500)))


def test_a_slow_reader_holds_up_the_guest_and_loses_nothing():
    hutch.needs_kvm()
    with Vm("--kernel", image("payload", NAME), "--cmdline", "test=serial-storm count=3000") as vm:
        os.set_blocking(vm.reader, True)
        signal.pthread_sigmask(signal.SIG_BLOCK, [])
        while vm.read(5):  # in small sips
            pass
        equal(vm.wait(), 0)
        equal(vm.text().count("storm "), 3000)


def test_serial_input_reaches_the_guest():
    hutch.needs_kvm()
    with Vm("--kernel", image("payload", NAME), "--cmdline", "test=serial-echo") as vm:
        vm.expect("ready")
        text = "".join(chr(ord("a") + i % 26) for i in range(2000))
        vm.send(text)
        vm.expect(text[-26:])
        vm.send("\x04")
        vm.expect("serial-echo bytes=2000")
        equal(vm.wait(), 0)


def test_a_storm_of_breaks_and_nmis_harms_nothing():
    hutch.needs_kvm()
    with Vm("--kernel", image("payload", NAME), "--cmdline", "test=serial-echo", tty=True) as vm:
        vm.expect("ready")
        for _ in range(1000):
            vm.send("\x01b\x01n")
        vm.send("still here\x04")
        vm.expect("still here")
        vm.expect("serial-echo bytes=10")
        equal(vm.wait(), 0)


# ---- virtio ------------------------------------------------------------------------------


def on_both_transports(test, *arguments, **options):
    for transport in ("pci", "mmio"):
        yield passes(f"{test} transport={transport}", "--transport", transport, *arguments,
                     **options)


def test_blk_works_in_every_ring_mode_on_both_transports():
    with disk() as d:
        for out in on_both_transports("test=blk", "--disk", d.name):
            equal(out.count("\nblk ") + out.startswith("blk "), RING_MODES)


def test_blk_works_on_every_engine_and_with_several_queues():
    with disk() as d:
        for options in ("aio=threads", "aio=io_uring", "aio=libaio,cache=none", "cache=unsafe",
                        "queues=4"):
            passes("test=blk", "--cpus", 4, "--disk", f"{d.name},{options}")


def test_blk_interrupts_arrive_by_msix():
    with disk() as d:
        out = passes("test=blk irq=1", "--disk", d.name)
        check("interrupts=0" not in out, out)


def test_a_read_only_disk_refuses_writes_and_stays_as_it_was():
    with disk() as d:
        d.write(b"precious")
        d.flush()
        passes("test=blk", "--disk", f"{d.name},readonly")
        d.seek(0)
        equal(d.read(8), b"precious")


def test_rng_gives_different_bytes_in_every_ring_mode_on_both_transports():
    for out in on_both_transports("test=rng", "--rng"):
        equal(out.count("first=64 second=64"), RING_MODES)


def test_user_network_answers_dhcp_arp_and_ping_on_both_transports():
    for out in on_both_transports("test=net", "--net", "user"):
        equal(out.count("offer=10.0.2.15"), RING_MODES)


def test_console_speaks_both_ways():
    hutch.needs_kvm()
    with Vm("--kernel", image("payload", NAME), "--cmdline", "test=console", "--console", "stdio",
            "--serial", "file=/dev/null", "--debug-exit") as vm:
        vm.expect("hello from the guest")
        vm.send("an answer\n")
        equal(vm.wait(), 0)


def test_console_goes_to_a_file():
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        path = os.path.join(folder, "console")
        passes("test=console answer=0", "--console", f"file={path}")
        with open(path, encoding="ascii") as f:
            check("hello from the guest" in f.read(), "the file lacks the hello")


# ---- hostile guests ------------------------------------------------------------------------


def test_no_broken_ring_rule_harms_the_monitor_or_another_device():
    with disk() as first, disk() as second:
        for transport in ("pci", "mmio"):
            out = passes(f"test=hostile transport={transport}", "--transport", transport, "--disk",
                         first.name, "--disk", second.name, limit=120)
            check(out.count("needs_reset=1") > 10, out)


if __name__ == "__main__":
    hutch.main()
