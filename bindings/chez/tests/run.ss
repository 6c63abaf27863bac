;;; Runs all tests; the last line counts them.
(define here (string-append (getenv "NETSERVER_ROOT") "/bindings/chez/tests/"))
(for-each
  (lambda (name) (load (string-append here name)))
  '("harness.ss" "framework.ss" "servers.ss" "loops.ss" "programs.ss"))
(finish-tests)
