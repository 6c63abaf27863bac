/* tls_openssl: a TLS echo server on OpenSSL and epoll, as one writes it in C: one thread, sessions
 * on non-blocking sockets, edge-triggered. Serves until it is killed.
 *
 *   tls_openssl [-r] CERT KEY
 *
 *   -r   reads ahead: one recv for a record's header and body. OpenSSL by itself makes two.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define RECORD (16 << 10) /* the most that one SSL_read gives */

typedef struct {
    int fd;
    int established;
    SSL *ssl;
    char *unsent; /* what the socket did not take; it is not read meanwhile */
    int unsent_len;
} conn;

static int poller;
static SSL_CTX *tls;

static void die(const char *what) {
    fprintf(stderr, "tls_openssl: %s: %s\n", what, strerror(errno));
    ERR_print_errors_fp(stderr);
    exit(1);
}

static void make_context(const char *cert, const char *key, int read_ahead) {
    tls = SSL_CTX_new(TLS_server_method());
    if (tls == NULL || SSL_CTX_use_certificate_chain_file(tls, cert) != 1 ||
        SSL_CTX_use_PrivateKey_file(tls, key, SSL_FILETYPE_PEM) != 1)
        die("cannot set TLS up");
    SSL_CTX_set_min_proto_version(tls, TLS1_3_VERSION);
    SSL_CTX_set_mode(tls, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
                              SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_read_ahead(tls, read_ahead);
    SSL_CTX_set_session_cache_mode(tls, SSL_SESS_CACHE_OFF); /* tickets keep the sessions */
}

static int listen_on_loopback(void) {
    struct sockaddr_in address;
    socklen_t length = sizeof address;
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* accepted ones inherit it */
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) != 0 ||
        listen(fd, 4096) != 0 || getsockname(fd, (struct sockaddr *)&address, &length) != 0)
        die("cannot listen");
    printf("tls_openssl: listening on 127.0.0.1:%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return fd;
}

static void watch(int fd, void *what, unsigned events) {
    struct epoll_event event;
    memset(&event, 0, sizeof event);
    event.events = events;
    event.data.ptr = what;
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) != 0)
        die("epoll_ctl");
}

static void accept_all(int listener) {
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        conn *c = (conn *)calloc(1, sizeof *c);
        if (c == NULL || (c->ssl = SSL_new(tls)) == NULL || !SSL_set_fd(c->ssl, fd))
            die("out of memory");
        c->fd = fd;
        SSL_set_accept_state(c->ssl);
        watch(fd, c, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
    }
}

static void close_conn(conn *c) {
    SSL_free(c->ssl);
    close(c->fd);
    free(c->unsent);
    free(c);
}

/* Whether the session only waits for the socket. */
static int waits(conn *c, int result) {
    const int error = SSL_get_error(c->ssl, result);
    return error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE;
}

/* Sends all of it, or keeps the rest. 1: sent, 0: waits, -1: failed. */
static int send_all(conn *c, const char *bytes, int n) {
    while (n > 0) {
        const int sent = SSL_write(c->ssl, bytes, n);
        if (sent > 0) {
            bytes += sent;
            n -= sent;
        } else if (!waits(c, sent)) {
            return -1;
        } else {
            char *rest = (char *)malloc((size_t)n);
            if (rest == NULL)
                die("out of memory");
            memcpy(rest, bytes, (size_t)n);
            free(c->unsent);
            c->unsent = rest;
            c->unsent_len = n;
            return 0;
        }
    }
    free(c->unsent);
    c->unsent = NULL;
    return 1;
}

/* As far as it goes now: whether the connection stays. */
static int serve(conn *c) {
    static char buffer[RECORD];
    int n;
    ERR_clear_error(); /* SSL_get_error looks at the thread's queue */
    if (!c->established) {
        n = SSL_do_handshake(c->ssl);
        if (n != 1)
            return waits(c, n);
        c->established = 1;
    }
    if (c->unsent != NULL && (n = send_all(c, c->unsent, c->unsent_len)) != 1)
        return n == 0;
    while ((n = SSL_read(c->ssl, buffer, sizeof buffer)) > 0) {
        n = send_all(c, buffer, n);
        if (n != 1)
            return n == 0;
    }
    if (waits(c, n))
        return 1;
    if (SSL_get_error(c->ssl, n) == SSL_ERROR_ZERO_RETURN)
        SSL_shutdown(c->ssl);
    return 0;
}

int main(int argc, char **argv) {
    struct epoll_event events[1024];
    struct rlimit limit;
    const int read_ahead = argc > 1 && strcmp(argv[1], "-r") == 0;
    int listener;
    if (argc != 3 + read_ahead) {
        fputs("usage: tls_openssl [-r] CERT KEY\n", stderr);
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    make_context(argv[1 + read_ahead], argv[2 + read_ahead], read_ahead);
    poller = epoll_create1(EPOLL_CLOEXEC);
    listener = listen_on_loopback();
    watch(listener, NULL, EPOLLIN);
    for (;;) {
        int i, count = epoll_wait(poller, events, 1024, -1);
        for (i = 0; i < count; i++) {
            conn *c = (conn *)events[i].data.ptr;
            if (c == NULL)
                accept_all(listener);
            else if (!serve(c))
                close_conn(c);
        }
    }
}
