package netserver

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"
)

// serving is a listener whose handler runs, and how to end it.
type serving struct {
	*Listener
	cancel context.CancelFunc
	ended  chan error
}

func serve(t *testing.T, config Config, handler Handler) *serving {
	t.Helper()
	listener, err := Listen(config)
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	s := &serving{listener, cancel, make(chan error, 1)}
	go func() { s.ended <- listener.Serve(ctx, handler) }()
	t.Cleanup(func() {
		cancel()
		<-listener.Server().Done()
	})
	return s
}

func (s *serving) stop(t *testing.T) {
	t.Helper()
	s.cancel()
	check(t, take(t, s.ended))
}

func echo(conn *Conn) error {
	_, err := io.Copy(conn, conn)
	return err
}

// conns gives the server's ends of connections to a test, and keeps them open.
func conns(t *testing.T, config Config) (*serving, chan *Conn) {
	channel, done := make(chan *Conn, 10), make(chan struct{})
	s := serve(t, config, func(conn *Conn) error {
		channel <- conn
		<-done
		return nil
	})
	t.Cleanup(func() { close(done) })
	return s, channel
}

func TestServeEchoes(t *testing.T) {
	for _, loops := range []int{1, 3} {
		config := local()
		config.Loops = loops
		s := serve(t, config, echo)
		var clients sync.WaitGroup
		for i := 0; i < 20; i++ {
			c := dial(t, s.Addr())
			clients.Add(1)
			go func() {
				defer clients.Done()
				sent := pattern(1 << 18)
				go func() {
					_, _ = c.Conn.Write(sent)
					_ = c.Conn.(*net.TCPConn).CloseWrite()
				}()
				if got, err := io.ReadAll(c.Reader); err != nil || !bytes.Equal(got, sent) {
					t.Errorf("%d bytes came, %v", len(got), err)
				}
			}()
		}
		clients.Wait()
		s.stop(t)
		equal(t, s.Server().Stats().Accepted, uint64(20))
	}
}

func TestReadDeadline(t *testing.T) {
	s, conns := conns(t, local())
	c := dial(t, s.Addr())
	conn := take(t, conns)
	buf := make([]byte, 10)

	check(t, conn.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
	_, err := conn.Read(buf)
	expect(t, err, os.ErrDeadlineExceeded)
	var timeout net.Error
	if !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Fatalf("%v is no timeout", err)
	}

	// A deadline that is set meanwhile ends a Read that waits.
	check(t, conn.SetReadDeadline(time.Time{}))
	result := make(chan error)
	go func() {
		_, err := conn.Read(buf)
		result <- err
	}()
	check(t, conn.SetDeadline(time.Unix(1, 0)))
	expect(t, take(t, result), os.ErrDeadlineExceeded)

	// And the connection goes on.
	check(t, conn.SetDeadline(time.Time{}))
	c.say("hello")
	n, err := conn.Read(buf)
	check(t, err)
	equal(t, string(buf[:n]), "hello")
}

func TestWriteWaitsForThePeer(t *testing.T) {
	s, conns := conns(t, local())
	c := dial(t, s.Addr())
	conn := take(t, conns)
	check(t, conn.SetWriteDeadline(time.Now().Add(200*time.Millisecond)))
	sent := 0
	piece := pattern(1 << 20)
	var err error
	for err == nil && sent < 1<<30 {
		var n int
		n, err = conn.Write(piece)
		sent += n
	}
	expect(t, err, os.ErrDeadlineExceeded)
	if sent > 64<<20 {
		t.Fatalf("%d bytes were taken for a client that does not read", sent)
	}
	// A Write that waits goes on when the peer reads, and no byte is lost.
	check(t, conn.SetWriteDeadline(time.Time{}))
	result := make(chan error)
	go func() {
		_, err := conn.Write([]byte("the end"))
		_ = conn.Close()
		result <- err
	}()
	got, err := io.ReadAll(c.Reader)
	check(t, err)
	check(t, take(t, result))
	equal(t, len(got), sent+len("the end"))
}

func TestReadAheadIsBounded(t *testing.T) {
	s, conns := conns(t, local())
	c := dial(t, s.Addr())
	conn := take(t, conns)
	check(t, c.Conn.SetWriteDeadline(time.Now().Add(300*time.Millisecond)))
	sent := 0
	var err error
	for err == nil && sent < 1<<30 {
		var n int
		n, err = c.Conn.Write(pattern(1 << 20))
		sent += n
	}
	expect(t, err, os.ErrDeadlineExceeded)
	if read := s.Server().Stats().BytesIn; read > 1<<20 {
		t.Fatalf("%d bytes were read ahead", read)
	}
	_ = c.Conn.(*net.TCPConn).CloseWrite()
	n, err := io.Copy(io.Discard, conn)
	check(t, err)
	equal(t, int(n), sent)
}

func TestManyGoroutinesOfOneConn(t *testing.T) {
	s, conns := conns(t, local())
	c := dial(t, s.Addr())
	conn := take(t, conns)
	const writers, lines = 8, 100
	line := pattern(1000)
	line[len(line)-1] = '\n'
	for i := 0; i < writers; i++ {
		go func() {
			for j := 0; j < lines; j++ {
				_, _ = conn.Write(line)
			}
		}()
	}
	for i := 0; i < writers*lines; i++ {
		c.hear(string(line)) // each in one piece
	}
	var readers sync.WaitGroup
	var mu sync.Mutex
	total := 0
	for i := 0; i < 4; i++ {
		readers.Add(1)
		go func() {
			defer readers.Done()
			buf := make([]byte, 100)
			for {
				n, err := conn.Read(buf)
				mu.Lock()
				total += n
				mu.Unlock()
				if err != nil {
					if !errors.Is(err, net.ErrClosed) {
						t.Error(err)
					}
					return
				}
			}
		}()
	}
	c.say(string(pattern(10000)))
	await(t, "all is read", func() bool { mu.Lock(); defer mu.Unlock(); return total == 10000 })
	check(t, conn.Close())
	readers.Wait()
	expect(t, conn.Close(), net.ErrClosed)
	_, err := conn.Write([]byte("x"))
	expect(t, err, net.ErrClosed)
	c.end()
}

func TestHalfClose(t *testing.T) {
	s, conns := conns(t, local())
	c := dial(t, s.Addr())
	conn := take(t, conns)
	check(t, conn.CloseWrite())
	c.end()
	c.say("still heard")
	buf := make([]byte, 20)
	n, err := io.ReadAtLeast(conn, buf, 11)
	check(t, err)
	equal(t, string(buf[:n]), "still heard")
}

func TestPeerResets(t *testing.T) {
	s, conns := conns(t, local())
	c := dial(t, s.Addr())
	conn := take(t, conns)
	c.reset()
	_, err := conn.Read(make([]byte, 10))
	expect(t, err, ErrReset)
	expect(t, err, syscall.ECONNRESET)
	_, err = conn.Write([]byte("x"))
	if err == nil {
		t.Fatal("a write to a connection that was reset succeeded")
	}
}

func TestAddresses(t *testing.T) {
	s, channel := conns(t, local())
	c := dial(t, s.Addr())
	conn := take(t, channel)
	equal(t, conn.RemoteAddr().String(), c.Conn.LocalAddr().String())
	equal(t, conn.LocalAddr().String(), s.Addr().String())
	equal(t, conn.LocalAddr().Network(), "tcp")

	path := t.TempDir() + "/socket"
	config := local()
	config.Service = "unix:" + path
	s, channel = conns(t, config)
	c = dial(t, s.Addr())
	conn = take(t, channel)
	equal(t, conn.LocalAddr().String(), path)
	equal(t, conn.RemoteAddr().Network(), "unix")
	check(t, conn.Do(func(s *Socket) error {
		peer, err := s.PeerCredentials()
		if err == nil {
			equal(t, int(peer.Pid), os.Getpid())
		}
		return err
	}))
}

func TestHandlerFails(t *testing.T) {
	failure := errors.New("quite wrong")
	type report struct {
		conn *Conn
		err  error
	}
	reports := make(chan report, 10)
	config := local()
	config.OnError = func(conn *Conn, err error) { reports <- report{conn, err} }
	s := serve(t, config, func(conn *Conn) error {
		buf := make([]byte, 1)
		if _, err := conn.Read(buf); err != nil {
			return err
		}
		if buf[0] == 'p' {
			panic(failure)
		}
		return failure
	})
	for _, how := range []string{"r", "p"} {
		c := dial(t, s.Addr())
		c.say(how)
		got := take(t, reports)
		equal(t, got.conn.RemoteAddr().String(), c.Conn.LocalAddr().String())
		if how == "r" {
			equal(t, got.err, failure)
		} else {
			panicked := got.err.(*PanicError)
			equal(t, panicked.Value, any(failure))
			contains(t, string(panicked.Stack), "TestHandlerFails")
		}
		c.end()
	}
	equal(t, s.Server().Stats().HandlerErrors, uint64(2))
}

func TestHandlerFailsWithoutOnError(t *testing.T) {
	logged := newLogger()
	s := serve(t, logged.config(), func(conn *Conn) error { panic("nobody listens") })
	c := dial(t, s.Addr())
	c.end()
	line := take(t, logged.lines)
	contains(t, line, "panic serving "+c.Conn.LocalAddr().String()+": nobody listens")
	contains(t, line, "TestHandlerFailsWithoutOnError")
}

func TestOnClose(t *testing.T) {
	reasons := make(chan CloseReason, 10)
	logged := newLogger()
	config := logged.config()
	config.OnClose = func(_ *Conn, reason CloseReason) {
		reasons <- reason
		panic("too late")
	}
	s := serve(t, config, echo)
	c := dial(t, s.Addr())
	c.say("x")
	c.hear("x")
	c.Conn.Close()
	equal(t, take(t, reasons), ClosePeer)
	contains(t, take(t, logged.lines), "too late")
	c = dial(t, s.Addr())
	c.say("x")
	c.hear("x")
	c.reset()
	equal(t, take(t, reasons), CloseReset)
}

func TestStopLetsHandlersFinish(t *testing.T) {
	busy, proceed := make(chan struct{}), make(chan struct{})
	s := serve(t, local(), func(conn *Conn) error {
		if _, err := conn.Read(make([]byte, 10)); err != nil {
			return err
		}
		close(busy)
		<-proceed
		_, err := conn.Write([]byte("the answer"))
		return err
	})
	idle, c := dial(t, s.Addr()), dial(t, s.Addr())
	c.say("question")
	take(t, busy)
	s.cancel()
	idle.end() // whose handler waits for input
	close(proceed)
	c.hear("the answer")
	c.end()
	check(t, take(t, s.ended))
}

func TestStopCutsWhatIsLeft(t *testing.T) {
	config := local()
	config.DrainTimeout = 50 * time.Millisecond
	never := make(chan struct{})
	s := serve(t, config, func(conn *Conn) error { <-never; return nil })
	dial(t, s.Addr())
	await(t, "the client is there", func() bool { return s.Server().Stats().Open == 1 })
	s.cancel()
	expect(t, take(t, s.ended), ErrTimeout)
	equal(t, s.Server().Stats().Open, uint64(0))
	close(never)
}

func TestShutdownPort(t *testing.T) {
	config := local()
	config.ShutdownPort = "0"
	s := serve(t, config, echo)
	c := dial(t, s.Addr())
	c.say("x")
	c.hear("x")
	port := s.Server().ShutdownPort()
	dial(t, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
	check(t, take(t, s.ended))
	c.end()
}

func TestIdleTimeout(t *testing.T) {
	config := local()
	config.IdleTimeout = 50 * time.Millisecond
	s, conns := conns(t, config)
	c := dial(t, s.Addr())
	_, err := take(t, conns).Read(make([]byte, 1))
	expect(t, err, ErrTimeout)
	c.end()
}

// -- net.Listener ------------------------------------------------------------------------

func listen(t *testing.T, config Config) *Listener {
	t.Helper()
	listener, err := Listen(config)
	check(t, err)
	return listener
}

func TestAccept(t *testing.T) {
	listener := listen(t, local())
	c := dial(t, listener.Addr())
	conn, err := listener.Accept()
	check(t, err)
	c.say("hello")
	buf := make([]byte, 5)
	_, err = io.ReadFull(conn, buf)
	check(t, err)
	equal(t, string(buf), "hello")

	// A connection outlives the listener; new clients are refused.
	failed := make(chan error)
	go func() {
		_, err := listener.Accept()
		failed <- err
	}()
	check(t, listener.Close())
	expect(t, take(t, failed), net.ErrClosed)
	expect(t, listener.Close(), net.ErrClosed)
	refused(t, listener.Addr())
	_, err = conn.Write([]byte("still here"))
	check(t, err)
	c.hear("still here")
	check(t, conn.Close())
	c.Conn.Close()
	<-listener.Server().Done() // the last connection has ended
}

func TestCloseFreesThePort(t *testing.T) {
	listener := listen(t, local())
	addr := listener.Addr()
	check(t, listener.Close())
	other, err := net.Listen("tcp", addr.String())
	check(t, err)
	other.Close()
}

func TestHTTP(t *testing.T) {
	config := local()
	config.TLS = serverTLS(t)
	for _, listener := range []*Listener{listen(t, local()), listen(t, config)} {
		web := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			_, _ = w.Write(append([]byte("you said "), body...))
		})}
		served := make(chan error)
		go func() { served <- web.Serve(listener) }()
		transport := &http.Transport{TLSClientConfig: clientTLS(t)}
		browser := &http.Client{Transport: transport, Timeout: patience}
		scheme := "http://"
		if listener.Server().config.TLS != nil {
			scheme = "https://"
		}
		body := pattern(1 << 20)
		var requests sync.WaitGroup
		for i := 0; i < 10; i++ {
			requests.Add(1)
			go func() {
				defer requests.Done()
				answer, err := browser.Post(scheme+listener.Addr().String(), "text/plain", bytes.NewReader(body))
				if err != nil {
					t.Error(err)
					return
				}
				defer answer.Body.Close()
				if got, err := io.ReadAll(answer.Body); err != nil || len(got) != len(body)+9 {
					t.Errorf("%d bytes, %v", len(got), err)
				}
			}()
		}
		requests.Wait()
		transport.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		check(t, web.Shutdown(ctx))
		cancel()
		expect(t, take(t, served), http.ErrServerClosed)
		<-listener.Server().Done()
	}
}

func TestWriteWithASmallLimit(t *testing.T) {
	for _, limit := range []int{1, 10, 100000} {
		config := local()
		config.SendLimit, config.HighWaterMark = limit, limit
		sent := pattern(5000 * min(limit, 100))
		s := serve(t, config, func(conn *Conn) error {
			_, err := conn.Write(sent)
			return err
		})
		got, err := io.ReadAll(dial(t, s.Addr()).Reader)
		check(t, err)
		equal(t, len(got), len(sent))
	}
}
