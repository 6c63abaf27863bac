/* A strict reader for packets of MQTT 3.1.1, whose sections are given. It copies nothing.
 * https://docs.oasis-open.org/mqtt/mqtt/v3.1.1/mqtt-v3.1.1.html */
#ifndef EXAMPLES_MQTT_H
#define EXAMPLES_MQTT_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum {
    CONNECT = 1,
    CONNACK,
    PUBLISH,
    PUBACK,
    SUBSCRIBE = 8,
    SUBACK,
    UNSUBSCRIBE,
    UNSUBACK,
    PINGREQ,
    PINGRESP,
    DISCONNECT
};

struct text {
    const unsigned char *at;
    size_t len;
};

struct packet {
    int type, flags;
    struct text body;
};

/* What CONNECT says (3.1). */
struct hello {
    struct text name, will_topic, will_message;
    unsigned level, flags, keep_alive;
};

enum { CLEAN = 2, WILL = 4, WILL_QOS = 0x18, WILL_RETAIN = 0x20, PASSWORD = 0x40, USER = 0x80 };

/* 2.2: reads a packet whose body has at most `most` bytes. Returns its length, 0 if it is not
 * whole, -1 if it is malformed or too large. */
static inline long read_packet(struct text from, size_t most, struct packet *packet) {
    size_t length = 0, i = 1;
    do {
        if (i >= from.len)
            return 0;
        length |= (size_t)(from.at[i] & 127) << 7 * (i - 1);
    } while ((from.at[i++] & 128) != 0 && i <= 4);
    if ((from.at[i - 1] & 128) != 0 || length > most)
        return -1;
    packet->type = from.at[0] >> 4;
    packet->flags = from.at[0] & 15;
    packet->body.at = from.at + i;
    packet->body.len = length;
    return from.len - i < length ? 0 : (long)(i + length);
}

/* Each of these takes something from the front, and returns 0 if that is not there or not valid. */

static inline int take_byte(struct text *from, unsigned *number) {
    if (from->len < 1)
        return 0;
    *number = from->at[0];
    from->at++, from->len--;
    return 1;
}

static inline int take_number(struct text *from, unsigned *number) {
    unsigned low;
    if (!take_byte(from, number) || !take_byte(from, &low))
        return 0;
    *number = *number << 8 | low;
    return 1;
}

static inline int take_bytes(struct text *from, struct text *taken) {
    unsigned len;
    if (!take_number(from, &len) || from->len < len)
        return 0;
    taken->at = from->at, taken->len = len;
    from->at += len, from->len -= len;
    return 1;
}

/* 1.5.3: UTF-8 (RFC 3629) without U+0000. */
static inline int take_text(struct text *from, struct text *taken) {
    static const uint32_t least[] = {1, 0x80, 0x800, 0x10000};
    size_t i = 0;
    if (!take_bytes(from, taken))
        return 0;
    while (i < taken->len) {
        unsigned first = taken->at[i++];
        int more = first < 0x80 ? 0 : first >> 5 == 6 ? 1 : first >> 4 == 14 ? 2 : 3, left = more;
        uint32_t c = more == 0 ? first : first & (0x3fu >> more);
        if (more == 3 && (first >> 3) != 30)
            return 0;
        for (; left > 0; left--) {
            if (i == taken->len || (taken->at[i] & 0xc0) != 0x80)
                return 0;
            c = c << 6 | (taken->at[i++] & 0x3fu);
        }
        if (c < least[more] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
            return 0;
    }
    return 1;
}

/* 3.1; returns -1 if it is another version of the protocol. */
static inline int read_hello(struct text body, struct hello *hello) {
    struct text protocol, unused;
    if (!take_text(&body, &protocol) || !take_byte(&body, &hello->level) || protocol.len != 4 ||
        memcmp(protocol.at, "MQTT", 4) != 0)
        return 0;
    if (hello->level != 4)
        return -1;
    if (!take_byte(&body, &hello->flags) || !take_number(&body, &hello->keep_alive) ||
        !take_text(&body, &hello->name) || (hello->flags & 1) != 0 ||
        (hello->flags & WILL_QOS) == WILL_QOS ||
        (!(hello->flags & WILL) && (hello->flags & (WILL_QOS | WILL_RETAIN)) != 0) ||
        (!(hello->flags & USER) && (hello->flags & PASSWORD) != 0))
        return 0;
    if ((hello->flags & WILL) &&
        (!take_text(&body, &hello->will_topic) || !take_bytes(&body, &hello->will_message)))
        return 0;
    return (!(hello->flags & USER) || take_text(&body, &unused)) &&
           (!(hello->flags & PASSWORD) || take_bytes(&body, &unused)) && body.len == 0;
}

/* 3.3.2: the name of a topic has no wildcard. */
static inline int is_topic(struct text text) {
    return text.len > 0 && memchr(text.at, '+', text.len) == NULL &&
           memchr(text.at, '#', text.len) == NULL;
}

/* 4.7.1: a wildcard is a whole level, and `#` the last one. */
static inline int is_filter(struct text text) {
    size_t i;
    for (i = 0; i < text.len; i++)
        if (text.at[i] == '+' || text.at[i] == '#')
            if ((i > 0 && text.at[i - 1] != '/') ||
                (i + 1 < text.len && (text.at[i] == '#' || text.at[i + 1] != '/')))
                return 0;
    return text.len > 0;
}

/* 4.7: whether the name of a topic matches a filter. */
static inline int matches(struct text filter, struct text topic) {
    size_t f = 0, t = 0;
    if (*topic.at == '$' && (*filter.at == '+' || *filter.at == '#')) /* 4.7.2 */
        return 0;
    for (; f < filter.len; f++) {
        if (filter.at[f] == '#')
            return 1;
        if (filter.at[f] == '+') {
            while (t < topic.len && topic.at[t] != '/')
                t++;
        } else if (t == topic.len) { /* "a/#" matches "a", too */
            return filter.len - f == 2 && filter.at[f] == '/' && filter.at[f + 1] == '#';
        } else if (filter.at[f] != topic.at[t++]) {
            return 0;
        }
    }
    return t == topic.len;
}

#endif
