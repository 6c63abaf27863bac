;;; The sockets of Sagittarius Scheme, as far as a server needs them: those that a handler gets.
(library (sagittarius socket)
  (export
    socket? socket-recv socket-recv! socket-send socket-shutdown socket-close socket-closed?
    socket-fd socket-peer socket-port socket-input-port socket-output-port
    SHUT_RD SHUT_WR SHUT_RDWR)
  (import (chezscheme) (netserver))

  (define SHUT_RD 0)
  (define SHUT_WR 1)
  (define SHUT_RDWR 2)

  ;; -- binary ports, for sockets whose calls wait --------------------------------------------

  (define (reader socket)
    (lambda (buffer start count)
      (let ([result (socket-recv! socket buffer start count)])
        (cond
          [(eof-object? result) 0]
          [result result]
          [else (raise (make-netserver-error 'socket-port 'would-block))]))))

  (define (writer socket)
    (lambda (bytes start count)
      (if (eqv? count 0)
          0
          (socket-send socket bytes start count))))

  (define (closer socket)
    (lambda () (socket-close socket)))

  (define (socket-port socket)
    (make-custom-binary-input/output-port "socket" (reader socket) (writer socket)
                                          #f #f (closer socket)))

  (define (socket-input-port socket)
    (make-custom-binary-input-port "socket" (reader socket) #f #f (closer socket)))

  (define (socket-output-port socket)
    (make-custom-binary-output-port "socket" (writer socket) #f #f (closer socket))))
