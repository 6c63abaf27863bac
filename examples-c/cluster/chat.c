/* chat: one chat server made of several processes behind a load balancer. README.md has the rest.
 *
 *   chat SERVICE AGENT_SERVICE TRUSTED_PROXY REDIS_HOST REDIS_PORT
 *
 * SERVICE is for clients, who come through the load balancer with PROXY headers of version 2;
 * AGENT_SERVICE tells it "ready" or "drain". Lines from a client, and the answers:
 *   PUB TOPIC TEXT     "OK ID" once Redis has it; "ERR ..." where that is not known
 *   PING WORD          "PONG WORD"
 *   SUB TOPIC LAST_ID  the topic's messages behind that one ("0": all there are), each once and in
 *                      order: "MSG ID TOPIC TEXT"
 * SIGTERM and SIGINT send all clients to other processes: one that gets "BYE" sends nothing more,
 * takes the answers that are due, and closes. A second signal stops without waiting for that.
 * All callbacks, those of hiredis too, run on the one loop: no lock is needed. */
#define _GNU_SOURCE 1 /* strsep */
#include "redis.h"
#include <semaphore.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    AGENT = 1,           /* the number of that service */
    LINE = 1024,         /* the longest line in bytes */
    TOPICS = 100,        /* the most SUBs of a client */
    WINDOW = 64,         /* a client with so many unanswered PUBs is not read */
    PAGE = 100,          /* entries that are asked for at a time to catch up */
    QUEUE = 64 * 1024,   /* no more are asked for while so many bytes wait for the client */
    LIMIT = 1024 * 1024, /* a client for which so much waits is reset */
    TICK_MS = 250,       /* how often what has failed is tried again */
    LEAVE_MS = 5000      /* how long the load balancer may take to hear of it, then the clients */
};

struct id { unsigned long long ms, number; };

/* A topic that a client listens to. It is live when it has seen all that the reader has: then it
 * gets what the reader reads. Until then it asks for what it lacks. */
struct subscription {
    struct client *client;
    struct subscription *next;
    struct id seen, asked_at; /* what it has seen; what the reader had when it asked */
    int is_live, is_asking;
    char *topic;
};

/* It is kept while Redis owes it an answer. */
struct client {
    struct client *next, **place;
    struct subscription *subscriptions;
    ns_conn_id id;
    int references, unanswered, has_ended, topics;
    size_t used; /* bytes of line that are filled */
    char line[LINE];
};

static struct redis commands, reader; /* one that blocks in XREAD would hold up the commands */
static int is_reading, is_known, is_draining, is_leaving;
static struct id read_up_to; /* when it is known: the reader has read this, and all before */
static struct client *clients;
static const char *redis_host;
static int redis_port;
static sem_t checks; /* the load balancer was told to send no more */

static int is_before(struct id a, struct id b) {
    return a.ms != b.ms ? a.ms < b.ms : a.number < b.number;
}

static int parse_id(const char *text, struct id *id) {
    int length = 0;
    id->number = 0;
    return text[0] >= '0' && text[0] <= '9' &&
           sscanf(text, "%19llu%n-%19llu%n", &id->ms, &length, &id->number, &length) >= 1 &&
           text[length] == '\0';
}

/* -- clients ----------------------------------------------------------------- */
/* Sends a line. A client that does not read is reset: it may come back with what it saw last. */
__attribute__((format(printf, 2, 3)))
static void say(const struct client *client, const char *format, ...) {
    char text[2 * LINE];
    va_list arguments;
    int n;
    va_start(arguments, format);
    n = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (n < (int)sizeof text &&
        ns_server_send(server, client->id, text, (size_t)n) == NS_ERR_BUFFER_FULL)
        ns_server_abort(server, client->id);
}

static void release(struct client *client) {
    struct subscription *each;
    if (--client->references > 0)
        return;
    while ((each = client->subscriptions) != NULL) {
        client->subscriptions = each->next;
        free(each);
    }
    free(client);
}

/* Drops a client whose connection is gone. */
static void forget(void *user_data) {
    struct client *client = (struct client *)user_data;
    *client->place = client->next;
    if (client->next != NULL)
        client->next->place = client->place;
    release(client);
}

/* -- messages ---------------------------------------------------------------- */
/* Looks at an entry of the stream, which has the fields "topic" and "text" with their values. */
static void pass_on(struct subscription *to, const redisReply *entry, struct id id) {
    const redisReply *name = entry->element[0], *fields = entry->element[1];
    if (!is_before(to->seen, id))
        return;
    to->seen = id;
    if (fields->elements == 4 && strcmp(fields->element[1]->str, to->topic) == 0)
        say(to->client, "MSG %s %s %s\n", name->str, to->topic, fields->element[3]->str);
}

static void catch_up(struct client *client);

static void on_history(redisAsyncContext *context, void *data, void *user_data) {
    const redisReply *reply = (const redisReply *)data;
    struct subscription *to = (struct subscription *)user_data;
    struct client *client = to->client;
    struct id id;
    (void)context;
    to->is_asking = 0;
    if (reply != NULL && reply->type == REDIS_REPLY_ARRAY) {
        for (size_t i = 0; i < reply->elements; i++)
            if (parse_id(reply->element[i]->element[0]->str, &id))
                pass_on(to, reply->element[i], id);
        if (reply->elements < PAGE) { /* it has all that the reader had when it asked */
            if (is_before(to->seen, to->asked_at))
                to->seen = to->asked_at;
            to->is_live = !is_before(to->seen, read_up_to);
        }
        catch_up(client);
    }
    release(client);
}

/* Asks for what the client's subscriptions lack. If that fails, a tick or a drain asks again. */
static void catch_up(struct client *client) {
    for (struct subscription *to = client->subscriptions; to != NULL; to = to->next) {
        int64_t queued = ns_server_queued(server, client->id); /* negative: it has gone */
        if (to->is_live || to->is_asking || !is_known || commands.context == NULL || queued < 0 ||
            queued >= QUEUE)
            continue;
        to->asked_at = read_up_to;
        to->is_asking = redisAsyncCommand(commands.context, on_history, to,
                                          "XRANGE chat (%llu-%llu + COUNT %d", to->seen.ms,
                                          to->seen.number, PAGE) == REDIS_OK;
        client->references += to->is_asking;
    }
}

static void on_read(redisAsyncContext *context, void *data, void *user_data);

/* Waits for what comes behind the last entry that was read: so none is missed, however often the
 * connection breaks. The first time it asks where the stream ends. */
static void read_on(void) {
    const char *command = is_known ? "XREAD COUNT 1000 BLOCK 0 STREAMS chat %llu-%llu"
                                   : "XREVRANGE chat + - COUNT 1";
    is_reading = reader.context != NULL &&
                 redisAsyncCommand(reader.context, on_read, NULL, command, read_up_to.ms,
                                   read_up_to.number) == REDIS_OK;
}

static void on_read(redisAsyncContext *context, void *data, void *user_data) {
    const redisReply *reply = (const redisReply *)data, *entries;
    (void)context, (void)user_data;
    is_reading = 0;
    if (reply == NULL || reply->type != REDIS_REPLY_ARRAY)
        return; /* gone, or loading its file: a tick reads on */
    entries = is_known ? reply->element[0]->element[1] : reply;
    for (size_t i = 0; i < entries->elements; i++) {
        const redisReply *entry = entries->element[i];
        if (!parse_id(entry->element[0]->str, &read_up_to))
            continue;
        for (struct client *client = clients; client != NULL; client = client->next)
            for (struct subscription *to = client->subscriptions; to != NULL; to = to->next)
                if (to->is_live)
                    pass_on(to, entry, read_up_to);
    }
    is_known = 1;
    read_on();
}

static int32_t tick(ns_server *srv, uint64_t id, void *user_data) {
    (void)srv, (void)id, (void)user_data;
    keep_connected(&commands, redis_host, redis_port);
    keep_connected(&reader, redis_host, redis_port);
    if (!is_reading)
        read_on();
    for (struct client *client = clients; client != NULL; client = client->next)
        catch_up(client);
    return 0;
}

/* -- lines ------------------------------------------------------------------- */
static void on_added(redisAsyncContext *context, void *data, void *user_data) {
    const redisReply *reply = (const redisReply *)data;
    struct client *client = (struct client *)user_data;
    (void)context;
    say(client, "%s %s\n", reply != NULL && reply->type == REDIS_REPLY_STRING ? "OK" : "ERR",
        reply != NULL ? reply->str : "Redis has gone");
    client->unanswered--;
    if (client->has_ended && client->unanswered == 0)
        ns_server_close(server, client->id);
    else if (client->unanswered == WINDOW - 1)
        ns_server_wake(server, client->id); /* to read on */
    release(client);
}

static void publish(struct client *client, const char *topic, const char *text) {
    if (commands.context != NULL &&
        redisAsyncCommand(commands.context, on_added, client, "XADD chat * topic %s text %s", topic,
                          text) == REDIS_OK) {
        client->references++, client->unanswered++;
    } else {
        say(client, "ERR Redis is away\n");
    }
}

static void subscribe(struct client *client, const char *topic, const char *last_id) {
    struct subscription *to = (struct subscription *)calloc(1, sizeof *to + strlen(topic) + 1);
    if (to == NULL || client->topics++ >= TOPICS || !parse_id(last_id, &to->seen)) {
        say(client, "ERR no memory, %d topics, or not an id\n", TOPICS);
        free(to);
        return;
    }
    to->topic = strcpy((char *)(to + 1), topic);
    to->client = client;
    to->next = client->subscriptions;
    client->subscriptions = to;
    catch_up(client);
}

static void take_line(struct client *client, char *line) {
    char *rest = line, *word = strsep(&rest, " ");
    char *topic = rest != NULL && strcmp(word, "PING") != 0 ? strsep(&rest, " ") : NULL;
    if (rest != NULL && strcmp(word, "PING") == 0)
        say(client, "PONG %s\n", rest);
    else if (rest != NULL && *topic != '\0' && strcmp(word, "PUB") == 0)
        publish(client, topic, rest);
    else if (rest != NULL && *topic != '\0' && strcmp(word, "SUB") == 0)
        subscribe(client, topic, rest);
    else
        say(client, "ERR PUB TOPIC TEXT, SUB TOPIC LAST_ID or PING WORD\n");
}

/* Returns 0 for a line that is too long or has a NUL. */
static int take_lines(struct client *client) {
    char *start = client->line, *end;
    while ((end = (char *)memchr(start, '\n', client->used)) != NULL) {
        client->used -= (size_t)(end + 1 - start);
        *end = '\0';
        if (start + strlen(start) != end)
            return 0;
        start[strcspn(start, "\r")] = '\0';
        take_line(client, start);
        start = end + 1;
    }
    memmove(client->line, start, client->used);
    return client->used < LINE;
}

/* -- connections ------------------------------------------------------------- */
/* The handler, and what a wake calls. */
static int32_t on_input(ns_server *srv, ns_socket *socket, void *user_data) {
    struct client *client = (struct client *)ns_socket_user_data(socket);
    int64_t n;
    (void)srv, (void)user_data;
    if (client == NULL) /* the load balancer, which has its answer */
        return ns_socket_close(socket);
    while (client->unanswered < WINDOW) {
        n = ns_socket_recv(socket, client->line + client->used, LINE - client->used);
        client->has_ended |= n == 0;
        if (n == 0 && client->unanswered == 0)
            return ns_socket_close(socket);
        if (n <= 0)
            return (int32_t)n;
        client->used += (size_t)n;
        if (!take_lines(client)) {
            say(client, "ERR a line that is too long, or no text\n");
            return ns_socket_close(socket);
        }
    }
    return 0;
}

static int32_t on_drain(ns_server *srv, ns_socket *socket, void *user_data) {
    (void)srv, (void)user_data;
    if (ns_socket_user_data(socket) != NULL)
        catch_up((struct client *)ns_socket_user_data(socket));
    return 0;
}

static int32_t on_open(ns_server *srv, ns_socket *socket, void *user_data) {
    int is_agent = ns_socket_service(socket) == AGENT;
    struct client *client = is_agent ? NULL : (struct client *)calloc(1, sizeof *client);
    char peer[128];
    (void)srv, (void)user_data;
    if (is_agent) {
        ns_socket_send(socket, is_draining || !is_known ? "drain\n" : "ready\n", 6);
        if (is_draining)
            sem_post(&checks);
        return ns_socket_close(socket);
    }
    if (client == NULL)
        return NS_ERR_NO_MEMORY;
    client->id = ns_socket_id(socket);
    client->references = 1;
    client->next = clients, client->place = &clients;
    if (clients != NULL)
        clients->place = &client->next;
    clients = client;
    ns_socket_set_user_data(socket, client, forget);
    ns_socket_peer(socket, peer, sizeof peer);
    printf("client %s\n", peer), fflush(stdout);
    return is_leaving ? ns_socket_send(socket, "BYE\n", 4) : 0;
}

/* -- the process ------------------------------------------------------------- */
static int32_t set(ns_server *srv, void *flag) { return (void)srv, *(int *)flag = 1; }

static int32_t say_bye(ns_server *srv, void *user_data) {
    (void)srv, (void)user_data;
    is_leaving = 1;
    for (struct client *client = clients; client != NULL; client = client->next)
        say(client, "BYE\n");
    return 0;
}

static void log_line(int32_t level, ns_conn_id id, const char *text, void *user_data) {
    (void)level, (void)id, (void)user_data;
    fprintf(stderr, "chat: %s\n", text);
}

/* The load balancer sends new clients elsewhere, then none is taken, then those here shall go. */
static void leave(const sigset_t *signals) {
    static const struct timespec moment = {0, 50 * 1000000}, now = {0, 0};
    ns_server_post(server, 0, set, &is_draining, NULL);
    for (int waited = 0, told = 0; waited < LEAVE_MS && told < 2; waited += 50) {
        if (sigtimedwait(signals, NULL, &moment) > 0)
            return;
        while (sem_trywait(&checks) == 0)
            told++;
    }
    ns_server_quiesce(server);
    ns_server_post(server, 0, say_bye, NULL, NULL);
    for (int waited = 0; waited < LEAVE_MS; waited += 50)
        if (ns_server_wait_idle(server, 50) == NS_OK || sigtimedwait(signals, NULL, &now) > 0)
            return;
}

static int serve_until_signal(const char *agent_service) {
    ns_error *error = NULL;
    sigset_t signals;
    int number, has_stopped;
    sem_init(&checks, 0, 0);
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT), sigaddset(&signals, SIGTERM);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    if (ns_server_add_service(server, agent_service, &error) != AGENT ||
        ns_server_set_service_proxy(server, AGENT, 0, &error) != NS_OK ||
        ns_server_start(server, NS_START_BACKGROUND, &error) != NS_OK ||
        ns_server_timer(server, 0, 0, TICK_MS, tick, NULL, NULL, &error) == 0)
        return say_error("chat", error), 0;
    sigwait(&signals, &number);
    leave(&signals);
    has_stopped = ns_server_stop(server) == NS_OK;
    disconnect(&commands);
    disconnect(&reader);
    return has_stopped;
}

int main(int argc, char **argv) {
    ns_config *config;
    int served;
    if (argc != 6)
        return fputs("usage: chat SERVICE AGENT_SERVICE PROXY REDIS_HOST REDIS_PORT\n", stderr), 2;
    redis_host = argv[4], redis_port = atoi(argv[5]);
    config = ns_config_new();
    ns_config_set_non_blocking(config, 1);
    ns_config_set_send_limit(config, LIMIT);
    ns_config_set_proxy_protocol(config, NS_PROXY_V2);
    ns_config_add_trusted_proxy(config, argv[3]);
    ns_config_set_logger(config, NS_LOG_WARN, log_line, NULL, NULL);
    ns_config_set_on_open(config, on_open, NULL, NULL);
    ns_config_set_on_wake(config, on_input, NULL, NULL);
    ns_config_set_on_drain(config, on_drain, NULL, NULL);
    served = make_server("chat", argv[1], on_input, config) && serve_until_signal(argv[2]);
    ns_server_free(server);
    return served ? 0 : 1;
}
