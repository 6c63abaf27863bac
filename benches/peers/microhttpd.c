/* microhttpd: libmicrohttpd with a loop of its own, as a server of the files of a folder.
 *
 *   microhttpd FOLDER
 */
#include "peer.h"

#include <fcntl.h>
#include <microhttpd.h>
#include <sys/stat.h>

static int folder;

static enum MHD_Result answer(void *unused, struct MHD_Connection *connection, const char *url,
                              const char *method, const char *version, const char *content,
                              size_t *content_size, void **state) {
    struct MHD_Response *response;
    struct stat about;
    enum MHD_Result queued;
    int file;
    (void)unused, (void)method, (void)version, (void)content, (void)content_size;
    if (*state == NULL) { /* an answer to this first call would end the connection */
        *state = connection;
        return MHD_YES;
    }
    file = openat(folder, url + 1, O_RDONLY | O_CLOEXEC);
    if (file < 0 || fstat(file, &about) != 0)
        return MHD_NO;
    response = MHD_create_response_from_fd64((uint64_t)about.st_size, file); /* closes it */
    MHD_add_response_header(response, "Content-Type", "text/plain");
    queued = MHD_queue_response(connection, MHD_HTTP_OK, response);
    MHD_destroy_response(response);
    return queued;
}

int main(int argc, char **argv) {
    const union MHD_DaemonInfo *info;
    struct MHD_Daemon *daemon;
    peer = "microhttpd";
    folder = argc == 2 ? open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (folder < 0)
        die("no folder");
    daemon = MHD_start_daemon(MHD_USE_EPOLL_INTERNAL_THREAD, 0, NULL, NULL, answer, NULL,
                              MHD_OPTION_CONNECTION_LIMIT, 1024u, MHD_OPTION_END);
    if (daemon == NULL)
        die("cannot start");
    info = MHD_get_daemon_info(daemon, MHD_DAEMON_INFO_BIND_PORT);
    printf("microhttpd: listening on 127.0.0.1:%u\n", (unsigned)info->port);
    fflush(stdout);
    for (;;)
        pause();
}
