/* ending [SERVICE]: SIGTERM lets the clients finish, SIGINT does not wait for them. */
#define _POSIX_C_SOURCE 200809L
#include "start.h"

int main(int argc, char **argv) {
    sigset_t signals = block_signals();
    ns_config *config = ns_config_new();
    ns_server *server;
    ns_error *err;
    ns_status status = NS_ERR_STATE;
    int number;
    ns_config_set_max_thread(config, 16);
    server = ns_server_new(argc > 1 ? argv[1] : "5000", echo, NULL, NULL, config, &err);
    ns_config_free(config);
    if (server == NULL)
        return failed(err);
    if (start(server) == 0 && sigwait(&signals, &number) == 0) {
        if (number == SIGTERM) {
            ns_server_quiesce(server); /* the port is free from here on */
            puts("quiet");
            fflush(stdout);
            ns_server_wait_idle(server, 30 * 1000);
        }
        status = ns_server_stop_within(server, 1000); /* what is left has a second */
    }
    ns_server_free(server);
    return status == NS_OK ? 0 : 1;
}
