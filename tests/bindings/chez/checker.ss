;;; A server that does on request what the table of checks asks for; see ../README.md.
(import (chezscheme) (netserver))
(load (string-append (getenv "NETSERVER_ROOT") "/tests/bindings/chez/support.ss"))

;; -- the command line ------------------------------------------------------------------------

(define flags '("-n" "--gc" "--no-handler"))
(define options-with-value
  '("-t" "--cert" "--key" "--shutdown-port" "--client-ca" "--alpn"))

(define (usage)
  (put-string (console-error-port) "usage: checker.ss [OPTION …] SERVICE\n")
  (exit 2))

(define (parse arguments)
  (let loop ([rest arguments] [options '()])
    (cond
      [(null? rest) (usage)]
      [(member (car rest) flags) (loop (cdr rest) (cons (cons (car rest) #t) options))]
      [(and (member (car rest) options-with-value) (pair? (cdr rest)))
       (loop (cddr rest) (cons (cons (car rest) (cadr rest)) options))]
      [(and (null? (cdr rest)) (not (string-prefix? "-" (car rest))))
       (cons (cons 'service (car rest)) options)]
      [else (usage)])))

(define options (parse (command-line-arguments)))
(define (option name default)
  (let ([entry (assoc name options)])
    (if entry (cdr entry) default)))

(define non-blocking? (option "-n" #f))
(define threads
  (let ([count (string->number (option "-t" "1"))])
    (if (and (fixnum? count) (> count 0)) count (usage))))
(unless (eq? (string? (option "--cert" #f)) (string? (option "--key" #f))) (usage))
(define hosted? (and non-blocking? (= threads 1)))

;; -- connections -----------------------------------------------------------------------------

;; What a connection has received and not yet answered, how much of a fill is left (#f: none), and
;; what its on_close raises.
(define-record-type state
  (fields (mutable input) (mutable filling) (mutable at-close)))

(define (state-of socket)
  (or (socket-data socket)
      (let ([state (make-state #vu8() #f #f)])
        (socket-data-set! socket state)
        state)))

(define (answer socket text)
  (socket-send socket (line text)))

;; The next line of the input without its LF; #f: there is none.
(define (take-line! state)
  (let* ([input (state-input state)] [end (index-of-newline input)])
    (and end
         (begin
           (state-input-set! state (bytevector-from input (+ end 1)))
           (utf8->string (bytevector-head input end))))))

(define (answer-lines server socket)
  (let ([state (state-of socket)])
    (let loop ()
      (unless (state-filling state)
        (let ([request (take-line! state)])
          (when (and request (answer-line server socket state request))
            (loop)))))))

;; -- what it answers -------------------------------------------------------------------------

(define last-raised #f)
(define (fail text)
  (set! last-raised (condition (make-error) (make-message-condition text)))
  (raise last-raised))

;; What main is to do: #f, or a symbol.
(define ending #f)

;; Returns whether the handler goes on with this connection.
(define (answer-line server socket state request)
  (let-values ([(word rest) (split request)])
    (case (string->symbol word)
      [(||) (answer socket "") #t]
      [(echo) (answer socket rest) #t]
      [(id) (answer socket (number->string (socket-id socket))) #t]
      [(tls) (answer socket (describe-tls socket)) #t]
      [(send)
       (let-values ([(id text) (split rest)])
         (answer socket
           (in-thread
             (lambda ()
               (status-name
                 (lambda () (server-send server (string->number id) (line text)))))))
         #t)]
      [(broadcast)
       (in-thread
         (lambda () (server-broadcast server (server-connections server) (line rest))))
       #t]
      [(detach)
       (server-detach-socket! server socket)
       (fork-thread (lambda () (own server socket state)))
       #f]
      [(timer)
       (let ([id (socket-id socket)])
         (server-timer server (string->number rest)
           (lambda (server timer) (server-send server id (line "fired"))))
         #t)]
      [(fill)
       (state-filling-set! state (string->number rest))
       (fill socket state)
       #t]
      [(raise) (fail rest)]
      [(raise-timer)
       (server-timer server 1 (called (lambda (server timer) (fail rest))))
       (answer socket "ok")
       #t]
      [(raise-post)
       (server-post server (called (lambda (server) (fail rest))))
       (answer socket "ok")
       #t]
      [(raise-watch)
       (server-watch server (eventfd 1 0) '(read)
         (called
           (lambda (server watch fd events)
             (server-unwatch server watch)
             (close-fd fd)
             (fail rest))))
       (answer socket "ok")
       #t]
      [(raise-close)
       (state-at-close-set! state rest)
       (socket-close socket)
       #f]
      [(objects) (answer socket (number->string (netserver-object-count))) #t]
      [(fork) (answer socket (string-append "fork " (fork-and-ask server))) #t]
      [(stop)
       (server-request-stop! server)
       #t]
      [(end)
       (set! ending (string->symbol rest))
       #t]
      [else (answer socket "what?") #t])))

(define (status-name thunk)
  (guard (failure [(netserver-error? failure) (c-name (netserver-error-status failure))])
    (thunk)
    "ok"))

(define (describe-tls socket)
  (let ([info (or (socket-tls-info socket) '())]
        [certificate (socket-peer-certificate socket)])
    (define (value name)
      (let ([entry (assq name info)])
        (or (and entry (cdr entry)) "none")))
    (format "version=~a alpn=~a certificate=~a"
            (value 'version) (value 'alpn)
            (if certificate (sha256-hex certificate) "none"))))

;; The new owner of a detached connection.
(define (own server socket state)
  (answer socket "detached")
  (let loop ()
    (let ([request (take-line! state)])
      (cond
        [request
         (answer socket (string-append "owned " request))
         (server-attach-socket! server socket)]
        [else
         (let ([bytes (socket-recv socket 65536)])
           (cond
             [(eof-object? bytes) (socket-close socket)]
             [else
              (state-input-set! state (bytevector-append (state-input state) bytes))
              (loop)]))]))))

(define piece (make-bytevector 65536 (char->integer #\x)))

;; Sends as long as the client reads; on_drain goes on.
(define (fill socket state)
  (let ([left (state-filling state)])
    (cond
      [(= left 0)
       (state-filling-set! state #f)
       (answer socket "")]
      [(= (socket-queued socket) 0)
       (let ([count (min left 65536)])
         (socket-send socket piece 0 count)
         (state-filling-set! state (- left count))
         (fill socket state))])))

;; -- callbacks -------------------------------------------------------------------------------

;; With --gc each callback forces a collection.
(define (called procedure)
  (if (option "--gc" #f)
      (lambda arguments
        (collect-rendezvous)
        (apply procedure arguments))
      procedure))

(define (handle server socket)
  (let ([bytes (socket-recv socket 65536)])
    (cond
      [(eof-object? bytes) (socket-close socket)]
      [bytes
       (let ([state (state-of socket)])
         (state-input-set! state (bytevector-append (state-input state) bytes))
         (answer-lines server socket)
         (unless (or non-blocking? (socket-closed? socket))
           (handle server socket)))])))

(define (on-drain server socket)
  (let ([state (state-of socket)])
    (when (state-filling state)
      (fill socket state)
      (answer-lines server socket))))

(define (on-close server socket reason)
  (let ([state (socket-data socket)])
    (when (and state (state-at-close state))
      (fail (state-at-close state)))))

;; The text of what `fail` raised; of other conditions all there is to say.
(define (text-of object)
  (if (eq? object last-raised)
      (condition-message object)
      (with-output-to-string (lambda () (display-condition object)))))

(define (handle-exception server socket object)
  (unless (and (netserver-error? object) (not (eq? (netserver-error-status object) 'handler)))
    (say "exception: ~a ~a"
         (text-of object)
         (if (eq? object last-raised) "same" "other")))
  (when socket (socket-close socket)))

;; -- main ------------------------------------------------------------------------------------

(define (make-it)
  (make-server (option 'service #f) (called handle)
    (make-config
      :non-blocking? non-blocking?
      :max-thread threads
      :drain-timeout 500
      :shutdown-port (option "--shutdown-port" #f)
      :tls
      (and (option "--cert" #f)
           (apply make-tls
             :certificates (list (option "--cert" #f))
             :private-key (option "--key" "")
             :alpn (split-at-commas (option "--alpn" ""))
             (if (option "--client-ca" #f)
                 (list :client-ca (option "--client-ca" #f) :client-required? #f)
                 '())))
      :on-start (called (lambda (server) (say "listening on ~a" (server-address server))))
      :on-stop (called (lambda (server) (void)))
      :on-open (called (lambda (server socket) (void)))
      :on-drain (called on-drain)
      :on-close (called on-close)
      :exception-handler (and (not (option "--no-handler" #f)) (called handle-exception)))))

(define server
  (guard (failure [(netserver-error? failure)
                   (format (console-error-port) "checker: ~a\n" (condition-message failure))
                   (exit 1)])
    (let ([server (make-it)])
      (server-start! server (if hosted? :hosted :background) #t)
      server)))

(let loop ()
  (unless (or ending (server-stopped? server))
    (if hosted? (server-run-once! server 100) (server-wait server 100))
    (loop)))

(case ending
  [(exit) (exit 7)]
  [(throw) (error 'checker "thrown")]
  [(return) (void)]
  [(#f)
   (server-free! server)
   (say "stopped")])
