"""Makes the extension module netserver._native of the C header and of src/callbacks.c.

The library's archive goes into it. With NETSERVER_SYSTEM=1 it links the installed library, which
pkg-config finds.
"""

import os
import pathlib
import re
import subprocess
from typing import Any

import cffi

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
OUT = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "release"
CALLBACKS = HERE / "src" / "callbacks.c"


def pkg_config(*options: str) -> list[str]:
    output = subprocess.run(["pkg-config", *options, "netserver"], check=True, stdout=subprocess.PIPE)
    return output.stdout.decode().split()


def installed_library() -> tuple[pathlib.Path, dict[str, Any]]:
    """Returns the header of the installed library, and how to compile and link with it."""
    folder = pathlib.Path(*pkg_config("--variable=includedir"))
    linked = {"extra_link_args": pkg_config("--libs"), "extra_compile_args": pkg_config("--cflags")}
    return folder / "netserver.h", linked


def own_archive() -> tuple[pathlib.Path, dict[str, Any]]:
    """Makes the archive if it is not up to date. Returns as `installed_library`."""
    archive = OUT / "libnetserver.a"
    target = os.path.relpath(archive, ROOT)
    subprocess.run(["make", "-C", ROOT, "--no-print-directory", target], check=True)
    system = (OUT / "libnetserver.libs").read_text().split()
    linked = {
        "include_dirs": [str(ROOT / "include")],
        "extra_objects": [str(archive)],
        "depends": [str(archive)],
        # The library's names stay inside: another copy in the process is another library.
        "extra_link_args": ["-Wl,--exclude-libs,ALL", "-Wl,--gc-sections", "-Wl,--strip-debug", *system],
    }
    return ROOT / "include" / "netserver.h", linked


def declarations(header: str) -> str:
    """Returns what cffi understands of a C header: no preprocessor, but constants."""
    text = re.sub(r"/\*.*?\*/", "", header, flags=re.S)
    text = re.sub(r"^#ifdef __cplusplus.*?^#endif", "", text, flags=re.M | re.S)
    return re.sub(r"^#(?!define NS_\w+ -?\d+$).*", "", text, flags=re.M)


def marked(source: str, mark: str) -> str:
    """Returns the part of the C source between `/* mark */` and the next empty line."""
    found = re.search(rf"^/\* {mark}.*?\*/\n(.*?)\n\n", source, re.M | re.S)
    assert found, mark
    return found[1]


def make_builder() -> cffi.FFI:
    header, linked = installed_library() if os.environ.get("NETSERVER_SYSTEM") == "1" else own_archive()
    source = CALLBACKS.read_text()
    python = marked(source, "PYTHON").replace("static ", "")
    builder = cffi.FFI()
    builder.cdef(declarations(header.read_text()))
    builder.cdef(f'extern "Python" {{\n{python}\n}}')
    builder.cdef(marked(source, "CALLED").replace("static ", "") + "\nvoid free(void *);")
    linked.setdefault("extra_compile_args", []).append("-fexceptions")  # see callbacks.c
    builder.set_source("netserver._native", source, py_limited_api=True, **linked)
    return builder


builder = make_builder()
