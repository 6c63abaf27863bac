package netserver

import (
	"context"
	"errors"
	"io"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// Handler serves a connection, in a goroutine of its own. When it returns the
// connection is closed. An error that it returns, or its panic (or runtime.Goexit)
// as a *PanicError, goes to Config.OnError.
type Handler func(conn *Conn) error

// Serve serves connections until ctx ends, or the shutdown port is used. Then no
// connection is accepted any more; a Read returns what has arrived, and then an
// error; handlers may go on for DrainTimeout, and what they wrote leaves. After that
// the connections are cut. Serve returns nil, or ErrTimeout where a handler has
// still not returned.
func Serve(ctx context.Context, config Config, handler Handler) error {
	l, err := Listen(config)
	if err != nil {
		return err
	}
	return l.Serve(ctx, handler)
}

// Listener is a net.Listener whose connections are each a *Conn, over TLS where
// Config.TLS is set.
type Listener struct {
	server   *Server
	addr     net.Addr
	most     int // queued bytes with which a Write does not wait
	piece    int // bytes that a Write gives to the library at once
	drain    time.Duration
	stopping atomic.Bool // handlers are to return

	mu       sync.Mutex
	waiting  sync.Cond // Accept
	queue    []*Conn   // not yet accepted
	handler  Handler   // nil: Accept
	closed   bool
	conns    map[*Conn]struct{} // open
	handlers sync.WaitGroup
}

var _ net.Listener = (*Listener)(nil)

// Listen starts to listen. Clients are accepted from then on, and wait for Accept.
func Listen(config Config) (*Listener, error) {
	l := &Listener{most: config.HighWaterMark, drain: config.DrainTimeout, conns: make(map[*Conn]struct{})}
	l.waiting.L = &l.mu
	limit := config.SendLimit
	if limit <= 0 {
		limit = 16 << 20
	}
	if l.most <= 0 {
		l.most = 256 << 10
	}
	// Where no more than `most` bytes are queued there is room for another piece.
	l.piece = min(64<<10, limit/2+1)
	l.most = min(l.most, limit-l.piece)
	config.LowWaterMark = l.most / 4
	switch {
	case l.drain == 0:
		l.drain = 5 * time.Second
	case l.drain < 0:
		l.drain = 0
	}
	server, err := open(config, Events{
		OnOpen:  l.onOpen,
		OnData:  func(s *Socket, data []byte) error { return connOf(s).onData(s, data) },
		OnEnd:   l.onEnd,
		OnDrain: func(s *Socket) error { connOf(s).onDrain(); return nil },
		OnClose: l.onClose,
		OnError: l.onError,
	})
	if err != nil {
		return nil, err
	}
	server.handsOver = true
	l.server = server
	l.addr = server.Addr()
	server.serve()
	go l.awaitStop()
	return l, nil
}

func min(a, b int) int {
	if a < b {
		return a
	}
	return b
}

func connOf(s *Socket) *Conn { return s.Data.(*Conn) }

func (l *Listener) onOpen(s *Socket) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return ErrRejected
	}
	c := newConn(l, s)
	s.Data = c
	l.conns[c] = struct{}{}
	if l.handler != nil {
		l.handlers.Add(1)
		go l.handle(c, l.handler)
		return nil
	}
	l.queue = append(l.queue, c)
	l.waiting.Signal()
	return nil
}

func (l *Listener) onEnd(s *Socket) error {
	connOf(s).finish(io.EOF)
	return nil
}

func (l *Listener) onClose(s *Socket, reason CloseReason) {
	c, ok := s.Data.(*Conn)
	if !ok {
		return // refused
	}
	c.onClose(s, reason)
	l.reportFailure(c)
	l.forget(c)
	if closed := l.server.config.OnClose; closed != nil {
		closed(c, reason)
	}
}

// forget notes the end of a connection: after Close the last one stops the server.
func (l *Listener) forget(c *Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
	if l.closed && len(l.conns) == 0 {
		l.server.RequestStop()
	}
}

func (l *Listener) onError(s *Socket, err error) {
	var c *Conn
	if s != nil {
		c, _ = s.Data.(*Conn)
	}
	var panicked *PanicError // of what Conn.Do called
	switch {
	case err == errReturned:
		l.reportFailure(c)
	case c == nil || errors.As(err, &panicked):
		l.report(c, err)
	default:
		c.finish(err) // of the transport: whoever reads learns it
	}
}

// report tells the program of a failure.
func (l *Listener) report(c *Conn, err error) {
	defer l.server.contain("OnError")
	config := &l.server.config
	var panicked *PanicError
	switch {
	case config.OnError != nil:
		config.OnError(c, err)
	case errors.As(err, &panicked):
		config.logf("netserver: panic serving %v: %v\n%s", c.RemoteAddr(), panicked.Value, panicked.Stack)
	case c == nil:
		config.logf("netserver: %v", err)
	case !errors.Is(err, ErrReset) && !errors.Is(err, ErrTruncated):
		// A client that goes away is no event: any number may.
		config.logf("netserver: serving %v: %v", c.RemoteAddr(), err)
	}
}

// -- handlers ----------------------------------------------------------------------------

// Serve serves the connections that come, as the function Serve does.
func (l *Listener) Serve(ctx context.Context, handler Handler) error {
	l.mu.Lock()
	if l.handler != nil {
		l.mu.Unlock()
		return &Error{Status: ErrState, Message: "the listener has a handler"}
	}
	l.handler = handler
	for _, c := range l.queue {
		l.handlers.Add(1)
		go l.handle(c, handler)
	}
	l.queue = nil
	l.mu.Unlock()

	select {
	case <-ctx.Done():
	case <-l.server.Done():
	}
	l.shut()
	l.stopping.Store(true)
	l.wakeReaders()
	returned := make(chan struct{})
	go func() {
		l.handlers.Wait()
		close(returned)
	}()
	deadline := time.Now().Add(l.drain)
	timer := time.NewTimer(l.drain)
	defer timer.Stop()
	select {
	case <-returned:
	case <-timer.C:
	}
	l.server.StopWithin(time.Until(deadline))
	timer.Reset(time.Second)
	select {
	case <-returned:
		return nil
	case <-timer.C:
		return &Error{Status: ErrTimeout, Message: "a handler does not return"}
	}
}

func (l *Listener) handle(c *Conn, handler Handler) {
	defer l.handlers.Done()
	var err error
	returned := false
	defer func() {
		if !returned { // after runtime.Goexit, too
			err = &PanicError{recover(), debug.Stack()}
		}
		l.handled(c, err)
	}()
	err = handler(c)
	returned = true
}

// errReturned has a connection fail of whose handler the failure is noted.
var errReturned = errors.New("the handler failed")

// handled ends a connection whose handler has ended.
func (l *Listener) handled(c *Conn, err error) {
	if err == nil || err == io.EOF || errors.Is(err, net.ErrClosed) {
		_ = c.Close() // an error: the handler has closed it
		return
	}
	c.mu.Lock()
	c.failure = err
	c.mu.Unlock()
	// It fails as a callback does. Where it ends first, onClose reports it.
	if c.server().Do(c.ID(), func(*Socket) error { return errReturned }) != nil {
		l.reportFailure(c)
	}
}

// reportFailure reports why a connection's handler failed, once.
func (l *Listener) reportFailure(c *Conn) {
	c.mu.Lock()
	err := c.failure
	c.failure = nil
	c.mu.Unlock()
	if err != nil {
		l.report(c, err)
	}
}

func (l *Listener) wakeReaders() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		c.mu.Lock()
		c.readable.Broadcast()
		c.mu.Unlock()
	}
}

// -- net.Listener ------------------------------------------------------------------------

// Accept waits for a connection, which is a *Conn.
func (l *Listener) Accept() (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.queue) == 0 {
		if l.closed {
			return nil, &net.OpError{Op: "accept", Net: l.addr.Network(), Addr: l.addr, Err: net.ErrClosed}
		}
		l.waiting.Wait()
	}
	c := l.queue[0]
	l.queue[0] = nil
	l.queue = l.queue[1:]
	return c, nil
}

// Close ends accepting, and frees the port. Connections that were accepted go on:
// when the last one has ended the server stops. Close waits only where there is no
// connection; else the port is free soon after it.
func (l *Listener) Close() error {
	if !l.shut() {
		return &net.OpError{Op: "close", Net: l.addr.Network(), Addr: l.addr, Err: net.ErrClosed}
	}
	l.server.RequestQuiesce()
	l.mu.Lock()
	none := len(l.conns) == 0
	l.mu.Unlock()
	if none {
		l.server.Stop()
	}
	return nil
}

// shut ends accepting. It returns whether it was not yet ended.
func (l *Listener) shut() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.closed = true
	for _, c := range l.queue {
		_ = l.server.Abort(c.ID())
	}
	l.queue = nil
	l.waiting.Broadcast()
	return true
}

// awaitStop ends accepting where the shutdown port stops the server.
func (l *Listener) awaitStop() {
	<-l.server.Done()
	l.shut()
}

// Addr returns where the first service listens.
func (l *Listener) Addr() net.Addr { return l.addr }

// Server returns the server behind the listener: for calls by ID, timers, tasks and
// statistics.
func (l *Listener) Server() *Server { return l.server }
