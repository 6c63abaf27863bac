/* The beginning and the end of the addon in an environment. */
#include "addon.h"

#include <stdlib.h>

/* install(hooks): the functions that this addon calls, in the order of `enum hook`. */
static napi_value install(napi_env env, napi_callback_info info) {
    struct call call;
    uint32_t i;
    begin(&call, env, info);
    napi_create_reference(env, call.argv[0], 1, &call.instance->receiver);
    for (i = 0; i < HOOK_COUNT; i++) {
        napi_value hook;
        napi_get_element(env, call.argv[0], i, &hook);
        napi_create_reference(env, hook, 1, &call.instance->hooks[i]);
    }
    return NULL;
}

/* usePool(buffer): of POOL_BYTES; JavaScript keeps it until it gives the next one. */
static napi_value use_pool(napi_env env, napi_callback_info info) {
    struct call call;
    void *bytes;
    size_t len;
    begin(&call, env, info);
    if (bytes_of(&call, 0, &bytes, &len) && len == POOL_BYTES) {
        call.instance->pool = bytes;
        call.instance->pool_used = 0;
    }
    return NULL;
}

static napi_value counts(napi_env env, napi_callback_info info) {
    struct call call;
    napi_value object;
    begin(&call, env, info);
    napi_create_object(env, &object);
    set(env, object, "servers",
        int_value(env, call.instance->servers.used - call.instance->servers.free_count));
    set(env, object, "connections",
        int_value(env, call.instance->conns.used - call.instance->conns.free_count));
    return object;
}

/* Ends what the environment leaves behind: no JavaScript runs any more, and nothing waits. */
static void clean_up(void *data) {
    struct instance *instance = data;
    uint32_t i;
    instance->closing = true;
    for (i = 0; i < instance->conns.used; i++) {
        struct conn *conn = instance->conns.entries[i];
        if (conn != NULL && conn->owned != NULL) {
            ns_socket_abort(conn->owned);
            ns_socket_free(conn->owned); /* drops conn */
        }
    }
    for (i = 0; i < instance->servers.used; i++) {
        struct server *server = instance->servers.entries[i];
        if (server != NULL) {
            ns_server_stop_within(server->ns, 0);
            free_server(server);
        }
    }
}

static void free_instance(napi_env env, void *data, void *hint) {
    struct instance *instance = data;
    (void)env, (void)hint;
    table_free(&instance->servers);
    table_free(&instance->conns);
    free(instance);
}

NAPI_MODULE_INIT() {
    static const struct function functions[] = {
        {"install", install}, {"usePool", use_pool}, {"counts", counts},
    };
    struct instance *instance = calloc(1, sizeof *instance);
    if (instance == NULL) {
        napi_throw_error(env, "NS_ERR_NO_MEMORY", "no memory for the addon");
        return NULL;
    }
    instance->env = env;
    if (napi_set_instance_data(env, instance, free_instance, NULL) != napi_ok ||
        napi_add_env_cleanup_hook(env, clean_up, instance) != napi_ok || !DEFINE(functions) ||
        !define_config(env, exports, instance) || !define_server(env, exports, instance) ||
        !define_by_id(env, exports, instance) || !define_tasks(env, exports, instance) ||
        !define_socket(env, exports, instance) || !define_detached(env, exports, instance) ||
        !define_tls(env, exports, instance)) {
        napi_throw_error(env, "NS_ERR_PANIC", "the addon cannot be set up");
        return NULL;
    }
    return exports;
}
