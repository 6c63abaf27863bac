"""What is promised of names, certificates, the ends of a stream, records, STARTTLS and reloading."""

import contextlib
import hashlib
import json
import os
import re
import select
import ssl
import threading
import time

import harness
from common import (
    BLOCKING, MEGABYTE, NON_BLOCKING, Server, ask, ask_info, client_hello, close_cleanly, close_rudely,
    connect, contains, context, der, echoed, equal, finish_by_hand, go_on, pair, pem, read_line,
    refused, reset, sending, serving, sign_until, talk, tls, works,
)

VERSIONS = ["1.2", "1.3"]


# -- names and certificates -------------------------------------------------------------------


def certificate_for(server, name, version=None):
    made = context(version, authority=None)
    with tls(server.port, made, name) as client:
        shown = client.getpeercert(True)
        close_cleanly(client)
    return shown


def names(mode, version):
    several = pair("server") + pair("exact", "www.example.org") + pair("wild", "*.example.org")
    with serving(mode, certificate=several) as server:
        for name, expected in [
            ("www.example.org", "exact"),
            ("WWW.Example.ORG", "exact"),
            ("mail.example.org", "wild"),
            ("MAIL.EXAMPLE.org", "wild"),
            ("a.b.example.org", "server"),  # a wildcard is one label
            ("example.org", "server"),
            ("example.net", "server"),
            (None, "server"),
        ]:
            equal((name, certificate_for(server, name, version) == der(expected)), (name, True))
        server.no_exception()


def no_default(mode):
    """Without a certificate for all other names the first one is theirs."""
    both = pair("exact", "www.example.org") + pair("wild", "*.example.org")
    with serving(mode, certificate=both) as server:
        equal(certificate_for(server, "localhost"), der("exact"))
        equal(certificate_for(server, "x.example.org"), der("wild"))


def by_key_type(mode):
    """Of several certificates for all names a client gets one that it can verify."""
    with serving(mode, "--mode", "lines", certificate=pair("server") + pair("rsa")) as server:
        for schemes, expected in [("ECDSA+SHA256", "server"), ("RSA-PSS+SHA256", "rsa")]:
            argv = ["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", "-showcerts"]
            output, _ = talk([*argv, "-sigalgs", schemes], ["info", "quit"], "\0never")
            shown = re.search("-----BEGIN.*?-----END CERTIFICATE-----", output, re.S)[0]
            equal(ssl.PEM_cert_to_DER_cert(shown), der(expected))


def any_certificate(name):
    def check(mode):
        with serving(mode, certificate=pair(name)) as server:
            for version in VERSIONS:
                equal(certificate_for(server, "localhost", version), der(name))
            with contextlib.closing(connect(server.port)) as sock:
                try:
                    context().wrap_socket(sock, server_hostname="localhost").close()
                except ssl.SSLCertVerificationError:
                    pass
                else:
                    raise AssertionError("the client verified it")
            server.exception("NS_ERR_HANDSHAKE", "alert")

    return check


def alpn(mode, version):
    with serving(mode, "--mode", "lines", "--alpn", "h2,http/1.1") as server:
        for offered, agreed in [
            (["http/1.1", "h2"], "h2"),  # the server's order
            (["x", "http/1.1"], "http/1.1"),
            ([], None),
        ]:
            made = context(version)
            made.set_alpn_protocols(offered)
            with tls(server.port, made) as client:
                equal(client.selected_alpn_protocol(), agreed)
                equal(ask_info(client)["alpn"], agreed)
                close_cleanly(client)
        server.no_exception()
        made = context(version)
        made.set_alpn_protocols(["x", "y"])
        contains(refused(lambda: tls(server.port, made)), "no application protocol")
        server.exception("NS_ERR_HANDSHAKE")
    with serving(mode, "--mode", "lines") as server:  # a server that has none
        made = context(version)
        made.set_alpn_protocols(["h2"])
        with tls(server.port, made) as client:
            equal(ask_info(client)["alpn"], None)
            close_cleanly(client)


def minimum_version(mode):
    with serving(mode, "--min", "1.3") as server:
        contains(refused(lambda: tls(server.port, context("1.2"))), "PROTOCOL_VERSION")
        server.exception("NS_ERR_HANDSHAKE")
        tls(server.port, context("1.3")).unwrap().close()


# -- certificates of clients ------------------------------------------------------------------


def client_certificate(mode, version):
    with serving(mode, "--mode", "lines", "--client-ca", pem("ca")) as server:
        with tls(server.port, context(version, "client")) as client:
            info = ask_info(client)
            equal(bytes.fromhex(info["peer_certificate"]), der("client"))
            equal(info["peer_subject"], "CN=ann,O=Example\\, Inc.")
            close_cleanly(client)
        # A resumed session keeps it.
        made = context(version, "client")
        session = None
        for resumed in [False, True]:
            with tls(server.port, made, session=session) as client:
                info = ask_info(client)
                equal((info["resumed"], bytes.fromhex(info["peer_certificate"])), (resumed, der("client")))
                session = client.session
                close_cleanly(client)
        server.no_exception()


def bad_client_certificates(mode, version):
    """Refused with an alert that says why, in either setting."""
    for options in [[], ["--client-optional"]]:
        with serving(mode, "--mode", "lines", "--client-ca", pem("ca"), *options) as server:
            count = 0
            for certificate, alert, message in [
                ("late", "ALERT_CERTIFICATE_EXPIRED", "Expired"),
                ("rogue", "ALERT_UNKNOWN_CA", "UnknownIssuer"),
                # webpki's own choice of an alert for it
                ("misused", "ALERT_(BAD_CERTIFICATE|UNSUPPORTED_CERTIFICATE|CERTIFICATE_UNKNOWN)", ""),
                ("v1", "ALERT_", ""),
            ]:
                got = refused(lambda: tls(server.port, context(version, certificate)))
                assert re.search(alert, got), (certificate, got)
                server.exception("NS_ERR_HANDSHAKE", message)
                count += 1
            if not options:
                got = refused(lambda: tls(server.port, context(version)))
                assert re.search("CERTIFICATE_REQUIRED|HANDSHAKE_FAILURE", got), got
                server.exception("NS_ERR_HANDSHAKE", "no certificates")
                count += 1
            stats = server.stats()
            equal((stats["handshakes"], stats["handshake_failures"]), (0, count))
            equal([e for e in server.events if e["event"] in ("close", "end")], [])
            with tls(server.port, context(version, "client")) as client:
                assert ask_info(client)["peer_certificate"]
                close_cleanly(client)


def optional_client_certificate(mode, version):
    with serving(mode, "--mode", "lines", "--client-ca", pem("ca"), "--client-optional") as server:
        for certificate in [None, "client"]:
            with tls(server.port, context(version, certificate)) as client:
                info = ask_info(client)
                equal(info["peer_certificate"], certificate and der(certificate).hex())
                equal(info["peer_subject"] is None, certificate is None)
                close_cleanly(client)
        server.no_exception()


def resumed_while_valid(mode):
    """A20.2: A session ends with the client's certificate, by ticket and from the cache."""
    end = int(time.time()) + 5
    name = f"short{end}"
    sign_until(name, "/CN=short", end)
    ca = ["--mode", "lines", "--client-ca", pem("ca")]
    with contextlib.ExitStack() as stack:
        clients = []
        for options in [
            [], ["--client-optional"], ["--ticket-keys", "01" * 80], ["--no-tickets", "--cache", "10"]
        ]:
            server = stack.enter_context(serving(mode, *ca, *options))
            for version in VERSIONS:
                made = context(version, name)
                session = None
                for resumed in [False, True]:
                    with tls(server.port, made, session=session) as client:
                        equal((options, version, ask_info(client)["resumed"]), (options, version, resumed))
                        session = client.session
                        close_cleanly(client)
                clients.append((server, made, session))
        time.sleep(max(0, end + 1.1 - time.time()))  # until the certificate has expired
        for server, made, session in clients:
            got = refused(lambda: tls(server.port, made, session=session))
            contains(got, "ALERT_CERTIFICATE_EXPIRED")
            server.exception("NS_ERR_HANDSHAKE", "certificate expired")


def no_resumption(mode):
    with serving(mode, "--mode", "lines", "--no-tickets") as server:
        for version in VERSIONS:
            made = context(version)
            session = None
            for _ in range(2):
                with tls(server.port, made, session=session) as client:
                    equal(ask_info(client)["resumed"], False)
                    session = client.session
                    close_cleanly(client)
        server.no_exception()


# -- ends of a stream -------------------------------------------------------------------------


def ready(server, version, line="ready"):
    """A client that has read everything so far, tickets among it."""
    client = tls(server.port, context(version))
    client.sendall(line.encode() + b"\n")
    equal(read_line(client), line)
    return client


def server_closes(mode, version):
    """close_notify, not only the end of TCP: Python tells them apart."""
    with serving(mode, "--mode", "lines") as server:
        with ready(server, version) as client:
            client.suppress_ragged_eofs = False
            client.sendall(b"quit\n")
            equal(client.recv(10), b"")
        server.event("close", reason="handler")
        with tls(server.port, context(version)) as client:  # behind what was queued
            client.suppress_ragged_eofs = False
            client.sendall(b"big 3000000\nquit\n")
            equal(len(harness.read_to_end(client)), 3_000_000)
        server.event("close", reason="handler")
        server.no_exception()


def server_stops(mode, version):
    """A stop says close_notify to an idle client, also where a worker's handler is cut that still
    waits for it at the deadline: all that was sent has left."""
    server = Server(mode, "--drain-timeout", "300")
    with server:
        with ready(server, version) as client:
            client.suppress_ragged_eofs = False
            server.process.stdin.write("stop\n")
            server.process.stdin.flush()
            equal(client.recv(10), b"")
            os.close(client.detach())
        last = server.event("stopped")
        equal(last["closed"], {"cut": 1} if mode is BLOCKING else {"stop": 1})
        server.process.stdin.close()
        server.finish()


def raised(call):
    """The reason of OpenSSL's complaint."""
    try:
        return f"no complaint but {call()!r}"
    except ssl.SSLError as e:
        return e.reason


def clean_end(mode, version):
    with serving(mode) as server:
        close_cleanly(ready(server, version))
        server.event("end")
        server.event("close", reason="peer")
        server.no_exception()


def end_with_handshake(mode, version):
    """A client that ends in good order along with the last of its handshake is given the ticket all
    the same, then the end of the stream, by no reset."""
    with serving(mode) as server, connect(server.port) as sock:
        hello, (session, incoming, outgoing) = client_hello(version)
        sock.sendall(hello)
        while outgoing.pending == 0:
            data = sock.recv(1 << 16)
            assert data, "the stream ended"
            incoming.write(data)
            with contextlib.suppress(ssl.SSLWantReadError):
                session.do_handshake()
        if version == "1.2":  # the server has the last word, the ticket with it
            sock.sendall(outgoing.read())
            go_on(sock, (session, incoming, outgoing), lambda session: session.do_handshake() or True)
        with contextlib.suppress(ssl.SSLWantReadError):
            session.unwrap()
        sock.sendall(outgoing.read())
        sock.shutdown(harness.socket.SHUT_WR)
        incoming.write(harness.read_to_end(sock))
        try:
            equal(session.read(1), b"")
        except ssl.SSLZeroReturnError:
            pass
        assert session.session.has_ticket
        server.event("end")
        server.event("close", reason="peer")
        server.no_exception()


def half_close(mode, version):
    """close_notify of one side alone: what the other side has still arrives."""
    with serving(mode, "--mode", "lines") as server, connect(server.port) as sock:
        hello, parts = client_hello(version)
        sock.sendall(hello)
        finish_by_hand(sock, parts)
        session, incoming, outgoing = parts
        session.write(b"big 500000\n")
        with contextlib.suppress(ssl.SSLWantReadError):
            session.unwrap()
        sock.sendall(outgoing.read())
        assert len(harness.read_to_end(sock)) > 500_000
        server.event("end")
        server.event("close", reason="peer")
        server.no_exception()


def truncation(mode, version):
    with serving(mode) as server:
        close_rudely(ready(server, version))
        server.exception("NS_ERR_TRUNCATED")
        equal([e for e in server.events if e["event"] == "end"], [])
        # What arrived before it is delivered before it.
        client = ready(server, version)
        client.sendall(b"last words\n")
        raw = harness.socket.socket(fileno=client.detach())
        raw.setblocking(True)
        raw.shutdown(harness.socket.SHUT_WR)
        assert len(harness.read_to_end(raw)) > len("last words\n")
        raw.close()
        server.exception("NS_ERR_TRUNCATED")
        # In the middle of a record.
        with connect(server.port) as sock:
            hello, parts = client_hello(version)
            sock.sendall(hello)
            finish_by_hand(sock, parts)
            parts[0].write(b"never whole\n")
            sock.sendall(parts[2].read()[:-1])
            sock.shutdown(harness.socket.SHUT_WR)
            server.exception("NS_ERR_TRUNCATED")
        works(server)


def reset_by_peer(mode, version):
    with serving(mode) as server:
        reset(ready(server, version))
        server.exception("NS_ERR_RESET")
        server.event("close", reason="reset")
        equal([e for e in server.events if e["event"] == "end"], [])


def timeout(mode, version):
    if mode is BLOCKING:
        with serving(mode, "--io-timeout", "200") as server:
            with ready(server, version) as client:
                server.exception("NS_ERR_TIMEOUT")
                equal(client.recv(10), b"")
    with serving(mode, "--idle-timeout", "200") as server:
        with ready(server, version) as client:
            client.suppress_ragged_eofs = False
            server.event("close", reason="idle")
            equal(client.recv(10), b"")  # told by close_notify


def broken_record(mode, version):
    """A byte of a record changed on the way."""
    with serving(mode) as server, connect(server.port) as sock:
        hello, parts = client_hello(version)
        sock.sendall(hello)
        finish_by_hand(sock, parts)
        parts[0].write(b"tampered with\n")
        record = bytearray(parts[2].read())
        record[-1] ^= 1
        sock.sendall(record)
        server.exception("NS_ERR_TLS")
        try:
            go_on(sock, parts, lambda session: session.read(100))
        except ssl.SSLError as e:
            contains(e.reason, "ALERT_BAD_RECORD_MAC")
        else:
            raise AssertionError("no alert")


# -- records ----------------------------------------------------------------------------------


def small_records(mode, version):
    with serving(mode) as server, tls(server.port, context(version)) as client:
        echoed(client, os.urandom(5000), most=1)
        close_cleanly(client)


def small_records_at_once(mode, version):
    """Thousands of records in one segment: read without another event."""
    with serving(mode) as server, connect(server.port) as sock:
        hello, parts = client_hello(version)
        sock.sendall(hello)
        finish_by_hand(sock, parts)
        data = os.urandom(20000)
        for i in range(len(data)):
            parts[0].write(data[i : i + 1])
        sock.sendall(parts[2].read())
        got = b""
        while len(got) < len(data):
            got += go_on(sock, parts, lambda session: session.read(1 << 14))
        equal(got, data)
        go_on_closing(sock, parts)


def go_on_closing(sock, parts):
    with contextlib.suppress(ssl.SSLWantReadError):
        parts[0].unwrap()
    sock.sendall(parts[2].read())


def big_records(mode, version):
    with serving(mode) as server, tls(server.port, context(version)) as client:
        for size in [16384, 16383, 16385]:
            echoed(client, MEGABYTE[:size])
        echoed(client, MEGABYTE * 4)
        close_cleanly(client)


def small_reads(mode, version):
    """A handler that reads 7 bytes at a time: what is decrypted and unread counts as readable."""
    with serving(mode, "--buffer", "7") as server, tls(server.port, context(version)) as client:
        echoed(client, b"hello")
        echoed(client, MEGABYTE[:16384])
        echoed(client, MEGABYTE[:200_000])
        close_cleanly(client)


def slow_reader(mode, version):
    """Back-pressure: the server does not read what it could not send."""
    with serving(mode) as server, tls(server.port, context(version)) as client:
        client.setblocking(False)
        data, sent = memoryview(MEGABYTE * 64), 0
        while select.select([], [client], [], 0.5)[1]:
            with contextlib.suppress(ssl.SSLWantWriteError):
                sent += client.send(data[sent : sent + (1 << 16)])
        assert sent < len(data), "the server took everything in"
        # A record that is half sent must be sent whole before anything else.
        rest = data[sent : sent + (1 << 16)]
        digest, size, total = hashlib.sha256(), 0, sent + len(rest)
        for part in sending(client, rest):
            digest.update(part)
            size += len(part)
            if size >= total:
                break
        equal(size, total)
        equal(digest.digest(), hashlib.sha256(data[:total]).digest())
        close_cleanly(client)
        server.no_exception()


def spin(mode):
    """Idle connections take no CPU time, with a record half there either."""
    with serving(mode) as server, connect(server.port) as sock:
        hello, parts = client_hello()
        sock.sendall(hello)
        finish_by_hand(sock, parts)
        parts[0].write(b"half\n")
        record = parts[2].read()
        sock.sendall(record[:10])
        before = cpu_ticks(server.pid)
        time.sleep(0.5)  # what is measured is what this time takes
        assert cpu_ticks(server.pid) - before <= 5, "it spins"
        sock.sendall(record[10:])
        equal(go_on(sock, parts, lambda session: session.read(100)), b"half\n")
        go_on_closing(sock, parts)


def cpu_ticks(pid):
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


# -- STARTTLS ---------------------------------------------------------------------------------


@contextlib.contextmanager
def smtp_client(server):
    with connect(server.port) as sock:
        equal(read_line(sock), "220 ready")
        yield sock


def smtp_ask(client, line):
    client.sendall(line.encode() + b"\r\n")
    return read_line(client)


def starttls_openssl(mode, version):
    with serving(mode, "--mode", "smtp") as server:
        argv = ["openssl", "s_client", "-starttls", "smtp", "-connect", f"127.0.0.1:{server.port}"]
        argv += ["-CAfile", pem("ca"), "-tls" + version.replace(".", "_"), "-crlf"]
        output, _ = talk(argv, ["info", "quit"], "\0never")
        contains(output, "Verify return code: 0 (ok)")
        contains(output, "221 bye")
        equal(json.loads(re.search(r"250 (\{.*\})", output)[1])["version"], version)
        server.no_exception()


def starttls(mode, version):
    with serving(mode, "--mode", "smtp") as server, smtp_client(server) as sock:
        equal(smtp_ask(sock, "EHLO me"), "250-hello")
        equal(read_line(sock), "250 STARTTLS")
        equal(smtp_ask(sock, "STARTTLS"), "220 go ahead")
        with context(version).wrap_socket(sock, server_hostname="localhost") as client:
            client.suppress_ragged_eofs = False
            equal(smtp_ask(client, "EHLO me"), "250 hello")
            equal(smtp_ask(client, "STARTTLS"), "500 what?")
            contains(smtp_ask(client, "INFO"), f'"version":"{version}"')
            equal(smtp_ask(client, "QUIT"), "221 bye")
            equal(client.recv(10), b"")
        stats = server.stats()
        equal((stats["handshakes"], stats["handshake_failures"]), (1, 0))
        equal([e["secure"] for e in server.events if e["event"] == "smtp"], [False] * 2 + [True] * 4)
        server.no_exception()


def starttls_ahead(mode, version):
    """The ClientHello comes along with the command: it goes to TLS, whole or in part."""
    for split in [0, 1, 5, 100]:
        with serving(mode, "--mode", "smtp") as server, smtp_client(server) as sock:
            hello, parts = client_hello(version)
            cut = split or len(hello)
            sock.sendall(b"STARTTLS\r\n" + hello[:cut])
            equal(read_line(sock), "220 go ahead")
            sock.sendall(hello[cut:])
            go_on(sock, parts, lambda session: session.do_handshake() or True)
            go_on(sock, parts, lambda session: session.write(b"EHLO me\r\n"))
            equal(go_on(sock, parts, lambda session: session.read(100)), b"250 hello\r\n")
            go_on_closing(sock, parts)
            server.event("end")
            server.no_exception()


def starttls_injection(mode):
    """Plain text sent behind the command is TLS's, which refuses it: no handler sees it."""
    for behind in [b"", b"EHLO again\r\n"]:
        for late in [False, True]:
            with serving(mode, "--mode", "smtp") as server, smtp_client(server) as sock:
                injected = b"INJECTED line\r\n" + behind
                if late:
                    equal(smtp_ask(sock, "STARTTLS"), "220 go ahead")
                    sock.sendall(injected)
                else:
                    sock.sendall(b"STARTTLS\r\n" + injected)
                    equal(read_line(sock), "220 go ahead")
                with contextlib.suppress(ConnectionResetError):
                    rest = harness.read_to_end(sock)
                    assert b"250" not in rest and b"500" not in rest, rest
                server.exception("NS_ERR_HANDSHAKE")
                server.stats()
                equal([e["line"] for e in server.events if e["event"] == "smtp"], ["STARTTLS"])
    # And in front of a good ClientHello it spoils the handshake.
    with serving(mode, "--mode", "smtp") as server, smtp_client(server) as sock:
        hello, parts = client_hello()
        sock.sendall(b"STARTTLS\r\nINJECTED line\r\n" + hello)
        equal(read_line(sock), "220 go ahead")
        try:
            go_on(sock, parts, lambda session: session.do_handshake() or True)
        except (ssl.SSLError, AssertionError, ConnectionResetError):
            pass
        else:
            raise AssertionError("it went through")
        server.exception("NS_ERR_HANDSHAKE")
        equal([e["line"] for e in server.events if e["event"] == "smtp"], ["STARTTLS"])


def starttls_silence(mode):
    """Who asks for STARTTLS and says nothing more is held no longer than another handshake."""
    with serving(mode, "--mode", "smtp", "--handshake-timeout", "300") as server:
        with smtp_client(server) as sock:
            equal(smtp_ask(sock, "STARTTLS"), "220 go ahead")
            started = time.monotonic()
            with contextlib.suppress(ConnectionResetError):
                equal(sock.recv(100), b"")
            assert 0.2 < time.monotonic() - started < 2
            event = server.event("exception")
            assert event["status"] in ("NS_ERR_TIMEOUT", "NS_ERR_HANDSHAKE"), event
            contains(event["message"], "timed out")


# -- reloading --------------------------------------------------------------------------------


def reload(mode):
    with serving(mode, "--mode", "lines") as server, tls(server.port) as open_session:
        equal(ask(open_session, "before"), "before")
        equal(certificate_for(server, "localhost"), der("server"))
        for good in ["second", "rsa", "v1", "expired", "server"]:
            equal(server.reload(good)["status"], "NS_OK")
            for version in VERSIONS:
                equal(certificate_for(server, "localhost", version), der(good))
            equal(ask(open_session, "between"), "between")
        for name, key, why in [
            ("missing", None, "missing.pem"),
            ("empty", "server-key", "no certificate"),
            ("text", "server-key", "no certificate"),
            ("server", "missing", "missing.pem"),
            ("server", "second-key", "not that of"),
            ("server", "encrypted-key", "encrypted"),
            ("server", "empty", "no private key"),
            ("bad-base64", "server-key", "PEM"),
            ("bad-der", "server-key", "bad-der.pem"),
            ("ed448", None, "supported"),
        ]:
            answer = server.reload(name, key)
            equal((name, key, answer["status"]), (name, key, "NS_ERR_CERTIFICATE"))
            contains(answer["message"], why)
            equal(certificate_for(server, "localhost"), der("server"))
        equal(ask(open_session, "after"), "after")
        close_cleanly(open_session)
        server.no_exception()


def reload_under_load(mode):
    """Not one handshake fails, resumed ones of the old keys neither."""
    failures, counts, over = [], [0] * 3, threading.Event()

    def load(i):
        made = context(VERSIONS[i % 2], authority=None)
        session = None
        while not over.is_set():
            try:
                with tls(server.port, made, session=session) as client:
                    equal(ask(client, "load"), "load")
                    session = client.session
                    close_cleanly(client)
                counts[i] += 1
            except Exception as e:
                failures.append(repr(e))

    def everyone_was_served(before):
        return failures or all(now > then for now, then in zip(counts, before))

    with serving(mode, "--mode", "lines") as server:
        loads = [threading.Thread(target=load, args=(i,)) for i in range(len(counts))]
        for thread in loads:
            thread.start()
        try:
            for i in range(60):
                good, before = ["second", "server"][i % 2], list(counts)
                equal(server.reload(good)["status"], "NS_OK")
                equal(server.reload("missing")["status"], "NS_ERR_CERTIFICATE")
                harness.wait_until(lambda: everyone_was_served(before), "everyone is served")
        finally:
            over.set()
            for thread in loads:
                thread.join()
        equal(failures, [])
        stats = server.stats()
        equal((stats["handshakes"], stats["handshake_failures"]), (sum(counts), 0))
        server.no_exception()


# -- detaching --------------------------------------------------------------------------------


def detach_refused(mode, version):
    """A blocking server cannot: the handler gets the error, others are served as before."""
    with serving(mode, "--mode", "lines") as server, tls(server.port, context(version)) as client:
        client.suppress_ragged_eofs = False
        equal(ask(client, "before"), "before")
        client.sendall(b"detach\n")
        server.exception("NS_ERR_NOT_NON_BLOCKING")
        equal(client.recv(10), b"")  # what the program did about it, told by close_notify
        works(server)
        equal(server.stats()["detached"], 0)


def detach(mode, version):
    with serving(mode, "--mode", "lines") as server, tls(server.port, context(version)) as client:
        before = ask_info(client)
        for _ in range(3):
            answer = ask(client, "detach")
            assert answer.startswith("detached "), answer
            equal(json.loads(answer[len("detached ") :]), before)
            equal(ask(client, "abc"), "ABC")
            long = "y" * 100_000
            equal(ask(client, long), long.upper())
            equal(server.stats()["open"], 0)
            equal(ask(client, "attach"), "attaching")
            equal(ask(client, "abc"), "abc")
            equal(ask_info(client), before)
        # An owner that drops it at the end of the stream.
        ask(client, "detach")
        close_cleanly(client)
        equal(server.stats()["handshakes"], 1)
        server.no_exception()


def detach_buffered(mode):
    """What was decrypted and unread goes along, out of the server and back."""
    with serving(mode, "--mode", "lines", "--buffer", "7") as server, tls(server.port) as client:
        client.sendall(b"detach\nabc\nattach\nxyz\ndetach\nq\nattach\nlast\n")
        assert read_line(client).startswith("detached ")
        equal([read_line(client) for _ in range(3)], ["ABC", "attaching", "xyz"])
        assert read_line(client).startswith("detached ")
        equal([read_line(client) for _ in range(3)], ["Q", "attaching", "last"])
        close_cleanly(client)
        server.event("end")
        server.no_exception()


def detach_truncated(mode):
    with serving(mode, "--mode", "lines") as server:
        client = tls(server.port)
        assert ask(client, "detach").startswith("detached ")
        close_rudely(client)
        server.event("detached", status="NS_ERR_TRUNCATED")
        client = tls(server.port)
        assert ask(client, "detach").startswith("detached ")
        reset(client)
        server.event("detached", status="NS_ERR_RESET")


def checks():
    for version in VERSIONS:
        for title, check, *only in [
            ("certificates by name", names),
            ("ALPN", alpn),
            ("client certificate", client_certificate),
            ("bad client certificates", bad_client_certificates),
            ("optional client certificate", optional_client_certificate),
            ("close_notify on close", server_closes),
            ("close_notify on stop", server_stops),
            ("clean end", clean_end),
            ("end along with the handshake", end_with_handshake),
            ("half-close", half_close),
            ("truncation", truncation),
            ("reset", reset_by_peer),
            ("timeout", timeout),
            ("broken record", broken_record),
            ("records of 1 byte", small_records),
            ("records of 1 byte at once", small_records_at_once),
            ("records of 16 KiB", big_records),
            ("reads of 7 bytes", small_reads),
            ("slow reader", slow_reader),
            ("STARTTLS by openssl", starttls_openssl),
            ("STARTTLS", starttls),
            ("STARTTLS with the ClientHello", starttls_ahead),
            ("detach and attach", detach, NON_BLOCKING),
            ("detach refused", detach_refused, BLOCKING),
        ]:
            yield f"{title}, TLS {version}", (lambda mode, c=check, v=version: c(mode, v)), *only
    yield "no default certificate", no_default
    yield "certificate by key type", by_key_type
    for name in ["v1", "expired", "rsa", "ed25519"]:
        yield f"server certificate {name}", any_certificate(name)
    yield "minimum version", minimum_version
    yield "resumed while the client's certificate is valid", resumed_while_valid
    yield "no resumption without tickets and cache", no_resumption
    yield "no spinning", spin
    yield "STARTTLS injection", starttls_injection
    yield "STARTTLS and silence", starttls_silence
    yield "reload", reload
    yield "reload under load", reload_under_load
    yield "detach with buffered bytes", detach_buffered, NON_BLOCKING
    yield "detach and truncation", detach_truncated, NON_BLOCKING
