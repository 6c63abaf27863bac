/* libev: an echo server on libev's ev_io watchers, one receive buffer for all connections.
 * Options: see peer.h.
 */
#include "peer.h"

#include <ev.h>

typedef struct {
    ev_io io; /* first: a watcher is its connection */
    unsent rest;
} conn;

static char *buffer;

static void close_conn(struct ev_loop *loop, conn *c) {
    ev_io_stop(loop, &c->io);
    close(c->io.fd);
    free(c->rest.bytes);
    free(c);
}

static void watch(struct ev_loop *loop, conn *c, int events) {
    ev_io_stop(loop, &c->io);
    ev_io_set(&c->io, c->io.fd, events);
    ev_io_start(loop, &c->io);
}

static void on_ready(struct ev_loop *loop, ev_io *io, int events) {
    conn *c = (conn *)io;
    int sent;
    if (events & EV_WRITE) {
        sent = send_rest(io->fd, &c->rest);
        if (sent == 1)
            watch(loop, c, EV_READ);
    } else {
        const ssize_t n = recv(io->fd, buffer, buffer_size, 0);
        if (n < 0 && errno == EAGAIN)
            return;
        sent = n <= 0 ? -1 : send_or_keep(io->fd, &c->rest, buffer, (size_t)n);
        if (sent == 0)
            watch(loop, c, EV_WRITE);
    }
    if (sent < 0)
        close_conn(loop, c);
}

static void on_connections(struct ev_loop *loop, ev_io *io, int events) {
    int fd;
    (void)events;
    while ((fd = accept_next(io->fd)) >= 0) {
        conn *c = (conn *)allocate(sizeof *c);
        memset(c, 0, sizeof *c);
        ev_io_init(&c->io, on_ready, fd, EV_READ);
        ev_io_start(loop, &c->io);
    }
}

int main(int argc, char **argv) {
    struct ev_loop *loop = EV_DEFAULT;
    ev_io listener;
    begin("libev", "b:", argc, argv);
    buffer = (char *)allocate(buffer_size);
    ev_io_init(&listener, on_connections, listen_on_loopback(SOCK_NONBLOCK), EV_READ);
    ev_io_start(loop, &listener);
    ev_run(loop, 0);
    return 1;
}
