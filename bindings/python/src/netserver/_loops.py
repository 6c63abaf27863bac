"""What runs in the loops of a server besides connections: watches, timers, tasks."""

from __future__ import annotations

from typing import Any, Callable

from ._errors import Reported, check
from ._native import ffi, lib
from ._objects import ON_DROP, add, milliseconds, pointer

ON_WATCH, ON_TIMER, ON_TASK = (
    ffi.addressof(lib, name) for name in ("on_watch", "on_timer", "on_task")
)


class Loops:
    """The part of `Server` for descriptors, timers and tasks. `loop` is the number of an event loop.
    What a function raises goes to `on_exception`, with None for the socket."""

    def _use(self, function: Any, *arguments: Any) -> Any:
        raise NotImplementedError

    def watch(
        self, fd: int, events: int, function: Callable[[int], object], *, loop: int = 0
    ) -> Watch:
        """Has `function(events)` called as long as the descriptor is ready. `events` are
        `selectors.EVENT_READ`, `EVENT_WRITE` or both. Close the watch before the descriptor."""
        number, reported = pointer(add((self, function))), Reported()
        what = loop, fd, events, ON_WATCH, number, ON_DROP
        id = self._use(lib.ns_server_watch, *what, reported.pointer)
        reported.check()
        return Watch(self, id)

    def timer(
        self, seconds: float, function: Callable[[], object], *, repeat: float = 0.0, loop: int = 0
    ) -> Timer:
        """Has `function()` called so long from now, and then every `repeat` seconds (0: once)."""
        number, reported = pointer(add((self, function))), Reported()
        what = loop, milliseconds(seconds), milliseconds(repeat), ON_TIMER, number, ON_DROP
        id = self._use(lib.ns_server_timer, *what, reported.pointer)
        reported.check()
        return Timer(self, id)

    def post(self, function: Callable[[], object], *, loop: int = 0) -> None:
        """Has the loop call `function()` once. Any thread may post; its tasks keep their order."""
        number = pointer(add((self, function)))
        check(self._use(lib.ns_server_post, loop, ON_TASK, number, ON_DROP))


class Watch:
    """A watch of a descriptor, see `Server.watch`."""

    def __init__(self, server: Loops, id: int) -> None:
        self._server = server
        self._id = id

    def change(self, events: int) -> None:
        """Changes the events that it waits for."""
        check(self._server._use(lib.ns_server_watch_change, self._id, events))

    def close(self) -> None:
        """Ends it. On the loop's own thread no call begins any more; elsewhere one may be under
        way. `ClosedError` if it has ended."""
        check(self._server._use(lib.ns_server_unwatch, self._id))


class Timer:
    """A timer, see `Server.timer`."""

    def __init__(self, server: Loops, id: int) -> None:
        self._server = server
        self._id = id

    def cancel(self) -> None:
        """Ends it, as `Watch.close` does; `ClosedError` if it has ended."""
        check(self._server._use(lib.ns_server_timer_cancel, self._id))
