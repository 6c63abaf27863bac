/* What a client agrees on with the server, client certificates, failed handshakes,
 * reload, detach and truncation. */
#include "tls.h"

/* -- what a connection agreed on -------------------------------------------- */

typedef struct {
    event served;
    ns_tls_info info;
    char subject[128];
    size_t subject_length, certificate_length;
    unsigned char certificate[2048];
} agreement;

#define AGREEMENT {EVENT, {0, 0, "", "", ""}, "", 0, 0, {0}}

/* Answers the first input with "served", having noted what was agreed on. */
static int32_t note(ns_server *server, ns_socket *socket, void *user_data)
{
    agreement *a = (agreement *)user_data;
    struct {
        ns_tls_info info;
        char more[8];
    } larger;
    char buf[256];
    int64_t n = ns_socket_recv(socket, buf, sizeof buf);
    (void)server;
    if (n < 0)
        return (int32_t)n;

    CHECK_IS(ns_socket_tls_info(socket, NULL, sizeof a->info), NS_ERR_INVALID);
    CHECK_IS(ns_socket_tls_info(socket, &a->info, 0), NS_ERR_INVALID);
    CHECK_IS(ns_socket_tls_info(socket, &a->info, SIZE_MAX), NS_ERR_INVALID);
    memset(&larger, 'x', sizeof larger);
    CHECK_IS(ns_socket_tls_info(socket, &larger.info, sizeof larger), NS_OK);
    CHECK_IS(memcmp(larger.more, "\0\0\0\0\0\0\0\0", 8), 0);
    memset(&a->info, 'x', sizeof a->info);
    CHECK_IS(ns_socket_tls_info(socket, &a->info, 8), NS_OK);
    CHECK_IS(a->info.cipher_suite[0], 'x');
    CHECK_IS(ns_socket_tls_info(socket, &a->info, sizeof a->info), NS_OK);
    CHECK_IS(memcmp(&larger.info, &a->info, sizeof a->info), 0);

    a->certificate_length = ns_socket_tls_peer_certificate(socket, NULL, 0);
    memset(a->certificate, 'x', sizeof a->certificate);
    CHECK_IS(ns_socket_tls_peer_certificate(socket, a->certificate, 4), a->certificate_length);
    CHECK_IS(a->certificate[4], 'x');
    CHECK_IS(ns_socket_tls_peer_certificate(socket, NULL, 4), a->certificate_length);
    CHECK_IS(ns_socket_tls_peer_certificate(socket, a->certificate, sizeof a->certificate),
             a->certificate_length);
    a->subject_length = ns_socket_tls_peer_subject(socket, NULL, 0);
    CHECK_IS(ns_socket_tls_peer_subject(socket, a->subject, 3), a->subject_length);
    CHECK_IS(strlen(a->subject), a->subject_length < 2 ? a->subject_length : 2);
    CHECK_IS(ns_socket_tls_peer_subject(socket, a->subject, sizeof a->subject),
             a->subject_length);

    CHECK_IS(ns_socket_starttls(socket, NULL, NULL, 0), NS_ERR_INVALID);
    CHECK_IS(ns_socket_send(socket, "served\n", 7), NS_OK);
    ns_socket_close(socket);
    event_add(&a->served);
    return 0;
}

/* One client's way; `heard` is what openssl printed. */
static void agree(ns_config *config, ns_tls *tls, const char *options, agreement *a, char *heard,
                  size_t size)
{
    ns_server *server = SERVE(with_tls(config, tls), note, a);
    ns_stats stats;
    int before = event_count(&a->served);
    run_client(server, options, "hello\n", heard, size);
    EVENT_WAIT(&a->served, before + 1);
    CHECK_IS(ns_server_stats(server, &stats, sizeof stats), NS_OK);
    CHECK_IS(stats.handshakes, 1);
    CHECK_IS(stats.handshake_failures, 0);
    CHECK_IS(ns_server_free(server), NS_OK);
    CONTAINS(heard, "served");
}

/* K14, K15, K23: Both versions, and what was agreed on. */
static void versions(void)
{
    const char *protocols[] = {"h2", "http/1.1"};
    for (int i = 0; i < 2; i++) {
        agreement a = AGREEMENT;
        char heard[8192];
        ns_tls *tls = tls_of("server.pem", "server-key.pem");
        CHECK_IS(ns_tls_set_alpn(tls, protocols, 2), NS_OK);
        agree(mode(i), tls, "-quiet -tls1_3 -servername localhost -alpn http/1.1,spdy", &a, heard,
              sizeof heard);
        CHECK_IS(a.info.version, NS_TLS_1_3);
        CHECK_IS(a.info.resumed, 0);
        CHECK_IS(strncmp(a.info.cipher_suite, "TLS_", 4), 0);
        CHECK(strncmp(a.info.cipher_suite, "TLS_ECDHE_", 10) != 0);
        CHECK_TEXT(a.info.alpn, "http/1.1");
        CHECK_TEXT(a.info.server_name, "localhost");
        CHECK_IS(a.certificate_length, 0);
        CHECK_TEXT(a.subject, "");

        agree(mode(i), tls_of("server.pem", "server-key.pem"), "-quiet -tls1_2 -noservername", &a,
              heard, sizeof heard);
        CHECK_IS(a.info.version, NS_TLS_1_2);
        CHECK_IS(strncmp(a.info.cipher_suite, "TLS_ECDHE_ECDSA_WITH_", 21), 0);
        CHECK_TEXT(a.info.alpn, "");
        CHECK_TEXT(a.info.server_name, "");

        /* A server's own certificate is not judged by itself. */
        agree(mode(i), tls_of("v1.pem", "v1-key.pem"), "-quiet", &a, heard, sizeof heard);
        agree(mode(i), tls_of("expired.pem", "expired-key.pem"), "-quiet", &a, heard,
              sizeof heard);
    }
}

/* K21: A second client with the first one's ticket. */
static void resumed(void)
{
    for (int i = 0; i < 2; i++) {
        agreement a = AGREEMENT;
        char heard[8192];
        ns_server *server =
            SERVE(with_tls(mode(i), tls_of("server.pem", "server-key.pem")), note, &a);
        run_client(server, "-quiet -sess_out session.pem", "hello\n", heard, sizeof heard);
        EVENT_WAIT(&a.served, 1);
        CHECK_IS(a.info.resumed, 0);
        run_client(server, "-quiet -sess_in session.pem", "hello\n", heard, sizeof heard);
        EVENT_WAIT(&a.served, 2);
        CHECK_IS(a.info.resumed, 1);
        CHECK_IS(ns_server_free(server), NS_OK);
    }
}

/* K16: By name: exact before wildcard before the default, whatever the case. */
static void names(void)
{
    const char *cases[][2] = {{"www.example.org", "exact"}, {"WWW.example.ORG", "exact"},
                              {"ftp.example.org", "wild"},  {"a.b.example.org", "localhost"},
                              {"example.org", "localhost"}, {"other", "localhost"}};
    char heard[8192], options[128], subject[64];
    ns_tls *tls = ns_tls_new();
    ns_server *server;
    CHECK_IS(ns_tls_add_cert_file(tls, "*.Example.org", "wild.pem", "wild-key.pem", NULL), NS_OK);
    CHECK_IS(ns_tls_add_cert_file(tls, "www.example.org", "exact.pem", "exact-key.pem", NULL),
             NS_OK);
    CHECK_IS(ns_tls_add_cert_file(tls, NULL, "chain.pem", "server-key.pem", NULL), NS_OK);
    server = SERVE(with_tls(non_blocking(), tls), echo, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        snprintf(options, sizeof options, "-servername %s", cases[i][0]);
        snprintf(subject, sizeof subject, "subject=CN = %s\n", cases[i][1]);
        run_client(server, options, "Q\n", heard, sizeof heard);
        CONTAINS(heard, subject);
    }
    run_client(server, "-noservername -showcerts", "Q\n", heard, sizeof heard);
    CONTAINS(heard, "1 s:CN = Test Authority"); /* the whole chain */
    CHECK_IS(ns_server_free(server), NS_OK);
}

/* -- client certificates and failed handshakes ------------------------------ */

/* The last error of the exception handler. */
static event told = EVENT;
static char reason[512];
static ns_status told_status;

static int32_t on_exception(ns_server *server, ns_socket *socket, const ns_error *error,
                            void *user_data)
{
    ns_tls_info info;
    (void)server, (void)user_data;
    CHECK(socket != NULL);
    CHECK(ns_socket_id(socket) != 0);
    told_status = ns_error_status(error);
    CHECK_IS(ns_socket_is_closed(socket), 1);
    if (told_status == NS_ERR_HANDSHAKE)
        CHECK_IS(ns_socket_tls_info(socket, &info, sizeof info), NS_ERR_STATE);
    snprintf(reason, sizeof reason, "%s", ns_error_message(error));
    event_add(&told);
    return 0;
}

static int32_t never(ns_server *server, ns_socket *socket, void *user_data)
{
    (void)server, (void)socket, (void)user_data;
    fail(__FILE__, __LINE__, "the handler was called");
    return 0;
}

static int32_t never_opened(ns_server *server, ns_socket *socket, void *user_data)
{
    return never(server, socket, user_data);
}

static void never_closed(ns_server *server, ns_socket *socket, int32_t why, void *user_data)
{
    (void)why;
    never(server, socket, user_data);
}

/* A server that sees no handshake succeed. */
static ns_server *unreached(ns_config *config, ns_tls *tls)
{
    ns_config_set_exception_handler(config, on_exception, NULL, NULL);
    ns_config_set_on_open(config, never_opened, NULL, NULL);
    ns_config_set_on_close(config, never_closed, NULL, NULL);
    return SERVE(with_tls(config, tls), never, NULL);
}

static void check_failures(ns_server *server, uint64_t count)
{
    ns_stats stats;
    WAIT_UNTIL(ns_server_stats(server, &stats, sizeof stats) == NS_OK && stats.open == 0);
    CHECK_IS(stats.handshakes, 0);
    CHECK_IS(stats.handshake_failures, count);
    CHECK_IS(stats.closed[NS_CLOSE_HANDSHAKE], count);
    CHECK_IS(stats.accepted, count);
}

static ns_tls *asking(int required)
{
    ns_tls *tls = tls_of("server.pem", "server-key.pem");
    CHECK_IS(ns_tls_set_client_ca_file(tls, "ca.pem", required, NULL), NS_OK);
    return tls;
}

/* K17, K26: Those that are let in, and those that are refused. */
static void client_certificates(void)
{
    for (int i = 0; i < 4; i++) {
        const char *version = i & 2 ? "-tls1_2" : "-tls1_3";
        const char *bad[] = {"", "-cert rogue.pem -key rogue-key.pem",
                             "-cert late.pem -key late-key.pem",
                             "-cert server.pem -key server-key.pem"};
        agreement a = AGREEMENT;
        char heard[8192], options[256];
        static unsigned char der[2048];
        FILE *file;
        ns_server *server;
        int before = event_count(&told);

        snprintf(options, sizeof options, "-quiet %s -cert client.pem -key client-key.pem",
                 version);
        for (int required = 0; required < 2; required++) {
            agree(mode(i & 1), asking(required), options, &a, heard, sizeof heard);
            CHECK_TEXT(a.subject, "CN=ann,O=Example\\, Inc.");
            CHECK_IS(a.subject_length, strlen(a.subject));
            file = popen("openssl x509 -in client.pem -outform DER", "r");
            CHECK_IS(fread(der, 1, sizeof der, file), a.certificate_length);
            pclose(file);
            CHECK_IS(memcmp(der, a.certificate, a.certificate_length), 0);
        }
        snprintf(options, sizeof options, "-quiet %s", version);
        agree(mode(i & 1), asking(0), options, &a, heard, sizeof heard);
        CHECK_IS(a.certificate_length, 0);
        CHECK_IS(a.subject_length, 0);

        /* None, another authority's, an expired one, and one for servers. */
        server = unreached(mode(i & 1), asking(1));
        for (int j = 0; j < 4; j++) {
            snprintf(options, sizeof options, "-quiet %s %s", version, bad[j]);
            run_client(server, options, "hello\n", heard, sizeof heard);
            EVENT_WAIT(&told, before + j + 1);
            CHECK_IS(told_status, NS_ERR_HANDSHAKE);
            CHECK(strlen(reason) > strlen("the TLS handshake failed: "));
            CONTAINS(heard, "alert");
        }
        check_failures(server, 4);
        CHECK_IS(ns_server_free(server), NS_OK);
        server = unreached(mode(i & 1), asking(0));
        for (int j = 1; j < 4; j++) {
            snprintf(options, sizeof options, "-quiet %s %s", version, bad[j]);
            run_client(server, options, "hello\n", heard, sizeof heard);
            EVENT_WAIT(&told, before + 4 + j);
        }
        check_failures(server, 3);
        CHECK_IS(ns_server_free(server), NS_OK);
    }
}

/* K5: What is no TLS, and what both sides cannot agree on. */
static void failed_handshakes(void)
{
    const char *protocols[] = {"h2"};
    for (int i = 0; i < 2; i++) {
        char heard[8192];
        int fd, before = event_count(&told);
        ns_tls *tls = tls_of("server.pem", "server-key.pem");
        ns_config *config = mode(i);
        ns_server *server;
        CHECK_IS(ns_tls_set_min_version(tls, NS_TLS_1_3), NS_OK);
        CHECK_IS(ns_tls_set_alpn(tls, protocols, 1), NS_OK);
        CHECK_IS(ns_config_set_handshake_timeout_ms(config, 1000), NS_OK);
        server = unreached(config, tls);

        fd = client(ns_server_port(server));
        say(fd, "GET / HTTP/1.0\r\n\r\n");
        EVENT_WAIT(&told, before + 1);
        CHECK_IS(told_status, NS_ERR_HANDSHAKE);
        close(fd);

        fd = client(ns_server_port(server)); /* a whole record, then the end */
        CHECK_IS(send(fd, "\x16\x03\x01\x00\x04\x01\x00\x02\x00", 9, MSG_NOSIGNAL), 9);
        shutdown(fd, SHUT_WR);
        EVENT_WAIT(&told, before + 2);
        CHECK_IS(told_status, NS_ERR_HANDSHAKE);
        close(fd);

        run_client(server, "-quiet -tls1_2", "hello\n", heard, sizeof heard);
        EVENT_WAIT(&told, before + 3);
        CHECK_IS(told_status, NS_ERR_HANDSHAKE);
        CONTAINS(heard, "alert protocol version");
        run_client(server, "-quiet -alpn spdy", "hello\n", heard, sizeof heard);
        EVENT_WAIT(&told, before + 4);
        CHECK_IS(told_status, NS_ERR_HANDSHAKE);
        CONTAINS(heard, "alert no application protocol");

        fd = client(ns_server_port(server)); /* says nothing, for too long */
        EVENT_WAIT(&told, before + 5);
        CHECK_IS(told_status, NS_ERR_TIMEOUT);
        close(fd);
        check_failures(server, 5);
        CHECK_IS(ns_server_free(server), NS_OK);
    }
}

/* -- reload ----------------------------------------------------------------- */

/* K18: New clients get the new certificate; what cannot be used changes nothing. */
static void reload(void)
{
    for (int i = 0; i < 2; i++) {
        char heard[8192];
        ns_tls *tls = tls_of("server.pem", "server-key.pem"), *next;
        ns_config *config = mode(i);
        ns_error *err;
        ns_server *server;
        command old;
        CHECK_IS(ns_config_set_max_thread(config, 2), NS_OK);
        server = SERVE(with_tls(config, tls), echo, NULL);
        old = start_client(server, "-quiet");
        tell(old, "before\n");
        hear_command(old, "before\n", heard, sizeof heard);

        run_client(server, "-servername localhost", "Q\n", heard, sizeof heard);
        CONTAINS(heard, "subject=CN = localhost\n");

        /* A TLS object that cannot be used leaves everything as it is. */
        next = ns_tls_new();
        CHECK_IS(ns_server_reload_tls(server, next, &err), NS_ERR_CERTIFICATE);
        ERROR_IS(err, NS_ERR_CERTIFICATE, "certificate", "key");
        CHECK_IS(ns_tls_add_cert_file(next, NULL, "second.pem", "server-key.pem", NULL),
                 NS_ERR_CERTIFICATE);
        CHECK_IS(ns_tls_add_cert_file(next, NULL, "second.pem", "second-key.pem", NULL), NS_OK);
        CHECK_IS(ns_server_reload_tls(server, next, &err), NS_ERR_CERTIFICATE);
        ERROR_IS(err, NS_ERR_CERTIFICATE, "server-key.pem", "second.pem");
        ns_tls_free(next);
        CHECK_IS(ns_server_reload_tls(server, NULL, &err), NS_ERR_INVALID);
        ERROR_IS(err, NS_ERR_INVALID, "TLS", "NULL");
        run_client(server, "-servername localhost", "Q\n", heard, sizeof heard);
        CONTAINS(heard, "subject=CN = localhost\n");

        next = tls_of("second.pem", "second-key.pem");
        CHECK_IS(ns_server_reload_tls(server, next, &err), NS_OK);
        CHECK(err == NULL);
        check_frozen(next);
        ns_tls_free(next);
        run_client(server, "-servername localhost", "Q\n", heard, sizeof heard);
        CONTAINS(heard, "subject=CN = second\n");

        tell(old, "after\n"); /* the open session goes on */
        hear_command(old, "after\n", heard, sizeof heard);
        CHECK_IS(kill(old.pid, SIGTERM), 0);
        finish_command(old, heard, sizeof heard);
        CHECK_IS(ns_server_free(server), NS_OK);

        next = tls_of("server.pem", "server-key.pem");
        server = SERVE(mode(i), echo, NULL);
        CHECK_IS(ns_server_reload_tls(server, next, &err), NS_ERR_STATE);
        ERROR_IS(err, NS_ERR_STATE, "without TLS", "");
        CHECK_IS(ns_server_free(server), NS_OK);
        ns_tls_free(next);
    }
}

/* -- detach ----------------------------------------------------------------- */

static event detached = EVENT;
static ns_socket *taken;

static int32_t take_out(ns_server *server, ns_socket *socket, void *user_data)
{
    ns_tls_info info;
    (void)user_data;
    taken = ns_detach(server, socket, NULL);
    CHECK(taken != NULL);
    CHECK_IS(ns_socket_tls_info(socket, &info, sizeof info), NS_ERR_DETACHED);
    CHECK_IS(ns_socket_tls_peer_certificate(socket, NULL, 0), 0);
    CHECK_IS(ns_socket_starttls(socket, NULL, NULL, 0), NS_ERR_DETACHED);
    event_add(&detached);
    return 0;
}

/* K12: A detached session goes on when its server is freed. */
static void detach(void)
{
    char heard[8192], byte, line[16] = "";
    ns_tls_info info;
    ns_server *server =
        SERVE(with_tls(non_blocking(), tls_of("server.pem", "server-key.pem")), take_out, NULL);
    command c = start_client(server, "-quiet -tls1_2 -servername localhost");
    tell(c, "hello\n");
    EVENT_WAIT(&detached, 1);
    CHECK_IS(ns_server_free(server), NS_OK); /* the session does not need it */
    CHECK_IS(ns_socket_tls_info(taken, &info, sizeof info), NS_OK);
    CHECK_IS(info.version, NS_TLS_1_2);
    CHECK_TEXT(info.server_name, "localhost");
    CHECK(ns_socket_release_fd(taken) < 0);
    for (int i = 0; i < 6; i++)
        CHECK_IS(ns_socket_recv(taken, line + i, 1), 1);
    CHECK_TEXT(line, "hello\n");
    tell(c, "again\n");
    CHECK_IS(ns_socket_recv(taken, line, 6), 6);
    CHECK_TEXT(line, "again\n");
    CHECK_IS(ns_socket_send(taken, "bye\n", 4), NS_OK);
    CHECK_IS(ns_socket_shutdown(taken, NS_SHUT_WR), NS_OK);
    close(dup(c.out));
    CHECK_IS(ns_socket_recv(taken, &byte, 1), 0);
    ns_socket_free(taken);
    finish_command(c, heard, sizeof heard);
    CONTAINS(heard, "bye\n");
}

/* A peer that dies without close_notify. */
static event cut = EVENT;

static int32_t until_cut(ns_server *server, ns_socket *socket, void *user_data)
{
    int32_t status = echo(server, socket, user_data);
    if (status == NS_ERR_TRUNCATED)
        event_add(&cut);
    return status;
}

/* K8, X16: A peer that dies without close_notify: no failure of the handler that passes it on. */
static void truncated(void)
{
    for (int i = 0; i < 2; i++) {
        char heard[8192];
        ns_config *config = mode(i);
        ns_server *server =
            SERVE(with_tls(config, tls_of("server.pem", "server-key.pem")), until_cut, NULL);
        command c = start_client(server, "-quiet");
        int before = event_count(&cut);
        ns_stats stats;
        tell(c, "hello\n");
        hear_command(c, "hello", heard, sizeof heard);
        CHECK_IS(kill(c.pid, SIGKILL), 0);
        EVENT_WAIT(&cut, before + 1);
        finish_command(c, heard, sizeof heard);
        CHECK_IS(ns_server_stop(server), NS_OK);
        CHECK_IS(ns_server_stats(server, &stats, sizeof stats), NS_OK);
        CHECK_IS(stats.peer_resets, 1);
        CHECK_IS(stats.handler_errors, 0);
        CHECK_IS(ns_server_free(server), NS_OK);
    }
}

/* -- a broken record ---------------------------------------------------------- */

enum { MARK = 64 << 10, ADDED = 29 }; /* what TLS adds to a record at most */

typedef struct {
    event opened, filled, called;
    ns_conn_id id;
    int64_t first;
} broken;

static int32_t opened(ns_server *server, ns_socket *socket, void *user_data)
{
    broken *b = (broken *)user_data;
    (void)server;
    b->id = ns_socket_id(socket);
    event_add(&b->opened);
    return 0;
}

/* Queues until an alert fits no more below the mark. */
static int32_t fill_up(ns_server *server, ns_socket *socket, void *user_data)
{
    static const char zeros[16 << 10];
    (void)server;
    while (MARK - ns_socket_queued(socket) > ADDED) {
        size_t room = MARK - ns_socket_queued(socket) - ADDED;
        CHECK_IS(ns_socket_send(socket, zeros, room < sizeof zeros ? room : sizeof zeros), NS_OK);
        CHECK_IS(ns_socket_flush(socket), NS_OK);
    }
    event_add(&((broken *)user_data)->filled);
    return 0;
}

static int32_t first_recv(ns_server *server, ns_socket *socket, void *user_data)
{
    broken *b = (broken *)user_data;
    char buf[64];
    (void)server;
    b->first = ns_socket_recv(socket, buf, sizeof buf);
    event_add(&b->called);
    return (int32_t)b->first;
}

/* Passes on what one side has sent; 0: it has ended. */
static int pass_on(int from, int to)
{
    char buf[4096];
    ssize_t n = recv(from, buf, sizeof buf, MSG_DONTWAIT);
    if (n > 0)
        CHECK_IS(send(to, buf, (size_t)n, MSG_NOSIGNAL), n);
    return n != 0;
}

static uint64_t received(const ns_server *server)
{
    ns_stats stats;
    CHECK_IS(ns_server_stats(server, &stats, sizeof stats), NS_OK);
    return stats.bytes_in;
}

/* N5, Q5: Where the alert for a broken record stands above the high-water mark, the handler is called
 * when the queue has shrunk, and its first recv has the failure. */
static void broken_above_the_mark(void)
{
    static const char record[5 + 32] = {23, 3, 3, 0, 32};
    broken b = {EVENT, EVENT, EVENT, 0, 0};
    char text[128], heard[8192];
    struct sockaddr_in address = {0};
    socklen_t length = sizeof address;
    ns_config *config = non_blocking();
    ns_server *server;
    uint64_t before;
    command c;
    int listener = socket(AF_INET, SOCK_STREAM, 0), inner, outer;
    CHECK_IS(ns_config_set_high_water_mark(config, MARK), NS_OK);
    CHECK_IS(ns_config_set_on_open(config, opened, &b, NULL), NS_OK);
    CHECK_IS(ns_config_set_on_wake(config, fill_up, &b, NULL), NS_OK);
    server = SERVE(with_tls(config, tls_of("server.pem", "server-key.pem")), first_recv, &b);
    outer = client(ns_server_port(server));

    /* openssl makes the handshake through this program, which goes on alone. */
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK_IS(bind(listener, (struct sockaddr *)&address, sizeof address), 0);
    CHECK_IS(listen(listener, 1), 0);
    CHECK_IS(getsockname(listener, (struct sockaddr *)&address, &length), 0);
    snprintf(text, sizeof text, "exec openssl s_client -connect 127.0.0.1:%u -quiet 2>&1",
             (unsigned)ntohs(address.sin_port));
    c = start_command(text);
    inner = accept(listener, NULL, NULL);
    CHECK(inner >= 0);
    WAIT_UNTIL(pass_on(inner, outer) && pass_on(outer, inner) && event_count(&b.opened) == 1);

    CHECK_IS(ns_server_wake(server, b.id), NS_OK);
    EVENT_WAIT(&b.filled, 1);
    before = received(server);
    CHECK_IS(send(outer, record, sizeof record, MSG_NOSIGNAL), sizeof record);
    WAIT_UNTIL(received(server) > before);
    while (recv(outer, heard, sizeof heard, 0) > 0)
        ;
    EVENT_WAIT(&b.called, 1);
    CHECK_IS(b.first, NS_ERR_TLS);
    close(listener);
    close(inner);
    close(outer);
    finish_command(c, heard, sizeof heard);
    free_in_time(server);
    CHECK_IS(event_count(&b.called), 1);
}

int main(void)
{
    use_certificates();
    RUN(versions);
    RUN(resumed);
    RUN(names);
    RUN(client_certificates);
    RUN(failed_handshakes);
    RUN(reload);
    RUN(detach);
    RUN(truncated);
    RUN(broken_above_the_mark);
    return 0;
}
