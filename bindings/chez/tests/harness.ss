;;; A small test runner: each test waits on events with a deadline, and leaves nothing behind.
(import (chezscheme) (netserver))
(load-shared-object #f)

(define patience (string->number (or (getenv "PATIENCE") "30"))) ; seconds that anything may take, on a busy machine too
(define passed 0)
(define failed 0)

;; -- checks ----------------------------------------------------------------------------------

(define (fail-test message . irritants)
  (apply error 'check message irritants))

(define-syntax check
  (syntax-rules ()
    [(_ expression) (unless expression (fail-test "not true" 'expression))]))

(define-syntax check-equal
  (syntax-rules ()
    [(_ expected expression)
     (let ([wanted expected] [got expression])
       (unless (equal? wanted got)
         (fail-test (format "~s is ~s, not ~s" 'expression got wanted))))]))

;; The body raises an error of the library with this status.
(define-syntax check-raises
  (syntax-rules ()
    [(_ status body ...)
     (check-equal status
       (guard (failure [(netserver-error? failure) (netserver-error-status failure)])
         body ...
         'nothing-was-raised))]))

(define-syntax test
  (syntax-rules ()
    [(_ name body ...) (run-test name (lambda () body ...))]))

(define (run-test name thunk)
  (when (getenv "VERBOSE") (printf "~a\n" name) (flush-output-port))
  (let ([objects (netserver-object-count)]
        [threads (count-of "task")]
        [attached (length (scheme-threads))]
        [descriptors (count-of "fd")])
    (guard (failure
            [#t
             (set! failed (+ failed 1))
             (printf "FAIL ~a: " name)
             (if (condition? failure) (display-condition failure) (write failure))
             (newline)])
      (thunk)
      (wait-until "no object is left" (lambda () (= (netserver-object-count) objects)))
      (wait-until "no thread is left" (lambda () (= (count-of "task") threads)))
      (wait-until "no thread is attached to Scheme"
        (lambda () (= (length (scheme-threads)) attached)))
      (wait-until "no descriptor is left" (lambda () (= (count-of "fd") descriptors)))
      (set! passed (+ passed 1)))
    (flush-output-port)))

;; Those that Scheme knows; a thread of C is one of them once it has entered Scheme.
(define scheme-threads (foreign-procedure "(cs)threads" () scheme-object))

(define (count-of what)
  (length (directory-list (string-append "/proc/self/" what))))

(define (finish-tests)
  (printf "chez: ~a passed, ~a failed\n" passed failed)
  (exit (if (= failed 0) 0 1)))

;; -- waiting ---------------------------------------------------------------------------------

;; For a state that nothing announces.
(define (wait-until what ready?)
  (let loop ([left (* patience 200)])
    (unless (ready?)
      (when (= left 0) (fail-test (string-append "not within the time: " what)))
      (sleep (make-time 'time-duration 5000000 0))
      (loop (- left 1)))))

(define-record-type mailbox
  (fields lock changed (mutable letters))
  (protocol (lambda (new) (lambda () (new (make-mutex) (make-condition) '())))))

(define (put! mailbox letter)
  (with-mutex (mailbox-lock mailbox)
    (mailbox-letters-set! mailbox (append (mailbox-letters mailbox) (list letter)))
    (condition-broadcast (mailbox-changed mailbox))))

;; The oldest letter.
(define (take! mailbox)
  (with-mutex (mailbox-lock mailbox)
    (let loop ()
      (let ([letters (mailbox-letters mailbox)])
        (cond
          [(pair? letters)
           (mailbox-letters-set! mailbox (cdr letters))
           (car letters)]
          [(condition-wait (mailbox-changed mailbox) (mailbox-lock mailbox)
                           (make-time 'time-duration 0 patience))
           (loop)]
          [else (fail-test "nothing came")])))))

;; Scheme cannot collect while another thread is in it: one that leaves its last callback.
(define (collect-all)
  (wait-until "no other thread is in Scheme"
    (lambda ()
      (guard (failure [#t #f])
        (collect (collect-maximum-generation))
        #t))))

;; Calls `thunk` in a thread of its own. Returns a procedure that waits for its result.
(define (in-thread thunk)
  (let ([result (make-mailbox)])
    (fork-thread
      (lambda ()
        (put! result
          (guard (failure [#t (cons 'raised failure)])
            (cons 'returned (thunk))))))
    (lambda ()
      (let ([outcome (take! result)])
        (if (eq? (car outcome) 'raised)
            (raise (cdr outcome))
            (cdr outcome))))))

;; -- servers and clients ---------------------------------------------------------------------

;; Calls (procedure server port) while the server runs in the background.
(define (call-with-server server procedure)
  (dynamic-wind
    void
    (lambda ()
      (server-start! server :background #t)
      (procedure server (server-port server)))
    (lambda () (server-free! server))))

(define socket-call (foreign-procedure "socket" (int int int) int))
(define connect-call (foreign-procedure "connect" (int u8* size_t) int))
(define close-fd (foreign-procedure "close" (int) int))

;; A connected descriptor.
(define (connect-fd port)
  (let ([fd (socket-call 2 (+ 1 #o2000000) 0)] ; AF_INET, SOCK_STREAM | SOCK_CLOEXEC
        [address (make-bytevector 16 0)])
    (bytevector-u16-native-set! address 0 2)
    (bytevector-u16-set! address 2 port (endianness big))
    (bytevector-u32-set! address 4 #x7f000001 (endianness big))
    (unless (= (connect-call fd address 16) 0)
      (close-fd fd)
      (fail-test "cannot connect to the port" port))
    fd))

;; A client is an owned socket.
(define (connect port)
  (let ([socket (fd->socket (connect-fd port))])
    (socket-set-io-timeout! socket (* 1000 patience))
    socket))

(define (call-with-client port procedure)
  (let ([client (connect port)])
    (dynamic-wind
      void
      (lambda () (procedure client))
      (lambda () (socket-close client)))))

(define (say client text) (socket-send client (string->utf8 text)))

;; Exactly so many bytes, as text.
(define (hear client count)
  (let loop ([left count] [texts '()])
    (if (= left 0)
        (apply string-append (reverse texts))
        (let ([bytes (socket-recv client left)])
          (if (eof-object? bytes)
              (fail-test "the end of the stream after" (reverse texts))
              (loop (- left (bytevector-length bytes)) (cons (utf8->string bytes) texts)))))))

(define (ask client text)
  (say client text)
  (hear client (string-length text)))

(define (check-end client)
  (check (eof-object? (socket-recv client 100))))

;; One handler for both modes.
(define (echo server socket)
  (let ([bytes (socket-recv socket 4096)])
    (cond
      [(eof-object? bytes) (socket-close socket)]
      [bytes
       (socket-send socket bytes)
       (unless (config-ref (server-config server) :non-blocking?) (echo server socket))])))
