/*
 * What the tests of TLS share. Their clients are openssl's, their certificates in the folder
 * NS_TEST_CERTS, which tests/make-certs fills.
 */
#ifndef TLS_H
#define TLS_H

#include "check.h"

#include <spawn.h>
#include <sys/wait.h>

extern char **environ;

static inline ns_tls *tls_of(const char *chain, const char *key)
{
    ns_tls *tls = ns_tls_new();
    ns_error *err;
    if (ns_tls_add_cert_file(tls, NULL, chain, key, &err) != NS_OK)
        fail(__FILE__, __LINE__, ns_error_message(err));
    CHECK(err == NULL);
    return tls;
}

/* Sets TLS; takes the TLS object away. */
static inline ns_config *with_tls(ns_config *config, ns_tls *tls)
{
    CHECK_IS(ns_config_set_tls(config, tls), NS_OK);
    ns_tls_free(tls);
    return config;
}

static inline void contains(const char *text, const char *part, const char *file, int line)
{
    if (strstr(text, part) == NULL) {
        fprintf(stderr, "%s:%d: no \"%s\" in: %s\n", file, line, part, text);
        _exit(1);
    }
}

#define CONTAINS(text, part) contains(text, part, __FILE__, __LINE__)

static inline void check_error(ns_error *err, ns_status status, const char *words[2],
                               const char *file, int line)
{
    same(ns_error_status(err), status, ns_error_message(err), file, line);
    for (int i = 0; i < 2; i++)
        contains(ns_error_message(err), words[i], file, line);
    ns_error_free(err);
}

/* The error has this status, and its sentence these two words. */
#define ERROR_IS(err, status, first, second) \
    check_error(err, status, (const char *[]){first, second}, __FILE__, __LINE__)

static inline size_t load(const char *name, char *buf, size_t size)
{
    FILE *file = fopen(name, "rb");
    size_t length;
    CHECK(file != NULL);
    length = fread(buf, 1, size, file);
    CHECK(length < size);
    fclose(file);
    return length;
}

/* A command of the shell with pipes to its input and from its output. */
typedef struct {
    pid_t pid;
    int in, out;
} command;

static inline command start_command(const char *text)
{
    char *argv[] = {"sh", "-c", (char *)text, NULL};
    posix_spawn_file_actions_t actions;
    command result;
    int in[2], out[2];
    CHECK_IS(pipe(in), 0);
    CHECK_IS(pipe(out), 0);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, in[0], 0);
    posix_spawn_file_actions_adddup2(&actions, out[1], 1);
    for (int i = 0; i < 2; i++) {
        posix_spawn_file_actions_addclose(&actions, in[i]);
        posix_spawn_file_actions_addclose(&actions, out[i]);
    }
    CHECK_IS(posix_spawn(&result.pid, "/bin/sh", &actions, NULL, argv, environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    close(in[0]);
    close(out[1]);
    result.in = in[1];
    result.out = out[0];
    return result;
}

/* openssl's client for a server, with options. */
static inline command start_client(const ns_server *server, const char *options)
{
    char text[512];
    snprintf(text, sizeof text,
             "exec openssl s_client -connect 127.0.0.1:%u -CAfile ca.pem %s 2>&1",
             (unsigned)ns_server_port(server), options);
    return start_command(text);
}

/* The output of a command, when it has ended; `kept` has room for `size` bytes. */
static inline void finish_command(command c, char *kept, size_t size)
{
    size_t length = 0;
    ssize_t n;
    while ((n = read(c.out, kept + length, size - 1 - length)) > 0)
        length += (size_t)n;
    kept[length] = 0;
    close(c.in);
    close(c.out);
    CHECK_IS(waitpid(c.pid, NULL, 0), c.pid);
}

/* A client whose handshake failed may be gone by now. */
static inline void tell(command c, const char *text)
{
    CHECK(write(c.in, text, strlen(text)) > 0 || errno == EPIPE);
}

/* Until it printed this; `kept` has it all. */
static inline void hear_command(command c, const char *expected, char *kept, size_t size)
{
    size_t length = 0;
    kept[0] = 0;
    while (strstr(kept, expected) == NULL) {
        ssize_t n = read(c.out, kept + length, size - 1 - length);
        if (n <= 0)
            fail(__FILE__, __LINE__, kept);
        length += (size_t)n;
        kept[length] = 0;
    }
}

static inline void run_client(const ns_server *server, const char *options, const char *say,
                              char *heard, size_t size)
{
    command c = start_client(server, options);
    tell(c, say);
    finish_command(c, heard, size);
}

/* -- servers ---------------------------------------------------------------- */

static inline ns_config *mode(int non_blocking_mode)
{
    return non_blocking_mode ? non_blocking() : ns_config_new();
}

/* Every setter of an object that is in use. */
static inline void check_frozen(ns_tls *tls)
{
    static char chain[1 << 16], key[1 << 16];
    const char *protocols[] = {"h2"};
    ns_error *err;
    size_t chain_length = load("server.pem", chain, sizeof chain);
    size_t key_length = load("server-key.pem", key, sizeof key);
    CHECK_IS(ns_tls_add_cert_file(tls, NULL, "server.pem", "server-key.pem", &err), NS_ERR_STATE);
    ERROR_IS(err, NS_ERR_STATE, "in use", "");
    CHECK_IS(ns_tls_add_cert_pem(tls, NULL, chain, chain_length, key, key_length, NULL),
             NS_ERR_STATE);
    CHECK_IS(ns_tls_set_client_ca_file(tls, "ca.pem", 1, NULL), NS_ERR_STATE);
    CHECK_IS(ns_tls_set_client_ca_pem(tls, chain, chain_length, 1, NULL), NS_ERR_STATE);
    CHECK_IS(ns_tls_set_alpn(tls, protocols, 1), NS_ERR_STATE);
    CHECK_IS(ns_tls_set_min_version(tls, NS_TLS_1_3), NS_ERR_STATE);
    CHECK_IS(ns_tls_set_session_cache(tls, 1), NS_ERR_STATE);
}

static inline void use_certificates(void)
{
    const char *folder = getenv("NS_TEST_CERTS");
    if (folder == NULL || chdir(folder) != 0) {
        fputs("NS_TEST_CERTS is not the folder that tests/make-certs filled\n", stderr);
        exit(1);
    }
    signal(SIGPIPE, SIG_IGN); /* of the pipes to the clients */
}

#endif
