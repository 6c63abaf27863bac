#!/usr/bin/env python3
"""Drives the examples where they listen on no port of their own: on unix sockets, on sockets that a
parent or systemd hands over. The clients are the usual tools."""

import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import harness
from harness import Program, connect, contains, equal, exchange

ECHO = harness.c_program("examples-c", "echo")
MEGABYTE = os.urandom(1 << 20)


def in_a_folder(check):
    """Gives the check a path for a socket; no file may be left."""

    def checked(*arguments):
        with tempfile.TemporaryDirectory(prefix="unix-") as folder:
            check(os.path.join(folder, "socket"), *arguments)
            equal(os.listdir(folder), [])

    return checked


def local(path):
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(harness.patience)
    client.connect(path)
    return client


def local_when_listening(path):
    """For a program that does not say when it listens: nothing to wait on but the path itself."""
    end = time.monotonic() + harness.patience
    while True:
        try:
            return local(path)
        except (FileNotFoundError, ConnectionRefusedError):
            if time.monotonic() > end:
                raise
            time.sleep(0.01)


def tool(argv, data=b""):
    done = subprocess.run(
        argv, input=data, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=harness.patience
    )
    return done.stdout


# -- unix sockets -----------------------------------------------------------------------------


@in_a_folder
def unix_tools(path, mode):
    with Program([ECHO] + mode + [f"unix:{path}"]) as server:
        server.expect(f"listening on unix:{path} ")
        equal(tool(["nc", "-N", "-U", path], b"hello"), b"hello")
        equal(tool(["socat", "-t", "10", "-", f"UNIX-CONNECT:{path}"], MEGABYTE), MEGABYTE)
        equal(exchange(local(path), MEGABYTE), MEGABYTE)
        equal(os.stat(path).st_mode & 0o777, 0o600)
        server.stop()


def abstract_tools(mode):
    name = f"ns-{os.getpid()}"
    with Program([ECHO] + mode + [f"unix:@{name}"]) as server:
        server.expect(f"listening on unix:@{name} ")
        equal(tool(["socat", "-t", "10", "-", f"ABSTRACT-CONNECT:{name}"], b"hello"), b"hello")
        server.stop()


@in_a_folder
def unix_curl(path, mode):
    status = harness.c_program("examples-c", "status")
    with Program([status] + mode + [f"unix:{path}"]) as server:
        server.expect(f"listening on unix:{path} ")
        page = tool(["curl", "-s", "--unix-socket", path, "http://here/report"]).decode()
        contains(page, f"Server unix:{path}")
        server.stop()


@in_a_folder
def unix_tls(path, mode, certificates):
    files = ["--cert", f"{certificates}/server.pem", "--key", f"{certificates}/server-key.pem"]
    with Program([ECHO] + files + mode + [f"unix:{path}"]) as server:
        server.expect(f"listening on unix:{path} ")
        argv = ["openssl", "s_client", "-quiet", "-no_ign_eof", "-servername", "localhost"]
        argv += ["-unix", path, "-CAfile", f"{certificates}/ca.pem"]
        client = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  stderr=subprocess.DEVNULL)
        client.stdin.write(b"hello\n")
        client.stdin.flush()
        equal(client.stdout.readline(), b"hello\n")
        client.communicate(timeout=harness.patience)
        server.stop()


@in_a_folder
def unix_after_a_kill(path, mode):
    """The file of a killed server is replaced; that of one that lives is not."""
    with Program([ECHO] + mode + [f"unix:{path}"], valgrind=False) as first:
        first.expect("listening")
        first.process.kill()
        first.process.wait()
    assert os.path.exists(path)
    with Program([ECHO] + mode + [f"unix:{path}"]) as second:
        second.expect("listening")
        with Program([ECHO] + mode + [f"unix:{path}"]) as third:
            third.finish(expected=1)
            contains(third.stderr(), "another socket listens there")
        equal(exchange(local(path), b"hello"), b"hello")
        second.stop()


# -- sockets that are handed over -------------------------------------------------------------


def shared_by_two(mode, other):
    """A parent starts two servers on one socket; each may end, and the socket stays."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number, port = listener.fileno(), listener.getsockname()[1]
        argv = [ECHO] + mode + [f"fd:{number}"], [ECHO] + other + [f"fd:{number}"]
        with Program(argv[0], pass_fds=[number]) as first:
            with Program(argv[1], pass_fds=[number]) as second:
                equal((first.port(), second.port()), (port, port))
                for _ in range(50):
                    equal(exchange(connect(port), b"hello"), b"hello")
                first.stop()
                for _ in range(10):
                    equal(exchange(connect(port), b"hello"), b"hello")
                second.stop()
        with connect(port) as client, listener.accept()[0] as accepted:
            accepted.sendall(b"the parent's again")
            equal(client.recv(100), b"the parent's again")


def unfit_descriptor(mode):
    with Program([ECHO] + mode + ["fd:77"]) as server:
        server.finish(expected=1)
        contains(server.stderr(), "descriptor 77 is not open")


def activated(mode, names, service):
    """systemd-socket-activate starts the server when the first client has come."""
    port = harness.free_port()
    argv = ["systemd-socket-activate", "-l", f"127.0.0.1:{port}"] + names
    with Program(argv + [ECHO] + mode + [service], valgrind=False) as server:
        equal(exchange(harness.connect_when_listening(port), b"hello"), b"hello")
        equal(server.port(), port)
        equal(exchange(connect(port), MEGABYTE), MEGABYTE)
        server.stop()


@in_a_folder
def activated_unix(path, mode):
    argv = ["systemd-socket-activate", "-l", path]
    with Program(argv + [ECHO] + mode + ["systemd"], valgrind=False) as server:
        equal(exchange(local_when_listening(path), b"hello"), b"hello")
        server.stop()
    os.remove(path)  # it is systemd's


def nothing_activated(mode):
    with Program([ECHO] + mode + ["systemd"]) as server:
        server.finish(expected=1)
        contains(server.stderr(), "systemd passed no socket to this process")


# -- one port for several processes -----------------------------------------------------------


def reuse_port(mode, count):
    """The kernel spreads the clients over the processes that share a port."""
    with Program([ECHO, "--reuse-port"] + mode + ["127.0.0.1:0"]) as first:
        port = first.port()
        with Program([ECHO, "--reuse-port"] + mode + [f"127.0.0.1:{port}"]) as second:
            equal(second.port(), port)
            for _ in range(count):
                with connect(port) as client:
                    client.sendall(b"x")
                    equal(client.recv(2), b"x")
                    # A reset leaves no TIME-WAIT: there are fewer ports than clients.
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            reports = [server.stop() for server in (first, second)]
    accepted = [int(re.search(r"accepted (\d+)", report)[1]) for report in reports]
    equal(sum(accepted), count)
    if min(accepted) < count // 4:
        raise AssertionError(f"they accepted {accepted}")


# -- make run ---------------------------------------------------------------------------------


@in_a_folder
def make_run(path):
    """What it says of a unix socket works."""
    argv = ["make", "--no-print-directory", "run", f"SERVICE=unix:{path}"]
    with Program(argv, cwd=harness.ROOT, start_new_session=True) as server:
        server.expect("listening on")
        said = server.output
        commands = [line for line in said.splitlines() if line.startswith("  ")]
        equal(len(commands), 2)
        for command in commands:
            equal(harness.run(["sh", "-c", command]).strip(), "hello")
        os.killpg(server.pid, signal.SIGINT)
        server.process.wait(harness.patience)


def checks(certificates):
    modes = [("blocking", []), ("workers", ["-t", "3"]), ("non-blocking", ["-n"]),
             ("loops", ["-n", "-t", "2"])]
    all_checks = []

    def add(title, function, *arguments):
        all_checks.append((title, lambda: function(*arguments)))

    for name, mode in modes:
        add(f"unix: nc, socat, {name}", unix_tools, mode)
        add(f"unix: abstract, {name}", abstract_tools, mode)
        add(f"unix: curl, {name}", unix_curl, [part for part in mode])
        add(f"unix: TLS, {name}", unix_tls, mode, certificates)
        add(f"unix: after a kill, {name}", unix_after_a_kill, mode)
        for other_name, other in modes:
            add(f"fd: {name} and {other_name}", shared_by_two, mode, other)
        add(f"fd: unfit, {name}", unfit_descriptor, mode)
        add(f"systemd: {name}", activated, mode, [], "systemd")
        add(f"systemd:NAME, {name}", activated, mode, ["--fdname=web"], "systemd:web")
        add(f"systemd: unix, {name}", activated_unix, mode)
        add(f"systemd: nothing, {name}", nothing_activated, mode)
        add(f"reuse_port, {name}", reuse_port, mode, 10_000 if harness.under == "native" else 200)
    if harness.under == "native":
        add("make run", make_run)
    return all_checks


arguments = harness.parse_arguments()
with tempfile.TemporaryDirectory(prefix="certificates-") as certificates:
    harness.run([str(harness.ROOT / "tests" / "make-certs"), certificates])
    harness.main("services", checks(certificates), arguments.only)
