/* Hosted servers: the program runs the turns. */
#include "check.h"

#include <poll.h>

static ns_server *hosted(ns_config *config, ns_handler_fn handler)
{
    ns_error *err = NULL;
    ns_server *server = ns_server_new("127.0.0.1:0", handler, NULL, NULL, config, &err);
    ns_config_free(config);
    if (server == NULL || ns_server_start(server, NS_START_HOSTED, &err) != NS_OK)
        fail(__FILE__, __LINE__, ns_error_message(err));
    return server;
}

static uint16_t port;
static event served = EVENT;

/* Sends a line, takes it back, and closes. */
static void *clients(void *count)
{
    int i;
    for (i = 0; i < *(int *)count; i++) {
        int fd = client(port);
        char buf[8] = "";
        CHECK_IS(write(fd, "hello\n", 6), 6);
        CHECK_IS(recv(fd, buf, 6, MSG_WAITALL), 6);
        CHECK_TEXT(buf, "hello\n");
        close(fd);
        event_add(&served);
    }
    return NULL;
}

/* HS1, HS6: A host with poll(2) serves; the process has no thread of the library. */
static void test_poll(void)
{
    int count = 20, done = 0, threads = entries("/proc/self/task");
    pthread_t thread;
    ns_server *server = hosted(non_blocking(), echo);
    struct pollfd watched;
    CHECK_IS(entries("/proc/self/task"), threads);
    port = ns_server_port(server);
    watched.fd = ns_server_poll_fd(server);
    watched.events = POLLIN;
    CHECK(watched.fd >= 0);
    CHECK_IS(pthread_create(&thread, NULL, clients, &count), 0);
    while (done < count) {
        if (poll(&watched, 1, 100) == 1)
            CHECK_IS(ns_server_run_once(server, 0), NS_OK);
        done = event_count(&served);
    }
    CHECK_IS(pthread_join(thread, NULL), 0);
    CHECK_IS(ns_server_stop(server), NS_OK);
    CHECK_IS(poll(&watched, 1, 0), 1);
    CHECK_IS(ns_server_poll_fd(server), watched.fd);
    CHECK_IS(ns_server_free(server), NS_OK);
    CHECK_IS(poll(&watched, 1, 0), 1);
    CHECK_IS(watched.revents, POLLNVAL);
}

static void *turns(void *server)
{
    ns_status status;
    while ((status = ns_server_run_once(server, -1)) == NS_OK)
        ;
    CHECK(status == NS_ERR_STATE || status == NS_ERR_BUSY);
    return NULL;
}

/* HS12: Another thread frees the server while this one waits in a turn. */
static void test_free_beside_a_turn(void)
{
    int count = 3;
    pthread_t thread;
    ns_server *server = hosted(non_blocking(), echo);
    port = ns_server_port(server);
    CHECK_IS(pthread_create(&thread, NULL, turns, server), 0);
    clients(&count);
    CHECK_IS(ns_server_stop(server), NS_OK);
    CHECK_IS(pthread_join(thread, NULL), 0);
    CHECK_IS(ns_server_free(server), NS_OK);
}

static event waits = EVENT;

static int32_t in_the_wait(ns_server *server, void *user_data)
{
    (void)server, (void)user_data;
    event_add(&waits);
    return 0;
}

static void *wait_as_host(void *server)
{
    CHECK_IS(ns_server_run_once(server, 0), NS_OK);
    CHECK_IS(ns_server_post(server, 0, in_the_wait, NULL, NULL), NS_OK);
    CHECK_IS(ns_server_wait(server, -1), NS_OK);
    return NULL;
}

/* HS12: Another thread frees the server while its host waits: the wait returns first. */
static void test_free_beside_a_wait(void)
{
    int round;
    for (round = 0; round < 20; round++) {
        int fd;
        pthread_t thread;
        ns_server *server = hosted(non_blocking(), echo);
        fd = client(ns_server_port(server));
        CHECK_IS(pthread_create(&thread, NULL, wait_as_host, server), 0);
        EVENT_WAIT(&waits, round + 1);
        CHECK_IS(ns_server_free(server), NS_OK);
        CHECK_IS(pthread_join(thread, NULL), 0);
        close(fd);
    }
}

static event starts = EVENT, go_on = EVENT;

static int32_t on_start(ns_server *server, void *round)
{
    (void)server;
    event_add(&starts);
    EVENT_WAIT(&go_on, *(int *)round);
    return 0;
}

static void *start_hosted(void *server)
{
    CHECK_IS(ns_server_start(server, NS_START_HOSTED, NULL), NS_OK);
    return NULL;
}

static void *free_it(void *server)
{
    CHECK_IS(ns_server_free(server), NS_OK);
    return NULL;
}

/* HS12: A start is in progress on another thread: it returns first. */
static void test_free_beside_a_start(void)
{
    int round;
    for (round = 1; round <= 20; round++) {
        pthread_t starting, freeing;
        ns_config *config = non_blocking();
        ns_server *server;
        ns_config_set_on_start(config, on_start, &round, NULL);
        server = ns_server_new("127.0.0.1:0", echo, NULL, NULL, config, NULL);
        ns_config_free(config);
        CHECK_IS(pthread_create(&starting, NULL, start_hosted, server), 0);
        EVENT_WAIT(&starts, round);
        CHECK_IS(pthread_create(&freeing, NULL, free_it, server), 0);
        event_add(&go_on);
        CHECK_IS(pthread_join(starting, NULL), 0);
        CHECK_IS(pthread_join(freeing, NULL), 0);
    }
}

/* HS4, HS2: What must be refused. */
static void test_refusals(void)
{
    ns_error *err = NULL;
    ns_server *server = ns_server_new("127.0.0.1:0", echo, NULL, NULL, NULL, NULL);
    CHECK_IS(ns_server_run_once(NULL, 0), NS_ERR_INVALID);
    CHECK_IS(ns_server_poll_fd(NULL), NS_ERR_INVALID);
    CHECK_IS(ns_server_run_once(server, -2), NS_ERR_INVALID);
    CHECK_IS(ns_server_run_once(server, 0), NS_ERR_STATE);
    CHECK_IS(ns_server_poll_fd(server), NS_ERR_STATE);
    CHECK_IS(ns_server_start(server, NS_START_HOSTED, &err), NS_ERR_INVALID);
    CHECK(strstr(ns_error_message(err), "max_thread 1") != NULL);
    ns_error_free(err);
    CHECK_IS(ns_server_start(server, NS_START_HOSTED | NS_START_BACKGROUND, NULL), NS_ERR_INVALID);
    CHECK_IS(ns_server_state(server), NS_STATE_NEW);
    CHECK_IS(ns_server_free(server), NS_OK);
    CHECK_IS(ns_has_feature("hosted"), 1);
}

int main(void)
{
    RUN(test_poll);
    RUN(test_free_beside_a_turn);
    RUN(test_free_beside_a_wait);
    RUN(test_free_beside_a_start);
    RUN(test_refusals);
    return 0;
}
