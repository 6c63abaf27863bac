/* User data of connections and what callbacks get: pointers go through unchanged. */
#include "check.h"

/* One connection's own. */
typedef struct {
    int calls;
} state;

static event freed = EVENT, closed = EVENT;
static char context[] = "context", handler_data[] = "handler", close_data[] = "close";

static void free_state(void *user_data)
{
    /* After on_close, always. */
    CHECK(event_count(&closed) > event_count(&freed));
    free(user_data);
    event_add(&freed);
}

static int32_t on_open(ns_server *server, ns_socket *socket, void *user_data)
{
    state *mine = calloc(1, sizeof *mine);
    CHECK(mine != NULL);
    CHECK(user_data == NULL);
    CHECK(ns_server_context(server) == context);
    CHECK(ns_socket_user_data(socket) == NULL);
    return ns_socket_set_user_data(socket, mine, free_state);
}

static int32_t handler(ns_server *server, ns_socket *socket, void *user_data)
{
    char byte;
    int64_t n;
    CHECK(user_data == handler_data);
    CHECK(ns_server_context(server) == context);
    while ((n = ns_socket_recv(socket, &byte, 1)) > 0) {
        state *mine = ns_socket_user_data(socket);
        byte = (char)('0' + mine->calls++);
        CHECK_IS(ns_socket_send(socket, &byte, 1), NS_OK);
    }
    if (n == 0)
        ns_socket_close(socket);
    return n < 0 ? (int32_t)n : 0;
}

static void on_close(ns_server *server, ns_socket *socket, int32_t reason, void *user_data)
{
    state *mine = ns_socket_user_data(socket);
    CHECK(ns_server_context(server) == context);
    CHECK(user_data == close_data);
    CHECK_IS(mine->calls, 3);
    CHECK(reason == NS_CLOSE_PEER || reason == NS_CLOSE_STOP || reason == NS_CLOSE_CUT);
    event_add(&closed);
}

static void per_connection_in(ns_config *config)
{
    int ends = event_count(&closed), frees = event_count(&freed);
    ns_server *server;
    int one, two;
    CHECK_IS(ns_config_set_on_open(config, on_open, NULL, NULL), NS_OK);
    CHECK_IS(ns_config_set_on_close(config, on_close, close_data, NULL), NS_OK);
    CHECK_IS(ns_config_set_max_thread(config, 2), NS_OK);
    CHECK_IS(ns_config_set_drain_timeout_ms(config, 0), NS_OK);
    server = ns_server_new("127.0.0.1:0", handler, handler_data, NULL, config, NULL);
    ns_config_free(config);
    CHECK_IS(ns_server_set_context(server, context, NULL), NS_OK);
    CHECK_IS(ns_server_start(server, NS_START_BACKGROUND, NULL), NS_OK);
    one = client(ns_server_port(server));
    two = client(ns_server_port(server));
    say(one, "abc");
    HEAR(one, "012");
    say(two, "abc");
    HEAR(two, "012");
    shutdown(one, SHUT_WR);
    HEAR_END(one);
    EVENT_WAIT(&closed, ends + 1);
    EVENT_WAIT(&freed, frees + 1);
    free_in_time(server);
    CHECK_IS(event_count(&closed), ends + 2);
    CHECK_IS(event_count(&freed), frees + 2);
    close(one);
    close(two);
}

/* G10, G8: Each connection of a worker has its own. */
static void per_connection_blocking(void)
{
    per_connection_in(ns_config_new());
}

/* G10, G8: Each connection of a loop has its own. */
static void per_connection_non_blocking(void)
{
    per_connection_in(non_blocking());
}

/* -- back-pressure, as the program sees it ---------------------------------- */

enum { BLOCK = 1 << 16, LIMIT = 1 << 20 };

static event full = EVENT, drained = EVENT;
static size_t accepted;

/* Sends until it is refused, once. */
static int32_t flood(ns_server *server, ns_socket *socket, void *user_data)
{
    static char block[BLOCK];
    char byte;
    ns_status status;
    (void)server, (void)user_data;
    if (ns_socket_recv(socket, &byte, 1) < 1) {
        ns_socket_close(socket);
        return 0;
    }
    while ((status = ns_socket_send(socket, block, sizeof block)) == NS_OK)
        accepted += sizeof block;
    CHECK_IS(status, NS_ERR_BUFFER_FULL);
    CHECK(ns_socket_queued(socket) > 0);
    CHECK(ns_socket_queued(socket) <= LIMIT);
    event_add(&full);
    return 0;
}

static int32_t on_drain(ns_server *server, ns_socket *socket, void *user_data)
{
    (void)server, (void)user_data;
    CHECK_IS(ns_socket_queued(socket), 0);
    event_add(&drained);
    return 0;
}

/* Q3: Sends are refused at the limit, and all that was accepted arrives. */
static void back_pressure(void)
{
    static char buf[BLOCK];
    ns_config *config = non_blocking();
    ns_server *server;
    size_t received = 0;
    int fd;
    CHECK_IS(ns_config_set_send_limit(config, LIMIT), NS_OK);
    CHECK_IS(ns_config_set_on_drain(config, on_drain, NULL, NULL), NS_OK);
    server = SERVE(config, flood, NULL);
    fd = client(ns_server_port(server));
    say(fd, "x");
    EVENT_WAIT(&full, 1);
    while (received < accepted) {
        ssize_t n = recv(fd, buf, sizeof buf, 0);
        CHECK(n > 0);
        received += (size_t)n;
    }
    EVENT_WAIT(&drained, 1);
    CHECK_IS(received, accepted);
    close(fd);
    CHECK_IS(ns_server_free(server), NS_OK);
}

int main(void)
{
    RUN(per_connection_blocking);
    RUN(per_connection_non_blocking);
    RUN(back_pressure);
    return 0;
}
