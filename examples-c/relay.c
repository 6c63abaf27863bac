/* relay: a reverse proxy of TCP. It connects to TARGET for each client and passes on what the two
 * say, with TLS in front if there is a certificate, until SIGINT or SIGTERM.
 *
 *   relay [-t THREADS] [--cert FILE --key FILE] [SERVICE] TARGET
 *
 *   -t THREADS     event loops (1)
 *   --cert, --key  TLS with this certificate chain and its private key (PEM)
 *   SERVICE        where to listen (5000); 0 takes any free port
 *   TARGET         127.0.0.1:80, [::1]:80, unix:/path. The loop waits while a name is resolved.
 *
 * The two connections of a pair know each other by their ids. The one that connects is made in a
 * callback, so it joins the loop of the other: no lock is needed. A side is not read while much is
 * on its way to the other one. An end is passed on, and the other side may go on to talk. An error
 * of one side, and a stop, reset the other one, unless that has been told all.
 */
#define _POSIX_C_SOURCE 200809L
#include "serve.h"

#include <getopt.h>
#include <stdlib.h>

enum { WINDOW = 256 * 1024, BUFFER = 64 * 1024, CONNECT_MS = 10 * 1000 };

static const char *target, *cert_file, *key_file;

/* One of the two connections of a pair: its user data. */
struct side {
    struct side *other;
    ns_conn_id id;
    /* It is not read, because of what waits for the other side; it says nothing more; it is freed. */
    int paused, has_ended, is_gone;
};

/* Frees the pair, which is one block of memory, with the second of its sides. */
static void leave(void *user_data) {
    struct side *side = (struct side *)user_data;
    side->is_gone = 1;
    if (side->other->is_gone)
        free(side < side->other ? side : side->other);
}

/* A side has said all. */
static void pass_end_on(ns_server *srv, ns_socket *socket, struct side *side) {
    side->has_ended = 1;
    if (side->other->has_ended) {
        ns_server_close(srv, side->other->id);
        ns_socket_close(socket);
    } else {
        ns_server_shutdown(srv, side->other->id, NS_SHUT_WR);
    }
}

/* Passes on what a side says. If the other one is gone, its on_close ends this one. */
static int32_t relay(ns_server *srv, ns_socket *socket, void *user_data) {
    struct side *side = (struct side *)ns_socket_user_data(socket), *other = side->other;
    char buffer[BUFFER];
    int64_t queued;
    (void)user_data;
    while ((queued = ns_server_queued(srv, other->id)) < WINDOW) {
        int64_t n = queued < 0 ? NS_ERR_WOULD_BLOCK : ns_socket_recv(socket, buffer, sizeof buffer);
        if (n < 0)
            return (int32_t)n;
        if (n == 0) {
            pass_end_on(srv, socket, side);
            return 0;
        }
        ns_server_send(srv, other->id, buffer, (size_t)n);
    }
    side->paused = 1;
    return ns_socket_pause(socket);
}

/* The queue of a side is empty: the other one may be read again. */
static int32_t on_drain(ns_server *srv, ns_socket *socket, void *user_data) {
    const struct side *other = ((struct side *)ns_socket_user_data(socket))->other;
    (void)user_data;
    if (other->paused)
        ns_server_wake(srv, other->id);
    return 0;
}

static int32_t on_wake(ns_server *srv, ns_socket *socket, void *user_data) {
    (void)srv, (void)user_data;
    ((struct side *)ns_socket_user_data(socket))->paused = 0;
    return ns_socket_resume(socket);
}

/* A client gets its pair, and the connection to the target. What the client says before that is
 * there waits in its queue. */
static int32_t on_open(ns_server *srv, ns_socket *socket, void *user_data) {
    struct side *sides;
    ns_error *error;
    (void)user_data;
    if (ns_socket_service(socket) < 0) /* to the target */
        return 0;
    sides = (struct side *)calloc(2, sizeof *sides);
    if (sides == NULL)
        return NS_ERR_REJECTED;
    sides[0].other = &sides[1];
    sides[1].other = &sides[0];
    sides[0].id = ns_socket_id(socket);
    ns_socket_set_user_data(socket, &sides[0], leave);
    sides[1].id = ns_server_connect(srv, target, CONNECT_MS, &sides[1], leave, &error);
    say_error("relay", error);
    return sides[1].id != 0 ? 0 : ns_socket_abort(socket);
}

/* If all that this side said was passed on, the other one gets it all. */
static void end_other(ns_server *srv, const struct side *side) {
    (side->has_ended ? ns_server_close : ns_server_abort)(srv, side->other->id);
}

static void on_close(ns_server *srv, ns_socket *socket, int32_t reason, void *user_data) {
    (void)reason, (void)user_data;
    if (ns_socket_user_data(socket) != NULL)
        end_other(srv, (const struct side *)ns_socket_user_data(socket));
}

static int32_t on_exception(ns_server *srv, ns_socket *socket, const ns_error *error,
                            void *user_data) {
    const ns_status status = ns_error_status(error);
    const struct side *side = (const struct side *)ns_socket_user_data(socket);
    (void)user_data;
    if (status != NS_ERR_RESET) /* a peer that goes away is no event */
        fprintf(stderr, "relay: %s\n", ns_error_message(error));
    if (side != NULL && (status == NS_ERR_CONNECT || status == NS_ERR_NO_MEMORY))
        end_other(srv, side); /* it cannot be served, and no on_close comes */
    else if (socket != NULL)
        ns_socket_abort(socket);
    return 0;
}

/* Returns the service, NULL where the arguments make no sense. */
static const char *parse(int argc, char **argv, ns_config *config) {
    static const struct option longs[] = {{"cert", required_argument, NULL, 'c'},
                                          {"key", required_argument, NULL, 'k'},
                                          {NULL, 0, NULL, 0}};
    int c;
    while ((c = getopt_long(argc, argv, "t:", longs, NULL)) != -1) {
        switch (c) {
        case 't': ns_config_set_max_thread(config, (uint32_t)strtoul(optarg, NULL, 10)); break;
        case 'c': cert_file = optarg; break;
        case 'k': key_file = optarg; break;
        default: return NULL;
        }
    }
    if (!cert_file != !key_file || optind >= argc || optind < argc - 2)
        return NULL;
    target = argv[argc - 1];
    return optind == argc - 1 ? "5000" : argv[optind];
}

static int32_t abort_one(ns_conn_id id, void *user_data) {
    (void)user_data;
    ns_server_abort(server, id);
    return 0;
}

/* A stop ends in order what has nothing queued, and cannot know that the target had more to say:
 * the unfinished pairs are reset before it. */
static int serve_until_signal(void) {
    ns_error *error;
    sigset_t signals;
    int number;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT), sigaddset(&signals, SIGTERM);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    if (ns_server_start(server, NS_START_BACKGROUND, &error) != NS_OK)
        return say_error("relay", error), 0;
    sigwait(&signals, &number);
    ns_server_foreach(server, abort_one, NULL);
    return ns_server_stop(server) == NS_OK;
}

int main(int argc, char **argv) {
    ns_config *config = ns_config_new();
    const char *service = parse(argc, argv, config);
    int served;
    if (service == NULL) {
        ns_config_free(config);
        fputs("usage: relay [-t THREADS] [--cert FILE --key FILE] [SERVICE] TARGET\n", stderr);
        return 2;
    }
    ns_config_set_non_blocking(config, 1);
    /* A side is read while the other one takes it, however slowly it reads itself. */
    ns_config_set_high_water_mark(config, 4 * WINDOW);
    ns_config_set_on_open(config, on_open, NULL, NULL);
    ns_config_set_on_close(config, on_close, NULL, NULL);
    ns_config_set_on_drain(config, on_drain, NULL, NULL);
    ns_config_set_on_wake(config, on_wake, NULL, NULL);
    ns_config_set_exception_handler(config, on_exception, NULL, NULL);
    if (cert_file != NULL) {
        ns_tls *tls = ns_tls_new();
        ns_tls_add_cert_file(tls, NULL, cert_file, key_file, NULL);
        ns_config_set_tls(config, tls);
        ns_tls_free(tls); /* the config has its share */
    }
    served = make_server("relay", service, relay, config) && serve_until_signal();
    ns_server_free(server);
    return served ? 0 : 1;
}
