/* The program's own descriptors, timers, tasks and sockets in the loop of a server. */
#include "addon.h"

#include <stdlib.h>

/* The task of a function whose arguments begin with a server and a number of JavaScript's; NULL where
 * there is no such server, or no memory. */
static struct task *begin_task(struct call *call, napi_env env, napi_callback_info info) {
    struct server *server;
    struct task *task;
    begin(call, env, info);
    server = server_of(call, 0);
    task = server == NULL ? NULL : malloc(sizeof *task);
    if (task != NULL) {
        task->server = server;
        task->number = (uint32_t)int_of(call, 1);
    }
    return task;
}

/* watch(server, task, fd, events): returns the id. */
static napi_value watch(napi_env env, napi_callback_info info) {
    struct call call;
    struct task *task = begin_task(&call, env, info);
    ns_error *error = NULL;
    uint64_t id;
    if (task == NULL)
        return throw_error(env, NS_ERR_STATE, NULL);
    id = ns_server_watch(task->server->ns, 0, (int32_t)int_of(&call, 2), (uint32_t)int_of(&call, 3),
                         on_watch, task, drop_task, &error);
    return id == 0 ? throw_error(env, NS_ERR_INVALID, error) : id_value(env, id);
}

static napi_value watch_change(napi_env env, napi_callback_info info) {
    struct call call;
    struct server *server;
    SERVER_OR_CLOSED(call, server);
    return int_value(env, ns_server_watch_change(server->ns, id_of(&call, 1),
                                                 (uint32_t)int_of(&call, 2)));
}

static napi_value unwatch(napi_env env, napi_callback_info info) {
    struct call call;
    struct server *server;
    SERVER_OR_CLOSED(call, server);
    return int_value(env, ns_server_unwatch(server->ns, id_of(&call, 1)));
}

/* A time that is no number of the library's becomes one that it refuses. */
static uint32_t ms_of(const struct call *call, size_t i) {
    int64_t ms = int_of(call, i);
    return ms < 0 || ms > INT32_MAX ? UINT32_MAX : (uint32_t)ms;
}

/* timer(server, task, firstMs, repeatMs): returns the id. */
static napi_value timer(napi_env env, napi_callback_info info) {
    struct call call;
    struct task *task = begin_task(&call, env, info);
    ns_error *error = NULL;
    uint64_t id;
    if (task == NULL)
        return throw_error(env, NS_ERR_STATE, NULL);
    id = ns_server_timer(task->server->ns, 0, ms_of(&call, 2), ms_of(&call, 3), on_timer, task,
                         drop_task, &error);
    return id == 0 ? throw_error(env, NS_ERR_INVALID, error) : id_value(env, id);
}

static napi_value timer_cancel(napi_env env, napi_callback_info info) {
    struct call call;
    struct server *server;
    SERVER_OR_CLOSED(call, server);
    return int_value(env, ns_server_timer_cancel(server->ns, id_of(&call, 1)));
}

/* post(server, task): returns a status. */
static napi_value post(napi_env env, napi_callback_info info) {
    struct call call;
    struct task *task = begin_task(&call, env, info);
    if (task == NULL)
        return int_value(env, NS_ERR_STATE);
    return int_value(env, ns_server_post(task->server->ns, 0, on_task, task, drop_task));
}

/* The connection of a function that brings one, whose first argument is the server; NULL where there
 * is no such server, or no memory. JavaScript has no socket of it yet, so a failure drops it in
 * silence. */
static struct conn *begin_conn(struct call *call, napi_env env, napi_callback_info info) {
    struct server *server;
    struct conn *conn;
    begin(call, env, info);
    server = server_of(call, 0);
    conn = server == NULL ? NULL : new_conn(server);
    if (conn != NULL)
        conn->closed = true;
    return conn;
}

/* Returns [number, id]; `number` is that of `conn`, which a failure (id 0) has dropped. */
static napi_value end_conn(napi_env env, struct conn *conn, uint32_t number, ns_conn_id id,
                           ns_error *error) {
    napi_value pair;
    if (id == 0)
        return throw_error(env, NS_ERR_STATE, error);
    conn->id = id;
    conn->closed = false;
    napi_create_array_with_length(env, 2, &pair);
    napi_set_element(env, pair, 0, int_value(env, number));
    napi_set_element(env, pair, 1, id_value(env, id));
    return pair;
}

/* adopt(server, fd) */
static napi_value adopt(napi_env env, napi_callback_info info) {
    struct call call;
    struct conn *conn = begin_conn(&call, env, info);
    ns_error *error = NULL;
    uint32_t number;
    ns_conn_id id;
    if (conn == NULL)
        return throw_error(env, NS_ERR_STATE, NULL);
    number = conn->number;
    id = ns_server_adopt(conn->server->ns, (int)int_of(&call, 1), conn, drop_conn, &error);
    return end_conn(env, conn, number, id, error);
}

/* connect(server, service, timeoutMs) */
static napi_value connect_to(napi_env env, napi_callback_info info) {
    struct call call;
    struct conn *conn = begin_conn(&call, env, info);
    ns_error *error = NULL;
    uint32_t number;
    ns_conn_id id;
    char *service;
    if (conn == NULL)
        return throw_error(env, NS_ERR_STATE, NULL);
    number = conn->number;
    service = text_of(&call, 1);
    id = ns_server_connect(conn->server->ns, service, ms_of(&call, 2), conn, drop_conn, &error);
    free(service);
    return end_conn(env, conn, number, id, error);
}

bool define_tasks(napi_env env, napi_value exports, struct instance *instance) {
    static const struct function functions[] = {
        {"watch", watch}, {"watchChange", watch_change}, {"unwatch", unwatch},
        {"timer", timer}, {"timerCancel", timer_cancel}, {"post", post},
        {"adopt", adopt}, {"connect", connect_to},
    };
    return DEFINE(functions);
}
