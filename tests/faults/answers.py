"""Which system calls fail how: the answers that a kernel may give, from the manual's section 2.

Each answer has what it may cost. An answer that no kernel gives is left out, with the reason."""

import re

NOBODY = 0  # the call is repeated, or tried again later: every client gets all of its bytes
ONE = 1  # the connection, or the client, that the call was for
ALL = 2  # the server may stop, and says why
MEMORY = 3  # an allocation may fail, which aborts where std or rustls makes it

BROKEN = ["ECONNRESET", "ETIMEDOUT", "EHOSTUNREACH", "ENETUNREACH"]
DESCRIPTORS = ["EMFILE", "ENFILE", "ENOMEM"]
SENDING = {"EINTR": NOBODY, **dict.fromkeys([*BROKEN, "EPIPE", "ENOBUFS", "ENOMEM"], ONE)}
FILE = ["EACCES", "EIO", "ELOOP", "ENOENT", *DESCRIPTORS]

# In the order of a server's life. What a start meets makes it fail, whatever stands here.
ANSWERS = {
    "openat": dict.fromkeys(FILE, ONE),
    "statx": dict.fromkeys(["EACCES", "EIO", "ENOMEM", "ENOSYS"], NOBODY),
    "read": {"EINTR": NOBODY, "EIO": ONE},
    "newfstatat": dict.fromkeys(["EACCES", "ENOMEM"], NOBODY),
    "getrandom": {"EINTR": NOBODY},
    "socket": dict.fromkeys([*DESCRIPTORS, "ENOBUFS", "EACCES", "EAFNOSUPPORT"], ONE),
    "setsockopt": dict.fromkeys(["ENOPROTOOPT", "ENOMEM", "ENOBUFS", "EPERM"], NOBODY),
    "bind": dict.fromkeys(["EADDRINUSE", "EACCES", "EADDRNOTAVAIL", "ENOMEM"], ONE),
    "listen": dict.fromkeys(["EADDRINUSE", "ENOMEM", "EACCES"], ONE),
    "getsockname": dict.fromkeys(["ENOBUFS"], NOBODY),
    "getpeername": dict.fromkeys(["ENOBUFS"], ONE),
    "fcntl": dict.fromkeys(["EMFILE", "EPERM", "ENOMEM"], NOBODY),
    "chmod": dict.fromkeys(["EPERM", "EROFS", "EIO", "ENOENT"], ONE),
    "fchmod": dict.fromkeys(["EPERM", "EROFS", "EIO"], ONE),
    "flock": dict.fromkeys(["EAGAIN", "EINTR", "ENOLCK"], NOBODY),
    "unlink": dict.fromkeys(["EACCES", "EBUSY", "EPERM", "EROFS", "ENOENT"], NOBODY),
    "epoll_create1": dict.fromkeys(DESCRIPTORS, NOBODY),
    "eventfd2": dict.fromkeys(DESCRIPTORS, NOBODY),
    "epoll_ctl": dict.fromkeys(["ENOMEM", "ENOSPC"], ONE),
    "clone3": dict.fromkeys(["EAGAIN", "ENOMEM", "ENOSYS"], NOBODY),
    "accept4": {
        **dict.fromkeys(["EINTR", "ECONNABORTED", "EPROTO", "EPERM", "ENOBUFS"], NOBODY),
        **dict.fromkeys(["ENETDOWN", "ENOPROTOOPT", "EHOSTDOWN", "ENONET", "EOPNOTSUPP"], NOBODY),
        **dict.fromkeys([*DESCRIPTORS, *BROKEN], NOBODY),
        "EINVAL": ALL,  # the listener was destroyed from outside (ss --kill)
    },
    "recvfrom": {"EINTR": NOBODY, "EAGAIN": NOBODY, **dict.fromkeys([*BROKEN, "ENOMEM"], ONE)},
    "recvmsg": {"EINTR": NOBODY, "EAGAIN": NOBODY, **dict.fromkeys([*BROKEN, "ENOMEM"], ONE)},
    "sendto": {**SENDING, "EAGAIN": NOBODY},
    "sendmsg": {**SENDING, "EAGAIN": NOBODY},
    "connect": dict.fromkeys([*BROKEN, "ECONNREFUSED", "EADDRNOTAVAIL", "EACCES", "EPERM"], ONE),
    "ppoll": {"EINTR": NOBODY, "ENOMEM": ONE},
    "epoll_pwait": {"EINTR": NOBODY},
    "futex": dict.fromkeys(["EINTR", "EAGAIN"], NOBODY),
    "mmap": {"ENOMEM": MEMORY},
    "mprotect": {"ENOMEM": MEMORY},
    "madvise": dict.fromkeys(["ENOMEM", "EAGAIN", "EINVAL"], NOBODY),
}

# Calls whose failure says nothing of the library.
CALLS_LEFT_OUT = {
    "close": "it frees the descriptor whatever it returns, and an injected failure would not",
    "write": "to an eventfd it fails after 2^64 signals alone; others are the example's output",
    "getsockopt": "of an open socket and an option that it has, it does not fail",
    "ioctl": "SIOCOUTQ does not fail on a connection",
    "brk": "the kernel's call returns no errno, and the C library takes any for the new break",
    "rt_sigtimedwait": "it is the example's",
    "shutdown": "it fails where the connection has gone alone, which an event says too",
    "munmap": "of a whole mapping it does not fail",
    "clock_nanosleep": "between two tries of flock it may end early without harm",
    "rt_sigprocmask rt_sigaction rt_sigreturn prctl prlimit64 sched_yield clock_gettime": (
        "with valid arguments they do not fail"
    ),
    "execve access arch_prctl exit exit_group pread64 readlink rseq set_robust_list "
    "set_tid_address": "those of the loader and of the C library, before and after the program",
}

# Answers by what the call was made for: (call, errno, kind of server, line of strace, reason).
ANSWERS_LEFT_OUT = [
    ("recv.*|send.*", "EAGAIN", "loops|relay", "", "after readiness, and without an edge to come"),
    ("epoll_ctl", "", "", "_MOD|_DEL", "EPOLL_CTL_MOD and EPOLL_CTL_DEL take no memory"),
    ("futex", "", "", "_(WAKE|REQUEUE|CMP_REQUEUE|WAKE_OP)", "a wake does not fail"),
    ("fcntl", "EMFILE|ENOMEM", "", "F_[GS]ETF[LD]", "F_DUPFD_CLOEXEC alone has it"),
    ("fcntl", "EPERM", "", "F_GETF|F_SETFD|F_DUPFD", "F_SETFL alone has it"),
    ("setsockopt", "", "", "SO_(REUSEADDR|LINGER|KEEPALIVE)", "of SOL_SOCKET it does not fail"),
    ("connect", "", "", "AF_UNSPEC", "with AF_UNSPEC it does not fail on a connection"),
]


def left_out(call, errno, kind, line):
    """Why no kernel gives this answer to this call, "" where one may."""
    for calls, errnos, kinds, pattern, reason in ANSWERS_LEFT_OUT:
        if (
            re.fullmatch(calls, call)
            and (not errnos or re.fullmatch(errnos, errno))
            and (not kinds or re.match(kinds, kind))
            and re.search(pattern, line)
        ):
            return reason
    return ""


def call_left_out(call):
    return next((why for calls, why in CALLS_LEFT_OUT.items() if call in calls.split()), "")
