;;; Certificates and what belongs to them.
(library (netserver tls)
  (export make-tls tls? tls-pointer tls-add-certificate! tls-set-ticket-keys!)
  (import (chezscheme) (netserver condition) (netserver foreign) (netserver keywords))

  (define-record-type (tls make-tls-record tls?)
    (fields pointer)
    (nongenerative)
    (opaque #t))

  ;; Those that nothing refers to are freed when another one is made; a server has its own share.
  (define unreachable (make-guardian))

  (define (free-unreachable!)
    (let ([tls (unreachable)])
      (when tls
        (ns_tls_free (tls-pointer tls))
        (free-unreachable!))))

  (define keywords
    '(:certificates :private-key :server-name :client-ca :client-required? :alpn :min-version
      :tickets? :session-cache :ticket-keys))

  ;; (make-tls :certificates '("chain.pem") :private-key "key.pem"). `:client-ca` is a file or PEM
  ;; text, `:alpn` a list of names, `:min-version` "1.2" or "1.3", `:ticket-keys` as those of
  ;; tls-set-ticket-keys!.
  (define (make-tls . arguments)
    (let* ([options (keywords->alist 'make-tls keywords arguments)]
           [tls (make-tls-record (ns_tls_new))]
           [pointer (tls-pointer tls)])
      (define-syntax when-given
        (syntax-rules ()
          [(_ keyword (value) body ...)
           (let ([entry (assq keyword options)])
             (when entry (let ([value (cdr entry)]) body ...)))]))
      (free-unreachable!)
      (unreachable tls)
      (when-given :certificates (certificates)
        (tls-add-certificate! tls certificates
                              (keyword-value options :private-key #f)
                              (keyword-value options :server-name #f)))
      (when-given :client-ca (authorities)
        (add-authorities! pointer authorities (keyword-value options :client-required? #t)))
      (when-given :alpn (protocols) (set-alpn! pointer protocols))
      (when-given :min-version (version)
        (check 'make-tls (ns_tls_set_min_version pointer (version-number version))))
      (when-given :tickets? (tickets?)
        (check 'make-tls (ns_tls_set_tickets pointer (if tickets? 1 0))))
      (when-given :session-cache (sessions)
        (check 'make-tls (ns_tls_set_session_cache pointer sessions)))
      (when-given :ticket-keys (keys) (tls-set-ticket-keys! tls keys))
      tls))

  ;; Sets the keys of tickets, with which other processes resume the sessions of this one: a
  ;; bytevector of 1 to 16 keys of 80 random bytes, one behind the other. The first seals tickets,
  ;; each opens those that it sealed, for 12 hours. At any time, also when the object is in use: to
  ;; rotate, give all processes the new key as the second one, then as the first. A key is as secret
  ;; as the certificate's.
  (define (tls-set-ticket-keys! tls keys)
    (let* ([length (bytevector-length keys)]
           [status (ns_tls_set_ticket_keys (tls-pointer tls) keys length)])
      (when (eq? (status->symbol status) 'invalid)
        (raise (make-netserver-error 'tls-set-ticket-keys! 'invalid
                 (format "ticket keys are 1 to 16 times 80 bytes, not ~a" length))))
      (check 'tls-set-ticket-keys! status)
      (void)))

  (define (version-number version)
    (cond
      [(equal? version "1.2") #x0303]
      [(equal? version "1.3") #x0304]
      [else (assertion-violation 'make-tls "not a version of TLS" version)]))

  (define (pem? text)
    (let ([mark "-----BEGIN "])
      (let loop ([i 0])
        (and (<= (+ i (string-length mark)) (string-length text))
             (or (string=? (substring text i (+ i (string-length mark))) mark)
                 (loop (+ i 1)))))))

  ;; `certificates` is a list: one string, a file or PEM text with the whole chain; or bytevectors,
  ;; each a certificate in DER, the server's own first. The key is of the same kind. `server-name`:
  ;; the name that clients ask for; #f: all other names.
  (define tls-add-certificate!
    (case-lambda
      [(tls certificates key) (tls-add-certificate! tls certificates key #f)]
      [(tls certificates key server-name)
       (let ([add! (cond
                     [(and (pair? certificates) (for-all bytevector? certificates)
                           (bytevector? key))
                      add-der!]
                     [(and (pair? certificates) (null? (cdr certificates))
                           (string? (car certificates)) (string? key))
                      add-pem!]
                     [else
                      (assertion-violation 'tls-add-certificate!
                        "not a file or PEM text with its key, nor DER with its key"
                        certificates)])])
         (call-with-error 'tls-add-certificate!
           (lambda (error)
             (add! (tls-pointer tls) (text-for-c 'make-tls server-name) certificates key error)))
         (void))]))

  (define (add-pem! pointer server-name certificates key error)
    (define chain (car certificates))
    (if (or (pem? chain) (pem? key))
        (let ([chain (string->utf8 chain)] [key (string->utf8 key)])
          (ns_tls_add_cert_pem pointer server-name chain (bytevector-length chain)
                               key (bytevector-length key) error))
        (ns_tls_add_cert_file pointer server-name (text-for-c 'make-tls chain)
                              (text-for-c 'make-tls key) error)))

  (define (add-der! pointer server-name certificates key error)
    (with-pieces certificates
      (lambda (pointers lengths count)
        (ns_tls_add_cert_der pointer server-name pointers lengths count
                             key (bytevector-length key) error))))

  (define (add-authorities! pointer authorities required?)
    (call-with-error 'make-tls
      (lambda (error)
        (let ([required (if required? 1 0)])
          (if (pem? authorities)
              (let ([text (string->utf8 authorities)])
                (ns_tls_set_client_ca_pem pointer text (bytevector-length text) required error))
              (ns_tls_set_client_ca_file
                pointer (text-for-c 'make-tls authorities) required error))))))

  (define (set-alpn! pointer protocols)
    (check 'make-tls
      (with-pieces
        (map (lambda (protocol)
               (string->utf8 (string-append (text-for-c 'make-tls protocol) "\x0;")))
             protocols)
        (lambda (pointers lengths count) (ns_tls_set_alpn pointer pointers count))))))
