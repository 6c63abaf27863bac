/* The objects that the library keeps, errors, and what the library calls. */
#include "module.h"

#include <stdio.h>
#include <string.h>

/* -- objects -------------------------------------------------------------------------------- */

_Thread_local lua_State *netserver_current;

/* What a callback of the library has to say. */
typedef struct {
    const char *event; /* the name of the callback in the server's options */
    void *user_data;
    ns_server *server;
    ns_socket *socket;
    const ns_error *error;
    int32_t reason;
    int32_t result;
} call;

void *netserver_keep(lua_State *L) {
    luaL_getsubtable(L, LUA_REGISTRYINDEX, OBJECTS);
    lua_insert(L, -2);
    int number = luaL_ref(L, -2);
    lua_pop(L, 1);
    return (void *)(intptr_t)number;
}

void netserver_push_kept(lua_State *L, const void *user_data) {
    luaL_getsubtable(L, LUA_REGISTRYINDEX, OBJECTS);
    lua_rawgeti(L, -1, (lua_Integer)(intptr_t)user_data);
    lua_remove(L, -2);
}

/* -- what leaves the turns ------------------------------------------------------------------ */

static const char pending; /* its address is the key, which is always there: false for nothing */

/* Whether lua.c's answer to Ctrl-C is at the top: that is for the program, not for a connection. */
static int is_interrupt(lua_State *L) {
    static const char end[] = "interrupted!";
    size_t length = 0;
    const char *text = lua_type(L, -1) == LUA_TSTRING ? lua_tolstring(L, -1, &length) : NULL;
    return text != NULL && length >= sizeof end - 1 && strcmp(text + length - (sizeof end - 1), end) == 0;
}

/* Pops an interrupt, which `run` raises after the turn. */
static void keep_pending(lua_State *L) { lua_rawsetp(L, LUA_REGISTRYINDEX, &pending); }

void netserver_raise_pending(lua_State *L) {
    lua_rawgetp(L, LUA_REGISTRYINDEX, &pending);
    if (lua_toboolean(L, -1)) {
        lua_pushboolean(L, 0);
        keep_pending(L);
        lua_error(L);
    }
    lua_pop(L, 1);
}

/* Runs a function with one pointer, which may raise what it likes. Returns whether it did not; an
 * interrupt, which may come anywhere, is no failure. */
static int protect(lua_CFunction function, void *argument) {
    lua_State *L = netserver_current;
    if (L == NULL || !lua_checkstack(L, LUA_MINSTACK))
        return 0;
    lua_pushcfunction(L, function);
    lua_pushlightuserdata(L, argument);
    int good = lua_pcall(L, 1, 0, 0) == LUA_OK;
    if (!good && is_interrupt(L)) {
        keep_pending(L);
        good = 1;
    } else if (!good) {
        lua_pop(L, 1);
    }
    netserver_current = L; /* Lua code may have called the library in another Lua thread */
    return good;
}

static int release(lua_State *L) {
    void *user_data = lua_touserdata(L, 1);
    netserver_push_kept(L, user_data);
    socket_object *object = luaL_testudata(L, -1, SOCKET);
    if (object != NULL)
        object->ended = 1;
    luaL_getsubtable(L, LUA_REGISTRYINDEX, OBJECTS);
    luaL_unref(L, -1, (int)(intptr_t)user_data);
    return 0;
}

void netserver_drop(void *user_data) { protect(release, user_data); }

/* How many objects are kept: those at the integers of the table but the ends of luaL_ref's list. */
size_t netserver_count_kept(lua_State *L) {
    size_t count = 0;
    luaL_getsubtable(L, LUA_REGISTRYINDEX, OBJECTS);
    for (lua_pushnil(L); lua_next(L, -2) != 0; lua_pop(L, 1))
        count += lua_type(L, -1) != LUA_TNUMBER;
    lua_pop(L, 1);
    return count;
}

/* -- errors --------------------------------------------------------------------------------- */

static void push_error(lua_State *L, ns_status status, const char *message, int32_t os_code) {
    lua_createtable(L, 0, 4);
    lua_pushinteger(L, status);
    lua_setfield(L, -2, "status");
    lua_pushstring(L, ns_status_name(status));
    lua_setfield(L, -2, "name");
    lua_pushstring(L, message != NULL ? message : ns_status_message(status));
    lua_setfield(L, -2, "message");
    lua_pushinteger(L, os_code);
    lua_setfield(L, -2, "os_code");
    luaL_setmetatable(L, ERROR);
}

static int error_tostring(lua_State *L) {
    lua_getfield(L, 1, "message");
    return 1;
}

void netserver_make_error_type(lua_State *L) {
    luaL_newmetatable(L, ERROR);
    lua_pushcfunction(L, error_tostring);
    lua_setfield(L, -2, "__tostring");
    lua_pop(L, 1);
    lua_pushboolean(L, 0);
    keep_pending(L);
}

/* Whether push_error made what is at the top. */
static int is_error(lua_State *L) {
    int same = lua_getmetatable(L, -1);
    if (same) {
        luaL_getmetatable(L, ERROR);
        same = lua_rawequal(L, -1, -2);
        lua_pop(L, 2);
    }
    return same;
}

int netserver_fail(lua_State *L, ns_status status, ns_error *error) {
    push_error(L, error != NULL ? ns_error_status(error) : status,
               error != NULL ? ns_error_message(error) : NULL, ns_error_os_code(error));
    ns_error_free(error);
    return lua_error(L);
}

int64_t netserver_check(lua_State *L, int64_t result) {
    return result < 0 ? netserver_fail(L, (ns_status)result, NULL) : result;
}

static int traceback(lua_State *L) {
    luaL_traceback(L, L, NULL, 1);
    lua_setfield(L, LUA_REGISTRYINDEX, TRACEBACK);
    lua_settop(L, 1);
    return 1;
}

static void complain(lua_State *L) {
    lua_getfield(L, LUA_REGISTRYINDEX, TRACEBACK);
    const char *trace = lua_tostring(L, -1);
    fprintf(stderr, "netserver: %s\n%s%s", luaL_tolstring(L, -2, NULL), trace != NULL ? trace : "",
            trace != NULL ? "\n" : "");
    lua_pop(L, 2);
}

/* Pushes what the exception handler is told: the value that Lua code raised, or an error. */
static void push_reason(lua_State *L, const ns_error *error) {
    void *payload = ns_error_payload(error);
    if (payload != NULL) {
        netserver_push_kept(L, payload);
        return;
    }
    push_error(L, ns_error_status(error), ns_error_message(error), ns_error_os_code(error));
    lua_pushnil(L);
    lua_setfield(L, LUA_REGISTRYINDEX, TRACEBACK);
}

/* What is at the top, without an exception handler. A client that goes away is no event. */
static void complain_of_error(lua_State *L, const ns_error *error) {
    ns_status status = ns_error_status(error);
    if (status != NS_ERR_RESET && status != NS_ERR_TRUNCATED && status != NS_ERR_HANDSHAKE)
        complain(L);
}

/* Sees to the value at the top, which Lua code has raised: returns the status of the callback. */
static int32_t settle(lua_State *L, const call *c) {
    int32_t status = -1;
    if (is_interrupt(L)) {
        keep_pending(L);
        ns_socket_abort(c->socket); /* what it has sent must not look whole */
        return 0;
    }
    if (is_error(L)) {
        lua_getfield(L, -1, "status");
        status = (int32_t)lua_tointeger(L, -1);
        lua_pop(L, 1);
    }
    return ns_raise_with(c->socket, status, NULL, netserver_keep(L), netserver_drop);
}

/* -- callbacks ------------------------------------------------------------------------------ */

/* Pushes the socket of a callback, and makes it where the connection is new. */
static socket_object *push_socket(lua_State *L, const call *c) {
    void *user_data = ns_socket_user_data(c->socket);
    socket_object *object;
    if (user_data != NULL) {
        netserver_push_kept(L, user_data);
        object = luaL_checkudata(L, -1, SOCKET);
    } else {
        object = lua_newuserdatauv(L, sizeof *object, 1);
        memset(object, 0, sizeof *object);
        object->server = c->server;
        object->id = ns_socket_id(c->socket);
        lua_newtable(L); /* the program's fields */
        lua_setiuservalue(L, -2, 1);
        luaL_setmetatable(L, SOCKET);
    }
    object->socket = c->socket;
    return object;
}

/* Pushes the function of a callback: an option of the server. Returns whether there is one. */
static int push_function(lua_State *L, const call *c) {
    netserver_push_kept(L, c->user_data);
    lua_getiuservalue(L, -1, 1);
    return lua_getfield(L, -1, c->event) != LUA_TNIL;
}

/* Calls the program's function, where there is one. Returns LUA_OK, or the value that it raised is at
 * the top. It leaves the socket, or nil, at index 3. */
static int invoke(lua_State *L, const call *c) {
    socket_object *object = NULL;
    lua_pushcfunction(L, traceback);
    if (c->socket != NULL)
        object = push_socket(L, c);
    else
        lua_pushnil(L);
    if (strcmp(c->event, "on_open") == 0 && ns_socket_user_data(c->socket) == NULL) {
        lua_pushvalue(L, 3);
        ns_socket_set_user_data(c->socket, netserver_keep(L), netserver_drop);
    }
    int status = LUA_OK, arguments = 1;
    if (push_function(L, c)) {
        lua_pushvalue(L, 3);
        if (c->reason != 0) {
            lua_pushstring(L, ns_close_reason_name(c->reason));
            arguments = 2;
        } else if (c->error != NULL) {
            push_reason(L, c->error);
            lua_getfield(L, LUA_REGISTRYINDEX, TRACEBACK);
            arguments = 3;
        }
        status = lua_pcall(L, arguments, 0, 2);
    } else if (c->error != NULL) {
        push_reason(L, c->error);
        complain_of_error(L, c->error);
        ns_socket_close(c->socket);
    }
    if (object != NULL) {
        object->ended = ns_socket_user_data(c->socket) == NULL; /* one that never opened has no id */
        object->socket = NULL;
    }
    return status;
}

static int run_callback(lua_State *L) {
    call *c = lua_touserdata(L, 1);
    if (invoke(L, c) != LUA_OK)
        c->result = settle(L, c);
    return 0;
}

/* As run_callback, where nobody can be told. */
static int run_alone(lua_State *L) {
    call *c = lua_touserdata(L, 1);
    if (invoke(L, c) == LUA_OK)
        return 0;
    c->result = -1;
    if (is_interrupt(L))
        keep_pending(L);
    else
        complain(L);
    return 0;
}

/* A timer, a task, or a watch, which has events: the user data is the function itself. */
static int run_task(lua_State *L) {
    call *c = lua_touserdata(L, 1);
    lua_pushcfunction(L, traceback);
    netserver_push_kept(L, c->user_data);
    if (c->event != NULL)
        lua_pushstring(L, c->event);
    if (lua_pcall(L, c->event != NULL, 0, 2) != LUA_OK)
        c->result = settle(L, c);
    return 0;
}

static int32_t call_back(lua_CFunction run, call c) {
    return protect(run, &c) ? c.result : -1;
}

int32_t netserver_on_input(ns_server *server, ns_socket *socket, void *user_data) {
    return call_back(run_callback, (call){"handler", user_data, server, socket, NULL, 0, 0});
}

static int32_t on_open(ns_server *server, ns_socket *socket, void *user_data) {
    return call_back(run_callback, (call){"on_open", user_data, server, socket, NULL, 0, 0});
}

static int32_t on_drain(ns_server *server, ns_socket *socket, void *user_data) {
    return call_back(run_callback, (call){"on_drain", user_data, server, socket, NULL, 0, 0});
}

static void on_close(ns_server *server, ns_socket *socket, int32_t reason, void *user_data) {
    call_back(run_alone, (call){"on_close", user_data, server, socket, NULL, reason, 0});
}

static void on_stop(ns_server *server, void *user_data) {
    call_back(run_alone, (call){"on_stop", user_data, server, NULL, NULL, 0, 0});
}

static int32_t on_exception(ns_server *server, ns_socket *socket, const ns_error *error, void *user_data) {
    return call_back(run_alone, (call){"on_exception", user_data, server, socket, error, 0, 0});
}

int32_t netserver_on_timer(ns_server *server, uint64_t id, void *user_data) {
    (void)id;
    return call_back(run_task, (call){NULL, user_data, server, NULL, NULL, 0, 0});
}

int32_t netserver_on_task(ns_server *server, void *user_data) {
    return call_back(run_task, (call){NULL, user_data, server, NULL, NULL, 0, 0});
}

int32_t netserver_on_watch(ns_server *server, uint64_t id, int32_t fd, uint32_t events, void *user_data) {
    static const char *const names[] = {"", "r", "w", "rw"};
    (void)id, (void)fd;
    return call_back(run_task, (call){names[events & 3], user_data, server, NULL, NULL, 0, 0});
}

void netserver_set_callbacks(ns_config *config, void *user_data) {
    ns_config_set_exception_handler(config, on_exception, user_data, NULL);
    ns_config_set_on_open(config, on_open, user_data, NULL);
    ns_config_set_on_close(config, on_close, user_data, NULL);
    ns_config_set_on_drain(config, on_drain, user_data, NULL);
    ns_config_set_on_stop(config, on_stop, user_data, NULL);
}
