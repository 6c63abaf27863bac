"""Checks of the broker example with the clients of MQTT."""

import signal
import subprocess
import time

import harness
from harness import Program, connect, contains, equal

CONNECT, PUBLISH, PUBACK, SUBSCRIBE, UNSUBSCRIBE = 0x10, 0x30, 0x40, 0x82, 0xA2
PINGREQ, DISCONNECT = b"\xc0\0", b"\xe0\0"


def broker():
    return Program([harness.c_program("examples-c", "broker"), "127.0.0.1:0"])


# -- the clients of mosquitto -----------------------------------------------------------------


class Subscriber(Program):
    """mosquitto_sub; it is subscribed when this returns."""

    def __init__(self, port, *args):
        argv = ["mosquitto_sub", "-V", "mqttv311", "-p", str(port), "-d", *args]
        super().__init__(["stdbuf", "-oL", *argv], valgrind=False)
        self.expect(r"^Subscribed \(mid: \d+\): ")

    def messages(self, count):
        """The next ones; lines about packets are left out."""
        return [self.expect(r"^(?!Client |Subscribed)(.*)$")[1] for _ in range(count)]


def mosquitto_pub(port, *args, given=b""):
    argv = ["mosquitto_pub", "-V", "mqttv311", "-p", str(port), *args]
    subprocess.run(argv, input=given, check=True, timeout=harness.patience)


def by_mosquitto():
    """Messages of both qualities reach those whose filters match, in their order."""
    with broker() as server:
        port = server.port()
        filters = {"a/b": "a/b", "a/+": "a/+", "#": "#", "+/b/#": "+/b/#", "c": "c"}
        subscribers = {name: Subscriber(port, "-q", "1", "-t", text, "-F", "%t %q %p")
                       for name, text in filters.items()}  # fmt: skip
        low = Subscriber(port, "-q", "0", "-t", "a/b", "-F", "%t %q %p")
        for quality in "0", "1":
            mosquitto_pub(port, "-q", quality, "-t", "a/b", "-m", "hello")
        mosquitto_pub(port, "-q", "1", "-t", "$a/b", "-m", "hidden")
        several = b"".join(b"line %d\n" % i for i in range(200))
        mosquitto_pub(port, "-q", "1", "-t", "a", "-l", given=several)
        mosquitto_pub(port, "-q", "1", "-t", "c", "-m", "last")
        both = ["a/b 0 hello", "a/b 1 hello"]
        for name in "a/b", "a/+":
            equal(subscribers[name].messages(2), both)
        equal(subscribers["+/b/#"].messages(2), both)
        equal(low.messages(2), ["a/b 0 hello"] * 2)
        expected = both + [f"a 1 line {i}" for i in range(200)] + ["c 1 last"]
        equal(subscribers["#"].messages(203), expected)
        equal(subscribers["c"].messages(1), ["c 1 last"])
        for program in [*subscribers.values(), low]:
            program.__exit__()
        server.stop()


def large_messages():
    with broker() as server:
        port = server.port()
        text = "x" * 60_000
        for quality in "0", "1":
            with Subscriber(port, "-q", quality, "-t", "t") as subscriber:
                mosquitto_pub(port, "-q", quality, "-t", "t", "-m", text)
                assert subscriber.messages(1) == [text]
        server.stop()


def wills():
    """A will is published when a client is killed, not when it disconnects."""
    with broker() as server:
        port = server.port()
        with Subscriber(port, "-q", "1", "-t", "will/#", "-F", "%t %q %p") as watcher:
            for number, name in (signal.SIGTERM, "leaves"), (signal.SIGKILL, "dies"):
                will = ["--will-topic", f"will/{name}", "--will-payload", "gone", "--will-qos", "1"]
                with Subscriber(port, "-t", "x", *will) as client:
                    client.process.send_signal(number)
                    client.process.wait(harness.patience)
            equal(watcher.messages(1), ["will/dies 1 gone"])
            # Another one with the same name takes its place.
            will = ["--will-topic", "will/a", "--will-payload", "replaced"]
            with Subscriber(port, "-t", "x", "-i", "a", *will):
                with connect(port) as second:
                    second.sendall(hello(b"a"))
                    equal(second.recv(4), b"\x20\2\0\0")
                    equal(watcher.messages(1), ["will/a 0 replaced"])
        server.stop()


# -- packets ----------------------------------------------------------------------------------


def text(value):
    return len(value).to_bytes(2, "big") + value


def packet(first, *parts):
    body, length = b"".join(parts), b""
    left = len(body)
    while True:
        length += bytes([left % 128 | (128 if left > 127 else 0)])
        left //= 128
        if left == 0:
            return bytes([first]) + length + body


def hello(name=b"", flags=2, keep_alive=0, *rest, protocol=b"MQTT", level=4):
    head = text(protocol) + bytes([level, flags]) + keep_alive.to_bytes(2, "big")
    return packet(CONNECT, head, text(name), *rest)


def message(topic, payload, number=None, flags=0):
    if number is None:
        return packet(PUBLISH | flags, text(topic), payload)
    return packet(PUBLISH | 2 | flags, text(topic), number.to_bytes(2, "big"), payload)


def subscribe(number, *filters, quality=1):
    parts = [text(one) + bytes([quality]) for one in filters]
    return packet(SUBSCRIBE, number.to_bytes(2, "big"), *parts)


CONNECTED = b"\x20\2\0\0"
NUMBER = b"\0\1"


def conversation():
    """The answers byte by byte, wherever the pieces of the packets end."""
    asked = (
        hello(b"\xc3\xa4", 2 | 0xC0, 10, text(b"user"), text(b"\xff\0"))
        + subscribe(1, b"a/+", b"b", b"\xf0\x9f\x90\x9f", quality=2)
        + message(b"a/x", b"one")
        + message(b"a/x", b"two" * 100, 7)
        + packet(PUBACK, NUMBER)
        + packet(UNSUBSCRIBE, b"\0\2", text(b"a/+"), text(b"none"))
        + message(b"a/x", b"nobody hears this", 9)
        + PINGREQ
        + DISCONNECT
    )
    expected = (
        CONNECTED
        + packet(0x90, b"\0\1\1\1\1")
        + message(b"a/x", b"one")
        + message(b"a/x", b"two" * 100, 1)
        + packet(PUBACK, b"\0\7")
        + packet(0xB0, b"\0\2")
        + packet(PUBACK, b"\0\x09")
        + b"\xd0\0"
    )
    with broker() as server:
        port = server.port()
        for size in 1, 2, 5, 100, len(asked):
            with connect(port) as client:
                for start in range(0, len(asked), size):
                    client.sendall(asked[start : start + size])
                equal(harness.read_to_end(client), expected)
        server.stop()


def no_trust():
    """What breaks the standard ends the connection, after the answers to what was whole."""
    will = 2 | 4
    first = {  # instead of CONNECT
        b"\xc0\0": b"",
        message(b"a", b""): b"",
        DISCONNECT: b"",
        b"\x10\xff\xff\xff\xff\x7f": b"",
        b"\x10\xff\xff\xff\x7f": b"",
        packet(0x11, hello()[2:]): b"",
        hello(flags=3): b"",
        hello(flags=2 | 8): b"",
        hello(flags=2 | 0x20): b"",
        hello(b"", will | 0x18, 0, text(b"t"), text(b"m")): b"",
        hello(b"", will, 0, text(b"t/#"), text(b"m")): b"",
        hello(b"", will, 0, text(b""), text(b"m")): b"",
        hello(b"", will, 0, text(b"t")): b"",
        hello(b"", 2 | 0x40, 0, text(b"password")): b"",
        hello(b"", 2 | 0x80): b"",
        hello(b"", 2, 0, b"more"): b"",
        hello(b"\xff"): b"",
        hello(b"a\0b"): b"",
        hello(b"\xc0\x80"): b"",
        hello(b"\xed\xa0\x80"): b"",
        hello(b"\xf4\x90\x80\x80"): b"",
        hello(b"\xe2\x82"): b"",
        hello(protocol=b"MQIsdp", level=3): b"",
        hello(level=5): b"\x20\2\0\1",
        hello(flags=0): b"\x20\2\0\2",
        b"GET / HTTP/1.1\r\n\r\n": b"",
    }
    later = [
        hello(),
        b"\0\0",
        b"\xf0\0",
        b"\x20\2\0\0",
        b"\xc1\0",
        b"\xc0\1x",
        b"\xe0\1x",
        b"\x30\xff\xff\xff\xff",
        b"\x30\xff\xff\xff\xff\x00",
        b"\x30\x80\x80\x80\x7f",
        b"\x30\0",
        b"\x30\1\0",
        b"\x30\3\0\5a",
        message(b"", b"x"),
        message(b"a/#", b"x"),
        message(b"+", b"x"),
        message(b"a\0", b"x"),
        message(b"a", b"x", 0),
        message(b"a", b"x", flags=8),
        message(b"a", b"x", flags=4),
        message(b"a", b"x", flags=6),
        packet(PUBLISH | 2, text(b"a"), b"\0"),
        packet(PUBACK, NUMBER),
        packet(PUBACK, b"\0"),
        packet(0x50, NUMBER),
        packet(0x62, NUMBER),
        subscribe(0, b"a"),
        subscribe(1),
        subscribe(1, b""),
        subscribe(1, b"a#"),
        subscribe(1, b"#/a"),
        subscribe(1, b"a+/b"),
        subscribe(1, b"a/+b"),
        subscribe(1, b"a", quality=3),
        subscribe(1, *[b"a"] * 65),
        packet(0x80, NUMBER, text(b"a"), b"\1"),
        packet(SUBSCRIBE, NUMBER, text(b"a")),
        packet(SUBSCRIBE, NUMBER, b"\0\5a\1"),
        packet(UNSUBSCRIBE, NUMBER),
        packet(UNSUBSCRIBE, b"\0\0", text(b"a")),
        packet(0xA0, NUMBER, text(b"a")),
    ]
    with broker() as server:
        port = server.port()
        cases = [*first.items(), *((hello(b"name") + bad, CONNECTED) for bad in later)]
        for asked, expected in cases:
            with connect(port) as client:
                client.sendall(asked + PINGREQ)
                answer = harness.read_to_end(client)
            assert answer == expected, (asked, answer)
        server.stop()


def bounds():
    """Too many subscriptions fail; a subscriber that does not acknowledge is disconnected, another
    one gets what it reads."""
    with broker() as server:
        port = server.port()
        with connect(port) as client, client.makefile("rb") as reader:
            client.sendall(hello() + subscribe(1, *[b"%d" % i for i in range(64)]))
            equal(reader.read(4 + 4 + 64), CONNECTED + packet(0x90, NUMBER, b"\1" * 64))
            client.sendall(subscribe(2, b"0", b"64"))
            equal(reader.read(6), packet(0x90, b"\0\2", b"\1\x80"))
        with connect(port) as silent, connect(port) as publisher:
            silent.sendall(hello() + subscribe(1, b"t"))
            equal(silent.makefile("rb").read(9), CONNECTED + packet(0x90, NUMBER, b"\1"))
            publisher.sendall(hello() + message(b"t", b"m", 1) * 1001)
            got = harness.read_to_end(silent)
            assert 1000 <= len(got) // len(message(b"t", b"m", 1)) <= 1001, len(got)
            reader = publisher.makefile("rb")
            equal(reader.read(4 + 4 * 1001), CONNECTED + packet(PUBACK, NUMBER) * 1001)
            publisher.sendall(PINGREQ)
            equal(reader.read(2), b"\xd0\0")
        server.stop()


def deadlines():
    """Without CONNECT it ends in 5 s, without a packet in one and a half times the keep-alive."""
    with broker() as server:
        port = server.port()
        begun = time.monotonic()
        with connect(port) as silent, connect(port) as slow, connect(port) as quiet:
            slow.sendall(hello()[:-1])
            quiet.sendall(hello(keep_alive=1))
            equal(quiet.recv(4), CONNECTED)
            with Subscriber(port, "-t", "x", "-k", "5"):
                for client, least in (quiet, 1.5), (silent, 5.0), (slow, 5.0):
                    client.settimeout(harness.patience + 5)
                    equal(client.recv(1), b"")
                    assert time.monotonic() - begun >= least - 0.05, least
        server.stop()


def crowd():
    """A thousand subscribers get each message, of both qualities."""
    members = 50 if harness.under == "valgrind" else 1000
    one, two = message(b"news/today", b"x" * 64), message(b"news/today", b"x" * 64, 1)
    with broker() as server:
        port = server.port()
        joined = CONNECTED + packet(0x90, NUMBER, b"\1")
        clients = [connect(port) for _ in range(members)]
        for client in clients:
            client.sendall(hello(b"%d" % client.fileno()) + subscribe(1, b"news/#"))
        for client in clients:
            equal(receive(client, len(joined)), joined)
        with connect(port) as publisher:
            publisher.sendall(hello() + one + two + one)
            equal(receive(publisher, 4 + 4), CONNECTED + packet(PUBACK, NUMBER))
            for client in clients:
                equal(receive(client, len(one + two + one)), one + two + one)
        mosquitto_pub(port, "-q", "1", "-t", "news/today", "-m", "x" * 64)
        for client in clients:
            equal(receive(client, len(two)), two.replace(text(b"news/today") + NUMBER,
                  text(b"news/today") + b"\0\2"))  # fmt: skip
            client.close()
        server.stop()


def receive(sock, count):
    data = b""
    while len(data) < count and (part := sock.recv(count - len(data))):
        data += part
    return data


def bad_arguments():
    for arguments in ["-x"], ["1", "2"]:
        with Program([harness.c_program("examples-c", "broker"), *arguments]) as server:
            server.finish(expected=2)
            contains(server.stderr(), "usage")


CHECKS = [
    ("broker: mosquitto", by_mosquitto),
    ("broker: large messages", large_messages),
    ("broker: wills", wills),
    ("broker: conversation", conversation),
    ("broker: no trust", no_trust),
    ("broker: bounds", bounds),
    ("broker: deadlines", deadlines),
    ("broker: crowd", crowd),
    ("broker: bad arguments", bad_arguments),
]
