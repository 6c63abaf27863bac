"""Checks of the store example with the clients of Redis."""

import os
import re
import select
import subprocess

import harness
from harness import Program, connect, contains, equal, exchange

BIG = os.urandom(1_000_000)


def command(*args):
    parts = [b"$%d\r\n%s\r\n" % (len(arg), arg) for arg in args]
    return b"*%d\r\n" % len(args) + b"".join(parts)


def bulk(text):
    return b"$%d\r\n%s\r\n" % (len(text), text)


def store(*options):
    return Program([harness.c_program("examples-c", "store"), *options, "127.0.0.1:0"])


def redis_cli(port, *args, given=b""):
    argv = ["redis-cli", "-p", str(port), *args]
    return subprocess.run(
        argv, input=given, capture_output=True, check=True, timeout=harness.patience
    ).stdout


def by_redis_cli():
    with store() as server:
        port = server.port()
        equal(redis_cli(port, "ping"), b"PONG\n")
        equal(redis_cli(port, "get", "key"), b"\n")
        equal(redis_cli(port, "set", "key", "one value"), b"OK\n")
        equal(redis_cli(port, "set", "key", "another value"), b"OK\n")
        equal(redis_cli(port, "get", "key"), b"another value\n")
        equal(redis_cli(port, "-x", "set", "big", given=BIG), b"OK\n")
        assert redis_cli(port, "get", "big") == BIG + b"\n"
        equal(redis_cli(port, "del", "key", "none", "big"), b"2\n")
        equal(redis_cli(port, "get", "key"), b"\n")
        contains(redis_cli(port, "shutdown").decode(), "ERR unknown command")
        several = b"".join(command(b"SET", b"%d" % i, b"v%d" % i) for i in range(5000))
        contains(redis_cli(port, "--pipe", given=several).decode(), "errors: 0, replies: 5000")
        equal(redis_cli(port, "get", "4999"), b"v4999\n")
        server.stop()


def by_redis_benchmark():
    requests = {"native": 100_000, "asan": 20_000, "valgrind": 2_000}[harness.under]
    with store() as server:
        argv = ["redis-benchmark", "-p", server.port(), "-P", 16, "-c", 50, "-n", requests]
        argv += ["-t", "ping,set,get", "-r", 1000, "-d", 100, "--csv"]
        said = harness.run([str(arg) for arg in argv])
        assert "rror" not in said, said
        equal(re.findall(r'^"(\w+)"', said, re.M)[1:], ["PING_INLINE", "PING_MBULK", "SET", "GET"])
        server.stop()


def in_pieces():
    """Requests are found wherever the pieces end; plain lines are requests, too."""
    asked = command(b"set", b"k", b"\r\n*\0") + b"ping\r\n\r\n  get \t k\n*0\r\n" + command(b"PING", b"")
    asked += command(b"ECHO", BIG[:5000]) + command(b"GET", b"k", b"more") + command(b"DEL", b"k")
    error = b"-ERR unknown command or wrong number of arguments\r\n"
    expected = b"+OK\r\n+PONG\r\n" + bulk(b"\r\n*\0") + bulk(b"") + bulk(BIG[:5000]) + error + b":1\r\n"
    with store() as server:
        port = server.port()
        for size in 1, 2, 3, 7, 1000, len(asked):
            with connect(port) as client:
                for start in range(0, len(asked), size):
                    client.sendall(asked[start : start + size])
                equal(client.makefile("rb").read(len(expected)), expected)
        server.stop()


def no_trust():
    """What breaks the protocol gets an error and the end; what was whole before it is answered."""
    asked = {
        b"*1\r\n$536870912\r\n": "invalid length",
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$-5\r\n": "invalid length",
        b"*-1\r\n": "invalid length",
        b"*2147483648\r\n": "invalid length",
        b"*99999999999999999999": "invalid length",
        b"*65\r\n": "invalid length",
        b"*\r\n": "invalid length",
        b"*1\n$4\nPING\n": "invalid length",
        b"*1\r\n$4 \r\nPING\r\n": "invalid length",
        b"*1\r\n:4\r\nPING\r\n": "expected '$'",
        b"*1\r\n$3\r\nPING\r\n": "expected the end of a line",
        b"*2\r\n$600000\r\n" + b"x" * 600_000 + b"\r\n$600000\r\n": "request too large",
        b"x" * 5000: "line too long",
        b"x" * 5000 + b"\r\n": "line too long",
        b"x " * 100 + b"\r\n": "too many words",
        b"POST / HTTP/1.1\r\nHost: localhost:6379\r\n\r\nFLUSHALL\r\n": "HTTP",
    }
    with store() as server:
        port = server.port()
        for request, why in asked.items():
            with connect(port) as client:
                client.sendall(command(b"PING") + request)
                answer = harness.read_to_end(client).decode()
            equal(answer[:7], "+PONG\r\n")
            equal(answer.splitlines()[-1], "-ERR Protocol error: " + why)
        for beginning in b"*1", b"*1\r\n$4\r\nPI", b"pi":
            equal(exchange(connect(port), beginning), b"")
        equal(exchange(connect(port), b"ping\n"), b"+PONG\r\n")
        server.stop()


def unread_replies():
    """A client that does not read has few replies in memory, and gets all when it reads."""
    count = 40 if harness.under == "valgrind" else 300
    with store() as server:
        port = server.port()
        redis_cli(port, "-x", "set", "big", given=BIG)
        with connect(port) as client:
            client.sendall(command(b"GET", b"big") * count + command(b"PING"))
            harness.wait_until(lambda: queued(client) > 0, "a reply")
            for _ in range(10):
                equal(redis_cli(port, "ping"), b"PONG\n")
            if harness.under == "native":
                with open(f"/proc/{server.pid}/status") as status:
                    peak = next(line for line in status if line.startswith("VmHWM:"))
                assert int(peak.split()[1]) < 32 << 10, peak
            with client.makefile("rb") as reader:
                for _ in range(count):
                    assert reader.read(len(bulk(BIG))) == bulk(BIG)
                equal(reader.readline(), b"+PONG\r\n")
        server.stop()


def queued(sock):
    return len(sock.recv(1, harness.socket.MSG_PEEK))


def stop_with_unread_replies():
    """The stop answers the requests that wait."""
    with store() as server:
        port = server.port()
        redis_cli(port, "-x", "set", "big", given=BIG)
        with connect(port) as client:
            client.sendall(command(b"GET", b"big") * 20)
            harness.wait_until(lambda: queued(client) > 0, "a reply")
            server.process.terminate()
            assert harness.read_to_end(client) == bulk(BIG) * 20
        server.finish()


def memory():
    """Data and unfinished requests share what there is; what goes gives it back."""
    with store("-m", "4") as server:
        port = server.port()

        def ask(*args):
            with connect(port) as client, client.makefile("rb") as reader:
                client.sendall(command(*args))
                return reader.readline()

        for _ in range(3):
            keys = []
            while (said := ask(b"SET", b"k%d" % len(keys), BIG[:250_000])) == b"+OK\r\n":
                keys.append(b"k%d" % len(keys))
            equal(said, b"-ERR no memory\r\n")
            assert len(keys) > 8, keys
            equal(ask(b"DEL", *keys), b":%d\r\n" % len(keys))
        others = [connect(port) for _ in range(10)]
        for other in others:
            other.sendall(b"*2\r\n$4\r\nECHO\r\n$1000000\r\n" + BIG[:-1])
        assert one_refused(others), "ten megabytes of requests in four"
        for other in others:
            other.close()
        harness.wait_until(lambda: ask(b"SET", b"k", BIG[:500_000]) == b"+OK\r\n", "memory")
        server.stop()


def one_refused(socks):
    """Whether the server says so to one; others wait for the rest of their request."""
    readable, _, _ = select.select(socks, [], [], harness.patience)
    return any(b"no memory" in sock.recv(100) for sock in readable)


def bad_arguments():
    for arguments in ["-x"], ["-m"], ["1", "2"]:
        with Program([harness.c_program("examples-c", "store"), *arguments]) as server:
            server.finish(expected=2)
            contains(server.stderr(), "usage")


CHECKS = [
    ("store: redis-cli", by_redis_cli),
    ("store: redis-benchmark", by_redis_benchmark),
    ("store: in pieces", in_pieces),
    ("store: no trust", no_trust),
    ("store: unread replies", unread_replies),
    ("store: stop", stop_with_unread_replies),
    ("store: memory", memory),
    ("store: bad arguments", bad_arguments),
]
