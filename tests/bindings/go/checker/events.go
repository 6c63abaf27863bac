package main

import (
	"bytes"
	"io"
	"strconv"
	"strings"

	"netserver"
)

// session is what a connection on an event loop has.
type session struct {
	input  []byte
	toFill int    // bytes
	fails  string // with this OnClose fails
}

func serveEvents(config netserver.Config) (*netserver.Server, error) {
	events := netserver.Events{
		OnOpen: func(s *netserver.Socket) error {
			collect()
			s.Data = &session{}
			return nil
		},
		OnData: func(s *netserver.Socket, data []byte) error {
			collect()
			own := s.Data.(*session)
			own.input = append(own.input, data...)
			return own.work(s)
		},
		OnDrain: func(s *netserver.Socket) error {
			collect()
			return s.Data.(*session).work(s)
		},
		OnWake: func(s *netserver.Socket) error {
			collect()
			return s.Data.(*session).work(s)
		},
		OnClose: func(s *netserver.Socket, _ netserver.CloseReason) {
			collect()
			if own, ok := s.Data.(*session); ok && own.fails != "" {
				panic(own.fails)
			}
		},
	}
	if !noHandler {
		events.OnError = func(_ *netserver.Socket, err error) { onError(err) }
	}
	return netserver.Start(config, events)
}

// work answers the lines that have come, until something must be waited for.
func (own *session) work(s *netserver.Socket) error {
	for own.fill(s) && !s.IsClosed() {
		line, rest, found := bytes.Cut(own.input, []byte("\n"))
		if !found {
			return nil
		}
		own.input = rest
		word, text, _ := strings.Cut(string(line), " ")
		if word == "detach" {
			return own.detach(s)
		}
		if err := own.do(s, word, text); err != nil {
			return err
		}
	}
	return nil
}

func (own *session) do(s *netserver.Socket, word, text string) error {
	switch word {
	case "tls":
		_, err := io.WriteString(s, describe(s.TLS())+"\n")
		return err
	case "fill":
		count, err := strconv.Atoi(text)
		own.toFill = count + 1
		return err
	case "raise":
		if len(text)%2 == 0 {
			panic(failure(text)) // as good as returning it
		}
		return failure(text)
	case "raise-close":
		own.fails = text
		return s.Close()
	case "timer", "raise-timer", "raise-post", "raise-watch":
		return later(s, word, text)
	}
	reply, ok := answer(s.Server(), s.ID(), word, text)
	if !ok {
		return nil
	}
	_, err := io.WriteString(s, reply+"\n")
	return err
}

// fill sends what `fill` asked for as long as nothing is queued: OnDrain goes on. The last byte is the
// end of the line. It returns whether that is all.
func (own *session) fill(s *netserver.Socket) bool {
	for own.toFill > 0 {
		if s.Queued() > 0 {
			return false
		}
		next := piece
		if own.toFill <= len(piece) {
			next = append(append([]byte(nil), piece[:own.toFill-1]...), '\n')
		}
		if _, err := s.Write(next); err != nil {
			return false
		}
		own.toFill -= len(next)
	}
	return true
}

// detach gives the connection to a goroutine of its own.
func (own *session) detach(s *netserver.Socket) error {
	server := s.Server()
	owned, err := s.Detach()
	if err != nil {
		return err
	}
	go func() {
		if id, err := own.serve(owned, server); err != nil {
			owned.Close()
		} else {
			_ = server.Wake(id) // for the lines that came meanwhile
		}
	}()
	return nil
}

func (own *session) serve(owned *netserver.OwnedSocket, server *netserver.Server) (netserver.ID, error) {
	if _, err := io.WriteString(owned, "detached\n"); err != nil {
		return 0, err
	}
	buf := make([]byte, 4096)
	for bytes.IndexByte(own.input, '\n') < 0 {
		n, err := owned.Read(buf)
		if err != nil {
			return 0, err
		}
		own.input = append(own.input, buf[:n]...)
	}
	line, rest, _ := bytes.Cut(own.input, []byte("\n"))
	own.input = rest
	if _, err := io.WriteString(owned, "owned "+string(line)+"\n"); err != nil {
		return 0, err
	}
	return owned.Attach(server)
}
