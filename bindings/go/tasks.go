package netserver

/*
#include "bridge.h"
*/
import "C"

import (
	"runtime/debug"
	"time"
)

// Readiness says for what a descriptor is ready, or watched: Readable, Writable or
// both.
type Readiness uint32

const (
	Readable Readiness = C.NS_READ  // input, or the end of the stream
	Writable Readiness = C.NS_WRITE // room for output
)

// task is what a loop calls that belongs to no connection.
type task struct {
	watch func(Readiness) error
	run   func() error
}

func leaveTask(code *C.int32_t) {
	if *code == unfinished {
		*code = raise(nil, &PanicError{recover(), debug.Stack()})
	}
}

// Timer is a timer of a loop.
type Timer struct {
	loop *loop
	id   C.uint64_t
}

// Watch is a descriptor of the program's in a loop.
type Watch struct {
	loop *loop
	id   C.uint64_t
}

// at returns a loop, held.
func (s *Server) at(index int) (*loop, *C.ns_server, error) {
	if index < 0 || index >= s.count {
		return nil, nil, invalid("there is no loop %d", index)
	}
	l := s.loops[index]
	c := l.hold()
	if c == nil {
		return nil, nil, ErrState
	}
	return l, c, nil
}

// SetTimer has a loop, one of Config.Loops from 0, call f after a time, and then
// every repeat; 0: once. Times are at most 2^31 - 1 ms. An error of f goes to OnError.
func (s *Server) SetTimer(loop int, first, repeat time.Duration, f func() error) (*Timer, error) {
	firstMS, failure := milliseconds(first)
	if failure != nil {
		return nil, failure
	}
	repeatMS, failure := milliseconds(repeat)
	if failure != nil {
		return nil, failure
	}
	l, c, failure := s.at(loop)
	if failure != nil {
		return nil, failure
	}
	defer l.release()
	var err *C.ns_error
	number := keep(&task{run: f})
	id := C.go_timer(c, firstMS, repeatMS, C.uintptr_t(number), &err)
	if id == 0 {
		return nil, takeError(err)
	}
	return &Timer{l, id}, nil
}

// Cancel ends the timer; ErrClosed where it has ended. In a callback of its loop
// no call begins any more; elsewhere one may be under way.
func (t *Timer) Cancel() error {
	c := t.loop.hold()
	if c == nil {
		return ErrClosed
	}
	defer t.loop.release()
	return asError(C.ns_server_timer_cancel(c, t.id))
}

// Post has a loop call f once, in order.
func (s *Server) Post(loop int, f func() error) error {
	l, c, err := s.at(loop)
	if err != nil {
		return err
	}
	defer l.release()
	return asError(C.go_post(c, C.uintptr_t(keep(&task{run: f}))))
}

// Watch has a loop call f as long as a descriptor is ready. It stays the
// program's: Close the watch before it.
func (s *Server) Watch(loop, fd int, events Readiness, f func(ready Readiness) error) (*Watch, error) {
	l, c, failure := s.at(loop)
	if failure != nil {
		return nil, failure
	}
	defer l.release()
	var err *C.ns_error
	number := keep(&task{watch: f})
	id := C.go_watch(c, C.int32_t(fd), C.uint32_t(events), C.uintptr_t(number), &err)
	if id == 0 {
		return nil, takeError(err)
	}
	return &Watch{l, id}, nil
}

// Change changes what is watched.
func (w *Watch) Change(events Readiness) error {
	c := w.loop.hold()
	if c == nil {
		return ErrClosed
	}
	defer w.loop.release()
	return asError(C.ns_server_watch_change(c, w.id, C.uint32_t(events)))
}

// Close ends the watch, as Timer.Cancel ends a timer.
func (w *Watch) Close() error {
	c := w.loop.hold()
	if c == nil {
		return ErrClosed
	}
	defer w.loop.release()
	return asError(C.ns_server_unwatch(c, w.id))
}
