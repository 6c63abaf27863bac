// What the table of checks does not see.
const std = @import("std");
const netserver = @import("netserver");

const Program = struct {
    pub fn onInput(_: *Program, socket: netserver.Socket) !void {
        socket.close();
    }
};

test "a config is for one server" {
    const config = netserver.c.ns_config_new().?;
    defer netserver.c.ns_config_free(config);
    var program: Program = .{};
    const server = try netserver.Server(Program).init("127.0.0.1:0", &program, config);
    defer server.deinit();
    try std.testing.expectError(error.State, netserver.Server(Program).init("127.0.0.1:0", &program, config));
}

test "run returns when the server has stopped, and fails before the start" {
    const config = netserver.c.ns_config_new().?;
    defer netserver.c.ns_config_free(config);
    var program: Program = .{};
    const server = try netserver.Server(Program).init("127.0.0.1:0", &program, config);
    defer server.deinit();
    try std.testing.expectError(error.State, server.run());
    try server.start();
    server.stop();
    try server.run();
}
