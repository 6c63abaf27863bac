/* Watches, timers and tasks of the program in a server's loop. */
#include "check.h"

static event called = EVENT, dropped = EVENT, failed = EVENT;
static int pipe_fds[2];

static void drop(void *user_data)
{
    (void)user_data;
    event_add(&dropped);
}

static int32_t on_exception(ns_server *server, ns_socket *socket, const ns_error *err,
                            void *user_data)
{
    (void)server, (void)user_data;
    CHECK(socket == NULL);
    CHECK_TEXT(ns_error_message(err), "no luck");
    CHECK_IS(ns_error_handler_code(err), -42);
    CHECK_TEXT((const char *)ns_error_payload(err), "payload");
    event_add(&failed);
    return 0;
}

static int32_t on_ready(ns_server *server, uint64_t id, int fd, uint32_t events, void *user_data)
{
    char byte;
    (void)user_data;
    CHECK_IS(fd, pipe_fds[0]);
    CHECK_IS(events, NS_READ);
    CHECK_IS(read(fd, &byte, 1), 1);
    event_add(&called);
    return byte == 'e' ? ns_server_unwatch(server, id) : 0;
}

static int32_t on_time(ns_server *server, uint64_t id, void *user_data)
{
    (void)server, (void)id, (void)user_data;
    event_add(&called);
    return 0;
}

static int32_t fails(ns_server *server, void *user_data)
{
    static char payload[] = "payload";
    (void)server, (void)user_data;
    return ns_raise_with(NULL, -42, "no luck", payload, drop);
}

static ns_server *serving(void)
{
    ns_config *config = non_blocking();
    CHECK_IS(ns_config_set_exception_handler(config, on_exception, NULL, NULL), NS_OK);
    return SERVE(config, echo, NULL);
}

/* WT1, WT5: A pipe in a loop, until its handler ends the watch. */
static void test_watch(void)
{
    int before = event_count(&called), drops = event_count(&dropped);
    ns_server *server = serving();
    uint64_t id;
    CHECK_IS(pipe(pipe_fds), 0);
    id = ns_server_watch(server, 0, pipe_fds[0], NS_READ, on_ready, NULL, drop, NULL);
    CHECK(id != 0);
    CHECK_IS(write(pipe_fds[1], "abe", 3), 3);
    EVENT_WAIT(&dropped, drops + 1);
    CHECK_IS(event_count(&called), before + 3);
    CHECK_IS(ns_server_unwatch(server, id), NS_ERR_CLOSED);
    CHECK_IS(ns_server_free(server), NS_OK);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
}

/* WT7, WT11: A timer; the one that is left at the end is dropped. */
static void test_timer(void)
{
    int before = event_count(&called), drops = event_count(&dropped);
    ns_server *server = serving();
    CHECK(ns_server_timer(server, 0, 1, 2, on_time, NULL, drop, NULL) != 0);
    EVENT_WAIT(&called, before + 3);
    CHECK_IS(event_count(&dropped), drops);
    CHECK_IS(ns_server_free(server), NS_OK);
    CHECK_IS(event_count(&dropped), drops + 1);
}

/* WT10: What a task raises with NULL reaches the exception handler, with its payload. */
static void test_failure(void)
{
    int before = event_count(&failed), drops = event_count(&dropped);
    ns_server *server = serving();
    CHECK_IS(ns_server_post(server, 0, fails, NULL, NULL), NS_OK);
    EVENT_WAIT(&failed, before + 1);
    EVENT_WAIT(&dropped, drops + 1);
    /* Outside a callback nothing is kept. */
    CHECK_IS(ns_raise_with(NULL, -5, "nowhere", NULL, drop), -5);
    CHECK_IS(event_count(&dropped), drops + 2);
    CHECK_IS(ns_server_free(server), NS_OK);
}

static event nested = EVENT;

static int32_t raises(ns_server *server, ns_socket *socket, void *user_data)
{
    static char payload[] = "of the handler";
    char buf[8];
    (void)server, (void)user_data;
    CHECK_IS(ns_socket_recv(socket, buf, sizeof buf), 1);
    CHECK_IS(ns_raise_with(NULL, -7, payload, payload, drop), -7);
    event_add(&nested);
    return 0;
}

static int32_t drives(ns_server *server, void *inner)
{
    int before = event_count(&nested);
    (void)server;
    while (event_count(&nested) == before)
        CHECK_IS(ns_server_run_once((ns_server *)inner, 1000), NS_OK);
    return -9;
}

static int32_t on_own_exception(ns_server *server, ns_socket *socket, const ns_error *err,
                                void *user_data)
{
    (void)server, (void)socket, (void)user_data;
    CHECK_IS(ns_error_handler_code(err), -9);
    CHECK(strstr(ns_error_message(err), "of the handler") == NULL);
    CHECK(ns_error_payload(err) == NULL);
    event_add(&failed);
    return 0;
}

/* WT10: What a callback of another server raises in a task, with NULL, is not the task's. */
static void test_failure_in_a_task(void)
{
    int before = event_count(&failed), drops = event_count(&dropped), fd;
    ns_config *config = non_blocking();
    ns_server *inner = ns_server_new("127.0.0.1:0", raises, NULL, NULL, config, NULL), *server;
    ns_config_free(config);
    CHECK_IS(ns_server_start(inner, NS_START_HOSTED, NULL), NS_OK);
    fd = client(ns_server_port(inner));
    CHECK_IS(write(fd, "x", 1), 1);
    config = non_blocking();
    CHECK_IS(ns_config_set_exception_handler(config, on_own_exception, NULL, NULL), NS_OK);
    server = SERVE(config, echo, NULL);
    CHECK_IS(ns_server_post(server, 0, drives, inner, NULL), NS_OK);
    EVENT_WAIT(&failed, before + 1);
    CHECK_IS(event_count(&dropped), drops + 1);
    CHECK_IS(ns_server_free(server), NS_OK);
    close(fd);
    CHECK_IS(ns_server_free(inner), NS_OK);
}

/* WT3, WT4: Bad arguments; the user data is dropped. */
static void test_bad_arguments(void)
{
    int drops = event_count(&dropped);
    ns_error *err = NULL;
    ns_server *server = serving();
    CHECK_IS(ns_server_watch(NULL, 0, 0, NS_READ, on_ready, NULL, drop, &err), 0);
    CHECK_IS(ns_error_status(err), NS_ERR_INVALID);
    ns_error_free(err);
    CHECK_IS(ns_server_watch(server, 0, 0, NS_READ, NULL, NULL, drop, NULL), 0);
    CHECK_IS(ns_server_watch(server, 0, -1, NS_READ, on_ready, NULL, drop, &err), 0);
    CHECK_IS(ns_error_status(err), NS_ERR_INVALID);
    ns_error_free(err);
    CHECK_IS(ns_server_watch(server, 0, 0, 4, on_ready, NULL, drop, NULL), 0);
    CHECK_IS(ns_server_timer(NULL, 0, 1, 0, on_time, NULL, drop, NULL), 0);
    CHECK_IS(ns_server_timer(server, 0, 1, 0, NULL, NULL, drop, NULL), 0);
    CHECK_IS(ns_server_timer(server, 0, 0x80000000u, 0, on_time, NULL, drop, NULL), 0);
    CHECK_IS(ns_server_post(NULL, 0, fails, NULL, drop), NS_ERR_INVALID);
    CHECK_IS(ns_server_post(server, 0, NULL, NULL, drop), NS_ERR_INVALID);
    CHECK_IS(event_count(&dropped), drops + 9);
    CHECK_IS(ns_server_watch_change(server, 0, NS_READ), NS_ERR_CLOSED);
    CHECK_IS(ns_server_unwatch(server, 0), NS_ERR_CLOSED);
    CHECK_IS(ns_server_unwatch(NULL, 1), NS_ERR_INVALID);
    CHECK_IS(ns_server_timer_cancel(server, UINT64_MAX), NS_ERR_CLOSED);
    CHECK_IS(ns_has_feature("watch"), 1);
    CHECK_IS(ns_server_free(server), NS_OK);
}

int main(void)
{
    RUN(test_watch);
    RUN(test_timer);
    RUN(test_failure);
    RUN(test_failure_in_a_task);
    RUN(test_bad_arguments);
    return 0;
}
