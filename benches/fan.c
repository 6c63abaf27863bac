/* fan: sends each message of 64 bytes that it gets to all connections, by ns_server_broadcast.
 *
 *   fan SERVICE
 */
#define _POSIX_C_SOURCE 200809L
#include "../examples-c/serve.h"

#include <stdlib.h>

enum { SIZE = 64, MOST = 1 << 16 };

static ns_conn_id ids[MOST];
static size_t members;

static int32_t subscribe(ns_server *srv, ns_socket *socket, void *user_data) {
    (void)srv, (void)user_data;
    if (members == MOST)
        return NS_ERR_REJECTED;
    ids[members++] = ns_socket_id(socket);
    return ns_socket_send(socket, "!", 1);
}

static void unsubscribe(ns_server *srv, ns_socket *socket, int32_t reason, void *user_data) {
    const ns_conn_id id = ns_socket_id(socket);
    size_t i;
    (void)srv, (void)reason, (void)user_data;
    for (i = 0; i < members; i++)
        if (ids[i] == id) {
            ids[i] = ids[--members];
            return;
        }
}

static int32_t handle(ns_server *srv, ns_socket *socket, void *user_data) {
    char message[SIZE];
    const int64_t n = ns_socket_recv(socket, message, sizeof message);
    (void)user_data;
    if (n <= 0)
        return n == 0 ? ns_socket_close(socket) : (int32_t)n;
    return ns_server_broadcast(srv, ids, members, message, (size_t)n) < 0 ? -1 : 0;
}

int main(int argc, char **argv) {
    ns_config *config = ns_config_new();
    if (argc != 2) {
        fputs("usage: fan SERVICE\n", stderr);
        return 2;
    }
    ns_config_set_non_blocking(config, 1);
    ns_config_set_on_open(config, subscribe, NULL, NULL);
    ns_config_set_on_close(config, unsubscribe, NULL, NULL);
    handle_signals(on_signal);
    if (!make_server("fan", argv[1], handle, config))
        return 1;
    return serve("fan") ? 0 : 1;
}
