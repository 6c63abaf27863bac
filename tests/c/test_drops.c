/* A drop function runs exactly once, after its last call, also when the call fails. */
#include "check.h"

/* The names of the dropped data, in order. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char order[64];

static void drop(void *user_data)
{
    pthread_mutex_lock(&lock);
    CHECK(strlen(order) + 1 < sizeof order);
    strcat(order, user_data);
    pthread_mutex_unlock(&lock);
}

/* Checks the names dropped since the last look. */
#define DROPPED(expected)              \
    do {                               \
        pthread_mutex_lock(&lock);     \
        CHECK_TEXT(order, expected);   \
        order[0] = 0;                  \
        pthread_mutex_unlock(&lock);   \
    } while (0)

static char a[] = "a", b[] = "b", c[] = "c", h[] = "h", s[] = "s", x[] = "x";

static int32_t answer(ns_server *server, ns_socket *socket, void *user_data)
{
    (void)server, (void)socket, (void)user_data;
    return 1;
}

static int32_t answer_error(ns_server *server, ns_socket *socket, const ns_error *error,
                            void *user_data)
{
    (void)server, (void)socket, (void)error, (void)user_data;
    return 0;
}

static int32_t started(ns_server *server, void *user_data)
{
    (void)server, (void)user_data;
    return 0;
}

static void stopped(ns_server *server, void *user_data)
{
    (void)server, (void)user_data;
}

static int32_t thread_started(ns_server *server, int32_t kind, uint32_t number, void *user_data)
{
    (void)server, (void)kind, (void)number, (void)user_data;
    return 0;
}

static void thread_stopped(ns_server *server, int32_t kind, uint32_t number, void *user_data)
{
    (void)server, (void)kind, (void)number, (void)user_data;
}

static void closed(ns_server *server, ns_socket *socket, int32_t reason, void *user_data)
{
    (void)server, (void)socket, (void)reason, (void)user_data;
}

/* Replacing drops the former, unsetting too, freeing the config the last. */
#define REPLACE(setter, function)                           \
    do {                                                    \
        ns_config *config = ns_config_new();                \
        CHECK_IS(setter(config, function, a, drop), NS_OK); \
        DROPPED("");                                        \
        CHECK_IS(setter(config, function, b, drop), NS_OK); \
        DROPPED("a");                                       \
        CHECK_IS(setter(config, NULL, NULL, NULL), NS_OK);  \
        DROPPED("b");                                       \
        CHECK_IS(setter(config, function, c, drop), NS_OK); \
        ns_config_free(config);                             \
        DROPPED("c");                                       \
        CHECK_IS(setter(NULL, function, x, drop), NS_ERR_INVALID); \
        DROPPED("x");                                       \
    } while (0)

/* G1: A callback that is replaced, unset, or freed with its config. */
static void replaced_callbacks(void)
{
    REPLACE(ns_config_set_shutdown_handler, answer);
    REPLACE(ns_config_set_exception_handler, answer_error);
    REPLACE(ns_config_set_on_start, started);
    REPLACE(ns_config_set_on_stop, stopped);
    REPLACE(ns_config_set_on_quiesce, stopped);
    REPLACE(ns_config_set_on_thread_start, thread_started);
    REPLACE(ns_config_set_on_thread_stop, thread_stopped);
    REPLACE(ns_config_set_on_open, answer);
    REPLACE(ns_config_set_on_close, closed);
    REPLACE(ns_config_set_on_drain, answer);
    REPLACE(ns_config_set_on_timeout, answer);
    REPLACE(ns_config_set_on_wake, answer);
}

/* G3: A function that is NULL has no use for its user data. */
static void no_function(void)
{
    ns_config *config = ns_config_new();
    CHECK_IS(ns_config_set_on_start(config, NULL, x, drop), NS_OK);
    DROPPED("x");
    ns_config_free(config);
    DROPPED("");
}

/* NULL user data is user data too. */
static event nulls = EVENT;

static void drop_null(void *user_data)
{
    CHECK(user_data == NULL);
    event_add(&nulls);
}

/* G4: A drop function runs for NULL, too. */
static void null_user_data(void)
{
    ns_server *server = ns_server_new("0", echo, NULL, drop_null, NULL, NULL);
    CHECK_IS(ns_server_free(server), NS_OK);
    CHECK_IS(event_count(&nulls), 1);
}

/* G1: A server that cannot be made drops the user data of its handler. */
static void failed_new(void)
{
    ns_config *config = ns_config_new();
    CHECK(ns_server_new("0", NULL, h, drop, NULL, NULL) == NULL);
    DROPPED("h");
    CHECK(ns_server_new("\xff", echo, h, drop, NULL, NULL) == NULL);
    DROPPED("h");
    ns_config_set_max_thread(config, 0);
    CHECK_IS(ns_config_set_on_stop(config, stopped, a, drop), NS_OK);
    CHECK(ns_server_new("0", echo, h, drop, config, NULL) == NULL);
    DROPPED("h");
    ns_config_free(config);
    DROPPED("a");
}

/* G1, O4: A setter that is refused drops what it was given, and nothing else. */
static void frozen_config(void)
{
    ns_config *config = ns_config_new();
    ns_server *server;
    CHECK_IS(ns_config_set_on_stop(config, stopped, a, drop), NS_OK);
    server = ns_server_new("0", echo, NULL, NULL, config, NULL);
    CHECK_IS(ns_config_set_on_stop(config, stopped, x, drop), NS_ERR_STATE);
    DROPPED("x");
    CHECK_IS(ns_server_free(server), NS_OK);
    DROPPED("");
    ns_config_free(config);
    DROPPED("a");
}

/* G5: Two servers share a config; the callbacks go with the last that has it. */
static void shared_config(void)
{
    ns_config *config = ns_config_new();
    ns_server *one, *two;
    CHECK_IS(ns_config_set_on_stop(config, stopped, a, drop), NS_OK);
    one = ns_server_new("0", echo, NULL, NULL, config, NULL);
    two = ns_server_new("0", echo, NULL, NULL, config, NULL);
    ns_config_free(config);
    CHECK_IS(ns_server_free(one), NS_OK);
    DROPPED("");
    CHECK_IS(ns_server_free(two), NS_OK);
    DROPPED("a");
}

/* G6: A start that fails drops nothing: it may be tried again. */
static void failed_start(void)
{
    ns_server *holder = SERVE(NULL, echo, NULL);
    ns_server *server;
    char service[32];
    snprintf(service, sizeof service, "127.0.0.1:%u", (unsigned)ns_server_port(holder));
    server = ns_server_new(service, echo, h, drop, NULL, NULL);
    CHECK_IS(ns_server_start(server, NS_START_BACKGROUND, NULL), NS_ERR_LISTEN);
    DROPPED("");
    CHECK_IS(ns_server_free(holder), NS_OK);
    CHECK_IS(ns_server_start(server, NS_START_BACKGROUND, NULL), NS_OK);
    CHECK_IS(ns_server_free(server), NS_OK);
    DROPPED("h");
}

/* G7: The context is replaced until the start, refused after it, and freed with the server. */
static void context(void)
{
    ns_server *server = ns_server_new("127.0.0.1:0", echo, NULL, NULL, NULL, NULL);
    CHECK(ns_server_context(server) == NULL);
    CHECK_IS(ns_server_set_context(server, a, drop), NS_OK);
    CHECK(ns_server_context(server) == a);
    CHECK_IS(ns_server_set_context(server, b, drop), NS_OK);
    DROPPED("a");
    CHECK_IS(ns_server_start(server, NS_START_BACKGROUND, NULL), NS_OK);
    CHECK_IS(ns_server_set_context(server, x, drop), NS_ERR_STATE);
    DROPPED("x");
    CHECK(ns_server_context(server) == b);
    CHECK_IS(ns_server_stop(server), NS_OK);
    CHECK_IS(ns_server_set_context(server, x, drop), NS_ERR_STATE);
    DROPPED("x");
    CHECK_IS(ns_server_free(server), NS_OK);
    DROPPED("b");
}

static int32_t keep(ns_server *server, ns_socket *socket, void *user_data)
{
    CHECK_IS(ns_socket_set_user_data(socket, s, drop), NS_OK);
    CHECK(ns_socket_user_data(socket) == s);
    CHECK_TEXT(user_data, "h");
    return echo(server, socket, NULL);
}

/* On free: connection data, then callbacks, then context. */
static void free_in_order_of(ns_config *config)
{
    ns_server *server;
    int fd;
    CHECK_IS(ns_config_set_on_close(config, closed, a, drop), NS_OK);
    CHECK_IS(ns_config_set_drain_timeout_ms(config, 0), NS_OK);
    server = ns_server_new("127.0.0.1:0", keep, h, drop, config, NULL);
    ns_config_free(config);
    CHECK_IS(ns_server_set_context(server, c, drop), NS_OK);
    CHECK_IS(ns_server_start(server, NS_START_BACKGROUND, NULL), NS_OK);
    fd = client(ns_server_port(server));
    say(fd, "x");
    HEAR(fd, "x");
    free_in_time(server);
    CHECK_IS(order[0], 's');
    CHECK_IS(order[3], 'c');
    CHECK(strcmp(order, "shac") == 0 || strcmp(order, "sahc") == 0);
    order[0] = 0;
    close(fd);
}

/* G2: Connection data, then callbacks, then context, of a worker. */
static void free_in_order_blocking(void)
{
    free_in_order_of(ns_config_new());
}

/* G2: The same of a loop. */
static void free_in_order_non_blocking(void)
{
    free_in_order_of(non_blocking());
}

int main(void)
{
    RUN(replaced_callbacks);
    RUN(no_function);
    RUN(null_user_data);
    RUN(failed_new);
    RUN(frozen_config);
    RUN(shared_config);
    RUN(failed_start);
    RUN(context);
    RUN(free_in_order_blocking);
    RUN(free_in_order_non_blocking);
    return 0;
}
