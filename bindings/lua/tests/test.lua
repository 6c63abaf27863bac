-- What the table of checks does not see. Most tests run a server without clients.
local netserver = require "netserver"

local passed, failed = 0, 0

local function test(name, run)
    local good, failure = xpcall(run, debug.traceback)
    if good and netserver.objects() ~= 0 then good, failure = false, "objects are left" end
    passed, failed = passed + (good and 1 or 0), failed + (good and 0 or 1)
    if not good then io.stderr:write("FAIL ", name, ": ", tostring(failure), "\n") end
end

local function equal(actual, expected)
    if not rawequal(actual, expected) then
        error(("%s is not %s"):format(tostring(actual), tostring(expected)), 2)
    end
end

local function handler() end

-- Starts a server, lets `act` use it, runs it until something stops it.
local function serve(options, act, serves)
    local server = netserver.server("127.0.0.1:0", serves or handler, options)
    server:start()
    act(server)
    local late = false
    server:after(60, function()
        late = true
        server:stop()
    end)
    server:run()
    server:close()
    assert(not late, "the test takes too long")
end

local function failure_of(f, ...)
    local good, failure = pcall(f, ...)
    assert(not good, "no failure")
    return failure
end

test("errors have a status", function()
    local failure = failure_of(function() netserver.server("1:2:3", handler) end)
    equal(failure.name, "NS_ERR_INVALID")
    equal(failure.status, -1001)
    assert(tostring(failure):find("1:2:3", 1, true))
    equal(failure_of(netserver.server, "0", handler, { backlog = 0 }).name, "NS_ERR_INVALID")
    equal(failure_of(netserver.server, "0", handler, { tls = {} }).name, "NS_ERR_INVALID")
    for _, options in ipairs { 5, { idle_timeout = "x" }, { idle_timeout = -1 }, { tls = 5 } } do
        failure_of(netserver.server, "0", handler, options)
    end
    failure_of(netserver.server, "0")
    local nul = "0\0x"
    assert(failure_of(netserver.server, nul, handler):find("the service has a NUL", 1, true))
    for _, options in ipairs { { shutdown_port = nul }, { tls = { cert = nul } }, { tls = { alpn = { nul } } } } do
        assert(failure_of(netserver.server, "0", handler, options):find("has a NUL", 1, true))
    end
end)

test("timers, tasks, watches", function()
    local seen = {}
    serve({}, function(server)
        local never = server:after(20, function() error("cancelled") end)
        equal(server:cancel(never), true)
        equal(server:cancel(never), false)
        for i = 1, 3 do server:post(function() table.insert(seen, i) end) end
        server:post(function() -- what is readable already may come before the tasks
            local file = io.popen("echo text")
            local watch
            watch = server:watch(file, "r", function(events)
                table.insert(seen, events .. " " .. file:read("l"))
                equal(server:unwatch(watch), true)
                file:close()
                local every
                every = server:every(0.01, function()
                    table.insert(seen, "again")
                    if #seen < 6 then return end
                    server:cancel(every)
                    server:stop()
                end)
            end)
        end)
    end)
    equal(table.concat(seen, ","), "1,2,3,r text,again,again")
end)

test("the very value, whatever it is", function()
    local values, seen = { {}, 7, "text", false, print, n = 6 }, {}
    local function on_exception(socket, value, traceback)
        equal(socket, nil)
        assert(traceback:find("test.lua"), traceback)
        table.insert(seen, { value })
    end
    serve({ on_exception = on_exception }, function(server)
        for i = 1, values.n do server:post(function() error(values[i], 0) end) end
        server:post(function() server:stop() end)
    end)
    equal(#seen, values.n)
    for i = 1, values.n do equal(seen[i][1], values[i]) end
end)

test("what a callback may not do", function()
    local seen = {}
    serve({ on_exception = function(_, value) table.insert(seen, value) end }, function(server)
        server:post(function() server:close() end)
        server:post(function() server:run_once() end)
        server:post(coroutine.yield)
        server:post(function() server:stop() end)
    end)
    equal(seen[1].name, "NS_ERR_BUSY")
    equal(seen[2].name, "NS_ERR_BUSY")
    assert(seen[3]:find("yield"), seen[3])
end)

test("an interrupt leaves run", function()
    local server = netserver.server("127.0.0.1:0", handler)
    server:start()
    server:post(function() error("x.lua:1: interrupted!", 0) end)
    equal(failure_of(server.run, server), "x.lua:1: interrupted!")
    equal(server:run_once(0), true)
    server:close(0)
end)

test("an interrupt of a handler resets its connection", function()
    local reason
    local server = netserver.server("127.0.0.1:0", function(socket)
        socket:send("half of the answer")
        error("x.lua:1: interrupted!", 0)
    end, { on_close = function(_, why) reason = why end })
    server:start()
    local client = io.popen("printf x | nc -N 127.0.0.1 " .. server:port())
    equal(failure_of(server.run, server), "x.lua:1: interrupted!")
    while not reason do server:run_once() end
    equal(reason, "abort")
    client:close()
    server:close(0)
end)

test("an interrupt during a close leaves it", function()
    local server = netserver.server("127.0.0.1:0", handler, {
        on_stop = function() error("x.lua:3: interrupted!", 0) end,
    })
    server:start()
    equal(failure_of(server.close, server, 0), "x.lua:3: interrupted!")
    server:close()
end)

test("an interrupt of a function whose failures nobody is told leaves run, too", function()
    local server = netserver.server("127.0.0.1:0", handler, {
        on_exception = function() error("x.lua:2: interrupted!", 0) end,
    })
    server:start()
    server:post(function() error("for the exception handler") end)
    equal(failure_of(server.run, server), "x.lua:2: interrupted!")
    server:close(0)
end)

test("a server that quiesces serves on and accepts no more", function()
    local server = netserver.server("127.0.0.1:0", handler)
    equal(failure_of(server.quiesce, server).name, "NS_ERR_STATE")
    server:start()
    local port = server:port()
    server:quiesce()
    equal(server:run_once(0), true)
    equal(os.execute("nc -z 127.0.0.1 " .. port .. " 2>/dev/null"), nil)
    equal(server:run_once(0), true)
    server:close(0)
end)

test("a socket after its end", function()
    local running, client
    local seen = {}
    local function on_close(socket)
        running:post(function()
            equal(socket:closed(), true)
            equal(failure_of(socket.send, socket, "x").name, "NS_ERR_CLOSED")
            equal(failure_of(socket.queued, socket).name, "NS_ERR_CLOSED")
            equal(failure_of(socket.recv, socket).name, "NS_ERR_NOT_IN_HANDLER")
            socket:close() -- harmless
            table.insert(seen, "the end")
        end)
        running:post(function() running:stop() end)
    end
    local function on_exception(_, value) table.insert(seen, tostring(value)) end
    serve({ on_close = on_close, on_exception = on_exception }, function(server)
        running = server
        client = io.popen("nc -N 127.0.0.1 " .. server:port() .. " </dev/null")
    end, function(socket) if not socket:recv() then socket:close() end end)
    client:close()
    equal(table.concat(seen, ","), "the end")
end)

test("in a coroutine, with a collection in every callback", function()
    local count = 0
    coroutine.wrap(function()
        serve({}, function(server)
            server:every(0.001, function()
                collectgarbage()
                count = count + 1
                if count == 20 then server:stop() end
            end)
        end)
    end)()
    assert(count >= 20) -- once more where the machine is busy
end)

test("a server that was closed", function()
    local server = netserver.server("127.0.0.1:0", handler)
    server:close()
    server:close()
    for method, arguments in pairs {
        start = {}, run = {}, run_once = {}, stop = {}, quiesce = {}, send = { 1, "x" }, broadcast = { "x" },
        after = { 0, handler }, every = { 1, handler }, post = { handler }, watch = { io.stdin, "r", handler },
    } do
        equal(failure_of(server[method], server, table.unpack(arguments)).name, "NS_ERR_INVALID")
    end
end)

test("what cannot be watched", function()
    serve({}, function(server)
        local file <close> = assert(io.open(arg[0]))
        equal(failure_of(server.watch, server, file, "r", handler).name, "NS_ERR_UNSUPPORTED")
        equal(failure_of(server.start, server).name, "NS_ERR_STATE")
        server:post(function() server:stop() end)
    end)
end)

test("a coroutine that has ended calls nothing back", function()
    local count = 0
    serve({}, function(server)
        for _ = 1, 10 do
            server:post(function()
                collectgarbage()
                coroutine.wrap(function() server:port() end)()
                count = count + 1
            end)
        end
        server:post(function() server:stop() end)
    end)
    equal(count, 10)
end)

test("a coroutine that yields in a callback stays as it is", function()
    local result
    serve({}, function(server)
        local waiting = coroutine.create(function()
            server:port()
            return coroutine.yield()
        end)
        server:post(function() coroutine.resume(waiting) end)
        server:post(function()
            result = select(2, coroutine.resume(waiting, "the value"))
            server:stop()
        end)
    end)
    equal(result, "the value")
end)

test("recv is false where nothing has come, and a turn ends where nothing comes", function()
    local running, client, received
    local function on_open(socket)
        received = socket:recv()
        running:stop()
    end
    serve({ on_open = on_open }, function(server)
        equal(server:run_once(), true)
        running = server
        client = io.popen("nc -d 127.0.0.1 " .. server:port())
    end)
    client:close()
    equal(received, false)
end)

test("a close with a time cuts", function()
    local reason
    local server = netserver.server("127.0.0.1:0", handler, {
        drain_timeout = 3600,
        on_open = function(socket) socket:send(("x"):rep(15 << 20)) end, -- more than the system takes
        on_close = function(_, why) reason = why end,
    })
    server:start()
    local client = io.popen("nc -d 127.0.0.1 " .. server:port()) -- whose output nobody reads
    while not server:report():find("open 1,", 1, true) do server:run_once() end
    server:close(0)
    equal(reason, "cut")
    client:close()
end)

test("a connection whose handshake fails", function()
    local running, client
    local seen = {}
    local function on_exception(socket, value, traceback)
        if not socket then return table.insert(seen, type(traceback)) end
        table.insert(seen, value.name .. " " .. type(traceback))
        running:post(function()
            equal(socket:closed(), true)
            equal(failure_of(socket.send, socket, "x").name, "NS_ERR_CLOSED")
            table.insert(seen, "the end")
            running:stop()
        end)
    end
    local data = arg[0]:gsub("bindings/lua/tests/test.lua$", "tests/data/")
    local tls = { cert = data .. "server.pem", key = data .. "server-key.pem" }
    serve({ tls = tls, on_exception = on_exception }, function(server)
        running = server
        server:post(function()
            client = io.popen("echo plain text | nc -N 127.0.0.1 " .. server:port())
            error("with a traceback")
        end)
    end)
    client:close()
    equal(table.concat(seen, ","), "string,NS_ERR_HANDSHAKE nil,the end")
end)

test("sockets outside of their callbacks", function()
    for _, how in ipairs { "close", "abort" } do
        local running, client, reason
        local function on_open(socket)
            running:post(function()
                equal(socket:closed(), false)
                equal(failure_of(socket.pause, socket).name, "NS_ERR_INVALID")
                equal(failure_of(socket.resume, socket).name, "NS_ERR_INVALID")
                equal(failure_of(socket.tls, socket).name, "NS_ERR_INVALID")
                socket:send("x")
                socket[how](socket)
            end)
        end
        local function on_close(_, why)
            reason = why
            running:stop()
        end
        local function on_exception(_, value) error(value) end
        serve({ on_open = on_open, on_close = on_close, on_exception = on_exception }, function(server)
            running = server
            client = io.popen("nc -d 127.0.0.1 " .. server:port())
        end)
        equal(reason, how == "close" and "handler" or "abort")
        client:close()
    end
end)

test("two servers, of which one runs the other", function()
    local order = {}
    serve({}, function(outer)
        outer:post(function()
            serve({ on_stop = function() table.insert(order, "inner") end }, function(inner)
                inner:post(function() inner:stop() end)
            end)
            table.insert(order, "outer")
            outer:stop()
        end)
    end)
    equal(table.concat(order, ","), "inner,outer")
end)

test("a wrong option is an error that names it", function()
    local wrong = {
        idle_timout = 60, max_thread = 4, on_open = 5, on_exception = "x", idle_timeout = -1,
        drain_timeout = "x", max_connections = -1, backlog = 1 << 32, send_limit = 1.5,
        tls = { cert = "c", key = "k", ca = "x" },
    }
    for name, value in pairs(wrong) do
        local failure = failure_of(netserver.server, "0", handler, { [name] = value })
        assert(failure:find("'" .. (name == "tls" and "ca" or name) .. "'", 1, true), failure)
    end
    for name, tls in pairs { tls = 5, cert = { cert = {} }, alpn = { alpn = { {} } } } do
        assert(failure_of(netserver.server, "0", handler, { tls = tls }):find("'" .. name .. "'"))
    end
    assert(failure_of(netserver.server, "0", handler, { 5 }):find("'1'", 1, true))
    assert(failure_of(netserver.server, "0", handler, { idle_timeout = 0 / 0 }):find("idle_timeout"))
end)

test("a call that repeats needs a time", function()
    serve({}, function(server)
        assert(failure_of(server.every, server, 0, print):find("above 0"))
        assert(server:metrics():find("\nnetserver_"))
        server:post(function() server:stop() end)
    end)
end)

print(("lua: %d passed, %d failed"):format(passed, failed))
os.exit(failed == 0, true) -- the state is closed, so that what is left then is a leak
