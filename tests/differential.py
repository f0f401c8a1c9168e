#!/usr/bin/env python3
"""Sends the same random command streams to two beanstalkd servers and compares every reply.

    tests/differential.py --reference 127.0.0.1:11300 --server 127.0.0.1:11301 [--seconds 60] [--seed N [--rounds N]]

The reference is Debian's beanstalkd 1.12; with `--reference spawn` one is started for the run. Nobody else may talk
to either server meanwhile. Streams are legal and illegal commands on several connections, at times cut into odd
pieces or sent several at once. A round is decided by its seed alone; on a difference its steps are shrunk to as few
as still show it, printed, and the exit status is 1. Rounds have ascending seeds: where one differs only behind those
before it, `--seed` with the first of them and `--rounds` run them all again. After each round nothing may be left in
either server.

Compared is everything but what must differ: ids are matched by the order of the puts (a put that fails uses up an id
in the reference only), strings may be quoted, and process facts are masked. Commands on which the servers are known
to disagree are not generated; docs/differences.md lists them with reasons. Nothing is sent close to the moment at
which a delay or a pause ends, as the two clocks are not one.
"""

import argparse
import os
import random
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time

REPLY_TIMEOUT_S = 10.0
# How long the reference may take before a reserve is taken to be waiting.
WAITING_AFTER_S = 0.01
# Distance kept from moments at which something ends by itself.
EDGE_MARGIN_S = 0.25
CONNECTIONS = 3
NO_SUCH_ID = 9_000_000_000_000_000

MASKED_STATS = {
    "pid", "version", "rusage-utime", "rusage-stime", "uptime", "binlog-oldest-index", "binlog-current-index",
    "binlog-records-migrated", "binlog-records-written", "binlog-max-size", "id", "hostname", "os", "platform",
}
# Compared as growth since the start of the round.
COUNTING_STATS = ("cmd-", "total-", "job-timeouts")
DEFAULT_TUBE_HISTORY = {"total-jobs", "cmd-delete", "cmd-pause-tube"}
# May differ by one second: the moment of asking is not the same.
SECONDS_KEYS = {"age", "time-left", "pause-time-left"}


class Difference(Exception):
    pass


class Wire:
    """One connection to one server, and its replies."""

    def __init__(self, address):
        self.sock = socket.create_connection(address)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    def send(self, pieces):
        for piece in pieces:
            self.sock.sendall(piece)
            if len(pieces) > 1:
                time.sleep(0.001)

    def ready(self, seconds):
        return bool(self.buffer) or bool(select.select([self.sock], [], [], seconds)[0])

    def _fill(self):
        if not select.select([self.sock], [], [], REPLY_TIMEOUT_S)[0]:
            return False
        try:
            data = self.sock.recv(1 << 16)
        except ConnectionError:
            data = b""
        self.buffer += data
        return bool(data)

    def reply(self):
        """The words of the next reply and its body, or the end of the stream, or silence."""
        while b"\r\n" not in self.buffer:
            start = time.monotonic()
            if not self._fill():
                return ["<silence>" if time.monotonic() - start > 1 else "<closed>"], None
        line, self.buffer = self.buffer.split(b"\r\n", 1)
        words = line.decode("latin1").split(" ")
        if words[0] not in ("RESERVED", "FOUND", "OK"):
            return words, None
        size = int(words[-1])
        while len(self.buffer) < size + 2:
            if not self._fill():
                return ["<cut off>"], None
        body, self.buffer = self.buffer[:size], self.buffer[size:]
        end, self.buffer = self.buffer[:2], self.buffer[2:]
        return (words, body) if end == b"\r\n" else (["<out of step>"], None)

    def close(self):
        self.sock.close()


class Server:
    def __init__(self, name, address):
        self.name = name
        self.address = address
        self.ids = []  # of the jobs of this round, in the order of their puts
        self.base = {}

    def ask(self, command):
        wire = Wire(self.address)
        wire.send([command])
        answer = wire.reply()
        wire.close()
        return answer

    def stats(self):
        return yaml_dict(self.ask(b"stats\r\n")[1])

    def settle(self):
        """Until connections of the round before are closed on the server's side too."""
        for _ in range(200):
            if self.stats()["current-connections"] == "1":
                return
            time.sleep(0.02)
        raise SystemExit(f"{self.name} has other clients: it cannot be compared")

    def forget_jobs(self):
        """Takes what a round left behind, wherever it is."""
        self.settle()
        self.ids = []
        wire = Wire(self.address)

        def ask(command):
            wire.send([command])
            return wire.reply()

        for tube in ask(b"list-tubes\r\n")[1].decode().splitlines()[1:]:
            tube = tube[2:].strip('"').encode()
            for command in (b"watch %b", b"use %b", b"pause-tube %b 0"):
                ask(command % tube + b"\r\n")
            while ask(b"kick 4294967295\r\n")[0] != ["KICKED", "0"]:
                pass
        time.sleep(0.01)
        while (words := ask(b"reserve-with-timeout 0\r\n")[0])[0] == "RESERVED":
            ask(b"delete %d\r\n" % int(words[1]))
        wire.close()
        left = {key: count for key, count in self.stats().items() if key.startswith("current-jobs-") and count != "0"}
        # A tube that is listed nowhere keeps its jobs.
        return f"{self.name} still holds jobs that no tube of `list-tubes` gives: {left}" if left else None

def yaml_dict(body):
    pairs = (line.split(": ", 1) for line in body.decode("latin1").splitlines()[1:])
    return {key: value.strip('"') for key, value in pairs}


class Step:
    """Commands of one connection, each with how many replies it has. `\\x013\\x01` in a command stands for the id of the
    round's fourth job."""

    def __init__(self, connection, commands, cut=False, kind="", edges=()):
        self.connection = connection
        self.commands = commands
        self.cut = cut
        self.kind = kind  # "reserve" or nothing special
        self.edges = edges  # seconds from now at which something may end by itself

    def __repr__(self):
        text = self.text if len(self.text) <= 400 else self.text[:200] + b" ... " + self.text[-200:]
        return f"    connection {self.connection}: {text!r}"

    @property
    def text(self):
        return b"".join(text for text, _ in self.commands)


def delays_again(text):
    return text.startswith(b"release ") and not text.endswith(b" 0\r\n")


class Sleep:
    def __init__(self, seconds):
        self.seconds = seconds

    def __repr__(self):
        return f"    sleep {self.seconds}"


def with_ids(text, ids):
    out = b""
    for n, part in enumerate(text.split(b"\x01")):
        if n % 2 == 0:
            out += part
        else:
            at = int(part)
            out += b"%d" % (ids[at % len(ids)] if ids else NO_SUCH_ID)
    return out


class Generator:
    """Makes the steps of a round. It does not look at replies, so that steps can be left out again."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.timed = self.random.random() < 0.15
        # Not random: what is left of an earlier round would be found by name.
        self.tubes = [f"t{seed}-{letter}" for letter in "abc"] + ["default"]
        self.puts = 0

    def steps(self):
        count = self.random.randrange(5, 120)
        return [self.step(self.random.randrange(CONNECTIONS)) for _ in range(count)]

    def step(self, connection):
        r = self.random
        choice = r.random()
        if self.timed and choice < 0.04:
            return Sleep(r.choice([0.5, 1.3, 2.5]))
        if choice < 0.06 and not self.timed:
            return Step(connection, [(b"reserve\r\n", 1)], kind="reserve")
        if choice < 0.16:
            return self.several(connection)
        text, replies, edges = self.command()
        return Step(connection, [(text, replies)], r.random() < 0.1, edges=edges)

    def several(self, connection):
        commands = [self.command() for _ in range(self.random.randrange(2, 12))]
        edges = [edge for _, _, edges in commands for edge in edges]
        asked = [(text, replies) for text, replies, _ in commands]
        return Step(connection, asked, self.random.random() < 0.3, edges=edges)

    def command(self):
        r = self.random
        kind = r.choices(
            ["put", "reserve", "job", "tube", "look", "stats", "wrong", "wrong put"], [24, 16, 24, 14, 10, 6, 9, 4]
        )[0]
        return getattr(self, kind.replace(" ", "_"))()

    def priority(self):
        return self.random.choice([0, 1, 1, 2, 1023, 1024, 4294967295])

    def delay(self):
        return self.random.choice([0, 0, 0, 0, 1, 1000] if self.timed else [0, 0, 0, 1000, 2000, 4294967295])

    def ttr(self):
        # The reference ends reservations late, by chance (docs/differences.md), so none ends within a round.
        return self.random.choice([600, 1000, 4294967295])

    def name(self):
        return self.random.choice(self.tubes)

    def ref(self):
        return "\x01%d\x01" % self.random.randrange(max(self.puts, 1))

    def short(self, *seconds):
        return [float(s) for s in seconds if 0 < s < 100]

    def body(self):
        r = self.random
        size = r.choices([r.randrange(0, 30), r.randrange(0, 3000), 65535], [90, 9, 1])[0]
        return r.choice([r.randbytes, lambda n: (b"\r\n" * n)[:n], lambda n: b"put 1 1 1 1\r\n" * n])(size)[:size]

    def put(self):
        delay, body = self.delay(), self.body()
        self.puts += 1
        line = f"put {self.priority()} {delay} {self.ttr()} {len(body)}\r\n".encode()
        return line + body.replace(b"\x01", b"_") + b"\r\n", 1, self.short(delay)

    def reserve(self):
        return b"reserve-with-timeout 0\r\n", 1, []

    def job(self):
        r = self.random
        verb = r.choice(["delete", "delete", "release", "release", "bury", "bury", "touch", "kick-job", "reserve-job"])
        line, edges = f"{verb} {self.ref()}", []
        if verb == "release":
            delay = self.delay()
            line, edges = f"{line} {self.priority()} {delay}", self.short(delay)
        elif verb == "bury":
            line += f" {self.priority()}"
        return f"{line}\r\n".encode(), 1, edges

    def tube(self):
        r = self.random
        verb = r.choice(["use", "use", "watch", "watch", "ignore", "pause-tube", "kick", "kick"])
        if verb == "pause-tube":
            seconds = r.choice([0, 0, 1 if self.timed else 0, 1000])
            return f"pause-tube {self.name()} {seconds}\r\n".encode(), 1, self.short(seconds)
        if verb == "kick":
            return f"kick {r.choice([0, 1, 2, 100, '1x', '  3', '+2', '-1', 4294967296])}\r\n".encode(), 1, []
        return f"{verb} {self.name()}\r\n".encode(), 1, []

    def look(self):
        verb = self.random.choice(["peek", "peek-ready", "peek-delayed", "peek-buried", "stats-job", "stats-job"])
        line = f"{verb} {self.ref()}" if verb in ("peek", "stats-job") else verb
        return f"{line}\r\n".encode(), 1, []

    def stats(self):
        commands = ["stats", "list-tubes", "list-tube-used", "list-tubes-watched"] + [f"stats-tube {self.name()}"] * 4
        return f"{self.random.choice(commands)}\r\n".encode(), 1, []

    def wrong(self):
        """A line that is no good, or good in an odd way."""
        r = self.random
        verbs = [
            "put", "peek", "peek-ready", "peek-delayed", "peek-buried", "reserve", "reserve-job", "delete", "release",
            "bury", "kick", "kick-job", "touch", "stats", "stats-job", "stats-tube", "use", "watch", "ignore",
            "list-tubes", "list-tube-used", "list-tubes-watched", "pause-tube", "nonsense", "",
        ]
        words = [
            "", " ", "x", "-1", "+1", "1x", " 1", str(NO_SUCH_ID), "4294967296", "18446744073709551616", "-bad",
            "a{b}", "a b", "n" * 200, "n" * 201, "\0", "1\t2", self.name() + " ", "n" * 400,
        ]
        line = (r.choice(verbs) + r.choice(["", " ", "  "]) + r.choice(words) + r.choice(["", "", " ", " 1", "x"])).encode()
        # What is too long is cut short in another place by the reference if the CRLF lies across its buffer's end.
        if len(line) == 223 or line.startswith((b"quit", b"reserve-with-timeout")) or line == b"reserve":
            line = b"wrong"
        return line + b"\r\n", 1, []

    def wrong_put(self):
        r = self.random
        return r.choice(
            [
                (b"put 1 0 600 3\r\nabcde", 1, []),
                (b"put 1 0 600 0\r\nab", 1, []),
                (b"put 1 0 600 2\r\nabc\r\r\n"[: -2], 1, []),
                (b"put 1 0 600 65536\r\n" + b"z" * 65536 + b"\r\n", 1, []),
                (b"put 1 0 600 65537x\r\n" + b"\r\n" * 32768 + b"abc", 1, []),
                (b"put 1 0 600 -1\r\nbody\r\n", 2, []),
                (b"put 1 0 600 4x\r\nbody\r\n", 2, []),
                (b"put 1 0 600\r\nlist-tube-used\r\n", 2, []),
                (b"put 4294967296 0 600 4\r\nbody\r\n", 2, []),
            ]
        )


class Round:
    """Runs steps against both servers at once."""

    def __init__(self, seed, reference, server):
        self.servers = (reference, server)
        self.random = random.Random(seed)
        self.pairs = [tuple(Wire(s.address) for s in self.servers) for _ in range(CONNECTIONS)]
        # A connection that nobody has accepted yet uses and watches nothing.
        for pair in self.pairs:
            for wire in pair:
                wire.send([b"list-tube-used\r\n"])
                wire.reply()
        self.waiting = None
        self.edges = []
        self.log = []

    def run(self, steps):
        try:
            for step in steps:
                self.run_step(step)
            self.half_close()
        finally:
            for pair in self.pairs:
                for wire in pair:
                    wire.close()

    def run_step(self, step):
        if isinstance(step, Sleep):
            time.sleep(step.seconds)
            self.check_waiting()
            return
        if self.waiting is not None and (
            # One waits at a time, as who of several is served first is not defined. Of jobs that become ready in one
            # go, it gets the first in the reference and the best here.
            step.connection == self.waiting or step.kind == "reserve" or b"kick " in step.text
        ):
            return
        self.keep_off_edges()
        now = time.monotonic()
        self.edges += [now + edge for edge in step.edges]
        # A job that becomes ready is a waiting worker's one commit later: until then nothing else is asked. And what one
        # entry of the log delays ends at one moment.
        one_by_one = self.waiting is not None or any(delays_again(text) for text, _ in step.commands)
        at_once = [(step.text, sum(replies for _, replies in step.commands))]
        for text, replies in step.commands if one_by_one else at_once:
            self.run_commands(step, text, replies)
            self.check_waiting()

    def run_commands(self, step, text, replies):
        pair = self.pairs[step.connection]
        for wire, server in zip(pair, self.servers):
            wire.send(self.pieces(with_ids(text, server.ids), step.cut))
        if step.kind == "reserve":
            self.waiting = step.connection
            return
        for _ in range(replies):
            self.compare(step, pair)

    def pieces(self, data, cut):
        if not cut or len(data) > 5000:
            return [data]
        ends = sorted(self.random.sample(range(len(data) + 1), min(len(data), 6)))
        return [data[a:b] for a, b in zip([0] + ends, ends + [len(data)]) if a < b]

    def keep_off_edges(self):
        self.edges = [edge for edge in self.edges if edge > time.monotonic() - EDGE_MARGIN_S]
        for edge in sorted(self.edges):
            now = time.monotonic()
            if abs(edge - now) < EDGE_MARGIN_S:
                time.sleep(edge + EDGE_MARGIN_S - now)

    def check_waiting(self):
        """A waiting reserve is answered by both or by neither."""
        if self.waiting is None:
            return
        reference, server = self.pairs[self.waiting]
        if reference.ready(WAITING_AFTER_S) or (server.ready(0) and reference.ready(1)):
            step = Step(self.waiting, [(b"reserve\r\n", 1)])
            self.waiting = None
            self.compare(step, (reference, server))
        elif server.ready(0):
            raise Difference(f"a waiting reserve was answered by one only: {server.reply()}")

    def half_close(self):
        """A waiting client that closes its side is told TIMED_OUT; any other is closed."""
        self.keep_off_edges()
        # The waiting one first: the end of the others gives jobs back, several in one go.
        for number, pair in sorted(enumerate(self.pairs), key=lambda numbered: numbered[0] != self.waiting):
            half_close = Step(number, [(b"<half-close>", 1)])
            for wire in pair:
                wire.sock.shutdown(socket.SHUT_WR)
            if number == self.waiting:
                self.compare(half_close, pair)
            self.compare(half_close, pair)

    def compare(self, step, pair):
        replies = [wire.reply() for wire in pair]
        told = [self.comparable(*reply, server) for reply, server in zip(replies, self.servers)]
        if not equal(*told):
            lines = "".join(f"\n  {server.name}: {said!r}" for server, said in zip(self.servers, told))
            raise Difference(f"{step!r} is answered differently:{lines}")
        if replies[0][0][0] == "<silence>":
            raise SystemExit(f"{step!r} is answered by neither: the generator expects a reply too many")

    def comparable(self, words, body, server):
        if words[0] == "INSERTED":
            server.ids.append(int(words[1]))
            return ["INSERTED"]
        if words[0] in ("RESERVED", "FOUND"):
            return [words[0], self.logical(words[1], server), body]
        if words[0] != "OK":
            return words
        lines = body.decode("latin1").splitlines()
        if lines[1:] and not lines[1].startswith("- "):
            return [words[0], self.comparable_stats(yaml_dict(body), server)]
        # A name that YAML would misread is in quotes here, and not there.
        lines = [line.replace('"', "") for line in lines]
        return [words[0], lines] if "- default" not in lines[:2] else [words[0], lines[:2], sorted(lines[2:])]

    def comparable_stats(self, stats, server):
        if "pid" in stats:
            stats = {key: value for key, value in stats.items() if key not in MASKED_STATS}
            for key in stats:
                if key.startswith(COUNTING_STATS):
                    stats[key] = str(int(stats[key]) - int(server.base[key]))
        elif stats.get("name") == "default":
            # It outlives the rounds, and one server may have seen more of them.
            stats = {key: value for key, value in stats.items() if key not in DEFAULT_TUBE_HISTORY}
        elif "ttr" in stats:
            stats["id"] = self.logical(stats["id"], server)
            stats["file"] = ""
        return stats

    def logical(self, id, server):
        return f"job {server.ids.index(int(id))}" if int(id) in server.ids else f"unknown job {id}"


def equal(one, other):
    if len(one) == 2 and isinstance(one[1], dict) and len(other) == 2 and isinstance(other[1], dict):
        a, b = one[1], other[1]
        close = all(abs(int(a[key]) - int(b[key])) <= 1 for key in SECONDS_KEYS & set(a) & set(b))
        rest = [[(key, value) for key, value in stats.items() if key not in SECONDS_KEYS] for stats in (a, b)]
        return close and list(a) == list(b) and rest[0] == rest[1]
    return one == other


def run_round(seed, steps, reference, server):
    """The difference that the steps show, if any."""
    for side in (reference, server):
        side.settle()
        side.base = side.stats()
    try:
        Round(seed, reference, server).run(steps)
        found = None
    except Difference as difference:
        found = str(difference)
    left = [side.forget_jobs() for side in (reference, server)]
    return found or left[0] or left[1]


def shrink(seed, steps, reference, server):
    """Fewer steps that still show a difference: leaves out ever smaller parts while that is so."""
    part = len(steps) // 2
    give_up = time.monotonic() + 60
    while part >= 1 and time.monotonic() < give_up:
        at = 0
        while at < len(steps):
            fewer = steps[:at] + steps[at + part :]
            if fewer and run_round(seed, fewer, reference, server):
                steps = fewer
            else:
                at += part
        part //= 2
    return steps


def spawn_reference(stack):
    path = os.environ.get("BEANSTALKD") or shutil.which("beanstalkd") or "/usr/bin/beanstalkd"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([path, "-l", "127.0.0.1", "-p", str(port)], cwd=tempfile.gettempdir())
    stack.append(process)
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return ("127.0.0.1", port)
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"{path} does not start")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", default="spawn", help="HOST:PORT of beanstalkd 1.12, or `spawn`")
    parser.add_argument("--server", required=True, help="HOST:PORT of the server to check, or `spawn` to check the check")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to go on with new rounds")
    parser.add_argument("--seed", type=int, help="of the first round; it is the only one unless --rounds is given")
    parser.add_argument("--rounds", type=int, help="how many rounds to run, however long it takes")
    parser.add_argument("--keep", action="store_true", help="do not shrink the steps of a round that shows a difference")
    arguments = parser.parse_args()
    processes = []

    def address(text):
        if text == "spawn":
            return spawn_reference(processes)
        host, _, port = text.rpartition(":")
        return (host, int(port))

    try:
        reference = Server("reference", address(arguments.reference))
        server = Server("server", address(arguments.server))
        return compare_rounds(arguments, reference, server)
    finally:
        for process in processes:
            process.terminate()


def is_last(arguments, rounds, end):
    if arguments.rounds is None and arguments.seed is None:
        return time.monotonic() > end
    return rounds >= (arguments.rounds or 1)


def compare_rounds(arguments, reference, server):
    first = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(10**9)
    print(f"first seed: {first}", flush=True)
    end = time.monotonic() + arguments.seconds
    rounds = steps_run = 0
    while True:
        seed = first + rounds
        steps = Generator(seed).steps()
        difference = run_round(seed, steps, reference, server)
        if difference:
            print(f"\nseed {seed}: {difference}\nshrinking {len(steps)} steps ...", flush=True)
            steps = steps if arguments.keep else shrink(seed, steps, reference, server)
            print("\n".join(map(repr, steps)))
            print(run_round(seed, steps, reference, server) or "gone on the last run: it depends on time")
            print(f"\nagain: tests/differential.py --seed {seed} --server {arguments.server}")
            print(f"or, if it depends on the rounds before: --seed {first} --rounds {rounds + 1}")
            return 1
        rounds += 1
        steps_run += len(steps)
        if is_last(arguments, rounds, end):
            break
    print(f"no difference in {rounds} rounds, {steps_run} steps")
    return 0


if __name__ == "__main__":
    sys.exit(main())
