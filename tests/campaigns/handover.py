#!/usr/bin/env python3
"""HO3: Clients that connect, say a word, hear it again and close, through five replacements of
the server: none is refused, none is reset, and every byte is right; plain and TLS, both modes."""

import os
import signal
import socket
import ssl
import sys
import threading

from common import Verdict, arguments, harness, wait_until

sys.path.insert(0, str(harness.ROOT / "tests" / "bindings"))
from network import enter_own_network

(CLIENTS, REPLACEMENTS) = arguments(20_000, 5)
THREADS = 4
DATA = harness.ROOT / "tests" / "data"


class Clients:
    """Connects in several threads until so many clients were served."""

    def __init__(self, port, tls):
        self.port, self.tls = port, tls
        self.lock = threading.Lock()
        self.taken = self.served = 0
        self.failures = {}
        self.threads = [threading.Thread(target=self.run) for _ in range(THREADS)]
        for thread in self.threads:
            thread.start()

    def take(self):
        with self.lock:
            self.taken += 1
            return self.taken if self.taken <= CLIENTS else None

    def run(self):
        while (number := self.take()) is not None:
            try:
                failure = self.one(number)
            except OSError as error:
                failure = type(error).__name__
            with self.lock:
                self.served += 1
                if failure:
                    self.failures[failure] = self.failures.get(failure, 0) + 1

    def one(self, number):
        word = b"%08d" % number
        with socket.socket() as plain:
            # A closed connection keeps its port for a minute: so many addresses have enough.
            plain.bind((f"127.0.2.{number % 200 + 1}", 0))
            plain.settimeout(30)
            plain.connect(("127.0.0.1", self.port))
            with self.tls.wrap_socket(plain) if self.tls else plain as sock:
                sock.sendall(word)
                heard = b""
                while len(heard) < len(word):
                    part = sock.recv(64)
                    if not part:
                        return "early end"
                    heard += part
                return None if heard == word else "wrong bytes"

    def join(self):
        for thread in self.threads:
            thread.join()


def one_mode(verdict, name, *options, tls=None):
    program = harness.c_program("examples-c", "handover")
    server = harness.Program([program, *options, "127.0.0.1:0"])
    line = r"process (\d+) listening on \S*:(\d+)"
    pid, port = map(int, server.expect(line).groups())
    clients, pids = Clients(port, tls), [pid]
    for i in range(REPLACEMENTS):
        due = CLIENTS * (i + 1) // (REPLACEMENTS + 1)
        wait_until(lambda: clients.served >= due, f"{due} clients")
        os.kill(pids[-1], signal.SIGHUP)
        pids.append(int(server.expect(line)[1]))
    clients.join()
    os.kill(pids[-1], signal.SIGTERM)
    verdict.equal(f"{name}: clients served", clients.served, CLIENTS)
    verdict.equal(f"{name}: refused, reset or wrong", clients.failures, {})
    verdict.equal(f"{name}: processes", len(set(pids)), REPLACEMENTS + 1)
    # The pipe of all of them ends with the last process.
    server.finish()


enter_own_network()
verdict = Verdict("handover")
context = ssl.create_default_context(cafile=DATA / "ca.pem")
context.check_hostname = False
certificate = ["--cert", str(DATA / "server.pem"), "--key", str(DATA / "server-key.pem")]
for mode, options in (("blocking", ["-t", "4"]), ("non-blocking", ["-n", "-t", "2"])):
    one_mode(verdict, f"{mode}, plain", *options)
    one_mode(verdict, f"{mode}, TLS", *options, *certificate, tls=context)
verdict.close()
