#!/usr/bin/env python3
"""Drives each example, C and Rust, with real clients and ends it by a signal."""

import functools
import http.server
import json
import os
import pathlib
import signal
import smtplib
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import broker
import files
import harness
import relaying
import store
from harness import Program, connect, contains, equal, exchange

MEGABYTE = os.urandom(1 << 20)
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # of SO_LINGER


def c(name):
    return harness.c_program("examples-c", name)


def rust(name):
    return str(harness.TARGET / "debug" / "examples" / name)


def lines(sock):
    return sock.makefile("rb")


# -- hello_echo -------------------------------------------------------------------------------


def hello_echo(program, mode):
    port = harness.free_port()
    # It has no signal handler: what is still reachable when the signal kills it is no leak.
    valgrind = ["--show-leak-kinds=definite", "--errors-for-leak-kinds=definite"]
    with Program([program, str(port)] + mode, valgrind=valgrind) as server:
        equal(exchange(harness.connect_when_listening(port), b"hello"), b"hello")
        equal(exchange(connect(port), MEGABYTE), MEGABYTE)
        if harness.under == "native":
            said_how = harness.run([str(harness.ROOT / "scripts/how-to-talk"), str(port)])
            commands = [line for line in said_how.splitlines() if line.startswith("  ")]
            equal(len(commands), 2)
            for command in commands:
                equal(harness.run(["sh", "-c", command]).strip(), "hello")
        server.stop(expected=-signal.SIGTERM)


# -- echo -------------------------------------------------------------------------------------


def echo_both_ways(program, mode, number):
    described = "non-blocking" if mode else "blocking"
    with Program([program, "-t", "3"] + mode + ["127.0.0.1:0"]) as server:
        line = server.expect("listening on .*")[0]
        contains(line, f"({described}, threads: 3)")
        port = int(line.split(":")[1].split()[0])
        equal(exchange(connect(port), b"hello"), b"hello")
        equal(exchange(connect(port), MEGABYTE), MEGABYTE)
        clients = [connect(port) for _ in range(3)]  # at once, and more than one loop has
        for i, client in enumerate(clients):
            client.sendall(b"%d" % i)
        for i, client in enumerate(clients):
            equal(exchange(client, b"!"), b"%d!" % i)
        output = server.stop(number)
    contains(output, "Total thread count: 3")
    contains(output, "Active thread count: ")


def echo_small_buffer(program, mode):
    with Program([program, "-b", "7"] + mode + ["0"]) as server:
        equal(exchange(connect(server.port()), MEGABYTE[:100_000]), MEGABYTE[:100_000])
        server.stop()


def echo_ipv6(program, mode):
    with Program([program, "-6", "-t", "2"] + mode + ["0"]) as server:
        port = server.port()
        equal(exchange(connect(port), b"four"), b"four")
        if socket.has_ipv6 and os.path.exists("/proc/net/if_inet6"):
            equal(exchange(connect(port, "::1"), b"six"), b"six")
        server.stop()


def echo_shutdown_port(program, mode):
    shutdown_port = harness.free_port()
    with Program([program, "--shutdown-port", str(shutdown_port)] + mode + ["0"]) as server:
        equal(exchange(connect(server.port()), b"hello"), b"hello")
        connect(shutdown_port).close()
        contains(server.finish(), "Total thread count: 1")


def echo_open_connection(program, mode):
    """A client that sends nothing does not hold the end back."""
    with Program([program] + mode + ["0"]) as server:
        port = server.port()
        with connect(port) as idle:
            idle.sendall(b"x")
            equal(idle.recv(10), b"x")
            server.stop(signal.SIGINT)
            equal(idle.recv(10), b"")


def echo_reset(program, mode):
    """A connection that was reset is no event that is worth a line."""
    with Program([program] + mode + ["0"]) as server:
        port = server.port()
        client = connect(port)
        client.sendall(b"x")
        equal(client.recv(10), b"x")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        equal(exchange(connect(port), b"hello"), b"hello")
        server.stop()
        equal(server.stderr(), "")


def echo_second_signal(program, mode):
    """Signals that come while the server stops and is freed find no server that is gone."""
    for _ in range(20 if harness.under == "native" else 2):
        with Program([program] + mode + ["0"]) as server:
            port = server.port()
            equal(exchange(connect(port), b"x"), b"x")
            while server.process.poll() is None:
                for _ in range(50):
                    os.kill(server.pid, signal.SIGTERM)
            server.finish()


def echo_bad_arguments(program):
    for arguments in [["-x"], ["-t", "many"], ["-t", "0"], ["-b"], ["1", "2"]]:
        with Program([program] + arguments) as server:
            # Bounds of the library's own settings are reported by the library.
            assert server.process.wait(harness.patience) in (1, 2)
            assert server.stderr(), arguments


def echo_port_in_use(program):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        service = "127.0.0.1:%d" % taken.getsockname()[1]
        with Program([program, service]) as server:
            server.finish(expected=1)
            contains(server.stderr(), service)


# -- TLS ---------------------------------------------------------------------------------------


def certificate(name):
    return os.path.join(certificates, name)


def pair(name="server"):
    return ["--cert", certificate(f"{name}.pem"), "--key", certificate(f"{name}-key.pem")]


def tls_context(client=None):
    context = ssl.create_default_context(cafile=certificate("ca.pem"))
    if client:
        context.load_cert_chain(certificate(f"{client}.pem"), certificate(f"{client}-key.pem"))
    return context


def exchange_tls(context, port, data):
    """Sends all of it in pieces, each of which comes back; closes as TLS wants it."""
    answer = b""
    with context.wrap_socket(connect(port), server_hostname="localhost") as client:
        reader = lines(client)
        for start in range(0, len(data), 50_000):
            client.sendall(data[start : start + 50_000])
            answer += reader.read(min(50_000, len(data) - start))
        client.unwrap()
    return answer


def echo_tls(mode):
    with Program([c("echo"), "-t", "2"] + mode + pair() + ["127.0.0.1:0"]) as server:
        port = server.port()
        equal(exchange_tls(tls_context(), port, b"hello"), b"hello")
        equal(exchange_tls(tls_context(), port, MEGABYTE), MEGABYTE)
        exchange(connect(port), b"GET / HTTP/1.0\r\n\r\n")  # answered by an alert
        harness.wait_until(lambda: "handshake failed" in server.stderr(), "the reason")
        if harness.under == "native":
            said_how = harness.run([str(harness.ROOT / "scripts/how-to-talk"), str(port), "1"])
            (command,) = [line for line in said_how.splitlines() if line.startswith("  ")]
            equal(harness.run(["sh", "-c", command], timeout=harness.patience).strip(), "hello")
            contains(server.stop(), "TLS handshakes: 3, failed 1")
        else:
            contains(server.stop(), "TLS handshakes: 2, failed 1")


def echo_client_ca(mode):
    arguments = mode + pair() + ["--client-ca", certificate("ca.pem"), "0"]
    with Program([c("echo")] + arguments) as server:
        port = server.port()
        equal(exchange_tls(tls_context("client"), port, b"hello"), b"hello")
        for stranger in None, "rogue", "late":
            try:
                exchange_tls(tls_context(stranger), port, b"hello")
                raise AssertionError(f"{stranger} was served")
            except OSError:  # an alert, or the end
                pass
        harness.wait_until(lambda: server.stderr().count("handshake failed") == 3, "the reasons")
        contains(server.stop(), "TLS handshakes: 1, failed 3")


def echo_bad_certificates():
    cert, key, ca = "--cert", "--key", "--client-ca"
    good, other = certificate("server.pem"), certificate("second-key.pem")
    cases = [
        (2, [cert, good], "usage"),
        (2, [key, other], "usage"),
        (2, [ca, good], "usage"),
        (1, [cert, "/nowhere.pem", key, other], "/nowhere.pem"),
        (1, [cert, good, key, good], "no private key in it"),
        (1, [cert, good, key, other], 'second-key.pem": the key is not that of'),
        (1, pair() + [ca, certificate("empty.pem")], 'empty.pem": there is no certificate in it'),
    ]
    for status, arguments, why in cases:
        with Program([c("echo")] + arguments + ["0"]) as server:
            server.finish(expected=status)
            contains(server.stderr(), why)


def starttls(mode):
    with Program([c("starttls"), "-t", "2"] + mode + pair() + ["127.0.0.1:0"]) as server:
        port = server.port()
        with smtplib.SMTP("localhost", port, timeout=harness.patience) as client:
            client.ehlo()
            assert client.has_extn("starttls")
            equal(client.starttls(context=tls_context())[0], 220)
            code, text = client.ehlo()
            contains(text.decode(), "starttls.example, TLS_")
            assert not client.has_extn("starttls")
            equal(client.noop(), (250, b"OK"))
            equal(client.docmd("STARTTLS")[0], 502)
        argv = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-starttls", "smtp"]
        argv += ["-CAfile", certificate("ca.pem"), "-verify_return_error", "-quiet", "-crlf"]
        done = subprocess.run(
            argv, input=b"NOOP\nQUIT\n", capture_output=True, timeout=harness.patience
        )
        contains(done.stdout.decode(), "250 OK\r\n221 bye\r\n")
        server.stop()


def starttls_injection(mode):
    """What is slipped in behind STARTTLS is never obeyed (CVE-2011-0411)."""
    with Program([c("starttls")] + mode + pair() + ["127.0.0.1:0"]) as server:
        with connect(server.port()) as client:
            client.sendall(b"EHLO me\r\nSTARTTLS\r\nNOOP\r\nNOOP\r\n")
            said = harness.read_to_end(client)
        plain, alert = said.split(b"220 go ahead\r\n")
        contains(plain, b"250 STARTTLS\r\n")
        equal(alert[:1], b"\x15")
        assert b"250" not in alert, alert
        harness.wait_until(lambda: "handshake failed" in server.stderr(), "the reason")
        server.stop()


def starttls_plain(mode):
    """Lines in pieces, several in one, one too long, and none after QUIT."""
    with Program([c("starttls"), "-t", "3"] + mode + pair() + ["127.0.0.1:0"]) as server:
        port = server.port()
        with connect(port) as client, lines(client) as reader:
            equal(reader.readline(), b"220 starttls.example ESMTP\r\n")
            for piece in b"no", b"op\r", b"\nNOOP now\nQU":
                client.sendall(piece)
            equal(reader.readline() + reader.readline(), b"250 OK\r\n250 OK\r\n")
            client.sendall(b"IT\r\nNOOP\r\n")
            equal(reader.read(), b"221 bye\r\n")
        equal(exchange(connect(port), b"MAIL FROM:<>\r\n").splitlines()[1][:3], b"502")
        contains(exchange(connect(port), b"x" * 2000), b"500 line too long\r\n")
        server.stop()


# -- chat -------------------------------------------------------------------------------------


def chat_join(port, nick):
    client = connect(port)
    reader = lines(client)
    equal(reader.readline(), b"* your nick?\n")
    client.sendall(nick + b"\n")
    equal(reader.readline(), b"* %s is here\n" % nick)
    return client, reader


def chat(program, threads):
    with Program([program, "-t", threads, "0"]) as server:
        port = server.port()
        ann, ann_reads = chat_join(port, b"ann")
        bob, bob_reads = chat_join(port, b"bob")
        equal(ann_reads.readline(), b"* bob is here\n")
        ann.sendall(b"hello\r\nsec")
        for reader in ann_reads, bob_reads:
            equal(reader.readline(), b"ann: hello\n")
        ann.sendall(b"ond\n")
        for reader in ann_reads, bob_reads:
            equal(reader.readline(), b"ann: second\n")
        ann.sendall(b"x" * 511)  # fills the line buffer: taken as a line
        equal(bob_reads.readline(), b"ann: " + b"x" * 511 + b"\n")
        ann.close()
        ann_reads.close()
        contains(bob_reads.readline().decode(), "* ann left (")
        bob.sendall(b"alone\n")
        equal(bob_reads.readline(), b"bob: alone\n")
        server.stop()
        equal(bob_reads.read(), b"")


def chat_idle(program):
    with Program([program, "-i", "1", "0"]) as server:
        port = server.port()
        # Two who join at the same time: each gets a byte with the other's end.
        idle, idle_reads = chat_join(port, b"idle")
        equal(idle_reads.read(), b"")
        server.stop(signal.SIGINT)


def chat_crowd(program):
    """Every message of every sender reaches everybody, in the order of its sender."""
    members, rounds = 8, 20
    with Program([program, "-t", "2", "0"]) as server:
        port = server.port()
        clients = []
        for i in range(members):
            clients.append(chat_join(port, b"m%d" % i))
        got = [[] for _ in range(members)]

        def read(i):
            while len(got[i]) < members * rounds:
                line = clients[i][1].readline().decode().rstrip()
                if not line.startswith("*"):
                    got[i].append(line)

        readers = [threading.Thread(target=read, args=(i,)) for i in range(members)]
        for reader in readers:
            reader.start()
        for n in range(rounds):
            for client, _ in clients:
                client.sendall(b"message %d\n" % n)
        for reader in readers:
            reader.join(harness.patience)
        for i in range(members):
            for sender in range(members):
                mine = [line for line in got[i] if line.startswith(f"m{sender}: ")]
                equal(mine, [f"m{sender}: message {n}" for n in range(rounds)])
        server.stop()


# -- relay ------------------------------------------------------------------------------------


SLOW = 48 << 20  # more than the kernel holds of three sockets


def relay_to(program, target, *options):
    return Program([program, *options, "127.0.0.1:0", "127.0.0.1:%d" % target])


def relayed(port, listener, context=None):
    """A client of the relay, and the connection of the relay to the target."""
    client = connect(port)
    if context is not None:
        client = context.wrap_socket(client, server_hostname="localhost")
    target = listener.accept()[0]
    target.settimeout(harness.patience)
    return client, target


def relay(program, options, context):
    """AD15: Bytes and ends go both ways, and a slow reader holds the other side back."""
    size = (1 if harness.under == "valgrind" else 16) << 20
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with relay_to(program, listener.getsockname()[1], "-t", "2", *options()) as server:
            port = server.port()
            relaying.both_ways(*relayed(port, listener, context()), size)
            client, target = relayed(port, listener, context())
            relaying.slow_reader(client, target, SLOW, lambda said: None)
            with open(f"/proc/{server.pid}/status") as status:
                peak = next(line for line in status if line.startswith("VmHWM:"))
            if harness.under == "native":
                assert int(peak.split()[1]) < 32 << 10, peak
            client.close()
            target.close()
            server.stop()


def relay_both_send_first(program):
    """AD15: A client that reads no answer is read itself, as long as the target takes it."""
    size = 8 << 20
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with relay_to(program, listener.getsockname()[1]) as server:
            client, target = relayed(server.port(), listener)
            taken = []

            def answer():
                target.sendall(b"d" * size)
                target.shutdown(socket.SHUT_WR)

            def take():
                taken.append(harness.read_to_end(target))

            threads = [threading.Thread(target=one) for one in (answer, take)]
            for thread in threads:
                thread.start()
            client.sendall(b"u" * size)
            client.shutdown(socket.SHUT_WR)
            threads[1].join()
            assert taken == [b"u" * size]
            assert harness.read_to_end(client) == b"d" * size
            threads[0].join()
            client.close()
            target.close()
            server.stop()


def relay_half_close(program):
    """AD15: A side that has said all still hears the other one."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with relay_to(program, listener.getsockname()[1]) as server:
            port = server.port()
            for asks_first in True, False:
                ends = relayed(port, listener)
                first, second = ends if asks_first else ends[::-1]
                first.sendall(b"all that I say")
                first.shutdown(socket.SHUT_WR)
                equal(harness.read_to_end(second), b"all that I say")
                second.sendall(b"an answer")
                equal(first.recv(100), b"an answer")
                second.sendall(b", and the end")
                second.close()
                equal(harness.read_to_end(first), b", and the end")
                first.close()
            server.stop()


def relay_resets(program):
    """AD15: A reset of one side resets the other one; a target that is not there ends the client,
    and the next one is served."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with relay_to(program, listener.getsockname()[1]) as server:
            port = server.port()
            for by_client in True, False:
                ends = relayed(port, listener)
                ends[0].sendall(b"x")
                equal(ends[1].recv(1), b"x")
                one, other = ends if by_client else ends[::-1]
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                one.close()
                reset_is_seen(other)
            listener.close()
            try:
                reset_is_seen(connect(port))
            except ConnectionResetError:
                pass  # before connect(2) has returned
            harness.wait_until(lambda: "cannot connect to" in server.stderr(), "the reason")
            server.stop()


def relay_stop(program, options, context):
    """AD15: A stop in the middle of an answer resets the client, which must not take it for
    whole."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with relay_to(program, listener.getsockname()[1], *options()) as server:
            client, target = relayed(server.port(), listener, context())
            client.sendall(b"?")
            equal(target.recv(1), b"?")
            target.sendall(b"the beginning")
            equal(client.recv(13), b"the beginning")
            server.stop()
            # Of TLS the module hides an end without close_notify, and a reset as one.
            if isinstance(client, ssl.SSLSocket):
                client.suppress_ragged_eofs = False
            try:
                equal(client.recv(1), "a reset")
            except OSError:
                client.close()
            target.close()


def reset_is_seen(sock):
    try:
        equal(sock.recv(1), "a reset")
    except ConnectionResetError:
        sock.close()


def relay_http():
    """AD15: A client of HTTPS before a server of HTTP."""
    with tempfile.TemporaryDirectory(prefix="site-") as folder:
        with open(os.path.join(folder, "large"), "wb") as file:
            file.write(MEGABYTE)
        handler = functools.partial(QuietHandler, directory=folder)
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as site:
            threading.Thread(target=site.serve_forever, daemon=True).start()
            with relay_to(c("relay"), site.server_port, *pair()) as server:
                url = f"https://localhost:{server.port()}/large"
                with urllib.request.urlopen(
                    url, context=tls_context(), timeout=harness.patience
                ) as answer:
                    assert answer.read() == MEGABYTE
                argv = ["curl", "--silent", "--cacert", certificate("ca.pem"), url, url]
                got = subprocess.run(argv, capture_output=True, timeout=harness.patience)
                assert got.stdout == 2 * MEGABYTE, (got.returncode, len(got.stdout))
                server.stop()
            site.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass


def relay_bad_arguments(program):
    for arguments in [], ["--cert", "x", "1", "2"], ["1", "2", "3"], ["-x", "1"]:
        with Program([program] + arguments) as server:
            server.finish(expected=2)
            contains(server.stderr(), "usage")


# -- detach, status ---------------------------------------------------------------------------


def detach():
    small = harness.under == "valgrind"
    work, primes = (b"20000", b"2262") if small else (b"2000000", b"148933")
    with Program([c("detach"), "0"]) as server:
        port = server.port()
        slow, quick = connect(port), connect(port)
        slow_reads, quick_reads = lines(slow), lines(quick)
        slow.sendall(b"before\nprimes " + work + b"\nafter\nprimes 10\nlast\n")
        equal(slow_reads.readline(), b"before\n")
        quick.sendall(b"ping\n")
        equal(quick_reads.readline(), b"ping\n")
        # Answered by the loop while the program's thread has the other connection.
        if not small:
            contains(report_by(quick, quick_reads), "active sockets 1")
        equal(slow_reads.readline(), primes + b" primes\n")
        equal(slow_reads.readline(), b"after\n")
        equal(slow_reads.readline(), b"4 primes\n")
        equal(slow_reads.readline(), b"last\n")
        contains(report_by(slow, slow_reads), "active sockets 2")
        slow.sendall(b"primes 3\n")
        equal(slow_reads.readline(), b"2 primes\n")
        server.stop()


def report_by(client, reader):
    """The report, asked for on this connection; the line behind it comes back after it."""
    client.sendall(b"status\nend\n")
    report = b""
    while not report.endswith(b"end\n"):
        line = reader.readline()
        assert line, report
        report += line
    return report.decode()


def detach_gone_client():
    """A client that leaves while its request is being answered."""
    with Program([c("detach"), "0"]) as server:
        port = server.port()
        for _ in range(5):
            with connect(port) as client:
                client.sendall(b"primes 30000\nmore\n")
        with connect(port) as client:
            client.sendall(b"primes 10\n")
            equal(lines(client).readline(), b"4 primes\n")
        server.stop()


def detach_stop_while_working():
    with Program([c("detach"), "0"]) as server:
        port = server.port()
        clients = [connect(port) for _ in range(3)]
        for client in clients:
            client.sendall(b"ready\nprimes 100000\n")
            equal(client.recv(6), b"ready\n")
        server.stop(signal.SIGINT)


def detach_unread_answers():
    """A client that reads no answer holds the program's thread, and its end, for a while at most."""
    with Program([c("detach"), "0"]) as server:
        port = server.port()
        with connect(port) as deaf, connect(port) as client:
            # Some of these come where the kernel takes no more, and fewer bytes are queued than make
            # the loop stop reading. After that nobody reads on.
            deaf.settimeout(1)
            try:
                while True:
                    deaf.sendall(b"status\n" * 60 + b"primes 1\n")
            except TimeoutError:
                pass
            client.sendall(b"primes 10\n")
            equal(lines(client).readline(), b"4 primes\n")
        server.stop()


def status(mode):
    with Program([c("status"), "-t", "2"] + mode + ["0"]) as server:
        port = server.port()
        answer = exchange(connect(port), b"GET /report HTTP/1.1\r\nHost: here\r\n\r\n").decode()
        head, body = answer.split("\r\n\r\n", 1)
        contains(head, "HTTP/1.1 200 OK")
        contains(head, f"Content-Length: {len(body)}")
        contains(body, "Total thread count: 2")
        contains(body, "    - active sockets ")
        contains(body, "accepted 1, ")
        contains(exchange(connect(port), b"?").decode(), "accepted 2, ")
        # `make test-status-page` looks at the page in a browser.
        page = exchange(connect(port), b"GET / HTTP/1.1\r\nHost: here\r\n\r\n").decode()
        contains(page, "Content-Security-Policy: default-src 'none';")
        contains(page, "</html>\n")
        server.stop()


def status_events(mode):
    """A loop goes on to send events; a worker sends one."""
    with Program([c("status"), "-t", "2"] + mode + ["0"]) as server:
        with connect(server.port()) as client:
            client.sendall(b"GET /events HTTP/1.1\r\nHost: here\r\n\r\n")
            if mode:
                said = b""
                while said.count(b"\n\n") < 2:
                    said += client.recv(4096)
            else:
                said = harness.read_to_end(client)
            # With the stop of a server the stream of a page ends.
            server.stop()
        *events, rest = said.decode().split("\r\n\r\n", 1)[1].split("\n\n")
        equal((len(events), rest), (2 if mode else 1, ""))
        for event in events:
            retry, data = event.split("\n")
            equal(retry, "retry: 1000")
            numbers = json.loads(data.removeprefix("data: "))
            # The program says where it listens in on_start, just before the server runs.
            contains((1, 2), numbers["state"])
            equal((numbers["open"], numbers["accepted"]), (1, 1))
            equal(sum(numbers["threads"]), 1)


def metrics(mode):
    """MT1: promtool finds no fault in the metrics, and the counters count."""
    with Program([c("status"), "-t", "2"] + mode + ["0"]) as server:
        port = server.port()
        for count in 1, 2:
            answer = exchange(connect(port), b"GET /metrics HTTP/1.0\r\nHost: here\r\n\r\n")
            head, text = answer.decode().split("\r\n\r\n", 1)
            contains(head, "Content-Type: text/plain; version=0.0.4")
            contains(head, f"Content-Length: {len(text)}")
            contains(text, f"\nnetserver_accepted_connections_total {count}\n")
        promtool = subprocess.run(
            [harness.ROOT / "scripts" / "promtool"], capture_output=True, text=True, check=True
        )
        done = subprocess.run(
            [promtool.stdout.strip(), "check", "metrics"],
            input=text,
            capture_output=True,
            text=True,
            timeout=harness.patience,
        )
        equal((done.returncode, done.stdout, done.stderr), (0, "", ""))
        server.stop()


# -- make run ---------------------------------------------------------------------------------


def make_run(mode):
    """The command of the README, ended by Ctrl-C: a SIGINT to the whole group."""
    port = harness.free_port()
    argv = ["make", "--no-print-directory", "run", f"SERVICE={port}", f"MODE={mode}"]
    with Program(argv, cwd=harness.ROOT, start_new_session=True) as server:
        server.expect(f"nc -w 1 127.0.0.1 {port}")
        equal(server.port(), port)
        equal(exchange(connect(port), b"hello"), b"hello")
        os.killpg(server.pid, signal.SIGINT)
        server.process.wait(harness.patience)
        server.expect("Total thread count")


def make_without_cargo():
    """What is missing is said before anything else."""
    with tempfile.TemporaryDirectory(prefix="cargo-") as folder:
        old = os.path.join(folder, "cargo")
        with open(old, "w") as script:
            script.write("#!/bin/sh\necho 'cargo 1.84.1 (66221abde 2024-11-19)'\n")
        os.chmod(old, 0o755)
        for cargo, why in [(old, "is 1.84"), (os.path.join(folder, "none"), "is none")]:
            argv = ["make", "--no-print-directory", "-C", str(harness.ROOT), f"CARGO={cargo}"]
            said = harness.run(argv + [f"CARGO_TARGET_DIR={folder}/target"], expected=2)
            first = said.splitlines()[0]
            contains(first, "needs cargo 1.85 or later")
            contains(first, why)


# -- handover ---------------------------------------------------------------------------------


def handover(*options):
    line = r"process (\d+) listening on \S*:(\d+)"
    with Program([c("handover"), *options, "127.0.0.1:0"]) as server:
        pid, port = map(int, server.expect(line).groups())
        former = connect(port)
        former.sendall(b"before")
        equal(former.recv(6, socket.MSG_WAITALL), b"before")
        os.kill(pid, signal.SIGHUP)
        successor = int(server.expect(line)[1])
        equal(exchange(connect(port), MEGABYTE), MEGABYTE)
        equal(exchange(former, MEGABYTE), MEGABYTE)
        os.kill(successor, signal.SIGTERM)
        server.finish()


def checks():
    twins = [("C", c)] + ([("Rust", rust)] if harness.under == "native" else [])
    modes = [("blocking", []), ("non-blocking", ["-n"])]
    all_checks = []

    def add(title, function, *arguments):
        all_checks.append((title, lambda: function(*arguments)))

    for language, path in twins:
        for name, mode in modes:
            what = f"{language}, {name}"
            add(f"hello_echo {what}", hello_echo, path("hello_echo"), mode)
            for number in signal.SIGTERM, signal.SIGINT:
                add(f"echo {what} {number.name}", echo_both_ways, path("echo"), mode, number)
            add(f"echo -b {what}", echo_small_buffer, path("echo"), mode)
            add(f"echo -6 {what}", echo_ipv6, path("echo"), mode)
            add(f"echo --shutdown-port {what}", echo_shutdown_port, path("echo"), mode)
            add(f"echo idle client {what}", echo_open_connection, path("echo"), mode)
            add(f"echo reset {what}", echo_reset, path("echo"), mode)
            add(f"echo second signal {what}", echo_second_signal, path("echo"), mode)
        add(f"echo bad arguments {language}", echo_bad_arguments, path("echo"))
        add(f"echo port in use {language}", echo_port_in_use, path("echo"))
        for threads in "1", "2":
            add(f"chat {language}, threads: {threads}", chat, path("chat"), threads)
        add(f"chat idle {language}", chat_idle, path("chat"))
        add(f"chat crowd {language}", chat_crowd, path("chat"))
    add("detach", detach)
    add("detach: client gone", detach_gone_client)
    add("detach: stop while working", detach_stop_while_working)
    add("detach: unread answers", detach_unread_answers)
    for name, mode in modes:
        add(f"status {name}", status, mode)
        add(f"status events {name}", status_events, mode)
        add(f"metrics {name}", metrics, mode)
    for name, mode in modes:
        add(f"echo --cert {name}", echo_tls, mode)
        add(f"echo --client-ca {name}", echo_client_ca, mode)
        add(f"starttls {name}", starttls, mode)
        add(f"starttls injection {name}", starttls_injection, mode)
        add(f"starttls plain {name}", starttls_plain, mode)
    add("echo bad certificates", echo_bad_certificates)
    for language, path in twins:
        add(f"relay {language}", relay, path("relay"), list, lambda: None)
        add(f"relay both send first {language}", relay_both_send_first, path("relay"))
        add(f"relay half-close {language}", relay_half_close, path("relay"))
        add(f"relay resets {language}", relay_resets, path("relay"))
        add(f"relay stop {language}", relay_stop, path("relay"), list, lambda: None)
        add(f"relay bad arguments {language}", relay_bad_arguments, path("relay"))
    add("relay --cert", relay, c("relay"), pair, tls_context)
    add("relay --cert stop", relay_stop, c("relay"), pair, tls_context)
    all_checks.extend(store.CHECKS)
    all_checks.extend(files.checks(pair, certificate))
    all_checks.extend(broker.CHECKS)
    add("handover", handover)
    add("handover -n", handover, "-n")
    if harness.under == "native":
        add("relay before HTTP", relay_http)
    if harness.under == "native":
        add("make without cargo", make_without_cargo)
        add("make run", make_run, "")
        add("make run MODE=-n", make_run, "-n")
    if harness.under == "valgrind":
        # The programs refuse these before they call the library.
        all_checks = [check for check in all_checks if "bad arguments" not in check[0]]
    return all_checks


arguments = harness.parse_arguments()
with tempfile.TemporaryDirectory(prefix="certificates-") as certificates:
    harness.run([str(harness.ROOT / "tests" / "make-certs"), certificates])
    harness.main("examples", checks(), arguments.only)
