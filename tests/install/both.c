/* A program with two Rust archives. */
#include <netserver.h>

#include <stdio.h>
#include <string.h>

unsigned other_catches(unsigned number);

static int32_t handler(ns_server *server, ns_socket *socket, void *user_data) {
    (void)server, (void)socket, (void)user_data;
    return 0;
}

int main(void) {
    ns_error *error = NULL;
    ns_tls *tls = ns_tls_new();
    ns_server *server;
    if (ns_tls_add_cert_pem(tls, NULL, "", 0, "", 0, &error) != NS_ERR_CERTIFICATE)
        return 1;
    ns_error_free(error);
    ns_tls_free(tls);
    server = ns_server_new("127.0.0.1:0", handler, NULL, NULL, NULL, NULL);
    if (ns_server_start(server, NS_START_BACKGROUND, NULL) != 0 || ns_server_port(server) == 0)
        return 2;
    printf("%u\n", other_catches(7));
    return ns_server_free(server);
}
