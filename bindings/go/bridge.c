#include "bridge.h"

#include <stdlib.h>

#include "_cgo_export.h"

static uintptr_t number_of(const void *user_data) { return (uintptr_t)user_data; }

static void *as_user_data(uintptr_t number) { return (void *)number; }

static void on_drop(void *user_data) { netserverDrop(number_of(user_data)); }

uintptr_t go_number(const ns_socket *socket) { return number_of(ns_socket_user_data(socket)); }

ns_status go_set_number(ns_socket *socket, uintptr_t number) {
    return ns_socket_set_user_data(socket, as_user_data(number), on_drop);
}

/* -- callbacks of connections ----------------------------------------------------------------- */

/* Receives before it calls Go: so Go is entered once for each readable connection. */
static int32_t on_readable(ns_server *server, ns_socket *socket, void *user_data) {
    go_loop *loop = user_data;
    int64_t n = ns_socket_recv(socket, loop->buffer, loop->size);
    (void)server;
    if (n < 0)
        return (int32_t)n;
    return netserverOnData(go_number(socket), socket, loop->buffer, (size_t)n);
}

static int32_t on_open(ns_server *server, ns_socket *socket, void *user_data) {
    go_loop *loop = user_data;
    (void)server;
    return netserverOnOpen(loop->number, socket, go_number(socket), ns_socket_id(socket));
}

static void on_close(ns_server *server, ns_socket *socket, int32_t reason, void *user_data) {
    (void)server, (void)user_data;
    netserverOnClose(go_number(socket), socket, reason);
}

static int32_t on_wake(ns_server *server, ns_socket *socket, void *user_data) {
    (void)server, (void)user_data;
    return netserverOnWake(go_number(socket), socket);
}

static int32_t on_drain(ns_server *server, ns_socket *socket, void *user_data) {
    (void)server, (void)user_data;
    return netserverOnDrain(go_number(socket), socket);
}

static int32_t on_timeout(ns_server *server, ns_socket *socket, void *user_data) {
    (void)server, (void)user_data;
    return netserverOnTimeout(go_number(socket), socket);
}

static int32_t on_exception(ns_server *server, ns_socket *socket, const ns_error *error,
                            void *user_data) {
    go_loop *loop = user_data;
    (void)server;
    return netserverOnError(loop->number, socket, socket == NULL ? 0 : go_number(socket),
                            (ns_error *)error);
}

static int32_t on_shutdown(ns_server *server, ns_socket *socket, void *user_data) {
    go_loop *loop = user_data;
    int64_t n = ns_socket_recv(socket, loop->buffer, loop->size);
    (void)server;
    if (n == NS_ERR_WOULD_BLOCK)
        return 0; /* the peer's 5 seconds are over */
    return netserverOnShutdown(loop->number, socket, loop->buffer, n < 0 ? 0 : (size_t)n);
}

/* -- server ----------------------------------------------------------------------------------- */

go_loop *go_loop_new(uintptr_t number, size_t size) {
    go_loop *loop = malloc(sizeof *loop + size);
    if (loop == NULL)
        abort();
    loop->number = number;
    loop->size = size;
    return loop;
}

/* What a setter refuses, ns_server_new reports. */
ns_server *go_server_new(const char *service, go_loop *loop, ns_config *config, uint32_t callbacks,
                         ns_error **err) {
    ns_config_set_non_blocking(config, 1);
    ns_config_set_on_open(config, on_open, loop, NULL);
    ns_config_set_on_close(config, on_close, loop, NULL);
    ns_config_set_on_wake(config, on_wake, loop, NULL);
    ns_config_set_exception_handler(config, on_exception, loop, NULL);
    if (callbacks & GO_ON_DRAIN)
        ns_config_set_on_drain(config, on_drain, loop, NULL);
    if (callbacks & GO_ON_TIMEOUT)
        ns_config_set_on_timeout(config, on_timeout, loop, NULL);
    if (callbacks & GO_ON_SHUTDOWN)
        ns_config_set_shutdown_handler(config, on_shutdown, loop, NULL);
    return ns_server_new(service, on_readable, loop, NULL, config, err);
}

/* The turn makes this thread the host's: only on that one the stop runs turns itself. */
ns_status go_stop_within(ns_server *server, int64_t ms) {
    ns_status status = ns_server_run_once(server, 0);
    return status < 0 ? status : ns_server_stop_within(server, ms);
}

/* -- errors ----------------------------------------------------------------------------------- */

int32_t go_raise(ns_socket *socket, int32_t code, const char *message, uintptr_t number) {
    return ns_raise_with(socket, code, message, as_user_data(number), on_drop);
}

uintptr_t go_payload(const ns_error *error) { return number_of(ns_error_payload(error)); }

/* -- watches, timers, tasks, adopted connections ---------------------------------------------- */

static int32_t on_watch(ns_server *server, uint64_t id, int32_t fd, uint32_t events,
                        void *user_data) {
    (void)server, (void)id, (void)fd;
    return netserverOnWatch(number_of(user_data), events);
}

static int32_t on_timer(ns_server *server, uint64_t id, void *user_data) {
    (void)server, (void)id;
    return netserverOnTask(number_of(user_data));
}

static int32_t on_task(ns_server *server, void *user_data) {
    (void)server;
    return netserverOnTask(number_of(user_data));
}

static int32_t do_nothing(ns_server *server, void *user_data) {
    (void)server, (void)user_data;
    return 0;
}

uint64_t go_watch(ns_server *server, int32_t fd, uint32_t events, uintptr_t number,
                  ns_error **err) {
    return ns_server_watch(server, 0, fd, events, on_watch, as_user_data(number), on_drop, err);
}

uint64_t go_timer(ns_server *server, uint32_t first_ms, uint32_t repeat_ms, uintptr_t number,
                  ns_error **err) {
    return ns_server_timer(server, 0, first_ms, repeat_ms, on_timer, as_user_data(number), on_drop,
                           err);
}

ns_status go_post(ns_server *server, uintptr_t number) {
    return ns_server_post(server, 0, on_task, as_user_data(number), on_drop);
}

ns_status go_wake_loop(ns_server *server) {
    return ns_server_post(server, 0, do_nothing, NULL, NULL);
}

ns_conn_id go_adopt(ns_server *server, int fd, uintptr_t number, ns_error **err) {
    return ns_server_adopt(server, fd, as_user_data(number), on_drop, err);
}

ns_conn_id go_connect(ns_server *server, const char *service, uint32_t timeout_ms,
                      uintptr_t number, ns_error **err) {
    return ns_server_connect(server, service, timeout_ms, as_user_data(number), on_drop, err);
}
