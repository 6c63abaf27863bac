// Package netserver serves TCP and TLS by the C library netserver.
//
// Serve runs a handler for each connection, in a goroutine of its own. Listen
// gives a net.Listener, for net/http and everything else that takes one. Start is
// the cheap path: functions that the event loops call.
package netserver

/*
#cgo pkg-config: netserver
#cgo CFLAGS: -std=gnu11
#include "bridge.h"
*/
import "C"

import (
	"errors"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Events are the functions that a server's loops call. They must not block. Those
// of one connection never run at the same time. One that returns an error, or
// panics, fails: OnError gets that very error (a panic as a *PanicError), and the
// connection closes. ErrWouldBlock is no failure. runtime.Goexit ends the program.
type Events struct {
	// OnOpen reports a new connection, over TLS after its handshake. ErrRejected
	// refuses it, after what OnOpen wrote.
	OnOpen func(s *Socket) error
	// OnData gets what was received. data is valid until it returns. It is the one
	// function that must be set.
	OnData func(s *Socket, data []byte) error
	// OnEnd reports the end of the peer's stream; the connection can still send.
	// nil: the connection closes.
	OnEnd func(s *Socket) error
	// OnDrain runs when the queued bytes have left, or are LowWaterMark.
	OnDrain func(s *Socket) error
	// OnTimeout runs when the connection's timer fires. nil: the connection closes.
	OnTimeout func(s *Socket) error
	// OnWake runs after Server.Wake.
	OnWake func(s *Socket) error
	// OnClose is the last call for each connection, but for a detached one.
	OnClose func(s *Socket, reason CloseReason)
	// OnError gets what went wrong; the connection closes after it. s is nil where
	// there is no connection. nil: Config.ErrorLog gets it.
	OnError func(s *Socket, err error)
}

// Server is a running server. All its methods are for any goroutine.
type Server struct {
	config  Config
	events  Events
	count   int // of loops
	loops   []*loop
	running atomic.Int32 // loops
	stopped chan struct{}

	handsOver bool // the callbacks only make other goroutines ready
}

// Start starts a server. It accepts when Start returns, and serves until it is
// stopped.
func Start(config Config, events Events) (*Server, error) {
	if config.OnError != nil || config.OnClose != nil {
		return nil, invalid("OnError and OnClose of Config are for Serve and Listen; Start has those of Events")
	}
	s, err := open(config, events)
	if err == nil {
		s.serve()
	}
	return s, err
}

// open makes a server that accepts; nothing is called before serve.
func open(config Config, events Events) (*Server, error) {
	if events.OnData == nil {
		return nil, invalid("a server needs Events.OnData")
	}
	count, err := config.loops()
	if err != nil {
		return nil, err
	}
	s := &Server{config: config, events: events, count: count, stopped: make(chan struct{})}
	for i := 0; i < count; i++ {
		l, err := newLoop(s, i)
		if err != nil {
			for _, l := range s.loops {
				C.go_stop_within(l.c, 0)
				l.free()
			}
			return nil, err
		}
		s.loops = append(s.loops, l)
	}
	return s, nil
}

func (s *Server) serve() {
	s.running.Store(int32(s.count))
	for _, l := range s.loops {
		go l.run()
	}
}

// ended notes the end of a loop: where one stops, all do.
func (s *Server) ended(l *loop) {
	if s.running.Add(-1) == 0 {
		close(s.stopped)
		return
	}
	s.RequestStop()
}

// failed reports a failure.
func (s *Server) failed(socket *Socket, err error) {
	if s.events.OnError != nil {
		s.events.OnError(socket, err)
		return
	}
	var panicked *PanicError
	switch {
	case errors.As(err, &panicked):
		s.config.logf("netserver: panic serving %v: %v\n%s", peerOf(socket), panicked.Value, panicked.Stack)
	case errors.Is(err, ErrReset), errors.Is(err, ErrTruncated):
		// A client that goes away is no event: any number may.
	case socket != nil:
		s.config.logf("netserver: serving %v: %v", peerOf(socket), err)
	default:
		s.config.logf("netserver: %v", err)
	}
}

func peerOf(socket *Socket) string {
	if socket == nil {
		return "no connection"
	}
	return socket.RemoteAddr().String()
}

// RequestQuiesce asks the server to accept no more, and returns immediately. The
// connections that there are go on, and the port is free; the server runs until it
// is stopped.
func (s *Server) RequestQuiesce() {
	for _, l := range s.loops {
		if c := l.hold(); c != nil {
			C.ns_server_request_quiesce(c)
			l.release()
		}
	}
}

// RequestStop asks for a stop, and returns immediately. No connection is accepted
// any more; what is queued leaves, for DrainTimeout at most.
func (s *Server) RequestStop() {
	for _, l := range s.loops {
		l.stop(-1)
	}
}

// Stop stops the server and returns when it has stopped. In a callback that would
// be never: there RequestStop is the one to call.
func (s *Server) Stop() {
	s.RequestStop()
	<-s.stopped
}

// StopWithin is Stop with another DrainTimeout. After 0 what is queued is cut.
func (s *Server) StopWithin(drain time.Duration) {
	if drain < 0 {
		drain = 0
	}
	for _, l := range s.loops {
		l.stop(drain)
	}
	<-s.stopped
}

// Done returns a channel that is closed when the server has stopped, whatever
// stopped it.
func (s *Server) Done() <-chan struct{} { return s.stopped }

// Port returns the port of the first service; 0 for a unix socket, and after the
// stop.
func (s *Server) Port() int {
	_, port, _ := net.SplitHostPort(s.Address(0))
	number, _ := strconv.Atoi(port)
	return number
}

// ShutdownPort returns the shutdown port; 0 where there is none.
func (s *Server) ShutdownPort() int {
	l := s.loops[0]
	c := l.hold()
	if c == nil {
		return 0
	}
	defer l.release()
	return int(C.ns_server_shutdown_port(c))
}

// Address returns where a service listens, as text: "0.0.0.0:5000" or
// "unix:/path", several joined by ", ". 0 is Config.Service. After the stop it is
// "".
func (s *Server) Address(service int) string {
	l := s.loops[0]
	if l.hold() == nil {
		return ""
	}
	defer l.release()
	return l.address(service)
}

// Addr returns where the first service listens: a *net.TCPAddr or *net.UnixAddr.
func (s *Server) Addr() net.Addr {
	first, _, _ := strings.Cut(s.Address(0), ", ")
	if path := strings.TrimPrefix(first, "unix:"); path != first {
		return &net.UnixAddr{Name: path, Net: "unix"}
	}
	if addr, err := net.ResolveTCPAddr("tcp", first); err == nil {
		return addr
	}
	return &net.TCPAddr{}
}

// ReloadTLS has the handshakes of a service that begin from now on use tls. After
// an error the former one stays.
func (s *Server) ReloadTLS(service int, tls *TLS) error {
	for _, l := range s.loops {
		if err := l.reloadTLS(service, tls); err != nil {
			return err
		}
	}
	return nil
}

func (l *loop) reloadTLS(service int, tls *TLS) error {
	c := l.hold()
	if c == nil {
		return ErrState
	}
	defer l.release()
	var err *C.ns_error
	return result(C.ns_server_reload_service_tls(c, C.uint32_t(service), tls.c, &err), err)
}

// quietest returns the loop with the fewest connections.
func (s *Server) quietest() *loop {
	best := s.loops[0]
	if s.count == 1 {
		return best
	}
	least := best.open()
	for _, l := range s.loops[1:] {
		if open := l.open(); open < least {
			best, least = l, open
		}
	}
	return best
}
