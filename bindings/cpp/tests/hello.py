#!/usr/bin/env python3
"""Runs the program that stands in README.md, in the header and in examples/hello.cpp."""

import pathlib
import signal
import sys

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests"))
import harness
from harness import Program, connect_when_listening, equal, exchange, free_port

HERE = ROOT / "bindings" / "cpp"


def same_text():
    text = (HERE / "examples" / "hello.cpp").read_text()
    harness.contains((HERE / "README.md").read_text(), f"```cpp\n{text}```\n")
    quoted = "".join(f" *     {line}".rstrip() + "\n" for line in text.splitlines())
    harness.contains((ROOT / "include" / "netserver.hpp").read_text(), f" *\n{quoted} *\n")


def serves(mode):
    port = free_port()
    with Program([sys.argv[1], f"127.0.0.1:{port}", *mode]) as program:
        equal(exchange(connect_when_listening(port), b"hello"), b"hello")
        program.stop(signal.SIGTERM, -signal.SIGTERM)


checks = [
    ("the same text", same_text),
    ("hello blocking", lambda: serves([])),
    ("hello non-blocking", lambda: serves(["-n"])),
]
harness.main("hello", checks)
