/* Counters, the report, and output structs that may grow. */
#include "check.h"

/* At rest every connection is accounted for. */
static void balanced(const ns_stats *stats)
{
    uint64_t closed = 0;
    size_t reason;
    for (reason = 0; reason < sizeof stats->closed / sizeof *stats->closed; reason++)
        closed += stats->closed[reason];
    CHECK_IS(stats->accepted + stats->attached,
             stats->open + stats->waiting + closed + stats->detached);
}

static void counters_of(ns_config *config)
{
    uint32_t mode = (uint32_t)ns_config_non_blocking(config);
    ns_server *server;
    ns_stats stats;
    ns_thread_stats thread;
    uint64_t calls = 0;
    uint32_t i;
    int one, two;

    CHECK_IS(ns_config_set_max_thread(config, 3), NS_OK);
    server = SERVE(config, echo, NULL);
    CHECK_IS(ns_server_stats(server, &stats, sizeof stats), NS_OK);
    CHECK_IS(stats.state, NS_STATE_RUNNING);
    CHECK_IS(stats.non_blocking, mode);
    CHECK_IS(stats.threads, 3);
    CHECK_IS(stats.active_threads, 0);
    CHECK_IS(stats.port, ns_server_port(server));
    CHECK_IS(stats.shutdown_port, 0);
    CHECK_IS(stats.accepted, 0);
    balanced(&stats);

    one = client(ns_server_port(server));
    two = client(ns_server_port(server));
    say(one, "12345");
    HEAR(one, "12345");
    say(two, "123");
    HEAR(two, "123");
    /* Some things are counted a moment after they were seen. */
    WAIT_UNTIL(ns_server_stats(server, &stats, sizeof stats) == NS_OK && stats.bytes_out == 8 &&
               stats.accepted == 2);
    CHECK_IS(stats.open, 2);
    CHECK_IS(stats.active_threads, 2);
    CHECK_IS(stats.bytes_in, 8);
    close(one);
    close(two);
    WAIT_UNTIL(ns_server_stats(server, &stats, sizeof stats) == NS_OK && stats.open == 0);
    balanced(&stats);
    CHECK_IS(stats.closed[NS_CLOSE_PEER], 2);
    for (i = 0; i < 3; i++) {
        CHECK_IS(ns_server_thread_stats(server, i, &thread, sizeof thread), NS_OK);
        CHECK_IS(thread.index, i);
        CHECK_IS(thread.active, 0);
        calls += thread.calls;
    }
    CHECK(calls >= 2);
    CHECK_IS(ns_server_thread_stats(server, 3, &thread, sizeof thread), NS_ERR_INVALID);

    CHECK_IS(ns_server_stop(server), NS_OK);
    CHECK_IS(ns_server_stats(server, &stats, sizeof stats), NS_OK);
    CHECK_IS(stats.state, NS_STATE_STOPPED);
    CHECK_IS(stats.accepted, 2);
    balanced(&stats);
    CHECK_IS(ns_server_free(server), NS_OK);
}

/* J2: What workers count. */
static void counters_blocking(void)
{
    counters_of(ns_config_new());
}

/* J2: What loops count. */
static void counters_non_blocking(void)
{
    counters_of(non_blocking());
}

/* F3: An older program has a shorter struct, a newer one a longer. */
static void other_sizes(void)
{
    ns_server *server = SERVE(non_blocking(), echo, NULL);
    struct {
        ns_stats stats;
        uint64_t more[3];
    } room;
    memset(&room, 0x55, sizeof room);
    CHECK_IS(ns_server_stats(server, &room.stats, 8), NS_OK);
    CHECK_IS(room.stats.state, NS_STATE_RUNNING);
    CHECK_IS(room.stats.non_blocking, 1);
    CHECK_IS(room.stats.threads, 0x55555555);

    memset(&room, 0x55, sizeof room);
    CHECK_IS(ns_server_stats(server, &room.stats, sizeof room.stats + 16), NS_OK);
    CHECK_IS(room.stats.threads, 1);
    CHECK_IS(room.more[0], 0);
    CHECK_IS(room.more[1], 0);
    CHECK_IS(room.more[2], 0x5555555555555555);
    CHECK_IS(ns_server_free(server), NS_OK);
}

/* J4, F4: The report has its fixed lines, in a buffer of any size. */
static void report(void)
{
    ns_config *config = non_blocking();
    ns_server *server;
    char text[4096], begin[8];
    size_t length;
    int fd;

    CHECK_IS(ns_config_set_max_thread(config, 2), NS_OK);
    server = ns_server_new("127.0.0.1:0", echo, NULL, NULL, config, NULL);
    ns_config_free(config);
    CHECK(ns_server_report(server, text, sizeof text) > 0);
    CHECK_IS(ns_server_start(server, NS_START_BACKGROUND, NULL), NS_OK);
    fd = client(ns_server_port(server));
    say(fd, "x");
    HEAR(fd, "x");
    length = ns_server_report(server, text, sizeof text);
    CHECK(length > 0 && length < sizeof text);
    CHECK_IS(strlen(text), length);
    CHECK(strstr(text, "Total thread count: 2\n") != NULL);
    CHECK(strstr(text, "Active thread count: 1\n") != NULL);
    CHECK(strstr(text, "  Thread #") != NULL);
    CHECK(strstr(text, "    - active sockets 1\n") != NULL);
    CHECK(ns_server_report(server, NULL, 0) > 0);
    CHECK(ns_server_report(server, begin, sizeof begin) > sizeof begin);
    CHECK_IS(strlen(begin), sizeof begin - 1);
    close(fd);
    CHECK_IS(ns_server_free(server), NS_OK);
}

/* F4, MT3: The metrics, in a buffer of any size, at any time. */
static void metrics(void)
{
    ns_server *server = ns_server_new("127.0.0.1:0", echo, NULL, NULL, NULL, NULL);
    char text[16384], begin[64];
    size_t length;

    CHECK_IS(ns_has_feature("metrics"), 1);
    CHECK(ns_server_metrics(server, text, sizeof text) > 0);
    CHECK(strstr(text, "\nnetserver_state 0\n") != NULL);
    CHECK_IS(ns_server_start(server, NS_START_BACKGROUND, NULL), NS_OK);
    length = ns_server_metrics(server, text, sizeof text);
    CHECK(length > 0 && length < sizeof text);
    CHECK_IS(strlen(text), length);
    CHECK(strstr(text, "\nnetserver_state 2\n") != NULL);
    CHECK(strstr(text, "\nnetserver_thread_open_connections{thread=\"0\"} 0\n") != NULL);
    CHECK(ns_server_metrics(server, NULL, 0) > 0);
    CHECK(ns_server_metrics(server, NULL, SIZE_MAX) > 0);
    memset(begin, 'x', sizeof begin);
    CHECK(ns_server_metrics(server, begin, 1) > 0);
    CHECK_IS(begin[0], 0);
    CHECK_IS(begin[1], 'x');
    CHECK(ns_server_metrics(server, begin, sizeof begin) > sizeof begin);
    CHECK_IS(strlen(begin), sizeof begin - 1);
    CHECK(strncmp(begin, text, sizeof begin - 1) == 0);
    CHECK_IS(ns_server_metrics(NULL, begin, sizeof begin), 0);
    CHECK_TEXT(begin, "");
    CHECK_IS(ns_server_stop(server), NS_OK);
    ns_server_metrics(server, text, sizeof text);
    CHECK(strstr(text, "\nnetserver_state 4\n") != NULL);
    CHECK_IS(ns_server_free(server), NS_OK);
}

int main(void)
{
    RUN(counters_blocking);
    RUN(counters_non_blocking);
    RUN(other_sizes);
    RUN(report);
    RUN(metrics);
    return 0;
}
