//! The command line that the echo and the checker share.

const std = @import("std");
const netserver = @import("netserver");
const c = netserver.c;

pub const Options = struct {
    service: ?[*:0]const u8 = null,
    cert: ?[*:0]const u8 = null,
    key: ?[*:0]const u8 = null,
    client_ca: ?[*:0]const u8 = null,
    alpn: [8][*c]const u8 = undefined,
    alpn_count: usize = 0,
    shutdown_port: ?[*:0]const u8 = null,
    handles: bool = true,

    /// Returns null after saying what is wrong. `checker`: with its further options.
    pub fn parse(arguments: []const [*:0]u8, checker: bool) ?Options {
        var options: Options = .{};
        var i: usize = 0;
        while (i < arguments.len) : (i += 1) {
            const argument = std.mem.span(arguments[i]);
            if (std.mem.eql(u8, argument, "-n") or (checker and std.mem.eql(u8, argument, "--gc"))) continue;
            if (checker and std.mem.eql(u8, argument, "--no-handler")) {
                options.handles = false;
            } else if (argument[0] != '-') {
                if (options.service != null) return wrong("several services");
                options.service = arguments[i];
            } else {
                i += 1;
                if (i == arguments.len) return wrong("a value is missing");
                if (!options.take(argument, arguments[i], checker)) return wrong(argument);
            }
        }
        if (options.service == null) return wrong("one SERVICE is needed");
        if ((options.cert == null) != (options.key == null)) return wrong("--cert and --key go together");
        return options;
    }

    fn take(options: *Options, name: []const u8, value: [*:0]u8, checker: bool) bool {
        if (std.mem.eql(u8, name, "-t")) {
            _ = std.fmt.parseInt(u32, std.mem.span(value), 10) catch return false;
        } else if (std.mem.eql(u8, name, "--cert")) {
            options.cert = value;
        } else if (std.mem.eql(u8, name, "--key")) {
            options.key = value;
        } else if (std.mem.eql(u8, name, "--shutdown-port")) {
            options.shutdown_port = value;
        } else if (checker and std.mem.eql(u8, name, "--client-ca")) {
            options.client_ca = value;
        } else if (checker and std.mem.eql(u8, name, "--alpn")) {
            var names = std.mem.splitScalar(u8, std.mem.span(value), ',');
            while (names.next()) |protocol| {
                options.alpn[options.alpn_count] = protocol.ptr;
                options.alpn_count += 1;
                @constCast(protocol.ptr)[protocol.len] = 0; // the comma, or the end already
            }
        } else return false;
        return true;
    }

    fn wrong(what: []const u8) ?Options {
        std.debug.print("wrong command line: {s}\n", .{what});
        return null;
    }

    /// The settings. What is wrong with them the server reports.
    pub fn config(options: *const Options) *c.ns_config {
        const made = c.ns_config_new().?;
        _ = c.ns_config_set_shutdown_port(made, options.shutdown_port);
        if (options.cert != null) {
            const tls = c.ns_tls_new();
            defer c.ns_tls_free(tls);
            _ = c.ns_tls_add_cert_file(tls, null, options.cert, options.key, null);
            if (options.client_ca != null) _ = c.ns_tls_set_client_ca_file(tls, options.client_ca, 0, null);
            _ = c.ns_tls_set_alpn(tls, &options.alpn, options.alpn_count);
            _ = c.ns_config_set_tls(made, tls);
        }
        return made;
    }
};

/// Prints a line to stdout, unbuffered.
pub fn say(comptime format: []const u8, arguments: anytype) void {
    var buffer: [8192]u8 = undefined;
    const text = std.fmt.bufPrint(&buffer, format ++ "\n", arguments) catch buffer[0..];
    _ = std.c.write(1, text.ptr, text.len);
}

/// Prints where a server listens.
pub fn sayListening(server: *c.ns_server) void {
    var address: [256]u8 = undefined;
    _ = c.ns_server_address(server, &address, address.len);
    say("listening on {s}", .{std.mem.sliceTo(&address, 0)});
}
