"""The settings of a server."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Optional

from ._enums import string, text_of
from ._errors import error_of, for_c
from ._native import ffi, lib
from ._objects import milliseconds

_TIMES = {
    "retry_interval", "handshake_timeout", "idle_timeout", "io_timeout", "write_timeout",
    "linger_timeout", "drain_timeout", "keep_alive", "proxy_timeout",
}  # fmt: skip
_FLAGS = {"non_blocking", "use_ipv6", "reuse_port", "lend_listeners", "no_delay", "proxy_others"}
_TEXTS = {"thread_name", "shutdown_port"}


@dataclasses.dataclass(frozen=True)
class Config:
    """The settings of a server; None means the library's default, which is in brackets. Times are in
    seconds, sizes in bytes. `netserver.h` describes each of them under the same name."""

    #: True: event loops, whose handlers must not block. With one loop it runs on the thread that
    #: calls `serve_forever`. False: a worker for each connection, whose handler may block.
    non_blocking: bool = True
    #: Event loops, or workers: handlers that run at the same time [1].
    max_thread: Optional[int] = None

    #: Workers: how many times `retry_interval` a connection waits for a free one [10].
    max_retry: Optional[int] = None
    retry_interval: Optional[float] = None  #: [0.5]
    max_waiting: Optional[int] = None  #: Workers: how many connections may wait [1024].

    use_ipv6: Optional[bool] = None  #: A service without a host listens for IPv6 too [False].
    reuse_port: Optional[bool] = None  #: Other servers may listen on the same ports [False].
    lend_listeners: Optional[bool] = None  #: Workers: `Server.listener_fd` works [False].
    backlog: Optional[int] = None  #: [4096]
    unix_mode: Optional[int] = None  #: Permissions of a unix socket's file [0o600].
    max_connections: Optional[int] = None  #: [what the limit of open files allows]
    max_per_address: Optional[int] = None  #: Connections that one address may have open [any].
    accept_rate_per_address: Optional[int] = None  #: That it may open in a second [any].
    accept_burst_per_address: Optional[int] = None  #: That it may open at once [those of a second].
    ipv4_prefix: Optional[int] = None  #: The bits that are one address.
    ipv6_prefix: Optional[int] = None
    shutdown_port: Optional[str] = None  #: A service: a connection to it stops the server [none].
    thread_name: Optional[str] = None  #: The beginning of the names of the library's threads ["ns"].
    stack_size: Optional[int] = None  #: Of each of the library's threads [2 MiB].

    handshake_timeout: Optional[float] = None  #: A whole TLS handshake [10].
    max_handshakes: Optional[int] = None  #: In progress at the same time [1024].
    idle_timeout: Optional[float] = None  #: A connection without a byte in either direction [off].
    io_timeout: Optional[float] = None  #: Workers: a `recv` or `send` that waits [off].
    write_timeout: Optional[float] = None  #: Queued bytes without progress [30].
    linger_timeout: Optional[float] = None  #: Input of a closed connection is discarded for [1].
    drain_timeout: Optional[float] = None  #: A stop lets bytes leave for [5].
    keep_alive: Optional[float] = None  #: TCP keep-alive [60].
    no_delay: Optional[bool] = None  #: TCP_NODELAY [True].

    #: Versions of the PROXY protocol that every service accepts: 1, 2, 3 for both [0: none].
    proxy_protocol: Optional[int] = None
    #: Whose headers are believed: addresses, networks ("10.0.0.0/8"), "unix" [none].
    trusted_proxies: Optional[Sequence[str]] = None
    proxy_timeout: Optional[float] = None  #: A whole PROXY header [3].
    proxy_others: Optional[bool] = None  #: Other sources are ordinary clients, not refused [False].

    high_water_mark: Optional[int] = None  #: Above so many queued bytes no input is read [256 KiB].
    low_water_mark: Optional[int] = None  #: `on_drain` reports a queue as short as this [0].
    send_limit: Optional[int] = None  #: The most bytes that may be queued [16 MiB].
    send_limit_total: Optional[int] = None  #: The same for all connections together [0: no bound].


def apply(config: Config, pointer: Any) -> None:
    """Sets all settings that are not None in a C config; raises `InvalidError`."""
    for field in dataclasses.fields(config):
        name, value = field.name, getattr(config, field.name)
        if value is None:
            continue
        if name == "trusted_proxies":
            for network in value:
                if lib.ns_config_add_trusted_proxy(pointer, for_c(network)) < 0:
                    raise error_of(lib.NS_ERR_INVALID, f"trusted_proxies cannot have {network!r}")
            continue
        if name in _TEXTS:
            value = for_c(value)
        elif name in _FLAGS:
            value = bool(value)
        elif name in _TIMES:
            name, value = f"{name}_ms", milliseconds(value)
        try:
            status = getattr(lib, f"ns_config_set_{name}")(pointer, value)
        except OverflowError:
            status = lib.NS_ERR_INVALID
        if status < 0:
            raise error_of(status, f"{field.name} cannot be {getattr(config, field.name)!r}")


def effective(pointer: Any) -> Config:
    """Returns the settings of a C config, with the library's defaults where nothing was set."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(Config):
        name = field.name
        if name in _TIMES:
            values[name] = getattr(lib, f"ns_config_{name}_ms")(pointer) / 1000
            continue
        if name == "trusted_proxies":
            text = text_of(lambda buffer, room: lib.ns_config_trusted_proxies(pointer, buffer, room))
            values[name] = tuple(text.split(", ")) if text else ()
            continue
        value = getattr(lib, f"ns_config_{name}")(pointer)
        if name in _FLAGS:
            value = bool(value)
        elif name in _TEXTS:
            value = None if value == ffi.NULL else string(value)
        values[name] = value
    return Config(**values)
