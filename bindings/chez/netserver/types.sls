;;; What servers and connections are in Scheme.
(library (netserver types)
  (export
    server? make-server-record server-pointer server-pointer-set! server-number server-config
    server-handler server-waits? server-context
    server-process server-hooks server-options server-options-set!
    make-server-hooks server-hooks? hooks-start hooks-stop
    server-live-pointer state->symbol
    socket? make-socket-record socket-pointer socket-pointer-set! socket-thread
    socket-thread-set! socket-waits? socket-waits?-set!
    socket-data socket-data-set! socket-live-pointer)
  (import (chezscheme) (netserver condition) (netserver foreign))

  (define-record-type (server make-server-record server?)
    (fields
      (mutable pointer)    ; 0: freed
      number               ; in the table
      config
      handler
      waits?               ; whether calls of its sockets may wait: blocking mode
      context              ; the program's own
      process              ; that made it
      hooks                ; of (net server); #f: none
      (mutable options))   ; the keywords that the next hook gets
    (nongenerative)
    (opaque #t))

  ;; Procedures that run when a server starts and when it has stopped; #f: none.
  (define-record-type (hooks make-server-hooks server-hooks?)
    (fields start stop)
    (nongenerative)
    (opaque #t))

  (define-record-type (socket make-socket-record socket?)
    (fields
      (mutable pointer)  ; 0: in no callback, or closed
      (mutable thread)   ; whose callback borrows it; #f: the program owns it
      (mutable waits?)   ; whether calls may wait
      (mutable data))    ; the program's own
    (nongenerative)
    (opaque #t))

  (define (state->symbol state)
    (vector-ref '#(new starting running stopping stopped quiescing) state))

  (define (server-live-pointer who server)
    (let ([pointer (server-pointer server)])
      (when (eqv? pointer NULL)
        (raise (make-netserver-error who 'state "the server was freed")))
      pointer))

  ;; The pointer that C may get now: a borrowed one is valid in its callback alone.
  (define (socket-live-pointer who socket)
    (let ([pointer (socket-pointer socket)]
          [thread (socket-thread socket)])
      (when (eqv? pointer NULL)
        (raise (make-netserver-error who (if thread 'not-in-handler 'closed))))
      (when (and thread (not (fx= thread (get-thread-id))))
        (raise (make-netserver-error who 'not-in-handler)))
      pointer)))
