/*
 * A bad network: passes IP packets between two TUN devices, and loses, duplicates, delays and
 * reorders them.
 *
 *   relay NAMESPACE NAMESPACE LOSS DUPLICATES REORDERED DELAY_MS SEED
 *
 * Each namespace (a file) has a device "bad". LOSS, DUPLICATES and REORDERED are parts of 1000
 * packets. A reordered packet comes 1 to 10 ms later than it would, so that those behind it overtake
 * it. Ends at the end of its input, and prints what it did.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { LARGEST = 2048, MOST = 1 << 16, BURST = 64 };

struct packet {
    int64_t due; /* ns */
    uint64_t number;
    int to, length;
    unsigned char bytes[LARGEST];
};

/* A heap: no packet is due before its parent. */
static struct packet *heap[MOST + 1];
static int count;
static uint64_t seen, lost, duplicated, reordered, overflowed;
static uint64_t random_state;

static void fail(const char *what) {
    fprintf(stderr, "relay: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

/* splitmix64 */
static uint64_t draw(void) {
    uint64_t z = random_state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static bool happens(unsigned long per_mille) {
    return draw() % 1000 < per_mille;
}

static bool before(const struct packet *a, const struct packet *b) {
    return a->due != b->due ? a->due < b->due : a->number < b->number;
}

static void put(struct packet *packet) {
    int i = ++count;
    for (; i > 1 && before(packet, heap[i / 2]); i /= 2) heap[i] = heap[i / 2];
    heap[i] = packet;
}

static struct packet *take(void) {
    struct packet *first = heap[1], *last = heap[count--];
    int i = 1;
    for (int child; (child = 2 * i) <= count; i = child) {
        if (child < count && before(heap[child + 1], heap[child])) child++;
        if (!before(heap[child], last)) break;
        heap[i] = heap[child];
    }
    heap[i] = last;
    return first;
}

static int open_device(const char *namespace) {
    int space = open(namespace, O_RDONLY | O_CLOEXEC);
    if (space < 0 || setns(space, CLONE_NEWNET) != 0) fail(namespace);
    close(space);
    struct ifreq request;
    memset(&request, 0, sizeof request);
    strcpy(request.ifr_name, "bad");
    request.ifr_flags = IFF_TUN | IFF_NO_PI;
    int device = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (device < 0 || ioctl(device, TUNSETIFF, &request) != 0) fail("/dev/net/tun");
    return device;
}

static void keep(const unsigned char *bytes, int length, int to, int64_t due, uint64_t number) {
    struct packet *packet = count < MOST ? malloc(sizeof *packet) : NULL;
    if (!packet) {
        overflowed++;
        return;
    }
    packet->due = due;
    packet->number = number;
    packet->to = to;
    packet->length = length;
    memcpy(packet->bytes, bytes, (size_t)length);
    put(packet);
}

int main(int argc, char **argv) {
    if (argc != 8) {
        fprintf(stderr, "usage: relay NAMESPACE NAMESPACE LOSS DUPLICATES REORDERED DELAY_MS SEED\n");
        return 2;
    }
    unsigned long number[5];
    for (int i = 0; i < 5; i++) number[i] = strtoul(argv[3 + i], NULL, 10);
    int64_t delay = (int64_t)number[3] * 1000000;
    random_state = number[4];
    struct pollfd fds[3] = {{0, POLLIN, 0}, {open_device(argv[1]), POLLIN, 0}, {0, POLLIN, 0}};
    fds[2].fd = open_device(argv[2]);
    puts("ready");
    fflush(stdout);
    uint64_t kept = 0;
    for (;;) {
        int64_t left = count ? heap[1]->due - now() : -1;
        struct timespec wait = {left / 1000000000, left % 1000000000};
        if (count && left < 0) wait = (struct timespec){0, 0};
        if (ppoll(fds, 3, count ? &wait : NULL, NULL) < 0 && errno != EINTR) fail("ppoll");
        if (fds[0].revents) break;
        for (int from = 1; from <= 2; from++) {
            unsigned char bytes[LARGEST];
            for (int i = 0; i < BURST && fds[from].revents; i++) {
                ssize_t length = read(fds[from].fd, bytes, sizeof bytes);
                if (length <= 0) break;
                seen++;
                if (happens(number[0])) {
                    lost++;
                    continue;
                }
                int64_t due = now() + delay;
                if (happens(number[2])) {
                    reordered++;
                    due += (int64_t)(1 + draw() % 10) * 1000000;
                }
                keep(bytes, (int)length, 3 - from, due, ++kept);
                if (happens(number[1])) {
                    duplicated++;
                    keep(bytes, (int)length, 3 - from, due, ++kept);
                }
            }
        }
        for (int64_t time = now(); count && heap[1]->due <= time;) {
            struct packet *packet = take();
            if (write(fds[packet->to].fd, packet->bytes, (size_t)packet->length) < 0) overflowed++;
            free(packet);
        }
    }
    printf("packets %" PRIu64 " lost %" PRIu64 " duplicated %" PRIu64 " reordered %" PRIu64
           " overflowed %" PRIu64 "\n", seen, lost, duplicated, reordered, overflowed);
    while (count) free(take());
    return 0;
}
