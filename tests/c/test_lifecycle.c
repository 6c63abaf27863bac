/* Start, stop, wait and free, from everywhere; the shutdown port. */
#include "check.h"

#include <fcntl.h>

static event starts = EVENT, stops = EVENT;

static int32_t on_start(ns_server *server, void *user_data)
{
    CHECK(ns_server_port(server) != 0);
    CHECK_IS(ns_server_wait(server, -1), NS_ERR_DEADLOCK);
    CHECK_IS(ns_server_free(server), NS_ERR_BUSY);
    (void)user_data;
    event_add(&starts);
    return 0;
}

static void on_stop(ns_server *server, void *user_data)
{
    CHECK_IS(ns_server_stop(server), NS_OK);
    CHECK_IS(ns_server_wait(server, -1), NS_ERR_DEADLOCK);
    CHECK_IS(ns_server_free(server), NS_ERR_BUSY);
    (void)user_data;
    event_add(&stops);
}

static ns_config *hooked(ns_config *config)
{
    CHECK_IS(ns_config_set_on_start(config, on_start, NULL, NULL), NS_OK);
    CHECK_IS(ns_config_set_on_stop(config, on_stop, NULL, NULL), NS_OK);
    return config;
}

/* L13: Stop and wait have nothing to do. */
static void never_started(void)
{
    ns_config *config = hooked(ns_config_new());
    ns_server *server = ns_server_new("127.0.0.1:0", echo, NULL, NULL, config, NULL);
    int stopped = event_count(&stops);
    ns_config_free(config);
    CHECK_IS(ns_server_is_stopped(server), 1);
    CHECK_IS(ns_server_state(server), NS_STATE_NEW);
    CHECK_IS(ns_server_stop(server), NS_OK);
    CHECK_IS(ns_server_wait(server, -1), NS_OK);
    CHECK_IS(ns_server_wait(server, INT64_MAX), NS_OK);
    CHECK_IS(ns_server_state(server), NS_STATE_NEW);
    CHECK_IS(ns_server_free(server), NS_OK);
    CHECK_IS(event_count(&stops), stopped);
}

/* S10: The second stop returns 0, too. */
static void stopped_twice(void)
{
    int started = event_count(&starts), stopped = event_count(&stops);
    ns_server *server = SERVE(hooked(ns_config_new()), echo, NULL);
    ns_error *err;
    CHECK_IS(event_count(&starts), started + 1);
    CHECK_IS(ns_server_start(server, 0, &err), NS_ERR_STATE);
    ns_error_free(err);
    CHECK_IS(ns_server_wait(server, 1), NS_ERR_TIMEOUT);
    CHECK_IS(ns_server_stop(server), NS_OK);
    CHECK_IS(ns_server_stop(server), NS_OK);
    CHECK_IS(ns_server_stop_within(server, 0), NS_OK);
    CHECK_IS(ns_server_wait(server, -1), NS_OK);
    CHECK_IS(ns_server_wait(server, 0), NS_OK);
    CHECK_IS(ns_server_start(server, NS_START_BACKGROUND, NULL), NS_ERR_STATE);
    CHECK_IS(event_count(&stops), stopped + 1);
    CHECK_IS(ns_server_free(server), NS_OK);
    CHECK_IS(event_count(&stops), stopped + 1);
}

/* In a handler stop requests and returns immediately; wait and free refuse. */
static int32_t stop_in_handler(ns_server *server, ns_socket *socket, void *user_data)
{
    char byte;
    (void)user_data;
    if (ns_socket_recv(socket, &byte, 1) < 1)
        return 0;
    CHECK_IS(ns_server_wait(server, -1), NS_ERR_DEADLOCK);
    CHECK_IS(ns_server_wait(server, 0), NS_ERR_DEADLOCK);
    CHECK_IS(ns_server_free(server), NS_ERR_BUSY);
    CHECK_IS(ns_server_stop(server), NS_OK);
    CHECK_IS(ns_server_stop_within(server, 3000), NS_OK);
    CHECK_IS(ns_socket_send(socket, "bye", 3), NS_OK);
    return 0;
}

static void stopped_in_handler_of(ns_config *config)
{
    int stopped = event_count(&stops);
    ns_server *server = SERVE(hooked(config), stop_in_handler, NULL);
    int fd = client(ns_server_port(server));
    say(fd, "x");
    CHECK_IS(ns_server_wait(server, DEADLINE_MS), NS_OK);
    HEAR(fd, "bye");
    HEAR_END(fd);
    close(fd);
    CHECK_IS(event_count(&stops), stopped + 1);
    CHECK_IS(ns_server_free(server), NS_OK);
}

/* S11: A worker's handler requests the stop. */
static void stopped_in_handler_blocking(void)
{
    stopped_in_handler_of(ns_config_new());
}

/* S11: A loop's handler requests the stop. */
static void stopped_in_handler_non_blocking(void)
{
    stopped_in_handler_of(non_blocking());
}

static ns_server *to_stop;
static volatile sig_atomic_t result, kept;

static void on_signal(int number)
{
    (void)number;
    errno = 4711;
    result = ns_server_request_stop(to_stop);
    kept = errno;
}

/* S12: A signal handler requests the stop. */
static void stopped_by_signal(void)
{
    struct sigaction action, former;
    int stopped = event_count(&stops);
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    result = 1;
    CHECK_IS(sigaction(SIGUSR1, &action, &former), 0);
    to_stop = SERVE(hooked(non_blocking()), echo, NULL);
    raise(SIGUSR1);
    CHECK_IS(result, NS_OK);
    CHECK_IS(kept, 4711);
    CHECK_IS(ns_server_wait(to_stop, DEADLINE_MS), NS_OK);
    CHECK_IS(event_count(&stops), stopped + 1);
    CHECK_IS(ns_server_request_stop(to_stop), NS_OK);
    CHECK_IS(ns_server_free(to_stop), NS_OK);
    CHECK_IS(sigaction(SIGUSR1, &former, NULL), 0);
}

/* A request before the start is remembered: the start returns immediately, without hooks. */
static void request_before_start_with(uint32_t flags)
{
    int started = event_count(&starts), stopped = event_count(&stops);
    ns_config *config = hooked(ns_config_new());
    ns_server *server = ns_server_new("127.0.0.1:0", echo, NULL, NULL, config, NULL);
    ns_config_free(config);
    CHECK_IS(ns_server_request_stop(server), NS_OK);
    CHECK_IS(ns_server_start(server, flags, NULL), NS_OK);
    CHECK_IS(ns_server_is_stopped(server), 1);
    CHECK_IS(ns_server_free(server), NS_OK);
    CHECK_IS(event_count(&starts), started);
    CHECK_IS(event_count(&stops), stopped);
}

/* S13: The start returns 0 and calls no hook. */
static void request_before_start(void)
{
    request_before_start_with(0);
    request_before_start_with(NS_START_BACKGROUND);
}

static void *run_server(void *server)
{
    ns_error *err;
    CHECK_IS(ns_server_start(server, 0, &err), NS_OK);
    CHECK(err == NULL);
    event_add(&stops);
    return NULL;
}

static int waiting_thread = -1; /* its /proc/thread-self/stat */

static void *wait_for_server(void *server)
{
    waiting_thread = open("/proc/thread-self/stat", O_RDONLY | O_CLOEXEC);
    event_add(&starts);
    CHECK_IS(ns_server_wait(server, -1), NS_OK);
    return NULL;
}

static int it_sleeps(void)
{
    char text[64] = "";
    CHECK(pread(waiting_thread, text, sizeof text - 1, 0) > 0);
    return strstr(text, ") S ") != NULL;
}

static void *stop_server(void *server)
{
    CHECK_IS(ns_server_stop(server), NS_OK);
    return NULL;
}

/* L14: Free lets start, stop and wait on other threads return first. */
static void freed_in_foreground(void)
{
    ns_server *server = ns_server_new("127.0.0.1:0", echo, NULL, NULL, NULL, NULL);
    pthread_t threads[3];
    int fd, waiting = event_count(&starts);
    CHECK_IS(pthread_create(&threads[0], NULL, run_server, server), 0);
    WAIT_UNTIL(ns_server_state(server) == NS_STATE_RUNNING);
    CHECK_IS(pthread_create(&threads[1], NULL, wait_for_server, server), 0);
    EVENT_WAIT(&starts, waiting + 1);
    WAIT_UNTIL(it_sleeps()); /* A call that begins after the free would have no server. */
    CHECK_IS(close(waiting_thread), 0);
    fd = client(ns_server_port(server));
    say(fd, "x");
    HEAR(fd, "x");
    close(fd);
    CHECK_IS(pthread_create(&threads[2], NULL, stop_server, server), 0);
    CHECK_IS(pthread_join(threads[2], NULL), 0);
    CHECK_IS(ns_server_free(server), NS_OK);
    CHECK_IS(pthread_join(threads[0], NULL), 0);
    CHECK_IS(pthread_join(threads[1], NULL), 0);
}

static event entered = EVENT, release = EVENT;

static int32_t stuck(ns_server *server, ns_socket *socket, void *user_data)
{
    (void)server, (void)socket, (void)user_data;
    event_add(&entered);
    EVENT_WAIT(&release, 1);
    return 0;
}

/* L16: A handler that does not return: nothing is freed, and it may be tried again. */
static void stuck_handler(void)
{
    ns_config *config = ns_config_new();
    ns_server *server;
    int fd;
    CHECK_IS(ns_config_set_drain_timeout_ms(config, 50), NS_OK);
    server = SERVE(config, stuck, NULL);
    fd = client(ns_server_port(server));
    EVENT_WAIT(&entered, 1);
    CHECK_IS(ns_server_stop_within(server, 20), NS_ERR_TIMEOUT);
    CHECK_IS(ns_server_free(server), NS_ERR_TIMEOUT);
    CHECK_IS(ns_server_state(server), NS_STATE_STOPPING);
    CHECK_IS(ns_server_is_stopped(server), 0);
    event_add(&release);
    CHECK_IS(ns_server_wait(server, DEADLINE_MS), NS_OK);
    CHECK_IS(ns_server_free(server), NS_OK);
    close(fd);
}

static int32_t failing_start(ns_server *server, void *user_data)
{
    (void)server;
    return event_count(user_data) == 0 ? -8 : 0;
}

/* L7: A failed start is undone and may be tried again. */
static void failed_hook(void)
{
    event allowed = EVENT;
    ns_config *config = ns_config_new();
    ns_server *server;
    ns_error *err;
    CHECK_IS(ns_config_set_on_start(config, failing_start, &allowed, NULL), NS_OK);
    server = ns_server_new("127.0.0.1:0", echo, NULL, NULL, config, NULL);
    ns_config_free(config);
    CHECK_IS(ns_server_start(server, NS_START_BACKGROUND, &err), NS_ERR_HOOK);
    CHECK_IS(ns_error_status(err), NS_ERR_HOOK);
    CHECK(strstr(ns_error_message(err), "-8") != NULL);
    ns_error_free(err);
    CHECK_IS(ns_server_is_stopped(server), 1);
    event_add(&allowed);
    CHECK_IS(ns_server_start(server, NS_START_BACKGROUND, NULL), NS_OK);
    CHECK_IS(ns_server_free(server), NS_OK);
}

/* L6: A port that another server has, until it is freed. */
static void port_in_use(void)
{
    ns_server *holder = SERVE(NULL, echo, NULL), *server;
    ns_error *err;
    char service[32];
    snprintf(service, sizeof service, "127.0.0.1:%u", (unsigned)ns_server_port(holder));
    server = ns_server_new(service, echo, NULL, NULL, NULL, NULL);
    CHECK_IS(ns_server_start(server, 0, &err), NS_ERR_LISTEN);
    CHECK_IS(ns_error_status(err), NS_ERR_LISTEN);
    CHECK_IS(ns_error_os_code(err), EADDRINUSE);
    CHECK(strstr(ns_error_message(err), service) != NULL);
    ns_error_free(err);
    CHECK_IS(ns_server_free(server), NS_OK);
    CHECK_IS(ns_server_free(holder), NS_OK);
}

/* -- the shutdown port ------------------------------------------------------ */

/* P2: A connection to it ends a start in the foreground. */
static void shutdown_port(void)
{
    ns_config *config = hooked(ns_config_new());
    int stopped = event_count(&stops), fd;
    ns_server *server;
    CHECK_IS(ns_config_set_shutdown_port(config, "0"), NS_OK);
    server = SERVE(config, echo, NULL);
    CHECK(ns_server_shutdown_port(server) != 0);
    CHECK(ns_server_shutdown_port(server) != ns_server_port(server));
    fd = client(ns_server_shutdown_port(server));
    CHECK_IS(ns_server_wait(server, DEADLINE_MS), NS_OK);
    CHECK_IS(ns_server_wait(server, DEADLINE_MS), NS_OK);
    CHECK_IS(event_count(&stops), stopped + 1);
    close(fd);
    CHECK_IS(ns_server_free(server), NS_OK);
}

/* Stops on "s", not on anything else. */
static int32_t on_shutdown(ns_server *server, ns_socket *socket, void *user_data)
{
    char byte = 0;
    int64_t n = ns_socket_recv(socket, &byte, 1);
    CHECK_IS(ns_server_state(server), NS_STATE_RUNNING);
    CHECK_TEXT(user_data, "shutdown");
    CHECK_IS(ns_socket_send(socket, "heard", 5), NS_OK);
    return n == 1 && byte == 's';
}

/* P5: It stops the server on "s" and on nothing else. */
static void shutdown_handler(void)
{
    ns_config *config = non_blocking();
    ns_server *server;
    int fd;
    CHECK_IS(ns_config_set_shutdown_port(config, "127.0.0.1:0"), NS_OK);
    CHECK_IS(ns_config_set_shutdown_handler(config, on_shutdown, "shutdown", NULL), NS_OK);
    server = SERVE(config, echo, NULL);
    fd = client(ns_server_shutdown_port(server));
    say(fd, "n");
    HEAR(fd, "heard");
    HEAR_END(fd);
    close(fd);
    CHECK_IS(ns_server_is_stopped(server), 0);
    fd = client(ns_server_shutdown_port(server));
    say(fd, "s");
    CHECK_IS(ns_server_wait(server, DEADLINE_MS), NS_OK);
    HEAR(fd, "heard");
    close(fd);
    CHECK_IS(ns_server_free(server), NS_OK);
}

int main(void)
{
    RUN(never_started);
    RUN(stopped_twice);
    RUN(stopped_in_handler_blocking);
    RUN(stopped_in_handler_non_blocking);
    RUN(stopped_by_signal);
    RUN(request_before_start);
    RUN(freed_in_foreground);
    RUN(stuck_handler);
    RUN(failed_hook);
    RUN(port_in_use);
    RUN(shutdown_port);
    RUN(shutdown_handler);
    return 0;
}
