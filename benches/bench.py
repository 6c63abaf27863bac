#!/usr/bin/env python3
"""Measures the library beside its peers, over plain TCP and over TLS, and prints tables.

Exits with 0 if it measured everything, whether or not the goals are met, and with 1 if a workload
is void: a peer was missing, a byte came back wrong, something hung.
"""

import argparse
import os
import pathlib
import sys
import traceback

import plain
import report
import tls
from common import LIBRARIES, TARGET, build, build_rust_peers, own_network

INTRODUCTION = """\
Made by `make bench`. Every server gets the same load from the same client, which checks every
byte. All servers of a workload live at the same time and are driven in short bursts in turn, {bursts}
each: a slow minute of the machine is a slow minute of all. Client and server share one core where
nothing else is said; the network is loopback.

- *CPU µs/op* is the server's own processor time for an operation (its process CPU clock, user and
  system), the median of the bursts. Its ratio to the floor is that of the medians, with the least
  and the most of the ratios burst by burst.
- *op/s*, *p50*, *p99* and *p99.9* are what the client saw, medians of those of the bursts: with the
  client on the server's core, its work is in them.
- *calls/op* are system calls by the C library without waits (`epoll_wait`) and accepts that gave
  nothing, in a run of its own. There, our library is the same source built to make its calls by
  the C library too.
- The floors are servers of system calls alone ([`raw_epoll`](../benches/peers/raw_epoll.c),
  [`raw_pool`](../benches/peers/raw_pool.c)) and, for TLS, [OpenSSL over
  epoll](../benches/tls_openssl.c). *ours* is [the echo example](../examples-c/echo.c) in C.

The bindings of other languages have [a page of their own](BENCHMARKS-bindings.md)."""


def parse():
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--ours", type=pathlib.Path, default=TARGET / "examples-c" / "echo", help="our server")
    add("--only", default="", metavar="TEXT", help="only workloads with this in their title")
    add("--quick", action="store_true", help="the main workloads, few peers and bursts")
    add("--bursts", type=int, help="of each server and workload (30; quick: 20)")
    add("--seconds", type=float, help="of a server's processor in a burst (0.05; quick: 0.03)")
    add("--strict", action="store_true", help="end with 1 if a goal is missed, too")
    add("--write", type=pathlib.Path, metavar="FOLDER", help="write BENCHMARKS.md and charts there")
    args = parser.parse_args()
    if args.write and (args.only or args.quick):
        parser.error("--write takes all workloads")
    args.bursts = args.bursts or (20 if args.quick else 30)
    args.seconds = args.seconds or (0.03 if args.quick else 0.05)
    return args


def choose_cores(args):
    """Chooses the last core for workloads of one core and the last two for those of two."""
    cores = sorted(os.sched_getaffinity(0))[-2:]
    if len(cores) != 2:
        raise SystemExit("bench: needs two cores")
    args.other_core, args.core = map(str, cores)
    args.two_cores = ",".join(map(str, cores))


def build_all(args):
    """Builds all programs: before anything is measured, and while there is a network."""
    if not args.ours.exists():
        raise SystemExit(f"bench: {args.ours} is missing: make build")
    for name in LIBRARIES:
        build(name)
    build_rust_peers()


def chosen(args):
    """Who names workloads gets them, also those that are not among the main ones."""
    workloads = [*plain.WORKLOADS, *tls.WORKLOADS]
    if args.only:
        return [workload for workload in workloads if args.only in workload.title]
    return [workload for workload in workloads if workload.quick or not args.quick]


def measure(args, workload):
    """Measures a workload, prints its section and returns it; None if the workload is void."""
    print(f"\n## {workload.title}\n", flush=True)
    try:
        section = workload.measure(args, workload.title)
    except Exception:  # of any kind: the other workloads are still measured
        traceback.print_exc()
        print("VOID", flush=True)
        return None
    print(section.markdown(), flush=True)
    return section


def main():
    args = parse()
    build_all(args)
    congestion = own_network()
    choose_cores(args)
    print(report.machine(congestion))
    sections = [measure(args, workload) for workload in chosen(args)]
    if not sections or None in sections:
        print("bench: not measured properly", file=sys.stderr)
        return 1
    print(f"\n## Goals\n\n{report.goals_table(sections)}\n")
    if args.write:
        introduction = INTRODUCTION.format(bursts=args.bursts)
        report.write(args.write, introduction, congestion, sections)
    missed = [goal for section in sections for goal in section.goals if not goal.met()]
    print(f"bench: {len(missed)} goals missed")
    return 1 if args.strict and missed else 0


if __name__ == "__main__":
    sys.exit(main())
