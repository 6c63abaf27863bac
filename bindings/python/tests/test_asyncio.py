"""Servers in an asyncio loop, and in that of uvloop."""

from __future__ import annotations

import asyncio
from typing import Any, Callable

import pytest
import uvloop
from conftest import LOOPS, Client, echo

import netserver
from netserver import Server, Socket

NEW_LOOPS = pytest.mark.parametrize(
    "new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)


def run(new_loop: Callable[[], Any], main: Any) -> Any:
    loop = new_loop()
    try:
        return loop.run_until_complete(asyncio.wait_for(main, 60))
    finally:
        loop.close()


@NEW_LOOPS
def test_echo_beside_other_tasks(new_loop: Any) -> None:
    async def main() -> None:
        async with Server(echo, "127.0.0.1:0") as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"hello"
            writer.write_eof()
            assert await reader.read() == b""
            writer.close()

    run(new_loop, main())


@NEW_LOOPS
def test_serve_ends_with_the_server(new_loop: Any) -> None:
    async def main() -> None:
        async with Server(echo, "127.0.0.1:0") as server:
            await asyncio.to_thread(server.request_stop)
            await server.serve()
            await server.serve()

    run(new_loop, main())


@NEW_LOOPS
def test_serve_is_cancelled(new_loop: Any) -> None:
    async def serve(started: asyncio.Future[Server]) -> None:
        async with Server(echo, "127.0.0.1:0") as server:
            started.set_result(server)
            await server.serve()

    async def main() -> None:
        started: asyncio.Future[Server] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(serve(started))
        server = await started
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(netserver.StateError):
            server.start()

    run(new_loop, main())


@NEW_LOOPS
def test_the_loop_learns_of_exceptions(new_loop: Any) -> None:
    boom = ValueError("boom")

    def handler(socket: Socket) -> None:
        raise boom

    async def main() -> None:
        reported: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().set_exception_handler(
            lambda loop, what: reported.set_result(what["exception"])
        )
        async with Server(handler, "127.0.0.1:0") as server:
            with Client(server.port) as client:
                client.sendall(b"x")
                assert await reported is boom

    run(new_loop, main())


def test_a_request_takes_its_time() -> None:
    """A handler starts a task, which answers by the connection's id."""

    async def answer(server: Server, id: int, data: bytes) -> None:
        await asyncio.sleep(0.01)
        server.send(id, data.upper())

    tasks: list[asyncio.Task[None]] = []

    def handler(socket: Socket) -> None:
        if data := socket.recv():
            tasks.append(asyncio.ensure_future(answer(socket.server, socket.id, data)))

    async def main() -> None:
        async with Server(handler, "127.0.0.1:0") as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"HELLO"
            writer.close()

    asyncio.run(main())


def test_servers_with_threads_need_no_loop() -> None:
    async def main() -> None:
        server = Server(echo, "127.0.0.1:0", LOOPS)
        with pytest.raises(netserver.InvalidError):
            async with server:
                pass
        server.close()

    asyncio.run(main())
