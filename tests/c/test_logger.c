/* The logger of a config: its setter, its user data, and what it may call. */
#include "check.h"

/* Up to 64 lines. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char lines[64][256];
static int count;
static event dropped = EVENT;
static char data[] = "data";

static void drop(void *user_data)
{
    CHECK(user_data == data);
    event_add(&dropped);
}

static void note(int32_t level, ns_conn_id id, const char *text, void *user_data)
{
    CHECK(user_data == data);
    CHECK(level >= NS_LOG_ERROR && level <= NS_LOG_DEBUG);
    pthread_mutex_lock(&lock);
    CHECK(count < 64);
    snprintf(lines[count++], sizeof lines[0], "%d %d %s", level, id != 0, text);
    pthread_mutex_unlock(&lock);
    /* What is raised here is nobody's. */
    CHECK_IS(ns_raise(NULL, -5, "in the logger"), -5);
}

/* Checks how a line begins, and forgets it with those before it. */
static void begins(int line, const char *beginning)
{
    pthread_mutex_lock(&lock);
    CHECK(line < count);
    lines[line][strlen(beginning)] = 0;
    CHECK_TEXT(lines[line], beginning);
    pthread_mutex_unlock(&lock);
}

static ns_config *logging(int32_t level)
{
    ns_config *config = ns_config_new();
    count = 0;
    CHECK_IS(ns_config_set_logger(config, level, note, data, drop), NS_OK);
    return config;
}

/* LG1: The lines of a server's life come with their levels. */
static void life(void)
{
    int drops = event_count(&dropped);
    ns_server *server = SERVE(logging(NS_LOG_INFO), echo, NULL);
    char expected[64];
    int fd = client(ns_server_port(server));
    say(fd, "hello");
    HEAR(fd, "hello");
    close(fd);
    CHECK_IS(event_count(&dropped), drops);
    CHECK_IS(ns_server_free(server), NS_OK);
    CHECK_IS(count, 3);
    snprintf(expected, sizeof expected, "%d 0 listening on 127.0.0.1:", NS_LOG_INFO);
    begins(0, expected);
    begins(1, "3 0 started with 1 worker");
    begins(2, "3 0 stopped after ");
    CHECK_IS(event_count(&dropped), drops + 1);
}

/* LG1: A line of a level that is not wanted does not come. */
static void levels(void)
{
    ns_server *server = SERVE(logging(NS_LOG_WARN), echo, NULL);
    CHECK_IS(ns_server_free(server), NS_OK);
    CHECK_IS(count, 0);
}

/* LG7, G1: The user data of a logger that is replaced, unset, refused, or freed with its config. */
static void user_data(void)
{
    int drops = event_count(&dropped), level, i;
    const int32_t bad[] = {0, 5, -1, INT32_MAX, INT32_MIN};
    ns_config *config;
    ns_error *err = NULL;
    for (level = NS_LOG_ERROR; level <= NS_LOG_DEBUG; level++) {
        config = logging(level);
        CHECK_IS(ns_config_set_logger(config, level, note, data, drop), NS_OK);
        CHECK_IS(event_count(&dropped), ++drops);
        CHECK_IS(ns_config_set_logger(config, 0, NULL, data, drop), NS_OK);
        drops += 2;
        CHECK_IS(event_count(&dropped), drops);
        CHECK_IS(ns_config_set_logger(config, level, note, data, drop), NS_OK);
        ns_config_free(config);
        CHECK_IS(event_count(&dropped), ++drops);
    }
    CHECK_IS(ns_config_set_logger(NULL, NS_LOG_INFO, note, data, drop), NS_ERR_INVALID);
    CHECK_IS(event_count(&dropped), ++drops);
    for (i = 0; i < 5; i++) {
        config = ns_config_new();
        CHECK_IS(ns_config_set_logger(config, bad[i], note, data, drop), NS_ERR_INVALID);
        CHECK_IS(event_count(&dropped), ++drops);
        /* It is remembered. */
        CHECK(ns_server_new("0", echo, NULL, NULL, config, &err) == NULL);
        CHECK_IS(ns_error_status(err), NS_ERR_INVALID);
        CHECK(strstr(ns_error_message(err), "the level of a logger is 1 to 4") != NULL);
        ns_error_free(err);
        ns_config_free(config);
    }
}

/* LG7, O4: The logger of a config that is in use stays. */
static void in_use(void)
{
    int drops = event_count(&dropped);
    ns_config *config = logging(NS_LOG_INFO);
    ns_server *server = ns_server_new("127.0.0.1:0", echo, NULL, NULL, config, NULL);
    CHECK(server != NULL);
    CHECK_IS(ns_config_set_logger(config, NS_LOG_INFO, NULL, NULL, NULL), NS_ERR_STATE);
    ns_config_free(config);
    CHECK_IS(event_count(&dropped), drops);
    CHECK_IS(ns_server_start(server, NS_START_BACKGROUND, NULL), NS_OK);
    CHECK_IS(ns_server_free(server), NS_OK);
    CHECK_IS(event_count(&dropped), drops + 1);
    CHECK_IS(count, 3);
}

/* A logger that calls what it must not wait for. */
static ns_server *called;
static event calls = EVENT;

static void call(int32_t level, ns_conn_id id, const char *text, void *user_data)
{
    (void)level, (void)id, (void)text, (void)user_data;
    CHECK_IS(ns_server_stop(called), NS_OK);
    CHECK_IS(ns_server_wait(called, -1), NS_ERR_DEADLOCK);
    CHECK_IS(ns_server_free(called), NS_ERR_BUSY);
    CHECK_IS(ns_server_send(called, 1, "x", 1), NS_ERR_NOT_NON_BLOCKING);
    CHECK(ns_server_reload_tls(called, NULL, NULL) != NS_OK);
    event_add(&calls);
}

/* LG4, LG5: It counts as a callback, and causes no further line. */
static void calls_the_server(void)
{
    ns_config *config = ns_config_new();
    CHECK_IS(ns_config_set_logger(config, NS_LOG_DEBUG, call, NULL, NULL), NS_OK);
    called = ns_server_new("127.0.0.1:0", echo, NULL, NULL, config, NULL);
    CHECK(called != NULL);
    ns_config_free(config);
    CHECK_IS(ns_server_start(called, NS_START_BACKGROUND, NULL), NS_OK);
    CHECK_IS(ns_server_wait(called, DEADLINE_MS), NS_OK);
    CHECK_IS(event_count(&calls), 3);
    CHECK_IS(ns_server_free(called), NS_OK);
}

int main(void)
{
    RUN(life);
    RUN(levels);
    RUN(user_data);
    RUN(in_use);
    RUN(calls_the_server);
    return 0;
}
