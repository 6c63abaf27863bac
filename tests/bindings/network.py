"""A network of the table's own."""

import ctypes
import fcntl
import os
import pathlib
import socket
import struct

CLONE_NEWNET, SIOCSIFFLAGS, IFF_UP = 0x40000000, 0x8914, 1


def enter_own_network():
    """Moves this process into a network namespace, where that is allowed: there no other program
    takes ports, and the connections of 100,000 clients do not take them for a minute after their
    end."""
    if os.geteuid() != 0 or ctypes.CDLL(None).unshare(CLONE_NEWNET) != 0:
        return
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
    pathlib.Path("/proc/sys/net/ipv4/tcp_max_tw_buckets").write_text("1000")
