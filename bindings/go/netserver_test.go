package netserver

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// patience is how long a test waits for what must happen.
const patience = 60 * time.Second

const data = "../../tests/data/"

// TestMain sees that nothing is left: no object, goroutine or descriptor.
func TestMain(m *testing.M) {
	goroutines, descriptors := runtime.NumGoroutine(), openDescriptors()
	code := m.Run()
	settled := func() bool {
		return Objects() == 0 && runtime.NumGoroutine() <= goroutines && openDescriptors() <= descriptors+2
	}
	// Go's own poller has two descriptors, and stays.
	if code == 0 && !waitUntil(settled) {
		fmt.Printf("left: %d objects, %d goroutines (of %d), %d descriptors (of %d)\n",
			Objects(), runtime.NumGoroutine(), goroutines, openDescriptors(), descriptors)
		buf := make([]byte, 1<<16)
		fmt.Printf("%s\n", buf[:runtime.Stack(buf, true)])
		code = 1
	}
	os.Exit(code)
}

func openDescriptors() int {
	names, _ := os.ReadDir("/proc/self/fd")
	return len(names)
}

func waitUntil(what func() bool) bool {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if what() {
			return true
		}
	}
	return false
}

func await(t *testing.T, what string, is func() bool) {
	t.Helper()
	if !waitUntil(is) {
		t.Fatal("never: ", what)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func expect(t *testing.T, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Fatalf("got %v, not %v", err, target)
	}
}

func equal(t *testing.T, got, want any) {
	t.Helper()
	if got != want {
		t.Fatalf("got %v, not %v", got, want)
	}
}

// take receives from a channel.
func take[T any](t *testing.T, channel <-chan T) (value T) {
	t.Helper()
	select {
	case value = <-channel:
	case <-time.After(patience):
		t.Fatal("nothing came")
	}
	return value
}

// local is a config for tests.
func local() Config {
	return Config{Service: "127.0.0.1:0", DrainTimeout: 5 * time.Second, ErrorLog: log.New(io.Discard, "", 0)}
}

func begin(t *testing.T, config Config, events Events) *Server {
	t.Helper()
	if events.OnData == nil {
		events.OnData = func(s *Socket, data []byte) error { _, err := s.Write(data); return err }
	}
	server, err := Start(config, events)
	check(t, err)
	t.Cleanup(func() { server.StopWithin(0) })
	return server
}

// client is one end of a connection, which says and reads lines.
type client struct {
	net.Conn
	*bufio.Reader
	t *testing.T
}

func (c *client) Read(p []byte) (int, error) { return c.Reader.Read(p) }

func dial(t *testing.T, addr net.Addr) *client {
	t.Helper()
	conn, err := net.Dial(addr.Network(), addr.String())
	check(t, err)
	return talk(t, conn)
}

func talk(t *testing.T, conn net.Conn) *client {
	check(t, conn.SetDeadline(time.Now().Add(patience)))
	t.Cleanup(func() { conn.Close() })
	return &client{conn, bufio.NewReader(conn), t}
}

func (c *client) say(text string) {
	c.t.Helper()
	_, err := io.WriteString(c.Conn, text)
	check(c.t, err)
}

func (c *client) hear(text string) {
	c.t.Helper()
	buf := make([]byte, len(text))
	if _, err := io.ReadFull(c.Reader, buf); err != nil {
		c.t.Fatalf("%v after %q", err, buf)
	}
	equal(c.t, string(buf), text)
}

// end sees that the server has closed, after no further byte.
func (c *client) end() {
	c.t.Helper()
	rest, err := io.ReadAll(c.Reader)
	check(c.t, err)
	equal(c.t, string(rest), "")
}

// reset closes with a reset.
func (c *client) reset() {
	check(c.t, c.Conn.(*net.TCPConn).SetLinger(0))
	c.Conn.Close()
}

func file(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(data, name))
	check(t, err)
	return text
}

func serverTLS(t *testing.T) *TLS {
	t.Helper()
	own, err := LoadTLS(data+"server.pem", data+"server-key.pem")
	check(t, err)
	return own
}

// clientTLS trusts the tests' authority.
func clientTLS(t *testing.T) *tls.Config {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(file(t, "ca.pem"))
	return &tls.Config{RootCAs: roots, ServerName: "localhost"}
}

func dialTLS(t *testing.T, addr net.Addr, config *tls.Config) *client {
	t.Helper()
	conn, err := tls.Dial("tcp", addr.String(), config)
	check(t, err)
	return talk(t, conn)
}

// logger is a log that a test reads.
type logger struct {
	lines chan string
}

func newLogger() *logger { return &logger{make(chan string, 100)} }

func (l *logger) Write(p []byte) (int, error) {
	l.lines <- string(p)
	return len(p), nil
}

func (l *logger) config() Config {
	config := local()
	config.ErrorLog = log.New(l, "", 0)
	return config
}

func contains(t *testing.T, text, part string) {
	t.Helper()
	if !strings.Contains(text, part) {
		t.Fatalf("%q is not in %q", part, text)
	}
}

func pattern(size int) []byte {
	block := []byte("0123456789abcdefghijklmnopqrstuvwxyz;")
	return bytes.Repeat(block, size/len(block)+1)[:size]
}
