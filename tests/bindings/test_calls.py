"""What a handler can do: the calls on a connection, by id, and on the server."""

import time

import harness
import pytest
from programs import client_context, fingerprint

LOOPED = ("hosted", "loops")


@pytest.mark.variants(tls=True, gc=True)
def test_lines(checker):
    with checker.client() as client:
        client.say("echo one", "", "echo zwei äöü ☃", "nonsense", "echo " + "x" * 60000)
        assert client.read() == "one"
        assert client.read() == ""
        assert client.read() == "zwei äöü ☃"
        assert client.read() == "what?"
        assert client.read() == "x" * 60000


@pytest.mark.variants(gc=True)
def test_line_in_single_bytes(checker):
    with checker.client() as client, checker.client() as other:
        for byte in b"echo in pieces\n":
            client.socket.sendall(bytes([byte]))
            assert other.ask("") == ""
        assert client.read() == "in pieces"


@pytest.mark.variants(gc=True)
def test_two_thousand_lines_at_once(checker):
    with checker.client() as client:
        client.say(*(f"echo {number}" for number in range(2000)))
        for number in range(2000):
            assert client.read() == str(number)


def test_ids_differ(checker):
    clients = [checker.client() for _ in range(10)]
    ids = [client.ask("id") for client in clients]
    assert all(name.isdigit() and name != "0" for name in ids)
    assert len(set(ids)) == 10
    assert [client.ask("id") for client in clients] == ids
    for client in clients:
        client.socket.close()


@pytest.mark.variants(tls=True)
def test_tls_of_a_plain_client(checker):
    with checker.client() as client:
        version = "1.3" if checker.variant.tls else "none"
        assert client.ask("tls") == f"version={version} alpn=none certificate=none"


@pytest.mark.variants(tls=True, gc=True)
def test_alpn_and_client_certificate(start, variant):
    if not variant.tls:
        variant = type(variant)(variant.mode, tls=True, gc=variant.gc)
    ca = harness.ROOT / "tests" / "data" / "ca.pem"
    server = start("checker", variant, "--client-ca", ca, "--alpn", "first,second").is_ready()
    ann = fingerprint("client")
    for alpn, certificate, answer in [
        ([], None, "version=1.3 alpn=none certificate=none"),
        (["second"], None, "version=1.3 alpn=second certificate=none"),
        (["second", "first"], "client", f"version=1.3 alpn=first certificate={ann}"),
    ]:
        with server.client(client_context(alpn, certificate)) as client:
            assert client.ask("tls") == answer
    server.end()


@pytest.mark.variants(LOOPED, tls=True, gc=True)
def test_send_by_id(checker):
    with checker.client() as client, checker.client() as other:
        name = client.ask("id")
        for number in range(50):
            assert other.ask(f"send {name} line {number}") == "ok"
        for number in range(50):
            assert client.read() == f"line {number}"
        assert client.ask("echo and on") == "and on"


@pytest.mark.variants(LOOPED)
def test_send_to_a_connection_that_is_gone(checker):
    with checker.client() as other:
        with checker.client() as client:
            name = client.ask("id")

        def answer():
            return other.ask(f"send {name} hello")

        # The server notices that the client has closed when it does.
        harness.wait_until(lambda: answer() != "ok", "another answer than ok")
        assert answer() == "NS_ERR_CLOSED"
        assert other.ask("send 0 hello") == "NS_ERR_CLOSED"


@pytest.mark.variants(["blocking"])
def test_send_by_id_to_a_worker(checker):
    with checker.client() as client, checker.client() as other:
        assert other.ask(f"send {client.ask('id')} hello") == "NS_ERR_NOT_NON_BLOCKING"


@pytest.mark.variants(LOOPED, tls=True, gc=True)
def test_broadcast(checker):
    clients = [checker.client() for _ in range(20)]
    for client in clients:
        client.ask("")
    for number in range(10):
        clients[number].say(f"broadcast to all {number}")
        for client in clients:
            assert client.read() == f"to all {number}"
    for client in clients:
        client.socket.close()


@pytest.mark.variants(LOOPED, tls=True, gc=True)
def test_detach_and_attach(checker):
    clients = [checker.client() for _ in range(5)]
    names = [client.ask("id") for client in clients]
    for client in clients:
        client.say("detach")
    # All are detached at the same time, and the loops serve others.
    for client in clients:
        assert client.read() == "detached"
    with checker.client() as other:
        assert other.ask("echo beside") == "beside"
    for client, name in zip(clients, names):
        assert client.ask("mine") == "owned mine"
        assert client.ask("echo attached") == "attached"
        assert client.ask("id") != name
        client.socket.close()


@pytest.mark.variants(LOOPED)
def test_detached_client_goes_away(checker):
    """The new owner sees the end and frees the socket."""
    with checker.client() as other, checker.keeps_objects(other):
        for _ in range(10):
            with checker.client() as client:
                assert client.ask("detach") == "detached"


@pytest.mark.variants(LOOPED, tls=True, gc=True)
def test_timer(checker):
    with checker.client() as client, checker.client() as other:
        begun = time.monotonic()
        client.say("timer 300")
        assert other.ask("echo meanwhile") == "meanwhile"
        assert client.read() == "fired"
        assert time.monotonic() - begun >= 0.3
        with checker.keeps_objects(other):
            for _ in range(10):
                assert client.ask("timer 0") == "fired"


@pytest.mark.variants(tls=True, gc=True)
def test_fill(checker):
    with checker.client() as client:
        client.say("fill 0", "fill 1", "fill 10000000", "echo done")
        for count in 0, 1, 10000000:
            client.skip(count)
            assert client.read() == ""
        assert client.read() == "done"


@pytest.mark.variants(tls=True)
def test_client_that_never_reads(checker, note):
    """The server wants to send 256 MiB (over TLS 64): it holds a few pieces only, and serves others.
    Then the client reads everything."""
    total = (64 if checker.variant.tls else 256) << 20
    with checker.client() as client, checker.client() as other:
        client.say("fill 100000")
        client.skip(100000)
        assert client.read() == ""
        before = checker.memory()
        client.say(f"fill {total}")
        most = 0
        # Long enough for a program without back-pressure to produce all of it.
        end = time.monotonic() + 2
        while time.monotonic() < end:
            assert other.ask("echo served") == "served"
            most = max(most, checker.memory() - before)
        assert most < 32 << 10, f"{most} KiB more than before"
        note(f"{most} KiB")
        client.skip(total)
        assert client.read() == ""
        assert client.ask("echo done") == "done"


def test_reset_during_fill(checker):
    with checker.client() as other, checker.keeps_objects(other):
        for _ in range(5):
            client = checker.client()
            client.say("fill 100000000")
            client.skip(100000)
            client.reset()
