// Servers: the modes, settings, services, TLS, hooks, and who owns what.
#include "check.hpp"

#include <poll.h>

#include <array>
#include <atomic>
#include <fstream>
#include <iterator>
#include <thread>
#if __cplusplus >= 202002L
#include <span>
#endif

using namespace std::chrono_literals;
using netserver::server_ref;

std::vector<test> &test::all() {
    static std::vector<test> list;
    return list;
}

bool test::add(const char *name, void (*run)()) {
    all().push_back({name, run});
    return true;
}

int main(int argc, char **argv) {
    for (const test &each : test::all()) {
        if (argc > 1 && std::string(each.name).find(argv[1]) == std::string::npos)
            continue;
        std::printf("%s\n", each.name);
        std::fflush(stdout);
        each.run();
    }
    std::printf("%zu tests\n", test::all().size());
}

static_assert(!std::is_copy_constructible_v<netserver::server>);
static_assert(std::is_nothrow_move_constructible_v<netserver::server>);
static_assert(std::is_nothrow_move_assignable_v<netserver::server>);
static_assert(!std::is_copy_constructible_v<netserver::config>);
static_assert(std::is_nothrow_move_constructible_v<netserver::config>);
static_assert(!std::is_copy_constructible_v<netserver::tls>);
static_assert(std::is_nothrow_move_constructible_v<netserver::tls>);
static_assert(!std::is_copy_constructible_v<netserver::socket>);
static_assert(!std::is_move_constructible_v<netserver::socket>);
static_assert(!std::is_copy_constructible_v<netserver::owned_socket>);
static_assert(std::is_nothrow_move_constructible_v<netserver::owned_socket>);
static_assert(std::is_nothrow_copy_constructible_v<netserver::error>);

// What is const, or no bytes at all, is no buffer to be written.
static_assert(!std::is_constructible_v<netserver::buffer, const std::string &>);
static_assert(!std::is_constructible_v<netserver::buffer, const char (&)[4]>);
static_assert(!std::is_constructible_v<netserver::buffer, std::vector<std::string> &>);
static_assert(!std::is_constructible_v<netserver::const_buffer, std::vector<std::string> &>);

static std::string contents(const std::string &name) {
    std::ifstream file(std::string(std::getenv("NETSERVER_ROOT")) + "/tests/data/" + name);
    return {std::istreambuf_iterator<char>(file), {}};
}

TEST(buffers_are_made_of_what_has_bytes) {
    std::string text = "text";
    std::vector<int> numbers{1, 2, 3};
    std::array<unsigned char, 5> array{};
    char bytes[6] = "";
    const auto size = [](netserver::const_buffer bytes_) { return bytes_.size(); };
    const auto room = [](netserver::buffer bytes_) { return bytes_.size(); };
    CHECK(size("literal") == 7);
    CHECK(size(text) == 4 && size(std::string_view("view")) == 4);
    CHECK(size(numbers) == 12 && size(array) == 5 && size({bytes, 2}) == 2);
    CHECK(netserver::const_buffer(text).data() == text.data());
    CHECK(room(text) == 4 && room(numbers) == 12 && room(array) == 5 && room(bytes) == 6);
    CHECK(netserver::buffer(numbers).data() == numbers.data());
#if __cplusplus >= 202002L
    CHECK(size(std::span<const int>(numbers)) == 12);
    CHECK(room(std::span<int>(numbers).first(2)) == 8);
    CHECK(room(std::as_writable_bytes(std::span(array))) == 5);
#endif
}

TEST(both_modes_serve) {
    for (const bool non_blocking : {false, true}) {
        netserver::server server("127.0.0.1:0", echo,
                                 netserver::config().non_blocking(non_blocking).max_thread(2));
        CHECK(server.is_stopped() && server.state() == NS_STATE_NEW);
        server.start_background();
        CHECK(!server.is_stopped() && server.port() != 0);
        CHECK(server.address() == "127.0.0.1:" + std::to_string(server.port()));
        client peer(server.port());
        CHECK(peer.ask("hello") == "hello");
        peer.shut();
        CHECK(peer.sees_end());
        CHECK(!server.wait_for(1ms));
        CHECK(server.stop());
        server.wait();
        CHECK(server.stats().accepted == 1 && server.stats().state == NS_STATE_STOPPED);
        CHECK(server.report().find("Total thread count: 2") != std::string::npos);
        CHECK(server.metrics().find("\nnetserver_") != std::string::npos);
        CHECK(server.thread_stats(1).index == 1);
        CHECK_FAILS(server.thread_stats(2), NS_ERR_INVALID);
        CHECK_FAILS(server.start(), NS_ERR_STATE);
    }
}

TEST(a_server_that_quiesces_serves_on) {
    for (const bool non_blocking : {false, true}) {
        std::atomic<int> quiesced{0};
        netserver::server server("127.0.0.1:0", echo,
                                 netserver::config()
                                     .non_blocking(non_blocking)
                                     .lend_listeners(true)
                                     .on_quiesce([&] { quiesced++; }));
        CHECK(!server.is_ready() && server.request_quiesce() == NS_ERR_STATE);
        CHECK_FAILS(server.listener_fd(), NS_ERR_STATE);
        server.start_background();
        CHECK(server.is_ready() && server.listener_fd() >= 0);
        CHECK_FAILS(server.listener_fd(1), NS_ERR_INVALID);
        client peer(server.port());
        CHECK(peer.ask("before") == "before");
        CHECK(server.quiesce() && quiesced == 1);
        CHECK(server.state() == NS_STATE_QUIESCING && !server.is_ready());
        CHECK(peer.ask("after") == "after" && !server.wait_idle_for(1ms));
        peer.shut();
        CHECK(peer.sees_end());
        server.wait_idle();
        CHECK(server.request_quiesce() == NS_OK);
        CHECK(server.stop());
    }
}

TEST(a_hosted_server_runs_in_turns) {
    netserver::server server("127.0.0.1:0", echo, netserver::config().non_blocking(true));
    CHECK_FAILS(server.poll_fd(), NS_ERR_STATE);
    CHECK_FAILS(server.run_once(0ms), NS_ERR_STATE);
    server.start_hosted();
    std::thread peer([&] {
        CHECK(client(server.port()).ask("hello") == "hello");
        server.request_stop();
    });
    pollfd ready{server.poll_fd(), POLLIN, 0};
    do {
        CHECK(::poll(&ready, 1, 30000) == 1);
    } while (server.run_once(0ms));
    peer.join();
    CHECK(!server.run_once());
}

TEST(a_destructor_cuts_what_it_serves) {
    for (const bool non_blocking : {false, true}) {
        events opened;
        std::optional<client> peer;
        const auto begun = std::chrono::steady_clock::now();
        {
            netserver::config config;
            config.non_blocking(non_blocking).drain_timeout(60s).on_open([&] { opened.add(); });
            netserver::server server("127.0.0.1:0", echo, config);
            server.start_background();
            peer.emplace(server.port());
            opened.wait_for(1);
        }
        CHECK(std::chrono::steady_clock::now() - begun < 30s);
    }
}

TEST(a_server_moves_while_it_serves) {
    netserver::server first = serve(echo);
    const uint16_t port = first.port();
    netserver::server second = std::move(first);
    client peer(port);
    CHECK(peer.ask("moved") == "moved");
    first = serve(echo);
    const uint16_t other = first.port();
    second = std::move(first); // the one on `port` ends
    CHECK(client(other).ask("and on") == "and on");
    netserver::server &same = second;
    second = std::move(same);
    CHECK(client(other).ask("still") == "still");
}

TEST(callables_live_as_long_as_the_server) {
    const auto token = std::make_shared<int>(0);
    {
        netserver::config config;
        config.on_stop([token] {});
        netserver::server server(
            "0", [token](netserver::socket &) {}, config);
        CHECK(token.use_count() == 3);
        CHECK_FAILS(config.on_start([token] {}), NS_ERR_STATE); // in use
        CHECK(token.use_count() == 3);
        config = netserver::config();
        CHECK(token.use_count() == 3);
    }
    CHECK(token.use_count() == 1);
    CHECK_FAILS(netserver::server("no such:service:", [token](netserver::socket &) {}),
                NS_ERR_INVALID);
    CHECK(token.use_count() == 1);
    // What can only be moved is taken too.
    netserver::server server("0", [kept = std::make_unique<int>(1)](netserver::socket &) {});
}

TEST(settings_are_kept_and_checked) {
    netserver::config config;
    config.max_thread(3).retry_interval(2s).use_ipv6(true).send_limit(1 << 20).thread_name("cpp");
    CHECK(config.send_limit_total(1 << 21).send_limit_total() == 1 << 21);
    CHECK(config.max_thread() == 3 && config.retry_interval() == 2s && config.use_ipv6());
    CHECK(config.send_limit() == 1 << 20 && config.thread_name() == "cpp");
    CHECK(!config.shutdown_port() && config.shutdown_port("0").shutdown_port() == "0");
    CHECK(!config.clear_shutdown_port().shutdown_port());
    config.add_trusted_proxy("10.0.0.0/8").add_trusted_proxy("unix").proxy_protocol(NS_PROXY_V2);
    CHECK(config.trusted_proxies() == "10.0.0.0/8, unix" && config.proxy_protocol() == NS_PROXY_V2);
    CHECK_FAILS(netserver::config().add_trusted_proxy("10.0.0.1/8"), NS_ERR_INVALID);
    config.idle_timeout(1ms);
    CHECK_FAILS(config.idle_timeout(-1ms), NS_ERR_INVALID);
    CHECK_FAILS(config.idle_timeout(std::chrono::hours(10000)), NS_ERR_INVALID);
    CHECK(config.idle_timeout() == 1ms);
    CHECK_FAILS(netserver::config().max_thread(0), NS_ERR_INVALID);
}

TEST(a_logger_gets_lines_with_their_level) {
    std::mutex lock;
    std::string lines;
    netserver::config config;
    config.logger(NS_LOG_INFO, [&](int32_t level, netserver::conn_id id, std::string_view line) {
        const std::lock_guard<std::mutex> guard(lock);
        lines.append(level == NS_LOG_INFO && id == 0 ? "info " : "? ").append(line).append("\n");
    });
    CHECK_FAILS(netserver::config().logger(5, [](std::string_view) {}), NS_ERR_INVALID);
    netserver::server server("127.0.0.1:0", echo, config);
    server.start_background();
    const std::string address = server.address();
    server.stop();
    const std::lock_guard<std::mutex> guard(lock);
    CHECK(lines.find(address) != std::string::npos && lines.find('?') == std::string::npos);
}

TEST(an_error_says_what_failed) {
    netserver::server taken = serve(echo);
    netserver::server server(taken.address(), echo);
    try {
        server.start();
        CHECK(false);
    } catch (const netserver::error &error) {
        CHECK(error.status() == NS_ERR_LISTEN && error.os_code() == EADDRINUSE);
        CHECK(error.status_name() == std::string("NS_ERR_LISTEN"));
        CHECK(std::string(error.what()).find(taken.address()) != std::string::npos);
        CHECK(error.cause() == nullptr);
    }
}

TEST(a_text_that_has_a_nul_is_refused) {
    const std::string text("0\0x", 3);
    netserver::server server("127.0.0.1:0", echo);
    CHECK_FAILS(netserver::server(text, echo), NS_ERR_INVALID);
    CHECK_FAILS(server.add_service(text), NS_ERR_INVALID);
    CHECK_FAILS(server.connect(text), NS_ERR_INVALID);
    CHECK_FAILS(netserver::config().shutdown_port(text), NS_ERR_INVALID);
    CHECK_FAILS(netserver::config().thread_name(text), NS_ERR_INVALID);
    CHECK_FAILS(netserver::tls(text, text), NS_ERR_INVALID);
    CHECK_FAILS(netserver::tls().client_ca_file(text), NS_ERR_INVALID);
    CHECK_FAILS(netserver::tls().alpn({text}), NS_ERR_INVALID);
    CHECK_FAILS(netserver::tls().add_cert_pem("", "", text), NS_ERR_INVALID);
}

TEST(services_have_numbers) {
    events served;
    std::atomic<int32_t> number{-2};
    netserver::server server("127.0.0.1:0", [&](netserver::socket &socket) {
        number = socket.service();
        CHECK(socket.transport_peer() == socket.peer());
        CHECK(!socket.proxy_tlv(NS_PROXY_TLV_AUTHORITY));
        served.add();
    });
    CHECK(server.add_service("127.0.0.1:0") == 1);
    CHECK_FAILS(server.service_proxy(1, NS_PROXY_V1), NS_ERR_INVALID); // no proxy is trusted
    CHECK_FAILS(server.add_service("127.0.0.1:http:"), NS_ERR_INVALID);
    CHECK_FAILS(server.add_service("0", netserver::tls()), NS_ERR_CERTIFICATE);
    server.start_background();
    const std::string address = server.address(1);
    client peer(static_cast<uint16_t>(std::stoi(address.substr(address.find(':') + 1))));
    served.wait_for(1);
    CHECK(number == 1);
}

TEST(tls_takes_certificates) {
    const std::string chain = contents("server.pem"), key = contents("server-key.pem");
    netserver::tls tls, other;
    tls.add_cert_pem(chain, key).alpn({"h2", "http/1.1"}).min_version(NS_TLS_1_3).tickets(false);
    tls.client_ca_pem(contents("ca.pem"), false).session_cache(10);
    other.add_cert_pem(contents("second.pem"), contents("second-key.pem"), "*.example.org");
    CHECK_FAILS(netserver::tls("/does/not/exist", "/neither"), NS_ERR_CERTIFICATE);
    CHECK_FAILS(netserver::tls().add_cert_pem(chain, contents("second-key.pem")),
                NS_ERR_CERTIFICATE);
    CHECK_FAILS(netserver::tls().add_cert_der({chain, chain}, key), NS_ERR_CERTIFICATE);
    netserver::server server("0", echo, netserver::config().tls(tls));
    CHECK_FAILS(tls.tickets(true), NS_ERR_STATE); // frozen
    tls.ticket_keys(std::string(2 * NS_TLS_TICKET_KEY_LEN, 'k'));
    CHECK_FAILS(tls.ticket_keys(std::string(1, 'k')), NS_ERR_INVALID);
    server.reload_tls(other);
    CHECK_FAILS(server.reload_tls(netserver::tls()), NS_ERR_CERTIFICATE);
    CHECK_FAILS(server.reload_tls(other, 1), NS_ERR_INVALID);
    netserver::server plain("0", echo, netserver::config().tls(tls).clear_tls());
    CHECK_FAILS(plain.reload_tls(other), NS_ERR_STATE);
}

TEST(hooks_run_on_their_threads) {
    std::atomic<int> started{0}, stopped{0}, in_order{0};
    {
        netserver::config config;
        config.max_thread(3);
        config.on_thread_start(
            [&](server_ref, int32_t kind, uint32_t) { started += kind == NS_THREAD_LOOP; });
        config.on_thread_stop([&](int32_t kind, uint32_t) { stopped += kind == NS_THREAD_LOOP; });
        config.on_start([&](server_ref server) {
            CHECK(server.port() != 0);
            in_order = started == 3 ? 1 : 0;
        });
        config.on_stop([&] { in_order += in_order == 1 ? 1 : 0; });
        netserver::server server = serve(echo, std::move(config));
        server.stop();
        CHECK(in_order == 2);
    }
    CHECK(started == 3 && stopped == 3);
}

TEST(the_shutdown_handler_decides) {
    netserver::config config;
    config.shutdown_port("0").shutdown_handler([](netserver::socket &socket) {
        char byte[1];
        const auto n = socket.recv(byte);
        if (n == 1u && *byte == '!')
            throw std::runtime_error("no reason to stop");
        return n == 1u && *byte == 'y';
    });
    static std::atomic<int> uncaught{0};
    const auto former =
        netserver::set_uncaught_handler([](const std::exception_ptr &) { uncaught++; });
    netserver::server server = serve(echo, std::move(config));
    for (const char *answer : {"n", "!"}) {
        client peer(server.shutdown_port());
        peer.send(answer);
        CHECK(peer.sees_end());
        CHECK(server.state() == NS_STATE_RUNNING);
    }
    CHECK(uncaught == 1);
    client(server.shutdown_port()).send("y");
    CHECK(server.wait_for(30s));
    netserver::set_uncaught_handler(former);
}

TEST(a_hosted_shutdown_handler_may_wait) {
    netserver::config config;
    std::string input;
    config.non_blocking(true).shutdown_port("0").shutdown_handler(
        [&](netserver::socket &socket) -> std::optional<bool> {
            char bytes[16];
            while (const auto n = socket.recv(bytes)) {
                input.append(bytes, *n);
                if (*n == 0)
                    return false;
            }
            if (input.size() < 4)
                return std::nullopt;
            return input == "stop";
        });
    netserver::server server("127.0.0.1:0", echo, config);
    server.start_hosted();
    client peer(server.shutdown_port());
    peer.send("st");
    for (int i = 0; i < 10; i++)
        CHECK(server.run_once(1ms));
    peer.send("op");
    while (server.run_once(30s)) {
    }
    CHECK(input == "stop");
}

TEST(a_context_belongs_to_the_server) {
    static std::atomic<int> alive{0};
    struct context {
        int number;
        explicit context(int n) : number(n) { alive++; }
        context(const context &) = delete;
        ~context() { alive--; }
    };
    events served;
    {
        netserver::server server("127.0.0.1:0", [&](server_ref here, netserver::socket &) {
            CHECK(here.context<context>()->number == 7);
            CHECK(here.context<int>() == nullptr);
            served.add();
        });
        CHECK(server.context<context>() == nullptr);
        server.emplace_context<context>(6);
        CHECK(server.emplace_context<context>(7).number == 7 && alive == 1);
        server.start_background();
        client peer(server.port());
        served.wait_for(1);
        CHECK_FAILS(server.emplace_context<context>(8), NS_ERR_STATE);
    }
    CHECK(alive == 0);
}
