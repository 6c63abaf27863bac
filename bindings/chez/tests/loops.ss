;;; (netserver): calls by id, timers, tasks, watches, adopted and outgoing connections, hosting.

(define loops (make-config :non-blocking? #t :max-thread 2))

(define (call-with-loops handler procedure)
  (call-with-server (make-server "127.0.0.1:0" handler loops) procedure))

;; Sends the connection's id first.
(define (tell-id server socket)
  (let ([bytes (socket-recv socket 100)])
    (if (eof-object? bytes)
        (socket-close socket)
        (socket-send socket (string->utf8 (format "~20,'0d" (socket-id socket)))))))

(define poll-call (foreign-procedure "poll" (u8* unsigned-long int) int))

;; Within so many milliseconds.
(define (readable? fd milliseconds)
  (let ([place (make-bytevector 8 0)]) ; a struct pollfd
    (bytevector-s32-native-set! place 0 fd)
    (bytevector-u16-native-set! place 4 1) ; POLLIN
    (= (poll-call place 1 milliseconds) 1)))

(define (id-of client)
  (say client "?")
  (string->number (hear client 20)))

(test "connections by id"
  (call-with-loops tell-id
    (lambda (server port)
      (let* ([clients (map (lambda (i) (connect port)) (iota 5))]
             [ids (map id-of clients)])
        (check-equal (sort < ids) (sort < (server-connections server)))
        (server-send server (car ids) (string->utf8 "one"))
        (check-equal "one" (hear (car clients) 3))
        (wait-until "nothing is queued" (lambda () (= 0 (server-queued server (car ids)))))
        (check-equal 5 (server-broadcast server ids (string->utf8 "all")))
        (for-each (lambda (client) (check-equal "all" (hear client 3))) clients)
        (server-close server (car ids))
        (check-end (car clients))
        (socket-close (car clients))
        (wait-until "it is gone" (lambda () (not (memv (car ids) (server-connections server)))))
        (check-raises 'closed (server-send server (car ids) #vu8(1)))
        (let-values ([(count statuses) (server-broadcast-each server ids (string->utf8 "4"))])
          (check-equal 4 count)
          (check-equal '(closed ok ok ok ok) statuses))
        (server-shutdown server (cadr ids) 1)
        (check-equal "4" (hear (cadr clients) 1))
        (check-end (cadr clients))
        (server-abort server (caddr ids))
        (check-equal "4" (hear (caddr clients) 1))
        (check-raises 'reset (socket-recv (caddr clients) 1))
        (for-each socket-close clients)))))

(test "a wake runs on-wake, and a connection's timer on-timeout"
  (let ([config
         (make-config
           :non-blocking? #t
           :on-wake (lambda (server socket) (socket-send socket (string->utf8 "awake")))
           :on-timeout (lambda (server socket) (socket-send socket (string->utf8 "time"))))])
    (call-with-server
      (make-server "127.0.0.1:0"
        (lambda (server socket)
          (tell-id server socket)
          (unless (socket-closed? socket) (socket-set-timer! socket 1)))
        config)
      (lambda (server port)
        (call-with-client port
          (lambda (client)
            (let ([id (id-of client)])
              (check-equal "time" (hear client 4))
              (server-wake server id)
              (check-equal "awake" (hear client 5)))))))))

(test "timers, tasks and watches run on their loop, and release what they hold"
  (call-with-loops echo
    (lambda (server port)
      (let ([events (make-mailbox)])
        (server-post server 1 (lambda (server) (put! events 'task)))
        (check-equal 'task (take! events))
        (server-timer server 1 (lambda (server id) (put! events 'once)))
        (check-equal 'once (take! events))
        (let ([id (server-timer server 1 1 1 (lambda (server id) (put! events id)))])
          (check-equal id (take! events))
          (check-equal id (take! events))
          (server-timer-cancel server id)
          (check-raises 'closed (server-timer-cancel server id)))
        (let* ([fd ((foreign-procedure "eventfd" (unsigned-32 int) int) 1 #o2000000)]
               [seen (make-mailbox)]
               [id (server-watch server 1 fd '(read)
                     (lambda (server id fd events)
                       (server-unwatch server id)
                       (put! seen (list id fd events))))])
          (check-equal (list id fd '(read)) (take! seen))
          (check-raises 'closed (server-watch-change server id '(write)))
          (close-fd fd))
        (check-raises 'invalid (server-watch server 0 -1 '(read) list))
        (check-raises 'invalid (server-timer server 9 1 0 list))
        (check-raises 'invalid (server-post server 9 list))))))

(test "what a task raises reaches the exception handler without a socket"
  (let* ([seen (make-mailbox)]
         [config (make-config
                   :non-blocking? #t
                   :exception-handler (lambda (server socket e) (put! seen (cons socket e))))]
         [object (list 1)])
    (call-with-server (make-server "127.0.0.1:0" echo config)
      (lambda (server port)
        (server-post server (lambda (server) (raise object)))
        (let ([call (take! seen)])
          (check-equal #f (car call))
          (check (eq? object (cdr call))))))))

(test "detached, used by a thread, attached again, with its data"
  (let* ([detached (make-mailbox)]
         [handler
          (lambda (server socket)
            (cond
              [(socket-data socket) (echo server socket)]
              [else
               (socket-data-set! socket 'known)
               (server-detach-socket! server socket)
               (check (socket-owned? socket))
               (put! detached socket)]))])
    (call-with-loops handler
      (lambda (server port)
        (call-with-client port
          (lambda (client)
            (say client "first")
            (let ([socket (take! detached)])
              (check-equal "first" (utf8->string (socket-recv socket 100)))
              (socket-cork socket)
              (socket-send socket (string->utf8 "in "))
              (socket-send socket (string->utf8 "one piece") 0 9)
              (socket-uncork socket)
              (check-equal "in one piece" (hear client 12))
              (check (fixnum? (server-attach-socket! server socket)))
              (check-raises 'invalid (server-attach-socket! server socket))
              (check-equal "second" (ask client "second")))))))))

(test "ranges, large pieces, and an owned socket's descriptor"
  (call-with-server (make-server "127.0.0.1:0" echo)
    (lambda (server port)
      (let* ([client (connect port)]
             [bytes (make-bytevector 300000 7)]
             [sent (in-thread (lambda () (call-with-client port
                                           (lambda (other) (socket-send other bytes)))))]
             [into (make-bytevector 10 0)])
        (check-equal 300000 (sent))
        (check-equal 3 (socket-send client (string->utf8 "abcdef") 2 3))
        (check-equal 3 (socket-recv! client into 4 6))
        (check-equal '(0 0 0 0 99 100 101 0 0 0) (bytevector->u8-list into))
        (check (guard (e [(assertion-violation? e) #t]) (socket-send client into 5 6) #f))
        (check-equal 6 (socket-sendv client (list (string->utf8 "abc") #vu8() (string->utf8 "def"))))
        (check-equal "abcdef" (hear client 6))
        (check-equal 0 (socket-sendv client '()))
        (check (guard (e [(assertion-violation? e) #t]) (socket-sendv client '("text")) #f))
        (check-equal (format "127.0.0.1:~a" port) (socket-peer client))
        (check-equal 16 (bytevector-length (socket-peer-address client)))
        (check-equal 'unsupported
          (guard (e [#t (netserver-error-status e)]) (socket-peer-credentials client)))
        (let ([fd (socket-release-fd! client)])
          (check (> fd 2))
          (check (socket-closed? client))
          (check-raises 'closed (socket-send client #vu8(1)))
          (close-fd fd))))))

(test "a descriptor of the program's, and an outgoing connection"
  (call-with-server (make-server "127.0.0.1:0" echo (make-config :max-thread 2))
    (lambda (target target-port)
      (let* ([answers (make-mailbox)]
             [handler
              (lambda (server socket)
                (let ([bytes (socket-recv socket 100)])
                  (if (eof-object? bytes)
                      (socket-close socket)
                      (put! answers (list (socket-data socket) (utf8->string bytes))))))])
        (call-with-loops handler
          (lambda (server port)
            (let ([adopted (server-adopt server (connect-fd target-port) 'adopted)]
                  [connected
                   (server-connect server (format "127.0.0.1:~a" target-port) 10000 'connected)])
              (server-send server adopted (string->utf8 "one"))
              (check-equal '(adopted "one") (take! answers))
              (server-send server connected (string->utf8 "two"))
              (check-equal '(connected "two") (take! answers)))
            (check-raises 'invalid (server-connect server "nonsense"))
            (check-raises 'invalid (server-adopt server -1))))))))

(test "a hosted server runs on the thread that calls its turns"
  (let* ([ran (make-mailbox)]
         [kept #f]
         [handler
          (lambda (server socket)
            (set! kept socket)
            (check (not (socket-closed? socket)))
            (put! ran (get-thread-id))
            (echo server socket))]
         [server (make-server "127.0.0.1:0" handler (make-config :non-blocking? #t))])
    (define (run-until ready?)
      (unless (ready?)
        (check (server-run-once! server 10000))
        (run-until ready?)))
    (check-raises 'state (server-run-once! server 0))
    (server-start! server :hosted #t)
    (run-until (lambda () (not (readable? (server-poll-fd server) 0))))
    (let ([client (connect (server-port server))])
      (say client "hosted")
      (check (readable? (server-poll-fd server) 10000)) ; there is something to do
      (run-until (lambda () kept))
      ;; Its callback has returned.
      (check (socket-closed? kept))
      (check-raises 'not-in-handler (socket-send kept #vu8(1)))
      (check-equal "hosted" (hear client 6))
      (check-equal (get-thread-id) (take! ran))
      (let ([posted #f])
        (server-post server (lambda (server) (set! posted #t)))
        (check (readable? (server-poll-fd server) 10000))
        (run-until (lambda () posted)))
      (socket-close client))
    (server-request-stop! server)
    (let loop ()
      (when (server-run-once! server 10000) (loop)))
    (check (server-stopped? server))
    (server-free! server)
    (check-raises 'state (server-run-once! server 0))))

(test "in the foreground one loop serves on the calling thread, and several elsewhere"
  (for-each
    (lambda (threads)
      (let* ([started (make-mailbox)]
             [server (make-server "127.0.0.1:0" echo
                       (make-config :non-blocking? #t :max-thread threads
                                    :on-start (lambda (server) (put! started server))))]
             [client (in-thread
                       (lambda ()
                         (let* ([port (server-port (take! started))]
                                [answer (call-with-client port
                                          (lambda (client) (ask client "hello")))])
                           (server-stop! server :within 1000)
                           answer)))])
        (server-start! server)
        (check-equal "hello" (client))
        (check-raises 'state (server-start! server))
        (server-free! server)))
    '(1 2)))

(test "collections in every callback, on several loops and workers"
  (for-each
    (lambda (non-blocking?)
      (let ([server (make-server "127.0.0.1:0"
                      (lambda (server socket)
                        (collect-rendezvous)
                        (echo server socket)
                        (collect-rendezvous))
                      (make-config :non-blocking? non-blocking? :max-thread 4))])
        (call-with-server server
          (lambda (server port)
            (let ([results
                   (map (lambda (i)
                          (in-thread
                            (lambda ()
                              (call-with-client port
                                (lambda (client)
                                  (do ([j 0 (+ j 1)])
                                      ((= j 50) 'done)
                                    (check-equal "collected" (ask client "collected"))))))))
                        (iota 4))])
              (for-each (lambda (result) (check-equal 'done (result))) results))))))
    '(#f #t)))
