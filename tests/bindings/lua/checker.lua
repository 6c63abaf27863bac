#!/usr/bin/env lua5.4
-- The checker of the table of checks: ../README.md says what it answers.
local netserver = require "netserver"

local PIECE = ("x"):rep(65536)

local function usage(message)
    io.stderr:write("checker.lua: ", message, "\n")
    os.exit(2)
end

-- -- the command line -------------------------------------------------------------------------

local options, tls, service, collects, handles = {}, {}, nil, false, true
local flags = {
    ["-n"] = function() end,
    ["--gc"] = function() collects = true end,
    ["--no-handler"] = function() handles = false end,
}
local values = {
    ["-t"] = function(text) if not math.tointeger(tonumber(text)) then usage("no number: " .. text) end end,
    ["--cert"] = function(text) tls.cert = text end,
    ["--key"] = function(text) tls.key = text end,
    ["--client-ca"] = function(text) tls.client_ca, tls.client_cert = text, "optional" end,
    ["--alpn"] = function(text)
        tls.alpn = {}
        for name in text:gmatch("[^,]+") do table.insert(tls.alpn, name) end
    end,
    ["--shutdown-port"] = function(text) options.shutdown_port = text end,
}
local i = 1
while i <= #arg do
    if values[arg[i]] then
        values[arg[i]](arg[i + 1] or usage("a value is missing"))
        i = i + 1
    elseif flags[arg[i]] then
        flags[arg[i]]()
    else
        if service or arg[i]:sub(1, 1) == "-" then usage("not understood: " .. arg[i]) end
        service = arg[i]
    end
    i = i + 1
end
if not service then usage("one SERVICE is needed") end
if not tls.cert ~= not tls.key then usage("--cert and --key go together") end
options.tls = tls.cert and tls

-- -- lines ------------------------------------------------------------------------------------

local server, raised, ending
local answers = {}

local function answer(socket, line)
    if line == "" then return socket:send("\n") end
    local word, rest = line:match("^(%S+) ?(.*)$")
    local act = answers[word]
    if act then act(socket, rest) else socket:send("what?\n") end
end

-- A piece or two of a `fill` are on their way at most: on_drain brings the next ones.
local function fill(socket)
    while socket.left > 0 and socket:queued() < 2 * #PIECE do
        local size = math.min(socket.left, #PIECE)
        socket:send(PIECE:sub(1, size))
        socket.left = socket.left - size
    end
    if socket.left > 0 then return end
    socket.left = nil
    socket:send("\n")
end

local function answer_lines(socket)
    local from = 1
    while not socket.left do
        local to = socket.input:find("\n", from, true) -- a pattern would look from each byte on
        if not to then break end
        local line = socket.input:sub(from, to - 1)
        from = to + 1
        answer(socket, line)
    end
    socket.input = socket.input:sub(from)
end

local function handler(socket)
    local data = socket:recv()
    if data == nil then return socket:close() end
    if not data then return end -- of a TLS record only a part has come
    socket.input = socket.input .. data
    answer_lines(socket)
end

function options.on_open(socket)
    socket.input = ""
end

function options.on_drain(socket)
    if not socket.left then return end
    fill(socket)
    answer_lines(socket)
end

function options.on_close(socket)
    if socket.failure then error(socket.failure) end
end

if handles then
    function options.on_exception(socket, exception)
        local same = rawequal(exception, raised)
        if same or type(exception) ~= "table" or exception.name ~= "NS_ERR_RESET" then
            print(("exception: %s %s"):format(tostring(exception), same and "same" or "other"))
        end
        if socket then socket:close() end
    end
end

if collects then
    for _, name in ipairs { "on_open", "on_drain", "on_close", "on_exception" } do
        local act = options[name]
        options[name] = act and function(...)
            collectgarbage()
            return act(...)
        end
    end
    local act = handler
    function handler(socket)
        collectgarbage()
        act(socket)
    end
end

-- An exception is a table, of which there is only this one.
local function exception(text)
    raised = setmetatable({}, { __tostring = function() return text end })
    return raised
end

function answers.echo(socket, text) socket:send(text, "\n") end
function answers.id(socket) socket:send(socket:id(), "\n") end
function answers.objects(socket) socket:send(netserver.objects(), "\n") end
function answers.stop() server:stop() end

function answers.tls(socket)
    local info = socket:tls() or {}
    local certificate = "none"
    if info.certificate then -- Lua has no SHA-256
        local name = os.tmpname()
        local file <close> = assert(io.open(name, "wb"))
        file:write(info.certificate)
        file:flush()
        local sum <close> = assert(io.popen("sha256sum " .. name))
        certificate = sum:read("a"):match("%x+")
        os.remove(name)
    end
    socket:send(("version=%s alpn=%s certificate=%s\n"):format(info.version or "none", info.alpn or "none", certificate))
end

-- A posted task sends; the answer follows.
function answers.send(socket, rest)
    local id, text = rest:match("^(%d+) ?(.*)$")
    server:post(function()
        local sent, failure = pcall(server.send, server, math.tointeger(id), text .. "\n")
        if not socket:closed() then socket:send(sent and "ok" or failure.name, "\n") end
    end)
end

function answers.broadcast(_, text)
    server:post(function() server:broadcast(text .. "\n") end)
end

function answers.timer(socket, time)
    server:after(tonumber(time) / 1000, function()
        if not socket:closed() then socket:send("fired\n") end
    end)
end

function answers.fill(socket, bytes)
    socket.left = math.tointeger(bytes)
    fill(socket)
end

function answers.raise(_, text) error(exception(text)) end

answers["raise-timer"] = function(socket, text)
    server:after(0, function() error(exception(text)) end)
    socket:send("ok\n")
end

answers["raise-post"] = function(socket, text)
    server:post(function() error(exception(text)) end)
    socket:send("ok\n")
end

answers["raise-watch"] = function(socket, text)
    local file = assert(io.popen("true"))
    local id
    id = server:watch(file, "r", function()
        server:unwatch(id)
        file:close()
        error(exception(text))
    end)
    socket:send("ok\n")
end

answers["raise-close"] = function(socket, text)
    socket.failure = text
    socket:close()
end

answers["end"] = function(_, how)
    if how == "exit" then os.exit(7) end
    ending = how
end

-- -- the program ------------------------------------------------------------------------------

io.stdout:setvbuf("no")
local started, failure = pcall(function()
    server = netserver.server(service, handler, options)
    server:start()
end)
if not started then
    io.stderr:write("checker.lua: ", tostring(failure), "\n")
    os.exit(1)
end
print("listening on " .. server:address())
while not ending and server:run_once() do end
if ending == "throw" then error("the end of the program") end
if not ending then
    print("stopped")
    server:close()
end
