# frozen_string_literal: true

module Netserver
  # What the library calls: one function for each kind of callback. The number is that of an entry of
  # the Table: the server, or a watch, a timer, a task.
  module Callbacks # :nodoc:
    # A callback of a connection: (server, socket, number).
    def self.of_socket(event)
      Runner.function(:int32, :ulong, :ulong, :ulong) do |_, socket, number|
        Table[number].on_socket(event, socket)
      end
    end
    private_class_method :of_socket

    INPUT = of_socket(:on_input)

    # The callbacks that a config takes, by the names of their events.
    EVENTS = {
      on_open: Runner.function(:int32, :ulong, :ulong, :ulong) { |_, socket, number| Table[number].opened(socket) },
      on_close: Runner.function(:void, :ulong, :ulong, :int32, :ulong) do |_, socket, reason, number|
        Table[number].closing(socket, reason)
      end,
      on_drain: of_socket(:on_drain),
      on_timeout: of_socket(:on_timeout),
      on_wake: of_socket(:on_wake),
      on_start: Runner.function(:int32, :ulong, :ulong) { |_, number| Table[number].starting },
      on_stop: Runner.function(:void, :ulong, :ulong) { |_, number| Table[number].stopping },
      exception_handler: Runner.function(:int32, :ulong, :ulong, :ulong, :ulong) do |_, socket, error, number|
        Table[number].failed(socket, error)
      end,
      shutdown_handler: Runner.function(:int32, :ulong, :ulong, :ulong) do |_, socket, number|
        Table[number].shutting_down(socket)
      end
    }.freeze

    WATCH = Runner.function(:int32, :ulong, :uint64, :int32, :uint32, :ulong) do |_, _, _, events, number|
      Table[number].ready(events)
    end
    TIMER = Runner.function(:int32, :ulong, :uint64, :ulong) { |_, _, number| Table[number].fired }
    TASK = Runner.function(:int32, :ulong, :ulong) { |_, number| Table[number].due }
    EACH_ID = Runner.function(:int32, :uint64, :ulong) { |id, number| Table[number].push(id) && 0 }

    EVENTS.each_key do |name|
      Library.attach_function(:"ns_config_set_#{name}", %i[object pointer number pointer], :status)
    end
  end
end
