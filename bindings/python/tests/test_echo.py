"""Bytes, in all modes."""

from __future__ import annotations

import array
import pathlib
import re
import socket
import threading
from typing import Any

import pytest
from conftest import BLOCKING, HOSTED, LOOPS, SECONDS, Client, echo, serving, until

import netserver
from netserver import CloseReason, Config, Server, Socket

MODES = pytest.mark.parametrize("config", [HOSTED, LOOPS, BLOCKING], ids=["hosted", "loops", "blocking"])


@MODES
def test_a_megabyte_comes_back(config: Config) -> None:
    data = bytes(range(256)) * 4096
    with serving(echo, config) as server, Client(server.port) as client:
        thread = threading.Thread(target=client.sendall, args=(data,))
        thread.start()
        assert client.exactly(len(data)) == data
        thread.join()
        client.shutdown(socket.SHUT_WR)
        assert client.rest() == b""


@MODES
def test_every_kind_of_buffer_is_sent(config: Config) -> None:
    def handler(socket: Socket) -> None:
        if socket.recv() != b"go":
            return
        numbers = array.array("H", [0x4142] * 2)
        socket.send(b"bytes ")
        socket.send(bytearray(b"bytearray "))
        socket.send(memoryview(b"memoryview "))
        socket.send(memoryview(numbers))
        socket.sendv([b" a", bytearray(b"b"), memoryview(b"c")])
        with socket.corked():
            socket.send(b"")
        socket.flush()
        socket.close()

    with serving(handler, config) as server, Client(server.port) as client:
        client.sendall(b"go")
        assert client.rest() == b"bytes bytearray memoryview BABA abc"


@MODES
def test_recv_into(config: Config) -> None:
    def handler(socket: Socket) -> None:
        buffer = bytearray(10)
        while size := socket.recv_into(memoryview(buffer)[2:], 4):
            socket.send(memoryview(buffer)[2 : 2 + size])
        if size is not None:
            socket.close()

    with serving(handler, config) as server, Client(server.port) as client:
        assert client.ask(b"0123456789") == b"0123456789"


def test_the_same_socket_in_all_callbacks() -> None:
    seen: list[Any] = []

    def remember(socket: Socket, *_: object) -> None:
        seen.append(socket)
        socket.data = (socket.data or 0) + 1

    def handler(socket: Socket) -> None:
        remember(socket)
        echo(socket)

    def on_close(socket: Socket, reason: CloseReason) -> None:
        remember(socket)
        seen.append(reason)

    with serving(handler, on_open=remember, on_close=on_close) as server:
        with Client(server.port) as client:
            client.ask(b"x")
            client.shutdown(socket.SHUT_WR)
            client.rest()
        until(lambda: CloseReason.PEER in seen)
        assert len({id(each) for each in seen[:-1]}) == 1
        assert seen[0].data == len(seen) - 1 >= 4


def test_what_a_socket_knows_of_itself() -> None:
    known: list[Any] = []

    def handler(socket: Socket) -> None:
        known[:] = [
            socket.peer, socket.local, socket.getpeername(), socket.getsockname(), socket.service,
            socket.fileno(), socket.id, socket.queued, socket.os_error, socket.closed,
        ]  # fmt: skip
        echo(socket)

    with serving(handler) as server, Client(server.port) as client:
        client.ask(b"x")
        host, port = client.getsockname()
        assert known[:5] == [
            f"{host}:{port}", f"{host}:{server.port}", (host, port), (host, server.port), 0,
        ]  # fmt: skip
        assert known[5] > 0 and known[6] > 0 and known[7:] == [0, 0, False]


def test_unix_sockets(tmp_path: pathlib.Path) -> None:
    known: list[Any] = []

    def handler(connection: Socket) -> None:
        known[:] = [connection.peer_credentials(), connection.getpeername()]
        echo(connection)

    with serving(handler) as server:
        pass
    server = Server(handler, f"unix:{tmp_path}/s")
    with server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(SECONDS)
            client.connect(f"{tmp_path}/s")
            client.sendall(b"x")
            assert client.recv(10) == b"x"
        server.stop()
        thread.join()
    import os

    assert known == [(os.getpid(), os.getuid(), os.getgid()), ""]


def test_several_services() -> None:
    def handler(socket: Socket) -> None:
        if socket.recv():
            socket.send(b"%d" % socket.service)

    with Server(handler, "127.0.0.1:0") as first:
        with pytest.raises(netserver.StateError):
            first.add_service("127.0.0.1:0")
    server = Server(handler, "127.0.0.1:0")
    assert server.add_service("127.0.0.1:0") == 1
    with server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        port = int(server.service_address(1).rsplit(":", 1)[1])
        with Client(port) as client:
            assert client.ask(b"x") == b"1"
        server.stop()
        thread.join()


def test_the_echo_of_the_readme() -> None:
    readme = (pathlib.Path(__file__).parent.parent / "README.md").read_text()
    code = re.search(r"```python\n(from netserver import Server\n.*?)```", readme, re.S)
    assert code and len(code[1].splitlines()) <= 15
    program = code[1].replace('"5000"', '"127.0.0.1:0"')
    # What the reader does with Ctrl-C, the test does with a thread that stops the server.
    program = program.replace("print(", "started(server, ")
    servers: list[Server] = []

    def started(server: Server, *_: object, **__: object) -> None:
        servers.append(server)
        thread.start()

    def talk() -> None:
        with Client(servers[0].port) as client:
            answers.append(client.ask(b"hello"))
        servers[0].request_stop()

    answers: list[bytes] = []
    thread = threading.Thread(target=talk)
    exec(program, {"started": started})
    thread.join(SECONDS)
    assert answers == [b"hello"]
