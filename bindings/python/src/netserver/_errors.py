"""The exceptions: one class for each status, below `Error`. Where Python has a class for the same
thing, that is a base too: `except ConnectionResetError` and `except TimeoutError` do what they say.
"""

from __future__ import annotations

import builtins
from typing import Any, Union

from ._enums import Status, string
from ._native import ffi, lib


class Error(Exception):
    """What failed: `str()` is a sentence, `status` says which failure it is.

    `os_code` is the `errno` of the operating system, `handler_code` the negative number of a handler
    in another language; 0 where there is none.
    """

    status = Status.HANDLER

    def __init__(self, message: str = "", os_code: int = 0, handler_code: int = 0) -> None:
        super().__init__(message or self.status.message)
        self.message = message or self.status.message
        self.os_code = os_code
        self.handler_code = handler_code
        if isinstance(self, OSError):
            OSError.__init__(self, os_code or None, self.message)

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.os_code, self.handler_code)


class InvalidError(Error, ValueError):
    """An argument is not valid."""

    status = Status.INVALID


class StateError(Error, RuntimeError):
    """The server, TLS object or socket is in the wrong state for this call."""

    status = Status.STATE


class TimeoutError(Error, builtins.TimeoutError):
    """A deadline passed."""

    status = Status.TIMEOUT


class ClosedError(Error, ConnectionAbortedError):
    """The connection is closed, or no connection has this id."""

    status = Status.CLOSED


class ResetError(Error, ConnectionResetError):
    """The peer reset the connection, or the transport failed."""

    status = Status.RESET


class BufferFullError(Error, BufferError):
    """The outbound queue would pass `send_limit`; nothing was sent."""

    status = Status.BUFFER_FULL


class RejectedError(Error):
    """No worker became free in time."""

    status = Status.REJECTED


class DetachedError(Error, RuntimeError):
    """The socket is detached from the server."""

    status = Status.DETACHED


class NotNonBlockingError(Error, RuntimeError):
    """Only a non-blocking server can do this."""

    status = Status.NOT_NON_BLOCKING


class NotInHandlerError(Error, RuntimeError):
    """Only a callback of this connection, on its thread, can do this."""

    status = Status.NOT_IN_HANDLER


class BusyError(Error, RuntimeError):
    """A callback of the same server cannot do this; or the socket is in use, or has buffered bytes."""

    status = Status.BUSY


class DeadlockError(Error, RuntimeError):
    """The call would wait for its own thread."""

    status = Status.DEADLOCK


class PanicError(Error):
    """A bug in the library."""

    status = Status.PANIC


class HandlerError(Error):
    """A handler returned a negative number of its own."""

    status = Status.HANDLER


class AddressError(Error, OSError):
    """The service or host cannot be resolved."""

    status = Status.ADDRESS


class ListenError(Error, OSError):
    """Binding or listening failed."""

    status = Status.LISTEN


class IOError(Error, OSError):
    """Another failure of the operating system."""

    status = Status.IO


class NoMemoryError(Error, OSError):
    """No slot is left for a connection, or the kernel has no memory for it."""

    status = Status.NO_MEMORY


class ThreadError(Error, OSError):
    """A thread cannot be created."""

    status = Status.THREAD


class UnsupportedError(Error, NotImplementedError):
    """This system or build cannot do it."""

    status = Status.UNSUPPORTED


class AcceptError(Error, OSError):
    """Accepting a connection failed."""

    status = Status.ACCEPT


class HookError(Error):
    """`on_start` or `on_thread_start` failed: `__cause__` is why."""

    status = Status.HOOK


class TLSError(Error, OSError):
    """TLS failed, or the peer broke its rules."""

    status = Status.TLS


class TruncatedError(Error, ConnectionError):
    """The stream ended without the close_notify of TLS: it may be cut short."""

    status = Status.TRUNCATED


class HandshakeError(TLSError):
    """The TLS handshake failed."""

    status = Status.HANDSHAKE


class CertificateError(TLSError, ValueError):
    """A certificate or key cannot be used."""

    status = Status.CERTIFICATE


class ConnectError(Error, ConnectionError):
    """Connecting failed."""

    status = Status.CONNECT


class ProxyError(Error):
    """The PROXY header is missing or bad, or comes from no trusted proxy."""

    status = Status.PROXY


class LimitError(Error):
    """Connections were refused beyond a limit of their address."""

    status = Status.LIMIT


_CLASSES: dict[int, type[Error]] = {c.status: c for c in Error.__subclasses__() + TLSError.__subclasses__()}


def error_of(status: int, message: str = "", os_code: int = 0) -> Error:
    """Returns the exception of a negative status."""
    return _CLASSES.get(status, Error)(message, os_code)


def error_of_c(error: Any) -> Error:
    """Returns the exception of an `ns_error`, which stays the caller's."""
    status = lib.ns_error_status(error)
    message = string(lib.ns_error_message(error))
    codes = lib.ns_error_os_code(error), lib.ns_error_handler_code(error)
    return _CLASSES.get(status, Error)(message, *codes)


def check(status: int) -> int:
    """Returns a result that is not negative; raises the exception of another one."""
    if status < 0:
        raise error_of(status)
    return status


def for_c(text: Union[str, bytes]) -> bytes:
    """Returns a text for the library. C ends it at its first NUL, so it must have none."""
    encoded = text.encode() if isinstance(text, str) else text
    if b"\0" in encoded:
        raise InvalidError(f"{text!r} has a NUL")
    return encoded


class Reported:
    """The `err` argument of one call: `check` raises what the call wrote there."""

    def __init__(self) -> None:
        self.pointer = ffi.new("ns_error **")

    def check(self) -> None:
        if self.pointer[0] != ffi.NULL:
            try:
                raise error_of_c(self.pointer[0])
            finally:
                lib.ns_error_free(self.pointer[0])
