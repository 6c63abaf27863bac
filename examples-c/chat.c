/* chat: what one client writes, everybody reads.
 *
 *   chat [-t THREADS] [-i IDLE_SECONDS] [SERVICE]
 *
 * The first line a client sends is its nick. It shows:
 *   - data kept for each connection (struct member), freed by the library;
 *   - the list of members under the program's own mutex, taken in on_open and on_close and held
 *     while a message is broadcast: no API call ever runs a callback, so that cannot deadlock;
 *   - the idle timeout, and on_close with its reason.
 * SIGINT and SIGTERM end it.
 */
#define _POSIX_C_SOURCE 200809L
#include "serve.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct member {
    size_t index; /* of its place in the room */
    size_t used;  /* bytes of line that are filled */
    char nick[32];
    char line[512];
};

/* ids[i] is the connection of members[i]. A member that leaves is replaced by the last one. */
static struct {
    pthread_mutex_t lock;
    struct member **members;
    ns_conn_id *ids;
    size_t count, capacity;
} room = {PTHREAD_MUTEX_INITIALIZER, NULL, NULL, 0, 0};

/* Both arrays grow together; called with the lock held. */
static int make_place(void) {
    size_t capacity = room.capacity ? 2 * room.capacity : 64;
    struct member **members;
    ns_conn_id *ids;
    if (room.count < room.capacity)
        return 1;
    members = (struct member **)realloc(room.members, capacity * sizeof *members);
    if (members == NULL)
        return 0;
    room.members = members;
    ids = (ns_conn_id *)realloc(room.ids, capacity * sizeof *ids);
    if (ids == NULL)
        return 0;
    room.ids = ids;
    room.capacity = capacity;
    return 1;
}

static int enter(struct member *member, ns_conn_id id) {
    int entered;
    pthread_mutex_lock(&room.lock);
    entered = make_place();
    if (entered) {
        member->index = room.count++;
        room.members[member->index] = member;
        room.ids[member->index] = id;
    }
    pthread_mutex_unlock(&room.lock);
    return entered;
}

static void leave(const struct member *member) {
    size_t last;
    pthread_mutex_lock(&room.lock);
    last = --room.count;
    room.members[member->index] = room.members[last];
    room.members[member->index]->index = member->index;
    room.ids[member->index] = room.ids[last];
    pthread_mutex_unlock(&room.lock);
}

/* To everybody in the room. One copy of the text is shared by all who get it. */
static void publish(ns_server *srv, const char *text) {
    pthread_mutex_lock(&room.lock);
    ns_server_broadcast(srv, room.ids, room.count, text, strlen(text));
    pthread_mutex_unlock(&room.lock);
}

static void take_line(ns_server *srv, struct member *member, char *line) {
    char text[sizeof member->nick + sizeof member->line + 32];
    line[strcspn(line, "\r")] = '\0';
    if (member->nick[0] == '\0') {
        if (line[0] == '\0')
            return;
        snprintf(member->nick, sizeof member->nick, "%.31s", line);
        snprintf(text, sizeof text, "* %s is here\n", member->nick);
    } else {
        snprintf(text, sizeof text, "%s: %s\n", member->nick, line);
    }
    publish(srv, text);
}

/* A line that fills the whole buffer is taken as it is. */
static void take_lines(ns_server *srv, struct member *member) {
    char *start = member->line, *end;
    size_t left = member->used;
    while ((end = (char *)memchr(start, '\n', left)) != NULL) {
        *end = '\0';
        take_line(srv, member, start);
        left -= (size_t)(end + 1 - start);
        start = end + 1;
    }
    if (left == sizeof member->line - 1) {
        start[left] = '\0';
        take_line(srv, member, start);
        left = 0;
    }
    memmove(member->line, start, left);
    member->used = left;
}

static int32_t chat(ns_server *srv, ns_socket *socket, void *user_data) {
    struct member *member = (struct member *)ns_socket_user_data(socket);
    int64_t n;
    (void)user_data;
    while ((n = ns_socket_recv(socket, member->line + member->used,
                               sizeof member->line - 1 - member->used)) > 0) {
        member->used += (size_t)n;
        take_lines(srv, member);
    }
    if (n == 0)
        ns_socket_close(socket);
    return (int32_t)n;
}

static int32_t on_open(ns_server *srv, ns_socket *socket, void *user_data) {
    static const char welcome[] = "* your nick?\n";
    struct member *member = (struct member *)calloc(1, sizeof *member);
    (void)srv, (void)user_data;
    if (member == NULL)
        return NS_ERR_NO_MEMORY;
    if (!enter(member, ns_socket_id(socket))) {
        free(member);
        return NS_ERR_NO_MEMORY;
    }
    ns_socket_set_user_data(socket, member, free);
    return ns_socket_send(socket, welcome, sizeof welcome - 1);
}

static void on_close(ns_server *srv, ns_socket *socket, int32_t reason, void *user_data) {
    const struct member *member = (const struct member *)ns_socket_user_data(socket);
    char text[128];
    (void)user_data;
    if (member == NULL) /* on_open failed */
        return;
    leave(member);
    if (member->nick[0] == '\0')
        return;
    snprintf(text, sizeof text, "* %s left (%s)\n", member->nick, ns_close_reason_name(reason));
    publish(srv, text);
}

int main(int argc, char **argv) {
    ns_config *config = ns_config_new();
    int c, served;
    ns_config_set_non_blocking(config, 1);
    /* A member who does not read its messages loses them once a megabyte waits for it. */
    ns_config_set_send_limit(config, 1024 * 1024);
    ns_config_set_idle_timeout_ms(config, 600 * 1000);
    while ((c = getopt(argc, argv, "t:i:")) != -1) {
        switch (c) {
        case 't': ns_config_set_max_thread(config, (uint32_t)strtoul(optarg, NULL, 10)); break;
        case 'i':
            ns_config_set_idle_timeout_ms(config, 1000 * (uint32_t)strtoul(optarg, NULL, 10));
            break;
        default:
            fputs("usage: chat [-t THREADS] [-i IDLE_SECONDS] [SERVICE]\n", stderr);
            ns_config_free(config);
            return 2;
        }
    }
    ns_config_set_on_open(config, on_open, NULL, NULL);
    ns_config_set_on_close(config, on_close, NULL, NULL);
    if (!make_server("chat", optind < argc ? argv[optind] : "5000", chat, config))
        return 1;
    served = serve("chat");
    ns_server_free(server);
    free(room.members);
    free(room.ids);
    return served ? 0 : 1;
}
