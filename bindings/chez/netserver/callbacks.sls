;;; What C calls: one entry for each kind of callback. The last argument is the number of an object
;;; in the table. Nothing that is raised leaves an entry.
(library (netserver callbacks)
  (export
    handler-entry exception-entry shutdown-entry start-entry stop-entry
    open-entry close-entry drain-entry timeout-entry wake-entry
    watch-entry timer-entry task-entry foreach-entry drop-entry
    make-task)
  (import (chezscheme) (netserver condition) (netserver config) (netserver foreign)
          (netserver keywords) (netserver table) (netserver types))

  ;; The address of code that stays where it is.
  (define-syntax entry
    (syntax-rules ()
      [(_ (argument ...) (type ...) result body ...)
       (let ([code (foreign-callable __collect_safe
                     (lambda (argument ...) body ...)
                     (type ...) result)])
         (lock-object code)
         (foreign-callable-entry-point code))]))

  ;; -- what a callback raises ----------------------------------------------------------------

  ;; Calls `thunk`; calls `failed` instead with what that raises. A warning is none: it is reported,
  ;; and the thunk goes on, as after a warning elsewhere.
  (define (catch failed thunk)
    (catch-or-go-on report failed thunk))

  (define (catch-all failed thunk)
    (catch-or-go-on #f failed thunk))

  (define (catch-or-go-on warn failed thunk)
    ((call/1cc
       (lambda (return)
         (with-exception-handler
           (lambda (object)
             (if (and warn (warning? object) (not (serious-condition? object)))
                 (warn object)
                 (return (lambda () (failed object)))))
           (lambda ()
             (let ([result (thunk)])
               (lambda () result))))))))

  ;; What is raised here, by a printer of the program's for example, must not leave either.
  (define (describe object)
    (catch-all
      (lambda (failure) "something was raised that cannot be displayed")
      (lambda ()
        (call-with-string-output-port
          (lambda (port)
            (if (condition? object)
                (display-condition object port)
                (format port "non-condition object ~s was raised" object)))))))

  ;; Where nobody takes what was raised, and nobody what fails here. A port bears one thread at a
  ;; time; and who waits for the lock must not keep a collection waiting.
  (define report-lock (make-mutex))

  (define (report object)
    (let ([port (console-error-port)]
          [text (string-append (describe object) "\n")])
      (catch-all (lambda (failure) (void))
        (lambda ()
          (with-interrupts-disabled
            (with-mutex report-lock
              (put-string port text)
              (flush-output-port port)))))))

  ;; The status that a callback returns for what it raised, which the exception handler then gets.
  (define (fail pointer object)
    (let ([code (if (netserver-error? object)
                    (symbol->status (netserver-error-status object))
                    -1)])
      (ns_raise_with pointer code (describe object) (object-add! object) drop-entry)))

  (define (call-for-status pointer thunk)
    (catch (lambda (object) (fail pointer object))
           (lambda () (thunk) 0)))

  (define (call-for-nothing thunk)
    (catch report thunk)
    (void))

  ;; -- sockets -------------------------------------------------------------------------------

  ;; The object of a connection: the same one in all of its callbacks.
  (define (socket-of pointer waits?)
    (let ([number (ns_socket_user_data pointer)])
      (if (eqv? number NULL)
          (let ([socket (make-socket-record NULL 0 waits? #f)])
            (ns_socket_set_user_data pointer (object-add! socket) drop-entry)
            socket)
          (object-ref number))))

  ;; Calls `procedure` with the socket that `pointer` is until the callback returns, and its result
  ;; is the callback's. A detach gives the socket another pointer, which stays.
  (define (borrow pointer waits? procedure)
    (let ([socket (socket-of pointer waits?)])
      (socket-thread-set! socket (get-thread-id))
      (socket-pointer-set! socket pointer)
      (let ([result (procedure socket)])
        (when (eqv? (socket-pointer socket) pointer)
          (socket-pointer-set! socket NULL))
        result)))

  (define (server-config-procedure server keyword)
    (config-ref (server-config server) keyword))

  (define (call-with-socket server pointer procedure)
    (borrow pointer (server-waits? server)
      (lambda (socket)
        (call-for-status pointer (lambda () (procedure server socket))))))

  (define-syntax event-entry
    (syntax-rules ()
      [(_ keyword)
       (entry (ignored pointer number) (uptr uptr uptr) int
         (let ([server (object-ref number)])
           (call-with-socket server pointer (server-config-procedure server keyword))))]))

  (define handler-entry
    (entry (ignored pointer number) (uptr uptr uptr) int
      (let ([server (object-ref number)])
        (call-with-socket server pointer (server-handler server)))))

  (define open-entry (event-entry :on-open))
  (define drain-entry (event-entry :on-drain))
  (define timeout-entry (event-entry :on-timeout))
  (define wake-entry (event-entry :on-wake))

  (define close-entry
    (entry (ignored pointer reason number) (uptr uptr int uptr) void
      (let ([server (object-ref number)])
        (borrow pointer (server-waits? server)
          (lambda (socket)
            (call-for-nothing
              (lambda ()
                ((server-config-procedure server :on-close)
                 server socket (string->symbol (ns_close_reason_name reason))))))))))

  ;; The handler of the shutdown port: a true value stops the server, and so does a failure.
  (define shutdown-entry
    (entry (ignored pointer number) (uptr uptr uptr) int
      (let ([server (object-ref number)])
        (borrow pointer #t
          (lambda (socket)
            (catch (lambda (object) (report object) 1)
                   (lambda ()
                     (if ((server-config-procedure server :shutdown-handler) server socket)
                         1
                         0))))))))

  ;; -- the exception handler -----------------------------------------------------------------

  ;; What clients do, and what nobody raised, is no event.
  (define not-reported
    '(reset truncated closed timeout rejected handshake connect))

  ;; What a handler raised goes to the console, and the connection closes.
  (define (handle-by-default server socket object)
    (unless (and (netserver-error? object)
                 (memq (netserver-error-status object) not-reported))
      (report object))
    (when (and socket (not (socket-waits? socket)))
      (ns_socket_close (socket-pointer socket))))

  (define exception-entry
    (entry (ignored pointer error number) (uptr uptr uptr uptr) int
      (let* ([server (object-ref number)]
             [handle (or (server-config-procedure server :exception-handler)
                         handle-by-default)]
             [object (error->condition #f error)])
        (define (run socket)
          (call-for-status pointer (lambda () (handle server socket object))))
        (if (eqv? pointer NULL)
            (run #f)
            (borrow pointer (server-waits? server) run)))))

  ;; -- hooks of the server -------------------------------------------------------------------

  (define (run-hook server hook)
    (let* ([hooks (server-hooks server)]
           [procedure (and hooks (hook hooks))]
           [options (server-options server)])
      (server-options-set! server '())
      (when procedure (apply procedure server options))))

  (define start-entry
    (entry (ignored number) (uptr uptr) int
      (let* ([server (object-ref number)]
             [hook (server-config-procedure server :on-start)])
        (call-for-status NULL
          (lambda ()
            (when hook (hook server))
            (run-hook server hooks-start))))))

  (define stop-entry
    (entry (ignored number) (uptr uptr) void
      (let* ([server (object-ref number)]
             [hook (server-config-procedure server :on-stop)])
        (call-for-nothing (lambda () (when hook (hook server))))
        (call-for-nothing (lambda () (run-hook server hooks-stop)))
        (object-weaken! number)))) ; no connection refers to it any more

  (define (thread-kind kind)
    (vector-ref '#(loop worker control shutdown) kind))

  (define thread-start-entry
    (entry (ignored kind thread number) (uptr int unsigned-32 uptr) int
      (let* ([server (object-ref number)]
             [hook (server-config-procedure server :on-thread-start)])
        (if hook
            (call-for-status NULL (lambda () (hook server (thread-kind kind) thread)))
            0))))

  (define thread-stop-entry
    (entry (ignored kind thread number) (uptr int unsigned-32 uptr) void
      (let ([server (object-ref number)])
        (when (server? server)
          (let ([hook (server-config-procedure server :on-thread-stop)])
            (when hook
              (call-for-nothing (lambda () (hook server (thread-kind kind) thread)))))))))

  (define hooks-set (netserver_chez_set_hooks thread-start-entry thread-stop-entry))

  ;; -- tasks, timers, watches ----------------------------------------------------------------

  (define-record-type task (fields server procedure) (nongenerative))

  (define (run-task number . arguments)
    (let ([task (object-ref number)])
      (call-for-status NULL
        (lambda () (apply (task-procedure task) (task-server task) arguments)))))

  (define watch-entry
    (entry (ignored id fd events number) (uptr unsigned-64 int unsigned-32 uptr) int
      (run-task number id fd
        (append (if (logtest events 1) '(read) '()) (if (logtest events 2) '(write) '())))))

  (define timer-entry
    (entry (ignored id number) (uptr unsigned-64 uptr) int
      (run-task number id)))

  (define task-entry
    (entry (ignored number) (uptr uptr) int
      (run-task number)))

  ;; The object is a box, which gets the ids.
  (define foreach-entry
    (entry (id number) (unsigned-64 uptr) int
      (let ([ids (object-ref number)])
        (set-box! ids (cons id (unbox ids)))
        0)))

  (define drop-entry
    (entry (number) (uptr) void
      (object-remove! number))))
