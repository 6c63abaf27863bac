#!/usr/bin/env python3
"""M8: 100,000 rounds of connect, serve and close in each mode leave memory, descriptors and threads
where they were."""

import socket
import time

from common import Server, Verdict, arguments

(ROUNDS,) = arguments(100_000)
WARM_UP = 2_000
IP_BIND_ADDRESS_NO_PORT = 24


def serve_rounds(port, rounds):
    # Each closed connection keeps its port for a minute; so many source addresses have enough.
    for i in range(rounds):
        with socket.socket() as sock:
            sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((f"127.0.1.{i % 200 + 1}", 0))
            sock.settimeout(10)
            sock.connect(("127.0.0.1", port))
            sock.sendall(b"hello")
            assert sock.recv(5) == b"hello"


def one_mode(verdict, name, *options):
    with Server("echo", *options) as server:
        fds, threads = server.fds(), server.threads()
        serve_rounds(server.port, WARM_UP)
        server.wait_for_open(0)
        memory = server.rss()
        started = time.monotonic()
        serve_rounds(server.port, ROUNDS)
        seconds = time.monotonic() - started
        server.wait_for_open(0)
        print(f"{name}: {ROUNDS} rounds in {seconds:.1f} s, {ROUNDS / seconds:.0f} a second")
        grown = (server.rss() - memory) / 1024
        verdict.at_most(f"{name}: memory grew", grown, 256, " KiB")
        verdict.equal(f"{name}: descriptors", server.fds(), fds)
        verdict.equal(f"{name}: threads", server.threads(), threads)
        stats = server.stats()
        verdict.equal(f"{name}: accepted", stats["accepted"], WARM_UP + ROUNDS)
        verdict.equal(f"{name}: closed", stats["closed"], WARM_UP + ROUNDS)
        server.end()


verdict = Verdict("rounds")
one_mode(verdict, "blocking")
one_mode(verdict, "blocking, 4 threads", "-t", "4")
one_mode(verdict, "non-blocking", "-n")
one_mode(verdict, "non-blocking, 2 threads", "-n", "-t", "2")
verdict.close()
