/* raw_epoll: an echo server of system calls alone, the floor for what uses epoll: edge-triggered,
 * one receive buffer for each loop. Options: see peer.h. With -t N there are N loops; the first
 * accepts for all and hands the connections round.
 */
#include "peer.h"

#include <pthread.h>
#include <sys/epoll.h>

#define ENDED (EPOLLRDHUP | EPOLLHUP | EPOLLERR)

typedef struct {
    int fd;
    int ended;         /* the peer sends nothing any more: read on to the end */
    int watches_write; /* from the first time that its socket took no more */
    unsent rest;
} conn;

typedef struct {
    int poller;
    int listener; /* -1 but of the first */
    char *buffer;
} loop;

static loop *loops;

static void watch(int poller, int how, int fd, void *what, unsigned events) {
    struct epoll_event event;
    memset(&event, 0, sizeof event);
    event.events = events;
    event.data.ptr = what;
    if (epoll_ctl(poller, how, fd, &event) != 0)
        die("epoll_ctl");
}

static void accept_all(int listener) {
    static unsigned next;
    int fd;
    while ((fd = accept_next(listener)) >= 0) {
        conn *c = (conn *)allocate(sizeof *c);
        memset(c, 0, sizeof *c);
        c->fd = fd;
        /* From here on it is the other loop's. */
        watch(loops[next++ % threads].poller, EPOLL_CTL_ADD, fd, c,
              EPOLLIN | EPOLLRDHUP | EPOLLET);
    }
}

static void close_conn(conn *c) {
    close(c->fd);
    free(c->rest.bytes);
    free(c);
}

/* What a send came to: whether the connection stays. */
static int waits(const loop *l, conn *c, int sent) {
    if (sent < 0)
        return 0;
    if (!c->watches_write) {
        c->watches_write = 1; /* edges of it cost nothing later: no need to take it back */
        watch(l->poller, EPOLL_CTL_MOD, c->fd, c, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
    }
    return 1;
}

/* As far as it goes now: whether the connection stays. */
static int serve(const loop *l, conn *c, unsigned events) {
    int sent;
    ssize_t n;
    if (events & ENDED)
        c->ended = 1;
    if (c->rest.bytes != NULL) {
        sent = send_rest(c->fd, &c->rest);
        if (sent != 1)
            return waits(l, c, sent);
    } else if (!(events & EPOLLIN) && !c->ended) {
        return 1;
    }
    do {
        n = recv(c->fd, l->buffer, buffer_size, 0);
        if (n <= 0)
            return n < 0 && errno == EAGAIN;
        sent = send_or_keep(c->fd, &c->rest, l->buffer, (size_t)n);
        if (sent != 1)
            return waits(l, c, sent);
    } while ((size_t)n == buffer_size || c->ended); /* after a short one there is no more */
    return 1;
}

static void *run(void *argument) {
    const loop *l = (const loop *)argument;
    struct epoll_event events[1024];
    for (;;) {
        int i, count = epoll_wait(l->poller, events, 1024, -1);
        if (count < 0 && errno != EINTR)
            die("epoll_wait");
        for (i = 0; i < count; i++) {
            conn *c = (conn *)events[i].data.ptr;
            if (c == NULL)
                accept_all(l->listener);
            else if (!serve(l, c, events[i].events))
                close_conn(c);
        }
    }
    return NULL;
}

int main(int argc, char **argv) {
    unsigned i;
    begin("raw_epoll", "b:t:", argc, argv);
    loops = (loop *)allocate(threads * sizeof *loops);
    for (i = 0; i < threads; i++) {
        loops[i].poller = epoll_create1(EPOLL_CLOEXEC);
        loops[i].listener = -1;
        loops[i].buffer = (char *)allocate(buffer_size);
        if (loops[i].poller < 0)
            die("epoll_create1");
    }
    for (i = 1; i < threads; i++) {
        pthread_t thread;
        errno = pthread_create(&thread, NULL, run, &loops[i]);
        if (errno != 0)
            die("pthread_create");
    }
    loops[0].listener = listen_on_loopback(SOCK_NONBLOCK);
    watch(loops[0].poller, EPOLL_CTL_ADD, loops[0].listener, NULL, EPOLLIN);
    run(&loops[0]);
    return 0;
}
