#!/usr/bin/env python3
"""Tortures a cluster of three real processes and checks the history that its clients saw.

Three network namespaces joined by a bridge stand for three hosts. While producers and workers use every node, a
nemesis kills (SIGKILL), stops (SIGSTOP), restarts and cuts off nodes, fully or in one direction. Then everything heals,
the queue is drained from every node, and the history must bear out every promise: `history.py` says which, and judges.

Needs root and iproute2. Usage: torture.py --binary target/release/beaver-raft [--seconds 120] [--seed N] [--dir DIR]
"""

import argparse
import collections
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

from history import Delete, History, Hold, Put, check

PREFIX = f"bt{os.getpid() % 10000}"
NODES = (1, 2, 3)
TTR = 6
CLUSTER_ID = "7" * 32


def sh(*command, check=True):
    return subprocess.run(command, check=check, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def address(node):
    return f"10.99.0.{node}"


class Network:
    """A bridge in a namespace of its own, where the clients live too, and one namespace per node."""

    def __init__(self):
        self.hub = f"{PREFIX}-hub"

    def namespace(self, node):
        return f"{PREFIX}-n{node}"

    def build(self):
        sh("ip", "netns", "add", self.hub)
        self.inside(self.hub, "ip", "link", "add", "br0", "type", "bridge")
        self.inside(self.hub, "ip", "addr", "add", "10.99.0.254/24", "dev", "br0")
        self.inside(self.hub, "ip", "link", "set", "br0", "up")
        self.inside(self.hub, "ip", "link", "set", "lo", "up")
        for node in NODES:
            ns = self.namespace(node)
            sh("ip", "netns", "add", ns)
            self.inside(self.hub, "ip", "link", "add", f"p{node}", "type", "veth", "peer", "name", "eth0", "netns", ns)
            self.inside(self.hub, "ip", "link", "set", f"p{node}", "master", "br0", "up")
            self.inside(ns, "ip", "addr", "add", f"{address(node)}/24", "dev", "eth0")
            self.inside(ns, "ip", "link", "set", "eth0", "up")
            self.inside(ns, "ip", "link", "set", "lo", "up")

    def inside(self, ns, *command, check=True):
        return sh("ip", "netns", "exec", ns, *command, check=check)

    def cut(self, source, target):
        """What `source` sends to `target` is lost, silently: a hardware address that nobody has."""
        self.inside(self.namespace(source), "ip", "neigh", "replace", address(target), "lladdr",
                    "02:00:00:00:00:99", "dev", "eth0", "nud", "permanent")

    def heal(self):
        for source in NODES:
            for target in NODES:
                if source != target:
                    self.inside(self.namespace(source), "ip", "neigh", "del", address(target), "dev", "eth0",
                                check=False)

    def remove(self):
        for ns in [self.namespace(node) for node in NODES] + [self.hub]:
            sh("ip", "netns", "del", ns, check=False)


class Cluster:
    def __init__(self, binary, directory, network):
        self.binary, self.directory, self.network = binary, directory, network
        self.processes = {}
        self.kills = collections.defaultdict(list)

    def prepare(self):
        for node in NODES:
            with open(self.config(node), "w") as file:
                members = ", ".join(f"{n}: {address(n)}:7300" for n in NODES)
                file.write(f"cluster: torture\ncluster_id: {CLUSTER_ID}\nnode: {node}\ndata: {self.directory}/data{node}\n"
                           f"clients: {address(node)}:11300\npeers: {address(node)}:7300\n"
                           f"admin: {address(node)}:9300\nmembers: {{ {members} }}\nshards: 1\n")
            subprocess.run([self.binary, "init", "--config", self.config(node)], check=True,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def config(self, node):
        return f"{self.directory}/node{node}.yaml"

    def start(self, node):
        with open(f"{self.directory}/node{node}.log", "a") as log:
            self.processes[node] = subprocess.Popen(
                ["ip", "netns", "exec", self.network.namespace(node), self.binary, "run", "--config",
                 self.config(node)], stdout=log, stderr=log)

    def kill(self, node):
        self.kills[node].append(time.monotonic())
        self.processes[node].send_signal(signal.SIGKILL)
        self.processes[node].wait()

    def died(self):
        """Nodes that ended though nobody killed them."""
        return [node for node, process in self.processes.items() if process.poll() is not None]

    def status(self, node):
        try:
            with urllib.request.urlopen(f"http://{address(node)}:9300/status", timeout=1) as answer:
                return json.load(answer)
        except OSError:
            return None

    def leader(self):
        for node in NODES:
            status = self.status(node)
            if status and any(shard["role"] == "leader" for shard in status["shards"]):
                return node
        return None

    def stop(self):
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.send_signal(signal.SIGTERM)
        for node, process in self.processes.items():
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                print(f"node {node} did not stop on SIGTERM within 20 s")


class Connection:
    """One beanstalkd connection; any trouble is an OSError."""

    def __init__(self, node, timeout):
        self.node = node
        self.socket = socket.create_connection((address(node), 11300), timeout=timeout)
        self.file = self.socket.makefile("rb")

    def line(self):
        line = self.file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("closed")
        return line[:-2].decode()

    def call(self, command, body=None):
        data = command.encode() + b"\r\n"
        if body is not None:
            data += body + b"\r\n"
        self.socket.sendall(data)
        return self.line()

    def reserve(self, timeout):
        words = self.call(f"reserve-with-timeout {timeout}").split()
        if words[0] != "RESERVED":
            return None
        return int(words[1]), self.rest(words[2])

    def rest(self, size):
        body = self.file.read(int(size) + 2)
        if len(body) != int(size) + 2:
            raise ConnectionError("closed")
        return body[:-2].decode()

    def stats(self, command):
        """Of a job or of the server; None where there is no such job."""
        words = self.call(command).split()
        if words[0] != "OK":
            return None
        return dict(line.split(": ", 1) for line in self.rest(words[1]).splitlines() if ": " in line)

    def standing(self, job, until):
        """What a job that is held says of its priority and of how often it was reserved; nothing certain after `until`."""
        stats = self.stats(f"stats-job {job}")
        if stats is None or time.monotonic() > until:
            return None, None
        return int(stats["pri"]), int(stats["reserves"])

    def close(self):
        self.file.close()
        self.socket.close()


class Client(threading.Thread):
    def __init__(self, name, seed, history, stop):
        super().__init__(name=name, daemon=True)
        self.random, self.history, self.stop = random.Random(seed), history, stop
        self.connection = None

    def run(self):
        while not self.stop.is_set():
            try:
                if self.connection is None:
                    self.connection = Connection(self.random.choice(NODES), timeout=15)
                self.work()
            except OSError:
                self.drop()
                time.sleep(self.random.uniform(0.02, 0.3))
        self.drop()

    def drop(self):
        if self.connection is not None:
            self.connection.close()
        self.connection = None


class Producer(Client):
    count = 0

    def work(self):
        self.count += 1
        body = f"{self.name}-{self.count}"
        invoked = time.monotonic()
        priority, delay = self.random.choice((0, 10, 10, 2000)), self.random.choice((0, 0, 0, 0, 1))
        try:
            reply = self.connection.call(f"put {priority} {delay} {TTR} {len(body)}", body.encode())
        except OSError:
            self.history.add("puts", Put(body, invoked, None, None, priority, delay))
            raise
        if reply.startswith("INSERTED "):
            self.history.add("puts", Put(body, invoked, time.monotonic(), int(reply.split()[1]), priority, delay))
        elif reply == "DRAINING":
            self.drop()
        else:
            self.history.odd.append(f"put answered {reply}")
        time.sleep(self.random.uniform(0, 0.02))


class Worker(Client):
    def work(self):
        invoked = time.monotonic()
        got = self.connection.reserve(1)
        if got is None:
            return
        held = time.monotonic()
        job, body = got
        node = self.connection.node
        until, standing = held, (None, None)
        try:
            standing = self.connection.standing(job, invoked + TTR)
            # So that jobs pile up, and their order is in question.
            time.sleep(self.random.uniform(0, 0.02))
            dice = self.random.random()
            if dice < 0.02:
                time.sleep(self.random.uniform(0, TTR + 2))
            until = min(invoked + TTR, time.monotonic())
            if dice < 0.10:
                self.connection.call(f"release {job} 10 {self.random.choice((0, 0, 1))}")
            elif dice < 0.13:
                self.connection.call(f"bury {job} 10")
                self.connection.call("kick 5")
            elif dice < 0.15:
                self.drop()
            else:
                delete(self.connection, job, self.history)
        finally:
            self.history.add("holds", Hold(job, body, node, invoked, held, until, *standing))


def delete(connection, job, history):
    invoked = time.monotonic()
    try:
        reply = connection.call(f"delete {job}")
    except OSError:
        history.add("deletes", Delete(job, invoked, None, "unknown"))
        raise
    history.add("deletes", Delete(job, invoked, time.monotonic(), reply))


def torment(cluster, network, rng, seconds, report):
    """Does one bad thing after another."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(rng.uniform(0.5, 3))
        leader = cluster.leader()
        victim = leader if leader and rng.random() < 0.6 else rng.choice(NODES)
        others = [node for node in NODES if node != victim]
        kind = rng.choice(("kill", "kill", "stop", "isolate", "cut out", "cut in", "cut one", "kill two", "kill all"))
        report[kind] += 1
        if kind == "kill":
            cluster.kill(victim)
            time.sleep(rng.uniform(0.1, 3))
            cluster.start(victim)
        elif kind == "stop":
            # The child of `ip netns exec` is the node itself: exec replaces the process.
            cluster.processes[victim].send_signal(signal.SIGSTOP)
            time.sleep(rng.uniform(0.2, 3))
            cluster.processes[victim].send_signal(signal.SIGCONT)
        elif kind in ("kill two", "kill all"):
            victims = others if kind == "kill two" else NODES
            for node in victims:
                cluster.kill(node)
            time.sleep(rng.uniform(0.1, 1.5))
            for node in victims:
                cluster.start(node)
        else:
            for other in others[:1] if kind == "cut one" else others:
                if kind in ("isolate", "cut out"):
                    network.cut(victim, other)
                if kind in ("isolate", "cut in", "cut one"):
                    network.cut(other, victim)
            time.sleep(rng.uniform(0.5, 4))
            network.heal()
        died = cluster.died()
        if died:
            raise SystemExit(f"FAILED: nodes {died} ended by themselves; see their logs in {cluster.directory}")


def drain(cluster, history, deadline_s=90):
    """Takes every job that is left, from every node in turn."""
    deadline = time.monotonic() + deadline_s
    while time.monotonic() < deadline:
        left = 0
        for node in NODES:
            try:
                connection = Connection(node, timeout=15)
                connection.call("kick 100000")
                while True:
                    invoked = time.monotonic()
                    got = connection.reserve(0)
                    if got is None:
                        break
                    held = time.monotonic()
                    standing = connection.standing(got[0], invoked + TTR)
                    history.add("holds", Hold(*got, node, invoked, held, held, *standing))
                    delete(connection, got[0], history)
                left = sum(int(count) for name, count in connection.stats("stats").items()
                           if name.startswith("current-jobs-") and "urgent" not in name)
                connection.close()
            except OSError as error:
                left = -1
                print(f"while draining from node {node}: {error}")
        if left == 0:
            return
        time.sleep(0.5)
    raise SystemExit("FAILED: the queue could not be drained")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--dir", help="where data goes; must be on a disk with direct I/O")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}, {arguments.seconds:.0f} s", flush=True)
    rng = random.Random(arguments.seed)
    directory = tempfile.mkdtemp(prefix="beaver-torture-", dir=arguments.dir)
    network = Network()
    cluster = Cluster(os.path.abspath(arguments.binary), directory, network)
    failed = True
    try:
        network.build()
        # This process lives in the clients' namespace from here on.
        with open(f"/var/run/netns/{network.hub}") as namespace:
            setns(namespace.fileno())
        cluster.prepare()
        for node in NODES:
            cluster.start(node)
        history, stop = History(), threading.Event()
        clients = [Producer(f"p{n}", rng.random(), history, stop) for n in range(4)]
        clients += [Worker(f"w{n}", rng.random(), history, stop) for n in range(6)]
        for client in clients:
            client.start()
        report = collections.Counter()
        torment(cluster, network, rng, arguments.seconds, report)
        network.heal()
        stop.set()
        for client in clients:
            client.join(timeout=30)
        drain(cluster, history)
        faults, contested = check(history, cluster.kills)
        known = sum(put.id is not None for put in history.puts)
        print(f"nemesis: {dict(report)}")
        print(f"{len(history.puts)} puts, {known} acknowledged, {len(history.puts) - known} unknown; "
              f"{len(history.holds)} deliveries, {contested} of them past other waiting jobs; {len(history.deletes)} deletes")
        if known < 100 or contested < 100:
            faults.append("too little was done, or too little could be told of its order")
        for fault in faults[:40]:
            print(f"FAULT: {fault}")
        print(f"{len(faults)} faults")
        failed = bool(faults)
    finally:
        cluster.stop()
        network.remove()
        if failed:
            print(f"FAILED; logs and data are kept in {directory}")
        else:
            shutil.rmtree(directory)
    sys.exit(1 if failed else 0)


def setns(descriptor):
    """`os.setns`, which Python has only from 3.12 on."""
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, 0x40000000) != 0:
        raise OSError(ctypes.get_errno(), "setns")


if __name__ == "__main__":
    main()
