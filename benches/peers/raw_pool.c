/* raw_pool: an echo server of system calls alone, the floor for what blocks: each of the -t threads
 * accepts by itself and serves one connection at a time. Options: see peer.h.
 */
#include "peer.h"

#include <pthread.h>

static int listener;

static int send_all(int fd, const char *bytes, size_t length) {
    while (length > 0) {
        const ssize_t n = send(fd, bytes, length, MSG_NOSIGNAL);
        if (n < 0)
            return 0;
        bytes += n;
        length -= (size_t)n;
    }
    return 1;
}

static void *work(void *unused) {
    char *buffer = (char *)allocate(buffer_size);
    (void)unused;
    for (;;) {
        ssize_t n;
        const int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0) {
            if (errno != ECONNABORTED && errno != EINTR)
                die("accept4");
            continue;
        }
        send_at_once(fd);
        do
            n = recv(fd, buffer, buffer_size, 0);
        while (n > 0 && send_all(fd, buffer, (size_t)n));
        close(fd);
    }
    return NULL;
}

int main(int argc, char **argv) {
    unsigned i;
    begin("raw_pool", "b:t:", argc, argv);
    listener = listen_on_loopback(0);
    for (i = 1; i < threads; i++) {
        pthread_t thread;
        errno = pthread_create(&thread, NULL, work, NULL);
        if (errno != 0)
            die("pthread_create");
    }
    work(NULL);
    return 0;
}
