#!/usr/bin/env python3
"""What the fuzzer of the control socket begins with: one input for each command that takes
arguments, in the form of its MODE_COMMAND, and a session.

usage: control_corpus.py FOLDER"""
import os
import sys

MODE_NEGOTIATED, MODE_COMMAND = 1, 4
ARGUMENTS = (
    "", '"id": "a"', '"id": "a", "type": "user", "hostfwd": [{"str": "tcp::2222-:22"}]',
    '"id": "a", "type": "tap", "ifname": "t", "script": "no", "vhost": false',
    '"id": "a", "backend": {"type": "pty", "data": {}}',
    '"id": "a", "backend": {"type": "file", "data": {"out": "f", "append": true}}',
    '"id": "a", "backend": {"type": "socket", "data": {"addr": {"type": "unix", "data": '
    '{"path": "s"}}, "server": true, "wait": false}}',
    '"driver": "qcow2", "node-name": "n", "file": {"driver": "file", "filename": "f"}',
    '"driver": "virtio-blk-pci", "drive": "n"', '"device": "d", "size": 1048576',
    '"device": "d", "bps": 0, "iops_rd": 1', '"name": "n", "up": true', '"enable": ["oob"]',
    '"device": "d", "snapshot-file": "f", "format": "qcow2", "mode": "existing"',
)
SESSION = b'{"execute": "qmp_capabilities"} {"execute": "query-commands", "id": [1]}\xff{]'
COMMANDS = 128  # as many as there are, and more: the rest begin again


def main(folder):
    for number, text in enumerate(ARGUMENTS):
        for command in range(COMMANDS):
            with open(os.path.join(folder, f"command-{number}-{command}"), "wb") as file:
                file.write(bytes((MODE_NEGOTIATED | MODE_COMMAND, command)) + text.encode())
    with open(os.path.join(folder, "session"), "wb") as file:
        file.write(bytes((0, 3)) + SESSION)


if __name__ == "__main__":
    main(sys.argv[1])
