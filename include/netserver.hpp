/*
 * netserver for C++17: a header over the C API (netserver.h), which is the reference of what each
 * call does, returns and costs. Link with libnetserver.
 *
 *     #include <netserver.hpp>
 *
 *     int main(int argc, char **argv) {
 *         const auto echo = [](netserver::socket &socket) {
 *             char bytes[4096];
 *             while (auto n = socket.recv(bytes)) {
 *                 if (*n == 0)
 *                     return socket.close();
 *                 socket.send({bytes, *n});
 *             }
 *         };
 *         const char *service = argc > 1 ? argv[1] : "5000";
 *         netserver::server(service, echo, netserver::config().non_blocking(argc > 2)).start();
 *     }
 *
 * In non-blocking mode `recv` returns nothing when nothing can be read now.
 *
 * CALLBACKS are any callables that return nothing, where their comment does not say more. They may
 * leave out arguments from the left: a handler is called as f(server_ref, socket &) or as
 * f(socket &), a timer as f(server_ref, id), f(id) or f(). The library keeps them and calls them
 * from several threads; those of one connection never run at the same time.
 *
 * EXCEPTIONS. A call that fails throws `error`; but the calls by id return a status, because a
 * connection that is gone is no exception. What a callback throws never passes through C. It
 * reaches the exception handler, where `error::cause` is the same std::exception_ptr; from on_start
 * and on_thread_start it reaches the caller of `start`. What nobody takes, and what a callback
 * throws that cannot fail (on_close, on_stop, on_quiesce, on_thread_stop, the exception handler, the
 * shutdown handler), goes to the function of `set_uncaught_handler`, which prints it on stderr by default.
 * An `error` of a client that went away (NS_ERR_RESET, _TRUNCATED, _CLOSED, _TIMEOUT) is left out.
 *
 * OWNERSHIP. `server`, `config`, `tls` and `owned_socket` own what they name and can only be moved.
 * A `socket &` is valid until its callback returns, a `server_ref` as long as the server. The
 * destructor of a `server` cuts what it serves (`stop` does not) and waits for the callbacks that
 * run: do not call it in one.
 *
 * This is one file, so that it can be copied beside netserver.h.
 */
#ifndef NETSERVER_HPP
#define NETSERVER_HPP

#include "netserver.h"

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <exception>
#include <initializer_list>
#include <iterator>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace netserver {

using std::chrono::milliseconds;
using conn_id = ns_conn_id;

namespace detail {
struct error_access;
}

// -- errors -----------------------------------------------------------------------------------

/// What failed. `what()` is a sentence.
class error : public std::runtime_error {
public:
    explicit error(ns_status status, const std::string &message, int os_code = 0)
        : runtime_error(message), status_(status), os_code_(os_code) {}
    explicit error(ns_status status) : error(status, ns_status_message(status)) {}

    /// An NS_ERR_....
    ns_status status() const noexcept { return status_; }
    /// Its name, "NS_ERR_CLOSED".
    const char *status_name() const noexcept { return ns_status_name(status_); }
    /// The `errno`; 0 where there is none.
    int os_code() const noexcept { return os_code_; }
    /// What a callback threw; null where the library itself failed.
    const std::exception_ptr &cause() const noexcept { return cause_; }

private:
    friend struct detail::error_access;
    ns_status status_;
    int os_code_;
    std::exception_ptr cause_;
};

using uncaught_handler = void (*)(const std::exception_ptr &);

namespace detail {

inline void print_uncaught(const std::exception_ptr &thrown) {
    try {
        std::rethrow_exception(thrown);
    } catch (const std::exception &exception) {
        std::fprintf(stderr, "netserver: uncaught exception: %s\n", exception.what());
    } catch (...) {
        std::fputs("netserver: uncaught exception of an unknown type\n", stderr);
    }
}

inline std::atomic<uncaught_handler> on_uncaught{print_uncaught};

inline void report_uncaught(const std::exception_ptr &thrown) noexcept {
    on_uncaught.load()(thrown);
}

/// The payload of what a callback threw, from the callback to who takes it.
struct thrown {
    std::exception_ptr exception;
    bool is_taken = false;

    static void drop(void *payload) noexcept {
        const std::unique_ptr<thrown> self(static_cast<thrown *>(payload));
        if (!self->is_taken)
            report_uncaught(self->exception);
    }
};

/// In a catch block: hands the exception to the library. A NULL `socket` is for a callback without
/// one. Returns what the callback returns.
inline int32_t raise(ns_socket *socket) noexcept {
    ns_status code = NS_ERR_HANDLER;
    bool is_event = false; // a peer that goes away is nothing that anybody must hear of
    const std::exception_ptr exception = std::current_exception();
    const auto pass_on = [&](const char *message) {
        auto *payload = new (std::nothrow) thrown{exception, is_event};
        return payload != nullptr ? ns_raise_with(socket, code, message, payload, thrown::drop)
                                  : ns_raise(socket, code, message);
    };
    try {
        throw;
    } catch (const error &failure) {
        if (failure.status() != NS_ERR_WOULD_BLOCK)
            code = failure.status();
        is_event = code == NS_ERR_RESET || code == NS_ERR_TRUNCATED || code == NS_ERR_CLOSED ||
                   code == NS_ERR_TIMEOUT;
        return pass_on(failure.what());
    } catch (const std::exception &failure) {
        return pass_on(failure.what());
    } catch (...) {
        return pass_on("an exception of an unknown type");
    }
}

struct error_access {
    static error of(const ns_error *failure) {
        error made(ns_error_status(failure), ns_error_message(failure), ns_error_os_code(failure));
        if (auto *payload = static_cast<thrown *>(ns_error_payload(failure))) {
            payload->is_taken = true;
            made.cause_ = payload->exception;
        }
        return made;
    }

    [[noreturn]] static void raise(ns_error *owned) {
        const std::unique_ptr<ns_error, void (*)(ns_error *)> failure(owned, ns_error_free);
        error made = of(owned);
        if (made.cause() != nullptr)
            std::rethrow_exception(made.cause());
        throw made;
    }
};

[[noreturn]] inline void fail(ns_status status, int os_code = 0) {
    throw error(status, ns_status_message(status), os_code);
}

inline void check(ns_status status) {
    if (status < 0)
        fail(status);
}

inline uint32_t count_of(milliseconds time) noexcept {
    // What does not fit becomes a number that the library refuses.
    const bool fits = time.count() >= 0 && time.count() <= INT32_MAX;
    return fits ? static_cast<uint32_t>(time.count()) : UINT32_MAX;
}

/// C ends a text at its first NUL, so there must be none.
inline const char *c_text(const std::string &text) {
    if (text.find('\0') != std::string::npos)
        throw error(NS_ERR_INVALID, "a text has a NUL");
    return text.c_str();
}

/// The text of a function that writes as `snprintf` does.
template <class Write> std::string text_of(Write write) {
    std::string text(127, '\0');
    for (;;) {
        const std::size_t length = write(&text[0], text.size() + 1);
        const bool is_whole = length <= text.size();
        text.resize(length);
        if (is_whole)
            return text;
    }
}

} // namespace detail

/// Sets the function that gets what a callback threw and nobody takes, on any thread. It must not
/// throw. Returns the former one.
inline uncaught_handler set_uncaught_handler(uncaught_handler function) noexcept {
    return detail::on_uncaught.exchange(function != nullptr ? function : detail::print_uncaught);
}

// -- buffers ----------------------------------------------------------------------------------

namespace detail {

template <class Container> using element_of =
    std::remove_pointer_t<decltype(std::data(std::declval<Container &>()))>;

template <class Container, class = void> struct is_bytes : std::false_type {};
template <class Container> struct is_bytes<
    Container, std::void_t<decltype(std::size(std::declval<Container &>())), element_of<Container>>>
    : std::is_trivially_copyable<element_of<Container>> {};

template <class Container, class = void> struct is_writable : std::false_type {};
template <class Container>
struct is_writable<Container, std::enable_if_t<is_bytes<Container>::value>>
    : std::negation<std::is_const<element_of<Container>>> {};

} // namespace detail

/// Bytes to be read: of a std::string_view, std::string, std::vector, std::array, std::span…
class const_buffer {
public:
    constexpr const_buffer(const void *data, std::size_t size) noexcept
        : data_(data), size_(size) {}
    constexpr const_buffer(std::string_view text) noexcept
        : data_(text.data()), size_(text.size()) {}
    /// A text without its final NUL.
    constexpr const_buffer(const char *text) noexcept : const_buffer(std::string_view(text)) {}
    template <class Container, class = std::enable_if_t<detail::is_bytes<const Container>::value &&
                                                        !std::is_array_v<Container>>>
    constexpr const_buffer(const Container &bytes) noexcept
        : data_(std::data(bytes)), size_(std::size(bytes) * sizeof *std::data(bytes)) {}

    constexpr const void *data() const noexcept { return data_; }
    constexpr std::size_t size() const noexcept { return size_; }

private:
    const void *data_;
    std::size_t size_;
};

/// Bytes to be written: of an array, a std::vector, std::string, std::array, std::span…
class buffer {
public:
    constexpr buffer(void *data, std::size_t size) noexcept : data_(data), size_(size) {}
    template <class Container, class = std::enable_if_t<
                                   detail::is_writable<std::remove_reference_t<Container>>::value>>
    constexpr buffer(Container &&bytes) noexcept
        : data_(std::data(bytes)), size_(std::size(bytes) * sizeof *std::data(bytes)) {}

    constexpr void *data() const noexcept { return data_; }
    constexpr std::size_t size() const noexcept { return size_; }

private:
    void *data_;
    std::size_t size_;
};

// -- user data --------------------------------------------------------------------------------

namespace detail {

/// Its address names the type.
template <class T> inline char type_tag = 0;

struct any_base {
    explicit any_base(const char *tag) noexcept : type(tag) {}
    virtual ~any_base() = default;
    any_base(const any_base &) = delete;
    any_base &operator=(const any_base &) = delete;
    const char *const type;
};

template <class T> struct any final : any_base {
    template <class... Args> explicit any(std::in_place_t, Args &&...args)
        : any_base(&type_tag<T>), value(made_of(std::forward<Args>(args)...)) {}
    T value;

private:
    template <class... Args> static T made_of(Args &&...args) {
        if constexpr (std::is_constructible_v<T, Args...>)
            return T(std::forward<Args>(args)...);
        else
            return T{std::forward<Args>(args)...}; // an aggregate
    }
};

template <class T, class... Args> std::unique_ptr<any<T>> make_any(Args &&...args) {
    return std::make_unique<any<T>>(std::in_place, std::forward<Args>(args)...);
}

inline void drop_any(void *data) noexcept { delete static_cast<any_base *>(data); }

template <class T> T *any_cast(void *data) noexcept {
    auto *base = static_cast<any_base *>(data);
    return base != nullptr && base->type == &type_tag<T> ? &static_cast<any<T> *>(base)->value
                                                         : nullptr;
}

} // namespace detail

// -- TLS --------------------------------------------------------------------------------------

/// Certificates and what belongs to them (`ns_tls`). Its first use freezes it.
class tls {
public:
    tls() : tls_(ns_tls_new()) {}
    tls(const std::string &chain_file, const std::string &key_file) : tls() {
        add_cert_file(chain_file, key_file);
    }

    /// An empty `server_name` makes it the default.
    tls &add_cert_file(const std::string &chain_file, const std::string &key_file,
                       const std::string &server_name = {}) {
        return after([&](ns_error **failure) {
            return ns_tls_add_cert_file(get(), name_of(server_name), detail::c_text(chain_file),
                                        detail::c_text(key_file), failure);
        });
    }
    tls &add_cert_pem(const_buffer chain, const_buffer key, const std::string &server_name = {}) {
        return after([&](ns_error **failure) {
            return ns_tls_add_cert_pem(get(), name_of(server_name), chain.data(), chain.size(),
                                       key.data(), key.size(), failure);
        });
    }
    tls &add_cert_der(const std::vector<const_buffer> &chain, const_buffer key,
                      const std::string &server_name = {}) {
        std::vector<const void *> certificates;
        std::vector<std::size_t> sizes;
        for (const const_buffer &certificate : chain) {
            certificates.push_back(certificate.data());
            sizes.push_back(certificate.size());
        }
        return after([&](ns_error **failure) {
            return ns_tls_add_cert_der(get(), name_of(server_name), certificates.data(),
                                       sizes.data(), sizes.size(), key.data(), key.size(), failure);
        });
    }
    tls &client_ca_file(const std::string &path, bool is_required = true) {
        return after([&](ns_error **failure) {
            return ns_tls_set_client_ca_file(get(), detail::c_text(path), is_required, failure);
        });
    }
    tls &client_ca_pem(const_buffer pem, bool is_required = true) {
        return after([&](ns_error **failure) {
            return ns_tls_set_client_ca_pem(get(), pem.data(), pem.size(), is_required, failure);
        });
    }
    tls &alpn(const std::vector<std::string> &protocols) {
        std::vector<const char *> names;
        for (const std::string &protocol : protocols)
            names.push_back(detail::c_text(protocol));
        return after(ns_tls_set_alpn(get(), names.data(), names.size()));
    }
    /// NS_TLS_1_2 or NS_TLS_1_3.
    tls &min_version(int32_t version) { return after(ns_tls_set_min_version(get(), version)); }
    tls &tickets(bool are_on) { return after(ns_tls_set_tickets(get(), are_on)); }
    /// Also on an object in use, from any thread.
    tls &ticket_keys(const_buffer keys) {
        return after(ns_tls_set_ticket_keys(get(), keys.data(), keys.size()));
    }
    tls &session_cache(std::size_t sessions) {
        return after(ns_tls_set_session_cache(get(), sessions));
    }

    ns_tls *get() const noexcept { return tls_.get(); }

private:
    static const char *name_of(const std::string &name) {
        return name.empty() ? nullptr : detail::c_text(name);
    }
    template <class Call> auto after(Call call) -> decltype(call(nullptr), *this) {
        ns_error *failure = nullptr;
        if (call(&failure) < 0)
            detail::error_access::raise(failure);
        return *this;
    }
    tls &after(ns_status status) {
        detail::check(status);
        return *this;
    }

    struct deleter {
        void operator()(ns_tls *tls) const noexcept { ns_tls_free(tls); }
    };
    std::unique_ptr<ns_tls, deleter> tls_;
};

// -- sockets ----------------------------------------------------------------------------------

/// A connection: in a callback, valid until that returns (`ns_socket`).
class socket {
public:
    explicit socket(ns_socket *borrowed) noexcept : socket_(borrowed) {}
    socket(const socket &) = delete;
    socket &operator=(const socket &) = delete;

    /// Returns the number of bytes, 0 at the end of the stream; nothing where nothing can be read
    /// now (non-blocking mode). The buffer is not empty.
    std::optional<std::size_t> recv(buffer bytes) {
        const int64_t n = ns_socket_recv(socket_, bytes.data(), bytes.size());
        if (n >= 0)
            return static_cast<std::size_t>(n);
        if (n == NS_ERR_WOULD_BLOCK)
            return std::nullopt;
        fail(static_cast<ns_status>(n));
    }
    void send(const_buffer bytes) { check(try_send(bytes)); }
    /// Returns 0 or the status in place of an exception: NS_ERR_BUFFER_FULL.
    [[nodiscard]] ns_status try_send(const_buffer bytes) noexcept {
        return ns_socket_send(socket_, bytes.data(), bytes.size());
    }
    /// All pieces in a row, at most 1024.
    void sendv(std::initializer_list<const_buffer> pieces) { sendv(pieces.begin(), pieces.size()); }
    void sendv(const const_buffer *pieces, std::size_t count) {
        constexpr std::size_t few = 16;
        const void *few_data[few];
        std::size_t few_sizes[few];
        std::vector<const void *> many_data(count > few ? count : 0);
        std::vector<std::size_t> many_sizes(count > few ? count : 0);
        const void **data = count > few ? many_data.data() : few_data;
        std::size_t *sizes = count > few ? many_sizes.data() : few_sizes;
        for (std::size_t i = 0; i < count; i++) {
            data[i] = pieces[i].data();
            sizes[i] = pieces[i].size();
        }
        check(ns_socket_sendv(socket_, data, sizes, count));
    }
    /// Returns how many bytes it has accepted; in non-blocking mode fewer than `len` where on_drain
    /// goes on.
    std::uint64_t sendfile(int fd, std::uint64_t offset, std::uint64_t len) {
        const std::int64_t n = ns_socket_sendfile(socket_, fd, offset, len);
        if (n < 0)
            fail(static_cast<ns_status>(n));
        return static_cast<std::uint64_t>(n);
    }
    void flush() { check(ns_socket_flush(socket_)); }
    void cork() { check(ns_socket_cork(socket_)); }
    void uncork() { check(ns_socket_uncork(socket_)); }

    /// NS_SHUT_RD, NS_SHUT_WR or NS_SHUT_RDWR.
    void shutdown(int32_t how) { check(ns_socket_shutdown(socket_, how)); }
    void close() { check(ns_socket_close(socket_)); }
    void abort() { check(ns_socket_abort(socket_)); }
    bool is_closed() const noexcept { return ns_socket_is_closed(socket_) != 0; }

    conn_id id() const noexcept { return ns_socket_id(socket_); }
    int fd() const noexcept { return ns_socket_fd(socket_); }
    int32_t service() const noexcept { return ns_socket_service(socket_); }
    std::size_t queued() const noexcept { return ns_socket_queued(socket_); }
    int os_error() const noexcept { return ns_socket_os_error(socket_); }
    std::string peer() const {
        return detail::text_of(
            [&](char *to, std::size_t n) { return ns_socket_peer(socket_, to, n); });
    }
    /// The peer of the connection itself: behind a PROXY header the proxy.
    std::string transport_peer() const {
        return detail::text_of(
            [&](char *to, std::size_t n) { return ns_socket_transport_peer(socket_, to, n); });
    }
    /// The value of an NS_PROXY_TLV_...; nothing where the PROXY header has none.
    std::optional<std::vector<unsigned char>> proxy_tlv(int32_t kind) const {
        std::vector<unsigned char> value;
        const int64_t length = ns_socket_proxy_tlv(socket_, kind, nullptr, 0);
        if (length == NS_ERR_STATE)
            return std::nullopt;
        if (length < 0)
            detail::fail(static_cast<ns_status>(length));
        value.resize(static_cast<std::size_t>(length));
        ns_socket_proxy_tlv(socket_, kind, value.data(), value.size());
        return value;
    }
    std::string local() const {
        return detail::text_of(
            [&](char *to, std::size_t n) { return ns_socket_local(socket_, to, n); });
    }
    /// Writes a `struct sockaddr_…`. Returns its size; 0 where it is not known.
    std::size_t peer_addr(buffer address) const noexcept {
        return ns_socket_peer_addr(socket_, address.data(), address.size());
    }
    std::size_t local_addr(buffer address) const noexcept {
        return ns_socket_local_addr(socket_, address.data(), address.size());
    }
    struct credentials {
        int32_t pid;
        uint32_t uid, gid;
    };
    /// Of the peer of a unix socket.
    credentials peer_credentials() const {
        credentials peer{};
        check(ns_socket_peer_credentials(socket_, &peer.pid, &peer.uid, &peer.gid));
        return peer;
    }

    /// 0 clears the timer.
    void set_timer(milliseconds time) {
        check(ns_socket_set_timer_ms(socket_, detail::count_of(time)));
    }
    /// 0 is off.
    void set_io_timeout(milliseconds time) {
        check(ns_socket_set_io_timeout_ms(socket_, detail::count_of(time)));
    }
    void pause() { check(ns_socket_pause(socket_)); }
    void resume() { check(ns_socket_resume(socket_)); }

    /// Keeps a T with the connection, in place of what was there.
    template <class T, class... Args> T &emplace_data(Args &&...args) {
        auto made = detail::make_any<T>(std::forward<Args>(args)...);
        T &value = made->value;
        check(ns_socket_set_user_data(socket_, static_cast<detail::any_base *>(made.release()),
                                      detail::drop_any));
        return value;
    }
    /// Returns the T that the connection keeps; NULL where it keeps none.
    template <class T> T *data() const noexcept {
        return detail::any_cast<T>(ns_socket_user_data(socket_));
    }
    void clear_data() { check(ns_socket_set_user_data(socket_, nullptr, nullptr)); }

    void starttls(const netserver::tls &tls, const_buffer ahead = {nullptr, 0}) {
        check(ns_socket_starttls(socket_, tls.get(), ahead.data(), ahead.size()));
    }
    /// Nothing without TLS.
    std::optional<ns_tls_info> tls_info() const {
        ns_tls_info info;
        const ns_status status = ns_socket_tls_info(socket_, &info, sizeof info);
        if (status == NS_ERR_STATE)
            return std::nullopt;
        check(status);
        return info;
    }
    /// In DER; empty where there is none.
    std::vector<unsigned char> peer_certificate() const {
        std::vector<unsigned char> der(ns_socket_tls_peer_certificate(socket_, nullptr, 0));
        ns_socket_tls_peer_certificate(socket_, der.data(), der.size());
        return der;
    }
    std::string peer_subject() const {
        return detail::text_of(
            [&](char *to, std::size_t n) { return ns_socket_tls_peer_subject(socket_, to, n); });
    }

    ns_socket *get() const noexcept { return socket_; }

protected:
    ns_socket *socket_;

private:
    void check(ns_status status) const {
        if (status < 0)
            fail(status);
    }
    [[noreturn]] void fail(ns_status status) const {
        detail::fail(status, ns_socket_os_error(socket_));
    }
};

/// A detached connection, in blocking mode, for one thread at a time. The destructor closes it, and
/// waits for `linger_timeout` at most.
class owned_socket : public socket {
public:
    explicit owned_socket(ns_socket *owned = nullptr) noexcept : socket(owned) {}
    owned_socket(owned_socket &&from) noexcept : socket(from.release()) {}
    owned_socket &operator=(owned_socket &&from) noexcept {
        if (this != &from)
            ns_socket_free(std::exchange(socket_, from.release()));
        return *this;
    }
    ~owned_socket() { ns_socket_free(socket_); }

    /// Takes a connected stream socket; where that fails it stays yours.
    static owned_socket from_fd(int fd) {
        ns_error *failure = nullptr;
        ns_socket *made = ns_socket_from_fd(fd, &failure);
        if (made == nullptr)
            detail::error_access::raise(failure);
        return owned_socket(made);
    }
    /// Returns the descriptor, which is yours, and leaves this empty.
    int release_fd() {
        const int fd = ns_socket_release_fd(socket_);
        if (fd < 0)
            detail::fail(fd);
        socket_ = nullptr;
        return fd;
    }
    ns_socket *release() noexcept { return std::exchange(socket_, nullptr); }
    explicit operator bool() const noexcept { return socket_ != nullptr; }
};

// -- callbacks --------------------------------------------------------------------------------

/// A server, as callbacks get it; any thread may use it while the server exists. The calls by id
/// return 0, a count, or a negative status; they do not throw.
class server_ref {
public:
    explicit server_ref(ns_server *server) noexcept : server_(server) {}

    ns_status send(conn_id id, const_buffer bytes) const noexcept {
        return ns_server_send(server_, id, bytes.data(), bytes.size());
    }
    ns_status close(conn_id id) const noexcept { return ns_server_close(server_, id); }
    ns_status abort(conn_id id) const noexcept { return ns_server_abort(server_, id); }
    ns_status wake(conn_id id) const noexcept { return ns_server_wake(server_, id); }
    ns_status shutdown(conn_id id, int32_t how) const noexcept {
        return ns_server_shutdown(server_, id, how);
    }
    int64_t queued(conn_id id) const noexcept { return ns_server_queued(server_, id); }
    int64_t broadcast(const conn_id *ids, std::size_t count, const_buffer bytes) const noexcept {
        return ns_server_broadcast(server_, ids, count, bytes.data(), bytes.size());
    }
    int64_t broadcast(const std::vector<conn_id> &ids, const_buffer bytes) const noexcept {
        return broadcast(ids.data(), ids.size(), bytes);
    }
    /// `statuses` has room for as many as there are ids.
    int64_t broadcast_each(const conn_id *ids, std::size_t count, const_buffer bytes,
                           ns_status *statuses) const noexcept {
        return ns_server_broadcast_each(server_, ids, count, bytes.data(), bytes.size(), statuses);
    }
    /// Calls f(conn_id) for each open connection; where it returns false the walk ends. Returns for
    /// how many it was called.
    template <class F> std::size_t for_each(F &&f) const;
    std::vector<conn_id> ids() const {
        std::vector<conn_id> all;
        for_each([&](conn_id id) { all.push_back(id); });
        return all;
    }

    /// The connection of a callback becomes a socket of your own.
    owned_socket detach(socket &borrowed) const {
        ns_error *failure = nullptr;
        ns_socket *owned = ns_detach(server_, borrowed.get(), &failure);
        return owned_socket(non_zero(owned, failure));
    }
    /// After a failure the socket is still yours.
    conn_id attach(owned_socket &&owned) const {
        ns_error *failure = nullptr;
        const conn_id id = non_zero(ns_attach(server_, owned.get(), &failure), failure);
        owned.release();
        return id;
    }
    /// Takes the descriptor, unless it fails.
    conn_id adopt(int fd) const { return adopt_any(fd, nullptr); }
    /// With a T as the connection's data.
    template <class T, class... Args> conn_id adopt_with(int fd, Args &&...args) const {
        return adopt_any(fd, detail::make_any<T>(std::forward<Args>(args)...));
    }
    conn_id connect(const std::string &service, milliseconds timeout = milliseconds(0)) const {
        return connect_any(service, timeout, nullptr);
    }
    template <class T, class... Args>
    conn_id connect_with(const std::string &service, milliseconds timeout, Args &&...args) const {
        return connect_any(service, timeout, detail::make_any<T>(std::forward<Args>(args)...));
    }

    /// Calls f(server_ref, id, fd, events) while the descriptor is ready for `events`: NS_READ,
    /// NS_WRITE or both.
    template <class F> uint64_t watch(int fd, uint32_t events, F &&f, uint32_t loop = 0) const;
    ns_status watch_change(uint64_t id, uint32_t events) const noexcept {
        return ns_server_watch_change(server_, id, events);
    }
    ns_status unwatch(uint64_t id) const noexcept { return ns_server_unwatch(server_, id); }
    /// Calls f(server_ref, id) after `first`, and then every `repeat` unless that is 0.
    template <class F>
    uint64_t timer(milliseconds first, milliseconds repeat, F &&f, uint32_t loop = 0) const;
    ns_status cancel_timer(uint64_t id) const noexcept {
        return ns_server_timer_cancel(server_, id);
    }
    /// Has a loop call f(server_ref) once.
    template <class F> void post(F &&f, uint32_t loop = 0) const;

    /// Waits until the server has stopped. Returns false where a callback does not return.
    bool stop() const { return has_ended(ns_server_stop(server_)); }
    bool stop_within(milliseconds time) const {
        return has_ended(ns_server_stop_within(server_, time.count()));
    }
    /// Also in a signal handler.
    void request_stop() const noexcept { ns_server_request_stop(server_); }
    void wait() const { detail::check(ns_server_wait(server_, -1)); }
    /// Returns whether the server has stopped.
    bool wait_for(milliseconds time) const {
        return has_ended(ns_server_wait(server_, time.count() < 0 ? 0 : time.count()));
    }
    bool is_stopped() const noexcept { return ns_server_is_stopped(server_) != 0; }
    /// Accepts no more, and serves on until a stop. Returns false where a callback does not return.
    bool quiesce() const { return has_ended(ns_server_quiesce(server_)); }
    /// Also in a signal handler.
    ns_status request_quiesce() const noexcept { return ns_server_request_quiesce(server_); }
    void wait_idle() const { detail::check(ns_server_wait_idle(server_, -1)); }
    /// Returns whether no connection is left.
    bool wait_idle_for(milliseconds time) const {
        return has_ended(ns_server_wait_idle(server_, time.count() < 0 ? 0 : time.count()));
    }
    /// Returns whether the server accepts.
    bool is_ready() const noexcept { return ns_server_is_ready(server_) != 0; }
    /// Lends a listening descriptor, until a quiesce or a stop: for a successor.
    int listener_fd(uint32_t number = 0) const {
        const int32_t fd = ns_server_listener_fd(server_, number);
        detail::check(fd < 0 ? fd : NS_OK);
        return fd;
    }
    /// An NS_STATE_....
    int32_t state() const noexcept { return ns_server_state(server_); }

    uint16_t port() const noexcept { return ns_server_port(server_); }
    uint16_t shutdown_port() const noexcept { return ns_server_shutdown_port(server_); }
    std::string address() const { return address(0); }
    std::string address(uint32_t service) const {
        return detail::text_of([&](char *to, std::size_t n) {
            return ns_server_service_address(server_, service, to, n);
        });
    }
    ns_stats stats() const {
        ns_stats filled;
        detail::check(ns_server_stats(server_, &filled, sizeof filled));
        return filled;
    }
    ns_thread_stats thread_stats(uint32_t index) const {
        ns_thread_stats filled;
        detail::check(ns_server_thread_stats(server_, index, &filled, sizeof filled));
        return filled;
    }
    std::string report() const {
        return detail::text_of(
            [&](char *to, std::size_t n) { return ns_server_report(server_, to, n); });
    }
    /// The counters in the format of Prometheus.
    std::string metrics() const {
        return detail::text_of(
            [&](char *to, std::size_t n) { return ns_server_metrics(server_, to, n); });
    }
    /// Returns the T that `server::emplace_context` made; NULL where there is none.
    template <class T> T *context() const noexcept {
        return detail::any_cast<T>(ns_server_context(server_));
    }
    void reload_tls(const tls &certificates, uint32_t service = 0) const {
        ns_error *failure = nullptr;
        if (ns_server_reload_service_tls(server_, service, certificates.get(), &failure) < 0)
            detail::error_access::raise(failure);
    }

    ns_server *get() const noexcept { return server_; }

protected:
    /// `failure` by reference: it is known when `result` is.
    template <class T> static T non_zero(T result, ns_error *const &failure) {
        if (!result)
            detail::error_access::raise(failure);
        return result;
    }
    static bool has_ended(ns_status status) {
        if (status == NS_ERR_TIMEOUT)
            return false;
        detail::check(status);
        return true;
    }

    ns_server *server_;

private:
    using any_data = std::unique_ptr<detail::any_base>;

    conn_id adopt_any(int fd, any_data kept) const {
        ns_error *failure = nullptr;
        return non_zero(ns_server_adopt(server_, fd, kept.release(), detail::drop_any, &failure),
                        failure);
    }
    conn_id connect_any(const std::string &service, milliseconds timeout, any_data kept) const {
        ns_error *failure = nullptr;
        const char *text = detail::c_text(service); // before `kept` is given away
        const conn_id id = ns_server_connect(server_, text, detail::count_of(timeout),
                                             kept.release(), detail::drop_any, &failure);
        return non_zero(id, failure);
    }
};

namespace detail {

/// Calls `f` with the most arguments that it takes; the left ones may be left out.
template <class F> decltype(auto) call(F &f) {
    static_assert(std::is_invocable_v<F &>, "the callable does not take the callback's arguments");
    return f();
}
template <class F, class First, class... Rest>
decltype(auto) call(F &f, First &&first, Rest &&...rest) {
    if constexpr (std::is_invocable_v<F &, First, Rest...>)
        return f(std::forward<First>(first), std::forward<Rest>(rest)...);
    else
        return call(f, std::forward<Rest>(rest)...);
}

/// `call` for callbacks that return nothing. One that returned a status would expect a meaning.
template <class F, class... Args> void call_void(F &f, Args &&...args) {
    static_assert(std::is_void_v<decltype(call(f, std::forward<Args>(args)...))>,
                  "a callback returns nothing; it fails by an exception");
    call(f, std::forward<Args>(args)...);
}

/// Runs a callback that can fail. Its body returns nothing or what the callback returns.
template <class Body> int32_t raising(ns_socket *socket, Body body) noexcept {
    try {
        if constexpr (std::is_void_v<decltype(body())>)
            return body(), NS_OK;
        else
            return body();
    } catch (...) {
        return raise(socket);
    }
}

/// For callbacks that cannot fail. Returns whether nothing was thrown.
template <class Body> bool contained(Body body) noexcept {
    try {
        body();
        return true;
    } catch (...) {
        report_uncaught(std::current_exception());
        return false;
    }
}

/// The C functions of a callable of the type F, which is the user data.
template <class F> struct callbacks {
    static F &self(void *data) noexcept { return *static_cast<F *>(data); }
    static void drop(void *data) noexcept { delete static_cast<F *>(data); }

    static int32_t event(ns_server *server, ns_socket *raw, void *data) noexcept {
        return raising(raw, [=] {
            socket borrowed(raw);
            call_void(self(data), server_ref(server), borrowed);
        });
    }
    static int32_t open(ns_server *server, ns_socket *raw, void *data) noexcept {
        return raising(raw, [=]() -> int32_t {
            socket borrowed(raw);
            using result = decltype(call(self(data), server_ref(server), borrowed));
            if constexpr (std::is_same_v<result, bool>)
                return call(self(data), server_ref(server), borrowed) ? 0 : NS_ERR_REJECTED;
            else
                return call_void(self(data), server_ref(server), borrowed), NS_OK;
        });
    }
    static void close(ns_server *server, ns_socket *raw, int32_t reason, void *data) noexcept {
        contained([=] {
            socket borrowed(raw);
            call_void(self(data), server_ref(server), borrowed, reason);
        });
    }
    static int32_t exception(ns_server *server, ns_socket *raw, const ns_error *failure,
                             void *data) noexcept {
        const bool is_handled = contained([=] {
            socket borrowed(raw);
            const error reported = error_access::of(failure);
            call_void(self(data), server_ref(server), raw != nullptr ? &borrowed : nullptr,
                      reported);
        });
        return is_handled ? 0 : -1;
    }
    static int32_t shutdown(ns_server *server, ns_socket *raw, void *data) noexcept {
        int32_t answer = 0;
        contained([&] {
            socket borrowed(raw);
            const std::optional<bool> stop = call(self(data), server_ref(server), borrowed);
            answer = stop.has_value() ? int32_t{*stop} : NS_ERR_WOULD_BLOCK;
        });
        return answer;
    }
    static int32_t start(ns_server *server, void *data) noexcept {
        return raising(nullptr, [=] { call_void(self(data), server_ref(server)); });
    }
    static void stop(ns_server *server, void *data) noexcept {
        contained([=] { call_void(self(data), server_ref(server)); });
    }
    static int32_t thread_start(ns_server *server, int32_t kind, uint32_t number,
                                void *data) noexcept {
        return raising(nullptr, [=] { call_void(self(data), server_ref(server), kind, number); });
    }
    static void thread_stop(ns_server *server, int32_t kind, uint32_t number, void *data) noexcept {
        contained([=] { call_void(self(data), server_ref(server), kind, number); });
    }
    static void log(int32_t level, conn_id id, const char *text, void *data) noexcept {
        contained([=] { call_void(self(data), level, id, std::string_view(text)); });
    }
    static int32_t watch(ns_server *server, uint64_t id, int32_t fd, uint32_t events,
                         void *data) noexcept {
        return raising(nullptr, [=] { call_void(self(data), server_ref(server), id, fd, events); });
    }
    static int32_t timer(ns_server *server, uint64_t id, void *data) noexcept {
        return raising(nullptr, [=] { call_void(self(data), server_ref(server), id); });
    }
};

/// A task that is as small as a pointer is its own user data, so that posting it allocates nothing.
template <class F> inline constexpr bool fits_pointer = std::is_trivially_copyable_v<F> &&
                                                        sizeof(F) <= sizeof(void *);

template <class F> int32_t run_small_task(ns_server *server, void *data) noexcept {
    return raising(nullptr, [&] {
        alignas(F) unsigned char bytes[sizeof(F)];
        std::memcpy(bytes, &data, sizeof(F));
        call_void(*std::launder(reinterpret_cast<F *>(bytes)), server_ref(server));
    });
}

template <class F> struct walk {
    F &f;
    std::exception_ptr thrown;

    static int32_t step(conn_id id, void *data) noexcept {
        auto &self = *static_cast<walk *>(data);
        try {
            if constexpr (std::is_same_v<std::invoke_result_t<F &, conn_id>, bool>)
                return self.f(id) ? 0 : 1;
            else
                return self.f(id), 0;
        } catch (...) {
            self.thrown = std::current_exception();
            return 1;
        }
    }
};

} // namespace detail

template <class F> std::size_t server_ref::for_each(F &&f) const {
    detail::walk<std::remove_reference_t<F>> walk{f, nullptr};
    const int64_t count = ns_server_foreach(server_, walk.step, &walk);
    if (walk.thrown != nullptr)
        std::rethrow_exception(walk.thrown);
    detail::check(count < 0 ? static_cast<ns_status>(count) : NS_OK);
    return static_cast<std::size_t>(count);
}

template <class F> uint64_t server_ref::watch(int fd, uint32_t events, F &&f, uint32_t loop) const {
    using callbacks = detail::callbacks<std::decay_t<F>>;
    ns_error *failure = nullptr;
    auto *kept = new std::decay_t<F>(std::forward<F>(f));
    return non_zero(ns_server_watch(server_, loop, fd, events, callbacks::watch, kept,
                                    callbacks::drop, &failure),
                    failure);
}

template <class F>
uint64_t server_ref::timer(milliseconds first, milliseconds repeat, F &&f, uint32_t loop) const {
    using callbacks = detail::callbacks<std::decay_t<F>>;
    ns_error *failure = nullptr;
    auto *kept = new std::decay_t<F>(std::forward<F>(f));
    return non_zero(ns_server_timer(server_, loop, detail::count_of(first),
                                    detail::count_of(repeat), callbacks::timer, kept,
                                    callbacks::drop, &failure),
                    failure);
}

template <class F> void server_ref::post(F &&f, uint32_t loop) const {
    using task = std::decay_t<F>;
    if constexpr (detail::fits_pointer<task>) {
        const task small(std::forward<F>(f));
        void *data = nullptr;
        std::memcpy(&data, &small, sizeof small);
        detail::check(ns_server_post(server_, loop, detail::run_small_task<task>, data, nullptr));
    } else {
        using callbacks = detail::callbacks<task>;
        auto *kept = new task(std::forward<F>(f));
        detail::check(ns_server_post(server_, loop, callbacks::start, kept, callbacks::drop));
    }
}

// -- config -----------------------------------------------------------------------------------

/// Settings and callbacks of servers (`ns_config`). Each server keeps a share of its config, which
/// can no longer change then. Setters return the config.
class config {
public:
    config() : config_(ns_config_new()) {}

#define NETSERVER_SETTING(name, type)                                                              \
    config &name(type value) { return after(ns_config_set_##name(get(), value)); }                 \
    type name() const noexcept { return static_cast<type>(ns_config_##name(get())); }
#define NETSERVER_FLAG(name)                                                                       \
    config &name(bool value) { return after(ns_config_set_##name(get(), value)); }                 \
    bool name() const noexcept { return ns_config_##name(get()) != 0; }
#define NETSERVER_TIME(name)                                                                       \
    config &name(milliseconds time) {                                                              \
        return after(ns_config_set_##name##_ms(get(), detail::count_of(time)));                    \
    }                                                                                              \
    milliseconds name() const noexcept { return milliseconds(ns_config_##name##_ms(get())); }
    NETSERVER_SETTING(max_thread, uint32_t)
    NETSERVER_SETTING(max_retry, uint32_t)
    NETSERVER_TIME(retry_interval)
    NETSERVER_SETTING(max_waiting, uint32_t)
    NETSERVER_FLAG(non_blocking)
    NETSERVER_FLAG(use_ipv6)
    NETSERVER_FLAG(reuse_port)
    NETSERVER_FLAG(lend_listeners)
    NETSERVER_SETTING(stack_size, std::size_t)
    NETSERVER_SETTING(unix_mode, uint32_t)
    NETSERVER_SETTING(max_connections, uint32_t)
    NETSERVER_SETTING(max_per_address, uint32_t)
    NETSERVER_SETTING(accept_rate_per_address, uint32_t)
    NETSERVER_SETTING(accept_burst_per_address, uint32_t)
    NETSERVER_SETTING(ipv4_prefix, uint32_t)
    NETSERVER_SETTING(ipv6_prefix, uint32_t)
    NETSERVER_SETTING(proxy_protocol, int32_t)
    NETSERVER_SETTING(proxy_others, int32_t)
    NETSERVER_TIME(proxy_timeout)
    NETSERVER_SETTING(backlog, uint32_t)
    NETSERVER_TIME(handshake_timeout)
    NETSERVER_SETTING(max_handshakes, uint32_t)
    NETSERVER_TIME(idle_timeout)
    NETSERVER_TIME(io_timeout)
    NETSERVER_TIME(write_timeout)
    NETSERVER_TIME(linger_timeout)
    NETSERVER_TIME(drain_timeout)
    NETSERVER_TIME(keep_alive)
    NETSERVER_FLAG(no_delay)
    NETSERVER_SETTING(high_water_mark, std::size_t)
    NETSERVER_SETTING(low_water_mark, std::size_t)
    NETSERVER_SETTING(send_limit, std::size_t)
    NETSERVER_SETTING(send_limit_total, std::size_t)
#undef NETSERVER_SETTING
#undef NETSERVER_FLAG
#undef NETSERVER_TIME

    /// An address, a network or "unix", whose PROXY headers are believed.
    config &add_trusted_proxy(const std::string &network) {
        return after(ns_config_add_trusted_proxy(get(), detail::c_text(network)));
    }
    std::string trusted_proxies() const {
        return detail::text_of(
            [&](char *to, std::size_t n) { return ns_config_trusted_proxies(get(), to, n); });
    }
    config &thread_name(const std::string &prefix) {
        return after(ns_config_set_thread_name(get(), detail::c_text(prefix)));
    }
    std::string thread_name() const { return ns_config_thread_name(get()); }
    config &shutdown_port(const std::string &service) {
        return after(ns_config_set_shutdown_port(get(), detail::c_text(service)));
    }
    std::optional<std::string> shutdown_port() const {
        const char *service = ns_config_shutdown_port(get());
        return service != nullptr ? std::optional<std::string>(service) : std::nullopt;
    }
    config &clear_shutdown_port() { return after(ns_config_set_shutdown_port(get(), nullptr)); }
    config &tls(const netserver::tls &certificates) {
        return after(ns_config_set_tls(get(), certificates.get()));
    }
    config &clear_tls() { return after(ns_config_clear_tls(get())); }

    /// f(level, id, text) gets each line of the log up to and including an NS_LOG_..., with a
    /// std::string_view, on several threads at the same time.
    template <class F> config &logger(int32_t level, F &&f) {
        const auto set = [level](ns_config *to, ns_log_fn function, void *data, ns_drop_fn drop) {
            return ns_config_set_logger(to, level, function, data, drop);
        };
        return keep<F>(set, of<F>::log, f);
    }
    /// f(server_ref, socket *, const error &). The socket is NULL where there is none.
    template <class F> config &exception_handler(F &&f) {
        return keep<F>(ns_config_set_exception_handler, of<F>::exception, f);
    }
    /// f(server_ref, socket &) returns whether the server stops; a std::optional<bool> without a
    /// value has a hosted server call it again.
    template <class F> config &shutdown_handler(F &&f) {
        return keep<F>(ns_config_set_shutdown_handler, of<F>::shutdown, f);
    }
    /// f(server_ref).
    template <class F> config &on_start(F &&f) {
        return keep<F>(ns_config_set_on_start, of<F>::start, f);
    }
    /// f(server_ref).
    template <class F> config &on_stop(F &&f) {
        return keep<F>(ns_config_set_on_stop, of<F>::stop, f);
    }
    /// f(server_ref).
    template <class F> config &on_quiesce(F &&f) {
        return keep<F>(ns_config_set_on_quiesce, of<F>::stop, f);
    }
    /// f(server_ref, kind, number), with an NS_THREAD_....
    template <class F> config &on_thread_start(F &&f) {
        return keep<F>(ns_config_set_on_thread_start, of<F>::thread_start, f);
    }
    /// f(server_ref, kind, number).
    template <class F> config &on_thread_stop(F &&f) {
        return keep<F>(ns_config_set_on_thread_stop, of<F>::thread_stop, f);
    }
    /// f(server_ref, socket &). Where it returns a bool, false refuses the connection.
    template <class F> config &on_open(F &&f) {
        return keep<F>(ns_config_set_on_open, of<F>::open, f);
    }
    /// f(server_ref, socket &, reason), with an NS_CLOSE_....
    template <class F> config &on_close(F &&f) {
        return keep<F>(ns_config_set_on_close, of<F>::close, f);
    }
    /// f(server_ref, socket &).
    template <class F> config &on_drain(F &&f) {
        return keep<F>(ns_config_set_on_drain, of<F>::event, f);
    }
    /// f(server_ref, socket &).
    template <class F> config &on_timeout(F &&f) {
        return keep<F>(ns_config_set_on_timeout, of<F>::event, f);
    }
    /// f(server_ref, socket &).
    template <class F> config &on_wake(F &&f) {
        return keep<F>(ns_config_set_on_wake, of<F>::event, f);
    }

    ns_config *get() const noexcept { return config_.get(); }

private:
    template <class F> using of = detail::callbacks<std::decay_t<F>>;

    template <class F, class Set, class Function>
    config &keep(Set set, Function function, std::remove_reference_t<F> &f) {
        auto *kept = new std::decay_t<F>(std::forward<F>(f));
        return after(set(get(), function, kept, of<F>::drop));
    }
    config &after(ns_status status) {
        detail::check(status);
        return *this;
    }

    struct deleter {
        void operator()(ns_config *config) const noexcept { ns_config_free(config); }
    };
    std::unique_ptr<ns_config, deleter> config_;
};

// -- server -----------------------------------------------------------------------------------

/// A server of your own. It does not listen before its start.
class server : public server_ref {
public:
    /// The handler is f(server_ref, socket &).
    template <class F>
    server(const std::string &service, F &&handler, const config &settings = config())
        : server_ref(nullptr) {
        using callbacks = detail::callbacks<std::decay_t<F>>;
        ns_error *failure = nullptr;
        const char *text = detail::c_text(service); // before there is anything to free
        auto *kept = new std::decay_t<F>(std::forward<F>(handler));
        server_ = non_zero(ns_server_new(text, callbacks::event, kept, callbacks::drop,
                                         settings.get(), &failure),
                           failure);
    }
    server(server &&from) noexcept : server_ref(std::exchange(from.server_, nullptr)) {}
    server &operator=(server &&from) noexcept {
        if (this != &from) {
            free();
            server_ = std::exchange(from.server_, nullptr);
        }
        return *this;
    }
    ~server() { free(); }

    /// A further service. Returns its number.
    int32_t add_service(const std::string &service) {
        ns_error *failure = nullptr;
        return numbered(ns_server_add_service(server_, detail::c_text(service), &failure), failure);
    }
    int32_t add_service(const std::string &service, const tls &certificates) {
        ns_error *failure = nullptr;
        return numbered(ns_server_add_service_tls(server_, detail::c_text(service),
                                                  certificates.get(), &failure),
                        failure);
    }
    /// The versions of the PROXY protocol that one service accepts. Before the start.
    void service_proxy(uint32_t service, int32_t versions) {
        ns_error *failure = nullptr;
        if (ns_server_set_service_proxy(server_, service, versions, &failure) < 0)
            detail::error_access::raise(failure);
    }
    /// Keeps a T with the server, until it is freed. Before the start.
    template <class T, class... Args> T &emplace_context(Args &&...args) {
        auto made = detail::make_any<T>(std::forward<Args>(args)...);
        T &value = made->value;
        detail::check(ns_server_set_context(
            server_, static_cast<detail::any_base *>(made.release()), detail::drop_any));
        return value;
    }

    /// Serves until the server has stopped.
    void start() { start(0); }
    /// Returns as soon as the server accepts.
    void start_background() { start(NS_START_BACKGROUND); }
    /// Makes no thread: this one calls `run_once`.
    void start_hosted() { start(NS_START_HOSTED); }
    /// Becomes readable when `run_once` has something to do.
    int poll_fd() const {
        const int32_t fd = ns_server_poll_fd(server_);
        detail::check(fd < 0 ? fd : NS_OK);
        return fd;
    }
    /// Runs one turn, and waits for work before: forever with a negative time. Returns false when
    /// the server has stopped.
    bool run_once(milliseconds timeout = milliseconds(-1)) {
        const ns_status status =
            ns_server_run_once(server_, timeout.count() < 0 ? -1 : timeout.count());
        if (status == NS_ERR_STATE && state() == NS_STATE_STOPPED)
            return false;
        detail::check(status);
        return true;
    }

private:
    void start(uint32_t flags) {
        ns_error *failure = nullptr;
        if (ns_server_start(server_, flags, &failure) != NS_OK)
            detail::error_access::raise(failure);
    }
    static int32_t numbered(int32_t number, ns_error *const &failure) {
        if (number < 0)
            detail::error_access::raise(failure);
        return number;
    }
    /// What a callback captured must live as long as it runs: so this waits for all of them.
    void free() noexcept {
        ns_server_stop_within(server_, 0);
        while (ns_server_free(server_) == NS_ERR_TIMEOUT) {
        }
    }
};

} // namespace netserver

#endif // NETSERVER_HPP
