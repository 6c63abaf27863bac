/* The clients of `held.py`, many in one process.
 *
 *   peers KIND PORT [-s] [-c COUNT] [-t SECONDS] [-m MEBIBYTES] [-i SECONDS]
 *
 * KIND is what the clients do; -s makes them speak TLS; the last line is their result as JSON.
 *   hold    COUNT connections, each of which echoes 64 bytes every -i seconds
 *   echo    one connection that echoes 64 bytes again and again, and measures each
 *   rounds  COUNT times: connect, echo 5 bytes, close
 *   stall   COUNT connections that stop in the handshake, until the server has ended all
 *   slow    COUNT connections: a third read a byte a second of what they have sent, a third write a
 *           byte a second, a third do both
 *   stream  COUNT connections that echo -m MiB in all, in short pieces, through small buffers
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PATTERN 65521 /* a prime, so that no power of two repeats it */
static unsigned char pattern[2 * PATTERN];
static SSL_CTX *tls;
static uint16_t port;
static long count = 1, seconds = 10, mebibytes = 64, interval = 60;
static unsigned address;
static int segment, window; /* of TCP; 0: the system's */

struct peer {
    int fd;
    SSL *ssl;
    uint64_t sent, got;
    bool open, waits;
};

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* A socket with a source address of its own, as each has 28,000 ports. */
static int make_socket(int flags) {
    struct sockaddr_in source = {.sin_family = AF_INET};
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | flags, 0);
    if (fd < 0)
        fail("socket");
    address = (address + 1) % 50000;
    source.sin_addr.s_addr = htonl(0x7f010001u + (address / 250 << 8) + address % 250);
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (segment > 0)
        setsockopt(fd, IPPROTO_TCP, TCP_MAXSEG, &segment, sizeof segment);
    if (window > 0)
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &window, sizeof window);
    if (bind(fd, (struct sockaddr *)&source, sizeof source) != 0)
        fail("bind");
    return fd;
}

static int start_connect(int fd) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return connect(fd, (struct sockaddr *)&to, sizeof to);
}

static bool open_peer(struct peer *peer) {
    peer->fd = make_socket(SOCK_CLOEXEC);
    if (start_connect(peer->fd) != 0)
        fail("connect");
    if (tls != NULL) {
        peer->ssl = SSL_new(tls);
        SSL_set_fd(peer->ssl, peer->fd);
        if (SSL_connect(peer->ssl) != 1)
            return false;
    }
    fcntl(peer->fd, F_SETFL, O_NONBLOCK);
    return peer->open = true;
}

/* As recv and send: -1 with EAGAIN where it has to wait, 0 at the end. */
static ssize_t tls_result(struct peer *peer, int n) {
    int why = SSL_get_error(peer->ssl, n);
    if (n > 0)
        return n;
    errno = why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE ? EAGAIN : EPROTO;
    return why == SSL_ERROR_ZERO_RETURN ? 0 : -1;
}

static ssize_t get(struct peer *peer, void *buf, size_t n) {
    if (peer->ssl == NULL)
        return recv(peer->fd, buf, n, 0);
    ERR_clear_error(); /* else SSL_get_error may tell of another connection */
    return tls_result(peer, SSL_read(peer->ssl, buf, (int)n));
}

static ssize_t put(struct peer *peer, const void *buf, size_t n) {
    if (peer->ssl == NULL)
        return send(peer->fd, buf, n, MSG_NOSIGNAL);
    ERR_clear_error();
    return tls_result(peer, SSL_write(peer->ssl, buf, (int)n));
}

static void end_peer(struct peer *peer) {
    if (peer->ssl != NULL)
        SSL_free(peer->ssl);
    close(peer->fd);
    peer->open = false;
}

/* Reads at most so many bytes and compares them with what was sent. Returns false at the end. */
static bool check(struct peer *peer, size_t most, uint64_t *wrong) {
    static unsigned char buf[1 << 16];
    ssize_t n = get(peer, buf, most < sizeof buf ? most : sizeof buf);
    if (n <= 0)
        return n < 0 && errno == EAGAIN;
    if (memcmp(buf, pattern + peer->got % PATTERN, (size_t)n) != 0)
        ++*wrong;
    peer->got += (uint64_t)n;
    return true;
}

/* Sends at most so many bytes. Returns false where the connection has ended. */
static bool more(struct peer *peer, size_t most) {
    ssize_t n = put(peer, pattern + peer->sent % PATTERN, most < PATTERN ? most : PATTERN);
    if (n > 0)
        peer->sent += (uint64_t)n;
    return n > 0 || errno == EAGAIN;
}

static struct peer *open_all(void) {
    struct peer *peers = calloc((size_t)count, sizeof *peers);
    for (long i = 0; i < count; i++) {
        if (!open_peer(&peers[i]))
            fail("handshake");
    }
    printf("open\n");
    fflush(stdout);
    return peers;
}

static int watch_all(struct peer *peers, uint32_t events) {
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    for (long i = 0; i < count; i++) {
        struct epoll_event event = {.events = events, .data.ptr = &peers[i]};
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, peers[i].fd, &event) != 0)
            fail("epoll_ctl");
    }
    return epoll;
}

static void hold(void) {
    struct peer *peers = open_all();
    int epoll = watch_all(peers, EPOLLIN);
    struct epoll_event events[256];
    uint64_t wrong = 0, echoes = 0;
    long dropped = 0, next = 0;
    double started = now(), end = started + (double)seconds;
    while (now() < end + 20) {
        /* So many have had their turn since the start; none begins in the end. */
        long due = (long)((now() - started) / (double)interval * (double)count);
        for (; now() < end && next < due; next++) {
            struct peer *peer = &peers[next % count];
            if (peer->open && !peer->waits)
                peer->waits = more(peer, 64);
        }
        int n = epoll_wait(epoll, events, 256, 10);
        for (int i = 0; i < n; i++) {
            struct peer *peer = events[i].data.ptr;
            uint64_t before;
            do {
                before = peer->got;
                if (peer->open && !check(peer, 64, &wrong)) {
                    dropped++;
                    end_peer(peer);
                }
            } while (peer->open && peer->got > before);
            if (peer->open && peer->waits && peer->got == peer->sent) {
                peer->waits = false;
                echoes++;
            }
        }
        long waiting = 0;
        if (now() >= end) {
            for (long i = 0; i < count; i++)
                waiting += peers[i].open && peers[i].waits;
            if (waiting == 0)
                break;
        }
    }
    long unanswered = 0;
    for (long i = 0; i < count; i++)
        unanswered += peers[i].open && peers[i].waits;
    printf("{\"held\": %ld, \"dropped\": %ld, \"unanswered\": %ld, \"echoes\": %" PRIu64
           ", \"wrong\": %" PRIu64 "}\n", count - dropped, dropped, unanswered, echoes, wrong);
}

static int by_value(const void *a, const void *b) {
    double one = *(const double *)a, other = *(const double *)b;
    return (one > other) - (one < other);
}

static void echo(void) {
    enum { MOST = 1 << 21 };
    static double times[MOST];
    struct peer peer = {0};
    struct timespec pause = {0, 500000};
    uint64_t wrong = 0;
    size_t n = 0;
    if (!open_peer(&peer))
        fail("handshake");
    fcntl(peer.fd, F_SETFL, 0);
    for (double end = now() + (double)seconds; now() < end && n < MOST; n++) {
        double begun = now();
        if (!more(&peer, 64))
            fail("send");
        while (peer.got < peer.sent) {
            if (!check(&peer, 64, &wrong))
                fail("recv");
        }
        times[n] = (now() - begun) * 1e6;
        nanosleep(&pause, NULL);
    }
    qsort(times, n, sizeof *times, by_value);
    printf("{\"echoes\": %zu, \"median\": %.1f, \"p99\": %.1f, \"most\": %.1f, \"wrong\": %" PRIu64
           "}\n", n, times[n / 2], times[n * 99 / 100], times[n - 1], wrong);
}

static void rounds(void) {
    enum { SIDE_BY_SIDE = 32 };
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event events[SIDE_BY_SIDE];
    long begun = 0, ended = 0, bad = 0;
    double started = now();
    while (ended < count) {
        for (; begun < count && begun - ended < SIDE_BY_SIDE; begun++) {
            int fd = make_socket(SOCK_NONBLOCK);
            struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.fd = fd};
            if (start_connect(fd) != 0 && errno != EINPROGRESS)
                fail("connect");
            epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
        }
        int n = epoll_wait(epoll, events, SIDE_BY_SIDE, 10000);
        if (n <= 0)
            fail("no answer in 10 s");
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            char buf[8];
            if (events[i].events == EPOLLOUT) {
                if (send(fd, "hello", 5, MSG_NOSIGNAL) == 5)
                    continue;
                bad++;
            } else {
                ssize_t got = recv(fd, buf, sizeof buf, 0);
                bad += got != 5 || memcmp(buf, "hello", 5) != 0;
            }
            close(fd);
            ended++;
        }
    }
    printf("{\"rounds\": %ld, \"bad\": %ld, \"seconds\": %.1f}\n", ended, bad, now() - started);
}

static void stall(void) {
    static unsigned char hello[4096];
    SSL *ssl = SSL_new(SSL_CTX_new(TLS_client_method()));
    BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new(BIO_s_mem());
    struct peer *peers = calloc((size_t)count, sizeof *peers);
    SSL_set_bio(ssl, in, out);
    SSL_connect(ssl);
    int len = BIO_read(out, hello, sizeof hello);
    double started = now(), first = 0;
    for (long i = 0; i < count; i++) {
        /* Nothing, a part of a header, a header, a part of a hello, a hello and no more. */
        int parts[] = {0, 3, 5, len / 2, len};
        peers[i].fd = make_socket(SOCK_CLOEXEC);
        if (start_connect(peers[i].fd) != 0)
            fail("connect");
        send(peers[i].fd, hello, (size_t)parts[i % 5], MSG_NOSIGNAL);
        fcntl(peers[i].fd, F_SETFL, O_NONBLOCK);
        peers[i].open = true;
    }
    printf("open\n");
    fflush(stdout);
    int epoll = watch_all(peers, EPOLLIN | EPOLLRDHUP);
    struct epoll_event events[256];
    long ended = 0;
    char buf[8192];
    for (double end = now() + (double)seconds; ended < count && now() < end;) {
        int n = epoll_wait(epoll, events, 256, 100);
        for (int i = 0; i < n; i++) {
            struct peer *peer = events[i].data.ptr;
            ssize_t got;
            while ((got = recv(peer->fd, buf, sizeof buf, 0)) > 0)
                ;
            if (peer->open && (got == 0 || errno != EAGAIN)) {
                first = ended == 0 ? now() - started : first;
                end_peer(peer);
                ended++;
            }
        }
    }
    printf("{\"stalled\": %ld, \"ended\": %ld, \"first\": %.1f, \"last\": %.1f}\n", count, ended,
           first, now() - started);
}

static void slow(void) {
    struct peer *peers = calloc((size_t)count, sizeof *peers);
    uint64_t wrong = 0, bytes = 0;
    long dropped = 0;
    int small = 4096, some = 16384;
    for (long i = 0; i < count; i++) {
        if (!open_peer(&peers[i]))
            fail("handshake");
        setsockopt(peers[i].fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
        setsockopt(peers[i].fd, SOL_SOCKET, SO_SNDBUF, &some, sizeof some);
    }
    printf("open\n");
    fflush(stdout);
    for (double end = now() + (double)seconds; now() < end; sleep(1)) {
        for (long i = 0; i < count; i++) {
            struct peer *peer = &peers[i];
            /* Those that write fast send until nothing goes. */
            size_t least = i % 3 == 0 ? PATTERN : 1;
            bool is_open = peer->open && more(peer, least);
            for (int k = 0; least > 1 && is_open && k < 20; k++)
                is_open = more(peer, least);
            is_open = is_open && check(peer, i % 3 == 1 ? 4096 : 1, &wrong);
            if (peer->open && !is_open) {
                dropped++;
                end_peer(peer);
            }
        }
    }
    for (long i = 0; i < count; i++)
        bytes += peers[i].got;
    printf("{\"slow\": %ld, \"dropped\": %ld, \"wrong\": %" PRIu64 ", \"bytes\": %" PRIu64 "}\n",
           count, dropped, wrong, bytes);
}

static void stream(void) {
    struct peer *peers = calloc((size_t)count, sizeof *peers);
    uint64_t each = ((uint64_t)mebibytes << 20) / (uint64_t)count, wrong = 0, random = 88172645463325252u;
    int small = 6000;
    long left = count, dropped = 0;
    /* The segments of the loopback device are longer than the buffers. And a kernel that has seen a
       large window takes more at a time than its send buffer holds. */
    segment = 1000;
    window = 8000;
    for (long i = 0; i < count; i++) {
        if (!open_peer(&peers[i]))
            fail("handshake");
        setsockopt(peers[i].fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
    }
    printf("open\n");
    fflush(stdout);
    int epoll = watch_all(peers, EPOLLIN | EPOLLOUT);
    struct epoll_event events[64];
    double started = now();
    while (left > 0) {
        int n = epoll_wait(epoll, events, 64, 30000);
        if (n <= 0)
            fail("nothing moves for 30 s");
        for (int i = 0; i < n; i++) {
            struct peer *peer = events[i].data.ptr;
            bool good = peer->open;
            errno = 0;
            random ^= random << 13, random ^= random >> 7, random ^= random << 17;
            /* TLS wants a write to be repeated as it was: SSL_MODE_… allow another buffer. */
            uint64_t most = 1 + random % (random >> 40 & 1 ? 100 : 20000), rest = each - peer->sent;
            if (good && rest > 0 && (peer->ssl == NULL || peer->sent - peer->got < (1 << 18)))
                good = more(peer, peer->ssl == NULL ? (rest < most ? rest : most) : (rest < 3001 ? rest : 3001));
            for (int k = 0; good && k < 4 && peer->got < peer->sent; k++)
                good = check(peer, 1 + (random >> 20) % 20000, &wrong);
            if (peer->open && (!good || peer->got == each)) {
                if (!good)
                    fprintf(stderr, "dropped after %.1f s: %s, sent %" PRIu64 ", got %" PRIu64 "\n",
                            now() - started, strerror(errno), peer->sent, peer->got);
                dropped += !good;
                end_peer(peer);
                left--;
            }
        }
    }
    uint64_t bytes = 0;
    for (long i = 0; i < count; i++)
        bytes += peers[i].got;
    printf("{\"bytes\": %" PRIu64 ", \"wrong\": %" PRIu64 ", \"dropped\": %ld, \"seconds\": %.1f}\n",
           bytes, wrong, dropped, now() - started);
}

int main(int argc, char **argv) {
    struct rlimit most;
    int c;
    bool speaks_tls = false;
    if (argc < 3)
        return 2;
    const char *kind = argv[1];
    port = (uint16_t)atoi(argv[2]);
    optind = 3;
    while ((c = getopt(argc, argv, "sc:t:m:i:")) != -1) {
        switch (c) {
        case 's': speaks_tls = true; break;
        case 'c': count = atol(optarg); break;
        case 't': seconds = atol(optarg); break;
        case 'm': mebibytes = atol(optarg); break;
        case 'i': interval = atol(optarg); break;
        default: return 2;
        }
    }
    getrlimit(RLIMIT_NOFILE, &most);
    most.rlim_cur = most.rlim_max;
    setrlimit(RLIMIT_NOFILE, &most);
    for (size_t i = 0; i < sizeof pattern; i++)
        pattern[i] = (unsigned char)((i % PATTERN) * 2654435761u >> 13);
    if (speaks_tls) {
        tls = SSL_CTX_new(TLS_client_method());
        SSL_CTX_set_mode(tls, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
                                  SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
        SSL_CTX_set_session_cache_mode(tls, SSL_SESS_CACHE_OFF);
    }
    if (strcmp(kind, "hold") == 0)
        hold();
    else if (strcmp(kind, "echo") == 0)
        echo();
    else if (strcmp(kind, "rounds") == 0)
        rounds();
    else if (strcmp(kind, "stall") == 0)
        stall();
    else if (strcmp(kind, "slow") == 0)
        slow();
    else if (strcmp(kind, "stream") == 0)
        stream();
    else
        return 2;
    return 0;
}
