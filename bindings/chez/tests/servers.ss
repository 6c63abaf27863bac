;;; (netserver): servers, settings, errors, callbacks.

;; What a program writes.
(define (output-of . words)
  (let-values ([(in out err process) (open-process-ports (apply string-append "exec " words))])
    (let ([bytes (get-bytevector-all out)])
      (for-each close-port (list in out err))
      bytes)))

(test "settings have the library's defaults, and their bounds are the library's"
  (let ([config (make-config)])
    (check-equal 1 (config-ref config :max-thread))
    (check-equal 500 (config-ref config :retry-interval))
    (check-equal #f (config-ref config :non-blocking?))
    (check-equal #t (config-ref config :no-delay?))
    (check-equal #f (config-ref config :shutdown-port))
    (check-equal "ns" (config-ref config :thread-name)))
  (check-raises 'invalid (make-server "0" echo (make-config :max-thread 0)))
  (check-raises 'invalid (make-server "0" echo (make-config :thread-name "far too long")))
  (check-raises 'invalid (make-server "no such:99999" echo))
  (for-each
    (lambda (arguments)
      (check (guard (e [(assertion-violation? e) #t]) (apply make-config arguments) #f)))
    `((:nonsense 1) (:max-thread) (:max-thread "4") (:on-open 5) (1 2))))

(test "an error of a start has a status and a sentence, and leaves nothing"
  (let ([first (make-server "127.0.0.1:0" echo)])
    (call-with-server first
      (lambda (server port)
        (let ([second (make-server (format "127.0.0.1:~a" port) echo)])
          (guard (e [(netserver-error? e)
                     (check-equal 'listen (netserver-error-status e))
                     (check-equal 98 (netserver-error-os-code e)) ; EADDRINUSE
                     (check (> (string-length (condition-message e)) 20))])
            (server-start! second :background #t)
            (fail-test "it started"))
          (server-free! second))))))

(test "a text that has a NUL is refused"
  (let ([text "0\x0;x"] [server (make-server "127.0.0.1:0" echo)])
    (check-raises 'invalid (make-server text echo))
    (check-raises 'invalid (make-config :shutdown-port text))
    (check-raises 'invalid (server-add-service! server text))
    (check-raises 'invalid (server-connect server text))
    (check-raises 'invalid (make-tls :certificates (list text) :private-key "x"))
    (check-raises 'invalid (make-tls :alpn (list text)))
    (check-raises 'invalid (make-tls :client-ca text))
    (server-free! server)))

(test "a condition that on-start raises comes back from the start"
  (let* ([object (make-message-condition "not today")]
         [server (make-server "127.0.0.1:0" echo
                   (make-config :on-start (lambda (server) (raise object))))])
    (check (eq? object (guard (e [#t e]) (server-start! server :background #t) #f)))
    (check-equal 'new (server-state server))
    (server-free! server)))

(test "each thread of the library is attached, and hooks run on it"
  (let* ([events (make-mailbox)]
         [config (make-config
                   :max-thread 2
                   :on-thread-start
                   (lambda (server kind number) (put! events (list 'start kind number)))
                   :on-thread-stop
                   (lambda (server kind number) (put! events (list 'stop kind number))))])
    (define (take-all)
      (do ([i 0 (+ i 1)]
           [all '() (cons (take! events) all)])
          ((= i 4)
           (sort (lambda (a b) (string<? (format "~s" a) (format "~s" b))) all))))
    (call-with-server (make-server "127.0.0.1:0" echo config)
      (lambda (server port)
        (check-equal
          '((start control 0) (start worker 0) (start worker 1) (start worker 2))
          (take-all))))
    (check-equal '((stop control 0) (stop worker 0) (stop worker 1) (stop worker 2)) (take-all))))

(test "a connection has the same socket in all callbacks, with the program's data"
  (for-each
    (lambda (non-blocking?)
      (let* ([events (make-mailbox)]
             [config
              (make-config
                :non-blocking? non-blocking?
                :on-open
                (lambda (server socket)
                  (socket-data-set! socket (list (socket-id socket)))
                  (put! events socket))
                :on-close
                (lambda (server socket reason)
                  (put! events (list socket reason (socket-data socket)))))])
        (call-with-server (make-server "127.0.0.1:0" echo config)
          (lambda (server port)
            (let ([client (connect port)])
              (check-equal "hi" (ask client "hi"))
              (socket-close client)
              (let* ([opened (take! events)] [closed (take! events)])
                (check (eq? opened (car closed)))
                (check-equal 'peer (cadr closed))
                (check (fixnum? (car (caddr closed))))
                ;; It is of no use any more.
                (check (socket-closed? opened))
                (check-raises 'not-in-handler (socket-send opened #vu8(1)))
                (check-raises 'not-in-handler (socket-id opened))))))))
    '(#f #t)))

(test "a borrowed socket is of no use in another thread"
  (let* ([outcome (make-mailbox)]
         [handler
          (lambda (server socket)
            (socket-recv socket 10)
            (put! outcome
              ((in-thread
                 (lambda ()
                   (guard (e [(netserver-error? e) (netserver-error-status e)])
                     (socket-send socket #vu8(1))))))))])
    (call-with-server (make-server "127.0.0.1:0" handler)
      (lambda (server port)
        (call-with-client port
          (lambda (client)
            (say client "x")
            (check-equal 'not-in-handler (take! outcome))))))))

(test "on-open refuses a connection"
  (let ([config (make-config
                  :non-blocking? #t
                  :on-open (lambda (server socket)
                             (socket-send socket (string->utf8 "full"))
                             (raise (make-netserver-error 'rejected))))])
    (call-with-server (make-server "127.0.0.1:0" echo config)
      (lambda (server port)
        (call-with-client port
          (lambda (client)
            (check-equal "full" (hear client 4))
            (check-end client)))
        (wait-until "it counts as rejected"
          (lambda ()
            (= 1 (cdr (assq 'rejected (cdr (assq 'closed (server-stats server))))))))))))

(test "a busy blocking server refuses clients, and the exception handler may answer"
  (let* ([seen (make-mailbox)]
         [config (make-config
                   :max-thread 2 :max-retry 0
                   :exception-handler
                   (lambda (server socket e)
                     (socket-send socket (string->utf8 "busy"))
                     (put! seen (netserver-error-status e))))])
    (call-with-server (make-server "127.0.0.1:0" echo config)
      (lambda (server port)
        (call-with-client port
          (lambda (one)
            (check-equal "1" (ask one "1"))
            (call-with-client port
              (lambda (two)
                (check-equal "2" (ask two "2"))
                (call-with-client port
                  (lambda (three)
                    (check-equal "busy" (hear three 4))
                    (check-equal 'rejected (take! seen))
                    (check-end three)))))))))))

(test "what nobody handles goes to the console, and the connection closes"
  (for-each
    (lambda (non-blocking?)
      (let* ([port-and-text (call-with-values open-string-output-port cons)]
             [text (cdr port-and-text)]
             [server (make-server "127.0.0.1:0"
                       (lambda (server socket) (error 'handler "nobody handles" 17))
                       (make-config :non-blocking? non-blocking?))])
        (parameterize ([console-error-port (car port-and-text)])
          (call-with-server server
            (lambda (server port)
              (call-with-client port
                (lambda (client)
                  (say client "x")
                  (check-end client))))))
        (check-equal "Exception in handler: nobody handles with irritant 17\n" (text))))
    '(#f #t)))

(test "a warning goes to the console, and the handler goes on"
  (let* ([port-and-text (call-with-values open-string-output-port cons)]
         [text (cdr port-and-text)]
         [server (make-server "127.0.0.1:0"
                   (lambda (server socket)
                     (warning 'handler "take care")
                     (socket-send socket (string->utf8 "on"))))])
    (parameterize ([console-error-port (car port-and-text)])
      (call-with-server server
        (lambda (server port)
          (call-with-client port
            (lambda (client)
              (say client "x")
              (check-equal "on" (hear client 2)))))))
    (check-equal "Warning in handler: take care\n" (text))))

(test "what cannot be displayed can be raised"
  (let* ([descriptor (make-record-type "undisplayable" '())]
         [object ((record-constructor descriptor))]
         [seen (make-mailbox)]
         [config (make-config :exception-handler (lambda (server socket e) (put! seen e)))])
    (record-writer descriptor (lambda (object port write) (error 'writer "no")))
    (call-with-server (make-server "127.0.0.1:0" (lambda (server socket) (raise object)) config)
      (lambda (server port)
        (call-with-client port
          (lambda (client)
            (check (eq? object (take! seen)))
            (check-end client)))))))

(test "several services, one with other certificates"
  (let* ([data (string-append (getenv "NETSERVER_ROOT") "/tests/data/")]
         [certificate (list (string-append data "server.pem"))]
         [key (string-append data "server-key.pem")]
         [seen (make-mailbox)]
         [server (make-server "127.0.0.1:0"
                   (lambda (server socket)
                     (put! seen (list (socket-service socket) (socket-tls-info socket)))
                     (echo server socket))
                   (make-config :non-blocking? #t))])
    (check-equal 1 (server-add-service! server "127.0.0.1:0"))
    (check-equal 2 (server-add-service! server "127.0.0.1:0"
                     (make-tls :certificates certificate :private-key key)))
    (check-raises 'certificate (server-add-service! server "0" (make-tls)))
    (call-with-server server
      (lambda (server port)
        (define (port-of service)
          (let ([address (server-service-address server service)])
            (string->number (substring address 10 (string-length address)))))
        (call-with-client (port-of 1) (lambda (client) (check-equal "1" (ask client "1"))))
        (check-equal '(1 #f) (take! seen))
        (check-equal '(1 #f) (take! seen)) ; the end
        (check-equal "over TLS" (ask-over-tls (port-of 2) "over TLS"))
        (let ([call (take! seen)])
          (check-equal 2 (car call))
          (check-equal "1.3" (cdr (assq 'version (cadr call))))
          (check (not (cdr (assq 'resumed? (cadr call))))))
        (server-reload-tls! server
          (make-tls
            :certificates (list (output-of "openssl x509 -outform DER -in " (car certificate)))
            :private-key (output-of "openssl pkey -outform DER -in " key))
          2)
        (check-equal "reloaded" (ask-over-tls (port-of 2) "reloaded"))
        (check-raises 'state
          (server-reload-tls! server (make-tls :certificates certificate :private-key key)))))))

(test "a connection goes over to TLS"
  (for-each
    (lambda (non-blocking?)
      (let* ([data (string-append (getenv "NETSERVER_ROOT") "/tests/data/")]
             [tls (make-tls :certificates (list (string-append data "server.pem"))
                            :private-key (string-append data "server-key.pem"))]
             ;; As PostgreSQL does: a request of 8 bytes, and S for yes.
             [handler
              (lambda (server socket)
                (if (socket-tls-info socket)
                    (echo server socket)
                    (let ([request (socket-recv socket 8)])
                      (when (bytevector? request)
                        (socket-send socket (string->utf8 "S"))
                        (socket-starttls! socket tls)
                        (unless non-blocking? (echo server socket))))))])
        (call-with-server
          (make-server "127.0.0.1:0" handler (make-config :non-blocking? non-blocking?))
          (lambda (server port)
            (check-equal "by STARTTLS"
              (ask-over-tls port "by STARTTLS" "-starttls postgres"))))))
    '(#f #t)))

;; As another process would.
(test "another object with the same keys opens the tickets of one"
  (let* ([data (string-append (getenv "NETSERVER_ROOT") "/tests/data/")]
         [one (make-bytevector 80 1)]
         [other (make-bytevector 80 2)]
         [file (format "/tmp/netserver-chez-~a.session" (get-process-id))]
         [seen (make-mailbox)])
    (define (tls-with keys)
      (make-tls :certificates (list (string-append data "server.pem"))
                :private-key (string-append data "server-key.pem") :ticket-keys keys))
    (define (server-with tls)
      (make-server "127.0.0.1:0" echo
        (make-config :non-blocking? #t :tls tls
          :on-open (lambda (server socket)
                     (put! seen (cdr (assq 'resumed? (socket-tls-info socket))))))))
    (define (resumed? port option)
      (check-equal "x" (ask-over-tls port "x" option file))
      (take! seen))
    (let ([last (tls-with one)])
      (call-with-server (server-with (tls-with one))
        (lambda (server port) (check-equal #f (resumed? port "-sess_out"))))
      (call-with-server (server-with last)
        (lambda (server port)
          (check-equal #t (resumed? port "-sess_in"))
          (tls-set-ticket-keys! last
            (u8-list->bytevector
              (append (bytevector->u8-list other) (bytevector->u8-list one))))
          (check-equal #t (resumed? port "-sess_in"))
          (tls-set-ticket-keys! last other)
          (check-equal #f (resumed? port "-sess_in"))))
      (delete-file file)
      (for-each
        (lambda (length)
          (let ([keys (make-bytevector length 0)])
            (check-raises 'invalid (tls-with keys))
            (check-equal (format "ticket keys are 1 to 16 times 80 bytes, not ~a" length)
              (guard (failure [#t (condition-message failure)])
                (tls-set-ticket-keys! last keys)
                #f))))
        (list 0 79 (* 80 17))))))

(test "wrong certificates are refused with a reason"
  (let ([data (string-append (getenv "NETSERVER_ROOT") "/tests/data/")])
    (check-raises 'certificate
      (make-tls :certificates (list (string-append data "server.pem"))
                :private-key (string-append data "second-key.pem")))
    (check-raises 'certificate
      (make-tls :certificates '("/does/not/exist") :private-key "/does/not/exist"))
    (check-raises 'certificate (make-tls :certificates '(#vu8(1 2 3)) :private-key #vu8(4 5 6)))
    (check-raises 'certificate (make-tls :client-ca "/does/not/exist"))
    (check-raises 'invalid (make-tls :alpn '("")))))

(test "servers that nothing refers to are freed when another one is made"
  (do ([i 0 (+ i 1)])
      ((= i 10))
    (let ([server (make-server "127.0.0.1:0" echo)])
      (server-start! server :background #t)
      (server-stop! server)))
  (collect-all)
  (server-free! (make-server "127.0.0.1:0" echo)))

(test "a running server that nothing refers to goes on"
  (let* ([stopped (make-mailbox)]
         [start
          (lambda ()
            (let ([server (make-server "127.0.0.1:0"
                            (lambda (server socket)
                              (echo server socket)
                              (server-request-stop! server))
                            (make-config :on-stop (lambda (server) (put! stopped #t))))])
              (server-start! server :background #t)
              (server-port server)))]
         [port (start)])
    (collect-all)
    (server-free! (make-server "127.0.0.1:0" echo)) ; frees those that nothing refers to
    (call-with-client port (lambda (client) (check-equal "on" (ask client "on"))))
    (check (take! stopped)))
  (collect-all)
  (server-free! (make-server "127.0.0.1:0" echo)))

(test "a server that quiesces serves on and accepts no more"
  (call-with-server (make-server "127.0.0.1:0" echo)
    (lambda (server port)
      (call-with-client port
        (lambda (client)
          (check-equal "before" (ask client "before"))
          (server-quiesce! server)
          (check-equal 'quiescing (server-state server))
          (check-equal 'quiescing (cdr (assq 'state (server-stats server))))
          (check (not (server-stopped? server)))
          (check-equal "after" (ask client "after")))))))

(test "a forked child gets an error"
  (call-with-server (make-server "127.0.0.1:0" echo)
    (lambda (server port)
      (let ([child (netserver-fork)])
        (when (= child 0)
          ((foreign-procedure "_exit" (int) void)
           (guard (e [(netserver-error? e) (if (eq? (netserver-error-status e) 'state) 7 8)])
             (server-stop! server)
             9)))
        (let ([status (make-bytevector 4)])
          ((foreign-procedure "waitpid" (int u8* int) int) child status 0)
          (check-equal (* 7 256) (bytevector-s32-native-ref status 0))))
      (call-with-client port (lambda (client) (check-equal "on" (ask client "on")))))))
