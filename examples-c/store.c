/* store: keeps values by keys in memory, and speaks the protocol of Redis (RESP2) with its clients.
 *
 *   store [-m MEGABYTES] [SERVICE]    the memory for data and unfinished requests is 64 MB
 *
 * Try `redis-cli -p 5000` and `redis-benchmark -p 5000 -t ping,set,get -P 16`. It knows PING, ECHO,
 * GET, SET, DEL. SIGINT and SIGTERM end it.
 *
 * One loop serves all clients, so the data needs no lock. Clients send requests without waiting for
 * the replies; each reply is a send, and the library gathers what a call sends. A request has at
 * most 1 MiB: a longer one is an error, and ends the connection. If a client does
 * not read its replies, its requests wait until it does: see on_drain.
 * https://redis.io/docs/latest/develop/reference/protocol-spec/
 */
#define _XOPEN_SOURCE 700
#include "serve.h"

#include <search.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

enum {
    REQUEST = 1 << 20, /* bytes of a request */
    LINE = 4096,       /* bytes of a request that is a plain line */
    ARGS = 64,         /* of a request, its name included */
    WINDOW = 256 * 1024, /* bytes of unread replies at which requests wait */
    NODE = 64            /* bytes of a node of the tree, roughly */
};

struct text {
    const char *at;
    size_t len;
};

/* A key and its value. The bytes of both stand behind this. */
struct pair {
    struct text key, value;
};

/* What a client has sent and the server has not answered: the beginning of a request, or requests
 * that wait. It is the client's user data; most clients have none. `size` bytes stand behind it. */
struct kept {
    size_t len, size;
};

static void *tree; /* of pairs; balanced, so that no choice of keys makes it slow: tsearch(3) */
static size_t memory_left = (size_t)64 << 20;
static size_t replied; /* bytes since the last look at a queue */

static void *take_memory(size_t size) {
    void *memory = size <= memory_left ? malloc(size) : NULL;
    memory_left -= memory != NULL ? size : 0;
    return memory;
}

/* -- data ------------------------------------------------------------------------------------- */

static int compare(const void *a, const void *b) {
    const struct text *one = &((const struct pair *)a)->key;
    const struct text *other = &((const struct pair *)b)->key;
    int order = memcmp(one->at, other->at, one->len < other->len ? one->len : other->len);
    return order != 0 ? order : (one->len > other->len) - (one->len < other->len);
}

static struct pair *find(struct text key) {
    struct pair probe = {key, {NULL, 0}};
    void *node = tfind(&probe, &tree, compare);
    return node != NULL ? *(struct pair **)node : NULL;
}

static void forget(struct pair *pair) {
    memory_left += sizeof *pair + pair->key.len + pair->value.len + NODE;
    free(pair);
}

/* Returns 0 if there is no memory: then nothing has changed. */
static int put(struct text key, struct text value) {
    struct pair *pair, *old, **node;
    pair = (struct pair *)take_memory(sizeof *pair + key.len + value.len + NODE);
    if (pair == NULL)
        return 0;
    pair->key.at = (char *)memcpy(pair + 1, key.at, pair->key.len = key.len);
    pair->value.at = (char *)memcpy((char *)(pair + 1) + key.len, value.at, value.len);
    pair->value.len = value.len;
    node = (struct pair **)tsearch(pair, &tree, compare);
    old = node != NULL ? *node : pair;
    if (node != NULL)
        *node = pair;
    if (node == NULL || old != pair)
        forget(old);
    return node != NULL;
}

static int drop(struct pair *pair) {
    if (pair != NULL)
        tdelete(pair, &tree, compare), forget(pair);
    return pair != NULL;
}

/* -- commands --------------------------------------------------------------------------------- */

/* Replies with a line, and with a text behind it unless that is NULL. */
static ns_status reply(ns_socket *socket, const char *line, const struct text *text) {
    const void *parts[3] = {line, text != NULL ? text->at : NULL, "\r\n"};
    size_t lens[3] = {strlen(line), text != NULL ? text->len : 0, 2};
    replied += lens[0] + lens[1];
    return ns_socket_sendv(socket, parts, lens, text != NULL ? 3 : 1);
}

static ns_status reply_text(ns_socket *socket, const struct text *text) {
    char line[32];
    snprintf(line, sizeof line, "$%zu\r\n", text->len);
    return reply(socket, line, text);
}

static int is(const struct text *word, const char *name) {
    return word->len == strlen(name) && strncasecmp(word->at, name, word->len) == 0;
}

static ns_status answer(ns_socket *socket, const struct text *args, int count) {
    struct pair *pair;
    char line[32];
    int i, dropped = 0;
    if (is(args, "GET") && count == 2) {
        pair = find(args[1]);
        return pair != NULL ? reply_text(socket, &pair->value) : reply(socket, "$-1\r\n", NULL);
    }
    if (is(args, "SET") && count == 3)
        return reply(socket, put(args[1], args[2]) ? "+OK\r\n" : "-ERR no memory\r\n", NULL);
    if (is(args, "DEL") && count > 1) {
        for (i = 1; i < count; i++)
            dropped += drop(find(args[i]));
        snprintf(line, sizeof line, ":%d\r\n", dropped);
        return reply(socket, line, NULL);
    }
    if ((is(args, "PING") || is(args, "ECHO")) && count == 2)
        return reply_text(socket, &args[1]);
    if (is(args, "PING") && count == 1)
        return reply(socket, "+PONG\r\n", NULL);
    return reply(socket, "-ERR unknown command or wrong number of arguments\r\n", NULL);
}

/* -- requests --------------------------------------------------------------------------------- */

/* Reads a number of at most `most` between a character and the end of a line. As those below, it
 * returns what follows; NULL if more must come first, and NULL with `*problem`. */
static const char *read_length(const char *at, const char *end, size_t most, size_t *length,
                               const char **problem) {
    const char *digits = ++at;
    for (*length = 0; at < end && *at >= '0' && *at <= '9' && at < digits + 8; at++)
        *length = 10 * *length + (size_t)(*at - '0');
    if (*length > most || (at < end && (at == digits || *at != '\r')) ||
        (end - at > 1 && at[1] != '\n'))
        *problem = "-ERR Protocol error: invalid length\r\n";
    return *problem == NULL && end - at > 1 ? at + 2 : NULL;
}

static int is_space(char c) {
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* A request may also be a line of words, for people. */
static const char *read_line(const char *at, const char *end, struct text *args, int *count,
                             const char **problem) {
    const char *stop = (const char *)memchr(at, '\n', (size_t)(end - at));
    if ((stop != NULL ? stop : end) - at > LINE)
        *problem = "-ERR Protocol error: line too long\r\n";
    while (stop != NULL && *problem == NULL) {
        struct text *word = &args[*count];
        while (at < stop && is_space(*at))
            at++;
        if (at == stop)
            return stop + 1;
        for (word->at = at; !is_space(*at); word->len = (size_t)(at - word->at))
            at++;
        if (++*count == ARGS)
            *problem = "-ERR Protocol error: too many words\r\n";
        else if (word->len == 5 && memcmp(word->at, "Host:", 5) == 0)
            *problem = "-ERR Protocol error: HTTP\r\n"; /* a page makes a browser send commands */
    }
    return NULL;
}

static const char *read_request(const char *at, const char *end, struct text *args, int *count,
                                const char **problem) {
    const char *start = at;
    size_t left, len;
    *count = 0;
    if (at == end || *at != '*')
        return at == end ? NULL : read_line(at, end, args, count, problem);
    for (at = read_length(at, end, ARGS, &left, problem); at != NULL && left > 0; left--) {
        if (at == end)
            return NULL;
        if (*at != '$')
            *problem = "-ERR Protocol error: expected '$'\r\n";
        at = read_length(at, end, REQUEST, &len, problem);
        if (at != NULL && (size_t)(at - start) + len + 2 > REQUEST)
            *problem = "-ERR Protocol error: request too large\r\n";
        if (at == NULL || *problem != NULL || (size_t)(end - at) < len + 2)
            return NULL;
        if (memcmp(at + len, "\r\n", 2) != 0)
            *problem = "-ERR Protocol error: expected the end of a line\r\n";
        args[*count].at = at;
        args[(*count)++].len = len;
        at += len + 2;
    }
    return *problem == NULL ? at : NULL;
}

/* -- clients ---------------------------------------------------------------------------------- */

static void drop_kept(void *user_data) {
    struct kept *kept = (struct kept *)user_data;
    memory_left += sizeof *kept + kept->size;
    free(kept);
}

/* Keeps what is not answered yet, with room for as much again. Returns 0 if there is no memory. */
static int keep(ns_socket *socket, const char *at, size_t len) {
    struct kept *kept = (struct kept *)ns_socket_user_data(socket);
    if (len == 0)
        return kept == NULL || ns_socket_set_user_data(socket, NULL, NULL) == NS_OK;
    if (kept != NULL && kept->size >= len + len / 2) {
        memmove(kept + 1, at, kept->len = len);
    } else {
        kept = (struct kept *)take_memory(sizeof *kept + 2 * len + 512);
        if (kept == NULL)
            return 0;
        memcpy(kept + 1, at, kept->len = len);
        kept->size = 2 * len + 512;
        ns_socket_set_user_data(socket, kept, drop_kept);
    }
    return 1;
}

/* Answers the whole requests, as long as the client reads the replies. */
static int32_t answer_all(ns_socket *socket, const char *at, const char *end) {
    struct text args[ARGS];
    const char *next, *problem = NULL;
    ns_status status = NS_OK;
    int count, is_full = 0;
    while (status == NS_OK && !is_full &&
           (next = read_request(at, end, args, &count, &problem)) != NULL) {
        at = next;
        status = count > 0 ? answer(socket, args, count) : NS_OK;
        if (replied > WINDOW)
            replied = 0, is_full = ns_socket_queued(socket) > WINDOW;
    }
    if (status == NS_OK && problem == NULL && !keep(socket, at, (size_t)(end - at)))
        problem = "-ERR no memory\r\n";
    if (problem != NULL) {
        reply(socket, problem, NULL);
        return ns_socket_close(socket);
    }
    return status == NS_OK && is_full ? ns_socket_pause(socket) : status;
}

static int32_t handle(ns_server *srv, ns_socket *socket, void *user_data) {
    static char chunk[64 * 1024];
    struct kept *kept = (struct kept *)ns_socket_user_data(socket);
    char *bytes = kept != NULL ? (char *)(kept + 1) : chunk;
    size_t had = kept != NULL ? kept->len : 0, size = kept != NULL ? kept->size : sizeof chunk;
    int64_t n = ns_socket_recv(socket, bytes + had, size - had);
    (void)srv, (void)user_data;
    if (n <= 0)
        return n == 0 ? ns_socket_close(socket) : (int32_t)n;
    return answer_all(socket, bytes, bytes + had + n);
}

/* The client has read its replies. */
static int32_t on_drain(ns_server *srv, ns_socket *socket, void *user_data) {
    const struct kept *kept = (const struct kept *)ns_socket_user_data(socket);
    const char *at = kept != NULL ? (const char *)(kept + 1) : "";
    (void)srv, (void)user_data;
    ns_socket_resume(socket);
    return answer_all(socket, at, at + (kept != NULL ? kept->len : 0));
}

int main(int argc, char **argv) {
    ns_config *config = ns_config_new();
    int c, served;
    while ((c = getopt(argc, argv, "m:")) == 'm')
        memory_left = (size_t)strtoul(optarg, NULL, 10) << 20;
    if (c != -1 || optind < argc - 1) {
        fputs("usage: store [-m MEGABYTES] [SERVICE]\n", stderr);
        ns_config_free(config);
        return 2;
    }
    ns_config_set_non_blocking(config, 1);
    ns_config_set_on_drain(config, on_drain, NULL, NULL);
    served = make_server("store", optind < argc ? argv[optind] : "5000", handle, config) &&
             serve("store");
    ns_server_free(server);
    while (tree != NULL)
        drop(*(struct pair **)tree);
    return served ? 0 : 1;
}
