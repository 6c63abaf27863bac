package netserver

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
)

// A handler's end of any kind is reported once, and closes the connection.
func TestHandlerPanicsOrExits(t *testing.T) {
	reports := make(chan error, 100)
	config := local()
	config.OnError = func(_ *Conn, err error) { reports <- err }
	ends := map[string]func(){
		"value": func() { panic("value") },
		"nil":   func() { panic(nil) },
		"exit":  runtime.Goexit,
	}
	s := serve(t, config, func(conn *Conn) error {
		buf := make([]byte, 10)
		n, err := conn.Read(buf)
		if err == nil {
			ends[string(buf[:n])]()
		}
		return err
	})
	for what := range ends {
		c := dial(t, s.Addr())
		c.say(what)
		c.end()
		var panicked *PanicError
		if err := take(t, reports); !errors.As(err, &panicked) {
			t.Fatalf("%v: %v", what, err)
		}
		if what == "value" {
			equal(t, panicked.Value, any("value"))
		}
	}
	s.stop(t)
	equal(t, len(reports), 0)
}

func TestCallbackPanicsWithNil(t *testing.T) {
	reports := make(chan error, 10)
	server := begin(t, local(), Events{
		OnData:  func(*Socket, []byte) error { panic(nil) },
		OnError: func(_ *Socket, err error) { reports <- err },
	})
	c := dial(t, server.Addr())
	c.say("x")
	c.end()
	_ = take(t, reports).(*PanicError)
	check(t, server.Post(0, func() error { panic(nil) }))
	_ = take(t, reports).(*PanicError)
}

// The C functions below a callback cannot be left: the program ends, and says why.
func TestCallbackExits(t *testing.T) {
	if os.Getenv("NETSERVER_TEST_EXIT") != "" {
		server := begin(t, local(), Events{})
		check(t, server.Post(0, func() error { runtime.Goexit(); return nil }))
		<-server.Done()
		return
	}
	child := exec.Command(os.Args[0], "-test.run=^TestCallbackExits$")
	child.Env = append(os.Environ(), "NETSERVER_TEST_EXIT=1")
	output, err := child.CombinedOutput()
	if err == nil || !strings.Contains(string(output), "a callback called runtime.Goexit") {
		t.Fatalf("%v: %s", err, output)
	}
}

func TestWouldBlockOfDoLeavesTheOtherCalls(t *testing.T) {
	server, sockets := opened(t, local(), Events{})
	dial(t, server.Addr())
	s := take(t, sockets)
	called := make(chan bool, 1)
	check(t, server.Post(0, func() error { // so that both calls wait
		check(t, server.Do(s.ID(), func(*Socket) error { return ErrWouldBlock }))
		return server.Do(s.ID(), func(*Socket) error { called <- true; return nil })
	}))
	take(t, called)
}

// A peer ends its stream and then is gone: a Write that waits for it fails.
func TestPeerHalfClosesAndResets(t *testing.T) {
	s, conns := conns(t, local())
	c := dial(t, s.Addr())
	conn := take(t, conns)
	check(t, c.Conn.(*net.TCPConn).CloseWrite())
	if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil || err.Error() != "EOF" {
		t.Fatal(n, err)
	}
	written := make(chan error, 1)
	go func() {
		for {
			if _, err := conn.Write(make([]byte, 1<<20)); err != nil {
				written <- err
				return
			}
		}
	}()
	await(t, "the Write waits", func() bool {
		conn.mu.Lock()
		defer conn.mu.Unlock()
		return conn.draining
	})
	check(t, c.Conn.(*net.TCPConn).SetLinger(0))
	check(t, c.Conn.Close())
	expect(t, take(t, written), ErrReset)
}
