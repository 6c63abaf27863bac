#include <netserver.hpp>

int main(int argc, char **argv) {
    const auto echo = [](netserver::socket &socket) {
        char bytes[4096];
        while (auto n = socket.recv(bytes)) {
            if (*n == 0)
                return socket.close();
            socket.send({bytes, *n});
        }
    };
    const char *service = argc > 1 ? argv[1] : "5000";
    netserver::server(service, echo, netserver::config().non_blocking(argc > 2)).start();
}
