package netserver

import (
	"crypto/rand"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"testing"
)

func TestTLSInfo(t *testing.T) {
	own := serverTLS(t)
	check(t, own.SetClientCAFile(data+"ca.pem", false))
	check(t, own.SetALPN("first", "second"))
	config := local()
	config.TLS = own
	s, conns := conns(t, config)
	expect(t, own.SetTickets(false), ErrState)

	with := clientTLS(t)
	with.NextProtos = []string{"second", "first"}
	cert, err := tls.X509KeyPair(file(t, "client.pem"), file(t, "client-key.pem"))
	check(t, err)
	with.Certificates = []tls.Certificate{cert}
	c := dialTLS(t, s.Addr(), with)
	c.say("hello")
	info, err := take(t, conns).TLS()
	check(t, err)
	equal(t, int(info.Version), tls.VersionTLS13)
	equal(t, info.ALPN, "first")
	equal(t, info.ServerName, "localhost")
	equal(t, string(info.PeerCertificate), string(cert.Certificate[0]))
	contains(t, info.PeerSubject, "CN=")

	without := clientTLS(t)
	without.MaxVersion = tls.VersionTLS12
	c = dialTLS(t, s.Addr(), without)
	info, err = take(t, conns).TLS()
	check(t, err)
	equal(t, int(info.Version), tls.VersionTLS12)
	equal(t, len(info.PeerCertificate), 0)
	c.Conn.Close()
}

func TestTLSTruncation(t *testing.T) {
	config := local()
	config.TLS = serverTLS(t)
	s, conns := conns(t, config)
	raw, err := net.Dial("tcp", s.Addr().String())
	check(t, err)
	defer raw.Close()
	session := tls.Client(raw, clientTLS(t))
	_, err = session.Write([]byte("x"))
	check(t, err)
	conn := take(t, conns)
	check(t, raw.(*net.TCPConn).CloseWrite()) // without close_notify
	rest, err := io.ReadAll(conn)
	equal(t, string(rest), "x")
	expect(t, err, ErrTruncated)
}

func TestHandshakeFails(t *testing.T) {
	config := local()
	config.TLS = serverTLS(t)
	failures := make(chan error, 10)
	config.OnError = func(conn *Conn, err error) {
		if conn == nil {
			failures <- err
		}
	}
	s := serve(t, config, echo)
	c := dial(t, s.Addr())
	c.say("this is no TLS\n\n\n\n")
	expect(t, take(t, failures), ErrHandshake)
}

func TestCertificates(t *testing.T) {
	own := NewTLS()
	expect(t, own.AddCertFile("", data+"server.pem", data+"second-key.pem"), ErrCertificate)
	own = NewTLS()
	check(t, own.AddCertPEM("", file(t, "server.pem"), file(t, "server-key.pem")))
	check(t, own.AddCertDER("www.example.org", [][]byte{decode(t, "second.pem")}, decode(t, "second-key.pem")))
	check(t, own.SetClientCAPEM(file(t, "ca.pem"), false))
	check(t, own.SetMinVersion(tls.VersionTLS13))
	check(t, own.SetTickets(true))
	check(t, own.SetSessionCache(100))
	expect(t, own.SetMinVersion(1), ErrInvalid)

	own = NewTLS()
	check(t, own.AddCertFile("", data+"server.pem", data+"server-key.pem"))
	check(t, own.AddCertDER("www.example.org", [][]byte{decode(t, "second.pem")}, decode(t, "second-key.pem")))
	config := local()
	config.TLS = own
	s := serve(t, config, echo)
	for _, name := range []string{"localhost", "www.example.org"} {
		client := clientTLS(t)
		client.ServerName = name
		c := dialTLS(t, s.Addr(), client)
		c.say("x")
		c.hear("x")
		c.Conn.Close()
	}
}

// Another TLS with the same keys opens the tickets of one, as another process would.
func TestTicketKeys(t *testing.T) {
	one, other := make([]byte, 80), make([]byte, 80)
	_, err := rand.Read(one)
	check(t, err)
	_, err = rand.Read(other)
	check(t, err)
	begin := func() (*TLS, net.Addr) {
		own := serverTLS(t)
		check(t, own.SetTicketKeys(one))
		config := local()
		config.TLS = own
		return own, serve(t, config, echo).Addr()
	}
	_, first := begin()
	own, second := begin()
	client := clientTLS(t)
	client.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	isResumed := func(addr net.Addr) bool {
		session, err := tls.Dial("tcp", addr.String(), client)
		check(t, err)
		defer session.Close()
		c := talk(t, session)
		c.say("x")
		c.hear("x") // and the ticket
		return session.ConnectionState().DidResume
	}
	equal(t, isResumed(first), false)
	equal(t, isResumed(second), true)
	check(t, own.SetTicketKeys(append(other[:80:80], one...)))
	equal(t, isResumed(second), true) // by a ticket of the former key, and the client gets one of the other
	check(t, own.SetTicketKeys(one))
	equal(t, isResumed(second), false)
	for _, length := range []int{0, 79, 80 * 17} {
		err := own.SetTicketKeys(make([]byte, length))
		expect(t, err, ErrInvalid)
		contains(t, err.Error(), fmt.Sprintf("ticket keys are 1 to 16 times 80 bytes, not %d", length))
	}
}

func decode(t *testing.T, name string) []byte {
	t.Helper()
	block, _ := pem.Decode(file(t, name))
	return block.Bytes
}

func TestReloadTLS(t *testing.T) {
	config := local()
	config.TLS = serverTLS(t)
	config.Loops = 2
	s := serve(t, config, echo)
	subject := func() string {
		session, err := tls.Dial("tcp", s.Addr().String(), clientTLS(t))
		check(t, err)
		defer session.Close()
		return session.ConnectionState().PeerCertificates[0].Subject.CommonName
	}
	equal(t, subject(), "server")
	expect(t, s.Server().ReloadTLS(0, NewTLS()), ErrCertificate)
	second, err := LoadTLS(data+"second.pem", data+"second-key.pem")
	check(t, err)
	check(t, s.Server().ReloadTLS(0, second))
	for i := 0; i < 4; i++ {
		equal(t, subject(), "second")
	}
}

func TestStartTLS(t *testing.T) {
	own := serverTLS(t)
	s := serve(t, local(), func(conn *Conn) error {
		buf := make([]byte, 5)
		if _, err := io.ReadFull(conn, buf); err != nil {
			return err
		}
		if _, err := conn.TLS(); err == nil {
			t.Error("TLS before STARTTLS")
		}
		if _, err := conn.Write([]byte("go on")); err != nil {
			return err
		}
		if err := conn.StartTLS(own, nil); err != nil {
			return err
		}
		return echo(conn)
	})
	c := dial(t, s.Addr())
	c.say("START")
	c.hear("go on")
	session := tls.Client(c.Conn, clientTLS(t))
	defer session.Close()
	_, err := session.Write([]byte("secret"))
	check(t, err)
	buf := make([]byte, 6)
	_, err = io.ReadFull(session, buf)
	check(t, err)
	equal(t, string(buf), "secret")
}
