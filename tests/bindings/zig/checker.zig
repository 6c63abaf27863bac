//! The checker of the table of checks: ../README.md says what it answers.

const std = @import("std");
const netserver = @import("netserver");
const options_module = @import("options");
const c = netserver.c;
const Options = options_module.Options;
const Socket = netserver.Socket;
const say = options_module.say;

const memory = std.heap.c_allocator;
const piece = "x" ** 65536;

/// How many sessions the library keeps.
var kept: usize = 0;

/// The lines of a connection that are not answered yet, and what it still has to `fill`.
const Session = struct {
    input: std.ArrayList(u8) = .empty,
    left: usize = 0,
    is_filling: bool = false,
    failure: ?[]u8 = null,

    pub fn deinit(session: *Session) void {
        kept -= 1;
        session.input.deinit(memory);
        if (session.failure) |text| memory.free(text);
        memory.destroy(session);
    }

    fn fill(session: *Session, socket: Socket) !void {
        while (session.left > 0 and socket.queued() < 2 * piece.len) {
            const size = @min(session.left, piece.len);
            try socket.send(piece[0..size]);
            session.left -= size;
        }
        if (session.left > 0) return;
        session.is_filling = false;
        try socket.send("\n");
    }
};

/// What a timer or a task has to do.
const Job = struct {
    kind: enum { fired, send, broadcast, raise },
    id: c.ns_conn_id,
    to: c.ns_conn_id = 0,
    text: []u8 = &.{},

    fn due(job: *Job) !void {
        defer memory.destroy(job);
        defer if (job.kind != .raise) memory.free(job.text);
        switch (job.kind) {
            .fired => answerLater(job.id, "fired\n"),
            .send => {
                const status = c.ns_server_send(program.server.handle, job.to, job.text.ptr, job.text.len);
                answerLater(job.id, if (status == 0) "ok" else std.mem.span(c.ns_status_name(status)));
                answerLater(job.id, "\n");
            },
            .broadcast => {
                var ids: std.ArrayList(c.ns_conn_id) = .empty;
                defer ids.deinit(memory);
                _ = c.ns_server_foreach(program.server.handle, addId, &ids);
                _ = c.ns_server_broadcast(program.server.handle, ids.items.ptr, ids.items.len, job.text.ptr, job.text.len);
            },
            .raise => return program.raise(job.text),
        }
    }

    fn addId(id: c.ns_conn_id, list: ?*anyopaque) callconv(.c) i32 {
        const ids: *std.ArrayList(c.ns_conn_id) = @ptrCast(@alignCast(list));
        ids.append(memory, id) catch return 1;
        return 0;
    }

    fn answerLater(id: c.ns_conn_id, text: []const u8) void {
        _ = c.ns_server_send(program.server.handle, id, text.ptr, text.len);
    }
};

const Program = struct {
    server: netserver.Server(Program) = undefined,
    buffer: [65536]u8 = undefined,
    handles: bool = true,
    raised: ?[]u8 = null, // the text of the last error.Raised
    ending: ?enum { @"return", throw } = null,

    pub fn onOpen(_: *Program, socket: Socket) !void {
        const session = try memory.create(Session);
        session.* = .{};
        kept += 1;
        try socket.setData(Session, session);
    }

    pub fn onInput(self: *Program, socket: Socket) !void {
        const session = socket.data(Session).?;
        const data = try socket.recv(&self.buffer) orelse return socket.close();
        try session.input.appendSlice(memory, data);
        try self.answerLines(socket, session);
    }

    pub fn onDrain(self: *Program, socket: Socket) !void {
        const session = socket.data(Session).?;
        if (!session.is_filling) return;
        try session.fill(socket);
        try self.answerLines(socket, session);
    }

    pub fn onClose(_: *Program, socket: Socket, _: i32) void {
        const session = socket.data(Session) orelse return;
        if (session.failure) |text| std.debug.print("on_close: {s}\n", .{text});
    }

    pub fn onException(self: *Program, socket: ?Socket, failure: *const c.ns_error) void {
        defer if (socket) |open| open.close();
        const err = netserver.errorOf(failure);
        if (err == error.Reset or err == error.Truncated) return;
        const text = if (err == error.Raised) self.raised.? else std.mem.span(c.ns_error_message(failure));
        const same = if (err == error.Raised) "same" else "other";
        if (self.handles) say("exception: {s} {s}", .{ text, same }) else std.debug.print("checker: {s}\n", .{text});
    }

    /// Keeps the text: an error of Zig has none.
    fn raise(self: *Program, text: []u8) error{Raised} {
        if (self.raised) |former| memory.free(former);
        self.raised = text;
        return error.Raised;
    }

    fn answerLines(self: *Program, socket: Socket, session: *Session) !void {
        var from: usize = 0;
        defer session.input.replaceRangeAssumeCapacity(0, from, &.{});
        while (!session.is_filling) {
            const end = std.mem.indexOfScalarPos(u8, session.input.items, from, '\n') orelse return;
            const line = session.input.items[from..end];
            from = end + 1;
            try self.answer(socket, session, line);
        }
    }

    fn answer(self: *Program, socket: Socket, session: *Session, line: []const u8) !void {
        const space = std.mem.indexOfScalar(u8, line, ' ') orelse line.len;
        const word = line[0..space];
        const rest = line[@min(space + 1, line.len)..];
        const is = struct {
            fn is(a: []const u8, b: []const u8) bool {
                return std.mem.eql(u8, a, b);
            }
        }.is;
        var text: [64]u8 = undefined;
        if (is(word, "")) {
            try socket.send("\n");
        } else if (is(word, "echo")) {
            try socket.send(rest);
            try socket.send("\n");
        } else if (is(word, "id")) {
            try socket.send(try std.fmt.bufPrint(&text, "{d}\n", .{socket.id()}));
        } else if (is(word, "tls")) {
            try tlsOf(socket);
        } else if (is(word, "send")) {
            const end = std.mem.indexOfScalar(u8, rest, ' ') orelse return socket.send("what?\n");
            const to = try std.fmt.parseInt(u64, rest[0..end], 10);
            try self.later(.{ .kind = .send, .id = socket.id(), .to = to }, rest[end + 1 ..], "\n");
        } else if (is(word, "broadcast")) {
            try self.later(.{ .kind = .broadcast, .id = socket.id() }, rest, "\n");
        } else if (is(word, "timer")) {
            const job = try self.make(.{ .kind = .fired, .id = socket.id() }, "", "");
            try netserver.after(self.server.handle, try std.fmt.parseInt(u32, rest, 10), job, Job.due);
        } else if (is(word, "fill")) {
            session.left = try std.fmt.parseInt(usize, rest, 10);
            session.is_filling = true;
            try session.fill(socket);
        } else if (is(word, "raise")) {
            return self.raise(try memory.dupe(u8, rest));
        } else if (is(word, "raise-timer")) {
            try netserver.after(self.server.handle, 0, try self.make(.{ .kind = .raise, .id = 0 }, rest, ""), Job.due);
            try socket.send("ok\n");
        } else if (is(word, "raise-post")) {
            try self.later(.{ .kind = .raise, .id = 0 }, rest, "");
            try socket.send("ok\n");
        } else if (is(word, "raise-watch")) {
            try watch(self.server.handle, try self.make(.{ .kind = .raise, .id = 0 }, rest, ""));
            try socket.send("ok\n");
        } else if (is(word, "objects")) {
            try socket.send(try std.fmt.bufPrint(&text, "{d}\n", .{kept}));
        } else if (is(word, "fork")) {
            var name: [64]u8 = undefined;
            try socket.send(try std.fmt.bufPrint(&text, "fork {s}\n", .{try nameOfChild(self.server.handle, &name)}));
        } else if (is(word, "raise-close")) {
            session.failure = try memory.dupe(u8, rest);
            socket.close();
        } else if (is(word, "stop")) {
            self.server.stop();
        } else if (is(word, "end")) {
            if (is(rest, "exit")) std.c.exit(7);
            self.ending = if (is(rest, "throw")) .throw else .@"return";
        } else {
            try socket.send("what?\n");
        }
    }

    /// Watches the end of a pipe that nobody can write to, which does the job once.
    fn watch(server: *c.ns_server, job: *Job) !void {
        const ready = struct {
            fn ready(of: ?*c.ns_server, id: u64, fd: i32, _: u32, kept_job: ?*anyopaque) callconv(.c) i32 {
                _ = c.ns_server_unwatch(of, id);
                std.posix.close(fd);
                const done: *Job = @ptrCast(@alignCast(kept_job));
                done.due() catch |e| return netserver.raise(null, e);
                return 0;
            }
        }.ready;
        const ends = try std.posix.pipe();
        std.posix.close(ends[1]);
        if (c.ns_server_watch(server, 0, ends[0], c.NS_READ, ready, job, null, null) == 0) return error.Failed;
    }

    /// The name of the status that a child of fork gets for a call.
    fn nameOfChild(server: *c.ns_server, name: []u8) ![]u8 {
        const ends = try std.posix.pipe();
        defer std.posix.close(ends[0]);
        const child = try std.posix.fork();
        if (child == 0) {
            const status = c.ns_server_post(server, 0, null, null, null);
            const said = std.mem.span(c.ns_status_name(status));
            _ = std.c.write(ends[1], said.ptr, said.len);
            std.c._exit(0);
        }
        std.posix.close(ends[1]);
        const length = try std.posix.read(ends[0], name);
        _ = std.posix.waitpid(child, 0);
        return name[0..length];
    }

    fn tlsOf(socket: Socket) !void {
        var info: c.ns_tls_info = undefined;
        if (c.ns_socket_tls_info(socket.handle, &info, @sizeOf(c.ns_tls_info)) != 0)
            return socket.send("version=none alpn=none certificate=none\n");
        var der: [8192]u8 = undefined;
        const length = c.ns_socket_tls_peer_certificate(socket.handle, &der, der.len);
        var digest: [32]u8 = undefined;
        std.crypto.hash.sha2.Sha256.hash(der[0..@min(length, der.len)], &digest, .{});
        const hex = std.fmt.bytesToHex(digest, .lower);
        const alpn = std.mem.sliceTo(&info.alpn, 0);
        var text: [512]u8 = undefined;
        try socket.send(try std.fmt.bufPrint(&text, "version=1.{d} alpn={s} certificate={s}\n", .{
            info.version - 769,
            if (alpn.len == 0) "none" else alpn,
            if (length == 0) "none" else &hex,
        }));
    }

    fn make(_: *Program, job: Job, text: []const u8, end: []const u8) !*Job {
        const made = try memory.create(Job);
        made.* = job;
        made.text = try std.mem.concat(memory, u8, &.{ text, end });
        return made;
    }

    fn later(self: *Program, job: Job, text: []const u8, end: []const u8) !void {
        try netserver.post(self.server.handle, try self.make(job, text, end), Job.due);
    }
};

var program: Program = .{};

pub export fn main(count: c_int, arguments: [*][*:0]u8) c_int {
    const options = Options.parse(arguments[1..@intCast(count)], true) orelse return 2;
    const config = options.config();
    program.handles = options.handles;
    program.server = netserver.Server(Program).init(options.service.?, &program, config) catch return 1;
    c.ns_config_free(config);
    program.server.start() catch return 1;
    options_module.sayListening(program.server.handle);
    while (program.ending == null) if (c.ns_server_run_once(program.server.handle, -1) != 0) break;
    if (program.ending) |ending| switch (ending) {
        .@"return" => return 0,
        .throw => {
            std.debug.print("error: {s}\n", .{@errorName(error.TheEnd)});
            return 1;
        },
    };
    say("stopped", .{});
    program.server.deinit();
    return 0;
}
