/* The exception handler: the errors that it gets, and the calls that it may make. */
#include "check.h"

static char object[] = "the language's own exception";
static event dropped = EVENT;

static void drop(void *user_data)
{
    CHECK(user_data == object);
    event_add(&dropped);
}

/* The last exception. */
static struct {
    ns_status status;
    int32_t code;
    char message[128];
    void *payload;
    ns_conn_id id;
} last;
static event told = EVENT;
/* On this the exception handler fails itself, which closes the connection. */
enum { FAIL_TOO = -8 };

static int32_t on_exception(ns_server *server, ns_socket *socket, const ns_error *error,
                            void *user_data)
{
    CHECK(server != NULL);
    CHECK_TEXT(user_data, "exceptions");
    last.status = ns_error_status(error);
    last.code = ns_error_handler_code(error);
    last.payload = ns_error_payload(error);
    last.id = ns_socket_id(socket);
    /* Borrowed: it stays. */
    ns_error_free((ns_error *)error);
    snprintf(last.message, sizeof last.message, "%s", ns_error_message(error));
    CHECK_IS(ns_error_os_code(error), 0);
    if (socket != NULL) {
        CHECK_IS(ns_socket_is_closed(socket), 0);
        CHECK_IS(ns_socket_send(socket, "sorry", 5), NS_OK);
    }
    event_add(&told);
    return last.code == FAIL_TOO ? -1 : 0;
}

static ns_conn_id seen;

/* Fails as its client says; on "0" it raises, and succeeds. */
static int32_t handler(ns_server *server, ns_socket *socket, void *user_data)
{
    char byte;
    int64_t n = ns_socket_recv(socket, &byte, 1);
    (void)server, (void)user_data;
    if (n == 0) {
        ns_socket_close(socket);
        return 0;
    }
    if (n < 0)
        return (int32_t)n;
    seen = ns_socket_id(socket);
    switch (byte) {
    case '0':
        CHECK_IS(ns_raise(socket, -9, "forgotten"), -9);
        CHECK_IS(ns_socket_send(socket, "fine", 4), NS_OK);
        return 0;
    case '1':
        return -7;
    case '2':
        return NS_ERR_BUFFER_FULL;
    case '3':
        return ns_raise(socket, -42, "no luck");
    case '4':
        return ns_raise_with(socket, -43, "with an object", object, drop);
    case '5':
        return ns_raise(socket, NS_ERR_TIMEOUT, NULL);
    case '6':
        /* The last one counts; the payload of the first is dropped. */
        ns_raise_with(socket, -1, "first", object, drop);
        return ns_raise(socket, 17, "second");
    case '8':
        return FAIL_TOO;
    case '9':
        return NS_ERR_TLS;
    default:
        return ns_raise(socket, -44, "\xff\xfe");
    }
}

static ns_config *with_exceptions(ns_config *config)
{
    CHECK_IS(ns_config_set_exception_handler(config, on_exception, "exceptions", NULL), NS_OK);
    return config;
}

static void expect(ns_status status, int32_t code, const char *message, void *payload)
{
    CHECK_IS(last.status, status);
    CHECK_IS(last.code, code);
    if (message != NULL)
        CHECK_TEXT(last.message, message);
    CHECK(strlen(last.message) > 0);
    CHECK(last.payload == payload);
    CHECK(last.id != 0);
    CHECK_IS(last.id, seen);
}

static void fail_in(ns_config *config)
{
    int mode = ns_config_non_blocking(config);
    int drops = event_count(&dropped), tells = event_count(&told), i;
    ns_server *server = SERVE(with_exceptions(config), handler, NULL);
    ns_stats stats;
    struct {
        const char *say;
        ns_status status;
        int32_t code;
        const char *message;
        void *payload;
        int drops;
    } cases[] = {
        {"1", NS_ERR_HANDLER, -7, NULL, NULL, 0},
        {"2", NS_ERR_BUFFER_FULL, NS_ERR_BUFFER_FULL, NULL, NULL, 0},
        {"3", NS_ERR_HANDLER, -42, "no luck", NULL, 0},
        {"4", NS_ERR_HANDLER, -43, "with an object", object, 1},
        {"5", NS_ERR_TIMEOUT, NS_ERR_TIMEOUT, NULL, NULL, 1},
        {"6", NS_ERR_HANDLER, -1, "second", NULL, 2},
        {"7", NS_ERR_HANDLER, -44, NULL, NULL, 2},
        {"9", NS_ERR_TLS, NS_ERR_TLS, "the handler returned NS_ERR_TLS", NULL, 2},
    };
    enum { CASES = sizeof cases / sizeof *cases };
    /* Non-blocking: one connection sees them all, for the exception handler leaves it open. */
    int fd = client(ns_server_port(server));

    for (i = 0; i < CASES; i++) {
        if (mode) {
            say(fd, "0");
            HEAR(fd, "fine");
        }
        say(fd, cases[i].say);
        EVENT_WAIT(&told, tells + i + 1);
        HEAR(fd, "sorry");
        expect(cases[i].status, cases[i].code, cases[i].message, cases[i].payload);
        if (!mode) {
            HEAR_END(fd);
            close(fd);
            fd = client(ns_server_port(server));
        }
        WAIT_UNTIL(event_count(&dropped) == drops + cases[i].drops);
    }
    if (!mode) {
        say(fd, "0");
        HEAR(fd, "fine");
        close(fd);
        fd = client(ns_server_port(server));
    }
    CHECK_IS(ns_server_stats(server, &stats, sizeof stats), NS_OK);
    CHECK_IS(stats.handler_errors, CASES);
    say(fd, "8");
    HEAR(fd, "sorry");
    HEAR_END(fd);
    close(fd);
    CHECK_IS(ns_server_stop(server), NS_OK);
    CHECK_IS(event_count(&told), tells + CASES + 1);
    CHECK_IS(ns_server_stats(server, &stats, sizeof stats), NS_OK);
    CHECK_IS(stats.handler_errors, CASES + 2);
    CHECK_IS(ns_server_free(server), NS_OK);
}

/* X1: Every kind of failure of a worker's handler. */
static void fail_blocking(void)
{
    fail_in(ns_config_new());
}

/* X1: Every kind of failure of a loop's handler. */
static void fail_non_blocking(void)
{
    fail_in(non_blocking());
}

static int32_t waits_in_vain(ns_server *server, ns_socket *socket, void *user_data)
{
    char byte;
    (void)server, (void)user_data;
    seen = ns_socket_id(socket);
    return (int32_t)ns_socket_recv(socket, &byte, 1);
}

/* A21.2: A timeout of the connection's own is no number of the handler's. */
static void timed_out(void)
{
    ns_config *config = with_exceptions(ns_config_new());
    int before = event_count(&told), fd;
    ns_server *server;
    CHECK_IS(ns_config_set_io_timeout_ms(config, 50), NS_OK);
    server = SERVE(config, waits_in_vain, NULL);
    fd = client(ns_server_port(server));
    EVENT_WAIT(&told, before + 1);
    expect(NS_ERR_TIMEOUT, NS_ERR_TIMEOUT, ns_status_message(NS_ERR_TIMEOUT), NULL);
    close(fd);
    CHECK_IS(ns_server_free(server), NS_OK);
}

/* X5: Without an exception handler a failure closes the connection, nothing else. */
static void no_exception_handler(void)
{
    ns_server *server = SERVE(non_blocking(), handler, NULL);
    int fd = client(ns_server_port(server));
    say(fd, "4");
    HEAR_END(fd);
    close(fd);
    CHECK_IS(ns_server_free(server), NS_OK);
}

static int32_t open_fails(ns_server *server, ns_socket *socket, void *user_data)
{
    (void)server, (void)user_data;
    seen = ns_socket_id(socket);
    return ns_raise(socket, -5, "not you");
}

/* C11: A connection that on_open refuses. */
static void failing_on_open(void)
{
    ns_config *config = with_exceptions(non_blocking());
    int tells = event_count(&told), fd;
    ns_server *server;
    CHECK_IS(ns_config_set_on_open(config, open_fails, NULL, NULL), NS_OK);
    server = SERVE(config, echo, NULL);
    fd = client(ns_server_port(server));
    HEAR(fd, "sorry");
    HEAR_END(fd);
    EVENT_WAIT(&told, tells + 1);
    expect(NS_ERR_HANDLER, -5, "not you", NULL);
    close(fd);
    CHECK_IS(ns_server_free(server), NS_OK);
}

/* A detached socket is the program's own: the exception handler gets none, but the words. */
static int32_t detach_and_fail(ns_server *server, ns_socket *socket, void *user_data)
{
    ns_socket *owned = ns_detach(server, socket, NULL);
    (void)user_data;
    CHECK(owned != NULL);
    ns_socket_free(owned);
    return ns_raise(socket, -6, "gone, and failed");
}

/* X10: The exception handler gets the error, and no socket. */
static void failing_after_detach(void)
{
    int tells = event_count(&told);
    ns_server *server = SERVE(with_exceptions(non_blocking()), detach_and_fail, NULL);
    int fd = client(ns_server_port(server));
    say(fd, "x");
    EVENT_WAIT(&told, tells + 1);
    CHECK_IS(last.status, NS_ERR_HANDLER);
    CHECK_IS(last.code, -6);
    CHECK_TEXT(last.message, "gone, and failed");
    CHECK_IS(last.id, 0);
    close(fd);
    CHECK_IS(ns_server_free(server), NS_OK);
}

/* A message raised where nothing can fail, or by an owner, is in no later failure. */
static event happened = EVENT;

static int32_t complain(ns_server *server, ns_socket *socket, void *user_data)
{
    (void)server, (void)user_data;
    ns_raise_with(socket, -50, "a complaint", object, drop);
    event_add(&happened);
    return 0;
}

static int32_t raise_first(ns_server *server, ns_socket *socket, void *user_data)
{
    char byte;
    int64_t n = ns_socket_recv(socket, &byte, 1);
    ns_socket *owned;
    (void)user_data;
    if (n <= 0)
        return (int32_t)n;
    seen = ns_socket_id(socket);
    switch (byte) {
    case 't':
        return ns_socket_set_timer_ms(socket, 1);
    case 'w':
        return ns_server_wake(server, ns_socket_id(socket));
    case 'o': /* by an owner, who gives it back */
        owned = ns_detach(server, socket, NULL);
        CHECK(owned != NULL);
        ns_raise_with(owned, -51, "the owner's", object, drop);
        CHECK(ns_attach(server, owned, NULL) != 0);
        event_add(&happened);
        return 0;
    case 'd': /* before the detach: it is why this fails, and nothing else is */
        ns_raise(socket, -52, "before");
        owned = ns_detach(server, socket, NULL);
        CHECK(owned != NULL);
        CHECK(ns_attach(server, owned, NULL) != 0);
        return -52;
    default:
        return -53;
    }
}

/* A21.3, X12: What was raised before, or by an owner, stands in no later error. */
static void forgotten(void)
{
    ns_config *config = with_exceptions(non_blocking());
    int drops = event_count(&dropped), tells = event_count(&told), fd, i;
    ns_server *server;
    CHECK_IS(ns_config_set_on_timeout(config, complain, NULL, NULL), NS_OK);
    CHECK_IS(ns_config_set_on_wake(config, complain, NULL, NULL), NS_OK);
    server = SERVE(config, raise_first, NULL);
    fd = client(ns_server_port(server));
    for (i = 0; i < 3; i++) {
        const char *say_first[] = {"t", "w", "o"};
        say(fd, say_first[i]);
        EVENT_WAIT(&happened, i + 1);
        EVENT_WAIT(&dropped, drops + i + 1);
        say(fd, "x");
        HEAR(fd, "sorry");
        EVENT_WAIT(&told, tells + i + 1);
        expect(NS_ERR_HANDLER, -53, "the handler returned -53", NULL);
    }
    say(fd, "d");
    EVENT_WAIT(&told, tells + 4);
    CHECK_IS(last.code, -52);
    CHECK_TEXT(last.message, "before");
    say(fd, "x");
    HEAR(fd, "sorry");
    EVENT_WAIT(&told, tells + 5);
    expect(NS_ERR_HANDLER, -53, "the handler returned -53", NULL);
    close(fd);
    CHECK_IS(ns_server_free(server), NS_OK);
}

static event serving = EVENT;

static int32_t serve(ns_server *server, ns_socket *socket, void *user_data)
{
    event_add(&serving);
    return echo(server, socket, user_data);
}

static int32_t refused(ns_server *server, ns_socket *socket, const ns_error *error,
                       void *user_data)
{
    (void)server, (void)user_data;
    CHECK_IS(ns_error_status(error), NS_ERR_REJECTED);
    return ns_socket_send(socket, "busy", 4);
}

/* W12: A connection that no worker takes in time is refused with this error. */
static void refused_connection(void)
{
    ns_config *config = ns_config_new();
    ns_server *server;
    ns_stats stats;
    int one, two, three;
    ns_config_set_max_thread(config, 2);
    ns_config_set_max_retry(config, 2);
    ns_config_set_retry_interval_ms(config, 20);
    ns_config_set_exception_handler(config, refused, NULL, NULL);
    server = SERVE(config, serve, NULL);
    one = client(ns_server_port(server));
    two = client(ns_server_port(server));
    EVENT_WAIT(&serving, 2);
    three = client(ns_server_port(server));
    HEAR(three, "busy");
    HEAR_END(three);
    CHECK_IS(ns_server_stats(server, &stats, sizeof stats), NS_OK);
    CHECK_IS(stats.refused, 1);
    close(one);
    close(two);
    close(three);
    CHECK_IS(ns_server_free(server), NS_OK);
}

int main(void)
{
    RUN(fail_blocking);
    RUN(fail_non_blocking);
    RUN(timed_out);
    RUN(no_exception_handler);
    RUN(failing_on_open);
    RUN(failing_after_detach);
    RUN(forgotten);
    RUN(refused_connection);
    return 0;
}
