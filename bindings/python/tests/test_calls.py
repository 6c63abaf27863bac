"""Calls by id, loops, detached sockets, connections of the program's own."""

from __future__ import annotations

import os
import selectors
import socket
import threading
from typing import Any

import pytest
from conftest import BLOCKING, SECONDS, Client, echo, serving, until

import netserver
from netserver import Config, DetachedSocket, Server, Socket, Status


def test_send_and_broadcast_by_id() -> None:
    ids: list[int] = []
    with serving(on_open=lambda socket: ids.append(socket.id)) as server:
        with Client(server.port) as one, Client(server.port) as two:
            assert one.ask(b"x") == two.ask(b"x")
            assert sorted(server.connections()) == sorted(ids)
            server.send(ids[0], memoryview(b"hello"))
            assert one.exactly(5) == b"hello"
            assert server.broadcast(server.connections(), b"all") == 2
            assert one.exactly(3) == two.exactly(3) == b"all"
            statuses = server.broadcast_each([*ids, 999], b"each")
            assert statuses == [Status.OK, Status.OK, Status.CLOSED]
            assert one.exactly(4) == two.exactly(4) == b"each"
            until(lambda: server.queued(ids[0]) == 0)
            server.shutdown_connection(ids[0])
            assert one.rest() == b""
            server.close_connection(ids[1])
            assert two.rest() == b""
        with pytest.raises(netserver.ClosedError):
            server.send(999, b"x")
        until(lambda: not server.connections())


def test_wake_pause_resume() -> None:
    def handler(socket: Socket) -> None:
        if socket.data is None:
            socket.data = "paused"
            socket.recv()
            socket.pause()
            woken.set()
        else:
            echo(socket)

    woken = threading.Event()
    with serving(handler, on_wake=lambda socket: socket.resume()) as server:
        with Client(server.port) as client:
            client.sendall(b"lost")
            assert woken.wait(SECONDS)
            client.sendall(b"kept")
            server.wake(server.connections()[0])
            assert client.exactly(4) == b"kept"


def test_abort_and_blocking_servers() -> None:
    with serving() as server, Client(server.port) as client:
        client.ask(b"x")
        server.abort_connection(server.connections()[0])
        with pytest.raises(ConnectionResetError):
            client.rest()
    with serving(echo, BLOCKING) as server:
        with pytest.raises(netserver.NotNonBlockingError):
            server.connections()


def test_timers_tasks_and_watches() -> None:
    order: list[Any] = []
    done = threading.Event()

    def tick() -> None:
        order.append("tick")
        if order.count("tick") == 3:
            repeating[0].cancel()
            server.timer(0.01, done.set)

    reader, writer = socket.socketpair()
    with serving() as server:
        repeating = [server.timer(0.01, tick, repeat=0.01)]
        assert done.wait(SECONDS) and order == ["tick"] * 3
        for number in range(3):
            server.post(lambda number=number: order.append(number))  # type: ignore[misc]
        until(lambda: order[3:] == [0, 1, 2])

        seen = threading.Event()

        def ready(events: int) -> None:
            order.append((events, reader.recv(1)))
            watch.change(selectors.EVENT_READ)
            seen.set()

        watch = server.watch(reader.fileno(), selectors.EVENT_READ, ready)
        writer.send(b"x")
        assert seen.wait(SECONDS) and order[-1] == (selectors.EVENT_READ, b"x")
        watch.close()
        with pytest.raises(netserver.ClosedError):
            watch.close()
        with pytest.raises(netserver.InvalidError):
            server.timer(1, tick, loop=7)
    reader.close()
    writer.close()


def test_callbacks_without_a_socket_fail() -> None:
    failed: list[Any] = []
    boom = [ValueError("timer"), ValueError("post")]

    def fail(error: Exception) -> Any:
        def callback() -> None:
            raise error

        return callback

    with serving(on_exception=lambda socket, error: failed.append((socket, error))) as server:
        server.timer(0, fail(boom[0]))
        until(lambda: failed)
        server.post(fail(boom[1]))
        until(lambda: len(failed) == 2)
    assert failed == [(None, boom[0]), (None, boom[1])]


def test_detach_and_attach() -> None:
    owned: list[DetachedSocket] = []
    ready = threading.Event()

    def handler(socket: Socket) -> None:
        if socket.data is None:
            socket.data = "mine"
            owned.append(socket.detach())
            with pytest.raises(netserver.DetachedError):
                socket.send(b"x")
            ready.set()
        else:
            echo(socket)

    with serving(handler) as server, Client(server.port) as client:
        client.sendall(b"first")
        assert ready.wait(SECONDS)
        connection = owned[0]
        former = connection.id
        assert connection.recv(3) == b"fir" and connection.recv() == b"st"
        assert connection.data == "mine" and connection.server is server
        connection.send(bytearray(b"answer"))
        assert client.exactly(6) == b"answer"
        assert server.attach(connection) != former
        with pytest.raises(netserver.ClosedError):
            connection.send(b"x")
        assert client.ask(b"echo") == b"echo"


def test_one_thread_at_a_time() -> None:
    here, there = socket.socketpair()
    with DetachedSocket.from_fd(here.detach()) as connection:
        received: list[bytes] = []
        thread = threading.Thread(target=lambda: received.append(connection.recv()))
        thread.start()
        until(lambda: connection._lock.locked())
        with pytest.raises(netserver.BusyError):
            connection.send(b"x")
        there.sendall(b"done")
        thread.join()
        assert received == [b"done"]
        connection.set_io_timeout(0.01)
        with pytest.raises(TimeoutError):
            connection.recv()
    there.close()


def test_release_and_forget() -> None:
    here, there = socket.socketpair()
    connection = DetachedSocket.from_fd(here.detach())
    with socket.socket(fileno=connection.release_fd()) as again:
        again.sendall(b"x")
        assert there.recv(1) == b"x"
    connection.close()
    there.close()
    one, two = socket.socketpair()
    forgotten = DetachedSocket.from_fd(one.detach())
    del forgotten
    assert two.recv(1) == b""
    two.close()


def test_adopt_and_connect() -> None:
    opened: list[Any] = []
    here, there = socket.socketpair()
    there.settimeout(SECONDS)
    with serving(on_open=lambda socket: opened.append(socket.data)) as server:
        server.adopt(here, data="adopted")
        there.sendall(b"hello")
        assert there.recv(5) == b"hello"
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(SECONDS)
            port = listener.getsockname()[1]
            id = server.connect(f"127.0.0.1:{port}", 10, data="connected")
            server.send(id, b"early")
            with listener.accept()[0] as peer:
                peer.settimeout(SECONDS)
                assert peer.recv(5) == b"early"
        assert opened == ["adopted", "connected"]
        with pytest.raises(netserver.InvalidError):
            server.adopt(0 if os.isatty(0) else listener.fileno())
    there.close()


def test_connect_fails_later() -> None:
    failed: list[Any] = []

    def on_exception(socket: Any, error: Exception) -> None:
        failed.append((socket.data, type(error)))

    with socket.socket() as bound, serving(on_exception=on_exception) as server:
        bound.bind(("127.0.0.1", 0))  # and does not listen: nobody else can do so there
        try:
            server.connect("127.0.0.1:%d" % bound.getsockname()[1], data="never")
        except netserver.ConnectError:
            return
        until(lambda: failed)
    assert failed == [("never", netserver.ConnectError)]


def test_back_pressure() -> None:
    """A client that never reads: the queue ends at `send_limit`, and `on_drain` tells of it."""
    drained = threading.Event()
    failures: list[Any] = []
    sent: list[int] = []

    def handler(socket: Socket) -> None:
        socket.recv()
        try:
            while True:
                socket.send(b"x" * 65536)
                sent.append(65536)
        except netserver.BufferFullError as error:
            failures.append((error.status, socket.queued > 0))

    config = Config(send_limit=1 << 20, write_timeout=0)
    with serving(handler, config, on_drain=lambda socket: drained.set()) as server:
        with Client(server.port) as client:
            client.sendall(b"go")
            until(lambda: failures)
            assert failures[0] == (Status.BUFFER_FULL, True) and not drained.is_set()
            left = sum(sent)
            while left:
                part = client.recv(min(left, 65536))
                assert part
                left -= len(part)
            until(drained.is_set)


def test_timeouts_of_connections() -> None:
    def on_timeout(socket: Socket) -> None:
        socket.send(b"late")
        socket.close()

    with serving(on_open=lambda socket: socket.set_timer(0.01), on_timeout=on_timeout) as server:
        with Client(server.port) as client:
            assert client.rest() == b"late"


def test_statistics() -> None:
    with serving() as server, Client(server.port) as client:
        client.ask(b"12345")
        stats = server.stats()
        assert (stats.accepted, stats.open, stats.bytes_in, stats.threads) == (1, 1, 5, 1)
        assert stats.state is netserver.State.RUNNING and stats.port == server.port
        assert server.thread_stats(0).calls >= 1
        assert "Total thread count: 1" in server.report()
        assert "\nnetserver_" in server.metrics()
        with pytest.raises(netserver.InvalidError):
            server.thread_stats(1)
    assert netserver.__version__ and netserver.has_feature("hosted") and not netserver.has_feature("x")


def test_two_thousand_connections_leave_nothing() -> None:
    from netserver._objects import objects

    before = len(objects)
    with serving() as server:
        for _ in range(100):
            clients = [Client(server.port) for _ in range(20)]
            for client in clients:
                client.ask(b"x")
                client.close()
        until(lambda: server.stats().open == 0)
        assert len(objects) == before + 1
