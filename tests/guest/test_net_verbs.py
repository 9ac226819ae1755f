#!/usr/bin/env python3
"""hutch net and hutch firewall: networks are made, changed and removed whole or not at
all, and what cannot be is told in one sentence.  No guests: who is on a network is played
by frames.py."""
import contextlib
import json
import os
import stat
import subprocess
import tempfile

import hutch
from hutch import PATIENCE, check, equal


class Place:
    """Folders of networks of this test's own."""

    def __init__(self, folder):
        self.folder = folder
        self.networks = os.path.join(folder, "networks")
        self.runtime = os.path.join(folder, "run")
        os.mkdir(self.runtime, 0o700)
        self.env = {"HUTCH_NETWORKS": self.networks, "XDG_RUNTIME_DIR": self.runtime,
                    "XDG_DATA_HOME": os.path.join(folder, "data")}

    def hutch(self, *arguments, status=0, stdin=None, words=()):
        """Runs a verb; what it printed, JSON if it was asked for."""
        done = subprocess.run([hutch.HUTCH, *arguments], capture_output=True, text=True,
                              input=stdin, check=False, timeout=60 * PATIENCE,
                              env={**os.environ, **self.env})
        case = "hutch " + " ".join(arguments)
        equal(done.returncode, status, f"{case}: status ({done.stderr.strip()})")
        for word in words:
            check(word in done.stdout, f"{case}: {word!r} is not in: {done.stdout}")
        return json.loads(done.stdout) if "--json" in arguments else done.stdout

    def refused(self, *arguments, words=(), stdin=None):
        """One sentence with all of the words, and nothing has changed."""
        before = self.files()
        done = subprocess.run([hutch.HUTCH, *arguments], capture_output=True, text=True,
                              input=stdin, check=False, timeout=60 * PATIENCE,
                              env={**os.environ, **self.env})
        case = "hutch " + " ".join(arguments)
        equal((done.returncode, done.stdout), (125, ""), f"{case}: {done.stderr.strip()}")
        equal(len(done.stderr.splitlines()), 1, f"{case}: {done.stderr}")
        for word in words:
            check(word in done.stderr, f"{case}: {word!r} is not in: {done.stderr}")
        equal(self.files(), before, f"{case}: files")

    def files(self):
        """Every file of the networks and what is in it."""
        found = {}
        for at, _, names in os.walk(self.networks):
            for name in names:
                if name != ".lock":
                    with open(os.path.join(at, name), encoding="utf-8") as f:
                        found[os.path.relpath(os.path.join(at, name), self.networks)] = f.read()
        return found

    def write(self, name, text):
        path = os.path.join(self.folder, name)
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        return path


@contextlib.contextmanager
def place():
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        yield Place(folder)


# ---- networks that are down ----------------------------------------------------------------


def test_a_network_is_made_listed_changed_and_removed():
    with place() as p:
        equal(p.hutch("net", "create", "blue", "--subnet", "10.9.0.0/24"), "blue: nat, 10.9.0.0/24\n")
        p.hutch("net", "create", "red", "--isolated", "--subnet6", "fd00:9::/64", "--dhcp", "off",
                "--dns=off", "--mtu", "9000", "--domain", "lab", "--storm", "0", "--ageing", "60")
        equal(stat.S_IMODE(os.stat(p.networks + "/red").st_mode), 0o700)
        equal(stat.S_IMODE(os.stat(p.networks + "/red/config.json").st_mode), 0o600)
        rows = p.hutch("net", "ls", "--json")
        equal([(r["name"], r["mode"], r["state"], r["ports"]) for r in rows],
              [("blue", "nat", "down", 0), ("red", "isolated", "down", 0)])
        equal(p.hutch("net", "ls", "--quiet"), "blue\nred\n")
        p.hutch("net", "ls", words=["SUBNET", "10.9.0.0/24", "fd00:9::/64"])

        config = p.hutch("net", "set", "red", "mtu=1400", "lease=", "--json")
        equal((config["mtu"], config["dhcp"], config["domain"], config["ageing"]),
              (1400, False, "lab", 60))
        p.hutch("net", "set", "blue", "lease+=web=10.9.0.7", "lease+=db=10.9.0.8",
                "forward=tcp::18080-web:80,udp::18053-db:53")
        config = p.hutch("net", "set", "blue", "lease-=web=10.9.0.7", "forward=", "--json")
        equal((config["lease"], config["forward"]), (["db=10.9.0.8"], []))
        p.hutch("net", "set", "blue", words=["lease", "db=10.9.0.8"])
        told = json.loads(p.hutch("net", "inspect", "blue"))
        equal((told["up"], told["gateway"], told["folder"]), (False, ["10.9.0.1"], p.networks + "/blue"))

        p.hutch("net", "rm", "blue", "red")
        equal(p.hutch("net", "ls", "--json"), [])
        equal(os.listdir(p.networks), [".lock"])


def test_subnets_that_are_free_are_found_and_kept():
    with place() as p:
        for name in ("a", "b"):
            p.hutch("net", "create", name, "--subnet6", "auto")
        a, b = p.hutch("net", "ls", "--json")
        check(a["subnet"] != b["subnet"] and a["subnet6"] != b["subnet6"], f"{a} {b}")
        p.hutch("net", "set", "a", "mtu=1300")
        equal(p.hutch("net", "ls", "--json")[0], a)


def test_many_networks_made_at_once_get_subnets_of_their_own():
    with place() as p:
        made = [subprocess.Popen([hutch.HUTCH, "net", "create", f"n{i}"], stdout=subprocess.DEVNULL,
                                 env={**os.environ, **p.env}) for i in range(12)]
        equal([m.wait() for m in made], [0] * 12)
        subnets = [r["subnet"] for r in p.hutch("net", "ls", "--json")]
        equal(len(set(subnets)), 12, str(subnets))


def test_what_cannot_be_is_told_in_one_sentence_and_changes_nothing():
    with place() as p:
        p.hutch("net", "create", "blue", "--subnet", "10.9.0.0/16", "--subnet6", "fd00:9::/64")
        p.hutch("net", "create", "red", "--subnet", "10.8.0.0/24", "--route", "blue")
        for arguments, words in (
                (["create", "blue"], ["'blue'", "already"]),
                (["create", "Blue"], ["'Blue'"]),
                (["create", "user"], ["'user'", "--net"]),
                (["create", "x", "--subnet", "10.9.3.0/24"], ["'blue'", "10.9.0.0/16"]),
                (["create", "x", "--subnet6", "fd00:9::/64"], ["'blue'", "fd00:9::/64"]),
                (["create", "x", "--subnet", "10.9.3.1/24"], ["subnet"]),
                (["create", "x", "--subnet", "10.7.0.0/31"], ["/29"]),
                (["create", "x", "--mtu", "500"], ["--mtu", "576"]),
                (["create", "x", "--mtu", "1000", "--subnet6", "auto"], ["1280"]),
                (["create", "x", "--isolated", "--nat"], ["--isolated, --nat"]),
                (["create", "x", "--isolated", "--forward", "tcp::1-a:2"], ["forward", "isolated"]),
                (["create", "x", "--subnet", "none"], ["subnet"]),
                (["create", "x", "--lease", "a=10.1.1.1"], ["'a=10.1.1.1'"]),
                (["create", "x", "--forward", "tcp:1"], ["'tcp:1'", "tcp::8080-web:80"]),
                (["create", "x", "--route", "x"], ["itself"]),
                (["create", "x", "--uplink", "wire"], ["'wire'"]),
                (["create", "x", "--colour", "blue"], ["--colour"]),
                (["create"], ["hutch net create NAME"]),
                (["set", "blue", "subnet=10.8.0.0/25"], ["'red'", "10.8.0.0/24"]),
                (["set", "blue", "mtu=9000", "mode=never"], ["'never'"]),
                (["set", "blue", "lease-=web=10.9.0.7"], ["web=10.9.0.7"]),
                (["set", "blue", "mtu+=1"], ["mtu"]),
                (["set", "blue", "doman=x"], ["'domain'"]),
                (["set", "blue", "x=1"], ["'x'", "mode, subnet"]),
                (["set", "blue", "mtu"], ["KEY=VALUE"]),
                (["set", "nobody", "mtu=1"], ["'nobody'", "blue, red"]),
                (["rm", "blue"], ["'red'", "route-=blue"]),
                (["rm", "reds"], ["'reds'"]),
                (["inspect", "../blue"], ["'../blue'"]),
                (["capture", "blue"], ["'blue'", "no VM"]),
                (["limit", "blue", "web", "--rate", "x"], ["--rate"]),
                (["impair", "blue", "web", "--loss", "0.1"], ["--loss", "percentage"]),
                (["impair", "blue", "web", "--delay", "20"], ["--delay", "20ms"]),
                (["impair", "blue", "web", "--cut", "--restore"], ["--cut"]),
                (["port", "blue", "web", "--vlan", "4095"], ["--vlan", "4094"]),
                (["connect", "blue"], ["--stream"]),
                (["connect", "blue", "web"], ["web"]),
                (["connect", "blue", "web:"], ["VM[:NIC]"])):
            p.refused("net", *arguments, words=words)
        p.hutch("net", "rm", "blue", "--force")
        p.hutch("net", "rm", "red")


def test_a_damaged_config_is_named_and_can_be_removed():
    with place() as p:
        p.hutch("net", "create", "blue")
        p.write("networks/blue/config.json", '{"mtu": 1}')
        p.refused("net", "set", "blue", "mtu=1500", words=["blue/config.json", "mtu"])
        equal(p.hutch("net", "ls", "--json")[0]["state"], "damaged")
        p.hutch("net", "rm", "blue")


if __name__ == "__main__":
    hutch.main()
