#!/usr/bin/env ruby
# frozen_string_literal: true

# An echo server of TCPServer: a thread for each connection.
#
#   ruby_threads.rb HOST:PORT
require "socket"

host, _, port = ARGV.last.rpartition(":")
server = TCPServer.new(host, port)
server.listen(4096)
$stdout.sync = true
puts "listening on #{server.local_address.inspect_sockaddr}"
loop do
  Thread.new(server.accept) do |client|
    client.setsockopt(:TCP, :NODELAY, true)
    loop { client.write(client.readpartial(65_536)) }
  rescue EOFError, SystemCallError
    nil
  ensure
    client.close
  end
end
