// What the tests share: checks, a client, and waiting for an event with a deadline.
#ifndef CHECK_HPP
#define CHECK_HPP

#include <netserver.hpp>

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);           \
            std::abort();                                                                          \
        }                                                                                          \
    } while (false)

/// Checks that the expression throws an `error` with this status.
#define CHECK_FAILS(expression, wanted)                                                            \
    do {                                                                                           \
        ns_status failed_with = NS_OK;                                                             \
        try {                                                                                      \
            (void)(expression);                                                                    \
        } catch (const netserver::error &failure) {                                                \
            failed_with = failure.status();                                                        \
        }                                                                                          \
        CHECK(failed_with == (wanted));                                                            \
    } while (false)

/// A test adds itself to the list that `main` runs.
struct test {
    const char *name;
    void (*run)();

    static std::vector<test> &all();
    static bool add(const char *name, void (*run)());
};
#define TEST(name)                                                                                 \
    static void name();                                                                            \
    static const bool name##_is_added = test::add(#name, name);                                    \
    static void name()

/// Counts events on any thread, and waits for them.
class events {
public:
    void add() {
        const std::lock_guard<std::mutex> lock(mutex_);
        count_++;
        changed_.notify_all();
    }
    void wait_for(int count) {
        std::unique_lock<std::mutex> lock(mutex_);
        CHECK(changed_.wait_for(lock, std::chrono::seconds(30), [&] { return count_ >= count; }));
    }

private:
    std::mutex mutex_;
    std::condition_variable changed_;
    int count_ = 0;
};

/// A connected socket of a client.
class client {
public:
    explicit client(uint16_t port) : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_port = htons(port);
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        const timeval limit{30, 0};
        ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
        CHECK(::connect(fd_, reinterpret_cast<sockaddr *>(&address), sizeof address) == 0);
    }
    client(const client &) = delete;
    client &operator=(const client &) = delete;
    ~client() { close(); }

    void send(const std::string &text) {
        CHECK(::send(fd_, text.data(), text.size(), MSG_NOSIGNAL) ==
              static_cast<ssize_t>(text.size()));
    }
    /// Exactly so many bytes, or fewer at the end of the stream.
    std::string recv(std::size_t count) {
        std::string text(count, '\0');
        const ssize_t n = ::recv(fd_, &text[0], count, MSG_WAITALL);
        CHECK(n >= 0);
        text.resize(static_cast<std::size_t>(n));
        return text;
    }
    std::string ask(const std::string &text) {
        send(text);
        return recv(text.size());
    }
    bool sees_end() { return recv(1).empty(); }
    void shut() { CHECK(::shutdown(fd_, SHUT_WR) == 0); }
    void close() {
        if (fd_ >= 0)
            ::close(std::exchange(fd_, -1));
    }

private:
    int fd_;
};

/// Sends back what it receives.
inline void echo(netserver::socket &socket) {
    char bytes[4096];
    while (auto n = socket.recv(bytes)) {
        if (*n == 0)
            return socket.close();
        socket.send({bytes, *n});
    }
}

/// A server in non-blocking mode on any port of loopback, which has begun to serve.
template <class F>
netserver::server serve(F &&handler, netserver::config &&config = netserver::config()) {
    netserver::server server("127.0.0.1:0", std::forward<F>(handler), config.non_blocking(true));
    server.start_background();
    return server;
}

#endif
