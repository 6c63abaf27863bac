/* limits [SERVICE]: a client has two seconds to log in, and no address takes all places. */
#define _POSIX_C_SOURCE 200809L
#include "start.h"

#include <string.h>

static int32_t answer(ns_server *server, ns_socket *socket, void *user_data) {
    char buf[4096];
    int64_t n;
    (void)server, (void)user_data;
    while ((n = ns_socket_recv(socket, buf, sizeof buf)) > 0) {
        ns_status status = ns_socket_set_timer_ms(socket, 0); /* in time */
        if (status == NS_OK)
            status = ns_socket_send(socket, "welcome\n", 8);
        if (status != NS_OK)
            return status;
    }
    if (n == 0)
        ns_socket_close(socket);
    return (int32_t)n;
}

static int32_t expect_login(ns_server *server, ns_socket *socket, void *user_data) {
    (void)server, (void)user_data;
    return ns_socket_set_timer_ms(socket, 2000);
}

static int32_t too_late(ns_server *server, ns_socket *socket, void *user_data) {
    static const char why[] = "two seconds are over\n";
    (void)server, (void)user_data;
    ns_socket_send(socket, why, strlen(why));
    return ns_socket_close(socket);
}

int main(int argc, char **argv) {
    ns_config *config = ns_config_new();
    ns_config_set_non_blocking(config, 1);
    ns_config_set_on_open(config, expect_login, NULL, NULL);
    ns_config_set_on_timeout(config, too_late, NULL, NULL);
    ns_config_set_idle_timeout_ms(config, 60 * 1000); /* nothing to say for a minute */
    ns_config_set_write_timeout_ms(config, 10 * 1000); /* reads nothing for ten seconds */
    ns_config_set_send_limit(config, 1 << 20); /* at most 1 MiB waits for a client */
    ns_config_set_max_connections(config, 10000);
    ns_config_set_max_per_address(config, 20);
    return serve(argc > 1 ? argv[1] : "5000", answer, config);
}
