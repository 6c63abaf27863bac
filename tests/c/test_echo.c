/* The echo server of the documentation, in both modes, over real sockets. */
#include "check.h"

enum { BIG = 300000 };

static void *speak(void *data)
{
    int fd = *(int *)data;
    char *bytes = malloc(BIG);
    size_t at;
    CHECK(bytes != NULL);
    for (at = 0; at < BIG; at++)
        bytes[at] = (char)(at * 7);
    for (at = 0; at < BIG;) {
        ssize_t n = send(fd, bytes + at, BIG - at, MSG_NOSIGNAL);
        CHECK(n > 0);
        at += (size_t)n;
    }
    CHECK_IS(shutdown(fd, SHUT_WR), 0);
    free(bytes);
    return NULL;
}

static void talk(uint16_t port)
{
    int fd = client(port);
    pthread_t speaker;
    char buf[10000];
    size_t at = 0;
    ssize_t n;

    say(fd, "hello");
    HEAR(fd, "hello");
    CHECK_IS(pthread_create(&speaker, NULL, speak, &fd), 0);
    while ((n = recv(fd, buf, sizeof buf, 0)) > 0) {
        ssize_t i;
        for (i = 0; i < n; i++, at++)
            if (buf[i] != (char)(at * 7))
                fail(__FILE__, __LINE__, "another byte came back");
    }
    CHECK_IS(n, 0);
    CHECK_IS(at, BIG);
    CHECK_IS(pthread_join(speaker, NULL), 0);
    close(fd);
}

static void echo_in(ns_config *config)
{
    ns_server *server;
    char address[64], expected[64];
    ns_config_set_max_thread(config, 2);
    server = SERVE(config, echo, NULL);

    CHECK_IS(ns_server_state(server), NS_STATE_RUNNING);
    CHECK_IS(ns_server_is_stopped(server), 0);
    CHECK(ns_server_port(server) != 0);
    snprintf(expected, sizeof expected, "127.0.0.1:%u", (unsigned)ns_server_port(server));
    CHECK_IS(ns_server_address(server, address, sizeof address), strlen(expected));
    CHECK_TEXT(address, expected);

    talk(ns_server_port(server));
    talk(ns_server_port(server));

    CHECK_IS(ns_server_stop(server), NS_OK);
    CHECK_IS(ns_server_state(server), NS_STATE_STOPPED);
    CHECK_IS(ns_server_is_stopped(server), 1);
    CHECK_IS(ns_server_free(server), NS_OK);
}

/* W3: The handler runs once for the whole connection. */
static void echo_blocking(void)
{
    echo_in(ns_config_new());
}

/* N3: The same handler on a loop. */
static void echo_non_blocking(void)
{
    echo_in(non_blocking());
}

/* recv's io_timeout, in a handler that may block. */
static int32_t impatient(ns_server *server, ns_socket *socket, void *user_data)
{
    char byte;
    (void)server, (void)user_data;
    CHECK_IS(ns_socket_set_io_timeout_ms(socket, 30), NS_OK);
    CHECK_IS(ns_socket_recv(socket, &byte, 1), NS_ERR_TIMEOUT);
    return ns_socket_send(socket, "late", 4);
}

/* T7: A handler that waits for longer gets NS_ERR_TIMEOUT and goes on. */
static void io_timeout(void)
{
    ns_server *server = SERVE(NULL, impatient, NULL);
    int fd = client(ns_server_port(server));
    HEAR(fd, "late");
    HEAR_END(fd);
    close(fd);
    CHECK_IS(ns_server_free(server), NS_OK);
}

static int32_t in_pieces(ns_server *server, ns_socket *socket, void *user_data)
{
    const void *bufs[4] = {"one ", NULL, "two ", "three"};
    size_t lens[4] = {4, 0, 4, 5};
    char byte;
    (void)server, (void)user_data;
    if (ns_socket_recv(socket, &byte, 1) < 1) {
        ns_socket_close(socket);
        return 0;
    }
    CHECK_IS(ns_socket_sendv(socket, bufs, lens, 4), NS_OK);
    CHECK_IS(ns_socket_shutdown(socket, NS_SHUT_WR), NS_OK);
    CHECK_IS(ns_socket_send(socket, "x", 1), NS_ERR_CLOSED);
    return 0;
}

static void sendv_in(ns_config *config)
{
    ns_server *server = SERVE(config, in_pieces, NULL);
    int fd = client(ns_server_port(server));
    say(fd, "x");
    HEAR(fd, "one two three");
    HEAR_END(fd);
    close(fd);
    CHECK_IS(ns_server_free(server), NS_OK);
}

/* Q4: Pieces leave in a row, on a worker. */
static void sendv_blocking(void)
{
    sendv_in(NULL);
}

/* Q4: Pieces leave in a row, on a loop. */
static void sendv_non_blocking(void)
{
    sendv_in(non_blocking());
}

int main(void)
{
    RUN(echo_blocking);
    RUN(echo_non_blocking);
    RUN(io_timeout);
    RUN(sendv_blocking);
    RUN(sendv_non_blocking);
    return 0;
}
