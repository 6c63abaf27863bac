;;; The C functions of the library, as include/netserver.h describes them.
;;;
;;; `foreign` ones are called as they are: bytevectors may be passed, because no collection happens
;;; during the call. `blocking` ones may wait, so that collections go on meanwhile: they take no
;;; bytevectors and no strings, which a collection may move.
(library (netserver foreign)
  (export
    NULL copy-in! copy-out! getpid fork
    ns_error_status ns_error_os_code ns_error_handler_code ns_error_message ns_error_payload
    ns_error_free ns_status_name ns_status_message ns_raise_with ns_close_reason_name
    ns_config_new ns_config_free config-setter config-getter callback-setter
    ns_config_set_tls
    ns_server_new ns_server_start ns_server_quiesce ns_server_stop ns_server_stop_within
    ns_server_request_stop
    ns_server_wait ns_server_poll_fd ns_server_run_once ns_server_free ns_server_is_stopped
    ns_server_state ns_server_port ns_server_shutdown_port ns_server_address
    ns_server_add_service ns_server_add_service_tls ns_server_reload_service_tls
    ns_server_service_address
    ns_server_send ns_server_close ns_server_abort ns_server_wake ns_server_broadcast
    ns_server_broadcast_each ns_server_queued ns_server_shutdown ns_server_foreach
    ns_server_watch ns_server_watch_change ns_server_unwatch ns_server_timer
    ns_server_timer_cancel ns_server_post ns_server_adopt ns_server_connect
    ns_server_stats ns_server_thread_stats ns_server_report ns_server_metrics
    ns_socket_recv ns_socket_recv/blocking ns_socket_send ns_socket_send/blocking ns_socket_sendv
    ns_socket_flush ns_socket_flush/blocking ns_socket_cork ns_socket_uncork
    ns_socket_shutdown ns_socket_shutdown/blocking ns_socket_close ns_socket_close/blocking
    ns_socket_abort ns_socket_is_closed ns_socket_id ns_socket_fd ns_socket_service
    ns_socket_peer_credentials ns_socket_queued ns_socket_os_error ns_socket_set_timer_ms
    ns_socket_set_io_timeout_ms ns_socket_pause ns_socket_resume ns_socket_user_data
    ns_socket_set_user_data ns_socket_peer ns_socket_local ns_socket_peer_addr
    ns_socket_local_addr ns_detach ns_attach ns_socket_free ns_socket_release_fd
    ns_socket_from_fd ns_socket_starttls ns_socket_starttls/blocking ns_socket_tls_info
    ns_socket_tls_peer_certificate ns_socket_tls_peer_subject
    ns_tls_new ns_tls_free ns_tls_add_cert_file ns_tls_add_cert_pem ns_tls_add_cert_der
    ns_tls_set_client_ca_file ns_tls_set_client_ca_pem ns_tls_set_alpn ns_tls_set_min_version
    ns_tls_set_tickets ns_tls_set_session_cache ns_tls_set_ticket_keys
    ns_version_string ns_has_feature
    netserver_chez_set_hooks thread-start-address thread-stop-address)
  (import (chezscheme))

  ;; The library of the project is where NETSERVER_LIBRARY_DIR says; an installed one is found by
  ;; the system. What `setup` compiled is beside the compiled Scheme libraries.
  (define (library-file)
    (let ([directory (getenv "NETSERVER_LIBRARY_DIR")])
      (if (and directory (not (string=? directory "")))
          (string-append directory "/libnetserver.so.0")
          "libnetserver.so.0")))

  (define (attach-file)
    (let loop ([directories (library-directories)])
      (if (null? directories)
          (error 'netserver "cannot find netserver/attach.so: run bindings/chez/setup")
          (let ([file (string-append (cdar directories) "/netserver/attach.so")])
            (if (file-exists? file) file (loop (cdr directories)))))))

  (define loaded
    (begin
      (load-shared-object #f) ; memcpy, getpid
      (load-shared-object (library-file))
      (load-shared-object (attach-file))))

  (define NULL 0)

  (define-syntax foreign
    (syntax-rules ()
      [(_ result (name type ...) ...)
       (begin
         (define name (foreign-procedure (symbol->string 'name) (type ...) result)) ...)]))

  (define-syntax blocking
    (syntax-rules ()
      [(_ result (name type ...) ...)
       (begin
         (define name
           (foreign-procedure __collect_safe (symbol->string 'name) (type ...) result)) ...)]))

  ;; The same function in both ways.
  (define-syntax either
    (syntax-rules ()
      [(_ result (name blocking-name (type ...) (blocking-type ...)) ...)
       (begin
         (define name (foreign-procedure (symbol->string 'name) (type ...) result)) ...
         (define blocking-name
           (foreign-procedure __collect_safe (symbol->string 'name) (blocking-type ...) result))
         ...)]))

  ;; memcpy(3) from and to C's memory.
  (define copy-in! (foreign-procedure "memcpy" (u8* uptr size_t) void))
  (define copy-out! (foreign-procedure "memcpy" (uptr u8* size_t) void))
  (foreign int (getpid) (fork))

  ;; -- errors --------------------------------------------------------------------------------

  (foreign int
    (ns_error_status uptr)
    (ns_error_os_code uptr)
    (ns_error_handler_code uptr))
  (foreign string
    (ns_error_message uptr)
    (ns_status_name int)
    (ns_status_message int)
    (ns_close_reason_name int)
    (ns_version_string))
  (foreign uptr (ns_error_payload uptr))
  (foreign void (ns_error_free uptr))
  (foreign int
    (ns_raise_with uptr int string uptr uptr)
    (ns_has_feature string))

  ;; -- config --------------------------------------------------------------------------------

  (foreign uptr (ns_config_new))
  (foreign void (ns_config_free uptr))
  (foreign int (ns_config_set_tls uptr uptr))

  ;; `type` is unsigned-32, int, size_t or string.
  (define (config-setter name type)
    (let ([name (string-append "ns_config_set_" name)])
      (case type
        [(unsigned-32) (foreign-procedure name (uptr unsigned-32) int)]
        [(int) (foreign-procedure name (uptr int) int)]
        [(size_t) (foreign-procedure name (uptr size_t) int)]
        [(string) (foreign-procedure name (uptr string) int)])))

  (define (config-getter name type)
    (let ([name (string-append "ns_config_" name)])
      (case type
        [(unsigned-32) (foreign-procedure name (uptr) unsigned-32)]
        [(int) (foreign-procedure name (uptr) int)]
        [(size_t) (foreign-procedure name (uptr) size_t)]
        [(string) (foreign-procedure name (uptr) string)])))

  (define (callback-setter name)
    (foreign-procedure (string-append "ns_config_set_" name) (uptr uptr uptr uptr) int))

  ;; -- server --------------------------------------------------------------------------------

  (foreign uptr (ns_server_new string uptr uptr uptr uptr uptr))
  (blocking int
    (ns_server_start uptr unsigned-32 uptr)
    (ns_server_quiesce uptr)
    (ns_server_stop uptr)
    (ns_server_stop_within uptr integer-64)
    (ns_server_wait uptr integer-64)
    (ns_server_run_once uptr integer-64)
    (ns_server_free uptr)
    (ns_server_unwatch uptr unsigned-64)
    (ns_server_timer_cancel uptr unsigned-64)
    (ns_server_post uptr unsigned-32 uptr uptr uptr))
  (blocking integer-64 (ns_server_foreach uptr uptr uptr))
  (blocking unsigned-64
    (ns_server_watch uptr unsigned-32 int unsigned-32 uptr uptr uptr uptr)
    (ns_server_timer uptr unsigned-32 unsigned-32 unsigned-32 uptr uptr uptr uptr)
    (ns_server_adopt uptr int uptr uptr uptr)
    (ns_server_connect uptr uptr unsigned-32 uptr uptr uptr))
  (foreign int
    (ns_server_request_stop uptr)
    (ns_server_poll_fd uptr)
    (ns_server_is_stopped uptr)
    (ns_server_state uptr)
    (ns_server_add_service uptr string uptr)
    (ns_server_add_service_tls uptr string uptr uptr)
    (ns_server_reload_service_tls uptr unsigned-32 uptr uptr)
    (ns_server_send uptr unsigned-64 u8* size_t)
    (ns_server_close uptr unsigned-64)
    (ns_server_abort uptr unsigned-64)
    (ns_server_wake uptr unsigned-64)
    (ns_server_shutdown uptr unsigned-64 int)
    (ns_server_watch_change uptr unsigned-64 unsigned-32)
    (ns_server_stats uptr u8* size_t)
    (ns_server_thread_stats uptr unsigned-32 u8* size_t))
  (foreign unsigned-16
    (ns_server_port uptr)
    (ns_server_shutdown_port uptr))
  (foreign size_t
    (ns_server_address uptr u8* size_t)
    (ns_server_service_address uptr unsigned-32 u8* size_t)
    (ns_server_report uptr u8* size_t)
    (ns_server_metrics uptr u8* size_t))
  (foreign integer-64
    (ns_server_broadcast uptr u8* size_t u8* size_t)
    (ns_server_broadcast_each uptr u8* size_t u8* size_t u8*)
    (ns_server_queued uptr unsigned-64))

  ;; -- socket --------------------------------------------------------------------------------

  (either integer-64
    (ns_socket_recv ns_socket_recv/blocking (uptr u8* size_t) (uptr uptr size_t)))
  (either int
    (ns_socket_send ns_socket_send/blocking (uptr u8* size_t) (uptr uptr size_t))
    (ns_socket_flush ns_socket_flush/blocking (uptr) (uptr))
    (ns_socket_shutdown ns_socket_shutdown/blocking (uptr int) (uptr int))
    (ns_socket_close ns_socket_close/blocking (uptr) (uptr))
    (ns_socket_starttls ns_socket_starttls/blocking
      (uptr uptr u8* size_t) (uptr uptr uptr size_t)))
  (blocking int
    (ns_socket_sendv uptr uptr uptr size_t)
    (ns_socket_uncork uptr)
    (ns_socket_release_fd uptr))
  (blocking void (ns_socket_free uptr))
  (foreign int
    (ns_socket_cork uptr)
    (ns_socket_abort uptr)
    (ns_socket_is_closed uptr)
    (ns_socket_fd uptr)
    (ns_socket_service uptr)
    (ns_socket_peer_credentials uptr uptr uptr uptr)
    (ns_socket_os_error uptr)
    (ns_socket_set_timer_ms uptr unsigned-32)
    (ns_socket_set_io_timeout_ms uptr unsigned-32)
    (ns_socket_pause uptr)
    (ns_socket_resume uptr)
    (ns_socket_set_user_data uptr uptr uptr)
    (ns_socket_tls_info uptr u8* size_t))
  (foreign unsigned-64
    (ns_socket_id uptr)
    (ns_attach uptr uptr uptr))
  (foreign uptr
    (ns_socket_user_data uptr)
    (ns_detach uptr uptr uptr)
    (ns_socket_from_fd int uptr))
  (foreign size_t
    (ns_socket_queued uptr)
    (ns_socket_peer uptr u8* size_t)
    (ns_socket_local uptr u8* size_t)
    (ns_socket_peer_addr uptr u8* size_t)
    (ns_socket_local_addr uptr u8* size_t)
    (ns_socket_tls_peer_certificate uptr u8* size_t)
    (ns_socket_tls_peer_subject uptr u8* size_t))

  ;; -- TLS -----------------------------------------------------------------------------------

  (foreign uptr (ns_tls_new))
  (foreign void (ns_tls_free uptr))
  (foreign int
    (ns_tls_add_cert_file uptr string string string uptr)
    (ns_tls_add_cert_pem uptr string u8* size_t u8* size_t uptr)
    (ns_tls_add_cert_der uptr string uptr uptr size_t u8* size_t uptr)
    (ns_tls_set_client_ca_file uptr string int uptr)
    (ns_tls_set_client_ca_pem uptr u8* size_t int uptr)
    (ns_tls_set_alpn uptr uptr size_t)
    (ns_tls_set_min_version uptr int)
    (ns_tls_set_tickets uptr int)
    (ns_tls_set_session_cache uptr size_t)
    (ns_tls_set_ticket_keys uptr u8* size_t))

  ;; -- attach.c ------------------------------------------------------------------------------

  (foreign void (netserver_chez_set_hooks uptr uptr))
  (define thread-start-address (foreign-entry "netserver_chez_thread_start"))
  (define thread-stop-address (foreign-entry "netserver_chez_thread_stop")))
