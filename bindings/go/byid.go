package netserver

/*
#include <stdlib.h>
#include "bridge.h"
*/
import "C"

import (
	"time"
	"unsafe"
)

// find returns where a connection is, and its ID in the library. The loop is held.
func (s *Server) find(id ID) (*loop, *C.ns_server, C.ns_conn_id) {
	socket, _ := kept(uint64(id)).(*Socket)
	if socket == nil {
		return nil, nil, 0
	}
	l, own := socket.where()
	if own == 0 || l.server != s {
		return nil, nil, 0
	}
	c := l.hold()
	if c == nil {
		return nil, nil, 0
	}
	return l, c, own
}

func (s *Server) byID(id ID, call func(c *C.ns_server, id C.ns_conn_id) C.ns_status) error {
	l, c, own := s.find(id)
	if l == nil {
		return ErrClosed
	}
	defer l.release()
	return asError(call(c, own))
}

// Send queues a copy of p for a connection. It returns ErrClosed where that is
// gone, ErrBufferFull where the queue would pass SendLimit. nil means accepted,
// not delivered. What one goroutine sends stays in order.
func (s *Server) Send(id ID, p []byte) error {
	return s.byID(id, func(c *C.ns_server, id C.ns_conn_id) C.ns_status {
		return C.ns_server_send(c, id, unsafe.Pointer(&some(p)[0]), C.size_t(len(p)))
	})
}

// Close closes a connection, after what is queued has left.
func (s *Server) Close(id ID) error {
	return s.byID(id, func(c *C.ns_server, id C.ns_conn_id) C.ns_status { return C.ns_server_close(c, id) })
}

// Abort resets a connection; what is queued is lost.
func (s *Server) Abort(id ID) error {
	return s.byID(id, func(c *C.ns_server, id C.ns_conn_id) C.ns_status { return C.ns_server_abort(c, id) })
}

// CloseWrite ends the sending side of a connection, after what is queued.
func (s *Server) CloseWrite(id ID) error {
	return s.byID(id, func(c *C.ns_server, id C.ns_conn_id) C.ns_status {
		return C.ns_server_shutdown(c, id, C.NS_SHUT_WR)
	})
}

// CloseRead ends the receiving side of a connection.
func (s *Server) CloseRead(id ID) error {
	return s.byID(id, func(c *C.ns_server, id C.ns_conn_id) C.ns_status {
		return C.ns_server_shutdown(c, id, C.NS_SHUT_RD)
	})
}

// Queued returns how many bytes were accepted for a connection and are not with
// the kernel.
func (s *Server) Queued(id ID) (int, error) {
	var queued C.int64_t
	err := s.byID(id, func(c *C.ns_server, id C.ns_conn_id) C.ns_status {
		if queued = C.ns_server_queued(c, id); queued < 0 {
			return C.ns_status(queued)
		}
		return 0
	})
	return int(queued), err
}

// Wake has OnWake run for a connection, once for all calls before it runs.
func (s *Server) Wake(id ID) error {
	return s.later(id, nil)
}

// Do has f run on a connection's loop, as a callback of the connection. Where that
// ends first, f is not called.
func (s *Server) Do(id ID, f func(*Socket) error) error {
	return s.later(id, f)
}

func (s *Server) later(id ID, f func(*Socket) error) error {
	l, c, own := s.find(id)
	if l == nil {
		return ErrClosed
	}
	defer l.release()
	if socket, ok := kept(uint64(id)).(*Socket); ok {
		socket.addCall(f)
	}
	return asError(C.ns_server_wake(c, own))
}

// IDs returns the connections that are open now.
func (s *Server) IDs() []ID {
	var ids []ID
	each(func(number uint64, object any) {
		if socket, ok := object.(*Socket); ok {
			if l, id := socket.where(); id != 0 && l.server == s {
				ids = append(ids, ID(number))
			}
		}
	})
	return ids
}

// Broadcast sends p to connections, which share one copy. It returns how many
// accepted it: those that are gone, or whose queue is full, are left out.
func (s *Server) Broadcast(ids []ID, p []byte) int {
	return s.broadcast(ids, p, nil)
}

// BroadcastEach is Broadcast that tells how it went: what Send would have
// returned for each connection.
func (s *Server) BroadcastEach(ids []ID, p []byte) []error {
	errs := make([]error, len(ids))
	for i := range errs {
		errs[i] = ErrClosed
	}
	s.broadcast(ids, p, errs)
	return errs
}

func (s *Server) broadcast(ids []ID, p []byte, errs []error) (accepted int) {
	own := make([][]C.ns_conn_id, s.count) // of each loop
	indices := make([][]int, s.count)
	for i, id := range ids {
		socket, _ := kept(uint64(id)).(*Socket)
		if socket == nil {
			continue
		}
		if l, id := socket.where(); id != 0 && l.server == s {
			own[l.index] = append(own[l.index], id)
			indices[l.index] = append(indices[l.index], i)
		}
	}
	for i, l := range s.loops {
		if len(own[i]) == 0 {
			continue
		}
		statuses := make([]C.ns_status, len(own[i]))
		count := l.broadcast(own[i], p, statuses)
		if count < 0 {
			continue
		}
		accepted += count
		for j, index := range indices[i] {
			if errs != nil {
				errs[index] = asError(statuses[j])
			}
		}
	}
	return accepted
}

func (l *loop) broadcast(ids []C.ns_conn_id, p []byte, statuses []C.ns_status) int {
	c := l.hold()
	if c == nil {
		return -1
	}
	defer l.release()
	return int(C.ns_server_broadcast_each(c, &ids[0], C.size_t(len(ids)), unsafe.Pointer(&some(p)[0]), C.size_t(len(p)), &statuses[0]))
}

// Adopt makes a connection of a connected stream socket, or of one whose connect
// is in progress; data is its Socket's Data. fd is the server's from then on. What
// fails later goes to OnError as ErrConnect. Where Adopt fails fd stays the
// caller's.
func (s *Server) Adopt(fd int, data any) (ID, error) {
	return s.bring(data, func(c *C.ns_server, number C.uintptr_t, err **C.ns_error) C.ns_conn_id {
		return C.go_adopt(c, C.int(fd), number, err)
	})
}

// Connect connects to a service, "host:port", "unix:/path" or "unix:@name", and
// makes a connection of it, as Adopt does. The name of a host is resolved first,
// which waits. The rest may take timeout; 0: the kernel's time.
func (s *Server) Connect(service string, timeout time.Duration, data any) (ID, error) {
	ms, failure := milliseconds(timeout)
	if failure == nil {
		failure = noNUL(service)
	}
	if failure != nil {
		return 0, failure
	}
	name := C.CString(service)
	defer C.free(unsafe.Pointer(name))
	return s.bring(data, func(c *C.ns_server, number C.uintptr_t, err **C.ns_error) C.ns_conn_id {
		return C.go_connect(c, name, ms, number, err)
	})
}

func (s *Server) bring(data any, call func(*C.ns_server, C.uintptr_t, **C.ns_error) C.ns_conn_id) (ID, error) {
	l := s.quietest()
	c := l.hold()
	if c == nil {
		return 0, ErrState
	}
	defer l.release()
	socket := &Socket{stream: stream{gone: ErrNotInHandler}, loop: l, Data: data}
	number := keep(socket) // which orders all this before its callbacks
	socket.number.Store(number)
	var err *C.ns_error
	id := call(c, C.uintptr_t(number), &err)
	if id == 0 {
		return 0, takeError(err)
	}
	socket.mu.Lock()
	if !socket.placed {
		socket.id = id
	}
	socket.mu.Unlock()
	return ID(number), nil
}
