package netserver

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestStartFails(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer taken.Close()
	ignore := Events{OnData: func(*Socket, []byte) error { return nil }}
	config := local()
	config.Service = taken.Addr().String()
	_, err = Start(config, ignore)
	expect(t, err, ErrListen)
	expect(t, err, syscall.EADDRINUSE)
	contains(t, err.Error(), config.Service)
	config.Loops = 3
	_, err = Start(config, ignore)
	expect(t, err, ErrListen)

	for what, bad := range map[string]Config{
		"service":     {Service: "127.0.0.1:99999"},
		"loops":       {Service: "0", Loops: -1},
		"high water":  {Service: "0", HighWaterMark: 1 << 30},
		"negative":    {Service: "0", SendLimit: -1},
		"certificate": {Service: "0", TLS: NewTLS()},
		"unix":        {Service: "unix:@many-loops", Loops: 2},
		"on error":    {Service: "0", OnError: func(*Conn, error) {}},
	} {
		if _, err := Start(bad, ignore); err == nil {
			t.Error("started with a bad ", what)
		}
	}
	_, err = Start(local(), Events{})
	expect(t, err, ErrInvalid)
}

func TestTextsWithANUL(t *testing.T) {
	text := "0\x00x"
	ignore := Events{OnData: func(*Socket, []byte) error { return nil }}
	for _, config := range []Config{
		{Service: text},
		{Service: "0", ShutdownPort: text},
		{Service: "0", Services: []Service{{Service: text}}},
	} {
		_, err := Start(config, ignore)
		expect(t, err, ErrInvalid)
	}
	s, err := Start(local(), ignore)
	check(t, err)
	defer s.Stop()
	_, err = s.Connect(text, 0, nil)
	expect(t, err, ErrInvalid)
	expect(t, NewTLS().AddCertFile("", text, text), ErrInvalid)
	expect(t, NewTLS().AddCertPEM(text, nil, nil), ErrInvalid)
	expect(t, NewTLS().AddCertDER(text, [][]byte{nil}, nil), ErrInvalid)
	expect(t, NewTLS().SetClientCAFile(text, true), ErrInvalid)
	expect(t, NewTLS().SetALPN(text), ErrInvalid)
}

func TestServices(t *testing.T) {
	config := local()
	config.Loops = 2
	config.Services = []Service{{Service: "127.0.0.1:0"}, {Service: "127.0.0.1:0", TLS: serverTLS(t)}}
	server := begin(t, config, Events{
		OnData: func(s *Socket, data []byte) error {
			_, err := s.Write([]byte{'0' + byte(s.Service())})
			return err
		},
	})
	for i, number := range []string{"0", "1", "2"} {
		for j := 0; j < 4; j++ { // so that both loops get some
			addr, err := net.ResolveTCPAddr("tcp", server.Address(i))
			check(t, err)
			var c *client
			if i == 2 {
				c = dialTLS(t, addr, clientTLS(t))
			} else {
				c = dial(t, addr)
			}
			c.say("which?")
			c.hear(number)
		}
	}
	equal(t, server.Address(3), "")
}

func TestStatsAndReport(t *testing.T) {
	server, sockets := opened(t, local(), Events{})
	c := dial(t, server.Addr())
	c.say("hello")
	c.hear("hello")
	take(t, sockets)
	stats := server.Stats()
	equal(t, stats.State, Running)
	equal(t, stats.Open, uint64(1))
	equal(t, stats.BytesIn, uint64(5))
	contains(t, server.Report(), "running")
	one, err := server.LoopStats(0)
	check(t, err)
	equal(t, one.Accepted, uint64(1))
	_, err = server.LoopStats(1)
	expect(t, err, ErrInvalid)
	server.Stop()
	stats = server.Stats()
	equal(t, stats.State, Stopped)
	equal(t, stats.Accepted, uint64(1))
	equal(t, stats.Closed[CloseStop], uint64(1))
	contains(t, server.Report(), "stopped")
	equal(t, server.Port(), 0)
	c.end()
}

// refused waits until nobody listens there any more.
func refused(t *testing.T, address net.Addr) {
	t.Helper()
	await(t, "refused", func() bool {
		late, err := net.Dial(address.Network(), address.String())
		if err == nil {
			late.Close()
		}
		return errors.Is(err, syscall.ECONNREFUSED)
	})
}

func TestQuiesce(t *testing.T) {
	config := local()
	config.Loops = 2
	server, sockets := opened(t, config, Events{})
	address := server.Addr()
	c := dial(t, address)
	take(t, sockets)
	server.RequestQuiesce()
	refused(t, address)
	c.say("still here")
	c.hear("still here")
	equal(t, server.Stats().State, Quiescing)
	server.Stop()
	equal(t, server.Stats().State, Stopped)
}

// A descriptor of the program's, which all loops share: after the quiesce of each of them the clients
// are the program's.
func TestQuiesceOfASharedDescriptor(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer listener.Close()
	shared, err := listener.(*net.TCPListener).File()
	check(t, err)
	defer shared.Close()
	config := local()
	config.Service = fmt.Sprintf("fd:%d", shared.Fd())
	config.Loops = 4
	server := begin(t, config, Events{})
	c := dial(t, listener.Addr())
	c.say("hello")
	c.hear("hello")
	server.RequestQuiesce()
	const clients = 5
	await(t, "no loop accepts", func() bool {
		for i := 0; i < clients; i++ {
			late, err := net.Dial("tcp", listener.Addr().String())
			check(t, err)
			defer late.Close()
		}
		time.Sleep(20 * time.Millisecond) // a loop that accepts takes them
		check(t, listener.(*net.TCPListener).SetDeadline(time.Now().Add(100*time.Millisecond)))
		for i := 0; i < clients; i++ {
			conn, err := listener.Accept()
			if err != nil {
				return false
			}
			defer conn.Close()
		}
		return true
	})
	c.say("still here")
	c.hear("still here")
	equal(t, server.Stats().State, Quiescing)
	server.Stop()
}

func TestStopFromEverywhere(t *testing.T) {
	server, sockets := opened(t, local(), Events{
		OnData: func(s *Socket, data []byte) error { s.Server().RequestStop(); return nil },
	})
	c := dial(t, server.Addr())
	take(t, sockets)
	c.say("stop")
	var stops sync.WaitGroup
	for i := 0; i < 10; i++ {
		i := i
		stops.Add(1)
		go func() {
			defer stops.Done()
			if i%2 == 0 {
				server.Stop()
			} else {
				server.StopWithin(time.Duration(i) * time.Second)
			}
		}()
	}
	stops.Wait()
	take(t, server.Done())
	c.end()
}

func TestShutdownHandler(t *testing.T) {
	config := local()
	config.ShutdownPort = "0"
	config.OnShutdown = func(s *Socket, data []byte) bool {
		_, _ = s.Write(data)
		return string(data) == "please"
	}
	server := begin(t, config, Events{})
	port := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: server.ShutdownPort()}
	c := dial(t, port)
	c.say("now")
	c.hear("now")
	c.say("please")
	c.hear("please")
	take(t, server.Done())
}

func TestCollectionInEveryCallback(t *testing.T) {
	server := begin(t, local(), Events{
		OnOpen: func(s *Socket) error { s.Data = new(int); runtime.GC(); return nil },
		OnData: func(s *Socket, data []byte) error {
			runtime.GC()
			*s.Data.(*int) += len(data)
			_, err := s.Write(data)
			return err
		},
		OnClose: func(s *Socket, _ CloseReason) { runtime.GC() },
	})
	for i := 0; i < 20; i++ {
		c := dial(t, server.Addr())
		for j := 0; j < 5; j++ {
			c.say("hello")
			c.hear("hello")
		}
		c.Conn.Close()
	}
}

func TestConnectionsLeaveNothing(t *testing.T) {
	before := Objects()
	server := begin(t, local(), Events{})
	for i := 0; i < 2000; i++ {
		conn, err := net.Dial("tcp", server.Addr().String())
		check(t, err)
		if i%3 == 0 {
			_ = conn.(*net.TCPConn).SetLinger(0)
		}
		conn.Close()
	}
	await(t, "the table is empty", func() bool { return Objects() == before+1 && server.Stats().Open == 0 })
}
