"""Conversations that no sound client has, by tlslite-ng: messages that are missing, repeated, out of
order, changed or too long, in both versions. Each ends in the alert of the RFC and in the end of the
connection; the server serves on, and its numbers add up (`serving`)."""

import contextlib
import struct
import subprocess
import sys

import harness
from common import connect, equal, serving, works

TLSLITE = "tlslite-ng==0.8.2"
FOLDER = harness.TARGET / "tlslite"


def install():
    """Puts tlslite-ng into a folder of its own, where it is missing."""
    if not (FOLDER / "ready").exists():
        python = FOLDER / "bin" / "python"
        if subprocess.run([sys.executable, "-c", "import ensurepip"], capture_output=True).returncode:
            deps = harness.ROOT / "scripts" / "deps"
            subprocess.run([deps, "ensurepip", "python3-venv"], check=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", FOLDER], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", TLSLITE], check=True)
        (FOLDER / "ready").touch()
    sys.path[:0] = map(str, FOLDER.glob("lib/python*/site-packages"))


install()
from tlslite.api import TLSConnection  # noqa: E402
from tlslite.constants import (  # noqa: E402
    AlertDescription as Says, AlertLevel, ContentType, HandshakeType,
)
from tlslite.errors import BaseTLSException, TLSRemoteAlert  # noqa: E402
from tlslite.handshakesettings import HandshakeSettings  # noqa: E402
from tlslite.messages import (  # noqa: E402
    Alert, ApplicationData, ChangeCipherSpec, ClientHello, Finished, Message,
)

VERSIONS = {"1.2": (3, 3), "1.3": (3, 4)}
ENDED = "the end without an alert"
DONE = "a handshake"


class Wire:
    """A socket whose next bytes are changed, once."""

    def __init__(self, sock):
        self.sock, self.damage = sock, None

    def __getattr__(self, name):
        return getattr(self.sock, name)

    def sendall(self, data):
        damage, self.damage = self.damage, None
        self.sock.sendall(damage(bytes(data)) if damage else data)

    def send(self, data):
        self.sendall(data)
        return len(data)


class Odd(TLSConnection):
    """A client that sends what `change(client, message)` makes of each of its messages."""

    def __init__(self, sock, change):
        self.wire = Wire(sock)
        super().__init__(self.wire)
        self.change = change

    def _sendMsg(self, msg, *args, **kwargs):
        # The transcript has what a sound client says, so that the server's answers can be read.
        told = False
        for one in self.change(self, msg):
            is_own = one is msg and not told
            told = told or is_own
            yield from super()._sendMsg(one, update_hashes=is_own)


def kind(message):
    return getattr(message, "handshakeType", None) if (
        message.contentType == ContentType.handshake) else None


def unchanged(_, message):
    return [message]


def instead(of, make):
    """A change of the messages of one kind: `make` gives a list."""

    def change(client, message):
        return make(client, message) if kind(message) == of else [message]

    return change


def twice(_, message):
    return [message, message]


def hello_with(alter):
    def make(_, hello):
        alter(hello)
        return [hello]

    return instead(HandshakeType.client_hello, make)


def wrong_finished(_, finished):
    finished.verify_data[0] ^= 1
    return [finished]


def alert(level, description):
    return Alert().create(description, level)


def ccs(value=1):
    return Message(ContentType.change_cipher_spec, bytearray([value]))


def raw(content, data):
    return Message(content, bytearray(data))


def drop_extension(number):
    def alter(hello):
        hello.extensions = [one for one in hello.extensions if one.extType != number]

    return alter


def double_extension(hello):
    hello.extensions.append(hello.extensions[0])


def no_null_compression(hello):
    hello.compression_methods = [1]


def only_unknown_suites(hello):
    hello.cipher_suites = [0x1A1A, 0x0005]


# Titles, versions, changes of the handshake, and what it must end in. Where the RFCs leave a choice
# there are several.
CONVERSATIONS = [
    ("a sound one", "1.2 1.3", unchanged, [DONE]),
    ("Finished changed", "1.2 1.3", instead(HandshakeType.finished, wrong_finished),
     [Says.decrypt_error]),
    ("Finished left out, data sent", "1.2 1.3",
     instead(HandshakeType.finished, lambda *_: [ApplicationData().create(bytearray(b"early\n"))]),
     [Says.unexpected_message]),
    ("Finished twice", "1.2", instead(HandshakeType.finished, twice),
     [Says.unexpected_message, DONE]),
    ("ClientKeyExchange left out", "1.2",
     instead(HandshakeType.client_key_exchange, lambda *_: []), [Says.unexpected_message]),
    ("ClientKeyExchange twice", "1.2", instead(HandshakeType.client_key_exchange, twice),
     [Says.unexpected_message]),
    ("ChangeCipherSpec before ClientKeyExchange", "1.2",
     instead(HandshakeType.client_key_exchange, lambda _, m: [ccs(), m]),
     [Says.unexpected_message]),
    ("ClientHello twice", "1.2", instead(HandshakeType.client_hello, twice),
     [Says.unexpected_message]),
    # The server has keys already, and takes what is not sealed with them for damaged.
    ("ClientHello twice", "1.3", instead(HandshakeType.client_hello, twice),
     [Says.unexpected_message, Says.bad_record_mac]),
    ("data before ClientHello", "1.2 1.3",
     instead(HandshakeType.client_hello, lambda _, m: [raw(23, b"hello"), m]),
     [Says.unexpected_message]),
    ("ChangeCipherSpec before ClientHello", "1.2 1.3",
     instead(HandshakeType.client_hello, lambda _, m: [ccs(), m]), [Says.unexpected_message]),
    ("ChangeCipherSpec of value 2", "1.2 1.3",
     instead(HandshakeType.client_hello, lambda _, m: [ccs(2), m]),
     [Says.unexpected_message, Says.decode_error, Says.illegal_parameter]),
    ("a record of an unknown type", "1.2 1.3",
     instead(HandshakeType.client_hello, lambda _, m: [raw(99, b"what"), m]),
     [Says.unexpected_message, Says.decode_error]),
    ("a handshake message of an unknown type", "1.2 1.3",
     instead(HandshakeType.client_hello, lambda *_: [raw(22, b"\x63\0\0\1x")]),
     [Says.unexpected_message, Says.decode_error]),
    ("a fatal alert in the handshake", "1.2 1.3",
     instead(HandshakeType.finished, lambda *_: [alert(AlertLevel.fatal, Says.internal_error)]),
     [ENDED]),
    ("an alert of three bytes", "1.2 1.3",
     instead(HandshakeType.client_hello, lambda *_: [raw(21, b"\2\x28\0")]),
     [Says.decode_error, Says.unexpected_message, ENDED]),
    ("an empty alert", "1.2 1.3",
     instead(HandshakeType.client_hello, lambda *_: [raw(21, b"")]),
     [Says.decode_error, Says.unexpected_message, ENDED]),
    ("no known cipher suite", "1.2 1.3", hello_with(only_unknown_suites),
     [Says.handshake_failure]),
    ("no null compression", "1.2 1.3", hello_with(no_null_compression), [Says.illegal_parameter]),
    ("an extension twice", "1.2 1.3", hello_with(double_extension),
     [Says.decode_error, Says.illegal_parameter]),
    ("no signature algorithms", "1.3", hello_with(drop_extension(13)), [Says.missing_extension,
     Says.handshake_failure]),
    ("no supported groups", "1.3", hello_with(drop_extension(10)), [Says.missing_extension,
     Says.handshake_failure, Says.illegal_parameter]),
    # RFC 8446, 9.2, wants the first; rustls says the last, which ends it as well.
    ("no key share", "1.3", hello_with(drop_extension(51)), [Says.missing_extension,
     Says.illegal_parameter, Says.handshake_failure]),
]


def client_of(port, version, change):
    sock = connect(port)
    sock.settimeout(20)
    client = Odd(sock, change)
    client.closeSocket = True
    settings = HandshakeSettings()
    settings.minVersion = settings.maxVersion = VERSIONS[version]
    settings.versions = [VERSIONS[version]]
    settings.eccCurves = ["x25519", "secp256r1"]
    settings.dhGroups = []
    return sock, client, settings


def say(client, message):
    for _ in client._sendMsg(message):
        pass


def outcome(act):
    """What the client was told: the number of an alert, or how it ended."""
    try:
        return act()
    except TLSRemoteAlert as told:
        return told.description
    except TimeoutError:
        raise AssertionError("it waits") from None
    except (BaseTLSException, OSError):
        return ENDED


def ends(sock):
    """No more than the end comes; a reset is one too, where bytes of ours were not read."""
    with contextlib.suppress(OSError):
        while sock.recv(1 << 16):
            pass


def one(server, version, change, expected):
    def act():
        client.handshakeClientCert(settings=settings, serverName="localhost")
        # TLS 1.3: the server judges the client's last messages after its own.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.write(b"hello\n")
        return DONE if client.read(min=6, max=6) == b"hello\n" else ENDED

    sock, client, settings = client_of(server.port, version, change)
    with sock:
        said = outcome(act)
        assert said in expected, f"{said}, not one of {expected}"
        if said == DONE:
            outcome(client.close)
        else:
            ends(sock)


def in_the_handshake(mode, version):
    with serving(mode, "--linger-timeout", "200") as server:
        for title, versions, change, expected in CONVERSATIONS:
            if version in versions:
                try:
                    one(server, version, change, expected)
                except Exception as e:
                    raise AssertionError(f"{title}: {type(e).__name__}: {e}") from e
                works(server)


# What a client sends after the handshake, and what it is told then.
LATER = [
    ("a record that is too long", raw(23, b"x" * ((1 << 14) + 1)), [Says.record_overflow]),
    ("a ClientKeyExchange", raw(22, b"\x10\0\0\1x"), [Says.unexpected_message, Says.decode_error]),
    ("a Finished", raw(22, b"\x14\0\0\x0c" + b"x" * 12), [Says.unexpected_message]),
    ("a ChangeCipherSpec", ccs(), [Says.unexpected_message, Says.decode_error]),
    ("a message of an unknown type", raw(22, b"\x63\0\0\1x"),
     [Says.unexpected_message, Says.decode_error]),
    ("a record of an unknown type", raw(99, b"what"),
     [Says.unexpected_message, Says.decode_error]),
    ("an alert of one byte", raw(21, b"\2"), [Says.decode_error, Says.unexpected_message, ENDED]),
    ("a fatal alert", alert(AlertLevel.fatal, Says.internal_error), [ENDED]),
    ("a warning of an unknown number", raw(21, b"\1\xee"),
     [Says.unexpected_message, Says.decode_error, Says.illegal_parameter, ENDED, DONE]),
]


def after_the_handshake(mode, version):
    """The same where the connection is in use."""

    def act():
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            say(client, message)
            client.write(b"hello\n")
        return DONE if client.read(min=6, max=6) == b"hello\n" else ENDED

    with serving(mode, "--linger-timeout", "200") as server:
        for title, message, expected in LATER:
            sock, client, settings = client_of(server.port, version, unchanged)
            with sock:
                client.handshakeClientCert(settings=settings, serverName="localhost")
                client.recordSize = client._send_record_limit = 1 << 15
                said = outcome(act)
                assert said in expected, f"{title}: {said}, not one of {expected}"
                if said == DONE:
                    outcome(client.close)
                else:
                    ends(sock)
            works(server)


def damaged(mode, version):
    """A record whose tag is wrong, and one that is shorter than a tag."""
    for damage in [
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: data[:3] + struct.pack(">H", 3) + data[5:8],
    ]:
        with serving(mode, "--linger-timeout", "200") as server:
            sock, client, settings = client_of(server.port, version, unchanged)
            with sock:
                client.handshakeClientCert(settings=settings, serverName="localhost")
                client.wire.damage = damage
                client.write(b"hello\n")
                said = outcome(lambda: client.read(min=1, max=1))
                assert said in (Says.bad_record_mac, Says.decode_error), said
                ends(sock)
            works(server)


def fragments(mode, version):
    """A handshake in records of a few bytes each is one as any other."""
    with serving(mode) as server:
        for size in (1, 3, 7, 64):
            sock, client, settings = client_of(server.port, version, unchanged)
            with sock:
                client.recordSize = size
                client.handshakeClientCert(settings=settings, serverName="localhost")
                client.write(b"hello\n")
                equal(client.read(min=6, max=6), b"hello\n")
                outcome(client.close)
        works(server)


def checks():
    for version in VERSIONS:
        for title, check in [
            ("odd handshakes of tlslite", in_the_handshake),
            ("odd messages of tlslite", after_the_handshake),
            ("damaged records of tlslite", damaged),
            ("handshakes of tlslite in fragments", fragments),
        ]:
            yield f"{title}, TLS {version}", (lambda mode, c=check, v=version: c(mode, v))
