;;; netserver in Scheme: a server inside your program. The libraries (net server) and
;;; (sagittarius socket) are the small door to it; this is everything.
(library (netserver)
  (export
    ;; servers
    make-server server? server-config server-context server-start! server-quiesce! server-stop!
    server-request-stop! server-wait server-run-once! server-poll-fd server-free!
    server-stopped? server-state server-port server-shutdown-port server-address
    server-add-service! server-service-address server-reload-tls!
    ;; settings and certificates
    make-config config? config-ref make-tls tls? tls-add-certificate! tls-set-ticket-keys!
    ;; connections in their callbacks, and owned ones
    socket? socket-recv socket-recv! socket-send socket-sendv socket-flush socket-cork
    socket-uncork
    socket-shutdown socket-close socket-abort socket-closed? socket-id socket-fd socket-service
    socket-peer-credentials socket-queued socket-os-error socket-set-timer!
    socket-set-io-timeout! socket-pause! socket-resume! socket-peer socket-local
    socket-peer-address socket-local-address socket-starttls! socket-tls-info
    socket-peer-certificate socket-peer-subject socket-data socket-data-set!
    server-detach-socket! server-attach-socket! socket-owned? socket-release-fd! fd->socket
    ;; connections by id, from any thread
    server-send server-close server-abort server-wake server-broadcast server-broadcast-each
    server-queued server-shutdown server-connections
    ;; loops
    server-post server-timer server-timer-cancel server-watch server-watch-change server-unwatch
    server-adopt server-connect
    ;; counters, errors, version
    server-stats server-thread-stats server-report server-metrics
    &netserver netserver-error? netserver-error-status netserver-error-os-code
    netserver-error-handler-code make-netserver-error
    netserver-fork netserver-object-count netserver-version netserver-feature?)
  (import (chezscheme) (netserver callbacks) (netserver condition) (netserver config)
          (netserver keywords) (netserver loops) (netserver server) (netserver socket)
          (netserver stats) (rename (netserver table) (object-count netserver-object-count))
          (netserver tls) (netserver types))
  (export (import (except (netserver keywords) keywords->alist alist->keywords split-keywords
                          keyword-value))))
