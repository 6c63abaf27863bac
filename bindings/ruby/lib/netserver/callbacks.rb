# frozen_string_literal: true

module Netserver
  # What the library calls: one function for each kind of callback. The number is that of an entry of
  # the Table: the server, or a watch, a timer, a task.
  module Callbacks # :nodoc:
    def self.function(result, *arguments, &body)
      FFI::Function.new(result, arguments, &body)
    end
    private_class_method :function

    # A callback of a connection: (server, socket, number).
    def self.of_socket(event)
      function(:int32, :ulong, :ulong, :ulong) do |_, socket, number|
        Table[number].on_socket(event, socket)
      end
    end
    private_class_method :of_socket

    INPUT = of_socket(:on_input)

    # The callbacks that a config takes, by the names of their events.
    EVENTS = {
      on_open: function(:int32, :ulong, :ulong, :ulong) { |_, socket, number| Table[number].opened(socket) },
      on_close: function(:void, :ulong, :ulong, :int32, :ulong) do |_, socket, reason, number|
        Table[number].closing(socket, reason)
      end,
      on_drain: of_socket(:on_drain),
      on_timeout: of_socket(:on_timeout),
      on_wake: of_socket(:on_wake),
      on_start: function(:int32, :ulong, :ulong) { |_, number| Table[number].starting },
      on_stop: function(:void, :ulong, :ulong) { |_, number| Table[number].stopping },
      exception_handler: function(:int32, :ulong, :ulong, :ulong, :ulong) do |_, socket, error, number|
        Table[number].failed(socket, error)
      end,
      shutdown_handler: function(:int32, :ulong, :ulong, :ulong) do |_, socket, number|
        Table[number].shutting_down(socket)
      end
    }.freeze

    WATCH = function(:int32, :ulong, :uint64, :int32, :uint32, :ulong) do |_, _, _, events, number|
      Table[number].ready(events)
    end
    TIMER = function(:int32, :ulong, :uint64, :ulong) { |_, _, number| Table[number].fired }
    TASK = function(:int32, :ulong, :ulong) { |_, number| Table[number].due }
    EACH_ID = function(:int32, :uint64, :ulong) { |id, number| Table[number].push(id) && 0 }

    EVENTS.each_key do |name|
      Library.attach_function(:"ns_config_set_#{name}", %i[object pointer number pointer], :status)
    end
  end
end
