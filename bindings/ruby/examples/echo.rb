#!/usr/bin/env ruby
# frozen_string_literal: true

# echo: sends back what it receives, until SIGINT or SIGTERM.
#
#   echo.rb [-n] [-t THREADS] [--cert FILE --key FILE] [--shutdown-port P] SERVICE
#
# -n and -t are what the other echo programs of the project take: this one always has one loop, on
# its own thread.
require "netserver"
require "optparse"

settings = {}
tls = {}
begin
  service, *rest = OptionParser.new do |options|
    options.banner = "usage: echo.rb [-n] [-t THREADS] [--cert FILE --key FILE] [--shutdown-port P] SERVICE"
    options.on("-n")
    options.on("-t THREADS", Integer)
    options.on("--cert FILE") { |file| tls[:cert] = file }
    options.on("--key FILE") { |file| tls[:key] = file }
    options.on("--shutdown-port P") { |port| settings[:shutdown_port] = port }
  end.parse(ARGV)
  raise OptionParser::ParseError, "one SERVICE is needed" if service.nil? || rest.any?
  raise OptionParser::ParseError, "--cert and --key go together" if tls.size == 1
rescue OptionParser::ParseError => e
  warn "echo.rb: #{e.message}"
  exit 2
end

begin
  settings[:tls] = tls unless tls.empty?
  server = Netserver::Server.new(service, **settings) do |socket|
    if (data = socket.recv)
      socket.write(data)
    else
      socket.close
    end
  end
  %w[INT TERM].each { |signal| trap(signal) { server.stop } }
  server.start
rescue Netserver::Error => e
  warn "echo.rb: #{e.message}"
  exit 1
end
$stdout.sync = true
puts "listening on #{server.address}"
server.run
puts server.report
server.close
