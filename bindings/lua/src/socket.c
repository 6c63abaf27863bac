/* Sockets: methods, and the fields of the program. */
#include "module.h"

#include <string.h>

enum { BUFFER = 65536 };

/* -- sockets -------------------------------------------------------------------------------- */

static socket_object *to_socket(lua_State *L) {
    netserver_current = L;
    return luaL_checkudata(L, 1, SOCKET);
}

/* The server, for calls by id; NULL where the connection has ended, and perhaps the server. */
static ns_server *server_of(const socket_object *object) { return object->ended ? NULL : object->server; }

static int64_t check_either(lua_State *L, const socket_object *object, int64_t result) {
    return netserver_check(L, object->socket == NULL && object->ended ? NS_ERR_CLOSED : result);
}

/* data = socket:recv([most]): nil at the end of the stream, false where nothing can be read now. */
static int socket_recv(lua_State *L) {
    socket_object *object = to_socket(L);
    lua_Integer most = luaL_optinteger(L, 2, BUFFER);
    luaL_argcheck(L, most > 0, 2, "not positive");
    luaL_Buffer buffer;
    char *bytes = luaL_buffinitsize(L, &buffer, (size_t)most);
    int64_t n = object->socket != NULL ? ns_socket_recv(object->socket, bytes, (size_t)most) : NS_ERR_NOT_IN_HANDLER;
    if (n > 0) {
        luaL_pushresultsize(&buffer, (size_t)n);
    } else if (n == 0) {
        lua_pushnil(L);
    } else if (n == NS_ERR_WOULD_BLOCK) {
        lua_pushboolean(L, 0);
    } else {
        netserver_check(L, n);
    }
    return 1;
}

/* socket:send(...): all of it or an error. Outside of the callbacks of the connection too. */
static int socket_send(lua_State *L) {
    socket_object *object = to_socket(L);
    size_t length;
    int count = lua_gettop(L) - 1;
    for (int i = 2; i <= count + 1; i++)
        luaL_checkstring(L, i);
    lua_concat(L, count);
    const char *bytes = lua_tolstring(L, -1, &length);
    check_either(L, object, object->socket != NULL ? ns_socket_send(object->socket, bytes, length)
                                    : ns_server_send(server_of(object), object->id, bytes, length));
    return 0;
}

static int socket_close(lua_State *L) {
    socket_object *object = to_socket(L);
    if (object->socket != NULL)
        netserver_check(L, ns_socket_close(object->socket));
    else
        ns_server_close(server_of(object), object->id);
    return 0;
}

static int socket_abort(lua_State *L) {
    socket_object *object = to_socket(L);
    if (object->socket != NULL)
        netserver_check(L, ns_socket_abort(object->socket));
    else
        ns_server_abort(server_of(object), object->id);
    return 0;
}

/* socket:shutdown(): no more is sent. */
static int socket_shutdown(lua_State *L) {
    socket_object *object = to_socket(L);
    check_either(L, object, object->socket != NULL ? ns_socket_shutdown(object->socket, NS_SHUT_WR)
                                    : ns_server_shutdown(server_of(object), object->id, NS_SHUT_WR));
    return 0;
}

static int socket_queued(lua_State *L) {
    socket_object *object = to_socket(L);
    lua_pushinteger(L, object->socket != NULL ? (lua_Integer)ns_socket_queued(object->socket)
                                              : check_either(L, object, ns_server_queued(server_of(object), object->id)));
    return 1;
}

static int socket_id(lua_State *L) {
    lua_pushinteger(L, (lua_Integer)to_socket(L)->id);
    return 1;
}

static int socket_closed(lua_State *L) {
    socket_object *object = to_socket(L);
    lua_pushboolean(L, object->ended || (object->socket != NULL && ns_socket_is_closed(object->socket)));
    return 1;
}

static int socket_pause(lua_State *L) {
    netserver_check(L, ns_socket_pause(to_socket(L)->socket));
    return 0;
}

static int socket_resume(lua_State *L) {
    netserver_check(L, ns_socket_resume(to_socket(L)->socket));
    return 0;
}

static int socket_peer(lua_State *L) {
    char text[256] = "";
    ns_socket_peer(to_socket(L)->socket, text, sizeof text);
    lua_pushstring(L, text);
    return 1;
}

/* info = socket:tls(): nil without TLS; else version, cipher_suite, alpn, server_name, certificate. */
static int socket_tls(lua_State *L) {
    ns_socket *socket = to_socket(L)->socket;
    ns_tls_info info;
    ns_status status = ns_socket_tls_info(socket, &info, sizeof info);
    if (status == NS_ERR_STATE) {
        lua_pushnil(L);
        return 1;
    }
    netserver_check(L, status);
    lua_createtable(L, 0, 5);
    lua_pushstring(L, info.version == NS_TLS_1_3 ? "1.3" : "1.2");
    lua_setfield(L, -2, "version");
    lua_pushstring(L, info.cipher_suite);
    lua_setfield(L, -2, "cipher_suite");
    if (info.alpn[0] != '\0') {
        lua_pushstring(L, info.alpn);
        lua_setfield(L, -2, "alpn");
    }
    if (info.server_name[0] != '\0') {
        lua_pushstring(L, info.server_name);
        lua_setfield(L, -2, "server_name");
    }
    size_t length = ns_socket_tls_peer_certificate(socket, NULL, 0);
    if (length != 0) {
        luaL_Buffer buffer;
        ns_socket_tls_peer_certificate(socket, luaL_buffinitsize(L, &buffer, length), length);
        luaL_pushresultsize(&buffer, length);
        lua_setfield(L, -2, "certificate");
    }
    return 1;
}

/* The methods, then the program's own fields. */
static int socket_index(lua_State *L) {
    lua_pushvalue(L, 2);
    if (lua_rawget(L, lua_upvalueindex(1)) != LUA_TNIL)
        return 1;
    lua_getiuservalue(L, 1, 1);
    lua_pushvalue(L, 2);
    lua_rawget(L, -2);
    return 1;
}

static int socket_newindex(lua_State *L) {
    lua_getiuservalue(L, 1, 1);
    lua_insert(L, 2);
    lua_settable(L, 2);
    return 0;
}

static const luaL_Reg methods[] = {
    {"recv", socket_recv},     {"send", socket_send},     {"close", socket_close},
    {"abort", socket_abort},   {"shutdown", socket_shutdown}, {"queued", socket_queued},
    {"id", socket_id},         {"closed", socket_closed}, {"pause", socket_pause},
    {"resume", socket_resume}, {"peer", socket_peer},     {"tls", socket_tls},
    {NULL, NULL},
};

void netserver_make_socket_type(lua_State *L) {
    luaL_newmetatable(L, SOCKET);
    lua_newtable(L);
    luaL_setfuncs(L, methods, 0);
    lua_pushcclosure(L, socket_index, 1);
    lua_setfield(L, -2, "__index");
    lua_pushcfunction(L, socket_newindex);
    lua_setfield(L, -2, "__newindex");
    lua_pop(L, 1);
}
