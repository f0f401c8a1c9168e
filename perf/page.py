#!/usr/bin/env python3
"""Turns what perf/figures.sh measured into the tables of docs/figures.md.

    perf/page.py DIR           prints them
    perf/page.py DIR PAGE      puts them into the page, between its two marks
"""
import json
import math
import os
import platform
import statistics
import subprocess
import sys

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def results(directory):
    with open(f"{directory}/results.jsonl") as file:
        return [json.loads(line) for line in file]


def facts(directory):
    """Lines of NAME VALUE..., as the script left them."""
    with open(f"{directory}/facts") as file:
        return {name: rest.split() for name, *others in (line.split(" ", 1) for line in file) for rest in others}


def values(measured, peer, workload, figure, shape=None):
    found = []
    for result in measured:
        parameters = result["parameters"]
        its_shape = f"{parameters.get('conns')}x{parameters.get('depth')}"
        if result["peer"] == peer and result["workload"] == workload and shape in (None, its_shape):
            found.append(result["figures"][figure])
    return found


def median(numbers):
    return statistics.median(numbers) if numbers else None


def text(number, decimals=0):
    return "not measured" if number is None else f"{number:,.{decimals}f}"


def ratio(ours, ceiling):
    return "" if not ours or not ceiling else f"{ours / ceiling:.2f}"


def percentile(numbers, part):
    ordered = sorted(numbers)
    return ordered[math.ceil(len(ordered) * part) - 1]


def spread(numbers):
    return f"{percentile(numbers, 0.5):,.0f} / {percentile(numbers, 0.99):,.0f} ({len(numbers)} times)" if numbers else "not measured"


def command(*words):
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def machine(directory):
    with open("/proc/cpuinfo") as file:
        model = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "unknown")
    file_system = command("findmnt", "-n", "-o", "FSTYPE,OPTIONS", "-T", directory)
    return f"{os.cpu_count()} processors ({model}), Linux {platform.release()}, data on {file_system or 'unknown'}"


def tables(directory):
    measured, known = results(directory), facts(directory)
    lifecycles = [result for result in measured if result["workload"] == "lifecycle"]
    runs, seconds = len(lifecycles), f"{lifecycles[0]['parameters']['measured_s']:.0f}"
    lines = [
        f"Measured on {command('date', '-u', '+%Y-%m-%d')} at commit {command('git', 'rev-parse', '--short', 'HEAD')}.",
        f"Machine: {machine(directory)}.",
        f"Load average (1 minute) when it began {known['load_begin'][0]}, when it ended {known['load_end'][0]}."
        " The run by itself is a load of 2 to 3; above that, other programs took part of the processors.",
        "Payload 256 bytes. Three nodes, each put written and fdatasynced on a majority before it is acknowledged; the nodes"
        " and the load generator share the processors. " + f"Medians over {runs} run(s) of {seconds} s.",
        "",
        "| put latency, one outstanding | Beaver-Raft | ceiling | ratio |",
        "|---|---:|---:|---:|",
    ]
    for name, figure in (("p50, µs", "put_p50_us"), ("p99, µs", "put_p99_us")):
        ours = median(values(measured, "beaver-raft", "put-latency", figure))
        ceiling = median(values(measured, "limit", "put-latency", figure))
        lines.append(f"| {name} | {text(ours)} | {text(ceiling)} | {ratio(ours, ceiling)} |")
    lines += ["", "| puts per second, connections x outstanding | Beaver-Raft | ceiling | ratio | p50 / p99 µs |", "|---|---:|---:|---:|---:|"]
    for shape in ("1x1", "8x1", "64x1", "256x1", "8x32"):
        workload = "put-throughput"
        ours = median(values(measured, "beaver-raft", workload, "jobs_per_s", shape))
        alone = shape == "1x1"
        ceiling = median(values(measured, "limit", "put-latency" if alone else workload, "jobs_per_s", shape))
        p50 = median(values(measured, "beaver-raft", workload, "put_p50_us", shape))
        p99 = median(values(measured, "beaver-raft", workload, "put_p99_us", shape))
        lines.append(f"| {shape} | {text(ours)} | {text(ceiling)} | {ratio(ours, ceiling)} | {text(p50)} / {text(p99)} |")
    lifecycle = median(values(measured, "beaver-raft", "lifecycle", "jobs_per_s"))
    gaps = values(measured, "beaver-raft", "failover", "gap_ms")
    transfers = [float(gap) for gap in known.get("transfer_ms", [])]
    ticks, seconds, per_second = (float(value) for value in known["idle"])
    lines += [
        "",
        "| what | figure |",
        "|---|---|",
        f"| job lifecycles (put, reserve, delete) per second, 64 connections | {text(lifecycle)} |",
        f"| kill -9 of the leader to the next acknowledged put (a put begun every 10 ms), p50 / p99 ms | {spread(gaps)} |",
        f"| longest pause of acknowledged puts when the leader is stopped in peace, p50 / p99 ms | {spread(transfers)} |",
        f"| processor time of three nodes at rest | {100 * ticks / per_second / seconds:.2f} % of one processor, all three together |",
    ]
    return "\n".join(lines)


def main():
    measured = tables(sys.argv[1])
    if len(sys.argv) < 3:
        return print(measured)
    with open(sys.argv[2]) as file:
        before, rest = file.read().split(BEGIN)
    behind = rest.split(END)[1]
    with open(sys.argv[2], "w") as file:
        file.write(f"{before}{BEGIN}\n{measured}\n{END}{behind}")


main()
