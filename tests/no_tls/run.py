#!/usr/bin/env python3
"""Builds the library without TLS, as `make NO_TLS=1` does, and checks it."""

import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import harness
from harness import equal, run

# Most of it is the standard library, which is compiled for speed.
MAX_SIZE = 1_000_000
# What crates compile C with, or find a C library with.
FOR_C = {"bindgen", "cc", "cmake", "nasm-rs", "pkg-config"}
# C tests that need no TLS: the first is that of this library.
PROGRAMS = ["no_tls", "echo", "hosted", "lifecycle", "detach"]

# As the Makefile names it, which `make` knows a file by.
made = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", "target")) / "no-tls"
target = harness.ROOT / made
library = target / "release/libnetserver.so"


def make(file, *variables):
    run(["make", "--no-print-directory", "NO_TLS=1", *variables, str(made / file)],
        cwd=harness.ROOT, timeout=900)


def built():
    """Cargo links with cc, but the crates find no compiler."""
    make("release/libnetserver.so", "HARDENED=CC=false CXX=false")


def crates():
    tree = run(["cargo", "tree", "--offline", "--locked", "--edges=normal,build", "--prefix=none",
                "--no-default-features", "--features=silent-panics"], cwd=harness.ROOT)
    names = {line.split()[0] for line in tree.splitlines()}
    assert "net-server" in names, tree
    equal(names & (FOR_C | {"rustls", "aws-lc-rs"}), set())


def symbols():
    """All of them."""
    out = run(["nm", "-D", "--defined-only", "--without-symbol-versions", str(library)])
    equal(sorted(line.split()[2] for line in out.splitlines() if " A " not in line),
          sorted((harness.ROOT / "tests/c/symbols.txt").read_text().split()))


def size():
    stripped = target / "stripped.so"
    run(["strip", "-o", str(stripped), str(library)])
    assert stripped.stat().st_size < MAX_SIZE, stripped.stat().st_size
    print(f"     {stripped.stat().st_size} bytes")


def program(name):
    file = f"tests-c/test_{name}"
    make(file)
    run([str(target / file)])


harness.main(
    "no-tls",
    [("built without a C compiler", built), ("crates", crates), ("symbols", symbols), ("size", size)]
    + [(name, lambda name=name: program(name)) for name in PROGRAMS],
    harness.parse_arguments().only,
)
