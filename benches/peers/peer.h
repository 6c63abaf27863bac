/* What the peers in C and C++ share: the command line, the listening socket, and what a socket did
 * not take.
 *
 *   PEER [-b BYTES] [-t THREADS]
 *
 *   -b BYTES     of the receive buffer (65536)
 *   -t THREADS   where a peer has several (1)
 */
#ifndef PEER_H
#define PEER_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define BACKLOG 4096
#define MOST 16777216L /* of bytes and of threads */

static const char *peer;             /* the program's name */
static size_t buffer_size = 1 << 16; /* -b */
static unsigned threads = 1;         /* -t */

static inline void die(const char *what) {
    fprintf(stderr, "%s: %s: %s\n", peer, what, strerror(errno));
    exit(1);
}

static inline void *allocate(size_t size) {
    void *memory = malloc(size);
    if (memory == NULL)
        die("malloc");
    return memory;
}

static inline long number(const char *text) {
    char *end;
    const long value = strtol(text, &end, 10);
    if (end == text || *end != '\0' || value < 1 || value > MOST) {
        fprintf(stderr, "%s: not a number from 1 to %ld: %s\n", peer, MOST, text);
        exit(2);
    }
    return value;
}

/* Takes `options` ("b:" or "b:t:") and as many descriptors as the process may have. */
static inline void begin(const char *name, const char *options, int argc, char **argv) {
    struct rlimit limit;
    int c;
    peer = name;
    while ((c = getopt(argc, argv, options)) != -1) {
        switch (c) {
        case 'b': buffer_size = (size_t)number(optarg); break;
        case 't': threads = (unsigned)number(optarg); break;
        default: exit(2);
        }
    }
    if (optind != argc) {
        fprintf(stderr, "%s: takes options only\n", peer);
        exit(2);
    }
    signal(SIGPIPE, SIG_IGN);
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

static inline struct sockaddr_in loopback(void) {
    struct sockaddr_in address;
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

static inline void say_listening(int fd) {
    struct sockaddr_in address;
    socklen_t length = sizeof address;
    if (getsockname(fd, (struct sockaddr *)&address, &length) != 0)
        die("getsockname");
    printf("%s: listening on 127.0.0.1:%d\n", peer, ntohs(address.sin_port));
    fflush(stdout);
}

/* `flags`: SOCK_NONBLOCK or 0. */
static inline int listen_on_loopback(int flags) {
    const struct sockaddr_in address = loopback();
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
        bind(fd, (const struct sockaddr *)&address, sizeof address) != 0 ||
        listen(fd, BACKLOG) != 0)
        die("cannot listen");
    say_listening(fd);
    return fd;
}

static inline void send_at_once(int fd) {
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

/* The next connection, non-blocking, or -1 when no more is there. */
static inline int accept_next(int listener) {
    for (;;) {
        const int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            send_at_once(fd);
            return fd;
        }
        if (errno == EAGAIN)
            return -1;
        if (errno != ECONNABORTED && errno != EINTR)
            die("accept4");
    }
}

/* What a non-blocking socket did not take. Its connection is not read meanwhile. */
typedef struct {
    char *bytes; /* NULL: nothing */
    size_t length, sent;
} unsent;

/* These give 1: all is sent; 0: the socket takes no more now; -1: it failed. */

static inline int send_rest(int fd, unsent *rest) {
    while (rest->sent < rest->length) {
        const ssize_t n =
            send(fd, rest->bytes + rest->sent, rest->length - rest->sent, MSG_NOSIGNAL);
        if (n < 0)
            return errno == EAGAIN ? 0 : -1;
        rest->sent += (size_t)n;
    }
    free(rest->bytes);
    rest->bytes = NULL;
    return 1;
}

static inline int send_or_keep(int fd, unsent *rest, const char *bytes, size_t length) {
    ssize_t n = send(fd, bytes, length, MSG_NOSIGNAL);
    if (n == (ssize_t)length)
        return 1;
    if (n < 0) {
        if (errno != EAGAIN)
            return -1;
        n = 0;
    }
    rest->sent = 0;
    rest->length = length - (size_t)n;
    rest->bytes = (char *)allocate(rest->length);
    memcpy(rest->bytes, bytes + n, rest->length);
    return 0;
}

#endif
