/* Quiesce: from threads, callbacks and signal handlers, and the listener that it lends. */
#include "check.h"

#include <fcntl.h>

static void *quiesce(void *server)
{
    CHECK_IS(ns_server_quiesce(server), NS_OK);
    return NULL;
}

static void nothing_listens(uint16_t port)
{
    struct sockaddr_in address;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK_IS(connect(fd, (struct sockaddr *)&address, sizeof address), -1);
    CHECK_IS(errno, ECONNREFUSED);
    close(fd);
}

static event quiesced = EVENT;

static void on_quiesce(ns_server *server, void *user_data)
{
    (void)user_data;
    CHECK_IS(ns_server_wait_idle(server, 0), NS_ERR_DEADLOCK);
    event_add(&quiesced);
}

/* QU1, QU6, QU12, QU13: Another thread quiesces; the open connection is served on. */
static void from_another_thread(void)
{
    int mode;
    for (mode = 0; mode < 2; mode++) {
        ns_config *config = mode ? non_blocking() : ns_config_new();
        int before = event_count(&quiesced), fd;
        pthread_t thread;
        ns_server *server;
        CHECK_IS(ns_config_set_on_quiesce(config, on_quiesce, NULL, NULL), NS_OK);
        server = SERVE(config, echo, NULL);
        CHECK_IS(ns_server_is_ready(server), 1);
        fd = client(ns_server_port(server));
        say(fd, "before");
        HEAR(fd, "before");
        CHECK_IS(pthread_create(&thread, NULL, quiesce, server), 0);
        CHECK_IS(ns_server_quiesce(server), NS_OK);
        CHECK_IS(pthread_join(thread, NULL), 0);
        CHECK_IS(event_count(&quiesced), before + 1);
        CHECK_IS(ns_server_is_ready(server), 0);
        CHECK_IS(ns_server_state(server), NS_STATE_QUIESCING);
        nothing_listens(ns_server_port(server));
        say(fd, "after");
        HEAR(fd, "after");
        CHECK_IS(ns_server_wait_idle(server, 10), NS_ERR_TIMEOUT);
        close(fd);
        CHECK_IS(ns_server_wait_idle(server, DEADLINE_MS), NS_OK);
        CHECK_IS(ns_server_stop(server), NS_OK);
        CHECK_IS(ns_server_quiesce(server), NS_OK);
        CHECK_IS(ns_server_wait_idle(server, 0), NS_OK);
        CHECK_IS(ns_server_free(server), NS_OK);
    }
}

static int32_t quiesce_and_echo(ns_server *server, ns_socket *socket, void *user_data)
{
    CHECK_IS(ns_server_quiesce(server), NS_OK);
    CHECK_IS(ns_server_is_ready(server), 0);
    CHECK_IS(ns_server_wait_idle(server, -1), NS_ERR_DEADLOCK);
    return echo(server, socket, user_data);
}

/* QU5: In a callback it is a request alone. */
static void from_a_callback(void)
{
    int mode;
    for (mode = 0; mode < 2; mode++) {
        ns_server *server = SERVE(mode ? non_blocking() : NULL, quiesce_and_echo, NULL);
        int fd = client(ns_server_port(server));
        say(fd, "hello");
        HEAR(fd, "hello");
        WAIT_UNTIL(ns_server_state(server) == NS_STATE_QUIESCING);
        CHECK_IS(ns_server_quiesce(server), NS_OK);
        nothing_listens(ns_server_port(server));
        close(fd);
        CHECK_IS(ns_server_wait_idle(server, DEADLINE_MS), NS_OK);
        CHECK_IS(ns_server_free(server), NS_OK);
    }
}

/* QU8: A hosted server quiesces and waits in turns that the calls run. */
static void hosted(void)
{
    ns_config *config = non_blocking();
    ns_server *server = ns_server_new("127.0.0.1:0", echo, NULL, NULL, config, NULL);
    int fd;
    ns_config_free(config);
    CHECK_IS(ns_server_start(server, NS_START_HOSTED, NULL), NS_OK);
    fd = client(ns_server_port(server));
    CHECK_IS(ns_server_quiesce(server), NS_OK);
    nothing_listens(ns_server_port(server));
    say(fd, "hello");
    CHECK_IS(shutdown(fd, SHUT_WR), 0);
    CHECK_IS(ns_server_wait_idle(server, DEADLINE_MS), NS_OK);
    HEAR(fd, "hello");
    HEAR_END(fd);
    close(fd);
    CHECK_IS(ns_server_free(server), NS_OK);
}

static ns_server *signalled;
static volatile sig_atomic_t kept;

static void on_signal(int number)
{
    (void)number;
    errno = EXDEV;
    kept = ns_server_request_quiesce(signalled) == NS_OK && errno == EXDEV;
    errno = 0;
}

/* QU5: A request in a signal handler keeps errno. */
static void from_a_signal_handler(void)
{
    struct sigaction action, former;
    int mode;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    CHECK_IS(sigaction(SIGUSR1, &action, &former), 0);
    for (mode = 0; mode < 2; mode++) {
        signalled = SERVE(mode ? non_blocking() : NULL, echo, NULL);
        kept = 0;
        CHECK_IS(raise(SIGUSR1), 0);
        CHECK_IS(kept, 1);
        CHECK_IS(ns_server_is_ready(signalled), 0);
        CHECK_IS(ns_server_quiesce(signalled), NS_OK);
        nothing_listens(ns_server_port(signalled));
        CHECK_IS(ns_server_free(signalled), NS_OK);
    }
    CHECK_IS(sigaction(SIGUSR1, &former, NULL), 0);
}

/* HO1, HO2, HO3: A lent listener is the server's and close-on-exec; its duplicate outlives it. */
static void a_lent_listener(void)
{
    int mode;
    for (mode = 0; mode < 2; mode++) {
        ns_config *config = mode ? non_blocking() : ns_config_new();
        ns_server *server;
        int fd, copy, waiting;
        CHECK_IS(ns_config_set_lend_listeners(config, 1), NS_OK);
        server = SERVE(config, echo, NULL);
        fd = ns_server_listener_fd(server, 0);
        CHECK(fd >= 0);
        CHECK_IS(ns_server_listener_fd(server, 0), fd);
        CHECK_IS(ns_server_listener_fd(server, 1), NS_ERR_INVALID);
        CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
        copy = dup(fd);
        CHECK_IS(ns_server_quiesce(server), NS_OK);
        CHECK_IS(ns_server_listener_fd(server, 0), NS_ERR_STATE);
        waiting = client(ns_server_port(server));
        close(waiting);
        CHECK_IS(ns_server_free(server), NS_OK);
        close(copy);
    }
}

/* QU6, QU12, HO1, HO2: Before the start, and without the setting. */
static void wrong_use(void)
{
    ns_server *server = ns_server_new("127.0.0.1:0", echo, NULL, NULL, NULL, NULL);
    CHECK_IS(ns_server_quiesce(server), NS_ERR_STATE);
    CHECK_IS(ns_server_request_quiesce(server), NS_ERR_STATE);
    CHECK_IS(ns_server_wait_idle(server, 0), NS_OK);
    CHECK_IS(ns_server_wait_idle(server, -2), NS_ERR_INVALID);
    CHECK_IS(ns_server_is_ready(server), 0);
    CHECK_IS(ns_server_start(server, NS_START_BACKGROUND, NULL), NS_OK);
    CHECK_IS(ns_server_listener_fd(server, 0), NS_ERR_UNSUPPORTED);
    CHECK_IS(ns_server_free(server), NS_OK);
}

int main(void)
{
    RUN(from_another_thread);
    RUN(from_a_callback);
    RUN(hosted);
    RUN(from_a_signal_handler);
    RUN(a_lent_listener);
    RUN(wrong_use);
    return 0;
}
