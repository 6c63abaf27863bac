/* raw_fan: sends each message that it gets to all connections, by system calls alone. What a socket
 * does not take at once ends its connection: nobody here is slow.
 */
#include "peer.h"

#include <sys/epoll.h>

enum { MOST_MEMBERS = 1 << 16 };

typedef struct {
    int fd;
    size_t place; /* among the members */
} conn;

static conn *members[MOST_MEMBERS];
static size_t count;

static void watch(int poller, int fd, void *what) {
    struct epoll_event event;
    memset(&event, 0, sizeof event);
    event.events = EPOLLIN | EPOLLRDHUP | EPOLLET;
    event.data.ptr = what;
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) != 0)
        die("epoll_ctl");
}

static void accept_all(int poller, int listener) {
    int fd;
    while ((fd = accept_next(listener)) >= 0) {
        conn *c = (conn *)allocate(sizeof *c);
        if (count == MOST_MEMBERS || send(fd, "!", 1, MSG_NOSIGNAL) != 1)
            die("cannot subscribe");
        c->fd = fd;
        c->place = count;
        members[count++] = c;
        watch(poller, fd, c);
    }
}

static void end(conn *c) {
    members[c->place] = members[--count];
    members[c->place]->place = c->place;
    close(c->fd);
    free(c);
}

static void serve(conn *c, char *buffer) {
    for (;;) {
        const ssize_t n = recv(c->fd, buffer, buffer_size, 0);
        size_t i;
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0) {
            end(c);
            return;
        }
        for (i = 0; i < count; i++)
            if (send(members[i]->fd, buffer, (size_t)n, MSG_NOSIGNAL) != n)
                die("a member is slow");
        if ((size_t)n < buffer_size)
            return;
    }
}

int main(int argc, char **argv) {
    struct epoll_event events[1024];
    int poller = epoll_create1(EPOLL_CLOEXEC), listener;
    char *buffer;
    begin("raw_fan", "b:", argc, argv);
    buffer = (char *)allocate(buffer_size);
    listener = listen_on_loopback(SOCK_NONBLOCK);
    watch(poller, listener, NULL);
    for (;;) {
        int i, found = epoll_wait(poller, events, 1024, -1);
        if (found < 0 && errno != EINTR)
            die("epoll_wait");
        for (i = 0; i < found; i++) {
            if (events[i].data.ptr == NULL)
                accept_all(poller, listener);
            else
                serve((conn *)events[i].data.ptr, buffer);
        }
    }
    return 0;
}
