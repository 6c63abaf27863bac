/* The limits of each address, and of all queues together. */
#include "check.h"

static event told = EVENT;
static char message[128];

static int32_t on_exception(ns_server *server, ns_socket *socket, const ns_error *error,
                            void *user_data)
{
    (void)server, (void)user_data;
    CHECK(socket == NULL);
    CHECK_IS(ns_error_status(error), NS_ERR_LIMIT);
    snprintf(message, sizeof message, "%s", ns_error_message(error));
    event_add(&told);
    return 0;
}

static void refused_by(ns_config *config)
{
    ns_server *server;
    ns_stats stats;
    int one, two, told_before = event_count(&told);

    CHECK_IS(ns_config_set_max_thread(config, 2), NS_OK);
    CHECK_IS(ns_config_set_max_per_address(config, 1), NS_OK);
    CHECK_IS(ns_config_set_exception_handler(config, on_exception, NULL, NULL), NS_OK);
    server = SERVE(config, echo, NULL);
    one = client(ns_server_port(server));
    say(one, "hello");
    HEAR(one, "hello");
    two = client(ns_server_port(server));
    CHECK(recv(two, &stats, 1, 0) <= 0);
    EVENT_WAIT(&told, told_before + 1);
    CHECK(strncmp(message, "refused 1 connection beyond", 27) == 0);
    CHECK_IS(ns_server_stats(server, &stats, sizeof stats), NS_OK);
    CHECK_IS(stats.accepted, 2);
    CHECK_IS(stats.closed[NS_CLOSE_LIMIT], 1);
    CHECK_IS(stats.open, 1);
    CHECK_TEXT(ns_close_reason_name(NS_CLOSE_LIMIT), "limit");
    say(one, "still");
    HEAR(one, "still");
    close(one);
    close(two);
    CHECK_IS(ns_server_free(server), NS_OK);
}

/* PA1, PA2, PA7: One address has one connection; the next one is refused and reported. */
static void per_address(void)
{
    refused_by(ns_config_new());
    refused_by(non_blocking());
}

static ns_conn_id opened;
static event opens = EVENT;

static int32_t on_open(ns_server *server, ns_socket *socket, void *user_data)
{
    (void)server, (void)user_data;
    opened = ns_socket_id(socket);
    event_add(&opens);
    return 0;
}

/* QT1, QT2: By id nothing passes the bound, and what a connection held is free when it has ended. */
static void total(void)
{
    enum { TOTAL = 1 << 20 };
    static char bytes[TOTAL + 1];
    ns_config *config = non_blocking();
    ns_server *server;
    int round, fd;

    CHECK_IS(ns_config_set_send_limit_total(config, TOTAL), NS_OK);
    CHECK_IS(ns_config_set_on_open(config, on_open, NULL, NULL), NS_OK);
    server = SERVE(config, echo, NULL);
    for (round = 1; round <= 3; round++) {
        fd = client(ns_server_port(server));
        EVENT_WAIT(&opens, round);
        CHECK_IS(ns_server_send(server, opened, bytes, TOTAL + 1), NS_ERR_BUFFER_FULL);
        WAIT_UNTIL(ns_server_send(server, opened, bytes, TOTAL) == NS_OK);
        WAIT_UNTIL(ns_server_send(server, opened, bytes, TOTAL) == NS_ERR_BUFFER_FULL);
        CHECK_IS(ns_server_abort(server, opened), NS_OK);
        close(fd);
        WAIT_UNTIL(ns_server_queued(server, opened) < 0);
    }
    CHECK_IS(ns_server_free(server), NS_OK);
}

int main(void)
{
    RUN(per_address);
    RUN(total);
    return 0;
}
