#!/usr/bin/env python3
"""The echo server from Python by ctypes alone: both modes, an exception handler, Ctrl-C.

    echo.py [-n] [--library PATH] [SERVICE]

A client that sends "boom" makes the handler raise: the exception handler tells it why.
"""

import argparse
import ctypes
import signal
from ctypes import CFUNCTYPE, POINTER, c_char_p, c_int32, c_int64, c_size_t, c_uint32, c_void_p

NS_START_BACKGROUND = 1
NS_ERR_TIMEOUT = -1003

HANDLER = CFUNCTYPE(c_int32, c_void_p, c_void_p, c_void_p)
EXCEPTION = CFUNCTYPE(c_int32, c_void_p, c_void_p, c_void_p, c_void_p)

PROTOTYPES = {
    "ns_config_new": (c_void_p,),
    "ns_config_free": (None, c_void_p),
    "ns_config_set_non_blocking": (c_int32, c_void_p, c_int32),
    "ns_config_set_max_thread": (c_int32, c_void_p, c_uint32),
    "ns_config_set_exception_handler": (c_int32, c_void_p, EXCEPTION, c_void_p, c_void_p),
    "ns_server_new": (c_void_p, c_char_p, HANDLER, c_void_p, c_void_p, c_void_p, POINTER(c_void_p)),
    "ns_server_start": (c_int32, c_void_p, c_uint32, POINTER(c_void_p)),
    "ns_server_request_stop": (c_int32, c_void_p),
    "ns_server_wait": (c_int32, c_void_p, c_int64),
    "ns_server_free": (c_int32, c_void_p),
    "ns_server_address": (c_size_t, c_void_p, c_char_p, c_size_t),
    "ns_server_report": (c_size_t, c_void_p, c_char_p, c_size_t),
    "ns_socket_recv": (c_int64, c_void_p, c_char_p, c_size_t),
    "ns_socket_send": (c_int32, c_void_p, c_char_p, c_size_t),
    "ns_socket_close": (c_int32, c_void_p),
    "ns_raise": (c_int32, c_void_p, c_int32, c_char_p),
    "ns_error_message": (c_char_p, c_void_p),
    "ns_error_free": (None, c_void_p),
    "ns_status_name": (c_char_p, c_int32),
}


def load(path):
    library = ctypes.CDLL(path)  # releases Python's lock while it is in the library
    for name, (result, *arguments) in PROTOTYPES.items():
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments
    return library


def text(function, server):
    """What a function that fills a buffer as snprintf does has to say."""
    buffer = ctypes.create_string_buffer(function(server, None, 0) + 1)
    function(server, buffer, len(buffer))
    return buffer.value.decode()


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
