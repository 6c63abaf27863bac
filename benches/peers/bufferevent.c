/* bufferevent: an echo server on libevent's buffered events: what came in moves to what goes out,
 * without a copy. Options: see peer.h. -b bounds what waits to be sent and what one call may take,
 * of which libevent reads no more than 4 KiB at once.
 */
#include "peer.h"

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/listener.h>

static size_t waiting(struct bufferevent *conn) {
    return evbuffer_get_length(bufferevent_get_output(conn));
}

static void on_read(struct bufferevent *conn, void *unused) {
    (void)unused;
    bufferevent_write_buffer(conn, bufferevent_get_input(conn));
    if (waiting(conn) >= buffer_size)
        bufferevent_disable(conn, EV_READ);
}

static void on_all_written(struct bufferevent *conn, void *unused) {
    (void)unused;
    if (!(bufferevent_get_enabled(conn) & EV_READ))
        bufferevent_enable(conn, EV_READ);
}

static void on_last_written(struct bufferevent *conn, void *unused) {
    (void)unused;
    bufferevent_free(conn);
}

static void on_event(struct bufferevent *conn, short what, void *unused) {
    (void)unused;
    if ((what & BEV_EVENT_EOF) && waiting(conn) > 0)
        bufferevent_setcb(conn, NULL, on_last_written, on_event, NULL);
    else
        bufferevent_free(conn);
}

static void on_connection(struct evconnlistener *listener, evutil_socket_t fd,
                          struct sockaddr *address, int length, void *unused) {
    struct bufferevent *conn = bufferevent_socket_new(evconnlistener_get_base(listener), fd,
                                                      BEV_OPT_CLOSE_ON_FREE);
    (void)address;
    (void)length;
    (void)unused;
    if (conn == NULL)
        die("bufferevent_socket_new");
    send_at_once(fd);
    bufferevent_set_max_single_read(conn, buffer_size);
    bufferevent_set_max_single_write(conn, buffer_size);
    bufferevent_setcb(conn, on_read, on_all_written, on_event, NULL);
    bufferevent_enable(conn, EV_READ | EV_WRITE);
}

int main(int argc, char **argv) {
    struct event_base *base = event_base_new();
    struct evconnlistener *listener;
    begin("bufferevent", "b:", argc, argv);
    if (base == NULL)
        die("event_base_new");
    listener = evconnlistener_new(base, on_connection, NULL, LEV_OPT_CLOSE_ON_EXEC, 0,
                                  listen_on_loopback(SOCK_NONBLOCK));
    if (listener == NULL)
        die("evconnlistener_new");
    return event_base_dispatch(base);
}
