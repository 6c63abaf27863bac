/* NULL, bad UTF-8, absurd numbers, unknown flags and wrong sizes are errors. */
#include "check.h"

#define BAD_UTF8 "\xff\xfe"

static event dropped = EVENT;

static void drop(void *user_data)
{
    (void)user_data;
    event_add(&dropped);
}

/* F1: The library, the header and their features agree. */
static void version(void)
{
    CHECK_IS(ns_version_number(), NS_VERSION_NUMBER);
    CHECK_TEXT(ns_version_string(), NS_VERSION_STRING);
    CHECK_IS(ns_has_feature("non-blocking"), 1);
    CHECK_IS(ns_has_feature("tls"), 1);
    CHECK_IS(ns_has_feature("services"), 1);
    CHECK_IS(ns_has_feature("unix"), 1);
    CHECK_IS(ns_has_feature("systemd"), 1);
    CHECK_IS(ns_has_feature("logger"), 1);
    CHECK_IS(ns_has_feature("limits"), 1);
    CHECK_IS(ns_has_feature("proxy"), 1);
    CHECK_IS(ns_has_feature("quiesce"), 1);
    CHECK_IS(ns_has_feature("ticket-keys"), 1);
    CHECK_IS(ns_has_feature("nonsense"), 0);
    CHECK_IS(ns_has_feature(BAD_UTF8), 0);
    CHECK_IS(ns_has_feature(NULL), 0);
}

/* E1: Each status and each reason has a name and a text; other numbers have none. */
static void names(void)
{
    CHECK_TEXT(ns_status_name(NS_OK), "NS_OK");
    CHECK_TEXT(ns_status_name(NS_ERR_NOT_NON_BLOCKING), "NS_ERR_NOT_NON_BLOCKING");
    CHECK_TEXT(ns_status_name(1), "NS_ERR_UNKNOWN");
    CHECK_TEXT(ns_status_name(INT32_MIN), "NS_ERR_UNKNOWN");
    CHECK(strlen(ns_status_message(NS_ERR_CLOSED)) > 0);
    CHECK_TEXT(ns_status_message(-1), "unknown status");
    CHECK_TEXT(ns_close_reason_name(NS_CLOSE_PEER), "peer");
    CHECK_TEXT(ns_close_reason_name(0), "unknown");
    CHECK_TEXT(ns_close_reason_name(-1), "unknown");
    CHECK_TEXT(ns_close_reason_name(INT32_MAX), "unknown");
}

/* E5: Every function of an error takes NULL. */
static void null_error(void)
{
    CHECK_IS(ns_error_status(NULL), NS_OK);
    CHECK_IS(ns_error_os_code(NULL), 0);
    CHECK_IS(ns_error_handler_code(NULL), 0);
    CHECK_TEXT(ns_error_message(NULL), "");
    CHECK(ns_error_payload(NULL) == NULL);
    ns_error_free(NULL);
}

/* A setter's bounds, its getter, and NULL. */
#define SETTING(name, good, bad)                                     \
    do {                                                             \
        ns_config *config_ = ns_config_new();                        \
        CHECK_IS(ns_config_set_##name(config_, good), NS_OK);        \
        CHECK_IS(ns_config_##name(config_), good);                   \
        CHECK_IS(ns_config_set_##name(config_, bad), NS_ERR_INVALID);\
        CHECK_IS(ns_config_##name(config_), good);                   \
        CHECK_IS(ns_config_set_##name(NULL, good), NS_ERR_INVALID);  \
        CHECK_IS(ns_config_##name(NULL), 0);                         \
        ns_config_free(config_);                                     \
    } while (0)

/* A setter that takes any number, its getter, and NULL. */
#define UNBOUNDED(name, largest)                                       \
    do {                                                               \
        ns_config *config_ = ns_config_new();                          \
        CHECK_IS(ns_config_set_##name(config_, largest), NS_OK);       \
        CHECK(ns_config_##name(config_) == (largest));                 \
        CHECK_IS(ns_config_set_##name(NULL, largest), NS_ERR_INVALID); \
        CHECK(ns_config_##name(NULL) == 0);                            \
        ns_config_free(config_);                                       \
    } while (0)

/* A20.1: Each setting has bounds, and keeps its value where a setter refuses another. */
static void settings(void)
{
    ns_config *config = ns_config_new();

    SETTING(max_thread, 4096, 0);
    SETTING(max_thread, 1, 4097);
    SETTING(max_retry, 0, 1000001);
    SETTING(retry_interval_ms, 0, UINT32_MAX);
    SETTING(backlog, 65535, 0);
    SETTING(backlog, 1, 65536);
    SETTING(handshake_timeout_ms, 1, UINT32_MAX);
    SETTING(idle_timeout_ms, INT32_MAX, UINT32_MAX);
    SETTING(io_timeout_ms, 0, UINT32_MAX);
    SETTING(write_timeout_ms, 0, UINT32_MAX);
    SETTING(linger_timeout_ms, 0, UINT32_MAX);
    SETTING(drain_timeout_ms, 0, UINT32_MAX);
    SETTING(keep_alive_ms, 0, UINT32_MAX);
    SETTING(non_blocking, 1, -1);
    SETTING(use_ipv6, 1, 2);
    SETTING(reuse_port, 1, 2);
    SETTING(unix_mode, 0777, 01000);
    SETTING(stack_size, 131072, 131071);
    SETTING(stack_size, 131072, ((size_t)1 << 30) + 1);
    SETTING(no_delay, 1, INT32_MIN);
    SETTING(high_water_mark, 1, 0);
    SETTING(high_water_mark, 1, SIZE_MAX);
    SETTING(low_water_mark, 0, SIZE_MAX);
    SETTING(send_limit, 1, 0);
    SETTING(send_limit, 1, SIZE_MAX);
    SETTING(ipv4_prefix, 1, 33);
    SETTING(ipv4_prefix, 32, 0);
    SETTING(ipv6_prefix, 1, 129);
    SETTING(ipv6_prefix, 128, 0);

    UNBOUNDED(max_waiting, UINT32_MAX);
    UNBOUNDED(max_connections, UINT32_MAX);
    UNBOUNDED(max_per_address, UINT32_MAX);
    UNBOUNDED(accept_rate_per_address, UINT32_MAX);
    UNBOUNDED(accept_burst_per_address, UINT32_MAX);
    UNBOUNDED(send_limit_total, SIZE_MAX);

    CHECK_TEXT(ns_config_thread_name(config), "ns");
    CHECK_IS(ns_config_set_thread_name(config, "nine-long"), NS_OK);
    CHECK_IS(ns_config_set_thread_name(config, "ten-longer"), NS_ERR_INVALID);
    CHECK_IS(ns_config_set_thread_name(config, ""), NS_ERR_INVALID);
    CHECK_IS(ns_config_set_thread_name(config, BAD_UTF8), NS_ERR_INVALID);
    CHECK_IS(ns_config_set_thread_name(config, NULL), NS_ERR_INVALID);
    CHECK_TEXT(ns_config_thread_name(config), "nine-long");
    CHECK_IS(ns_config_set_thread_name(NULL, "x"), NS_ERR_INVALID);
    CHECK(ns_config_thread_name(NULL) == NULL);

    CHECK(ns_config_shutdown_port(config) == NULL);
    CHECK_IS(ns_config_set_shutdown_port(config, "127.0.0.1:0"), NS_OK);
    CHECK_TEXT(ns_config_shutdown_port(config), "127.0.0.1:0");
    CHECK_IS(ns_config_set_shutdown_port(config, BAD_UTF8), NS_ERR_INVALID);
    CHECK_TEXT(ns_config_shutdown_port(config), "127.0.0.1:0");
    CHECK_IS(ns_config_set_shutdown_port(config, NULL), NS_OK);
    CHECK(ns_config_shutdown_port(config) == NULL);
    CHECK_IS(ns_config_set_shutdown_port(NULL, "0"), NS_ERR_INVALID);
    CHECK(ns_config_shutdown_port(NULL) == NULL);

    ns_config_free(config);
    ns_config_free(NULL);
}

/* O1: The defaults, by the getters. */
static void defaults(void)
{
    ns_server *server = ns_server_new(NULL, echo, NULL, NULL, NULL, NULL);
    const ns_config *config = ns_server_config(server);
    CHECK_IS(ns_config_max_thread(config), 1);
    CHECK_IS(ns_config_max_retry(config), 10);
    CHECK_IS(ns_config_retry_interval_ms(config), 500);
    CHECK_IS(ns_config_max_waiting(config), 1024);
    CHECK_IS(ns_config_non_blocking(config), 0);
    CHECK_IS(ns_config_use_ipv6(config), 0);
    CHECK_IS(ns_config_max_connections(config), 0);
    CHECK_IS(ns_config_max_per_address(config), 0);
    CHECK_IS(ns_config_accept_rate_per_address(config), 0);
    CHECK_IS(ns_config_accept_burst_per_address(config), 0);
    CHECK_IS(ns_config_ipv4_prefix(config), 32);
    CHECK_IS(ns_config_ipv6_prefix(config), 64);
    CHECK_IS(ns_config_send_limit_total(config), 0);
    CHECK_IS(ns_config_backlog(config), 4096);
    CHECK_IS(ns_config_max_handshakes(config), 1024);
    CHECK_IS(ns_config_handshake_timeout_ms(config), 10000);
    CHECK_IS(ns_config_idle_timeout_ms(config), 0);
    CHECK_IS(ns_config_io_timeout_ms(config), 0);
    CHECK_IS(ns_config_write_timeout_ms(config), 30000);
    CHECK_IS(ns_config_linger_timeout_ms(config), 1000);
    CHECK_IS(ns_config_drain_timeout_ms(config), 5000);
    CHECK_IS(ns_config_keep_alive_ms(config), 60000);
    CHECK_IS(ns_config_no_delay(config), 1);
    CHECK_IS(ns_config_high_water_mark(config), 256 << 10);
    CHECK_IS(ns_config_low_water_mark(config), 0);
    CHECK_IS(ns_config_send_limit(config), 16 << 20);
    CHECK(ns_config_shutdown_port(config) == NULL);
    CHECK_IS(ns_server_free(server), NS_OK);
}

/* O3: The first bad setter is reported by ns_server_new, in a sentence. */
static void unchecked_setters(void)
{
    ns_config *config = ns_config_new();
    ns_error *err;
    ns_config_set_max_thread(config, 0);
    ns_config_set_backlog(config, 0);
    ns_config_set_max_thread(config, 2);
    CHECK(ns_server_new("0", echo, NULL, NULL, config, &err) == NULL);
    CHECK_IS(ns_error_status(err), NS_ERR_INVALID);
    CHECK(strstr(ns_error_message(err), "max_thread") != NULL);
    ns_error_free(err);
    ns_config_free(config);

    config = ns_config_new();
    ns_config_set_use_ipv6(config, 7);
    CHECK(ns_server_new("0", echo, NULL, NULL, config, &err) == NULL);
    CHECK(strstr(ns_error_message(err), "use_ipv6") != NULL);
    ns_error_free(err);
    ns_config_free(config);

    /* Settings that are only wrong together are seen there too, whatever the order. */
    config = ns_config_new();
    CHECK_IS(ns_config_set_send_limit(config, 1000), NS_OK);
    CHECK(ns_server_new("0", echo, NULL, NULL, config, &err) == NULL);
    CHECK_IS(ns_error_status(err), NS_ERR_INVALID);
    ns_error_free(err);
    CHECK_IS(ns_config_set_high_water_mark(config, 1000), NS_OK);
    CHECK_IS(ns_server_free(ns_server_new("0", echo, NULL, NULL, config, NULL)), NS_OK);
    ns_config_free(config);
}

/* O4: A config is frozen while a server uses it. */
static void frozen_config(void)
{
    ns_config *config = ns_config_new();
    ns_server *server = ns_server_new("0", echo, NULL, NULL, config, NULL);
    CHECK(ns_server_config(server) == config);
    CHECK_IS(ns_config_set_max_thread(config, 2), NS_ERR_STATE);
    CHECK_IS(ns_config_set_shutdown_port(config, "0"), NS_ERR_STATE);
    CHECK_IS(ns_config_set_on_start(config, NULL, NULL, NULL), NS_ERR_STATE);
    CHECK_IS(ns_config_max_thread(config), 1);
    CHECK_IS(ns_server_free(server), NS_OK);
    CHECK_IS(ns_config_set_max_thread(config, 2), NS_OK);
    ns_config_free(config);
}

/* One server cannot be made of this; the user data goes all the same. */
#define REFUSED(service, handler, config, status)                                  \
    do {                                                                           \
        ns_error *err_ = NULL;                                                     \
        int before_ = event_count(&dropped);                                       \
        CHECK(ns_server_new(service, handler, NULL, drop, config, &err_) == NULL); \
        CHECK_IS(ns_error_status(err_), status);                                   \
        CHECK(strlen(ns_error_message(err_)) > 0);                                 \
        CHECK_IS(event_count(&dropped), before_ + 1);                              \
        ns_error_free(err_);                                                       \
        CHECK(ns_server_new(service, handler, NULL, drop, config, NULL) == NULL);  \
        CHECK_IS(event_count(&dropped), before_ + 2);                              \
    } while (0)

/* L1, E5: What no server can be made of; the user data is dropped all the same. */
static void new_server(void)
{
    ns_error *err = (ns_error *)&dropped;
    ns_server *server = ns_server_new("0", echo, NULL, NULL, NULL, &err);
    CHECK(server != NULL);
    CHECK(err == NULL);
    CHECK_IS(ns_server_free(server), NS_OK);

    REFUSED("0", NULL, NULL, NS_ERR_INVALID);
    REFUSED(BAD_UTF8, echo, NULL, NS_ERR_INVALID);
}

/* E5: Every function of a server takes NULL. */
static void null_server(void)
{
    char text[8] = "former";
    ns_stats stats;
    ns_thread_stats thread;
    ns_conn_id id = 1;
    ns_error *err = NULL;
    int before = event_count(&dropped);

    CHECK_IS(ns_server_start(NULL, 0, NULL), NS_ERR_INVALID);
    CHECK_IS(ns_server_start(NULL, 0, &err), NS_ERR_INVALID);
    CHECK_IS(ns_error_status(err), NS_ERR_INVALID);
    ns_error_free(err);
    CHECK_IS(ns_server_stop(NULL), NS_ERR_INVALID);
    CHECK_IS(ns_server_stop_within(NULL, 0), NS_ERR_INVALID);
    CHECK_IS(ns_server_request_stop(NULL), NS_ERR_INVALID);
    CHECK_IS(ns_server_wait(NULL, 0), NS_ERR_INVALID);
    CHECK_IS(ns_server_quiesce(NULL), NS_ERR_INVALID);
    CHECK_IS(ns_server_request_quiesce(NULL), NS_ERR_INVALID);
    CHECK_IS(ns_server_wait_idle(NULL, 0), NS_ERR_INVALID);
    CHECK_IS(ns_server_is_ready(NULL), 0);
    CHECK_IS(ns_server_listener_fd(NULL, 0), NS_ERR_INVALID);
    CHECK_IS(ns_server_free(NULL), NS_OK);
    CHECK_IS(ns_server_is_stopped(NULL), 1);
    CHECK_IS(ns_server_state(NULL), NS_STATE_NEW);
    CHECK_IS(ns_server_port(NULL), 0);
    CHECK_IS(ns_server_shutdown_port(NULL), 0);
    CHECK_IS(ns_server_address(NULL, text, sizeof text), 0);
    CHECK_TEXT(text, "");
    CHECK(ns_server_config(NULL) == NULL);
    CHECK(ns_server_context(NULL) == NULL);
    CHECK_IS(ns_server_set_context(NULL, text, drop), NS_ERR_INVALID);
    CHECK_IS(event_count(&dropped), before + 1);
    CHECK_IS(ns_server_stats(NULL, &stats, sizeof stats), NS_ERR_INVALID);
    CHECK_IS(ns_server_thread_stats(NULL, 0, &thread, sizeof thread), NS_ERR_INVALID);
    CHECK_IS(ns_server_report(NULL, text, sizeof text), 0);
    CHECK_IS(ns_server_send(NULL, 1, "x", 1), NS_ERR_INVALID);
    CHECK_IS(ns_server_close(NULL, 1), NS_ERR_INVALID);
    CHECK_IS(ns_server_abort(NULL, 1), NS_ERR_INVALID);
    CHECK_IS(ns_server_wake(NULL, 1), NS_ERR_INVALID);
    CHECK_IS(ns_server_broadcast(NULL, &id, 1, "x", 1), NS_ERR_INVALID);
    CHECK_IS(ns_server_foreach(NULL, NULL, NULL), NS_ERR_INVALID);
}

/* G1, E5: A config that is NULL drops the user data of the callback. */
static void null_callbacks(void)
{
    int before = event_count(&dropped);
    CHECK_IS(ns_config_set_shutdown_handler(NULL, NULL, NULL, drop), NS_ERR_INVALID);
    CHECK_IS(ns_config_set_exception_handler(NULL, NULL, NULL, drop), NS_ERR_INVALID);
    CHECK_IS(ns_config_set_on_start(NULL, NULL, NULL, drop), NS_ERR_INVALID);
    CHECK_IS(ns_config_set_on_stop(NULL, NULL, NULL, drop), NS_ERR_INVALID);
    CHECK_IS(ns_config_set_on_quiesce(NULL, NULL, NULL, drop), NS_ERR_INVALID);
    CHECK_IS(ns_config_set_on_open(NULL, NULL, NULL, drop), NS_ERR_INVALID);
    CHECK_IS(ns_config_set_on_close(NULL, NULL, NULL, drop), NS_ERR_INVALID);
    CHECK_IS(ns_config_set_on_drain(NULL, NULL, NULL, drop), NS_ERR_INVALID);
    CHECK_IS(ns_config_set_on_timeout(NULL, NULL, NULL, drop), NS_ERR_INVALID);
    CHECK_IS(ns_config_set_on_wake(NULL, NULL, NULL, drop), NS_ERR_INVALID);
    CHECK_IS(event_count(&dropped), before + 10);
}

/* E5, E9: Every function of a socket takes NULL. */
static void null_socket(void)
{
    char text[8] = "former";
    const void *buf = text;
    size_t len = 1;
    ns_error *err = NULL;
    int before = event_count(&dropped);

    CHECK_IS(ns_socket_recv(NULL, text, 1), NS_ERR_INVALID);
    CHECK_IS(ns_socket_send(NULL, text, 1), NS_ERR_INVALID);
    CHECK_IS(ns_socket_sendv(NULL, &buf, &len, 1), NS_ERR_INVALID);
    CHECK_IS(ns_socket_sendfile(NULL, 0, 0, 1), NS_ERR_INVALID);
    CHECK_IS(ns_socket_shutdown(NULL, NS_SHUT_WR), NS_ERR_INVALID);
    CHECK_IS(ns_socket_close(NULL), NS_ERR_INVALID);
    CHECK_IS(ns_socket_abort(NULL), NS_ERR_INVALID);
    CHECK_IS(ns_socket_is_closed(NULL), 1);
    CHECK_IS(ns_socket_id(NULL), 0);
    CHECK_IS(ns_socket_fd(NULL), -1);
    CHECK_IS(ns_socket_peer(NULL, text, sizeof text), 0);
    CHECK_TEXT(text, "");
    CHECK_IS(ns_socket_local(NULL, NULL, 0), 0);
    CHECK_IS(ns_socket_peer_addr(NULL, text, sizeof text), 0);
    CHECK_IS(ns_socket_local_addr(NULL, NULL, 0), 0);
    CHECK_IS(ns_socket_queued(NULL), 0);
    CHECK_IS(ns_socket_os_error(NULL), 0);
    CHECK_IS(ns_socket_set_timer_ms(NULL, 1), NS_ERR_INVALID);
    CHECK_IS(ns_socket_set_io_timeout_ms(NULL, 1), NS_ERR_INVALID);
    CHECK_IS(ns_socket_pause(NULL), NS_ERR_INVALID);
    CHECK_IS(ns_socket_resume(NULL), NS_ERR_INVALID);
    CHECK(ns_socket_user_data(NULL) == NULL);
    CHECK_IS(ns_socket_set_user_data(NULL, text, drop), NS_ERR_INVALID);
    CHECK_IS(event_count(&dropped), before + 1);
    ns_socket_free(NULL);
    CHECK_IS(ns_socket_release_fd(NULL), NS_ERR_INVALID);
    CHECK(ns_detach(NULL, NULL, NULL) == NULL);
    CHECK(ns_detach(NULL, NULL, &err) == NULL);
    CHECK_IS(ns_error_status(err), NS_ERR_INVALID);
    ns_error_free(err);
    CHECK_IS(ns_attach(NULL, NULL, &err), 0);
    CHECK_IS(ns_error_status(err), NS_ERR_INVALID);
    ns_error_free(err);

    CHECK_IS(ns_raise(NULL, -5, "why"), -5);
    CHECK_IS(ns_raise(NULL, 0, NULL), -1);
    CHECK_IS(ns_raise(NULL, INT32_MAX, BAD_UTF8), -1);
    CHECK_IS(ns_raise_with(NULL, -5, NULL, text, drop), -5);
    CHECK_IS(event_count(&dropped), before + 2);
}

/* F5: Addresses as getpeername(2) has them. */
static void structures(ns_socket *socket, int port)
{
    struct sockaddr_in of_kernel, peer, local;
    socklen_t size = sizeof of_kernel;
    CHECK_IS(getpeername(ns_socket_fd(socket), (struct sockaddr *)&of_kernel, &size), 0);
    CHECK_IS(ns_socket_peer_addr(socket, NULL, 0), sizeof peer);
    CHECK_IS(ns_socket_peer_addr(socket, &peer, sizeof peer), sizeof peer);
    CHECK_IS(peer.sin_family, AF_INET);
    CHECK_IS(peer.sin_port, of_kernel.sin_port);
    CHECK_IS(memcmp(&peer.sin_addr, &of_kernel.sin_addr, sizeof peer.sin_addr), 0);
    memset(&peer, 0xff, sizeof peer);
    CHECK_IS(ns_socket_peer_addr(socket, &peer, sizeof peer.sin_family), sizeof peer);
    CHECK_IS(peer.sin_family, AF_INET);
    CHECK_IS(peer.sin_port, 0xffff);
    CHECK_IS(ns_socket_local_addr(socket, &local, sizeof local), sizeof local);
    CHECK_IS(ntohs(local.sin_port), port);
}

/* Called in a handler: what is wrong with the arguments alone. */
static int32_t nonsense(ns_server *server, ns_socket *socket, void *user_data)
{
    char text[64] = "";
    const void *bufs[2] = {text, NULL};
    size_t lens[2] = {1, 1};
    ns_error *err = NULL;
    size_t length;
    char byte;

    CHECK_IS(ns_socket_recv(socket, NULL, 1), NS_ERR_INVALID);
    CHECK_IS(ns_socket_recv(socket, text, 0), NS_ERR_INVALID);
    CHECK_IS(ns_socket_recv(socket, text, SIZE_MAX), NS_ERR_INVALID);
    CHECK_IS(ns_socket_send(socket, NULL, 1), NS_ERR_INVALID);
    CHECK_IS(ns_socket_send(socket, text, SIZE_MAX), NS_ERR_INVALID);
    CHECK_IS(ns_socket_send(socket, NULL, 0), NS_OK);
    CHECK_IS(ns_socket_sendv(socket, NULL, lens, 1), NS_ERR_INVALID);
    CHECK_IS(ns_socket_sendv(socket, bufs, NULL, 1), NS_ERR_INVALID);
    CHECK_IS(ns_socket_sendv(socket, bufs, lens, 2), NS_ERR_INVALID);
    CHECK_IS(ns_socket_sendv(socket, bufs, lens, SIZE_MAX), NS_ERR_INVALID);
    CHECK_IS(ns_socket_sendv(socket, NULL, NULL, 0), NS_OK);
    CHECK_IS(ns_socket_sendfile(socket, -1, 0, 1), NS_ERR_INVALID);
    CHECK_IS(ns_socket_sendfile(socket, INT32_MAX, 0, 1), NS_ERR_IO);
    CHECK_IS(ns_socket_sendfile(socket, INT32_MAX, UINT64_MAX, 1), NS_ERR_INVALID);
    CHECK_IS(ns_socket_sendfile(socket, INT32_MAX, 0, 0), 0);
    CHECK_IS(ns_socket_shutdown(socket, 3), NS_ERR_INVALID);
    CHECK_IS(ns_socket_shutdown(socket, -1), NS_ERR_INVALID);
    CHECK(ns_socket_set_timer_ms(socket, UINT32_MAX) < 0);
    CHECK(ns_socket_set_io_timeout_ms(socket, UINT32_MAX) < 0);

    /* Borrowed sockets stay the library's. */
    ns_socket_free(socket);
    CHECK_IS(ns_socket_release_fd(socket), NS_ERR_INVALID);
    CHECK_IS(ns_attach(server, socket, &err), 0);
    CHECK_IS(ns_error_status(err), NS_ERR_INVALID);
    ns_error_free(err);
    CHECK_IS(ns_socket_is_closed(socket), 0);
    CHECK(ns_socket_fd(socket) >= 0);
    CHECK_IS(ns_socket_os_error(socket), 0);
    CHECK(ns_socket_user_data(socket) == NULL);

    /* As snprintf. */
    length = ns_socket_peer(socket, NULL, 0);
    CHECK(length > strlen("127.0.0.1:"));
    CHECK_IS(ns_socket_peer(socket, NULL, 10), length);
    CHECK_IS(ns_socket_peer(socket, text, 4), length);
    CHECK_TEXT(text, "127");
    CHECK_IS(ns_socket_peer(socket, text, sizeof text), length);
    CHECK_IS(strlen(text), length);
    CHECK_IS(strncmp(text, "127.0.0.1:", 10), 0);
    ns_socket_local(socket, text, sizeof text);
    CHECK_IS(atoi(text + 10), ns_server_port(server));

    structures(socket, ns_server_port(server));

    event_add(user_data);
    while (ns_socket_recv(socket, &byte, 1) > 0)
        ;
    ns_socket_close(socket);
    return 0;
}

static void nonsense_in(ns_config *config)
{
    event served = EVENT;
    ns_server *server = SERVE(config, nonsense, &served);
    int fd = client(ns_server_port(server));
    say(fd, "x");
    EVENT_WAIT(&served, 1);
    close(fd);
    CHECK_IS(ns_server_free(server), NS_OK);
}

/* E7, E9, F4: Arguments that a worker's socket refuses, and text in buffers of any size. */
static void nonsense_blocking(void)
{
    nonsense_in(NULL);
}

/* E7, E9, F4: The same on a loop. */
static void nonsense_non_blocking(void)
{
    nonsense_in(non_blocking());
}

static int32_t never_called(ns_conn_id id, void *user_data)
{
    (void)id, (void)user_data;
    fail(__FILE__, __LINE__, "called");
    return 1;
}

/* E7: What a living server refuses. */
static void nonsense_calls(void)
{
    ns_server *server = ns_server_new("127.0.0.1:0", echo, NULL, NULL, NULL, NULL);
    ns_conn_id ids[2] = {0, 77};
    ns_stats stats;
    ns_thread_stats thread;
    ns_error *err = NULL;
    char text[8];

    CHECK_IS(ns_server_start(server, 2, &err), NS_ERR_INVALID);
    CHECK_IS(ns_error_status(err), NS_ERR_INVALID);
    ns_error_free(err);
    CHECK_IS(ns_server_start(server, UINT32_MAX, NULL), NS_ERR_INVALID);
    CHECK_IS(ns_server_state(server), NS_STATE_NEW);
    CHECK_IS(ns_server_address(server, text, sizeof text), 0);
    CHECK_IS(ns_server_start(server, NS_START_BACKGROUND, &err), NS_OK);
    CHECK(err == NULL);
    CHECK_IS(ns_server_start(server, NS_START_BACKGROUND, &err), NS_ERR_STATE);
    ns_error_free(err);
    CHECK_IS(ns_server_stop_within(server, -1), NS_ERR_INVALID);
    CHECK_IS(ns_server_stop_within(server, INT64_MAX), NS_ERR_INVALID);
    CHECK_IS(ns_server_wait(server, -2), NS_ERR_INVALID);
    CHECK_IS(ns_server_wait(server, INT64_MIN), NS_ERR_INVALID);
    CHECK_IS(ns_server_wait(server, 0), NS_ERR_TIMEOUT);
    CHECK_IS(ns_server_wait_idle(server, -2), NS_ERR_INVALID);
    CHECK_IS(ns_server_wait_idle(server, INT64_MIN), NS_ERR_INVALID);

    CHECK_IS(ns_server_stats(server, NULL, sizeof stats), NS_ERR_INVALID);
    CHECK_IS(ns_server_stats(server, &stats, 0), NS_ERR_INVALID);
    CHECK_IS(ns_server_stats(server, &stats, 7), NS_ERR_INVALID);
    CHECK_IS(ns_server_stats(server, &stats, SIZE_MAX), NS_ERR_INVALID);
    CHECK_IS(ns_server_thread_stats(server, 1, &thread, sizeof thread), NS_ERR_INVALID);
    CHECK_IS(ns_server_thread_stats(server, UINT32_MAX, &thread, sizeof thread), NS_ERR_INVALID);
    CHECK_IS(ns_server_thread_stats(server, 0, NULL, sizeof thread), NS_ERR_INVALID);
    CHECK_IS(ns_server_thread_stats(server, 0, &thread, sizeof thread), NS_OK);

    CHECK_IS(ns_server_foreach(server, never_called, NULL), NS_ERR_NOT_NON_BLOCKING);
    CHECK(ns_server_send(server, 77, "x", 1) < 0);
    CHECK(ns_server_broadcast(server, ids, 2, "x", 1) < 0);
    CHECK(ns_server_wake(server, 77) < 0);
    CHECK_IS(ns_server_close(server, 0), NS_ERR_CLOSED);
    CHECK_IS(ns_server_close(server, 77), NS_ERR_CLOSED);
    CHECK_IS(ns_server_abort(server, UINT64_MAX), NS_ERR_CLOSED);
    CHECK_IS(ns_server_free(server), NS_OK);

    server = SERVE(non_blocking(), echo, NULL);
    CHECK_IS(ns_server_foreach(server, NULL, NULL), NS_ERR_INVALID);
    CHECK_IS(ns_server_foreach(server, never_called, NULL), 0);
    CHECK_IS(ns_server_send(server, 0, "x", 1), NS_ERR_CLOSED);
    CHECK_IS(ns_server_send(server, 77, "x", 1), NS_ERR_CLOSED);
    CHECK_IS(ns_server_send(server, UINT64_MAX, NULL, 1), NS_ERR_INVALID);
    CHECK_IS(ns_server_wake(server, 77), NS_ERR_CLOSED);
    CHECK_IS(ns_server_broadcast(server, ids, 2, "x", 1), 0);
    CHECK_IS(ns_server_broadcast(server, NULL, 0, NULL, 0), 0);
    CHECK_IS(ns_server_broadcast(server, NULL, 2, "x", 1), NS_ERR_INVALID);
    CHECK_IS(ns_server_broadcast(server, ids, SIZE_MAX, "x", 1), NS_ERR_INVALID);
    CHECK_IS(ns_server_broadcast(server, ids, 2, NULL, 1), NS_ERR_INVALID);
    CHECK_IS(ns_server_free(server), NS_OK);
}

int main(void)
{
    RUN(version);
    RUN(names);
    RUN(null_error);
    RUN(settings);
    RUN(defaults);
    RUN(unchecked_setters);
    RUN(frozen_config);
    RUN(new_server);
    RUN(null_server);
    RUN(null_callbacks);
    RUN(null_socket);
    RUN(nonsense_blocking);
    RUN(nonsense_non_blocking);
    RUN(nonsense_calls);
    return 0;
}
