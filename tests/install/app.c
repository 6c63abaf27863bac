/* A program from outside: serves one connection in the background, talks to itself, and ends. */
#include <netserver.h>

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int32_t echo(ns_server *server, ns_socket *socket, void *user_data) {
    char buf[64];
    int64_t n;
    (void)server, (void)user_data;
    while ((n = ns_socket_recv(socket, buf, sizeof buf)) > 0)
        ns_socket_send(socket, buf, (size_t)n);
    return (int32_t)n;
}

static int talk(uint16_t port) {
    struct sockaddr_in address;
    char answer[6] = "";
    int fd = socket(AF_INET, SOCK_STREAM, 0), good;
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    good = connect(fd, (struct sockaddr *)&address, sizeof address) == 0 &&
           send(fd, "hello", 5, 0) == 5 && recv(fd, answer, 5, MSG_WAITALL) == 5 &&
           strcmp(answer, "hello") == 0;
    close(fd);
    return good;
}

int main(void) {
    ns_server *server = ns_server_new("127.0.0.1:0", echo, NULL, NULL, NULL, NULL);
    int good = ns_server_start(server, NS_START_BACKGROUND, NULL) == NS_OK &&
               talk(ns_server_port(server));
    ns_server_free(server);
    printf("netserver %s: %s\n", ns_version_string(), good ? "hello" : "no answer");
    return good ? 0 : 1;
}
