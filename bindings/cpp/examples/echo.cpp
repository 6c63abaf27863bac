// echo: sends back what it receives, until SIGINT or SIGTERM.
//
//   echo [-n] [-t THREADS] [--cert FILE --key FILE] [--shutdown-port P] [SERVICE]
//
//   -n                 non-blocking mode: one loop on this thread, or THREADS loops
//   -t THREADS         workers (blocking mode) or event loops (1)
//   --cert FILE        TLS with this certificate chain (PEM), and
//   --key FILE         its private key (PEM)
//   --shutdown-port P  a connection to this port stops the server
//   SERVICE            where to listen (5000); 0 takes any free port
#include "options.hpp"

#include <csignal>
#include <iostream>

namespace {

void echo(netserver::socket &socket) {
    char bytes[65536];
    while (auto n = socket.recv(bytes)) {
        if (*n == 0)
            return socket.close();
        socket.send({bytes, *n});
    }
}

void say_what_failed(netserver::socket *socket, const netserver::error &error) {
    if (socket != nullptr)
        socket->close();
    // A client that goes away is no event: any number may.
    const ns_status status = error.status();
    if (status != NS_ERR_RESET && status != NS_ERR_TRUNCATED && status != NS_ERR_HANDSHAKE &&
        status != NS_ERR_CLOSED)
        std::cerr << "echo: " << error.what() << '\n';
}

netserver::server *serving; // for the signal handler

void handle_signals(void (*handler)(int)) {
    std::signal(SIGINT, handler);
    std::signal(SIGTERM, handler);
}

void serve(const options &given) {
    netserver::config config = given.config();
    config.exception_handler(say_what_failed);
    config.on_start([](netserver::server_ref server) {
        std::cout << "listening on " << server.address() << std::endl;
    });
    netserver::server server(given.service, echo, config);
    serving = &server;
    handle_signals([](int) { serving->request_stop(); });
    if (given.is_hosted()) {
        server.start_hosted();
        while (server.run_once()) {
        }
    } else {
        server.start();
    }
    handle_signals(SIG_IGN);
}

} // namespace

int main(int argc, char **argv) {
    const auto given = options::parse(argc, argv);
    if (!given) {
        std::cerr << "usage: echo [-n] [-t THREADS] [--cert FILE --key FILE] [--shutdown-port P] "
                     "[SERVICE]\n";
        return 2;
    }
    try {
        serve(*given);
    } catch (const netserver::error &error) {
        std::cerr << "echo: " << error.what() << '\n';
        return 1;
    }
}
