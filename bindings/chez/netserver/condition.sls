;;; The failures of the library as conditions, and what its functions return in Scheme's terms.
(library (netserver condition)
  (export
    &netserver netserver-error? netserver-error-status netserver-error-os-code
    netserver-error-handler-code make-netserver-error
    status->symbol symbol->status status-message WOULD-BLOCK
    check call-with-error error->condition text-of text-for-c
    with-c-string with-pieces)
  (import (chezscheme) (netserver foreign) (netserver table))

  (define-condition-type &netserver &error make-netserver-condition netserver-error?
    (status netserver-error-status)
    (os-code netserver-error-os-code)
    (handler-code netserver-error-handler-code))

  ;; -1002 <-> state, as the library names it: NS_ERR_STATE.
  (define (name->symbol name)
    (string->symbol
      (list->string
        (map (lambda (c) (if (char=? c #\_) #\- (char-downcase c)))
             (string->list (substring name 7 (string-length name)))))))

  (define statuses
    (let loop ([code -1099])
      (let ([name (ns_status_name code)])
        (cond
          [(> code -1001) '()]
          [(string=? name "NS_ERR_UNKNOWN") (loop (+ code 1))]
          [else (cons (cons code (name->symbol name)) (loop (+ code 1)))]))))

  (define (status->symbol code)
    (cond
      [(fx>= code 0) 'ok]
      [(assv code statuses) => cdr]
      [else 'handler]))

  (define (symbol->status status)
    (let ([entry (find (lambda (entry) (eq? (cdr entry) status)) statuses)])
      (unless entry (assertion-violation 'symbol->status "unknown status" status))
      (car entry)))

  (define (status-message status) (ns_status_message (symbol->status status)))

  (define WOULD-BLOCK (symbol->status 'would-block))

  (define (compose who status os-code handler-code message)
    (let ([error (condition (make-netserver-condition status os-code handler-code)
                            (make-message-condition message))])
      (if who (condition (make-who-condition who) error) error)))

  ;; A condition with a status of the library's; a program may raise it in a handler.
  (define make-netserver-error
    (case-lambda
      [(status) (make-netserver-error #f status)]
      [(who status) (make-netserver-error who status (status-message status))]
      [(who status message)
       (symbol->status status)
       (compose who status 0 0 message)]))

  (define (check who result)
    (if (< result 0)
        (raise (make-netserver-error who (status->symbol result)))
        result))

  ;; What was raised, the very object, where the error has one.
  (define (error->condition who error)
    (let ([payload (ns_error_payload error)])
      (if (eqv? payload NULL)
          (compose who
                   (status->symbol (ns_error_status error))
                   (ns_error_os_code error)
                   (ns_error_handler_code error)
                   (ns_error_message error))
          (object-ref payload))))

  ;; Calls `procedure` with the address of an `ns_error *`, and raises what it finds there then.
  (define (call-with-error who procedure)
    (let ([place (foreign-alloc 8)])
      (foreign-set! 'uptr place 0 NULL)
      (let* ([result (procedure place)]
             [error (foreign-ref 'uptr place 0)])
        (foreign-free place)
        (unless (eqv? error NULL)
          (let ([failure (error->condition who error)])
            (ns_error_free error)
            (raise failure)))
        result)))

  ;; The text that a function writes as snprintf does.
  (define (text-of write)
    (let loop ([size 256])
      (let* ([buffer (make-bytevector size)]
             [length (write buffer size)])
        (if (< length size)
            (utf8->string (bytevector-truncate! buffer length))
            (loop (+ length 64))))))

  ;; A text for C (#f: none), which ends it at its first NUL: so there must be none.
  (define (text-for-c who text)
    (when (and text (memv #\nul (string->list text)))
      (raise (make-netserver-error who 'invalid (format "~s has a NUL" text))))
    text)

  ;; A copy in C's memory, to be freed.
  (define (copy-of bytes)
    (let* ([length (bytevector-length bytes)]
           [place (foreign-alloc (max length 1))])
      (copy-out! place bytes length)
      place))

  ;; Calls `procedure` with a copy in C's memory, for a call that may wait.
  (define (with-c-string text procedure)
    (let* ([place (copy-of (string->utf8 (string-append text "\x0;")))]
           [result (procedure place)])
      (foreign-free place)
      result))

  ;; Calls `procedure`, which raises nothing, with two arrays, of pointers to copies of the
  ;; bytevectors and of their lengths, and with how many they are.
  (define (with-pieces pieces procedure)
    (let* ([count (length pieces)]
           [pointers (foreign-alloc (* 8 (max count 1)))]
           [lengths (foreign-alloc (* 8 (max count 1)))]
           [places (map copy-of pieces)])
      (for-each
        (lambda (piece place i)
          (foreign-set! 'uptr pointers (* 8 i) place)
          (foreign-set! 'size_t lengths (* 8 i) (bytevector-length piece)))
        pieces places (iota count))
      (let ([result (procedure pointers lengths count)])
        (for-each foreign-free (cons* pointers lengths places))
        result))))
