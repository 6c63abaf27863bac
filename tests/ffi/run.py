#!/usr/bin/env python3
"""Drives the ctypes echo server with real clients and stops it by Ctrl-C."""

import os
import pathlib
import signal
import socket
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import harness
from harness import Program, connect, contains, equal, exchange

SCRIPT = str(pathlib.Path(__file__).with_name("echo.py"))
LIBRARY = str(harness.TARGET / "release" / "libnetserver.so")


def serve(mode):
    return Program([sys.executable, SCRIPT, "--library", LIBRARY] + mode + ["0"])


def echo(mode):
    data = os.urandom(1 << 20)
    with serve(mode) as server:
        port = server.port()
        equal(exchange(connect(port), b"hello"), b"hello")
        equal(exchange(connect(port), data), data)
        output = server.stop(signal.SIGINT)
        contains(output, "Total thread count: 2")
        contains(output, "free: NS_OK")
        equal(server.stderr(), "")


def exception(mode):
    with serve(mode) as server:
        port = server.port()
        answer = exchange(connect(port), b"boom").decode()
        contains(answer, "error: ")
        contains(answer, "the client said boom")
        server.expect("exception: .*the client said boom")
        equal(exchange(connect(port), b"still here"), b"still here")
        server.stop(signal.SIGINT)


def interrupt_with_client(mode):
    """Ctrl-C ends it also while a client is connected."""
    with serve(mode) as server:
        with connect(server.port()) as client:
            client.sendall(b"x")
            equal(client.recv(1), b"x")
            server.stop(signal.SIGINT)
            equal(client.recv(1), b"")


def port_in_use():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        service = "127.0.0.1:%d" % taken.getsockname()[1]
        with Program([sys.executable, SCRIPT, "--library", LIBRARY, service]) as server:
            server.finish(expected=1)
            contains(server.stderr(), service)


arguments = harness.parse_arguments()
checks = [
    (f"{check.__name__} {name}", lambda check=check, mode=mode: check(mode))
    for check in (echo, exception, interrupt_with_client)
    for name, mode in (("blocking", []), ("non-blocking", ["-n"]))
]
harness.main("ffi", checks + [("port in use", port_in_use)], arguments.only)
