/*
 * A small harness for C tests of the library: checks, events to wait for, and
 * a client. Include it first: it asks the system headers for POSIX.
 */
#ifndef CHECK_H
#define CHECK_H

#ifndef _DEFAULT_SOURCE
#define _DEFAULT_SOURCE /* POSIX beside C99 */
#endif

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "netserver.h"

/* No wait in a test takes longer; under valgrind everything is slow. */
enum { DEADLINE_MS = 30000 };

/* -- checks ----------------------------------------------------------------- */

/* In any thread; ends the program. */
static inline void fail(const char *file, int line, const char *what)
{
    fprintf(stderr, "%s:%d: %s\n", file, line, what);
    _exit(1);
}

static inline void same(long long actual, long long expected, const char *what, const char *file,
                        int line)
{
    if (actual != expected) {
        fprintf(stderr, "%s:%d: %s is %lld, not %lld\n", file, line, what, actual, expected);
        _exit(1);
    }
}

static inline void same_text(const char *actual, const char *expected, const char *file, int line)
{
    if (actual == NULL || strcmp(actual, expected) != 0) {
        fprintf(stderr, "%s:%d: \"%s\", not \"%s\"\n", file, line, actual ? actual : "(null)",
                expected);
        _exit(1);
    }
}

#define CHECK(condition) ((condition) ? (void)0 : fail(__FILE__, __LINE__, #condition))
#define CHECK_IS(actual, expected) \
    same((long long)(actual), (long long)(expected), #actual, __FILE__, __LINE__)
#define CHECK_TEXT(actual, expected) same_text(actual, expected, __FILE__, __LINE__)

/* -- waiting ---------------------------------------------------------------- */

static inline long long now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (long long)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Between two looks of WAIT_UNTIL, and while time is to pass. */
static inline void nap(void)
{
    struct timespec ms = {0, 1000000};
    nanosleep(&ms, NULL);
}

/* For what can only be looked at; what a callback reports comes as an event. */
#define WAIT_UNTIL(condition)                                   \
    do {                                                        \
        long long until_ = now_ms() + DEADLINE_MS;              \
        while (!(condition)) {                                  \
            if (now_ms() > until_)                              \
                fail(__FILE__, __LINE__, "never: " #condition); \
            nap();                                              \
        }                                                       \
    } while (0)

/* How often something happened. */
typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int count;
} event;

#define EVENT {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0}

static inline void event_add(event *e)
{
    pthread_mutex_lock(&e->lock);
    e->count++;
    pthread_cond_broadcast(&e->changed);
    pthread_mutex_unlock(&e->lock);
}

static inline int event_count(event *e)
{
    int count;
    pthread_mutex_lock(&e->lock);
    count = e->count;
    pthread_mutex_unlock(&e->lock);
    return count;
}

static inline void event_wait_at(event *e, int count, const char *file, int line)
{
    struct timespec until;
    int error = 0;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += DEADLINE_MS / 1000;
    pthread_mutex_lock(&e->lock);
    while (e->count < count && error == 0)
        error = pthread_cond_timedwait(&e->changed, &e->lock, &until);
    pthread_mutex_unlock(&e->lock);
    if (error != 0)
        fail(file, line, "an event never came");
}

/* Until it happened at least `count` times since the test began. */
#define EVENT_WAIT(e, count) event_wait_at(e, count, __FILE__, __LINE__)

/* -- running ---------------------------------------------------------------- */

static inline int entries(const char *folder)
{
    DIR *dir = opendir(folder);
    int count = 0;
    CHECK(dir != NULL);
    while (readdir(dir) != NULL)
        count++;
    closedir(dir);
    return count;
}

/* Runs a test; afterwards the process has the descriptors and threads it had. */
static inline void run(const char *name, void (*test)(void))
{
    int fds = entries("/proc/self/fd");
    int threads = entries("/proc/self/task");
    test();
    WAIT_UNTIL(entries("/proc/self/task") == threads);
    CHECK_IS(entries("/proc/self/fd"), fds);
    printf("ok %s\n", name);
    fflush(stdout);
}

#define RUN(test) run(#test, test)

/* Frees a server whose drain deadline is so short that a busy machine may miss it. */
static inline void free_in_time(ns_server *server)
{
    ns_status status = ns_server_free(server);
    if (status == NS_ERR_TIMEOUT) {
        CHECK_IS(ns_server_wait(server, DEADLINE_MS), NS_OK);
        status = ns_server_free(server);
    }
    CHECK_IS(status, NS_OK);
}

/* -- servers ---------------------------------------------------------------- */

/* A server on a free port of the loopback; takes the config away (NULL: defaults). */
static inline ns_server *serve_at(ns_config *config, ns_handler_fn handler, void *user_data,
                                  const char *file, int line)
{
    ns_error *err = NULL;
    ns_server *server = ns_server_new("127.0.0.1:0", handler, user_data, NULL, config, &err);
    if (server == NULL || ns_server_start(server, NS_START_BACKGROUND, &err) != NS_OK)
        fail(file, line, ns_error_message(err));
    ns_config_free(config);
    return server;
}

#define SERVE(config, handler, user_data) serve_at(config, handler, user_data, __FILE__, __LINE__)

static inline ns_config *non_blocking(void)
{
    ns_config *config = ns_config_new();
    CHECK_IS(ns_config_set_non_blocking(config, 1), NS_OK);
    return config;
}

/* Everything back, until the end of the stream; for either mode. */
static inline int32_t echo(ns_server *server, ns_socket *socket, void *user_data)
{
    char buf[4096];
    int64_t n;
    (void)server, (void)user_data;
    while ((n = ns_socket_recv(socket, buf, sizeof buf)) > 0)
        if (ns_socket_send(socket, buf, (size_t)n) != NS_OK)
            break;
    if (n == 0)
        ns_socket_close(socket);
    return n < 0 ? (int32_t)n : 0;
}

/* -- clients ---------------------------------------------------------------- */

static inline int client(uint16_t port)
{
    struct sockaddr_in address;
    struct timeval patience = {DEADLINE_MS / 1000, 0};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(fd >= 0);
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    CHECK_IS(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

static inline void say(int fd, const char *text)
{
    CHECK_IS(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

static inline void hear_at(int fd, const char *expected, const char *file, int line)
{
    char buf[256];
    size_t length = 0;
    CHECK(strlen(expected) < sizeof buf);
    while (length < strlen(expected)) {
        ssize_t n = recv(fd, buf + length, strlen(expected) - length, 0);
        if (n < 0)
            fail(file, line, strerror(errno));
        if (n == 0)
            break;
        length += (size_t)n;
    }
    buf[length] = 0;
    same_text(buf, expected, file, line);
}

/* These very bytes come next. */
#define HEAR(fd, expected) hear_at(fd, expected, __FILE__, __LINE__)

/* The stream ends here, in order. */
#define HEAR_END(fd)                             \
    do {                                         \
        char byte_;                              \
        CHECK_IS(recv(fd, &byte_, 1, 0), 0);     \
    } while (0)

#endif
