#!/usr/bin/env python3
"""An echo server of socketserver: a thread for each connection.

    python_socketserver.py HOST:PORT
"""

import socketserver
import sys


class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(data)


class Server(socketserver.ThreadingTCPServer):
    request_queue_size = 4096
    daemon_threads = True


host, port = sys.argv[-1].rsplit(":", 1)
with Server((host, int(port)), Echo) as server:
    print("listening on {}:{}".format(*server.server_address), flush=True)
    server.serve_forever()
