/* slow [SERVICE]: answers each request after a second of work, on a thread of its own. */
#define _POSIX_C_SOURCE 200809L
#include "start.h"

#include <pthread.h>
#include <time.h>
#include <unistd.h>

static int jobs[2]; /* a pipe of `ns_socket *` */

/* On an event loop, which must not wait. The unread request goes with the connection. */
static int32_t hand_over(ns_server *server, ns_socket *socket, void *user_data) {
    ns_socket *owned = ns_detach(server, socket, NULL);
    (void)user_data;
    if (owned == NULL)
        return NS_ERR_STATE;
    if (write(jobs[1], &owned, sizeof owned) != sizeof owned)
        ns_socket_free(owned);
    return 0;
}

/* Reads a request, and answers it. A detached socket waits in `recv` and `send`. */
static int answer(ns_socket *owned) {
    static const char done[] = "done\n";
    const struct timespec second = {1, 0};
    char request[4096];
    if (ns_socket_recv(owned, request, sizeof request) <= 0)
        return 0;
    nanosleep(&second, NULL);
    return ns_socket_send(owned, done, sizeof done - 1) == NS_OK;
}

static void *work(void *server) {
    ns_socket *owned;
    while (read(jobs[0], &owned, sizeof owned) == sizeof owned)
        if (!answer(owned) || ns_attach(server, owned, NULL) == 0)
            ns_socket_free(owned);
    return NULL;
}

int main(int argc, char **argv) {
    sigset_t signals = block_signals();
    ns_config *config = ns_config_new();
    ns_server *server;
    pthread_t worker;
    ns_error *err;
    int number, status = 1;
    ns_config_set_non_blocking(config, 1);
    ns_config_set_io_timeout_ms(config, 10 * 1000); /* of detached sockets */
    server = ns_server_new(argc > 1 ? argv[1] : "5000", hand_over, NULL, NULL, config, &err);
    ns_config_free(config);
    if (server == NULL)
        return failed(err);
    if (pipe(jobs) == 0 && start(server) == 0 && !pthread_create(&worker, NULL, work, server)) {
        sigwait(&signals, &number);
        ns_server_stop(server); /* from now on `ns_attach` fails */
        close(jobs[1]);
        status = pthread_join(worker, NULL);
    }
    ns_server_free(server);
    return status;
}
