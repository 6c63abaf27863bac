#!/usr/bin/env python3
"""A bad network between clients and the example echo: every byte must come back, in its order.

    run.py [--mib N] [--connections N] [--seed N] [--write FILE] [PART...]

The kernel here has no netem. So there are two network namespaces, each with a TUN device, and a
program (relay.c) that passes packets between them and loses, duplicates, delays and reorders them.
PARTs choose: a network, a server, or both as NETWORK/SERVER. Needs root, ip(8) and the C examples.
"""

import argparse
import concurrent.futures
import contextlib
import os
import pathlib
import random
import re
import selectors
import signal
import socket
import ssl
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import harness

DATA = harness.ROOT / "tests" / "data"
RELAY = harness.TARGET / "tests-c" / "bad_network" / "relay"
CLIENT, SERVER = "10.77.0.1", "10.77.0.2"
PATIENCE = 120.0  # s without a byte on any connection
LIMIT = 1800.0  # s of one run
PERIOD = 1 << 20  # bytes after which what a connection says comes again
CHUNK = 1 << 16

# Parts of 1000 packets that are lost, duplicated, reordered; ms of delay in each direction.
NETWORKS = {
    "loss": (20, 0, 0, 0),
    "reordering": (0, 0, 250, 0),
    "duplicates": (0, 100, 0, 0),
    "delay": (0, 0, 0, 100),
    "all": (20, 100, 250, 100),
}
TLS = ["--cert", str(DATA / "server.pem"), "--key", str(DATA / "server-key.pem")]
SERVERS = {
    "workers": ["-t", "{}"],
    "loops": ["-n", "-t", "2"],
    "workers-tls": ["-t", "{}", *TLS],
    "loops-tls": ["-n", "-t", "2", *TLS],
}


# -- the client, in a process of its own in its namespace ----------------------------------------


class Conversation:
    """Says bytes that no other one says, and hears them."""

    def __init__(self, number, size):
        self.said = self.heard = 0
        self.size, self.has_ended = size, False
        period = random.Random(number).randbytes(PERIOD)
        self.bytes = memoryview(period + period[:CHUNK])

    def connect(self, address, tls):
        self.sock = socket.create_connection(address, timeout=PATIENCE)
        if tls:
            self.sock = tls.wrap_socket(self.sock, server_hostname="localhost")
        self.sock.setblocking(False)

    def part(self, offset, length):
        start = offset % PERIOD
        return self.bytes[start : start + min(length, CHUNK, self.size - offset)]

    def say(self):
        with contextlib.suppress(BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            while self.said < self.size:
                self.said += self.sock.send(self.part(self.said, CHUNK))

    def hear(self):
        with contextlib.suppress(BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            while self.heard < self.size:
                data = self.sock.recv(CHUNK)
                if not data:
                    raise ConnectionError(f"ended after {self.heard} of {self.size} bytes")
                if data != self.part(self.heard, len(data)):
                    raise ValueError(f"wrong bytes from {self.heard} on")
                self.heard += len(data)

    def events(self):
        return selectors.EVENT_READ | selectors.EVENT_WRITE * (self.said < self.size)

    def end(self):
        """The end comes back, and no byte before it."""
        self.sock.settimeout(PATIENCE)
        if isinstance(self.sock, ssl.SSLSocket):
            self.sock = self.sock.unwrap()
        else:
            self.sock.shutdown(socket.SHUT_WR)
        if self.sock.recv(1):
            raise ValueError("bytes after the last one")
        self.sock.close()


def talk(port, connections, size, with_tls):
    tls = ssl.create_default_context(cafile=str(DATA / "ca.pem")) if with_tls else None
    all_of_them = [Conversation(number, size) for number in range(connections)]
    pool = concurrent.futures.ThreadPoolExecutor(connections)
    list(pool.map(lambda one: one.connect((SERVER, port), tls), all_of_them))
    with selectors.DefaultSelector() as selector:
        for conversation in all_of_them:
            selector.register(conversation.sock, conversation.events(), conversation)
        while selector.get_map():
            found = selector.select(PATIENCE)
            if not found:
                raise TimeoutError(f"no byte for {PATIENCE} s")
            for key, _ in found:
                conversation, before = key.data, key.events
                conversation.say()
                conversation.hear()
                if conversation.heard == size:
                    selector.unregister(conversation.sock)
                elif conversation.events() != before:
                    selector.modify(conversation.sock, conversation.events(), conversation)
    list(pool.map(Conversation.end, all_of_them))


# -- the network ------------------------------------------------------------------------------


def ip(*words):
    subprocess.run(["ip", *words], check=True, timeout=60)


@contextlib.contextmanager
def namespaces():
    """Two of them, with a device each that leads to the other one. They go with the process."""
    names = [f"bad-{side}-{os.getpid()}" for side in ("client", "server")]
    try:
        for name, own, other in zip(names, (CLIENT, SERVER), (SERVER, CLIENT)):
            ip("netns", "add", name)
            ip("-n", name, "tuntap", "add", "dev", "bad", "mode", "tun")
            ip("-n", name, "address", "add", own, "peer", other, "dev", "bad")
            ip("-n", name, "link", "set", "bad", "up", "mtu", "1500", "txqueuelen", "10000")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], stderr=subprocess.DEVNULL, timeout=60)


def inside(name, *command):
    return ["ip", "netns", "exec", name, *command]


def run(network, kind, options, names):
    """One run: what the relay did, and the seconds."""
    spaces = [f"/run/netns/{name}" for name in names]
    numbers = [str(number) for number in (*NETWORKS[network], options.seed)]
    size = options.mib * (1 << 20) // options.connections
    words = [word.format(options.connections) for word in SERVERS[kind]]
    echo = harness.c_program("examples-c", "echo")
    with contextlib.ExitStack() as stack:
        relay = harness.Program([str(RELAY), *spaces, *numbers], stdin=subprocess.PIPE)
        relay = stack.enter_context(relay)
        relay.expect("^ready$")
        server = stack.enter_context(harness.Program(inside(names[1], echo, *words, "0")))
        port = int(server.expect(r"listening on \S*?(\d+) ")[1])
        began = time.monotonic()
        client = [sys.executable, __file__, "--talk", str(port), str(options.connections)]
        client += [str(size), "tls" if kind.endswith("-tls") else "plain"]
        subprocess.run(inside(names[0], *client), check=True, timeout=LIMIT)
        seconds = time.monotonic() - began
        server.stop()
        counts = re.search(r"^Connections: (.*)$", server.output, re.M)
        relay.process.stdin.close()
        packets = relay.expect(r"^packets .*")[0]
    if counts:
        count = {name: int(n) for name, n in re.findall(r"(\w+) (\d+)", counts[1])}
        assert count["accepted"] == count["closed"] == options.connections, counts[1]
    return dict(re.findall(r"(\w+) (\d+)", packets)), seconds


def write(path, lines):
    begin, end = "<!-- make bad-network: begin -->", "<!-- make bad-network: end -->"
    before, _, rest = path.read_text().partition(begin)
    _, marker, after = rest.partition(end)
    if not marker:
        raise SystemExit(f"{path} lacks the lines {begin} and {end}")
    path.write_text(f"{before}{begin}\n\n" + "\n".join(lines) + f"\n\n{end}{after}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mib", type=int, default=256, help="each way, over all connections")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", type=pathlib.Path)
    parser.add_argument("--talk", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("parts", nargs="*")
    options = parser.parse_args()
    if options.talk:
        port, connections, size, how = options.talk
        talk(int(port), int(connections), int(size), how == "tls")
        return
    # So that the namespaces and the processes end with this one.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if os.geteuid() != 0 or not os.path.exists("/dev/net/tun"):
        sys.exit("bad_network: needs root and /dev/net/tun")
    parts = [set(part.split("/")) for part in options.parts]
    wanted = [
        (network, kind)
        for network in NETWORKS
        for kind in SERVERS
        if not parts or any(part <= {network, kind} for part in parts)
    ]
    lines = [
        f"Seed {options.seed}, Linux {os.uname().release}, {options.connections} connections.",
        "",
        "| network | server | MiB | seconds | packets | lost | duplicated | reordered | result |",
        "|---|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    failed = 0
    for network, kind in wanted:
        try:
            with namespaces() as names:
                packets, seconds = run(network, kind, options, names)
            figures = [packets[n] for n in ("packets", "lost", "duplicated", "reordered")]
            row = [f"{seconds:.0f}", *figures, "0 wrong bytes"]
        except Exception as error:  # the other networks have their turn
            failed += 1
            row = ["", "", "", "", "", f"failed: {type(error).__name__}: {error}"]
        lines.append(f"| {network} | {kind} | {options.mib} | " + " | ".join(row) + " |")
        print(lines[-1], flush=True)
    if options.write:
        write(options.write, lines)
    print(f"bad_network: {len(wanted) - failed} passed, {failed} failed", flush=True)
    sys.exit(1 if failed or not wanted else 0)


if __name__ == "__main__":
    main()
