"""Servers."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterable
from typing import Any, Callable, Optional, Union

from . import _config
from ._config import Config
from ._enums import CloseReason, State, Status, ThreadKind, text_of
from ._errors import BusyError, Error, HookError, InvalidError, Reported, StateError, check, error_of, for_c
from ._handle import Handle
from ._native import ffi, lib
from ._objects import ON_DROP, milliseconds, objects, pointer
from ._socket import DetachedSocket, ReadableBuffer, Socket
from ._stats import Stats, ThreadStats, stats_of, thread_stats_of
from ._tls import TLS

Handler = Callable[[Socket], object]
Hook = Callable[["Server"], object]
ThreadHook = Callable[["Server", ThreadKind, int], object]

#: Python handles signals between two calls: one that comes just before a call must not wait long.
SLICE_MS = 250


class Server(Handle):
    """A TCP or TLS server.

        with Server(handler, "5000") as server:
            server.serve_forever()

    `service` is where it listens: "5000", "http", "0" (any free port), "127.0.0.1:5000",
    "[::1]:5000", "unix:/path", "unix:@name", "fd:3", "systemd".

    `handler(socket)`: in non-blocking mode it is called whenever the socket can be read, and closes
    the socket itself; in blocking mode once for each connection, and may block.

    A non-blocking server with one loop, which is the default, is *hosted*: all callbacks run on the
    thread that is in `serve_forever`, `run_once`, `stop` or `close`, or on that of an asyncio loop
    (`async with`). Other servers call back on threads of the library.

    Callbacks: `on_open(socket)` (False refuses the connection), `on_close(socket, reason)`,
    `on_drain(socket)`, `on_timeout(socket)`, `on_wake(socket)`, `on_start(server)`,
    `on_stop(server)`, `on_thread_start(server, kind, number)`, `on_thread_stop(…)`,
    `shutdown_handler(socket)` (True stops the server, False does not, None waits for more).

    `on_exception(socket, error)` gets what a handler raised, and what failed elsewhere (socket is
    None where there is none). In non-blocking mode it closes the socket, or it goes on. Without an
    `on_exception` the socket is closed, and what a handler raised is printed by `sys.excepthook`,
    in asyncio by the loop's exception handler; not so a `ConnectionError`.
    """

    def __init__(
        self,
        handler: Handler,
        service: str = "0",
        config: Optional[Config] = None,
        *,
        tls: Optional[TLS] = None,
        on_exception: Optional[Callable[[Optional[Socket], Exception], object]] = None,
        on_open: Optional[Handler] = None,
        on_close: Optional[Callable[[Socket, CloseReason], object]] = None,
        on_drain: Optional[Handler] = None,
        on_timeout: Optional[Handler] = None,
        on_wake: Optional[Handler] = None,
        on_start: Optional[Hook] = None,
        on_stop: Optional[Hook] = None,
        on_thread_start: Optional[ThreadHook] = None,
        on_thread_stop: Optional[ThreadHook] = None,
        shutdown_handler: Optional[Callable[[Socket], Optional[bool]]] = None,
    ) -> None:
        self._handler = handler
        self._on_exception = on_exception
        self._on_open = on_open
        self._on_close = on_close
        self._on_drain = on_drain
        self._on_timeout = on_timeout
        self._on_wake = on_wake
        self._on_start = on_start
        self._on_stop = on_stop
        self._on_thread_start = on_thread_start
        self._on_thread_stop = on_thread_stop
        self._shutdown_handler = shutdown_handler
        super().__init__(service, config or Config(), tls)

    # -- life ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Listens and accepts; `address` and `port` are final then. A hosted server serves when its
        turns are run, another one from now on. A server runs once."""
        flags = lib.NS_START_HOSTED if self._hosted else lib.NS_START_BACKGROUND
        reported, self._hook_error = Reported(), None
        is_new = self._number not in objects
        objects[self._number] = self  # lives until `close` from now on
        try:
            self._use(lib.ns_server_start, flags, reported.pointer)
            reported.check()
        except BaseException as error:
            if is_new:
                del objects[self._number]
            if isinstance(error, HookError) and self._hook_error is not None:
                if not isinstance(self._hook_error, Exception):
                    raise self._hook_error  # KeyboardInterrupt and the like stay what they are
                raise error from self._hook_error
            raise

    def serve_forever(self) -> None:
        """Serves until the server is stopped; starts it if it is new. KeyboardInterrupt and whatever
        else a signal handler raises leaves it, and so does an exception of a callback that is no
        `Exception`; the server goes on, until `close`."""
        if self.state is State.NEW:
            self.start()
        if not self._hosted:
            self.wait()
            return
        self._is_left = False
        try:
            while self._turn(SLICE_MS):
                pass
        except BaseException:
            self._is_left = True
            raise

    def run_once(self, timeout: Optional[float] = 0.0) -> bool:
        """Runs one bounded turn of a hosted server, and waits for something to do for `timeout`
        seconds at most (None: forever; a signal ends the wait). Returns False once the server has
        stopped. `BusyError` in a callback, and while another thread runs turns."""
        return self._turn(-1 if timeout is None else milliseconds(timeout))

    def fileno(self) -> int:
        """A descriptor of a hosted server that is readable exactly when `run_once` has something to
        do: for `selectors` and other loops."""
        return check(self._use(lib.ns_server_poll_fd))

    def wait(self, timeout: Optional[float] = None) -> None:
        """Waits until the server has stopped, whatever stopped it; `TimeoutError` after `timeout`
        seconds. The thread that runs the turns of a hosted server runs them here too."""
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            rest = SLICE_MS / 1000 if end is None else max(0.0, end - time.monotonic())
            try:
                slice_ms = min(SLICE_MS, milliseconds(rest)) if self._hosted else 0
                status = self._use(lib.ns_server_wait, slice_ms)
                if status == Status.TIMEOUT and self._has_ended:
                    status = self._use(lib.ns_server_wait, -1)  # its last thread is ending
            except StateError:
                if self._is_closed():
                    return
                raise
            self._raise_interruption()
            if status != Status.TIMEOUT:
                check(status)
                return
            if end is not None and time.monotonic() >= end:
                raise error_of(status)
            if not self._hosted:
                self._awake.wait(rest)

    def stop(self, timeout: Optional[float] = None) -> None:
        """Stops the server in order, and returns when it has stopped. What does not end in
        `timeout` seconds (None: the config's `drain_timeout`) is cut. In a callback it only requests
        the stop. `TimeoutError` if a handler does not return."""
        self._take_over()
        if timeout is None:
            check(self._use(lib.ns_server_stop))
        else:
            check(self._use(lib.ns_server_stop_within, milliseconds(timeout)))

    def request_stop(self) -> None:
        """Requests a stop and returns immediately: from any thread, callback or signal handler."""
        check(self._use(lib.ns_server_request_stop))

    def quiesce(self) -> None:
        """Stops accepting for good, and returns when it does; connections are served on, until `stop`.
        In a callback it only requests that. `TimeoutError` if a handler does not return."""
        self._take_over()
        check(self._use(lib.ns_server_quiesce))

    def request_quiesce(self) -> None:
        """Requests that and returns immediately: from any thread, callback or signal handler."""
        check(self._use(lib.ns_server_request_quiesce))

    def wait_idle(self, timeout: Optional[float] = None) -> None:
        """Waits until no connection is open or waiting, usually between `quiesce` and `stop`;
        `TimeoutError` after `timeout` seconds. The thread that runs the turns of a hosted server runs
        them here too. Detached sockets do not count."""
        self._take_over()
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            rest = SLICE_MS / 1000 if end is None else max(0.0, end - time.monotonic())
            status = self._use(lib.ns_server_wait_idle, min(SLICE_MS, milliseconds(rest)))
            self._raise_interruption()
            if status != Status.TIMEOUT or (end is not None and time.monotonic() >= end):
                check(status)
                return

    def listener_fd(self, number: int = 0) -> int:
        """Lends a listening descriptor, 0, 1, ... in the order of the services: it stays the server's.
        A duplicate is the service "fd:N" of a successor; then `quiesce`, and none of the clients is
        refused. Workers lend with `Config(lend_listeners=True)`."""
        return check(self._use(lib.ns_server_listener_fd, number))

    def close(self) -> None:
        """Stops the server and frees it. Closing twice is harmless. `BusyError` in a callback,
        `TimeoutError` if a handler does not return: it may then be called again."""
        if self._c is None:
            return
        if not self._is_forked:
            if self._asyncio is not None:
                self._asyncio.remove_reader(self.fileno())
                self._asyncio = None
            self.stop()
            if self._use(lib.ns_server_wait, 0) == Status.DEADLOCK:
                raise BusyError("a callback of the server cannot close it")
        self._free()
        objects.pop(self._number, None)

    def __enter__(self) -> Server:
        if self.state is State.NEW:
            self.start()
        return self

    def __exit__(self, kind: object, error: Optional[BaseException], _: object) -> None:
        try:
            self.close()
        except TimeoutError:
            # KeyboardInterrupt and SystemExit stay what they are: the program ends, handler or not.
            if error is None or isinstance(error, Exception):
                raise

    # -- in asyncio -----------------------------------------------------------------------------

    async def __aenter__(self) -> Server:
        if not self._hosted:
            raise InvalidError("async with needs a non-blocking server with one loop")
        if self.state is State.NEW:
            self.start()
        loop = asyncio.get_running_loop()
        stopped: asyncio.Future[None] = loop.create_future()
        descriptor = self.fileno()

        def turn() -> None:
            if not self._turn(0):
                loop.remove_reader(descriptor)
                if not stopped.done():
                    stopped.set_result(None)

        loop.add_reader(descriptor, turn)
        self._asyncio, self._stopped = loop, stopped
        return self

    async def serve(self) -> None:
        """Serves in the asyncio loop of `async with` until the server is stopped."""
        if self._stopped is None:
            raise StateError("serve() belongs into `async with`")
        await asyncio.shield(self._stopped)

    async def __aexit__(self, *_: object) -> None:
        try:
            self.request_stop()
            await self.serve()
        finally:
            self.close()

    # -- places -------------------------------------------------------------------------------

    def add_service(self, service: str, tls: Optional[TLS] = None) -> int:
        """Has the server listen there too, with TLS of its own or without; before the start. Returns
        the service's number, which `Socket.service` shows."""
        reported = Reported()
        if tls is None:
            text = for_c(service)
            number = self._use(lib.ns_server_add_service, text, reported.pointer)
        else:
            what = for_c(service), tls._pointer
            number = self._use(lib.ns_server_add_service_tls, *what, reported.pointer)
        reported.check()
        return int(number)

    def set_service_proxy(self, service: int, versions: int) -> None:
        """Sets which versions of the PROXY protocol one service accepts, 0 for none, in place of
        `Config.proxy_protocol`; before the start."""
        reported = Reported()
        self._use(lib.ns_server_set_service_proxy, service, versions, reported.pointer)
        reported.check()

    def reload_tls(self, tls: TLS, service: int = 0) -> None:
        """Has the handshakes that begin from now on use other certificates. Open sessions go on."""
        reported = Reported()
        what = service, tls._pointer
        self._use(lib.ns_server_reload_service_tls, *what, reported.pointer)
        reported.check()

    @property
    def address(self) -> str:
        """The address of the first service, "0.0.0.0:5000", several joined by ", "; "" before the
        start."""
        return self.service_address(0)

    def service_address(self, service: int) -> str:
        function = lib.ns_server_service_address
        return text_of(lambda buffer, room: self._use(function, service, buffer, room))

    @property
    def port(self) -> int:
        """The port of the first service; 0 before the start and for a unix socket."""
        return int(self._use(lib.ns_server_port))

    @property
    def shutdown_port(self) -> int:
        """The shutdown port; 0 before the start and where there is none."""
        return int(self._use(lib.ns_server_shutdown_port))

    # -- state --------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        return State(self._use(lib.ns_server_state))

    @property
    def is_stopped(self) -> bool:
        """True before the start and after the stop."""
        return bool(self._use(lib.ns_server_is_stopped))

    @property
    def is_ready(self) -> bool:
        """True while the server accepts."""
        return bool(self._use(lib.ns_server_is_ready))

    @property
    def config(self) -> Config:
        """All settings, with the library's defaults."""
        config: Config = self._use(lambda c: _config.effective(lib.ns_server_config(c)))
        return config

    def stats(self) -> Stats:
        stats: Stats = self._use(stats_of)
        return stats

    def thread_stats(self, index: int) -> ThreadStats:
        """`stats` of one worker or loop."""
        stats: ThreadStats = self._use(thread_stats_of, index)
        return stats

    def report(self) -> str:
        """A report for people: state, threads, connections, counters."""
        return text_of(lambda buffer, room: self._use(lib.ns_server_report, buffer, room))

    def metrics(self) -> str:
        """The counters in the format of Prometheus."""
        return text_of(lambda buffer, room: self._use(lib.ns_server_metrics, buffer, room))

    # -- connections by id, from any thread ------------------------------------------------------

    def send(self, id: int, data: ReadableBuffer) -> None:
        """Queues data for a connection of a non-blocking server; `ClosedError` if it is gone."""
        bytes = ffi.from_buffer(data)
        check(self._use(lib.ns_server_send, id, bytes, len(bytes)))

    def broadcast(self, ids: Iterable[int], data: ReadableBuffer) -> int:
        """`send` to many. Returns how many accepted it; those that are gone or whose queue is full
        are left out."""
        kept, bytes = list(ids), ffi.from_buffer(data)
        return check(self._use(lib.ns_server_broadcast, kept, len(kept), bytes, len(bytes)))

    def broadcast_each(self, ids: Iterable[int], data: ReadableBuffer) -> list[Status]:
        """`broadcast` that returns how it went with each."""
        kept, bytes = list(ids), ffi.from_buffer(data)
        out = ffi.new("ns_status[]", len(kept))
        what = kept, len(kept), bytes, len(bytes), out
        check(self._use(lib.ns_server_broadcast_each, *what))
        return [Status(status) for status in out]

    def queued(self, id: int) -> int:
        """How many bytes were accepted for a connection and are not with the kernel."""
        return check(self._use(lib.ns_server_queued, id))

    def wake(self, id: int) -> None:
        """Has `on_wake` called for a connection, on its loop."""
        check(self._use(lib.ns_server_wake, id))

    def close_connection(self, id: int) -> None:
        """Closes a connection as `Socket.close` does."""
        check(self._use(lib.ns_server_close, id))

    def abort_connection(self, id: int) -> None:
        """Resets a connection as `Socket.abort` does."""
        check(self._use(lib.ns_server_abort, id))

    def shutdown_connection(self, id: int, how: int = socket.SHUT_WR) -> None:
        """Ends a direction of a connection as `Socket.shutdown` does."""
        check(self._use(lib.ns_server_shutdown, id, how))

    def connections(self) -> list[int]:
        """The ids of the connections that are open now."""
        items = ffi.new("ns_conn_id **")
        count = check(self._use(lib.connection_ids, items))
        try:
            return ffi.unpack(items[0], count) if count else []
        finally:
            lib.free(items[0])

    # -- connections of the program's own ---------------------------------------------------------

    def attach(self, detached: DetachedSocket) -> int:
        """Gives a detached socket to a non-blocking server, its former one or another. Returns the
        connection's new id. After a failure it is still the program's."""
        socket, former, reported = detached._socket, None, Reported()
        if socket is not None:
            former, socket._server = socket._server, self
        try:
            id = detached._call(lambda c: self._use(lib.ns_attach, c, reported.pointer))
            reported.check()
        except Error:
            if socket is not None and former is not None:
                socket._server = former
            raise
        detached._owned = None
        detached._id = id
        if socket is not None:
            socket._id = id
        return int(id)

    def adopt(self, connected: Union[int, socket.socket], data: Any = None) -> int:
        """Makes a connection of a connected or connecting stream socket, which is the server's from
        then on; `data` is that of its `Socket`. Returns its id."""
        fd = connected if isinstance(connected, int) else connected.fileno()
        id = self._bring(lib.ns_server_adopt, (fd,), data)
        if not isinstance(connected, int):
            connected.detach()
        return id

    def connect(self, service: str, timeout: float = 0.0, data: Any = None) -> int:
        """Connects to "host:port", "unix:/path" or "unix:@name" and makes a connection of it.
        Returns its id. A literal address does not wait. What fails later goes to `on_exception`."""
        what = for_c(service), milliseconds(timeout)
        return self._bring(lib.ns_server_connect, what, data)

    def _bring(self, function: Any, what: tuple[Any, ...], data: Any) -> int:
        reported = Reported()
        number = int(lib.new_number())
        connection = objects[number] = Socket(self, number)
        connection.data = data
        try:
            id = self._use(function, *what, pointer(number), ON_DROP, reported.pointer)
        except StateError:
            objects.pop(number, None)
            raise
        reported.check()
        connection._id = id
        return int(id)

    # -- inside -------------------------------------------------------------------------------

    def _set_callbacks(self, c_config: Any) -> None:
        """Sets those that the program has, and two that are always needed."""
        always = {"exception_handler": "on_exception", "on_stop": "on_stop"}
        if self._shutdown_handler is not None:
            always["shutdown_handler"] = "on_shutdown"
        names = "open", "close", "drain", "timeout", "wake", "start", "thread_start", "thread_stop"
        own = (f"on_{name}" for name in names if getattr(self, f"_on_{name}") is not None)
        for setter, name in [*always.items(), *((name, name) for name in own)]:
            function = ffi.addressof(lib, name)
            set_callback = getattr(lib, f"ns_config_set_{setter}")
            check(set_callback(c_config, function, pointer(self._number), ffi.NULL))
