/* The program's own threads: a pending pthread_cancel in every call that is no wait for another
 * thread's code, and calls in the last destructors of a thread. */
#include "tls.h"

static ns_server *server;
static ns_socket *owned;
static event detached = EVENT;

static int32_t detaching(ns_server *s, ns_socket *socket, void *user_data)
{
    char byte;
    (void)user_data;
    if (ns_socket_recv(socket, &byte, 1) == 1) {
        owned = ns_detach(s, socket, NULL);
        event_add(&detached);
    }
    return 0;
}

static ns_socket *detached_from(int fd)
{
    int before = event_count(&detached);
    say(fd, "d");
    EVENT_WAIT(&detached, before + 1);
    return owned;
}

/* -- cancellation ----------------------------------------------------------- */

static int64_t result;
static int returned;
static ns_conn_id id;

static void request_stop(void) { result = ns_server_request_stop(server); }
static void send_by_id(void) { result = ns_server_send(server, id, "x", 1); }
static void wake(void) { result = ns_server_wake(server, id); }
static void broadcast(void) { result = ns_server_broadcast(server, &id, 1, "x", 1) - 1; }
static void close_by_id(void) { result = ns_server_close(server, id); }
static void abort_by_id(void) { result = ns_server_abort(server, id); }
static void stop(void) { result = ns_server_stop(server); }
static void stop_within(void) { result = ns_server_stop_within(server, 100); }
static void wait_stopped(void) { result = ns_server_wait(server, DEADLINE_MS); }
static void free_server(void) { result = ns_server_free(server); }
static void start(void) { result = ns_server_start(server, NS_START_BACKGROUND, NULL); }
static void start_in_foreground(void) { result = ns_server_start(server, 0, NULL); }
static void attach(void) { result = ns_attach(server, owned, NULL) == 0; }
static void free_socket(void) { ns_socket_free(owned), result = 0; }
static void abort_socket(void) { result = ns_socket_abort(owned); }
static void receive(void)
{
    char byte;
    result = ns_socket_recv(owned, &byte, 1) - 1;
}
static void send_bytes(void) { result = ns_socket_send(owned, "x", 1); }
static char much[8 << 20];
static void send_much(void) { result = ns_socket_send(owned, much, sizeof much) - NS_ERR_TIMEOUT; }
static ns_tls *settings;
static void starttls(void) { result = ns_socket_starttls(owned, settings, "x", 1) - NS_ERR_HANDSHAKE; }
static void reload(void) { result = ns_server_reload_tls(server, settings, NULL); }
static void load_certificate(void)
{
    ns_tls *tls = ns_tls_new();
    result = ns_tls_add_cert_file(tls, NULL, "server.pem", "server-key.pem", NULL);
    result += ns_tls_set_client_ca_file(tls, "ca.pem", 1, NULL);
    ns_tls_free(tls);
}
static void make_and_free(void)
{
    ns_config *config = ns_config_new();
    ns_server *made = ns_server_new("127.0.0.1:0", echo, NULL, NULL, config, NULL);
    ns_config_free(config);
    result = ns_server_free(made);
}

static void *cancelled(void *call)
{
    pthread_cancel(pthread_self());
    (*(void (**)(void))call)();
    returned = 1;
    pthread_testcancel();
    fail(__FILE__, __LINE__, "the cancellation is lost");
    return NULL;
}

static void check_cancelled_at(void (*call)(void), int line)
{
    pthread_t thread;
    void *end;
    result = -1;
    returned = 0;
    CHECK_IS(pthread_create(&thread, NULL, cancelled, &call), 0);
    CHECK_IS(pthread_join(thread, &end), 0);
    same(returned, 1, "returned", __FILE__, line);
    same(result, 0, "result", __FILE__, line);
    CHECK(end == PTHREAD_CANCELED);
}

#define CANCELLED(call) check_cancelled_at(call, __LINE__)

static int32_t open_id(ns_server *s, ns_socket *socket, void *user_data)
{
    (void)s, (void)user_data;
    id = ns_socket_id(socket);
    event_add(&detached);
    return 0;
}

static ns_server *made(int non_blocking_mode)
{
    ns_config *config = mode(non_blocking_mode);
    ns_server *one;
    CHECK_IS(ns_config_set_on_open(config, open_id, NULL, NULL), NS_OK);
    one = ns_server_new("127.0.0.1:0", echo, NULL, NULL, config, NULL);
    ns_config_free(config);
    return one;
}

static int connected(void)
{
    int before = event_count(&detached), fd = client(ns_server_port(server));
    EVENT_WAIT(&detached, before + 1);
    return fd;
}

/* A16.1: Calls of a server, and by id. */
static void cancelled_calls(void)
{
    CANCELLED(load_certificate);
    CANCELLED(make_and_free);
    for (int non_blocking_mode = 0; non_blocking_mode < 2; non_blocking_mode++) {
        void (*stops[])(void) = {stop, stop_within, request_stop};
        for (int i = 0; i < 3; i++) {
            int fds[2];
            server = made(non_blocking_mode);
            CANCELLED(start);
            fds[0] = connected();
            if (non_blocking_mode) {
                CANCELLED(send_by_id);
                CANCELLED(broadcast);
                HEAR(fds[0], "xx");
                CANCELLED(wake);
            }
            CANCELLED(close_by_id);
            HEAR_END(fds[0]);
            close(fds[0]);
            fds[1] = connected();
            CANCELLED(abort_by_id);
            CANCELLED(stops[i]);
            CANCELLED(wait_stopped);
            CANCELLED(free_server);
            close(fds[1]);
        }
        server = made(non_blocking_mode);
        CANCELLED(request_stop);
        CANCELLED(start_in_foreground);
        CANCELLED(free_server);
    }
}

/* A16.1: Calls of a socket's owner. */
static void cancelled_owner(void)
{
    int fds[3];
    server = SERVE(non_blocking(), detaching, NULL);
    for (int i = 0; i < 3; i++) {
        fds[i] = client(ns_server_port(server));
        CHECK(detached_from(fds[i]) != NULL);
        CANCELLED(send_bytes);
        HEAR(fds[i], "x");
        say(fds[i], "y");
        CANCELLED(receive);
        if (i == 0)
            CANCELLED(abort_socket);
        CANCELLED(i < 2 ? free_socket : attach);
        owned = NULL;
        close(fds[i]);
    }
    CHECK_IS(ns_server_free(server), NS_OK);
}

/* A16.1: An owned socket is closed in the middle of a call: by its idle timeout, by a failed
 * handshake. */
static void cancelled_ends(void)
{
    void (*ends[])(void) = {send_much, starttls};
    settings = tls_of("server.pem", "server-key.pem");
    for (int i = 0; i < 2; i++) {
        ns_config *config = non_blocking();
        int fd;
        CHECK_IS(ns_config_set_idle_timeout_ms(config, i == 0 ? 200 : 0), NS_OK);
        server = SERVE(config, detaching, NULL);
        fd = client(ns_server_port(server));
        CHECK(detached_from(fd) != NULL);
        if (i == 1)
            say(fd, "no ClientHello");
        CANCELLED(ends[i]);
        CANCELLED(free_socket);
        owned = NULL;
        close(fd);
        CHECK_IS(ns_server_free(server), NS_OK);
    }
    ns_tls_free(settings);
}

/* A16.1: A reload of certificates. */
static void cancelled_reload(void)
{
    for (int non_blocking_mode = 0; non_blocking_mode < 2; non_blocking_mode++) {
        settings = tls_of("server.pem", "server-key.pem");
        server = SERVE(with_tls(mode(non_blocking_mode), settings), echo, NULL);
        settings = tls_of("server.pem", "server-key.pem");
        CANCELLED(reload);
        ns_tls_free(settings);
        CHECK_IS(ns_server_free(server), NS_OK);
    }
}

static event at_work = EVENT, may_end = EVENT;

static int32_t hold_worker(ns_server *s, ns_socket *socket, void *user_data)
{
    (void)s, (void)user_data;
    id = ns_socket_id(socket);
    event_add(&at_work);
    EVENT_WAIT(&may_end, 1);
    return 0;
}

/* A16.1: A connection that waits for a worker is closed by the caller. */
static void cancelled_waiting(void)
{
    void (*ends[])(void) = {close_by_id, abort_by_id};
    ns_config *config = ns_config_new();
    int fds[4], before = event_count(&at_work);
    ns_conn_id first;
    ns_stats stats;
    CHECK_IS(ns_config_set_max_thread(config, 2), NS_OK);
    server = SERVE(config, hold_worker, NULL);
    for (int i = 0; i < 2; i++)
        fds[i] = client(ns_server_port(server));
    EVENT_WAIT(&at_work, before + 2);
    first = id > 2 ? id - 1 : 1;
    for (int i = 0; i < 2; i++) {
        fds[2 + i] = client(ns_server_port(server));
        id = first + 2 + (ns_conn_id)i;
        WAIT_UNTIL(ns_server_stats(server, &stats, sizeof stats) == NS_OK && stats.waiting == 1);
        CANCELLED(ends[i]);
        WAIT_UNTIL(ns_server_stats(server, &stats, sizeof stats) == NS_OK && stats.waiting == 0);
    }
    event_add(&may_end);
    CHECK_IS(ns_server_free(server), NS_OK);
    for (int i = 0; i < 4; i++)
        close(fds[i]);
}

/* -- the last destructors of a thread ---------------------------------------- */

static pthread_key_t key;
static ns_server *earlier;
static int64_t received, sent;
static ns_status started, stopped;

static int32_t stop_from_within(ns_server *s, void *user_data)
{
    (void)user_data;
    /* Only a request, as in any other callback. */
    return ns_server_stop(s);
}

/* Runs when the library's own storage of the thread is gone. */
static void destructor(void *call) { (*(void (**)(void))call)(); }

static void talk(void)
{
    char buf[8];
    received = ns_socket_recv(owned, buf, 3);
    sent = ns_socket_send(owned, "bye", 3);
}

static void serve_at_last(void)
{
    started = ns_server_start(server, 0, NULL);
    stopped = ns_server_stop(server);
}

static void *with_destructor(void *call)
{
    char buf[8];
    if (owned != NULL)
        CHECK_IS(ns_socket_recv(owned, buf, 3), 3);
    /* Rust's standard library keeps storage for a thread that starts threads; what it makes first
     * in the last destructors it never frees. */
    if (earlier != NULL)
        CHECK_IS(ns_server_start(earlier, 0, NULL), NS_OK);
    pthread_setspecific(key, call);
    return NULL;
}

/* A16.2: A detached socket is used in a thread's last destructor. */
static void last_words(void)
{
    void (*call)(void) = talk;
    char heard[4096];
    pthread_key_create(&key, destructor);
    for (int tls = 0; tls < 2; tls++) {
        ns_config *config = non_blocking();
        int fd = -1;
        command openssl = {0, -1, -1};
        pthread_t thread;
        ns_config_set_io_timeout_ms(config, DEADLINE_MS);
        if (tls)
            with_tls(config, tls_of("server.pem", "server-key.pem"));
        server = SERVE(config, detaching, NULL);
        if (tls) {
            int before = event_count(&detached);
            openssl = start_client(server, "-quiet -no_ign_eof");
            tell(openssl, "d");
            EVENT_WAIT(&detached, before + 1);
            tell(openssl, "onetwo");
        } else {
            fd = client(ns_server_port(server));
            CHECK(detached_from(fd) != NULL);
            say(fd, "onetwo");
        }
        CHECK_IS(pthread_create(&thread, NULL, with_destructor, &call), 0);
        CHECK_IS(pthread_join(thread, NULL), 0);
        CHECK_IS(received, 3);
        CHECK_IS(sent, NS_OK);
        CHECK_IS(ns_socket_close(owned), NS_OK);
        if (tls) {
            finish_command(openssl, heard, sizeof heard);
            CONTAINS(heard, "bye");
        } else {
            HEAR(fd, "bye");
            HEAR_END(fd);
            close(fd);
        }
        ns_socket_free(owned);
        owned = NULL;
        CHECK_IS(ns_server_free(server), NS_OK);
    }
    pthread_key_delete(key);
}

/* A16.2: A server runs in a thread's last destructor. */
static void last_server(void)
{
    void (*call)(void) = serve_at_last;
    pthread_key_create(&key, destructor);
    for (int non_blocking_mode = 0; non_blocking_mode < 2; non_blocking_mode++) {
        ns_config *config = mode(non_blocking_mode);
        pthread_t thread;
        CHECK_IS(ns_config_set_on_start(config, stop_from_within, NULL, NULL), NS_OK);
        server = ns_server_new("127.0.0.1:0", echo, NULL, NULL, config, NULL);
        earlier = ns_server_new("127.0.0.1:0", echo, NULL, NULL, config, NULL);
        ns_config_free(config);
        started = stopped = -1;
        CHECK_IS(pthread_create(&thread, NULL, with_destructor, &call), 0);
        CHECK_IS(pthread_join(thread, NULL), 0);
        CHECK_IS(started, NS_OK);
        CHECK_IS(stopped, NS_OK);
        CHECK_IS(ns_server_free(server), NS_OK);
        CHECK_IS(ns_server_free(earlier), NS_OK);
    }
    pthread_key_delete(key);
}

int main(void)
{
    use_certificates();
    RUN(cancelled_calls);
    RUN(cancelled_owner);
    RUN(cancelled_ends);
    RUN(cancelled_reload);
    RUN(cancelled_waiting);
    RUN(last_words);
    RUN(last_server);
    return 0;
}
