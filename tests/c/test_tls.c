/* Certificates and what is wrong with them, the TLS object, its config and server. */
#include "tls.h"

#include <sys/stat.h>

static event dropped = EVENT;

static void drop(void *user_data)
{
    (void)user_data;
    event_add(&dropped);
}

/* -- arguments -------------------------------------------------------------- */

/* E5, A20.3: NULL, and an object that is not there: what was to speak TLS does not speak plain
 * text. */
static void null_tls(void)
{
    ns_config *config = ns_config_new();
    ns_error *err = NULL;
    ns_tls_info info;
    char text[8] = "former";

    ns_tls_free(NULL);
    CHECK_IS(ns_tls_add_cert_file(NULL, NULL, "server.pem", "server-key.pem", NULL),
             NS_ERR_INVALID);
    CHECK_IS(ns_tls_add_cert_file(NULL, NULL, "server.pem", "server-key.pem", &err),
             NS_ERR_INVALID);
    ERROR_IS(err, NS_ERR_INVALID, "TLS", "NULL");
    CHECK_IS(ns_tls_add_cert_pem(NULL, NULL, text, 1, text, 1, &err), NS_ERR_INVALID);
    ERROR_IS(err, NS_ERR_INVALID, "TLS", "NULL");
    CHECK_IS(ns_tls_set_client_ca_file(NULL, "ca.pem", 1, &err), NS_ERR_INVALID);
    ERROR_IS(err, NS_ERR_INVALID, "TLS", "NULL");
    CHECK_IS(ns_tls_set_client_ca_pem(NULL, text, 1, 1, &err), NS_ERR_INVALID);
    ERROR_IS(err, NS_ERR_INVALID, "TLS", "NULL");
    CHECK_IS(ns_tls_set_alpn(NULL, NULL, 0), NS_ERR_INVALID);
    CHECK_IS(ns_tls_set_min_version(NULL, NS_TLS_1_2), NS_ERR_INVALID);
    CHECK_IS(ns_tls_set_session_cache(NULL, 0), NS_ERR_INVALID);
    CHECK_IS(ns_tls_set_tickets(NULL, 0), NS_ERR_INVALID);
    CHECK_IS(ns_tls_add_cert_der(NULL, NULL, NULL, NULL, 0, NULL, 0, &err), NS_ERR_INVALID);
    ERROR_IS(err, NS_ERR_INVALID, "TLS", "NULL");

    CHECK_IS(ns_config_set_tls(NULL, NULL), NS_ERR_INVALID);
    CHECK_IS(ns_config_clear_tls(NULL), NS_ERR_INVALID);
    CHECK_IS(ns_config_clear_tls(config), NS_OK);
    CHECK_IS(ns_config_set_tls(config, NULL), NS_ERR_INVALID);
    /* It is remembered: what has no TLS object is no plain-text server. */
    CHECK_IS(ns_config_clear_tls(config), NS_OK);
    CHECK(ns_server_new("127.0.0.1:0", echo, NULL, NULL, config, &err) == NULL);
    ERROR_IS(err, NS_ERR_INVALID, "TLS", "NULL");
    ns_config_free(config);

    CHECK_IS(ns_server_reload_tls(NULL, NULL, NULL), NS_ERR_INVALID);
    CHECK_IS(ns_server_reload_tls(NULL, NULL, &err), NS_ERR_INVALID);
    ERROR_IS(err, NS_ERR_INVALID, "server", "NULL");

    CHECK_IS(ns_socket_starttls(NULL, NULL, NULL, 0), NS_ERR_INVALID);
    CHECK_IS(ns_socket_tls_info(NULL, &info, sizeof info), NS_ERR_INVALID);
    CHECK_IS(ns_socket_tls_peer_certificate(NULL, text, sizeof text), 0);
    CHECK_TEXT(text, "former");
    CHECK_IS(ns_socket_tls_peer_subject(NULL, text, sizeof text), 0);
    CHECK_TEXT(text, "");
}

/* K22: What is wrong with arguments alone; each in an object of its own. */
static void nonsense_arguments(void)
{
    char long_name[300], long_protocol[257];
    const char *bad_names[] = {"",     ".",     "*",       "*.",      "a..b",   "a b",
                               "a.*.b", "*a.b", "http://a", "\xff\xfe", ".a",    long_name};
    const char *protocols[] = {"h2", NULL};
    ns_error *err;
    ns_tls *tls = ns_tls_new();

    memset(long_name, 'a', sizeof long_name - 1);
    long_name[sizeof long_name - 1] = 0;
    memset(long_protocol, 'p', 256);
    long_protocol[256] = 0;

    for (size_t i = 0; i < sizeof bad_names / sizeof *bad_names; i++) {
        CHECK_IS(ns_tls_add_cert_file(tls, bad_names[i], "server.pem", "server-key.pem", &err),
                 NS_ERR_INVALID);
        ERROR_IS(err, NS_ERR_INVALID, "server name", "");
    }
    CHECK_IS(ns_tls_add_cert_file(tls, NULL, NULL, "server-key.pem", &err), NS_ERR_INVALID);
    ERROR_IS(err, NS_ERR_INVALID, "chain", "NULL");
    CHECK_IS(ns_tls_add_cert_file(tls, NULL, "server.pem", NULL, &err), NS_ERR_INVALID);
    ERROR_IS(err, NS_ERR_INVALID, "key", "NULL");
    CHECK_IS(ns_tls_add_cert_file(tls, NULL, NULL, NULL, NULL), NS_ERR_INVALID);
    CHECK_IS(ns_tls_add_cert_pem(tls, NULL, NULL, 1, "x", 1, &err), NS_ERR_INVALID);
    ERROR_IS(err, NS_ERR_INVALID, "chain", "NULL");
    CHECK_IS(ns_tls_add_cert_pem(tls, NULL, "x", SIZE_MAX, "x", 1, &err), NS_ERR_INVALID);
    ERROR_IS(err, NS_ERR_INVALID, "chain", "");
    CHECK_IS(ns_tls_set_client_ca_file(tls, NULL, 1, &err), NS_ERR_INVALID);
    ERROR_IS(err, NS_ERR_INVALID, "path", "NULL");
    CHECK_IS(ns_tls_set_client_ca_file(tls, "ca.pem", 2, &err), NS_ERR_INVALID);
    ERROR_IS(err, NS_ERR_INVALID, "required", "2");
    CHECK_IS(ns_tls_set_client_ca_pem(tls, "x", 1, -1, &err), NS_ERR_INVALID);
    ERROR_IS(err, NS_ERR_INVALID, "required", "-1");
    CHECK_IS(ns_tls_set_client_ca_pem(tls, NULL, 1, 1, &err), NS_ERR_INVALID);
    ERROR_IS(err, NS_ERR_INVALID, "PEM", "NULL");

    CHECK_IS(ns_tls_set_alpn(tls, NULL, 1), NS_ERR_INVALID);
    CHECK_IS(ns_tls_set_alpn(tls, protocols, 2), NS_ERR_INVALID);
    CHECK_IS(ns_tls_set_alpn(tls, protocols, SIZE_MAX), NS_ERR_INVALID);
    protocols[1] = "";
    CHECK_IS(ns_tls_set_alpn(tls, protocols, 2), NS_ERR_INVALID);
    protocols[1] = long_protocol;
    CHECK_IS(ns_tls_set_alpn(tls, protocols, 2), NS_ERR_INVALID);
    CHECK_IS(ns_tls_set_min_version(tls, 0), NS_ERR_INVALID);
    CHECK_IS(ns_tls_set_min_version(tls, 0x0302), NS_ERR_INVALID);
    CHECK_IS(ns_tls_set_min_version(tls, INT32_MIN), NS_ERR_INVALID);
    CHECK_IS(ns_tls_set_tickets(tls, 2), NS_ERR_INVALID);
    CHECK_IS(ns_tls_set_session_cache(tls, ((size_t)1 << 20) + 1), NS_ERR_INVALID);
    CHECK_IS(ns_tls_set_session_cache(tls, SIZE_MAX), NS_ERR_INVALID);
    ns_tls_free(tls);
}

/* K22: All that is allowed, at its bounds. */
static void good_arguments(void)
{
    static char chain[1 << 16], key[1 << 16];
    char long_protocol[256];
    const char *protocols[] = {"h2", long_protocol};
    ns_error *err;
    ns_tls *tls = ns_tls_new();
    size_t chain_length, key_length;

    memset(long_protocol, 'p', 255);
    long_protocol[255] = 0;
    CHECK_IS(ns_tls_add_cert_file(tls, NULL, "chain.pem", "server-key.pem", NULL), NS_OK);
    CHECK_IS(ns_tls_add_cert_file(tls, NULL, "both.pem", "both.pem", NULL), NS_OK);
    CHECK_IS(ns_tls_add_cert_file(tls, "v1.example", "v1.pem", "v1-key.pem", NULL), NS_OK);
    CHECK_IS(ns_tls_add_cert_file(tls, "Expired.Example", "expired.pem", "expired-key.pem", NULL),
             NS_OK);
    CHECK_IS(ns_tls_add_cert_file(tls, "*.example.org", "wild.pem", "wild-key.pem", NULL), NS_OK);
    CHECK_IS(ns_tls_add_cert_file(tls, NULL, "rsa.pem", "rsa-key.pem", NULL), NS_OK);
    CHECK_IS(ns_tls_add_cert_file(tls, NULL, "rsa.pem", "rsa-key-pkcs1.pem", NULL), NS_OK);
    CHECK_IS(ns_tls_add_cert_file(tls, NULL, "server.pem", "server-key-sec1.pem", NULL), NS_OK);
    CHECK_IS(ns_tls_add_cert_file(tls, NULL, "ed25519.pem", "ed25519-key.pem", NULL), NS_OK);
    chain_length = load("chain.pem", chain, sizeof chain);
    key_length = load("server-key.pem", key, sizeof key);
    CHECK_IS(ns_tls_add_cert_pem(tls, "localhost", chain, chain_length, key, key_length, &err),
             NS_OK);
    CHECK(err == NULL);
    CHECK_IS(ns_tls_set_client_ca_file(tls, "ca.pem", 1, &err), NS_OK);
    CHECK_IS(ns_tls_set_client_ca_pem(tls, chain, chain_length, 0, NULL), NS_OK);
    CHECK_IS(ns_tls_set_alpn(tls, protocols, 2), NS_OK);
    CHECK_IS(ns_tls_set_alpn(tls, NULL, 0), NS_OK);
    CHECK_IS(ns_tls_set_min_version(tls, NS_TLS_1_3), NS_OK);
    CHECK_IS(ns_tls_set_min_version(tls, NS_TLS_1_2), NS_OK);
    CHECK_IS(ns_tls_set_session_cache(tls, 1000), NS_OK);
    CHECK_IS(ns_tls_set_session_cache(tls, 0), NS_OK);
    ns_tls_free(tls);
}

/* -- files that cannot be used ---------------------------------------------- */

/* From files and from memory: the error says which one is wrong, and how. */
static void bad_pair(const char *chain, const char *key, const char *culprit, const char *why)
{
    static char chain_text[1 << 16], key_text[1 << 16];
    struct stat info;
    ns_error *err;
    ns_tls *tls = ns_tls_new();
    CHECK_IS(ns_tls_add_cert_file(tls, NULL, chain, key, &err), NS_ERR_CERTIFICATE);
    ERROR_IS(err, NS_ERR_CERTIFICATE, culprit, why);
    CHECK_IS(ns_tls_add_cert_file(tls, NULL, chain, key, NULL), NS_ERR_CERTIFICATE);
    ns_tls_free(tls);

    if (stat(chain, &info) == 0 && S_ISREG(info.st_mode) && stat(key, &info) == 0 &&
        S_ISREG(info.st_mode)) {
        size_t chain_length = load(chain, chain_text, sizeof chain_text);
        size_t key_length = load(key, key_text, sizeof key_text);
        tls = ns_tls_new();
        CHECK_IS(ns_tls_add_cert_pem(tls, NULL, chain_text, chain_length, key_text, key_length,
                                     &err), NS_ERR_CERTIFICATE);
        ERROR_IS(err, NS_ERR_CERTIFICATE, culprit == chain ? "certificate chain" : "key", why);
        ns_tls_free(tls);
    }
}

static void bad_chain(const char *chain, const char *why)
{
    bad_pair(chain, "server-key.pem", chain, why);
}

static void bad_key(const char *key, const char *why)
{
    bad_pair("server.pem", key, key, why);
}

/* K20, A19.2, A19.4: The error says which file or text it is, which block, and what is wrong. */
static void bad_files(void)
{
    ns_error *err;
    ns_tls *tls = ns_tls_new();

    bad_chain("no-such-file.pem", "no such file");
    bad_chain("folder.pem", "directory");
    bad_pair("\xff", "server-key.pem", "\xef\xbf\xbd", "no such file"); /* any bytes; U+FFFD */
    bad_chain("empty.pem", "no certificate in it");
    bad_chain("text.pem", "no certificate in it");
    bad_chain("server-key.pem", "no certificate in it");
    bad_chain("bad-base64.pem", "bad PEM");
    bad_chain("cut.pem", "bad PEM");
    bad_chain("bad-der.pem", "not an X.509 certificate");

    bad_key("no-such-file.pem", "no such file");
    bad_key("folder.pem", "directory");
    bad_key("empty.pem", "no private key in it");
    bad_key("text.pem", "no private key in it");
    bad_key("ca.pem", "no private key in it");
    bad_key("encrypted-key.pem", "encrypted");
    bad_key("encrypted-sec1-key.pem", "encrypted");
    bad_key("second-key.pem", "is not that of");
    bad_key("rsa-key.pem", "is not that of");
    bad_key("bad-key.pem", "supported");
    bad_pair("ed448.pem", "ed448-key.pem", "ed448-key.pem", "supported");
    bad_pair("rsa-1024.pem", "rsa-1024-key.pem", "rsa-1024-key.pem", "1024 bits is too short");
    bad_pair("compressed.pem", "compressed-key.pem", "compressed.pem", "compressed point");
    bad_pair("explicit.pem", "explicit-key.pem", "explicit.pem", "explicit parameters");
    bad_pair("explicit.pem", "named-key.pem", "explicit.pem", "explicit parameters");

    if (geteuid() != 0) { /* who may read everything cannot be refused */
        CHECK_IS(chmod("text.pem", 0), 0);
        bad_chain("text.pem", "ermission denied");
        CHECK_IS(chmod("text.pem", 0600), 0);
    }
    CHECK_IS(ns_tls_add_cert_file(tls, NULL, "no-such-file.pem", "server-key.pem", &err),
             NS_ERR_CERTIFICATE);
    CHECK_IS(ns_error_os_code(err), ENOENT);
    ns_error_free(err);
    CHECK_IS(ns_tls_set_client_ca_file(tls, "no-such-file.pem", 1, &err), NS_ERR_CERTIFICATE);
    CHECK_IS(ns_error_os_code(err), ENOENT);
    ERROR_IS(err, NS_ERR_CERTIFICATE, "no-such-file.pem", "no such file");
    CHECK_IS(ns_tls_set_client_ca_file(tls, "empty.pem", 1, &err), NS_ERR_CERTIFICATE);
    ERROR_IS(err, NS_ERR_CERTIFICATE, "empty.pem", "no certificate in it");
    CHECK_IS(ns_tls_set_client_ca_file(tls, "server-key.pem", 1, &err), NS_ERR_CERTIFICATE);
    ERROR_IS(err, NS_ERR_CERTIFICATE, "server-key.pem", "no certificate in it");
    CHECK_IS(ns_tls_set_client_ca_file(tls, "bad-base64.pem", 0, &err), NS_ERR_CERTIFICATE);
    ERROR_IS(err, NS_ERR_CERTIFICATE, "bad-base64.pem", "bad PEM");
    CHECK_IS(ns_tls_set_client_ca_file(tls, "bad-der.pem", 0, &err), NS_ERR_CERTIFICATE);
    ERROR_IS(err, NS_ERR_CERTIFICATE, "bad-der.pem", "");
    CHECK_IS(ns_tls_set_client_ca_pem(tls, "", 0, 0, &err), NS_ERR_CERTIFICATE);
    ERROR_IS(err, NS_ERR_CERTIFICATE, "authorities", "no certificate");
    ns_tls_free(tls);
}

/* A19.1, A19.2: How files look that editors and consoles made, or that were joined. */
static void pem_forms(void)
{
    static char chain[1 << 14], key[1 << 14], text[1 << 16];
    static const char mark[] = "\xef\xbb\xbf";
    size_t length = load("chain.pem", chain, sizeof chain - 1);
    size_t key_length = load("server-key.pem", key, sizeof key - 1);
    ns_error *err;
    ns_tls *tls = ns_tls_new();
    char *end;

    chain[length] = key[key_length] = 0;
    snprintf(text, sizeof text, "%s%s", mark, chain);
    CHECK_IS(ns_tls_add_cert_pem(tls, NULL, text, strlen(text), key, key_length, NULL), NS_OK);
    CHECK_IS(ns_tls_set_client_ca_pem(tls, text, strlen(text), 1, NULL), NS_OK);
    snprintf(text, sizeof text, "%s%s%s", mark, key, mark);
    CHECK_IS(ns_tls_add_cert_pem(tls, NULL, chain, length, text, strlen(text), NULL), NS_OK);
    for (int what = 0; what < 2; what++) {
        const char *from = what == 0 ? chain : key;
        char *to = text;
        for (; *from != 0; *to++ = *from++)
            if (*from == '\n')
                to += sprintf(to, "\t \r");
        if (what == 0)
            CHECK_IS(ns_tls_add_cert_pem(tls, NULL, text, to - text, key, key_length, NULL), NS_OK);
        else
            CHECK_IS(ns_tls_add_cert_pem(tls, NULL, chain, length, text, to - text, NULL), NS_OK);
    }
    CHECK_IS(ns_tls_add_cert_file(tls, NULL, "server.pem", "two-keys.pem", NULL), NS_OK);

    /* Joined where the first had no line feed at its end. */
    end = strstr(strcpy(text, chain), "-----END CERTIFICATE-----\n-") + 25;
    memmove(end, end + 1, strlen(end));
    CHECK_IS(ns_tls_set_client_ca_pem(tls, text, strlen(text), 1, &err), NS_ERR_CERTIFICATE);
    ERROR_IS(err, NS_ERR_CERTIFICATE, "block 1", "bad PEM");
    CHECK_IS(ns_tls_add_cert_pem(tls, NULL, text, strlen(text), key, key_length, &err),
             NS_ERR_CERTIFICATE);
    ERROR_IS(err, NS_ERR_CERTIFICATE, "block 1", "bad PEM");
    /* A block that is not whole, behind one that is. */
    snprintf(text, sizeof text, "%s-----BEGIN CERTIFICATE-----\nAAAA\n", chain);
    CHECK_IS(ns_tls_set_client_ca_pem(tls, text, strlen(text), 1, &err), NS_ERR_CERTIFICATE);
    ERROR_IS(err, NS_ERR_CERTIFICATE, "block 3", "no end");
    snprintf(text, sizeof text, "%sAAAA\n-----END CERTIFICATE-----\n", chain);
    CHECK_IS(ns_tls_set_client_ca_pem(tls, text, strlen(text), 1, &err), NS_ERR_CERTIFICATE);
    ERROR_IS(err, NS_ERR_CERTIFICATE, "bad PEM", "no first line");
    snprintf(text, sizeof text, "%s-----BEGIN PKCS7-----\nAAAA\n-----END PKCS7-----\n", chain);
    CHECK_IS(ns_tls_set_client_ca_pem(tls, text, strlen(text), 1, &err), NS_ERR_CERTIFICATE);
    ERROR_IS(err, NS_ERR_CERTIFICATE, "block 3", "PKCS7");
    snprintf(text, sizeof text, "%s-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
             chain);
    CHECK_IS(ns_tls_set_client_ca_pem(tls, text, strlen(text), 1, &err), NS_ERR_CERTIFICATE);
    ERROR_IS(err, NS_ERR_CERTIFICATE, "block 3", "not an authority");
    CHECK_IS(ns_tls_add_cert_pem(tls, NULL, text, strlen(text), key, key_length, &err),
             NS_ERR_CERTIFICATE);
    ERROR_IS(err, NS_ERR_CERTIFICATE, "block 3", "not an X.509 certificate");
    ns_tls_free(tls);
}

/* A19.3: Certificates and keys as objects. */
static void der(void)
{
    static char certs[3][1 << 14], keys[3][1 << 14];
    const char *key_files[] = {"server-key.der", "server-key-sec1.der", "rsa-key-pkcs1.der"};
    const char *cert_files[] = {"server.der", "ca.der", "rsa.der"};
    const void *chain[101] = {certs[0], certs[1]}, *rsa[] = {certs[2]};
    size_t lengths[101], key_lengths[3];
    char encrypted[1 << 14], heard[4096];
    ns_error *err;
    ns_server *server;
    ns_tls *tls = ns_tls_new();

    for (int i = 0; i < 3; i++) {
        lengths[i] = load(cert_files[i], certs[i], sizeof certs[i]);
        key_lengths[i] = load(key_files[i], keys[i], sizeof keys[i]);
    }
    CHECK_IS(ns_tls_add_cert_der(tls, "other", rsa, lengths + 2, 1, keys[2], key_lengths[2], &err),
             NS_OK);
    CHECK(err == NULL);
    CHECK_IS(ns_tls_add_cert_der(tls, NULL, chain, lengths, 1, keys[1], key_lengths[1], NULL), NS_OK);
    CHECK_IS(ns_tls_add_cert_der(tls, NULL, chain, lengths, 2, keys[0], key_lengths[0], NULL), NS_OK);
    server = SERVE(with_tls(ns_config_new(), tls), echo, NULL);
    run_client(server, "-verify_return_error -brief", "Q\n", heard, sizeof heard);
    CONTAINS(heard, "Verification: OK");
    CHECK_IS(ns_server_free(server), NS_OK);

    tls = ns_tls_new();
    CHECK_IS(ns_tls_add_cert_der(tls, NULL, chain, lengths, 0, keys[0], key_lengths[0], &err),
             NS_ERR_CERTIFICATE);
    ERROR_IS(err, NS_ERR_CERTIFICATE, "no certificate", "");
    CHECK_IS(ns_tls_add_cert_der(tls, NULL, chain, lengths, 101, keys[0], key_lengths[0], &err),
             NS_ERR_INVALID);
    ERROR_IS(err, NS_ERR_INVALID, "too many", "");
    CHECK_IS(ns_tls_add_cert_der(tls, NULL, NULL, lengths, 1, keys[0], key_lengths[0], &err),
             NS_ERR_INVALID);
    ERROR_IS(err, NS_ERR_INVALID, "NULL", "");
    CHECK_IS(ns_tls_add_cert_der(tls, NULL, chain, NULL, 1, keys[0], key_lengths[0], &err),
             NS_ERR_INVALID);
    ERROR_IS(err, NS_ERR_INVALID, "NULL", "");
    CHECK_IS(ns_tls_add_cert_der(tls, NULL, chain, lengths, 1, NULL, 9, &err), NS_ERR_INVALID);
    ERROR_IS(err, NS_ERR_INVALID, "key", "NULL");
    CHECK_IS(ns_tls_add_cert_der(tls, "a b", chain, lengths, 1, keys[0], key_lengths[0], &err),
             NS_ERR_INVALID);
    ERROR_IS(err, NS_ERR_INVALID, "server name", "");
    lengths[1]--;
    CHECK_IS(ns_tls_add_cert_der(tls, NULL, chain, lengths, 2, keys[0], key_lengths[0], &err),
             NS_ERR_CERTIFICATE);
    ERROR_IS(err, NS_ERR_CERTIFICATE, "certificate 2", "not an X.509 certificate");
    CHECK_IS(ns_tls_add_cert_der(tls, NULL, chain, lengths, 1, keys[2], key_lengths[2], &err),
             NS_ERR_CERTIFICATE);
    ERROR_IS(err, NS_ERR_CERTIFICATE, "is not that of", "");
    CHECK_IS(ns_tls_add_cert_der(tls, NULL, chain, lengths, 1, encrypted,
                                 load("encrypted-key.der", encrypted, sizeof encrypted), &err),
             NS_ERR_CERTIFICATE);
    ERROR_IS(err, NS_ERR_CERTIFICATE, "encrypted", "");
    ns_tls_free(tls);
}

/* A20.4: PEM where a path or a name belongs is not shown, and a long name is cut. */
static void misplaced_text(void)
{
    static char key[1 << 16], chain[1 << 16], name[300];
    size_t length = load("server-key.pem", key, sizeof key - 1);
    ns_config *config = ns_config_new();
    ns_tls *tls = ns_tls_new();
    ns_error *errors[5] = {NULL};

    load("server.pem", chain, sizeof chain);
    key[length] = 0;
    CHECK_IS(ns_tls_add_cert_file(tls, NULL, key, "server-key.pem", &errors[0]),
             NS_ERR_CERTIFICATE);
    CHECK_IS(ns_tls_add_cert_file(tls, NULL, "server.pem", key, &errors[1]), NS_ERR_CERTIFICATE);
    CHECK_IS(ns_tls_add_cert_file(tls, key, "server.pem", "server-key.pem", &errors[2]),
             NS_ERR_INVALID);
    CHECK_IS(ns_tls_set_client_ca_file(tls, key, 1, &errors[3]), NS_ERR_CERTIFICATE);
    CHECK(ns_server_new(key, echo, NULL, NULL, config, &errors[4]) == NULL);
    for (int i = 0; i < 5; i++) {
        const char *message = ns_error_message(errors[i]);
        CONTAINS(message, "not shown");
        CHECK(strstr(message, "-----") == NULL && strchr(message, '\n') == NULL);
        ns_error_free(errors[i]);
    }
    memset(name, 'n', sizeof name - 1);
    name[50] = '\n';
    CHECK_IS(ns_tls_set_client_ca_file(tls, name, 1, &errors[0]), NS_ERR_CERTIFICATE);
    CHECK(strlen(ns_error_message(errors[0])) < 180);
    CHECK(strchr(ns_error_message(errors[0]), '\n') == NULL);
    ns_error_free(errors[0]);
    ns_config_free(config);
    ns_tls_free(tls);
}

/* A20.4: Nothing of a key is in what is said about it. */
static void secrets_are_kept(void)
{
    static char key[1 << 16];
    const char *files[] = {"second-key.pem", "encrypted-key.pem", "ed448-key.pem"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        ns_tls *tls = ns_tls_new();
        ns_error *err;
        size_t length = load(files[i], key, sizeof key);
        char *line = strchr(key, '\n') + 1;
        char part[17];
        CHECK_IS(ns_tls_add_cert_pem(tls, NULL, key, length, key, length, NULL),
                 NS_ERR_CERTIFICATE);
        CHECK_IS(ns_tls_add_cert_file(tls, NULL, "server.pem", files[i], &err),
                 NS_ERR_CERTIFICATE);
        memcpy(part, line, 16);
        part[16] = 0;
        CHECK(strstr(ns_error_message(err), part) == NULL);
        ns_error_free(err);
        ns_tls_free(tls);
    }
}

/* -- config and server ------------------------------------------------------ */

static void no_server(ns_tls *tls, ns_status status, const char *first, const char *second)
{
    ns_config *config = with_tls(ns_config_new(), tls);
    ns_error *err;
    int before = event_count(&dropped);
    CHECK(ns_server_new("127.0.0.1:0", echo, NULL, drop, config, &err) == NULL);
    ERROR_IS(err, status, first, second);
    CHECK_IS(event_count(&dropped), before + 1);
    ns_config_free(config);
}

/* K1: There is no plain text and no anonymous TLS instead. */
static void no_certificate(void)
{
    no_server(ns_tls_new(), NS_ERR_CERTIFICATE, "certificate", "key");
}

/* K22, A20.3: The first failure of a setter is said again by every use. */
static void unchecked_setters(void)
{
    const char *protocols[] = {""};
    ns_error *err;
    ns_server *server;
    ns_tls *tls = tls_of("server.pem", "server-key.pem");
    ns_tls_set_client_ca_file(tls, "no-such-file.pem", 1, NULL);
    ns_tls_set_min_version(tls, 7);
    no_server(tls, NS_ERR_CERTIFICATE, "no-such-file.pem", "no such file");

    tls = tls_of("server.pem", "server-key.pem");
    ns_tls_set_alpn(tls, protocols, 1);
    no_server(tls, NS_ERR_INVALID, "ALPN", "not valid");

    /* Also one that failed after the object was set in the config. */
    tls = tls_of("server.pem", "server-key.pem");
    ns_config *config = ns_config_new();
    CHECK_IS(ns_config_set_tls(config, tls), NS_OK);
    ns_tls_set_client_ca_file(tls, NULL, 1, NULL);
    CHECK(ns_server_new("127.0.0.1:0", echo, NULL, NULL, config, &err) == NULL);
    ERROR_IS(err, NS_ERR_INVALID, "path", "NULL");
    CHECK_IS(ns_config_clear_tls(config), NS_OK);
    server = SERVE(config, echo, NULL);
    CHECK_IS(ns_server_free(server), NS_OK);
    ns_tls_free(tls);
}

/* K19, A21.4: Setters are refused from the first use on, and a later server reports it. */
static void frozen(void)
{
    ns_tls *tls = tls_of("server.pem", "server-key.pem");
    ns_config *config = ns_config_new();
    ns_server *server;
    CHECK_IS(ns_config_set_tls(config, tls), NS_OK);
    CHECK_IS(ns_tls_set_min_version(tls, NS_TLS_1_2), NS_OK); /* not yet */
    server = ns_server_new("127.0.0.1:0", echo, NULL, NULL, config, NULL);
    CHECK(server != NULL);
    CHECK_IS(ns_config_clear_tls(config), NS_ERR_STATE);
    CHECK_IS(ns_config_set_tls(config, tls), NS_ERR_STATE);
    ns_config_free(config);
    check_frozen(tls);
    CHECK_IS(ns_server_free(server), NS_OK);
    check_frozen(tls); /* forever */
    /* A program that did not look at the status gets the error now. */
    no_server(tls, NS_ERR_STATE, "in use", "");
}

/* K19: Each of config, server and program has its share. */
static void shared(void)
{
    char heard[4096];
    ns_tls *tls = tls_of("server.pem", "server-key.pem");
    ns_tls *other = tls_of("second.pem", "second-key.pem");
    ns_config *configs[2] = {ns_config_new(), non_blocking()};
    ns_server *servers[2];
    CHECK_IS(ns_config_set_tls(configs[0], other), NS_OK);
    CHECK_IS(ns_config_set_tls(configs[0], tls), NS_OK); /* replaces */
    CHECK_IS(ns_config_set_tls(configs[1], tls), NS_OK);
    ns_tls_free(other);
    ns_tls_free(tls);
    for (int i = 0; i < 2; i++)
        servers[i] = SERVE(configs[i], echo, NULL);
    for (int i = 0; i < 2; i++) {
        run_client(servers[i], "-verify_return_error -brief", "Q\n", heard, sizeof heard);
        CONTAINS(heard, "Verification: OK");
        CHECK_IS(ns_server_free(servers[i]), NS_OK);
    }
    /* Never used. */
    ns_tls_free(tls_of("server.pem", "server-key.pem"));
    ns_config_free(with_tls(ns_config_new(), ns_tls_new()));
}

/* K7: Its default and its bounds. */
static void max_handshakes(void)
{
    ns_config *config = ns_config_new();
    CHECK_IS(ns_config_max_handshakes(config), 1024);
    CHECK_IS(ns_config_set_max_handshakes(config, 0), NS_OK);
    CHECK_IS(ns_config_max_handshakes(config), 0);
    CHECK_IS(ns_config_set_max_handshakes(config, UINT32_MAX), NS_OK);
    CHECK_IS(ns_config_max_handshakes(config), UINT32_MAX);
    CHECK_IS(ns_config_set_max_handshakes(NULL, 1), NS_ERR_INVALID);
    CHECK_IS(ns_config_max_handshakes(NULL), 0);
    ns_config_free(config);
}

int main(void)
{
    use_certificates();
    RUN(null_tls);
    RUN(nonsense_arguments);
    RUN(good_arguments);
    RUN(bad_files);
    RUN(pem_forms);
    RUN(der);
    RUN(misplaced_text);
    RUN(secrets_are_kept);
    RUN(no_certificate);
    RUN(unchecked_setters);
    RUN(frozen);
    RUN(shared);
    RUN(max_handshakes);
    return 0;
}
