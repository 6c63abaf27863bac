"""The functions that the C side calls: src/callbacks.c has one for each kind of callback.

No exception leaves them. One of a handler goes to the library under a number, and comes back from
there to the exception handler as the same object. An exception that is no `Exception`, such as
KeyboardInterrupt and SystemExit, leaves `serve_forever` instead.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, Callable, Optional

from ._enums import CloseReason, ThreadKind
from ._errors import Error, error_of_c
from ._native import ffi, lib
from ._objects import add, number, objects
from ._socket import Socket

if TYPE_CHECKING:
    from ._server import Server

#: A callback returns it that was interrupted: its connection closes.
INTERRUPTED = -(1 << 31) + 1
_REJECTED = int(lib.NS_ERR_REJECTED)
_WOULD_BLOCK = int(lib.NS_ERR_WOULD_BLOCK)

#: What came between two instructions of these functions: KeyboardInterrupt, on the main thread.
stray: list[BaseException] = []


def _on_stray(_: Any, error: BaseException, traceback: Optional[TracebackType]) -> None:
    stray.append(error.with_traceback(traceback))


def _callback(function: Any) -> Any:
    return ffi.def_extern(error=INTERRUPTED, onerror=_on_stray)(function)


def _procedure(function: Any) -> Any:
    return ffi.def_extern(onerror=_on_stray)(function)


def _socket_of(server: int, connection: int) -> Socket:
    socket: Optional[Socket] = objects.get(connection)
    if socket is None:
        socket = objects[connection] = Socket(objects[server], connection)
    return socket


def _fail(server: Server, error: BaseException) -> int:
    """Tells the library that the callback failed. Returns what the callback returns."""
    if not isinstance(error, Exception):
        server._interrupt(error)
        return INTERRUPTED
    code = error.status if isinstance(error, Error) else -1
    text = str(error) or type(error).__name__
    message = text.replace("\0", "\\0").encode("utf-8", "replace")
    result: int = lib.raise_in_callback(code, message, add(error))
    return result


@_callback
def py_handler(server: int, connection: int) -> int:
    socket = objects.get(connection)
    try:
        if socket is None:
            socket = _socket_of(server, connection)
        socket._server._handler(socket)
        return 0
    except BaseException as error:
        return _fail(objects[server], error)


def _event(name: str) -> None:
    attribute = f"_on_{name}"

    def event(server: int, connection: int) -> int:
        owner = objects[server]
        try:
            getattr(owner, attribute)(_socket_of(server, connection))
            return 0
        except BaseException as error:
            return _fail(owner, error)

    ffi.def_extern(f"py_{name}", error=INTERRUPTED, onerror=_on_stray)(event)


_event("drain")
_event("timeout")
_event("wake")


@_callback
def py_open(server: int, connection: int) -> int:
    owner = objects[server]
    try:
        accepted = owner._on_open(_socket_of(server, connection))
        return _REJECTED if accepted is False else 0
    except BaseException as error:
        return _fail(owner, error)


@_procedure
def py_close(server: int, connection: int, reason: int) -> None:
    owner = objects[server]
    owner._guard(lambda: owner._on_close(_socket_of(server, connection), CloseReason(reason)))


@_callback
def py_exception(server: int, connection: int, failure: Any) -> int:
    owner: Server = objects[server]
    try:
        socket = _socket_of(server, connection) if connection else None
        raised = objects.get(number(lib.ns_error_payload(failure)))
        if lib.ns_error_handler_code(failure) == INTERRUPTED:
            return INTERRUPTED
        if owner._on_exception is not None:
            owner._on_exception(socket, raised or error_of_c(failure))
            return 0
        # A peer that goes away is no event. What else the program does not expect, it is told.
        if raised is not None and not isinstance(raised, ConnectionError):
            owner._report(raised)
        elif socket is None:
            owner._report(error_of_c(failure))
        if socket is not None:
            lib.ns_socket_close(lib.borrowed(connection))
        return 0
    except BaseException as error:
        owner._guard(lambda: _reraise(error))
        return -1


def _reraise(error: BaseException) -> None:
    raise error


@_callback
def py_shutdown(server: int, connection: int) -> int:
    owner = objects[server]
    try:
        answer = owner._shutdown_handler(_socket_of(server, connection))
        if answer is None:
            return _WOULD_BLOCK if owner._hosted else 0
        return int(bool(answer))
    except BaseException as error:
        owner._guard(lambda: _reraise(error))
        return 0


@_callback
def py_start(server: int) -> int:
    owner = objects[server]
    return _hook(owner, lambda: owner._on_start(owner))


@_callback
def py_thread_start(server: int, kind: int, index: int) -> int:
    owner = objects[server]
    return _hook(owner, lambda: owner._on_thread_start(owner, ThreadKind(kind), index))


def _hook(owner: Server, function: Callable[[], object]) -> int:
    try:
        function()
        return 0
    except BaseException as error:
        owner._hook_error = error
        return -1


@_procedure
def py_stop(server: int) -> None:
    owner: Server = objects[server]
    on_stop = owner._on_stop
    if on_stop is not None:
        owner._guard(lambda: on_stop(owner))
    owner._has_ended = True
    owner._awake.set()


@_procedure
def py_thread_stop(server: int, kind: int, index: int) -> None:
    owner = objects[server]
    owner._guard(lambda: owner._on_thread_stop(owner, ThreadKind(kind), index))


@_callback
def py_watch(watch: int, events: int) -> int:
    server, function = objects[watch]
    try:
        function(events)
        return 0
    except BaseException as error:
        return _fail(server, error)


@_callback
def py_call(callable: int) -> int:
    server, function = objects[callable]
    try:
        function()
        return 0
    except BaseException as error:
        return _fail(server, error)


@_procedure
def py_drop(number: int) -> None:
    objects.pop(number, None)
