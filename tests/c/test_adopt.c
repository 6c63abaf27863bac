/* Sockets of the program that become connections, and connects. */
#include "tls.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <sys/socket.h>

static event opened = EVENT, failed = EVENT, dropped = EVENT;
static char data[] = "data";

static void drop(void *user_data)
{
    CHECK(user_data == data);
    event_add(&dropped);
}

static int32_t on_open(ns_server *server, ns_socket *socket, void *user_data)
{
    (void)server, (void)user_data;
    if (ns_socket_service(socket) >= 0)
        return 0;
    CHECK(ns_socket_user_data(socket) == data);
    event_add(&opened);
    return 0;
}

static int32_t on_exception(ns_server *server, ns_socket *socket, const ns_error *err,
                            void *user_data)
{
    (void)server, (void)user_data;
    CHECK_IS(ns_error_status(err), NS_ERR_CONNECT);
    CHECK_IS(ns_error_os_code(err), ECONNREFUSED);
    CHECK_IS(ns_socket_os_error(socket), ECONNREFUSED);
    CHECK(ns_socket_user_data(socket) == data);
    CHECK_IS(ns_socket_send(socket, "x", 1), NS_ERR_CLOSED);
    event_add(&failed);
    return 0;
}

static ns_server *serving(void)
{
    ns_config *config = non_blocking();
    CHECK_IS(ns_config_set_on_open(config, on_open, NULL, NULL), NS_OK);
    CHECK_IS(ns_config_set_exception_handler(config, on_exception, NULL, NULL), NS_OK);
    return SERVE(config, echo, NULL);
}

static uint64_t closed(const ns_server *server, int reason)
{
    ns_stats stats;
    CHECK_IS(ns_server_stats(server, &stats, sizeof stats), NS_OK);
    return stats.closed[reason];
}

/* AD1, AD2: A socket is the server's after a success alone; the data is freed once, always. */
static void test_adopt(void)
{
    int pair[2], drops = event_count(&dropped), opens = event_count(&opened);
    ns_server *server = serving();
    ns_error *err;
    ns_conn_id id;
    CHECK_IS(ns_has_feature("adopt"), 1);
    CHECK_IS(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    CHECK_IS(ns_server_adopt(NULL, pair[0], data, drop, &err), 0);
    ERROR_IS(err, NS_ERR_INVALID, "NULL", "");
    CHECK_IS(ns_server_adopt(server, -1, data, drop, &err), 0);
    ERROR_IS(err, NS_ERR_INVALID, "-1", "no descriptor");
    CHECK_IS(ns_server_adopt(server, 12345, data, drop, &err), 0);
    ERROR_IS(err, NS_ERR_INVALID, "12345", "not open");
    CHECK_IS(ns_server_adopt(server, 1 << 30, data, drop, NULL), 0);
    EVENT_WAIT(&dropped, drops + 4);
    CHECK(fcntl(pair[0], F_GETFD) == 0);
    id = ns_server_adopt(server, pair[0], data, drop, &err);
    CHECK(id != 0 && err == NULL);
    EVENT_WAIT(&opened, opens + 1);
    CHECK_IS(ns_server_send(server, id, "hello", 5), NS_OK);
    HEAR(pair[1], "hello");
    CHECK_IS(close(pair[1]), 0);
    EVENT_WAIT(&dropped, drops + 5);
    CHECK_IS(ns_server_free(server), NS_OK);
    CHECK_IS(event_count(&dropped), drops + 5);
}

/* AD8, AD12: What fails immediately is in `err`; what fails later goes to the exception handler. */
static void test_connect(void)
{
    struct sockaddr_in address;
    socklen_t len = sizeof address;
    char service[64];
    int drops = event_count(&dropped), failures = event_count(&failed);
    int unused = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ns_server *server = serving();
    ns_error *err;
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK_IS(bind(unused, (struct sockaddr *)&address, len), 0);
    CHECK_IS(getsockname(unused, (struct sockaddr *)&address, &len), 0);
    snprintf(service, sizeof service, "127.0.0.1:%d", ntohs(address.sin_port));
    CHECK(ns_server_connect(server, service, 0, data, drop, &err) != 0 && err == NULL);
    EVENT_WAIT(&failed, failures + 1);
    EVENT_WAIT(&dropped, drops + 1);
    WAIT_UNTIL(closed(server, NS_CLOSE_CONNECT) == 1);
    CHECK_TEXT(ns_close_reason_name(NS_CLOSE_CONNECT), "connect");
    CHECK_IS(ns_server_connect(server, NULL, 0, data, drop, &err), 0);
    ERROR_IS(err, NS_ERR_INVALID, "NULL", "");
    CHECK_IS(ns_server_connect(server, "80", 0, data, drop, &err), 0);
    ERROR_IS(err, NS_ERR_INVALID, "80", "host");
    CHECK_IS(ns_server_connect(server, service, UINT32_MAX, data, drop, &err), 0);
    ERROR_IS(err, NS_ERR_INVALID, "time", "");
    CHECK_IS(ns_server_connect(server, "unix:/nowhere/at/all", 0, data, drop, &err), 0);
    CHECK_IS(ns_error_os_code(err), ENOENT);
    ERROR_IS(err, NS_ERR_CONNECT, "unix:/nowhere/at/all", "");
    CHECK_IS(ns_server_connect(server, "unix:/nowhere/at/all", 0, data, NULL, NULL), 0);
    EVENT_WAIT(&dropped, drops + 5);
    CHECK_IS(close(unused), 0);
    CHECK_IS(ns_server_free(server), NS_OK);
    CHECK_IS(event_count(&dropped), drops + 5);
}

/* AD13: An owned socket of a descriptor. */
static void test_from_fd(void)
{
    int pair[2], fd;
    char buffer[8];
    ns_error *err;
    ns_socket *owned;
    CHECK(ns_socket_from_fd(-1, &err) == NULL);
    ERROR_IS(err, NS_ERR_INVALID, "no descriptor", "");
    CHECK(ns_socket_from_fd(12345, NULL) == NULL);
    CHECK_IS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
    owned = ns_socket_from_fd(pair[0], &err);
    CHECK(owned != NULL && err == NULL);
    CHECK(ns_socket_user_data(owned) == NULL);
    CHECK_IS(write(pair[1], "hello", 5), 5);
    CHECK_IS(ns_socket_recv(owned, buffer, sizeof buffer), 5);
    CHECK_IS(ns_socket_send(owned, "bye", 3), NS_OK);
    HEAR(pair[1], "bye");
    fd = ns_socket_release_fd(owned);
    CHECK_IS(fd, pair[0]);
    CHECK((fcntl(fd, F_GETFL) & O_NONBLOCK) == 0);
    owned = ns_socket_from_fd(fd, NULL);
    ns_socket_free(owned);
    CHECK_IS(read(pair[1], buffer, sizeof buffer), 0);
    CHECK_IS(close(pair[1]), 0);
}

int main(void)
{
    RUN(test_adopt);
    RUN(test_connect);
    RUN(test_from_fd);
    return 0;
}
