#!/usr/bin/env python3
"""A host with asyncio, by ctypes alone. It does what host.h says.

    asyncio_host.py --library PATH [--idle MS] [--cert FILE --key FILE] SERVICE
"""

import argparse
import asyncio
import ctypes
import pathlib
import signal
import sys
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "ffi"))
from netserver import EVENT, HANDLER, NS_ERR_STATE, NS_START_HOSTED, load, text


class Echo:
    def __init__(self, library):
        self.ns = library
        self.buffer = ctypes.create_string_buffer(4096)
        self.threads = {}  # what wakes a connection, by its id

    def handler(self, server, socket, user_data):
        while (n := self.ns.ns_socket_recv(socket, self.buffer, len(self.buffer))) > 0:
            data = self.buffer.raw[:n]
            if data == b"wake":
                number = self.ns.ns_socket_id(socket)
                thread = threading.Thread(target=self.ns.ns_server_wake, args=(server, number))
                self.threads[number] = thread
                thread.start()
            else:
                self.ns.ns_socket_send(socket, data, n)
        if n == 0:
            self.ns.ns_socket_close(socket)
        return n

    def on_wake(self, server, socket, user_data):
        self.threads.pop(self.ns.ns_socket_id(socket)).join()
        return self.ns.ns_socket_send(socket, b"awake", 5)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--library", required=True)
    parser.add_argument("--idle", type=int)
    parser.add_argument("--cert")
    parser.add_argument("--key")
    parser.add_argument("service")
    arguments = parser.parse_args()

    ns = load(arguments.library)
    echo = Echo(ns)
    # Python's own objects: they live until the server has been freed.
    handler, on_wake = HANDLER(echo.handler), EVENT(echo.on_wake)

    def check(status):
        if status < 0:
            raise SystemExit(ns.ns_status_name(status).decode())

    config = ns.ns_config_new()
    check(ns.ns_config_set_non_blocking(config, True))
    check(ns.ns_config_set_on_wake(config, on_wake, None, None))
    if arguments.idle:
        check(ns.ns_config_set_idle_timeout_ms(config, arguments.idle))
    if arguments.cert:
        tls = ns.ns_tls_new()
        files = arguments.cert.encode(), arguments.key.encode()
        check(ns.ns_tls_add_cert_file(tls, None, *files, None))
        check(ns.ns_config_set_tls(config, tls))
        ns.ns_tls_free(tls)
    server = ns.ns_server_new(arguments.service.encode(), handler, None, None, config, None)
    ns.ns_config_free(config)
    check(ns.ns_server_start(server, NS_START_HOSTED, None))
    print("listening on", text(ns.ns_server_address, server), flush=True)

    loop = asyncio.new_event_loop()
    fd = ns.ns_server_poll_fd(server)

    def turn():
        status = ns.ns_server_run_once(server, 0)
        if status == NS_ERR_STATE:
            loop.remove_reader(fd)
            loop.stop()
        else:
            check(status)

    loop.add_reader(fd, turn)
    loop.add_signal_handler(signal.SIGINT, ns.ns_server_request_stop, server)
    loop.run_forever()
    loop.close()
    check(ns.ns_server_free(server))


main()
