package netserver

/*
#include <stdlib.h>
#include "bridge.h"
*/
import "C"

import (
	"runtime/debug"
	"unsafe"
)

// The functions that C calls, each on the goroutine of a loop while it runs a
// turn. No panic passes through C: each ends in leave, or contain.

// unfinished is the code of a callback until it returns.
const unfinished = 1

// enter begins a callback of a connection.
func enter(number C.uintptr_t, c *C.ns_socket) *Socket {
	s := kept(uint64(number)).(*Socket)
	s.c = c
	return s
}

// leave ends it: a panic becomes a failure of the callback.
func (s *Socket) leave(code *C.int32_t) {
	if *code == unfinished {
		*code = raise(s.c, &PanicError{recover(), debug.Stack()})
	}
	s.c = nil
}

// contain ends a callback that cannot fail, and logs a panic.
func (s *Server) contain(what string) {
	if value := recover(); value != nil {
		s.config.logf("netserver: panic in %s: %v\n%s", what, value, debug.Stack())
	}
}

// failed returns what a callback returns to C.
func failed(c *C.ns_socket, err error) C.int32_t {
	if err == nil || err == error(ErrWouldBlock) {
		return 0
	}
	return raise(c, err)
}

// raise has the very error reach the exception handler.
func raise(c *C.ns_socket, err error) C.int32_t {
	message := C.CString(textOf(err))
	defer C.free(unsafe.Pointer(message))
	return C.go_raise(c, codeOf(err), message, C.uintptr_t(keep(err)))
}

// textOf survives errors that cannot say what they are.
func textOf(err error) (text string) {
	defer func() {
		if recover() != nil {
			text = "an error whose Error method panics"
		}
	}()
	return err.Error()
}

//export netserverDrop
func netserverDrop(number C.uintptr_t) {
	drop(uint64(number))
}

//export netserverOnOpen
func netserverOnOpen(loopNumber C.uintptr_t, c *C.ns_socket, number C.uintptr_t, id C.ns_conn_id) (code C.int32_t) {
	l := kept(uint64(loopNumber)).(*loop)
	if number == 0 {
		s := newSocket(l)
		number = C.uintptr_t(s.ID())
		if status := C.go_set_number(c, number); status < 0 {
			return C.int32_t(status)
		}
	}
	s := enter(number, c)
	code = unfinished
	defer s.leave(&code)
	s.place(l, id)
	if open := l.server.events.OnOpen; open != nil {
		return failed(c, open(s))
	}
	return 0
}

//export netserverOnData
func netserverOnData(number C.uintptr_t, c *C.ns_socket, data *C.char, size C.size_t) (code C.int32_t) {
	s := enter(number, c)
	code = unfinished
	defer s.leave(&code)
	events := &s.loop.server.events
	switch {
	case size > 0:
		return failed(c, events.OnData(s, unsafe.Slice((*byte)(unsafe.Pointer(data)), int(size))))
	case events.OnEnd != nil:
		return failed(c, events.OnEnd(s))
	}
	return C.int32_t(C.ns_socket_close(c))
}

//export netserverOnWake
func netserverOnWake(number C.uintptr_t, c *C.ns_socket) (code C.int32_t) {
	s := enter(number, c)
	code = unfinished
	defer s.leave(&code)
	calls, woken := s.takeCalls()
	for _, call := range calls {
		if code := failed(c, call(s)); code != 0 {
			return code
		}
	}
	if wake := s.loop.server.events.OnWake; woken && wake != nil {
		return failed(c, wake(s))
	}
	return 0
}

//export netserverOnDrain
func netserverOnDrain(number C.uintptr_t, c *C.ns_socket) (code C.int32_t) {
	s := enter(number, c)
	code = unfinished
	defer s.leave(&code)
	return failed(c, s.loop.server.events.OnDrain(s))
}

//export netserverOnTimeout
func netserverOnTimeout(number C.uintptr_t, c *C.ns_socket) (code C.int32_t) {
	s := enter(number, c)
	code = unfinished
	defer s.leave(&code)
	return failed(c, s.loop.server.events.OnTimeout(s))
}

//export netserverOnClose
func netserverOnClose(number C.uintptr_t, c *C.ns_socket, reason C.int32_t) {
	if number == 0 {
		return // OnOpen never had it
	}
	s := enter(number, c)
	l := s.loop
	defer func() { s.c = nil }()
	defer l.server.contain("OnClose")
	s.place(l, 0)
	if closed := l.server.events.OnClose; closed != nil {
		closed(s, CloseReason(reason))
	}
}

//export netserverOnError
func netserverOnError(loopNumber C.uintptr_t, c *C.ns_socket, number C.uintptr_t, failure *C.ns_error) (code C.int32_t) {
	l := kept(uint64(loopNumber)).(*loop)
	err, ok := kept(uint64(C.go_payload(failure))).(error)
	if !ok {
		err = copyError(failure)
	}
	if c == nil {
		defer l.server.contain("OnError")
		l.server.failed(nil, err)
		return 0
	}
	s, ok := kept(uint64(number)).(*Socket)
	if !ok { // it has not come to OnOpen
		s = &Socket{stream: stream{gone: ErrNotInHandler}, loop: l}
	}
	s.c = c
	defer func() {
		s.c = nil
		C.ns_socket_close(c)
	}()
	defer l.server.contain("OnError")
	l.server.failed(s, err)
	return 0
}

//export netserverOnShutdown
func netserverOnShutdown(loopNumber C.uintptr_t, c *C.ns_socket, data *C.char, size C.size_t) C.int32_t {
	l := kept(uint64(loopNumber)).(*loop)
	s := &Socket{stream: stream{c: c, gone: ErrNotInHandler}, loop: l}
	defer func() { s.c = nil }()
	defer l.server.contain("OnShutdown")
	received := unsafe.Slice((*byte)(unsafe.Pointer(data)), int(size))
	switch {
	case l.server.config.OnShutdown(s, received):
		return 1
	case size == 0:
		return 0
	}
	return C.NS_ERR_WOULD_BLOCK
}

//export netserverOnWatch
func netserverOnWatch(number C.uintptr_t, events C.uint32_t) (code C.int32_t) {
	t := kept(uint64(number)).(*task)
	code = unfinished
	defer leaveTask(&code)
	return failed(nil, t.watch(Readiness(events)))
}

//export netserverOnTask
func netserverOnTask(number C.uintptr_t) (code C.int32_t) {
	t := kept(uint64(number)).(*task)
	code = unfinished
	defer leaveTask(&code)
	return failed(nil, t.run())
}
