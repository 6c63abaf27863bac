/* ticker [SERVICE]: sends each line of its standard input to all clients. */
#define _POSIX_C_SOURCE 200809L
#include "start.h"

#include <string.h>

/* What a client says is of no interest here. Its end is. */
static int32_t ignore(ns_server *server, ns_socket *socket, void *user_data) {
    char buf[4096];
    int64_t n;
    (void)server, (void)user_data;
    while ((n = ns_socket_recv(socket, buf, sizeof buf)) > 0)
        ;
    if (n == 0)
        ns_socket_close(socket);
    return (int32_t)n;
}

struct message {
    ns_server *server;
    char line[1024];
};

static int32_t send_to(ns_conn_id id, void *user_data) {
    struct message *message = user_data;
    ns_status status =
        ns_server_send(message->server, id, message->line, strlen(message->line));
    if (status == NS_ERR_BUFFER_FULL) /* 16 MiB wait for a client that does not read */
        ns_server_abort(message->server, id);
    return 0;
}

int main(int argc, char **argv) {
    ns_config *config = ns_config_new();
    struct message message;
    ns_error *err;
    ns_config_set_non_blocking(config, 1);
    message.server =
        ns_server_new(argc > 1 ? argv[1] : "5000", ignore, NULL, NULL, config, &err);
    ns_config_free(config);
    if (message.server == NULL)
        return failed(err);
    if (start(message.server) == 0)
        while (fgets(message.line, sizeof message.line, stdin) != NULL)
            ns_server_foreach(message.server, send_to, &message);
    return ns_server_free(message.server) == NS_OK ? 0 : 1; /* a stop first: queued lines leave */
}
