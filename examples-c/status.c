/* status: answers every request with the server's own status, as a web page of plain text, and
 * one for /metrics with what Prometheus reads.
 *
 *   status [-n] [-t THREADS] [SERVICE]
 *
 * Try `curl http://127.0.0.1:5000/`. SIGINT and SIGTERM end it.
 */
#define _POSIX_C_SOURCE 200809L
#include "serve.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The textual report, then what a program would read instead: numbers. NULL without memory. */
static char *status_text(ns_server *srv) {
    size_t report = ns_server_report(srv, NULL, 0), size = report + 512, used;
    char *text = (char *)malloc(size);
    ns_stats stats;
    ns_thread_stats thread;
    if (text == NULL)
        return NULL;
    ns_server_report(srv, text, size);
    used = strlen(text);
    if (ns_server_stats(srv, &stats, sizeof stats) == NS_OK &&
        ns_server_thread_stats(srv, 0, &thread, sizeof thread) == NS_OK)
        snprintf(text + used, size - used,
                 "\naccepted %" PRIu64 ", open %" PRIu64 ", uptime %" PRIu64
                 " ms, handler calls of thread 0: %" PRIu64 "\n",
                 stats.accepted, stats.open, stats.uptime_ms, thread.calls);
    return text;
}

/* As above; the numbers may grow between the two calls. */
static char *metrics_text(ns_server *srv) {
    size_t size = ns_server_metrics(srv, NULL, 0) + 256;
    char *text = (char *)malloc(size);
    if (text != NULL)
        ns_server_metrics(srv, text, size);
    return text;
}

static int32_t handler(ns_server *srv, ns_socket *socket, void *user_data) {
    char request[4096], head[128];
    const void *parts[2];
    size_t sizes[2];
    const char *type = "text/plain";
    ns_status sent;
    char *text;
    int64_t n = ns_socket_recv(socket, request, sizeof request);
    (void)user_data;
    if (n < 0)
        return (int32_t)n;
    if (n >= 13 && memcmp(request, "GET /metrics ", 13) == 0) {
        type = "text/plain; version=0.0.4";
        text = metrics_text(srv);
    } else {
        text = status_text(srv);
    }
    if (text == NULL)
        return NS_ERR_NO_MEMORY;
    snprintf(head, sizeof head,
             "HTTP/1.0 200 OK\r\nContent-Type: %s\r\nContent-Length: %zu\r\n\r\n", type,
             strlen(text));
    parts[0] = head, sizes[0] = strlen(head);
    parts[1] = text, sizes[1] = strlen(text);
    sent = ns_socket_sendv(socket, parts, sizes, 2);
    free(text);
    ns_socket_close(socket); /* after what was sent has left; the unread request is discarded */
    return sent;
}

int main(int argc, char **argv) {
    ns_config *config = ns_config_new();
    int c, served;
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
