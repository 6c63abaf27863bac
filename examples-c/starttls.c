/* starttls: a mail server's dialogue that goes over to TLS in mid-stream (RFC 3207); no mail is
 * taken. It says why a handshake fails on standard error. SIGINT and SIGTERM end it.
 *
 *   starttls [-n] [-t THREADS] --cert FILE --key FILE [SERVICE]
 *
 *   -n           non-blocking mode: event loops, any number of connections
 *   -t THREADS   workers (blocking mode) or event loops (1)
 *   --cert FILE  certificate chain (PEM)
 *   --key FILE   its private key (PEM)
 *   SERVICE      where to listen (5025); 0 takes any free port
 *
 * Talk to it:  openssl s_client -connect localhost:5025 -starttls smtp -crlf -quiet
 */
#define _POSIX_C_SOURCE 200809L
#include "serve.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const char usage[] = "usage: starttls [-n] [-t THREADS] --cert FILE --key FILE [SERVICE]\n";

static ns_tls *tls; /* used by STARTTLS alone: the config has none, so connections begin plain */

struct session {
    size_t used; /* bytes of buffer that are filled */
    int secure;
    char buffer[1024];
};

static ns_status reply(ns_socket *socket, const char *text) {
    return ns_socket_send(socket, text, strlen(text));
}

static ns_status reply_to_ehlo(ns_socket *socket) {
    ns_tls_info info;
    char text[128];
    if (ns_socket_tls_info(socket, &info, sizeof info) != NS_OK)
        return reply(socket, "250-starttls.example\r\n250 STARTTLS\r\n");
    snprintf(text, sizeof text, "250 starttls.example, %s\r\n", info.cipher_suite);
    return reply(socket, text);
}

/* What follows the STARTTLS line in the buffer goes to TLS. Were it taken for commands, somebody
 * on the way could slip some in, in plain text, that seem to come from the client under TLS. */
static ns_status start_tls(ns_socket *socket, struct session *session, const char *ahead,
                           size_t n) {
    ns_status status = reply(socket, "220 go ahead\r\n");
    if (status == NS_OK)
        status = ns_socket_starttls(socket, tls, ahead, n);
    session->secure = 1;
    session->used = 0; /* and there is nothing else to forget of what was said before */
    return status;
}

static int is(const char *line, const char *command) {
    size_t length = strlen(command);
    return strncasecmp(line, command, length) == 0 && (line[length] == 0 || line[length] == ' ');
}

static ns_status take_line(ns_socket *socket, const char *line) {
    if (is(line, "EHLO") || is(line, "HELO"))
        return reply_to_ehlo(socket);
    if (is(line, "NOOP"))
        return reply(socket, "250 OK\r\n");
    if (is(line, "QUIT")) {
        ns_status status = reply(socket, "221 bye\r\n");
        ns_socket_close(socket);
        return status;
    }
    return reply(socket, "502 no such command here\r\n");
}

/* Takes the whole lines of the buffer; what is left moves to its beginning. */
static ns_status take_lines(ns_socket *socket, struct session *session) {
    char *line = session->buffer, *end = session->buffer + session->used, *newline;
    ns_status status = NS_OK;
    while (status == NS_OK && !ns_socket_is_closed(socket) &&
           (newline = (char *)memchr(line, '\n', (size_t)(end - line))) != NULL) {
        *newline = '\0';
        line[strcspn(line, "\r")] = '\0';
        if (!session->secure && is(line, "STARTTLS"))
            return start_tls(socket, session, newline + 1, (size_t)(end - newline - 1));
        status = take_line(socket, line);
        line = newline + 1;
    }
    session->used = (size_t)(end - line);
    memmove(session->buffer, line, session->used);
    if (session->used == sizeof session->buffer) {
        status = reply(socket, "500 line too long\r\n");
        ns_socket_close(socket);
    }
    return status;
}

static int32_t converse(ns_server *srv, ns_socket *socket, void *user_data) {
    struct session *session = (struct session *)ns_socket_user_data(socket);
    int64_t n;
    (void)srv, (void)user_data;
    while ((n = ns_socket_recv(socket, session->buffer + session->used,
                               sizeof session->buffer - session->used)) > 0) {
        ns_status status;
        session->used += (size_t)n;
        status = take_lines(socket, session);
        if (status < 0 || ns_socket_is_closed(socket))
            return status;
    }
    if (n == 0)
        ns_socket_close(socket);
    return (int32_t)n;
}

static int32_t on_open(ns_server *srv, ns_socket *socket, void *user_data) {
    struct session *session = (struct session *)calloc(1, sizeof *session);
    (void)srv, (void)user_data;
    if (session == NULL)
        return NS_ERR_NO_MEMORY;
    ns_socket_set_user_data(socket, session, free);
    return reply(socket, "220 starttls.example ESMTP\r\n");
}

static int32_t on_exception(ns_server *srv, ns_socket *socket, const ns_error *error,
                            void *user_data) {
    (void)srv, (void)user_data;
    /* A client that goes away is no event: any number may. */
    if (ns_error_status(error) != NS_ERR_RESET && ns_error_status(error) != NS_ERR_TRUNCATED)
        fprintf(stderr, "starttls: %s\n", ns_error_message(error));
    if (socket != NULL)
        ns_socket_close(socket); /* a non-blocking server leaves that to us */
    return 0;
}

/* Returns the service, NULL where the arguments make no sense. */
static const char *parse(int argc, char **argv, ns_config *config, const char **cert,
                         const char **key) {
    static const struct option longs[] = {{"cert", required_argument, NULL, 'c'},
                                          {"key", required_argument, NULL, 'k'},
                                          {NULL, 0, NULL, 0}};
    int c;
    while ((c = getopt_long(argc, argv, "nt:", longs, NULL)) != -1) {
        switch (c) {
        case 'n': ns_config_set_non_blocking(config, 1); break;
        case 't': ns_config_set_max_thread(config, (uint32_t)strtoul(optarg, NULL, 10)); break;
        case 'c': *cert = optarg; break;
        case 'k': *key = optarg; break;
        default: return NULL;
        }
    }
    if (*cert == NULL || *key == NULL || optind < argc - 1)
        return NULL;
    return optind < argc ? argv[optind] : "5025";
}

int main(int argc, char **argv) {
    ns_config *config = ns_config_new();
    const char *cert = NULL, *key = NULL;
    const char *service = parse(argc, argv, config, &cert, &key);
    ns_error *error;
    int served = 0;

    if (service == NULL) {
        fputs(usage, stderr);
        ns_config_free(config);
        return 2;
    }
    tls = ns_tls_new();
    ns_config_set_on_open(config, on_open, NULL, NULL);
    ns_config_set_exception_handler(config, on_exception, NULL, NULL);
    if (ns_tls_add_cert_file(tls, NULL, cert, key, &error) != NS_OK) {
        say_error("starttls", error);
        ns_config_free(config);
    } else if (make_server("starttls", service, converse, config)) {
        served = serve("starttls");
        ns_server_free(server);
    }
    ns_tls_free(tls);
    return served ? 0 : 1;
}
