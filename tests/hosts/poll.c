/* A host with poll(2). */
#define _POSIX_C_SOURCE 200809L
#include "host.h"

#include <poll.h>

int main(int argc, char **argv)
{
    struct pollfd watched = {start(argc, argv), POLLIN, 0};
    stop_by_signal();
    /* A signal ends the wait too. */
    while (poll(&watched, 1, -1) != 1 || turn())
        ;
    return end();
}
