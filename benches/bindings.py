#!/usr/bin/env python3
"""Measures the echo of each binding beside the usual servers of its language, and prints a table.

The servers of a language live at the same time and are driven in short bursts in turn, see
common.py. tests/bindings/LANG/language.toml says how they are started:

    [bench]
    peers = {"node:net" = ["node", "{root}/benches/bindings/node_net.js"]}
    blocking_peers = {…}    # beside the echo without -n, where an operation is a connection

A peer takes the service as its last argument and prints `listening on ADDRESS:PORT`.
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tomllib
import traceback

import report
from bench import choose_cores
from common import ROOT, TARGET, build, compare, own_network, per_operation, ratio, table

INTRODUCTION = """\
# Benchmarks of the bindings

Made by `make bench-bindings`. The echo example of each binding (*ours*) beside the usual servers of
its language, in the way of [BENCHMARKS.md](BENCHMARKS.md): all servers of a row live at the same
time, on one core with the client, and are driven in short bursts in turn, {bursts} each. The figures
are the server's own processor time for an operation in µs, the medians of the bursts. The ratio is
that of the medians, with the least and the most of the ratios burst by burst. The network is
loopback."""

WORKLOADS = [
    # peers of the table, title, method, options of ours, of the load, least operations
    (
        "peers",
        "Echo of 64 B, 64 connections",
        "An operation is a message there and back on one of 64 lasting connections. *ours* is\n"
        "hosted: one loop on the language's own thread.",
        ["-n"], ["-c", "64", "echo"], 128,
    ),
    (
        "blocking_peers",
        "Blocking, a message per connection",
        "An operation is a connection of one message of 64 B, 8 at a time. *ours* has 8 workers.",
        ["-t", "8"], ["-c", "8", "churn"], 16,
    ),
]  # fmt: skip


def languages(only):
    """Returns the tables of the languages that have something to measure, by folder, with the
    placeholders filled in."""
    places = {"root": str(ROOT), "target": str(TARGET), "library": str(TARGET / "release")}

    def filled(thing):
        if isinstance(thing, str):
            for name, place in places.items():
                thing = thing.replace(f"{{{name}}}", place)
            return thing
        if isinstance(thing, list):
            return [filled(each) for each in thing]
        if isinstance(thing, dict):
            return {key: filled(each) for key, each in thing.items()}
        return thing

    found = {}
    for path in sorted((ROOT / "tests" / "bindings").glob("*/language.toml")):
        language = filled(tomllib.loads(path.read_text()))
        if only in path.parent.name and "bench" in language:
            found[path.parent.name] = language
    return found


def rows_of(args, language, peers, ours_options, load_options, least):
    """Measures our echo beside its peers, and returns a row for each of these."""
    servers = {report.OURS: [*language["echo"], *ours_options, "127.0.0.1:0"]}
    servers |= {name: [*argv, "127.0.0.1:0"] for name, argv in peers.items()}
    results = compare(args, servers, load_options, least=least)
    cpu = {name: per_operation(bursts) for name, bursts in results.items()}
    micros = {name: report.number(statistics.median(each) * 1e6) for name, each in cpu.items()}
    return [
        [language["name"], peer, micros[report.OURS], micros[peer],
         report.ratio_text(*ratio(cpu[report.OURS], cpu[peer]))]
        for peer in peers
    ]  # fmt: skip


def measure(args, found, workload):
    """Returns the section of a workload, and the languages that could not be measured."""
    key, title, method, *how = workload
    rows, void = [], []
    for folder, language in found.items():
        peers = language["bench"].get(key)
        if not peers:
            continue
        print(f"{title}: {language['name']}", file=sys.stderr, flush=True)
        try:
            rows += rows_of(args, language, peers, *how)
        except Exception:  # of any kind: the other languages are still measured
            traceback.print_exc()
            void.append(folder)
    header = ["language", "peer", "ours, CPU µs/op", "peer, CPU µs/op", "of the peer (min–max)"]
    return f"## {title}\n\n{method}\n\n{table(header, rows)}" if rows else "", void


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--only", default="", metavar="TEXT", help="only languages with this in their folder's name")
    add("--bursts", type=int, default=20, help="of each server and workload")
    add("--seconds", type=float, default=0.1, help="of a server's processor in a burst")
    add("--write", type=pathlib.Path, metavar="FOLDER", help="write BENCHMARKS-bindings.md there")
    args = parser.parse_args()
    if args.write and args.only:
        parser.error("--write takes all languages")
    os.environ["NETSERVER_ROOT"] = str(ROOT)
    os.environ["NETSERVER_LIBRARY_DIR"] = str(TARGET / "release")
    found = languages(args.only)
    if not found:
        raise SystemExit("bindings: nothing to measure")
    build("load")
    congestion = own_network()
    choose_cores(args)
    sections = [INTRODUCTION.format(bursts=args.bursts), report.machine(congestion)]
    voids = []
    for workload in WORKLOADS:
        section, void = measure(args, found, workload)
        sections += [section] if section else []
        voids += void
    page = "\n\n".join(sections)
    print(page)
    if voids:
        print("bindings: not measured:", *voids, file=sys.stderr)
        return 1
    if args.write:
        (args.write / "BENCHMARKS-bindings.md").write_text(page + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
