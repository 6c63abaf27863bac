/* store: keeps values by keys and speaks as much of redis's protocol (RESP2) as GET and SET need.
 *
 *   store [-b] SERVICE
 *
 *   -b  collects the replies of a call of the handler by hand, and sends them at once; without it
 *       each reply is a send
 */
#define _POSIX_C_SOURCE 200809L
#include "../examples-c/serve.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ENTRIES = 1024, KEY = 64, VALUE = 1024, INPUT = 1 << 18, MOST_ARGS = 3 };

typedef struct {
    size_t key_len, value_len; /* no key: the entry is free */
    char key[KEY], value[VALUE];
} entry;

typedef struct {
    const char *at;
    size_t len;
} text;

/* The beginning of a request, of which the rest has not come yet. */
typedef struct {
    size_t len;
    char bytes[];
} rest;

static int by_hand;
static entry table[ENTRIES];
static char input[INPUT], output[INPUT * 8];
static size_t output_len;

static entry *find(text key) {
    size_t hash = 5381, i;
    for (i = 0; i < key.len; i++)
        hash = hash * 33 + (unsigned char)key.at[i];
    for (i = 0; i < ENTRIES; i++) {
        entry *found = &table[(hash + i) % ENTRIES];
        if (found->key_len == 0 ||
            (found->key_len == key.len && memcmp(found->key, key.at, key.len) == 0))
            return found;
    }
    return NULL;
}

static ns_status reply(ns_socket *socket, const char *bytes, size_t len) {
    if (!by_hand)
        return ns_socket_send(socket, bytes, len);
    if (output_len + len > sizeof output)
        return NS_ERR_BUFFER_FULL;
    memcpy(output + output_len, bytes, len);
    output_len += len;
    return 0;
}

static ns_status answer(ns_socket *socket, const text *args, int count) {
    entry *found = count > 1 && args[1].len <= KEY ? find(args[1]) : NULL;
    char value[VALUE + 32];
    int len;
    if (count == 3 && found != NULL && args[2].len <= VALUE) {
        memcpy(found->key, args[1].at, found->key_len = args[1].len);
        memcpy(found->value, args[2].at, found->value_len = args[2].len);
        return reply(socket, "+OK\r\n", 5);
    }
    if (count != 2)
        return reply(socket, "-ERR\r\n", 6);
    if (found == NULL || found->key_len == 0)
        return reply(socket, "$-1\r\n", 5);
    len = sprintf(value, "$%u\r\n", (unsigned)found->value_len);
    memcpy(value + len, found->value, found->value_len);
    memcpy(value + len + found->value_len, "\r\n", 2);
    return reply(socket, value, (size_t)len + found->value_len + 2);
}

/* Reads "TYPE NUMBER \r\n". Returns what follows it; NULL if it is not whole. */
static const char *read_number(const char *at, const char *end, char type, size_t *number) {
    *number = 0;
    if (at >= end || *at++ != type)
        return NULL;
    for (; at < end && *at >= '0' && *at <= '9'; at++)
        *number = *number * 10 + (size_t)(*at - '0');
    return end - at >= 2 ? at + 2 : NULL;
}

/* Reads a request. Returns what follows it; NULL if it is not whole. */
static const char *read_request(const char *at, const char *end, text *args, int *count) {
    size_t args_left, len;
    at = read_number(at, end, '*', &args_left);
    for (*count = 0; at != NULL && args_left > 0 && *count < MOST_ARGS; args_left--) {
        at = read_number(at, end, '$', &len);
        if (at == NULL || (size_t)(end - at) < len + 2)
            return NULL;
        args[*count].at = at;
        args[(*count)++].len = len;
        at += len + 2;
    }
    return at;
}

static int32_t handle(ns_server *srv, ns_socket *socket, void *user_data) {
    const rest *before = (const rest *)ns_socket_user_data(socket);
    const size_t had = before != NULL ? before->len : 0;
    const char *at = input, *next, *end;
    text args[MOST_ARGS];
    int count;
    ns_status status = 0;
    int64_t n;
    (void)srv, (void)user_data;
    if (had > 0)
        memcpy(input, before->bytes, had);
    n = ns_socket_recv(socket, input + had, sizeof input - had);
    if (n <= 0)
        return n == 0 ? ns_socket_close(socket) : (int32_t)n;
    end = input + had + n;
    while (status == 0 && (next = read_request(at, end, args, &count)) != NULL) {
        status = answer(socket, args, count);
        at = next;
    }
    if (status == 0 && output_len > 0)
        status = ns_socket_send(socket, output, output_len);
    output_len = 0;
    if (status == 0 && (had > 0 || at < end)) {
        rest *kept = (rest *)malloc(sizeof *kept + (size_t)(end - at));
        if (kept == NULL)
            return NS_ERR_NO_MEMORY;
        kept->len = (size_t)(end - at);
        memcpy(kept->bytes, at, kept->len);
        status = ns_socket_set_user_data(socket, kept, free);
    }
    return status;
}

int main(int argc, char **argv) {
    ns_config *config = ns_config_new();
    by_hand = argc > 1 && strcmp(argv[1], "-b") == 0;
    if (argc != 2 + by_hand) {
        fputs("usage: store [-b] SERVICE\n", stderr);
        return 2;
    }
    ns_config_set_non_blocking(config, 1);
    handle_signals(on_signal);
    if (!make_server("store", argv[1 + by_hand], handle, config))
        return 1;
    return serve("store") ? 0 : 1;
}
