#!/usr/bin/env python3
"""Installs into a temporary directory, builds a program from outside in every documented way, and
runs it."""

import os
import pathlib
import re
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import harness
from harness import contains, equal, run

HERE = pathlib.Path(__file__).resolve().parent
VERSION = re.search(r'^version = "(.*)"', (harness.ROOT / "Cargo.toml").read_text(), re.M)[1]
HELLO = f"netserver {VERSION}: hello\n"
SONAME = f"libnetserver.so.{VERSION.split('.')[0]}"

scratch = tempfile.TemporaryDirectory(prefix="netserver-install-")
prefix = pathlib.Path(scratch.name) / "prefix"
staged = pathlib.Path(scratch.name) / "staged"


def make(*arguments):
    return run(["make", "--no-print-directory", *arguments], cwd=harness.ROOT, timeout=600)


def pkg_config(*arguments, lib=prefix / "lib", **environment):
    env = dict(os.environ, PKG_CONFIG_PATH=f"{lib}/pkgconfig", **environment)
    return run(["pkg-config", *arguments, "netserver"], env=env).split()


def compile_app(name, *flags):
    program = str(pathlib.Path(scratch.name) / f"app-{name}")
    run(["cc", "-Wall", "-Werror", "-o", program, str(HERE / "app.c"), *flags])
    return program


def needed(program):
    return run(["readelf", "-d", program])


def installed():
    make("install", f"PREFIX={prefix}")
    lib = prefix / "lib"
    equal(os.readlink(lib / "libnetserver.so"), SONAME)
    equal(os.readlink(lib / SONAME), f"libnetserver.so.{VERSION}")
    contains(needed(lib / SONAME), f"Library soname: [{SONAME}]")
    equal(pkg_config("--modversion"), [VERSION])


def stripped():
    """The library without what only a debugger needs, which stands apart under the same build id."""
    lib = prefix / "lib" / f"libnetserver.so.{VERSION}"
    debug = prefix / "lib/.debug" / f"{lib.name}.debug"
    sections, kept = (run(["readelf", "-SW", str(file)]) for file in (lib, debug))
    for name in ".debug_info", ".debug_line", ".symtab":
        assert name not in sections, name
        contains(kept, name)
    contains(run(["readelf", "--debug-dump=links", str(lib)]), debug.name)
    equal(build_id(lib), build_id(debug))
    equal(build_id(lib), build_id(harness.TARGET / "release/libnetserver.so"))
    assert ".debug_info" not in run(["readelf", "-SW", str(prefix / "lib/libnetserver.a")])


def build_id(file):
    return re.search("Build ID: ([0-9a-f]{40})", run(["readelf", "-n", str(file)]))[1]


def documents():
    """The man page, whose example works, and the licences, those of the crates too."""
    page = prefix / "share/man/man3/netserver.3"
    equal(run(["mandoc", "-T", "lint", "-W", "error", str(page)]), "")
    source = re.search(r"^\.Bd -literal.*?\n(.*?)^\.Ed$", page.read_text(), re.M | re.S)[1]
    file = pathlib.Path(scratch.name) / "echo.c"
    file.write_text(source)
    run(["cc", "-Wall", "-Werror", "-o", f"{file}.program", str(file), *pkg_config("--cflags", "--libs")])
    licences = prefix / "share/doc/netserver"
    contains((licences / "LICENSE-MIT").read_text(), "MIT License")
    contains((licences / "LICENSE-APACHE").read_text(), "Apache License")
    crates = (licences / "LICENSES-CRATES").read_text()
    for text in "aws-lc-sys ", "rustls ", "Permission to use, copy, modify":
        contains(crates, text)


def multiarch():
    """In /usr, and only there, the folder of libraries is the compiler's own."""
    name = run(["cc", "-print-multiarch"]).strip()
    for where, lib in ("/usr", f"usr/lib/{name}"), ("/opt/usr", "opt/usr/lib"):
        root = pathlib.Path(scratch.name) / f"staged{where.replace('/', '-')}"
        make("install", f"DESTDIR={root}", f"PREFIX={where}")
        assert (root / lib / SONAME).exists(), lib
        contains((root / lib / "pkgconfig/netserver.pc").read_text(), "libdir=${prefix}/lib")
        make("uninstall", f"DESTDIR={root}", f"PREFIX={where}")
        equal([path for path in root.rglob("*") if not path.is_dir()], [])


def shared():
    app = compile_app("shared", *pkg_config("--cflags", "--libs"))
    contains(needed(app), SONAME)
    equal(run([app], env={"LD_LIBRARY_PATH": str(prefix / "lib")}), HELLO)


def cpp():
    program = str(pathlib.Path(scratch.name) / "app-cpp")
    source = str(HERE / "app.cpp")
    flags = pkg_config("--cflags", "--libs")
    run(["c++", "-std=c++17", "-Wall", "-Werror", "-o", program, source, *flags])
    equal(run([program], env={"LD_LIBRARY_PATH": str(prefix / "lib")}), HELLO)


def fully_static():
    app = compile_app("static", "-static", *pkg_config("--static", "--cflags", "--libs"))
    assert "NEEDED" not in needed(app)
    equal(run([app]), HELLO)


def archive():
    """The archive in a program that is otherwise linked as usual."""
    flags = pkg_config("--cflags") + pkg_config("--variable=archive") + private_libs()
    app = compile_app("archive", *flags)
    assert "libnetserver" not in needed(app)
    equal(run([app]), HELLO)


def private_libs():
    return [flag for flag in pkg_config("--static", "--libs-only-l") if flag != "-lnetserver"]


def only_its_own_symbols():
    defined = run(["nm", "-g", "--defined-only", str(prefix / "lib/libnetserver.a")])
    names = [line.split()[2] for line in defined.splitlines() if len(line.split()) == 3]
    expected = (harness.ROOT / "tests/c/symbols.txt").read_text().split()
    equal(sorted(names), sorted(expected))


def beside_another_archive():
    """In one program with another Rust archive, whichever comes first."""
    ours = pkg_config("--variable=archive")
    for kind, options in ("plain", []), ("lto", ["-C", "lto=fat", "-C", "embed-bitcode=yes"]):
        other = f"{scratch.name}/libother_{kind}.a"
        command = ["rustc", "--edition=2021", "-O", "--crate-type=staticlib", "-o", other, *options]
        run([*command, str(HERE / "other.rs")])
        for number, libraries in enumerate([ours + [other], [other] + ours]):
            for static in [], ["-static"]:
                program = f"{scratch.name}/both-{kind}-{number}{''.join(static)}"
                flags = pkg_config("--cflags") + static + [str(HERE / "both.c")]
                run(["cc", "-Wall", "-Werror", "-o", program, *flags, *libraries, *private_libs()])
                equal(run([program]), "7\n")


def no_larger():
    """A stripped program is no larger than over the archive that rustc makes."""
    sizes = []
    for archive in pkg_config("--variable=archive")[0], str(harness.TARGET / "release/libnet_server.a"):
        flags = pkg_config("--cflags") + [archive] + private_libs()
        app = compile_app("size", "-s", *flags)
        sizes.append(os.path.getsize(app))
    assert sizes[0] <= sizes[1], sizes


def destdir():
    """DESTDIR moves the files, not the paths that they say."""
    make("install", f"DESTDIR={staged}", "PREFIX=/opt/net", "LIBDIR=/opt/net/lib/deep")
    lib = staged / "opt/net/lib/deep"
    contains((lib / "pkgconfig/netserver.pc").read_text(), "prefix=/opt/net\n")
    flags = pkg_config("--cflags", "--libs", lib=lib, PKG_CONFIG_SYSROOT_DIR=str(staged))
    app = compile_app("staged", *flags)
    equal(run([app], env={"LD_LIBRARY_PATH": str(lib)}), HELLO)
    cmake_in(lib, "cmake-staged")


def cmake_in(lib, name):
    source, build = HERE, pathlib.Path(scratch.name) / name
    where = [f"-Dnetserver_DIR={lib}/cmake/netserver", f"-DWANTED={VERSION}"]
    run(["cmake", "-S", str(source), "-B", str(build), *where])
    run(["cmake", "--build", str(build)])
    contains(needed(str(build / "shared")), SONAME)
    assert "libnetserver" not in needed(str(build / "static"))
    equal(run([str(build / "shared")]), HELLO)
    equal(run([str(build / "static")]), HELLO)
    equal(run([str(build / "cpp")]), HELLO)


def cmake():
    cmake_in(prefix / "lib", "cmake")


def uninstalled():
    for where in [f"PREFIX={prefix}"], [
        f"DESTDIR={staged}",
        "PREFIX=/opt/net",
        "LIBDIR=/opt/net/lib/deep",
    ]:
        make("uninstall", *where)
    for root in prefix, staged:
        equal([path for path in root.rglob("*") if not path.is_dir()], [])


arguments = harness.parse_arguments()
checks = [installed, stripped, documents, multiarch, shared, cpp, fully_static, archive, only_its_own_symbols]
checks += [beside_another_archive, no_larger, cmake, destdir, uninstalled]
harness.main("install", [(check.__name__, check) for check in checks])
