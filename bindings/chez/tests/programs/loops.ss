;; Five loops: any number of clients, each as long as it likes.
(import (net server) (sagittarius socket))

(define config (make-server-config :max-thread 5 :non-blocking? #t))

(define (answer server socket)
  (let ((received (socket-recv socket 255)))
    (if (eof-object? received)
        (socket-close socket)
        (socket-send socket received))))

(define echo-server (make-simple-server "5000" answer :config config))

(server-start! echo-server)
