/* netserver for Lua 5.4: what the files of the module share.
 *
 * No lua_error passes through the library: whatever it calls runs in a protected call. What Lua code
 * raises becomes an ns_raise_with whose payload is the number of the very value. All user data are
 * such numbers: of the values in the table "netserver.objects" of the registry, which stay until the
 * library drops them.
 */
#ifndef NETSERVER_LUA_MODULE_H
#define NETSERVER_LUA_MODULE_H

#include <lauxlib.h>
#include <lua.h>
#include <netserver.h>

#include <stdint.h>

#define SERVER "netserver.server"
#define SOCKET "netserver.socket"
#define ERROR "netserver.error"
#define OBJECTS "netserver.objects"
#define TRACEBACK "netserver.traceback" /* of what was raised last */

/* The Lua thread whose call of the library is under way; NULL while its state closes. Every function
 * of the module sets it before it calls the library. */
extern _Thread_local lua_State *netserver_current;

typedef struct {
    ns_server *server;
    ns_socket *socket; /* NULL outside of its callbacks */
    ns_conn_id id;
    int ended;
} socket_object;

/* -- callbacks.c ---------------------------------------------------------------------------- */

/* Pops a value, keeps it, and returns its number as user data. */
void *netserver_keep(lua_State *L);
void netserver_push_kept(lua_State *L, const void *user_data);
size_t netserver_count_kept(lua_State *L);
void netserver_drop(void *user_data);

/* Raises the error of a call, and frees it; `error` may be NULL. */
int netserver_fail(lua_State *L, ns_status status, ns_error *error);
/* Returns what a call returned; raises where that is a negative status. */
int64_t netserver_check(lua_State *L, int64_t result);
void netserver_make_error_type(lua_State *L);
/* Raises what is to leave the turns, where there is something. */
void netserver_raise_pending(lua_State *L);

int32_t netserver_on_input(ns_server *, ns_socket *, void *);
int32_t netserver_on_timer(ns_server *, uint64_t, void *);
int32_t netserver_on_task(ns_server *, void *);
int32_t netserver_on_watch(ns_server *, uint64_t, int32_t, uint32_t, void *);
/* Sets the callbacks but the handler. */
void netserver_set_callbacks(ns_config *, void *user_data);

/* -- socket.c ------------------------------------------------------------------------------- */

void netserver_make_socket_type(lua_State *L);

#endif
