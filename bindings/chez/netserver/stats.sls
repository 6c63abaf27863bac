;;; Counters of a server and a report for people.
(library (netserver stats)
  (export
    server-stats server-thread-stats server-report server-metrics netserver-version
    netserver-feature?)
  (import (chezscheme) (netserver condition) (netserver foreign) (netserver types))

  (define small '(state non-blocking? threads active-threads port shutdown-port))
  (define large
    '(uptime accepted attached adopted refused open waiting detached drained cut bytes-in
      bytes-out handler-errors accept-errors handshakes handshake-failures))
  (define reasons 32)
  (define (numbers buffer names start width)
    (map (lambda (name i)
           (cons name
                 (if (eqv? width 4)
                     (bytevector-u32-native-ref buffer (+ start (* 4 i)))
                     (bytevector-u64-native-ref buffer (+ start (* 8 i))))))
         names (iota (length names))))

  ;; An association list; `closed` has one of how many connections ended for each reason.
  (define (server-stats server)
    (let* ([pointer (server-live-pointer 'server-stats server)]
           [large-start (* 4 (length small))]
           [closed-start (+ large-start (* 8 (length large)))]
           [resets-start (+ closed-start (* 8 reasons))]
           [size (+ resets-start 8)]
           [buffer (make-bytevector size)])
      (check 'server-stats (ns_server_stats pointer buffer size))
      (append
        (map (lambda (entry)
               (case (car entry)
                 [(state) (cons 'state (state->symbol (cdr entry)))]
                 [(non-blocking?) (cons 'non-blocking? (eqv? (cdr entry) 1))]
                 [else entry]))
             (numbers buffer small 0 4))
        (numbers buffer large large-start 8)
        (numbers buffer '(peer-resets) resets-start 8)
        (list (cons 'closed (closed buffer closed-start))))))

  (define (closed buffer start)
    (let loop ([reason 1])
      (if (eqv? reason reasons)
          '()
          (let ([name (ns_close_reason_name reason)])
            (if (string=? name "unknown")
                (loop (+ reason 1))
                (cons (cons (string->symbol name)
                            (bytevector-u64-native-ref buffer (+ start (* 8 reason))))
                      (loop (+ reason 1))))))))

  ;; The same for one worker or loop, from 0 on.
  (define (server-thread-stats server thread)
    (let* ([pointer (server-live-pointer 'server-thread-stats server)]
           [buffer (make-bytevector 56)])
      (check 'server-thread-stats (ns_server_thread_stats pointer thread buffer 56))
      (cons (cons 'index (bytevector-u32-native-ref buffer 0))
            (numbers buffer '(active accepted bytes-in bytes-out calls handler-errors) 8 8))))

  (define (server-report server)
    (let ([pointer (server-live-pointer 'server-report server)])
      (text-of (lambda (buffer size) (ns_server_report pointer buffer size)))))

  ;; The counters in the format of Prometheus.
  (define (server-metrics server)
    (let ([pointer (server-live-pointer 'server-metrics server)])
      (text-of (lambda (buffer size) (ns_server_metrics pointer buffer size)))))

  (define (netserver-version) (ns_version_string))
  (define (netserver-feature? name) (not (eqv? (ns_has_feature name) 0))))
