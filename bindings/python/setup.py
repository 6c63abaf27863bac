"""Builds the package. What is built lies in the project's target directory, not beside the sources."""

import os
import pathlib
import re
import sysconfig

from setuptools import setup

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TARGET = ROOT / os.environ.get("CARGO_TARGET_DIR", "target")
KIND = "system" if os.environ.get("NETSERVER_SYSTEM") == "1" else "own"
BUILD = TARGET / "bindings" / "python" / f"build-{sysconfig.get_platform()}-{KIND}"
BUILD.mkdir(parents=True, exist_ok=True)

version = re.search(r'^version *= *"(.+)"', (ROOT / "Cargo.toml").read_text(), re.M)
assert version, "Cargo.toml has no version"

setup(
    version=version[1],
    cffi_modules=["build_native.py:builder"],
    options={
        "build": {"build_base": str(BUILD)},
        "egg_info": {"egg_base": str(BUILD)},
        "bdist_wheel": {"py_limited_api": "cp39"},
    },
)
