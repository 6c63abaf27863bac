"""Counters of a server."""

from __future__ import annotations

import dataclasses
from typing import Any

from ._enums import CloseReason, State
from ._errors import check
from ._native import ffi, lib


@dataclasses.dataclass(frozen=True)
class Stats:
    """A snapshot of a server. When nothing changes: accepted + attached + adopted = open + waiting +
    all of closed + detached."""

    state: State
    non_blocking: bool
    threads: int  #: Workers or loops.
    active_threads: int  #: How many of them have a connection.
    port: int
    shutdown_port: int
    uptime_ms: int  #: Milliseconds since the start, up to the stop.
    accepted: int
    attached: int
    adopted: int  #: By `adopt` and `connect`.
    refused: int  #: No worker became free.
    open: int
    waiting: int  #: For a worker.
    detached: int
    drained: int  #: Ended during a stop, before its deadline.
    cut: int  #: Cut by a stop.
    bytes_in: int
    bytes_out: int
    handler_errors: int
    accept_errors: int
    handshakes: int
    handshake_failures: int
    closed: dict[CloseReason, int]  #: Connections closed, for each reason.
    peer_resets: int  #: Resets and truncations that handlers passed on.


@dataclasses.dataclass(frozen=True)
class ThreadStats:
    """A snapshot of one worker or loop."""

    index: int
    active: int  #: Its connections now.
    accepted: int
    bytes_in: int
    bytes_out: int
    calls: int  #: Calls of the handler.
    handler_errors: int


def stats_of(server: Any) -> Stats:
    out = ffi.new("ns_stats *")
    check(lib.ns_server_stats(server, out, ffi.sizeof("ns_stats")))
    values = {field.name: getattr(out, field.name) for field in dataclasses.fields(Stats)}
    values["state"] = State(out.state)
    values["non_blocking"] = bool(out.non_blocking)
    values["closed"] = {reason: out.closed[reason] for reason in CloseReason}
    return Stats(**values)


def thread_stats_of(server: Any, index: int) -> ThreadStats:
    out = ffi.new("ns_thread_stats *")
    check(lib.ns_server_thread_stats(server, index, out, ffi.sizeof("ns_thread_stats")))
    fields = dataclasses.fields(ThreadStats)
    return ThreadStats(**{field.name: getattr(out, field.name) for field in fields})
