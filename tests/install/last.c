/* A16.2: Calls work in the last moments of a thread: a server runs in its last destructor, whichever
 * Rust the library is made with. Prints what app.c prints. */
#include <netserver.h>
#include <pthread.h>
#include <stdio.h>

static pthread_key_t key;
static ns_server *servers[2];
static ns_status started = -1;

static int32_t handler(ns_server *server, ns_socket *socket, void *user_data)
{
    (void)server, (void)socket, (void)user_data;
    return 0;
}

static int32_t stop(ns_server *server, void *user_data)
{
    (void)user_data;
    return ns_server_stop(server);
}

static void last(void *server) { started = ns_server_start((ns_server *)server, 0, NULL); }

static void *thread(void *unused)
{
    (void)unused;
    /* So there is storage of the thread, which goes before the destructor is called. */
    if (ns_server_start(servers[0], 0, NULL) == NS_OK)
        pthread_setspecific(key, servers[1]);
    return NULL;
}

int main(void)
{
    ns_config *config = ns_config_new();
    pthread_t id;
    if (ns_config_set_on_start(config, stop, NULL, NULL) != NS_OK)
        return 1;
    for (int i = 0; i < 2; i++)
        servers[i] = ns_server_new("127.0.0.1:0", handler, NULL, NULL, config, NULL);
    ns_config_free(config);
    if (pthread_key_create(&key, last) != 0 || pthread_create(&id, NULL, thread, NULL) != 0 ||
        pthread_join(id, NULL) != 0)
        return 1;
    for (int i = 0; i < 2; i++) {
        if (ns_server_free(servers[i]) != NS_OK)
            return 1;
    }
    if (started != NS_OK)
        return fprintf(stderr, "a start in the last destructor returns %d\n", (int)started), 1;
    printf("netserver %s: hello\n", ns_version_string());
    return 0;
}
