"""The program of the guide's chapter about other languages."""

from __future__ import annotations

import socket
import subprocess
import sys

from conftest import ROOT, SECONDS, Client


def test_jobs() -> None:
    program = [sys.executable, str(ROOT / "docs/guide/code/jobs.py"), "127.0.0.1:0"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline().rpartition(":")[2])
            with Client(port) as one, Client(port) as two, Client(port) as silent:
                with Client(port) as hasty:
                    hasty.sendall(b"nobody waits for this\n")
                one.sendall(b"a\nb\nbegun, ")
                two.sendall(b"c\nd")
                one.sendall(b"and ended\n")
                for client in one, two, silent:
                    client.shutdown(socket.SHUT_WR)
                lines = sorted(one.rest().splitlines())
                assert lines == [b"done: a", b"done: b", b"done: begun, and ended"]
                assert two.rest() == b"done: c\n"
                assert silent.rest() == b""
            server.terminate()
            assert server.wait(SECONDS) == 0
        finally:
            server.kill()
