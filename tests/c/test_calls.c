/* Calls by id from any thread; stale ids and stale pointers. */
#include "check.h"

enum { CLIENTS = 5 };

/* -- a stale pointer -------------------------------------------------------- */

static ns_socket *first;
static event calls = EVENT;

static int32_t remember(ns_server *server, ns_socket *socket, void *user_data)
{
    char byte;
    ns_error *err;
    (void)user_data;
    if (ns_socket_recv(socket, &byte, 1) < 1) {
        ns_socket_close(socket);
        return 0;
    }
    if (byte == '1') {
        first = socket;
    } else {
        /* On its loop, but in a callback of another connection. */
        CHECK(first != socket);
        CHECK_IS(ns_socket_send(first, "x", 1), NS_ERR_NOT_IN_HANDLER);
        CHECK_IS(ns_socket_recv(first, &byte, 1), NS_ERR_NOT_IN_HANDLER);
        CHECK_IS(ns_socket_close(first), NS_ERR_NOT_IN_HANDLER);
        CHECK_IS(ns_socket_abort(first), NS_ERR_NOT_IN_HANDLER);
        CHECK_IS(ns_socket_resume(first), NS_ERR_NOT_IN_HANDLER);
        CHECK_IS(ns_socket_set_user_data(first, NULL, NULL), NS_ERR_NOT_IN_HANDLER);
        CHECK(ns_detach(server, first, &err) == NULL);
        CHECK_IS(ns_error_status(err), NS_ERR_NOT_IN_HANDLER);
        ns_error_free(err);
        CHECK_IS(ns_socket_id(first), 0);
        CHECK_IS(ns_socket_is_closed(first), 1);
        CHECK_IS(ns_raise(first, -3, "nobody hears it"), -3);
    }
    event_add(&calls);
    return 0;
}

/* E8: A pointer that was kept is refused on its loop, also in a callback of another connection. */
static void stale_pointer(void)
{
    ns_server *server = SERVE(non_blocking(), remember, NULL);
    int one = client(ns_server_port(server)), two = client(ns_server_port(server));
    say(one, "1");
    EVENT_WAIT(&calls, 1);
    say(two, "2");
    EVENT_WAIT(&calls, 2);
    close(one);
    close(two);
    CHECK_IS(ns_server_free(server), NS_OK);
}

/* -- by id ------------------------------------------------------------------ */

static event opened = EVENT, closed = EVENT, woken = EVENT;
static ns_conn_id ids[CLIENTS];
static int32_t reasons[16];

static int32_t on_open(ns_server *server, ns_socket *socket, void *user_data)
{
    (void)server, (void)user_data;
    ids[event_count(&opened) % CLIENTS] = ns_socket_id(socket);
    event_add(&opened);
    return 0;
}

static void on_close(ns_server *server, ns_socket *socket, int32_t reason, void *user_data)
{
    (void)server, (void)user_data;
    CHECK(ns_socket_id(socket) != 0);
    CHECK(ns_socket_send(socket, "x", 1) < 0);
    reasons[reason]++;
    event_add(&closed);
}

static int32_t on_wake(ns_server *server, ns_socket *socket, void *user_data)
{
    (void)server, (void)user_data;
    CHECK_IS(ns_socket_send(socket, "awake", 5), NS_OK);
    event_add(&woken);
    return 0;
}

static int32_t count(ns_conn_id id, void *user_data)
{
    CHECK(id != 0);
    event_add(user_data);
    return event_count(user_data) == 3;
}

static int32_t count_all(ns_conn_id id, void *user_data)
{
    CHECK(id != 0);
    event_add(user_data);
    return 0;
}

static void *send_lines(void *server)
{
    CHECK_IS(ns_server_send(server, ids[0], "one ", 4), NS_OK);
    CHECK_IS(ns_server_send(server, ids[0], "two ", 4), NS_OK);
    CHECK_IS(ns_server_send(server, ids[0], "three", 5), NS_OK);
    return NULL;
}

/* B1, B5: Every call by id, from several threads. */
static void by_id(void)
{
    ns_config *config = non_blocking();
    ns_server *server;
    int fds[CLIENTS], i;
    event seen = EVENT, listed = EVENT, all = EVENT;
    pthread_t thread;
    char byte;

    CHECK_IS(ns_config_set_on_open(config, on_open, NULL, NULL), NS_OK);
    CHECK_IS(ns_config_set_on_close(config, on_close, NULL, NULL), NS_OK);
    CHECK_IS(ns_config_set_on_wake(config, on_wake, NULL, NULL), NS_OK);
    CHECK_IS(ns_config_set_send_limit(config, 1 << 20), NS_OK);
    server = SERVE(config, echo, NULL);
    for (i = 0; i < CLIENTS; i++) {
        fds[i] = client(ns_server_port(server));
        EVENT_WAIT(&opened, i + 1);
    }

    /* It is listed when its `on_open` has ended, which comes after the event. */
    WAIT_UNTIL(ns_server_foreach(server, count_all, &listed) == CLIENTS);
    CHECK_IS(ns_server_foreach(server, count_all, &all), CLIENTS);
    CHECK_IS(event_count(&all), CLIENTS);
    CHECK_IS(ns_server_foreach(server, count, &seen), 3);

    CHECK_IS(pthread_create(&thread, NULL, send_lines, server), 0);
    HEAR(fds[0], "one two three");
    CHECK_IS(pthread_join(thread, NULL), 0);
    CHECK_IS(ns_server_send(server, ids[0], NULL, 0), NS_OK);
    CHECK_IS(ns_server_broadcast(server, ids, CLIENTS, "news", 4), CLIENTS);
    for (i = 0; i < CLIENTS; i++)
        HEAR(fds[i], "news");
    CHECK_IS(ns_server_wake(server, ids[1]), NS_OK);
    HEAR(fds[1], "awake");
    EVENT_WAIT(&woken, 1);

    CHECK_IS(ns_server_close(server, ids[1]), NS_OK);
    HEAR_END(fds[1]);
    close(fds[1]);
    CHECK_IS(ns_server_abort(server, ids[2]), NS_OK);
    CHECK_IS(recv(fds[2], &byte, 1, 0), -1);
    CHECK_IS(errno, ECONNRESET);
    close(fds[2]);
    EVENT_WAIT(&closed, 2);
    CHECK_IS(reasons[NS_CLOSE_HANDLER], 1);
    CHECK_IS(reasons[NS_CLOSE_ABORT], 1);

    /* Stale ids, always. */
    for (i = 1; i <= 2; i++) {
        CHECK_IS(ns_server_send(server, ids[i], "x", 1), NS_ERR_CLOSED);
        CHECK_IS(ns_server_close(server, ids[i]), NS_ERR_CLOSED);
        CHECK_IS(ns_server_wake(server, ids[i]), NS_ERR_CLOSED);
        /* Its on_close may still be on the way out of the loop. */
        WAIT_UNTIL(ns_server_abort(server, ids[i]) == NS_ERR_CLOSED);
    }
    CHECK_IS(ns_server_broadcast(server, ids, CLIENTS, "late", 4), CLIENTS - 2);

    /* A send above the limit is refused immediately and as a whole. */
    {
        char *big = calloc(1, (1 << 20) + 1);
        CHECK(big != NULL);
        CHECK_IS(ns_server_send(server, ids[3], big, (1 << 20) + 1), NS_ERR_BUFFER_FULL);
        CHECK_IS(ns_server_send(server, ids[3], big, SIZE_MAX), NS_ERR_INVALID);
        free(big);
    }
    HEAR(fds[3], "late");
    CHECK_IS(ns_server_stop(server), NS_OK);
    CHECK_IS(ns_server_send(server, ids[0], "x", 1) < 0, 1);
    CHECK_IS(ns_server_close(server, ids[0]) < 0, 1);
    CHECK_IS(event_count(&closed), CLIENTS);
    CHECK_IS(ns_server_free(server), NS_OK);
    close(fds[0]);
    close(fds[3]);
    close(fds[4]);
}

/* -- on a blocking server: close and abort ---------------------------------- */

static ns_conn_id blocked_id;
static event blocked = EVENT, unblocked = EVENT;

static int32_t block(ns_server *server, ns_socket *socket, void *user_data)
{
    char byte;
    (void)server, (void)user_data;
    blocked_id = ns_socket_id(socket);
    event_add(&blocked);
    CHECK_IS(ns_socket_recv(socket, &byte, 1), NS_ERR_CLOSED);
    event_add(&unblocked);
    return NS_ERR_CLOSED;
}

/* B10: Close and abort end a worker's connection. */
static void blocking_by_id(void)
{
    ns_server *server = SERVE(NULL, block, NULL);
    int fd = client(ns_server_port(server));
    EVENT_WAIT(&blocked, 1);
    CHECK_IS(ns_server_send(server, blocked_id, "x", 1), NS_ERR_NOT_NON_BLOCKING);
    CHECK_IS(ns_server_wake(server, blocked_id), NS_ERR_NOT_NON_BLOCKING);
    CHECK_IS(ns_server_broadcast(server, &blocked_id, 1, "x", 1), NS_ERR_NOT_NON_BLOCKING);
    CHECK_IS(ns_server_close(server, blocked_id), NS_OK);
    EVENT_WAIT(&unblocked, 1);
    HEAR_END(fd);
    close(fd);
    fd = client(ns_server_port(server));
    EVENT_WAIT(&blocked, 2);
    CHECK_IS(ns_server_abort(server, blocked_id), NS_OK);
    EVENT_WAIT(&unblocked, 2);
    close(fd);
    CHECK_IS(ns_server_free(server), NS_OK);
}

/* -- the timer and pausing -------------------------------------------------- */

static event fired = EVENT;

static int32_t set_timer(ns_server *server, ns_socket *socket, void *user_data)
{
    (void)server, (void)user_data;
    CHECK_IS(ns_socket_set_timer_ms(socket, 60000), NS_OK);
    CHECK_IS(ns_socket_set_timer_ms(socket, 0), NS_OK);
    return ns_socket_set_timer_ms(socket, 20);
}

static int32_t on_timeout(ns_server *server, ns_socket *socket, void *user_data)
{
    (void)server, (void)user_data;
    event_add(&fired);
    if (event_count(&fired) == 1) {
        CHECK_IS(ns_socket_set_timer_ms(socket, 20), NS_OK);
        return 0;
    }
    CHECK_IS(ns_socket_send(socket, "time", 4), NS_OK);
    CHECK_IS(ns_socket_close(socket), NS_OK);
    CHECK_IS(ns_socket_close(socket), NS_OK);
    return 0;
}

/* T4, T6: The timer calls `on_timeout`, and closes where there is none. */
static void timer(void)
{
    int with, fd;
    for (with = 0; with < 2; with++) {
        ns_config *config = non_blocking();
        ns_server *server;
        int closes = event_count(&closed), timers = reasons[NS_CLOSE_TIMER];
        CHECK_IS(ns_config_set_on_open(config, set_timer, NULL, NULL), NS_OK);
        CHECK_IS(ns_config_set_on_close(config, on_close, NULL, NULL), NS_OK);
        if (with)
            CHECK_IS(ns_config_set_on_timeout(config, on_timeout, NULL, NULL), NS_OK);
        server = SERVE(config, echo, NULL);
        fd = client(ns_server_port(server));
        if (with)
            HEAR(fd, "time");
        HEAR_END(fd);
        close(fd);
        EVENT_WAIT(&closed, closes + 1);
        CHECK_IS(reasons[NS_CLOSE_TIMER], timers + !with);
        CHECK_IS(ns_server_free(server), NS_OK);
    }
    CHECK_IS(event_count(&fired), 2);
}

static event reads = EVENT;

/* Reads one byte and pauses; a wake resumes. */
static int32_t one_at_a_time(ns_server *server, ns_socket *socket, void *user_data)
{
    char byte;
    int64_t n = ns_socket_recv(socket, &byte, 1);
    (void)server, (void)user_data;
    if (n < 1) {
        ns_socket_close(socket);
        return 0;
    }
    ids[0] = ns_socket_id(socket);
    CHECK_IS(ns_socket_pause(socket), NS_OK);
    CHECK_IS(ns_socket_send(socket, &byte, 1), NS_OK);
    event_add(&reads);
    return 0;
}

static int32_t resume(ns_server *server, ns_socket *socket, void *user_data)
{
    (void)server, (void)user_data;
    return ns_socket_resume(socket);
}

/* N14: A paused connection keeps its input until a wake resumes it. */
static void pausing(void)
{
    ns_config *config = non_blocking();
    ns_server *server;
    int fd, i;
    CHECK_IS(ns_config_set_on_wake(config, resume, NULL, NULL), NS_OK);
    server = SERVE(config, one_at_a_time, NULL);
    fd = client(ns_server_port(server));
    say(fd, "abc");
    for (i = 1; i <= 3; i++) {
        EVENT_WAIT(&reads, i);
        CHECK_IS(event_count(&reads), i);
        CHECK_IS(ns_server_wake(server, ids[0]), NS_OK);
    }
    HEAR(fd, "abc");
    close(fd);
    CHECK_IS(ns_server_free(server), NS_OK);
}

int main(void)
{
    RUN(stale_pointer);
    RUN(by_id);
    RUN(blocking_by_id);
    RUN(timer);
    RUN(pausing);
    return 0;
}
