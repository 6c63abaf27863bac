/* files: serves the files of a folder by HTTP/1.1, with TLS if there is a certificate.
 *
 *   files [-t THREADS] [--cert FILE --key FILE] [SERVICE] FOLDER
 *
 * Try `curl http://127.0.0.1:5000/`, which is index.html. SIGINT and SIGTERM end it.
 *
 * Requests may come without waiting for the answers. A file leaves in parts, the next one when the
 * last has left: see send_file and on_drain. So the memory of a client has a bound, whatever it
 * asks for and however slowly it reads. Requests have no content here. What breaks a rule of RFC 9112
 * gets the status that it names, and the connection ends: what follows could be misunderstood.
 */
#define _XOPEN_SOURCE 700
#include "http.h"
#include "serve.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    HEAD = 8 * 1024,     /* bytes of the head of a request */
    WINDOW = 256 * 1024, /* bytes of unread answers at which requests wait */
    HEAD_MS = 10 * 1000, /* for a head */
    IDLE_MS = 60 * 1000  /* without a byte */
};

static const char BAD[] = "400 Bad Request", MISSING[] = "404 Not Found";
static int folder;

/* The user data of a connection. */
struct client {
    int file;    /* that is being sent, or -1 */
    off_t at;    /* how many bytes of it were sent */
    off_t left;  /* how many are left */
    size_t sent; /* bytes since the last look at the queue */
    int is_last;  /* the connection ends after this answer */
    int is_begun; /* the timer is set: a head has begun */
    size_t len;   /* bytes of heads that are there */
    char heads[HEAD];
};

/* 3.2: makes a path in the folder of the target. Nothing that begins with a dot is served, so that
 * only a link leads out of the folder. */
static const char *read_path(struct text target, char *path) {
    const int has_host = target.len > 7 && strncasecmp(target.at, "http://", 7) == 0;
    size_t i = 0, used = 0;
    if (has_host)
        for (i = 7; i < target.len && target.at[i] != '/' && target.at[i] != '?';)
            i++;
    if (has_host ? i == 7 : target.len == 0 || target.at[0] != '/') /* RFC 9110, 4.2.1 */
        return BAD;
    if (i < target.len && target.at[i] == '?') /* no path: the root (RFC 9110, 4.2.3) */
        i = target.len;
    while (++i < target.len && target.at[i] != '?') {
        char c = target.at[i], hex[3] = "";
        if (c == '%' && target.len - i > 2) {
            memcpy(hex, target.at + i + 1, 2);
            c = (char)strtol(hex, NULL, 16);
            i += 2;
        }
        if (target.at[i] == '%' || (hex[0] != '\0' && strspn(hex, "0123456789abcdefABCDEF") != 2))
            return BAD;
        if (c == '\0' || (c == '/' && used == 0) ||
            (c == '.' && (used == 0 || path[used - 1] == '/')))
            return MISSING;
        path[used++] = c;
    }
    strcpy(path + used, used == 0 || path[used - 1] == '/' ? "index.html" : "");
    return NULL;
}

/* -- answers ---------------------------------------------------------------------------------- */

static const char *type_of(const char *path) {
    static const char *const types[][2] = {{".html", "text/html; charset=utf-8"},
                                           {".css", "text/css"},
                                           {".js", "text/javascript"},
                                           {".png", "image/png"},
                                           {".txt", "text/plain; charset=utf-8"}};
    const char *dot = strrchr(path, '.');
    size_t i;
    for (i = 0; dot != NULL && i < sizeof types / sizeof *types; i++)
        if (strcmp(dot, types[i][0]) == 0)
            return types[i][1];
    return "application/octet-stream";
}

/* Sends the head of an answer and the beginning of its content. */
static ns_status answer(ns_socket *socket, struct client *client, const char *status,
                        const char *type, off_t length, const char *content, size_t len) {
    char head[512], date[64];
    const void *parts[2] = {head, content};
    size_t lens[2];
    time_t now = time(NULL);
    struct tm utc;
    strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", gmtime_r(&now, &utc));
    lens[0] = (size_t)snprintf(head, sizeof head,
                               "HTTP/1.1 %s\r\nDate: %s\r\nContent-Type: %s\r\n"
                               "Content-Length: %lld\r\n%s\r\n",
                               status, date, type, (long long)length,
                               client->is_last ? "Connection: close\r\n" : "");
    lens[1] = len;
    client->sent += lens[0] + len;
    return ns_socket_sendv(socket, parts, lens, 2);
}

static ns_status refuse(ns_socket *socket, struct client *client, const char *status, int is_head) {
    size_t len = strlen(status);
    return answer(socket, client, status, "text/plain", (off_t)len, status, is_head ? 0 : len);
}

static void close_file(struct client *client) {
    if (client->file >= 0)
        close(client->file);
    client->file = -1;
    client->left = 0;
}

/* Sends what the library accepts of the file. When that has left, on_drain goes on: so other clients
 * have their turn. */
static ns_status send_file(ns_socket *socket, struct client *client) {
    int64_t n = 0;
    if (client->left > 0)
        n = ns_socket_sendfile(socket, client->file, (uint64_t)client->at, (uint64_t)client->left);
    if (n < 0)
        return (ns_status)n;
    client->at += n;
    client->left -= n;
    client->sent += (size_t)n;
    if (client->left == 0)
        close_file(client);
    return NS_OK;
}

/* Answers a request with the head of a file's answer; send_file sends the file. */
static ns_status serve_request(ns_socket *socket, struct client *client, struct request *request) {
    char path[HEAD + sizeof "index.html"];
    const char *status = read_path(request->target, path);
    const int is_head = is_exactly(request->method, "HEAD");
    struct stat about;
    client->is_last = request->closes || (request->minor == 0 && !request->keeps) || status == BAD;
    if (!is_head && !is_exactly(request->method, "GET"))
        status = "501 Not Implemented";
    if (status == NULL)
        client->file = openat(folder, path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (status == NULL && client->file < 0 && (errno == EMFILE || errno == ENFILE))
        status = "503 Service Unavailable";
    if (client->file < 0 || fstat(client->file, &about) != 0 || !S_ISREG(about.st_mode)) {
        close_file(client);
        return refuse(socket, client, status != NULL ? status : MISSING, is_head);
    }
    client->at = 0;
    client->left = is_head ? 0 : about.st_size;
    return answer(socket, client, "200 OK", type_of(path), about.st_size, "", 0);
}

/* -- clients ---------------------------------------------------------------------------------- */

/* Goes on with the file, and answers the requests that are there. A client whose answer waits is
 * not read. */
static int32_t go_on(ns_socket *socket, struct client *client) {
    ns_status status;
    size_t start = 0;
    int length, is_full = 0, is_begun;
    ns_socket_cork(socket); /* so that a head leaves with its file */
    status = send_file(socket, client);
    while (status == NS_OK && client->left == 0 && !client->is_last && !is_full) {
        struct text head = {client->heads + start, client->len - start};
        struct request request;
        const char *problem = NULL;
        length = head_length(head.at, head.len);
        head.len = length > 0 ? (size_t)length : head.len;
        if (length < 0)
            problem = BAD;
        else if (length == 0 && head.len == HEAD)
            problem = memchr(head.at, '\n', head.len) == NULL
                          ? "414 URI Too Long"
                          : "431 Request Header Fields Too Large";
        else if (length == 0)
            break;
        else if (length > 2) /* else it is an empty line before a request (2.2) */
            problem = read_head(head, &request);
        start += head.len;
        if (problem != NULL)
            client->is_last = 1, status = refuse(socket, client, problem, 0);
        else if (length > 2 && (status = serve_request(socket, client, &request)) == NS_OK)
            status = send_file(socket, client);
        if (client->sent > WINDOW)
            client->sent = 0, is_full = ns_socket_queued(socket) > WINDOW;
    }
    if (status == NS_ERR_IO)
        return ns_socket_abort(socket); /* the client must not take it for the whole file */
    if (status != NS_OK || (client->is_last && client->left == 0))
        return status == NS_OK ? ns_socket_close(socket) : status;
    memmove(client->heads, client->heads + start, client->len -= start);
    is_full |= client->left > 0;
    is_begun = client->len > 0 && !is_full;
    if (is_begun != client->is_begun || (is_begun && start > 0))
        ns_socket_set_timer_ms(socket, is_begun ? HEAD_MS : 0);
    client->is_begun = is_begun;
    return is_full ? ns_socket_pause(socket) : NS_OK;
}

static int32_t handle(ns_server *srv, ns_socket *socket, void *user_data) {
    struct client *client = (struct client *)ns_socket_user_data(socket);
    int64_t n = ns_socket_recv(socket, client->heads + client->len, HEAD - client->len);
    (void)srv, (void)user_data;
    if (n <= 0)
        return n == 0 ? ns_socket_close(socket) : (int32_t)n;
    client->len += (size_t)n;
    return go_on(socket, client);
}

/* What was sent has left. */
static int32_t on_drain(ns_server *srv, ns_socket *socket, void *user_data) {
    (void)srv, (void)user_data;
    ns_socket_resume(socket);
    return go_on(socket, (struct client *)ns_socket_user_data(socket));
}

static void forget(void *user_data) {
    close_file((struct client *)user_data);
    free(user_data);
}

static int32_t on_open(ns_server *srv, ns_socket *socket, void *user_data) {
    struct client *client = (struct client *)malloc(sizeof *client);
    (void)srv, (void)user_data;
    if (client == NULL)
        return NS_ERR_REJECTED;
    memset(client, 0, offsetof(struct client, heads)); /* the rest costs memory when it is used */
    client->file = -1;
    return ns_socket_set_user_data(socket, client, forget);
}

/* Returns the service; NULL if the arguments make no sense. */
static const char *parse(int argc, char **argv, ns_config *config) {
    static const struct option longs[] = {{"cert", required_argument, NULL, 'c'},
                                          {"key", required_argument, NULL, 'k'},
                                          {NULL, 0, NULL, 0}};
    const char *cert = NULL, *key = NULL;
    int c;
    while ((c = getopt_long(argc, argv, "t:", longs, NULL)) != -1) {
        switch (c) {
        case 't': ns_config_set_max_thread(config, (uint32_t)strtoul(optarg, NULL, 10)); break;
        case 'c': cert = optarg; break;
        case 'k': key = optarg; break;
        default: return NULL;
        }
    }
    if (!cert != !key || optind >= argc || optind < argc - 2)
        return NULL;
    if (cert != NULL) {
        static const char *const protocols[] = {"http/1.1", "http/1.0"};
        ns_tls *tls = ns_tls_new();
        ns_tls_add_cert_file(tls, NULL, cert, key, NULL);
        ns_tls_set_alpn(tls, protocols, 2);
        ns_config_set_tls(config, tls);
        ns_tls_free(tls); /* the config has its share */
    }
    return optind == argc - 1 ? "5000" : argv[optind];
}

int main(int argc, char **argv) {
    ns_config *config = ns_config_new();
    const char *service = parse(argc, argv, config);
    int served;
    folder = service != NULL ? open(argv[argc - 1], O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (folder < 0) {
        fputs("usage: files [-t THREADS] [--cert FILE --key FILE] [SERVICE] FOLDER\n", stderr);
        ns_config_free(config);
        return 2;
    }
    ns_config_set_non_blocking(config, 1);
    ns_config_set_idle_timeout_ms(config, IDLE_MS);
    ns_config_set_on_open(config, on_open, NULL, NULL);
    ns_config_set_on_drain(config, on_drain, NULL, NULL);
    served = make_server("files", service, handle, config) && serve("files");
    ns_server_free(server);
    close(folder);
    return served ? 0 : 1;
}
