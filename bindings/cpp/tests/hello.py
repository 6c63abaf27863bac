#!/usr/bin/env python3
"""Runs the program that stands in README.md, in the header and in examples/hello.cpp; and looks for
every function of the C header in the C++ one."""

import pathlib
import re
import signal
import sys

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests"))
import harness
from harness import Program, connect_when_listening, equal, exchange, free_port

HERE = ROOT / "bindings" / "cpp"
harness.patience = 30.0  # seconds that anything may take, on a busy machine too


def same_text():
    text = (HERE / "examples" / "hello.cpp").read_text()
    harness.contains((HERE / "README.md").read_text(), f"```cpp\n{text}```\n")
    quoted = "".join(f" *     {line}".rstrip() + "\n" for line in text.splitlines())
    harness.contains((ROOT / "include" / "netserver.hpp").read_text(), f" *\n{quoted} *\n")


# What a C++ program calls in C, and what the header has under another name.
not_wrapped = {
    "ns_close_reason_name", "ns_error_handler_code", "ns_has_feature", "ns_server_config",
    "ns_version_number", "ns_version_string",
    "ns_server_address", "ns_server_reload_tls",  # those of service 0
}  # fmt: skip


def everything():
    header = (ROOT / "include" / "netserver.hpp").read_text()
    for macro, ending in (("SETTING", ""), ("FLAG", ""), ("TIME", "_ms")):
        for name in re.findall(rf"^    NETSERVER_{macro}\((\w+)", header, re.M):
            header += f" ns_config_{name}{ending} ns_config_set_{name}{ending}"
    names = set((ROOT / "tests" / "c" / "symbols.txt").read_text().split())
    equal(names - set(re.findall(r"\w+", header)), not_wrapped)


def serves(mode):
    port = free_port()
    with Program([sys.argv[1], f"127.0.0.1:{port}", *mode]) as program:
        equal(exchange(connect_when_listening(port), b"hello"), b"hello")
        program.stop(signal.SIGTERM, -signal.SIGTERM)


checks = [
    ("the same text", same_text),
    ("every function of the C header", everything),
    ("hello blocking", lambda: serves([])),
    ("hello non-blocking", lambda: serves(["-n"])),
]
harness.main("hello", checks)
