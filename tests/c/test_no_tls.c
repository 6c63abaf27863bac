/* A library built without TLS. With TLS only the features are looked at: so the program runs beside
 * the others too. */
#include "tls.h"

enum { ALL = 16 };

/* K28, F1: The features by name. */
static void features(void)
{
    int has_tls = ns_has_feature("tls");
    CHECK(has_tls == 0 || has_tls == 1);
    CHECK_IS(ns_has_feature("ticket-keys"), has_tls);
    CHECK_IS(ns_has_feature("blocking"), 1);
}

/* K28: Each use of a TLS object says that there is no TLS, whatever its arguments are. */
static void no_setter(void)
{
    static const char *protocols[] = {"h2"};
    unsigned char keys[NS_TLS_TICKET_KEY_LEN] = {0};
    ns_tls *tls = ns_tls_new();
    ns_error *err = NULL;
    ns_status results[ALL];
    int n = 0;

    CHECK(tls != NULL);
    results[n++] = ns_tls_add_cert_file(tls, NULL, "server.pem", "server-key.pem", &err);
    ERROR_IS(err, NS_ERR_UNSUPPORTED, "no TLS", "");
    results[n++] = ns_tls_add_cert_file(tls, NULL, NULL, NULL, NULL);
    results[n++] = ns_tls_add_cert_pem(tls, NULL, "x", 1, "x", 1, NULL);
    results[n++] = ns_tls_add_cert_der(tls, NULL, NULL, NULL, 0, "x", 1, NULL);
    results[n++] = ns_tls_set_client_ca_file(tls, "ca.pem", 1, NULL);
    results[n++] = ns_tls_set_client_ca_pem(tls, "x", 1, 1, NULL);
    results[n++] = ns_tls_set_alpn(tls, protocols, 1);
    results[n++] = ns_tls_set_min_version(tls, NS_TLS_1_3);
    results[n++] = ns_tls_set_tickets(tls, 1);
    results[n++] = ns_tls_set_ticket_keys(tls, keys, sizeof keys);
    results[n++] = ns_tls_set_session_cache(tls, 1);
    for (int i = 0; i < n; i++)
        CHECK_IS(results[i], NS_ERR_UNSUPPORTED);
    ns_tls_free(tls);
}

/* K28: A config that asked for TLS makes no server, even when TLS is cleared again. */
static void no_server(void)
{
    for (int clear = 0; clear < 2; clear++) {
        ns_config *config = ns_config_new();
        ns_tls *tls = ns_tls_new();
        ns_error *err = NULL;
        CHECK_IS(ns_config_set_tls(config, tls), NS_ERR_UNSUPPORTED);
        if (clear)
            CHECK_IS(ns_config_clear_tls(config), NS_OK);
        CHECK(ns_server_new("127.0.0.1:0", echo, NULL, NULL, config, &err) == NULL);
        ERROR_IS(err, NS_ERR_UNSUPPORTED, "no TLS", "");
        ns_tls_free(tls);
        ns_config_free(config);
    }
}

/* The bounds of handshakes are accepted: there is nothing that they bound. */
static ns_config *mode_of(int is_non_blocking)
{
    ns_config *config = is_non_blocking ? non_blocking() : ns_config_new();
    CHECK_IS(ns_config_set_max_handshakes(config, 10), NS_OK);
    CHECK_IS(ns_config_set_handshake_timeout_ms(config, 1000), NS_OK);
    return config;
}

/* K28: No further service has TLS, and there is nothing to reload. */
static void no_service(void)
{
    for (int mode = 0; mode < 2; mode++) {
        ns_config *config = mode_of(mode);
        ns_tls *tls = ns_tls_new();
        ns_error *err = NULL;
        ns_server *server = ns_server_new("127.0.0.1:0", echo, NULL, NULL, config, &err);
        CHECK(server != NULL);
        CHECK_IS(ns_server_add_service_tls(server, "127.0.0.1:0", tls, &err), NS_ERR_UNSUPPORTED);
        ERROR_IS(err, NS_ERR_UNSUPPORTED, "no TLS", "");
        CHECK_IS(ns_server_reload_tls(server, tls, NULL), NS_ERR_UNSUPPORTED);
        CHECK_IS(ns_server_reload_service_tls(server, 0, tls, NULL), NS_ERR_UNSUPPORTED);
        ns_tls_free(tls);
        ns_config_free(config);
        CHECK_IS(ns_server_free(server), NS_OK);
    }
}

static ns_tls *settings;

/* Tries STARTTLS for what comes, and says in the clear what came of it. */
static int32_t upgrade(ns_server *server, ns_socket *socket, void *user_data)
{
    char buf[16];
    ns_tls_info info;
    int64_t n = ns_socket_recv(socket, buf, sizeof buf);
    (void)server, (void)user_data;
    if (n <= 0)
        return (int32_t)n;
    CHECK_IS(ns_socket_starttls(socket, settings, buf, (size_t)n), NS_ERR_UNSUPPORTED);
    CHECK_IS(ns_socket_tls_info(socket, &info, sizeof info), NS_ERR_STATE);
    CHECK_IS(ns_socket_tls_peer_certificate(socket, NULL, 0), 0);
    CHECK_IS(ns_socket_tls_peer_subject(socket, NULL, 0), 0);
    CHECK_IS(ns_socket_send(socket, "no TLS", 6), NS_OK);
    ns_socket_close(socket);
    return 0;
}

/* K28: STARTTLS fails, and the connection goes on as it was. */
static void no_starttls(void)
{
    settings = ns_tls_new();
    for (int mode = 0; mode < 2; mode++) {
        ns_server *server = SERVE(mode_of(mode), upgrade, NULL);
        int fd = client(ns_server_port(server));
        say(fd, "STARTTLS");
        HEAR(fd, "no TLS");
        HEAR_END(fd);
        close(fd);
        CHECK_IS(ns_server_free(server), NS_OK);
    }
    ns_tls_free(settings);
}

int main(void)
{
    RUN(features);
    if (ns_has_feature("tls"))
        return 0;
    RUN(no_setter);
    RUN(no_server);
    RUN(no_service);
    RUN(no_starttls);
    return 0;
}
