"""Connections: borrowed in their callbacks, or detached and the program's own."""

from __future__ import annotations

import contextlib
import socket as _socket
import struct
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Optional, Union

from ._enums import TLSVersion, string, text_of
from ._errors import (
    BusyError, ClosedError, Error, NotInHandlerError, Reported, check, error_of,
)  # fmt: skip
from ._native import ffi, lib
from ._objects import milliseconds
from ._tls import TLS, TLSInfo

if TYPE_CHECKING:
    from ._server import Server

ReadableBuffer = Union[bytes, bytearray, memoryview]
WritableBuffer = Union[bytearray, memoryview]
#: As `socket.getpeername` returns it.
Address = Union[str, bytes, tuple[str, int], tuple[str, int, int, int], None]

BUFFER_SIZE = 65536
_WOULD_BLOCK = int(lib.NS_ERR_WOULD_BLOCK)
_without_zeros = ffi.new_allocator(should_clear_after_alloc=False)
_recv, _send, _unpack = lib.borrowed_recv, lib.borrowed_send, ffi.unpack


class _Buffer(threading.local):
    """One receive buffer for each thread, not for each connection: a call uses it and copies."""

    def __init__(self) -> None:
        self.pointer = _without_zeros("char[]", BUFFER_SIZE)


_buffer = _Buffer()


class Socket:
    """A connection. The calls are for its callbacks; elsewhere they raise `NotInHandlerError`, but
    for `id`, `server` and `data`: `Server.send` and its relatives take the id from anywhere.

    The object is the same in all callbacks of a connection. `data` is for the program's own use.
    """

    __slots__ = ("__weakref__", "_id", "_number", "_server", "data")

    def __init__(self, server: Server, number: int) -> None:
        self._server = server
        self._number = number
        self._id = 0
        self.data: Any = None
        self._id = self.id

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._id}>"

    # -- bytes --------------------------------------------------------------------------------

    def recv(self, size: int = BUFFER_SIZE) -> Optional[bytes]:
        """Returns at most `size` bytes; b"" at the end of the stream; None in non-blocking mode when
        nothing can be read now."""
        pointer = _buffer.pointer if size <= BUFFER_SIZE else _without_zeros("char[]", size)
        n: int = _recv(self._number, pointer, size)
        if n > 0:
            received: bytes = _unpack(pointer, n)
            return received
        if n == 0:
            return b""
        if n == _WOULD_BLOCK:
            return None
        raise self._failure(n)

    def recv_into(self, buffer: WritableBuffer, size: int = 0) -> Optional[int]:
        """`recv` into a buffer, at most `size` bytes of it if that is not 0. Returns how many bytes
        came, 0 at the end of the stream, or None."""
        pointer = ffi.from_buffer(buffer, require_writable=True)
        n: int = self._call(lib.ns_socket_recv, pointer, min(size or len(pointer), len(pointer)))
        if n >= 0:
            return n
        if n == _WOULD_BLOCK:
            return None
        raise self._failure(n)

    def send(self, data: ReadableBuffer) -> None:
        """Sends all of the data. Non-blocking mode: all or nothing, what the kernel does not take is
        queued; `BufferFullError` above `send_limit`."""
        if type(data) is not bytes:
            data = ffi.from_buffer(data)
        status: int = _send(self._number, data, len(data))
        if status < 0:
            raise self._failure(status)

    def sendv(self, pieces: Sequence[ReadableBuffer]) -> None:
        """`send` of several pieces in a row, at most 1024."""
        kept = [ffi.from_buffer(piece) for piece in pieces]
        pointers, lengths = ffi.new("void *[]", kept), [len(piece) for piece in kept]
        self._check(self._call(lib.ns_socket_sendv, pointers, lengths, len(kept)))

    def flush(self) -> None:
        """Sends immediately what was gathered."""
        self._check(self._call(lib.ns_socket_flush))

    @contextlib.contextmanager
    def corked(self) -> Iterator[None]:
        """Blocking mode: what is sent inside `with` leaves together at its end."""
        self._check(self._call(lib.ns_socket_cork))
        try:
            yield
        finally:
            self._check(self._call(lib.ns_socket_uncork))

    @property
    def queued(self) -> int:
        """How many bytes are queued and not yet with the kernel."""
        return int(self._call(lib.ns_socket_queued))

    # -- the end ------------------------------------------------------------------------------

    def shutdown(self, how: int = _socket.SHUT_WR) -> None:
        """Ends a direction: `socket.SHUT_RD`, `SHUT_WR`, `SHUT_RDWR`. What is queued leaves first."""
        self._check(self._call(lib.ns_socket_shutdown, how))

    def close(self) -> None:
        """Closes the connection; what is queued leaves first."""
        self._check(self._call(lib.ns_socket_close))

    def abort(self) -> None:
        """Resets the connection; what is queued is lost."""
        self._check(self._call(lib.ns_socket_abort))

    @property
    def closed(self) -> bool:
        """Whether it is closed or cannot be used here."""
        return bool(self._call(lib.ns_socket_is_closed))

    @property
    def os_error(self) -> int:
        """The `errno` of the failure that ended the connection; 0 for none."""
        return int(self._call(lib.ns_socket_os_error))

    # -- what it is ---------------------------------------------------------------------------

    @property
    def server(self) -> Server:
        return self._server

    @property
    def id(self) -> int:
        """The connection's id, for the calls of `Server`; never given to another connection. It is
        also right outside of callbacks. An attach gives a new one."""
        current: int = lib.ns_socket_id(lib.borrowed(self._number))
        if current:
            self._id = current
        return self._id

    def fileno(self) -> int:
        """The descriptor, for socket options: not to read, write or close. -1 for none."""
        return int(self._call(lib.ns_socket_fd))

    @property
    def service(self) -> int:
        """The number of the service that the connection came by; -1 for none."""
        return int(self._call(lib.ns_socket_service))

    @property
    def peer(self) -> str:
        """The peer's address as text: "127.0.0.1:4711", "[::1]:4711", "unix:"."""
        return self._text(lib.ns_socket_peer)

    @property
    def local(self) -> str:
        """The address of this side as text."""
        return self._text(lib.ns_socket_local)

    @property
    def transport_peer(self) -> str:
        """The address that the connection itself comes from: behind a PROXY header the proxy's."""
        return self._text(lib.ns_socket_transport_peer)

    def proxy_tlv(self, kind: int) -> Optional[bytes]:
        """The first extra of this type in the PROXY header; None where there is none."""
        room, length = 256, 256
        while length >= room:
            room = length + 1
            buffer = ffi.new("char[]", room)
            length = self._call(lib.ns_socket_proxy_tlv, kind, buffer, room)
        if length == lib.NS_ERR_STATE:
            return None
        self._check(length)
        data: bytes = ffi.unpack(buffer, length)
        return data

    def getpeername(self) -> Address:
        """The peer's address as `socket.getpeername` returns it; None where it is not known."""
        return _address(self._bytes(lib.ns_socket_peer_addr))

    def getsockname(self) -> Address:
        """The address of this side, as `getpeername`."""
        return _address(self._bytes(lib.ns_socket_local_addr))

    def peer_credentials(self) -> tuple[int, int, int]:
        """The process, user and group of the peer of a unix socket."""
        pid, uid, gid = ffi.new("int32_t *"), ffi.new("uint32_t *"), ffi.new("uint32_t *")
        self._check(self._call(lib.ns_socket_peer_credentials, pid, uid, gid))
        return pid[0], uid[0], gid[0]

    # -- deadlines, pauses --------------------------------------------------------------------

    def set_timer(self, seconds: float) -> None:
        """Has `on_timeout` called once, so long from now; 0 clears the timer. Without an
        `on_timeout` the connection is closed."""
        self._check(self._call(lib.ns_socket_set_timer_ms, milliseconds(seconds)))

    def set_io_timeout(self, seconds: float) -> None:
        """Blocking mode: how long a `recv` or `send` may wait before it raises `TimeoutError`; 0 is
        off."""
        self._check(self._call(lib.ns_socket_set_io_timeout_ms, milliseconds(seconds)))

    def pause(self) -> None:
        """Non-blocking mode: the handler is called for no new input until `resume`."""
        self._check(self._call(lib.ns_socket_pause))

    def resume(self) -> None:
        """Ends `pause`. From elsewhere: call `Server.wake`, and this in `on_wake`."""
        self._check(self._call(lib.ns_socket_resume))

    # -- TLS ----------------------------------------------------------------------------------

    def starttls(self, tls: TLS, ahead: bytes = b"") -> None:
        """Upgrades a plain connection to TLS, after the program's go-ahead was sent. `ahead` is what
        was received beyond the client's request."""
        self._check(self._call(lib.ns_socket_starttls, tls._pointer, ahead, len(ahead)))

    def tls_info(self) -> TLSInfo:
        """What the handshake agreed; `StateError` without TLS."""
        out = ffi.new("ns_tls_info *")
        self._check(self._call(lib.ns_socket_tls_info, out, ffi.sizeof("ns_tls_info")))
        texts = (string(text) for text in (out.cipher_suite, out.alpn, out.server_name))
        suite, alpn, name = texts
        return TLSInfo(TLSVersion(out.version), bool(out.resumed), suite, alpn or None, name or None)

    def peer_certificate(self) -> Optional[bytes]:
        """The client's own certificate in DER, which was verified; None where there is none."""
        return self._bytes(lib.ns_socket_tls_peer_certificate, 8192) or None

    def peer_subject(self) -> Optional[str]:
        """The subject of that certificate as text (RFC 4514): "CN=ann,O=Example"."""
        return self._text(lib.ns_socket_tls_peer_subject) or None

    # -- detach -------------------------------------------------------------------------------

    def detach(self) -> DetachedSocket:
        """Takes the connection out of a non-blocking server, in any of its callbacks but `on_close`.
        Any one thread at a time can use the new socket; `Server.attach` gives it back."""
        reported = Reported()
        borrowed = lib.borrowed(self._number)
        owned = self._server._use(lib.ns_detach, borrowed, reported.pointer)
        if owned == ffi.NULL and borrowed == ffi.NULL:
            lib.ns_error_free(reported.pointer[0])
            raise self._failure(lib.NS_ERR_NOT_IN_HANDLER)
        reported.check()
        return DetachedSocket(owned, self)

    # -- inside -------------------------------------------------------------------------------

    def _call(self, function: Any, *arguments: Any) -> Any:
        return function(lib.borrowed(self._number), *arguments)

    def _check(self, status: int) -> None:
        if status < 0:
            raise self._failure(status)

    def _failure(self, status: int) -> Error:
        if lib.borrowed(self._number) == ffi.NULL:
            return NotInHandlerError(f"{self!r} is used outside of its callbacks")
        return error_of(status, os_code=self.os_error)

    def _text(self, function: Any) -> str:
        return text_of(lambda buffer, size: self._call(function, buffer, size))

    def _bytes(self, function: Any, room: int = 128) -> bytes:
        buffer = ffi.new("char[]", room)
        length = self._call(function, buffer, room)
        if length > room:
            return self._bytes(function, length)
        data: bytes = ffi.unpack(buffer, length)
        return data


class DetachedSocket(Socket):
    """A connection that the program owns, in blocking mode. One thread at a time may use it, else
    `BusyError`. It ends with `close`, with `release_fd`, or with `Server.attach`; also `with` closes
    it. One that is forgotten is reset.
    """

    __slots__ = ("_lock", "_owned", "_socket")

    def __init__(self, owned: Any, socket: Optional[Socket]) -> None:
        self._owned = owned
        self._lock = threading.Lock()
        self._socket = socket
        self._number = socket._number if socket else 0
        self._id = self.id

    @classmethod
    def from_fd(cls, fd: int) -> DetachedSocket:
        """Makes one of a connected stream socket, whose descriptor is the library's then."""
        reported = Reported()
        owned = lib.ns_socket_from_fd(fd, reported.pointer)
        reported.check()
        return cls(owned, None)

    def __enter__(self) -> DetachedSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        owned, self._owned = getattr(self, "_owned", None), None
        if owned is not None:
            lib.ns_socket_abort(owned)  # else the next call could wait
            lib.ns_socket_free(owned)

    @property
    def data(self) -> Any:
        """The same as the `data` of the connection in its server."""
        return self._socket.data if self._socket else None

    @property
    def server(self) -> Server:
        """The server that it came from."""
        if self._socket is None:
            raise AttributeError("the socket comes from no server")
        return self._socket._server

    @property
    def id(self) -> int:
        return int(self._call(lib.ns_socket_id)) if self._owned is not None else self._id

    def recv(self, size: int = BUFFER_SIZE) -> bytes:
        pointer = _without_zeros("char[]", size)
        n: int = self._call(lib.ns_socket_recv, pointer, size)
        self._check(n)
        received: bytes = ffi.unpack(pointer, n)
        return received

    def send(self, data: ReadableBuffer) -> None:
        pointer = ffi.from_buffer(data)
        self._check(self._call(lib.ns_socket_send, pointer, len(pointer)))

    def close(self) -> None:
        """Closes and frees it. Where bytes are unsent, unacknowledged or unread this waits for the
        peer, for `linger_timeout` at most. Closing twice is harmless."""
        if self._owned is not None:
            self._call(lib.ns_socket_free)
            self._owned = None

    def release_fd(self) -> int:
        """Gives the program the descriptor, in blocking mode. `BusyError` with buffered bytes,
        `UnsupportedError` over TLS: the socket is then as it was."""
        fd = check(self._call(lib.ns_socket_release_fd))
        self._owned = None
        return fd

    def detach(self) -> DetachedSocket:
        raise error_of(lib.NS_ERR_DETACHED)

    def _call(self, function: Any, *arguments: Any) -> Any:
        if not self._lock.acquire(blocking=False):
            raise BusyError("another thread uses the socket")
        try:
            if self._owned is None:
                raise ClosedError("the socket was closed, released or attached")
            return function(self._owned, *arguments)
        finally:
            self._lock.release()

    def _failure(self, status: int) -> Error:
        return error_of(status, os_code=self.os_error)


def _address(raw: bytes) -> Address:
    if len(raw) < 2:
        return None
    (family,) = struct.unpack_from("=H", raw)
    if family == _socket.AF_INET:
        (port,) = struct.unpack_from("!H", raw, 2)
        return _socket.inet_ntop(family, raw[4:8]), port
    if family == _socket.AF_INET6:
        port, flow = struct.unpack_from("!HI", raw, 2)
        (scope,) = struct.unpack_from("=I", raw, 24)
        return _socket.inet_ntop(family, raw[8:24]), port, flow, scope
    path = raw[2:]
    return path if path[:1] == b"\0" else path.split(b"\0")[0].decode("utf-8", "surrogateescape")
