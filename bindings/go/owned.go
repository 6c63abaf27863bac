package netserver

/*
#include "bridge.h"
*/
import "C"

import (
	"io"
	"time"
)

// OwnedSocket is a connection that no server serves: a detached one, or one of a
// descriptor of the program's. Its calls block, each the thread that it runs on;
// one goroutine at a time may use it. It ends with Close, ReleaseFD or Attach.
type OwnedSocket struct {
	stream
	socket *Socket // what it was on the server; nil for a descriptor's
}

// FromFD makes an owned socket of a connected stream socket. Where it fails fd
// stays the caller's.
func FromFD(fd int) (*OwnedSocket, error) {
	var err *C.ns_error
	c := C.ns_socket_from_fd(C.int(fd), &err)
	if c == nil {
		return nil, takeError(err)
	}
	socket := newSocket(nil)
	C.go_set_number(c, C.uintptr_t(socket.ID()))
	return &OwnedSocket{stream: stream{c, ErrClosed}, socket: socket}, nil
}

// ID returns the connection's ID.
func (o *OwnedSocket) ID() ID { return o.socket.ID() }

// Data returns what the connection's Socket has as its Data: the same after Attach.
func (o *OwnedSocket) Data() any { return o.socket.Data }

// SetData sets it.
func (o *OwnedSocket) SetData(data any) { o.socket.Data = data }

// Read waits for bytes. At the end of the stream the error is io.EOF.
func (o *OwnedSocket) Read(p []byte) (int, error) {
	n, err := o.read(p)
	if n == 0 && err == nil && len(p) > 0 {
		err = io.EOF
	}
	return n, err
}

// SetIOTimeout sets how long one call may wait; 0 is off. It is Config.IOTimeout
// for this socket alone.
func (o *OwnedSocket) SetIOTimeout(timeout time.Duration) error {
	ms, err := milliseconds(timeout)
	if err != nil {
		return err
	}
	return o.check(func(c *C.ns_socket) C.ns_status { return C.ns_socket_set_io_timeout_ms(c, ms) })
}

// Cork gathers what is written from now on, until Uncork. Corks nest.
func (o *OwnedSocket) Cork() error {
	return o.check(func(c *C.ns_socket) C.ns_status { return C.ns_socket_cork(c) })
}

// Uncork takes one Cork back. The last one sends what was gathered.
func (o *OwnedSocket) Uncork() error {
	return o.check(func(c *C.ns_socket) C.ns_status { return C.ns_socket_uncork(c) })
}

// Close closes the connection. Where bytes are unsent, unacknowledged or unread it
// waits for the peer, for LingerTimeout at most.
func (o *OwnedSocket) Close() error {
	if o.c == nil {
		return o.gone
	}
	C.ns_socket_free(o.c)
	o.c = nil
	return nil
}

// ReleaseFD gives the descriptor of a plain socket without buffered bytes to the
// caller, and ends the socket. After an error, ErrBusy or ErrUnsupported, the
// socket stays.
func (o *OwnedSocket) ReleaseFD() (int, error) {
	if o.c == nil {
		return -1, o.gone
	}
	fd := C.ns_socket_release_fd(o.c)
	if fd < 0 {
		return -1, Status(fd)
	}
	o.c = nil
	return int(fd), nil
}

// Attach gives the connection to a server: its former one or another. It gets a new
// ID and keeps its Data; there is no second OnOpen. After an error the socket stays
// the caller's.
func (o *OwnedSocket) Attach(server *Server) (ID, error) {
	if o.c == nil {
		return 0, o.gone
	}
	s := o.socket
	l := server.quietest()
	c := l.hold()
	if c == nil {
		return 0, ErrState
	}
	defer l.release()
	// Its callbacks may begin before the call returns: keep orders what they see.
	// Calls by ID wait for the lock.
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loop = l
	number := keep(s)
	s.number.Store(number)
	C.go_set_number(o.c, C.uintptr_t(number)) // drops the former one
	var err *C.ns_error
	id := C.ns_attach(c, o.c, &err)
	if id == 0 {
		return 0, takeError(err)
	}
	s.id = id
	o.c = nil
	return ID(number), nil
}
