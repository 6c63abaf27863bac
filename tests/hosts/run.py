#!/usr/bin/env python3
"""Drives the hosted server in foreign event loops with real clients.

    run.py [--idle SECONDS] [NAME...]
"""

import os
import pathlib
import signal
import ssl
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import harness
from harness import Program, connect, equal, exchange

HERE = pathlib.Path(__file__).resolve().parent
DATA = harness.ROOT / "tests" / "data"
LIBRARY = str(harness.TARGET / "release" / "libnetserver.so")
HOSTS = {path.stem: [harness.c_program("tests-c/hosts", path.stem)] for path in HERE.glob("*.c")}
HOSTS["asyncio"] = [sys.executable, str(HERE / "asyncio_host.py"), "--library", LIBRARY]

CONNECTIONS = 1000
IDLE_MS, LATE_MS = 500, 400  # LATE_MS: for a busy machine
WAKES = 50
STOP_S = 2.0
CPU_MS_PER_10_S = 20.0


class Host(Program):
    def __init__(self, host, *options):
        super().__init__(HOSTS[host] + list(options) + ["127.0.0.1:0"])
        self.number = self.port()

    def clients(self, count):
        return [connect(self.number) for _ in range(count)]

    def is_alone(self):
        equal(os.listdir(f"/proc/{self.pid}/task"), [str(self.pid)])

    def cpu_ms(self):
        with open(f"/proc/{self.pid}/schedstat") as times:
            return int(times.read().split()[0]) / 1e6

    def interrupt(self):
        started = time.monotonic()
        self.stop(signal.SIGINT)
        if time.monotonic() - started > STOP_S:
            raise AssertionError(f"the stop took {time.monotonic() - started:.1f} s")
        equal(self.stderr(), "")


def receive(client, size):
    data = b""
    while len(data) < size and (part := client.recv(size - len(data))):
        data += part
    return data


def many(host, idle_s):
    """HS1, HS13: 1,000 connections echo, then cost nothing; Ctrl-C ends them in order."""
    with Host(host, "--idle", "60000") as server:
        clients = server.clients(CONNECTIONS)
        for n in range(3):
            for i, client in enumerate(clients):
                client.sendall(b"%d from %d" % (n, i))
            for i, client in enumerate(clients):
                equal(receive(client, len(b"%d from %d" % (n, i))), b"%d from %d" % (n, i))
        server.is_alone()
        before = server.cpu_ms()
        time.sleep(idle_s)  # what the rest costs: nothing happens that could end it
        used = server.cpu_ms() - before
        if used > CPU_MS_PER_10_S * idle_s / 10:
            raise AssertionError(f"{used:.1f} ms of processor time in {idle_s} s")
        megabyte = os.urandom(1 << 20)
        equal(exchange(connect(server.number), megabyte), megabyte)
        server.is_alone()
        server.interrupt()
        for client in clients:
            equal(client.recv(1), b"")
            client.close()


def idle_timeout(host):
    """HS6: A deadline is met in a host that only watches the descriptor."""
    with Host(host, "--idle", str(IDLE_MS)) as server:
        clients = server.clients(20)
        for client in clients:
            started = time.monotonic()
            client.sendall(b"x")
            equal(client.recv(2), b"x")
        for client in clients:
            equal(client.recv(1), b"")
            client.close()
        took = (time.monotonic() - started) * 1000
        if not IDLE_MS <= took < IDLE_MS + LATE_MS:
            raise AssertionError(f"an idle timeout of {IDLE_MS} ms took {took:.0f} ms")
        server.interrupt()


def tls(host):
    """HS1: TLS needs no thread."""
    files = ["--cert", str(DATA / "server.pem"), "--key", str(DATA / "server-key.pem")]
    context = ssl.create_default_context(cafile=str(DATA / "ca.pem"))
    with Host(host, *files) as server:
        # It was accepted before the others, and the stop meets its handshake.
        silent = connect(server.number)
        plain = server.clients(20)
        clients = [context.wrap_socket(client, server_hostname="localhost") for client in plain]
        for i, client in enumerate(clients):
            client.sendall(b"secret of %d" % i)
        for i, client in enumerate(clients):
            equal(receive(client, len(b"secret of %d" % i)), b"secret of %d" % i)
        server.is_alone()
        server.interrupt()
        for client in [silent] + clients:
            equal(client.recv(1), b"")
            client.close()


def wake(host):
    """HS6: A call of another thread makes the descriptor readable."""
    with Host(host) as server:
        with connect(server.number) as client:
            for _ in range(WAKES):
                client.sendall(b"wake")
                equal(receive(client, 5), b"awake")
        harness.wait_until(lambda: len(os.listdir(f"/proc/{server.pid}/task")) == 1, "no thread")
        server.interrupt()


def checks(idle_s):
    for host in sorted(HOSTS):
        yield f"{host}: many", lambda host=host: many(host, idle_s)
        for check in (idle_timeout, tls, wake):
            yield f"{host}: {check.__name__}", lambda host=host, check=check: check(host)


arguments = harness.parse_arguments(idle=3.0)
harness.main("hosts", list(checks(arguments.idle)), arguments.only)
