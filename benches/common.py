"""What the benchmarks share: servers alive side by side, driven in short bursts in turn, in a
network of their own.

Everything runs on one core. What is measured is the server's own clock of processor time, read
before and after each burst, so neither the client's work nor what else the machine does counts.
"""

import fcntl
import json
import os
import pathlib
import re
import select
import socket
import statistics
import struct
import subprocess
import sys
import time

BENCHES = pathlib.Path(__file__).resolve().parent
ROOT = BENCHES.parent
TARGET = ROOT / os.environ.get("CARGO_TARGET_DIR", "target")
BUILT = TARGET / "benches"

CFLAGS = ["-O2", "-g", "-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Werror"]
LIBRARIES = {"load": ["-lssl", "-lcrypto"], "tls_openssl": ["-lssl", "-lcrypto"]}

PATIENCE = 60.0  # seconds that a program has for anything


CONGESTION = pathlib.Path("/proc/sys/net/ipv4/tcp_congestion_control")
SIOCSIFFLAGS, IFF_UP = 0x8914, 1


def own_network():
    """Goes on in a network namespace, where that is allowed, with a congestion control that does
    not pace: the timers of one that does (BBR) cost a server on loopback more than its work, and
    spread the figures. NETSERVER_BENCH_NETWORK=host stays. Says what is in force."""
    inside = "NETSERVER_BENCH_NETWORK"
    if inside not in os.environ:
        unshare = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--net", "-r"]
        if subprocess.run([*unshare, "true"], capture_output=True).returncode == 0:
            again = [*unshare, sys.executable, *sys.argv]
            os.execvpe("unshare", again, {**os.environ, inside: "own"})
    elif os.environ[inside] == "own":
        with socket.socket() as any_socket:
            request = struct.pack("16sh14x", b"lo", IFF_UP)
            fcntl.ioctl(any_socket, SIOCSIFFLAGS, request)
        CONGESTION.write_text("reno")  # the one that every kernel has and every namespace may use
    return CONGESTION.read_text().strip()


def build(name):
    """The path of a program of benches/, compiled if it is older than its source."""
    source, program = BENCHES / f"{name}.c", BUILT / name
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        BUILT.mkdir(parents=True, exist_ok=True)
        cc = os.environ.get("CC", "cc")
        subprocess.run([cc, *CFLAGS, source, "-o", program, *LIBRARIES[name]], check=True)
    return program


class Program:
    """A process on the given cores; ended with its `with`."""

    def __init__(self, cores, argv, errors=None):
        argv = ["taskset", "-c", cores, *map(str, argv)]
        self.name = os.path.basename(argv[3])
        # Unbuffered: `line` must not hide a line from `select`.
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, bufsize=0
        )
        self.pid = self.process.pid  # taskset becomes the program

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

    def line(self):
        if not select.select([self.process.stdout], [], [], PATIENCE)[0]:
            raise RuntimeError(f"{self.name} said nothing for {PATIENCE} s")
        line = self.process.stdout.readline().decode()
        if not line:
            raise RuntimeError(f"{self.name} ended with {self.process.wait()}")
        return line


class Server(Program):
    """An echo server, which says where it listens: `… :PORT …`."""

    def __init__(self, cores, argv):
        super().__init__(cores, argv)
        self.port = int(re.search(r":(\d+)\b(?!:)", self.line().split("listening on")[1])[1])

    def cpu(self):
        """Seconds of processor time of all its threads: its process CPU clock."""
        return time.clock_gettime_ns((~self.pid << 3) | 2) / 1e9

    def anonymous(self):
        """Bytes of anonymous memory in use."""
        with open(f"/proc/{self.pid}/status") as status:
            return int(re.search(r"RssAnon:\s+(\d+) kB", status.read())[1]) << 10


class Load(Program):
    """The load generator with its connections to a server."""

    def __init__(self, cores, server, *options):
        super().__init__(cores, [build("load"), *options, server.port])
        self.server = server
        if self.line() != "ready\n":
            raise RuntimeError("load is not ready")

    def burst(self, operations):
        """What the load generator says of it, with the server's seconds of processor time."""
        before = self.server.cpu()
        self.process.stdin.write(b"%d\n" % operations)
        result = json.loads(self.line())
        result["cpu"] = self.server.cpu() - before
        return result

    def finish(self):
        """Ends its connections in good order; a wrong byte in any of them raises."""
        self.process.stdin.close()
        if self.process.wait(PATIENCE) != 0:
            raise RuntimeError(f"load to {self.server.name} failed")


def operations_for(load, seconds):
    """How many operations cost the server about so much processor time; warms up as well."""
    count, cost = 8, 0.0
    while cost < seconds / 4 and count < 1_000_000:
        count *= 2
        cost = load.burst(count)["cpu"]
    return max(4, round(count * seconds / cost))


def in_turn(loads, operations, bursts):
    """A list of results for each load: bursts in turn, the order reversed each time."""
    results = [[] for _ in loads]
    order = list(range(len(loads)))
    for _ in range(bursts):
        for i in order:
            results[i].append(loads[i].burst(operations))
        order.reverse()
    return results


def per_operation(results, key="cpu"):
    return [result[key] / result["operations"] for result in results]


def ratio(ours, theirs):
    """The ratio of the medians, and the least and the most of the ratios burst by burst."""
    pairs = [a / b for a, b in zip(ours, theirs)]
    return statistics.median(ours) / statistics.median(theirs), min(pairs), max(pairs)


def table(header, rows):
    """In Markdown; the first column is text, the others are numbers."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(row):
        rest = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))
        return "| " + " | ".join([row[0].ljust(widths[0]), *rest]) + " |"

    rule = "|" + "|".join(["-" * (widths[0] + 2)] + ["-" * (w + 1) + ":" for w in widths[1:]]) + "|"
    return "\n".join([line(header), rule, *map(line, rows)])
