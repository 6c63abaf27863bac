// checker does what the table of checks asks, see ../../README.md. With -n the event loops answer,
// else a goroutine for each connection.
package main

import (
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"runtime"
	"strings"
	"time"

	"netserver"
)

var (
	collects  bool
	noHandler bool
	raised    error // the latest
	end       = make(chan string, 1)
)

// collect forces a garbage collection where that is asked for.
func collect() {
	if collects {
		runtime.GC()
	}
}

// failure returns the error that a callback fails with. It panics for half of them: that is the same.
func failure(text string) error {
	raised = errors.New(text)
	return raised
}

// onError prints what the program itself raised.
func onError(err error) {
	collect()
	var status netserver.Status
	var failed *netserver.Error
	if errors.As(err, &status) || errors.As(err, &failed) {
		return // a client that goes away
	}
	same := "other"
	var panicked *netserver.PanicError
	if err == raised || errors.As(err, &panicked) && panicked.Value == any(raised) {
		same = "same"
	}
	fmt.Println("exception:", strings.TrimPrefix(err.Error(), "panic: "), same)
}

func parse() (config netserver.Config, events bool) {
	hosted := flag.Bool("n", false, "event loops")
	threads := flag.Int("t", 1, "threads")
	cert := flag.String("cert", "", "certificate")
	key := flag.String("key", "", "its key")
	ca := flag.String("client-ca", "", "authorities of clients")
	alpn := flag.String("alpn", "", "protocols")
	shutdown := flag.String("shutdown-port", "", "shutdown port")
	flag.BoolVar(&collects, "gc", false, "collect garbage in every callback")
	flag.BoolVar(&noHandler, "no-handler", false, "no exception handler")
	flag.Parse()
	if flag.NArg() != 1 || (*cert == "") != (*key == "") {
		flag.Usage()
		os.Exit(2)
	}
	config = netserver.Config{Service: flag.Arg(0), Loops: *threads, ShutdownPort: *shutdown, DrainTimeout: time.Second / 2}
	if most := runtime.GOMAXPROCS(0); !*hosted && config.Loops > most {
		config.Loops = most
	}
	if *cert == "" {
		return config, *hosted
	}
	tls, err := netserver.LoadTLS(*cert, *key)
	if err == nil && *ca != "" {
		err = tls.SetClientCAFile(*ca, false)
	}
	if err == nil && *alpn != "" {
		err = tls.SetALPN(strings.Split(*alpn, ",")...)
	}
	if err != nil {
		log.Fatal(err)
	}
	config.TLS = tls
	return config, *hosted
}

func main() {
	log.SetFlags(0)
	config, events := parse()
	serve := serveGoroutines
	if events {
		serve = serveEvents
	}
	server, err := serve(config)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("listening on", server.Address(0))
	select {
	case <-server.Done():
		fmt.Println("stopped")
	case how := <-end:
		switch how {
		case "exit":
			os.Exit(7)
		case "throw":
			panic("nobody catches this")
		}
	}
}
