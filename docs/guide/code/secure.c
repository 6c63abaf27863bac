/* secure CHAIN KEY [SERVICE]: an echo over TLS. SIGHUP has it read the two files again. */
#define _POSIX_C_SOURCE 200809L
#include "start.h"

/* Called after a failure: of a handshake, or of the handler. */
static int32_t complain(ns_server *server, ns_socket *socket, const ns_error *error,
                        void *user_data) {
    char peer[128] = "somebody";
    (void)server, (void)user_data;
    if (socket != NULL)
        ns_socket_peer(socket, peer, sizeof peer);
    fprintf(stderr, "%s: %s\n", peer, ns_error_message(error));
    return 0;
}

static ns_tls *read_files(char **names) {
    ns_tls *tls = ns_tls_new();
    ns_tls_add_cert_file(tls, NULL, names[1], names[2], NULL); /* the object remembers a failure */
    return tls;
}

/* Sessions go on. If the new files are bad the old certificate stays in use. */
static void reload(ns_server *server, char **names) {
    ns_tls *tls = read_files(names);
    ns_error *err;
    if (ns_server_reload_tls(server, tls, &err) != NS_OK)
        failed(err);
    ns_tls_free(tls);
    puts("reloaded");
    fflush(stdout);
}

int main(int argc, char **argv) {
    sigset_t signals = block_signals();
    ns_config *config = ns_config_new();
    ns_server *server;
    ns_tls *tls;
    ns_error *err;
    int number;
    if (argc < 3)
        return 2;
    tls = read_files(argv);
    ns_config_set_tls(config, tls);
    ns_config_set_max_thread(config, 8);
    ns_config_set_exception_handler(config, complain, NULL, NULL);
    server = ns_server_new(argc > 3 ? argv[3] : "5000", echo, NULL, NULL, config, &err);
    ns_tls_free(tls);
    ns_config_free(config);
    if (server == NULL)
        return failed(err);
    if (start(server) == 0)
        while (sigwait(&signals, &number) == 0 && number == SIGHUP)
            reload(server, argv);
    return ns_server_free(server) == NS_OK ? 0 : 1;
}
