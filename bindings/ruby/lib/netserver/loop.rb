# frozen_string_literal: true

module Netserver
  # What the program brings into a server's loop, and what any thread may ask of it: the methods of
  # Server for descriptors, timers, tasks, and for connections by id.
  module Loop
    # Calls the block with the IO and its events (see `watch`), as long as it is ready.
    class Watch
      EVENTS = { read: 1, write: 2 }.freeze
      READY = [[], [:read], [:write], %i[read write]].map(&:freeze).freeze
      private_constant :EVENTS, :READY

      attr_reader :io

      def initialize(server, io, events, block) # :nodoc:
        @server = server
        @io = io
        @block = block
        @id = Error.made do |err|
          Library.ns_server_watch(server.pointer, 0, io.to_io.fileno, bits(events), Callbacks::WATCH,
                                  Table.add(self), Table::DROP, err)
        end
      end

      # Waits for other events.
      def change(*events)
        @server.check(Library.ns_server_watch_change(@server.pointer, @id, bits(events)))
        self
      end

      # Ends it; the IO stays open. Returns false where it had ended.
      def cancel
        Library.ns_server_unwatch(@server.pointer, @id).zero?
      end

      def ready(events) # :nodoc:
        @server.call_alone(@block, @io, READY.fetch(events))
      end

      private

      def bits(events)
        events.sum { |event| EVENTS.fetch(event) }
      end
    end

    # Calls the block after a time, once or again and again.
    class Timer
      def initialize(server, first, period, block) # :nodoc:
        @server = server
        @block = block
        @id = Error.made do |err|
          Library.ns_server_timer(server.pointer, 0, Settings.milliseconds(first), Settings.milliseconds(period),
                                  Callbacks::TIMER, Table.add(self), Table::DROP, err)
        end
      end

      # Ends it. Returns false where it had ended.
      def cancel
        Library.ns_server_timer_cancel(@server.pointer, @id).zero?
      end

      def fired # :nodoc:
        @server.call_alone(@block, self)
      end
    end

    # A block to be called once.
    Task = Struct.new(:server, :block) do # :nodoc:
      def due
        server.call_alone(block)
      end
    end
    private_constant :Task

    # Calls the block with the IO and an Array of :read and :write whenever the IO is ready for one
    # of the events. Returns the Watch.
    def watch(io, *events, &block)
      Watch.new(self, io, events, block)
    end

    # Calls the block with the Timer after so many seconds. Returns the Timer.
    def after(seconds, &block)
      Timer.new(self, seconds, nil, block)
    end

    # Calls the block with the Timer every so many seconds. Returns the Timer.
    def every(seconds, &block)
      Timer.new(self, seconds, seconds, block)
    end

    # Has the server call the block once, on its thread. For other threads and signal handlers too.
    def post(&block)
      check(Library.ns_server_post(@pointer, 0, Callbacks::TASK, Table.add(Task.new(self, block)), Table::DROP))
      nil
    end

    # Makes a connection of a connected stream socket of the program's, with `data`. The server takes
    # the socket: the IO is closed. Returns the Socket.
    def adopt(io, data = nil)
      copy = io.to_io.dup
      bring(data) { |number, err| Library.ns_server_adopt(@pointer, copy.fileno, number, Table::DROP, err) }.tap do
        copy.autoclose = false
        io.close
      end
    rescue Error
      copy.close
      raise
    end

    # Connects to "host:port", "unix:/path" or "unix:@name" and makes a connection of it, with `data`.
    # It waits where a name is to be resolved. What fails later goes to the exception handler, as a
    # ConnectError. Returns the Socket.
    def connect(service, timeout: nil, data: nil)
      service = Text.for_c(service)
      bring(data) do |number, err|
        Library.ns_server_connect(@pointer, service, Settings.milliseconds(timeout), number, Table::DROP, err)
      end
    end

    # The connection with an id. Nobody checks whether it is open: its calls do.
    def connection(id)
      Connection.new(self, id)
    end

    # The ids of all open connections.
    def ids
      found = []
      check(Library.ns_server_foreach(@pointer, Callbacks::EACH_ID, Table.add(found)))
      found
    ensure
      Table.remove(found.object_id)
    end

    # Sends the same bytes to connections (or ids), all by default, which share one copy. Returns how
    # many accepted them: those that are gone, or whose queue is full, are left out.
    def broadcast(bytes, to: ids)
      check(Library.ns_server_broadcast(@pointer, pack(to), to.size, bytes, bytes.bytesize))
    end

    # `broadcast` that returns how it went with each: a Hash of what `to` has and nil, or the Error.
    def broadcast_each(bytes, to: ids)
      FFI::MemoryPointer.new(:int32, [to.size, 1].max) do |statuses|
        check(Library.ns_server_broadcast_each(@pointer, pack(to), to.size, bytes, bytes.bytesize, statuses))
        errors = statuses.read_array_of_int32(to.size).map { |status| Error.of(status) if status.negative? }
        return to.zip(errors).to_h
      end
    end

    private

    def bring(data)
      socket = Socket.new(self, data)
      socket.attached(self, Error.made { |err| yield Table.add(socket), err })
      socket
    end

    def pack(connections)
      connections.map { |each| each.is_a?(Connection) ? each.id : each }.pack("Q*")
    end
  end
end
