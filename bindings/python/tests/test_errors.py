"""What goes wrong, and who learns of it."""

from __future__ import annotations

import pickle
import socket
import sys
import threading
from typing import Any, Callable, Optional

import pytest
from conftest import BLOCKING, HOSTED, LOOPS, SECONDS, Client, echo, serving, until

import netserver
from netserver import TLS, Config, Error, Server, Socket, Status
from netserver._enums import CloseReason, string
from netserver._errors import error_of
from netserver._native import lib

MODES = pytest.mark.parametrize("config", [HOSTED, LOOPS, BLOCKING], ids=["hosted", "loops", "blocking"])


def test_the_numbers_are_those_of_the_library() -> None:
    for status in Status:
        name = "NS_OK" if status == 0 else f"NS_ERR_{status.name}"
        assert status.c_name == name and getattr(lib, name) == status
        if status not in (Status.OK, Status.WOULD_BLOCK):
            error = error_of(status)
            assert error.status is status and str(error) == status.message
    for reason in CloseReason:
        assert getattr(lib, f"NS_CLOSE_{reason.name}") == reason
        assert string(lib.ns_close_reason_name(reason)) == reason.name.lower().replace("_", "-")


def test_errors_are_those_of_python_too() -> None:
    error = error_of(Status.RESET, os_code=104)
    assert isinstance(error, ConnectionResetError) and error.errno == error.os_code == 104
    assert isinstance(error_of(Status.TIMEOUT), TimeoutError)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and str(again) == str(error) and again.os_code == 104


def test_a_bad_service() -> None:
    with pytest.raises(netserver.InvalidError, match="99999"):
        Server(echo, "127.0.0.1:99999")


def test_a_text_with_a_nul() -> None:
    text = "0\0x"
    server = Server(echo, "127.0.0.1:0")
    texts: list[Callable[[], object]] = [
        lambda: Server(echo, text),
        lambda: Server(echo, "0", Config(shutdown_port=text)),
        lambda: Server(echo, "0", Config(thread_name=text)),
        lambda: server.add_service(text),
        lambda: server.connect(text),
        lambda: TLS(text, text),
        lambda: TLS(client_ca=text),
        lambda: TLS(alpn=[text]),
        lambda: TLS().add_certificate_pem(b"", b"", text),
    ]
    for call in texts:
        with pytest.raises(netserver.InvalidError, match="has a NUL|cannot be"):
            call()
    server.close()


def test_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Server(echo, f"127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(netserver.ListenError) as caught:
            server.start()
        assert caught.value.os_code == caught.value.errno == 98
        server.close()


@MODES
def test_the_exception_handler_gets_the_very_object(config: Config) -> None:
    raised, caught = ValueError("boom"), []

    def handler(socket: Socket) -> None:
        socket.recv()
        raise raised

    def on_exception(socket: Optional[Socket], error: Exception) -> None:
        caught.append(error)
        assert socket
        socket.send(b"sorry")
        socket.close()

    with serving(handler, config, on_exception=on_exception) as server:
        with Client(server.port) as client:
            client.sendall(b"x")
            assert client.rest() == b"sorry"
        until(lambda: caught)
    assert caught == [raised] and raised.__traceback__ is not None


@MODES
def test_without_an_exception_handler(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    printed: list[Any] = []
    monkeypatch.setattr(sys, "excepthook", lambda *what: printed.append(what[1]))
    boom = ValueError("boom")

    def handler(socket: Socket) -> None:
        raise ConnectionResetError if socket.recv() == b"quiet" else boom

    with serving(handler, config) as server:
        for word in (b"quiet", b"loud"):
            with Client(server.port) as client:
                client.sendall(word)
                assert client.rest() == b""
        until(lambda: printed)
    assert printed == [boom]


def test_callbacks_that_return_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    printed: list[str] = []
    monkeypatch.setattr(sys, "excepthook", lambda *what: printed.append(str(what[1])))

    def fail(what: str) -> Any:
        def callback(*_: object) -> None:
            raise ValueError(what)

        return callback

    with serving(on_close=fail("close"), on_stop=fail("stop")) as server:
        with Client(server.port) as client:
            client.ask(b"x")
        until(lambda: printed)
    assert printed == ["close", "stop"]


def test_an_exception_handler_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    printed: list[str] = []
    monkeypatch.setattr(sys, "excepthook", lambda *what: printed.append(str(what[1])))

    def fail(socket: Socket, *_: object) -> None:
        raise ValueError("handler" if not _ else "exception handler")

    with serving(fail, on_exception=fail) as server, Client(server.port) as client:
        client.sendall(b"x")
        with pytest.raises(ConnectionError):
            assert client.rest() == b""
            raise ConnectionError
    assert printed == ["exception handler"]


def test_on_open_refuses() -> None:
    with serving(on_open=lambda socket: False) as server, Client(server.port) as client:
        assert client.rest() == b""
        until(lambda: server.stats().closed[CloseReason.REJECTED] == 1)


def test_hooks_that_fail() -> None:
    boom = ValueError("boom")

    def on_start(server: Server) -> None:
        raise boom

    server = Server(echo, "127.0.0.1:0", on_start=on_start)
    with pytest.raises(netserver.HookError) as caught:
        server.start()
    assert caught.value.__cause__ is boom
    server.close()


def test_a_socket_outside_of_its_callbacks() -> None:
    kept: list[Socket] = []

    def handler(socket: Socket) -> None:
        kept.append(socket)
        other = threading.Thread(target=lambda: failures.append(failure_of(socket)))
        other.start()
        other.join()
        echo(socket)

    def failure_of(socket: Socket) -> Any:
        with pytest.raises(netserver.NotInHandlerError) as caught:
            socket.send(b"x")
        with pytest.raises(netserver.NotInHandlerError):
            socket.recv()
        with pytest.raises(netserver.NotInHandlerError):
            socket.detach()
        return type(caught.value)

    failures: list[Any] = []
    with serving(handler) as server, Client(server.port) as client:
        client.ask(b"x")
        assert failures == [netserver.NotInHandlerError]
        failure_of(kept[0])
        assert kept[0].closed and kept[0].fileno() == -1 and kept[0].peer == ""
        server.send(kept[0].id, b"by id")
        assert client.exactly(5) == b"by id"


def test_interrupts_leave_serve_forever() -> None:
    class Interrupt(BaseException):
        pass

    for config in (HOSTED, LOOPS, BLOCKING):
        raised = Interrupt()
        caught: list[BaseException] = []

        def handler(socket: Socket) -> None:
            if socket.recv() == b"x":
                raise raised

        def serve(server: Server) -> None:
            try:
                server.serve_forever()
            except Interrupt as error:
                caught.append(error)

        with Server(handler, "127.0.0.1:0", config) as server:
            thread = threading.Thread(target=serve, args=(server,))
            thread.start()
            with Client(server.port) as client:
                client.sendall(b"x")
                thread.join(SECONDS)
                assert caught == [raised]
                server.stop(1)
                assert client.rest() == b""


def test_settings() -> None:
    config = Config(max_thread=3, idle_timeout=1.5, thread_name="py", shutdown_port="0", send_limit=7 << 20)
    server = Server(echo, config=config)
    effective = server.config
    assert effective.non_blocking and effective.max_thread == 3 and effective.idle_timeout == 1.5
    assert effective.thread_name == "py" and effective.shutdown_port == "0"
    assert effective.proxy_protocol == 0 and effective.trusted_proxies == ()
    assert effective.send_limit == 7 << 20 and effective.drain_timeout == 5.0 and effective.no_delay
    server.close()
    proxies = Config(proxy_protocol=3, trusted_proxies=["127.0.0.1", "10.0.0.0/8"], proxy_others=True)
    trusting = Server(echo, config=proxies)
    assert trusting.config.trusted_proxies == ("127.0.0.1", "10.0.0.0/8")
    trusting.close()
    everything = Server(echo, config=effective)
    assert everything.config == effective
    everything.close()
    for bad in ({"max_thread": 0}, {"max_thread": -1}, {"idle_timeout": -1}, {"unix_mode": 0o7777},
                {"thread_name": "far too long"}, {"backlog": 1 << 40},
                {"proxy_protocol": 3}, {"trusted_proxies": ["10.0.0.1/8"]}):  # fmt: skip
        with pytest.raises(netserver.InvalidError, match=next(iter(bad))):
            Server(echo, config=Config(**bad))


def test_a_closed_server() -> None:
    server = Server(echo)
    server.close()
    server.close()
    with pytest.raises(netserver.StateError, match="closed"):
        server.start()
    assert isinstance(error_of(-5), Error)
