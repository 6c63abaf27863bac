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
    try std.testing.expectError(error.State, server.quiesce());
    try server.start();
    try server.quiesce();
    try std.testing.expectEqual(netserver.c.NS_OK, netserver.c.ns_server_run_once(server.handle, 0));
    try std.testing.expectEqual(netserver.c.NS_STATE_QUIESCING, netserver.c.ns_server_state(server.handle));
    server.stop();
    try server.run();
}

test "an error of the library is the same error in Zig, and the other way round" {
    const c = netserver.c;
    try std.testing.expectEqual(c.NS_ERR_CLOSED, netserver.raise(null, error.Closed));
    try std.testing.expect(netserver.raise(null, error.OfTheProgram) < -10_000);
    var failure: ?*c.ns_error = null;
    try std.testing.expectEqual(null, c.ns_server_new("1:2:3", null, null, null, null, &failure));
    defer c.ns_error_free(failure);
    try std.testing.expectEqual(error.Invalid, netserver.errorOf(failure.?));
}

fn nothing(_: *Program) anyerror!void {}

test "a server that has stopped takes no timer and no task" {
    const config = netserver.c.ns_config_new().?;
    defer netserver.c.ns_config_free(config);
    var program: Program = .{};
    const server = try netserver.Server(Program).init("127.0.0.1:0", &program, config);
    defer server.deinit();
    try server.start();
    server.stop();
    try server.run();
    try std.testing.expectError(error.State, netserver.post(server.handle, &program, nothing));
    try std.testing.expectError(error.Failed, netserver.after(server.handle, 0, &program, nothing));
    try std.testing.expectError(error.State, server.start());
}

// Connects to itself.
const Connected = struct {
    server: ?*netserver.c.ns_server = null,
    received: ?anyerror = null,
    sent: ?anyerror = null,
    count: usize = 0,

    pub fn onOpen(program: *Connected, socket: netserver.Socket) !void {
        var buffer: [8]u8 = undefined;
        _ = socket.recv(&buffer) catch |e| {
            program.received = e;
        };
        socket.close();
        socket.send("late") catch |e| {
            program.sent = e;
        };
        program.count += 1;
        if (program.count == 2) _ = netserver.c.ns_server_request_stop(program.server);
    }

    pub fn onInput(_: *Connected, _: netserver.Socket) !void {}
};

test "recv and send say why they do nothing" {
    const c = netserver.c;
    const config = c.ns_config_new().?;
    defer c.ns_config_free(config);
    var program: Connected = .{};
    const server = try netserver.Server(Connected).init("127.0.0.1:0", &program, config);
    program.server = server.handle;
    try server.start();
    var address: [64]u8 = undefined;
    _ = c.ns_server_address(server.handle, &address, address.len);
    try std.testing.expect(c.ns_server_connect(server.handle, &address, 0, null, null, null) != 0);
    try server.run();
    server.deinit();
    try std.testing.expectEqual(error.WouldBlock, program.received.?);
    try std.testing.expectEqual(error.Closed, program.sent.?);
    try std.testing.expectEqual(2, program.count);
}

const Data = struct {
    freed: usize = 0,

    pub fn deinit(data: *Data) void {
        data.freed += 1;
    }
};

// Connects to itself, and detaches both ends.
const Detaching = struct {
    server: ?*netserver.c.ns_server = null,
    data: Data = .{},
    refused: usize = 0,

    pub fn onOpen(program: *Detaching, socket: netserver.Socket) !void {
        const owned = netserver.c.ns_detach(program.server, socket.handle, null);
        netserver.c.ns_socket_free(owned);
        socket.setData(Data, &program.data) catch {
            program.refused += 1;
        };
        if (program.refused == 2) _ = netserver.c.ns_server_request_stop(program.server);
    }

    pub fn onInput(_: *Detaching, _: netserver.Socket) !void {}
};

test "a detached connection takes no data, which is freed" {
    const c = netserver.c;
    const config = c.ns_config_new().?;
    defer c.ns_config_free(config);
    var program: Detaching = .{};
    const server = try netserver.Server(Detaching).init("127.0.0.1:0", &program, config);
    defer server.deinit();
    program.server = server.handle;
    try server.start();
    var address: [64]u8 = undefined;
    _ = c.ns_server_address(server.handle, &address, address.len);
    try std.testing.expect(c.ns_server_connect(server.handle, &address, 0, null, null, null) != 0);
    try server.run();
    try std.testing.expectEqual(2, program.refused);
    try std.testing.expectEqual(2, program.data.freed);
}
