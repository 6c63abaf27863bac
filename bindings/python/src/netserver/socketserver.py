"""A replacement of `socketserver.ThreadingTCPServer` for its handler classes.

    from netserver.socketserver import ThreadingTCPServer

    with ThreadingTCPServer(("", 5000), MyRequestHandler) as server:
        server.serve_forever()

A pool of `max_threads` workers serves, in place of a new thread for each connection; further clients
wait. `tls=` turns TLS on. A handler gets a `Request`, which does what handlers do with a socket, on
the thread of the handler. `get_request`, `process_request` and the attribute `timeout` are not used.
"""

from __future__ import annotations

import io
import os
import socket
import socketserver
import threading
from collections.abc import Callable
from typing import Any, Optional

from ._config import Config
from ._errors import TimeoutError
from ._server import Server
from ._socket import Address, ReadableBuffer, Socket, WritableBuffer
from ._tls import TLS

__all__ = ["Request", "ThreadingTCPServer", "ThreadingUnixStreamServer"]

FOREVER = 1_000_000  # of the intervals in which a client waits for a worker


class Request:
    """The part of `socket.socket` that handlers use; `connection` is the netserver `Socket`."""

    def __init__(self, connection: Socket) -> None:
        self.connection = connection
        self._timeout: Optional[float] = None

    def recv(self, size: int) -> bytes:
        return self.connection.recv(size) or b""

    def recv_into(self, buffer: WritableBuffer, size: int = 0) -> int:
        return self.connection.recv_into(buffer, size) or 0

    def sendall(self, data: ReadableBuffer) -> None:
        self.connection.send(data)

    def send(self, data: ReadableBuffer) -> int:
        self.connection.send(data)
        return memoryview(data).nbytes

    def settimeout(self, seconds: Optional[float]) -> None:
        """How long a call may wait. 0, which would mean a non-blocking socket, is an error."""
        if seconds == 0:
            raise ValueError("a worker's socket is in blocking mode")
        self.connection.set_io_timeout(seconds or 0)
        self._timeout = seconds

    def gettimeout(self) -> Optional[float]:
        return self._timeout

    def setsockopt(self, *option: Any) -> None:
        with socket.socket(fileno=os.dup(self.fileno())) as same:
            same.setsockopt(*option)

    def getsockopt(self, *option: int) -> Any:
        with socket.socket(fileno=os.dup(self.fileno())) as same:
            return same.getsockopt(*option)

    def getpeername(self) -> Address:
        return self.connection.getpeername()

    def getsockname(self) -> Address:
        return self.connection.getsockname()

    def fileno(self) -> int:
        return self.connection.fileno()

    def shutdown(self, how: int) -> None:
        self.connection.shutdown(how)

    def close(self) -> None:
        self.connection.close()

    def makefile(
        self, mode: str = "r", buffering: Optional[int] = None, **text: Optional[str]
    ) -> Any:
        """As `socket.makefile`: `text` is `encoding`, `errors`, `newline`."""
        if not set(mode) <= set("rwb"):
            raise ValueError(f"invalid mode {mode!r}")
        raw, size = _Raw(self), io.DEFAULT_BUFFER_SIZE if buffering in (None, -1) else buffering
        if size == 0:
            if "b" not in mode:
                raise ValueError("unbuffered streams must be binary")
            return raw
        assert size is not None
        file: Any
        if "r" in mode and "w" in mode:
            file = io.BufferedRWPair(raw, raw, size)
        else:
            file = io.BufferedWriter(raw, size) if "w" in mode else io.BufferedReader(raw, size)
        return file if "b" in mode else io.TextIOWrapper(file, **text)  # type: ignore[arg-type]


class _Raw(io.RawIOBase):
    def __init__(self, request: Request) -> None:
        self._request = request

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._request.recv_into(buffer)

    def write(self, data: Any) -> int:
        return self._request.send(data)

    def fileno(self) -> int:
        return self._request.fileno()


class _Workers(socketserver.BaseServer):
    max_threads = 128  #: Handlers that run at the same time: 1 to 4096.
    drain_timeout = 5.0  #: How long handlers may go on when the server ends, in seconds.
    _server: Optional[Server] = None
    fileno: Callable[[], int]

    def __init__(
        self, server_address: Any, RequestHandlerClass: Callable[..., Any],
        bind_and_activate: bool = True, *, tls: Optional[TLS] = None,
    ) -> None:  # fmt: skip
        self._tls = tls
        self._ended = threading.Event()
        self._ended.set()
        super().__init__(server_address, RequestHandlerClass, bind_and_activate)  # type: ignore[call-arg]

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        """Serves until `shutdown`. Calls `service_actions` every `poll_interval` seconds."""
        config = Config(
            non_blocking=False, max_thread=self.max_threads, max_retry=FOREVER, max_waiting=FOREVER,
            drain_timeout=self.drain_timeout,
        )  # fmt: skip
        server = Server(self._serve, f"fd:{self.fileno()}", config, tls=self._tls)
        self._ended.clear()
        self._server = server
        try:
            with server:
                while not server.is_stopped:
                    try:
                        server.wait(poll_interval)
                    except TimeoutError:
                        self.service_actions()
        finally:
            self._server = None
            self._ended.set()

    def shutdown(self) -> None:
        """Stops `serve_forever`, and returns when it has ended."""
        server = self._server
        if server is not None:
            server.request_stop()
        self._ended.wait()

    def _serve(self, connection: Socket) -> None:
        request: Any = Request(connection)
        address: Any = connection.getpeername()
        try:
            if self.verify_request(request, address):
                self.finish_request(request, address)
        except Exception:
            self.handle_error(request, address)
        finally:
            self.shutdown_request(request)


class ThreadingTCPServer(_Workers, socketserver.TCPServer):
    """`socketserver.ThreadingTCPServer` with a pool of workers."""

    request_queue_size = 4096


class ThreadingUnixStreamServer(_Workers, socketserver.UnixStreamServer):
    """`socketserver.ThreadingUnixStreamServer` with a pool of workers."""

    request_queue_size = 4096
