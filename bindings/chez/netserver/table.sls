;;; The objects that the C side refers to, by number. As long as an object is here it is not
;;; collected, and C holds nothing but its number, which is never 0.
(library (netserver table)
  (export object-add! object-ref object-remove! object-weaken! object-strengthen! object-count
          call-with-table-locked)
  (import (chezscheme))

  (define lock (make-mutex))
  (define slots (make-vector 64 #f)) ; a free slot holds the number of the next free one
  (define first-free 0)              ; 0: none
  (define used 1)                    ; slots beyond were never used; slot 0 is not used
  (define count 0)

  ;; A thread that waits for the lock cannot take part in a collection, so whoever holds it must
  ;; not stop for one.
  (define-syntax with-lock
    (syntax-rules ()
      [(_ body ...)
       (with-interrupts-disabled
         (mutex-acquire lock)
         (let ([result (let () body ...)])
           (mutex-release lock)
           result))]))

  (define (grow!)
    (let ([larger (make-vector (* 2 (vector-length slots)) #f)])
      (do ([i 1 (fx+ i 1)])
          ((fx= i used))
        (vector-set! larger i (vector-ref slots i)))
      (set! slots larger)))

  (define (object-add! object)
    (with-lock
      (set! count (fx+ count 1))
      (cond
        [(fx= first-free 0)
         (when (fx= used (vector-length slots)) (grow!))
         (vector-set! slots used object)
         (set! used (fx+ used 1))
         (fx- used 1)]
        [else
         (let ([number first-free])
           (set! first-free (vector-ref slots number))
           (vector-set! slots number object)
           number)])))

  ;; Takes no lock: C got the number after the object was stored, and hands it from thread to thread
  ;; with its own synchronisation.
  (define (object-ref number)
    (let ([object (vector-ref slots number)])
      (if (weak-pair? object) (car object) object)))

  (define (object-remove! number)
    (with-lock
      (set! count (fx- count 1))
      (vector-set! slots number first-free)
      (set! first-free number)))

  ;; From now on the table does not keep the object from being collected.
  (define (object-weaken! number)
    (with-lock
      (let ([object (vector-ref slots number)])
        (unless (weak-pair? object)
          (vector-set! slots number (weak-cons object #f))))))

  (define (object-strengthen! number object)
    (with-lock (vector-set! slots number object)))

  (define (object-count) (with-lock count))

  (define (call-with-table-locked thunk) (with-lock (thunk))))
