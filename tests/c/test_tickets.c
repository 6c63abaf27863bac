/* The keys of tickets, which several servers share. */
#include "tls.h"

#define KEY NS_TLS_TICKET_KEY_LEN

static unsigned char keys[17 * KEY];

static ns_server *server_of(int which, ns_tls *tls)
{
    ns_config *config = mode(which);
    CHECK_IS(ns_config_set_tls(config, tls), NS_OK);
    return SERVE(config, echo, NULL);
}

/* Whether openssl says that this visit resumed a session. */
static int resumes(const ns_server *server, const char *version, const char *options)
{
    static char heard[1 << 16], rest[1 << 12];
    char all[256];
    command c;
    snprintf(all, sizeof all, "%s %s", version, options);
    c = start_client(server, all);
    tell(c, "hello\n");
    hear_command(c, "\nhello\n", heard, sizeof heard); /* behind the tickets */
    tell(c, "Q\n");
    finish_command(c, rest, sizeof rest);
    if (strstr(heard, "Reused, TLSv1.") != NULL)
        return 1;
    CONTAINS(heard, "New, TLSv1.");
    return 0;
}

/* E5, TK4: Another length is an error; an object that is not in use yet remembers it. */
static void arguments(void)
{
    static const size_t bad[] = {0, 1, KEY - 1, KEY + 1, 17 * KEY, SIZE_MAX};
    ns_config *config;
    ns_error *err;
    ns_tls *tls = tls_of("server.pem", "server-key.pem");
    CHECK_IS(KEY, 80);
    CHECK_IS(ns_tls_set_ticket_keys(NULL, keys, KEY), NS_ERR_INVALID);
    CHECK_IS(ns_tls_set_ticket_keys(tls, keys, KEY), NS_OK);
    CHECK_IS(ns_tls_set_ticket_keys(tls, keys, 16 * KEY), NS_OK);
    ns_tls_free(tls);
    for (size_t i = 0; i <= sizeof bad / sizeof *bad; i++) {
        tls = tls_of("server.pem", "server-key.pem");
        if (i < sizeof bad / sizeof *bad)
            CHECK_IS(ns_tls_set_ticket_keys(tls, keys, bad[i]), NS_ERR_INVALID);
        else
            CHECK_IS(ns_tls_set_ticket_keys(tls, NULL, KEY), NS_ERR_INVALID);
        config = with_tls(ns_config_new(), tls);
        CHECK(ns_server_new("127.0.0.1:0", echo, NULL, NULL, config, &err) == NULL);
        ERROR_IS(err, NS_ERR_INVALID, "TLS settings", "ticket keys");
        ns_config_free(config);
    }
}

/* TK1, TK2, TK3, TK4: Two servers share keys, which rotate while they serve. */
static void rotation(void)
{
    static const char *versions[] = {"-tls1_2", "-tls1_3"};
    for (int i = 0; i < 4; i++) {
        const char *version = versions[i / 2];
        ns_tls *tls[2], *other = tls_of("server.pem", "server-key.pem");
        ns_server *servers[2];
        ns_config *config;
        for (int k = 0; k < 2; k++) {
            tls[k] = tls_of("server.pem", "server-key.pem");
            CHECK_IS(ns_tls_set_ticket_keys(tls[k], keys, KEY), NS_OK);
            servers[k] = server_of(i % 2, tls[k]);
        }
        CHECK_IS(resumes(servers[0], version, "-sess_out c-session.pem"), 0);
        CHECK_IS(resumes(servers[1], version, "-sess_in c-session.pem"), 1);
        CHECK_IS(ns_tls_set_ticket_keys(tls[1], keys, 2 * KEY), NS_OK);
        CHECK_IS(resumes(servers[1], version, "-sess_in c-session.pem"), 1);
        CHECK_IS(ns_tls_set_ticket_keys(tls[1], keys + KEY, KEY), NS_OK);
        CHECK_IS(resumes(servers[1], version, "-sess_in c-session.pem"), 0);
        /* What it does not take changes nothing, for this server and for new ones. */
        CHECK_IS(ns_tls_set_ticket_keys(tls[0], keys, KEY - 1), NS_ERR_INVALID);
        CHECK_IS(ns_tls_set_ticket_keys(tls[0], NULL, KEY), NS_ERR_INVALID);
        CHECK_IS(resumes(servers[0], version, "-sess_in c-session.pem"), 1);
        CHECK_IS(ns_server_free(servers[1]), NS_OK);
        servers[1] = server_of(i % 2, tls[0]);
        CHECK_IS(resumes(servers[1], version, "-sess_in c-session.pem"), 1);
        /* A reload with the keys of before. */
        CHECK_IS(ns_tls_set_ticket_keys(other, keys, KEY), NS_OK);
        CHECK_IS(ns_server_reload_tls(servers[1], other, NULL), NS_OK);
        CHECK_IS(resumes(servers[1], version, "-sess_in c-session.pem"), 1);
        for (int k = 0; k < 2; k++) {
            ns_tls_free(tls[k]);
            CHECK_IS(ns_server_free(servers[k]), NS_OK);
        }
        ns_tls_free(other);
        /* TLS without tickets has no use for keys. */
        tls[0] = tls_of("server.pem", "server-key.pem");
        CHECK_IS(ns_tls_set_tickets(tls[0], 0), NS_OK);
        CHECK_IS(ns_tls_set_ticket_keys(tls[0], keys, KEY), NS_OK);
        config = with_tls(mode(i % 2), tls[0]);
        servers[0] = SERVE(config, echo, NULL);
        CHECK_IS(resumes(servers[0], version, "-sess_in c-session.pem"), 0);
        CHECK_IS(ns_server_free(servers[0]), NS_OK);
    }
}

int main(void)
{
    use_certificates();
    for (size_t i = 0; i < sizeof keys; i++)
        keys[i] = (unsigned char)(i / KEY * 31 + i);
    RUN(arguments);
    RUN(rotation);
    return 0;
}
