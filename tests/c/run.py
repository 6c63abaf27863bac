#!/usr/bin/env python3
"""Runs every C test program. Each is one check: it ends with status 0."""

import os
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import harness


def check(name):
    with harness.Program([harness.c_program("tests-c", name)]) as program:
        program.finish()


arguments = harness.parse_arguments()
names = sorted(path.stem for path in pathlib.Path(__file__).parent.glob("*.c"))
with tempfile.TemporaryDirectory(prefix="certificates-") as certificates:
    harness.run([str(harness.ROOT / "tests" / "make-certs"), certificates])
    os.environ["NS_TEST_CERTS"] = certificates
    harness.main("c", [(name, lambda name=name: check(name)) for name in names], arguments.only)
