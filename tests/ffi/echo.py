#!/usr/bin/env python3
"""The echo server from Python by ctypes alone: both modes, an exception handler, Ctrl-C.

    echo.py [-n] [--library PATH] [SERVICE]

A client that sends "boom" makes the handler raise: the exception handler tells it why.
"""

import argparse
import ctypes
import signal
from ctypes import c_void_p

from netserver import EXCEPTION, HANDLER, NS_ERR_TIMEOUT, NS_START_BACKGROUND, load, text


class Echo:
    def __init__(self, library):
        self.ns = library

    def handle(self, server, socket, user_data):
        buffer = ctypes.create_string_buffer(65536)
        while (n := self.ns.ns_socket_recv(socket, buffer, len(buffer))) > 0:
            data = buffer.raw[:n]
            if data.startswith(b"boom"):
                raise ValueError("the client said boom")
            self.ns.ns_socket_send(socket, data, n)
        if n == 0:
            self.ns.ns_socket_close(socket)
        return n

    def handler(self, server, socket, user_data):
        # An exception must not leave a callback: the library carries its text on.
        try:
            return self.handle(server, socket, user_data)
        except Exception as error:
            return self.ns.ns_raise(socket, -1, str(error).encode())

    def exception(self, server, socket, error, user_data):
        message = self.ns.ns_error_message(error)
        print("exception:", message.decode(), flush=True)
        if socket:
            answer = b"error: " + message + b"\n"
            self.ns.ns_socket_send(socket, answer, len(answer))
            self.ns.ns_socket_close(socket)
        return 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("-n", action="store_true", help="non-blocking mode")
    parser.add_argument("-t", type=int, default=2, help="threads")
    parser.add_argument("--library", default="libnetserver.so.0")
    parser.add_argument("service", nargs="?", default="5000")
    arguments = parser.parse_args()

    ns = load(arguments.library)
    echo = Echo(ns)
    # Python's own objects: they live until the server has been freed.
    handler, exception = HANDLER(echo.handler), EXCEPTION(echo.exception)
    error = c_void_p()

    config = ns.ns_config_new()
    ns.ns_config_set_non_blocking(config, arguments.n)
    ns.ns_config_set_max_thread(config, arguments.t)
    ns.ns_config_set_exception_handler(config, exception, None, None)
    server = ns.ns_server_new(
        arguments.service.encode(), handler, None, None, config, ctypes.byref(error)
    )
    ns.ns_config_free(config)
    if server:
        signal.signal(signal.SIGINT, lambda *_: ns.ns_server_request_stop(server))
        ns.ns_server_start(server, NS_START_BACKGROUND, ctypes.byref(error))
    if error:
        message = ns.ns_error_message(error).decode()
        ns.ns_error_free(error)
        ns.ns_server_free(server)
        raise SystemExit(message)

    print("echo.py: listening on", text(ns.ns_server_address, server), flush=True)
    # Python runs its signal handlers between two calls, so no call may last for ever.
    while ns.ns_server_wait(server, 100) == NS_ERR_TIMEOUT:
        pass
    print(text(ns.ns_server_report, server), end="")
    status = ns.ns_server_free(server)
    print("free:", ns.ns_status_name(status).decode(), flush=True)


main()
