#!/usr/bin/env python3
"""The verbs about snapshots' folders, on folders that hutch's own writers made, and a reader
that knows the format by its document only.  No guests."""
import contextlib
import fcntl
import hashlib
import io
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import time
import zlib

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "guest"))
import hutch  # noqa: E402
from disks import MIB, folder, image, random_raw  # noqa: E402
from hutch import check, equal  # noqa: E402
from snapshot_reader import PAGE, Snapshot, sections  # noqa: E402

MAKE = os.environ.get("SNAPSHOT_MAKE", os.path.join(hutch.ROOT, "build/tests/interop/snapshot_make"))
F_OFD_SETLK = 37


@contextlib.contextmanager
def store():
    """A folder that is the store as well as where we are."""
    with folder() as path:
        before = dict(os.environ)
        os.environ.update(HUTCH_SNAPSHOTS=path, HUTCH_TEMPLATES=os.path.join(path, "templates"))
        try:
            yield path
        finally:
            os.environ.clear()
            os.environ.update(before)
        left = [name for name in os.listdir(path) if name.startswith(".")]
        equal(left, [], "left behind")


def make(name, mib, *options, parent=None):
    subprocess.run([MAKE, f"{name}.snap", str(mib), *([f"parent={parent}.snap"] if parent else []),
                    *options], check=True)


def run(*arguments, status=0, **kwargs):
    """A whole `hutch`, its output and what it says on standard error."""
    done = subprocess.run([hutch.HUTCH, *map(str, arguments)], capture_output=True, check=False,
                          timeout=120 * hutch.PATIENCE, **kwargs)
    equal(done.returncode, status, f"hutch {' '.join(map(str, arguments))}: {done.stderr}")
    return done.stdout, done.stderr.decode()


def snapshot(*arguments, status=0):
    out, err = run("snapshot", *arguments, status=status)
    return out.decode() if status == 0 else err


def as_json(*arguments, status=0):
    return json.loads(run("snapshot", *arguments, "--json", status=status)[0])


def memory_of(name):
    s = Snapshot(f"{name}.snap")
    return [s.page(p) for p in range(s.pages)]


def damage(path, at):
    with open(path, "r+b") as f:
        f.seek(at)
        byte = f.read(1)[0]
        f.seek(at)
        f.write(bytes([byte ^ 1]))


def hold(name):
    """As a VM restored from it does; closing gives it back."""
    f = open(f"{name}.snap/manifest.json", "rb")
    fcntl.fcntl(f, F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_RDLCK, 0, 0, 0, 0))
    return f


# ---- the format ------------------------------------------------------------------------------


def test_a_reader_by_the_document_sees_what_was_written():
    with store():
        for how in ((), ("zstd",)):
            make("full", 9, *how, "0=1", "5=7", "1024=9", "2303=255", "register=17")
            make("diff", 9, *how, "5=0", "6=8", parent="full")
            make("next", 9, "1025=4", parent="diff")
            s = Snapshot("next.snap")
            for one in (s, s.parent, s.parent.parent):
                one.verify()
            for page, byte in ((0, 1), (1, 0), (5, 0), (6, 8), (1024, 9), (1025, 4), (2303, 255)):
                equal(s.page(page), bytes([byte]) * PAGE, f"page {page}, {how}")
            equal(s.parent.parent.page(5), bytes([7]) * PAGE)
            kind, _, values = sections(s.parent.parent.read("state"))["serial0"]
            equal(kind, "serial")
            check(bytes([17]) in values.values(), "the register is not there")
            snapshot("rm", "full", "diff", "next")


def test_inspect_says_the_same():
    with store():
        make("full", 9, "0=1", "register=17", 'config={"cpus": 3}')
        make("diff", 9, "5=0", parent="full")
        for name in ("full", "diff"):
            told, s = as_json("inspect", name), Snapshot(f"{name}.snap")
            equal(told["manifest"], s.manifest)
            equal(told["config"], json.loads(s.read("config.json")))
            equal(list(told["state"]), list(sections(s.read("state"))))
        equal(as_json("inspect", "full")["state"]["serial0"]["fields"]["scr"], 17)
        text = snapshot("inspect", "full")
        for promise in ("scr: 17", "cpus: 3", "serial0: serial, version", "of the VM: web"):
            check(promise in text, f"'{promise}' is not in: {text}")


# ---- list ------------------------------------------------------------------------------------


def test_list_shows_a_tree_and_who_uses_what():
    with store() as path:
        equal(as_json("list"), [])
        make("base", 4, "0=1")
        make("b", 4, "1=1", parent="base")
        make("a", 4, "1=1", parent="base")
        make("a1", 4, "1=1", parent="a")
        make("other", 4, "1=1")
        rows = [re.split(r"  \d{4}-", line)[0] for line in snapshot("list").splitlines()[1:]]
        equal([r.rstrip() for r in rows],
              ["base", "|-- a", "|   `-- a1", "`-- b", "other"])
        equal(snapshot("list", "--quiet").split(), ["a", "a1", "b", "base", "other"])
        with hold("other"):
            row = [r for r in as_json("list") if r["name"] == "other"][0]
            check(row["in-use"] and str(os.getpid()) in row["users"][0], row)
            check(str(os.getpid()) in snapshot("list").splitlines()[-1], "the user is not shown")
        shutil.rmtree(os.path.join(path, "base.snap"))
        os.truncate("other.snap/manifest.json", 100)
        text = snapshot("list")
        check("its parent is missing" in text and "damaged" in text, text)


# ---- verify ----------------------------------------------------------------------------------


def test_verify_names_what_differs_in_the_snapshot_and_in_its_parents():
    with store():
        make("base", 9, "1=1", "1024=2")
        make("mid", 9, "zstd", "2=1", parent="base")
        make("top", 9, "3=1", parent="mid")
        check("the 2 it builds on" in snapshot("verify", "top"), "not all were looked at")
        for path, at, says in (("top.snap/state", 20, "top.snap/state"),
                               ("mid.snap/config.json", 0, "mid.snap/config.json"),
                               ("mid.snap/memory.map", 30, "mid.snap/memory.map"),
                               ("mid.snap/memory.zst", 20, "mid.snap/memory.zst"),
                               ("base.snap/memory", 1024 * PAGE + 5, "chunk 1"),
                               ("base.snap/memory.sums", 5, "base.snap/memory.sums")):
            damage(path, at)
            said = as_json("verify", "top", status=1)[0]
            check(not said["good"] and says in said["error"], f"{path}: {said}")
            damage(path, at)
        check(as_json("verify", "top")[0]["good"], "it is as it was")


def test_a_file_cut_at_every_4_kib_is_refused():
    with store():
        make("full", 1, *(f"{p}={p % 255 + 1}" for p in range(0, 256, 2)))
        make("packed", 1, "zstd", *(f"{p}={p % 255 + 1}" for p in range(0, 256, 2)))
        make("diff", 1, "3=1", parent="full")
        for name in ("full", "packed", "diff"):
            for file in sorted(os.listdir(f"{name}.snap")):
                path = f"{name}.snap/{file}"
                with open(path, "rb") as f:
                    data = f.read()
                step = PAGE * (8 if file == "memory" else 1)  # each size takes the same way
                for cut in range(0, len(data), step):
                    os.truncate(path, cut)
                    check("hutch" in snapshot("verify", name, status=1), path)
                    with open(path, "wb") as f:
                        f.write(data)
        snapshot("verify", "full", "packed", "diff")


# ---- rm --------------------------------------------------------------------------------------


def test_rm_refuses_what_others_need_and_says_who():
    with store():
        make("base", 4, "0=1")
        make("diff", 4, "1=1", parent="base")
        os.mkdir("templates")
        subprocess.run([MAKE, "template.snap", "4", "parent=base.snap", "1=2"], check=True)
        shutil.move("template.snap", "templates/gold.snap")
        said = snapshot("rm", "base", status=125)
        check("'diff'" in said and "template 'gold'" in said, said)
        shutil.rmtree("templates")
        with hold("diff"):
            said = snapshot("rm", "diff", status=125)
            check(str(os.getpid()) in said, said)
            said = snapshot("rm", "base", "diff", status=125)
            check(str(os.getpid()) in said, said)
        snapshot("rm", "base", "diff")
        equal(as_json("list"), [])
        make("bad", 4, "0=1")
        os.truncate("bad.snap/manifest.json", 10)
        check("--force" in snapshot("rm", "bad", status=125), "no way out is told")
        snapshot("rm", "--force", "bad")
        equal(as_json("list"), [])


# ---- merge -----------------------------------------------------------------------------------


def chain(*how):
    make("base", 9, *how, "0=1", "1=2", "1024=3")
    make("mid", 9, "1=0", "2=4", parent="base")
    make("top", 9, *how, "1024=5", "2303=6", "register=9", parent="mid")


def test_merge_makes_one_of_a_chain_and_loses_nothing():
    with store():
        for how in ((), ("zstd",)):
            chain(*how)
            want = memory_of("top")
            snapshot("merge", "top", "--into", "whole", "--quiet")
            snapshot("verify", "whole", "top")
            merged = Snapshot("whole.snap")
            merged.verify()
            check(merged.parent is None and not os.path.exists("whole.snap/memory.map"), "a diff")
            check(merged.manifest["id"] != Snapshot("top.snap").manifest["id"], "the same id")
            equal(memory_of("whole"), want)
            snapshot("rm", "base", "mid", "top")
            snapshot("verify", "whole")
            snapshot("rm", "whole")


def test_merge_in_place_lets_the_parent_go_and_keeps_the_children():
    with store():
        chain()
        make("child", 9, "7=7", parent="top")
        want = memory_of("child")
        with hold("top"):
            check(str(os.getpid()) in snapshot("merge", "top", status=125), "in use")
        snapshot("merge", "top", "--quiet")
        snapshot("rm", "mid", "base")
        snapshot("verify", "child")
        equal(memory_of("child"), want)
        check("full snapshot already" in snapshot("merge", "top", status=125), "merged twice")


# ---- export and import -----------------------------------------------------------------------


def test_export_and_import_give_the_same_snapshot():
    with store():
        for how in ((), ("zstd",)):
            chain(*how)
            want = memory_of("top")
            snapshot("export", "top", "top.tar.zst", "--quiet")
            snapshot("import", "top.tar.zst", "--name", "again")
            snapshot("verify", "again")
            equal(memory_of("again"), want)
            equal(as_json("inspect", "again")["state"], as_json("inspect", "top")["state"])
            check("exists already" in snapshot("export", "top", "top.tar.zst", status=125), "")
            check("exists already" in snapshot("import", "top.tar.zst", status=125), "")
            snapshot("rm", "base", "mid", "top", "again")
            snapshot("import", "top.tar.zst", "-q")
            equal(memory_of("top"), want)
            snapshot("rm", "top")
            os.remove("top.tar.zst")


def test_an_archive_is_a_tar_that_others_unpack():
    with store():
        make("full", 16, *(f"{p}={p % 255 + 1}" for p in range(0, 4096, 100)))
        snapshot("export", "full", "full.tar.zst", "-q")
        with open("full.tar", "wb") as f:
            subprocess.run(["zstd", "-dcq", "full.tar.zst"], stdout=f, check=True)
        os.mkdir("by-tar.snap")
        subprocess.run(["tar", "xf", "full.tar", "-C", "by-tar.snap"], check=True)
        snapshot("verify", "by-tar")
        with tarfile.open("full.tar") as tar:
            equal(tar.getnames()[0], "manifest.json")
            equal(tar.getmember("memory").size, 16 * MIB)
            equal(tar.extractfile("memory").read(), b"".join(memory_of("full")))


def test_export_goes_through_a_pipe():
    with store() as path:
        make("full", 9, "0=1")
        out, _ = run("snapshot", "export", "full", "-")
        run("snapshot", "import", "-", "--name", "piped", input=out)
        equal(memory_of("piped"), memory_of("full"))
        equal([n for n in os.listdir(path) if not n.endswith(".snap")], [])


def half_an_import(data):
    """One that waits for the other half."""
    p = subprocess.Popen([hutch.HUTCH, "snapshot", "import", "-", "--name", "x"],
                         stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    p.stdin.write(data[:len(data) // 2])
    p.stdin.flush()
    end = time.monotonic() + 60 * hutch.PATIENCE
    while not any(name.startswith(".x.snap") for name in os.listdir(".")):
        check(time.monotonic() < end and p.poll() is None, "it does not begin")
        time.sleep(0.005)
    return p


def test_an_import_that_is_ended_in_the_middle_leaves_no_snapshot():
    with store():
        with open("noise", "wb") as f:
            f.write(os.urandom(4 * MIB))
        image("create", "-f", "raw", "disk.raw", "4M")
        shutil.copyfile("noise", "disk.raw")
        make("full", 4, "0=1", f"disk=disk0,{os.path.abspath('disk.raw')}")
        data, _ = run("snapshot", "export", "full", "-", "-q")
        for sig in (signal.SIGTERM, signal.SIGKILL):
            with half_an_import(data) as p:
                p.send_signal(sig)
                p.stdin.close()
            check(p.returncode, "it ended well")
            equal([r["name"] for r in as_json("list")], ["full"])
            left = [name for name in os.listdir(".") if name.startswith(".")]
            equal(len(left), sig == signal.SIGKILL, left)
        run("snapshot", "import", "-", "--name", "x", input=data)  # takes away what is left
        snapshot("verify", "x")


def test_disks_travel_as_images_of_their_own():
    with store():
        random_raw("base.raw", 3 * MIB)
        image("create", "-b", "base.raw", "-F", "raw", "top.qcow2")
        make("full", 4, "0=1", f"disk=disk0,{os.path.abspath('base.raw')}")
        snapshot("export", "full", "a.tar.zst", "-q")
        snapshot("export", "full", "b.tar.zst", "-q", "--no-disks")
        snapshot("import", "a.tar.zst", "-q")
        snapshot("import", "b.tar.zst", "-q")
        disk = as_json("inspect", "a")["manifest"]["disks"][0]
        equal((disk["id"], disk["layer"], disk["format"]), ("disk0", "disks/0.qcow2", "qcow2"))
        os.rename("base.raw", "away.raw")
        image("compare", "a.snap/disks/0.qcow2", "away.raw")
        check("layer" not in as_json("inspect", "b")["manifest"]["disks"][0], "a path is left")
        os.remove("away.raw")


def test_a_template_that_was_begun_and_killed_is_swept_by_the_next():
    with store():
        make("full", 1, "0=1")
        os.makedirs("templates/.stamp.snap.partial-0badcafe/disks")
        run("template", "create", "full", "stamp")
        equal(os.listdir("templates"), ["stamp.snap"])
        run("template", "rm", "stamp")


# ---- hostile archives ------------------------------------------------------------------------


def archive(entries):
    """A tar of (TarInfo fields, data), compressed."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, data, extra in entries:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in extra.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(data))
    return subprocess.run(["zstd", "-cq"], input=raw.getvalue(), stdout=subprocess.PIPE,
                          check=True).stdout


def contents(name):
    """What an archive of it would have, in order."""
    s = Snapshot(f"{name}.snap")
    names = ["memory.sums", *(f["name"] for f in s.manifest["files"]), "memory"]
    return s.manifest, [(n, s.read(n), {}) for n in names]


def refused(data, says, path="/etc/hutch-out"):
    before = sorted(os.listdir("."))
    with open("bad.tar.zst", "wb") as f:
        f.write(data)
    said = snapshot("import", "bad.tar.zst", status=125)
    check(says in said, f"'{says}' is not in: {said}")
    os.remove("bad.tar.zst")
    equal(sorted(os.listdir(".")), before, "left behind")


def test_hostile_archives_are_refused_and_leave_nothing():
    with store():
        make("full", 1, "0=1")
        manifest, files = contents("full")
        text = json.dumps(manifest).encode()
        first = ("manifest.json", text, {})
        with open("good.tar.zst", "wb") as f:
            f.write(archive([first, *files]))
        snapshot("import", "good.tar.zst", "-q")  # the archives below are near to a good one
        snapshot("rm", "good")
        os.remove("good.tar.zst")

        refused(b"", "ends too early")
        refused(b"no archive at all, but longer than a header", "not an archive")
        refused(archive([]), "does not begin with a manifest")
        refused(archive([*files, first]), "does not begin with a manifest")
        refused(archive([first, *files[:-1]]), "memory")
        refused(archive([first, *files[1:]]), "memory.sums")
        refused(archive([first, *files, files[0]]), "twice")
        refused(archive([first, *files, ("more", b"x", {})]), "not in its manifest")
        for name in ("../out", "/etc/hutch-out", "a/../../out", "disks/../x", ".hidden", "a/b/c",
                     "x\nhutch", "disks/.x"):
            refused(archive([first, (name, b"x", {}), *files]), "a name that no snapshot has")
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE,
                     tarfile.CHRTYPE):
            refused(archive([first, ("state", b"", {"type": kind, "linkname": "/etc/passwd"}),
                             *files]),
                    "a name that" if kind == tarfile.DIRTYPE else "else than files")
        for name, data, _ in files:
            longer = [(n, d + b"x" if n == name else d, e) for n, d, e in files]
            refused(archive([first, *longer]), f"{name}' has" if name != "memory.sums" else "sums")
            changed = [(n, bytes([d[0] ^ 1]) + d[1:] if n == name else d, e) for n, d, e in files]
            refused(archive([first, *changed]), name)
        whole = archive([first, *files])
        for cut in range(0, len(whole), max(len(whole) // 40, 1)):
            refused(whole[:cut], "")


def test_a_manifest_from_strangers_names_nothing_of_this_host():
    with store():
        make("full", 1, "0=1")
        manifest, files = contents("full")

        def with_(**changes):
            return [("manifest.json", json.dumps({**manifest, **changes}).encode(), {}), *files]

        disk = {"id": "disk0", "format": "raw"}
        for layer in ("/etc/shadow", "nbd://host/x", "disks/x", "../full.snap/memory"):
            refused(archive(with_(disks=[{**disk, "layer": layer}])),
                    "leads out" if ".." in layer else "is not in it")
        refused(archive(with_(**{"parent": "full.snap", "parent-id": "0" * 8 + "-0000" * 3 + "-"
                                 + "0" * 12})), "memory.map")
        refused(archive(with_(**{"ram-size": 1 << 44})), "")
        refused(archive(with_(files=[*manifest["files"], {"name": "disks/a", "size": 1 << 60,
                                                          "sha256": "0" * 64}])), "has room")


def test_what_was_imported_opens_nothing_of_this_host_that_nobody_chose():
    """A monitor that goes so far as to read the state has opened nothing yet, and says that the
    state of these folders has no machine in it."""
    with store() as path:
        def here(name):
            return os.path.join(path, name)

        config = {"kernel": "/etc/passwd", "initrd": "/etc/passwd", "control": here("c.sock"),
                  "metrics": f"unix:{here('m.sock')}", "memory": {"size": MIB},
                  "serial": [{"file": here("s.log")}],
                  "console": [{"id": "con0", "socket": here("con.sock")}, {"id": "own", "type": "none"}],
                  "net": [{"id": "net0", "type": "user"},
                          {"id": "net1", "type": "user", "restrict": True}],
                  "disk": [{"id": "disk0", "path": "/etc/passwd", "readonly": True}],
                  "vsock": [{"id": "vsock0", "cid": 5, "path": here("v.sock")}]}
        make("mine", 1, f"config={json.dumps(config)}")
        snapshot("export", "mine", "theirs.tar.zst", "-q", "--no-disks")
        snapshot("import", "theirs.tar.zst", "-q")
        snapshot("merge", "theirs", "--into", "again", "-q")
        run("template", "create", "theirs", "stamp")
        opens = "(--serial, --disk disk0, --net net0, --console con0, --vsock vsock0)"
        anew = ("--net", "net0=user,restrict=on", "--console", "con0=none", "--serial", "none",
                "--vsock", f"vsock0=cid=5,path={here('mine.sock')}")

        def refused_by(word, *arguments):
            said = run(*arguments, status=125)[1]
            check(word in said, f"{arguments}: '{word}' is not in: {said}")

        before = sorted(os.listdir(path))
        for arguments in (("run", "--restore", "theirs"), ("run", "--restore", "again"),
                          ("clone", "stamp")):
            refused_by(opens, *arguments)
        refused_by("(--disk disk0)", "run", "--restore", "theirs", *anew)
        for arguments in (("run", "--restore", "theirs", "--trust"), ("run", "--restore", "mine")):
            refused_by("'machine'", *arguments)
        equal(sorted(os.listdir(path)), before, "files that were made")
        check(opens in run("check-restore", "theirs")[0].decode(), "check-restore does not tell")
        check("elsewhere" not in run("check-restore", "mine")[0].decode(), "one's own is foreign")
        run("template", "rm", "stamp")


def test_an_image_in_an_archive_may_lie_above_nothing():
    with store():
        make("full", 1, "0=1")
        manifest, files = contents("full")
        random_raw("secret.raw", MIB)
        image("create", "-b", os.path.abspath("secret.raw"), "-F", "raw", "disk.qcow2")
        with open("disk.qcow2", "rb") as f:
            data = f.read()
        os.remove("secret.raw")
        os.remove("disk.qcow2")
        manifest["files"].append({"name": "disks/0.qcow2", "size": len(data),
                                  "sha256": hashlib.sha256(data).hexdigest()})
        manifest["disks"] = [{"id": "disk0", "layer": "disks/0.qcow2", "format": "qcow2"}]
        refused(archive([("manifest.json", json.dumps(manifest).encode(), {}), *files,
                         ("disks/0.qcow2", data, {})]), "names another file")


# ---- diff ------------------------------------------------------------------------------------


def test_diff_tells_what_changed_and_nothing_else():
    with store():
        make("a", 9, "0=1", "1=2", "1024=3", "register=1", 'config={"cpus": 1}')
        make("b", 9, "zstd", "0=1", "1=2", "1024=3", "register=1", 'config={"cpus": 1}')
        check("the same" in snapshot("diff", "a", "b"), "they are")
        make("c", 9, "1=0", "2=9", "3=9", "1024=4", "2303=1", "register=17", 'config={"cpus": 2}',
             parent="a")
        for names in (("a", "c"), ("c", "a")):
            d = as_json("diff", *names, status=1)
            equal(d["memory"], {"pages": 5, "range-count": 3,
                                "ranges": [[1, 3], [1024, 1], [2303, 1]]})
            values = [1, 17] if names[0] == "a" else [17, 1]
            equal(d["state"], {"serial0.scr": values})
            equal(d["config"], {"cpus": [1, 2] if names[0] == "a" else [2, 1]})
            equal(d["disks"], {})
        text, _ = run("snapshot", "diff", "a", "c", status=1)
        check(b"serial0.scr: 1 -> 17" in text and b"5 pages" in text, text)
        make("small", 4, "0=1")
        check("other sizes" in snapshot("diff", "a", "small", status=125), "compared all the same")


# ---- check-restore ---------------------------------------------------------------------------


def check_restore(name, *flags, status=1):
    out, _ = run("check-restore", name, "--json", *flags, status=status)
    told = json.loads(out)
    equal(told["good"], status == 0)
    return told


def says(told, *words, where="problems"):
    check(any(all(w in text for w in words) for text in told[where]), f"{words}: {told}")


def test_check_restore_finds_what_would_stop_it_and_changes_nothing():
    with store() as path:
        random_raw("disk.raw", MIB)
        config = {"kernel": f"{path}/vmlinuz", "share": [{"folder": f"{path}/shared", "tag": "u"}],
                  "console": [{"socket": f"{path}/run/console.sock"}],
                  "fs": [{"socket": f"{path}/fs.sock", "tag": "u"}],
                  "disk": [{"path": f"{path}/other.raw"}, {"path": f"{path}/disk.raw"}]}
        make("base", 9, "0=1", "config={}")
        check_restore("base", status=0)
        make("bad", 9, "1=1", f"config={json.dumps(config)}", f"disk=disk1,{path}/disk.raw",
             parent="base")
        before = {f: os.stat(f"bad.snap/{f}").st_mtime_ns for f in os.listdir("bad.snap")}
        told = check_restore("bad")
        for words in (("--share", "shared", "put it back"), ("--console", "console.sock", "make it"),
                      ("--fs", "fs.sock", "start the program"),
                      ("'disk0'", "other.raw", "--disk disk0=FILE")):
            says(told, *words)
        says(told, "--kernel", "cannot reboot", where="warnings")
        equal(len(told["problems"]), 4, told)
        os.truncate("disk.raw", MIB // 2)
        says(check_restore("bad"), "'disk1'", "disk.raw")
        damage("base.snap/state", 30)
        says(check_restore("bad"), "base.snap/state")
        damage("base.snap/state", 30)
        damage("base.snap/memory", 3)
        equal(check_restore("base", status=0)["problems"], [])
        says(check_restore("base", "--full"), "chunk 0")
        os.rename("base.snap", "away.snap")
        says(check_restore("bad"), "needs its parent")
        equal(before, {f: os.stat(f"bad.snap/{f}").st_mtime_ns for f in os.listdir("bad.snap")})
        os.remove("disk.raw")


def test_check_restore_knows_the_processor_and_foreign_states():
    with store():
        make("full", 4, "0=1")
        manifest = json.loads(Snapshot("full.snap").read("manifest.json"))
        manifest["cpu-needs"] = {"vendor": "NoSuchVendor", "features": ["nosuchfeature"]}
        with open("full.snap/manifest.json", "w") as f:
            json.dump(manifest, f)
        check(check_restore("full")["problems"], "another processor")
        make("foreign", 4, "0=1")
        with open("foreign.snap/state", "rb") as f:
            data = f.read()
        body = data[20:-8].replace(b"serial0serial", b"serial0foreig")
        with open("foreign.snap/state", "wb") as f:
            f.write(data[:16] + struct.pack("<I", zlib.crc32(body)) + body + data[-8:])
        says(check_restore("foreign"), "foreign.snap/state")
        manifest = json.loads(Snapshot("foreign.snap").read("manifest.json"))
        for entry in manifest["files"]:
            data = Snapshot("foreign.snap").read(entry["name"])
            entry["sha256"] = hashlib.sha256(data).hexdigest()
        with open("foreign.snap/manifest.json", "w") as f:
            json.dump(manifest, f)
        says(check_restore("foreign"), "section 'serial0'", "'foreig'")


if __name__ == "__main__":
    hutch.main()
