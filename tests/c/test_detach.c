/* Sockets taken out of a server, used by the program's own thread, and given back. */
#include "check.h"

#include <sched.h>

/* Hands one socket from a handler to a thread. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    ns_socket *socket;
} handover = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, NULL};

static void give(ns_socket *socket)
{
    pthread_mutex_lock(&handover.lock);
    CHECK(handover.socket == NULL);
    handover.socket = socket;
    pthread_cond_broadcast(&handover.changed);
    pthread_mutex_unlock(&handover.lock);
}

static ns_socket *take(void)
{
    ns_socket *socket;
    pthread_mutex_lock(&handover.lock);
    while (handover.socket == NULL)
        pthread_cond_wait(&handover.changed, &handover.lock);
    socket = handover.socket;
    handover.socket = NULL;
    pthread_mutex_unlock(&handover.lock);
    return socket;
}

static event opened = EVENT, closed = EVENT, dropped = EVENT;
static char tag[] = "tag";

static void drop(void *user_data)
{
    CHECK(user_data == tag);
    event_add(&dropped);
}

static int32_t on_open(ns_server *server, ns_socket *socket, void *user_data)
{
    (void)server, (void)socket, (void)user_data;
    event_add(&opened);
    return 0;
}

static void on_close(ns_server *server, ns_socket *socket, int32_t reason, void *user_data)
{
    ns_error *err;
    (void)reason, (void)user_data;
    CHECK(ns_detach(server, socket, &err) == NULL);
    CHECK(ns_error_status(err) < 0);
    ns_error_free(err);
    event_add(&closed);
}

/* Detaches at "d", leaving what came behind it unread; else echoes. */
static int32_t handler(ns_server *server, ns_socket *socket, void *user_data)
{
    char byte;
    int64_t n;
    (void)user_data;
    while ((n = ns_socket_recv(socket, &byte, 1)) > 0) {
        if (byte == 'd') {
            ns_error *err = (ns_error *)&byte;
            ns_conn_id id = ns_socket_id(socket);
            ns_socket *owned;
            CHECK_IS(ns_socket_set_user_data(socket, tag, drop), NS_OK);
            owned = ns_detach(server, socket, &err);
            CHECK(owned != NULL);
            CHECK(owned != socket);
            CHECK(err == NULL);
            /* The borrowed one is no more than a name until this returns. */
            CHECK_IS(ns_socket_send(socket, "x", 1), NS_ERR_DETACHED);
            CHECK_IS(ns_socket_recv(socket, &byte, 1), NS_ERR_DETACHED);
            CHECK_IS(ns_socket_close(socket), NS_ERR_DETACHED);
            CHECK_IS(ns_socket_set_timer_ms(socket, 1), NS_ERR_DETACHED);
            CHECK_IS(ns_socket_is_closed(socket), 1);
            CHECK(ns_socket_user_data(socket) == NULL);
            CHECK(ns_detach(server, socket, &err) == NULL);
            CHECK_IS(ns_error_status(err), NS_ERR_DETACHED);
            ns_error_free(err);
            CHECK_IS(ns_socket_id(owned), id);
            CHECK(ns_socket_user_data(owned) == tag);
            give(owned);
            return 0;
        }
        if (ns_socket_send(socket, &byte, 1) != NS_OK)
            break;
    }
    if (n == 0)
        ns_socket_close(socket);
    return n < 0 ? (int32_t)n : 0;
}

static ns_server *detaching(void)
{
    ns_config *config = non_blocking();
    CHECK_IS(ns_config_set_on_open(config, on_open, NULL, NULL), NS_OK);
    CHECK_IS(ns_config_set_on_close(config, on_close, NULL, NULL), NS_OK);
    return SERVE(config, handler, NULL);
}

/* Answers slowly, with calls that wait, and gives the socket back. */
static void *work(void *data)
{
    ns_server *server = data;
    ns_socket *socket = take();
    ns_conn_id former = ns_socket_id(socket), id;
    ns_error *err = NULL;
    char buf[8] = "";
    size_t length = 0;

    CHECK(ns_socket_fd(socket) >= 0);
    CHECK_IS(ns_socket_is_closed(socket), 0);
    CHECK_IS(ns_server_send(server, former, "x", 1), NS_ERR_CLOSED);
    CHECK_IS(ns_socket_pause(socket), NS_ERR_NOT_NON_BLOCKING);
    /* The unread input, then the client's reply to a question. */
    while (length < 4) {
        int64_t n = ns_socket_recv(socket, buf + length, 4 - length);
        CHECK(n > 0);
        length += (size_t)n;
    }
    CHECK_TEXT(buf, "rest");
    CHECK_IS(ns_socket_send(socket, "more?", 5), NS_OK);
    CHECK_IS(ns_socket_recv(socket, buf, 1), 1);
    CHECK_IS(buf[0], 'y');
    CHECK_IS(ns_socket_set_io_timeout_ms(socket, 10), NS_OK);
    CHECK_IS(ns_socket_recv(socket, buf, 1), NS_ERR_TIMEOUT);

    id = ns_attach(server, socket, &err);
    CHECK(err == NULL);
    CHECK(id != 0);
    CHECK(id != former);
    CHECK_IS(ns_server_send(server, former, "x", 1), NS_ERR_CLOSED);
    CHECK_IS(ns_server_send(server, id, "back", 4), NS_OK);
    return NULL;
}

/* D1: A thread of the program's own answers slowly, with calls that wait, and gives the socket
 * back. */
static void slow_request(void)
{
    int opens = event_count(&opened), closes = event_count(&closed), drops = event_count(&dropped);
    ns_server *server = detaching();
    int fd = client(ns_server_port(server));
    ns_stats stats;
    pthread_t thread;

    CHECK_IS(pthread_create(&thread, NULL, work, server), 0);
    say(fd, "abdrest");
    HEAR(fd, "ab");
    HEAR(fd, "more?");
    say(fd, "y");
    HEAR(fd, "back");
    CHECK_IS(pthread_join(thread, NULL), 0);
    say(fd, "again");
    HEAR(fd, "again");
    CHECK_IS(event_count(&dropped), drops);
    shutdown(fd, SHUT_WR);
    HEAR_END(fd);
    close(fd);
    EVENT_WAIT(&closed, closes + 1);
    EVENT_WAIT(&dropped, drops + 1);
    CHECK_IS(ns_server_stop(server), NS_OK);
    CHECK_IS(ns_server_stats(server, &stats, sizeof stats), NS_OK);
    CHECK_IS(stats.accepted, 1);
    CHECK_IS(stats.detached, 1);
    CHECK_IS(stats.attached, 1);
    CHECK_IS(ns_server_free(server), NS_OK);
    CHECK_IS(event_count(&opened), opens + 1);
    CHECK_IS(event_count(&closed), closes + 1);
    CHECK_IS(event_count(&dropped), drops + 1);
}

/* D3, D18: The socket outlives its server; attaching it fails and leaves it whole. */
static void outlives_server(void)
{
    int drops = event_count(&dropped);
    ns_server *server = detaching();
    ns_server *blocking = SERVE(NULL, echo, NULL);
    int fd = client(ns_server_port(server)), i;
    ns_socket *socket;
    ns_error *err;

    say(fd, "d");
    socket = take();
    for (i = 0; i < 3; i++) {
        CHECK_IS(ns_attach(blocking, socket, &err), 0);
        CHECK_IS(ns_error_status(err), NS_ERR_NOT_NON_BLOCKING);
        ns_error_free(err);
    }
    CHECK_IS(ns_server_stop(server), NS_OK);
    CHECK_IS(ns_attach(server, socket, &err), 0);
    CHECK_IS(ns_error_status(err), NS_ERR_STATE);
    ns_error_free(err);
    CHECK_IS(ns_server_free(server), NS_OK);
    CHECK_IS(ns_server_free(blocking), NS_OK);

    CHECK_IS(ns_socket_send(socket, "still here", 10), NS_OK);
    HEAR(fd, "still here");
    CHECK_IS(ns_socket_close(socket), NS_OK);
    CHECK_IS(ns_socket_close(socket), NS_OK);
    HEAR_END(fd);
    CHECK_IS(ns_socket_send(socket, "x", 1), NS_ERR_CLOSED);
    CHECK_IS(ns_socket_release_fd(socket), NS_ERR_CLOSED);
    CHECK_IS(event_count(&dropped), drops);
    ns_socket_free(socket);
    CHECK_IS(event_count(&dropped), drops + 1);
    close(fd);
}

/* D15: Another server takes it. */
static void other_server(void)
{
    int drops = event_count(&dropped), closes = event_count(&closed);
    ns_server *one = detaching(), *two = detaching();
    int fd = client(ns_server_port(one));
    ns_socket *socket;
    say(fd, "d");
    socket = take();
    CHECK(ns_attach(two, socket, NULL) != 0);
    CHECK_IS(ns_server_free(one), NS_OK);
    say(fd, "hello");
    HEAR(fd, "hello");
    CHECK_IS(ns_server_free(two), NS_OK);
    EVENT_WAIT(&dropped, drops + 1);
    CHECK_IS(event_count(&closed), closes + 1);
    close(fd);
}

/* D8: The descriptor becomes the program's. */
static void released_fd(void)
{
    int drops = event_count(&dropped), fd, raw;
    ns_server *server = detaching();
    ns_socket *socket;
    fd = client(ns_server_port(server));
    say(fd, "d");
    socket = take();
    raw = ns_socket_release_fd(socket);
    CHECK(raw >= 0);
    CHECK_IS(event_count(&dropped), drops + 1);
    CHECK_IS(ns_server_free(server), NS_OK);
    CHECK_IS(send(raw, "raw", 3, MSG_NOSIGNAL), 3);
    HEAR(fd, "raw");
    close(raw);
    HEAR_END(fd);
    close(fd);
}

/* D12: Freed without having been read: the peer sees the end. */
static void freed_at_once(void)
{
    ns_server *server = detaching();
    int fd = client(ns_server_port(server));
    say(fd, "d");
    ns_socket_free(take());
    HEAR_END(fd);
    close(fd);
    CHECK_IS(ns_server_free(server), NS_OK);
}

static int32_t detach_blocking(ns_server *server, ns_socket *socket, void *user_data)
{
    ns_error *err;
    CHECK(ns_detach(server, socket, &err) == NULL);
    CHECK_IS(ns_error_status(err), NS_ERR_NOT_NON_BLOCKING);
    ns_error_free(err);
    event_add(user_data);
    return 0;
}

/* D7: A worker's socket cannot be detached. */
static void not_non_blocking(void)
{
    event served = EVENT;
    ns_server *server = SERVE(NULL, detach_blocking, &served);
    int fd = client(ns_server_port(server));
    EVENT_WAIT(&served, 1);
    HEAR_END(fd);
    close(fd);
    CHECK_IS(ns_server_free(server), NS_OK);
}

static volatile sig_atomic_t signals;

static void on_signal(int number)
{
    (void)number;
    signals++;
}

static void *receive(void *socket)
{
    char buf[8];
    CHECK_IS(ns_socket_recv(socket, buf, sizeof buf), 4);
    return NULL;
}

/* D13: A call that waits goes on after any number of signals, and takes no more stack for them. */
static void interrupted(void)
{
    enum { SIGNALS = 8192, STACK = 256 * 1024 };
    struct sigaction action, former;
    pthread_attr_t attributes;
    pthread_t thread;
    ns_server *server = detaching();
    int fd = client(ns_server_port(server)), i;
    ns_socket *socket;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal; /* without SA_RESTART */
    CHECK_IS(sigaction(SIGUSR1, &action, &former), 0);
    say(fd, "d");
    socket = take();
    CHECK_IS(pthread_attr_init(&attributes), 0);
    CHECK_IS(pthread_attr_setstacksize(&attributes, STACK), 0);
    CHECK_IS(pthread_create(&thread, &attributes, receive, socket), 0);
    pthread_attr_destroy(&attributes);
    for (i = 0; i < SIGNALS; i++) {
        long long until = now_ms() + DEADLINE_MS;
        CHECK_IS(pthread_kill(thread, SIGUSR1), 0);
        while (signals <= i) {
            CHECK(now_ms() < until);
            sched_yield();
        }
    }
    say(fd, "done");
    pthread_join(thread, NULL);
    sigaction(SIGUSR1, &former, NULL);
    ns_socket_free(socket);
    HEAR_END(fd);
    close(fd);
    CHECK_IS(ns_server_free(server), NS_OK);
}

int main(void)
{
    RUN(interrupted);
    RUN(slow_request);
    RUN(outlives_server);
    RUN(other_server);
    RUN(released_fd);
    RUN(freed_at_once);
    RUN(not_non_blocking);
    return 0;
}
