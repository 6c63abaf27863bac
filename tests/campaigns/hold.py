#!/usr/bin/env python3
"""M7: 10,000 connections held by one event loop while one more echoes; then a stop with all of them
open."""

import time

from common import Server, Verdict, arguments, connect, percentile

(COUNT,) = arguments(10_000)
DRAIN_TIMEOUT_MS = 5_000  # the library's default

verdict = Verdict("hold")
with Server("echo", "-n", "-t", "1") as server:
    before = server.rss()
    started = time.monotonic()
    held = [connect(server.port) for _ in range(COUNT)]
    server.wait_for_open(COUNT)
    print(f"{COUNT} connections in {time.monotonic() - started:.2f} s")
    grown = (server.rss() - before) / COUNT
    verdict.at_most("memory of each idle connection", grown, 1024, " bytes")
    verdict.at_most("processor time while idle", server.cpu_share(2), 1, " %")

    times = []
    with connect(server.port) as one_more:
        for _ in range(5_000):
            sent = time.monotonic()
            one_more.sendall(b"x" * 64)
            assert len(one_more.recv(64)) == 64
            times.append(1e6 * (time.monotonic() - sent))
    print(f"echo beside them: median {percentile(times, 0.5):.0f} µs, most {max(times):.0f} µs")
    verdict.at_most("99 of 100 echoes", percentile(times, 0.99), 1_000_000, " µs")

    for sock in held:
        sock.sendall(b"y")
    answers = sum(sock.recv(1) == b"y" for sock in held)
    verdict.equal("held connections that still echo", answers, COUNT)

    stopped = server.ask("stop")
    verdict.equal("status of the stop", stopped["status"], 0)
    verdict.at_most("stop with all open", stopped["ms"], DRAIN_TIMEOUT_MS + 100, " ms")
    ended = sum(sock.recv(1) == b"" for sock in held)
    verdict.equal("clients that saw the end", ended, COUNT)
    verdict.equal("accepted but unaccounted for", stopped["accepted"] - stopped["closed"], 0)
    for sock in held:
        sock.close()
    server.end()
verdict.close()
