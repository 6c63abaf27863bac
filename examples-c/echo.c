/* echo: sends back what it receives, in either mode, until SIGINT or SIGTERM.
 *
 *   echo [-n] [-t THREADS] [-6] [-b BUFFER_BYTES] [--reuse-port] [--shutdown-port P]
 *        [--cert FILE --key FILE [--client-ca FILE]] [SERVICE]
 *
 *   -n                 non-blocking mode: event loops, any number of connections
 *   -t THREADS         workers (blocking mode) or event loops (1)
 *   -6                 IPv6 too
 *   -b BUFFER_BYTES    receive buffer of each thread (262144)
 *   --reuse-port       other servers may listen on the same port
 *   --shutdown-port P  a connection to this port stops the server (off)
 *   --cert FILE        TLS with this certificate chain (PEM), and
 *   --key FILE         its private key (PEM)
 *   --client-ca FILE   serve only clients with a certificate of these authorities (PEM)
 *   SERVICE            where to listen (5000); 0 takes any free port; also unix:/path, fd:3, systemd
 */
#define _POSIX_C_SOURCE 200809L
#include "serve.h"

#include <errno.h>
#include <getopt.h>
#include <pthread.h>
#include <stdlib.h>

static const char usage[] =
    "usage: echo [-n] [-t THREADS] [-6] [-b BUFFER_BYTES] [--reuse-port] [--shutdown-port P]\n"
    "            [--cert FILE --key FILE [--client-ca FILE]] [SERVICE]\n";

static pthread_key_t freed_at_exit; /* of a thread: its buffer */
static size_t buffer_size = 256 * 1024;
static int non_blocking;
static const char *cert_file, *key_file, *client_ca_file; /* NULL: not given */

/* One buffer for each thread, not for each connection: a handler uses it within one call only. */
static char *buffer_of_this_thread(void) {
    static __thread char *buffer;
    if (buffer == NULL) {
        buffer = (char *)malloc(buffer_size);
        pthread_setspecific(freed_at_exit, buffer);
    }
    return buffer;
}

static int32_t echo(ns_server *srv, ns_socket *socket, void *user_data) {
    char *buffer = buffer_of_this_thread();
    int64_t n;
    (void)srv, (void)user_data;
    if (buffer == NULL)
        return ns_raise(socket, NS_ERR_NO_MEMORY, "no memory for a receive buffer");
    do {
        n = ns_socket_recv(socket, buffer, buffer_size);
        if (n > 0) {
            ns_status status = ns_socket_send(socket, buffer, (size_t)n);
            if (status < 0)
                return status;
        }
    } while (n > 0 && !non_blocking); /* a loop calls again where input is left */
    if (n == 0 && non_blocking)       /* in blocking mode returning closes */
        ns_socket_close(socket);
    return (int32_t)n;
}

static int32_t on_exception(ns_server *srv, ns_socket *socket, const ns_error *error,
                            void *user_data) {
    (void)srv, (void)user_data;
    if (socket == NULL) {
        fprintf(stderr, "echo: %s\n", ns_error_message(error));
    } else {
        /* A client that goes away is no event: any number may. */
        if (ns_error_status(error) == NS_ERR_RESET || ns_error_status(error) == NS_ERR_TRUNCATED)
            return ns_socket_close(socket);
        fprintf(stderr, "echo: connection %llu: %s\n", (unsigned long long)ns_socket_id(socket),
                ns_error_message(error));
        ns_socket_close(socket); /* a non-blocking server leaves that to us */
    }
    return 0;
}

static void print_report(void) {
    size_t size = ns_server_report(server, NULL, 0) + 1;
    char *report = (char *)malloc(size);
    if (report == NULL)
        return;
    ns_server_report(server, report, size);
    fputs(report, stdout);
    free(report);
}

/* 0 after saying that it is none. */
static unsigned long number(const char *text, unsigned long max) {
    char *end;
    unsigned long value;
    errno = 0;
    value = strtoul(text, &end, 10);
    if (errno == 0 && end != text && *end == '\0' && *text != '-' && value > 0 && value <= max)
        return value;
    fprintf(stderr, "echo: not a number from 1 to %lu: %s\n", max, text);
    return 0;
}

/* Whether the option makes sense. What the library thinks of its value ns_server_new reports. */
static int take_option(int c, ns_config *config) {
    unsigned long n = 1;
    switch (c) {
    case 'n':
        non_blocking = 1;
        ns_config_set_non_blocking(config, 1);
        break;
    case '6': ns_config_set_use_ipv6(config, 1); break;
    case 'r': ns_config_set_reuse_port(config, 1); break;
    case 's': ns_config_set_shutdown_port(config, optarg); break;
    case 't':
        n = number(optarg, UINT32_MAX);
        ns_config_set_max_thread(config, (uint32_t)n);
        break;
    case 'b':
        n = number(optarg, 1UL << 30);
        buffer_size = n;
        break;
    case 'c': cert_file = optarg; break;
    case 'k': key_file = optarg; break;
    case 'a': client_ca_file = optarg; break;
    default: n = 0;
    }
    return n != 0;
}

/* Returns the service, NULL where the arguments make no sense. */
static const char *parse(int argc, char **argv, ns_config *config) {
    static const struct option longs[] = {{"reuse-port", no_argument, NULL, 'r'},
                                          {"shutdown-port", required_argument, NULL, 's'},
                                          {"cert", required_argument, NULL, 'c'},
                                          {"key", required_argument, NULL, 'k'},
                                          {"client-ca", required_argument, NULL, 'a'},
                                          {NULL, 0, NULL, 0}};
    int c;
    while ((c = getopt_long(argc, argv, "nt:6b:", longs, NULL)) != -1) {
        if (!take_option(c, config))
            return NULL;
    }
    if ((cert_file == NULL) != (key_file == NULL) || (client_ca_file != NULL && cert_file == NULL))
        return NULL;
    if (optind == argc)
        return "5000";
    return optind == argc - 1 ? argv[optind] : NULL;
}

/* What is wrong with a file ns_server_new reports: the TLS object remembers it. */
static void use_tls(ns_config *config) {
    ns_tls *tls = ns_tls_new();
    ns_tls_add_cert_file(tls, NULL, cert_file, key_file, NULL);
    if (client_ca_file != NULL)
        ns_tls_set_client_ca_file(tls, client_ca_file, 1, NULL);
    ns_config_set_tls(config, tls);
    ns_tls_free(tls); /* the config has its share */
}

int main(int argc, char **argv) {
    ns_config *config = ns_config_new();
    const char *service = parse(argc, argv, config);
    int served;

    if (service == NULL) {
        fputs(usage, stderr);
        ns_config_free(config);
        return 2;
    }
    pthread_key_create(&freed_at_exit, free);
    ns_config_set_exception_handler(config, on_exception, NULL, NULL);
    if (cert_file != NULL)
        use_tls(config);
    if (!make_server("echo", service, echo, config))
        return 1;
    served = serve("echo");
    if (served)
        print_report();
    ns_server_free(server);
    free(pthread_getspecific(freed_at_exit)); /* one loop runs on this thread, which goes on */
    return served ? 0 : 1;
}
