#!/usr/bin/env python3
"""What is held: 19,000 connections beside which another is served, 15,000 that stop in the
handshake, slow readers and writers, millions of connections that come and go, and gigabytes in
short pieces. `make held` runs all in full, more than an hour; `held.py SHARE PART...` runs
a share of it in per mille, or some parts alone."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time

from common import MIB, Server, Verdict, harness, missing

DATA = harness.ROOT / "tests" / "data"
CERTIFICATE = ["-s", str(DATA / "server.pem"), "-k", str(DATA / "server-key.pem")]


class Peers:
    """The process of the clients."""

    def __init__(self, kind, server, *options):
        program = harness.c_program("tests-c/campaigns", "peers")
        argv = [program, kind, str(server.port), *map(str, options)]
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)

    def wait_until_open(self):
        assert self.process.stdout.readline() == "open\n"

    def result(self):
        lines = self.process.stdout.read().splitlines()
        assert self.process.wait() == 0
        result = json.loads(lines[-1])
        print(f"  {result}", flush=True)
        return result

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def run(kind, server, *options):
    with Peers(kind, server, *options) as peers:
        return peers.result()


def tls_of(secure):
    return (CERTIFICATE, ["-s"], "TLS") if secure else ([], [], "plain")


def hold(verdict, share, secure):
    """19,000 connections for ten minutes, each of which echoes once a minute; and one more. Beside
    it, for comparison, one of a server that has no others: so both have the same machine."""
    count, seconds = 19_000 * share // 1000, max(10, 600 * share // 1000)
    certificate, speak, name = tls_of(secure)
    name = f"{name}: {count} held for {seconds} s"
    options = ["echo", "-n", "-t", "2", "-m", "19500", *certificate]
    with Server(*options) as server, Server(*options) as other:
        before = server.rss()
        interval = max(5, seconds // 10)
        options = [*speak, "-c", count, "-t", seconds, "-i", interval]
        with Peers("hold", server, *options) as held:
            held.wait_until_open()
            grown = (server.rss() - before) / count
            options = [*speak, "-t", max(5, seconds - 15)]
            with Peers("echo", other, *options) as one, Peers("echo", server, *options) as more:
                alone, beside = one.result(), more.result()
            result = held.result()
        print(f"{name}: {grown:.0f} bytes of memory each")
        verdict.equal(f"{name}: dropped", result["dropped"], 0)
        verdict.equal(f"{name}: unanswered", result["unanswered"], 0)
        verdict.equal(f"{name}: wrong bytes", result["wrong"] + beside["wrong"], 0)
        verdict.check(f"{name}: echoes of them", result["echoes"] >= count, result["echoes"])
        what = f"{name}: 99 of 100 echoes beside them, {alone['p99']} µs without them"
        # A short run is one beside other tests.
        bound = max(2 * alone["p99"], 1000) if share >= 500 else 1_000_000
        verdict.at_most(what, beside["p99"], bound, " µs")
        settle(verdict, name, server)
        other.end()


def settle(verdict, name, server):
    server.wait_for_open(0)
    verdict.equal(f"{name}: accepted but unaccounted for", missing(server.stats()), 0)
    server.end()


def rounds(verdict, share, is_blocking):
    """Ten million times, in blocking mode one million: connect, echo, close."""
    count = (1_000_000 if is_blocking else 10_000_000) * share // 1000
    name = f"{count} rounds, {'' if is_blocking else 'non-'}blocking"
    with Server("echo", *(["-t", "48"] if is_blocking else ["-n", "-t", "2"])) as server:
        run("rounds", server, "-c", max(2000, count // 10))
        server.wait_for_open(0)
        memory, fds, threads = server.rss(), server.fds(), server.threads()
        result = run("rounds", server, "-c", count)
        server.wait_for_open(0)
        verdict.equal(f"{name}: bad", result["bad"], 0)
        verdict.at_most(f"{name}: memory grew", (server.rss() - memory) / MIB, 1, " MiB")
        verdict.equal(f"{name}: descriptors", server.fds(), fds)
        verdict.at_most(f"{name}: threads", server.threads(), threads)
        settle(verdict, name, server)


def stall(verdict, share):
    """15,000 that stop in the handshake, and one that does not."""
    count = 15_000 * share // 1000
    timeout = 60 if share >= 500 else 5
    name = f"{count} that stop in the handshake"
    with Server("echo", "-n", "-t", "2", "-H", str(timeout * 1000), *CERTIFICATE) as server:
        run("echo", server, "-s", "-t", 1)
        server.wait_for_open(0)
        before = server.rss()
        with Peers("stall", server, "-c", count, "-t", timeout + 120) as stalled:
            stalled.wait_until_open()
            beside = run("echo", server, "-s", "-t", max(2, timeout // 3))
            grown = (server.rss() - before) / count
            result = stalled.result()
        verdict.equal(f"{name}: ended", result["ended"], count)
        verdict.at_most(f"{name}: memory of each", grown / 1024, 64, " KiB")
        verdict.at_most(f"{name}: p99 of another", beside["p99"], 1_000_000, " µs")
        settle(verdict, name, server)


def slow(verdict, share, secure):
    """Slow readers and writers, for two minutes."""
    count, seconds = max(30, 3_000 * share // 1000), max(10, 120 * share // 1000)
    certificate, speak, name = tls_of(secure)
    name = f"{name}: {count} slow ones for {seconds} s"
    with Server("echo", "-n", "-t", "2", *certificate) as server:
        before = server.rss()
        with Peers("slow", server, *speak, "-c", count, "-t", seconds) as peers:
            peers.wait_until_open()
            beside = run("echo", server, *speak, "-t", max(5, seconds // 2))
            grown = (server.rss() - before) / count
            result = peers.result()
        verdict.equal(f"{name}: dropped", result["dropped"], 0)
        verdict.equal(f"{name}: wrong bytes", result["wrong"] + beside["wrong"], 0)
        verdict.at_most(f"{name}: memory of each", grown / 1024, 2048, " KiB")
        verdict.at_most(f"{name}: p99 of another", beside["p99"], 1_000_000, " µs")
        settle(verdict, name, server)


def short_calls(server):
    """Of some thousand receives and sends: which moved less than they asked for."""
    with tempfile.NamedTemporaryFile("r") as calls:
        argv = ["strace", "-v", "-f", "-qq", "-s", "0", "-o", calls.name, "-p", str(server.pid)]
        strace = subprocess.Popen([*argv, "-e", "trace=recvfrom,sendto,sendmsg"])
        harness.wait_until(lambda: os.path.getsize(calls.name) > 1 << 19, "calls")
        strace.send_signal(signal.SIGINT)
        strace.wait()
        receives, sends = [], []
        for line in calls:
            # An answer that is printed apart from its call is left out.
            if not (found := re.match(r"\d+ +(\w+)\(\d+, (.*)\) += (-?\d+)", line)):
                continue
            name, words, moved = found[1], found[2], int(found[3])
            lengths = re.findall(r"iov_len=(\d+)", words) or [words.split(", ")[1]]
            is_short = moved < sum(map(int, lengths))
            (receives if name == "recvfrom" else sends).append(is_short)
    return receives, sends


def stream(verdict, share, secure):
    """50 GiB in short pieces, 5 of them over TLS."""
    mebibytes = (5 if secure else 45) * 1024 * share // 1000
    certificate, speak, name = tls_of(secure)
    name = f"{name}: {mebibytes} MiB through buffers of some KiB"
    with Server("echo", "-n", "-t", "2", "-b", "2000", *certificate) as server:
        with Peers("stream", server, *speak, "-c", 64, "-m", mebibytes) as peers:
            peers.wait_until_open()
            # In a short run the server would have ended, or its calls come one by one.
            calls = short_calls(server) if share >= 100 else ()
            result = peers.result()
        for what, short in zip(("receives", "sends"), calls):
            of_them = f"{sum(short)} of {len(short)}"
            verdict.check(f"{name}: short {what}", sum(short) > len(short) / 2, of_them)
        verdict.equal(f"{name}: dropped", result["dropped"], 0)
        if result["dropped"]:
            print(f"{name}: {server.stats()}")
        verdict.equal(f"{name}: wrong bytes", result["wrong"], 0)
        verdict.check(f"{name}: bytes", result["bytes"] >= (mebibytes << 20) - 64, result["bytes"])
        settle(verdict, name, server)


PARTS = {
    "hold-plain": lambda verdict, share: hold(verdict, share, False),
    "hold-tls": lambda verdict, share: hold(verdict, share, True),
    "stall": stall,
    "slow-plain": lambda verdict, share: slow(verdict, share, False),
    "slow-tls": lambda verdict, share: slow(verdict, share, True),
    "rounds-loops": lambda verdict, share: rounds(verdict, share, False),
    "rounds-workers": lambda verdict, share: rounds(verdict, share, True),
    "stream-plain": lambda verdict, share: stream(verdict, share, False),
    "stream-tls": lambda verdict, share: stream(verdict, share, True),
}

share = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
verdict = Verdict("held")
for part in sys.argv[2:] or PARTS:
    started = time.monotonic()
    PARTS[part](verdict, share)
    print(f"{part}: {time.monotonic() - started:.0f} s", flush=True)
verdict.close()
