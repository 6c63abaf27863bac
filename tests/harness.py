"""What the end-to-end checks share: programs under test, clients, and the closing line.

A check is a function that raises where something is wrong. `main` runs them and prints
`NAME: N passed, N failed`.
"""

import argparse
import os
import pathlib
import queue
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = ROOT / os.environ.get("CARGO_TARGET_DIR", "target")

VALGRIND = [
    "valgrind",
    "--leak-check=full",
    "--show-leak-kinds=all",
    "--errors-for-leak-kinds=all",
    "--error-exitcode=99",
    "--num-callers=40",
    f"--suppressions={ROOT / 'tests' / 'valgrind.supp'}",
]

# What runs programs of another machine: scripts/test-cross.
RUNNER = os.environ.get("NS_TEST_RUNNER", "").split()

under = "native"  # or "valgrind" or "asan": how `Program` runs C programs
patience = 60.0  # seconds that anything may take on a machine that does much else


def c_program(directory, name):
    """The path of a program that make built: examples-c or tests-c."""
    built = TARGET / "asan" if under == "asan" else TARGET
    return str(built / directory / name)


class Program:
    """A process under test, started here and never left behind."""

    def __init__(self, argv, valgrind=None, **popen):
        self.log = tempfile.NamedTemporaryFile(mode="r", prefix="valgrind-")
        self.errors = tempfile.TemporaryFile()
        if under == "valgrind" and valgrind is not False:
            argv = VALGRIND + (valgrind or []) + ["--log-file=" + self.log.name] + argv
        elif argv[0].startswith(str(TARGET)):
            argv = RUNNER + argv
        self.process = subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=self.errors, text=True, **popen
        )
        self.pid = self.process.pid
        self.output = ""
        self.lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def _next_line(self, end):
        line = self.lines.get(timeout=max(0, end - time.monotonic()))
        if line is not None:
            self.output += line
        return line

    def expect(self, pattern):
        """The match of the first line to come that matches."""
        end = time.monotonic() + patience
        try:
            while (line := self._next_line(end)) is not None:
                if match := re.search(pattern, line):
                    return match
        except queue.Empty:
            raise AssertionError(f"no line like {pattern!r} within {patience} s") from None
        raise AssertionError(f"ended without a line like {pattern!r}: {self.stderr()}")

    def port(self):
        return int(self.expect(r"listening on \S*:(\d+)")[1])

    def stderr(self):
        # By offset: a read would move the place at which the program, whose open file it is too, writes.
        descriptor = self.errors.fileno()
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace")

    def finish(self, expected=0):
        """Waits for the end, which must come by itself with this status. Returns the whole output."""
        end = time.monotonic() + patience
        try:
            while self._next_line(end) is not None:
                pass
            status = self.process.wait(patience)
        except (queue.Empty, subprocess.TimeoutExpired):
            said = self.output + self.stderr()
            raise AssertionError(f"still runs after {patience} s, having said:\n{said}") from None
        report = self.log.read()
        if status != expected or (report and "ERROR SUMMARY: 0 errors" not in report):
            raise AssertionError(f"exit status {status}, not {expected}\n{self.stderr()}\n{report}")
        return self.output

    def stop(self, number=signal.SIGTERM, expected=0):
        self.process.send_signal(number)
        return self.finish(expected)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.log.close()
        self.errors.close()


def run(argv, expected=0, **options):
    """Runs a program to its end. Returns what it printed, errors behind output."""
    done = subprocess.run(
        argv,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=options.pop("timeout", 120),
        **options,
    )
    if done.returncode != expected:
        raise AssertionError(f"{argv}: exit status {done.returncode}\n{done.stdout}")
    return done.stdout


def connect(port, host="127.0.0.1"):
    return socket.create_connection((host, port), timeout=patience)


def connect_when_listening(port):
    """For a program that does not say when it listens: nothing to wait on but the port itself."""
    end = time.monotonic() + patience
    while True:
        try:
            return connect(port)
        except ConnectionRefusedError:
            if time.monotonic() > end:
                raise
            time.sleep(0.01)


def free_port():
    """Not one of those that the kernel gives to outgoing connections: another process's could get
    it before it is used."""
    with open("/proc/sys/net/ipv4/ip_local_port_range") as limits:
        first = int(limits.read().split()[0])
    while True:
        try:
            port = random.randrange(1024, first)
            socket.create_server(("127.0.0.1", port)).close()
            return port
        except OSError:
            pass


def read_to_end(sock):
    parts = []
    while part := sock.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def exchange(sock, data):
    """Sends all of it and the end of stream; returns everything that comes, then closes."""

    def send():
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)

    with sock:
        sender = threading.Thread(target=send)
        sender.start()
        answer = read_to_end(sock)
        sender.join()
    return answer


def equal(actual, expected):
    if actual != expected:
        raise AssertionError(f"{str(actual)[:500]!r} is not {str(expected)[:500]!r}")


def contains(text, part):
    if part not in text:
        raise AssertionError(f"{part!r} is not in {text!r}")


def wait_until(condition, what):
    """For a state that nothing announces, such as one of another process."""
    end = time.monotonic() + patience
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {patience} s: {what}")
        time.sleep(0.01)


def parse_arguments(**numbers):
    """Before the list of checks is made: it may depend on how programs are run. `numbers` are
    options of these checks alone, with their defaults."""
    global under, patience
    parser = argparse.ArgumentParser()
    parser.add_argument("--under", choices=["native", "valgrind", "asan"], default="native")
    parser.add_argument("only", nargs="*", help="run the checks whose names contain this")
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    arguments = parser.parse_args()
    under = arguments.under
    patience = {"native": 60.0, "valgrind": 90.0, "asan": 60.0}[under]
    return arguments


def main(name, checks, only=()):
    """Runs [(title, function)…], prints how it went and exits."""
    if under != "native":
        name = f"{name}-{under}"
    passed = failed = 0
    for title, check in checks:
        if only and not any(part in title for part in only):
            continue
        started = time.monotonic()
        try:
            check()
            passed += 1
            print(f"ok   {title} ({time.monotonic() - started:.1f} s)", flush=True)
        except Exception:
            failed += 1
            print(f"FAIL {title}\n{traceback.format_exc()}", flush=True)
    print(f"{name}: {passed} passed, {failed} failed", flush=True)
    sys.exit(1 if failed or not passed else 0)
