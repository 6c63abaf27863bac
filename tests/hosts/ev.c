/* A host with libev. Its loop receives the signal; the watcher of the descriptor learns of the
 * stop. */
#define _POSIX_C_SOURCE 200809L
#include "host.h"

#include <ev.h>

static void on_readable(struct ev_loop *loop, ev_io *watcher, int events)
{
    (void)watcher, (void)events;
    if (!turn())
        ev_break(loop, EVBREAK_ALL);
}

static void on_interrupt(struct ev_loop *loop, ev_signal *watcher, int events)
{
    (void)loop, (void)watcher, (void)events;
    check(ns_server_request_stop(server), "request_stop");
}

int main(int argc, char **argv)
{
    struct ev_loop *loop = ev_default_loop(0);
    ev_io watched;
    ev_signal interrupt;
    ev_io_init(&watched, on_readable, start(argc, argv), EV_READ);
    ev_io_start(loop, &watched);
    ev_signal_init(&interrupt, on_interrupt, SIGINT);
    ev_signal_start(loop, &interrupt);
    ev_run(loop, 0);
    ev_io_stop(loop, &watched);
    ev_loop_destroy(loop);
    return end();
}
