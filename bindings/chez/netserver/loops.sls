;;; Calls from any thread: connections by their ids; timers, tasks and watches of a loop.
(library (netserver loops)
  (export
    server-send server-close server-abort server-wake server-broadcast server-broadcast-each
    server-queued server-shutdown server-connections
    server-post server-timer server-timer-cancel server-watch server-watch-change server-unwatch
    server-adopt server-connect)
  (import (chezscheme) (netserver callbacks) (netserver condition) (netserver foreign)
          (netserver table) (netserver types))

  (define-syntax define-by-id
    (syntax-rules ()
      [(_ (name function argument ...) ...)
       (begin
         (define (name server id argument ...)
           (check 'name (function (server-live-pointer 'name server) id argument ...))
           (void)) ...)]))

  (define-by-id
    (server-close ns_server_close)
    (server-abort ns_server_abort)
    (server-wake ns_server_wake)
    (server-shutdown ns_server_shutdown how))

  ;; Returns when the bytes are accepted, which is not yet delivered.
  (define (server-send server id bytes)
    (check 'server-send
      (ns_server_send (server-live-pointer 'server-send server)
                      id bytes (bytevector-length bytes)))
    (void))

  ;; How many bytes were accepted and are not with the kernel.
  (define (server-queued server id)
    (check 'server-queued (ns_server_queued (server-live-pointer 'server-queued server) id)))

  (define (ids->array ids)
    (let ([array (make-bytevector (* 8 (length ids)))])
      (do ([ids ids (cdr ids)] [i 0 (+ i 8)])
          ((null? ids) array)
        (bytevector-u64-native-set! array i (car ids)))))

  ;; Sends the same bytes to each connection of a list. Returns how many accepted them.
  (define (server-broadcast server ids bytes)
    (check 'server-broadcast
      (ns_server_broadcast (server-live-pointer 'server-broadcast server)
                           (ids->array ids) (length ids) bytes (bytevector-length bytes))))

  ;; Also returns, as a second value, a list of how it went with each: ok, closed, buffer-full.
  (define (server-broadcast-each server ids bytes)
    (let* ([count (length ids)]
           [statuses (make-bytevector (* 4 count))]
           [accepted
            (check 'server-broadcast-each
              (ns_server_broadcast_each (server-live-pointer 'server-broadcast-each server)
                (ids->array ids) count bytes (bytevector-length bytes) statuses))])
      (values accepted
              (map (lambda (i) (status->symbol (bytevector-s32-native-ref statuses (* 4 i))))
                   (iota count)))))

  ;; The ids of the connections that are open now.
  (define (server-connections server)
    (let* ([ids (box '())]
           [number (object-add! ids)]
           [result (ns_server_foreach (server-live-pointer 'server-connections server)
                                      foreach-entry number)])
      (object-remove! number)
      (check 'server-connections result)
      (unbox ids)))

  ;; -- on a loop -----------------------------------------------------------------------------

  (define (add-task! server procedure) (object-add! (make-task server procedure)))

  ;; Has a loop call (procedure server) once.
  (define server-post
    (case-lambda
      [(server procedure) (server-post server 0 procedure)]
      [(server loop procedure)
       (let ([pointer (server-live-pointer 'server-post server)])
         (check 'server-post
           (ns_server_post pointer loop task-entry (add-task! server procedure) drop-entry))
         (void))]))

  ;; Has a loop call (procedure server id) after `first` milliseconds, and then every `repeat`, if
  ;; that is not 0. Returns the timer's id.
  (define server-timer
    (case-lambda
      [(server first procedure) (server-timer server 0 first 0 procedure)]
      [(server first repeat procedure) (server-timer server 0 first repeat procedure)]
      [(server loop first repeat procedure)
       (let ([pointer (server-live-pointer 'server-timer server)])
         (call-with-error 'server-timer
           (lambda (error)
             (ns_server_timer pointer loop first repeat timer-entry
                              (add-task! server procedure) drop-entry error))))]))

  (define (event-bits who events)
    (fold-left
      (lambda (bits event)
        (fxior bits
          (case event
            [(read) 1]
            [(write) 2]
            [else (assertion-violation who "an event is read or write" event)])))
      0 events))

  ;; Has a loop call (procedure server id fd events) as long as the descriptor is ready. `events`
  ;; is a list of read and write. Returns the watch's id.
  (define server-watch
    (case-lambda
      [(server fd events procedure) (server-watch server 0 fd events procedure)]
      [(server loop fd events procedure)
       (let ([pointer (server-live-pointer 'server-watch server)]
             [bits (event-bits 'server-watch events)])
         (call-with-error 'server-watch
           (lambda (error)
             (ns_server_watch pointer loop fd bits watch-entry
                              (add-task! server procedure) drop-entry error))))]))

  (define-by-id
    (server-timer-cancel ns_server_timer_cancel)
    (server-unwatch ns_server_unwatch))

  (define (server-watch-change server id events)
    (check 'server-watch-change
      (ns_server_watch_change (server-live-pointer 'server-watch-change server)
                              id (event-bits 'server-watch-change events)))
    (void))

  ;; -- sockets of the program's own ----------------------------------------------------------

  (define (add-socket! data) (object-add! (make-socket-record NULL 0 #f data)))

  ;; Makes a connection of a connected stream socket, with `data` as its socket-data. Returns its
  ;; id.
  (define server-adopt
    (case-lambda
      [(server fd) (server-adopt server fd #f)]
      [(server fd data)
       (let ([pointer (server-live-pointer 'server-adopt server)])
         (call-with-error 'server-adopt
           (lambda (error)
             (ns_server_adopt pointer fd (add-socket! data) drop-entry error))))]))

  ;; Connects to "host:port" or "unix:/path", within `timeout` milliseconds (0: the kernel's time),
  ;; and makes a connection of it.
  (define server-connect
    (case-lambda
      [(server service) (server-connect server service 0 #f)]
      [(server service timeout) (server-connect server service timeout #f)]
      [(server service timeout data)
       (let ([pointer (server-live-pointer 'server-connect server)])
         (with-c-string (text-for-c 'server-connect service)
           (lambda (service)
             (call-with-error 'server-connect
               (lambda (error)
                 (ns_server_connect pointer service timeout
                                    (add-socket! data) drop-entry error))))))])))
