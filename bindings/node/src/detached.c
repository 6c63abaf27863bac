/* Detached connections. Their calls wait, so they run on a thread of libuv's pool, one at a time for
 * a connection. None waits longer than SLICE_MS: then it returns NS_ERR_TIMEOUT, and JavaScript
 * calls again. So waiting calls share the pool, and an end of the process waits for none.
 *
 * An owned socket is always corked: what a `send` cannot pass on stays queued in it, and the next
 * `flush` goes on with it. */
#include "addon.h"

#include <stdlib.h>
#include <string.h>

#define SLICE_MS 250
#define PIECE_BYTES 32768 /* at most in one send: it fits into what a cork gathers */

enum operation { RECV, SEND, FLUSH, END, FREE };

struct job {
    struct conn *conn; /* NULL for FREE */
    ns_socket *owned;
    napi_async_work work;
    napi_deferred deferred;
    enum operation operation;
    size_t len;
    int64_t result;
    unsigned char bytes[]; /* received, or to be sent */
};

/* detach(number): returns a status. */
static napi_value detach(napi_env env, napi_callback_info info) {
    struct call call;
    struct conn *conn;
    ns_error *error = NULL;
    ns_socket *owned;
    begin(&call, env, info);
    conn = conn_of(&call, 0);
    if (conn == NULL || conn->current == NULL)
        return throw_error(env, conn == NULL        ? NS_ERR_CLOSED
                                : conn->owned != NULL ? NS_ERR_DETACHED
                                                      : NS_ERR_NOT_IN_HANDLER,
                           NULL);
    owned = ns_detach(conn->server->ns, conn->current, &error);
    if (owned == NULL)
        return throw_error(env, NS_ERR_STATE, error);
    conn->current = NULL;
    conn->server = NULL;
    conn->owned = owned;
    conn->paused = conn->held = conn->timer_set = conn->full = false;
    conn->unchecked = 0;
    ns_socket_set_io_timeout_ms(owned, SLICE_MS);
    ns_socket_cork(owned);
    return NULL;
}

/* attach(server, number): returns the new id. */
static napi_value attach(napi_env env, napi_callback_info info) {
    struct call call;
    struct server *server;
    struct conn *conn;
    ns_error *error = NULL;
    ns_conn_id id;
    begin(&call, env, info);
    server = server_of(&call, 0);
    conn = conn_of(&call, 1);
    if (server == NULL || conn == NULL || conn->owned == NULL || conn->busy)
        return throw_error(env, NS_ERR_STATE, NULL);
    id = ns_attach(server->ns, conn->owned, &error);
    if (id == 0)
        return throw_error(env, NS_ERR_STATE, error);
    conn->owned = NULL;
    conn->server = server;
    conn->id = id;
    return id_value(env, id);
}

/* releaseFd(number): the descriptor, or a status. */
static napi_value release_fd(napi_env env, napi_callback_info info) {
    struct call call;
    struct conn *conn;
    int fd;
    begin(&call, env, info);
    conn = conn_of(&call, 0);
    if (conn == NULL || conn->owned == NULL || conn->busy)
        return int_value(env, NS_ERR_STATE);
    conn->closed = true; /* the drop function is about to run */
    ns_socket_uncork(conn->owned);
    fd = ns_socket_release_fd(conn->owned);
    if (fd < 0) {
        conn->closed = false;
        ns_socket_cork(conn->owned);
    }
    return int_value(env, fd);
}

static void execute(napi_env env, void *data) {
    struct job *job = data;
    (void)env;
    switch (job->operation) {
    case RECV: job->result = ns_socket_recv(job->owned, job->bytes, job->len); break;
    case SEND: job->result = ns_socket_send(job->owned, job->bytes, job->len); break;
    case FLUSH: job->result = ns_socket_flush(job->owned); break;
    case END: job->result = ns_socket_shutdown(job->owned, NS_SHUT_WR); break;
    case FREE:
        ns_socket_free(job->owned);
        job->result = NS_OK;
        break;
    }
}

static void complete(napi_env env, napi_status status, void *data) {
    struct job *job = data;
    napi_value value;
    (void)status;
    if (job->conn != NULL)
        job->conn->busy = false;
    if (job->operation == RECV && job->result > 0)
        napi_create_buffer_copy(env, (size_t)job->result, job->bytes, NULL, &value);
    else
        value = int_value(env, job->result);
    napi_resolve_deferred(env, job->deferred, value);
    napi_delete_async_work(env, job->work);
    free(job);
}

/* operate(number, operation, size or bytes): returns a promise of a status, a number of bytes or a
 * buffer. */
static napi_value operate(napi_env env, napi_callback_info info) {
    struct call call;
    struct conn *conn;
    struct job *job;
    enum operation operation;
    void *bytes = NULL;
    size_t len = 0;
    napi_value promise;
    begin(&call, env, info);
    conn = conn_of(&call, 0);
    if (conn == NULL || conn->owned == NULL || conn->busy)
        return throw_error(env, NS_ERR_STATE, NULL);
    operation = (enum operation)int_of(&call, 1);
    if (operation == RECV)
        len = (size_t)int_of(&call, 2);
    else if (operation == SEND && !bytes_of(&call, 2, &bytes, &len))
        return throw_error(env, NS_ERR_INVALID, NULL);
    if (len > (operation == RECV ? RECEIVE_BYTES : PIECE_BYTES))
        return throw_error(env, NS_ERR_INVALID, NULL);
    job = malloc(sizeof *job + len);
    if (job == NULL)
        return throw_error(env, NS_ERR_NO_MEMORY, NULL);
    job->conn = conn;
    job->owned = conn->owned;
    job->operation = operation;
    job->len = len;
    job->result = NS_ERR_CLOSED; /* if it never runs */
    if (operation == SEND && len > 0)
        memcpy(job->bytes, bytes, len);
    napi_create_promise(env, &job->deferred, &promise);
    napi_create_async_work(env, NULL, text_value(env, "NETSERVER_DETACHED"), execute, complete,
                           job, &job->work);
    conn->busy = true;
    if (operation == FREE) { /* what this thread has of it goes now: the pool must not touch that */
        job->conn = NULL;
        conn->closed = true;
        ns_socket_set_user_data(job->owned, NULL, NULL); /* drops conn */
    }
    napi_queue_async_work(env, job->work);
    return promise;
}

bool define_detached(napi_env env, napi_value exports, struct instance *instance) {
    static const struct function functions[] = {
        {"detach", detach}, {"attach", attach}, {"releaseFd", release_fd}, {"operate", operate},
    };
    return DEFINE(functions);
}
