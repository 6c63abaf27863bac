// echo sends back what it receives, until SIGINT or SIGTERM.
//
//	echo [-n] [-t THREADS] [-cert FILE -key FILE] [-shutdown-port P] [SERVICE]
//
// By default a goroutine serves each connection, and -t is the number of threads that a server with
// workers would have: of no more use here than there are processors. With -n the event loops serve,
// and -t is their number.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"netserver"
)

func main() {
	events := flag.Bool("n", false, "the event loops serve, not a goroutine for each connection")
	loops := flag.Int("t", 1, "the number of threads, or with -n of event loops")
	cert := flag.String("cert", "", "TLS with the certificate chain in this `file` (PEM)")
	key := flag.String("key", "", "and its private key in this `file`")
	shutdown := flag.String("shutdown-port", "", "a connection to this `port` stops the server")
	flag.Parse()
	if flag.NArg() > 1 || (*cert == "") != (*key == "") || *loops < 1 {
		flag.Usage()
		os.Exit(2)
	}
	log.SetFlags(0)
	config := netserver.Config{Service: "5000", Loops: *loops, ShutdownPort: *shutdown, DrainTimeout: time.Second / 2}
	if flag.NArg() == 1 {
		config.Service = flag.Arg(0)
	}
	if *cert != "" {
		tls, err := netserver.LoadTLS(*cert, *key)
		if err != nil {
			log.Fatal(err)
		}
		config.TLS = tls
	}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer cancel()
	serve := eventLoops
	if !*events {
		serve = goroutines
		if most := runtime.GOMAXPROCS(0); config.Loops > most {
			config.Loops = most
		}
	}
	if err := serve(ctx, config); err != nil {
		log.Fatal(err)
	}
}

func goroutines(ctx context.Context, config netserver.Config) error {
	config.OnError = func(conn *netserver.Conn, err error) { say(err) }
	listener, err := netserver.Listen(config)
	if err != nil {
		return err
	}
	fmt.Println("listening on", listener.Server().Address(0))
	return listener.Serve(ctx, func(conn *netserver.Conn) error {
		_, err := io.Copy(conn, conn)
		return err
	})
}

func eventLoops(ctx context.Context, config netserver.Config) error {
	server, err := netserver.Start(config, netserver.Events{
		OnData: func(socket *netserver.Socket, data []byte) error {
			_, err := socket.Write(data)
			return err
		},
		OnError: func(socket *netserver.Socket, err error) { say(err) },
	})
	if err != nil {
		return err
	}
	fmt.Println("listening on", server.Address(0))
	select {
	case <-ctx.Done():
		server.Stop()
	case <-server.Done():
	}
	return nil
}

// say prints what went wrong. A client that goes away is no event: any number may.
func say(err error) {
	for _, gone := range []error{netserver.ErrReset, netserver.ErrTruncated, netserver.ErrHandshake, netserver.ErrClosed} {
		if errors.Is(err, gone) {
			return
		}
	}
	log.Print(err)
}
