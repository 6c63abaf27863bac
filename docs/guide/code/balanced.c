/* balanced [SERVICE [CHECKS]]: behind a load balancer that speaks the PROXY protocol, and asks at a
 * port of its own whether this server takes clients. */
#define _POSIX_C_SOURCE 200809L
#include "start.h"

#include <stdatomic.h>
#include <string.h>
#include <time.h>

static atomic_int leaving;

static int32_t say(ns_server *server, ns_socket *socket, void *user_data) {
    const int32_t *checks = user_data;
    (void)server;
    char text[160] = "up ready\n";
    if (ns_socket_service(socket) == *checks) {
        if (leaving)
            strcpy(text, "drain\n");
    } else {
        char peer[128];
        ns_socket_peer(socket, peer, sizeof peer); /* the client's, not the load balancer's */
        snprintf(text, sizeof text, "you are %s\n", peer);
    }
    return ns_socket_send(socket, text, strlen(text));
}

int main(int argc, char **argv) {
    const struct timespec two_checks = {2, 0};
    sigset_t signals = block_signals();
    ns_config *config = ns_config_new();
    ns_server *server;
    ns_error *err;
    int32_t checks;
    char address[128];
    int number;
    ns_config_set_max_thread(config, 16);
    ns_config_set_proxy_protocol(config, NS_PROXY_V1 | NS_PROXY_V2);
    ns_config_add_trusted_proxy(config, "127.0.0.0/8"); /* where the load balancer is */
    server = ns_server_new(argc > 1 ? argv[1] : "5000", say, &checks, NULL, config, &err);
    ns_config_free(config);
    if (server == NULL)
        return failed(err);
    checks = ns_server_add_service(server, argc > 2 ? argv[2] : "127.0.0.1:5001", &err);
    if (checks < 0 || ns_server_set_service_proxy(server, (uint32_t)checks, 0, &err) != NS_OK) {
        ns_server_free(server);
        return failed(err);
    }
    if (start(server) == 0) {
        ns_server_service_address(server, (uint32_t)checks, address, sizeof address);
        printf("checks on %s\n", address);
        fflush(stdout);
        sigwait(&signals, &number);
        leaving = 1; /* the next check learns of it; no client comes after the second one */
        sigtimedwait(&signals, NULL, &two_checks);
        ns_server_quiesce(server);
        ns_server_wait_idle(server, 30 * 1000);
    }
    return ns_server_free(server) == NS_OK ? 0 : 1;
}
