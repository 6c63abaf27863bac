/* subscribers: subscribes to a server that sends each message to all, publishes, and checks every
 * byte that comes.
 *
 *   subscribers -c N publish|mqtt PORT
 *
 *   mqtt   messages are packets of MQTT 3.1.1, and its hello and its subscription come before them
 *   -c N   subscribers (1); the first one publishes, the next message when all have the last one
 *
 * Otherwise each connection first gets a byte '!' from the server: it is subscribed. An operation is a message
 * of 64 bytes that one subscriber gets. Talks as load does: "ready", then a line of JSON for each
 * line of the standard input, a number of operations.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { SIZE = 64, SILENCE = 30000 /* ms without any progress: a failure */ };

typedef struct {
    int fd;
    uint64_t received;
} member;

static member *members;
static unsigned long count = 1;
static uint64_t published; /* messages */
static int poller, mqtt;

static void die(const char *what) {
    fprintf(stderr, "subscribers: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* The byte of the stream at a position: each message has its number in it. */
static char byte_at(uint64_t position) {
    static const char head[] = {0x30, SIZE - 2, 0, 1, 't'}; /* QoS 0, the topic "t" */
    if (mqtt && position % SIZE < sizeof head)
        return head[position % SIZE];
    return (char)(position / SIZE * 31 + position % SIZE);
}

/* Waits until the server has taken the connection. */
static void join(int fd) {
    static const char asked[] = "\x10\x0c\0\4MQTT\4\2\0\0\0\0" /* no name, a clean session */
                                "\x82\6\0\1\0\1t";               /* and QoS 0 */
    static const char taken[] = "\x20\2\0\0\x90\3\0\1";
    const char *expected = mqtt ? taken : "!";
    const ssize_t len = mqtt ? sizeof taken : 1; /* the final NUL is the granted QoS */
    char answer[sizeof taken];
    if (mqtt && send(fd, asked, sizeof asked, MSG_NOSIGNAL) != sizeof asked)
        die("cannot subscribe");
    if (recv(fd, answer, (size_t)len, MSG_WAITALL) != len ||
        memcmp(answer, expected, (size_t)len) != 0)
        die("not subscribed");
}

static void subscribe(member *m, uint16_t port) {
    struct sockaddr_in address;
    struct epoll_event event;
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    m->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (m->fd < 0 || connect(m->fd, (struct sockaddr *)&address, sizeof address) != 0)
        die("cannot connect");
    join(m->fd);
    if (fcntl(m->fd, F_SETFL, O_NONBLOCK) != 0)
        die("fcntl");
    memset(&event, 0, sizeof event);
    event.events = EPOLLIN;
    event.data.ptr = m;
    if (epoll_ctl(poller, EPOLL_CTL_ADD, m->fd, &event) != 0)
        die("epoll_ctl");
}

static void publish(void) {
    char message[SIZE];
    size_t i;
    for (i = 0; i < SIZE; i++)
        message[i] = byte_at(published * SIZE + i);
    published++;
    if (send(members[0].fd, message, SIZE, MSG_NOSIGNAL) != SIZE)
        die("cannot publish");
}

/* Receives what is there. Returns how many messages it completes. */
static uint64_t receive(member *m) {
    static char input[1 << 16];
    const uint64_t before = m->received / SIZE;
    ssize_t i, n = recv(m->fd, input, sizeof input, 0);
    if (n <= 0)
        die("a subscriber was lost");
    for (i = 0; i < n; i++)
        if (input[i] != byte_at(m->received + (uint64_t)i))
            die("wrong bytes came");
    m->received += (uint64_t)n;
    if (m->received > published * SIZE)
        die("more came than was published");
    return m->received / SIZE - before;
}

static void run_burst(unsigned long messages) {
    struct epoll_event events[1024];
    const uint64_t goal = (uint64_t)messages * count;
    uint64_t done = 0;
    const double from = now();
    double seconds, micros;
    while (done < goal) {
        int i, found;
        if (done % count == 0)
            publish();
        found = epoll_wait(poller, events, 1024, SILENCE);
        if (found <= 0 && (found == 0 || errno != EINTR))
            die("no progress");
        for (i = 0; i < found; i++)
            done += receive((member *)events[i].data.ptr);
    }
    seconds = now() - from;
    micros = seconds / (double)messages * 1e6; /* until all have a message */
    printf("{\"operations\": %lu, \"seconds\": %.6f, \"p50\": %.1f, \"p99\": %.1f, "
           "\"p999\": %.1f, \"most\": %.1f, \"cipher\": \"none\"}\n",
           (unsigned long)goal, seconds, micros, micros, micros, micros);
    fflush(stdout);
}

/* Ends them all; each must get the server's end, and no byte more. */
static void end(void) {
    unsigned long i;
    char byte;
    for (i = 0; i < count; i++)
        shutdown(members[i].fd, SHUT_WR);
    for (i = 0; i < count; i++) {
        fcntl(members[i].fd, F_SETFL, 0);
        if (recv(members[i].fd, &byte, 1, 0) != 0)
            die("no end came");
        close(members[i].fd);
    }
}

int main(int argc, char **argv) {
    struct rlimit limit;
    char line[64];
    unsigned long i;
    int option;
    while ((option = getopt(argc, argv, "c:")) != -1)
        count = option == 'c' ? strtoul(optarg, NULL, 10) : 0;
    mqtt = optind < argc && strcmp(argv[optind], "mqtt") == 0;
    if (argc != optind + 2 || (!mqtt && strcmp(argv[optind], "publish") != 0) || count == 0) {
        fputs("see the top of subscribers.c\n", stderr);
        return 2;
    }
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    poller = epoll_create1(EPOLL_CLOEXEC);
    members = (member *)calloc(count, sizeof *members);
    if (poller < 0 || members == NULL)
        die("cannot begin");
    for (i = 0; i < count; i++)
        subscribe(&members[i], (uint16_t)strtoul(argv[optind + 1], NULL, 10));
    puts("ready");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin) != NULL)
        run_burst((strtoul(line, NULL, 10) + count - 1) / count);
    end();
    return 0;
}
