"""Bytes there and back: the echo program of each language."""

import os
import signal
import socket
import ssl

import harness
import pytest
from programs import exchange

MEBIBYTE = os.urandom(1 << 20)


@pytest.mark.variants(tls=True)
def test_mebibyte(echo):
    with echo.client() as client:
        assert exchange(client, MEBIBYTE) == MEBIBYTE


@pytest.mark.variants(tls=True)
def test_two_hundred_clients(start, variant):
    """All are open and have something on its way at the same time."""
    more = ["-t", "220"] if variant.mode == "blocking" else []
    server = start("echo", variant, *more).is_ready()
    clients = [server.client() for _ in range(200)]
    for number, client in enumerate(clients):
        client.say(f"{number} " + "x" * number)
    for number, client in enumerate(clients):
        assert client.read() == f"{number} " + "x" * number
    for client in clients:
        client.socket.close()
    server.end()


def test_half_close(echo):
    """The end of the client's stream ends what the server sends only after all of it."""
    with echo.client() as client:
        assert harness.exchange(client.socket, MEBIBYTE) == MEBIBYTE


@pytest.mark.variants(tls=True)
def test_end_of_stream_is_answered(echo):
    """Over TLS with a close_notify: else `unwrap` fails."""
    with echo.client() as client:
        assert client.ask("last words") == "last words"
        if echo.variant.tls:
            client.socket.unwrap()
        else:
            client.socket.shutdown(socket.SHUT_WR)
            client.see_end()


@pytest.mark.variants(tls=True)
def test_reset_concerns_one_client(echo):
    """And the server says nothing about it: clients come and go."""
    with echo.client() as other:
        for _ in range(20):
            client = echo.client()
            client.say("x" * 50000)
            client.reset()
        assert other.ask("still here") == "still here"


@pytest.mark.variants(tls=True)
def test_client_of_the_wrong_kind(start, variant):
    """Plain text at a TLS server, and a client that speaks TLS to a plain one."""
    server = start("checker", variant).is_ready()
    if variant.tls:
        with socket.create_connection(("127.0.0.1", server.port_number), 30) as sock:
            sock.sendall(b"echo hello\n\n\n\n\n\n")
            harness.read_to_end(sock)
    else:
        context = ssl.create_default_context()
        with socket.create_connection(("127.0.0.1", server.port_number), 30) as sock:
            with pytest.raises(ssl.SSLError):
                context.wrap_socket(sock, server_hostname="localhost")
    with server.client() as client:
        assert client.ask("echo hello") == "hello"
    server.end()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["sigint", "sigterm"])
@pytest.mark.variants(tls=True)
def test_signal_ends_the_echo_in_order(echo, number):
    with echo.client() as client:
        assert client.ask("hello") == "hello"
        echo.process.send_signal(number)
        client.see_end()
    echo.finish(0)
    echo.check_remains()


@pytest.mark.variants(["hosted"])
def test_echo_has_a_default_mode(start, variant):
    """No `-n` and no `-t`: blocking mode where there are threads, else hosted."""
    server = start("echo", variant, bare=True).is_ready()
    with server.client() as client:
        assert client.ask("hello") == "hello"
    server.end()


@pytest.mark.parametrize("kind", ["echo", "checker"])
def test_shutdown_port_stops_it(start, variant, kind):
    port = harness.free_port()
    server = start(kind, variant, "--shutdown-port", port).is_ready()
    with server.client() as client:
        client.say("echo hello")
        assert client.read().endswith("hello")
        socket.create_connection(("127.0.0.1", port), harness.patience).close()
        client.see_end()
    if kind == "checker":
        server.expect("^stopped$")
    server.finish(0)
    server.check_remains()
