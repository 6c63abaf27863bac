/* Unix sockets: the file, the peer's credentials, and their bad arguments. */
#include "check.h"

#include <sys/stat.h>
#include <sys/un.h>

static char service[120];
static const char *path = service + 5;

static int local_client(void)
{
    struct timeval patience = {DEADLINE_MS / 1000, 0};
    struct sockaddr_un address;
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(fd >= 0);
    memset(&address, 0, sizeof address);
    address.sun_family = AF_UNIX;
    strcpy(address.sun_path, path);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    CHECK_IS(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

static int32_t tell_peer(ns_server *server, ns_socket *socket, void *user_data)
{
    char text[256], peer[64];
    struct sockaddr_un address;
    int32_t pid = -1;
    uint32_t uid = UINT32_MAX, gid = UINT32_MAX;
    (void)server, (void)user_data;
    memset(&address, 0, sizeof address);
    CHECK_IS(ns_socket_peer_credentials(socket, NULL, NULL, NULL), NS_OK);
    CHECK_IS(ns_socket_peer_credentials(socket, &pid, NULL, NULL), NS_OK);
    CHECK_IS(ns_socket_peer_credentials(socket, &pid, &uid, &gid), NS_OK);
    CHECK_IS(pid, getpid());
    CHECK_IS(uid, getuid());
    CHECK_IS(gid, getgid());
    CHECK_IS(ns_socket_peer(socket, peer, sizeof peer), 5);
    CHECK_IS(ns_socket_peer_addr(socket, &address, sizeof address), sizeof address.sun_family);
    CHECK_IS(address.sun_family, AF_UNIX);
    CHECK(ns_socket_local_addr(socket, &address, sizeof address) > sizeof address.sun_family);
    CHECK_TEXT(address.sun_path, service + strlen("unix:"));
    snprintf(text, sizeof text, "%s ", peer);
    CHECK_IS(ns_socket_local(socket, text + strlen(text), sizeof text - strlen(text)),
             strlen(service));
    CHECK_IS(ns_socket_send(socket, text, strlen(text)), NS_OK);
    return ns_socket_close(socket);
}

/* Y1, Y2, Y3, Y5, Y7, Y9: A file with its mode, and the peer. */
static void served(void)
{
    for (int i = 0; i < 2; i++) {
        char address[128], expected[128];
        struct stat found;
        int fd;
        ns_config *config = i ? non_blocking() : ns_config_new();
        ns_server *server;
        CHECK_IS(ns_config_set_unix_mode(config, 0640), NS_OK);
        CHECK_IS(ns_config_set_on_open(config, tell_peer, NULL, NULL), NS_OK);
        server = ns_server_new(service, echo, NULL, NULL, config, NULL);
        ns_config_free(config);
        CHECK_IS(ns_server_start(server, NS_START_BACKGROUND, NULL), NS_OK);
        CHECK_IS(stat(path, &found), 0);
        CHECK(S_ISSOCK(found.st_mode));
        CHECK_IS(found.st_mode & 07777, 0640);
        ns_server_address(server, address, sizeof address);
        CHECK_TEXT(address, service);
        CHECK_IS(ns_server_port(server), 0);

        fd = local_client();
        snprintf(expected, sizeof expected, "unix: %s", service);
        HEAR(fd, expected);
        HEAR_END(fd);
        close(fd);
        CHECK_IS(ns_server_free(server), NS_OK);
        CHECK_IS(stat(path, &found), -1);
    }
}

static int32_t ask_of_tcp(ns_server *server, ns_socket *socket, void *user_data)
{
    int32_t pid = -7;
    (void)server, (void)user_data;
    CHECK_IS(ns_socket_peer_credentials(socket, &pid, NULL, NULL), NS_ERR_UNSUPPORTED);
    CHECK_IS(pid, -7);
    CHECK_IS(ns_socket_send(socket, "none", 4), NS_OK);
    return ns_socket_close(socket);
}

/* Y6, Y7, E5: Bad arguments, and a socket that has no such peer. */
static void nonsense(void)
{
    char too_long[200] = "unix:/";
    ns_config *config = ns_config_new();
    ns_error *err = NULL;
    ns_server *server;
    int32_t pid = -7;
    int fd;
    memset(too_long + 6, 'x', 107);
    CHECK(ns_server_new(too_long, echo, NULL, NULL, NULL, &err) == NULL);
    CHECK_IS(ns_error_status(err), NS_ERR_INVALID);
    CHECK(strstr(ns_error_message(err), "107 bytes") != NULL);
    ns_error_free(err);
    CHECK(ns_server_new("unix:", echo, NULL, NULL, NULL, NULL) == NULL);
    CHECK_IS(ns_socket_peer_credentials(NULL, &pid, NULL, NULL), NS_ERR_INVALID);
    CHECK_IS(pid, -7);

    CHECK_IS(ns_config_set_on_open(config, ask_of_tcp, NULL, NULL), NS_OK);
    server = SERVE(config, echo, NULL);
    fd = client(ns_server_port(server));
    HEAR(fd, "none");
    close(fd);
    CHECK_IS(ns_server_free(server), NS_OK);
}

int main(void)
{
    const char *folder = getenv("TMPDIR");
    snprintf(service, sizeof service, "unix:%s/ns-%d.sock", folder ? folder : "/tmp",
             (int)getpid());
    RUN(served);
    RUN(nonsense);
    return 0;
}
