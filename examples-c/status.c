/* status: a server that shows itself. `/` is a page that an operator opens, `/events` what the page
 * shows, by server-sent events, `/metrics` what Prometheus reads, and everything else a report as
 * plain text.
 *
 *   status [-n] [-t THREADS] [SERVICE]
 *
 * Open http://127.0.0.1:5000/, or try `curl http://127.0.0.1:5000/report`. On an event loop (-n) the
 * events of a page come on one connection; a worker sends one and is free, and the page asks again.
 * SIGINT and SIGTERM end it.
 */
#define _POSIX_C_SOURCE 200809L
#include "serve.h"
#include "status_page.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { EVERY_MS = 1000, ROOM = 256 };

#define HEAD "HTTP/1.1 200 OK\r\nConnection: close\r\nCache-Control: no-store\r\nContent-Type: "
/* The page may load nothing but its own events. */
#define PAGE_HEAD                                                                             \
    HEAD "text/html; charset=utf-8\r\nContent-Security-Policy: default-src 'none'; "          \
         "style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "        \
         "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n\r\n"

/* A function that writes as snprintf does. */
typedef size_t writer(const ns_server *srv, char *buf, size_t len);

/* Its text in memory of its own, NULL without memory. */
static char *text_of(const ns_server *srv, writer *write) {
    size_t size = write(srv, NULL, 0) + ROOM; /* it may grow between the two calls */
    char *text = (char *)malloc(size);
    if (text != NULL)
        write(srv, text, size);
    return text;
}

static ns_status answer(ns_server *srv, ns_socket *socket, const char *type, writer *write) {
    char head[256], *text = text_of(srv, write);
    const void *parts[2];
    size_t sizes[2];
    ns_status sent;
    if (text == NULL)
        return NS_ERR_NO_MEMORY;
    parts[0] = head, sizes[1] = strlen(text);
    sizes[0] = (size_t)snprintf(head, sizeof head, HEAD "%s\r\nContent-Length: %zu\r\n\r\n", type,
                                sizes[1]);
    parts[1] = text;
    sent = ns_socket_sendv(socket, parts, sizes, 2);
    free(text);
    return sent;
}

static ns_status answer_page(ns_socket *socket) {
    enum { LINES = sizeof status_page / sizeof *status_page };
    const void *parts[1 + LINES];
    size_t sizes[1 + LINES], i;
    parts[0] = PAGE_HEAD, sizes[0] = strlen(PAGE_HEAD);
    for (i = 0; i < LINES; i++)
        parts[1 + i] = status_page[i], sizes[1 + i] = strlen(status_page[i]);
    return ns_socket_sendv(socket, parts, sizes, 1 + LINES);
}

/* snprintf behind what the buffer has already. */
static void add(char *buf, size_t len, size_t *used, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    *used += (size_t)vsnprintf(*used < len ? buf + *used : NULL, *used < len ? len - *used : 0,
                               format, arguments);
    va_end(arguments);
}

/* An event: the counters as JSON. */
static size_t event(const ns_server *srv, char *buf, size_t len) {
    ns_stats s;
    ns_thread_stats thread;
    const char *comma = "";
    size_t used = 0;
    uint32_t i;
    ns_server_stats(srv, &s, sizeof s);
    add(buf, len, &used, "retry: %d\ndata: {\"state\":%" PRIu32 ",\"loops\":%" PRIu32, EVERY_MS,
        s.state, s.non_blocking);
    add(buf, len, &used, ",\"uptime\":%" PRIu64 ",\"open\":%" PRIu64 ",\"waiting\":%" PRIu64,
        s.uptime_ms, s.open, s.waiting);
    add(buf, len, &used, ",\"accepted\":%" PRIu64 ",\"refused\":%" PRIu64 ",\"errors\":%" PRIu64,
        s.accepted, s.refused, s.handler_errors);
    add(buf, len, &used, ",\"in\":%" PRIu64 ",\"out\":%" PRIu64, s.bytes_in, s.bytes_out);
    add(buf, len, &used, ",\"handshakes\":%" PRIu64 ",\"failures\":%" PRIu64 ",\"threads\":[",
        s.handshakes, s.handshake_failures);
    for (i = 0; ns_server_thread_stats(srv, i, &thread, sizeof thread) == NS_OK; i++)
        add(buf, len, &used, "%s%" PRIu64, i == 0 ? "" : ",", thread.active);
    add(buf, len, &used, "],\"closed\":{");
    for (i = 0; i < sizeof s.closed / sizeof *s.closed; i++) {
        if (s.closed[i] == 0)
            continue;
        add(buf, len, &used, "%s\"%s\":%" PRIu64, comma, ns_close_reason_name((int32_t)i),
            s.closed[i]);
        comma = ",";
    }
    add(buf, len, &used, "}}\n\n");
    return used;
}

static ns_status send_event(ns_server *srv, ns_socket *socket) {
    char *text = text_of(srv, event);
    ns_status sent;
    if (text == NULL)
        return NS_ERR_NO_MEMORY;
    sent = ns_socket_send(socket, text, strlen(text));
    free(text);
    return sent;
}

/* The next event of a page. */
static int32_t on_timeout(ns_server *srv, ns_socket *socket, void *user_data) {
    ns_status sent = send_event(srv, socket);
    (void)user_data;
    return sent != NS_OK ? sent : ns_socket_set_timer_ms(socket, EVERY_MS);
}

static ns_status begin_events(ns_server *srv, ns_socket *socket) {
    static char streams; /* marks the connection */
    ns_status sent = ns_socket_send(socket, HEAD "text/event-stream\r\n\r\n",
                                    strlen(HEAD "text/event-stream\r\n\r\n"));
    if (sent == NS_OK)
        sent = send_event(srv, socket);
    if (sent != NS_OK || !ns_config_non_blocking(ns_server_config(srv)))
        return sent;
    sent = ns_socket_set_user_data(socket, &streams, NULL);
    return sent != NS_OK ? sent : ns_socket_set_timer_ms(socket, EVERY_MS);
}

static int begins(const char *request, const char *with) {
    return strncmp(request, with, strlen(with)) == 0;
}

static int32_t handler(ns_server *srv, ns_socket *socket, void *user_data) {
    char request[4096];
    ns_status sent;
    int64_t n = ns_socket_recv(socket, request, sizeof request - 1);
    (void)user_data;
    if (n < 0)
        return (int32_t)n;
    if (ns_socket_user_data(socket) != NULL) { /* a page that gets events says nothing more */
        if (n == 0)
            ns_socket_close(socket);
        return 0;
    }
    request[n] = 0; /* the first line comes in one piece */
    if (begins(request, "GET /events ")) {
        sent = begin_events(srv, socket);
        if (ns_socket_user_data(socket) != NULL)
            return sent;
    } else if (begins(request, "GET / ")) {
        sent = answer_page(socket);
    } else if (begins(request, "GET /metrics ")) {
        sent = answer(srv, socket, "text/plain; version=0.0.4", ns_server_metrics);
    } else {
        sent = answer(srv, socket, "text/plain; charset=utf-8", ns_server_report);
    }
    ns_socket_close(socket); /* after what was sent has left; the unread request is discarded */
    return sent;
}

int main(int argc, char **argv) {
    ns_config *config = ns_config_new();
    int c, served;
    /* A browser opens connections that it may never use: more workers than one, and not forever. */
    ns_config_set_max_thread(config, 4);
    ns_config_set_idle_timeout_ms(config, 10000);
    ns_config_set_on_timeout(config, on_timeout, NULL, NULL);
    while ((c = getopt(argc, argv, "nt:")) != -1) {
        switch (c) {
        case 'n': ns_config_set_non_blocking(config, 1); break;
        case 't': ns_config_set_max_thread(config, (uint32_t)strtoul(optarg, NULL, 10)); break;
        default:
            fputs("usage: status [-n] [-t THREADS] [SERVICE]\n", stderr);
            ns_config_free(config);
            return 2;
        }
    }
    if (!make_server("status", optind < argc ? argv[optind] : "5000", handler, config))
        return 1;
    served = serve("status");
    ns_server_free(server);
    return served ? 0 : 1;
}
