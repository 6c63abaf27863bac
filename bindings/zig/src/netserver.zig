//! netserver for Zig: the C library by `@cImport`, with errors of Zig and a server whose callbacks
//! are the methods of a type. What is not wrapped here is called as `c.ns_…`.

const std = @import("std");

pub const c = @cImport(@cInclude("netserver.h"));

/// The statuses of the library that a program tells apart; `Failed` is any other.
pub const Error = error{ Invalid, State, Timeout, Closed, Reset, WouldBlock, BufferFull, Busy, Truncated, Failed };

const statuses = .{
    .{ c.NS_ERR_INVALID, Error.Invalid },
    .{ c.NS_ERR_STATE, Error.State },
    .{ c.NS_ERR_TIMEOUT, Error.Timeout },
    .{ c.NS_ERR_CLOSED, Error.Closed },
    .{ c.NS_ERR_RESET, Error.Reset },
    .{ c.NS_ERR_WOULD_BLOCK, Error.WouldBlock },
    .{ c.NS_ERR_BUFFER_FULL, Error.BufferFull },
    .{ c.NS_ERR_BUSY, Error.Busy },
    .{ c.NS_ERR_TRUNCATED, Error.Truncated },
};

/// Returns what a call returned, or the error of its status.
pub fn check(result: anytype) Error!@TypeOf(result) {
    if (result >= 0) return result;
    inline for (statuses) |each| if (result == each[0]) return each[1];
    return Error.Failed;
}

/// What the numbers of Zig's errors begin below: far from the statuses.
const first_code = -10_000;

/// What a callback returns for an error: the status of the library, or a number of its own, from
/// which `errorOf` makes the same error again.
pub fn raise(socket: ?*c.ns_socket, failure: anyerror) i32 {
    inline for (statuses) |each| if (failure == each[1]) return each[0];
    return c.ns_raise(socket, first_code - @as(i32, @intFromError(failure)), @errorName(failure));
}

/// The error that a callback returned, or that of the library.
pub fn errorOf(failure: *const c.ns_error) anyerror {
    const code = c.ns_error_handler_code(failure);
    if (code < first_code) return @errorFromInt(@as(u16, @intCast(first_code - code)));
    _ = check(c.ns_error_status(failure)) catch |e| return e;
    return Error.Failed;
}

/// A connection, in its callbacks.
pub const Socket = struct {
    handle: *c.ns_socket,

    /// Reads into `buffer`. Returns what was read, null at the end of the stream.
    pub fn recv(socket: Socket, buffer: []u8) Error!?[]u8 {
        const n = try check(c.ns_socket_recv(socket.handle, buffer.ptr, buffer.len));
        return if (n == 0) null else buffer[0..@intCast(n)];
    }

    /// Sends all of it, or nothing.
    pub fn send(socket: Socket, bytes: []const u8) Error!void {
        _ = try check(c.ns_socket_send(socket.handle, bytes.ptr, bytes.len));
    }

    pub fn close(socket: Socket) void {
        _ = c.ns_socket_close(socket.handle);
    }

    pub fn id(socket: Socket) c.ns_conn_id {
        return c.ns_socket_id(socket.handle);
    }

    pub fn queued(socket: Socket) usize {
        return c.ns_socket_queued(socket.handle);
    }

    /// What the program keeps with the connection, of the type that `setData` got; null: nothing.
    pub fn data(socket: Socket, comptime Data: type) ?*Data {
        return @ptrCast(@alignCast(c.ns_socket_user_data(socket.handle)));
    }

    /// Keeps a pointer with the connection, until `Data.deinit` frees it.
    pub fn setData(socket: Socket, comptime Data: type, pointer: *Data) Error!void {
        const free = struct {
            fn free(kept: ?*anyopaque) callconv(.c) void {
                const object: *Data = @ptrCast(@alignCast(kept));
                object.deinit();
            }
        }.free;
        _ = try check(c.ns_socket_set_user_data(socket.handle, pointer, free));
    }
};

/// A hosted server, on the thread that runs it. `Program` has `onInput(*Program, Socket) !void`, and
/// where it wants them `onOpen` and `onDrain` like it, `onClose(*Program, Socket, i32)` and
/// `onException(*Program, ?Socket, *const c.ns_error)`. An error of `onInput`, `onOpen` or `onDrain`
/// reaches `onException`, which `errorOf` shows it; without that the connection closes.
pub fn Server(comptime Program: type) type {
    return struct {
        handle: *c.ns_server,

        const Self = @This();

        /// Makes a server; the config is the caller's to free. What is wrong is printed to stderr.
        /// A config is for one server: with a used one this is `Error.State`.
        pub fn init(service: [*:0]const u8, program: *Program, config: *c.ns_config) Error!Self {
            _ = try check(c.ns_config_set_non_blocking(config, 1));
            if (@hasDecl(Program, "onOpen"))
                _ = try check(c.ns_config_set_on_open(config, event(Program.onOpen), program, null));
            if (@hasDecl(Program, "onDrain"))
                _ = try check(c.ns_config_set_on_drain(config, event(Program.onDrain), program, null));
            if (@hasDecl(Program, "onClose"))
                _ = try check(c.ns_config_set_on_close(config, closed, program, null));
            if (@hasDecl(Program, "onException"))
                _ = try check(c.ns_config_set_exception_handler(config, failed, program, null));
            var failure: ?*c.ns_error = null;
            const handle = c.ns_server_new(service, event(Program.onInput), program, null, config, &failure);
            return .{ .handle = handle orelse return told(c.NS_ERR_INVALID, failure) };
        }

        /// Listens, and returns when the server accepts.
        pub fn start(server: Self) Error!void {
            var failure: ?*c.ns_error = null;
            const status = c.ns_server_start(server.handle, c.NS_START_HOSTED, &failure);
            if (status != c.NS_OK) return told(status, failure);
        }

        /// Serves until the server has stopped. `Error.State`: it was not started; `Error.Busy`: this
        /// is a callback.
        pub fn run(server: Self) Error!void {
            while (true) {
                const status = c.ns_server_run_once(server.handle, -1);
                if (status == c.NS_ERR_STATE and c.ns_server_state(server.handle) == c.NS_STATE_STOPPED) return;
                _ = try check(status);
            }
        }

        /// The server accepts no more, and serves on until a stop. In any thread, callback or signal
        /// handler. `Error.State`: it was not started.
        pub fn quiesce(server: Self) Error!void {
            _ = try check(c.ns_server_request_quiesce(server.handle));
        }

        /// In any thread, callback or signal handler.
        pub fn stop(server: Self) void {
            _ = c.ns_server_request_stop(server.handle);
        }

        /// Stops it and frees what it has; not in a callback.
        pub fn deinit(server: Self) void {
            _ = c.ns_server_free(server.handle);
        }

        fn told(status: c.ns_status, failure: ?*c.ns_error) Error {
            defer c.ns_error_free(failure);
            std.debug.print("netserver: {s}\n", .{c.ns_error_message(failure)});
            _ = check(status) catch |e| return e;
            return Error.Failed;
        }

        fn event(comptime function: anytype) c.ns_handler_fn {
            return struct {
                fn call(_: ?*c.ns_server, socket: ?*c.ns_socket, program: ?*anyopaque) callconv(.c) i32 {
                    function(of(program), Socket{ .handle = socket.? }) catch |e| return raise(socket, e);
                    return 0;
                }
            }.call;
        }

        fn closed(_: ?*c.ns_server, socket: ?*c.ns_socket, reason: i32, program: ?*anyopaque) callconv(.c) void {
            Program.onClose(of(program), Socket{ .handle = socket.? }, reason);
        }

        fn failed(_: ?*c.ns_server, socket: ?*c.ns_socket, failure: ?*const c.ns_error, program: ?*anyopaque) callconv(.c) i32 {
            Program.onException(of(program), if (socket) |s| Socket{ .handle = s } else null, failure.?);
            return 0;
        }

        fn of(program: ?*anyopaque) *Program {
            return @ptrCast(@alignCast(program));
        }
    };
}

/// Has a server call `function(context)` once, after `ms` milliseconds; an error of it reaches
/// `onException`.
pub fn after(server: *c.ns_server, ms: u32, context: anytype, comptime function: anytype) Error!void {
    const call = struct {
        fn call(_: ?*c.ns_server, _: u64, kept: ?*anyopaque) callconv(.c) i32 {
            function(@as(@TypeOf(context), @ptrCast(@alignCast(kept)))) catch |e| return raise(null, e);
            return 0;
        }
    }.call;
    if (c.ns_server_timer(server, 0, ms, 0, call, context, null, null) == 0) return Error.Failed;
}

/// Has a server call `function(context)` once, in its next turn.
pub fn post(server: *c.ns_server, context: anytype, comptime function: anytype) Error!void {
    const call = struct {
        fn call(_: ?*c.ns_server, kept: ?*anyopaque) callconv(.c) i32 {
            function(@as(@TypeOf(context), @ptrCast(@alignCast(kept)))) catch |e| return raise(null, e);
            return 0;
        }
    }.call;
    _ = try check(c.ns_server_post(server, 0, call, context, null));
}
