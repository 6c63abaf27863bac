#!/usr/bin/env python3
"""examples-c/cluster behind HAProxy, with Redis: three processes are replaced, one is killed, Redis
is restarted. 200 clients have requests in flight all the time; 50 of them are subscribers too."""

import asyncio
import os
import pathlib
import re
import resource
import signal
import socket
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import harness

EXAMPLE = harness.ROOT / "examples-c" / "cluster"
HOSTS = ["127.0.0.11", "127.0.0.12", "127.0.0.13"]  # as in haproxy.cfg
NAMES = ["one", "two", "three"]
CLIENTS, SUBSCRIBERS, TOPICS, ROUNDS = 200, 50, 10, 3
LAST = "the last message"


# -- programs ---------------------------------------------------------------------------------


class Redis:
    def __init__(self, folder, port):
        self.argv = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--dir", folder]
        self.argv += ["--save", "", "--appendonly", "yes", "--appendfsync", "always"]
        self.port, self.program = port, None

    def start(self):
        self.program = harness.Program(self.argv)
        self.program.expect("Ready to accept connections")

    def restart(self):
        self.program.stop()
        self.program.__exit__()
        self.start()

    def entries(self):
        """All of the stream as [(id, topic, text)]."""
        with harness.connect(self.port) as sock, sock.makefile("rb") as answers:
            sock.sendall(b"XRANGE chat - +\r\n")

            def read():
                line = answers.readline().decode().rstrip()
                if line[0] == "$":
                    return answers.read(int(line[1:]) + 2)[:-2].decode()
                assert line[0] == "*", line
                return [read() for _ in range(int(line[1:]))]

            return [(number, fields[1], fields[3]) for number, fields in read()]


class Cluster:
    """Three processes, HAProxy before them, Redis behind them."""

    def __init__(self, folder):
        self.folder = folder
        self.port, self.agent_port, redis_port, entry = (harness.free_port() for _ in range(4))
        self.redis = Redis(folder, redis_port)
        self.address = ("127.0.0.1", entry)
        self.stats = f"{folder}/stats.sock"
        self.processes, self.ended, self.haproxy = {}, [], None

    def __enter__(self):
        try:
            self.begin()
        except BaseException:
            self.__exit__()
            raise
        return self

    def begin(self):
        self.redis.start()
        for name in NAMES:
            self.start(name)
        self.haproxy = harness.Program(
            ["haproxy", "-db", "-f", str(EXAMPLE / "haproxy.cfg")],
            env=os.environ
            | {
                "CHAT_ADDRESS": "%s:%d" % self.address,
                "CHAT_PORT": str(self.port),
                "CHAT_AGENT_PORT": str(self.agent_port),
                "CHAT_STATS": self.stats,
            },
        )
        harness.wait_until(pathlib.Path(self.stats).exists, "HAProxy runs")
        for name in NAMES:
            self.wait_until_ready(name)

    def __exit__(self, *_):
        """Whatever happened, what was started ends."""
        for program in [self.haproxy, *self.processes.values(), self.redis.program]:
            if program is not None:
                program.__exit__()

    def start(self, name):
        host = HOSTS[NAMES.index(name)]
        argv = [harness.c_program("examples-c/cluster", "chat")]
        argv += [f"{host}:{self.port}", f"{host}:{self.agent_port}"]
        argv += ["127.0.0.1", "127.0.0.1", str(self.redis.port)]
        self.processes[name] = harness.Program(argv)
        self.processes[name].expect("listening on")

    def states(self, field="status"):
        """{server: what HAProxy says of it}"""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(harness.patience)
            sock.connect(self.stats)
            sock.sendall(b"show stat\n")
            text = harness.read_to_end(sock).decode()
        names, *rows = (line.lstrip("# ").split(",") for line in text.strip().splitlines())
        rows = [dict(zip(names, row)) for row in rows]
        return {row["svname"]: row[field] for row in rows if row["pxname"] == "chat"}

    def wait_until_ready(self, name):
        harness.wait_until(lambda: self.states()[name] == "UP", f"{name} is up")

    def replace(self, name):
        """What an operator does: SIGTERM, the end, the new one, and wait until it is in use."""
        old = self.processes[name]
        old.stop()
        self.ended.append(old)
        harness.equal(old.stderr(), "")
        self.start(name)
        self.wait_until_ready(name)

    def kill(self, name):
        old = self.processes[name]
        old.process.send_signal(signal.SIGKILL)
        old.finish(-signal.SIGKILL)
        self.ended.append(old)


# -- clients ----------------------------------------------------------------------------------


class Tally:
    def __init__(self):
        self.times, self.answered, self.failures, self.addresses = [], {}, [], set()
        self.byes = self.errors = self.lost = 0
        self.is_over = False
        self.may_break = False  # while a process is killed and Redis restarts


class Client:
    """Has a request in flight all the time, on one connection after the other."""

    def __init__(self, cluster, tally, number):
        self.cluster, self.tally, self.number = cluster, tally, number
        self.topic = f"topic{number % TOPICS}"
        self.last, self.seen = "0", []
        self.count = 0
        self.host = f"127.0.1.{1 + number}"
        self.started = None  # when its request left, while there is no answer
        self.has_all = number >= SUBSCRIBERS  # a subscriber: it has seen the last message

    async def run(self):
        while not (self.tally.is_over and self.has_all):
            try:
                reader, writer = await asyncio.open_connection(
                    *self.cluster.address, local_addr=(self.host, 0), limit=1 << 20
                )
            except OSError as e:
                self.tally.failures.append(f"{self.number}: connect: {e}")
                return
            self.tally.addresses.add("%s:%d" % writer.get_extra_info("sockname")[:2])
            try:
                await self.talk(reader, writer)
            except OSError as e:
                self.broken(f"{e!r}")
                self.started = None
            finally:
                writer.close()

    def broken(self, how):
        """The connection ended with a request in flight."""
        self.tally.lost += 1
        if not self.tally.may_break:
            self.tally.failures.append(f"{self.number}: {how}")

    def request(self):
        self.count += 1
        if self.count % 10 == 0:
            self.text = f"{self.number}.{self.count}"
            return f"PUB {self.topic} {self.text}\n"
        self.text = None
        return f"PING {self.number}.{self.count}\n"

    def ask(self, writer):
        writer.write(self.request().encode())
        self.started = time.monotonic()

    async def talk(self, reader, writer):
        if self.number < SUBSCRIBERS:
            writer.write(f"SUB {self.topic} {self.last}\n".encode())
        self.ask(writer)
        shall_leave = has_left = False
        while (line := await reader.readline()).endswith(b"\n"):
            word, _, rest = line.decode().rstrip("\n").partition(" ")
            if word == "MSG":
                self.take(rest)
            elif word == "BYE":
                self.tally.byes += 1
                shall_leave = True
            elif self.started is None:
                self.tally.failures.append(f"{self.number}: {line!r} answers nothing")
            else:
                self.tally.times.append(time.monotonic() - self.started)
                self.started = None
                self.answer(word, rest)
            if self.started is not None or has_left:
                continue
            if shall_leave or (self.tally.is_over and self.has_all):
                writer.write_eof()  # what is due still comes, then the end
                has_left = True
            elif not self.tally.is_over:
                self.ask(writer)
        if self.started is not None or not has_left:
            self.broken(f"the end behind {line!r}")
        self.started = None

    def answer(self, word, rest):
        if word == "OK" and self.text:
            self.tally.answered[rest] = (self.topic, self.text)
        elif word == "ERR" and self.text and self.tally.may_break:
            self.tally.errors += 1
        elif word != "PONG" or self.text or rest != f"{self.number}.{self.count}":
            self.tally.failures.append(f"{self.number}: {word} {rest}, request {self.count}")

    def take(self, rest):
        number, topic, text = rest.split(" ", 2)
        if topic != self.topic:
            self.tally.failures.append(f"{self.number}: of {topic}")
        self.seen.append((number, text))
        self.last = number
        self.has_all |= text == LAST


# -- the check --------------------------------------------------------------------------------


def p99(times):
    return sorted(times)[len(times) * 99 // 100] if times else 0


async def wait_for(condition, what, seconds=harness.patience):
    """For a state that nothing announces, such as one of another process."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}")
        await asyncio.sleep(0.02)


async def phase(tally, clients, title, work):
    """Runs what blocks beside the clients, and prints what they saw meanwhile."""
    before, byes, lost, errors = len(tally.times), tally.byes, tally.lost, tally.errors
    started = time.monotonic()
    await asyncio.to_thread(work)
    times = tally.times[before:]
    print(
        f"     {title}: {time.monotonic() - started:.1f} s, {len(times)} requests,"
        f" p99 {1000 * p99(times):.0f} ms, worst {1000 * max(times, default=0):.0f} ms,"
        f" {tally.byes - byes} BYE, {tally.lost - lost} broken off, {tally.errors - errors} ERR",
        flush=True,
    )
    await wait_for(
        lambda: all(client.started is None or client.started > started for client in clients),
        "each request has its answer",
    )
    if tally.failures:
        raise AssertionError(f"{len(tally.failures)} failures: {tally.failures[:5]}")


async def published_again(tally):
    """A publication that begins now gets its OK."""
    count = len(tally.answered)
    await wait_for(lambda: len(tally.answered) > count + CLIENTS, "messages are published")


async def publish_last(cluster):
    reader, writer = await asyncio.open_connection(*cluster.address)
    for number in range(TOPICS):
        writer.write(f"PUB topic{number} {LAST}\n".encode())
    writer.write_eof()
    answers = (await reader.read()).decode()
    harness.equal(re.sub(r"\S+\n", "", answers), "OK " * TOPICS)
    writer.close()


async def check(cluster):
    tally = Tally()
    clients = [Client(cluster, tally, number) for number in range(CLIENTS)]
    tasks = [asyncio.create_task(client.run()) for client in clients]
    try:
        await published_again(tally)
        for number in range(ROUNDS):

            def round_of_restarts():
                for name in NAMES:
                    cluster.replace(name)

            await phase(tally, clients, f"rolling restart {number + 1}", round_of_restarts)
        assert tally.byes >= CLIENTS * ROUNDS * 2 // 3, tally.byes
        slow = p99(tally.times)
        assert slow < 1, f"p99 of {slow} s"
        harness.equal((tally.lost, tally.errors), (0, 0))

        tally.may_break = True
        its_clients = int(cluster.states("scur")["two"])
        # Two seconds of requests without that process are what is measured.
        await phase(tally, clients, "kill -9 of one", lambda: (cluster.kill("two"), time.sleep(2)))
        await published_again(tally)
        assert 0 < tally.lost <= its_clients, (tally.lost, its_clients)
        lost = tally.lost
        await phase(tally, clients, "its return", lambda: (cluster.start("two"), cluster.wait_until_ready("two")))
        harness.equal(tally.errors, 0)
        await phase(tally, clients, "restart of Redis", cluster.redis.restart)
        started = time.monotonic()
        await published_again(tally)
        took = time.monotonic() - started
        print(f"     service {took:.2f} s behind the start of Redis", flush=True)
        assert took < 2, took
        harness.equal(tally.lost, lost)
        for name in NAMES:
            harness.equal((name, cluster.processes[name].process.poll()), (name, None))
        tally.is_over = True
        await wait_for(lambda: all(client.started is None for client in clients), "all answers")
        await publish_last(cluster)
        await asyncio.wait_for(asyncio.gather(*tasks), 3 * harness.patience)
    finally:
        for task in tasks:
            task.cancel()
    harness.equal(tally.failures, [])
    return tally, clients


def messages(cluster, tally, clients):
    """What was answered is in the stream, and each subscriber saw all of it, once and in order."""
    entries = cluster.redis.entries()
    stream = {number: (topic, text) for number, topic, text in entries}
    missing = [number for number in tally.answered if stream.get(number) != tally.answered[number]]
    harness.equal(missing, [])
    for client in clients[:SUBSCRIBERS]:
        expected = [(number, text) for number, topic, text in entries if topic == client.topic]
        if client.seen != expected:
            pairs = enumerate(zip(client.seen, expected))
            at = next((i for i, (seen, due) in pairs if seen != due), None)
            raise AssertionError(f"{client.number}: {len(client.seen)}, not {len(expected)}; at {at}")
    print(f"     {len(tally.answered)} OK, {len(entries)} in the stream", flush=True)


def addresses(cluster, tally):
    """Each connection was served once, under the client's own address, whichever process it was."""
    outputs = [program.output for program in cluster.ended]
    for program in cluster.processes.values():
        if program not in cluster.ended:
            outputs.append(program.stop() or program.output)
    logged = [re.findall(r"^client (127\.0\.1\.\S+)", output, re.M) for output in outputs]
    # None may have come to the one that took the place of the one that was killed.
    assert logged.count([]) <= 1, [len(each) for each in logged]
    known = [address for each in logged for address in each]
    harness.equal(len(known), len(set(known)))
    harness.equal(sorted(set(known) - tally.addresses), [])
    # One that reached no process is one that was broken off.
    assert len(tally.addresses - set(known)) <= tally.lost
    print(f"     {len(known)} connections", flush=True)


def whole():
    with tempfile.TemporaryDirectory(prefix="cluster-") as folder, Cluster(folder) as cluster:
        tally, clients = asyncio.run(check(cluster))
        messages(cluster, tally, clients)
        addresses(cluster, tally)
        for program in [*cluster.processes.values(), *cluster.ended]:
            harness.equal(program.stderr(), "")


if __name__ == "__main__":
    arguments = harness.parse_arguments()
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limit[0], min(limit[1], 4096)), limit[1]))
    harness.main("cluster", [("replaced, killed, and Redis restarted", whole)], arguments.only)
