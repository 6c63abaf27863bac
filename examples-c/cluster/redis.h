/* hiredis' asynchronous API in the loop of a netserver server, as hiredis' own adapters put it into
 * those of libev and others. */
#ifndef CLUSTER_REDIS_H
#define CLUSTER_REDIS_H

#include "../serve.h"

#include <hiredis/async.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

enum { REDIS_SILENCE_MS = 5000 }; /* when Redis counts as gone that does not acknowledge */

/* A connection to Redis: hiredis' context, and a watch of the server's. */
struct redis {
    redisAsyncContext *context; /* NULL while there is none */
    uint64_t watch;
    uint32_t events;
};

static int32_t on_ready(ns_server *srv, uint64_t id, int32_t fd, uint32_t events, void *user_data) {
    struct redis *redis = (struct redis *)user_data;
    (void)srv, (void)id, (void)fd;
    if (events & NS_WRITE)
        redisAsyncHandleWrite(redis->context);
    if ((events & NS_READ) && redis->context != NULL) /* it may have failed by now */
        redisAsyncHandleRead(redis->context);
    return 0;
}

static void want(struct redis *redis, uint32_t events) {
    if (events != 0 && redis->events == 0) {
        redis->watch = ns_server_watch(server, 0, redis->context->c.fd, events, on_ready, redis,
                                       NULL, NULL);
        if (redis->watch == 0)
            return; /* the next command tries again */
    } else if (events == 0 && redis->events != 0)
        ns_server_unwatch(server, redis->watch);
    else if (events != redis->events)
        ns_server_watch_change(server, redis->watch, events);
    redis->events = events;
}

static void add_read(void *r) { want((struct redis *)r, ((struct redis *)r)->events | NS_READ); }
static void add_write(void *r) { want((struct redis *)r, ((struct redis *)r)->events | NS_WRITE); }
static void no_read(void *r) { want((struct redis *)r, ((struct redis *)r)->events & NS_WRITE); }
static void no_write(void *r) { want((struct redis *)r, ((struct redis *)r)->events & NS_READ); }

/* hiredis closes the connection next. Each command without an answer gets NULL for it. */
static void clean_up(void *r) {
    want((struct redis *)r, 0);
    ((struct redis *)r)->context = NULL;
}

/* Connects, if it is not connected. A connection that fails then cleans up by itself. */
static inline void keep_connected(struct redis *redis, const char *host, int port) {
    redisAsyncContext *context = redis->context == NULL ? redisAsyncConnect(host, port) : NULL;
    unsigned silence = REDIS_SILENCE_MS;
    if (context != NULL && context->err == 0) {
        redisEnableKeepAlive(&context->c);
        setsockopt(context->c.fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &silence, sizeof silence);
        context->ev.data = redis;
        context->ev.addRead = add_read, context->ev.delRead = no_read;
        context->ev.addWrite = add_write, context->ev.delWrite = no_write;
        context->ev.cleanup = clean_up;
        redis->context = context;
        redisAsyncCommand(context, NULL, NULL, "PING"); /* from the first command on it is watched */
    } else if (context != NULL) {
        redisAsyncFree(context);
    }
}

static inline void disconnect(struct redis *redis) {
    if (redis->context != NULL)
        redisAsyncFree(redis->context);
}

#endif
