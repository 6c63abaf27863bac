/* libuv: an echo server on libuv: uv_try_write first, uv_write for the rest, with reading stopped
 * meanwhile; one receive buffer for all connections. Options: see peer.h.
 */
#include "peer.h"

#include <uv.h>

typedef struct {
    uv_tcp_t tcp; /* first: a handle is its connection */
    uv_write_t write;
    char *rest; /* what is being written by it */
} conn;

static char *buffer;

static void check(int status, const char *what) {
    if (status < 0) {
        fprintf(stderr, "%s: %s: %s\n", peer, what, uv_strerror(status));
        exit(1);
    }
}

static void on_closed(uv_handle_t *handle) {
    conn *c = (conn *)handle;
    free(c->rest);
    free(c);
}

static void close_conn(conn *c) {
    if (!uv_is_closing((uv_handle_t *)c))
        uv_close((uv_handle_t *)c, on_closed);
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf) {
    (void)handle;
    (void)suggested;
    *buf = uv_buf_init(buffer, (unsigned)buffer_size);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf);

static void on_written(uv_write_t *write, int status) {
    conn *c = (conn *)write->handle;
    free(c->rest);
    c->rest = NULL;
    if (status < 0 || uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read) < 0)
        close_conn(c);
}

static void write_rest(conn *c, const char *bytes, size_t length) {
    uv_buf_t buf;
    uv_read_stop((uv_stream_t *)&c->tcp);
    c->rest = (char *)allocate(length);
    memcpy(c->rest, bytes, length);
    buf = uv_buf_init(c->rest, (unsigned)length);
    if (uv_write(&c->write, (uv_stream_t *)&c->tcp, &buf, 1, on_written) < 0)
        close_conn(c);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf) {
    conn *c = (conn *)stream;
    uv_buf_t received;
    int written;
    if (n == 0)
        return; /* nothing is there yet */
    if (n < 0) {
        close_conn(c);
        return;
    }
    received = uv_buf_init(buf->base, (unsigned)n);
    written = uv_try_write(stream, &received, 1);
    if (written == UV_EAGAIN)
        written = 0;
    if (written < 0)
        close_conn(c);
    else if (written < n)
        write_rest(c, buf->base + written, (size_t)(n - written));
}

static void on_connection(uv_stream_t *listener, int status) {
    conn *c = (conn *)allocate(sizeof *c);
    check(status, "accept");
    c->rest = NULL;
    check(uv_tcp_init(listener->loop, &c->tcp), "uv_tcp_init");
    check(uv_accept(listener, (uv_stream_t *)&c->tcp), "uv_accept");
    uv_tcp_nodelay(&c->tcp, 1);
    check(uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read), "uv_read_start");
}

int main(int argc, char **argv) {
    uv_loop_t *loop = uv_default_loop();
    uv_tcp_t listener;
    struct sockaddr_in address = loopback();
    uv_os_fd_t fd;
    begin("libuv", "b:", argc, argv);
    buffer = (char *)allocate(buffer_size);
    check(uv_tcp_init(loop, &listener), "uv_tcp_init");
    check(uv_tcp_bind(&listener, (const struct sockaddr *)&address, 0), "uv_tcp_bind");
    check(uv_listen((uv_stream_t *)&listener, BACKLOG, on_connection), "uv_listen");
    check(uv_fileno((uv_handle_t *)&listener, &fd), "uv_fileno");
    say_listening(fd);
    return uv_run(loop, UV_RUN_DEFAULT);
}
