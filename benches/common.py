"""The parts that the benchmarks share: servers that live side by side and are driven in short
bursts in turn, in a network of their own.

Server and client run on one core, unless a workload says otherwise. The measure is the server's own
clock of processor time, read before and after each burst, so neither the client's work nor the
other work of the machine counts.
"""

import array
import contextlib
import fcntl
import functools
import json
import os
import pathlib
import random
import re
import select
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time

BENCHES = pathlib.Path(__file__).resolve().parent
ROOT = BENCHES.parent
TARGET = ROOT / os.environ.get("CARGO_TARGET_DIR", "target")
BUILT = TARGET / "benches"
COUNTABLE = TARGET / "countable" / "release"  # our library with system calls that can be counted

CFLAGS = ["-O2", "-g", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Werror"]
COMPILERS = {".c": ("CC", "cc", "-std=c99"), ".cc": ("CXX", "c++", "-std=c++17")}
OURS_LINKED = [f"-I{ROOT / 'include'}", f"-L{TARGET / 'release'}", "-lnetserver",
               f"-Wl,-rpath,{TARGET / 'release'}"]  # fmt: skip
LIBRARIES = {
    "hosted": OURS_LINKED,
    "fan": OURS_LINKED,
    "subscribers": [],
    "load": ["-lssl", "-lcrypto"],
    "tls_openssl": ["-lssl", "-lcrypto"],
    "count_syscalls": ["-shared", "-fPIC", "-ldl"],
    "peers/raw_epoll": ["-pthread"],
    "peers/raw_pool": ["-pthread"],
    "peers/raw_fan": [],
    "peers/libuv": ["-luv"],
    "peers/libev": ["-lev"],
    "peers/libevent": ["-levent_core"],
    "peers/bufferevent": ["-levent_core"],
    "peers/asio": ["-pthread"],
    "peers/microhttpd": ["-lmicrohttpd"],
}
RUST_PEERS = ["mio_echo", "rustls_mio", "std_threads", "tokio_echo"]

STEP_TIMEOUT_S = 60.0  # how long a program may take for a step

COUNTED = 2000  # operations whose system calls are counted
WAIT, ACCEPT_FAILED = 0, 3  # counters of count_syscalls.c


CONGESTION = pathlib.Path("/proc/sys/net/ipv4/tcp_congestion_control")
SIOCSIFFLAGS, IFF_UP = 0x8914, 1


the_hosts_congestion = None  # the host's congestion control, once own_network() has set another


def own_network():
    """Starts this program again in a network namespace, where that is allowed, and sets a
    congestion control there that does not pace: the timers of one that paces (BBR) cost a server on
    loopback more than its work, and spread the figures. NETSERVER_BENCH_NETWORK=host keeps the
    host's network. Returns the congestion control that is in force."""
    global the_hosts_congestion
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
        the_hosts_congestion = CONGESTION.read_text().strip()
        CONGESTION.write_text("reno")  # the one that every kernel has and every namespace may use
    return CONGESTION.read_text().strip()


@contextlib.contextmanager
def hosts_congestion():
    """Sets the host's congestion control for the time of a `with`, where that is allowed. Yields
    the congestion control that is in force."""
    before = CONGESTION.read_text().strip()
    with contextlib.suppress(PermissionError):
        CONGESTION.write_text(the_hosts_congestion or before)
    try:
        yield CONGESTION.read_text().strip()
    finally:
        with contextlib.suppress(PermissionError):
            CONGESTION.write_text(before)


def build(name):
    """Returns the path of a program of benches/, and compiles it if it is older than its source."""
    (source,) = BENCHES.glob(f"{name}.c*")
    program = BUILT / name
    newest = max(file.stat().st_mtime for file in [source, *source.parent.glob("*.h")])
    if not program.exists() or program.stat().st_mtime < newest:
        program.parent.mkdir(parents=True, exist_ok=True)
        variable, default, standard = COMPILERS[source.suffix]
        compiler = os.environ.get(variable, default)
        flags = [standard, *CFLAGS]
        subprocess.run([compiler, *flags, source, "-o", program, *LIBRARIES[name]], check=True)
    return program


@functools.cache
def build_rust_peers():
    """Builds the programs of benches/peers/Cargo.toml and returns their paths by their names."""
    manifest, target = BENCHES / "peers" / "Cargo.toml", TARGET / "peers"
    cargo = os.environ.get("CARGO", "cargo")
    subprocess.run(
        [cargo, "build", "--release", "--locked", "--quiet"]
        + ["--manifest-path", manifest, "--target-dir", target],
        check=True,
    )
    return {name: target / "release" / name for name in RUST_PEERS}


def example(name):
    """Returns the path of an example, which make has built."""
    return TARGET / "examples-c" / name


def peer(name):
    return build_rust_peers()[name] if name in RUST_PEERS else build(f"peers/{name}")


class Program:
    """A process on the given cores, which the end of its `with` kills."""

    def __init__(self, cores, argv, **environment):
        argv = ["taskset", "-c", cores, *map(str, argv)]
        self.name = os.path.basename(argv[3])
        # Unbuffered, because a line in a buffer would be hidden from `select`.
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
            env={**os.environ, **environment},
        )  # fmt: skip
        self.pid = self.process.pid  # taskset becomes the program

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

    def has_line(self, timeout_s=0.0):
        return bool(select.select([self.process.stdout], [], [], timeout_s)[0])

    def line(self):
        if not self.has_line(STEP_TIMEOUT_S):
            raise RuntimeError(f"{self.name} said nothing for {STEP_TIMEOUT_S} s")
        line = self.process.stdout.readline().decode()
        if not line:
            raise RuntimeError(f"{self.name} ended with {self.process.wait()}")
        return line


class Server(Program):
    """An echo server, which prints where it listens: `… :PORT …`."""

    def __init__(self, cores, argv, **environment):
        super().__init__(cores, argv, **environment)
        self.port = self.read_port()

    def read_port(self):
        """Reads until the server accepts. Other servers than ours say the port before that."""
        port = None
        while True:
            line = self.line()
            if "listening on" in line:
                return int(re.search(r":(\d+)\b(?!:)", line.split("listening on")[1])[1])
            if found := re.search(r"\bport=(\d+)", line):
                port = int(found[1])
            if re.search('Ready to accept connections|"epoll" event method|version .* running', line):
                return port

    def cpu(self):
        """Returns the seconds of processor time of all threads: the process CPU clock."""
        return time.clock_gettime_ns((~self.pid << 3) | 2) / 1e9

    def anonymous(self):
        """Returns the bytes of anonymous memory in use."""
        with open(f"/proc/{self.pid}/status") as status:
            return int(re.search(r"RssAnon:\s+(\d+) kB", status.read())[1]) << 10


class Load(Program):
    """The load generator with its connections to a server."""

    def __init__(self, cores, server, *options):
        program = build("subscribers" if options[-1] in ("publish", "mqtt") else "load")
        super().__init__(cores, [program, *options, server.port])
        self.server = server
        if self.line() != "ready\n":
            raise RuntimeError("load is not ready")

    def begin_burst(self, operations):
        self.process.stdin.write(b"%d\n" % operations)

    def end_burst(self):
        return json.loads(self.line())

    def burst(self, operations):
        """Returns the load generator's results of a burst and the server's seconds of CPU time."""
        before = self.server.cpu()
        self.begin_burst(operations)
        result = self.end_burst()
        result["cpu"] = self.server.cpu() - before
        return result

    def finish(self):
        """Ends the connections in good order; raises if any of them received a wrong byte."""
        self.process.stdin.close()
        if self.process.wait(STEP_TIMEOUT_S) != 0:
            raise RuntimeError(f"load to {self.server.name} failed")


def operations_for(load, seconds):
    """Returns how many operations cost the server about so many seconds of processor time. It
    warms the server up, too."""
    count, cost = 8, 0.0
    while cost < seconds / 4 and count < 1_000_000:
        count *= 2
        cost = load.burst(count)["cpu"]
    return max(4, round(count * seconds / cost))


def in_turn(loads, operations, bursts):
    """Drives the loads in turn, in another order each time, and returns a list of results for
    each."""
    results = [[] for _ in loads]
    order = list(range(len(loads)))
    for _ in range(bursts):
        random.shuffle(order)
        for i in order:
            results[i].append(loads[i].burst(operations))
    return results


def compare(args, starts, options, cores=None, least=1):
    """Returns the bursts of each of the servers (command lines by name) under the load. All servers
    live at the same time and are driven in turn, by `least` operations at least. For half of the
    bursts they are started in the opposite order: the server that comes first among many
    connections gets other memory, which is up to a twentieth of the time."""
    cores = cores or args.core
    results = {name: [] for name in starts}
    for names in (list(starts), list(starts)[::-1]):
        with contextlib.ExitStack() as stack:
            servers = [stack.enter_context(Server(cores, starts[name])) for name in names]
            loads = [stack.enter_context(Load(cores, server, *options)) for server in servers]
            operations = max(least, min(operations_for(load, args.seconds) for load in loads))
            for name, bursts in zip(names, in_turn(loads, operations, (args.bursts + 1) // 2)):
                results[name] += bursts
            for load in loads:
                load.finish()
    return results


def calls_per_operation(args, argv, options, cores=None, least=1):
    """Returns the system calls of a server in an operation, without waits and failed accepts."""
    with tempfile.NamedTemporaryFile(prefix="netserver-bench-") as kept:
        environment = {
            "LD_PRELOAD": build("count_syscalls"),
            "LD_LIBRARY_PATH": COUNTABLE,
            "NETSERVER_COUNT": kept.name,
        }
        cores = cores or args.core
        with Server(cores, argv, **environment) as server, Load(cores, server, *options) as load:
            operations = max(COUNTED, least)
            load.burst(operations)
            before = counted_calls(kept.name)
            load.burst(operations)
            calls = counted_calls(kept.name) - before
            load.finish()
    if calls == 0:
        raise RuntimeError(f"no system call of {server.name} was counted")
    return calls / operations


def counted_calls(path):
    counters = array.array("Q", pathlib.Path(path).read_bytes())
    return sum(count for i, count in enumerate(counters) if i not in (WAIT, ACCEPT_FAILED))


def idle_memory(args, argv, options, idle):
    """Returns the bytes for each idle connection of a new server that has served one before."""
    with Server(args.core, argv) as server:
        with Load(args.core, server, *options, "echo") as first:
            first.finish()
        before = server.anonymous()
        with Load(args.core, server, *options, "-i", idle, "echo") as load:
            grown = server.anonymous() - before
            load.finish()
    return grown / (idle + 1)


def per_operation(results, key="cpu"):
    return [result[key] / result["operations"] for result in results]


def ratio(ours, theirs):
    """Returns the ratio of the medians, and the least and the most of the ratios of the bursts."""
    pairs = [a / b for a, b in zip(ours, theirs)]
    return statistics.median(ours) / statistics.median(theirs), min(pairs), max(pairs)


def table(header, rows):
    """Returns a table in Markdown: the first column is text, the others are numbers."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(row):
        rest = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))
        return "| " + " | ".join([row[0].ljust(widths[0]), *rest]) + " |"

    rule = "|" + "|".join(["-" * (widths[0] + 2)] + ["-" * (w + 1) + ":" for w in widths[1:]]) + "|"
    return "\n".join([line(header), rule, *map(line, rows)])
