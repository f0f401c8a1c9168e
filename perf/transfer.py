#!/usr/bin/env python3
"""Stops the leader of a running cluster in peace (SIGTERM), again and again, and measures each time how long no put was
acknowledged to a client of another node that has always one put under way. Prints the gaps in milliseconds, one a line.

    perf/transfer.py --dir DIR --times N      (DIR is that of perf/figures.sh, which calls this)
"""
import argparse
import json
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.request

NODES = (1, 2, 3)


def fetch(node, page):
    with urllib.request.urlopen(f"http://127.0.0.1:{15040 + node}/{page}", timeout=2) as answer:
        return answer.read()


def leader():
    while True:
        for node in NODES:
            try:
                if json.loads(fetch(node, "status"))["shards"][0]["role"] == "leader":
                    return node
            except OSError:
                pass
        time.sleep(0.02)


def wait_until_whole():
    for node in NODES:
        while True:
            try:
                fetch(node, "readyz")
                break
            except OSError:
                time.sleep(0.02)


def put_until(done, node, acknowledged):
    with socket.create_connection(("127.0.0.1", 15020 + node)) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while not done.is_set():
            client.sendall(b"put 0 0 60 256\r\n" + b"x" * 256 + b"\r\n")
            reply = client.recv(100)
            if not reply.startswith(b"INSERTED"):
                raise SystemExit(f"a put was answered {reply!r}")
            acknowledged.append(time.monotonic())


def stop_once(directory, binary):
    led_by = leader()
    survivor = next(node for node in NODES if node != led_by)
    done, acknowledged = threading.Event(), []
    client = threading.Thread(target=put_until, args=(done, survivor, acknowledged))
    client.start()
    time.sleep(0.5)
    with open(f"{directory}/node{led_by}.pid") as file:
        pid = int(file.read())
    stopped_at = time.monotonic()
    os.kill(pid, signal.SIGTERM)
    while os.path.exists(f"/proc/{pid}/exe"):
        time.sleep(0.005)
    time.sleep(0.5)
    done.set()
    client.join()
    pairs = zip(acknowledged, acknowledged[1:])
    gap = max(after - before for before, after in pairs if after > stopped_at)
    log = open(f"{directory}/node{led_by}.log", "a")
    command = [binary, "run", "--config", f"{directory}/node{led_by}.yaml"]
    started = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log, start_new_session=True
    )
    with open(f"{directory}/node{led_by}.pid", "w") as file:
        file.write(str(started.pid))
    wait_until_whole()
    time.sleep(0.3)
    return gap


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", required=True)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--times", type=int, default=20)
    options = parser.parse_args()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for _ in range(options.times):
        print(f"{stop_once(options.dir, options.binary) * 1000:.1f}", flush=True)


main()
