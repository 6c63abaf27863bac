;;; Whole programs, each in a process of its own: those for Sagittarius, that of the README, the
;;; example. They listen on a unix socket instead of port 5000, which may be taken.

(define binding (string-append (getenv "NETSERVER_ROOT") "/bindings/chez/"))
(define kill (foreign-procedure "kill" (int int) int))
(define folder
  ((foreign-procedure "mkdtemp" (u8*) string) (string->utf8 "/tmp/netserver-chez-XXXXXX\x0;")))

(define (read-whole file)
  (let ([port (open-input-file file)])
    (let ([text (get-string-all port)])
      (close-port port)
      text)))

(define (replace text old new)
  (let ([length (string-length old)])
    (let loop ([i 0])
      (cond
        [(> (+ i length) (string-length text)) (fail-test "not in the program" old)]
        [(string=? (substring text i (+ i length)) old)
         (string-append (substring text 0 i) new
                        (substring text (+ i length) (string-length text)))]
        [else (loop (+ i 1))]))))

;; The program of the README: what stands between the first ```scheme and the next ```.
(define (readme-program)
  (let* ([text (read-whole (string-append binding "README.md"))]
         [mark "```scheme\n"])
    (define (find what from)
      (if (string=? (substring text from (+ from (string-length what))) what)
          from
          (find what (+ from 1))))
    (let ([start (+ (find mark 0) (string-length mark))])
      (substring text start (find "```" start)))))

(define libdirs (format "~a" (caar (library-directories))))

;; Calls (procedure process-id output) while the script runs. Then the output must end with `status`.
(define (call-with-script file arguments procedure status)
  (let* ([command (format "scheme --libdirs ~a --script ~a ~a </dev/null & echo $!; wait $!; echo status $?"
                          libdirs file arguments)]
         [ports (process command)]
         [output (car ports)]
         [process-id (string->number (get-line output))])
    (dynamic-wind
      void
      (lambda ()
        (procedure process-id output)
        (let loop ()
          (let ([line (get-line output)])
            (cond
              [(eof-object? line) (fail-test "no status")]
              [(and (> (string-length line) 7) (string=? (substring line 0 7) "status "))
               (check-equal (format "status ~a" status) line)]
              [else (loop)]))))
      (lambda ()
        (kill process-id 9)
        (close-port output)
        (close-port (cadr ports))))))

(define (connect-unix path)
  (let ([fd (socket-call 1 (+ 1 #o2000000) 0)] ; AF_UNIX
        [address (make-bytevector (+ 3 (string-length path)) 0)])
    (bytevector-u16-native-set! address 0 1)
    (bytevector-copy! (string->utf8 path) 0 address 2 (string-length path))
    (if (= (connect-call fd address (bytevector-length address)) 0)
        (fd->socket fd)
        (begin (close-fd fd) #f))))

;; Runs a program that listens on "5000", and calls (procedure client) with a client twice.
(define (check-program text procedure)
  (let* ([path (string-append folder "/socket")]
         [file (string-append folder "/program.ss")])
    (let ([port (open-output-file file 'truncate)])
      (put-string port (replace text "\"5000\"" (format "~s" (string-append "unix:" path))))
      (close-port port))
    (call-with-script file ""
      (lambda (process-id output)
        (do ([i 0 (+ i 1)])
            ((= i 2))
          (let ([client #f])
            (wait-until "it listens"
              (lambda () (set! client (connect-unix path)) client))
            (procedure client)
            (socket-close client)))
        (kill process-id 2))
      255) ; Chez enters its break loop, which sees the end of its input
    (delete-file path)
    (delete-file file)))

(define (program name) (read-whole (string-append binding "tests/programs/" name)))

(test "programs for Sagittarius run unchanged"
  (for-each
    (lambda (name)
      (check-program (program name)
        (lambda (client)
          (check-equal "hello" (ask client "hello"))
          (check-end client))))
    '("one-thread.ss" "threads.ss"))
  (check-program (program "loops.ss")
    (lambda (client)
      (check-equal "hello" (ask client "hello"))
      (check-equal "again" (ask client "again"))
      (socket-shutdown client 1)
      (check-end client))))

(test "the program of the README"
  (check-program (readme-program)
    (lambda (client)
      (check-equal "hello" (ask client "hello"))
      (check-equal "again" (ask client "again")))))

(test "the example ends in order at SIGINT and SIGTERM"
  (for-each
    (lambda (options signal)
      (call-with-script (string-append binding "examples/echo.ss") options
        (lambda (process-id output)
          (let* ([line (get-line output)] ; listening on 127.0.0.1:PORT
                 [port (string->number (substring line 23 (string-length line)))])
            (call-with-client port
              (lambda (client)
                (check-equal "hello" (ask client "hello"))
                (kill process-id signal)
                (check-end client)))))
        0))
    '("127.0.0.1:0" "-n 127.0.0.1:0" "-n -t 2 127.0.0.1:0")
    '(2 15 2)))

(delete-directory folder)
