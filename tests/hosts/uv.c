/* A host with libuv. Its loop receives the signal, on whose callback the host's thread stops the
 * server: the stop runs the turns that are left. */
#define _POSIX_C_SOURCE 200809L
#include "host.h"

#include <uv.h>

static uv_poll_t watched;
static uv_signal_t interrupt;

static void on_readable(uv_poll_t *handle, int status, int events)
{
    (void)handle, (void)events;
    check(status, "uv_poll");
    turn();
}

static void on_interrupt(uv_signal_t *handle, int number)
{
    (void)handle, (void)number;
    check(ns_server_stop(server), "stop");
    uv_close((uv_handle_t *)&watched, NULL);
    uv_close((uv_handle_t *)&interrupt, NULL);
}

int main(int argc, char **argv)
{
    uv_loop_t *loop = uv_default_loop();
    check(uv_poll_init(loop, &watched, start(argc, argv)), "uv_poll_init");
    check(uv_poll_start(&watched, UV_READABLE, on_readable), "uv_poll_start");
    check(uv_signal_init(loop, &interrupt), "uv_signal_init");
    check(uv_signal_start(&interrupt, on_interrupt, SIGINT), "uv_signal_start");
    check(uv_run(loop, UV_RUN_DEFAULT), "uv_run");
    check(uv_loop_close(loop), "uv_loop_close");
    return end();
}
