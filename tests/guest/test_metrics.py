#!/usr/bin/env python3
"""What VMs count and measure, from outside: the numbers are those of what the guest did,
wherever they are read, and reading them harms nobody."""
import contextlib
import fcntl
import json
import os
import re
import signal
import socket
import struct
import subprocess
import tempfile
import termios
import time

import hutch
from hutch import Vm, check, equal, image
from qmp import Qmp

BLOCK = 4096
DISK = 16 << 20


@contextlib.contextmanager
def runtime():
    """A folder of run folders, for this process and what it starts."""
    with tempfile.TemporaryDirectory(prefix="hutch-") as folder:
        os.environ["XDG_RUNTIME_DIR"] = folder
        yield folder


@contextlib.contextmanager
def machine(folder, test, *arguments, name="vm", says=None):
    """A running VM; vm.socket is the path of its control socket."""
    hutch.needs_kvm()
    with Vm("--kernel", image("payload", "payload.elf"), "--cmdline", f"test={test}", "--name",
            name, *arguments) as vm:
        vm.socket = os.path.join(folder, "hutch", name, "control.sock")
        if says:
            vm.expect(says)
        yield vm


@contextlib.contextmanager
def disk():
    with tempfile.NamedTemporaryFile(suffix=".raw", dir="/var/tmp") as file:
        file.truncate(DISK)
        yield file.name


def command(*arguments, status=0):
    """What a verb prints."""
    done = subprocess.run([hutch.HUTCH, *map(str, arguments)], capture_output=True, text=True,
                          timeout=60 * hutch.PATIENCE, check=False)
    equal(done.returncode, status, f"hutch {' '.join(arguments)}: status ({done.stderr.strip()})")
    return done.stdout


def by_sample(metrics):
    """{(name, label, label...): value} of what x-hutch-query-metrics returned; labels as
    "op=read"; a histogram is the sample itself."""
    return {(metric["name"], *(f"{k}={v}" for k, v in sample["labels"].items())):
            sample.get("value", sample)
            for metric in metrics["metrics"] for sample in metric["samples"]}


def query(vm):
    qmp = Qmp(vm.socket, vm.process)
    metrics = by_sample(qmp("x-hutch-query-metrics"))
    qmp.close()
    return metrics


LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"'
SAMPLE = re.compile(rf"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{{({LABEL}(?:,{LABEL})*)\}})? (\S+)")


def parse(text):
    """The samples of a Prometheus text, as by_sample(), every line judged by the format."""
    samples, types, family = {}, {}, None
    for line in text.splitlines():
        if line.startswith("# HELP "):
            continue
        if line.startswith("# TYPE "):
            _, _, family, kind = line.split(" ")
            check(family not in types, f"two type lines of {family}")
            types[family] = kind
            continue
        match = SAMPLE.fullmatch(line)
        check(match and match[1].startswith(family), f"no sample of {family}: {line}")
        labels = [f'{name}={value}' for name, value in
                  re.findall(r'([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"', match[2] or "")]
        key = (match[1], *labels)
        check(key not in samples, f"twice: {line}")
        samples[key] = float(match[3])
    return samples, types


def get(address, request=b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"):
    """Head and body of an answer."""
    with socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET) as s:
        s.settimeout(60 * hutch.PATIENCE)
        s.connect(address)
        s.sendall(request)
        data = b""
        while part := s.recv(65536):
            data += part
    head, _, body = data.partition(b"\r\n\r\n")
    return head.decode(), body.decode()


# ---- numbers ------------------------------------------------------------------------------


def test_a_disks_numbers_are_those_of_its_requests():
    with runtime() as folder, disk() as path:
        for count, write, op in ((1234, 0, "read"), (777, 1, "write")):
            words = f"blk-bench count={count} qd=8 bs={BLOCK} write={write} stay=1"
            with machine(folder, words, "--disk", path, says="blk-bench done") as vm:
                m = query(vm)
                qmp = Qmp(vm.socket, vm.process)
                stats = qmp("query-blockstats")[0]["stats"]
            other = "write" if op == "read" else "read"
            equal(m["hutch_disk_operations_total", "device=disk0", f"op={op}"], count)
            equal(m["hutch_disk_operations_total", "device=disk0", f"op={other}"], 0)
            equal(m["hutch_disk_bytes_total", "device=disk0", f"op={op}"], count * BLOCK)
            equal(m["hutch_disk_errors_total", "device=disk0", f"op={op}"], 0)
            latency = m["hutch_disk_latency_seconds", "device=disk0", f"op={op}"]
            equal(latency["count"], count)
            counts = [b["count"] for b in latency["buckets"]]
            check(counts == sorted(counts) and counts[-1] <= count, f"not cumulative: {counts}")
            check(0 < latency["sum"] < 60 * count, f"sum: {latency['sum']}")
            equal(m["hutch_queue_requests_total", "device=disk0", "queue=0"], count)
            # A header of 16 bytes and a status of one come with each.
            both = [m["hutch_queue_bytes_total", "device=disk0", "queue=0", f"direction={d}"]
                    for d in ("from-driver", "to-driver")]
            equal(both, [count * 16 + write * count * BLOCK, count + (1 - write) * count * BLOCK])
            short = {"read": "rd", "write": "wr"}[op]
            equal(stats[f"{short}_operations"], count)
            equal(stats[f"{short}_bytes"], count * BLOCK)
            equal(sum(stats[f"{short}_latency_histogram"]["bins"]), count)
            check(stats["wr_highest_offset"] <= DISK and bool(stats["wr_highest_offset"]) ==
                  bool(write), f"highest offset: {stats['wr_highest_offset']}")


def test_what_a_disk_refuses_is_counted_and_a_new_ring_begins_no_new_count():
    """The guest sets the device up again for each ring layout, and asks each time for three
    reads and a range of zeroes that there are not."""
    with runtime() as folder, disk() as path:
        with machine(folder, "blk stay=1", "--disk", path, says="PASS blk") as vm:
            m = query(vm)
        layouts = len(re.findall(r"^blk \S+ queues=1 ", vm.text(), re.MULTILINE))
        check(layouts >= 4, vm.text())
        equal(m["hutch_disk_refused_total", "device=disk0", "op=read"], 3 * layouts)
        equal(m["hutch_disk_refused_total", "device=disk0", "op=write"], layouts)
        check(m["hutch_disk_operations_total", "device=disk0", "op=discard"] >= layouts, m)
        check(m["hutch_disk_operations_total", "device=disk0", "op=flush"] >= layouts, m)
        equal(m["hutch_disk_errors_total", "device=disk0", "op=read"], 0)
        known = sum(v for k, v in m.items()
                    if k[0] in ("hutch_disk_operations_total", "hutch_disk_refused_total"))
        check(m["hutch_queue_requests_total", "device=disk0", "queue=0"] > known, known)


def test_a_cards_frames_are_those_of_its_queues():
    with runtime() as folder:
        with machine(folder, "net stay=1", "--net", "user", says="PASS net") as vm:
            m = query(vm)
        tx = [m[f"hutch_net_{what}_total", "device=net0", "direction=tx"]
              for what in ("frames", "bytes", "dropped")]
        rx = [m[f"hutch_net_{what}_total", "device=net0", "direction=rx"]
              for what in ("frames", "bytes", "dropped")]
        equal(tx[0] + tx[2], m["hutch_queue_requests_total", "device=net0", "queue=1"])
        check(tx[1] >= 14 * tx[0] and rx[1] >= 14 * rx[0] and rx[0] and tx[0], f"{tx} {rx}")
        # The virtio header of 12 bytes is the queue's, not the frame's.
        equal(rx[1] + 12 * rx[0],
              m["hutch_queue_bytes_total", "device=net0", "queue=0", "direction=to-driver"])


def test_exits_memory_and_processor_time_are_the_guests():
    with runtime() as folder:
        with machine(folder, "spin", "--memory", "64M,prealloc", "--cpus", "2",
                     says="spin ready") as vm:
            first = query(vm)
            time.sleep(0.3 * hutch.PATIENCE)
            second = query(vm)
            said = len(vm.output)
        check(first["hutch_vcpu_exits_total", "vcpu=0", "reason=io"] >= said, first)
        equal(first["hutch_memory_guest_bytes",], 64 << 20)
        check(first["hutch_memory_private_bytes",] >= 64 << 20, first)
        check(first["hutch_memory_resident_bytes",] < 128 << 20, first)
        check(first["hutch_page_faults_total", "kind=minor"] > 0, first)
        busy, idle = (second["hutch_vcpu_cpu_seconds_total", f"vcpu={i}"] -
                      first["hutch_vcpu_cpu_seconds_total", f"vcpu={i}"] for i in (0, 1))
        check(busy > 0.01 and busy > 10 * idle, f"vCPUs: busy {busy}, idle {idle}")
        whole = sum(second["hutch_cpu_seconds_total", f"mode={mode}"] for mode in
                    ("user", "system"))
        threads = sum(v for k, v in second.items() if k[0] == "hutch_thread_cpu_seconds_total")
        check(abs(whole - threads) < 0.5 * whole + 0.1, f"process {whole}, threads {threads}")
        equal(second["hutch_vm_state", "state=running"], 1)
        with machine(folder, "spin how=hlt", "--memory", "64M,prealloc,shared",
                     says="spin ready") as vm:
            m = query(vm)
        check(m["hutch_memory_shared_bytes",] >= 64 << 20 > m["hutch_memory_private_bytes",], m)


# ---- where they are read -------------------------------------------------------------------


def test_the_same_numbers_by_qmp_verb_and_http_also_read_only():
    with runtime() as folder, disk() as path:
        readonly = os.path.join(folder, "ro.sock")
        with machine(folder, "blk-bench count=99 stay=1", "--disk", path, "--metrics", "unix",
                     "--control-readonly", readonly, says="blk-bench done") as vm:
            own = os.path.join(folder, "hutch", "vm", "metrics.sock")
            equal(os.stat(own).st_mode & 0o777, 0o600, "mode of metrics.sock")
            head, body = get(own)
            check(head.startswith("HTTP/1.1 200 OK") and "version=0.0.4" in head, head)
            http, types = parse(body)
            verb, verb_types = parse(command("metrics"))
            alone, _ = parse(command("metrics", vm.socket))
            qmp = Qmp(readonly, vm.process)
            said = qmp("x-hutch-query-metrics")
            listed = json.loads(command("metrics", "--json"))
            vm.signal(signal.SIGTERM)
            vm.wait()
        equal(types, verb_types)
        equal(types, {m["name"]: m["type"] for m in said["metrics"]})
        key = ("device=disk0", "op=read")
        for samples, vm_label in ((http, "vm=vm"), (verb, "vm=vm"), (alone, f"vm={vm.socket}")):
            equal(samples["hutch_disk_operations_total", vm_label, *key], 99)
            equal(samples["hutch_disk_latency_seconds_bucket", vm_label, *key, "le=+Inf"], 99)
        equal(by_sample(said)["hutch_disk_operations_total", *key], 99)
        equal([v["vm"] for v in listed], ["vm"])
        check(not os.path.exists(os.path.dirname(own)), "the run folder was left behind")


def port_of(vm):
    """The TCP port that the VM listens on."""
    links = [os.readlink(f"/proc/{vm.process.pid}/fd/{fd}")
             for fd in os.listdir(f"/proc/{vm.process.pid}/fd")]
    inodes = {link[8:-1] for link in links if link.startswith("socket:[")}
    with open("/proc/net/tcp") as table:
        rows = [line.split() for line in table.readlines()[1:]]
    return [int(r[1].split(":")[1], 16) for r in rows if r[3] == "0A" and r[9] in inodes]


def switches(vm):
    total = 0
    for task in os.listdir(f"/proc/{vm.process.pid}/task"):
        with open(f"/proc/{vm.process.pid}/task/{task}/status") as status:
            total += sum(int(line.split()[1]) for line in status
                         if line.startswith("voluntary_ctxt"))
    return total


def test_an_endpoint_sleeps_until_it_is_asked_and_slow_clients_hold_up_nobody():
    with runtime() as folder:
        with machine(folder, "spin how=hlt", "--metrics", "0", says="spin ready") as vm:
            port, = port_of(vm)
            get(("127.0.0.1", port))
            time.sleep(0.2)
            before = switches(vm)
            time.sleep(1)
            equal(switches(vm) - before, 0, "wake-ups of an idle monitor in a second")
            slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(40)]
            for s in slow:
                s.send(b"GET /metrics HTTP/1.1\r\nA: ")
            begin = time.monotonic()
            equal(Qmp(vm.socket, vm.process)("query-status")["status"], "running")
            check(time.monotonic() - begin < 3 * hutch.PATIENCE, "slow clients held up the VM")
            for s in slow:
                s.close()
            end = time.monotonic() + 30 * hutch.PATIENCE
            while not get(("127.0.0.1", port))[0].startswith("HTTP/1.1 200"):
                check(time.monotonic() < end, "the endpoint did not come back")


def test_bad_addresses_end_in_one_sentence():
    hutch.needs_kvm()
    guest = ("--kernel", image("payload", "payload.elf"), "--cmdline", "test=hello")
    with runtime():
        hutch.refused(*guest, "--metrics", "unix", words=["--name"])
        hutch.refused(*guest, "--metrics", "example.org:9100", words=["example.org", "ADDR:PORT"])
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            hutch.refused(*guest, "--metrics", str(port), words=[str(port), "in use"])


def test_a_vm_that_is_not_there_makes_the_status_125_and_the_others_are_printed():
    with runtime() as folder, machine(folder, "spin how=hlt", says="spin ready"):
        samples, _ = parse(command("metrics", "vm", "nobody", status=125))
        check(("hutch_vm_state", "vm=vm", "state=running") in samples, samples)
        equal(command("metrics", "nobody", status=125), "")
    with runtime():
        equal(command("metrics"), "")
        equal(json.loads(command("metrics", "--json")), [])


# ---- hutch top ------------------------------------------------------------------------------


def top(*arguments):
    rows = json.loads(command("top", "--once", "--json", "--interval",
                              str(0.3 * hutch.PATIENCE), *arguments))
    return {row["name"]: row for row in rows}


def test_top_shows_what_each_vm_does_and_who_does_not_answer():
    with runtime() as folder, disk() as path:
        loads = "blk-bench count=1000000000 write=1"
        with machine(folder, loads, "--disk", path, name="disk", says="blk-bench start"), \
                machine(folder, "spin", name="busy", says="spin ready"), \
                machine(folder, "spin how=hlt", name="idle", says="spin ready") as idle:
            Qmp(idle.socket, idle.process)("stop")
            rows, end = top(), time.monotonic() + 30 * hutch.PATIENCE
            while rows["disk"]["disk_write_bytes_per_second"] < 1e5 and time.monotonic() < end:
                rows = top()  # the host's disk was busy with others' writes
            table = command("top", "--once", "--interval", "0.1").splitlines()
            equal(sorted(rows), ["busy", "disk", "idle"])
            check(rows["busy"]["vcpu_percent"] > 1, rows)
            check(rows["idle"]["cpu_percent"] < rows["busy"]["cpu_percent"], rows)
            check(rows["disk"]["disk_write_bytes_per_second"] > 1e5, rows)
            equal([rows[name]["state"] for name in ("busy", "idle")], ["running", "paused"])
            equal([rows[n]["disk_read_bytes_per_second"] for n in rows], [0, 0, 0])
            check(all(r["memory_resident_bytes"] > 1 << 20 for r in rows.values()), rows)
            equal(len(table), 4)
            check(re.match(r"NAME +STATE +\*CPU% .* EXITS/s$", table[0]), table[0])
            idle.signal(signal.SIGSTOP)
            begin = time.monotonic()
            rows = top()
            took = time.monotonic() - begin
            idle.signal(signal.SIGCONT)
            equal(rows["idle"]["state"], "no-answer")
            check(rows["busy"]["vcpu_percent"] > 0 and took < 5 * hutch.PATIENCE, f"{rows} {took}")


@contextlib.contextmanager
def screen():
    """hutch top on a terminal of 40 lines of 130 characters."""
    with Vm("top", "--interval", "0.2", tty=True, verb=None, env={"TERM": "xterm"}) as vm:
        resize(vm, 40, 130)
        vm.before = termios.tcgetattr(vm.master)
        vm.expect(r"\x1b\[\?1049h")
        yield vm


def resize(vm, rows, columns):
    fcntl.ioctl(vm.master, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))


def check_given_back(vm, how):
    check(vm.output.endswith(b"\x1b[?25h\x1b[?1049l"), f"{how}: {vm.output[-80:]}")
    attributes = termios.tcgetattr(vm.master)
    check(attributes[3] & termios.ICANON and attributes[3] & termios.ECHO,
          f"{how}: the terminal was not given back")


def test_the_screen_obeys_keys_follows_the_size_and_gives_the_terminal_back():
    with runtime() as folder, machine(folder, "spin", name="busy", says="spin ready"):
        with screen() as vm:
            vm.expect("busy +running")
            vm.send("m")
            vm.expect(r"\*MEM")
            vm.send("n")
            vm.expect(r"\*RX/s")
            resize(vm, 5, 20)
            vm.signal(signal.SIGWINCH)
            vm.expect(r"\x1b\[7mNAME      STATE     \x1b")  # cut at 20 characters
            vm.send("q")
            equal(vm.wait(), 0)
            check_given_back(vm, "q")
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGSEGV):
            with screen() as vm:
                vm.expect("busy")
                vm.signal(number)
                status = vm.wait()
                check(status == 128 + number or "Sanitizer" in vm.stderr(), f"{number}: {status}")
                check_given_back(vm, signal.Signals(number).name)


def test_strange_intervals_are_refused():
    with runtime():
        for text in ("0", "-1", "x", "1s", "nan", "inf", "1e9", ""):
            hutch.refused("top", "--once", f"--interval={text}", verb=None, words=["--interval"])


# ---- hutch doctor ---------------------------------------------------------------------------


def test_doctor_says_that_this_host_runs_vms_and_of_one_without_kvm_why_not():
    hutch.needs_kvm()
    findings = {f["check"]: f for f in json.loads(command("doctor", "--json"))}
    check(all(f["result"] in ("ok", "warn") for f in findings.values()), findings)
    equal([findings[name]["result"] for name in ("kvm", "vm")], ["ok", "ok"])
    equal(len(command("doctor").splitlines()), len(findings))
    wrap = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"]), "sh", "-ec",
            'mount -t tmpfs none /dev; exec "$@"', "sh"]
    if subprocess.run([*wrap, "true"], capture_output=True, check=False).returncode:
        raise hutch.Skip("no mount namespace can be made")
    done = subprocess.run([*wrap, hutch.HUTCH, "doctor"], capture_output=True, text=True,
                          check=False)
    equal(done.returncode, 1, "status without /dev/kvm")
    lines = {line.split()[1]: line for line in done.stdout.splitlines()}
    check(lines["kvm"].startswith("fail") and "modprobe" in lines["kvm"], lines["kvm"])
    check(lines["vm"].startswith("fail") and "/dev/kvm" in lines["vm"], lines["vm"])
    check(lines["tun"].startswith("warn"), lines["tun"])


if __name__ == "__main__":
    hutch.main()
