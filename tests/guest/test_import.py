#!/usr/bin/env python3
"""hutch image import: disks and VMs of other hypervisors, the hostile ones too."""
import hashlib
import json
import os
import shutil
import subprocess
import tarfile

import hutch
from disks import MIB, contents, folder, image, qemu_img, random_raw, refused_here, same
from hutch import check, equal

# ---- disks -------------------------------------------------------------------------------------


def test_disks_of_other_hypervisors_are_imported():
    with folder():
        random_raw("in.raw", 6 * MIB)
        for fmt, name in (("vmdk", "a.vmdk"), ("vhdx", "a.vhdx"), ("vpc", "a.vhd"),
                          ("vdi", "A.VDI"), ("qed", "a.qed")):
            force = ["-o", "force_size"] if fmt == "vpc" else []
            qemu_img("convert", "-O", fmt, *force, "in.raw", name)
            for out in ("out.qcow2", "out.raw"):
                image("import", name, out)
                same("in.raw", out)
        image("import", "-f", "vmdk", "-O", "raw", "a.vmdk", "b")
        equal(contents("b"), contents("in.raw"))
        shutil.copy("a.vmdk", "a.disk")
        refused_here("import", "a.disk", "b.raw", words=["a.disk", "-f vmdk"])
        refused_here("import", "a.vmdk", words=["a.vmdk", "name"])
        refused_here("import", "-f", "vdi", "a.vmdk", "c.raw", words=["a.vmdk", "qemu-img"])
        refused_here("import", "nosuch.vmdk", "c.raw", words=["nosuch.vmdk"])


def test_without_qemu_img_the_package_is_named():
    with folder():
        with open("a.vmdk", "wb") as f:
            f.write(b"KDMV" + bytes(4096))
        out = subprocess.run([hutch.HUTCH, "image", "import", "a.vmdk", "b.raw"],
                             env={"PATH": "/nowhere"}, capture_output=True, text=True, check=False)
        equal(out.returncode, 125)
        check("qemu-utils" in out.stderr, out.stderr)
        equal(os.listdir("."), ["a.vmdk"])


def test_a_disk_that_refers_to_other_files_is_not_believed():
    with folder() as here:
        os.mkdir("mine")
        random_raw("secret", MIB, density=1)
        with open("mine/a.vmdk", "w", encoding="ascii") as f:
            f.write('# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\n'
                    f'createType="monolithicFlat"\nRW 2048 FLAT "{here}/secret" 0\n')
        refused_here("import", "mine/a.vmdk", "out.raw", words=["mine/a.vmdk", "secret", "--backing"])
        image("import", "--backing", "on", "mine/a.vmdk", "out.raw")
        os.unlink("out.raw")
        qemu_img("create", "-q", "-f", "vmdk", "base.vmdk", "1M")
        qemu_img("create", "-q", "-f", "vmdk", "-b", "base.vmdk", "-F", "vmdk", "diff.vmdk")
        refused_here("import", "diff.vmdk", "out.raw", words=["diff.vmdk", "base.vmdk"])


def plant_data_file(secret, name):
    """A qcow2 without data of its own, whose header names that file as its data."""
    stand_in = "x" * len(os.fsencode(secret))
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"data_file={stand_in},data_file_raw=on", name,
             MIB)
    os.unlink(stand_in)
    with open(name, "r+b") as f:
        header = f.read(65536)
        f.seek(header.index(stand_in.encode()))
        f.write(os.fsencode(secret))


def test_a_qcow2_reaches_no_data_file_and_no_parent():
    with folder() as here:
        os.mkdir("mine")
        random_raw("secret", MIB, density=1)
        random_raw("mine/beside", MIB, density=1)
        for name, secret in (("far", f"{here}/secret"), ("near", f"{here}/mine/beside"),
                             ("file", f"file:{here}/secret")):
            plant_data_file(secret, f"mine/{name}.qcow2")
            for out in ("out.raw", "out.qcow2"):
                refused_here("import", f"mine/{name}.qcow2", out,
                             words=[name, secret, "data file", "--backing on"])
            refused_here("import", "--backing", "off", f"mine/{name}.qcow2", "out.raw",
                         words=[secret])
        shutil.copy("mine/far.qcow2", "disk")
        refused_here("import", "-f", "qcow2", "disk", "out.raw", words=["secret"])
        image("import", "--backing", "on", "mine/far.qcow2", "out.raw")
        equal(contents("out.raw"), contents("secret"))
        os.unlink("out.raw")
        qemu_img("create", "-q", "-f", "qcow2", "-b", f"{here}/secret", "-F", "raw", "diff.qcow2")
        refused_here("import", "diff.qcow2", "out.raw", words=["diff.qcow2", "secret", "--backing on"])
        qemu_img("convert", "-O", "qcow2", "secret", "whole.qcow2")
        image("import", "whole.qcow2", "out.raw")
        equal(contents("out.raw"), contents("secret"))


OVF = """<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
 xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
 xmlns:vmw="http://www.vmware.com/schema/ovf">
 <References>
  <File ovf:href="disk1.vmdk" ovf:id="file1"/>{more_files}
 </References>
 <DiskSection><Info>disks</Info>
  <Disk ovf:capacity="6" ovf:capacityAllocationUnits="byte * 2^20" ovf:diskId="vmdisk1" ovf:fileRef="file1"/>
  <Disk ovf:capacity="2" ovf:capacityAllocationUnits="byte * 2^20" ovf:diskId="empty"/>
 </DiskSection>
 <NetworkSection><Info>n</Info><Network ovf:name="VM Network"/></NetworkSection>
 <VirtualSystem ovf:id="vm"><Info>a VM</Info><Name>web &amp; db</Name>
  <VirtualHardwareSection><Info>hardware</Info>
   <Item><rasd:InstanceID>1</rasd:InstanceID><rasd:ResourceType>3</rasd:ResourceType><rasd:VirtualQuantity>{cpus}</rasd:VirtualQuantity></Item>
   <Item><rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits><rasd:InstanceID>2</rasd:InstanceID><rasd:ResourceType>4</rasd:ResourceType><rasd:VirtualQuantity>768</rasd:VirtualQuantity></Item>
   <Item><rasd:AddressOnParent>0</rasd:AddressOnParent><rasd:HostResource>ovf:/disk/vmdisk1</rasd:HostResource><rasd:ResourceType>17</rasd:ResourceType></Item>
   <Item><rasd:HostResource>ovf:/disk/empty</rasd:HostResource><rasd:ResourceType>17</rasd:ResourceType></Item>
   <Item><rasd:Address>00:50:56:AB:cd:01</rasd:Address><rasd:Connection>VM Network</rasd:Connection><rasd:ResourceType>10</rasd:ResourceType></Item>
   <Item><rasd:Connection>VM Network</rasd:Connection><rasd:ResourceType>10</rasd:ResourceType></Item>
   <Item><rasd:ResourceType>15</rasd:ResourceType></Item>
   <vmw:Config ovf:required="false" vmw:key="firmware" vmw:value="efi"/>
  </VirtualHardwareSection>
 </VirtualSystem>
</Envelope>
"""


def make_ova(name="vm.ova", ovf=None, manifest="SHA256", members=None, **fields):
    """An appliance as VMware exports one; in.raw is what its disk has."""
    random_raw("in.raw", 6 * MIB)
    qemu_img("convert", "-O", "vmdk", "-o", "subformat=streamOptimized", "in.raw", "disk1.vmdk")
    text = ovf or OVF.format(**{"cpus": 2, "more_files": "", **fields})
    with open("vm.ovf", "w", encoding="utf-8") as f:
        f.write(text)
    names = ["vm.ovf", "disk1.vmdk"]
    if manifest:
        with open("vm.mf", "w", encoding="ascii") as f:
            for member in names:
                with open(member, "rb") as data:
                    digest = hashlib.new(manifest.lower(), data.read()).hexdigest()
                f.write(f"{manifest}({member})= {digest}\n")
        names.insert(1, "vm.mf")
    with tarfile.open(name, "w", format=tarfile.USTAR_FORMAT) as tar:
        for member in members or names:
            tar.add(member)
    return names


def clean(names):
    for name in names:
        os.unlink(name)


def test_an_appliance_becomes_a_folder_that_run_takes():
    for manifest in (None, "SHA1", "SHA256"):
        with folder():
            clean(make_ova(manifest=manifest))
            out = image("import", "vm.ova", "vm/")
            check("2 CPUs" in out and "2 disks" in out, out)
            equal(sorted(os.listdir("vm")), ["config.json", "disk0.qcow2", "disk1.qcow2"])
            same("in.raw", "vm/disk0.qcow2")
            equal(json.loads(qemu_img("info", "--output=json", "vm/disk1.qcow2"))["virtual-size"],
                  2 * MIB)
            status, text, err = hutch.run("--config", "vm/config.json", "--print-config")
            equal((status, err), (0, ""))
            config = json.loads(text)
            equal((config["cpus"], config["memory"]["size"], config["name"]),
                  (2, "768M", "web & db"))
            equal(config["net"][0]["mac"], "00:50:56:ab:cd:01")
            equal(len(config["net"]), 2)
            equal([os.path.basename(d["path"]) for d in config["disk"]],
                  ["disk0.qcow2", "disk1.qcow2"])
            refused_here("import", "vm.ova", "vm", words=["vm", "exists"])


def test_what_hutch_cannot_do_of_an_appliance_is_said():
    with folder():
        make_ova(cpus=200)
        done = subprocess.run([hutch.HUTCH, "image", "import", "-O", "raw", "vm.ova", "vm"],
                              capture_output=True, text=True, check=True)
        for word in ("UEFI", "CD drive", "200 CPUs", "64"):
            check(word in done.stderr, f"{word!r} is not in {done.stderr}")
        equal(contents("vm/disk0.raw"), contents("in.raw"))


def test_an_ovf_beside_its_files_and_an_import_by_name():
    with folder() as here:
        make_ova()
        image("import", "vm.ovf", "vm")
        same("in.raw", "vm/disk0.qcow2")
        images = {"HUTCH_IMAGES": f"{here}/images"}
        image("import", "--name", "web", "vm.ova", env=images)
        equal(subprocess.run([hutch.HUTCH, "run"], env={**os.environ, **images}, check=True,
                             capture_output=True, text=True).stdout, "web\n")
        image("import", "--name", "web", "vm.ova", status=125, env=images)
        image("import", "--name", "../web", "vm.ova", status=125, env=images)
        refused_here("import", "vm.ova", words=["vm.ova", "--name"])


def test_a_damaged_or_changed_appliance_is_refused():
    with folder():
        names = make_ova()
        with open("disk1.vmdk", "r+b") as f:
            f.seek(70000)
            f.write(b"damage")
        with tarfile.open("vm.ova", "w") as tar:
            for name in names:
                tar.add(name)
        refused_here("import", "vm.ova", "vm", words=["vm.ova", "disk1.vmdk", "checksum"])
        os.truncate("vm.ova", 40000)
        refused_here("import", "vm.ova", "vm", words=["vm.ova"])
        with open("vm.ova", "wb") as f:
            f.write(os.urandom(100000))
        refused_here("import", "vm.ova", "vm", words=["vm.ova", "tar"])
        make_ova(members=["vm.ovf"])
        refused_here("import", "vm.ova", "vm", words=["vm.ova", "disk1.vmdk"])
        make_ova(members=["disk1.vmdk"])
        refused_here("import", "vm.ova", "vm", words=["vm.ova", "no OVF"])


HOSTILE_OVFS = {
    "a path out of the folder": (OVF.replace('href="disk1.vmdk"', 'href="../../etc/passwd"'),
                                 ["../../etc/passwd"]),
    "an absolute path": (OVF.replace('href="disk1.vmdk"', 'href="/etc/passwd"'), ["/etc/passwd"]),
    "a URL": (OVF.replace('href="disk1.vmdk"', 'href="http://x/disk1.vmdk"'), ["http://x"]),
    "no name": (OVF.replace('ovf:href="disk1.vmdk"', ""), ["same folder"]),
    "an option of tar": (OVF.replace('href="disk1.vmdk"', 'href="--to-command=id.vmdk"'), ["vm.ova"]),
    "no file": (OVF.replace('fileRef="file1"', 'fileRef="file9"'), ["vmdisk1"]),
    "no disk": (OVF.replace("ovf:/disk/vmdisk1", "ovf:/disk/nosuch"), ["nosuch"]),
    "packed": (OVF.replace('ovf:id="file1"', 'ovf:id="file1" ovf:compression="gzip"'), ["gzip"]),
    "a parent": (OVF.replace('fileRef="file1"', 'fileRef="file1" ovf:parentRef="x"'), ["difference"]),
    "two VMs": (OVF.replace("</VirtualSystem>", "</VirtualSystem><VirtualSystem/>"), ["2 VMs"]),
    "no VM": ("<Envelope/>", ["no VM"]),
    "no XML": ("\x00\x01\x02", ["OVF"]),
    "entities": ('<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><Envelope>&b;</Envelope>',
                 ["OVF"]),
    "an outer entity": ('<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><Envelope>&a;</Envelope>',
                        ["OVF"]),
    "depth": ("<a>" * 100000, ["nested"]),
    "many things": (OVF.replace("<Item>", "<Item><rasd:ResourceType>10</rasd:ResourceType></Item>"
                                * 1000 + "<Item>", 1), ["256"]),
    "length": (OVF + " " * (5 << 20), ["longer"]),
    "an unended element": (OVF[:1500], ["OVF"]),
    "a huge disk": (OVF.replace('capacity="2"', 'capacity="99999999999999999999"'), ["vm.ova"]),
    "memory of no size": (OVF.replace(">768<", ">99999999999999999<"), ["memory"]),
}


def test_hostile_appliances_are_refused_with_a_sentence_and_leave_nothing():
    for case, (text, words) in HOSTILE_OVFS.items():
        with folder():
            make_ova(ovf=text.replace("{cpus}", "2").replace("{more_files}", ""), manifest=None)
            try:
                refused_here("import", "vm.ova", "vm", words=words)
            except AssertionError as why:
                raise AssertionError(f"{case}: {why}") from None


def test_an_ovf_names_no_file_outside_of_its_folder():
    with folder() as here:
        make_ova(manifest=None)
        os.mkdir("sub")
        os.symlink("../disk1.vmdk", "sub/link.vmdk")
        for name, words in (("../disk1.vmdk", ["same folder"]), ("link.vmdk", ["link.vmdk"]),
                            (f"{here}/disk1.vmdk", ["same folder"]), ("", ["same folder"])):
            with open("sub/vm.ovf", "w", encoding="ascii") as f:
                f.write(OVF.format(cpus=1, more_files="").replace("disk1.vmdk", name))
            refused_here("import", "sub/vm.ovf", "vm", words=["vm.ovf", *words])


def test_a_disk_of_an_appliance_reaches_no_file_of_the_host():
    with folder() as here:
        make_ova(manifest=None)
        with open("secret", "wb") as f:
            f.write(b"s" * MIB)
        with open("disk1.vmdk", "w", encoding="ascii") as f:
            f.write('# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\n'
                    f'createType="monolithicFlat"\nRW 2048 FLAT "{here}/secret" 0\n')
        with tarfile.open("vm.ova", "w") as tar:
            tar.add("vm.ovf")
            tar.add("disk1.vmdk")
        refused_here("import", "--backing", "on", "vm.ova", "vm", words=["vm.ova", "VMDK"])
        os.unlink("disk1.vmdk")
        qemu_img("create", "-q", "-f", "vmdk", "base.vmdk", "6M")
        qemu_img("create", "-q", "-f", "vmdk", "-b", f"{here}/base.vmdk", "-F", "vmdk", "disk1.vmdk")
        with tarfile.open("vm.ova", "w") as tar:
            tar.add("vm.ovf")
            tar.add("disk1.vmdk")
        refused_here("import", "--backing", "on", "vm.ova", "vm", words=["vm.ova", "base.vmdk"])
        with tarfile.open("vm.ova", "w") as tar:
            tar.add("vm.ovf")
            link = tarfile.TarInfo("disk1.vmdk")
            link.type, link.linkname = tarfile.SYMTYPE, f"{here}/secret"
            tar.addfile(link)
        refused_here("import", "vm.ova", "vm", words=["vm.ova"])


def qcow2_ova(prepare):
    """An appliance whose disk is the qcow2 that `prepare` makes."""
    make_ova(manifest=None)
    with open("vm.ovf", "w", encoding="ascii") as f:
        f.write(OVF.format(cpus=1, more_files="").replace("disk1.vmdk", "disk1.qcow2"))
    prepare("disk1.qcow2")
    with tarfile.open("vm.ova", "w") as tar:
        tar.add("vm.ovf")
        tar.add("disk1.qcow2")


def test_a_qcow2_of_an_appliance_reaches_no_file_of_the_host():
    with folder() as here:
        random_raw("secret", MIB, density=1)
        qcow2_ova(lambda name: plant_data_file(f"{here}/secret", name))
        for source in ("vm.ova", "vm.ovf"):
            for options in ([], ["--backing", "on"], ["-O", "raw"]):
                refused_here("import", *options, source, "vm", words=[source, "secret", "data file"])
        qcow2_ova(lambda name: qemu_img("create", "-q", "-f", "qcow2", "-b", f"{here}/secret",
                                        "-F", "raw", name))
        refused_here("import", "--backing", "on", "vm.ova", "vm", words=["vm.ova", "secret"])
        qcow2_ova(lambda name: qemu_img("convert", "-O", "qcow2", "secret", name))
        image("import", "vm.ova", "vm")
        same("secret", "vm/disk0.qcow2")


def test_a_small_appliance_does_not_unpack_into_a_large_one():
    with folder():
        make_ova(manifest=None)
        os.truncate("disk1.vmdk", 256 * MIB)
        with tarfile.open("vm.ova", "w:gz") as tar:
            tar.add("vm.ovf")
            tar.add("disk1.vmdk")
        for pack in (None, ["tar", "--sparse", "-cf", "vm.ova", "vm.ovf", "disk1.vmdk"]):
            if pack:
                subprocess.run(pack, check=True)
            check(os.path.getsize("vm.ova") < 8 * MIB, os.path.getsize("vm.ova"))
            refused_here("import", "vm.ova", "vm", words=["disk1.vmdk", "larger than the whole OVA"])


if __name__ == "__main__":
    hutch.main()
