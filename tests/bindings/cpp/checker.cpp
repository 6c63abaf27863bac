// The checker of the table of checks (tests/bindings/README.md), in C++.
#include "../../../bindings/cpp/examples/options.hpp"

#include <openssl/sha.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <iostream>
#include <mutex>
#include <thread>

namespace {

using netserver::server_ref;

/// What lives as long as the C side keeps it.
struct counted {
    static inline std::atomic<int> live{0};
    counted() { live++; }
    counted(const counted &) { live++; }
    counted &operator=(const counted &) = default;
    ~counted() { live--; }
};

struct connection : counted {
    std::string input;         // not yet answered
    std::uint64_t to_fill = 0; // bytes of `fill`, and its LF
    bool is_filling = false;
    std::string raised_at_close; // what on_close throws
};

options given;
std::atomic<const char *> wanted_end{nullptr}; // return, exit or throw

// -- exceptions -------------------------------------------------------------------------------

/// What the program threw itself. Never freed: threads may throw while the program exits.
struct {
    std::mutex &mutex = *new std::mutex;
    std::vector<std::exception_ptr> &all = *new std::vector<std::exception_ptr>;

    bool take(const std::exception_ptr &thrown) {
        const std::lock_guard<std::mutex> lock(mutex);
        const auto found = std::find(all.begin(), all.end(), thrown);
        if (found == all.end())
            return false;
        all.erase(found);
        return true;
    }
} thrown_here;

[[noreturn]] void raise(const std::string &text) {
    const auto thrown = std::make_exception_ptr(std::runtime_error(text));
    {
        const std::lock_guard<std::mutex> lock(thrown_here.mutex);
        thrown_here.all.push_back(thrown);
    }
    std::rethrow_exception(thrown);
}

void print(const std::string &line) { std::cout << line + "\n" << std::flush; }

void on_exception(netserver::socket *socket, const netserver::error &error) {
    if (socket != nullptr)
        socket->close();
    if (error.cause() == nullptr)
        return;
    try {
        std::rethrow_exception(error.cause());
    } catch (const netserver::error &) {
        // The library's own.
    } catch (const std::exception &exception) {
        const bool is_same = thrown_here.take(error.cause());
        print(std::string("exception: ") + exception.what() + (is_same ? " same" : " other"));
    }
}

// -- answers ----------------------------------------------------------------------------------

std::string status_or_ok(ns_status status) {
    return status == NS_OK ? "ok" : ns_status_name(status);
}

std::string tls(netserver::socket &socket) {
    const auto info = socket.tls_info();
    if (!info)
        return "version=none alpn=none certificate=none";
    std::string text = info->version == NS_TLS_1_3 ? "version=1.3" : "version=1.2";
    text += " alpn=" + (*info->alpn != '\0' ? std::string(info->alpn) : "none") + " certificate=";
    const std::vector<unsigned char> certificate = socket.peer_certificate();
    if (certificate.empty())
        return text + "none";
    unsigned char digest[SHA256_DIGEST_LENGTH];
    SHA256(certificate.data(), certificate.size(), digest);
    for (const unsigned char byte : digest)
        for (const int nibble : {byte >> 4, byte & 15})
            text += "0123456789abcdef"[nibble];
    return text;
}

std::string send_elsewhere(server_ref server, const std::string &arguments) {
    const std::size_t blank = arguments.find(' ');
    const netserver::conn_id id = std::stoull(arguments);
    ns_status status = NS_OK;
    std::thread([&] { status = server.send(id, arguments.substr(blank + 1) + "\n"); }).join();
    return status_or_ok(status);
}

void broadcast(server_ref server, const std::string &text) {
    std::thread([&] { server.broadcast(server.ids(), text + "\n"); }).join();
}

/// The next line of an owned socket; nothing at the end of the stream.
std::optional<std::string> read_line(netserver::owned_socket &socket, std::string &input) {
    for (;;) {
        const std::size_t end = input.find('\n');
        if (end != input.npos) {
            std::string line = input.substr(0, end);
            input.erase(0, end + 1);
            return line;
        }
        char bytes[4096];
        const std::size_t n = socket.recv(bytes).value();
        if (n == 0)
            return std::nullopt;
        input.append(bytes, n);
    }
}

void own(server_ref server, netserver::owned_socket socket) {
    try {
        socket.send("detached\n");
        const auto line = read_line(socket, socket.data<connection>()->input);
        if (!line)
            return;
        socket.send("owned " + *line + "\n");
        server.wake(server.attach(std::move(socket))); // for lines that were read ahead
    } catch (const netserver::error &) {
        // The client has gone, or the server has stopped.
    }
}

void raise_in_watch(server_ref server, const std::string &text) {
    int ends[2];
    if (pipe(ends) != 0 || write(ends[1], "x", 1) != 1)
        throw std::runtime_error("no pipe");
    const auto on_ready = [text, end = ends[1], token = counted()](server_ref here, uint64_t id,
                                                                   int fd, uint32_t) {
        here.unwatch(id);
        close(fd);
        close(end);
        raise(text);
    };
    server.watch(ends[0], NS_READ, on_ready);
}

std::string call_in_child(server_ref server) {
    int ends[2];
    char name[64];
    if (pipe(ends) != 0)
        return "no pipe";
    const pid_t child = fork();
    if (child == 0) {
        const char *answer = "none";
        try {
            server.post([] {});
        } catch (const netserver::error &error) {
            answer = error.status_name();
        }
        _exit(write(ends[1], answer, std::strlen(answer)) < 0);
    }
    close(ends[1]);
    const ssize_t length = read(ends[0], name, sizeof name);
    close(ends[0]);
    waitpid(child, nullptr, 0);
    return "fork " + std::string(name, length > 0 ? static_cast<std::size_t>(length) : 0);
}

// -- lines ------------------------------------------------------------------------------------

/// Sends what can leave now. Returns whether all has.
bool fill(netserver::socket &socket, connection &state) {
    static const std::string piece(65536, 'x');
    while (state.to_fill > 0) {
        const std::uint64_t size = std::min<std::uint64_t>(state.to_fill, piece.size());
        socket.send({piece.data(), static_cast<std::size_t>(size)});
        state.to_fill -= size;
        if (given.non_blocking && socket.queued() > 0 && state.to_fill > 0)
            return false; // on_drain goes on
    }
    state.is_filling = false;
    socket.send("\n");
    return true;
}

bool begins(const std::string &line, std::string_view command, std::string &rest) {
    if (line.compare(0, command.size(), command) != 0)
        return false;
    rest = line.substr(command.size());
    return true;
}

/// Commands that answer with one line at once.
std::optional<std::string> answer(server_ref server, netserver::socket &socket,
                                  const std::string &line) {
    std::string rest;
    if (line.empty() || begins(line, "echo ", rest))
        return rest;
    if (line == "id")
        return std::to_string(socket.id());
    if (line == "tls")
        return tls(socket);
    if (begins(line, "send ", rest))
        return send_elsewhere(server, rest);
    if (line == "objects")
        return std::to_string(counted::live);
    if (line == "fork")
        return call_in_child(server);
    const auto raise_later = [rest = &rest] {
        return [text = *rest, token = counted()] { raise(text); };
    };
    if (begins(line, "raise-timer ", rest))
        return server.timer(netserver::milliseconds(0), netserver::milliseconds(0), raise_later()),
               "ok";
    if (begins(line, "raise-post ", rest))
        return server.post(raise_later()), "ok";
    if (begins(line, "raise-watch ", rest))
        return raise_in_watch(server, rest), "ok";
    return std::nullopt;
}

/// Returns whether the connection goes on with its next line.
bool obey(server_ref server, netserver::socket &socket, connection &state,
          const std::string &line) {
    std::string rest;
    if (const auto text = answer(server, socket, line)) {
        socket.send(*text + "\n");
    } else if (begins(line, "broadcast ", rest)) {
        broadcast(server, rest);
    } else if (begins(line, "fill ", rest)) {
        state.to_fill = std::stoull(rest);
        state.is_filling = true;
        return fill(socket, state);
    } else if (line == "detach") {
        std::thread(own, server, server.detach(socket)).detach();
        return false;
    } else if (begins(line, "timer ", rest)) {
        const auto fire = [id = socket.id(), token = counted()](server_ref here, uint64_t) {
            here.send(id, "fired\n");
        };
        server.timer(netserver::milliseconds(std::stoul(rest)), netserver::milliseconds(0), fire);
    } else if (begins(line, "raise ", rest)) {
        raise(rest);
    } else if (begins(line, "raise-close ", state.raised_at_close)) {
        socket.close();
        return false;
    } else if (line == "stop") {
        server.request_stop();
    } else if (line == "end return" || line == "end exit" || line == "end throw") {
        wanted_end = line == "end return" ? "return" : line == "end exit" ? "exit" : "throw";
        return false;
    } else {
        socket.send("what?\n");
    }
    return true;
}

void obey_all(server_ref server, netserver::socket &socket, connection &state) {
    for (std::size_t end;
         !state.is_filling && (end = state.input.find('\n')) != state.input.npos;) {
        const std::string line = state.input.substr(0, end);
        state.input.erase(0, end + 1);
        if (!obey(server, socket, state, line))
            return;
    }
}

void on_readable(server_ref server, netserver::socket &socket) {
    connection *state = socket.data<connection>();
    if (state == nullptr)
        state = &socket.emplace_data<connection>();
    char bytes[65536];
    while (auto n = socket.recv(bytes)) {
        if (*n == 0)
            return socket.close();
        state->input.append(bytes, *n);
        obey_all(server, socket, *state);
        if (socket.is_closed())
            return; // or detached
    }
}

void go_on(server_ref server, netserver::socket &socket) {
    connection *state = socket.data<connection>();
    if (state != nullptr && (!state->is_filling || fill(socket, *state)))
        obey_all(server, socket, *state);
}

// -- program ----------------------------------------------------------------------------------

netserver::config config() {
    netserver::config config = given.config();
    if (given.has_exception_handler)
        config.exception_handler(on_exception);
    config.on_start([](server_ref server) { print("listening on " + server.address()); });
    config.on_drain(go_on).on_wake(go_on);
    config.on_close([](netserver::socket &socket, int32_t) {
        const connection *state = socket.data<connection>();
        if (state != nullptr && !state->raised_at_close.empty())
            throw std::runtime_error(state->raised_at_close);
    });
    return config;
}

/// Returns whether the server has stopped, and not only a client wanted the program's end.
bool serve(netserver::server &server) {
    using namespace std::chrono_literals;
    if (!given.is_hosted()) {
        server.start_background();
        while (wanted_end == nullptr)
            if (server.wait_for(20ms))
                return true;
        return false;
    }
    server.start_hosted();
    while (wanted_end == nullptr)
        if (!server.run_once())
            return true;
    return false;
}

void run() {
    netserver::server server(given.service, on_readable, config());
    if (serve(server))
        print("stopped");
    else if (wanted_end.load() == std::string_view("exit"))
        std::exit(7);
    else if (wanted_end.load() == std::string_view("throw"))
        throw std::runtime_error("nobody catches this");
}

} // namespace

int main(int argc, char **argv) {
    const auto parsed = options::parse(argc, argv);
    if (!parsed) {
        std::cerr << "usage: checker [-n] [-t THREADS] [--cert FILE --key FILE] [--client-ca FILE] "
                     "[--alpn a,b] [--no-handler] [--shutdown-port P] [SERVICE]\n";
        return 2;
    }
    given = *parsed;
    try {
        run();
    } catch (const netserver::error &error) {
        std::cerr << "checker: " << error.what() << '\n';
        return 1;
    }
}
