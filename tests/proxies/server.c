/* The server of run.py, behind a proxy: it answers each line with what it knows of its client.
 *
 *   server [-n] [-t THREADS] [-v VERSIONS] [-p TRUSTED] [-c CERT -k KEY] SERVICE
 *
 * A second service, of which no proxy is, is on a free port. */
#define _POSIX_C_SOURCE 200809L
#include <netserver.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static ns_server *server;
static int non_blocking;

static int32_t say_listening(ns_server *srv, void *user_data) {
    char first[200], second[200];
    (void)user_data;
    ns_server_address(srv, first, sizeof first);
    ns_server_service_address(srv, 1, second, sizeof second);
    printf("listening on %s, health on %s\n", first, second);
    fflush(stdout);
    return 0;
}

/* An extra as text, "-" where there is none. */
static const char *extra(ns_socket *socket, int32_t kind, char *buf, size_t len) {
    int64_t n = ns_socket_proxy_tlv(socket, kind, buf, len - 1);
    if (n < 0)
        return "-";
    buf[(size_t)n < len ? (size_t)n : len - 1] = '\0';
    return buf;
}

static int32_t answer(ns_server *srv, ns_socket *socket, void *user_data) {
    char buf[4096], peer[200], local[200], transport[200], name[300], id[200];
    int64_t n;
    (void)srv, (void)user_data;
    do {
        n = ns_socket_recv(socket, buf, sizeof buf);
        if (n > 0 && buf[n - 1] == '\n') {
            int len;
            ns_socket_peer(socket, peer, sizeof peer);
            ns_socket_local(socket, local, sizeof local);
            ns_socket_transport_peer(socket, transport, sizeof transport);
            len = snprintf(buf, sizeof buf, "%s %s %s %s %s\n", peer, local, transport,
                           extra(socket, NS_PROXY_TLV_AUTHORITY, name, sizeof name),
                           extra(socket, NS_PROXY_TLV_UNIQUE_ID, id, sizeof id));
            n = ns_socket_send(socket, buf, (size_t)len);
            if (n == 0)
                n = 1;
        }
    } while (n > 0 && !non_blocking);
    if (n == 0)
        ns_socket_close(socket);
    return n < 0 ? (int32_t)n : 0;
}

static int32_t say_failure(ns_server *srv, ns_socket *socket, const ns_error *error,
                           void *user_data) {
    (void)srv, (void)user_data;
    fprintf(stderr, "%s: %s\n", ns_status_name(ns_error_status(error)), ns_error_message(error));
    return ns_socket_close(socket);
}

static void on_signal(int number) {
    (void)number;
    ns_server_request_stop(server);
}

static int say(ns_error *error) {
    fprintf(stderr, "server: %s\n", ns_error_message(error));
    ns_error_free(error);
    return 1;
}

int main(int argc, char **argv) {
    ns_config *config = ns_config_new();
    ns_tls *tls = NULL;
    const char *cert = NULL;
    ns_error *error = NULL;
    size_t size;
    char *report;
    int c;
    while ((c = getopt(argc, argv, "nt:v:p:c:k:")) != -1) {
        switch (c) {
        case 'n': ns_config_set_non_blocking(config, non_blocking = 1); break;
        case 't': ns_config_set_max_thread(config, (uint32_t)atoi(optarg)); break;
        case 'v': ns_config_set_proxy_protocol(config, atoi(optarg)); break;
        case 'p': ns_config_add_trusted_proxy(config, optarg); break;
        case 'c': cert = optarg; break;
        case 'k':
            tls = ns_tls_new();
            ns_tls_add_cert_file(tls, NULL, cert, optarg, NULL);
            ns_config_set_tls(config, tls);
            ns_tls_free(tls);
            break;
        default: return 2;
        }
    }
    if (optind != argc - 1)
        return 2;
    ns_config_set_on_start(config, say_listening, NULL, NULL);
    ns_config_set_exception_handler(config, say_failure, NULL, NULL);
    server = ns_server_new(argv[optind], answer, NULL, NULL, config, &error);
    ns_config_free(config);
    if (server == NULL || ns_server_add_service(server, "127.0.0.1:0", &error) < 0 ||
        ns_server_set_service_proxy(server, 1, 0, &error) != NS_OK)
        return say(error);
    signal(SIGTERM, on_signal);
    if (ns_server_start(server, 0, &error) != NS_OK)
        return say(error);
    signal(SIGTERM, SIG_IGN);
    size = ns_server_report(server, NULL, 0) + 1;
    report = (char *)malloc(size);
    if (report != NULL) {
        ns_server_report(server, report, size);
        fputs(report, stdout);
    }
    free(report);
    ns_server_free(server);
    return 0;
}
