/* A host with an edge-triggered epoll(7). */
#define _POSIX_C_SOURCE 200809L
#include "host.h"

#include <sys/epoll.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    struct epoll_event event = {EPOLLIN | EPOLLET, {NULL}};
    int set = epoll_create1(EPOLL_CLOEXEC), fd = start(argc, argv);
    stop_by_signal();
    if (epoll_ctl(set, EPOLL_CTL_ADD, fd, &event) != 0)
        return 1;
    while (epoll_wait(set, &event, 1, -1) != 1 || turn())
        ;
    close(set);
    return end();
}
