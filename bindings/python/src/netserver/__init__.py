"""A TCP and TLS server inside your program.

    from netserver import Server

    def echo(socket):
        while data := socket.recv():
            socket.send(data)
        if data is not None:  # the end of the stream
            socket.close()

    with Server(echo, "5000") as server:
        server.serve_forever()
"""

from ._config import Config
from ._enums import CloseReason, State, Status, ThreadKind, TLSVersion, string
from ._errors import (
    AcceptError, AddressError, BufferFullError, BusyError, CertificateError, ClosedError,
    ConnectError, DeadlockError, DetachedError, Error, HandlerError, HandshakeError, HookError,
    InvalidError, IOError, ListenError, NoMemoryError, NotInHandlerError, NotNonBlockingError,
    PanicError, RejectedError, ResetError, StateError, ThreadError, TimeoutError, TLSError,
    TruncatedError, UnsupportedError,
)  # fmt: skip
from ._loops import Timer, Watch
from ._native import lib as _lib
from ._server import Server
from ._socket import DetachedSocket, Socket
from ._stats import Stats, ThreadStats
from ._tls import TLS, TLSInfo

__version__ = string(_lib.ns_version_string())


def has_feature(name: str) -> bool:
    """Whether the library has a feature: "tls", "unix", "systemd", "hosted", …"""
    return bool(_lib.ns_has_feature(name.encode()))


__all__ = [
    "AcceptError", "AddressError", "BufferFullError", "BusyError", "CertificateError",
    "CloseReason", "ClosedError", "Config", "ConnectError", "DeadlockError", "DetachedError",
    "DetachedSocket", "Error", "HandlerError", "HandshakeError", "HookError", "IOError",
    "InvalidError", "ListenError", "NoMemoryError", "NotInHandlerError", "NotNonBlockingError",
    "PanicError", "RejectedError", "ResetError", "Server", "Socket", "State", "StateError",
    "Stats", "Status", "TLS", "TLSError", "TLSInfo", "TLSVersion", "ThreadError", "ThreadKind",
    "ThreadStats", "TimeoutError", "Timer", "TruncatedError", "UnsupportedError", "Watch",
    "has_feature",
]  # fmt: skip
