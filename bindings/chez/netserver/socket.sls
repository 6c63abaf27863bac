;;; Calls for one connection: in its callbacks, or by the owner of a detached one.
(library (netserver socket)
  (export
    socket-recv socket-recv! socket-send socket-sendv socket-flush socket-cork
    socket-uncork
    socket-shutdown socket-close socket-abort socket-closed? socket-id socket-fd socket-service
    socket-peer-credentials socket-queued socket-os-error socket-set-timer!
    socket-set-io-timeout! socket-pause! socket-resume! socket-peer socket-local
    socket-peer-address socket-local-address socket-starttls! socket-tls-info
    socket-peer-certificate socket-peer-subject socket-release-fd! fd->socket
    server-detach-socket! server-attach-socket! socket-owned?)
  (import (chezscheme) (netserver callbacks) (netserver condition) (netserver foreign)
          (netserver table) (netserver tls) (netserver types))

  ;; What one call that may wait moves at most.
  (define bounce-size 65536)

  (define-syntax socket-call
    (syntax-rules ()
      [(_ who function socket argument ...)
       (check 'who (function (socket-live-pointer 'who socket) argument ...))]))

  ;; The way to call that fits: only a call that may wait lets collections go on.
  (define-syntax socket-call/either
    (syntax-rules ()
      [(_ who function blocking socket argument ...)
       (let ([pointer (socket-live-pointer 'who socket)])
         (check 'who
           (if (socket-waits? socket)
               (blocking pointer argument ...)
               (function pointer argument ...))))]))

  ;; -- receive and send ----------------------------------------------------------------------

  ;; What a receive returns: `make`s the result of a count of bytes.
  (define-syntax outcome
    (syntax-rules ()
      [(_ who result made)
       (cond
         [(> result 0) made]
         [(eqv? result 0) (eof-object)]
         [(eqv? result WOULD-BLOCK) #f]
         [else (check who result)])]))

  ;; Receives at most `length` bytes in C's memory; `body` sees them there.
  (define-syntax receive/blocking
    (syntax-rules ()
      [(_ pointer length (place count) body)
       (let* ([place (foreign-alloc length)]
              [count (ns_socket_recv/blocking pointer place length)]
              [result (and (> count 0) body)])
         (foreign-free place)
         (or result count))]))

  ;; Each thread has a buffer. A new thread inherits the parameter of another one.
  (define scratch-of-thread (make-thread-parameter '(#f . #f)))

  (define (scratch)
    (let ([own (scratch-of-thread)])
      (if (eqv? (car own) (get-thread-id))
          (cdr own)
          (let ([buffer (make-bytevector bounce-size)])
            (scratch-of-thread (cons (get-thread-id) buffer))
            buffer))))

  ;; At most `size` bytes, which is 1 or more, as a bytevector; the end-of-file object at the end of
  ;; the stream; #f where nothing can be read now (non-blocking mode).
  (define (socket-recv socket size)
    (let ([pointer (socket-live-pointer 'socket-recv socket)]
          [length (min size bounce-size)])
      (if (socket-waits? socket)
          (let ([result (receive/blocking pointer length (place count)
                          (let ([bytes (make-bytevector count)])
                            (copy-in! bytes place count)
                            bytes))])
            (if (bytevector? result)
                result
                (outcome 'socket-recv result #f)))
          (let* ([buffer (scratch)]
                 [result (ns_socket_recv pointer buffer length)])
            (outcome 'socket-recv result (slice buffer 0 result))))))

  ;; Reads into `buffer`, and returns how many bytes that were; else as socket-recv.
  (define socket-recv!
    (case-lambda
      [(socket buffer) (socket-recv! socket buffer 0 (bytevector-length buffer))]
      [(socket buffer start count)
       (check-range 'socket-recv! buffer start count)
       (if (and (eqv? start 0) (not (socket-waits? socket)))
           (let ([result (ns_socket_recv (socket-live-pointer 'socket-recv! socket) buffer count)])
             (outcome 'socket-recv! result result))
           (let ([bytes (socket-recv socket count)])
             (if (bytevector? bytes)
                 (let ([length (bytevector-length bytes)])
                   (bytevector-copy! bytes 0 buffer start length)
                   length)
                 bytes)))]))

  ;; Sends all of `bytes`, or `count` of them from `start` on. Sends nothing of an end-of-file
  ;; object, so that an echo may pass on what it received.
  (define socket-send
    (case-lambda
      [(socket bytes)
       (if (eof-object? bytes)
           0
           (socket-send socket bytes 0 (bytevector-length bytes)))]
      [(socket bytes start count)
       (check-range 'socket-send bytes start count)
       (let ([pointer (socket-live-pointer 'socket-send socket)])
         (if (socket-waits? socket)
             (send/blocking pointer bytes start count)
             (check 'socket-send
               (ns_socket_send pointer
                 (if (eqv? start 0) bytes (slice bytes start count))
                 count)))
         count)]))

  ;; Sends all bytevectors of a list in a row, at most 1024. Returns how many bytes that are.
  (define (socket-sendv socket pieces)
    (let ([pointer (socket-live-pointer 'socket-sendv socket)]
          [total (apply + (map bytevector-length pieces))]) ; which also looks at their types
      (check 'socket-sendv
        (with-pieces pieces
          (lambda (places lengths count) (ns_socket_sendv pointer places lengths count))))
      total))

  (define (check-range who bytes start count)
    (unless (<= 0 start (+ start count) (bytevector-length bytes))
      (assertion-violation who "no such range of the bytevector" start count)))

  (define (slice bytes start count)
    (let ([piece (make-bytevector count)])
      (bytevector-copy! bytes start piece 0 count)
      piece))

  (define (send/blocking pointer bytes start count)
    (let ([place (foreign-alloc (max 1 (min count bounce-size)))])
      (let loop ([start start] [left count])
        (let ([length (min left bounce-size)])
          (copy-out! place (if (eqv? start 0) bytes (slice bytes start length)) length)
          (let ([result (ns_socket_send/blocking pointer place length)])
            (if (and (eqv? result 0) (> left length))
                (loop (+ start length) (- left length))
                (begin
                  (foreign-free place)
                  (check 'socket-send result))))))))

  (define (socket-flush socket)
    (socket-call/either socket-flush ns_socket_flush ns_socket_flush/blocking socket)
    (void))

  (define (socket-cork socket)
    (socket-call socket-cork ns_socket_cork socket)
    (void))

  (define (socket-uncork socket)
    (socket-call socket-uncork ns_socket_uncork socket)
    (void))

  ;; -- end -----------------------------------------------------------------------------------

  ;; 0, 1, 2: no more reading, no more writing, neither.
  (define (socket-shutdown socket how)
    (socket-call/either socket-shutdown ns_socket_shutdown ns_socket_shutdown/blocking socket how)
    (void))

  (define (socket-owned? socket)
    (and (not (socket-thread socket)) (not (eqv? (socket-pointer socket) NULL))))

  ;; An owned socket is freed as well. To close twice is harmless.
  (define (socket-close socket)
    (cond
      [(socket-thread socket)
       (socket-call/either socket-close ns_socket_close ns_socket_close/blocking socket)]
      [(socket-owned? socket) (free! socket)])
    (void))

  (define (free! socket)
    (let ([pointer (socket-pointer socket)])
      (socket-pointer-set! socket NULL)
      (ns_socket_free pointer)))

  ;; Resets the connection; what is queued is lost.
  (define (socket-abort socket)
    (cond
      [(socket-thread socket) (socket-call socket-abort ns_socket_abort socket)]
      [(socket-owned? socket)
       (ns_socket_abort (socket-pointer socket))
       (free! socket)])
    (void))

  ;; True also where the connection cannot be used now.
  (define (socket-closed? socket)
    (let ([pointer (socket-pointer socket)] [thread (socket-thread socket)])
      (or (eqv? pointer NULL)
          (and thread (not (fx= thread (get-thread-id))))
          (not (eqv? (ns_socket_is_closed pointer) 0)))))

  ;; -- ask and set ---------------------------------------------------------------------------

  (define-syntax define-getters
    (syntax-rules ()
      [(_ (name function) ...)
       (begin
         (define (name socket) (function (socket-live-pointer 'name socket))) ...)]))

  (define-getters
    (socket-id ns_socket_id)
    (socket-fd ns_socket_fd)
    (socket-service ns_socket_service) ; -1: it came by none
    (socket-queued ns_socket_queued)
    (socket-os-error ns_socket_os_error))

  (define-syntax define-setters
    (syntax-rules ()
      [(_ (name function argument ...) ...)
       (begin
         (define (name socket argument ...)
           (socket-call name function socket argument ...)
           (void)) ...)]))

  (define-setters
    (socket-set-timer! ns_socket_set_timer_ms milliseconds) ; 0 clears it
    (socket-set-io-timeout! ns_socket_set_io_timeout_ms milliseconds)
    (socket-pause! ns_socket_pause)
    (socket-resume! ns_socket_resume))

  ;; "127.0.0.1:4711", "[::1]:4711", "unix:/path".
  (define (socket-peer socket)
    (let ([pointer (socket-live-pointer 'socket-peer socket)])
      (text-of (lambda (buffer size) (ns_socket_peer pointer buffer size)))))

  (define (socket-local socket)
    (let ([pointer (socket-live-pointer 'socket-local socket)])
      (text-of (lambda (buffer size) (ns_socket_local pointer buffer size)))))

  ;; The bytes that a C function writes, which returns how many there are.
  (define (bytes-of write)
    (let loop ([size 2048])
      (let* ([buffer (make-bytevector size)]
             [length (write buffer size)])
        (if (<= length size)
            (bytevector-truncate! buffer length)
            (loop length)))))

  ;; The bytes of a struct sockaddr.
  (define (socket-peer-address socket)
    (let ([pointer (socket-live-pointer 'socket-peer-address socket)])
      (bytes-of (lambda (buffer size) (ns_socket_peer_addr pointer buffer size)))))

  (define (socket-local-address socket)
    (let ([pointer (socket-live-pointer 'socket-local-address socket)])
      (bytes-of (lambda (buffer size) (ns_socket_local_addr pointer buffer size)))))

  ;; The process, user and group of the peer of a unix socket: three values.
  (define (socket-peer-credentials socket)
    (let* ([pointer (socket-live-pointer 'socket-peer-credentials socket)]
           [place (foreign-alloc 12)]
           [result (ns_socket_peer_credentials pointer place (+ place 4) (+ place 8))]
           [pid (foreign-ref 'integer-32 place 0)]
           [uid (foreign-ref 'unsigned-32 place 4)]
           [gid (foreign-ref 'unsigned-32 place 8)])
      (foreign-free place)
      (check 'socket-peer-credentials result)
      (values pid uid gid)))

  ;; -- TLS -----------------------------------------------------------------------------------

  ;; `ahead`: what was received beyond the client's request.
  (define socket-starttls!
    (case-lambda
      [(socket tls) (socket-starttls! socket tls #vu8())]
      [(socket tls ahead)
       (let ([pointer (socket-live-pointer 'socket-starttls! socket)]
             [length (bytevector-length ahead)])
         (check 'socket-starttls!
           (if (socket-waits? socket)
               (let ([place (foreign-alloc (max length 1))])
                 (copy-out! place ahead length)
                 (let ([result (ns_socket_starttls/blocking
                                 pointer (tls-pointer tls) place length)])
                   (foreign-free place)
                   result))
               (ns_socket_starttls pointer (tls-pointer tls) ahead length)))
         (void))]))

  (define (c-text buffer start size)
    (let loop ([end start])
      (if (or (= end (+ start size)) (eqv? (bytevector-u8-ref buffer end) 0))
          (let ([piece (slice buffer start (- end start))])
            (utf8->string piece))
          (loop (+ end 1)))))

  ;; What the handshake agreed: an association list of version, resumed?, cipher-suite, alpn and
  ;; server-name; #f where there is no TLS.
  (define (socket-tls-info socket)
    (let* ([size 584]
           [buffer (make-bytevector size 0)]
           [result (ns_socket_tls_info (socket-live-pointer 'socket-tls-info socket) buffer size)])
      (define (text-or-false start size)
        (let ([text (c-text buffer start size)])
          (and (not (string=? text "")) text)))
      (cond
        [(eq? (status->symbol result) 'state) #f]
        [else
         (check 'socket-tls-info result)
         `((version . ,(if (eqv? (bytevector-s32-native-ref buffer 0) #x0303) "1.2" "1.3"))
           (resumed? . ,(not (eqv? (bytevector-s32-native-ref buffer 4) 0)))
           (cipher-suite . ,(c-text buffer 8 64))
           (alpn . ,(text-or-false 72 256))
           (server-name . ,(text-or-false 328 256)))])))

  ;; The client's certificate in DER, which was verified; #f where there is none.
  (define (socket-peer-certificate socket)
    (let* ([pointer (socket-live-pointer 'socket-peer-certificate socket)]
           [bytes (bytes-of
                    (lambda (buffer size)
                      (ns_socket_tls_peer_certificate pointer buffer size)))])
      (and (> (bytevector-length bytes) 0) bytes)))

  ;; The subject of that certificate, "CN=ann,O=Example"; "" where there is none.
  (define (socket-peer-subject socket)
    (let ([pointer (socket-live-pointer 'socket-peer-subject socket)])
      (text-of (lambda (buffer size) (ns_socket_tls_peer_subject pointer buffer size)))))

  ;; -- owned sockets -------------------------------------------------------------------------

  (define (own! socket pointer)
    (socket-thread-set! socket #f)
    (socket-waits?-set! socket #t)
    (socket-pointer-set! socket pointer))

  ;; Takes the connection out of a non-blocking server, in any callback but :on-close. The same
  ;; socket is the program's own from now on: any one thread at a time may use it, its calls wait,
  ;; and the program closes it or attaches it.
  (define (server-detach-socket! server socket)
    (let* ([pointer (socket-live-pointer 'server-detach-socket! socket)]
           [owned (call-with-error 'server-detach-socket!
                    (lambda (error)
                      (ns_detach (server-live-pointer 'server-detach-socket! server)
                                 pointer error)))])
      (own! socket owned)
      socket))

  ;; Gives an owned socket to a non-blocking server. Returns the connection's new id.
  (define (server-attach-socket! server socket)
    (unless (socket-owned? socket)
      (raise (make-netserver-error 'server-attach-socket! 'invalid "not an owned socket")))
    (let ([pointer (socket-pointer socket)])
      ;; A loop may call the handler before the attach returns.
      (socket-pointer-set! socket NULL)
      (socket-waits?-set! socket #f)
      (socket-thread-set! socket 0)
      (guard (failure [#t (own! socket pointer) (raise failure)])
        (call-with-error 'server-attach-socket!
          (lambda (error)
            (ns_attach (server-live-pointer 'server-attach-socket! server) pointer error))))))

  ;; An owned socket of a descriptor that is a connected stream socket.
  (define (fd->socket fd)
    (let ([pointer (call-with-error 'fd->socket (lambda (error) (ns_socket_from_fd fd error)))]
          [socket (make-socket-record NULL #f #t #f)])
      (ns_socket_set_user_data pointer (object-add! socket) drop-entry)
      (own! socket pointer)
      socket))

  ;; The descriptor of an owned socket without buffered bytes, which is gone then.
  (define (socket-release-fd! socket)
    (unless (socket-owned? socket)
      (raise (make-netserver-error 'socket-release-fd! 'invalid "not an owned socket")))
    (let ([fd (socket-call socket-release-fd! ns_socket_release_fd socket)])
      (socket-pointer-set! socket NULL)
      fd)))
