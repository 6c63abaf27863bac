package netserver

/*
#include "bridge.h"
*/
import "C"

import (
	"strings"
	"time"
)

// State is the state of a server.
type State uint32

const (
	Running   State = C.NS_STATE_RUNNING   // it accepts connections
	Quiescing State = C.NS_STATE_QUIESCING // it accepts no more, and serves on
	Stopping  State = C.NS_STATE_STOPPING  // a stop is in progress
	Stopped   State = C.NS_STATE_STOPPED   // it has stopped
)

// before returns whether a server is in the state s before it is in the other.
func (s State) before(other State) bool {
	place := func(s State) State {
		if s == Quiescing {
			return 2*Running + 1
		}
		return 2 * s
	}
	return place(s) < place(other)
}

// Stats is a snapshot of a server: the sum over its loops. When nothing changes:
// Accepted + Attached + Adopted = Open + all of Closed + Detached.
type Stats struct {
	State             State
	Loops             int
	ActiveLoops       int // have a connection
	Uptime            time.Duration
	Accepted          uint64
	Attached          uint64
	Adopted           uint64 // by Adopt and Connect
	Open              uint64
	Detached          uint64
	Drained           uint64 // ended during a stop, before its deadline
	Cut               uint64 // cut by a stop
	BytesIn           uint64 // over TLS the encrypted bytes
	BytesOut          uint64
	HandlerErrors     uint64
	AcceptErrors      uint64
	Handshakes        uint64
	HandshakeFailures uint64
	PeerResets        uint64 // that callbacks passed on: they are no HandlerErrors
	Closed            map[CloseReason]uint64
}

// snapshot is what a loop has to say of itself.
type snapshot struct {
	stats  C.ns_stats
	report string
}

// snapshot makes one. The caller holds the loop.
func (l *loop) snapshot(c *C.ns_server) (s snapshot) {
	C.ns_server_stats(c, &s.stats, C.sizeof_ns_stats)
	s.report = text(func(buf *C.char, size C.size_t) C.size_t { return C.ns_server_report(c, buf, size) })
	return s
}

// now returns a snapshot, the last one where the loop has stopped.
func (l *loop) now() snapshot {
	c := l.hold()
	if c == nil {
		return l.last
	}
	defer l.release()
	return l.snapshot(c)
}

func (l *loop) open() uint64 {
	c := l.hold()
	if c == nil {
		return 0
	}
	defer l.release()
	var stats C.ns_thread_stats
	C.ns_server_thread_stats(c, 0, &stats, C.sizeof_ns_thread_stats)
	return uint64(stats.active)
}

// Stats returns a snapshot. After the stop it is the last one.
func (s *Server) Stats() Stats {
	sum := Stats{State: Stopped, Loops: s.count, Closed: make(map[CloseReason]uint64)}
	for _, l := range s.loops {
		sum.add(l.now().stats)
	}
	return sum
}

// LoopStats returns the snapshot of one loop.
func (s *Server) LoopStats(loop int) (Stats, error) {
	if loop < 0 || loop >= s.count {
		return Stats{}, invalid("there is no loop %d", loop)
	}
	one := Stats{State: Stopped, Loops: 1, Closed: make(map[CloseReason]uint64)}
	one.add(s.loops[loop].now().stats)
	return one, nil
}

func (sum *Stats) add(c C.ns_stats) {
	if state := State(c.state); state.before(sum.State) {
		sum.State = state
	}
	if uptime := time.Duration(c.uptime_ms) * time.Millisecond; uptime > sum.Uptime {
		sum.Uptime = uptime
	}
	sum.ActiveLoops += int(c.active_threads)
	sum.Accepted += uint64(c.accepted)
	sum.Attached += uint64(c.attached)
	sum.Adopted += uint64(c.adopted)
	sum.Open += uint64(c.open)
	sum.Detached += uint64(c.detached)
	sum.Drained += uint64(c.drained)
	sum.Cut += uint64(c.cut)
	sum.BytesIn += uint64(c.bytes_in)
	sum.BytesOut += uint64(c.bytes_out)
	sum.HandlerErrors += uint64(c.handler_errors)
	sum.AcceptErrors += uint64(c.accept_errors)
	sum.Handshakes += uint64(c.handshakes)
	sum.HandshakeFailures += uint64(c.handshake_failures)
	sum.PeerResets += uint64(c.peer_resets)
	for reason, count := range c.closed {
		if count > 0 {
			sum.Closed[CloseReason(reason)] += uint64(count)
		}
	}
}

// Report returns a report for people, of each loop. After the stop it is the last
// one.
func (s *Server) Report() string {
	var reports []string
	for _, l := range s.loops {
		reports = append(reports, l.now().report)
	}
	return strings.Join(reports, "\n")
}

// Version returns the version of the library in use, "MAJOR.MINOR.PATCH".
func Version() string { return C.GoString(C.ns_version_string()) }
