#!/usr/bin/env python3
"""Q6: A client that sends 1 GiB and does not read, to an echo handler that ignores back-pressure:
the server's memory stays bounded. Then the client reads: nothing was lost."""

import select
import time

from common import MIB, Server, Verdict, arguments, connect

(SIZE,) = arguments(1024)  # MiB
TOTAL = SIZE * MIB
STALLED = 3.0  # seconds without one byte taken: the server has stopped reading
BOUND = 64 * MIB

PATTERN = bytes(i * 7 % 251 for i in range(251)) * 4200


def pattern_at(offset, size):
    start = offset % 251
    return PATTERN[start : start + size]


def send_some(sock, sent):
    try:
        return sock.send(pattern_at(sent, min(MIB, TOTAL - sent)))
    except BlockingIOError:
        return 0


def send_without_reading(sock):
    sent = 0
    while sent < TOTAL and select.select([], [sock], [], STALLED)[1]:
        sent += send_some(sock, sent)
    return sent


def send_the_rest_and_read(sock, sent):
    """Returns how many bytes came back as they were sent."""
    got = 0
    end = time.monotonic() + 300
    while got < TOTAL and time.monotonic() < end:
        readable, writable, _ = select.select([sock], [sock] if sent < TOTAL else [], [], 10)
        if not readable and not writable:
            break
        if writable:
            sent += send_some(sock, sent)
        if readable:
            data = sock.recv(MIB)
            if data != pattern_at(got, len(data)) or not data:
                break
            got += len(data)
    return got


def one_mode(verdict, name, *options):
    with Server("echo", *options) as server:
        with connect(server.port) as sock:
            sock.setblocking(False)
            sent = send_without_reading(sock)
            print(f"{name}: took {sent / MIB:.1f} MiB before it stopped reading")
            verdict.at_most(f"{name}: memory", server.peak_rss() / MIB, BOUND / MIB, " MiB")
            verdict.at_most(f"{name}: processor time while stalled", server.cpu_share(2), 1, " %")
            got = send_the_rest_and_read(sock, sent)
            verdict.equal(f"{name}: MiB echoed once it reads", got / MIB, TOTAL / MIB)
            verdict.at_most(f"{name}: memory then", server.peak_rss() / MIB, BOUND / MIB, " MiB")
        server.end()


verdict = Verdict("never_reads")
one_mode(verdict, "blocking")
one_mode(verdict, "non-blocking", "-n")
verdict.close()
