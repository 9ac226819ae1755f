#!/usr/bin/env python3
"""hutch image, judged by qemu-img: what one makes the other reads, and no failure leaves
anything under the final name."""
import contextlib
import json
import os
import pty
import random
import re
import resource
import shutil
import signal
import subprocess
import time

import hutch
from disks import (MIB, contents, folder, image, qemu_img, qemu_io, random_raw, refused_here,
                   same)
from hutch import Skip, check, equal, refused

# ---- create ----------------------------------------------------------------------------------


CREATE_OPTIONS = (
    [], ["cluster_size=512"], ["cluster_size=2M"], ["cluster_size=64k,compat=0.10"],
    ["refcount_bits=1"], ["refcount_bits=64"], ["lazy_refcounts=on"], ["extended_l2=on"],
    ["compression_type=zstd"], ["preallocation=metadata"], ["preallocation=falloc"],
    ["preallocation=full"], ["cluster_size=4K", "refcount_bits=32"],
)


def test_what_create_makes_qemu_img_finds_right_and_describes_alike():
    for options in CREATE_OPTIONS:
        flags = [x for o in options for x in ("-o", o)]
        with folder():
            image("create", "-f", "qcow2", *flags, "a.qcow2", "13M")
            qemu_img("check", "a.qcow2")
            qemu_img("create", "-q", "-f", "qcow2", *flags, "b.qcow2", "13M")
            ours, theirs = (json.loads(qemu_img("info", "--output=json", f"{n}.qcow2"))
                            for n in "ab")
            for info in (ours, theirs):
                for key in ("filename", "actual-size"):
                    del info[key]
            equal(ours, theirs, f"info after create {options}")
            same("a.qcow2", "b.qcow2")


def test_create_takes_the_format_from_the_name_and_sizes_with_suffixes():
    with folder():
        for size, want in (("1M", MIB), ("3k", 3072), ("1G", 1 << 30), ("512", 512),
                           ("16T", 16 << 40)):
            image("create", "a.qcow2", size)
            equal(json.loads(qemu_img("info", "--output=json", "a.qcow2"))["virtual-size"], want)
        image("create", "a.raw", "1M")
        equal(os.path.getsize("a.raw"), MIB)
        equal(json.loads(image("info", "--json", "a.qcow2"))["format"], "qcow2")


def test_an_overlay_shows_its_backing_image_and_takes_its_size():
    with folder():
        random_raw("base.raw", 3 * MIB)
        os.mkdir("sub")
        image("create", "-b", "../base.raw", "-F", "raw", "sub/o.qcow2")
        same("sub/o.qcow2", "base.raw")
        equal(image("compare", "sub/o.qcow2", "base.raw"), "Images are identical.\n")
        info = json.loads(qemu_img("info", "--output=json", "sub/o.qcow2"))
        equal((info["backing-filename"], info["backing-filename-format"]), ("../base.raw", "raw"))


def test_an_overlay_by_a_stranger_is_followed_only_when_allowed():
    with folder():
        random_raw("base.raw", MIB)
        qemu_img("create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "o.qcow2")
        refused("compare", os.path.abspath("o.qcow2"), os.path.abspath("base.raw"), verb="image",
                words=["base.raw", "o.qcow2", "backing"])
        image("compare", "--backing", "on", "o.qcow2", "base.raw")
        image("info", "o.qcow2")


def test_create_says_what_is_wrong():
    with folder() as here:
        image("create", "used.qcow2", "1M")
        for words, arguments in {
            ("how large", "a.qcow2"): ["a.qcow2"], ("'x'", "size"): ["a.qcow2", "x"],
            ("cluster_size",): ["-o", "cluster_size=1000", "a.qcow2", "1M"],
            ("did you mean", "cluster_size"): ["-o", "cluster_siez=4K", "a.qcow2", "1M"],
            ("nowhere.raw",): ["-b", "nowhere.raw", "a.qcow2"],
            ("raw",): ["-b", "used.qcow2", "-f", "raw", "a.raw"],
            ("too many",): ["a.qcow2", "1M", "2M"],
            ("/nowhere/a.qcow2",): ["/nowhere/a.qcow2", "1M"],
            ("directory",): [".", "1M"],
        }.items():
            refused("create", *arguments, verb="image", words=words, cwd=here)
        image("create", "-u", "-b", "nowhere.raw", "-F", "raw", "a.qcow2", "1M")
        check("nowhere.raw" in qemu_img("info", "a.qcow2"), "the name is not in the image")


# ---- options ---------------------------------------------------------------------------------


def test_unknown_options_and_verbs_are_told_with_what_was_meant():
    with folder():
        for words, arguments in {
            ("'image cerate'", "'create'"): ["cerate"], ("'image frob'",): ["frob"],
            ("--bakcing", "'--backing'"): ["info", "--bakcing", "x"],
            ("'-Z'", "hutch image info --help"): ["info", "-Z", "x"],
            ("missing", "hutch image info"): ["info"],
            ("--output", "'yaml'"): ["info", "--output=yaml", "x"],
            ("'x.qcow2'", "No such file"): ["info", "x.qcow2"],
            ("'/nowhere/x'",): ["check", "/nowhere/x"],
        }.items():
            refused_here(*arguments, words=words, status=1 if "check" in arguments else 125)


def test_short_options_may_be_joined_and_values_attached():
    with folder():
        image("create", "-fqcow2", "-ocluster_size=4K", "a.bin", "1M")
        equal(json.loads(image("info", "-f", "qcow2", "--json", "a.bin"))["cluster-size"], 4096)
        image("convert", "-qcOqcow2", "-f", "qcow2", "a.bin", "--", "b.bin")
        same("a.bin", "b.bin", "-f", "qcow2", "-F", "qcow2")


def test_help_of_each_verb_is_printed():
    for verb in ("create", "info", "check", "convert", "import", "resize", "rebase", "commit",
                 "map", "compare", "snapshot"):
        check(f"Usage: hutch image {verb}" in image(verb, "--help"), verb)
        check(f"  {verb} " in image("--help"), verb)


# ---- info, map, check, compare -----------------------------------------------------------------


def chain():
    """Three layers of ours, made in different ways."""
    random_raw("base.raw", 9 * MIB, 1)
    image("create", "-b", "base.raw", "-F", "raw", "mid.qcow2", "10M")
    qemu_io("mid.qcow2", "write -P 7 1M 100k", "write -P 5 7M 128k", "write -z 4M 128k", "discard 5M 64k")
    image("create", "-b", "mid.qcow2", "-o", "cluster_size=4k", "top.qcow2", "12M")
    qemu_io("top.qcow2", "write -P 9 2M 300k", "write -P 6 7204k 4k", "write -c -P 8 6M 64k", "write -z 3M 1M")


def test_info_of_a_chain_has_qemus_keys_and_values():
    with folder():
        chain()
        qemu_img("snapshot", "-c", "one", "top.qcow2")
        ours = json.loads(image("info", "--backing-chain", "--output=json", "top.qcow2"))
        theirs = json.loads(qemu_img("info", "--backing-chain", "--output=json", "top.qcow2"))
        equal(len(ours), len(theirs), "length of the chain")
        for a, b in zip(ours, theirs):
            for key in ("virtual-size", "filename", "format", "actual-size", "dirty-flag",
                        "cluster-size", "backing-filename", "full-backing-filename",
                        "backing-filename-format", "format-specific"):
                equal(a.get(key), b.get(key), f"{key} of {b['filename']}")
            for x, y in zip(a.get("snapshots", []), b.get("snapshots", [])):
                for key in ("id", "name", "vm-state-size", "date-sec", "date-nsec"):
                    equal(x[key], y[key], f"snapshot's {key}")
        text = image("info", "--backing-chain", "top.qcow2")
        for word in ("image: top.qcow2", "backing file: mid.qcow2", "image: base.raw", "one"):
            check(word in text, f"{word!r} is not in {text}")


def regions(text, only):
    """What of the disk is `only`, byte ranges joined."""
    out = []
    for e in json.loads(text):
        if not e[only]:
            continue
        if out and out[-1][1] == e["start"]:
            out[-1][1] += e["length"]
        else:
            out.append([e["start"], e["start"] + e["length"]])
    return out


def test_map_agrees_with_qemu_img():
    with folder():
        chain()
        for name in ("base.raw", "mid.qcow2", "top.qcow2"):
            ours, theirs = image("map", "--json", name), qemu_img("map", "--output=json", name)
            equal(regions(ours, "present"), regions(theirs, "present"), f"present in {name}")
            entries = json.loads(ours)
            equal(entries[0]["start"], 0)
            for a, b in zip(entries, entries[1:]):
                equal(a["start"] + a["length"], b["start"], f"a gap in the map of {name}")
            by_start = {e["start"]: e for e in json.loads(theirs)}
            both = [(e, by_start[e["start"]]) for e in entries if e["start"] in by_start]
            check(len(both) > 3, "nothing to compare")
            for a, b in both:
                equal(a["depth"], b["depth"], f"depth of {a} in {name}")
                if a["data"]:
                    equal(a.get("offset"), b.get("offset"), f"offset of {a} in {name}")
        check("top.qcow2" in image("map", "top.qcow2"), "no file in the table")


def test_map_of_data_reads_back_from_the_file_it_names():
    with folder():
        image("create", "a.qcow2", "8M")
        qemu_io("a.qcow2", "write -P 5 3M 64k")
        for e in json.loads(image("map", "--json", "-s", "3M", "-l", "64K", "a.qcow2")):
            equal((e["start"], e["length"], e["data"]), (3 * MIB, 65536, True))
            with open("a.qcow2", "rb") as f:
                f.seek(e["offset"])
                equal(f.read(65536), b"\5" * 65536)


def test_check_has_qemu_imgs_statuses_and_counts():
    with folder():
        random_raw("r.raw", 4 * MIB)
        qemu_img("convert", "-O", "qcow2", "r.raw", "a.qcow2")
        ours = json.loads(image("check", "--json", "a.qcow2"))
        theirs = json.loads(qemu_img("check", "--output=json", "a.qcow2"))
        for key in ("total-clusters", "allocated-clusters", "image-end-offset", "check-errors"):
            equal(ours.get(key), theirs.get(key), key)
        image("check", "r.raw", status=63)
        image("check", "nosuch.qcow2", status=1)
        with open("a.qcow2", "r+b") as f:  # a cluster that nobody has
            f.seek(48)
            refcounts = int.from_bytes(f.read(8), "big")
            f.seek(refcounts)
            block = int.from_bytes(f.read(8), "big")
            f.seek(0, 2)
            end = f.tell() // 65536
            f.truncate((end + 3) * 65536)
            f.seek(block + 2 * (end + 2))
            f.write(b"\0\1")
        equal(json.loads(image("check", "--json", "a.qcow2", status=3))["leaks"], 1)
        image("check", "-r", "leaks", "a.qcow2")
        qemu_img("check", "a.qcow2")
        image("check", "--repair", "a.qcow2")
        same("a.qcow2", "r.raw", "-F", "raw")


def test_check_finds_and_repairs_an_error():
    with folder():
        random_raw("r.raw", 4 * MIB)
        qemu_img("convert", "-O", "qcow2", "r.raw", "a.qcow2")
        with open("a.qcow2", "r+b") as f:  # in use, and counted as free
            f.seek(48)
            f.seek(int.from_bytes(f.read(8), "big"))
            block = int.from_bytes(f.read(8), "big")
            f.seek(block + 2 * 10)
            f.write(b"\0\0")
        check(json.loads(image("check", "--json", "a.qcow2", status=2))["corruptions"] >= 1, "none")
        image("check", "--repair=all", "a.qcow2")
        qemu_img("check", "a.qcow2")
        same("a.qcow2", "r.raw", "-F", "raw")


def test_compare_has_qemu_imgs_verdicts_and_finds_the_first_difference():
    with folder():
        random_raw("a.raw", 20 * MIB, density=0.8)
        shutil.copy("a.raw", "b.raw")
        rng = random.Random(3)
        for _ in range(8):
            offset = rng.randrange(20 * MIB)
            with open("b.raw", "r+b") as f:
                f.seek(offset)
                byte = f.read(1)
                f.seek(offset)
                f.write(bytes([byte[0] ^ 1]))
            ours, theirs = image("compare", "a.raw", "b.raw", status=1), None
            theirs = qemu_img("compare", "a.raw", "b.raw", status=1)
            # qemu-img names the block's or the sector's beginning
            got, want = (int(re.search(r"offset (\d+)", t)[1]) for t in (ours, theirs))
            check(want <= got, f"{got} is not the first difference: {want}")
            where = json.loads(image("compare", "--json", "a.raw", "b.raw", status=1))["offset"]
            with open("a.raw", "rb") as x, open("b.raw", "rb") as y:
                x, y = x.read(), y.read()
                equal(x[:where], y[:where], "before the first difference")
                check(x[where] != y[where], "no difference there")
        shutil.copy("a.raw", "b.raw")
        os.truncate("b.raw", 24 * MIB)
        image("compare", "a.raw", "b.raw")
        image("compare", "-s", "a.raw", "b.raw", status=1)
        with open("b.raw", "r+b") as f:
            f.seek(-1, 2)
            f.write(b"x")
        image("compare", "a.raw", "b.raw", status=1)
        image("compare", "b.raw", "a.raw", status=1)
        image("compare", "a.raw", "nosuch.raw", status=125)


# ---- convert -----------------------------------------------------------------------------------


def test_convert_to_every_kind_shows_the_same():
    kinds = [["-O", "raw"], *(["-O", "qcow2", *[x for o in opts for x in ("-o", o)]]
                              for opts in CREATE_OPTIONS),
             ["-c", "-O", "qcow2"], ["-c", "-O", "qcow2", "-o", "compression_type=zstd"],
             ["-c", "-O", "qcow2", "-o", "cluster_size=4k"],
             ["-c", "-O", "qcow2", "-o", "cluster_size=2M"],
             ["-S", "0", "-O", "raw"], ["-S", "64K", "-O", "raw"], ["-C", "-O", "raw"],
             ["-m", "1", "-O", "qcow2"], ["-m", "16", "-W", "-O", "qcow2"],
             ["-t", "none", "-T", "none", "-O", "raw"], ["-t", "unsafe", "-O", "qcow2"],
             ["-t", "none", "-O", "qcow2"]]
    with folder():
        random_raw("in.raw", 11 * MIB + 512 * 3)
        for number, kind in enumerate(kinds):
            image("convert", "-f", "raw", *kind, "in.raw", "out")
            fmt = kind[kind.index("-O") + 1]
            same("in.raw", "out", "-f", "raw", "-F", fmt)
            if fmt == "qcow2":
                qemu_img("check", "-f", "qcow2", "out")
                image("convert", "-f", "qcow2", "-O", "raw", "out", "back")
                equal(contents("back"), contents("in.raw"), f"{kind} and back")
            else:
                equal(contents("out"), contents("in.raw"), f"{kind}")


def test_convert_reads_what_qemu_img_wrote():
    with folder():
        random_raw("in.raw", 7 * MIB)
        for options in (["-c"], ["-c", "-o", "compression_type=zstd"], ["-o", "extended_l2=on"],
                        ["-o", "cluster_size=512"], ["-o", "compat=0.10"],
                        ["-o", "data_file=x.data"], ["-o", "data_file=x.data,data_file_raw=on"]):
            if os.path.exists("x.data"):
                os.unlink("x.data")
            qemu_img("convert", "-O", "qcow2", *options, "in.raw", "a.qcow2")
            image("convert", "--backing", "on", "-O", "raw", "a.qcow2", "back")
            equal(contents("back"), contents("in.raw"), options)
            os.unlink("a.qcow2")


def test_convert_keeps_holes_and_drops_zeroes():
    with folder():
        with open("in.raw", "wb") as f:
            f.write(b"x" * MIB + bytes(MIB))
            f.truncate(64 * MIB)
        image("convert", "in.raw", "out.raw")
        equal(os.stat("out.raw").st_blocks * 512, MIB)
        image("convert", "-S", "0", "in.raw", "full.raw")
        check(os.stat("full.raw").st_blocks * 512 >= 64 * MIB, "zeroes were left out")
        image("convert", "in.raw", "out.qcow2")
        equal(json.loads(qemu_img("check", "--output=json", "out.qcow2"))["allocated-clusters"], 16)


def test_convert_compresses():
    with folder():
        with open("in.raw", "wb") as f:
            f.write(b"all work and no play " * 400000)
            f.truncate(9 * MIB)
        for kind in ("zlib", "zstd"):
            image("convert", "-c", "-o", f"compression_type={kind}", "in.raw", f"{kind}.qcow2")
            qemu_img("check", f"{kind}.qcow2")
            same("in.raw", f"{kind}.qcow2")
            check(os.path.getsize(f"{kind}.qcow2") < MIB, "it is not smaller")
        refused_here("convert", "-c", "in.raw", "out.raw", words=["out.raw", "qcow2"])


def test_convert_of_a_chain_and_onto_a_backing_image():
    with folder():
        chain()
        image("convert", "top.qcow2", "flat.raw")
        same("top.qcow2", "flat.raw")
        image("convert", "-B", "mid.qcow2", "-F", "qcow2", "top.qcow2", "again.qcow2")
        same("again.qcow2", "flat.raw")
        qemu_img("check", "again.qcow2")
        own = regions(image("map", "--json", "again.qcow2"), "present")
        image("convert", "-B", "base.raw", "-F", "raw", "flat.raw", "third.qcow2")
        same("third.qcow2", "flat.raw")
        check(own, "nothing is there")


def test_convert_into_an_image_that_is_there():
    with folder():
        random_raw("in.raw", 5 * MIB)
        random_raw("out.raw", 5 * MIB, 9, 1)
        inode = os.stat("out.raw").st_ino
        image("convert", "-n", "in.raw", "out.raw")
        equal(contents("in.raw"), contents("out.raw"))
        equal(os.stat("out.raw").st_ino, inode)
        image("create", "out.qcow2", "5M")
        qemu_io("out.qcow2", "write -P 77 0 5M")
        image("convert", "-n", "in.raw", "out.qcow2")
        same("in.raw", "out.qcow2")
        image("create", "small.qcow2", "1M")
        refused_here("convert", "-n", "in.raw", "small.qcow2", words=["small.qcow2", "too few"])


def test_convert_replaces_a_file_and_keeps_its_mode_and_its_link():
    with folder():
        random_raw("in.raw", 2 * MIB)
        random_raw("real.raw", MIB)
        os.chmod("real.raw", 0o604)
        os.symlink("real.raw", "link.raw")
        image("convert", "in.raw", "link.raw")
        check(os.path.islink("link.raw"), "the link was replaced")
        equal(os.stat("real.raw").st_mode & 0o777, 0o604)
        equal(contents("real.raw"), contents("in.raw"))


def test_an_image_in_use_is_not_replaced():
    with folder():
        random_raw("in.raw", MIB)
        image("create", "used.qcow2", "1M")
        process = subprocess.Popen(["qemu-io", "used.qcow2"], stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE)
        try:
            process.stdin.write(b"write 0 64k\n")
            process.stdin.flush()
            process.stdout.readline()
            for arguments in (["convert", "in.raw", "used.qcow2"],
                              ["convert", "-n", "in.raw", "used.qcow2"],
                              ["create", "used.qcow2", "1M"], ["resize", "used.qcow2", "2M"],
                              ["info", "used.qcow2"], ["commit", "used.qcow2"],
                              ["snapshot", "-c", "x", "used.qcow2"]):
                refused_here(*arguments, words=["used.qcow2", "in use"])
            image("info", "-U", "used.qcow2")
        finally:
            process.stdin.close()
            process.wait()
            process.stdout.close()
        refused_here("convert", "in.raw", "in.raw", words=["in.raw"])


def test_what_fails_leaves_nothing_under_the_final_name():
    with folder():
        random_raw("in.raw", 8 * MIB, density=1)
        refused_here("convert", "nosuch.raw", "out.raw", words=["nosuch.raw"])
        refused_here("convert", "in.raw", "/nowhere/out.raw", words=["/nowhere/out.raw"])
        refused_here("convert", "in.raw", ".", words=["directory"])

        def small():
            resource.setrlimit(resource.RLIMIT_FSIZE, (3 * MIB, 3 * MIB))

        for out, extra in (("out.raw", []), ("out.qcow2", []), ("out.qcow2", ["-c"])):
            image("convert", *extra, "in.raw", out, status=125, preexec=small)
            check(not os.path.exists(out), f"{out} is there")
            with open(out, "wb") as f:
                f.write(b"old" * 1000)
            image("convert", *extra, "in.raw", out, status=125, preexec=small)
            equal(os.path.getsize(out), 3000, "the old file")
            os.unlink(out)


def test_a_full_disk_is_told_and_nothing_is_left():
    if os.geteuid():
        raise Skip("a small file system needs root")
    with folder():
        random_raw("in.raw", 8 * MIB, density=1)
        os.mkdir("small")
        try:
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", "small"], check=True)
        except subprocess.CalledProcessError:
            raise Skip("no file system can be mounted here") from None
        try:
            for out in ("small/out.raw", "small/out.qcow2"):
                refused_here("convert", "in.raw", out, words=[f"'{out}'", "No space"])
                equal(os.listdir("small"), [], "left on the full disk")
        finally:
            subprocess.run(["umount", "small"], check=True)


def interrupted(arguments, number, after, out):
    """Starts a conversion, signals it after so many seconds; its status."""
    process = subprocess.Popen([hutch.HUTCH, "image", *arguments], stderr=subprocess.PIPE,
                               stdin=subprocess.DEVNULL)
    time.sleep(after)
    process.send_signal(number)
    _, err = process.communicate(timeout=30 * hutch.PATIENCE)
    if process.returncode != 0 and number != signal.SIGKILL:  # which may come after the name
        check(not os.path.exists(out), f"{out} is there after signal {number}: {err}")
    return process.returncode


def test_an_interrupted_conversion_leaves_nothing_and_a_killed_one_only_a_partial():
    with folder():
        random_raw("in.raw", 24 * MIB, density=1)
        rng = random.Random(5)
        slow = ["convert", "-r", "16M", "in.raw", "out.qcow2"]
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            equal(interrupted(slow, number, 0.5, "out.qcow2"), 128 + number)
            equal(sorted(os.listdir(".")), ["in.raw"])
        finished = 0
        for _ in range(12):
            arguments = ["convert", *rng.choice(([], ["-c"])), "in.raw", "out.qcow2"]
            status = interrupted(arguments, signal.SIGKILL, rng.random() * 0.3, "out.qcow2")
            finished += status == 0
            for name in os.listdir("."):
                if name == "out.qcow2":
                    same("in.raw", "out.qcow2")
                    os.unlink(name)
                elif name != "in.raw":
                    check(re.fullmatch(r"out\.qcow2\.partial-[0-9a-f]{6}(\.new-\d+)?", name), name)
                    os.unlink(name)
        check(finished < 12, "none was killed")


def test_the_rate_limit_is_kept():
    with folder():
        random_raw("in.raw", 16 * MIB, density=1)
        started = time.monotonic()
        image("convert", "-r", "8M", "in.raw", "out.raw")
        check(time.monotonic() - started > 1.2, "it was faster than allowed")


def test_a_snapshot_inside_an_image_can_be_converted():
    with folder():
        image("create", "a.qcow2", "4M")
        qemu_io("a.qcow2", "write -P 1 0 2M")
        image("convert", "a.qcow2", "then.raw")
        image("snapshot", "-c", "then", "a.qcow2")
        qemu_io("a.qcow2", "write -P 2 1M 2M")
        image("convert", "-l", "then", "a.qcow2", "again.raw")
        equal(contents("then.raw"), contents("again.raw"))
        refused_here("convert", "-l", "never", "a.qcow2", "b.raw", words=["a.qcow2", "never"])


def test_convert_speaks_nbd_on_both_sides():
    if not shutil.which("qemu-nbd"):
        raise Skip("qemu-nbd is not installed")
    with folder() as here:
        random_raw("in.raw", 6 * MIB)
        image("create", "there.raw", "6M")
        for source, export, flags in (("in.raw", "in", ["-r"]), ("there.raw", "out", [])):
            subprocess.run(["qemu-nbd", "--fork", "-t", *flags, "-f", "raw", "-k",
                            f"{here}/{export}.sock", "--pid-file", f"{export}.pid", source],
                           check=True)
        try:
            image("convert", "-O", "raw", f"nbd+unix:///?socket={here}/in.sock", "copy.raw")
            equal(contents("copy.raw"), contents("in.raw"))
            image("convert", "-O", "raw", "in.raw", f"nbd+unix:///?socket={here}/out.sock")
        finally:
            for export in ("in", "out"):
                with open(f"{export}.pid", encoding="ascii") as f:
                    os.kill(int(f.read()), signal.SIGTERM)
        for _ in range(100):
            if contents("there.raw") == contents("in.raw"):
                break
            time.sleep(0.1)
        equal(contents("there.raw"), contents("in.raw"))


# ---- progress ----------------------------------------------------------------------------------


def test_progress_is_a_bar_on_a_terminal_and_is_cleaned_up():
    with folder():
        random_raw("in.raw", 16 * MIB, density=1)
        master, slave = pty.openpty()
        process = subprocess.Popen([hutch.HUTCH, "image", "convert", "-r", "10M", "in.raw",
                                    "out.raw"], stderr=slave, stdout=subprocess.PIPE)
        os.close(slave)
        seen = b""
        with contextlib.suppress(OSError):
            while data := os.read(master, 4096):
                seen += data
        equal(process.wait(), 0)
        equal(process.stdout.read(), b"", "standard output")
        process.stdout.close()
        os.close(master)
        check(re.search(rb"\[#+\.+\] +\d+%  .* of 16 MiB .*/s  0:\d\d left", seen), seen)
        check(seen.endswith(b"\r\x1b[K"), f"the line was not cleaned: {seen[-80:]}")
        check(b"\n" not in seen, "more than one line")


def test_progress_in_a_log_is_a_line_a_second_and_only_if_asked_for():
    with folder():
        random_raw("in.raw", 16 * MIB, density=1)
        for flags, least in (([], 0), (["-p"], 1), (["-p", "-q"], 0)):
            done = subprocess.run([hutch.HUTCH, "image", "convert", *flags, "-r", "6M", "in.raw",
                                   "out.raw"], capture_output=True, text=True, check=True)
            equal(done.stdout, "", "standard output")
            lines = done.stderr.splitlines()
            check(least <= len(lines) <= 6 * least, f"{flags}: {lines}")
            for line in lines:
                check(re.match(r"hutch: convert: +\d+%  ", line), line)


# ---- resize, rebase, commit, snapshot ------------------------------------------------------------


def test_resize_takes_sizes_and_changes_and_shrinks_only_when_told():
    with folder():
        for name in ("a.raw", "a.qcow2"):
            image("create", name, "4M")
            qemu_io(name, "write -P 3 3M 1M", fmt=name[2:])
            for change, want in (("8M", 8), ("+2M", 10), ("-1M", None)):
                if want:
                    image("resize", name, change)
                    size = json.loads(qemu_img("info", "--output=json", name))["virtual-size"]
                    equal(size, want * MIB)
                else:
                    refused_here("resize", name, change, words=[name, "--shrink"])
            image("resize", "--shrink", name, "-7M")
            equal(json.loads(image("info", "--json", name))["virtual-size"], 3 * MIB)
            if name == "a.qcow2":
                qemu_img("check", name)
            image("resize", name, "4M")
            qemu_io(name, "read -P 0 3M 1M", fmt=name[2:])
            refused_here("resize", name, "-4M", words=[name, "not possible"])
            refused_here("resize", name, "+x", words=[name, "size"])
            image("resize", "--preallocation", "full", name, "6M")
            qemu_io(name, "read -P 0 3M 3M", fmt=name[2:])


def test_rebase_shows_the_same_on_another_backing_image():
    with folder():
        chain()
        image("convert", "top.qcow2", "want.raw")
        random_raw("other.raw", 11 * MIB, 77)
        for new, fmt in (("other.raw", "raw"), ("base.raw", "raw"), ("mid.qcow2", "qcow2"),
                         ("", None)):
            shutil.copy("top.qcow2", "t.qcow2")
            image("rebase", "--backing", "on", "-b", new, *(["-F", fmt] if fmt else []), "t.qcow2")
            qemu_img("check", "t.qcow2")
            same("t.qcow2", "want.raw")
            info = json.loads(qemu_img("info", "--output=json", "t.qcow2"))
            equal(info.get("backing-filename"), new or None)
            image("compare", "t.qcow2", "want.raw")
        refused_here("rebase", "top.qcow2", words=["-b"])
        refused_here("rebase", "-b", "nosuch.raw", "top.qcow2", words=["nosuch.raw"])
        refused_here("rebase", "-b", "top.qcow2", "mid.qcow2", words=["top.qcow2"])
        refused_here("rebase", "-b", "base.raw", "other.raw", words=["other.raw"])


def test_an_unsafe_rebase_changes_the_name_only():
    with folder():
        chain()
        os.rename("mid.qcow2", "moved.qcow2")
        before = os.path.getsize("top.qcow2")
        image("rebase", "-u", "-b", "moved.qcow2", "-F", "qcow2", "top.qcow2")
        equal(os.path.getsize("top.qcow2"), before)
        image("compare", "top.qcow2", "top.qcow2")
        equal(json.loads(image("info", "--json", "top.qcow2"))["backing-filename"], "moved.qcow2")


def test_commit_moves_an_overlays_data_down_and_empties_it():
    for options, names in (([], 1), (["-d"], 1), (["-b", "base.raw"], 2)):
        with folder():
            chain()
            image("convert", "top.qcow2", "want.raw")
            image("commit", *options, "top.qcow2")
            base = "base.raw" if names == 2 else "mid.qcow2"
            image("convert", base, "got.raw")
            equal(contents("got.raw"), contents("want.raw"), f"commit {options}")
            if base == "mid.qcow2":
                qemu_img("check", base)
            qemu_img("check", "top.qcow2")
            if names == 1:
                image("compare", "top.qcow2", "want.raw")
                own = [e for e in json.loads(image("map", "--json", "top.qcow2"))
                       if e["present"] and e["depth"] == 0]
                equal(not own, not options, "the overlay is empty")
    with folder():
        chain()
        image("convert", "top.qcow2", "want.raw")
        os.chmod("top.qcow2", 0o606)
        os.symlink("top.qcow2", "link.qcow2")
        image("commit", "link.qcow2")
        check(os.path.islink("link.qcow2"), "the link was replaced")
        image("commit", "top.qcow2")
        equal(os.stat("top.qcow2").st_mode & 0o777, 0o606)
        image("compare", "link.qcow2", "want.raw")
    with folder():
        image("create", "alone.qcow2", "1M")
        refused_here("commit", "alone.qcow2", words=["alone.qcow2", "no backing image"])


def test_snapshots_inside_an_image_come_and_go_as_with_qemu_img():
    with folder():
        image("create", "a.qcow2", "4M")
        qemu_io("a.qcow2", "write -P 1 0 2M")
        image("snapshot", "-c", "one", "a.qcow2")
        qemu_io("a.qcow2", "write -P 2 0 3M")
        qemu_img("snapshot", "-c", "two", "a.qcow2")
        listed = json.loads(image("snapshot", "-l", "--json", "a.qcow2"))
        equal([s["name"] for s in listed], ["one", "two"])
        check("one" in image("snapshot", "a.qcow2"), "not listed")
        image("snapshot", "-a", "one", "a.qcow2")
        qemu_io("a.qcow2", "read -P 1 0 2M", "read -P 0 2M 2M")
        qemu_img("check", "a.qcow2")
        image("snapshot", "-d", "one", "a.qcow2")
        qemu_img("snapshot", "-a", "two", "a.qcow2")
        qemu_io("a.qcow2", "read -P 2 0 3M")
        image("snapshot", "-d", "two", "a.qcow2")
        qemu_img("check", "a.qcow2")
        equal(json.loads(image("snapshot", "--json", "a.qcow2")), [])
        refused_here("snapshot", "-d", "two", "a.qcow2", words=["a.qcow2", "two"])
        refused_here("snapshot", "-l", "-d", "two", "a.qcow2", words=["one of"])
        image("create", "r.raw", "1M")
        refused_here("snapshot", "-c", "x", "r.raw", words=["r.raw", "qcow2"])


if __name__ == "__main__":
    hutch.main()
