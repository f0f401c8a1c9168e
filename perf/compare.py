#!/usr/bin/env python3
"""Compares builds of beaver-raft in one alternating run (A B A B ...), so that the machine's mood hits all alike: jobs per
second, and processor time per job of the three nodes and of the load generator, which says more on a machine that others use.

    perf/compare.py --peerbench PROGRAM [--rounds N] [--secs N] [--work WORKLOAD]... NAME=BINARY [NAME=BINARY]...

WORKLOAD: latency, lifecycle, or CONNECTIONSxOUTSTANDING such as 64x1 (default: latency, 64x1, 8x32, lifecycle).
"""
import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
import urllib.request

PORTS = {"clients": 15120, "admin": 15140, "peers": 15130}
TICKS = os.sysconf("SC_CLK_TCK")


def fetch(node, page):
    with urllib.request.urlopen(f"http://127.0.0.1:{PORTS['admin'] + node}/{page}", timeout=2) as answer:
        return answer.read()


class Cluster:
    """Three nodes of one build, on loopback."""

    def __init__(self, binary):
        self.directory = tempfile.mkdtemp(prefix="beaver-raft-compare.", dir="/var/tmp")
        self.processes = []
        # Older builds know no such key.
        usage = subprocess.run([binary, "init", "--help"], capture_output=True, text=True).stdout
        cluster_id = "cluster_id: 000000000000000000000000c0c0c0c0\n" if "--cluster-id" in usage else ""
        for node in (1, 2, 3):
            members = ", ".join(f"{member}: 127.0.0.1:{PORTS['peers'] + member}" for member in (1, 2, 3))
            path = f"{self.directory}/{node}.yaml"
            with open(path, "w") as file:
                file.write(
                    f"cluster: compare\nnode: {node}\ndata: {self.directory}/{node}\n"
                    f"clients: 127.0.0.1:{PORTS['clients'] + node}\nadmin: 127.0.0.1:{PORTS['admin'] + node}\n"
                    f"members: {{ {members} }}\n" + cluster_id
                )
            subprocess.run([binary, "init", "--config", path], check=True, stdout=subprocess.DEVNULL)
            log = open(f"{self.directory}/{node}.log", "w")
            self.processes.append(subprocess.Popen([binary, "run", "--config", path], stderr=log))
        for node in (1, 2, 3):
            self.wait_until_ready(node)
        time.sleep(0.3)

    def wait_until_ready(self, node):
        for _ in range(1500):
            try:
                fetch(node, "readyz")
                return
            except OSError:
                time.sleep(0.02)
        raise SystemExit(f"node {node} is not ready; its log is in {self.directory}")

    def leader(self):
        return next(node for node in (1, 2, 3) if json.loads(fetch(node, "status"))["shards"][0]["role"] == "leader")

    def cpu_seconds(self, node):
        with open(f"/proc/{self.processes[node - 1].pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def stop(self):
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            process.wait()
        shutil.rmtree(self.directory)


def arguments(work):
    if work == "latency":
        return ["put-latency"]
    if work == "lifecycle":
        return ["lifecycle", "--conns", "64"]
    return ["put-throughput", "--shapes", work]


def measure(options, binary):
    """The figures of each workload on a fresh cluster."""
    cluster = Cluster(binary)
    try:
        leader = cluster.leader()
        nodes = [leader] + [node for node in (1, 2, 3) if node != leader]
        figures = {}
        for work in options.work:
            out = f"{cluster.directory}/results.jsonl"
            target = ",".join(f"127.0.0.1:{PORTS['clients'] + node}" for node in nodes)
            before = [cluster.cpu_seconds(node) for node in nodes]
            command = [options.peerbench, "--target", f"beanstalkd://{target}", "--out", out, "--secs", str(options.secs)]
            subprocess.run(command + ["--warmup", "0", *arguments(work)], check=True, stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL)
            used = [after - first for after, first in zip((cluster.cpu_seconds(node) for node in nodes), before)]
            with open(out) as file:
                result = json.loads(file.readlines()[-1])
            result = result.get("figures", result)
            jobs = result["jobs_per_s"] * options.secs
            figures[work] = {
                "jobs/s": result["jobs_per_s"],
                "p50 us": result.get("put_p50_us", 0),
                "leader us/job": used[0] / jobs * 1e6,
                "follower us/job": (used[1] + used[2]) / 2 / jobs * 1e6,
                "generator us/job": result["cores_generator"] * options.secs / jobs * 1e6,
            }
        return figures
    finally:
        cluster.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peerbench", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--secs", type=int, default=3)
    parser.add_argument("--work", action="append")
    parser.add_argument("builds", nargs="+", metavar="NAME=BINARY")
    options = parser.parse_args()
    options.work = options.work or ["latency", "64x1", "8x32", "lifecycle"]
    builds = [build.split("=", 1) for build in options.builds]
    taken = {name: [] for name, _ in builds}
    for _ in range(options.rounds):
        for name, binary in builds:
            taken[name].append(measure(options, os.path.abspath(binary)))
    print(f"medians of {options.rounds} rounds of {options.secs} s; load average {os.getloadavg()[0]:.1f}")
    for work in options.work:
        for name, _ in builds:
            medians = {key: statistics.median(run[work][key] for run in taken[name]) for key in taken[name][0][work]}
            print(f"{work:>10} {name:>12}  " + "  ".join(f"{key} {value:9.1f}" for key, value in medians.items()))


main()
