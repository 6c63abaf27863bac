/* What stands between the library and Python: the functions that the library calls.
 *
 * The library knows the objects of Python by numbers alone: a server by the user data of its
 * callbacks, a connection by its own user data. So nothing that C may use can be collected, and
 * Python never holds a pointer to a borrowed socket: it asks by the number, on the thread of the
 * callback (`borrowed`).
 */
#define _GNU_SOURCE
#include <netserver.h>

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

/* PYTHON: the functions in Python, see _callbacks.py. */
static int32_t py_handler(uintptr_t server, uintptr_t connection);
static int32_t py_open(uintptr_t server, uintptr_t connection);
static int32_t py_drain(uintptr_t server, uintptr_t connection);
static int32_t py_timeout(uintptr_t server, uintptr_t connection);
static int32_t py_wake(uintptr_t server, uintptr_t connection);
static int32_t py_exception(uintptr_t server, uintptr_t connection, const ns_error *error);
static int32_t py_shutdown(uintptr_t server, uintptr_t connection);
static int32_t py_start(uintptr_t server);
static int32_t py_thread_start(uintptr_t server, int32_t kind, uint32_t number);
static int32_t py_watch(uintptr_t callable, uint32_t events);
static int32_t py_call(uintptr_t callable);
static void py_close(uintptr_t server, uintptr_t connection, int32_t reason);
static void py_stop(uintptr_t server);
static void py_thread_stop(uintptr_t server, int32_t kind, uint32_t number);
static void py_drop(uintptr_t number);

/* A callback that runs on this thread. One inside another comes from a callback that runs turns of
 * another server. */
struct frame {
    ns_socket *socket; /* NULL: none */
    uintptr_t number;  /* of the connection; 0: none */
    struct frame *outer;
};

static __thread struct frame *frames;
static uintptr_t last_number;
static pthread_t finalizer;
static int is_finalizing;

static uintptr_t new_number(void) {
    return __atomic_add_fetch(&last_number, 1, __ATOMIC_RELAXED);
}

/* Python is about to finalize, on the calling thread. */
static void set_finalizing(void) {
    finalizer = pthread_self();
    __atomic_store_n(&is_finalizing, 1, __ATOMIC_RELEASE);
}

static void stay(void *unused) {
    (void)unused;
    for (;;)
        pause();
}

/* A thread that asks for Python's lock when the interpreter finalizes crashes it, or Python ends
 * the thread by pthread_exit, which may not pass through the library. It stays here instead, until
 * the process has ended. With -fexceptions a cleanup handler costs nothing. */
#define IN_PYTHON(call)                                                                            \
    do {                                                                                           \
        if (__atomic_load_n(&is_finalizing, __ATOMIC_ACQUIRE) &&                                   \
            !pthread_equal(finalizer, pthread_self()))                                             \
            stay(NULL);                                                                            \
        pthread_cleanup_push(stay, NULL);                                                          \
        call;                                                                                      \
        pthread_cleanup_pop(0);                                                                    \
    } while (0)

/* Runs `call`, which may use `frame.number`, in a callback for the socket. */
#define IN_FRAME(borrowed_socket, call)                                                            \
    do {                                                                                           \
        struct frame frame = {borrowed_socket, 0, frames};                                         \
        int is_lost = frame.socket != NULL && number_connection(&frame) != NS_OK;                  \
        frames = &frame;                                                                           \
        IN_PYTHON(call);                                                                           \
        frames = frame.outer;                                                                      \
        if (is_lost)                                                                               \
            drop((void *)frame.number);                                                            \
    } while (0)

static void drop(void *number) {
    IN_PYTHON(py_drop((uintptr_t)number));
}

/* Gives the connection a number at its first callback. */
static ns_status number_connection(struct frame *frame) {
    frame->number = (uintptr_t)ns_socket_user_data(frame->socket);
    if (frame->number != 0)
        return NS_OK;
    frame->number = new_number();
    return ns_socket_set_user_data(frame->socket, (void *)frame->number, drop);
}

#define EVENT(name)                                                                                \
    static int32_t on_##name(ns_server *server, ns_socket *socket, void *user_data) {              \
        int32_t result = -1;                                                                       \
        (void)server;                                                                              \
        IN_FRAME(socket, result = py_##name((uintptr_t)user_data, frame.number));                  \
        return result;                                                                             \
    }

EVENT(handler)
EVENT(open)
EVENT(drain)
EVENT(timeout)
EVENT(wake)
EVENT(shutdown)

static int32_t on_exception(ns_server *server, ns_socket *socket, const ns_error *error,
                            void *user_data) {
    int32_t result = -1;
    (void)server;
    IN_FRAME(socket, result = py_exception((uintptr_t)user_data, frame.number, error));
    return result;
}

static void on_close(ns_server *server, ns_socket *socket, int32_t reason, void *user_data) {
    (void)server;
    IN_FRAME(socket, py_close((uintptr_t)user_data, frame.number, reason));
}

static int32_t on_start(ns_server *server, void *user_data) {
    int32_t result = -1;
    (void)server;
    IN_FRAME(NULL, result = py_start((uintptr_t)user_data));
    return result;
}

static void on_stop(ns_server *server, void *user_data) {
    (void)server;
    IN_FRAME(NULL, py_stop((uintptr_t)user_data));
}

static int32_t on_thread_start(ns_server *server, int32_t kind, uint32_t number, void *user_data) {
    int32_t result = -1;
    (void)server;
    IN_FRAME(NULL, result = py_thread_start((uintptr_t)user_data, kind, number));
    return result;
}

static void on_thread_stop(ns_server *server, int32_t kind, uint32_t number, void *user_data) {
    (void)server;
    IN_FRAME(NULL, py_thread_stop((uintptr_t)user_data, kind, number));
}

static int32_t on_watch(ns_server *server, uint64_t id, int32_t fd, uint32_t events,
                        void *user_data) {
    int32_t result = -1;
    (void)server, (void)id, (void)fd;
    IN_FRAME(NULL, result = py_watch((uintptr_t)user_data, events));
    return result;
}

static int32_t on_timer(ns_server *server, uint64_t id, void *user_data) {
    int32_t result = -1;
    (void)server, (void)id;
    IN_FRAME(NULL, result = py_call((uintptr_t)user_data));
    return result;
}

static int32_t on_task(ns_server *server, void *user_data) {
    return on_timer(server, 0, user_data);
}

/* The socket of the callback for this connection that runs on this thread; NULL if there is none. */
static ns_socket *borrowed(uintptr_t number) {
    const struct frame *frame = frames;
    while (frame != NULL && frame->number != number)
        frame = frame->outer;
    return frame == NULL ? NULL : frame->socket;
}

static int is_in_callback(void) {
    return frames != NULL;
}

/* The two calls that every message needs. */
static int64_t borrowed_recv(uintptr_t number, void *buf, size_t len) {
    return ns_socket_recv(borrowed(number), buf, len);
}

static ns_status borrowed_send(uintptr_t number, const void *buf, size_t len) {
    return ns_socket_send(borrowed(number), buf, len);
}

/* ns_raise_with in the callback that runs on this thread. */
static int32_t raise_in_callback(int32_t code, const char *message, uintptr_t payload) {
    return ns_raise_with(frames == NULL ? NULL : frames->socket, code, message, (void *)payload, drop);
}

struct ids {
    ns_conn_id *items;
    size_t count, room;
};

static int32_t add_id(ns_conn_id id, void *user_data) {
    struct ids *ids = (struct ids *)user_data;
    if (ids->count == ids->room) {
        size_t room = ids->room * 2 + 64;
        ns_conn_id *items = (ns_conn_id *)realloc(ids->items, room * sizeof *items);
        if (items == NULL)
            abort(); /* as the library does */
        ids->items = items;
        ids->room = room;
    }
    ids->items[ids->count++] = id;
    return 0;
}

/* Returns how many connections are open and their ids in `*items`, which the caller frees; or a
 * negative status. */
static int64_t connection_ids(ns_server *server, ns_conn_id **items) {
    struct ids ids = {NULL, 0, 0};
    int64_t count = ns_server_foreach(server, add_id, &ids);
    *items = ids.items;
    return count;
}

/* CALLED: what Python sees of this file. */
static uintptr_t new_number(void);
static void set_finalizing(void);
static ns_socket *borrowed(uintptr_t number);
static int is_in_callback(void);
static int64_t borrowed_recv(uintptr_t number, void *buf, size_t len);
static ns_status borrowed_send(uintptr_t number, const void *buf, size_t len);
static int32_t raise_in_callback(int32_t code, const char *message, uintptr_t payload);
static int64_t connection_ids(ns_server *server, ns_conn_id **items);
static void drop(void *number);
static int32_t on_handler(ns_server *server, ns_socket *socket, void *user_data);
static int32_t on_open(ns_server *server, ns_socket *socket, void *user_data);
static int32_t on_drain(ns_server *server, ns_socket *socket, void *user_data);
static int32_t on_timeout(ns_server *server, ns_socket *socket, void *user_data);
static int32_t on_wake(ns_server *server, ns_socket *socket, void *user_data);
static int32_t on_shutdown(ns_server *server, ns_socket *socket, void *user_data);
static int32_t on_exception(ns_server *server, ns_socket *socket, const ns_error *error, void *user_data);
static void on_close(ns_server *server, ns_socket *socket, int32_t reason, void *user_data);
static int32_t on_start(ns_server *server, void *user_data);
static void on_stop(ns_server *server, void *user_data);
static int32_t on_thread_start(ns_server *server, int32_t kind, uint32_t number, void *user_data);
static void on_thread_stop(ns_server *server, int32_t kind, uint32_t number, void *user_data);
static int32_t on_watch(ns_server *server, uint64_t id, int32_t fd, uint32_t events, void *user_data);
static int32_t on_timer(ns_server *server, uint64_t id, void *user_data);
static int32_t on_task(ns_server *server, void *user_data);

