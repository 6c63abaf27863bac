/* STARTTLS: TLS in mid-stream, and what is slipped in before it. */
#include "tls.h"

static event told = EVENT;
static char reason[512];
static ns_status told_status;
static int32_t told_code;

static int32_t on_exception(ns_server *server, ns_socket *socket, const ns_error *error,
                            void *user_data)
{
    (void)server, (void)user_data;
    CHECK(socket != NULL);
    told_status = ns_error_status(error);
    told_code = ns_error_handler_code(error);
    snprintf(reason, sizeof reason, "%s", ns_error_message(error));
    event_add(&told);
    return 0;
}

typedef struct {
    event plain, secure, closed;
    ns_tls *tls;
    int32_t reason;
    char commands[256]; /* all that the handler got */
} dialogue;

/* Over to TLS at the line "tls"; what follows it in the same packet is handed on. Else: echo. */
static int32_t upgrade(ns_server *server, ns_socket *socket, void *user_data)
{
    dialogue *d = (dialogue *)user_data;
    char buf[512];
    ns_tls_info info;
    int64_t n;
    (void)server;
    while ((n = ns_socket_recv(socket, buf, sizeof buf - 1)) > 0) {
        buf[n] = 0;
        if (strncmp(buf, "tls\n", 4) != 0) {
            CHECK(strlen(d->commands) + (size_t)n < sizeof d->commands);
            strcat(d->commands, buf);
            if (ns_socket_tls_info(socket, &info, sizeof info) == NS_OK)
                event_add(&d->secure);
            CHECK_IS(ns_socket_send(socket, buf, (size_t)n), NS_OK);
            continue;
        }
        ns_status status;
        ns_tls *none = ns_tls_new(), *bad = ns_tls_new();
        CHECK_IS(ns_socket_tls_info(socket, &info, sizeof info), NS_ERR_STATE);
        CHECK_IS(ns_socket_tls_peer_certificate(socket, NULL, 0), 0);
        CHECK_IS(ns_socket_starttls(socket, NULL, NULL, 0), NS_ERR_INVALID);
        CHECK_IS(ns_socket_starttls(socket, d->tls, NULL, 1), NS_ERR_INVALID);
        CHECK_IS(ns_socket_starttls(socket, d->tls, buf, SIZE_MAX), NS_ERR_INVALID);
        CHECK_IS(ns_socket_starttls(socket, none, NULL, 0), NS_ERR_CERTIFICATE);
        CHECK_IS(ns_tls_set_min_version(bad, 1), NS_ERR_INVALID);
        CHECK_IS(ns_socket_starttls(socket, bad, NULL, 0), NS_ERR_INVALID);
        ns_tls_free(none);
        ns_tls_free(bad);
        CHECK_IS(ns_socket_send(socket, "go\n", 3), NS_OK);
        event_add(&d->plain);
        status = ns_socket_starttls(socket, d->tls, buf + 4, (size_t)n - 4);
        if (status != NS_OK)
            return status;
        CHECK_IS(ns_socket_starttls(socket, d->tls, NULL, 0), NS_ERR_STATE);
        /* Encrypted, whenever the handshake is over. */
        status = ns_socket_send(socket, "welcome\n", 8);
        if (status != NS_OK)
            return status;
    }
    if (n == 0)
        ns_socket_close(socket);
    return n < 0 ? (int32_t)n : 0;
}

static void on_close(ns_server *server, ns_socket *socket, int32_t why, void *user_data)
{
    dialogue *d = (dialogue *)user_data;
    (void)server, (void)socket;
    d->reason = why;
    event_add(&d->closed);
}

static ns_server *upgrading(ns_config *config, dialogue *d)
{
    ns_config_set_exception_handler(config, on_exception, NULL, NULL);
    ns_config_set_on_close(config, on_close, d, NULL);
    return SERVE(config, upgrade, d);
}

#define DIALOGUE {EVENT, EVENT, EVENT, tls_of("server.pem", "server-key.pem"), 0, ""}

/* openssl's own client says and expects what LMTP, FTP and so on do; "tls" is none of them, so
 * this carries the bytes: plain first, then those of openssl, which connects to us. */
typedef struct {
    int from, to;
} way;

static void *carry(void *argument)
{
    way *w = (way *)argument;
    char buf[4096];
    ssize_t n;
    while ((n = recv(w->from, buf, sizeof buf, 0)) > 0)
        if (send(w->to, buf, (size_t)n, MSG_NOSIGNAL) != n)
            break;
    shutdown(w->to, SHUT_WR);
    return NULL;
}

static int listener(uint16_t *port)
{
    struct sockaddr_in address;
    socklen_t length = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK_IS(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    CHECK_IS(listen(fd, 1), 0);
    CHECK_IS(getsockname(fd, (struct sockaddr *)&address, &length), 0);
    *port = ntohs(address.sin_port);
    return fd;
}

/* After `plain` and "tls\n", openssl's client says `secure`; with `at_once` its first bytes come
 * in the packet of "tls\n". */
static void converse(ns_server *server, const char *plain, int at_once, char *heard, size_t size)
{
    char text[256], buf[4096];
    uint16_t port;
    int accepted, listening = listener(&port), fd = client(ns_server_port(server));
    way ways[2];
    pthread_t threads[2];
    command c;
    ssize_t n = 0;
    say(fd, plain);
    hear_at(fd, plain, __FILE__, __LINE__);
    snprintf(text, sizeof text, "exec openssl s_client -connect 127.0.0.1:%u -CAfile ca.pem "
             "-verify_return_error -quiet 2>&1", (unsigned)port);
    c = start_command(text);
    accepted = accept(listening, NULL, NULL);
    CHECK(accepted >= 0);
    memcpy(buf, "tls\n", 4);
    if (at_once) {
        n = recv(accepted, buf + 4, sizeof buf - 4, 0);
        CHECK(n > 0);
    }
    CHECK_IS(send(fd, buf, (size_t)n + 4, MSG_NOSIGNAL), n + 4);
    HEAR(fd, "go\n");
    ways[0] = (way){fd, accepted};
    ways[1] = (way){accepted, fd};
    for (int i = 0; i < 2; i++)
        CHECK_IS(pthread_create(&threads[i], NULL, carry, &ways[i]), 0);
    tell(c, "hello\n");
    hear_command(c, "hello\n", heard, size);
    CHECK_IS(kill(c.pid, SIGTERM), 0);
    finish_command(c, buf, sizeof buf);
    for (int i = 0; i < 2; i++)
        CHECK_IS(pthread_join(threads[i], NULL), 0);
    close(accepted);
    close(listening);
    close(fd);
}

/* U1: An upgrade by openssl's own client, in both modes. */
static void starttls(void)
{
    for (int i = 0; i < 4; i++) {
        dialogue d = DIALOGUE;
        char heard[8192];
        ns_stats stats;
        ns_server *server = upgrading(mode(i & 1), &d);
        converse(server, "plain\n", i >> 1, heard, sizeof heard);
        CONTAINS(heard, "welcome\n");
        CONTAINS(heard, "hello\n");
        EVENT_WAIT(&d.closed, 1);
        CHECK_TEXT(d.commands, "plain\nhello\n");
        CHECK_IS(event_count(&d.secure), 1);
        CHECK_IS(ns_server_stats(server, &stats, sizeof stats), NS_OK);
        CHECK_IS(stats.handshakes, 1);
        CHECK_IS(ns_server_free(server), NS_OK);
        check_frozen(d.tls);
        ns_tls_free(d.tls);
    }
}

/* A21.4, U7: A setter that came too late is refused and changes nothing, also not for
 * connections to come, even if its arguments are wrong too. */
static void starttls_after_late_setter(void)
{
    dialogue d = DIALOGUE;
    char heard[8192];
    ns_server *server = upgrading(non_blocking(), &d);
    converse(server, "one\n", 0, heard, sizeof heard);
    EVENT_WAIT(&d.closed, 1);
    CHECK_IS(ns_tls_set_alpn(d.tls, NULL, 1), NS_ERR_STATE);
    CHECK_IS(ns_tls_set_client_ca_file(d.tls, "no such file", 1, NULL), NS_ERR_STATE);
    check_frozen(d.tls);
    converse(server, "two\n", 0, heard, sizeof heard);
    CONTAINS(heard, "welcome\n");
    CHECK_IS(ns_server_free(server), NS_OK);
    ns_tls_free(d.tls);
}

/* U3: CVE-2011-0411: what somebody slips in behind STARTTLS never comes to the handler, be it in
 * the same packet or the next; the handshake fails because of it, and the exception handler gets
 * the error. */
static void injection(void)
{
    for (int i = 0; i < 4; i++) {
        dialogue d = DIALOGUE;
        ns_stats stats;
        int before = event_count(&told), fd;
        ns_server *server = upgrading(mode(i & 1), &d);
        fd = client(ns_server_port(server));
        say(fd, "plain\n");
        HEAR(fd, "plain\n");
        if (i & 2) {
            say(fd, "tls\ninjected command\n");
            HEAR(fd, "go\n");
        } else {
            say(fd, "tls\n");
            HEAR(fd, "go\n");
            say(fd, "injected command\n");
        }
        EVENT_WAIT(&told, before + 1);
        CHECK_IS(told_status, NS_ERR_HANDSHAKE);
        CHECK(strlen(reason) > strlen("the TLS handshake failed: "));
        EVENT_WAIT(&d.closed, 1);
        CHECK_IS(d.reason, NS_CLOSE_HANDSHAKE);
        close(fd);
        CHECK_TEXT(d.commands, "plain\n");
        CHECK_IS(event_count(&d.secure), 0);
        CHECK_IS(ns_server_stats(server, &stats, sizeof stats), NS_OK);
        CHECK_IS(stats.handshakes, 0);
        CHECK_IS(stats.handshake_failures, 1);
        CHECK_IS(ns_server_free(server), NS_OK);
        ns_tls_free(d.tls);
    }
}

static ns_tls *own_tls;

/* Fails in its own words where STARTTLS does. */
static int32_t own_code(ns_server *server, ns_socket *socket, void *user_data)
{
    char byte;
    (void)server;
    CHECK_IS(ns_socket_recv(socket, &byte, 1), 1);
    CHECK_IS(ns_socket_starttls(socket, own_tls, "x", 1), NS_ERR_HANDSHAKE);
    return *(int32_t *)user_data;
}

/* A21.2, X14: A worker's handler says what it fails of; the library only where it returns what
 * it was given. */
static void codes(void)
{
    int32_t returned[] = {-5, NS_ERR_HANDSHAKE, NS_ERR_TIMEOUT};
    own_tls = tls_of("server.pem", "server-key.pem");
    for (int i = 0; i < 3; i++) {
        ns_config *config = ns_config_new();
        ns_server *server;
        int before = event_count(&told), fd;
        CHECK_IS(ns_config_set_exception_handler(config, on_exception, NULL, NULL), NS_OK);
        server = SERVE(config, own_code, &returned[i]);
        fd = client(ns_server_port(server));
        say(fd, "xno ClientHello");
        EVENT_WAIT(&told, before + 1);
        CHECK_IS(told_code, returned[i]);
        CHECK_IS(told_status, i == 0 ? NS_ERR_HANDLER : returned[i]);
        CHECK((strstr(reason, "TLS handshake failed: ") != NULL) == (i == 1));
        close(fd);
        CHECK_IS(ns_server_free(server), NS_OK);
    }
    ns_tls_free(own_tls);
}

static event flooded = EVENT;

/* Bytes that wait for the end of the handshake count against send_limit. */
static int32_t flood(ns_server *server, ns_socket *socket, void *user_data)
{
    static char megabyte[1 << 20];
    int sent = 0;
    ns_status status;
    (void)server;
    if (ns_socket_recv(socket, megabyte, sizeof megabyte) <= 0)
        return -1;
    CHECK_IS(ns_socket_starttls(socket, user_data, NULL, 0), NS_OK);
    while ((status = ns_socket_send(socket, megabyte, sizeof megabyte)) == NS_OK && sent < 16)
        sent++;
    CHECK_IS(status, NS_ERR_BUFFER_FULL);
    CHECK(ns_socket_queued(socket) > 0);
    event_add(&flooded);
    ns_socket_abort(socket);
    return 0;
}

/* U8: A send beyond the limit is refused during the handshake. */
static void limit_before_handshake(void)
{
    ns_tls *tls = tls_of("server.pem", "server-key.pem");
    ns_server *server = SERVE(non_blocking(), flood, tls);
    int fd = client(ns_server_port(server));
    say(fd, "tls\n");
    EVENT_WAIT(&flooded, 1);
    close(fd);
    CHECK_IS(ns_server_free(server), NS_OK);
    ns_tls_free(tls);
}

int main(void)
{
    use_certificates();
    RUN(starttls);
    RUN(starttls_after_late_setter);
    RUN(codes);
    RUN(injection);
    RUN(limit_before_handshake);
    return 0;
}
