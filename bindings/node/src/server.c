/* Servers: hosted ones. The environment's loop runs their turns when their descriptor is readable,
 * on the thread of the environment, which alone starts, stops and frees them. */
#include "addon.h"

#include <stdlib.h>
#include <string.h>

static void free_memory(uv_handle_t *poll) {
    free(poll->data);
}

/* Frees a server, outside of its callbacks. What a drop function has JavaScript do does not find
 * the server any more. */
void free_server(struct server *server) {
    struct instance *instance = server->instance;
    ns_server *ns = server->ns;
    server->ns = NULL;
    table_remove(&instance->servers, server->number);
    if (server->started) /* before the descriptor goes; the memory stays until the loop is done */
        uv_close((uv_handle_t *)&server->poll, free_memory);
    ns_server_free(ns);
    if (server->async != NULL)
        napi_async_destroy(instance->env, server->async);
    if (!server->started)
        free(server);
}

static void finish(struct server *server) {
    napi_value argv[] = {int_value(server->instance->env, server->number)};
    call_hook(server->instance, server->async, HOOK_STOPPED, 1, argv, NULL);
    free_server(server);
}

static void on_turn(uv_poll_t *poll, int status, int events) {
    struct server *server = poll->data;
    napi_env env = server->instance->env;
    napi_handle_scope scope;
    ns_status turn;
    (void)status, (void)events;
    if (server->instance->closing) {
        uv_poll_stop(poll);
        return;
    }
    napi_open_handle_scope(env, &scope);
    server->turning = true;
    turn = ns_server_run_once(server->ns, 0);
    if (server->stop_within >= 0)
        ns_server_stop_within(server->ns, server->stop_within);
    server->turning = false;
    if (turn == NS_ERR_STATE || ns_server_state(server->ns) == NS_STATE_STOPPED)
        finish(server);
    napi_close_handle_scope(env, scope);
}

/* serverNew(settings, service, tls, shutdownPort, hasShutdownHandler, writeMark) */
static napi_value server_new(napi_env env, napi_callback_info info) {
    struct call call;
    struct server *server;
    ns_config *config;
    ns_error *error = NULL;
    ns_tls *tls;
    char *service, *shutdown_port;
    bool has_handler = false;
    begin(&call, env, info);
    config = config_of(&call, 0);
    if (config == NULL)
        return NULL;
    server = calloc(1, sizeof *server);
    if (server == NULL || !table_add(&call.instance->servers, server, &server->number)) {
        free(server);
        ns_config_free(config);
        return throw_error(env, NS_ERR_NO_MEMORY, NULL);
    }
    server->instance = call.instance;
    server->write_mark = (size_t)int_of(&call, 5);
    server->stop_within = -1;
    napi_get_value_bool(env, call.argv[4], &has_handler);
    set_callbacks(config, server, has_handler);
    service = text_of(&call, 1);
    shutdown_port = text_of(&call, 3);
    if (shutdown_port != NULL)
        ns_config_set_shutdown_port(config, shutdown_port);
    tls = tls_of(&call, 2);
    if (tls != NULL)
        ns_config_set_tls(config, tls);
    server->ns = ns_server_new(service, on_input, server, NULL, config, &error);
    free(service);
    free(shutdown_port);
    ns_config_free(config);
    if (server->ns == NULL) {
        table_remove(&call.instance->servers, server->number);
        free(server);
        return throw_error(env, NS_ERR_INVALID, error);
    }
    return int_value(env, server->number);
}

/* serverAddService(server, service, tls): returns the number of the service. */
static napi_value server_add_service(napi_env env, napi_callback_info info) {
    struct call call;
    struct server *server;
    ns_error *error = NULL;
    ns_tls *tls;
    char *service;
    int32_t number;
    begin(&call, env, info);
    server = server_of(&call, 0);
    if (server == NULL)
        return throw_error(env, NS_ERR_STATE, NULL);
    service = text_of(&call, 1);
    tls = tls_of(&call, 2);
    number = tls == NULL ? ns_server_add_service(server->ns, service, &error)
                         : ns_server_add_service_tls(server->ns, service, tls, &error);
    free(service);
    return number < 0 ? throw_error(env, number, error) : int_value(env, number);
}

/* serverStart(server, resource): a server that cannot start is gone. */
static napi_value server_start(napi_env env, napi_callback_info info) {
    struct call call;
    struct server *server;
    ns_error *error = NULL;
    ns_status status;
    uv_loop_t *loop;
    begin(&call, env, info);
    server = server_of(&call, 0);
    if (server == NULL)
        return throw_error(env, NS_ERR_STATE, NULL);
    status = ns_server_start(server->ns, NS_START_HOSTED, &error);
    if (status == NS_OK && (napi_get_uv_event_loop(env, &loop) != napi_ok ||
                            uv_poll_init(loop, &server->poll, ns_server_poll_fd(server->ns)) != 0))
        status = NS_ERR_IO;
    if (status != NS_OK) {
        free_server(server);
        return throw_error(env, status, error);
    }
    server->poll.data = server;
    server->started = true;
    uv_poll_start(&server->poll, UV_READABLE, on_turn);
    napi_async_init(env, call.argv[1], text_value(env, "NETSERVER"), &server->async);
    return NULL;
}

/* serverFree(server): one that was not started. */
static napi_value server_free(napi_env env, napi_callback_info info) {
    struct call call;
    struct server *server;
    begin(&call, env, info);
    server = server_of(&call, 0);
    if (server != NULL && !server->started)
        free_server(server);
    return NULL;
}

/* A request of one argument, the server: returns the status. */
static napi_value request(napi_env env, napi_callback_info info, ns_status (*of)(ns_server *)) {
    struct call call;
    struct server *server;
    begin(&call, env, info);
    server = server_of(&call, 0);
    return int_value(env, server == NULL ? NS_ERR_STATE : of(server->ns));
}

static napi_value server_request_stop(napi_env env, napi_callback_info info) {
    return request(env, info, ns_server_request_stop);
}

static napi_value server_request_quiesce(napi_env env, napi_callback_info info) {
    return request(env, info, ns_server_request_quiesce);
}

/* serverStopWithin(server, ms): in a turn, after the turn. */
static napi_value server_stop_within(napi_env env, napi_callback_info info) {
    struct call call;
    struct server *server;
    ns_status status = NS_OK;
    begin(&call, env, info);
    server = server_of(&call, 0);
    if (server == NULL)
        return int_value(env, NS_ERR_STATE);
    if (server->turning) {
        server->stop_within = int_of(&call, 1);
    } else {
        server->turning = true;
        status = ns_server_stop_within(server->ns, int_of(&call, 1));
        server->turning = false;
    }
    return int_value(env, status);
}

/* serverRef(server, ref): whether the server keeps the loop alive. */
static napi_value server_ref(napi_env env, napi_callback_info info) {
    struct call call;
    struct server *server;
    bool ref = true;
    begin(&call, env, info);
    server = server_of(&call, 0);
    if (server == NULL || !server->started)
        return NULL;
    napi_get_value_bool(env, call.argv[1], &ref);
    if (ref)
        uv_ref((uv_handle_t *)&server->poll);
    else
        uv_unref((uv_handle_t *)&server->poll);
    return NULL;
}

/* serverAddress(server, service): the text of the library. */
static napi_value server_address(napi_env env, napi_callback_info info) {
    struct call call;
    struct server *server;
    char text[512];
    begin(&call, env, info);
    server = server_of(&call, 0);
    text[0] = '\0';
    if (server != NULL)
        ns_server_service_address(server->ns, (uint32_t)int_of(&call, 1), text, sizeof text);
    return text_value(env, text);
}

static napi_value server_shutdown_port(napi_env env, napi_callback_info info) {
    struct call call;
    struct server *server;
    begin(&call, env, info);
    server = server_of(&call, 0);
    return int_value(env, server == NULL ? 0 : ns_server_shutdown_port(server->ns));
}

/* serverReloadTls(server, service, tls) */
static napi_value server_reload_tls(napi_env env, napi_callback_info info) {
    struct call call;
    struct server *server;
    ns_error *error = NULL;
    ns_status status;
    begin(&call, env, info);
    server = server_of(&call, 0);
    if (server == NULL)
        return throw_error(env, NS_ERR_STATE, NULL);
    status = ns_server_reload_service_tls(server->ns, (uint32_t)int_of(&call, 1),
                                          tls_of(&call, 2), &error);
    return status < 0 ? throw_error(env, status, error) : NULL;
}

static napi_value server_stats(napi_env env, napi_callback_info info) {
    static const char *const states[] = {"new",      "starting", "running",
                                         "stopping", "stopped",  "quiescing"};
    struct call call;
    struct server *server;
    ns_stats stats;
    ns_thread_stats loop;
    napi_value object, closed;
    int32_t reason;
    begin(&call, env, info);
    server = server_of(&call, 0);
    if (server == NULL)
        return throw_error(env, NS_ERR_STATE, NULL);
    ns_server_stats(server->ns, &stats, sizeof stats);
    memset(&loop, 0, sizeof loop);
    ns_server_thread_stats(server->ns, 0, &loop, sizeof loop);
    napi_create_object(env, &object);
#define COUNTER(name, value) set(env, object, name, number_value(env, (double)(value)))
    set(env, object, "state", text_value(env, states[stats.state <= NS_STATE_QUIESCING ? stats.state : NS_STATE_STOPPED]));
    COUNTER("port", stats.port);
    COUNTER("shutdownPort", stats.shutdown_port);
    COUNTER("uptime", stats.uptime_ms);
    COUNTER("accepted", stats.accepted);
    COUNTER("attached", stats.attached);
    COUNTER("adopted", stats.adopted);
    COUNTER("open", stats.open);
    COUNTER("detached", stats.detached);
    COUNTER("drained", stats.drained);
    COUNTER("cut", stats.cut);
    COUNTER("bytesIn", stats.bytes_in);
    COUNTER("bytesOut", stats.bytes_out);
    COUNTER("handlerCalls", loop.calls);
    COUNTER("handlerErrors", stats.handler_errors);
    COUNTER("acceptErrors", stats.accept_errors);
    COUNTER("handshakes", stats.handshakes);
    COUNTER("handshakeFailures", stats.handshake_failures);
    COUNTER("peerResets", stats.peer_resets);
#undef COUNTER
    napi_create_object(env, &closed);
    for (reason = NS_CLOSE_HANDLER; reason < (int32_t)(sizeof stats.closed / sizeof *stats.closed);
         reason++)
        if (strcmp(ns_close_reason_name(reason), "unknown") != 0)
            set(env, closed, ns_close_reason_name(reason),
                number_value(env, (double)stats.closed[reason]));
    set(env, object, "closed", closed);
    return object;
}

/* Returns what `write` writes for the server that is the first argument. */
static napi_value text_of_server(napi_env env, napi_callback_info info,
                                 size_t (*write)(const ns_server *, char *, size_t)) {
    struct call call;
    struct server *server;
    napi_value value = NULL;
    char *text;
    size_t size;
    begin(&call, env, info);
    server = server_of(&call, 0);
    if (server == NULL)
        return throw_error(env, NS_ERR_STATE, NULL);
    size = write(server->ns, NULL, 0) + 64; /* it may be longer the next time */
    text = malloc(size);
    if (text == NULL)
        return throw_error(env, NS_ERR_NO_MEMORY, NULL);
    write(server->ns, text, size);
    value = text_value(env, text);
    free(text);
    return value;
}

static napi_value server_report(napi_env env, napi_callback_info info) {
    return text_of_server(env, info, ns_server_report);
}

static napi_value server_metrics(napi_env env, napi_callback_info info) {
    return text_of_server(env, info, ns_server_metrics);
}

bool define_server(napi_env env, napi_value exports, struct instance *instance) {
    static const struct function functions[] = {
        {"serverNew", server_new},
        {"serverAddService", server_add_service},
        {"serverStart", server_start},
        {"serverFree", server_free},
        {"serverRequestStop", server_request_stop},
        {"serverRequestQuiesce", server_request_quiesce},
        {"serverStopWithin", server_stop_within},
        {"serverRef", server_ref},
        {"serverAddress", server_address},
        {"serverShutdownPort", server_shutdown_port},
        {"serverReloadTls", server_reload_tls},
        {"serverStats", server_stats},
        {"serverReport", server_report},
        {"serverMetrics", server_metrics},
    };
    return DEFINE(functions);
}
