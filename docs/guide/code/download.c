/* download [SERVICE]: sends 100 MiB to each client, and never has more than a piece in memory. */
#define _POSIX_C_SOURCE 200809L
#include "start.h"

#include <stdlib.h>

static const char piece[64 * 1024]; /* of what a real program reads from a file */

/* `on_drain`: all that was sent has left. */
static int32_t go_on(ns_server *server, ns_socket *socket, void *user_data) {
    uint64_t *left = ns_socket_user_data(socket);
    (void)server, (void)user_data;
    while (*left > 0 && ns_socket_queued(socket) == 0) {
        ns_status status = ns_socket_send(socket, piece, sizeof piece);
        if (status != NS_OK)
            return status;
        *left -= sizeof piece;
    }
    if (*left == 0)
        ns_socket_close(socket); /* when the queue has left */
    return 0;
}

static int32_t begin(ns_server *server, ns_socket *socket, void *user_data) {
    uint64_t *left = malloc(sizeof *left);
    if (left == NULL)
        return NS_ERR_NO_MEMORY;
    *left = 100 << 20;
    ns_socket_set_user_data(socket, left, free);
    return go_on(server, socket, user_data);
}

static int32_t ignore(ns_server *server, ns_socket *socket, void *user_data) {
    char buf[4096];
    int64_t n;
    (void)server, (void)user_data;
    while ((n = ns_socket_recv(socket, buf, sizeof buf)) > 0)
        ;
    return (int32_t)n; /* the end of its input is not the end of ours */
}

int main(int argc, char **argv) {
    ns_config *config = ns_config_new();
    ns_config_set_non_blocking(config, 1);
    ns_config_set_on_open(config, begin, NULL, NULL);
    ns_config_set_on_drain(config, go_on, NULL, NULL);
    return serve(argc > 1 ? argv[1] : "5000", ignore, config);
}
