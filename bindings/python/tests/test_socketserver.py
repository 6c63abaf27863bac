"""Handler classes of socketserver in netserver's server."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import pathlib
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import DATA, SECONDS, Client, until

from netserver import TLS
from netserver.socketserver import ThreadingTCPServer, ThreadingUnixStreamServer


@contextlib.contextmanager
def serving(handler: type[socketserver.BaseRequestHandler], **options: Any) -> Iterator[Any]:
    with ThreadingTCPServer(("127.0.0.1", 0), handler, **options) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(SECONDS)


class Upper(socketserver.StreamRequestHandler):
    disable_nagle_algorithm = True
    timeout = SECONDS

    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line.upper())


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while data := self.request.recv(4096):
            self.request.sendall(data)


def test_stream_request_handler() -> None:
    with serving(Upper) as server, Client(server.server_address[1]) as client:
        client.sendall(b"one\ntwo\n")
        assert client.exactly(8) == b"ONE\nTWO\n"
        client.shutdown(socket.SHUT_WR)
        assert client.rest() == b""


def test_many_at_a_time() -> None:
    with serving(Echo) as server:
        clients = [Client(server.server_address[1]) for _ in range(20)]
        for number, client in enumerate(clients):
            client.sendall(b"%03d" % number)
        for number, client in enumerate(clients):
            assert client.exactly(3) == b"%03d" % number
            client.close()


def test_what_a_request_can_do() -> None:
    known: list[Any] = []

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            known[:] = [
                self.client_address, self.request.getpeername(), self.request.getsockname()[1],
                self.request.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0,
                self.request.gettimeout(),
            ]  # fmt: skip
            with self.request.makefile("rw", encoding="utf-8", newline="\n") as file:
                file.write(file.readline())
            buffer = bytearray(3)
            assert self.request.recv_into(buffer) and buffer == b"raw"
            assert self.request.send(memoryview(buffer)) == 3
            self.request.settimeout(0.01)
            try:
                self.request.recv(1)
            except TimeoutError:
                self.request.sendall(b"late")

    with serving(Handler) as server, Client(server.server_address[1]) as client:
        client.sendall("grüße\n".encode())
        assert client.exactly(8) == "grüße\n".encode()
        assert client.ask(b"raw") == b"raw"
        assert client.rest() == b"late"
        own = client.getsockname()
        assert known == [own, own, server.server_address[1], True, None]


def test_hooks_of_the_server(capfd: pytest.CaptureFixture[str]) -> None:
    class Failing(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            raise ValueError("boom")

    class Picky(ThreadingTCPServer):
        actions = 0

        def verify_request(self, request: Any, address: Any) -> bool:
            return bool(request.recv(1) == b"y")

        def service_actions(self) -> None:
            self.actions += 1

    with Picky(("127.0.0.1", 0), Failing) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        for word in (b"y", b"n"):
            with Client(server.server_address[1]) as client:
                client.sendall(word)
                assert client.rest() == b""
        until(lambda: server.actions)
        server.shutdown()
        thread.join()
    assert capfd.readouterr().err.count("ValueError: boom") == 1


def test_the_http_server_of_python() -> None:
    class Hello(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    tls = TLS(DATA / "server.pem", DATA / "server-key.pem")
    context = ssl.create_default_context(cafile=str(DATA / "ca.pem"))
    with serving(Hello, tls=tls) as server:
        client = http.client.HTTPSConnection(
            "localhost", server.server_address[1], timeout=SECONDS, context=context
        )
        for _ in range(2):
            client.request("GET", "/")
            assert client.getresponse().read() == b"hello"
        client.close()


def test_unix_sockets(tmp_path: pathlib.Path) -> None:
    with ThreadingUnixStreamServer(str(tmp_path / "s"), Echo) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(SECONDS)
            client.connect(str(tmp_path / "s"))
            client.sendall(b"x")
            assert client.recv(1) == b"x"
        server.shutdown()
        thread.join()
