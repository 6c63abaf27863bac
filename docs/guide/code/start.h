/* What the programs of this guide share. */
#ifndef GUIDE_START_H
#define GUIDE_START_H

#include <netserver.h>

#include <signal.h>
#include <stdio.h>

/* Says why a call failed. Returns the exit status of the program. */
static inline int failed(ns_error *err) {
    fprintf(stderr, "%s\n", ns_error_message(err));
    ns_error_free(err);
    return 1;
}

/* Blocks the signals in this thread, and so in all that the server makes: sigwait(3) gets them. */
static inline sigset_t block_signals(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    return set;
}

/* Starts the server in the background, and says where it listens. */
static inline int start(ns_server *server) {
    char address[128];
    ns_error *err;
    if (ns_server_start(server, NS_START_BACKGROUND, &err) != NS_OK)
        return failed(err);
    ns_server_address(server, address, sizeof address);
    printf("listening on %s\n", address);
    return fflush(stdout);
}

/* Makes a server and frees the config; then serves until a signal comes. Returns the exit status of
 * the program. */
static inline int serve(const char *service, ns_handler_fn handler, ns_config *config) {
    sigset_t signals = block_signals();
    ns_error *err;
    ns_server *server = ns_server_new(service, handler, NULL, NULL, config, &err);
    int number;
    ns_config_free(config); /* a setter that failed is reported by `ns_server_new` */
    if (server == NULL)
        return failed(err);
    if (start(server) == 0)
        sigwait(&signals, &number);
    return ns_server_free(server) == NS_OK ? 0 : 1;
}

/* A handler for blocking mode: what comes goes back. */
static inline int32_t echo(ns_server *server, ns_socket *socket, void *user_data) {
    char buf[4096];
    int64_t n;
    (void)server, (void)user_data;
    while ((n = ns_socket_recv(socket, buf, sizeof buf)) > 0) {
        ns_status sent = ns_socket_send(socket, buf, (size_t)n);
        if (sent != NS_OK)
            return sent;
    }
    return (int32_t)n;
}

#endif
