;;; Settings of servers, with the defaults of the library. Times are in milliseconds.
(library (netserver config)
  (export make-config config? config-ref config-settings-table config-settings)
  (import (chezscheme) (netserver condition) (netserver foreign) (netserver keywords)
          (netserver tls))

  (define-record-type (config make-config-record config?)
    (fields settings) ; ((keyword . value) ...)
    (nongenerative)
    (opaque #t))

  ;; (keyword name-in-C type)
  (define config-settings-table
    '((:max-thread "max_thread" unsigned-32)
      (:max-retry "max_retry" unsigned-32)
      (:retry-interval "retry_interval_ms" unsigned-32)
      (:max-waiting "max_waiting" unsigned-32)
      (:non-blocking? "non_blocking" flag)
      (:use-ipv6? "use_ipv6" flag)
      (:reuse-port? "reuse_port" flag)
      (:thread-name "thread_name" string)
      (:stack-size "stack_size" size_t)
      (:unix-mode "unix_mode" unsigned-32)
      (:max-connections "max_connections" unsigned-32)
      (:max-per-address "max_per_address" unsigned-32)
      (:accept-rate-per-address "accept_rate_per_address" unsigned-32)
      (:accept-burst-per-address "accept_burst_per_address" unsigned-32)
      (:ipv4-prefix "ipv4_prefix" unsigned-32)
      (:ipv6-prefix "ipv6_prefix" unsigned-32)
      (:backlog "backlog" unsigned-32)
      (:handshake-timeout "handshake_timeout_ms" unsigned-32)
      (:max-handshakes "max_handshakes" unsigned-32)
      (:idle-timeout "idle_timeout_ms" unsigned-32)
      (:io-timeout "io_timeout_ms" unsigned-32)
      (:write-timeout "write_timeout_ms" unsigned-32)
      (:linger-timeout "linger_timeout_ms" unsigned-32)
      (:drain-timeout "drain_timeout_ms" unsigned-32)
      (:keep-alive "keep_alive_ms" unsigned-32)
      (:no-delay? "no_delay" flag)
      (:high-water-mark "high_water_mark" size_t)
      (:low-water-mark "low_water_mark" size_t)
      (:send-limit "send_limit" size_t)
      (:send-limit-total "send_limit_total" size_t)
      (:shutdown-port "shutdown_port" string)))

  ;; What Scheme alone knows: procedures, #f where there is none, and the TLS object.
  (define other-keywords
    '(:tls :exception-handler :shutdown-handler :on-start :on-stop :on-thread-start
      :on-thread-stop :on-open :on-close :on-drain :on-timeout :on-wake))

  (define known (append (map car config-settings-table) other-keywords))

  ;; Each setting with the default of the library.
  (define defaults
    (let* ([pointer (ns_config_new)]
           [values
            (map (lambda (setting)
                   (let* ([type (caddr setting)]
                          [get (config-getter (cadr setting) (if (eq? type 'flag) 'int type))]
                          [value (get pointer)])
                     (cons (car setting) (if (eq? type 'flag) (not (eqv? value 0)) value))))
                 config-settings-table)])
      (ns_config_free pointer)
      values))

  ;; (make-config :max-thread 4 :on-open (lambda (server socket) …)); #f is the default. Whether a
  ;; value is in its bounds make-server says.
  (define (make-config . arguments)
    (let ([settings (keywords->alist 'make-config known arguments)])
      (for-each (lambda (entry) (check-type (car entry) (cdr entry))) settings)
      (make-config-record settings)))

  (define (check-type keyword value)
    (define (require ok? what)
      (unless (or ok? (not value))
        (assertion-violation 'make-config (format "~a must be ~a" keyword what) value)))
    (let ([setting (assq keyword config-settings-table)])
      (cond
        [(eq? keyword ':tls) (require (tls? value) "what make-tls returned")]
        [(not setting) (require (procedure? value) "a procedure")]
        [else
         (case (caddr setting)
           [(unsigned-32)
            (require (and (integer? value) (exact? value) (<= 0 value #xffffffff))
                     "a number from 0 to 4294967295")]
           [(size_t)
            (require (and (integer? value) (exact? value) (<= 0 value (- (expt 2 64) 1)))
                     "a number from 0 to 18446744073709551615")]
           [(string)
            (require (string? value) "a string")
            (text-for-c 'make-config value)])])))

  (define (config-ref config keyword)
    (let ([entry (or (assq keyword (config-settings config)) (assq keyword defaults))])
      (cond
        [entry (cdr entry)]
        [(memq keyword known) #f]
        [else (assertion-violation 'config-ref "unknown keyword" keyword)]))))
