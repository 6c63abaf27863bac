#!/usr/bin/env python3
"""N17: One connection's handler publishes by broadcast to 10,000 others under the mutex that
on_close takes too, while members leave and others talk: no deadlock, no message lost."""

import random
import selectors
import threading
import time

from common import Server, Verdict, arguments, connect, percentile, reset

(MEMBERS,) = arguments(10_000)
LEAVERS = MEMBERS // 20
MESSAGES = 20  # in each hold of the mutex
BURSTS = 5
PUBLISHERS = 2  # on different loops
DEADLINE = 120.0


def join(port):
    sock = connect(port)
    sock.sendall(b"JOIN\n")
    assert sock.recv(7) == b"JOINED\n"
    return sock


class Reader(threading.Thread):
    """Reads what the members get until each has all of it."""

    def __init__(self, members, expected):
        super().__init__(daemon=True)
        self.expected = expected
        self.got = {sock: bytearray() for sock in members}
        self.selector = selectors.DefaultSelector()
        for sock in members:
            sock.setblocking(False)
            self.selector.register(sock, selectors.EVENT_READ)

    def run(self):
        end = time.monotonic() + DEADLINE
        left = len(self.got)
        while left and time.monotonic() < end:
            for key, _ in self.selector.select(1):
                data = key.fileobj.recv(1 << 16)
                got = self.got[key.fileobj]
                got += data
                if not data or len(got) == self.expected:
                    self.selector.unregister(key.fileobj)
                    left -= 1


def burst(port, accepted, failures):
    """One publisher: each burst is one handler call that broadcasts MESSAGES times."""
    with connect(port) as sock:
        sock.settimeout(DEADLINE)
        for _ in range(BURSTS):
            sock.sendall(b"PUB %d\n" % MESSAGES)
            answer = sock.recv(64)
            if not answer.startswith(b"ACCEPTED "):
                failures.append(answer)
                return
            accepted.append(int(answer.split()[1]))


class Talker(threading.Thread):
    """Another connection of those loops, which is to be served meanwhile."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.sock = connect(port)
        self.times = []
        self.done = False

    def run(self):
        while not self.done:
            sent = time.monotonic()
            self.sock.sendall(b"PING\n")
            assert self.sock.recv(16) == b"PING\n"
            self.times.append(1000 * (time.monotonic() - sent))


def messages_of(got):
    """How many there are of each number. Each publisher sends them in order."""
    numbers = [int(got[i : i + 64]) for i in range(0, len(got), 64)]
    return {number: numbers.count(number) for number in set(numbers)}


verdict = Verdict("publish")
with Server("publish", "-n", "-t", "2") as server:
    members = [join(server.port) for _ in range(MEMBERS)]
    leavers = [join(server.port) for _ in range(LEAVERS)]
    talkers = [Talker(server.port) for _ in range(2)]
    everything = PUBLISHERS * BURSTS * MESSAGES
    reader = Reader(members, everything * 64)
    accepted, failures = [], []
    publishers = [
        threading.Thread(target=burst, args=(server.port, accepted, failures), daemon=True)
        for _ in range(PUBLISHERS)
    ]
    started = time.monotonic()
    for thread in [reader, *talkers, *publishers]:
        thread.start()
    dice = random.Random(1)
    for sock in leavers:  # each takes the mutex in on_close
        reset(sock) if dice.random() < 0.5 else sock.close()
        time.sleep(0.002)  # spreads them over the bursts
    for thread in publishers:
        thread.join(DEADLINE)
    verdict.equal("publishers stuck", sum(thread.is_alive() for thread in publishers), 0)
    verdict.equal("publishers refused", failures, [])
    reader.join(DEADLINE)
    seconds = time.monotonic() - started
    for talker in talkers:
        talker.done = True
        talker.join(DEADLINE)

    complete = {number: PUBLISHERS * BURSTS for number in range(MESSAGES)}
    lost = sum(messages_of(got) != complete for got in reader.got.values())
    verdict.equal("members that lost a message", lost, 0)
    verdict.check(
        "accepted by broadcast", sum(accepted) >= MEMBERS * everything, f"{sum(accepted)} messages"
    )
    print(f"{MEMBERS * everything} messages in {seconds:.1f} s")
    times = [ms for talker in talkers for ms in talker.times]
    verdict.check("others served meanwhile", len(times) > 20, f"{len(times)} times")
    print(f"their answers: median {percentile(times, 0.5):.2f} ms")
    # Generous: the bound is for one that is forgotten, not for a busy machine.
    verdict.at_most("the longest wait for one", max(times), 15000, " ms")
    stopped = server.ask("stop")
    verdict.equal("status of the stop", stopped["status"], 0)
    server.end()
verdict.close()
