# frozen_string_literal: true

module Netserver
  # A connection by its id: what any thread may do with it, at any time.
  #
  # Server#connection makes one of an id. A connection that is gone answers with ClosedError.
  class Connection
    # :read, :write or :both, as numbers of the library.
    HOW = { read: 0, write: 1, both: 2 }.freeze
    private_constant :HOW

    # The server that it belongs to.
    attr_reader :server
    # Its id, an Integer that no other connection ever has.
    attr_reader :id

    def initialize(server, id) # :nodoc:
      @server = server
      @id = id
    end

    # Sends strings as one, all of it or nothing: what the kernel does not take is queued.
    # Returns the number of bytes. Raises BufferFullError where the queue would pass `send_limit`.
    def write(*strings)
      bytes = Text.join(strings)
      transmit(bytes)
      bytes.bytesize
    end

    # Sends a string as `write` does. Returns the connection.
    def <<(string)
      transmit(string.to_s)
      self
    end

    # Closes it: what is queued leaves first.
    def close
      check(Library.ns_server_close(@server.pointer, @id))
    end

    # Resets it: what is queued is lost.
    def abort
      check(Library.ns_server_abort(@server.pointer, @id))
    end

    # Ends one direction, :read or :write, or :both. What is queued leaves first.
    def shutdown(how = :write)
      check(Library.ns_server_shutdown(@server.pointer, @id, HOW.fetch(how)))
    end

    # How many bytes were sent and are not yet with the kernel.
    def queued
      @server.check(Library.ns_server_queued(@server.pointer, @id))
    end

    # Has the server call `on_wake` for it, once for all calls before it runs.
    def wake
      check(Library.ns_server_wake(@server.pointer, @id))
    end

    private

    def transmit(bytes)
      check(Library.ns_server_send(@server.pointer, @id, bytes, bytes.bytesize))
    end

    def check(status)
      @server.check(status)
      nil
    end
  end
end
