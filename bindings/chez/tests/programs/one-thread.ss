;; One thread: each client gets one answer, one client after another.
(import (net server) (sagittarius socket))

(define (answer server socket)
  (let ((received (socket-recv socket 255)))
    (socket-send socket received)))

(define echo-server (make-simple-server "5000" answer))

(server-start! echo-server)
