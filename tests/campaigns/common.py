"""What the campaigns share: the server process, its resources, and verdicts."""

import argparse
import json
import os
import pathlib
import resource
import socket
import struct
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import harness
from harness import connect, wait_until  # connect: for the campaigns too

DESCRIPTORS = 20_000  # the most that a campaign takes, for the client and for the server
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # of SO_LINGER
MIB = 1 << 20

harness.patience = 30.0


def raise_limit():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


raise_limit()  # the server inherits it


def arguments(*defaults):
    """The numbers of the command line, and these for those that are not there."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--under", choices=["native", "asan"], default="native")
    parser.add_argument("numbers", nargs="*", type=int)
    given = parser.parse_args()
    harness.under = given.under
    return (*given.numbers, *defaults[len(given.numbers) :])


class Server(harness.Program):
    def __init__(self, kind, *options):
        program = harness.c_program("tests-c/campaigns", "server")
        super().__init__([program, *options, kind], stdin=subprocess.PIPE)
        self.port = super().port()

    def ask(self, order):
        self.process.stdin.write(order + "\n")
        self.process.stdin.flush()
        return json.loads(self.expect(r"^\{.*")[0])

    def stats(self):
        return self.ask("stats")

    def end(self):
        """End of its input: stops, frees, exits 0."""
        self.process.stdin.close()
        self.finish()

    def _status(self, field):
        with open(f"/proc/{self.pid}/status") as status:
            return next(line.split()[1] for line in status if line.startswith(field + ":"))

    def rss(self):
        return int(self._status("VmRSS")) * 1024

    def peak_rss(self):
        return int(self._status("VmHWM")) * 1024

    def threads(self):
        return int(self._status("Threads"))

    def fds(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def cpu(self):
        """Seconds of processor time used so far."""
        with open(f"/proc/{self.pid}/stat") as stat:
            fields = stat.read().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def cpu_share(self, seconds):
        """Of one processor over this time, in percent."""
        before, started = self.cpu(), time.monotonic()
        time.sleep(seconds)  # what is measured is this time itself
        return 100 * (self.cpu() - before) / (time.monotonic() - started)

    def wait_for_open(self, count):
        wait_until(lambda: self.stats()["open"] == count, f"{count} open connections")


def missing(stats):
    """What the accounting of a server at rest has lost."""
    came = stats["accepted"] + stats["attached"]
    return came - stats["open"] - stats["waiting"] - stats["closed"] - stats["detached"]


def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    sock.close()


class Verdict:
    """Measurements with their bounds."""

    def __init__(self, name):
        self.name = name if harness.under == "native" else f"{name}-{harness.under}"
        self.passed = self.failed = 0

    def check(self, what, good, value):
        self.passed += bool(good)
        self.failed += not good
        print(f"{'PASS' if good else 'FAIL'} {self.name}: {what}: {value}", flush=True)

    def at_most(self, what, value, bound, unit=""):
        self.check(what, value <= bound, f"{value:.4g}{unit} (at most {bound:g}{unit})")

    def equal(self, what, value, expected):
        self.check(what, value == expected, f"{value} (expected {expected})")

    def close(self):
        print(f"{self.name}: {self.passed} passed, {self.failed} failed", flush=True)
        sys.exit(1 if self.failed or not self.passed else 0)


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]
