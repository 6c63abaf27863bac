/* H12: A program unloads the library while a thread that used it goes on. Prints what app.c prints;
 * the arguments are the library, a certificate and its key. */
#define _POSIX_C_SOURCE 200809L
#include <dlfcn.h>
#include <netserver.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

static char **arguments;
static void *library;
static pthread_barrier_t used, unloaded;
static char text[64];

/* Calls are made by their addresses. */
static void find(const char *name, void *function) {
    void *found = dlsym(library, name);
    memcpy(function, &found, sizeof found);
}

static int32_t handler(ns_server *server, ns_socket *socket, void *user_data) {
    (void)server, (void)socket, (void)user_data;
    return 0;
}

/* Makes a server with TLS, whose cryptography gives the thread a destructor. */
static void use_library(void) {
    ns_config *(*new_config)(void), *config;
    ns_tls *(*new_tls)(void), *tls;
    void (*free_config)(ns_config *), (*free_tls)(ns_tls *);
    ns_status (*add)(ns_tls *, const char *, const char *, const char *, ns_error **);
    ns_status (*set_tls)(ns_config *, const ns_tls *), (*free_server)(ns_server *);
    ns_server *(*new_server)(const char *, ns_handler_fn, void *, ns_drop_fn, const ns_config *,
                             ns_error **),
        *server;
    const char *(*version)(void);
    find("ns_config_new", &new_config), find("ns_config_free", &free_config);
    find("ns_tls_new", &new_tls), find("ns_tls_free", &free_tls);
    find("ns_tls_add_cert_file", &add), find("ns_config_set_tls", &set_tls);
    find("ns_server_new", &new_server), find("ns_server_free", &free_server);
    find("ns_version_string", &version);
    config = new_config(), tls = new_tls();
    if (add(tls, NULL, arguments[2], arguments[3], NULL) == NS_OK && set_tls(config, tls) == NS_OK) {
        server = new_server("127.0.0.1:0", handler, NULL, NULL, config, NULL);
        if (server != NULL && free_server(server) == NS_OK)
            snprintf(text, sizeof text, "netserver %s: hello", version());
    }
    free_config(config), free_tls(tls);
}

static void *thread(void *unused) {
    use_library();
    pthread_barrier_wait(&used);
    pthread_barrier_wait(&unloaded);
    return unused; /* the destructor */
}

int main(int argc, char **argv) {
    pthread_t id;
    arguments = argv;
    library = argc == 4 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : NULL;
    if (library == NULL)
        return fprintf(stderr, "%s\n", argc == 4 ? dlerror() : "three arguments"), 1;
    pthread_barrier_init(&used, NULL, 2);
    pthread_barrier_init(&unloaded, NULL, 2);
    if (pthread_create(&id, NULL, thread, NULL) != 0)
        return 1;
    pthread_barrier_wait(&used);
    if (dlclose(library) != 0)
        return 1;
    pthread_barrier_wait(&unloaded);
    if (pthread_join(id, NULL) != 0)
        return 1;
    puts(text);
    return 0;
}
