"""A language of the table: what its `language.toml` says, and the variants of a check."""

import dataclasses
import os
import re
import tomllib

import harness

HERE = harness.ROOT / "tests" / "bindings"
LIBRARY = harness.TARGET / "release"
MODES = {
    "hosted": ["-n"],
    "loops": ["-n", "-t", "2"],
    "blocking": ["-t", "32"],
}


@dataclasses.dataclass(frozen=True)
class Variant:
    """How a program of a check is started."""

    mode: str
    tls: bool = False
    gc: bool = False

    def __str__(self):
        return self.mode + "-tls" * self.tls + "-gc" * self.gc

    def options(self):
        options = list(MODES[self.mode])
        if self.tls:
            data = harness.ROOT / "tests" / "data"
            options += ["--cert", str(data / "server.pem"), "--key", str(data / "server-key.pem")]
        return options + ["--gc"] * self.gc


class Language:
    def __init__(self, folder):
        self.folder = folder
        settings = tomllib.loads((HERE / folder / "language.toml").read_text())
        self.name = settings.pop("name")
        self.threads = settings.pop("threads")
        self.holes = settings.pop("holes", {})
        self.statuses = {"sigint": -2, "sigterm": -15} | settings.pop("status")
        self.programs = {kind: settings.pop(kind) for kind in ("echo", "checker")}
        settings.pop("bench", None)
        unknown = ", ".join(settings)
        assert not unknown, f"{folder}/language.toml has keys that nothing reads: {unknown}"

    def command(self, kind):
        places = {
            "root": str(harness.ROOT),
            "target": str(harness.TARGET.absolute()),
            "library": str(LIBRARY.absolute()),
        }
        return [word.format_map(places) for word in self.programs[kind]]

    def environment(self):
        return os.environ | {
            "NETSERVER_ROOT": str(harness.ROOT),
            "NETSERVER_LIBRARY_DIR": str(LIBRARY.absolute()),
            "LC_ALL": "C.UTF-8",
        }

    def variants(self, modes=tuple(MODES), tls=False, gc=False, quick=False):
        """All variants of a check, or of each kind one, and without TLS one in each mode."""
        modes = [mode for mode in modes if self.threads or mode == "hosted"]
        plain = [Variant(mode) for mode in modes]
        over_tls = [Variant(mode, tls=True) for mode in modes if tls]
        collecting = [Variant(mode, gc=True) for mode in modes if gc]
        return plain + over_tls[: 1 if quick else None] + collecting[: 1 if quick else None]


def names_of_checks():
    """What a hole may name, besides single variants: `check[variant]`."""
    texts = [path.read_text() for path in HERE.glob("test_*.py")]
    return {name for text in texts for name in re.findall(r"^def test_(\w+)\(", text, re.M)} | {"gc"}
