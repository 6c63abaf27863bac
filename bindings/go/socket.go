package netserver

/*
#include <sys/socket.h>
#include "bridge.h"
*/
import "C"

import (
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// ID names a connection: never 0, never given to another connection of this
// process, safe to keep and to use from any goroutine. An attach gives a new one.
type ID uint64

// stream is what a Socket and an OwnedSocket have in common.
type stream struct {
	c    *C.ns_socket // nil: it cannot be used
	gone Status       // what a call returns then
}

// check ends a call with a C status.
func (s *stream) check(call func(c *C.ns_socket) C.ns_status) error {
	if s.c == nil {
		return s.gone
	}
	return asError(call(s.c))
}

func (s *stream) read(p []byte) (int, error) {
	if s.c == nil {
		return 0, s.gone
	}
	if len(p) == 0 {
		return 0, nil
	}
	n := C.ns_socket_recv(s.c, unsafe.Pointer(&p[0]), C.size_t(len(p)))
	if n < 0 {
		return 0, s.failure("receive", Status(n))
	}
	return int(n), nil
}

// Write sends all of p. In a callback it never waits: what the kernel does not
// take is queued, and with ErrBufferFull nothing of it is sent. On an OwnedSocket
// it returns when the kernel has all of it; after an error, a part of p was sent.
func (s *stream) Write(p []byte) (int, error) {
	if s.c == nil {
		return 0, s.gone
	}
	if len(p) == 0 {
		return 0, nil
	}
	if status := C.ns_socket_send(s.c, unsafe.Pointer(&p[0]), C.size_t(len(p))); status < 0 {
		return 0, s.failure("send", Status(status))
	}
	return len(p), nil
}

// failure adds the system's code to the status of a transport that failed.
func (s *stream) failure(what string, status Status) error {
	code := syscall.Errno(C.ns_socket_os_error(s.c))
	if code == 0 {
		return status
	}
	return &Error{Status: status, OSCode: code, Message: "cannot " + what + ": " + code.Error()}
}

// Flush sends immediately what was gathered: see ns_socket_flush.
func (s *stream) Flush() error {
	return s.check(func(c *C.ns_socket) C.ns_status { return C.ns_socket_flush(c) })
}

// CloseRead ends receiving.
func (s *stream) CloseRead() error {
	return s.check(func(c *C.ns_socket) C.ns_status { return C.ns_socket_shutdown(c, C.NS_SHUT_RD) })
}

// CloseWrite ends sending, after what was already sent.
func (s *stream) CloseWrite() error {
	return s.check(func(c *C.ns_socket) C.ns_status { return C.ns_socket_shutdown(c, C.NS_SHUT_WR) })
}

// Abort resets the connection; what is queued is lost.
func (s *stream) Abort() error {
	return s.check(func(c *C.ns_socket) C.ns_status { return C.ns_socket_abort(c) })
}

// IsClosed reports whether the connection is closed or cannot be used here.
func (s *stream) IsClosed() bool { return s.c == nil || C.ns_socket_is_closed(s.c) != 0 }

// FD returns the descriptor, for getsockopt and the like; -1 for none.
func (s *stream) FD() int {
	if s.c == nil {
		return -1
	}
	return int(C.ns_socket_fd(s.c))
}

// Service returns the number of the service that the connection came by: 0 for
// Config.Service, else one more than the index in Config.Services; -1 for none.
func (s *stream) Service() int {
	if s.c == nil {
		return -1
	}
	return int(C.ns_socket_service(s.c))
}

// Queued returns how many bytes are not yet with the kernel.
func (s *stream) Queued() int {
	if s.c == nil {
		return 0
	}
	return int(C.ns_socket_queued(s.c))
}

// OSError returns the system's code of the failure that ended the connection; 0
// for none.
func (s *stream) OSError() syscall.Errno {
	if s.c == nil {
		return 0
	}
	return syscall.Errno(C.ns_socket_os_error(s.c))
}

// PeerCredentials returns the process, user and group of the peer of a unix socket.
func (s *stream) PeerCredentials() (*syscall.Ucred, error) {
	var pid C.int32_t
	var uid, gid C.uint32_t
	err := s.check(func(c *C.ns_socket) C.ns_status {
		return C.ns_socket_peer_credentials(c, &pid, &uid, &gid)
	})
	if err != nil {
		return nil, err
	}
	return &syscall.Ucred{Pid: int32(pid), Uid: uint32(uid), Gid: uint32(gid)}, nil
}

// RemoteAddr returns the peer's address: a *net.TCPAddr or *net.UnixAddr.
func (s *stream) RemoteAddr() net.Addr {
	var storage C.struct_sockaddr_storage
	if s.c == nil {
		return address(nil, 0)
	}
	return address(&storage, C.ns_socket_peer_addr(s.c, unsafe.Pointer(&storage), C.sizeof_struct_sockaddr_storage))
}

// LocalAddr returns the address of this side.
func (s *stream) LocalAddr() net.Addr {
	var storage C.struct_sockaddr_storage
	if s.c == nil {
		return address(nil, 0)
	}
	return address(&storage, C.ns_socket_local_addr(s.c, unsafe.Pointer(&storage), C.sizeof_struct_sockaddr_storage))
}

// TLS returns what the handshake agreed, ErrState without TLS.
func (s *stream) TLS() (*TLSInfo, error) {
	var info C.ns_tls_info
	err := s.check(func(c *C.ns_socket) C.ns_status {
		return C.ns_socket_tls_info(c, &info, C.sizeof_ns_tls_info)
	})
	if err != nil {
		return nil, err
	}
	agreed := &TLSInfo{
		Version:     uint16(info.version),
		Resumed:     info.resumed != 0,
		CipherSuite: C.GoString(&info.cipher_suite[0]),
		ALPN:        C.GoString(&info.alpn[0]),
		ServerName:  C.GoString(&info.server_name[0]),
	}
	if size := C.ns_socket_tls_peer_certificate(s.c, nil, 0); size > 0 {
		agreed.PeerCertificate = make([]byte, size)
		C.ns_socket_tls_peer_certificate(s.c, unsafe.Pointer(&some(agreed.PeerCertificate)[0]), size)
		agreed.PeerSubject = text(func(buf *C.char, size C.size_t) C.size_t {
			return C.ns_socket_tls_peer_subject(s.c, buf, size)
		})
	}
	return agreed, nil
}

// StartTLS upgrades a plain connection to TLS, after the go-ahead was sent. ahead
// is what was received beyond the client's request: it goes to TLS. In a callback
// the handshake goes on later; on an OwnedSocket this waits for it.
func (s *stream) StartTLS(tls *TLS, ahead []byte) error {
	defer runtime.KeepAlive(tls)
	return s.check(func(c *C.ns_socket) C.ns_status {
		return C.ns_socket_starttls(c, tls.c, unsafe.Pointer(&some(ahead)[0]), C.size_t(len(ahead)))
	})
}

// Socket is a connection in its callbacks: outside of them the methods of the
// connection return ErrNotInHandler. ID, Server and Data are for all places.
type Socket struct {
	stream
	// Data is for the program: what it keeps with the connection.
	Data any

	number atomic.Uint64 // changes with an attach
	loop   *loop         // of the callbacks; changes where an owned socket is attached

	mu     sync.Mutex
	id     C.ns_conn_id // of the library; 0: detached, or closed
	placed bool         // place was called: it knows better than who brought the connection
	calls  []func(*Socket) error
	woken  bool
}

func newSocket(l *loop) *Socket {
	s := &Socket{stream: stream{gone: ErrNotInHandler}, loop: l}
	s.number.Store(keep(s))
	return s
}

// place notes where calls by ID find the connection.
func (s *Socket) place(l *loop, id C.ns_conn_id) {
	s.mu.Lock()
	s.loop, s.id, s.placed = l, id, true
	s.mu.Unlock()
}

// where returns what place noted.
func (s *Socket) where() (*loop, C.ns_conn_id) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.loop, s.id
}

// addCall has f, or OnWake where that is nil, run at the next wake.
func (s *Socket) addCall(f func(*Socket) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f == nil {
		s.woken = true
	} else {
		s.calls = append(s.calls, f)
	}
}

func (s *Socket) takeCalls() (calls []func(*Socket) error, woken bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	calls, woken = s.calls, s.woken
	s.calls, s.woken = nil, false
	return calls, woken
}

// ID returns the connection's ID.
func (s *Socket) ID() ID { return ID(s.number.Load()) }

// Server returns the server of the connection.
func (s *Socket) Server() *Server { return s.loop.server }

// Loop returns the number of the loop that the connection is on.
func (s *Socket) Loop() int { return s.loop.index }

// Read receives what has arrived beyond the data of OnData. The error is
// ErrWouldBlock when that is nothing; at the end of the stream n is 0 and err nil,
// and OnEnd does not come any more.
func (s *Socket) Read(p []byte) (n int, err error) { return s.read(p) }

// Close closes the connection, after what is queued has left.
func (s *Socket) Close() error {
	return s.check(func(c *C.ns_socket) C.ns_status { return C.ns_socket_close(c) })
}

// SetTimer has OnTimeout run once, after a time of 1 to 2^31 - 1 ms; 0 clears the
// timer. Where there is no OnTimeout the connection closes then.
func (s *Socket) SetTimer(after time.Duration) error {
	ms, err := milliseconds(after)
	if err != nil {
		return err
	}
	return s.check(func(c *C.ns_socket) C.ns_status { return C.ns_socket_set_timer_ms(c, ms) })
}

// Pause has OnData and OnEnd wait for Resume.
func (s *Socket) Pause() error {
	return s.check(func(c *C.ns_socket) C.ns_status { return C.ns_socket_pause(c) })
}

// Resume ends Pause. From another goroutine: Server.Do.
func (s *Socket) Resume() error {
	return s.check(func(c *C.ns_socket) C.ns_status { return C.ns_socket_resume(c) })
}

// Detach takes the connection out of the server. Nothing more is called for it;
// the caller owns it, and closes or attaches it.
func (s *Socket) Detach() (*OwnedSocket, error) {
	if s.c == nil {
		return nil, s.gone
	}
	if _, ok := s.Data.(*Conn); ok {
		return nil, &Error{Status: ErrUnsupported, Message: "the connection is a Conn, which its goroutine owns"}
	}
	var err *C.ns_error
	c := C.ns_detach(s.loop.c, s.c, &err)
	if c == nil {
		return nil, takeError(err)
	}
	s.place(s.loop, 0)
	return &OwnedSocket{stream: stream{c, ErrClosed}, socket: s}, nil
}

// address makes a net.Addr of a socket address of the system.
func address(storage *C.struct_sockaddr_storage, size C.size_t) net.Addr {
	if storage == nil || size == 0 {
		return &net.TCPAddr{}
	}
	switch storage.ss_family {
	case syscall.AF_INET:
		a := (*syscall.RawSockaddrInet4)(unsafe.Pointer(storage))
		return &net.TCPAddr{IP: net.IPv4(a.Addr[0], a.Addr[1], a.Addr[2], a.Addr[3]), Port: port(a.Port)}
	case syscall.AF_INET6:
		a := (*syscall.RawSockaddrInet6)(unsafe.Pointer(storage))
		addr := &net.TCPAddr{IP: append(net.IP(nil), a.Addr[:]...), Port: port(a.Port)}
		if a.Scope_id != 0 {
			if device, err := net.InterfaceByIndex(int(a.Scope_id)); err == nil {
				addr.Zone = device.Name
			}
		}
		return addr
	}
	return unixAddr((*syscall.RawSockaddrUnix)(unsafe.Pointer(storage)), int(size))
}

// port turns a port in network byte order.
func port(raw uint16) int {
	b := (*[2]byte)(unsafe.Pointer(&raw))
	return int(b[0])<<8 | int(b[1])
}

func unixAddr(a *syscall.RawSockaddrUnix, size int) *net.UnixAddr {
	const header = int(unsafe.Offsetof(a.Path))
	name := make([]byte, 0, len(a.Path))
	for i := 0; i < size-header && i < len(a.Path); i++ {
		c := byte(a.Path[i])
		switch {
		case c == 0 && i == 0:
			c = '@' // an abstract name
		case c == 0 && name[0] != '@':
			return &net.UnixAddr{Name: string(name), Net: "unix"}
		}
		name = append(name, c)
	}
	return &net.UnixAddr{Name: string(name), Net: "unix"}
}

// text calls a function of C that writes as snprintf does.
func text(write func(buf *C.char, size C.size_t) C.size_t) string {
	buf := make([]byte, 256)
	for {
		size := int(write((*C.char)(unsafe.Pointer(&buf[0])), C.size_t(len(buf))))
		if size < len(buf) {
			return string(buf[:size])
		}
		buf = make([]byte, size+1)
	}
}
