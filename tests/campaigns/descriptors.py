#!/usr/bin/env python3
"""M1, M4: Descriptors exhausted: no spinning, open connections go on, and accepting goes on by
itself as soon as one is freed. Once because the process has no more, once because of
max_connections."""

import resource
import time

from common import Server, Verdict, connect, reset, wait_until

WAITING = 20  # clients beyond what the server can have
SPARE = 40  # descriptors that a server is left, in the campaigns that are about them


def echoes(sock):
    sock.sendall(b"x")
    return sock.recv(1) == b"x"


def open_until_full(server):
    """Connections that are served, and the first that is not."""
    served = []
    while True:
        sock = connect(server.port)
        sock.settimeout(1)
        try:
            assert echoes(sock)
        except TimeoutError:
            return served, sock
        served.append(sock)


def exhaust(verdict, name, server):
    served, first_waiting = open_until_full(server)
    waiting = [first_waiting] + [connect(server.port) for _ in range(WAITING)]
    for sock in waiting[1:]:
        sock.sendall(b"x")
    print(f"{name}: {len(served)} served, {len(waiting)} waiting")
    verdict.at_most(f"{name}: processor time", server.cpu_share(5), 5, " %")
    verdict.equal(f"{name}: open ones still served", sum(map(echoes, served)), len(served))

    worst = 0.0
    for sock in waiting:  # they are accepted in the order in which they came
        sock.settimeout(5)
        started = time.monotonic()
        reset(served.pop(0))
        assert sock.recv(1) == b"x"
        worst = max(worst, time.monotonic() - started)
        served.append(sock)
    verdict.at_most(f"{name}: longest wait for a freed one", 1000 * worst, 5000, " ms")
    stats = server.stats()
    for sock in served:
        sock.close()
    server.wait_for_open(0)
    with connect(server.port) as sock:
        verdict.check(f"{name}: accepts afterwards", echoes(sock), "yes")
    return stats


def limit_descriptors(server, spare, workers):
    """Leaves the server this many descriptors beside those it has. Linux takes the number of the
    next descriptor when an accept begins to wait, not when it returns: so the limit is set while
    every worker serves, and the thread that accepts for them meanwhile accepts once more, or
    fails where it had not begun to wait. Else some would keep a number from beyond the limit, and
    to free it would free nothing."""
    limit = server.fds() + spare
    clients = [connect(server.port) for _ in range(workers)]
    assert all(map(echoes, clients))
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (limit, limit))

    def tries():
        stats = server.stats()
        return stats["accepted"] + stats["accept_errors"]

    before = tries()
    clients.append(connect(server.port))
    wait_until(lambda: tries() > before, "one more was accepted, or not")
    for sock in clients:
        reset(sock)
    server.wait_for_open(0)


def out_of_descriptors(verdict, name, workers, *options):
    with Server("echo", "-m", "10000", *options) as server:
        limit_descriptors(server, SPARE, workers)
        stats = exhaust(verdict, name, server)
        verdict.at_most(f"{name}: served", stats["open"], SPARE)
        verdict.check(f"{name}: accept errors", stats["accept_errors"] > 0, stats["accept_errors"])
        server.end()


def at_max_connections(verdict, name, *options):
    with Server("echo", "-m", "40", *options) as server:
        stats = exhaust(verdict, name, server)
        verdict.equal(f"{name}: accept errors", stats["accept_errors"], 0)
        server.end()


verdict = Verdict("descriptors")
out_of_descriptors(verdict, "out of descriptors, non-blocking", 0, "-n")
out_of_descriptors(verdict, "out of descriptors, 2 loops", 0, "-n", "-t", "2")
out_of_descriptors(verdict, "out of descriptors, blocking", 100, "-t", "100")
at_max_connections(verdict, "max_connections, non-blocking", "-n")
at_max_connections(verdict, "max_connections, blocking", "-t", "100")
verdict.close()
