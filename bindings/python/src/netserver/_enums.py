"""The numbers of the C API that have a meaning by themselves."""

from __future__ import annotations

import enum
from typing import Any

from ._native import ffi, lib


class Status(enum.IntEnum):
    """What a call returned. The numbers are stable."""

    OK = 0
    INVALID = -1001
    STATE = -1002
    TIMEOUT = -1003
    CLOSED = -1004
    RESET = -1005
    WOULD_BLOCK = -1006
    BUFFER_FULL = -1007
    REJECTED = -1008
    DETACHED = -1009
    NOT_NON_BLOCKING = -1010
    NOT_IN_HANDLER = -1011
    BUSY = -1012
    DEADLOCK = -1013
    PANIC = -1014
    HANDLER = -1015
    ADDRESS = -1016
    LISTEN = -1017
    IO = -1018
    NO_MEMORY = -1019
    THREAD = -1020
    UNSUPPORTED = -1021
    ACCEPT = -1022
    HOOK = -1023
    TLS = -1024
    TRUNCATED = -1025
    HANDSHAKE = -1026
    CERTIFICATE = -1027
    CONNECT = -1028
    PROXY = -1030
    LIMIT = -1031

    @property
    def c_name(self) -> str:
        """The name in the C API: "NS_ERR_CLOSED"."""
        return string(lib.ns_status_name(self))

    @property
    def message(self) -> str:
        """What the status means, in a few words."""
        return string(lib.ns_status_message(self))


class CloseReason(enum.IntEnum):
    """Why a connection ended."""

    HANDLER = 1  #: The program closed it.
    PEER = 2  #: The program closed it after the end of the peer's stream.
    RESET = 3  #: The peer reset it, or the transport failed.
    IDLE = 4  #: `idle_timeout` passed.
    TIMER = 5  #: Its timer fired and there is no `on_timeout`.
    WRITE_TIMEOUT = 6  #: Queued bytes made no progress for `write_timeout`.
    ERROR = 7  #: The handler failed.
    ABORT = 8  #: The program aborted it.
    STOP = 9  #: A stop closed it; nothing that was sent is lost.
    CUT = 10  #: A stop ended it; something may be lost.
    REJECTED = 11  #: No worker became free in time.
    HANDSHAKE = 12  #: Its TLS handshake failed.
    CONNECT = 13  #: It was never connected.
    PROXY = 14  #: Its PROXY header was missing, bad, or of no trusted proxy.
    LIMIT = 15  #: It was refused beyond a limit of its address.


class State(enum.IntEnum):
    """What a server is doing."""

    NEW = 0
    STARTING = 1
    RUNNING = 2
    STOPPING = 3
    STOPPED = 4
    QUIESCING = 5  #: It accepts no more and goes on to serve what it has.


class ThreadKind(enum.IntEnum):
    """What a thread of the library does."""

    LOOP = 0
    WORKER = 1
    CONTROL = 2
    SHUTDOWN = 3


class TLSVersion(enum.IntEnum):
    TLS_1_2 = 0x0303
    TLS_1_3 = 0x0304


def string(pointer: object) -> str:
    """Returns the text at a C pointer."""
    text: bytes = ffi.string(pointer)
    return text.decode("utf-8", "replace")


def text_of(function: Any) -> str:
    """Returns the text that a function writes as `snprintf` does."""
    room = 256
    while True:
        buffer = ffi.new("char[]", room)
        length = function(buffer, room)
        if length < room:
            return string(buffer)
        room = length + 1
