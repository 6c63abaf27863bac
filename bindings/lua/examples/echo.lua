#!/usr/bin/env lua5.4
-- echo: sends back what it receives, until SIGINT or SIGTERM.
--
--   echo.lua [-n] [-t THREADS] [--cert FILE --key FILE] [--shutdown-port P] SERVICE
--
-- -n and -t are what the other echo programs of the project take: this one always has one loop, on
-- its own thread.
local netserver = require "netserver"

local function usage(message)
    io.stderr:write("echo.lua: ", message, "\n")
    os.exit(2)
end

local options, tls, service = {}, {}, nil
local known = {
    ["-t"] = function(text) if not math.tointeger(tonumber(text)) then usage("no number: " .. text) end end,
    ["--cert"] = function(text) tls.cert = text end,
    ["--key"] = function(text) tls.key = text end,
    ["--shutdown-port"] = function(text) options.shutdown_port = text end,
}
local i = 1
while i <= #arg do
    if known[arg[i]] then
        known[arg[i]](arg[i + 1] or usage("a value is missing"))
        i = i + 1
    elseif arg[i] ~= "-n" then
        if service or arg[i]:sub(1, 1) == "-" then usage("not understood: " .. arg[i]) end
        service = arg[i]
    end
    i = i + 1
end
if not service then usage("one SERVICE is needed") end
if not tls.cert ~= not tls.key then usage("--cert and --key go together") end
options.tls = tls.cert and tls

local function echo(socket)
    local data = socket:recv()
    if data then socket:send(data) elseif data == nil then socket:close() end
end

io.stdout:setvbuf("no")
local made, server = pcall(function()
    local server <const> = netserver.server(service, echo, options)
    server:start()
    return server
end)
if not made then
    io.stderr:write("echo.lua: ", tostring(server), "\n")
    os.exit(1)
end
server:stop_on_signals()
print("listening on " .. server:address())
server:run()
io.write(server:report())
server:close()
