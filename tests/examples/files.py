"""Checks of the files example with the clients of HTTP."""

import os
import re
import resource
import subprocess
import tempfile
import time

import harness
from harness import Program, connect, contains, equal

INDEX = b"<p>hello</p>\n"
LARGE = os.urandom(1 << 20)
GET = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"


class Site:
    """A folder and the server of its files."""

    def __init__(self, *options):
        self.folder = tempfile.TemporaryDirectory(prefix="site-")
        program = harness.c_program("examples-c", "files")
        self.server = Program([program, *options, "127.0.0.1:0", self.folder.name])

    def __enter__(self):
        self.port = self.server.port()
        self.write("index.html", INDEX)
        return self

    def __exit__(self, *_):
        self.server.__exit__()
        self.folder.cleanup()

    def write(self, name, content, times=1):
        with open(os.path.join(self.folder.name, name), "wb") as file:
            for _ in range(times):
                file.write(content)

    def url(self, path="", scheme="http"):
        return f"{scheme}://localhost:{self.port}/{path}"


def curl(*args):
    argv = ["curl", "-sS", "-4", *args]
    return subprocess.run(
        argv, capture_output=True, check=True, timeout=10 * harness.patience
    ).stdout


def answers_to(port, request):
    """Everything that comes back until the server closes; the client does not end its stream."""
    with connect(port) as client:
        client.sendall(request)
        return harness.read_to_end(client)


def by_curl(options=(), scheme="http", args=()):
    megabytes = 5 if harness.under == "valgrind" else 100
    with Site(*options) as site:
        site.write("a folder of.css", b"p {}")
        site.write("empty", b"")
        site.write("large", LARGE, megabytes)
        url = lambda path="": site.url(path, scheme)
        equal(curl(*args, url()), INDEX)
        equal(curl(*args, url("index.html?a=/../b")), INDEX)
        equal(curl(*args, url("a%20folder%20of.css")), b"p {}")
        got = curl(*args, "-w", "%{http_code} %{num_connects}\n", *[url("empty")] * 3)
        equal(got, b"200 1\n200 0\n200 0\n")
        equal(curl(*args, "-0", "-w", "%{http_code}", *[url("empty")]), b"200")
        head = curl(*args, "-I", url(), "--next", *args, "-sS", "-4", url()).decode()
        contains(head, "HTTP/1.1 200 OK\r\n")
        contains(head, "\r\nContent-Type: text/html; charset=utf-8\r\n")
        contains(head, f"\r\nContent-Length: {len(INDEX)}\r\n\r\n{INDEX.decode()}")
        equal(curl(*args, url("none")), b"404 Not Found")
        assert curl(*args, url("large")) == LARGE * megabytes
        for options in ["-d", "x"], ["-T", "/etc/hostname"]:
            equal(curl(*args, *options, url()), b"413 Content Too Large")
        chunked = ["-H", "Transfer-Encoding: chunked", "-d", "x"]
        equal(curl(*args, *chunked, url()), b"501 Not Implemented")
        equal(curl(*args, "-H", "Expect: more", url()), b"417 Expectation Failed")
        equal(curl(*args, "-X", "DELETE", url()), b"501 Not Implemented")
        equal(curl(*args, "-X", "get", url()), b"501 Not Implemented")
        site.server.stop()


def by_wrk(options=(), scheme="http"):
    with Site(*options) as site:
        site.write("large", LARGE)
        for path in "", "large":
            seconds, requests = 1, 0
            while requests == 0:  # where a second is not enough for an answer
                argv = ["wrk", "-t", "1", "-c", "8", "-d", str(seconds), "--timeout", "60"]
                said = harness.run([*argv, site.url(path, scheme)])
                assert "Socket errors" not in said and "Non-2xx" not in said, said
                requests = int(re.search(r"(\d+) requests in", said)[1])
                seconds *= 2
                assert seconds < harness.patience, said
        site.server.stop()


def strict():
    """What RFC 9112 forbids, or this server does not have, gets its status and the end; nothing
    behind it is answered."""
    get, host = b"GET / HTTP/1.1\r\n", b"Host: here\r\n"
    fields = {
        b"Content-Length: 0\r\nContent-Length: 0\r\n": 400,
        b"Content-Length: 1\r\nContent-Length: 2\r\n": 400,
        b"Content-Length: 0, 0\r\n": 400,
        b"Content-Length: -1\r\n": 400,
        b"Content-Length: +0\r\n": 400,
        b"Content-Length: \r\n": 400,
        b"Content-Length: 99999999999999999999999\r\n": 413,
        b"Transfer-Encoding: chunked\r\n": 501,
        b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n": 400,
        b"transfer-encoding: xchunked\r\n": 501,
        b"Transfer-Encoding : chunked\r\n": 400,
        b"Expect: 200-ok\r\n": 417,
        b"Host: there\r\n": 400,
        b" folded: x\r\n": 400,
        b"No colon\r\n": 400,
        b": no name\r\n": 400,
        b"A: \0\r\n": 400,
        b"A: \r b\r\n": 400,
        b"A\xe9: b\r\n": 400,
        b"A: b\n": 400,
        b"A: b\n\r\n": 400,
        b"A: " + b"x" * 65536 + b"\r\n": 431,
        b"A: b\r\n" * 10000: 431,
    }
    requests = {get + host + field + b"\r\n": status for field, status in fields.items()}
    requests |= {
        get + b"\r\n": 400,
        get.replace(b"\r", b"") + b"Host: here\n\n": 400,
        b"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n": 400,
        b"GET /" + b"x" * 65536 + b" HTTP/1.1\r\n" + host + b"\r\n": 414,
        b"GET  / HTTP/1.1\r\n" + host + b"\r\n": 400,
        b"GET / HTTP/1.1 \r\n" + host + b"\r\n": 400,
        b"GET /\r\n\r\n": 400,
        b"GET / http/1.1\r\n" + host + b"\r\n": 400,
        b"GET / HTTP/2.0\r\n" + host + b"\r\n": 505,
        b"G@T / HTTP/1.1\r\n" + host + b"\r\n": 400,
        get + b"Host: a b\r\n\r\n": 400,
        get + b"Host: ann@here\r\n\r\n": 400,
        get + b"Host: here/there\r\n\r\n": 400,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n": 400,
    }
    with Site() as site:
        for request, status in requests.items():
            answer = answers_to(site.port, GET + request + GET)
            first, rest = answer.split(INDEX)  # once: what came before is answered, nothing after
            contains(first, b"HTTP/1.1 200 OK\r\n")
            assert rest.startswith(b"HTTP/1.1 %d " % status), (request[:100], rest)
            contains(rest, b"\r\nConnection: close\r\n")
            equal(rest.count(b"HTTP/1.1 "), 1)
        site.server.stop()


def paths():
    """No path leads out of the folder."""
    bad, missing = b"HTTP/1.1 400 ", b"HTTP/1.1 404 "
    targets = {
        b"/../index.html": missing,
        b"/..%2findex.html": missing,
        b"/%2e%2e/index.html": missing,
        b"/x/../index.html": missing,
        b"/.hidden": missing,
        b"//etc/passwd": missing,
        b"/%2fetc/passwd": missing,
        b"/index.html%00.txt": missing,
        b"/folder": missing,
        b"/pipe": missing,
        b"/%": bad,
        b"/%4": bad,
        b"/%+1": bad,
        b"/%zz": bad,
        b"/%%41": bad,
        b"*": bad,
        b"index.html": bad,
        b"http://": bad,
        b"http:///index.html": bad,
        b"http://here": b"HTTP/1.1 200 ",
        b"http://here?/none": b"HTTP/1.1 200 ",
        b"http://here/index.html": b"HTTP/1.1 200 ",
        b"/index%2Ehtml": b"HTTP/1.1 200 ",
    }
    with Site() as site:
        os.mkdir(os.path.join(site.folder.name, "folder"))
        os.mkfifo(os.path.join(site.folder.name, "pipe"))
        site.write(".hidden", b"x")
        for target, beginning in targets.items():
            # What breaks a rule ends the connection.
            last = b"" if beginning == bad else b"Connection: x, Close\r\n"
            request = b"GET %s HTTP/1.1\r\nHost: here\r\n%s\r\n" % (target, last)
            answer = answers_to(site.port, request)
            assert answer.startswith(beginning), (target, answer)
        site.server.stop()


def in_pieces():
    """Requests are found wherever the pieces end; answers come in their order."""
    names = [b"%d" % i for i in range(10)]
    asked = b"".join(b"GET /%s HTTP/1.1\r\nHost: here\r\n\r\n\r\n" % name for name in names)
    asked += b"HEAD / HTTP/1.0\r\n\r\n"
    with Site() as site:
        for i, name in enumerate(names):
            site.write(name.decode(), name, 20_000 * i)
        for size in 1, 7, 50, len(asked):
            with connect(site.port) as client, client.makefile("rb") as reader:
                for start in range(0, len(asked), size):
                    client.sendall(asked[start : start + size])
                for i, name in enumerate(names):
                    assert read_answer(reader) == name * 20_000 * i
                contains(reader.read(), b"\r\nContent-Length: %d\r\n" % len(INDEX))
        site.server.stop()


def read_answer(reader):
    length = None
    while (line := reader.readline()) != b"\r\n":
        assert line
        if line.startswith(b"Content-Length: "):
            length = int(line.split()[1])
    return reader.read(length)


def slow_readers():
    """A client that does not read costs little memory, and does not hold others up."""
    count = 10 if harness.under == "valgrind" else 100
    with Site() as site:
        site.write("large", LARGE, 10)
        with connect(site.port) as client, client.makefile("rb") as reader:
            client.sendall(GET.replace(b"/ ", b"/large ") * count)
            client.recv(1, harness.socket.MSG_PEEK)
            for _ in range(10):
                equal(curl(site.url()), INDEX)
            for _ in range(count // 10):
                assert read_answer(reader) == LARGE * 10
        if harness.under == "native":
            with open(f"/proc/{site.server.pid}/status") as status:
                peak = next(line for line in status if line.startswith("VmHWM:"))
            assert int(peak.split()[1]) < 16 << 10, peak
        site.server.stop()


def stop_in_the_middle():
    """The stop lets the file leave."""
    with Site() as site:
        site.write("large", LARGE, 20)
        with connect(site.port) as client:
            client.sendall(GET.replace(b"/ ", b"/large "))
            client.recv(1, harness.socket.MSG_PEEK)
            site.server.process.terminate()
            assert harness.read_to_end(client).endswith(LARGE * 20)
        site.server.finish()


def shorter_file():
    """A client sees that a file has become shorter while it was sent."""
    with Site() as site:
        site.write("large", LARGE, 50)
        with connect(site.port) as client:
            client.sendall(GET.replace(b"/ ", b"/large "))
            client.recv(1, harness.socket.MSG_PEEK)
            os.truncate(os.path.join(site.folder.name, "large"), 100)
            try:
                harness.read_to_end(client)
                raise AssertionError("no reset")
            except ConnectionResetError:
                pass
        equal(curl(site.url()), INDEX)
        site.server.stop()


def late_head():
    """A head has 10 s, however its bytes come; a connection between two requests has longer."""
    begun = time.monotonic()
    with Site() as site, connect(site.port) as late, connect(site.port) as quiet:
        quiet.sendall(GET)
        equal(read_answer(quiet.makefile("rb")), INDEX)
        late.settimeout(0.5)
        late.sendall(GET)
        equal(read_answer(late.makefile("rb")), INDEX)
        late.sendall(GET[:10])
        while True:
            try:
                equal(late.recv(1), b"")
                break
            except TimeoutError:
                assert time.monotonic() < begun + 10 + harness.patience
                late.sendall(b"x")
        assert time.monotonic() >= begun + 10 - 0.1
        quiet.sendall(GET)
        equal(read_answer(quiet.makefile("rb")), INDEX)
        site.server.stop()


def no_descriptors():
    """Without a descriptor for the file the answer is 503, and the next one is served."""
    with Site() as site:
        limit = (64, 64)
        resource.prlimit(site.server.pid, resource.RLIMIT_NOFILE, limit)
        clients = [connect(site.port) for _ in range(40)]
        site.write("large", LARGE, 20)
        answers = []
        for client in clients:
            client.sendall(GET.replace(b"/ ", b"/large "))
            answers.append(client.recv(13, harness.socket.MSG_WAITALL))
        assert b"HTTP/1.1 200 " in answers and b"HTTP/1.1 503 " in answers, answers
        for client in clients:
            client.close()
        harness.wait_until(lambda: curl(site.url()) == INDEX, "the index")
        site.server.stop()


def bad_arguments():
    for arguments in [], ["/nowhere"], ["--cert", "x", "/"], ["1", "2", "/"], ["-x", "/"]:
        with Program([harness.c_program("examples-c", "files"), *arguments]) as server:
            server.finish(expected=2)
            contains(server.stderr(), "usage")


def checks(pair, certificate):
    """`pair` returns the options of TLS, `certificate` the path of a certificate by its name."""

    def curl_tls():
        by_curl(pair(), "https", ["--cacert", certificate("ca.pem")])

    not_under_valgrind = [  # it has descriptors of its own, and takes long for handshakes
        ("files: wrk, TLS", lambda: by_wrk(pair(), "https")),
        ("files: late head", late_head),
        ("files: no descriptors", no_descriptors),
    ]
    return [
        ("files: curl", by_curl),
        ("files: curl, TLS", curl_tls),
        ("files: wrk", by_wrk),
        ("files: strict", strict),
        ("files: paths", paths),
        ("files: in pieces", in_pieces),
        ("files: slow readers", slow_readers),
        ("files: stop", stop_in_the_middle),
        ("files: shorter file", shorter_file),
        ("files: bad arguments", bad_arguments),
    ] + (not_under_valgrind if harness.under != "valgrind" else [])
