;;; echo: sends back what it receives, in either mode, until SIGINT or SIGTERM.
;;;
;;;   echo.ss [-n] [-t THREADS] [--cert FILE --key FILE] [--shutdown-port P] [SERVICE]
;;;
;;;   -n                 non-blocking mode: event loops, any number of connections
;;;   -t THREADS         workers (blocking mode) or event loops (1)
;;;   --cert FILE        TLS with this certificate chain (PEM), and
;;;   --key FILE         its private key (PEM)
;;;   --shutdown-port P  a connection to this port stops the server
;;;   SERVICE            where to listen (5000); 0 takes any free port
(import (chezscheme) (netserver))

(define (usage)
  (put-string (console-error-port)
    "usage: echo.ss [-n] [-t THREADS] [--cert FILE --key FILE] [--shutdown-port P] [SERVICE]\n")
  (exit 2))

;; Returns the service and the options that were given.
(define (parse arguments)
  (let loop ([rest arguments] [options '()])
    (cond
      [(null? rest) (values "5000" options)]
      [(string=? (car rest) "-n") (loop (cdr rest) (cons '(non-blocking . #t) options))]
      [(and (member (car rest) '("-t" "--cert" "--key" "--shutdown-port")) (pair? (cdr rest)))
       (loop (cddr rest) (cons (cons (string->symbol (car rest)) (cadr rest)) options))]
      [(and (null? (cdr rest)) (not (string=? (substring (car rest) 0 1) "-")))
       (values (car rest) options)]
      [else (usage)])))

(define (threads text)
  (let ([count (string->number text)])
    (if (and (fixnum? count) (<= 1 count 4096)) count (usage))))

(define (echo server socket)
  (let ([bytes (socket-recv socket 65536)])
    (cond
      [(eof-object? bytes) (socket-close socket)]
      [bytes
       (socket-send socket bytes)
       ;; A loop calls again where input is left.
       (unless (config-ref (server-config server) :non-blocking?)
         (echo server socket))])))

;; A client that goes away is no event: any number may.
(define (say-what-failed server socket failure)
  (unless (and (netserver-error? failure)
               (memq (netserver-error-status failure) '(reset truncated handshake closed)))
    (format (console-error-port) "echo: ~a\n" (condition-message failure)))
  (when socket (socket-close socket)))

(define (say-listening server)
  (printf "listening on ~a\n" (server-address server))
  (flush-output-port))

(define (serve service options)
  (define (option name default)
    (let ([entry (assq name options)])
      (if entry (cdr entry) default)))
  (define cert (option '--cert #f))
  (define key (option '--key #f))
  (define server
    (make-server service echo
      (make-config
        :non-blocking? (option 'non-blocking #f)
        :max-thread (threads (option '-t "1"))
        :shutdown-port (option '--shutdown-port #f)
        :tls (and cert key (make-tls :certificates (list cert) :private-key key))
        :drain-timeout 500
        :exception-handler say-what-failed
        :on-start say-listening)))
  (define (stop . ignored) (server-request-stop! server))
  (keyboard-interrupt-handler stop)
  (register-signal-handler 15 stop)
  (server-start! server)
  (server-free! server))

(let-values ([(service options) (parse (command-line-arguments))])
  (unless (eq? (and (assq '--cert options) #t) (and (assq '--key options) #t)) (usage))
  (guard (failure [(netserver-error? failure)
                   (format (console-error-port) "echo: ~a\n" (condition-message failure))
                   (exit 1)])
    (serve service options)))
