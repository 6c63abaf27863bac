/* What the examples share: say where the server listens, serve until SIGINT or SIGTERM, say what
 * went wrong. */
#ifndef EXAMPLES_SERVE_H
#define EXAMPLES_SERVE_H

#include <netserver.h>

#include <signal.h>
#include <stdio.h>

static ns_server *server; /* the program's one server; global for the signal handler */

static inline int32_t say_listening(ns_server *srv, void *program) {
    const ns_config *config = ns_server_config(srv);
    char address[128];
    ns_server_address(srv, address, sizeof address);
    printf("%s: listening on %s (%s, threads: %u)\n", (const char *)program, address,
           ns_config_non_blocking(config) ? "non-blocking" : "blocking",
           (unsigned)ns_config_max_thread(config));
    fflush(stdout);
    return 0;
}

static inline void say_error(const char *program, ns_error *error) {
    if (error != NULL)
        fprintf(stderr, "%s: %s\n", program, ns_error_message(error));
    ns_error_free(error);
}

/* Makes `server` and drops the config. Returns 0 after saying why it failed. */
static inline int make_server(const char *program, const char *service, ns_handler_fn handler,
                              ns_config *config) {
    ns_error *error;
    ns_config_set_on_start(config, say_listening, (void *)program, NULL);
    server = ns_server_new(service, handler, NULL, NULL, config, &error);
    ns_config_free(config);
    say_error(program, error);
    return server != NULL;
}

static inline void on_signal(int signal_number) {
    (void)signal_number;
    ns_server_request_stop(server);
}

static inline void handle_signals(void (*handler)(int)) {
    struct sigaction action;
    sigemptyset(&action.sa_mask);
    action.sa_flags = SA_RESTART;
    action.sa_handler = handler;
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

/* Returns when the server has stopped: 1, or 0 after saying why it failed. Other threads of the
 * program must block the signals: then no handler runs any more when this returns, whatever
 * signals come while the server is freed. */
static inline int serve(const char *program) {
    ns_error *error;
    ns_status status;
    handle_signals(on_signal);
    status = ns_server_start(server, 0, &error);
    handle_signals(SIG_IGN);
    say_error(program, error);
    return status == NS_OK;
}

#endif
