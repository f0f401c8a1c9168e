#!/usr/bin/env python3
"""Names of tubes that a parser of YAML might take for something else, read back with PyYAML.

    tests/clients/yaml_calls.py HOST:PORT

Of a server that writes all strings plain (beanstalkd 1.12) only ordinary names are asked.
"""

import random
import re
import socket
import sys

import yaml

LEGAL = "ABCXYZabefinostxyz0123456789-+/;.$_()"
ORDINARY = ["default", "mail-out_2", "a/b;c.d+e$f", "(x)", "3d-print", "10.0.0.1", "$HOME", "/dev/null", ".x"]
MISREAD = [
    "0123", "17", "1.10", "1e3", "12e5", "1_000", "0x1F", "0o17", "0b11", "+5", ".5", "5.", "1.5e-3", "089", "yes",
    "No", "ON", "off", "y", "n", "true", "False", "null", "Null", ".inf", "+.INF", ".nan", "2026-11-30", "...", "_1",
]


class Wire:
    def __init__(self, address):
        host, port = address.rsplit(":", 1)
        self.file = socket.create_connection((host, int(port))).makefile("rwb")

    def call(self, line, body=None):
        self.file.write(line.encode() + b"\r\n" + (b"" if body is None else body + b"\r\n"))
        self.file.flush()
        reply = self.file.readline().decode().split()
        if reply[0] != "OK":
            return reply
        document = self.file.read(int(reply[1]) + 2)[:-2].decode()
        return yaml.safe_load(document), document


def random_name(rng):
    while True:
        name = "".join(rng.choice(LEGAL) for _ in range(rng.randint(1, 6)))
        if not name.startswith("-"):
            return name


def is_read_back(wire, name):
    wire.call(f"use {name}")
    watched = wire.call(f"watch {name}")
    assert watched[0] == "WATCHING", (name, watched)
    id = wire.call("put 0 0 60 1", b"x")[1]
    for what, (read, written) in (("stats-tube", wire.call(f"stats-tube {name}")), ("stats-job", wire.call(f"stats-job {id}"))):
        found = read["name" if what == "stats-tube" else "tube"]
        assert found == name and isinstance(found, str), (what, name, found, written)
    for what in ("list-tubes", "list-tubes-watched"):
        read, written = wire.call(what)
        assert name in read and all(isinstance(found, str) for found in read), (what, name, written)
    wire.call(f"delete {id}")
    wire.call(f"ignore {name}")


def main():
    wire = Wire(sys.argv[1])
    stats, written = wire.call("stats")
    quotes = 'os: "' in written or re.search(r"^os: [^#]", written, re.M) is not None
    is_own = not str(stats["version"]).startswith("1.")
    for name in ORDINARY:
        is_read_back(wire, name)
        plain = wire.call(f"use {name}") and wire.call(f"stats-tube {name}")[1]
        assert f"\nname: {name}\n" in plain, plain
    if is_own:
        assert quotes and isinstance(stats["hostname"], str) and isinstance(stats["os"], str), written
        rng = random.Random(7)
        for name in MISREAD + [random_name(rng) for _ in range(2000)]:
            is_read_back(wire, name)
    print("ok  names are read back")


main()
