// app.c in C++: serves one connection in the background, talks to itself, and ends.
#include <netserver.hpp>

#include <cstdio>

int main() {
    netserver::server server(
        "127.0.0.1:0",
        [](netserver::socket &socket) {
            char bytes[64];
            while (const auto n = socket.recv(bytes)) {
                if (*n == 0)
                    return socket.close();
                socket.send({bytes, *n});
            }
        },
        netserver::config().non_blocking(true));
    server.start_background();
    std::string answer;
    netserver::server client(
        "0",
        [&](netserver::server_ref here, netserver::socket &socket) {
            char bytes[64];
            while (const auto n = socket.recv(bytes))
                answer.append(bytes, *n);
            if (answer == "hello")
                here.request_stop();
        },
        netserver::config().non_blocking(true));
    client.start_hosted();
    client.send(client.connect(server.address()), "hello");
    while (client.run_once()) {
    }
    std::printf("netserver %s: %s\n", ns_version_string(), answer.c_str());
}
