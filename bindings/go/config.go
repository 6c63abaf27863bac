package netserver

/*
#include <stdlib.h>
#include "bridge.h"
*/
import "C"

import (
	"io/fs"
	"log"
	"math"
	"time"
	"unsafe"
)

// Config says where a server listens, and its limits and deadlines. In a number
// or a duration, zero means the default; a negative value turns the limit or
// deadline off, or means 0 where it cannot be off. Durations count in
// milliseconds and are rounded up.
type Config struct {
	// Service is where the server listens: "5000", "http", "0" or "" (any free
	// port), "127.0.0.1:5000", "[::1]:5000"; "unix:/path", "unix:@name"; "fd:3";
	// "systemd" or "systemd:NAME".
	Service string
	// TLS has the certificates of Service; nil: connections are plain text.
	TLS *TLS
	// Services are further places. Their numbers are 1, 2 and so on.
	Services []Service
	// Loops is the number of event loops, each a goroutine; default 1. More than
	// one share each TCP port by SO_REUSEPORT; they cannot share a unix socket
	// that the library makes.
	Loops int

	UseIPv6   bool        // a service without a host listens for IPv6 as well
	ReusePort bool        // other servers of this user may listen on the same ports
	UnixMode  fs.FileMode // permissions of the file of "unix:/path"; default 0600
	Backlog   int         // connections not yet accepted; default 4096
	Nagle     bool        // small pieces may wait to leave together (no TCP_NODELAY)

	MaxConnections int // accepting pauses there; default: what the limit of open files allows
	MaxHandshakes  int // TLS handshakes in progress; default 1024

	HandshakeTimeout time.Duration // a TLS handshake as a whole; default 10 s, never off
	IdleTimeout      time.Duration // without a byte either way; default off
	IOTimeout        time.Duration // of a call of an OwnedSocket; default off
	WriteTimeout     time.Duration // queued bytes without progress; default 30 s
	LingerTimeout    time.Duration // discarding input after a close; default 1 s
	DrainTimeout     time.Duration // of a stop; default 5 s
	KeepAlive        time.Duration // TCP keep-alive; default 60 s

	// HighWaterMark is the number of queued bytes above which a connection is not
	// read; default 256 KiB. There a Write of a Conn waits.
	HighWaterMark int
	// LowWaterMark is the number of queued bytes at which Events.OnDrain runs;
	// default 0.
	LowWaterMark int
	// SendLimit is the number of bytes that may be queued; default 16 MiB.
	SendLimit int
	// SendLimitTotal is the number of bytes that may be queued for all connections
	// together, an equal part of it in each loop; default no bound.
	SendLimitTotal int

	// ShutdownPort is a service, on loopback unless it names a host, on which a
	// connection stops the server. OnShutdown, if set, gets what the peer sends, and
	// nothing once at its end; it returns whether to stop.
	ShutdownPort string
	OnShutdown   func(peer *Socket, data []byte) (stop bool)

	// OnError gets what went wrong, of servers that Serve and Listen make: what a
	// handler returned, or its panic as a *PanicError; a failed handshake or accept.
	// conn is nil where there is none. The connection closes after it. It may run
	// on a loop's goroutine: it must not block. nil: ErrorLog gets it.
	OnError func(conn *Conn, err error)
	// OnClose tells why a connection of Serve or Listen ended, as Events.OnClose does.
	OnClose func(conn *Conn, reason CloseReason)
	// ErrorLog is for errors that no function takes; nil: the log package's own.
	ErrorLog *log.Logger
}

// Service is a further place where a server listens.
type Service struct {
	Service string // as Config.Service
	TLS     *TLS   // its certificates; nil: connections are plain text
}

func (c *Config) logf(format string, args ...any) {
	if c.ErrorLog != nil {
		c.ErrorLog.Printf(format, args...)
	} else {
		log.Printf(format, args...)
	}
}

// loops returns how many loops there are.
func (c *Config) loops() (int, error) {
	switch {
	case c.Loops == 0:
		return 1, nil
	case c.Loops < 0 || c.Loops > 4096:
		return 0, invalid("the number of loops is 1 to 4096, not %d", c.Loops)
	}
	return c.Loops, nil
}

// share returns what one of the loops has of a number that they share.
func share(number, index, loops int) int {
	if number <= 0 {
		return number
	}
	own := number / loops
	if index < number%loops {
		own++
	}
	if own == 0 {
		return 1
	}
	return own
}

// settings makes the C config of one loop. What a setter refuses, the config
// remembers, and the server reports.
func (c *Config) settings(index, loops int) *C.ns_config {
	config := C.ns_config_new()
	number := func(set func(C.uint32_t), value int) {
		switch {
		case value > math.MaxUint32:
			set(math.MaxUint32) // too large for any of them
		case value > 0:
			set(C.uint32_t(value))
		case value < 0:
			set(0)
		}
	}
	duration := func(set func(C.uint32_t), value time.Duration) {
		const limit = time.Duration(math.MaxInt) - time.Millisecond
		if value > 0 && value < limit {
			value += time.Millisecond - 1
		}
		if ms := int(value / time.Millisecond); ms != 0 || value == 0 {
			number(set, ms)
		} else {
			number(set, -1)
		}
	}
	size := func(set func(C.size_t), value int) {
		if value != 0 {
			set(C.size_t(value)) // a negative one is absurdly large: refused
		}
	}
	flag := func(set func(C.int32_t), value bool) {
		if value {
			set(1)
		}
	}
	flag(func(v C.int32_t) { C.ns_config_set_use_ipv6(config, v) }, c.UseIPv6)
	flag(func(v C.int32_t) { C.ns_config_set_reuse_port(config, v) }, c.ReusePort || loops > 1)
	flag(func(C.int32_t) { C.ns_config_set_no_delay(config, 0) }, c.Nagle)
	number(func(v C.uint32_t) { C.ns_config_set_unix_mode(config, v) }, int(c.UnixMode))
	number(func(v C.uint32_t) { C.ns_config_set_backlog(config, v) }, c.Backlog)
	number(func(v C.uint32_t) { C.ns_config_set_max_connections(config, v) }, share(c.MaxConnections, index, loops))
	number(func(v C.uint32_t) { C.ns_config_set_max_handshakes(config, v) }, share(c.MaxHandshakes, index, loops))
	duration(func(v C.uint32_t) { C.ns_config_set_handshake_timeout_ms(config, v) }, c.HandshakeTimeout)
	duration(func(v C.uint32_t) { C.ns_config_set_idle_timeout_ms(config, v) }, c.IdleTimeout)
	duration(func(v C.uint32_t) { C.ns_config_set_io_timeout_ms(config, v) }, c.IOTimeout)
	duration(func(v C.uint32_t) { C.ns_config_set_write_timeout_ms(config, v) }, c.WriteTimeout)
	duration(func(v C.uint32_t) { C.ns_config_set_linger_timeout_ms(config, v) }, c.LingerTimeout)
	duration(func(v C.uint32_t) { C.ns_config_set_drain_timeout_ms(config, v) }, c.DrainTimeout)
	duration(func(v C.uint32_t) { C.ns_config_set_keep_alive_ms(config, v) }, c.KeepAlive)
	size(func(v C.size_t) { C.ns_config_set_send_limit(config, v) }, c.SendLimit)
	size(func(v C.size_t) { C.ns_config_set_send_limit_total(config, v) }, share(c.SendLimitTotal, index, loops))
	size(func(v C.size_t) { C.ns_config_set_high_water_mark(config, v) }, c.HighWaterMark)
	size(func(v C.size_t) { C.ns_config_set_low_water_mark(config, v) }, c.LowWaterMark)
	if c.TLS != nil {
		C.ns_config_set_tls(config, c.TLS.c)
	}
	// The shutdown port is the first loop's: where that stops, all stop.
	if c.ShutdownPort != "" && index == 0 {
		service := C.CString(c.ShutdownPort)
		C.ns_config_set_shutdown_port(config, service)
		C.free(unsafe.Pointer(service))
	}
	return config
}

// milliseconds returns a duration as the library counts it, rounded up.
func milliseconds(d time.Duration) (C.uint32_t, error) {
	ms := d / time.Millisecond
	if d%time.Millisecond > 0 {
		ms++
	}
	if d < 0 || ms > math.MaxInt32 {
		return 0, invalid("a time is 0 to 2^31 - 1 milliseconds, not %v", d)
	}
	return C.uint32_t(ms), nil
}
