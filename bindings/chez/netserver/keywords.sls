;;; Keywords: `:name` is a variable whose value is the symbol `:name`, so that a program can write
;;; (make-server-config :max-thread 5).
(library (netserver keywords)
  (export
    :max-thread :max-retry :retry-interval :max-waiting :non-blocking? :use-ipv6? :reuse-port?
    :thread-name :stack-size :unix-mode :max-connections :max-per-address :accept-rate-per-address
    :accept-burst-per-address :ipv4-prefix :ipv6-prefix :backlog :handshake-timeout
    :max-handshakes :idle-timeout :io-timeout :write-timeout :linger-timeout :drain-timeout
    :keep-alive :no-delay? :high-water-mark :low-water-mark :send-limit :send-limit-total
    :shutdown-port :tls
    :exception-handler :shutdown-handler :on-start :on-stop :on-thread-start :on-thread-stop
    :on-open :on-close :on-drain :on-timeout :on-wake
    :secure? :certificates :private-key
    :config :context :hooks :background :hosted :within
    :server-name :client-ca :client-required? :alpn :min-version :tickets? :session-cache
    :ticket-keys
    keywords->alist alist->keywords split-keywords keyword-value)
  (import (chezscheme))

  (define-syntax define-keywords
    (syntax-rules ()
      [(_ name ...) (begin (define name 'name) ...)]))

  (define-keywords
    :max-thread :max-retry :retry-interval :max-waiting :non-blocking? :use-ipv6? :reuse-port?
    :thread-name :stack-size :unix-mode :max-connections :max-per-address :accept-rate-per-address
    :accept-burst-per-address :ipv4-prefix :ipv6-prefix :backlog :handshake-timeout
    :max-handshakes :idle-timeout :io-timeout :write-timeout :linger-timeout :drain-timeout
    :keep-alive :no-delay? :high-water-mark :low-water-mark :send-limit :send-limit-total
    :shutdown-port :tls
    :exception-handler :shutdown-handler :on-start :on-stop :on-thread-start :on-thread-stop
    :on-open :on-close :on-drain :on-timeout :on-wake
    :secure? :certificates :private-key
    :config :context :hooks :background :hosted :within
    :server-name :client-ca :client-required? :alpn :min-version :tickets? :session-cache
    :ticket-keys)

  ;; (:a 1 :b 2) -> ((:a . 1) (:b . 2)). `known` lists the keywords that `who` takes; #f: all.
  (define (keywords->alist who known arguments)
    (let loop ([rest arguments])
      (cond
        [(null? rest) '()]
        [(not (symbol? (car rest))) (assertion-violation who "not a keyword" (car rest))]
        [(and known (not (memq (car rest) known)))
         (assertion-violation who "unknown keyword" (car rest))]
        [(null? (cdr rest)) (assertion-violation who "no value for the keyword" (car rest))]
        [else (cons (cons (car rest) (cadr rest)) (loop (cddr rest)))])))

  (define (alist->keywords alist)
    (fold-right (lambda (entry rest) (cons* (car entry) (cdr entry) rest)) '() alist))

  ;; Two values: an association list of those that `own` lists, and the other arguments.
  (define (split-keywords who own arguments)
    (let-values ([(mine others)
                  (partition (lambda (entry) (memq (car entry) own))
                             (keywords->alist who #f arguments))])
      (values mine (alist->keywords others))))

  (define (keyword-value alist keyword default)
    (let ([entry (assq keyword alist)])
      (if entry (cdr entry) default))))
