#!/usr/bin/env python3
"""TLS beside an OpenSSL echo server over epoll: processor time and memory, and the goals, which
are ratios to OpenSSL as it is by itself; beside it stands OpenSSL told to read ahead.

Exits 1 where a goal is missed, or where a byte came back wrong.
"""

import argparse
import contextlib
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

from common import (
    TARGET, Load, Server, build, in_turn, operations_for, own_network, per_operation, ratio, table,
)  # fmt: skip

IDLE = 2000  # connections
MEMORY_GOAL = 9.0  # KiB of each of them

# What, the load generator's options, the most that ours may cost of OpenSSL's.
WORKLOADS = [
    ("full handshake", ["-t", "-c", "4", "churn"], 0.55),
    ("resumed handshake", ["-r", "-c", "4", "churn"], 0.60),
    ("echo 64 B", ["-t", "echo"], 0.95),
    ("echo 64 B, 64 connections", ["-t", "-c", "64", "echo"], 0.95),
    ("echo 1 MiB", ["-t", "-s", str(1 << 20), "echo"], 0.75),
]


def certificate(folder):
    """A throw-away one: ECDSA on P-256."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
        + ["-nodes", "-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


def workload(args, servers, name, options, goal):
    with contextlib.ExitStack() as stack:
        loads = [stack.enter_context(Load(args.core, s, *options)) for s in servers]
        operations = min(operations_for(load, args.seconds) for load in loads)
        results = in_turn(loads, operations, args.bursts)
        ciphers = {result["cipher"] for bursts in results for result in bursts}
        if len(ciphers) != 1:
            raise RuntimeError(f"they do different work: {ciphers}")
        ours, plain, ahead = map(per_operation, results)
        for load in loads:
            load.finish()
    micros = [f"{statistics.median(costs) * 1e6:.1f} µs" for costs in (ours, plain, ahead)]
    ratios = [f"{m:.3f} ({least:.2f}–{most:.2f})" for m, least, most in
              (ratio(ours, plain), ratio(ours, ahead))]  # fmt: skip
    return [name, *micros, *ratios, f"≤ {goal:.2f}", verdict(ratio(ours, plain)[0] <= goal)]


def idle_memory(args, start):
    """KiB of an idle connection: of a server that just began, after one connection."""
    with Server(args.core, start) as server:
        with Load(args.core, server, "-t", "echo") as first:
            first.finish()
        before = server.anonymous()
        with Load(args.core, server, "-t", "-i", IDLE, "echo") as load:
            grown = server.anonymous() - before
            load.finish()
    return grown / (IDLE + 1) / 1024


def memory(args, starts):
    ours, plain, ahead = (idle_memory(args, start) for start in starts)
    kib = [f"{size:.2f} KiB" for size in (ours, plain, ahead)]
    ratios = [f"{ours / plain:.3f}", f"{ours / ahead:.3f}"]
    goal = [f"≤ {MEMORY_GOAL:g} KiB", verdict(ours <= MEMORY_GOAL)]
    return ["idle connection", *kib, *ratios, *goal]


def verdict(met):
    return "met" if met else "MISSED"


def measure(args, folder):
    cert, key = certificate(folder)
    openssl = build("tls_openssl")
    starts = [
        [args.ours, "-n", "--cert", cert, "--key", key, "127.0.0.1:0"],
        [openssl, cert, key],
        [openssl, "-r", cert, key],
    ]
    rows = []
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(Server(args.core, start)) for start in starts]
        for each in WORKLOADS:
            if args.only in each[0]:
                rows.append(workload(args, servers, *each))
    if args.only in "idle connection":
        rows.append(memory(args, starts))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    echo = TARGET / "examples-c" / "echo"
    add("--ours", type=pathlib.Path, default=echo, help="our server (the C example)")
    add("--bursts", type=int, default=30, help="of each server and workload (30)")
    add("--seconds", type=float, default=0.05, help="of the servers' processor in a burst (0.05)")
    add("--core", default=str(max(os.sched_getaffinity(0))), help="where everything runs")
    add("--only", default="", metavar="TEXT", help="only rows with this in their name")
    add("--output", type=pathlib.Path, help="write the table, Markdown, here too")
    args = parser.parse_args()
    congestion = own_network()
    os.sched_setaffinity(0, {int(args.core)})
    with tempfile.TemporaryDirectory(prefix="netserver-bench-") as folder:
        rows = measure(args, pathlib.Path(folder))
    header = ["", "ours", "OpenSSL", "reading ahead", "ratio (min–max)", "to that", "goal", ""]
    text = f"Core {args.core}, {args.bursts} bursts each, {congestion}\n\n{table(header, rows)}"
    print(text)
    if args.output:
        args.output.write_text(text + "\n")
    return any(row[-1] != "met" for row in rows)


if __name__ == "__main__":
    sys.exit(main())
