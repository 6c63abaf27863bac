"""Programs that cannot start: the message, the status, and nothing left."""

import socket

import harness
import pytest

DATA = harness.ROOT / "tests" / "data"
both = pytest.mark.parametrize("kind", ["echo", "checker"])


@both
def test_port_in_use(start, variant, kind):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        service = "127.0.0.1:%d" % taken.getsockname()[1]
        server = start(kind, variant, service=service)
        assert server.finish(1) == ""
        assert service in server.stderr()
        assert "in use" in server.stderr()


@both
def test_bad_service(start, variant, kind):
    server = start(kind, variant, service="127.0.0.1:99999")
    assert server.finish(1) == ""
    assert "127.0.0.1:99999" in server.stderr()


@both
@pytest.mark.variants(["hosted"])
def test_bad_certificate(start, variant, kind):
    key = DATA / "second-key.pem"
    for certificate, reason in (DATA / "server.pem", ""), ("/does/not/exist.pem", "exist.pem"):
        server = start(kind, variant, "--cert", certificate, "--key", key)
        assert server.finish(1) == ""
        assert server.stderr().strip() and reason in server.stderr()


@both
@pytest.mark.parametrize(
    "options",
    [["--nonsense"], ["-t"], ["-t", "many"], ["--cert", "x"], ["0"], ["-x"]],
    ids=lambda options: "_".join(options),
)
@pytest.mark.variants(["hosted"])
def test_wrong_command_line(start, variant, kind, options):
    """`--cert` lacks its key; the second "0" makes two services."""
    service = None if options == ["-t"] else "0"
    server = start(kind, variant, *options, service=service)
    server.finish(2)
    assert server.stderr()
    assert server.output == ""
