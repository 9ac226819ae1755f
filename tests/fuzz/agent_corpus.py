#!/usr/bin/env python3
"""What a well-behaved agent answers, for fuzz_agent to begin with.

usage: agent_corpus.py FOLDER
"""
import json
import os
import sys

# In the order of the questions in fuzz_agent.c.
ANSWERS = [
    [{"name": "eth0", "hardware-address": "52:54:00:12:34:56", "ip-addresses": [
        {"ip-address": "10.0.2.15", "ip-address-type": "ipv4", "prefix": 24},
        {"ip-address": "fe80::1", "ip-address-type": "ipv6", "prefix": 64}]}],
    {"exited": True, "exitcode": 1, "out-data": "b3V0Cg==", "err-data": "", "out-truncated": True},
    {"pid": 4711},
    {"count": 4, "buf-b64": "b3V0Cg==", "eof": False},
    2,
    {"version": "7.2.0", "supported_commands": [
        {"name": "guest-exec", "enabled": True, "success-response": True}]},
]


def main():
    for number, answer in enumerate(ANSWERS):
        text = json.dumps({"return": answer})
        with open(os.path.join(sys.argv[1], f"{number}"), "wb") as file:
            file.write(bytes([number]) + text.encode() + b"\n")
    with open(os.path.join(sys.argv[1], "signal"), "wb") as file:
        file.write(b"\x01" + b'{"return":{"exited":true,"signal":9}}\n')
    with open(os.path.join(sys.argv[1], "error"), "wb") as file:
        file.write(b"\x02" + b'{"error":{"class":"CommandNotFound","desc":"no \\u001b way"}}\n')


if __name__ == "__main__":
    main()
