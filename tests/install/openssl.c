/* OpenSSL and the library in one program: OpenSSL's client talks to the library's server. The
 * arguments are the files of the server's chain, its key and the authority. */
#include <netserver.h>

#include <arpa/inet.h>
#include <openssl/crypto.h>
#include <openssl/ssl.h>
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

static int talk_tls(int fd, const char *authority) {
    char answer[6] = "";
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    SSL *ssl;
    int good;
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
    good = SSL_CTX_load_verify_locations(context, authority, NULL) == 1;
    ssl = SSL_new(context);
    good = good && SSL_set1_host(ssl, "localhost") == 1 && SSL_set_fd(ssl, fd) == 1 &&
           SSL_connect(ssl) == 1 && SSL_write(ssl, "hello", 5) == 5 &&
           SSL_read(ssl, answer, 5) == 5 && strcmp(answer, "hello") == 0;
    SSL_shutdown(ssl);
    SSL_free(ssl);
    SSL_CTX_free(context);
    return good;
}

static int talk(uint16_t port, const char *authority) {
    struct sockaddr_in address;
    int fd = socket(AF_INET, SOCK_STREAM, 0), good;
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    good = connect(fd, (struct sockaddr *)&address, sizeof address) == 0 && talk_tls(fd, authority);
    close(fd);
    return good;
}

int main(int argc, char **argv) {
    ns_tls *tls = ns_tls_new();
    ns_config *config = ns_config_new();
    ns_server *server;
    int good;
    if (argc != 4 || ns_tls_add_cert_file(tls, NULL, argv[1], argv[2], NULL) != NS_OK)
        return 1;
    ns_config_set_tls(config, tls);
    server = ns_server_new("127.0.0.1:0", echo, NULL, NULL, config, NULL);
    good = ns_server_start(server, NS_START_BACKGROUND, NULL) == NS_OK &&
           talk(ns_server_port(server), argv[3]);
    ns_server_free(server);
    ns_config_free(config);
    ns_tls_free(tls);
    printf("%s: %s\n", OpenSSL_version(OPENSSL_VERSION), good ? "hello" : "no answer");
    return good ? 0 : 1;
}
