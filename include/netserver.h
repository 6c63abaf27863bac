/*
 * netserver: a TCP server inside your program.
 *
 * Give it a service (port) and a handler; it does the listening, the threads, the event loops,
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
 * THE TWO MODES. Blocking (the default): `max_thread` workers; the handler runs once per
 * connection, may block, and the socket is closed when it returns. Non-blocking: `max_thread`
 * event loops; the handler runs whenever its socket can be read, must not block, and closes the
 * socket itself. What it does not read brings it back; what it sends is queued as needed. The
 * callbacks of one connection never run at the same time; those of different ones do, on as many
 * threads as there are workers or loops. No callback runs inside a call of this library, except
 * what is said to, and no lock is held while one runs: every call is allowed in it.
 *
 * TLS. ns_config_set_tls has every connection begin with a handshake; ns_socket_starttls goes over
 * to TLS in mid-stream. The handler is the same with and without: it runs when the handshake is
 * over and there is data for it; ns_socket_tls_info says what was agreed.
 *
 * RESULTS. Functions return 0 or a count on success and a negative NS_ERR_... on failure, as an
 * ns_status or in place of the count. Every NULL, text that is not UTF-8, number out of bounds,
 * stale id and wrong state is such a failure. Where there is an `err` parameter it may be NULL;
 * else *err is always written: NULL on success, an error that you free with ns_error_free on
 * failure.
 *
 * OWNERSHIP. What a function ending in _new, or ns_detach, returns is yours, to be freed by the
 * function ending in _free. What is passed to a callback is borrowed, valid until it returns.
 * Strings and buffers that you pass are copied, unless said otherwise. User data comes with an
 * optional function that frees it (ns_drop_fn), which runs exactly once, after the last use, also
 * when the call fails. ns_server_free drops the connections' data, then the callbacks', then the
 * context.
 *
 * TAGS. [any]: on any thread, at any time. [setup]: before the server is made or started.
 * [handler]: in a callback of that connection, or by the owner of a detached socket. [signal]:
 * also in a signal handler. [blocks]: may wait, or run callbacks or ns_drop_fn's on the calling
 * thread; a language with a global lock releases it around the call.
 *
 * FORBIDDEN. A C++ exception, longjmp or pthread_exit must not pass through this library: what
 * happens then is undefined. fork in a program with a running server must be followed by exec. Freed
 * pointers are freed pointers; connection ids alone are always safe to keep.
 *
 * THE HOST. The library installs no signal handlers, prints nothing, and touches no environment
 * and no limits. Its threads block all asynchronous signals. Its descriptors are close-on-exec.
 * No call is a cancellation point: a pthread_cancel of its thread stays pending until it returned.
 * Where an allocation fails, the process is aborted.
 */


#ifndef NETSERVER_H
#define NETSERVER_H

/* Made by cbindgen from src/ffi: change it there. */

#include <stddef.h>
#include <stdint.h>

/** The version of this header. */
#define NS_VERSION_MAJOR 0
#define NS_VERSION_MINOR 1
#define NS_VERSION_PATCH 0
#define NS_VERSION_STRING "0.1.0"
/** As a number, 0xMMmmpp, to compare with `ns_version_number`. */
#define NS_VERSION_NUMBER (NS_VERSION_MAJOR << 16 | NS_VERSION_MINOR << 8 | NS_VERSION_PATCH)

/**
 * `ns_server_start`: return as soon as the server accepts, instead of when it
 * has stopped.
 */
#define NS_START_BACKGROUND 1

/** `ns_socket_shutdown`: no more reading. */
#define NS_SHUT_RD 0

/**
 * `ns_socket_shutdown`: no more writing; the peer sees the end of the stream
 * after what was already sent.
 */
#define NS_SHUT_WR 1

/** `ns_socket_shutdown`: neither. */
#define NS_SHUT_RDWR 2

/** The server was made and not yet started. */
#define NS_STATE_NEW 0

/** `ns_server_start` is under way. */
#define NS_STATE_STARTING 1

/** The server accepts connections. */
#define NS_STATE_RUNNING 2

/** A stop was asked for and is under way. */
#define NS_STATE_STOPPING 3

/** The server has stopped: no thread and no descriptor of it is left. */
#define NS_STATE_STOPPED 4

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

/** TLS 1.2 (RFC 5246); 0x0303, the protocol's own number. */
#define NS_TLS_1_2 771

/** TLS 1.3 (RFC 8446); 0x0304. */
#define NS_TLS_1_3 772

/** Success. */
#define NS_OK 0

/** An argument is not valid: NULL, not UTF-8, out of its bounds. */
#define NS_ERR_INVALID -1001

/** The server, config, TLS object or socket is in the wrong state for this call. */
#define NS_ERR_STATE -1002

/** A deadline passed. */
#define NS_ERR_TIMEOUT -1003

/** The connection is closed, or its id is stale. */
#define NS_ERR_CLOSED -1004

/** The peer reset the connection, or the transport failed. */
#define NS_ERR_RESET -1005

/** Nothing can be read now; no failure in a handler. */
#define NS_ERR_WOULD_BLOCK -1006

/** The outbound queue would pass `send_limit`; nothing was sent. */
#define NS_ERR_BUFFER_FULL -1007

/** No worker became free in time. */
#define NS_ERR_REJECTED -1008

/** The socket was taken out of the server. */
#define NS_ERR_DETACHED -1009

/** Only a non-blocking server can do this. */
#define NS_ERR_NOT_NON_BLOCKING -1010

/** Only a callback of this connection can do this. */
#define NS_ERR_NOT_IN_HANDLER -1011

/** Not in one of the server's own callbacks. */
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
 * (`ENOMEM`, `ENOBUFS`). Where the process itself gets no memory, the library
 * ends it by `abort`: this never means that.
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

/**
 * Settings and callbacks of servers. Reference-counted: each server made from
 * it holds a share, so free yours at any time. While a server uses it it
 * cannot be changed. Durations are milliseconds, sizes bytes, flags 0 or 1.
 * A getter answers 0 (NULL) for NULL.
 */
typedef struct ns_config ns_config;

/**
 * What failed: a status, a sentence, and what the operating system or the
 * handler said. Owned where a call gives it through `err` (`ns_error_free`),
 * borrowed in an exception handler.
 */
typedef struct ns_error ns_error;

/**
 * A server. The pointer is valid until `ns_server_free` succeeded, in
 * callbacks too, where it is the one that `ns_server_new` returned.
 */
typedef struct ns_server ns_server;

/**
 * A connection. Borrowed in callbacks: valid there only, and only for the
 * connection that the callback is about. Owned when it comes from `ns_detach`:
 * valid until `ns_socket_free`, `ns_socket_release_fd` or `ns_attach`.
 */
typedef struct ns_socket ns_socket;

/**
 * Certificates and what goes with them. Reference-counted: each config that it
 * is set in holds a share, so free yours at any time; one may serve several
 * servers. Frozen by its first use: `ns_server_new`, `ns_server_reload_tls` or
 * `ns_socket_starttls`. TLS 1.2 and 1.3, with forward secrecy and
 * authenticated encryption only; sessions resume by tickets whose keys rotate
 * every 6 hours; no early data, no renegotiation.
 */
typedef struct ns_tls ns_tls;

/**
 * Serves a connection. Blocking mode: once per connection, may block, the
 * socket is closed when it returns. Non-blocking mode: whenever the socket is
 * readable, must not block, closes the socket itself. Returns 0 or more for
 * success; a negative number for failure (your own, or a status), on which the
 * exception handler is called. `NS_ERR_WOULD_BLOCK` is no failure. What it
 * leaves unread brings it back, in non-blocking mode; one that reads nothing is
 * called again only when more arrives.
 */
typedef int32_t (*ns_handler_fn)(ns_server *server, ns_socket *socket, void *user_data);

/**
 * Frees `user_data`. Runs exactly once, after the last use, also when the
 * call that it was given to fails. The thread is any of the library's or that
 * of a call tagged `[blocks]`; it must not call the library with the object
 * that is going away.
 */
typedef void (*ns_drop_fn)(void *user_data);

/** 0 (`NS_OK`) for success, else one of the negative `NS_ERR_...`. */
typedef int32_t ns_status;

/**
 * Serves a connection of the shutdown port, in blocking mode. Any number but
 * 0 stops the server, a negative one too: here it is an answer.
 */
typedef int32_t (*ns_shutdown_fn)(ns_server *server, ns_socket *socket, void *user_data);

/**
 * Told of what failed: a handler, a refused connection, an accept, a listener
 * that was lost, a TLS handshake (nothing can be sent or received then).
 * `socket` is NULL where there is none. Unless the connection has ended it is
 * still open, so this can send; to a refused client it has 250 ms, but over TLS
 * there is no session to send by. `error` is borrowed: valid during the call, not
 * to be freed. In non-blocking mode the socket stays open unless this closes it,
 * or fails itself: a negative return but NS_ERR_WOULD_BLOCK is counted and
 * closes.
 */
typedef int32_t (*ns_exception_fn)(ns_server *server,
                                   ns_socket *socket,
                                   const ns_error *error,
                                   void *user_data);

/**
 * Runs once in `ns_server_start`, when the ports are known and before
 * anything is accepted. A negative return makes the start fail.
 */
typedef int32_t (*ns_start_fn)(ns_server *server, void *user_data);

/** Runs once, after the last connection has gone, whatever stopped the server. */
typedef void (*ns_stop_fn)(ns_server *server, void *user_data);

/**
 * A connection was accepted, and over TLS its handshake is over. A negative
 * return closes it immediately, after the exception handler; NS_ERR_WOULD_BLOCK
 * is no failure.
 */
typedef int32_t (*ns_open_fn)(ns_server *server, ns_socket *socket, void *user_data);

/**
 * A connection ended, for an `NS_CLOSE_...` reason: the last callback of each
 * one for which `on_open` was due, unless it was detached.
 */
typedef void (*ns_close_fn)(ns_server *server,
                            ns_socket *socket,
                            int32_t reason,
                            void *user_data);

/** `on_drain`, `on_timeout`, `on_wake`: something happened to a connection. */
typedef void (*ns_event_fn)(ns_server *server, ns_socket *socket, void *user_data);

/** What was agreed in a TLS handshake. Texts end with a NUL. */
typedef struct {
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
 * Names a connection: never 0, never given to another connection, safe to
 * keep for ever and to use from any thread.
 */
typedef uint64_t ns_conn_id;

/** Called by `ns_server_foreach` for each id; nonzero ends the walk. */
typedef int32_t (*ns_foreach_fn)(ns_conn_id id, void *user_data);

/**
 * A snapshot of a server. At rest: accepted + attached = open + waiting + all
 * of closed + detached.
 */
typedef struct {
    /** An NS_STATE_.... */
    uint32_t state;
    /** 1 in non-blocking mode. */
    uint32_t non_blocking;
    /** Workers or loops. */
    uint32_t threads;
    /** Those of them that have a connection. */
    uint32_t active_threads;
    /** As `ns_server_port`. */
    uint32_t port;
    /** As `ns_server_shutdown_port`. */
    uint32_t shutdown_port;
    /** Milliseconds since the start. */
    uint64_t uptime_ms;
    /** Connections accepted. */
    uint64_t accepted;
    /** Sockets given back by `ns_attach`. */
    uint64_t attached;
    /** Connections refused because no worker became free. */
    uint64_t refused;
    /** Connections open now. */
    uint64_t open;
    /** Connections that wait for a worker now. */
    uint64_t waiting;
    /** Connections taken out by `ns_detach`. */
    uint64_t detached;
    /** Connections that a stop let finish. */
    uint64_t drained;
    /** Connections that a stop cut. */
    uint64_t cut;
    /** Bytes received, as they came: over TLS the encrypted ones. */
    uint64_t bytes_in;
    /** Bytes that the kernel took, as they left: over TLS the encrypted ones. */
    uint64_t bytes_out;
    /** Failures of handlers and of exception handlers. */
    uint64_t handler_errors;
    /** Failures to accept. */
    uint64_t accept_errors;
    /** TLS handshakes completed. */
    uint64_t handshakes;
    /** TLS handshakes failed. */
    uint64_t handshake_failures;
    /** Connections closed, by NS_CLOSE_... reason. */
    uint64_t closed[16];
} ns_stats;

/** A snapshot of one worker or loop. */
typedef struct {
    /** 0 to threads - 1. */
    uint32_t index;
    /** 0; for alignment. */
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
    /** Failures of handlers and of exception handlers. */
    uint64_t handler_errors;
} ns_thread_stats;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * A new server that listens nowhere yet.
 *
 * `service` says where: "5000", "http", "0" or NULL (any free port),
 * "127.0.0.1:5000", "[::1]:5000". A port is digits alone, at most 65535, or a
 * name of services(5), which has a letter. `handler` serves the connections; `drop`
 * (NULL: none) frees its `user_data` when the server goes, and at once if this
 * fails. `config` is NULL for the defaults; the server takes its own share of
 * it. Returns the server, the caller's to free (`ns_server_free`); NULL on
 * failure: NS_ERR_INVALID (an argument, or what a setter of the config
 * refused), NS_ERR_STATE (a setter of the TLS object came too late),
 * NS_ERR_CERTIFICATE (TLS without a certificate, or what a setter of the TLS
 * object refused), NS_ERR_TLS, NS_ERR_IO (no descriptor left). `err` may be NULL; else `*err` is
 * NULL or an error that is the caller's to free. [any] [blocks]
 */
ns_server *ns_server_new(const char *service,
                         ns_handler_fn handler,
                         void *user_data,
                         ns_drop_fn drop,
                         const ns_config *config,
                         ns_error **err);

/**
 * Starts: binds, makes the threads, runs `on_start`, accepts. Returns when the
 * server has stopped, or with NS_START_BACKGROUND in `flags` (else 0) as soon
 * as it accepts: its ports are final then. 0, or NS_ERR_INVALID, NS_ERR_STATE
 * (started before), NS_ERR_ADDRESS, NS_ERR_LISTEN, NS_ERR_THREAD, NS_ERR_HOOK,
 * NS_ERR_IO; a failed start leaves nothing behind and may be tried again. In
 * non-blocking mode with one loop and without NS_START_BACKGROUND the callbacks
 * run on the calling thread, where the program's signals may come too.
 * `err` may be NULL; else `*err` is NULL or an error that is the caller's to
 * free. [any] [blocks]
 */
ns_status ns_server_start(ns_server *server, uint32_t flags, ns_error **err);

/**
 * Stops and returns when the server has stopped: no handler starts any more,
 * running ones may finish and queued bytes leave until the config's
 * `drain_timeout`, then what is left is cut, for as long as that ends
 * connections. `on_drain` is still called, and may send more; `on_wake` and
 * `on_timeout` are not. 0, also if it was never started or has stopped;
 * NS_ERR_TIMEOUT if a handler or `on_start` does not return within 80 ms of the
 * cut (it goes on stopping). In a callback it only asks for the stop and returns
 * 0 immediately. [any] [blocks]
 */
ns_status ns_server_stop(ns_server *server);

/**
 * `ns_server_stop` with another drain deadline: 0 to 2^31 - 1 milliseconds,
 * else NS_ERR_INVALID. [any] [blocks]
 */
ns_status ns_server_stop_within(ns_server *server, int64_t ms);

/**
 * Asks for the stop and returns at once; errno is kept. Before the start it is
 * remembered: the start then returns 0 at once and runs no hook. 0, or
 * NS_ERR_INVALID. [any] [signal]
 */
ns_status ns_server_request_stop(ns_server *server);

/**
 * Returns 0 when the server has stopped, by whichever way, or was never
 * started; NS_ERR_TIMEOUT after `timeout_ms` milliseconds (-1: never);
 * NS_ERR_DEADLOCK in a callback; NS_ERR_INVALID for NULL and below -1. [any] [blocks]
 */
ns_status ns_server_wait(ns_server *server, int64_t timeout_ms);

/**
 * Stops as `ns_server_stop`, then frees: connection data, callbacks, context,
 * in this order, by their drop functions. 0, also for NULL; NS_ERR_BUSY in a
 * callback, NS_ERR_TIMEOUT if a handler does not return: then nothing is freed
 * and it may be called again. Other threads may meanwhile be in
 * `ns_server_start`, `_stop` and `_wait`, which return first, and in no other
 * call. [any] [blocks]
 */
ns_status ns_server_free(ns_server *server);

/** 1 before the start and after the stop, also for NULL; else 0. [any] */
int32_t ns_server_is_stopped(const ns_server *server);

/** An `NS_STATE_...`; NS_STATE_NEW for NULL. [any] */
int32_t ns_server_state(const ns_server *server);

/** The port it listens on, in host byte order; 0 before the start. [any] */
uint16_t ns_server_port(const ns_server *server);

/** The shutdown port, in host byte order; 0 before the start and without one. [any] */
uint16_t ns_server_shutdown_port(const ns_server *server);

/**
 * The address it listens on as text, "0.0.0.0:5000", several joined by ", ";
 * "" before the start. As `snprintf`: writes at most `len` bytes, NUL included,
 * and returns the length of the whole text without it. [any]
 */
size_t ns_server_address(const ns_server *server, char *buf, size_t len);

/**
 * The config it was made with (one with the defaults if that was NULL),
 * borrowed: not to be freed, valid as long as the server. NULL for NULL. [any]
 */
const ns_config *ns_server_config(const ns_server *server);

/** The pointer of `ns_server_set_context`; NULL if there is none. [any] */
void *ns_server_context(const ns_server *server);

/**
 * Keeps a pointer of the program's with the server; `drop` (NULL: none) frees
 * it last in `ns_server_free`, when it is replaced, and at once if this fails.
 * 0, NS_ERR_INVALID (NULL server), NS_ERR_STATE (started). [setup] [blocks]
 */
ns_status ns_server_set_context(ns_server *server, void *context, ns_drop_fn drop);

/**
 * A new config with the defaults, the caller's to free (`ns_config_free`);
 * never NULL: one that could not be made remembers why, and `ns_server_new`
 * reports it. [any]
 */
ns_config *ns_config_new(void);

/**
 * Gives the caller's share back; NULL is allowed. Its callbacks' drop
 * functions run when no server uses it either. [any] [blocks]
 */
void ns_config_free(ns_config *config);

/**
 * How many connections are served at once (blocking mode), or the number of
 * event loops (non-blocking mode): 1 (default) to 4096. All setters return 0,
 * NS_ERR_INVALID or NS_ERR_STATE (in use by a server: it stays as it is); the
 * first failure but NS_ERR_STATE is remembered and reported by `ns_server_new`,
 * so they may go unchecked. [setup]
 */
ns_status ns_config_set_max_thread(ns_config *config, uint32_t count);

/** The setting. [any] */
uint32_t ns_config_max_thread(const ns_config *config);

/**
 * Blocking mode: a connection that finds no worker free waits this many times
 * `retry_interval`, up to 20 ms more, and is then refused, one client after
 * another, for each of which the exception handler has 250 ms: 0 to 1000000,
 * default 10. With a `max_thread` of 1 nobody is refused: all wait, however
 * long. [setup]
 */
ns_status ns_config_set_max_retry(ns_config *config, uint32_t count);

/** The setting. [any] */
uint32_t ns_config_max_retry(const ns_config *config);

/** See `max_retry`. Milliseconds, 0 to 2^31 - 1, default 500. [setup] */
ns_status ns_config_set_retry_interval_ms(ns_config *config, uint32_t time);

/** The setting, in milliseconds. [any] */
uint32_t ns_config_retry_interval_ms(const ns_config *config);

/**
 * Blocking mode: how many connections may wait for a worker, the next one is
 * refused at once. Default 1024. [setup]
 */
ns_status ns_config_set_max_waiting(ns_config *config, uint32_t count);

/** The setting. [any] */
uint32_t ns_config_max_waiting(const ns_config *config);

/**
 * 1: event loops and a handler that must not block; 0 (default): workers and a
 * handler that may. [setup]
 */
ns_status ns_config_set_non_blocking(ns_config *config, int32_t value);

/** The setting, 0 or 1. [any] */
int32_t ns_config_non_blocking(const ns_config *config);

/**
 * 1: a service without a host listens for IPv6 as well as IPv4, on the same
 * port, where the host has it. Default 0. [setup]
 */
ns_status ns_config_set_use_ipv6(ns_config *config, int32_t value);

/** The setting, 0 or 1. [any] */
int32_t ns_config_use_ipv6(const ns_config *config);

/**
 * How many connections may be open; accepting pauses there and clients wait in
 * the backlog. 0 (default): what the limit of open files allows. [setup]
 */
ns_status ns_config_set_max_connections(ns_config *config, uint32_t count);

/** The setting. [any] */
uint32_t ns_config_max_connections(const ns_config *config);

/**
 * Length of the kernel's queue of connections not yet accepted: 1 to 65535,
 * default 4096; the kernel's own cap applies. [setup]
 */
ns_status ns_config_set_backlog(ns_config *config, uint32_t count);

/** The setting. [any] */
uint32_t ns_config_backlog(const ns_config *config);

/**
 * A TLS handshake that takes longer as a whole is given up: milliseconds, 0 to
 * 2^31 - 1, default 10000. [setup]
 */
ns_status ns_config_set_handshake_timeout_ms(ns_config *config, uint32_t time);

/** The setting, in milliseconds. [any] */
uint32_t ns_config_handshake_timeout_ms(const ns_config *config);

/**
 * Non-blocking mode: how many TLS handshakes may be in progress at once; beyond
 * it new ones wait. Each loop has its equal part, at least one. A client counts
 * when its whole first record has come. Default 1024, 0: no bound. [setup]
 */
ns_status ns_config_set_max_handshakes(ns_config *config, uint32_t count);

/** The setting. [any] */
uint32_t ns_config_max_handshakes(const ns_config *config);

/**
 * A connection with no byte either way for so long is closed: milliseconds, 1
 * to 2^31 - 1, 0 (default) is off. A worker looks while its handler waits in a
 * call: that returns NS_ERR_TIMEOUT, and the connection is closed. [setup]
 */
ns_status ns_config_set_idle_timeout_ms(ns_config *config, uint32_t time);

/** The setting, in milliseconds; 0 is off. [any] */
uint32_t ns_config_idle_timeout_ms(const ns_config *config);

/**
 * A blocking `recv` or `send` gives up after so long with NS_ERR_TIMEOUT:
 * milliseconds, 1 to 2^31 - 1, 0 (default) is off. [setup]
 */
ns_status ns_config_set_io_timeout_ms(ns_config *config, uint32_t time);

/** The setting, in milliseconds; 0 is off. [any] */
uint32_t ns_config_io_timeout_ms(const ns_config *config);

/**
 * A connection whose queued bytes make no progress for so long is closed; it is
 * progress when the kernel takes some, or the peer acknowledges some: milliseconds, 1 to 2^31 - 1, 0 is off, default 30000. [setup]
 */
ns_status ns_config_set_write_timeout_ms(ns_config *config,
                                         uint32_t time);

/** The setting, in milliseconds; 0 is off. [any] */
uint32_t ns_config_write_timeout_ms(const ns_config *config);

/**
 * How long the input of a closed connection is discarded until the peer closes,
 * in blocking mode where some is unread or output not acknowledged; and how long
 * a worker's or a detached one goes on to send what is unsent (on a loop
 * `write_timeout` bounds that): milliseconds, 0 to 2^31 - 1, default 1000. [setup]
 */
ns_status ns_config_set_linger_timeout_ms(ns_config *config, uint32_t time);

/** The setting, in milliseconds. [any] */
uint32_t ns_config_linger_timeout_ms(const ns_config *config);

/**
 * How long a stop lets handlers finish and bytes leave before it cuts:
 * milliseconds, 0 to 2^31 - 1, default 5000. [setup]
 */
ns_status ns_config_set_drain_timeout_ms(ns_config *config, uint32_t time);

/** The setting, in milliseconds. [any] */
uint32_t ns_config_drain_timeout_ms(const ns_config *config);

/**
 * TCP keep-alive, so that a vanished peer is noticed: milliseconds, rounded up
 * to seconds, 1 to 32767000, 0 is off, default 60000. [setup]
 */
ns_status ns_config_set_keep_alive_ms(ns_config *config, uint32_t time);

/** The setting, in milliseconds; 0 is off. [any] */
uint32_t ns_config_keep_alive_ms(const ns_config *config);

/** 1 (default): small pieces are sent at once (TCP_NODELAY). [setup] */
ns_status ns_config_set_no_delay(ns_config *config, int32_t value);

/** The setting, 0 or 1. [any] */
int32_t ns_config_no_delay(const ns_config *config);

/**
 * Non-blocking mode: a connection with more queued outbound bytes than this is
 * not read until half of them left: 1 to `send_limit`, default 262144. [setup]
 */
ns_status ns_config_set_high_water_mark(ns_config *config, size_t bytes);

/** The setting, in bytes. [any] */
size_t ns_config_high_water_mark(const ns_config *config);

/**
 * Non-blocking mode: a `send` that would queue more than this is refused with
 * NS_ERR_BUFFER_FULL: 1 to 2^31 - 1, default 16777216. [setup]
 */
ns_status ns_config_set_send_limit(ns_config *config, size_t bytes);

/** The setting, in bytes. [any] */
size_t ns_config_send_limit(const ns_config *config);

/**
 * A service (as of `ns_server_new`; loopback unless it names a host) on which
 * a connection stops the server; "0" for any free port. Copied. NULL (default):
 * none. [setup]
 */
ns_status ns_config_set_shutdown_port(ns_config *config, const char *service);

/**
 * The setting, NULL when unset. Borrowed: valid until it is set again or the
 * config goes away. [any]
 */
const char *ns_config_shutdown_port(const ns_config *config);

/**
 * TLS on every connection but those of the shutdown port. The config takes its
 * own share of `tls`, which must have a certificate when `ns_server_new` freezes
 * it. 0, NS_ERR_INVALID (NULL: remembered as every failure of a setter, so that
 * a TLS object that is missing never means plain text) or NS_ERR_STATE (in use
 * by a server). [setup]
 */
ns_status ns_config_set_tls(ns_config *config, const ns_tls *tls);

/**
 * Takes TLS out of the config (default): its connections are plain text. 0,
 * NS_ERR_INVALID (NULL config) or NS_ERR_STATE (in use by a server). [setup]
 */
ns_status ns_config_clear_tls(ns_config *config);

/**
 * What serves the shutdown port, one peer after another, who sent something
 * first: each has 5 s, 500 ms where it is silent and another waits. Without it
 * every connection there stops the
 * server. For all callbacks: `function` NULL unsets; `drop` (NULL: none) frees
 * `user_data` after the last call, and at once if this fails or unsets.
 * Returns 0, NS_ERR_INVALID (NULL config) or NS_ERR_STATE (in use by a
 * server). [setup] [blocks]
 */
ns_status ns_config_set_shutdown_handler(ns_config *config,
                                         ns_shutdown_fn function,
                                         void *user_data,
                                         ns_drop_fn drop);

/**
 * What is told of failures; without one a connection whose handler fails is
 * closed. [setup] [blocks]
 */
ns_status ns_config_set_exception_handler(ns_config *config,
                                          ns_exception_fn function,
                                          void *user_data,
                                          ns_drop_fn drop);

/**
 * A hook before the server accepts, on the thread that starts it. A single
 * event loop runs there afterwards: nothing that it does can be waited for
 * here. [setup] [blocks]
 */
ns_status ns_config_set_on_start(ns_config *config,
                                 ns_start_fn function,
                                 void *user_data,
                                 ns_drop_fn drop);

/** A hook when the server has stopped. [setup] [blocks] */
ns_status ns_config_set_on_stop(ns_config *config,
                                ns_stop_fn function,
                                void *user_data,
                                ns_drop_fn drop);

/** Called for each new connection, before its handler. [setup] [blocks] */
ns_status ns_config_set_on_open(ns_config *config,
                                ns_open_fn function,
                                void *user_data,
                                ns_drop_fn drop);

/** Called last for each connection. [setup] [blocks] */
ns_status ns_config_set_on_close(ns_config *config,
                                 ns_close_fn function,
                                 void *user_data,
                                 ns_drop_fn drop);

/**
 * Non-blocking mode: called when all queued bytes of a connection have left; in
 * a stop, too: what it sends is the rest of an answer, and the connection is
 * closed when it sends no more. [setup] [blocks]
 */
ns_status ns_config_set_on_drain(ns_config *config,
                                 ns_event_fn function,
                                 void *user_data,
                                 ns_drop_fn drop);

/**
 * Non-blocking mode: called when a connection's timer fires; without one it is
 * closed. [setup] [blocks]
 */
ns_status ns_config_set_on_timeout(ns_config *config,
                                   ns_event_fn function,
                                   void *user_data,
                                   ns_drop_fn drop);

/**
 * Non-blocking mode: called on a connection's loop after `ns_server_wake`.
 * [setup] [blocks]
 */
ns_status ns_config_set_on_wake(ns_config *config,
                                ns_event_fn function,
                                void *user_data,
                                ns_drop_fn drop);

/**
 * A new TLS object, the caller's to free (`ns_tls_free`); never NULL: one that
 * could not be made remembers why, and every use reports it. It needs a
 * certificate before a server can use it. [any]
 */
ns_tls *ns_tls_new(void);

/** Gives the caller's share back; NULL is allowed. [any] */
void ns_tls_free(ns_tls *tls);

/**
 * Adds a certificate chain, the server's own certificate first, and its
 * private key, from PEM files. `server_name` is the name that clients ask for
 * to get it (SNI, RFC 6066): "example.org", or "*.example.org" for any one
 * label in front. NULL makes it the default, for all other names; without one
 * that is the first certificate added. Several for the same name: the first
 * whose kind of key the client can verify. All setters return 0 or a negative
 * status; the first failure is remembered and reported by whatever uses the
 * object, so they may go unchecked. Here: NS_ERR_CERTIFICATE (the error names
 * the file, the block in it and what is wrong with it: it cannot be read, has no
 * certificate or no key, bad PEM, a certificate of the chain that is none, an
 * encrypted key, a key of an unsupported type or length, the key of another
 * certificate), NS_ERR_INVALID (NULL, not a server name),
 * NS_ERR_STATE (frozen). `err` may be NULL; else `*err` is NULL or an error
 * that is the caller's to free. [setup] [blocks]
 */
ns_status ns_tls_add_cert_file(ns_tls *tls,
                               const char *server_name,
                               const char *chain_file,
                               const char *key_file,
                               ns_error **err);

/**
 * `ns_tls_add_cert_file` with PEM text in memory, `chain_len` and `key_len`
 * bytes of it, without a final NUL. Copied; wipe yours. [setup]
 */
ns_status ns_tls_add_cert_pem(ns_tls *tls,
                              const char *server_name,
                              const void *chain,
                              size_t chain_len,
                              const void *key,
                              size_t key_len,
                              ns_error **err);

/**
 * `ns_tls_add_cert_file` with certificates and a key in DER: the chain is
 * `count` certificates, at most 100, `chain_lens[i]` bytes at `chain[i]`; the
 * key is PKCS #8, PKCS #1 or SEC 1. Copied; wipe yours. [setup]
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
 * Asks clients for a certificate that one of the authorities in a PEM file
 * vouches for, and refuses any other: a self-signed certificate of a client's
 * that is its own authority there is refused too. `required` 1: also a client
 * without one; 0: those are let in, and `ns_socket_tls_peer_certificate` tells.
 * A session is not resumed once a certificate of the client's has expired. 0,
 * NS_ERR_CERTIFICATE (the error names the file, the block in it and what is
 * wrong with it: a block that is no authority is never left out silently),
 * NS_ERR_INVALID, NS_ERR_STATE (frozen). `err` may be NULL; else `*err` is NULL
 * or an error that is the caller's to free. [setup] [blocks]
 */
ns_status ns_tls_set_client_ca_file(ns_tls *tls,
                                    const char *path,
                                    int32_t required,
                                    ns_error **err);

/**
 * `ns_tls_set_client_ca_file` with `len` bytes of PEM text in memory. Copied.
 * [setup]
 */
ns_status ns_tls_set_client_ca_pem(ns_tls *tls,
                                   const void *pem,
                                   size_t len,
                                   int32_t required,
                                   ns_error **err);

/**
 * The application protocols (ALPN, RFC 7301) that the server speaks, the
 * preferred one first: `n` of them, at most 1024, each of 1 to 255 bytes and a
 * NUL: "h2", "http/1.1". Copied. A client that offers only others is refused;
 * one that offers none is not. 0 (default): none is agreed. 0 or
 * NS_ERR_INVALID, NS_ERR_STATE (frozen). [setup]
 */
ns_status ns_tls_set_alpn(ns_tls *tls, const char *const *protocols, size_t n);

/**
 * The oldest version that is spoken: NS_TLS_1_2 (default) or NS_TLS_1_3. 0 or
 * NS_ERR_INVALID, NS_ERR_STATE (frozen). [setup]
 */
ns_status ns_tls_set_min_version(ns_tls *tls, int32_t version);

/**
 * 1 (default): clients get tickets, by which their sessions resume; 0: they
 * resume from the session cache, where there is one. 0 or NS_ERR_INVALID,
 * NS_ERR_STATE (frozen). [setup]
 */
ns_status ns_tls_set_tickets(ns_tls *tls, int32_t tickets);

/**
 * How many sessions are kept in memory, for clients that resume without
 * tickets: at most 1048576; 0 (default): none. 0 or NS_ERR_INVALID,
 * NS_ERR_STATE (frozen). [setup]
 */
ns_status ns_tls_set_session_cache(ns_tls *tls, size_t sessions);

/**
 * Has the handshakes that begin from now on use `tls` (another object than
 * the one in use: that is frozen); open sessions go on. On failure the one in
 * use stays: NS_ERR_CERTIFICATE (no certificate), NS_ERR_STATE (the server was
 * made without TLS), NS_ERR_TLS, NS_ERR_INVALID, or what a setter of `tls`
 * said. 0 on success. `err` may be NULL; else `*err` is NULL or an error that
 * is the caller's to free. [any]
 */
ns_status ns_server_reload_tls(ns_server *server, const ns_tls *tls, ns_error **err);

/**
 * Goes over to TLS on a plain connection (STARTTLS), after your own go-ahead
 * was sent. The `n` bytes at `ahead` are what `ns_socket_recv` gave beyond the
 * client's request: they are handed to TLS, as are all unread ones, so that
 * nothing a third party slipped in before is taken for what the client said
 * under TLS. Forget what else the client said in plain text.
 *
 * Non-blocking mode: returns 0 at once, what you send is encrypted, and the
 * handler is next called with application data; a handshake that fails is
 * told to the exception handler and closes the connection. Blocking mode:
 * returns when the handshake is over: 0, NS_ERR_HANDSHAKE, NS_ERR_TIMEOUT
 * (`handshake_timeout`), NS_ERR_RESET; return it from the handler, and the
 * exception handler gets the sentence that says why. Both:
 * NS_ERR_CERTIFICATE (no certificate), NS_ERR_STATE (TLS already),
 * NS_ERR_CLOSED, NS_ERR_DETACHED, NS_ERR_NOT_IN_HANDLER, NS_ERR_INVALID, or
 * what a setter of `tls` said. [handler]; [blocks] in blocking mode.
 */
ns_status ns_socket_starttls(ns_socket *socket, const ns_tls *tls, const void *ahead, size_t n);

/**
 * Fills `*out`, of which `size` is the `sizeof`, as `ns_server_stats` does. 0,
 * NS_ERR_STATE where there is no TLS or the handshake is not over,
 * NS_ERR_DETACHED, NS_ERR_NOT_IN_HANDLER, NS_ERR_INVALID. [handler]
 */
ns_status ns_socket_tls_info(const ns_socket *socket, ns_tls_info *out, size_t size);

/**
 * The client's own certificate in DER, verified. Writes at most `len` bytes
 * and returns the length of the whole; 0 where there is none. [handler]
 */
size_t ns_socket_tls_peer_certificate(const ns_socket *socket, void *buf, size_t len);

/**
 * The subject of that certificate as text (RFC 4514), "CN=ann,O=Example":
 * control characters are escaped, so that none ends the text early; "" where
 * there is none. As `snprintf`: writes at most `len` bytes, NUL included, and
 * returns the length of the whole text without it. [handler]
 */
size_t ns_socket_tls_peer_subject(const ns_socket *socket, char *buf, size_t len);

/**
 * Reads at most `len` bytes, 1 or more. Returns how many; 0 at the end of the
 * stream; NS_ERR_WOULD_BLOCK (non-blocking mode: nothing more now; not on the
 * first call in a handler); NS_ERR_TIMEOUT (`io_timeout`, or `idle_timeout`,
 * which closes the connection), NS_ERR_RESET,
 * NS_ERR_TRUNCATED (TLS: the stream ended without close_notify), NS_ERR_TLS,
 * NS_ERR_CLOSED, NS_ERR_DETACHED, NS_ERR_NOT_IN_HANDLER, NS_ERR_IO,
 * NS_ERR_INVALID. [handler]; [blocks] in blocking mode.
 */
int64_t ns_socket_recv(ns_socket *socket, void *buf, size_t len);

/**
 * Sends all `len` bytes: 0 or a negative status. Blocking mode: returns when the
 * kernel has them; after NS_ERR_TIMEOUT (`io_timeout`) a part of them, which is
 * not known, has been sent and the rest will not be, so that the stream is of use
 * only to who can tell by other means. Non-blocking mode: all of them or none;
 * what the kernel does not take is copied and written later; NS_ERR_BUFFER_FULL
 * above `send_limit`. Also NS_ERR_RESET, NS_ERR_CLOSED, NS_ERR_DETACHED,
 * NS_ERR_NOT_IN_HANDLER, NS_ERR_IO, NS_ERR_INVALID. [handler]; [blocks] in
 * blocking mode.
 */
ns_status ns_socket_send(ns_socket *socket, const void *buf, size_t len);

/**
 * `ns_socket_send` of `count` pieces in a row, `lens[i]` bytes at `bufs[i]`, at
 * most 1024; all or none of them. [handler]; [blocks] in blocking mode.
 */
ns_status ns_socket_sendv(ns_socket *socket,
                          const void *const *bufs,
                          const size_t *lens,
                          size_t count);

/**
 * Ends one direction (NS_SHUT_RD, NS_SHUT_WR, NS_SHUT_RDWR), after what is
 * queued. 0 or NS_ERR_CLOSED, NS_ERR_DETACHED, NS_ERR_NOT_IN_HANDLER,
 * NS_ERR_INVALID. [handler]; [blocks] in blocking mode, for `linger_timeout` at
 * most
 */
ns_status ns_socket_shutdown(ns_socket *socket, int32_t how);

/**
 * Closes: what is queued leaves first. The object lives until the callback
 * returns, an owned one until `ns_socket_free`. Closing twice is harmless. 0 or
 * NS_ERR_DETACHED, NS_ERR_NOT_IN_HANDLER, NS_ERR_INVALID. [handler]; [blocks]
 * in blocking mode, for `linger_timeout` at most
 */
ns_status ns_socket_close(ns_socket *socket);

/**
 * Resets the connection; what is queued is lost. As `ns_socket_close`
 * otherwise. [handler]
 */
ns_status ns_socket_abort(ns_socket *socket);

/**
 * 1 if it is closed or cannot be used here (NULL, detached, not in its
 * callback), else 0. [handler]
 */
int32_t ns_socket_is_closed(const ns_socket *socket);

/** The connection's id; 0 where it cannot be used here. [handler] */
ns_conn_id ns_socket_id(const ns_socket *socket);

/**
 * The descriptor, to look at (`getsockopt`), not to read, write or close; -1
 * when it is gone. [handler]
 */
int ns_socket_fd(const ns_socket *socket);

/**
 * The peer's address as text: "127.0.0.1:4711", "[::1]:4711", "" where it is
 * not known. As `snprintf`: writes at most `len` bytes, NUL included, and
 * returns the length of the whole text without it. [handler]
 */
size_t ns_socket_peer(const ns_socket *socket, char *buf, size_t len);

/** The address of this side, as `ns_socket_peer`. [handler] */
size_t ns_socket_local(const ns_socket *socket, char *buf, size_t len);

/** How many bytes are queued and not yet with the kernel. [handler] */
size_t ns_socket_queued(const ns_socket *socket);

/** The `errno` of what ended the connection, 0 for none. [handler] */
int32_t ns_socket_os_error(const ns_socket *socket);

/**
 * Has `on_timeout` called once, `ms` milliseconds from now (to 2^31 - 1; 0: not
 * any more); where none is set the connection is then closed. 0 or
 * NS_ERR_NOT_NON_BLOCKING, NS_ERR_CLOSED, NS_ERR_DETACHED,
 * NS_ERR_NOT_IN_HANDLER, NS_ERR_INVALID. [handler]
 */
ns_status ns_socket_set_timer_ms(ns_socket *socket, uint32_t ms);

/**
 * The config's `io_timeout` for this socket alone: milliseconds to 2^31 - 1, 0
 * is off. 0 or NS_ERR_UNSUPPORTED (on a loop, where no call waits),
 * NS_ERR_DETACHED, NS_ERR_NOT_IN_HANDLER, NS_ERR_INVALID. [handler]
 */
ns_status ns_socket_set_io_timeout_ms(ns_socket *socket, uint32_t ms);

/**
 * Non-blocking mode: the handler is not called for new input until
 * `ns_socket_resume`. That the peer has ended, or reset the connection with
 * input unread, shows only then. 0 or NS_ERR_NOT_NON_BLOCKING, NS_ERR_CLOSED,
 * NS_ERR_DETACHED, NS_ERR_NOT_IN_HANDLER, NS_ERR_INVALID. [handler]
 */
ns_status ns_socket_pause(ns_socket *socket);

/**
 * Ends `ns_socket_pause`; the same results. From another thread:
 * `ns_server_wake`, and this in `on_wake`. [handler]
 */
ns_status ns_socket_resume(ns_socket *socket);

/** The pointer of `ns_socket_set_user_data`; NULL if there is none. [handler] */
void *ns_socket_user_data(const ns_socket *socket);

/**
 * Keeps a pointer of the program's with the connection; it goes along through
 * detach and attach. `drop` (NULL: none) frees it after `on_close`, when it is
 * replaced, and at once if this fails. 0 or NS_ERR_DETACHED,
 * NS_ERR_NOT_IN_HANDLER, NS_ERR_INVALID. [handler] [blocks]
 */
ns_status ns_socket_set_user_data(ns_socket *socket, void *user_data, ns_drop_fn drop);

/**
 * Takes a connection out of a non-blocking server, in any of its callbacks but
 * `on_close`. Returns a new, owned socket in blocking mode, with user data,
 * unread and unsent bytes, without its timer and a pause: usable from any one
 * thread at a time, immediately, also after the server was freed; to be ended
 * by `ns_socket_free`, `ns_socket_release_fd` or `ns_attach`. `socket` itself
 * answers NS_ERR_DETACHED until the callback returns. NULL on failure:
 * NS_ERR_NOT_NON_BLOCKING, NS_ERR_NOT_IN_HANDLER, NS_ERR_DETACHED,
 * NS_ERR_STATE (a TLS handshake is in progress), NS_ERR_CLOSED (also by id,
 * although that has not been done yet), NS_ERR_INVALID. `err` may be NULL; else
 * `*err` is NULL or an error that is the caller's to free. [handler]
 */
ns_socket *ns_detach(ns_server *server, ns_socket *socket, ns_error **err);

/**
 * Gives an owned socket to a non-blocking server: its former one or another.
 * Returns its new id, and `owned` is gone; no second `on_open`; the handler
 * runs if bytes wait; `max_connections` is not asked. In `on_start` the handler
 * may run on a loop before that returns, and the connection is closed where that
 * fails. 0 on failure, and the caller still owns it: NS_ERR_STATE (before
 * `on_start` or after the stop), NS_ERR_NOT_NON_BLOCKING, NS_ERR_CLOSED,
 * NS_ERR_INVALID. `err` may be NULL; else `*err` is NULL or an error that is the
 * caller's to free. [any], by the owner
 */
ns_conn_id ns_attach(ns_server *server, ns_socket *owned, ns_error **err);

/**
 * Closes and frees an owned socket; where bytes are unsent, unacknowledged or
 * unread it waits for the peer, at most `linger_timeout` in all. What is unsent
 * then ends in a reset. NULL and a borrowed one are left alone. [any], by the
 * owner; [blocks]
 */
void ns_socket_free(ns_socket *owned);

/**
 * The descriptor of an owned socket that has no buffered bytes; the socket is
 * freed and the descriptor, in blocking mode, the caller's to close. Negative
 * on failure, and the caller still owns the socket: NS_ERR_BUSY (buffered
 * bytes), NS_ERR_UNSUPPORTED (a TLS socket), NS_ERR_CLOSED, NS_ERR_INVALID. [any], by the owner; [blocks]
 */
int ns_socket_release_fd(ns_socket *owned);

/**
 * Queues `len` bytes for a connection of a non-blocking server; they are
 * copied. 0 means accepted, not delivered; what one thread sends stays in
 * order. NS_ERR_CLOSED for an id that is gone (and 0), NS_ERR_BUFFER_FULL
 * (nothing is queued), NS_ERR_NOT_NON_BLOCKING, NS_ERR_INVALID. [any]
 */
ns_status ns_server_send(ns_server *server, ns_conn_id id, const void *buf, size_t len);

/**
 * Closes a connection as `ns_socket_close`, of a server of either mode; a worker
 * in the middle of a `send` loses the rest, which ends in a reset. 0 or
 * NS_ERR_CLOSED, NS_ERR_INVALID. [any]
 */
ns_status ns_server_close(ns_server *server, ns_conn_id id);

/**
 * Resets a connection as `ns_socket_abort`, of a server of either mode. 0 or
 * NS_ERR_CLOSED, NS_ERR_INVALID. [any]
 */
ns_status ns_server_abort(ns_server *server, ns_conn_id id);

/**
 * Has `on_wake` called for a connection of a non-blocking server, on its loop;
 * once for all calls before it runs.
 * 0 or NS_ERR_CLOSED, NS_ERR_NOT_NON_BLOCKING, NS_ERR_INVALID. [any]
 */
ns_status ns_server_wake(ns_server *server, ns_conn_id id);

/**
 * `ns_server_send` of the same bytes to `n` connections; one copy is made for
 * all. Returns how many accepted it: ids that are gone and full queues are
 * left out. Or a negative status: NS_ERR_CLOSED (not running),
 * NS_ERR_NOT_NON_BLOCKING, NS_ERR_INVALID. [any]
 */
int64_t ns_server_broadcast(ns_server *server,
                            const ns_conn_id *ids,
                            size_t n,
                            const void *buf,
                            size_t len);

/**
 * Calls `function` with the id of each connection that is open now, on the
 * calling thread, until it returns nonzero. It may call anything. Returns how
 * many ids it saw, or a negative status: NS_ERR_NOT_NON_BLOCKING,
 * NS_ERR_INVALID. [any] [blocks]
 */
int64_t ns_server_foreach(ns_server *server, ns_foreach_fn function, void *user_data);

/**
 * Fills `*out`, of which `size` is the `sizeof`: a library with more to say
 * leaves the rest out, one with less fills it with zeros. 0 or NS_ERR_INVALID. [any]
 */
ns_status ns_server_stats(const ns_server *server, ns_stats *out, size_t size);

/**
 * As `ns_server_stats`, for the thread `index` of 0 to threads - 1, else
 * NS_ERR_INVALID. [any]
 */
ns_status ns_server_thread_stats(const ns_server *server,
                                 uint32_t index,
                                 ns_thread_stats *out,
                                 size_t size);

/**
 * A report to read: state, threads, connections, counters. As `snprintf`:
 * writes at most `len` bytes, NUL included, and returns the length of the
 * whole text without it; it may differ at the next call. [any]
 */
size_t ns_server_report(const ns_server *server, char *buf, size_t len);

/** The status: a negative `NS_ERR_...`. 0 for NULL. [any] */
ns_status ns_error_status(const ns_error *error);

/** The code of the operating system (`errno`), 0 where there is none. [any] */
int32_t ns_error_os_code(const ns_error *error);

/**
 * The negative number that the handler returned or raised, 0 where the
 * failure is not a handler's. [any]
 */
int32_t ns_error_handler_code(const ns_error *error);

/**
 * A sentence that says what failed, on what, and why, for example
 * `cannot listen on "http": permission denied (port 80)`. UTF-8, borrowed from
 * the error. "" for NULL, never NULL. [any]
 */
const char *ns_error_message(const ns_error *error);

/**
 * The payload given to `ns_raise_with`, borrowed from the error; NULL where
 * there is none. [any]
 */
void *ns_error_payload(const ns_error *error);

/**
 * Frees an error that a call gave through `err`. NULL and a callback's
 * borrowed error are left alone. [any]
 */
void ns_error_free(ns_error *error);

/**
 * Says why a handler fails, for its exception handler: `return ns_raise(...)`.
 * `code` is a number of your own or an `NS_ERR_...`; `message` is copied, NULL
 * for none. Returns `code` if it is negative, else -1, whatever else is wrong.
 * What was raised is forgotten when the callback returns 0 or more, or nothing.
 * A payload raised before is dropped. [handler] [blocks]
 */
int32_t ns_raise(ns_socket *socket, int32_t code, const char *message);

/**
 * `ns_raise` with an object that the exception handler reads by
 * `ns_error_payload`; `drop` (NULL: none) frees it after that, or at once if
 * it cannot be handed over. [handler] [blocks]
 */
int32_t ns_raise_with(ns_socket *socket,
                      int32_t code,
                      const char *message,
                      void *payload,
                      ns_drop_fn drop);

/**
 * The name of a status, `"NS_ERR_CLOSED"`; `"NS_ERR_UNKNOWN"` for another
 * number. Static. [any]
 */
const char *ns_status_name(ns_status status);

/**
 * What a status means, in a few words; `"unknown status"` for another
 * number. Static. [any]
 */
const char *ns_status_message(ns_status status);

/**
 * One word for an `NS_CLOSE_...` reason, `"peer"`; `"unknown"` for another
 * number. Static. [any]
 */
const char *ns_close_reason_name(int32_t reason);

/** The version of the library in use, `"MAJOR.MINOR.PATCH"`. Static. [any] */
const char *ns_version_string(void);

/**
 * The version of the library in use as a number, 0xMMmmpp; compare it with
 * `NS_VERSION_NUMBER`, the header's. [any]
 */
uint32_t ns_version_number(void);

/**
 * 1 if the library in use can do `name`, else 0, also for NULL and unknown
 * names. There are: "blocking", "non-blocking", "detach", "attach", "ipv6",
 * "shutdown-port", "tls". [any]
 */
int32_t ns_has_feature(const char *name);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* NETSERVER_H */
