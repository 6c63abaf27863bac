package netserver

import (
	"io"
	"net"
	"os"
	"sync"
	"time"
)

const (
	pauseAt  = 128 << 10 // bytes received and not read, at which receiving pauses
	resumeAt = 32 << 10  // and goes on
	keptSize = 4 << 10   // the largest buffer that an idle connection keeps
)

// Conn is a connection of Serve or of a Listener. It is a net.Conn: any number of
// goroutines may use it.
//
// The loop receives for it, up to some 128 KiB ahead of Read. Write returns when
// the library has the bytes; it waits while more than HighWaterMark are queued.
type Conn struct {
	socket        *Socket
	listener      *Listener
	remote, local net.Addr

	writing sync.Mutex // the pieces of one Write stay together

	mu       sync.Mutex
	readable sync.Cond
	writable sync.Cond
	in       []byte // received; the first `used` bytes of it were read
	used     int
	paused   bool  // the loop receives nothing
	end      error // after `in`: io.EOF, or why the connection ended
	broken   error // why nothing can be sent any more: after io.EOF, too, a connection ends
	closed   bool  // by Close
	draining bool  // Write waits for OnDrain
	unsent   int   // at most so many bytes are queued
	reading  deadline
	sending  deadline

	failure error         // of the handler; under mu, nil once reported
	ended   chan struct{} // closed when the connection has ended
}

var (
	_ net.Conn    = (*Conn)(nil)
	_ io.WriterTo = (*Conn)(nil)
)

func newConn(l *Listener, s *Socket) *Conn {
	c := &Conn{socket: s, listener: l, remote: s.RemoteAddr(), local: s.LocalAddr(), ended: make(chan struct{})}
	c.readable.L, c.writable.L = &c.mu, &c.mu
	return c
}

// -- the loop's side -------------------------------------------------------------------

func (c *Conn) onData(s *Socket, data []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	c.in = append(c.in, data...)
	c.readable.Signal()
	if len(c.in)-c.used >= pauseAt {
		c.paused = true
		return s.Pause()
	}
	return nil
}

// finish notes the end of what can be read, and with another error than io.EOF of
// what can be sent.
func (c *Conn) finish(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.end == nil {
		c.end = err
	}
	if c.broken == nil && err != io.EOF {
		c.broken = err
	}
	c.readable.Broadcast()
	c.writable.Broadcast()
}

func (c *Conn) onDrain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.draining {
		c.draining = false
		c.writable.Broadcast()
	}
}

func (c *Conn) onClose(s *Socket, reason CloseReason) {
	c.finish(whyEnded(s, reason))
	close(c.ended)
}

func whyEnded(s *Socket, reason CloseReason) error {
	status := ErrClosed
	switch reason {
	case CloseReset:
		status = ErrReset
	case CloseIdle, CloseWriteTimeout:
		status = ErrTimeout
	}
	return &Error{Status: status, OSCode: s.OSError(), Message: "the connection has ended: " + reason.String()}
}

// -- reading -----------------------------------------------------------------------------

// Read reads what has arrived, and waits for it. At the end of the stream the
// error is io.EOF.
func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	c.mu.Lock()
	if err := c.awaitInput(); err != nil {
		c.mu.Unlock()
		return 0, c.failed("read", err)
	}
	n := copy(p, c.in[c.used:])
	c.used += n
	resume := c.consumed()
	c.mu.Unlock()
	if resume {
		c.resume()
	}
	return n, nil
}

// WriteTo writes what arrives to w, until the end of the stream. io.Copy calls it.
func (c *Conn) WriteTo(w io.Writer) (written int64, err error) {
	for {
		c.mu.Lock()
		if err := c.awaitInput(); err != nil {
			c.mu.Unlock()
			if err == io.EOF {
				return written, nil
			}
			return written, c.failed("read", err)
		}
		taken, from := c.in, c.used
		c.in, c.used = nil, 0
		resume := c.consumed()
		c.mu.Unlock()
		if resume {
			c.resume()
		}
		n, err := w.Write(taken[from:])
		written += int64(n)
		if err != nil {
			return written, err
		}
		c.mu.Lock()
		if c.in == nil && cap(taken) <= keptSize {
			c.in = taken[:0]
		}
		c.mu.Unlock()
	}
}

// awaitInput returns nil when there are bytes to read.
func (c *Conn) awaitInput() error {
	for {
		switch {
		case c.closed:
			return net.ErrClosed
		case c.reading.expired:
			return os.ErrDeadlineExceeded
		case len(c.in) > c.used:
			return nil
		case c.end != nil:
			return c.end
		case c.listener.stopping.Load():
			return errStopping
		}
		c.readable.Wait()
	}
}

// consumed reports whether the loop must be told to receive again.
func (c *Conn) consumed() bool {
	if c.used == len(c.in) {
		c.used = 0
		if cap(c.in) <= keptSize {
			c.in = c.in[:0]
		} else {
			c.in = nil
		}
	} else {
		c.readable.Signal() // to another reader
	}
	if !c.paused || len(c.in)-c.used > resumeAt {
		return false
	}
	c.paused = false
	return true
}

func (c *Conn) resume() {
	// An error: the connection has ended, and whoever reads learns that.
	_ = c.server().Do(c.ID(), (*Socket).Resume)
}

// -- writing -----------------------------------------------------------------------------

// Write writes all of p. nil means that the library has it, as a kernel would: not
// that it was delivered. After an error the first n bytes of p are on their way.
func (c *Conn) Write(p []byte) (n int, err error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	for first := true; first || n < len(p); first = false {
		next := p[n:min(n+c.listener.piece, len(p))]
		switch err := c.send(next); err {
		case nil:
			n += len(next)
		case ErrBufferFull: // somebody else fills the queue too
			first = true
		default:
			return n, c.failed("write", err)
		}
	}
	return n, nil
}

func (c *Conn) send(p []byte) error {
	c.mu.Lock()
	if err := c.awaitRoom(); err != nil {
		c.mu.Unlock()
		return err
	}
	c.unsent += len(p)
	c.mu.Unlock()
	if len(p) == 0 {
		return nil
	}
	err := c.server().Send(c.ID(), p)
	switch err {
	case ErrBufferFull:
		c.mu.Lock()
		c.unsent = c.listener.most + 1
		c.mu.Unlock()
	case ErrClosed:
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.broken != nil {
			return c.broken
		}
	}
	return err
}

// awaitRoom returns nil when there is room for a piece.
func (c *Conn) awaitRoom() error {
	for {
		switch {
		case c.closed:
			return net.ErrClosed
		case c.sending.expired:
			return os.ErrDeadlineExceeded
		case c.broken != nil:
			return c.broken
		case c.unsent <= c.listener.most:
			return nil
		}
		if !c.draining {
			// Before the question, so that no drain is missed after it.
			c.draining = true
			queued, err := c.server().Queued(c.ID())
			if c.unsent = queued; err != nil || queued <= c.listener.most {
				c.draining = false
				continue
			}
		}
		c.writable.Wait()
	}
}

// -- deadlines ---------------------------------------------------------------------------

type deadline struct {
	timer   *time.Timer
	expired bool
}

func (d *deadline) set(t time.Time, waiting *sync.Cond) {
	if d.timer != nil {
		d.timer.Stop()
	}
	d.timer, d.expired = nil, false
	if t.IsZero() {
		return
	}
	left := time.Until(t)
	if left <= 0 {
		d.expired = true
		waiting.Broadcast()
		return
	}
	var timer *time.Timer
	timer = time.AfterFunc(left, func() {
		waiting.L.Lock()
		defer waiting.L.Unlock()
		if d.timer == timer { // not replaced meanwhile
			d.expired = true
			waiting.Broadcast()
		}
	})
	d.timer = timer
}

// SetDeadline sets the deadlines of Read and Write.
func (c *Conn) SetDeadline(t time.Time) error { return c.setDeadlines(t, true, true) }

// SetReadDeadline sets when a Read fails with os.ErrDeadlineExceeded, also one
// that waits now; the zero time: never.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.setDeadlines(t, true, false) }

// SetWriteDeadline does the same for Write.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.setDeadlines(t, false, true) }

func (c *Conn) setDeadlines(t time.Time, read, write bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return c.failed("set", net.ErrClosed)
	}
	if read {
		c.reading.set(t, &c.readable)
	}
	if write {
		c.sending.set(t, &c.writable)
	}
	return nil
}

// -- ends --------------------------------------------------------------------------------

// Close closes the connection; what was written leaves. It does not wait for that.
// A Read or Write that waits fails with net.ErrClosed.
func (c *Conn) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return c.failed("close", net.ErrClosed)
	}
	c.closed = true
	c.in = nil
	c.used = 0
	c.reading.set(time.Time{}, &c.readable)
	c.sending.set(time.Time{}, &c.writable)
	c.readable.Broadcast()
	c.writable.Broadcast()
	c.mu.Unlock()
	_ = c.server().Close(c.ID()) // an error: it has ended already
	return nil
}

// CloseWrite ends sending, after what was written.
func (c *Conn) CloseWrite() error {
	return c.failed("close", c.server().CloseWrite(c.ID()))
}

// CloseRead ends receiving.
func (c *Conn) CloseRead() error {
	return c.failed("close", c.server().CloseRead(c.ID()))
}

// Abort resets the connection; what is queued is lost.
func (c *Conn) Abort() error {
	return c.failed("close", c.server().Abort(c.ID()))
}

// -- the rest ----------------------------------------------------------------------------

func (c *Conn) server() *Server { return c.listener.server }

// Server returns the server of the connection.
func (c *Conn) Server() *Server { return c.listener.server }

// ID returns the connection's ID, for the calls of Server.
func (c *Conn) ID() ID { return c.socket.ID() }

// RemoteAddr returns the peer's address: a *net.TCPAddr or *net.UnixAddr.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// LocalAddr returns the address of this side.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// Do has f run on the connection's loop, as a callback, and returns its error. It
// is the way to the methods of Socket. f must not block; Do may not be called in a
// callback.
func (c *Conn) Do(f func(*Socket) error) error {
	done := make(chan error, 1)
	err := c.server().Do(c.ID(), func(s *Socket) error {
		done <- f(s)
		return nil
	})
	if err != nil {
		return err
	}
	select {
	case err := <-done:
		return err
	case <-c.ended:
		return ErrClosed
	}
}

// TLS returns what the handshake agreed, ErrState without TLS.
func (c *Conn) TLS() (info *TLSInfo, err error) {
	err = c.Do(func(s *Socket) (err error) {
		info, err = s.TLS()
		return err
	})
	return info, err
}

// StartTLS upgrades a plain connection to TLS, after the go-ahead was written. What
// was received and not read goes to TLS, and ahead before it: what the program has
// read beyond the client's request. If the handshake fails, the connection ends.
func (c *Conn) StartTLS(tls *TLS, ahead []byte) error {
	return c.Do(func(s *Socket) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		unread := append(append([]byte(nil), ahead...), c.in[c.used:]...)
		c.in, c.used = nil, 0
		return s.StartTLS(tls, unread)
	})
}

// failed makes the error that the net package would make.
func (c *Conn) failed(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return &net.OpError{Op: op, Net: c.local.Network(), Source: c.local, Addr: c.remote, Err: err}
}

var errStopping error = &Error{Status: ErrClosed, Message: "the server stops"}
