/* The PROXY protocol: settings, announced addresses, extras, and what is refused. */
#include "check.h"

static const char line[] = "PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n";

/* A header of version 2 over TCP and IPv4 with an authority; it ends with its last byte. */
static const unsigned char binary[] = {
    '\r', '\n', '\r', '\n', 0,   '\r', '\n', 'Q', 'U', 'I', 'T', '\n', 0x21, 0x11, 0, 19,
    192,  0,    2,    1,    198, 51,   100,  2,   0,   80,  1,   187,  2,    0,    4, 'h',
    'o',  's',  't'};

static event refusals = EVENT;
static event others = EVENT;
static char sentence[200];

/* Sends the addresses, as text and as structures, and the authority. */
static int32_t tell(ns_server *server, ns_socket *socket, void *user_data)
{
    char peer[64], local[64], transport[64], text[256];
    struct sockaddr_storage room;
    struct sockaddr_in *address = (struct sockaddr_in *)&room;
    char extra[8] = "none";
    int64_t n = ns_socket_proxy_tlv(socket, NS_PROXY_TLV_AUTHORITY, NULL, 0);
    (void)server, (void)user_data;
    CHECK(ns_socket_peer(socket, peer, sizeof peer) < sizeof peer);
    CHECK(ns_socket_local(socket, local, sizeof local) < sizeof local);
    CHECK(ns_socket_transport_peer(socket, transport, sizeof transport) < sizeof transport);
    CHECK(strncmp(transport, "127.0.0.1:", 10) == 0);
    CHECK(strcmp(peer, transport) != 0);
    CHECK_IS(ns_socket_peer_addr(socket, &room, sizeof room), sizeof *address);
    CHECK_IS(address->sin_family, AF_INET);
    CHECK_IS(ntohl(address->sin_addr.s_addr), 0xC0000201);
    CHECK_IS(ns_socket_local_addr(socket, &room, sizeof room), sizeof *address);
    CHECK_IS(ntohs(address->sin_port), 443);
    if (n >= 0) {
        CHECK_IS(n, 4);
        memset(extra, 'x', sizeof extra);
        CHECK_IS(ns_socket_proxy_tlv(socket, NS_PROXY_TLV_AUTHORITY, extra, 2), 4);
        CHECK_IS(memcmp(extra, "hoxx", 4), 0);
        CHECK_IS(ns_socket_proxy_tlv(socket, NS_PROXY_TLV_AUTHORITY, extra, sizeof extra), 4);
        extra[4] = 0;
    } else {
        CHECK_IS(n, NS_ERR_STATE);
    }
    CHECK_IS(ns_socket_proxy_tlv(socket, NS_PROXY_TLV_SSL, extra, 0), NS_ERR_STATE);
    CHECK_IS(ns_socket_proxy_tlv(socket, 256, extra, 0), NS_ERR_INVALID);
    CHECK_IS(ns_socket_proxy_tlv(socket, -1, extra, 0), NS_ERR_INVALID);
    CHECK_IS(ns_socket_proxy_tlv(NULL, 2, extra, 0), NS_ERR_INVALID);
    CHECK_IS(ns_socket_transport_peer(NULL, extra, 0), 0);
    snprintf(text, sizeof text, "%s %s %s;", peer, local, extra);
    CHECK_IS(ns_socket_send(socket, text, strlen(text)), NS_OK);
    return 0;
}

static int32_t refuse(ns_server *server, ns_socket *socket, const ns_error *error, void *user_data)
{
    (void)server, (void)user_data;
    CHECK_IS(ns_error_status(error), NS_ERR_PROXY);
    CHECK_IS(ns_socket_send(socket, "no", 2), NS_ERR_CLOSED);
    snprintf(sentence, sizeof sentence, "%s", ns_error_message(error));
    event_add(&refusals);
    return 0;
}

static void closed(ns_server *server, ns_socket *socket, int32_t reason, void *user_data)
{
    (void)server, (void)socket, (void)user_data;
    CHECK(reason != NS_CLOSE_PROXY);
    event_add(&others);
}

static ns_server *behind_a_proxy(int mode)
{
    ns_config *config = mode ? non_blocking() : ns_config_new();
    CHECK_IS(ns_config_set_max_thread(config, 2), NS_OK);
    CHECK_IS(ns_config_set_proxy_protocol(config, NS_PROXY_V1 | NS_PROXY_V2), NS_OK);
    CHECK_IS(ns_config_add_trusted_proxy(config, "127.0.0.0/8"), NS_OK);
    CHECK_IS(ns_config_set_proxy_timeout_ms(config, 300), NS_OK);
    CHECK_IS(ns_config_set_on_open(config, tell, NULL, NULL), NS_OK);
    CHECK_IS(ns_config_set_on_close(config, closed, NULL, NULL), NS_OK);
    CHECK_IS(ns_config_set_exception_handler(config, refuse, NULL, NULL), NS_OK);
    return SERVE(config, echo, NULL);
}

/* PP2, PP3, PP4, PP7: Both versions, byte by byte and together with data. */
static void announced(void)
{
    for (int mode = 0; mode < 2; mode++) {
        ns_server *server = behind_a_proxy(mode);
        int fd = client(ns_server_port(server));
        for (size_t i = 0; i < strlen(line); i++)
            CHECK_IS(send(fd, line + i, 1, 0), 1);
        HEAR(fd, "192.0.2.1:56324 198.51.100.2:443 none;");
        say(fd, "hello");
        HEAR(fd, "hello");
        close(fd);

        char together[sizeof binary + 5];
        memcpy(together, binary, sizeof binary);
        memcpy(together + sizeof binary, "hello", 5);
        fd = client(ns_server_port(server));
        CHECK_IS(send(fd, together, sizeof together, 0), sizeof together);
        HEAR(fd, "192.0.2.1:80 198.51.100.2:443 host;hello");
        close(fd);
        CHECK_IS(ns_server_free(server), NS_OK);
    }
}

/* PP5, PP6: Each bad input has its status, sentence and count, and leaves nothing behind. */
static void refused(void)
{
    static const struct {
        const char *bytes, *why;
    } bad[] = {
        {"GET / HTTP/1.1\r\n", "it begins as neither version does"},
        {"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n", "LF without CR"},
        {"PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n", "its source is no address"},
        {"PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n", "it has no port"},
        {"PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n", "it has no port"},
        {"PROXY TCP4 192.0.2.1 2001:db8::1 1 2\r\n", "its destination is no address"},
        {"PROXY UNKNOWN xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
         "xxxxxxxxxxxxxxxxxxxxxx",
         "its first 107 bytes have no CRLF"},
        {"", "did not come in time"},
        {"PROXY TCP4", "did not come in time"},
    };
    /* The byte of `binary` to change, its value, and the reason. */
    static const struct {
        int at, value;
        const char *why;
    } changed[] = {
        {12, 0x11, "its version is unknown"},
        {12, 0x2F, "its command is unknown"},
        {13, 0x12, "it is of datagrams"},
        {13, 0x41, "its address family is unknown"},
        {14, 0xFF, "it is longer than 4096 bytes"},
        {15, 11, "it is shorter than its addresses"},
        {30, 5, "an extra of it is longer than the header"},
    };
    enum { BAD = sizeof bad / sizeof *bad, CHANGED = sizeof changed / sizeof *changed };
    for (int mode = 0; mode < 2; mode++) {
        ns_server *server = behind_a_proxy(mode);
        int before = event_count(&refusals), closes = event_count(&others);
        ns_stats stats;
        char byte;
        for (int i = 0; i < BAD + CHANGED; i++) {
            int fd = client(ns_server_port(server));
            const char *why = i < BAD ? bad[i].why : changed[i - BAD].why;
            if (i < BAD) {
                if (*bad[i].bytes)
                    say(fd, bad[i].bytes);
            } else {
                unsigned char header[sizeof binary];
                memcpy(header, binary, sizeof binary);
                header[changed[i - BAD].at] = (unsigned char)changed[i - BAD].value;
                CHECK_IS(send(fd, header, sizeof header, MSG_NOSIGNAL), sizeof header);
            }
            CHECK(recv(fd, &byte, 1, 0) <= 0);
            close(fd);
            EVENT_WAIT(&refusals, before + i + 1);
            if (strstr(sentence, why) == NULL)
                fail(__FILE__, __LINE__, sentence);
        }
        WAIT_UNTIL(ns_server_stats(server, &stats, sizeof stats) == NS_OK && stats.open == 0);
        CHECK_IS(stats.closed[NS_CLOSE_PROXY], BAD + CHANGED);
        CHECK_IS(event_count(&others), closes);
        CHECK_IS(event_count(&refusals), before + BAD + CHANGED);
        CHECK_IS(ns_server_free(server), NS_OK);
    }
}

/* PP8, O1, O2, O3: The settings, their defaults, and what is wrong with them. */
static void settings(void)
{
    char text[64];
    ns_config *config = ns_config_new();
    ns_error *err = NULL;
    ns_server *server;
    CHECK_IS(ns_config_proxy_protocol(config), 0);
    CHECK_IS(ns_config_proxy_timeout_ms(config), 3000);
    CHECK_IS(ns_config_proxy_others(config), 0);
    CHECK_IS(ns_config_trusted_proxies(config, text, sizeof text), 0);
    CHECK_TEXT(text, "");
    CHECK_IS(ns_config_set_proxy_protocol(config, NS_PROXY_V2), NS_OK);
    CHECK_IS(ns_config_proxy_protocol(config), NS_PROXY_V2);
    CHECK(ns_server_new("0", echo, NULL, NULL, config, &err) == NULL);
    CHECK_IS(ns_error_status(err), NS_ERR_INVALID);
    CHECK(strstr(ns_error_message(err), "no proxy is trusted") != NULL);
    ns_error_free(err);

    CHECK_IS(ns_config_add_trusted_proxy(config, "10.0.0.0/8"), NS_OK);
    CHECK_IS(ns_config_add_trusted_proxy(config, "::1"), NS_OK);
    CHECK_IS(ns_config_add_trusted_proxy(config, "unix"), NS_OK);
    CHECK_IS(ns_config_trusted_proxies(config, text, sizeof text), 21);
    CHECK_TEXT(text, "10.0.0.0/8, ::1, unix");
    CHECK_IS(ns_config_set_proxy_others(config, 1), NS_OK);
    CHECK_IS(ns_config_set_proxy_timeout_ms(config, 0), NS_OK);
    CHECK_IS(ns_config_proxy_others(config), 1);
    CHECK_IS(ns_config_proxy_timeout_ms(config), 0);
    server = ns_server_new("0", echo, NULL, NULL, config, &err);
    CHECK(server != NULL && err == NULL);
    CHECK_IS(ns_config_add_trusted_proxy(config, "::2"), NS_ERR_STATE);
    CHECK_IS(ns_server_set_service_proxy(server, 0, 0, NULL), NS_OK);
    CHECK_IS(ns_server_set_service_proxy(server, 0, 4, &err), NS_ERR_INVALID);
    CHECK(strstr(ns_error_message(err), "0 to 3, not 4") != NULL);
    ns_error_free(err);
    CHECK_IS(ns_server_set_service_proxy(server, 1, 0, NULL), NS_ERR_INVALID);
    CHECK_IS(ns_server_set_service_proxy(NULL, 0, 0, NULL), NS_ERR_INVALID);
    CHECK_IS(ns_server_free(server), NS_OK);

    CHECK_IS(ns_config_set_proxy_protocol(config, 4), NS_ERR_INVALID);
    CHECK_IS(ns_config_set_proxy_protocol(config, -1), NS_ERR_INVALID);
    CHECK_IS(ns_config_set_proxy_protocol(NULL, 1), NS_ERR_INVALID);
    CHECK_IS(ns_config_set_proxy_others(config, 2), NS_ERR_INVALID);
    CHECK_IS(ns_config_set_proxy_timeout_ms(config, UINT32_MAX), NS_ERR_INVALID);
    CHECK_IS(ns_config_add_trusted_proxy(config, NULL), NS_ERR_INVALID);
    CHECK_IS(ns_config_add_trusted_proxy(config, "10.0.0.1/8"), NS_ERR_INVALID);
    CHECK_IS(ns_config_trusted_proxies(NULL, text, sizeof text), 0);
    /* The first of these failures is remembered. */
    CHECK(ns_server_new("0", echo, NULL, NULL, config, NULL) == NULL);
    ns_config_free(config);
    CHECK_TEXT(ns_status_name(NS_ERR_PROXY), "NS_ERR_PROXY");
    CHECK_TEXT(ns_close_reason_name(NS_CLOSE_PROXY), "proxy");
}

int main(void)
{
    RUN(announced);
    RUN(refused);
    RUN(settings);
    return 0;
}
