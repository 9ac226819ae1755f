"""A Linux guest with a shell on its console."""
import difflib
import os
import re
import subprocess
import tempfile

import hutch
from hutch import Vm, check, image


class Linux(Vm):
    """The busybox guest (guest-images/busybox) with a shell on its serial console.  Its kernel
    keeps its log for dmesg: on the console of a guest in host B it takes ten seconds."""

    def __init__(self, *arguments, cmdline="", kernel="vmlinuz", initrd=None, console="ttyS0",
                 **options):
        super().__init__("--kernel", image("busybox", kernel), "--initrd",
                         initrd or image("busybox", "initrd.img"), "--cmdline",
                         f"console={console} quiet {cmdline}", *arguments, **options)
        self.commands = 0

    def boot(self, limit=180):
        self.expect("built-in shell", limit)
        self.expect("# ", limit)
        self.sh("stty -echo; PS1=; dmesg -n 1")
        return self

    def sh(self, command, limit=60, status=0):
        """Runs a command in the guest; what it printed.  Its status must be `status`."""
        self.commands += 1
        mark = f"{self.commands}"
        # What is typed must not look like what is printed, as the terminal may echo it.
        self.send(f'echo "<""{mark}>"; {command}\necho "<""/{mark}:$?>"\n')
        self.expect(rf"<{mark}>\r*\n", limit)
        got = self.expect(rf"(?s)(.*?)<\/{mark}:(\d+)>\r*\n", limit)
        output = got[1].decode(errors="replace").replace("\r", "")
        check(status is None or int(got[2]) == status,
              f"{command}: status {int(got[2])}\n{output}")
        return output

    def power_off(self, limit=60):
        self.send("poweroff\n")
        return self.wait(limit)


def normal_kernel_log(log):
    """The lines that speak of the machine, without what differs from run to run and from one
    kernel update to the next."""
    about = re.compile(r"ACPI|PCI|pci |virtio|e820|ttyS|rtc_cmos|input:|kvm-clock:|x2apic|"
                       r"Firmware|BIOS|Bug|pvpanic|smpboot: Total|Hypervisor")
    lines = []
    for line in log.splitlines():
        text = re.sub(r"^\[ *[0-9.]+\] ", "", line)
        if not about.search(text) or "Command line" in text:
            continue
        text = re.sub(r"\d\d\d\d-\d\d-\d\dT[0-9:]+ UTC \(\d+\)", "TIME", text)
        text = re.sub(r"CmdLine.*|\(\d+\.\d+ BogoMIPS\)|\d+ cycles|\b[0-9a-f]{16}\b", "...", text)
        lines.append(text.rstrip())
    return "\n".join(lines) + "\n"


def normal_interrupts(text):
    """Which interrupts exist and how each arrives, without how often; chips' numbering of
    messages differs between kernels."""
    lines = []
    for line in text.splitlines():
        found = re.match(r" *(\d+): +(?:\d+ +)+(\S+) +(\S+) +(.+)", line)
        if found:
            chip, how, who = found[2], re.sub(r"^\d+-", "", found[3]), found[4]
            pin = found[1] if chip == "IO-APIC" else "message"
            lines.append(f"{pin} {chip} {how} {who}")
    return "\n".join(lines) + "\n"


def lspci(dump):
    """What lspci -vv makes of the guest's config space."""
    with tempfile.NamedTemporaryFile("w", encoding="ascii") as file:
        file.write(dump)
        file.flush()
        return subprocess.run(["lspci", "-F", file.name, "-vv"], check=True, text=True,
                              stdout=subprocess.PIPE).stdout


def golden(name, got):
    """Compares with tests/guest/golden/NAME; HUTCH_UPDATE_GOLDEN=FOLDER writes there instead."""
    folder = os.environ.get("HUTCH_UPDATE_GOLDEN")
    if folder:
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            file.write(got)
        return
    path = os.path.join(hutch.ROOT, "tests", "guest", "golden", name)
    with open(path, encoding="utf-8") as file:
        expected = file.read()
    difference = "".join(difflib.unified_diff(expected.splitlines(True), got.splitlines(True),
                                              name, "this run"))
    check(not difference, f"{name} is not as it was:\n{difference}")
