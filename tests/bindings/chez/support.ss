;;; What the checker needs besides the binding: text, threads, system calls, SHA-256.

;; -- text ------------------------------------------------------------------------------------

(define (string-prefix? prefix text)
  (let ([length (string-length prefix)])
    (and (<= length (string-length text)) (string=? prefix (substring text 0 length)))))

;; "send 12 text" -> "send" and "12 text".
(define (split text)
  (let loop ([i 0])
    (cond
      [(= i (string-length text)) (values text "")]
      [(char=? (string-ref text i) #\space)
       (values (substring text 0 i) (substring text (+ i 1) (string-length text)))]
      [else (loop (+ i 1))])))

(define (split-at-commas text)
  (let loop ([characters (string->list text)] [word '()] [words '()])
    (define (with-word)
      (if (null? word) words (cons (list->string (reverse word)) words)))
    (cond
      [(null? characters) (reverse (with-word))]
      [(char=? (car characters) #\,) (loop (cdr characters) '() (with-word))]
      [else (loop (cdr characters) (cons (car characters) word) words)])))

(define (line text) (string->utf8 (string-append text "\n")))

(define (index-of-newline bytes)
  (let loop ([i 0])
    (cond
      [(= i (bytevector-length bytes)) #f]
      [(= (bytevector-u8-ref bytes i) 10) i]
      [else (loop (+ i 1))])))

(define (bytevector-part bytes start end)
  (let ([part (make-bytevector (- end start))])
    (bytevector-copy! bytes start part 0 (- end start))
    part))
(define (bytevector-head bytes end) (bytevector-part bytes 0 end))
(define (bytevector-from bytes start) (bytevector-part bytes start (bytevector-length bytes)))

(define (bytevector-append a b)
  (let ([both (make-bytevector (+ (bytevector-length a) (bytevector-length b)))])
    (bytevector-copy! a 0 both 0 (bytevector-length a))
    (bytevector-copy! b 0 both (bytevector-length a) (bytevector-length b))
    both))

;; not-in-handler -> NS_ERR_NOT_IN_HANDLER
(define (c-name status)
  (string-append "NS_ERR_"
    (list->string
      (map (lambda (c) (if (char=? c #\-) #\_ (char-upcase c)))
           (string->list (symbol->string status))))))

;; -- threads ---------------------------------------------------------------------------------

;; Prints a line. Ports are not safe for several threads, and who waits for the lock must not keep a
;; collection waiting.
(define print-lock (make-mutex))
(define (say . arguments)
  (let ([text (string-append (apply format arguments) "\n")])
    (with-interrupts-disabled
      (with-mutex print-lock
        (put-string (console-output-port) text)
        (flush-output-port (console-output-port))))))

;; Calls `thunk` in a thread of its own, and returns what that returns.
(define (in-thread thunk)
  (let ([lock (make-mutex)] [done (make-condition)] [result #f])
    (fork-thread
      (lambda ()
        (let ([value (thunk)])
          (with-mutex lock
            (set! result (box value))
            (condition-signal done)))))
    (with-mutex lock
      (let loop ()
        (unless result
          (condition-wait done lock)
          (loop))))
    (unbox result)))

;; -- system calls ----------------------------------------------------------------------------

(load-shared-object #f)
(define eventfd (foreign-procedure "eventfd" (unsigned-32 int) int))
(define close-fd (foreign-procedure "close" (int) int))

;; Has a child of fork(2) call the server; returns the status' name of what it got, or "none".
(define (fork-and-ask server)
  (define pipe (foreign-procedure "pipe" (u8*) int))
  (define read-fd (foreign-procedure "read" (int u8* size_t) ssize_t))
  (define write-fd (foreign-procedure "write" (int u8* size_t) ssize_t))
  (define exit-now (foreign-procedure "_exit" (int) void))
  (define wait-for (foreign-procedure "waitpid" (int uptr int) int))
  (let ([ends (make-bytevector 8)] [buffer (make-bytevector 100)])
    (pipe ends)
    (let* ([in (bytevector-s32-native-ref ends 0)]
           [out (bytevector-s32-native-ref ends 4)]
           [child (netserver-fork)])
      (when (= child 0)
        (let ([name (guard (failure [(netserver-error? failure)
                                     (string->utf8 (c-name (netserver-error-status failure)))])
                      (server-stop! server)
                      (string->utf8 "none"))])
          (write-fd out name (bytevector-length name))
          (exit-now 0)))
      (close-fd out)
      (let ([count (read-fd in buffer 100)])
        (close-fd in)
        (wait-for child 0 0)
        (utf8->string (bytevector-head buffer (max count 0)))))))

;; -- SHA-256 (FIPS 180-4) --------------------------------------------------------------------

;; The first 32 bits of the fractional parts of the square or cube roots of the first primes.
(define (root-words count power)
  (define (prime? n) (for-all (lambda (d) (> (modulo n d) 0)) (cdr (cdr (iota n)))))
  (define (integer-root n)
    (let loop ([low 0] [high (expt 2 40)])
      (if (= (- high low) 1)
          low
          (let ([middle (quotient (+ low high) 2)])
            (if (<= (expt middle power) n) (loop middle high) (loop low middle))))))
  (let loop ([n 2] [words '()])
    (cond
      [(= (length words) count) (list->vector (reverse words))]
      [(prime? n)
       (loop (+ n 1)
             (cons (bitwise-and (integer-root (* n (expt 2 (* 32 power)))) #xffffffff) words))]
      [else (loop (+ n 1) words)])))

(define (sha256-hex bytes)
  (define (word n) (bitwise-and n #xffffffff))
  (define (rotate x n)
    (word (bitwise-ior (bitwise-arithmetic-shift-right x n)
                       (bitwise-arithmetic-shift-left x (- 32 n)))))
  (define (shift x n) (bitwise-arithmetic-shift-right x n))
  (define constants (root-words 64 3))
  (define length (bytevector-length bytes))
  (define padded
    (let* ([total (* 64 (+ 1 (quotient (+ length 8) 64)))]
           [padded (make-bytevector total 0)])
      (bytevector-copy! bytes 0 padded 0 length)
      (bytevector-u8-set! padded length #x80)
      (bytevector-u64-set! padded (- total 8) (* 8 length) (endianness big))
      padded))
  (define (schedule start)
    (let ([w (make-vector 64)])
      (do ([i 0 (+ i 1)])
          ((= i 64) w)
        (vector-set! w i
          (if (< i 16)
              (bytevector-u32-ref padded (+ start (* 4 i)) (endianness big))
              (let ([a (vector-ref w (- i 15))] [b (vector-ref w (- i 2))])
                (word (+ (vector-ref w (- i 16))
                         (bitwise-xor (rotate a 7) (rotate a 18) (shift a 3))
                         (vector-ref w (- i 7))
                         (bitwise-xor (rotate b 17) (rotate b 19) (shift b 10))))))))))
  (define (block hash start)
    (let ([w (schedule start)])
      (let loop ([i 0] [v hash])
        (if (= i 64)
            (map (lambda (x y) (word (+ x y))) hash v)
            (apply
              (lambda (a b c d e f g h)
                (let ([t1 (+ h (bitwise-xor (rotate e 6) (rotate e 11) (rotate e 25))
                             (bitwise-xor (bitwise-and e f) (bitwise-and (bitwise-not e) g))
                             (vector-ref constants i) (vector-ref w i))]
                      [t2 (+ (bitwise-xor (rotate a 2) (rotate a 13) (rotate a 22))
                             (bitwise-xor (bitwise-and a b) (bitwise-and a c)
                                          (bitwise-and b c)))])
                  (loop (+ i 1) (list (word (+ t1 t2)) a b c (word (+ d t1)) e f g))))
              v)))))
  (let loop ([hash (vector->list (root-words 8 2))] [start 0])
    (if (= start (bytevector-length padded))
        (apply string-append
          (map (lambda (x)
                 (let ([text (string-downcase (number->string x 16))])
                   (string-append (make-string (- 8 (string-length text)) #\0) text)))
               hash))
        (loop (block hash start) (+ start 64)))))
