#!/usr/bin/env python3
"""J5: Clients killed at random moments for a minute in each mode: the accounting loses nothing."""

import random
import socket
import time

from common import Server, Verdict, arguments, connect, missing, reset, wait_until

SECONDS, SEED = arguments(60, random.randrange(1 << 32))
CLIENTS = 200
ORDERS = b"eeeeeeeebbzzcaxhtwsskK" + b"ddrr"  # see tests/campaigns/server.c


class Clients:
    def __init__(self, port, dice):
        self.port = port
        self.dice = dice
        self.socks = []
        self.made = 0

    def make(self):
        sock = socket.socket()
        sock.setblocking(False)
        # A few small windows: the server's sends do not fit.
        if self.dice.random() < 0.3:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        try:
            sock.connect(("127.0.0.1", self.port))
        except BlockingIOError:
            pass
        self.socks.append(sock)
        self.made += 1

    def drop(self, sock):
        self.socks.remove(sock)
        # Three in four are killed: a reset, wherever the server is with them.
        if self.dice.random() < 0.75:
            reset(sock)
        else:
            sock.close()

    def act(self):
        """One random thing to one random client."""
        dice = self.dice
        sock = dice.choice(self.socks)
        try:
            what = dice.random()
            if what < 0.55:
                sock.send(bytes(dice.choices(ORDERS, k=dice.randint(1, 12))))
            elif what < 0.80:
                sock.recv(dice.choice([1, 4096, 1 << 18]))
            elif what < 0.85:
                sock.shutdown(socket.SHUT_WR)
            else:
                self.drop(sock)
        except BlockingIOError:
            pass
        except OSError:
            self.drop(sock)


def campaign(port, seed, server):
    clients = Clients(port, random.Random(seed))
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        while len(clients.socks) < CLIENTS:
            clients.make()
        for _ in range(500):
            if clients.socks:
                clients.act()
        server.stats()  # also while everything moves
    for sock in list(clients.socks):
        clients.drop(sock)
    return clients.made


class Rest:
    """All is over, and nothing came since the last look: the backlog is empty too."""

    def __init__(self):
        self.accepted = None

    def reached(self, stats):
        before, self.accepted = self.accepted, stats["accepted"]
        over = stats["open"] == 0 and stats["waiting"] == 0 and missing(stats) == 0
        return over and self.accepted == before


def one_mode(verdict, name, *options):
    with Server("chaos", *options) as server:
        with connect(server.port) as sock:
            sock.sendall(b"e")
            assert sock.recv(1) == b"e"
        server.wait_for_open(0)
        fds, threads = server.fds(), server.threads()
        made = campaign(server.port, SEED, server)
        try:
            rest = Rest()
            wait_until(lambda: rest.reached(server.stats()), "a server at rest")
        except AssertionError as error:
            print(error)
        stats = server.stats()
        print(f"{name}: {made} clients, {stats}")
        verdict.check(f"{name}: clients", stats["accepted"] > SECONDS * 100, stats["accepted"])
        verdict.equal(f"{name}: connections unaccounted for", missing(stats), 0)
        verdict.equal(f"{name}: open", stats["open"], 0)
        verdict.equal(f"{name}: descriptors", server.fds(), fds)
        verdict.equal(f"{name}: threads", server.threads(), threads)
        with connect(server.port) as sock:
            sock.sendall(b"e")
            verdict.equal(f"{name}: still serves", sock.recv(1), b"e")
        stopped = server.ask("stop")
        verdict.equal(f"{name}: status of the stop", stopped["status"], 0)
        verdict.equal(f"{name}: unaccounted for when stopped", missing(stopped), 0)
        server.end()


verdict = Verdict("killing")
print(f"seed {SEED}")
one_mode(verdict, "non-blocking", "-n", "-t", "2")
one_mode(verdict, "blocking", "-t", "8")
verdict.close()
