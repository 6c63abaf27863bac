/* Calls for a connection, by its number. In a callback of the connection they are direct. Outside
 * of them (after an await, in a timer of Node's) they go by id, or the next on_wake does them. */
#include "addon.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#define CONN_OR_CLOSED(call, conn)                                                                 \
    begin(&call, env, info);                                                                       \
    conn = conn_of(&call, 0);                                                                      \
    if (conn == NULL || conn->server == NULL)                                                      \
    return int_value(env, conn == NULL ? NS_ERR_CLOSED : NS_ERR_DETACHED)

/* A call that only a callback of the connection can make. */
#define CURRENT_OR_FAIL(call, conn)                                                                \
    CONN_OR_CLOSED(call, conn);                                                                    \
    if (conn->current == NULL)                                                                     \
    return int_value(env, NS_ERR_NOT_IN_HANDLER)

static ns_status wake(struct conn *conn) {
    return ns_server_wake(conn->server->ns, conn->id);
}

static int64_t queued(struct conn *conn) {
    return conn->current != NULL ? (int64_t)ns_socket_queued(conn->current)
                                 : ns_server_queued(conn->server->ns, conn->id);
}

/* Whether so much is queued that the program should wait. To ask the library costs a call, and has
 * it report with on_drain what else would leave unseen: so this asks only where it may be so. */
static bool is_full(struct conn *conn, size_t sent) {
    conn->unchecked += sent;
    if (conn->unchecked >= conn->server->write_mark) {
        int64_t n = queued(conn);
        conn->unchecked = n < 0 ? 0 : (size_t)n;
        conn->full = conn->unchecked >= conn->server->write_mark;
    }
    return conn->full;
}

/* send(number, bytes): returns 1 where the program should wait for 'drain', 0, or a status. */
static napi_value send_bytes(napi_env env, napi_callback_info info) {
    struct call call;
    struct conn *conn;
    ns_status status;
    void *bytes;
    size_t len;
    CONN_OR_CLOSED(call, conn);
    if (!bytes_of(&call, 1, &bytes, &len))
        return int_value(env, NS_ERR_INVALID);
    status = conn->current != NULL ? ns_socket_send(conn->current, bytes, len)
                                   : ns_server_send(conn->server->ns, conn->id, bytes, len);
    if (status != NS_OK)
        return int_value(env, status);
    if (conn->idle_ms != 0) {
        conn->active_at = uv_hrtime();
        if (!conn->timer_set)
            wake(conn);
    }
    return int_value(env, is_full(conn, len));
}

static napi_value flush(napi_env env, napi_callback_info info) {
    struct call call;
    struct conn *conn;
    CONN_OR_CLOSED(call, conn);
    return int_value(env, conn->current == NULL ? NS_OK : ns_socket_flush(conn->current));
}

static napi_value shut_down(napi_env env, napi_callback_info info) {
    struct call call;
    struct conn *conn;
    int32_t how;
    CONN_OR_CLOSED(call, conn);
    how = (int32_t)int_of(&call, 1);
    return int_value(env, conn->current != NULL
                              ? ns_socket_shutdown(conn->current, how)
                              : ns_server_shutdown(conn->server->ns, conn->id, how));
}

static napi_value close_conn(napi_env env, napi_callback_info info) {
    struct call call;
    struct conn *conn;
    CONN_OR_CLOSED(call, conn);
    return int_value(env, conn->current != NULL ? ns_socket_close(conn->current)
                                                : ns_server_close(conn->server->ns, conn->id));
}

static napi_value abort_conn(napi_env env, napi_callback_info info) {
    struct call call;
    struct conn *conn;
    CONN_OR_CLOSED(call, conn);
    return int_value(env, conn->current != NULL ? ns_socket_abort(conn->current)
                                                : ns_server_abort(conn->server->ns, conn->id));
}

static napi_value queued_bytes(napi_env env, napi_callback_info info) {
    struct call call;
    struct conn *conn;
    CONN_OR_CLOSED(call, conn);
    return int_value(env, queued(conn));
}

static napi_value pause_conn(napi_env env, napi_callback_info info) {
    struct call call;
    struct conn *conn;
    CONN_OR_CLOSED(call, conn);
    conn->paused = true; /* outside of the callbacks the next input meets this, and waits */
    if (conn->current != NULL && !conn->held) {
        conn->held = true;
        return int_value(env, ns_socket_pause(conn->current));
    }
    return int_value(env, NS_OK);
}

static napi_value resume_conn(napi_env env, napi_callback_info info) {
    struct call call;
    struct conn *conn;
    CONN_OR_CLOSED(call, conn);
    conn->paused = false;
    if (!conn->held)
        return int_value(env, NS_OK);
    if (conn->current == NULL)
        return int_value(env, wake(conn));
    conn->held = false;
    return int_value(env, ns_socket_resume(conn->current));
}

/* setTimeout(number, ms): the idle timer. */
static napi_value set_idle_timeout(napi_env env, napi_callback_info info) {
    struct call call;
    struct conn *conn;
    int64_t ms;
    CONN_OR_CLOSED(call, conn);
    ms = int_of(&call, 1);
    if (ms < 0 || ms > INT32_MAX)
        return int_value(env, NS_ERR_INVALID);
    conn->idle_ms = (uint32_t)ms;
    conn->active_at = uv_hrtime();
    conn->timer_set = false; /* one that runs is set anew; one for a longer time must not wait */
    if (ms == 0)
        return int_value(env, NS_OK);
    if (conn->current == NULL)
        return int_value(env, wake(conn));
    conn->timer_set = true;
    return int_value(env, ns_socket_set_timer_ms(conn->current, conn->idle_ms));
}

/* wake(number): has HOOK_WAKE come, unless it is due. */
static napi_value wake_conn(napi_env env, napi_callback_info info) {
    struct call call;
    struct conn *conn;
    CONN_OR_CLOSED(call, conn);
    if (conn->waking)
        return int_value(env, NS_OK);
    conn->waking = true;
    return int_value(env, wake(conn));
}

static napi_value is_current(napi_env env, napi_callback_info info) {
    struct call call;
    struct conn *conn;
    napi_value value;
    begin(&call, env, info);
    conn = conn_of(&call, 0);
    napi_get_boolean(env, conn != NULL && conn->current != NULL, &value);
    return value;
}

/* setNoDelay(number, flag): the option of the descriptor, which no unix socket has. */
static napi_value set_no_delay(napi_env env, napi_callback_info info) {
    struct call call;
    struct conn *conn;
    bool flag = true;
    int value;
    CONN_OR_CLOSED(call, conn);
    napi_get_value_bool(env, call.argv[1], &flag);
    value = flag;
    setsockopt(conn->fd, IPPROTO_TCP, TCP_NODELAY, &value, sizeof value);
    return int_value(env, NS_OK);
}

/* setKeepAlive(number, flag, seconds) */
static napi_value set_keep_alive(napi_env env, napi_callback_info info) {
    struct call call;
    struct conn *conn;
    bool flag = false;
    int value, seconds;
    CONN_OR_CLOSED(call, conn);
    napi_get_value_bool(env, call.argv[1], &flag);
    value = flag;
    seconds = (int)int_of(&call, 2);
    setsockopt(conn->fd, SOL_SOCKET, SO_KEEPALIVE, &value, sizeof value);
    if (flag && seconds > 0)
        setsockopt(conn->fd, IPPROTO_TCP, TCP_KEEPIDLE, &seconds, sizeof seconds);
    return int_value(env, NS_OK);
}

/* -- addresses ------------------------------------------------------------------------------- */

static napi_value ip_value(napi_env env, int family, const void *address, in_port_t port) {
    char text[INET6_ADDRSTRLEN];
    napi_value object;
    inet_ntop(family, address, text, sizeof text);
    napi_create_object(env, &object);
    set(env, object, "address", text_value(env, text));
    set(env, object, "family", text_value(env, family == AF_INET ? "IPv4" : "IPv6"));
    set(env, object, "port", int_value(env, ntohs(port)));
    return object;
}

static napi_value address_value(napi_env env, const struct sockaddr_storage *storage,
                                socklen_t len) {
    if (storage->ss_family == AF_INET) {
        const struct sockaddr_in *in = (const void *)storage;
        return ip_value(env, AF_INET, &in->sin_addr, in->sin_port);
    }
    if (storage->ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const void *)storage;
        if (IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr))
            return ip_value(env, AF_INET, &in6->sin6_addr.s6_addr[12], in6->sin6_port);
        return ip_value(env, AF_INET6, &in6->sin6_addr, in6->sin6_port);
    }
    if (storage->ss_family == AF_UNIX && len > offsetof(struct sockaddr_un, sun_path)) {
        const struct sockaddr_un *un = (const void *)storage;
        size_t size = len - offsetof(struct sockaddr_un, sun_path);
        napi_value text = NULL;
        if (un->sun_path[0] != '\0')
            size = strnlen(un->sun_path, size);
        napi_create_string_utf8(env, un->sun_path, size, &text);
        return text;
    }
    return null_value(env);
}

/* address(number, peer): an object, the path of a unix socket, or null. The descriptor is the
 * connection's until HOOK_CLOSE: the library ends nothing outside of its turns. */
static napi_value address(napi_env env, napi_callback_info info) {
    struct call call;
    struct conn *conn;
    struct sockaddr_storage storage;
    socklen_t len = sizeof storage;
    bool peer = false;
    begin(&call, env, info);
    conn = conn_of(&call, 0);
    napi_get_value_bool(env, call.argv[1], &peer);
    if (conn == NULL || conn->fd < 0 ||
        (peer ? getpeername : getsockname)(conn->fd, (struct sockaddr *)&storage, &len) != 0)
        return null_value(env);
    return address_value(env, &storage, len);
}

/* peerCredentials(number): {pid, uid, gid} of a unix socket's peer, or a status. */
static napi_value peer_credentials(napi_env env, napi_callback_info info) {
    struct call call;
    struct conn *conn;
    napi_value object;
    int32_t pid;
    uint32_t uid, gid;
    ns_status status;
    CURRENT_OR_FAIL(call, conn);
    status = ns_socket_peer_credentials(conn->current, &pid, &uid, &gid);
    if (status != NS_OK)
        return int_value(env, status);
    napi_create_object(env, &object);
    set(env, object, "pid", int_value(env, pid));
    set(env, object, "uid", int_value(env, uid));
    set(env, object, "gid", int_value(env, gid));
    return object;
}

/* -- the rest -------------------------------------------------------------------------------- */

/* recv(number): for the shutdown port, where nothing else receives. A buffer, null at the end, or
 * a status. */
static napi_value recv_bytes(napi_env env, napi_callback_info info) {
    struct call call;
    struct conn *conn;
    napi_value buffer = NULL;
    int64_t n;
    CURRENT_OR_FAIL(call, conn);
    n = ns_socket_recv(conn->current, conn->instance->received, RECEIVE_BYTES);
    if (n < 0)
        return int_value(env, n);
    if (n == 0)
        return null_value(env);
    napi_create_buffer_copy(env, (size_t)n, conn->instance->received, NULL, &buffer);
    return buffer;
}

static void drop_raised(void *payload) {
    struct task *raised = payload;
    struct instance *instance = raised->server->instance;
    if (!instance->closing) {
        napi_handle_scope scope;
        napi_open_handle_scope(instance->env, &scope);
        napi_value argv[] = {int_value(instance->env, DROPPED_RAISED),
                             int_value(instance->env, raised->number)};
        call_hook(instance, NULL, HOOK_DROP, 2, argv, NULL);
        napi_close_handle_scope(instance->env, scope);
    }
    free(raised);
}

/* raise(server, number, exception, message): returns what the callback must return. `number` is -1
 * in a callback without a connection; `exception` is the exception's number. */
static napi_value raise_exception(napi_env env, napi_callback_info info) {
    struct call call;
    struct server *server;
    struct conn *conn;
    struct task *raised;
    char *message;
    int32_t code;
    begin(&call, env, info);
    server = server_of(&call, 0);
    conn = conn_of(&call, 1);
    raised = server == NULL ? NULL : malloc(sizeof *raised);
    if (raised == NULL)
        return int_value(env, NS_ERR_HANDLER);
    raised->server = server;
    raised->number = (uint32_t)int_of(&call, 2);
    message = text_of(&call, 3);
    code = ns_raise_with(conn == NULL ? NULL : conn->raising, -1, message, raised, drop_raised);
    free(message);
    return int_value(env, code);
}

bool define_socket(napi_env env, napi_value exports, struct instance *instance) {
    static const struct function functions[] = {
        {"send", send_bytes},
        {"flush", flush},
        {"shutdown", shut_down},
        {"close", close_conn},
        {"abort", abort_conn},
        {"queued", queued_bytes},
        {"pause", pause_conn},
        {"resume", resume_conn},
        {"setIdleTimeout", set_idle_timeout},
        {"wake", wake_conn},
        {"isCurrent", is_current},
        {"setNoDelay", set_no_delay},
        {"setKeepAlive", set_keep_alive},
        {"address", address},
        {"peerCredentials", peer_credentials},
        {"recv", recv_bytes},
        {"raise", raise_exception},
    };
    return DEFINE(functions);
}
