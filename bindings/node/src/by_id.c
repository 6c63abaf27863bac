/* Calls by id. They return a status, or a count in its place. */
#include "addon.h"

#include <stdlib.h>

/* send(server, id, bytes) */
static napi_value send_by_id(napi_env env, napi_callback_info info) {
    struct call call;
    struct server *server;
    void *bytes;
    size_t len;
    SERVER_OR_CLOSED(call, server);
    if (!bytes_of(&call, 2, &bytes, &len))
        return int_value(env, NS_ERR_INVALID);
    return int_value(env, ns_server_send(server->ns, id_of(&call, 1), bytes, len));
}

static napi_value close_by_id(napi_env env, napi_callback_info info) {
    struct call call;
    struct server *server;
    SERVER_OR_CLOSED(call, server);
    return int_value(env, ns_server_close(server->ns, id_of(&call, 1)));
}

static napi_value abort_by_id(napi_env env, napi_callback_info info) {
    struct call call;
    struct server *server;
    SERVER_OR_CLOSED(call, server);
    return int_value(env, ns_server_abort(server->ns, id_of(&call, 1)));
}

static napi_value wake_by_id(napi_env env, napi_callback_info info) {
    struct call call;
    struct server *server;
    SERVER_OR_CLOSED(call, server);
    return int_value(env, ns_server_wake(server->ns, id_of(&call, 1)));
}

static napi_value queued_by_id(napi_env env, napi_callback_info info) {
    struct call call;
    struct server *server;
    SERVER_OR_CLOSED(call, server);
    return int_value(env, ns_server_queued(server->ns, id_of(&call, 1)));
}

/* shutdown(server, id, how) */
static napi_value shutdown_by_id(napi_env env, napi_callback_info info) {
    struct call call;
    struct server *server;
    SERVER_OR_CLOSED(call, server);
    return int_value(env,
                     ns_server_shutdown(server->ns, id_of(&call, 1), (int32_t)int_of(&call, 2)));
}

/* broadcast(server, ids, bytes, statuses): ids is a BigUint64Array, statuses an Int32Array of the
 * same length or undefined. */
static napi_value broadcast(napi_env env, napi_callback_info info) {
    struct call call;
    struct server *server;
    napi_typedarray_type type;
    size_t count, statuses_count = 0, len;
    void *ids, *bytes, *statuses = NULL;
    int64_t accepted;
    SERVER_OR_CLOSED(call, server);
    if (napi_get_typedarray_info(env, call.argv[1], &type, &count, &ids, NULL, NULL) != napi_ok ||
        type != napi_biguint64_array || !bytes_of(&call, 2, &bytes, &len))
        return int_value(env, NS_ERR_INVALID);
    if (napi_get_typedarray_info(env, call.argv[3], &type, &statuses_count, &statuses, NULL,
                                 NULL) != napi_ok)
        accepted = ns_server_broadcast(server->ns, ids, count, bytes, len);
    else if (type != napi_int32_array || statuses_count != count)
        accepted = NS_ERR_INVALID;
    else
        accepted = ns_server_broadcast_each(server->ns, ids, count, bytes, len, statuses);
    return int_value(env, accepted);
}

struct ids {
    napi_env env;
    napi_value array;
    uint32_t count;
};

static int32_t add_id(ns_conn_id id, void *user_data) {
    struct ids *ids = user_data;
    return napi_set_element(ids->env, ids->array, ids->count++, id_value(ids->env, id)) != napi_ok;
}

/* ids(server): an array of the ids of the open connections. */
static napi_value ids_of(napi_env env, napi_callback_info info) {
    struct call call;
    struct server *server;
    struct ids ids = {env, NULL, 0};
    begin(&call, env, info);
    server = server_of(&call, 0);
    napi_create_array(env, &ids.array);
    if (server != NULL)
        ns_server_foreach(server->ns, add_id, &ids);
    return ids.array;
}

bool define_by_id(napi_env env, napi_value exports, struct instance *instance) {
    static const struct function functions[] = {
        {"sendById", send_by_id},         {"closeById", close_by_id}, {"abortById", abort_by_id},
        {"wakeById", wake_by_id},         {"queuedById", queued_by_id},
        {"shutdownById", shutdown_by_id}, {"broadcast", broadcast},   {"ids", ids_of},
    };
    return DEFINE(functions);
}
