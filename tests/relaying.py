"""Conversations through the relay example, for its test and its campaign."""

import select
import socket
import ssl
import time

CHUNK = 1 << 18
PATTERN = bytes(i * 7 % 251 for i in range(251)) * 1100
PATIENCE = 60.0  # seconds without a byte in any direction


def pattern_at(offset, size):
    start = offset % 251
    return PATTERN[start : start + size]


class End:
    """One end of a conversation: it says `size` bytes, and hears the bytes of the other one."""

    def __init__(self, sock, size, reads=True):
        sock.setblocking(False)
        self.sock, self.size, self.reads = sock, size, reads
        self.said = self.heard = 0
        self.is_over = self.has_ended = False  # what it hears; what it says
        self.is_tls = isinstance(sock, ssl.SSLSocket)

    def say(self):
        """Returns whether bytes, or the end, were taken."""
        try:
            self.said += self.sock.send(pattern_at(self.said, min(CHUNK, self.size - self.said)))
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        if self.said == self.size and not self.is_tls:
            self.sock.shutdown(socket.SHUT_WR)
            self.has_ended = True
        self.end_tls()
        return True

    def hear(self):
        """Returns whether bytes, or the end, came."""
        try:
            data = self.sock.recv(CHUNK)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        assert data == pattern_at(self.heard, len(data)), f"wrong bytes from {self.heard} on"
        self.heard += len(data)
        self.is_over = not data
        self.end_tls()
        return True

    def end_tls(self):
        """The module ssl cannot end one direction alone: this is close_notify and the end, when all
        is said and heard, whichever comes first."""
        if self.is_tls and self.said == self.size and self.is_over:
            self.sock.unwrap().close()
            self.has_ended = True


def drive(ends, is_done, patience=PATIENCE):
    """Lets the ends talk until it is done, or until nothing has happened for so long. Returns
    whether it is done."""
    last = time.monotonic()
    while not is_done():
        reading = [end for end in ends if end.reads and not end.is_over]
        saying = [end for end in ends if end.said < end.size]
        by_socket = lambda some: [end.sock for end in some]
        select.select(by_socket(reading), by_socket(saying), [], 0.5)
        happened = [end.hear() for end in reading] + [end.say() for end in saying]
        if any(happened):
            last = time.monotonic()
        elif time.monotonic() - last > patience:
            return False
    return True


def both_ways(client, target, size):
    """Each end says so many bytes and its end, at the same time, and hears those of the other."""
    ends = [End(client, size), End(target, size)]
    assert drive(ends, lambda: all(end.has_ended and end.is_over for end in ends)), [
        (end.said, end.heard, end.has_ended, end.is_over) for end in ends
    ]
    assert [end.heard for end in ends] == [size, size]


def slow_reader(talker, reader, size, while_stalled):
    """The reader takes nothing until the talker can say nothing more; then it takes all."""
    ends = [End(talker, size), End(reader, 0, reads=False)]
    assert not drive(ends, lambda: ends[0].said == size, patience=2.0), "nothing holds it back"
    while_stalled(ends[0].said)
    ends[1].reads = True
    assert drive(ends, lambda: ends[1].heard == size), (ends[0].said, ends[1].heard)
