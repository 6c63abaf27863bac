"""The programs of a language while they run, and the clients that talk to them."""

import contextlib
import hashlib
import os
import queue
import selectors
import signal
import socket
import ssl
import struct
import subprocess
import threading
import time

import harness
from harness import equal

DATA = harness.ROOT / "tests" / "data"
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # of SO_LINGER


def client_context(alpn=(), certificate=None):
    context = ssl.create_default_context(cafile=DATA / "ca.pem")
    if alpn:
        context.set_alpn_protocols(alpn)
    if certificate:
        context.load_cert_chain(DATA / f"{certificate}.pem", DATA / f"{certificate}-key.pem")
    return context


def fingerprint(certificate):
    pem = (DATA / f"{certificate}.pem").read_text()
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()


class Client:
    """A connection that says lines and reads lines."""

    # Many addresses: those of one have not enough ports for 100,000 connections in a short time.
    sources = 0

    def __init__(self, port, context=None):
        Client.sources = Client.sources % 200 + 1
        address = f"127.0.0.{Client.sources}"
        self.socket = socket.create_connection(
            ("127.0.0.1", port), timeout=harness.patience, source_address=(address, 0)
        )
        if context:
            self.socket = context.wrap_socket(self.socket, server_hostname="localhost")
        self.unread = b""

    def say(self, *lines):
        self.socket.sendall("".join(line + "\n" for line in lines).encode())

    def read(self):
        """The next line."""
        while b"\n" not in self.unread:
            part = self.socket.recv(1 << 16)
            if not part:
                raise AssertionError(f"the end of the stream after {self.unread[:200]!r}")
            self.unread += part
        line, _, self.unread = self.unread.partition(b"\n")
        return line.decode()

    def ask(self, line):
        self.say(line)
        return self.read()

    def skip(self, count):
        """Reads `count` bytes, which must all be `x`."""
        parts = [self.unread[:count]]
        self.unread = self.unread[count:]
        count -= len(parts[0])
        while parts:
            part = parts.pop()
            equal(part.count(b"x"), len(part))
            if count:
                parts = [self.socket.recv(min(count, 1 << 18))]
                assert parts[0], f"the end of the stream, and {count} bytes are missing"
                count -= len(parts[0])

    def see_end(self):
        """The server closes, after no further byte. A reset is an error."""
        equal(self.unread + self.socket.recv(100), b"")

    def reset(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()


def exchange(client, data):
    """Sends `data` and at the same time receives as many bytes."""
    sock, received, sent = client.socket, bytearray(), 0
    sock.setblocking(False)
    end = time.monotonic() + harness.patience
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_READ)
        while len(received) < len(data):
            assert time.monotonic() < end, f"only {len(received)} bytes in {harness.patience} s"
            rest = selectors.EVENT_WRITE if sent < len(data) else 0
            selector.modify(sock, selectors.EVENT_READ | rest)
            selector.select(1)
            with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                if rest:
                    sent += sock.send(data[sent : sent + (1 << 16)])
            with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                while part := sock.recv(1 << 16):
                    received += part
    sock.settimeout(harness.patience)
    return bytes(received)


class Server(harness.Program):
    """An echo or a checker that runs, with an empty folder of its own."""

    def __init__(self, language, kind, variant, *options, folder, service="0", bare=False):
        """`bare`: without the options of the variant. `service` may be None."""
        self.language, self.kind, self.variant, self.folder = language, kind, variant, folder
        argv = language.command(kind) + ([] if bare else variant.options())
        argv += [*map(str, options), *([service] if service is not None else [])]
        environment = language.environment()
        super().__init__(argv, cwd=folder, env=environment, start_new_session=True)
        self.context = client_context() if variant.tls else None
        self.expected_errors = []

    def is_ready(self):
        self.port_number = self.port()
        return self

    def client(self, context=None):
        return Client(self.port_number, context or self.context)

    def expect_error(self, text):
        """Waits until stderr has this text, which is none of those that must not be there."""
        harness.wait_until(lambda: text in self.stderr(), f"{text!r} on stderr: {self.stderr()!r}")
        self.expected_errors.append(text)

    def end(self):
        """Stops it in order. Then nothing may be left of it."""
        if self.kind == "echo":
            self.stop()
        else:
            with self.client() as client:
                client.say("stop")
            self.expect("^stopped$")
            self.finish()
        self.check_remains()

    def end_at(self, act, expected):
        """Has `act` end it; returns after how many seconds it did."""
        begun = time.monotonic()
        act()
        self.finish(expected)
        return time.monotonic() - begun

    def check_remains(self):
        if not self.expected_errors:
            equal(self.stderr(), "")
        equal(processes_of_session(self.pid), [])
        left = os.listdir(self.folder)
        if self.process.returncode == -signal.SIGABRT:  # a way to end, which may leave a core file
            left = [name for name in left if not name.startswith("core")]
        equal(left, [])

    def account(self):
        """What became of it, and what it said: for the report of a check that failed."""
        if self.errors.closed:
            return "has been ended"
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(1)  # it may be what went wrong that ends it
        with contextlib.suppress(queue.Empty):
            while (line := self.lines.get_nowait()) is not None:
                self.output += line
        status = self.process.returncode
        end = "still runs" if status is None else f"ended with status {status}"
        return f"{end}\nstdout: {self.output}\nstderr: {self.stderr()}"

    def memory(self):
        """The resident memory in KiB."""
        return self._number_of("VmRSS")

    @contextlib.contextmanager
    def keeps_objects(self, client):
        """The binding keeps no more for the C side after than before, as `client` sees.
        It may keep less: what a callback has just answered is dropped after the answer."""
        kept = int(client.ask("objects"))
        yield
        harness.wait_until(lambda: int(client.ask("objects")) <= kept, f"{kept} objects again")

    def processor_time(self):
        """In seconds."""
        with open(f"/proc/{self.pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def threads(self):
        return self._number_of("Threads")

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def _number_of(self, key):
        with open(f"/proc/{self.pid}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith(key + ":"))


def processes_of_session(session):
    """The processes that are left of it. One that has just ended may still be in the table."""

    def left():
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat") as stat:
                fields = stat.read().rpartition(")")[2].split()
                if int(fields[3]) == session:
                    found.append(int(name))
        return found

    end = time.monotonic() + harness.patience
    while found := left():
        if time.monotonic() > end:
            break
        time.sleep(0.01)  # the end of a process that is not our child announces nothing
    return found


class Traffic:
    """Clients that send and receive lines until the server is gone."""

    def __init__(self, server, clients=8):
        self.lines = [0] * clients
        self.threads = []
        for number in range(clients):
            client = server.client()
            thread = threading.Thread(target=self._talk, args=(number, client), daemon=True)
            self.threads.append(thread)
            thread.start()
        harness.wait_until(lambda: all(self.lines), "an answer to each client")

    def _talk(self, number, client):
        with client, contextlib.suppress(OSError, AssertionError):
            while client.ask("echo again") == "again":
                self.lines[number] += 1

    def join(self):
        for thread in self.threads:
            thread.join(harness.patience)
            assert not thread.is_alive(), "a client still waits for the server that has ended"
