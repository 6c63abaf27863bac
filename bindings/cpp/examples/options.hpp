// The command line that the example and the checker share.
#ifndef OPTIONS_HPP
#define OPTIONS_HPP

#include <netserver.hpp>

#include <getopt.h>

#include <algorithm>

#include <cstdlib>
#include <optional>
#include <stdexcept>
#include <string>

struct options {
    std::string service = "5000", shutdown_port, cert, key, client_ca, alpn;
    bool non_blocking = false, has_exception_handler = true;
    uint32_t threads = 1;

    /// One loop on this thread, not threads of the library.
    bool is_hosted() const { return non_blocking && threads == 1; }

    /// Nothing where the arguments make no sense. `-h` is for the checker.
    static std::optional<options> parse(int argc, char **argv);

    netserver::config config() const {
        netserver::config config;
        config.non_blocking(non_blocking).max_thread(threads);
        config.drain_timeout(std::chrono::milliseconds(500));
        if (!shutdown_port.empty())
            config.shutdown_port(shutdown_port);
        if (!cert.empty())
            config.tls(certificates());
        return config;
    }

private:
    netserver::tls certificates() const {
        netserver::tls tls(cert, key);
        if (!client_ca.empty())
            tls.client_ca_file(client_ca, false);
        if (!alpn.empty())
            tls.alpn(split(alpn));
        return tls;
    }
    static std::vector<std::string> split(const std::string &list) {
        std::vector<std::string> parts;
        for (std::size_t begin = 0, end; begin <= list.size(); begin = end + 1) {
            end = std::min(list.find(',', begin), list.size());
            parts.push_back(list.substr(begin, end - begin));
        }
        return parts;
    }
    bool set(int option);
};

inline bool options::set(int option) {
    char *end = nullptr;
    switch (option) {
    case 'n': non_blocking = true; return true;
    case 't':
        threads = static_cast<uint32_t>(std::strtoul(optarg, &end, 10));
        return end != optarg && *end == '\0' && threads > 0;
    case 's': shutdown_port = optarg; return true;
    case 'c': cert = optarg; return true;
    case 'k': key = optarg; return true;
    case 'a': client_ca = optarg; return true;
    case 'p': alpn = optarg; return true;
    case 'h': has_exception_handler = false; return true;
    default: return false;
    }
}

inline std::optional<options> options::parse(int argc, char **argv) {
    static const struct option longs[] = {{"shutdown-port", required_argument, nullptr, 's'},
                                          {"cert", required_argument, nullptr, 'c'},
                                          {"key", required_argument, nullptr, 'k'},
                                          {"client-ca", required_argument, nullptr, 'a'},
                                          {"alpn", required_argument, nullptr, 'p'},
                                          {"no-handler", no_argument, nullptr, 'h'},
                                          {nullptr, 0, nullptr, 0}};
    options parsed;
    for (int option; (option = getopt_long(argc, argv, "nt:", longs, nullptr)) != -1;)
        if (!parsed.set(option))
            return std::nullopt;
    if (parsed.cert.empty() != parsed.key.empty() || argc - optind > 1)
        return std::nullopt;
    if (optind < argc)
        parsed.service = argv[optind];
    return parsed;
}

#endif
