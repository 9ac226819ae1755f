#!/usr/bin/env python3
"""What `ninja install` puts where, and that the manual page and the completions work in
the programs that read them."""
import contextlib
import functools
import json
import os
import pty
import re
import select
import shutil
import subprocess
import tempfile

import hutch
from hutch import Skip, check, equal

BUILD = os.path.dirname(hutch.HUTCH)


@functools.cache
def installed():
    """Where everything went, below a folder of its own."""
    folder = tempfile.mkdtemp(dir="/var/tmp")
    if not os.path.exists(os.path.join(BUILD, "build.ninja")):
        raise Skip("hutch is not in its build folder")
    subprocess.run(["meson", "install", "-C", BUILD, "--no-rebuild", "--quiet", "--destdir",
                    folder], check=True, stdout=subprocess.DEVNULL)
    options = json.loads(subprocess.run(["meson", "introspect", BUILD, "--buildoptions"],
                                        check=True, capture_output=True).stdout)
    prefix = next(o["value"] for o in options if o["name"] == "prefix")
    return folder, folder + prefix


def needs(program):
    if not shutil.which(program):
        raise Skip(f"{program} is not installed")
    return program


def share(*path):
    full = os.path.join(installed()[1], "share", *path)
    check(os.path.getsize(full) > 1000, f"{full} is too small to be right")
    return full


def man():
    return share("man", "man1", "hutch.1")


def bash_script():
    return share("bash-completion", "completions", "hutch.bash")


def test_everything_is_installed_and_nothing_else():
    folder, prefix = installed()
    files = sorted(os.path.relpath(os.path.join(at, name), prefix)
                   for at, _, names in os.walk(folder) for name in names)
    equal(files, ["bin/hutch", "bin/hutch-switch", "lib/systemd/system/hutch@.service", "share/bash-completion/completions/hutch.bash",
                  "share/fish/vendor_completions.d/hutch.fish", "share/man/man1/hutch.1",
                  "share/zsh/site-functions/_hutch"])
    version, as_json = (subprocess.run([os.path.join(prefix, "bin", "hutch"), "version", *option],
                                       check=True, capture_output=True, text=True).stdout
                        for option in ([], ["--json"]))
    check(re.fullmatch(r"hutch \d+\.\d+\.\d+\n", version), version)
    equal(f"hutch {json.loads(as_json)['version']}\n", version)


def test_systemd_finds_no_fault_with_the_service():
    folder, prefix = installed()
    with open(os.path.join(prefix, "lib/systemd/system/hutch@.service"), encoding="utf-8") as f:
        unit = f.read().replace(prefix[len(folder):] + "/bin/hutch", prefix + "/bin/hutch")
    check(unit.count(prefix + "/bin/hutch") == 2, unit)
    with tempfile.TemporaryDirectory() as units:
        with open(os.path.join(units, "hutch@.service"), "w", encoding="utf-8") as f:
            f.write(unit)
        done = subprocess.run([needs("systemd-analyze"), "verify", "--man=no",
                               os.path.join(units, "hutch@web.service")],
                              capture_output=True, text=True, check=False)
    equal((done.returncode, done.stderr), (0, ""))


def test_the_manual_page_has_no_warnings():
    done = subprocess.run([needs("man"), "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", man()],
                          env={**os.environ, "LC_ALL": "C.UTF-8", "MANWIDTH": "80"},
                          capture_output=True, text=True, check=False)
    equal((done.returncode, done.stderr), (0, ""))


def test_whatis_finds_the_manual_page():
    done = subprocess.run([needs("lexgrog"), man()], capture_output=True, text=True, check=False)
    equal(done.returncode, 0)
    check('"hutch - run virtual machines' in done.stdout, done.stdout)


def test_zsh_and_fish_parse_their_completions():
    missing = []
    for shell, path in (("zsh", ("zsh", "site-functions", "_hutch")),
                        ("fish", ("fish", "vendor_completions.d", "hutch.fish"))):
        script = share(*path)
        if shutil.which(shell):
            done = subprocess.run([shell, "-n", script], capture_output=True, text=True,
                                  check=False)
            equal((done.returncode, done.stderr), (0, ""), shell)
        else:
            missing.append(shell)
    if missing:
        raise Skip(f"{' and '.join(missing)} not installed")


# ---- bash ----------------------------------------------------------------------------------


def test_bash_knows_hutch_after_reading_its_completion():
    done = subprocess.run(["bash", "--norc", "-uec", f"source {bash_script()}; complete -p hutch"],
                          capture_output=True, text=True, check=False)
    equal((done.returncode, done.stderr), (0, ""))
    check("-F _hutch hutch" in done.stdout, done.stdout)


class Bash:
    """An interactive bash, as a user has it, in a folder with something to complete."""

    def __init__(self, folder, images):
        runtime = os.path.join(folder, ".run")
        environment = {"XDG_RUNTIME_DIR": runtime, "PATH": f"{installed()[1]}/bin:{os.environ['PATH']}", "TERM": "dumb",
                       "HUTCH_IMAGES": images, "XDG_DATA_HOME": os.path.join(folder, ".data"),
                       "INPUTRC": "/dev/null", "PS1": "$ "}
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.execvpe("bash", ["bash", "--norc", "--noprofile", "-i"], environment)
        self.ask("bind 'set bell-style none'; bind 'set enable-bracketed-paste off'; "
                 f"stty cols 500; source {bash_script()}; "
                 "show() { printf '<%s>' \"$@\"; echo; }; echo re''ady\n", "ready\r\n")

    def ask(self, text, until):
        os.write(self.fd, text.encode())
        said = ""
        while until not in said:
            check(select.select([self.fd], [], [], 20)[0], f"bash did not say {until!r}: {said!r}")
            said += os.read(self.fd, 4096).decode(errors="replace")
        return said

    def complete(self, line):
        """The words of the line as Tab leaves it; what is typed next is the last."""
        said = self.ask(f"hutch {line}\t@@@\x01show \n", "@@@>")
        return re.findall(r"<([^<>]*)>", said[said.rindex("<hutch>"):])[1:]

    def close(self):
        os.close(self.fd)
        os.waitpid(self.pid, 0)


@contextlib.contextmanager
def bash():
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        for name in ("image.raw", "vmlinuz", "config.json"):
            with open(os.path.join(folder, name), "wb"):
                pass
        for name in ("alpine", "debian"):
            os.makedirs(os.path.join(folder, ".images", name))
            with open(os.path.join(folder, ".images", name, "config.json"), "wb"):
                pass
        for name in ("web", "worker", "$(touch pwned)", "`touch pwned`"):
            os.makedirs(os.path.join(folder, ".run", "hutch", name))
            with open(os.path.join(folder, ".run", "hutch", name, "result.json"), "wb"):
                pass
        for name in ("morning", "noon", "$(touch pwned)"):
            os.makedirs(os.path.join(folder, ".data", "hutch", "snapshots", f"{name}.snap"))
            with open(os.path.join(folder, ".data", "hutch", "snapshots", f"{name}.snap",
                                   "manifest.json"), "wb"):
                pass
        for name in ("blue", "brown"):
            os.makedirs(os.path.join(folder, ".data", "hutch", "networks", name))
            with open(os.path.join(folder, ".data", "hutch", "networks", name, "config.json"), "wb"):
                pass
        shell = Bash(folder, os.path.join(folder, ".images"))
        try:
            yield shell
        finally:
            shell.close()


def test_tab_in_a_real_bash_completes_verbs_options_keys_values_files_and_images():
    cases = {
        "ru": "run", "run --transp": "run --transport", "run --print": "run --print-config",
        "help ver": "help version", "run deb": "run debian",
        "run --kernel vml": "run --kernel vmlinuz", "run --disk im": "run --disk image.raw",
        "run --disk image.raw,reado": "run --disk image.raw,readonly",
        "run --disk image.raw,forma": "run --disk image.raw,format=",
        "run --net us": "run --net user",
        "run --net user,hostf": "run --net user,hostfwd=",
        "run --net user,hostfwd=tcp::22-:22,rest": "run --net user,hostfwd=tcp::22-:22,restrict",
        "run --transport mm": "run --transport mmio", "run --transport=mm": "run --transport=mmio",
        "run --kernel=vml": "run --kernel=vmlinuz", "run --serial no": "run --serial none",
        "run --config conf": "run --config config.json",
        "stop we": "stop web", "rm web wo": "rm web worker", "disk list wo": "disk list worker",
        "control we": "control web", "exec we": "exec web", "put we": "put web",
        "put web im": "put web image.raw", "agent ping wo": "agent ping worker",
        "metrics we": "metrics web", "config show we": "config show web", "ps --qu": "ps --quiet",
        "run --cpus 2 --no-re": "run --cpus 2 --no-reboot",
        "snapshot ver": "snapshot verify", "snapshot rm mor": "snapshot rm morning",
        "check-restore no": "check-restore noon",
        "net ports bl": "net ports blue", "net create red --dhc": "net create red --dhcp",
        "net limit brown web --direction ou": "net limit brown web --direction out",
        "snapshot export noon im": "snapshot export noon image.raw",
    }
    with bash() as shell:
        for typed, wanted in cases.items():
            wanted += "@@@" if wanted[-1] == "=" else " @@@"
            equal(" ".join(shell.complete(typed)), wanted, f"hutch {typed}<Tab>")


def test_tab_in_a_real_bash_runs_no_names():
    with bash() as shell:
        equal(shell.complete("stop we"), ["stop", "web", "@@@"])
        said = shell.ask("[ -e pwned ] && echo was''run; echo over''now\n", "overnow")
        check("wasrun" not in said, "a VM's name was run as a command")


if __name__ == "__main__":
    try:
        hutch.main()
    finally:
        with contextlib.suppress(Exception):
            shutil.rmtree(installed()[0])
