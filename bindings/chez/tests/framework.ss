;;; (net server) and (sagittarius socket): the calls that programs for Sagittarius make.
(import (net server) (sagittarius socket))

(define (echo-once server socket)
  (let ((r (socket-recv socket 255)))
    (socket-send socket r)))

(define (echo-until-end server socket)
  (let ((r (socket-recv socket 255)))
    (if (eof-object? r)
        (socket-close socket)
        (socket-send socket r))))

(test "a server without a config has one thread and serves once per connection"
  (call-with-server (make-simple-server "127.0.0.1:0" echo-once)
    (lambda (server port)
      (check (server? server))
      (check (not (server-stopped? server)))
      (do ([i 0 (+ i 1)])
          ((= i 3))
        (call-with-client (server-port server)
          (lambda (client)
            (check-equal "hello" (ask client "hello"))
            (check-end client))))
      ;; A client that says nothing: the handler sends what it received, which is nothing.
      (call-with-client (server-port server)
        (lambda (client)
          (socket-shutdown client SHUT_WR)
          (check-end client))))))

(test "with :max-thread several clients are served at the same time"
  (let* ([config (make-server-config :max-thread 5 :max-retry 3)]
         [server (make-simple-server "127.0.0.1:0" echo-once :config config)])
    (check (server-config? config))
    (check (eq? config (server-config server)))
    (call-with-server server
      (lambda (server port)
        (let ([clients (map (lambda (i) (connect (server-port server))) (iota 5))])
          (for-each (lambda (client) (check-equal "late" (ask client "late"))) (reverse clients))
          (for-each socket-close clients))))))

(test "with :non-blocking? a connection lasts until the handler closes it"
  (let* ([config (make-server-config :max-thread 5 :non-blocking? #t)]
         [server (make-simple-server "127.0.0.1:0" echo-until-end :config config)])
    (call-with-server server
      (lambda (server port)
        (let ([clients (map (lambda (i) (connect (server-port server))) (iota 20))])
          (do ([i 0 (+ i 1)])
              ((= i 3))
            (for-each (lambda (client) (check-equal "again" (ask client "again"))) clients))
          (for-each
            (lambda (client)
              (socket-shutdown client SHUT_WR)
              (check-end client)
              (socket-close client))
            clients))))))

(test "a connection to the shutdown port stops the server, if the handler says so"
  (let* ([asked (make-mailbox)]
         [config (make-server-config
                   :shutdown-port "0"
                   :shutdown-handler
                   (lambda (server socket)
                     (let ([word (socket-recv socket 255)])
                       (put! asked word)
                       (equal? word (string->utf8 "stop")))))]
         [server (make-simple-server "127.0.0.1:0" echo-once :config config)])
    (check (server-stopped? server))
    (server-start! server :background #t)
    (check-equal #f (wait-server-stop! server 0.01))
    (for-each
      (lambda (word)
        (call-with-client (server-shutdown-port server)
          (lambda (client)
            (say client word)
            (check-equal (string->utf8 word) (take! asked)))))
      '("go on" "stop"))
    (check (wait-server-stop! server (make-time 'time-duration 0 patience)))
    (check (wait-server-stop! server))
    (check (server-stopped? server))
    (server-free! server)))

(test "the exception handler gets the very object, and an open socket"
  (let* ([seen (make-mailbox)]
         [raised (make-mailbox)]
         [object (list 'anything "at all")]
         [config (make-server-config
                   :exception-handler
                   (lambda (server socket e)
                     (put! seen e)
                     (socket-send socket (string->utf8 "sorry"))))]
         [server (make-simple-server "127.0.0.1:0" (lambda (server socket) (raise object))
                                     :config config)])
    (call-with-server server
      (lambda (server port)
        (call-with-client (server-port server)
          (lambda (client)
            (say client "x")
            (check-equal "sorry" (hear client 5))
            (check-end client)
            (check (eq? object (take! seen)))))))))

(test "a non-blocking server leaves closing to the exception handler"
  (let* ([config (make-server-config
                   :non-blocking? #t
                   :exception-handler
                   (lambda (server socket e) (socket-send socket (string->utf8 "bad"))))]
         [server (make-simple-server "127.0.0.1:0"
                   (lambda (server socket)
                     (let ([bytes (socket-recv socket 255)])
                       (cond
                         [(eof-object? bytes) (socket-close socket)]
                         [(equal? bytes (string->utf8 "fail")) (error 'handler "failed")]
                         [else (socket-send socket bytes)])))
                   :config config)])
    (call-with-server server
      (lambda (server port)
        (call-with-client (server-port server)
          (lambda (client)
            (say client "fail")
            (check-equal "bad" (hear client 3))
            (check-equal "on" (ask client "on"))))))))

(test "hooks get the other keywords, and the context is kept"
  (let* ([calls (make-mailbox)]
         [hooks (make-server-hooks
                  (lambda (server . options) (put! calls (cons 'start options)))
                  (lambda (server . options) (put! calls (cons 'stop options))))]
         [server (make-simple-server "127.0.0.1:0" echo-once :context 'mine :hooks hooks)])
    (check-equal 'mine (server-context server))
    (server-start! server :background #t ':name "first")
    (check-equal '(start :name "first") (take! calls))
    (check (server-stop! server ':name "last"))
    (check-equal '(stop :name "last") (take! calls))
    (on-server-start! server 1)
    (check-equal '(start 1) (take! calls))
    (server-free! server)))

(test "a detached socket is the program's own"
  (let* ([detached (make-mailbox)]
         [config (make-server-config :non-blocking? #t :max-thread 2)]
         [server (make-simple-server "127.0.0.1:0"
                   (lambda (server socket)
                     (server-detach-socket! server socket)
                     (put! detached socket))
                   :config config)])
    (call-with-server server
      (lambda (server port)
        (call-with-client (server-port server)
          (lambda (client)
            (say client "one line\n")
            (let* ([socket (take! detached)]
                   [port (transcoded-port (socket-port socket) (make-transcoder (utf-8-codec)))])
              (check-equal "one line" (get-line port))
              (put-string port "and back")
              (flush-output-port port)
              (check-equal "and back" (hear client 8))
              (close-port port)
              (check (socket-closed? socket))
              (check-end client))))))))

(test "only a non-blocking server detaches"
  (let* ([outcome (make-mailbox)]
         [server (make-simple-server "127.0.0.1:0"
                   (lambda (server socket)
                     (put! outcome
                       (guard (e [#t (netserver-error-status e)])
                         (server-detach-socket! server socket)))))])
    (call-with-server server
      (lambda (server port)
        (call-with-client (server-port server)
          (lambda (client)
            (check-equal 'not-non-blocking (take! outcome))))))))

(test "the status counts threads and their sockets"
  (let* ([config (make-server-config :non-blocking? #t :max-thread 3)]
         [server (make-simple-server "127.0.0.1:0" echo-until-end :config config)])
    (check-equal '() (server-status-thread-statuses (server-status server)))
    (call-with-server server
      (lambda (server port)
        (call-with-client (server-port server)
          (lambda (client)
            (check-equal "x" (ask client "x"))
            (let* ([status (server-status server)]
                   [threads (server-status-thread-statuses status)])
              (check (server-status? status))
              (check (eq? server (server-status-target-server status)))
              (check-equal 3 (server-status-thread-count status))
              (check-equal '(0 1 2) (map thread-status-thread-id threads))
              (check (for-all string? (map thread-status-thread-info threads)))
              (check-equal 1 (apply + (map thread-status-active-socket-count threads)))
              (check
                (> (string-length
                     (call-with-string-output-port
                       (lambda (port) (report-server-status status port))))
                   100)))))))))

(define data (string-append (getenv "NETSERVER_ROOT") "/tests/data/"))

(define (read-file name)
  (let ([port (open-input-file (string-append data name))])
    (let ([text (get-string-all port)])
      (close-port port)
      text)))

;; What a TLS client gets back for a line, by the command openssl.
(define (ask-over-tls port line . options)
  (let* ([command (format "printf '~a\\n' | timeout ~a openssl s_client -quiet -verify_return_error -CAfile ~aca.pem -connect 127.0.0.1:~a ~{~a ~}2>/dev/null"
                          line patience data port options)]
         [ports (process (string-append "exec sh -c \"" command "\""))]
         [answer (get-line (car ports))])
    (close-port (car ports))
    (close-port (cadr ports))
    answer))

(test "with :secure? clients speak TLS: files and PEM text"
  (for-each
    (lambda (certificate key)
      (let* ([config (make-server-config :secure? #t :certificates (list certificate)
                                         :private-key key :non-blocking? #t :max-thread 2)]
             [server (make-simple-server "127.0.0.1:0" echo-until-end :config config)])
        (call-with-server server
          (lambda (server port)
            (check-equal "over TLS" (ask-over-tls (server-port server) "over TLS"))))))
    (list (string-append data "server.pem") (read-file "server.pem"))
    (list (string-append data "server-key.pem") (read-file "server-key.pem"))))

(test "certificates that are missing never mean plain text"
  (check
    (guard (e [(assertion-violation? e) #t])
      (make-server-config :secure? #t)
      #f)))
