/* The server of the campaigns.
 *
 *   server KIND [-n] [-t THREADS] [-m MAX_CONNECTIONS] [-s CERTIFICATE -k KEY] [-b BYTES]
 *          [-H HANDSHAKE_TIMEOUT]
 *
 * With -s it speaks TLS, with -b the kernel's send buffer of each connection is so small and its
 * receive buffer four times that (non-blocking mode alone), and -H is in milliseconds.
 *
 * KIND is what the handler does:
 *   echo     sends back what comes, and ignores what `send` returns
 *   chaos    each byte that comes is an order: see `obey`
 *   publish  JOIN, PUB COUNT and PING lines: see `take_order`
 *
 * It reads commands on its standard input: "stats" prints the statistics as JSON, "stop" stops
 * the server and prints them with the status and the time it took, the end of input ends it.
 */
#define _GNU_SOURCE
#include <netserver.h>

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static ns_server *server;

/* -- echo ----------------------------------------------------------------------------------- */

static int32_t echo(ns_server *srv, ns_socket *socket, void *user_data) {
    char buf[16384];
    int64_t n;
    (void)srv, (void)user_data;
    while ((n = ns_socket_recv(socket, buf, sizeof buf)) > 0)
        ns_socket_send(socket, buf, (size_t)n);
    if (n == 0)
        ns_socket_close(socket);
    return (int32_t)n;
}

/* -- chaos ---------------------------------------------------------------------------------- */

#define RECENT 256
static _Atomic ns_conn_id recent[RECENT]; /* ids of connections that are or were open */
static _Atomic unsigned turn;
static char big[300 * 1024]; /* more than the high-water mark */
static int handed_over[2];   /* a pipe of detached sockets to the program's thread */

static ns_conn_id somebody(void) {
    return atomic_load(&recent[atomic_fetch_add(&turn, 7) % RECENT]);
}

static void give_back(ns_socket *owned) {
    if (ns_attach(server, owned, NULL) == 0)
        ns_socket_free(owned);
}

/* The program's thread: of three detached sockets it frees one and gives two back. */
static void *owner(void *unused) {
    ns_socket *owned;
    unsigned count = 0;
    (void)unused;
    while (read(handed_over[0], &owned, sizeof owned) == (ssize_t)sizeof owned) {
        ns_socket_set_io_timeout_ms(owned, 1000);
        if (++count % 3 == 0) {
            ns_socket_send(owned, "f", 1);
            ns_socket_free(owned);
        } else {
            if (count % 3 == 1)
                ns_socket_send(owned, big, 4096);
            give_back(owned);
        }
    }
    return NULL;
}

/* Work that takes a moment; an event loop has no such moments. */
static void a_moment(ns_server *srv) {
    struct timespec millisecond = {0, 1000000};
    if (!ns_config_non_blocking(ns_server_config(srv)))
        nanosleep(&millisecond, NULL);
}

static int32_t detach(ns_server *srv, ns_socket *socket, int back_at_once) {
    ns_socket *owned = ns_detach(srv, socket, NULL);
    if (owned == NULL)
        return 0; /* a blocking server */
    if (back_at_once)
        give_back(owned);
    else if (write(handed_over[1], &owned, sizeof owned) != (ssize_t)sizeof owned)
        abort();
    return NS_ERR_DETACHED;
}

/* Anything but 0 ends this call of the handler. */
static int32_t obey(ns_server *srv, ns_socket *socket, char order) {
    switch (order) {
    case 'b': ns_socket_send(socket, big, sizeof big); return 0;
    case 'c': ns_socket_close(socket); return 1;
    case 'a': ns_socket_abort(socket); return 1;
    case 'x': return ns_raise(socket, -7, "told to fail");
    case 'h': ns_socket_shutdown(socket, NS_SHUT_WR); return 0;
    case 'd': return detach(srv, socket, 0);
    case 'r': return detach(srv, socket, 1);
    case 't': ns_socket_set_timer_ms(socket, 20); return 0;
    case 'w': ns_server_wake(srv, ns_socket_id(socket)); return 0;
    case 's': ns_server_send(srv, somebody(), "s", 1); return 0;
    case 'k': ns_server_close(srv, somebody()); return 0;
    case 'K': ns_server_abort(srv, somebody()); return 0;
    case 'z': a_moment(srv); return 0;
    default: ns_socket_send(socket, &order, 1); return 0;
    }
}

static int32_t chaos(ns_server *srv, ns_socket *socket, void *user_data) {
    char orders[64];
    int64_t n;
    (void)user_data;
    while ((n = ns_socket_recv(socket, orders, sizeof orders)) > 0) {
        for (int64_t i = 0; i < n; i++) {
            int32_t answer = obey(srv, socket, orders[i]);
            if (answer == NS_ERR_DETACHED || answer > 0)
                return 0;
            if (answer < 0)
                return answer;
        }
    }
    if (n == 0)
        ns_socket_close(socket);
    return (int32_t)n;
}

static int32_t chaos_open(ns_server *srv, ns_socket *socket, void *user_data) {
    ns_conn_id id = ns_socket_id(socket);
    void *memory = malloc(64); /* shows that each one is dropped once */
    (void)srv, (void)user_data;
    atomic_store(&recent[atomic_fetch_add(&turn, 1) % RECENT], id);
    return memory == NULL ? -1 : ns_socket_set_user_data(socket, memory, free);
}

static int32_t chaos_wake(ns_server *srv, ns_socket *socket, void *user_data) {
    (void)srv, (void)user_data;
    ns_socket_send(socket, "w", 1);
    return 0;
}

static int32_t chaos_exception(ns_server *srv, ns_socket *socket, const ns_error *error,
                               void *user_data) {
    (void)srv, (void)error, (void)user_data;
    if (socket != NULL) {
        ns_socket_send(socket, big, 1000);
        ns_socket_close(socket);
    }
    return 0;
}

/* -- publish -------------------------------------------------------------------------------- */

#define MAX_MEMBERS 20000
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static ns_conn_id members[MAX_MEMBERS];
static size_t member_count;

static void join(ns_conn_id id) {
    pthread_mutex_lock(&lock);
    if (member_count < MAX_MEMBERS)
        members[member_count++] = id;
    pthread_mutex_unlock(&lock);
}

static void leave(ns_server *srv, ns_socket *socket, int32_t reason, void *user_data) {
    ns_conn_id id = ns_socket_id(socket);
    size_t i = 0;
    (void)srv, (void)reason, (void)user_data;
    pthread_mutex_lock(&lock);
    while (i < member_count && members[i] != id)
        i++;
    if (i < member_count)
        members[i] = members[--member_count];
    pthread_mutex_unlock(&lock);
}

/* All messages in one hold of the mutex that on_close waits for on every loop. */
static int32_t publish(ns_server *srv, ns_socket *socket, unsigned count) {
    int64_t accepted = 0;
    char text[64];
    pthread_mutex_lock(&lock);
    for (unsigned i = 0; i < count; i++) {
        snprintf(text, sizeof text, "%063u", i);
        text[63] = '\n';
        int64_t now = ns_server_broadcast(srv, members, member_count, text, sizeof text);
        accepted += now > 0 ? now : 0;
    }
    pthread_mutex_unlock(&lock);
    snprintf(text, sizeof text, "ACCEPTED %" PRId64 "\n", accepted);
    return ns_socket_send(socket, text, strlen(text));
}

static int32_t take_order(ns_server *srv, ns_socket *socket, void *user_data) {
    char line[64]; /* the clients send one short line and wait: it comes whole */
    int64_t n;
    int32_t status = 0;
    (void)user_data;
    while (status == 0 && (n = ns_socket_recv(socket, line, sizeof line - 1)) > 0) {
        line[n] = '\0';
        if (strncmp(line, "PUB ", 4) == 0) {
            status = publish(srv, socket, (unsigned)strtoul(line + 4, NULL, 10));
        } else if (strncmp(line, "JOIN", 4) == 0) {
            join(ns_socket_id(socket));
            status = ns_socket_send(socket, "JOINED\n", 7);
        } else {
            status = ns_socket_send(socket, line, (size_t)n);
        }
    }
    if (status == 0 && n == 0)
        ns_socket_close(socket);
    return status < 0 ? status : (int32_t)n;
}

/* -- small buffers --------------------------------------------------------------------------- */

static int buffer_size;

static int32_t shrink(ns_server *srv, ns_socket *socket, void *user_data) {
    (void)srv, (void)user_data;
    setsockopt(ns_socket_fd(socket), SOL_SOCKET, SO_SNDBUF, &buffer_size, sizeof buffer_size);
    return 0;
}

/* Connections have it from their listener. It must not become smaller than the window that the peer
 * knows: the kernel drops what is beyond it, acknowledgements too, and both sides wait. */
static void shrink_receive_buffers(void) {
    int small = 4 * buffer_size;
    setsockopt(ns_server_listener_fd(server, 0), SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
}

/* -- control -------------------------------------------------------------------------------- */

static void print_stats(const char *extra) {
    ns_stats s;
    uint64_t closed = 0;
    if (ns_server_stats(server, &s, sizeof s) != NS_OK)
        return;
    for (size_t i = 0; i < sizeof s.closed / sizeof s.closed[0]; i++)
        closed += s.closed[i];
    printf("{%s", extra);
#define FIELD(name) printf("\"" #name "\": %" PRIu64 ", ", (uint64_t)s.name)
    FIELD(state), FIELD(accepted), FIELD(attached), FIELD(refused), FIELD(open), FIELD(waiting);
    FIELD(detached), FIELD(drained), FIELD(cut), FIELD(bytes_in), FIELD(bytes_out);
    FIELD(handler_errors), FIELD(accept_errors);
    printf("\"closed\": %" PRIu64 ", \"reasons\": [", closed);
    for (size_t i = 0; i < sizeof s.closed / sizeof s.closed[0]; i++)
        printf("%s%" PRIu64, i ? ", " : "", (uint64_t)s.closed[i]);
    printf("]}\n");
    fflush(stdout);
}

static double milliseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

static void stop(void) {
    double started = milliseconds();
    ns_status status = ns_server_stop(server);
    char extra[64];
    snprintf(extra, sizeof extra, "\"status\": %d, \"ms\": %.1f, ", (int)status,
             milliseconds() - started);
    print_stats(extra);
}

static ns_handler_fn choose(const char *kind, ns_config *config) {
    if (strcmp(kind, "publish") == 0) {
        ns_config_set_on_close(config, leave, NULL, NULL);
        return take_order;
    }
    if (strcmp(kind, "chaos") == 0) {
        ns_config_set_on_open(config, chaos_open, NULL, NULL);
        ns_config_set_on_wake(config, chaos_wake, NULL, NULL);
        ns_config_set_exception_handler(config, chaos_exception, NULL, NULL);
        ns_config_set_linger_timeout_ms(config, 200);
        return chaos;
    }
    return echo;
}

int main(int argc, char **argv) {
    ns_config *config = ns_config_new();
    ns_error *error = NULL;
    pthread_t thread;
    char line[32], address[64];
    int c;
    const char *certificate = NULL, *key = NULL;
    ns_tls *tls;
    while ((c = getopt(argc, argv, "nt:m:s:k:b:H:")) != -1) {
        switch (c) {
        case 'n': ns_config_set_non_blocking(config, 1); break;
        case 't': ns_config_set_max_thread(config, (uint32_t)atol(optarg)); break;
        case 'm': ns_config_set_max_connections(config, (uint32_t)atol(optarg)); break;
        case 's': certificate = optarg; break;
        case 'k': key = optarg; break;
        case 'b': buffer_size = atoi(optarg); break;
        case 'H': ns_config_set_handshake_timeout_ms(config, (uint32_t)atol(optarg)); break;
        default: return 2;
        }
    }
    if (certificate != NULL) {
        tls = ns_tls_new();
        if (ns_tls_add_cert_file(tls, NULL, certificate, key, &error) != NS_OK) {
            fprintf(stderr, "server: %s\n", ns_error_message(error));
            return 1;
        }
        ns_config_set_tls(config, tls);
        ns_tls_free(tls);
    }
    if (buffer_size > 0)
        ns_config_set_on_open(config, shrink, NULL, NULL);
    ns_handler_fn handler = choose(optind < argc ? argv[optind] : "echo", config);
    server = ns_server_new("127.0.0.1:0", handler, NULL, NULL, config, &error);
    ns_config_free(config);
    if (pipe(handed_over) != 0 || pthread_create(&thread, NULL, owner, NULL) != 0)
        return 1;
    if (server == NULL || ns_server_start(server, NS_START_BACKGROUND, &error) != NS_OK) {
        fprintf(stderr, "server: %s\n", ns_error_message(error));
        return 1;
    }
    if (buffer_size > 0)
        shrink_receive_buffers();
    ns_server_address(server, address, sizeof address);
    printf("listening on %s\n", address);
    fflush(stdout);

    while (fgets(line, sizeof line, stdin) != NULL) {
        if (strcmp(line, "stop\n") == 0)
            stop();
        else
            print_stats("");
    }
    ns_server_stop(server);
    close(handed_over[1]);
    pthread_join(thread, NULL);
    close(handed_over[0]);
    return ns_server_free(server) == NS_OK ? 0 : 1;
}
