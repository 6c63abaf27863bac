# frozen_string_literal: true

require_relative "netserver/library"
require_relative "netserver/error"
require_relative "netserver/runner"
require_relative "netserver/table"
require_relative "netserver/text"
require_relative "netserver/tls"
require_relative "netserver/settings"
require_relative "netserver/connection"
require_relative "netserver/callbacks"
require_relative "netserver/dispatch"
require_relative "netserver/loop"
require_relative "netserver/stats"
require_relative "netserver/server"
require_relative "netserver/socket"
require_relative "netserver/detached_socket"

# TCP and TLS servers by the netserver library.
#
#   Netserver.serve("5000") do |socket|
#     (data = socket.recv) ? socket.write(data) : socket.close
#   end
module Netserver
  # Serves until the server has stopped, by `socket.server.stop` or the shutdown port. An exception
  # that is not for a connection (an Interrupt, an exit) ends it immediately. The settings are those of
  # Server.new.
  def self.serve(service, **settings, &handler)
    server = Server.new(service, **settings, &handler)
    begin
      server.run
      ended = true
    ensure
      server.close(within: ended ? nil : 0)
    end
    nil
  end

  # The version of the library in use.
  def self.library_version
    Library.ns_version_string
  end

  # The name of a reason for which a connection ends.
  def self.reason(number) # :nodoc:
    Library.ns_close_reason_name(number).tr(" -", "__").to_sym
  end
end
