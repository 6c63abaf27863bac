#include <netserver.h>

static int32_t echo(ns_server *server, ns_socket *socket, void *user_data) {
    char buf[4096];
    int64_t n;
    (void)server, (void)user_data;
    while ((n = ns_socket_recv(socket, buf, sizeof buf)) > 0) {
        ns_status sent = ns_socket_send(socket, buf, (size_t)n);
        if (sent != NS_OK)
            return sent;
    }
    if (n == 0)
        ns_socket_close(socket);
    return (int32_t)n;
}

int main(int argc, char **argv) {
    ns_config *config = ns_config_new();
    ns_config_set_non_blocking(config, argc > 2);
    const char *service = argc > 1 ? argv[1] : "5000";
    ns_server *server = ns_server_new(service, echo, NULL, NULL, config, NULL);
    ns_config_free(config);
    ns_status status = ns_server_start(server, 0, NULL);
    ns_server_free(server);
    return status == NS_OK ? 0 : 1;
}
