"""Reads snapshots by docs/snapshot-format.md and nothing else: no code of hutch is used, so
that the document is known to be enough."""
import hashlib
import json
import os
import struct
import subprocess
import zlib

PAGE = 4096
CHUNK = 4 << 20
ZST_CHUNK = 64 << 10


def require(promise, what):
    if not promise:
        raise ValueError(what)


def sections(data):
    """The sections of a state file: name to (kind, version, fields by tag)."""
    require(data[:12] == b"\x89HVS\r\n\x1a\n" + struct.pack("<I", 1), "not a state file")
    at, found = 12, {}
    while data[at:at + 4] == b"SECT":
        total, size, version, name_len, kind_len = struct.unpack_from("<IIHBB", data, at + 4)
        end = at + 16 + name_len + kind_len + size
        require(end <= len(data), "a section is longer than the file")
        require(zlib.crc32(data[at + 8:end]) == total, "a section's sum is wrong")
        name = data[at + 16:at + 16 + name_len].decode()
        kind = data[at + 16 + name_len:at + 16 + name_len + kind_len].decode()
        require(name not in found, "a section is there twice")
        found[name] = (kind, version, fields(data[end - size:end]))
        at = end
    require(data[at:] == b"LAST" + struct.pack("<I", len(found)), "the end is not there")
    return found


def fields(data):
    """Values by tag."""
    at, found = 0, {}
    while at < len(data):
        tag, size = struct.unpack_from("<HI", data, at)
        require(tag not in found and at + 6 + size <= len(data), "a field is wrong")
        found[tag] = data[at + 6:at + 6 + size]
        at += 6 + size
    return found


class Snapshot:
    def __init__(self, folder):
        self.folder = folder
        self.manifest = json.loads(self.read("manifest.json"))
        require(self.manifest["format"] == 1, "another format")
        self.pages = self.manifest["ram-size"] // PAGE
        self.parent = None
        if "parent-id" in self.manifest:
            path = os.path.join(os.path.dirname(os.path.realpath(folder)),
                                self.manifest["parent"])
            self.parent = Snapshot(path)
            require(self.parent.manifest["id"] == self.manifest["parent-id"], "a wrong parent")
        self.mine = self.read_map() if self.parent else None
        self.zst = self.read_zst() if self.manifest["memory-encoding"] == "zstd" else None

    def path(self, name):
        return os.path.join(self.folder, name)

    def read(self, name):
        with open(self.path(name), "rb") as f:
            return f.read()

    def read_map(self):
        """Pages that a diff holds itself."""
        kind, _, values = sections(self.read("memory.map"))["memory"]
        require(kind == "memory-map", "not a map")
        require(struct.unpack("<Q", values[1])[0] == self.pages, "a map of another RAM")
        held = set()
        for first, count in struct.iter_unpack("<QI", values[2]):
            held.update(range(first, first + count))
        return held

    def read_zst(self):
        """Chunks of 64 KiB that are there, by their number."""
        data = self.read("memory.zst")
        pages, n, total, size, version, magic = struct.unpack("<QIIII8s", data[-32:])
        require(magic == b"HUTCHZST" and version == 1 and size == ZST_CHUNK, "not a memory.zst")
        require(pages == self.pages, "of another RAM")
        index = data[-32 - 16 * n:-32]
        require(zlib.crc32(index) == total, "the index has another sum")
        require(struct.unpack("<II", data[-40 - 16 * n:-32 - 16 * n]) ==
                (0x184D2A5E, 16 * n + 32), "the index is not a skippable frame")
        chunks = {}
        for chunk, length, offset in struct.iter_unpack("<IIQ", index):
            plain = subprocess.run(["zstd", "-dcq"], input=data[offset:offset + length],
                                   stdout=subprocess.PIPE, check=True).stdout
            require(len(plain) == min(ZST_CHUNK, self.pages * PAGE - chunk * ZST_CHUNK),
                    "a chunk has another size")
            chunks[chunk] = plain
        return chunks

    def alone(self, offset, size):
        """Bytes of RAM as this folder has them; what is its parents' is zeroes."""
        if self.zst is None:
            with open(self.path("memory"), "rb") as f:
                f.seek(offset)
                data = bytearray(f.read(size))
        else:
            data = bytearray()
            for at in range(offset, offset + size, ZST_CHUNK):
                want = min(ZST_CHUNK, offset + size - at)
                data += self.zst.get(at // ZST_CHUNK, bytes(want))[:want]
        for page in range(offset // PAGE, (offset + size) // PAGE) if self.mine is not None else ():
            if page not in self.mine:
                data[page * PAGE - offset:(page + 1) * PAGE - offset] = bytes(PAGE)
        return bytes(data)

    def page(self, number):
        """A page of RAM as the guest had it."""
        if self.parent and number not in self.mine:
            return self.parent.page(number)
        if self.zst is None:
            with open(self.path("memory"), "rb") as f:
                f.seek(number * PAGE)
                return f.read(PAGE)
        chunk = self.zst.get(number * PAGE // ZST_CHUNK)
        at = number * PAGE % ZST_CHUNK
        return chunk[at:at + PAGE] if chunk else bytes(PAGE)

    def verify(self):
        """All hashes."""
        for entry in self.manifest["files"]:
            data = self.read(entry["name"])
            require(len(data) == entry.get("size", 0), f"{entry['name']} has another size")
            require(hashlib.sha256(data).hexdigest() == entry["sha256"],
                    f"{entry['name']} is another")
        lines = self.read("memory.sums").decode().splitlines()
        size = self.manifest["ram-size"]
        require(len(lines) == -(-size // CHUNK), "not as many hashes as chunks")
        whole = hashlib.sha256()
        for i, line in enumerate(lines):
            data = self.alone(i * CHUNK, min(CHUNK, size - i * CHUNK))
            if line == "-":
                require(not any(data), f"chunk {i} is not zeroes")
                whole.update(bytes(32))
            else:
                require(hashlib.sha256(data).hexdigest() == line, f"chunk {i} is another")
                whole.update(bytes.fromhex(line))
        require(whole.hexdigest() == self.manifest["memory-sha256"], "memory is another")
