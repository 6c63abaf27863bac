package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"time"

	"netserver"
)

// answer answers the lines that are the same for both kinds of server. It returns false where the
// line has no answer.
func answer(server *netserver.Server, id netserver.ID, word, text string) (string, bool) {
	switch word {
	case "":
		return "", true
	case "echo":
		return text, true
	case "id":
		return fmt.Sprint(id), true
	case "objects":
		return fmt.Sprint(netserver.Objects()), true
	case "send":
		to, line, _ := strings.Cut(text, " ")
		return nameOf(elsewhere(func() error {
			number, _ := strconv.ParseUint(to, 10, 64)
			return server.Send(netserver.ID(number), []byte(line+"\n"))
		})), true
	case "broadcast":
		_ = elsewhere(func() error {
			server.Broadcast(server.IDs(), []byte(text+"\n"))
			return nil
		})
		return "", false
	case "stop":
		server.RequestStop()
		return "", false
	case "end":
		end <- text
		return "", false
	}
	return "what?", true
}

// elsewhere runs a function on a goroutine of its own.
func elsewhere(f func() error) error {
	result := make(chan error)
	go func() { result <- f() }()
	return <-result
}

// nameOf returns the name of an error's status, "ok" for nil.
func nameOf(err error) string {
	var status netserver.Status
	var failed *netserver.Error
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &failed):
		return failed.Status.String()
	case errors.As(err, &status):
		return status.String()
	}
	return err.Error()
}

func describe(info *netserver.TLSInfo, err error) string {
	if err != nil {
		return "version=none alpn=none certificate=none"
	}
	alpn, certificate := info.ALPN, "none"
	if alpn == "" {
		alpn = "none"
	}
	if info.PeerCertificate != nil {
		certificate = fmt.Sprintf("%x", sha256.Sum256(info.PeerCertificate))
	}
	return fmt.Sprintf("version=1.%d alpn=%s certificate=%s", info.Version-0x0301, alpn, certificate)
}

// later has a callback without a connection do something: a timer, a task or a watch.
func later(s *netserver.Socket, kind, text string) error {
	server, id := s.Server(), s.ID()
	fail := func() error {
		collect()
		_ = server.Send(id, []byte("ok\n"))
		return failure(text)
	}
	switch kind {
	case "timer":
		ms, err := strconv.Atoi(text)
		if err != nil {
			return err
		}
		_, err = server.SetTimer(s.Loop(), time.Duration(ms)*time.Millisecond, 0, func() error {
			collect()
			_ = server.Send(id, []byte("fired\n"))
			return nil
		})
		return err
	case "raise-timer":
		_, err := server.SetTimer(s.Loop(), 0, 0, fail)
		return err
	case "raise-post":
		return server.Post(s.Loop(), fail)
	}
	return raiseInWatch(server, s.Loop(), fail)
}

func raiseInWatch(server *netserver.Server, loop int, fail func() error) error {
	var pipe [2]int
	if err := syscall.Pipe2(pipe[:], syscall.O_CLOEXEC); err != nil {
		return err
	}
	if _, err := syscall.Write(pipe[1], []byte("x")); err != nil {
		return err
	}
	var watch *netserver.Watch
	watch, err := server.Watch(loop, pipe[0], netserver.Readable, func(netserver.Readiness) error {
		_ = watch.Close()
		syscall.Close(pipe[0])
		syscall.Close(pipe[1])
		return fail()
	})
	return err
}
