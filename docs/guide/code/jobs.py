"""jobs.py [SERVICE]: each line is a job, which takes a second. Threads do them, and answer."""

import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor, wait

from netserver import ClosedError, Server


def work(id, job):
    time.sleep(1)
    try:
        server.send(id, b"done: " + job + b"\n")
    except ClosedError:
        pass  # The client has left.


def end(id, jobs):
    wait(jobs)  # The pool got them before this call: each is done or under way.
    server.close_connection(id)  # when the answers have left


def take(socket):
    line, jobs = socket.data or (b"", [])  # the beginning of a line, and what is not done
    while data := socket.recv():
        *lines, line = (line + data).split(b"\n")
        jobs = [job for job in jobs if not job.done()]
        jobs += [pool.submit(work, socket.id, job) for job in lines]
        socket.data = line, jobs
    if data is not None:  # b"": the client sends no more, but it waits for its answers
        pool.submit(end, socket.id, jobs)


service = sys.argv[1] if len(sys.argv) > 1 else "5000"
with Server(take, service) as server, ThreadPoolExecutor(8) as pool:
    signal.signal(signal.SIGTERM, lambda *_: server.request_stop())
    print("listening on", server.address, flush=True)
    server.serve_forever()
