/* Several services of one server: plain ones and ones with TLS. */
#include "tls.h"

/* The port of a service. */
static uint16_t port_of(const ns_server *server, uint32_t service)
{
    char text[64];
    CHECK(ns_server_service_address(server, service, text, sizeof text) < sizeof text);
    CHECK(strncmp(text, "127.0.0.1:", 10) == 0);
    return (uint16_t)atoi(text + 10);
}

/* openssl's client for a service. */
static void visit(const ns_server *server, uint32_t service, const char *options,
                  const char *expected)
{
    char text[256], heard[8192];
    command c;
    snprintf(text, sizeof text, "exec openssl s_client -connect 127.0.0.1:%u -CAfile ca.pem %s 2>&1",
             (unsigned)port_of(server, service), options);
    c = start_command(text);
    tell(c, "Q\n");
    finish_command(c, heard, sizeof heard);
    CONTAINS(heard, expected);
}

/* E5, V6: NULL and nonsense. */
static void nonsense(void)
{
    ns_error *err = NULL;
    char text[8] = "former";
    ns_tls *empty = ns_tls_new();
    ns_server *server = ns_server_new("127.0.0.1:0", echo, NULL, NULL, NULL, NULL);

    CHECK_IS(ns_server_add_service(NULL, "0", &err), NS_ERR_INVALID);
    ERROR_IS(err, NS_ERR_INVALID, "server", "NULL");
    CHECK_IS(ns_server_add_service(server, NULL, &err), NS_ERR_INVALID);
    ERROR_IS(err, NS_ERR_INVALID, "service", "NULL");
    CHECK_IS(ns_server_add_service(server, "\xff", &err), NS_ERR_INVALID);
    ERROR_IS(err, NS_ERR_INVALID, "service", "UTF-8");
    CHECK_IS(ns_server_add_service(server, "65536", NULL), NS_ERR_INVALID);
    CHECK_IS(ns_server_add_service(server, "65536", &err), NS_ERR_INVALID);
    ERROR_IS(err, NS_ERR_INVALID, "65536", "port");
    CHECK_IS(ns_server_add_service_tls(server, "0", NULL, &err), NS_ERR_INVALID);
    ERROR_IS(err, NS_ERR_INVALID, "TLS", "NULL");
    CHECK_IS(ns_server_add_service_tls(server, "0", empty, &err), NS_ERR_CERTIFICATE);
    ERROR_IS(err, NS_ERR_CERTIFICATE, "certificate", "");
    CHECK_IS(ns_server_reload_service_tls(NULL, 0, empty, NULL), NS_ERR_INVALID);
    CHECK_IS(ns_server_reload_service_tls(server, 0, NULL, NULL), NS_ERR_INVALID);
    CHECK_IS(ns_server_reload_service_tls(server, 0, empty, &err), NS_ERR_STATE);
    ERROR_IS(err, NS_ERR_STATE, "without TLS", "");
    CHECK_IS(ns_server_reload_service_tls(server, UINT32_MAX, empty, &err), NS_ERR_INVALID);
    ERROR_IS(err, NS_ERR_INVALID, "no service", "4294967295");
    CHECK_IS(ns_server_service_address(NULL, 0, text, sizeof text), 0);
    CHECK_TEXT(text, "");
    CHECK_IS(ns_server_service_address(server, 0, NULL, 0), 0);
    CHECK_IS(ns_socket_service(NULL), -1);

    CHECK_IS(ns_server_add_service(server, "0", &err), 1);
    CHECK(err == NULL);
    ns_tls_free(empty);
    CHECK_IS(ns_server_free(server), NS_OK);
}

/* V6: There is a bound. */
static void too_many(void)
{
    ns_error *err = NULL;
    ns_server *server = ns_server_new("127.0.0.1:0", echo, NULL, NULL, NULL, NULL);
    for (int i = 1; i < 4096; i++)
        CHECK_IS(ns_server_add_service(server, "0", NULL), i);
    CHECK_IS(ns_server_add_service(server, "0", &err), NS_ERR_INVALID);
    ERROR_IS(err, NS_ERR_INVALID, "at most", "4096");
    CHECK_IS(ns_server_free(server), NS_OK);
}

static int32_t tell_service(ns_server *server, ns_socket *socket, void *user_data)
{
    char buf[64];
    (void)server, (void)user_data;
    snprintf(buf, sizeof buf, "service %d\n", (int)ns_socket_service(socket));
    CHECK_IS(ns_socket_send(socket, buf, strlen(buf)), NS_OK);
    return ns_socket_close(socket);
}

/* V1, V2, V4, V5: A plain and a TLS service, and the certificate of one is replaced. The server has
 * its own share of the TLS object. */
static void plain_and_tls(void)
{
    for (int i = 0; i < 2; i++) {
        ns_error *err = NULL;
        ns_config *config = mode(i);
        ns_tls *tls = tls_of("server.pem", "server-key.pem");
        ns_server *server;
        int fd;
        CHECK_IS(ns_config_set_on_open(config, tell_service, NULL, NULL), NS_OK);
        server = ns_server_new("127.0.0.1:0", echo, NULL, NULL, config, NULL);
        ns_config_free(config);
        CHECK_IS(ns_server_add_service_tls(server, "127.0.0.1:0", tls, &err), 1);
        CHECK(err == NULL);
        check_frozen(tls);
        ns_tls_free(tls);
        CHECK_IS(ns_server_start(server, NS_START_BACKGROUND, NULL), NS_OK);
        CHECK_IS(port_of(server, 0), ns_server_port(server));

        fd = client(port_of(server, 0));
        HEAR(fd, "service 0\n");
        HEAR_END(fd);
        close(fd);
        visit(server, 1, "-servername localhost -quiet", "service 1\n");

        tls = tls_of("second.pem", "second-key.pem");
        CHECK_IS(ns_server_reload_service_tls(server, 1, tls, &err), NS_OK);
        CHECK(err == NULL);
        ns_tls_free(tls);
        visit(server, 1, "-servername localhost", "subject=CN = second\n");
        CHECK_IS(ns_server_add_service(server, "0", &err), NS_ERR_STATE);
        ERROR_IS(err, NS_ERR_STATE, "cannot add", "running");
        CHECK_IS(ns_server_free(server), NS_OK);
    }
}

int main(void)
{
    use_certificates();
    RUN(nonsense);
    RUN(too_many);
    RUN(plain_and_tls);
    return 0;
}
