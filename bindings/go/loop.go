package netserver

/*
#include <stdlib.h>
#include <fcntl.h>
#include "bridge.h"
*/
import "C"

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// bufferSize is the most that OnData gets at once. The library reads as much of
// one connection before the others have their turn.
const bufferSize = 256 << 10

// loop is a hosted server of the library. Its goroutine alone runs, stops and
// frees it, and runs all its callbacks.
type loop struct {
	server *Server
	index  int
	number uint64     // in the table of objects
	data   *C.go_loop // of the callbacks

	held sync.RWMutex
	c    *C.ns_server // nil once freed; only the goroutine may use it without hold

	stopWithin atomic.Int64 // milliseconds, a stop that is asked for; -1: none
	last       snapshot     // what there was to say when it was freed
}

// hold keeps the server of the library from being freed; nil where it was.
func (l *loop) hold() *C.ns_server {
	l.held.RLock()
	if l.c == nil {
		l.held.RUnlock()
	}
	return l.c
}

func (l *loop) release() { l.held.RUnlock() }

// newLoop makes and starts the server of one loop; it accepts, but nobody runs
// its turns yet.
func newLoop(s *Server, index int) (*loop, error) {
	l := &loop{server: s, index: index}
	l.stopWithin.Store(-1)
	l.number = keep(l)
	l.data = C.go_loop_new(C.uintptr_t(l.number), bufferSize)
	if err := l.make(); err != nil {
		l.free()
		return nil, err
	}
	var err *C.ns_error
	if C.ns_server_start(l.c, C.NS_START_HOSTED, &err) < 0 {
		l.free()
		return nil, takeError(err)
	}
	return l, nil
}

func (l *loop) make() error {
	s := l.server
	if err := noNUL(s.config.Service, s.config.ShutdownPort); err != nil {
		return err
	}
	var callbacks C.uint32_t
	if s.events.OnDrain != nil {
		callbacks |= C.GO_ON_DRAIN
	}
	if s.events.OnTimeout != nil {
		callbacks |= C.GO_ON_TIMEOUT
	}
	if s.config.OnShutdown != nil {
		callbacks |= C.GO_ON_SHUTDOWN
	}
	config := s.config.settings(l.index, s.count)
	defer C.ns_config_free(config)
	service, failure := l.service(0, s.config.Service)
	if failure != nil {
		return failure
	}
	name := C.CString(service)
	defer C.free(unsafe.Pointer(name))
	var err *C.ns_error
	if l.c = C.go_server_new(name, l.data, config, callbacks, &err); l.c == nil {
		return takeError(err)
	}
	for i, further := range s.config.Services {
		service, failure := l.service(i+1, further.Service)
		if failure != nil {
			return failure
		}
		if err := l.addService(service, further.TLS); err != nil {
			return err
		}
	}
	return nil
}

func (l *loop) addService(service string, tls *TLS) error {
	if err := noNUL(service); err != nil {
		return err
	}
	name := C.CString(service)
	defer C.free(unsafe.Pointer(name))
	var err *C.ns_error
	if tls == nil {
		C.ns_server_add_service(l.c, name, &err)
	} else {
		C.ns_server_add_service_tls(l.c, name, tls.c, &err)
		runtime.KeepAlive(tls)
	}
	return takeError(err)
}

// service returns where a loop listens for a service of the program's: the further
// loops take the port that the first one got.
func (l *loop) service(number int, service string) (string, error) {
	switch {
	case service == "":
		service = "0"
	case l.server.count > 1 && strings.HasPrefix(service, "unix:"):
		return "", &Error{Status: ErrUnsupported,
			Message: "several loops cannot share the unix socket " + strconv.Quote(service)}
	}
	host, free := strings.TrimSuffix(service, ":0"), strings.HasSuffix(service, ":0")
	if l.index == 0 || !free && service != "0" {
		return service, nil
	}
	address := l.server.loops[0].address(number)
	port := address[strings.LastIndexByte(address, ':')+1:]
	if free {
		return host + ":" + port, nil
	}
	return port, nil
}

// address returns where a service listens. The caller holds the loop.
func (l *loop) address(service int) string {
	return text(func(buf *C.char, size C.size_t) C.size_t {
		return C.ns_server_service_address(l.c, C.uint32_t(service), buf, size)
	})
}

// run serves until the stop.
//
// Where the callbacks do all the work it waits in C: that is cheapest. The callbacks
// of Serve and Listen only make other goroutines ready, to which the thread goes on
// by itself if the loop waits among Go's own descriptors. A single processor of Go's
// would be taken from a thread that waits in C again and again.
func (l *loop) run() {
	served := false
	defer func() {
		if !served {
			panic("netserver: a callback called runtime.Goexit, which leaves the C functions that called it")
		}
		l.free()
		l.server.ended(l)
	}()
	if l.server.handsOver || runtime.GOMAXPROCS(0) == 1 {
		l.runPolled()
	}
	// Also where there was no descriptor for runPolled.
	for !l.turn(-1) {
	}
	served = true
}

// runPolled runs a turn when the loop's descriptor becomes readable. Each turn that
// leaves work makes it readable anew.
func (l *loop) runPolled() {
	// A duplicate, because os.File closes its descriptor. O_NONBLOCK means nothing
	// for an epoll, but tells os.File to wait by Go's poller.
	fd, err := syscall.Dup(int(C.ns_server_poll_fd(l.c)))
	if err != nil {
		return
	}
	syscall.CloseOnExec(fd)
	_ = syscall.SetNonblock(fd, true)
	file := os.NewFile(uintptr(fd), "netserver")
	defer file.Close()
	if raw, err := file.SyscallConn(); err == nil {
		_ = raw.Read(func(uintptr) bool { return l.turn(0) })
	}
}

// turn runs one turn. It returns whether the server has stopped.
func (l *loop) turn(timeout C.int64_t) bool {
	if ms := l.stopWithin.Swap(-1); ms >= 0 {
		C.go_stop_within(l.c, C.int64_t(ms))
	}
	return C.ns_server_run_once(l.c, timeout) != 0
}

// stop asks for a stop, within a time if that is not negative.
func (l *loop) stop(within time.Duration) {
	c := l.hold()
	if c == nil {
		return
	}
	defer l.release()
	if within < 0 {
		C.ns_server_request_stop(c)
		return
	}
	ms, err := milliseconds(within)
	if err != nil {
		ms = C.uint32_t(1<<31 - 1)
	}
	l.stopWithin.Store(int64(ms))
	if C.go_wake_loop(c) != 0 {
		C.ns_server_request_stop(c) // it stops already: this makes another turn
	}
}

// free frees the server of the library, on the goroutine of the loop.
func (l *loop) free() {
	if l.c != nil {
		l.last = l.snapshot(l.c)
		l.held.Lock()
		C.ns_server_free(l.c)
		l.c = nil
		l.held.Unlock()
	}
	C.free(unsafe.Pointer(l.data))
	drop(l.number)
}
