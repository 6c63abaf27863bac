"""Servers behind a load balancer, and their successors."""

from __future__ import annotations

import os
import threading

import pytest
from conftest import BLOCKING, HOSTED, SECONDS, Client, echo, serving, until

import netserver
from netserver import Config, Server, Socket

V2 = b"\r\n\r\n\0\r\nQUIT\n"


@pytest.mark.parametrize("non_blocking", [True, False], ids=["hosted", "blocking"])
def test_the_address_of_the_client(non_blocking: bool) -> None:
    def handler(socket: Socket) -> None:
        text = f"{socket.peer} by {socket.transport_peer}: {socket.proxy_tlv(5)!r}"
        if socket.recv() == b"who":
            socket.send(text.encode())
            socket.close()

    config = Config(non_blocking=non_blocking, proxy_protocol=3, trusted_proxies=["127.0.0.0/8"])
    server = Server(handler, "127.0.0.1:0", config)
    checks = server.add_service("127.0.0.1:0")
    server.set_service_proxy(checks, 0)
    with pytest.raises(netserver.InvalidError):
        server.set_service_proxy(7, 0)
    with server:
        assert server.is_ready
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with Client(server.port) as client:
            client.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 443\r\nwho")
            mine = "127.0.0.1:%d" % client.getsockname()[1]
            assert client.rest() == f"192.0.2.7:4711 by {mine}: None".encode()
        for extra in (b"it is one", b"x" * 300):
            with Client(server.port) as client:
                # TCP over IPv4: two addresses, two ports, an extra of type 5.
                body = bytes([192, 0, 2, 8, 192, 0, 2, 1, 0, 80, 1, 187, 5])
                body += len(extra).to_bytes(2, "big") + extra
                client.sendall(V2 + b"\x21\x11" + len(body).to_bytes(2, "big") + body + b"who")
                mine = "127.0.0.1:%d" % client.getsockname()[1]
                assert client.rest() == f"192.0.2.8:80 by {mine}: {extra!r}".encode()
        with Client(int(server.service_address(checks).rpartition(":")[2])) as client:
            client.sendall(b"who")
            mine = "127.0.0.1:%d" % client.getsockname()[1]
            assert client.rest() == f"{mine} by {mine}: None".encode()
        server.stop(1)
        thread.join(SECONDS)


@pytest.mark.parametrize("config", [HOSTED, Config(non_blocking=False, max_thread=4, lend_listeners=True)],
                         ids=["hosted", "blocking"])  # fmt: skip
def test_a_successor_takes_the_port(config: Config) -> None:
    with serving(echo, config) as former:
        lent = os.dup(former.listener_fd())
        with serving(echo, config, service=f"fd:{lent}") as later:
            os.close(lent)
            with Client(former.port) as client:
                # Either of them may have accepted it.
                assert client.ask(b"before") == b"before"
                former.request_quiesce()
                until(lambda: not former.is_ready)
                former.quiesce()
                assert client.ask(b"meanwhile") == b"meanwhile"
                both = former.stats().open, later.stats().open
                assert sorted(both) == [0, 1]
                if both[0]:
                    with pytest.raises(netserver.TimeoutError):
                        former.wait_idle(0.01)
            former.wait_idle(SECONDS)
            with Client(later.port) as client:
                assert client.ask(b"after") == b"after"
            assert former.stats().open == 0


def test_only_a_server_that_lends_has_a_listener() -> None:
    server = Server(echo, "127.0.0.1:0", BLOCKING)
    with pytest.raises(netserver.UnsupportedError):
        server.listener_fd()
    server.close()


def test_the_thread_of_the_turns_waits_for_the_last_client() -> None:
    with Server(echo, "127.0.0.1:0") as server, Client(server.port) as client:
        client.sendall(b"hello")
        until(lambda: server.run_once() and server.stats().bytes_out == 5)
        server.quiesce()
        leaving = threading.Timer(0.05, client.close)
        leaving.start()
        server.wait_idle(SECONDS)
        leaving.join()
        assert server.stats().open == 0 and not server.is_ready
