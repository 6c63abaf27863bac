/* The module: servers, their settings, and what a program brings into their loops. */
#include "module.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

/* The longest wait of a turn: a Ctrl-C that comes just before a wait does not end it. */
enum { LONGEST_WAIT_MS = 500 };

static ns_server *volatile stopped_by_signals;

typedef struct {
    ns_server *server; /* NULL: closed */
} server_object;

static server_object *to_server(lua_State *L) {
    netserver_current = L;
    return luaL_checkudata(L, 1, SERVER);
}

static uint32_t milliseconds(lua_State *L, int index) {
    lua_Number seconds = luaL_checknumber(L, index);
    luaL_argcheck(L, seconds >= 0 && seconds * 1000 <= INT32_MAX, index, "not a time in seconds");
    return (uint32_t)ceil(seconds * 1000);
}

/* -- settings ------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    ns_status (*set)(ns_config *, uint32_t);
    int is_time;
} numbers[] = {
    {"max_connections", ns_config_set_max_connections, 0},
    {"max_per_address", ns_config_set_max_per_address, 0},
    {"accept_rate_per_address", ns_config_set_accept_rate_per_address, 0},
    {"accept_burst_per_address", ns_config_set_accept_burst_per_address, 0},
    {"ipv4_prefix", ns_config_set_ipv4_prefix, 0},
    {"ipv6_prefix", ns_config_set_ipv6_prefix, 0},
    {"backlog", ns_config_set_backlog, 0},
    {"max_handshakes", ns_config_set_max_handshakes, 0},
    {"unix_mode", ns_config_set_unix_mode, 0},
    {"handshake_timeout", ns_config_set_handshake_timeout_ms, 1},
    {"idle_timeout", ns_config_set_idle_timeout_ms, 1},
    {"write_timeout", ns_config_set_write_timeout_ms, 1},
    {"linger_timeout", ns_config_set_linger_timeout_ms, 1},
    {"drain_timeout", ns_config_set_drain_timeout_ms, 1},
    {"keep_alive", ns_config_set_keep_alive_ms, 1},
};

static const struct {
    const char *name;
    ns_status (*set)(ns_config *, size_t);
} sizes[] = {
    {"high_water_mark", ns_config_set_high_water_mark},
    {"low_water_mark", ns_config_set_low_water_mark},
    {"send_limit", ns_config_set_send_limit},
    {"send_limit_total", ns_config_set_send_limit_total},
};

static const struct {
    const char *name;
    ns_status (*set)(ns_config *, int32_t);
} flags[] = {
    {"use_ipv6", ns_config_set_use_ipv6},
    {"reuse_port", ns_config_set_reuse_port},
    {"no_delay", ns_config_set_no_delay},
};

#define COUNT(array) (sizeof(array) / sizeof *(array))

static const char *const others[] = {
    "shutdown_port", "tls", "handler", "on_open", "on_close", "on_drain", "on_stop", "on_exception",
};

static const char *const tls_fields[] = {"cert", "key", "client_ca", "client_cert", "alpn"};

static int is_option(const char *name) {
    int found = 0;
    for (size_t i = 0; i < COUNT(numbers); i++)
        found |= strcmp(name, numbers[i].name) == 0;
    for (size_t i = 0; i < COUNT(sizes); i++)
        found |= strcmp(name, sizes[i].name) == 0;
    for (size_t i = 0; i < COUNT(flags); i++)
        found |= strcmp(name, flags[i].name) == 0;
    for (size_t i = 0; i < COUNT(others); i++)
        found |= strcmp(name, others[i]) == 0;
    return found;
}

static int is_tls_field(const char *name) {
    int found = 0;
    for (size_t i = 0; i < COUNT(tls_fields); i++)
        found |= strcmp(name, tls_fields[i]) == 0;
    return found;
}

/* Raises where the table at `index` has a name that nothing reads, or a callback is no function. */
static void check_names(lua_State *L, int index, int (*is_known)(const char *)) {
    for (lua_pushnil(L); lua_next(L, index) != 0; lua_pop(L, 1)) {
        const char *name = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : NULL;
        if (name == NULL || !is_known(name))
            luaL_error(L, "unknown option '%s'", luaL_tolstring(L, -2, NULL));
        if (strncmp(name, "on_", 3) == 0 && !lua_isfunction(L, -1))
            luaL_error(L, "option '%s' is no function", name);
    }
}

/* The integer at the top, which is the option `name`. */
static lua_Integer integer_option(lua_State *L, const char *name) {
    int is_integer;
    lua_Integer value = lua_tointegerx(L, -1, &is_integer);
    if (!is_integer || value < 0 || value > UINT32_MAX)
        luaL_error(L, "option '%s' is no integer in its bounds", name);
    return value;
}

static uint32_t time_option(lua_State *L, const char *name) {
    lua_Number seconds = lua_tonumber(L, -1);
    if (!lua_isnumber(L, -1) || !(seconds >= 0 && seconds * 1000 <= INT32_MAX))
        luaL_error(L, "option '%s' is no time in seconds", name);
    return milliseconds(L, -1);
}

/* The string at `index`, NULL where there is none; `name` is what it is called. C ends a text at its
 * first NUL, so there must be none. */
static const char *c_text(lua_State *L, int index, const char *name) {
    size_t length;
    const char *text = lua_tolstring(L, index, &length);
    if (text != NULL && strlen(text) != length)
        luaL_error(L, "%s has a NUL", name);
    return text;
}

static const char *field(lua_State *L, int index, const char *name) {
    lua_getfield(L, index, name);
    if (!lua_isnil(L, -1) && !lua_isstring(L, -1))
        luaL_error(L, "option '%s' is no string", name);
    const char *text = c_text(L, -1, name);
    lua_pop(L, 1); /* the table keeps it */
    return text;
}

/* Has the config use the TLS of the table at the top: cert, key, client_ca, client_cert, alpn. What
 * is wrong with it `ns_server_new` reports. */
static void set_tls(lua_State *L, ns_config *config) {
    if (!lua_istable(L, -1))
        luaL_error(L, "option 'tls' is no table");
    int table = lua_gettop(L), count = 0;
    check_names(L, table, is_tls_field);
    const char *cert = field(L, table, "cert"), *key = field(L, table, "key");
    const char *authority = field(L, table, "client_ca"), *client = field(L, table, "client_cert");
    const char *protocols[16];
    if (lua_getfield(L, table, "alpn") != LUA_TNIL) {
        if (!lua_istable(L, -1))
            luaL_error(L, "option 'alpn' is no table");
        count = (int)luaL_len(L, -1);
        if (count > (int)COUNT(protocols))
            luaL_error(L, "option 'alpn' has too many protocols");
        luaL_checkstack(L, count, NULL);
        for (int i = 0, list = lua_gettop(L); i < count; i++) {
            lua_geti(L, list, i + 1);
            if (!lua_isstring(L, -1))
                luaL_error(L, "option 'alpn' has what is no string");
            protocols[i] = c_text(L, -1, "alpn");
        }
    }
    ns_tls *tls = ns_tls_new();
    ns_tls_add_cert_file(tls, NULL, cert, key, NULL);
    if (authority != NULL)
        ns_tls_set_client_ca_file(tls, authority, client == NULL || strcmp(client, "optional") != 0, NULL);
    ns_tls_set_alpn(tls, protocols, (size_t)count);
    ns_config_set_tls(config, tls);
    ns_tls_free(tls);
    lua_settop(L, table);
}

/* The settings among the options at index 3. What is out of its bounds `ns_server_new` reports. */
static int configure(lua_State *L) {
    ns_config *config = lua_touserdata(L, lua_upvalueindex(1));
    ns_config_set_non_blocking(config, 1);
    check_names(L, 3, is_option);
    for (size_t i = 0; i < COUNT(numbers); i++)
        if (lua_getfield(L, 3, numbers[i].name) != LUA_TNIL)
            numbers[i].set(config, numbers[i].is_time ? time_option(L, numbers[i].name)
                                                  : (uint32_t)integer_option(L, numbers[i].name));
    for (size_t i = 0; i < COUNT(sizes); i++)
        if (lua_getfield(L, 3, sizes[i].name) != LUA_TNIL)
            sizes[i].set(config, (size_t)integer_option(L, sizes[i].name));
    for (size_t i = 0; i < COUNT(flags); i++)
        if (lua_getfield(L, 3, flags[i].name) != LUA_TNIL)
            flags[i].set(config, lua_toboolean(L, -1));
    ns_config_set_shutdown_port(config, field(L, 3, "shutdown_port"));
    if (lua_getfield(L, 3, "tls") != LUA_TNIL)
        set_tls(L, config);
    return 0;
}

/* netserver.server(service, handler[, options]) */
static int new_server(lua_State *L) {
    netserver_current = L;
    luaL_checkstring(L, 1);
    const char *service = c_text(L, 1, "the service");
    luaL_checktype(L, 2, LUA_TFUNCTION);
    lua_settop(L, 3);
    lua_newtable(L); /* the options, and the handler */
    if (!lua_isnil(L, 3)) {
        luaL_checktype(L, 3, LUA_TTABLE);
        for (lua_pushnil(L); lua_next(L, 3) != 0;) {
            lua_pushvalue(L, -2);
            lua_insert(L, -2);
            lua_settable(L, 4);
        }
    }
    lua_pushvalue(L, 2);
    lua_setfield(L, 4, "handler");
    lua_replace(L, 3);
    luaL_checkstack(L, 100, NULL);

    server_object *object = lua_newuserdatauv(L, sizeof *object, 1);
    object->server = NULL;
    luaL_setmetatable(L, SERVER);
    lua_pushvalue(L, 3);
    lua_setiuservalue(L, 4, 1);

    ns_config *config = ns_config_new();
    lua_pushlightuserdata(L, config);
    lua_pushcclosure(L, configure, 1);
    lua_pushvalue(L, 1);
    lua_pushvalue(L, 2);
    lua_pushvalue(L, 3);
    if (lua_pcall(L, 3, 0, 0) != LUA_OK) {
        ns_config_free(config);
        return lua_error(L);
    }
    lua_pushvalue(L, 4);
    void *user_data = netserver_keep(L);
    netserver_set_callbacks(config, user_data);
    ns_error *error;
    object->server = ns_server_new(service, netserver_on_input, user_data, netserver_drop, config, &error);
    ns_config_free(config);
    if (object->server == NULL)
        return netserver_fail(L, NS_ERR_INVALID, error);
    return 1;
}

/* -- life ----------------------------------------------------------------------------------- */

static int server_start(lua_State *L) {
    ns_error *error;
    ns_status status = ns_server_start(to_server(L)->server, NS_START_HOSTED, &error);
    return status == NS_OK ? 0 : netserver_fail(L, status, error);
}

/* server:run_once([seconds]): whether the server goes on. */
static int server_run_once(lua_State *L) {
    ns_server *server = to_server(L)->server;
    int64_t wait = lua_isnoneornil(L, 2) ? LONGEST_WAIT_MS : milliseconds(L, 2);
    ns_status status = ns_server_run_once(server, wait);
    netserver_raise_pending(L);
    if (status != NS_ERR_STATE || ns_server_state(server) != NS_STATE_STOPPED)
        netserver_check(L, status);
    lua_pushboolean(L, status == NS_OK);
    return 1;
}

static int server_stop(lua_State *L) {
    netserver_check(L, ns_server_request_stop(to_server(L)->server));
    return 0;
}

/* server:quiesce(): it accepts no more, and serves on until a stop. */
static int server_quiesce(lua_State *L) {
    netserver_check(L, ns_server_request_quiesce(to_server(L)->server));
    return 0;
}

static void forget_signals(const ns_server *server) {
    if (stopped_by_signals != server)
        return;
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    stopped_by_signals = NULL;
}

/* server:close([seconds]): stops it, for so long at most, and frees what it has. */
static int server_close(lua_State *L) {
    server_object *object = to_server(L);
    ns_server *server = object->server;
    if (server == NULL)
        return 0;
    if (!lua_isnoneornil(L, 2))
        netserver_check(L, ns_server_stop_within(server, milliseconds(L, 2)));
    netserver_check(L, ns_server_free(server));
    forget_signals(server);
    object->server = NULL;
    netserver_raise_pending(L);
    return 0;
}

/* The state closes: nothing of it can run any more. In a callback the server stays, with the process
 * about to end. */
static int server_gc(lua_State *L) {
    server_object *object = luaL_checkudata(L, 1, SERVER);
    netserver_current = NULL;
    ns_server_stop_within(object->server, 0);
    if (ns_server_free(object->server) == NS_OK)
        forget_signals(object->server);
    object->server = NULL;
    return 0;
}

static void on_signal(int number) {
    (void)number;
    ns_server_request_stop(stopped_by_signals);
}

/* server:stop_on_signals(): SIGINT and SIGTERM stop it from now on. */
static int server_stop_on_signals(lua_State *L) {
    stopped_by_signals = to_server(L)->server;
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    return 0;
}

static int push_text(lua_State *L, size_t (*write)(const ns_server *, char *, size_t)) {
    ns_server *server = to_server(L)->server;
    size_t size = write(server, NULL, 0) + 64; /* it may be longer the next time */
    luaL_Buffer buffer;
    char *text = luaL_buffinitsize(L, &buffer, size);
    text[0] = '\0';
    write(server, text, size);
    luaL_pushresultsize(&buffer, strlen(text));
    return 1;
}

static int server_address(lua_State *L) { return push_text(L, ns_server_address); }
static int server_report(lua_State *L) { return push_text(L, ns_server_report); }
static int server_metrics(lua_State *L) { return push_text(L, ns_server_metrics); }

static int server_port(lua_State *L) {
    lua_pushinteger(L, ns_server_port(to_server(L)->server));
    return 1;
}

/* -- connections by id ---------------------------------------------------------------------- */

/* server:send(id, bytes) */
static int server_send(lua_State *L) {
    size_t length;
    const char *bytes = luaL_checklstring(L, 3, &length);
    ns_conn_id id = (ns_conn_id)luaL_checkinteger(L, 2);
    netserver_check(L, ns_server_send(to_server(L)->server, id, bytes, length));
    return 0;
}

static int32_t add_id(ns_conn_id id, void *list) {
    luaL_Buffer *buffer = list;
    if (buffer->n + sizeof id > buffer->size)
        return 1;
    memcpy(buffer->b + buffer->n, &id, sizeof id);
    buffer->n += sizeof id;
    return 0;
}

/* server:broadcast(bytes): to all connections. Returns how many accepted them. */
static int server_broadcast(lua_State *L) {
    ns_server *server = to_server(L)->server;
    size_t length;
    const char *bytes = luaL_checklstring(L, 2, &length);
    ns_stats stats;
    netserver_check(L, ns_server_stats(server, &stats, sizeof stats));
    luaL_Buffer ids; /* more connections than these do not come meanwhile, on one thread */
    luaL_buffinitsize(L, &ids, sizeof(ns_conn_id) * (size_t)(stats.open + 1));
    netserver_check(L, ns_server_foreach(server, add_id, &ids));
    int64_t count = ns_server_broadcast(server, (const ns_conn_id *)(const void *)ids.b,
                                        luaL_bufflen(&ids) / sizeof(ns_conn_id), bytes, length);
    luaL_pushresult(&ids);
    lua_pushinteger(L, (lua_Integer)netserver_check(L, count));
    return 1;
}

/* -- timers, tasks, watches ----------------------------------------------------------------- */

static void *keep_function(lua_State *L, int index) {
    luaL_checktype(L, index, LUA_TFUNCTION);
    lua_pushvalue(L, index);
    return netserver_keep(L);
}

static int push_id(lua_State *L, uint64_t id, ns_error *error) {
    if (id == 0)
        return netserver_fail(L, NS_ERR_INVALID, error);
    lua_pushinteger(L, (lua_Integer)id);
    return 1;
}

static int set_timer(lua_State *L, int repeats) {
    ns_server *server = to_server(L)->server;
    uint32_t time = milliseconds(L, 2);
    luaL_argcheck(L, time > 0 || !repeats, 2, "a repeated call needs a time above 0");
    ns_error *error;
    uint64_t id = ns_server_timer(server, 0, time, repeats ? time : 0, netserver_on_timer, keep_function(L, 3),
                                  netserver_drop, &error);
    return push_id(L, id, error);
}

/* id = server:after(seconds, f), server:every(seconds, f) */
static int server_after(lua_State *L) { return set_timer(L, 0); }
static int server_every(lua_State *L) { return set_timer(L, 1); }

static int server_cancel(lua_State *L) {
    lua_pushboolean(L, ns_server_timer_cancel(to_server(L)->server, (uint64_t)luaL_checkinteger(L, 2)) == NS_OK);
    return 1;
}

/* server:post(f) */
static int server_post(lua_State *L) {
    ns_server *server = to_server(L)->server;
    void *function = keep_function(L, 2);
    netserver_check(L, ns_server_post(server, 0, netserver_on_task, function, netserver_drop));
    return 0;
}

/* id = server:watch(file, "r" or "w" or "rw", f): f(events) runs as long as the file is ready. */
static int server_watch(lua_State *L) {
    static const char *const names[] = {"r", "w", "rw", NULL};
    ns_server *server = to_server(L)->server;
    luaL_Stream *file = luaL_checkudata(L, 2, LUA_FILEHANDLE);
    luaL_argcheck(L, file->closef != NULL, 2, "closed file");
    uint32_t events = (uint32_t)luaL_checkoption(L, 3, NULL, names) + 1;
    ns_error *error;
    uint64_t id = ns_server_watch(server, 0, fileno(file->f), events, netserver_on_watch, keep_function(L, 4),
                                  netserver_drop, &error);
    return push_id(L, id, error);
}

static int server_unwatch(lua_State *L) {
    lua_pushboolean(L, ns_server_unwatch(to_server(L)->server, (uint64_t)luaL_checkinteger(L, 2)) == NS_OK);
    return 1;
}

/* -- the module ----------------------------------------------------------------------------- */

static int objects(lua_State *L) {
    lua_pushinteger(L, (lua_Integer)netserver_count_kept(L));
    return 1;
}

static const luaL_Reg methods[] = {
    {"start", server_start},     {"run_once", server_run_once},
    {"stop", server_stop},       {"close", server_close},
    {"address", server_address}, {"stop_on_signals", server_stop_on_signals},
    {"port", server_port},       {"report", server_report},
    {"metrics", server_metrics}, {"send", server_send},
    {"quiesce", server_quiesce}, {"broadcast", server_broadcast},
    {"after", server_after},     {"every", server_every},
    {"cancel", server_cancel},   {"post", server_post},
    {"watch", server_watch},     {"unwatch", server_unwatch},
    {NULL, NULL},
};

/* In Lua, so that what lua.c does at Ctrl-C, a hook, comes between two turns. */
static const char run[] = "local run_once = ...; return function(server) while run_once(server) do end end";

int luaopen_netserver(lua_State *L) {
    netserver_make_error_type(L);
    netserver_make_socket_type(L);
    luaL_newmetatable(L, SERVER);
    lua_pushcfunction(L, server_gc);
    lua_setfield(L, -2, "__gc");
    luaL_newlib(L, methods);
    if (luaL_loadstring(L, run) != LUA_OK)
        return lua_error(L);
    lua_pushcfunction(L, server_run_once);
    lua_call(L, 1, 1);
    lua_setfield(L, -2, "run");
    lua_setfield(L, -2, "__index");

    lua_newtable(L);
    lua_pushcfunction(L, new_server);
    lua_setfield(L, -2, "server");
    lua_pushcfunction(L, objects);
    lua_setfield(L, -2, "objects");
    lua_pushstring(L, ns_version_string());
    lua_setfield(L, -2, "version");
    return 1;
}
