;; Five threads: each client gets one answer.
(import (net server) (sagittarius socket))

(define config (make-server-config :max-thread 5))

(define (answer server socket)
  (let ((received (socket-recv socket 255)))
    (socket-send socket received)))

(define echo-server (make-simple-server "5000" answer :config config))

(server-start! echo-server)
