"""TLS, with Python's own client."""

from __future__ import annotations

import os
import pathlib
import ssl
from collections.abc import Iterator
from typing import Any, Optional

import pytest
from conftest import BLOCKING, DATA, HOSTED, LOOPS, Client, echo, serving, until

import netserver
from netserver import TLS, CloseReason, Config, Server, Socket, TLSInfo, TLSVersion

MODES = pytest.mark.parametrize("config", [HOSTED, LOOPS, BLOCKING], ids=["hosted", "loops", "blocking"])


def context(name: Optional[str] = None, alpn: tuple[str, ...] = ()) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=str(DATA / "ca.pem"))
    if name:
        made.load_cert_chain(DATA / f"{name}.pem", DATA / f"{name}-key.pem")
    if alpn:
        made.set_alpn_protocols(list(alpn))
    return made


def connect(port: int, made: ssl.SSLContext) -> ssl.SSLSocket:
    return made.wrap_socket(Client(port), server_hostname="localhost")


def server_tls(**options: Any) -> TLS:
    return TLS(DATA / "server.pem", DATA / "server-key.pem", **options)


@MODES
def test_what_was_agreed(config: Config) -> None:
    known: list[Any] = []

    def handler(socket: Socket) -> None:
        known[:] = [socket.tls_info(), socket.peer_certificate(), socket.peer_subject()]
        echo(socket)

    tls = server_tls(client_ca=DATA / "ca.pem", alpn=["h2", "http/1.1"])
    with serving(handler, config, tls=tls) as server:
        with connect(server.port, context("client", ("http/1.1",))) as client:
            client.sendall(b"hello")
            assert client.recv(5) == b"hello"
            suite = client.cipher()
            assert suite and known[0] == TLSInfo(
                TLSVersion.TLS_1_3, False, known[0].cipher_suite, "http/1.1", "localhost"
            )
    certificate = ssl.PEM_cert_to_DER_cert((DATA / "client.pem").read_text())
    assert known[1] == certificate and "CN=ann" in known[2]


def test_a_client_without_a_certificate_is_refused() -> None:
    failed: list[Any] = []
    tls = server_tls(client_ca=DATA / "ca.pem")
    with serving(tls=tls, on_exception=lambda *what: failed.append(type(what[1]))) as server:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            with connect(server.port, context()) as client:
                client.recv(1)
        until(lambda: failed)
    assert failed == [netserver.HandshakeError]


def test_reload_and_names() -> None:
    tls = TLS()
    tls.add_certificate_pem(
        (DATA / "server.pem").read_bytes(), (DATA / "server-key.pem").read_bytes()
    )
    with serving(tls=tls) as server:
        with connect(server.port, context()) as client:
            first = client.getpeercert(True)
        second = TLS()
        chain = ssl.PEM_cert_to_DER_cert((DATA / "second.pem").read_text())
        key = (DATA / "second-key.pem").read_text()
        import base64

        der = base64.b64decode("".join(line for line in key.splitlines() if "-" not in line))
        second.add_certificate_der([chain], der, server_name="localhost")
        second.set_client_ca_pem((DATA / "ca.pem").read_bytes(), required=False)
        server.reload_tls(second)
        with connect(server.port, context()) as client:
            assert client.getpeercert(True) == chain != first
        with pytest.raises(netserver.CertificateError):
            server.reload_tls(TLS())


def test_ticket_keys() -> None:
    """Another object with the same keys opens the tickets of one, as another process would."""
    one, other = os.urandom(80), os.urandom(80)

    def ask(server: Server, session: Optional[ssl.SSLSession] = None) -> Any:
        with made.wrap_socket(Client(server.port), server_hostname="localhost", session=session) as client:
            client.sendall(b"x")
            assert client.recv(1) == b"x"
            return client.session, client.session_reused

    made = context()
    last = server_tls(ticket_keys=one)
    with serving(tls=server_tls(ticket_keys=one)) as first, serving(tls=last) as second:
        session, resumed = ask(first)
        assert not resumed and ask(second, session)[1]
        last.set_ticket_keys(other + one)
        assert ask(second, session)[1]
        last.set_ticket_keys(other)
        assert not ask(second, session)[1]
    for wrong in b"", b"x" * 79, b"x" * 80 * 17:
        with pytest.raises(netserver.InvalidError, match=f"1 to 16 times 80 bytes, not {len(wrong)}$"):
            last.set_ticket_keys(wrong)
        with pytest.raises(netserver.InvalidError):
            server_tls(ticket_keys=wrong)


def test_bad_certificates(tmp_path: pathlib.Path) -> None:
    with pytest.raises(netserver.CertificateError, match="missing.pem"):
        TLS(tmp_path / "missing.pem", tmp_path / "missing.pem")
    with pytest.raises(TypeError):
        TLS(DATA / "server.pem")
    with pytest.raises(netserver.CertificateError):
        Server(echo, tls=TLS())
    with pytest.raises(netserver.InvalidError):
        TLS(alpn=[""])


def test_starttls() -> None:
    tls = server_tls()

    def handler(socket: Socket) -> None:
        if socket.data:
            return echo(socket)
        command = socket.recv()
        assert command == b"STARTTLS\n"
        socket.send(b"go\n")
        socket.data = True
        socket.starttls(tls)

    for config in (HOSTED, BLOCKING):
        def both(socket: Socket) -> None:
            handler(socket)
            if not socket.server.config.non_blocking:
                echo(socket)

        with serving(both, config) as server, Client(server.port) as plain:
            plain.sendall(b"STARTTLS\n")
            assert plain.exactly(3) == b"go\n"
            with context().wrap_socket(plain, server_hostname="localhost") as client:
                client.sendall(b"secret")
                assert client.recv(6) == b"secret"


def test_a_server_without_tls() -> None:
    def handler(socket: Socket) -> None:
        with pytest.raises(netserver.StateError):
            socket.tls_info()
        assert socket.peer_certificate() is None and socket.peer_subject() is None
        echo(socket)

    with serving(handler) as server, Client(server.port) as client:
        assert client.ask(b"x") == b"x"
