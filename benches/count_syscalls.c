/* count_syscalls: counts the system calls that a process makes by the C library, for LD_PRELOAD.
 *
 *   NETSERVER_COUNT=FILE LD_PRELOAD=…/count_syscalls PROGRAM …
 *
 * FILE is made if it is missing, never emptied, and mapped by the process and by all that it
 * starts with this environment: an array of unsigned 64-bit counters in the machine's byte order,
 * which another process may read while they run. Without NETSERVER_COUNT nothing is kept.
 *
 *    0 wait            epoll_wait, epoll_pwait, epoll_pwait2, poll, ppoll
 *    1 epoll_ctl
 *    2 accept          accept, accept4 that gave a connection
 *    3 accept_failed   those that gave none, EAGAIN or whatever
 *    4 receive         read, readv, recv, recvfrom, recvmsg but the next ones
 *    5 receive_again   those answered with EAGAIN
 *    6 send            write, writev, send, sendto, sendmsg but the next ones
 *    7 send_again      those answered with EAGAIN
 *    8 close
 *    9 shutdown
 *   10 setsockopt
 *   11 getsockopt
 *   12 ioctl
 *   13 fcntl
 *   14 name            getsockname, getpeername
 *   15 futex           only those made by syscall(), as Rust's locks do
 *   16 other           any other call made by syscall()
 *
 * A call by syscall() counts as what it is. Not counted: what the C library calls within itself
 * (printf's write, its own locks), and what a program does without the C library.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
    WAIT, EPOLL_CTL, ACCEPT, ACCEPT_FAILED, RECEIVE, RECEIVE_AGAIN, SEND, SEND_AGAIN, CLOSE,
    SHUTDOWN, SETSOCKOPT, GETSOCKOPT, IOCTL, FCNTL, NAME, FUTEX, OTHER, KINDS
};

static uint64_t unkept[KINDS];
static uint64_t *counters = unkept;

typedef void (*function)(void);

static function find(const char *name) {
    union {
        void *object;
        function code;
    } symbol; /* C has no cast between them */
    symbol.object = dlsym(RTLD_NEXT, name);
    if (symbol.object == NULL) {
        fprintf(stderr, "count_syscalls: there is no %s\n", name);
        abort();
    }
    return symbol.code;
}

/* Looked up at the first call: other libraries call before this one's constructor has run. Two
 * threads may both look; they find the same. */
#define FORWARD(name, result, parameters)                                                          \
    static result(*real_##name) parameters;                                                        \
    static void find_##name(void) {                                                                \
        if (__atomic_load_n(&real_##name, __ATOMIC_RELAXED) == NULL)                               \
            __atomic_store_n(&real_##name, (result(*) parameters)find(#name), __ATOMIC_RELAXED);   \
    }

static void count(int kind) {
    __atomic_fetch_add(&counters[kind], 1, __ATOMIC_RELAXED);
}

/* For `kind` with its "again", or its "failed", after it. */
static long counted(int kind, long result) {
    const int failed = result < 0 && (kind == ACCEPT || errno == EAGAIN);
    count(kind + failed);
    return result;
}

__attribute__((constructor)) static void keep(void) {
    const char *path = getenv("NETSERVER_COUNT");
    const int fd = path == NULL ? -1 : open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    void *memory = MAP_FAILED;
    if (path == NULL)
        return;
    if (fd >= 0 && ftruncate(fd, sizeof unkept) == 0)
        memory = mmap(NULL, sizeof unkept, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) {
        perror("count_syscalls: NETSERVER_COUNT");
        abort();
    }
    syscall(SYS_close, fd);
    counters = (uint64_t *)memory;
}

/* -- calls that only count -------------------------------------------------------------------- */

#define ONLY_COUNT(kind, name, parameters, arguments)                                              \
    FORWARD(name, int, parameters)                                                                 \
    int name parameters {                                                                          \
        find_##name();                                                                             \
        count(kind);                                                                               \
        return real_##name arguments;                                                              \
    }

ONLY_COUNT(WAIT, epoll_wait, (int epfd, struct epoll_event *events, int most, int timeout),
           (epfd, events, most, timeout))
ONLY_COUNT(WAIT, epoll_pwait,
           (int epfd, struct epoll_event *events, int most, int timeout, const sigset_t *mask),
           (epfd, events, most, timeout, mask))
ONLY_COUNT(WAIT, epoll_pwait2,
           (int epfd, struct epoll_event *events, int most, const struct timespec *timeout,
            const sigset_t *mask),
           (epfd, events, most, timeout, mask))
ONLY_COUNT(WAIT, poll, (struct pollfd * fds, nfds_t n, int timeout), (fds, n, timeout))
ONLY_COUNT(WAIT, ppoll,
           (struct pollfd * fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask),
           (fds, n, timeout, mask))
ONLY_COUNT(EPOLL_CTL, epoll_ctl, (int epfd, int op, int fd, struct epoll_event *event),
           (epfd, op, fd, event))
ONLY_COUNT(CLOSE, close, (int fd), (fd))
ONLY_COUNT(SHUTDOWN, shutdown, (int fd, int how), (fd, how))
ONLY_COUNT(SETSOCKOPT, setsockopt,
           (int fd, int level, int name, const void *value, socklen_t length),
           (fd, level, name, value, length))
ONLY_COUNT(GETSOCKOPT, getsockopt, (int fd, int level, int name, void *value, socklen_t *length),
           (fd, level, name, value, length))
ONLY_COUNT(NAME, getsockname, (int fd, __SOCKADDR_ARG address, socklen_t *length),
           (fd, address, length))
ONLY_COUNT(NAME, getpeername, (int fd, __SOCKADDR_ARG address, socklen_t *length),
           (fd, address, length))

/* -- calls whose answer counts ---------------------------------------------------------------- */

#define COUNT_ANSWER(kind, result, name, parameters, arguments)                                    \
    FORWARD(name, result, parameters)                                                              \
    result name parameters {                                                                       \
        find_##name();                                                                             \
        return (result)counted(kind, real_##name arguments);                                       \
    }

COUNT_ANSWER(ACCEPT, int, accept, (int fd, __SOCKADDR_ARG address, socklen_t *length),
             (fd, address, length))
COUNT_ANSWER(ACCEPT, int, accept4,
             (int fd, __SOCKADDR_ARG address, socklen_t *length, int flags),
             (fd, address, length, flags))
COUNT_ANSWER(RECEIVE, ssize_t, read, (int fd, void *bytes, size_t n), (fd, bytes, n))
COUNT_ANSWER(RECEIVE, ssize_t, readv, (int fd, const struct iovec *parts, int n), (fd, parts, n))
COUNT_ANSWER(RECEIVE, ssize_t, recv, (int fd, void *bytes, size_t n, int flags),
             (fd, bytes, n, flags))
COUNT_ANSWER(RECEIVE, ssize_t, recvfrom,
             (int fd, void *bytes, size_t n, int flags, __SOCKADDR_ARG from, socklen_t *length),
             (fd, bytes, n, flags, from, length))
COUNT_ANSWER(RECEIVE, ssize_t, recvmsg, (int fd, struct msghdr *message, int flags),
             (fd, message, flags))
COUNT_ANSWER(SEND, ssize_t, write, (int fd, const void *bytes, size_t n), (fd, bytes, n))
COUNT_ANSWER(SEND, ssize_t, writev, (int fd, const struct iovec *parts, int n), (fd, parts, n))
COUNT_ANSWER(SEND, ssize_t, send, (int fd, const void *bytes, size_t n, int flags),
             (fd, bytes, n, flags))
COUNT_ANSWER(SEND, ssize_t, sendto,
             (int fd, const void *bytes, size_t n, int flags, __CONST_SOCKADDR_ARG to,
              socklen_t length),
             (fd, bytes, n, flags, to, length))
COUNT_ANSWER(SEND, ssize_t, sendmsg, (int fd, const struct msghdr *message, int flags),
             (fd, message, flags))

/* What a program built with _FORTIFY_SOURCE calls instead; no header declares these. */
ssize_t __read_chk(int fd, void *bytes, size_t n, size_t size);
ssize_t __recv_chk(int fd, void *bytes, size_t n, size_t size, int flags);
ssize_t __recvfrom_chk(int fd, void *bytes, size_t n, size_t size, int flags,
                       __SOCKADDR_ARG from, socklen_t *length);
int __poll_chk(struct pollfd *fds, nfds_t n, int timeout, size_t size);

COUNT_ANSWER(RECEIVE, ssize_t, __read_chk, (int fd, void *bytes, size_t n, size_t size),
             (fd, bytes, n, size))
COUNT_ANSWER(RECEIVE, ssize_t, __recv_chk, (int fd, void *bytes, size_t n, size_t size, int flags),
             (fd, bytes, n, size, flags))
COUNT_ANSWER(RECEIVE, ssize_t, __recvfrom_chk,
             (int fd, void *bytes, size_t n, size_t size, int flags, __SOCKADDR_ARG from,
              socklen_t *length),
             (fd, bytes, n, size, flags, from, length))
ONLY_COUNT(WAIT, __poll_chk, (struct pollfd * fds, nfds_t n, int timeout, size_t size),
           (fds, n, timeout, size))

/* -- variadic calls --------------------------------------------------------------------------- */
/* Their arguments are forwarded as words, whether the caller gave them or not: the ABIs of Linux
 * allow it, and the kernel looks only at what belongs to the call. */

#define COUNT_WITH_WORD(kind, name, parameters, last, arguments)                                   \
    FORWARD(name, int, parameters)                                                                 \
    int name parameters {                                                                          \
        void *word;                                                                                \
        va_list list;                                                                              \
        va_start(list, last);                                                                      \
        word = va_arg(list, void *);                                                               \
        va_end(list);                                                                              \
        find_##name();                                                                             \
        count(kind);                                                                               \
        return real_##name arguments;                                                              \
    }

COUNT_WITH_WORD(IOCTL, ioctl, (int fd, unsigned long request, ...), request, (fd, request, word))
COUNT_WITH_WORD(FCNTL, fcntl, (int fd, int command, ...), command, (fd, command, word))
COUNT_WITH_WORD(FCNTL, fcntl64, (int fd, int command, ...), command, (fd, command, word))

static int kind_of(long number) {
    switch (number) {
#ifdef SYS_epoll_wait
    case SYS_epoll_wait:
#endif
#ifdef SYS_epoll_pwait2
    case SYS_epoll_pwait2:
#endif
#ifdef SYS_poll
    case SYS_poll:
#endif
    case SYS_ppoll:
    case SYS_epoll_pwait: return WAIT;
    case SYS_epoll_ctl: return EPOLL_CTL;
    case SYS_accept:
    case SYS_accept4: return ACCEPT;
    case SYS_read:
    case SYS_readv:
    case SYS_recvfrom:
    case SYS_recvmsg: return RECEIVE;
    case SYS_write:
    case SYS_writev:
    case SYS_sendto:
    case SYS_sendmsg: return SEND;
    case SYS_close: return CLOSE;
    case SYS_shutdown: return SHUTDOWN;
    case SYS_setsockopt: return SETSOCKOPT;
    case SYS_getsockopt: return GETSOCKOPT;
    case SYS_ioctl: return IOCTL;
    case SYS_fcntl: return FCNTL;
    case SYS_getsockname:
    case SYS_getpeername: return NAME;
    case SYS_futex: return FUTEX;
    default: return OTHER;
    }
}

FORWARD(syscall, long, (long number, ...))

long syscall(long number, ...) {
    const int kind = kind_of(number);
    long a[6], result;
    size_t i;
    va_list list;
    va_start(list, number);
    for (i = 0; i < 6; i++)
        a[i] = va_arg(list, long);
    va_end(list);
    find_syscall();
    result = real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    if (kind == ACCEPT || kind == RECEIVE || kind == SEND)
        return counted(kind, result);
    count(kind);
    return result;
}
