#!/usr/bin/env python3
"""An echo server of asyncio: a Protocol, which is its fast way.

    python_asyncio.py [--uvloop] HOST:PORT
"""

import asyncio
import sys


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


async def main(service):
    host, port = service.rsplit(":", 1)
    server = await asyncio.get_running_loop().create_server(Echo, host, int(port), backlog=4096)
    print("listening on {}:{}".format(*server.sockets[0].getsockname()), flush=True)
    await server.serve_forever()


if "--uvloop" in sys.argv:
    import uvloop

    uvloop.install()
asyncio.run(main(sys.argv[-1]))
