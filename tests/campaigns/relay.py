#!/usr/bin/env python3
"""AD15: The relay example passes on 1 GiB each way, in the clear and over TLS, and holds a talker
back whose listener is slow: in bounded memory."""

import pathlib
import socket
import ssl
import tempfile

from common import MIB, Verdict, arguments, connect
import harness
import relaying

(SIZE,) = arguments(1024)  # MiB
BOUND = 32 * MIB


def peak_memory(pid):
    with open(f"/proc/{pid}/status") as status:
        line = next(line for line in status if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def connection(port, listener, context):
    """A client of the relay, and the connection of the relay to the target."""
    client = connect(port)
    if context is not None:
        client = context.wrap_socket(client, server_hostname="localhost")
    return client, listener.accept()[0]


def campaign(verdict, name, listener, options, context):
    target = "127.0.0.1:%d" % listener.getsockname()[1]
    program = harness.c_program("examples-c", "relay")
    with harness.Program([program, *options, "127.0.0.1:0", target]) as relay:
        port = relay.port()
        client, other = connection(port, listener, context)
        relaying.both_ways(client, other, SIZE * MIB)
        verdict.equal(f"{name}: MiB each way", SIZE, SIZE)
        for talks in "the client", "the target":
            client, other = connection(port, listener, context)
            ends = (client, other) if talks == "the client" else (other, client)

            def stalled(said):
                verdict.at_most(f"{name}: taken of {talks}", said / MIB, SIZE / 2, " MiB")

            relaying.slow_reader(*ends, SIZE * MIB, stalled)
            client.close()
            other.close()
        verdict.at_most(f"{name}: memory", peak_memory(relay.pid) / MIB, BOUND / MIB, " MiB")
        relay.stop()


verdict = Verdict("relay")
with socket.create_server(("127.0.0.1", 0)) as listener:
    listener.settimeout(harness.patience)
    campaign(verdict, "plain", listener, [], None)
    with tempfile.TemporaryDirectory(prefix="certificates-") as folder:
        harness.run([str(harness.ROOT / "tests" / "make-certs"), folder])
        path = pathlib.Path(folder)
        options = ["--cert", str(path / "server.pem"), "--key", str(path / "server-key.pem")]
        context = ssl.create_default_context(cafile=str(path / "ca.pem"))
        campaign(verdict, "TLS", listener, options, context)
verdict.close()
