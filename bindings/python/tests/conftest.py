"""What the tests share. They wait for events, for SECONDS at most, so that they bear a busy machine."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import pathlib
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any, Callable, Optional

import pytest
import uvloop

from netserver import Config, Server, Socket
from netserver._objects import objects

# A shell that runs this in the background has it, and so the programs, ignore SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)

SECONDS = 60.0
ROOT = pathlib.Path(__file__).resolve().parent.parent.parent.parent
DATA = ROOT / "tests" / "data"

BLOCKING = Config(non_blocking=False, max_thread=4, drain_timeout=1)
LOOPS = Config(max_thread=2)
HOSTED = Config()


def echo(socket: Socket) -> None:
    while data := socket.recv():
        socket.send(data)
    if data is not None:
        socket.close()


@contextlib.contextmanager
def serving(
    handler: Callable[[Socket], object] = echo,
    config: Optional[Config] = None,
    service: str = "127.0.0.1:0",
    **callbacks: Any,
) -> Iterator[Server]:
    """A server whose turns another thread runs."""
    with Server(handler, service, config, **callbacks) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.stop(1)
            thread.join(SECONDS)
    assert not thread.is_alive()


class Client(socket.socket):
    def __init__(self, port: int) -> None:
        super().__init__()
        self.settimeout(SECONDS)
        self.connect(("127.0.0.1", port))

    def ask(self, data: bytes) -> bytes:
        """Sends data and returns as many bytes as came back."""
        self.sendall(data)
        return self.exactly(len(data))

    def exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size and (piece := self.recv(size - len(data))):
            data += piece
        return data

    def rest(self) -> bytes:
        data = b""
        while piece := self.recv(65536):
            data += piece
        return data


def until(condition: Callable[[], object]) -> None:
    """Waits for something that nothing reports."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def threads_of_the_process() -> int:
    return len(os.listdir("/proc/self/task"))


@pytest.fixture(autouse=True, scope="session")
def first_uses() -> None:
    """What opens descriptors at its first use."""
    for new_loop in (asyncio.new_event_loop, uvloop.new_event_loop):
        loop = new_loop()
        loop.run_until_complete(loop.run_in_executor(None, subprocess.run, ["true"]))
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No test leaves an object, a thread or a descriptor."""
    gc.collect()
    before = len(objects), threads_of_the_process(), len(os.listdir("/proc/self/fd"))
    yield

    def now() -> tuple[int, int, int]:
        gc.collect()
        return len(objects), threads_of_the_process(), len(os.listdir("/proc/self/fd"))

    end = time.monotonic() + SECONDS
    while any(a > b for a, b in zip(now(), before)):
        assert time.monotonic() < end, f"{now()} are left of {before}"
        time.sleep(0.01)
