"""Hostile input: each kind with its promised result, another client served beside it, nothing left
behind (`serving` looks at connections, descriptors and sums when a check is over)."""

import contextlib
import ctypes
import os
import pathlib
import re
import ssl
import struct
import subprocess
import time

import harness
from common import (
    BLOCKING, NON_BLOCKING, OpenSsl, ask, client_hello, close_cleanly, close_rudely, connect, contains,
    context, end_of, equal, finish_by_hand, folder, serving, talk, tls, works,
)

VERSIONS = ["1.2", "1.3"]
HANDSHAKE, ALERT, APPLICATION_DATA, CHANGE_CIPHER_SPEC = 22, 21, 23, 20
FATAL = 2


def record(kind, data, version=0x303):
    return struct.pack(">BHH", kind, version, len(data)) + data


def handshake_bytes(hello):
    """What the records of a ClientHello carry."""
    data = b""
    while hello:
        size = struct.unpack(">H", hello[3:5])[0]
        data += hello[5 : 5 + size]
        hello = hello[5 + size :]
    return data


def alerts(data):
    """The records that came, which must be alerts in the clear: their numbers."""
    numbers = []
    while data:
        kind, _, size = struct.unpack(">BHH", data[:5])
        equal((kind, size, data[5]), (ALERT, 2, FATAL))
        numbers.append(data[6])
        data = data[7:]
    return numbers


def memory(server):
    """Resident kilobytes."""
    text = pathlib.Path(f"/proc/{server.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1])


def settled(value, quiet=0.1):
    """Waits until this stays what it is for so many seconds: a silence is known by its length."""
    last = [None, 0.0]

    def stays():
        if (now := value()) != last[0]:
            last[:] = now, time.monotonic()
        return time.monotonic() - last[1] > quiet

    harness.wait_until(stays, f"it stays what it is for {quiet} s")


def refused_bytes(mode, data, text="", answer=1):
    """These bytes are answered by an alert and the end; the exception handler knows why."""
    with serving(mode) as server, tls(server.port) as beside:
        with connect(server.port) as sock:
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                sock.sendall(data)
            started = time.monotonic()
            got, end = end_of(sock)
            assert time.monotonic() - started < 2, "it waited"
            equal((len(alerts(got)), end), (answer, b""))
            server.exception("NS_ERR_HANDSHAKE", text)
        equal(ask(beside, "beside"), "beside")
        stats = server.stats()
        equal((stats["handshakes"], stats["handshake_failures"]), (1, 1))
        equal(stats["handler_errors"], 0)
        close_cleanly(beside)


def plain_http(mode):
    refused_bytes(mode, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "message")
    with serving(mode) as server:
        argv = ["curl", "-sS", "--noproxy", "*", f"http://127.0.0.1:{server.port}/"]
        done = subprocess.run(argv, capture_output=True, timeout=20)
        assert done.returncode in (1, 52, 56), done  # not HTTP, nothing, reset
        server.exception("NS_ERR_HANDSHAKE")


def random_bytes(mode):
    import random

    seeded = random.Random(1)
    refused_bytes(mode, b"\xff" + seeded.randbytes(100_000))
    with serving(mode, "--handshake-timeout", "300") as server:
        rounds = 300
        for i in range(rounds):
            data = seeded.randbytes(seeded.choice([1, 4, 5, 6, 100, 20_000]))
            if i % 3 == 0:
                data = struct.pack(">BHH", HANDSHAKE, 0x303, len(data)) + data
            with connect(server.port) as sock:
                with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                    sock.sendall(data)
                    sock.shutdown(harness.socket.SHUT_WR)
                end_of(sock)
        stats = server.check_rest()
        equal((stats["handshakes"], stats["handshake_failures"]), (0, rounds))
        works(server)


def mutated_hellos(mode):
    """Every byte of a ClientHello changed in turn: whatever comes of it, it comes to an end."""
    hello, _ = client_hello()
    with serving(mode, "--handshake-timeout", "300") as server:
        for i in range(len(hello)):
            changed = bytearray(hello)
            changed[i] ^= 0x80
            with connect(server.port) as sock:
                with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                    sock.sendall(changed)
                    sock.shutdown(harness.socket.SHUT_WR)
                end_of(sock)
        stats = server.check_rest()
        equal((stats["handshakes"], stats["handshake_failures"]), (0, len(hello)))
        works(server)


def one_byte_segments(mode, version):
    """A ClientHello byte by byte is a good one."""
    with serving(mode) as server, connect(server.port) as sock:
        sock.setsockopt(harness.socket.IPPROTO_TCP, harness.socket.TCP_NODELAY, 1)
        hello, parts = client_hello(version)
        for i in range(len(hello)):
            sock.sendall(hello[i : i + 1])
        finish_by_hand(sock, parts)
        close_by_hand(sock, parts)
        server.no_exception()


def close_by_hand(sock, parts):
    with contextlib.suppress(ssl.SSLWantReadError):
        parts[0].unwrap()
    sock.sendall(parts[2].read())


def one_byte_records(mode, version):
    """And so is one in records of a byte each (RFC 8446, 5.1)."""
    with serving(mode) as server, connect(server.port) as sock:
        hello, parts = client_hello(version)
        body = handshake_bytes(hello)
        sock.sendall(b"".join(record(HANDSHAKE, body[i : i + 1]) for i in range(len(body))))
        finish_by_hand(sock, parts)
        close_by_hand(sock, parts)
        server.no_exception()


def huge_hello(mode):
    """One over 64 KiB is refused on its length, before the rest of it is there."""
    body = handshake_bytes(client_hello()[0])
    for size in [0x10000, 0xFFFFFF]:
        message = b"\x01" + size.to_bytes(3, "big") + body[4:] + bytes(1 << 16)
        parts = [message[i : i + 0x4000] for i in range(0, 0x10001, 0x4000)]
        # rustls has no alert for it. The first record is enough.
        for data in [b"".join(record(HANDSHAKE, part) for part in parts), record(HANDSHAKE, parts[0])]:
            refused_bytes(mode, data, "TooLarge", answer=0)


def huge_record(mode):
    refused_bytes(mode, struct.pack(">BHH", HANDSHAKE, 0x303, 0xFFFF) + bytes(0xFFFF))


def empty_records(mode):
    """Records with nothing in them, without end."""
    with serving(mode, "--handshake-timeout", "1000") as server:
        before = memory(server)
        with connect(server.port) as sock:
            with contextlib.suppress(ConnectionResetError, BrokenPipeError, TimeoutError):
                for _ in range(100):
                    sock.sendall(record(HANDSHAKE, b"") * 10_000)
            end_of(sock)
        server.exception("NS_ERR_HANDSHAKE")
        assert memory(server) - before < 20_000
        works(server)


def sslv2_hello(mode):
    refused_bytes(mode, b"\x80\x2e\x01\x00\x02" + bytes(0x2B))


def closing_midway(mode, version):
    """The peer goes away at each stage of the handshake, in order or by a reset."""
    with serving(mode) as server:
        count = 0
        for rudely in [False, True]:
            for stage in ["first byte", "half a hello", "hello", "server's flight"]:
                sock = connect(server.port)
                hello, _ = client_hello(version)
                sent = {"first byte": 1, "half a hello": len(hello) // 2}.get(stage, len(hello))
                sock.sendall(hello[:sent])
                if stage == "server's flight":
                    assert sock.recv(10)
                if rudely:
                    option = struct.pack("ii", 1, 0)
                    sock.setsockopt(harness.socket.SOL_SOCKET, harness.socket.SO_LINGER, option)
                sock.close()
                event = server.event("exception")
                statuses = ["NS_ERR_HANDSHAKE", "NS_ERR_RESET"]
                assert event["status"] in statuses, (stage, event)
                contains(event["message"], "handshake failed")
                count += 1
        stats = server.check_rest()
        equal((stats["handshakes"], stats["handshake_failures"]), (0, count))
        equal(stats["closed"], {"handshake": count})
        works(server)


def nothing_said(mode):
    """Who connects and leaves without a byte: a failed handshake, nothing worse."""
    with serving(mode) as server:
        for _ in range(10):
            connect(server.port).close()
        works(server)
        stats = server.check_rest()
        equal(stats["handler_errors"], 0)


def silent_beside(mode):
    """Silent clients, fewer than threads: nobody else waits for them."""
    with serving(mode, "--handshake-timeout", "2000") as server:
        socks = [connect(server.port) for _ in range(3)]
        started = time.monotonic()
        works(server)
        assert time.monotonic() - started < 1
        for sock in socks:
            equal(end_of(sock), (b"", b""))
            sock.close()
            event = server.event("exception")
            equal(event["status"], "NS_ERR_TIMEOUT")
            contains(event["message"], "handshake timed out")
        assert 1.9 < time.monotonic() - started < 4
        server.closed(handshake=3, peer=1)


def dribbling(mode):
    """A byte now and then holds no handshake open beyond its time, however long it is."""
    with serving(mode, "--handshake-timeout", "1000") as server, tls(server.port) as beside:
        hello, _ = client_hello()
        for data in [hello, record(HANDSHAKE, hello[5:6]) * 100]:
            with connect(server.port) as sock:
                sock.setsockopt(harness.socket.IPPROTO_TCP, harness.socket.TCP_NODELAY, 1)
                started = time.monotonic()
                with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                    for i in range(len(data)):
                        sock.sendall(data[i : i + 1])
                        time.sleep(0.05)  # a dribble
                        if time.monotonic() - started > 5:
                            break
                took = time.monotonic() - started
            event = server.event("exception")
            equal(event["status"], "NS_ERR_TIMEOUT")
            contains(event["message"], "handshake timed out")
            assert 0.9 < took < 2.5, took
            equal(ask(beside, "beside"), "beside")
        server.closed(handshake=2)
        close_cleanly(beside)


def cap(mode):
    """As many handshakes in progress as may be: the next one waits for its turn, no longer than
    one of them may take."""
    with serving(mode, "--max-handshakes", "4", "--handshake-timeout", "1000") as server:
        with tls(server.port) as beside:
            socks = [connect(server.port) for _ in range(50)]
            hello, _ = client_hello()
            for sock in socks:
                sock.sendall(hello[:50])
            equal(ask(beside, "beside"), "beside")
            end = time.monotonic() + 5
            while True:  # clients that wait time out too, but a later one gets through
                try:
                    works(server)
                    break
                except (OSError, AssertionError):
                    assert time.monotonic() < end, "no client gets in"
            for sock in socks:
                sock.close()
            close_cleanly(beside)
        stats = server.check_rest()
        assert stats["closed"]["handshake"] >= 50, stats


def pool_is_cap(mode):
    """A blocking server: a handshake takes a worker. With all of them taken the next client waits,
    no longer than a handshake may take."""
    workers = int(mode[mode.index("-t") + 1])
    with serving(mode, "--handshake-timeout", "1000") as server:
        hello, _ = client_hello()
        started = time.monotonic()
        socks = [connect(server.port) for _ in range(workers)]
        for sock in socks:
            sock.sendall(hello[:50])
        harness.wait_until(lambda: server.stats()["open"] == workers, "every worker has one")
        works(server)
        assert 0.9 < time.monotonic() - started < 4
        for sock in socks:
            equal(end_of(sock), (b"", b""))
            sock.close()
        server.closed(handshake=workers, peer=1)
        for _ in socks:
            contains(server.event("exception")["message"], "handshake timed out")


def crowd(mode):
    """10,000 clients that connect and say nothing, beside one that works."""
    count = 10_000
    options = ["--handshake-timeout", "3000", "--retry-interval", "50"]
    with serving(mode, *options) as server, tls(server.port) as beside:
        before = memory(server)
        socks, slowest = [], 0
        try:
            while len(socks) < count:
                sock = harness.socket.socket()
                sock.settimeout(harness.patience)
                sock.connect(("127.0.0.1", server.port))
                socks.append(sock)
                if len(socks) % 100 == 0:
                    started = time.monotonic()
                    equal(ask(beside, "beside"), "beside")
                    slowest = max(slowest, time.monotonic() - started)
            if mode is not BLOCKING:
                stats = server.stats()
                assert stats["accepted"] - stats["closed_total"] > 1, stats
                per_client = (memory(server) - before) / count
                assert per_client < 2, f"{per_client} KiB for a client that says nothing"
            # Each of them comes to its end by the server's doing.
            harness.patience, patience = 60, harness.patience
            harness.wait_until(lambda: server.stats()["closed_total"] == count, "all are closed")
            harness.patience = patience
            started = time.monotonic()
            equal(ask(beside, "beside"), "beside")
            slowest = max(slowest, time.monotonic() - started)
        finally:
            for sock in socks:
                sock.close()
        assert slowest < 1, f"the working client waited {slowest:.2f} s"
        works(server)
        closed = server.stats()["closed"]
        equal(closed.get("handshake", 0) + closed.get("rejected", 0), count)
        if mode is not BLOCKING:
            equal(closed.get("handshake"), count)
        close_cleanly(beside)
        server.events.clear()


def renegotiation(mode):
    """K24: Renegotiation of TLS 1.2 is refused by an alert; the client gives up."""
    with serving(mode, "--mode", "lines") as server:
        argv = ["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", "-tls1_2"]
        process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        with process:
            process.stdin.write("before\n")
            process.stdin.flush()
            while "before" not in process.stdout.readline():
                pass
            process.stdin.write("R\n")
            process.stdin.flush()
            output = process.communicate(timeout=harness.patience)[0]
        contains(output, "RENEGOTIATING")
        assert re.search("no renegotiation|handshake failure", output), output
        # By libssl: as often as it likes.
        with OpenSsl(server.port, "1.2").handshake() as client:
            equal(client.write(b"x\n"), 2)
            equal(client.read(), b"x\n")
            client.lib.SSL_renegotiate(client.ssl)
            result = client.lib.SSL_do_handshake(client.ssl)
            assert result <= 0, "renegotiated"
        works(server)
        stats = server.check_rest()
        equal(stats["handshakes"], 3)


def key_updates(mode):
    """TLS 1.3: some are answered; a flood of them ends the connection, and takes no memory."""
    with serving(mode) as server, tls(server.port) as beside:
        before = memory(server)
        with OpenSsl(server.port, "1.3").handshake() as client:
            for i in range(200):  # with data between them
                equal(client.lib.SSL_key_update(client.ssl, i % 2), 1)
                equal(client.write(b"%d" % i), len(b"%d" % i))
                equal(client.read(), b"%d" % i)
            server.no_exception()
            for sent in range(100_000):
                if client.lib.SSL_key_update(client.ssl, 1) != 1:
                    break
                if client.lib.SSL_do_handshake(client.ssl) != 1:
                    break
            else:
                raise AssertionError("as many as it liked")
        event = server.event("exception")
        assert event["status"] in ("NS_ERR_TLS", "NS_ERR_RESET"), event
        # None of them may be answered by more than one: the peer does not read.
        assert memory(server) - before < 20_000
        equal(ask(beside, "beside"), "beside")
        close_cleanly(beside)


def early_data(mode):
    """K24: Early data is not agreed to: its bytes are passed over, the handshake goes on without."""
    with serving(mode, "--mode", "lines") as server:
        with OpenSsl(server.port, "1.3").handshake() as client:
            equal(client.write(b"ticket\n"), 7)
            equal(client.read(), b"ticket\n")
            session = ctypes.c_void_p(client.lib.SSL_get1_session(client.ssl))
            equal(client.lib.SSL_SESSION_get_max_early_data(session), 0)
            # What no honest client does.
            client.lib.SSL_SESSION_set_max_early_data(session, 16384)
            for size in [5, 8000]:  # of more rustls makes an end
                with OpenSsl(server.port, "1.3", session) as second:
                    data = (b"early\n" * size)[:size]
                    written = ctypes.c_size_t()
                    result = second.lib.SSL_write_early_data(
                        second.ssl, data, ctypes.c_size_t(len(data)), ctypes.byref(written)
                    )
                    equal((result, written.value), (1, size))
                    second.handshake()
                    equal(second.lib.SSL_get_early_data_status(second.ssl), 1)  # rejected
                    equal(second.write(b"late\n"), 5)
                    equal(second.read(), b"late\n")
            client.lib.SSL_SESSION_free(session)
        argv = ["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", "-tls1_3"]
        kept, early = folder / "early-session.pem", folder / "early"
        early.write_text("early\n")
        talk([*argv, "-sess_out", kept], ["x", "quit"], "\0never")
        output, _ = talk([*argv, "-sess_in", kept, "-early_data", early], ["x", "quit"], "\0never")
        contains(output, "Early data was not sent")
        contains(output, "Reused, TLSv1.3")
        assert "early\n" not in output, output


def endless_early_data(mode):
    """What is passed over is bounded; then the connection lingers, and that is bounded too."""
    options = ["--handshake-timeout", "5000", "--linger-timeout", "300"]
    with serving(mode, *options) as server, connect(server.port) as sock:
        sock.sendall(early_hello(server))
        started = time.monotonic()
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            while time.monotonic() - started < 4:
                sock.sendall(record(APPLICATION_DATA, bytes(16_000)) * 10)
        assert time.monotonic() - started < 2, "it took everything"
        server.exception("NS_ERR_HANDSHAKE", "decrypt")
        works(server)


def early_hello(server):
    """A ClientHello that announces early data, taken from OpenSSL on its way."""
    with OpenSsl(server.port, "1.3").handshake() as client:
        client.write(b"t\n")
        client.read()
        session = ctypes.c_void_p(client.lib.SSL_get1_session(client.ssl))
        client.lib.SSL_SESSION_set_max_early_data(session, 16384)
    with harness.socket.create_server(("127.0.0.1", 0)) as listener:
        with OpenSsl(listener.getsockname()[1], "1.3", session) as second:
            data, written = b"e", ctypes.c_size_t()
            second.lib.SSL_write_early_data(second.ssl, data, ctypes.c_size_t(1), ctypes.byref(written))
            taken, _ = listener.accept()
            with taken:
                got = taken.recv(1 << 16)
    server.event("exception")  # the first client left without close_notify
    return got[: 5 + struct.unpack(">H", got[3:5])[0]]


def alert_flood(mode):
    """Warnings without end."""
    with serving(mode, "--handshake-timeout", "2000") as server, connect(server.port) as sock:
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            for _ in range(100):
                sock.sendall(record(ALERT, b"\x01\x5a") * 1000)  # user_canceled
        end_of(sock)
        server.exception("NS_ERR_HANDSHAKE")
        works(server)


def ccs_flood(mode):
    """ChangeCipherSpec records, of which TLS 1.3 lets pass a few."""
    with serving(mode, "--handshake-timeout", "2000") as server, connect(server.port) as sock:
        sock.sendall(client_hello("1.3")[0])
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            for _ in range(100):
                sock.sendall(record(CHANGE_CIPHER_SPEC, b"\x01") * 1000)
        end_of(sock)
        server.exception("NS_ERR_HANDSHAKE")
        works(server)


def data_before_end_of_handshake(mode, version):
    """Application data in the clear, behind the ClientHello."""
    hello, _ = client_hello(version)
    with serving(mode) as server, connect(server.port) as sock:
        sock.sendall(hello + record(APPLICATION_DATA, b"plain text\n"))
        got, end = end_of(sock)
        equal(end, b"")
        assert b"plain text" not in got
        server.exception("NS_ERR_HANDSHAKE")
        works(server)


def truncations(mode, version):
    """Many clients that vanish without close_notify, at the same time and in a row."""
    with serving(mode) as server:
        for _ in range(10):
            clients = [tls(server.port, context(version)) for _ in range(4)]
            for client in clients:
                equal(ask(client, "x"), "x")
            for client in clients:
                close_rudely(client)
            for _ in clients:
                server.exception("NS_ERR_TRUNCATED")
        works(server)


def never_reads(mode):
    """A client that asks for much and never reads: its bytes are bounded, others are served."""
    with serving(mode, "--mode", "lines", "--linger-timeout", "200") as server:
        with tls(server.port) as client:
            before = memory(server)
            client.sendall(b"big 1000000\n" * 50)
            settled(lambda: server.stats()["bytes_out"])
            works(server)
            assert memory(server) - before < 40_000, memory(server) - before
            option = struct.pack("ii", 1, 0)
            client.setsockopt(harness.socket.SOL_SOCKET, harness.socket.SO_LINGER, option)
            os.close(client.detach())
        server.event("close", reason="reset")


def checks():
    yield "plain HTTP", plain_http
    yield "random bytes", random_bytes
    yield "changed ClientHello", mutated_hellos
    yield "SSLv2 ClientHello", sslv2_hello
    for version in VERSIONS:
        for title, check in [
            ("ClientHello in segments of 1 byte", one_byte_segments),
            ("ClientHello in records of 1 byte", one_byte_records),
            ("close in mid-handshake", closing_midway),
            ("data in the handshake", data_before_end_of_handshake),
            ("truncation again and again", truncations),
        ]:
            yield f"{title}, TLS {version}", (lambda mode, c=check, v=version: c(mode, v))
    yield "ClientHello over 64 KiB", huge_hello
    yield "record too long", huge_record
    yield "empty records", empty_records
    yield "nothing said", nothing_said
    yield "silent clients beside a working one", silent_beside
    yield "dribbling handshake", dribbling
    yield "cap on handshakes", cap, NON_BLOCKING
    yield "handshakes in every worker", pool_is_cap, BLOCKING
    yield "10,000 silent clients", crowd
    yield "renegotiation", renegotiation
    yield "key updates", key_updates
    yield "early data", early_data
    yield "endless early data", endless_early_data
    yield "alert flood", alert_flood
    yield "ChangeCipherSpec flood", ccs_flood
    yield "client that never reads", never_reads
