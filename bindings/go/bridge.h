/* The static C functions that stand between the library and the exported Go functions. */
#ifndef NETSERVER_GO_BRIDGE_H
#define NETSERVER_GO_BRIDGE_H

#include <netserver.h>

/* The user data of a loop's callbacks. The number is that of the loop in the table of objects. */
typedef struct {
    uintptr_t number;
    size_t size;
    char buffer[]; /* of `size` bytes: what was received, during one callback */
} go_loop;

/* Which of the callbacks that are not always set the program has. */
enum { GO_ON_DRAIN = 1, GO_ON_TIMEOUT = 2, GO_ON_SHUTDOWN = 4 };

go_loop *go_loop_new(uintptr_t number, size_t size);
ns_server *go_server_new(const char *service, go_loop *loop, ns_config *config, uint32_t callbacks,
                         ns_error **err);

int32_t go_raise(ns_socket *socket, int32_t code, const char *message, uintptr_t number);
uintptr_t go_payload(const ns_error *error);
ns_status go_set_number(ns_socket *socket, uintptr_t number);
uintptr_t go_number(const ns_socket *socket);

uint64_t go_watch(ns_server *server, int32_t fd, uint32_t events, uintptr_t number, ns_error **err);
uint64_t go_timer(ns_server *server, uint32_t first_ms, uint32_t repeat_ms, uintptr_t number,
                  ns_error **err);
ns_status go_post(ns_server *server, uintptr_t number);
ns_status go_wake_loop(ns_server *server);
ns_status go_stop_within(ns_server *server, int64_t ms);
ns_conn_id go_adopt(ns_server *server, int fd, uintptr_t number, ns_error **err);
ns_conn_id go_connect(ns_server *server, const char *service, uint32_t timeout_ms, uintptr_t number,
                      ns_error **err);

#endif
