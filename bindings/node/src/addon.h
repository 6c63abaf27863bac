/* The addon behind lib/native.js: the C API of netserver for one environment of Node.
 *
 * JavaScript knows servers, connections and tasks by numbers, which index its tables and those of
 * this addon. What the library calls gets pointers to memory of this addon, never to an object of
 * JavaScript. All state hangs on `struct instance`, of which each environment (the main thread,
 * each worker) has its own. */
#ifndef NETSERVER_NODE_ADDON_H
#define NETSERVER_NODE_ADDON_H

#define NAPI_VERSION 8
#include <node_api.h>
#include <uv.h>

#include <netserver.h>

#include <stdbool.h>

/* The functions of JavaScript that this addon calls, in the order of lib/native.js. */
enum hook {
    HOOK_OPEN,
    HOOK_DATA,
    HOOK_END,
    HOOK_DRAIN,
    HOOK_TIMEOUT,
    HOOK_WAKE,
    HOOK_CLOSE,
    HOOK_EXCEPTION,
    HOOK_SHUTDOWN,
    HOOK_TASK,
    HOOK_DROP,
    HOOK_STOPPED,
    HOOK_POOL,
    HOOK_ALIVE, /* does nothing */
    HOOK_COUNT
};

/* What HOOK_DROP drops. */
enum dropped { DROPPED_CONN, DROPPED_TASK, DROPPED_RAISED };

/* A table of pointers by number. */
struct table {
    void **entries;
    uint32_t *free_numbers;
    uint32_t size, used, free_count;
};

#define RECEIVE_BYTES 65536 /* at most, in one call of the handler */
#define POOL_BYTES 8192     /* that small pieces share, as those of Buffer.allocUnsafe do */
#define POOLED_BYTES 2048   /* at most: a piece that goes into the pool */

struct instance {
    napi_env env;
    napi_ref receiver;
    napi_ref hooks[HOOK_COUNT];
    struct table servers, conns;
    bool closing; /* no JavaScript can run any more */
    unsigned char *pool; /* of JavaScript's current pool, which JavaScript keeps alive */
    size_t pool_used;
    unsigned char received[RECEIVE_BYTES];
};

struct server {
    struct instance *instance;
    ns_server *ns;
    uint32_t number;
    size_t write_mark; /* bytes that may be queued before write() asks to wait for 'drain' */
    napi_async_context async;
    uv_poll_t poll;
    bool started;
    bool turning;        /* a turn is on the stack */
    int64_t stop_within; /* ms: what a callback has asked for, done after the turn; -1: nothing */
};

/* A connection, from its first callback until the library drops it. */
struct conn {
    struct instance *instance;
    struct server *server; /* NULL while it is detached: its server may be gone */
    ns_conn_id id;
    ns_socket *current; /* in a callback of the connection, else NULL */
    ns_socket *raising; /* as `current`, after a detach too: what ns_raise_with takes */
    ns_socket *owned;   /* while it is detached, else NULL */
    uint32_t number;
    uint32_t depth; /* how many of its callbacks are on the stack */
    int fd;
    size_t unchecked; /* bytes that may be queued: an upper bound */
    uint64_t active_at; /* by uv_hrtime */
    uint32_t idle_ms;   /* setTimeout(); 0: off */
    bool timer_set;
    bool full;    /* write() has asked to wait for 'drain' */
    bool paused;  /* as JavaScript wants it */
    bool held;    /* as the library knows it */
    bool waking;  /* JavaScript has tasks for the next on_wake */
    bool closed;  /* JavaScript knows of its end */
    bool busy;    /* a call on the detached socket is under way */
    bool dropped; /* in a callback, which frees it when it returns */
};

/* A watch, a timer, a posted task, or an exception on its way to the exception handler: what
 * JavaScript has under this number. */
struct task {
    struct server *server;
    uint32_t number;
};

/* -- table.c -- */
bool table_add(struct table *table, void *entry, uint32_t *number);
void *table_get(const struct table *table, int64_t number);
void table_remove(struct table *table, uint32_t number);
void table_free(struct table *table);

/* -- call.c: arguments, results, errors -- */
#define MOST_ARGUMENTS 6
struct call {
    napi_env env;
    struct instance *instance;
    size_t argc;
    napi_value argv[MOST_ARGUMENTS];
};
void begin(struct call *call, napi_env env, napi_callback_info info);
int64_t int_of(const struct call *call, size_t i);
uint64_t id_of(const struct call *call, size_t i);
struct server *server_of(const struct call *call, size_t i);
struct conn *conn_of(const struct call *call, size_t i);
/* Begins a function that returns a status, and whose first argument is the server. */
#define SERVER_OR_CLOSED(call, server)                                                             \
    begin(&call, env, info);                                                                       \
    server = server_of(&call, 0);                                                                  \
    if (server == NULL)                                                                            \
    return int_value(env, NS_ERR_CLOSED)
bool bytes_of(const struct call *call, size_t i, void **bytes, size_t *len);
char *text_of(const struct call *call, size_t i); /* malloc'ed; NULL for what is no string */
napi_value number_value(napi_env env, double number);
napi_value int_value(napi_env env, int64_t number);
napi_value id_value(napi_env env, uint64_t id);
napi_value text_value(napi_env env, const char *text);
napi_value null_value(napi_env env);
void set(napi_env env, napi_value object, const char *name, napi_value value);
napi_value error_value(napi_env env, ns_status status, int32_t os_code, const char *message);
/* Throws what the call reported, or the bare status, and frees the error. Returns NULL. */
napi_value throw_error(napi_env env, ns_status status, ns_error *error);
void call_quietly(struct instance *instance, enum hook hook, size_t argc, const napi_value *argv);
int call_hook(struct instance *instance, napi_async_context async, enum hook hook, size_t argc,
              const napi_value *argv, int32_t *result);

struct function {
    const char *name;
    napi_callback callback;
};
bool define(napi_env env, napi_value exports, struct instance *instance,
            const struct function *functions, size_t count);
#define DEFINE(functions) define(env, exports, instance, functions, sizeof functions / sizeof *functions)

/* -- callbacks.c -- */
bool set_callbacks(ns_config *config, struct server *server, bool shutdown_handler);
int32_t on_input(ns_server *ns, ns_socket *socket, void *user_data);
struct conn *new_conn(struct server *server);
void drop_conn(void *conn);
int32_t on_watch(ns_server *ns, uint64_t id, int32_t fd, uint32_t events, void *user_data);
int32_t on_timer(ns_server *ns, uint64_t id, void *user_data);
int32_t on_task(ns_server *ns, void *user_data);
void drop_task(void *task);

/* -- the functions of each part -- */
bool define_config(napi_env env, napi_value exports, struct instance *instance);
bool define_server(napi_env env, napi_value exports, struct instance *instance);
bool define_by_id(napi_env env, napi_value exports, struct instance *instance);
bool define_tasks(napi_env env, napi_value exports, struct instance *instance);
bool define_socket(napi_env env, napi_value exports, struct instance *instance);
bool define_detached(napi_env env, napi_value exports, struct instance *instance);
bool define_tls(napi_env env, napi_value exports, struct instance *instance);

ns_config *config_of(const struct call *call, size_t i); /* an object of settings; never NULL */
ns_tls *tls_of(const struct call *call, size_t i);       /* NULL where it is none */
void free_server(struct server *server);

#endif
