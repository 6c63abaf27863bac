#!/usr/bin/env python3
"""Runs the programs of docs/guide, and checks that each does what its chapter says."""

import pathlib
import signal
import ssl
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import harness
from harness import Program, connect, contains, equal, exchange, read_to_end


def program(name):
    return harness.c_program("guide", name)


def ticker():
    """A line that another thread sends reaches everybody."""
    with Program([program("ticker"), "127.0.0.1:0"], stdin=subprocess.PIPE) as server:
        port = server.port()
        clients = [connect(port) for _ in range(3)]
        # Each is open when the server has taken its end.
        with connect(port) as last:
            last.shutdown(1)
            equal(read_to_end(last), b"")
        server.process.stdin.write("tick\n")
        server.process.stdin.close()
        for client in clients:
            with client:
                equal(read_to_end(client), b"tick\n")
        server.finish()


def slow():
    """One connection is answered twice, and the loop serves another meanwhile."""
    with Program([program("slow"), "127.0.0.1:0"]) as server:
        with connect(server.port()) as client:
            for _ in range(2):
                client.sendall(b"work")
                equal(client.recv(100), b"done\n")
        server.stop()


def download():
    """100 MiB leave in order of the reader, in little memory."""
    with Program([program("download"), "127.0.0.1:0"]) as server:
        with connect(server.port()) as client:
            equal(sum(len(part) for part in iter(lambda: client.recv(1 << 20), b"")), 100 << 20)
        status = pathlib.Path(f"/proc/{server.pid}/status").read_text()
        peak = int(status.split("VmHWM:")[1].split()[0])
        assert peak < 20_000, f"{peak} KiB"
        server.stop()


def secure():
    """SIGHUP changes the certificate for those who come, not for those who are there."""
    with tempfile.TemporaryDirectory(prefix="guide-") as folder:
        folder = pathlib.Path(folder)
        harness.run([str(harness.ROOT / "tests/make-certs"), str(folder)])

        def use(name):
            (folder / "now.pem").write_bytes((folder / f"{name}.pem").read_bytes())
            (folder / "now-key.pem").write_bytes((folder / f"{name}-key.pem").read_bytes())

        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

        def client(port):
            return context.wrap_socket(connect(port))

        use("server")
        files = [str(folder / "now.pem"), str(folder / "now-key.pem")]
        with Program([program("secure"), *files, "127.0.0.1:0"]) as server:
            port = server.port()
            with client(port) as former:
                old = former.getpeercert(True)
                for good in True, False:
                    use("rsa" if good else "server")
                    if not good:
                        (folder / "now.pem").write_text("no certificate")
                    server.process.send_signal(signal.SIGHUP)
                    server.expect("reloaded")
                    with client(port) as later:
                        assert later.getpeercert(True) != old
                        later.sendall(b"later")
                        equal(later.recv(100), b"later")
                former.sendall(b"former")
                equal(former.recv(100), b"former")
            with connect(port) as stranger:
                stranger.sendall(b"no TLS\n\n")
                read_to_end(stranger)
            server.stop()
            contains(server.stderr(), "127.0.0.1:")


def come(port):
    """A client, or None where it was turned away before it knew that it was connected."""
    try:
        return connect(port)
    except ConnectionResetError:
        return None


def is_gone(client):
    try:
        return client is None or client.recv(100) == b""
    except ConnectionResetError:
        return True


def limits():
    with Program([program("limits"), "127.0.0.1:0"]) as server:
        port = server.port()
        with connect(port) as silent, connect(port) as quick:
            quick.sendall(b"it is me\n")
            equal(quick.recv(100), b"welcome\n")
            equal(read_to_end(silent), b"two seconds are over\n")
            quick.sendall(b"still me\n")
            equal(quick.recv(100), b"welcome\n")
            # The silent one may still have a place: the server waits for its end, for a second.
            others = [come(port) for _ in range(21)]
            others[0].sendall(b"me too\n")
            equal(others[0].recv(100), b"welcome\n")
            assert is_gone(others[-1])
            for other in filter(None, others):
                other.close()
        server.stop()


def ending():
    """SIGTERM: nobody new, and the one who is there is served on. SIGINT ends it."""
    with Program([program("ending"), "127.0.0.1:0"]) as server:
        port = server.port()
        with connect(port) as client:
            client.sendall(b"a")
            equal(client.recv(1), b"a")
            server.process.send_signal(signal.SIGTERM)
            server.expect("quiet")
            try:
                connect(port).close()
                raise AssertionError("it still listens")
            except ConnectionRefusedError:
                pass
            client.sendall(b"b")
            equal(client.recv(1), b"b")
        server.finish()
    with Program([program("ending"), "127.0.0.1:0"]) as server:
        with connect(server.port()):
            server.stop(signal.SIGINT)


def balanced():
    with Program([program("balanced"), "127.0.0.1:0", "127.0.0.1:0"]) as server:
        port, checks = server.port(), int(server.expect(r"checks on \S*:(\d+)")[1])
        header = b"PROXY TCP4 192.0.2.7 192.0.2.1 4000 443\r\n"
        equal(exchange(connect(port), header), b"you are 192.0.2.7:4000\n")
        equal(exchange(connect(checks), b""), b"up ready\n")
        server.process.send_signal(signal.SIGTERM)
        harness.wait_until(lambda: exchange(connect(checks), b"") == b"drain\n", "it drains")
        equal(exchange(connect(port), header), b"you are 192.0.2.7:4000\n")
        server.finish()


CHECKS = [ticker, slow, download, secure, limits, ending, balanced]
only = harness.parse_arguments().only
harness.main("guide", [(check.__name__, check) for check in CHECKS], only)
