/* Attaches a thread of the library to Scheme once, for as long as it lives. Scheme cannot do that:
 * a thread that first enters it by a callback is detached again when that callback returns. */
#include <netserver.h>

#include <stddef.h>

/* Exported by the Chez Scheme executable. */
int Sactivate_thread(void);
void Sdeactivate_thread(void);
int Sdestroy_thread(void);

static ns_thread_start_fn start_hook;
static ns_thread_stop_fn stop_hook;

/* Sets the Scheme procedures that run on an attached thread first and last. */
void netserver_chez_set_hooks(ns_thread_start_fn start, ns_thread_stop_fn stop);
int32_t netserver_chez_thread_start(ns_server *server, int32_t kind, uint32_t number, void *user);
void netserver_chez_thread_stop(ns_server *server, int32_t kind, uint32_t number, void *user);

void netserver_chez_set_hooks(ns_thread_start_fn start, ns_thread_stop_fn stop) {
    start_hook = start;
    stop_hook = stop;
}

int32_t netserver_chez_thread_start(ns_server *server, int32_t kind, uint32_t number, void *user) {
    int32_t status;
    Sactivate_thread();
    status = start_hook(server, kind, number, user);
    Sdeactivate_thread(); /* an active thread that waits in C would keep the collector waiting */
    return status;
}

void netserver_chez_thread_stop(ns_server *server, int32_t kind, uint32_t number, void *user) {
    stop_hook(server, kind, number, user);
    Sdestroy_thread();
}
