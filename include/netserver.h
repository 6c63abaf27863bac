/*
 * netserver: a TCP server inside your program.
 *
 * You give it a service (port) and a handler. It does the listening, the threads, the event loops,
 * TLS, the limits, the deadlines and the shutdown. An echo server, in either mode: any second
 * argument selects the non-blocking one, in which ns_socket_recv returns NS_ERR_WOULD_BLOCK when
 * nothing can be read now; a handler may return that.
 *
 *     #include <netserver.h>
 *
 *     static int32_t echo(ns_server *server, ns_socket *socket, void *user_data) {
 *         char buf[4096];
 *         int64_t n;
 *         (void)server, (void)user_data;
 *         while ((n = ns_socket_recv(socket, buf, sizeof buf)) > 0) {
 *             ns_status sent = ns_socket_send(socket, buf, (size_t)n);
 *             if (sent != NS_OK)
 *                 return sent;
 *         }
 *         if (n == 0)
 *             ns_socket_close(socket);
 *         return (int32_t)n;
 *     }
 *
 *     int main(int argc, char **argv) {
 *         ns_config *config = ns_config_new();
 *         ns_config_set_non_blocking(config, argc > 2);
 *         const char *service = argc > 1 ? argv[1] : "5000";
 *         ns_server *server = ns_server_new(service, echo, NULL, NULL, config, NULL);
 *         ns_config_free(config);
 *         ns_status status = ns_server_start(server, 0, NULL);
 *         ns_server_free(server);
 *         return status == NS_OK ? 0 : 1;
 *     }
 *
 * THE TWO MODES. Blocking (the default): there are `max_thread` workers. A worker calls the
 * handler once for each connection and closes the socket when the handler returns; the handler may
 * block. Non-blocking: there are `max_thread` event loops. A loop calls the handler whenever its
 * socket can be read; the handler must not block, and closes the socket itself. If it leaves input
 * unread, the loop calls it again; what it sends is queued as needed.
 *
 * The callbacks of one connection never run at the same time. Those of different connections do, on
 * more threads than there are workers or loops: the thread that accepts runs the exception handler,
 * and the shutdown port and the stop have threads of their own. No callback runs inside a call of
 * this library, except in calls that say so. The library holds no lock that a call needs while a
 * callback runs, so every call is allowed in a callback.
 *
 * TLS. With ns_config_set_tls every connection of the server's first service begins with a
 * handshake, with ns_server_add_service_tls those of a further one; ns_socket_starttls upgrades a
 * connection to TLS later. The handler is the same with and without TLS: it runs when the
 * handshake is over, on a loop when there is data for it. ns_socket_tls_info shows what was agreed.
 *
 * RESULTS. Functions return 0 or a count on success and a negative NS_ERR_... on failure, as an
 * ns_status or in place of the count. Every NULL, text that is not UTF-8, number out of bounds,
 * stale id and wrong state is such a failure. `err` may be NULL. If it is not, *err is always
 * written: NULL on success; on failure an error, which you free with ns_error_free.
 *
 * OWNERSHIP. You own what ns_detach, ns_socket_from_fd or a function ending in _new returns, and
 * free it with the function ending in _free. A descriptor that you give to ns_server_adopt or
 * ns_socket_from_fd is the library's, unless the call fails. What a callback gets is borrowed: it
 * is valid until the callback returns. Strings and buffers that you pass are copied, unless the
 * comment says otherwise. User data comes with an optional function that frees it (ns_drop_fn). The
 * library calls that exactly once, after the last use, also when the call fails. ns_server_free
 * drops the connections' data, then the callbacks', then the context.
 *
 * TAGS. The last line of a function's comment says where you may call it. [any]: on any thread, at
 * any time. [setup]: before the server is made or started. [handler]: in a callback of that
 * connection, or by the owner of a detached socket. [signal]: also in a signal handler. [blocks]:
 * the call may wait, or run callbacks or ns_drop_fn's on the calling thread; a language with a
 * global lock releases it around the call.
 *
 * FORBIDDEN. No C++ exception, longjmp or pthread_exit may pass through this library: what happens
 * then is undefined. Do not use a pointer after you freed it; only connection ids are always safe to
 * keep.
 *
 * FORK. A server stays with the process that made it. In a child of fork(2) every call for it, and
 * for the borrowed socket of a callback, returns NS_ERR_STATE; ns_server_state says
 * NS_STATE_STOPPED. ns_server_free returns 0 there: of a hosted server, outside its callbacks, it
 * frees everything and calls the drop functions alone; of another one it closes the listeners, and
 * the memory stays. What ns_detach returned is yours in both processes. The child may make servers,
 * with TLS objects of its own. If it returns from a callback, then on a thread of the library it
 * ends as by _exit(0), and elsewhere the call that ran the callback returns NS_ERR_STATE. After
 * vfork(2), _Fork(3) or a bare system call the child must call exec. A child that a callback makes
 * inherits a mask that blocks all asynchronous signals on a thread of the library: set another one
 * before exec, by sigprocmask(2) or posix_spawnattr_setsigmask(3). While a child lives that has not
 * called exec, it keeps a `unix:@name` taken.
 *
 * THE HOST. The library installs no signal handlers, prints nothing, and changes no environment and
 * no limits. Its threads block all asynchronous signals. Its descriptors are close-on-exec. No call
 * is a cancellation point: pthread_cancel takes effect after the call has returned. Where an
 * allocation fails, the library aborts the process.
 */

#ifndef NETSERVER_H
#define NETSERVER_H

/* Made by cbindgen from src/ffi: change it there. */

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ============================================================================================
 * HANDLES: what the functions are about
 * ============================================================================================ */

/**
 * A server. The pointer is valid until `ns_server_free` has succeeded. Callbacks
 * get the same pointer that `ns_server_new` returned.
 */
typedef struct ns_server ns_server;

/**
 * A connection. Borrowed in callbacks: valid only there, and only for the
 * connection that the callback is about. Owned when `ns_detach` or
 * `ns_socket_from_fd` returned it: valid until `ns_socket_free`,
 * `ns_socket_release_fd` or `ns_attach`.
 */
typedef struct ns_socket ns_socket;

/**
 * Settings and callbacks of servers.
 *
 * Reference-counted: each server made from it holds a share, so free yours at
 * any time. While a server uses it, it cannot change. Durations are in
 * milliseconds, sizes in bytes, flags are 0 or 1.
 *
 * A setter returns 0, NS_ERR_INVALID, or NS_ERR_STATE (in use by a server; the
 * config stays as it is). The config remembers the first failure of a setter
 * that is not NS_ERR_STATE, and `ns_server_new` reports it: so a program may
 * leave the results of setters unchecked. A getter returns 0 (NULL) for NULL.
 */
typedef struct ns_config ns_config;

/**
 * Certificates and what belongs to them.
 *
 * Reference-counted: each config that it is set in holds a share, so free yours
 * at any time; one object may serve several servers. Its first use freezes it:
 * `ns_server_new`, `ns_server_reload_tls` or `ns_socket_starttls`.
 *
 * TLS 1.2 and 1.3, with forward secrecy and authenticated encryption only.
 * Sessions resume by tickets, whose keys are the process's own and rotate every 6
 * hours, or yours: `ns_tls_set_ticket_keys`. No early data, no renegotiation.
 *
 * A setter returns 0 or a negative status; NS_ERR_STATE means that the object is
 * frozen. The object remembers the first failure of a setter, and whatever uses
 * it reports that: so a program may leave the results of setters unchecked. Only
 * `ns_socket_starttls` passes over a remembered NS_ERR_STATE.
 *
 * In a library that was built without TLS (`ns_has_feature`), every setter and
 * every use of the object returns NS_ERR_UNSUPPORTED.
 */
typedef struct ns_tls ns_tls;

/**
 * What failed: a status, a sentence, and the code of the operating system or
 * of the handler. Owned where a call returned it through `err`
 * (`ns_error_free`); borrowed in an exception handler.
 */
typedef struct ns_error ns_error;

/**
 * Names a connection: never 0, never given to another connection, safe to
 * keep forever and to use from any thread.
 */
typedef uint64_t ns_conn_id;

/**
 * Frees `user_data`. The library calls it exactly once, after the last use,
 * also when the call fails that `user_data` was passed to. It runs on a thread
 * of the library, or on the thread of a call with the tag `[blocks]`. It must
 * not call the library with the object that is going away.
 */
typedef void (*ns_drop_fn)(void *user_data);

/* ============================================================================================
 * ERRORS: status numbers, error objects, why a handler fails, why a connection closed
 * ============================================================================================ */

/**
 * 0 (`NS_OK`) for success, else one of the negative `NS_ERR_...`. The numbers
 * are stable.
 */
typedef int32_t ns_status;

/** Success. */
#define NS_OK 0

/** An argument is not valid: NULL, not UTF-8, out of its bounds. */
#define NS_ERR_INVALID -1001

/**
 * The server, config, TLS object or socket is in the wrong state for this
 * call.
 */
#define NS_ERR_STATE -1002

/** A deadline passed. */
#define NS_ERR_TIMEOUT -1003

/** The connection is closed, or its id is stale. */
#define NS_ERR_CLOSED -1004

/** The peer reset the connection, or the transport failed. */
#define NS_ERR_RESET -1005

/** Nothing can be read now; no failure in a handler. */
#define NS_ERR_WOULD_BLOCK -1006

/**
 * The outbound queue would pass `send_limit`, or all queues together
 * `send_limit_total`; nothing was sent.
 */
#define NS_ERR_BUFFER_FULL -1007

/** No worker became free in time. */
#define NS_ERR_REJECTED -1008

/** The socket is detached from the server. */
#define NS_ERR_DETACHED -1009

/** Only a non-blocking server can do this. */
#define NS_ERR_NOT_NON_BLOCKING -1010

/** Only a callback of this connection can do this. */
#define NS_ERR_NOT_IN_HANDLER -1011

/**
 * A callback of the same server cannot do this; or the socket has buffered
 * bytes.
 */
#define NS_ERR_BUSY -1012

/** The call would wait for its own thread. */
#define NS_ERR_DEADLOCK -1013

/** A panic was caught: a bug in the library. */
#define NS_ERR_PANIC -1014

/** The handler returned a negative number of its own. */
#define NS_ERR_HANDLER -1015

/** The service or host cannot be resolved. */
#define NS_ERR_ADDRESS -1016

/** Binding or listening failed. */
#define NS_ERR_LISTEN -1017

/** Another failure of the operating system. */
#define NS_ERR_IO -1018

/**
 * No slot is left for a connection, or the kernel has no memory for it
 * (`ENOMEM`, `ENOBUFS`), or the process has none for what the library keeps
 * of a new connection. If the process gets no other memory, it is aborted.
 */
#define NS_ERR_NO_MEMORY -1019

/** A thread cannot be created. */
#define NS_ERR_THREAD -1020

/** This system or build cannot do it. */
#define NS_ERR_UNSUPPORTED -1021

/** Accepting a connection failed. */
#define NS_ERR_ACCEPT -1022

/** The `on_start` hook failed. */
#define NS_ERR_HOOK -1023

/** TLS failed, or the peer broke its rules. */
#define NS_ERR_TLS -1024

/**
 * The stream ended without the close_notify of TLS: it may be cut short (RFC
 * 8446, 6.1).
 */
#define NS_ERR_TRUNCATED -1025

/** The TLS handshake failed. */
#define NS_ERR_HANDSHAKE -1026

/** A certificate or key cannot be used. */
#define NS_ERR_CERTIFICATE -1027

/** Connecting failed. */
#define NS_ERR_CONNECT -1028

/** The PROXY header is missing or bad, or comes from no trusted proxy. */
#define NS_ERR_PROXY -1030

/** Connections were refused beyond a limit of their address. */
#define NS_ERR_LIMIT -1031

/**
 * Returns: the status, a negative `NS_ERR_...`; 0 for NULL.
 * [any]
 */
ns_status ns_error_status(const ns_error *error);

/**
 * Returns: the code of the operating system (`errno`); 0 where there is none.
 * [any]
 */
int32_t ns_error_os_code(const ns_error *error);

/**
 * Returns: the negative number that the handler returned or raised; 0 where the
 * failure is not a handler's.
 * [any]
 */
int32_t ns_error_handler_code(const ns_error *error);

/**
 * A sentence that says what failed, on what, and why, for example
 * `cannot listen on "http": permission denied (port 80)`.
 *
 * Returns: the text in UTF-8, borrowed from the error; "" for NULL, never NULL.
 * [any]
 */
const char *ns_error_message(const ns_error *error);

/**
 * Returns: the payload that `ns_raise_with` got, borrowed from the error; NULL
 * where there is none.
 * [any]
 */
void *ns_error_payload(const ns_error *error);

/**
 * Frees an error that a call returned through `err`. Does nothing to NULL and to
 * the borrowed error of a callback.
 * [any]
 */
void ns_error_free(ns_error *error);

/**
 * Returns: the name of a status, `"NS_ERR_CLOSED"`; `"NS_ERR_UNKNOWN"` for
 * another number. The text is static.
 * [any]
 */
const char *ns_status_name(ns_status status);

/**
 * Returns: what a status means, in a few words; `"unknown status"` for another
 * number. The text is static.
 * [any]
 */
const char *ns_status_message(ns_status status);

/**
 * Reports to the exception handler why a handler fails:
 * `return ns_raise(socket, code, "why");`
 *
 * `code` is a number of your own or an `NS_ERR_...`. `message` is copied; NULL
 * is allowed. The library forgets what was raised in a callback that does not
 * fail, or that returns nothing. A second call in the same callback
 * replaces the first, and drops its payload. In a callback without a socket (a
 * watch, a timer, a task, `on_start`, `on_thread_start`) `socket` is NULL.
 *
 * Returns: `code` if it is negative, else -1, whatever else is wrong.
 * [handler] [blocks]
 */
int32_t ns_raise(ns_socket *socket, int32_t code, const char *message);

/**
 * `ns_raise` with an object that the exception handler reads with
 * `ns_error_payload`. `drop` (NULL: none) frees it after that; or immediately if
 * it cannot be passed on.
 *
 * Returns: as `ns_raise`.
 * [handler] [blocks]
 */
int32_t ns_raise_with(ns_socket *socket,
                      int32_t code,
                      const char *message,
                      void *payload,
                      ns_drop_fn drop);

/** The program closed the connection. */
#define NS_CLOSE_HANDLER 1

/** The program closed it after the end of the peer's stream. */
#define NS_CLOSE_PEER 2

/** The peer reset it, or the transport failed. */
#define NS_CLOSE_RESET 3

/** `idle_timeout` passed. */
#define NS_CLOSE_IDLE 4

/** Its one-shot timer fired and there is no `on_timeout`. */
#define NS_CLOSE_TIMER 5

/** Queued bytes made no progress for `write_timeout`. */
#define NS_CLOSE_WRITE_TIMEOUT 6

/** The handler failed. */
#define NS_CLOSE_ERROR 7

/** The program aborted it. */
#define NS_CLOSE_ABORT 8

/** A stop closed it; nothing that was sent is lost. */
#define NS_CLOSE_STOP 9

/**
 * A stop ended it, or its peer did not acknowledge in time all that was sent:
 * something may be lost.
 */
#define NS_CLOSE_CUT 10

/** No worker became free in time. */
#define NS_CLOSE_REJECTED 11

/** Its TLS handshake failed. */
#define NS_CLOSE_HANDSHAKE 12

/** It was never connected: the connect failed. No `on_close` gets this reason. */
#define NS_CLOSE_CONNECT 13

/**
 * Its PROXY header was missing or bad, or came from no trusted proxy. No `on_close`
 * gets this reason.
 */
#define NS_CLOSE_PROXY 14

/** It was refused beyond a limit of its address. No `on_close` gets this reason. */
#define NS_CLOSE_LIMIT 15

/**
 * Returns: one word for an `NS_CLOSE_...` reason, for example `"peer"`;
 * `"unknown"` for another number. The text is static.
 * [any]
 */
const char *ns_close_reason_name(int32_t reason);

/* ============================================================================================
 * CONFIG: settings and callbacks, each with a default
 * ============================================================================================ */

/**
 * A new config with the defaults.
 *
 * Returns: the config, yours to free with `ns_config_free`; never NULL. One that
 * could not be made remembers why, and `ns_server_new` reports it.
 * [any]
 */
ns_config *ns_config_new(void);

/**
 * Gives your share back; NULL is allowed. The drop functions of its callbacks
 * run when no server uses it either.
 * [any] [blocks]
 */
void ns_config_free(ns_config *config);

/**
 * Sets how many connections are served at the same time (blocking mode), or the
 * number of event loops (non-blocking mode): 1 (default) to 4096.
 *
 * Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
 * [setup]
 */
ns_status ns_config_set_max_thread(ns_config *config, uint32_t count);

/**
 * Returns: the setting `max_thread`.
 * [any]
 */
uint32_t ns_config_max_thread(const ns_config *config);

/**
 * Blocking mode: sets how many times `retry_interval`, and up to 20 ms more, a
 * connection waits that finds no worker free: 0 to 1000000, default 10.
 *
 * Then the connection is refused. Clients are refused one after another, and the
 * exception handler has 250 ms for each. With a `max_thread` of 1 no client is
 * refused: all wait, however long.
 *
 * Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
 * [setup]
 */
ns_status ns_config_set_max_retry(ns_config *config, uint32_t count);

/**
 * Returns: the setting `max_retry`.
 * [any]
 */
uint32_t ns_config_max_retry(const ns_config *config);

/**
 * Blocking mode: sets the interval of `max_retry`: milliseconds, 0 to 2^31 - 1,
 * default 500.
 *
 * Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
 * [setup]
 */
ns_status ns_config_set_retry_interval_ms(ns_config *config, uint32_t time);

/**
 * Returns: the setting `retry_interval`, in milliseconds.
 * [any]
 */
uint32_t ns_config_retry_interval_ms(const ns_config *config);

/**
 * Blocking mode: sets how many connections may wait for a worker; the next one is
 * refused immediately. Default 1024.
 *
 * Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
 * [setup]
 */
ns_status ns_config_set_max_waiting(ns_config *config, uint32_t count);

/**
 * Returns: the setting `max_waiting`.
 * [any]
 */
uint32_t ns_config_max_waiting(const ns_config *config);

/**
 * Sets the mode. 1: event loops, and a handler that must not block; 0 (default):
 * workers, and a handler that may block.
 *
 * Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
 * [setup]
 */
ns_status ns_config_set_non_blocking(ns_config *config, int32_t value);

/**
 * Returns: the setting `non_blocking`, 0 or 1.
 * [any]
 */
int32_t ns_config_non_blocking(const ns_config *config);

/**
 * Sets whether a service without a host listens for IPv6 as well as IPv4, on the
 * same port, where the host has it: 1 or 0 (default).
 *
 * Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
 * [setup]
 */
ns_status ns_config_set_use_ipv6(ns_config *config, int32_t value);

/**
 * Returns: the setting `use_ipv6`, 0 or 1.
 * [any]
 */
int32_t ns_config_use_ipv6(const ns_config *config);

/**
 * Sets whether other servers of the same user that have this setting may listen on
 * the same TCP ports (SO_REUSEPORT, socket(7)): 1 or 0 (default). The kernel spreads
 * the clients over them. Clients in the backlog of one that stops are reset. It is
 * not for the shutdown port.
 *
 * Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
 * [setup]
 */
ns_status ns_config_set_reuse_port(ns_config *config, int32_t value);

/**
 * Returns: the setting `reuse_port`, 0 or 1.
 * [any]
 */
int32_t ns_config_reuse_port(const ns_config *config);

/**
 * Sets whether a server in blocking mode lends its listening descriptors
 * (`ns_server_listener_fd`): 1 or 0 (default). Its workers then poll before they
 * accept, one more system call for each connection. A server in non-blocking mode
 * lends them anyway.
 *
 * Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
 * [setup]
 */
ns_status ns_config_set_lend_listeners(ns_config *config, int32_t value);

/**
 * Returns: the setting `lend_listeners`, 0 or 1.
 * [any]
 */
int32_t ns_config_lend_listeners(const ns_config *config);

/**
 * Sets the beginning of the names of the server's threads: 1 to 9 bytes without
 * control characters; default "ns". The loops are "ns-l0", "ns-l1" and so on, the
 * workers "ns-w0" and so on, the control thread is "ns-c" and that of the shutdown
 * port "ns-s". Copied.
 *
 * Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
 * [setup]
 */
ns_status ns_config_set_thread_name(ns_config *config, const char *prefix);

/**
 * Returns: the setting `thread_name`. Borrowed: valid until it is set again or the
 * config is freed.
 * [any]
 */
const char *ns_config_thread_name(const ns_config *config);

/**
 * Sets the size of the stack of each of the server's threads in bytes: 128 KiB
 * to 1 GiB; default 2 MiB. The environment variable RUST_MIN_STACK does not matter.
 *
 * Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
 * [setup]
 */
ns_status ns_config_set_stack_size(ns_config *config, size_t size);

/**
 * Returns: the setting `stack_size`.
 * [any]
 */
size_t ns_config_stack_size(const ns_config *config);

/**
 * Sets the permissions of the file of a "unix:/path" service, as for chmod(2): at
 * most 0777; default 0600: this user alone may connect. The process's umask does
 * not matter.
 *
 * Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
 * [setup]
 */
ns_status ns_config_set_unix_mode(ns_config *config, uint32_t mode);

/**
 * Returns: the setting `unix_mode`.
 * [any]
 */
uint32_t ns_config_unix_mode(const ns_config *config);

/**
 * Sets how many connections may be open. At that number accepting pauses, and
 * clients wait in the backlog. 0 (default): what the limit of open files allows.
 *
 * Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
 * [setup]
 */
ns_status ns_config_set_max_connections(ns_config *config, uint32_t count);

/**
 * Returns: the setting `max_connections`.
 * [any]
 */
uint32_t ns_config_max_connections(const ns_config *config);

/**
 * Sets the length of the kernel's queue of connections that are not yet accepted:
 * 1 to 65535, default 4096. The kernel's own limit applies too.
 *
 * Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
 * [setup]
 */
ns_status ns_config_set_backlog(ns_config *config, uint32_t count);

/**
 * Returns: the setting `backlog`.
 * [any]
 */
uint32_t ns_config_backlog(const ns_config *config);

/**
 * Sets how long a TLS handshake may take as a whole before the library ends it:
 * milliseconds, 0 to 2^31 - 1, default 10000. 0 is not off: handshakes time out.
 *
 * Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
 * [setup]
 */
ns_status ns_config_set_handshake_timeout_ms(ns_config *config, uint32_t time);

/**
 * Returns: the setting `handshake_timeout`, in milliseconds.
 * [any]
 */
uint32_t ns_config_handshake_timeout_ms(const ns_config *config);

/**
 * Non-blocking mode: sets how many TLS handshakes may be in progress at the same
 * time; others wait. Default 1024; 0: no bound. Each loop has an equal part of it,
 * at least one. A client counts when its whole first record has come.
 *
 * Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
 * [setup]
 */
ns_status ns_config_set_max_handshakes(ns_config *config, uint32_t count);

/**
 * Returns: the setting `max_handshakes`.
 * [any]
 */
uint32_t ns_config_max_handshakes(const ns_config *config);

/**
 * Sets how long a connection may be without a byte, or an acknowledgement, in
 * either direction before the library closes it: milliseconds, 1 to 2^31 - 1; 0
 * (default) is off. A worker checks it while its handler waits in a call: the call
 * returns NS_ERR_TIMEOUT, and the library closes the connection.
 *
 * Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
 * [setup]
 */
ns_status ns_config_set_idle_timeout_ms(ns_config *config, uint32_t time);

/**
 * Returns: the setting `idle_timeout`, in milliseconds; 0 is off.
 * [any]
 */
uint32_t ns_config_idle_timeout_ms(const ns_config *config);

/**
 * Sets how long a blocking `recv` or `send` may wait before it returns
 * NS_ERR_TIMEOUT: milliseconds, 1 to 2^31 - 1; 0 (default) is off.
 *
 * Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
 * [setup]
 */
ns_status ns_config_set_io_timeout_ms(ns_config *config, uint32_t time);

/**
 * Returns: the setting `io_timeout`, in milliseconds; 0 is off.
 * [any]
 */
uint32_t ns_config_io_timeout_ms(const ns_config *config);

/**
 * Sets how long the queued bytes of a connection may make no progress before the
 * library closes it: milliseconds, 1 to 2^31 - 1; 0 is off; default 30000. It is
 * progress when the kernel takes some of them, or the peer acknowledges some.
 *
 * Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
 * [setup]
 */
ns_status ns_config_set_write_timeout_ms(ns_config *config, uint32_t time);

/**
 * Returns: the setting `write_timeout`, in milliseconds; 0 is off.
 * [any]
 */
uint32_t ns_config_write_timeout_ms(const ns_config *config);

/**
 * Sets how long the library discards the input of a closed connection, until the
 * peer closes: milliseconds, 0 to 2^31 - 1, default 1000. In blocking mode it does
 * so only where input is unread or output is not acknowledged. For a connection of
 * a worker and for a detached one this also bounds how long the library goes on
 * sending what is unsent; on a loop `write_timeout` bounds that.
 *
 * Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
 * [setup]
 */
ns_status ns_config_set_linger_timeout_ms(ns_config *config, uint32_t time);

/**
 * Returns: the setting `linger_timeout`, in milliseconds.
 * [any]
 */
uint32_t ns_config_linger_timeout_ms(const ns_config *config);

/**
 * Sets how long a stop lets handlers finish and bytes leave before it cuts what is
 * left: milliseconds, 0 to 2^31 - 1, default 5000.
 *
 * Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
 * [setup]
 */
ns_status ns_config_set_drain_timeout_ms(ns_config *config, uint32_t time);

/**
 * Returns: the setting `drain_timeout`, in milliseconds.
 * [any]
 */
uint32_t ns_config_drain_timeout_ms(const ns_config *config);

/**
 * Sets the time of TCP keep-alive, which notices a peer that has vanished:
 * milliseconds, rounded up to seconds, 1 to 32767000; 0 is off; default 60000.
 *
 * Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
 * [setup]
 */
ns_status ns_config_set_keep_alive_ms(ns_config *config, uint32_t time);

/**
 * Returns: the setting `keep_alive`, in milliseconds; 0 is off.
 * [any]
 */
uint32_t ns_config_keep_alive_ms(const ns_config *config);

/**
 * Sets whether small pieces leave immediately (TCP_NODELAY): 1 (default) or 0.
 *
 * Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
 * [setup]
 */
ns_status ns_config_set_no_delay(ns_config *config, int32_t value);

/**
 * Returns: the setting `no_delay`, 0 or 1.
 * [any]
 */
int32_t ns_config_no_delay(const ns_config *config);

/**
 * Non-blocking mode: sets the number of queued outbound bytes above which the
 * library stops reading a connection, until less than half of that is queued: 1
 * to `send_limit`, default 262144.
 *
 * Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
 * [setup]
 */
ns_status ns_config_set_high_water_mark(ns_config *config, size_t bytes);

/**
 * Returns: the setting `high_water_mark`, in bytes.
 * [any]
 */
size_t ns_config_high_water_mark(const ns_config *config);

/**
 * Non-blocking mode: sets the number of queued outbound bytes to which a queue has
 * shrunk when `on_drain` reports it: 0 (when it is empty) to `send_limit`, default
 * 0.
 *
 * Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
 * [setup]
 */
ns_status ns_config_set_low_water_mark(ns_config *config, size_t bytes);

/**
 * Returns: the setting `low_water_mark`, in bytes.
 * [any]
 */
size_t ns_config_low_water_mark(const ns_config *config);

/**
 * Non-blocking mode: sets how many bytes may be queued; a `send` that would pass
 * this returns NS_ERR_BUFFER_FULL: 1 to 2^31 - 1, default 16777216. Where it is less
 * than 262144, set `high_water_mark` too, which must not be more.
 *
 * Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
 * [setup]
 */
ns_status ns_config_set_send_limit(ns_config *config, size_t bytes);

/**
 * Returns: the setting `send_limit`, in bytes.
 * [any]
 */
size_t ns_config_send_limit(const ns_config *config);

/**
 * Sets the service on which a connection stops the server; "0" for any free
 * port. It has the form of the service of `ns_server_new`, but means loopback
 * unless it names a host. Copied. NULL (default): none.
 *
 * Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
 * [setup]
 */
ns_status ns_config_set_shutdown_port(ns_config *config, const char *service);

/**
 * Returns: the setting `shutdown_port`; NULL when unset. Borrowed: valid until it
 * is set again or the config is freed.
 * [any]
 */
const char *ns_config_shutdown_port(const ns_config *config);

/**
 * Turns TLS on for every connection of the server's first service. The config
 * takes its own share of `tls`, which must have a certificate when
 * `ns_server_new` freezes it. `ns_server_add_service_tls` has the TLS of further
 * services.
 *
 * Returns: 0, NS_ERR_INVALID (NULL), NS_ERR_UNSUPPORTED (a library built without
 * TLS) or NS_ERR_STATE. The first two failures are remembered like every failure of
 * a setter, so that a missing TLS object never means plain text.
 * [setup]
 */
ns_status ns_config_set_tls(ns_config *config, const ns_tls *tls);

/**
 * Turns TLS off (default): connections are plain text.
 *
 * Returns: 0, NS_ERR_INVALID (NULL config) or NS_ERR_STATE.
 * [setup]
 */
ns_status ns_config_clear_tls(ns_config *config);

/**
 * Sets how many connections one address may have open, those that wait for a
 * worker included; 0 (default) is no bound. The server closes a further one
 * immediately, by a reset and before TLS: it has no callback, `ns_stats.closed`
 * counts it under NS_CLOSE_LIMIT, and the exception handler gets NS_ERR_LIMIT
 * without a socket, at most once a second, with the number of the refused in its
 * message.
 *
 * One address is all that shares a prefix (`ns_config_set_ipv4_prefix`,
 * `ns_config_set_ipv6_prefix`); the server has one count over all its threads and
 * services. A client of a unix socket does not count, nor does an adopted,
 * outgoing or attached connection, nor a detached one from its detach on.
 *
 * Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
 * [setup]
 */
ns_status ns_config_set_max_per_address(ns_config *config, uint32_t count);

/**
 * Returns: the setting `max_per_address`.
 * [any]
 */
uint32_t ns_config_max_per_address(const ns_config *config);

/**
 * Sets how many connections one address may open in a second, on average; 0
 * (default) is no bound. A further one is refused as by `max_per_address`. A
 * connection that is refused, by whichever limit, does not count. The server
 * keeps the rates of 65536 addresses and forgets those that were used least.
 *
 * Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
 * [setup]
 */
ns_status ns_config_set_accept_rate_per_address(ns_config *config, uint32_t per_second);

/**
 * Returns: the setting `accept_rate_per_address`, in connections a second.
 * [any]
 */
uint32_t ns_config_accept_rate_per_address(const ns_config *config);

/**
 * Sets how many connections one address may open at once where it has opened none
 * for long enough; 0 (default): as many as `accept_rate_per_address`.
 *
 * Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
 * [setup]
 */
ns_status ns_config_set_accept_burst_per_address(ns_config *config, uint32_t count);

/**
 * Returns: the setting `accept_burst_per_address`.
 * [any]
 */
uint32_t ns_config_accept_burst_per_address(const ns_config *config);

/**
 * Sets how many bits of an IPv4 address make one address for the limits above: 1
 * to 32, default 32.
 *
 * Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
 * [setup]
 */
ns_status ns_config_set_ipv4_prefix(ns_config *config, uint32_t bits);

/**
 * Returns: the setting `ipv4_prefix`, in bits.
 * [any]
 */
uint32_t ns_config_ipv4_prefix(const ns_config *config);

/**
 * Sets how many bits of an IPv6 address make one address for the limits above: 1
 * to 128, default 64, which is the least that a site has (RFC 6177).
 *
 * Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
 * [setup]
 */
ns_status ns_config_set_ipv6_prefix(ns_config *config, uint32_t bits);

/**
 * Returns: the setting `ipv6_prefix`, in bits.
 * [any]
 */
uint32_t ns_config_ipv6_prefix(const ns_config *config);

/**
 * Non-blocking mode: sets how many bytes may be queued for all connections of the
 * server together, those included that were sent by id and wait for their loop; 0
 * (default) is no bound. Beyond it a send, also by id, is NS_ERR_BUFFER_FULL and
 * nothing of it is sent.
 *
 * In a callback of its connection, up to 65536 bytes for a connection that has
 * nothing queued are sent at any total, if the kernel takes bytes at that moment:
 * so a peer that reads is served although others do not. The same is true by id, in
 * other callbacks of its loop. What the kernel leaves of them is queued, beyond the
 * bound; a large message of each loop and an attached queue may pass it too.
 *
 * After a refusal `on_drain` tells when the connection's own queue has left; where
 * it has none, try again after a while, as with `ns_socket_set_timer_ms`.
 *
 * Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
 * [setup]
 */
ns_status ns_config_set_send_limit_total(ns_config *config, size_t bytes);

/**
 * Returns: the setting `send_limit_total`, in bytes.
 * [any]
 */
size_t ns_config_send_limit_total(const ns_config *config);

/**
 * Reports a failure: of a handler, a refused connection, an accept, a listener
 * that was lost; or of a TLS handshake, a PROXY header or a connect (then nothing
 * can be sent or received). Connections beyond a limit of their address are
 * reported together, once a second, without a socket.
 *
 * `socket` is NULL where there is none. Unless the connection has ended it is
 * still open, and this function can send on it. It has 250 ms for a refused
 * client; over TLS it cannot send to one, because there is no session yet.
 * `error` is borrowed: valid during the call, not to be freed. In non-blocking
 * mode the socket stays open unless this function closes it or fails.
 *
 * Returns: 0 or more for success. Any negative number but NS_ERR_WOULD_BLOCK is
 * a failure, which is counted, and which closes the connection.
 */
typedef int32_t (*ns_exception_fn)(ns_server *server,
                                   ns_socket *socket,
                                   const ns_error *error,
                                   void *user_data);

/**
 * Sets the exception handler, which the library calls on each failure. Without
 * one the library closes a connection whose handler fails.
 *
 * For all callbacks: NULL for `function` unsets the callback. `drop` (NULL:
 * none) frees `user_data` after the last call; or immediately if this fails or
 * unsets.
 *
 * Returns: 0, NS_ERR_INVALID (NULL config) or NS_ERR_STATE (in use by a server).
 * [setup] [blocks]
 */
ns_status ns_config_set_exception_handler(ns_config *config,
                                          ns_exception_fn function,
                                          void *user_data,
                                          ns_drop_fn drop);

/**
 * Serves a connection of the shutdown port, in blocking mode. A hosted server
 * calls it when bytes or the end have come, and once more after 5 s; there
 * `ns_socket_recv` does not wait.
 *
 * Returns: 0 to go on. Any other number stops the server, a negative one too:
 * here it is not a failure. On a hosted server NS_ERR_WOULD_BLOCK lets the library
 * call it again, with the next bytes.
 */
typedef int32_t (*ns_shutdown_fn)(ns_server *server, ns_socket *socket, void *user_data);

/**
 * Sets the handler of the shutdown port. It serves one peer after another; peers
 * that have sent something come first. Each has 5 s, or 500 ms if it is silent and
 * another one waits. A hosted server serves 64 at a time, 5 s each. Without a
 * handler every connection to the port stops the server.
 *
 * Returns: as `ns_config_set_exception_handler`.
 * [setup] [blocks]
 */
ns_status ns_config_set_shutdown_handler(ns_config *config,
                                         ns_shutdown_fn function,
                                         void *user_data,
                                         ns_drop_fn drop);

/**
 * Runs once in `ns_server_start`, when the ports are known and before the server
 * accepts anything.
 *
 * Returns: 0 or more for success; with a negative number the start fails.
 */
typedef int32_t (*ns_start_fn)(ns_server *server, void *user_data);

/**
 * Sets the hook that runs before the server accepts, on the thread that starts
 * it. If there is one event loop, it runs on that thread afterwards: so the hook
 * cannot wait for anything that the loop does.
 *
 * Returns: as `ns_config_set_exception_handler`.
 * [setup] [blocks]
 */
ns_status ns_config_set_on_start(ns_config *config,
                                 ns_start_fn function,
                                 void *user_data,
                                 ns_drop_fn drop);

/** Runs once, after the last connection has ended, whatever stopped the server. */
typedef void (*ns_stop_fn)(ns_server *server, void *user_data);

/**
 * Sets the hook that runs when the server has stopped.
 *
 * Returns: as `ns_config_set_exception_handler`.
 * [setup] [blocks]
 */
ns_status ns_config_set_on_stop(ns_config *config,
                                ns_stop_fn function,
                                void *user_data,
                                ns_drop_fn drop);

/**
 * Sets the hook that runs once after the server has stopped accepting
 * (`ns_server_quiesce`), before that call returns; not where a stop comes first. It
 * runs on the thread of the first loop; in blocking mode on the control thread.
 *
 * Returns: as `ns_config_set_exception_handler`.
 * [setup] [blocks]
 */
ns_status ns_config_set_on_quiesce(ns_config *config,
                                   ns_stop_fn function,
                                   void *user_data,
                                   ns_drop_fn drop);

/** `on_thread_start`: an event loop. Its number is that of its loop. */
#define NS_THREAD_LOOP 0

/** `on_thread_start`: a worker. Its number counts the workers. */
#define NS_THREAD_WORKER 1

/**
 * `on_thread_start`: the thread that stops a server in the background. A server
 * with one loop has none.
 */
#define NS_THREAD_CONTROL 2

/** `on_thread_start`: the thread of the shutdown port. */
#define NS_THREAD_SHUTDOWN 3

/**
 * Runs first on each thread that the library makes; `kind` is an
 * `NS_THREAD_...`, and `number` counts the threads of a kind from 0.
 *
 * Returns: 0 or more for success; with a negative number the start fails.
 */
typedef int32_t (*ns_thread_start_fn)(ns_server *server,
                                      int32_t kind,
                                      uint32_t number,
                                      void *user_data);

/**
 * Sets the hook that runs first on each thread that the library makes, before
 * `on_start`, on several threads at the same time. It never runs on a thread of
 * the program's own, such as one that calls `ns_server_start` and becomes a loop.
 * The server has no ports yet, and nothing can be attached to it.
 *
 * Returns: as `ns_config_set_exception_handler`.
 * [setup] [blocks]
 */
ns_status ns_config_set_on_thread_start(ns_config *config,
                                        ns_thread_start_fn function,
                                        void *user_data,
                                        ns_drop_fn drop);

/**
 * Runs last on each thread that the library makes, with the arguments of its
 * `on_thread_start`.
 */
typedef void (*ns_thread_stop_fn)(ns_server *server,
                                  int32_t kind,
                                  uint32_t number,
                                  void *user_data);

/**
 * Sets the hook that runs last on each thread that the library makes: once for
 * each `on_thread_start`, also for one that failed, and before the state is
 * NS_STATE_STOPPED or a start that fails returns.
 *
 * Returns: as `ns_config_set_exception_handler`.
 * [setup] [blocks]
 */
ns_status ns_config_set_on_thread_stop(ns_config *config,
                                       ns_thread_stop_fn function,
                                       void *user_data,
                                       ns_drop_fn drop);

/**
 * Reports a new connection: it was accepted, and over TLS its handshake is over.
 *
 * Returns: 0 or more for success; NS_ERR_WOULD_BLOCK is no failure.
 * NS_ERR_REJECTED refuses the connection: the library closes it, after what this
 * has sent. With another negative number the library calls the exception handler
 * and closes the connection immediately.
 */
typedef int32_t (*ns_open_fn)(ns_server *server, ns_socket *socket, void *user_data);

/**
 * Sets the callback that runs for each new connection, before its handler.
 *
 * Returns: as `ns_config_set_exception_handler`.
 * [setup] [blocks]
 */
ns_status ns_config_set_on_open(ns_config *config,
                                ns_open_fn function,
                                void *user_data,
                                ns_drop_fn drop);

/**
 * Reports the end of a connection; `reason` is an `NS_CLOSE_...`. It is the last
 * callback of each connection for which `on_open` was due, except for a
 * connection that was detached.
 */
typedef void (*ns_close_fn)(ns_server *server,
                            ns_socket *socket,
                            int32_t reason,
                            void *user_data);

/**
 * Sets the callback that runs last for each connection.
 *
 * Returns: as `ns_config_set_exception_handler`.
 * [setup] [blocks]
 */
ns_status ns_config_set_on_close(ns_config *config,
                                 ns_close_fn function,
                                 void *user_data,
                                 ns_drop_fn drop);

/**
 * Reports an event of a connection: `on_drain`, `on_timeout`, `on_wake`.
 *
 * Returns: as the handler (`ns_handler_fn`).
 */
typedef int32_t (*ns_event_fn)(ns_server *server, ns_socket *socket, void *user_data);

/**
 * Non-blocking mode: sets the callback that runs when all queued bytes of a
 * connection have left, or when no more than `low_water_mark` of them are left
 * (`ns_config_set_low_water_mark`). It runs during a stop too: what it then sends is
 * the rest of a reply, and the library closes the connection when it sends no more.
 *
 * Returns: as `ns_config_set_exception_handler`.
 * [setup] [blocks]
 */
ns_status ns_config_set_on_drain(ns_config *config,
                                 ns_event_fn function,
                                 void *user_data,
                                 ns_drop_fn drop);

/**
 * Non-blocking mode: sets the callback that runs when a connection's timer
 * fires. Without one the library closes the connection.
 *
 * Returns: as `ns_config_set_exception_handler`.
 * [setup] [blocks]
 */
ns_status ns_config_set_on_timeout(ns_config *config,
                                   ns_event_fn function,
                                   void *user_data,
                                   ns_drop_fn drop);

/**
 * Non-blocking mode: sets the callback that runs on a connection's loop after
 * `ns_server_wake`.
 *
 * Returns: as `ns_config_set_exception_handler`.
 * [setup] [blocks]
 */
ns_status ns_config_set_on_wake(ns_config *config,
                                ns_event_fn function,
                                void *user_data,
                                ns_drop_fn drop);

/** `ns_config_set_logger`: a listener was lost, or a loop has ended. */
#define NS_LOG_ERROR 1

/**
 * `ns_config_set_logger`: a peer was turned away, accepting failed, or a reload
 * did.
 */
#define NS_LOG_WARN 2

/** `ns_config_set_logger`: the start, the addresses, the stop, a reload. */
#define NS_LOG_INFO 3

/** `ns_config_set_logger`: for those who look for a fault; no line has it yet. */
#define NS_LOG_DEBUG 4

/**
 * Gets a line of the log. `level` is an `NS_LOG_...`; `id` is the connection's, 0
 * where the line is about none; `text` is borrowed: one line of UTF-8 without its
 * end, never key material, never what a peer has sent.
 */
typedef void (*ns_log_fn)(int32_t level, ns_conn_id id, const char *text, void *user_data);

/**
 * Sets the function that gets the log of a server, up to and including `level`.
 * Without one no text is made.
 *
 * There is a line for the start and for each address, for the stop with its
 * counts and for each reload of TLS settings; and for failures to accept, refused
 * connections and those beyond a limit, refused PROXY headers and failed TLS
 * handshakes, of each of these kinds one in a second with the number of those that
 * were left out, the last number at the stop.
 *
 * The library calls the function on its threads and in calls with the tag
 * [blocks], on several threads at the same time and under no lock. The function
 * counts as a callback of the server, and may call it; what it causes on its own
 * thread is not logged, and a server that it makes has no log.
 *
 * Returns: as `ns_config_set_exception_handler`; NS_ERR_INVALID also for another
 * level, if `function` is not NULL.
 * [setup] [blocks]
 */
ns_status ns_config_set_logger(ns_config *config,
                               int32_t level,
                               ns_log_fn function,
                               void *user_data,
                               ns_drop_fn drop);

/* ============================================================================================
 * SERVER: make, start, stop, free
 * ============================================================================================ */

/**
 * Serves a connection.
 *
 * Blocking mode: the library calls it once for each connection and closes the
 * socket when it returns; it may block. Non-blocking mode: the library calls it
 * whenever the socket can be read; it must not block, and closes the socket
 * itself. What it leaves unread makes the library call it again; if it reads
 * nothing, the next call comes only when more input arrives.
 *
 * Returns: 0 or more for success; NS_ERR_WOULD_BLOCK is no failure. Another
 * negative number (your own, or a status) is a failure, on which the library
 * calls the exception handler.
 */
typedef int32_t (*ns_handler_fn)(ns_server *server, ns_socket *socket, void *user_data);

/**
 * Makes a server, which does not listen yet.
 *
 * `service` is where it will listen (`ns_server_add_service` adds further places):
 * "5000", "http", "0" or NULL (any free port), "127.0.0.1:5000", "[::1]:5000";
 * "unix:/path", "unix:@name" (unix(7); a path or name has at most 107 bytes);
 * "fd:3", a descriptor of yours that listens, of which the server takes a
 * duplicate; "systemd" or "systemd:NAME", the sockets that systemd passed to this
 * process (sd_listen_fds(3)). The start looks at a descriptor; it sets O_NONBLOCK
 * on the socket, and the stop does not end it. A port is digits alone, at most
 * 65535, or a name of services(5), which has a letter. `handler` serves the
 * connections; `drop` (NULL: none) frees its `user_data` with the server, or
 * immediately if this fails. `config` is NULL for the defaults; the server takes
 * its own share of it. `err`: see RESULTS.
 *
 * Returns: the server, yours to free with `ns_server_free`; NULL on failure:
 * NS_ERR_INVALID (an argument, or what a setter of the config refused),
 * NS_ERR_STATE (a setter of the TLS object came too late), NS_ERR_CERTIFICATE
 * (TLS without a certificate, or what a setter of the TLS object refused),
 * NS_ERR_TLS, NS_ERR_IO (no descriptor left).
 * [any] [blocks]
 */
ns_server *ns_server_new(const char *service,
                         ns_handler_fn handler,
                         void *user_data,
                         ns_drop_fn drop,
                         const ns_config *config,
                         ns_error **err);

/**
 * `ns_server_start`: return as soon as the server accepts, instead of when it
 * has stopped.
 */
#define NS_START_BACKGROUND 1

/**
 * `ns_server_start`: make no thread, and return as soon as the server accepts;
 * the program runs it by `ns_server_run_once`.
 */
#define NS_START_HOSTED 2

/**
 * Starts a server: binds, makes the threads, runs `on_start`, accepts.
 *
 * With `flags` 0 the call returns when the server has stopped; with
 * NS_START_BACKGROUND as soon as it accepts: its ports are final then. In
 * non-blocking mode with one loop and `flags` 0 the callbacks run on the calling
 * thread, which may also get the program's signals.
 *
 * With NS_START_HOSTED the server makes no thread at all; the calling thread is
 * the host's (see `ns_server_run_once`). It needs non-blocking mode with
 * `max_thread` 1, else NS_ERR_INVALID. `err`: see RESULTS.
 *
 * Returns: 0, or NS_ERR_INVALID, NS_ERR_STATE (started before), NS_ERR_ADDRESS,
 * NS_ERR_LISTEN, NS_ERR_THREAD, NS_ERR_HOOK, NS_ERR_IO. A
 * failed start leaves nothing behind and may be tried again.
 * [any] [blocks]
 */
ns_status ns_server_start(ns_server *server, uint32_t flags, ns_error **err);

/**
 * Stops a server, and returns when it has stopped.
 *
 * No handler starts any more. Running ones may finish and queued bytes may leave
 * until the config's `drain_timeout`. Then the stop cuts what is left, for as
 * long as that ends connections. `on_drain` is still called, and may send more;
 * `on_wake` and `on_timeout` are not. A connection with nothing queued looks
 * finished: where another thread or connection still has a part of its answer
 * (`ns_server_send`), abort it before, or its peer takes the beginning for all. In
 * a callback this only requests the stop, and returns 0 immediately.
 *
 * Returns: 0, also if it was never started or has stopped; NS_ERR_TIMEOUT if a
 * handler or `on_start` does not return within 80 ms of the cut (the server goes
 * on stopping); NS_ERR_INVALID for NULL.
 * [any] [blocks]
 */
ns_status ns_server_stop(ns_server *server);

/**
 * `ns_server_stop` with another drain deadline: 0 to 2^31 - 1 milliseconds.
 *
 * Returns: as `ns_server_stop`; NS_ERR_INVALID for another number.
 * [any] [blocks]
 */
ns_status ns_server_stop_within(ns_server *server, int64_t ms);

/**
 * Requests a stop and returns immediately; it keeps errno. The server remembers a
 * request before its start: then the start returns 0 immediately and runs no
 * hook.
 *
 * Returns: 0 or NS_ERR_INVALID.
 * [any] [signal]
 */
ns_status ns_server_request_stop(ns_server *server);

/**
 * Waits until the server has stopped, whatever stopped it.
 *
 * Returns: 0 when it has stopped, or was never started; NS_ERR_TIMEOUT after
 * `timeout_ms` milliseconds (-1: wait forever); NS_ERR_DEADLOCK in a callback;
 * NS_ERR_INVALID for NULL and for a number below -1.
 * [any] [blocks]
 */
ns_status ns_server_wait(ns_server *server, int64_t timeout_ms);

/**
 * Returns: a descriptor that is readable (poll(2), select(2), epoll(7), level- or
 * edge-triggered) exactly when `ns_server_run_once` has something to do: events,
 * calls of other threads, due deadlines, a requested stop. It belongs to the
 * server, is the same from the start to `ns_server_free`, and stays readable after
 * the stop. NS_ERR_STATE where the server is not hosted or not started;
 * NS_ERR_INVALID for NULL.
 * [any]
 */
int32_t ns_server_poll_fd(ns_server *server);

/**
 * Runs one bounded turn of a hosted server. If there is nothing to do it waits for
 * that, `timeout_ms` milliseconds at most (-1: forever); a signal ends the wait.
 * The callbacks of a hosted server run only in this call, in `ns_server_stop`,
 * `ns_server_wait`, `ns_server_quiesce`, `ns_server_wait_idle` and
 * `ns_server_free`, on the calling thread, which is the host's from then on: the
 * first four run turns on it until what they wait for has come, and on another
 * thread they wait for the host's turns.
 * `while (ns_server_run_once(server, -1) == 0) ;` serves until the stop.
 *
 * Returns: 0 when a turn was done or the time has passed; NS_ERR_STATE before the
 * start, once stopped, and where the server is not hosted; NS_ERR_BUSY in a
 * callback and while another thread runs turns, in one of these calls;
 * NS_ERR_INVALID for NULL and other numbers.
 * [any] [blocks]
 */
ns_status ns_server_run_once(ns_server *server, int64_t timeout_ms);

/**
 * Stops as `ns_server_stop` does, then frees: the connections' data, the
 * callbacks, the context, in this order, with their drop functions. Other threads
 * may be in `ns_server_start`, `_stop`, `_wait`, `_run_once`, `_quiesce` and
 * `_wait_idle` meanwhile, which return first; they must be in no other call.
 *
 * Returns: 0, also for NULL; NS_ERR_BUSY in a callback; NS_ERR_TIMEOUT if a
 * handler does not return. After a failure nothing is freed, and you may call it
 * again.
 * [any] [blocks]
 */
ns_status ns_server_free(ns_server *server);

/**
 * Returns: 1 before the start and after the stop, also for NULL; else 0.
 * [any]
 */
int32_t ns_server_is_stopped(const ns_server *server);

/** The server was made and not yet started. */
#define NS_STATE_NEW 0

/** `ns_server_start` is in progress. */
#define NS_STATE_STARTING 1

/** The server accepts connections. */
#define NS_STATE_RUNNING 2

/** A stop was requested and is in progress. */
#define NS_STATE_STOPPING 3

/**
 * The server has stopped: no descriptor of it is left. Its last thread is ending;
 * `ns_server_stop`, `ns_server_wait` and `ns_server_free` join it.
 */
#define NS_STATE_STOPPED 4

/**
 * The server accepts no more and goes on to serve what it has
 * (`ns_server_quiesce`).
 */
#define NS_STATE_QUIESCING 5

/**
 * Returns: an `NS_STATE_...`; NS_STATE_NEW for NULL.
 * [any]
 */
int32_t ns_server_state(const ns_server *server);

/**
 * Returns: the port of its first service, in host byte order; 0 before the start
 * and for a unix socket.
 * [any]
 */
uint16_t ns_server_port(const ns_server *server);

/**
 * Returns: the shutdown port, in host byte order; 0 before the start and where
 * there is none.
 * [any]
 */
uint16_t ns_server_shutdown_port(const ns_server *server);

/**
 * Writes the address that its first service listens on as text, "0.0.0.0:5000" or
 * "unix:/path", several joined by ", "; "" before the start. It writes as
 * `snprintf` does: at most `len` bytes with the final NUL.
 *
 * Returns: the length of the whole text without the NUL.
 * [any]
 */
size_t ns_server_address(const ns_server *server, char *buf, size_t len);

/**
 * Returns: the config that the server was made with (one with the defaults if that
 * was NULL). Borrowed: not to be freed, valid as long as the server. NULL for
 * NULL.
 * [any]
 */
const ns_config *ns_server_config(const ns_server *server);

/**
 * Returns: the pointer that `ns_server_set_context` got; NULL if there is none.
 * [any]
 */
void *ns_server_context(const ns_server *server);

/**
 * Keeps a pointer of the program's with the server. `drop` (NULL: none) frees it:
 * last in `ns_server_free`, or when it is replaced, or immediately if this fails.
 *
 * Returns: 0, NS_ERR_INVALID (NULL server) or NS_ERR_STATE (started).
 * [setup] [blocks]
 */
ns_status ns_server_set_context(ns_server *server, void *context, ns_drop_fn drop);

/**
 * Stops accepting for good, and returns when the listening descriptors are closed
 * and `on_quiesce` has returned.
 *
 * Before, the server takes what waits in the kernel's backlog, also beyond
 * `max_connections`; but what waits at a socket that others have too ("fd:",
 * "systemd", or lent by `ns_server_listener_fd`) is left to them. Open and waiting
 * connections are served on, TLS handshakes too, and the shutdown port,
 * `ns_attach`, `ns_server_adopt` and `ns_server_connect` go on, until
 * `ns_server_stop`. While descriptors are used up the server tries for a second to
 * take the rest of the backlog; then the kernel resets it. A client that connects
 * just when an unshared TCP socket is closed may be reset too: lend the socket to a
 * successor, and none is.
 *
 * In a callback this only requests it, and returns 0 immediately. A hosted server
 * does it in its turns: on the host's thread this call runs them, on another thread
 * it waits for them. A second call waits for the same quiesce.
 *
 * Returns: 0, also in a stop and after it; NS_ERR_STATE before the start;
 * NS_ERR_TIMEOUT if a callback does not return, or nobody runs the turns of a hosted
 * server, within the drain timeout and a second (the quiesce goes on);
 * NS_ERR_INVALID for NULL.
 * [any] [blocks]
 */
ns_status ns_server_quiesce(ns_server *server);

/**
 * Requests a quiesce and returns immediately; it keeps errno.
 *
 * Returns: 0, also in a stop and after it; NS_ERR_STATE before the start;
 * NS_ERR_INVALID for NULL.
 * [any] [signal]
 */
ns_status ns_server_request_quiesce(ns_server *server);

/**
 * Waits until no connection of the server is open or waiting, usually after
 * `ns_server_quiesce` and before `ns_server_stop`: a server that accepts may have
 * one again. A connection is open before `on_open` too (the PROXY header, the TLS
 * handshake, a connect), and in non-blocking mode while it lingers; one that is
 * being refused is waiting. Detached sockets and the shutdown port's peers do not
 * count. On a hosted server's own thread this call runs turns, on another one it
 * waits for them.
 *
 * Returns: 0 when there is none, also before the start and after the stop;
 * NS_ERR_TIMEOUT after `timeout_ms` milliseconds (-1: wait forever);
 * NS_ERR_DEADLOCK in a callback; NS_ERR_INVALID for NULL and for a number below -1.
 * [any] [blocks]
 */
ns_status ns_server_wait_idle(ns_server *server, int64_t timeout_ms);

/**
 * Returns: 1 while the server accepts: from the start until a quiesce or a stop is
 * requested; else 0, also for NULL.
 * [any]
 */
int32_t ns_server_is_ready(const ns_server *server);

/**
 * Lends a listening descriptor of the services: `number` is 0, 1, ... in the order
 * of the services; one with several addresses has a descriptor for each. Borrowed:
 * the server's, close-on-exec, not to be closed, valid until a quiesce or a stop
 * begins. You may give it to a successor, as a duplicate that execve(2) keeps
 * ("fd:N") or over a unix socket (SCM_RIGHTS, unix(7)).
 *
 * From now on the server regards the socket as one that others have too: a quiesce
 * and a stop do not end it, and leave what waits in its backlog, and the file of a
 * "unix:" service, to them. Where nobody has it, because no successor has started,
 * the kernel then resets what waits. A blocking server needs
 * `ns_config_set_lend_listeners`.
 *
 * Returns: the descriptor; NS_ERR_INVALID for NULL and for a number that no
 * descriptor has; NS_ERR_STATE before the start and once it is closed;
 * NS_ERR_UNSUPPORTED for a blocking server without that setting.
 * [any]
 */
int32_t ns_server_listener_fd(ns_server *server, uint32_t number);

/**
 * Adds a service without TLS: the server listens there too when it starts.
 * `service` is as for `ns_server_new`, but NULL is an error. The service of
 * `ns_server_new` has the number 0, and the config's TLS is for that one alone.
 * All services share the server's handler, callbacks, threads and limits;
 * accepting takes turns. If one of them cannot listen, the start fails. A server
 * has at most 4096 services. `err`: see RESULTS.
 *
 * Returns: the service's number, 1 or more; or NS_ERR_INVALID, NS_ERR_STATE (the
 * server has been started).
 * [setup]
 */
int32_t ns_server_add_service(ns_server *server, const char *service, ns_error **err);

/**
 * Adds a service as `ns_server_add_service` does, one whose connections go through
 * TLS with the certificates of `tls`. That is frozen from now on; the server takes
 * its own share of it. NULL is an error: it makes no service without TLS.
 *
 * Returns: the service's number, 1 or more; or NS_ERR_INVALID, NS_ERR_STATE (the
 * server has been started, or a setter of `tls` came too late),
 * NS_ERR_CERTIFICATE (no certificate), NS_ERR_TLS, or the remembered failure of a
 * setter of `tls`.
 * [setup]
 */
int32_t ns_server_add_service_tls(ns_server *server,
                                  const char *service,
                                  const ns_tls *tls,
                                  ns_error **err);

/**
 * Does for one service what `ns_server_reload_tls` does for the first.
 *
 * Returns: as `ns_server_reload_tls`; NS_ERR_INVALID also for a number that no
 * service has.
 * [any] [blocks]
 */
ns_status ns_server_reload_service_tls(ns_server *server,
                                       uint32_t service,
                                       const ns_tls *tls,
                                       ns_error **err);

/**
 * Writes the address that one service listens on, as `ns_server_address` does for
 * the first; "" also for a number that no service has.
 *
 * Returns: the length of the whole text without the NUL.
 * [any]
 */
size_t ns_server_service_address(const ns_server *server,
                                 uint32_t service,
                                 char *buf,
                                 size_t len);

/* ============================================================================================
 * SOCKET: in the callbacks of a connection, or detached
 * ============================================================================================ */

/**
 * Reads at most `len` bytes into `buf`; `len` is 1 or more.
 *
 * Returns: the number of bytes; 0 at the end of the stream; or a negative
 * status: NS_ERR_WOULD_BLOCK (non-blocking mode: nothing can be read now; never
 * from the first call in a handler, unless another callback took the input),
 * NS_ERR_TIMEOUT (`io_timeout`; or `idle_timeout`, which closes the connection),
 * NS_ERR_RESET, NS_ERR_TRUNCATED (TLS: the stream ended without close_notify),
 * NS_ERR_CLOSED, NS_ERR_DETACHED, NS_ERR_NOT_IN_HANDLER, NS_ERR_TLS,
 * NS_ERR_NO_MEMORY, NS_ERR_IO, NS_ERR_INVALID.
 * [handler] [blocks, in blocking mode]
 */
int64_t ns_socket_recv(ns_socket *socket, void *buf, size_t len);

/**
 * Sends all `len` bytes at `buf`.
 *
 * Blocking mode: the call returns when the kernel has them. After
 * NS_ERR_TIMEOUT (`io_timeout`) a part of them was sent and the rest will not
 * be. The size of that part is not known, so the stream is of use only to a
 * program that can find it out by other means. Non-blocking mode: the call sends
 * all of them or none; it copies what the kernel does not take, and the library
 * writes that later. There, what a callback sends after its first send is gathered,
 * see `ns_socket_flush`.
 *
 * Returns: 0 or a negative status: NS_ERR_BUFFER_FULL (non-blocking mode: above
 * `send_limit`; nothing was sent), NS_ERR_TIMEOUT, NS_ERR_RESET, NS_ERR_CLOSED,
 * NS_ERR_DETACHED, NS_ERR_NOT_IN_HANDLER, NS_ERR_TLS, NS_ERR_NO_MEMORY,
 * NS_ERR_IO, NS_ERR_INVALID.
 * [handler] [blocks, in blocking mode]
 */
ns_status ns_socket_send(ns_socket *socket, const void *buf, size_t len);

/**
 * Sends `len` bytes of a file from `offset` on, as `ns_socket_send` would send them,
 * and returns how many it has accepted. The offset of the descriptor `fd` does not
 * count and stays as it is. `fd` is yours.
 *
 * Non-blocking mode: the call accepts as many as the kernel takes now, 1 MiB at
 * most, and queues up to 64 KiB behind them. Where that is fewer than `len`,
 * `on_drain` comes when you can go on with the rest; until then the call accepts 0.
 * Without TLS the kernel takes the bytes from the file by itself (sendfile(2)): what
 * changes in the file before the peer has acknowledged it may change in what the
 * peer gets. Up to 16 KiB that come after another send are read and gathered
 * (`ns_socket_flush`); a head that `ns_socket_cork` has gathered leaves together with
 * the file. Blocking mode, and an owned socket: the call accepts all, and
 * `io_timeout` holds for each 64 KiB. Each mode waits for a slow disk.
 *
 * Returns: the number of bytes, or a negative status: NS_ERR_IO where the file
 * cannot be read, or ends before these bytes do (the connection stays open, and a
 * part may have been sent); NS_ERR_INVALID for a negative `fd` and for an end beyond
 * 2^63 - 1; else those of `ns_socket_send`.
 * [handler] [blocks, in blocking mode]
 */
int64_t ns_socket_sendfile(ns_socket *socket, int fd, uint64_t offset, uint64_t len);

/**
 * `ns_socket_send` of `count` pieces in a row, at most 1024: `lens[i]` bytes at
 * `bufs[i]`. What holds for `ns_socket_send` holds for all of them together.
 *
 * Returns: as `ns_socket_send`.
 * [handler] [blocks, in blocking mode]
 */
ns_status ns_socket_sendv(ns_socket *socket,
                          const void *const *bufs,
                          const size_t *lens,
                          size_t count);

/**
 * Sends immediately what was gathered. In non-blocking mode this is what the
 * callback has sent after its first send, and where the connection's last callback
 * has gathered several sends, the first one too: `ns_socket_send` copies it, and
 * it leaves together when the callback returns, when it is 64 KiB, or by this
 * call; a failure of that is one of queued bytes. Until it has left it counts in
 * `ns_socket_queued` and against `send_limit`, but not against `high_water_mark`,
 * and `on_drain` does not come for it, unless the program has seen it: in
 * `ns_socket_queued` or `ns_server_queued`, or by NS_ERR_BUFFER_FULL. In blocking
 * mode this is what was sent since `ns_socket_cork`, and the call waits as
 * `ns_socket_send` does, also for what was queued before it: after 0 nothing is
 * queued. After NS_ERR_TIMEOUT the rest stays queued, and leaves before what is
 * sent next.
 *
 * Returns: 0; NS_ERR_CLOSED, NS_ERR_DETACHED, NS_ERR_NOT_IN_HANDLER or
 * NS_ERR_INVALID; in blocking mode also the errors of `ns_socket_send`.
 * [handler] [blocks, in blocking mode]
 */
ns_status ns_socket_flush(ns_socket *socket);

/**
 * Blocking mode, and an owned socket: gathers what is sent from now on, until
 * `ns_socket_uncork`, so that small sends leave together; over TLS in as few
 * records as possible. Corks nest. What was gathered also leaves before a
 * `ns_socket_recv` that waits, when it is 64 KiB, by `ns_socket_flush`, and at
 * every end: when the handler returns, when the connection is closed, half-closed
 * or attached, before STARTTLS. A return, a close and a half-close wait for it as
 * `ns_socket_send` does; an error that a return meets goes to the exception
 * handler. `ns_socket_free` waits for `linger_timeout`. In non-blocking mode,
 * where every callback gathers, its first send is gathered too from here on, and
 * `ns_socket_uncork` does nothing.
 *
 * Returns: 0, NS_ERR_CLOSED, NS_ERR_DETACHED, NS_ERR_NOT_IN_HANDLER or
 * NS_ERR_INVALID.
 * [handler]
 */
ns_status ns_socket_cork(ns_socket *socket);

/**
 * Takes one `ns_socket_cork` back. The last one sends what was gathered, and waits
 * for that as `ns_socket_send` does.
 *
 * Returns: 0; NS_ERR_STATE without a cork; else as `ns_socket_send`.
 * [handler] [blocks, in blocking mode]
 */
ns_status ns_socket_uncork(ns_socket *socket);

/** `ns_socket_shutdown`: no more reading. */
#define NS_SHUT_RD 0

/**
 * `ns_socket_shutdown`: no more writing; the peer sees the end of the stream
 * after what was already sent.
 */
#define NS_SHUT_WR 1

/** `ns_socket_shutdown`: no more reading and no more writing. */
#define NS_SHUT_RDWR 2

/**
 * Ends one direction or both: NS_SHUT_RD, NS_SHUT_WR, NS_SHUT_RDWR. What is
 * queued leaves first. In blocking mode this waits for `linger_timeout` at most.
 *
 * Returns: 0, NS_ERR_CLOSED, NS_ERR_DETACHED, NS_ERR_NOT_IN_HANDLER or
 * NS_ERR_INVALID.
 * [handler] [blocks, in blocking mode]
 */
ns_status ns_socket_shutdown(ns_socket *socket, int32_t how);

/**
 * Closes the connection. What is queued leaves first: in blocking mode this waits
 * for it, for `linger_timeout` at most. The object lives until the callback
 * returns, an owned one until `ns_socket_free`. Closing twice is harmless.
 * Receiving and sending return NS_ERR_CLOSED from then on: a handler that reads
 * in a loop leaves it.
 *
 * Returns: 0, NS_ERR_DETACHED, NS_ERR_NOT_IN_HANDLER or NS_ERR_INVALID.
 * [handler] [blocks, in blocking mode]
 */
ns_status ns_socket_close(ns_socket *socket);

/**
 * Resets the connection; what is queued is lost. Otherwise as `ns_socket_close`.
 *
 * Returns: as `ns_socket_close`.
 * [handler]
 */
ns_status ns_socket_abort(ns_socket *socket);

/**
 * Returns: 1 if the connection is closed or cannot be used here (NULL, detached,
 * not in its callback), also in the exception handler after a TLS handshake or a
 * PROXY header that failed; else 0.
 * [handler]
 */
int32_t ns_socket_is_closed(const ns_socket *socket);

/**
 * Returns: the connection's id, after `ns_detach` too; 0 where the connection cannot
 * be used here.
 * [handler]
 */
ns_conn_id ns_socket_id(const ns_socket *socket);

/**
 * The descriptor, for getsockopt(2) and the like: not to read, write or close.
 *
 * Returns: the descriptor; -1 where there is none any more.
 * [handler]
 */
int ns_socket_fd(const ns_socket *socket);

/**
 * Returns: the number of the service that the connection came by: 0 for that of
 * `ns_server_new`, else what `ns_server_add_service` returned; -1 where it came by
 * none: on the shutdown port, for a connection of `ns_server_adopt` or
 * `ns_server_connect`, for a socket of `ns_socket_from_fd`, after an attach to
 * another server; and where the connection cannot be used here.
 * [handler]
 */
int32_t ns_socket_service(const ns_socket *socket);

/**
 * Gives the process, user and group of the peer of a unix socket, as they were when
 * it connected. The process is 0 where this one cannot see it (pid_namespaces(7)).
 * Each pointer may be NULL; after a failure nothing is written.
 *
 * Returns: 0; NS_ERR_UNSUPPORTED for another socket; NS_ERR_CLOSED,
 * NS_ERR_DETACHED, NS_ERR_NOT_IN_HANDLER, NS_ERR_INVALID or NS_ERR_IO.
 * [handler]
 */
ns_status ns_socket_peer_credentials(ns_socket *socket,
                                     int32_t *pid,
                                     uint32_t *uid,
                                     uint32_t *gid);

/**
 * Returns: how many bytes are queued and not yet with the kernel, gathered ones
 * included (`ns_socket_flush`). In non-blocking mode `on_drain` comes for what this
 * shows.
 * [handler]
 */
size_t ns_socket_queued(const ns_socket *socket);

/**
 * Returns: the `errno` of the failure that ended the connection; 0 for none.
 * [handler]
 */
int32_t ns_socket_os_error(const ns_socket *socket);

/**
 * Sets the connection's one-shot timer: the library calls `on_timeout` once, `ms`
 * milliseconds from now (up to 2^31 - 1); 0 clears the timer. Where there is no
 * `on_timeout`, the library then closes the connection.
 *
 * Returns: 0, NS_ERR_NOT_NON_BLOCKING, NS_ERR_CLOSED, NS_ERR_DETACHED,
 * NS_ERR_NOT_IN_HANDLER or NS_ERR_INVALID.
 * [handler]
 */
ns_status ns_socket_set_timer_ms(ns_socket *socket, uint32_t ms);

/**
 * Sets the config's `io_timeout` for this socket alone: milliseconds up to
 * 2^31 - 1; 0 is off.
 *
 * Returns: 0, NS_ERR_UNSUPPORTED (on a loop, where no call waits),
 * NS_ERR_DETACHED, NS_ERR_NOT_IN_HANDLER or NS_ERR_INVALID.
 * [handler]
 */
ns_status ns_socket_set_io_timeout_ms(ns_socket *socket, uint32_t ms);

/**
 * Non-blocking mode: from now on the library calls the handler for no new input,
 * until `ns_socket_resume`. Only then does it report the end of the peer's
 * stream, or a reset while input is unread.
 *
 * Returns: 0, NS_ERR_NOT_NON_BLOCKING, NS_ERR_CLOSED, NS_ERR_DETACHED,
 * NS_ERR_NOT_IN_HANDLER or NS_ERR_INVALID.
 * [handler]
 */
ns_status ns_socket_pause(ns_socket *socket);

/**
 * Ends `ns_socket_pause`. From another thread: call `ns_server_wake`, and this in
 * `on_wake`.
 *
 * Returns: as `ns_socket_pause`.
 * [handler]
 */
ns_status ns_socket_resume(ns_socket *socket);

/**
 * Returns: the pointer that `ns_socket_set_user_data` got; NULL if there is none.
 * [handler]
 */
void *ns_socket_user_data(const ns_socket *socket);

/**
 * Keeps a pointer of the program's with the connection, also through detach and
 * attach. `drop` (NULL: none) frees it: after `on_close`, or when it is replaced,
 * or immediately if this fails.
 *
 * Returns: 0, NS_ERR_DETACHED, NS_ERR_NOT_IN_HANDLER or NS_ERR_INVALID.
 * [handler] [blocks]
 */
ns_status ns_socket_set_user_data(ns_socket *socket, void *user_data, ns_drop_fn drop);

/**
 * Writes the peer's address as text: "127.0.0.1:4711", "[::1]:4711"; for a unix
 * socket "unix:" and the peer's own path or "@" and abstract name, which few have;
 * "" where it is not known. A PROXY header may have announced it
 * (`ns_config_set_proxy_protocol`). It writes as `snprintf` does: at most `len`
 * bytes with the final NUL.
 *
 * Returns: the length of the whole text without the NUL.
 * [handler]
 */
size_t ns_socket_peer(const ns_socket *socket, char *buf, size_t len);

/**
 * Writes the address of this side, as `ns_socket_peer` does.
 *
 * Returns: the length of the whole text without the NUL.
 * [handler]
 */
size_t ns_socket_local(const ns_socket *socket, char *buf, size_t len);

/**
 * Writes the peer's address as getpeername(2) does: a `struct sockaddr_in`, `_in6`
 * or `_un` of the system, at most `len` bytes of it (NULL: none). An IPv4-mapped
 * address is written as IPv4. A `struct sockaddr_storage` holds each of them.
 *
 * Returns: the length of the whole address; 0 where it is not known, and for NULL.
 * [handler]
 */
size_t ns_socket_peer_addr(const ns_socket *socket, void *addr, size_t len);

/**
 * Writes the address of this side, as `ns_socket_peer_addr` does.
 *
 * Returns: the length of the whole address; 0 where it is not known, and for NULL.
 * [handler]
 */
size_t ns_socket_local_addr(const ns_socket *socket, void *addr, size_t len);

/**
 * Takes a connection out of a non-blocking server, in any of its callbacks but
 * `on_close`.
 *
 * The new socket is an owned one in blocking mode. It has the user data, the
 * unread and the unsent bytes; a timer and a pause are gone. Any one thread at a
 * time can use it, immediately, also after the server was freed. It ends with
 * `ns_socket_free`, `ns_socket_release_fd` or `ns_attach`. Until the callback
 * returns, calls with `socket` itself return NS_ERR_DETACHED. `err`: see RESULTS.
 *
 * Returns: the owned socket; NULL on failure: NS_ERR_NOT_NON_BLOCKING,
 * NS_ERR_NOT_IN_HANDLER, NS_ERR_DETACHED, NS_ERR_STATE (a TLS handshake is in
 * progress), NS_ERR_CLOSED (also where it was closed by id and that is not yet
 * done), NS_ERR_IO, NS_ERR_INVALID.
 * [handler]
 */
ns_socket *ns_detach(ns_server *server, ns_socket *socket, ns_error **err);

/**
 * Gives an owned socket to a non-blocking server: its former one or another.
 *
 * The connection gets a new id, and `owned` is gone. There is no second
 * `on_open`; the handler runs if bytes wait; `max_connections` does not apply. In
 * `on_start` the handler may run on a loop before that hook returns, and the
 * connection is closed where the hook fails. `err`: see RESULTS.
 *
 * Returns: the new id; 0 on failure, and you still own the socket: NS_ERR_STATE
 * (before `on_start` or after the stop), NS_ERR_NOT_NON_BLOCKING, NS_ERR_CLOSED,
 * NS_ERR_IO, NS_ERR_NO_MEMORY, NS_ERR_INVALID.
 * [any, by the owner]
 */
ns_conn_id ns_attach(ns_server *server, ns_socket *owned, ns_error **err);

/**
 * Closes and frees an owned socket. Where bytes are unsent, unacknowledged or
 * unread it waits for the peer, for `linger_timeout` at most in all. If bytes are
 * still unsent then, the connection is reset. Does nothing to NULL and to a
 * borrowed socket.
 * [any, by the owner] [blocks]
 */
void ns_socket_free(ns_socket *owned);

/**
 * Gives you the descriptor of an owned socket that has no buffered bytes, and
 * frees the socket. The descriptor is in blocking mode, and yours to close.
 *
 * Returns: the descriptor; or a negative status, and you still own the socket:
 * NS_ERR_BUSY (buffered bytes), NS_ERR_UNSUPPORTED (a TLS socket),
 * NS_ERR_CLOSED, NS_ERR_INVALID.
 * [any, by the owner] [blocks]
 */
int ns_socket_release_fd(ns_socket *owned);

/* ============================================================================================
 * PROXY: the client's address behind a load balancer
 * ============================================================================================ */

/** Version 1 of the PROXY protocol: a line of text. */
#define NS_PROXY_V1 1

/** Version 2: a binary header, which may have extras. */
#define NS_PROXY_V2 2

/** An extra of a PROXY header: the protocol above (ALPN). */
#define NS_PROXY_TLV_ALPN 1

/** The name that the client asked for (SNI), in UTF-8. */
#define NS_PROXY_TLV_AUTHORITY 2

/** The connection's unique id: at most 128 bytes. */
#define NS_PROXY_TLV_UNIQUE_ID 5

/** The client's TLS, in a structure of its own with extras of its own. */
#define NS_PROXY_TLV_SSL 32

/** The name of the network namespace. */
#define NS_PROXY_TLV_NETNS 48

/**
 * Sets which versions of the PROXY protocol every service accepts: NS_PROXY_V1,
 * NS_PROXY_V2, both (1 | 2), or 0 (default). `ns_server_set_service_proxy` changes
 * it for one service; the shutdown port never has it, nor have adopted and outgoing
 * connections.
 *
 * Nothing is detected, as the protocol demands
 * (<https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt>): a trusted source
 * (`ns_config_add_trusted_proxy`) must send a header, before TLS and within
 * `proxy_timeout`; any other source is refused, or let in without a look at its
 * bytes (`ns_config_set_proxy_others`). Without a trusted source `ns_server_new`
 * fails.
 *
 * From `on_open` on the addresses of the connection are those that the header
 * announced, also after STARTTLS and a detach; LOCAL, UNKNOWN and AF_UNSPEC keep the
 * real ones. A source that is refused, and a header that is bad, longer than 4096
 * bytes, of datagrams, incomplete or late, end the connection without a byte to the
 * peer: the exception handler gets NS_ERR_PROXY, the connection counts as
 * NS_CLOSE_PROXY, and no other callback runs.
 *
 * Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
 * [setup]
 */
ns_status ns_config_set_proxy_protocol(ns_config *config, int32_t versions);

/**
 * Returns: the setting `proxy_protocol`, 0 to 3.
 * [any]
 */
int32_t ns_config_proxy_protocol(const ns_config *config);

/**
 * Adds a source whose PROXY headers are believed: an address or a network
 * ("192.0.2.1", "10.0.0.0/8", "::1", "2001:db8::/32"), or "unix" for all peers of
 * unix sockets. Copied. The default is none.
 *
 * Returns: 0, NS_ERR_INVALID (also for a network whose address has bits beyond its
 * prefix) or NS_ERR_STATE.
 * [setup]
 */
ns_status ns_config_add_trusted_proxy(ns_config *config, const char *network);

/**
 * Writes the trusted sources as they were added, with ", " between them; "" for
 * none. It writes as `snprintf` does: at most `len` bytes with the final NUL.
 *
 * Returns: the length of the whole text without the NUL.
 * [any]
 */
size_t ns_config_trusted_proxies(const ns_config *config, char *buf, size_t len);

/**
 * Sets the time that a whole PROXY header may take: milliseconds, 0 to 2^31 - 1,
 * default 3000. That of a TLS handshake begins after it.
 *
 * Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
 * [setup]
 */
ns_status ns_config_set_proxy_timeout_ms(ns_config *config, uint32_t time);

/**
 * Returns: the setting `proxy_timeout`, in milliseconds.
 * [any]
 */
uint32_t ns_config_proxy_timeout_ms(const ns_config *config);

/**
 * Sets whether a service with the PROXY protocol serves a source that is not
 * trusted as an ordinary client, whose bytes are not looked at: 1, or 0 (default)
 * to refuse it.
 *
 * Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
 * [setup]
 */
ns_status ns_config_set_proxy_others(ns_config *config, int32_t value);

/**
 * Returns: the setting `proxy_others`, 0 or 1.
 * [any]
 */
int32_t ns_config_proxy_others(const ns_config *config);

/**
 * Sets which versions of the PROXY protocol one service accepts, in place of those
 * of `ns_config_set_proxy_protocol`; 0 for none: a port for health checks takes none.
 * `service` is 0 for that of `ns_server_new`, else what `ns_server_add_service`
 * returned. `err`: see RESULTS.
 *
 * Returns: 0, NS_ERR_INVALID (also where no proxy is trusted) or NS_ERR_STATE (the
 * server has been started).
 * [setup]
 */
ns_status ns_server_set_service_proxy(ns_server *server,
                                      uint32_t service,
                                      int32_t versions,
                                      ns_error **err);

/**
 * Writes the address that the connection itself comes from, as `ns_socket_peer`
 * does: behind a PROXY header that of the proxy.
 *
 * Returns: the length of the whole text without the NUL.
 * [handler]
 */
size_t ns_socket_transport_peer(const ns_socket *socket, char *buf, size_t len);

/**
 * Writes the value of the first extra (TLV) of this type in the PROXY header, at
 * most `len` bytes of it. `kind` is an NS_PROXY_TLV_... or another of 0 to 255;
 * section 2.2 of the protocol's specification has the formats. Version 1 has no
 * extras, and those of a connection of the proxy's own (LOCAL) are ignored.
 *
 * Returns: the length of the whole value; NS_ERR_STATE where there is none,
 * NS_ERR_INVALID, NS_ERR_DETACHED or NS_ERR_NOT_IN_HANDLER.
 * [handler]
 */
int64_t ns_socket_proxy_tlv(const ns_socket *socket, int32_t kind, void *buf, size_t len);

/* ============================================================================================
 * BY ID: calls for a connection from any thread
 * ============================================================================================ */

/**
 * Queues `len` bytes for a connection of a non-blocking server; the bytes are
 * copied. What one thread sends stays in order. What a callback sends to another
 * connection of its own loop leaves as `ns_socket_send` there would: the first bytes
 * immediately, what comes after them together, in the same turn of the loop.
 *
 * Returns: 0 when the bytes are accepted, which is not yet delivered; or
 * NS_ERR_CLOSED (the id is gone, or 0), NS_ERR_BUFFER_FULL (nothing is queued),
 * NS_ERR_NOT_NON_BLOCKING, NS_ERR_INVALID.
 * [any]
 */
ns_status ns_server_send(ns_server *server, ns_conn_id id, const void *buf, size_t len);

/**
 * Closes a connection as `ns_socket_close` does, on a server of either mode. A
 * worker in the middle of a `send` loses the rest, which ends in a reset.
 *
 * Returns: 0, NS_ERR_CLOSED or NS_ERR_INVALID.
 * [any]
 */
ns_status ns_server_close(ns_server *server, ns_conn_id id);

/**
 * Resets a connection as `ns_socket_abort` does, on a server of either mode.
 *
 * Returns: 0, NS_ERR_CLOSED or NS_ERR_INVALID.
 * [any]
 */
ns_status ns_server_abort(ns_server *server, ns_conn_id id);

/**
 * Has the library call `on_wake` for a connection of a non-blocking server, on
 * its loop; once for all calls before it runs.
 *
 * Returns: 0, NS_ERR_CLOSED, NS_ERR_NOT_NON_BLOCKING or NS_ERR_INVALID.
 * [any]
 */
ns_status ns_server_wake(ns_server *server, ns_conn_id id);

/**
 * `ns_server_send` of the same bytes to `n` connections, which share one copy.
 *
 * Returns: how many connections accepted the bytes: ids that are gone and full
 * queues are left out; or a negative status: NS_ERR_CLOSED (before the start
 * or after the stop), NS_ERR_NOT_NON_BLOCKING, NS_ERR_INVALID.
 * [any]
 */
int64_t ns_server_broadcast(ns_server *server,
                            const ns_conn_id *ids,
                            size_t n,
                            const void *buf,
                            size_t len);

/**
 * `ns_server_broadcast` that tells how it went with each connection:
 * `statuses[i]`, of `n`, becomes what `ns_server_send` to `ids[i]` would have
 * returned. Where this call fails nothing is written.
 *
 * Returns: as `ns_server_broadcast`.
 * [any]
 */
int64_t ns_server_broadcast_each(ns_server *server,
                                 const ns_conn_id *ids,
                                 size_t n,
                                 const void *buf,
                                 size_t len,
                                 ns_status *statuses);

/**
 * Counts what was accepted for a connection of a non-blocking server, by id or
 * directly, and is not with the kernel.
 *
 * Returns: the number of bytes; or a negative status: NS_ERR_CLOSED,
 * NS_ERR_NOT_NON_BLOCKING, NS_ERR_INVALID.
 * [any]
 */
int64_t ns_server_queued(ns_server *server, ns_conn_id id);

/**
 * Ends one direction of a connection of a non-blocking server, or both, as
 * `ns_socket_shutdown` does: NS_SHUT_RD, NS_SHUT_WR, NS_SHUT_RDWR. What was accepted
 * before this call leaves first; from now on `ns_server_send` returns NS_ERR_CLOSED
 * where the sending side ends.
 *
 * Returns: 0, NS_ERR_CLOSED, NS_ERR_NOT_NON_BLOCKING or NS_ERR_INVALID.
 * [any]
 */
ns_status ns_server_shutdown(ns_server *server, ns_conn_id id, int32_t how);

/**
 * Called by `ns_server_foreach` for each id.
 *
 * Returns: 0 to go on; another number ends the walk.
 */
typedef int32_t (*ns_foreach_fn)(ns_conn_id id, void *user_data);

/**
 * Calls `function` with the id of each connection that is open now, on the
 * calling thread, until it returns a number that is not 0. The function may make
 * any call.
 *
 * Returns: for how many ids it was called; or a negative status:
 * NS_ERR_NOT_NON_BLOCKING, NS_ERR_INVALID.
 * [any] [blocks]
 */
int64_t ns_server_foreach(ns_server *server, ns_foreach_fn function, void *user_data);

/* ============================================================================================
 * LOOPS: the program's own descriptors, timers, tasks, sockets
 * ============================================================================================ */

/** A watch: input, the end of the stream. */
#define NS_READ 1

/** A watch: room for output. */
#define NS_WRITE 2

/**
 * Handles a descriptor of the program's that is ready. `events` has NS_READ,
 * NS_WRITE or both. It may call everything that a callback may, also for this
 * watch. [handler] calls take NULL for the socket: `ns_raise(NULL, ...)`.
 *
 * Returns: 0 or more for success. A negative number goes to the exception handler,
 * with NULL for the socket; the watch stays.
 */
typedef int32_t (*ns_watch_fn)(ns_server *server,
                               uint64_t id,
                               int32_t fd,
                               uint32_t events,
                               void *user_data);

/**
 * Handles a timer. The rest is as with `ns_watch_fn`.
 *
 * Returns: as `ns_watch_fn`; the timer stays.
 */
typedef int32_t (*ns_timer_fn)(ns_server *server, uint64_t id, void *user_data);

/**
 * Runs a task that was posted. The rest is as with `ns_watch_fn`.
 *
 * Returns: as `ns_watch_fn`.
 */
typedef int32_t (*ns_task_fn)(ns_server *server, void *user_data);

/**
 * Watches a descriptor of the program's in a loop (numbers from 0) of a server in
 * non-blocking mode. The loop calls `function` as long as the descriptor is ready:
 * level-triggered; a hang-up and an error show as what is watched. The descriptor
 * stays the program's: unwatch it before you close it. The watch goes on during the
 * drain. When the loop has ended, after the last `on_close`, it is dropped.
 * `drop` (NULL: none) frees `user_data` after the last call, or immediately if this
 * fails. `err`: see RESULTS.
 *
 * Returns: the watch's id, which is no connection's; or 0, with NS_ERR_INVALID (a
 * bad descriptor, loop or number of events), NS_ERR_UNSUPPORTED (a regular file, too
 * many epoll descriptors inside each other, the host's included), NS_ERR_BUSY (the
 * descriptor is in the loop already), NS_ERR_NOT_NON_BLOCKING,
 * NS_ERR_STATE (before `on_start`, or a stop has begun), NS_ERR_IO (no descriptor is
 * left, a limit of epoll(7)) or NS_ERR_NO_MEMORY in `err`.
 * [any] [blocks]
 */
uint64_t ns_server_watch(ns_server *server,
                         uint32_t event_loop,
                         int32_t fd,
                         uint32_t events,
                         ns_watch_fn function,
                         void *user_data,
                         ns_drop_fn drop,
                         ns_error **err);

/**
 * Changes the events that a watch waits for.
 *
 * Returns: 0, NS_ERR_CLOSED (a stale id, or one of another kind) or NS_ERR_INVALID
 * (a bad number of events, a descriptor that was closed).
 * [any]
 */
ns_status ns_server_watch_change(ns_server *server, uint64_t id, uint32_t events);

/**
 * Ends a watch. On the loop's own thread no call begins any more; on another
 * thread one call may be under way, and the drop function follows it.
 *
 * Returns: 0 or NS_ERR_CLOSED (a stale id, or one of another kind).
 * [any] [blocks]
 */
ns_status ns_server_unwatch(ns_server *server, uint64_t id);

/**
 * Sets a timer in a loop of a server in non-blocking mode: `function` is called
 * after `first_ms` milliseconds, and then every `repeat_ms` (0: once). Times are at
 * most 2^31 - 1; a missed period is not made up. The rest is as with
 * `ns_server_watch`.
 *
 * Returns: the timer's id; or 0, with NS_ERR_INVALID, NS_ERR_NOT_NON_BLOCKING or
 * NS_ERR_STATE in `err`.
 * [any] [blocks]
 */
uint64_t ns_server_timer(ns_server *server,
                         uint32_t event_loop,
                         uint32_t first_ms,
                         uint32_t repeat_ms,
                         ns_timer_fn function,
                         void *user_data,
                         ns_drop_fn drop,
                         ns_error **err);

/**
 * Ends a timer. On the loop's own thread no call begins any more; on another
 * thread one call may be under way, and the drop function follows it.
 *
 * Returns: 0 or NS_ERR_CLOSED (a stale id, or one of another kind).
 * [any] [blocks]
 */
ns_status ns_server_timer_cancel(ns_server *server, uint64_t id);

/**
 * Has a loop of a server in non-blocking mode call `function` once. The tasks that
 * one thread posts keep their order. One that has not run when the loop ends is
 * dropped, without a call. The rest is as with `ns_server_watch`.
 *
 * Returns: 0, NS_ERR_INVALID, NS_ERR_NOT_NON_BLOCKING or NS_ERR_STATE.
 * [any] [blocks]
 */
ns_status ns_server_post(ns_server *server,
                         uint32_t event_loop,
                         ns_task_fn function,
                         void *user_data,
                         ns_drop_fn drop);

/**
 * Makes a connection of a connected stream socket, in non-blocking mode: it has the
 * server's handler, `on_open`, limits and deadlines, and `user_data` as
 * `ns_socket_user_data`. In a callback it joins the loop of that callback, else the
 * loop with the fewest connections. It goes without TLS: `ns_socket_starttls` makes
 * this side the TLS server, and the library is no TLS client. Its
 * `ns_socket_service` is -1. It counts among `max_connections`, which
 * does not refuse it. `fd` is the server's from then on: unwatch it before. It gets
 * the server's `no_delay` and `keep_alive`, O_NONBLOCK and FD_CLOEXEC.
 *
 * The connect of the socket may be in progress: what is sent by id waits, and
 * `on_open` runs when it is connected. If it fails, the exception handler gets
 * NS_ERR_CONNECT, with the socket for its user data; neither `on_open` nor
 * `on_close` runs, and it counts under NS_CLOSE_CONNECT. An end that you ask for,
 * and a stop, before it is connected calls nothing; bytes that were accepted for
 * it before a close or a stop leave when it is connected, and if the connect
 * fails, so that they are lost, the exception handler gets that NS_ERR_CONNECT
 * too.
 *
 * `drop` (NULL: none) frees `user_data` with the connection, or immediately if this
 * fails. `err`: see RESULTS.
 *
 * Returns: the connection's id; 0 on failure, and `fd` stays yours, as it was:
 * NS_ERR_INVALID (no connected or connecting stream socket), NS_ERR_BUSY (it is in
 * that loop already; another loop does not notice it), NS_ERR_NOT_NON_BLOCKING,
 * NS_ERR_STATE (before `on_start`, or a stop has begun), NS_ERR_IO or
 * NS_ERR_NO_MEMORY (the system has no room).
 * [any] [blocks]
 */
ns_conn_id ns_server_adopt(ns_server *server,
                           int fd,
                           void *user_data,
                           ns_drop_fn drop,
                           ns_error **err);

/**
 * Connects to `service`, "host:port", "unix:/path" or "unix:@name", and makes a
 * connection of it, as `ns_server_adopt` does with a socket whose connect is in
 * progress. A host name is resolved by this call, which waits for that; a literal
 * address, "127.0.0.1:80" or "[::1]:80", does not wait: in a callback use one. The
 * addresses of a name are tried in turn, each with an equal share of what is left of
 * `timeout_ms`, which begins when the name is resolved (0: the kernel's time, see
 * tcp(7); at most 2^31 - 1).
 *
 * `drop` (NULL: none) frees `user_data` with the connection, or immediately if this
 * fails. `err`: see RESULTS. What fails later goes to the exception handler, see
 * `ns_server_adopt`.
 *
 * Returns: the connection's id; 0 on failure: NS_ERR_CONNECT (connecting fails
 * immediately; also where no descriptor is left, and for the full backlog of a unix
 * socket), NS_ERR_ADDRESS (no such host), NS_ERR_INVALID (a bad service, or one
 * without a host; a time), NS_ERR_NOT_NON_BLOCKING, NS_ERR_STATE, NS_ERR_IO,
 * NS_ERR_NO_MEMORY.
 * [any] [blocks]
 */
ns_conn_id ns_server_connect(ns_server *server,
                             const char *service,
                             uint32_t timeout_ms,
                             void *user_data,
                             ns_drop_fn drop,
                             ns_error **err);

/**
 * Makes an owned socket, in blocking mode, of a connected stream socket: the same as
 * `ns_detach` returns, with the settings of `ns_config_new`. It ends with
 * `ns_socket_free`, `ns_socket_release_fd` or `ns_attach`. `err`: see RESULTS.
 *
 * Returns: the owned socket; NULL on failure, and `fd` stays yours: NS_ERR_INVALID
 * (no connected stream socket; also one whose connect is in progress) or NS_ERR_IO.
 * [any]
 */
ns_socket *ns_socket_from_fd(int fd, ns_error **err);

/* ============================================================================================
 * TLS: certificates, and TLS on one connection
 * ============================================================================================ */

/**
 * A new TLS object. It needs a certificate before a server can use it.
 *
 * Returns: the object, yours to free with `ns_tls_free`; never NULL. One that
 * could not be made remembers why, and every use reports it.
 * [any]
 */
ns_tls *ns_tls_new(void);

/**
 * Gives your share back; NULL is allowed.
 * [any]
 */
void ns_tls_free(ns_tls *tls);

/**
 * Adds a certificate chain, the server's own certificate first, and its private
 * key, from PEM files.
 *
 * A client gets it that asks for `server_name` (SNI, RFC 6066): "example.org", or
 * "*.example.org" for any one label in front. NULL makes it the default, for all
 * other names; if there is no such default, the first certificate that was added
 * is it. Among several for the same name the library takes the first whose kind
 * of key the client can verify. `err`: see RESULTS.
 *
 * Returns: 0, NS_ERR_CERTIFICATE, NS_ERR_INVALID (NULL, not a server name) or
 * NS_ERR_STATE. With NS_ERR_CERTIFICATE the error names the file, the block in it
 * and what is wrong with it: it cannot be read, has no certificate or no key, is
 * bad PEM, has something in the chain that is no certificate, has an encrypted
 * key, a key of an unsupported type or length, or the key of another certificate.
 * [setup] [blocks]
 */
ns_status ns_tls_add_cert_file(ns_tls *tls,
                               const char *server_name,
                               const char *chain_file,
                               const char *key_file,
                               ns_error **err);

/**
 * `ns_tls_add_cert_file` with PEM text in memory: `chain_len` and `key_len` bytes
 * of it, without a final NUL. Copied; wipe yours.
 *
 * Returns: as `ns_tls_add_cert_file`.
 * [setup]
 */
ns_status ns_tls_add_cert_pem(ns_tls *tls,
                              const char *server_name,
                              const void *chain,
                              size_t chain_len,
                              const void *key,
                              size_t key_len,
                              ns_error **err);

/**
 * `ns_tls_add_cert_file` with certificates and a key in DER. The chain is `count`
 * certificates, at most 100: `chain_lens[i]` bytes at `chain[i]`. The key is
 * PKCS #8, PKCS #1 or SEC 1. Copied; wipe yours.
 *
 * Returns: as `ns_tls_add_cert_file`.
 * [setup]
 */
ns_status ns_tls_add_cert_der(ns_tls *tls,
                              const char *server_name,
                              const void *const *chain,
                              const size_t *chain_lens,
                              size_t count,
                              const void *key,
                              size_t key_len,
                              ns_error **err);

/**
 * Asks clients for a certificate that one of the authorities in a PEM file has
 * signed, and refuses clients with any other. A client's self-signed certificate
 * that is its own authority in the file is refused too.
 *
 * `required` 1: a client without a certificate is refused as well. 0: such a
 * client may connect, and `ns_socket_tls_peer_certificate` shows which one it is.
 * No session resumes once a certificate of the client's has expired. `err`: see
 * RESULTS.
 *
 * Returns: 0, NS_ERR_CERTIFICATE, NS_ERR_INVALID or NS_ERR_STATE. With
 * NS_ERR_CERTIFICATE the error names the file, the block in it and what is wrong
 * with it: the library never skips a block that is no authority.
 * [setup] [blocks]
 */
ns_status ns_tls_set_client_ca_file(ns_tls *tls,
                                    const char *path,
                                    int32_t required,
                                    ns_error **err);

/**
 * `ns_tls_set_client_ca_file` with `len` bytes of PEM text in memory. Copied.
 *
 * Returns: as `ns_tls_set_client_ca_file`.
 * [setup]
 */
ns_status ns_tls_set_client_ca_pem(ns_tls *tls,
                                   const void *pem,
                                   size_t len,
                                   int32_t required,
                                   ns_error **err);

/**
 * Sets the application protocols (ALPN, RFC 7301) that the server speaks, the
 * preferred one first: `n` of them, at most 1024, each of 1 to 255 bytes and a
 * NUL: "h2", "http/1.1". Copied. A client that offers only others is refused; one
 * that offers none is not. With an `n` of 0 (default) no protocol is agreed.
 *
 * Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
 * [setup]
 */
ns_status ns_tls_set_alpn(ns_tls *tls, const char *const *protocols, size_t n);

/** TLS 1.2 (RFC 5246): 0x0303, the number of the protocol. */
#define NS_TLS_1_2 771

/** TLS 1.3 (RFC 8446): 0x0304, the number of the protocol. */
#define NS_TLS_1_3 772

/**
 * Sets the oldest version that the server speaks: NS_TLS_1_2 (default) or
 * NS_TLS_1_3.
 *
 * Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
 * [setup]
 */
ns_status ns_tls_set_min_version(ns_tls *tls, int32_t version);

/**
 * Sets how sessions resume. 1 (default): clients get tickets; 0: sessions resume
 * from the session cache, where there is one.
 *
 * Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
 * [setup]
 */
ns_status ns_tls_set_tickets(ns_tls *tls, int32_t tickets);

/**
 * The length of a key of tickets in bytes: a name (16), a key for AES-256-CBC (32)
 * and one for HMAC-SHA256 (32), in this order.
 */
#define NS_TLS_TICKET_KEY_LEN 80

/**
 * Sets the keys of tickets, so that other processes with the same keys resume the
 * sessions of this one: `len` bytes, which are 1 to 16 keys of
 * NS_TLS_TICKET_KEY_LEN random bytes, one behind the other. Without it the keys
 * are the process's own.
 *
 * The tickets are those that RFC 5077, 4, recommends. The first key seals new
 * ones; each key opens those that it sealed, for 12 hours. A ticket that no key
 * opens leads to a full handshake. With `ns_tls_set_tickets` 0 no key is used.
 *
 * The one setter that a frozen object takes, at any time: handshakes that begin
 * from now on use the new keys, in every service, reload and STARTTLS that uses
 * the object. To rotate without a full handshake: give all processes the new key
 * as the second one, then as the first with the old one behind it, and 12 hours
 * later leave the old one out. Who has a key can read and forge tickets: keep it
 * as secret as the certificate's key, and make a new one at least weekly (RFC 9325,
 * 3.4). Copied; wipe yours. The library wipes its copy when no handshake uses it
 * any more.
 *
 * Returns: 0, or NS_ERR_INVALID (NULL, another length): then the keys stay as they
 * were. An object in use does not remember this failure.
 * [any]
 */
ns_status ns_tls_set_ticket_keys(ns_tls *tls, const void *keys, size_t len);

/**
 * Sets how many sessions are kept in memory, for clients that resume without
 * tickets: at most 1048576; 0 (default): none.
 *
 * Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
 * [setup]
 */
ns_status ns_tls_set_session_cache(ns_tls *tls, size_t sessions);

/**
 * Has the handshakes of the first service that begin from now on use `tls`, which
 * must be another object than the one in use: that one is frozen. Open sessions go
 * on. After a failure the one in use stays. `err`: see RESULTS.
 *
 * Returns: 0, NS_ERR_CERTIFICATE (no certificate), NS_ERR_STATE (the service was
 * made without TLS), NS_ERR_TLS, NS_ERR_INVALID, or the remembered failure of a
 * setter of `tls`.
 * [any] [blocks]
 */
ns_status ns_server_reload_tls(ns_server *server, const ns_tls *tls, ns_error **err);

/**
 * Upgrades a plain connection to TLS (STARTTLS). Call it after you have sent your
 * own go-ahead. This side is the server of the handshake, on an outgoing connection
 * too: the library is never a TLS client.
 *
 * The `n` bytes at `ahead` are what `ns_socket_recv` returned beyond the client's
 * request. They go to TLS, and so do all unread bytes: so the handler never gets
 * bytes that a third party inserted before the handshake as if the client had
 * sent them over TLS. Forget everything else that the client sent in plain text.
 *
 * Non-blocking mode: the call returns 0 immediately. What you send is encrypted,
 * and the library calls the handler next with application data. If the handshake
 * fails, the library calls the exception handler and closes the connection.
 * Blocking mode: the call returns when the handshake is over. Return its failure
 * from the handler: then the exception handler gets the sentence that says why.
 *
 * Returns: 0; in blocking mode also NS_ERR_HANDSHAKE, NS_ERR_TIMEOUT
 * (`handshake_timeout`); in both modes NS_ERR_CERTIFICATE (no certificate),
 * NS_ERR_TLS (`tls` cannot be used), NS_ERR_STATE (TLS already), NS_ERR_CLOSED,
 * NS_ERR_DETACHED, NS_ERR_NOT_IN_HANDLER, NS_ERR_INVALID, or the remembered
 * failure of a setter of `tls`.
 * [handler] [blocks, in blocking mode]
 */
ns_status ns_socket_starttls(ns_socket *socket, const ns_tls *tls, const void *ahead, size_t n);

/** What a TLS handshake agreed. Texts end with a NUL. */
typedef struct ns_tls_info {
    /** NS_TLS_1_2 or NS_TLS_1_3. */
    int32_t version;
    /** 1: an earlier session was resumed. */
    int32_t resumed;
    /** The cipher suite by its IANA name, "TLS_AES_256_GCM_SHA384". */
    char cipher_suite[64];
    /** The application protocol (ALPN); "" for none. */
    char alpn[256];
    /** The name that the client asked for (SNI); "" for none. */
    char server_name[256];
} ns_tls_info;

/**
 * Fills `*out`, of which `size` is the `sizeof`, as `ns_server_stats` does.
 *
 * Returns: 0, NS_ERR_STATE (no TLS, or the handshake is not over),
 * NS_ERR_DETACHED, NS_ERR_NOT_IN_HANDLER or NS_ERR_INVALID.
 * [handler]
 */
ns_status ns_socket_tls_info(const ns_socket *socket, ns_tls_info *out, size_t size);

/**
 * Writes the client's own certificate in DER, at most `len` bytes of it. It was
 * verified.
 *
 * Returns: the length of the whole certificate; 0 where there is none.
 * [handler]
 */
size_t ns_socket_tls_peer_certificate(const ns_socket *socket, void *buf, size_t len);

/**
 * Writes the subject of that certificate as text (RFC 4514), "CN=ann,O=Example";
 * "" where there is none. Control characters are escaped, so that none ends the
 * text early. It writes as `snprintf` does: at most `len` bytes with the final
 * NUL.
 *
 * Returns: the length of the whole text without the NUL.
 * [handler]
 */
size_t ns_socket_tls_peer_subject(const ns_socket *socket, char *buf, size_t len);

/* ============================================================================================
 * STATISTICS: counters and a report
 * ============================================================================================ */

/**
 * A snapshot of a server. When nothing changes: accepted + attached +
 * adopted = open + waiting + all of closed + detached.
 */
typedef struct ns_stats {
    /** An NS_STATE_.... */
    uint32_t state;
    /** 1 in non-blocking mode. */
    uint32_t non_blocking;
    /** Workers or loops. */
    uint32_t threads;
    /** How many of them have a connection. */
    uint32_t active_threads;
    /** As `ns_server_port` returns it. */
    uint32_t port;
    /** As `ns_server_shutdown_port` returns it. */
    uint32_t shutdown_port;
    /** Milliseconds since the start, up to the stop. */
    uint64_t uptime_ms;
    /** Connections accepted. */
    uint64_t accepted;
    /** Sockets that `ns_attach` gave to the server. */
    uint64_t attached;
    /**
     * Sockets that `ns_server_adopt` gave to the server, and connections that
     * `ns_server_connect` began.
     */
    uint64_t adopted;
    /** Connections refused because no worker became free. */
    uint64_t refused;
    /** Connections open now. */
    uint64_t open;
    /** Connections that wait for a worker now. */
    uint64_t waiting;
    /** Connections that `ns_detach` took out. */
    uint64_t detached;
    /** Connections that ended during a stop, before its deadline cut them. */
    uint64_t drained;
    /** Connections that a stop cut. */
    uint64_t cut;
    /** Bytes received; over TLS the encrypted bytes. */
    uint64_t bytes_in;
    /** Bytes that the kernel took; over TLS the encrypted bytes. */
    uint64_t bytes_out;
    /** Failures of callbacks, the exception handler included. */
    uint64_t handler_errors;
    /** Failures of accept(2), and connections for which there was no memory. */
    uint64_t accept_errors;
    /** TLS handshakes completed. */
    uint64_t handshakes;
    /** TLS handshakes failed. */
    uint64_t handshake_failures;
    /** Connections closed, for each NS_CLOSE_... reason. */
    uint64_t closed[32];
    /**
     * Ends by peers that handlers passed on: a handler returned NS_ERR_RESET after
     * a reset, or NS_ERR_TRUNCATED after an end without TLS's close_notify; not
     * among `handler_errors`.
     */
    uint64_t peer_resets;
} ns_stats;

/** A snapshot of one worker or loop. */
typedef struct ns_thread_stats {
    /** 0 to threads - 1. */
    uint32_t index;
    /** Always 0; for alignment. */
    uint32_t reserved;
    /** Its connections now. */
    uint64_t active;
    /** Connections it accepted. */
    uint64_t accepted;
    /** Bytes received. */
    uint64_t bytes_in;
    /** Bytes sent. */
    uint64_t bytes_out;
    /** Calls of the handler. */
    uint64_t calls;
    /** Failures of callbacks, the exception handler included. */
    uint64_t handler_errors;
} ns_thread_stats;

/**
 * Fills `*out`; `size` is its `sizeof`. A library that knows more members than
 * the program leaves them out; one that knows fewer fills the rest with zeros.
 *
 * Returns: 0 or NS_ERR_INVALID.
 * [any]
 */
ns_status ns_server_stats(const ns_server *server, ns_stats *out, size_t size);

/**
 * `ns_server_stats` for one thread: `index` is 0 to threads - 1.
 *
 * Returns: 0 or NS_ERR_INVALID (before the start too).
 * [any]
 */
ns_status ns_server_thread_stats(const ns_server *server,
                                 uint32_t index,
                                 ns_thread_stats *out,
                                 size_t size);

/**
 * Writes a report for people: state, threads, connections, counters. It writes as
 * `snprintf` does: at most `len` bytes with the final NUL.
 *
 * Returns: the length of the whole text without the NUL. It may differ at the
 * next call.
 * [any]
 */
size_t ns_server_report(const ns_server *server, char *buf, size_t len);

/**
 * Writes the counters as text for a monitoring system, in the format of
 * Prometheus. The names begin with `netserver_` and stay; docs/METRICS.md lists
 * them. The numbers of the threads add up to the totals. It allocates nothing, and
 * writes as `snprintf` does: at most `len` bytes with the final NUL.
 *
 * Returns: the length of the whole text without the NUL. It may differ at the
 * next call: leave some room. 0 for NULL, and in a child of fork(2).
 * [any]
 */
size_t ns_server_metrics(const ns_server *server, char *buf, size_t len);

/* ============================================================================================
 * VERSION: which library is in use
 * ============================================================================================ */

/** The first number of this header's version. */
#define NS_VERSION_MAJOR 0

/** The second number of this header's version. */
#define NS_VERSION_MINOR 1

/** The third number of this header's version. */
#define NS_VERSION_PATCH 0

/** The version of this header. */
#define NS_VERSION_STRING "0.1.0"

/** As a number, 0xMMmmpp, to compare with `ns_version_number`. */
#define NS_VERSION_NUMBER (NS_VERSION_MAJOR << 16 | NS_VERSION_MINOR << 8 | NS_VERSION_PATCH)

/**
 * Returns: the version of the library in use, `"MAJOR.MINOR.PATCH"`. The text is
 * static.
 * [any]
 */
const char *ns_version_string(void);

/**
 * Returns: the version of the library in use as a number, 0xMMmmpp; compare it
 * with `NS_VERSION_NUMBER`, the header's.
 * [any]
 */
uint32_t ns_version_number(void);

/**
 * Whether the library in use has a feature. The names are "blocking",
 * "non-blocking", "detach", "attach", "ipv6", "shutdown-port", "tls", "services",
 * "unix", "systemd", "hosted", "watch", "adopt", "logger", "metrics", "limits",
 * "proxy", "quiesce", "ticket-keys". A library built without TLS has neither "tls"
 * nor "ticket-keys".
 *
 * Returns: 1 or 0; 0 for NULL and for other names.
 * [any]
 */
int32_t ns_has_feature(const char *name);

#ifdef __cplusplus
}
#endif

#endif /* NETSERVER_H */
