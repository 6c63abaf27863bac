#!/usr/bin/env python3
"""Sends back what it receives, in either mode, until SIGINT or SIGTERM.

    echo.py [-n] [-t THREADS] [--cert FILE --key FILE] [--shutdown-port P] [SERVICE]
"""

import argparse
import signal
import sys

from netserver import TLS, Config, Error, Server, Socket


def echo(socket: Socket) -> None:
    while data := socket.recv():
        socket.send(data)
    if data is not None:
        socket.close()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("-n", action="store_true", help="non-blocking mode")
    add("-t", type=int, metavar="THREADS", help="workers, or event loops (1)")
    add("--cert", metavar="FILE", help="TLS with this certificate chain (PEM)")
    add("--key", metavar="FILE", help="its private key (PEM)")
    add("--shutdown-port", metavar="P", help="a connection to this port stops the server")
    add("service", nargs="?", default="5000", help="where to listen (5000)")
    arguments = parser.parse_args()
    if bool(arguments.cert) != bool(arguments.key):
        parser.error("--cert and --key belong together")
    return arguments


def main() -> None:
    arguments = parse()
    config = Config(
        non_blocking=arguments.n,
        max_thread=arguments.t,
        shutdown_port=arguments.shutdown_port,
        drain_timeout=0.5,
    )
    tls = TLS(arguments.cert, arguments.key) if arguments.cert else None
    with Server(echo, arguments.service, config, tls=tls) as server:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: server.request_stop())
        print("listening on", server.address, flush=True)
        server.serve_forever()


try:
    main()
except Error as error:
    sys.exit(f"echo.py: {error}")
