//! echo: sends back what it receives, until SIGINT or SIGTERM.
//!
//!   echo [-n] [-t THREADS] [--cert FILE --key FILE] [--shutdown-port P] SERVICE
//!
//! -n and -t are what the other echo programs of the project take: this one always has one loop, on
//! its own thread.

const std = @import("std");
const netserver = @import("netserver");
const Options = @import("options").Options;

const Echo = struct {
    buffer: [65536]u8 = undefined,

    pub fn onInput(self: *Echo, socket: netserver.Socket) !void {
        const data = try socket.recv(&self.buffer) orelse return socket.close();
        try socket.send(data);
    }
};

var echo: Echo = .{};
var server: netserver.Server(Echo) = undefined;

fn onSignal(_: c_int) callconv(.c) void {
    server.stop();
}

pub export fn main(count: c_int, arguments: [*][*:0]u8) c_int {
    const options = Options.parse(arguments[1..@intCast(count)], false) orelse return 2;
    const config = options.config();
    defer netserver.c.ns_config_free(config);
    server = netserver.Server(Echo).init(options.service.?, &echo, config) catch return 1;
    defer server.deinit();
    server.start() catch return 1;
    const action: std.posix.Sigaction = .{
        .handler = .{ .handler = onSignal },
        .mask = std.posix.sigemptyset(),
        .flags = 0,
    };
    std.posix.sigaction(std.posix.SIG.INT, &action, null);
    std.posix.sigaction(std.posix.SIG.TERM, &action, null);
    @import("options").sayListening(server.handle);
    server.run() catch return 1;
    return 0;
}
