/* What the hosts share: an echo server without a thread, whose turns a foreign event loop runs.
 *
 *   HOST [--idle MS] [--cert FILE --key FILE] SERVICE
 *
 * A client that sends "wake" makes a thread, which wakes the connection by its id; the connection
 * then sends "awake". */
#ifndef HOSTS_HOST_H
#define HOSTS_HOST_H

#include <netserver.h>

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static ns_server *server;

static void check(ns_status status, const char *what)
{
    if (status >= 0)
        return;
    fprintf(stderr, "%s: %s\n", what, ns_status_name(status));
    exit(1);
}

/* A connection's wake-up, and the thread that sends it. */
typedef struct {
    pthread_t thread;
    ns_conn_id id;
} waking;

static void *wake(void *arg)
{
    check(ns_server_wake(server, ((waking *)arg)->id), "wake");
    return NULL;
}

static int32_t on_wake(ns_server *srv, ns_socket *socket, void *user_data)
{
    waking *woken = (waking *)ns_socket_user_data(socket);
    (void)srv, (void)user_data;
    pthread_join(woken->thread, NULL);
    return ns_socket_send(socket, "awake", 5);
}

static int32_t on_open(ns_server *srv, ns_socket *socket, void *user_data)
{
    waking *own = (waking *)calloc(1, sizeof *own);
    (void)srv, (void)user_data;
    own->id = ns_socket_id(socket);
    return ns_socket_set_user_data(socket, own, free);
}

static int32_t echo(ns_server *srv, ns_socket *socket, void *user_data)
{
    char buf[4096];
    int64_t n;
    (void)srv, (void)user_data;
    while ((n = ns_socket_recv(socket, buf, sizeof buf)) > 0) {
        if (n == 4 && memcmp(buf, "wake", 4) == 0) {
            waking *own = (waking *)ns_socket_user_data(socket);
            if (pthread_create(&own->thread, NULL, wake, own) != 0)
                return ns_raise(socket, -1, "cannot make a thread");
        } else {
            ns_status sent = ns_socket_send(socket, buf, (size_t)n);
            if (sent < 0)
                return sent;
        }
    }
    if (n == 0)
        ns_socket_close(socket);
    return (int32_t)n;
}

static const char *value_of(int argc, char **argv, const char *option)
{
    int i;
    for (i = 1; i + 1 < argc; i++)
        if (strcmp(argv[i], option) == 0)
            return argv[i + 1];
    return NULL;
}

/* Starts the server and says where it listens. Returns its descriptor. */
static int start(int argc, char **argv)
{
    const char *idle = value_of(argc, argv, "--idle"), *cert = value_of(argc, argv, "--cert");
    ns_config *config = ns_config_new();
    ns_error *err = NULL;
    char address[128];
    check(ns_config_set_non_blocking(config, 1), "non_blocking");
    check(ns_config_set_on_open(config, on_open, NULL, NULL), "on_open");
    check(ns_config_set_on_wake(config, on_wake, NULL, NULL), "on_wake");
    if (idle != NULL)
        check(ns_config_set_idle_timeout_ms(config, (uint32_t)atoi(idle)), "idle_timeout");
    if (cert != NULL) {
        const char *key = value_of(argc, argv, "--key");
        ns_tls *tls = ns_tls_new();
        check(ns_tls_add_cert_file(tls, NULL, cert, key, NULL), "the certificate");
        check(ns_config_set_tls(config, tls), "tls");
        ns_tls_free(tls);
    }
    server = ns_server_new(argv[argc - 1], echo, NULL, NULL, config, &err);
    ns_config_free(config);
    if (server == NULL || ns_server_start(server, NS_START_HOSTED, &err) != NS_OK) {
        fprintf(stderr, "%s\n", ns_error_message(err));
        exit(1);
    }
    ns_server_address(server, address, sizeof address);
    printf("listening on %s\n", address);
    fflush(stdout);
    return ns_server_poll_fd(server);
}

/* For a loop that has no signals of its own. */
static inline void on_signal(int number)
{
    (void)number;
    ns_server_request_stop(server);
}

static inline void stop_by_signal(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    sigaction(SIGINT, &action, NULL);
}

/* Runs one turn. Returns 0 once the server has stopped. */
static int turn(void)
{
    ns_status status = ns_server_run_once(server, 0);
    if (status == NS_ERR_STATE)
        return 0;
    check(status, "run_once");
    return 1;
}

static int end(void)
{
    check(ns_server_free(server), "free");
    return 0;
}

#endif
