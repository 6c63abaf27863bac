// Connections: sockets, user data, exceptions, calls by id, timers, watches, posts, detaching.
#include "check.hpp"

#include <atomic>
#include <memory>
#include <thread>

using namespace std::chrono_literals;
using netserver::server_ref;

/// A config whose exception handler keeps what it got and closes the connection.
struct reports {
    events count;
    std::exception_ptr cause;
    ns_status status = NS_OK;
    std::string text;
    bool had_socket = false;

    void operator()(netserver::socket *socket, const netserver::error &error) {
        cause = error.cause();
        status = error.status();
        text = error.what();
        had_socket = socket != nullptr;
        if (socket != nullptr)
            socket->close();
        count.add();
    }
    netserver::config config() {
        netserver::config made;
        made.exception_handler([this](netserver::socket *socket, const netserver::error &error) {
            (*this)(socket, error);
        });
        return made;
    }
};

/// What nobody takes, while it lives.
struct uncaught {
    static inline std::atomic<int> count{0};
    static inline std::string last;
    netserver::uncaught_handler former;

    uncaught() : former(netserver::set_uncaught_handler(take)) { count = 0; }
    ~uncaught() { netserver::set_uncaught_handler(former); }
    static void take(const std::exception_ptr &thrown) {
        try {
            std::rethrow_exception(thrown);
        } catch (const std::exception &exception) {
            last = exception.what();
        } catch (...) {
            last = "?";
        }
        count++;
    }
};

TEST(a_thrown_object_reaches_the_exception_handler) {
    const auto thrown = std::make_exception_ptr(std::invalid_argument("not like this"));
    for (const bool non_blocking : {false, true}) {
        uncaught none;
        reports got;
        netserver::server server(
            "127.0.0.1:0", [&](netserver::socket &) { std::rethrow_exception(thrown); },
            got.config().non_blocking(non_blocking));
        server.start_background();
        client peer(server.port());
        peer.send("x");
        CHECK(peer.sees_end());
        got.count.wait_for(1);
        CHECK(got.cause == thrown && got.status == NS_ERR_HANDLER);
        CHECK(got.text == "not like this" && got.had_socket);
        CHECK(uncaught::count == 0);
    }
}

TEST(any_type_can_be_thrown) {
    reports got;
    netserver::server server = serve(
        [](netserver::socket &socket) {
            char byte[1];
            if (socket.recv(byte) == 0u)
                return;
            if (*byte == 'i')
                throw 7;
            if (*byte == 's')
                throw netserver::error(NS_ERR_UNSUPPORTED);
            throw std::runtime_error("\xff is not UTF-8");
        },
        got.config());
    client(server.port()).send("i");
    got.count.wait_for(1);
    CHECK(got.status == NS_ERR_HANDLER);
    try {
        std::rethrow_exception(got.cause);
    } catch (int number) {
        CHECK(number == 7);
    }
    client(server.port()).send("s");
    got.count.wait_for(2);
    CHECK(got.status == NS_ERR_UNSUPPORTED);
    client(server.port()).send("x");
    got.count.wait_for(3);
    try {
        std::rethrow_exception(got.cause);
    } catch (const std::runtime_error &error) {
        CHECK(error.what() == std::string("\xff is not UTF-8"));
    }
}

TEST(callbacks_without_a_connection_throw_too) {
    reports got;
    const auto thrown = std::make_exception_ptr(std::runtime_error("alone"));
    const auto fail = [&] { std::rethrow_exception(thrown); };
    netserver::server server = serve(echo, got.config());
    int count = 0;
    const auto check = [&] {
        got.count.wait_for(++count);
        CHECK(got.cause == thrown && got.text == "alone" && !got.had_socket);
        got.cause = nullptr;
    };
    server.post(fail);
    check();
    server.timer(0ms, 0ms, fail);
    check();
    int ends[2];
    CHECK(::pipe(ends) == 0 && ::write(ends[1], "x", 1) == 1);
    server.watch(ends[0], NS_READ, [&](server_ref here, uint64_t id, int32_t fd, uint32_t what) {
        CHECK(fd == ends[0] && what == NS_READ);
        CHECK(here.unwatch(id) == NS_OK && here.unwatch(id) == NS_ERR_CLOSED);
        std::rethrow_exception(thrown);
    });
    check();
    ::close(ends[0]);
    ::close(ends[1]);
}

TEST(a_start_rethrows_what_its_hooks_threw) {
    const auto thrown = std::make_exception_ptr(std::runtime_error("not today"));
    for (const bool in_thread : {false, true}) {
        netserver::config config;
        if (in_thread)
            config.on_thread_start([&](int32_t, uint32_t) { std::rethrow_exception(thrown); });
        else
            config.on_start([&] { std::rethrow_exception(thrown); });
        netserver::server server("127.0.0.1:0", echo, config.non_blocking(true));
        bool is_same = false;
        try {
            server.start_background();
        } catch (const std::runtime_error &) {
            is_same = std::current_exception() == thrown;
        }
        CHECK(is_same && server.state() == NS_STATE_NEW);
    }
}

TEST(what_nobody_takes_is_uncaught) {
    const uncaught scope;
    {
        netserver::config config;
        config.on_close([] { throw std::runtime_error("at the end"); });
        netserver::server server = serve(echo, std::move(config));
        client peer(server.port());
        peer.shut();
        CHECK(peer.sees_end());
    }
    CHECK(uncaught::count == 1 && uncaught::last == "at the end");
    {
        netserver::server server =
            serve([](netserver::socket &) { throw std::runtime_error("no handler"); });
        client peer(server.port());
        peer.send("x");
        CHECK(peer.sees_end());
    }
    CHECK(uncaught::count == 2 && uncaught::last == "no handler");
    {
        netserver::config config;
        config.exception_handler([] { throw std::runtime_error("worse"); });
        netserver::server server = serve([](netserver::socket &) { throw 1; }, std::move(config));
        client peer(server.port());
        peer.send("x");
        CHECK(peer.sees_end());
        server.stop();
        CHECK(server.stats().handler_errors == 2);
    }
    CHECK(uncaught::count == 3 && uncaught::last == "worse");
}

TEST(a_client_that_resets_is_no_exception_of_the_program) {
    const uncaught scope;
    events closed;
    netserver::config config;
    config.on_close([&] { closed.add(); });
    netserver::server server = serve(echo, std::move(config));
    for (int i = 0; i < 20; i++) {
        client peer(server.port());
        CHECK(peer.ask("x") == "x");
        peer.send(std::string(100000, 'x')); // unread echoes make the close a reset
        peer.close();
    }
    closed.wait_for(20);
    CHECK(uncaught::count == 0);
}

TEST(on_open_may_refuse) {
    events closed;
    std::atomic<bool> is_open{false};
    netserver::config config;
    config.on_open([&](netserver::socket &socket) {
        if (!is_open)
            socket.send("closed today\n");
        return is_open.load();
    });
    netserver::server server = serve(echo, std::move(config));
    client refused(server.port());
    CHECK(refused.recv(13) == "closed today\n");
    CHECK(refused.sees_end());
    is_open = true;
    CHECK(client(server.port()).ask("hello") == "hello");
}

TEST(a_connection_keeps_data_of_any_type) {
    static std::atomic<int> alive{0};
    struct counter {
        std::string name;
        int count;
        std::unique_ptr<int, void (*)(int *)> token{(alive++, new int), [](int *n) {
                                                        delete n;
                                                        alive--;
                                                    }};
    };
    {
        netserver::server server = serve([](netserver::socket &socket) {
            if (socket.data<counter>() == nullptr)
                socket.emplace_data<counter>(counter{"ann", 0});
            CHECK(socket.data<std::string>() == nullptr);
            char bytes[16];
            while (auto n = socket.recv(bytes)) {
                if (*n == 0)
                    return socket.close();
                counter &kept = *socket.data<counter>();
                kept.count += static_cast<int>(*n);
                socket.send(kept.name + std::to_string(kept.count));
            }
        });
        client first(server.port()), second(server.port());
        first.send("xx");
        CHECK(first.recv(4) == "ann2");
        first.send("x");
        CHECK(first.recv(4) == "ann3");
        second.send("x");
        CHECK(second.recv(4) == "ann1");
        CHECK(alive == 2);
    }
    CHECK(alive == 0);
}

TEST(data_can_be_replaced_and_cleared) {
    const auto token = std::make_shared<int>(0);
    reports got;
    netserver::server server = serve(
        [&](netserver::socket &socket) {
            socket.emplace_data<std::shared_ptr<int>>(token);
            CHECK(token.use_count() == 2);
            socket.emplace_data<int>(5) += 1;
            CHECK(token.use_count() == 1 && *socket.data<int>() == 6);
            socket.clear_data();
            CHECK(socket.data<int>() == nullptr);
            socket.emplace_data<std::shared_ptr<int>>(token);
            socket.close();
        },
        got.config());
    client peer(server.port());
    peer.send("x");
    CHECK(peer.sees_end());
    peer.close();
    server.stop();
    CHECK(token.use_count() == 1 && server.stats().handler_errors == 0);
}

TEST(a_socket_says_what_it_is) {
    events served;
    netserver::server server = serve([&](server_ref here, netserver::socket &socket) {
        char bytes[8];
        const auto n = socket.recv(bytes);
        if (n == 0u)
            return socket.close();
        CHECK(n == 1u && !socket.recv(bytes));
        CHECK(socket.id() != 0 && socket.fd() > 0 && socket.service() == 0);
        CHECK(socket.peer().rfind("127.0.0.1:", 0) == 0);
        CHECK(socket.local() == here.address());
        sockaddr_storage address{};
        CHECK(socket.peer_addr({&address, sizeof address}) == sizeof(sockaddr_in));
        CHECK(address.ss_family == AF_INET);
        CHECK(!socket.tls_info() && socket.peer_certificate().empty());
        CHECK(socket.peer_subject().empty() && socket.os_error() == 0);
        CHECK_FAILS(socket.peer_credentials(), NS_ERR_UNSUPPORTED);
        CHECK_FAILS(socket.set_io_timeout(1s), NS_ERR_UNSUPPORTED);
        socket.sendv({"a", std::string("b"), std::string_view("c")});
        std::vector<netserver::const_buffer> many(20, "d");
        socket.sendv(many.data(), many.size());
        CHECK(socket.queued() > 0);
        CHECK_FAILS(socket.sendfile(-1, 0, 1), NS_ERR_INVALID);
        CHECK(socket.sendfile(0, 0, 0) == 0u);
        socket.flush();
        CHECK(socket.try_send("e") == NS_OK);
        socket.shutdown(NS_SHUT_WR);
        CHECK(socket.try_send("f") == NS_ERR_CLOSED);
        CHECK_FAILS(socket.send("f"), NS_ERR_CLOSED);
        served.add();
    });
    client peer(server.port());
    peer.send("x");
    CHECK(peer.recv(100) == "abc" + std::string(20, 'd') + "e");
    served.wait_for(1);
}

TEST(full_queues_are_reported) {
    events filled;
    netserver::config config;
    config.send_limit(1 << 20).high_water_mark(1 << 20);
    netserver::server server = serve(
        [&](netserver::socket &socket) {
            char byte[1];
            if (socket.recv(byte) != 1u)
                return socket.close();
            const std::string piece(1 << 19, 'x');
            ns_status status = NS_OK;
            while (status == NS_OK)
                status = socket.try_send(piece);
            CHECK(status == NS_ERR_BUFFER_FULL);
            CHECK_FAILS(socket.send(piece), NS_ERR_BUFFER_FULL);
            socket.abort();
            filled.add();
        },
        std::move(config));
    client peer(server.port());
    peer.send("x");
    filled.wait_for(1);
}

TEST(calls_by_id_return_a_status) {
    std::atomic<netserver::conn_id> last{0};
    events opened, drained;
    netserver::config config;
    config.on_open([&](netserver::socket &socket) {
        last = socket.id();
        opened.add();
    });
    config.on_wake([](netserver::socket &socket) { socket.send("awake"); });
    config.on_drain([&] { drained.add(); });
    netserver::server server = serve(echo, std::move(config));
    client first(server.port());
    opened.wait_for(1);
    const netserver::conn_id id = last;
    client second(server.port());
    opened.wait_for(2);
    CHECK(first.ask("x") == "x" && second.ask("x") == "x"); // they are listed from now on
    CHECK(server.send(id, "hello") == NS_OK && first.recv(5) == "hello");
    CHECK(server.ids().size() == 2 && server.broadcast(server.ids(), "all") == 2);
    CHECK(first.recv(3) == "all" && second.recv(3) == "all");
    CHECK(server.wake(id) == NS_OK && first.recv(5) == "awake");
    CHECK(server.queued(id) == 0);
    const netserver::conn_id some[] = {id, 0};
    ns_status statuses[2];
    CHECK(server.broadcast_each(some, 2, "each", statuses) == 1 && first.recv(4) == "each");
    CHECK(statuses[0] == NS_OK && statuses[1] == NS_ERR_CLOSED);
    CHECK(server.shutdown(id, NS_SHUT_WR) == NS_OK && first.sees_end());
    CHECK(server.close(last) == NS_OK && second.sees_end());
    CHECK(server.send(0, "nobody") == NS_ERR_CLOSED && server.abort(0) == NS_ERR_CLOSED);
}

TEST(a_walk_over_the_connections_can_end_early) {
    netserver::server server = serve(echo);
    client first(server.port()), second(server.port());
    CHECK(first.ask("x") == "x" && second.ask("x") == "x"); // from the end of on_open on
    CHECK(server.for_each([](netserver::conn_id) { return false; }) == 1);
    CHECK(server.for_each([](netserver::conn_id id) { CHECK(id != 0); }) == 2);
    bool is_thrown = false;
    try {
        server.for_each([](netserver::conn_id) { throw 1; });
    } catch (int) {
        is_thrown = true;
    }
    CHECK(is_thrown);
    netserver::server blocking("127.0.0.1:0", echo);
    CHECK_FAILS(blocking.ids(), NS_ERR_NOT_NON_BLOCKING);
}

TEST(tasks_and_timers_run_on_a_loop) {
    events ran;
    const auto token = std::make_shared<int>(0);
    std::atomic<int> ticks{0};
    {
        netserver::server server = serve(echo);
        server.post([&ran] { ran.add(); }); // as small as a pointer
        server.post([&ran, token, kept = std::string(100, 'x')](server_ref) {
            CHECK(kept.size() == 100);
            ran.add();
        });
        server.post([&ran, kept = std::make_unique<int>(3)] {
            CHECK(*kept == 3);
            ran.add();
        });
        ran.wait_for(3);
        const uint64_t id = server.timer(1ms, 1ms, [&, token](server_ref here, uint64_t self) {
            if (++ticks == 3)
                CHECK(here.cancel_timer(self) == NS_OK);
            ran.add();
        });
        ran.wait_for(6);
        CHECK(server.cancel_timer(id) == NS_ERR_CLOSED);
        server.timer(std::chrono::hours(1), 0ms, [token] {});
        CHECK_FAILS(server.timer(-1ms, 0ms, [token] {}), NS_ERR_INVALID);
        CHECK_FAILS(server.post([token] {}, 7), NS_ERR_INVALID);
        server.stop();
        CHECK_FAILS(server.post([token] {}), NS_ERR_STATE);
    }
    CHECK(ticks == 3 && token.use_count() == 1);
}

TEST(a_connection_has_a_timer_and_a_pause) {
    netserver::config config;
    config.on_timeout([](netserver::socket &socket) {
        socket.send("late");
        socket.resume();
    });
    netserver::server server = serve(
        [](netserver::socket &socket) {
            char byte[1];
            if (socket.recv(byte) != 1u)
                return socket.close();
            if (*byte == 'p') {
                socket.pause();
                socket.set_timer(1ms);
            } else {
                socket.send({byte, 1});
            }
        },
        std::move(config));
    client peer(server.port());
    peer.send("px");
    CHECK(peer.recv(5) == "latex");
}

TEST(a_detached_socket_is_owned) {
    events detached;
    std::thread owner;
    std::atomic<netserver::conn_id> again{0};
    netserver::server server = serve([&](server_ref here, netserver::socket &socket) {
        if (again != 0)
            return echo(socket);
        socket.emplace_data<std::string>("mine");
        netserver::owned_socket mine = here.detach(socket);
        CHECK_FAILS(socket.send("x"), NS_ERR_DETACHED);
        CHECK_FAILS(here.detach(socket), NS_ERR_DETACHED);
        owner = std::thread([&, here, owned = std::move(mine)]() mutable {
            char bytes[4];
            CHECK(owned && owned.recv(bytes) == 4u);
            owned.cork();
            owned.send(*owned.data<std::string>());
            owned.uncork();
            netserver::owned_socket moved = std::move(owned);
            again = moved.id();
            again = here.attach(std::move(moved));
            CHECK(!moved);
            detached.add();
        });
    });
    client peer(server.port());
    peer.send("wxyz");
    CHECK(peer.recv(4) == "mine");
    detached.wait_for(1);
    CHECK(peer.ask("attached") == "attached");
    server.stop(); // the handler has set `owner`
    owner.join();
}

TEST(what_a_handler_throws_after_a_detach_is_not_lost) {
    uncaught none;
    reports got;
    const auto thrown = std::make_exception_ptr(std::runtime_error("too late"));
    netserver::server server = serve(
        [&](server_ref here, netserver::socket &socket) {
            const netserver::owned_socket mine = here.detach(socket);
            std::rethrow_exception(thrown);
        },
        got.config());
    client peer(server.port());
    peer.send("x");
    got.count.wait_for(1);
    CHECK(got.cause == thrown && !got.had_socket && uncaught::count == 0);
}

TEST(sockets_of_the_program_become_connections) {
    events opened;
    netserver::config config;
    config.on_open([&](netserver::socket &socket) {
        if (socket.data<std::string>() != nullptr)
            socket.send(*socket.data<std::string>());
        opened.add();
    });
    netserver::server server = serve(echo, std::move(config));
    int ends[2];
    CHECK(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    CHECK(server.adopt_with<std::string>(ends[0], "adopted") != 0);
    char bytes[7];
    netserver::owned_socket mine = netserver::owned_socket::from_fd(ends[1]);
    std::size_t n = 0;
    while (n < sizeof bytes)
        n += mine.recv({bytes + n, sizeof bytes - n}).value();
    CHECK(std::string(bytes, n) == "adopted");
    const int fd = mine.release_fd();
    CHECK(fd >= 0 && !mine && ::close(fd) == 0);
    CHECK_FAILS(server.adopt(-1), NS_ERR_INVALID);
    CHECK_FAILS(netserver::owned_socket::from_fd(-1), NS_ERR_INVALID);

    netserver::server other = serve([&](netserver::socket &socket) {
        char some[16];
        if (socket.recv(some) == 5u && std::string(some, 5) == "hello")
            opened.add();
    });
    CHECK(server.connect_with<std::string>(other.address(), 10s, "hello") != 0);
    CHECK_FAILS(server.connect("no host"), NS_ERR_INVALID);
    opened.wait_for(3);
}
