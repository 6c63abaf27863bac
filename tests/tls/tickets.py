"""Tickets that several processes open: their keys are the program's. By openssl's client."""

import base64
import re
import secrets

from clients import VERSIONS, info_in, lines_server, s_client
from common import contains, equal, folder

SESSION = folder / "shared-session.pem"


def key():
    return secrets.token_bytes(80)


def set_keys(server, *keys):
    equal(server.command("keys " + b"".join(keys).hex(), "keys")["status"], "NS_OK")


def visit(server, version, *options):
    """Whether the client resumed a session; the server must say the same."""
    output = s_client(server, version, *options)
    first = re.search(rf"^(New|Reused), TLSv{re.escape(version)}, Cipher", output, re.M)
    assert first, output
    resumed = first[1] == "Reused"
    equal(info_in(output)["resumed"], resumed)
    return resumed


def no_failure(server, handshakes):
    stats = server.stats()
    equal((stats["handshakes"], stats["handshake_failures"]), (handshakes, 0))
    server.no_exception()


def two_processes(mode, version):
    """TK1, TK2: A ticket of process A is resumed by process B, after a rotation too; with the key
    removed there is a full handshake."""
    old, new, saved, kept = key(), key(), ["-sess_out", SESSION], ["-sess_in", SESSION]
    with (
        lines_server(mode, "--ticket-keys", old.hex()) as a,
        lines_server(mode, "--ticket-keys", old.hex()) as b,
    ):
        equal(visit(a, version, *saved), False)
        equal(visit(b, version, *kept), True)
        set_keys(b, old, new)
        set_keys(a, new, old)
        equal([visit(server, version, *kept) for server in (a, b)], [True, True])
        equal(visit(a, version, *saved), False)  # a session that the new key seals
        set_keys(b, new)
        equal(visit(b, version, *kept), True)
        set_keys(b, old)
        equal(visit(b, version, *kept), False)
        no_failure(a, 3)
        no_failure(b, 4)


# -- tickets that nobody sealed ---------------------------------------------------------------


def read_der(data, start=0):
    """(where the contents begin, where they end) of the object there."""
    length, body = data[start + 1], start + 2
    if length >= 0x80:
        count = length - 0x80
        length, body = int.from_bytes(data[body : body + count], "big"), body + count
    return body, body + length


def der(tag, contents):
    size = len(contents)
    if size < 0x80:
        return bytes([tag, size]) + contents
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 + len(length)]) + length + contents


class Session:
    """A session as openssl writes it (SSL_SESSION, ssl_asn1.c): its ticket has the tag [10]."""

    def __init__(self, path):
        text = path.read_text()
        data = base64.b64decode(text.split("-----")[2])
        self.items = []
        start, end = read_der(data)
        while start < end:
            body, after = read_der(data, start)
            self.items.append((data[start], data[body:after]))
            start = after
        octets = dict(self.items)[0xAA]
        self.ticket = octets[slice(*read_der(octets))]

    def write(self, path, ticket):
        items = [
            der(tag, der(0x04, ticket) if tag == 0xAA else contents)
            for tag, contents in self.items
        ]
        body = base64.encodebytes(der(0x30, b"".join(items))).decode()
        start, end = (f"-----{word} SSL SESSION PARAMETERS-----\n" for word in ("BEGIN", "END"))
        path.write_text(start + body + end)


def bad_tickets(mode, version):
    """TK7: Each leads to a full handshake."""
    secret = key()
    with lines_server(mode, "--ticket-keys", secret.hex()) as server:
        equal(visit(server, version, "-sess_out", SESSION), False)
        session, handshakes = Session(SESSION), 1
        good = session.ticket
        equal(good[:16], secret[:16])
        path = folder / "bad-session.pem"

        def resumes(ticket):
            nonlocal handshakes
            session.write(path, ticket)
            handshakes += 1
            return visit(server, version, "-sess_in", path)

        equal(resumes(good), True)
        for length in [1, 15, 16, 17, 32, 47, 48, 63, 64, 65, 80, len(good) - 16, len(good) - 1]:
            equal((length, resumes(good[:length])), (length, False))
        for more in [1, 16, 4000, 15_000]:
            equal((more, resumes(good + bytes(more))), (more, False))
        for place in [0, 15, 16, 31, 32, len(good) - 33, len(good) - 32, len(good) - 1]:
            bad = bytearray(good)
            bad[place] ^= 1 << secrets.randbelow(8)
            equal((place, resumes(bytes(bad))), (place, False))
        equal(resumes(key()[:16] + good[16:]), False)
        equal(resumes(secrets.token_bytes(len(good))), False)
        equal(resumes(good), True)
        no_failure(server, handshakes)


def bad_keys(mode):
    """TK4: The keys stay as they were."""
    old = key()
    with lines_server(mode, "--ticket-keys", old.hex()) as server:
        for count in [0, 79, 81, 17 * 80]:
            answer = server.command("keys " + "00" * count, "keys")
            equal(answer["status"], "NS_ERR_INVALID")
            contains(answer["message"], f"not {count} bytes")
        for version in VERSIONS:
            equal(visit(server, version, "-sess_out", SESSION), False)
            equal(visit(server, version, "-sess_in", SESSION), True)
        no_failure(server, 4)


def checks():
    for version in VERSIONS:
        for title, check in [
            ("a ticket of another process", two_processes),
            ("bad tickets", bad_tickets),
        ]:
            yield f"{title}, TLS {version}", (lambda mode, c=check, v=version: c(mode, v))
    yield "bad keys of tickets", bad_keys
