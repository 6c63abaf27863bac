/* detach: slow requests are answered by a thread of the program, quick ones by the event loop.
 *
 *   detach [SERVICE]
 *
 * A client sends lines. "primes N" is slow: its connection is detached, the number of primes up to
 * N is counted by the program's own thread, which answers and attaches the connection again. Any
 * other line is sent back at once, also while that thread works. "status" gives the report.
 * SIGINT and SIGTERM end it.
 */
#define _POSIX_C_SOURCE 200809L
#include "serve.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define MAX_N 5000000UL /* about two seconds of work */
#define IO_MS 2000      /* that the thread waits for a client that does not read */

/* The input of a connection that is not answered yet. It goes with the connection. */
struct input {
    size_t used;
    char bytes[1024];
};

struct job {
    ns_socket *socket; /* detached: ours */
    unsigned long n;
    struct job *next;
};

static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct job *first, **last;
    int closed;
} jobs = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, NULL, &jobs.first, 0};

static void put_job(struct job *job) {
    job->next = NULL;
    pthread_mutex_lock(&jobs.lock);
    *jobs.last = job;
    jobs.last = &job->next;
    pthread_cond_signal(&jobs.changed);
    pthread_mutex_unlock(&jobs.lock);
}

/* Waits for a job; NULL when there is none and never will be. */
static struct job *take_job(void) {
    struct job *job;
    pthread_mutex_lock(&jobs.lock);
    while (jobs.first == NULL && !jobs.closed)
        pthread_cond_wait(&jobs.changed, &jobs.lock);
    job = jobs.first;
    if (job != NULL && (jobs.first = job->next) == NULL)
        jobs.last = &jobs.first;
    pthread_mutex_unlock(&jobs.lock);
    return job;
}

static void close_jobs(void) {
    pthread_mutex_lock(&jobs.lock);
    jobs.closed = 1;
    pthread_cond_signal(&jobs.changed);
    pthread_mutex_unlock(&jobs.lock);
}

static unsigned long primes_up_to(unsigned long n) {
    unsigned long count = 0, i, d;
    for (i = 2; i <= n; i++) {
        for (d = 2; d * d <= i && i % d != 0; d++)
            ;
        count += d * d > i;
    }
    return count;
}

/* Answers, and gives the connection back to its server. 0 where that failed: it is still ours. */
static ns_conn_id finish(const struct job *job) {
    char reply[64];
    if (ns_server_is_stopped(server))
        return 0;
    snprintf(reply, sizeof reply, "%lu primes\n", primes_up_to(job->n));
    if (ns_socket_send(job->socket, reply, strlen(reply)) != NS_OK)
        return 0;
    return ns_attach(server, job->socket, NULL);
}

/* The program's thread. A detached socket blocks and belongs to whoever has it. */
static void *work(void *unused) {
    struct job *job;
    (void)unused;
    while ((job = take_job()) != NULL) {
        ns_conn_id id = finish(job);
        if (id != 0)
            ns_server_wake(server, id); /* lines that had arrived behind this one: on_wake */
        else
            ns_socket_free(job->socket);
        free(job);
    }
    return NULL;
}

static int32_t send_report(ns_server *srv, ns_socket *socket) {
    size_t size = ns_server_report(srv, NULL, 0) + 1;
    char *report = (char *)malloc(size);
    ns_status status;
    if (report == NULL)
        return NS_ERR_NO_MEMORY;
    ns_server_report(srv, report, size);
    status = ns_socket_send(socket, report, strlen(report));
    free(report);
    return status;
}

static int32_t start_job(ns_server *srv, ns_socket *socket, unsigned long n) {
    struct job *job = (struct job *)malloc(sizeof *job);
    if (job == NULL)
        return NS_ERR_NO_MEMORY;
    job->n = n < MAX_N ? n : MAX_N;
    job->socket = ns_detach(srv, socket, NULL);
    if (job->socket == NULL) {
        free(job);
        return -1;
    }
    put_job(job);
    return NS_ERR_DETACHED;
}

/* NS_OK: answered. NS_ERR_DETACHED: being answered, the connection is gone from here. */
static int32_t answer(ns_server *srv, ns_socket *socket, char *line, size_t len) {
    if (strncmp(line, "primes ", 7) == 0)
        return start_job(srv, socket, strtoul(line + 7, NULL, 10));
    if (strncmp(line, "status", 6) == 0)
        return send_report(srv, socket);
    return ns_socket_send(socket, line, len);
}

/* Takes the first line out of the input before it is answered: the input may leave with it. */
static int32_t answer_lines(ns_server *srv, ns_socket *socket) {
    struct input *input = (struct input *)ns_socket_user_data(socket);
    char line[sizeof input->bytes + 1], *end;
    int32_t status = NS_OK;
    while (status == NS_OK && (end = (char *)memchr(input->bytes, '\n', input->used)) != NULL) {
        size_t len = (size_t)(end + 1 - input->bytes);
        memcpy(line, input->bytes, len);
        line[len] = '\0';
        input->used -= len;
        memmove(input->bytes, end + 1, input->used);
        status = answer(srv, socket, line, len);
    }
    return status;
}

static int32_t handler(ns_server *srv, ns_socket *socket, void *user_data) {
    struct input *input = (struct input *)ns_socket_user_data(socket);
    int32_t status = NS_OK;
    int64_t n = 0;
    (void)user_data;
    while (status == NS_OK) {
        if (input->used == sizeof input->bytes)
            return ns_raise(socket, -1, "line too long");
        n = ns_socket_recv(socket, input->bytes + input->used, sizeof input->bytes - input->used);
        if (n <= 0)
            break;
        input->used += (size_t)n;
        status = answer_lines(srv, socket);
    }
    if (status == NS_ERR_DETACHED)
        return 0;
    if (status == NS_OK && n == 0)
        ns_socket_close(socket);
    return status < 0 ? status : (int32_t)n;
}

static int32_t on_wake(ns_server *srv, ns_socket *socket, void *user_data) {
    int32_t status = answer_lines(srv, socket);
    (void)user_data;
    return status == NS_ERR_DETACHED ? 0 : status;
}

static int32_t on_open(ns_server *srv, ns_socket *socket, void *user_data) {
    struct input *input = (struct input *)calloc(1, sizeof *input);
    (void)srv, (void)user_data;
    return input == NULL ? NS_ERR_NO_MEMORY : ns_socket_set_user_data(socket, input, free);
}

int main(int argc, char **argv) {
    ns_config *config = ns_config_new();
    pthread_t worker;
    sigset_t signals;
    int created, served = 0;
    ns_config_set_non_blocking(config, 1);
    ns_config_set_io_timeout_ms(config, IO_MS); /* detached sockets have it */
    ns_config_set_on_open(config, on_open, NULL, NULL);
    ns_config_set_on_wake(config, on_wake, NULL, NULL);
    if (!make_server("detach", argc > 1 ? argv[1] : "5000", handler, config))
        return 1;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &signals, NULL); /* the worker inherits it: see serve() */
    created = pthread_create(&worker, NULL, work, NULL) == 0;
    pthread_sigmask(SIG_UNBLOCK, &signals, NULL);
    if (created) {
        served = serve("detach");
        close_jobs();
        pthread_join(worker, NULL);
    }
    ns_server_free(server);
    return served ? 0 : 1;
}
