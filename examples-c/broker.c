/* broker: the core of an MQTT 3.1.1 broker: what a client publishes goes to those that subscribe.
 *
 *   broker [SERVICE]
 *
 * Try `mosquitto_sub -p 5000 -q 1 -t 'a/#'` and `mosquitto_pub -p 5000 -q 1 -t a/b -m hello`.
 * SIGINT and SIGTERM end it. It has wills and the qualities of service (QoS) 0 and 1, but neither
 * QoS 2 nor retained messages, no packet longer than 64 KiB, and a session ends with its connection.
 *
 * One loop serves all clients, so the data needs no lock. The connection's timer bounds the time to
 * the first packet, then the time between packets: if it fires, the library closes the connection,
 * and on_close publishes the will. A message of QoS 0 goes to all subscribers in one copy, by
 * ns_server_broadcast; a subscriber whose queue is full does not get it. One that does not
 * acknowledge what it gets by QoS 1 is disconnected. What breaks the standard ends the connection.
 */
#define _XOPEN_SOURCE 700
#include "mqtt.h"
#include "serve.h"

#include <search.h>
#include <stdlib.h>
#include <unistd.h>

enum {
    PACKET = 64 * 1024,    /* bytes of a packet's body */
    QUEUE = 1024 * 1024,   /* bytes that wait for a subscriber */
    UNACKNOWLEDGED = 1000, /* messages of QoS 1 that a subscriber may have */
    SUBSCRIPTIONS = 64,    /* of a client, and of a packet; less than 124 */
    CONNECT_MS = 5 * 1000
};

/* The user data of a connection. */
struct client {
    ns_conn_id id;
    struct text name;                     /* in `said`; empty: the client has none */
    struct text will_topic, will_message; /* in `said`; no topic: there is no will */
    unsigned will_qos, keep_alive;
    unsigned subscriptions;
    uint64_t sent, acknowledged; /* messages of QoS 1 */
    int is_connected;
    unsigned char *said; /* the body of CONNECT, NULL before it */
    unsigned char *kept; /* the beginning of a packet, NULL if there is none */
    size_t kept_len;
};

/* Who subscribes to a filter by a QoS: ids[i] is the connection of clients[i]. */
struct group {
    struct group *next;
    unsigned qos;
    size_t count, capacity;
    struct client **clients;
    ns_conn_id *ids;
    struct text filter; /* stands behind this */
};

static struct group *groups; /* no empty ones */
static void *named;          /* the clients that have a name: tsearch(3) */
static unsigned char output[PACKET + 8];

/* -- subscriptions ---------------------------------------------------------------------------- */

static int is_same(struct text one, struct text other) {
    return one.len == other.len && memcmp(one.at, other.at, one.len) == 0;
}

static struct group *make_group(struct text filter, unsigned qos) {
    struct group *group = (struct group *)calloc(1, sizeof *group + filter.len);
    if (group == NULL)
        return NULL;
    group->qos = qos;
    group->filter.at = (unsigned char *)memcpy(group + 1, filter.at, filter.len);
    group->filter.len = filter.len;
    group->next = groups;
    return groups = group;
}

/* Makes room for one more. Returns 0 if there is no memory. */
static int make_place(struct group *group) {
    size_t capacity = group->capacity ? 2 * group->capacity : 1;
    struct client **clients;
    ns_conn_id *ids;
    if (group->count < group->capacity)
        return 1;
    clients = (struct client **)realloc(group->clients, capacity * sizeof *clients);
    group->clients = clients != NULL ? clients : group->clients;
    ids = (ns_conn_id *)realloc(group->ids, capacity * sizeof *ids);
    group->ids = ids != NULL ? ids : group->ids;
    group->capacity = clients != NULL && ids != NULL ? capacity : group->capacity;
    return clients != NULL && ids != NULL;
}

static void drop_empty_groups(void) {
    struct group **link = &groups;
    while (*link != NULL) {
        struct group *group = *link;
        if (group->count > 0) {
            link = &group->next;
            continue;
        }
        *link = group->next;
        free(group->clients);
        free(group->ids);
        free(group);
    }
}

/* Ends a subscription, or all if the filter is empty. */
static void unsubscribe(struct client *client, struct text filter) {
    struct group *group;
    size_t i;
    for (group = groups; group != NULL && client->subscriptions > 0; group = group->next) {
        if (filter.len > 0 && !is_same(group->filter, filter))
            continue;
        for (i = 0; i < group->count && group->clients[i] != client;)
            i++;
        if (i == group->count)
            continue;
        group->clients[i] = group->clients[--group->count];
        group->ids[i] = group->ids[group->count];
        client->subscriptions--;
    }
    drop_empty_groups();
}

/* Returns the QoS, or 0x80 for a failure (3.9.3). */
static unsigned subscribe(struct client *client, struct text filter, unsigned qos) {
    struct group *group;
    unsigned granted = qos > 0 ? 1 : 0;
    unsubscribe(client, filter);
    for (group = groups; group != NULL; group = group->next)
        if (group->qos == granted && is_same(group->filter, filter))
            break;
    if (client->subscriptions == SUBSCRIPTIONS)
        return 0x80;
    if (group == NULL)
        group = make_group(filter, granted);
    if (group == NULL || !make_place(group))
        return drop_empty_groups(), 0x80;
    group->clients[group->count] = client;
    group->ids[group->count++] = client->id;
    client->subscriptions++;
    return granted;
}

/* -- messages --------------------------------------------------------------------------------- */

/* 3.3: writes a packet. Returns its length, and where the number of a message of QoS 1 belongs. */
static size_t write_message(struct text topic, struct text message, unsigned qos, size_t *number) {
    size_t length = 2 + topic.len + (qos > 0 ? 2 : 0) + message.len, rest = length, i = 0;
    output[i++] = (unsigned char)(PUBLISH << 4 | qos << 1);
    do {
        output[i++] = (unsigned char)((rest & 127) | (rest > 127 ? 128 : 0));
    } while ((rest >>= 7) > 0);
    output[i++] = (unsigned char)(topic.len >> 8);
    output[i++] = (unsigned char)(topic.len & 255);
    memcpy(output + i, topic.at, topic.len);
    *number = i += topic.len;
    i += qos > 0 ? 2 : 0;
    memcpy(output + i, message.at, message.len);
    return i + message.len;
}

/* 2.3.1: the number of a message of QoS 1 is 1 to 65535. */
static unsigned number_of(uint64_t count) {
    return (unsigned)(count % 0xffff) + 1;
}

/* Sends a message of QoS 1 to a group. Each subscriber has its own numbers. */
static void send_numbered(ns_server *srv, struct group *group, size_t len, size_t number) {
    size_t i;
    for (i = 0; i < group->count; i++) {
        struct client *client = group->clients[i];
        unsigned own = number_of(client->sent++);
        output[number] = (unsigned char)(own >> 8);
        output[number + 1] = (unsigned char)(own & 255);
        if (client->sent - client->acknowledged > UNACKNOWLEDGED ||
            ns_server_send(srv, client->id, output, len) != NS_OK)
            ns_server_close(srv, client->id);
    }
}

/* A subscription gets a message by its own QoS, or by that of the message if that is lower. */
static void publish(ns_server *srv, struct text topic, struct text message, unsigned qos) {
    struct group *group;
    size_t number;
    for (group = groups; group != NULL; group = group->next)
        if (matches(group->filter, topic)) {
            unsigned lower = qos < group->qos ? qos : group->qos;
            size_t len = write_message(topic, message, lower, &number);
            if (lower > 0)
                send_numbered(srv, group, len, number);
            else
                ns_server_broadcast(srv, group->ids, group->count, output, len);
        }
}

/* -- packets: each function returns 0 if the connection must end ------------------------------ */

static int reply(ns_socket *socket, int type, const unsigned char *body, size_t len) {
    unsigned char packet[4 + SUBSCRIPTIONS];
    packet[0] = (unsigned char)(type << 4);
    packet[1] = (unsigned char)len;
    if (len > 0)
        memcpy(packet + 2, body, len);
    return ns_socket_send(socket, packet, len + 2) == NS_OK;
}

static int compare(const void *a, const void *b) {
    const struct text *one = &((const struct client *)a)->name;
    const struct text *other = &((const struct client *)b)->name;
    int order = memcmp(one->at, other->at, one->len < other->len ? one->len : other->len);
    return order != 0 ? order : (one->len > other->len) - (one->len < other->len);
}

/* 3.1 */
static int take_connect(ns_server *srv, ns_socket *socket, struct client *client,
                        struct text body) {
    unsigned char answer[2] = {0, 0}; /* no session; accepted (3.2.2) */
    struct hello hello;
    struct client **node;
    int known;
    client->said = (unsigned char *)malloc(body.len + 1);
    if (client->said == NULL)
        return 0;
    body.at = (unsigned char *)memcpy(client->said, body.at, body.len);
    known = read_hello(body, &hello);
    if (known == 0)
        return 0;
    if (known < 0 || (hello.name.len == 0 && !(hello.flags & CLEAN))) {
        answer[1] = known < 0 ? 1 : 2; /* the protocol; the name */
        reply(socket, CONNACK, answer, 2);
        return 0;
    }
    if ((hello.flags & WILL) && !is_topic(hello.will_topic))
        return 0;
    client->name = hello.name;
    client->keep_alive = hello.keep_alive;
    client->will_qos = (hello.flags & WILL_QOS) != 0;
    if (hello.flags & WILL)
        client->will_topic = hello.will_topic, client->will_message = hello.will_message;
    if (hello.name.len > 0) {
        node = (struct client **)tsearch(client, &named, compare);
        if (node == NULL)
            return client->name.len = 0, 0;
        if (*node != client) { /* the newer one takes the place of its namesake (3.1.4) */
            ns_server_close(srv, (*node)->id);
            (*node)->name.len = 0;
            *node = client;
        }
    }
    client->is_connected = 1;
    return reply(socket, CONNACK, answer, 2);
}

/* 3.3 */
static int take_publish(ns_server *srv, ns_socket *socket, const struct packet *packet) {
    struct text body = packet->body, topic;
    const unsigned qos = packet->flags >> 1 & 3;
    unsigned number;
    if (qos > 1 || (qos == 0 && (packet->flags & 8)) || !take_text(&body, &topic) ||
        !is_topic(topic) || (qos > 0 && (!take_number(&body, &number) || number == 0)))
        return 0;
    publish(srv, topic, body, qos);
    return qos == 0 || reply(socket, PUBACK, body.at - 2, 2);
}

/* 3.8, 3.10 */
static int take_subscribe(ns_socket *socket, struct client *client, const struct packet *packet) {
    unsigned char answer[2 + SUBSCRIPTIONS];
    const int ends = packet->type == UNSUBSCRIBE;
    struct text body = packet->body, filter;
    unsigned number, qos = 0;
    size_t count = 0;
    if (!take_number(&body, &number) || number == 0 || body.len == 0)
        return 0;
    answer[0] = (unsigned char)(number >> 8), answer[1] = (unsigned char)(number & 255);
    for (; body.len > 0; count++) {
        if (!take_text(&body, &filter) || (!ends && (!take_byte(&body, &qos) || qos > 2)) ||
            !is_filter(filter) || count == SUBSCRIPTIONS)
            return 0;
        if (ends)
            unsubscribe(client, filter);
        else
            answer[2 + count] = (unsigned char)subscribe(client, filter, qos);
    }
    return ends ? reply(socket, UNSUBACK, answer, 2) : reply(socket, SUBACK, answer, 2 + count);
}

static int take_packet(ns_server *srv, ns_socket *socket, struct client *client,
                       const struct packet *packet) {
    const int expected = packet->type == SUBSCRIBE || packet->type == UNSUBSCRIBE ? 2 : 0;
    struct text body = packet->body;
    unsigned number;
    if ((packet->type == CONNECT) == client->is_connected || /* once, and first (3.1) */
        (packet->type != PUBLISH && packet->flags != expected))
        return 0;
    switch (packet->type) {
    case CONNECT: return take_connect(srv, socket, client, body);
    case PUBLISH: return take_publish(srv, socket, packet);
    case PUBACK: /* in the order of the messages (4.6) */
        return client->acknowledged < client->sent && take_number(&body, &number) &&
               body.len == 0 && number == number_of(client->acknowledged++);
    case SUBSCRIBE:
    case UNSUBSCRIBE: return take_subscribe(socket, client, packet);
    case PINGREQ: return body.len == 0 && reply(socket, PINGRESP, NULL, 0);
    case DISCONNECT:
        if (body.len == 0)
            client->will_topic.len = 0; /* 3.14.4 */
        return 0;
    default: return 0;
    }
}

/* -- connections ------------------------------------------------------------------------------ */

static int32_t handle(ns_server *srv, ns_socket *socket, void *user_data) {
    static unsigned char input[2 * PACKET];
    struct client *client = (struct client *)ns_socket_user_data(socket);
    struct text left = {input, client->kept_len};
    struct packet packet;
    long length = 0;
    int64_t n;
    (void)user_data;
    if (client->kept_len > 0)
        memcpy(input, client->kept, client->kept_len);
    n = ns_socket_recv(socket, input + left.len, sizeof input - left.len);
    if (n <= 0)
        return n == 0 ? ns_socket_close(socket) : (int32_t)n;
    free(client->kept);
    client->kept = NULL, client->kept_len = 0;
    left.len += (size_t)n;
    while ((length = read_packet(left, PACKET, &packet)) > 0) {
        if (!take_packet(srv, socket, client, &packet))
            return ns_socket_close(socket);
        left.at += length, left.len -= (size_t)length;
        /* 3.1.2.10: one and a half times the keep-alive; 0 is off. */
        ns_socket_set_timer_ms(socket, client->keep_alive * 1500);
    }
    if (length < 0 || (left.len > 0 && !client->is_connected && *left.at != CONNECT << 4))
        return ns_socket_close(socket);
    if (left.len > 0 && (client->kept = (unsigned char *)malloc(left.len)) == NULL)
        return NS_ERR_NO_MEMORY;
    if (left.len > 0)
        memcpy(client->kept, left.at, client->kept_len = left.len);
    return NS_OK;
}

static void forget(void *user_data) {
    struct client *client = (struct client *)user_data;
    free(client->said);
    free(client->kept);
    free(client);
}

static int32_t on_open(ns_server *srv, ns_socket *socket, void *user_data) {
    struct client *client = (struct client *)calloc(1, sizeof *client);
    (void)srv, (void)user_data;
    if (client == NULL)
        return NS_ERR_REJECTED;
    client->id = ns_socket_id(socket);
    ns_socket_set_timer_ms(socket, CONNECT_MS);
    return ns_socket_set_user_data(socket, client, forget);
}

/* Its will is what a client has published if it goes without a DISCONNECT. */
static void on_close(ns_server *srv, ns_socket *socket, int32_t reason, void *user_data) {
    struct client *client = (struct client *)ns_socket_user_data(socket);
    const struct text all = {NULL, 0};
    (void)reason, (void)user_data;
    if (client == NULL) /* on_open had no memory */
        return;
    unsubscribe(client, all);
    if (client->name.len > 0)
        tdelete(client, &named, compare);
    if (client->is_connected && client->will_topic.len > 0)
        publish(srv, client->will_topic, client->will_message, client->will_qos);
}

int main(int argc, char **argv) {
    ns_config *config = ns_config_new();
    int served;
    if (getopt(argc, argv, "") != -1 || optind < argc - 1) {
        fputs("usage: broker [SERVICE]\n", stderr);
        ns_config_free(config);
        return 2;
    }
    ns_config_set_non_blocking(config, 1);
    ns_config_set_send_limit(config, QUEUE);
    ns_config_set_on_open(config, on_open, NULL, NULL);
    ns_config_set_on_close(config, on_close, NULL, NULL);
    served = make_server("broker", optind < argc ? argv[optind] : "5000", handle, config) &&
             serve("broker");
    ns_server_free(server);
    return served ? 0 : 1;
}
