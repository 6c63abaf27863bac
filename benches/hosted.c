/* hosted: an echo server whose turns the program runs, by poll(2) and ns_server_run_once.
 *
 *   hosted [-o] SERVICE
 *
 *   -o  the same program with the library's own loop
 */
#define _POSIX_C_SOURCE 200809L
#include "../examples-c/serve.h"

#include <poll.h>
#include <string.h>

static int32_t handle(ns_server *srv, ns_socket *socket, void *user_data) {
    static char buffer[1 << 16];
    const int64_t n = ns_socket_recv(socket, buffer, sizeof buffer);
    (void)srv, (void)user_data;
    if (n <= 0)
        return n == 0 ? ns_socket_close(socket) : (int32_t)n;
    return ns_socket_send(socket, buffer, (size_t)n);
}

/* Returns when the server has stopped. */
static int host(void) {
    ns_error *error;
    struct pollfd watched = {-1, POLLIN, 0};
    if (ns_server_start(server, NS_START_HOSTED, &error) != 0) {
        say_error("hosted", error);
        return 0;
    }
    watched.fd = ns_server_poll_fd(server);
    while (poll(&watched, 1, -1) != 1 || ns_server_run_once(server, 0) == 0)
        ;
    return ns_server_free(server) == 0;
}

int main(int argc, char **argv) {
    const int own_loop = argc > 1 && strcmp(argv[1], "-o") == 0;
    ns_config *config = ns_config_new();
    if (argc != 2 + own_loop) {
        fputs("usage: hosted [-o] SERVICE\n", stderr);
        return 2;
    }
    ns_config_set_non_blocking(config, 1);
    handle_signals(on_signal);
    if (!make_server("hosted", argv[1 + own_loop], handle, config))
        return 1;
    return (own_loop ? serve("hosted") : host()) ? 0 : 1;
}
