;;; The life of a server: make, start, run, stop, free.
(library (netserver server)
  (export
    make-server server-start! server-quiesce! server-stop! server-request-stop! server-wait
    server-run-once! server-poll-fd server-free! server-stopped? server-state server-port server-shutdown-port
    server-address server-service-address server-add-service! server-reload-tls!
    netserver-fork)
  (import (chezscheme) (netserver callbacks) (netserver condition) (netserver config)
          (netserver foreign) (netserver keywords) (netserver table) (netserver tls)
          (netserver types))

  ;; A foreground start returns to Scheme this often, which then sees signals. Milliseconds.
  (define slice 100)

  ;; -- make ----------------------------------------------------------------------------------

  (define setters
    (map (lambda (setting)
           (let ([type (caddr setting)])
             (list (car setting)
                   (config-setter (cadr setting) (if (eq? type 'flag) 'int type))
                   (if (eq? type 'flag) (lambda (value) (if value 1 0)) values))))
         config-settings-table))

  (define set-thread-start (callback-setter "on_thread_start"))
  (define set-thread-stop (callback-setter "on_thread_stop"))
  (define set-on-start (callback-setter "on_start"))
  (define set-on-stop (callback-setter "on_stop"))
  (define set-exception-handler (callback-setter "exception_handler"))

  ;; Those that mean something by not being there.
  (define optional-callbacks
    (map (lambda (callback)
           (cons* (car callback) (callback-setter (cadr callback)) (caddr callback)))
         `((:shutdown-handler "shutdown_handler" ,shutdown-entry)
           (:on-open "on_open" ,open-entry)
           (:on-close "on_close" ,close-entry)
           (:on-drain "on_drain" ,drain-entry)
           (:on-timeout "on_timeout" ,timeout-entry)
           (:on-wake "on_wake" ,wake-entry))))

  (define (fill-in! pointer config number)
    (for-each
      (lambda (setter)
        (let ([entry (assq (car setter) (config-settings config))])
          (when (and entry (or (cdr entry) (not (eq? (caddr setter) values))))
            ((cadr setter) pointer ((caddr setter) (cdr entry))))))
      setters)
    (when (config-ref config :tls)
      (ns_config_set_tls pointer (tls-pointer (config-ref config :tls))))
    (set-thread-start pointer thread-start-address number NULL)
    (set-thread-stop pointer thread-stop-address number NULL)
    (set-on-start pointer start-entry number NULL)
    (set-on-stop pointer stop-entry number NULL)
    (set-exception-handler pointer exception-entry number NULL)
    (for-each
      (lambda (callback)
        (when (config-ref config (car callback))
          ((cadr callback) pointer (cddr callback) number NULL)))
      optional-callbacks))

  ;; Servers that nothing refers to: never started, or stopped. They are freed when another one is
  ;; made, on the thread that makes it; the collector frees nothing.
  (define unreachable (make-guardian))

  (define (free-unreachable!)
    (let ([server (unreachable)])
      (when server
        (free! server)
        (free-unreachable!))))

  ;; `handler` is called as (handler server socket).
  (define make-server
    (case-lambda
      [(service handler) (make-server service handler (make-config))]
      [(service handler config) (make-server service handler config #f)]
      [(service handler config context) (make-server service handler config context #f)]
      [(service handler config context hooks)
       (unless (or (not service) (string? service))
         (assertion-violation 'make-server "the service is not a string" service))
       (unless (procedure? handler)
         (assertion-violation 'make-server "the handler is not a procedure" handler))
       (text-for-c 'make-server service)
       (free-unreachable!)
       (let* ([number (object-add! #f)]
              [pointer (make-pointer service config number)]
              [server (make-server-record pointer number config handler
                        (not (config-ref config :non-blocking?)) context (getpid) hooks '())])
         (object-strengthen! number server)
         (object-weaken! number)
         (unreachable server)
         server)]))

  (define (make-pointer service config number)
    (let ([c-config (ns_config_new)])
      (fill-in! c-config config number)
      (guard (failure [#t (ns_config_free c-config)
                          (object-remove! number)
                          (raise failure)])
        (let ([pointer (call-with-error 'make-server
                         (lambda (error)
                           (ns_server_new service handler-entry number NULL c-config error)))])
          (ns_config_free c-config)
          pointer))))

  ;; -- start and run -------------------------------------------------------------------------

  (define (start! who server flags)
    (let ([pointer (server-live-pointer who server)]
          [number (server-number server)])
      (object-strengthen! number server)
      (guard (failure [#t (when (memq (server-state server) '(new stopped))
                            (object-weaken! number))
                          (raise failure)])
        (check who
          (call-with-error who (lambda (error) (ns_server_start pointer flags error)))))
      (when (server-stopped? server) ; a stop was requested before: no hook has run
        (object-weaken! number))))

  ;; Whether one loop serves, which can run on the calling thread.
  (define (one-loop? server)
    (let ([config (server-config server)])
      (and (config-ref config :non-blocking?) (eqv? (config-ref config :max-thread) 1))))

  ;; Without keywords it returns when the server has stopped, and serves on the calling thread where
  ;; the server has one loop. With `:background #t` it returns when the server accepts. With
  ;; `:hosted #t` it does so too, and the program runs the server by server-run-once!. The start
  ;; hook of (net server) gets the other keywords.
  (define (server-start! server . arguments)
    (let*-values ([(own others) (split-keywords 'server-start! '(:background :hosted) arguments)]
                  [(background?) (keyword-value own :background #f)]
                  [(hosted?) (keyword-value own :hosted #f)])
      (server-options-set! server others)
      (cond
        [hosted? (start! 'server-start! server 2)]
        [background? (start! 'server-start! server 1)]
        [(one-loop? server)
         (start! 'server-start! server 2)
         (server-wait server)]
        [else
         (start! 'server-start! server 1)
         (server-wait server)])
      (void)))

  ;; Scheme looks for signals after some thousand calls only, and when interrupts are enabled again.
  (define (handle-signals)
    (with-interrupts-disabled (void)))

  ;; One bounded turn of a hosted server; waits for `timeout` milliseconds at most, -1: for ever,
  ;; for something to do. #f: the server has stopped.
  (define (server-run-once! server timeout)
    (let* ([pointer (server-live-pointer 'server-run-once! server)]
           [result (ns_server_run_once pointer timeout)])
      (handle-signals)
      (cond
        [(eqv? result 0) #t]
        [(and (eq? (status->symbol result) 'state) (eq? (server-state server) 'stopped)
              (eqv? (getpid) (server-process server)))
         #f]
        [else (check 'server-run-once! result)])))

  (define (server-poll-fd server)
    (server-call server-poll-fd ns_server_poll_fd server))

  ;; -- stop ----------------------------------------------------------------------------------

  (define-syntax server-call
    (syntax-rules ()
      [(_ who function server argument ...)
       (check 'who (function (server-live-pointer 'who server) argument ...))]))

  ;; A child of fork must not wait: threads that it does not have may hold Scheme's own lock.
  (define (check-process who server)
    (unless (eqv? (getpid) (server-process server))
      (raise (make-netserver-error who 'state "the server belongs to another process"))))

  ;; Returns when the server accepts no more; in a callback immediately. It serves on what it has,
  ;; until the stop.
  (define (server-quiesce! server)
    (check-process 'server-quiesce! server)
    (server-call server-quiesce! ns_server_quiesce server)
    (void))

  ;; Returns when the server has stopped; in a callback immediately. `:within`: how many
  ;; milliseconds handlers and queued bytes have, instead of the setting :drain-timeout. The stop
  ;; hook of (net server) gets the other keywords.
  (define (server-stop! server . arguments)
    (check-process 'server-stop! server)
    (let*-values ([(own others) (split-keywords 'server-stop! '(:within) arguments)]
                  [(within) (keyword-value own :within #f)])
      (server-options-set! server others)
      (if within
          (server-call server-stop! ns_server_stop_within server within)
          (server-call server-stop! ns_server_stop server))
      #t))

  (define (server-request-stop! server)
    (check-process 'server-request-stop! server)
    (server-call server-request-stop! ns_server_request_stop server)
    (void))

  ;; Waits until the server has stopped: for ever, or `timeout` milliseconds. #f: it has not.
  ;; Signals are handled meanwhile.
  (define server-wait
    (case-lambda
      [(server) (server-wait server #f)]
      [(server timeout)
       (check-process 'server-wait server)
       (let ([pointer (server-live-pointer 'server-wait server)])
         (let loop ([left timeout])
           (let ([result (ns_server_wait pointer (if left (min left slice) slice))])
             (handle-signals)
             (cond
               [(eqv? result 0) #t]
               [(not (eq? (status->symbol result) 'timeout)) (check 'server-wait result)]
               [(and left (<= left slice)) #f]
               [else (loop (and left (- left slice)))]))))]))

  (define (free! server)
    (let ([pointer (server-pointer server)])
      (if (eqv? pointer NULL)
          0
          (let ([result (ns_server_free pointer)])
            (when (eqv? result 0)
              (server-pointer-set! server NULL)
              (object-remove! (server-number server)))
            result))))

  ;; Stops the server and frees it now, with its descriptors. No other thread may use it meanwhile.
  (define (server-free! server)
    (check-process 'server-free! server)
    (check 'server-free! (free! server))
    (void))

  ;; -- ask -----------------------------------------------------------------------------------

  ;; A server that was freed has stopped.
  (define-syntax unless-freed
    (syntax-rules ()
      [(_ server (pointer) freed body ...)
       (let ([pointer (server-pointer server)])
         (if (eqv? pointer NULL) freed (let () body ...)))]))

  (define (server-stopped? server)
    (unless-freed server (pointer) #t
      (not (eqv? (ns_server_is_stopped pointer) 0))))

  (define (server-state server)
    (unless-freed server (pointer) 'stopped
      (state->symbol (ns_server_state pointer))))

  (define (server-port server)
    (unless-freed server (pointer) 0 (ns_server_port pointer)))

  (define (server-shutdown-port server)
    (unless-freed server (pointer) 0 (ns_server_shutdown_port pointer)))

  (define (server-address server)
    (unless-freed server (pointer) ""
      (text-of (lambda (buffer size) (ns_server_address pointer buffer size)))))

  (define (server-service-address server service)
    (unless-freed server (pointer) ""
      (text-of
        (lambda (buffer size) (ns_server_service_address pointer service buffer size)))))

  ;; -- fork ----------------------------------------------------------------------------------

  ;; fork(2) at a moment when no other thread is in Scheme's own lock or in that of the table: in
  ;; the child nobody would ever leave it. The child has none of the other threads, so it does not
  ;; collect garbage, which waits for all of them. It is to call exec, or to end soon.
  (define (netserver-fork)
    (call-with-table-locked
      (lambda ()
        (mutex-acquire ($primitive $tc-mutex))
        (let ([child (fork)])
          (when (eqv? child 0) (collect-request-handler void))
          (mutex-release ($primitive $tc-mutex))
          child))))

  ;; -- services and TLS ----------------------------------------------------------------------

  ;; Returns the number of the service. `tls`: #f is plain text.
  (define server-add-service!
    (case-lambda
      [(server service) (server-add-service! server service #f)]
      [(server service tls)
       (let ([pointer (server-live-pointer 'server-add-service! server)]
             [service (text-for-c 'server-add-service! service)])
         (call-with-error 'server-add-service!
           (lambda (error)
             (if tls
                 (ns_server_add_service_tls pointer service (tls-pointer tls) error)
                 (ns_server_add_service pointer service error)))))]))

  ;; From now on handshakes of the service use `tls`.
  (define server-reload-tls!
    (case-lambda
      [(server tls) (server-reload-tls! server tls 0)]
      [(server tls service)
       (let ([pointer (server-live-pointer 'server-reload-tls! server)])
         (call-with-error 'server-reload-tls!
           (lambda (error)
             (ns_server_reload_service_tls pointer service (tls-pointer tls) error)))
         (void))]))

  ;; -- code ----------------------------------------------------------------------------------

  ;; During each callback Chez locks the code that called C and that of the callback. It notes that
  ;; in a list until it collects the generation of the code, which may be long after millions of
  ;; callbacks. Code in the static generation needs no notes. So once, before any server is made,
  ;; all that has been loaded is moved there.
  (define settled
    (let ([handler (collect-request-handler)])
      (collect-request-handler
        (lambda () (collect (collect-maximum-generation) 'static)))
      (collect-rendezvous)
      (collect-request-handler handler))))
