/* load: loads an echo server, a store or a web server on loopback and checks every byte that comes back.
 *
 *   load [OPTIONS] echo|churn|get|set|page PORT
 *
 *   echo   messages over lasting connections
 *   churn  one message per connection: connect, send, receive, end, close
 *   get    as echo, where a message is redis's GET of a key whose value has 64 bytes
 *   set    as get, with SET
 *   page   as echo, where a message is HTTP's GET of /page, less than 64 KiB of text without a NUL
 *
 *   -c N   connections at once (1)
 *   -s N   bytes of a message (64)
 *   -d N   messages in flight on each connection (1)
 *   -i N   besides, connections that echoed one message and then idle (0)
 *   -t     TLS 1.3; with churn each connection makes a full handshake
 *   -r     with churn: each connection resumes an earlier session, or it is a failure
 *   -n N   one burst of N operations; without it each line of the standard input is such an N
 *
 * An operation is a message of echo, get, set or page, a connection of churn. Prints "ready" when the lasting
 * connections are there, then for each burst one line of JSON: seconds, the quantiles of the time
 * of an operation in microseconds, the cipher suite. Exits at the end of the input: 0, or 1 after
 * a wrong byte, one too many, or a connection that ended early.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PERIOD 65521UL      /* a prime: what is lost, doubled or moved does not fit */
#define CHUNK (256UL << 10) /* sent or received by one call at most */
#define MOST 10000000UL     /* of anything counted */
#define SILENCE 30000       /* ms without any progress: a failure */
#define DATE 29UL           /* bytes of a date of HTTP: RFC 9110, 5.6.7 */

typedef struct {
    int fd;
    SSL *ssl;        /* NULL without TLS */
    int resuming;    /* asks for an earlier session */
    int established; /* the handshake is over */
    int ending;      /* told the server that nothing follows */
    uint64_t offset; /* where in the pattern this connection's stream begins */
    uint64_t goal;   /* bytes to be sent of the messages begun */
    uint64_t sent, received;
    double *begun; /* when each message in flight began, a ring */
} conn;

static struct {
    const char *command; /* NULL, or all messages are this one */
    int churn, tls, resume;
    unsigned long connections, size, depth, idle, burst, port;
} opt = {NULL, 0, 0, 0, 1, 64, 1, 0, 0, 0};

#define VALUE "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define SET "*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$64\r\n" VALUE "\r\n"
#define GET "*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n"
#define OK "+OK\r\n"
#define PAGE "GET /page HTTP/1.1\r\nHost: localhost\r\n\r\n"
#define ANSWER "$64\r\n" VALUE "\r\n"

/* What is sent, and what comes back; the same but for a command. */
static unsigned char pattern[PERIOD + CHUNK], answers[PERIOD + CHUNK], input[CHUNK];
static unsigned long period = PERIOD, answer_period = PERIOD, answer_size;
static unsigned long date_at; /* where in an answer there is a date, which may be another one; or 0 */
static int poller;
static SSL_CTX *tls;
static SSL_SESSION *session;                    /* the latest ticket */
static const char *cipher = "none";             /* of the latest handshake */
static unsigned long connections, issued, done; /* ever; of this burst */
static float *times;                            /* of this burst, in microseconds */

#if defined(__GNUC__)
__attribute__((format(printf, 1, 2), noreturn))
#endif
static void die(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(1);
}

static void *allocate(size_t count, size_t size) {
    void *memory = calloc(count, size);
    if (memory == NULL)
        die("out of memory");
    return memory;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void fill_pattern(void) {
    uint64_t x = 88172645463325252U; /* xorshift64 */
    size_t i;
    for (i = 0; i < PERIOD; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        pattern[i] = (unsigned char)(x >> 32);
    }
    for (; i < sizeof pattern; i++)
        pattern[i] = pattern[i - PERIOD];
}

static void repeat(unsigned char *place, const char *text) {
    const size_t len = strlen(text);
    size_t i;
    for (i = 0; i < PERIOD + CHUNK; i++)
        place[i] = (unsigned char)text[i % len];
}

static void fill_commands(const char *answer) {
    repeat(pattern, opt.command);
    repeat(answers, answer);
    period = opt.size = strlen(opt.command);
    answer_period = answer_size = strlen(answer);
}

static const unsigned char *at(const conn *c, uint64_t position) {
    return pattern + (c->offset + position) % period;
}

static const unsigned char *answer_at(const conn *c, uint64_t position) {
    return answers + (c->offset + position) % answer_period;
}

/* -- one connection -------------------------------------------------------------------------- */

static int keep_session(SSL *ssl, SSL_SESSION *latest) {
    (void)ssl;
    SSL_SESSION_free(session);
    session = latest;
    return 1; /* ours now */
}

static void make_context(void) {
    tls = SSL_CTX_new(TLS_client_method());
    if (tls == NULL || !SSL_CTX_set_min_proto_version(tls, TLS1_3_VERSION))
        die("OpenSSL has no TLS 1.3");
    SSL_CTX_set_mode(tls, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                              SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_read_ahead(tls, 1);
    /* The certificate is thrown away after the run; what counts here are the bytes. */
    SSL_CTX_set_verify(tls, SSL_VERIFY_NONE, NULL);
    SSL_CTX_set_session_cache_mode(tls, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    if (opt.resume)
        SSL_CTX_sess_set_new_cb(tls, keep_session);
}

static void open_conn(conn *c) {
    struct sockaddr_in address;
    struct epoll_event event;
    int on = 1;
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_port = htons((uint16_t)opt.port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&address, sizeof address) != 0)
        die("cannot connect to port %lu: %s", opt.port, strerror(errno));
    if (fcntl(c->fd, F_SETFL, O_NONBLOCK) != 0)
        die("fcntl: %s", strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    memset(&event, 0, sizeof event);
    event.events = EPOLLIN | EPOLLOUT | EPOLLET;
    event.data.ptr = c;
    if (epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event) != 0)
        die("epoll_ctl: %s", strerror(errno));
    c->goal = c->sent = c->received = 0;
    c->offset = opt.command ? 0 : connections++ * 7919;
    c->established = !opt.tls;
    c->ending = 0;
    if (opt.tls) {
        c->ssl = SSL_new(tls);
        if (c->ssl == NULL || !SSL_set_fd(c->ssl, c->fd))
            die("out of memory");
        SSL_set_connect_state(c->ssl);
        c->resuming = opt.resume && session != NULL;
        if (c->resuming) {
            /* A copy: a handshake marks its session as used. */
            SSL_SESSION *copy = SSL_SESSION_dup(session);
            if (copy == NULL || !SSL_set_session(c->ssl, copy))
                die("out of memory");
            SSL_SESSION_free(copy);
        }
    }
}

/* By a reset, after the server's end: no port is left waiting. */
static void close_conn(conn *c) {
    struct linger at_once = {1, 0};
    SSL_free(c->ssl);
    c->ssl = NULL;
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    close(c->fd);
    c->fd = -1;
}

/* What a call on the session means: bytes, 0 at the end, -1 for later. */
static ssize_t tls_result(conn *c, int result) {
    if (result > 0)
        return result;
    switch (SSL_get_error(c->ssl, result)) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE: return -1;
    case SSL_ERROR_ZERO_RETURN: return 0;
    default:
        die("TLS: %s", ERR_peek_error() != 0 ? ERR_reason_error_string(ERR_peek_error())
                                             : "the server closed without close_notify");
    }
}

static ssize_t tcp_result(ssize_t result) {
    if (result < 0 && errno != EAGAIN)
        die("TCP: %s", strerror(errno));
    return result;
}

static ssize_t give(conn *c, const unsigned char *bytes, size_t n) {
    if (c->ssl != NULL)
        return tls_result(c, SSL_write(c->ssl, bytes, (int)n));
    return tcp_result(send(c->fd, bytes, n, MSG_NOSIGNAL));
}

static ssize_t take(conn *c, unsigned char *bytes, size_t n) {
    if (c->ssl != NULL)
        return tls_result(c, SSL_read(c->ssl, bytes, (int)n));
    return tcp_result(recv(c->fd, bytes, n, 0));
}

static void end_stream(conn *c) {
    c->ending = 1;
    if (c->ssl != NULL)
        SSL_shutdown(c->ssl);
    else
        shutdown(c->fd, SHUT_WR);
}

/* One step of the handshake: whether it is over. */
static int establish(conn *c) {
    const int result = SSL_do_handshake(c->ssl);
    if (result != 1) {
        if (tls_result(c, result) == 0)
            die("the server ended the handshake");
        return 0;
    }
    if (c->resuming && !SSL_session_reused(c->ssl))
        die("the server did not resume the session");
    cipher = SSL_get_cipher(c->ssl);
    c->established = 1;
    return 1;
}

/* -- messages -------------------------------------------------------------------------------- */

static void begin_messages(conn *c, unsigned long burst) {
    while (issued < burst && c->goal / opt.size - c->received / answer_size < opt.depth) {
        c->begun[c->goal / opt.size % opt.depth] = now();
        c->goal += opt.size;
        issued++;
    }
}

/* Makes the dates in what came, of which a part may be there, those that are expected. */
static void set_dates(const conn *c, size_t n) {
    uint64_t i = 0;
    while (i < n) {
        const uint64_t position = c->received + i, place = position % answer_size;
        if (place >= date_at && place < date_at + DATE)
            input[i++] = answers[place];
        else
            i += date_at + (place < date_at ? 0 : answer_size) - place;
    }
}

/* Checks what came and counts the messages that it completes. */
static void check(conn *c, size_t n) {
    const uint64_t before = c->received / answer_size;
    const uint64_t due = opt.command ? c->sent / opt.size * answer_size : c->sent;
    const double t = now();
    uint64_t message;
    if (c->received + n > due)
        die("more came back than was sent");
    if (date_at > 0)
        set_dates(c, n);
    if (memcmp(input, answer_at(c, c->received), n) != 0)
        die("wrong bytes came back");
    c->received += n;
    if (opt.churn)
        return;
    for (message = before; message < c->received / answer_size; message++)
        times[done++] = (float)((t - c->begun[message % opt.depth]) * 1e6);
}

/* Sends what may be sent: whether that was anything. */
static int send_some(conn *c) {
    int any = 0;
    while (c->sent < c->goal) {
        const uint64_t left = c->goal - c->sent;
        const ssize_t n = give(c, at(c, c->sent), left < CHUNK ? (size_t)left : CHUNK);
        if (n < 0)
            break;
        c->sent += (uint64_t)n;
        any = 1;
    }
    return any;
}

/* As far as it goes now: 1 when the server has ended the stream. */
static int advance(conn *c, unsigned long burst) {
    int any = 1;
    if (!c->established && !establish(c))
        return 0;
    while (any) {
        ssize_t n;
        any = send_some(c);
        n = take(c, input, sizeof input);
        if (n == 0)
            return 1;
        if (n > 0) {
            check(c, (size_t)n);
            any = 1;
            if (!opt.churn)
                begin_messages(c, burst);
        }
        if (opt.churn && !c->ending && c->received == opt.size)
            end_stream(c);
    }
    return 0;
}

static void end_churn(conn *c) {
    if (!c->ending)
        die("the server ended a connection");
    close_conn(c);
    times[done++] = (float)((now() - c->begun[0]) * 1e6);
}

/* A new connection with its one message, if the burst has one left. */
static void begin_churn(conn *c, unsigned long burst) {
    while (issued < burst) {
        issued++;
        c->begun[0] = now();
        open_conn(c);
        c->goal = opt.size;
        if (!advance(c, burst))
            return;
        end_churn(c);
    }
}

static void ended(conn *c, unsigned long burst) {
    if (!opt.churn)
        die("the server ended a connection");
    end_churn(c);
    begin_churn(c, burst);
}

/* One look at what is ready; what is begun is in `done` and in `times`. */
static void turn(unsigned long burst) {
    struct epoll_event events[256];
    int i, count = epoll_wait(poller, events, 256, SILENCE);
    if (count < 0 && errno != EINTR)
        die("epoll_wait: %s", strerror(errno));
    if (count == 0)
        die("no progress for %d ms", SILENCE);
    for (i = 0; i < count; i++) {
        conn *c = (conn *)events[i].data.ptr;
        if (c->fd >= 0 && advance(c, burst))
            ended(c, burst);
    }
}

/* -- bursts ---------------------------------------------------------------------------------- */

static int compare(const void *a, const void *b) {
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static float quantile(double q) {
    return times[(unsigned long)(q * (double)(done - 1))];
}

static void begin_burst(unsigned long operations) {
    free(times);
    times = (float *)allocate(operations, sizeof *times);
    issued = done = 0;
}

static void run_burst(conn *conns, unsigned long operations) {
    unsigned long i;
    double from, seconds;
    begin_burst(operations);
    from = now();
    for (i = 0; i < opt.connections && issued < operations; i++) {
        if (opt.churn) {
            begin_churn(&conns[i], operations);
        } else {
            begin_messages(&conns[i], operations);
            if (advance(&conns[i], operations))
                die("the server ended a connection");
        }
    }
    while (done < operations)
        turn(operations);
    seconds = now() - from;
    qsort(times, done, sizeof *times, compare);
    printf("{\"operations\": %lu, \"seconds\": %.6f, \"p50\": %.1f, \"p99\": %.1f, "
           "\"p999\": %.1f, \"most\": %.1f, \"cipher\": \"%s\"}\n",
           done, seconds, quantile(.5), quantile(.99), quantile(.999), quantile(1), cipher);
    fflush(stdout);
}

/* Opens lasting connections, each with one message, a few at a time. */
static void open_lasting(conn *conns, unsigned long count) {
    unsigned long i;
    if (count == 0)
        return;
    begin_burst(count);
    for (i = 0; i < count; i++) {
        open_conn(&conns[i]);
        begin_messages(&conns[i], i + 1);
        if (advance(&conns[i], i + 1))
            die("the server ended a connection");
        while (i - done >= 64 && i > done)
            turn(issued);
    }
    while (done < count)
        turn(issued);
}

static void get_session(conn *c) {
    begin_burst(1);
    begin_churn(c, 1);
    while (done == 0)
        turn(1);
    if (session == NULL)
        die("the server gave no session to resume");
}

/* Ends them all, and waits for the server to do so: what it says must be that, no byte more. */
static void end_lasting(conn *conns, unsigned long count) {
    unsigned long i;
    for (i = 0; i < count; i++) {
        if (take(&conns[i], input, sizeof input) >= 0)
            die("a connection without a message did not stay silent");
        end_stream(&conns[i]);
    }
    for (i = 0; i < count; i++) {
        ssize_t n;
        while ((n = take(&conns[i], input, sizeof input)) < 0) {
            struct pollfd end = {conns[i].fd, POLLIN, 0};
            if (poll(&end, 1, SILENCE) == 0)
                die("the server does not end a connection");
        }
        if (n > 0)
            die("more came back than was sent");
        close_conn(&conns[i]);
    }
}

/* Sends a command and receives the beginning of what it brings, `least` bytes at least. */
static void ask(conn *c, const char *command, size_t least) {
    if (c->sent == 0 && give(c, (const unsigned char *)command, strlen(command)) < 0)
        die("cannot send the first message");
    c->sent = strlen(command);
    while (c->received < least) {
        struct pollfd answer = {c->fd, POLLIN, 0};
        ssize_t n;
        if (poll(&answer, 1, SILENCE) != 1 || (n = take(c, input + c->received, CHUNK / 2)) <= 0)
            die("the server does not answer the first message");
        c->received += (uint64_t)n;
    }
}

/* Gives the store the value that is asked for. */
static void set_value(void) {
    conn c;
    memset(&c, 0, sizeof c);
    open_conn(&c);
    ask(&c, SET, 5);
    if (c.received != 5 || memcmp(input, OK, 5) != 0)
        die("the store does not set the value");
    close_conn(&c);
}

/* Returns an answer of a web server, to which all others must be equal but for the date. */
static char *first_page(void) {
    const char *end, *length, *date;
    char *page = (char *)allocate(CHUNK, 1);
    conn c;
    memset(&c, 0, sizeof c);
    open_conn(&c);
    do {
        ask(&c, PAGE, c.received + 1);
        memcpy(page, input, c.received);
        end = strstr(page, "\r\n\r\n");
        length = strstr(page, "\r\nContent-Length: ");
    } while (end == NULL || length == NULL ||
             c.received < (uint64_t)(end + 4 - page) + strtoul(length + 18, NULL, 10));
    date = strstr(page, "\r\nDate: ");
    date_at = date != NULL && date < end ? (unsigned long)(date + 8 - page) : 0;
    if (strncmp(page, "HTTP/1.1 200 ", 13) != 0 || strlen(page) != c.received ||
        c.received >= PERIOD)
        die("the page is missing, too large, or no text");
    close_conn(&c);
    return page;
}

static void raise_limit(void) {
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

static unsigned long number(const char *text, unsigned long least) {
    char *end;
    const unsigned long value = strtoul(text, &end, 10);
    if (end == text || (*end != '\0' && *end != '\n') || value < least || value > MOST)
        die("not a number from %lu to %lu: %s", least, MOST, text);
    return value;
}

static void parse(int argc, char **argv) {
    static const char *const commands[][2] = {{"get", GET}, {"set", SET}, {"page", PAGE}};
    size_t i;
    int c;
    while ((c = getopt(argc, argv, "c:s:d:i:n:tr")) != -1) {
        switch (c) {
        case 'c': opt.connections = number(optarg, 1); break;
        case 's': opt.size = number(optarg, 1); break;
        case 'd': opt.depth = number(optarg, 1); break;
        case 'i': opt.idle = number(optarg, 0); break;
        case 'n': opt.burst = number(optarg, 1); break;
        case 't': opt.tls = 1; break;
        case 'r': opt.tls = opt.resume = 1; break;
        default: die("see the top of load.c");
        }
    }
    if (argc != optind + 2)
        die("see the top of load.c");
    opt.churn = strcmp(argv[optind], "churn") == 0;
    for (i = 0; i < sizeof commands / sizeof *commands; i++)
        if (strcmp(argv[optind], commands[i][0]) == 0)
            opt.command = commands[i][1];
    if (!opt.churn && !opt.command && strcmp(argv[optind], "echo") != 0)
        die("what is this: %s", argv[optind]);
    if (opt.resume && !opt.churn)
        die("echo resumes nothing");
    if (opt.churn && (opt.idle != 0 || opt.depth != 1))
        die("churn has neither idle connections nor several messages");
    opt.port = number(argv[optind + 1], 1);
}

int main(int argc, char **argv) {
    unsigned long i, total;
    conn *conns;
    char line[64];

    parse(argc, argv);
    signal(SIGPIPE, SIG_IGN); /* OpenSSL writes without MSG_NOSIGNAL */
    raise_limit();
    if (opt.tls)
        make_context();
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (poller < 0)
        die("epoll_create1: %s", strerror(errno));
    total = opt.connections + opt.idle;
    if (opt.command == NULL) {
        fill_pattern();
        memcpy(answers, pattern, sizeof answers);
        answer_size = opt.size;
    } else if (strcmp(opt.command, PAGE) == 0) {
        fill_commands(first_page());
    } else {
        set_value();
        fill_commands(strcmp(opt.command, GET) == 0 ? ANSWER : OK);
    }
    conns = (conn *)allocate(total, sizeof *conns);
    for (i = 0; i < total; i++) {
        conns[i].fd = -1;
        conns[i].begun = (double *)allocate(opt.depth, sizeof(double));
    }
    if (!opt.churn)
        open_lasting(conns, total);
    if (opt.resume)
        get_session(conns);
    puts("ready");
    fflush(stdout);
    if (opt.burst != 0)
        run_burst(conns, opt.burst);
    while (opt.burst == 0 && fgets(line, sizeof line, stdin) != NULL)
        run_burst(conns, number(line, 1));
    if (!opt.churn)
        end_lasting(conns, total);
    return 0;
}
