/* libevent: an echo server on libevent's events with recv and send, one receive buffer for all
 * connections. Options: see peer.h.
 */
#include "peer.h"

#include <event2/event.h>
#include <event2/event_struct.h>
#include <event2/listener.h>

typedef struct {
    struct event readable, writable; /* one of them is waited for */
    unsent rest;
} conn;

static char *buffer;

static void go_on(conn *c, int fd, int sent, struct event *now, struct event *then) {
    if (sent < 0) {
        event_del(now);
        close(fd);
        free(c->rest.bytes);
        free(c);
    } else if (then != NULL) {
        event_del(now);
        event_add(then, NULL);
    }
}

static void on_readable(evutil_socket_t fd, short events, void *argument) {
    conn *c = (conn *)argument;
    const ssize_t n = recv(fd, buffer, buffer_size, 0);
    int sent = -1;
    (void)events;
    if (n < 0 && errno == EAGAIN)
        return;
    if (n > 0)
        sent = send_or_keep(fd, &c->rest, buffer, (size_t)n);
    go_on(c, fd, sent, &c->readable, sent == 0 ? &c->writable : NULL);
}

static void on_writable(evutil_socket_t fd, short events, void *argument) {
    conn *c = (conn *)argument;
    const int sent = send_rest(fd, &c->rest);
    (void)events;
    go_on(c, fd, sent, &c->writable, sent == 1 ? &c->readable : NULL);
}

static void on_connection(struct evconnlistener *listener, evutil_socket_t fd,
                          struct sockaddr *address, int length, void *argument) {
    struct event_base *base = evconnlistener_get_base(listener);
    conn *c = (conn *)allocate(sizeof *c);
    (void)address;
    (void)length;
    (void)argument;
    memset(c, 0, sizeof *c);
    send_at_once(fd);
    event_assign(&c->readable, base, fd, EV_READ | EV_PERSIST, on_readable, c);
    event_assign(&c->writable, base, fd, EV_WRITE | EV_PERSIST, on_writable, c);
    event_add(&c->readable, NULL);
}

int main(int argc, char **argv) {
    struct event_base *base = event_base_new();
    struct evconnlistener *listener;
    begin("libevent", "b:", argc, argv);
    buffer = (char *)allocate(buffer_size);
    if (base == NULL)
        die("event_base_new");
    listener = evconnlistener_new(base, on_connection, NULL, LEV_OPT_CLOSE_ON_EXEC, 0,
                                  listen_on_loopback(SOCK_NONBLOCK));
    if (listener == NULL)
        die("evconnlistener_new");
    return event_base_dispatch(base);
}
