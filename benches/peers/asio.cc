// asio: an echo server on Boost.Asio, one io_context, a receive buffer for each connection.
// Options: see peer.h.
#include "peer.h"

#include <boost/asio.hpp>
#include <memory>
#include <utility>

using boost::asio::ip::tcp;
using boost::system::error_code;

class Connection : public std::enable_shared_from_this<Connection> {
public:
    explicit Connection(tcp::socket accepted)
        : socket(std::move(accepted)), buffer(new char[buffer_size]) {}

    void read() {
        socket.async_read_some(boost::asio::buffer(buffer.get(), buffer_size),
                               [self = shared_from_this()](error_code error, std::size_t n) {
                                   if (!error)
                                       self->write(n);
                               });
    }

private:
    void write(std::size_t n) {
        boost::asio::async_write(socket, boost::asio::buffer(buffer.get(), n),
                                 [self = shared_from_this()](error_code error, std::size_t) {
                                     if (!error)
                                         self->read();
                                 });
    }

    tcp::socket socket; // closed with the last that refers to its connection
    std::unique_ptr<char[]> buffer;
};

static void accept_next_of(tcp::acceptor &acceptor) {
    acceptor.async_accept([&acceptor](error_code error, tcp::socket socket) {
        if (!error) {
            socket.set_option(tcp::no_delay(true), error);
            std::make_shared<Connection>(std::move(socket))->read();
        } else if (error != boost::asio::error::connection_aborted) {
            throw boost::system::system_error(error, "accept");
        }
        accept_next_of(acceptor);
    });
}

int main(int argc, char **argv) {
    begin("asio", "b:", argc, argv);
    boost::asio::io_context context(1); // one thread: it may do without some locking
    tcp::acceptor acceptor(context, tcp::v4());
    acceptor.set_option(tcp::acceptor::reuse_address(true));
    acceptor.bind({boost::asio::ip::address_v4::loopback(), 0});
    acceptor.listen(BACKLOG);
    say_listening(acceptor.native_handle());
    accept_next_of(acceptor);
    context.run();
    return 0;
}
