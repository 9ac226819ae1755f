#!/usr/bin/env python3
"""What hutch says to options, files and configs that it cannot use: one sentence with the
object and the way out, status 125, and nothing written."""
import contextlib
import json
import os
import socket
import struct
import subprocess
import tempfile

import hutch
from hutch import Skip, Vm, check, equal, image, refused, run

PAYLOAD = "payload.elf"


def kernel():
    return image("payload", PAYLOAD)


def boots(*arguments, words=(), **options):
    """refused(), with a kernel that is all right and the host's help."""
    hutch.needs_kvm()
    return refused("--kernel", kernel(), *arguments, words=words, **options)


@contextlib.contextmanager
def scratch(content=b"", suffix="", mode=0o600):
    """A file's path, in a folder of its own."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        path = os.path.join(folder, "file" + suffix)
        with open(path, "wb") as f:
            f.write(content)
        os.chmod(path, mode)
        yield path


def as_nobody_special():
    """A command line before hutch's that takes root's right to every file."""
    if os.geteuid() != 0:
        return []
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"]


# ---- verbs and options -------------------------------------------------------------------


def test_an_unknown_verb_or_option_is_named_with_its_likely_meaning():
    refused("frobnicate", verb=None, words=["'frobnicate'", "hutch help"])
    refused("", verb=None, words=["''"])
    refused("nonsense", verb="help", words=["'nonsense'", "hutch help"])
    refused("html", verb="generate", words=["man, bash, zsh or fish"])
    refused("--memroy", "1G", words=["--memroy", "did you mean '--memory'"])
    refused("--zzz", words=["'--zzz'", "--help"])
    refused("-z", words=["'-z'", "--help"])


def test_a_missing_or_superfluous_value_is_told():
    refused("--cpus", words=["--cpus needs a value"])
    refused("--kernel", "--initrd", words=["--kernel needs a value", "--kernel=--initrd"])
    refused("--no-reboot=maybe", words=["--no-reboot", "'maybe'", "on nor off"])
    refused("--kernel=", words=["--kernel", "path is empty"])
    refused("--name", "a", "b", "c", words=["'b'", "'c'", "quotes"])
    refused("/no/image", words=["'/no/image'", "--kernel"])
    refused("", words=["''"])


def test_an_option_that_is_single_cannot_be_given_twice():
    for option in ("--cpus=1", "--memory=1G", "--kernel=x", "--name=n", "--timeout=1",
                   "--no-reboot", "--json", "--config=x"):
        refused(option, option, words=[option.split("=")[0], "twice"])


def test_an_unknown_or_repeated_key_is_named():
    refused("--disk", "x,fromat=raw", words=["--disk", "'fromat'", "did you mean 'format'"])
    refused("--disk", "x,colour=red", words=["--disk", "'colour'", "the keys are", "readonly"])
    refused("--disk", "x,readonly,readonly", words=["--disk", "'readonly'", "twice"])
    refused("--disk", "x,path=y", words=["--disk", "'path'", "twice"])
    refused("--disk", "readonly", words=["--disk", "'path'", "missing"])
    refused("--disk", "", words=["--disk", "empty"])
    refused("--disk", "a,,b=c", words=["--disk", "'a,b=c'", "path="])
    refused("--disk", "a,", words=["--disk", "comma"])
    refused("--disk", "a=b.raw", words=["--disk", "path="])
    refused("--net", "user,ifnam=x", words=["--net", "'ifnam'", "did you mean 'ifname'"])
    refused("--memory", "1G,2G", words=["--memory", "'2G'"])
    refused("--rng", "=5", words=["there is no image '=5'"], env={"HUTCH_IMAGES": "/nowhere"})


def test_a_malformed_size_is_quoted():
    refused("--memory=", words=["--memory", "empty"])
    for size in ("12Q", "-1", "1.5G", "G", "0x100", "1 G", "1GB", "99999999999999999999",
                 "1GG", "٣"):
        refused(f"--memory={size}", words=["--memory", "size"])
    for size in ("99999999T", "18446744073709551615T"):
        refused("--memory", size, words=["--memory", f"'{size}'", "too large"])
    refused("--memory", "1048577", words=["--memory", "1048577", "multiple of 4K"])


def test_too_little_or_too_much_memory_is_refused_with_the_limit():
    for size in ("0", "0M", "1", "1023K"):
        refused("--memory", size, words=["--memory", size, "1M or more"])
    for size in ("17T", "16777215T"):
        refused("--memory", size, words=["--memory", size, "or less"])


def test_memory_beyond_the_processors_address_width_is_refused():
    boots("--memory", "16T", words=["memory", "--memory"])


def test_memory_too_small_for_the_kernel_is_refused():
    boots("--memory", "1M", words=["--memory"])


def test_zero_and_too_many_cpus_are_refused_with_the_limit():
    refused("--cpus", 0, words=["--cpus", "1 or more"])
    for n in (65, 1000000, "18446744073709551615"):
        refused("--cpus", n, words=["--cpus", "64 or less"])
    for n in ("two", "-1", "1.0", "", "0x2", " 1"):
        refused(f"--cpus={n}", words=["--cpus", f"'{n}'", "number"])
    refused("--cpus", "99999999999999999999", words=["--cpus", "too large"])


def test_a_malformed_timeout_is_refused():
    for t in ("soon", "-1", "1.5", "1s", ""):
        refused(f"--timeout={t}", words=["--timeout", "number"])
    refused("--timeout", "9999999999", words=["--timeout", "or less"])


def test_a_run_without_a_kernel_says_how_to_give_one():
    refused("--cpus", 1, words=["no kernel", "--kernel FILE"])


def test_an_image_and_a_config_are_not_given_together():
    refused("debian", "--config", "x.json", words=["'debian'", "--config"])


def test_an_unknown_image_names_those_there_are():
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        refused("nothing", words=["'nothing'", folder, "guest-images/build"],
                env={"HUTCH_IMAGES": folder})
        os.mkdir(os.path.join(folder, "something"))
        with open(os.path.join(folder, "something", "config.json"), "w", encoding="ascii") as f:
            f.write("{}")
        refused("nothing", words=["'nothing'", folder, "something"], env={"HUTCH_IMAGES": folder})


# ---- kernel and initrd -------------------------------------------------------------------


def test_a_kernel_or_initrd_that_cannot_be_opened_is_named():
    refused("--kernel", "/nowhere/vmlinuz", words=["kernel", "'/nowhere/vmlinuz'", "No such file"])
    refused("--kernel", "/var/tmp", words=["kernel", "'/var/tmp'", "not a file"])
    refused("--kernel", "/dev/null", words=["kernel", "'/dev/null'", "not a file"])
    refused("--kernel", kernel(), "--initrd", "/nowhere/x",
            words=["initrd", "'/nowhere/x'", "No such file"])
    refused("--kernel", kernel(), "--initrd", "/var/tmp", words=["initrd", "not a file"])
    with scratch(b"secret", mode=0) as path:
        refused("--kernel", path, words=["kernel", path, "Permission denied"],
                wrap=as_nobody_special())
        refused("--kernel", kernel(), "--initrd", path, words=["initrd", path, "Permission denied"],
                wrap=as_nobody_special())
    with scratch() as empty:
        refused("--kernel", empty, words=["kernel", empty, "empty"])
        refused("--kernel", kernel(), "--initrd", empty, words=["initrd", empty, "empty"])


def test_a_fifo_is_no_kernel_and_nobody_waits_for_it():
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        fifo = os.path.join(folder, "fifo")
        os.mkfifo(fifo)
        refused("--kernel", fifo, words=["kernel", fifo, "not a file"])


def test_a_file_that_is_no_kernel_is_told_apart():
    no_kernel = (b"#!/bin/sh\necho hello\n", b"\x7fELF", os.urandom(5000), b"MZ" + bytes(600),
                 bytes(1 << 20))
    for content in no_kernel:
        with scratch(content) as path:
            refused("--kernel", path, words=["kernel", path, "no kernel", "bzImage"])
    refused("--kernel", "/bin/true", words=["kernel", "'/bin/true'", "no kernel"])


def made_up_bzimage():
    """A header as Documentation/arch/x86/boot.rst has it, before 1 MiB of nothing."""
    head = bytearray(1024)
    head[0x1f1] = 1                                  # setup_sects
    head[0x1f4:0x1f8] = struct.pack("<I", 65536)     # syssize, in 16 bytes
    head[0x1fe:0x200] = b"\x55\xaa"
    head[0x201] = 0x6a
    head[0x202:0x206] = b"HdrS"
    head[0x206:0x208] = struct.pack("<H", 0x20f)
    head[0x211] = 1                                  # LOADED_HIGH
    head[0x22c:0x230] = struct.pack("<I", 0x7fffffff)
    head[0x234] = 1                                  # relocatable
    head[0x236:0x238] = struct.pack("<H", 1)         # the 64-bit entry is there
    head[0x238:0x23c] = struct.pack("<I", 100)       # cmdline_size
    return bytes(head) + bytes(1 << 20)


def test_a_truncated_bzimage_says_how_much_is_missing():
    hutch.needs_kvm()
    images = [made_up_bzimage()]
    with contextlib.suppress(Skip), open(image("busybox", "vmlinuz"), "rb") as f:
        images.append(f.read())
    for whole in images:
        for left in (600, 1024, 4096, len(whole) // 2, len(whole) - 4096):
            with scratch(whole[:left]) as path:
                refused("--kernel", path, words=["kernel", path])


def test_a_kernel_that_is_cut_short_while_the_vm_runs_ends_the_next_boot():
    hutch.needs_kvm()
    with open(kernel(), "rb") as f, scratch(f.read()) as path:
        with Vm("--kernel", path, "--cmdline", "test=reset") as vm:
            vm.expect("reset now")
            os.truncate(path, 0)
            equal(vm.wait(), 125)
            check(f"kernel: '{path}' was written anew" in vm.stderr(), vm.stderr())


def test_a_truncated_elf_kernel_is_told():
    with open(kernel(), "rb") as f:
        whole = f.read()
    for left in (64, 100, 4096, len(whole) // 2):
        with scratch(whole[:left]) as path:
            err = refused("--kernel", path, words=["kernel", path])
            check("no kernel" in err or "cut short" in err, err)


def test_an_initrd_that_does_not_fit_asks_for_more_memory():
    with scratch() as big:
        os.truncate(big, 200 << 20)
        boots("--initrd", big, "--memory", "128M", words=["initrd", big, "200", "--memory"])
        os.truncate(big, 5 << 30)
        boots("--initrd", big, "--memory", "4G", words=["initrd", big, "5120"])


def test_a_command_line_that_is_too_long_says_what_fits():
    hutch.needs_kvm()
    with scratch(made_up_bzimage()) as path:
        refused("--kernel", path, "--cmdline", "x" * 101, words=["cmdline", "101", "100"])
    boots("--cmdline", "x" * 100000, words=["cmdline", "100000", "65535"])


# ---- disks ---------------------------------------------------------------------------------


def test_a_disk_that_cannot_be_opened_is_named():
    boots("--disk", "/nowhere/disk", words=["disk0", "'/nowhere/disk'", "No such file"])
    boots("--disk", "/var/tmp", words=["disk0", "'/var/tmp'", "directory"])
    boots("--disk", "/dev/null", words=["disk0", "'/dev/null'", "block device"])
    with scratch(bytes(1 << 20), mode=0) as path:
        boots("--disk", path, words=["disk0", path, "Permission denied"], wrap=as_nobody_special())
    with scratch(bytes(1 << 20), mode=0o400) as path:
        boots("--disk", path, words=["disk0", path, "Permission denied", "readonly"],
              wrap=as_nobody_special())
    with scratch() as path:
        boots("--disk", path, words=["disk0", path, "empty"])
    with scratch(b"x" * 100) as path:
        boots("--disk", path, words=["disk0", path, "too small"])


def test_a_raw_disk_with_another_formats_magic_is_refused_with_the_way_out():
    magics = {"qcow2": (0, b"QFI\xfb"), "vmdk": (0, b"KDMV"), "vhdx": (0, b"vhdxfile"),
              "vdi": (0x40, b"\x7f\x10\xda\xbe"), "vpc": (0, b"conectix")}
    for name, (offset, magic) in magics.items():
        content = bytes(offset) + magic + bytes(1 << 20)
        with scratch(content, ".img") as path:
            way_out = "format=qcow2" if name == "qcow2" else "hutch image import"
            boots("--disk", path, words=[path, "format=raw", way_out])
            equal(run("--kernel", kernel(), "--cmdline", "test=hello", "--disk",
                      f"{path},format=raw")[0], 0)
            with open(path, "rb") as f:
                equal(f.read(), content, "the disk was changed")


def test_a_qcow2_file_that_is_none_is_told():
    with scratch(bytes(1 << 20), ".qcow2") as path:
        boots("--disk", path, words=["disk0", path, "qcow2", "format=raw"])


def test_one_disk_is_not_given_twice_to_one_vm():
    with scratch(bytes(1 << 20)) as path:
        boots("--disk", path, "--disk", path, words=["disk1", path, "another disk"])


# ---- network -------------------------------------------------------------------------------


def test_a_malformed_network_option_is_told_before_anything_starts():
    for forward in ("tcp", "tcp:1:2", "sctp::1-:2", "tcp::x-:2", "tcp::0-:2", "tcp::70000-:2",
                    "tcp:300.1.1.1:1-:2", "tcp::1-2", "tcp::1-x:2", "tcp:::1-:2", ""):
        boots("--net", f"user,hostfwd={forward}", words=["hostfwd"])
    for mac in ("52:54:00:12:34", "52-54-00-12-34-56", "zz:54:00:12:34:56", "01:00:5e:00:00:01",
                "00:00:00:00:00:00", ""):
        refused("--net", f"user,mac={mac}", words=["--net", "mac", mac])
    refused("--net", "type=wire", words=["--net", "'wire'", "user, tap"])
    boots("--net", "user,ifname=tap0", words=["ifname"])
    boots("--net", "tap,hostfwd=tcp::1-:1", words=["hostfwd"])
    boots("--net", "tap,ifname=a/b", words=["ifname=a/b"])
    boots("--net", "tap,ifname=" + "x" * 16, words=["ifname"])


def test_a_host_port_in_use_is_named():
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        boots("--net", f"user,hostfwd=tcp:127.0.0.1:{port}-:22",
              words=["hostfwd", str(port), "in use"])
    boots("--net", "user,hostfwd=tcp:192.0.2.1:1-:22", words=["hostfwd", "no such address"])


# ---- consoles ------------------------------------------------------------------------------


def test_standard_input_serves_one_console():
    refused("--serial", "stdio", "--console", "stdio", words=["2 consoles", "pty"])
    refused("--serial", "stdio", "--serial", "stdio", words=["2 consoles", "pty"])
    refused("--serial", "stdio,file=x", words=["--serial", "one of"])
    refused("--serial", "name=x", words=["--serial"])
    refused("--console", "name=x", words=["--console", "stdio, pty"])
    refused("--serial", "none", "--serial", "none", "--serial", "none",
            words=["--serial", "only 2 serial ports"])


def test_a_file_for_output_that_cannot_be_written_is_named():
    boots("--serial", "file=/nowhere/log", words=["serial0", "'/nowhere/log'", "No such file"])
    boots("--console", "file=/nowhere/log", words=["console0", "'/nowhere/log'"])
    boots("--serial", "file=/var/tmp", words=["'/var/tmp'", "Is a directory"])
    with scratch(mode=0o400) as path:
        boots("--serial", f"file={path}", words=[path, "Permission denied"],
              wrap=as_nobody_special())


def test_a_socket_path_that_cannot_be_used_is_named():
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        path = os.path.join(folder, "s")
        boots("--serial", "socket=" + os.path.join(folder, "x" * 120),
              words=["too long", "107 bytes"])
        boots("--serial", "socket=/nowhere/s", words=["'/nowhere/s'", "No such file"])
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            boots("--serial", f"socket={path}", words=[path, "listens"])
            check(os.path.exists(path), "a socket in use was removed")
        with open(path + "f", "wb"):
            pass
        boots("--serial", f"socket={path}f", words=[path + "f", "not a socket"])
        check(os.path.exists(path + "f"), "a file was removed")


def test_a_socket_is_gone_after_every_end_and_replaced_after_a_kill():
    hutch.needs_kvm()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        path = os.path.join(folder, "s")
        arguments = ("--kernel", kernel(), "--console", f"socket={path}")
        boots("--serial", f"socket={path}", "--net", "user,hostfwd=tcp:192.0.2.1:1-:1",
              words=["no such address"])
        check(not os.path.exists(path), "an error left the socket behind")
        with Vm(*arguments, "--cmdline", "test=spin", "--serial", "stdio") as vm:
            vm.expect("spin ready")
            equal(os.stat(path).st_mode & 0o777, 0o600)
            vm.process.kill()
            vm.process.wait()
        check(os.path.exists(path), "the test is for a socket that a kill leaves behind")
        equal(run(*arguments, "--cmdline", "test=hello")[0], 0)
        check(not os.path.exists(path), "the end left the socket behind")


# ---- configs -------------------------------------------------------------------------------


def config_refused(text, *words, **options):
    content = text if isinstance(text, bytes) else text.encode()
    with scratch(content, ".json") as path:
        return refused("--config", path, words=[path, *words], **options)


def test_a_config_that_cannot_be_read_is_named():
    refused("--config", "/nowhere/c.json", words=["'/nowhere/c.json'", "No such file"])
    refused("--config", "/var/tmp", words=["'/var/tmp'", "directory"])
    refused("--config", "", words=["--config", "empty"])
    with scratch(b"{}", mode=0) as path:
        refused("--config", path, words=[path, "Permission denied"], wrap=as_nobody_special())
    with scratch() as path:
        refused("--config", path, words=[path])


def test_a_syntax_error_in_a_config_has_its_line():
    config_refused('{\n  "cpus": 2,\n  "memory" "1G"\n}', "line 3")
    config_refused('{\n\n"cpus": 2', "line 3")
    config_refused('{"cpus": 1} trailing', "line 1")
    config_refused("{'cpus': 1}", "line 1")
    config_refused("\0\0\0\0", "line 1")
    config_refused(b'{"name": "a\0b"}', "line 1")
    config_refused('{"name": "a\\u0000b"}', "line 1")
    config_refused(b'{"name": "\xff\xfe"}', "line 1")
    config_refused(b"\x1b[2J\x1b[31m\n\n", "line 1")
    config_refused(os.urandom(4096))
    config_refused("[" * 100000, "line 1")
    config_refused('{"disk":' + "[" * 3000 + "]" * 3000 + "}")


def test_a_config_of_the_wrong_shape_names_the_key():
    for text, words in {
        "[]": ["object"], "3": ["line 1"], '"x"': ["line 1"], "null": ["line 1"],
        '{"cpus": "2"}': ["cpus", "a number"], '{"cpus": 1.5}': ["cpus", "a number"],
        '{"cpus": -1}': ["cpus", "'-1'"], '{"cpus": null}': ["cpus", "null"],
        '{"cpus": []}': ["cpus", "an array"], '{"cpus": true}': ["cpus", "true"],
        '{"cpus": 99999999999999999999}': ["line 1"], '{"cpus": 65}': ["cpus", "64"],
        '{"memory": 5}': ["memory"], '{"memory": {"size": true}}': ["memory", "size"],
        '{"memory": {"size": -5}}': ["memory", "'-5'"],
        '{"memory": "12Q"}': ["memory", "'12Q'"],
        '{"kernel": 3}': ["kernel", "a string"], '{"kernel": ""}': ["kernel", "empty"],
        '{"no-reboot": "on"}': ["no-reboot", "true or false"],
        '{"disk": 3}': ["disk", "a number"], '{"disk": {}}': ["disk", "'path'"],
        '{"disk": [[]]}': ["disk", "an array"], '{"disk": {"path": 1}}': ["disk", "path"],
        '{"disk": {"path": "x", "fromat": "raw"}}': ["disk", "'format'"],
        '{"disk": "x,colour=red"}': ["disk", "'colour'"],
        '{"rng": 1}': ["rng"], '{"rng": "x"}': ["rng"],
        '{"net": {"type": "user", "hostfwd": 3}}': ["net", "hostfwd"],
        '{"net": {"type": "user", "hostfwd": [3]}}': ["net", "hostfwd"],
        '{"serial": {"type": "stdio", "file": "x"}}': ["serial"],
        '{"serial": ["none", "none", "none"]}': ["serial", "2 serial ports"],
        '{"colour": "red"}': ["'colour'", "--help"], '{"memroy": "1G"}': ["'memory'"],
        '{"config": "x"}': ["'config'"], '{"cpus": 1, "cpus": 2}': ["cpus", "line 1"],
    }.items():
        config_refused(text, *words)


def test_a_huge_config_is_not_read_to_its_end():
    with scratch(b'{"name": "') as path:
        os.truncate(path, 64 << 30)
        refused("--config", path, words=[path], limit=20)
    with scratch(b'{"name": "' + b"x" * (40 << 20) + b'"}') as path:
        refused("--config", path, words=[path, "1 MiB"])
    refused("--config", "/dev/zero", words=["'/dev/zero'"], limit=20)


def test_an_error_line_is_one_line_without_control_characters():
    refused("--kernel", "/nowhere/\n\x1b[2Jhutch: all is well\r", words=["No such file"])
    refused("--bad\noption", words=["hutch run --help"])
    config_refused('{"a\\nb\\u001b": 1}', "--help")
    err = refused("--kernel", "/" + "x" * 3000, words=["open '/xxx", "File name too long"])
    check(len(err) < 8192, len(err))
    refused("--" + "y" * 100000, words=["there is no option", "--help"])


def test_json_says_it_as_well_when_the_host_could_not_start_the_vm():
    status, out, err = run("--kernel", "/nowhere/vmlinuz", "--json")
    sentence, result = err.splitlines()
    result = json.loads(result)
    equal((status, out), (125, ""))
    equal((result["status"], result["reason"]), (125, "error"))
    equal(sentence, "hutch: error: " + result["detail"])


def test_json_is_json_whatever_bytes_a_file_name_has():
    status, _, err = run("--kernel", os.fsdecode(b"/nowhere/\xff"), "--json")
    result = json.loads(err.splitlines()[-1])
    equal((status, result["status"]), (125, 125))


# ---- what --print-config says -------------------------------------------------------------


def test_print_config_reads_back_as_the_same_bytes():
    combinations = (
        [], ["--cpus", 4, "--memory", "1G"], ["--memory", "1048576,shared,prealloc"],
        ["--kernel", "vmlinuz", "--initrd", "a dir/initrd", "--cmdline", 'a="b c" d=é,\\'],
        ["--disk", "a.raw", "--disk", "b,,c.raw,readonly", "--disk", "path=x=y,format=raw"],
        ["--net", "user,hostfwd=tcp::2222-:22,hostfwd=udp:127.0.0.1:53-:53,ipv6=off"],
        ["--net", "user", "--net", "tap,ifname=tap7,mac=52:54:00:00:00:07"],
        ["--serial", "file=log", "--serial", "socket=s", "--console", "stdio", "--console",
         "pty,name=org.x"],
        ["--serial", "none", "--console", "none"], ["--rng", "--rng"],
        ["--transport", "mmio", "--no-reboot", "--debug-exit", "--json", "--timeout", 30],
        ["--name", "a b", "--cmdline", "", "--no-reboot=off"],
    )
    for arguments in combinations:
        with scratch(suffix=".json") as path:
            status, first, err = run(*arguments, "--print-config")
            equal((status, err), (0, ""), arguments)
            with open(path, "w", encoding="utf-8") as f:
                f.write(first)
            status, second, err = run("--config", path, "--print-config")
            equal((status, err), (0, ""), arguments)
            equal(second, first, arguments)
            check(json.loads(first)["serial"], "no serial port is shown")


def test_paths_of_a_config_count_from_its_folder_and_come_out_absolute():
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        path = os.path.join(folder, "c.json")
        with open(path, "w", encoding="ascii") as f:
            json.dump({"kernel": "k", "disk": ["d.raw", "/abs/e.raw,readonly"]}, f)
        for spelling, cwd in ((path, "/"), ("c.json", folder), ("./c.json", folder)):
            status, out, err = run("--config", spelling, "--print-config", cwd=cwd)
            equal((status, err), (0, ""))
            got = json.loads(out)
            equal(os.path.normpath(got["kernel"]), os.path.join(folder, "k"))
            equal([os.path.normpath(d["path"]) for d in got["disk"]],
                  [os.path.join(folder, "d.raw"), "/abs/e.raw"])


def test_text_that_cannot_be_written_is_an_error():
    for arguments in (["run", "--print-config"], ["help", "run"], ["generate", "man"], ["version"]):
        with open("/dev/full", "wb") as full:
            done = subprocess.run([hutch.HUTCH, *arguments], stdout=full, stderr=subprocess.PIPE,
                                  check=False)
        equal(done.returncode, 125, arguments)
        check(b"standard output" in done.stderr, done.stderr)


def test_a_reader_of_text_that_leaves_hears_nothing_of_it():
    for arguments in (["run", "--help"], ["generate", "man"]):
        read_end, write_end = os.pipe()
        os.close(read_end)
        done = subprocess.run([hutch.HUTCH, *arguments], stdout=write_end, stderr=subprocess.PIPE,
                              check=False)
        os.close(write_end)
        equal(done.stderr, b"", arguments)


if __name__ == "__main__":
    hutch.main()
