package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"strconv"
	"strings"
	"sync"

	"netserver"
)

var piece = bytes.Repeat([]byte("x"), 64<<10)

// fails has the texts with which OnClose fails, by connection.
var fails sync.Map

func serveGoroutines(config netserver.Config) (*netserver.Server, error) {
	if !noHandler {
		config.OnError = func(_ *netserver.Conn, err error) { onError(err) }
	}
	config.OnClose = func(conn *netserver.Conn, _ netserver.CloseReason) {
		collect()
		if text, ok := fails.LoadAndDelete(conn); ok {
			panic(text)
		}
	}
	listener, err := netserver.Listen(config)
	if err != nil {
		return nil, err
	}
	go func() { _ = listener.Serve(context.Background(), handle) }()
	return listener.Server(), nil
}

func handle(conn *netserver.Conn) error {
	lines := bufio.NewReader(conn)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return err
		}
		collect()
		word, text, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		switch word {
		case "tls":
			_, err = io.WriteString(conn, describe(conn.TLS())+"\n")
		case "fill":
			err = fill(conn, text)
		case "raise":
			return failure(text)
		case "raise-close":
			fails.Store(conn, text)
			return nil
		default:
			if reply, ok := answer(conn.Server(), conn.ID(), word, text); ok {
				_, err = io.WriteString(conn, reply+"\n")
			}
		}
		if err != nil {
			return err
		}
	}
}

func fill(conn *netserver.Conn, text string) error {
	count, err := strconv.Atoi(text)
	if err != nil {
		return err
	}
	for count > 0 {
		next := piece
		if len(next) > count {
			next = next[:count]
		}
		if _, err := conn.Write(next); err != nil {
			return err
		}
		count -= len(next)
	}
	_, err = conn.Write([]byte("\n"))
	return err
}
