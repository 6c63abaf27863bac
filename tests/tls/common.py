"""What the checks of TLS share: certificates, the server under test, clients by Python's ssl."""

import atexit
import contextlib
import ctypes
import json
import os
import pathlib
import select
import shutil
import ssl
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import harness
from harness import Program, connect, contains, equal

PROGRAM = os.environ.get("TLS_SERVER", str(harness.TARGET / "debug/examples/tls_server"))
BLOCKING = ["-t", "4"]
NON_BLOCKING = ["-n", "-t", "2"]
MEGABYTE = os.urandom(1 << 20)

VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

# -- certificates -----------------------------------------------------------------------------

folder = pathlib.Path(tempfile.mkdtemp(prefix="tls-tests-"))
atexit.register(shutil.rmtree, folder, ignore_errors=True)


def make_certificates():
    harness.run(["sh", str(HERE.parent / "make-certs"), str(folder)])
    # A client's certificate for a server's use only.
    sign("misused", "/CN=misused", "extendedKeyUsage=serverAuth")
    # A chain with an authority in between.
    sign("between", "/CN=Between", "keyUsage=critical,keyCertSign", "ca", "TRUE")
    sign("leaf", "/CN=leaf", "subjectAltName=DNS:localhost,IP:127.0.0.1", "between")
    joined = pem("leaf").read_text() + pem("between").read_text()
    (folder / "leaf-chain.pem").write_text(joined)


def sign(name, subject, extension, authority="ca", is_authority="FALSE"):
    request, extensions = folder / f"{name}.csr", folder / f"{name}.ext"
    extensions.write_text(f"basicConstraints=critical,CA:{is_authority}\n{extension}\n")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    harness.run(
        ["openssl", "req", "-new", *key, "-keyout", pem(f"{name}-key"), "-subj", subject]
        + ["-out", request]
    )
    harness.run(
        ["openssl", "x509", "-req", "-in", request, "-CA", pem(authority)]
        + ["-CAkey", pem(f"{authority}-key"), "-CAcreateserial", "-days", "30"]
        + ["-extfile", extensions, "-out", pem(name)]
    )


def sign_until(name, subject, end):
    """A certificate that is valid until `end`, in whole seconds of the clock."""
    settings = f"{folder}/{name}.cnf"
    pathlib.Path(settings).write_text(
        f"[ca]\ndefault_ca=d\n[d]\ndatabase={folder}/{name}.index\nrand_serial=yes\n"
        f"new_certs_dir={folder}\ndefault_md=sha256\npolicy=p\n[p]\ncommonName=supplied\n"
        "[x]\nbasicConstraints=critical,CA:FALSE\n"
    )
    (folder / f"{name}.index").write_text("")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    request = folder / f"{name}.csr"
    harness.run(
        ["openssl", "req", "-new", *key, "-keyout", pem(f"{name}-key"), "-subj", subject]
        + ["-out", request]
    )
    stamp = time.strftime("%Y%m%d%H%M%SZ", time.gmtime(end))
    harness.run(
        ["openssl", "ca", "-batch", "-config", settings, "-notext", "-extensions", "x"]
        + ["-cert", pem("ca"), "-keyfile", pem("ca-key"), "-in", request, "-out", pem(name)]
        + ["-startdate", "20200101000000Z", "-enddate", stamp]
    )


def pem(name):
    return folder / f"{name}.pem"


def der(name):
    return ssl.PEM_cert_to_DER_cert(pem(name).read_text())


def pair(name, server_name=None, chain=None):
    """The server's options for a certificate."""
    options = ["--name", server_name] if server_name else []
    return options + ["--cert", pem(chain or name), "--key", pem(f"{name}-key")]


# -- the server -------------------------------------------------------------------------------


class Server(Program):
    """The server under test. Where it ends, so must everything that it had."""

    def __init__(self, mode, *options, certificate=None):
        certificate = pair("server") if certificate is None else certificate
        argv = [PROGRAM, *mode, *certificate, *options]
        super().__init__([str(word) for word in argv], stdin=subprocess.PIPE)
        self.events = []
        self.port = self.port()
        self.at_rest = self.stats()["descriptors"]

    def command(self, line, answer):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.event(answer)

    def _next_event(self):
        event = json.loads(self.expect(r"^\{.*")[0])
        self.events.append(event)

    def event(self, name, **fields):
        """The first event with this name and these fields that was not asked for yet."""
        index = 0
        while True:
            while index < len(self.events):
                event = self.events[index]
                if event["event"] == name and all(event.get(k) == v for k, v in fields.items()):
                    return self.events.pop(index)
                index += 1
            try:
                self._next_event()
            except AssertionError as e:
                raise AssertionError(f"no {name} {fields}, but {self.events[-20:]}: {e}") from None

    def exception(self, status, text=""):
        """The exception handler got this, before anything else."""
        event = self.event("exception")
        equal((event["status"], event["message"]), (status, event["message"]))
        contains(event["message"], text)
        return event

    def no_exception(self):
        self.stats()
        equal([event for event in self.events if event["event"] == "exception"], [])

    def stats(self):
        return self.command("stats", "stats")

    def reload(self, name, key=None):
        return self.command(f"reload {pem(name)} {pem(key or name + '-key')}", "reload")

    def check_rest(self):
        """No connection, no descriptor is left, and the numbers add up."""

        def rests():
            self.last = self.stats()
            return self.last["open"] == self.last["waiting"] == 0 and (
                self.last["descriptors"] <= self.at_rest
            )

        try:
            harness.wait_until(rests, "rest")
        except AssertionError as e:
            raise AssertionError(f"{e} {self.last}, {self.at_rest} at first") from None
        self.check_sums(self.last)
        return self.last

    def closed(self, **reasons):
        """Waits until so many are closed, which must be for these reasons."""
        total = sum(reasons.values())
        harness.wait_until(lambda: self.stats()["closed_total"] >= total, f"{total} are closed")
        equal(self.stats()["closed"], reasons)

    def check_sums(self, stats):
        equal(
            stats["accepted"] + stats["attached"],
            stats["open"] + stats["waiting"] + stats["closed_total"] + stats["detached"],
        )

    def end(self):
        """The end in good order."""
        last = self.command("stop", "stopped")
        equal((last["open"], last["waiting"]), (0, 0))
        self.check_sums(last)
        self.process.stdin.close()
        self.finish()
        return last


@contextlib.contextmanager
def serving(mode, *options, certificate=None):
    """A server that is looked at when the check is over."""
    with Server(mode, *options, certificate=certificate) as server:
        yield server
        equal(server.process.poll(), None)
        server.check_rest()
        server.end()
        equal(server.stderr(), "")


# -- clients ----------------------------------------------------------------------------------


def context(version=None, certificate=None, authority="ca"):
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    if authority:
        made.load_verify_locations(pem(authority))
    else:
        made.verify_mode = ssl.CERT_NONE
    if version:
        made.minimum_version = made.maximum_version = VERSIONS[version]
    if certificate:
        made.load_cert_chain(pem(certificate), pem(f"{certificate}-key"))
    return made


def tls(port, made=None, name="localhost", session=None):
    """A client with a finished handshake."""
    sock = connect(port)
    try:
        return (made or context()).wrap_socket(sock, server_hostname=name, session=session)
    except BaseException:
        sock.close()
        raise


def ask(client, line):
    """A line and its answer. Byte by byte: nothing is read ahead."""
    client.sendall(line.encode() + b"\n")
    return read_line(client)


def read_line(client):
    answer = b""
    while not answer.endswith(b"\n"):
        byte = client.recv(1)
        if not byte:
            raise AssertionError(f"the stream ended behind {answer!r}")
        answer += byte
    return answer.decode().rstrip()


def ask_info(client):
    return json.loads(ask(client, "info"))


def sending(client, data, most=1 << 16):
    """Sends while it receives, on one thread: OpenSSL's sessions are not for two. Yields what
    comes; ends where all is sent and nothing comes for the moment."""
    client.setblocking(False)
    left = memoryview(data)
    try:
        while True:
            wants_read = wants_write = False
            try:
                if left:
                    left = left[client.send(left[:most]) :]
            except ssl.SSLWantWriteError:
                wants_write = True
            except ssl.SSLWantReadError:
                wants_read = True
            try:
                part = client.recv(1 << 16)
                if not part:
                    raise AssertionError(f"the stream ended, {len(left)} bytes not sent")
                yield part
                continue
            except ssl.SSLWantReadError:
                wants_read = True
            except ssl.SSLWantWriteError:
                wants_write = True
            if left and not wants_write:
                continue
            if not any(select.select([client], [client] if left else [], [], harness.patience)):
                raise AssertionError(f"nothing happens; {len(left)} bytes not sent")
    finally:
        client.settimeout(harness.patience)


def echoed(client, data, most=1 << 16):
    """What comes back must be what was sent."""
    got = bytearray()
    for part in sending(client, data, most):
        got += part
        if len(got) >= len(data):
            break
    assert bytes(got) == data, f"{len(got)} bytes of {len(data)}, not what was sent"


def close_cleanly(client):
    """close_notify both ways, then the end."""
    client.unwrap().close()


def close_rudely(client):
    """The end of the TCP stream without close_notify."""
    os.close(client.detach())


def reset(client):
    client.setsockopt(harness.socket.SOL_SOCKET, harness.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    os.close(client.detach())


def works(server):
    """Another client is served as ever."""
    with tls(server.port) as client:
        client.sendall(b"works\n")
        equal(read_line(client), "works")
        close_cleanly(client)


def works_over_http(server):
    with tls(server.port, context(authority=None)) as client:
        client.sendall(b"GET /bytes/5 HTTP/1.0\r\n\r\n")
        assert harness.read_to_end(client).endswith(b"\r\n\r\nxxxxx")


def end_of(sock):
    """What a raw peer still gets: the bytes until the end, `None` behind them after a reset."""
    got = b""
    try:
        while part := sock.recv(1 << 16):
            got += part
    except ConnectionResetError:
        return got, None
    return got, b""


def refused(make_and_use):
    """The alert that a client was refused with. TLS 1.3 tells it with the first answer only."""
    try:
        with make_and_use() as client:
            client.sendall(b"info\n")
            got = client.recv(100)
    except ssl.SSLError as e:
        return e.reason or str(e)
    except ConnectionResetError:
        raise AssertionError("reset where an alert was due") from None
    raise AssertionError(f"accepted, and answered {got!r}")


def client_hello(version=None):
    """A ClientHello as OpenSSL makes it, and the session behind it."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context(version).wrap_bio(incoming, outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        session.do_handshake()
    return outgoing.read(), (session, incoming, outgoing)


def go_on(sock, parts, step):
    """Carries a session over memory on over a socket until a step of it is done."""
    session, incoming, outgoing = parts
    while True:
        try:
            result = step(session)
        except ssl.SSLWantReadError:
            result = None
        if data := outgoing.read():
            sock.sendall(data)
        if result is not None:
            return result
        data = sock.recv(1 << 16)
        if not data:
            raise AssertionError("the stream ended")
        incoming.write(data)


def finish_by_hand(sock, parts):
    """The rest of a handshake whose ClientHello was sent, and an echo."""
    go_on(sock, parts, lambda session: session.do_handshake() or True)
    go_on(sock, parts, lambda session: session.write(b"by hand\n"))
    equal(go_on(sock, parts, lambda session: session.read(100)), b"by hand\n")


# -- OpenSSL itself, for what Python's ssl does not offer --------------------------------------


class OpenSsl:
    """A blocking client on libssl, called directly."""

    READ_AGAIN, SYSCALL, CLOSED = 2, 5, 6

    @staticmethod
    def library():
        import _ssl  # loads the library, whichever it is

        lib = ctypes.CDLL(_ssl.__file__)
        for name in ["TLS_client_method", "SSL_CTX_new", "SSL_new", "SSL_get1_session"]:
            getattr(lib, name).restype = ctypes.c_void_p
        return lib

    def __init__(self, port, version, session=None):
        self.lib = self.library()
        self.sock = connect(port)
        self.sock.settimeout(None)
        self.context = ctypes.c_void_p(
            self.lib.SSL_CTX_new(ctypes.c_void_p(self.lib.TLS_client_method()))
        )
        self.ssl = ctypes.c_void_p(self.lib.SSL_new(self.context))
        number = {"1.2": 0x303, "1.3": 0x304}[version]
        for which in 123, 124:  # SSL_CTRL_SET_MIN_PROTO_VERSION, …_MAX_…
            self.lib.SSL_ctrl(self.ssl, which, ctypes.c_long(number), None)
        self.lib.SSL_set_fd(self.ssl, self.sock.fileno())
        if session:
            self.lib.SSL_set_session(self.ssl, session)

    def handshake(self):
        self.expect(self.lib.SSL_connect(self.ssl), 1)
        return self

    def expect(self, result, value):
        if result != value:
            raise AssertionError(f"{result}, not {value}: {self.error(result)}")

    def error(self, result):
        """The reason of a failure, in OpenSSL's words."""
        kind = self.lib.SSL_get_error(self.ssl, result)
        text = ctypes.create_string_buffer(256)
        self.lib.ERR_get_error.restype = ctypes.c_ulong
        code = self.lib.ERR_get_error()
        self.lib.ERR_error_string_n(ctypes.c_ulong(code), text, ctypes.c_size_t(256))
        return f"SSL error {kind}, {text.value.decode()}"

    def write(self, data):
        return self.lib.SSL_write(self.ssl, data, len(data))

    def read(self, size=1 << 14):
        buffer = ctypes.create_string_buffer(size)
        got = self.lib.SSL_read(self.ssl, buffer, size)
        return buffer.raw[:got] if got > 0 else got

    def close(self):
        self.lib.SSL_free(self.ssl)
        self.lib.SSL_CTX_free(self.context)
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


# -- programs as clients ----------------------------------------------------------------------


def talk(argv, lines, until, seconds=30.0):
    """Runs a client, gives it the lines when it asks for input, keeps its input open until it has
    printed `until` or ended by itself. Returns all that it printed."""
    argv = [str(word) for word in argv]
    process = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    os.set_blocking(process.stdout.fileno(), False)
    output, end, closed = b"", time.monotonic() + seconds, False
    try:
        process.stdin.write("".join(line + "\n" for line in lines).encode())
        process.stdin.flush()
        while True:
            part = process.stdout.read()
            if part:
                output += part
                continue
            if part == b"":
                break
            if until.encode() in output and not closed:
                process.stdin.close()
                closed = True
            left = end - time.monotonic()
            if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
                raise AssertionError(f"{argv} did not end; it printed {output.decode()}")
        process.wait(harness.patience)
    except BrokenPipeError:
        output += process.stdout.read() or b""
    finally:
        process.kill()
        process.wait()
        if not closed:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        process.stdout.close()
    return output.decode(errors="replace"), process.returncode


def in_both_modes(checks):
    """[(title, function of a mode)] as checks for `harness.main`; where a third says for which mode
    alone the check is, it is listed there alone."""
    for title, check, *only in checks:
        for described, mode in [("blocking", BLOCKING), ("non-blocking", NON_BLOCKING)]:
            if only in ([], [mode]):
                yield f"{title}, {described}", (lambda check=check, mode=mode: check(mode))
