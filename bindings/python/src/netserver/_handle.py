"""The C server behind a `Server`: who may use it when, and what interrupts it."""

from __future__ import annotations

import asyncio
import atexit
import os
import sys
import threading
import warnings
import weakref
from typing import Any, Callable, Optional

from . import _callbacks, _config
from ._config import Config
from ._enums import State, Status
from ._errors import Reported, StateError, check, for_c
from ._loops import Loops
from ._native import ffi, lib
from ._objects import objects, pointer
from ._tls import TLS

#: How long a server that nobody stopped may drain when the interpreter ends.
EXIT_DRAIN_MS = 200

#: C servers that were collected and never started: a finaliser frees nothing.
_lost: list[Any] = []

_all: weakref.WeakSet[Handle] = weakref.WeakSet()


class Handle(Loops):
    """Makes the C server, counts the calls that are in it, and frees it when there is none."""

    def __init__(self, service: str, config: Config, tls: Optional[TLS]) -> None:
        self._c: Any = None
        self._calls: set[object] = set()
        self._make_lock()
        self._number = int(lib.new_number())
        self._is_left = False  # the thread that ran the turns left serve_forever by an exception
        self._is_forked = False  # this process is a child of the one that made the server
        self._has_ended = False  # its `on_stop` has run
        self._awake = threading.Event()  # set when it has ended, or was interrupted
        self._interruption: Optional[BaseException] = None
        self._hook_error: Optional[BaseException] = None
        self._asyncio: Optional[asyncio.AbstractEventLoop] = None
        self._stopped: Optional[asyncio.Future[None]] = None
        _all.add(self)
        while _lost:
            lib.ns_server_free(_lost.pop())
        c_config = lib.ns_config_new()
        try:
            _config.apply(config, c_config)
            if tls is not None:
                check(lib.ns_config_set_tls(c_config, tls._pointer))
            self._set_callbacks(c_config)
            loops = lib.ns_config_max_thread(c_config)
            self._hosted = bool(lib.ns_config_non_blocking(c_config)) and loops == 1
            reported = Reported()
            what = for_c(service), ffi.addressof(lib, "on_handler"), pointer(self._number)
            server = lib.ns_server_new(*what, ffi.NULL, c_config, reported.pointer)
            reported.check()
            self._c = server
        finally:
            lib.ns_config_free(c_config)

    def _make_lock(self) -> None:
        # Reentrant: a signal handler may call the server in the middle of a call of its thread.
        self._lock = threading.RLock()
        self._no_calls = threading.Condition(self._lock)

    def _set_callbacks(self, c_config: Any) -> None:
        raise NotImplementedError

    def __del__(self) -> None:
        # A server that was started is in `objects` and is not collected.
        if getattr(self, "_c", None) is not None and not self._is_forked:
            warnings.warn(f"{self!r} was never closed", ResourceWarning, source=self)
            _lost.append(self._c)

    def _use(self, function: Any, *arguments: Any) -> Any:
        """Calls a function of the C API with the server, which is not freed meanwhile."""
        call = object()
        try:
            return function(self._enter(call), *arguments)
        finally:
            try:
                self._leave(call)
            except BaseException:  # a signal handler's, which came in its middle
                self._leave(call)
                raise

    def _enter(self, call: object) -> Any:
        with self._lock:
            self._calls.add(call)
            c = self._c
        if c is None:
            raise StateError("the server is closed")
        if self._is_forked:
            raise StateError("the server belongs to the parent process")
        return c

    def _leave(self, call: object) -> None:
        with self._lock:
            self._calls.discard(call)
            if not self._calls and self._c is None:
                self._no_calls.notify_all()

    def _free(self) -> None:
        """Frees a server that has stopped, when the last call has left it."""
        with self._lock:
            c, self._c = self._c, None
            self._no_calls.wait_for(lambda: not self._calls)
        check(lib.ns_server_free(c))

    def _turn(self, timeout_ms: int) -> bool:
        """Runs a turn of a hosted server. Returns False once it has stopped."""
        try:
            status = self._use(lib.ns_server_run_once, timeout_ms)
            if self._interruption is not None or _callbacks.stray:
                self._raise_interruption()
            if status == Status.STATE and self._use(lib.ns_server_state) == State.STOPPED:
                return False
            check(status)
            return True
        except StateError:
            if self._is_closed():
                return False
            raise

    def _take_over(self) -> None:
        """Makes this thread run the turns of a hosted server if nobody does any more."""
        if self._is_left:
            self._use(lib.ns_server_run_once, 0)

    def _is_closed(self) -> bool:
        return self._c is None and not self._is_forked

    # -- what callbacks raise -------------------------------------------------------------------

    def _interrupt(self, error: BaseException) -> None:
        """Has an exception that is no `Exception` leave the call that serves."""
        if self._interruption is None:
            self._interruption = error
        self._awake.set()

    def _raise_interruption(self) -> None:
        error, self._interruption = self._interruption, None
        if error is not None:
            self._awake.clear()
            if self._has_ended:
                self._awake.set()
            raise error
        if _callbacks.stray:
            raise _callbacks.stray.pop()

    def _report(self, error: Exception) -> None:
        """Tells the usual place of what nobody handles."""
        if self._asyncio is not None:
            what = {"message": "a handler of netserver failed", "exception": error}
            self._asyncio.call_exception_handler(what)
        else:
            sys.excepthook(type(error), error, error.__traceback__)

    def _guard(self, function: Callable[[], object]) -> None:
        """Runs a callback whose failure the library does not learn."""
        try:
            function()
        except Exception as error:
            self._report(error)
        except BaseException as error:
            self._interrupt(error)


def _after_fork() -> None:
    """A lock that another thread held stays locked in the child."""
    for handle in _all:
        handle._make_lock()
        handle._calls.clear()
        handle._is_forked = True


os.register_at_fork(after_in_child=_after_fork)


@atexit.register
def _stop_all() -> None:
    """A thread of the library must not ask for Python's lock when there is no Python any more."""
    for thing in list(objects.values()):
        if isinstance(thing, Handle) and thing._c is not None and not thing._is_forked:
            thing._take_over()
            lib.ns_server_stop_within(thing._c, EXIT_DRAIN_MS)
    lib.set_finalizing()
