/* What the library calls: one function for each kind of callback. Each returns what the library
 * takes for success where JavaScript cannot run any more. */
#include "addon.h"

#include <stdlib.h>
#include <string.h>

#define NANOS_PER_MS UINT64_C(1000000)

struct conn *new_conn(struct server *server) {
    struct conn *conn = calloc(1, sizeof *conn);
    if (conn == NULL)
        return NULL;
    conn->instance = server->instance;
    conn->server = server;
    conn->fd = -1;
    if (!table_add(&server->instance->conns, conn, &conn->number)) {
        free(conn);
        return NULL;
    }
    return conn;
}

/* The library calls this when it does not use a connection any more; also in a callback of the
 * connection, where the program has detached it and given it away. */
void drop_conn(void *user_data) {
    struct conn *conn = user_data;
    struct instance *instance = conn->instance;
    table_remove(&instance->conns, conn->number);
    if (!conn->closed && !instance->closing) {
        napi_handle_scope scope;
        napi_open_handle_scope(instance->env, &scope);
        napi_value argv[] = {int_value(instance->env, DROPPED_CONN),
                             int_value(instance->env, conn->number)};
        call_hook(instance, NULL, HOOK_DROP, 2, argv, NULL);
        napi_close_handle_scope(instance->env, scope);
    }
    conn->dropped = true;
    if (conn->depth == 0)
        free(conn);
}

/* A callback of a connection: between `enter` and `leave` the calls for it are direct. */
static napi_handle_scope enter(struct conn *conn, ns_socket *socket) {
    napi_handle_scope scope = NULL;
    conn->depth++;
    conn->current = conn->raising = socket;
    napi_open_handle_scope(conn->instance->env, &scope);
    return scope;
}

static void leave(struct conn *conn, napi_handle_scope scope) {
    napi_close_handle_scope(conn->instance->env, scope);
    conn->current = conn->raising = NULL;
    if (--conn->depth == 0 && conn->dropped)
        free(conn);
}

static int32_t call_conn(struct conn *conn, enum hook hook) {
    int32_t result;
    napi_value argv[] = {int_value(conn->instance->env, conn->number)};
    call_hook(conn->instance, conn->server->async, hook, 1, argv, &result);
    return result;
}

static int32_t on_open(ns_server *ns, ns_socket *socket, void *user_data) {
    struct server *server = user_data;
    struct conn *conn = ns_socket_user_data(socket); /* of an outgoing or adopted connection */
    napi_handle_scope scope;
    napi_env env = server->instance->env;
    int32_t result;
    (void)ns;
    if (server->instance->closing)
        return 0;
    if (conn == NULL) {
        conn = new_conn(server);
        if (conn == NULL)
            return ns_raise(socket, NS_ERR_NO_MEMORY, "no memory for a connection");
        ns_socket_set_user_data(socket, conn, drop_conn);
    }
    conn->id = ns_socket_id(socket);
    conn->fd = ns_socket_fd(socket);
    scope = enter(conn, socket);
    {
        napi_value argv[] = {int_value(env, server->number), int_value(env, conn->number),
                             id_value(env, conn->id), int_value(env, ns_socket_service(socket))};
        call_hook(server->instance, server->async, HOOK_OPEN, 4, argv, &result);
    }
    leave(conn, scope);
    return result;
}

/* Small pieces share a pool, so that a program that keeps one keeps 8 KiB at most with it. */
static int32_t deliver(struct conn *conn, size_t n) {
    struct instance *instance = conn->instance;
    napi_env env = instance->env;
    napi_value argv[3] = {int_value(env, conn->number)};
    int32_t result;
    if (n <= POOLED_BYTES) {
        size_t at = instance->pool_used;
        if (instance->pool == NULL || at + n > POOL_BYTES) {
            instance->pool = NULL;
            call_quietly(instance, HOOK_POOL, 0, NULL);
            if (instance->pool == NULL)
                return 0;
            at = 0;
        }
        memcpy(instance->pool + at, instance->received, n);
        instance->pool_used = (at + n + 7) & ~(size_t)7;
        argv[1] = int_value(env, (int64_t)at);
    } else if (napi_create_buffer_copy(env, n, instance->received, NULL, &argv[1]) != napi_ok) {
        return ns_raise(conn->current, NS_ERR_NO_MEMORY, "no memory for the received bytes");
    }
    argv[2] = int_value(env, (int64_t)n);
    call_hook(instance, conn->server->async, HOOK_DATA, 3, argv, &result);
    return result;
}

/* Notes that bytes have come or gone, for setTimeout(). */
static void note_activity(struct conn *conn) {
    if (conn->idle_ms == 0)
        return;
    conn->active_at = uv_hrtime();
    if (!conn->timer_set && conn->current != NULL) {
        ns_socket_set_timer_ms(conn->current, conn->idle_ms);
        conn->timer_set = true;
    }
}

int32_t on_input(ns_server *ns, ns_socket *socket, void *user_data) {
    struct conn *conn = ns_socket_user_data(socket);
    napi_handle_scope scope;
    int32_t result = 0;
    int64_t n;
    (void)ns, (void)user_data;
    if (conn->instance->closing)
        return 0;
    if (conn->paused) { /* by a call outside of the callbacks */
        conn->held = true;
        return ns_socket_pause(socket);
    }
    n = ns_socket_recv(socket, conn->instance->received, RECEIVE_BYTES);
    if (n < 0)
        return (int32_t)n;
    scope = enter(conn, socket);
    note_activity(conn);
    result = n > 0 ? deliver(conn, (size_t)n) : call_conn(conn, HOOK_END);
    leave(conn, scope);
    return result;
}

static int32_t on_drain(ns_server *ns, ns_socket *socket, void *user_data) {
    struct conn *conn = ns_socket_user_data(socket);
    napi_handle_scope scope;
    int32_t result;
    (void)ns, (void)user_data;
    conn->unchecked = 0;
    if (!conn->full || conn->instance->closing)
        return 0;
    conn->full = false;
    scope = enter(conn, socket);
    note_activity(conn);
    result = call_conn(conn, HOOK_DRAIN);
    leave(conn, scope);
    return result;
}

/* The timer of the connection, which is the idle one of setTimeout(): it may have moved. */
static int32_t on_timeout(ns_server *ns, ns_socket *socket, void *user_data) {
    struct conn *conn = ns_socket_user_data(socket);
    napi_handle_scope scope;
    uint64_t idle, limit;
    int32_t result;
    (void)ns, (void)user_data;
    conn->timer_set = false;
    if (conn->idle_ms == 0 || conn->instance->closing)
        return 0;
    idle = uv_hrtime() - conn->active_at;
    limit = conn->idle_ms * NANOS_PER_MS;
    if (idle < limit) {
        conn->timer_set = true;
        return ns_socket_set_timer_ms(socket, (uint32_t)((limit - idle) / NANOS_PER_MS + 1));
    }
    scope = enter(conn, socket);
    result = call_conn(conn, HOOK_TIMEOUT);
    leave(conn, scope);
    return result;
}

/* Does what calls outside of the callbacks have asked for. */
static int32_t on_wake(ns_server *ns, ns_socket *socket, void *user_data) {
    struct conn *conn = ns_socket_user_data(socket);
    napi_handle_scope scope;
    int32_t result;
    (void)ns, (void)user_data;
    if (conn->instance->closing)
        return 0;
    if (!conn->paused && conn->held) {
        conn->held = false;
        ns_socket_resume(socket);
    }
    scope = enter(conn, socket);
    if (conn->idle_ms != 0 && !conn->timer_set)
        note_activity(conn);
    conn->waking = false;
    result = call_conn(conn, HOOK_WAKE);
    leave(conn, scope);
    return result;
}

static void on_close(ns_server *ns, ns_socket *socket, int32_t reason, void *user_data) {
    struct conn *conn = ns_socket_user_data(socket);
    napi_handle_scope scope;
    (void)ns, (void)user_data;
    if (conn == NULL || conn->instance->closing)
        return;
    conn->closed = true;
    scope = enter(conn, socket);
    {
        napi_env env = conn->instance->env;
        napi_value argv[] = {int_value(env, conn->number), int_value(env, reason),
                             int_value(env, ns_socket_os_error(socket))};
        call_hook(conn->instance, conn->server->async, HOOK_CLOSE, 3, argv, NULL);
    }
    leave(conn, scope);
}

/* The number of an exception in JavaScript's table; 0 where JavaScript threw nothing. */
static int64_t raised_number(const ns_error *error) {
    const struct task *raised = ns_error_payload(error);
    return raised == NULL ? 0 : raised->number;
}

/* Whatever failed, its connection ends: what the exception handler has sent leaves before. */
static int32_t on_exception(ns_server *ns, ns_socket *socket, const ns_error *error,
                            void *user_data) {
    struct server *server = user_data;
    struct instance *instance = server->instance;
    struct conn *conn = socket == NULL ? NULL : ns_socket_user_data(socket);
    napi_env env = instance->env;
    napi_handle_scope scope;
    (void)ns;
    if (instance->closing)
        return 0;
    if (conn != NULL)
        scope = enter(conn, socket);
    else
        napi_open_handle_scope(env, &scope);
    {
        napi_value argv[] = {int_value(env, server->number),
                             int_value(env, conn == NULL ? -1 : (int64_t)conn->number),
                             int_value(env, raised_number(error)),
                             error_value(env, ns_error_status(error), ns_error_os_code(error),
                                         ns_error_message(error))};
        call_hook(instance, server->async, HOOK_EXCEPTION, 4, argv, NULL);
    }
    if (conn != NULL)
        leave(conn, scope);
    else
        napi_close_handle_scope(env, scope);
    if (socket != NULL)
        ns_socket_close(socket);
    return 0;
}

/* A connection of the shutdown port. JavaScript returns what the library is to get. */
static int32_t on_shutdown(ns_server *ns, ns_socket *socket, void *user_data) {
    struct server *server = user_data;
    struct conn *conn = ns_socket_user_data(socket);
    napi_handle_scope scope;
    napi_env env = server->instance->env;
    int32_t result = 0;
    (void)ns;
    if (server->instance->closing)
        return 0;
    if (conn == NULL) {
        conn = new_conn(server);
        if (conn == NULL)
            return 0;
        conn->closed = true; /* JavaScript has no socket of it */
        ns_socket_set_user_data(socket, conn, drop_conn);
    }
    scope = enter(conn, socket);
    {
        napi_value argv[] = {int_value(env, server->number), int_value(env, conn->number)};
        call_hook(server->instance, server->async, HOOK_SHUTDOWN, 2, argv, &result);
    }
    leave(conn, scope);
    return result;
}

/* -- watches, timers, tasks ------------------------------------------------------------------ */

static int32_t call_task(struct task *task, napi_value argument) {
    struct server *server = task->server;
    int32_t result;
    napi_value argv[] = {int_value(server->instance->env, server->number),
                         int_value(server->instance->env, task->number), argument};
    call_hook(server->instance, server->async, HOOK_TASK, 3, argv, &result);
    return result;
}

static int32_t run_task(struct task *task, int64_t argument) {
    napi_env env = task->server->instance->env;
    napi_handle_scope scope;
    int32_t result;
    if (task->server->instance->closing)
        return 0;
    napi_open_handle_scope(env, &scope);
    result = call_task(task, int_value(env, argument));
    napi_close_handle_scope(env, scope);
    return result;
}

int32_t on_watch(ns_server *ns, uint64_t id, int32_t fd, uint32_t events, void *user_data) {
    (void)ns, (void)id, (void)fd;
    return run_task(user_data, events);
}

int32_t on_timer(ns_server *ns, uint64_t id, void *user_data) {
    (void)ns, (void)id;
    return run_task(user_data, 0);
}

int32_t on_task(ns_server *ns, void *user_data) {
    (void)ns;
    return run_task(user_data, 0);
}

void drop_task(void *user_data) {
    struct task *task = user_data;
    struct instance *instance = task->server->instance;
    napi_handle_scope scope;
    if (!instance->closing) {
        napi_open_handle_scope(instance->env, &scope);
        napi_value argv[] = {int_value(instance->env, DROPPED_TASK),
                             int_value(instance->env, task->number)};
        call_quietly(instance, HOOK_DROP, 2, argv);
        napi_close_handle_scope(instance->env, scope);
    }
    free(task);
}

bool set_callbacks(ns_config *config, struct server *server, bool shutdown_handler) {
    return ns_config_set_non_blocking(config, 1) == NS_OK &&
           ns_config_set_exception_handler(config, on_exception, server, NULL) == NS_OK &&
           ns_config_set_on_open(config, on_open, server, NULL) == NS_OK &&
           ns_config_set_on_close(config, on_close, server, NULL) == NS_OK &&
           ns_config_set_on_drain(config, on_drain, server, NULL) == NS_OK &&
           ns_config_set_on_timeout(config, on_timeout, server, NULL) == NS_OK &&
           ns_config_set_on_wake(config, on_wake, server, NULL) == NS_OK &&
           (!shutdown_handler ||
            ns_config_set_shutdown_handler(config, on_shutdown, server, NULL) == NS_OK);
}
