package netserver

/*
#include <netserver.h>
*/
import "C"

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
)

// Status is a status number of the library. It is an error too, so that
// errors.Is(err, netserver.ErrClosed) finds it in every error of this package.
type Status int32

// The statuses. The header netserver.h says in detail what each means.
const (
	ErrInvalid        Status = C.NS_ERR_INVALID          // an argument is not valid
	ErrState          Status = C.NS_ERR_STATE            // the wrong state for this call
	ErrTimeout        Status = C.NS_ERR_TIMEOUT          // a deadline passed
	ErrClosed         Status = C.NS_ERR_CLOSED           // the connection is closed, or its ID is stale
	ErrReset          Status = C.NS_ERR_RESET            // the peer reset the connection
	ErrWouldBlock     Status = C.NS_ERR_WOULD_BLOCK      // nothing can be read now
	ErrBufferFull     Status = C.NS_ERR_BUFFER_FULL      // the queue would pass SendLimit; nothing was sent
	ErrRejected       Status = C.NS_ERR_REJECTED         // OnOpen returns it to refuse a connection
	ErrDetached       Status = C.NS_ERR_DETACHED         // the socket is detached from the server
	ErrNotNonBlocking Status = C.NS_ERR_NOT_NON_BLOCKING // only a non-blocking server can do this
	ErrNotInHandler   Status = C.NS_ERR_NOT_IN_HANDLER   // only a callback of this connection can do this
	ErrBusy           Status = C.NS_ERR_BUSY             // not in a callback; or the socket has buffered bytes
	ErrDeadlock       Status = C.NS_ERR_DEADLOCK         // the call would wait for its own thread
	ErrPanic          Status = C.NS_ERR_PANIC            // a bug in the library
	ErrHandler        Status = C.NS_ERR_HANDLER          // a handler failed
	ErrAddress        Status = C.NS_ERR_ADDRESS          // the service or host cannot be resolved
	ErrListen         Status = C.NS_ERR_LISTEN           // binding or listening failed
	ErrIO             Status = C.NS_ERR_IO               // another failure of the operating system
	ErrNoMemory       Status = C.NS_ERR_NO_MEMORY        // no room for a connection
	ErrThread         Status = C.NS_ERR_THREAD           // a thread cannot be created
	ErrUnsupported    Status = C.NS_ERR_UNSUPPORTED      // this system or build cannot do it
	ErrAccept         Status = C.NS_ERR_ACCEPT           // accepting a connection failed
	ErrHook           Status = C.NS_ERR_HOOK             // a hook failed
	ErrTLS            Status = C.NS_ERR_TLS              // TLS failed, or the peer broke its rules
	ErrTruncated      Status = C.NS_ERR_TRUNCATED        // the stream ended without TLS's close_notify
	ErrHandshake      Status = C.NS_ERR_HANDSHAKE        // the TLS handshake failed
	ErrCertificate    Status = C.NS_ERR_CERTIFICATE      // a certificate or key cannot be used
	ErrConnect        Status = C.NS_ERR_CONNECT          // connecting failed
)

// String returns the C name of the status, "NS_ERR_CLOSED".
func (s Status) String() string { return C.GoString(C.ns_status_name(C.ns_status(s))) }

// Error returns what the status means, in a few words.
func (s Status) Error() string { return C.GoString(C.ns_status_message(C.ns_status(s))) }

// Timeout reports whether the status is ErrTimeout. With Temporary it makes a
// net.Error of a Status.
func (s Status) Timeout() bool { return s == ErrTimeout }

// Temporary reports whether the same call may succeed later.
func (s Status) Temporary() bool {
	return s == ErrTimeout || s == ErrWouldBlock || s == ErrBufferFull
}

// Is makes errors.Is find the errors of the standard library that mean the same.
func (s Status) Is(target error) bool {
	switch target {
	case net.ErrClosed, fs.ErrClosed:
		return s == ErrClosed
	case os.ErrDeadlineExceeded:
		return s == ErrTimeout
	}
	return false
}

// Error is a failure of the library, with a sentence that says what failed, on
// what, and why. errors.Is finds its Status and its OSCode in it.
type Error struct {
	Status      Status
	OSCode      syscall.Errno // of the operating system; 0 for none
	HandlerCode int           // what a handler of another language returned; 0 for none
	Message     string
}

// Error returns the sentence.
func (e *Error) Error() string { return e.Message }

// Timeout and Temporary make a net.Error of an Error.
func (e *Error) Timeout() bool   { return e.Status.Timeout() }
func (e *Error) Temporary() bool { return e.Status.Temporary() }

// Is reports whether target is the error's status, or means the same.
func (e *Error) Is(target error) bool { return target == error(e.Status) || e.Status.Is(target) }

// Unwrap returns the code of the operating system.
func (e *Error) Unwrap() error {
	if e.OSCode == 0 {
		return nil
	}
	return e.OSCode
}

// PanicError is a panic of a handler.
type PanicError struct {
	Value any    // what the handler gave to panic; nil too where it called runtime.Goexit
	Stack []byte // the stack of the goroutine, as debug.Stack has it
}

func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v", e.Value) }

// Unwrap returns the value, where that is an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// CloseReason says why a connection ended.
type CloseReason int32

// The reasons.
const (
	CloseHandler      CloseReason = C.NS_CLOSE_HANDLER       // the program closed it
	ClosePeer         CloseReason = C.NS_CLOSE_PEER          // the program closed it after the end of the peer's stream
	CloseReset        CloseReason = C.NS_CLOSE_RESET         // the peer reset it, or the transport failed
	CloseIdle         CloseReason = C.NS_CLOSE_IDLE          // no byte for IdleTimeout
	CloseTimer        CloseReason = C.NS_CLOSE_TIMER         // its timer fired, and there is no OnTimeout
	CloseWriteTimeout CloseReason = C.NS_CLOSE_WRITE_TIMEOUT // queued bytes made no progress for WriteTimeout
	CloseError        CloseReason = C.NS_CLOSE_ERROR         // the handler failed
	CloseAbort        CloseReason = C.NS_CLOSE_ABORT         // the program aborted it
	CloseStop         CloseReason = C.NS_CLOSE_STOP          // a stop closed it; nothing that was sent is lost
	CloseCut          CloseReason = C.NS_CLOSE_CUT           // a stop ended it; something may be lost
	CloseRejected     CloseReason = C.NS_CLOSE_REJECTED      // it was refused
	CloseHandshake    CloseReason = C.NS_CLOSE_HANDSHAKE     // its TLS handshake failed
	CloseConnect      CloseReason = C.NS_CLOSE_CONNECT       // it was never connected
)

// String returns one word for the reason, "peer".
func (r CloseReason) String() string { return C.GoString(C.ns_close_reason_name(C.int32_t(r))) }

// asError returns nil for 0 and more.
func asError(status C.ns_status) error {
	if status >= 0 {
		return nil
	}
	return Status(status)
}

// copyError copies an error that the library lends.
func copyError(c *C.ns_error) *Error {
	return &Error{
		Status:      Status(C.ns_error_status(c)),
		OSCode:      syscall.Errno(C.ns_error_os_code(c)),
		HandlerCode: int(C.ns_error_handler_code(c)),
		Message:     C.GoString(C.ns_error_message(c)),
	}
}

// takeError copies an error that the library gave, and frees it. nil for nil.
func takeError(c *C.ns_error) error {
	if c == nil {
		return nil
	}
	defer C.ns_error_free(c)
	return copyError(c)
}

func invalid(format string, args ...any) error {
	return &Error{Status: ErrInvalid, Message: fmt.Sprintf(format, args...)}
}

// codeOf returns the number by which a callback that failed with err fails in C.
func codeOf(err error) C.int32_t {
	var failure *Error
	var status Status
	switch {
	case errors.As(err, &failure) && failure.Status < 0:
		status = failure.Status
	case !errors.As(err, &status) || status >= 0 || status == ErrWouldBlock:
		return -1
	}
	return C.int32_t(status)
}
