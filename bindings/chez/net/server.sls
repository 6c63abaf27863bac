;;; The simple server framework of Sagittarius Scheme, as far as a server needs it.
(library (net server)
  (export
    make-simple-server server? server-config server-context make-server-config server-config?
    server-start! server-stop! server-stopped? wait-server-stop!
    make-server-hooks server-hooks? on-server-start! on-server-stop!
    server-detach-socket! server-port server-shutdown-port
    server-status server-status? server-status-target-server server-status-thread-count
    server-status-thread-statuses report-server-status
    thread-status? thread-status-thread-id thread-status-thread-info
    thread-status-active-socket-count)
  (import (chezscheme)
          (rename (netserver) (config? server-config?))
          (netserver keywords) (netserver types))
  (export (import (except (netserver keywords) keywords->alist alist->keywords split-keywords
                          keyword-value)))

  ;; -- config --------------------------------------------------------------------------------

  (define tls-keywords '(:secure? :certificates :private-key))

  ;; Takes what make-config takes, and for TLS :secure? with :certificates and :private-key, which
  ;; are as those of make-tls.
  (define (make-server-config . arguments)
    (let-values ([(tls others) (split-keywords 'make-server-config tls-keywords arguments)])
      (apply make-config
        (append
          (if (keyword-value tls :secure? #f)
              (list :tls (make-tls :certificates (keyword-value tls :certificates '())
                                   :private-key (keyword-value tls :private-key #f)))
              '())
          others))))

  ;; -- server --------------------------------------------------------------------------------

  ;; `:context` is an object of the program's own, for server-context; `:hooks` is what
  ;; make-server-hooks returned.
  (define (make-simple-server service handler . arguments)
    (let ([options (keywords->alist 'make-simple-server '(:config :context :hooks) arguments)])
      (make-server service handler
                   (or (keyword-value options :config #f) (make-config))
                   (keyword-value options :context #f)
                   (keyword-value options :hooks #f))))

  (define (call-hook server hook options)
    (let* ([hooks (server-hooks server)]
           [procedure (and hooks (hook hooks))])
      (when procedure (apply procedure server options))))

  ;; What the hooks of the server do; the server calls them itself.
  (define (on-server-start! server . options) (call-hook server hooks-start options))
  (define (on-server-stop! server . options) (call-hook server hooks-stop options))

  ;; `timeout` is #f, seconds, or a time: a duration or a point in time. #f: it has not stopped.
  (define wait-server-stop!
    (case-lambda
      [(server) (wait-server-stop! server #f)]
      [(server timeout) (server-wait server (and timeout (milliseconds timeout)))]))

  (define (milliseconds timeout)
    (define (of-time time)
      (+ (* 1000 (time-second time)) (quotient (time-nanosecond time) 1000000)))
    (max 0
      (cond
        [(real? timeout) (exact (ceiling (* 1000 timeout)))]
        [(eq? (time-type timeout) 'time-duration) (of-time timeout)]
        [else (- (of-time timeout) (of-time (current-time (time-type timeout))))])))

  ;; -- status --------------------------------------------------------------------------------

  (define-record-type (status make-status server-status?)
    (fields
      (immutable target-server server-status-target-server)
      (immutable thread-count server-status-thread-count)
      (immutable thread-statuses server-status-thread-statuses)
      (immutable report status-report)))

  (define-record-type thread-status
    (fields thread-id thread-info active-socket-count))

  ;; A snapshot.
  (define (server-status server)
    (let ([count (cdr (assq 'threads (server-stats server)))])
      (make-status server count
        (if (memq (server-state server) '(new starting))
            '()
            (map (lambda (thread) (status-of-thread server thread)) (iota count)))
        (server-report server))))

  (define (status-of-thread server thread)
    (let ([stats (server-thread-stats server thread)])
      (define (value name) (cdr (assq name stats)))
      (make-thread-status thread
        (format "calls ~a, bytes in ~a, out ~a"
                (value 'calls) (value 'bytes-in) (value 'bytes-out))
        (value 'active))))

  (define report-server-status
    (case-lambda
      [(status) (report-server-status status (current-error-port))]
      [(status port) (put-string port (status-report status))])))
