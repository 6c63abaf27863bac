/* handover: an echo server that replaces itself on SIGHUP, without a client that notices.
 *
 *   handover [-n] [-t THREADS] [--cert FILE --key FILE] [SERVICE]
 *
 *   -n           non-blocking mode: event loops
 *   -t THREADS   workers (blocking mode) or event loops (1)
 *   --cert FILE  TLS with this certificate chain (PEM), and
 *   --key FILE   its private key (PEM)
 *   SERVICE      where to listen (5000); 0 takes any free port
 *
 * On SIGHUP it runs its program anew, which may be another version by now, and gives it the
 * listening socket as fd:N and a pipe as $HANDOVER_READY. The successor starts, writes a byte to the
 * pipe, and accepts from the same queue. Only then the predecessor quiesces, waits until its
 * connections have ended (30 s at most), and stops. A successor that does not start changes nothing.
 * SIGINT and SIGTERM stop it.
 */
#define _POSIX_C_SOURCE 200809L
#include <netserver.h>

#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PATIENCE_MS = 10000, GRACE_MS = 30000 };

static ns_server *server;
static int non_blocking;
static const char *cert_file, *key_file; /* NULL: not given */

static int32_t echo(ns_server *srv, ns_socket *socket, void *user_data) {
    char buffer[16384];
    int64_t n;
    (void)srv, (void)user_data;
    do {
        n = ns_socket_recv(socket, buffer, sizeof buffer);
        if (n > 0) {
            ns_status status = ns_socket_send(socket, buffer, (size_t)n);
            if (status < 0)
                return status;
        }
    } while (n > 0 && !non_blocking);
    if (n == 0 && non_blocking)
        ns_socket_close(socket);
    return (int32_t)n;
}

static int close_on_exec(int fd) {
    return fcntl(fd, F_SETFD, FD_CLOEXEC);
}

/* Waits for the successor's byte. The pipe ends without one where it could not start. */
static int is_ready(int fd) {
    struct pollfd entry = {fd, POLLIN, 0};
    char byte;
    return poll(&entry, 1, PATIENCE_MS) == 1 && read(fd, &byte, 1) == 1;
}

/* Runs the program anew with the listening socket. Returns whether the successor accepts. */
static int replace(char **argv, int argc) {
    char service[16], ready[16];
    int pipe_fds[2], listener, accepts;
    pid_t child;
    if (pipe(pipe_fds) != 0)
        return 0;
    close_on_exec(pipe_fds[0]);
    listener = dup(ns_server_listener_fd(server, 0)); /* a duplicate is not close-on-exec */
    snprintf(service, sizeof service, "fd:%d", listener);
    snprintf(ready, sizeof ready, "%d", pipe_fds[1]);
    setenv("HANDOVER_READY", ready, 1);
    argv[argc] = service; /* in place of SERVICE, or behind the options */
    child = listener < 0 ? -1 : fork();
    if (child == 0) {
        execvp(argv[0], argv);
        _exit(127);
    }
    unsetenv("HANDOVER_READY");
    close(pipe_fds[1]);
    close(listener);
    accepts = child > 0 && is_ready(pipe_fds[0]);
    close(pipe_fds[0]);
    if (child > 0 && !accepts) {
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
    }
    return accepts;
}

/* Tells the predecessor, if there is one, that this server accepts. */
static void say_ready(void) {
    const char *ready = getenv("HANDOVER_READY");
    if (ready != NULL) {
        int fd = atoi(ready);
        if (write(fd, "r", 1) != 1)
            perror("handover: the predecessor is gone");
        close(fd);
        unsetenv("HANDOVER_READY");
    }
}

/* Serves until a signal ends it. Returns 0, or 1 where the stop was not clean. */
static int serve(const sigset_t *signals, char **argv, int argc) {
    for (;;) {
        int signal_number = 0;
        sigwait(signals, &signal_number);
        if (signal_number != SIGHUP)
            break;
        if (!replace(argv, argc)) {
            fputs("handover: the successor does not start; going on\n", stderr);
            continue;
        }
        ns_server_quiesce(server);
        if (ns_server_wait_idle(server, GRACE_MS) != NS_OK)
            fputs("handover: connections are left; they are drained\n", stderr);
        break;
    }
    return ns_server_stop(server) != NS_OK;
}

static int take_option(int c, ns_config *config) {
    switch (c) {
    case 'n':
        non_blocking = 1;
        return ns_config_set_non_blocking(config, 1) == NS_OK;
    case 't':
        return ns_config_set_max_thread(config, (uint32_t)strtoul(optarg, NULL, 10)) == NS_OK;
    case 'c':
        cert_file = optarg;
        return 1;
    case 'k':
        key_file = optarg;
        return 1;
    default:
        return 0;
    }
}

static int parse(int argc, char **argv, ns_config *config) {
    static const struct option longs[] = {{"cert", required_argument, NULL, 'c'},
                                          {"key", required_argument, NULL, 'k'},
                                          {NULL, 0, NULL, 0}};
    int c;
    while ((c = getopt_long(argc, argv, "nt:", longs, NULL)) != -1) {
        if (!take_option(c, config))
            return 0;
    }
    return (cert_file == NULL) == (key_file == NULL) && optind >= argc - 1;
}

static void use_tls(ns_config *config) {
    ns_tls *tls = ns_tls_new();
    ns_tls_add_cert_file(tls, NULL, cert_file, key_file, NULL);
    ns_config_set_tls(config, tls);
    ns_tls_free(tls); /* the config has its share */
}

static int start(const char *service, ns_config *config) {
    char address[128];
    ns_error *error = NULL;
    server = ns_server_new(service, echo, NULL, NULL, config, &error);
    if (server == NULL || ns_server_start(server, NS_START_BACKGROUND, &error) != NS_OK) {
        fprintf(stderr, "handover: %s\n", ns_error_message(error));
        ns_error_free(error);
        return 0;
    }
    ns_server_address(server, address, sizeof address);
    printf("handover: process %ld listening on %s\n", (long)getpid(), address);
    fflush(stdout);
    return 1;
}

int main(int argc, char **argv) {
    ns_config *config = ns_config_new();
    char **successor = (char **)calloc((size_t)argc + 2, sizeof *successor);
    const char *service;
    int result = 1, options;
    sigset_t signals;

    if (successor == NULL || !parse(argc, argv, config)) {
        fputs("usage: handover [-n] [-t THREADS] [--cert FILE --key FILE] [SERVICE]\n", stderr);
        ns_config_free(config);
        free(successor);
        return 2;
    }
    options = optind;
    service = options < argc ? argv[options] : "5000";
    memcpy(successor, argv, (size_t)options * sizeof *successor);
    if (strncmp(service, "fd:", 3) == 0)
        close_on_exec(atoi(service + 3)); /* the next successor gets a descriptor of its own */
    /* The library's threads block all signals, so this one alone gets them. */
    sigemptyset(&signals);
    sigaddset(&signals, SIGHUP);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    ns_config_set_lend_listeners(config, 1);
    if (cert_file != NULL)
        use_tls(config);
    if (start(service, config)) {
        say_ready();
        result = serve(&signals, successor, options);
    }
    ns_config_free(config);
    ns_server_free(server);
    free(successor);
    return result;
}
