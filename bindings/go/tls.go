package netserver

/*
#include <stdlib.h>
#include <netserver.h>
*/
import "C"

import (
	"runtime"
	"strings"
	"unsafe"
)

// TLS has certificates and what belongs to them. One may serve several servers.
// Its first use freezes it: after that the methods, but SetTicketKeys, return
// ErrState. TLS 1.2 and 1.3 are spoken.
type TLS struct {
	c *C.ns_tls
}

// NewTLS returns a TLS without a certificate: a server cannot use it yet.
func NewTLS() *TLS {
	t := &TLS{C.ns_tls_new()}
	runtime.SetFinalizer(t, func(t *TLS) { C.ns_tls_free(t.c) })
	return t
}

// LoadTLS returns a TLS with a certificate chain and its key, from PEM files.
func LoadTLS(chainFile, keyFile string) (*TLS, error) {
	t := NewTLS()
	return t, t.AddCertFile("", chainFile, keyFile)
}

// noNUL returns an error for a text that has a NUL, at which it would end in C.
func noNUL(texts ...string) error {
	for _, text := range texts {
		if strings.IndexByte(text, 0) >= 0 {
			return invalid("%q has a NUL", text)
		}
	}
	return nil
}

// cString returns a string for C, to be freed; nil for "".
func cString(s string) *C.char {
	if s == "" {
		return nil
	}
	return C.CString(s)
}

// some returns b, or one byte in place of none: C gets a pointer to its first.
func some(b []byte) []byte {
	if len(b) == 0 {
		return []byte{0}
	}
	return b
}

// result ends a call that may have given an error.
func result(status C.ns_status, err *C.ns_error) error {
	if err != nil {
		return takeError(err)
	}
	return asError(status)
}

// AddCertFile adds a certificate chain, the server's own certificate first, and
// its private key, from PEM files. Clients that ask for serverName get it,
// "example.org" or "*.example.org"; "": all others.
func (t *TLS) AddCertFile(serverName, chainFile, keyFile string) error {
	defer runtime.KeepAlive(t)
	if err := noNUL(serverName, chainFile, keyFile); err != nil {
		return err
	}
	name, chain, key := cString(serverName), C.CString(chainFile), C.CString(keyFile)
	defer C.free(unsafe.Pointer(name))
	defer C.free(unsafe.Pointer(chain))
	defer C.free(unsafe.Pointer(key))
	var err *C.ns_error
	return result(C.ns_tls_add_cert_file(t.c, name, chain, key, &err), err)
}

// AddCertPEM is AddCertFile with PEM text in memory.
func (t *TLS) AddCertPEM(serverName string, chain, key []byte) error {
	defer runtime.KeepAlive(t)
	if err := noNUL(serverName); err != nil {
		return err
	}
	name := cString(serverName)
	defer C.free(unsafe.Pointer(name))
	var err *C.ns_error
	return result(C.ns_tls_add_cert_pem(t.c, name, unsafe.Pointer(&some(chain)[0]), C.size_t(len(chain)),
		unsafe.Pointer(&some(key)[0]), C.size_t(len(key)), &err), err)
}

// AddCertDER is AddCertFile with certificates and a key in DER: PKCS #8,
// PKCS #1 or SEC 1.
func (t *TLS) AddCertDER(serverName string, chain [][]byte, key []byte) error {
	defer runtime.KeepAlive(t)
	if len(chain) == 0 {
		return invalid("a chain has a certificate")
	}
	if err := noNUL(serverName); err != nil {
		return err
	}
	name := cString(serverName)
	defer C.free(unsafe.Pointer(name))
	// C memory: C may not get Go memory that points to more of it.
	count := len(chain)
	certs := (*unsafe.Pointer)(C.calloc(C.size_t(count), C.size_t(unsafe.Sizeof(uintptr(0)))))
	defer C.free(unsafe.Pointer(certs))
	lengths := make([]C.size_t, count)
	for i, cert := range chain {
		copied := C.CBytes(cert)
		defer C.free(copied)
		unsafe.Slice(certs, count)[i] = copied
		lengths[i] = C.size_t(len(cert))
	}
	var err *C.ns_error
	return result(C.ns_tls_add_cert_der(t.c, name, certs, &lengths[0], C.size_t(count),
		unsafe.Pointer(&some(key)[0]), C.size_t(len(key)), &err), err)
}

// SetClientCAFile asks clients for a certificate that one of the authorities in a
// PEM file has signed. Where it is required, clients without one are refused;
// clients with another one are refused anyway.
func (t *TLS) SetClientCAFile(path string, required bool) error {
	defer runtime.KeepAlive(t)
	if err := noNUL(path); err != nil {
		return err
	}
	file := C.CString(path)
	defer C.free(unsafe.Pointer(file))
	var err *C.ns_error
	return result(C.ns_tls_set_client_ca_file(t.c, file, cBool(required), &err), err)
}

// SetClientCAPEM is SetClientCAFile with PEM text in memory.
func (t *TLS) SetClientCAPEM(pem []byte, required bool) error {
	defer runtime.KeepAlive(t)
	var err *C.ns_error
	return result(C.ns_tls_set_client_ca_pem(t.c, unsafe.Pointer(&some(pem)[0]), C.size_t(len(pem)), cBool(required), &err), err)
}

// SetALPN sets the application protocols that the server speaks, the preferred
// one first: "http/1.1".
func (t *TLS) SetALPN(protocols ...string) error {
	defer runtime.KeepAlive(t)
	if err := noNUL(protocols...); err != nil {
		return err
	}
	count := len(protocols)
	names := (**C.char)(C.calloc(C.size_t(count+1), C.size_t(unsafe.Sizeof(uintptr(0)))))
	defer C.free(unsafe.Pointer(names))
	for i, protocol := range protocols {
		name := C.CString(protocol)
		defer C.free(unsafe.Pointer(name))
		unsafe.Slice(names, count)[i] = name
	}
	return asError(C.ns_tls_set_alpn(t.c, names, C.size_t(count)))
}

// SetMinVersion sets the oldest version that the server speaks:
// tls.VersionTLS12 (default) or tls.VersionTLS13 of crypto/tls.
func (t *TLS) SetMinVersion(version uint16) error {
	defer runtime.KeepAlive(t)
	return asError(C.ns_tls_set_min_version(t.c, C.int32_t(version)))
}

// SetTickets sets whether clients get session tickets; default true.
func (t *TLS) SetTickets(tickets bool) error {
	defer runtime.KeepAlive(t)
	return asError(C.ns_tls_set_tickets(t.c, cBool(tickets)))
}

// SetSessionCache sets how many sessions are kept in memory, for clients that
// resume without tickets; default 0.
func (t *TLS) SetSessionCache(sessions int) error {
	defer runtime.KeepAlive(t)
	return asError(C.ns_tls_set_session_cache(t.c, C.size_t(sessions)))
}

// SetTicketKeys sets the keys of tickets, with which other processes resume the
// sessions of this one: 1 to 16 keys of 80 random bytes, one behind the other. The
// first seals tickets, each opens those that it sealed, for 12 hours. It may be
// called at any time, also when the TLS is in use: to rotate, give all processes
// the new key as the second one, then as the first. A key is as secret as that of
// the certificate.
func (t *TLS) SetTicketKeys(keys []byte) error {
	defer runtime.KeepAlive(t)
	status := C.ns_tls_set_ticket_keys(t.c, unsafe.Pointer(&some(keys)[0]), C.size_t(len(keys)))
	if status == C.NS_ERR_INVALID {
		return invalid("ticket keys are 1 to 16 times %d bytes, not %d", C.NS_TLS_TICKET_KEY_LEN, len(keys))
	}
	return asError(status)
}

func cBool(b bool) C.int32_t {
	if b {
		return 1
	}
	return 0
}

// TLSInfo is what a TLS handshake agreed.
type TLSInfo struct {
	Version         uint16 // tls.VersionTLS12 or tls.VersionTLS13
	Resumed         bool   // an earlier session was resumed
	CipherSuite     string // its IANA name, "TLS_AES_256_GCM_SHA384"
	ALPN            string // the application protocol; "" for none
	ServerName      string // the name that the client asked for; "" for none
	PeerCertificate []byte // the client's own certificate in DER, verified; nil for none
	PeerSubject     string // its subject, "CN=ann,O=Example"; "" for none
}
