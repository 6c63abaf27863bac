package netserver

import (
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// opened begins a server and gives the sockets of its connections' OnOpen.
func opened(t *testing.T, config Config, events Events) (*Server, chan *Socket) {
	sockets := make(chan *Socket, 100)
	events.OnOpen = func(s *Socket) error { sockets <- s; return nil }
	return begin(t, config, events), sockets
}

func TestEvents(t *testing.T) {
	events := make(chan string, 100)
	server := begin(t, local(), Events{
		OnOpen: func(s *Socket) error { events <- "open"; s.Data = 0; return nil },
		OnData: func(s *Socket, data []byte) error {
			s.Data = s.Data.(int) + len(data)
			if s.Data == 5 {
				events <- "data"
				return s.SetTimer(time.Millisecond)
			}
			return nil
		},
		OnTimeout: func(s *Socket) error { events <- "timeout"; return s.Server().Wake(s.ID()) },
		OnWake:    func(s *Socket) error { events <- "wake"; _, err := s.Write([]byte("awake")); return err },
		OnEnd:     func(s *Socket) error { events <- "end"; return s.Close() },
		OnClose:   func(s *Socket, reason CloseReason) { events <- "close " + reason.String() },
	})
	c := dial(t, server.Addr())
	c.say("hello")
	c.hear("awake")
	check(t, c.Conn.(*net.TCPConn).CloseWrite())
	c.end()
	for _, what := range []string{"open", "data", "timeout", "wake", "end", "close peer"} {
		equal(t, take(t, events), what)
	}
}

func TestDrainAndLimit(t *testing.T) {
	config := local()
	config.SendLimit = 1 << 20
	config.LowWaterMark = 1 << 10
	drained := make(chan int, 100)
	server, sockets := opened(t, config, Events{
		OnDrain: func(s *Socket) error { drained <- s.Queued(); return nil },
	})
	c := dial(t, server.Addr())
	id := take(t, sockets).ID()
	piece := pattern(1 << 18)
	sent := 0
	var err error
	for ; err == nil; sent++ {
		err = server.Send(id, piece)
		time.Sleep(time.Millisecond) // the loop may take it
	}
	expect(t, err, ErrBufferFull)
	queued, err := server.Queued(id)
	check(t, err)
	if queued > 1<<20 || queued == 0 {
		t.Fatalf("%d bytes are queued", queued)
	}
	for i := 0; i < sent-1; i++ {
		c.hear(string(piece))
	}
	if left := take(t, drained); left > 1<<10 {
		t.Fatalf("drained with %d bytes", left)
	}
}

func TestPauseAndResume(t *testing.T) {
	received := make(chan string, 10)
	server, sockets := opened(t, local(), Events{
		OnData: func(s *Socket, data []byte) error {
			received <- string(data)
			return s.Pause()
		},
	})
	c := dial(t, server.Addr())
	id := take(t, sockets).ID()
	for _, text := range []string{"one", "two"} {
		c.say(text)
		equal(t, take(t, received), text)
		check(t, server.Do(id, (*Socket).Resume))
	}
}

func TestOutsideOfCallbacks(t *testing.T) {
	server, sockets := opened(t, local(), Events{})
	dial(t, server.Addr())
	s := take(t, sockets)
	server.StopWithin(0)
	_, err := s.Write([]byte("x"))
	expect(t, err, ErrNotInHandler)
	expect(t, s.Close(), ErrNotInHandler)
	_, err = s.Detach()
	expect(t, err, ErrNotInHandler)
	if !s.IsClosed() || s.FD() != -1 || s.Service() != -1 {
		t.Fatal("the socket can be used")
	}
}

func TestErrorsReachOnError(t *testing.T) {
	type report struct {
		s   *Socket
		err error
	}
	reports := make(chan report, 10)
	failure := errors.New("quite wrong")
	server, sockets := opened(t, local(), Events{
		OnData: func(s *Socket, data []byte) error {
			if data[0] == 'p' {
				panic(failure)
			}
			return failure
		},
		OnError: func(s *Socket, err error) {
			if s != nil {
				_, _ = s.Write([]byte("sorry"))
			}
			reports <- report{s, err}
			runtime.GC()
			if err == failure {
				panic("in OnError too")
			}
		},
	})
	for _, how := range []string{"r", "p"} {
		c := dial(t, server.Addr())
		s := take(t, sockets)
		c.say(how)
		c.hear("sorry")
		c.end()
		got := take(t, reports)
		equal(t, got.s, s)
		if how == "r" {
			equal(t, got.err, failure)
			continue
		}
		panicked := got.err.(*PanicError)
		equal(t, panicked.Value, any(failure))
		expect(t, got.err, failure)
		contains(t, string(panicked.Stack), "TestErrorsReachOnError")
	}
	_, err := server.SetTimer(0, 0, 0, func() error { return failure })
	check(t, err)
	equal(t, take(t, reports), report{nil, failure})
	check(t, server.Post(0, func() error { panic("posted") }))
	equal(t, take(t, reports).err.(*PanicError).Value, any("posted"))
}

func TestOnOpenRefuses(t *testing.T) {
	server := begin(t, local(), Events{
		OnOpen: func(s *Socket) error {
			_, _ = s.Write([]byte("full"))
			return ErrRejected
		},
	})
	c := dial(t, server.Addr())
	c.hear("full")
	c.end()
	await(t, "it is counted", func() bool { return server.Stats().Closed[CloseRejected] == 1 })
	equal(t, server.Stats().HandlerErrors, uint64(0))
}

// -- by ID -------------------------------------------------------------------------------

func TestByID(t *testing.T) {
	server, sockets := opened(t, local(), Events{})
	a, b := dial(t, server.Addr()), dial(t, server.Addr())
	ids := []ID{take(t, sockets).ID(), take(t, sockets).ID()}
	if ids[0] == ids[1] || len(server.IDs()) != 2 {
		t.Fatal("IDs: ", ids, server.IDs())
	}
	for _, id := range ids {
		check(t, server.Send(id, []byte("to ")))
		check(t, server.Send(id, nil))
	}
	equal(t, server.Broadcast(append(ids, 12345), []byte("all")), 2)
	a.hear("to all")
	b.hear("to all")
	for _, id := range ids {
		check(t, server.CloseWrite(id))
	}
	a.end()
	a.Conn.Close()
	await(t, "the first is gone", func() bool { return len(server.IDs()) == 1 })
	gone := ids[0]
	if gone == server.IDs()[0] {
		gone = ids[1]
	}
	expect(t, server.Send(gone, []byte("x")), ErrClosed)
	expect(t, server.Wake(gone), ErrClosed)
	errs := server.BroadcastEach([]ID{gone, server.IDs()[0]}, []byte("x"))
	expect(t, errs[0], ErrClosed)
	expect(t, errs[1], ErrClosed) // its sending side has ended
	check(t, server.Abort(server.IDs()[0]))
	server.Stop()
	expect(t, server.Send(ids[0], []byte("x")), ErrClosed)
	expect(t, server.Post(0, func() error { return nil }), ErrState)
	expect(t, server.Send(0, []byte("x")), ErrClosed)
}

func TestSendFromAMemberOfAStruct(t *testing.T) {
	server, sockets := opened(t, local(), Events{})
	c := dial(t, server.Addr())
	id := take(t, sockets).ID()
	holder := &struct {
		pointer *int
		bytes   [5]byte
	}{new(int), [5]byte{'h', 'e', 'l', 'l', 'o'}}
	check(t, server.Send(id, holder.bytes[:]))
	c.hear("hello")
}

// -- timers, tasks, watches --------------------------------------------------------------

func TestTimersAndTasks(t *testing.T) {
	config := local()
	config.Loops = 2
	server := begin(t, config, Events{})
	fired := make(chan int, 100)
	started := time.Now()
	_, err := server.SetTimer(1, 30*time.Millisecond, 0, func() error { fired <- 1; return nil })
	check(t, err)
	equal(t, take(t, fired), 1)
	if waited := time.Since(started); waited < 30*time.Millisecond {
		t.Fatalf("fired after %v", waited)
	}
	var timer *Timer
	count := 0
	set := make(chan struct{})
	timer, err = server.SetTimer(0, time.Millisecond, time.Millisecond, func() error {
		<-set
		if count++; count == 3 {
			check(t, timer.Cancel())
			fired <- count
		}
		return nil
	})
	check(t, err)
	close(set)
	equal(t, take(t, fired), 3)
	expect(t, timer.Cancel(), ErrClosed)
	for i := 0; i < 10; i++ {
		i := i
		check(t, server.Post(1, func() error { fired <- i; return nil }))
	}
	for i := 0; i < 10; i++ {
		equal(t, take(t, fired), i)
	}
	_, err = server.SetTimer(2, 0, 0, func() error { return nil })
	expect(t, err, ErrInvalid)
	_, err = server.SetTimer(0, -1, 0, func() error { return nil })
	expect(t, err, ErrInvalid)
}

func TestWatch(t *testing.T) {
	server := begin(t, local(), Events{})
	reader, writer, err := os.Pipe()
	check(t, err)
	defer reader.Close()
	defer writer.Close()
	read := make(chan string, 10)
	fd := int(reader.Fd())
	watch, err := server.Watch(0, fd, Readable, func(ready Readiness) error {
		buf := make([]byte, 10)
		n, err := syscall.Read(fd, buf)
		read <- string(buf[:n])
		return err
	})
	check(t, err)
	for _, text := range []string{"one", "two"} {
		_, err = writer.WriteString(text)
		check(t, err)
		equal(t, take(t, read), text)
	}
	_, err = server.Watch(0, fd, Readable, func(Readiness) error { return nil })
	expect(t, err, ErrBusy)
	check(t, watch.Change(Readable|Writable))
	check(t, watch.Close())
	expect(t, watch.Close(), ErrClosed)
}

// -- sockets of the program's ------------------------------------------------------------

func TestDetachAndAttach(t *testing.T) {
	config := local()
	config.Loops = 2
	owners := make(chan *OwnedSocket, 10)
	server, sockets := opened(t, config, Events{
		OnData: func(s *Socket, data []byte) error {
			if string(data) != "detach" {
				_, err := s.Write(data)
				return err
			}
			s.Data = "kept"
			owned, err := s.Detach()
			owners <- owned
			return err
		},
	})
	c := dial(t, server.Addr())
	id := take(t, sockets).ID()
	for i := 0; i < 3; i++ {
		c.say("detach")
		owned := take(t, owners)
		expect(t, server.Send(id, []byte("x")), ErrClosed)
		equal(t, len(server.IDs()), 0)
		_, err := owned.Write([]byte("owned"))
		check(t, err)
		c.hear("owned")
		c.say("mine")
		buf := make([]byte, 4)
		_, err = io.ReadFull(owned, buf)
		check(t, err)
		equal(t, string(buf), "mine")
		equal(t, owned.Data(), any("kept"))
		check(t, owned.SetIOTimeout(20*time.Millisecond))
		_, err = owned.Read(buf)
		expect(t, err, os.ErrDeadlineExceeded)
		next, err := owned.Attach(server)
		check(t, err)
		if next == id {
			t.Fatal("the ID is the same")
		}
		id = next
		check(t, server.Send(id, []byte("attached")))
		c.hear("attached")
		_, err = owned.Write([]byte("x"))
		expect(t, err, ErrClosed)
	}
	c.say("detach")
	owned := take(t, owners)
	server.Stop()
	_, err := owned.Attach(server)
	expect(t, err, ErrState)
	check(t, c.Conn.(*net.TCPConn).CloseWrite())
	_, err = owned.Read(make([]byte, 1))
	equal(t, err, io.EOF)
	check(t, owned.Close())
	expect(t, owned.Close(), ErrClosed)
	c.end()
}

func TestAdoptConnectAndFromFD(t *testing.T) {
	server, sockets := opened(t, local(), Events{})
	id, err := server.Connect(server.Addr().String(), time.Minute, "mine")
	check(t, err)
	first, second := take(t, sockets), take(t, sockets)
	if first.ID() != id {
		first, second = second, first
	}
	equal(t, first.ID(), id)
	equal(t, first.Data, any("mine"))
	check(t, server.Send(second.ID(), []byte("round"))) // both ends echo from now on
	await(t, "it goes round", func() bool { return server.Stats().BytesIn > 50 })
	check(t, server.Abort(id))

	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	check(t, err)
	_, err = server.Adopt(pair[0], nil)
	check(t, err)
	owned, err := FromFD(pair[1])
	check(t, err)
	_, err = owned.Write([]byte("adopted"))
	check(t, err)
	buf := make([]byte, 7)
	_, err = io.ReadFull(owned, buf)
	check(t, err)
	equal(t, string(buf), "adopted")
	fd, err := owned.ReleaseFD()
	check(t, err)
	check(t, syscall.Close(fd))
	_, err = server.Adopt(-1, nil)
	expect(t, err, ErrInvalid)
	_, err = FromFD(-1)
	expect(t, err, ErrInvalid)
}

func TestConnectFails(t *testing.T) {
	failures := make(chan error, 1)
	server := begin(t, local(), Events{OnError: func(s *Socket, err error) { failures <- err }})
	free, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	free.Close()
	_, err = server.Connect(free.Addr().String(), time.Minute, nil)
	if err == nil {
		err = take(t, failures)
	}
	expect(t, err, ErrConnect)
	expect(t, err, syscall.ECONNREFUSED)
}
